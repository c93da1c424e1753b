//! A cache in the dynamic shared memory of a parallel operation, such as a parallel index build.
//!
//! ```text
//! leader   EnterParallelMode, CreateParallelContext
//!          estimate        room for the cache in the segment to come
//!          initialize_dsm  PostgreSQL makes the segment, or there is an error that one can live with
//!          Planned::create the cache, and its key in the table of contents
//!          LaunchParallelWorkers … DestroyParallelContext, ExitParallelMode
//! worker   attach          the same cache, by its key
//!
//! chunk    ┌─────────────┬─ … ─┬───────────────────────────────────────┬────────────────────┐
//!          │ BlockHeader │     │ PartitionLock: one for each partition │ the cache's region │
//!          └─────────────┴─ … ─┴───────────────────────────────────────┴────────────────────┘
//! ```
//!
//! PostgreSQL aligns a chunk to 32 bytes at best, so locks and region start at the next multiple of 128. Segments are
//! mapped at page borders, so that is the same place for all.
//!
//! With zero workers, and where no slot for a segment is left, `InitializeParallelDSM` makes the "segment" of the
//! leader's own memory. Nothing here differs then, but that nobody else can come: no pin has to be taken back at the
//! end of the process.
//!
//! # How it ends
//!
//! A process that leaves a segment, in whatever way (`DestroyParallelContext`, abort, ERROR or FATAL in a worker),
//! runs the callbacks of [`pg_sys::on_dsm_detach`] while the segment is still mapped. PostgreSQL does so after it has
//! released the LWLocks of an aborted transaction and before the process gives up its place among those that may wait
//! for LWLocks (`shmem_exit`: the callbacks of `before_shmem_exit`, then the segments, then `ProcKill`). So ours can take
//! locks, and takes back whatever the process's handles hold. It owns a twin of the handle and does not care whether
//! the handle is still there: a FATAL exit leaves it where it was, anything else has dropped it.
//!
//! # A segment that cannot be made
//!
//! `InitializeParallelDSM` raises an ERROR where the system has no memory for the segment. To go on after an
//! ERROR one needs a subtransaction in general, and PostgreSQL starts none in parallel mode. [`initialize_dsm`] does
//! without, for this call leaves nothing behind that the end of a subtransaction would clear away, except one thing:
//!
//! - it holds no LWLock when it raises (`dsm_create` takes its lock after the memory), no buffer, no snapshot;
//! - the current memory context is put back by pgrx; what was allocated lies in the transaction's;
//! - the `ParallelContext` is as before, without segment, table of contents and workers, the state that
//!   `DestroyParallelContext` expects after a failure; parallel mode is the caller's and stays on until
//!   `ExitParallelMode`;
//! - but the descriptor of the segment that was not made stays with the current resource owner, which would warn of a
//!   leak at commit. So the call runs under a resource owner of its own, which is released on failure, as the end of
//!   a subtransaction would. On success it hands the segment to the caller's owner.
//!
//! Only errors of the system are caught, and only while no segment has come to be: all others, a cancelled
//! statement above all, go on.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::panic::AssertUnwindSafe;
use std::ptr::NonNull;

use pgrx::pg_sys::panic::CaughtError;
use pgrx::{PgTryBuilder, pg_guard, pg_sys};

use super::dsm_locks;
pub use super::dsm_locks::DsmLocks;
use super::error::is_want_of_memory;
pub use super::error::{NoSegment, ParallelError};
use crate::engine::config::Config;
use crate::engine::config_error::ConfigError;
use crate::engine::header::AttachError;
use crate::engine::memory::region::RegionType;
use crate::engine::memory::words::{Word32, Word64};
use crate::shared::cache::SharedCache;

/// A cache in the memory of a parallel operation. With types on top: [`TypedCache<K, V, DsmLocks>`](crate::TypedCache), or
/// [`BuilderCache<K, V, DsmLocks>`](crate::BuilderCache).
pub type ParallelCache = SharedCache<DsmLocks>;

const MAGIC: u64 = u64::from_le_bytes(*b"PGSLRU\0\x02");

