//! A builder cache of histories over a store that the processes share: what several test files stand on.
//!
//! A value is a key's history: one mark for each change that a worker has made. The store is a table of words; it counts
//! who is in it and panics if a write of a key meets another write or a read of it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};

use pg_shared_lru::adapters::builder::{BuilderCache, SpillStore};
use pg_shared_lru::{Codec, Config, DecodeError, Locks, NoLocks, Policy, RobustLocks, StoredAs};

use super::fork::shared_words;
use super::memory::Arena;

/// A worker's changes to a key: for each change a number that nobody else uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History(pub Vec<u64>);

impl StoredAs for History {
    type Codec = HistoryCodec;
}

/// As plain words.
pub struct HistoryCodec;

impl Codec for HistoryCodec {
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

/// The cache under test.
pub type Cache<L> = BuilderCache<u32, History, L>;

/// A store of so many keys, each with room for so many marks, in memory that children share.
#[derive(Clone, Copy)]
pub struct Table {
    words: &'static [AtomicU64],
    marks: usize,
}

impl Table {
    /// Words before the marks: who is in, length plus one, loads so far, spills so far.
    const HEAD: usize = 4;

    pub fn new(keys: usize, marks: usize) -> Table {
        Table { words: shared_words(keys * (Self::HEAD + marks)), marks }
    }

    pub fn row(&self, key: u32) -> &'static [AtomicU64] {
        let row = Self::HEAD + self.marks;
        &self.words[key as usize * row..(key as usize + 1) * row]
    }

    pub fn loads(&self, key: u32) -> u64 {
        self.row(key)[2].load(Ordering::SeqCst)
    }

    pub fn spills(&self, key: u32) -> u64 {
        self.row(key)[3].load(Ordering::SeqCst)
    }

    pub fn read(&self, key: u32) -> Option<History> {
        let row = self.row(key);
        let len = (row[1].load(Ordering::SeqCst) as usize).checked_sub(1)?;
        Some(History(row[Self::HEAD..Self::HEAD + len].iter().map(|mark| mark.load(Ordering::SeqCst)).collect()))
    }

    pub fn write(&self, key: u32, history: &History) {
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
pub struct Disk<'a> {
    pub table: Table,
    pub on_load: Box<dyn FnMut(u32) -> Result<(), String> + 'a>,
    pub on_spill: Box<dyn FnMut(u32) -> Result<(), String> + 'a>,
}

impl Disk<'_> {
    pub fn new(table: Table) -> Self {
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
pub fn small(policy: Policy, partitions: u32) -> Config {
    Config::bytes(140_000 * partitions as usize + 20_000).policy(policy).partitions(partitions).slab_bytes(16 << 10)
}

/// A cache of this thread's own.
pub fn private(entries: u32) -> Cache<NoLocks> {
    Cache::private(&Config::entries(entries, 4096)).unwrap()
}

/// Drains the cache, checks the order, and that clean entries are what the store has.
pub fn drained<L: Locks>(cache: &Cache<L>, table: Table) -> BTreeMap<u32, History> {
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

/// Two handles of this process over one cache of two entries, the second of which is key 2.
pub fn pair() -> (Cache<RobustLocks>, Cache<RobustLocks>, Table) {
    let config = Config::entries(2, 4096);
    pair_in(&Arena::for_config(&config), &config)
}

/// As [`pair`], in this arena.
pub fn pair_in(arena: &Arena, config: &Config) -> (Cache<RobustLocks>, Cache<RobustLocks>, Table) {
    let first = Cache::over(arena.create(config).unwrap()).unwrap();
    let second = Cache::over(arena.attach().unwrap()).unwrap();
    let table = Table::new(10, 100);
    let mut disk = Disk::new(table);
    first.push(&1, &History(vec![1]), &mut disk).unwrap();
    first.push(&2, &History(vec![2]), &mut disk).unwrap();
    (first, second, table)
}

/// A store that has nothing and forgets what it is given.
pub struct Nothing;

impl SpillStore<u32, History> for Nothing {
    type Error = Infallible;

    fn load(&mut self, _: &u32) -> Result<Option<History>, Infallible> {
        Ok(None)
    }

    fn spill(&mut self, _: &u32, _: History) -> Result<(), Infallible> {
        Ok(())
    }
}
