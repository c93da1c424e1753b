//! Several processes, or threads, use one cache at once; at the end the books must balance.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pg_shared_lru::{CompactBudget, Config, Evicted, Locks, Policy, PushError, Put, RobustLocks, SharedCache, Stats};

use crate::support::content::{Random, check, key, number_of, value};
use crate::support::fork::{Child, join, shared_words};

crate::scenarios![accounting:
    four_processes_lru_1_partition,
    four_processes_lru_8_partitions,
    four_processes_clock_1_partition,
    four_processes_clock_8_partitions,
    four_processes_s3_fifo_1_partition,
    four_processes_s3_fifo_8_partitions,
    four_threads,
    capacity_in_entries_holds_for_all_processes_at_every_moment,
    a_drain_takes_each_entry_once_while_others_insert,
    a_pinned_value_stays_while_other_processes_evict_compact_and_clear,
];

/// What one user of a cache has seen; the words are shared between processes.
#[derive(Clone, Copy)]
pub struct Tally(&'static [AtomicU64]);

const NAMES: [&str; 7] = ["hits", "misses", "inserts", "updates", "evictions", "removals", "refused"];
const HITS: usize = 0;
const MISSES: usize = 1;
const INSERTS: usize = 2;
const UPDATES: usize = 3;
const EVICTIONS: usize = 4;
const REMOVALS: usize = 5;
const REFUSED: usize = 6;

impl Tally {
    pub fn new() -> Tally {
        Tally(shared_words(NAMES.len()))
    }

    fn count(&self, what: usize) {
        self.0[what].fetch_add(1, Ordering::Relaxed);
    }

    fn read(&self, hit: bool) {
        self.count(if hit { HITS } else { MISSES });
    }

    fn assert_equals(&self, stats: Stats) {
        let counted = self.0.iter().map(|word| word.load(Ordering::SeqCst));
        let reported =
            [stats.hits, stats.misses, stats.inserts, stats.updates, stats.evictions, stats.removals, stats.refused];
        for ((name, counted), reported) in NAMES.iter().zip(counted).zip(reported) {
            assert_eq!(counted, reported, "{name}: counted by the processes, and by the cache");
        }
    }
}

/// Whether readers go through `with`, which pins, or through `get`, which copies.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Readers {
    Pin,
    Copy,
}

/// Uses every operation of a cache at random, checks all that it reads and counts all that it does.
pub fn work<L: Locks>(cache: &SharedCache<L>, seed: u64, steps: usize, key_count: u32, tally: Tally, readers: Readers) {
    let mut random = Random(seed);
    let mut out = Vec::new();
    let mut evicted = Evicted::default();
    for step in 0..steps {
        let number = (random.next() % u64::from(key_count)) as u32;
        let key = key(number);
        match random.below(100) {
            roll if roll < 25 || roll < 40 && readers == Readers::Copy => {
                let hit = cache.get(&key, &mut out);
                tally.read(hit);
                if hit {
                    check(&key, &out);
                }
            }
            0..=39 => {
                let nested = random.below(4);
                let hit = cache.with(&key, |bytes| {
                    check(&key, bytes);
                    match nested {
                        0 => push(cache, &mut random, key_count, &mut evicted, tally),
                        1 => std::thread::yield_now(),
                        2 => remove(cache, number, tally),
                        _ => (),
                    }
                    check(&key, bytes);
                });
                tally.read(hit.is_some());
            }
            40..=44 => {
                if cache.peek(&key, &mut out) {
                    check(&key, &out);
                }
                cache.contains(&key);
            }
            45..=84 => push(cache, &mut random, key_count, &mut evicted, tally),
            85..=91 => remove(cache, number, tally),
            92..=93 => {
                if let Some((key, value)) = cache.pop_lru() {
                    check(&key, &value);
                    tally.count(REMOVALS);
                }
            }
            94..=97 => _ = cache.compact(CompactBudget::bytes(random.below(20_000) as u64)),
            98 => {
                let keys = cache.iter().take(100).map(|entry| number_of(&entry.key));
                assert!(keys.into_iter().all(|number| number.is_some()));
            }
            _ if step % 8 == 0 => {
                cache.iter_with_values().for_each(|entry| check(&entry.key, &entry.value.expect("asked for")))
            }
            _ => {
                let entry = cache.iter().nth(random.below(20));
                if let Some(entry) = entry.and_then(|entry| cache.entry(entry.id)) {
                    check(&entry.key, &entry.value.expect("asked for"));
                }
            }
        }
    }
}

