//! The drop-in for a wrapper of the `lru` crate that counts: same surface, values kept as bytes.
//!
//! It stands where pgvectorscale has `LruCacheWithStats` (a builder's neighbour lists and quantized vectors): the
//! consumer changes the `use` line, and says of its key and value types how they are stored (see
//! [`StoredAs`](super::stored::StoredAs) and [`CacheValue`]; [`graph`](super::graph) has neighbour lists ready). An entry is then its encoded bytes and
//! [`ENTRY_METADATA_BYTES`](crate::ENTRY_METADATA_BYTES) in a compacting region, instead of a node, a table slot and
//! what the value owns on the heap.
//!
//! Invariants:
//! - Every return value, the statistics and the order are those of such a wrapper. With [`LruCacheWithStats::new`] the
//!   capacity in entries is exact whatever the values' sizes: the region grows, and bytes never evict.
//! - A value that `get` returns lives until the next call: plain old data in the region itself, other types in the cache's
//!   one place for a decoded value, whose memory is used again.
//! - A push that panics (the value's own `encode`, a key that is too long, no memory) has changed nothing.
//! - The first eviction by a push warns, once.
//!
//! Not here: sharing between processes; where bytes go and how regions grow (`store`). One thread uses a cache.
//!
//! Where this differs: a value is encoded when it is pushed and decoded when it is read, so identity (an address, an
//! `Rc`) does not survive; and where `lru` would abort for want of memory, `push` panics, which in PostgreSQL is an
//! error.

mod fit;
mod plain;
mod store;

use std::fmt;
use std::marker::PhantomData;
use std::num::NonZero;

use self::plain::PlainStore;
use self::store::{ByteBound, Entry, EntryBound, Store};
use super::codec::{Codec, DecodeError};
use super::stored::{CacheKey, CacheValue, key_bytes, value_bytes};
use super::typed::debug_types;
use crate::engine::config::Config;
use crate::engine::config_error::ConfigError;
use crate::engine::outcomes::Put;
use crate::shared::open::CreateError;

/// The least memory that [`LruCacheWithStats::with_memory`] takes: where a budget is divided among workers,
/// `(budget / workers.max(1)).max(MIN_MEMORY_BYTES)` is never refused for being too small. So much is enough
/// for a [`Config::bytes`] that says no more, too, whatever its policy.
pub const MIN_MEMORY_BYTES: usize = 160 << 10;

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

impl CacheStats {
    #[inline]
    fn count_read(&mut self, found: bool) {
        *(if found { &mut self.hits } else { &mut self.misses }) += 1;
    }
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
pub struct LruCacheWithStats<K: CacheKey, V: CacheValue<K>> {
    entries: TypedStore<K, V>,
    name: String,
    stats: CacheStats,
    warned: bool,
    warn: fn(&str),
}

impl<K: CacheKey, V: CacheValue<K>> fmt::Debug for LruCacheWithStats<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.entries.describe(f, "LruCacheWithStats")
    }
}

impl<K: CacheKey, V: CacheValue<K>> LruCacheWithStats<K, V> {
    /// A cache of at most `capacity` entries. Its memory starts small and grows with what is stored.
    ///
    /// `name` is what the warning of the first eviction calls the cache.
    ///
    /// # Panics
    ///
    /// If the system gives no memory.
    pub fn new(capacity: NonZero<usize>, name: &str) -> Self {
        Self::over(TypedStore::new(capacity), name)
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
    /// Fewer than [`MIN_MEMORY_BYTES`], more than 128 GiB, or no memory.
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
        Ok(Self::over(TypedStore::with_memory(bytes)?, name))
    }

    fn over(entries: TypedStore<K, V>, name: &str) -> Self {
        LruCacheWithStats { entries, name: name.to_owned(), stats: CacheStats::default(), warned: false, warn }
    }

    /// Sets who is told of the first eviction. Default: a `WARNING` of PostgreSQL, or standard error without
    /// PostgreSQL.
    pub fn warn_with(mut self, warn: fn(&str)) -> Self {
        self.warn = warn;
        self
    }

