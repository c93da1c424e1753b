//! Results of queries that every backend shares, and that are what the query would return. docs/query-cache.md and
//! docs/commit-rings.md have the argument.
//!
//! ```text
//! key            all that a result follows from, but for rows and definitions
//! named          what a cache's owner adds to it: settings, trusted functions
//! check          whether it follows from these, as the rewritten query says
//! volatility     which functions it may have in it
//! made_of        types: what they are made of, and which ones it computes
//! accepted       what it may depend on only where the cache's owner accepts that
//! literals       literals that mean the time at which they are read
//! relations      what it depends on
//! trace          whether functions run queries of their own
//! watch          what these depend on, where the functions are trusted
//! session_plans  how old plans of the session may be for that
//! plan           a query, analysed and planned, with what its result depends on
//! knowing        plans that know how often definitions have changed
//! lines          what the commit rings say of what a result depends on
//! basis          what tells whether a result is right: the rings; or where there are none, nothing but its age
//! rows           rows as bytes
//! run            a planned query, run
//! found          what lies under a key, and what the running statement may make of it
//! fill           a call's result that is made, and stored
//! flight         the right to make it, while others wait
//! refusal        why a result is not kept
//! entries        results that are kept, for who looks at them
//! wishes         what a call says about its result: how long it lives, its tags
//! grace          results that are outdated and served all the same
//! lists          PostgreSQL's lists, read
//!
//! marks          statements as they are: which are marked, and how they are planned
//! statement      which statement a marked one is
//! scan           the node of a plan that serves or makes a marked statement's result
//! ```
//!
//! A call looks its key up. What it finds is served if each line that the result depends on says to the snapshot of the
//! running statement what it said when the result was made. Else the query runs, in the same snapshot; the result is stored
//! if the lines have told what they have to. Where anything is unclear, the query runs as if there were no cache.
//!
//! Locking: none of the area's. Of those who miss a result at once one computes, under a lock of PostgreSQL's; others wait
//! for it, unless others again may wait for them.
#![allow(unsafe_code)]

mod accepted;
mod basis;
mod check;
pub(super) mod entries;
mod fill;
mod flight;
mod found;
mod grace;
mod key;
mod knowing;
mod lines;
mod lists;
mod literals;
mod made_of;
pub(super) mod marks;
mod named;
mod plan;
mod refusal;
mod relations;
mod rows;
mod run;
mod scan;
mod session_plans;
mod statement;
pub(super) mod trace;
mod volatility;
mod watch;
mod wishes;

use std::ffi::CStr;
use std::rc::Rc;

use pgrx::pg_sys;

use self::accepted::{Acceptance, Accepted};
use self::basis::Basis;
use self::fill::{Fill, made};
use self::flight::Flight;
pub(super) use self::found::freshness;
use self::found::{Found, Looked, Seeker, count_miss};
use self::key::Key;
use self::plan::{Planned, plan};
use self::refusal::Refusal;
pub(super) use self::refusal::name_of_object;
use self::relations::Dependencies;
pub(super) use self::relations::qualified_name;
pub(super) use self::rows::{Column, Rows};
pub(super) use self::run::{columns_of, new_store};
pub(super) use self::volatility::function_name;
use self::wishes::NO_WISHES;
pub(super) use self::wishes::Wishes;
use super::bytea::Copied;
use super::definitions::{self, Access};
use super::encoding;
use super::error::CacheError;
use super::refusals::Reason;
use super::stored::Stored;

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

