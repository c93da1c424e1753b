//! `moka::sync`.

use std::sync::Arc;

use bench::contender::{Contender, Figures, Refused};
use bench::contenders::FixedKey;
use moka::sync::Cache;

use super::{Key, entries_alone};

pub struct Moka(Cache<Key, Arc<[u8]>>);

impl Moka {
    pub fn new(entries: usize) -> Self {
        Moka(Cache::new(entries as u64))
    }
}

impl Contender for Moka {
    fn name(&self) -> &'static str {
        "moka"
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

    /// After what it does in the background is done.
    fn figures(&self) -> Option<Figures> {
        self.0.run_pending_tasks();
        entries_alone(self.0.entry_count())
    }
}
