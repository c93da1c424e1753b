//! The engine against a plain model: a map and a queue (`testkit::models`).
//!
//! Random operations run on both; after every one the return values, the evicted entries in their order, the counters
//! and the contents must agree, and `validate()` must find nothing wrong. What `s3-fifo` evicts depends on hashes, so here
//! the cache says which entries go; that they are the right ones is tested where the seed can be chosen
//! (`engine::s3fifo`).
//!
//! Entries expire by a clock that the operations set. The model keeps an entry that has expired, as the cache does, until
//! somebody meets it who removes it; each is counted once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use pg_shared_lru::shared::wall_clock::WallClock;
use pg_shared_lru::{
    Classes, CompactBudget, Config, ENTRY_METADATA_BYTES, Evicted, Expiry, NoLocks, Policy, PushError, Put, SharedCache,
};
use proptest::prelude::*;
use testkit::models::{Bound, Clock, Ghosts, Lru, Model, Order, S3Fifo};

/// A model and what the tests know of it.
struct Reference {
    model: Model,
    policy: Policy,
    /// 0: the capacity is in bytes, and the cache says how many go.
    max_entries: usize,
    clock: &'static AtomicU64,
    /// When entries expire, in milliseconds by the clock.
    ends: HashMap<Vec<u8>, u64>,
    default_ttl: Option<Duration>,
    /// Entries that were removed because they had expired.
    expirations: u64,
}

/// The unit in which entries expire, in milliseconds.
const TENTH_MS: u64 = 100;

/// The cache with a clock that stands at the beginning of a tenth of a second.
fn with_clock(cache: SharedCache<NoLocks>) -> (SharedCache<NoLocks>, &'static AtomicU64) {
    const HOUR: Duration = Duration::from_secs(3600);
    let unix_ms = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64;
    let clock: &'static AtomicU64 = Box::leak(Box::new(AtomicU64::new(unix_ms(SystemTime::now()) + 12_345)));
    let cache = cache.with_wall_clock(WallClock::set_by(clock));
    cache.put_with(b"probe", b"", Expiry::After(HOUR)).unwrap();
    let expires = cache.iter().next().unwrap().expires.unwrap();
    clock.store(unix_ms(expires - HOUR), Ordering::SeqCst);
    cache.remove(b"probe");
    (cache, clock)
}

impl Reference {
    fn new(policy: Policy, max_entries: usize, clock: &'static AtomicU64) -> Self {
        let order: Box<dyn Order<Vec<u8>>> = match policy {
            Policy::Lru => Box::new(Lru::default()),
            Policy::Clock => Box::new(Clock::default()),
            Policy::S3Fifo => Box::new(S3Fifo::new(Ghosts::aged())),
            other => panic!("no model of {other}"),
        };
        let bound = if max_entries == 0 { Bound::None } else { Bound::Entries(max_entries) };
        let (ends, default_ttl, expirations) = (HashMap::new(), None, 0);
        Reference { model: Model::new(order, bound), policy, max_entries, clock, ends, default_ttl, expirations }
    }

    fn now_ms(&self) -> u64 {
        self.clock.load(Ordering::SeqCst)
    }

    fn has_expired(&self, key: &[u8]) -> bool {
        self.ends.get(key).is_some_and(|&end| end <= self.now_ms())
    }

    /// Removes an entry if it has expired.
    fn expire(&mut self, key: &[u8]) {
        if self.has_expired(key) {
            self.expirations += u64::from(self.model.remove(key).is_some());
            self.ends.remove(key);
        }
    }

    /// Removes every entry that has expired.
    fn expire_all(&mut self) {
        let keys: Vec<_> = self.model.iter().map(|(key, _)| key.to_vec()).collect();
        keys.iter().for_each(|key| self.expire(key));
    }

    /// Counts an entry that has gone; whether it had expired.
    fn note_gone(&mut self, key: &[u8]) -> bool {
        let expired = self.has_expired(key);
        self.ends.remove(key);
        self.expirations += u64::from(expired);
        expired
    }

