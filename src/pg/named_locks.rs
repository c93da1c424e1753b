//! The locks of a named cache's partitions, and what a backend learns by them: that the cache is gone, or about to go.
//!
//! The locks of all named caches lie side by side in the area, outside the memory of the caches: a backend that
//! still waits for a lock of a dropped cache waits on memory that stays a lock. Having got it, it sees by the slot's
//! life that the cache is gone, lets go and reports an error, before anything was touched.
//!
//! A read that takes no lock may find at its end that the cache is gone: it asks for the life after its last look
//! at the memory, which is never unmapped. Whoever gets the memory writes to it after the life has ended.
//!
//! While a cache is being dropped nobody but the dropper gets past `acquire`: a backend lets the lock go again and waits
//! until the cache is gone or stays. So the dropper can count what others hold and know that it does not become more; and
//! a drop that is refused is not noticed by others but as a pause.
//!
//! A backend asks for interrupts before it takes a lock. Operations of many steps take one for each, so they can be
//! cancelled between two steps, wherever in the library their loop is.
#![allow(unsafe_code)]

use std::ptr::NonNull;

use pgrx::pg_sys;

use super::area::Area;
use super::error::CacheError;
use super::lwlock::{acquire, release};
use super::slot::{CacheSlot, Life, Phase};
use super::versions::WaitEvent;
use crate::engine::limits::MAX_PARTITIONS;
use crate::shared::lock::{LockMode, Locks, Tenancy};

/// How long a backend sleeps before it looks again.
const SLEEP_MS: std::ffi::c_long = 1;
static WAIT: WaitEvent = WaitEvent::new(c"SharedLruCache");

/// Has the name of the wait for a cache registered, which may raise an error; from then on waiting does not.
pub(super) fn learn_to_wait() {
    WAIT.number();
}

/// The locks of one cache's partitions, valid for one life of its slot in the catalog.
#[derive(Debug)]
pub struct LwLocks {
    slot: &'static CacheSlot,
    life: Life,
    /// The first of `MAX_PARTITIONS`.
    locks: NonNull<pg_sys::LWLockPadded>,
    alone: bool,
}

impl LwLocks {
    /// The locks of the cache in `slot`, as long as that is in this life.
    pub(super) fn new(area: Area, slot: usize, life: Life) -> Self {
        LwLocks { slot: &area.slots()[slot], life, locks: area.partition_locks(slot), alone: false }
    }

    /// The same for the one backend that creates the cache, drops it, or makes it anew: nobody else gets past `acquire`.
    pub(super) fn alone(self) -> Self {
        LwLocks { alone: true, ..self }
    }

    /// Has each lock once: whoever had one before the cache was being dropped is done with it then.
    pub(super) fn wait_for_users(&self) {
        for partition in 0..MAX_PARTITIONS as usize {
            acquire(self.lock(partition), LockMode::Exclusive);
            release(self.lock(partition));
        }
    }

    #[inline]
    fn lock(&self, partition: usize) -> *mut pg_sys::LWLock {
        assert!(partition < MAX_PARTITIONS as usize);
        // SAFETY: inside the array of the slot's locks (checked), which stays mapped as long as the process lives.
        unsafe { &raw mut (*self.locks.as_ptr().add(partition)).lock }
    }
}

/// Sleeps for a moment, or until this process's latch is set. Holding no lock; may raise what an interrupt raises.
pub(super) fn sleep_a_moment() {
    use pg_sys::{WL_EXIT_ON_PM_DEATH, WL_LATCH_SET, WL_TIMEOUT};
    let events = (WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH) as i32;
    // SAFETY: this process's own latch, from its one thread.
    unsafe {
        pg_sys::WaitLatch(pg_sys::MyLatch, events, SLEEP_MS, WAIT.number());
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
    pgrx::check_for_interrupts!();
}

// SAFETY: the area is never unmapped. A life ends with release ordering before its memory is given to another cache, and
// is loaded with acquire ordering.
unsafe impl Tenancy for LwLocks {
    fn is_current(&self) -> bool {
        self.slot.is_of(self.life)
    }
}

// SAFETY: LWLocks exclude writers from everybody and order memory. `acquire` returns with the lock or unwinds without.
unsafe impl Locks for LwLocks {
    fn acquire(&self, partition: usize, mode: LockMode) {
        if !self.alone {
            pgrx::check_for_interrupts!();
        }
        let lock = self.lock(partition);
        acquire(lock, mode);
        let mut now = self.slot.now();
        while now != (self.life, Phase::Live) && !self.alone {
            release(lock);
            if now != (self.life, Phase::BeingDropped) {
                CacheError::Dropped.report();
            }
            sleep_a_moment();
            acquire(lock, mode);
            now = self.slot.now();
        }
    }

    /// The cache cannot be gone: what this process holds of it keeps it from being dropped.
    fn acquire_for_cleanup(&self, partition: usize) {
        acquire(self.lock(partition), LockMode::Exclusive);
    }

    fn release(&self, partition: usize, _mode: LockMode) {
        release(self.lock(partition));
    }

    /// The area has no condition variables, which named caches hardly ever need: asks every millisecond.
    fn wait(&self, _partition: usize, done: &mut dyn FnMut() -> bool) {
        pgrx::check_for_interrupts!();
        while !done() {
            sleep_a_moment();
        }
    }
}
