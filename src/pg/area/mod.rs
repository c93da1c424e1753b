//! One piece of shared memory that holds all named caches.
//!
//! ```text
//! ┌───────────┬─────────────┬───────────────────────────┬───────────────────────┬──────────┬─────────┬───────┬──────────────────────┐
//! │ AreaWords │ CacheSlot … │ LWLocks: 64 for each slot │ counters of each slot │ Ledger … │ tallies │ rings │ memory of the caches │
//! └───────────┴─────────────┴───────────────────────────┴───────────────────────┴──────────┴─────────┴───────┴──────────────────────┘
//!
//! main_memory  a part of PostgreSQL's main shared memory, for a library that the server preloads
//! registry     a dynamic segment that PostgreSQL's DSM registry leads to, without a preload: from version 17 on
//! ```
//!
//! Each process has a table of where the parts are (`Places`), once it has found the area. After a crash the
//! postmaster makes new shared memory, and the area starts empty.
//!
//! Locking: the catalog's lock, and the partitions' locks in the area, are of one tranche that is named like the area,
//! so that waits for either show as this name in `pg_stat_activity`. Nobody takes a partition's lock under the catalog's,
//! or the other way round.
//!
//! Not here: what a slot (`slot`) and a ledger (`ledger`) hold, which caches there are (`catalog`).
#![allow(unsafe_code)]

mod main_memory;
#[cfg(any(feature = "pg17", feature = "pg18"))]
mod registry;

use std::ffi::CStr;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use pgrx::pg_sys;

use super::drops;
use super::error::CacheError;
use super::ledger::Ledger;
use super::lwlock::LwLockGuard;
use super::slot::{CacheSlot, Piece};
#[cfg(feature = "extension")]
use super::tallies::Tallies;
use super::tallies::{self, TallySet};
use crate::engine::counters::Stripe;
use crate::engine::limits::{MAX_PARTITIONS, STRIPE_COUNT};
use crate::engine::memory::region::{Region, RegionType};
use crate::engine::memory::words::{Word32, Word64};
use crate::rings::table::{LineCount, Rings};
use crate::shared::lock::LockMode;

/// What an area is to be.
#[derive(Clone, Copy, Debug)]
pub struct AreaRequest {
    /// Name of the shared memory and of its LWLock tranche; of at most 50 bytes, and no other library's.
    pub name: &'static CStr,
    /// Asked when the area is made: at server start, or at the first use without a preload.
    pub size: fn() -> AreaSize,
}

/// How much an area holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AreaSize {
    /// Bytes for caches.
    pub bytes: usize,
    /// The most caches at one time.
    pub max_caches: usize,
    /// Lines of the commit rings; 0: there are none, and no tallies of queries.
    pub lines: u32,
}

static REQUEST: OnceLock<AreaRequest> = OnceLock::new();
/// Set in the postmaster, inherited by all.
static IS_PRELOADED: AtomicBool = AtomicBool::new(false);
/// Where the area is in this process. In main shared memory the postmaster's hook sets it, and backends inherit it over
/// fork; after a crash it is set anew, and the old table, of some words, left to itself. Of a dynamic segment each
/// process finds out on its own.
static AREA: AtomicPtr<Places> = AtomicPtr::new(std::ptr::null_mut());

/// Asks for an area: from `_PG_init`, once per library. While the postmaster loads `shared_preload_libraries` it gets a
/// part of main shared memory. Later, from PostgreSQL 17 on, it is made at its first use; before 17 there will be none,
/// and its use is an error that says so.
///
/// # Panics
///
/// If an area was requested before.
pub fn request(area: AreaRequest) {
    assert!(REQUEST.set(area).is_ok(), "an area was requested before");
    if is_preloading() {
        IS_PRELOADED.store(true, Ordering::Relaxed);
        main_memory::install_hooks();
    }
    drops::watch();
}

/// Whether the server has preloaded the library.
#[cfg(feature = "extension")]
pub(super) fn is_preloaded() -> bool {
    IS_PRELOADED.load(Ordering::Relaxed)
}

/// Whether the postmaster is loading `shared_preload_libraries`.
pub fn is_preloading() -> bool {
    // SAFETY: a flag of the process's own, read from its only thread.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress }
}

fn requested() -> AreaRequest {
    *REQUEST.get().expect("hooks are installed by a request")
}

