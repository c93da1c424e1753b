//! A cache of keys and values of given types: a [`SharedCache`] whose bytes are made and read by the types' codecs.
//!
//! Invariants: the bytes of keys and values are those of the types' codecs (`stored`), which the region's type tag names.
//!
//! Locking: that of the cache behind; encoding happens before its lock is taken, decoding after it is released.
//!
//! Not here: values kept decoded (`near`), entries in front of a store (`builder`).

use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;

use super::codec::{Codec, DecodeError};
use super::stored::{CacheKey, CacheValue, encoded_key, encoded_value, type_tag};
use crate::engine::compaction::{CompactBudget, CompactReport};
use crate::engine::config::Config;
use crate::engine::counters::Stats;
use crate::engine::evicted::Evicted;
use crate::engine::findings::Inconsistencies;
use crate::engine::flight::version::Version;
use crate::engine::header::AttachError;
use crate::engine::index::optimistic::PlacementHint;
use crate::engine::outcomes::{PushError, Put};
use crate::engine::report::MemoryReport;
use crate::shared::cache::SharedCache;
use crate::shared::drained::Parts;
use crate::shared::expiry::{Expiry, SweepReport};
use crate::shared::lock::{Locks, NoLocks};
use crate::shared::multi_get::Found;
use crate::shared::open::CreateError;
use crate::shared::robust_locks::RobustLocks;
use crate::shared::scan::Entries;
use crate::shared::wall_clock::WallClock;

/// A cache of typed keys and values.
///
/// As [`SharedCache`], of which each method is one operation: the cost is that, and encoding and decoding. Keys and values
/// of plain data, strings and vectors of plain data are not copied to be looked up or stored.
///
/// Values are decoded into memory of their own; where there is none, that panics or aborts, as [`SharedCache`] says of what
/// copies. Who has to go on without asks the cache behind ([`TypedCache::encoded`]) with what copies into the caller's room.
///
/// # Examples
///
/// ```
/// use pg_shared_lru::{Config, TypedCache, TypedEvicted};
///
/// let cache = TypedCache::<u64, Vec<u32>>::private(&Config::entries(2, 256))?;
/// cache.put(&1, &vec![10, 11])?;
/// cache.put(&2, &vec![])?;
/// let mut evicted = TypedEvicted::default();
/// cache.push(&3, &vec![30], &mut evicted)?;
/// assert_eq!(evicted.decode()?, [(1, vec![10, 11])]);
/// assert_eq!(cache.get(&2)?, Some(vec![]));
/// assert_eq!(cache.get_many(&[2, 7])?, [Some(vec![]), None]);
/// assert_eq!((cache.len(), cache.iter().count()), (2, 2));
/// let parts = cache.into_parts();
/// assert_eq!(parts.decode()?, [(3, vec![30]), (2, vec![])]);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
pub struct TypedCache<K: CacheKey, V: CacheValue<K>, L: Locks = NoLocks> {
    encoded: SharedCache<L>,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K: CacheKey, V: CacheValue<K>, L: Locks> fmt::Debug for TypedCache<K, V, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        debug_types::<K, V>(f, "TypedCache").finish_non_exhaustive()
    }
}

impl<K: CacheKey, V: CacheValue<K>> TypedCache<K, V, NoLocks> {
    /// A cache of this process and thread alone.
    ///
    /// # Errors
    ///
    /// A wrong configuration, or no memory.
    pub fn private(config: &Config) -> Result<Self, CreateError> {
        Ok(TypedCache { encoded: SharedCache::private(config)?, types: PhantomData })
    }
}

impl<K: CacheKey, V: CacheValue<K>> TypedCache<K, V, RobustLocks> {
    /// A cache in memory that children inherit over `fork`; see [`SharedCache::shared_mapping`].
    ///
    /// # Errors
    ///
    /// A wrong configuration, or no memory.
    pub fn shared_mapping(config: &Config) -> Result<Self, CreateError> {
        Ok(TypedCache { encoded: SharedCache::shared_mapping(config)?, types: PhantomData })
    }
}

impl<K: CacheKey, V: CacheValue<K>, L: Locks> TypedCache<K, V, L> {
    /// As [`SharedCache::create`], with the types' tag.
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Safety
    ///
    /// As there.
    #[allow(unsafe_code)] // hands its own contract on
    pub unsafe fn create(memory: NonNull<u8>, bytes: usize, config: &Config, locks: L) -> Result<Self, CreateError> {
        // SAFETY: the caller keeps the same contract.
        let encoded = unsafe { SharedCache::create(memory, bytes, config, type_tag::<K, V>(), locks)? };
        Ok(TypedCache { encoded, types: PhantomData })
    }

