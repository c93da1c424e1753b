//! Readers that take no lock, beside writers that do everything they can to them: what is read is whole, and is that
//! key's.

use std::sync::atomic::{AtomicU64, Ordering};

use pg_shared_lru::{CompactBudget, Config, LockMode, Locks, Policy, RobustLocks, SharedCache};

use crate::support::content::{Random, check, key, value};
use crate::support::fork::{Child, join, shared_words};
use crate::support::memory::Arena;

crate::scenarios![optimistic_reads:
    threads_read_whole_values_beside_a_writer,
    processes_read_whole_values_beside_a_writer,
    a_key_that_is_always_there_is_always_found,
    a_key_is_found_while_its_entry_moves_from_the_chain_into_the_line,
    a_key_is_found_while_its_value_is_replaced_beside_a_pin,
    readers_do_not_notice_that_a_writer_of_other_keys_has_the_lock,
];

/// Replaced in place, again and again.
const HOT: u32 = 8;
/// All keys with values of many sizes.
const KEYS: u32 = 400;
/// Keys with values of a few bytes, which make the directory grow.
const SMALL: std::ops::Range<u32> = 10_000..14_000;

fn cache(policy: Policy) -> SharedCache<RobustLocks> {
    let config = Config::bytes(512 << 10).partitions(1).slab_bytes(16 << 10).policy(policy);
    SharedCache::shared_mapping(&config).unwrap()
}

/// Changes everything that readers look at, until told to stop.
fn write(cache: &SharedCache<RobustLocks>, stop: &AtomicU64) {
    let mut random = Random(5);
    let hot: Vec<_> = (0..16 * HOT).map(|n| (key(n % HOT), value(n % HOT, n / HOT, 1900))).collect();
    while stop.load(Ordering::Relaxed) == 0 {
        for _ in 0..200 {
            let (key, value) = &hot[random.below(hot.len())];
            cache.put(key, value).unwrap();
        }
        for _ in 0..200 {
            let number = HOT + random.below((KEYS - HOT) as usize) as u32;
            match random.below(8) {
                0 => _ = cache.remove(&key(number)),
                _ => _ = cache.put(&key(number), &value(number, random.next() as u32, random.value_len())).unwrap(),
            }
        }
        match random.below(8) {
            0 => _ = cache.clear(),
            1 => {
                // Slabs of values become slabs of records, and then values again.
                for number in SMALL {
                    cache.put(&key(number), &value(number, 0, 8)).unwrap();
                }
            }
            2 => _ = cache.pop_lru(),
            _ => _ = cache.compact(CompactBudget::bytes(random.below(40_000) as u64)),
        }
    }
}

/// Reads until so many values were read.
fn read(cache: &SharedCache<RobustLocks>, seed: u64, hits_wanted: u32) {
    let mut random = Random(seed);
    let mut out = Vec::new();
    let mut hits = 0;
    while hits < hits_wanted {
        let number = match random.below(8) {
            0..=3 => random.below(HOT as usize) as u32,
            4..=6 => random.below(KEYS as usize) as u32,
            _ => SMALL.start + random.below(SMALL.len()) as u32,
        };
        let key = key(number);
        let found = if random.below(4) == 0 { cache.peek(&key, &mut out) } else { cache.get(&key, &mut out) };
        if found {
            check(&key, &out);
            hits += 1;
        } else {
            assert!(out.is_empty());
        }
    }
}

fn threads_read_whole_values_beside_a_writer() {
    let cache = cache(Policy::Clock);
    let stop = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| write(&cache, &stop));
        let readers: Vec<_> = (1..4)
            .map(|seed| {
                scope.spawn({
                    let cache = &cache;
                    move || read(cache, seed, 30_000)
                })
            })
            .collect();
        let ended: Vec<_> = readers.into_iter().map(|reader| reader.join()).collect();
        stop.store(1, Ordering::Relaxed);
        ended.into_iter().for_each(|result| result.expect("what is read is whole"));
    });
    cache.validate().unwrap();
}

fn processes_read_whole_values_beside_a_writer() {
    let cache = cache(Policy::S3Fifo);
    let stop = &shared_words(1)[0];
    let mut writer = vec![Child::spawn("writer", || write(&cache, stop))];
    let other_address = cache.attach_again().unwrap();
    let readers = (1..4).map(|seed| Child::spawn("reader", || read(&other_address, seed, 30_000))).collect();
    join(readers);
    stop.store(1, Ordering::Relaxed);
    join(std::mem::take(&mut writer));
    cache.validate().unwrap();
}

