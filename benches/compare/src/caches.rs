//! The caches, behind one face.
//!
//! | name          | what                                                                       | a read gives       |
//! |---------------|----------------------------------------------------------------------------|--------------------|
//! | slab-lru      | the library, private memory, exact LRU                                     | a copy             |
//! | slab-in-place | the same by `with`                                                         | the bytes in place |
//! | slab-buckets  | as slab-lru, with a bucket for every eight entries instead of the default   | a copy             |
//! | slab-clock    | the library, private memory, CLOCK                                         | a copy             |
//! | slab-shared   | the library, memory that processes share, robust locks, exact LRU          | a copy             |
//! | slab-near     | a near cache with room for all entries over slab-shared                     | the bytes in place |
//! | bump          | the predecessor's design (`support/bump.rs`), wiped when full              | the bytes in place |
//! | lru           | the `lru` crate in a `Mutex`                                               | a shared pointer   |
//! | quick_cache   | `quick_cache::sync`                                                        | a shared pointer   |
//! | moka          | `moka::sync`                                                               | a shared pointer   |
//! | foyer         | foyer's memory cache, LRU                                                  | its entry's handle |
//!
//! Values of the caches on the heap are `Arc<[u8]>`, the usual way to hand out a value without copying it; making one
//! is part of an insert, as copying into the region is. The library's caches are shared between processes or can be;
//! the others are between threads of one process. Keys are arrays of 16 bytes.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use pg_shared_lru::{Config, Locks, NearCache, Policy, RobustLocks, SharedCache, TypedCache};

use crate::support::bump::{Bump, DEFAULT_BUCKET_COUNT};

pub type Key = [u8; 16];

/// Which cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    SlabLru,
    SlabInPlace,
    SlabBuckets,
    SlabClock,
    SlabShared,
    SlabNear,
    Bump,
    Lru,
    #[value(name = "quick_cache")]
    QuickCache,
    Moka,
    Foyer,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::SlabLru => "slab-lru",
            Kind::SlabInPlace => "slab-in-place",
            Kind::SlabBuckets => "slab-buckets",
            Kind::SlabClock => "slab-clock",
            Kind::SlabShared => "slab-shared",
            Kind::SlabNear => "slab-near",
            Kind::Bump => "bump",
            Kind::Lru => "lru",
            Kind::QuickCache => "quick_cache",
            Kind::Moka => "moka",
            Kind::Foyer => "foyer",
        }
    }
}

/// How large a cache is to be.
#[derive(Clone, Copy)]
pub struct Capacity {
    /// Of those that count entries.
    pub entries: usize,
    /// Of those that have a region: enough for about as many.
    pub region_bytes: usize,
}

/// A cache of byte strings.
pub trait Cache {
    /// Lets `see` have the value, if it is there.
    fn read(&mut self, key: &Key, see: &mut dyn FnMut(&[u8])) -> bool;

    fn insert(&mut self, key: &Key, value: &[u8]) -> Result<(), String>;

    /// Live entries, after what the cache does in the background is done.
    fn entries(&self) -> u64;

    /// Memory that the process's heap does not count.
    fn mapped_bytes(&self) -> u64 {
        0
    }

    fn validate(&self) -> Result<(), String> {
        Ok(())
    }
}

/// Makes an empty cache.
///
/// # Errors
/// It cannot be so large.
pub fn build(kind: Kind, capacity: Capacity) -> Result<Box<dyn Cache>, String> {
    let Capacity { entries, region_bytes } = capacity;
    let config = |policy| Config::bytes(region_bytes).policy(policy);
    let fault = |error: pg_shared_lru::CreateError| format!("{}: {error}", kind.name());
    let private = |config, in_place| -> Result<Box<dyn Cache>, String> {
        let cache = SharedCache::private(&config).map_err(fault)?;
        Ok(Box::new(Slab { cache, in_place, mapped_bytes: 0, copied: Vec::new() }))
    };
    Ok(match kind {
        Kind::SlabLru => private(config(Policy::Lru), false)?,
        Kind::SlabInPlace => private(config(Policy::Lru), true)?,
        Kind::SlabBuckets => private(config(Policy::Lru).buckets(entries.div_ceil(8) as u64), false)?,
        Kind::SlabClock => private(config(Policy::Clock), false)?,
        Kind::SlabShared => {
            let cache = SharedCache::shared_mapping(&config(Policy::Lru)).map_err(fault)?;
            Box::new(Slab { cache, in_place: false, mapped_bytes: region_bytes as u64, copied: Vec::new() })
        }
        Kind::SlabNear => {
            let entries = NonZeroUsize::new(entries).ok_or("slab-near: at least one entry")?;
            let cache = TypedCache::shared_mapping(&config(Policy::Lru)).map_err(fault)?;
            Box::new(Near { cache: NearCache::new(Box::new(cache), entries), mapped_bytes: region_bytes as u64 })
        }
        Kind::Bump => {
            // As many buckets as would do for so many entries: the predecessor's 1,024 would show chains and little else.
            let buckets = entries.next_power_of_two().max(DEFAULT_BUCKET_COUNT);
            Box::new(Bump::new(region_bytes, buckets, None).map_err(|error| error.to_string())?)
        }
        Kind::Lru => {
            let entries = NonZeroUsize::new(entries).ok_or("lru: at least one entry")?;
            Box::new(Locked(Mutex::new(lru::LruCache::new(entries))))
        }
        Kind::QuickCache => Box::new(quick_cache::sync::Cache::<Key, Arc<[u8]>>::new(entries)),
        Kind::Moka => Box::new(moka::sync::Cache::<Key, Arc<[u8]>>::new(entries as u64)),
        Kind::Foyer => Box::new(Foyer::new(entries)),
    })
}

