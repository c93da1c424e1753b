//! A near cache: decoded values in the process itself, in front of a cache that many share.
//!
//! ```text
//! get(key) ── hash ──► table ──► value, and the version of what it was decoded from
//!                                 │ the shared entry's stamp is the same: done. No lock, no copy, nothing decoded
//!                                 ▼ else: get of the shared cache, decode, insert
//! ```
//!
//! Each value is kept with its [`Version`], and a `get` asks the shared memory whether that still holds. So what anybody
//! does to the entry, in any process, is seen by the next `get`: a put, a removal, an eviction, `clear`, a reset, the
//! end of the cache. There is no time for which old values may be seen, and no message to send. A value that expires is kept
//! with its moment: from then on it is not current.
//!
//! What goes when the near cache is full: second chance. A hit sets a bit and moves nothing, which is what makes a hit
//! cheap; the hand passes over an entry whose bit is set once. A stricter order would cost writes at every hit and gain
//! little, for what goes is still in the shared cache.
//!
//! The shared cache sees only the uses that it is told of, and would take an entry that is read nearby all the time for
//! one that nobody wants. So every 64th near hit (`HITS_PER_USE`) on an entry is a use there as well (it costs about as
//! much as the rest of the hit, or the shared lock if the entry's reference bit was cleared). An entry that is hit less
//! often between two visits of the shared cache's hand may be evicted there; then it is read and kept anew, or is a
//! miss.
//!
//! Values lie in the hash table itself (`hashbrown`), and the hand walks over its buckets: a hit touches one line of
//! the process and one of the shared memory, beside the value. When the table grows its entries change places, which
//! for the order of second chances is as good as any.
//!
//! Invariants: the number of values and their encoded bytes are within bounds.
//!
//! Locking: none here; a near cache belongs to one thread. Nothing is told to other near caches: they ask.

use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::num::NonZeroUsize;
use std::ops::Deref;

use hashbrown::hash_table::OccupiedEntry;
use hashbrown::{DefaultHashBuilder, HashTable};

use super::codec::DecodeError;
use super::stored::{CacheKey, CacheValue, key_bytes, value_bytes};
use super::typed::{TypedCache, debug_types};
use crate::engine::entry::record::Stamp;
use crate::engine::flight::version::Version;
use crate::engine::ids::EntryIndex;
use crate::engine::index::optimistic::PlacementHint;
use crate::engine::limits::MAX_PARTITIONS;
use crate::engine::moment::Moment;
use crate::engine::outcomes::{PushError, Put};
use crate::shared::cache::SharedCache;
use crate::shared::expiry::Expiry;
use crate::shared::lock::Locks;

/// Near hits on one entry of which the last is a use in the shared cache.
const HITS_PER_USE: u8 = 64;

/// What a near cache counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NearStats {
    /// Values that were here and current.
    pub near_hits: u64,
    /// Values that came from the shared cache.
    pub shared_hits: u64,
    /// Keys without a value.
    pub misses: u64,
    /// Values that were here, but had been replaced or removed in the shared cache, or had expired.
    pub outdated: u64,
}

/// A value with its key, as it was decoded: in a cache line of its own, if they are small.
#[repr(align(64))]
struct Slot<K, V> {
    key: K,
    value: V,
    /// Of the version, without the count of changes, which only a store behind the cache asks for: so a slot is a line.
    stamp: Stamp,
    hint: PlacementHint,
    entry: EntryIndex,
    /// When the value expires, if its stamp says that it does.
    expires: Moment,
    /// At most what an entry can have, which is far below 4 GiB.
    encoded_bytes: u32,
    partition: u8,
    /// Hits, modulo 256.
    hits: u8,
    /// Whether there was one since the hand passed.
    referenced: bool,
}

