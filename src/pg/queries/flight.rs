//! Single flight: the right to compute a result, while others wait for it.
//!
//! Invariants: nobody waits who has what others may wait for: an id, locks of writers, or another result that is being made with
//! functions that ask for this one. Such a one computes beside. And
//! nobody waits for more than two others. What the first has made may be too old for the snapshot of who has waited, for
//! somebody has written meanwhile: then one of those who have waited computes, under a lock of their own, and the others wait
//! for that. Where tables are written so often that this, too, is of no use, all compute at once, as if there were no cache:
//! one after the other they would take longer.
//!
//! Locking: a heavyweight lock of PostgreSQL's, by the key's hash. It finds deadlocks, a wait can be cancelled, and an ERROR or
//! the end of the process gives it back.
//!
//! Not here: how long it is kept, which its users say: a call to its end, a marked statement to its first row (`scan::flight`).

use super::found::Found;
use super::grace::Stale;
use super::key::StoredUnder;
use super::watch;
use crate::pg::advisory::{AdvisoryLock, Class};
use crate::pg::snapshot::has_written;
use crate::pg::writers;

/// The right to compute a result, while others wait for it.
pub(super) enum Flight {
    Has(AdvisoryLock),
    /// Somebody else had it, and has ended.
    Waited(Class),
    /// Somebody else has it, and is not waited for.
    Not,
}

impl Flight {
    /// For who has found this. What is stale, if somebody else makes a new one: that is not waited for.
    pub(super) fn begin(found: Found, number: u64, under: &StoredUnder) -> Result<(Flight, Found), Stale> {
        let Found::Stale(stale) = found else { return Ok((Flight::begin_as(Class::Result, number, under), found)) };
        let lock = AdvisoryLock::new(Class::Result, number, under);
        match lock.try_take() {
            true => Ok((Flight::Has(lock), Found::Outdated(stale.into_version()))),
            false => Err(stale),
        }
    }

    /// For who has waited, and found nothing.
    pub(super) fn begin_again(self, number: u64, under: &StoredUnder) -> Flight {
        match self {
            Flight::Waited(Class::Result) => Flight::begin_as(Class::ResultAgain, number, under),
            _ => Flight::Not,
        }
    }

    fn begin_as(class: Class, number: u64, under: &StoredUnder) -> Flight {
        let lock = AdvisoryLock::new(class, number, under);
        if lock.try_take() {
            return Flight::Has(lock);
        }
        // Others may wait for who has an id, holds such a lock, or makes another result; and that could be who computes.
        if has_written() || writers::holds_locks_of_writers() || watch::is_active() {
            return Flight::Not;
        }
        lock.take();
        lock.give_back();
        Flight::Waited(class)
    }

    pub(super) fn end(&mut self) {
        if let Flight::Has(lock) = self {
            lock.give_back();
        }
        *self = Flight::Not;
    }
}
