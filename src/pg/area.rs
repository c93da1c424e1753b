//! One piece of PostgreSQL's main shared memory that holds all named caches.
//!
//! ```text
//! ┌─────────────┬───────────────────────────┬───────────────────────┬──────────────────────┐
//! │ CacheSlot … │ LWLocks: 64 for each slot │ counters of each slot │ memory of the caches │
//! └─────────────┴───────────────────────────┴───────────────────────┴──────────────────────┘
//! ```
//!
//! Requested while the postmaster loads its libraries, initialised once under AddinShmemInitLock, inherited by every
//! backend together with a table of where its parts are. After a crash the postmaster makes new shared memory and runs the
//! hook again: the area starts empty. All hooks call those that were installed before.
//!
//! Locking: the catalog's lock is the first LWLock of the tranche named like the area; partitions' locks are ours, in
//! the same tranche, so that waits for either show as this name in `pg_stat_activity`.
//! Nobody takes a partition's lock under the catalog's, or the other way round.
//!
//! Not here: what a slot holds (`slot`), which caches there are (`catalog`).
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use pgrx::{pg_guard, pg_sys};

use super::database_drops;
use super::lwlock::{self, LwLockGuard};
use super::slot::CacheSlot;
use crate::engine::counters::Stripe;
use crate::engine::limits::{MAX_PARTITIONS, STRIPE_COUNT};
use crate::shared::lock::LockMode;

/// What an area is to be.
#[derive(Clone, Copy, Debug)]
pub struct AreaRequest {
    /// Name of the shared memory and of its LWLock tranche.
    pub name: &'static CStr,
    /// Bytes for caches.
    pub bytes: usize,
    /// The most caches at one time.
    pub max_caches: usize,
}

static REQUEST: OnceLock<AreaRequest> = OnceLock::new();
/// Where the area is in this process; set by the postmaster's hook, inherited over fork. After a crash the postmaster
/// sets it anew and leaves the old table, of some words, to itself.
static AREA: AtomicPtr<Places> = AtomicPtr::new(std::ptr::null_mut());
static PREVIOUS_REQUEST_HOOK: AtomicUsize = AtomicUsize::new(0);
static PREVIOUS_STARTUP_HOOK: AtomicUsize = AtomicUsize::new(0);

/// Asks for an area. Only while the postmaster loads `shared_preload_libraries`, once per library.
///
/// # Panics
///
/// If an area was requested before.
pub fn request(area: AreaRequest) {
    assert!(REQUEST.set(area).is_ok(), "an area was requested before");
    // SAFETY: runs in the postmaster's only thread while it loads libraries; the hooks have the right types, and those
    // installed before are kept to be called first.
    unsafe {
        #[cfg(feature = "pg15")]
        {
            PREVIOUS_REQUEST_HOOK.store(hook_address(pg_sys::shmem_request_hook), Ordering::Relaxed);
            pg_sys::shmem_request_hook = Some(request_hook);
        }
        PREVIOUS_STARTUP_HOOK.store(hook_address(pg_sys::shmem_startup_hook), Ordering::Relaxed);
        pg_sys::shmem_startup_hook = Some(startup_hook);
    }
    database_drops::watch();
}

type Hook = Option<unsafe extern "C-unwind" fn()>;

fn hook_address(hook: Hook) -> usize {
    hook.map_or(0, |hook| hook as usize)
}

/// Calls the hook that was installed before ours.
///
/// # Safety
///
/// - `previous` was set by [`request`].
unsafe fn call_previous(previous: &AtomicUsize) {
    // SAFETY: the address came from a hook of this type, 0 standing for none, which is `None`'s representation.
    let hook: Hook = unsafe { std::mem::transmute::<usize, Hook>(previous.load(Ordering::Relaxed)) };
    if let Some(hook) = hook {
        // SAFETY: PostgreSQL would have called it with the same arguments, at this moment. It may raise an error.
        unsafe { pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| hook()) };
    }
}

fn requested() -> AreaRequest {
    *REQUEST.get().expect("hooks are installed by a request")
}

