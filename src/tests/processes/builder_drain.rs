//! Workers that drain one cache together: each entry is handed to one of them, and what one fails to take others get.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use pg_shared_lru::adapters::builder::{BuilderError, DrainError, DrainShare, SpillStore};
use pg_shared_lru::{Config, Locks, Policy, Put};

use crate::support::content::Random;
use crate::support::fork::{Child, Exit, catch_quietly, join, kill_myself, shared_words};
use crate::support::history::{Cache, Disk, History, Nothing, Table, drained, pair, private, small};
use crate::support::memory::Arena;

crate::scenarios![builder_drain:
    each_entry_is_handed_to_one_of_the_workers,
    workers_hold_entries_at_the_same_time,
    no_update_is_lost_though_some_drain_while_others_store,
    what_a_killed_worker_had_in_hand_is_handed_over_again,
    what_a_taker_refuses_stays_for_another,
    an_entry_changed_in_a_workers_hand_is_handed_over_again,
    an_entry_replaced_under_a_reader_is_handed_over_again,
    an_entry_in_a_workers_hand_is_neither_spilled_nor_loaded,
    more_workers_than_leases_wait_for_each_other,
    a_worker_that_holds_something_does_not_wait_for_a_lease,
    a_reader_does_not_keep_an_entry_from_being_taken,
    a_worker_is_told_of_entries_that_were_lost,
    an_exit_callback_gives_back_what_was_in_hand,
];

const ALONE: DrainShare = DrainShare { worker: 0, workers: 1 };

/// Takes what there is, and returns it in the order of taking.
fn taken<L: Locks>(cache: &Cache<L>, share: DrainShare) -> Vec<(u32, History)> {
    let mut taken = Vec::new();
    let count = cache.drain_share(share, |key, history, _| {
        taken.push((key, history));
        Ok::<_, Infallible>(())
    });
    assert_eq!(count.unwrap(), taken.len() as u64);
    taken
}

fn each_entry_is_handed_to_one_of_the_workers() {
    const KEYS: u32 = 4000;
    const WORKERS: usize = 4;
    for (policy, partitions) in [(Policy::Lru, 1), (Policy::Clock, 4), (Policy::S3Fifo, 2)] {
        let config = Config::bytes(4 << 20).policy(policy).partitions(partitions);
        let arena = Arena::for_config(&config);
        let leader = Cache::over(arena.create(&config).unwrap()).unwrap();
        let history = |key: u32| History(vec![u64::from(key); 1 + key as usize % 50]);
        for key in 0..KEYS {
            leader.push(&key, &history(key), &mut Nothing).unwrap();
        }
        let times = shared_words(KEYS as usize);
        let counted = shared_words(1);
        let work = |worker: usize| {
            let cache = Cache::over(arena.attach().unwrap()).unwrap();
            let share = DrainShare { worker, workers: WORKERS };
            let count = cache.drain_share(share, |key, found, is_dirty| {
                assert_eq!((found, is_dirty), (history(key), true));
                times[key as usize].fetch_add(1, SeqCst);
                Ok::<_, Infallible>(())
            });
            counted[0].fetch_add(count.unwrap(), SeqCst);
        };
        join((0..WORKERS).map(|worker| Child::spawn(format!("worker {worker}"), move || work(worker))).collect());
        let wrong: Vec<_> = (0..KEYS).filter(|&key| times[key as usize].load(SeqCst) != 1).collect();
        assert!(wrong.is_empty(), "not once: {wrong:?}");
        assert_eq!((counted[0].load(SeqCst), leader.len()), (u64::from(KEYS), 0));
        assert_eq!(leader.drain_sorted(|_, _, _| Err("left")).unwrap(), 0);
        leader.encoded().validate().unwrap();
        assert_eq!(leader.encoded().in_flight(), Default::default());
        let report = leader.encoded().memory_report();
        assert_eq!(report.slabs_free, report.slabs_total, "the memory is free again");
    }
}

