//! The background worker of the server's caches: removes what has expired, moves entries together, frees what dropped
//! databases have left, and takes samples. It also turns the publications of writers on and off. Nothing is wrong without it;
//! memory is held for longer, nobody knows what was, and no query is cached.
//!
//! One for each area. Where the server preloads the library, PostgreSQL starts it with the server and again whenever it
//! ends; elsewhere the backend that makes a cache starts it, if there is none. It has no database, so that it keeps nobody
//! from dropping one, and works on a standby too.
//!
//! Locking: as everybody who uses a cache; bounded steps, with a look for interrupts between two.
#![allow(unsafe_code)]

use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pgrx::bgworkers::{BackgroundWorker, BackgroundWorkerBuilder, BgWorkerStartTime, SignalWakeFlags};
use pgrx::{pg_guard, pg_sys};

use super::area::{self, Area};
use super::catalog::{Catalog, Listing};
use super::error::CacheError;
use super::writers::{Opening, Tended};
use super::{definitions, handles, images, settings};
use crate::engine::compaction::CompactBudget;

const NAME: &str = "pg_shared_lru worker";
/// After it has ended it is started again so late.
const RESTART: Duration = Duration::from_secs(10);
/// Entries that are looked at, and bytes that are moved, between two looks for interrupts.
const SWEEP_STEP: u64 = 10_000;
const COMPACT_STEP_BYTES: u64 = 256 << 10;
/// How long it works on one cache before the next has its turn.
const TURN: Duration = Duration::from_millis(200);
/// How long it sleeps where it is switched off, to see whether it is on again.
const OFF: Duration = Duration::from_secs(60);
/// How long it sleeps while it waits for transactions to end.
const SOON: Duration = Duration::from_millis(20);

fn builder() -> BackgroundWorkerBuilder {
    BackgroundWorkerBuilder::new(NAME)
        .set_type(NAME)
        .set_library("pg_shared_lru")
        .set_function("pg_shared_lru_worker")
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::ConsistentState)
}

/// Has PostgreSQL start it: while the postmaster loads its libraries.
pub(super) fn register() {
    builder().set_restart_time(Some(RESTART)).load();
}

/// Starts it, unless PostgreSQL does, or it runs or is to be started. Where there are no processes to be had, the next cache tries again.
pub(super) fn start_if_missing(area: Area) {
    if area::is_preloaded() {
        return;
    }
    let worker = area.words().worker.atomic();
    let current = worker.load(Ordering::Relaxed);
    // Whoever starts it leaves its own number until the worker has come.
    // SAFETY: reads this process's number.
    let me = unsafe { pg_sys::MyProcPid } as u32;
    if is_alive(current) || worker.compare_exchange(current, me, Ordering::Relaxed, Ordering::Relaxed).is_err() {
        return;
    }
    if builder().set_restart_time(None).load_dynamic().is_err() {
        worker.store(0, Ordering::Relaxed);
        pgrx::debug1!("no background process is free for pg_shared_lru: see max_worker_processes");
    }
}

fn is_alive(process: u32) -> bool {
    // SAFETY: sends nothing.
    process != 0 && unsafe { libc::kill(process as i32, 0) } == 0
}

#[pg_guard]
#[unsafe(no_mangle)]
extern "C-unwind" fn pg_shared_lru_worker(_argument: pg_sys::Datum) {
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP | SignalWakeFlags::SIGTERM);
    BackgroundWorker::connect_worker_to_spi(None, None);
    let Ok(Some(area)) = Area::existing() else { return };
    let word = area.words().worker.atomic();
    // SAFETY: reads this process's number; the callback has the right type.
    let me = unsafe {
        pg_sys::before_shmem_exit(Some(leave), pg_sys::Datum::from(0));
        pg_sys::MyProcPid
    };
    word.store(me as u32, Ordering::Relaxed);
    let mut opening = Opening::default();
    let mut last_round = Instant::now();
    loop {
        let nap = settings::naptime();
        let wait = match BackgroundWorker::transaction(AssertUnwindSafe(|| opening.tend(area))) {
            Tended::Waits => SOON,
            Tended::Done => nap.unwrap_or(OFF),
        };
        if !BackgroundWorker::wait_latch(Some(wait)) {
            // Asked to end. With a 0 PostgreSQL would not start it again.
            // SAFETY: nothing is held.
            unsafe { pg_sys::proc_exit(1) };
        }
        if BackgroundWorker::sighup_received() {
            // SAFETY: at a moment when nothing depends on settings.
            unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) };
        }
        if word.load(Ordering::Relaxed) != me as u32 {
            // There is another one.
            return;
        }
        // Not more often because of what it waits for.
        if let Some(nap) = nap.filter(|nap| last_round.elapsed() >= *nap) {
            work(nap);
            last_round = Instant::now();
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn leave(_code: i32, _argument: pg_sys::Datum) {
    // SAFETY: reads this process's number.
    let me = unsafe { pg_sys::MyProcPid } as u32;
    if let Ok(Some(area)) = Area::existing() {
        let _ = area.words().worker.atomic().compare_exchange(me, 0, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// One round through all caches; the next comes after a nap.
fn work(nap: Duration) {
    let Some(catalog) = Catalog::mapped() else { return };
    BackgroundWorker::transaction(|| {
        catalog.drop_orphans(|cache| !database_exists(cache.database));
        images::remove_where(|database, _| !database_exists(database));
    });
    for cache in catalog.list() {
        // Dropped meanwhile, made anew or damaged: its next user will see.
        let _ = definitions::unless_dropped(|| tend(catalog, &cache, nap));
    }
}

fn database_exists(database: u32) -> bool {
    // SAFETY: a lookup in a catalog that all databases share, inside of a transaction.
    unsafe { !pg_sys::get_database_name(pg_sys::Oid::from(database)).is_null() }
}

/// Takes a sample of a cache if it is time, sweeps it and moves its entries together, for so long at most.
fn tend(catalog: Catalog, listing: &Listing, nap: Duration) {
    let cache = match handles::of_listing(catalog, listing.clone()) {
        Ok(cache) => cache,
        Err(CacheError::Dropped) => return,
        Err(error) => {
            pgrx::log!("cache \"{}\": {error}", listing.name);
            return;
        }
    };
    // To the round that is nearest.
    let age = settings::sample_interval().saturating_sub(nap / 2);
    if catalog.sample(listing.tenant(), &cache, age).is_err() {
        return;
    }
    let end = Instant::now() + TURN;
    while !cache.sweep(SWEEP_STEP).is_round_complete && Instant::now() < end {
        pgrx::check_for_interrupts!();
    }
    while cache.compact(CompactBudget::bytes(COMPACT_STEP_BYTES)).slabs_released > 0 && Instant::now() < end {
        pgrx::check_for_interrupts!();
    }
}
