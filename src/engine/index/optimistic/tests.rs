#![allow(unsafe_code)] // two handles to the same memory

use std::ptr::NonNull;

use super::*;
use crate::engine::compaction::CompactBudget;
use crate::engine::config::Config;
use crate::engine::counters::Removal;
use crate::engine::entry::lengths::Lengths;
use crate::engine::evicted::OnEvict;
use crate::engine::layout::Layout;
use crate::engine::memory::copy::append_words;
use crate::engine::outcomes::Collect;
use crate::engine::outcomes::Popped;
use crate::engine::partition::Partition;
use crate::engine::policy::Policy;
use crate::engine::reservation::Reclaim;
use crate::engine::slab::slab_use::SlabUse;
use crate::engine::work::Work;

const SEED: u64 = 7;

#[repr(align(64))]
#[derive(Clone, Copy)]
struct Line {
    _bytes: [u8; 64],
}

/// A partition with its writer, and memory for readers' handles.
struct Shared {
    writer: Partition,
    region: Region,
    layout: Layout,
    _memory: Vec<Line>,
}

impl Shared {
    fn new() -> Shared {
        Shared::with(Config::bytes(512 << 10).partitions(1).slab_bytes(16 << 10).fixed_buckets(16))
    }

    fn with(config: Config) -> Shared {
        let layout = config.policy(Policy::Clock).layout().unwrap();
        let region_bytes = layout.geometry.region_bytes;
        let mut memory = vec![Line { _bytes: [0; 64] }; region_bytes / 64 + 1];
        let base = NonNull::new(memory.as_mut_ptr()).unwrap().cast();
        // SAFETY: the memory is aligned and lives as long as the region, through which alone it is used.
        let region = unsafe { Region::new(base, region_bytes) };
        let mut writer = Partition::open(&region, &layout, 0, SEED);
        writer.format(0);
        Shared { writer, region, layout, _memory: memory }
    }

    fn reader(&self) -> UnlockedPartition {
        Partition::open(&self.region, &self.layout, 0, SEED).unlocked()
    }

    fn put(&mut self, name: &[u8], value: &[u8]) {
        self.put_until(name, value, None);
    }

    fn put_until(&mut self, name: &[u8], value: &[u8], expires: Option<Moment>) {
        let mut work = Work::new();
        self.writer.put(key(name), value, expires, OnEvict::Discard, &|| NOW, &mut work).unwrap();
    }

    fn remove(&mut self, name: &[u8]) {
        assert!(self.writer.remove(key(name), Removal::ByHand, &|| NOW));
    }

    fn fill(&mut self, numbers: std::ops::Range<u32>, value: &[u8]) {
        numbers.for_each(|number| self.put(&number.to_be_bytes(), value));
    }

    /// Looks a key up; `step` happens when half of its value is read.
    fn read(&mut self, name: &[u8], step: impl FnOnce(&mut Shared)) -> (Option<ReadFailure>, Vec<u8>) {
        let reader = self.reader();
        let mut value = Vec::new();
        let seen = reader.read_optimistic(
            key(name),
            Touch::No,
            || NOW,
            |words, len| {
                let half = words.len() / 2;
                append_words(&words[..half], 8 * half, &mut value).expect("there is memory");
                step(self);
                append_words(&words[half..], len - 8 * half, &mut value).expect("there is memory");
            },
        );
        self.writer.validate().unwrap();
        (seen.err(), value)
    }
}

fn key(bytes: &[u8]) -> Key<'_> {
    Key::new(bytes, SEED)
}

/// Builds an entry that is not published.
fn reserve(shared: &mut Shared) -> EntryIndex {
    let mut work = Work::new();
    let mut reclaim = Reclaim::new(OnEvict::Discard, &|| NOW, &mut work);
    let built = shared.writer.reserve(Lengths::new(NAME.len(), OLD.len(), None), &mut reclaim).unwrap();
    shared.writer.payload.fill(built, key(NAME), &OLD, None);
    built
}

