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
use super::rows::Rows;
use super::wishes::Wishes;
use crate::Version;
use crate::pg::bytea::{Before, Copied};
use crate::pg::definitions::options::ResultOptions;
use crate::pg::definitions::{self, Access, DefinedCache};
use crate::pg::error::CacheError;
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

/// A result that was looked for.
pub(super) struct Looked {
    /// The cache's, as its options.
    pub(super) number: u64,
    pub(super) options: Rc<ResultOptions>,
    pub(super) key: Key,
    pub(super) under: StoredUnder,
    pub(super) found: Found,
}

/// Looks for a result, under the key that it has in a cache with these options. Whatever is decided later is decided by the same
/// options: they may be changed meanwhile. What is stale is noted as that.
pub(super) fn look_for<E: From<CacheError>>(
    cache: &str,
    wishes: &Wishes,
    compose: impl Fn(&Rc<ResultOptions>) -> Result<Key, E>,
) -> Result<Looked, E> {
    loop {
        let defined = definitions::find(cache, Access::Read)?;
        let key = compose(&defined.results)?;
        let under = key.stored_under();
        let grace = grace_in(wishes, &defined.results);
        if let Some(found) = definitions::unless_dropped(|| look(&defined, &under, &key, grace)) {
            let DefinedCache { number, results: options, .. } = defined;
            let found = noted(cache, number, &under, &key, grace, found)?;
            return Ok(Looked { number, options, key, under, found });
        }
    }
}

/// Looks again in the cache of this number, for who has waited: what is stale is outdated for him.
pub(super) fn look_again(
    cache: &str,
    number: u64,
    under: &StoredUnder,
    key: &Key,
    wishes: &Wishes,
) -> Result<Found, CacheError> {
    let (grace, found) = look_in(cache, number, under, key, |options| grace_in(wishes, options))?;
    Ok(noted(cache, number, under, key, grace, found)?.without_stale())
}

/// By how much rows may be old for the running statement.
fn grace_in(wishes: &Wishes, options: &ResultOptions) -> Duration {
    if grace::is_possible() { wishes.grace_in(options) } else { Duration::ZERO }
}

/// Notes what is stale as that.
fn noted(
    cache: &str,
    number: u64,
    under: &StoredUnder,
    key: &Key,
    grace: Duration,
    found: Found,
) -> Result<Found, CacheError> {
    let Found::Stale(stale @ Stale { moment: Moment::New, .. }) = found else { return Ok(found) };
    entries::note_outdated(number, under, stale.copied.bytes());
    stale.note(cache, under, grace)?;
    stale.copied.free();
    let (_, found) = look_in(cache, number, under, key, |_| grace)?;
    // What could not be noted is not served.
    Ok(if matches!(found, Found::Stale(Stale { moment: Moment::New, .. })) { found.without_stale() } else { found })
}

/// What lies in the cache of this name, if it still has this number; and by how much rows may be old.
fn look_in(
    cache: &str,
    number: u64,
    under: &StoredUnder,
    key: &Key,
    grace: impl Fn(&ResultOptions) -> Duration,
) -> Result<(Duration, Found), CacheError> {
    definitions::with_cache(cache, Access::Read, |cache| {
        let grace = grace(&cache.results);
        let found = if cache.number == number { look(cache, under, key, grace) } else { Found::Other };
        (grace, found)
    })
}

/// `grace`: by how much rows may be old.
fn look(cache: &DefinedCache, under: &StoredUnder, key: &Key, grace: Duration) -> Found {
    // What the transaction itself empties is empty for it.
    if invalidations::hides_some() && invalidations::hides(cache.number, under) {
        return Found::Other;
    }
    let Some(copied) = Copied::fetch(cache, under, Before::Nothing) else { return Found::Nothing };
    let verdict = match Stored::parse(copied.bytes()).filter(|stored| stored.is_result) {
        Some(stored) if Rows::parse(stored.value).is_some_and(|rows| rows.key == key.bytes) => {
            grace::judge(&stored, grace)
        }
        // Of another query with the same hash, or what somebody has put there.
        _ => Verdict::NotHere,
    };
    match verdict {
        Verdict::Right if !touches_own_writes(&copied) => {
            cache.count_read(CountedAs::Hit);
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

/// Whether the transaction itself has written what a result depends on.
fn touches_own_writes(copied: &Copied) -> bool {
    let Some(stored) = Stored::parse(copied.bytes()) else { return true };
    writers::touches_one_of(stored.dependencies().map(|dependency| dependency.line))
}