/// What the leader writes and a worker checks. Fits the smallest chunk, so that a look at some other chunk stays in it.
#[repr(C)]
struct BlockHeader {
    magic: Word64,
    region_bytes: Word64,
    partition_count: Word32,
    tranche: Word32,
}
const _: () = assert!(size_of::<BlockHeader>() <= pg_sys::ALIGNOF_BUFFER as usize);
// SAFETY: repr(C), words only, no padding.
unsafe impl RegionType for BlockHeader {}

/// A cache that has its place in the estimate of a parallel operation.
#[must_use = "the room in the segment stays unused without `create`"]
#[derive(Clone, Debug)]
pub struct Planned {
    config: Config,
    shape: Shape,
}

/// Where the parts of a block start, from its first multiple of the locks' alignment.
#[derive(Clone, Copy, Debug)]
struct Shape {
    partition_count: usize,
    region_bytes: usize,
}

impl Shape {
    fn of(config: &Config) -> Result<Self, ConfigError> {
        let resolved = config.resolve()?;
        Ok(Shape { partition_count: resolved.partitions as usize, region_bytes: resolved.region_bytes })
    }

    /// Of the whole chunk, wherever it starts.
    fn chunk_bytes(self) -> usize {
        let bytes = size_of::<BlockHeader>() + DsmLocks::ALIGNMENT_BYTES - 1;
        bytes + DsmLocks::bytes(self.partition_count) + self.region_bytes
    }
}

/// The first of a block's locks.
///
/// # Safety
///
/// - `block` points to a chunk for a cache.
unsafe fn locks_of(block: NonNull<u8>) -> NonNull<u8> {
    // SAFETY: the chunk has room for the header and the way to the next border (caller).
    unsafe {
        let after_header = block.add(size_of::<BlockHeader>());
        after_header.add(after_header.align_offset(DsmLocks::ALIGNMENT_BYTES))
    }
}

/// Asks for room for a cache: in the leader, between `CreateParallelContext` and [`initialize_dsm`].
///
/// # Errors
///
/// The configuration has a value that cannot be.
///
/// # Safety
///
/// - `context` is a parallel context that has not been initialised yet.
pub unsafe fn estimate(context: *mut pg_sys::ParallelContext, config: &Config) -> Result<Planned, ConfigError> {
    let shape = Shape::of(config)?;
    let chunk_bytes = shape.chunk_bytes().next_multiple_of(pg_sys::ALIGNOF_BUFFER as usize);
    // What the macros shm_toc_estimate_chunk and shm_toc_estimate_keys do.
    // SAFETY: the context is valid (caller).
    unsafe {
        let estimator = &raw mut (*context).estimator;
        (*estimator).space_for_chunks = pg_sys::add_size((*estimator).space_for_chunks, chunk_bytes);
        (*estimator).number_of_keys = pg_sys::add_size((*estimator).number_of_keys, 1);
    }
    Ok(Planned { config: config.clone(), shape })
}

