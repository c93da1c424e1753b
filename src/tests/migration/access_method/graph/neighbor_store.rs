//! What pgvectorscale has in `access_method::graph::neighbor_store`, after both steps of the guide.

use std::cell::RefCell;
use std::collections::HashSet;

use crate::access_method::build::maintenance_work_mem_bytes;
use crate::access_method::graph::Graph;
use crate::access_method::graph::neighbor_with_distance::NeighborWithDistance;
use crate::access_method::labels::LabelSet;
use crate::access_method::storage::{MetaPage, PruneNeighborStats, Storage};
use crate::pgrx::{self, debug1};
use crate::util::ItemPointer;

// Of the private step.
use crate::util::or_report;
use pg_shared_lru::LruCacheWithStats;
use pg_shared_lru::adapters::drop_in::MIN_MEMORY_BYTES;

// Of the shared step. Without PostgreSQL there are no locks of its.
#[cfg(not(feature = "postgres"))]
use pg_shared_lru::RobustLocks as DsmLocks;
use pg_shared_lru::Version;
use pg_shared_lru::adapters::builder::{BuilderCache, DrainShare, SpillStore};
#[cfg(feature = "postgres")]
use pg_shared_lru::pg::parallel::DsmLocks;

pub struct NeighborCacheEntry {
    pub labels: Option<LabelSet>,
    pub neighbors: Vec<NeighborWithDistance>,
}

impl NeighborCacheEntry {
    pub fn new(labels: Option<LabelSet>, neighbors: Vec<NeighborWithDistance>) -> Self {
        Self { labels, neighbors }
    }
}

pub struct BuilderNeighborCache {
    neighbor_map: RefCell<LruCacheWithStats<ItemPointer, NeighborCacheEntry>>,
    num_neighbors: usize,
    max_alpha: f64,
}

impl BuilderNeighborCache {
    fn reconcile_with_disk_neighbors<S: Storage>(
        &self,
        neighbors_of: ItemPointer,
        cached_neighbors: Vec<NeighborWithDistance>,
        storage: &S,
        stats: &mut PruneNeighborStats,
    ) -> Vec<NeighborWithDistance> {
        let disk_neighbors = storage.get_neighbors_with_distances_from_disk(neighbors_of, stats);
        let cached_pointers: HashSet<_> = cached_neighbors.iter().map(|n| n.get_index_pointer_to_neighbor()).collect();
        let is_new = |n: &NeighborWithDistance| !cached_pointers.contains(&n.get_index_pointer_to_neighbor());
        cached_neighbors.into_iter().chain(disk_neighbors.into_iter().filter(is_new)).collect()
    }

    pub fn new(memory_budget: f64, meta_page: &MetaPage, worker_count: usize) -> Self {
        let total_memory = maintenance_work_mem_bytes() as f64;
        let memory_budget = (total_memory * memory_budget).ceil() as usize;
        // A serial build has a worker_count of 0.
        let bytes = (memory_budget / worker_count.max(1)).max(MIN_MEMORY_BYTES);
        let cache = or_report(LruCacheWithStats::with_memory(bytes, "Builder neighbor"));

        Self {
            neighbor_map: RefCell::new(cache.warn_with(|text| pgrx::warning!("{text}"))),
            num_neighbors: meta_page.get_num_neighbors() as _,
            max_alpha: meta_page.get_max_alpha(),
        }
    }

    fn into_sorted(self) -> Vec<(ItemPointer, NeighborCacheEntry)> {
        let (neighbor_map, stats) = self.neighbor_map.into_inner().into_parts();
        debug1!("Builder neighbor cache teardown: {} entries, stats: {:?}", neighbor_map.len(), stats);
        let mut vec = neighbor_map.into_iter().collect::<Vec<_>>();
        vec.sort_by_key(|(key, _)| *key);
        vec
    }

    pub fn get_neighbors_with_full_vector_distances<S: Storage>(
        &self,
        neighbors_of: ItemPointer,
        storage: &S,
        stats: &mut PruneNeighborStats,
    ) -> Vec<NeighborWithDistance> {
        let mut neighbor_map = self.neighbor_map.borrow_mut();
        let neighbors = neighbor_map.get(&neighbors_of);
        if let Some(entry) = neighbors {
            return entry.neighbors.clone();
        }
        drop(neighbor_map);
        let neighbors = storage.get_neighbors_with_distances_from_disk(neighbors_of, stats);

        self.set_neighbors(neighbors_of, None, neighbors.clone(), storage, stats);
        neighbors
    }

