//! Memory that two processes share and one of them watches: a region with its locks, and what else belongs to a case.
//!
//! ```text
//! world  ┌──────────────┬─────────────────────┬────────────────────────┐
//!        │ locks, 4 KiB │ region of the cache │ words of the test's own│
//!        └──────────────┴─────────────────────┴────────────────────────┘
//!                       └───── watched: compared, copied, restored ────┘
//! ```
//!
//! Invariants: a world is never unmapped (a case is a process); its hash seed is fixed, so a case is the same in every
//! run. Locking: none. Whoever looks at the memory, or restores it, has seen to it that no other process runs.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use pg_shared_lru::{AttachError, Config, LockMode, Locks, RobustLocks, SharedCache, Tenancy};

use super::layout;
use crate::support::fork::map_shared;

const LOCK_COUNT: usize = 8;
const LOCK_BYTES: usize = 4096;
const _: () = assert!(RobustLocks::bytes(LOCK_COUNT) <= LOCK_BYTES);
const HASH_SEED: u64 = 0x5eed_5eed_5eed_5eed;

/// A handle whose locks survive the death of who holds them.
pub type Cache = SharedCache<RobustLocks>;

/// What one instruction changed.
pub struct Change {
    offset: usize,
    bytes: Vec<u8>,
}

impl Change {
    /// Makes the change in a copy of the memory.
    pub fn apply(&self, image: &mut [u8]) {
        image[self.offset..self.offset + self.bytes.len()].copy_from_slice(&self.bytes);
    }
}

/// Where the words of the test's own lie, counted from the region.
fn own_offset(region_bytes: usize) -> usize {
    region_bytes.next_multiple_of(64)
}

/// See the head of this file.
pub struct World {
    base: NonNull<u8>,
    region_bytes: usize,
    watched_bytes: usize,
}

impl World {
    /// Maps a world for a cache of this configuration, with so many words of the test's own.
    pub fn new(config: &Config, own_words: usize) -> World {
        let region_bytes = config.region_bytes().expect("a right configuration");
        let watched_bytes = own_offset(region_bytes) + own_words * size_of::<AtomicU64>();
        let base = map_shared(LOCK_BYTES + watched_bytes);
        // SAFETY: new memory, aligned to a page, longer than the locks, never unmapped.
        unsafe { RobustLocks::create(base, LOCK_COUNT) };
        World { base, region_bytes, watched_bytes }
    }

    /// The same memory at another address.
    pub fn map_again(&self) -> World {
        // SAFETY: of a shared mapping, an old size of 0 asks for a second one of the same pages; the first stays.
        let again = unsafe {
            libc::mremap(self.base.as_ptr().cast(), 0, LOCK_BYTES + self.watched_bytes, libc::MREMAP_MAYMOVE)
        };
        assert_ne!(again, libc::MAP_FAILED, "mremap: {}", std::io::Error::last_os_error());
        World { base: NonNull::new(again.cast()).expect("a mapping is not at address 0"), ..*self }
    }

    /// The pages that the region and the test's own words lie in, without the locks: the first byte, and how many.
    pub fn pages(&self) -> (NonNull<u8>, usize) {
        (self.watched(), self.watched_bytes.next_multiple_of(LOCK_BYTES))
    }

    /// Robust locks, one for each partition.
    pub fn locks(&self) -> RobustLocks {
        // SAFETY: initialised by `new`, never unmapped.
        unsafe { RobustLocks::attach(self.base, LOCK_COUNT) }
    }

    fn watched(&self) -> NonNull<u8> {
        // SAFETY: inside the mapping, which is longer than the locks.
        unsafe { self.base.add(LOCK_BYTES) }
    }

    /// Creates the cache, with the hash seed that all worlds have.
    pub fn create<L: Locks>(&self, config: &Config, type_tag: u64, locks: impl Fn() -> L) -> SharedCache<L> {
        // SAFETY: the region is mapped for good, aligned, and nobody else's yet; the locks are this world's.
        unsafe { SharedCache::create(self.watched(), self.region_bytes, config, type_tag, locks()) }
            .expect("a world is large enough");
        self.edit(|region| layout::fix_hash_seed(region, HASH_SEED));
        self.attach(type_tag, locks()).expect("it was just created")
    }

