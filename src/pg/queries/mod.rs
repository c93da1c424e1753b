//! Results of queries that every backend shares, and that are what the query would return. docs/query-cache.md has the
//! argument.
//!
//! ```text
//! key        all that a result follows from, but for rows and definitions
//! check      whether it follows from these, as the rewritten query says
//! literals   literals that mean the time at which they are read
//! relations  what it depends on
//! trace      whether functions run queries of their own
//! plan       a query, analysed and planned, with what its result depends on
//! rows       rows as bytes
//! run        a planned query, run
//! refusal    why a result is not kept
//! entries    results that are kept, for who looks at them
//! wishes     what a call says about its result: how long it lives, its tags
//! grace      results that are outdated and served all the same
//!
//! marks      statements as they are: which are marked, and how they are planned
//! statement  which statement a marked one is, and what its plan knows about it
//! scan       the node of a plan that serves or makes a marked statement's result
//! ```
//!
//! A call looks its key up. What it finds is served if each line that the result depends on says to the snapshot of the
//! running statement what it said when the result was made. Else the query runs, in the same snapshot; the result is stored
//! if the lines have told what they have to. Where anything is unclear, the query runs as if there were no cache.
//!
//! Locking: none of the area's. Of those who miss a result at once one computes, under a lock of PostgreSQL's; others wait
//! for it, unless others again may wait for them.
#![allow(unsafe_code)]

mod check;
pub(super) mod entries;
mod grace;
mod key;
mod literals;
pub(super) mod marks;
mod plan;
mod refusal;
mod relations;
mod rows;
mod run;
mod scan;
mod statement;
pub(super) mod trace;
mod wishes;

use std::ffi::CStr;
use std::time::{Duration, Instant};

use pgrx::pg_sys;

use self::grace::{Moment, Stale, Verdict};
use self::key::{Key, StoredUnder};
use self::plan::{Planned, plan};
use self::refusal::Refusal;
pub(super) use self::refusal::name_of_object;
pub(super) use self::relations::qualified_name;
use self::rows::{About, Collected};
pub(super) use self::rows::{Column, Rows};
pub(super) use self::run::columns_of;
pub(super) use self::wishes::Wishes;
use self::wishes::{Clock, Terms};
use super::advisory::{AdvisoryLock, Class};
use super::catalog::Catalog;
use super::definitions::options::ResultOptions;
use super::definitions::{self, Access};
use super::encoding;
use super::error::CacheError;
use super::functions::bytea::{Before, Copied};
use super::invalidations::{self, Target};
use super::ledger::now_us;
use super::refusals::Reason;
use super::snapshot::{ActiveSnapshot, has_written};
use super::stored::{Dependency, MAX_DEPENDENCIES, Stored};
use super::tags::Freshness;
use super::writers;
use crate::Version;
use crate::engine::counters::Removal;
use crate::rings::key::KeyHash;
use crate::rings::switch::State;
use crate::rings::table::Rings;

/// A parameter of a query.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parameter {
    pub(super) oid: pg_sys::Oid,
    pub(super) datum: pg_sys::Datum,
    pub(super) is_null: bool,
}

/// What a call gets.
pub(super) enum Answer {
    /// The result that is kept: a copy.
    Kept(Copied),
    /// The result of a run.
    Made(*mut pg_sys::Tuplestorestate, Vec<Column>),
}

impl Answer {
    /// The rows of a kept result.
    pub(super) fn rows(copied: &Copied) -> Option<Rows<'_>> {
        Rows::parse(Stored::parse(copied.bytes())?.value)
    }
}

/// What lies under a key.
enum Found {
    Right(Copied),
    Nothing,
    /// Nobody will want it any more.
    Outdated(Version),
    /// The same; but this call may get it while somebody makes a new one.
    Stale(Stale),
    /// Something that has to stay.
    Other,
}

impl Found {
    /// For who does not serve what is stale.
    fn without_stale(self) -> Found {
        match self {
            Found::Stale(stale) => Found::Outdated(stale.into_version()),
            other => other,
        }
    }
}

