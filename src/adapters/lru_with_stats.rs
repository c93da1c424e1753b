//! The drop-in for a wrapper of the `lru` crate that counts: same surface, values kept as bytes.
//!
//! It stands where pgvectorscale has `LruCacheWithStats` (a builder's neighbour lists and quantized vectors): the
//! consumer changes the `use` line, and says of its key and value types how they are stored (see [`CacheItem`] and
//! [`CacheValue`]; `neighbors` has neighbour lists ready). An entry is then its encoded bytes and
//! [`ENTRY_METADATA_BYTES`](crate::ENTRY_METADATA_BYTES) in a compacting region, instead of a node, a table slot and
//! what the value owns on the heap.
//!
//! Invariants:
//! - Every return value, the statistics and the order are those of such a wrapper. With [`LruCacheWithStats::new`] the
//!   capacity in entries is exact whatever the values' sizes: the region grows, and bytes never evict.
//! - A value that `get` returns lives in the cache's one place for it, until the next call; the memory of what was
//!   there before is used again.
//! - The first eviction by a push warns, once.
//!
//! Not here: sharing between processes; where bytes go and how regions grow (`lru_store`). One thread uses a cache.
//!
//! Where this differs: a value is encoded when it is pushed and decoded when it is read, so identity (an address, an
//! `Rc`) does not survive; and where `lru` would abort for want of memory, `push` panics, which in PostgreSQL is an
//! error.

use std::marker::PhantomData;
use std::num::NonZero;

use super::codec::{Codec, DecodeError};
use super::item::{CacheItem, CacheValue};
use super::lru_store::{Entry, Filled, Growing, Store};
use crate::engine::partition::Put;
use crate::shared::cache::CreateError;

/// What a cache has done since it was made.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Pushes of a key that was not there.
    pub inserts: usize,
    /// Pushes of a key that was there.
    pub updates: usize,
    /// Calls of `get` and `contains` that found their key.
    pub hits: usize,
    /// Calls of `get` and `contains` that did not.
    pub misses: usize,
    /// Entries that a push or `pop_lru` handed out.
    pub evictions: usize,
}

/// An exact LRU cache of one thread that counts, for keys and values of any size.
///
/// # Examples
///
/// ```
/// use std::num::NonZero;
///
/// use pg_shared_lru::LruCacheWithStats;
///
/// let mut cache = LruCacheWithStats::<u32, String>::new(NonZero::new(2).unwrap(), "Names").warn_with(|_| ());
/// assert_eq!(cache.push(1, "one".to_owned()), None);
/// assert_eq!(cache.push(2, "two".to_owned()), None);
/// assert_eq!(cache.get(&1).map(String::as_str), Some("one"));
/// assert_eq!(cache.push(3, "three".to_owned()), Some((2, "two".to_owned())));
/// assert!(!cache.contains(&2));
///
/// let (parts, stats) = cache.into_parts();
/// assert_eq!((stats.inserts, stats.hits, stats.misses, stats.evictions), (3, 1, 1, 1));
/// assert_eq!(parts.into_iter().collect::<Vec<_>>(), [(1, "one".to_owned()), (3, "three".to_owned())]);
/// ```
pub struct LruCacheWithStats<K: CacheItem, V: CacheValue<K>> {
    entries: Entries<K, V>,
    name: String,
    stats: CacheStats,
    warned: bool,
    warn: fn(&str),
}

impl<K: CacheItem, V: CacheValue<K>> LruCacheWithStats<K, V> {
    /// A cache of at most `capacity` entries. Its memory starts small and grows with what is stored.
    ///
    /// `name` is what the warning of the first eviction calls the cache.
    ///
    /// # Panics
    ///
    /// If the system gives no memory.
    pub fn new(capacity: NonZero<usize>, name: &str) -> Self {
        Self::over(Store::Growing(Growing::new(capacity)), name)
    }

