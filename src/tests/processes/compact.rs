//! Compaction: bounded work, around pins.

use pg_shared_lru::{CompactBudget, Config, NoLocks, Policy, SharedCache};

use crate::support::content::{Random, check, key, value};

crate::scenarios![compact:
    work_is_bounded_by_the_budget_and_one_slot,
    work_is_bounded_where_pins_are_in_the_way_too,
    many_small_budgets_do_what_one_large_one_does,
    nothing_to_gain_is_nothing_done,
    what_is_pinned_is_skipped_and_reported,
    a_few_pins_do_not_stop_the_rest_of_their_class,
];

const LARGEST_SLOT: u64 = 2048;

/// Entries of several sizes with every second one removed: half of all slots are free.
fn full_of_holes(partitions: u32) -> SharedCache<NoLocks> {
    let config = Config::bytes(partitions as usize * (1 << 20)).partitions(partitions).slab_bytes(16 << 10);
    let cache = SharedCache::private(&config).unwrap();
    let mut random = Random(1);
    for number in 0..2 * 700 * partitions {
        cache.put(&key(number), &value(number, 1, [40, 150, 600, 1400, 5000][random.below(5)] / 2)).unwrap();
    }
    (0..2 * 700 * partitions).step_by(2).for_each(|number| _ = cache.remove(&key(number)));
    cache.validate().unwrap();
    cache
}

fn check_all(cache: &SharedCache<NoLocks>) {
    cache.validate().unwrap_or_else(|error| panic!("{:#?}", error.0));
    cache.iter_with_values().for_each(|entry| check(&entry.key, &entry.value.expect("asked for")));
}

fn work_is_bounded_by_the_budget_and_one_slot() {
    for partitions in [1, 4] {
        for budget in [0, 1, 100, 5000, 100_000] {
            let cache = full_of_holes(partitions);
            let (before, len, free) = (cache.stats(), cache.len(), cache.memory_report().slabs_free);
            let report = cache.compact(CompactBudget::bytes(budget));
            assert!(report.bytes_moved < budget + LARGEST_SLOT, "{report:?} with a budget of {budget}");
            assert!(budget == 0 || report.entries_moved > 0);
            let after = cache.stats();
            assert_eq!(after.bytes_moved - before.bytes_moved, report.bytes_moved);
            assert_eq!(after.entries_moved - before.entries_moved, report.entries_moved);
            assert_eq!(after.slabs_moved - before.slabs_moved, report.slabs_released);
            assert_eq!(cache.memory_report().slabs_free - free, report.slabs_released);
            assert_eq!(report.bytes_gained, report.slabs_released * (16 << 10));
            assert_eq!((cache.len(), report.skipped_pinned), (len, 0));
            check_all(&cache);
        }
    }
}

/// The keys of some entries, each of which lies in another slab of the largest class, and a cache with holes around
/// them.
fn one_entry_in_each_slab() -> (SharedCache<NoLocks>, Vec<Vec<u8>>) {
    let cache = SharedCache::private(&Config::bytes(1 << 20).partitions(1).slab_bytes(16 << 10)).unwrap();
    // Eight slots a slab, filled one slab after the other.
    let count = 50 * 8;
    for number in 0..count {
        cache.put(&key(number), &value(number, 1, 1950 + number as usize % 3)).unwrap();
    }
    assert_eq!(cache.stats().evictions, 0);
    // Every slab keeps four: half of all slots are free.
    (0..count).filter(|number| number % 2 == 1).for_each(|number| _ = cache.remove(&key(number)));
    let one_each = (0..count).step_by(8).map(key).collect();
    (cache, one_each)
}

fn while_pinned(cache: &SharedCache<NoLocks>, keys: &[Vec<u8>], then: &mut dyn FnMut()) {
    match keys.split_first() {
        Some((key, rest)) => cache.with(key, |_| while_pinned(cache, rest, then)).expect("the key is there"),
        None => then(),
    }
}

fn work_is_bounded_where_pins_are_in_the_way_too() {
    for budget in [1, 4000, 6000, 20_000] {
        let (cache, keys) = one_entry_in_each_slab();
        while_pinned(&cache, &keys, &mut || {
            let report = cache.compact(CompactBudget::bytes(budget));
            assert!(report.bytes_moved < budget + LARGEST_SLOT, "{report:?} with a budget of {budget}");
            cache.validate().unwrap();
        });
        check_all(&cache);
    }
}

fn many_small_budgets_do_what_one_large_one_does() {
    let cache = full_of_holes(2);
    let len = cache.len();
    let mut steps = 0;
    while cache.compact(CompactBudget::bytes(700)).entries_moved > 0 {
        steps += 1;
        assert!(steps < 20_000, "it comes to an end");
        if steps % 50 == 0 {
            check_all(&cache);
        }
    }
    assert!(steps > 10, "{steps} steps");
    assert_eq!(cache.compact(CompactBudget::unlimited()), Default::default(), "nothing is left to do");
    check_all(&cache);
    assert_eq!(cache.len(), len);
}

fn nothing_to_gain_is_nothing_done() {
    for policy in Policy::ALL {
        let config = Config::bytes(1 << 20).partitions(1).slab_bytes(16 << 10).policy(policy);
        let cache = SharedCache::private(&config).unwrap();
        assert_eq!(cache.compact(CompactBudget::unlimited()), Default::default());
        cache.put(b"key", b"value").unwrap();
        assert_eq!(cache.compact(CompactBudget::unlimited()), Default::default());
        let cache = full_of_holes(1);
        assert!(cache.compact(CompactBudget::unlimited()).slabs_released > 0);
        assert_eq!(
            cache.compact(CompactBudget::unlimited()),
            Default::default(),
            "a second time there is nothing left"
        );
        // No class keeps a whole slab of free slots.
        for class in cache.memory_report().classes.iter().skip(1) {
            assert!(class.slots - class.used < class.slots / class.slabs, "{class:?}");
        }
    }
}

fn what_is_pinned_is_skipped_and_reported() {
    let (cache, keys) = one_entry_in_each_slab();
    while_pinned(&cache, &keys, &mut || {
        let report = cache.compact(CompactBudget::unlimited());
        assert_eq!(report.slabs_released, 0, "every slab has a pinned entry");
        assert!(report.skipped_pinned > 0);
        cache.validate().unwrap();
    });
    let report = cache.compact(CompactBudget::unlimited());
    assert_eq!(report.skipped_pinned, 0);
    assert!(report.slabs_released >= 24, "half of 50 slabs are free: {report:?}");
    check_all(&cache);
}

fn a_few_pins_do_not_stop_the_rest_of_their_class() {
    for pins in [1, 3, 5, 10] {
        let (cache, mut keys) = one_entry_in_each_slab();
        keys.reverse(); // the last of equally empty slabs is looked at first
        while_pinned(&cache, &keys[..pins], &mut || {
            // Half of 50 slabs are free; even if every slab with a pin stays as it is, more than 15 can be gained.
            let mut released = 0;
            for _ in 0..10 {
                released += cache.compact(CompactBudget::unlimited()).slabs_released;
            }
            assert!(released >= 15, "{released} slabs released with {pins} entries pinned");
            cache.validate().unwrap();
        });
        check_all(&cache);
    }
}
