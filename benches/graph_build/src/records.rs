//! Lists between the cache and their records: what a mode loads when it misses and writes when it must make room.
//!
//! Where there is one copy of a list, it is written as it is. Mode `private`, where workers have copies of their own,
//! does what pgvectorscale 0.9 does: what is written is merged with what the record has by then, and pruned to the final
//! length; always if it was evicted, and if it is too long if the cache is written out.
//!
//! pgvectorscale does so in serial builds, too: that is mode `private` with one worker. It costs time and changes the
//! graph, so the other modes, without it, tell what a cache is worth for itself.

use pg_shared_lru::adapters::graph::NodePointer;

use crate::graph::{Ledger, MAX_NEIGHBORS, pruned};
use crate::neighbor::{DistanceWithTieBreak, NeighborWithDistance};
use crate::pages::{Pages, number_of};
use crate::request::Counters;
use crate::vectors::Vectors;

/// Records, and the counters of the process that uses them.
pub struct Records<'a> {
    vectors: &'a Vectors,
    pages: &'a Pages,
    /// Whether others may have written a record meanwhile.
    merges: bool,
    /// What this process has done.
    pub counters: Counters,
    pointers: Vec<NodePointer>,
}

impl<'a> Records<'a> {
    /// `merges` says whether other processes may write lists of the same nodes.
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
        if self.merges {
            self.merge(node, list, 0);
        } else {
            self.write(node, &list, None);
        }
    }

    /// Writes a list that is not cached any longer because the cache is written out.
    pub fn store(&mut self, node: NodePointer, list: Vec<NeighborWithDistance>) {
        if self.merges {
            self.merge(node, list, MAX_NEIGHBORS);
        } else {
            self.write(node, &list, None);
        }
    }

    /// Writes what a list and its record have, pruned if that are more than `untouched`.
    fn merge(&mut self, node: NodePointer, mut list: Vec<NeighborWithDistance>, untouched: usize) {
        let mut ledger = Ledger::default();
        let cached = list.len();
        for neighbor in self.read(node) {
            if !list[..cached].iter().any(|cached| cached.pointer == neighbor.pointer) {
                ledger.add(node, neighbor.pointer);
                list.push(neighbor);
            }
        }
        let seen = std::mem::take(&mut self.pointers);
        if list.len() > untouched {
            list = pruned(self.vectors, node, list, &mut ledger);
        }
        self.counters.edges_overwritten += self.write(node, &list, Some(&seen));
        self.pointers = seen;
        ledger.count_in(&mut self.counters);
    }

    fn write(&self, node: NodePointer, list: &[NeighborWithDistance], seen: Option<&[NodePointer]>) -> u64 {
        self.pages.write(node, list.iter().map(|neighbor| neighbor.pointer), seen)
    }
}
