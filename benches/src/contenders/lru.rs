//! The `lru` crate: what a process would use for itself, a hash table and a list over the process's heap.
//!
//! [`Plain`] is the crate as it comes, to compare times with. [`Counted`] can also be bounded by bytes, for which it counts
//! what an entry really takes ([`entry_bytes`], and `testkit::heap`):
//!
//! ```text
//! node:  malloc(key + value itself (a byte string: 24) + two list pointers (16))
//! value: malloc of each thing that it owns (a byte string: its bytes)
//! table: counted with the size it had at its fullest, for it never shrinks
//! ```
//!
//! Its hits, misses and evictions are the yardstick for exact LRU, and its bytes for memory. Neither locks or can be shared.

use std::hash::Hash;
use std::num::NonZeroUsize;

use ::lru::LruCache;
use pg_shared_lru::adapters::graph::NodePointer;
use testkit::heap::{lru_node_bytes, lru_table_bytes, malloc_bytes};

use super::{FixedKey, entry_count};
use crate::contender::{Bound, ByteStrings, Contender, Figures, NeighbourLists, OnSpill, Refused};
use crate::lists::{Description, HeapList, Neighbours};

/// The crate as it comes, bounded by entries.
pub struct Plain<K: FixedKey>(LruCache<K, Vec<u8>>);

impl<K: FixedKey> Plain<K> {
    pub fn new(entries: NonZeroUsize) -> Self {
        Plain(LruCache::new(entries))
    }
}

impl<K: FixedKey> Contender for Plain<K> {
    fn name(&self) -> &'static str {
        "lru"
    }

    fn policy(&self) -> &'static str {
        "lru"
    }

    #[inline]
    fn read(&mut self, key: &[u8], see: &mut dyn FnMut(&[u8])) -> bool {
        self.0.get(&K::from_bytes(key)).map(|value| see(value)).is_some()
    }

    #[inline]
    fn get(&mut self, key: &[u8], out: &mut Vec<u8>) -> bool {
        self.0.get(&K::from_bytes(key)).map(|value| value.clone_into(out)).is_some()
    }

    #[inline]
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Refused> {
        self.0.push(K::from_bytes(key), value.to_vec());
        Ok(())
    }

    fn figures(&self) -> Option<Figures> {
        None
    }
}

/// A value that knows what it owns beside itself.
pub trait OnHeap {
    /// Bytes of content, whatever it takes to hold them.
    fn payload_bytes(&self) -> usize;

    /// What its allocations take, with what the allocator adds.
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

impl OnHeap for HeapList {
    fn payload_bytes(&self) -> usize {
        HeapList::payload_bytes(self)
    }

    fn heap_bytes(&self) -> u64 {
        malloc_bytes(self.vector_bytes())
    }
}

/// Real cost of one entry, table aside.
pub fn entry_bytes<K, V: OnHeap>(value: &V) -> u64 {
    lru_node_bytes::<K, V>() + value.heap_bytes()
}

/// Exact LRU with any bound.
pub struct Counted<K: Hash + Eq, V> {
    map: LruCache<K, V>,
    bound: Bound,
    value_bytes: u64,
    /// Nodes and values, without the table.
    heap_bytes: u64,
    most_entries: usize,
    most_cost_bytes: u64,
    evictions: u64,
    refused: u64,
}

impl<K: Hash + Eq + Copy, V: OnHeap> Counted<K, V> {
    /// An empty one.
    ///
    /// # Errors
    /// A capacity of no entries.
    pub fn within(bound: Bound) -> Result<Self, String> {
        let map = match bound {
            Bound::Entries { count, .. } => LruCache::new(entry_count("lru", count)?),
            Bound::Bytes(_) | Bound::ValueBytes(_) => LruCache::unbounded(),
        };
        Ok(Counted {
            map,
            bound,
            value_bytes: 0,
            heap_bytes: 0,
            most_entries: 0,
            most_cost_bytes: 0,
            evictions: 0,
            refused: 0,
        })
    }

