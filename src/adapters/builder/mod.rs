//! The shared builder cache: many workers over one cache in front of one store.
//!
//! Made for a parallel index build: a node's neighbour list is read, extended, pruned and put back by any worker, and
//! spilled to the index when memory is short. `docs/builder.md` has the whole story.
//!
//! ```text
//! worker ─ get_or_load ─► cache ─ miss ─► SpillStore::load, by one worker for all
//!        ─ compare_push ─► cache ─ room? ─► a dirty entry goes: SpillStore::spill, while others may still read it
//! leader ─ drain_sorted ─► every entry once, in the order of keys
//! worker ─ drain_share  ─► every entry once, to one of the workers that drain together
//! ```
//!
//! Invariants:
//! - No update is lost: what a worker puts back replaces only the value that it has read, and an entry that was changed
//!   while it was being spilled stays.
//! - One worker spills a key at a time, and none loads it meanwhile: a write of the store never meets a read or another
//!   write of its key.
//! - Memory is that of the region and one entry in each worker's hands.
//! - A worker that holds a write-back, a load or a pin of any cache never waits for another's: it gets a value that is not
//!   cached, or [`BuilderError::Backlog`].
//!
//! - Nothing that was lost reads as absent: whoever is told that a key has no value may act on it. So each answer "there
//!   is none" is checked against the resets of the key's partition since this handle was made.
//!
//! Not here: locks and waiting (`shared::write_back`), the drain (`drain`), PostgreSQL's parallel workers (`pg::parallel`).

mod drain;
mod error;
mod store;
mod wait;

use std::cell::Cell;
use std::convert::Infallible;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use super::codec::{Codec, DecodeError};
use super::stored::{CacheKey, CacheValue, encoded_key, encoded_value, type_tag};
use super::typed::debug_types;
use crate::engine::config::Config;
use crate::engine::flight::version::Version;
use crate::engine::header::AttachError;
use crate::engine::outcomes::{PushError, Put};
use crate::shared::cache::SharedCache;
use crate::shared::inspect::InFlight;
use crate::shared::lock::{Locks, NoLocks};
use crate::shared::open::CreateError;
use crate::shared::write_back::{
    Blocked, Concurrency, Condition, LoadGuard, LoadStep, StoreStep, WriteBackGuard, may_wait,
};

pub use drain::DrainShare;
pub use error::{BuilderError, DrainError};
pub use store::SpillStore;
use wait::WaitBudget;

/// How long a worker waits by default while no other ends what it has in hand.
const WAIT_TIMEOUT: Duration = Duration::from_secs(10);

/// What each worker may keep from being used: it has entries in hand, which stay where they are, and so does the slab
/// around them; and a list that is replaced under a reader is there twice meanwhile.
const WORKER_BYTES: usize = 64 << 10;

/// Bytes of a cache in which so many workers build a table of so many rows and never have to spill: what to give
/// [`Config::bytes`], instead of all that is allowed. PostgreSQL takes the whole segment at once, whatever is used of it.
///
/// `entry_bytes` are those of key and value, on average over all rows at any one time: for neighbour lists, `NodePointer::BYTES` and
/// [`list_bytes`](super::graph::list_bytes) of the most neighbours that a node has during the build are always enough.
/// For other numbers of partitions than the default give it more.
///
/// # Examples
///
/// ```
/// use pg_shared_lru::adapters::builder::memory_for;
/// use pg_shared_lru::adapters::graph::{NodePointer, list_bytes};
/// use pg_shared_lru::{Config, Policy};
///
/// // At most 1 GiB; a table of 1,500 rows needs but a fraction of it.
/// let needed = memory_for(1500, NodePointer::BYTES + list_bytes(65), 4);
/// assert!(needed < 2 << 20);
/// let config = Config::bytes(needed.min(1 << 30)).policy(Policy::Clock);
/// assert!(config.region_bytes().is_ok());
/// ```
pub const fn memory_for(rows: u64, entry_bytes: usize, workers: usize) -> usize {
    super::memory_for(rows, entry_bytes).saturating_add(workers.saturating_mul(WORKER_BYTES))
}

