//! The node of a plan that serves or makes a marked statement's result: `Custom Scan (Shared LRU)`, on top of the plan that
//! the statement has anyway.
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
//! Not here: single flight. A cursor may stay where it is for hours; nobody is to wait for it.
#![allow(unsafe_code)]

use std::ffi::{CString, c_int};
use std::time::Instant;

use pgrx::{PgMemoryContexts, pg_guard, pg_sys};

use super::key::{self, Key, StoredUnder};
use super::rows::{Collected, Column};
use super::run::{Whole, columns_of, row_bytes};
use super::statement::{Marked, PlannedWith};
use super::{Answer, Found, Parameter, emptied, look, plan, pointers, seen, store_result, trace, usable_rings};
use crate::pg::catalog::Catalog;
use crate::pg::definitions::{self, Access};
use crate::pg::encoding;
use crate::pg::error::CacheError;
use crate::pg::functions::bytea::Copied;
use crate::pg::stored::{Dependency, Stored};
use crate::pg::types;

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
}

/// Where rows come from.
enum Source {
    Kept(Kept),
    Below(Below),
}

/// A result that is kept.
struct Kept {
    /// The rows lie in it.
    _copied: Copied,
    rows: Vec<pg_sys::MinimalTuple>,
    /// 0: before the first row; one more than there are rows: after the last.
    position: usize,
    slot: *mut pg_sys::TupleTableSlot,
}

impl Kept {
    fn go(&mut self, direction: pg_sys::ScanDirection::Type) -> Option<pg_sys::MinimalTuple> {
        self.position = match direction {
            pg_sys::ScanDirection::ForwardScanDirection => (self.position + 1).min(self.rows.len() + 1),
            pg_sys::ScanDirection::BackwardScanDirection => self.position.saturating_sub(1),
            _ => self.position,
        };
        self.rows.get(self.position.checked_sub(1)?).copied()
    }
}

/// A result that passes through.
struct Below {
    filling: Option<Box<Filling>>,
    /// What EXPLAIN says.
    outcome: Outcome,
}

#[derive(Debug)]
enum Outcome {
    /// It was not run to its end.
    Unfinished,
    Stored,
    NotStored(String),
}

impl Below {
    fn passing(why: impl Into<String>) -> Source {
        Source::Below(Below { filling: None, outcome: Outcome::NotStored(why.into()) })
    }

    fn give_up(&mut self, why: &str) {
        if self.filling.take().is_some() {
            self.outcome = Outcome::NotStored(why.to_owned());
        }
    }
}

/// A result that is being made to be stored.
struct Filling {
    cache: String,
    number: u64,
    key: Key,
    /// The part of the key that the session has, which may change while a cursor is open.
    session: u128,
    under: StoredUnder,
    found: Found,
    learned: Vec<Dependency>,
    columns: Vec<Column>,
    max_bytes: usize,
    emptied_before: Option<u64>,
    started: Instant,
    collected: Collected,
    whole: Whole,
}

impl Filling {
    fn begin_again(&mut self) {
        self.started = Instant::now();
        self.collected = Collected::new(&self.key.0, &self.columns, self.max_bytes);
    }

    /// Stores what was collected.
    fn finish(self) -> Result<Outcome, CacheError> {
        let not = |why: &str| Ok(Outcome::NotStored(why.to_owned()));
        // A cursor's transaction may have written since it was opened.
        let rings = match usable_rings() {
            Ok(rings) => rings,
            Err(why) => return not(why),
        };
        let Some(rows) = self.collected.finish(self.started.elapsed().as_micros() as u64) else {
            return not("it is too large for the cache");
        };
        let Some(dependencies) = seen(&rings, &self.learned) else {
            return not("what it depends on is being changed");
        };
        let catalog = Catalog::open()?;
        let stored = Stored::compose_result(&rows, &dependencies)?;
        let still = || emptied(catalog, self.number) == self.emptied_before;
        match store_result(&self.cache, &self.under, &self.found, &stored, still)? {
            true => Ok(Outcome::Stored),
            false => not("there is no room for it, or something newer"),
        }
    }
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
        let source = match &marked {
            Some(marked) if flags & pg_sys::EXEC_FLAG_EXPLAIN_ONLY as c_int == 0 => look_up(marked, node, estate),
            _ => Below::passing(""),
        };
        if matches!(source, Source::Below(_)) {
            (*node).ss.ps.lefttree = pg_sys::ExecInitNode(below, estate, flags);
        }
        let mut context = PgMemoryContexts::For((*estate).es_query_cxt);
        (*node.cast::<Node>()).running = context.leak_and_drop_on_delete(Running { marked, source, shown });
    }
}

