//! The shared builder cache: many workers over one cache in front of one store.
//!
//! Made for a parallel index build: a node's neighbour list is read, extended, pruned and put back by any worker, and
//! spilled to the index when memory is short. `docs/builder.md` has the whole story.
//!
//! ```text
//! worker ─ get_or_load ─► cache ─ miss ─► SpillStore::load, by one worker for all
//!        ─ compare_push ─► cache ─ room? ─► a dirty entry goes: SpillStore::spill, while others may still read it
//! leader ─ drain_sorted ─► every entry once, in the order of keys
//! ```
//!
//! Invariants:
//! - No update is lost: what a worker puts back replaces only the value that it has read, and an entry that was changed
//!   while it was being spilled stays.
//! - One worker spills a key at a time, and none loads it meanwhile: a write of the store never meets a read or another
//!   write of its key.
//! - Memory is that of the region and one entry in each worker's hands.
//! - A worker that holds a ticket, a load or a pin of any cache never waits for another's: it gets a value that is not
//!   cached, or [`BuilderError::Backlog`].
//!
//! Not here: locks and waiting (`shared::write_back`), the store, PostgreSQL's parallel workers (`pg::parallel`).

use std::cell::Cell;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use super::codec::{Codec, DecodeError};
use super::item::{CacheItem, CacheValue};
use crate::engine::config::Config;
use crate::engine::partition::{PushError, Put};
use crate::engine::write_back::Version;
use crate::shared::cache::{CreateError, SharedCache};
use crate::shared::lock::{Locks, NoLocks};
use crate::shared::write_back::{Blocked, Condition, Load, LoadStep, Step, Ticket, UnderWay, may_wait};

/// How long a worker waits by default while no other ends what it has in hand.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where entries are that do not fit the cache.
///
/// No lock of the cache is held while its methods run: they may take their time, read other caches and raise errors. Of
/// the cache that called them they may read and change other keys; such a call does not wait for other workers.
///
/// The other way round, call the cache while holding no lock that these methods take: it may wait for a worker that is in
/// one of them.
pub trait SpillStore<K, V> {
    /// What can go wrong.
    type Error;

    /// The value of a key, `None` if the store has none.
    ///
    /// # Errors
    ///
    /// The store's own.
    fn load(&mut self, key: &K) -> Result<Option<V>, Self::Error>;

    /// Writes a value back, so that [`SpillStore::load`] finds it, in every worker. The place to reconcile and prune.
    ///
    /// # Errors
    ///
    /// The store's own; the entry stays in the cache, as dirty as it was.
    fn spill(&mut self, key: &K, value: V) -> Result<(), Self::Error>;
}

/// Why an operation failed. The cache and the store have lost nothing by it, but for [`BuilderError::Lost`].
#[derive(Debug, thiserror::Error)]
pub enum BuilderError<E> {
    /// The entry is too large for the cache.
    #[error(transparent)]
    Push(#[from] PushError),
    /// Bytes do not decode.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The store failed.
    #[error("the store behind the cache: {0}")]
    Store(E),
    /// Everything that could make room is in other workers' hands, and this one cannot wait, or has waited in vain.
    #[error(
        "no room for an entry of {bytes} bytes: {writes} entries are being written back, {loads} loaded and {pins} read; \
         give the cache more memory or use fewer workers"
    )]
    Backlog {
        /// Key and value of the entry.
        bytes: usize,
        /// Entries being written back.
        writes: u64,
        /// Keys being loaded.
        loads: u64,
        /// Entries pinned.
        pins: u64,
    },
    /// A worker died in the middle of a change, and entries were lost for it.
    #[error("a worker died in the middle of a change: entries are lost, and so is what is being built from them")]
    Lost,
}

/// Why a drain stopped. What was not handed out is still in the cache.
#[derive(Debug, thiserror::Error)]
pub enum DrainError<E> {
    /// Bytes do not decode.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Whoever was given the entries failed.
    #[error("{0}")]
    Taker(E),
    /// Some worker is not done.
    #[error("{writes} entries are being written back, {loads} loaded and {pins} read: drain when the workers are done")]
    InUse {
        /// Entries being written back.
        writes: u64,
        /// Keys being loaded.
        loads: u64,
        /// Entries pinned.
        pins: u64,
    },
    /// Some worker is not done: it has stored something meanwhile. The entries are there for another drain.
    #[error("{0} entries were stored or changed during the drain: drain when the workers are done")]
    Changed(u64),
    /// A worker died in the middle of a change, and entries were lost for it.
    #[error("a worker died in the middle of a change: entries are lost, and so is what was built from them")]
    Lost,
}

/// What one handle has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
pub struct BuilderCache<K: CacheItem, V: CacheValue<K>, L: Locks = NoLocks> {
    cache: SharedCache<L>,
    /// Resets of each partition when this handle was made: any more, and something is lost.
    resets: Box<[u64]>,
    patience: Duration,
    stats: Cell<BuilderStats>,
    /// Bytes of the value read last; kept for their memory.
    buffer: Cell<Vec<u8>>,
    types: PhantomData<fn() -> (K, V)>,
}

