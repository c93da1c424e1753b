//! What lies under a key, and what the running statement may make of it.
//!
//! Invariant: what is served was looked at in the statement's own snapshot, and its own transaction has touched nothing that it
//! depends on. What is outdated is noted as that by the first who may serve it, before anybody does.
//!
//! Counted is what came of a look, once: what is right as a hit, at once; what is served though it is outdated when it is
//! served (`grace`); all else as a miss, when it is known that the query runs ([`count_miss`]). Who has waited for another's
//! result, and gets it, has a hit.
//!
//! Locking: the cache's own, for the time of a copy.
//!
//! Not here: what a result is for a snapshot (`grace::judge`), and what becomes of it where it is not right (`fill`).

use std::rc::Rc;
use std::time::Duration;

use super::basis::Basis;
use super::entries;
use super::grace::{self, Moment, Stale, Verdict};
use super::key::{Key, StoredUnder};
use super::lines::usable_rings;
use super::rows::Rows;
use super::wishes::Wishes;
use crate::Version;
use crate::pg::bytea::{Before, Copied};
use crate::pg::catalog::Catalog;
use crate::pg::definitions::options::ResultOptions;
use crate::pg::definitions::{self, Access};
use crate::pg::error::CacheError;
use crate::pg::ledger::SqlCounter;
use crate::pg::stored::Stored;
use crate::pg::tags::Freshness;
use crate::pg::{invalidations, writers};
use crate::shared::bounded::CountedAs;

/// What lies under a key.
pub(super) enum Found {
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
    pub(super) fn without_stale(self) -> Found {
        match self {
            Found::Stale(stale) => Found::Outdated(stale.into_version()),
            other => other,
        }
    }
}

/// What is looked for.
#[derive(Clone, Copy)]
pub(super) struct Sought<'a> {
    pub(super) cache: &'a str,
    pub(super) under: &'a StoredUnder,
    pub(super) key: &'a Key,
    pub(super) wishes: &'a Wishes,
    pub(super) basis: Basis,
    /// Whether a result has the columns that are wanted. A checked one has those of the query, and who wants others is told.
    pub(super) fits: &'a dyn Fn(&Rows<'_>) -> bool,
}

impl Sought<'_> {
    /// By how much rows may be old, though the rings tell that they are.
    fn grace_in(&self, options: &ResultOptions) -> Duration {
        if grace::is_possible() { self.wishes.grace_in(options) } else { Duration::ZERO }
    }
}

/// What lies under a key, with the number and the options of the cache. What is stale is noted as that.
pub(super) fn look_for(sought: &Sought<'_>) -> Result<(u64, Rc<ResultOptions>, Found), CacheError> {
    let Sought { cache, under, .. } = *sought;
    let look = || {
        let look = |cache: &definitions::DefinedCache| (cache.number, Rc::clone(&cache.results), look(cache, sought));
        definitions::with_cache(cache, Access::Read, look)
    };
    let (number, options, found) = look()?;
    let Found::Stale(stale @ Stale { moment: Moment::New, .. }) = found else { return Ok((number, options, found)) };
    entries::note_outdated(number, under, stale.copied.bytes());
    stale.note(cache, under, sought.grace_in(&options))?;
    stale.copied.free();
    let (number, options, found) = look()?;
    // What could not be noted is not served.
    let found =
        if matches!(found, Found::Stale(Stale { moment: Moment::New, .. })) { found.without_stale() } else { found };
    Ok((number, options, found))
}

fn look(cache: &definitions::DefinedCache, sought: &Sought<'_>) -> Found {
    let Sought { under, key, basis, fits, .. } = *sought;
    // What the transaction itself empties is empty for it.
    if invalidations::hides_some() && invalidations::hides(cache.number, under) {
        return Found::Other;
    }
    let Some(copied) = Copied::fetch(cache, under, Before::Nothing) else { return Found::Nothing };
    let stored = Stored::parse(copied.bytes()).filter(|stored| stored.is_result);
    let of_key = stored.and_then(|stored| Some((stored, Rows::parse(stored.value).filter(|rows| rows.key == key.0)?)));
    let verdict = match (of_key, basis) {
        (Some((stored, _)), Basis::Rings(_)) => grace::judge(&stored, sought.grace_in(&cache.results)),
        (Some((_, rows)), Basis::Age(_)) if !fits(&rows) => Verdict::Gone,
        (Some((stored, _)), Basis::Age(_)) => grace::judge_by_age(&stored),
        // Of another query with the same hash, or what somebody has put there.
        (None, _) => Verdict::NotHere,
    };
    match verdict {
        Verdict::Right if !touches_own_writes(&copied) => {
            cache.count_read(CountedAs::Hit);
            entries::count_hit(cache.number, under);
            if let (Basis::Age(_), Some(catalog)) = (basis, Catalog::mapped()) {
                catalog.ledger(cache.tenant).count(SqlCounter::ServedUnchecked);
            }
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

/// Counts that a result was looked for, and none served: its query runs.
pub(super) fn count_miss(cache: &str) -> Result<(), CacheError> {
    definitions::with_cache(cache, Access::Read, |cache| cache.count_read(CountedAs::Miss))
}

/// What the running statement may make of a result, whatever its key is; of an unchecked one, if its cache accepts such.
pub(in crate::pg) fn freshness(stored: &Stored<'_>) -> Freshness {
    let goes_by_age = stored.is_unchecked() && usable_rings().is_err() && writers::stay_off();
    match if goes_by_age { grace::judge_by_age(stored) } else { grace::judge(stored, Duration::ZERO) } {
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
