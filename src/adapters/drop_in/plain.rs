//! Small plain old data: keys and values as they are, in one vector.
//!
//! ```text
//! table    hash ──► number of the entry
//! entries  ┌────────────┬────────────┬────────────┐
//!          │ key, value │ key, value │ key, value │
//!          └────────────┴────────────┴────────────┘
//! links    ┌──────────────┬──────────────┬──────────────┬──────────────┐
//!          │ of the ends  │ newer, older │ newer, older │ newer, older │   the order of use, as a ring
//!          └──────────────┴──────────────┴──────────────┴──────────────┘
//! ```
//!
//! Entries of one size need no slabs and no slots: nothing can fragment. So a cache of such entries is a vector and a
//! table of numbers (`hashbrown`), without encoding, and an operation costs about what it costs in the `lru` crate. The
//! links lie apart: a hit changes those of five entries and reads one, and eight of them share a cache line.
//!
//! Invariants:
//! - Each entry is in the table once and in the ring once; the vector has no holes.
//! - Never more than `max_entries` entries.
//! - The entry that was found last is remembered until one is added or removed.
//! - A push that panics for want of memory has changed nothing.
//!
//! Not here: values with bytes of their own on the heap, or large ones (`store`).

use std::hash::{BuildHasher, Hasher};
use std::num::NonZero;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::adapters::codec::Codec;
use crate::adapters::stored::CacheKey;
use crate::engine::outcomes::Put;

/// No entry; in the ring, where its two ends meet.
const NONE: u32 = 0;

/// An entry's neighbours in the order of use. Entry `n` has links `n`, and lies at `n - 1`.
#[derive(Clone, Copy)]
struct OrderLinks {
    /// Towards the most recently used; of `NONE`: the least recently used.
    newer: u32,
    /// Towards the least recently used; of `NONE`: the most recently used.
    older: u32,
}

/// At most so many entries.
pub(super) struct PlainStore<K, V> {
    entries: Vec<(K, V)>,
    links: Vec<OrderLinks>,
    table: HashTable<u32>,
    hasher: DefaultHashBuilder,
    last_found: u32,
    max_entries: usize,
}

impl<K: CacheKey, V> PlainStore<K, V> {
    /// The largest entry that is kept so.
    pub(super) const MAX_ENTRY_BYTES: usize = 256;
    /// Key and value.
    pub(super) const ENTRY_BYTES: usize = size_of::<(K, V)>();
    const LINKED_BYTES: usize = Self::ENTRY_BYTES + size_of::<OrderLinks>();
    /// A table's cell: a number and a byte of the hash.
    const CELL_BYTES: usize = size_of::<u32>() + 1;

    pub(super) fn new(max_entries: NonZero<usize>) -> Self {
        PlainStore {
            entries: Vec::new(),
            links: vec![OrderLinks { newer: NONE, older: NONE }],
            table: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            last_found: NONE,
            max_entries: max_entries.get().min(u32::MAX as usize - 1),
        }
    }