/// What a load came to.
enum Loaded<V> {
    Done(Option<V>, Version),
    /// Others changed something meanwhile.
    Again,
}

impl<K: CacheItem, V: CacheValue<K>> BuilderCache<K, V, NoLocks> {
    /// A cache for one worker alone.
    ///
    /// # Errors
    ///
    /// A wrong configuration, or no memory.
    pub fn private(config: &Config) -> Result<Self, CreateError> {
        Ok(Self::over(SharedCache::private(config)?))
    }
}

impl<K: CacheItem, V: CacheValue<K>, L: Locks> BuilderCache<K, V, L> {
    /// A worker's handle over its own handle of the cache's memory. Nobody may change the cache but by such handles.
    pub fn over(cache: SharedCache<L>) -> Self {
        let resets = cache.resets().into();
        let (stats, buffer) = (Cell::default(), Cell::default());
        BuilderCache { cache, resets, patience: PATIENCE, stats, buffer, types: PhantomData }
    }

    /// Sets how long this worker waits while no other ends what it has in hand. Default: ten seconds.
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Names the types of keys and values: the tag for a region of such a cache, so that others are not attached as one.
    pub fn type_tag() -> u64 {
        let names = format!("builder {} -> {}", std::any::type_name::<K>(), std::any::type_name::<V>());
        xxhash_rust::xxh3::xxh3_64(names.as_bytes()).max(1)
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

    fn encode_key(key: &K) -> Vec<u8> {
        let mut bytes = Vec::new();
        K::Codec::encode(key, &mut bytes);
        bytes
    }

    fn encode_value(key: &K, value: &V) -> Vec<u8> {
        let mut bytes = Vec::new();
        value.encode(key, &mut bytes);
        bytes
    }

    /// A key's value if it is in the cache, with its version. Counts as a use.
    ///
    /// # Errors
    ///
    /// If the bytes do not decode.
    pub fn get(&self, key: &K) -> Result<Option<(V, Version)>, DecodeError> {
        let found = self.find(key, &Self::encode_key(key));
        self.count_read(matches!(found, Ok(Some(_))));
        found
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

    /// Runs `read` on a key's encoded value, if it is in the cache, without copying it. Counts as a use. The entry is
    /// pinned meanwhile; see [`SharedCache::with`].
    pub fn with<R>(&self, key: &K, read: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let result = self.cache.with(&Self::encode_key(key), read);
        self.count_read(result.is_some());
        result
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
    /// Of several workers that miss the same key one loads it and the others wait, as long as their patience lasts; then,
    /// or if this worker must not wait, it loads beside the other. Where a value finds no room (everything is in workers' hands,
    /// or it is larger than an entry may be) it is returned and not cached.
    ///
    /// # Errors
    ///
    /// The store's; [`BuilderError::Backlog`] if there are too many loads at once and patience ends, or at once if this
    /// worker holds something; [`BuilderError::Lost`].
    pub fn fetch<S: SpillStore<K, V>>(
        &self,
        key: &K,
        store: &mut S,
    ) -> Result<(Option<V>, Version), BuilderError<S::Error>> {
        let key_bytes = Self::encode_key(key);
        let mut patience = Patience::default();
        let mut is_first = true;
        loop {
            let found = self.find(key, &key_bytes)?;
            if std::mem::take(&mut is_first) {
                self.count_read(found.is_some());
            }
            if let Some((value, version)) = found {
                return Ok((Some(value), version));
            }
            let beside_another = !may_wait() || patience.waited() > self.patience;
            match self.cache.claim_load(&key_bytes, beside_another) {
                LoadStep::Present => {}
                LoadStep::Yours(load) => {
                    if let Loaded::Done(value, version) = self.load(load, key, &key_bytes, store)? {
                        return Ok((value, version));
                    }
                }
                LoadStep::Taken if beside_another => return Err(self.backlog(key_bytes.len())),
                LoadStep::Taken => {
                    self.count(|stats| stats.waits += 1);
                    patience.start();
                    self.cache.wait_for_load(&key_bytes);
                }
                LoadStep::TooMany(blocked) => self.wait_for_room(blocked, &mut patience, key_bytes.len())?,
            }
        }
    }

    /// Loads a key that others wait for.
    fn load<S: SpillStore<K, V>>(
        &self,
        mut load: Load<'_, L>,
        key: &K,
        key_bytes: &[u8],
        store: &mut S,
    ) -> Result<Loaded<V>, BuilderError<S::Error>> {
        let uncached = load.version();
        let value = store.load(key).map_err(BuilderError::Store)?;
        let Some(value) = value else { return Ok(Loaded::Done(None, uncached)) };
        self.count(|stats| stats.loads += 1);
        let value_bytes = Self::encode_value(key, &value);
        loop {
            match self.store_if(key_bytes, &value_bytes, &mut Condition::Loaded(&mut load)) {
                Ok(Step::Done(_, version)) => return Ok(Loaded::Done(Some(value), version)),
                Ok(Step::Stale) => return Ok(Loaded::Again),
                Ok(Step::WriteBack(ticket)) => self.write_back(ticket, store)?,
                Ok(Step::Blocked(_)) | Err(PushError::TooLarge { .. } | PushError::KeyTooLong { .. }) => {
                    return Ok(Loaded::Done(Some(value), uncached));
                }
                Ok(Step::Lost) => return Err(BuilderError::Lost),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Stores a value, whatever the key has.
    ///
    /// # Errors
    ///
    /// The entry is too large; what the store says of another entry that had to make way; [`BuilderError::Backlog`] when
    /// patience ends and nobody has made room, or at once if this worker holds something; [`BuilderError::Lost`].
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
        let (key_bytes, value_bytes) = (Self::encode_key(key), Self::encode_value(key, value));
        let mut patience = Patience::default();
        loop {
            match self.store_if(&key_bytes, &value_bytes, &mut condition)? {
                Step::Done(put, _) => return Ok(Some(put)),
                Step::Stale => {
                    self.count(|stats| stats.conflicts += 1);
                    return Ok(None);
                }
                Step::WriteBack(ticket) => self.write_back(ticket, store)?,
                Step::Blocked(blocked) => {
                    self.wait_for_room(blocked, &mut patience, key_bytes.len() + value_bytes.len())?;
                }
                Step::Lost => return Err(BuilderError::Lost),
            }
        }
    }

    fn store_if(
        &self,
        key: &[u8],
        value: &[u8],
        condition: &mut Condition<'_, '_, L>,
    ) -> Result<Step<'_, L>, PushError> {
        let mut dropped = 0;
        let step = self.cache.store_if(key, value, condition, &self.resets, &mut dropped);
        self.count(|stats| stats.clean_evictions += u64::from(dropped));
        step
    }

    fn write_back<S: SpillStore<K, V>>(
        &self,
        ticket: Ticket<'_, L>,
        store: &mut S,
    ) -> Result<(), BuilderError<S::Error>> {
        let key = K::Codec::decode(ticket.key())?;
        let value = V::decode(&key, ticket.value())?;
        store.spill(&key, value).map_err(BuilderError::Store)?;
        let gone = ticket.finish();
        self.count(|stats| {
            stats.spills += 1;
            stats.survived += u64::from(!gone);
        });
        Ok(())
    }

    /// Waits a moment for others to make room, unless this worker holds something or has waited too long.
    fn wait_for_room<E>(&self, blocked: Blocked, patience: &mut Patience, bytes: usize) -> Result<(), BuilderError<E>> {
        patience.renew_if_changed(blocked);
        if !may_wait() || patience.waited() > self.patience {
            return Err(self.backlog(bytes));
        }
        self.cache.wait_for_room(blocked);
        Ok(())
    }

    fn backlog<E>(&self, bytes: usize) -> BuilderError<E> {
        let UnderWay { writes, loads, pins } = self.cache.under_way();
        BuilderError::Backlog { bytes, writes, loads, pins }
    }

    /// Takes every entry out and hands it to `take`, in the order of keys, with whether it is dirty: one that is not, the
    /// store has already. For the leader, when the workers are done.
    ///
    /// Entries leave the cache one by one; memory beside it is the keys', and one value.
    ///
    /// # Errors
    ///
    /// Some worker is not done, or was killed in the middle of a change so that entries are lost; what `take` says. The
    /// entry that `take` refused, and those after it, are still in the cache.
    pub fn drain_sorted<E>(&self, mut take: impl FnMut(K, V, bool) -> Result<(), E>) -> Result<u64, DrainError<E>>
    where
        K: Ord,
    {
        self.cache.end_claims_of_all_dead();
        let UnderWay { writes, loads, pins } = self.cache.under_way();
        if writes + loads + pins > 0 {
            return Err(DrainError::InUse { writes, loads, pins });
        }
        let mut keys = Vec::with_capacity(self.cache.len() as usize);
        for entry in self.cache.iter() {
            keys.push((K::Codec::decode(&entry.key)?, entry.id));
        }
        if *self.cache.resets() != *self.resets {
            return Err(DrainError::Lost);
        }
        keys.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let mut drained = 0;
        let mut bytes = Vec::new();
        for (key, id) in keys {
            let Some((version, dirty)) = self.cache.value_of(id, &mut bytes) else { continue };
            let value = V::decode(&key, &bytes)?;
            take(key, value, dirty).map_err(DrainError::Taker)?;
            drained += u64::from(self.cache.take_out(id, version));
        }
        if *self.cache.resets() != *self.resets {
            return Err(DrainError::Lost);
        }
        match self.cache.len() {
            0 => Ok(drained),
            left => Err(DrainError::Changed(left)),
        }
    }
}

/// How long a worker has waited in vain.
#[derive(Default)]
struct Patience {
    since: Option<Instant>,
    blocked: Option<Blocked>,
}

impl Patience {
    fn start(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    /// Waiting for room begins anew whenever some worker has ended what it had in hand.
    fn renew_if_changed(&mut self, blocked: Blocked) {
        if self.blocked.replace(blocked) != Some(blocked) {
            self.since = Some(Instant::now());
        }
    }

    fn waited(&self) -> Duration {
        self.since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}