/// `InitializeParallelDSM`, whose ERROR for want of memory becomes a value: in the leader, in place of that call.
///
/// After an error call `DestroyParallelContext` and `ExitParallelMode` as after any parallel operation, and go on
/// alone, for instance with a smaller [`SharedCache::private`]. The transaction is none the worse for it; the head of
/// this file says why.
///
/// # Errors
///
/// The system has no memory for the segment, or the leader would have to take it from its own memory and it exceeds
/// PostgreSQL's limit of 1 GiB for one allocation (where zero workers were asked for, or no slot is left).
///
/// # Safety
///
/// - As `InitializeParallelDSM`: called in a transaction, in parallel mode, with an active snapshot, once per context.
pub unsafe fn initialize_dsm(context: *mut pg_sys::ParallelContext) -> Result<(), NoSegment> {
    /// Puts the caller's resource owner back, also when an error that is not ours goes on. The owner that was
    /// current meanwhile then stays with the transaction, which releases it after it has destroyed the context.
    struct Restore(pg_sys::ResourceOwner);
    impl Drop for Restore {
        fn drop(&mut self) {
            // SAFETY: the owner was current before, and lives at least as long as the transaction's level.
            unsafe { pg_sys::CurrentResourceOwner = self.0 };
        }
    }
    // SAFETY: the caller keeps the contract of `InitializeParallelDSM`; the owner made here is released and deleted
    // once nothing belongs to it, or stays with its parent.
    unsafe {
        let restore = Restore(pg_sys::CurrentResourceOwner);
        let trial = pg_sys::ResourceOwnerCreate(restore.0, c"pg_shared_lru parallel operation".as_ptr());
        pg_sys::CurrentResourceOwner = trial;
        let attempt = AssertUnwindSafe(|| {
            pg_sys::InitializeParallelDSM(context);
            Ok(())
        });
        let result = PgTryBuilder::new(attempt)
            .catch_others(|caught| match caught {
                CaughtError::PostgresError(report) if (*context).toc.is_null() && is_want_of_memory(&report) => {
                    let bytes = pg_sys::shm_toc_estimate(&raw mut (*context).estimator);
                    let reason = report.message().to_owned();
                    // Without workers it is the leader's own memory that was refused.
                    let dev_shm_free_bytes = if (*context).nworkers > 0 { dev_shm_free_bytes() } else { None };
                    Err(NoSegment { bytes, reason, dev_shm_free_bytes })
                }
                other => other.rethrow(),
            })
            .execute();
        drop(restore);
        if result.is_ok() && !(*context).seg.is_null() {
            // From the trial's owner to none, and on to the current one.
            pg_sys::dsm_pin_mapping((*context).seg);
            pg_sys::dsm_unpin_mapping((*context).seg);
        }
        use pg_sys::ResourceReleasePhase::{
            RESOURCE_RELEASE_AFTER_LOCKS, RESOURCE_RELEASE_BEFORE_LOCKS, RESOURCE_RELEASE_LOCKS,
        };
        for phase in [RESOURCE_RELEASE_BEFORE_LOCKS, RESOURCE_RELEASE_LOCKS, RESOURCE_RELEASE_AFTER_LOCKS] {
            pg_sys::ResourceOwnerRelease(trial, phase, result.is_ok(), false);
        }
        pg_sys::ResourceOwnerDelete(trial);
        result
    }
}

/// What is left where the system has POSIX shared memory, if PostgreSQL's segments are made there.
fn dev_shm_free_bytes() -> Option<u64> {
    // SAFETY: a setting that is fixed when the server starts.
    if unsafe { pg_sys::dynamic_shared_memory_type } != pg_sys::DSM_IMPL_POSIX as i32 {
        return None;
    }
    let mut about = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the call reads the path and writes to `about`; that is initialised if it succeeds.
    let about = unsafe { (libc::statvfs(c"/dev/shm".as_ptr(), about.as_mut_ptr()) == 0).then(|| about.assume_init()) }?;
    Some(about.f_bavail.saturating_mul(about.f_frsize))
}

impl Planned {
    /// Creates the cache and stores it under `key`, which the caller chooses, apart from the keys of its own chunks: in
    /// the leader, after [`initialize_dsm`] and before `LaunchParallelWorkers`. PostgreSQL's own keys start at
    /// 0xFFFFFFFFFFFF0001.
    ///
    /// `type_tag` names the types of keys and values (see [`TypedCache::over`](crate::TypedCache::over)); 0 for plain
    /// bytes.
    ///
    /// # Errors
    ///
    /// The configuration has a value that cannot be.
    ///
    /// # Panics
    ///
    /// As PostgreSQL's ERROR: in a context that the cache was not estimated for.
    ///
    /// # Safety
    ///
    /// - `context` is the parallel context of the estimate, initialised, its workers not launched yet.
    /// - Where the operation has no segment (`context.seg` is null), the cache is not used after
    ///   `DestroyParallelContext`. With a segment an attempt to is an error.
    /// - The operation does not end while a closure given to [`SharedCache::with`] runs.
    pub unsafe fn create(
        self,
        context: *mut pg_sys::ParallelContext,
        key: u64,
        type_tag: u64,
    ) -> Result<ParallelCache, ParallelError> {
        let tranche = dsm_locks::tranche();
        let Shape { partition_count, region_bytes } = self.shape;
        // SAFETY: the context is initialised (caller), so it has a table of contents. The chunk is new and large enough
        // for the header, the border, the locks and the region; both start at a multiple of 128.
        unsafe {
            let chunk: *mut u8 = pg_sys::shm_toc_allocate((*context).toc, self.shape.chunk_bytes()).cast();
            let block = NonNull::new(chunk).expect("shm_toc_allocate does not return NULL");
            let memory = locks_of(block);
            let locks = DsmLocks::create(memory, partition_count, tranche);
            let region = memory.add(DsmLocks::bytes(partition_count));
            let cache = SharedCache::create(region, region_bytes, &self.config, type_tag, locks.clone())?;
            let header: &BlockHeader = block.cast().as_ref();
            header.region_bytes.set(region_bytes as u64);
            header.partition_count.set(partition_count as u32);
            header.tranche.set(tranche.into());
            header.magic.set(MAGIC);
            pg_sys::shm_toc_insert((*context).toc, key, chunk.cast());
            watch((*context).seg, &cache, locks);
            Ok(cache)
        }
    }
}