    /// A cache whose entries, with all that is needed to find and order them, take `bytes` and no more.
    ///
    /// Memory is taken as it is needed. Once, before half of it is used, the entries move to a region whose slot sizes
    /// fit theirs. What makes way when it is full is the least recently used, but for a few entries that the engine
    /// gives up to free a whole slab of its directory.
    ///
    /// A large value may displace several entries, and so may the replacement of a value: [`push`](Self::push) hands
    /// back the first, also where it replaces, and [`pop_displaced`](Self::pop_displaced) the others. Take them back
    /// after each push. Until then they stay in the process's memory and are entries of the cache as before, and later
    /// pushes hand them back too: so a consumer that knows nothing of them loses none, and there are never more entries
    /// than once fitted the region. A value that needs more than a quarter of the region is displaced by its own push.
    ///
    /// # Errors
    ///
    /// Too few bytes for a cache (about 200,000), more than 128 GiB, or no memory.
    ///
    /// # Examples
    ///
    /// ```
    /// use pg_shared_lru::LruCacheWithStats;
    ///
    /// let mut cache = LruCacheWithStats::<u64, Vec<u8>>::with_memory(1 << 20, "Pages").unwrap().warn_with(|_| ());
    /// let mut spilled = 0;
    /// for number in 0..1000 {
    ///     let mut evicted = cache.push(number, vec![0; 1500 + number as usize]);
    ///     while let Some((_key, _value)) = evicted {
    ///         spilled += 1;
    ///         evicted = cache.pop_displaced();
    ///     }
    /// }
    /// assert_eq!((cache.len() + spilled, cache.stats().evictions), (1000, spilled));
    /// ```
    pub fn with_memory(bytes: usize, name: &str) -> Result<Self, CreateError> {
        Ok(Self::over(Store::Filled(Filled::new(bytes)?), name))
    }

    fn over(store: Store, name: &str) -> Self {
        let stats = CacheStats::default();
        LruCacheWithStats { entries: Entries::new(store), name: name.to_owned(), stats, warned: false, warn }
    }

    /// Sets who is told of the first eviction. Default: a `WARNING` of PostgreSQL, or standard error without
    /// PostgreSQL.
    pub fn warn_with(mut self, warn: fn(&str)) -> Self {
        self.warn = warn;
        self
    }

    /// The most entries; `usize::MAX` where only bytes limit them.
    pub fn cap(&self) -> NonZero<usize> {
        self.entries.store.cap()
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.store.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of all keys and values as they are stored, without what it takes to find and order them.
    pub fn bytes(&self) -> u64 {
        self.entries.store.bytes()
    }

    /// Whether a key is there. Counts a hit or a miss, but is no use of the entry.
    pub fn contains(&mut self, key: &K) -> bool {
        let found = self.entries.contains(key);
        self.count_read(found);
        found
    }

    /// A key's value, which becomes the most recently used. Counts a hit or a miss.
    ///
    /// # Panics
    ///
    /// If the value does not decode what it encoded.
    pub fn get(&mut self, key: &K) -> Option<&V> {
        let found = self.entries.find(key);
        self.count_read(found);
        found.then(|| self.entries.found())
    }

    fn count_read(&mut self, found: bool) {
        let counter = if found { &mut self.stats.hits } else { &mut self.stats.misses };
        *counter += 1;
    }

    /// Stores a value, which becomes the most recently used. The least recently used entry is returned if it had to
    /// make way; where the key has a value, that is replaced, and nothing is returned (but see
    /// [`with_memory`](Self::with_memory)).
    ///
    /// # Panics
    ///
    /// If the region must grow and the system gives no memory, or beyond 32 GiB; if the encoded key is longer than
    /// 65,535 bytes (with [`with_memory`](Self::with_memory) such an entry is displaced by its own push); if what is
    /// returned does not decode.
    pub fn push(&mut self, key: K, value: V) -> Option<(K, V)> {
        let (put, evicted) = self.entries.push(&key, &value);
        let counter = if put == Put::Inserted { &mut self.stats.inserts } else { &mut self.stats.updates };
        *counter += 1;
        let evicted = evicted?;
        self.note_eviction();
        Some(evicted)
    }

    /// The next entry that has been displaced and not handed back, after a push into a cache
    /// [`with_memory`](Self::with_memory); always `None` in one with a capacity in entries.
    ///
    /// # Panics
    ///
    /// If the entry does not decode.
    pub fn pop_displaced(&mut self) -> Option<(K, V)> {
        let displaced = self.entries.pop_displaced()?;
        self.note_eviction();
        Some(displaced)
    }

    fn note_eviction(&mut self) {
        self.stats.evictions += 1;
        if !self.warned {
            self.warned = true;
            (self.warn)(&format!(
                "the {} cache is full after {} insertions, with {} entries; consider increasing maintenance_work_mem",
                self.name,
                self.stats.inserts,
                self.len()
            ));
        }
    }

    /// Removes and returns the least recently used entry. Counts an eviction.
    ///
    /// # Panics
    ///
    /// If the entry does not decode.
    pub fn pop_lru(&mut self) -> Option<(K, V)> {
        let popped = self.entries.pop_lru()?;
        self.stats.evictions += 1;
        Some(popped)
    }

    /// What has been counted.
    pub fn stats(&self) -> &CacheStats {
        &self.stats
    }

    /// The entries and the statistics. The entries stay where they are; nothing is copied.
    pub fn into_parts(self) -> (LruParts<K, V>, CacheStats) {
        (LruParts { entries: self.entries }, self.stats)
    }
}

/// The entries of a cache whose counting is over.
///
/// As the `lru` crate's cache, which the wrapper's `into_parts` gives: it can still be asked, and iterates by value
/// over keys and values, least recently used first. The memory of entries that were passed is not needed any more, so
/// iterating takes no second copy of them.
pub struct LruParts<K: CacheItem, V: CacheValue<K>> {
    entries: Entries<K, V>,
}

impl<K: CacheItem, V: CacheValue<K>> LruParts<K, V> {
    /// The most entries, as [`LruCacheWithStats::cap`].
    pub fn cap(&self) -> NonZero<usize> {
        self.entries.store.cap()
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.store.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A key's value, which becomes the most recently used.
    ///
    /// # Panics
    ///
    /// If the value does not decode what it encoded.
    pub fn get(&mut self, key: &K) -> Option<&V> {
        self.entries.find(key).then(|| self.entries.found())
    }
}

impl<K: CacheItem, V: CacheValue<K>> IntoIterator for LruParts<K, V> {
    type Item = (K, V);
    type IntoIter = LruPartsIter<K, V>;