    /// Those of the entries that have gone which had not expired.
    fn unexpired(&mut self, gone: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> Vec<(Vec<u8>, Vec<u8>)> {
        gone.into_iter().filter(|(key, _)| !self.note_gone(key)).collect()
    }

    fn set_expiry(&mut self, key: &[u8], expiry: Expiry) {
        let ttl = match expiry {
            Expiry::Default => self.default_ttl,
            Expiry::Never => None,
            Expiry::After(ttl) => Some(ttl),
            // The clock of the model is its own.
            Expiry::At(_) => unreachable!("the operations name no time"),
        };
        match ttl {
            None => _ = self.ends.remove(key),
            Some(ttl) => {
                let whole_tenths_ms = ttl.as_millis() as u64 / TENTH_MS * TENTH_MS;
                self.ends.insert(key.to_vec(), self.now_ms() + whole_tenths_ms);
            }
        }
    }

    fn contains(&self, key: &[u8]) -> bool {
        self.model.contains(key) && !self.has_expired(key)
    }

    fn peek(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.model.peek(key).filter(|_| !self.has_expired(key)).map(<[u8]>::to_vec)
    }

    /// A read that counts. With policy `lru` it has the exclusive lock, and removes what has expired.
    fn get(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        if self.policy == Policy::Lru {
            self.expire(key);
        }
        if self.has_expired(key) { None } else { self.model.get(key).map(<[u8]>::to_vec) }
    }

    fn remove(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        self.expire(key);
        self.ends.remove(key);
        self.model.remove(key)
    }

    /// Takes out the next entry that has not expired.
    fn pop(&mut self) -> Option<(Vec<u8>, Vec<u8>)> {
        loop {
            let (key, value) = self.model.pop()?;
            if !self.note_gone(&key) {
                return Some((key, value));
            }
        }
    }

    /// Whether the model knows what is evicted next.
    fn knows_the_order(&self) -> bool {
        self.policy != Policy::S3Fifo
    }

    /// Takes out an entry that the cache evicted.
    fn lose(&mut self, (key, value): &(Vec<u8>, Vec<u8>)) {
        assert!(!self.note_gone(key), "nobody is handed what has expired");
        assert_same(self.model.remove(key).as_ref(), Some(value), "evicted");
    }

    /// Sweeps until every entry that has expired has gone, wherever the last sweep stopped.
    fn sweep_all(&mut self, cache: &SharedCache<NoLocks>) {
        for _ in 0..2 {
            assert!(cache.sweep(u64::MAX).is_round_complete);
        }
        self.expire_all();
        assert_eq!(cache.stats().expirations, self.expirations);
    }
}

#[derive(Clone, Debug)]
enum Op {
    Get(u16),
    With(u16),
    Peek(u16),
    Contains(u16),
    Push(u16, usize, Expiry),
    PushWhilePinned(u16, usize, Expiry),
    /// The clock goes on so many milliseconds.
    Wait(u64),
    SetDefaultTtl(Option<Duration>),
    Sweep(u64),
    Remove(u16),
    RemoveWhilePinned(u16),
    Pop,
    Compact(u64),
    Clear,
}

fn ops(keys: u16, sizes: impl Strategy<Value = usize> + Clone + 'static) -> impl Strategy<Value = Op> {
    let key = move || 0..keys;
    let ttl = || (0u64..4000).prop_map(Duration::from_millis);
    let expiry =
        || prop_oneof![4 => Just(Expiry::Default), 1 => Just(Expiry::Never), 3 => ttl().prop_map(Expiry::After)];
    prop_oneof![
        8 => key().prop_map(Op::Get),
        2 => key().prop_map(Op::With),
        1 => key().prop_map(Op::Peek),
        1 => key().prop_map(Op::Contains),
        12 => (key(), sizes.clone(), expiry()).prop_map(|(key, size, expiry)| Op::Push(key, size, expiry)),
        1 => (key(), sizes, expiry()).prop_map(|(key, size, expiry)| Op::PushWhilePinned(key, size, expiry)),
        3 => (0u64..8).prop_map(|tenths| Op::Wait(tenths * TENTH_MS)),
        1 => prop_oneof![
            2 => prop::option::of((TENTH_MS..3000).prop_map(Duration::from_millis)).prop_map(Op::SetDefaultTtl),
            1 => (0u64..30).prop_map(Op::Sweep),
            1 => Just(Op::Sweep(u64::MAX)),
        ],
        3 => key().prop_map(Op::Remove),
        1 => key().prop_map(Op::RemoveWhilePinned),
        1 => Just(Op::Pop),
        1 => (0u64..100_000).prop_map(Op::Compact),
        1 => prop_oneof![19 => Just(Op::Compact(u64::MAX)), 1 => Just(Op::Clear)],
    ]
}

/// Keys of different lengths, the same number always giving the same key.
fn key_bytes(key: u16) -> Vec<u8> {
    let mut bytes = key.to_be_bytes().to_vec();
    bytes.resize(2 + usize::from(key) % 23, b'k');
    bytes
}

fn value_bytes(seed: usize, size: usize) -> Vec<u8> {
    (0..size).map(|index| (seed.wrapping_mul(31).wrapping_add(index * 7)) as u8).collect()
}

fn pairs(evicted: &Evicted) -> Vec<(Vec<u8>, Vec<u8>)> {
    evicted.iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
}

/// Compares without printing values of thousands of bytes.
fn assert_same<T: PartialEq + std::fmt::Debug>(found: T, expected: T, what: &str) {
    let brief = |it: &T| format!("{it:?}").chars().take(200).collect::<String>();
    assert!(found == expected, "{what}: found {}…, expected {}…", brief(&found), brief(&expected));
}

/// Runs the operations on a cache bounded in entries: the model says exactly what is evicted.
fn run_bounded_by_entries(policy: Policy, max_entries: u32, max_bytes: usize, ops: Vec<Op>) {
    // A key, and the moment at which the entry expires.
    let max_entry_bytes = (max_bytes + 25 + 4) as u32;
    let config = Config::entries(max_entries, max_entry_bytes).policy(policy).partitions(1).slab_bytes(16 << 10);
    run(&config, policy, max_entries as usize, ops);
}

fn run(config: &Config, policy: Policy, max_entries: usize, ops: Vec<Op>) {
    let (cache, clock) = with_clock(SharedCache::private(config).unwrap());
    let cache = &cache;
    let reference = &mut Reference::new(policy, max_entries, clock);
    let (mut hits, mut misses) = (0, 0);
    for (step, op) in ops.into_iter().enumerate() {
        let mut out = Vec::new();
        let push = |reference: &mut Reference, key: &[u8], size: usize, expiry: Expiry| {
            let value = value_bytes(step, size);
            let known = reference.contains(key);
            let mut evicted = Evicted::default();
            if !reference.knows_the_order() {
                // Who goes, the cache says; it does not say so of what has expired.
                reference.sweep_all(cache);
            }
            reference.expire(key);
            let put = match expiry {
                Expiry::Default => cache.push(key, &value, &mut evicted).unwrap(),
                expiry => cache.push_with(key, &value, expiry, &mut evicted).unwrap(),
            };
            assert_eq!(put, if known { Put::Replaced } else { Put::Inserted });
            if !reference.knows_the_order() {
                if reference.max_entries > 0 {
                    assert_eq!(evicted.len(), usize::from(!known && reference.model.len() == reference.max_entries));
                }
                pairs(&evicted).iter().for_each(|pair| reference.lose(pair));
                assert_eq!(reference.model.contains(key), known, "what is replaced is not evicted for it");
                assert_eq!(reference.model.put(key, &value), Ok(Vec::new()));
            } else if reference.max_entries > 0 {
                let gone = reference.model.put(key, &value).unwrap();
                assert_same(pairs(&evicted), reference.unexpired(gone), "evicted");
            } else {
                // Bounded by bytes: how many go is the cache's business, but it must be the right ones.
                let count = evicted.len() as u64 + cache.stats().expirations - reference.expirations;
                // The entry whose value is being replaced is not evicted for it.
                let gone = (0..count).map(|_| reference.model.evict(&|other| other != key).expect("one more"));
                let gone: Vec<_> = gone.collect();
                assert_same(pairs(&evicted), reference.unexpired(gone), "evicted");
                assert_eq!(reference.model.put(key, &value), Ok(Vec::new()));
            }
            reference.set_expiry(key, expiry);
        };
        match op.clone() {
            Op::Get(key) => {
                let key = key_bytes(key);
                let expected = reference.get(&key);
                assert_same(cache.get(&key, &mut out).then_some(out), expected.clone(), "get");
                *(if expected.is_some() { &mut hits } else { &mut misses }) += 1;
            }
            Op::With(key) => {
                let key = key_bytes(key);
                let expected = reference.get(&key);
                assert_same(cache.with(&key, <[u8]>::to_vec), expected.clone(), "with");
                *(if expected.is_some() { &mut hits } else { &mut misses }) += 1;
            }
            Op::Peek(key) => {
                let expected = reference.peek(&key_bytes(key));
                assert_same(cache.peek(&key_bytes(key), &mut out).then_some(out), expected, "peek");
            }
            Op::Contains(key) => {
                assert_eq!(cache.contains(&key_bytes(key)), reference.contains(&key_bytes(key)))
            }
            Op::Push(key, size, expiry) => push(reference, &key_bytes(key), size, expiry),
            Op::Wait(ms) => _ = clock.fetch_add(ms, Ordering::SeqCst),
            Op::SetDefaultTtl(ttl) => {
                cache.set_default_ttl(ttl).unwrap();
                reference.default_ttl = ttl;
                assert_eq!(cache.default_ttl(), ttl);
            }
            Op::Sweep(budget) => {
                let (entries, bytes) = (cache.len(), cache.bytes());
                let report = cache.sweep(budget);
                assert!(report.examined <= budget);
                assert_eq!(entries - cache.len(), report.expired);
                assert_eq!(bytes - cache.bytes(), report.bytes_freed);
                reference.sweep_all(cache);
            }
            Op::PushWhilePinned(key, size, expiry) => {
                let key = key_bytes(key);
                let before = reference.get(&key);
                *(if before.is_some() { &mut hits } else { &mut misses }) += 1;
                let seen = cache.with(&key, |value| {
                    let old = value.to_vec();
                    push(reference, &key, size, expiry);
                    cache.validate().unwrap();
                    assert!(value == old, "a pinned value does not change under its reader");
                    old
                });
                assert_same(seen, before, "read while it changes");
            }
            Op::Remove(key) => assert_same(cache.remove(&key_bytes(key)), reference.remove(&key_bytes(key)), "remove"),
            Op::RemoveWhilePinned(key) => {
                let key = key_bytes(key);
                let before = reference.get(&key);
                *(if before.is_some() { &mut hits } else { &mut misses }) += 1;
                let seen = cache.with(&key, |value| {
                    assert_same(cache.remove(&key), reference.remove(&key), "remove while pinned");
                    cache.compact(CompactBudget::unlimited());
                    cache.validate().unwrap();
                    value.to_vec()
                });
                assert_same(seen, before, "read while it changes");
            }
            Op::Pop if reference.knows_the_order() => assert_same(cache.pop_lru(), reference.pop(), "pop_lru"),
            Op::Pop => {
                reference.sweep_all(cache);
                let popped = cache.pop_lru();
                assert_eq!(popped.is_none(), reference.model.is_empty());
                popped.iter().for_each(|pair| reference.lose(pair));
            }
            Op::Compact(budget) => {
                let budget = if budget == u64::MAX { CompactBudget::unlimited() } else { CompactBudget::bytes(budget) };
                cache.compact(budget);
            }
            Op::Clear => {
                assert_eq!(cache.clear(), reference.model.len() as u64);
                let Reference { policy, max_entries, default_ttl, expirations, .. } = *reference;
                *reference = Reference { default_ttl, expirations, ..Reference::new(policy, max_entries, clock) };
            }
        }
        cache.validate().unwrap_or_else(|error| panic!("after step {step}, {op:?}: {:#?}", error.0));
        assert_eq!(cache.len(), reference.model.len() as u64);
        assert_eq!(cache.bytes(), reference.model.bytes());
    }
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.misses, stats.resets), (hits, misses, 0));
    assert_eq!(stats.expirations, reference.expirations);
    for entry in cache.iter() {
        let end_ms = entry.expires.map(|end| end.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64);
        assert_eq!(end_ms.as_ref(), reference.ends.get(&entry.key));
        assert_eq!(cache.entry(entry.id).map(|entry| entry.key), Some(entry.key));
    }
    let mut walked: Vec<_> = cache.iter_with_values().map(|entry| (entry.key, entry.value.unwrap())).collect();
    let there = reference.model.iter().filter(|(key, _)| !reference.has_expired(key));
    let mut expected: Vec<_> = there.map(|(key, value)| (key.to_vec(), value.to_vec())).collect();
    walked.sort();
    expected.sort();
    assert_same(walked, expected, "walk");
    let mut drained = Vec::new();
    cache.drain(|key, value| drained.push((key.to_vec(), value.to_vec())));
    let mut in_order: Vec<_> = std::iter::from_fn(|| reference.pop()).collect();
    if !reference.knows_the_order() {
        drained.sort();
        in_order.sort();
    }
    assert_same(drained, in_order, "drained in the order of eviction");
    assert_eq!(cache.stats().expirations, reference.expirations);
    cache.validate().unwrap();
    let report = cache.memory_report();
    assert_eq!((report.slabs_free, report.entries), (report.slabs_total, 0), "every slab is back in the pool");
}

