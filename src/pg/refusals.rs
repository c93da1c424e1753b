//! Why results of queries were not kept: counted by reason, for each cache, with what was named last.
//!
//! ```text
//! ┌──────────────────────┬──────────────────────────────┐
//! │ count of each reason │ object that each named last  │   a part of the cache's ledger
//! └──────────────────────┴──────────────────────────────┘
//! ```
//!
//! An object is a number of PostgreSQL's, so that one store notes it; its name is looked up by who reads.
//!
//! Locking: as the counters of SQL in the ledger.
//!
//! Not here: how reasons are found, and what a message says of them (`queries::refusal`).

#[cfg(feature = "extension")]
use std::sync::atomic::Ordering;

use crate::engine::memory::words::Word64;

macro_rules! reasons {
    ($($(#[$doc:meta])* $reason:ident $name:literal,)*) => {
        /// Why a result was not kept.
        #[cfg_attr(not(feature = "extension"), allow(dead_code))] // nobody else keeps results
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Reason {
            $($(#[$doc])* $reason,)*
        }

        impl Reason {
            /// All, in their order.
            pub(super) const ALL: &[Reason] = &[$(Reason::$reason),*];

            /// As SQL names it.
            #[cfg(any(test, feature = "extension"))]
            pub(super) fn name(self) -> &'static str {
                match self {
                    $(Reason::$reason => $name,)*
                }
            }
        }
    };
}

reasons! {
    /// A function may give another value at each call.
    Volatile "volatile",
    /// A function may depend on tables or settings.
    Stable "stable",
    /// What it gives depends on when it is.
    Clock "clock",
    /// It depends on who has logged in.
    SessionUser "session_user",
    /// Values of a sequence.
    Sequence "sequence",
    /// A relation of PostgreSQL's own.
    Catalog "catalog",
    Temporary "temporary",
    Foreign "foreign",
    /// A table whose access method is not heap.
    AccessMethod "access_method",
    /// A relation that has no rows of its own.
    NoTable "no_table",
    LocksRows "locks_rows",
    ChangesRows "changes_rows",
    SystemColumn "system_column",
    Sample "sample",
    /// Values that are names of objects, as texts.
    Names "names",
    /// A column without a type that others know.
    Untyped "untyped",
    SearchPath "search_path",
    /// A function reads tables by queries of its own.
    RunsQueries "runs_queries",
    /// A parameter that is no part of a key.
    Parameter "parameter",
    /// It reads rows of two snapshots.
    TwoSnapshots "two_snapshots",
    /// The query cache is off.
    Off "off",
    /// The transaction has written.
    Written "written",
    Serializable "serializable",
    /// The current role may not store in the cache.
    NoRight "no_right",
    /// Larger than the cache's limit of an entry.
    TooLarge "too_large",
    /// The reader stopped before the end, or went back.
    NotReadToTheEnd "not_read_to_the_end",
    /// The lines told no number: what it depends on is being changed, or was while it was made.
    BeingChanged "being_changed",
    /// A plan is older than a definition.
    DefinitionsChanged "definitions_changed",
    /// What is kept is newer than the snapshot, or in the place of the result is something else.
    NotForThisSnapshot "not_for_this_snapshot",
    /// The cache was emptied meanwhile, somebody else was quicker, or there is no room.
    NotStored "not_stored",
}

pub(super) const REASONS: usize = Reason::ALL.len();

/// What a refusal names.
#[cfg(any(test, feature = "extension"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Object {
    Function(u32),
    Relation(u32),
    Type(u32),
}

#[cfg(any(test, feature = "extension"))]
impl Object {
    /// Not 0.
    pub(super) fn to_u64(self) -> u64 {
        match self {
            Object::Function(oid) => 1 << 32 | u64::from(oid),
            Object::Relation(oid) => 2 << 32 | u64::from(oid),
            Object::Type(oid) => 3 << 32 | u64::from(oid),
        }
    }

    /// `None` for 0, which is no object.
    pub(super) fn from_u64(word: u64) -> Option<Object> {
        let oid = word as u32;
        match word >> 32 {
            1 => Some(Object::Function(oid)),
            2 => Some(Object::Relation(oid)),
            3 => Some(Object::Type(oid)),
            _ => None,
        }
    }
}

/// How often each reason came, and what it named last.
#[repr(C)]
#[derive(Debug, Default)]
pub(super) struct Refusals {
    counts: [Word64; REASONS],
    objects: [Word64; REASONS],
}

impl Refusals {
    pub(super) fn clear(&self) {
        self.counts.iter().chain(&self.objects).for_each(|word| word.set(0));
    }

    pub(super) fn take_over(&self, other: &Refusals) {
        let (to, from) = (self.counts.iter().chain(&self.objects), other.counts.iter().chain(&other.objects));
        to.zip(from).for_each(|(to, from)| to.set(from.get()));
    }

    #[cfg(feature = "extension")]
    pub(super) fn count(&self, reason: Reason, object: Option<Object>) {
        self.counts[reason as usize].atomic().fetch_add(1, Ordering::Relaxed);
        if let Some(object) = object {
            self.objects[reason as usize].set(object.to_u64());
        }
    }

    /// Those that came.
    #[cfg(feature = "extension")]
    pub(super) fn list(&self) -> impl Iterator<Item = (Reason, u64, Option<Object>)> + '_ {
        let all = Reason::ALL.iter().map(|&reason| {
            let object = Object::from_u64(self.objects[reason as usize].get());
            (reason, self.counts[reason as usize].get(), object)
        });
        all.filter(|(_, count, _)| *count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_name_and_a_place_of_its_own() {
        for (place, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, place);
            let same = Reason::ALL.iter().filter(|other| other.name() == reason.name());
            assert_eq!(same.count(), 1, "{}", reason.name());
        }
    }

    #[test]
    fn objects_come_back_from_words() {
        for object in [Object::Function(u32::MAX), Object::Relation(0), Object::Type(7)] {
            assert_eq!(Object::from_u64(object.to_u64()), Some(object));
        }
        assert_eq!(Object::from_u64(0), None);
    }
}
