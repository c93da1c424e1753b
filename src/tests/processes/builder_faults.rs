//! Stores that fail, workers that die, entries that are lost: nothing of a builder cache stays in anybody's hands.

use std::sync::atomic::Ordering;

use pg_shared_lru::adapters::builder::BuilderError;
use pg_shared_lru::shared::write_back::{Concurrency, Condition, LoadStep, StoreStep, may_wait};
use pg_shared_lru::{Config, Policy, RobustLocks, SharedCache};

use crate::support::fork::{Child, catch_quietly, kill_myself};
use crate::support::history::{Cache, Disk, History, Table, drained, pair, pair_in, small};
use crate::support::memory::{Arena, HookLocks};

crate::scenarios![builder_faults:
    a_failed_load_or_spill_leaves_nothing_behind,
    a_panic_in_the_store_leaves_nothing_behind,
    what_an_exit_callback_finds_is_undone,
    a_load_of_a_process_that_died_is_taken_over,
    a_ticket_whose_end_is_refused_is_given_back,
    a_load_that_has_ended_takes_nothing_else_with_it,
    a_load_stores_no_other_key,
    what_a_killed_worker_had_in_hand_is_given_back,
    a_key_is_not_written_by_two_though_its_entry_was_lost,
    what_was_lost_is_not_taken_for_absent,
    what_is_lost_during_a_load_is_not_taken_for_absent,
    a_worker_killed_while_it_reads_does_not_keep_the_entries_from_being_drained,
];

fn a_failed_load_or_spill_leaves_nothing_behind() {
    let (first, second, table) = pair();
    table.write(5, &History(vec![5]));
    let mut disk = Disk::new(table);
    disk.on_load = Box::new(|_| Err("no such page".to_owned()));
    disk.on_spill = Box::new(|_| Err("disk full".to_owned()));
    let error = first.get_or_load(&5, &mut disk).unwrap_err();
    assert_eq!(error.to_string(), "the store behind the cache: no such page");
    let error = first.push(&3, &History(vec![3]), &mut disk).unwrap_err();
    assert!(matches!(&error, BuilderError::Store(reason) if reason == "disk full"), "{error}");
    assert_eq!(first.encoded().in_flight(), Default::default());
    first.encoded().validate().unwrap();
    // Others go on, and what was to be spilled is still dirty.
    let mut disk = Disk::new(table);
    second.push(&3, &History(vec![3]), &mut disk).unwrap();
    assert_eq!(table.spills(1), 2);
    assert_eq!(table.read(1), Some(History(vec![1])));
    assert_eq!(second.get_or_load(&5, &mut disk).unwrap().unwrap().0, History(vec![5]));
}

fn a_panic_in_the_store_leaves_nothing_behind() {
    let (first, second, table) = pair();
    let mut disk = Disk::new(table);
    disk.on_load = Box::new(|_| panic!("an ERROR"));
    disk.on_spill = Box::new(|_| panic!("an ERROR"));
    assert!(catch_quietly(std::panic::AssertUnwindSafe(|| first.get_or_load(&5, &mut disk))).is_err());
    assert!(catch_quietly(std::panic::AssertUnwindSafe(|| first.push(&3, &History(vec![3]), &mut disk))).is_err());
    assert_eq!(second.encoded().in_flight(), Default::default());
    assert!(may_wait());
    second.encoded().validate().unwrap();
    assert_eq!(second.get(&1).unwrap().unwrap().0, History(vec![1]));
}

#[allow(unsafe_code)] // stands for an exit callback
fn what_an_exit_callback_finds_is_undone() {
    let (first, second, table) = pair();
    let mut disk = Disk::new(table);
    let holder: &SharedCache<RobustLocks> = first.encoded();
    disk.on_spill = Box::new(|_| {
        assert_eq!(second.encoded().in_flight().writes, 1);
        // SAFETY: no closure of this handle has pinned bytes in its hands.
        unsafe { holder.release_all() };
        assert_eq!(second.encoded().in_flight(), Default::default());
        second.encoded().validate().unwrap();
        Err("the process ends".to_owned())
    });
    disk.on_load = Box::new(|_| {
        assert_eq!(second.encoded().in_flight().loads, 1);
        // SAFETY: as above.
        unsafe { holder.release_all() };
        assert_eq!(second.encoded().in_flight(), Default::default());
        Err("the process ends".to_owned())
    });
    first.push(&3, &History(vec![3]), &mut disk).unwrap_err();
    first.get_or_load(&4, &mut disk).unwrap_err();
    drop(disk);
    second.encoded().validate().unwrap();
    assert_eq!(drained(&second, table).len(), 2);
}

