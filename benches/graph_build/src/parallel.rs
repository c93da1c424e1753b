//! The processes of a build: this backend alone, or parallel workers, for which it waits without taking part.
//!
//! What they share lies in the parallel context's segment of shared memory: the request, the board, for each worker a
//! place for what it counted, and the cache of mode `shared`. The leader reports how far they are where PostgreSQL's
//! index builds do, in `pg_stat_progress_create_index`, and at the end sees that the workers have written all that the
//! shared cache held.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::ffi::{CString, c_void};
use std::sync::atomic::{AtomicU32, Ordering};

use pg_shared_lru::pg::dsm_locks::DsmLocks;
use pg_shared_lru::pg::parallel;
use pgrx::{pg_guard, pg_sys};

use crate::request::{Counters, Mode, Request};
use crate::shared::{self, Cache};
use crate::worker::{Board, Part};

/// The most workers of one build.
pub const MAX_WORKERS: usize = 16;

const KEY_REQUEST: u64 = 1;
const KEY_SHARED: u64 = 2;
const KEY_CACHE: u64 = 3;

/// Places of numbers in `pg_stat_progress_create_index`.
const PROGRESS_TUPLES_TOTAL: i32 = 11;
const PROGRESS_TUPLES_DONE: i32 = 12;
/// How long the leader sleeps before it looks at the board again.
const PAUSE_MICROSECONDS: i64 = 20_000;

/// What lies in shared memory beside the request.
#[repr(C)]
struct Shared {
    board: Board,
    finished: AtomicU32,
    counted: [UnsafeCell<Counters>; MAX_WORKERS],
}

/// Runs a build's processes to their end and adds up what they counted.
pub fn run(request: &Request) -> Counters {
    start_progress(request);
    let counters = match request.workers {
        0 => {
            let mut tick = |board: &Board| {
                pgrx::check_for_interrupts!();
                report_progress(board);
            };
            Part { request, board: &Board::default(), worker: 0, cache: None, tick: &mut tick }.run()
        }
        // SAFETY: this backend is in a transaction and not in parallel mode: an SQL function that is not parallel-safe.
        _ => unsafe { run_workers(request) },
    };
    // SAFETY: a plain call.
    unsafe { pg_sys::pgstat_progress_end_command() };
    counters
}

/// Builds with workers, this backend leading.
///
/// # Safety
///
/// - This backend is in a transaction, and not in parallel mode.
unsafe fn run_workers(request: &Request) -> Counters {
    let json = serde_json::to_string(request).expect("a request is plain data");
    let library = CString::new(request.library.as_str()).expect("a path without NUL");
    // SAFETY: in a transaction (caller); the names live until the calls return, the context until it is destroyed below.
    let context = unsafe {
        pg_sys::EnterParallelMode();
        pg_sys::CreateParallelContext(library.as_ptr(), c"graph_build_worker".as_ptr(), request.workers as i32)
    };
    // SAFETY: a context that was just created, of which nothing is allocated yet.
    let planned = (request.mode == Mode::Shared).then(|| unsafe {
        parallel::estimate(context, &shared::config(request)).unwrap_or_else(|error| pgrx::error!("{error}"))
    });
    // SAFETY: as above; what is estimated is all that is allocated below.
    let toc = unsafe {
        for bytes in [json.len() + 1, size_of::<Shared>()] {
            (*context).estimator.space_for_chunks += bytes.next_multiple_of(pg_sys::ALIGNOF_BUFFER as usize);
            (*context).estimator.number_of_keys += 1;
        }
        parallel::initialize_dsm(context).unwrap_or_else(|error| pgrx::error!("{error}"));
        (*context).toc
    };
    // SAFETY: each chunk is as long as what is written to it, aligned as PostgreSQL aligns buffers, and nobody else's until
    // the workers are launched.
    let shared = unsafe {
        let place = pg_sys::shm_toc_allocate(toc, json.len() + 1).cast::<u8>();
        place.copy_from_nonoverlapping(json.as_ptr(), json.len());
        place.add(json.len()).write(0);
        pg_sys::shm_toc_insert(toc, KEY_REQUEST, place.cast());
        let shared = pg_sys::shm_toc_allocate(toc, size_of::<Shared>()).cast::<Shared>();
        let counted = std::array::from_fn(|_| UnsafeCell::default());
        shared.write(Shared { board: Board::default(), finished: AtomicU32::new(0), counted });
        pg_sys::shm_toc_insert(toc, KEY_SHARED, shared.cast());
        &*shared
    };
    // SAFETY: planned in this context, whose memory is there; the handle is dropped before the context is destroyed.
    let cache = planned.map(|planned| unsafe { planned.create(context, KEY_CACHE, Cache::<DsmLocks>::type_tag()) });
    let cache = cache.map(|cache| Cache::over(cache.unwrap_or_else(|error| error.report())).expect("its own tag"));

    // SAFETY: all that the workers look up is in place.
    let launched = unsafe {
        pg_sys::LaunchParallelWorkers(context);
        (*context).nworkers_launched as u32
    };
    if launched != request.workers {
        pgrx::error!("{launched} of {} workers were launched; raise max_parallel_workers", request.workers);
    }
    // An error in a worker comes in as an interrupt, and ends this wait.
    while shared.finished.load(Ordering::Acquire) < launched {
        pgrx::check_for_interrupts!();
        report_progress(&shared.board);
        crate::sleep(PAUSE_MICROSECONDS);
    }
    // SAFETY: our own context.
    unsafe { pg_sys::WaitForParallelWorkersToFinish(context) };
    let mut sum = Counters::default();
    for counted in &shared.counted[..launched as usize] {
        // SAFETY: the worker whose place this is has finished.
        add(&mut sum, unsafe { &*counted.get() });
    }
    if let Some(cache) = cache {
        shared::check_empty(&cache);
    }
    // SAFETY: nothing refers to the context's memory any more.
    unsafe {
        pg_sys::DestroyParallelContext(context);
        pg_sys::ExitParallelMode();
    }
    sum
}