/// Where the rows come from.
///
/// # Safety
///
/// - A node that begins, with the state of its query.
unsafe fn look_up(marked: &Marked, node: *mut pg_sys::CustomScanState, estate: *mut pg_sys::EState) -> Source {
    let learned = match &marked.planned {
        PlannedWith::Refused(_) => return Below::passing(""),
        PlannedWith::Learned(learned) => Some(learned),
        PlannedWith::Unknown => None,
    };
    // SAFETY: as the caller says.
    unsafe {
        if !(*estate).es_crosscheck_snapshot.is_null() {
            return Below::passing("it has two snapshots");
        }
        let rings = match usable_rings() {
            Ok(rings) => rings,
            Err(why) => return Below::passing(why),
        };
        let parameters = match values_of(&marked.parameters, (*estate).es_param_list_info) {
            Ok(parameters) => parameters,
            Err(why) => return Below::passing(why),
        };
        if key::settings() != marked.settings {
            // The planner has run functions that follow them, as IMMUTABLE ones may.
            pg_sys::ResetPlanCache();
            return Below::passing("settings have changed since it was planned");
        }
        let description = (*(*node).ss.ss_ScanTupleSlot).tts_tupleDescriptor;
        let columns = columns_of(description);
        let key = Key::of_statement(&marked.statement, &parameters);
        let under = key.stored_under();
        // What is found is asked about in the statement's snapshot.
        let found = with_snapshot((*estate).es_snapshot, || {
            let number = definitions::find(&marked.cache, Access::Read)?.number;
            let found = definitions::with_cache(&marked.cache, Access::Read, |cache| look(cache, &under, &key))?;
            Ok((number, found))
        });
        let (number, found) = match found {
            Ok(found) => found,
            Err(error) => return Below::passing(CacheError::to_string(&error)),
        };
        let found = match found {
            Found::Right(copied) => match kept(copied, &columns, description, estate) {
                Some(kept) => return Source::Kept(kept),
                None => Found::Other,
            },
            other => other,
        };
        let is_as_planned = |learned: &&Vec<Dependency>| {
            learned.iter().all(|dependency| rings.definitions(dependency.line) == Some(dependency.definitions))
        };
        let Some(learned) = learned.filter(is_as_planned) else {
            // This plan's results can be stored no more. PostgreSQL makes a new one when the statement is run again.
            pg_sys::ResetPlanCache();
            return Below::passing("definitions have changed since it was planned");
        };
        if let Some(why) = plan::refusal_of_columns(&columns) {
            return Below::passing(why);
        }
        if matches!(found, Found::Other) {
            return Below::passing("a result is kept that this snapshot may not see");
        }
        let limit = definitions::find(&marked.cache, Access::Write).and_then(|_| {
            definitions::with_cache(&marked.cache, Access::Read, |cache| cache.resolved().max_entry_bytes)
        });
        let (max_bytes, catalog) = match (limit, Catalog::open()) {
            (Ok(max_bytes), Ok(catalog)) => (max_bytes, catalog),
            (Err(error), _) | (_, Err(error)) => return Below::passing(CacheError::to_string(&error)),
        };
        let filling = Filling {
            cache: marked.cache.clone(),
            number,
            collected: Collected::new(&key.0, &columns, max_bytes),
            whole: Whole::new(description, &columns),
            key,
            session: key::session(),
            under,
            found,
            learned: learned.clone(),
            columns,
            max_bytes,
            emptied_before: emptied(catalog, number),
            started: Instant::now(),
        };
        Source::Below(Below { filling: Some(Box::new(filling)), outcome: Outcome::Unfinished })
    }
}