/// What one handle has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BuilderStats {
    /// Reads that found their key in the cache.
    pub hits: u64,
    /// Reads that did not.
    pub misses: u64,
    /// Values that the store gave.
    pub loads: u64,
    /// Reads that waited for another worker's load.
    pub waits: u64,
    /// Entries written back to make room.
    pub spills: u64,
    /// Of these, entries that stayed because they were changed meanwhile.
    pub survived: u64,
    /// Entries that made room without being written, the store having them already.
    pub clean_evictions: u64,
    /// Values that were not stored because the key's had changed.
    pub conflicts: u64,
}

/// One worker's handle to a cache that many workers share.
///
/// Make one for each worker, over its own handle to the memory, before the workers begin.
///
/// # Examples
///
/// ```
/// use std::collections::HashMap;
/// use std::convert::Infallible;
///
/// use pg_shared_lru::adapters::builder::{BuilderCache, SpillStore};
/// use pg_shared_lru::Config;
///
/// #[derive(Default)]
/// struct Disk(HashMap<u32, Vec<u32>>);
///
/// impl SpillStore<u32, Vec<u32>> for Disk {
///     type Error = Infallible;
///
///     fn load(&mut self, node: &u32) -> Result<Option<Vec<u32>>, Infallible> {
///         Ok(self.0.get(node).cloned())
///     }
///
///     fn spill(&mut self, node: &u32, neighbors: Vec<u32>) -> Result<(), Infallible> {
///         self.0.insert(*node, neighbors);
///         Ok(())
///     }
/// }
///
/// let mut disk = Disk::default();
/// let cache = BuilderCache::<u32, Vec<u32>>::private(&Config::entries(2, 256)).unwrap();
/// for node in 0..3 {
///     cache.push(&node, &vec![node + 1], &mut disk).unwrap();
/// }
/// assert_eq!(disk.0[&0], [1], "the least recently used was spilled");
///
/// // Read, change, put back: whoever was faster wins, and the other tries again.
/// loop {
///     let (mut neighbors, version) = cache.get_or_load(&0, &mut disk).unwrap().unwrap();
///     neighbors.push(9);
///     if cache.compare_push(&0, version, neighbors, &mut disk).unwrap().is_none() {
///         break;
///     }
/// }
///
/// let mut drained = Vec::new();
/// cache
///     .drain_sorted(|node, neighbors, _dirty| {
///         drained.push((node, neighbors));
///         Ok::<_, Infallible>(())
///     })
///     .unwrap();
/// assert_eq!(drained, [(0, vec![1, 9]), (2, vec![3])]);
/// ```
pub struct BuilderCache<K: CacheKey, V: CacheValue<K>, L: Locks = NoLocks> {
    cache: SharedCache<L>,
    /// Resets of each partition when this handle was made: any more, and something is lost.
    resets: Box<[u64]>,
    wait_timeout: Duration,
    stats: Cell<BuilderStats>,
    /// Bytes of the value read last; kept for their memory.
    buffer: Cell<Vec<u8>>,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K: CacheKey, V: CacheValue<K>, L: Locks> fmt::Debug for BuilderCache<K, V, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        debug_types::<K, V>(f, "BuilderCache").field("stats", &self.stats.get()).finish_non_exhaustive()
    }
}

/// Outcome of a load.
enum Loaded<V> {
    Done(Option<V>, Version),
    /// Others changed something meanwhile.
    Again,
}

impl<K: CacheKey, V: CacheValue<K>> BuilderCache<K, V, NoLocks> {
    /// A cache for one worker alone.
    ///
    /// # Errors
    ///
    /// A wrong configuration, or no memory.
    pub fn private(config: &Config) -> Result<Self, CreateError> {
        Ok(Self::untagged(SharedCache::private(config)?))
    }
}

impl<K: CacheKey, V: CacheValue<K>, L: Locks> BuilderCache<K, V, L> {
    /// A worker's handle over its own handle of the cache's memory. Nobody may change the cache but by such handles.
    ///
    /// A cache that was created without a tag, as [`SharedCache::shared_mapping`] does, has no types to compare.
    ///
    /// # Errors
    ///
    /// If the cache was created with the tag of other types or encodings than [`BuilderCache::type_tag`].
    pub fn over(cache: SharedCache<L>) -> Result<Self, AttachError> {
        let (found, expected) = (cache.type_tag(), Self::type_tag());
        if found == expected || found == 0 {
            Ok(Self::untagged(cache))
        } else {
            Err(AttachError::TypeTag { found, expected })
        }
    }

