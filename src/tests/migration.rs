//! docs/pgvectorscale.md, compiled and run over types written like pgvectorscale's.
//!
//! The files in `migration/` stand for pgvectorscale's of the same names, after both steps of the guide.
//!
//! What must hold:
//! - The guide's blocks of code are those files' code, line by line.
//! - Every value comes back as it was, tie-breaks included; the private drop-in hands out what has to be written, in a serial
//!   build, too, and with the least memory.
//! - With the shared cache several workers lose none of each other's back-pointers, and finalize each node once.
#![cfg_attr(feature = "postgres", allow(dead_code, unused_imports))] // some of it is compiled only

#[path = "migration/access_method/mod.rs"]
mod access_method;
#[path = "migration/util.rs"]
mod util;

/// What pgvectorscale has of the crate of this name.
mod pgrx {
    use std::cell::RefCell;

    thread_local! {
        /// Lines that this thread would have printed.
        pub static PRINTED: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    }

    macro_rules! error {
        ($($text:tt)*) => { panic!($($text)*) };
    }
    macro_rules! warning {
        ($($text:tt)*) => { crate::pgrx::PRINTED.with_borrow_mut(|printed| printed.push(format!($($text)*))) };
    }
    pub(crate) use {error, warning, warning as debug1};
}

use std::collections::BTreeMap;
use std::sync::Mutex;

use pg_shared_lru::adapters::builder::DrainShare;
use pg_shared_lru::adapters::drop_in::MIN_MEMORY_BYTES;

use access_method::build::{finalize_nodes, maintenance_work_mem_bytes, neighbors_config};
use access_method::graph::Graph;
use access_method::graph::neighbor_store::{BuilderNeighborCache, GraphNeighborStore};
use access_method::graph::neighbor_with_distance::{DistanceWithTieBreak, NeighborWithDistance};
use access_method::labels::LabelSet;
use access_method::storage::{MetaPage, Pages, PruneNeighborStats, SbqSpeedupStorage, WriteStats};
use util::ItemPointer;

const SERIAL: DrainShare = DrainShare { worker: 0, workers: 1 };
const META_PAGE: MetaPage = MetaPage { num_neighbors: 50 };

fn pointer(number: usize) -> ItemPointer {
    ItemPointer::new(number as u32 / 10, number as u16 % 10 + 1)
}

fn neighbor(of: ItemPointer, to: usize) -> NeighborWithDistance {
    let distance = DistanceWithTieBreak::new(to as f32 / 7.0, of, pointer(to));
    NeighborWithDistance::new(pointer(to), distance, (to % 5 == 0).then(|| LabelSet::from(vec![to as i16, 3])))
}

type Described = Vec<(ItemPointer, u32, usize, Option<LabelSet>)>;

fn described(neighbors: &[NeighborWithDistance]) -> Described {
    let describe = |neighbor: &NeighborWithDistance| {
        let distance = neighbor.get_distance_with_tie_break();
        let pointer = neighbor.get_index_pointer_to_neighbor();
        (pointer, distance.get_distance().to_bits(), distance.get_distance_tie_break(), neighbor.get_labels().cloned())
    };
    neighbors.iter().map(describe).collect()
}

