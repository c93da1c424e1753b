//! Single flight: the right to compute a result, while others wait for it.
//!
//! Invariant: nobody waits who has what others may wait for: an id, or locks of writers. Such a one computes beside.
//!
//! Locking: a heavyweight lock of PostgreSQL's, by the key's hash. It finds deadlocks, a wait can be cancelled, and an ERROR or
//! the end of the process gives it back.
//!
//! Not here: how long it is kept, which its users say: a call to its end, a marked statement to its first row (`scan::flight`).

use super::key::StoredUnder;
use crate::pg::advisory::{AdvisoryLock, Class};
use crate::pg::snapshot::has_written;
use crate::pg::writers;

/// The right to compute a result, while others wait for it.
pub(super) enum Flight {
    /// Had at once.
    Begun(AdvisoryLock),
    /// Had after somebody else's.
    Waited(AdvisoryLock),
    /// Somebody else has it, and is not waited for.
    Not,
}

impl Flight {
    /// `None` if somebody else has it.
    pub(super) fn begin_at_once(number: u64, under: &StoredUnder) -> Option<Flight> {
        let lock = AdvisoryLock::new(Class::Result, number, under);
        lock.try_take().then_some(Flight::Begun(lock))
    }

    pub(super) fn begin(number: u64, under: &StoredUnder) -> Flight {
        if let Some(begun) = Flight::begin_at_once(number, under) {
            return begun;
        }
        let lock = AdvisoryLock::new(Class::Result, number, under);
        // Others may wait for who has an id or holds such a lock; and that could be who computes.
        if has_written() || writers::holds_locks_of_writers() {
            return Flight::Not;
        }
        lock.take();
        Flight::Waited(lock)
    }

    pub(super) fn end(&mut self) {
        if let Flight::Begun(lock) | Flight::Waited(lock) = self {
            lock.give_back();
        }
        *self = Flight::Not;
    }
}
