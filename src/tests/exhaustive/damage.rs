//! Damaged regions: made-up links, flipped bits, words and lines from elsewhere.
//!
//! A region is filled by random operations and then damaged in a few places. A process attaches to it and runs every
//! operation, in a random order. What must hold:
//!
//! - nothing hangs, crashes, or takes memory without limit: the process has little, and is stopped after some seconds of
//!   work;
//! - `attach` says no or succeeds; `validate` reports; neither panics;
//! - an operation may panic, if the next user finds the partition in order: everything agrees, and the same operation
//!   works, or panics for another partition.
//!
//! A region is named by a number, from which all follows: `--region NUMBER` runs that one alone.
//!
//! Not here: which damage is found. A value's bytes have no checksum.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pg_shared_lru::shared::write_back::{Concurrency, Condition, LoadStep};
use pg_shared_lru::{CompactBudget, Config, Cursor, EntryId, Evicted, Expiry, Found, Policy, PushError, SnapshotOf};

use super::layout;
use super::runner::{Case, Extent, Findings, Part, Tally};
use super::world::{Cache, World};
use crate::support::content::Random;
use crate::support::fork::{Child, Exit, shared_words};

/// Keys that regions are filled with.
const KEYS: usize = 500;
/// Regions of all cases together.
const SAMPLE_REGIONS: u64 = 1_200;
const ALL_REGIONS: u64 = 120_000;
/// What a process may take beside what it has when it begins.
const MEMORY_BYTES: u64 = 64 << 20;
/// Seconds of work after which a region is taken for a loop without end; the rule is a millisecond.
const WORK_SECONDS: i64 = 5;
/// Failures after which a case gives up.
const MOST_FAILURES: usize = 60;

/// Every policy with every shape of region.
pub fn part(extent: Extent, only: Option<u64>) -> Part {
    let mut shapes: Vec<(String, Config)> = Vec::new();
    for policy in Policy::ALL {
        let bytes = |bytes| Config::bytes(bytes).policy(policy).slab_bytes(16 << 10);
        shapes.push((format!("{policy}: one partition"), bytes(230_016).partitions(1)));
        shapes.push((format!("{policy}: two partitions"), bytes(460_032).partitions(2)));
        shapes.push((format!("{policy}: two buckets to start with"), bytes(230_016).partitions(1).buckets(2)));
        shapes.push((format!("{policy}: so many entries"), Config::entries(120, 2500).policy(policy)));
    }
    let regions = extent.choose(SAMPLE_REGIONS, ALL_REGIONS) / shapes.len() as u64;
    let range = only.map_or(0..regions, |number| number..number + 1);
    let case = |(name, config): (String, Config)| {
        let range = range.clone();
        Case { name, run: Box::new(move |tally| check(&config, range.clone(), tally)) }
    };
    Part {
        name: "damaged regions",
        counters: &[
            "regions",
            "of them refused by attach",
            "reported by validate",
            "operations",
            "panics recovered from",
        ],
        cases: shapes.into_iter().map(case).collect(),
    }
}

fn key(number: usize) -> Vec<u8> {
    let mut key = (number as u32).to_be_bytes().to_vec();
    key.resize(4 + number % 13, number as u8);
    key
}

fn some_key(random: &mut Random) -> Vec<u8> {
    key(random.below(KEYS))
}

fn some_value(random: &mut Random) -> Vec<u8> {
    vec![random.next() as u8; random.value_len().min(2400)]
}

fn some_expiry(random: &mut Random) -> Expiry {
    match random.below(3) {
        0 => Expiry::After(Duration::ZERO),
        1 => Expiry::After(Duration::from_secs(1_000_000)),
        _ => Expiry::Default,
    }
}

/// One operation on a region that may be damaged.
type Deed = fn(&Cache, &mut Random);

const VALIDATE: &str = "validate";

