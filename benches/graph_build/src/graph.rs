//! Vamana, as pgvectorscale builds it, over lists that live wherever a mode keeps them.
//!
//! A node is inserted by a greedy search for it; what the search visits are its candidates. Of more than
//! [`MAX_BUILD_NEIGHBORS`] a robust prune leaves [`MAX_NEIGHBORS`]. Then the node is added to each of its neighbours'
//! lists, which are pruned in turn when they grow above [`MAX_BUILD_NEIGHBORS`]. At the end every list is pruned. The
//! first node is where all searches start.
//!
//! The ledger: whoever accepts an edge into a list adds a hash of its two ends, whoever prunes one takes it off. While
//! there is one copy of each list, the sum over all processes must be the sum over the finished graph; a change
//! that is overwritten by another, or a list that never comes back from where it was spilled, would show.

use pg_shared_lru::adapters::graph::NodePointer;
use xxhash_rust::xxh3::xxh3_64;

use crate::neighbor::{DistanceWithTieBreak, NeighborWithDistance};
use crate::pages::{RECORD_NEIGHBORS, number_of, pointer_of};
use crate::request::Counters;
use crate::search::{Adjacency, Search};
use crate::vectors::Vectors;

/// Neighbours of a node of the finished graph, at most.
pub const MAX_NEIGHBORS: usize = 50;
/// Above this a list is pruned during the build: 1.3 times the final number.
const MAX_BUILD_NEIGHBORS: usize = RECORD_NEIGHBORS;
/// Nodes that a search keeps.
pub const SEARCH_LIST: usize = 100;
/// How much farther than by way of another neighbour a neighbour may be.
const MAX_ALPHA: f64 = 1.2;
const ALPHA_STEP: f64 = 1.2;
/// Where searches start.
pub const START: u32 = 0;

/// Where the lists of a build live.
pub trait Lists: Adjacency {
    /// Changes a node's list by `change`, which may be called again with a list that another worker has changed
    /// meanwhile. What it enters into the ledger the last time is counted.
    fn change(&mut self, node: NodePointer, change: &mut Change<'_>);

    /// The counters of this process.
    fn counters(&mut self) -> &mut Counters;
}

/// Makes a new list of an old one, and enters what it did; `None` leaves the old one.
pub type Change<'a> = dyn FnMut(Vec<NeighborWithDistance>, &mut Ledger) -> Option<Vec<NeighborWithDistance>> + 'a;

/// What became of edges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    added: u64,
    pruned: u64,
    sum: u64,
}

impl Ledger {
    /// An edge was accepted.
    pub fn add(&mut self, node: NodePointer, neighbor: NodePointer) {
        self.added += 1;
        self.sum = self.sum.wrapping_add(edge_hash(node, neighbor));
    }

    fn prune(&mut self, node: NodePointer, neighbor: NodePointer) {
        self.pruned += 1;
        self.sum = self.sum.wrapping_sub(edge_hash(node, neighbor));
    }

    /// Enters it into the books.
    pub fn count_in(self, counters: &mut Counters) {
        counters.edges_added += self.added;
        counters.edges_pruned += self.pruned;
        counters.edge_sum = counters.edge_sum.wrapping_add(self.sum);
    }
}

/// A number for an edge; different edges have different ones, as good as always.
pub fn edge_hash(node: NodePointer, neighbor: NodePointer) -> u64 {
    let ends = u64::from(number_of(node)) << 32 | u64::from(number_of(neighbor));
    xxh3_64(&ends.to_le_bytes())
}

/// Inserts nodes.
pub struct Builder<'a, L> {
    vectors: &'a Vectors,
    search: Search,
    /// The lists.
    pub lists: L,
}

impl<'a, L: Lists> Builder<'a, L> {
    /// For a graph of `node_count` nodes, whose vectors are the first of `vectors`.
    pub fn new(vectors: &'a Vectors, node_count: u32, lists: L) -> Self {
        Builder { vectors, search: Search::new(node_count as usize), lists }
    }

