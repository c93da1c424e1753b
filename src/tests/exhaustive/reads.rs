//! Reads without a lock, while writers run between any two of their instructions.
//!
//! At one chosen moment of one read of one key, or at two, a writer's whole operation runs, by a handle and a mapping of
//! its own; then the read goes on to its answer. The moments are those before each instruction that touches the shared
//! memory (`watcher`): what a writer does before or after any other instruction is the same. The right answers:
//!
//! - a value that the key had at some moment of the read, whole;
//! - "absent", if the key was absent at some moment of it;
//! - of a near value, "current", if it was the key's at some moment of it.
//!
//! Where the reader has taken the lock a writer would wait: such a moment cannot be chosen, and is counted apart. All
//! of it is every single moment, and pairs that a fixed seed chooses, for there are millions; a sample is fewer of both.

use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pg_shared_lru::{
    CompactBudget, Config, Expiry, Found, NearCache, PlacementHint, Policy, SharedCache, TypedCache, Version, type_tag,
};

use super::runner::{Case, Extent, Findings, Part, Tally};
use super::watcher::{Follow, watch};
use super::world::{StagedLocks, World};
use crate::support::content::Random;
use crate::support::fork::shared_words;

type Typed = TypedCache<u32, Vec<u8>, StagedLocks>;
type Writer = SharedCache<StagedLocks>;

/// The key that is read.
const KEY: u32 = 1;
/// The first of the keys that are there beside it, and how many there are: three slabs, and a few in that of [`KEY`].
const OTHERS: u32 = 100;
const OTHER_COUNT: u32 = 440;
/// Buckets with room for all keys, and so few that most are chained.
const BUCKETS: [u64; 2] = [128, 8];

fn key(number: u32) -> [u8; 4] {
    number.to_le_bytes()
}

/// A value of [`KEY`]: its number, its length and each of its bytes follow from each other.
fn value(number: u8) -> Vec<u8> {
    let len = match number / 10 {
        0 | 1 => 100,
        2 => 400,
        _ => 6000,
    };
    vec![number; len]
}

/// What a read may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Absent,
    /// There is a value; which, the read does not say.
    Present,
    /// This value.
    Value(u8),
    /// A near value is not current.
    Outdated,
    /// Bytes that are no value.
    Torn,
}

impl Answer {
    fn of(found: bool, bytes: &[u8]) -> Answer {
        match bytes.first() {
            _ if !found => Answer::Absent,
            Some(&number) if bytes == value(number) => Answer::Value(number),
            _ => Answer::Torn,
        }
    }
}

/// What a reader has in hand from one round to the next.
struct Reader {
    cache: &'static Typed,
    near: NearCache<&'static Typed, u32, Vec<u8>>,
    kept: Option<(Version, PlacementHint, u8)>,
    out: Vec<u8>,
    found: Found,
}

impl Reader {
    fn new(cache: &'static Typed) -> Reader {
        let near = NearCache::new(cache, NonZero::new(4).expect("not zero"));
        Reader { cache, near, kept: None, out: Vec::with_capacity(10_000), found: Found::default() }
    }
}

/// One way to read the key.
struct Reading {
    name: &'static str,
    /// Before the writers.
    prepare: fn(&mut Reader),
    read: fn(&mut Reader) -> Answer,
}

fn near_get(reader: &mut Reader) -> Answer {
    let found = reader.near.get(&KEY).expect("bytes always decode");
    Answer::of(found.is_some(), found.map_or(&[], |bytes| bytes))
}

fn near_anew(reader: &mut Reader) {
    reader.near.clear_near();
    near_get(reader);
}

/// What is looked up together with the key: one that is there, one that is not.
const MANY: [u32; 3] = [OTHERS, 9_999, KEY];

const READINGS: &[Reading] = &[
    Reading {
        name: "get",
        prepare: |_| (),
        read: |reader| Answer::of(reader.cache.encoded().get(&key(KEY), &mut reader.out), &reader.out),
    },
    Reading {
        name: "peek",
        prepare: |_| (),
        read: |reader| Answer::of(reader.cache.encoded().peek(&key(KEY), &mut reader.out), &reader.out),
    },
    Reading {
        name: "contains",
        prepare: |_| (),
        read: |reader| if reader.cache.encoded().contains(&key(KEY)) { Answer::Present } else { Answer::Absent },
    },
    Reading {
        name: "get of many",
        prepare: |reader| {
            let keys = MANY.map(key);
            reader.cache.encoded().get_many(keys.iter().map(|key| &key[..]), &mut reader.found);
        },
        read: |reader| {
            let keys = MANY.map(key);
            reader.cache.encoded().get_many(keys.iter().map(|key| &key[..]), &mut reader.found);
            let found = reader.found.get(2);
            Answer::of(found.is_some(), found.unwrap_or_default())
        },
    },
    Reading { name: "near get", prepare: near_anew, read: near_get },
    Reading {
        name: "near get that is a use",
        prepare: |reader| {
            near_anew(reader);
            (0..63).for_each(|_| _ = near_get(reader));
        },
        read: near_get,
    },
    Reading {
        name: "question whether a value is current",
        prepare: |reader| {
            let version = reader.cache.encoded().get_versioned(&key(KEY), &mut reader.out).expect("it is there");
            reader.kept = Some((version, PlacementHint::default(), reader.out[0]));
        },
        read: |reader| {
            let (version, hint, number) = reader.kept.as_mut().expect("prepared");
            if reader.cache.encoded().is_current(version, hint) { Answer::Value(*number) } else { Answer::Outdated }
        },
    },
];

