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
//! Single flight: nobody ever waits for a client, which may stay anywhere in a cursor for hours, or not read its socket. So the
//! lock is taken when the first row is asked for, and given back before that row is out: it never outlives one call of the
//! node. That is of use where the planner puts most of the cost before the first row (sorts, aggregates). There all rows are
//! read ahead in that call, up to [`READ_AHEAD_BYTES`], and stored; whoever has waited looks again, and runs the plan
//! without the lock if there is nothing. Not where the reader may go back, for the plan below is then where nobody expects it.
#![allow(unsafe_code)]

use std::ffi::{CString, c_int};
use std::time::Instant;

use pgrx::{PgMemoryContexts, pg_guard, pg_sys};

use super::grace::Stale;
use super::key::{self, Key, StoredUnder};
use super::refusal::Refusal;
use super::rows::{About, Collected, Column};
use super::run::{Whole, columns_of, row_bytes};
use super::statement::{Marked, PlannedWith};
use super::wishes::{Clock, Terms, Wishes};
use super::{
    Answer, Flight, Found, Parameter, are_definitions_the_same, emptied, look_for, plan, pointers, seen, store_result,
    trace, usable_rings,
};
use crate::pg::bytea::Copied;
use crate::pg::catalog::Catalog;
use crate::pg::definitions::{self, Access};
use crate::pg::encoding;
use crate::pg::error::CacheError;
use crate::pg::ledger::now_us;
use crate::pg::refusals::Reason;
use crate::pg::snapshot::has_written;
use crate::pg::stored::Dependency;
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

/// So many bytes of a result are read ahead, while others wait.
const READ_AHEAD_BYTES: usize = 1 << 20;

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
    /// Whether others may wait for the first row; not once it was asked for.
    may_fly: bool,
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
    /// What EXPLAIN says.
    outcome: &'static str,
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
    ahead: Option<Ahead>,
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

impl Outcome {
    /// Counts a refusal, and is shown as it.
    fn refused(cache: &str, refusal: &Refusal) -> Outcome {
        refusal.count(cache);
        Outcome::NotStored(refusal.to_string())
    }
}

impl Below {
    /// Nothing is looked for, or was found, or is to be kept.
    fn passing(outcome: Outcome) -> Source {
        Source::Below(Below { filling: None, ahead: None, outcome })
    }

    fn give_up(&mut self, why: impl FnOnce() -> Refusal) {
        if let Some(filling) = self.filling.take() {
            self.outcome = Outcome::refused(&filling.cache, &why());
        }
    }
}

/// Rows of the plan below that were read before they were asked for. Only where the reader goes forward.
struct Ahead {
    store: *mut pg_sys::Tuplestorestate,
    slot: *mut pg_sys::TupleTableSlot,
    /// Whether there are no more below.
    has_all: bool,
}

/// A result that is being made to be stored.
struct Filling {
    cache: String,
    number: u64,
    key: Key,
    under: StoredUnder,
    found: Found,
    learned: Vec<Dependency>,
    about: About,
    columns: Vec<Column>,
    max_bytes: usize,
    emptied_before: Option<u64>,
    terms: Terms,
    started: Instant,
    collected: Collected,
    whole: Whole,
}

impl Filling {
    fn begin_again(&mut self) {
        self.started = Instant::now();
        self.collected = Collected::new(&self.key.0, &self.about, &self.columns, self.max_bytes);
    }

