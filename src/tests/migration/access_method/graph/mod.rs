//! What pgvectorscale has in `access_method::graph`: how a list is extended and pruned.

pub mod neighbor_store;
pub mod neighbor_with_distance;
pub mod stored;

use std::collections::HashSet;

use self::neighbor_store::GraphNeighborStore;
use self::neighbor_with_distance::NeighborWithDistance;
use crate::access_method::labels::LabelSet;
use crate::access_method::storage::{MetaPage, PruneNeighborStats, Storage};
use crate::util::ItemPointer;

pub struct Graph<'a> {
    pub neighbor_store: GraphNeighborStore,
    pub meta_page: &'a MetaPage,
}

impl Graph<'_> {
    pub fn get_meta_page(&self) -> &MetaPage {
        self.meta_page
    }

    /// Stands for the real one: the nearest stay.
    pub fn prune_neighbors<S: Storage>(
        _max_alpha: f64,
        num_neighbors: usize,
        _labels: Option<&LabelSet>,
        mut candidates: Vec<NeighborWithDistance>,
        _storage: &S,
        _stats: &mut PruneNeighborStats,
    ) -> Vec<NeighborWithDistance> {
        if candidates.len() <= num_neighbors {
            return candidates;
        }
        let distance = |neighbor: &NeighborWithDistance| neighbor.get_distance_with_tie_break().get_distance();
        candidates.sort_by(|a, b| distance(a).total_cmp(&distance(b)));
        candidates.truncate(num_neighbors);
        candidates
    }

    // From here on as in the guide.

    pub fn add_neighbors<S: Storage>(
        &mut self,
        storage: &S,
        neighbors_of: ItemPointer,
        labels: Option<&LabelSet>,
        additional_neighbors: Vec<NeighborWithDistance>,
        stats: &mut PruneNeighborStats,
    ) -> (bool, Vec<NeighborWithDistance>) {
        loop {
            let (mut candidates, version) = self.neighbor_store.fetch(neighbors_of, storage, stats);
            let mut hash: HashSet<ItemPointer> = candidates.iter().map(|c| c.get_index_pointer_to_neighbor()).collect();
            // A copy, for it may be needed again.
            for n in additional_neighbors.iter().cloned() {
                if hash.insert(n.get_index_pointer_to_neighbor()) {
                    candidates.push(n);
                }
            }
            //remove myself
            if !hash.insert(neighbors_of) {
                //prevent self-loops
                let index = candidates.iter().position(|x| x.get_index_pointer_to_neighbor() == neighbors_of).unwrap();
                candidates.remove(index);
            }

            let (pruned, new_neighbors) = if candidates.len() > self.neighbor_store.max_neighbors(self.get_meta_page())
            {
                let new_list = Self::prune_neighbors(
                    self.meta_page.get_max_alpha(),
                    self.meta_page.get_num_neighbors() as _,
                    labels,
                    candidates,
                    storage,
                    stats,
                );
                (true, new_list)
            } else {
                (false, candidates)
            };

            let list = new_neighbors.clone();
            if self.neighbor_store.put_back(storage, neighbors_of, version, labels.cloned(), list, stats) {
                return (pruned, new_neighbors);
            }
            // Another worker was faster: once more, with its list.
        }
    }
}
