//! The drop-in cache against the `lru` crate in the wrapper that it replaces.
//!
//! Both run the same random operations, some millions in all; every return value, the statistics after each operation
//! and the entries that are left, in their order, must be the same. Properties:
//!
//! - capacities from 1 to 5,000, values from 0 to 20,000 bytes, keys and values of several types;
//! - the region grows in the middle, for sizes, for numbers of entries, for long keys, and nothing is evicted for it;
//! - values of neighbour lists and of every type with a codec come back bit for bit;
//! - the first eviction warns once, naming the cache and `maintenance_work_mem`;
//! - a cache of given bytes is filled with live bytes, and loses nothing even if nobody asks for what it displaces.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::fmt::Debug;
use std::hash::Hash;
use std::num::NonZero;

use lru::LruCache;
use pg_shared_lru::adapters::drop_in::MIN_MEMORY_BYTES;
use pg_shared_lru::adapters::graph::{EdgeDistance, Neighbor, NeighborList, NodePointer};
use pg_shared_lru::{CacheKey, CacheStats, CacheValue, Config, DecodeError, LruCacheWithStats, Policy, SharedCache};
use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

fn entries(capacity: usize) -> NonZero<usize> {
    NonZero::new(capacity).unwrap()
}

/// The `lru` crate behind the same surface.
struct Plain<K: Hash + Eq, V> {
    map: LruCache<K, V>,
    stats: CacheStats,
}

impl<K: Hash + Eq + Clone, V> Plain<K, V> {
    fn new(capacity: NonZero<usize>) -> Self {
        Plain { map: LruCache::new(capacity), stats: CacheStats::default() }
    }

    fn count_read(&mut self, found: bool) {
        self.stats.hits += usize::from(found);
        self.stats.misses += usize::from(!found);
    }

    fn contains(&mut self, key: &K) -> bool {
        let found = self.map.contains(key);
        self.count_read(found);
        found
    }

    fn get(&mut self, key: &K) -> Option<&V> {
        let found = self.map.contains(key);
        self.count_read(found);
        self.map.get(key)
    }

    fn push(&mut self, key: K, value: V) -> Option<(K, V)> {
        let known = self.map.contains(&key);
        let out = self.map.push(key, value);
        if known {
            self.stats.updates += 1;
            return None;
        }
        self.stats.inserts += 1;
        self.stats.evictions += usize::from(out.is_some());
        out
    }

    fn pop_lru(&mut self) -> Option<(K, V)> {
        let popped = self.map.pop_lru();
        self.stats.evictions += usize::from(popped.is_some());
        popped
    }
}

/// Compares without printing values of thousands of bytes.
#[track_caller]
fn assert_same<T: PartialEq + Debug>(found: &T, expected: &T, step: usize, what: &str) {
    let brief = |it: &T| format!("{it:?}").chars().take(300).collect::<String>();
    assert!(found == expected, "step {step}, {what}: found {}…, expected {}…", brief(found), brief(expected));
}

