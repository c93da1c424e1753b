//! What the commit rings say of a result: of each thing that it depends on, how often that was changed for the running
//! statement.
//!
//! ```text
//! learn   before the plan is made: how often the definitions have changed
//! told    when the result is complete: how many publications the snapshot sees, if the definitions are the same
//! ```
//!
//! Invariant: where a line does not tell, or the transaction itself has written there, nothing is stored.
//!
//! Locking: none; the lines are read as they are.
//!
//! Not here: whether a result that is kept is right (`tags::judge`), and who publishes (`writers`).
#![allow(unsafe_code)]

use pgrx::pg_sys;

use super::refusal::Refusal;
use crate::pg::catalog::Catalog;
use crate::pg::invalidations::{self, Target};
use crate::pg::refusals::Reason;
use crate::pg::snapshot::ActiveSnapshot;
use crate::pg::stored::{Dependency, MAX_DEPENDENCIES};
use crate::pg::writers;
use crate::rings::key::DependencyHash;
use crate::rings::switch::State;
use crate::rings::table::Rings;

/// The lines, if they tell the running statement what it needs to know; else why not.
pub(super) fn usable_rings() -> Result<Rings, Refusal> {
    // SAFETY: looks at what the current transaction is.
    let is_safe = unsafe { pg_sys::XactReadOnly && pg_sys::XactDeferrable };
    let rings = Catalog::mapped().and_then(|catalog| catalog.area().rings());
    match rings.filter(|rings| rings.relations_state() == State::On) {
        None => Err(Refusal::new(Reason::Off, "the query cache is off")),
        Some(_) if is_sampling() => Err(Refusal::sampling()),
        Some(_) if is_serializable() && !is_safe => Err(Refusal::serializable()),
        Some(rings) => Ok(rings),
    }
}

/// Whether the transaction is SERIALIZABLE, whatever it may do.
pub(super) fn is_serializable() -> bool {
    // SAFETY: looks at what the current transaction is.
    unsafe { pg_sys::XactIsoLevel == pg_sys::XACT_SERIALIZABLE as i32 }
}

/// Whether indexes leave rows out.
pub(super) fn is_sampling() -> bool {
    // SAFETY: a look at a variable of this process's only thread.
    unsafe { pg_sys::GinFuzzySearchLimit != 0 }
}

/// How often a cache has been emptied, by `invalidate_all` or `clear`.
pub(super) fn emptied(catalog: Catalog, number: u64) -> Option<u64> {
    let rings = invalidations::rings(catalog)?;
    Some(rings.publications(rings.line_of(emptied_line(number))).get())
}

/// The line in which that is counted.
pub(super) fn emptied_line(number: u64) -> DependencyHash {
    Target::All.hash(number)
}

/// How often the definitions of what a result depends on have changed; `None` if they are changing.
pub(super) fn learn(rings: &Rings, key: DependencyHash) -> Option<Dependency> {
    let line = rings.line_of(key);
    Some(Dependency { line, definitions: rings.definitions(line)?, publications: 0 })
}

/// Whether no definition has changed since this was learned.
pub(super) fn are_definitions_the_same(rings: &Rings, mut learned: impl Iterator<Item = Dependency>) -> bool {
    learned.all(|dependency| rings.definitions(dependency.line) == Some(dependency.definitions))
}

/// What the lines say to the running statement; or why they do not: its own transaction has written there, or one does not tell.
pub(super) fn seen(rings: &Rings, learned: &[Dependency]) -> Result<Vec<Dependency>, Refusal> {
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
