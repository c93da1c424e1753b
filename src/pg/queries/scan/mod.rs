//! The node of a plan that serves or makes a marked statement's result: `Custom Scan (Shared LRU)`, on top of the plan that
//! the statement has anyway.
//!
//! ```text
//! mod      how the node is put on a plan, and what PostgreSQL calls while it runs
//! lookup   what it does when it begins: whether there is a result, and whether one is to be made
//! kept     rows of a result that is kept
//! below    rows of the plan below, which pass through and are collected
//! flight   what comes before the first row where others may wait for it: reading ahead
//! explain  what is said of the node and of its statement
//! slots    rows between slots
//! ```
//!
//! When it starts it looks for the result in the snapshot of its statement. What it finds it serves from a copy, and the plan
//! below is not even started. Else rows pass through, as they come, and a copy of each is collected, up to the cache's limit;
//! when there are no more, the result is stored. It is not if the reader stops before (LIMIT of a cursor), goes back, or if
//! anything is unclear; whatever happens, rows pass.
//!
//! The node has the columns that the statement returns, without those that the plan needs for itself. Below it is its *outer*
//! plan, so that EXPLAIN can name the columns. It goes backwards if the plan below can.
//!
//! Memory: everything that is Rust's is dropped with the query's memory context, also after an ERROR.
//!
//! Locking: none here; `flight` takes a lock of PostgreSQL's, and has given it back when a callback returns.
//!
//! Not here: which statements are marked, and what their plans know (`marks`, `statement`).
#![allow(unsafe_code)]

mod below;
mod explain;
mod flight;
mod kept;
mod lookup;
mod slots;

use std::ffi::c_int;

use pgrx::{PgMemoryContexts, pg_guard, pg_sys};

use self::below::{Below, Outcome, looking, pass};
use self::explain::explain;
use self::flight::{end_ahead, fly};
use self::kept::Kept;
use self::lookup::look_up;
use self::slots::{clear, show};
use super::found::count_miss;
use super::lists::pointers;
use super::refusal::Refusal;
use super::statement::Marked;
use super::trace;
use crate::pg::refusals::Reason;

/// A table of functions for PostgreSQL.
struct Methods<T>(T);

// SAFETY: never changed; what it points to is static.
unsafe impl<T> Sync for Methods<T> {}

static SCAN: Methods<pg_sys::CustomScanMethods> =
    Methods(pg_sys::CustomScanMethods { CustomName: c"Shared LRU".as_ptr(), CreateCustomScanState: Some(create) });

static EXEC: Methods<pg_sys::CustomExecMethods> = Methods(pg_sys::CustomExecMethods {
    CustomName: c"Shared LRU".as_ptr(),
    BeginCustomScan: Some(begin),
    ExecCustomScan: Some(next),
    EndCustomScan: Some(end),
    ReScanCustomScan: Some(again),
    MarkPosCustomScan: None,
    RestrPosCustomScan: None,
    EstimateDSMCustomScan: None,
    InitializeDSMCustomScan: None,
    ReInitializeDSMCustomScan: None,
    InitializeWorkerCustomScan: None,
    ShutdownCustomScan: None,
    ExplainCustomScan: Some(explain),
});

/// Makes the node known by its name. Once per process.
pub(super) fn register() {
    // SAFETY: static; called while libraries are loaded.
    unsafe { pg_sys::RegisterCustomScanMethods(&raw const SCAN.0) };
}