/// Decoded values of a [`TypedCache`], kept while they are current.
///
/// `C` is any way to hold on to the shared cache: a reference, or an `Rc`.
///
/// # Examples
///
/// ```
/// use std::num::NonZero;
///
/// use pg_shared_lru::{Config, NearCache, TypedCache};
///
/// let shared = TypedCache::<u64, (String, u32)>::private(&Config::bytes(1 << 20))?;
/// let mut near = NearCache::new(&shared, NonZero::new(100).unwrap());
/// near.put(1, ("one".to_owned(), 10))?;
/// assert_eq!(near.get(&1)?.unwrap().0, "one");
/// assert_eq!(near.stats().near_hits, 1);
/// // Whoever changes it, the next `get` sees it.
/// shared.put(&1, &("uno".to_owned(), 11))?;
/// assert_eq!(near.get(&1)?.unwrap().1, 11);
/// shared.remove(&1)?;
/// assert_eq!(near.get(&1)?, None);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
pub struct NearCache<C, K, V> {
    values: HashTable<Slot<K, V>>,
    hasher: DefaultHashBuilder,
    rest: Rest<C>,
}

/// All but the table: what is borrowed while a value of the table is.
struct Rest<C> {
    shared: C,
    bounds: Bounds,
    stats: NearStats,
    key_buffer: Vec<u8>,
    value_buffer: Vec<u8>,
}

/// How much may be kept, how much is, and what goes next.
struct Bounds {
    capacity: usize,
    max_encoded_bytes: usize,
    encoded_bytes: usize,
    /// The bucket of the table that the hand looks at next.
    hand: usize,
}

impl<C, K: CacheKey, V: CacheValue<K>> fmt::Debug for NearCache<C, K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut described = debug_types::<K, V>(f, "NearCache");
        described
            .field("len", &self.values.len())
            .field("capacity", &self.rest.bounds.capacity)
            .field("stats", &self.rest.stats);
        described.finish_non_exhaustive()
    }
}

impl<C, K, V, L> NearCache<C, K, V>
where
    C: Deref<Target = TypedCache<K, V, L>>,
    K: CacheKey + Hash + Clone,
    V: CacheValue<K>,
    L: Locks,
{
    /// A near cache of at most `capacity` values before `shared`.
    pub fn new(shared: C, capacity: NonZeroUsize) -> Self {
        let bounds = Bounds { capacity: capacity.get(), max_encoded_bytes: usize::MAX, encoded_bytes: 0, hand: 0 };
        let (key_buffer, value_buffer) = (Vec::new(), Vec::new());
        let rest = Rest { shared, bounds, stats: NearStats::default(), key_buffer, value_buffer };
        NearCache { values: HashTable::new(), hasher: DefaultHashBuilder::default(), rest }
    }

    /// Bounds the bytes, too: those of the encoded keys and values, which is what can be counted. A value that is
    /// larger alone is kept alone.
    pub fn max_encoded_bytes(mut self, bytes: usize) -> Self {
        self.rest.bounds.max_encoded_bytes = bytes;
        self
    }

    /// A key's value; counts as a use. The same as [`TypedCache::get`] would return, at this moment.
    ///
    /// # Errors
    ///
    /// If the bytes do not decode.
    // Always: how many hits a processor has under way at once depends on how few instructions one takes.
    #[inline(always)]
    pub fn get(&mut self, key: &K) -> Result<Option<&V>, DecodeError> {
        let hash = self.hasher.hash_one(key);
        let table = match self.values.find_entry(hash, |slot| slot.key == *key) {
            Ok(mut found) => {
                if self.rest.is_current(found.get_mut()) {
                    self.rest.stats.near_hits += 1;
                    return Ok(Some(&found.into_mut().value));
                }
                self.rest.stats.outdated += 1;
                self.rest.bounds.remove(found)
            }
            Err(absent) => absent.into_table(),
        };
        self.rest.read_shared(table, &self.hasher, hash, key)
    }

    /// Stores a value, in the shared cache and here; what is evicted for it there is dropped.
    ///
    /// # Errors
    ///
    /// See [`PushError`]; a value that the key had stays.
    pub fn put(&mut self, key: K, value: V) -> Result<Put, PushError> {
        self.put_with(key, value, Expiry::Default)
    }

    /// As [`NearCache::put`]; from `expiry` on the entry is as good as absent, there and here.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn put_with(&mut self, key: K, value: V, expiry: Expiry) -> Result<Put, PushError> {
        let rest = &mut self.rest;
        let key_bytes = key_bytes(&key, &mut rest.key_buffer);
        let value_bytes = value_bytes(&key, &value, &mut rest.value_buffer);
        let (put, version) = rest.shared.encoded().put_versioned(key_bytes, value_bytes, expiry)?;
        let encoded_bytes = key_bytes.len() + value_bytes.len();
        let hash = self.hasher.hash_one(&key);
        let table = match self.values.find_entry(hash, |slot| slot.key == key) {
            Ok(found) => rest.bounds.remove(found),
            Err(absent) => absent.into_table(),
        };
        if let Some(version) = version {
            rest.bounds.insert(table, &self.hasher, hash, Slot::new(key, value, version, encoded_bytes));
        }
        Ok(put)
    }

    /// Removes a key, from the shared cache and from here, and returns its value.
    ///
    /// # Errors
    ///
    /// If the bytes do not decode; the key is removed all the same.
    pub fn remove(&mut self, key: &K) -> Result<Option<V>, DecodeError> {
        if let Ok(found) = self.values.find_entry(self.hasher.hash_one(key), |slot| slot.key == *key) {
            self.rest.bounds.remove(found);
        }
        self.rest.shared.remove(key)
    }

    /// Forgets all values here; the shared cache keeps its own.
    pub fn clear_near(&mut self) {
        self.values.clear();
        self.rest.bounds.encoded_bytes = 0;
    }

    /// Values here, current or not.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The most values here.
    pub fn capacity(&self) -> usize {
        self.rest.bounds.capacity
    }

    /// Bytes of the encoded keys and values that the values here were decoded from.
    pub fn encoded_bytes(&self) -> usize {
        self.rest.bounds.encoded_bytes
    }

    /// Counters since the near cache was made.
    pub fn stats(&self) -> NearStats {
        self.rest.stats
    }

    /// The cache behind.
    pub fn shared(&self) -> &C {
        &self.rest.shared
    }
}

