//! foyer's memory cache, LRU.

use std::sync::Arc;

use bench::contender::{Contender, Figures, Refused};
use bench::contenders::FixedKey;
use foyer_memory::{Cache, CacheBuilder, EvictionConfig, LruConfig};

use super::{Key, entries_alone};

pub struct Foyer(Cache<Key, Arc<[u8]>>);

impl Foyer {
    pub fn new(entries: usize) -> Self {
        let eviction = EvictionConfig::Lru(LruConfig::default());
        Foyer(CacheBuilder::new(entries).with_eviction_config(eviction).build())
    }
}

impl Contender for Foyer {
    fn name(&self) -> &'static str {
        "foyer"
    }

    fn policy(&self) -> &'static str {
        "lru"
    }

    fn read(&mut self, key: &[u8], see: &mut dyn FnMut(&[u8])) -> bool {
        self.0.get(&Key::from_bytes(key)).map(|entry| see(entry.value())).is_some()
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Refused> {
        self.0.insert(Key::from_bytes(key), Arc::from(value));
        Ok(())
    }

    /// Each entry weighs 1.
    fn figures(&self) -> Option<Figures> {
        entries_alone(self.0.usage() as u64)
    }
}