/// Runs random operations on both.
fn compare<K, V>(
    capacity: usize,
    steps: usize,
    mut key_of: impl FnMut(&mut SmallRng) -> K,
    mut value_of: impl FnMut(&mut SmallRng, &K) -> V,
) where
    K: CacheKey + Hash + Eq + Clone + Debug,
    V: CacheValue<K> + Clone + PartialEq + Debug,
{
    let mut random = SmallRng::seed_from_u64(capacity as u64);
    let mut plain = Plain::new(entries(capacity));
    let mut cache = LruCacheWithStats::new(entries(capacity), "Compared").warn_with(|_| ());
    for step in 0..steps {
        let key = key_of(&mut random);
        match random.random_range(0..100) {
            0..40 => assert_same(&cache.get(&key), &plain.get(&key), step, "get"),
            40..55 => assert_same(&cache.contains(&key), &plain.contains(&key), step, "contains"),
            55..97 => {
                let value = value_of(&mut random, &key);
                let expected = plain.push(key.clone(), value.clone());
                assert_same(&cache.push(key, value), &expected, step, "push");
            }
            97..99 => assert_same(&cache.pop_lru(), &plain.pop_lru(), step, "pop_lru"),
            _ => assert_same(&cache.pop_displaced(), &None, step, "nothing but the number of entries displaces"),
        }
        let found = (*cache.stats(), cache.len(), cache.is_empty(), cache.cap());
        let expected = (plain.stats, plain.map.len(), plain.map.is_empty(), plain.map.cap());
        assert_same(&found, &expected, step, "statistics, length and capacity");
    }
    let (mut parts, stats) = cache.into_parts();
    assert_eq!(stats, plain.stats);
    for step in 0..20 {
        let key = key_of(&mut random);
        assert_same(&parts.get(&key), &plain.map.get(&key), step, "get of the parts");
    }
    assert_eq!((parts.cap(), parts.len(), parts.is_empty()), (plain.map.cap(), plain.map.len(), plain.map.is_empty()));
    let mut left = parts.into_iter();
    assert_eq!(left.len(), plain.map.len());
    for (step, expected) in plain.map.into_iter().enumerate() {
        assert_same(&left.next(), &Some(expected), step, "drained");
    }
    assert_same(&left.next(), &None, 0, "drained");
}

/// Bytes that no other value has at the same place.
fn content(random: &mut SmallRng, sizes: std::ops::RangeInclusive<usize>) -> Vec<u8> {
    thread_local! {
        static PATTERN: Vec<u8> = SmallRng::seed_from_u64(0).random_iter().take(1 << 16).collect();
    }
    let size = random.random_range(sizes);
    let start = random.random_range(0..(1usize << 16) - size);
    PATTERN.with(|pattern| pattern[start..start + size].to_vec())
}

/// Half of the keys that are asked for are few, so that there are hits at any capacity.
fn number_below(random: &mut SmallRng, keys: u64) -> u64 {
    let keys = if random.random_bool(0.5) { keys } else { keys.div_ceil(8) };
    random.random_range(0..keys)
}

fn compare_small_values(capacity: usize, steps: usize) {
    let keys = 2 * capacity as u64 + 3;
    compare(capacity, steps, |random| number_below(random, keys), |random, _| content(random, 0..=60));
}

#[test]
fn one_entry_is_as_in_lru() {
    compare_small_values(1, 200_000);
}

#[test]
fn two_entries_are_as_in_lru() {
    compare_small_values(2, 700_000);
}

#[test]
fn seven_entries_are_as_in_lru() {
    compare_small_values(7, 700_000);
}

#[test]
fn a_hundred_entries_are_as_in_lru() {
    compare_small_values(100, 700_000);
}

#[test]
fn five_thousand_entries_are_as_in_lru() {
    compare_small_values(5000, 700_000);
}

#[test]
fn plain_values_are_as_in_lru() {
    for capacity in [1, 2, 7, 100, 5000] {
        let keys = 2 * capacity as u64 + 3;
        let value = |random: &mut SmallRng, key: &u64| [*key, random.random()];
        compare(capacity, 100_000, |random| number_below(random, keys), value);
        let key_of = |random: &mut SmallRng| [number_below(random, keys) as u16; 3];
        compare(capacity, 50_000, key_of, |random, _| random.random::<u128>());
    }
}

#[test]
fn large_plain_values_are_as_in_lru() {
    compare(50, 30_000, |random| number_below(random, 150), |random, _| [random.random::<f32>(); 768]);
}

#[test]
fn values_of_any_size_are_as_in_lru_while_the_region_grows() {
    for (capacity, steps) in [(1, 2_000), (7, 5_000), (300, 20_000)] {
        let keys = 2 * capacity as u64 + 1;
        compare(
            capacity,
            steps,
            |random| number_below(random, keys) as u16,
            |random, _| match random.random_range(0..4) {
                0 => content(random, 0..=8),
                1 => content(random, 0..=700),
                2 => content(random, 1_800..=2_200), // where chaining begins
                _ => content(random, 0..=20_000),
            },
        );
    }
}

