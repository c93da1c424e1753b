//! A cache of keys and values of given types: a [`SharedCache`] behind two codecs.

use std::marker::PhantomData;
use std::ptr::NonNull;

use super::codec::{type_tag, Codec, DecodeError};
use crate::core::config::Config;
use crate::core::evicted::Evicted;
use crate::core::layout::AttachError;
use crate::core::partition::{PushError, Put};
use crate::core::report::Stats;
use crate::shared::cache::{CreateError, SharedCache};
use crate::shared::lock::{Locks, NoLocks};
use crate::shared::parts::Parts;

/// A key and a value.
pub type Pair<K, V> = (<K as Codec>::Item, <V as Codec>::Item);

/// A typed cache.
///
/// # Examples
///
/// ```
/// use pg_shared_lru::{Config, Pod, Postcard, TypedCache};
/// let cache = TypedCache::<Pod<u64>, Postcard<Vec<u32>>>::private(&Config::entries(2, 256)).unwrap();
/// cache.push(&1, &vec![10, 11]).unwrap();
/// cache.push(&2, &vec![]).unwrap();
/// let (_, evicted) = cache.push(&3, &vec![30]).unwrap();
/// assert_eq!(evicted.decode().unwrap(), [(1, vec![10, 11])]);
/// assert_eq!(cache.get(&2).unwrap(), Some(vec![]));
/// let parts = cache.into_parts();
/// assert_eq!(parts.decode().unwrap(), [(3, vec![30]), (2, vec![])]);
/// ```
pub struct TypedCache<K: Codec, V: Codec, L: Locks = NoLocks> {
    bytes: SharedCache<L>,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K: Codec, V: Codec> TypedCache<K, V, NoLocks> {
    /// A cache of this process and thread alone.
    ///
    /// # Errors
    ///
    /// A wrong configuration, or no memory.
    pub fn private(config: &Config) -> Result<Self, CreateError> {
        Ok(TypedCache { bytes: SharedCache::private(config)?, types: PhantomData })
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
        let bytes = unsafe { SharedCache::create(memory, bytes, config, type_tag::<K, V>(), locks)? };
        Ok(TypedCache { bytes, types: PhantomData })
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
        let bytes = unsafe { SharedCache::attach(memory, bytes, type_tag::<K, V>(), locks)? };
        Ok(TypedCache { bytes, types: PhantomData })
    }

    /// The cache of bytes behind: for everything that needs no types.
    pub fn bytes(&self) -> &SharedCache<L> {
        &self.bytes
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
        self.bytes.with(&Self::encode_key(key), V::decode).transpose()
    }

    /// Runs `read` on the encoded value without copying it. Counts as a use; see [`SharedCache::with`].
    pub fn with<R>(&self, key: &K::Item, read: impl FnOnce(&[u8]) -> R) -> Option<R> {
        self.bytes.with(&Self::encode_key(key), read)
    }

    /// A key's value; neither counts nor counts as a use.
    ///
    /// # Errors
    ///
    /// If the bytes do not decode.
    pub fn peek(&self, key: &K::Item) -> Result<Option<V::Item>, DecodeError> {
        let mut value = Vec::new();
        self.bytes.peek(&Self::encode_key(key), &mut value).then(|| V::decode(&value)).transpose()
    }

    /// Whether a key is there; neither counts nor counts as a use.
    pub fn contains(&self, key: &K::Item) -> bool {
        self.bytes.contains(&Self::encode_key(key))
    }

    /// Stores a value and returns what was evicted for it.
    ///
    /// # Errors
    ///
    /// See [`PushError`]; a value that the key had stays.
    pub fn push(&self, key: &K::Item, value: &V::Item) -> Result<(Put, TypedEvicted<K, V>), PushError> {
        let mut bytes = Vec::new();
        V::encode(value, &mut bytes);
        let mut evicted = Evicted::default();
        let put = self.bytes.push(&Self::encode_key(key), &bytes, &mut evicted)?;
        Ok((put, TypedEvicted { bytes: evicted, types: PhantomData }))
    }

    /// Removes a key and returns its value.
    ///
    /// # Errors
    ///
    /// If the bytes do not decode; the key is removed all the same.
    pub fn remove(&self, key: &K::Item) -> Result<Option<V::Item>, DecodeError> {
        self.bytes.remove(&Self::encode_key(key)).map(|value| V::decode(&value)).transpose()
    }

    /// Removes and returns the entry that is next to be evicted.
    ///
    /// # Errors
    ///
    /// If the bytes do not decode; the entry is removed all the same.
    pub fn pop_lru(&self) -> Result<Option<Pair<K, V>>, DecodeError> {
        self.bytes.pop_lru().map(|(key, value)| Ok((K::decode(&key)?, V::decode(&value)?))).transpose()
    }

    /// Takes every entry out; see [`SharedCache::into_parts`].
    pub fn into_parts(self) -> TypedParts<K, V> {
        TypedParts { bytes: self.bytes.into_parts(), types: PhantomData }
    }
}

/// Evicted entries, decoded on demand.
pub struct TypedEvicted<K: Codec, V: Codec> {
    bytes: Evicted,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K: Codec, V: Codec> TypedEvicted<K, V> {
    /// The encoded entries.
    pub fn bytes(&self) -> &Evicted {
        &self.bytes
    }

    /// Keys and values, first evicted first.
    ///
    /// # Errors
    ///
    /// If bytes do not decode.
    pub fn decode(&self) -> Result<Vec<Pair<K, V>>, DecodeError> {
        decode_all::<K, V>(self.bytes.iter())
    }
}

/// A typed cache taken apart.
pub struct TypedParts<K: Codec, V: Codec> {
    bytes: Parts,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K: Codec, V: Codec> TypedParts<K, V> {
    /// The encoded entries.
    pub fn bytes(&self) -> &Parts {
        &self.bytes
    }

    /// The cache's counters before it was drained.
    pub fn stats(&self) -> Stats {
        self.bytes.stats
    }

    /// The value of a key.
    ///
    /// # Errors
    ///
    /// If the bytes do not decode.
    pub fn get(&self, key: &K::Item) -> Result<Option<V::Item>, DecodeError> {
        let mut bytes = Vec::new();
        K::encode(key, &mut bytes);
        self.bytes.get(&bytes).map(V::decode).transpose()
    }

    /// Keys and values, least recently used first.
    ///
    /// # Errors
    ///
    /// If bytes do not decode.
    pub fn decode(&self) -> Result<Vec<Pair<K, V>>, DecodeError> {
        decode_all::<K, V>(self.bytes.iter())
    }
}

fn decode_all<'a, K: Codec, V: Codec>(
    entries: impl Iterator<Item = (&'a [u8], &'a [u8])>,
) -> Result<Vec<Pair<K, V>>, DecodeError> {
    entries.map(|(key, value)| Ok((K::decode(key)?, V::decode(value)?))).collect()
}
