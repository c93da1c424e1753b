//! Odd corners of one handle.

use pg_shared_lru::{CompactBudget, Config, Evicted, NoLocks, Policy, Put, SharedCache};

use crate::support::content::{check, key, value};
use crate::support::fork::catch_quietly;

crate::scenarios![edge_cases:
    a_panic_in_a_closure_leaves_no_pin,
    keys_of_every_length_and_empty_values,
    values_are_aligned_whatever_the_key,
    the_256th_reader_of_an_entry_reads_a_copy,
    clear_and_pop_take_pinned_entries_and_free_them_later,
    a_value_can_be_copied_within_the_cache,
    a_drain_that_puts_entries_back_comes_to_an_end,
    a_panic_while_draining_loses_what_was_taken_and_nothing_else,
    one_bucket_is_enough,
    counters_say_what_was_done,
    a_value_that_there_is_no_memory_for_is_an_error_of_try_get,
];

/// No new memory for this process from here on.
#[allow(unsafe_code)] // a plain system call
fn limit_memory() {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux tells the size");
    let pages: u64 = statm.split(' ').next().and_then(|pages| pages.parse().ok()).expect("a number of pages");
    let limit = libc::rlimit { rlim_cur: pages * 4096, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: a plain system call with a valid limit.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
}

fn a_value_that_there_is_no_memory_for_is_an_error_of_try_get() {
    // Far more than the heap has left, in one slot, so that a read without the lock finds it.
    const VALUE_BYTES: usize = 900_000;
    let config = Config::bytes(64 << 20).partitions(1).slab_bytes(4 << 20).policy(Policy::Clock);
    let cache = SharedCache::shared_mapping(&config).unwrap();
    let value = vec![7; VALUE_BYTES];
    cache.put(b"large", &value).unwrap();
    cache.put(b"small", b"v").unwrap();
    // Marks the use, so that the next read needs no lock. Both copies stay, so that the heap has no room of their size.
    let (mut first, mut second) = (Vec::new(), Vec::new());
    assert!(cache.get(b"large", &mut first));
    limit_memory();
    cache.try_get(b"large", &mut second).expect_err("there is no memory");
    assert!(second.is_empty());
    assert_eq!(cache.try_get(b"small", &mut second), Ok(true));
    assert!(first == value, "they were there all the time");
}

fn small(policy: Policy) -> SharedCache<NoLocks> {
    SharedCache::private(&Config::bytes(1 << 20).partitions(1).slab_bytes(16 << 10).policy(policy)).unwrap()
}

fn panics_in(cache: &SharedCache<NoLocks>, key: &[u8], before: impl Fn()) {
    let result = catch_quietly(|| {
        cache.with(key, |_| {
            before();
            panic!("on purpose");
        })
    });
    assert!(result.is_err());
}

fn a_panic_in_a_closure_leaves_no_pin() {
    for policy in Policy::ALL {
        let cache = small(policy);
        cache.put(b"stays", &[1; 500]).unwrap();
        cache.put(b"goes", &[2; 500]).unwrap();
        cache.put(b"changes", &[3; 500]).unwrap();
        panics_in(&cache, b"stays", || ());
        panics_in(&cache, b"goes", || _ = cache.remove(b"goes"));
        panics_in(&cache, b"changes", || _ = cache.put(b"changes", &[4; 5]).unwrap());
        assert_eq!(cache.pinned(), 0);
        assert_eq!(cache.len(), 2);
        assert_eq!(cache.with(b"changes", <[u8]>::to_vec), Some(vec![4; 5]));
        cache.validate().unwrap();
        assert_eq!(cache.stats().resets, 0, "a reader's panic is no damage");
        (0..3000).for_each(|number| _ = cache.put(&key(number), &[5; 700]).unwrap());
        assert!(!cache.contains(b"stays"), "it can be evicted again");
        cache.clear();
        let report = cache.memory_report();
        assert_eq!(report.slabs_free, report.slabs_total);
    }
}

fn keys_of_every_length_and_empty_values() {
    for policy in Policy::ALL {
        let cache = small(policy);
        let longest = cache.resolved().max_key_bytes;
        let key_of = |len: usize| (0..len).map(|index| (index * 7 + len) as u8).collect::<Vec<u8>>();
        for value_len in [0, 1, 8, 2500] {
            cache.clear();
            for len in (0..40).chain([longest - 1, longest]) {
                let (key, value) = (key_of(len), vec![len as u8; value_len]);
                assert_eq!(cache.put(&key, &value), Ok(Put::Inserted));
                assert_eq!(cache.with(&key, <[u8]>::to_vec), Some(value.clone()));
                assert_eq!(cache.put(&key, &value), Ok(Put::Replaced));
                let mut out = vec![9];
                assert!(cache.get(&key, &mut out) && out == value);
            }
            cache.validate().unwrap();
            assert_eq!(cache.len(), 42);
            cache.compact(CompactBudget::unlimited());
            for entry in cache.iter_with_values() {
                assert_eq!(entry.key, key_of(entry.key.len()));
                assert_eq!(entry.value.expect("asked for"), vec![entry.key.len() as u8; value_len]);
            }
        }
        let mut evicted = Evicted::default();
        assert!(cache.push(&key_of(longest + 1), b"", &mut evicted).is_err() && evicted.is_empty());
        assert_eq!(cache.remove(b""), Some(vec![0; 2500]));
        assert_eq!(cache.remove(b""), None);
        cache.put(b"", b"").unwrap();
        assert_eq!(cache.remove(b""), Some(vec![]), "an empty value is a value");
    }
}

fn values_are_aligned_whatever_the_key() {
    let cache = small(Policy::Lru);
    for key_len in 0..30 {
        for value_len in [0, 1, 16, 100, 1999, 3000] {
            cache.put(&vec![1; key_len], &vec![2; value_len]).unwrap();
            let address = cache.with(&vec![1; key_len], |value| value.as_ptr() as usize).expect("just put");
            assert_eq!(address % 8, 0, "key of {key_len}, value of {value_len}");
        }
    }
}

fn nested(cache: &SharedCache<NoLocks>, depth: u32, then: &mut dyn FnMut()) {
    let found = cache.with(b"key", |value| {
        assert_eq!(value, [7; 100]);
        if depth == 1 {
            then();
        } else {
            nested(cache, depth - 1, then);
        }
        assert_eq!(value, [7; 100]);
    });
    assert!(found.is_some());
}

fn the_256th_reader_of_an_entry_reads_a_copy() {
    for policy in Policy::ALL {
        let cache = small(policy);
        cache.put(b"key", &[7; 100]).unwrap();
        for depth in [254, 255, 256, 300] {
            nested(&cache, depth, &mut || {
                assert_eq!(cache.pinned(), 1);
                cache.validate().unwrap();
            });
            assert_eq!(cache.pinned(), 0, "after {depth} readers");
        }
        nested(&cache, 300, &mut || _ = cache.remove(b"key"));
        assert_eq!((cache.pinned(), cache.len()), (0, 0));
        cache.validate().unwrap();
        let report = cache.memory_report();
        assert_eq!(report.slabs_free, report.slabs_total);
        assert_eq!(cache.stats().hits, 254 + 255 + 256 + 300 + 300);
    }
}

fn clear_and_pop_take_pinned_entries_and_free_them_later() {
    for policy in Policy::ALL {
        let cache = small(policy);
        (0..20).for_each(|number| _ = cache.put(&key(number), &value(number, 1, 300)).unwrap());
        cache.with(&key(3), |bytes| {
            cache.with(&key(4), |more| {
                assert_eq!(cache.clear(), 20);
                assert_eq!((cache.len(), cache.bytes(), cache.pinned()), (0, 0, 2));
                (0..3000).for_each(|number| _ = cache.put(&key(number), &value(number, 2, 900)).unwrap());
                check(&key(3), bytes);
                check(&key(4), more);
                cache.validate().unwrap();
            });
        });
        cache.clear();
        cache.validate().unwrap();
        assert_eq!(cache.memory_report().slabs_free, cache.memory_report().slabs_total);

        // What is not pinned is popped first; then what is.
        (0..3).for_each(|number| _ = cache.put(&key(number), &value(number, 1, 30)).unwrap());
        cache.with(&key(0), |bytes| {
            let popped: Vec<_> = std::iter::from_fn(|| cache.pop_lru()).map(|(key, _)| key).collect();
            assert_eq!(popped, [key(1), key(2), key(0)]);
            check(&key(0), bytes);
            cache.validate().unwrap();
        });
        assert_eq!(cache.memory_report().slabs_free, cache.memory_report().slabs_total);
        assert_eq!((cache.pop_lru(), cache.clear()), (None, 0));
    }
}

fn a_value_can_be_copied_within_the_cache() {
    let cache = small(Policy::Lru);
    for len in [0, 10, 2000, 4000] {
        cache.put(b"from", &value(1, 1, len)).unwrap();
        cache.with(b"from", |bytes| {
            cache.put(b"to", bytes).unwrap();
            cache.put(b"from", &bytes[len / 2..]).unwrap();
        });
        assert_eq!(cache.with(b"to", <[u8]>::to_vec), Some(value(1, 1, len)));
        assert_eq!(cache.with(b"from", <[u8]>::to_vec), Some(value(1, 1, len)[len / 2..].to_vec()));
        cache.validate().unwrap();
    }
}

fn a_drain_that_puts_entries_back_comes_to_an_end() {
    for policy in Policy::ALL {
        let cache = small(policy);
        (0..100).for_each(|number| _ = cache.put(&key(number), &value(number, 1, 100)).unwrap());
        let mut taken = 0;
        let total = cache.drain(|key, value| {
            taken += 1;
            if taken < 100_000 {
                cache.put(key, value).unwrap();
            }
        });
        assert_eq!(total, taken);
        assert!(taken <= 200, "entries put back are taken again and again: {taken} of 100");
        cache.validate().unwrap();
    }
}

fn a_panic_while_draining_loses_what_was_taken_and_nothing_else() {
    let cache = small(Policy::Lru);
    (0..3000).for_each(|number| _ = cache.put(&key(number), &value(number, 1, 50)).unwrap());
    let mut taken = 0;
    let drained = catch_quietly(|| {
        cache.drain(|key, value| {
            check(key, value);
            taken += 1;
            assert!(taken < 10, "on purpose");
        })
    });
    assert!(drained.is_err());
    cache.validate().unwrap();
    let stats = cache.stats();
    assert_eq!((stats.resets, stats.inserts - stats.removals), (0, cache.len()));
    assert!(cache.len() > 1000, "the rest is there");
}

fn one_bucket_is_enough() {
    for policy in Policy::ALL {
        let config = Config::bytes(1 << 20).partitions(1).slab_bytes(16 << 10).fixed_buckets(1).policy(policy);
        let cache = SharedCache::private(&config).unwrap();
        (0..300).for_each(|number| _ = cache.put(&key(number), &value(number, 1, 60)).unwrap());
        let report = cache.memory_report_with_chains();
        assert_eq!((report.buckets, report.overflowed, report.longest_chain), (1, 288, 288));
        (0..300).step_by(3).for_each(|number| _ = cache.remove(&key(number)));
        cache.validate().unwrap();
        (0..300).for_each(|number| assert_eq!(cache.contains(&key(number)), number % 3 != 0));
        assert_eq!(cache.memory_report().overflowed, 188);
    }
}

fn counters_say_what_was_done() {
    for policy in Policy::ALL {
        let cache = SharedCache::private(&Config::entries(3, 100).partitions(1).policy(policy)).unwrap();
        let mut out = Vec::new();
        (0..4u8).for_each(|number| _ = cache.put(&[number], &[number; 10]).unwrap());
        cache.put(&[3], &[9; 20]).unwrap();
        cache.put(&[3], &[9; 100]).unwrap_err();
        assert!(!cache.get(&[0], &mut out) && cache.get(&[1], &mut out));
        cache.with(&[2], |_| ());
        cache.with(&[77], |_| ());
        cache.peek(&[1], &mut out);
        cache.contains(&[88]);
        cache.remove(&[1]);
        cache.remove(&[1]);
        cache.pop_lru();
        cache.clear();
        cache.clear();
        let stats = cache.stats();
        assert_eq!((stats.hits, stats.misses, stats.inserts, stats.updates), (2, 2, 4, 1));
        assert_eq!((stats.evictions, stats.removals, stats.refused), (1, 3, 1));
        assert_eq!(cache.stats().hit_ratio(), Some(0.5));
    }
}