    fn untagged(cache: SharedCache<L>) -> Self {
        let resets = cache.resets().into();
        let (stats, buffer) = (Cell::default(), Cell::default());
        BuilderCache { cache, resets, wait_timeout: WAIT_TIMEOUT, stats, buffer, types: PhantomData }
    }

    /// Sets how long this worker waits while no other ends what it has in hand. Default: ten seconds.
    pub fn with_wait_timeout(mut self, timeout: Duration) -> Self {
        self.wait_timeout = timeout;
        self
    }

    /// The tag for a region of such a cache, by which other types and other encodings are refused: see
    /// [`type_tag`].
    pub fn type_tag() -> u64 {
        type_tag::<K, V>()
    }

    /// The cache of encoded keys and values behind: for reports, walks and validation.
    pub fn encoded(&self) -> &SharedCache<L> {
        &self.cache
    }

    /// Live entries.
    pub fn len(&self) -> u64 {
        self.cache.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.cache.is_empty()
    }

    /// What this handle has done.
    pub fn stats(&self) -> BuilderStats {
        self.stats.get()
    }

    fn count(&self, change: impl FnOnce(&mut BuilderStats)) {
        let mut stats = self.stats.get();
        change(&mut stats);
        self.stats.set(stats);
    }

    /// A key's value if it is in the cache, with its version. Counts as a use.
    ///
    /// # Errors
    ///
    /// If the bytes do not decode; [`BuilderError::Lost`] if it is not there, and entries of its partition were lost.
    pub fn get(&self, key: &K) -> Result<Option<(V, Version)>, BuilderError<Infallible>> {
        let key_bytes = encoded_key(key);
        let found = self.find(key, &key_bytes)?;
        self.count_read(found.is_some());
        if found.is_none() && self.is_lost(&key_bytes) { Err(BuilderError::Lost) } else { Ok(found) }
    }

    fn find(&self, key: &K, key_bytes: &[u8]) -> Result<Option<(V, Version)>, DecodeError> {
        let mut bytes = self.buffer.take();
        let found = self.cache.get_versioned(key_bytes, &mut bytes);
        let value = found.map(|version| Ok((V::decode(key, &bytes)?, version))).transpose();
        self.buffer.set(bytes);
        value
    }

    fn count_read(&self, found: bool) {
        self.count(|stats| *(if found { &mut stats.hits } else { &mut stats.misses }) += 1);
    }

    /// Whether entries of a key's partition were lost since this handle was made.
    fn is_lost(&self, key_bytes: &[u8]) -> bool {
        self.cache.is_reset_since(key_bytes, &self.resets)
    }

    /// Whether entries of any partition were.
    fn any_is_lost(&self) -> bool {
        *self.cache.resets() != *self.resets
    }

    /// Runs `read` on a key's encoded value, if it is in the cache, without copying it. Counts as a use. The entry is
    /// pinned meanwhile; see [`SharedCache::with`].
    ///
    /// # Errors
    ///
    /// [`BuilderError::Lost`] if the key is not there, and entries of its partition were lost.
    pub fn with<R>(&self, key: &K, read: impl FnOnce(&[u8]) -> R) -> Result<Option<R>, BuilderError<Infallible>> {
        let key_bytes = encoded_key(key);
        let result = self.cache.with(&key_bytes, read);
        self.count_read(result.is_some());
        if result.is_none() && self.is_lost(&key_bytes) { Err(BuilderError::Lost) } else { Ok(result) }
    }

    /// A key's value, from the cache or else from the store; `None` if it is in neither.
    ///
    /// # Errors
    ///
    /// As [`BuilderCache::fetch`], of which this is the short form.
    pub fn get_or_load<S: SpillStore<K, V>>(
        &self,
        key: &K,
        store: &mut S,
    ) -> Result<Option<(V, Version)>, BuilderError<S::Error>> {
        let (value, version) = self.fetch(key, store)?;
        Ok(value.map(|value| (value, version)))
    }

