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

use super::entries;
use super::grace::{self, Moment, Stale, Verdict};
use super::key::{Key, StoredUnder};
use super::refusal::Refusal;
use super::rows::Rows;
use super::wishes::Wishes;
use super::{trace, watch};
use crate::Version;
use crate::pg::bytea::{Before, Copied};
use crate::pg::definitions::options::ResultOptions;
use crate::pg::definitions::{self, Access};
use crate::pg::error::CacheError;
use crate::pg::refusals::Reason;
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

/// What lies under a key, with the number and the options of the cache. What is stale is noted as that.
pub(super) fn look_for(
    cache: &str,
    under: &StoredUnder,
    key: &Key,
    wishes: &Wishes,
) -> Result<(u64, Rc<ResultOptions>, Found), CacheError> {
    let grace_in =
        |options: &ResultOptions| if grace::is_possible() { wishes.grace_in(options) } else { Duration::ZERO };
    let look = || {
        let look = |cache: &definitions::DefinedCache| {
            (cache.number, Rc::clone(&cache.results), look(cache, under, key, grace_in(&cache.results)))
        };
        definitions::with_cache(cache, Access::Read, look)
    };
    let (number, options, found) = look()?;
    if watch::is_active() && !wishes.are_for_rows_alone(&options) {
        let text = "a function in it asks for a result that has a ttl, tags or a grace";
        watch::refuse(|| Refusal::new(Reason::RunsQueries, text));
    }
    let Found::Stale(stale @ Stale { moment: Moment::New, .. }) = found else { return Ok((number, options, found)) };
    entries::note_outdated(number, under, stale.copied.bytes());
    stale.note(cache, under, grace_in(&options))?;
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
            cache.count_read(CountedAs::Hit);
            entries::count_hit(cache.number, under);
            trace::count_kept();
            if watch::is_active() {
                look_at_kept(&copied);
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

/// What the running statement may make of a result, whatever its key is.
pub(in crate::pg) fn freshness(stored: &Stored<'_>) -> Freshness {
    match grace::judge(stored, Duration::ZERO) {
        Verdict::Right => Freshness::Current,
        Verdict::Gone | Verdict::Stale(_) => Freshness::Outdated,
        Verdict::NotHere => Freshness::Unknown,
    }
}

/// Who makes a result with this in it depends on what this depends on.
fn look_at_kept(copied: &Copied) {
    match Stored::parse(copied.bytes()) {
        Some(stored) => watch::look_at_kept(&stored),
        None => watch::refuse(Refusal::being_changed),
    }
}

/// Whether the transaction itself has written what a result depends on.
fn touches_own_writes(copied: &Copied) -> bool {
    let Some(stored) = Stored::parse(copied.bytes()) else { return true };
    writers::touches_one_of(stored.dependencies().map(|dependency| dependency.line))
}
