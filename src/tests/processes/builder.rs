//! Many workers over one cache in front of one store: no update is lost, no key is read and written at once.
//!
//! The store is a table of words that the processes share. A value is a key's history: one mark for each change that a
//! worker has made. The store counts who is in it and panics if a write of a key meets another write or a read of it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pg_shared_lru::adapters::builder::{BuilderCache, BuilderError, DrainError, SpillStore};
use pg_shared_lru::{CacheItem, Config, DecodeError, LockMode, Locks, NoLocks, Policy, Put, RobustLocks, SharedCache};

use pg_shared_lru::shared::write_back::{may_wait, Condition, LoadStep, Step};

use crate::support::content::Random;
use crate::support::fork::{catch_quietly, join, kill_myself, shared_words, Child};
use crate::support::memory::{Arena, HookLocks};

crate::scenarios![builder:
    no_update_is_lost_whoever_makes_it,
    a_key_is_loaded_once_however_many_want_it,
    an_entry_stays_readable_while_it_is_spilled,
    an_entry_changed_while_it_is_spilled_survives,
    an_entry_replaced_under_a_reader_while_it_is_spilled_survives,
    a_load_that_was_overtaken_is_not_cached,
    a_load_beside_another_is_not_met_by_a_write,
    a_failed_load_or_spill_leaves_nothing_behind,
    a_panic_in_the_store_leaves_nothing_behind,
    what_an_exit_callback_finds_is_undone,
    a_load_of_a_process_that_died_is_taken_over,
    a_worker_that_holds_a_ticket_never_waits,
    two_caches_do_not_wait_for_each_other,
    patience_ends,
    many_loads_at_once_wait_for_each_other,
    a_single_worker_gets_its_value_in_though_it_was_evicted_meanwhile,
    a_key_that_is_nowhere_is_made_by_one_worker_and_changed_by_the_next,
    a_value_too_large_to_be_cached_is_read_all_the_same,
    what_is_being_loaded_does_not_keep_others_from_making_way,
    room_that_was_made_a_moment_ago_is_found,
    a_ticket_whose_end_is_refused_is_given_back,
    a_load_that_has_ended_takes_nothing_else_with_it,
    what_a_killed_worker_had_in_hand_is_given_back,
    a_key_is_not_written_by_two_though_its_entry_was_lost,
    an_entry_that_is_too_large_is_refused,
    clean_entries_are_not_written,
    everything_is_drained_in_the_order_of_keys,
    a_drain_that_fails_goes_on_where_it_stopped,
    a_drain_refuses_while_workers_are_at_it,
    a_drain_tells_of_entries_that_were_changed_meanwhile,
    a_drain_tells_of_entries_that_were_lost,
];

/// A worker's changes to a key: for each change a number that nobody else uses.
#[derive(Clone, Debug, PartialEq, Eq)]
struct History(Vec<u64>);

impl CacheItem for History {
    type Codec = HistoryCodec;
}

/// As plain words, padded by key and length so that sizes differ.
struct HistoryCodec;

impl pg_shared_lru::Codec for HistoryCodec {
    type Item = History;

    fn name() -> String {
        "history".to_owned()
    }

    fn encode(history: &History, out: &mut Vec<u8>) {
        for mark in &history.0 {
            out.extend_from_slice(&mark.to_le_bytes());
        }
    }

    fn decode(bytes: &[u8]) -> Result<History, DecodeError> {
        assert_eq!(bytes.len() % 8, 0);
        Ok(History(bytes.chunks(8).map(|mark| u64::from_le_bytes(mark.try_into().unwrap())).collect()))
    }
}

type Cache<L> = BuilderCache<u32, History, L>;

/// A store of so many keys, each with room for so many marks, in memory that children share.
#[derive(Clone, Copy)]
struct Table {
    words: &'static [AtomicU64],
    marks: usize,
}

impl Table {
    /// Words before the marks: who is in, length plus one, loads so far, spills so far.
    const HEAD: usize = 4;

    fn new(keys: usize, marks: usize) -> Table {
        Table { words: shared_words(keys * (Self::HEAD + marks)), marks }
    }

