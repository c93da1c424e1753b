//! Caches to hold the engine against: exact LRU by the `lru` crate, a textbook CLOCK, and S3-FIFO as in the paper.
//!
//! Purpose: [`LruReference`] is what a process would use for itself, a hash table and a list over the process's heap;
//! its hits, misses and evictions are the yardstick for exact LRU, and its cost in bytes (below) for memory. Its values
//! are byte strings or whatever else says what it owns on the heap ([`OnHeap`]).
//! [`ClockReference`] is the yardstick for the CLOCK policy: a ring of entries, one reference bit each, set by a hit,
//! cleared once by the hand before it evicts; a new entry comes with its bit clear. [`S3FifoReference`] is the yardstick
//! for S3-FIFO (Yang et al., SOSP 2023): a small queue of a tenth, a main queue, and the keys of nine tenths in an exact
//! queue of ghosts; two uses in the small queue lead to main, three uses are counted at most.
//!
//! What an entry of [`LruReference`] costs ([`lru_entry_bytes`], [`lru_table_bytes`]):
//!
//! ```text
//! node:  malloc(key + value itself (a byte string: 24) + two list pointers (16))
//! value: malloc of each thing that it owns (a byte string: its bytes)
//! table: (pointer pair (16) + control byte (1)) × buckets; buckets are the power of two from 8/7 of the entries up
//! malloc(n): 8 bytes of its own before n, rounded up to 16, at least 32 (glibc on 64 bits)
//! ```
//!
//! The table counts with the size it had at its fullest, for it never shrinks. What this leaves out flatters `lru`: the
//! table may double once more from tombstones, old and new table live together while it grows, and holes between
//! allocations of the heap are not seen at all.
//!
//! None of the caches locks or can be shared. CLOCK bounds entries only, S3-FIFO entries or bytes of values.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::num::NonZeroUsize;

use lru::LruCache;

const MALLOC_HEADER_BYTES: u64 = 8;
const MALLOC_ALIGN_BYTES: u64 = 16;
const MALLOC_MIN_BYTES: u64 = 32;

/// One table slot of hashbrown for this key and value: two pointers and a control byte.
const TABLE_SLOT_BYTES: u64 = 2 * size_of::<usize>() as u64 + 1;

/// When a cache is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LruBound {
    /// At this many entries.
    Entries(NonZeroUsize),
    /// At this many bytes of real cost, as the file's head counts it.
    CostBytes(u64),
    /// At this many bytes of values alone, as trace simulators count.
    ValueBytes(u64),
}

/// An entry that could not fit even an empty cache. The cache is as it was before.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLarge;

/// A value that knows what it owns beside itself.
pub trait OnHeap {
    /// Bytes of content, whatever it takes to hold them.
    fn payload_bytes(&self) -> usize;

    /// What its allocations take, with what the allocator adds ([`malloc_bytes`]).
    fn heap_bytes(&self) -> u64;
}

impl OnHeap for Vec<u8> {
    fn payload_bytes(&self) -> usize {
        self.len()
    }

    fn heap_bytes(&self) -> u64 {
        malloc_bytes(self.capacity())
    }
}

/// Exact LRU.
pub struct LruReference<K: Hash + Eq, V> {
    map: LruCache<K, V>,
    bound: LruBound,
    value_bytes: u64,
    /// Nodes and values, without the table.
    heap_bytes: u64,
    most_entries: usize,
    most_cost_bytes: u64,
    evictions: u64,
}

impl<K: Hash + Eq + Copy, V: OnHeap> LruReference<K, V> {
    pub fn new(bound: LruBound) -> Self {
        let map = match bound {
            LruBound::Entries(count) => LruCache::new(count),
            LruBound::CostBytes(_) | LruBound::ValueBytes(_) => LruCache::unbounded(),
        };
        LruReference { map, bound, value_bytes: 0, heap_bytes: 0, most_entries: 0, most_cost_bytes: 0, evictions: 0 }
    }

    /// The value of `key`, which becomes the most recently used.
    pub fn get(&mut self, key: &K) -> Option<&V> {
        self.map.get(key)
    }

