//! The library's cache: private to the process, or in memory that processes share.

use std::rc::Rc;

use pg_shared_lru::{Config, CreateError, Found, Locks, NoLocks, RobustLocks, SharedCache};

use crate::contender::{Bound, Contender, Figures, Refused, Settings};

/// One handle of the library's cache.
pub struct Slab<L: Locks> {
    cache: Rc<SharedCache<L>>,
    in_place: bool,
    copied: Vec<u8>,
}

impl Slab<NoLocks> {
    /// An empty cache of one thread.
    ///
    /// # Errors
    /// The settings do not suit it; the message says why.
    pub fn private(settings: &Settings) -> Result<Self, String> {
        Slab::made(SharedCache::private(&config(settings)?))
    }

    /// As [`Slab::private`], with this configuration.
    ///
    /// # Errors
    /// As [`Slab::private`].
    pub fn private_of(config: &Config) -> Result<Self, String> {
        Slab::made(SharedCache::private(config))
    }
}

impl Slab<RobustLocks> {
    /// An empty cache that children of the process share.
    ///
    /// # Errors
    /// As [`Slab::private`].
    pub fn shared_of(config: &Config) -> Result<Self, String> {
        Slab::made(SharedCache::shared_mapping(config))
    }
}

impl<L: Locks> Slab<L> {
    fn made(cache: Result<SharedCache<L>, CreateError>) -> Result<Self, String> {
        Ok(Slab::over(Rc::new(cache.map_err(|error| format!("slab: {error}"))?)))
    }

    /// This cache, whoever else has it.
    pub fn over(cache: Rc<SharedCache<L>>) -> Self {
        Slab { cache, in_place: false, copied: Vec::new() }
    }

    /// Reads see the value where it lies instead of copying it out.
    pub fn in_place(self, in_place: bool) -> Self {
        Slab { in_place, ..self }
    }

    /// The cache itself.
    pub fn cache(&self) -> &Rc<SharedCache<L>> {
        &self.cache
    }

    /// Entries in it.
    pub fn entries(&self) -> u64 {
        self.cache.len()
    }

    /// Looks many keys up at once.
    pub fn get_many<'k>(&self, keys: impl IntoIterator<Item = &'k [u8]>, found: &mut Found) {
        self.cache.get_many(keys, found);
    }
}

/// What the settings ask for.
///
/// # Errors
/// The bound is none of this cache's.
pub fn config(settings: &Settings) -> Result<Config, String> {
    let config = match settings.bound {
        Bound::Entries { count, entry_bytes } => Config::entries(count, entry_bytes),
        Bound::Bytes(bytes) => {
            Config::bytes(usize::try_from(bytes).map_err(|_| "slab: the region is larger than memory can be")?)
        }
        Bound::ValueBytes(_) => {
            return Err("slab: only lru and s3-fifo can count values alone; give bytes or entries".into());
        }
    };
    let config = config.policy(settings.policy);
    let config = settings.partitions.into_iter().fold(config, Config::partitions);
    Ok(settings.slab_bytes.into_iter().fold(config, Config::slab_bytes))
}

impl<L: Locks> Contender for Slab<L> {
    fn name(&self) -> &'static str {
        "slab"
    }

    fn policy(&self) -> &'static str {
        self.cache.resolved().policy.name()
    }

    #[inline]
    fn read(&mut self, key: &[u8], see: &mut dyn FnMut(&[u8])) -> bool {
        if self.in_place {
            return self.cache.with(key, see).is_some();
        }
        let found = self.cache.get(key, &mut self.copied);
        if found {
            see(&self.copied);
        }
        found
    }

    #[inline]
    fn get(&mut self, key: &[u8], out: &mut Vec<u8>) -> bool {
        self.cache.get(key, out)
    }

    /// The engine itself counts what it refuses.
    #[inline]
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Refused> {
        self.cache.put(key, value).map(drop).map_err(Refused::Library)
    }

    fn figures(&self) -> Option<Figures> {
        let report = self.cache.memory_report();
        let stats = self.cache.stats();
        Some(Figures {
            region_bytes: Some(report.region_bytes),
            payload_bytes: report.payload_bytes,
            metadata_bytes: report.metadata_bytes,
            entries: report.entries,
            evictions: stats.evictions,
            refused: stats.refused,
            compactions: stats.compactions,
            slabs_moved: stats.slabs_moved,
            wipes: stats.resets,
        })
    }

    fn lost(&self) -> u64 {
        self.cache.stats().evictions
    }

    fn counted(&self) -> Option<(u64, u64)> {
        let stats = self.cache.stats();
        Some((stats.hits, stats.misses))
    }

    /// Private memory is a mapping, too.
    fn mapped_bytes(&self) -> u64 {
        self.cache.memory_report().region_bytes
    }

    fn validate(&self) -> Result<(), String> {
        self.cache.validate().map_err(|error| error.to_string())
    }
}