#[test]
fn neighbour_lists_are_as_in_lru() {
    let key_of = |random: &mut SmallRng| NodePointer::from((number_below(random, 3000) as u32, 1));
    compare(1000, 60_000, key_of, |random, node| random_list(random, *node, 0..=65));
}

#[test]
fn optional_values_and_text_keys_are_as_in_lru() {
    let key_of = |random: &mut SmallRng| {
        let number = number_below(random, 500);
        "k".repeat(number as usize % 40) + &number.to_string()
    };
    compare(200, 60_000, key_of, |random, _| {
        random.random_bool(0.7).then(|| (0..random.random_range(0..9)).collect::<Vec<u64>>())
    });
}

#[test]
fn sizes_that_change_for_good_evict_nothing() {
    // Few large values, then many empty ones: bytes, classes and buckets all have to follow.
    let mut cache = LruCacheWithStats::<u32, Vec<u8>>::new(entries(100_000), "Changing").warn_with(|_| ());
    let sizes = [20_000, 0, 300, 1];
    let counts = [300, 50_000, 5_000, 40_000];
    let mut number = 0;
    for (size, count) in sizes.into_iter().zip(counts) {
        for _ in 0..count {
            assert_eq!(cache.push(number, vec![number as u8; size]), None);
            number += 1;
        }
    }
    assert_eq!((cache.len(), cache.stats().evictions), (number as usize, 0));
    let (parts, _) = cache.into_parts();
    let mut expected = sizes.into_iter().zip(counts).flat_map(|(size, count)| std::iter::repeat_n(size, count));
    for (number, (key, value)) in parts.into_iter().enumerate() {
        assert_eq!((key, value), (number as u32, vec![number as u8; expected.next().unwrap()]));
    }
    assert_eq!(expected.next(), None);
}

#[test]
fn values_of_many_megabytes_come_back() {
    let mut cache = LruCacheWithStats::<u8, Vec<u8>>::new(entries(2), "Large").warn_with(|_| ());
    let value = |key: u8, megabytes: usize| vec![key; (megabytes << 20) + usize::from(key)];
    assert_eq!(cache.push(1, value(1, 2)), None);
    assert_eq!(cache.push(2, value(2, 9)), None);
    assert_eq!(cache.push(1, value(1, 5)), None);
    assert!(cache.get(&2) == Some(&value(2, 9)));
    assert!(cache.push(3, vec![]) == Some((1, value(1, 5))));
    assert!(cache.pop_lru() == Some((2, value(2, 9))));
    assert_eq!(cache.pop_lru(), Some((3, vec![])));
}

/// A value whose encoding fails.
#[derive(Clone, Debug, PartialEq)]
struct Refusing(bool);

impl CacheValue<String> for Refusing {
    fn format_name() -> String {
        "refusing".to_owned()
    }

    fn encode(&self, _key: &String, out: &mut Vec<u8>) {
        assert!(!self.0, "cannot be encoded");
        out.push(0);
    }

    fn decode(_key: &String, _bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(Refusing(false))
    }
}

#[test]
fn a_push_that_panics_changes_nothing() {
    let caches = [
        LruCacheWithStats::<String, Refusing>::new(entries(3), "Refusing"),
        LruCacheWithStats::with_memory(1 << 20, "Refusing").unwrap(),
    ];
    for (cache, bounded_by) in caches.into_iter().zip(["entries", "bytes"]) {
        let mut cache = cache.warn_with(|_| ());
        let keys = ["a", "b", "c"].map(str::to_owned);
        keys.iter().for_each(|key| _ = cache.push(key.clone(), Refusing(false)));
        let before = *cache.stats();
        let mut refused = |key: String, value| {
            let push = std::panic::AssertUnwindSafe(|| cache.push(key, value));
            assert!(std::panic::catch_unwind(push).is_err(), "bounded by {bounded_by}");
        };
        refused("d".to_owned(), Refusing(true));
        refused("a".to_owned(), Refusing(true));
        if bounded_by == "entries" {
            refused("k".repeat(65_536), Refusing(false));
        }
        assert_eq!((cache.len(), cache.stats()), (3, &before), "bounded by {bounded_by}");
        assert!(cache.into_parts().0.into_iter().map(|(key, _)| key).eq(keys), "bounded by {bounded_by}");
    }
}