fn sizes() -> impl Strategy<Value = usize> + Clone {
    prop_oneof![4 => 0usize..100, 4 => 100usize..2000, 2 => 1900usize..2100, 1 => 2000usize..9000].boxed()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn lru_of_n_entries_does_what_a_map_and_a_queue_do(ops in prop::collection::vec(ops(40, sizes()), 1..300), capacity in 1u32..30) {
        run_bounded_by_entries(Policy::Lru, capacity, 9000, ops);
    }

    #[test]
    fn clock_of_n_entries_does_what_a_map_and_a_queue_do(ops in prop::collection::vec(ops(40, sizes()), 1..300), capacity in 1u32..30) {
        run_bounded_by_entries(Policy::Clock, capacity, 9000, ops);
    }

    #[test]
    fn s3_fifo_of_n_entries_loses_what_it_evicts_and_nothing_else(ops in prop::collection::vec(ops(40, sizes()), 1..300), capacity in 1u32..30) {
        run_bounded_by_entries(Policy::S3Fifo, capacity, 9000, ops);
    }

    #[test]
    fn s3_fifo_of_b_bytes_loses_what_it_evicts_and_nothing_else(ops in prop::collection::vec(ops(200, sizes()), 100..600)) {
        let config = Config::bytes(200 << 10).partitions(1).slab_bytes(16 << 10).buckets(2).policy(Policy::S3Fifo);
        run(&config, Policy::S3Fifo, 0, ops);
    }

    #[test]
    fn lru_of_b_bytes_evicts_in_order_whatever_the_sizes(ops in prop::collection::vec(ops(200, sizes()), 100..600)) {
        let config = Config::bytes(200 << 10).partitions(1).slab_bytes(16 << 10).buckets(2);
        run(&config, Policy::Lru, 0, ops);
    }

    #[test]
    fn explicit_classes_work_like_any(ops in prop::collection::vec(ops(100, 0usize..3000), 50..300)) {
        let classes = Classes::Explicit(vec![64, 512, 1024]);
        let config = Config::bytes(200 << 10).partitions(1).slab_bytes(16 << 10).classes(classes);
        run(&config, Policy::Lru, 0, ops);
    }
}