/// Puts the node on top of a plan.
///
/// # Safety
///
/// - It is a finished plan of a SELECT, which nobody else has yet.
pub(super) unsafe fn put_on_top(statement: *mut pg_sys::PlannedStmt, marked: &Marked) {
    // SAFETY: as the caller says; nodes are made in the current memory context, where the plan is.
    unsafe {
        let below = (*statement).planTree;
        let scan = pg_sys::palloc0(size_of::<pg_sys::CustomScan>()).cast::<pg_sys::CustomScan>();
        let plan = &raw mut (*scan).scan.plan;
        (*plan).type_ = pg_sys::NodeTag::T_CustomScan;
        (*plan).startup_cost = (*below).startup_cost;
        (*plan).total_cost = (*below).total_cost;
        (*plan).plan_rows = (*below).plan_rows;
        (*plan).plan_width = (*below).plan_width;
        // Others count from 0 on.
        (*plan).plan_node_id = c_int::MAX;
        (*plan).extParam = pg_sys::bms_copy((*below).extParam);
        (*plan).allParam = pg_sys::bms_copy((*below).allParam);
        (*plan).lefttree = below;
        let mut columns = std::ptr::null_mut();
        for (index, entry) in shown_columns(below).enumerate() {
            let number = (index + 1) as pg_sys::AttrNumber;
            let expression = (*entry).expr.cast::<pg_sys::Node>();
            let column = |of, place| {
                let (kind, modifier) = (pg_sys::exprType(expression), pg_sys::exprTypmod(expression));
                pg_sys::makeVar(of, place, kind, modifier, pg_sys::exprCollation(expression), 0)
            };
            let from = column(pg_sys::OUTER_VAR as _, (*entry).resno);
            let from = pg_sys::makeTargetEntry(from.cast(), number, (*entry).resname, false);
            (*scan).custom_scan_tlist = pg_sys::lappend((*scan).custom_scan_tlist, from.cast());
            let to = pg_sys::flatCopyTargetEntry(entry);
            (*to).expr = column(pg_sys::INDEX_VAR as _, number).cast();
            (*to).resno = number;
            columns = pg_sys::lappend(columns, to.cast());
        }
        (*plan).targetlist = columns;
        if pg_sys::ExecSupportsBackwardScan(below) {
            (*scan).flags = pg_sys::CUSTOMPATH_SUPPORT_BACKWARD_SCAN;
        }
        (*scan).custom_private = marked.to_list();
        (*scan).methods = &raw const SCAN.0;
        (*statement).planTree = scan.cast();
    }
}

/// The columns of a plan that its statement returns.
///
/// # Safety
///
/// - It is a plan, which outlives the iterator.
unsafe fn shown_columns(plan: *mut pg_sys::Plan) -> impl Iterator<Item = *mut pg_sys::TargetEntry> {
    // SAFETY: as the caller says: a list of such entries.
    unsafe { pointers::<pg_sys::TargetEntry>((*plan).targetlist).filter(|entry| !(**entry).resjunk) }
}

/// The node as it runs. PostgreSQL knows its first member.
#[repr(C)]
struct Node {
    custom: pg_sys::CustomScanState,
    /// There, once it has begun.
    running: *mut Running,
}

/// What runs.
struct Running {
    marked: Option<Marked>,
    source: Source,
    /// Which columns of the plan below are ours, from 0 on.
    shown: Vec<usize>,
    /// Whether others may wait for the first row.
    may_fly: bool,
    /// Whether no row was asked for.
    is_untouched: bool,
}

/// Where rows come from.
enum Source {
    Kept(Kept),
    Below(Below),
}

