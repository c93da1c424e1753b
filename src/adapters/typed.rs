//! A cache of keys and values of given types: a [`SharedCache`] behind two codecs.

use std::marker::PhantomData;
use std::ptr::NonNull;

use super::codec::{Codec, DecodeError, type_tag};
use crate::engine::config::Config;
use crate::engine::evicted::Evicted;
use crate::engine::layout::AttachError;
use crate::engine::partition::{PushError, Put};
use crate::engine::report::{MemoryReport, Stats};
use crate::engine::room::{CompactBudget, CompactReport};
use crate::engine::validate::Inconsistencies;
use crate::shared::cache::{CreateError, SharedCache};
use crate::shared::lock::{Locks, NoLocks};
use crate::shared::many::Found;
use crate::shared::parts::Parts;
use crate::shared::robust_locks::RobustLocks;

/// A key and a value.
pub type Pair<K, V> = (<K as Codec>::Item, <V as Codec>::Item);

/// A typed cache.
///
/// # Examples
///
/// ```
/// use pg_shared_lru::{Config, Pod, Postcard, TypedCache, TypedEvicted};
/// let cache = TypedCache::<Pod<u64>, Postcard<Vec<u32>>>::private(&Config::entries(2, 256)).unwrap();
/// cache.put(&1, &vec![10, 11]).unwrap();
/// cache.put(&2, &vec![]).unwrap();
/// let mut evicted = TypedEvicted::default();
/// cache.push(&3, &vec![30], &mut evicted).unwrap();
/// assert_eq!(evicted.decode().unwrap(), [(1, vec![10, 11])]);
/// assert_eq!(cache.get(&2).unwrap(), Some(vec![]));
/// assert_eq!(cache.get_many(&[2, 7]).unwrap(), [Some(vec![]), None]);
/// assert_eq!((cache.len(), cache.iter().count()), (2, 2));
/// let parts = cache.into_parts();
/// assert_eq!(parts.decode().unwrap(), [(3, vec![30]), (2, vec![])]);
/// ```
pub struct TypedCache<K: Codec, V: Codec, L: Locks = NoLocks> {
    encoded: SharedCache<L>,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K: Codec, V: Codec> TypedCache<K, V, NoLocks> {
    /// A cache of this process and thread alone.
    ///
    /// # Errors
    ///
    /// A wrong configuration, or no memory.
    pub fn private(config: &Config) -> Result<Self, CreateError> {
        Ok(TypedCache { encoded: SharedCache::private(config)?, types: PhantomData })
    }
}

impl<K: Codec, V: Codec> TypedCache<K, V, RobustLocks> {
    /// A cache in memory that children inherit over `fork`; see [`SharedCache::shared_mapping`].
    ///
    /// # Errors
    ///
    /// A wrong configuration, or no memory.
    pub fn shared_mapping(config: &Config) -> Result<Self, CreateError> {
        Ok(TypedCache { encoded: SharedCache::shared_mapping(config)?, types: PhantomData })
    }
}

impl<K: Codec, V: Codec, L: Locks> TypedCache<K, V, L> {
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

    /// The cache of encoded keys and values behind.
    pub fn encoded(&self) -> &SharedCache<L> {
        &self.encoded
    }

    fn encode_key(key: &K::Item) -> Vec<u8> {
        let mut bytes = Vec::new();
        K::encode(key, &mut bytes);
        bytes
    }

    /// A key's value. Counts as a use.
    ///
    /// # Errors
    ///
    /// If the bytes do not decode.
    pub fn get(&self, key: &K::Item) -> Result<Option<V::Item>, DecodeError> {
        let mut value = Vec::new();
        self.encoded.get(&Self::encode_key(key), &mut value).then(|| V::decode(&value)).transpose()
    }

    /// The values of many keys, in their order, as [`TypedCache::get`] says of each; see [`SharedCache::get_many`].
    ///
    /// # Errors
    ///
    /// If the bytes of one do not decode.
    pub fn get_many<'k>(&self, keys: impl IntoIterator<Item = &'k K::Item>) -> Result<Vec<Option<V::Item>>, DecodeError>
    where
        K::Item: 'k,
    {
        let (mut encoded, mut ends) = (Vec::new(), vec![0]);
        for key in keys {
            K::encode(key, &mut encoded);
            ends.push(encoded.len());
        }
        let mut found = Found::default();
        self.encoded.get_many(ends.windows(2).map(|ends| &encoded[ends[0]..ends[1]]), &mut found);
        found.iter().map(|value| value.map(V::decode).transpose()).collect()
    }