#[test]
fn a_full_region_takes_any_size_next_no_class_starves() {
    // Fill with one size, then push other sizes: slabs must change hands, not pile up in the first class.
    let config = Config::bytes(4 << 20).partitions(1).slab_bytes(16 << 10);
    let cache = SharedCache::private(&config).unwrap();
    let fill = |size: usize, tag: u8| {
        for number in 0..80_000u32 {
            let key = [&[tag][..], &number.to_be_bytes()].concat();
            cache.put(&key, &vec![tag; size]).unwrap();
        }
        let report = cache.memory_report();
        assert!(report.utilisation() > 0.85, "{size}: {:.3} {report:#?}", report.utilisation());
        cache.validate().unwrap();
    };
    for (size, tag) in [(32, 1), (900, 2), (150, 3), (1800, 4), (3000, 5), (40, 6)] {
        fill(size, tag);
    }
    assert!(cache.stats().slabs_moved > 0);
}

#[test]
fn an_entry_costs_what_the_formula_says() {
    const { assert!(ENTRY_METADATA_BYTES <= 48) };
    let cache = SharedCache::private(&Config::entries(10_000, 100).partitions(1)).unwrap();
    for number in 0..10_000u64 {
        cache.put(&number.to_be_bytes(), &[7; 80]).unwrap();
    }
    let report = cache.memory_report();
    assert_eq!(report.payload_bytes, 10_000 * 88);
    assert_eq!(report.metadata_bytes, 10_000 * ENTRY_METADATA_BYTES);
}