    /// Stores `value` as the most recently used and evicts from the other end until the bound holds. What is evicted
    /// goes to `evicted`.
    fn store(&mut self, key: K, value: V, mut evicted: impl FnMut(K, V)) -> Result<(), Refused> {
        let entry_bytes = entry_bytes::<K, V>(&value);
        let value_bytes = value.payload_bytes() as u64;
        let (limit, need) = match self.bound {
            Bound::Entries { .. } => (u64::MAX, 0),
            Bound::Bytes(limit) => (limit, entry_bytes),
            Bound::ValueBytes(limit) => (limit, value_bytes),
        };
        if need + self.table_bytes(0) > limit {
            self.refused += 1;
            return Err(Refused::TooLarge);
        }
        if !matches!(self.bound, Bound::Entries { .. }) {
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

    /// Real cost of what is cached now.
    fn cost_bytes(&self) -> u64 {
        self.heap_bytes + lru_table_bytes(self.most_entries)
    }

    fn forget(&mut self, value: &V) {
        self.value_bytes -= value.payload_bytes() as u64;
        self.heap_bytes -= entry_bytes::<K, V>(value);
    }

    /// What counts against the bound, without the table.
    fn used_bytes(&self) -> u64 {
        match self.bound {
            Bound::Entries { .. } => 0,
            Bound::Bytes(_) => self.heap_bytes,
            Bound::ValueBytes(_) => self.value_bytes,
        }
    }

    /// The table with `more` entries than now, as far as it counts against the bound.
    fn table_bytes(&self, more: usize) -> u64 {
        match self.bound {
            Bound::Bytes(_) => lru_table_bytes(self.most_entries.max(self.map.len() + more)),
            Bound::Entries { .. } | Bound::ValueBytes(_) => 0,
        }
    }

    fn own_figures(&self) -> Figures {
        let entries = self.map.len() as u64;
        let payload_bytes = entries * size_of::<K>() as u64 + self.value_bytes;
        Figures {
            region_bytes: Some(match self.bound {
                Bound::Bytes(limit) => limit,
                Bound::Entries { .. } | Bound::ValueBytes(_) => self.most_cost_bytes,
            }),
            payload_bytes,
            metadata_bytes: self.cost_bytes() - payload_bytes,
            entries,
            evictions: self.evictions,
            refused: self.refused,
            ..Figures::default()
        }
    }
}

impl<K: FixedKey> Contender<ByteStrings> for Counted<K, Vec<u8>> {
    fn name(&self) -> &'static str {
        "lru"
    }

    fn policy(&self) -> &'static str {
        "lru"
    }

    fn read(&mut self, key: &[u8], see: &mut dyn FnMut(&[u8])) -> bool {
        self.map.get(&K::from_bytes(key)).map(|value| see(value)).is_some()
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Refused> {
        self.store(K::from_bytes(key), value.to_vec(), |_, _| ())
    }

    fn figures(&self) -> Option<Figures> {
        Some(self.own_figures())
    }

    fn lost(&self) -> u64 {
        self.evictions
    }
}

/// A builder's own cache: its entries are lists with neighbours of 72 bytes.
impl Contender<NeighbourLists> for Counted<NodePointer, HeapList> {
    fn name(&self) -> &'static str {
        "lru"
    }

    fn policy(&self) -> &'static str {
        "lru"
    }

