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
use super::refusal::Refusal;
use super::rows::Rows;
use super::wishes::Wishes;
use super::{trace, watch};
use crate::Version;
use crate::pg::bytea::{Before, Copied};
use crate::pg::catalog::Catalog;
use crate::pg::definitions::options::ResultOptions;
use crate::pg::definitions::{self, Access, DefinedCache};
use crate::pg::error::CacheError;
use crate::pg::ledger::SqlCounter;
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

/// Who looks for a result.
#[derive(Clone, Copy)]
pub(super) struct Seeker<'a> {
    /// The name of the cache.
    pub(super) cache: &'a str,
    pub(super) wishes: &'a Wishes,
    pub(super) basis: Basis,
    /// Whether a result has the columns that are wanted. A checked one has those of the query, and who wants others is told.
    pub(super) fits: &'a dyn Fn(&Rows<'_>) -> bool,
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

impl Seeker<'_> {
    /// Looks for a result, under the key that it has in a cache with these options. Whatever is decided later is decided by the
    /// same options: they may be changed meanwhile. What is stale is noted as that.
    pub(super) fn look_for<E: From<CacheError>>(
        self,
        compose: impl Fn(&Rc<ResultOptions>) -> Result<Key, E>,
    ) -> Result<Looked, E> {
        loop {
            let cache = definitions::find(self.cache, Access::Read)?;
            let key = compose(&cache.results)?;
            let under = key.stored_under();
            let grace = self.grace_in(&cache.results);
            if let Some(found) = definitions::unless_dropped(|| self.look(&cache, &under, &key, grace)) {
                let DefinedCache { number, results: options, .. } = cache;
                if watch::is_active() && !self.wishes.are_for_rows_alone(&options) {
                    let text = "a function in it asks for a result that has a ttl, tags or a grace";
                    watch::refuse(|| Refusal::new(Reason::RunsQueries, text));
                }
                let found = self.noted(number, &under, &key, grace, found)?;
                return Ok(Looked { number, options, key, under, found });
            }
        }
    }

    /// Looks again in the cache of this number, for who has waited: what is stale is outdated for him.
    pub(super) fn look_again(self, number: u64, under: &StoredUnder, key: &Key) -> Result<Found, CacheError> {
        let (grace, found) = self.look_in(number, under, key, |options| self.grace_in(options))?;
        Ok(self.noted(number, under, key, grace, found)?.without_stale())
    }

    /// By how much rows may be old, though the rings tell that they are.
    fn grace_in(self, options: &ResultOptions) -> Duration {
        if grace::is_possible() { self.wishes.grace_in(options) } else { Duration::ZERO }
    }

    /// Notes what is stale as that.
    fn noted(
        self,
        number: u64,
        under: &StoredUnder,
        key: &Key,
        grace: Duration,
        found: Found,
    ) -> Result<Found, CacheError> {
        let Found::Stale(stale @ Stale { moment: Moment::New, .. }) = found else { return Ok(found) };
        entries::note_outdated(number, under, stale.copied.bytes());
        stale.note(self.cache, under, grace)?;
        stale.copied.free();
        let (_, found) = self.look_in(number, under, key, |_| grace)?;
        // What could not be noted is not served.
        Ok(if matches!(found, Found::Stale(Stale { moment: Moment::New, .. })) { found.without_stale() } else { found })
    }

    /// What lies in the cache, if it still has this number; and by how much rows may be old.
    fn look_in(
        self,
        number: u64,
        under: &StoredUnder,
        key: &Key,
        grace: impl Fn(&ResultOptions) -> Duration,
    ) -> Result<(Duration, Found), CacheError> {
        definitions::with_cache(self.cache, Access::Read, |cache| {
            let grace = grace(&cache.results);
            let found = if cache.number == number { self.look(cache, under, key, grace) } else { Found::Other };
            (grace, found)
        })
    }

    /// `grace`: by how much rows may be old.
    fn look(self, cache: &DefinedCache, under: &StoredUnder, key: &Key, grace: Duration) -> Found {
        let Seeker { basis, fits, .. } = self;
        // What the transaction itself empties is empty for it.
        if invalidations::hides_some() && invalidations::hides(cache.number, under) {
            return Found::Other;
        }
        let Some(copied) = Copied::fetch(cache, under, Before::Nothing) else { return Found::Nothing };
        let stored = Stored::parse(copied.bytes()).filter(|stored| stored.is_result);
        let is_of_key = |rows: &Rows<'_>| rows.key == key.bytes;
        let of_key = stored.and_then(|stored| Some((stored, Rows::parse(stored.value).filter(is_of_key)?)));
        let verdict = match (of_key, basis) {
            (Some((stored, _)), Basis::Rings(_)) => grace::judge(&stored, grace),
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