/// Words of the whole area.
#[repr(C)]
#[derive(Debug)]
pub(super) struct AreaWords {
    /// Number of the process that sweeps the caches; 0: none.
    pub(super) worker: Word32,
    /// Images of the last end that nobody has read yet.
    pub(super) unread_images: Word32,
    /// Which end that was; zeros: not a clean one. Written by the postmaster, before there are others.
    pub(super) seal: [Word64; 2],
    padding: [Word32; 26],
}
// SAFETY: repr(C), words only, no padding.
unsafe impl RegionType for AreaWords {}

/// Where the parts of an area start. Words of the whole first.
struct Offsets {
    slots: usize,
    locks: usize,
    stripes: usize,
    ledgers: usize,
    #[cfg(feature = "extension")]
    tallies: usize,
    rings: usize,
    heap: usize,
}

impl Offsets {
    fn new(AreaSize { max_caches, lines, .. }: AreaSize) -> Self {
        let slots = size_of::<AreaWords>();
        let locks = (slots + max_caches * size_of::<CacheSlot>()).next_multiple_of(128);
        let lock_bytes = max_caches * MAX_PARTITIONS as usize * size_of::<pg_sys::LWLockPadded>();
        let stripes = (locks + lock_bytes).next_multiple_of(128);
        let stripe_bytes = max_caches * STRIPE_COUNT * size_of::<Stripe>();
        let ledgers = (stripes + stripe_bytes).next_multiple_of(128);
        let tallies = (ledgers + max_caches * size_of::<Ledger>()).next_multiple_of(128);
        let sets = if lines > 0 { tallies::SETS } else { 0 };
        let rings = (tallies + sets * size_of::<TallySet>()).next_multiple_of(128);
        let ring_bytes = LineCount::new(lines).map_or(0, Rings::region_bytes);
        let heap = (rings + ring_bytes).next_multiple_of(4096);
        Offsets {
            slots,
            locks,
            stripes,
            ledgers,
            #[cfg(feature = "extension")]
            tallies,
            rings,
            heap,
        }
    }

    /// Of the whole area. PostgreSQL aligns what it gives to 128 bytes (a cache line) at least.
    fn total_bytes(size: AreaSize) -> usize {
        Self::new(size).heap + size.bytes.next_multiple_of(64)
    }
}

/// The parts of the area in this process.
#[derive(Debug)]
struct Places {
    #[cfg(feature = "extension")]
    words: &'static AreaWords,
    #[cfg(feature = "extension")]
    rings: Option<Rings>,
    #[cfg(feature = "extension")]
    tallies: Option<Tallies<'static>>,
    slots: &'static [CacheSlot],
    /// `MAX_PARTITIONS` for each slot.
    locks: NonNull<pg_sys::LWLockPadded>,
    /// `STRIPE_COUNT` for each slot.
    stripes: &'static [Stripe],
    ledgers: &'static [Ledger],
    heap: NonNull<u8>,
    bytes: usize,
    catalog_lock: *mut pg_sys::LWLock,
}

impl Places {
    /// The parts of the area that starts here.
    ///
    /// # Safety
    ///
    /// - `base` is aligned to 128, and `Offsets::total_bytes(size)` bytes from there on stay mapped until the process
    ///   exits.
    /// - [`Places::initialise`] was called for it, by whatever process, or is the next thing to happen to it.
    /// - `catalog_lock` is an initialised LWLock that stays mapped as long.
    unsafe fn new(base: NonNull<u8>, size: AreaSize, catalog_lock: *mut pg_sys::LWLock) -> Self {
        let offsets = Offsets::new(size);
        // SAFETY: inside the area (caller), whose first bytes are made of words that any process may look at.
        unsafe {
            Places {
                #[cfg(feature = "extension")]
                words: base.cast().as_ref(),
                slots: std::slice::from_raw_parts(base.add(offsets.slots).cast().as_ptr(), size.max_caches),
                #[cfg(feature = "extension")]
                rings: Rings::open(Region::new(base.add(offsets.rings), offsets.heap - offsets.rings)).ok(),
                #[cfg(feature = "extension")]
                tallies: (size.lines > 0).then(|| {
                    let sets = base.add(offsets.tallies).cast().as_ptr();
                    Tallies::new(std::slice::from_raw_parts(sets, tallies::SETS))
                }),
                locks: base.add(offsets.locks).cast(),
                stripes: std::slice::from_raw_parts(
                    base.add(offsets.stripes).cast().as_ptr(),
                    size.max_caches * STRIPE_COUNT,
                ),
                ledgers: std::slice::from_raw_parts(base.add(offsets.ledgers).cast().as_ptr(), size.max_caches),
                heap: base.add(offsets.heap),
                bytes: size.bytes,
                catalog_lock,
            }
        }
    }