#[test]
fn arrays_of_every_length_are_values() {
    fn check<const N: usize>() {
        let mut cache = LruCacheWithStats::<u64, [f32; N]>::new(entries(2), "Vectors");
        let value: [f32; N] = std::array::from_fn(|index| index as f32 / 3.0);
        cache.push(1, value);
        assert_eq!(cache.get(&1), Some(&value));
        assert_eq!(through_a_cache([7u16; N], value), ([7; N], value));
    }
    check::<1>();
    check::<33>();
    check::<384>();
    check::<768>();
    check::<1536>();
    check::<3072>();
}

#[test]
fn a_capacity_of_millions_costs_nothing_before_it_is_used() {
    let before = resident_bytes();
    let mut cache = LruCacheWithStats::<u64, u64>::new(entries(usize::MAX), "Wide");
    cache.push(1, 1);
    let other = LruCacheWithStats::<u64, u64>::new(entries(50_000_000), "Wide too");
    assert_eq!((cache.cap().get(), other.cap().get(), other.len()), (usize::MAX, 50_000_000, 0));
    let grown = resident_bytes().saturating_sub(before);
    // Other tests of this process run at the same time, so this is rough.
    assert!(grown < 1 << 30, "{grown} bytes");
}

fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[test]
fn keys_of_many_kilobytes_come_back() {
    let key = |bytes: usize| "k".repeat(bytes);
    let mut cache = LruCacheWithStats::<String, u32>::new(entries(4), "Long keys").warn_with(|_| ());
    for (number, bytes) in [10, 1_500, 9_000, 65_535].into_iter().enumerate() {
        assert_eq!(cache.push(key(bytes), number as u32), None);
    }
    assert_eq!(cache.get(&key(9_000)), Some(&2));
    assert_eq!(cache.push(String::new(), 4), Some((key(10), 0)));
    let error = std::panic::catch_unwind(move || {
        cache.push(key(65_536), 5);
    });
    let message = *error.unwrap_err().downcast::<String>().unwrap();
    assert!(message.contains("a key of 65536 bytes is too long: at most 65535"), "{message}");
}