    /// Stores `value` as the most recently used and evicts from the other end until the bound holds. What is evicted
    /// goes to `evicted`.
    ///
    /// # Errors
    /// [`TooLarge`] when the entry alone exceeds the bound.
    pub fn put(&mut self, key: K, value: V, mut evicted: impl FnMut(K, V)) -> Result<(), TooLarge> {
        let entry_bytes = lru_entry_bytes::<K, V>(&value);
        let value_bytes = value.payload_bytes() as u64;
        let (limit, need) = match self.bound {
            LruBound::Entries(_) => (u64::MAX, 0),
            LruBound::CostBytes(limit) => (limit, entry_bytes),
            LruBound::ValueBytes(limit) => (limit, value_bytes),
        };
        if need + self.table_bytes(0) > limit {
            return Err(TooLarge);
        }
        if !matches!(self.bound, LruBound::Entries(_)) {
            if let Some(old) = self.map.pop(&key) {
                self.forget(&old);
            }
            while self.used_bytes() + need + self.table_bytes(1) > limit {
                let Some((old_key, old)) = self.map.pop_lru() else {
                    break;
                };
                self.forget(&old);
                self.evictions += 1;
                evicted(old_key, old);
            }
        }
        if let Some((old_key, old)) = self.map.push(key, value) {
            self.forget(&old);
            if old_key != key {
                self.evictions += 1;
                evicted(old_key, old);
            }
        }
        self.value_bytes += value_bytes;
        self.heap_bytes += entry_bytes;
        self.most_entries = self.most_entries.max(self.map.len());
        self.most_cost_bytes = self.most_cost_bytes.max(self.cost_bytes());
        Ok(())
    }

    pub fn entries(&self) -> u64 {
        self.map.len() as u64
    }

    /// Keys and values.
    pub fn payload_bytes(&self) -> u64 {
        self.entries() * size_of::<K>() as u64 + self.value_bytes
    }

    /// Real cost of what is cached now.
    pub fn cost_bytes(&self) -> u64 {
        self.heap_bytes + lru_table_bytes(self.most_entries)
    }

    /// What the cache may use, or has used at most if only its entries or values are bounded.
    pub fn region_bytes(&self) -> u64 {
        match self.bound {
            LruBound::CostBytes(limit) => limit,
            LruBound::Entries(_) | LruBound::ValueBytes(_) => self.most_cost_bytes,
        }
    }

    pub fn evictions(&self) -> u64 {
        self.evictions
    }

    fn forget(&mut self, value: &V) {
        self.value_bytes -= value.payload_bytes() as u64;
        self.heap_bytes -= lru_entry_bytes::<K, V>(value);
    }

    /// What counts against the bound, without the table.
    fn used_bytes(&self) -> u64 {
        match self.bound {
            LruBound::Entries(_) => 0,
            LruBound::CostBytes(_) => self.heap_bytes,
            LruBound::ValueBytes(_) => self.value_bytes,
        }
    }

    /// The table with `more` entries than now, as far as it counts against the bound.
    fn table_bytes(&self, more: usize) -> u64 {
        match self.bound {
            LruBound::CostBytes(_) => lru_table_bytes(self.most_entries.max(self.map.len() + more)),
            LruBound::Entries(_) | LruBound::ValueBytes(_) => 0,
        }
    }
}

/// Real cost of one entry of the `lru` crate, table aside.
pub fn lru_entry_bytes<K, V: OnHeap>(value: &V) -> u64 {
    lru_node_bytes::<K, V>() + value.heap_bytes()
}

/// The part of it that does not depend on the value.
pub fn lru_node_bytes<K, V>() -> u64 {
    malloc_bytes(size_of::<(K, V, [usize; 2])>())
}

/// Real cost of a hash table that has held up to `entries`.
pub fn lru_table_bytes(entries: usize) -> u64 {
    let buckets = match entries {
        0 => return 0,
        1..=3 => 4,
        4..=7 => 8,
        _ => (entries * 8 / 7).next_power_of_two(),
    };
    buckets as u64 * TABLE_SLOT_BYTES
}

/// What the heap takes for an allocation of this size.
pub fn malloc_bytes(bytes: usize) -> u64 {
    match bytes {
        0 => 0,
        _ => (bytes as u64 + MALLOC_HEADER_BYTES).next_multiple_of(MALLOC_ALIGN_BYTES).max(MALLOC_MIN_BYTES),
    }
}