/// One operation of a writer. The second time in a round, it stores other bytes.
#[derive(Clone, Copy)]
struct Write {
    name: &'static str,
    run: fn(&Writer, u8),
    /// Whether the key is absent at some moment of it.
    makes_absent: bool,
}

fn put(cache: &Writer, number: u8) {
    cache.put(&key(KEY), &value(number)).expect("there is room");
}

fn put_other(cache: &Writer, number: u32, len: usize) {
    cache.put(&key(number), &vec![0xee; len]).expect("there is room");
}

/// The reader of the pinned bytes is done at once, so what was the key's record and slot is free.
fn replace_beside_a_pin(cache: &Writer, number: u8) {
    cache.with(&key(KEY), |_| put(cache, number));
}

const IN_PLACE: Write =
    Write { name: "replace in place", run: |cache, round| put(cache, 10 + round), makes_absent: false };
const BY_ANOTHER_CLASS: Write =
    Write { name: "replace by another class", run: |cache, round| put(cache, 20 + round), makes_absent: false };
const BY_A_CHAINED: Write =
    Write { name: "replace by a chained one", run: |cache, round| put(cache, 30 + round), makes_absent: false };
const BESIDE_A_PIN: Write = Write {
    name: "replace beside a pin",
    run: |cache, round| replace_beside_a_pin(cache, 10 + round),
    makes_absent: false,
};
const BESIDE_A_PIN_AND_ANOTHER: Write = Write {
    name: "replace beside a pin, and another key takes the record",
    run: |cache, round| {
        replace_beside_a_pin(cache, 10 + round);
        put_other(cache, 2000 + u32::from(round), 100);
    },
    makes_absent: false,
};
const REMOVE: Write = Write { name: "remove", run: |cache, _| _ = cache.remove(&key(KEY)), makes_absent: true };
const REMOVE_AND_PUT: Write = Write {
    name: "remove and put again",
    run: |cache, round| {
        cache.remove(&key(KEY));
        put(cache, 10 + round);
    },
    makes_absent: true,
};
const REMOVE_AND_ANOTHER: Write = Write {
    name: "remove, and another key takes the record",
    run: |cache, round| {
        cache.remove(&key(KEY));
        put_other(cache, 2000 + u32::from(round), 100);
    },
    makes_absent: true,
};
const PUT_OTHERS: Write = Write {
    name: "put others: the table grows",
    run: |cache, round| (0..40).for_each(|number| put_other(cache, 3000 + 100 * u32::from(round) + number, 8)),
    makes_absent: false,
};
const REMOVE_OTHERS: Write = Write {
    name: "remove others: the table shrinks",
    run: |cache, round| {
        let first = OTHERS + 15 * u32::from(round);
        (first..first + 15).for_each(|number| _ = cache.remove(&key(number)));
    },
    makes_absent: false,
};
const COMPACT: Write = Write {
    name: "compact",
    run: |cache, round| {
        // The first time the last slab can be emptied, which has the key; the second time one of two that are half empty.
        let (count, apart) = if round == 1 { (20, 1) } else { (150, 2) };
        (0..count).for_each(|number| _ = cache.remove(&key(OTHERS + 20 + apart * number)));
        cache.compact(CompactBudget::unlimited());
        (0..5).for_each(|number| put_other(cache, 7000 + 10 * u32::from(round) + number, 100));
    },
    makes_absent: false,
};
const EVICT: Write = Write {
    name: "evict",
    run: |cache, round| (0..300).for_each(|number| put_other(cache, 5000 + 1000 * u32::from(round) + number, 900)),
    makes_absent: true,
};
fn put_with(cache: &Writer, number: u8, expiry: Expiry) {
    cache.put_with(&key(KEY), &value(number), expiry).expect("there is room");
}

