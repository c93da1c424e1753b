//! Many workers over one cache in front of one store: no update is lost, no key is read and written at once, and
//! everything is drained.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pg_shared_lru::adapters::builder::{BuilderError, DrainError};
use pg_shared_lru::shared::write_back::{Concurrency, LoadStep};
use pg_shared_lru::{Config, Locks, Policy, Put};

use crate::support::content::Random;
use crate::support::fork::{Child, join, shared_words};
use crate::support::history::{Cache, Disk, History, Nothing, Table, drained, pair, private, small};
use crate::support::memory::Arena;

crate::scenarios![builder:
    no_update_is_lost_whoever_makes_it,
    a_key_is_loaded_once_however_many_want_it,
    an_entry_stays_readable_while_it_is_spilled,
    an_entry_changed_while_it_is_spilled_survives,
    an_entry_replaced_under_a_reader_while_it_is_spilled_survives,
    a_load_that_was_overtaken_is_not_cached,
    a_load_beside_another_is_not_met_by_a_write,
    a_single_worker_gets_its_value_in_though_it_was_evicted_meanwhile,
    a_key_that_is_nowhere_is_made_by_one_worker_and_changed_by_the_next,
    a_value_too_large_to_be_cached_is_read_all_the_same,
    an_entry_that_is_too_large_is_refused,
    clean_entries_are_not_written,
    everything_is_drained_in_the_order_of_keys,
    a_drain_that_fails_goes_on_where_it_stopped,
    a_drain_refuses_while_workers_are_at_it,
    a_reader_keeps_its_bytes_while_its_entry_is_drained,
    a_drain_tells_of_entries_that_were_changed_meanwhile,
    a_drain_tells_of_entries_that_were_lost,
];

fn change<L: Locks>(cache: &Cache<L>, disk: &mut Disk<'_>, key: u32, mark: u64) {
    let append = |mut history: History| {
        history.0.push(mark);
        history
    };
    if mark % 2 == 0 {
        assert!(cache.modify(&key, disk, append).unwrap(), "key {key} is nowhere");
        return;
    }
    loop {
        let (history, version) = cache.get_or_load(&key, disk).unwrap().expect("every key is somewhere");
        if mark % 4 == 1 {
            std::thread::yield_now(); // what a worker reads before it prunes
        }
        match cache.compare_push(&key, version, append(history.clone()), disk).unwrap() {
            None => return,
            Some(given_back) => assert_eq!(given_back, append(history)),
        }
    }
}

fn no_update_is_lost_whoever_makes_it() {
    const KEYS: u32 = 600;
    const CHANGES: u64 = 4000;
    for (policy, partitions, workers) in
        [(Policy::Lru, 1, 4), (Policy::Clock, 1, 3), (Policy::S3Fifo, 1, 3), (Policy::Lru, 4, 4)]
    {
        let config = small(policy, partitions);
        let arena = Arena::for_config(&config);
        let leader = Cache::over(arena.create(&config).unwrap()).unwrap();
        let table = Table::new(KEYS as usize, 900);
        let mut disk = Disk::new(table);
        for key in 0..KEYS {
            assert_eq!(leader.push(&key, &History(vec![u64::from(key) << 32]), &mut disk).unwrap(), Put::Inserted);
        }
        let totals = shared_words(4);
        let work = |worker: u64| {
            let cache = Cache::over(arena.attach().unwrap()).unwrap();
            let mut disk = Disk::new(table);
            let mut random = Random(worker + 1);
            for number in 0..CHANGES {
                // Half of the changes meet on few keys.
                let key = random.below(if number % 2 == 0 { KEYS as usize } else { 20 }) as u32;
                if number % 3 == 0 {
                    cache.with(&key, |bytes| assert_eq!(bytes.len() % 8, 0)).unwrap();
                }
                change(&cache, &mut disk, key, worker << 40 | number);
            }
            let stats = cache.stats();
            for (total, count) in totals.iter().zip([stats.spills, stats.survived, stats.conflicts, stats.loads]) {
                total.fetch_add(count, Ordering::SeqCst);
            }
        };
        join((1..=workers).map(|worker| Child::spawn(format!("worker {worker}"), move || work(worker))).collect());
        leader.encoded().validate().unwrap();
        let mut all: BTreeMap<u32, History> = (0..KEYS).filter_map(|key| Some((key, table.read(key)?))).collect();
        all.extend(drained(&leader, table));
        let mut marks: Vec<u64> = all.values().flat_map(|history| history.0.iter().copied()).collect();
        marks.sort_unstable();
        let mut expected: Vec<u64> = (0..u64::from(KEYS)).map(|key| key << 32).collect();
        let made = (1..=workers).flat_map(|w| (0..CHANGES).map(move |number| w << 40 | number));
        expected.extend(made);
        expected.sort_unstable();
        assert_eq!(marks, expected, "each change is there once");
        let [spills, survived, conflicts, loads] = [0, 1, 2, 3].map(|total| totals[total].load(Ordering::SeqCst));
        assert!(spills > 1000 && loads > 1000, "{spills} spills, {loads} loads: memory is to be short");
        assert!(conflicts > 0, "workers are to meet");
        assert!(survived < spills, "{survived} of {spills}");
    }
}