fn push<L: Locks>(cache: &SharedCache<L>, random: &mut Random, key_count: u32, evicted: &mut Evicted, tally: Tally) {
    let number = (random.next() % u64::from(key_count)) as u32;
    let value = value(number, random.next() as u32, random.value_len());
    evicted.clear();
    match cache.push(&key(number), &value, evicted) {
        Ok(Put::Inserted) => tally.count(INSERTS),
        Ok(Put::Replaced) => tally.count(UPDATES),
        Err(PushError::Full { .. }) => tally.count(REFUSED), // the others' pins
        Err(error) => panic!("{error}"),
    }
    for (key, value) in evicted.iter() {
        check(key, value);
        tally.count(EVICTIONS);
    }
}

fn remove<L: Locks>(cache: &SharedCache<L>, number: u32, tally: Tally) {
    if let Some(value) = cache.remove(&key(number)) {
        check(&key(number), &value);
        tally.count(REMOVALS);
    }
}

/// The books at the end: counters, contents, memory.
fn close_the_books<L: Locks>(cache: SharedCache<L>, watcher: &SharedCache<L>, tally: Tally) {
    cache.validate().unwrap_or_else(|error| panic!("{:#?}", error.0));
    let stats = cache.stats();
    tally.assert_equals(stats);
    assert_eq!(stats.resets, 0);
    assert!(stats.evictions > 100 && stats.slabs_moved > 10, "the test wants a full cache: {stats:?}");
    let len = cache.len();
    assert_eq!(stats.inserts - stats.evictions - stats.removals, len);
    let report = cache.memory_report();
    let slabs = report.directory_bytes + report.data_bytes + report.free_bytes;
    assert_eq!(report.fixed_bytes + slabs, report.region_bytes, "every byte is accounted for: {report:#?}");
    assert_eq!(cache.pinned(), 0, "no reader is left");

    let mut live: Vec<_> = cache.iter_with_values().map(|entry| (entry.key, entry.value.expect("asked for"))).collect();
    live.iter().for_each(|(key, value)| check(key, value));
    let bytes: usize = live.iter().map(|(key, value)| key.len() + value.len()).sum();
    assert_eq!((live.len() as u64, bytes as u64), (len, cache.bytes()));
    let parts = cache.into_parts();
    assert_eq!(parts.stats, stats);
    let mut drained: Vec<_> = parts.iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect();
    for (key, value) in &drained {
        assert_eq!(parts.get(key), Some(&value[..]));
    }
    live.sort();
    drained.sort();
    assert!(live == drained, "into_parts gives each live entry exactly once");

    watcher.validate().unwrap();
    let report = watcher.memory_report();
    assert_eq!((watcher.len(), report.payload_bytes, report.metadata_bytes), (0, 0, 0));
    assert_eq!(report.slabs_free, report.slabs_total, "every slab is back in the pool");
    assert_eq!(watcher.stats().removals, stats.removals + len);
    watcher.put(b"again", b"usable").unwrap();
    assert!(watcher.contains(b"again"));
}

fn small_config(policy: Policy, partitions: u32) -> Config {
    // About 12 slabs a partition, so that classes fight for every slab.
    Config::bytes(230_000 * partitions as usize).policy(policy).partitions(partitions).slab_bytes(16 << 10)
}

fn four_processes(policy: Policy, partitions: u32) {
    let cache = SharedCache::shared_mapping(&small_config(policy, partitions)).unwrap();
    let tally = Tally::new();
    let key_count = 400 * partitions;
    let children = (0..4)
        .map(|seed| Child::spawn(format!("{seed}"), || work(&cache, seed, 12_000, key_count, tally, Readers::Pin)));
    join(children.collect());
    let watcher = cache.attach_again().unwrap();
    close_the_books(cache, &watcher, tally);
}

fn four_processes_lru_1_partition() {
    four_processes(Policy::Lru, 1);
}

fn four_processes_lru_8_partitions() {
    four_processes(Policy::Lru, 8);
}

fn four_processes_clock_1_partition() {
    four_processes(Policy::Clock, 1);
}

fn four_processes_clock_8_partitions() {
    four_processes(Policy::Clock, 8);
}

fn four_processes_s3_fifo_1_partition() {
    four_processes(Policy::S3Fifo, 1);
}

fn four_processes_s3_fifo_8_partitions() {
    four_processes(Policy::S3Fifo, 8);
}