fn a_load_of_a_process_that_died_is_taken_over() {
    let config = small(Policy::Lru, 1);
    let arena = Arena::for_config(&config);
    let leader = Cache::over(arena.create(&config).unwrap()).unwrap();
    let table = Table::new(4, 4);
    table.write(1, &History(vec![1]));
    let mut victim = Child::spawn("loader", || {
        let cache = Cache::over(arena.attach().unwrap()).unwrap();
        let mut disk = Disk::new(table);
        disk.on_load = Box::new(|_| {
            kill_myself();
            Ok(())
        });
        let _ = cache.get_or_load(&1, &mut disk);
    });
    victim.wait();
    assert_eq!(leader.encoded().in_flight().loads, 1);
    table.row(1)[0].store(0, Ordering::SeqCst);
    assert_eq!(leader.get_or_load(&1, &mut Disk::new(table)).unwrap().unwrap().0, History(vec![1]));
    assert_eq!(leader.encoded().in_flight().loads, 0);
    leader.encoded().validate().unwrap();
}

fn a_ticket_whose_end_is_refused_is_given_back() {
    let config = Config::entries(2, 4096);
    let arena = Arena::for_config(&config);
    let second: Cache<_> = Cache::over(arena.create(&config).unwrap()).unwrap();
    let hook = HookLocks::new(&arena);
    let first = Cache::over(arena.attach_bytes(config.region_bytes().unwrap(), hook.clone()).unwrap()).unwrap();
    let table = Table::new(10, 100);
    let mut disk = Disk::new(table);
    first.push(&1, &History(vec![1]), &mut disk).unwrap();
    first.push(&2, &History(vec![2]), &mut disk).unwrap();
    disk.on_spill = Box::new(|_| {
        hook.before_next(|| panic!("the cache was dropped, as PostgreSQL's locks say"));
        Ok(())
    });
    assert!(catch_quietly(std::panic::AssertUnwindSafe(|| first.push(&3, &History(vec![3]), &mut disk))).is_err());
    assert_eq!(second.encoded().in_flight(), Default::default());
    assert!(may_wait());
}

fn a_load_that_has_ended_takes_nothing_else_with_it() {
    let cache = SharedCache::private(&Config::entries(4, 256)).unwrap();
    let LoadStep::Yours(mut load) = cache.lease_load(b"a", Concurrency::Single) else { panic!("the key is absent") };
    let step = cache.store_if(b"a", b"1111", &mut Condition::Loaded(&mut load), &[0], &mut 0).unwrap();
    assert!(matches!(step, StoreStep::Done(..)));
    cache.put(b"b", b"old!").unwrap();
    cache.with(b"b", |bytes| {
        drop(load);
        cache.put(b"b", b"new?").unwrap();
        assert_eq!(bytes, b"old!", "pinned bytes stay");
    });
    assert!(may_wait());
}

fn a_load_stores_no_other_key() {
    let cache = SharedCache::private(&Config::entries(4, 256)).unwrap();
    let leased = cache.lease_load(b"a", Concurrency::Single);
    let LoadStep::Yours(mut load) = leased else { panic!("the key is absent") };
    let stored = catch_quietly(std::panic::AssertUnwindSafe(|| {
        let step = cache.store_if(b"b", b"2222", &mut Condition::Loaded(&mut load), &[0], &mut 0);
        assert!(matches!(step, Ok(StoreStep::Done(..))));
    }));
    assert!(stored.is_err() && !cache.contains(b"b"), "it would be clean, and its store does not have it");
    assert!(matches!(
        cache.store_if(b"a", b"1111", &mut Condition::Loaded(&mut load), &[0], &mut 0),
        Ok(StoreStep::Done(..))
    ));
}

fn what_a_killed_worker_had_in_hand_is_given_back() {
    let config = Config::entries(2, 4096);
    let arena = Arena::for_config(&config);
    let leader = Cache::over(arena.create(&config).unwrap()).unwrap();
    let table = Table::new(10, 4);
    let mut victim = Child::spawn("spiller", || {
        let cache = Cache::over(arena.attach().unwrap()).unwrap();
        let mut disk = Disk::new(table);
        disk.on_spill = Box::new(|_| {
            kill_myself();
            Ok(())
        });
        (0..3).for_each(|key| drop(cache.push(&key, &History(vec![1]), &mut disk)));
    });
    victim.wait();
    assert_eq!(leader.encoded().in_flight().writes, 1);
    assert_eq!(drained(&leader, table).into_keys().collect::<Vec<_>>(), [0, 1]);
}