/// The result of a query, kept by a cache. Rows of a run are in `home`; all else is in the current memory context.
///
/// # Errors
///
/// There is no such cache, or the current role may not read it; the query is not one SELECT; or PostgreSQL's own ERROR.
pub(super) fn answer(
    cache: &str,
    query: &CStr,
    parameters: &[Parameter],
    wishes: &Wishes,
    home: pg_sys::MemoryContext,
) -> Result<Answer, CacheError> {
    let rings = match usable_rings() {
        Ok(rings) => rings,
        Err(refusal) => {
            refusal.count_in(&definitions::find(cache, Access::Read)?);
            return made(&plan(query, parameters)?, query, home);
        }
    };
    // Names mean in the key what they mean to PostgreSQL: somebody may have created a schema that is in the search path.
    // SAFETY: inside of a transaction, holding no lock.
    unsafe { pg_sys::AcceptInvalidationMessages() };
    let key = Key::compose(query, parameters, wishes);
    let under = key.stored_under();
    let look = || look_for(cache, &under, &key, wishes);
    let (number, options, mut found) = look()?;
    if let Found::Right(copied) = found {
        return Ok(Answer::Kept(copied));
    }
    let mut flight = match found {
        Found::Stale(stale) => match Flight::begin_at_once(number, &under) {
            Some(flight) => {
                found = Found::Outdated(stale.into_version());
                flight
            }
            None => return Ok(Answer::Kept(stale.serve(cache, &under)?)),
        },
        other => {
            found = other;
            Flight::begin(number, &under)
        }
    };
    if matches!(flight, Flight::Waited(_)) {
        found = look()?.2.without_stale();
        if let Found::Right(copied) = found {
            flight.end();
            return Ok(Answer::Kept(copied));
        }
    }
    let fill = Fill { cache, number, options, wishes, rings, key: &key, under: &under, found, home };
    let filled = fill.fill(query, parameters)?;
    flight.end();
    Ok(filled)
}

/// The lines, if they tell the running statement what it needs to know; else why not.
fn usable_rings() -> Result<Rings, Refusal> {
    // SAFETY: looks at what the current transaction is.
    let is_serializable = unsafe {
        let is_safe = pg_sys::XactReadOnly && pg_sys::XactDeferrable;
        pg_sys::XactIsoLevel == pg_sys::XACT_SERIALIZABLE as i32 && !is_safe
    };
    let rings = Catalog::mapped().and_then(|catalog| catalog.area().rings());
    match rings.filter(|rings| rings.relations_state() == State::On) {
        None => Err(Refusal::new(Reason::Off, "the query cache is off")),
        // SAFETY: a look at a variable of this process's only thread.
        Some(_) if unsafe { pg_sys::GinFuzzySearchLimit } != 0 => {
            Err(Refusal::new(Reason::Sample, "gin_fuzzy_search_limit leaves rows out at random"))
        }
        Some(_) if is_serializable => Err(Refusal::new(Reason::Serializable, "the transaction is SERIALIZABLE")),
        Some(rings) => Ok(rings),
    }
}

/// What lies under a key, with the number and the options of the cache. What is stale is noted as that.
fn look_for(
    cache: &str,
    under: &StoredUnder,
    key: &Key,
    wishes: &Wishes,
) -> Result<(u64, ResultOptions, Found), CacheError> {
    let grace_in = |options| if grace::is_possible() { wishes.grace_in(options) } else { Duration::ZERO };
    let look = || {
        let look = |cache: &definitions::DefinedCache| {
            (cache.number, cache.results, look(cache, under, key, grace_in(cache.results)))
        };
        definitions::with_cache(cache, Access::Read, look)
    };
    let (number, options, found) = look()?;
    let Found::Stale(stale @ Stale { moment: Moment::New, .. }) = found else { return Ok((number, options, found)) };
    entries::note_outdated(number, under, stale.copied.bytes());
    stale.note(cache, under, grace_in(options))?;
    stale.copied.free();
    let (number, options, found) = look()?;
    // What could not be noted is not served.
    let found =
        if matches!(found, Found::Stale(Stale { moment: Moment::New, .. })) { found.without_stale() } else { found };
    Ok((number, options, found))
}