#[test]
fn what_is_too_large_is_refused_with_its_size_and_the_limit() {
    let cache = SharedCache::private(&Config::bytes(1 << 20).partitions(1).slab_bytes(16 << 10)).unwrap();
    let max = cache.resolved().max_entry_bytes;
    cache.put(b"k", &vec![1; max - 1]).unwrap();
    assert_eq!(cache.put(b"k", &vec![2; max]), Err(PushError::TooLarge { bytes: max + 1, max }));
    let mut out = Vec::new();
    assert!(cache.get(b"k", &mut out) && out == vec![1; max - 1], "the old value stays");
    let longest = cache.resolved().max_key_bytes;
    cache.put(&vec![b'k'; longest], b"v").unwrap();
    assert_eq!(
        cache.put(&vec![b'k'; longest + 1], b"v"),
        Err(PushError::KeyTooLong { bytes: longest + 1, max: longest })
    );
    assert_eq!(cache.stats().refused, 2);
    cache.validate().unwrap();
}

#[test]
fn when_everything_is_pinned_a_push_is_refused_and_nothing_is_lost() {
    let cache = SharedCache::private(&Config::entries(2, 64).partitions(1)).unwrap();
    cache.put(b"a", b"1").unwrap();
    cache.put(b"b", b"2").unwrap();
    cache.with(b"a", |_| {
        cache.with(b"b", |_| {
            assert!(matches!(cache.put(b"c", b"3"), Err(PushError::Full { pinned: 2, .. })));
        })
    });
    assert!(cache.contains(b"a") && cache.contains(b"b") && !cache.contains(b"c"));
    cache.put(b"c", b"3").unwrap();
    assert!(!cache.contains(b"a"));
    cache.validate().unwrap();
}

