//! A result that is being made: rows of the plan below, which pass through the node, and of which a copy is collected.
//!
//! Invariants: a row passes whatever happens to the copy. What is collected is stored only if the rows were read forwards, to
//! their end, by one role with one set of settings, and if no function has run queries, but for trusted ones; and if at the end the lines tell the
//! statement's snapshot what a result needs. Whatever goes wrong ends the collecting ([`Below::give_up`]) with its reason,
//! which is counted once.
//!
//! Locking: none. Storing takes the cache's own locks.
//!
//! Not here: whether it is begun at all (`lookup`); who waits for it (`flight`).
#![allow(unsafe_code)]

use std::time::Instant;

use pgrx::pg_sys;

use super::flight::Ahead;
use super::slots::{run_below, show};
use super::{Source, with_snapshot};
use crate::pg::catalog::Catalog;
use crate::pg::error::CacheError;
use crate::pg::ledger::now_us;
use crate::pg::queries::basis::Basis;
use crate::pg::queries::fill::store_result;
use crate::pg::queries::found::Found;
use crate::pg::queries::key::{Key, StoredUnder};
use crate::pg::queries::lines::emptied;
use crate::pg::queries::refusal::Refusal;
use crate::pg::queries::rows::{About, Collected, Column};
use crate::pg::queries::run::{Whole, row_bytes};
use crate::pg::queries::watch::Watch;
use crate::pg::queries::wishes::{NO_WISHES, Terms};
use crate::pg::queries::{plan, trace};
use crate::pg::refusals::Reason;
use crate::pg::snapshot::has_written;
use crate::pg::stored::Dependency;

/// A result that passes through.
pub(super) struct Below {
    pub(super) filling: Option<Box<Filling>>,
    pub(super) ahead: Option<Ahead>,
    /// Whether nothing was found where it was looked for, which is a miss once a row is asked for.
    pub(super) was_looked_for: bool,
    /// What EXPLAIN says.
    pub(super) outcome: Outcome,
}

#[derive(Debug)]
pub(super) enum Outcome {
    /// It was not run to its end.
    Unfinished,
    Stored(Basis),
    NotStored(String),
}

impl Outcome {
    /// Counts a refusal, and is shown as it.
    pub(super) fn refused(cache: &str, refusal: &Refusal) -> Outcome {
        refusal.count(cache);
        Outcome::NotStored(refusal.to_string())
    }
}

impl Below {
    /// Nothing is looked for.
    pub(super) fn passing(outcome: Outcome) -> Source {
        Source::Below(Below { filling: None, ahead: None, was_looked_for: false, outcome })
    }

    /// Nothing was found; and a result is begun, or why that is not to be kept.
    pub(super) fn looked_for(cache: &str, filling: Result<Filling, Refusal>) -> Source {
        let (filling, outcome) = match filling {
            Ok(filling) => (Some(Box::new(filling)), Outcome::Unfinished),
            Err(refusal) => (None, Outcome::refused(cache, &refusal)),
        };
        Source::Below(Below { filling, ahead: None, was_looked_for: true, outcome })
    }

    pub(super) fn give_up(&mut self, why: impl FnOnce() -> Refusal) {
        if let Some(filling) = self.filling.take() {
            self.outcome = Outcome::refused(&filling.cache, &why());
        }
    }

    /// Gives up if the session's role or settings are others than those of the key. After each step that may have asked for them.
    pub(super) fn give_up_if_others(&mut self) {
        if self.filling.as_ref().is_some_and(|filling| !filling.key.is_of_session()) {
            let text = "role or settings have changed while it was read";
            self.give_up(|| Refusal::new(Reason::BeingChanged, text));
        }
    }

    /// Gives up since functions have run queries that nobody has looked at.
    pub(super) fn give_up_for_functions(&mut self) {
        let untrusted = self.filling.as_mut().and_then(|filling| filling.untrusted.take());
        self.give_up(|| plan::untrusted_refusal(untrusted.as_deref()));
    }
}

