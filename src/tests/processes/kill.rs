//! Processes that are killed at any moment, and partitions that are found half-changed.

use std::collections::HashMap;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pg_shared_lru::{CompactBudget, Config, Locks, Policy, RobustLocks, SharedCache};

use super::account::{work, Tally};
use crate::support::content::{check, key, value, Random};
use crate::support::fork::{join, shared_words, Child, Exit};
use crate::support::memory::{Arena, HookLocks};

crate::scenarios![kill:
    a_writer_killed_anywhere_costs_at_most_its_partition,
    survivors_go_on_while_others_are_killed,
    a_reader_killed_in_its_closure_leaves_one_pin_and_nothing_else,
    a_damaged_partition_is_emptied_once_and_the_others_stay,
    ids_from_before_a_reset_find_nothing_after_it,
    a_reset_copes_with_a_slab_that_was_about_to_serve_the_directory,
    a_reset_leaves_alone_what_another_reader_has_pinned,
    a_pin_from_before_a_reset_is_taken_back_without_harm,
    a_removed_entry_whose_last_pin_just_went_is_no_inconsistency,
    a_removed_entry_whose_reader_was_killed_before_it_freed_it_is_freed_by_others,
];

fn config(policy: Policy, partitions: u32) -> Config {
    Config::bytes(230_000 * partitions as usize).policy(policy).partitions(partitions).slab_bytes(16 << 10)
}

/// Writes without end: every operation that changes something, and nothing that pins.
fn write_forever<L: Locks>(cache: &SharedCache<L>, seed: u64) {
    let mut random = Random(seed);
    let mut out = Vec::new();
    loop {
        let number = random.below(1500) as u32;
        match random.below(20) {
            0..=14 => drop(cache.put(&key(number), &value(number, random.next() as u32, random.value_len()))),
            15 => drop(cache.remove(&key(number))),
            16 => drop(cache.pop_lru()),
            17 => drop(cache.compact(CompactBudget::bytes(10_000))),
            18 => drop(cache.drain_batch(0, &mut Default::default(), &mut Vec::new())),
            _ => drop(cache.get(&key(number), &mut out)),
        }
    }
}

fn check_all<L: Locks>(cache: &SharedCache<L>) -> u64 {
    cache.validate().unwrap_or_else(|error| panic!("{:#?}", error.0));
    let mut count = 0;
    let mut out = Vec::new();
    for entry in cache.iter_with_values() {
        check(&entry.key, entry.value.as_ref().expect("asked for"));
        assert!(cache.peek(&entry.key, &mut out) && Some(&out) == entry.value.as_ref());
        count += 1;
    }
    assert_eq!(count, cache.len());
    count
}

fn a_writer_killed_anywhere_costs_at_most_its_partition() {
    const ROUNDS: u64 = 60;
    let mut damaged_total = 0;
    for (policy, partitions) in [(Policy::Lru, 1), (Policy::Clock, 1), (Policy::Lru, 8), (Policy::Clock, 8)] {
        let config = config(policy, partitions);
        let arena = Arena::for_config(&config);
        let cache = arena.create(&config).unwrap();
        let mut random = Random(u64::from(partitions));
        let mut resets = 0;
        for round in 0..ROUNDS {
            let mut writer = Child::spawn("writer", || write_forever(&cache, round));
            std::thread::sleep(Duration::from_micros(200 + random.next() % 12_000));
            writer.kill();
            assert_eq!(writer.wait(), Exit::Killed(9));
            let damaged = arena.damaged_count(cache.layout());
            assert!(damaged <= 1, "one process changes one partition at a time");
            resets += damaged;
            check_all(&cache);
            assert_eq!(cache.stats().resets, resets, "each damaged partition is found and counted once");
            assert_eq!(arena.damaged_count(cache.layout()), 0);
        }
        let mut entries = 0;
        cache.drain(|key, value| {
            check(key, value);
            entries += 1;
        });
        check_all(&cache);
        let report = cache.memory_report();
        assert!(entries > 0 || policy == Policy::Clock);
        assert_eq!(report.slabs_free, report.slabs_total, "nothing is lost for good");
        damaged_total += resets;
    }
    assert!(damaged_total > 10, "the test wants writers to be killed in the middle of changes: {damaged_total} were");
}

