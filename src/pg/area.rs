//! One piece of PostgreSQL's main shared memory that holds all named caches.
//!
//! ```text
//! ┌────────────┬──────────────┬───────────────────────────┬───────────────────────────┬──────────────────────┐
//! │ AreaHeader │ CacheSlot …  │ LWLocks: 64 for each slot │ counters of each slot     │ memory of the caches │
//! └────────────┴──────────────┴───────────────────────────┴───────────────────────────┴──────────────────────┘
//! ```
//!
//! Requested while the postmaster loads its libraries, initialised once under AddinShmemInitLock, inherited by every
//! backend. After a crash the postmaster makes new shared memory and runs the hook again: the area starts empty.
//! Both hooks call those that were installed before.
//!
//! Locking: the catalog's lock is the first LWLock of the tranche named like the area; partitions' locks are ours, in
//! the same tranche, so that waits for either show as this name in `pg_stat_activity`.
//! Order: catalog, then partition.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use pgrx::{pg_guard, pg_sys};

use super::lwlock::{self, Held};
use crate::engine::layout::{MAX_PARTITIONS, STRIPE_COUNT, Stripe};
use crate::engine::region::{RegionType, Word32, Word64};
use crate::shared::lock::LockMode;

/// The longest name of a cache, in bytes.
pub const MAX_NAME_BYTES: usize = 63;

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
/// Address of the area in this process; set by the postmaster's hook, inherited over fork.
static AREA: AtomicPtr<u8> = AtomicPtr::new(std::ptr::null_mut());
static PREVIOUS_REQUEST_HOOK: AtomicUsize = AtomicUsize::new(0);
static PREVIOUS_STARTUP_HOOK: AtomicUsize = AtomicUsize::new(0);

#[repr(C)]
struct AreaHeader {
    max_caches: Word32,
    tranche: Word32,
    bytes: Word64,
}
// SAFETY: repr(C), words only, no padding.
unsafe impl RegionType for AreaHeader {}

/// One named cache, or room for one.
#[repr(C)]
pub(super) struct CacheSlot {
    /// Odd while the slot holds a cache; raised when one is created and when it is dropped.
    generation: Word64,
    /// Where its memory starts, from the start of the caches' memory.
    pub(super) offset: Word64,
    pub(super) bytes: Word64,
    pub(super) database: Word32,
    pub(super) owner: Word32,
    name_bytes: Word64,
    name: [Word64; 8],
}
const _: () = assert!(size_of::<CacheSlot>() == 104);
// SAFETY: repr(C), words only, no padding.
unsafe impl RegionType for CacheSlot {}

impl CacheSlot {
    /// Names one life of the slot.
    pub(super) fn generation(&self) -> u64 {
        self.generation.atomic().load(Ordering::Acquire)
    }

    pub(super) fn is_live(&self) -> bool {
        self.generation() % 2 == 1
    }

    /// From free to live or back.
    pub(super) fn change_life(&self) {
        self.generation.atomic().store(self.generation() + 1, Ordering::Release);
    }

    /// Takes the last change back.
    pub(super) fn undo_change_of_life(&self) {
        self.generation.atomic().store(self.generation() - 1, Ordering::Release);
    }

    pub(super) fn name(&self) -> String {
        let bytes: Vec<u8> = self.name.iter().flat_map(|word| word.get().to_le_bytes()).collect();
        let len = (self.name_bytes.get() as usize).min(MAX_NAME_BYTES);
        String::from_utf8_lossy(&bytes[..len]).into_owned()
    }

    pub(super) fn set_name(&self, name: &str) {
        let mut bytes = [0; 64];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        for (word, bytes) in self.name.iter().zip(bytes.chunks_exact(8)) {
            word.set(u64::from_le_bytes(bytes.try_into().expect("eight bytes")));
        }
        self.name_bytes.set(name.len() as u64);
    }
}

/// Asks for an area. Only while the postmaster loads `shared_preload_libraries`, once per library.
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
    let total_bytes = offsets.total_bytes(area.bytes);
    // SAFETY: PostgreSQL calls the hook once shared memory exists.
    unsafe {
        call_previous(&PREVIOUS_STARTUP_HOOK);
        let _held = Held::acquire(lwlock::addin_shmem_init_lock(), LockMode::Exclusive);
        let mut found = false;
        let base: *mut u8 = pg_sys::ShmemInitStruct(area.name.as_ptr(), total_bytes, &mut found).cast();
        if !found {
            std::ptr::write_bytes(base, 0, offsets.heap);
            let tranche = pg_sys::GetNamedLWLockTranche(area.name.as_ptr());
            let this = Area { base: NonNull::new(base).expect("ShmemInitStruct does not return NULL") };
            let header = this.header();
            header.max_caches.set(area.max_caches as u32);
            header.tranche.set(u32::from((*tranche).lock.tranche));
            header.bytes.set(area.bytes as u64);
            for lock in 0..area.max_caches * MAX_PARTITIONS as usize {
                let padded = base.add(offsets.locks).cast::<pg_sys::LWLockPadded>().add(lock);
                pg_sys::LWLockInitialize(&raw mut (*padded).lock, (*tranche).lock.tranche.into());
            }
        }
        AREA.store(base, Ordering::Release);
    }
}

