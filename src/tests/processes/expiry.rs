//! Entries that expire, in several processes: no reader gets a value whose time was over when the read began, whatever
//! writers and sweeps do meanwhile; one that is renewed in time is always found.
//!
//! The clock is a word that all processes share. A value says when it ends, so that a reader can tell. Writers take turns,
//! and the clock goes on between two of their stores: so what a value says is exactly when it expires.

use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pg_shared_lru::shared::wall_clock::WallClock;
use pg_shared_lru::{CompactBudget, Config, Expiry, NearCache, Policy, RobustLocks, TypedCache};

use crate::support::content::Random;
use crate::support::fork::{Child, join, shared_words};

crate::scenarios![expiry:
    no_reader_gets_what_has_expired_beside_writers_that_renew_it,
    a_cache_outlives_its_writer_with_its_times,
];

type Cache = TypedCache<u32, Vec<u64>, RobustLocks>;

/// Renewed before their end, always.
const KEPT: u32 = 4;
/// Renewed now and then.
const KEYS: u32 = 60;
const KEPT_TTL_MS: u64 = 60_000;
const TENTH_MS: u64 = 100;

/// Words of the processes' own.
struct Shared {
    clock: &'static AtomicU64,
    turn: &'static AtomicU64,
    stop: &'static AtomicU64,
}

impl Shared {
    fn new() -> Shared {
        let [clock, turn, stop] = shared_words(3) else { unreachable!("as many as asked for") };
        clock.store(WallClock::SYSTEM.unix_ms(), Ordering::SeqCst);
        Shared { clock, turn, stop }
    }

    /// Runs `body` while no other writer runs, and the clock stands.
    fn in_turn<R>(&self, body: impl FnOnce() -> R) -> R {
        while self.turn.compare_exchange(0, 1, Ordering::SeqCst, Ordering::SeqCst).is_err() {
            std::thread::yield_now();
        }
        let result = body();
        self.turn.store(0, Ordering::SeqCst);
        result
    }

    fn now_ms(&self) -> u64 {
        self.clock.load(Ordering::SeqCst)
    }
}

fn cache(policy: Policy, shared: &Shared) -> Cache {
    let config = Config::bytes(1 << 20).partitions(2).slab_bytes(16 << 10).policy(policy);
    Cache::shared_mapping(&config).unwrap().with_wall_clock(WallClock::set_by(shared.clock))
}

/// Stores, removes, sweeps and compacts until told to stop; the clock goes on.
fn write(cache: &Cache, shared: &Shared, seed: u64) {
    let mut random = Random(seed);
    while shared.stop.load(Ordering::SeqCst) == 0 {
        shared.in_turn(|| {
            let now_ms = shared.now_ms();
            let put = |key: u32, words: usize, ttl_ms: u64| {
                let value = vec![now_ms + ttl_ms; words];
                cache.put_with(&key, &value, Expiry::After(Duration::from_millis(ttl_ms))).unwrap();
            };
            let words = 1 + [10, 100, 1200][random.below(3)];
            match random.below(12) {
                0 => _ = cache.sweep(random.below(50) as u64),
                1 => _ = cache.remove(&(KEPT + random.below(KEYS as usize) as u32)),
                2 => _ = cache.compact(CompactBudget::bytes(10_000)),
                3..=5 => put(random.below(KEPT as usize) as u32, words, KEPT_TTL_MS),
                _ => put(KEPT + random.below(KEYS as usize) as u32, words, random.below(1500) as u64),
            }
            // So slowly that what is kept is renewed long before its end.
            shared.clock.fetch_add(random.below(2) as u64 * TENTH_MS / 2, Ordering::SeqCst);
        });
        if random.below(8) == 0 {
            for key in 0..KEPT {
                shared.in_turn(|| {
                    let value = vec![shared.now_ms() + KEPT_TTL_MS; 20];
                    let expiry = Expiry::After(Duration::from_millis(KEPT_TTL_MS));
                    cache.put_with(&key, &value, expiry).unwrap();
                });
            }
        }
    }
}

