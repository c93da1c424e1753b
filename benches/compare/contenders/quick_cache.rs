//! `quick_cache::sync`.

use std::sync::Arc;

use bench::contender::{Contender, Figures, Refused};
use bench::contenders::FixedKey;
use quick_cache::sync::Cache;

use super::{Key, entries_alone};

pub struct Quick(Cache<Key, Arc<[u8]>>);

impl Quick {
    pub fn new(entries: usize) -> Self {
        Quick(Cache::new(entries))
    }
}

impl Contender for Quick {
    fn name(&self) -> &'static str {
        "quick_cache"
    }

    fn policy(&self) -> &'static str {
        "its own"
    }

    fn read(&mut self, key: &[u8], see: &mut dyn FnMut(&[u8])) -> bool {
        self.0.get(&Key::from_bytes(key)).map(|value| see(&value)).is_some()
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Refused> {
        self.0.insert(Key::from_bytes(key), Arc::from(value));
        Ok(())
    }

    fn figures(&self) -> Option<Figures> {
        entries_alone(self.0.len() as u64)
    }
}