    pub fn set_neighbors<S: Storage>(
        &self,
        neighbors_of: ItemPointer,
        labels: Option<LabelSet>,
        mut new_neighbors: Vec<NeighborWithDistance>,
        storage: &S,
        stats: &mut PruneNeighborStats,
    ) {
        let mut neighbor_map = self.neighbor_map.borrow_mut();
        new_neighbors.shrink_to_fit();
        let mut evictee = neighbor_map.push(neighbors_of, NeighborCacheEntry::new(labels, new_neighbors));
        while let Some((key, value)) = evictee {
            let all_neighbors = self.reconcile_with_disk_neighbors(key, value.neighbors, storage, stats);
            let new_neighbors = Graph::prune_neighbors(
                self.max_alpha,
                self.num_neighbors,
                value.labels.as_ref(),
                all_neighbors,
                storage,
                stats,
            );
            storage.set_neighbors_on_disk(key, new_neighbors.as_slice(), stats);
            if neighbor_map.stats().evictions % 10000 == 0 {
                let (entries, bytes) = (neighbor_map.len(), neighbor_map.bytes());
                debug1!("Builder neighbor cache: {entries} entries, {bytes} bytes, {:?}", neighbor_map.stats());
            }
            evictee = neighbor_map.pop_displaced();
        }
    }
}

/// The neighbour lists of a parallel build, in one cache for all workers.
pub type Neighbors = BuilderCache<ItemPointer, NeighborCacheEntry, DsmLocks>;

/// The store behind the cache: the index.
struct IndexPages<'a, S: Storage> {
    storage: &'a S,
    stats: &'a mut PruneNeighborStats,
    num_neighbors: usize,
    max_alpha: f64,
}

impl<S: Storage> SpillStore<ItemPointer, NeighborCacheEntry> for IndexPages<'_, S> {
    /// What fails in here raises an ERROR.
    type Error = std::convert::Infallible;

    fn load(&mut self, of: &ItemPointer) -> Result<Option<NeighborCacheEntry>, Self::Error> {
        let neighbors = self.storage.get_neighbors_with_distances_from_disk(*of, self.stats);
        // A node without neighbours has an empty list. As today, what is loaded has no labels: they come with the call.
        Ok(Some(NeighborCacheEntry::new(None, neighbors)))
    }

    fn spill(&mut self, of: &ItemPointer, entry: NeighborCacheEntry) -> Result<(), Self::Error> {
        // No reconciling: nobody else has another version of this list.
        let pruned = Graph::prune_neighbors(
            self.max_alpha,
            self.num_neighbors,
            entry.labels.as_ref(),
            entry.neighbors,
            self.storage,
            self.stats,
        );
        self.storage.set_neighbors_on_disk(*of, &pruned, self.stats);
        Ok(())
    }
}

/// One worker's handle.
pub struct SharedNeighborCache {
    cache: Neighbors,
    num_neighbors: usize,
    max_alpha: f64,
}

impl SharedNeighborCache {
    pub fn new(cache: Neighbors, meta_page: &MetaPage) -> Self {
        Self { cache, num_neighbors: meta_page.get_num_neighbors() as _, max_alpha: meta_page.get_max_alpha() }
    }

    fn pages<'a, S: Storage>(&self, storage: &'a S, stats: &'a mut PruneNeighborStats) -> IndexPages<'a, S> {
        IndexPages { storage, stats, num_neighbors: self.num_neighbors, max_alpha: self.max_alpha }
    }

    fn fetch<S: Storage>(
        &self,
        neighbors_of: ItemPointer,
        storage: &S,
        stats: &mut PruneNeighborStats,
    ) -> (Vec<NeighborWithDistance>, Version) {
        let (entry, version) = or_report(self.cache.fetch(&neighbors_of, &mut self.pages(storage, stats)));
        (entry.map_or_else(Vec::new, |entry| entry.neighbors), version)
    }

    fn put_back<S: Storage>(
        &self,
        neighbors_of: ItemPointer,
        version: Version,
        entry: NeighborCacheEntry,
        storage: &S,
        stats: &mut PruneNeighborStats,
    ) -> bool {
        let mut pages = self.pages(storage, stats);
        or_report(self.cache.compare_push(&neighbors_of, version, entry, &mut pages)).is_none()
    }