fn workers_hold_entries_at_the_same_time() {
    const WORKERS: usize = 4;
    let config = small(Policy::Clock, 1);
    let arena = Arena::for_config(&config);
    let leader = Cache::over(arena.create(&config).unwrap()).unwrap();
    (0..100).for_each(|key| _ = leader.push(&key, &History(vec![1]), &mut Nothing).unwrap());
    let holding = shared_words(1);
    let work = |worker: usize| {
        let cache = Cache::over(arena.attach().unwrap()).unwrap();
        let mut first = None;
        let drain = cache.drain_share(DrainShare { worker, workers: WORKERS }, |key, _, _| {
            if first.is_none() {
                first = Some(key);
                holding[0].fetch_add(1, SeqCst);
                // Ends only if all have one in hand.
                while holding[0].load(SeqCst) < WORKERS as u64 {
                    std::thread::yield_now();
                }
            }
            Ok::<_, Infallible>(())
        });
        drain.unwrap();
        assert_eq!(first, Some(worker as u32 * 25), "each begins with its own share");
    };
    join((0..WORKERS).map(|worker| Child::spawn(format!("worker {worker}"), move || work(worker))).collect());
    assert_eq!(leader.len(), 0);
}

/// Workers change random keys; some drain into the store in between, and all when they are done.
fn no_update_is_lost_though_some_drain_while_others_store() {
    const KEYS: u32 = 300;
    const CHANGES: u64 = 3000;
    for (policy, partitions, workers) in [(Policy::Lru, 1, 3), (Policy::Clock, 2, 4), (Policy::S3Fifo, 1, 4)] {
        let config = small(policy, partitions);
        let arena = Arena::for_config(&config);
        let leader = Cache::over(arena.create(&config).unwrap()).unwrap();
        let table = Table::new(KEYS as usize, 900);
        for key in 0..KEYS {
            let first = History(vec![u64::from(key) << 32]);
            assert_eq!(leader.push(&key, &first, &mut Disk::new(table)).unwrap(), Put::Inserted);
        }
        let totals = shared_words(2);
        let work = |worker: u64| {
            let cache = Cache::over(arena.attach().unwrap()).unwrap();
            let mut disk = Disk::new(table);
            let mut random = Random(worker);
            let share = DrainShare { worker: worker as usize - 1, workers };
            let drain = |disk: &mut Disk<'_>| {
                // The table panics if somebody else reads or writes the key meanwhile.
                let drain = cache.drain_share(share, |key, history, _| {
                    totals[0].fetch_add(1, SeqCst);
                    disk.spill(&key, history)
                });
                totals[1].fetch_add(drain.unwrap(), SeqCst);
            };
            for number in 0..CHANGES {
                let key = random.below(if number % 2 == 0 { KEYS as usize } else { 10 }) as u32;
                let append = |mut history: History| {
                    history.0.push(worker << 40 | number);
                    history
                };
                assert!(cache.modify(&key, &mut disk, append).unwrap(), "key {key} is nowhere");
                if worker <= 2 && number % 20 == 19 {
                    drain(&mut disk);
                }
            }
            drain(&mut disk);
        };
        let worker = |worker| Child::spawn(format!("worker {worker}"), move || work(worker));
        join((1..=workers as u64).map(worker).collect());
        assert_eq!(leader.drain_sorted(|key, _, _| Err(key)).unwrap(), 0, "the last worker leaves nothing");
        leader.encoded().validate().unwrap();
        let mut marks: Vec<u64> = (0..KEYS).flat_map(|key| table.read(key).expect("every key").0).collect();
        marks.sort_unstable();
        let mut expected: Vec<u64> = (0..u64::from(KEYS)).map(|key| key << 32).collect();
        expected.extend((1..=workers as u64).flat_map(|w| (0..CHANGES).map(move |number| w << 40 | number)));
        expected.sort_unstable();
        assert_eq!(marks, expected, "each change is there once");
        let [handed_over, gone] = [0, 1].map(|total| totals[total].load(SeqCst));
        assert!(gone > 500 && handed_over > gone, "{handed_over} handed over, {gone} gone");
    }
}

fn what_a_killed_worker_had_in_hand_is_handed_over_again() {
    let config = small(Policy::Lru, 2);
    let arena = Arena::for_config(&config);
    let leader = Cache::over(arena.create(&config).unwrap()).unwrap();
    let table = Table::new(100, 4);
    (0..100).for_each(|key| _ = leader.push(&key, &History(vec![1]), &mut Nothing).unwrap());
    let mut victim = Child::spawn("victim", || {
        let cache = Cache::over(arena.attach().unwrap()).unwrap();
        let _ = cache.drain_share(DrainShare { worker: 1, workers: 2 }, |key, history, _| {
            if key == 60 {
                kill_myself();
            }
            table.write(key, &history);
            Ok::<_, Infallible>(())
        });
    });
    assert!(matches!(victim.wait(), Exit::Killed(_)));
    assert_eq!((leader.len(), leader.encoded().in_flight().writes), (90, 1));
    let rest: Vec<u32> = taken(&leader, DrainShare { worker: 0, workers: 2 }).into_iter().map(|(key, _)| key).collect();
    assert!(rest.iter().copied().eq((0..50).chain(60..100)), "{rest:?}");
    assert!((50..60).all(|key| table.read(key).is_some()));
    assert_eq!(leader.drain_sorted(|_, _, _| Err("left")).unwrap(), 0);
    leader.encoded().validate().unwrap();
}