/// Lists of a serial build in a private cache with so much memory: what is in the index at the end, and what was printed.
fn lists_of_private_build(memory_budget: f64, worker_count: usize) -> (BTreeMap<ItemPointer, Described>, Vec<String>) {
    const NODES: usize = 4000;
    let pages = Pages::default();
    let mut storage = SbqSpeedupStorage(&pages);
    let cache = BuilderNeighborCache::new(memory_budget, &META_PAGE, worker_count);
    let mut graph = Graph { neighbor_store: GraphNeighborStore::Builder(cache), meta_page: &META_PAGE };
    let mut stats = PruneNeighborStats::default();
    for number in (0..4).flat_map(|_| 0..NODES) {
        let of = pointer(number);
        let mut neighbors: Vec<_> = (number + 1..number + 20).map(|to| neighbor(of, to)).collect();
        let query = DistanceWithTieBreak::with_query(0.0, pointer(number + 4));
        neighbors[3] = NeighborWithDistance::new(pointer(number + 4), query, None);
        graph.add_neighbors(&storage, of, Some(&LabelSet::from(vec![7])), neighbors, &mut stats);
    }
    assert_eq!(stats.node_writes > 0, (memory_budget as usize) < 10, "{stats:?}");
    let mut write_stats = WriteStats::default();
    finalize_nodes(&mut storage, graph.neighbor_store, &META_PAGE, SERIAL, &mut write_stats);
    assert!(write_stats.num_nodes > 0);
    // An insert into the finished index.
    let mut graph = Graph { neighbor_store: GraphNeighborStore::Disk, meta_page: &META_PAGE };
    graph.add_neighbors(&storage, pointer(NODES), None, vec![neighbor(pointer(NODES), 1)], &mut stats);
    let lists = pages.into_inner().unwrap();
    (lists.iter().map(|(of, list)| (*of, described(list))).collect(), pgrx::PRINTED.take())
}

#[test]
fn a_private_cache_of_little_memory_builds_what_one_of_much_does() {
    let (lists, printed) = lists_of_private_build(100.0, 0);
    assert_eq!((lists.len(), lists[&pointer(9)].len()), (4001, 19));
    assert!(printed.iter().all(|line| !line.contains("full")), "{printed:?}");
    assert_eq!(lists[&pointer(9)][3], (pointer(13), 0, 0, None));
    // A serial build; one of many workers, which have less than the least memory.
    for (memory_budget, worker_count) in [(0.8, 0), (0.8, 8)] {
        assert!(worker_count == 0 || maintenance_work_mem_bytes() / worker_count < MIN_MEMORY_BYTES);
        let (others, printed) = lists_of_private_build(memory_budget, worker_count);
        assert!(others == lists);
        assert!(printed[0].contains("the Builder neighbor cache is full"), "{printed:?}");
        let progress = printed.iter().filter(|line| line.starts_with("Builder neighbor cache: ")).count();
        let teardown = printed.iter().find(|line| line.contains("teardown")).expect("at the end");
        let evictions: usize = teardown.split_once("evictions: ").unwrap().1.trim_end_matches(" }").parse().unwrap();
        assert!(progress > 0 && progress == evictions / 10_000, "{printed:?}");
    }
}

#[test]
fn the_segment_is_as_large_as_the_rows_need_and_no_larger_than_is_allowed() {
    let bytes = |rows| neighbors_config(rows, &META_PAGE, 4).region_bytes().expect("a right configuration");
    let allowed = bytes(0);
    assert!(allowed <= maintenance_work_mem_bytes());
    assert!(allowed > bytes(1) && bytes(1) >= MIN_MEMORY_BYTES);
    assert_eq!(bytes(1_000_000), allowed);
}

