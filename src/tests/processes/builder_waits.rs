//! Who of a builder cache's workers waits for whom, and for how long.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pg_shared_lru::adapters::builder::BuilderError;
use pg_shared_lru::shared::write_back::{Concurrency, Condition, LoadStep, StoreStep, may_wait};
use pg_shared_lru::{Config, LockMode, Locks, Policy, RobustLocks, Tenancy};

use crate::support::fork::{Child, join, shared_words};
use crate::support::history::{Cache, Disk, History, Table, drained, pair, small};
use crate::support::memory::Arena;

crate::scenarios![builder_waits:
    a_worker_that_holds_a_ticket_never_waits,
    two_caches_do_not_wait_for_each_other,
    patience_ends,
    many_loads_at_once_wait_for_each_other,
    what_is_being_loaded_does_not_keep_others_from_making_way,
    room_that_was_made_a_moment_ago_is_found,
];

fn a_worker_that_holds_a_ticket_never_waits() {
    let (first, second, table) = pair();
    table.write(7, &History(vec![7]));
    let mut tried = false;
    let mut disk = Disk::new(table);
    disk.on_spill = Box::new(|key| {
        if key == 1 && !tried {
            tried = true;
            let mut inner = Disk::new(table);
            // The first worker, from within its store, with the second in the middle of the other entry.
            inner.on_spill = Box::new(|other| {
                assert_eq!(other, 2);
                assert!(!may_wait());
                let mut others = Disk::new(table);
                let (history, version) = first.get_or_load(&7, &mut others).unwrap().unwrap();
                assert_eq!(history, History(vec![7]));
                assert!(first.get(&7).unwrap().is_none(), "there is no room for it");
                let is_backlog = |error| matches!(error, BuilderError::Backlog { writes: 2, pins: 0, loads: 0, .. });
                assert!(is_backlog(first.compare_push(&7, version, history, &mut others).unwrap_err()));
                assert!(is_backlog(first.push(&8, &History(vec![8]), &mut others).unwrap_err()));
                assert!(is_backlog(first.modify(&7, &mut others, |history| history).unwrap_err()));
                Ok(())
            });
            second.push(&4, &History(vec![4]), &mut inner).unwrap();
        }
        Ok(())
    });
    first.push(&3, &History(vec![3]), &mut disk).unwrap();
    drop(disk);
    assert!(may_wait());
    assert_eq!(first.encoded().in_flight(), Default::default());
    assert_eq!(drained(&first, table).into_keys().collect::<Vec<_>>(), [3, 4]);
}

fn two_caches_do_not_wait_for_each_other() {
    let config = small(Policy::Lru, 1);
    let (a, b) = (Arena::for_config(&config), Arena::for_config(&config));
    let _caches = (a.create(&config).unwrap(), b.create(&config).unwrap());
    let table = Table::new(4, 4);
    table.write(1, &History(vec![1]));
    let met = shared_words(1);
    let work = |outer: Arena, inner: Arena| {
        let outer = Cache::over(outer.attach().unwrap()).unwrap();
        let inner = Cache::over(inner.attach().unwrap()).unwrap().with_wait_timeout(Duration::MAX);
        let mut disk = Disk::new(table);
        disk.on_load = Box::new(|_| {
            met[0].fetch_add(1, Ordering::SeqCst);
            while met[0].load(Ordering::SeqCst) < 2 {
                std::thread::yield_now();
            }
            inner.get_or_load(&1, &mut Disk::new(table)).unwrap();
            Ok(())
        });
        outer.get_or_load(&1, &mut disk).unwrap();
    };
    join(vec![Child::spawn("one", || work(a, b)), Child::spawn("two", || work(b, a))]);
}