/// A result that is being made to be stored.
pub(super) struct Filling {
    pub(super) cache: String,
    pub(super) number: u64,
    pub(super) basis: Basis,
    pub(super) key: Key,
    pub(super) under: StoredUnder,
    pub(super) found: Found,
    pub(super) learned: Vec<Dependency>,
    pub(super) about: About,
    pub(super) columns: Vec<Column>,
    pub(super) max_bytes: usize,
    pub(super) emptied_before: Option<u64>,
    pub(super) terms: Terms,
    /// There, where functions may run queries.
    pub(super) watch: Option<Watch>,
    /// The first function that may not.
    pub(super) untrusted: Option<String>,
    pub(super) started: Instant,
    pub(super) collected: Collected,
    pub(super) whole: Whole,
}

impl Filling {
    pub(super) fn begin_again(&mut self) {
        self.started = Instant::now();
        self.collected = Collected::new(&self.key.bytes, &self.about.text, &self.columns, self.max_bytes);
    }

    /// Stores what was collected; else why not.
    pub(super) fn finish(self) -> Result<Option<Refusal>, CacheError> {
        // A cursor's transaction may have defined something between two rows, and taken it back.
        if has_written() {
            return Ok(Some(Refusal::written()));
        }
        let basis = match Basis::find(&self.cache, &NO_WISHES) {
            Ok(basis) if basis.is_age() == self.basis.is_age() => basis,
            Ok(_) => return Ok(Some(Refusal::new(Reason::Off, "the query cache was switched while it was made"))),
            Err(refusal) => return Ok(Some(refusal)),
        };
        let (mut learned, mut relations) = (self.learned, self.about.relations);
        if let Some(watch) = &self.watch {
            watch.add_relations(&mut relations);
            if let Err(refusal) = watch.add_learned(&basis.rings(), &mut learned) {
                return Ok(Some(refusal));
            }
        }
        let micros = self.started.elapsed().as_micros() as u64;
        let Some(rows) = self.collected.finish(micros, now_us(), &relations) else {
            return Ok(Some(Refusal::too_large()));
        };
        let dependencies = match basis.dependencies(&learned) {
            Ok(dependencies) => dependencies,
            Err(refusal) => return Ok(Some(refusal)),
        };
        let catalog = Catalog::open()?;
        let stored = self.terms.compose(&rows, &dependencies)?;
        let still = || emptied(catalog, self.number) == self.emptied_before && self.terms.hold(&basis.rings());
        store_result(&self.cache, self.number, &self.under, &self.found, &stored, &self.terms, still)
    }
}

/// Passes the next row of the plan below into the node's slot, which is empty, and collects it. Where there is no more, stores
/// what was collected. Whether there was one.
///
/// # Safety
///
/// - A node that has begun, and what runs in it.
pub(super) unsafe fn pass(below: &mut Below, shown: &[usize], node: *mut pg_sys::CustomScanState) -> bool {
    // SAFETY: as the caller says.
    unsafe {
        let (state, to) = (&*(*node).ss.ps.state, (*node).ss.ss_ScanTupleSlot);
        let plan = (*node).ss.ps.lefttree;
        let from = looking(below, || run_below(plan));
        below.give_up_if_others();
        if state.es_direction != pg_sys::ScanDirection::ForwardScanDirection {
            below.give_up(|| Refusal::new(Reason::NotReadToTheEnd, "it was read backwards"));
        }
        if from.is_null() || (*from).tts_flags & pg_sys::TTS_FLAG_EMPTY as u16 != 0 {
            if let Some(filling) = below.filling.take() {
                let (cache, basis) = (filling.cache.clone(), filling.basis);
                let refusal = with_snapshot(state.es_snapshot, || filling.finish());
                below.outcome = match refusal.unwrap_or_else(|error| Some(error.into())) {
                    None => Outcome::Stored(basis),
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

/// Runs something of the plan below. Where it has functions that run queries, the watch looks at these, or nothing is kept.
pub(super) fn looking<R>(below: &mut Below, work: impl FnOnce() -> R) -> R {
    let starts = trace::starts();
    match below.filling.as_mut().and_then(|filling| filling.watch.as_mut()) {
        Some(watch) => watch.during(work),
        None => {
            let result = work();
            if trace::starts() != starts {
                below.give_up_for_functions();
            }
            result
        }
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