    fn row(&self, key: u32) -> &'static [AtomicU64] {
        let row = Self::HEAD + self.marks;
        &self.words[key as usize * row..(key as usize + 1) * row]
    }

    fn loads(&self, key: u32) -> u64 {
        self.row(key)[2].load(Ordering::SeqCst)
    }

    fn spills(&self, key: u32) -> u64 {
        self.row(key)[3].load(Ordering::SeqCst)
    }

    fn read(&self, key: u32) -> Option<History> {
        let row = self.row(key);
        let len = (row[1].load(Ordering::SeqCst) as usize).checked_sub(1)?;
        Some(History(row[Self::HEAD..Self::HEAD + len].iter().map(|mark| mark.load(Ordering::SeqCst)).collect()))
    }

    fn write(&self, key: u32, history: &History) {
        let row = self.row(key);
        assert!(history.0.len() <= self.marks);
        row[1].store(0, Ordering::SeqCst);
        for (word, &mark) in row[Self::HEAD..].iter().zip(&history.0) {
            word.store(mark, Ordering::SeqCst);
        }
        row[1].store(history.0.len() as u64 + 1, Ordering::SeqCst);
    }
}

/// Readers count by one, a writer by this.
const WRITER: u64 = 1 << 32;

/// A worker's way to the table. The hooks run while a key is being read or written.
struct Disk<'a> {
    table: Table,
    on_load: Box<dyn FnMut(u32) -> Result<(), String> + 'a>,
    on_spill: Box<dyn FnMut(u32) -> Result<(), String> + 'a>,
}

impl Disk<'_> {
    fn new(table: Table) -> Self {
        Disk { table, on_load: Box::new(|_| Ok(())), on_spill: Box::new(|_| Ok(())) }
    }
}

impl SpillStore<u32, History> for Disk<'_> {
    type Error = String;

    fn load(&mut self, key: &u32) -> Result<Option<History>, String> {
        let row = self.table.row(*key);
        let others = row[0].fetch_add(1, Ordering::SeqCst);
        assert!(others < WRITER, "key {key} is read while it is written");
        row[2].fetch_add(1, Ordering::SeqCst);
        let history = self.table.read(*key);
        let done = (self.on_load)(*key);
        row[0].fetch_sub(1, Ordering::SeqCst);
        done.map(|()| history)
    }

    fn spill(&mut self, key: &u32, history: History) -> Result<(), String> {
        let row = self.table.row(*key);
        let others = row[0].fetch_add(WRITER, Ordering::SeqCst);
        assert_eq!(others, 0, "key {key} is written while others read or write it");
        row[3].fetch_add(1, Ordering::SeqCst);
        let done = (self.on_spill)(*key);
        if done.is_ok() {
            self.table.write(*key, &history);
        }
        row[0].fetch_sub(WRITER, Ordering::SeqCst);
        done
    }
}

/// Small enough that most of what the workers write is spilled.
fn small(policy: Policy, partitions: u32) -> Config {
    Config::bytes(140_000 * partitions as usize + 20_000).policy(policy).partitions(partitions).slab_bytes(16 << 10)
}

fn private(entries: u32) -> Cache<NoLocks> {
    Cache::private(&Config::entries(entries, 4096)).unwrap()
}

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

fn drained<L: Locks>(cache: &Cache<L>, table: Table) -> BTreeMap<u32, History> {
    let mut left: BTreeMap<u32, History> = BTreeMap::new();
    cache
        .drain_sorted(|key, history, dirty| {
            assert!(left.last_key_value().is_none_or(|(&last, _)| last < key), "keys ascend");
            if !dirty {
                assert_eq!(table.read(key).as_ref(), Some(&history), "a clean entry is what the store has");
            }
            left.insert(key, history);
            Ok::<_, Infallible>(())
        })
        .unwrap();
    assert_eq!(cache.len(), 0);
    cache.encoded().validate().unwrap();
    left
}

