//! The lock of a partition, as a trait: PostgreSQL brings LWLocks, tests and other programs bring their own.
//!
//! A cache takes one partition's lock at a time and never another lock inside. While a lock is held the cache
//! runs no code of the user, reports no error and waits for nothing.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::time::Duration;

use crate::engine::layout::Stripe;

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
/// # Safety
///
/// - Between `acquire(p, Exclusive)` and `release(p, Exclusive)` no other thread or process holds partition `p`'s lock
///   in any mode; between `acquire(p, Shared)` and its release none holds it exclusively.
/// - What was written before a release is seen after the next acquisition.
/// - `acquire` does not return unless it has the lock; it may unwind instead.
/// - `release` does not unwind.
pub unsafe trait Locks {
    /// Whether one thread of one process has the cache to itself, so that its locks cost nothing.
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

    /// Whether the memory can be read at all. Where it may have been unmapped, a read without a lock asks first, and
    /// leaves it to `acquire` to say so.
    #[inline]
    fn is_mapped(&self) -> bool {
        true
    }

    /// Whether the memory is still that of this cache: where caches can be dropped, a reader that took no lock asks
    /// when it is done reading. Once the memory serves something else, whoever has read a word of that is told so.
    #[inline]
    fn is_current(&self) -> bool {
        true
    }

    /// Where reads that took no lock are counted, if not in the cache's own memory: where caches can be dropped, a
    /// count may come late. [`STRIPE_COUNT`](crate::engine::layout::STRIPE_COUNT) of them, zeroed when the cache is
    /// created.
    #[inline]
    fn stripes(&self) -> Option<&[Stripe]> {
        None
    }

    /// Lets those who wait for something in this partition look again. Called without its lock; must not unwind.
    fn wake(&self, _partition: usize) {}
}

/// Holds a partition's lock until dropped.
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

/// One robust, process-shared POSIX mutex per partition, in memory that the processes share.
///
/// Readers exclude each other too. When a holder dies the next one gets the mutex all the same; if a change was
/// under way the cache notices and empties that partition.
pub struct RobustLocks {
    first: NonNull<PaddedMutex>,
    count: usize,
}

#[repr(C, align(64))]
struct PaddedMutex(libc::pthread_mutex_t);

// SAFETY: the mutexes are made for use by many threads and processes; the pointer is only read.
unsafe impl Send for RobustLocks {}
// SAFETY: as above.
unsafe impl Sync for RobustLocks {}

impl RobustLocks {
    /// Bytes that the mutexes of `count` partitions take; a multiple of 64.
    pub const fn bytes(count: usize) -> usize {
        count * size_of::<PaddedMutex>()
    }

    /// Initialises mutexes.
    ///
    /// # Safety
    ///
    /// - `memory` is aligned to 64 bytes, `bytes(count)` long, and used by nobody else yet.
    /// - It stays mapped while the result or a copy from `attach` is used.
    pub unsafe fn create(memory: NonNull<u8>, count: usize) -> Self {
        let locks = RobustLocks { first: memory.cast(), count };
        // SAFETY: the attribute object is initialised before use and destroyed after; the mutexes lie in
        // `memory`, which is ours alone (caller).
        unsafe {
            let mut attributes = std::mem::zeroed();
            expect_ok("pthread_mutexattr_init", libc::pthread_mutexattr_init(&mut attributes));
            let shared = libc::PTHREAD_PROCESS_SHARED;
            expect_ok("pthread_mutexattr_setpshared", libc::pthread_mutexattr_setpshared(&mut attributes, shared));
            let robust = libc::PTHREAD_MUTEX_ROBUST;
            expect_ok("pthread_mutexattr_setrobust", libc::pthread_mutexattr_setrobust(&mut attributes, robust));
            for partition in 0..count {
                expect_ok("pthread_mutex_init", libc::pthread_mutex_init(locks.mutex(partition), &attributes));
            }
            libc::pthread_mutexattr_destroy(&mut attributes);
        }
        locks
    }

    /// Names mutexes that were initialised by [`RobustLocks::create`].
    ///
    /// # Safety
    ///
    /// - `memory` holds `count` mutexes that `create` initialised, perhaps mapped elsewhere.
    /// - It stays mapped while the result is used.
    pub unsafe fn attach(memory: NonNull<u8>, count: usize) -> Self {
        RobustLocks { first: memory.cast(), count }
    }

    fn mutex(&self, partition: usize) -> *mut libc::pthread_mutex_t {
        assert!(partition < self.count);
        // SAFETY: inside the array (checked).
        unsafe { self.first.as_ptr().add(partition).cast() }
    }
}

/// A few milliseconds from now, on the clock that POSIX prescribes for mutexes.
fn soon() -> libc::timespec {
    const WAIT_NANOSECONDS: i64 = 20_000_000;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes to `time` only; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &mut time) };
    time.tv_nsec += WAIT_NANOSECONDS;
    if time.tv_nsec >= 1_000_000_000 {
        time.tv_sec += 1;
        time.tv_nsec -= 1_000_000_000;
    }
    time
}

fn expect_ok(call: &str, code: i32) {
    assert_eq!(code, 0, "{call}: {}", std::io::Error::from_raw_os_error(code));
}

// SAFETY: POSIX mutexes exclude each other and order memory. A shared acquisition is an exclusive one.
unsafe impl Locks for RobustLocks {
    fn acquire(&self, partition: usize, _mode: LockMode) {
        let mutex = self.mutex(partition);
        // SAFETY: initialised by `create`.
        let mut code = unsafe { libc::pthread_mutex_trylock(mutex) };
        // Not `pthread_mutex_lock`: where a process is killed that was just woken to take the mutex, the others that
        // wait are forgotten, for the mark that there are any goes with it. So nobody sleeps for long.
        while code == libc::EBUSY || code == libc::ETIMEDOUT {
            let until = soon();
            // SAFETY: as above, and a valid time.
            code = unsafe { libc::pthread_mutex_timedlock(mutex, &until) };
        }
        if code == libc::EOWNERDEAD {
            // What the owner left undone is found by the partition's sequence number.
            // SAFETY: we hold the mutex.
            expect_ok("pthread_mutex_consistent", unsafe { libc::pthread_mutex_consistent(mutex) });
        } else {
            expect_ok("pthread_mutex_lock", code);
        }
    }

    fn release(&self, partition: usize, _mode: LockMode) {
        // SAFETY: initialised by `create`, held by this thread (contract of `release`).
        let code = unsafe { libc::pthread_mutex_unlock(self.mutex(partition)) };
        debug_assert_eq!(code, 0);
    }
}
