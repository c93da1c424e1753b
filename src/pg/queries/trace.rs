//! Whether functions run queries of their own while a result is made: then what it depends on is not known.
//!
//! Every query of SQL, of every language, starts the executor. A hook counts those that have relations, from before the
//! planning of a result on, for PostgreSQL runs IMMUTABLE functions then. One without, such as the body of a function that
//! only computes, depends on nothing more: functions in it are taken at their word as well. Where functions are trusted, the plans
//! are looked at (`watch`).
//!
//! Not here: functions in C that read tables by themselves, and are declared IMMUTABLE all the same.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ffi::c_int;

use pgrx::{pg_guard, pg_sys};

use super::lists::oids;
use super::{scan, watch};
use crate::pg::hooks::Previous;

static PREVIOUS: Previous<pg_sys::ExecutorStart_hook_type> = Previous::new();

thread_local! {
    /// Starts of the executor for plans with relations, and queries that needed none, since the process began.
    static STARTS: Cell<u64> = const { Cell::new(0) };
    /// A relation of the plan that was started last.
    static LAST_RELATION: Cell<pg_sys::Oid> = const { Cell::new(pg_sys::InvalidOid) };
    /// The plan that was started last, whether it has relations or not, and what was counted with it.
    static LAST_START: Cell<(*const pg_sys::PlannedStmt, u64)> = const { Cell::new((std::ptr::null(), 0)) };
}

/// From now on starts are counted. Once per library.
pub(in crate::pg) fn install() {
    // SAFETY: the process's only thread; the one installed before is called by ours.
    unsafe { PREVIOUS.install(&raw mut pg_sys::ExecutorStart_hook, Some(on_start)) };
    watch::install();
}

/// Whether a plan has relations, and so is counted when it starts.
///
/// # Safety
///
/// - It is a plan.
pub(super) unsafe fn is_counted(plan: *const pg_sys::PlannedStmt) -> bool {
    // SAFETY: as the caller says.
    unsafe { !(*plan).relationOids.is_null() || (*plan).commandType != pg_sys::CmdType::CMD_SELECT }
}

/// A relation of the plan that was counted last.
pub(super) fn last_relation() -> Option<pg_sys::Oid> {
    Some(LAST_RELATION.get()).filter(|relation| *relation != pg_sys::InvalidOid)
}

/// Counts a query whose kept result is served in its place: who makes a result meanwhile depends on what that depends on.
pub(super) fn count_kept() {
    STARTS.set(STARTS.get() + 1);
    LAST_RELATION.set(pg_sys::InvalidOid);
}

/// Counted starts of the executor so far.
pub(super) fn starts() -> u64 {
    STARTS.get()
}

/// Whether this plan was started last, and nothing was counted since.
pub(super) fn is_first_since_start(plan: *const pg_sys::PlannedStmt) -> bool {
    LAST_START.get() == (plan, STARTS.get())
}

#[pg_guard]
unsafe extern "C-unwind" fn on_start(query: *mut pg_sys::QueryDesc, flags: c_int) {
    // SAFETY: what PostgreSQL is going to run has a plan, with a list of OIDs.
    unsafe {
        if is_counted((*query).plannedstmt) {
            STARTS.set(STARTS.get() + 1);
            LAST_RELATION.set(oids((*(*query).plannedstmt).relationOids).next().unwrap_or(pg_sys::InvalidOid));
            watch::look_at_start(query);
        }
        LAST_START.set(((*query).plannedstmt, STARTS.get()));
    }
    let starts = starts();
    // SAFETY: called as PostgreSQL would call it.
    unsafe {
        match PREVIOUS.get() {
            Some(hook) => pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| hook(query, flags)),
            None => pg_sys::standard_ExecutorStart(query, flags),
        }
    }
    if STARTS.get() != starts {
        // SAFETY: the query has started.
        unsafe { scan::give_up_at_start((*query).planstate) };
    }
}
