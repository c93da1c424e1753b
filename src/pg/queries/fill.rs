//! A call's result that is being made: its query runs, and what it gives is stored if it can be.
//!
//! Invariants: the caller gets its rows whatever becomes of the copy. The result is stored with what its lines say to the
//! snapshot that it was read in, and only if nothing has emptied the cache, and nobody has invalidated one of its tags, since
//! before it was planned.
//!
//! Locking: none but the flight, which is over as soon as it is known that nothing will be stored: nobody waits for that.
//!
//! Not here: marked statements, whose rows pass one by one (`scan::below`).
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::rc::Rc;
use std::time::Instant;

use pgrx::pg_sys;

use super::accepted::Acceptance;
use super::basis::Basis;
use super::flight::Flight;
use super::found::Found;
use super::grace::Stale;
use super::key::{Key, StoredUnder};
use super::knowing::{PlannedWith, Watched, plan_watching};
use super::lines::emptied;
use super::plan::{self, Planned, plan};
use super::refusal::Refusal;
use super::relations::Dependencies;
use super::rows::Collected;
use super::run::{self, new_store};
use super::wishes::{Terms, Wishes};
use super::{Answer, Parameter, entries, trace};
use crate::engine::counters::Removal;
use crate::pg::bytea::Copied;
use crate::pg::catalog::Catalog;
use crate::pg::definitions::options::ResultOptions;
use crate::pg::definitions::{self, Access};
use crate::pg::error::CacheError;
use crate::pg::ledger::now_us;
use crate::pg::refusals::Reason;

/// A result that is being made, and stored if it can be.
pub(super) struct Fill<'a> {
    pub(super) cache: &'a str,
    pub(super) number: u64,
    pub(super) options: Rc<ResultOptions>,
    pub(super) wishes: &'a Wishes,
    pub(super) basis: Basis,
    pub(super) key: &'a Key,
    pub(super) under: &'a StoredUnder,
    pub(super) found: Found,
    pub(super) flight: Flight,
    pub(super) home: pg_sys::MemoryContext,
}

