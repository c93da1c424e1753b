//! How a cache comes to be: created in memory of its own or of the caller, or attached to where somebody created one.
//!
//! Invariants:
//! - The magic number is written last: nobody can attach to a cache that is not whole.
//! - Attaching writes nothing, and checks everything in the header that memory is reached by.
//!
//! Not here: the format of the header (`engine::layout`), what becomes of the cache (`cache`).
#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::fmt;
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use super::backing::{Backing, PrivateMemory, SharedMapping};
use super::cache::SharedCache;
use super::lock::{Locks, NoLocks};
use super::robust_locks::RobustLocks;
use super::wall_clock::WallClock;
use crate::engine::config::Config;
use crate::engine::config_error::ConfigError;
use crate::engine::counters::Stripe;
use crate::engine::header::{self, AttachError, Identity};
use crate::engine::layout::Layout;
use crate::engine::limits::STRIPE_COUNT;
use crate::engine::memory::region::Region;
use crate::engine::moment::EPOCH_LIMIT_MS;
use crate::engine::partition::Partition;

/// Why a cache could not be created.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// The configuration is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The memory given is smaller than the configuration needs.
    #[error(
        "the configuration needs {needed} bytes, the region has {given}: {missing} bytes are missing",
        missing = needed - given
    )]
    RegionTooSmall {
        /// Bytes given.
        given: usize,
        /// Bytes needed.
        needed: usize,
    },
    /// The system gave no memory.
    #[error("no memory for the cache: {0}")]
    Memory(#[from] io::Error),
}

impl SharedCache<NoLocks> {
    /// A cache of this process and thread alone, in one zeroed allocation, which is touched as the cache grows.
    ///
    /// # Errors
    ///
    /// [`CreateError::Config`], or [`CreateError::Memory`] if the system has none.
    pub fn private(config: &Config) -> Result<Self, CreateError> {
        let bytes = config.region_bytes()?;
        let memory = PrivateMemory::new(bytes)?;
        // SAFETY: the memory is new, large enough and aligned; it lives as long as the cache.
        let cache = unsafe { Self::create(memory.base(), bytes, config, 0, NoLocks::default())? };
        Ok(SharedCache { backing: Backing::Private(memory), ..cache })
    }
}

impl SharedCache<RobustLocks> {
    /// A cache in memory that children inherit over `fork`, with locks that survive the death of a holder. The memory
    /// is touched as the cache grows.
    ///
    /// # Errors
    ///
    /// [`CreateError::Config`], or [`CreateError::Memory`] if the system has none.
    ///
    /// # Panics
    ///
    /// If the C library has no robust mutexes that processes share.
    pub fn shared_mapping(config: &Config) -> Result<Self, CreateError> {
        let resolved = config.resolve()?;
        let (partitions, region_bytes) = (resolved.partitions as usize, resolved.region_bytes);
        let lock_bytes = RobustLocks::bytes(partitions);
        let mapping = SharedMapping::new(lock_bytes + region_bytes)?;
        // SAFETY: new memory of ours, aligned to a page; the locks take its start, the region the rest.
        unsafe {
            let locks = RobustLocks::create(mapping.base(), partitions);
            let cache = Self::create(mapping.base().add(lock_bytes), region_bytes, config, 0, locks)?;
            Ok(SharedCache { backing: Backing::Mapping(mapping), ..cache })
        }
    }

    /// Attaches to the same memory once more, through a mapping at another address.
    ///
    /// # Errors
    ///
    /// [`CreateError::Memory`]: no address space, a damaged header, or a cache that was not made by
    /// [`SharedCache::shared_mapping`].
    pub fn attach_again(&self) -> Result<Self, CreateError> {
        let Backing::Mapping(mapping) = &self.backing else {
            let reason = "the cache's memory was given by the caller, who must map it again";
            return Err(io::Error::new(io::ErrorKind::Unsupported, reason).into());
        };
        let mapping = mapping.map_again()?;
        let lock_bytes = RobustLocks::bytes(self.partitions.len());
        // SAFETY: the same bytes as `self`'s, created by `shared_mapping`.
        unsafe {
            let locks = RobustLocks::attach(mapping.base(), self.partitions.len());
            let base = mapping.base().add(lock_bytes);
            let cache = Self::attach(base, mapping.bytes() - lock_bytes, 0, locks).map_err(io::Error::other)?;
            Ok(SharedCache { backing: Backing::Mapping(mapping), ..cache })
        }
    }
}

impl<L: Locks> SharedCache<L> {
    /// Creates an empty cache in memory of the caller. The magic number is written last: nobody can attach before.
    /// Costs a write to each partition's header, table and descriptors; slabs are not touched.
    ///
    /// `type_tag` names the types of keys and values (see [`crate::TypedCache`]); 0 for plain bytes.
    ///
    /// # Errors
    ///
    /// [`CreateError::Config`], or [`CreateError::RegionTooSmall`].
    ///
    /// # Safety
    ///
    /// - `memory` is aligned to 64 bytes, initialised, `bytes` long, used by nobody else until `create` returns, and
    ///   mapped while the cache is used.
    /// - `locks` has a lock for each partition of the configuration, used for nothing else.
    pub unsafe fn create(
        memory: NonNull<u8>,
        bytes: usize,
        config: &Config,
        type_tag: u64,
        locks: L,
    ) -> Result<Self, CreateError> {
        // SAFETY: the same contract.
        unsafe { Self::create_with_stripes(memory, bytes, config, type_tag, locks, None) }
    }