impl<K, V> Slot<K, V> {
    fn new(key: K, value: V, version: Version, encoded_bytes: usize) -> Self {
        let Version { entry, stamp, partition, expires, .. } = version;
        let (hint, encoded_bytes, partition) = (PlacementHint::default(), encoded_bytes as u32, partition as u8);
        Slot { key, value, stamp, hint, entry, expires, encoded_bytes, partition, hits: 0, referenced: false }
    }

    #[inline(always)]
    fn version(&self) -> Version {
        let Slot { entry, stamp, expires, .. } = *self;
        Version { entry, stamp, changes: 0, partition: u32::from(self.partition), expires }
    }
}
const _: () = assert!(size_of::<Slot<u64, Vec<u8>>>() == 64);
const _: () = assert!(MAX_PARTITIONS <= 1 << u8::BITS);

impl<C> Rest<C> {
    /// Whether a value is current; notes the hit if it is.
    #[inline(always)]
    fn is_current<K, V, L>(&self, slot: &mut Slot<K, V>) -> bool
    where
        C: Deref<Target = TypedCache<K, V, L>>,
        K: CacheKey,
        V: CacheValue<K>,
        L: Locks,
    {
        slot.hits = slot.hits.wrapping_add(1);
        slot.referenced = true;
        let (shared, version) = (self.shared.encoded(), slot.version());
        if slot.hits % HITS_PER_USE == 0 {
            use_it(shared, &version, &mut slot.hint)
        } else {
            shared.is_current(&version, &mut slot.hint)
        }
    }