    /// A store that takes so many bytes, which are touched as they are needed; an error says why there are none.
    pub(super) fn with_memory(bytes: usize) -> Result<Self, String> {
        // A table has a power of two of cells, of which seven eighths are used.
        let entries_with = |cells: usize| {
            let left = bytes.saturating_sub(cells * Self::CELL_BYTES + 64);
            (left / Self::LINKED_BYTES).min(cells / 8 * 7)
        };
        let tables = (3..32).map(|shift| 1 << shift);
        let max_entries = tables.map(entries_with).max().and_then(NonZero::new).unwrap_or(NonZero::<usize>::MIN);
        let mut store = Self::new(max_entries);
        store.reserve(max_entries.get()).map(|()| store)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    #[inline(always)]
    fn hash(hasher: &DefaultHashBuilder, key: &K) -> u64 {
        let mut hasher = hasher.build_hasher();
        hasher.write(K::Codec::as_bytes(key).expect("a plain key has its bytes"));
        hasher.finish()
    }

    /// The hash of an entry's key.
    fn hash_of(&self, number: u32) -> u64 {
        Self::hash(&self.hasher, &self.entries[number as usize - 1].0)
    }

    #[inline(always)]
    fn find(&mut self, key: &K) -> Option<u32> {
        if self.entries.get((self.last_found as usize).wrapping_sub(1)).is_some_and(|(last, _)| last == key) {
            return Some(self.last_found);
        }
        let hash = Self::hash(&self.hasher, key);
        let found = *self.table.find(hash, |&number| self.entries[number as usize - 1].0 == *key)?;
        self.last_found = found;
        Some(found)
    }

    #[inline(always)]
    pub(super) fn contains(&mut self, key: &K) -> bool {
        self.find(key).is_some()
    }

    /// A key's value, whose entry becomes the most recently used.
    #[inline(always)]
    pub(super) fn get(&mut self, key: &K) -> Option<&V> {
        let found = self.find(key)?;
        self.touch(found);
        Some(&self.entries[found as usize - 1].1)
    }

    /// Stores an entry as the most recently used; returns the least recently used one if it had to make way.
    ///
    /// # Panics
    ///
    /// Without memory; nothing has changed then.
    pub(super) fn push(&mut self, key: K, value: V) -> (Put, Option<(K, V)>) {
        if let Some(found) = self.find(&key) {
            self.entries[found as usize - 1].1 = value;
            self.touch(found);
            return (Put::Replaced, None);
        }
        let hash = Self::hash(&self.hasher, &key);
        if self.entries.len() == self.max_entries {
            let oldest = self.links[NONE as usize].newer;
            self.remove_cell(self.hash_of(oldest), oldest);
            let evicted = std::mem::replace(&mut self.entries[oldest as usize - 1], (key, value));
            self.add_cell(hash, oldest);
            self.touch(oldest);
            return (Put::Inserted, Some(evicted));
        }
        if let Err(error) = self.reserve_for_one() {
            panic!("no memory for more than {} entries of {} bytes: {error}", self.len(), Self::LINKED_BYTES);
        }
        self.entries.push((key, value));
        self.links.push(OrderLinks { newer: NONE, older: NONE });
        let added = self.entries.len() as u32;
        self.add_cell(hash, added);
        self.link_front(added);
        (Put::Inserted, None)
    }

    /// Removes the least recently used entry.
    pub(super) fn pop_lru(&mut self) -> Option<(K, V)> {
        let removed = self.links[NONE as usize].newer;
        if removed == NONE {
            return None;
        }
        self.unlink(removed);
        self.remove_cell(self.hash_of(removed), removed);
        // The last entry takes the place, and its number.
        let last = self.entries.len() as u32;
        if removed != last {
            let hash = self.hash_of(last);
            self.remove_cell(hash, last);
            let OrderLinks { newer, older } = self.links[last as usize];
            self.links[newer as usize].older = removed;
            self.links[older as usize].newer = removed;
            self.table.insert_unique(hash, removed, |_| unreachable!("a cell was freed"));
        }
        self.links.swap_remove(removed as usize);
        Some(self.entries.swap_remove(removed as usize - 1))
    }

    fn reserve_for_one(&mut self) -> Result<(), String> {
        if self.entries.len() == self.entries.capacity() {
            self.entries.try_reserve(1).map_err(|error| error.to_string())?;
        }
        if self.links.len() == self.links.capacity() {
            self.links.try_reserve(1).map_err(|error| error.to_string())?;
        }
        let (entries, hasher) = (&self.entries, &self.hasher);
        let reserved = self.table.try_reserve(1, |&number| Self::hash(hasher, &entries[number as usize - 1].0));
        reserved.map_err(|error| format!("{error:?}"))
    }

    /// Reserves room in the vectors for exactly so many entries.
    fn reserve(&mut self, entries: usize) -> Result<(), String> {
        let reserved = self.entries.try_reserve_exact(entries).and_then(|()| self.links.try_reserve_exact(entries));
        reserved.map_err(|error| error.to_string())
    }

    /// Adds a cell to a table that has room for it.
    fn add_cell(&mut self, hash: u64, number: u32) {
        self.last_found = NONE;
        let (entries, hasher) = (&self.entries, &self.hasher);
        self.table.insert_unique(hash, number, |&number| Self::hash(hasher, &entries[number as usize - 1].0));
    }

    fn remove_cell(&mut self, hash: u64, number: u32) {
        self.last_found = NONE;
        let found = self.table.find_entry(hash, |&cell| cell == number);
        found.expect("each entry is in the table").remove();
    }

    #[inline(always)]
    fn touch(&mut self, number: u32) {
        if self.links[NONE as usize].older != number {
            self.unlink(number);
            self.link_front(number);
        }
    }

    #[inline(always)]
    fn unlink(&mut self, number: u32) {
        let links = &mut self.links[..];
        let OrderLinks { newer, older } = links[number as usize];
        links[newer as usize].older = older;
        links[older as usize].newer = newer;
    }

    #[inline(always)]
    fn link_front(&mut self, number: u32) {
        let links = &mut self.links[..];
        let newest = links[NONE as usize].older;
        links[number as usize] = OrderLinks { newer: NONE, older: newest };
        links[newest as usize].newer = number;
        links[NONE as usize].older = number;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys from the least recently used on, after checking every link and cell.
    fn order(store: &PlainStore<u32, u64>) -> Vec<u32> {
        let mut order = Vec::new();
        let (mut number, mut older) = (store.links[0].newer, NONE);
        while number != NONE {
            assert_eq!(store.links[number as usize].older, older);
            assert!(store.table.find(store.hash_of(number), |&cell| cell == number).is_some());
            order.push(store.entries[number as usize - 1].0);
            (older, number) = (number, store.links[number as usize].newer);
        }
        assert_eq!(store.links[0].older, older);
        assert_eq!((order.len(), store.table.len(), store.links.len() - 1), (store.len(), store.len(), store.len()));
        order
    }

    #[test]
    fn links_and_cells_agree_after_every_operation() {
        let mut store = PlainStore::<u32, u64>::new(NonZero::new(5).unwrap());
        let mut expected: Vec<u32> = Vec::new();
        let mut random = 1u32;
        for step in 0..5000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let key = random >> 8 & 7;
            let known = expected.iter().position(|&it| it == key);
            match random >> 29 {
                0 => {
                    let popped = (!expected.is_empty()).then(|| expected.remove(0));
                    assert_eq!(store.pop_lru().map(|(key, _)| key), popped);
                }
                1..4 => {
                    assert_eq!(store.contains(&key), known.is_some());
                    assert_eq!(store.get(&key).map(|&value| value as u32 & 7), known.map(|_| key));
                    if let Some(known) = known {
                        expected.remove(known);
                        expected.push(key);
                    }
                }
                _ => {
                    let (put, evicted) = store.push(key, u64::from(step << 3 | key));
                    assert_eq!(put == Put::Replaced, known.is_some());
                    known.map(|known| expected.remove(known));
                    expected.push(key);
                    let oldest = (expected.len() > 5).then(|| expected.remove(0));
                    assert_eq!(evicted.map(|(key, _)| key), oldest);
                }
            }
            assert_eq!(order(&store), expected, "step {step}");
        }
    }

    #[test]
    fn given_memory_is_used_and_not_exceeded() {
        for bytes in [160 << 10, 1 << 20, 5_000_000, 100 << 20] {
            let mut store = PlainStore::<u64, [u64; 4]>::with_memory(bytes).unwrap();
            let used = |store: &PlainStore<u64, [u64; 4]>| {
                store.entries.capacity() * PlainStore::<u64, [u64; 4]>::LINKED_BYTES + store.table.allocation_size()
            };
            if bytes <= 5_000_000 {
                (0..store.max_entries as u64 + 10).for_each(|key| _ = store.push(key, [key; 4]));
                assert!((bytes * 3 / 4..=bytes).contains(&used(&store)), "{} of {bytes} bytes", used(&store));
                assert_eq!(store.len(), store.max_entries);
            }
            assert!(store.max_entries * 64 > bytes * 4 / 5, "{} entries in {bytes} bytes", store.max_entries);
        }
    }
}