/// Operations under the names that failures are reported with.
const DEEDS: &[(&str, Deed)] = &[
    ("get", |cache, random| (0..30).for_each(|_| _ = cache.get(&some_key(random), &mut Vec::new()))),
    ("peek", |cache, random| (0..30).for_each(|_| _ = cache.peek(&some_key(random), &mut Vec::new()))),
    ("contains", |cache, random| (0..30).for_each(|_| _ = cache.contains(&some_key(random)))),
    ("get_many", |cache, random| {
        let keys: Vec<Vec<u8>> = (0..30).map(|_| some_key(random)).collect();
        cache.get_many(keys.iter().map(|key| &key[..]), &mut Found::default());
    }),
    ("with", |cache, random| (0..10).for_each(|_| _ = cache.with(&some_key(random), <[u8]>::len))),
    ("put", |cache, random| (0..20).for_each(|_| _ = cache.put(&some_key(random), &some_value(random)))),
    ("put that expires", |cache, random| {
        (0..20).for_each(|_| _ = cache.put_with(&some_key(random), &some_value(random), some_expiry(random)));
    }),
    ("sweep", |cache, random| {
        cache.sweep(random.below(40) as u64);
        cache.sweep(u64::MAX);
    }),
    ("default time to live", |cache, _| {
        cache.default_ttl();
        cache.set_default_ttl(Some(Duration::from_secs(1))).expect("it is in range");
    }),
    ("put, large", |cache, random| _ = cache.put(&some_key(random), &[3; 2400])),
    ("put, many", |cache, random| (0..300).for_each(|number| _ = cache.put(&key(1000 + number), &some_value(random)))),
    ("push", |cache, random| _ = cache.push(&some_key(random), &some_value(random), &mut Evicted::default())),
    ("put_if_room", |cache, random| _ = cache.put_if_room(&some_key(random), &some_value(random))),
    ("remove", |cache, random| (0..20).for_each(|_| _ = cache.remove(&some_key(random)))),
    ("remove beside a pin", |cache, random| {
        let key = some_key(random);
        cache.with(&key, |_| cache.remove(&key));
    }),
    ("pop_lru", |cache, _| (0..5).for_each(|_| _ = cache.pop_lru())),
    ("clear", |cache, _| _ = cache.clear()),
    ("drain", |cache, _| _ = cache.drain(|_, _| ())),
    ("scan", |cache, random| {
        // A walk that comes back to where it was would never end.
        let steps = cache.iter_with_values().take(100_000).count();
        assert!(steps < 100_000, "a walk without end");
        let cursor = Cursor::from_u64(random.next() >> random.below(64));
        cache.scan(cursor, 3, SnapshotOf::KeysAndValues, &mut Vec::new());
    }),
    ("entry", |cache, random| {
        for _ in 0..20 {
            let id = EntryId::new(random.below(40_000) as u32, 1 + 2 * random.below(3) as u32);
            if let Some(id) = id {
                cache.entry(id);
                cache.value_of(id, &mut Vec::new());
            }
        }
    }),
    ("memory_report", |cache, _| _ = cache.memory_report_with_chains()),
    ("counters", |cache, _| _ = (cache.stats(), cache.len(), cache.bytes(), cache.resets())),
    ("pinned", |cache, _| _ = (cache.pinned(), cache.in_flight())),
    ("compact", |cache, _| _ = cache.compact(CompactBudget::unlimited())),
    ("store_if", |cache, random| {
        let key = some_key(random);
        let resets = cache.resets();
        let version = cache.get_versioned(&key, &mut Vec::new());
        let mut condition = version.map_or(Condition::None, Condition::Version);
        let _ = cache.store_if(&key, &some_value(random), &mut condition, &resets, &mut 0);
    }),
    ("lease_load", |cache, random| {
        for number in 0..4 {
            let key = key(2000 + number);
            if let LoadStep::Yours(mut load) = cache.lease_load(&key, Concurrency::Single) {
                let mut condition = Condition::Loaded(&mut load);
                let _ = cache.store_if(&key, &some_value(random), &mut condition, &cache.resets(), &mut 0);
            }
        }
        cache.release_leases_of_all_dead();
    }),
    (VALIDATE, |cache, _| _ = cache.validate()),
];