    /// As [`SharedCache::attach`]; a cache of other types is refused.
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Safety
    ///
    /// As there.
    #[allow(unsafe_code)] // hands its own contract on
    pub unsafe fn attach(memory: NonNull<u8>, bytes: usize, locks: L) -> Result<Self, AttachError> {
        // SAFETY: the caller keeps the same contract.
        let encoded = unsafe { SharedCache::attach(memory, bytes, type_tag::<K, V>(), locks)? };
        Ok(TypedCache { encoded, types: PhantomData })
    }

    /// Types for a cache that was created with their tag, [`type_tag`].
    ///
    /// # Errors
    ///
    /// If it was created with another.
    pub fn over(encoded: SharedCache<L>) -> Result<Self, AttachError> {
        let (found, expected) = (encoded.type_tag(), type_tag::<K, V>());
        if found == expected {
            Ok(TypedCache { encoded, types: PhantomData })
        } else {
            Err(AttachError::TypeTag { found, expected })
        }
    }

    /// This handle with another clock: for tests.
    #[doc(hidden)]
    pub fn with_wall_clock(self, wall_clock: WallClock) -> Self {
        TypedCache { encoded: self.encoded.with_wall_clock(wall_clock), types: PhantomData }
    }

    /// The cache of encoded keys and values behind.
    pub fn encoded(&self) -> &SharedCache<L> {
        &self.encoded
    }

    /// A key's value. Counts as a use.
    ///
    /// # Errors
    ///
    /// If the bytes do not decode.
    pub fn get(&self, key: &K) -> Result<Option<V>, DecodeError> {
        let mut value = Vec::new();
        self.encoded.get(&encoded_key(key), &mut value).then(|| V::decode(key, &value)).transpose()
    }

