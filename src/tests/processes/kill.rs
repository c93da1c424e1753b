//! Processes that are killed at any moment, and partitions that are found half-changed.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pg_shared_lru::engine::slab::slab_use::SlabUse;
use pg_shared_lru::{CompactBudget, Config, Locks, Policy, RobustLocks, SharedCache};

use super::accounting::{Readers, Tally, work};
use crate::support::content::{Random, check, key, value};
use crate::support::fork::{Child, Exit, assert_all_run, catch_quietly, join, kill_myself, shared_words};
use crate::support::memory::{Arena, HookLocks};

crate::scenarios![kill:
    a_writer_killed_anywhere_costs_at_most_its_partition,
    survivors_go_on_while_others_are_killed,
    survivors_that_pin_go_on_while_others_are_killed,
    a_reader_killed_in_its_closure_leaves_one_pin_and_nothing_else,
    a_damaged_partition_is_emptied_once_and_the_others_stay,
    ids_from_before_a_reset_find_nothing_after_it,
    a_reset_copes_with_a_slab_that_was_about_to_serve_the_directory,
    a_reset_leaves_alone_what_another_reader_has_pinned,
    a_pin_from_before_a_reset_is_taken_back_without_harm,
    memory_kept_for_readers_over_a_reset_is_reported,
    a_reset_that_is_killed_itself_still_keeps_what_is_pinned,
    resets_and_pins_come_and_go_without_loss_of_memory,
    a_removed_entry_whose_last_pin_just_went_is_no_inconsistency,
    a_reader_killed_before_it_frees_a_removed_entry_costs_that_entry_only,
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
        // So that not nearly every kill meets a change.
        (0..8).for_each(|_| _ = cache.peek(&key(random.below(1500) as u32), &mut out));
        match random.below(20) {
            0..=14 => _ = cache.put(&key(number), &value(number, random.next() as u32, random.value_len())),
            15 => _ = cache.remove(&key(number)),
            16 => _ = cache.pop_lru(),
            17 => _ = cache.compact(CompactBudget::bytes(10_000)),
            18 => _ = cache.drain_batch(0, 100, &mut Default::default(), &mut Vec::new()),
            _ => _ = cache.get(&key(number), &mut out),
        }
    }
}

fn check_all<L: Locks>(cache: &SharedCache<L>) -> u64 {
    check_structures(cache);
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
    for (policy, partitions) in
        [(Policy::Lru, 1), (Policy::Clock, 1), (Policy::S3Fifo, 1), (Policy::Lru, 8), (Policy::S3Fifo, 8)]
    {
        let config = config(policy, partitions);
        let arena = Arena::for_config(&config);
        let cache = arena.create(&config).unwrap();
        let mut random = Random(u64::from(partitions));
        let (mut resets, mut entries) = (0, 0);
        for round in 0..ROUNDS {
            let mut writer = Child::spawn("writer", || write_forever(&cache, round));
            std::thread::sleep(Duration::from_micros(200 + random.next() % 12_000));
            writer.kill();
            assert_eq!(writer.wait(), Exit::Killed(9));
            let damaged = arena.damaged_count(cache.layout());
            assert!(damaged <= 1, "one process changes one partition at a time");
            resets += damaged;
            entries += check_all(&cache);
            assert_eq!(cache.stats().resets, resets, "each damaged partition is found and counted once");
            assert_eq!(arena.damaged_count(cache.layout()), 0);
        }
        assert!(entries > ROUNDS, "the test wants something to be left of each round: {entries}");
        cache.drain(check);
        check_all(&cache);
        let report = cache.memory_report();
        assert_eq!(report.slabs_free, report.slabs_total, "nothing is lost for good");
        damaged_total += resets;
    }
    assert!(damaged_total > 10, "the test wants writers to be killed in the middle of changes: {damaged_total} were");
}

fn survivors_go_on_while_others_are_killed() {
    survivors_go_on(Readers::Copy);
}

fn survivors_that_pin_go_on_while_others_are_killed() {
    survivors_go_on(Readers::Pin);
}

