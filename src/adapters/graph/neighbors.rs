//! Neighbour lists of a graph under construction, at ten bytes a neighbour.
//!
//! What pgvectorscale's builder keeps for a node: its neighbours in order, each with a distance whose ties are broken
//! by the two ends of the edge, so that every neighbour names its own pointer twice and the node's once (72 bytes in
//! the process). As a value of the drop-in cache, a [`NeighborList`] leaves out the node's pointer, which is the key,
//! and names an edge's ends by two bits (see `encoding` for the form and its size).
//!
//! Invariants: whatever is stored comes back bit for bit: order, bits of floats, ends, and no labels against an empty
//! set of labels. A list that is `None` has no bytes, an empty one has two.
//!
//! Not here: comparison of distances, pruning; a consumer does that with its own types, which [`encode_list`] and
//! [`decode_list`] read and write directly.

use std::fmt;

use super::encoding::{decode_list, encode_list};
use crate::adapters::codec::{Codec, DecodeError};
use crate::adapters::stored::{CacheValue, StoredAs};

/// Where a node lies in its index: a page and an item on it.
///
/// # Examples
///
/// ```
/// use pg_shared_lru::adapters::graph::NodePointer;
/// let pointer = NodePointer { block: 7, offset: 1 };
/// assert_eq!(NodePointer::from((7, 1)), pointer);
/// assert!(pointer < NodePointer::from((7, 2)));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodePointer {
    /// The page.
    pub block: u32,
    /// The item on the page.
    pub offset: u16,
}

impl From<(u32, u16)> for NodePointer {
    fn from((block, offset): (u32, u16)) -> Self {
        NodePointer { block, offset }
    }
}

impl From<NodePointer> for (u32, u16) {
    fn from(pointer: NodePointer) -> Self {
        (pointer.block, pointer.offset)
    }
}

impl NodePointer {
    /// Bytes of an encoded pointer.
    pub const BYTES: usize = 6;

    pub(super) fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.block.to_le_bytes());
        out.extend_from_slice(&self.offset.to_le_bytes());
    }

    pub(super) fn read(bytes: &[u8; Self::BYTES]) -> Self {
        let [a, b, c, d, e, f] = *bytes;
        NodePointer { block: u32::from_le_bytes([a, b, c, d]), offset: u16::from_le_bytes([e, f]) }
    }
}

/// Node pointers in six bytes.
#[derive(Debug)]
pub struct NodePointers;

impl Codec for NodePointers {
    type Item = NodePointer;

    fn name() -> String {
        "node pointer".to_owned()
    }

    fn encode(pointer: &NodePointer, out: &mut Vec<u8>) {
        pointer.write(out);
    }

    fn decode(bytes: &[u8]) -> Result<NodePointer, DecodeError> {
        let pointer = bytes.try_into().map(NodePointer::read);
        pointer.map_err(|_| {
            let reason = format!("a pointer has {} bytes", NodePointer::BYTES);
            DecodeError::new(Self::name(), bytes.len(), reason)
        })
    }
}

impl StoredAs for NodePointer {
    type Codec = NodePointers;
}

/// A distance, with the ends of the edge that break a tie. Two are equal if they are so bit for bit.
#[derive(Clone, Copy)]
pub struct EdgeDistance {
    /// The distance.
    pub distance: f32,
    /// One end.
    pub from: NodePointer,
    /// The other end.
    pub to: NodePointer,
}

impl PartialEq for EdgeDistance {
    fn eq(&self, other: &Self) -> bool {
        (self.distance.to_bits(), self.from, self.to) == (other.distance.to_bits(), other.from, other.to)
    }
}

impl Eq for EdgeDistance {}

impl fmt::Debug for EdgeDistance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let EdgeDistance { distance, from, to } = self;
        write!(f, "{distance}={:#010x} {from:?} → {to:?}", distance.to_bits())
    }
}

/// A neighbour of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbor {
    /// The neighbour.
    pub pointer: NodePointer,
    /// How far it is from the node.
    pub distance: EdgeDistance,
    /// The neighbour's labels, if the index has labels.
    pub labels: Option<Vec<i16>>,
}

impl Neighbor {
    /// A neighbour of `node` without labels, the edge running from the node to it.
    pub fn new(node: NodePointer, pointer: NodePointer, distance: f32) -> Self {
        Neighbor { pointer, distance: EdgeDistance { distance, from: node, to: pointer }, labels: None }
    }
}