    /// Reads a key that the table has not from the shared cache.
    #[cold]
    #[inline(never)]
    fn read_shared<'t, K, V, L>(
        &mut self,
        table: &'t mut HashTable<Slot<K, V>>,
        hasher: &DefaultHashBuilder,
        hash: u64,
        key: &K,
    ) -> Result<Option<&'t V>, DecodeError>
    where
        C: Deref<Target = TypedCache<K, V, L>>,
        K: CacheKey + Hash + Clone,
        V: CacheValue<K>,
        L: Locks,
    {
        let key_bytes = key_bytes(key, &mut self.key_buffer);
        let Some(version) = self.shared.encoded().get_versioned(key_bytes, &mut self.value_buffer) else {
            self.stats.misses += 1;
            return Ok(None);
        };
        let value = V::decode(key, &self.value_buffer)?;
        self.stats.shared_hits += 1;
        let slot = Slot::new(key.clone(), value, version, key_bytes.len() + self.value_buffer.len());
        Ok(Some(&self.bounds.insert(table, hasher, hash, slot).value))
    }
}

/// One near hit in so many goes this way.
#[cold]
#[inline(never)]
fn use_it<L: Locks>(shared: &SharedCache<L>, version: &Version, hint: &mut PlacementHint) -> bool {
    shared.touch(version, hint)
}