fn no_update_is_lost_whoever_makes_it() {
    const KEYS: u32 = 600;
    const CHANGES: u64 = 4000;
    for (policy, partitions, workers) in [(Policy::Lru, 1, 4), (Policy::Clock, 1, 3), (Policy::Lru, 4, 4)] {
        let config = small(policy, partitions);
        let arena = Arena::for_config(&config);
        let leader = Cache::over(arena.create(&config).unwrap());
        let table = Table::new(KEYS as usize, 900);
        let mut disk = Disk::new(table);
        for key in 0..KEYS {
            assert_eq!(leader.push(&key, &History(vec![u64::from(key) << 32]), &mut disk).unwrap(), Put::Inserted);
        }
        let totals = shared_words(4);
        let work = |worker: u64| {
            let cache = Cache::over(arena.attach().unwrap());
            let mut disk = Disk::new(table);
            let mut random = Random(worker + 1);
            for number in 0..CHANGES {
                // Half of the changes meet on few keys.
                let key = random.below(if number % 2 == 0 { KEYS as usize } else { 20 }) as u32;
                if number % 3 == 0 {
                    cache.with(&key, |bytes| assert_eq!(bytes.len() % 8, 0));
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
    let leader = Cache::over(arena.create(&config).unwrap());
    let table = Table::new(4, 4);
    for key in 0..4 {
        table.write(key, &History(vec![7, u64::from(key)]));
    }
    let waited = shared_words(1);
    let work = |_worker| {
        let cache = Cache::over(arena.attach().unwrap());
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

/// Two handles of this process over one cache of two entries, the second of which is key 2.
fn pair() -> (Cache<RobustLocks>, Cache<RobustLocks>, Table) {
    let config = Config::entries(2, 4096);
    pair_in(&Arena::for_config(&config), &config)
}

fn pair_in(arena: &Arena, config: &Config) -> (Cache<RobustLocks>, Cache<RobustLocks>, Table) {
    let first = Cache::over(arena.create(config).unwrap());
    let second = Cache::over(arena.attach().unwrap());
    let table = Table::new(10, 100);
    let mut disk = Disk::new(table);
    first.push(&1, &History(vec![1]), &mut disk).unwrap();
    first.push(&2, &History(vec![2]), &mut disk).unwrap();
    (first, second, table)
}

fn an_entry_stays_readable_while_it_is_spilled() {
    let (first, second, table) = pair();
    let seen = Cell::new(0);
    let mut disk = Disk::new(table);
    disk.on_spill = Box::new(|key| {
        let (history, _) = second.get(&key).unwrap().expect("still there");
        assert_eq!(history, History(vec![1]));
        assert_eq!(second.with(&key, <[u8]>::len), Some(8));
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
            // The reader's pin makes the replacement an entry of its own, with the ticket.
            second.with(&1, |_| second.push(&1, &History(vec![1, 10]), &mut Disk::new(table)).unwrap());
            assert_eq!(second.encoded().under_way().writes, 1);
            second.encoded().validate().unwrap();
        }
        Ok(())
    });
    first.push(&3, &History(vec![3]), &mut disk).unwrap();
    drop(disk);
    assert_eq!(first.encoded().under_way(), Default::default());
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
    assert_eq!(first.encoded().under_way(), Default::default());
    assert_eq!(drained(&first, table).into_keys().collect::<Vec<_>>(), [5, 9]);
}

fn a_load_beside_another_is_not_met_by_a_write() {
    let config = Config::entries(4, 4096);
    let arena = Arena::for_config(&config);
    let (first, second) = (Cache::over(arena.create(&config).unwrap()), Cache::over(arena.attach().unwrap()));
    let table = Table::new(300, 4);
    table.write(5, &History(vec![5]));
    first.push(&1, &History(vec![1]), &mut Disk::new(table)).unwrap();
    let LoadStep::Yours(load) = second.encoded().claim_load(&5u32.to_le_bytes(), false) else { panic!("absent") };
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
    assert_eq!(found, Some(History(vec![5, 50])));
}

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
    assert_eq!(first.encoded().under_way(), Default::default());
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
    assert_eq!(second.encoded().under_way(), Default::default());
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
        assert_eq!(second.encoded().under_way().writes, 1);
        // SAFETY: no closure of this handle has pinned bytes in its hands.
        unsafe { holder.release_all() };
        assert_eq!(second.encoded().under_way(), Default::default());
        second.encoded().validate().unwrap();
        Err("the process ends".to_owned())
    });
    disk.on_load = Box::new(|_| {
        assert_eq!(second.encoded().under_way().loads, 1);
        // SAFETY: as above.
        unsafe { holder.release_all() };
        assert_eq!(second.encoded().under_way(), Default::default());
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
    let leader = Cache::over(arena.create(&config).unwrap());
    let table = Table::new(4, 4);
    table.write(1, &History(vec![1]));
    let mut victim = Child::spawn("loader", || {
        let cache = Cache::over(arena.attach().unwrap());
        let mut disk = Disk::new(table);
        disk.on_load = Box::new(|_| {
            kill_myself();
            Ok(())
        });
        let _ = cache.get_or_load(&1, &mut disk);
    });
    victim.wait();
    assert_eq!(leader.encoded().under_way().loads, 1);
    table.row(1)[0].store(0, Ordering::SeqCst);
    assert_eq!(leader.get_or_load(&1, &mut Disk::new(table)).unwrap().unwrap().0, History(vec![1]));
    assert_eq!(leader.encoded().under_way().loads, 0);
    leader.encoded().validate().unwrap();
}

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
    assert_eq!(first.encoded().under_way(), Default::default());
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
        let outer = Cache::over(outer.attach().unwrap());
        let inner = Cache::over(inner.attach().unwrap()).with_patience(Duration::MAX);
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
    let first = Cache::over(arena.create(&config).unwrap()).with_patience(patience);
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
        let cache = Cache::over(arena.attach().unwrap());
        cache.with(&1, |_| cache.with(&2, |_| hold(&held[0])));
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
        Cache::over(arena.attach().unwrap()).get_or_load(&5, &mut disk).unwrap();
    });
    until_held(&held[1]);
    assert_eq!(first.get_or_load(&5, &mut disk).unwrap().unwrap().0, History(vec![5]));
    assert!(first.stats().waits > 0);
    held[1].store(2, Ordering::SeqCst);
    join(vec![reader, loader]);
    assert_eq!(first.encoded().under_way(), Default::default());
}

fn many_loads_at_once_wait_for_each_other() {
    let config = Config::bytes(4 << 20).partitions(1);
    let arena = Arena::for_config(&config);
    let leader: Cache<_> = Cache::over(arena.create(&config).unwrap());
    let table = Table::new(300, 4);
    table.write(200, &History(vec![200]));
    let go = shared_words(1);
    let waiter = Child::spawn("waiter", || {
        while go[0].load(Ordering::SeqCst) == 0 {}
        let cache = Cache::over(arena.attach().unwrap());
        cache.get_or_load(&200, &mut Disk::new(table)).unwrap().unwrap();
        assert_eq!(cache.stats().misses, 1, "a read is counted once");
    });
    let claim = |key: u32| match leader.encoded().claim_load(&key.to_le_bytes(), false) {
        LoadStep::Yours(load) => Some(load),
        _ => None,
    };
    let loads: Vec<_> = (0..31).map(|key| claim(key).expect("room for so many")).collect();
    assert!(claim(31).is_none());
    let error = leader.get_or_load(&200, &mut Disk::new(table)).unwrap_err();
    assert!(matches!(error, BuilderError::Backlog { loads: 31, .. }), "{error}");
    go[0].store(1, Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(50));
    let reads = leader.encoded().stats();
    assert!(reads.hits + reads.misses < 1000, "{reads:?}: it is not to ask all the time");
    drop(loads);
    join(vec![waiter]);
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

fn what_is_being_loaded_does_not_keep_others_from_making_way() {
    let config = Config::entries(100, 64);
    let arena = Arena::for_config(&config);
    let first = Cache::over(arena.create(&config).unwrap());
    let second: Cache<_> = Cache::over(arena.attach().unwrap());
    let table = Table::new(300, 4);
    let load = second.encoded().claim_load(&5u32.to_le_bytes(), false);
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

fn room_that_was_made_a_moment_ago_is_found() {
    let config = Config::entries(1, 4096);
    let arena = Arena::for_config(&config);
    let second = Cache::over(arena.create(&config).unwrap());
    let table = Table::new(10, 4);
    second.push(&1, &History(vec![1]), &mut Disk::new(table)).unwrap();
    let step = second.encoded().store_if(&2u32.to_le_bytes(), b"", &mut Condition::None, &[0], &mut 0).unwrap();
    let Step::WriteBack(ticket) = step else { panic!("a dirty entry must make way") };
    // Acquisitions of the first worker: resets; store, blocked; then the ticket ends; store.
    let locks = ScriptedLocks {
        inner: arena.locks(),
        left: Cell::new(3),
        hook: Cell::new(Some(Box::new(|| assert!(ticket.finish())))),
    };
    let first = Cache::over(arena.attach_bytes(config.region_bytes().unwrap(), locks).unwrap());
    // This thread holds the second worker's ticket: it is told at once, and then finds the room.
    let error = first.push(&3, &History(vec![3]), &mut Disk::new(table)).unwrap_err();
    assert!(matches!(error, BuilderError::Backlog { .. }), "{error}");
    assert!(may_wait(), "the ticket has ended");
    first.push(&3, &History(vec![3]), &mut Disk::new(table)).unwrap();
}

fn a_ticket_whose_end_is_refused_is_given_back() {
    let config = Config::entries(2, 4096);
    let arena = Arena::for_config(&config);
    let second: Cache<_> = Cache::over(arena.create(&config).unwrap());
    let hook = HookLocks::new(&arena);
    let first = Cache::over(arena.attach_bytes(config.region_bytes().unwrap(), hook.clone()).unwrap());
    let table = Table::new(10, 100);
    let mut disk = Disk::new(table);
    first.push(&1, &History(vec![1]), &mut disk).unwrap();
    first.push(&2, &History(vec![2]), &mut disk).unwrap();
    disk.on_spill = Box::new(|_| {
        hook.before_next(|| panic!("the cache was dropped, as PostgreSQL's locks say"));
        Ok(())
    });
    assert!(catch_quietly(std::panic::AssertUnwindSafe(|| first.push(&3, &History(vec![3]), &mut disk))).is_err());
    assert_eq!(second.encoded().under_way(), Default::default());
    assert!(may_wait());
}

fn a_load_that_has_ended_takes_nothing_else_with_it() {
    let cache = SharedCache::private(&Config::entries(4, 256)).unwrap();
    let LoadStep::Yours(mut load) = cache.claim_load(b"a", false) else { panic!("the key is absent") };
    let step = cache.store_if(b"a", b"1111", &mut Condition::Loaded(&mut load), &[0], &mut 0).unwrap();
    assert!(matches!(step, Step::Done(..)));
    cache.put(b"b", b"old!").unwrap();
    cache.with(b"b", |bytes| {
        drop(load);
        cache.put(b"b", b"new?").unwrap();
        assert_eq!(bytes, b"old!", "pinned bytes stay");
    });
    assert!(may_wait());
}

fn what_a_killed_worker_had_in_hand_is_given_back() {
    let config = Config::entries(2, 4096);
    let arena = Arena::for_config(&config);
    let leader = Cache::over(arena.create(&config).unwrap());
    let table = Table::new(10, 4);
    let mut victim = Child::spawn("spiller", || {
        let cache = Cache::over(arena.attach().unwrap());
        let mut disk = Disk::new(table);
        disk.on_spill = Box::new(|_| {
            kill_myself();
            Ok(())
        });
        (0..3).for_each(|key| drop(cache.push(&key, &History(vec![1]), &mut disk)));
    });
    victim.wait();
    assert_eq!(leader.encoded().under_way().writes, 1);
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
        assert!(second.get(&2).unwrap().is_none());
        let other = Cache::over(arena.attach().unwrap());
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
    assert_eq!(second.encoded().under_way(), Default::default());
    assert!(matches!(second.push(&3, &History(vec![3]), &mut Disk::new(table)), Err(BuilderError::Lost)));
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

struct Nothing;

impl SpillStore<u32, History> for Nothing {
    type Error = Infallible;

    fn load(&mut self, _: &u32) -> Result<Option<History>, Infallible> {
        Ok(None)
    }

    fn spill(&mut self, _: &u32, _: History) -> Result<(), Infallible> {
        Ok(())
    }
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
    let refused = |writes, loads, pins| {
        let error = second.drain_sorted(|_, _, _| Ok::<_, Infallible>(())).unwrap_err();
        match error {
            DrainError::InUse { writes: w, loads: l, pins: p } => assert_eq!((w, l, p), (writes, loads, pins)),
            other => panic!("{other}"),
        }
    };
    let mut disk = Disk::new(table);
    disk.on_spill = Box::new(|_| {
        refused(1, 0, 0);
        Ok(())
    });
    disk.on_load = Box::new(|_| {
        refused(0, 1, 0);
        Ok(())
    });
    first.push(&3, &History(vec![3]), &mut disk).unwrap();
    assert!(first.get_or_load(&7, &mut disk).unwrap().is_none());
    first.with(&3, |_| refused(0, 0, 1));
    assert_eq!(second.len(), 2, "and took nothing");
}

fn a_drain_tells_of_entries_that_were_changed_meanwhile() {
    let (first, second, table) = pair();
    let mut disk = Disk::new(table);
    let drain = first.drain_sorted(|key, _, _| {
        match key {
            1 => _ = second.push(&1, &History(vec![1, 99]), &mut disk).unwrap(),
            2 => _ = second.with(&2, |_| second.push(&2, &History(vec![2, 77]), &mut disk).unwrap()),
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
    let leader = Cache::over(arena.create(&config).unwrap());
    leader.push(&1, &History(vec![1]), &mut Nothing).unwrap();
    arena.damage(leader.encoded().layout(), 0);
    assert!(leader.get(&1).unwrap().is_none());
    let error = leader.drain_sorted(|_, _, _| Ok::<_, Infallible>(())).unwrap_err();
    assert!(matches!(error, DrainError::Lost), "{error}");
}