    /// The most entries; `usize::MAX` where only bytes limit them: there [`len`](Self::len) and [`bytes`](Self::bytes) are
    /// what to print.
    pub fn cap(&self) -> NonZero<usize> {
        self.entries.cap()
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of all keys and values as they are stored, without what it takes to find and order them.
    pub fn bytes(&self) -> u64 {
        self.entries.bytes()
    }

    /// Whether a key is there. Counts a hit or a miss, but is no use of the entry.
    ///
    /// A [`get`](Self::get) of the same key that follows finds the entry without looking it up again.
    #[inline]
    pub fn contains(&mut self, key: &K) -> bool {
        let found = self.entries.contains(key);
        self.stats.count_read(found);
        found
    }

    /// A key's value, which becomes the most recently used. Counts a hit or a miss.
    ///
    /// Plain old data (numbers, arrays of them) of an alignment of at most 8 is returned where it lies, and costs no copy;
    /// another value is decoded to where the one before was.
    ///
    /// # Panics
    ///
    /// If the value does not decode what it encoded.
    #[inline]
    pub fn get(&mut self, key: &K) -> Option<&V> {
        let found = self.entries.get(key);
        self.stats.count_read(found.is_some());
        found
    }

    /// Stores a value, which becomes the most recently used. The least recently used entry is returned if it had to
    /// make way; where the key has a value, that is replaced, and nothing is returned (but see
    /// [`with_memory`](Self::with_memory)).
    ///
    /// # Panics
    ///
    /// If the value's `encode` panics; if the region must grow and the system gives no memory, or beyond 32 GiB; if the
    /// encoded key is longer than 65,535 bytes (with [`with_memory`](Self::with_memory) such an entry is displaced by its
    /// own push). The cache is as before then. Also if what is returned does not decode.
    pub fn push(&mut self, key: K, value: V) -> Option<(K, V)> {
        let (put, evicted) = self.entries.push(key, value);
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
    ///
    /// # Examples
    ///
    /// A line of progress for each 10,000 evictions, as pgvectorscale's wrapper prints it to `debug1`. Each entry that is
    /// handed out counts by itself, so a look after each sees every number:
    ///
    /// ```
    /// use pg_shared_lru::LruCacheWithStats;
    ///
    /// let mut cache = LruCacheWithStats::<u64, u64>::with_memory(1 << 20, "Numbers").unwrap().warn_with(|_| ());
    /// let mut lines = Vec::new(); // pgrx::debug1! in an extension
    /// for number in 0..100_000 {
    ///     let mut evicted = cache.push(number, number);
    ///     while let Some((_key, _value)) = evicted {
    ///         if cache.stats().evictions % 10_000 == 0 {
    ///             lines.push(format!("{} entries, {} bytes, {:?}", cache.len(), cache.bytes(), cache.stats()));
    ///         }
    ///         evicted = cache.pop_displaced();
    ///     }
    /// }
    /// assert_eq!(lines.len(), cache.stats().evictions / 10_000);
    /// assert!(lines.len() > 5);
    /// ```
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
pub struct LruParts<K: CacheKey, V: CacheValue<K>> {
    entries: TypedStore<K, V>,
}

impl<K: CacheKey, V: CacheValue<K>> fmt::Debug for LruParts<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.entries.describe(f, "LruParts")
    }
}

impl<K: CacheKey, V: CacheValue<K>> LruParts<K, V> {
    /// The most entries, as [`LruCacheWithStats::cap`].
    pub fn cap(&self) -> NonZero<usize> {
        self.entries.cap()
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
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
        self.entries.get(key)
    }
}

impl<K: CacheKey, V: CacheValue<K>> IntoIterator for LruParts<K, V> {
    type Item = (K, V);
    type IntoIter = LruPartsIter<K, V>;

    fn into_iter(self) -> LruPartsIter<K, V> {
        LruPartsIter { entries: self.entries }
    }
}

/// Keys and values, least recently used first.
pub struct LruPartsIter<K: CacheKey, V: CacheValue<K>> {
    entries: TypedStore<K, V>,
}

impl<K: CacheKey, V: CacheValue<K>> fmt::Debug for LruPartsIter<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.entries.describe(f, "LruPartsIter")
    }
}

impl<K: CacheKey, V: CacheValue<K>> Iterator for LruPartsIter<K, V> {
    type Item = (K, V);

    fn next(&mut self) -> Option<(K, V)> {
        self.entries.pop_lru()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let len = self.entries.len();
        (len, Some(len))
    }
}

impl<K: CacheKey, V: CacheValue<K>> ExactSizeIterator for LruPartsIter<K, V> {}
impl<K: CacheKey, V: CacheValue<K>> std::iter::FusedIterator for LruPartsIter<K, V> {}

/// A store with types: small plain data as it is, everything else encoded.
enum TypedStore<K, V> {
    Plain { store: PlainStore<K, V>, cap: NonZero<usize> },
    Encoded(Box<EncodedStore<K, V>>),
}

struct EncodedStore<K, V> {
    store: Store,
    key_buffer: Vec<u8>,
    value_buffer: Vec<u8>,
    /// The value that was decoded last.
    decoded: Option<V>,
    keys: PhantomData<fn(K)>,
}

impl<K: CacheKey, V: CacheValue<K>> TypedStore<K, V> {
    const IS_PLAIN: bool =
        K::Codec::IS_PLAIN && V::IS_PLAIN && PlainStore::<K, V>::ENTRY_BYTES <= PlainStore::<K, V>::MAX_ENTRY_BYTES;

    fn new(capacity: NonZero<usize>) -> Self {
        if Self::IS_PLAIN {
            return TypedStore::Plain { store: PlainStore::new(capacity), cap: capacity };
        }
        TypedStore::encoded(Store::EntryBound(EntryBound::new(capacity)))
    }