    /// Stores what was collected; else why not.
    fn finish(self) -> Result<Option<Refusal>, CacheError> {
        // A cursor's transaction may have defined something between two rows, and taken it back.
        if has_written() {
            return Ok(Some(Refusal::written()));
        }
        let rings = match usable_rings() {
            Ok(rings) => rings,
            Err(refusal) => return Ok(Some(refusal)),
        };
        let Some(rows) = self.collected.finish(self.started.elapsed().as_micros() as u64, now_us()) else {
            return Ok(Some(Refusal::too_large()));
        };
        let dependencies = match seen(&rings, &self.learned) {
            Ok(dependencies) => dependencies,
            Err(refusal) => return Ok(Some(refusal)),
        };
        let catalog = Catalog::open()?;
        let stored = self.terms.compose(&rows, &dependencies)?;
        let still = || emptied(catalog, self.number) == self.emptied_before && self.terms.hold(&rings);
        store_result(&self.cache, &self.under, &self.found, &stored, &self.terms, still)
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
            Some(marked) if flags & pg_sys::EXEC_FLAG_EXPLAIN_ONLY as c_int == 0 => look_up(marked, node, estate)
                .unwrap_or_else(|refusal| Below::passing(Outcome::refused(&marked.cache, &refusal))),
            _ => Below::passing(Outcome::Unfinished),
        };
        if matches!(source, Source::Below(_)) {
            (*node).ss.ps.lefttree = pg_sys::ExecInitNode(below, estate, flags);
        }
        let goes_back = flags & (pg_sys::EXEC_FLAG_REWIND | pg_sys::EXEC_FLAG_BACKWARD) as c_int != 0;
        let may_fly = !goes_back && (*below).startup_cost * 2.0 >= (*below).total_cost;
        let mut context = PgMemoryContexts::For((*estate).es_query_cxt);
        (*node.cast::<Node>()).running = context.leak_and_drop_on_delete(Running { marked, source, shown, may_fly });
    }
}

/// Where the rows come from; or why no result is found, and none kept.
///
/// # Safety
///
/// - A node that begins, with the state of its query.
unsafe fn look_up(
    marked: &Marked,
    node: *mut pg_sys::CustomScanState,
    estate: *mut pg_sys::EState,
) -> Result<Source, Refusal> {
    let learned = match &marked.planned {
        PlannedWith::Refused(refusal) => return Err(refusal.clone()),
        PlannedWith::Learned(learned) => Some(learned),
        PlannedWith::Unknown => None,
    };
    if let Some(refusal) = refused_by_clock(marked) {
        return Err(refusal.clone());
    }
    // SAFETY: as the caller says.
    unsafe {
        if !(*estate).es_crosscheck_snapshot.is_null() {
            return Err(Refusal::new(Reason::TwoSnapshots, "it has two snapshots"));
        }
        let rings = usable_rings()?;
        let parameters = values_of(&marked.parameters, (*estate).es_param_list_info)?;
        if key::settings() != marked.settings {
            // The planner has run functions that follow them, as IMMUTABLE ones may.
            pg_sys::ResetPlanCache();
            return Err(Refusal::new(Reason::DefinitionsChanged, "settings have changed since it was planned"));
        }
        let description = (*(*node).ss.ss_ScanTupleSlot).tts_tupleDescriptor;
        let columns = columns_of(description);
        let key = Key::of_statement(&marked.statement, &parameters);
        let under = key.stored_under();
        // What is found is asked about in the statement's snapshot.
        let (number, options, found) =
            with_snapshot((*estate).es_snapshot, || look_for(&marked.cache, &under, &key, &Wishes::default()))?;
        let found = match found {
            Found::Right(copied) => match kept(copied, &columns, description, estate) {
                Some(kept) => return Ok(Source::Kept(kept)),
                None => Found::Other,
            },
            other => other,
        };
        if has_written() {
            return Err(Refusal::written());
        }
        let is_as_planned = |learned: &&Vec<Dependency>| are_definitions_the_same(&rings, learned.iter().copied());
        let Some(learned) = learned.filter(is_as_planned) else {
            // This plan's results can be stored no more. PostgreSQL makes a new one when the statement is run again.
            pg_sys::ResetPlanCache();
            let text = "definitions have changed since it was planned";
            return Err(Refusal::new(Reason::DefinitionsChanged, text));
        };
        if let Some(refusal) = plan::refusal_of_columns(&columns) {
            return Err(refusal);
        }
        if matches!(found, Found::Other) {
            return Err(Refusal::not_for_this_snapshot());
        }
        definitions::find(&marked.cache, Access::Write)?;
        let max_bytes = definitions::with_cache(&marked.cache, Access::Read, |cache| cache.resolved().max_entry_bytes)?;
        let catalog = Catalog::open()?;
        let emptied_before = emptied(catalog, number);
        let terms = with_snapshot((*estate).es_snapshot, || Wishes::default().terms(&rings, number, options));
        let terms = terms.ok_or_else(Refusal::being_changed)?;
        let about = about(estate);
        let filling = Filling {
            cache: marked.cache.clone(),
            number,
            collected: Collected::new(&key.0, &about, &columns, max_bytes),
            whole: Whole::new(description, &columns),
            key,
            under,
            found,
            learned: learned.clone(),
            about,
            columns,
            max_bytes,
            emptied_before,
            terms,
            started: Instant::now(),
        };
        Ok(Source::Below(Below { filling: Some(Box::new(filling)), ahead: None, outcome: Outcome::Unfinished }))
    }
}

