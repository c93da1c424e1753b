//! What pgvectorscale has in `access_method::build`, as far as it changes.

use pg_shared_lru::adapters::builder::{DrainShare, memory_for};
use pg_shared_lru::adapters::drop_in::MIN_MEMORY_BYTES;
use pg_shared_lru::adapters::graph::{NodePointer, list_bytes};
use pg_shared_lru::{Config, Policy};

use crate::access_method::graph::Graph;
use crate::access_method::graph::neighbor_store::{GraphNeighborStore, NeighborCacheEntry};
use crate::access_method::storage::{MetaPage, Storage, WriteStats};
use crate::util::ItemPointer;

pub const BUILDER_NEIGHBOR_CACHE_SIZE: f64 = 0.8;

pub fn maintenance_work_mem_bytes() -> usize {
    1_000_000
}

// From here on as in the guide.

/// The cache of a parallel build: what the rows need, and no more than is allowed, for PostgreSQL takes all of it at once.
pub fn neighbors_config(heap_tuples: usize, meta_page: &MetaPage, workers: usize) -> Config {
    let allowed = (maintenance_work_mem_bytes() as f64 * BUILDER_NEIGHBOR_CACHE_SIZE) as usize;
    let entry_bytes = NodePointer::BYTES + list_bytes(meta_page.get_max_neighbors_during_build());
    let needed = match heap_tuples {
        0 => allowed, // a table that was never analyzed says nothing of its rows
        rows => memory_for(rows as u64, entry_bytes, workers),
    };
    // The default policy, `lru`, takes a lock for each read.
    Config::bytes(needed.min(allowed).max(MIN_MEMORY_BYTES)).policy(Policy::Clock)
}

pub fn finalize_nodes<S: Storage>(
    storage: &mut S,
    neighbor_store: GraphNeighborStore,
    meta_page: &MetaPage,
    share: DrainShare,
    write_stats: &mut WriteStats,
) {
    neighbor_store.drain(share, |index_pointer: ItemPointer, entry: NeighborCacheEntry| {
        write_stats.num_nodes += 1;
        let neighbors = if entry.neighbors.len() > meta_page.get_num_neighbors() as _ {
            Graph::prune_neighbors(
                meta_page.get_max_alpha(),
                meta_page.get_num_neighbors() as _,
                entry.labels.as_ref(),
                entry.neighbors,
                storage,
                &mut write_stats.prune_stats,
            )
        } else {
            entry.neighbors
        };
        write_stats.num_neighbors += neighbors.len();
        storage.finalize_node_at_end_of_build(index_pointer, neighbors.as_slice(), write_stats);
    });
}