fn a_key_is_loaded_once_however_many_want_it() {
    let config = small(Policy::Lru, 1);
    let arena = Arena::for_config(&config);
    let leader = Cache::over(arena.create(&config).unwrap()).unwrap();
    let table = Table::new(4, 4);
    for key in 0..4 {
        table.write(key, &History(vec![7, u64::from(key)]));
    }
    let waited = shared_words(1);
    let work = |_worker| {
        let cache = Cache::over(arena.attach().unwrap()).unwrap();
        let mut disk = Disk::new(table);
        disk.on_load = Box::new(|_| {
            std::thread::sleep(Duration::from_millis(30));
            Ok(())
        });
        for key in 0..4 {
            let (history, _) = cache.get_or_load(&key, &mut disk).unwrap().unwrap();
            assert_eq!(history, History(vec![7, u64::from(key)]));
        }
        waited[0].fetch_add(cache.stats().waits, Ordering::SeqCst);
    };
    join((0..6).map(|worker| Child::spawn("worker", move || work(worker))).collect());
    for key in 0..4 {
        assert_eq!(table.loads(key), 1, "loads of key {key}");
    }
    assert!(waited[0].load(Ordering::SeqCst) > 0);
    assert_eq!(drained(&leader, table).len(), 4);
}

fn an_entry_stays_readable_while_it_is_spilled() {
    let (first, second, table) = pair();
    let seen = Cell::new(0);
    let mut disk = Disk::new(table);
    disk.on_spill = Box::new(|key| {
        let (history, _) = second.get(&key).unwrap().expect("still there");
        assert_eq!(history, History(vec![1]));
        assert_eq!(second.with(&key, <[u8]>::len).unwrap(), Some(8));
        assert_eq!(second.get_or_load(&key, &mut Disk::new(table)).unwrap().unwrap().0, history);
        second.encoded().validate().unwrap();
        seen.set(seen.get() + 1);
        Ok(())
    });
    first.push(&3, &History(vec![3]), &mut disk).unwrap();
    assert_eq!(seen.get(), 1);
    assert_eq!(table.loads(1), 0);
    assert_eq!(table.read(1), Some(History(vec![1])));
    assert!(first.get(&1).unwrap().is_none(), "gone once it is written");
    assert_eq!((first.stats().spills, first.stats().survived), (1, 0));
}

fn an_entry_changed_while_it_is_spilled_survives() {
    let (first, second, table) = pair();
    let mut spilled = Vec::new();
    let mut disk = Disk::new(table);
    disk.on_spill = Box::new(|key| {
        spilled.push(key);
        if key == 1 {
            second.push(&1, &History(vec![1, 10]), &mut Disk::new(table)).unwrap();
        }
        Ok(())
    });
    first.push(&3, &History(vec![3]), &mut disk).unwrap();
    drop(disk);
    assert_eq!(spilled, [1, 2], "another made room");
    assert_eq!((first.stats().spills, first.stats().survived), (2, 1));
    let left = drained(&first, table);
    assert_eq!(left, BTreeMap::from([(1, History(vec![1, 10])), (3, History(vec![3]))]));
}

