//! Lists in a cache of one process: modes `lru`, `drop-in` and `private`.

use pg_shared_lru::ENTRY_METADATA_BYTES;
use pg_shared_lru::adapters::graph::NodePointer;

use crate::counted_lru;
use crate::graph::{Change, Ledger, Lists};
use crate::neighbor::NeighborCacheEntry;
use crate::pages::{number_of, pointer_of};
use crate::records::Records;
use crate::request::Counters;
use crate::search::Adjacency;

/// What the two caches have in common.
pub trait Cache {
    fn get(&mut self, node: &NodePointer) -> Option<&NeighborCacheEntry>;
    /// Stores an entry and hands what must make way to `evicted`.
    fn push(
        &mut self,
        node: NodePointer,
        entry: NeighborCacheEntry,
        evicted: impl FnMut(NodePointer, NeighborCacheEntry),
    );
    fn pop_lru(&mut self) -> Option<(NodePointer, NeighborCacheEntry)>;
    /// Number of entries and what they take: the most so far, if the cache is emptied now and then.
    fn size(&self) -> (u64, u64);
}

impl Cache for counted_lru::LruCacheWithStats {
    fn get(&mut self, node: &NodePointer) -> Option<&NeighborCacheEntry> {
        self.get(node)
    }

    fn push(
        &mut self,
        node: NodePointer,
        entry: NeighborCacheEntry,
        mut evicted: impl FnMut(NodePointer, NeighborCacheEntry),
    ) {
        self.push(node, entry);
        while let Some((node, entry)) = self.pop_excess() {
            evicted(node, entry);
        }
    }

    fn pop_lru(&mut self) -> Option<(NodePointer, NeighborCacheEntry)> {
        self.pop_lru()
    }

    fn size(&self) -> (u64, u64) {
        self.most()
    }
}

/// This project's drop-in. The warning of its first eviction is left out: here evictions are what is asked for.
pub type DropIn = pg_shared_lru::LruCacheWithStats<NodePointer, NeighborCacheEntry>;

impl Cache for DropIn {
    fn get(&mut self, node: &NodePointer) -> Option<&NeighborCacheEntry> {
        self.get(node)
    }

    fn push(
        &mut self,
        node: NodePointer,
        entry: NeighborCacheEntry,
        mut evicted: impl FnMut(NodePointer, NeighborCacheEntry),
    ) {
        let mut displaced = self.push(node, entry);
        while let Some((node, entry)) = displaced {
            evicted(node, entry);
            displaced = self.pop_displaced();
        }
    }

    fn pop_lru(&mut self) -> Option<(NodePointer, NeighborCacheEntry)> {
        self.pop_lru()
    }

    fn size(&self) -> (u64, u64) {
        (self.len() as u64, self.bytes() + self.len() as u64 * ENTRY_METADATA_BYTES)
    }
}

/// Lists in a cache that no other process sees.
pub struct Private<'a, C> {
    cache: C,
    records: Records<'a>,
}

impl<'a, C: Cache> Private<'a, C> {
    pub fn new(cache: C, records: Records<'a>) -> Self {
        Private { cache, records }
    }

    fn push(&mut self, node: NodePointer, entry: NeighborCacheEntry) {
        let records = &mut self.records;
        self.cache.push(node, entry, |node, entry| records.spill(node, entry.neighbors));
    }

    /// Writes every list and forgets it, so that others see it and what others wrote is seen.
    pub fn flush(&mut self) {
        while let Some((node, entry)) = self.cache.pop_lru() {
            self.records.counters.spills += 1;
            self.records.store(node, entry.neighbors);
        }
    }

    /// Notes how full the cache is, for the report.
    pub fn measure(&mut self) {
        (self.records.counters.entries, self.records.counters.entry_bytes) = self.cache.size();
    }

    /// Writes every list that is still cached to its record, in the order of the records.
    pub fn store_all(mut self) -> Counters {
        let mut lists: Vec<_> = std::iter::from_fn(|| self.cache.pop_lru()).collect();
        lists.sort_by_key(|(node, _)| *node);
        for (node, entry) in lists {
            self.records.store(node, entry.neighbors);
        }
        self.records.counters
    }
}

impl<C: Cache> Adjacency for Private<'_, C> {
    fn neighbors(&mut self, node: u32, out: &mut Vec<u32>) {
        let node = pointer_of(node);
        if let Some(entry) = self.cache.get(&node) {
            out.extend(entry.neighbors.iter().map(|neighbor| number_of(neighbor.pointer)));
            return;
        }
        let list = self.records.load(node);
        out.extend(list.iter().map(|neighbor| number_of(neighbor.pointer)));
        self.push(node, list.into());
    }
}

impl<C: Cache> Lists for Private<'_, C> {
    fn change(&mut self, node: NodePointer, change: &mut Change<'_>) {
        let list = match self.cache.get(&node) {
            Some(entry) => entry.neighbors.clone(),
            None => self.records.load(node),
        };
        let mut ledger = Ledger::default();
        if let Some(list) = change(list, &mut ledger) {
            ledger.count_in(self.counters());
            self.push(node, list.into());
        }
    }

    fn counters(&mut self) -> &mut Counters {
        &mut self.records.counters
    }
}