fn what_a_taker_refuses_stays_for_another() {
    let cache = private(100);
    (0..100).for_each(|key| _ = cache.push(&key, &History(vec![1]), &mut Nothing).unwrap());
    let error = cache.drain_share(ALONE, |key, _, _| if key == 40 { Err("no space") } else { Ok(()) }).unwrap_err();
    assert_eq!(error.to_string(), "no space");
    assert_eq!((cache.len(), cache.encoded().in_flight()), (60, Default::default()));
    let panics = catch_quietly(std::panic::AssertUnwindSafe(|| {
        cache.drain_share(ALONE, |_, _, _| -> Result<(), Infallible> { panic!("an ERROR") })
    }));
    assert!(panics.is_err());
    assert_eq!((cache.len(), cache.encoded().in_flight()), (60, Default::default()));
    assert!(taken(&cache, ALONE).into_iter().map(|(key, _)| key).eq(40..100));
    assert_eq!(cache.encoded().stats().evictions, 0, "what is taken out is not evicted");
}

fn an_entry_changed_in_a_workers_hand_is_handed_over_again() {
    let (first, second, table) = pair();
    let mut handed = Vec::new();
    let drain = first.drain_share(ALONE, |key, history, is_dirty| {
        if handed.is_empty() {
            second.push(&key, &History(vec![1, 10]), &mut Disk::new(table)).unwrap();
        }
        handed.push((key, history, is_dirty));
        Ok::<_, Infallible>(())
    });
    assert_eq!(drain.unwrap(), 2);
    let one = |marks: &[u64], key| (key, History(marks.to_vec()), true);
    assert_eq!(handed, [one(&[1], 1), one(&[2], 2), one(&[1, 10], 1)]);
    assert_eq!(first.len(), 0);
}

fn an_entry_replaced_under_a_reader_is_handed_over_again() {
    let (first, second, table) = pair();
    let mut handed = Vec::new();
    let drain = first.drain_share(ALONE, |key, history, _| {
        if handed.is_empty() {
            // The reader's pin makes the replacement an entry of its own, with the lease.
            let replace = |_: &[u8]| second.push(&key, &History(vec![1, 10]), &mut Disk::new(table)).unwrap();
            second.with(&key, replace).unwrap().expect("it is still there");
            assert_eq!(second.encoded().in_flight().writes, 1);
            second.encoded().validate().unwrap();
        }
        handed.push(history);
        Ok::<_, Infallible>(())
    });
    assert_eq!(drain.unwrap(), 2);
    assert_eq!(handed, [History(vec![1]), History(vec![2]), History(vec![1, 10])]);
    second.encoded().validate().unwrap();
}

fn an_entry_in_a_workers_hand_is_neither_spilled_nor_loaded() {
    let (first, second, table) = pair();
    let drain = first.drain_share(ALONE, |key, history, _| {
        if key == 1 {
            let mut disk = Disk::new(table);
            second.push(&3, &History(vec![3]), &mut disk).unwrap();
            assert_eq!((table.spills(1), table.spills(2)), (0, 1), "another made room");
            assert_eq!(second.get_or_load(&1, &mut disk).unwrap().unwrap().0, history);
            assert_eq!(table.loads(1), 0);
            assert!(taken(&second, ALONE).iter().all(|(key, _)| *key == 3), "and nobody else is given it");
        }
        Ok::<_, Infallible>(())
    });
    assert_eq!((drain.unwrap(), first.len()), (1, 0));
}