const NOW: Moment = Moment(10);
const NAME: &[u8] = b"a name";
const OLD: [u8; 500] = [1; 500];

/// The steps disturb a reader, and end what was seen before them, but for one that was only `moved`.
fn assert_disturbed(what: &str, prepare: impl FnOnce(&mut Shared), step: impl FnOnce(&mut Shared)) {
    let mut shared = Shared::new();
    shared.put(NAME, &OLD);
    prepare(&mut shared);
    let seen = shared.reader().read_optimistic(key(NAME), Touch::No, || NOW, |_, _| ()).unwrap();
    let (before, mut hint) = (shared.reader().version_of(seen, 0), PlacementHint::default());
    assert!(shared.reader().is_current(&before, &mut hint), "before: {what}");
    assert!(shared.reader().is_current(&before, &mut hint), "before: {what}");
    assert_eq!(shared.read(NAME, |_| ()), (None, OLD.to_vec()), "before: {what}");
    assert_eq!(shared.read(NAME, step).0, Some(ReadFailure::Conflict), "{what}");
    assert_eq!(shared.reader().is_current(&before, &mut hint), what == "moved", "after: {what}");
    assert_eq!(shared.writer.resolve_version(&before).is_some(), what == "moved", "after: {what}");
}

#[test]
fn what_becomes_of_other_keys_does_not_disturb() {
    let mut shared = Shared::new();
    shared.put(NAME, &OLD);
    shared.fill(0..100, &[9; 500]);
    let (glance, value) = shared.read(NAME, |shared| {
        shared.fill(0..50, &[8; 500]);
        shared.fill(50..60, &[8; 900]);
        shared.fill(100..150, &[8; 480]);
        (60..70u32).for_each(|number| shared.remove(&number.to_be_bytes()));
    });
    assert_eq!((glance, value), (None, OLD.to_vec()));
}

#[test]
fn a_value_that_is_replaced_or_removed_meanwhile_is_not_believed() {
    let nothing = |_: &mut Shared| ();
    assert_disturbed("replaced in place", nothing, |shared| shared.put(NAME, &[2; 500]));
    assert_disturbed("replaced twice, by what it was", nothing, |shared| {
        shared.put(NAME, &[2; 500]);
        shared.put(NAME, &OLD);
    });
    assert_disturbed("replaced by a larger one", nothing, |shared| shared.put(NAME, &[2; 800]));
    assert_disturbed("replaced by a chained one", nothing, |shared| shared.put(NAME, &[2; 5000]));
    assert_disturbed("given a time to live", nothing, |shared| {
        shared.put_until(NAME, &OLD, Some(Moment(11)));
    });
    assert_disturbed("replaced by one that has expired", nothing, |shared| {
        shared.put_until(NAME, &[2; 500], Some(Moment(3)));
    });
    assert_disturbed(
        "freed from its time to live",
        |shared| shared.put_until(NAME, &OLD, Some(Moment(11))),
        |shared| {
            shared.put(NAME, &OLD);
        },
    );
    assert_disturbed("removed", nothing, |shared| shared.remove(NAME));
    assert_disturbed("removed and stored again", nothing, |shared| {
        shared.remove(NAME);
        shared.put(NAME, &OLD);
    });
    let pin = |shared: &mut Shared| {
        let entry = shared.writer.find(key(NAME)).unwrap();
        _ = shared.writer.pin(entry).unwrap();
    };
    assert_disturbed("removed while pinned", pin, |shared| shared.remove(NAME));
    assert_disturbed("replaced while pinned", pin, |shared| shared.put(NAME, &[2; 500]));
    assert_disturbed("evicted", nothing, |shared| {
        shared.fill(0..2000, &[2; 500]);
        shared.fill(0..2000, &[3; 500]);
    });
}

