//! Publications of relations turned on and off, as the setting `pg_shared_lru.query_cache` says: by the background worker.
//!
//! To turn them on takes two steps, with a wait in between until all transactions are over that may have found them off
//! (`rings::switch`). *Over* means that it has left the array of running transactions and that its invalidation messages
//! were sent. The latter shows in PostgreSQL's locks: a transaction with an id holds a lock on it, a prepared one too,
//! and gives it up after its messages were sent. It takes that lock just after it gets its id, so the array is looked at
//! first: who has left it has had the lock.
//!
//! This waits for long transactions. But until they have ended no snapshot would be at the floor or above anyway.
//!
//! Locking: none of the area's. The locks of PostgreSQL's that the two looks take, each for a moment.
#![allow(unsafe_code)]

use pgrx::pg_sys;

use super::locks;
use crate::pg::area::{self, Area};
use crate::pg::settings;
use crate::rings::switch::State;
use crate::rings::xid::FullXid;

/// What the worker remembers of an opening.
#[derive(Debug, Default)]
pub(crate) struct Opening {
    /// From which id on writers have found publications on.
    floor: Option<FullXid>,
    /// Why they stay off, as was last said.
    said: &'static str,
}

/// Whether the worker is to come again soon.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tended {
    Waits,
    Done,
}

impl Opening {
    /// Does what the setting asks for, as far as it can be done now. Inside of a transaction.
    pub(crate) fn tend(&mut self, area: Area) -> Tended {
        let Some(rings) = area.rings() else { return Tended::Done };
        if !settings::query_cache() {
            *self = Opening::default();
            rings.turn_off_relations();
            return Tended::Done;
        }
        if let Some(reason) = hindrance() {
            if self.said != reason {
                self.said = reason;
                pgrx::log!("pg_shared_lru.query_cache is on and has no effect: {reason}");
            }
            return Tended::Done;
        }
        let floor = match (rings.relations_state(), self.floor) {
            (State::On, _) => return Tended::Done,
            (State::Opening, Some(floor)) => floor,
            // Somebody has turned them off again, or an earlier worker has begun.
            (State::Off, _) | (State::Opening, None) => {
                self.floor = rings.begin_opening_relations(next_xid);
                return Tended::Waits;
            }
        };
        if !are_over_below(floor) || !rings.finish_opening_relations(floor) {
            return Tended::Waits;
        }
        self.floor = None;
        Tended::Done
    }
}

/// Whether they are off, and stay so: as the setting says, or because this server cannot have them. Not where they are off for
/// a while: until a server that has started or was promoted has turned them on, or a prepared transaction has ended.
pub(in crate::pg) fn stay_off() -> bool {
    !settings::query_cache() || hindrance().is_some()
}

/// Why this server cannot have them.
fn hindrance() -> Option<&'static str> {
    if !area::is_preloaded() {
        return Some("it needs shared_preload_libraries");
    }
    // SAFETY: reads the server's state.
    if unsafe { pg_sys::RecoveryInProgress() } {
        return Some("a standby has no writers");
    }
    (!locks::are_in_place()).then_some("the library was built for another PostgreSQL: build it anew")
}

fn next_xid() -> FullXid {
    // SAFETY: reads the id; takes and gives back the lock of ids.
    FullXid::new(unsafe { pg_sys::ReadNextFullTransactionId() }.value).unwrap_or(FullXid::FIRST)
}

/// Whether all transactions below this id have ended and sent their messages. Ids that run are within 2^31 of each other.
fn are_over_below(floor: FullXid) -> bool {
    let is_below = |xid: u32| (xid.wrapping_sub(floor.get() as u32) as i32) < 0;
    // SAFETY: inside of a transaction, not in recovery. The list is palloc'd, and as long as it says.
    unsafe {
        if is_below(pg_sys::GetOldestActiveTransactionId().into_inner()) {
            return false;
        }
        let data = pg_sys::GetLockStatusData();
        let count = (*data).nelements as usize;
        let locks = if count == 0 { &[] } else { std::slice::from_raw_parts((*data).locks, count) };
        !locks.iter().any(|lock| {
            u32::from(lock.locktag.locktag_type) == pg_sys::LockTagType::LOCKTAG_TRANSACTION
                && lock.holdMask != 0
                && is_below(lock.locktag.locktag_field1)
        })
    }
}