fn a_key_that_is_always_there_is_always_found() {
    // With few buckets what is not in a cell is in a chain; with a few more, chains come and go, and entries move from
    // them into cells. In the last nothing is ever chained.
    for buckets in [4, 8, 8, 64] {
        let config = Config::bytes(8 << 20).partitions(1).policy(Policy::Clock).buckets(buckets);
        let cache = SharedCache::shared_mapping(&config).unwrap();
        let kept = 0..64u32;
        kept.clone().for_each(|number| _ = cache.put(&key(number), &value(number, 0, 100)).unwrap());
        let stop = AtomicU64::new(0);
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..3)
                .map(|seed| {
                    let (cache, kept) = (&cache, kept.clone());
                    scope.spawn(move || {
                        let mut random = Random(seed);
                        let mut out = Vec::new();
                        for step in 0..15_000 {
                            let key = key(random.below(kept.len()) as u32);
                            assert!(cache.contains(&key));
                            // A replacement beside a pin is a new entry under the same key.
                            if step % 4 == 0 {
                                cache.with(&key, |value| check(&key, value)).expect("it is there");
                            }
                            assert!(cache.get(&key, &mut out));
                            check(&key, &out);
                        }
                    })
                })
                .collect();
            scope.spawn(|| {
                let mut random = Random(9);
                while stop.load(Ordering::Relaxed) == 0 {
                    let number = 100 + random.below(60) as u32;
                    cache.put(&key(number), &value(number, 1, 100)).unwrap();
                    let replaced = random.below(kept.len()) as u32;
                    cache.put(&key(replaced), &value(replaced, random.next() as u32, 100)).unwrap();
                    cache.remove(&key(100 + random.below(60) as u32));
                }
            });
            let ended: Vec<_> = readers.into_iter().map(|reader| reader.join()).collect();
            stop.store(1, Ordering::Relaxed);
            ended.into_iter().for_each(|result| result.expect("a key that stays is found"));
        });
        cache.validate().unwrap();
        assert_eq!(cache.stats().misses, 0);
    }
}

fn readers_do_not_notice_that_a_writer_of_other_keys_has_the_lock() {
    // The first use of an entry is noted under the lock, or the first three.
    for (policy, uses_noted) in [(Policy::Clock, 1), (Policy::S3Fifo, 3)] {
        readers_do_not_notice_a_writer(policy, uses_noted);
    }
}

fn readers_do_not_notice_a_writer(policy: Policy, uses_noted: u32) {
    let config = Config::bytes(512 << 10).partitions(1).policy(policy);
    let arena = Arena::for_config(&config);
    let cache = arena.create(&config).unwrap();
    for number in 0..50 {
        cache.put(&key(number), &value(number, 0, 300)).unwrap();
    }
    let mut out = Vec::new();
    (0..50 * uses_noted).for_each(|number| assert!(cache.get(&key(number % 50), &mut out)));
    let before = cache.stats();
    let locks = arena.locks();
    locks.acquire(0, LockMode::Exclusive);
    for number in 0..50 {
        assert!(
            cache.contains(&key(number)) && cache.peek(&key(number), &mut out) && cache.get(&key(number), &mut out)
        );
        check(&key(number), &out);
        let missing = key(number + 1000);
        let found = (cache.contains(&missing), cache.peek(&missing, &mut out), cache.get(&missing, &mut out));
        assert_eq!(found, (false, false, false), "key {number} is not there");
    }
    locks.release(0, LockMode::Exclusive);
    let after = cache.stats();
    assert_eq!((after.hits, after.misses), (before.hits + 50, before.misses + 50), "and each is counted");
}

/// Asks for a key until told to stop; what `key_now` names stays until it names another.
fn ask(cache: &SharedCache<RobustLocks>, key_now: &AtomicU64, stop: &AtomicU64) {
    while stop.load(Ordering::Relaxed) == 0 {
        let number = key_now.load(Ordering::SeqCst);
        let found = cache.contains(&key(number as u32));
        assert!(found || key_now.load(Ordering::SeqCst) != number, "key {number} is there");
    }
}

fn beside_readers_that_ask(cache: &SharedCache<RobustLocks>, first: u64, write: impl FnOnce(&AtomicU64)) {
    let (key_now, stop) = (AtomicU64::new(first), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2).map(|_| scope.spawn(|| ask(cache, &key_now, &stop))).collect();
        write(&key_now);
        stop.store(1, Ordering::Relaxed);
        readers.into_iter().for_each(|reader| reader.join().expect("a key that is there is found"));
    });
    cache.validate().unwrap();
}

fn one_bucket() -> SharedCache<RobustLocks> {
    let config = Config::bytes(1 << 20).partitions(1).policy(Policy::Clock).buckets(1);
    SharedCache::shared_mapping(&config).unwrap()
}

fn a_key_is_found_while_its_entry_moves_from_the_chain_into_the_line() {
    let cache = one_bucket();
    // One line has twelve entries.
    (0..12).for_each(|number| _ = cache.put(&key(number), b"in the line").unwrap());
    beside_readers_that_ask(&cache, 11, |key_now| {
        for number in 12..60_000u32 {
            cache.put(&key(number), b"chained").unwrap();
            key_now.store(u64::from(number), Ordering::SeqCst);
            // Now the chained one takes the place of this.
            cache.remove(&key(number - 1)).expect("the one before");
        }
    });
}

fn a_key_is_found_while_its_value_is_replaced_beside_a_pin() {
    let cache = one_bucket();
    cache.put(&key(1), b"value").unwrap();
    beside_readers_that_ask(&cache, 1, |_| {
        for step in 0..40_000u32 {
            cache.with(&key(1), |_| cache.put(&key(1), &step.to_le_bytes()).unwrap()).expect("it is there");
        }
    });
}