const BY_ONE_THAT_EXPIRES: Write = Write {
    name: "replace by one that expires",
    run: |cache, round| put_with(cache, 10 + round, Expiry::After(Duration::from_secs(1_000_000))),
    makes_absent: false,
};
const BY_ONE_THAT_HAS_EXPIRED: Write = Write {
    name: "replace by one that has expired",
    run: |cache, round| put_with(cache, 10 + round, Expiry::After(Duration::ZERO)),
    makes_absent: true,
};
const EXPIRE_AND_SWEEP: Write = Write {
    name: "replace by one that has expired, sweep, and another key takes the record",
    run: |cache, round| {
        put_with(cache, 10 + round, Expiry::After(Duration::ZERO));
        cache.sweep(u64::MAX);
        put_other(cache, 2000 + u32::from(round), 100);
    },
    makes_absent: true,
};
const CLEAR: Write = Write { name: "clear", run: |cache, _| _ = cache.clear(), makes_absent: true };

/// What runs at the chosen instructions: the first alone, and both.
const SEQUENCES: &[[Write; 2]] = &[
    [IN_PLACE, IN_PLACE],
    [BY_ANOTHER_CLASS, IN_PLACE],
    [BY_A_CHAINED, BY_ANOTHER_CLASS],
    [BESIDE_A_PIN, BESIDE_A_PIN],
    [BESIDE_A_PIN_AND_ANOTHER, BESIDE_A_PIN_AND_ANOTHER],
    [REMOVE, PUT_OTHERS],
    [REMOVE_AND_PUT, REMOVE_AND_PUT],
    [REMOVE_AND_ANOTHER, IN_PLACE],
    [PUT_OTHERS, PUT_OTHERS],
    [REMOVE_OTHERS, REMOVE_OTHERS],
    [PUT_OTHERS, REMOVE_OTHERS],
    [PUT_OTHERS, BESIDE_A_PIN_AND_ANOTHER],
    [REMOVE_OTHERS, BESIDE_A_PIN_AND_ANOTHER],
    [COMPACT, COMPACT],
    [COMPACT, BESIDE_A_PIN_AND_ANOTHER],
    [COMPACT, REMOVE_AND_ANOTHER],
    [EVICT, IN_PLACE],
    [CLEAR, PUT_OTHERS],
    [BY_ONE_THAT_EXPIRES, IN_PLACE],
    [BY_ONE_THAT_EXPIRES, BY_ONE_THAT_HAS_EXPIRED],
    [BY_ONE_THAT_HAS_EXPIRED, BY_ONE_THAT_EXPIRES],
    [EXPIRE_AND_SWEEP, BY_ONE_THAT_EXPIRES],
];

/// Every way to read, beside every sequence of writes, under every policy.
pub fn part(extent: Extent) -> Part {
    let limits = extent.choose(Limits { singles: 12, pairs: 60 }, Limits { singles: usize::MAX, pairs: 2_000 });
    let roomy = Policy::ALL.map(|policy| (policy, BUCKETS[0]));
    let crowded = [(Policy::Clock, BUCKETS[1])];
    let mut cases = Vec::new();
    for (policy, buckets) in roomy.into_iter().chain(crowded) {
        let config = Config::bytes(230_016).policy(policy).partitions(1).slab_bytes(16 << 10).buckets(buckets);
        for reading in READINGS {
            let config = config.clone();
            cases.push(Case {
                name: format!("{policy}, {buckets} buckets: {}", reading.name),
                run: Box::new(move |tally| {
                    let mut findings = Findings::default();
                    SEQUENCES.iter().for_each(|writes| check(&config, reading, writes, limits, tally, &mut findings));
                    findings.report();
                }),
            });
        }
    }
    Part {
        name: "reads without a lock",
        counters: &["interleavings with one writer", "with two", "moments at which a writer would wait"],
        cases,
    }
}

/// A read with the writes that ran in it.
struct Round {
    /// What the key was, at some moment of the read.
    values: Vec<Answer>,
    answer: Answer,
}

impl Round {
    fn is_right(&self) -> bool {
        match self.answer {
            Answer::Outdated => true,
            Answer::Torn => false,
            Answer::Present => self.values.iter().any(|value| *value != Answer::Absent),
            answer => self.values.contains(&answer),
        }
    }
}

/// What became of the wish to run writes at chosen moments.
enum Outcome {
    Ran(Round),
    /// A writer would have waited for the reader's lock.
    Waits,
    /// The read was over before the last moment.
    Over,
}

/// Everything of one reading beside one sequence of writes.
struct Stage {
    world: World,
    start: Vec<u8>,
    writer: Writer,
    /// Another mapping, which the reader uses.
    readers_world: World,
    reader: Reader,
    reading: &'static Reading,
    /// Whether the reader has the lock.
    is_locked: &'static AtomicU64,
}

