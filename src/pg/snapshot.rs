//! A snapshot of PostgreSQL's, as the commit rings ask it.
#![allow(unsafe_code)]

use pgrx::pg_sys;

use crate::rings::xid::{FullXid, Snapshot};

/// Whether the current transaction has an id: it has written, and others may wait for it.
pub(super) fn has_written() -> bool {
    // SAFETY: reads what the current transaction is.
    unsafe { pg_sys::GetTopTransactionIdIfAny() != pg_sys::InvalidTransactionId }
}

/// The snapshot of the statement that is running.
pub(super) struct ActiveSnapshot {
    snapshot: pg_sys::Snapshot,
    /// The id that the next transaction gets: what has 32 bits in the snapshot lies within 2^31 of it.
    next: u64,
}

impl ActiveSnapshot {
    /// `None` where there is none that tells: outside of a statement, and on a standby.
    pub(super) fn get() -> Option<ActiveSnapshot> {
        // SAFETY: inside of a transaction; the snapshot stays active while the statement runs, longer than this value.
        unsafe {
            if !pg_sys::ActiveSnapshotSet() || pg_sys::RecoveryInProgress() {
                return None;
            }
            let snapshot = pg_sys::GetActiveSnapshot();
            let is_mvcc = (*snapshot).snapshot_type == pg_sys::SnapshotType::SNAPSHOT_MVCC;
            let next = pg_sys::ReadNextFullTransactionId().value;
            (is_mvcc && !(*snapshot).takenDuringRecovery).then_some(ActiveSnapshot { snapshot, next })
        }
    }

    /// The full id of one that is not younger than the next, nor 2^31 older.
    fn widened(&self, xid: pg_sys::TransactionId) -> u64 {
        let age = (self.next as u32).wrapping_sub(xid.into_inner());
        self.next.saturating_sub(u64::from(age))
    }
}

impl Snapshot for ActiveSnapshot {
    fn xmin(&self) -> FullXid {
        // SAFETY: as above. An id below the first is one of PostgreSQL's permanent ones, and older than all.
        FullXid::new(self.widened(unsafe { (*self.snapshot).xmin })).unwrap_or(FullXid::FIRST)
    }

    fn sees(&self, xid: FullXid) -> bool {
        let short = pg_sys::TransactionId::from(xid.get() as u32);
        // SAFETY: as above; looks at the arrays of the snapshot, and raises no error.
        xid < self.xmin() || !unsafe { pg_sys::XidInMVCCSnapshot(short, self.snapshot) }
    }
}