fn survivors_go_on_while_others_are_killed() {
    const KILLS: u64 = 100;
    for (policy, partitions) in [(Policy::Lru, 1), (Policy::Clock, 4)] {
        let cache = SharedCache::shared_mapping(&config(policy, partitions)).unwrap();
        let [stop, steps] = [&shared_words(1)[0], shared_words(3)];
        let tally = Tally::new();
        let survivors = (0..3).map(|survivor| {
            let cache = &cache;
            Child::spawn(format!("survivor {survivor}"), move || {
                let mut seed = survivor;
                while stop.load(Ordering::Relaxed) == 0 {
                    work(cache, seed, 20, 800, tally);
                    steps[survivor as usize].fetch_add(1, Ordering::Relaxed);
                    seed += 3;
                }
            })
        });
        let survivors: Vec<_> = survivors.collect();
        let mut random = Random(77);
        for round in 0..KILLS {
            let mut victim = Child::spawn("victim", || write_forever(&cache, round));
            std::thread::sleep(Duration::from_micros(200 + random.next() % 20_000));
            victim.kill();
            assert_eq!(victim.wait(), Exit::Killed(9));
        }
        let before: Vec<u64> = steps.iter().map(|word| word.load(Ordering::SeqCst)).collect();
        std::thread::sleep(Duration::from_millis(200));
        for (word, before) in steps.iter().zip(before) {
            assert!(word.load(Ordering::SeqCst) > before, "every survivor still makes progress");
        }
        stop.store(1, Ordering::SeqCst);
        join(survivors);
        assert!(check_all(&cache) > 0);
        assert_eq!(cache.pinned(), 0);
        let resets = cache.stats().resets;
        assert!(resets > 0 && resets <= KILLS, "{resets} of {KILLS} killed processes left damage");
        cache.clear();
        let report = cache.memory_report();
        assert_eq!(report.slabs_free, report.slabs_total);
    }
}

fn a_reader_killed_in_its_closure_leaves_one_pin_and_nothing_else() {
    for policy in [Policy::Lru, Policy::Clock] {
        let cache = SharedCache::shared_mapping(&config(policy, 1)).unwrap();
        for number in 0..10 {
            cache.put(&key(number), &value(number, 1, 200)).unwrap();
        }
        for number in 0..3 {
            let pinned = &shared_words(1)[0];
            let mut reader = Child::spawn("reader", || {
                cache.with(&key(number), |_| {
                    pinned.store(1, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_secs(100));
                });
            });
            while pinned.load(Ordering::SeqCst) == 0 {
                std::thread::yield_now();
            }
            reader.kill();
            assert_eq!(reader.wait(), Exit::Killed(9));
        }
        let mut random = Random(5);
        for _ in 0..1500 {
            let number = 10 + random.below(400) as u32;
            cache.put(&key(number), &value(number, 2, random.value_len())).unwrap();
        }
        check_all(&cache);
        let mut out = Vec::new();
        for number in 0..10 {
            // The documented limit: a pin whose holder is dead keeps its entry, and only its entry.
            assert_eq!(cache.get(&key(number), &mut out), number < 3, "entry {number}");
        }
        assert_eq!((cache.pinned(), cache.stats().resets), (3, 0));
        for number in 0..3 {
            cache.put(&key(number), &value(number, 3, 900 * number as usize)).unwrap();
            assert!(cache.get(&key(number), &mut out) && out == value(number, 3, 900 * number as usize));
        }
        check_all(&cache);
        cache.clear();
        cache.validate().unwrap();
        let report = cache.memory_report();
        assert_eq!(report.entries, 0);
        assert!(report.slabs_total - report.slabs_free <= 2, "three small records and slots: {report:#?}");
        for number in 0..300 {
            cache.put(&key(number), &value(number, 4, random.value_len())).unwrap();
        }
        check_all(&cache);
    }
}

