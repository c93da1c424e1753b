//! What is bounded whatever stays pinned, is asked for, or goes on for years: work under one hold of a lock, memory that a
//! pin keeps, rounds of compaction, generations.
//!
//! Work is counted, not timed: locks look at the counters of the cache whenever they are taken and given back.
#![allow(unsafe_code)] // locks of the test's own

use std::cell::{Cell, OnceCell};
use std::rc::Rc;

use pg_shared_lru::{
    CompactBudget, Config, EntryId, LockMode, Locks, NoLocks, Policy, RobustLocks, SharedCache, Tenancy,
};

use crate::support::fork::{Child, kill_myself};
use crate::support::memory::Arena;

super::scenarios![bounded:
    no_hold_of_the_lock_removes_more_than_a_batch,
    no_hold_of_the_lock_passes_over_more_than_a_batch,
    a_pin_that_never_goes_keeps_its_own_slabs_and_no_other,
    a_loop_of_compactions_beside_pins_comes_to_an_end,
    an_empty_cache_that_is_used_again_and_again_keeps_its_generations,
];

/// Entries that one hold of a lock may touch: what takes a millisecond if none is in the processor's caches.
const BATCH: u64 = 1024;

/// A figure of the cache of which a hold of a lock may change only so much.
type Measure = fn(&SharedCache<FreeLocks>) -> u64;

/// Locks of one process that count what happens under each hold.
#[derive(Clone, Default)]
struct CountedLocks(Rc<Counted>);

#[derive(Default)]
struct Counted {
    observer: OnceCell<SharedCache<FreeLocks>>,
    measure: Cell<Option<Measure>>,
    before: Cell<u64>,
    most: Cell<u64>,
}

impl CountedLocks {
    fn measure(&self) -> Option<u64> {
        Some((self.0.measure.get()?)(self.0.observer.get()?))
    }

    /// The most that one hold has changed of what `measure` says, while `body` ran.
    fn most_under_a_hold(&self, measure: Measure, body: impl FnOnce()) -> u64 {
        self.0.most.set(0);
        self.0.measure.set(Some(measure));
        body();
        self.0.measure.set(None);
        self.0.most.get()
    }
}

// SAFETY: the arena is never unmapped and serves one cache.
unsafe impl Tenancy for CountedLocks {}

// SAFETY: one thread of one process uses the cache; under a lock only the observer looks at it, which changes nothing.
unsafe impl Locks for CountedLocks {
    fn acquire(&self, _partition: usize, _mode: LockMode) {
        self.0.before.set(self.measure().unwrap_or(0));
    }

    fn release(&self, _partition: usize, _mode: LockMode) {
        if let Some(now) = self.measure() {
            self.0.most.set(self.0.most.get().max(now.abs_diff(self.0.before.get())));
        }
    }
}

/// No locks, for a handle that looks while another has the lock.
struct FreeLocks;

// SAFETY: as for `CountedLocks`.
unsafe impl Tenancy for FreeLocks {}

// SAFETY: used by one thread, between two steps of the only other user.
unsafe impl Locks for FreeLocks {
    fn acquire(&self, _partition: usize, _mode: LockMode) {}

    fn release(&self, _partition: usize, _mode: LockMode) {}
}

/// A cache of 4 MiB, full of entries of 8 bytes.
fn full_of_small_entries(policy: Policy) -> (SharedCache<CountedLocks>, CountedLocks) {
    let config = Config::bytes(4 << 20).partitions(1).policy(policy);
    let arena = Arena::for_config(&config);
    let locks = CountedLocks::default();
    let cache = arena.create_with(&config, locks.clone()).unwrap();
    let observer = arena.attach_bytes(config.region_bytes().unwrap(), FreeLocks).unwrap();
    assert!(locks.0.observer.set(observer).is_ok());
    fill(&cache);
    (cache, locks)
}

fn fill(cache: &SharedCache<CountedLocks>) {
    let mut number = 0u32;
    while cache.put_if_room(&number.to_be_bytes(), &[1; 8]).is_ok() {
        number += 1;
    }
    assert!(number > 10 * BATCH as u32, "{number} entries are many batches");
}

fn no_hold_of_the_lock_removes_more_than_a_batch() {
    let gone = |cache: &SharedCache<FreeLocks>| {
        let stats = cache.stats();
        stats.evictions + stats.removals
    };
    for policy in Policy::ALL {
        let (cache, locks) = full_of_small_entries(policy);
        let large = vec![2; 700_000];
        type Deed<'a> = (&'a str, &'a dyn Fn());
        let deeds: [Deed<'_>; 4] = [
            ("a large put", &|| _ = cache.put(b"large", &large).unwrap()),
            ("clear", &|| _ = cache.clear()),
            ("drain", &|| _ = cache.drain(|_, _| ())),
            ("pop", &|| _ = cache.pop_lru()),
        ];
        for (name, deed) in deeds {
            let before = cache.len();
            let most = locks.most_under_a_hold(gone, deed);
            assert!(most > 0 && most <= BATCH, "{policy}, {name}: {most} of {before} entries under one hold");
            cache.validate().unwrap();
            cache.clear();
            fill(&cache);
        }
    }
}

