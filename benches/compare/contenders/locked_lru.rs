//! The `lru` crate in a `Mutex`.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bench::contender::{Contender, Figures, Refused};
use bench::contenders::FixedKey;
use lru::LruCache;

use super::{Key, entries_alone};

type Map = LruCache<Key, Arc<[u8]>>;

pub struct Locked(Mutex<Map>);

impl Locked {
    /// # Errors
    /// A capacity of no entries.
    pub fn new(entries: usize) -> Result<Self, String> {
        let entries = NonZeroUsize::new(entries).ok_or("lru: at least one entry")?;
        Ok(Locked(Mutex::new(LruCache::new(entries))))
    }

    fn lock(&self) -> MutexGuard<'_, Map> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Contender for Locked {
    fn name(&self) -> &'static str {
        "lru"
    }

    fn policy(&self) -> &'static str {
        "lru"
    }

    /// The pointer is cloned, so that the value is read without the lock.
    fn read(&mut self, key: &[u8], see: &mut dyn FnMut(&[u8])) -> bool {
        let found = self.lock().get(&Key::from_bytes(key)).cloned();
        found.map(|value| see(&value)).is_some()
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Refused> {
        let value = Arc::from(value);
        let evicted = self.lock().push(Key::from_bytes(key), value);
        drop(evicted);
        Ok(())
    }

    fn figures(&self) -> Option<Figures> {
        entries_alone(self.lock().len() as u64)
    }
}