/// `grace`: by how much rows may be old.
fn look(cache: &definitions::DefinedCache, under: &StoredUnder, key: &Key, grace: Duration) -> Found {
    // What the transaction itself empties is empty for it.
    if invalidations::hides_some() && invalidations::hides(cache.number, under) {
        return Found::Other;
    }
    let Some(copied) = Copied::fetch(cache, under, Before::Nothing) else { return Found::Nothing };
    let verdict = match Stored::parse(copied.bytes()).filter(|stored| stored.is_result) {
        Some(stored) if Rows::parse(stored.value).is_some_and(|rows| rows.key == key.0) => grace::judge(&stored, grace),
        // Of another query with the same hash, or what somebody has put there.
        _ => Verdict::NotHere,
    };
    match verdict {
        Verdict::Right if !touches_own_writes(&copied) => {
            entries::count_hit(cache.number, under);
            Found::Right(copied)
        }
        Verdict::Gone => {
            entries::note_outdated(cache.number, under, copied.bytes());
            let version = copied.version;
            copied.free();
            Found::Outdated(version)
        }
        Verdict::Stale(moment) => Found::Stale(Stale { copied, moment }),
        Verdict::Right | Verdict::NotHere => {
            copied.free();
            Found::Other
        }
    }
}

/// What the running statement may make of a result, whatever its key is.
pub(super) fn freshness(stored: &Stored<'_>) -> Freshness {
    match grace::judge(stored, Duration::ZERO) {
        Verdict::Right => Freshness::Current,
        Verdict::Gone | Verdict::Stale(_) => Freshness::Outdated,
        Verdict::NotHere => Freshness::Unknown,
    }
}

/// Whether the transaction itself has written what a result depends on.
fn touches_own_writes(copied: &Copied) -> bool {
    let Some(stored) = Stored::parse(copied.bytes()) else { return true };
    writers::touches_one_of(stored.dependencies().map(|dependency| dependency.line))
}

/// A result that is being made, and stored if it can be.
struct Fill<'a> {
    cache: &'a str,
    number: u64,
    options: ResultOptions,
    wishes: &'a Wishes,
    rings: Rings,
    key: &'a Key,
    under: &'a StoredUnder,
    found: Found,
    home: pg_sys::MemoryContext,
}

impl Fill<'_> {
    fn fill(self, query: &CStr, parameters: &[Parameter]) -> Result<Answer, CacheError> {
        let started = Instant::now();
        // Whatever empties the cache meanwhile voids this. The first to ask renews all definitions, so this comes first.
        let catalog = Catalog::open()?;
        let emptied_before = emptied(catalog, self.number);
        // And so is it voided by whoever invalidates a tag.
        let terms = self.wishes.terms(&self.rings, self.number, self.options);
        let (planned, learned) = self.plan(query, parameters)?;
        // A schema of the search path may have come or gone, which the plan knows and the key does not.
        let may_store = || match definitions::find(self.cache, Access::Write) {
            Ok(_) if self.key.is_of_session() => Ok(()),
            Ok(_) => Err(Refusal::being_changed()),
            Err(error) => Err(error.into()),
        };
        let learned = learned.and_then(|learned| may_store().map(|()| learned));
        let (learned, terms) = match (learned, terms.ok_or_else(Refusal::being_changed)) {
            (Ok(learned), Ok(terms)) => (learned, terms),
            (Err(refusal), _) | (_, Err(refusal)) => {
                refusal.count(self.cache);
                return made(&planned, query, self.home);
            }
        };
        let about = About { text: Vec::new(), relations: planned.dependencies.relations.clone() };
        let max_bytes = definitions::with_cache(self.cache, Access::Read, |cache| cache.resolved().max_entry_bytes)?;
        let starts = trace::starts();
        let store = new_store(self.home);
        let output = run::run(&planned, query, store, |columns| {
            plan::refusal_of_columns(columns).is_none().then(|| Collected::new(&self.key.0, &about, columns, max_bytes))
        });
        // SAFETY: it was planned, in memory that is still there.
        let own = u64::from(unsafe { trace::is_counted(planned.statement) });
        let runs_others = trace::starts() != starts + own;
        let micros = started.elapsed().as_micros() as u64;
        let still = || emptied(catalog, self.number) == emptied_before && terms.hold(&self.rings);
        let refusal = match output.collected {
            None => plan::refusal_of_columns(&output.columns),
            Some(_) if runs_others => Some(plan::trace_refusal()),
            Some(collected) => match (collected.finish(micros, now_us()), seen(&self.rings, &learned)) {
                (None, _) => Some(Refusal::too_large()),
                (_, Err(refusal)) => Some(refusal),
                (Some(rows), Ok(dependencies)) => {
                    let stored = terms.compose(&rows, &dependencies)?;
                    store_result(self.cache, self.under, &self.found, &stored, &terms, still)?
                }
            },
        };
        if let Some(refusal) = refusal {
            refusal.count(self.cache);
        }
        Ok(Answer::Made(store, output.columns))
    }

    /// Plans a query, and says how often the definitions of all that it depends on have changed, so that the plan has all
    /// these changes. Or why the result is not to be kept.
    #[allow(clippy::type_complexity)] // a plan is there in any case
    fn plan(
        &self,
        query: &CStr,
        parameters: &[Parameter],
    ) -> Result<(Planned, Result<Vec<Dependency>, Refusal>), CacheError> {
        const TRIES: usize = 3;
        let clock = self.wishes.clock_in(self.options);
        let mut known = plan(query, parameters)?;
        for _ in 0..TRIES {
            let learned = match known.dependencies.refusal_where(clock) {
                Some(_) => None,
                None => known.dependencies.keys.iter().map(|key| learn(&self.rings, *key)).collect(),
            };
            let Some(learned) = learned else { break };
            // What was counted so far is there to be accepted; what is planned now knows it.
            // SAFETY: inside of a transaction, holding no lock.
            unsafe { pg_sys::AcceptInvalidationMessages() };
            let planned = plan(query, parameters)?;
            let is_known = planned.dependencies.keys.iter().all(|key| known.dependencies.keys.contains(key));
            if is_known && planned.dependencies.refusal_where(clock).is_none() {
                return Ok((planned, Ok(learned)));
            }
            known = planned;
        }
        let refusal = known.dependencies.refusal_where(clock).cloned().unwrap_or_else(Refusal::being_changed);
        Ok((known, Err(refusal)))
    }
}

