//! The engine against a plain model: a map and a queue (`testkit::models`).
//!
//! Random operations run on both; after every one the return values, the evicted entries in their order, the counters
//! and the contents must agree, and `validate()` must find nothing wrong. What `s3-fifo` evicts depends on hashes, so here
//! the cache says which entries go; that they are the right ones is tested where the seed can be chosen
//! (`engine::s3fifo`).

use std::collections::HashMap;

use pg_shared_lru::{
    Classes, CompactBudget, Config, ENTRY_METADATA_BYTES, Evicted, NoLocks, Policy, PushError, Put, SharedCache,
};
use proptest::prelude::*;
use testkit::models::{Bound, Clock, Ghosts, Lru, Model, Order, S3Fifo};

/// A model and what the tests know of it.
struct Reference {
    model: Model,
    policy: Policy,
    /// 0: the capacity is in bytes, and the cache says how many go.
    max_entries: usize,
}

impl Reference {
    fn new(policy: Policy, max_entries: usize) -> Self {
        let order: Box<dyn Order<Vec<u8>>> = match policy {
            Policy::Lru => Box::new(Lru::default()),
            Policy::Clock => Box::new(Clock::default()),
            Policy::S3Fifo => Box::new(S3Fifo::new(Ghosts::aged())),
            other => panic!("no model of {other}"),
        };
        let bound = if max_entries == 0 { Bound::None } else { Bound::Entries(max_entries) };
        Reference { model: Model::new(order, bound), policy, max_entries }
    }

    fn get(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        self.model.get(key).map(<[u8]>::to_vec)
    }

    /// Whether the model knows what is evicted next.
    fn knows_the_order(&self) -> bool {
        self.policy != Policy::S3Fifo
    }

    /// Takes out an entry that the cache evicted.
    fn lose(&mut self, (key, value): &(Vec<u8>, Vec<u8>)) {
        assert_same(self.model.remove(key).as_ref(), Some(value), "evicted");
    }
}

#[derive(Clone, Debug)]
enum Op {
    Get(u16),
    With(u16),
    Peek(u16),
    Contains(u16),
    Push(u16, usize),
    PushWhilePinned(u16, usize),
    Remove(u16),
    RemoveWhilePinned(u16),
    Pop,
    Compact(u64),
    Clear,
}