struct ClockEntry {
    key: Vec<u8>,
    value: Vec<u8>,
    referenced: bool,
}

/// CLOCK over a fixed number of entries.
pub struct ClockReference {
    ring: Vec<ClockEntry>,
    places: HashMap<Vec<u8>, usize>,
    max_entries: usize,
    hand: usize,
    evictions: u64,
}

impl ClockReference {
    pub fn new(max_entries: NonZeroUsize) -> Self {
        ClockReference {
            ring: Vec::new(),
            places: HashMap::new(),
            max_entries: max_entries.get(),
            hand: 0,
            evictions: 0,
        }
    }

    /// The value of `key`, whose reference bit is set.
    pub fn get(&mut self, key: &[u8]) -> Option<&[u8]> {
        let entry = &mut self.ring[*self.places.get(key)?];
        entry.referenced = true;
        Some(&entry.value)
    }

    /// Stores `value`. A replaced entry counts as referenced; a new one takes the place of the first entry whose bit
    /// the hand finds clear.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        if let Some(place) = self.places.get(key) {
            let entry = &mut self.ring[*place];
            entry.value = value.to_vec();
            entry.referenced = true;
            return;
        }
        let entry = ClockEntry { key: key.to_vec(), value: value.to_vec(), referenced: false };
        if self.ring.len() < self.max_entries {
            self.places.insert(key.to_vec(), self.ring.len());
            self.ring.push(entry);
            return;
        }
        while std::mem::take(&mut self.ring[self.hand].referenced) {
            self.hand = (self.hand + 1) % self.max_entries;
        }
        let evicted = std::mem::replace(&mut self.ring[self.hand], entry);
        self.places.remove(&evicted.key);
        self.places.insert(key.to_vec(), self.hand);
        self.hand = (self.hand + 1) % self.max_entries;
        self.evictions += 1;
    }

    pub fn entries(&self) -> u64 {
        self.ring.len() as u64
    }

    /// Keys and values.
    pub fn payload_bytes(&self) -> u64 {
        let entries = self.ring.iter();
        entries.map(|entry| (entry.key.len() + entry.value.len()) as u64).sum()
    }

    pub fn evictions(&self) -> u64 {
        self.evictions
    }
}

/// When an [`S3FifoReference`] is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum S3FifoBound {
    /// At this many entries.
    Entries(NonZeroUsize),
    /// At this many bytes of values alone, as trace simulators count.
    ValueBytes(u64),
}

struct S3FifoEntry {
    value: Vec<u8>,
    uses: u8,
    small: bool,
}

/// S3-FIFO with exact ghosts. The sizes of the queues are in entries or in bytes, as the bound is.
pub struct S3FifoReference {
    entries: HashMap<Vec<u8>, S3FifoEntry>,
    /// Keys and their number among the ghosts; a key whose number is another is a ghost no longer.
    ghosts: HashMap<Vec<u8>, (u64, u64)>,
    small: VecDeque<Vec<u8>>,
    main: VecDeque<Vec<u8>>,
    ghost_order: VecDeque<(u64, Vec<u8>)>,
    bound: S3FifoBound,
    limit: u64,
    small_size: u64,
    main_size: u64,
    ghost_size: u64,
    ghosts_remembered: u64,
    payload_bytes: u64,
    evictions: u64,
}

impl S3FifoReference {
    pub fn new(bound: S3FifoBound) -> Self {
        let limit = match bound {
            S3FifoBound::Entries(count) => count.get() as u64,
            S3FifoBound::ValueBytes(bytes) => bytes,
        };
        S3FifoReference {
            entries: HashMap::new(),
            ghosts: HashMap::new(),
            small: VecDeque::new(),
            main: VecDeque::new(),
            ghost_order: VecDeque::new(),
            bound,
            limit,
            small_size: 0,
            main_size: 0,
            ghost_size: 0,
            ghosts_remembered: 0,
            payload_bytes: 0,
            evictions: 0,
        }
    }

    fn size(&self, value: &[u8]) -> u64 {
        match self.bound {
            S3FifoBound::Entries(_) => 1,
            S3FifoBound::ValueBytes(_) => value.len() as u64,
        }
    }

