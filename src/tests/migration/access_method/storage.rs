//! What pgvectorscale has in `access_method::storage`, `stats` and `meta_page`, as far as it matters; and an index in memory.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::access_method::graph::neighbor_with_distance::NeighborWithDistance;
use crate::util::ItemPointer;

#[derive(Debug, Default)]
pub struct PruneNeighborStats {
    pub node_reads: u64,
    pub node_writes: u64,
}

#[derive(Debug, Default)]
pub struct WriteStats {
    pub num_nodes: usize,
    pub num_neighbors: usize,
    pub prune_stats: PruneNeighborStats,
}

#[derive(Clone, Debug)]
pub struct MetaPage {
    pub num_neighbors: u32,
}

impl MetaPage {
    pub fn get_num_neighbors(&self) -> u32 {
        self.num_neighbors
    }

    pub fn get_max_neighbors_during_build(&self) -> usize {
        self.num_neighbors as usize * 13 / 10
    }

    pub fn get_max_alpha(&self) -> f64 {
        1.2
    }
}

pub trait Storage {
    fn get_neighbors_with_distances_from_disk(
        &self,
        neighbors_of: ItemPointer,
        stats: &mut PruneNeighborStats,
    ) -> Vec<NeighborWithDistance>;

    fn set_neighbors_on_disk(
        &self,
        index_pointer: ItemPointer,
        neighbors: &[NeighborWithDistance],
        stats: &mut PruneNeighborStats,
    );

    fn finalize_node_at_end_of_build(
        &mut self,
        index_pointer: ItemPointer,
        neighbors: &[NeighborWithDistance],
        stats: &mut WriteStats,
    );
}

/// The index's pages: what was written last for each node.
pub type Pages = Mutex<BTreeMap<ItemPointer, Vec<NeighborWithDistance>>>;

/// One process's way to them.
#[derive(Clone, Copy)]
pub struct SbqSpeedupStorage<'a>(pub &'a Pages);

impl Storage for SbqSpeedupStorage<'_> {
    fn get_neighbors_with_distances_from_disk(
        &self,
        neighbors_of: ItemPointer,
        stats: &mut PruneNeighborStats,
    ) -> Vec<NeighborWithDistance> {
        stats.node_reads += 1;
        self.0.lock().unwrap().get(&neighbors_of).cloned().unwrap_or_default()
    }

    fn set_neighbors_on_disk(
        &self,
        index_pointer: ItemPointer,
        neighbors: &[NeighborWithDistance],
        stats: &mut PruneNeighborStats,
    ) {
        stats.node_writes += 1;
        self.0.lock().unwrap().insert(index_pointer, neighbors.to_vec());
    }

    fn finalize_node_at_end_of_build(
        &mut self,
        index_pointer: ItemPointer,
        neighbors: &[NeighborWithDistance],
        _: &mut WriteStats,
    ) {
        self.0.lock().unwrap().insert(index_pointer, neighbors.to_vec());
    }
}