#[test]
fn a_value_that_is_moved_meanwhile_is_not_believed_though_its_entry_is_the_same() {
    let holes = |shared: &mut Shared| {
        shared.fill(0..400, &[2; 500]);
        (0..400u32).filter(|number| number % 8 != 0).for_each(|number| shared.remove(&number.to_be_bytes()));
    };
    let stamp_of = |shared: &Shared| {
        let entry = shared.writer.find(key(NAME)).unwrap();
        (shared.writer.record(entry).stamp(), shared.writer.record(entry).location())
    };
    assert_disturbed("moved", holes, |shared| {
        let before = stamp_of(shared);
        let (report, _) = shared.writer.compact(CompactBudget::unlimited(), &mut Work::new());
        assert!(report.slabs_released > 0);
        shared.fill(1000..1100, &[3; 500]);
        assert_eq!(stamp_of(shared).0, before.0, "nothing but the epoch tells");
    });
}

#[test]
fn a_record_whose_slab_left_the_directory_is_not_believed_whatever_its_bytes_say() {
    // So many small entries after it that the slab with its record is not the one that the directory keeps or gets
    // back.
    assert_disturbed(
        "forged",
        |shared| shared.fill(0..2000, &[2; 8]),
        |shared| {
            let entry = shared.writer.find(key(NAME)).unwrap();
            let area = *shared.writer.slabs.area();
            let offset = entry.offset();
            let record = area.region().bytes(offset, size_of::<Record>()).to_vec();
            let (slab, _) = area.locate(offset).unwrap();
            while let Ok(Popped::Entry { .. }) = shared.writer.pop(Collect::Nothing, &|| NOW, &mut Work::new()) {}
            assert_ne!(shared.writer.slabs.slab_use(slab), Some(SlabUse::RECORDS));
            // Values that look like the record wherever it lay, in as much memory as there is.
            let mut number = 0u32;
            while area.region().bytes(offset, 8) != &record[..8] {
                let shift = 8 * (number.wrapping_mul(0x9e37_79b1) >> 30) as usize;
                let value: Vec<u8> =
                    record[shift..].iter().chain(&record[..shift]).copied().cycle().take(1600).collect();
                shared.put(&number.to_be_bytes(), &value);
                number += 1;
                assert!(number < 100_000, "the slab serves values and the bytes come up");
            }
        },
    );
}

#[test]
fn what_has_expired_is_absent_and_the_time_is_asked_of_nothing_else() {
    for len in 0..40 {
        let mut shared = Shared::new();
        let old = vec![1; len];
        let seen = |shared: &Shared, now: &dyn Fn() -> Moment| {
            let mut value = Vec::new();
            let take = |words: &[Word64], len| append_words(words, len, &mut value).expect("there is memory");
            let seen = shared.reader().read_optimistic(key(NAME), Touch::No, now, take);
            seen.map(|_| value)
        };
        shared.put(NAME, &old);
        assert_eq!(seen(&shared, &|| panic!("nobody asks")), Ok(old.clone()));
        shared.put_until(NAME, &old, Some(Moment(11)));
        assert_eq!(seen(&shared, &|| Moment(10)), Ok(old.clone()), "{len} bytes");
        assert_eq!(seen(&shared, &|| Moment(11)), Err(ReadFailure::NotFound), "{len} bytes");
        assert!(shared.writer.find(key(NAME)).is_some(), "it is left where it is");
        shared.writer.validate().unwrap();
        shared.put(NAME, &old);
        assert_eq!(seen(&shared, &|| panic!("nobody asks")), Ok(old));
        shared.writer.validate().unwrap();
    }
}

#[test]
fn an_expiry_that_was_read_from_another_value_is_not_believed() {
    let mut shared = Shared::new();
    shared.put_until(NAME, &OLD, Some(Moment(3)));
    let reader = shared.reader();
    let epoch = reader.table.placement_epoch();
    let entry = shared.writer.find(key(NAME)).unwrap();
    let Ok(Some(candidate)) = reader.probe(entry, key(NAME)) else { panic!("it is there") };
    let Candidate { stamp, value_len, .. } = candidate;
    let check = || reader.check_moment(entry, stamp, value_len, epoch, &|| NOW);
    assert_eq!(check(), Err(ReadFailure::NotFound));
    shared.put_until(NAME, &OLD, Some(Moment(4)));
    assert_eq!(check(), Err(ReadFailure::Conflict));
}