fn survivors_go_on(readers: Readers) {
    const KILLS: u64 = 60;
    for (policy, partitions) in [(Policy::Lru, 1), (Policy::Clock, 4), (Policy::S3Fifo, 2)] {
        let cache = SharedCache::shared_mapping(&config(policy, partitions)).unwrap();
        let (stop, steps) = (&shared_words(1)[0], shared_words(3));
        let tally = Tally::new();
        let survivors = (0..3).map(|survivor| {
            let cache = &cache;
            Child::spawn(format!("survivor {survivor}"), move || {
                let mut seed = survivor;
                while stop.load(Ordering::Relaxed) == 0 {
                    work(cache, seed, 10, 800, tally, readers);
                    steps[survivor as usize].fetch_add(1, Ordering::Relaxed);
                    seed += 3;
                }
            })
        });
        let mut survivors: Vec<_> = survivors.collect();
        let mut random = Random(77);
        for round in 0..KILLS {
            let mut victim = Child::spawn("victim", || write_forever(&cache, round));
            std::thread::sleep(Duration::from_micros(200 + random.next() % 15_000));
            victim.kill();
            assert_eq!(victim.wait(), Exit::Killed(9));
            // Before the next one stirs things up: nobody waits for a lock that nobody has.
            let before: Vec<u64> = steps.iter().map(|word| word.load(Ordering::SeqCst)).collect();
            let start = Instant::now();
            while steps.iter().zip(&before).any(|(word, before)| word.load(Ordering::SeqCst) == *before) {
                assert_all_run(&mut survivors);
                assert!(start.elapsed() < Duration::from_secs(10), "a survivor hangs after {round} kills");
                std::thread::sleep(Duration::from_micros(300));
            }
        }
        stop.store(1, Ordering::SeqCst);
        join(survivors);
        assert!(check_all(&cache) > 0);
        assert_eq!(cache.pinned(), 0);
        let resets = cache.stats().resets;
        assert!(resets > 0 && resets <= KILLS, "{resets} of {KILLS} killed processes left damage");
        cache.clear();
        cache.compact(CompactBudget::unlimited()); // ends the quarantine of slabs that readers had pinned
        let report = cache.memory_report();
        assert_eq!(report.slabs_free, report.slabs_total);
    }
}