fn more_workers_than_leases_wait_for_each_other() {
    let config = small(Policy::Lru, 1);
    let arena = Arena::for_config(&config);
    let leader = Cache::over(arena.create(&config).unwrap()).unwrap();
    (0..100).for_each(|key| _ = leader.push(&key, &History(vec![1]), &mut Nothing).unwrap());
    let [all_in_hand, begun, of_other] = [0, 1, 2].map(|_| &shared_words(1)[0]);
    let wait_for = |word: &AtomicU64| {
        while word.load(SeqCst) == 0 {
            std::thread::yield_now();
        }
    };
    let other = Child::spawn("other worker", || {
        let cache = Cache::over(arena.attach().unwrap()).unwrap();
        wait_for(all_in_hand);
        begun.store(1, SeqCst);
        of_other.store(taken(&cache, ALONE).len() as u64, SeqCst);
    });
    take_nested(&leader, 1, &mut |depth| {
        if depth == 31 {
            all_in_hand.store(1, SeqCst);
            wait_for(begun);
            // Time for it to find that there is no lease left.
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    join(vec![other]);
    let of_other = of_other.load(SeqCst);
    assert!(of_other >= 100 - 31, "it has waited: {of_other}");
    // What the leader still had in hand when the other looked for the last time is left to the leader.
    assert_eq!(of_other + taken(&leader, ALONE).len() as u64, 100);
}

/// Takes one entry in the taking of another, until no more is given, and leaves all of them. `look` is told how many are in
/// hand.
fn take_nested<L: Locks>(cache: &Cache<L>, depth: u32, look: &mut dyn FnMut(u32)) {
    let drain = cache.drain_share(ALONE, |_, _, _| {
        look(depth);
        take_nested(cache, depth + 1, look);
        Err::<(), _>("stays")
    });
    assert!(drain.is_ok_and(|taken| taken == 0 && depth == 32) || depth < 32);
}

fn a_worker_that_holds_something_does_not_wait_for_a_lease() {
    let cache = private(100);
    (0..100).for_each(|key| _ = cache.push(&key, &History(vec![1]), &mut Nothing).unwrap());
    let mut most = 0;
    take_nested(&cache, 1, &mut |depth| most = depth);
    assert_eq!((most, cache.len()), (31, 100), "as many as there are leases");
    assert_eq!(taken(&cache, ALONE).len(), 100);
}

fn a_reader_does_not_keep_an_entry_from_being_taken() {
    let (first, second, table) = pair();
    let read = first.with(&2, |bytes| {
        assert_eq!(taken(&second, ALONE).len(), 2);
        second.push(&5, &History(vec![5; 9]), &mut Disk::new(table)).unwrap();
        bytes.to_vec()
    });
    assert_eq!(read.unwrap(), Some(2u64.to_le_bytes().to_vec()));
    assert_eq!(drained(&first, table), BTreeMap::from([(5, History(vec![5; 9]))]));
}

fn a_worker_is_told_of_entries_that_were_lost() {
    let config = small(Policy::Lru, 1);
    let arena = Arena::for_config(&config);
    let first = Cache::over(arena.create(&config).unwrap()).unwrap();
    let second = Cache::over(arena.attach().unwrap()).unwrap();
    (0..10).for_each(|key| _ = first.push(&key, &History(vec![1]), &mut Nothing).unwrap());
    // While one is in hand; then before the drain begins.
    let mut handed = 0;
    let drain = first.drain_share(ALONE, |_, _, _| {
        handed += 1;
        arena.damage(first.encoded().layout(), 0);
        assert!(matches!(second.get(&9), Err(BuilderError::Lost)));
        Ok::<_, Infallible>(())
    });
    assert!(matches!(drain, Err(DrainError::Lost)) && handed == 1);
    let drain = second.drain_share(ALONE, |_, _, _| Ok::<_, Infallible>(()));
    assert!(matches!(drain, Err(DrainError::Lost)));
    assert_eq!(first.encoded().in_flight(), Default::default());
    first.encoded().validate().unwrap();
}

#[allow(unsafe_code)] // stands for an exit callback
fn an_exit_callback_gives_back_what_was_in_hand() {
    let (first, second, table) = pair();
    let drain = first.drain_share(ALONE, |_, _, _| {
        assert_eq!(second.encoded().in_flight().writes, 1);
        // SAFETY: no closure of this handle has pinned bytes in its hands.
        unsafe { first.encoded().release_all() };
        assert_eq!(second.encoded().in_flight(), Default::default());
        Err("the process ends")
    });
    assert_eq!(drain.unwrap_err().to_string(), "the process ends");
    assert_eq!(drained(&second, table).len(), 2);
}