fn an_entry_replaced_under_a_reader_while_it_is_spilled_survives() {
    let (first, second, table) = pair();
    let mut disk = Disk::new(table);
    disk.on_spill = Box::new(|key| {
        if key == 1 {
            // The reader's pin makes the replacement an entry of its own, with the lease.
            second.with(&1, |_| second.push(&1, &History(vec![1, 10]), &mut Disk::new(table)).unwrap()).unwrap();
            assert_eq!(second.encoded().in_flight().writes, 1);
            second.encoded().validate().unwrap();
        }
        Ok(())
    });
    first.push(&3, &History(vec![3]), &mut disk).unwrap();
    drop(disk);
    assert_eq!(first.encoded().in_flight(), Default::default());
    assert_eq!(drained(&first, table), BTreeMap::from([(1, History(vec![1, 10])), (3, History(vec![3]))]));
}

fn a_load_that_was_overtaken_is_not_cached() {
    let (first, second, table) = pair();
    table.write(5, &History(vec![5]));
    let mut loads = 0;
    let mut disk = Disk::new(table);
    disk.on_load = Box::new(|key| {
        loads += 1;
        let mut others = Disk::new(table);
        second.push(&key, &History(vec![5, 50]), &mut others).unwrap();
        second.push(&8, &History(vec![8]), &mut others).unwrap();
        // Now it is the newer value's turn to go: not while the older one is being read from where it would be written.
        second.push(&9, &History(vec![9]), &mut others).unwrap();
        assert_eq!((table.spills(5), table.spills(8)), (0, 1));
        second.encoded().validate().unwrap();
        Ok(())
    });
    assert_eq!(first.get_or_load(&5, &mut disk).unwrap().unwrap().0, History(vec![5, 50]), "the newer value");
    drop(disk);
    assert_eq!(loads, 1);
    assert_eq!(first.encoded().in_flight(), Default::default());
    assert_eq!(drained(&first, table).into_keys().collect::<Vec<_>>(), [5, 9]);
}

fn a_load_beside_another_is_not_met_by_a_write() {
    let config = Config::entries(4, 4096);
    let arena = Arena::for_config(&config);
    let (first, second) =
        (Cache::over(arena.create(&config).unwrap()).unwrap(), Cache::over(arena.attach().unwrap()).unwrap());
    let table = Table::new(300, 4);
    table.write(5, &History(vec![5]));
    first.push(&1, &History(vec![1]), &mut Disk::new(table)).unwrap();
    let LoadStep::Yours(load) = second.encoded().lease_load(&5u32.to_le_bytes(), Concurrency::Single) else {
        panic!("absent")
    };
    let mut load = Some(load);
    let mut disk = Disk::new(table);
    disk.on_load = Box::new(|_| {
        // The other worker's load ends; the key is loaded, changed, and pressed to go.
        drop(load.take());
        let mut others = Disk::new(table);
        let append = |mut history: History| {
            history.0.push(50);
            history
        };
        second.modify(&5, &mut others, append).unwrap();
        for key in 6..12 {
            second.push(&key, &History(vec![1]), &mut others).unwrap();
        }
        Ok(())
    });
    let found = first.with(&1, |_| first.get_or_load(&5, &mut disk).unwrap().unwrap().0);
    assert_eq!(found.unwrap(), Some(History(vec![5, 50])));
}