fn a_damaged_partition_is_emptied_once_and_the_others_stay() {
    for policy in [Policy::Lru, Policy::Clock] {
        let config = config(policy, 4);
        let arena = Arena::for_config(&config);
        let cache = arena.create(&config).unwrap();
        for number in 0..200 {
            cache.put(&key(number), &value(number, 1, 500)).unwrap();
        }
        let before: HashMap<Vec<u8>, u64> =
            cache.iter().map(|entry| (entry.key, u64::from(entry.id.slot() % 4))).collect();
        let stats = cache.stats();
        arena.damage(cache.layout(), 2);
        let mut out = Vec::new();
        for (key, &partition) in &before {
            assert_eq!(cache.peek(key, &mut out), partition != 2);
        }
        assert_eq!(cache.stats(), pg_shared_lru::Stats { resets: 1, ..stats }, "counters go on counting");
        assert_eq!(arena.damaged_count(cache.layout()), 0);
        cache.validate().unwrap();
        // Whoever comes first finds it: a writer, a walk, a report.
        type Use = fn(&SharedCache<RobustLocks>);
        let uses: [Use; 8] = [
            |cache| drop(cache.iter().count()),
            |cache| drop(cache.stats()),
            |cache| drop(cache.memory_report()),
            |cache| drop(cache.compact(CompactBudget::unlimited())),
            |cache| drop(cache.pop_lru()),
            |cache| drop(cache.clear()),
            |cache| drop(cache.validate().unwrap()),
            |cache| (0..100).for_each(|number| drop(cache.put(&key(number), b"").unwrap())),
        ];
        for (index, find) in uses.into_iter().enumerate() {
            arena.damage(cache.layout(), 1);
            find(&cache);
            assert_eq!(cache.stats().resets, 2 + index as u64);
            cache.validate().unwrap();
        }
    }
}

fn ids_from_before_a_reset_find_nothing_after_it() {
    let config = config(Policy::Lru, 1);
    let arena = Arena::for_config(&config);
    let cache = arena.create(&config).unwrap();
    let mut ids = Vec::new();
    for round in 0..5 {
        for number in 0..150 {
            cache.put(&key(number), &value(number, round, 100 + 100 * round as usize)).unwrap();
        }
        ids.extend(cache.iter().map(|entry| entry.id));
        arena.damage(cache.layout(), 0);
        assert!(cache.is_empty());
        for number in 0..600 {
            cache.put(&key(number), &value(number, round, 30)).unwrap();
        }
        for id in &ids {
            assert_eq!(cache.entry(*id), None, "{id}");
        }
        check_all(&cache);
    }
}

fn a_reset_copes_with_a_slab_that_was_about_to_serve_the_directory() {
    // A process is killed just after it has noted a slab as one of the directory: the slab still holds what it held, the
    // bytes of old values. Whatever they are, they are no generations.
    for byte in [0xff, 0xfe, 0x00, 0x7f] {
        let config = config(Policy::Lru, 1);
        let arena = Arena::for_config(&config);
        let cache = arena.create(&config).unwrap();
        for number in 0..200u32 {
            cache.put(&number.to_be_bytes(), &[byte; 1500]).unwrap();
        }
        cache.clear();
        let slab_count = cache.layout().slab_count;
        arena.damage(cache.layout(), 0);
        for slab in 0..slab_count {
            arena.slab_class(cache.layout(), 0, slab).store(0, Ordering::SeqCst);
        }
        let reset = catch_unwind(AssertUnwindSafe(|| cache.is_empty()));
        assert!(reset.is_ok(), "a reset does not panic over slabs full of {byte:#04x}");
        for number in 0..300 {
            cache.put(&key(number), &value(number, 1, 100)).unwrap();
        }
        assert_eq!(check_all(&cache), 300);
        let report = cache.memory_report();
        assert_eq!(report.slabs_total, u64::from(slab_count));
    }
}