fn patience_ends() {
    let config = Config::entries(2, 4096);
    let arena = Arena::for_config(&config);
    let patience = Duration::from_millis(100);
    let first = Cache::over(arena.create(&config).unwrap()).unwrap().with_wait_timeout(patience);
    let table = Table::new(300, 4);
    table.write(5, &History(vec![5]));
    let mut disk = Disk::new(table);
    first.push(&1, &History(vec![1]), &mut disk).unwrap();
    first.push(&2, &History(vec![2]), &mut disk).unwrap();
    let held = shared_words(2);
    let hold = |held: &AtomicU64| {
        held.store(1, Ordering::SeqCst);
        while held.load(Ordering::SeqCst) == 1 {
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    let until_held = |held: &AtomicU64| while held.load(Ordering::SeqCst) == 0 {};
    let reader = Child::spawn("reader", || {
        let cache = Cache::over(arena.attach().unwrap()).unwrap();
        cache.with(&1, |_| cache.with(&2, |_| hold(&held[0])).unwrap()).unwrap();
    });
    until_held(&held[0]);
    let error = first.push(&3, &History(vec![3]), &mut disk).unwrap_err();
    assert!(matches!(error, BuilderError::Backlog { writes: 0, loads: 0, pins: 2, bytes: 12 }), "{error}");
    assert!(error.to_string().starts_with("no room for an entry of 12 bytes: 0 entries are being written back"));
    held[0].store(2, Ordering::SeqCst);
    first.push(&3, &History(vec![3]), &mut disk).unwrap();

    // Loads take as long as they take: who has waited enough loads beside the other.
    let loader = Child::spawn("loader", || {
        let mut disk = Disk::new(table);
        disk.on_load = Box::new(|_| {
            hold(&held[1]);
            Ok(())
        });
        Cache::over(arena.attach().unwrap()).unwrap().get_or_load(&5, &mut disk).unwrap();
    });
    until_held(&held[1]);
    assert_eq!(first.get_or_load(&5, &mut disk).unwrap().unwrap().0, History(vec![5]));
    assert!(first.stats().waits > 0);
    held[1].store(2, Ordering::SeqCst);
    join(vec![reader, loader]);
    assert_eq!(first.encoded().in_flight(), Default::default());
}

fn many_loads_at_once_wait_for_each_other() {
    let config = Config::bytes(4 << 20).partitions(1);
    let arena = Arena::for_config(&config);
    let leader: Cache<_> = Cache::over(arena.create(&config).unwrap()).unwrap();
    let table = Table::new(300, 4);
    table.write(200, &History(vec![200]));
    let go = shared_words(1);
    let waiter = Child::spawn("waiter", || {
        while go[0].load(Ordering::SeqCst) == 0 {}
        let cache = Cache::over(arena.attach().unwrap()).unwrap();
        cache.get_or_load(&200, &mut Disk::new(table)).unwrap().unwrap();
        assert_eq!(cache.stats().misses, 1, "a read is counted once");
    });
    let lease = |key: u32| match leader.encoded().lease_load(&key.to_le_bytes(), Concurrency::Single) {
        LoadStep::Yours(load) => Some(load),
        _ => None,
    };
    let loads: Vec<_> = (0..31).map(|key| lease(key).expect("room for so many")).collect();
    assert!(lease(31).is_none());
    let error = leader.get_or_load(&200, &mut Disk::new(table)).unwrap_err();
    assert!(matches!(error, BuilderError::Backlog { loads: 31, .. }), "{error}");
    go[0].store(1, Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(50));
    let reads = leader.encoded().stats();
    assert!(reads.hits + reads.misses < 1000, "{reads:?}: it is not to ask all the time");
    drop(loads);
    join(vec![waiter]);
}

fn what_is_being_loaded_does_not_keep_others_from_making_way() {
    let config = Config::entries(100, 64);
    let arena = Arena::for_config(&config);
    let first = Cache::over(arena.create(&config).unwrap()).unwrap();
    let second: Cache<_> = Cache::over(arena.attach().unwrap()).unwrap();
    let table = Table::new(300, 4);
    let load = second.encoded().lease_load(&5u32.to_le_bytes(), Concurrency::Single);
    let mut disk = Disk::new(table);
    for key in 5..105 {
        first.push(&key, &History(vec![1]), &mut disk).unwrap();
    }
    first.push(&200, &History(vec![1]), &mut disk).unwrap();
    assert_eq!((table.spills(5), table.spills(6)), (0, 1));
    first.encoded().validate().unwrap();
    drop(load);
    first.push(&201, &History(vec![1]), &mut disk).unwrap();
    assert_eq!(table.spills(5), 1, "its turn came again");
}

/// Fires a hook before one acquisition of the lock; does not wait.
struct ScriptedLocks<'a> {
    inner: RobustLocks,
    left: Cell<usize>,
    hook: Cell<Option<Box<dyn FnOnce() + 'a>>>,
}

#[allow(unsafe_code)]
// SAFETY: the lock is that of `inner`; the hook runs before it is taken.
unsafe impl Locks for ScriptedLocks<'_> {
    fn acquire(&self, partition: usize, mode: LockMode) {
        self.left.set(self.left.get().wrapping_sub(1));
        if self.left.get() == 0 {
            self.hook.take().expect("fires once")();
        }
        self.inner.acquire(partition, mode);
    }

    fn release(&self, partition: usize, mode: LockMode) {
        self.inner.release(partition, mode);
    }

    fn wait(&self, _: usize, _: &mut dyn FnMut() -> bool) {}
}

#[allow(unsafe_code)]
// SAFETY: as for the locks inside.
unsafe impl Tenancy for ScriptedLocks<'_> {}

fn room_that_was_made_a_moment_ago_is_found() {
    let config = Config::entries(1, 4096);
    let arena = Arena::for_config(&config);
    let second = Cache::over(arena.create(&config).unwrap()).unwrap();
    let table = Table::new(10, 4);
    second.push(&1, &History(vec![1]), &mut Disk::new(table)).unwrap();
    let step = second.encoded().store_if(&2u32.to_le_bytes(), b"", &mut Condition::None, &[0], &mut 0).unwrap();
    let StoreStep::WriteBack(guard) = step else { panic!("a dirty entry must make way") };
    // Acquisitions of the first worker: resets; store, blocked; then the write-back ends; store.
    let locks = ScriptedLocks {
        inner: arena.locks(),
        left: Cell::new(3),
        hook: Cell::new(Some(Box::new(|| assert!(guard.finish())))),
    };
    let first = Cache::over(arena.attach_bytes(config.region_bytes().unwrap(), locks).unwrap()).unwrap();
    // This thread holds the second worker's write-back: it is told at once, and then finds the room.
    let error = first.push(&3, &History(vec![3]), &mut Disk::new(table)).unwrap_err();
    assert!(matches!(error, BuilderError::Backlog { .. }), "{error}");
    assert!(may_wait(), "the write-back has ended");
    first.push(&3, &History(vec![3]), &mut Disk::new(table)).unwrap();
}
