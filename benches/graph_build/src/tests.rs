//! Graphs built inside PostgreSQL, small ones over vectors made up here.
//!
//! What must hold:
//!
//! - A graph finds what is near, and reaches every node, wherever its lists live and however little memory they have.
//! - One process builds the same graph whatever the cache and its memory: what is spilled comes back as it was.
//! - Workers over one shared cache lose no edge, and one of them builds what a process alone builds.
//! - A build that is cancelled leaves nothing behind that keeps the next from working.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use postgres::error::SqlState;
use xxhash_rust::xxh3::xxh3_64;

use crate::judge::{self, Verdict};
use crate::request::{Mode, Report};
use crate::site::Site;
use crate::vectors::{DIMENSIONS, Vector};

const NODES: u32 = 2000;
const QUERIES: u32 = 100;
/// Vectors differ in so many directions only, as real ones do: else no two of them would be near.
const DIRECTIONS: u64 = 12;
const LEAST_RECALL: f64 = 0.9;

/// A number between -1 and 1 that follows from two others.
fn number(a: u64, b: u64) -> f32 {
    let bytes: Vec<u8> = [a, b].iter().flat_map(|word| word.to_le_bytes()).collect();
    (xxh3_64(&bytes) >> 40) as f32 / (1 << 23) as f32 - 1.0
}

fn vector(index: u32) -> Vector {
    let weights: Vec<f32> = (0..DIRECTIONS).map(|direction| number(index.into(), direction)).collect();
    let mut vector = [0.0; DIMENSIONS];
    for (dimension, x) in vector.iter_mut().enumerate() {
        let of_direction =
            |(direction, weight): (usize, &f32)| weight * number(u64::MAX - direction as u64, dimension as u64);
        *x = weights.iter().enumerate().map(of_direction).sum();
    }
    let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    vector.map(|x| x / norm)
}

/// Builds what PostgreSQL loads, once: cargo does not for a test, which could not link it.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let feature = testkit::cluster::pg_feature().expect("there is a PostgreSQL");
        let build = ["build", "--package", "graph_build", "--lib", "--no-default-features", "--features", &feature];
        let status = Command::new(cargo).args(build).current_dir(env!("CARGO_MANIFEST_DIR")).status();
        assert!(status.expect("cargo runs").success());
        // This program lies in the folder `deps`, beside which the library is.
        let program = std::env::current_exe().expect("a running program has a path");
        program.parent().and_then(Path::parent).expect("two folders").join(crate::LIBRARY)
    })
}

/// A site and what is true of its vectors.
struct World {
    site: Site,
    truth: Vec<Vec<u32>>,
    queries: Vec<Vector>,
    /// What mode `lru` needs to hold every list.
    all_bytes: u64,
    /// The graph that one process builds.
    serial: Report,
}

impl World {
    fn new() -> Self {
        let library = library();
        let vectors: Vec<Vector> = (0..NODES + QUERIES).map(vector).collect();
        let mut site = Site::start(library, &vectors).unwrap();
        let queries = vectors[NODES as usize..].to_vec();
        let truth = judge::nearest(&site.vectors, NODES, &queries);
        let (serial, mut graph) = site.build(Mode::Lru, NODES, None, 0).unwrap();
        let verdict = graph.judge(&site.vectors, &queries, &truth);
        let world = World { site, truth, queries, all_bytes: serial.counters.entry_bytes, serial };
        world.serial.expect_whole();
        verdict.expect_good();
        assert_eq!(world.serial.counters.entries, u64::from(NODES));
        assert_eq!(world.serial.counters.spills, 0);
        world
    }

    fn build(&mut self, mode: Mode, percent: u64, workers: u32) -> (Report, Verdict) {
        let bytes = self.all_bytes * percent / 100;
        let (report, mut graph) = self.site.build(mode, NODES, Some(bytes), workers).unwrap();
        (report, graph.judge(&self.site.vectors, &self.queries, &self.truth))
    }
}

impl Verdict {
    fn expect_good(&self) {
        assert!(self.recall[0] > LEAST_RECALL, "{self:?}");
        assert_eq!((self.unreachable, self.without_in_edges), (0, 0), "{self:?}");
        assert!((10.0..=50.0).contains(&self.mean_degree), "{self:?}");
    }
}

impl Report {
    fn expect_whole(&self) {
        assert_eq!(self.counters.inserts, u64::from(NODES));
        assert_eq!((self.lost_edges, self.edge_sum_matches), (0, true), "{self:?}");
        assert!(self.counters.edges_added > 0);
    }
}

#[test]
fn one_process_builds_the_same_graph_in_any_cache_and_any_memory() {
    let mut world = World::new();
    for (mode, percent) in [(Mode::Lru, 10), (Mode::DropIn, 10), (Mode::DropIn, 100)] {
        let (report, verdict) = world.build(mode, percent, 0);
        report.expect_whole();
        verdict.expect_good();
        assert_eq!(report.counters.edge_sum, world.serial.counters.edge_sum, "{mode:?} at {percent} %");
        assert_eq!(report.counters.spills > 0, percent == 10, "{mode:?} at {percent} %: {report:?}");
    }
}

#[test]
fn workers_over_one_cache_lose_no_edge() {
    let mut world = World::new();
    let (alone, _) = world.build(Mode::Shared, 10, 1);
    alone.expect_whole();
    assert_eq!(alone.counters.edge_sum, world.serial.counters.edge_sum);
    for percent in [10, 100] {
        let (report, verdict) = world.build(Mode::Shared, percent, 3);
        report.expect_whole();
        verdict.expect_good();
        assert_eq!(report.counters.spills > 0, percent == 10, "{percent} %: {report:?}");
    }
}

#[test]
fn workers_with_private_caches_build_a_graph() {
    let mut world = World::new();
    let (report, verdict) = world.build(Mode::Private, 10, 3);
    assert_eq!(report.counters.inserts, u64::from(NODES));
    assert!(verdict.recall[0] > LEAST_RECALL, "{verdict:?}");
}

#[test]
fn a_cancelled_build_leaves_nothing_behind() {
    let mut world = World::new();
    for (mode, workers) in [(Mode::Lru, 0), (Mode::Shared, 3)] {
        world.site.execute("SET statement_timeout = '100ms'").unwrap();
        let error = world.site.build(mode, NODES, Some(world.all_bytes / 10), workers).err().unwrap();
        let code = error.downcast_ref::<postgres::Error>().and_then(postgres::Error::code).cloned();
        assert_eq!(code, Some(SqlState::QUERY_CANCELED), "{error:?}");
        world.site.execute("RESET statement_timeout").unwrap();
    }
    let (report, verdict) = world.build(Mode::Shared, 10, 3);
    report.expect_whole();
    verdict.expect_good();
}
