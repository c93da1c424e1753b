//! What is left of a cache when it is taken apart: every entry, in order, in the process's own memory.

use hashbrown::HashTable;

use super::cache::SharedCache;
use super::lock::Locks;
use crate::engine::counters::Stats;
use crate::engine::evicted::Evicted;
use crate::engine::hash::KeyHash;

/// The entries of a drained cache in the order of eviction (policy `lru`: least recently used first), with the cache's
/// counters.
///
/// A table (`hashbrown`) over one buffer: lookups by key and iteration in order need no second copy.
#[derive(Debug)]
pub struct Parts {
    entries: Evicted,
    /// Positions in the order of draining.
    order: Vec<u32>,
    by_key: HashTable<u32>,
    /// The cache's counters, as they were before it was drained.
    pub stats: Stats,
}

impl Parts {
    /// Number of entries.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Keys and values in the order of eviction.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> + '_ {
        self.order.iter().map(|&position| self.entries.get(position as usize))
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        let position =
            self.by_key.find(KeyHash::of(key, 0).0, |&position| self.entries.get(position as usize).0 == key)?;
        Some(self.entries.get(*position as usize).1)
    }
}

impl<L: Locks> SharedCache<L> {
    /// Takes every live entry out, exactly once, and leaves the memory empty and usable for whoever is still attached.
    ///
    /// The order is that of eviction, as if one entry after the other had to make way: exact with one partition; with
    /// several, each partition's order is kept and the partitions are merged by age. With policy `s3-fifo` that is: the
    /// small queue's entries until less than a tenth of what is left is theirs, then main's and theirs in turn. Memory:
    /// keys and values once, and about 30 bytes an entry.
    ///
    /// # Panics
    ///
    /// If there is no memory for them.
    pub fn into_parts(self) -> Parts {
        let stats = self.stats();
        let mut entries = Evicted::default();
        let mut by_partition: Vec<Vec<(u32, u32)>> = vec![Vec::new(); self.partition_count()];
        self.drain_partitions(|(partition, age), key, value| {
            by_partition[partition].push((age, entries.len() as u32));
            entries.try_push(key, value.len(), |out| out.extend_from_slice(value)).expect("memory for an entry");
        });
        let order = merge_by_age(by_partition);
        let mut by_key = HashTable::with_capacity(order.len());
        let hash = |position: &u32| KeyHash::of(entries.get(*position as usize).0, 0).0;
        for &position in &order {
            by_key.insert_unique(hash(&position), position, hash);
        }
        Parts { entries, order, by_key, stats }
    }
}

/// Merges lists of (age, position), oldest first, keeping each list's own order.
fn merge_by_age(lists: Vec<Vec<(u32, u32)>>) -> Vec<u32> {
    let mut lists: Vec<_> = lists.into_iter().map(|list| list.into_iter().peekable()).collect();
    let mut merged = Vec::new();
    while let Some(list) = lists
        .iter_mut()
        .filter_map(|list| list.peek().map(|head| head.0).map(|age| (age, list)))
        .max_by_key(|(age, _)| *age)
    {
        merged.extend(list.1.next().map(|(_, position)| position));
    }
    merged
}