#[test]
fn what_a_reset_empties_is_not_believed_and_not_found() {
    let nothing = |_: &mut Shared| ();
    let reset = |shared: &mut Shared| {
        let entry = shared.writer.find(key(NAME)).unwrap();
        let stamp = shared.writer.record(entry).stamp();
        shared.writer.state().mark_damaged();
        shared.writer.reset();
        assert_eq!(shared.writer.record(entry).stamp(), stamp, "nothing but the epoch tells");
    };
    assert_disturbed("reset", nothing, reset);
    let mut shared = Shared::new();
    shared.put(NAME, &OLD);
    reset(&mut shared);
    assert_eq!(shared.read(NAME, |_| ()).0, Some(ReadFailure::NotFound));
}

#[test]
fn an_entry_that_is_not_complete_is_not_looked_at() {
    let mut shared = Shared::new();
    let reader = shared.reader();
    let built = reserve(&mut shared);
    assert!(matches!(reader.probe(built, key(NAME)), Err(ReadFailure::Conflict)), "built, and not listed yet");
    shared.writer.cancel(built);
    assert!(matches!(reader.probe(built, key(NAME)), Err(ReadFailure::Conflict)), "free");
    shared.put(NAME, &OLD);
    let entry = shared.writer.find(key(NAME)).unwrap();
    assert!(matches!(reader.probe(entry, key(NAME)), Ok(Some(_))));
    shared.writer.record(entry).mark_unstable();
    assert!(matches!(reader.probe(entry, key(NAME)), Err(ReadFailure::Conflict)), "being replaced");
    shared.put(b"chained", &[1; 9000]);
    let chained = shared.writer.find(key(b"chained")).unwrap();
    assert!(matches!(reader.probe(chained, key(b"chained")), Err(ReadFailure::NeedsLock)));
    let part = shared.writer.payload.continuations(chained).next().unwrap();
    assert!(matches!(reader.probe(part, key(b"")), Err(ReadFailure::Conflict)), "a continuation is no entry");
}

#[test]
fn keys_beyond_their_buckets_line_are_seen_and_missing_ones_never() {
    let mut shared = Shared::new();
    shared.fill(0..400, b"value");
    assert!(shared.writer.table.overflowed() > 100);
    let seen = |shared: &mut Shared, number: u32| shared.read(&number.to_be_bytes(), |_| ());
    let found = (0..400).filter(|&number| seen(&mut shared, number).0.is_none()).count();
    assert!(found > 390, "{found} of 400, but for what is far down a chain");
    assert!(
        (400..800).all(|number| seen(&mut shared, number).0 == Some(ReadFailure::NeedsLock)),
        "they may be chained"
    );
    (20..400u32).for_each(|number| shared.remove(&number.to_be_bytes()));
    assert!((0..20).all(|number| seen(&mut shared, number).0.is_none()));
    assert!((20..800).all(|number| seen(&mut shared, number).0 == Some(ReadFailure::NotFound)));
}

#[test]
fn a_key_that_is_replaced_under_a_pin_is_listed_at_every_moment() {
    for count in [0, 400] {
        let mut shared = Shared::new();
        shared.fill(0..count, b"value");
        shared.put(NAME, &OLD);
        let entry = shared.writer.find(key(NAME)).unwrap();
        assert_eq!(shared.writer.record(entry).has(Flags::OVERFLOWED), count > 0);
        _ = shared.writer.pin(entry).unwrap();
        let built = reserve(&mut shared);
        shared.writer.record(built).mark_stable();
        shared.writer.table.replace(key(NAME).hash, entry, built);
        assert_eq!(shared.writer.find(key(NAME)), Some(built), "without a step in between");
        let overflowed = [entry, built].map(|entry| shared.writer.record(entry).has(Flags::OVERFLOWED));
        assert_eq!(overflowed, [false, count > 0]);
    }
}

