//! Judges a finished graph: what it finds, and what it does not reach.

use crate::search::{Adjacency, Search};
use crate::vectors::{Vector, Vectors};

/// Recall is of this many nearest neighbours.
pub const NEAREST: usize = 10;
/// Search lists of the queries: pgvectorscale's default, and the shortest that can find the nearest.
pub const SEARCH_LISTS: [usize; 2] = [100, NEAREST];
/// Where searches start.
const START: u32 = 0;

/// A finished graph in memory.
pub struct Graph {
    /// By node, where its neighbours begin; one more at the end.
    starts: Vec<usize>,
    neighbors: Vec<u32>,
}

/// What was found about a graph.
#[derive(Clone, Copy, Debug)]
pub struct Verdict {
    /// Of the true nearest neighbours of all queries, the part that was found, by search list.
    pub recall: [f64; SEARCH_LISTS.len()],
    /// Nodes that cannot be reached from where searches start.
    pub unreachable: u32,
    /// Nodes other than the start that are nobody's neighbour.
    pub without_in_edges: u32,
    /// Neighbours of a node on average.
    pub mean_degree: f64,
}

impl Graph {
    /// A graph of `node_count` nodes as `graph_edges` gives it; `None` if it is none.
    pub fn read(node_count: u32, bytes: &[u8]) -> Option<Self> {
        let mut words = bytes.chunks_exact(size_of::<u32>()).map(|word| word.try_into().map_or(0, u32::from_ne_bytes));
        let mut graph = Graph { starts: vec![0], neighbors: Vec::new() };
        for _ in 0..node_count {
            for _ in 0..words.next()? {
                graph.neighbors.push(words.next().filter(|&neighbor| neighbor < node_count)?);
            }
            graph.starts.push(graph.neighbors.len());
        }
        words.next().is_none().then_some(graph)
    }

    fn of(&self, node: u32) -> &[u32] {
        &self.neighbors[self.starts[node as usize]..self.starts[node as usize + 1]]
    }

    fn node_count(&self) -> usize {
        self.starts.len() - 1
    }

    /// Searches for `queries`, whose true nearest neighbours are `truth`, and looks at every node.
    pub fn judge(&mut self, vectors: &Vectors, queries: &[Vector], truth: &[Vec<u32>]) -> Verdict {
        let recall = SEARCH_LISTS.map(|search_list| self.recall(vectors, queries, truth, search_list));
        let reached = self.reached();
        let mut has_in_edge = vec![false; self.node_count()];
        has_in_edge[START as usize] = true;
        self.neighbors.iter().for_each(|&neighbor| has_in_edge[neighbor as usize] = true);
        let count_false = |marks: &[bool]| marks.iter().filter(|mark| !**mark).count() as u32;
        Verdict {
            recall,
            unreachable: count_false(&reached),
            without_in_edges: count_false(&has_in_edge),
            mean_degree: self.neighbors.len() as f64 / self.node_count() as f64,
        }
    }

    fn recall(&mut self, vectors: &Vectors, queries: &[Vector], truth: &[Vec<u32>], search_list: usize) -> f64 {
        let mut search = Search::new(self.node_count());
        let mut hits = 0;
        for (query, nearest) in queries.iter().zip(truth) {
            let found = search.run(self, vectors, START, (query, None), search_list);
            hits += found.iter().take(NEAREST).filter(|found| nearest.contains(&found.node)).count();
        }
        hits as f64 / (truth.len() * NEAREST) as f64
    }

    fn reached(&self) -> Vec<bool> {
        let mut reached = vec![false; self.node_count()];
        reached[START as usize] = true;
        let mut open = vec![START];
        while let Some(node) = open.pop() {
            for &neighbor in self.of(node) {
                if !std::mem::replace(&mut reached[neighbor as usize], true) {
                    open.push(neighbor);
                }
            }
        }
        reached
    }
}

impl Adjacency for Graph {
    fn neighbors(&mut self, node: u32, out: &mut Vec<u32>) {
        out.extend_from_slice(self.of(node));
    }
}

/// The nearest neighbours of each query among the first `node_count` vectors, by looking at all.
pub fn nearest(vectors: &Vectors, node_count: u32, queries: &[Vector]) -> Vec<Vec<u32>> {
    let of_query = |query| {
        let mut all: Vec<(f32, u32)> =
            (0..node_count).map(|node| (vectors.distance(vectors.get(node), query), node)).collect();
        let closer = |a: &(f32, u32), b: &(f32, u32)| a.0.total_cmp(&b.0);
        if all.len() > NEAREST {
            all.select_nth_unstable_by(NEAREST, closer);
        }
        all.into_iter().take(NEAREST).map(|(_, node)| node).collect()
    };
    queries.iter().map(of_query).collect()
}
