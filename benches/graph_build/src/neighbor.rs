//! A builder's neighbours, field for field what pgvectorscale's builder keeps: 72 bytes each in the process.
//!
//! To move from the `lru` crate to this project's caches such a consumer keeps its types and says how an entry is
//! stored: the last `impl` of this file.

use std::cell::OnceCell;
use std::cmp::Ordering;

use pg_shared_lru::adapters::graph::{EdgeDistance, NeighborList, NeighborRef, NodePointer, decode_list, encode_list};
use pg_shared_lru::{CacheValue, DecodeError};

/// A distance, with the ends of the edge that break a tie between distances of 0.
#[derive(Clone, Debug)]
pub struct DistanceWithTieBreak {
    distance: f32,
    from: NodePointer,
    to: NodePointer,
    tie_break: OnceCell<usize>,
}

impl DistanceWithTieBreak {
    pub fn new(distance: f32, from: NodePointer, to: NodePointer) -> Self {
        DistanceWithTieBreak { distance, from, to, tie_break: OnceCell::new() }
    }

    fn tie_break(&self) -> usize {
        *self.tie_break.get_or_init(|| {
            let place = |pointer: NodePointer| u64::from(pointer.block) << 16 | u64::from(pointer.offset);
            place(self.from).abs_diff(place(self.to)) as usize
        })
    }

    /// How many times farther this is than `other`.
    pub fn factor(&self, other: &Self) -> f64 {
        match (self.distance < f32::EPSILON, other.distance < f32::EPSILON) {
            (true, true) => self.tie_break() as f64 / other.tie_break() as f64,
            (false, true) => f64::MAX,
            (_, false) => f64::from(self.distance) / f64::from(other.distance),
        }
    }

    /// Closest first.
    pub fn cmp(&self, other: &Self) -> Ordering {
        if self.distance == 0.0 && other.distance == 0.0 {
            return self.tie_break().cmp(&other.tie_break());
        }
        self.distance.total_cmp(&other.distance)
    }
}

/// A neighbour.
#[derive(Clone, Debug)]
pub struct NeighborWithDistance {
    pub pointer: NodePointer,
    pub distance: DistanceWithTieBreak,
    labels: Option<Vec<i16>>,
}

impl NeighborWithDistance {
    pub fn new(pointer: NodePointer, distance: DistanceWithTieBreak) -> Self {
        NeighborWithDistance { pointer, distance, labels: None }
    }
}

const _: () = assert!(size_of::<NeighborWithDistance>() == 72);

/// What is cached for a node.
#[derive(Clone, Debug, Default)]
pub struct NeighborCacheEntry {
    labels: Option<Vec<i16>>,
    pub neighbors: Vec<NeighborWithDistance>,
}

impl From<Vec<NeighborWithDistance>> for NeighborCacheEntry {
    fn from(neighbors: Vec<NeighborWithDistance>) -> Self {
        NeighborCacheEntry { labels: None, neighbors }
    }
}

impl CacheValue<NodePointer> for NeighborCacheEntry {
    fn format_name() -> String {
        NeighborList::format_name()
    }

    fn encode(&self, node: &NodePointer, out: &mut Vec<u8>) {
        let neighbors = self.neighbors.iter().map(|neighbor| {
            let DistanceWithTieBreak { distance, from, to, .. } = neighbor.distance;
            let distance = EdgeDistance { distance, from, to };
            NeighborRef { pointer: neighbor.pointer, distance, labels: neighbor.labels.as_deref() }
        });
        encode_list(*node, self.labels.as_deref(), neighbors, out);
    }

    fn decode(node: &NodePointer, bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut entry = NeighborCacheEntry::default();
        entry.decode_into(node, bytes)?;
        Ok(entry)
    }

    fn decode_into(&mut self, node: &NodePointer, bytes: &[u8]) -> Result<(), DecodeError> {
        let list = decode_list(*node, bytes)?;
        self.labels = list.labels();
        self.neighbors.clear();
        self.neighbors.extend(list.neighbors().map(|neighbor| {
            let EdgeDistance { distance, from, to } = neighbor.distance;
            let distance = DistanceWithTieBreak::new(distance, from, to);
            NeighborWithDistance { pointer: neighbor.pointer, distance, labels: neighbor.labels }
        }));
        Ok(())
    }
}
