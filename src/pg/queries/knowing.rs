//! Plans that know what was counted: how often the definitions of what a result depends on have changed is read first, then
//! PostgreSQL's messages about these changes are accepted, then the plan is made.
//!
//! Where functions may run queries, what these depend on is not known before: then the numbers of all lines are read (`watch`).
//!
//! Invariant: while the numbers are the same a plan is as good as a new one, however old it is; and the result that it gives is
//! stored with them.
//!
//! Locking: none.
//!
//! Not here: how a query is planned, and what it depends on (`plan`, `marks`).
#![allow(unsafe_code)]

use pgrx::pg_sys;

use super::accepted::Acceptance;
use super::basis::Basis;
use super::lines::learn;
use super::refusal::Refusal;
use super::relations::Dependencies;
use super::watch::Watch;
use crate::pg::definitions::options::ResultOptions;
use crate::pg::stored::Dependency;
use crate::rings::table::Rings;

/// What is known of definitions since a query was planned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PlannedWith {
    /// Its result is not to be kept, and why.
    Refused(Refusal),
    /// How often the definitions of what it depends on had changed before it was planned.
    Learned(Vec<Dependency>),
    /// That could not be told.
    Unknown,
}

/// A plan, what is known of it, and who looks at what functions run where they may.
pub(super) type Watched<P> = (P, PlannedWith, Option<Watch>);

/// As [`plan_knowing`]; and looks at queries that functions run, where all are trusted: from before the last plan is made on.
///
/// # Safety
///
/// - The active snapshot is there as long as what is returned is used.
pub(super) unsafe fn plan_watching<P, E>(
    known: &mut Dependencies,
    accepts: Acceptance<'_>,
    basis: Basis,
    options: &ResultOptions,
    plan_once: impl Fn(&mut Dependencies) -> Result<P, E>,
) -> Result<Watched<P>, E> {
    let rings = basis.rings();
    // Which functions there are, and what else.
    let planned = plan_once(known)?;
    if let Some(why) = known.refusal_where(accepts) {
        return Ok((planned, PlannedWith::Refused(why.clone()), None));
    }
    if !accepts.lets_run(&known.conditions) {
        // By its age a result is kept whatever definitions do.
        let rings = || (!basis.is_age()).then_some(rings);
        let (planned, knows) = plan_knowing(known, accepts, rings, plan_once)?;
        return Ok((planned, knows, None));
    }
    // SAFETY: as the caller says; a query is planned in a snapshot, holding no LWLock.
    let Some(mut watch) = (unsafe { Watch::begin(basis, options, pg_sys::GetActiveSnapshot()) }) else {
        return Ok((planned, PlannedWith::Refused(Refusal::no_memory()), None));
    };
    let planned = watch.during(|| plan_once(known))?;
    let knows = match known.refusal_where(accepts) {
        Some(why) => PlannedWith::Refused(why.clone()),
        // Somebody has replaced something since the first plan.
        None if !accepts.lets_run(&known.conditions) => PlannedWith::Unknown,
        None => {
            let learned: Option<Vec<Dependency>> = known.keys.iter().map(|key| watch.learn(&rings, *key)).collect();
            learned.map_or(PlannedWith::Unknown, PlannedWith::Learned)
        }
    };
    Ok((planned, knows, Some(watch)))
}

/// Plans until the plan depends on nothing that was not asked for before it was made.
///
/// `known` is what the query is known to depend on; `plan_once` adds what it finds. `rings` are the lines, where they say what
/// is to be known.
pub(super) fn plan_knowing<P, E>(
    known: &mut Dependencies,
    accepts: Acceptance<'_>,
    rings: impl Fn() -> Option<Rings>,
    plan_once: impl Fn(&mut Dependencies) -> Result<P, E>,
) -> Result<(P, PlannedWith), E> {
    const TRIES: usize = 4;
    let mut tries = 1;
    loop {
        let (rings, count) = (known.refusal_where(accepts).is_none().then(&rings).flatten(), known.keys.len());
        let learned: Option<Vec<Dependency>> =
            rings.and_then(|rings| known.keys.iter().map(|key| learn(&rings, *key)).collect());
        // What was counted so far is there to be accepted; what is planned now knows it.
        // SAFETY: inside of a transaction, holding no lock.
        unsafe { pg_sys::AcceptInvalidationMessages() };
        let planned = plan_once(known)?;
        let knows = match (known.refusal_where(accepts), learned) {
            (Some(why), _) => PlannedWith::Refused(why.clone()),
            (None, Some(learned)) if known.keys.len() == count => PlannedWith::Learned(learned),
            (None, Some(_)) if tries < TRIES => {
                tries += 1;
                continue;
            }
            (None, _) => PlannedWith::Unknown,
        };
        return Ok((planned, knows));
    }
}