#[test]
fn any_bytes_whatever_lead_nowhere() {
    let mut shared = Shared::new();
    shared.fill(0..300, &OLD);
    let slabs = shared.writer.slabs.area().region().len_bytes();
    let all: &[Word64] = shared.region.slice(0, shared.region.len_bytes() / 8);
    // All of the partition but its own state, and the shape: a table that is being changed has no buckets to read.
    let words = &all[(shared.layout.sequence_offset(0) + 64) / 8..];
    let slab_range = 0..slabs as u64 / 32;
    let mut state = 1u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state ^ state >> 29
    };
    for round in 0..30 {
        for word in words {
            // Some indexes must lead to somewhere, some words to everywhere.
            let index = slab_range.start + random() % (slab_range.end - slab_range.start);
            match (round + random()) % 4 {
                0 => word.set(random()),
                1 => word.set(index << 32 | index),
                2 => word.set(1 | random() << 33),
                _ => {}
            }
        }
        let reader = shared.reader();
        for number in 0..300u32 {
            let mut out = Vec::new();
            let _ = reader.read_optimistic(
                key(&number.to_be_bytes()),
                Touch::No,
                || NOW,
                |words, len| {
                    append_words(words, len, &mut out).expect("there is memory");
                },
            );
            assert!(out.len() <= 16 << 10);
        }
    }
}

#[test]
fn a_key_that_moves_to_another_bucket_is_never_absent() {
    let mut shared = Shared::with(Config::bytes(512 << 10).partitions(1).slab_bytes(16 << 10).buckets(1));
    shared.put(NAME, &OLD);
    let reader = shared.reader();
    let shape = reader.table.shape();
    let bucket = reader.table.bucket_in(shape, key(NAME).hash).unwrap();
    let mut moved = false;
    for number in 0..600u32 {
        shared.put(&number.to_be_bytes(), b"");
        let is_there = shared.read(NAME, |_| ());
        assert_eq!(is_there, (None, OLD.to_vec()), "with {number} others");
        moved |= !bucket.cells().any(|(_, entry)| Some(entry) == shared.writer.find(key(NAME)));
    }
    assert!(moved && shared.writer.table.bucket_count() > 50);
    // A reader that chose its bucket before all of that.
    let failure = reader.confirm_absence(bucket, shape, key(NAME), reader.table.placement_epoch());
    assert_ne!(failure, ReadFailure::NotFound);
    (0..600u32).for_each(|number| shared.remove(&number.to_be_bytes()));
    assert_eq!(shared.writer.table.bucket_count(), 1);
    assert_eq!(shared.read(NAME, |_| ()), (None, OLD.to_vec()));
}

#[test]
fn a_key_that_is_replaced_beside_pins_is_never_absent_though_its_old_record_is_another_keys() {
    let mut shared = Shared::new();
    shared.put(NAME, &OLD);
    let reader = shared.reader();
    let (epoch, shape) = (reader.table.placement_epoch(), reader.table.shape());
    let bucket = reader.table.bucket_in(shape, key(NAME).hash).unwrap();
    let first = shared.writer.find(key(NAME)).unwrap();
    let pin = shared.writer.pin(first).unwrap();
    shared.put(NAME, &[2; 500]);
    shared.writer.unpin_and_free(pin);
    shared.put(b"b name", &OLD);
    assert_eq!(shared.writer.find(key(b"b name")), Some(first), "the old record is another key's");
    assert!(matches!(reader.probe(first, key(NAME)), Ok(None)));
    assert_ne!(reader.confirm_absence(bucket, shape, key(NAME), epoch), ReadFailure::NotFound);
}
