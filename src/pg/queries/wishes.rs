//! What a call says about its result, and what follows for it from that and from the options of its cache.
//!
//! Time to live and tags belong to a result: they are part of its key, so that calls which name others have results of their
//! own. Grace belongs to a reader.
//!
//! *Tags* are noted as values note them, before the query runs: an invalidation that comes later voids the fill, or is seen
//! by who reads the result. A result that may be served outdated has one more: the line of the whole cache, so that no copy
//! of it outlives what empties that.
//!
//! Not here: when an outdated result is served (`grace`).

use std::time::Duration;

use super::basis::Basis;
use super::lines::emptied_line;
use crate::Expiry;
use crate::pg::definitions::options::ResultOptions;
use crate::pg::error::CacheError;
use crate::pg::ledger::now_us;
use crate::pg::stored::{Dependency, Outdated, OutdatedBy, Stored};
use crate::pg::tags;
use crate::rings::table::Rings;

/// What a call says. By default nothing: all is as the cache says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::pg) struct Wishes {
    pub(in crate::pg) ttl: Expiry,
    /// In their order, each once.
    pub(in crate::pg) tags: Vec<Vec<u8>>,
    pub(in crate::pg) grace: Option<Duration>,
}

/// Those of who can say nothing, as a marked statement.
pub(super) static NO_WISHES: Wishes = Wishes { ttl: Expiry::Default, tags: Vec::new(), grace: None };

impl Wishes {
    /// Appends what belongs to the key; nothing, if there is nothing.
    pub(super) fn append_to_key(&self, key: &mut Vec<u8>) {
        /// Where a parameter would have its type: no type has this number.
        const NO_TYPE: [u8; 4] = [0; 4];
        if self.ttl == Expiry::Default && self.tags.is_empty() {
            return;
        }
        key.extend_from_slice(&NO_TYPE);
        let ttl_us: u64 = match self.ttl {
            Expiry::After(ttl) => ttl.as_micros() as u64,
            Expiry::Default => u64::MAX,
            _ => 0,
        };
        key.extend_from_slice(&ttl_us.to_le_bytes());
        for tag in &self.tags {
            key.extend_from_slice(&(tag.len() as u32).to_le_bytes());
            key.extend_from_slice(tag);
        }
    }

    /// How long an outdated result may be served.
    pub(super) fn grace_in(&self, options: &ResultOptions) -> Duration {
        self.grace.unwrap_or(options.grace)
    }

    pub(super) fn ttl_in(&self, options: &ResultOptions) -> Option<Duration> {
        match self.ttl {
            Expiry::Default => options.ttl,
            Expiry::After(ttl) => Some(ttl),
            _ => None,
        }
    }

    /// Whether a result is right as long as its rows are, and nobody gets it afterwards.
    pub(super) fn are_for_rows_alone(&self, options: &ResultOptions) -> bool {
        self.ttl_in(options).is_none() && self.tags.is_empty() && self.grace_in(options).is_zero()
    }

    /// How a result is stored that is made now. `None` if one of its tags is being invalidated, or if nothing would ever end
    /// it: then it is not.
    pub(super) fn terms(&self, basis: Basis, number: u64, options: &ResultOptions) -> Option<Terms> {
        // There was a time to live when the basis was found; the cache may have been altered since.
        let ttl = self.ttl_in(options);
        if basis.is_age() && ttl.is_none() {
            return None;
        }
        let rings = basis.rings();
        let mut tags = tags::all_settled(&rings, number, self.tags.iter().map(Vec::as_slice))?;
        // Of what goes by its age it is not known that it is outdated before it is gone.
        let grace = if basis.is_age() { Duration::ZERO } else { self.grace_in(options) };
        if !grace.is_zero() {
            tags.push(tags::settled(&rings, emptied_line(number))?);
        }
        Some(Terms { ttl, grace, tags })
    }
}

/// How a result is to be stored.
pub(super) struct Terms {
    ttl: Option<Duration>,
    grace: Duration,
    tags: Vec<Dependency>,
}

impl Terms {
    /// Whether nobody has invalidated a tag since.
    pub(super) fn hold(&self, rings: &Rings) -> bool {
        self.tags.iter().all(|tag| tags::is_unchanged(rings, tag))
    }

    /// When it goes: not before it may not even be served outdated.
    pub(super) fn expiry(&self) -> Expiry {
        self.ttl.map_or(Expiry::Never, |ttl| Expiry::After(ttl.saturating_add(self.grace)))
    }

    /// The result, as it is to be stored now.
    ///
    /// # Errors, Panics
    ///
    /// As [`Stored::compose_result`].
    pub(super) fn compose(&self, rows: &[u8], dependencies: &[Dependency]) -> Result<Vec<u8>, CacheError> {
        let from_us = self.ttl.map_or(Outdated::NEVER, |ttl| now_us().saturating_add(ttl.as_micros() as u64));
        let outdated = (!self.grace.is_zero()).then_some(Outdated { from_us, by: OutdatedBy::Age });
        Stored::compose_result(rows, dependencies, &self.tags, outdated)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_other_times_and_tags_have_other_keys() {
        let seconds = |seconds| Expiry::After(Duration::from_secs(seconds));
        let mut keys: Vec<Vec<u8>> = Vec::new();
        for ttl in [Expiry::Default, Expiry::Never, seconds(1), seconds(2)] {
            for tags in [&[][..], &["a"], &["b"], &["a", "b"], &["ab"]] {
                let tags = tags.iter().map(|tag| tag.as_bytes().to_vec()).collect();
                let mut key = Vec::new();
                Wishes { ttl, tags, grace: None }.append_to_key(&mut key);
                assert!(!keys.contains(&key));
                keys.push(key);
            }
        }
        assert!(keys[0].is_empty(), "who says nothing has the key of who cannot");
        let mut of_reader = Vec::new();
        Wishes { grace: Some(Duration::ZERO), ..Wishes::default() }.append_to_key(&mut of_reader);
        assert!(of_reader.is_empty());
    }
}