fn four_threads() {
    for (policy, partitions) in [(Policy::Lru, 1), (Policy::Clock, 4), (Policy::S3Fifo, 4)] {
        let cache = Arc::new(SharedCache::<RobustLocks>::shared_mapping(&small_config(policy, partitions)).unwrap());
        let tally = Tally::new();
        let threads: Vec<_> = (0..4)
            .map(|seed| {
                let cache = Arc::clone(&cache);
                std::thread::spawn(move || work(&cache, 100 + seed, 4000, 400 * partitions, tally, Readers::Pin))
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let watcher = cache.attach_again().unwrap();
        close_the_books(Arc::into_inner(cache).expect("the threads are gone"), &watcher, tally);
    }
}

fn capacity_in_entries_holds_for_all_processes_at_every_moment() {
    const CAPACITY: u32 = 100;
    for (policy, partitions) in
        [(Policy::Lru, 1), (Policy::Clock, 1), (Policy::S3Fifo, 1), (Policy::Lru, 8), (Policy::S3Fifo, 8)]
    {
        let config = Config::entries(CAPACITY, 6040).policy(policy).partitions(partitions).slab_bytes(16 << 10);
        let cache = SharedCache::shared_mapping(&config).unwrap();
        let children = (0..3u32).map(|child| {
            let cache = &cache;
            Child::spawn(format!("{child}"), move || {
                let mut random = Random(u64::from(child));
                for step in 0..500 {
                    let number = child * 1000 + step;
                    cache.put(&key(number), &value(number, step, random.value_len())).unwrap();
                    let len = cache.len();
                    assert!(len <= u64::from(CAPACITY), "{len} entries");
                    assert!(partitions > 1 || step < CAPACITY || len == u64::from(CAPACITY), "{len} entries");
                }
            })
        });
        join(children.collect());
        cache.validate().unwrap();
        // 1,500 keys: every partition has met more than its share.
        assert_eq!(cache.len(), u64::from(CAPACITY));
        assert_eq!(cache.stats().evictions, 1500 - u64::from(CAPACITY));
    }
}

fn a_drain_takes_each_entry_once_while_others_insert() {
    const INSERTS_EACH: u32 = 2000;
    let cache = SharedCache::shared_mapping(&Config::bytes(16 << 20).partitions(4).slab_bytes(16 << 10)).unwrap();
    let started = &shared_words(1)[0];
    let children: Vec<_> = (0..3u32)
        .map(|child| {
            let cache = &cache;
            Child::spawn(format!("{child}"), move || {
                let mut random = Random(u64::from(child));
                for number in child * INSERTS_EACH..(child + 1) * INSERTS_EACH {
                    let put = cache.put(&key(number), &value(number, 7, random.value_len() / 4));
                    assert_eq!(put, Ok(Put::Inserted));
                    started.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    while started.load(Ordering::SeqCst) < 200 {
        std::thread::sleep(Duration::from_micros(100));
    }
    let mut taken = vec![0; 3 * INSERTS_EACH as usize];
    let mut take = |key: &[u8], value: &[u8]| {
        check(key, value);
        taken[number_of(key).expect("checked") as usize] += 1;
    };
    let mut total = 0;
    for _ in 0..5 {
        total += cache.drain(&mut take);
    }
    join(children);
    total += cache.drain(&mut take);
    assert_eq!(cache.stats().evictions, 0, "the test wants a cache that is large enough");
    assert_eq!(total, 3 * u64::from(INSERTS_EACH));
    assert!(taken.iter().all(|&times| times == 1), "each entry is taken exactly once");
    cache.validate().unwrap();
    let report = cache.memory_report();
    assert_eq!((report.entries, report.slabs_free), (0, report.slabs_total));
}

fn a_pinned_value_stays_while_other_processes_evict_compact_and_clear() {
    for policy in Policy::ALL {
        let config = Config::bytes(700_000).policy(policy).partitions(1).slab_bytes(16 << 10);
        let cache = SharedCache::shared_mapping(&config).unwrap();
        for number in 0..8 {
            cache.put(&key(number), &value(number, 1, 50 + 240 * number as usize)).unwrap();
        }
        let (pinned, done) = (&shared_words(1)[0], &shared_words(1)[0]);
        let readers = (0..8).map(|number| {
            let cache = &cache;
            Child::spawn(format!("reader {number}"), move || {
                let found = cache.with(&key(number), |bytes| {
                    pinned.fetch_add(1, Ordering::SeqCst);
                    while done.load(Ordering::SeqCst) == 0 {
                        check(&key(number), bytes);
                        std::thread::sleep(Duration::from_micros(500));
                    }
                    check(&key(number), bytes);
                });
                assert!(found.is_some());
            })
        });
        let readers: Vec<_> = readers.collect();
        while pinned.load(Ordering::SeqCst) < 8 {
            std::thread::yield_now();
        }
        let churn = |seed: u64| {
            let mut random = Random(seed);
            for _ in 0..400 {
                let number = random.below(300) as u32;
                cache.put(&key(number), &value(number, random.next() as u32, random.value_len())).unwrap();
            }
            cache.compact(CompactBudget::unlimited());
            cache.validate().unwrap();
        };
        churn(1);
        cache.remove(&key(1));
        churn(2);
        cache.clear();
        assert_eq!(cache.len(), 0);
        churn(3);
        assert_eq!(cache.pinned(), 8);
        done.store(1, Ordering::SeqCst);
        join(readers);
        assert_eq!(cache.pinned(), 0);
        cache.clear();
        cache.validate().unwrap();
        let report = cache.memory_report();
        assert_eq!(report.slabs_free, report.slabs_total, "what was removed while pinned is freed with the last pin");
    }
}
