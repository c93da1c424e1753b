//! Walks beside writers.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use pg_shared_lru::{CompactBudget, Config, Cursor, EntryId, Policy, SharedCache, SnapshotOf};

use crate::support::content::{Random, check, key, number_of, value};
use crate::support::fork::{Child, join, shared_words};

crate::scenarios![scan:
    entries_that_stay_are_seen_exactly_once_beside_three_writers,
    a_cursor_can_be_handed_to_another_process,
    cursors_and_ids_that_nobody_made_lead_nowhere_bad,
];

const PERMANENT: u32 = 500;

/// Puts permanent entries again in all sizes, uses them, and lets others come and go.
fn churn(cache: &SharedCache<pg_shared_lru::RobustLocks>, seed: u32, go_on: impl Fn() -> bool) {
    let mut random = Random(u64::from(seed));
    let mut out = Vec::new();
    while go_on() {
        // No `with` on permanent entries: replaced while pinned they would go on under a new id, as documented.
        let permanent = random.below(PERMANENT as usize) as u32;
        match random.below(8) {
            0..=1 => _ = cache.put(&key(permanent), &value(permanent, random.next() as u32, random.value_len())),
            2 => assert!(cache.get(&key(permanent), &mut out)),
            3..=5 => {
                let number = 1000 * seed + random.below(60) as u32;
                cache.put(&key(number), &value(number, random.next() as u32, random.value_len())).unwrap();
            }
            6 => _ = cache.remove(&key(1000 * seed + random.below(60) as u32)),
            _ => _ = cache.compact(CompactBudget::bytes(5000)),
        }
    }
}

fn entries_that_stay_are_seen_exactly_once_beside_three_writers() {
    for policy in Policy::ALL {
        let config = Config::bytes(12 << 20).policy(policy).partitions(4).slab_bytes(16 << 10);
        let cache = SharedCache::shared_mapping(&config).unwrap();
        for number in 0..PERMANENT {
            cache.put(&key(number), &value(number, 0, 100)).unwrap();
        }
        let stop = &shared_words(1)[0];
        let go_on = || stop.load(Ordering::Relaxed) == 0;
        let cache = &cache;
        let writers = (1..4).map(|seed| Child::spawn(format!("{seed}"), move || churn(cache, seed, go_on)));
        let writers: Vec<_> = writers.collect();
        for walk in 0..20 {
            let mut seen = HashMap::<u32, u32>::new();
            let mut ids = HashMap::<EntryId, u32>::new();
            let entries: Box<dyn Iterator<Item = _>> =
                if walk % 2 == 0 { Box::new(cache.iter()) } else { Box::new(cache.iter_with_values()) };
            for entry in entries {
                if let Some(value) = &entry.value {
                    check(&entry.key, value);
                    assert_eq!(value.len(), entry.value_len);
                }
                *seen.entry(number_of(&entry.key).expect("a key of ours")).or_default() += 1;
                *ids.entry(entry.id).or_default() += 1;
                std::thread::yield_now();
            }
            for number in 0..PERMANENT {
                assert_eq!(seen.get(&number), Some(&1), "entry {number} in walk {walk}");
            }
            assert!(ids.values().all(|&times| times == 1), "no id is seen twice");
        }
        stop.store(1, Ordering::SeqCst);
        join(writers);
        assert_eq!(cache.stats().evictions, 0, "the test wants a cache that is large enough");
        cache.validate().unwrap();
    }
}

fn a_cursor_can_be_handed_to_another_process() {
    let cache = SharedCache::shared_mapping(&Config::bytes(2 << 20).partitions(4).slab_bytes(16 << 10)).unwrap();
    for number in 0..300 {
        cache.put(&key(number), &value(number, 0, 30)).unwrap();
    }
    let words = shared_words(302); // a cursor and one more, then how often each key was seen
    let mut steps = 0;
    loop {
        let child = Child::spawn("step", || {
            let mut found = Vec::new();
            let cursor = Cursor::from_u64(words[0].load(Ordering::SeqCst));
            let next = cache.scan(cursor, 7, SnapshotOf::Keys, &mut found);
            assert!(found.len() <= 7);
            for entry in found {
                words[2 + number_of(&entry.key).expect("a key of ours") as usize].fetch_add(1, Ordering::SeqCst);
            }
            words[1].store(u64::from(next.is_none()), Ordering::SeqCst);
            words[0].store(next.map_or(0, Cursor::to_u64), Ordering::SeqCst);
        });
        join(vec![child]);
        steps += 1;
        assert!(steps < 100, "the walk comes to an end");
        if words[1].load(Ordering::SeqCst) == 1 {
            break;
        }
    }
    assert!(words[2..].iter().all(|word| word.load(Ordering::SeqCst) == 1));
}

fn cursors_and_ids_that_nobody_made_lead_nowhere_bad() {
    let cache = SharedCache::private(&Config::bytes(1 << 20).partitions(2).slab_bytes(16 << 10)).unwrap();
    for number in 0..700 {
        cache.put(&key(number), &value(number, 0, 300)).unwrap();
    }
    let mut random = Random(9);
    let mut found = Vec::new();
    let known: HashMap<u64, Vec<u8>> = cache.iter().map(|entry| (entry.id.to_u64(), entry.key)).collect();
    for step in 0..20_000 {
        let number = match step % 4 {
            0 => random.next(),
            1 => random.below(3) as u64 * (1 << 32) + random.below(40_000) as u64,
            2 => u64::MAX << random.below(64),
            _ => u64::from(u32::MAX) << 32 | random.below(40_000) as u64,
        };
        found.clear();
        cache.scan(Cursor::from_u64(number), 2, SnapshotOf::KeysAndValues, &mut found);
        found.iter().for_each(|entry| check(&entry.key, entry.value.as_ref().expect("asked for")));
        if let Some(entry) = EntryId::from_u64(number).and_then(|id| cache.entry(id)) {
            assert_eq!(known.get(&number), Some(&entry.key));
        }
    }
    cache.validate().unwrap();
}