#[cfg(not(feature = "postgres"))]
#[test]
fn workers_that_share_a_cache_lose_no_back_pointer_and_finalize_each_node() {
    use access_method::graph::neighbor_store::{Neighbors, SharedNeighborCache};
    use pg_shared_lru::SharedCache;

    const NODES: usize = 2000;
    const WORKERS: usize = 4;
    let meta_page = MetaPage { num_neighbors: 40 };
    let config = neighbors_config(NODES, &meta_page, WORKERS);
    let memory = SharedCache::shared_mapping(&config).unwrap();
    let handles: Vec<_> = (0..WORKERS).map(|_| Neighbors::over(memory.attach_again().unwrap()).unwrap()).collect();
    let leader = Neighbors::over(memory).unwrap();
    let (pages, inserted) = (Pages::default(), std::sync::Barrier::new(WORKERS));
    let finalized = Mutex::new(Vec::new());
    let writes: u64 = std::thread::scope(|scope| {
        let work = |(worker, handle): (usize, Neighbors)| {
            let mut storage = SbqSpeedupStorage(&pages);
            let store = GraphNeighborStore::Shared(SharedNeighborCache::new(handle, &meta_page));
            let mut graph = Graph { neighbor_store: store, meta_page: &meta_page };
            let mut stats = PruneNeighborStats::default();
            for number in (worker..NODES).step_by(WORKERS) {
                for other in (1..=40).map(|step| (number + step * step) % NODES) {
                    let of = pointer(other);
                    let (_, list) = graph.add_neighbors(&storage, of, None, vec![neighbor(of, number)], &mut stats);
                    assert!(list.iter().any(|it| it.get_index_pointer_to_neighbor() == pointer(number)));
                }
            }
            inserted.wait();
            let share = DrainShare { worker, workers: WORKERS };
            let mut write_stats = WriteStats::default();
            finalize_nodes(&mut storage, graph.neighbor_store, &meta_page, share, &mut write_stats);
            finalized.lock().unwrap().push(write_stats.num_nodes);
            stats.node_writes
        };
        let workers: Vec<_> = handles.into_iter().enumerate().map(|part| scope.spawn(move || work(part))).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    assert_eq!(leader.drain_sorted(|node, _, _| Err(format!("{node:?} was not finalized"))).unwrap(), 0);
    let finalized: usize = finalized.into_inner().unwrap().into_iter().sum();
    assert!(writes > 0 && finalized < NODES, "memory is to be short: {writes} writes, {finalized} at the end");
    let lists = pages.into_inner().unwrap();
    for other in 0..NODES {
        let expected = (1..=40).map(|step| pointer((other + NODES * step - step * step) % NODES));
        let found = lists[&pointer(other)].iter().map(NeighborWithDistance::get_index_pointer_to_neighbor);
        let (mut expected, mut found): (Vec<_>, Vec<_>) = (expected.collect(), found.collect());
        expected.sort_unstable();
        expected.dedup();
        found.sort_unstable();
        assert_eq!(found, expected, "back-pointers of node {other}");
    }
}

/// Code by lines, without what only lays it out.
fn lines(code: &str) -> Vec<&str> {
    code.lines().map(str::trim).filter(|line| !line.is_empty()).collect()
}

/// The new side of a difference.
fn new_side(difference: &str) -> String {
    let kept = difference.lines().filter(|line| !line.starts_with('-'));
    kept.map(|line| line.get(1..).unwrap_or("")).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_code_of_the_guide_is_the_code_that_is_compiled() {
    const GUIDE: &str = include_str!("../../docs/pgvectorscale.md");
    const FILES: [&str; 7] = [
        include_str!("migration/util.rs"),
        include_str!("migration/access_method/build.rs"),
        include_str!("migration/access_method/parallel.rs"),
        include_str!("migration/access_method/graph/mod.rs"),
        include_str!("migration/access_method/graph/neighbor_store.rs"),
        include_str!("migration/access_method/graph/neighbor_with_distance.rs"),
        include_str!("migration/access_method/graph/stored.rs"),
    ];
    let files = FILES.map(lines);
    let mut blocks = 0;
    for block in GUIDE.split("\n```").skip(1).step_by(2) {
        let (language, code) = block.split_once('\n').expect("a block has lines");
        let code = match language {
            "rust" => code.to_owned(),
            "diff" => new_side(code),
            _ => continue,
        };
        // A line of dots stands for lines that stay as they are. Who uses what has an order of its own in each file.
        for part in code.split("…") {
            let (uses, part): (Vec<_>, Vec<_>) = lines(part).into_iter().partition(|line| line.starts_with("use "));
            let known: Vec<_> = uses.into_iter().map(|line| vec![line]).chain([part]).collect();
            for part in known.iter().filter(|part| !part.is_empty()) {
                let is_there = files.iter().any(|file| file.windows(part.len()).any(|window| window == part));
                assert!(is_there, "not in src/tests/migration:\n{}", part.join("\n"));
            }
        }
        blocks += 1;
    }
    assert!(blocks >= 15, "{blocks} blocks");
}
