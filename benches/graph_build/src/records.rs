//! Lists between the cache and their records: what a mode loads when it misses and writes when it must make room.
//!
//! Where one process has a list, or all have the same copy, it is written as it is. Where workers have copies of their
//! own (mode `private`), what is written is merged with what the record has by then, as pgvectorscale does, and pruned
//! if that makes it too long. (pgvectorscale 0.9 merges and prunes whatever it evicts, in serial builds too. Here an
//! eviction costs less, and a cache that evicts more looks better for it.)

use pg_shared_lru::adapters::neighbors::NodePointer;

use crate::graph::{pruned, Ledger, MAX_BUILD_NEIGHBORS};
use crate::neighbor::{DistanceWithTieBreak, NeighborWithDistance};
use crate::pages::{number_of, Pages};
use crate::request::Counters;
use crate::vectors::Vectors;

/// Records, and the counters of the process that uses them.
pub struct Records<'a> {
    vectors: &'a Vectors,
    pages: &'a Pages,
    /// Whether others write the same records.
    merges: bool,
    /// What this process has done.
    pub counters: Counters,
    pointers: Vec<NodePointer>,
}

impl<'a> Records<'a> {
    /// `merges` says whether other processes write lists of the same nodes.
    pub fn new(vectors: &'a Vectors, pages: &'a Pages, merges: bool) -> Self {
        Records { vectors, pages, merges, counters: Counters::default(), pointers: Vec::new() }
    }

    /// Reads a node's list and computes its distances.
    pub fn load(&mut self, node: NodePointer) -> Vec<NeighborWithDistance> {
        let list = self.read(node);
        self.counters.reloads += u64::from(!list.is_empty());
        list
    }

    fn read(&mut self, node: NodePointer) -> Vec<NeighborWithDistance> {
        self.pages.read(node, &mut self.pointers);
        let place = self.vectors.get(number_of(node));
        let pointers = self.pointers.iter();
        let neighbors = pointers.map(|&pointer| {
            let distance = self.vectors.distance(place, self.vectors.get(number_of(pointer)));
            NeighborWithDistance::new(pointer, DistanceWithTieBreak::new(distance, node, pointer))
        });
        neighbors.collect()
    }

    /// Writes a list that is evicted.
    pub fn spill(&mut self, node: NodePointer, list: Vec<NeighborWithDistance>) {
        self.counters.spills += 1;
        self.store(node, list);
    }

    /// Writes a list.
    pub fn store(&mut self, node: NodePointer, mut list: Vec<NeighborWithDistance>) {
        let mut ledger = Ledger::default();
        let mut seen = Vec::new();
        if self.merges {
            let cached = list.len();
            for neighbor in self.read(node) {
                if !list[..cached].iter().any(|cached| cached.pointer == neighbor.pointer) {
                    ledger.add(node, neighbor.pointer);
                    list.push(neighbor);
                }
            }
            seen.append(&mut self.pointers);
        }
        if list.len() > MAX_BUILD_NEIGHBORS {
            list = pruned(self.vectors, node, list, &mut ledger);
        }
        let overwritten = self.pages.write(node, list.iter().map(|neighbor| neighbor.pointer), &seen);
        if self.merges {
            self.counters.edges_overwritten += overwritten;
        }
        ledger.count_in(&mut self.counters);
    }
}