struct Slab<L: Locks> {
    cache: SharedCache<L>,
    in_place: bool,
    mapped_bytes: u64,
    copied: Vec<u8>,
}

impl<L: Locks> Cache for Slab<L> {
    fn read(&mut self, key: &Key, see: &mut dyn FnMut(&[u8])) -> bool {
        if self.in_place {
            return self.cache.with(key, see).is_some();
        }
        let found = self.cache.get(key, &mut self.copied);
        if found {
            see(&self.copied);
        }
        found
    }

    fn insert(&mut self, key: &Key, value: &[u8]) -> Result<(), String> {
        self.cache.put(key, value).map(drop).map_err(|error| format!("slab: {error}"))
    }

    fn entries(&self) -> u64 {
        self.cache.len()
    }

    fn mapped_bytes(&self) -> u64 {
        self.mapped_bytes
    }

    fn validate(&self) -> Result<(), String> {
        self.cache.validate().map_err(|error| format!("slab: {error}"))
    }
}

type Shared = TypedCache<Key, Vec<u8>, RobustLocks>;

struct Near {
    cache: NearCache<Box<Shared>, Key, Vec<u8>>,
    mapped_bytes: u64,
}

impl Cache for Near {
    fn read(&mut self, key: &Key, see: &mut dyn FnMut(&[u8])) -> bool {
        self.cache.get(key).expect("bytes are bytes").map(|value| see(value)).is_some()
    }

    fn insert(&mut self, key: &Key, value: &[u8]) -> Result<(), String> {
        self.cache.put(*key, value.to_vec()).map(drop).map_err(|error| format!("slab-near: {error}"))
    }

    /// Of the shared cache; the near one repeats some of them.
    fn entries(&self) -> u64 {
        self.cache.shared().len()
    }

    fn mapped_bytes(&self) -> u64 {
        self.mapped_bytes
    }

    fn validate(&self) -> Result<(), String> {
        self.cache.shared().validate().map_err(|error| format!("slab-near: {error}"))
    }
}

impl Cache for Bump {
    fn read(&mut self, key: &Key, see: &mut dyn FnMut(&[u8])) -> bool {
        self.get(key).map(see).is_some()
    }

    fn insert(&mut self, key: &Key, value: &[u8]) -> Result<(), String> {
        self.put(key, value).map_err(|_| "bump: an entry that no region holds".to_owned())
    }

    fn entries(&self) -> u64 {
        Bump::entries(self)
    }

    fn validate(&self) -> Result<(), String> {
        Bump::validate(self)
    }
}

struct Locked(Mutex<lru::LruCache<Key, Arc<[u8]>>>);

impl Cache for Locked {
    /// The pointer is cloned, so that the value is read without the lock.
    fn read(&mut self, key: &Key, see: &mut dyn FnMut(&[u8])) -> bool {
        let found = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned();
        found.map(|value| see(&value)).is_some()
    }

    fn insert(&mut self, key: &Key, value: &[u8]) -> Result<(), String> {
        let value = Arc::from(value);
        let evicted = self.0.lock().unwrap_or_else(PoisonError::into_inner).push(*key, value);
        drop(evicted);
        Ok(())
    }

    fn entries(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len() as u64
    }
}

impl Cache for quick_cache::sync::Cache<Key, Arc<[u8]>> {
    fn read(&mut self, key: &Key, see: &mut dyn FnMut(&[u8])) -> bool {
        self.get(key).map(|value| see(&value)).is_some()
    }

    fn insert(&mut self, key: &Key, value: &[u8]) -> Result<(), String> {
        quick_cache::sync::Cache::insert(self, *key, Arc::from(value));
        Ok(())
    }

    fn entries(&self) -> u64 {
        self.len() as u64
    }
}

impl Cache for moka::sync::Cache<Key, Arc<[u8]>> {
    fn read(&mut self, key: &Key, see: &mut dyn FnMut(&[u8])) -> bool {
        self.get(key).map(|value| see(&value)).is_some()
    }

    fn insert(&mut self, key: &Key, value: &[u8]) -> Result<(), String> {
        moka::sync::Cache::insert(self, *key, Arc::from(value));
        Ok(())
    }

    fn entries(&self) -> u64 {
        self.run_pending_tasks();
        self.entry_count()
    }
}

struct Foyer(foyer_memory::Cache<Key, Arc<[u8]>>);

impl Foyer {
    fn new(entries: usize) -> Self {
        let eviction = foyer_memory::EvictionConfig::Lru(foyer_memory::LruConfig::default());
        Foyer(foyer_memory::CacheBuilder::new(entries).with_eviction_config(eviction).build())
    }
}

impl Cache for Foyer {
    fn read(&mut self, key: &Key, see: &mut dyn FnMut(&[u8])) -> bool {
        self.0.get(key).map(|entry| see(entry.value())).is_some()
    }

    fn insert(&mut self, key: &Key, value: &[u8]) -> Result<(), String> {
        self.0.insert(*key, Arc::from(value));
        Ok(())
    }

    /// Each entry weighs 1.
    fn entries(&self) -> u64 {
        self.0.usage() as u64
    }
}