/// A cache with one pinned entry, whose value is handed to `read` together with a second handle.
fn with_a_pinned_entry(value_byte: u8, read: impl FnOnce(&SharedCache<RobustLocks>, &Arena, &[u8])) {
    let config = config(Policy::Lru, 1);
    let arena = Arena::for_config(&config);
    let cache = arena.create(&config).unwrap();
    let other = arena.attach().unwrap();
    cache.put(b"pinned", &[value_byte; 1000]).unwrap();
    let found = cache.with(b"pinned", |bytes| read(&other, &arena, bytes));
    assert!(found.is_some());
    other.validate().unwrap_or_else(|error| panic!("{:#?}", error.0));
}

fn a_reset_leaves_alone_what_another_reader_has_pinned() {
    with_a_pinned_entry(7, |other, arena, bytes| {
        // A third process is killed in the middle of a change; the next one to come empties the partition and fills it.
        arena.damage(other.layout(), 0);
        for number in 0..1000u32 {
            other.put(&number.to_be_bytes(), &[9; 1000]).unwrap();
        }
        assert_eq!(other.stats().resets, 1);
        assert!(bytes.iter().all(|&byte| byte == 7), "the reader's value changes while it reads");
    });
}

fn a_pin_from_before_a_reset_is_taken_back_without_harm() {
    let fill = |other: &SharedCache<RobustLocks>, arena: &Arena| {
        arena.damage(other.layout(), 0);
        // Values that look like a record of generation 1 wherever one reads.
        let value: Vec<u8> = 1u32.to_le_bytes().repeat(250);
        for number in 0..1000u32 {
            other.put(&number.to_be_bytes(), &value).unwrap();
        }
    };
    let config = config(Policy::Lru, 1);
    let arena = Arena::for_config(&config);
    let cache = arena.create(&config).unwrap();
    let other = arena.attach().unwrap();
    cache.put(b"pinned", &[7; 1000]).unwrap();
    cache.with(b"pinned", |_| fill(&other, &arena));
    for entry in other.iter_with_values() {
        let value = entry.value.expect("asked for");
        assert!(value.chunks(4).all(|word| word == [1, 0, 0, 0]), "taking a pin back has written into a value");
    }
    other.validate().unwrap_or_else(|error| panic!("{:#?}", error.0));
}

fn a_removed_entry_whose_last_pin_just_went_is_no_inconsistency() {
    let config = config(Policy::Lru, 1);
    let arena = Arena::for_config(&config);
    let other = Rc::new(arena.create(&config).unwrap());
    let locks = Rc::new(HookLocks::new(&arena));
    let cache = arena.attach_bytes(config.region_bytes().unwrap(), Rc::clone(&locks)).unwrap();
    cache.put(b"key", b"value").unwrap();
    cache.with(b"key", |_| {
        assert!(cache.remove(b"key").is_some());
        // Before this reader gets the lock to free the entry, somebody else validates.
        let other = Rc::clone(&other);
        locks.before_next(move || other.validate().unwrap_or_else(|error| panic!("{:#?}", error.0)));
    });
    other.validate().unwrap();
}

fn a_removed_entry_whose_reader_was_killed_before_it_freed_it_is_freed_by_others() {
    let config = config(Policy::Lru, 1);
    let arena = Arena::for_config(&config);
    let cache = arena.create(&config).unwrap();
    cache.put(b"key", &[1; 100]).unwrap();
    let mut reader = Child::spawn("reader", || {
        let locks = Rc::new(HookLocks::new(&arena));
        let mine = arena.attach_bytes(config.region_bytes().unwrap(), Rc::clone(&locks)).unwrap();
        mine.with(b"key", |_| {
            assert!(mine.remove(b"key").is_some());
            locks.before_next(|| std::process::abort());
        });
    });
    assert_eq!(reader.wait(), Exit::Killed(6));
    cache.validate().unwrap_or_else(|error| panic!("{:#?}", error.0));
    for number in 0..600 {
        cache.put(&key(number), &value(number, 1, 900)).unwrap();
    }
    cache.clear();
    let report = cache.memory_report();
    assert_eq!(report.slabs_free, report.slabs_total, "its pin is gone, so its memory must be");
}