#[test]
fn where_nothing_may_be_evicted_nothing_is() {
    let cache = SharedCache::private(&Config::bytes(200 << 10).partitions(1)).unwrap();
    let stored = (0u32..).take_while(|number| cache.put_if_room(&number.to_be_bytes(), &[1; 700]).is_ok()).count();
    assert!(stored > 50);
    assert!(matches!(cache.put_if_room(b"more", &[1; 700]), Err(PushError::Full { pinned: 0, .. })));
    assert_eq!((cache.len(), cache.stats().evictions), (stored as u64, 0));
    cache.validate().unwrap();
    let full = SharedCache::private(&Config::entries(1, 64)).unwrap();
    full.put_if_room(b"a", b"1").unwrap();
    assert!(full.put_if_room(b"b", b"2").is_err());
    assert_eq!(full.put_if_room(b"a", b"3"), Ok(Put::Replaced));
}

#[test]
fn an_id_finds_its_entry_and_never_another() {
    let cache = SharedCache::private(&Config::bytes(1 << 20).partitions(2).slab_bytes(16 << 10)).unwrap();
    for number in 0..500u32 {
        cache.put(&number.to_be_bytes(), &[1; 10]).unwrap();
    }
    let ids: HashMap<_, _> = cache.iter().map(|entry| (entry.id, entry.key)).collect();
    assert_eq!(ids.len(), 500);
    for round in 0..3 {
        for number in 0..20_000u32 {
            // Different sizes, so that slabs of records and slabs of values change places.
            cache.put(&(number + 1000).to_be_bytes(), &vec![2; 16 + 300 * round]).unwrap();
        }
    }
    for (id, key) in &ids {
        assert_eq!(cache.entry(*id).map(|entry| entry.key), cache.contains(key).then(|| key.clone()), "{id}");
    }
    assert!(ids.keys().any(|id| cache.entry(*id).is_none()));
}

#[test]
fn a_walk_sees_every_entry_that_stays_exactly_once() {
    let cache = SharedCache::private(&Config::bytes(8 << 20).partitions(4).slab_bytes(16 << 10)).unwrap();
    for number in 0..1000u32 {
        cache.put(&number.to_be_bytes(), &[3; 100]).unwrap();
    }
    let mut seen = HashMap::<Vec<u8>, u32>::new();
    for (step, entry) in cache.iter().enumerate() {
        *seen.entry(entry.key).or_default() += 1;
        // Others come and go, values move and are replaced.
        let other = 10_000 + step as u32 % 50;
        cache.put(&other.to_be_bytes(), &vec![4; 10 + step % 900]).unwrap();
        cache.put(&(step as u32 % 1000).to_be_bytes(), &vec![5; 50 + step % 300]).unwrap();
        cache.remove(&(10_000 + (step as u32 + 25) % 50).to_be_bytes());
        cache.compact(CompactBudget::bytes(2000));
    }
    assert_eq!(cache.stats().evictions, 0, "the test wants a cache that is large enough");
    for number in 0..1000u32 {
        assert_eq!(seen.get(&number.to_be_bytes()[..]), Some(&1), "entry {number}");
    }
}
