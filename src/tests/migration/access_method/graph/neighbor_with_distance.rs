//! What pgvectorscale has in `access_method::graph::neighbor_with_distance`, and the getter that the guide adds.

use std::cell::OnceCell;

use crate::access_method::labels::LabelSet;
use crate::util::ItemPointer;

/// A distance whose tie-break is computed when it is wanted, from the ends of the edge.
#[derive(Clone, Debug)]
pub struct DistanceWithTieBreak {
    distance: f32,
    from: ItemPointer,
    to: ItemPointer,
    distance_tie_break: OnceCell<usize>,
}

impl DistanceWithTieBreak {
    pub fn new(distance: f32, from: ItemPointer, to: ItemPointer) -> Self {
        assert!(!distance.is_nan());
        assert!(distance >= 0.0);
        DistanceWithTieBreak { distance, from, to, distance_tie_break: OnceCell::new() }
    }

    pub fn with_query(distance: f32, to: ItemPointer) -> Self {
        DistanceWithTieBreak { distance, from: to, to, distance_tie_break: OnceCell::from(0) }
    }

    pub fn get_distance_tie_break(&self) -> usize {
        *self.distance_tie_break.get_or_init(|| self.from.ip_distance(self.to))
    }

    pub fn get_distance(&self) -> f32 {
        self.distance
    }

    // From here on as in the guide.

    pub fn ends(&self) -> (ItemPointer, ItemPointer) {
        (self.from, self.to)
    }
}

#[derive(Clone, Debug)]
pub struct NeighborWithDistance {
    index_pointer: ItemPointer,
    distance: DistanceWithTieBreak,
    labels: Option<LabelSet>,
}

impl NeighborWithDistance {
    pub fn new(index_pointer: ItemPointer, distance: DistanceWithTieBreak, labels: Option<LabelSet>) -> Self {
        NeighborWithDistance { index_pointer, distance, labels }
    }

    pub fn get_index_pointer_to_neighbor(&self) -> ItemPointer {
        self.index_pointer
    }

    pub fn get_distance_with_tie_break(&self) -> &DistanceWithTieBreak {
        &self.distance
    }

    pub fn get_labels(&self) -> Option<&LabelSet> {
        self.labels.as_ref()
    }
}