    /// A key's value, from the cache or else from the store, with the version to put something in its place; `None`, with
    /// a version that stands for that, if it is in neither. What the store gives is cached, clean.
    ///
    /// Of several workers that miss the same key one loads it and the others wait, as long as their timeout allows; then,
    /// or if this worker must not wait, it loads beside the other. Where a value finds no room (everything is in workers' hands,
    /// or it is larger than an entry may be) it is returned and not cached.
    ///
    /// # Errors
    ///
    /// The store's; [`BuilderError::Backlog`] if there are too many loads at once and the timeout ends, or at once if this
    /// worker holds something; [`BuilderError::Lost`].
    pub fn fetch<S: SpillStore<K, V>>(
        &self,
        key: &K,
        store: &mut S,
    ) -> Result<(Option<V>, Version), BuilderError<S::Error>> {
        let key_bytes = encoded_key(key);
        let mut budget = WaitBudget::default();
        let mut is_first = true;
        loop {
            let found = self.find(key, &key_bytes)?;
            if std::mem::take(&mut is_first) {
                self.count_read(found.is_some());
            }
            if let Some((value, version)) = found {
                return Ok((Some(value), version));
            }
            let concurrency = match may_wait() && budget.waited() <= self.wait_timeout {
                true => Concurrency::Single,
                false => Concurrency::AllowDuplicate,
            };
            match self.cache.lease_load(&key_bytes, concurrency) {
                LoadStep::Present => {}
                LoadStep::Yours(load) => {
                    if let Loaded::Done(value, version) = self.load(load, key, &key_bytes, store)? {
                        return Ok((value, version));
                    }
                }
                LoadStep::Taken if concurrency == Concurrency::AllowDuplicate => {
                    return Err(self.backlog(key_bytes.len()));
                }
                LoadStep::Taken => {
                    self.count(|stats| stats.waits += 1);
                    budget.start();
                    self.cache.wait_for_load(&key_bytes);
                }
                LoadStep::TooMany(blocked) => self.wait_for_room(blocked, &mut budget, key_bytes.len())?,
            }
        }
    }

