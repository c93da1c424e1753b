//! The same bytes are the same cache, wherever they are mapped and whoever looks.

use std::sync::atomic::Ordering;

use pg_shared_lru::{CompactBudget, Config, Evicted, NoLocks, Policy, SharedCache};

use crate::support::content::{Random, check, key, value};
use crate::support::fork::{Child, join, shared_words};
use crate::support::memory::Arena;

crate::scenarios![position_independence:
    two_mappings_of_one_process_are_one_cache,
    a_child_that_maps_again_is_in_the_same_cache,
    bytes_copied_elsewhere_are_the_same_cache,
    memory_that_is_not_zeroed_is_as_good_as_any,
    an_id_of_another_process_never_finds_another_entry,
    a_cache_in_memory_of_others_says_that_it_cannot_map_it_again,
];

fn config() -> Config {
    Config::bytes(1 << 20).partitions(2).slab_bytes(16 << 10)
}

fn fill(cache: &SharedCache<impl pg_shared_lru::Locks>, seed: u64, count: usize) {
    let mut random = Random(seed);
    for _ in 0..count {
        let number = random.below(2000) as u32;
        cache.put(&key(number), &value(number, random.next() as u32, random.value_len())).unwrap();
    }
}

fn two_mappings_of_one_process_are_one_cache() {
    let first = SharedCache::shared_mapping(&config()).unwrap();
    let second = first.attach_again().unwrap();
    let mut random = Random(1);
    let (mut out, mut evicted) = (Vec::new(), Evicted::default());
    for step in 0..3000 {
        let (writer, reader) = if step % 2 == 0 { (&first, &second) } else { (&second, &first) };
        let number = random.below(600) as u32;
        let written = value(number, step, random.value_len());
        writer.push(&key(number), &written, &mut evicted).unwrap();
        assert!(reader.get(&key(number), &mut out) && out == written);
        let addresses = [&first, &second].map(|cache| cache.with(&key(number), <[u8]>::as_ptr).expect("just put"));
        assert!(written.len() > 2000 || addresses[0] != addresses[1], "the mappings are at different addresses");
        if step % 500 == 0 {
            reader.compact(CompactBudget::bytes(10_000));
            writer.validate().unwrap();
        }
    }
    evicted.iter().for_each(|(key, value)| check(key, value));
    assert_eq!((first.stats(), first.memory_report()), (second.stats(), second.memory_report()));
    assert!(first.iter_with_values().eq(second.iter_with_values()));
    let len = first.len();
    assert_eq!(first.into_parts().len() as u64, len);
    assert!(second.is_empty());
    fill(&second, 2, 100); // the first mapping is gone
    second.validate().unwrap();
}

fn a_child_that_maps_again_is_in_the_same_cache() {
    let cache = SharedCache::shared_mapping(&config().policy(Policy::Clock)).unwrap();
    fill(&cache, 3, 1500);
    let child = Child::spawn("attacher", || {
        let again = cache.attach_again().unwrap();
        assert!(again.iter_with_values().eq(cache.iter_with_values()));
        again.validate().unwrap();
        again.clear();
        fill(&again, 4, 1500);
        again.put(b"from the child", b"hello").unwrap();
    });
    join(vec![child]);
    cache.validate().unwrap();
    let mut out = Vec::new();
    assert!(cache.get(b"from the child", &mut out) && out == b"hello");
    cache.remove(b"from the child");
    cache.iter_with_values().for_each(|entry| check(&entry.key, &entry.value.expect("asked for")));
}

fn bytes_copied_elsewhere_are_the_same_cache() {
    let config = config();
    let arena = Arena::for_config(&config);
    let cache = arena.create(&config).unwrap();
    fill(&cache, 5, 1500);
    let copy = arena.copy().attach().unwrap();
    copy.validate().unwrap();
    assert_eq!(copy.memory_report_with_chains(), cache.memory_report_with_chains());
    assert!(copy.iter_with_values().eq(cache.iter_with_values()));
    // And from here on they go the same way: nothing depends on the address or on the handle.
    fill(&copy, 6, 1500);
    fill(&cache, 6, 1500);
    assert_eq!(copy.stats(), cache.stats());
    assert!(copy.into_parts().iter().eq(cache.into_parts().iter()));
}

fn memory_that_is_not_zeroed_is_as_good_as_any() {
    let config = config();
    for byte in [0x01, 0xa5, 0xff] {
        let arena = Arena::for_config(&config);
        arena.fill(byte);
        let cache = arena.create(&config).unwrap();
        cache.validate().unwrap();
        fill(&cache, 7, 1500);
        cache.validate().unwrap();
        // Once more over the cache that is there.
        let again = arena.create(&config).unwrap();
        assert!(again.is_empty());
        assert_eq!(again.stats(), Default::default());
        fill(&again, 8, 1500);
        again.validate().unwrap();
    }
}

fn an_id_of_another_process_never_finds_another_entry() {
    const COUNT: usize = 400;
    let cache = SharedCache::shared_mapping(&config()).unwrap();
    let [ids, state] = [shared_words(COUNT), shared_words(1)];
    for number in 0..COUNT as u32 {
        cache.put(&key(number), &value(number, 1, 40)).unwrap();
    }
    for (word, entry) in ids.iter().zip(cache.iter()) {
        word.store(entry.id.to_u64(), Ordering::SeqCst);
    }
    let keys: Vec<Vec<u8>> = cache.iter().map(|entry| entry.key).collect();
    let check_ids = |live: bool| {
        for (word, key) in ids.iter().zip(&keys) {
            let id = pg_shared_lru::EntryId::from_u64(word.load(Ordering::SeqCst)).expect("a live entry's id");
            match cache.entry(id) {
                Some(entry) => assert!(entry.key == *key && live, "{id} finds {entry:?}"),
                None => assert!(!live, "{id} finds nothing"),
            }
        }
    };
    let holder = Child::spawn("holder", || {
        check_ids(true);
        state[0].store(1, Ordering::SeqCst);
        while state[0].load(Ordering::SeqCst) != 2 {
            std::thread::yield_now();
        }
        check_ids(false);
    });
    while state[0].load(Ordering::SeqCst) != 1 {
        std::thread::yield_now();
    }
    // Records change hands many times, and slabs of records become slabs of values and back.
    for round in 0..6 {
        cache.clear();
        fill(&cache, 100 + round, 800);
        for number in 0..500 {
            cache.put(&key(number), &value(number, round as u32, if round % 2 == 0 { 20 } else { 1500 })).unwrap();
        }
    }
    state[0].store(2, Ordering::SeqCst);
    join(vec![holder]);
    check_ids(false);
}

fn a_cache_in_memory_of_others_says_that_it_cannot_map_it_again() {
    let config = config();
    let arena = Arena::for_config(&config);
    let cache = arena.create(&config).unwrap();
    assert!(cache.attach_again().is_err(), "there is no mapping to map again");
    let attached = arena.attach_bytes(config.region_bytes().unwrap(), NoLocks::default()).unwrap();
    attached.validate().unwrap();
}