    /// The values of many keys, in their order, as [`TypedCache::get`] says of each; see [`SharedCache::get_many`].
    ///
    /// # Errors
    ///
    /// If the bytes of one do not decode.
    pub fn get_many<'k>(&self, keys: impl IntoIterator<Item = &'k K>) -> Result<Vec<Option<V>>, DecodeError>
    where
        K: 'k,
    {
        let (mut encoded, mut ends, mut wanted) = (Vec::new(), vec![0], Vec::new());
        for key in keys {
            K::Codec::encode(key, &mut encoded);
            ends.push(encoded.len());
            wanted.push(key);
        }
        let mut found = Found::default();
        self.encoded.get_many(ends.windows(2).map(|ends| &encoded[ends[0]..ends[1]]), &mut found);
        wanted
            .into_iter()
            .zip(found.iter())
            .map(|(key, value)| value.map(|value| V::decode(key, value)).transpose())
            .collect()
    }

    /// Runs `read` on the encoded value without copying it. Counts as a use; see [`SharedCache::with`].
    pub fn with<R>(&self, key: &K, read: impl FnOnce(&[u8]) -> R) -> Option<R> {
        self.encoded.with(&encoded_key(key), read)
    }

    /// A key's value; neither counts nor counts as a use.
    ///
    /// # Errors
    ///
    /// If the bytes do not decode.
    pub fn peek(&self, key: &K) -> Result<Option<V>, DecodeError> {
        let mut value = Vec::new();
        self.encoded.peek(&encoded_key(key), &mut value).then(|| V::decode(key, &value)).transpose()
    }

    /// Whether a key is there; neither counts nor counts as a use.
    pub fn contains(&self, key: &K) -> bool {
        self.encoded.contains(&encoded_key(key))
    }

    /// Stores a value; what was evicted for it is dropped.
    ///
    /// # Errors
    ///
    /// See [`PushError`]; a value that the key had stays.
    pub fn put(&self, key: &K, value: &V) -> Result<Put, PushError> {
        self.encoded.put(&encoded_key(key), &encoded_value(key, value))
    }

    /// As [`TypedCache::put`]; from `expiry` on the entry is as good as absent. See [`SharedCache::put_with`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn put_with(&self, key: &K, value: &V, expiry: Expiry) -> Result<Put, PushError> {
        self.encoded.put_with(&encoded_key(key), &encoded_value(key, value), expiry)
    }

    /// A key's value and its version, by which it can be recognised later. Counts as a use.
    ///
    /// # Errors
    ///
    /// If the bytes do not decode.
    pub fn get_versioned(&self, key: &K) -> Result<Option<(V, Version)>, DecodeError> {
        let mut value = Vec::new();
        let version = self.encoded.get_versioned(&encoded_key(key), &mut value);
        version.map(|version| Ok((V::decode(key, &value)?, version))).transpose()
    }

    /// Whether a value is still its key's; see [`SharedCache::is_current`].
    pub fn is_current(&self, version: &Version, hint: &mut PlacementHint) -> bool {
        self.encoded.is_current(version, hint)
    }

    /// Stores a value if the key has none; whether it did. See [`SharedCache::put_if_absent`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn put_if_absent(&self, key: &K, value: &V, expiry: Expiry) -> Result<bool, PushError> {
        self.encoded.put_if_absent(&encoded_key(key), &encoded_value(key, value), expiry, || true)
    }

    /// Stores a value if the key still has the one of this version; whether it did. See [`SharedCache::put_if_version`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn put_if_version(&self, key: &K, value: &V, expiry: Expiry, version: &Version) -> Result<bool, PushError> {
        self.encoded.put_if_version(&encoded_key(key), &encoded_value(key, value), expiry, version)
    }

    /// Stores a value; what was evicted for it is appended to `evicted`.
    ///
    /// # Errors
    ///
    /// See [`PushError`]; a value that the key had stays. What was evicted all the same is in `evicted`.
    pub fn push(&self, key: &K, value: &V, evicted: &mut TypedEvicted<K, V>) -> Result<Put, PushError> {
        self.encoded.push(&encoded_key(key), &encoded_value(key, value), &mut evicted.encoded)
    }

    /// As [`TypedCache::push`], with an expiry as [`TypedCache::put_with`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn push_with(
        &self,
        key: &K,
        value: &V,
        expiry: Expiry,
        evicted: &mut TypedEvicted<K, V>,
    ) -> Result<Put, PushError> {
        self.encoded.push_with(&encoded_key(key), &encoded_value(key, value), expiry, &mut evicted.encoded)
    }

    /// Removes entries that have expired, among the next `budget`; see [`SharedCache::sweep`].
    pub fn sweep(&self, budget: u64) -> SweepReport {
        self.encoded.sweep(budget)
    }

    /// Removes a key and returns its value.
    ///
    /// # Errors
    ///
    /// If the bytes do not decode; the key is removed all the same.
    pub fn remove(&self, key: &K) -> Result<Option<V>, DecodeError> {
        self.encoded.remove(&encoded_key(key)).map(|value| V::decode(key, &value)).transpose()
    }

    /// Removes and returns the entry that is next to be evicted.
    ///
    /// # Errors
    ///
    /// If the bytes do not decode; the entry is removed all the same.
    pub fn pop_lru(&self) -> Result<Option<(K, V)>, DecodeError> {
        self.encoded.pop_lru().map(|(key, value)| decode_entry(&key, &value)).transpose()
    }

    /// Live entries.
    pub fn len(&self) -> u64 {
        self.encoded.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.encoded.is_empty()
    }

    /// Encoded keys and values of live entries, in bytes.
    pub fn bytes(&self) -> u64 {
        self.encoded.bytes()
    }

    /// Removes every entry and says how many there were.
    pub fn clear(&self) -> u64 {
        self.encoded.clear()
    }

    /// Counters since the cache was created.
    pub fn stats(&self) -> Stats {
        self.encoded.stats()
    }

    /// Keys and values of all entries; no lock is held between steps. See [`SharedCache::iter`].
    pub fn iter(&self) -> TypedIter<'_, K, V, L> {
        TypedIter { encoded: self.encoded.iter_with_values(), types: PhantomData }
    }

    /// Relocates entries so that whole slabs become free; see [`SharedCache::compact`].
    pub fn compact(&self, budget: CompactBudget) -> CompactReport {
        self.encoded.compact(budget)
    }

    /// Where the memory is.
    pub fn memory_report(&self) -> MemoryReport {
        self.encoded.memory_report()
    }

    /// Checks every structure against the others.
    ///
    /// # Errors
    ///
    /// What was found wrong.
    pub fn validate(&self) -> Result<(), Inconsistencies> {
        self.encoded.validate()
    }

    /// Takes every entry out; see [`SharedCache::into_parts`].
    pub fn into_parts(self) -> TypedParts<K, V> {
        TypedParts { encoded: self.encoded.into_parts(), types: PhantomData }
    }
}

impl<'a, K: CacheKey, V: CacheValue<K>, L: Locks> IntoIterator for &'a TypedCache<K, V, L> {
    type Item = Result<(K, V), DecodeError>;
    type IntoIter = TypedIter<'a, K, V, L>;

    fn into_iter(self) -> TypedIter<'a, K, V, L> {
        self.iter()
    }
}

/// Keys and values of a [`TypedCache`], in the order of its directory. An entry whose bytes do not decode is an error
/// in its place.
pub struct TypedIter<'a, K, V, L: Locks> {
    encoded: Entries<&'a SharedCache<L>>,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K: CacheKey, V: CacheValue<K>, L: Locks> fmt::Debug for TypedIter<'_, K, V, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        debug_types::<K, V>(f, "TypedIter").finish_non_exhaustive()
    }
}