    /// Attaches to the cache once more.
    pub fn attach<L: Locks>(&self, type_tag: u64, locks: L) -> Result<SharedCache<L>, AttachError> {
        // SAFETY: mapped for good and aligned; `locks` exclude whom the test does not keep away by itself.
        unsafe { SharedCache::attach(self.watched(), self.region_bytes, type_tag, locks) }
    }

    /// The words of the test's own.
    pub fn own_words(&self) -> &'static [AtomicU64] {
        // SAFETY: inside the mapping, aligned to 64, never unmapped; every bit pattern is an `AtomicU64`.
        unsafe {
            let first = self.watched().add(own_offset(self.region_bytes)).cast();
            let count = (self.watched_bytes - own_offset(self.region_bytes)) / size_of::<AtomicU64>();
            std::slice::from_raw_parts(first.as_ptr(), count)
        }
    }

    /// Changes bytes of the region behind the cache's back.
    pub fn edit<R>(&self, change: impl FnOnce(&mut [u8]) -> R) -> R {
        // SAFETY: inside the mapping; no other process runs (file docs), and `change` is given nothing else to reach it
        // by.
        change(unsafe { std::slice::from_raw_parts_mut(self.watched().as_ptr(), self.region_bytes) })
    }

    fn look<R>(&self, look: impl FnOnce(&[u8]) -> R) -> R {
        // SAFETY: inside the mapping; no other process runs, and nothing writes while `look` does.
        look(unsafe { std::slice::from_raw_parts(self.watched().as_ptr(), self.watched_bytes) })
    }

    /// A copy of all that is watched.
    pub fn image(&self) -> Vec<u8> {
        self.look(<[u8]>::to_vec)
    }

    /// Puts a copy back.
    pub fn restore(&self, image: &[u8]) {
        assert_eq!(image.len(), self.watched_bytes);
        // SAFETY: the copy is as long as what is watched and lies elsewhere; no other process runs.
        unsafe { std::ptr::copy_nonoverlapping(image.as_ptr(), self.watched().as_ptr(), image.len()) };
    }

    /// What differs from the copy, which is brought up to date; `None` if nothing does.
    pub fn change_since(&self, image: &mut [u8]) -> Option<Change> {
        const STRIDE: usize = 2048;
        let change = self.look(|now| {
            let differs = |(a, b): (&[u8], &[u8])| a != b;
            let first = now.chunks(STRIDE).zip(image.chunks(STRIDE)).position(differs)? * STRIDE;
            let first = first + now[first..].iter().zip(&image[first..]).position(|(a, b)| a != b)?;
            let equal_at_end = now.rchunks(STRIDE).zip(image.rchunks(STRIDE)).position(differs)? * STRIDE;
            let end = now.len() - equal_at_end;
            let end = end - now[..end].iter().rev().zip(image[..end].iter().rev()).position(|(a, b)| a != b)?;
            Some(Change { offset: first, bytes: now[first..end].to_vec() })
        })?;
        change.apply(image);
        Some(change)
    }

    /// Whether a region that was copied was left in the middle of a change.
    pub fn is_marked_damaged(image: &[u8]) -> bool {
        layout::is_marked_damaged(image)
    }
}

/// Locks of a process that never waits: another sees to it that they are alone. A word says whether the lock is held.
pub struct StagedLocks(pub &'static AtomicU64);

// SAFETY: worlds are never unmapped, and serve one cache.
unsafe impl Tenancy for StagedLocks {}

// SAFETY: whoever uses them lets nobody else touch the cache while the word is set.
unsafe impl Locks for StagedLocks {
    fn acquire(&self, _partition: usize, _mode: LockMode) {
        self.0.store(1, std::sync::atomic::Ordering::SeqCst);
    }

    fn release(&self, _partition: usize, _mode: LockMode) {
        self.0.store(0, std::sync::atomic::Ordering::SeqCst);
    }
}

/// Locks that nobody gets: an operation that wants one unwinds, so what does not unwind was done without.
pub struct RefusedLocks;

// SAFETY: as above.
unsafe impl Tenancy for RefusedLocks {}

// SAFETY: `acquire` never returns.
unsafe impl Locks for RefusedLocks {
    fn acquire(&self, _partition: usize, _mode: LockMode) {
        std::panic::resume_unwind(Box::new("the lock is refused"));
    }

    fn release(&self, _partition: usize, _mode: LockMode) {}
}