    fn into_iter(self) -> LruPartsIter<K, V> {
        LruPartsIter { entries: self.entries }
    }
}

/// Keys and values, least recently used first.
pub struct LruPartsIter<K: CacheItem, V: CacheValue<K>> {
    entries: Entries<K, V>,
}

impl<K: CacheItem, V: CacheValue<K>> Iterator for LruPartsIter<K, V> {
    type Item = (K, V);

    fn next(&mut self) -> Option<(K, V)> {
        self.entries.pop_lru()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let len = self.entries.store.len();
        (len, Some(len))
    }
}

impl<K: CacheItem, V: CacheValue<K>> ExactSizeIterator for LruPartsIter<K, V> {}
impl<K: CacheItem, V: CacheValue<K>> std::iter::FusedIterator for LruPartsIter<K, V> {}

/// A store with types.
struct Entries<K, V> {
    store: Store,
    key_bytes: Vec<u8>,
    value_bytes: Vec<u8>,
    /// The value that was read last.
    found: Option<V>,
    keys: PhantomData<fn(K)>,
}

impl<K: CacheItem, V: CacheValue<K>> Entries<K, V> {
    fn new(store: Store) -> Self {
        Entries { store, key_bytes: Vec::new(), value_bytes: Vec::new(), found: None, keys: PhantomData }
    }

    fn encode_key(&mut self, key: &K) {
        self.key_bytes.clear();
        K::Codec::encode(key, &mut self.key_bytes);
    }

    fn contains(&mut self, key: &K) -> bool {
        self.encode_key(key);
        self.store.contains(&self.key_bytes)
    }

    /// Decodes a key's value to where [`Entries::found`] finds it.
    fn find(&mut self, key: &K) -> bool {
        self.encode_key(key);
        if !self.store.get(&self.key_bytes, &mut self.value_bytes) {
            return false;
        }
        match &mut self.found {
            Some(found) => expect_decoded(found.decode_into(key, &self.value_bytes)),
            None => self.found = Some(expect_decoded(V::decode(key, &self.value_bytes))),
        }
        true
    }

    fn found(&self) -> &V {
        self.found.as_ref().expect("the value that was just found")
    }

    fn push(&mut self, key: &K, value: &V) -> (Put, Option<(K, V)>) {
        self.encode_key(key);
        self.value_bytes.clear();
        value.encode(key, &mut self.value_bytes);
        let (put, evicted) = self.store.push(&self.key_bytes, &self.value_bytes);
        (put, evicted.map(decode_entry))
    }

    fn pop_displaced(&mut self) -> Option<(K, V)> {
        self.store.pop_displaced().map(decode_entry)
    }

    fn pop_lru(&mut self) -> Option<(K, V)> {
        self.store.pop_lru().map(decode_entry)
    }
}

fn decode_entry<K: CacheItem, V: CacheValue<K>>((key, value): Entry) -> (K, V) {
    let key = expect_decoded(K::Codec::decode(&key));
    let value = expect_decoded(V::decode(&key, &value));
    (key, value)
}

/// The bytes are this cache's own, so a failure is a defect of the codec.
fn expect_decoded<T>(decoded: Result<T, DecodeError>) -> T {
    decoded.unwrap_or_else(|error| panic!("a codec does not decode what it encoded: {error}"))
}

#[cfg(not(feature = "pg15"))]
fn warn(text: &str) {
    eprintln!("WARNING:  {text}");
}

#[cfg(feature = "pg15")]
fn warn(text: &str) {
    pgrx::warning!("{text}");
}