/// A result that was found, if it has these columns.
///
/// # Safety
///
/// - They are those of the description; the query's memory context is current.
unsafe fn kept(
    copied: Copied,
    columns: &[Column],
    description: pg_sys::TupleDesc,
    estate: *mut pg_sys::EState,
) -> Option<Kept> {
    let rows = Answer::rows(&copied).filter(|rows| rows.columns().eq(columns.iter().copied()))?;
    let rows = rows.iter().collect();
    // SAFETY: as the caller says.
    let slot = unsafe { pg_sys::ExecInitExtraTupleSlot(estate, description, &raw const pg_sys::TTSOpsMinimalTuple) };
    Some(Kept { _copied: copied, rows, position: 0, slot })
}

/// The values of these parameters; or why they cannot be part of a key.
///
/// # Safety
///
/// - It is the list of a query that runs, or null.
unsafe fn values_of(numbers: &[i32], list: pg_sys::ParamListInfo) -> Result<Vec<Parameter>, String> {
    let value_of = |number: i32| {
        // SAFETY: as the caller says; the number is checked. A function that gives values may use the place for one.
        let value = unsafe {
            let known = list.as_mut().filter(|list| (1..=list.numParams).contains(&number));
            let list = known.ok_or_else(|| format!("parameter ${number} has no value"))?;
            match list.paramFetch {
                Some(fetch) => {
                    let mut place = pg_sys::ParamExternData::default();
                    let list: pg_sys::ParamListInfo = list;
                    let call = || *fetch(list, number, false, &raw mut place);
                    pg_sys::submodules::ffi::pg_guard_ffi_boundary(call)
                }
                None => list.params.as_slice(number as usize)[number as usize - 1],
            }
        };
        if types::stored_type(value.ptype).is_err() {
            return Err(format!("a parameter of type {} cannot be part of a key", types::name(value.ptype)));
        }
        Ok(Parameter { oid: value.ptype, datum: value.value, is_null: value.isnull })
    };
    numbers.iter().map(|number| value_of(*number)).collect()
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
        let (state, to) = (&mut *(*node).ss.ps.state, (*node).ss.ss_ScanTupleSlot);
        clear(to);
        let from = match &mut running.source {
            Source::Kept(kept) => {
                pgrx::check_for_interrupts!();
                let Some(row) = kept.go(state.es_direction) else { return to };
                pg_sys::ExecStoreMinimalTuple(row, kept.slot, false)
            }
            Source::Below(below) => {
                let (from, runs_others) = run_below((*node).ss.ps.lefttree);
                if runs_others {
                    below.give_up(&plan::trace_refusal());
                }
                if below.filling.as_ref().is_some_and(|filling| filling.session != key::session()) {
                    below.give_up("role or settings have changed while it was read");
                }
                if state.es_direction != pg_sys::ScanDirection::ForwardScanDirection {
                    below.give_up("it was read backwards");
                }
                if from.is_null() || (*from).tts_flags & pg_sys::TTS_FLAG_EMPTY as u16 != 0 {
                    if let Some(filling) = below.filling.take() {
                        let outcome = with_snapshot(state.es_snapshot, || filling.finish());
                        below.outcome = outcome.unwrap_or_else(|error| Outcome::NotStored(error.to_string()));
                    }
                    return to;
                }
                from
            }
        };
        let count = (*(*from).tts_tupleDescriptor).natts;
        if c_int::from((*from).tts_nvalid) < count {
            pg_sys::slot_getsomeattrs_int(from, count);
        }
        let is_kept = matches!(running.source, Source::Kept(_));
        for (index, place) in running.shown.iter().enumerate() {
            let place = if is_kept { index } else { *place };
            (*to).tts_values.add(index).write((*from).tts_values.add(place).read());
            (*to).tts_isnull.add(index).write((*from).tts_isnull.add(place).read());
        }
        pg_sys::ExecStoreVirtualTuple(to);
        if let Source::Below(below) = &mut running.source {
            collect(below, to, (*node).ss.ps.ps_ExprContext);
        }
        to
    }
}