fn a_key_is_not_written_by_two_though_its_entry_was_lost() {
    let config = Config::entries(2, 4096);
    let arena = Arena::for_config(&config);
    let (first, second, table) = pair_in(&arena, &config);
    let mut disk = Disk::new(table);
    disk.on_spill = Box::new(|key| {
        assert_eq!(key, 1);
        // A worker dies in the middle of a change; another comes, which knows nothing of it.
        arena.damage(second.encoded().layout(), 0);
        assert!(matches!(second.get(&2), Err(BuilderError::Lost)));
        let other = Cache::over(arena.attach().unwrap()).unwrap();
        let mut others = Disk::new(table);
        other.push(&1, &History(vec![1, 10]), &mut others).unwrap();
        other.push(&6, &History(vec![6]), &mut others).unwrap();
        let error = other.push(&7, &History(vec![7]), &mut others).unwrap_err();
        assert!(matches!(error, BuilderError::Backlog { writes: 1, .. }), "{error}");
        second.encoded().validate().unwrap();
        Ok(())
    });
    let error = first.push(&3, &History(vec![3]), &mut disk).unwrap_err();
    assert!(matches!(error, BuilderError::Lost), "{error}");
    drop(disk);
    assert_eq!(second.encoded().in_flight(), Default::default());
    assert!(matches!(second.push(&3, &History(vec![3]), &mut Disk::new(table)), Err(BuilderError::Lost)));
}

fn what_was_lost_is_not_taken_for_absent() {
    for policy in Policy::ALL {
        let config = small(policy, 2);
        let arena = Arena::for_config(&config);
        let cache = Cache::over(arena.create(&config).unwrap()).unwrap();
        let table = Table::new(100, 10);
        let mut disk = Disk::new(table);
        let append = |mut history: History| {
            history.0.push(7);
            history
        };
        // Dirty in the cache alone: nothing but the cache can say that there was a value.
        (0..50).for_each(|key| _ = cache.push(&key, &History(vec![1]), &mut disk).unwrap());
        (50..100).for_each(|key| table.write(key, &History(vec![2])));
        (0..2).for_each(|partition| arena.damage(cache.encoded().layout(), partition));
        for key in [0, 1, 49, 50, 99] {
            let what = format!("{policy}, key {key}");
            assert!(matches!(cache.get_or_load(&key, &mut disk), Err(BuilderError::Lost)), "get_or_load: {what}");
            assert!(matches!(cache.fetch(&key, &mut disk), Err(BuilderError::Lost)), "fetch: {what}");
            assert!(matches!(cache.modify(&key, &mut disk, append), Err(BuilderError::Lost)), "modify: {what}");
            assert!(matches!(cache.get(&key), Err(BuilderError::Lost)), "get: {what}");
            assert!(matches!(cache.with(&key, <[u8]>::len), Err(BuilderError::Lost)), "with: {what}");
            let upsert = cache.upsert(&key, &mut disk, |history| append(history.unwrap_or(History(vec![]))));
            assert!(matches!(upsert, Err(BuilderError::Lost)), "upsert: {what}");
            assert_eq!(table.loads(key), 0, "the store is not asked: {what}");
        }
        assert_eq!(cache.encoded().in_flight(), Default::default());
    }
}

fn what_is_lost_during_a_load_is_not_taken_for_absent() {
    let config = Config::entries(2, 4096);
    let arena = Arena::for_config(&config);
    let (first, second, table) = pair_in(&arena, &config);
    let mut disk = Disk::new(table);
    disk.on_load = Box::new(|_| {
        // Another worker stores the key that this one did not find, and a third dies.
        second.push(&5, &History(vec![5]), &mut Disk::new(table)).unwrap();
        arena.damage(second.encoded().layout(), 0);
        Ok(())
    });
    let error = first.modify(&5, &mut disk, |history| history).unwrap_err();
    assert!(matches!(error, BuilderError::Lost), "{error}");
}

fn a_worker_killed_while_it_reads_does_not_keep_the_entries_from_being_drained() {
    let config = Config::entries(2, 4096);
    let arena = Arena::for_config(&config);
    let (leader, _, table) = pair_in(&arena, &config);
    let mut victim = Child::spawn("reader", || {
        let cache = Cache::over(arena.attach().unwrap()).unwrap();
        let _ = cache.with(&1, |_| kill_myself());
    });
    victim.wait();
    assert_eq!(leader.encoded().pinned(), 1);
    assert_eq!(drained(&leader, table).into_keys().collect::<Vec<_>>(), [1, 2]);
}