    fn with_memory(bytes: usize) -> Result<Self, CreateError> {
        if bytes < MIN_MEMORY_BYTES {
            let (needed, slab_bytes) = (MIN_MEMORY_BYTES, Config::MIN_SLAB_BYTES);
            return Err(ConfigError::TooSmall { given: bytes, needed, partitions: 1, slab_bytes }.into());
        }
        if Self::IS_PLAIN {
            let store = PlainStore::with_memory(bytes).map_err(std::io::Error::other)?;
            return Ok(TypedStore::Plain { store, cap: NonZero::<usize>::MAX });
        }
        Ok(TypedStore::encoded(Store::ByteBound(ByteBound::new(bytes)?)))
    }

    fn encoded(store: Store) -> Self {
        let (key_buffer, value_buffer) = (Vec::new(), Vec::new());
        let encoded = EncodedStore { store, key_buffer, value_buffer, decoded: None, keys: PhantomData };
        TypedStore::Encoded(Box::new(encoded))
    }

    fn cap(&self) -> NonZero<usize> {
        match self {
            TypedStore::Plain { cap, .. } => *cap,
            TypedStore::Encoded(encoded) => encoded.store.cap(),
        }
    }

    fn len(&self) -> usize {
        match self {
            TypedStore::Plain { store, .. } => store.len(),
            TypedStore::Encoded(encoded) => encoded.store.len(),
        }
    }

    fn bytes(&self) -> u64 {
        match self {
            TypedStore::Plain { store, .. } => (store.len() * (size_of::<K>() + size_of::<V>())) as u64,
            TypedStore::Encoded(encoded) => encoded.store.bytes(),
        }
    }

    #[inline]
    fn contains(&mut self, key: &K) -> bool {
        match self {
            TypedStore::Plain { store, .. } => store.contains(key),
            TypedStore::Encoded(encoded) => encoded.contains(key),
        }
    }

    #[inline]
    fn get(&mut self, key: &K) -> Option<&V> {
        match self {
            TypedStore::Plain { store, .. } => store.get(key),
            TypedStore::Encoded(encoded) => encoded.get(key),
        }
    }

    fn push(&mut self, key: K, value: V) -> (Put, Option<(K, V)>) {
        match self {
            TypedStore::Plain { store, .. } => store.push(key, value),
            TypedStore::Encoded(encoded) => encoded.push(&key, &value),
        }
    }

    fn pop_displaced(&mut self) -> Option<(K, V)> {
        match self {
            TypedStore::Plain { .. } => None,
            TypedStore::Encoded(encoded) => encoded.store.pop_displaced().map(decode_entry),
        }
    }

    fn pop_lru(&mut self) -> Option<(K, V)> {
        match self {
            TypedStore::Plain { store, .. } => store.pop_lru(),
            TypedStore::Encoded(encoded) => encoded.store.pop_lru().map(decode_entry),
        }
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
        let mut described = debug_types::<K, V>(f, name);
        described.field("len", &self.len()).field("cap", &self.cap()).finish_non_exhaustive()
    }
}

impl<K: CacheKey, V: CacheValue<K>> EncodedStore<K, V> {
    #[inline(never)]
    fn contains(&mut self, key: &K) -> bool {
        self.store.contains(key_bytes(key, &mut self.key_buffer))
    }

    #[inline(never)]
    fn get(&mut self, key: &K) -> Option<&V> {
        let bytes = self.store.get(key_bytes(key, &mut self.key_buffer), &mut self.value_buffer)?;
        if let Some(value) = V::view(key, bytes) {
            return Some(value);
        }
        let decoded = &mut self.decoded;
        match decoded {
            Some(value) => expect_decoded(value.decode_into(key, bytes)),
            None => *decoded = Some(expect_decoded(V::decode(key, bytes))),
        }
        decoded.as_ref()
    }

    fn push(&mut self, key: &K, value: &V) -> (Put, Option<(K, V)>) {
        let key_bytes = key_bytes(key, &mut self.key_buffer);
        let value_bytes = value_bytes(key, value, &mut self.value_buffer);
        let (put, evicted) = self.store.push(key_bytes, value_bytes);
        (put, evicted.map(decode_entry))
    }
}

fn decode_entry<K: CacheKey, V: CacheValue<K>>((key, value): Entry) -> (K, V) {
    let key = expect_decoded(K::Codec::decode(&key));
    let value = expect_decoded(V::decode(&key, &value));
    (key, value)
}

/// The bytes are this cache's own, so a failure is a defect of the codec.
fn expect_decoded<T>(decoded: Result<T, DecodeError>) -> T {
    decoded.unwrap_or_else(|error| panic!("a codec does not decode what it encoded: {error}"))
}

#[cfg(not(feature = "postgres"))]
fn warn(text: &str) {
    eprintln!("WARNING:  {text}");
}

#[cfg(feature = "postgres")]
fn warn(text: &str) {
    pgrx::warning!("{text}");
}