impl Fill<'_> {
    pub(super) fn fill(mut self, query: &CStr, parameters: &[Parameter]) -> Result<Answer, CacheError> {
        let started = Instant::now();
        // Whatever empties the cache meanwhile voids this. The first to ask renews all definitions, so this comes first.
        let catalog = Catalog::open()?;
        let emptied_before = emptied(catalog, self.number);
        // And so is it voided by whoever invalidates a tag.
        let terms = self.wishes.terms(self.basis, self.number, &self.options);
        let (planned, knows, mut watch) = self.plan(query, parameters)?;
        let learned = match knows {
            PlannedWith::Refused(refusal) => Err(refusal),
            PlannedWith::Learned(learned) => Ok(learned),
            PlannedWith::Unknown if self.basis.is_age() => Ok(Vec::new()),
            PlannedWith::Unknown => Err(Refusal::being_changed()),
        };
        // A schema of the search path may have come or gone, which the plan knows and the key does not.
        let may_store = || match definitions::find(self.cache, Access::Write) {
            Ok(_) if self.key.is_of_session() => Ok(()),
            Ok(_) => Err(Refusal::being_changed()),
            Err(error) => Err(error.into()),
        };
        let learned = learned.and_then(|learned| may_store().map(|()| learned));
        if matches!(self.found, Found::Other) {
            self.flight.end();
        }
        let (mut learned, terms) = match (learned, terms.ok_or_else(Refusal::being_changed)) {
            (Ok(learned), Ok(terms)) => (learned, terms),
            (Err(refusal), _) | (_, Err(refusal)) => {
                refusal.count(self.cache);
                self.flight.end();
                return made(&planned, query, self.home);
            }
        };
        let max_bytes = definitions::with_cache(self.cache, Access::Read, |cache| cache.resolved().max_entry_bytes)?;
        let starts = trace::starts();
        let store = new_store(self.home);
        let run = || {
            run::run(&planned, query, store, |columns| {
                let is_kept = self.basis.refusal_of_columns(columns).is_none();
                is_kept.then(|| Collected::new(&self.key.bytes, &[], columns, max_bytes))
            })
        };
        let output = match &mut watch {
            Some(watch) => {
                watch.pass_over(planned.statement);
                watch.during(run)
            }
            None => run(),
        };
        // SAFETY: it was planned, in memory that is still there.
        let own = u64::from(unsafe { trace::is_counted(planned.statement) });
        let runs_others = trace::starts() != starts + own;
        let mut relations = planned.dependencies.relations.clone();
        let refusal_of_functions = match &watch {
            Some(watch) => {
                watch.add_relations(&mut relations);
                watch.add_learned(&self.basis.rings(), &mut learned).err()
            }
            None => runs_others.then(plan::trace_refusal),
        };
        let micros = started.elapsed().as_micros() as u64;
        let still = || emptied(catalog, self.number) == emptied_before && terms.hold(&self.basis.rings());
        let refusal = match output.collected {
            None => self.basis.refusal_of_columns(&output.columns),
            Some(_) if refusal_of_functions.is_some() => refusal_of_functions,
            // A library that was loaded meanwhile may have made something else of what is set.
            Some(_) if !self.key.is_of_session() => Some(Refusal::being_changed()),
            Some(collected) => {
                match (collected.finish(micros, now_us(), &relations), self.basis.dependencies(&learned)) {
                    (None, _) => Some(Refusal::too_large()),
                    (_, Err(refusal)) => Some(refusal),
                    (Some(rows), Ok(dependencies)) => {
                        let stored = terms.compose(&rows, &dependencies)?;
                        store_result(self.cache, self.number, self.under, &self.found, &stored, &terms, still)?
                    }
                }
            }
        };
        self.flight.end();
        if let Some(refusal) = refusal {
            refusal.count(self.cache);
        }
        Ok(Answer::Made(store, output.columns))
    }

    /// Plans a query; what it knows of the definitions of all that the result depends on.
    fn plan(&self, query: &CStr, parameters: &[Parameter]) -> Result<Watched<Planned>, CacheError> {
        let plan_once = |known: &mut Dependencies| {
            let planned = plan(query, parameters)?;
            known.add_all(&planned.dependencies);
            Ok(planned)
        };
        let accepts = Acceptance::OfCache(&self.options, self.wishes);
        // SAFETY: the snapshot is the calling statement's, which waits for this.
        unsafe { plan_watching(&mut Dependencies::new(), accepts, self.basis, &self.options, plan_once) }
    }
}

/// Stores a result in the place of what was found, if that is still there, and in the cache of this number; else why not. Another of
/// the same name has other lines of tags.
pub(super) fn store_result(
    cache: &str,
    number: u64,
    under: &StoredUnder,
    found: &Found,
    stored: &[u8],
    terms: &Terms,
    still: impl Fn() -> bool,
) -> Result<Option<Refusal>, CacheError> {
    if matches!(found, Found::Other) {
        return Ok(Some(Refusal::not_for_this_snapshot()));
    }
    definitions::with_cache(cache, Access::Write, |cache| {
        if cache.number != number {
            return Some(Refusal::new(Reason::NotStored, "its cache was dropped"));
        }
        if let Found::Outdated(version) | Found::Stale(Stale { copied: Copied { version, .. }, .. }) = found {
            cache.discard_version_as(Removal::Invalidated, version);
        }
        if cache.put_if_absent(under, stored, terms.expiry(), &still).unwrap_or(false) {
            entries::count_fill(cache.number, under);
            return None;
        }
        Some(Refusal::new(Reason::NotStored, "there is no room for it, or something newer"))
    })
}

/// Runs a query as if there were no cache.
pub(super) fn made(planned: &Planned, query: &CStr, home: pg_sys::MemoryContext) -> Result<Answer, CacheError> {
    let store = new_store(home);
    let output = run::run(planned, query, store, |_| None);
    Ok(Answer::Made(store, output.columns))
}