/// Adds what another process counted.
fn add(sum: &mut Counters, other: &Counters) {
    let sums: &mut [u64] = bytemuck::cast_slice_mut(std::slice::from_mut(sum));
    let others: &[u64] = bytemuck::cast_slice(std::slice::from_ref(other));
    for (sum, other) in sums.iter_mut().zip(others) {
        *sum = sum.wrapping_add(*other);
    }
}

/// Where a parallel worker begins.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn graph_build_worker(segment: *mut pg_sys::dsm_segment, toc: *mut pg_sys::shm_toc) {
    // SAFETY: the leader has put both there before it launched us, and waits until we are done.
    let (request, shared) = unsafe {
        let request: *mut c_void = pg_sys::shm_toc_lookup(toc, KEY_REQUEST, false);
        let shared = pg_sys::shm_toc_lookup(toc, KEY_SHARED, false).cast::<Shared>();
        (std::ffi::CStr::from_ptr(request.cast()), &*shared)
    };
    let request: Request = serde_json::from_slice(request.to_bytes()).expect("a request as the leader wrote it");
    // SAFETY: a plain variable of this process.
    let worker = unsafe { pg_sys::ParallelWorkerNumber } as u32;
    // SAFETY: what this worker was called with; the handle is dropped before it returns.
    let cache = (request.mode == Mode::Shared)
        .then(|| unsafe { parallel::attach(segment, toc, KEY_CACHE, Cache::<DsmLocks>::type_tag()) })
        .map(|cache| cache.unwrap_or_else(|error| error.report()));
    let mut tick = |_: &Board| {
        pgrx::check_for_interrupts!();
    };
    let counters = Part { request: &request, board: &shared.board, worker, cache, tick: &mut tick }.run();
    // SAFETY: this worker's own place; the leader reads it once we have finished.
    unsafe { *shared.counted[worker as usize].get() = counters };
    shared.finished.fetch_add(1, Ordering::Release);
}

fn start_progress(request: &Request) {
    // SAFETY: plain calls that write to this backend's entry of the statistics.
    unsafe {
        let command = pg_sys::ProgressCommandType::PROGRESS_COMMAND_CREATE_INDEX;
        pg_sys::pgstat_progress_start_command(command, request.relation.into());
        pg_sys::pgstat_progress_update_param(PROGRESS_TUPLES_TOTAL, request.nodes.into());
    }
}

fn report_progress(board: &Board) {
    // SAFETY: as above.
    unsafe { pg_sys::pgstat_progress_update_param(PROGRESS_TUPLES_DONE, board.inserted().into()) };
}