fn a_single_worker_gets_its_value_in_though_it_was_evicted_meanwhile() {
    let table = Table::new(100, 10);
    for key in 0..100 {
        table.write(key, &History(vec![u64::from(key)]));
    }
    let cache = private(4);
    let mut disk = Disk::new(table);
    let (mut history, version) = cache.get_or_load(&0, &mut disk).unwrap().unwrap();
    for other in 1..10 {
        cache.get_or_load(&other, &mut disk).unwrap().unwrap();
    }
    assert!(cache.get(&0).unwrap().is_none(), "evicted, clean");
    history.0.push(1);
    assert_eq!(cache.compare_push(&0, version, history.clone(), &mut disk).unwrap(), None);
    // But not twice, and not after another change that was evicted as well.
    assert_eq!(cache.compare_push(&0, version, history.clone(), &mut disk).unwrap(), Some(history.clone()));
    for other in 1..10 {
        cache.get_or_load(&other, &mut disk).unwrap().unwrap();
    }
    assert!(cache.get(&0).unwrap().is_none(), "evicted, written");
    assert_eq!(cache.compare_push(&0, version, history.clone(), &mut disk).unwrap(), Some(history));
}

fn a_key_that_is_nowhere_is_made_by_one_worker_and_changed_by_the_next() {
    let (first, second, table) = pair();
    let mut disk = Disk::new(table);
    let add = |mark| {
        move |history: Option<History>| {
            let mut history = history.unwrap_or(History(vec![]));
            history.0.push(mark);
            history
        }
    };
    let (nothing, version) = first.fetch(&5, &mut disk).unwrap();
    assert_eq!(nothing, None);
    second.upsert(&5, &mut disk, add(1)).unwrap();
    assert_eq!(first.compare_push(&5, version, add(2)(None), &mut disk).unwrap(), Some(History(vec![2])));
    first.upsert(&5, &mut disk, add(2)).unwrap();
    assert_eq!(first.get(&5).unwrap().unwrap().0, History(vec![1, 2]));
}

fn a_value_too_large_to_be_cached_is_read_all_the_same() {
    let cache = Cache::private(&Config::entries(4, 256)).unwrap();
    let table = Table::new(10, 100);
    table.write(5, &History(vec![5; 60]));
    let mut disk = Disk::new(table);
    let (history, version) = cache.get_or_load(&5, &mut disk).unwrap().unwrap();
    assert_eq!(history, History(vec![5; 60]));
    assert_eq!(cache.compare_push(&5, version, History(vec![6]), &mut disk).unwrap(), None, "a smaller one fits");
}

fn an_entry_that_is_too_large_is_refused() {
    let (first, _, table) = pair();
    let mut disk = Disk::new(table);
    let error = first.push(&3, &History(vec![0; 600]), &mut disk).unwrap_err();
    assert!(error.to_string().contains("an entry of 4804 bytes (key and value) is too large: at most 4096"), "{error}");
    assert!(first.modify(&1, &mut disk, |_| History(vec![0; 600])).is_err());
    assert_eq!(drained(&first, table).len(), 2, "nothing was lost");
}

fn clean_entries_are_not_written() {
    let table = Table::new(100, 10);
    for key in 0..100 {
        table.write(key, &History(vec![u64::from(key)]));
    }
    let cache = private(10);
    let mut disk = Disk::new(table);
    for key in 0..100 {
        cache.get_or_load(&key, &mut disk).unwrap().unwrap();
    }
    assert_eq!((0..100).map(|key| table.spills(key)).sum::<u64>(), 0);
    assert_eq!((cache.stats().clean_evictions, cache.stats().spills, cache.stats().loads), (90, 0, 100));
    assert!(cache.modify(&99, &mut disk, |history| history).unwrap());
    for key in 0..10 {
        cache.get_or_load(&key, &mut disk).unwrap().unwrap();
    }
    assert_eq!((cache.stats().clean_evictions, cache.stats().spills), (99, 1));
    assert_eq!(cache.get_or_load(&99, &mut disk).unwrap().unwrap().0, History(vec![99]));
    // Once it is in the store it is clean again.
    for key in 0..11 {
        cache.get_or_load(&key, &mut disk).unwrap().unwrap();
    }
    assert_eq!(cache.stats().spills, 1);
    assert!(cache.get_or_load(&100_000_000, &mut Nothing).unwrap().is_none());
}

