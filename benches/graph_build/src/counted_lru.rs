//! What is compared with: the `lru` crate, wrapped as pgvectorscale wraps it, within a number of bytes.
//!
//! pgvectorscale bounds its cache by entries, as many as would fit its memory if each had the final number of
//! neighbours and nothing around it. Here an entry is counted by its real size (see `testkit::heap`), so that caches of
//! equal memory have equal memory.

use lru::LruCache;
use pg_shared_lru::CacheStats;
use pg_shared_lru::adapters::graph::NodePointer;

use testkit::heap::{lru_node_bytes, lru_table_bytes, malloc_bytes};

use crate::neighbor::{NeighborCacheEntry, NeighborWithDistance};

/// An LRU cache that counts what is done with it and what it weighs.
pub struct LruCacheWithStats {
    cache: LruCache<NodePointer, NeighborCacheEntry>,
    stats: CacheStats,
    max_bytes: u64,
    /// Of nodes and neighbours, without the table.
    heap_bytes: u64,
    most_entries: usize,
    most_bytes: u64,
}

impl LruCacheWithStats {
    /// A cache of at most `max_bytes`.
    pub fn new(max_bytes: u64) -> Self {
        LruCacheWithStats {
            cache: LruCache::unbounded(),
            stats: CacheStats::default(),
            max_bytes,
            heap_bytes: 0,
            most_entries: 0,
            most_bytes: 0,
        }
    }

    /// The most entries that the cache has held, and the most bytes that it has taken.
    pub fn most(&self) -> (u64, u64) {
        (self.most_entries as u64, self.most_bytes)
    }

    fn bytes(&self) -> u64 {
        self.heap_bytes + lru_table_bytes(self.most_entries)
    }

    pub fn get(&mut self, key: &NodePointer) -> Option<&NeighborCacheEntry> {
        let result = self.cache.get(key);
        let counter = if result.is_some() { &mut self.stats.hits } else { &mut self.stats.misses };
        *counter += 1;
        result
    }

    /// Stores an entry as the most recently used. If that makes the cache too large, call
    /// [`pop_excess`](Self::pop_excess) until it gives none.
    pub fn push(&mut self, key: NodePointer, value: NeighborCacheEntry) {
        self.heap_bytes += entry_bytes(&value);
        match self.cache.push(key, value) {
            Some((_, old)) => {
                self.heap_bytes -= entry_bytes(&old);
                self.stats.updates += 1;
            }
            None => self.stats.inserts += 1,
        }
        self.most_entries = self.most_entries.max(self.cache.len());
    }

    /// The least recently used entry, if the cache takes more than it may.
    pub fn pop_excess(&mut self) -> Option<(NodePointer, NeighborCacheEntry)> {
        if self.bytes() <= self.max_bytes {
            self.most_bytes = self.most_bytes.max(self.bytes());
            return None;
        }
        let popped = self.pop_lru()?;
        self.stats.evictions += 1;
        Some(popped)
    }

    pub fn pop_lru(&mut self) -> Option<(NodePointer, NeighborCacheEntry)> {
        let (key, value) = self.cache.pop_lru()?;
        self.heap_bytes -= entry_bytes(&value);
        Some((key, value))
    }
}

fn entry_bytes(entry: &NeighborCacheEntry) -> u64 {
    lru_node_bytes::<NodePointer, NeighborCacheEntry>()
        + malloc_bytes(entry.neighbors.capacity() * size_of::<NeighborWithDistance>())
}
