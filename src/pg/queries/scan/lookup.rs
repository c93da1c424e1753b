//! What the node does when it begins: it looks for the result, and says whether one is to be made.
//!
//! Invariant: everything is asked in the snapshot of the statement. A result is begun only if the plan knows all definitions as
//! they are now, with the settings of now; else the plan is thrown away, so that PostgreSQL makes a new one.
//!
//! Locking: none.
#![allow(unsafe_code)]

use std::rc::Rc;
use std::time::Instant;

use pgrx::pg_sys;

use super::below::{Below, Filling};
use super::explain::about;
use super::kept::kept;
use super::{Source, with_snapshot};
use crate::pg::catalog::Catalog;
use crate::pg::definitions::options::ResultOptions;
use crate::pg::definitions::{self, Access};
use crate::pg::queries::Parameter;
use crate::pg::queries::accepted::Acceptance;
use crate::pg::queries::basis::Basis;
use crate::pg::queries::found::{Found, Looked, Seeker};
use crate::pg::queries::key::{self, Key, StoredUnder};
use crate::pg::queries::knowing::PlannedWith;
use crate::pg::queries::lines::{are_definitions_the_same, emptied};
use crate::pg::queries::refusal::Refusal;
use crate::pg::queries::rows::{Collected, Column, Rows};
use crate::pg::queries::run::{Whole, columns_of};
use crate::pg::queries::statement::Marked;
use crate::pg::queries::watch::Watch;
use crate::pg::queries::wishes::NO_WISHES;
use crate::pg::refusals::Reason;
use crate::pg::snapshot::has_written;
use crate::pg::stored::Dependency;
use crate::pg::types;

/// Where the rows come from; or why no result is found, and none kept.
///
/// # Safety
///
/// - A node that begins, with the state of its query.
pub(super) unsafe fn look_up(
    marked: &Marked,
    node: *mut pg_sys::CustomScanState,
    estate: *mut pg_sys::EState,
) -> Result<Source, Refusal> {
    let learned = match &marked.planned {
        PlannedWith::Refused(refusal) => return Err(refusal.clone()),
        PlannedWith::Learned(learned) => Some(learned),
        PlannedWith::Unknown => None,
    };
    // SAFETY: as the caller says.
    unsafe {
        if !(*estate).es_crosscheck_snapshot.is_null() {
            return Err(Refusal::new(Reason::TwoSnapshots, "it has two snapshots"));
        }
        let basis = Basis::find(&marked.cache, &NO_WISHES)?;
        let parameters = values_of(&marked.parameters, (*estate).es_param_list_info)?;
        if key::settings() != marked.settings {
            // The planner has run functions that follow them, as IMMUTABLE ones may.
            pg_sys::ResetPlanCache();
            return Err(Refusal::new(Reason::DefinitionsChanged, "settings have changed since it was planned"));
        }
        let description = (*(*node).ss.ss_ScanTupleSlot).tts_tupleDescriptor;
        let columns = columns_of(description);
        let compose = |options: &Rc<ResultOptions>| match accepted_by(options).refusal(&marked.conditions) {
            Some(refusal) => Err(refusal.clone()),
            None => Ok(Key::of_statement(&marked.statement, &parameters, options)),
        };
        // What is found is asked about in the statement's snapshot.
        let seeker = Seeker {
            cache: &marked.cache,
            wishes: &NO_WISHES,
            basis,
            fits: &|rows: &Rows<'_>| rows.columns().eq(columns.iter().copied()),
        };
        let Looked { number, options, key, under, found } =
            with_snapshot((*estate).es_snapshot, || seeker.look_for(compose))?;
        let found = match found {
            Found::Right(copied) => match kept(copied, &columns, description, estate) {
                Some(kept) => return Ok(Source::Kept(kept)),
                None => Found::Other,
            },
            other => other,
        };
        let missed = Missed { marked, learned, basis, description, columns, key, under, found, number, options };
        Ok(Below::looked_for(&marked.cache, missed.begin(estate)))
    }
}

