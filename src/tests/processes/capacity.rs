//! How much a cache holds: exactly N entries, and whatever fits when nothing is pinned.

use pg_shared_lru::{Classes, Config, Evicted, Policy, PushError, Put, SharedCache, TypedCache, TypedEvicted};

use crate::support::content::{Random, key, value};

crate::scenarios![capacity:
    n_entries_are_n_entries_whatever_their_sizes,
    with_partitions_the_sum_stays_below_n,
    the_largest_entry_always_finds_room_when_nothing_is_pinned,
    the_largest_entry_can_be_replaced_whatever_the_slot_sizes,
    a_few_small_entries_in_use_do_not_keep_the_directory_s_memory,
    one_small_entry_in_fourteen_does_not_keep_the_directory_s_memory,
    every_slab_size_works_at_its_smallest,
    a_refused_push_still_hands_over_what_it_evicted,
    a_refused_push_of_types_loses_nothing,
    put_if_room_never_evicts,
    a_refusal_costs_the_same_however_many_entries_there_are,
];

/// Lengths of values in an order that tries to leave every class a partial slab at the worst time.
fn orders(max_value: usize) -> Vec<Vec<usize>> {
    let steps = |count: usize| (0..=count).map(|step| max_value * step / count).collect::<Vec<_>>();
    let ascending = steps(150);
    let descending: Vec<usize> = ascending.iter().rev().copied().collect();
    let alternating = (0..100).map(|step| if step % 2 == 0 { max_value } else { 0 }).collect();
    // One entry of each class (each an eighth larger), then the largest only.
    let mut one_each: Vec<usize> = std::iter::successors(Some(8), |&len: &usize| Some(len + len.div_ceil(9).max(4)))
        .take_while(|&len| len <= max_value)
        .collect();
    one_each.extend(vec![max_value; 100]);
    let mut random = Random(max_value as u64);
    let mixed = (0..200).map(|_| random.below(max_value + 1)).collect();
    vec![ascending, descending, alternating, one_each, mixed, vec![max_value; 100]]
}

fn assert_exact(config: &Config, capacity: u64, max_entry_bytes: usize) {
    const KEY_BYTES: usize = 4;
    for order in orders(max_entry_bytes - KEY_BYTES) {
        let cache = SharedCache::private(config).unwrap();
        let mut random = Random(capacity);
        let mut evicted = Evicted::default();
        let mut number = 0u32;
        let rounds = (capacity as usize + 20).div_ceil(order.len()) + 1;
        for len in order.iter().copied().cycle().take(rounds * order.len()) {
            evicted.clear();
            let put = cache.push(&number.to_be_bytes(), &vec![number as u8; len], &mut evicted);
            assert_eq!(put, Ok(Put::Inserted));
            number += 1;
            let expected = capacity.min(u64::from(number));
            assert_eq!(
                (cache.len(), evicted.len()),
                (expected, usize::from(u64::from(number) > capacity)),
                "{config:?}"
            );
            if number % 3 == 0 {
                // Another size for an entry that is there: nothing may go for it.
                let known = number - 1 - random.below(expected as usize) as u32;
                let other_len = order[random.below(order.len())];
                evicted.clear();
                cache.push(&known.to_be_bytes(), &vec![known as u8; other_len], &mut evicted).unwrap();
                if cache.resolved().policy == Policy::Lru {
                    assert_eq!(cache.len(), expected, "{config:?}");
                }
            }
        }
        cache.validate().unwrap();
        for entry in cache.iter_with_values() {
            assert!(entry.value.expect("asked for").iter().all(|&byte| byte == entry.key[3]));
        }
    }
}