#[pg_guard]
unsafe extern "C-unwind" fn create(_scan: *mut pg_sys::CustomScan) -> *mut pg_sys::Node {
    // SAFETY: a node of ours in the current memory context, all zeros but for what says so.
    unsafe {
        let node = pg_sys::palloc0(size_of::<Node>()).cast::<Node>();
        (*node).custom.ss.ps.type_ = pg_sys::NodeTag::T_CustomScanState;
        (*node).custom.methods = &raw const EXEC.0;
        node.cast()
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn begin(node: *mut pg_sys::CustomScanState, estate: *mut pg_sys::EState, flags: c_int) {
    // SAFETY: a node that `create` made, whose plan `put_on_top` made; the query's memory context is current and outlives it.
    unsafe {
        let scan = (*node).ss.ps.plan.cast::<pg_sys::CustomScan>();
        let below = (*scan).scan.plan.lefttree;
        let marked = Marked::from_list((*scan).custom_private);
        let shown = shown_columns(below).map(|entry| (*entry).resno as usize - 1).collect();
        // PostgreSQL begins subqueries before the node, and from version 18 on leaves out all partitions before it: then nobody has
        // looked at what functions read for that, not even where they are trusted.
        let is_first = trace::is_first_since_start((*estate).es_plannedstmt);
        let mut source = match &marked {
            Some(marked) if flags & pg_sys::EXEC_FLAG_EXPLAIN_ONLY as c_int == 0 => look_up(marked, node, estate)
                .unwrap_or_else(|refusal| Below::passing(Outcome::refused(&marked.cache, &refusal))),
            _ => Below::passing(Outcome::Unfinished),
        };
        if let Source::Below(rows) = &mut source {
            if !is_first {
                rows.give_up_for_functions();
            }
            // Which asks functions what is to be left out.
            (*node).ss.ps.lefttree = looking(rows, || pg_sys::ExecInitNode(below, estate, flags));
        }
        let goes_back = flags & (pg_sys::EXEC_FLAG_REWIND | pg_sys::EXEC_FLAG_BACKWARD) as c_int != 0;
        let may_fly = !goes_back && (*below).startup_cost * 2.0 >= (*below).total_cost;
        let mut context = PgMemoryContexts::For((*estate).es_query_cxt);
        (*node.cast::<Node>()).running =
            context.leak_and_drop_on_delete(Running { marked, source, shown, may_fly, is_untouched: true });
    }
}

/// The result of a marked statement is not kept in which functions have run queries before its first row was asked for: when a plan
/// starts, PostgreSQL chooses partitions, partly before the node is there.
///
/// # Safety
///
/// - What runs of a query that has started, or null.
pub(super) unsafe fn give_up_at_start(top: *mut pg_sys::PlanState) {
    // SAFETY: as the caller says. A node of ours has begun.
    unsafe {
        if top.is_null() || (*top).type_ != pg_sys::NodeTag::T_CustomScanState {
            return;
        }
        let node = top.cast::<Node>();
        if std::ptr::eq((*node).custom.methods, &raw const EXEC.0)
            && let Some(Running { source: Source::Below(below), .. }) = (*node).running.as_mut()
        {
            let text = "a function in it runs queries while partitions are chosen";
            below.give_up(|| Refusal::new(Reason::RunsQueries, text));
        }
    }
}

/// Runs `work` while this snapshot is the active one.
///
/// # Safety
///
/// - It is registered.
unsafe fn with_snapshot<R>(snapshot: pg_sys::Snapshot, work: impl FnOnce() -> R) -> R {
    // SAFETY: as the caller says. An ERROR in between takes it away with all others.
    unsafe {
        pg_sys::PushActiveSnapshot(snapshot);
        let result = work();
        pg_sys::PopActiveSnapshot();
        result
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn next(node: *mut pg_sys::CustomScanState) -> *mut pg_sys::TupleTableSlot {
    // SAFETY: a node of ours that has begun; its slot has the columns that are shown.
    unsafe {
        let running = &mut *(*node.cast::<Node>()).running;
        let to = (*node).ss.ss_ScanTupleSlot;
        if std::mem::take(&mut running.is_untouched) {
            if running.may_fly {
                fly(running, node);
            }
            if let (Source::Below(Below { was_looked_for: true, .. }), Some(marked)) =
                (&running.source, &running.marked)
            {
                // Not if the cache is gone meanwhile.
                _ = count_miss(&marked.cache);
            }
        }
        clear(to);
        let from = match &mut running.source {
            Source::Kept(kept) => {
                pgrx::check_for_interrupts!();
                let Some(row) = kept.go((*(*node).ss.ps.state).es_direction) else { return to };
                pg_sys::ExecStoreMinimalTuple(row, kept.slot, false)
            }
            Source::Below(below) => {
                let Some(ahead) = &below.ahead else {
                    pass(below, &running.shown, node);
                    return to;
                };
                if pg_sys::tuplestore_gettupleslot(ahead.store, true, false, ahead.slot) {
                    ahead.slot
                } else if ahead.has_all {
                    return to;
                } else {
                    end_ahead(below);
                    pass(below, &running.shown, node);
                    return to;
                }
            }
        };
        show(to, from, 0..running.shown.len());
        to
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn end(node: *mut pg_sys::CustomScanState) {
    // SAFETY: a node of ours; what is below was begun if it is there.
    unsafe {
        if let Some(Source::Below(below)) = (*node.cast::<Node>()).running.as_mut().map(|running| &mut running.source) {
            end_ahead(below);
            below.give_up(|| Refusal::new(Reason::NotReadToTheEnd, "it was not read to its end"));
        }
        let below = (*node).ss.ps.lefttree;
        if !below.is_null() {
            pg_sys::ExecEndNode(below);
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn again(node: *mut pg_sys::CustomScanState) {
    // SAFETY: a node of ours that has begun.
    unsafe {
        match &mut (*(*node.cast::<Node>()).running).source {
            Source::Kept(kept) => kept.position = 0,
            Source::Below(below) => {
                end_ahead(below);
                if let Some(filling) = &mut below.filling {
                    filling.begin_again();
                }
                let plan = (*node).ss.ps.lefttree;
                if (*plan).chgParam.is_null() {
                    // Which asks functions and settings, as for a LIMIT and where to begin in an index.
                    looking(below, || pg_sys::ExecReScan(plan));
                    below.give_up_if_others();
                }
            }
        }
    }
}
