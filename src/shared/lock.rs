//! The lock of a partition, as a trait: PostgreSQL brings LWLocks, tests and other programs bring their own. Beside it,
//! because one value knows both: whether the memory that the locks guard is still the cache's.
//!
//! Locking: a cache takes one partition's lock at a time and never another lock inside. While a lock is held the cache
//! runs no code of the user, reports no error and waits for nothing.
//!
//! Not here: the locks themselves, but for [`NoLocks`] (`robust_locks`, `pg::lwlock`, `pg::dsm_locks`); where reads that
//! take no lock are counted (given to the cache when it is opened).
#![allow(unsafe_code)]

use std::cell::Cell;
use std::marker::PhantomData;
use std::time::Duration;

/// What the holder of a lock may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockMode {
    /// Read, together with others.
    Shared,
    /// Change, alone.
    Exclusive,
}

/// The locks of all partitions of one cache.
///
/// A partition is named by its number, from 0 on. `acquire` and `release` are what an operation costs beside its work;
/// `wait` and `wake` are used by caches before a store only.
///
/// # Safety
///
/// - Between `acquire(p, Exclusive)` and `release(p, Exclusive)` no other thread or process holds partition `p`'s lock
///   in any mode; between `acquire(p, Shared)` and its release none holds it exclusively.
/// - What was written before a release is seen after the next acquisition.
/// - `acquire` does not return unless it has the lock; it may unwind instead.
/// - `acquire_for_cleanup` does the same in exclusive mode, and does not unwind.
/// - `release` does not unwind.
/// - `ONE_USER` is true only if no two threads or processes can use the cache.
pub unsafe trait Locks: Tenancy {
    /// No other user of the cache can exist, so reads that avoid the lock have nothing to avoid: the cache takes the
    /// locked way at once, where the lock costs nothing.
    const ONE_USER: bool = false;

    /// Waits for the lock of a partition.
    fn acquire(&self, partition: usize, mode: LockMode);

    /// Waits for the lock in exclusive mode, to free what a reader has left. As `acquire`, but must not unwind: it may
    /// run in a destructor. Where caches can be dropped, it is not refused while a drop is being tried.
    fn acquire_for_cleanup(&self, partition: usize) {
        self.acquire(partition, LockMode::Exclusive);
    }

    /// Gives it back. The caller holds it in this mode.
    fn release(&self, partition: usize, mode: LockMode);

    /// Waits, holding no lock, until `done` says so; it may unwind instead. `done` takes the partition's lock for a
    /// moment. What it looks for happens under that lock and is followed by [`Locks::wake`], which may come from a
    /// process that has been killed since: so `done` is asked now and then even if nobody wakes.
    fn wait(&self, _partition: usize, done: &mut dyn FnMut() -> bool) {
        const LONGEST: Duration = Duration::from_millis(1);
        let mut pause = Duration::from_micros(10);
        while !done() {
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST);
        }
    }

    /// Lets those who wait for something in this partition look again. Called without its lock; must not unwind.
    fn wake(&self, _partition: usize) {}
}

/// Whether a cache's memory is still there, and still the cache's. A reader that takes no lock asks; whoever takes one
/// is told by `acquire`.
///
/// What is written here is right for memory that outlives every handle and never serves anything else: an empty `impl`
/// is the rule.
///
/// # Safety
///
/// - If `is_mapped` says true, the memory that the cache was opened over can be read until this thread leaves the cache's
///   code.
/// - If `is_current` says true, all that this thread had read of the memory by then was the cache's: whoever gives the
///   memory to something else makes it say false before the first write to it, with release ordering, and `is_current`
///   loads that with acquire ordering.
pub unsafe trait Tenancy {
    /// Whether the memory can be read at all. Where it may have been unmapped, a read without a lock asks first, and
    /// leaves it to `acquire` to say so.
    #[inline]
    fn is_mapped(&self) -> bool {
        true
    }

    /// Whether the memory is still that of this cache: where caches can be dropped, a reader that took no lock asks
    /// after its last read.
    #[inline]
    fn is_current(&self) -> bool {
        true
    }
}

/// Holds a partition's lock until dropped.
#[derive(Debug)]
pub(super) struct Guard<'a, L: Locks> {
    locks: &'a L,
    partition: usize,
    mode: LockMode,
}

impl<'a, L: Locks> Guard<'a, L> {
    #[inline]
    pub(super) fn acquire(locks: &'a L, partition: usize, mode: LockMode) -> Self {
        locks.acquire(partition, mode);
        Guard { locks, partition, mode }
    }

    pub(super) fn acquire_for_cleanup(locks: &'a L, partition: usize) -> Self {
        locks.acquire_for_cleanup(partition);
        Guard { locks, partition, mode: LockMode::Exclusive }
    }

    #[inline]
    pub(super) fn partition(&self) -> usize {
        self.partition
    }
}

impl<L: Locks> Drop for Guard<'_, L> {
    #[inline]
    fn drop(&mut self) {
        self.locks.release(self.partition, self.mode);
    }
}

/// No lock at all: for a cache that one thread of one process uses. Not `Sync`, so neither is the cache.
#[derive(Debug, Default)]
pub struct NoLocks(PhantomData<Cell<()>>);

// SAFETY: `NoLocks` is not `Sync`, so one thread has the cache to itself, and the cache calls no user code between
// acquire and release that could come back.
unsafe impl Locks for NoLocks {
    const ONE_USER: bool = true;

    #[inline]
    fn acquire(&self, _partition: usize, _mode: LockMode) {}

    #[inline]
    fn release(&self, _partition: usize, _mode: LockMode) {}
}

// SAFETY: the memory stays mapped while the cache is used (contract of the cache's `create`), and nobody else gets it.
unsafe impl Tenancy for NoLocks {}