/// Fills the cache by random operations, and copies it while an entry is pinned, one is removed beside a pin, one is
/// dirty and one is being loaded.
fn filled(world: &World, cache: &Cache, seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    for _ in 0..600 + random.below(600) {
        match random.below(10) {
            0 => _ = cache.remove(&some_key(&mut random)),
            1 => _ = cache.get(&some_key(&mut random), &mut Vec::new()),
            3..5 => {
                _ = cache.put_with(&some_key(&mut random), &some_value(&mut random), some_expiry(&mut random));
            }
            2 => _ = cache.store_if(&some_key(&mut random), &[5; 40], &mut Condition::None, &cache.resets(), &mut 0),
            _ => _ = cache.put(&some_key(&mut random), &some_value(&mut random)),
        }
    }
    let pinned = [key(KEYS), key(KEYS + 1)];
    pinned.iter().for_each(|key| _ = cache.put(key, &[9; 200]));
    let _load = cache.lease_load(&key(KEYS + 2), Concurrency::AllowDuplicate);
    let copy = cache.with(&pinned[0], |_| {
        cache.with(&pinned[1], |_| {
            cache.remove(&pinned[1]);
            world.image()
        })
    });
    copy.flatten().unwrap_or_else(|| world.image())
}

/// What was done to a region, in words.
type Damage = Vec<String>;

/// Damages a copy of a region in a few places.
fn damage(image: &mut [u8], cache: &Cache, random: &mut Random) -> Damage {
    let count = match random.below(10) {
        0..=5 => 1,
        6..=8 => 2 + random.below(3),
        _ => 10 + random.below(30),
    };
    (0..count).map(|_| damage_once(image, cache, random)).collect()
}

fn word32(image: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(image[at..at + 4].try_into().expect("four bytes"))
}

fn set_word32(image: &mut [u8], at: usize, word: u32) -> String {
    let before = word32(image, at);
    image[at..at + 4].copy_from_slice(&word.to_ne_bytes());
    format!("word at {at}: {before:#x} to {word:#x}")
}

/// A place of a word of four bytes: half of them not zero, for what is in use is what leads somewhere, and a quarter
/// near the region's start, where the lists begin.
fn some_place(image: &[u8], random: &mut Random) -> usize {
    let words = image.len() / 4;
    let any = random.below(words) * 4;
    match random.below(4) {
        0 => random.below(words / 8) * 4,
        1 => any,
        _ => (any..image.len() / 4 * 4).step_by(4).find(|&at| word32(image, at) != 0).unwrap_or(any),
    }
}

fn damage_once(image: &mut [u8], cache: &Cache, random: &mut Random) -> String {
    let at = some_place(image, random);
    match random.below(12) {
        0 | 1 => {
            let word = word32(image, at) ^ 1 << random.below(32);
            set_word32(image, at, word)
        }
        2 => {
            let limit = [16, 64, 1024, 1 << 16][random.below(4)];
            let menu = [0, 1, u32::MAX, u32::MAX - 1, random.below(limit) as u32, random.next() as u32];
            set_word32(image, at, menu[random.below(menu.len())])
        }
        3 => {
            let change = [1, u32::MAX, 2, 8, 32, 0x100][random.below(6)];
            let word = word32(image, at).wrapping_add(change);
            set_word32(image, at, word)
        }
        // A link to what another one names.
        4 | 5 => {
            let word = word32(image, some_place(image, random));
            set_word32(image, at, word)
        }
        // A link of a structure's place to the same place of its like.
        6 => {
            let apart = [32, 64][random.below(2)];
            let other = (at % apart + random.below(image.len() / apart) * apart).min(image.len() - 4) / 4 * 4;
            let word = word32(image, other);
            set_word32(image, at, word)
        }
        // A link to what it is in itself, or to its neighbour.
        7 | 8 => {
            let near = (at + [0, 0, 0, 32, 64, 16 << 10][random.below(6)]).min(image.len() - 4);
            let word = layout::names_of(cache, near)[random.below(3)];
            set_word32(image, at, word)
        }
        9 => {
            let (len, other) = ([8, 32, 64][random.below(3)], some_place(image, random));
            let (to, from) = (at / len * len, other / len * len);
            let len = len.min(image.len() - to).min(image.len() - from);
            image.copy_within(from..from + len, to);
            format!("{len} bytes at {to} are those at {from}")
        }
        10 => {
            let (len, byte) = ([8, 64, 512, 4096][random.below(4)], [0, 0xff, 0x55][random.below(3)]);
            let range = at / 8 * 8..(at / 8 * 8 + len).min(image.len());
            image[range.clone()].fill(byte);
            format!("bytes {range:?} are {byte:#x}")
        }
        _ => {
            let at = random.below(layout::HEADER_BYTES.min(160) / 8) * 8;
            let before = u64::from_ne_bytes(image[at..at + 8].try_into().expect("eight bytes"));
            let word = match random.below(3) {
                0 => before ^ 1 << random.below(64),
                1 => random.next() >> random.below(64),
                _ => before.wrapping_add([1, u64::MAX, 1 << 32][random.below(3)]),
            };
            layout::forge_header_word(image, at, word);
            format!("header's word at {at}: {before:#x} to {word:#x}")
        }
    }
}