fn n_entries_are_n_entries_whatever_their_sizes() {
    for (max_entry_bytes, capacities) in [
        (5, &[1, 2, 33, 700][..]),
        (24, &[1, 100]),
        (100, &[7, 300]),
        (1900, &[1, 40]),
        (2020, &[1, 8, 33]),
        (2040, &[2, 17]),
        (5000, &[1, 2, 30]),
        (20_000, &[1, 2, 3, 33]),
    ] {
        for &capacity in capacities {
            for policy in Policy::ALL {
                let config = Config::entries(capacity, max_entry_bytes).policy(policy).partitions(1);
                assert_exact(&config.slab_bytes(16 << 10), u64::from(capacity), max_entry_bytes as usize);
            }
        }
    }
    for classes in [
        Classes::Geometric(4),
        Classes::Explicit(vec![64, 512, 1024]),
        Classes::Explicit(vec![2016]),
        Classes::Explicit(vec![40, 256]),
    ] {
        let config = Config::entries(30, 4000).partitions(1).slab_bytes(16 << 10).classes(classes);
        assert_exact(&config, 30, 4000);
    }
}

fn with_partitions_the_sum_stays_below_n() {
    for policy in Policy::ALL {
        for (capacity, partitions) in [(8, 8), (9, 8), (100, 4), (127, 64), (1000, 2)] {
            let config = Config::entries(capacity, 600).policy(policy).partitions(partitions).slab_bytes(16 << 10);
            let cache = SharedCache::private(&config).unwrap();
            let mut random = Random(u64::from(capacity));
            for number in 0..capacity * 3 + 600 {
                cache.put(&number.to_be_bytes(), &vec![1; random.below(597)]).unwrap();
                assert!(cache.len() <= u64::from(capacity));
            }
            assert_eq!(cache.len(), u64::from(capacity), "every partition has met more than its share");
            cache.validate().unwrap();
        }
    }
}

fn the_largest_entry_always_finds_room_when_nothing_is_pinned() {
    // The smallest region, and one of an odd size. Entries of all sizes are stored, used and replaced in random phases
    // of small and large ones, so that the directory is as large as it gets when the large ones come.
    for (bytes, policy) in
        [(152_000, Policy::Lru), (152_000, Policy::Clock), (153_000, Policy::S3Fifo), (420_000, Policy::Lru)]
    {
        let config = Config::bytes(bytes).partitions(1).slab_bytes(16 << 10).buckets(8).policy(policy);
        let cache = SharedCache::private(&config).unwrap();
        let max = cache.resolved().max_entry_bytes - 32;
        for seed in 0..6 {
            let mut random = Random(seed);
            for _ in 0..12 {
                let (phase_max, count) = [(9, 2500), (60, 800), (600, 100), (2100, 60), (max, 12)][random.below(5)];
                let keys = 1 + random.below(3000);
                for step in 0..count {
                    let number = random.below(keys) as u32;
                    let len = if random.below(4) == 0 { phase_max } else { random.below(phase_max + 1) };
                    if let Err(error) = cache.put(&key(number), &value(number, step, len)) {
                        panic!("{bytes} bytes, seed {seed}, a value of {len}: {error}: {:#?}", cache.memory_report());
                    }
                    cache.contains(&key(number));
                }
            }
            cache.put(&key(1), &value(1, 1, max)).unwrap();
            cache.put(&key(1), &value(1, 2, max - 5)).unwrap();
            cache.validate().unwrap();
        }
    }
}

fn the_largest_entry_can_be_replaced_whatever_the_slot_sizes() {
    let mut refused = Vec::new();
    let lists: [&[u32]; 5] = [&[256], &[264], &[320], &[24, 256], &[2048]];
    for slots in lists {
        let config =
            Config::bytes(300_000).partitions(1).slab_bytes(16 << 10).classes(Classes::Explicit(slots.to_vec()));
        let cache = SharedCache::private(&config).unwrap();
        let max = cache.resolved().max_entry_bytes;
        for len in [max - 1, max - 9, max - 1] {
            if let Err(error) = cache.put(b"k", &vec![len as u8; len]) {
                refused.push(format!("slots of {slots:?}, {len} bytes: {error}"));
            }
        }
        cache.validate().unwrap();
    }
    assert!(refused.is_empty(), "{refused:#?}");
}

