//! Neighbour lists whose content can be checked, and what they take in the process of a builder.
//!
//! Purpose: as `testkit::content` for byte strings: a list is a function of (key, number of the push, number of neighbours),
//! so that a benchmark knows what a read must return without keeping a copy. [`HeapList`] is a list as pgvectorscale's
//! builder has it, [`NeighborList`] as the library's drop-in cache has it; [`encode`] gives the library's bytes, for
//! caches of byte strings.
//!
//! Invariants: two lists of the same key and push are equal neighbour for neighbour, whatever type they are built as; a
//! check compares every neighbour, bit for bit. Edges point both ways in no pattern, as those of a graph under
//! construction do, which the library stores in 10.25 bytes a neighbour instead of 10.
//!
//! Limit: an empty list is like any other.

use std::cell::OnceCell;

use pg_shared_lru::adapters::graph::{EdgeDistance, Neighbor, NeighborList, NeighborRef, NodePointer, encode_list};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use testkit::content::Written;

/// Lists begin anywhere among so many edges.
const WINDOW_STARTS: usize = 1 << 14;

/// The longest list there is: a trace has one byte for the number of neighbours.
const MAX_NEIGHBOURS: usize = u8::MAX as usize;

/// The node that a key of a `diskann` trace stands for: a number of 32 bits.
pub fn node(key: u64) -> NodePointer {
    NodePointer { block: key as u32, offset: 1 }
}

/// The key that [`node`] was made of.
pub fn key(node: NodePointer) -> u64 {
    u64::from(node.block)
}

/// Appends the library's encoding of a list to `out`.
pub fn encode(node: NodePointer, edges: impl ExactSizeIterator<Item = Edge> + Clone, out: &mut Vec<u8>) {
    let neighbors = edges.map(|edge| NeighborRef { pointer: edge.pointer, distance: edge.distance, labels: None });
    encode_list(node, None, neighbors, out);
}

/// The most bytes that [`encode`] makes of so many neighbours: flags, their number, ten bytes each and two bits each.
pub fn encoded_bytes_at_most(neighbours: u32) -> u32 {
    3 + 10 * neighbours + neighbours.div_ceil(4)
}

/// A neighbour as it is described, in whatever type it is then kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Edge {
    pub pointer: NodePointer,
    pub distance: EdgeDistance,
}

/// A distance as the builder has it: with a place for the tie break, which it computes when it needs it.
#[expect(dead_code, reason = "here it only takes its place in memory")]
struct TieBreak(OnceCell<usize>);

/// A neighbour as the builder has it.
pub struct HeapNeighbour {
    pointer: NodePointer,
    distance: EdgeDistance,
    #[expect(dead_code, reason = "here it only takes its place in memory")]
    tie_break: TieBreak,
    labels: Option<Vec<i16>>,
}

const _: () = assert!(size_of::<HeapNeighbour>() == 72);

/// An entry of the builder's cache.
///
/// Its vector has room for its neighbours and no more: the builder shrinks it before it is stored.
pub struct HeapList {
    labels: Option<Vec<i16>>,
    neighbours: Vec<HeapNeighbour>,
}

impl HeapList {
    pub fn new(edges: impl ExactSizeIterator<Item = Edge>) -> Self {
        let neighbours = edges.map(|edge| HeapNeighbour {
            pointer: edge.pointer,
            distance: edge.distance,
            tie_break: TieBreak(OnceCell::new()),
            labels: None,
        });
        HeapList { labels: None, neighbours: neighbours.collect() }
    }

    pub fn neighbours(&self) -> Neighbours<'_> {
        debug_assert!(self.labels.is_none());
        Neighbours::Heap(&self.neighbours)
    }

    /// Bytes of the list and its neighbours.
    pub fn payload_bytes(&self) -> usize {
        size_of::<HeapList>() + self.neighbours.len() * size_of::<HeapNeighbour>()
    }

    /// Bytes of the vector that it owns.
    pub fn vector_bytes(&self) -> usize {
        self.neighbours.capacity() * size_of::<HeapNeighbour>()
    }
}

/// The list as the library's own type.
pub fn plain(edges: impl ExactSizeIterator<Item = Edge>) -> NeighborList {
    let neighbors =
        edges.map(|edge| Neighbor { pointer: edge.pointer, distance: edge.distance, labels: None }).collect();
    NeighborList { labels: None, neighbors }
}