/// Reads in every way until so many values were read.
fn read(cache: &Cache, shared: &Shared, seed: u64, hits_wanted: u32) {
    let mut random = Random(seed);
    let mut near = NearCache::new(cache, NonZero::new(16).unwrap());
    let (mut hits, mut misses) = (0, 0);
    while hits < hits_wanted || misses == 0 {
        let key = random.below((KEPT + KEYS) as usize) as u32;
        let before_ms = shared.now_ms();
        let (way, value) = match random.below(7) {
            0 => ("get", cache.get(&key).unwrap()),
            1 => ("peek", cache.peek(&key).unwrap()),
            2 => ("get_many", cache.get_many(&[key]).unwrap().remove(0)),
            3 if random.below(20) == 0 => {
                for entry in cache.iter() {
                    let (key, value) = entry.unwrap();
                    check("walk", key, &value, before_ms);
                }
                continue;
            }
            3 => ("with", cache.with(&key, |bytes| bytes.chunks(8).map(word).collect())),
            _ => ("near", near.get(&key).unwrap().cloned()),
        };
        match value {
            Some(value) => {
                check(way, key, &value, before_ms);
                hits += 1;
            }
            None => {
                assert!(key >= KEPT, "{way}: key {key} is renewed long before its end");
                misses += 1;
            }
        }
    }
}

fn word(bytes: &[u8]) -> u64 {
    u64::from_ne_bytes(bytes.try_into().expect("words"))
}

fn check(way: &str, key: u32, value: &[u64], before_ms: u64) {
    let end_ms = value[0];
    assert!(value.iter().all(|&word| word == end_ms), "{way}: key {key} is whole");
    assert!(end_ms > before_ms, "{way}: key {key} was over {} ms before it was read", before_ms - end_ms);
}

fn no_reader_gets_what_has_expired_beside_writers_that_renew_it() {
    for policy in Policy::ALL {
        let shared = Shared::new();
        let cache = cache(policy, &shared);
        for key in 0..KEPT {
            let expiry = Expiry::After(Duration::from_millis(KEPT_TTL_MS));
            cache.put_with(&key, &vec![shared.now_ms() + KEPT_TTL_MS; 20], expiry).unwrap();
        }
        let writers = (1..3).map(|seed| Child::spawn("writer", || write(&cache, &shared, seed))).collect();
        let readers = (3..6).map(|seed| Child::spawn("reader", || read(&cache, &shared, seed, 20_000))).collect();
        join(readers);
        shared.stop.store(1, Ordering::SeqCst);
        join(writers);
        cache.validate().unwrap();
        let stats = cache.stats();
        assert!(stats.expirations > 10 && stats.resets == 0, "{policy}: {stats:?}");
        shared.clock.fetch_add(KEPT_TTL_MS, Ordering::SeqCst);
        while !cache.sweep(10).is_round_complete {}
        cache.sweep(u64::MAX);
        assert_eq!((cache.len(), cache.iter().count()), (0, 0), "{policy}");
    }
}

fn a_cache_outlives_its_writer_with_its_times() {
    let shared = Shared::new();
    let cache = cache(Policy::Clock, &shared);
    join(vec![Child::spawn("writer", || {
        cache.encoded().set_default_ttl(Some(Duration::from_secs(2))).unwrap();
        cache.put(&1, &vec![1]).unwrap();
        cache.put_with(&2, &vec![2], Expiry::After(Duration::from_secs(1))).unwrap();
    })]);
    assert_eq!(cache.encoded().default_ttl(), Some(Duration::from_secs(2)));
    let there = || [cache.contains(&1), cache.contains(&2)];
    assert_eq!(there(), [true, true]);
    shared.clock.fetch_add(1000, Ordering::SeqCst);
    assert_eq!(there(), [true, false]);
    shared.clock.fetch_add(1000, Ordering::SeqCst);
    assert_eq!(there(), [false, false]);
}
