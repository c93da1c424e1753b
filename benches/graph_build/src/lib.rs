//! A Vamana graph build inside PostgreSQL, a consumer of `pg_shared_lru` as pgvectorscale's index build is one.
//!
//! ```text
//! vectors      what the graph is over                    ─┐ also of the program that measures (main.rs)
//! search       greedy search                              │
//! request      what is asked, counted and answered       ─┘
//! neighbor     a builder's neighbour, as pgvectorscale has it
//! pages        node records in a relation
//! graph        insertion and pruning; the ledger of edges
//! records      what a cache loads and spills
//! counted_lru  the cache to compare with
//! private      lists in a cache of one process
//! shared       lists in one cache for all workers
//! worker       one process's part of a build
//! parallel     the processes
//! ```
//!
//! Two C functions, made known by `CREATE FUNCTION … LANGUAGE c`; nothing has to be installed:
//!
//! - `graph_build(request text) returns text`: builds, see [`request`].
//! - `graph_edges(relation oid, nodes int) returns bytea`: the finished graph; for each node a count and as many
//!   numbers of neighbours, all u32 in the machine's byte order.
#![deny(unsafe_code)]

mod counted_lru;
mod graph;
mod neighbor;
mod pages;
mod parallel;
mod private;
mod records;
mod request;
mod search;
mod shared;
mod vectors;
mod worker;

use std::path::Path;
use std::time::Instant;

use pgrx::{FromDatum, IntoDatum, pg_guard, pg_sys};

use crate::graph::edge_hash;
use crate::pages::{Pages, number_of, pointer_of};
use crate::request::{Mode, Report, Request};
use crate::vectors::Vectors;

::pgrx::pg_module_magic!(name, version);

/// Makes a C function known to PostgreSQL.
macro_rules! sql_function {
    ($info:ident, $name:ident, $call:path) => {
        #[unsafe(no_mangle)]
        #[allow(unsafe_code)]
        #[doc(hidden)]
        pub extern "C" fn $info() -> &'static pg_sys::Pg_finfo_record {
            const VERSION_1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
            &VERSION_1
        }

        #[unsafe(no_mangle)]
        #[allow(unsafe_code)]
        #[pg_guard]
        #[doc(hidden)]
        pub unsafe extern "C-unwind" fn $name(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
            $call(call)
        }
    };
}

sql_function!(pg_finfo_graph_build, graph_build, call_build);
sql_function!(pg_finfo_graph_edges, graph_edges, call_edges);

fn call_build(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    let request: Request = match serde_json::from_str(&argument::<String>(call, 0)) {
        Ok(request) => request,
        Err(error) => pgrx::error!("the request is not understood: {error}"),
    };
    let report = build(&request);
    serde_json::to_string(&report).expect("a report is plain data").into_datum().expect("not null")
}

fn call_edges(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    let pages = Pages::open(argument::<pg_sys::Oid>(call, 0).into());
    let nodes = u32::try_from(argument::<i32>(call, 1)).unwrap_or(0);
    let mut edges: Vec<u32> = Vec::new();
    let mut pointers = Vec::new();
    for node in 0..nodes {
        pages.read(pointer_of(node), &mut pointers);
        edges.push(pointers.len() as u32);
        edges.extend(pointers.iter().map(|&pointer| number_of(pointer)));
    }
    bytemuck::cast_slice::<u32, u8>(&edges).into_datum().expect("not null")
}

#[allow(unsafe_code)]
fn argument<T: FromDatum>(call: pg_sys::FunctionCallInfo, place: usize) -> T {
    // SAFETY: PostgreSQL calls with the arguments of the SQL declaration, which is strict: there are no nulls.
    unsafe { pgrx::fcinfo::pg_getarg(call, place) }.expect("a strict function's argument")
}

/// Builds a graph and checks that no edge was lost.
fn build(request: &Request) -> Report {
    if request.mode.is_parallel() != (request.workers > 0) || request.workers as usize > parallel::MAX_WORKERS {
        pgrx::error!("{} workers in mode {}", request.workers, request.mode.name());
    }
    let pages = Pages::open(request.relation);
    pages.create_records(request.nodes);
    let start = Instant::now();
    let counters = parallel::run(request);
    let seconds = start.elapsed().as_secs_f64();

    let (mut edges, mut edge_sum) = (0, 0u64);
    let mut neighbors = Vec::new();
    for node in (0..request.nodes).map(pointer_of) {
        pages.read(node, &mut neighbors);
        edges += neighbors.len() as i64;
        edge_sum = neighbors.iter().fold(edge_sum, |sum, &neighbor| sum.wrapping_add(edge_hash(node, neighbor)));
    }
    if request.mode == Mode::Private {
        let lost_edges = counters.edges_overwritten as i64;
        return Report { seconds, counters, lost_edges, edge_sum_matches: true };
    }
    let lost_edges = counters.edges_added as i64 - counters.edges_pruned as i64 - edges;
    Report { seconds, counters, lost_edges, edge_sum_matches: edge_sum == counters.edge_sum }
}

fn open_vectors(request: &Request) -> Vectors {
    let vectors = Vectors::open(Path::new(&request.vectors));
    let vectors = vectors.unwrap_or_else(|error| pgrx::error!("{}: {error}", request.vectors));
    if vectors.all().len() < request.nodes as usize {
        pgrx::error!("{} has {} vectors of {} asked for", request.vectors, vectors.all().len(), request.nodes);
    }
    vectors
}

#[allow(unsafe_code)]
fn sleep(microseconds: i64) {
    // SAFETY: a plain call; a signal ends it early.
    unsafe { pg_sys::pg_usleep(microseconds) };
}