/// How often a cache has been emptied, by `invalidate_all` or `clear`.
fn emptied(catalog: Catalog, number: u64) -> Option<u64> {
    let rings = invalidations::rings(catalog)?;
    Some(rings.publications(rings.line_of(emptied_line(number))).get())
}

/// The line in which that is counted.
fn emptied_line(number: u64) -> KeyHash {
    Target::All.hash(number)
}

/// How often the definitions of what a result depends on have changed; `None` if they are changing.
fn learn(rings: &Rings, key: KeyHash) -> Option<Dependency> {
    let line = rings.line_of(key);
    Some(Dependency { line, definitions: rings.definitions(line)?, publications: 0 })
}

/// Whether no definition has changed since this was learned.
fn are_definitions_the_same(rings: &Rings, mut learned: impl Iterator<Item = Dependency>) -> bool {
    learned.all(|dependency| rings.definitions(dependency.line) == Some(dependency.definitions))
}

/// What the lines say to the running statement; or why they do not: its own transaction has written there, or one does not tell.
fn seen(rings: &Rings, learned: &[Dependency]) -> Result<Vec<Dependency>, Refusal> {
    if writers::touches_one_of(learned.iter().map(|dependency| dependency.line)) {
        return Err(Refusal::written());
    }
    told(rings, learned).ok_or_else(Refusal::being_changed)
}

/// What the lines say to the running statement; `None` if one does not tell.
fn told(rings: &Rings, learned: &[Dependency]) -> Option<Vec<Dependency>> {
    let snapshot = ActiveSnapshot::get()?;
    let mut seen: Vec<Dependency> = Vec::with_capacity(learned.len());
    for Dependency { line, definitions, .. } in learned.iter().copied() {
        if seen.iter().all(|dependency| dependency.line != line) {
            let publications = rings.ver_of_relation(&snapshot, line, definitions)?.get();
            seen.push(Dependency { line, definitions, publications });
        }
    }
    (seen.len() <= MAX_DEPENDENCIES).then_some(seen)
}