impl<K: CacheKey, V: CacheValue<K>, L: Locks> Iterator for TypedIter<'_, K, V, L> {
    type Item = Result<(K, V), DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.encoded.next()?;
        let value = entry.value.expect("the walk was asked for values");
        Some(decode_entry(&entry.key, &value))
    }
}

/// Evicted entries, decoded on demand.
pub struct TypedEvicted<K: CacheKey, V: CacheValue<K>> {
    encoded: Evicted,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K: CacheKey, V: CacheValue<K>> fmt::Debug for TypedEvicted<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        debug_types::<K, V>(f, "TypedEvicted").field("len", &self.encoded.len()).finish_non_exhaustive()
    }
}

impl<K: CacheKey, V: CacheValue<K>> Default for TypedEvicted<K, V> {
    fn default() -> Self {
        TypedEvicted { encoded: Evicted::default(), types: PhantomData }
    }
}

impl<K: CacheKey, V: CacheValue<K>> TypedEvicted<K, V> {
    /// Forgets the entries and keeps the memory.
    pub fn clear(&mut self) {
        self.encoded.clear();
    }

    /// The encoded entries.
    pub fn encoded(&self) -> &Evicted {
        &self.encoded
    }

    /// Keys and values, first evicted first.
    ///
    /// # Errors
    ///
    /// If bytes do not decode.
    pub fn decode(&self) -> Result<Vec<(K, V)>, DecodeError> {
        decode_all::<K, V>(self.encoded.iter())
    }
}

/// A typed cache taken apart.
pub struct TypedParts<K: CacheKey, V: CacheValue<K>> {
    encoded: Parts,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K: CacheKey, V: CacheValue<K>> fmt::Debug for TypedParts<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        debug_types::<K, V>(f, "TypedParts").field("len", &self.encoded.len()).finish_non_exhaustive()
    }
}

impl<K: CacheKey, V: CacheValue<K>> TypedParts<K, V> {
    /// The encoded entries.
    pub fn encoded(&self) -> &Parts {
        &self.encoded
    }

    /// The cache's counters before it was drained.
    pub fn stats(&self) -> Stats {
        self.encoded.stats
    }

    /// The value of a key.
    ///
    /// # Errors
    ///
    /// If the bytes do not decode.
    pub fn get(&self, key: &K) -> Result<Option<V>, DecodeError> {
        self.encoded.get(&encoded_key(key)).map(|value| V::decode(key, value)).transpose()
    }

    /// Keys and values in the order of eviction (policy `lru`: least recently used first).
    ///
    /// # Errors
    ///
    /// If bytes do not decode.
    pub fn decode(&self) -> Result<Vec<(K, V)>, DecodeError> {
        decode_all::<K, V>(self.encoded.iter())
    }
}

/// Begins a description that names the forms of keys and values, which say more than the types.
pub(super) fn debug_types<'a, 'b, K: CacheKey, V: CacheValue<K>>(
    f: &'a mut fmt::Formatter<'b>,
    name: &str,
) -> fmt::DebugStruct<'a, 'b> {
    let mut described = f.debug_struct(name);
    described.field("key", &K::Codec::name()).field("value", &V::format_name());
    described
}

fn decode_all<'a, K: CacheKey, V: CacheValue<K>>(
    entries: impl Iterator<Item = (&'a [u8], &'a [u8])>,
) -> Result<Vec<(K, V)>, DecodeError> {
    entries.map(|(key, value)| decode_entry(key, value)).collect()
}

fn decode_entry<K: CacheKey, V: CacheValue<K>>(key: &[u8], value: &[u8]) -> Result<(K, V), DecodeError> {
    let key = K::Codec::decode(key)?;
    let value = V::decode(&key, value)?;
    Ok((key, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_conditions_are_those_of_the_encoded_cache() {
        let cache = TypedCache::<u64, Vec<u32>>::private(&Config::bytes(1 << 20)).unwrap();
        assert!(cache.get_versioned(&1).unwrap().is_none());
        assert_eq!(cache.put_if_absent(&1, &vec![1], Expiry::Default), Ok(true));
        assert_eq!(cache.put_if_absent(&1, &vec![2], Expiry::Default), Ok(false));
        let (value, first) = cache.get_versioned(&1).unwrap().unwrap();
        let mut hint = PlacementHint::default();
        assert!(value == [1] && cache.is_current(&first, &mut hint));
        assert_eq!(cache.put_if_version(&1, &vec![3, 4], Expiry::Default, &first), Ok(true));
        assert!(!cache.is_current(&first, &mut hint), "it was replaced");
        assert_eq!(cache.put_if_version(&1, &vec![5], Expiry::Default, &first), Ok(false));
        assert_eq!(cache.get(&1).unwrap(), Some(vec![3, 4]));
    }
}
