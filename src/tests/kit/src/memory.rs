//! Memory of a test's or benchmark's own for caches, so that it can be looked at, copied and damaged; and locks with a hook.
//!
//! ```text
//! arena  ┌───────────────────────────────────┬─────────────────────┐
//!        │ RobustLocks, room for 64 mutexes  │ region of the cache │
//!        └───────────────────────────────────┴─────────────────────┘
//! ```
//!
//! Arenas are shared anonymous mappings, inherited over `fork` and never unmapped: a scenario is a process.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use pg_shared_lru::engine::layout::Layout;
use pg_shared_lru::{
    AttachError, CacheKey, CacheValue, Config, CreateError, LockMode, Locks, NoLocks, RobustLocks, SharedCache,
    Tenancy, TypedCache,
};

use super::fork::map_shared;

const LOCK_COUNT: usize = 64;
const LOCK_BYTES: usize = RobustLocks::bytes(LOCK_COUNT);

/// Memory for one cache and its locks.
#[derive(Clone, Copy)]
pub struct Arena {
    base: NonNull<u8>,
    region_bytes: usize,
}

impl Arena {
    /// Maps zeroed memory for a region of so many bytes, with initialised locks.
    pub fn new(region_bytes: usize) -> Arena {
        let base = map_shared(LOCK_BYTES + region_bytes);
        // SAFETY: new memory, large enough, aligned to a page, never unmapped.
        unsafe { RobustLocks::create(base, LOCK_COUNT) };
        Arena { base, region_bytes }
    }

    /// As large as the configuration wants.
    pub fn for_config(config: &Config) -> Arena {
        Arena::new(config.region_bytes().expect("a right configuration"))
    }

    /// A robust lock for each partition.
    pub fn locks(&self) -> RobustLocks {
        // SAFETY: initialised by `new`, never unmapped.
        unsafe { RobustLocks::attach(self.base, LOCK_COUNT) }
    }

    fn region(&self) -> NonNull<u8> {
        // SAFETY: inside the mapping, which is longer than the locks.
        unsafe { self.base.add(LOCK_BYTES) }
    }

    /// Creates a cache in the arena.
    pub fn create(&self, config: &Config) -> Result<SharedCache<RobustLocks>, CreateError> {
        self.create_with(config, self.locks())
    }

    /// As [`Arena::create`], with these locks.
    pub fn create_with<L: Locks>(&self, config: &Config, locks: L) -> Result<SharedCache<L>, CreateError> {
        // SAFETY: the region is mapped for good and aligned, tests create before they share; the locks are the arena's
        // own, or go on to them, or one thread has the arena to itself.
        unsafe { SharedCache::create(self.region(), self.region_bytes, config, 0, locks) }
    }

    /// Attaches to the cache in the arena, as if so many bytes were mapped.
    pub fn attach_bytes<L: Locks>(&self, bytes: usize, locks: L) -> Result<SharedCache<L>, AttachError> {
        assert!(bytes <= self.region_bytes);
        // SAFETY: mapped for good and aligned; `locks` are the arena's, or the test has the arena to itself.
        unsafe { SharedCache::attach(self.region(), bytes, 0, locks) }
    }

    /// Attaches to the cache in the arena.
    pub fn attach(&self) -> Result<SharedCache<RobustLocks>, AttachError> {
        self.attach_bytes(self.region_bytes, self.locks())
    }

    /// As [`Arena::create`], with types. For one thread.
    pub fn create_typed<K: CacheKey, V: CacheValue<K>>(
        &self,
        config: &Config,
    ) -> Result<TypedCache<K, V>, CreateError> {
        // SAFETY: as in `create`; no locks are needed for one thread.
        unsafe { TypedCache::create(self.region(), self.region_bytes, config, NoLocks::default()) }
    }

    /// As [`Arena::attach`], with types. For one thread.
    pub fn attach_typed<K: CacheKey, V: CacheValue<K>>(&self) -> Result<TypedCache<K, V>, AttachError> {
        // SAFETY: as in `attach_bytes`.
        unsafe { TypedCache::attach(self.region(), self.region_bytes, NoLocks::default()) }
    }