/// Why the result is not kept by a cache that does not take what depends on the clock.
fn refused_by_clock(marked: &Marked) -> Option<&Refusal> {
    let clock = marked.clock.as_ref()?;
    let options = definitions::find(&marked.cache, Access::Read).map(|cache| cache.results);
    let is_taken = options.is_ok_and(|options| Wishes::default().clock_in(options) == Clock::Accepted);
    (!is_taken).then_some(clock)
}

/// What is kept of a statement for who looks at its result: the beginning of its text, and its relations, as the plan has them.
///
/// # Safety
///
/// - The state of a query that begins.
unsafe fn about(estate: *mut pg_sys::EState) -> About {
    const MAX_BYTES: usize = 1024;
    // SAFETY: as the caller says: a plan, and the NUL-terminated text that it was made of.
    unsafe {
        let (statement, source) = (&*(*estate).es_plannedstmt, (*estate).es_sourceText);
        let mut relations: Vec<pg_sys::Oid> = super::oids(statement.relationOids).collect();
        relations.sort_unstable_by_key(|oid| oid.to_u32());
        relations.dedup();
        let source = if source.is_null() { &[][..] } else { std::ffi::CStr::from_ptr(source).to_bytes() };
        let from = usize::try_from(statement.stmt_location).unwrap_or(0).min(source.len());
        let len = usize::try_from(statement.stmt_len).ok().filter(|len| *len > 0).unwrap_or(source.len());
        let text = without_comment(source[from..][..len.min(source.len() - from)].trim_ascii());
        let whole = pg_sys::pg_mbcliplen(text.as_ptr().cast(), text.len() as c_int, MAX_BYTES as c_int) as usize;
        About { text: text[..whole].to_vec(), relations }
    }
}

/// A statement without the comment before it, which PostgreSQL counts as a part of it or not, by its version.
fn without_comment(statement: &[u8]) -> &[u8] {
    let end = statement.starts_with(b"/*").then(|| statement.windows(2).position(|pair| pair == b"*/")).flatten();
    end.map_or(statement, |end| statement[end + 2..].trim_ascii_start())
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
    Some(Kept { _copied: copied, outcome: "hit", rows, position: 0, slot })
}