/// Many small entries need many records; then one in `one_in` of them stays in use beside large values. Slabs that hold
/// a record here and there are memory that the large values want.
fn small_entries_stay_in_use_beside_large_ones(one_in: usize) {
    let cache = SharedCache::private(&Config::bytes(2 << 20).partitions(1).slab_bytes(16 << 10)).unwrap();
    for number in 0..35_000u32 {
        cache.put(&number.to_be_bytes(), &[1; 8]).unwrap();
    }
    let first = 35_000 - cache.len() as u32;
    let used: Vec<u32> = (first..35_000).step_by(one_in).collect();
    let mut out = Vec::new();
    for number in 0..3000u32 {
        cache.put(&(1_000_000 + number).to_be_bytes(), &[2; 1500]).unwrap();
        if number % 50 == 0 {
            used.iter().for_each(|number| _ = cache.get(&number.to_be_bytes(), &mut out));
        }
    }
    cache.validate().unwrap();
    let report = cache.memory_report();
    let directory = report.directory_bytes as f64 / report.region_bytes as f64;
    assert!(
        report.payload_ratio() > 0.80,
        "one small entry in {one_in} stays in use: payload {:.2}, {} records keep {directory:.2} of the memory",
        report.payload_ratio(),
        report.entries
    );
}

fn a_few_small_entries_in_use_do_not_keep_the_directory_s_memory() {
    small_entries_stay_in_use_beside_large_ones(400);
    small_entries_stay_in_use_beside_large_ones(40);
}

fn one_small_entry_in_fourteen_does_not_keep_the_directory_s_memory() {
    small_entries_stay_in_use_beside_large_ones(14);
}

fn every_slab_size_works_at_its_smallest() {
    for slab_bytes in (11..=22).map(|bits| 1u32 << bits) {
        for (partitions, policy) in [(1, Policy::Lru), (2, Policy::Clock), (1, Policy::S3Fifo)] {
            let base = |bytes| {
                let config = Config::bytes(bytes).slab_bytes(slab_bytes).partitions(partitions).buckets(64);
                config.policy(policy)
            };
            let Err(pg_shared_lru::ConfigError::TooSmall { needed, .. }) = base(0).region_bytes() else { panic!() };
            let cache = SharedCache::private(&base(needed)).unwrap();
            assert_eq!(cache.resolved().slabs_per_partition, 8);
            let max = cache.resolved().max_entry_bytes - 32;
            let mut random = Random(u64::from(slab_bytes));
            for step in 0..60 {
                let number = random.below(30) as u32;
                let limit = max.min(100_000) >> random.below(12);
                let len = if step % 20 == 0 { max } else { random.below(limit) };
                cache.put(&key(number), &value(number, step, len)).unwrap();
            }
            cache.validate().unwrap();
            assert_eq!(cache.drain(crate::support::content::check), cache.stats().removals);
            let report = cache.memory_report();
            assert_eq!(report.slabs_free, report.slabs_total);
        }
    }
}

fn config_of_ten_slabs() -> Config {
    Config::bytes(190_000).partitions(1).slab_bytes(16 << 10).fixed_buckets(8)
}

/// Calls `then` while every key in `keys` is pinned.
fn while_pinned<L: pg_shared_lru::Locks>(cache: &SharedCache<L>, keys: &[Vec<u8>], then: &mut dyn FnMut()) {
    match keys.split_first() {
        Some((key, rest)) => cache.with(key, |_| while_pinned(cache, rest, then)).expect("the key is there"),
        None => then(),
    }
}

/// Keys that between them, when pinned, leave no room for a large value, and keys that can be evicted.
fn fill_for_refusal<L: pg_shared_lru::Locks>(cache: &SharedCache<L>) -> Vec<Vec<u8>> {
    let put = |number: u32, bytes: usize| {
        let key = key(number);
        cache.put(&key, &value(number, 1, bytes - key.len().next_multiple_of(8))).unwrap();
        key
    };
    let pinned = (0..64).map(|number| put(number, 1930)).collect();
    (100..110).for_each(|number| _ = put(number, 100));
    assert_eq!(cache.stats().evictions, 0);
    pinned
}