    /// Overwrites the whole region with one byte.
    pub fn fill(&self, byte: u8) {
        // SAFETY: inside the mapping; the test has no cache there yet.
        unsafe { std::ptr::write_bytes(self.region().as_ptr(), byte, self.region_bytes) };
    }

    /// Another arena with the same bytes in its region. Nobody may be changing them.
    pub fn copy(&self) -> Arena {
        let copy = Arena::new(self.region_bytes);
        // SAFETY: both regions have this length and are different mappings.
        unsafe { std::ptr::copy_nonoverlapping(self.region().as_ptr(), copy.region().as_ptr(), self.region_bytes) };
        copy
    }

    /// A 32-bit word of the region.
    pub fn word32(&self, offset: usize) -> &'static AtomicU32 {
        assert!(offset + 4 <= self.region_bytes && offset % 4 == 0);
        // SAFETY: inside the mapping (checked), aligned, never unmapped; atomics allow any concurrent access.
        unsafe { &*self.region().as_ptr().add(offset).cast() }
    }

    /// A 64-bit word of the region.
    pub fn word64(&self, offset: usize) -> &'static AtomicU64 {
        assert!(offset + 8 <= self.region_bytes && offset % 8 == 0);
        // SAFETY: as in `word32`.
        unsafe { &*self.region().as_ptr().add(offset).cast() }
    }

    /// A partition's sequence number: odd while a change is under way.
    pub fn sequence(&self, layout: &Layout, partition: usize) -> &'static AtomicU64 {
        self.word64(layout.sequence_offset(partition as u32))
    }

    /// The number of slabs that a partition keeps aside for readers from before a reset.
    pub fn quarantined(&self, layout: &Layout, partition: usize) -> &'static AtomicU32 {
        self.word32(layout.quarantined_offset(partition as u32))
    }

    /// The word that says what a slab serves.
    pub fn slab_use(&self, layout: &Layout, partition: usize, slab: u32) -> &'static AtomicU32 {
        self.word32(layout.slab_use_offset(partition as u32, slab))
    }

    /// Leaves a partition as a process does that is killed at the very start of a change.
    pub fn damage(&self, layout: &Layout, partition: usize) {
        let before = self.sequence(layout, partition).fetch_or(1, Ordering::SeqCst);
        assert_eq!(before % 2, 0, "the partition was damaged already");
    }

    /// Partitions that were left in the middle of a change.
    pub fn damaged_count(&self, layout: &Layout) -> u64 {
        let odd = |&partition: &usize| self.sequence(layout, partition).load(Ordering::SeqCst) % 2 == 1;
        (0..layout.geometry.partition_count as usize).filter(odd).count() as u64
    }
}

/// The arena's locks with a closure that runs before an acquisition, in the place of another process that is faster.
#[derive(Clone)]
pub struct HookLocks(Rc<Hooked>);

struct Hooked {
    inner: RobustLocks,
    hook: RefCell<Option<Box<dyn FnOnce()>>>,
}

impl HookLocks {
    /// No hook yet.
    pub fn new(arena: &Arena) -> HookLocks {
        HookLocks(Rc::new(Hooked { inner: arena.locks(), hook: RefCell::default() }))
    }

    /// Runs `hook` once, before the next acquisition. If it panics the lock is not taken.
    pub fn before_next(&self, hook: impl FnOnce() + 'static) {
        *self.0.hook.borrow_mut() = Some(Box::new(hook));
    }
}

// SAFETY: an arena is never unmapped, and serves one cache.
unsafe impl Tenancy for HookLocks {}

// SAFETY: the locks themselves are `RobustLocks`; the hook runs while the lock is not held.
unsafe impl Locks for HookLocks {
    fn acquire(&self, partition: usize, mode: LockMode) {
        let hook = self.0.hook.take();
        if let Some(hook) = hook {
            hook();
        }
        self.0.inner.acquire(partition, mode);
    }

    fn release(&self, partition: usize, mode: LockMode) {
        self.0.inner.release(partition, mode);
    }
}