fn everything_is_drained_in_the_order_of_keys() {
    let config = Config::bytes(4 << 20).partitions(4);
    let cache = Cache::private(&config).unwrap();
    let table = Table::new(1, 1);
    let mut random = Random(3);
    let mut expected = BTreeMap::new();
    for _ in 0..5000 {
        let (key, len) = (random.next() as u32, random.below(60));
        let history = History((0..len as u64).collect());
        cache.push(&key, &history, &mut Nothing).unwrap();
        expected.insert(key, history);
    }
    assert_eq!(drained(&cache, table), expected);
    let report = cache.encoded().memory_report();
    assert_eq!(report.slabs_free, report.slabs_total, "the memory is free again");
}

fn a_drain_that_fails_goes_on_where_it_stopped() {
    let cache = private(100);
    for key in 0..100 {
        cache.push(&key, &History(vec![1]), &mut Nothing).unwrap();
    }
    let error = cache.drain_sorted(|key, _, _| if key == 40 { Err("no space") } else { Ok(()) }).unwrap_err();
    assert_eq!(error.to_string(), "no space");
    assert_eq!((cache.len(), cache.get(&40).unwrap().is_some()), (60, true));
    let mut rest = Vec::new();
    let drained = cache.drain_sorted(|key, _, _| {
        rest.push(key);
        Ok::<_, Infallible>(())
    });
    assert_eq!(drained.unwrap(), 60);
    assert_eq!(rest, (40..100).collect::<Vec<_>>());
}

fn a_drain_refuses_while_workers_are_at_it() {
    let (first, second, table) = pair();
    let refused = |writes, loads| {
        let error = second.drain_sorted(|_, _, _| Ok::<_, Infallible>(())).unwrap_err();
        match error {
            DrainError::InUse { writes: w, loads: l, .. } => assert_eq!((w, l), (writes, loads)),
            other => panic!("{other}"),
        }
    };
    let mut disk = Disk::new(table);
    disk.on_spill = Box::new(|_| {
        refused(1, 0);
        Ok(())
    });
    disk.on_load = Box::new(|_| {
        refused(0, 1);
        Ok(())
    });
    first.push(&3, &History(vec![3]), &mut disk).unwrap();
    assert!(first.get_or_load(&7, &mut disk).unwrap().is_none());
    assert_eq!(second.len(), 2, "and took nothing");
}

fn a_reader_keeps_its_bytes_while_its_entry_is_drained() {
    let (first, second, table) = pair();
    let read = first.with(&2, |bytes| {
        assert_eq!(drained(&second, table).len(), 2);
        second.push(&5, &History(vec![5; 9]), &mut Disk::new(table)).unwrap();
        bytes.to_vec()
    });
    assert_eq!(read.unwrap(), Some(2u64.to_le_bytes().to_vec()));
    assert_eq!(drained(&first, table).into_keys().collect::<Vec<_>>(), [5]);
}

fn a_drain_tells_of_entries_that_were_changed_meanwhile() {
    let (first, second, table) = pair();
    let mut disk = Disk::new(table);
    let drain = first.drain_sorted(|key, _, _| {
        match key {
            1 => _ = second.push(&1, &History(vec![1, 99]), &mut disk).unwrap(),
            2 => _ = second.with(&2, |_| second.push(&2, &History(vec![2, 77]), &mut disk).unwrap()).unwrap(),
            _ => (),
        }
        Ok::<_, Infallible>(())
    });
    let error = drain.unwrap_err();
    assert!(matches!(error, DrainError::Changed(2)), "{error}");
    assert_eq!(drained(&first, table), BTreeMap::from([(1, History(vec![1, 99])), (2, History(vec![2, 77]))]));
}

fn a_drain_tells_of_entries_that_were_lost() {
    let config = small(Policy::Lru, 1);
    let arena = Arena::for_config(&config);
    let leader = Cache::over(arena.create(&config).unwrap()).unwrap();
    leader.push(&1, &History(vec![1]), &mut Nothing).unwrap();
    arena.damage(leader.encoded().layout(), 0);
    let error = leader.get(&1).unwrap_err();
    assert!(matches!(error, BuilderError::Lost), "{error}");
    let error = leader.drain_sorted(|_, _, _| Ok::<_, Infallible>(())).unwrap_err();
    assert!(matches!(error, DrainError::Lost), "{error}");
}