fn no_hold_of_the_lock_passes_over_more_than_a_batch() {
    let used = |cache: &SharedCache<FreeLocks>| cache.iter().filter(|entry| entry.referenced).count() as u64;
    for policy in [Policy::Clock, Policy::S3Fifo] {
        let (cache, locks) = full_of_small_entries(policy);
        let ids: Vec<Vec<u8>> = cache.iter().map(|entry| entry.key).collect();
        for key in &ids {
            (0..4).for_each(|_| assert!(cache.get(key, &mut Vec::new())));
        }
        let most = locks.most_under_a_hold(used, || _ = cache.put(b"new", &[2; 8]).unwrap());
        assert!(most <= BATCH, "{policy}: {most} of {} used entries were put back under one hold", ids.len());
        cache.validate().unwrap();
    }
}

fn a_pin_that_never_goes_keeps_its_own_slabs_and_no_other() {
    for policy in Policy::ALL {
        let config = Config::bytes(460_000).partitions(1).slab_bytes(16 << 10).policy(policy);
        let arena = Arena::for_config(&config);
        let cache: SharedCache<RobustLocks> = arena.create(&config).unwrap();
        let other = arena.attach().unwrap();
        let fill = || (0..300u32).for_each(|number| _ = other.put(&number.to_be_bytes(), &[3; 900]).unwrap());
        let free = || {
            fill();
            other.clear();
            other.compact(CompactBudget::unlimited());
            other.validate().unwrap();
            other.memory_report().slabs_free
        };
        let at_first = free();
        cache.put(b"of the dead", &[1; 300]).unwrap();
        Child::spawn("a reader that dies", || _ = cache.with(b"of the dead", |_| kill_myself())).wait();
        for round in 1..=10 {
            fill();
            cache.put(b"of the living", &[2; 1200]).unwrap();
            cache.with(b"of the living", |bytes| {
                arena.damage(other.layout(), 0);
                fill();
                assert_eq!(bytes, [2; 1200]);
            });
            let now = free();
            assert_eq!(other.pinned(), 1);
            assert!(now + 2 >= at_first, "{policy}: {now} slabs are free after {round} resets, {at_first} were");
        }
    }
}

fn a_loop_of_compactions_beside_pins_comes_to_an_end() {
    for policy in Policy::ALL {
        let config = Config::bytes(1 << 20).partitions(1).slab_bytes(16 << 10).policy(policy);
        let cache: SharedCache<NoLocks> = SharedCache::private(&config).unwrap();
        let key = |number: u32| number.to_be_bytes();
        (0..44).for_each(|number| _ = cache.put(&key(number), &[number as u8; 700]).unwrap());
        // Two slabs with a pinned entry each, and together a slab's worth of free slots.
        cache.with(&key(0), |_| {
            cache.with(&key(43), |_| {
                (6..38).chain(39..43).for_each(|number| _ = cache.remove(&key(number)).unwrap());
                let step = || cache.compact(CompactBudget::bytes(4 << 20)).bytes_moved;
                let steps = std::iter::repeat_with(step).take(100).take_while(|&moved| moved > 0).count();
                assert!(steps < 5, "{policy}: {steps} steps of 100 have moved something");
                cache.validate().unwrap();
            });
        });
        assert_eq!(cache.pinned(), 0);
        cache.compact(CompactBudget::unlimited());
        cache.validate().unwrap();
    }
}

fn an_empty_cache_that_is_used_again_and_again_keeps_its_generations() {
    const CYCLES: u32 = 2000;
    for policy in Policy::ALL {
        let config = Config::bytes(460_000).partitions(1).slab_bytes(16 << 10).policy(policy);
        let cache = SharedCache::private(&config).unwrap();
        for _ in 0..CYCLES {
            cache.put(b"key", b"value").unwrap();
            cache.remove(b"key").unwrap();
        }
        (0..100u32).for_each(|number| _ = cache.put(&number.to_be_bytes(), b"value").unwrap());
        let generations = cache.iter().map(|entry| EntryId::generation(entry.id).get());
        // One record may have had them all; the slab with a hundred others may not.
        let worn = generations.filter(|&generation| generation > CYCLES / 4).count();
        assert!(worn <= 1, "{policy}: {worn} of 100 records are as old as {CYCLES} uses of one");
        cache.validate().unwrap();
    }
}