/// The result of a query, kept by a cache. Rows of a run are in `home`; all else is in the current memory context. `fits`:
/// whether a result has the columns that the call wants.
///
/// # Errors
///
/// There is no such cache, or the current role may not read it; the query is not one SELECT; or PostgreSQL's own ERROR.
pub(super) fn answer(
    cache: &str,
    query: &CStr,
    parameters: &[Parameter],
    wishes: &Wishes,
    fits: &dyn Fn(&Rows<'_>) -> bool,
    home: pg_sys::MemoryContext,
) -> Result<Answer, CacheError> {
    let basis = match Basis::find(cache, wishes) {
        Ok(basis) => basis,
        Err(refusal) => {
            refusal.count_in(&definitions::find(cache, Access::Read)?);
            return made(&plan(query, parameters)?, query, home);
        }
    };
    // Names mean in the key what they mean to PostgreSQL: somebody may have created a schema that is in the search path.
    // SAFETY: inside of a transaction, holding no lock.
    unsafe { pg_sys::AcceptInvalidationMessages() };
    let seeker = Seeker { cache, wishes, basis, fits };
    let compose = |options: &Rc<_>| Ok::<_, CacheError>(Key::compose(query, parameters, wishes, options));
    let Looked { number, options, key, under, found } = seeker.look_for(compose)?;
    if let Found::Right(copied) = found {
        return Ok(Answer::Kept(copied));
    }
    let (mut flight, mut found) = match Flight::begin(found, number, &under) {
        Ok(begun) => begun,
        Err(stale) => return Ok(Answer::Kept(stale.serve(cache, &under)?)),
    };
    while matches!(flight, Flight::Waited(_)) {
        found = seeker.look_again(number, &under, &key)?;
        if let Found::Right(copied) = found {
            return Ok(Answer::Kept(copied));
        }
        flight = flight.begin_again(number, &under);
    }
    count_miss(cache)?;
    Fill { cache, number, options, wishes, basis, key: &key, under: &under, found, flight, home }
        .fill(query, parameters)
}

/// Why the result of a query would not be kept, if so, and the names of relations that it depends on.
///
/// # Errors
///
/// As [`answer`].
pub(super) fn explain(query: &CStr, parameters: &[Parameter], cache: Option<&str>) -> Result<Explained, CacheError> {
    let options = cache.map(|cache| definitions::find(cache, Access::Read)).transpose()?.map(|cache| cache.results);
    let accepts = options.as_ref().map_or(Acceptance::Nothing, |options| Acceptance::OfCache(options, &NO_WISHES));
    let Planned { statement, dependencies, .. } = plan(query, parameters)?;
    // SAFETY: a plan, with a list of what it returns; the description is new.
    let columns = unsafe { columns_of(pg_sys::ExecCleanTypeFromTL((*(*statement).planTree).targetlist)) };
    let basis = cache.and_then(|cache| Basis::find(cache, &NO_WISHES).ok());
    let relations =
        dependencies.relations.iter().map(|relation| encoding::message(relations::qualified_name(*relation))).collect();
    let conditions = &dependencies.conditions;
    let refusal = dependencies.refusal_where(accepts).map(|refusal| match refusal.reason {
        Reason::RunsQueries => plan::untrusted_refusal(accepts.untrusted(conditions)).to_string(),
        _ => refusal.to_string(),
    });
    let of_columns = || match basis {
        Some(basis) => basis.refusal_of_columns(&columns),
        None => plan::refusal_of_columns(&columns),
    };
    let refusal = refusal.or_else(|| of_columns().map(|refusal| refusal.to_string()));
    let is_kept = refusal.is_none();
    let of_clock = || of_clock(&dependencies).map(|why| format!("{why}: kept for the cache's ttl"));
    let of_age = || {
        let goes_by_age = basis.is_some_and(Basis::is_age);
        goes_by_age.then(|| "nothing tells whether it is right: kept for the cache's ttl".to_owned())
    };
    let of_functions = || accepts.lets_run(conditions).then(|| READ_BY_FUNCTIONS.to_owned());
    let reason = refusal.or_else(of_clock).or_else(of_age).or_else(of_functions);
    Ok(Explained { is_kept, reason: reason.map(encoding::message), relations })
}

/// What is said where a result depends on more than is known before its query runs.
const READ_BY_FUNCTIONS: &str = "its functions are trusted: what they read is found when they run";

/// How a result depends on the clock, if it does.
fn of_clock(dependencies: &Dependencies) -> Option<&Refusal> {
    let condition = dependencies.conditions.iter().find(|condition| condition.needs == Accepted::Clock);
    condition.map(|condition| &condition.refusal)
}

/// What there is to say of a query.
pub(super) struct Explained {
    pub(super) is_kept: bool,
    /// Why it is not, or not for ever.
    pub(super) reason: Option<String>,
    /// The names of those that it depends on.
    pub(super) relations: Vec<String>,
}