thread_local! {
    static WARNINGS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

fn note_warning(text: &str) {
    WARNINGS.with_borrow_mut(|warnings| warnings.push(text.to_owned()));
}

#[test]
fn the_first_eviction_warns_once_and_says_which_cache_and_which_setting() {
    let mut cache = LruCacheWithStats::<u32, u32>::new(entries(3), "Builder neighbor").warn_with(note_warning);
    for number in 0..3 {
        cache.push(number, number);
        cache.push(number, number + 1);
    }
    assert!(WARNINGS.take().is_empty(), "an update is no eviction");
    for number in 3..100 {
        assert!(cache.push(number, number).is_some());
    }
    let warnings = WARNINGS.take();
    let [warning] = &warnings[..] else { panic!("one warning, not {warnings:?}") };
    assert!(warning.contains("Builder neighbor") && warning.contains("maintenance_work_mem"), "{warning}");
}

#[test]
fn emptying_a_cache_by_hand_is_no_reason_to_warn() {
    let mut cache = LruCacheWithStats::<u32, u32>::new(entries(1), "Flushed").warn_with(note_warning);
    cache.push(1, 1);
    assert_eq!(cache.pop_lru(), Some((1, 1)));
    assert_eq!(cache.pop_lru(), None);
    assert_eq!((cache.stats().evictions, WARNINGS.take().len()), (1, 0));
    cache.push(2, 2);
    cache.push(3, 3);
    assert_eq!((cache.stats().evictions, WARNINGS.take().len()), (2, 1), "a push that evicts still warns");
}

fn random_pointer(random: &mut SmallRng) -> NodePointer {
    NodePointer { block: random.random(), offset: random.random() }
}

/// A list as a builder has it: edges in both directions.
fn random_list(random: &mut SmallRng, node: NodePointer, lengths: std::ops::RangeInclusive<usize>) -> NeighborList {
    let count = random.random_range(lengths);
    let neighbors = (0..count).map(|_| {
        let pointer = random_pointer(random);
        let mut neighbor = Neighbor::new(node, pointer, random.random());
        if random.random_bool(0.5) {
            neighbor.distance = EdgeDistance { from: pointer, to: node, ..neighbor.distance };
        }
        neighbor
    });
    NeighborList { labels: None, neighbors: neighbors.collect() }
}

#[test]
fn given_bytes_are_filled_with_neighbour_lists() {
    for megabytes in [8, 13] {
        let bytes = megabytes << 20;
        let mut random = SmallRng::seed_from_u64(megabytes as u64);
        let mut cache =
            LruCacheWithStats::<NodePointer, NeighborList>::with_memory(bytes, "Filled").unwrap().warn_with(|_| ());
        let mut least_share = 1.0f64;
        let mut block = 0;
        while cache.stats().evictions <= cache.len() / 2 {
            let node = NodePointer { block, offset: 1 };
            // New nodes, and one in four again with another list.
            block += 1;
            for node in [Some(node), (block % 4 == 0).then_some(NodePointer { block: block / 4 * 3, offset: 1 })] {
                let Some(node) = node else { continue };
                let mut evicted = cache.push(node, random_list(&mut random, node, 20..=65));
                while evicted.is_some() {
                    evicted = cache.pop_displaced();
                }
            }
            if cache.stats().evictions > 0 {
                least_share = least_share.min(cache.bytes() as f64 / bytes as f64);
            }
        }
        println!("{megabytes} MiB: {} lists, {least_share:.3} of the bytes live", cache.len());
        // The table of buckets takes one per nine lists, a hundredth of the bytes.
        assert!(least_share >= 0.84, "{megabytes} MiB: {least_share:.3} of the bytes are live");
    }
}

/// What must be in a cache of given bytes: all that was pushed and not handed back.
#[derive(Default)]
struct Owed {
    values: HashMap<u16, Vec<u8>>,
    inserts: usize,
    handed_back: usize,
}

impl Owed {
    fn hand_back(&mut self, (key, value): (u16, Vec<u8>)) {
        assert_same(&Some(value), &self.values.remove(&key), self.handed_back, "handed back");
        self.handed_back += 1;
    }
}

#[test]
fn a_cache_of_given_bytes_loses_nothing_whether_or_not_one_asks_for_what_it_displaces() {
    for asks in [true, false] {
        let mut random = SmallRng::seed_from_u64(u64::from(asks));
        let mut cache =
            LruCacheWithStats::<u16, Vec<u8>>::with_memory(256 << 10, "Given").unwrap().warn_with(note_warning);
        let mut owed = Owed::default();
        for step in 0..40_000 {
            let key = random.random_range(0..2000);
            match random.random_range(0..10) {
                0..4 => assert_same(&cache.get(&key), &owed.values.get(&key), step, "get"),
                4 => assert_eq!(cache.contains(&key), owed.values.contains_key(&key)),
                5 if step % 10 == 0 => {
                    if let Some(popped) = cache.pop_lru() {
                        owed.hand_back(popped);
                    }
                }
                _ => {
                    // Now and then one that takes the place of many, or that is larger than the cache can have.
                    let sizes = match step % 1000 {
                        0 => 50_000..=60_000,
                        1 => 0..=50_000,
                        _ => 0..=300,
                    };
                    let value = content(&mut random, sizes);
                    owed.inserts += usize::from(owed.values.insert(key, value.clone()).is_none());
                    let mut evicted = cache.push(key, value);
                    while let Some(entry) = evicted {
                        owed.hand_back(entry);
                        evicted = if asks { cache.pop_displaced() } else { None };
                    }
                }
            }
            assert_eq!(cache.len(), owed.values.len());
            assert_eq!((cache.stats().evictions, cache.stats().inserts), (owed.handed_back, owed.inserts));
        }
        assert!(owed.handed_back > 10_000);
        assert_eq!(WARNINGS.take().len(), 1);
        let (parts, _) = cache.into_parts();
        assert_eq!(parts.len(), owed.values.len());
        parts.into_iter().for_each(|entry| owed.hand_back(entry));
        assert!(owed.values.is_empty());
    }
}

#[test]
fn a_cache_of_given_bytes_evicts_in_the_order_of_use() {
    let mut random = SmallRng::seed_from_u64(3);
    let mut cache = LruCacheWithStats::<u32, Vec<u8>>::with_memory(1 << 20, "Ordered").unwrap().warn_with(|_| ());
    let mut order = VecDeque::new();
    let mut out_of_turn = 0;
    for number in 0..8_000u32 {
        order.push_back(number);
        let mut evicted = cache.push(number, content(&mut random, 100..=900));
        while let Some((key, _)) = evicted {
            let turn = order.iter().position(|&other| other == key).unwrap();
            out_of_turn += usize::from(turn > 0);
            order.remove(turn);
            evicted = cache.pop_displaced();
        }
        let again = random.random_range(0..order.len());
        let key = order.remove(again).unwrap();
        assert!(cache.get(&key).is_some());
        order.push_back(key);
    }
    let (parts, stats) = cache.into_parts();
    assert!(stats.evictions > 5_000);
    // The engine may give up the last few entries of a slab of its directory for the slab.
    assert!(out_of_turn * 25 < stats.evictions, "{out_of_turn} of {} evictions out of turn", stats.evictions);
    assert!(parts.into_iter().map(|(key, _)| key).eq(order));
}

#[test]
fn the_least_memory_is_enough_and_less_is_an_error_that_says_so() {
    let mut cache =
        LruCacheWithStats::<u32, [u8; 100]>::with_memory(MIN_MEMORY_BYTES, "Small").unwrap().warn_with(|_| ());
    (0..1000).for_each(|number| _ = cache.push(number, [7; 100]));
    assert!(cache.len() > 100, "{}", cache.len());
    // Encoded values, too; and every policy of a cache that workers share, as the same constant says there.
    let mut cache =
        LruCacheWithStats::<u32, Vec<u8>>::with_memory(MIN_MEMORY_BYTES, "Small").unwrap().warn_with(|_| ());
    (0..1000).for_each(|number| _ = cache.push(number, vec![7; 100]));
    assert!(cache.len() > 100, "{}", cache.len());
    for policy in Policy::ALL {
        let cache = SharedCache::private(&Config::bytes(MIN_MEMORY_BYTES).policy(policy)).unwrap();
        (0..1000u32).for_each(|number| _ = cache.put(&number.to_le_bytes(), &[7; 100]).unwrap());
        assert!(cache.len() > 100, "{policy}: {}", cache.len());
    }
    for bytes in [0, 10_000, MIN_MEMORY_BYTES - 1] {
        let error = LruCacheWithStats::<u32, u32>::with_memory(bytes, "Tiny").err().unwrap().to_string();
        let expected =
            [format!("{bytes} bytes are"), "too few".to_owned(), format!("need at least {MIN_MEMORY_BYTES}")];
        assert!(expected.iter().all(|text| error.contains(text)), "{error}");
    }
}

fn pointers() -> impl Strategy<Value = NodePointer> {
    (any::<u32>(), any::<u16>()).prop_map(NodePointer::from)
}

fn labels() -> impl Strategy<Value = Option<Vec<i16>>> {
    prop::option::weighted(0.3, prop::collection::vec(any::<i16>(), 0..200))
}

fn lists(node: NodePointer) -> impl Strategy<Value = NeighborList> {
    let distance = prop_oneof![any::<u32>().prop_map(f32::from_bits), Just(f32::NAN), Just(-0.0)];
    let ends = prop::option::weighted(0.1, (pointers(), pointers()));
    let neighbor =
        (pointers(), distance, 0..3, ends, labels()).prop_map(move |(pointer, distance, kind, ends, labels)| {
            let alike = [(node, pointer), (pointer, node), (pointer, pointer)][kind as usize];
            let (from, to) = ends.unwrap_or(alike);
            Neighbor { pointer, distance: EdgeDistance { distance, from, to }, labels }
        });
    (labels(), prop::collection::vec(neighbor, 0..150), any::<bool>(), any::<bool>()).prop_map(
        move |(labels, mut neighbors, plain, alike)| {
            for neighbor in neighbors.iter_mut() {
                if plain {
                    neighbor.labels = None;
                }
                if alike {
                    neighbor.distance = EdgeDistance { from: node, to: neighbor.pointer, ..neighbor.distance };
                }
            }
            NeighborList { labels, neighbors }
        },
    )
}

fn through_a_cache<K, V>(key: K, value: V) -> (K, V)
where
    K: CacheKey + Clone + PartialEq + Debug,
    V: CacheValue<K> + Clone + PartialEq + Debug,
{
    let mut cache = LruCacheWithStats::new(entries(1), "Passed");
    cache.push(key.clone(), value.clone());
    assert_eq!(cache.get(&key), Some(&value));
    cache.pop_lru().unwrap()
}

proptest! {
    #[test]
    fn neighbour_lists_come_back_bit_for_bit(
        (node, before, list) in pointers().prop_flat_map(|node| (Just(node), lists(node), prop::option::of(lists(node)))),
    ) {
        let mut bytes = Vec::new();
        list.encode(&node, &mut bytes);
        prop_assert_eq!(&Option::<NeighborList>::decode(&node, &bytes).unwrap(), &list);
        if let Some(list) = &list {
            let mut reused = before.clone();
            reused.decode_into(&node, &bytes).unwrap();
            prop_assert_eq!(&reused, list);
            let plain = list.labels.is_none() && list.neighbors.iter().all(|it| it.labels.is_none());
            let known = |it: &Neighbor| {
                let ends = (it.distance.from, it.distance.to);
                [(node, it.pointer), (it.pointer, node), (it.pointer, it.pointer)].contains(&ends)
            };
            if plain && list.neighbors.iter().all(known) {
                let most = 3 + list.neighbors.len() * 10 + list.neighbors.len().div_ceil(4);
                prop_assert!(bytes.len() <= most, "{} bytes, at most {}", bytes.len(), most);
            }
        }
        prop_assert_eq!(through_a_cache(node, list.clone()), (node, list));
    }

    #[test]
    fn damaged_neighbour_lists_never_panic(node in pointers(), bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(list) = NeighborList::decode(&node, &bytes) {
            prop_assert!(list.neighbors.len() <= bytes.len() / 10);
        }
    }

    #[test]
    fn the_types_with_a_codec_come_back(
        key in (any::<u32>(), any::<u16>()),
        text in prop::option::of(".*"),
        words in prop::collection::vec(any::<u64>(), 0..50),
        pair in (any::<i16>(), any::<String>()),
        wide in any::<[u64; 3]>(),
    ) {
        prop_assert_eq!(through_a_cache(key, text.clone()), (key, text.clone()));
        prop_assert_eq!(through_a_cache(text, words.clone()).1, words);
        prop_assert_eq!(through_a_cache(pair.clone(), wide), (pair, wide));
        prop_assert_eq!(through_a_cache(wide, true), (wide, true));
    }

    #[test]
    fn short_histories_are_as_in_lru(
        capacity in 1usize..6,
        ops in prop::collection::vec((0u8..4, 0u8..10, 0usize..3000), 1..80),
    ) {
        let mut plain = Plain::new(entries(capacity));
        let mut cache = LruCacheWithStats::new(entries(capacity), "Short").warn_with(|_| ());
        for (step, (op, key, size)) in ops.into_iter().enumerate() {
            match op {
                0 => prop_assert_eq!(cache.get(&key), plain.get(&key)),
                1 => prop_assert_eq!(cache.contains(&key), plain.contains(&key)),
                2 => prop_assert_eq!(cache.push(key, vec![step as u8; size]), plain.push(key, vec![step as u8; size])),
                _ => prop_assert_eq!(cache.pop_lru(), plain.pop_lru()),
            }
            prop_assert_eq!(cache.stats(), &plain.stats);
        }
        prop_assert!(cache.into_parts().0.into_iter().eq(plain.map));
    }
}