    /// Inserts a node. The first one must be [`START`].
    pub fn insert(&mut self, node: u32) {
        self.lists.counters().inserts += 1;
        if node == START {
            return;
        }
        let vectors = self.vectors;
        let query = (vectors.get(node), Some(node));
        let visited = self.search.run(&mut self.lists, vectors, START, query, SEARCH_LIST);
        let pointer = pointer_of(node);
        let candidates: Vec<NeighborWithDistance> =
            visited.iter().map(|found| neighbor(pointer_of(found.node), pointer, found.distance)).collect();

        let mut neighbors = Vec::new();
        self.lists.change(pointer, &mut |list, ledger| {
            let list = extended(vectors, pointer, list, &candidates, ledger);
            neighbors.clear();
            neighbors.extend(list.iter().map(|neighbor| (neighbor.pointer, neighbor.distance.clone())));
            Some(list)
        });
        for (of, distance) in neighbors {
            let back = [NeighborWithDistance::new(pointer, distance)];
            self.lists.change(of, &mut |list, ledger| Some(extended(vectors, of, list, &back, ledger)));
        }
    }

    /// Prunes a node's list to its final length, once all nodes are inserted.
    pub fn finish(&mut self, node: u32) {
        let (vectors, node) = (self.vectors, pointer_of(node));
        self.lists.change(node, &mut |list, ledger| {
            let is_long = list.len() > MAX_NEIGHBORS;
            is_long.then(|| pruned(vectors, node, list, ledger))
        });
    }
}

fn neighbor(pointer: NodePointer, of: NodePointer, distance: f32) -> NeighborWithDistance {
    NeighborWithDistance::new(pointer, DistanceWithTieBreak::new(distance, pointer, of))
}

/// The list with the candidates that it does not have, pruned if that makes it too long.
fn extended(
    vectors: &Vectors,
    of: NodePointer,
    mut list: Vec<NeighborWithDistance>,
    candidates: &[NeighborWithDistance],
    ledger: &mut Ledger,
) -> Vec<NeighborWithDistance> {
    for candidate in candidates {
        let pointer = candidate.pointer;
        if pointer != of && !list.iter().any(|neighbor| neighbor.pointer == pointer) {
            ledger.add(of, pointer);
            list.push(candidate.clone());
        }
    }
    if list.len() > MAX_BUILD_NEIGHBORS {
        list = pruned(vectors, of, list, ledger);
    }
    list.shrink_to_fit();
    list
}

/// At most [`MAX_NEIGHBORS`] of the candidates: the closest, but for those that are closer to another one that stays.
pub fn pruned(
    vectors: &Vectors,
    of: NodePointer,
    mut candidates: Vec<NeighborWithDistance>,
    ledger: &mut Ledger,
) -> Vec<NeighborWithDistance> {
    candidates.sort_by(|a, b| a.distance.cmp(&b.distance));
    // By candidate, how much farther it is than by way of one that stays, at worst; `MAX` for those that stay.
    let mut factors = vec![0f64; candidates.len()];
    let mut stays = Vec::with_capacity(MAX_NEIGHBORS);
    let mut alpha = 1.0;
    while alpha <= MAX_ALPHA && stays.len() < MAX_NEIGHBORS {
        for chosen in 0..candidates.len() {
            if stays.len() == MAX_NEIGHBORS {
                break;
            }
            if factors[chosen] > alpha {
                continue;
            }
            factors[chosen] = f64::MAX;
            stays.push(chosen);
            let by_way_of = candidates[chosen].pointer;
            let place = vectors.get(number_of(by_way_of));
            for (candidate, factor) in candidates.iter().zip(&mut factors).skip(chosen + 1) {
                if *factor > MAX_ALPHA {
                    continue;
                }
                let detour = vectors.distance(vectors.get(number_of(candidate.pointer)), place);
                let detour = DistanceWithTieBreak::new(detour, candidate.pointer, by_way_of);
                *factor = factor.max(candidate.distance.factor(&detour));
            }
        }
        alpha *= ALPHA_STEP;
    }
    let mut goes = vec![true; candidates.len()];
    stays.iter().for_each(|&place| goes[place] = false);
    for (candidate, _) in candidates.iter().zip(&goes).filter(|(_, goes)| **goes) {
        ledger.prune(of, candidate.pointer);
    }
    stays.into_iter().map(|place| candidates[place].clone()).collect()
}