    /// Loads a key that others wait for.
    fn load<S: SpillStore<K, V>>(
        &self,
        mut load: LoadGuard<'_, L>,
        key: &K,
        key_bytes: &[u8],
        store: &mut S,
    ) -> Result<Loaded<V>, BuilderError<S::Error>> {
        let uncached = load.version();
        // Whether the key had a value that is lost the store cannot know: neither before it is asked, nor when it has none.
        if self.is_lost(key_bytes) {
            return Err(BuilderError::Lost);
        }
        let Some(value) = store.load(key).map_err(BuilderError::Store)? else {
            return if self.is_lost(key_bytes) { Err(BuilderError::Lost) } else { Ok(Loaded::Done(None, uncached)) };
        };
        self.count(|stats| stats.loads += 1);
        let value_bytes = encoded_value(key, &value);
        loop {
            match self.store_if(key_bytes, &value_bytes, &mut Condition::Loaded(&mut load)) {
                Ok(StoreStep::Done(_, version)) => return Ok(Loaded::Done(Some(value), version)),
                Ok(StoreStep::Stale) => return Ok(Loaded::Again),
                Ok(StoreStep::WriteBack(guard)) => self.write_back(guard, store)?,
                Ok(StoreStep::Blocked(_)) | Err(PushError::TooLarge { .. } | PushError::KeyTooLong { .. }) => {
                    return Ok(Loaded::Done(Some(value), uncached));
                }
                Ok(StoreStep::Lost) => return Err(BuilderError::Lost),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Stores a value, whatever the key has.
    ///
    /// # Errors
    ///
    /// The entry is too large; what the store says of another entry that had to make way; [`BuilderError::Backlog`] when
    /// the timeout ends and nobody has made room, or at once if this worker holds something; [`BuilderError::Lost`].
    #[allow(clippy::missing_panics_doc, reason = "a store without a condition is never stale")]
    pub fn push<S: SpillStore<K, V>>(&self, key: &K, value: &V, store: &mut S) -> Result<Put, BuilderError<S::Error>> {
        let done = self.push_if(key, value, Condition::None, store)?;
        Ok(done.expect("a store without a condition is never stale"))
    }

    /// Stores a value if the key still has the one of this version (or none, if that is what the version stands for);
    /// gives it back if not.
    ///
    /// # Errors
    ///
    /// As [`BuilderCache::push`].
    pub fn compare_push<S: SpillStore<K, V>>(
        &self,
        key: &K,
        version: Version,
        value: V,
        store: &mut S,
    ) -> Result<Option<V>, BuilderError<S::Error>> {
        let done = self.push_if(key, &value, Condition::Version(version), store)?;
        Ok(if done.is_none() { Some(value) } else { None })
    }

    /// Replaces a key's value by what `change` makes of it, loading it first if need be; `false` if there is none.
    ///
    /// `change` runs without a lock, and again if another worker was faster: it must not do anything but compute.
    ///
    /// # Errors
    ///
    /// As [`BuilderCache::fetch`] and [`BuilderCache::push`].
    pub fn modify<S: SpillStore<K, V>>(
        &self,
        key: &K,
        store: &mut S,
        mut change: impl FnMut(V) -> V,
    ) -> Result<bool, BuilderError<S::Error>> {
        loop {
            let (Some(value), version) = self.fetch(key, store)? else { return Ok(false) };
            if self.compare_push(key, version, change(value), store)?.is_none() {
                return Ok(true);
            }
        }
    }

    /// As [`BuilderCache::modify`], but `change` is also asked for a value where the key has none.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn upsert<S: SpillStore<K, V>>(
        &self,
        key: &K,
        store: &mut S,
        mut change: impl FnMut(Option<V>) -> V,
    ) -> Result<(), BuilderError<S::Error>> {
        loop {
            let (value, version) = self.fetch(key, store)?;
            if self.compare_push(key, version, change(value), store)?.is_none() {
                return Ok(());
            }
        }
    }

    /// Stores a dirty value; `None` if the condition does not hold.
    fn push_if<S: SpillStore<K, V>>(
        &self,
        key: &K,
        value: &V,
        mut condition: Condition<'_, '_, L>,
        store: &mut S,
    ) -> Result<Option<Put>, BuilderError<S::Error>> {
        let (key_bytes, value_bytes) = (encoded_key(key), encoded_value(key, value));
        let mut budget = WaitBudget::default();
        loop {
            match self.store_if(&key_bytes, &value_bytes, &mut condition)? {
                StoreStep::Done(put, _) => return Ok(Some(put)),
                StoreStep::Stale => {
                    self.count(|stats| stats.conflicts += 1);
                    return Ok(None);
                }
                StoreStep::WriteBack(guard) => self.write_back(guard, store)?,
                StoreStep::Blocked(blocked) => {
                    self.wait_for_room(blocked, &mut budget, key_bytes.len() + value_bytes.len())?;
                }
                StoreStep::Lost => return Err(BuilderError::Lost),
            }
        }
    }

    fn store_if(
        &self,
        key: &[u8],
        value: &[u8],
        condition: &mut Condition<'_, '_, L>,
    ) -> Result<StoreStep<'_, L>, PushError> {
        let mut dropped = 0;
        let step = self.cache.store_if(key, value, condition, &self.resets, &mut dropped);
        self.count(|stats| stats.clean_evictions += u64::from(dropped));
        step
    }

    fn write_back<S: SpillStore<K, V>>(
        &self,
        guard: WriteBackGuard<'_, L>,
        store: &mut S,
    ) -> Result<(), BuilderError<S::Error>> {
        let key = K::Codec::decode(guard.key())?;
        let value = V::decode(&key, guard.value())?;
        store.spill(&key, value).map_err(BuilderError::Store)?;
        let gone = guard.finish();
        self.count(|stats| {
            stats.spills += 1;
            stats.survived += u64::from(!gone);
        });
        Ok(())
    }

    /// Waits a moment for others to make room, unless this worker holds something or has waited too long.
    fn wait_for_room<E>(&self, blocked: Blocked, budget: &mut WaitBudget, bytes: usize) -> Result<(), BuilderError<E>> {
        budget.renew_if_changed(blocked);
        if !may_wait() || budget.waited() > self.wait_timeout {
            return Err(self.backlog(bytes));
        }
        self.cache.wait_for_room(blocked);
        Ok(())
    }

    fn backlog<E>(&self, bytes: usize) -> BuilderError<E> {
        let InFlight { writes, loads, pins } = self.cache.in_flight();
        BuilderError::Backlog { bytes, writes, loads, pins }
    }
}