#[pg_guard]
unsafe extern "C-unwind" fn request_hook() {
    let area = requested();
    // SAFETY: PostgreSQL calls the hook at the one moment when these may be called.
    unsafe {
        call_previous(&PREVIOUS_REQUEST_HOOK);
        pg_sys::RequestAddinShmemSpace(Offsets::new(area.max_caches).total_bytes(area.bytes));
        pg_sys::RequestNamedLWLockTranche(area.name.as_ptr(), 1);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn startup_hook() {
    let area = requested();
    let offsets = Offsets::new(area.max_caches);
    // SAFETY: PostgreSQL calls the hook once shared memory exists. What it finds there was initialised by the process
    // that made it, what it makes is zeroed, which is what free slots and counters are, and gets its locks.
    unsafe {
        call_previous(&PREVIOUS_STARTUP_HOOK);
        let _held = LwLockGuard::acquire(lwlock::addin_shmem_init_lock(), LockMode::Exclusive);
        let mut found = false;
        let base: *mut u8 =
            pg_sys::ShmemInitStruct(area.name.as_ptr(), offsets.total_bytes(area.bytes), &mut found).cast();
        let base = NonNull::new(base).expect("ShmemInitStruct does not return NULL");
        let tranche = pg_sys::GetNamedLWLockTranche(area.name.as_ptr());
        let locks: NonNull<pg_sys::LWLockPadded> = base.add(offsets.locks).cast();
        if !found {
            base.write_bytes(0, offsets.heap);
            for lock in 0..area.max_caches * MAX_PARTITIONS as usize {
                pg_sys::LWLockInitialize(&raw mut (*locks.as_ptr().add(lock)).lock, (*tranche).lock.tranche.into());
            }
        }
        let places = Places {
            slots: std::slice::from_raw_parts(base.cast().as_ptr(), area.max_caches),
            locks,
            stripes: std::slice::from_raw_parts(
                base.add(offsets.stripes).cast().as_ptr(),
                area.max_caches * STRIPE_COUNT,
            ),
            heap: base.add(offsets.heap),
            bytes: area.bytes,
            catalog_lock: &raw mut (*tranche).lock,
        };
        AREA.store(Box::leak(Box::new(places)), Ordering::Release);
    }
}

/// Where the parts of the area start. Slots first.
struct Offsets {
    locks: usize,
    stripes: usize,
    heap: usize,
}

impl Offsets {
    fn new(max_caches: usize) -> Self {
        let locks = (max_caches * size_of::<CacheSlot>()).next_multiple_of(128);
        let lock_bytes = max_caches * MAX_PARTITIONS as usize * size_of::<pg_sys::LWLockPadded>();
        let stripes = (locks + lock_bytes).next_multiple_of(128);
        let stripe_bytes = max_caches * STRIPE_COUNT * size_of::<Stripe>();
        Offsets { locks, stripes, heap: (stripes + stripe_bytes).next_multiple_of(4096) }
    }

    fn total_bytes(&self, heap_bytes: usize) -> usize {
        // PostgreSQL aligns what it gives to 128 bytes (a cache line).
        self.heap + heap_bytes.next_multiple_of(64)
    }
}

/// The parts of the area in this process.
#[derive(Debug)]
struct Places {
    slots: &'static [CacheSlot],
    /// `MAX_PARTITIONS` for each slot.
    locks: NonNull<pg_sys::LWLockPadded>,
    /// `STRIPE_COUNT` for each slot.
    stripes: &'static [Stripe],
    heap: NonNull<u8>,
    bytes: usize,
    catalog_lock: *mut pg_sys::LWLock,
}

/// The area, seen from this process.
#[derive(Clone, Copy, Debug)]
pub struct Area(&'static Places);

impl Area {
    /// The area, if it was requested at server start.
    pub fn get() -> Option<Area> {
        // SAFETY: null, or a table that is never freed.
        unsafe { AREA.load(Ordering::Acquire).as_ref() }.map(Area)
    }

    /// The most caches at one time.
    pub fn max_caches(self) -> usize {
        self.0.slots.len()
    }

    /// Bytes for caches.
    pub fn bytes(self) -> usize {
        self.0.bytes
    }

    pub(super) fn slots(self) -> &'static [CacheSlot] {
        self.0.slots
    }

    /// The first of the `MAX_PARTITIONS` locks for the cache in a slot.
    pub(super) fn partition_locks(self, slot: usize) -> NonNull<pg_sys::LWLockPadded> {
        assert!(slot < self.max_caches());
        // SAFETY: inside the array of locks (checked).
        unsafe { self.0.locks.add(slot * MAX_PARTITIONS as usize) }
    }

    /// The counters of reads that take no lock, for the cache in a slot. Like the locks they lie outside of the caches'
    /// memory: a reader may count when its cache was just dropped.
    pub(super) fn stripes(self, slot: usize) -> &'static [Stripe] {
        &self.0.stripes[slot * STRIPE_COUNT..][..STRIPE_COUNT]
    }

    /// The memory of the cache at this offset.
    pub(super) fn cache_memory(self, (offset, bytes): (usize, usize)) -> NonNull<u8> {
        assert!(bytes <= self.bytes() && offset <= self.bytes() - bytes);
        // SAFETY: inside the caches' memory (checked).
        unsafe { self.0.heap.add(offset) }
    }

    /// Runs `work` under the catalog's lock. `work` raises no errors, takes no other lock, and is short: the lock holds
    /// interrupts off.
    pub(super) fn with_catalog<R>(self, mode: LockMode, work: impl FnOnce() -> R) -> R {
        let _held = LwLockGuard::acquire(self.0.catalog_lock, mode);
        work()
    }
}
