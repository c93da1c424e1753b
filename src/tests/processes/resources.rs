//! Pins, tickets and loads are given back once, by the process and the handle that took them.

use pg_shared_lru::shared::write_back::{Concurrency, Condition, LoadGuard, LoadStep, StoreStep, WriteBackGuard};
use pg_shared_lru::{Config, Policy, RobustLocks, SharedCache};

use crate::support::fork::{exit_now, fork_here};

super::scenarios![resources:
    a_closure_that_forks_has_one_pin_to_drop,
    a_ticket_is_its_own_processes,
    a_load_is_its_own_processes,
    a_child_can_take_and_give_back_what_is_its_own,
    what_outlives_release_all_gives_nothing_back,
    an_old_ticket_does_not_take_a_new_pin,
];

type Cache = SharedCache<RobustLocks>;

/// Many entries in one partition.
fn full(policy: Policy) -> Cache {
    let cache = SharedCache::shared_mapping(&Config::bytes(230_000).partitions(1).policy(policy)).unwrap();
    for number in 0..10u32 {
        cache.put(&number.to_be_bytes(), &[7; 100]).unwrap();
    }
    cache
}

/// The right to write back the one entry of a cache that has room for one.
fn write_back_of(cache: &Cache) -> WriteBackGuard<'_, RobustLocks> {
    let store = |key: &[u8]| cache.store_if(key, b"value", &mut Condition::None, &cache.resets(), &mut 0).unwrap();
    assert!(matches!(store(b"old"), StoreStep::Done(..)));
    let StoreStep::WriteBack(guard) = store(b"new") else { panic!("a dirty entry must make way") };
    guard
}

fn room_for_one() -> Cache {
    SharedCache::shared_mapping(&Config::entries(1, 64)).unwrap()
}

fn load<'a>(cache: &'a Cache, key: &[u8]) -> LoadGuard<'a, RobustLocks> {
    let LoadStep::Yours(load) = cache.lease_load(key, Concurrency::Single) else {
        panic!("an absent key that nobody loads")
    };
    load
}

fn a_closure_that_forks_has_one_pin_to_drop() {
    for policy in Policy::ALL {
        let cache = full(policy);
        let is_parent = cache.with(&3u32.to_be_bytes(), |_| fork_here()).unwrap();
        if !is_parent {
            exit_now();
        }
        assert_eq!(cache.pinned(), 0, "{policy}");
        assert!(cache.peek(&3u32.to_be_bytes(), &mut Vec::new()), "{policy}");
        cache.validate().unwrap();
        assert_eq!(cache.clear(), 10, "{policy}");
        cache.validate().unwrap();
    }
}

fn a_ticket_is_its_own_processes() {
    let cache = room_for_one();
    let guard = write_back_of(&cache);
    if !fork_here() {
        assert!(!guard.finish(), "the entry is its parent's to write back");
        exit_now();
    }
    assert_eq!(cache.in_flight().writes, 1);
    assert!(guard.finish());
    assert_eq!((cache.in_flight().writes, cache.len()), (0, 0));
    cache.validate().unwrap();
}

fn a_load_is_its_own_processes() {
    let cache = room_for_one();
    let mut load = load(&cache, b"key");
    if !fork_here() {
        let step =
            cache.store_if(b"key", b"other", &mut Condition::Loaded(&mut load), &cache.resets(), &mut 0).unwrap();
        assert!(matches!(step, StoreStep::Stale), "its parent loads the key");
        exit_now();
    }
    assert_eq!(cache.in_flight().loads, 1);
    let step = cache.store_if(b"key", b"value", &mut Condition::Loaded(&mut load), &cache.resets(), &mut 0).unwrap();
    assert!(matches!(step, StoreStep::Done(..)));
    assert_eq!(cache.in_flight().loads, 0);
}

fn a_child_can_take_and_give_back_what_is_its_own() {
    let cache = full(Policy::Lru);
    let load = load(&cache, b"parent");
    let is_parent = cache.with(&3u32.to_be_bytes(), |_| {
        let is_parent = fork_here();
        if !is_parent {
            let own = self::load(&cache, b"child");
            cache.with(&4u32.to_be_bytes(), |_| assert_eq!(cache.pinned(), 2)).unwrap();
            assert_eq!((cache.pinned(), cache.in_flight().loads), (1, 2));
            std::mem::forget(own);
            release_all(&cache);
            assert_eq!((cache.pinned(), cache.in_flight().loads), (1, 1), "its parent's are none of its business");
        }
        is_parent
    });
    if is_parent == Some(false) {
        drop(load);
        exit_now();
    }
    assert_eq!((cache.pinned(), cache.in_flight().loads), (0, 1));
    drop(load);
    assert_eq!(cache.in_flight().loads, 0);
    cache.validate().unwrap();
}

#[allow(unsafe_code)] // stands for an exit callback
fn release_all(cache: &Cache) {
    // SAFETY: no closure of this process and handle reads a value any more.
    unsafe { cache.release_all() };
}

fn what_outlives_release_all_gives_nothing_back() {
    let cache = full(Policy::Lru);
    let first = load(&cache, b"a");
    release_all(&cache);
    assert_eq!(cache.in_flight().loads, 0);
    let second = load(&cache, b"b");
    drop(first);
    assert_eq!(cache.in_flight().loads, 1, "the second is there");
    drop(second);
    assert_eq!(cache.in_flight().loads, 0);
}

fn an_old_ticket_does_not_take_a_new_pin() {
    let cache = room_for_one();
    let guard = write_back_of(&cache);
    release_all(&cache);
    assert_eq!(cache.in_flight().writes, 0);
    cache.with(b"old", |_| {
        drop(guard);
        assert_eq!(cache.pinned(), 1);
    });
    assert_eq!(cache.pinned(), 0);
    cache.validate().unwrap();
}
