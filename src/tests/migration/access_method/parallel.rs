//! What pgvectorscale has in `access_method::build`, in the leader and in the workers of a parallel build. Compiled, not run:
//! it needs PostgreSQL.
#![allow(unsafe_code, unsafe_op_in_unsafe_fn, dead_code)]

use std::sync::atomic::{AtomicUsize, Ordering};

use ::pgrx::pg_sys;
use pg_shared_lru::Config;
use pg_shared_lru::pg::parallel as shared_cache;

use crate::access_method::graph::neighbor_store::Neighbors;
use crate::pgrx;
use crate::util::or_report;

/// Of it what matters. As `ParallelBuildInfo`, which gets a field for the cache.
#[derive(Debug)]
struct ParallelBuildInfo {
    neighbors: Neighbors,
}

#[derive(Debug)]
struct ParallelBuildState {
    initialization_cv: pg_sys::ConditionVariable,
    workers_launched: AtomicUsize,
    inserters_done: AtomicUsize,
}

#[derive(Debug)]
pub struct ParallelShared {
    build_state: ParallelBuildState,
}

// From here on as in the guide.

pub const SHM_TOC_NEIGHBORS_KEY: u64 = 0xD000000000000003;

/// In the leader, in place of `InitializeParallelDSM`: the cache, or none where the build has to go on without workers.
pub unsafe fn initialize_dsm(pcxt: *mut pg_sys::ParallelContext, config: &Config) -> Option<Neighbors> {
    let planned = or_report(shared_cache::estimate(pcxt, config));
    if let Err(refused) = shared_cache::initialize_dsm(pcxt) {
        pgrx::warning!("building without workers: {refused}");
        return None;
    }
    if (*pcxt).seg.is_null() {
        return None;
    }
    let cache = or_report(planned.create(pcxt, SHM_TOC_NEIGHBORS_KEY, Neighbors::type_tag()));
    Some(or_report(Neighbors::over(cache)))
}

/// In the leader, after `LaunchParallelWorkers`.
pub unsafe fn note_launched(pcxt: *mut pg_sys::ParallelContext, shared: *mut ParallelShared) {
    let build_state = &raw mut (*shared).build_state;
    (*build_state).workers_launched.store((*pcxt).nworkers_launched as usize, Ordering::SeqCst);
    pg_sys::ConditionVariableBroadcast(&raw mut (*build_state).initialization_cv);
}

/// In a worker, which gives it to `SharedNeighborCache::new`.
pub unsafe fn attach_neighbors(seg: *mut pg_sys::dsm_segment, shm_toc: *mut pg_sys::shm_toc) -> Neighbors {
    let cache = or_report(shared_cache::attach(seg, shm_toc, SHM_TOC_NEIGHBORS_KEY, Neighbors::type_tag()));
    or_report(Neighbors::over(cache))
}

/// In a worker, between `into_build_state`, whose signals others wait for, and the drain: until all have inserted their
/// nodes.
pub unsafe fn wait_for_inserters(shared: *mut ParallelShared) {
    let build_state = &raw mut (*shared).build_state;
    let cv = &raw mut (*build_state).initialization_cv;
    (*build_state).inserters_done.fetch_add(1, Ordering::SeqCst);
    pg_sys::ConditionVariableBroadcast(cv);
    loop {
        let launched = (*build_state).workers_launched.load(Ordering::SeqCst);
        if launched > 0 && (*build_state).inserters_done.load(Ordering::SeqCst) >= launched {
            break;
        }
        pg_sys::ConditionVariableSleep(cv, pg_sys::PG_WAIT_EXTENSION);
    }
    pg_sys::ConditionVariableCancelSleep();
}

/// In the leader, after `WaitForParallelWorkersToFinish`: the workers have finalized every node, and lost none.
pub fn check_finalized(neighbors: Neighbors) {
    or_report(neighbors.drain_sorted(|node, _, _| Err(format!("node {node:?} was not finalized"))));
}
