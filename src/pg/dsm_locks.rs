//! The locks of a cache in the memory of a parallel operation: an LWLock and a condition variable for each partition.
//!
//! They lie beside the cache in the operation's segment, which is mapped at another address in every process and goes
//! away with the operation. So a process names them by pointers of its own, and marks these as *detached* just before
//! the segment is unmapped: whoever uses the cache after that gets an error and touches nothing.
//!
//! All are in one LWLock tranche, `pg_shared_lru`, which is the wait event that `pg_stat_activity` shows. Its number is
//! drawn once per start of the server and kept in a word of main shared memory, for which PostgreSQL has some room to
//! spare: the numbers are 16 bits and never come back, so a number for each operation would use them up.
//!
//! What an ERROR does to LWLocks behind our back is dealt with in `lwlock`.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ffi::c_long;
use std::ptr::NonNull;
use std::rc::Rc;

use pgrx::pg_sys;

use super::error::ParallelError;
use super::lwlock::{self, LwLockGuard};
use super::versions::WaitEvent;
use crate::shared::lock::{LockMode, Locks, Tenancy};

/// How long a waiter sleeps before it looks again, if nobody wakes it.
const LONGEST_SLEEP_MS: c_long = 10;
static WAIT: WaitEvent = WaitEvent::new(c"SharedLruWorker");

/// One partition's lock. A cache line pair of its own, as PostgreSQL pads its own LWLocks.
#[repr(C, align(128))]
struct PartitionLock {
    lock: pg_sys::LWLock,
    changed: pg_sys::ConditionVariable,
}
const _: () = assert!(size_of::<PartitionLock>() == 128);

/// The locks of a cache that was made by [`parallel`](super::parallel). Copies are the same locks.
#[derive(Clone, Debug)]
pub struct DsmLocks {
    first: NonNull<PartitionLock>,
    count: usize,
    detached: Rc<Cell<bool>>,
}

impl DsmLocks {
    /// What the locks' memory is aligned to.
    pub(super) const ALIGNMENT_BYTES: usize = align_of::<PartitionLock>();

    /// Bytes that the locks of so many partitions take.
    pub(super) const fn bytes(count: usize) -> usize {
        count * size_of::<PartitionLock>()
    }

    /// Initialises locks in this tranche.
    ///
    /// # Safety
    ///
    /// - `memory` is aligned to `ALIGNMENT_BYTES`, `bytes(count)` long, and used by nobody else yet.
    /// - It stays mapped until the result is marked as detached, or as long as it or a copy is used.
    pub(super) unsafe fn create(memory: NonNull<u8>, count: usize, tranche: u16) -> Self {
        // SAFETY: the same contract.
        let locks = unsafe { Self::attach(memory, count, tranche) };
        for partition in 0..count {
            let lock = locks.partition(partition);
            // SAFETY: inside the array, which is ours alone (caller).
            unsafe {
                pg_sys::LWLockInitialize(&raw mut (*lock).lock, tranche.into());
                pg_sys::ConditionVariableInit(&raw mut (*lock).changed);
            }
        }
        locks
    }

    /// Names locks that [`DsmLocks::create`] initialised, perhaps in another process, and tells this process the name
    /// of their tranche.
    ///
    /// # Safety
    ///
    /// - `memory` holds `count` locks of this tranche.
    /// - It stays mapped until the result is marked as detached, or as long as it or a copy is used.
    pub(super) unsafe fn attach(memory: NonNull<u8>, count: usize, tranche: u16) -> Self {
        // SAFETY: the name lives as long as the library, which PostgreSQL never unloads.
        unsafe { pg_sys::LWLockRegisterTranche(tranche.into(), c"pg_shared_lru".as_ptr()) };
        DsmLocks { first: memory.cast(), count, detached: Rc::default() }
    }

    /// From here on no copy of these locks in this process touches their memory.
    pub(super) fn mark_detached(&self) {
        self.detached.set(true);
    }

    fn partition(&self, partition: usize) -> *mut PartitionLock {
        assert!(partition < self.count);
        // SAFETY: inside the array (checked).
        unsafe { self.first.as_ptr().add(partition) }
    }

    fn lock(&self, partition: usize) -> *mut pg_sys::LWLock {
        // SAFETY: a field of a lock that is still mapped, as the callers have checked; no reference is made.
        unsafe { &raw mut (*self.partition(partition)).lock }
    }

    fn changed(&self, partition: usize) -> *mut pg_sys::ConditionVariable {
        // SAFETY: as in `lock`.
        unsafe { &raw mut (*self.partition(partition)).changed }
    }

    fn check_attached(&self) {
        if self.detached.get() {
            ParallelError::Detached.report();
        }
    }
}

// SAFETY: the memory is mapped until this process detaches, which sets `detached` first; it serves nothing else.
unsafe impl Tenancy for DsmLocks {
    fn is_mapped(&self) -> bool {
        !self.detached.get()
    }
}

// SAFETY: LWLocks exclude writers from everybody and order memory. `acquire` returns with the lock or unwinds without.
unsafe impl Locks for DsmLocks {
    fn acquire(&self, partition: usize, mode: LockMode) {
        self.check_attached();
        lwlock::acquire(self.lock(partition), mode);
    }

    /// Not after the end of the operation: detaching takes back all pins first.
    fn acquire_for_cleanup(&self, partition: usize) {
        debug_assert!(!self.detached.get());
        lwlock::acquire(self.lock(partition), LockMode::Exclusive);
    }

    fn release(&self, partition: usize, _mode: LockMode) {
        lwlock::release(self.lock(partition));
    }

    fn wait(&self, partition: usize, done: &mut dyn FnMut() -> bool) {
        /// Leaves the queue of the condition variable, also when `done` or an interrupt unwinds.
        struct Leave;
        impl Drop for Leave {
            fn drop(&mut self) {
                // SAFETY: does nothing where this process is in no queue; raises no error.
                unsafe { pg_sys::ConditionVariableCancelSleep() };
            }
        }
        // Also where there is nothing to wait for: who waits again and again can be interrupted all the same.
        pgrx::check_for_interrupts!();
        self.check_attached();
        let changed = self.changed(partition);
        // In the queue before the question, so that a wake between question and sleep is not missed.
        // SAFETY: initialised by `create`, mapped (checked); detaching leaves the queue.
        unsafe { pg_sys::ConditionVariablePrepareToSleep(changed) };
        let _leave = Leave;
        while !done() {
            self.check_attached();
            // SAFETY: as above. Handles interrupts, so it may unwind.
            unsafe { pg_sys::ConditionVariableTimedSleep(changed, LONGEST_SLEEP_MS, WAIT.number()) };
        }
    }

    fn wake(&self, partition: usize) {
        if !self.detached.get() {
            // SAFETY: initialised by `create`, mapped (checked); raises no error.
            unsafe { pg_sys::ConditionVariableBroadcast(self.changed(partition)) };
        }
    }
}

/// The tranche of all these locks, the same for every process until the server stops.
pub(super) fn tranche() -> u16 {
    let mut found = false;
    let _held = LwLockGuard::acquire(lwlock::addin_shmem_init_lock(), LockMode::Exclusive);
    // SAFETY: the lock is the one for this purpose; the structure has one word, written by whoever makes it.
    unsafe {
        let word: *mut u32 = pg_sys::ShmemInitStruct(c"pg_shared_lru tranche".as_ptr(), 4, &mut found).cast();
        if !found {
            *word = pg_sys::LWLockNewTrancheId() as u32;
        }
        *word as u16
    }
}