/// Collects a row, if rows are collected.
///
/// # Safety
///
/// - The slot has a row of the node's columns; the context is the node's.
unsafe fn collect(below: &mut Below, slot: *mut pg_sys::TupleTableSlot, context: *mut pg_sys::ExprContext) {
    let Some(filling) = &mut below.filling else { return };
    // SAFETY: as the caller says; what the row is made in is not used by anything else.
    unsafe {
        let memory = (*context).ecxt_per_tuple_memory;
        pg_sys::MemoryContextReset(memory);
        let before = pg_sys::MemoryContextSwitchTo(memory);
        filling.collected.push(row_bytes(filling.whole.row(slot)));
        pg_sys::MemoryContextSwitchTo(before);
    }
    if !filling.collected.is_whole() {
        below.give_up("it is too large for the cache");
    }
}

/// The next row of the plan below, and whether a function in it ran queries.
///
/// # Safety
///
/// - The plan has begun.
unsafe fn run_below(below: *mut pg_sys::PlanState) -> (*mut pg_sys::TupleTableSlot, bool) {
    let starts = trace::starts();
    // SAFETY: as the caller says; as PostgreSQL would call it, which is an inline function there.
    let slot = unsafe {
        if !(*below).chgParam.is_null() {
            pg_sys::ExecReScan(below);
        }
        let run = (*below).ExecProcNode.expect("each node has one");
        pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| run(below))
    };
    (slot, trace::starts() != starts)
}

/// Empties a slot: an inline function of PostgreSQL's.
///
/// # Safety
///
/// - It is one.
unsafe fn clear(slot: *mut pg_sys::TupleTableSlot) {
    // SAFETY: as the caller says; what empties it raises no error.
    unsafe { (*(*slot).tts_ops).clear.expect("each slot has one")(slot) };
}

#[pg_guard]
unsafe extern "C-unwind" fn end(node: *mut pg_sys::CustomScanState) {
    // SAFETY: a node of ours; what is below was begun if it is there.
    unsafe {
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
                if let Some(filling) = &mut below.filling {
                    filling.begin_again();
                }
                let below = (*node).ss.ps.lefttree;
                if (*below).chgParam.is_null() {
                    pg_sys::ExecReScan(below);
                }
            }
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn explain(
    node: *mut pg_sys::CustomScanState,
    _ancestors: *mut pg_sys::List,
    state: *mut pg_sys::ExplainState,
) {
    // SAFETY: a node of ours that has begun.
    let (running, is_analyzed) = unsafe { (&*(*node.cast::<Node>()).running, (*state).analyze) };
    let Some(marked) = &running.marked else { return };
    let show = |label: &std::ffi::CStr, text: String| {
        let text = CString::new(encoding::message(text)).unwrap_or_default();
        // SAFETY: texts that outlive the call.
        unsafe { pg_sys::ExplainPropertyText(label.as_ptr(), text.as_ptr(), state) };
    };
    show(c"Cache", marked.cache.clone());
    if let PlannedWith::Refused(why) = &marked.planned {
        return show(c"Not Kept", why.clone());
    }
    if is_analyzed {
        let result = match &running.source {
            Source::Kept(_) => "hit".to_owned(),
            Source::Below(Below { outcome: Outcome::Stored, .. }) => "miss, stored".to_owned(),
            Source::Below(Below { outcome: Outcome::NotStored(why), .. }) => format!("miss, not stored: {why}"),
            Source::Below(_) => "miss, not stored: it was not read to its end".to_owned(),
        };
        show(c"Result", result);
    }
}