/// Where the parts of the area start.
struct Offsets {
    slots: usize,
    locks: usize,
    stripes: usize,
    heap: usize,
}

impl Offsets {
    fn new(max_caches: usize) -> Self {
        let slots = size_of::<AreaHeader>().next_multiple_of(64);
        let locks = (slots + max_caches * size_of::<CacheSlot>()).next_multiple_of(128);
        let lock_bytes = max_caches * MAX_PARTITIONS as usize * size_of::<pg_sys::LWLockPadded>();
        let stripes = (locks + lock_bytes).next_multiple_of(128);
        let stripe_bytes = max_caches * STRIPE_COUNT * size_of::<Stripe>();
        Offsets { slots, locks, stripes, heap: (stripes + stripe_bytes).next_multiple_of(4096) }
    }

    fn total_bytes(&self, heap_bytes: usize) -> usize {
        // PostgreSQL aligns what it gives to 128 bytes (a cache line).
        self.heap + heap_bytes.next_multiple_of(64)
    }
}

/// The area, seen from this process.
#[derive(Clone, Copy)]
pub struct Area {
    base: NonNull<u8>,
}

impl Area {
    /// The area, if it was requested at server start.
    pub fn get() -> Option<Area> {
        NonNull::new(AREA.load(Ordering::Acquire)).map(|base| Area { base })
    }

    fn offsets(self) -> Offsets {
        Offsets::new(self.max_caches())
    }

    fn header(&self) -> &AreaHeader {
        // SAFETY: the area starts with its header and stays mapped as long as the process lives.
        unsafe { self.base.cast().as_ref() }
    }

    /// The most caches at one time.
    pub fn max_caches(self) -> usize {
        self.header().max_caches.get() as usize
    }

    /// Bytes for caches.
    pub fn bytes(self) -> usize {
        self.header().bytes.get() as usize
    }

    pub(super) fn slot(&self, slot: usize) -> &CacheSlot {
        assert!(slot < self.max_caches());
        // SAFETY: inside the array of slots (checked); words only.
        unsafe { self.base.add(self.offsets().slots).cast::<CacheSlot>().add(slot).as_ref() }
    }

    pub(super) fn partition_lock(self, slot: usize, partition: usize) -> *mut pg_sys::LWLock {
        assert!(slot < self.max_caches() && partition < MAX_PARTITIONS as usize);
        let number = slot * MAX_PARTITIONS as usize + partition;
        // SAFETY: inside the array of locks (checked).
        unsafe {
            let padded = self.base.add(self.offsets().locks).cast::<pg_sys::LWLockPadded>().add(number);
            &raw mut (*padded.as_ptr()).lock
        }
    }

    /// The counters of reads that take no lock, for the cache in a slot. Like the locks they lie outside of the caches'
    /// memory: a reader may count when its cache was just dropped.
    pub(super) fn stripes(self, slot: usize) -> &'static [Stripe] {
        assert!(slot < self.max_caches());
        // SAFETY: inside the array of counters (checked), zeroed when the area was made; aligned as the area is, to 64
        // bytes at least; words only. The area stays mapped as long as the process lives.
        unsafe {
            let all = self.base.add(self.offsets().stripes).cast::<Stripe>();
            std::slice::from_raw_parts(all.add(slot * STRIPE_COUNT).as_ptr(), STRIPE_COUNT)
        }
    }

    /// The memory of the cache at this offset.
    pub(super) fn cache_memory(self, offset: usize, bytes: usize) -> NonNull<u8> {
        assert!(bytes <= self.bytes() && offset <= self.bytes() - bytes);
        // SAFETY: inside the caches' memory (checked).
        unsafe { self.base.add(self.offsets().heap + offset) }
    }

    /// Runs `work` under the catalog's lock. `work` must not raise errors.
    pub(super) fn with_catalog<R>(self, mode: LockMode, work: impl FnOnce() -> R) -> R {
        // SAFETY: the tranche was requested with the area and has one lock.
        let lock = unsafe { &raw mut (*pg_sys::GetNamedLWLockTranche(requested().name.as_ptr())).lock };
        let _held = Held::acquire(lock, mode);
        work()
    }
}