    /// Runs `read` on the encoded value without copying it. Counts as a use; see [`SharedCache::with`].
    pub fn with<R>(&self, key: &K::Item, read: impl FnOnce(&[u8]) -> R) -> Option<R> {
        self.encoded.with(&Self::encode_key(key), read)
    }

    /// A key's value; neither counts nor counts as a use.
    ///
    /// # Errors
    ///
    /// If the bytes do not decode.
    pub fn peek(&self, key: &K::Item) -> Result<Option<V::Item>, DecodeError> {
        let mut value = Vec::new();
        self.encoded.peek(&Self::encode_key(key), &mut value).then(|| V::decode(&value)).transpose()
    }

    /// Whether a key is there; neither counts nor counts as a use.
    pub fn contains(&self, key: &K::Item) -> bool {
        self.encoded.contains(&Self::encode_key(key))
    }

    /// Stores a value; what was evicted for it is dropped.
    ///
    /// # Errors
    ///
    /// See [`PushError`]; a value that the key had stays.
    pub fn put(&self, key: &K::Item, value: &V::Item) -> Result<Put, PushError> {
        let mut bytes = Vec::new();
        V::encode(value, &mut bytes);
        self.encoded.put(&Self::encode_key(key), &bytes)
    }

    /// Stores a value; what was evicted for it is appended to `evicted`.
    ///
    /// # Errors
    ///
    /// See [`PushError`]; a value that the key had stays. What was evicted all the same is in `evicted`.
    pub fn push(&self, key: &K::Item, value: &V::Item, evicted: &mut TypedEvicted<K, V>) -> Result<Put, PushError> {
        let mut bytes = Vec::new();
        V::encode(value, &mut bytes);
        self.encoded.push(&Self::encode_key(key), &bytes, &mut evicted.encoded)
    }

    /// Removes a key and returns its value.
    ///
    /// # Errors
    ///
    /// If the bytes do not decode; the key is removed all the same.
    pub fn remove(&self, key: &K::Item) -> Result<Option<V::Item>, DecodeError> {
        self.encoded.remove(&Self::encode_key(key)).map(|value| V::decode(&value)).transpose()
    }

    /// Removes and returns the entry that is next to be evicted.
    ///
    /// # Errors
    ///
    /// If the bytes do not decode; the entry is removed all the same.
    pub fn pop_lru(&self) -> Result<Option<Pair<K, V>>, DecodeError> {
        self.encoded.pop_lru().map(|(key, value)| Ok((K::decode(&key)?, V::decode(&value)?))).transpose()
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
    pub fn iter(&self) -> impl Iterator<Item = Result<Pair<K, V>, DecodeError>> + '_ {
        self.encoded.iter_with_values().map(|entry| {
            let value = entry.value.expect("the walk was asked for values");
            Ok((K::decode(&entry.key)?, V::decode(&value)?))
        })
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

/// Evicted entries, decoded on demand.
pub struct TypedEvicted<K: Codec, V: Codec> {
    encoded: Evicted,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K: Codec, V: Codec> Default for TypedEvicted<K, V> {
    fn default() -> Self {
        TypedEvicted { encoded: Evicted::default(), types: PhantomData }
    }
}

impl<K: Codec, V: Codec> TypedEvicted<K, V> {
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
    pub fn decode(&self) -> Result<Vec<Pair<K, V>>, DecodeError> {
        decode_all::<K, V>(self.encoded.iter())
    }
}

/// A typed cache taken apart.
pub struct TypedParts<K: Codec, V: Codec> {
    encoded: Parts,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K: Codec, V: Codec> TypedParts<K, V> {
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
    pub fn get(&self, key: &K::Item) -> Result<Option<V::Item>, DecodeError> {
        let mut bytes = Vec::new();
        K::encode(key, &mut bytes);
        self.encoded.get(&bytes).map(V::decode).transpose()
    }

    /// Keys and values in the order of eviction (policy `lru`: least recently used first).
    ///
    /// # Errors
    ///
    /// If bytes do not decode.
    pub fn decode(&self) -> Result<Vec<Pair<K, V>>, DecodeError> {
        decode_all::<K, V>(self.encoded.iter())
    }
}

fn decode_all<'a, K: Codec, V: Codec>(
    entries: impl Iterator<Item = (&'a [u8], &'a [u8])>,
) -> Result<Vec<Pair<K, V>>, DecodeError> {
    entries.map(|(key, value)| Ok((K::decode(key)?, V::decode(value)?))).collect()
}