fn ops(keys: u16, sizes: impl Strategy<Value = usize> + Clone + 'static) -> impl Strategy<Value = Op> {
    let key = move || 0..keys;
    prop_oneof![
        8 => key().prop_map(Op::Get),
        2 => key().prop_map(Op::With),
        1 => key().prop_map(Op::Peek),
        1 => key().prop_map(Op::Contains),
        12 => (key(), sizes.clone()).prop_map(|(key, size)| Op::Push(key, size)),
        1 => (key(), sizes).prop_map(|(key, size)| Op::PushWhilePinned(key, size)),
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
    let max_entry_bytes = (max_bytes + 25) as u32;
    let config = Config::entries(max_entries, max_entry_bytes).policy(policy).partitions(1).slab_bytes(16 << 10);
    let cache = SharedCache::private(&config).unwrap();
    run(&cache, &mut Reference::new(policy, max_entries as usize), ops);
}

fn run(cache: &SharedCache<NoLocks>, reference: &mut Reference, ops: Vec<Op>) {
    let (mut hits, mut misses) = (0, 0);
    for (step, op) in ops.into_iter().enumerate() {
        let mut out = Vec::new();
        let push = |reference: &mut Reference, key: &[u8], size: usize| {
            let value = value_bytes(step, size);
            let known = reference.model.contains(key);
            let mut evicted = Evicted::default();
            let put = cache.push(key, &value, &mut evicted).unwrap();
            assert_eq!(put, if known { Put::Replaced } else { Put::Inserted });
            if !reference.knows_the_order() {
                if reference.max_entries > 0 {
                    assert_eq!(evicted.len(), usize::from(!known && reference.model.len() == reference.max_entries));
                }
                pairs(&evicted).iter().for_each(|pair| reference.lose(pair));
                assert_eq!(reference.model.contains(key), known, "what is replaced is not evicted for it");
                assert_eq!(reference.model.put(key, &value), Ok(Vec::new()));
            } else if reference.max_entries > 0 {
                assert_same(Ok(pairs(&evicted)), reference.model.put(key, &value), "evicted");
            } else {
                // Bounded by bytes: how many go is the cache's business, but it must be the right ones.
                for pair in pairs(&evicted) {
                    // The entry whose value is being replaced is not evicted for it.
                    assert_same(Some(pair), reference.model.evict(&|other| other != key), "evicted");
                }
                assert_eq!(reference.model.put(key, &value), Ok(Vec::new()));
            }
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
                let expected = reference.model.peek(&key_bytes(key)).map(<[u8]>::to_vec);
                assert_same(cache.peek(&key_bytes(key), &mut out).then_some(out), expected, "peek");
            }
            Op::Contains(key) => {
                assert_eq!(cache.contains(&key_bytes(key)), reference.model.contains(&key_bytes(key)))
            }
            Op::Push(key, size) => push(reference, &key_bytes(key), size),
            Op::PushWhilePinned(key, size) => {
                let key = key_bytes(key);
                let before = reference.get(&key);
                *(if before.is_some() { &mut hits } else { &mut misses }) += 1;
                let seen = cache.with(&key, |value| {
                    let old = value.to_vec();
                    push(reference, &key, size);
                    cache.validate().unwrap();
                    assert!(value == old, "a pinned value does not change under its reader");
                    old
                });
                assert_same(seen, before, "read while it changes");
            }
            Op::Remove(key) => {
                assert_same(cache.remove(&key_bytes(key)), reference.model.remove(&key_bytes(key)), "remove")
            }
            Op::RemoveWhilePinned(key) => {
                let key = key_bytes(key);
                let before = reference.get(&key);
                *(if before.is_some() { &mut hits } else { &mut misses }) += 1;
                let seen = cache.with(&key, |value| {
                    assert_same(cache.remove(&key), reference.model.remove(&key), "remove while pinned");
                    cache.compact(CompactBudget::unlimited());
                    cache.validate().unwrap();
                    value.to_vec()
                });
                assert_same(seen, before, "read while it changes");
            }
            Op::Pop if reference.knows_the_order() => assert_same(cache.pop_lru(), reference.model.pop(), "pop_lru"),
            Op::Pop => {
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
                *reference = Reference::new(reference.policy, reference.max_entries);
            }
        }
        cache.validate().unwrap_or_else(|error| panic!("after step {step}, {op:?}: {:#?}", error.0));
        assert_eq!(cache.len(), reference.model.len() as u64);
        assert_eq!(cache.bytes(), reference.model.bytes());
    }
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.misses, stats.resets), (hits, misses, 0));
    let mut walked: Vec<_> = cache.iter_with_values().map(|entry| (entry.key, entry.value.unwrap())).collect();
    let mut expected: Vec<_> = reference.model.iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect();
    walked.sort();
    expected.sort();
    assert_same(walked, expected, "walk");
    let mut drained = Vec::new();
    cache.drain(|key, value| drained.push((key.to_vec(), value.to_vec())));
    let mut in_order: Vec<_> = std::iter::from_fn(|| reference.model.pop()).collect();
    if !reference.knows_the_order() {
        drained.sort();
        in_order.sort();
    }
    assert_same(drained, in_order, "drained in the order of eviction");
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
        let cache = SharedCache::private(&config).unwrap();
        run(&cache, &mut Reference::new(Policy::S3Fifo, 0), ops);
    }

    #[test]
    fn lru_of_b_bytes_evicts_in_order_whatever_the_sizes(ops in prop::collection::vec(ops(200, sizes()), 100..600)) {
        let config = Config::bytes(200 << 10).partitions(1).slab_bytes(16 << 10).buckets(2);
        let cache = SharedCache::private(&config).unwrap();
        run(&cache, &mut Reference::new(Policy::Lru, 0), ops);
    }

    #[test]
    fn explicit_classes_work_like_any(ops in prop::collection::vec(ops(100, 0usize..3000), 50..300)) {
        let classes = Classes::Explicit(vec![64, 512, 1024]);
        let config = Config::bytes(200 << 10).partitions(1).slab_bytes(16 << 10).classes(classes);
        let cache = SharedCache::private(&config).unwrap();
        run(&cache, &mut Reference::new(Policy::Lru, 0), ops);
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