fn a_reader_killed_in_its_closure_leaves_one_pin_and_nothing_else() {
    for policy in Policy::ALL {
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
    for policy in Policy::ALL {
        let config = config(policy, 4);
        let arena = Arena::for_config(&config);
        let cache = arena.create(&config).unwrap();
        for number in 0..200 {
            cache.put(&key(number), &value(number, 1, 500)).unwrap();
        }
        let before: HashMap<Vec<u8>, u64> =
            cache.iter().map(|entry| (entry.key, u64::from(entry.id.record() % 4))).collect();
        let stats = cache.stats();
        arena.damage(cache.layout(), 2);
        let mut out = Vec::new();
        for key in before.keys() {
            // A reader that needs no lock need not notice; what it reads is whole.
            assert!(cache.peek(key, &mut out));
            check(key, &out);
        }
        cache.partition_len(2);
        for (key, &partition) in &before {
            assert_eq!(cache.peek(key, &mut out), partition != 2);
        }
        let mut expected = stats;
        expected.resets = 1;
        assert_eq!(cache.stats(), expected, "counters go on counting");
        assert_eq!(arena.damaged_count(cache.layout()), 0);
        cache.validate().unwrap();
        // Whoever comes first finds it: a writer, a walk, a report.
        type Use = fn(&SharedCache<RobustLocks>);
        let uses: [Use; 8] = [
            |cache| _ = cache.iter().count(),
            |cache| _ = cache.stats(),
            |cache| _ = cache.memory_report(),
            |cache| _ = cache.compact(CompactBudget::unlimited()),
            |cache| _ = cache.pop_lru(),
            |cache| _ = cache.clear(),
            |cache| cache.validate().unwrap(),
            |cache| (0..100).for_each(|number| _ = cache.put(&key(number), b"").unwrap()),
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
    // A process is killed just after it has noted a slab as one of the directory: the slab still holds what it held,
    // the bytes of old values. Whatever they are, they are no generations.
    for byte in [0xff, 0xfe, 0x00, 0x7f] {
        let config = config(Policy::Lru, 1);
        let arena = Arena::for_config(&config);
        let cache = arena.create(&config).unwrap();
        for number in 0..200u32 {
            cache.put(&number.to_be_bytes(), &[byte; 1500]).unwrap();
        }
        cache.clear();
        let slab_count = cache.resolved().slabs_per_partition;
        arena.damage(cache.layout(), 0);
        arena.slab_use(cache.layout(), 0, slab_count / 2).store(SlabUse::RECORDS.word(), Ordering::SeqCst);
        let reset = catch_quietly(|| cache.is_empty());
        assert!(reset.is_ok(), "a reset does not panic over slabs full of {byte:#04x}");
        for number in 0..300 {
            cache.put(&key(number), &value(number, 1, 100)).unwrap();
        }
        assert_eq!(check_all(&cache), 300);
        let report = cache.memory_report();
        assert_eq!(report.slabs_total, u64::from(slab_count));
    }
}

/// Pins an entry of a crowded partition, damages the partition as a third process does that is killed, has a second
/// handle fill it with `filler`, and lets the reader look again.
fn reset_while_pinned(
    filler: &[u8],
    look_again: impl FnOnce(&SharedCache<RobustLocks>, &[u8]),
) -> SharedCache<RobustLocks> {
    let config = config(Policy::Lru, 1);
    let arena = Arena::for_config(&config);
    let cache = arena.create(&config).unwrap();
    let other = arena.attach().unwrap();
    // More entries than one slab of the directory has, so that the pinned one's record lies in the second.
    for number in 0..600u32 {
        cache.put(&number.to_be_bytes(), &[7; 8]).unwrap();
    }
    cache.put(b"pinned", &[7; 1000]).unwrap();
    let found = cache.with(b"pinned", |bytes| {
        arena.damage(other.layout(), 0);
        for number in 0..1000u32 {
            other.put(&number.to_be_bytes(), filler).unwrap();
        }
        assert_eq!((other.stats().resets, other.pinned()), (1, 1));
        check_structures(&other);
        look_again(&other, bytes);
    });
    assert!(found.is_some());
    other
}

fn a_reset_leaves_alone_what_another_reader_has_pinned() {
    reset_while_pinned(&[9; 1000], |_, bytes| {
        assert!(bytes.iter().all(|&byte| byte == 7), "the reader's value changes while it reads");
    });
}

fn a_pin_from_before_a_reset_is_taken_back_without_harm() {
    // Values that look like a record of generation 1 wherever one reads.
    let other = reset_while_pinned(&[1, 0, 0, 0].repeat(250), |_, _| ());
    for entry in other.iter_with_values() {
        let value = entry.value.expect("asked for");
        assert!(value.chunks(4).all(|word| word == [1, 0, 0, 0]), "taking a pin back has written into a value");
    }
    check_structures(&other);
}

fn memory_kept_for_readers_over_a_reset_is_reported() {
    reset_while_pinned(&[9; 1000], |other, _| {
        let report = other.memory_report();
        let slabs = report.directory_bytes + report.data_bytes + report.bucket_bytes + report.free_bytes;
        let known = report.fixed_bytes + slabs;
        assert_eq!(known, report.region_bytes, "every byte is accounted for: {report:#?}");
    });
}

fn a_reset_that_is_killed_itself_still_keeps_what_is_pinned() {
    let config = config(Policy::Lru, 1);
    let arena = Arena::for_config(&config);
    let cache = arena.create(&config).unwrap();
    let other = arena.attach().unwrap();
    // Records in slab 0, values in slabs 1 and 2.
    cache.put(b"first", &[7; 1000]).unwrap();
    cache.put(b"second", &[8; 500]).unwrap();
    cache.with(b"first", |first| {
        cache.with(b"second", |second| {
            arena.damage(other.layout(), 0);
            // What a process leaves that is killed while it resets, after it has set aside the first entry's slabs.
            let class = |slab| arena.slab_use(other.layout(), 0, slab);
            class(1).store(SlabUse::QuarantinedValues.word(), Ordering::SeqCst);
            class(0).store(SlabUse::QuarantinedRecords.word(), Ordering::SeqCst);
            arena.quarantined(other.layout(), 0).store(2, Ordering::SeqCst);
            for number in 0..1000u32 {
                other.put(&number.to_be_bytes(), &[9; 500]).unwrap();
            }
            assert!(first.iter().all(|&byte| byte == 7), "the first reader's value changes while it reads");
            assert!(second.iter().all(|&byte| byte == 8), "the second reader's value changes while it reads");
        });
    });
    check_structures(&other);
}

fn resets_and_pins_come_and_go_without_loss_of_memory() {
    let config = config(Policy::Clock, 1);
    let arena = Arena::for_config(&config);
    let cache = arena.create(&config).unwrap();
    let other = arena.attach().unwrap();
    let mut random = Random(11);
    let mut fill = || {
        for _ in 0..200 {
            let number = random.below(300) as u32;
            other.put(&key(number), &value(number, 1, random.value_len())).unwrap();
        }
    };
    for round in 0..20u32 {
        cache.put(b"a", &[1; 800]).unwrap();
        cache.put(b"b", &[2; 100]).unwrap();
        cache.with(b"a", |a| {
            arena.damage(other.layout(), 0);
            fill();
            assert!(cache.put(b"c", &[3; 300]).is_ok());
            cache.with(b"c", |c| {
                // A second reset while slabs are set aside for the first; one of the pinned entries is removed before.
                cache.remove(b"c");
                arena.damage(other.layout(), 0);
                fill();
                assert!(a.iter().all(|&byte| byte == 1) && c.iter().all(|&byte| byte == 3));
                assert_eq!(other.pinned(), 2);
            });
            fill();
            assert!(a.iter().all(|&byte| byte == 1));
            check_structures(&other);
        });
        assert_eq!((other.pinned(), other.stats().resets), (0, u64::from(2 * round + 2)));
        other.clear();
        other.compact(CompactBudget::unlimited());
        check_structures(&other);
        let report = other.memory_report();
        assert_eq!(report.slabs_free, report.slabs_total);
    }
}

fn check_structures<L: Locks>(cache: &SharedCache<L>) {
    cache.validate().unwrap_or_else(|error| panic!("{:#?}", error.0));
}

fn a_removed_entry_whose_last_pin_just_went_is_no_inconsistency() {
    let config = config(Policy::Lru, 1);
    let arena = Arena::for_config(&config);
    let other = Rc::new(arena.create(&config).unwrap());
    let locks = HookLocks::new(&arena);
    let cache = arena.attach_bytes(config.region_bytes().unwrap(), locks.clone()).unwrap();
    cache.put(b"key", b"value").unwrap();
    cache.with(b"key", |_| {
        assert!(cache.remove(b"key").is_some());
        // Before this reader gets the lock to free the entry, somebody else validates.
        let other = Rc::clone(&other);
        locks.before_next(move || other.validate().unwrap_or_else(|error| panic!("{:#?}", error.0)));
    });
    other.validate().unwrap();
}

fn a_reader_killed_before_it_frees_a_removed_entry_costs_that_entry_only() {
    let config = config(Policy::Lru, 1);
    let arena = Arena::for_config(&config);
    let cache = arena.create(&config).unwrap();
    cache.put(b"key", &[1; 100]).unwrap();
    let mut reader = Child::spawn("reader", || {
        let locks = HookLocks::new(&arena);
        let mine = arena.attach_bytes(config.region_bytes().unwrap(), locks.clone()).unwrap();
        mine.with(b"key", |_| {
            assert!(mine.remove(b"key").is_some());
            locks.before_next(kill_myself);
        });
    });
    assert_eq!(reader.wait(), Exit::Killed(9));
    cache.validate().unwrap_or_else(|error| panic!("{:#?}", error.0));
    for number in 0..600 {
        cache.put(&key(number), &value(number, 1, 900)).unwrap();
    }
    check_all(&cache);
    cache.clear();
    let report = cache.memory_report();
    assert!(report.slabs_total - report.slabs_free <= 2, "a record and a slot: {report:#?}");
}