/// Stores a result in the place of what was found, if that is still there; else why not.
fn store_result(
    cache: &str,
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
fn made(planned: &Planned, query: &CStr, home: pg_sys::MemoryContext) -> Result<Answer, CacheError> {
    let store = new_store(home);
    let output = run::run(planned, query, store, |_| None);
    Ok(Answer::Made(store, output.columns))
}

pub(super) fn new_store(home: pg_sys::MemoryContext) -> *mut pg_sys::Tuplestorestate {
    // SAFETY: a memory context; the store is freed with it.
    unsafe {
        let before = pg_sys::MemoryContextSwitchTo(home);
        let store = pg_sys::tuplestore_begin_heap(true, false, pg_sys::work_mem);
        pg_sys::MemoryContextSwitchTo(before);
        store
    }
}

/// Why the result of a query would not be kept, if so, and the names of relations that it depends on.
///
/// # Errors
///
/// As [`answer`].
pub(super) fn explain(query: &CStr, parameters: &[Parameter], cache: Option<&str>) -> Result<Explained, CacheError> {
    let options = cache.map(|cache| definitions::find(cache, Access::Read)).transpose()?.map(|cache| cache.results);
    let clock = options.map_or(Clock::Refused, |options| Wishes::default().clock_in(options));
    let Planned { dependencies, .. } = plan(query, parameters)?;
    let relations =
        dependencies.relations.iter().map(|relation| encoding::message(relations::qualified_name(*relation))).collect();
    let refusal = dependencies.refusal_where(clock).map(Refusal::to_string);
    let is_kept = refusal.is_none();
    let reason = refusal.or_else(|| dependencies.clock.map(|why| format!("{why}: kept for the cache's ttl")));
    Ok(Explained { is_kept, reason: reason.map(encoding::message), relations })
}

/// What there is to say of a query.
pub(super) struct Explained {
    pub(super) is_kept: bool,
    /// Why it is not, or not for ever.
    pub(super) reason: Option<String>,
    /// The names of those that it depends on.
    pub(super) relations: Vec<String>,
}

/// The right to compute a result, while others wait for it.
enum Flight {
    /// Had at once.
    Begun(AdvisoryLock),
    /// Had after somebody else's.
    Waited(AdvisoryLock),
    /// Somebody else has it, and is not waited for.
    Not,
}

impl Flight {
    /// `None` if somebody else has it.
    fn begin_at_once(number: u64, under: &StoredUnder) -> Option<Flight> {
        let lock = AdvisoryLock::new(Class::Result, number, under);
        lock.try_take().then_some(Flight::Begun(lock))
    }

    fn begin(number: u64, under: &StoredUnder) -> Flight {
        if let Some(begun) = Flight::begin_at_once(number, under) {
            return begun;
        }
        let lock = AdvisoryLock::new(Class::Result, number, under);
        // Others may wait for who has an id or holds such a lock; and that could be who computes.
        if has_written() || writers::holds_locks_of_writers() {
            return Flight::Not;
        }
        lock.take();
        Flight::Waited(lock)
    }

    fn end(&mut self) {
        if let Flight::Begun(lock) | Flight::Waited(lock) = self {
            lock.give_back();
        }
        *self = Flight::Not;
    }
}

/// The pointers of a list.
///
/// # Safety
///
/// - It is a list of pointers to this type, or null, and outlives the iterator.
unsafe fn pointers<T>(list: *mut pg_sys::List) -> impl Iterator<Item = *mut T> {
    // SAFETY: as the caller says.
    let count = unsafe { list.as_ref() }.map_or(0, |list| list.length);
    // SAFETY: as the caller says; inside of the list.
    (0..count as usize).map(move |index| unsafe { (*(*list).elements.add(index)).ptr_value.cast() })
}

/// The OIDs of a list.
///
/// # Safety
///
/// - It is a list of OIDs, or null, and outlives the iterator.
unsafe fn oids(list: *mut pg_sys::List) -> impl ExactSizeIterator<Item = pg_sys::Oid> {
    // SAFETY: as the caller says.
    let count = unsafe { list.as_ref() }.map_or(0, |list| list.length);
    // SAFETY: as the caller says; inside of the list.
    (0..count as usize).map(move |index| unsafe { (*(*list).elements.add(index)).oid_value })
}
