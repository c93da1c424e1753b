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
use pg_shared_lru::{CacheItem, Config, DecodeError, Locks, NoLocks, Policy, Put, RobustLocks, SharedCache, Version};

use crate::support::content::Random;
use crate::support::fork::{catch_quietly, join, kill_myself, shared_words, Child};
use crate::support::memory::Arena;

crate::scenarios![builder:
    no_update_is_lost_whoever_makes_it,
    a_key_is_loaded_once_however_many_want_it,
    an_entry_stays_readable_while_it_is_spilled,
    an_entry_changed_while_it_is_spilled_survives,
    an_entry_replaced_under_a_reader_while_it_is_spilled_survives,
    a_load_that_was_overtaken_is_not_cached,
    a_failed_load_or_spill_leaves_nothing_behind,
    a_panic_in_the_store_leaves_nothing_behind,
    what_an_exit_callback_finds_is_undone,
    a_load_of_a_process_that_died_is_taken_over,
    a_worker_that_holds_a_ticket_never_waits,
    a_full_backlog_is_an_error,
    an_entry_that_is_too_large_is_refused,
    clean_entries_are_not_written,
    everything_is_drained_in_the_order_of_keys,
    a_drain_that_fails_goes_on_where_it_stopped,
    a_drain_refuses_while_workers_are_at_it,
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
        assert!(survived <= spills);
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
    let arena = Arena::for_config(&config);
    let first = Cache::over(arena.create(&config).unwrap());
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
            assert_eq!(second.encoded().under_way().tickets, 1);
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
        let error = second.with(&8, |_| second.push(&9, &History(vec![9]), &mut others).unwrap_err()).unwrap();
        assert!(matches!(error, BuilderError::Backlog { .. }), "{error}");
        Ok(())
    });
    assert_eq!(first.get_or_load(&5, &mut disk).unwrap().unwrap().0, History(vec![5, 50]), "the newer value");
    drop(disk);
    assert_eq!(loads, 1);
    assert_eq!(first.encoded().under_way(), Default::default());
    second.push(&9, &History(vec![9]), &mut Disk::new(table)).unwrap();
    assert_eq!(drained(&first, table).into_keys().collect::<Vec<_>>(), [5, 9]);
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
    assert!(!first.encoded().holds_something());
    second.encoded().validate().unwrap();
    assert_eq!(second.get(&1).unwrap().unwrap().0, History(vec![1]));
}

#[allow(unsafe_code)] // stands for an exit callback
fn what_an_exit_callback_finds_is_undone() {
    let (first, second, table) = pair();
    let mut disk = Disk::new(table);
    let holder: &SharedCache<RobustLocks> = first.encoded();
    disk.on_spill = Box::new(|_| {
        assert_eq!(second.encoded().under_way().tickets, 1);
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
                let mut others = Disk::new(table);
                let found = first.get_or_load(&7, &mut others).unwrap().unwrap();
                assert_eq!(found, (History(vec![7]), Version::UNCACHED));
                let error = first.push(&8, &History(vec![8]), &mut others).unwrap_err();
                assert!(matches!(error, BuilderError::Backlog { tickets: 2, pins: 0, .. }), "{error}");
                let error = first.modify(&7, &mut others, |history| history).unwrap_err();
                assert!(matches!(error, BuilderError::Backlog { .. }), "{error}");
                let stale = first.compare_push(&7, Version::UNCACHED, History(vec![]), &mut others).unwrap();
                assert_eq!(stale, Some(History(vec![])), "what is not cached cannot be put back");
                Ok(())
            });
            second.push(&4, &History(vec![4]), &mut inner).unwrap();
        }
        Ok(())
    });
    first.push(&3, &History(vec![3]), &mut disk).unwrap();
    drop(disk);
    assert_eq!(first.encoded().under_way(), Default::default());
    assert_eq!(drained(&first, table).into_keys().collect::<Vec<_>>(), [3, 4]);
}

fn a_full_backlog_is_an_error() {
    let (first, second, table) = pair();
    // Both entries pinned by somebody who will not let go; this worker holds nothing and waits, then says so.
    second.with(&1, |_| {
        second.with(&2, |_| {
            let error = first.push(&3, &History(vec![3]), &mut Disk::new(table)).unwrap_err();
            assert!(matches!(error, BuilderError::Backlog { tickets: 0, pins: 2, bytes: 12 }), "{error}");
            assert!(error
                .to_string()
                .contains("no room for an entry of 12 bytes: 0 entries are being written back and 2"));
        })
    });
    first.push(&3, &History(vec![3]), &mut Disk::new(table)).unwrap();
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
    let refused = |tickets, loads, pins| {
        let error = second.drain_sorted(|_, _, _| Ok::<_, Infallible>(())).unwrap_err();
        match error {
            DrainError::InUse { tickets: t, loads: l, pins: p } => assert_eq!((t, l, p), (tickets, loads, pins)),
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

fn a_drain_tells_of_entries_that_were_lost() {
    let config = small(Policy::Lru, 1);
    let arena = Arena::for_config(&config);
    let leader = Cache::over(arena.create(&config).unwrap());
    leader.push(&1, &History(vec![1]), &mut Nothing).unwrap();
    arena.damage(leader.encoded().layout(), 0);
    assert!(leader.get(&1).unwrap().is_none());
    let error = leader.drain_sorted(|_, _, _| Ok::<_, Infallible>(())).unwrap_err();
    assert!(error.to_string().contains("1 partitions were emptied because a worker died"), "{error}");
}
