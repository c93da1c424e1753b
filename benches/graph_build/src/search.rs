//! Greedy search of a graph, as pgvectorscale's build and scan do it.
//!
//! Visits the closest known node that was not visited, makes its neighbours known, and stops when as many nodes as the
//! search list holds have been visited and none that is known is closer than the last of them.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use crate::vectors::{Vector, Vectors};

/// Where the neighbours of a node are looked up.
pub trait Adjacency {
    /// Appends the neighbours of `node`.
    fn neighbors(&mut self, node: u32, out: &mut Vec<u32>);
}

/// A node with its distance from what is searched for.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// The node.
    pub node: u32,
    /// Its distance.
    pub distance: f32,
    /// Orders nodes of distance 0: how far their places are apart.
    tie_break: u32,
}

impl Ord for Found {
    fn cmp(&self, other: &Self) -> Ordering {
        self.distance.total_cmp(&other.distance).then(self.tie_break.cmp(&other.tie_break))
    }
}

impl PartialOrd for Found {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Found {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Found {}

/// What searches need, kept from one to the next.
pub struct Search {
    known: BinaryHeap<Reverse<Found>>,
    visited: Vec<Found>,
    /// By node, the search that last knew it.
    known_in: Vec<u32>,
    searches: u32,
    neighbors: Vec<u32>,
}

impl Search {
    /// For graphs of `node_count` nodes.
    pub fn new(node_count: usize) -> Self {
        Search {
            known: BinaryHeap::new(),
            visited: Vec::new(),
            known_in: vec![0; node_count],
            searches: 0,
            neighbors: Vec::new(),
        }
    }

    /// The nodes that a search from `start` visits, closest first. `node` is what is searched for, if it is a node.
    pub fn run(
        &mut self,
        graph: &mut impl Adjacency,
        vectors: &Vectors,
        start: u32,
        (query, node): (&Vector, Option<u32>),
        list_size: usize,
    ) -> &[Found] {
        self.known.clear();
        self.visited.clear();
        self.searches += 1;
        self.learn(vectors, start, query, node);
        while let Some(Reverse(closest)) = self.known.peek().copied() {
            if self.visited.len() > list_size && closest >= self.visited[list_size - 1] {
                break;
            }
            self.known.pop();
            let place = self.visited.partition_point(|visited| *visited < closest);
            self.visited.insert(place, closest);
            let mut neighbors = std::mem::take(&mut self.neighbors);
            neighbors.clear();
            graph.neighbors(closest.node, &mut neighbors);
            for &neighbor in &neighbors {
                self.learn(vectors, neighbor, query, node);
            }
            self.neighbors = neighbors;
        }
        &self.visited
    }

    fn learn(&mut self, vectors: &Vectors, found: u32, query: &Vector, node: Option<u32>) {
        let known_in = &mut self.known_in[found as usize];
        if *known_in == self.searches {
            return;
        }
        *known_in = self.searches;
        let distance = vectors.distance(vectors.get(found), query);
        let tie_break = if distance == 0.0 { node.map_or(0, |node| found.abs_diff(node)) } else { 0 };
        self.known.push(Reverse(Found { node: found, distance, tie_break }));
    }
}