fn a_refused_push_still_hands_over_what_it_evicted() {
    let cache = SharedCache::private(&config_of_ten_slabs()).unwrap();
    let keys = fill_for_refusal(&cache);
    while_pinned(&cache, &keys, &mut || {
        let before = cache.len();
        let mut evicted = Evicted::default();
        let put = cache.push(b"large", &[1; 20_000], &mut evicted);
        assert!(matches!(put, Err(PushError::Full { bytes: 20_005, pinned: 64 })), "{put:?}");
        evicted.iter().for_each(|(key, value)| crate::support::content::check(key, value));
        assert_eq!((before - cache.len(), cache.stats().evictions), (evicted.len() as u64, evicted.len() as u64));
        assert!(!evicted.is_empty(), "the test wants evictions before the refusal");
        cache.validate().unwrap();
    });
    cache.put(b"large", &[1; 20_000]).unwrap();
    cache.validate().unwrap();
}

fn a_refused_push_of_types_loses_nothing() {
    let cache = TypedCache::<Vec<u8>, Vec<u8>>::private(&config_of_ten_slabs()).unwrap();
    let keys = fill_for_refusal(cache.encoded());
    let mut handed_over = 0;
    while_pinned(cache.encoded(), &keys, &mut || {
        let mut evicted = TypedEvicted::default();
        let put = cache.push(&b"large".to_vec(), &vec![1; 20_000], &mut evicted);
        assert!(matches!(put, Err(PushError::Full { .. })));
        handed_over = evicted.encoded().len() as u64;
    });
    assert_eq!(cache.stats().evictions, handed_over, "an evicted entry is neither in the cache nor handed over");
}

fn put_if_room_never_evicts() {
    for policy in Policy::ALL {
        let by_bytes = Config::bytes(300_000).partitions(1).slab_bytes(16 << 10);
        for config in [by_bytes, Config::entries(150, 1000).partitions(1)] {
            let cache = SharedCache::private(&config.policy(policy)).unwrap();
            let mut random = Random(1);
            let (mut stored, mut refused) = (std::collections::HashMap::new(), 0);
            for step in 0..2000 {
                let number = random.below(500) as u32;
                let len = random.below(900);
                match cache.put_if_room(&key(number), &value(number, step, len)) {
                    Ok(put) => {
                        let expected = if stored.contains_key(&number) { Put::Replaced } else { Put::Inserted };
                        assert_eq!(put, expected);
                        stored.insert(number, value(number, step, len));
                    }
                    Err(error) => {
                        assert!(matches!(error, PushError::Full { pinned: 0, .. }), "{error}");
                        refused += 1;
                    }
                }
                if step % 50 == 0 {
                    cache.remove(&key(number));
                    stored.remove(&number);
                    cache.validate().unwrap();
                }
            }
            let stats = cache.stats();
            assert_eq!((stats.evictions, stats.refused), (0, refused));
            assert!(refused > 100 && stored.len() > 100, "{refused} refused, {} stored", stored.len());
            let mut out = Vec::new();
            for (number, value) in &stored {
                assert!(cache.peek(&key(*number), &mut out) && out == *value);
            }
            assert_eq!(cache.len(), stored.len() as u64);
        }
    }
}

fn a_refusal_costs_the_same_however_many_entries_there_are() {
    // A builder that spills to disk asks for room again and again once the cache is full.
    let nanoseconds_of = |count: u32| {
        let cache = SharedCache::private(&Config::entries(count, 16).partitions(1)).unwrap();
        (0..count).for_each(|number| _ = cache.put(&number.to_be_bytes(), b"").unwrap());
        let times = (0..20).map(|_| {
            let start = std::time::Instant::now();
            cache.put_if_room(b"more", b"").unwrap_err();
            start.elapsed().as_nanos()
        });
        times.min().expect("20 times")
    };
    let (few, many) = (nanoseconds_of(100), nanoseconds_of(20_000));
    assert!(many < 20 * few.max(1000), "{few} ns with 100 entries, {many} ns with 20,000");
}