/// Neighbours as a cache gives them.
#[derive(Clone, Copy)]
pub enum Neighbours<'a> {
    Heap(&'a [HeapNeighbour]),
    Plain(&'a [Neighbor]),
}

impl Neighbours<'_> {
    /// Reads every neighbour's pointer and distance, as a search does, and sums them up.
    pub fn walk(&self) -> u64 {
        let word = |pointer: NodePointer, distance: EdgeDistance| {
            (u64::from(pointer.block) << 16 | u64::from(pointer.offset)) ^ u64::from(distance.distance.to_bits())
        };
        match self {
            Neighbours::Heap(all) => all.iter().map(|it| word(it.pointer, it.distance)).fold(0, u64::wrapping_add),
            Neighbours::Plain(all) => all.iter().map(|it| word(it.pointer, it.distance)).fold(0, u64::wrapping_add),
        }
    }

    fn len(&self) -> usize {
        match self {
            Neighbours::Heap(all) => all.len(),
            Neighbours::Plain(all) => all.len(),
        }
    }

    /// The neighbours, one by one.
    pub fn edges(&self) -> impl Iterator<Item = Edge> {
        (0..self.len()).map(|index| self.at(index).0)
    }

    /// The neighbour at `index` with whether it has labels.
    fn at(&self, index: usize) -> (Edge, bool) {
        match self {
            Neighbours::Heap(all) => {
                let it = &all[index];
                (Edge { pointer: it.pointer, distance: it.distance }, it.labels.is_some())
            }
            Neighbours::Plain(all) => {
                let it = &all[index];
                (Edge { pointer: it.pointer, distance: it.distance }, it.labels.is_some())
            }
        }
    }
}

/// A list that is described and not yet made: each cache makes its own kind of value of it.
#[derive(Clone, Copy)]
pub struct Description<'a> {
    lists: &'a Lists,
    written: Written,
}

impl<'a> Description<'a> {
    /// The neighbours, each pointing from or to the list's node.
    pub fn edges(self) -> impl ExactSizeIterator<Item = Edge> + Clone + 'a {
        self.lists.edges(self.written)
    }
}

/// Describes and checks lists.
pub struct Lists {
    /// Pointers, distances, and whether the edge points to the node.
    pattern: Vec<(NodePointer, f32, bool)>,
}

impl Lists {
    #[expect(
        clippy::new_without_default,
        reason = "it makes a pattern of random edges, which is not what default suggests"
    )]
    pub fn new() -> Self {
        let mut random = SmallRng::seed_from_u64(0);
        let edge = |_| {
            let pointer = NodePointer { block: random.random(), offset: random.random_range(1..300) };
            (pointer, random.random(), random.random())
        };
        Lists { pattern: (0..WINDOW_STARTS + MAX_NEIGHBOURS).map(edge).collect() }
    }

    /// The list that `written` names, to be stored.
    pub fn describe(&self, written: Written) -> Description<'_> {
        Description { lists: self, written }
    }

    /// The neighbours of the list that `written` names; its length is their number.
    ///
    /// # Panics
    /// There are more than 255.
    pub fn edges(&self, written: Written) -> impl ExactSizeIterator<Item = Edge> + Clone + '_ {
        let own = node(written.key);
        let mark = xxh3_64_with_seed(&written.key.to_le_bytes(), u64::from(written.write));
        let start = mark as usize % WINDOW_STARTS;
        self.pattern[start..start + written.len as usize].iter().enumerate().map(move |(index, edge)| {
            let (mut pointer, distance, inward) = *edge;
            if index == 0 {
                pointer.block = (mark >> 32) as u32;
            }
            let (from, to) = if inward { (pointer, own) } else { (own, pointer) };
            Edge { pointer, distance: EdgeDistance { distance, from, to } }
        })
    }

    /// Compares every neighbour with what `written` says it must be.
    ///
    /// # Errors
    /// The first difference.
    pub fn check(&self, written: Written, found: Neighbours<'_>) -> Result<(), String> {
        let Written { key, write, len } = written;
        if found.len() != len as usize {
            return Err(format!("key {key}: push {write} had {len} neighbours, the read {}", found.len()));
        }
        for (index, expected) in self.edges(written).enumerate() {
            let (edge, labelled) = found.at(index);
            if edge != expected || labelled {
                return Err(format!("key {key}: neighbour {index} of {len} is not what push {write} stored there"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_checks_against_itself_only() {
        let lists = Lists::new();
        for len in [1, 2, 50, 255] {
            let written = Written { key: 5, write: 2, len };
            let heap = HeapList::new(lists.edges(written));
            let plain = plain(lists.edges(written));
            for neighbours in [heap.neighbours(), Neighbours::Plain(&plain.neighbors)] {
                assert_eq!(lists.check(written, neighbours), Ok(()));
                for other in [Written { key: 6, ..written }, Written { write: 3, ..written }] {
                    assert!(lists.check(other, neighbours).is_err(), "{other:?}");
                }
                assert!(lists.check(Written { len: len - 1, ..written }, neighbours).is_err());
            }
            assert_eq!(heap.neighbours().walk(), Neighbours::Plain(&plain.neighbors).walk());
            let mut changed = plain.clone();
            changed.neighbors[len as usize - 1].distance.distance += 1.0;
            assert!(lists.check(written, Neighbours::Plain(&changed.neighbors)).is_err());
        }
    }

    #[test]
    fn an_encoded_list_takes_at_most_what_is_said() {
        let lists = Lists::new();
        for len in 0..=255 {
            let mut bytes = Vec::new();
            encode(node(7), lists.edges(Written { key: 7, write: 1, len }), &mut bytes);
            assert!(bytes.len() <= encoded_bytes_at_most(len) as usize, "{len}: {}", bytes.len());
        }
    }
}