    /// The value of `key`, of which one more use is counted.
    pub fn get(&mut self, key: &[u8]) -> Option<&[u8]> {
        let entry = self.entries.get_mut(key)?;
        entry.uses = (entry.uses + 1).min(3);
        Some(&entry.value)
    }

    /// Stores `value` and evicts until the bound holds. A replaced value counts as a use.
    ///
    /// # Errors
    /// [`TooLarge`] when the entry alone exceeds the bound.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), TooLarge> {
        let size = self.size(value);
        if size > self.limit {
            return Err(TooLarge);
        }
        if let Some(entry) = self.entries.get_mut(key) {
            entry.uses = (entry.uses + 1).min(3);
            let old = std::mem::replace(&mut entry.value, value.to_vec());
            let small = entry.small;
            let before = self.size(&old);
            let queue_size = if small { &mut self.small_size } else { &mut self.main_size };
            *queue_size = *queue_size - before + size;
            self.payload_bytes = self.payload_bytes - old.len() as u64 + value.len() as u64;
            self.evict_to(self.limit);
            return Ok(());
        }
        let small = match self.ghosts.remove(key) {
            Some((_, size)) => {
                self.ghost_size -= size;
                false
            }
            None => true,
        };
        self.evict_to(self.limit - size);
        let (queue, queue_size) = match small {
            true => (&mut self.small, &mut self.small_size),
            false => (&mut self.main, &mut self.main_size),
        };
        queue.push_back(key.to_vec());
        *queue_size += size;
        self.payload_bytes += (key.len() + value.len()) as u64;
        self.entries.insert(key.to_vec(), S3FifoEntry { value: value.to_vec(), uses: 0, small });
        Ok(())
    }

    /// Whether `key` is there; no use.
    pub fn has(&self, key: &[u8]) -> bool {
        self.entries.contains_key(key)
    }

    fn evict_to(&mut self, limit: u64) {
        while self.small_size + self.main_size > limit {
            if self.main.is_empty() || !self.small.is_empty() && self.main_size <= self.limit - self.limit / 10 {
                self.turn_of_small();
            } else {
                self.turn_of_main();
            }
        }
    }

    /// The oldest entry of the small queue goes on to main or out.
    fn turn_of_small(&mut self) {
        let Some(key) = self.small.pop_front() else { return };
        let Some(entry) = self.entries.get_mut(&key) else { return };
        let uses = std::mem::take(&mut entry.uses);
        entry.small = false;
        let value_bytes = entry.value.len();
        let size = self.size(&self.entries[&key].value);
        self.small_size -= size;
        if uses >= 2 {
            self.main_size += size;
            self.main.push_back(key);
            return;
        }
        self.evicted(&key, value_bytes);
        self.ghosts_remembered += 1;
        self.ghosts.insert(key.clone(), (self.ghosts_remembered, size));
        self.ghost_order.push_back((self.ghosts_remembered, key));
        self.ghost_size += size;
        while self.ghost_size > self.limit - self.limit / 10 {
            let Some((number, key)) = self.ghost_order.pop_front() else { return };
            if let Some(&(latest, size)) = self.ghosts.get(&key) {
                if latest == number {
                    self.ghosts.remove(&key);
                    self.ghost_size -= size;
                }
            }
        }
    }

    /// The oldest entry of main goes round again or out.
    fn turn_of_main(&mut self) {
        let Some(key) = self.main.pop_front() else { return };
        let Some(entry) = self.entries.get_mut(&key) else { return };
        if entry.uses > 0 {
            entry.uses -= 1;
            self.main.push_back(key);
            return;
        }
        let value_bytes = entry.value.len();
        self.main_size -= self.size(&self.entries[&key].value);
        self.evicted(&key, value_bytes);
    }

    fn evicted(&mut self, key: &[u8], value_bytes: usize) {
        self.entries.remove(key);
        self.payload_bytes -= (key.len() + value_bytes) as u64;
        self.evictions += 1;
    }

    pub fn entries(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Keys and values.
    pub fn payload_bytes(&self) -> u64 {
        self.payload_bytes
    }

    pub fn evictions(&self) -> u64 {
        self.evictions
    }
}