    fn read(&mut self, node: &NodePointer, see: &mut dyn FnMut(Neighbours<'_>)) -> bool {
        self.map.get(node).map(|list| see(list.neighbours())).is_some()
    }

    fn put(&mut self, node: &NodePointer, list: Description<'_>) -> Result<(), Refused> {
        self.store(*node, HeapList::new(list.edges()), |_, _| ())
    }

    fn put_spilling(
        &mut self,
        node: &NodePointer,
        list: Description<'_>,
        spilled: &mut OnSpill<'_, NeighbourLists>,
    ) -> Result<(), Refused> {
        self.store(*node, HeapList::new(list.edges()), |node, list| spilled(&node, list.neighbours()))
    }

    fn figures(&self) -> Option<Figures> {
        Some(self.own_figures())
    }

    fn lost(&self) -> u64 {
        self.evictions
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{RngExt, SeedableRng};
    use testkit::content::Written;

    use super::*;
    use crate::lists::Lists;

    #[test]
    fn the_least_recently_used_is_evicted() {
        let mut cache = Counted::<[u8; 1], Vec<u8>>::within(Bound::Entries { count: 2, entry_bytes: 9 }).unwrap();
        let mut evicted = Vec::new();
        let mut put = |cache: &mut Counted<_, _>, key: &[u8; 1], value: &[u8]| {
            cache.store(*key, value.to_vec(), |key, value| evicted.push((key, value))).unwrap();
        };
        put(&mut cache, b"a", b"1");
        put(&mut cache, b"b", b"2");
        let mut out = Vec::new();
        assert!(cache.get(b"a", &mut out) && out == b"1");
        put(&mut cache, b"c", b"33");
        assert!(!cache.get(b"b", &mut out));
        assert_eq!(cache.lost(), 1);
        put(&mut cache, b"c", b"4");
        let figures = cache.own_figures();
        assert_eq!((figures.entries, figures.evictions, figures.payload_bytes), (2, 1, 4));
        assert_eq!(evicted, [(*b"b", b"2".to_vec())], "what is replaced is not handed out");
    }

    #[test]
    fn it_stays_within_its_bytes() {
        for bound in [Bound::Bytes(20_000), Bound::ValueBytes(20_000)] {
            let mut cache = Counted::<u64, Vec<u8>>::within(bound).unwrap();
            let mut rng = SmallRng::seed_from_u64(5);
            let mut evicted = 0;
            for _ in 0..20_000 {
                let key = rng.random_range(..500u64);
                let value = vec![0; rng.random_range(..400)];
                cache.store(key, value, |_, _| evicted += 1).unwrap();
                assert!(cache.read(&key.to_le_bytes(), &mut |_| ()));
                let used_bytes = match bound {
                    Bound::Bytes(_) => cache.cost_bytes(),
                    _ => cache.value_bytes,
                };
                assert!(used_bytes <= 20_000, "{used_bytes}");
            }
            assert!(cache.evictions > 1000);
            assert_eq!(cache.evictions, evicted);
            assert!(cache.put(&[0; 8], &[0; 20_001]).is_err());
        }
    }

    #[test]
    fn one_that_was_emptied_costs_nothing_but_its_table() {
        let entry_bytes = |value_bytes| entry_bytes::<u64, _>(&vec![0; value_bytes]);
        let mut cache = Counted::<u64, Vec<u8>>::within(Bound::Bytes(1000)).unwrap();
        for key in 0..4 {
            cache.store(key, vec![0; 40], |_, _| ()).unwrap();
        }
        assert_eq!(cache.cost_bytes(), 4 * entry_bytes(40) + lru_table_bytes(4));
        let large = 1000 - lru_table_bytes(4) - entry_bytes(0) - 24;
        cache.store(9, vec![0; large as usize], |_, _| ()).unwrap();
        assert_eq!((cache.map.len(), cache.evictions), (1, 4));
    }

    #[test]
    fn a_list_counts_its_vector_and_no_slack() {
        let lists = Lists::new();
        let list = HeapList::new(lists.edges(Written { key: 7, write: 1, len: 50 }));
        // malloc: 8 bytes of its own, rounded up to 16. Node: pointer 8, labels 24, vector 24, links 16.
        assert_eq!(list.heap_bytes(), (50 * 72 + 8u64).next_multiple_of(16));
        assert_eq!(entry_bytes::<NodePointer, _>(&list), list.heap_bytes() + 80);
    }
}
