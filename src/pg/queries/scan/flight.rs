//! Single flight: of several sessions that miss a result at once one computes, and the others wait for it.
//!
//! Invariant: nobody ever waits for a client, which may stay anywhere in a cursor for hours, or not read its socket. So the
//! lock is taken when the first row is asked for, and given back before that row is out: it never outlives one call of the
//! node. That is of use where the planner puts most of the cost before the first row (sorts, aggregates). There all rows are
//! read ahead in that call, up to [`READ_AHEAD_BYTES`], and stored; whoever has waited looks again. Not where the reader may go back, for the plan below is then where nobody expects it.
//!
//! Locking: the lock of a result (`Flight`), a heavyweight one of PostgreSQL's: it finds deadlocks, and an ERROR gives it back.
//!
//! Not here: whether others may wait at all, which `begin` says by `may_fly`.
#![allow(unsafe_code)]

use pgrx::{PgMemoryContexts, pg_sys};

use super::below::{Below, pass};
use super::kept::kept;
use super::slots::clear;
use super::{Running, Source, with_snapshot};
use crate::pg::queries::flight::Flight;
use crate::pg::queries::found::{Found, Seeker};
use crate::pg::queries::grace::Stale;
use crate::pg::queries::refusal::Refusal;
use crate::pg::queries::rows::Rows;
use crate::pg::queries::wishes::NO_WISHES;
use crate::pg::snapshot::has_written;

/// So many bytes of a result are read ahead, while others wait.
const READ_AHEAD_BYTES: usize = 1 << 20;

/// Rows of the plan below that were read before they were asked for. Only where the reader goes forward.
pub(super) struct Ahead {
    pub(super) store: *mut pg_sys::Tuplestorestate,
    pub(super) slot: *mut pg_sys::TupleTableSlot,
    /// Whether there are no more below.
    pub(super) has_all: bool,
}

/// Does what comes before the first row where others may wait for it: looks again after somebody else has made the result,
/// or makes it.
///
/// # Safety
///
/// - A node that has begun, and what runs in it.
pub(super) unsafe fn fly(running: &mut Running, node: *mut pg_sys::CustomScanState) {
    let Source::Below(below) = &mut running.source else { return };
    let Some(filling) = &mut below.filling else { return };
    // SAFETY: as the caller says.
    unsafe {
        // A mark makes no error: a statement that fails if it waits for long does not.
        if has_written() || pg_sys::LockTimeout > 0 {
            return;
        }
        let state = (*node).ss.ps.state;
        let found = std::mem::replace(&mut filling.found, Found::Nothing);
        let mut flight = match Flight::begin(found, filling.number, &filling.under) {
            Ok((flight, found)) => {
                filling.found = found;
                flight
            }
            Err(stale) => return serve_stale(stale, running, node),
        };
        while matches!(flight, Flight::Waited(_)) {
            let seeker = Seeker {
                cache: &filling.cache,
                wishes: &NO_WISHES,
                basis: filling.basis,
                fits: &|rows: &Rows<'_>| rows.columns().eq(filling.columns.iter().copied()),
            };
            let look = || seeker.look_again(filling.number, &filling.under, &filling.key);
            let found =
                PgMemoryContexts::For((*state).es_query_cxt).switch_to(|_| with_snapshot((*state).es_snapshot, look));
            let description = (*(*node).ss.ss_ScanTupleSlot).tts_tupleDescriptor;
            match found {
                Ok(Found::Right(copied)) => {
                    match kept(copied, &filling.columns, description, state) {
                        Some(kept) => running.source = Source::Kept(kept),
                        None => below.give_up(Refusal::not_for_this_snapshot),
                    }
                    return;
                }
                Ok(Found::Other) => return below.give_up(Refusal::not_for_this_snapshot),
                Ok(found) => filling.found = found,
                Err(error) => return below.give_up(|| error.into()),
            }
            flight = flight.begin_again(filling.number, &filling.under);
        }
        if let Flight::Has(_) = flight {
            read_ahead(below, &running.shown, node);
            flight.end();
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
            Some(mut kept) => {
                kept.outcome = "stale, while another session makes it";
                running.source = Source::Kept(kept);
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
pub(super) unsafe fn end_ahead(below: &mut Below) {
    if let Some(ahead) = below.ahead.take() {
        // SAFETY: `read_ahead` has made both; the slot may show a row of the store.
        unsafe {
            clear(ahead.slot);
            pg_sys::tuplestore_end(ahead.store);
        }
    }
}