/// A [`Neighbor`] whose labels are somebody else's: what [`encode_list`] takes, so that nothing is copied for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighborRef<'a> {
    /// The neighbour.
    pub pointer: NodePointer,
    /// How far it is from the node.
    pub distance: EdgeDistance,
    /// The neighbour's labels, if the index has labels.
    pub labels: Option<&'a [i16]>,
}

impl<'a> From<&'a Neighbor> for NeighborRef<'a> {
    fn from(neighbor: &'a Neighbor) -> Self {
        NeighborRef { pointer: neighbor.pointer, distance: neighbor.distance, labels: neighbor.labels.as_deref() }
    }
}

/// A node's neighbours, in order, and its labels.
///
/// # Examples
///
/// ```
/// use std::num::NonZero;
///
/// use pg_shared_lru::adapters::graph::{Neighbor, NeighborList, NodePointer};
/// use pg_shared_lru::LruCacheWithStats;
///
/// let node = NodePointer { block: 1, offset: 1 };
/// let neighbors: Vec<Neighbor> =
///     (2..52).map(|block| Neighbor::new(node, (block, 1).into(), block as f32)).collect();
///
/// let mut cache =
///     LruCacheWithStats::<NodePointer, NeighborList>::new(NonZero::new(1000).unwrap(), "Builder neighbor");
/// cache.push(node, neighbors.clone().into());
/// assert_eq!(cache.bytes(), 6 + 2 + 50 * 10); // the node's pointer once, and ten bytes a neighbour
/// assert_eq!(cache.get(&node).unwrap().neighbors, neighbors);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NeighborList {
    /// The node's own labels, if the index has labels.
    pub labels: Option<Vec<i16>>,
    /// The neighbours.
    pub neighbors: Vec<Neighbor>,
}

impl From<Vec<Neighbor>> for NeighborList {
    fn from(neighbors: Vec<Neighbor>) -> Self {
        NeighborList { labels: None, neighbors }
    }
}

impl From<NeighborList> for Vec<Neighbor> {
    fn from(list: NeighborList) -> Self {
        list.neighbors
    }
}

impl CacheValue<NodePointer> for NeighborList {
    fn format_name() -> String {
        "neighbor list".to_owned()
    }

    fn encode(&self, node: &NodePointer, out: &mut Vec<u8>) {
        encode_list(*node, self.labels.as_deref(), self.neighbors.iter().map(NeighborRef::from), out);
    }

    fn decode(node: &NodePointer, bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut list = NeighborList::default();
        list.decode_into(node, bytes)?;
        Ok(list)
    }

    fn decode_into(&mut self, node: &NodePointer, bytes: &[u8]) -> Result<(), DecodeError> {
        let encoded = decode_list(*node, bytes)?;
        self.labels = encoded.labels();
        self.neighbors.clear();
        self.neighbors.extend(encoded.neighbors());
        Ok(())
    }
}

impl CacheValue<NodePointer> for Option<NeighborList> {
    fn format_name() -> String {
        "optional neighbor list".to_owned()
    }

    fn encode(&self, node: &NodePointer, out: &mut Vec<u8>) {
        if let Some(list) = self {
            list.encode(node, out);
        }
    }

    fn decode(node: &NodePointer, bytes: &[u8]) -> Result<Self, DecodeError> {
        (!bytes.is_empty()).then(|| NeighborList::decode(node, bytes)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodePointer = NodePointer { block: 70_000, offset: 3 };

    #[test]
    fn none_an_empty_list_and_empty_labels_differ() {
        let lists = [
            None,
            Some(NeighborList::default()),
            Some(NeighborList { labels: Some(vec![]), neighbors: vec![] }),
            Some(NeighborList { labels: Some(vec![-1, 0]), neighbors: vec![] }),
        ];
        let mut lengths = Vec::new();
        for list in lists {
            let mut bytes = Vec::new();
            list.encode(&NODE, &mut bytes);
            assert_eq!(Option::<NeighborList>::decode(&NODE, &bytes).unwrap(), list);
            lengths.push(bytes.len());
        }
        assert_eq!(lengths, [0, 2, 3, 7]);
    }
}