/// Attaches to the cache that the leader has created under `key`: in a worker, whose entry point was given the segment
/// and its table of contents. Writes nothing.
///
/// # Errors
///
/// There is no cache under this key, or one of another type or of another build of this library.
///
/// # Safety
///
/// - `segment` and `toc` are those that PostgreSQL has called the worker's entry point with; in the leader, `seg` and
///   `toc` of its context.
/// - As for [`Planned::create`], where `segment` is null.
/// - The segment is not detached while a closure given to [`SharedCache::with`] runs.
pub unsafe fn attach(
    segment: *mut pg_sys::dsm_segment,
    toc: *mut pg_sys::shm_toc,
    key: u64,
    type_tag: u64,
) -> Result<ParallelCache, ParallelError> {
    // SAFETY: the table of contents is valid (caller). A chunk is at least as long as the header, and one that has
    // the magic was made by `create`, with locks and region where they are looked for.
    unsafe {
        let chunk: *mut u8 = pg_sys::shm_toc_lookup(toc, key, true).cast();
        let block = NonNull::new(chunk).ok_or(ParallelError::Absent(key))?;
        let header: &BlockHeader = block.cast().as_ref();
        let found = header.magic.get();
        if found != MAGIC {
            return Err(ParallelError::NotACache { key, found, expected: MAGIC });
        }
        let partition_count = header.partition_count.get() as usize;
        let memory = locks_of(block);
        let locks = DsmLocks::attach(memory, partition_count, header.tranche.get() as u16);
        let region = memory.add(DsmLocks::bytes(partition_count));
        let cache = SharedCache::attach(region, header.region_bytes.get() as usize, type_tag, locks.clone())?;
        if cache.partition_count() != partition_count {
            return Err(AttachError::Damaged("the numbers of partitions and of locks differ").into());
        }
        watch(segment, &cache, locks);
        Ok(cache)
    }
}

/// What the callback needs to undo all that a handle holds, whether the handle is still there or not.
struct Watched {
    handle: ParallelCache,
    locks: DsmLocks,
}

/// Has everything that `cache` holds undone when this process leaves the segment.
///
/// # Safety
///
/// - `segment` is the segment of the cache's memory, or null where that is the process's own.
unsafe fn watch(segment: *mut pg_sys::dsm_segment, cache: &ParallelCache, locks: DsmLocks) {
    if !segment.is_null() {
        let watched = Box::new(Watched { handle: cache.clone_handle(), locks });
        // SAFETY: the callback has the right type, lives as long as the library, and owns the box, for PostgreSQL calls
        // it once.
        unsafe { pg_sys::on_dsm_detach(segment, Some(leave), pg_sys::Datum::from(Box::into_raw(watched))) };
    }
}

/// Runs while the segment is still mapped and LWLocks can be taken. Raises nothing.
#[pg_guard]
unsafe extern "C-unwind" fn leave(_segment: *mut pg_sys::dsm_segment, argument: pg_sys::Datum) {
    // SAFETY: `watch` has given the box away for this one call. Whatever closure was running never gets control again
    // (FATAL), or the caller of `create` or `attach` has promised that there is none. Leaving the queue of a condition
    // variable is always possible, and needed before its memory goes.
    unsafe {
        let watched = Box::from_raw(argument.cast_mut_ptr::<Watched>());
        pg_sys::ConditionVariableCancelSleep();
        watched.handle.release_all();
        watched.locks.mark_detached();
    }
}
