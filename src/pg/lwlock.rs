//! PostgreSQL's LWLocks: taken, released, held by a guard.
//!
//! An ERROR (and its unwinding) resets `InterruptHoldoffCount` behind our back, and `LWLockRelease` decrements it: a
//! release while unwinding must first put it back, else the counter wraps and the backend never listens to an interrupt
//! again.
//!
//! Not here: which lock belongs to what (`named_locks`, `dsm_locks`, `area`).
#![allow(unsafe_code)]

use pgrx::pg_sys;

use crate::shared::lock::LockMode;

/// Takes an LWLock in this mode.
pub(super) fn acquire(lock: *mut pg_sys::LWLock, mode: LockMode) {
    let mode = match mode {
        LockMode::Shared => pg_sys::LWLockMode::LW_SHARED,
        LockMode::Exclusive => pg_sys::LWLockMode::LW_EXCLUSIVE,
    };
    // SAFETY: `lock` was initialised by `Area`, `DsmLocks` or PostgreSQL, and its memory stays mapped while somebody may
    // take it (that of `DsmLocks` until these are marked as detached).
    unsafe { pg_sys::LWLockAcquire(lock, mode) };
}

/// Gives an LWLock back that this backend holds.
pub(super) fn release(lock: *mut pg_sys::LWLock) {
    // SAFETY: as in `acquire`; the counter is this process's own and only touched from its one thread.
    unsafe {
        if !pg_sys::LWLockHeldByMe(lock) {
            return; // an ERROR has released it already
        }
        if pg_sys::InterruptHoldoffCount == 0 {
            pg_sys::InterruptHoldoffCount = 1;
        }
        pg_sys::LWLockRelease(lock);
    }
}

/// Holds an LWLock until dropped.
pub(super) struct LwLockGuard(*mut pg_sys::LWLock);

impl LwLockGuard {
    pub(super) fn acquire(lock: *mut pg_sys::LWLock, mode: LockMode) -> Self {
        acquire(lock, mode);
        LwLockGuard(lock)
    }
}

impl Drop for LwLockGuard {
    fn drop(&mut self) {
        release(self.0);
    }
}

/// The lock that PostgreSQL provides for the making of structures in main shared memory: number 21 of the main array in
/// every version so far, as pgrx itself relies on.
pub(super) fn addin_shmem_init_lock() -> *mut pg_sys::LWLock {
    // SAFETY: the array exists before any library is loaded, and has many more locks than that.
    unsafe { &raw mut (*pg_sys::MainLWLockArray.add(21)).lock }
}