/// What the process that is under way does, for its parent, if it does not come back.
struct Progress {
    region: &'static AtomicU64,
    deed: &'static AtomicU64,
}

fn check(config: &Config, regions: std::ops::Range<u64>, tally: &Tally) {
    const IMAGES: u64 = 8;
    let world = World::new(config, 0);
    let images: Vec<Vec<u8>> = (0..IMAGES)
        .map(|seed| {
            let cache = world.create(config, 0, || world.locks());
            filled(&world, &cache, seed)
        })
        .collect();
    world.restore(&images[0]);
    let sound = world.attach(0, world.locks()).expect("nothing is damaged yet");
    let words = shared_words(2);
    let progress = Progress { region: &words[0], deed: &words[1] };
    progress.region.store(regions.start, Ordering::SeqCst);
    let mut findings = Findings::default();
    for _ in 0..MOST_FAILURES {
        let first = progress.region.load(Ordering::SeqCst);
        if first >= regions.end {
            break;
        }
        let mut worker = Child::spawn("a user of damaged regions", || {
            limit_process();
            note_panics();
            for number in first..regions.end {
                progress.region.store(number, Ordering::SeqCst);
                limit_work();
                let image = &images[(number % IMAGES) as usize];
                check_region(&world, image, &sound, number, &progress, tally);
            }
            progress.region.store(regions.end, Ordering::SeqCst);
        });
        let exit = worker.wait();
        let number = progress.region.load(Ordering::SeqCst);
        if exit == Exit::Success {
            break;
        }
        let (deed, _) = DEEDS[progress.deed.load(Ordering::SeqCst) as usize];
        let what = match exit {
            Exit::Failure(text) => without_numbers(text.lines().nth(1).unwrap_or(&text)),
            Exit::Killed(libc::SIGPROF) => format!("{deed} does not end"),
            Exit::Killed(libc::SIGABRT) => format!("{deed} takes memory without limit"),
            exit => format!("{deed}: {exit:?}"),
        };
        let damage = damage(&mut images[(number % IMAGES) as usize].clone(), &sound, &mut random_of(number));
        findings
            .note(what, || format!("in region {number} ({})", damage.join("; ").chars().take(120).collect::<String>()));
        progress.region.store(number + 1, Ordering::SeqCst);
    }
    findings.report();
}

fn random_of(number: u64) -> Random {
    // Another factor than that of the generator, whose sequences would else overlap.
    Random(number.wrapping_mul(0xd134_2543_de82_ef95))
}

/// So that one kind of failure has one name.
fn without_numbers(text: &str) -> String {
    let mut out = String::new();
    for part in text.split_inclusive(|c: char| !c.is_ascii_digit()) {
        // File names and lines stay.
        let is_number = part.len() > 4 && part.starts_with(|c: char| c.is_ascii_digit());
        out += if is_number { "#" } else { part };
    }
    out.chars().take(300).collect()
}

fn limit_process() {
    // SAFETY: plain system calls; a zeroed limit is one.
    unsafe {
        let statm = std::fs::read_to_string("/proc/self/statm").expect("a kernel that says what a process has");
        let pages: u64 = statm.split(' ').next().and_then(|pages| pages.parse().ok()).expect("a number of pages");
        let most = pages * 4096 + MEMORY_BYTES;
        let memory = libc::rlimit { rlim_cur: most, rlim_max: most };
        assert_eq!(libc::setrlimit(libc::RLIMIT_AS, &memory), 0);
        let core = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        assert_eq!(libc::setrlimit(libc::RLIMIT_CORE, &core), 0);
        libc::signal(libc::SIGPROF, libc::SIG_DFL);
    }
}

fn limit_work() {
    let none = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let timer = libc::itimerval { it_interval: none, it_value: libc::timeval { tv_sec: WORK_SECONDS, tv_usec: 0 } };
    // SAFETY: a plain system call with a valid timer.
    assert_eq!(unsafe { libc::setitimer(libc::ITIMER_PROF, &timer, std::ptr::null_mut()) }, 0);
}

