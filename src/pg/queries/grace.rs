//! Results that are outdated, and may be served all the same while somebody makes a new one.
//!
//! Only rows may be old: the key is the same, all definitions are what they were, and no tag was invalidated. And not for
//! longer than the grace, counted from the moment at which the result was *known* to be outdated:
//!
//! - When it had lived as long as it was to. That moment is stored with it, and the cache keeps it that much longer.
//! - When the first who may serve it finds that its rows have changed. Who finds that writes the moment down, beside the
//!   rows: the entry takes the place of the one without it, and goes by itself when the grace is over. So all count from one
//!   moment, and what is evicted is gone with it.
//!
//! Not here: who makes the new one (`flight`).
#![allow(unsafe_code)]

use std::time::Duration;

use pgrx::pg_sys;

use super::key::StoredUnder;
use super::lines::are_definitions_the_same;
use super::{entries, trace};
use crate::pg::bytea::Copied;
use crate::pg::catalog::Catalog;
use crate::pg::definitions::{self, Access, DefinedCache};
use crate::pg::error::CacheError;
use crate::pg::ledger::{SqlCounter, now_us};
use crate::pg::snapshot::has_written;
use crate::pg::stored::{Outdated, OutdatedBy, Stored};
use crate::pg::tags::{self, Freshness, Of};
use crate::shared::bounded::CountedAs;
use crate::{Expiry, Version};

/// What a result is for the running statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Right,
    /// It may have been, or will be, for others.
    NotHere,
    /// For nobody any more.
    Gone,
    /// As before; but its rows may be served until the grace is over.
    Stale(Moment),
}

/// Since when a result is known to be outdated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    Noted,
    /// Nobody has noted it: now.
    New,
}

/// An outdated result that may be served.
pub(super) struct Stale {
    pub(super) copied: Copied,
    pub(super) moment: Moment,
}

/// Whether the running statement may get rows that are old: it is alone in its transaction, which is not SERIALIZABLE and has
/// written nothing.
pub(super) fn is_possible() -> bool {
    // SAFETY: looks at what the current transaction is.
    let may = unsafe { !pg_sys::IsTransactionBlock() && pg_sys::XactIsoLevel < pg_sys::XACT_SERIALIZABLE as i32 };
    may && !has_written()
}

/// What a result is, where the rings tell, for a reader that takes rows that are old by so much.
pub(super) fn judge(stored: &Stored<'_>, grace: Duration) -> Verdict {
    if stored.is_unchecked() {
        return Verdict::Gone;
    }
    match by_tags(stored) {
        Verdict::Right => {}
        other => return other,
    }
    let by_rows = tags::judge(Of::Relations, stored.dependencies());
    let now_us = stored.outdated.map_or(0, |_| now_us());
    match (by_rows, stored.outdated) {
        (Freshness::Unknown, _) => Verdict::NotHere,
        (Freshness::Current, None) => Verdict::Right,
        (Freshness::Current, Some(outdated)) => match outdated.by {
            // For an older snapshot than that of who has noted it. It stays as it is.
            OutdatedBy::Rows => Verdict::NotHere,
            OutdatedBy::Age if outdated.from_us > now_us => Verdict::Right,
            OutdatedBy::Age => within(grace, outdated, now_us),
        },
        (Freshness::Outdated, Some(outdated)) if only_rows_have_changed(stored) => within(grace, outdated, now_us),
        (Freshness::Outdated, _) => Verdict::Gone,
    }
}

/// What a result is, where nothing but its age tells. Until that is over the cache has it.
pub(super) fn judge_by_age(stored: &Stored<'_>) -> Verdict {
    // What the rings have told of the others will not be so any more when they are turned on again.
    if stored.is_unchecked() { by_tags(stored) } else { Verdict::Gone }
}

/// What a result is, as far as its tags say.
fn by_tags(stored: &Stored<'_>) -> Verdict {
    let mut tags = stored.tags_of_result().peekable();
    match if tags.peek().is_some() { tags::judge(Of::Tags, tags) } else { Freshness::Current } {
        Freshness::Current => Verdict::Right,
        Freshness::Outdated => Verdict::Gone,
        Freshness::Unknown => Verdict::NotHere,
    }
}

/// Of what is outdated.
fn within(grace: Duration, outdated: Outdated, now_us: u64) -> Verdict {
    let grace_us = grace.as_micros() as u64;
    match now_us.checked_sub(outdated.from_us) {
        _ if grace_us == 0 => Verdict::Gone,
        Some(since_us) if since_us <= grace_us => Verdict::Stale(Moment::Noted),
        Some(_) => Verdict::Gone,
        None if outdated.by == OutdatedBy::Age => Verdict::Stale(Moment::New),
        // The clock was set back.
        None => Verdict::Gone,
    }
}

/// Whether only rows have changed. Whatever the statement's snapshot sees of other changes was counted before.
fn only_rows_have_changed(stored: &Stored<'_>) -> bool {
    let rings = Catalog::mapped().and_then(|catalog| catalog.area().rings());
    rings.is_some_and(|rings| are_definitions_the_same(&rings, stored.dependencies()))
}

impl Stale {
    /// Notes the moment, in the place of what was found. What cannot be noted is not: then it is not served.
    ///
    /// # Errors
    ///
    /// There is no memory for it, or no such cache any more.
    pub(super) fn note(&self, cache: &str, under: &StoredUnder, grace: Duration) -> Result<(), CacheError> {
        let outdated = Outdated { from_us: now_us(), by: OutdatedBy::Rows };
        let bytes = Stored::with_outdated(self.copied.bytes(), outdated)?;
        let put = |cache: &DefinedCache| {
            cache.put_if_version(under, &bytes, Expiry::After(grace), &self.copied.version).unwrap_or(false)
        };
        match definitions::with_cache(cache, Access::Write, put) {
            Ok(_) | Err(CacheError::Privilege { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The rows, to be served; counted.
    pub(super) fn serve(self, cache: &str, under: &StoredUnder) -> Result<Copied, CacheError> {
        definitions::with_cache(cache, Access::Read, |cache| {
            if let Some(catalog) = Catalog::mapped() {
                catalog.ledger(cache.tenant).count(SqlCounter::ServedStale);
            }
            cache.count_read(CountedAs::Hit);
            entries::count_hit(cache.number, under);
        })?;
        trace::count_kept();
        Ok(self.copied)
    }

    /// Which result it is, without its rows.
    pub(super) fn into_version(self) -> Version {
        let version = self.copied.version;
        self.copied.free();
        version
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_outdated_is_served_as_long_as_the_grace_and_no_longer() {
        let grace = Duration::from_micros(10);
        let aged = |from_us| Outdated { from_us, by: OutdatedBy::Age };
        let changed = |from_us| Outdated { from_us, by: OutdatedBy::Rows };
        let noted = Verdict::Stale(Moment::Noted);
        for (outdated, now_us, expected) in [
            (aged(100), 100, noted),
            (aged(100), 110, noted),
            (aged(100), 111, Verdict::Gone),
            (aged(Outdated::NEVER), 100, Verdict::Stale(Moment::New)),
            (aged(200), 100, Verdict::Stale(Moment::New)),
            (changed(100), 105, noted),
            (changed(100), 111, Verdict::Gone),
            (changed(100), 99, Verdict::Gone),
        ] {
            assert_eq!(within(grace, outdated, now_us), expected, "{outdated:?} at {now_us}");
            assert_eq!(within(Duration::ZERO, outdated, now_us), Verdict::Gone);
        }
    }
}