impl Stage {
    fn new(config: &Config, reading: &'static Reading) -> Stage {
        let world = World::new(config, 0);
        let words = shared_words(2);
        let tag = type_tag::<u32, Vec<u8>>();
        let writer = world.create(config, tag, || StagedLocks(&words[0]));
        (0..OTHER_COUNT).for_each(|number| put_other(&writer, OTHERS + number, 100));
        put(&writer, 0);
        let mut out = Vec::new();
        // So often that there is no use left to note.
        (0..4).for_each(|_| assert!(writer.get(&key(KEY), &mut out)));
        writer.validate().expect("before anything happens");
        let readers_world = world.map_again();
        let typed = Typed::over(readers_world.attach(tag, StagedLocks(&words[1])).expect("it was just created"));
        let reader = Reader::new(Box::leak(Box::new(typed.expect("it has these types"))));
        let start = world.image();
        Stage { world, start, writer, readers_world, reader, reading, is_locked: &words[1] }
    }

    /// How many moments the read has when nobody disturbs it.
    fn measure(&mut self) -> usize {
        (self.reading.prepare)(&mut self.reader);
        let (start, bytes) = self.readers_world.pages();
        let (_, moments) = watch(start, bytes, &mut |_| Follow::On, || (self.reading.read)(&mut self.reader));
        self.world.restore(&self.start);
        moments
    }

    /// Reads, and runs each write after so many moments, counted from the write before. Then all is as it was.
    fn round(&mut self, writes: &[(usize, Write)]) -> Outcome {
        let Stage { world, start, writer, readers_world, reader, reading, is_locked } = self;
        let value_now = || {
            let mut out = Vec::new();
            Answer::of(writer.peek(&key(KEY), &mut out), &out)
        };
        (reading.prepare)(reader);
        let mut values = vec![value_now()];
        let (mut ran, mut waits, mut at_next) = (0, false, writes[0].0);
        let mut hook = |moment| {
            if moment < at_next {
                return Follow::On;
            }
            waits = is_locked.load(Ordering::SeqCst) != 0;
            if waits {
                return Follow::Free;
            }
            let write = writes[ran].1;
            ran += 1;
            (write.run)(writer, ran as u8);
            if moment == 0 {
                // Before the read.
                values.clear();
            } else if write.makes_absent {
                values.push(Answer::Absent);
            }
            values.push(value_now());
            match writes.get(ran) {
                Some((moments, _)) => {
                    at_next = moment + moments;
                    Follow::On
                }
                None => Follow::Free,
            }
        };
        let (first, bytes) = readers_world.pages();
        let (answer, _) = watch(first, bytes, &mut hook, || (reading.read)(reader));
        world.restore(start);
        match ran == writes.len() {
            true => Outcome::Ran(Round { values, answer }),
            false if waits => Outcome::Waits,
            false => Outcome::Over,
        }
    }
}

/// How many single moments and how many pairs of them are run, at most.
#[derive(Clone, Copy)]
struct Limits {
    singles: usize,
    pairs: usize,
}

/// Runs one sequence of writes at the chosen moments of a read.
fn check(
    config: &Config,
    reading: &'static Reading,
    writes: &'static [Write; 2],
    limits: Limits,
    tally: &Tally,
    findings: &mut Findings,
) {
    let mut stage = Stage::new(config, reading);
    let moments = stage.measure();
    for first in chosen(moments, limits.singles) {
        run(&mut stage, &[(first, writes[0])], tally, findings);
    }
    for pair in chosen(moments * moments, limits.pairs) {
        let (first, after) = (pair / moments, 1 + pair % moments);
        run(&mut stage, &[(first, writes[0]), (after, writes[1])], tally, findings);
    }
    stage.writer.validate().expect("all is as it was");
}

/// Runs writes at chosen moments and looks at the answer, unless the read was over before the last.
fn run(stage: &mut Stage, writes: &[(usize, Write)], tally: &Tally, findings: &mut Findings) {
    match stage.round(writes) {
        Outcome::Over => {}
        Outcome::Waits => tally.add(2, 1),
        Outcome::Ran(round) => {
            tally.add(writes.len() - 1, 1);
            if !round.is_right() {
                let (names, places): (Vec<_>, Vec<_>) =
                    writes.iter().map(|(moments, write)| (write.name, *moments)).unzip();
                let names = names.join("; then ");
                findings.note(format!("{names}: {:?}, right is one of {:?}", round.answer, round.values), || {
                    format!("after {places:?} accesses")
                });
            }
        }
    }
}

/// At most `limit` numbers below `count`, shuffled, by a fixed seed; the first of them is 0.
fn chosen(count: usize, limit: usize) -> Vec<usize> {
    let mut numbers: Vec<usize> = (0..count).collect();
    let mut random = Random(7);
    let limit = limit.min(count);
    for place in 1..limit {
        let other = place + random.below(count - place);
        numbers.swap(place, other);
    }
    numbers.truncate(limit);
    numbers
}