/// A result that was looked for, and not found.
struct Missed<'a> {
    marked: &'a Marked,
    learned: Option<&'a Vec<Dependency>>,
    basis: Basis,
    description: pg_sys::TupleDesc,
    columns: Vec<Column>,
    key: Key,
    under: StoredUnder,
    found: Found,
    /// The cache's, as its options.
    number: u64,
    options: Rc<ResultOptions>,
}

impl Missed<'_> {
    /// Begins to make it; or why that is not to be kept.
    ///
    /// # Safety
    ///
    /// - It is of the query with this state, which begins.
    unsafe fn begin(self, estate: *mut pg_sys::EState) -> Result<Filling, Refusal> {
        let Missed { marked, learned, basis, description, columns, key, under, found, number, options } = self;
        if has_written() {
            return Err(Refusal::written());
        }
        if key::named(&options) != marked.named {
            // As above; but what was found is right, whatever this plan has of them.
            // SAFETY: marks the plans of this process.
            unsafe { pg_sys::ResetPlanCache() };
            let text = "settings that the cache names have changed since it was planned";
            return Err(Refusal::new(Reason::DefinitionsChanged, text));
        }
        let learned = match (learned, basis) {
            (_, Basis::Age(_)) => Vec::new(),
            (Some(learned), Basis::Rings(rings)) if are_definitions_the_same(&rings, learned.iter().copied()) => {
                learned.clone()
            }
            _ => {
                // This plan's results can be stored no more. PostgreSQL makes a new one when the statement is run again.
                // SAFETY: marks the plans of this process.
                unsafe { pg_sys::ResetPlanCache() };
                let text = "definitions have changed since it was planned";
                return Err(Refusal::new(Reason::DefinitionsChanged, text));
            }
        };
        if let Some(refusal) = basis.refusal_of_columns(&columns) {
            return Err(refusal);
        }
        if matches!(found, Found::Other) {
            return Err(Refusal::not_for_this_snapshot());
        }
        definitions::find(&marked.cache, Access::Write)?;
        let max_bytes = definitions::with_cache(&marked.cache, Access::Read, |cache| cache.resolved().max_entry_bytes)?;
        let catalog = Catalog::open()?;
        let emptied_before = emptied(catalog, number);
        // SAFETY: as the caller says.
        let watch = unsafe { watch(marked, &options, basis, (*estate).es_snapshot)? };
        // SAFETY: as above.
        let (terms, about, whole) = unsafe {
            let terms = with_snapshot((*estate).es_snapshot, || NO_WISHES.terms(basis, number, &options));
            (terms.ok_or_else(Refusal::being_changed)?, about(estate), Whole::new(description, &columns))
        };
        Ok(Filling {
            cache: marked.cache.clone(),
            number,
            collected: Collected::new(&key.bytes, &about.text, &columns, max_bytes),
            whole,
            key,
            under,
            found,
            learned,
            basis,
            about,
            columns,
            max_bytes,
            emptied_before,
            terms,
            untrusted: accepted_by(&options).untrusted(&marked.conditions).map(str::to_owned),
            watch,
            started: Instant::now(),
        })
    }
}

/// Why the result is not kept by this cache, if it accepts less than others.
pub(super) fn refused_by_cache(marked: &Marked) -> Option<&Refusal> {
    let by_none = Acceptance::Nothing.refusal(&marked.conditions)?;
    match definitions::find(&marked.cache, Access::Read) {
        Ok(cache) => accepted_by(&cache.results).refusal(&marked.conditions),
        Err(_) => Some(by_none),
    }
}

/// What a cache accepts of marked statements, which have no wishes.
fn accepted_by(options: &ResultOptions) -> Acceptance<'_> {
    Acceptance::OfCache(options, &NO_WISHES)
}

/// Looks after functions, where all are trusted: from before any of them runs.
///
/// # Safety
///
/// - It is the snapshot of the query that begins.
unsafe fn watch(
    marked: &Marked,
    options: &ResultOptions,
    basis: Basis,
    snapshot: pg_sys::Snapshot,
) -> Result<Option<Watch>, Refusal> {
    if !accepted_by(options).lets_run(&marked.conditions) {
        return Ok(None);
    }
    // SAFETY: as the caller says; inside of a transaction, holding no LWLock.
    unsafe { Watch::begin(basis, options, snapshot) }.ok_or_else(Refusal::no_memory).map(Some)
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