/// The values of these parameters; or why they cannot be part of a key.
///
/// # Safety
///
/// - It is the list of a query that runs, or null.
unsafe fn values_of(numbers: &[i32], list: pg_sys::ParamListInfo) -> Result<Vec<Parameter>, Refusal> {
    let refuse = |text: String| Refusal::new(Reason::Parameter, text);
    let value_of = |number: i32| {
        // SAFETY: as the caller says; the number is checked. A function that gives values may use the place for one.
        let value = unsafe {
            let known = list.as_mut().filter(|list| (1..=list.numParams).contains(&number));
            let list = known.ok_or_else(|| refuse(format!("parameter ${number} has no value")))?;
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
            return Err(refuse(format!("a parameter of type {} cannot be part of a key", types::name(value.ptype))));
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
        let to = (*node).ss.ss_ScanTupleSlot;
        if std::mem::take(&mut running.may_fly) {
            fly(running, node);
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

/// Does what comes before the first row where others may wait for it: looks again after somebody else has made the result,
/// or makes it.
///
/// # Safety
///
/// - A node that has begun, and what runs in it.
unsafe fn fly(running: &mut Running, node: *mut pg_sys::CustomScanState) {
    let Source::Below(below) = &mut running.source else { return };
    let Some(filling) = &mut below.filling else { return };
    // SAFETY: as the caller says.
    unsafe {
        // A mark makes no error: a statement that fails if it waits for long does not.
        if has_written() || pg_sys::LockTimeout > 0 {
            return;
        }
        let state = (*node).ss.ps.state;
        let mut flight = match std::mem::replace(&mut filling.found, Found::Nothing) {
            Found::Stale(stale) => match Flight::begin_at_once(filling.number, &filling.under) {
                Some(flight) => {
                    filling.found = Found::Outdated(stale.into_version());
                    flight
                }
                None => return serve_stale(stale, running, node),
            },
            found => {
                filling.found = found;
                Flight::begin(filling.number, &filling.under)
            }
        };
        match flight {
            Flight::Not => {}
            Flight::Begun(_) => {
                read_ahead(below, &running.shown, node);
                flight.end();
            }
            Flight::Waited(_) => {
                flight.end();
                let look = || {
                    let found = look_for(&filling.cache, &filling.under, &filling.key, &Wishes::default());
                    found.map(|(_, _, found)| found.without_stale())
                };
                let found = PgMemoryContexts::For((*state).es_query_cxt)
                    .switch_to(|_| with_snapshot((*state).es_snapshot, look));
                let description = (*(*node).ss.ss_ScanTupleSlot).tts_tupleDescriptor;
                match found {
                    Ok(Found::Right(copied)) => match kept(copied, &filling.columns, description, state) {
                        Some(kept) => running.source = Source::Kept(kept),
                        None => below.give_up(Refusal::not_for_this_snapshot),
                    },
                    Ok(Found::Other) => below.give_up(Refusal::not_for_this_snapshot),
                    Ok(found) => filling.found = found,
                    Err(error) => below.give_up(|| error.into()),
                }
            }
        }
    }
}

/// Has the rows be those of an outdated result, while somebody else makes a new one.
///
/// # Safety
///
/// - A node that has begun; this is what runs in it, and is collected.
unsafe fn serve_stale(stale: Stale, running: &mut Running, node: *mut pg_sys::CustomScanState) {
    let Source::Below(below) = &mut running.source else { return };
    let Some(filling) = &mut below.filling else { return };
    let version = stale.copied.version;
    // SAFETY: as the caller says.
    unsafe {
        let (state, description) = ((*node).ss.ps.state, (*(*node).ss.ss_ScanTupleSlot).tts_tupleDescriptor);
        let served = stale.serve(&filling.cache, &filling.under).ok();
        let in_query = |copied| {
            PgMemoryContexts::For((*state).es_query_cxt)
                .switch_to(|_| kept(copied, &filling.columns, description, state))
        };
        match served.and_then(in_query) {
            Some(kept) => {
                running.source = Source::Kept(Kept { outcome: "stale, while another session makes it", ..kept })
            }
            None => filling.found = Found::Outdated(version),
        }
    }
}

/// Reads rows of the plan below before they are asked for, while they are collected and few enough.
///
/// # Safety
///
/// - A node that has begun, whose reader goes forward; this is what runs in it, and no row was read.
unsafe fn read_ahead(below: &mut Below, shown: &[usize], node: *mut pg_sys::CustomScanState) {
    // SAFETY: as the caller says; what is made here is the query's.
    unsafe {
        let (state, to) = ((*node).ss.ps.state, (*node).ss.ss_ScanTupleSlot);
        let mut ahead = PgMemoryContexts::For((*state).es_query_cxt).switch_to(|_| Ahead {
            store: pg_sys::tuplestore_begin_heap(false, false, pg_sys::work_mem),
            slot: pg_sys::ExecInitExtraTupleSlot(
                state,
                (*to).tts_tupleDescriptor,
                &raw const pg_sys::TTSOpsMinimalTuple,
            ),
            has_all: false,
        });
        while below.filling.as_ref().is_some_and(|filling| filling.collected.len_bytes() <= READ_AHEAD_BYTES) {
            clear(to);
            if !pass(below, shown, node) {
                ahead.has_all = true;
                break;
            }
            pg_sys::tuplestore_puttupleslot(ahead.store, to);
        }
        below.ahead = Some(ahead);
    }
}

/// Forgets what was read ahead.
///
/// # Safety
///
/// - The node still runs.
unsafe fn end_ahead(below: &mut Below) {
    if let Some(ahead) = below.ahead.take() {
        // SAFETY: `read_ahead` has made both; the slot may show a row of the store.
        unsafe {
            clear(ahead.slot);
            pg_sys::tuplestore_end(ahead.store);
        }
    }
}

/// Passes the next row of the plan below into the node's slot, which is empty, and collects it. Where there is no more, stores
/// what was collected. Whether there was one.
///
/// # Safety
///
/// - A node that has begun, and what runs in it.
unsafe fn pass(below: &mut Below, shown: &[usize], node: *mut pg_sys::CustomScanState) -> bool {
    // SAFETY: as the caller says.
    unsafe {
        let (state, to) = (&*(*node).ss.ps.state, (*node).ss.ss_ScanTupleSlot);
        let (from, runs_others) = run_below((*node).ss.ps.lefttree);
        if runs_others {
            below.give_up(plan::trace_refusal);
        }
        if below.filling.as_ref().is_some_and(|filling| !filling.key.is_of_session()) {
            let text = "role or settings have changed while it was read";
            below.give_up(|| Refusal::new(Reason::BeingChanged, text));
        }
        if state.es_direction != pg_sys::ScanDirection::ForwardScanDirection {
            below.give_up(|| Refusal::new(Reason::NotReadToTheEnd, "it was read backwards"));
        }
        if from.is_null() || (*from).tts_flags & pg_sys::TTS_FLAG_EMPTY as u16 != 0 {
            if let Some(filling) = below.filling.take() {
                let cache = filling.cache.clone();
                let refusal = with_snapshot(state.es_snapshot, || filling.finish());
                below.outcome = match refusal.unwrap_or_else(|error| Some(error.into())) {
                    None => Outcome::Stored,
                    Some(refusal) => Outcome::refused(&cache, &refusal),
                };
            }
            return false;
        }
        show(to, from, shown.iter().copied());
        collect(below, to, (*node).ss.ps.ps_ExprContext);
        true
    }
}

/// Fills an empty slot with columns of another one.
///
/// # Safety
///
/// - The other one has a row with these columns, one for each column of the first.
unsafe fn show(
    to: *mut pg_sys::TupleTableSlot,
    from: *mut pg_sys::TupleTableSlot,
    columns: impl Iterator<Item = usize>,
) {
    // SAFETY: as the caller says.
    unsafe {
        let count = (*(*from).tts_tupleDescriptor).natts;
        if c_int::from((*from).tts_nvalid) < count {
            pg_sys::slot_getsomeattrs_int(from, count);
        }
        for (index, place) in columns.enumerate() {
            (*to).tts_values.add(index).write((*from).tts_values.add(place).read());
            (*to).tts_isnull.add(index).write((*from).tts_isnull.add(place).read());
        }
        pg_sys::ExecStoreVirtualTuple(to);
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
        below.give_up(Refusal::too_large);
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
        return show(c"Not Kept", why.to_string());
    }
    if let Some(why) = refused_by_clock(marked) {
        return show(c"Not Kept", why.to_string());
    }
    if is_analyzed {
        let result = match &running.source {
            Source::Kept(kept) => kept.outcome.to_owned(),
            Source::Below(Below { outcome: Outcome::Stored, .. }) => "miss, stored".to_owned(),
            Source::Below(Below { outcome: Outcome::NotStored(why), .. }) => format!("miss, not stored: {why}"),
            Source::Below(_) => "miss, not stored: it was not read to its end".to_owned(),
        };
        show(c"Result", result);
    }
}