    /// Makes new memory an area without caches: zeros, which is what free slots and counters are, and locks of this
    /// tranche.
    ///
    /// # Safety
    ///
    /// - `base` is as for [`Places::new`], and nobody else uses it yet.
    unsafe fn initialise(base: NonNull<u8>, size: AreaSize, tranche: i32) {
        let offsets = Offsets::new(size);
        // SAFETY: inside the area, which is the caller's alone.
        unsafe {
            base.write_bytes(0, offsets.heap);
            if let Ok(lines) = LineCount::new(size.lines) {
                Rings::format(Region::new(base.add(offsets.rings), offsets.heap - offsets.rings), lines);
            }
            let locks: NonNull<pg_sys::LWLockPadded> = base.add(offsets.locks).cast();
            for lock in 0..size.max_caches * MAX_PARTITIONS as usize {
                pg_sys::LWLockInitialize(&raw mut (*locks.as_ptr().add(lock)).lock, tranche);
            }
        }
    }

    /// From here on this process knows the area.
    fn publish(self) -> Area {
        let places: &'static Places = Box::leak(Box::new(self));
        AREA.store(std::ptr::from_ref(places).cast_mut(), Ordering::Release);
        Area(places)
    }
}

/// The area, seen from this process.
#[derive(Clone, Copy, Debug)]
pub struct Area(&'static Places);

impl Area {
    /// The area; made now, if this is its first use and the server has not preloaded the library.
    ///
    /// # Errors
    ///
    /// None was requested that this server can have ([`CacheError::NotPreloaded`] says what to do), or the system refuses
    /// the memory.
    pub fn open() -> Result<Area, CacheError> {
        match Self::mapped() {
            Some(area) => Ok(area),
            #[cfg(any(feature = "pg17", feature = "pg18"))]
            None if REQUEST.get().is_some() => registry::open(requested()),
            None => Err(CacheError::NotPreloaded),
        }
    }

    /// The area, if it was made.
    ///
    /// # Errors
    ///
    /// As [`Area::open`].
    pub fn existing() -> Result<Option<Area>, CacheError> {
        match Self::mapped() {
            Some(area) => Ok(Some(area)),
            #[cfg(any(feature = "pg17", feature = "pg18"))]
            None if REQUEST.get().is_some() => registry::existing(requested()),
            None => Err(CacheError::NotPreloaded),
        }
    }

    /// The area, if this process has used it, or inherited it.
    pub(super) fn mapped() -> Option<Area> {
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

    #[cfg(feature = "extension")]
    pub(super) fn words(self) -> &'static AreaWords {
        self.0.words
    }

    /// The commit rings, if the area has some.
    #[cfg(feature = "extension")]
    pub(super) fn rings(self) -> Option<Rings> {
        self.0.rings
    }

    /// What is counted of queries, if the area has room for it.
    #[cfg(feature = "extension")]
    pub(super) fn tallies(self) -> Option<Tallies<'static>> {
        self.0.tallies
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

    /// What is known of the cache in a slot beside its memory.
    pub(super) fn ledger(self, slot: usize) -> &'static Ledger {
        &self.0.ledgers[slot]
    }

    /// The start of a piece of the caches' memory.
    pub(super) fn cache_memory(self, Piece { offset_bytes, bytes }: Piece) -> NonNull<u8> {
        assert!(bytes <= self.bytes() && offset_bytes <= self.bytes() - bytes);
        // SAFETY: inside the caches' memory (checked).
        unsafe { self.0.heap.add(offset_bytes) }
    }

    /// Runs `work` under the catalog's lock. `work` raises no errors, takes no other lock, and is short: the lock holds
    /// interrupts off.
    pub(super) fn with_catalog<R>(self, mode: LockMode, work: impl FnOnce() -> R) -> R {
        let _held = LwLockGuard::acquire(self.0.catalog_lock, mode);
        work()
    }
}
