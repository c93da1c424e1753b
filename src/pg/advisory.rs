//! Locks of PostgreSQL's that stand for the right to compute something, while others wait for it or go without.
//!
//! They are advisory locks, of classes that no function of PostgreSQL's can take, and the transaction's: an error, a cancelled
//! statement and the end of the session give them back, waits show in `pg_locks`, and deadlocks are detected.
#![allow(unsafe_code)]

use pgrx::pg_sys;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::handles::my_database;
use super::versions;

/// What a lock is for. Those of `pg_advisory_lock` have 1 and 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// A lease of a key.
    Lease = 0x4c52,
    /// The result of a query.
    Result = 0x4c53,
    /// The same, for those who have waited for another's in vain.
    ResultAgain = 0x4c54,
}

/// The lock of a key of a cache. Keys whose hashes are the same share it.
#[derive(Clone, Copy)]
pub(super) struct AdvisoryLock(pg_sys::LOCKTAG);

impl AdvisoryLock {
    const MODE: pg_sys::LOCKMODE = pg_sys::ExclusiveLock as pg_sys::LOCKMODE;

    /// The lock of a key, of the cache whose definition has this number.
    pub(super) fn new(class: Class, number: u64, key: &[u8]) -> AdvisoryLock {
        let hash = xxh3_64_with_seed(key, number);
        AdvisoryLock(pg_sys::LOCKTAG {
            locktag_field1: my_database(),
            locktag_field2: (hash >> 32) as u32,
            locktag_field3: hash as u32,
            locktag_field4: class as u16,
            locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
            locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
        })
    }

    /// Takes it until the end of the transaction, if it is free; also if this transaction has it.
    pub(super) fn try_take(&self) -> bool {
        // SAFETY: a valid tag; does not wait.
        let got = unsafe { pg_sys::LockAcquire(&self.0, Self::MODE, false, true) };
        got != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
    }

    /// Waits for it. Holding no lock of the area's.
    pub(super) fn take(&self) {
        // SAFETY: a valid tag; inside of a transaction.
        unsafe { pg_sys::LockAcquire(&self.0, Self::MODE, false, false) };
    }

    /// Gives it back before the end of the transaction, if this has it.
    pub(super) fn give_back(&self) {
        // SAFETY: a valid tag. Asked first, for a lock that is not held is a warning.
        unsafe {
            if versions::holds_lock(&self.0, Self::MODE) {
                pg_sys::LockRelease(&self.0, Self::MODE, false);
            }
        }
    }
}
