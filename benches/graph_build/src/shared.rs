//! Lists in one builder cache for all workers: mode `shared`.

use std::convert::Infallible;
use std::fmt::Display;

use pg_shared_lru::adapters::builder::{BuilderCache, DrainShare, SpillStore};
use pg_shared_lru::adapters::graph::{NodePointer, decode_list};
use pg_shared_lru::{Config, Locks, Policy};

use crate::graph::{Change, Ledger, Lists};
use crate::neighbor::NeighborCacheEntry;
use crate::pages::{number_of, pointer_of};
use crate::records::Records;
use crate::request::{Counters, Request};
use crate::search::Adjacency;

/// The cache. Each worker has a handle of its own.
pub type Cache<L> = BuilderCache<NodePointer, NeighborCacheEntry, L>;

impl SpillStore<NodePointer, NeighborCacheEntry> for Records<'_> {
    /// What fails in here raises an error.
    type Error = Infallible;

    fn load(&mut self, node: &NodePointer) -> Result<Option<NeighborCacheEntry>, Infallible> {
        Ok(Some(Records::load(self, *node).into()))
    }

    fn spill(&mut self, node: &NodePointer, entry: NeighborCacheEntry) -> Result<(), Infallible> {
        Records::spill(self, *node, entry.neighbors);
        Ok(())
    }
}

/// How the cache is made. Readers share a partition's lock, as is right for several workers.
pub fn config(request: &Request) -> Config {
    let bytes = request.bytes.expect("mode shared is given a number of bytes");
    Config::bytes(bytes as usize).policy(Policy::Clock)
}

/// Lists in a cache that all workers share.
pub struct Shared<'a, L: Locks> {
    cache: Cache<L>,
    records: Records<'a>,
}

impl<'a, L: Locks> Shared<'a, L> {
    pub fn new(cache: Cache<L>, records: Records<'a>) -> Self {
        Shared { cache, records }
    }

    /// Notes how full the cache is, for the report. One of the workers does.
    pub fn measure(&mut self) {
        let memory = self.cache.encoded().memory_report();
        let counters = &mut self.records.counters;
        counters.entries = memory.entries;
        counters.entry_bytes = memory.region_bytes - memory.free_bytes;
    }

    /// Writes lists that their records do not have: this worker's share, when all workers are done.
    pub fn store_share(&mut self, share: DrainShare) {
        let Shared { cache, records } = self;
        or_report(cache.drain_share(share, |node, entry, dirty| {
            if dirty {
                records.store(node, entry.neighbors);
            }
            Ok::<_, Infallible>(())
        }));
    }

    /// What this worker has counted.
    pub fn into_counters(self) -> Counters {
        let stats = self.cache.stats();
        Counters {
            clean_evictions: stats.clean_evictions,
            conflicts: stats.conflicts,
            waits: stats.waits,
            ..self.records.counters
        }
    }
}

/// Sees that the workers have left nothing. For the leader, when they are done.
pub fn check_empty<L: Locks>(cache: &Cache<L>) {
    or_report(cache.drain_sorted(|node, _, _| Err(format!("the list of {node:?} was not written"))));
}

fn or_report<T>(result: Result<T, impl Display>) -> T {
    result.unwrap_or_else(|error| pgrx::error!("{error}"))
}

impl<L: Locks> Adjacency for Shared<'_, L> {
    fn neighbors(&mut self, node: u32, out: &mut Vec<u32>) {
        let node = pointer_of(node);
        let cached = or_report(self.cache.with(&node, |bytes| {
            decode_list(node, bytes)
                .map(|list| out.extend(list.neighbors().map(|neighbor| number_of(neighbor.pointer))))
        }));
        match cached {
            Some(Ok(())) => {}
            Some(Err(error)) => pgrx::error!("{error}"),
            None => {
                let loaded = or_report(self.cache.get_or_load(&node, &mut self.records));
                let neighbors = loaded.iter().flat_map(|(entry, _)| &entry.neighbors);
                out.extend(neighbors.map(|neighbor| number_of(neighbor.pointer)));
            }
        }
    }
}

impl<L: Locks> Lists for Shared<'_, L> {
    fn change(&mut self, node: NodePointer, change: &mut Change<'_>) {
        loop {
            let loaded = or_report(self.cache.get_or_load(&node, &mut self.records));
            let (entry, version) = loaded.expect("every node has a record");
            let mut ledger = Ledger::default();
            let Some(list) = change(entry.neighbors, &mut ledger) else {
                return;
            };
            let stale = or_report(self.cache.compare_push(&node, version, list.into(), &mut self.records));
            if stale.is_none() {
                ledger.count_in(&mut self.records.counters);
                return;
            }
        }
    }

    fn counters(&mut self) -> &mut Counters {
        &mut self.records.counters
    }
}
