//! Locks for caches that processes share outside PostgreSQL: robust POSIX mutexes in the shared memory.
//!
//! Invariant: a waiter looks again after some milliseconds at the latest, by a clock that nobody sets. Not
//! `pthread_mutex_lock`: where a process is killed that was just woken to take the mutex, the others that wait are
//! forgotten, for the mark that there are any goes with it.
//!
//! Not here: what a holder that died has left half-done, which the partition's sequence number tells.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::time::Duration;

use super::lock::{LockMode, Locks, Tenancy};

/// How long a waiter may sleep that nobody wakes.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// One robust, process-shared POSIX mutex per partition, in memory that the processes share.
///
/// Readers exclude each other too. When a holder dies the next one gets the mutex all the same; if a change was
/// under way the cache notices and empties that partition. A copy of this value names the same mutexes.
///
/// # Panics
///
/// `acquire` panics if the C library refuses a mutex for any other reason: if the memory is not one that `create`
/// initialised.
#[derive(Clone, Debug)]
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
    /// # Panics
    ///
    /// If the C library has no robust mutexes that processes share.
    ///
    /// # Safety
    ///
    /// - `memory` is aligned to 64 bytes, `bytes(count)` long, and used by nobody else yet.
    /// - It stays mapped while the result, a copy of it, or a result of `attach` is used.
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
    /// - It stays mapped while the result or a copy of it is used.
    pub unsafe fn attach(memory: NonNull<u8>, count: usize) -> Self {
        RobustLocks { first: memory.cast(), count }
    }

    fn mutex(&self, partition: usize) -> *mut libc::pthread_mutex_t {
        assert!(partition < self.count);
        // SAFETY: inside the array (checked).
        unsafe { self.first.as_ptr().add(partition).cast() }
    }
}

fn expect_ok(call: &str, code: c_int) {
    assert_eq!(code, 0, "{call}: {}", std::io::Error::from_raw_os_error(code));
}

type ClockLock = unsafe extern "C" fn(*mut libc::pthread_mutex_t, libc::clockid_t, *const libc::timespec) -> c_int;

/// `pthread_mutex_clocklock`, of POSIX 2024, where the C library that runs here has it: glibc since 2.30.
fn clock_lock() -> Option<ClockLock> {
    static FOUND: OnceLock<Option<ClockLock>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        // SAFETY: a look-up of a name that ends in a zero byte.
        let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"pthread_mutex_clocklock".as_ptr()) };
        // SAFETY: a function of this name has this type; it belongs to the C library, which stays.
        (!address.is_null()).then(|| unsafe { std::mem::transmute::<*mut c_void, ClockLock>(address) })
    })
}

/// A moment so much later than now, on a clock that only goes on.
fn after(pause: Duration) -> libc::timespec {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes to `time` only; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    let nanoseconds = time.tv_nsec as u128 + pause.as_nanos();
    time.tv_sec += (nanoseconds / 1_000_000_000) as libc::time_t;
    time.tv_nsec = (nanoseconds % 1_000_000_000) as libc::c_long;
    time
}

/// Waits for a mutex that somebody has, and says how that came out, as `pthread_mutex_lock` does. Without `clock_lock`
/// it is tried every now and then: the other function that waits for some time does so by a clock that can be set back.
///
/// # Safety
///
/// - `mutex` points to a mutex that [`RobustLocks::create`] initialised.
unsafe fn wait_for(mutex: *mut libc::pthread_mutex_t, clock_lock: Option<ClockLock>) -> c_int {
    const LONGEST: Duration = Duration::from_millis(1);
    let mut pause = Duration::from_micros(10);
    loop {
        let code = match clock_lock {
            // SAFETY: an initialised mutex (caller), a clock that there is, a valid time.
            Some(clock_lock) => unsafe { clock_lock(mutex, libc::CLOCK_MONOTONIC, &after(LOOK_AGAIN)) },
            None => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(LONGEST);
                // SAFETY: an initialised mutex (caller).
                unsafe { libc::pthread_mutex_trylock(mutex) }
            }
        };
        if code != libc::EBUSY && code != libc::ETIMEDOUT {
            return code;
        }
    }
}

// SAFETY: POSIX mutexes exclude each other and order memory. A shared acquisition is an exclusive one.
unsafe impl Locks for RobustLocks {
    fn acquire(&self, partition: usize, _mode: LockMode) {
        let mutex = self.mutex(partition);
        // SAFETY: initialised by `create`.
        let mut code = unsafe { libc::pthread_mutex_trylock(mutex) };
        if code == libc::EBUSY {
            // SAFETY: as above.
            code = unsafe { wait_for(mutex, clock_lock()) };
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

// SAFETY: the memory of mutexes and cache stays mapped while they are used (contracts of `create` and `attach`, and of
// the cache's), and nobody else gets it.
unsafe impl Tenancy for RobustLocks {}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;
    use crate::shared::backing::SharedMapping;

    fn locks() -> (SharedMapping, RobustLocks) {
        let mapping = SharedMapping::new(RobustLocks::bytes(2)).unwrap();
        // SAFETY: new memory, aligned to a page, which the caller keeps.
        let locks = unsafe { RobustLocks::create(mapping.base(), 2) };
        (mapping, locks)
    }

    /// Both ways to wait.
    fn ways() -> [Option<ClockLock>; 2] {
        [clock_lock(), None]
    }

    #[test]
    fn a_mutex_whose_owner_died_is_taken_at_once() {
        let (_mapping, locks) = locks();
        // A thread that ends with a robust mutex is a dead owner, too.
        std::thread::scope(|scope| _ = scope.spawn(|| locks.acquire(1, LockMode::Exclusive)));
        locks.acquire(1, LockMode::Exclusive);
        locks.release(1, LockMode::Exclusive);
        locks.acquire(1, LockMode::Shared);
        locks.release(1, LockMode::Shared);
    }

    #[test]
    fn whoever_waits_for_a_mutex_gets_it_when_its_owner_lets_go_or_dies() {
        for dies in [false, true] {
            for way in ways() {
                let (_mapping, locks) = locks();
                let is_taken = Barrier::new(2);
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        locks.acquire(0, LockMode::Exclusive);
                        is_taken.wait();
                        // Longer than one sleep of whoever waits, so that it looks again and again.
                        std::thread::sleep(LOOK_AGAIN * 2);
                        if !dies {
                            locks.release(0, LockMode::Exclusive);
                        }
                    });
                    is_taken.wait();
                    let mutex = locks.mutex(0);
                    // SAFETY: initialised by `create`.
                    let code = unsafe { wait_for(mutex, way) };
                    assert_eq!(code, if dies { libc::EOWNERDEAD } else { 0 }, "{}", way.is_some());
                    if dies {
                        // SAFETY: we hold the mutex.
                        expect_ok("pthread_mutex_consistent", unsafe { libc::pthread_mutex_consistent(mutex) });
                    }
                    locks.release(0, LockMode::Exclusive);
                });
            }
        }
    }

    #[test]
    fn a_moment_later_is_valid_and_later() {
        for pause in [Duration::ZERO, LOOK_AGAIN, Duration::from_millis(999), Duration::from_millis(1001)] {
            let (now, later) = (after(Duration::ZERO), after(pause));
            let nanoseconds = |time: libc::timespec| time.tv_sec as u128 * 1_000_000_000 + time.tv_nsec as u128;
            assert!((0..1_000_000_000).contains(&later.tv_nsec));
            assert!(nanoseconds(later) >= nanoseconds(now) + pause.as_nanos());
        }
    }
}