impl Bounds {
    /// Puts a value of a key that has none into the table, and evicts what is too much with it.
    fn insert<'t, K: Hash, V>(
        &mut self,
        table: &'t mut HashTable<Slot<K, V>>,
        hasher: &DefaultHashBuilder,
        hash: u64,
        slot: Slot<K, V>,
    ) -> &'t Slot<K, V> {
        let encoded_bytes = slot.encoded_bytes as usize;
        while !table.is_empty()
            && (table.len() >= self.capacity || self.encoded_bytes + encoded_bytes > self.max_encoded_bytes)
        {
            self.evict(table);
        }
        self.encoded_bytes += encoded_bytes;
        table.insert_unique(hash, slot, |slot| hasher.hash_one(&slot.key)).into_mut()
    }

    /// Evicts the first value from the hand on that had no hit since the hand passed.
    #[inline(never)]
    fn evict<K, V>(&mut self, table: &mut HashTable<Slot<K, V>>) {
        loop {
            let bucket = self.hand;
            self.hand = if bucket + 1 >= table.num_buckets() { 0 } else { bucket + 1 };
            if let Ok(mut found) = table.get_bucket_entry(bucket) {
                if !std::mem::take(&mut found.get_mut().referenced) {
                    self.remove(found);
                    return;
                }
            }
        }
    }

    #[inline(never)]
    fn remove<'t, K, V>(&mut self, found: OccupiedEntry<'t, Slot<K, V>>) -> &'t mut HashTable<Slot<K, V>> {
        let (slot, vacant) = found.remove();
        self.encoded_bytes -= slot.encoded_bytes as usize;
        vacant.into_table()
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZero;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::engine::compaction::CompactBudget;
    use crate::engine::config::Config;
    use crate::engine::policy::Policy;
    use crate::shared::lock::NoLocks;
    use crate::shared::robust_locks::RobustLocks;
    use crate::shared::wall_clock::WallClock;

    type Values<L> = TypedCache<u32, Vec<u64>, L>;

    fn shared(policy: Policy) -> Values<NoLocks> {
        TypedCache::private(&Config::bytes(1 << 20).partitions(1).slab_bytes(16 << 10).policy(policy)).unwrap()
    }

    fn near(shared: &Values<NoLocks>, capacity: usize) -> NearCache<&Values<NoLocks>, u32, Vec<u64>> {
        NearCache::new(shared, NonZero::new(capacity).unwrap())
    }

    /// Whether a `get` is answered here, with the value that is right.
    fn is_near(near: &mut NearCache<&Values<NoLocks>, u32, Vec<u64>>, key: u32) -> bool {
        let hits = near.stats().near_hits;
        let right = near.shared().peek(&key).unwrap();
        assert_eq!(near.get(&key).unwrap(), right.as_ref());
        near.stats().near_hits > hits
    }

    #[test]
    fn a_value_is_read_from_the_shared_cache_once() {
        for policy in [Policy::Lru, Policy::Clock] {
            let shared = shared(policy);
            shared.put(&1, &vec![10; 100]).unwrap();
            shared.put(&2, &vec![20; 5000]).unwrap();
            let mut near = near(&shared, 10);
            for key in [1, 2] {
                assert!(!is_near(&mut near, key));
                assert!((0..100).all(|_| is_near(&mut near, key)), "also a chained one");
            }
            near.put(3, vec![30]).unwrap();
            assert!(is_near(&mut near, 3), "what was put is here");
            assert_eq!(near.get(&4).unwrap(), None);
            let expected = NearStats { near_hits: 201, shared_hits: 2, misses: 1, outdated: 0 };
            assert_eq!(near.stats(), expected);
        }
    }

    #[test]
    fn a_value_that_has_expired_is_not_given_though_it_is_here() {
        for policy in Policy::ALL {
            let clock: &'static AtomicU64 = Box::leak(Box::new(AtomicU64::new(WallClock::SYSTEM.unix_ms())));
            let config = Config::bytes(1 << 20).partitions(2).slab_bytes(16 << 10).policy(policy);
            let shared: Values<NoLocks> =
                TypedCache::private(&config).unwrap().with_wall_clock(WallClock::set_by(clock));
            let second = Expiry::After(Duration::from_secs(1));
            for size in [0, 3, 100, 5000] {
                let value = vec![7; size];
                let mut near = near(&shared, 10);
                shared.put_with(&1, &value, second).unwrap();
                near.put_with(2, value.clone(), second).unwrap();
                near.put(3, value.clone()).unwrap();
                near.get(&1).unwrap();
                assert!((0..130).all(|_| is_near(&mut near, 1) && is_near(&mut near, 2) && is_near(&mut near, 3)));
                clock.fetch_add(1000, Ordering::SeqCst);
                (1..=2).for_each(|key| assert_eq!(near.get(&key).unwrap(), None, "{policy}, {size} words"));
                assert!(is_near(&mut near, 3));
                assert_eq!((near.stats().outdated, near.stats().misses, near.len()), (2, 2, 1));
                // Renewed by anybody, it is here again.
                shared.put_with(&1, &value, second).unwrap();
                near.get(&1).unwrap();
                assert!(is_near(&mut near, 1));
                clock.fetch_add(1000, Ordering::SeqCst);
                assert_eq!(near.get(&1).unwrap(), None);
            }
            shared.validate().unwrap();
        }
    }

    #[test]
    fn whatever_becomes_of_an_entry_is_seen_by_the_next_get() {
        type Change = fn(&Values<NoLocks>);
        let changes: [(&str, Change); 8] = [
            ("replaced in place", |shared| _ = shared.put(&1, &vec![11; 100]).unwrap()),
            ("replaced by the same", |shared| _ = shared.put(&1, &vec![10; 100]).unwrap()),
            ("replaced by a larger one", |shared| _ = shared.put(&1, &vec![11; 150]).unwrap()),
            ("replaced by a chained one", |shared| _ = shared.put(&1, &vec![11; 2000]).unwrap()),
            ("removed", |shared| _ = shared.remove(&1).unwrap()),
            ("removed and stored again", |shared| {
                shared.remove(&1).unwrap();
                shared.put(&1, &vec![10; 100]).unwrap();
            }),
            ("cleared", |shared| _ = shared.clear()),
            ("evicted", |shared| (100..5000).for_each(|key| _ = shared.put(&key, &vec![1; 100]).unwrap())),
        ];
        for policy in [Policy::Lru, Policy::Clock] {
            for (what, change) in changes {
                for pinned in [false, true] {
                    let shared = shared(policy);
                    shared.put(&1, &vec![10; 100]).unwrap();
                    let mut near = near(&shared, 10);
                    is_near(&mut near, 1);
                    assert!(is_near(&mut near, 1));
                    if !pinned {
                        change(&shared);
                    } else if what != "evicted" {
                        shared.with(&1, |_| change(&shared)).unwrap();
                    } else {
                        continue;
                    }
                    assert!(!is_near(&mut near, 1), "{what}, pinned: {pinned}");
                    assert_eq!(near.stats().outdated, 1);
                    near.clear_near();
                    assert_eq!((near.len(), near.encoded_bytes()), (0, 0));
                }
            }
        }
    }

    #[test]
    fn a_move_is_no_change() {
        let shared = shared(Policy::Lru);
        (0..800).for_each(|key| _ = shared.put(&key, &vec![u64::from(key); 100]).unwrap());
        let mut near = near(&shared, 1000);
        (0..800).for_each(|key| _ = is_near(&mut near, key));
        (0..800).filter(|key| key % 8 != 0).for_each(|key| _ = shared.remove(&key).unwrap());
        assert!(shared.compact(CompactBudget::unlimited()).entries_moved > 50);
        (1000..1100).for_each(|key| _ = shared.put(&key, &vec![1; 100]).unwrap());
        assert!((0..800).all(|key| is_near(&mut near, key) == (key % 8 == 0)));
    }

    #[test]
    fn what_is_used_nearby_is_not_evicted_from_the_shared_cache() {
        for policy in [Policy::Lru, Policy::Clock] {
            let shared = shared(policy);
            let mut near = near(&shared, 10);
            near.put(1, vec![1; 100]).unwrap();
            for key in 100..20_000 {
                shared.put(&key, &vec![1; 100]).unwrap();
                assert!(is_near(&mut near, 1), "{policy}, after {key}");
            }
            assert!(shared.stats().evictions > 10_000);
            let uses = near.stats().near_hits / u64::from(HITS_PER_USE);
            assert_eq!(shared.stats().hits, uses, "each use there is a hit");
        }
    }

    #[test]
    fn the_bounds_hold_and_what_was_hit_stays_longer() {
        let shared = shared(Policy::Clock);
        let mut near = near(&shared, 100).max_encoded_bytes(30_000);
        for key in 0..1000 {
            near.put(key, vec![u64::from(key); 10]).unwrap();
            assert!(is_near(&mut near, 0), "hit again and again");
            assert!(near.len() <= 100 && near.encoded_bytes() <= 30_000);
        }
        assert_eq!((near.len(), near.encoded_bytes()), (100, 100 * 84));
        for key in 2000..2100 {
            near.put(key, vec![u64::from(key); 100]).unwrap();
            assert!(near.len() <= 100 && near.encoded_bytes() <= 30_000);
        }
        assert_eq!(near.encoded_bytes() / 804, 37);
        near.put(3000, vec![1; 5000]).unwrap();
        assert_eq!(near.len(), 1, "too large, and alone");
        assert!(is_near(&mut near, 3000));
        near.put(3001, vec![1]).unwrap();
        assert_eq!((near.len(), near.encoded_bytes()), (1, 12));
        assert_eq!(near.remove(&3001).unwrap(), Some(vec![1]));
        assert_eq!((near.len(), near.encoded_bytes(), near.remove(&3001).unwrap()), (0, 0, None));
    }

    #[test]
    fn a_get_never_returns_what_was_replaced_before_it_began() {
        let config = Config::bytes(1 << 20).partitions(1).policy(Policy::Clock);
        let shared = Values::<RobustLocks>::shared_mapping(&config).unwrap();
        const LAST: u64 = 20_000;
        shared.put(&1, &vec![0; 60]).unwrap();
        let stored = AtomicU64::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for version in 1..=LAST {
                    shared.put(&1, &vec![version; 60]).unwrap();
                    stored.store(version, Ordering::Release);
                }
            });
            scope.spawn(|| {
                let mut near = NearCache::new(&shared, NonZero::new(10).unwrap());
                let mut seen = 0;
                while seen < LAST {
                    let least = stored.load(Ordering::Acquire);
                    let value = near.get(&1).unwrap().expect("it is never removed");
                    assert!(value.iter().all(|word| *word == value[0]), "whole");
                    assert!(value[0] >= least.max(seen), "{} after {least} and {seen}", value[0]);
                    seen = value[0];
                }
            });
        });
    }
}
