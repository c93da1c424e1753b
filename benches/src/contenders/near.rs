//! The library's near cache: decoded values of one process over a cache that processes share.

use std::num::NonZeroUsize;

use pg_shared_lru::{CacheKey, Config, NearCache, RobustLocks, TypedCache};

use super::FixedKey;
use crate::contender::{Contender, Figures, Refused};

type Shared<K> = TypedCache<K, Vec<u8>, RobustLocks>;

/// A near cache of so many entries over a shared mapping.
pub struct Near<K: FixedKey + CacheKey> {
    cache: NearCache<Box<Shared<K>>, K, Vec<u8>>,
}

impl<K: FixedKey + CacheKey> Near<K> {
    /// Both empty.
    ///
    /// # Errors
    /// The configuration is wrong, or there are no entries.
    pub fn over(config: &Config, entries: usize) -> Result<Self, String> {
        let entries = NonZeroUsize::new(entries).ok_or("near: at least one entry")?;
        let shared = TypedCache::shared_mapping(config).map_err(|error| format!("near: {error}"))?;
        Ok(Near { cache: NearCache::new(Box::new(shared), entries) })
    }
}

impl<K: FixedKey + CacheKey> Contender for Near<K> {
    fn name(&self) -> &'static str {
        "near"
    }

    /// Of the shared cache.
    fn policy(&self) -> &'static str {
        self.cache.shared().encoded().resolved().policy.name()
    }

    #[inline]
    fn read(&mut self, key: &[u8], see: &mut dyn FnMut(&[u8])) -> bool {
        let value = self.cache.get(&K::from_bytes(key)).expect("bytes are bytes");
        value.map(|value| see(value)).is_some()
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Refused> {
        self.cache.put(K::from_bytes(key), value.to_vec()).map(drop).map_err(Refused::Library)
    }

    /// Of the shared cache; the near one repeats some of its entries on the heap.
    fn figures(&self) -> Option<Figures> {
        let report = self.cache.shared().memory_report();
        Some(Figures {
            region_bytes: Some(report.region_bytes),
            payload_bytes: report.payload_bytes,
            metadata_bytes: report.metadata_bytes,
            entries: report.entries,
            evictions: self.cache.shared().stats().evictions,
            ..Figures::default()
        })
    }

    fn mapped_bytes(&self) -> u64 {
        self.cache.shared().memory_report().region_bytes
    }

    fn validate(&self) -> Result<(), String> {
        self.cache.shared().validate().map_err(|error| error.to_string())
    }
}