    /// As [`SharedCache::create`]. Reads that take no lock are counted in `stripes`, if some are given: where a cache
    /// can be dropped, a count may come after its memory has become another cache's.
    ///
    /// # Safety
    ///
    /// - As for `create`.
    /// - Whoever still reads a cache that had this memory before is told by [`Tenancy`](super::lock::Tenancy) that it is
    ///   gone.
    pub(crate) unsafe fn create_with_stripes(
        memory: NonNull<u8>,
        bytes: usize,
        config: &Config,
        type_tag: u64,
        locks: L,
        stripes: Option<&'static [Stripe]>,
    ) -> Result<Self, CreateError> {
        let (layout, ttl_ms) = (config.layout()?, config.ttl_ms()?);
        let needed = layout.geometry.region_bytes;
        if needed > bytes {
            return Err(CreateError::RegionTooSmall { given: bytes, needed });
        }
        // SAFETY: by this function's contract.
        let region = unsafe { Region::new(memory, needed) };
        // Whoever still looks at a cache that was dropped and had this memory, and reads what is written from here on,
        // sees that it was dropped (`Tenancy::is_current`).
        fence(Ordering::Release);
        region.zero(0, Layout::REGION_HEAD_BYTES);
        let epoch_ms = WallClock::SYSTEM.unix_ms().min(EPOCH_LIMIT_MS - 1);
        let identity = Identity { type_tag, hash_seed: fresh_seed(), epoch_ms };
        header::write(&region, &layout.geometry, identity);
        header::live_settings(&region).default_ttl_ms.set(ttl_ms);
        for stripe in stripes.unwrap_or_default() {
            stripe.hits.set(0);
            stripe.misses.set(0);
        }
        let cache = Self::over(region, layout, identity, locks, stripes);
        for (index, partition) in cache.partitions.iter().enumerate() {
            // SAFETY: nobody else can have attached yet.
            unsafe { &mut *partition.get() }.format(cache.layout.partition_max_entries(index as u32));
        }
        header::publish(&cache.region);
        Ok(cache)
    }

    /// Attaches to a cache that somebody created. Nothing is written.
    ///
    /// # Errors
    ///
    /// No cache there, or not this one: see [`AttachError`].
    ///
    /// # Safety
    ///
    /// - `memory` is aligned to 64 bytes, `bytes` long and stays mapped while the cache is used.
    /// - `locks` are the locks of the cache that was created there.
    pub unsafe fn attach(memory: NonNull<u8>, bytes: usize, type_tag: u64, locks: L) -> Result<Self, AttachError> {
        // SAFETY: the same contract.
        unsafe { Self::attach_with_stripes(memory, bytes, type_tag, locks, None) }
    }

    /// As [`SharedCache::attach`], to a cache that was created with these `stripes`.
    ///
    /// # Safety
    ///
    /// - As for `attach`.
    pub(crate) unsafe fn attach_with_stripes(
        memory: NonNull<u8>,
        bytes: usize,
        type_tag: u64,
        locks: L,
        stripes: Option<&'static [Stripe]>,
    ) -> Result<Self, AttachError> {
        // SAFETY: by this function's contract.
        let region = unsafe { Region::new(memory, bytes) };
        let (layout, identity) = header::read(&region, type_tag)?;
        Ok(Self::over(region, layout, identity, locks, stripes))
    }

    /// A second handle of this process on the same memory, with the same registry: whoever has it can undo all that
    /// this handle holds. Keeps no memory mapped.
    #[cfg(feature = "postgres")]
    pub(crate) fn clone_handle(&self) -> Self
    where
        L: Clone,
    {
        let (layout, locks) = (Layout::clone(&self.layout), self.locks.clone());
        let identity = Identity { type_tag: self.type_tag, hash_seed: self.hash_seed, epoch_ms: self.epoch_ms };
        let clone = Self::over(self.region, layout, identity, locks, self.stripes);
        SharedCache { resources: self.resources.clone(), wall_clock: self.wall_clock, ..clone }
    }

    fn over(region: Region, layout: Layout, identity: Identity, locks: L, stripes: Option<&'static [Stripe]>) -> Self {
        debug_assert!(stripes.is_none_or(|stripes| stripes.len() == STRIPE_COUNT));
        let Identity { type_tag, hash_seed, epoch_ms } = identity;
        let indexes = 0..layout.geometry.partition_count;
        let partitions: Vec<Partition> =
            indexes.map(|index| Partition::open(&region, &layout, index, hash_seed)).collect();
        let unlocked: Vec<_> = partitions.iter().map(Partition::unlocked).collect();
        SharedCache {
            promotes_on_hit: unlocked[0].promotes_on_hit(),
            partitions: partitions.into_iter().map(UnsafeCell::new).collect(),
            unlocked,
            locks,
            resources: Arc::default(),
            region,
            layout: Arc::new(layout),
            stripes,
            hash_seed,
            type_tag,
            epoch_ms,
            wall_clock: WallClock::SYSTEM,
            backing: Backing::External,
        }
    }
}

/// Says what the cache is, and nothing that its users change; takes no lock.
impl<L: Locks> fmt::Debug for SharedCache<L> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SharedCache")
            .field("resolved", &self.resolved())
            .field("type_tag", &self.type_tag)
            .field("backing", &self.backing)
            .finish_non_exhaustive()
    }
}

/// A seed that keys chosen by an attacker cannot know. It lives in the region, so all processes agree.
fn fresh_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}
