//! PostgreSQL's LWLocks as the locks of a cache's partitions: those of named caches, and what all have in common.
//!
//! The locks of all named caches lie side by side in the area, outside the memory of the caches: a backend that
//! still waits for a lock of a dropped cache waits on memory that stays a lock. Having got it, it sees by the
//! cache's generation that the cache is gone, lets go and reports an error, before anything was touched.
//!
//! A read that takes no lock may find at its end that the cache is gone: it asks for the generation after its last look
//! at the memory, which is never unmapped. Whoever gets the memory writes to it after the generation has changed.
//!
//! An ERROR (and its unwinding) resets `InterruptHoldoffCount` behind our back, and `LWLockRelease` decrements it: a
//! release while unwinding must first put it back, else the counter wraps and the backend never listens to an interrupt
//! again.
#![allow(unsafe_code)]

use pgrx::pg_sys;

use super::area::Area;
use super::error::CacheError;
use crate::shared::lock::{LockMode, Locks, Tenancy};

/// The locks of one cache's partitions, valid for one generation of its slot in the catalog.
pub struct LwLocks {
    area: Area,
    slot: usize,
    generation: u64,
}

impl LwLocks {
    /// The locks of the cache in `slot`, as long as it has this generation.
    pub(super) fn new(area: Area, slot: usize, generation: u64) -> Self {
        LwLocks { area, slot, generation }
    }
}

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
pub(super) struct Held(*mut pg_sys::LWLock);

impl Held {
    pub(super) fn acquire(lock: *mut pg_sys::LWLock, mode: LockMode) -> Self {
        acquire(lock, mode);
        Held(lock)
    }
}

impl Drop for Held {
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

// SAFETY: LWLocks exclude writers from everybody and order memory. `acquire` returns with the lock or unwinds without.
unsafe impl Locks for LwLocks {
    fn acquire(&self, partition: usize, mode: LockMode) {
        let lock = self.area.partition_lock(self.slot, partition);
        acquire(lock, mode);
        if !self.is_current() {
            release(lock);
            CacheError::Dropped.report();
        }
    }

    /// The cache cannot be gone: what this process holds of it keeps it from being dropped.
    fn acquire_for_cleanup(&self, partition: usize) {
        acquire(self.area.partition_lock(self.slot, partition), LockMode::Exclusive);
    }

    fn release(&self, partition: usize, _mode: LockMode) {
        release(self.area.partition_lock(self.slot, partition));
    }

    /// The area has no condition variables, which named caches hardly ever need: asks every millisecond.
    fn wait(&self, _partition: usize, done: &mut dyn FnMut() -> bool) {
        use pg_sys::{WL_EXIT_ON_PM_DEATH, WL_LATCH_SET, WL_TIMEOUT};
        pgrx::check_for_interrupts!();
        while !done() {
            let events = (WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH) as i32;
            // SAFETY: this process's own latch, from its one thread.
            unsafe {
                pg_sys::WaitLatch(pg_sys::MyLatch, events, 1, pg_sys::PG_WAIT_EXTENSION);
                pg_sys::ResetLatch(pg_sys::MyLatch);
            }
            pgrx::check_for_interrupts!();
        }
    }
}

// SAFETY: the area is never unmapped. The generation is raised, with release ordering, before the cache's memory can be
// given to another cache, and loaded with acquire ordering.
unsafe impl Tenancy for LwLocks {
    fn is_current(&self) -> bool {
        self.area.slot(self.slot).generation() == self.generation
    }
}
