//! What the program asks of the library that PostgreSQL has loaded, and what it gets back. Both travel as JSON.

use serde::{Deserialize, Serialize};

/// Where the neighbour lists of a build live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// One process, the `lru` crate wrapped as pgvectorscale wraps it.
    Lru,
    /// One process, this project's drop-in for that wrapper.
    DropIn,
    /// Workers, each with its part of the memory in an `lru` cache of its own; they meet in the relation, in
    /// pgvectorscale's way.
    Private,
    /// Workers over one builder cache in memory that they share.
    Shared,
}

impl Mode {
    /// As the command line and the table call it.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Lru => "lru",
            Mode::DropIn => "drop-in",
            Mode::Private => "private",
            Mode::Shared => "shared",
        }
    }

    /// Whether it runs in parallel workers.
    pub fn is_parallel(self) -> bool {
        matches!(self, Mode::Private | Mode::Shared)
    }
}

/// One build.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    /// This library, for the workers to load.
    pub library: String,
    /// Flat file of vectors; the first of them are the nodes, in the order in which they are inserted.
    pub vectors: String,
    /// Oid of the relation for node records. It is empty.
    pub relation: u32,
    /// Number of nodes.
    pub nodes: u32,
    /// Where lists live.
    pub mode: Mode,
    /// Memory for them; none for as much as it takes (mode `lru`).
    pub bytes: Option<u64>,
    /// Number of workers; 0 where `mode` has none.
    pub workers: u32,
}

/// What a build did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// From the start to the last record written, launch of workers included.
    pub seconds: f64,
    /// Of all processes.
    pub counters: Counters,
    /// Edges that were accepted, not pruned, and are not in the graph: exact but for colliding hashes. In mode
    /// `private`, where lists have many copies, the edges of other workers that a write did away with unseen.
    pub lost_edges: i64,
    /// Whether the sum of the hashes of all edges says the same. Always so in mode `private`, which has no such sum.
    pub edge_sum_matches: bool,
}

/// What one process counts, and their sum. Plain words, so that it can lie in shared memory.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, bytemuck::Pod, bytemuck::Zeroable, Serialize, Deserialize)]
pub struct Counters {
    /// Nodes inserted.
    pub inserts: u64,
    /// Distances computed, those of reloaded neighbours included.
    pub distances: u64,
    /// Lists read back from their record. The first, empty, record of a node does not count.
    pub reloads: u64,
    /// Lists written to their record while the build ran.
    pub spills: u64,
    /// Lists evicted without a write, for their record said the same.
    pub clean_evictions: u64,
    /// Edges accepted into a list.
    pub edges_added: u64,
    /// Edges pruned from a list.
    pub edges_pruned: u64,
    /// Sum of the hashes of edges accepted, less those of edges pruned; wraps.
    pub edge_sum: u64,
    /// Edges that a write to a record did away with unseen.
    pub edges_overwritten: u64,
    /// Changes that were done over because another worker was faster.
    pub conflicts: u64,
    /// Waits for another worker that was loading the same list.
    pub waits: u64,
    /// Entries in the cache when the last node is inserted; of `lru` caches, which may be emptied meanwhile, the most.
    pub entries: u64,
    /// What they take, with all that is needed to find and order them.
    pub entry_bytes: u64,
    /// Time on a processor, in nanoseconds; without the leader's where there are workers.
    pub cpu_nanoseconds: u64,
}