thread_local! {
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
    static IS_FINAL: RefCell<bool> = const { RefCell::new(false) };
}

/// Panics are noted with their place, but for the last, which is told to the parent as ever.
fn note_panics() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| match IS_FINAL.take() {
        true => tell(panic),
        false => LAST_PANIC.with(|last| *last.borrow_mut() = panic.to_string().replace('\n', " ")),
    }));
}

fn fail(what: &str) -> ! {
    IS_FINAL.set(true);
    panic!("{what}")
}

/// Runs something that may panic; what it said, if it did.
fn attempt<R>(body: impl FnOnce() -> R) -> Result<R, String> {
    catch_unwind(AssertUnwindSafe(body)).map_err(|_| LAST_PANIC.take())
}

/// After so many panics so many partitions are in order, for each was emptied by its next user; none panics again.
fn check_recovered(cache: &Cache, panics: usize, panic: &str) {
    let mut in_order = 0;
    let mut first_error = String::new();
    for partition in 0..cache.partition_count() {
        match attempt(|| cache.validate_partition(partition)) {
            Ok(Ok(())) => in_order += 1,
            Ok(Err(error)) if first_error.is_empty() => first_error = error.to_string(),
            Ok(Err(_)) => (),
            Err(again) => fail(&format!("{panic}; then validate: {again}")),
        }
    }
    if in_order < panics.min(cache.partition_count()) {
        fail(&format!("{panic}, which leaves it so: validate: {first_error}"));
    }
    if panics > cache.partition_count() {
        fail(&format!("{panic}, again and again"));
    }
}

fn check_region(world: &World, image: &[u8], sound: &Cache, number: u64, progress: &Progress, tally: &Tally) {
    let mut random = random_of(number);
    let mut damaged = image.to_vec();
    damage(&mut damaged, sound, &mut random);
    world.restore(&damaged);
    tally.add(0, 1);
    let cache = match attempt(|| world.attach(0, world.locks())) {
        Ok(Ok(cache)) => cache,
        Ok(Err(_)) => {
            tally.add(1, 1);
            return;
        }
        Err(panic) => fail(&format!("attach: {panic}")),
    };
    let validate = DEEDS.iter().position(|(name, _)| *name == VALIDATE).expect("one of them");
    progress.deed.store(validate as u64, Ordering::SeqCst);
    if attempt(|| cache.validate()).is_ok_and(|found| found.is_err()) {
        tally.add(2, 1);
        world.restore(&damaged);
    }
    let mut order: Vec<usize> = (0..DEEDS.len()).collect();
    (1..order.len()).for_each(|place| order.swap(place, random.below(place + 1)));
    for index in order {
        let (name, deed) = DEEDS[index];
        progress.deed.store(index as u64, Ordering::SeqCst);
        tally.add(3, 1);
        let seed = random.next();
        let mut panics = 0;
        while let Err(panic) = attempt(|| deed(&cache, &mut Random(seed))) {
            if name == VALIDATE {
                fail(&format!("validate: {panic}"));
            }
            panics += 1;
            tally.add(4, 1);
            check_recovered(&cache, panics, &format!("{name}: {panic}"));
        }
        if panics > 0 {
            world.restore(&damaged);
        }
    }
    // Whatever happened, emptied it works.
    if attempt(|| cache.validate()).is_ok_and(|found| found.is_ok()) {
        let works = attempt(|| {
            cache.clear();
            cache.set_default_ttl(None).expect("none is in range");
            match cache.put(&key(1), b"value") {
                Ok(_) if !cache.contains(&key(1)) => Err("an entry that was stored is not there".to_owned()),
                // A header that was forged may say that entries are smaller.
                Ok(_) | Err(PushError::TooLarge { .. } | PushError::KeyTooLong { .. }) => {
                    cache.validate().map_err(|error| error.to_string())
                }
                Err(error) => Err(error.to_string()),
            }
        });
        match works {
            Ok(Ok(())) => (),
            Ok(Err(error)) => fail(&format!("a region that validates does not work: {error}")),
            Err(panic) => fail(&format!("a region that validates panics: {panic}")),
        }
    }
}