    fn drain(self, share: DrainShare, mut take: impl FnMut(ItemPointer, NeighborCacheEntry)) {
        or_report(self.cache.drain_share(share, |index_pointer, entry, _is_dirty| {
            take(index_pointer, entry);
            Ok::<_, std::convert::Infallible>(())
        }));
        debug1!("Shared neighbor cache: {:?}", self.cache.stats());
    }
}

pub enum GraphNeighborStore {
    Builder(BuilderNeighborCache),
    Shared(SharedNeighborCache),
    Disk,
}

impl GraphNeighborStore {
    pub fn get_neighbors_with_full_vector_distances<S: Storage>(
        &self,
        neighbors_of: ItemPointer,
        storage: &S,
        stats: &mut PruneNeighborStats,
    ) -> Vec<NeighborWithDistance> {
        match self {
            GraphNeighborStore::Builder(b) => b.get_neighbors_with_full_vector_distances(neighbors_of, storage, stats),
            GraphNeighborStore::Shared(shared) => shared.fetch(neighbors_of, storage, stats).0,
            GraphNeighborStore::Disk => storage.get_neighbors_with_distances_from_disk(neighbors_of, stats),
        }
    }

    /// A node's list, and what it takes to put another in its place: nothing, where nobody else can.
    pub fn fetch<S: Storage>(
        &self,
        neighbors_of: ItemPointer,
        storage: &S,
        stats: &mut PruneNeighborStats,
    ) -> (Vec<NeighborWithDistance>, Option<Version>) {
        match self {
            GraphNeighborStore::Shared(shared) => {
                let (neighbors, version) = shared.fetch(neighbors_of, storage, stats);
                (neighbors, Some(version))
            }
            _ => (self.get_neighbors_with_full_vector_distances(neighbors_of, storage, stats), None),
        }
    }

    /// Puts a list in the place of the one that was fetched; `false` if another worker was faster.
    pub fn put_back<S: Storage>(
        &self,
        storage: &S,
        neighbors_of: ItemPointer,
        version: Option<Version>,
        labels: Option<LabelSet>,
        new_neighbors: Vec<NeighborWithDistance>,
        stats: &mut PruneNeighborStats,
    ) -> bool {
        match (self, version) {
            (GraphNeighborStore::Shared(shared), Some(version)) => {
                let entry = NeighborCacheEntry::new(labels, new_neighbors);
                shared.put_back(neighbors_of, version, entry, storage, stats)
            }
            _ => {
                self.set_neighbors(storage, neighbors_of, labels, new_neighbors, stats);
                true
            }
        }
    }

    pub fn set_neighbors<S: Storage>(
        &self,
        storage: &S,
        neighbors_of: ItemPointer,
        labels: Option<LabelSet>,
        new_neighbors: Vec<NeighborWithDistance>,
        stats: &mut PruneNeighborStats,
    ) {
        match self {
            GraphNeighborStore::Builder(b) => b.set_neighbors(neighbors_of, labels, new_neighbors, storage, stats),
            GraphNeighborStore::Shared(_) => unreachable!("shared lists are fetched and put back"),
            GraphNeighborStore::Disk => storage.set_neighbors_on_disk(neighbors_of, new_neighbors.as_slice(), stats),
        }
    }

    pub fn max_neighbors(&self, meta_page: &MetaPage) -> usize {
        match self {
            GraphNeighborStore::Builder(_) | GraphNeighborStore::Shared(_) => {
                meta_page.get_max_neighbors_during_build()
            }
            GraphNeighborStore::Disk => meta_page.get_num_neighbors() as _,
        }
    }

    /// Hands every list to one of the workers, in the order of pages; without workers, to this process.
    pub fn drain(self, share: DrainShare, mut take: impl FnMut(ItemPointer, NeighborCacheEntry)) {
        match self {
            GraphNeighborStore::Builder(b) => {
                b.into_sorted().into_iter().for_each(|(index_pointer, entry)| take(index_pointer, entry));
            }
            GraphNeighborStore::Shared(shared) => shared.drain(share, take),
            GraphNeighborStore::Disk => {
                panic!("Should not be using the disk neighbor store during build")
            }
        }
    }
}
