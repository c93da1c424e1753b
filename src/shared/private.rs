//! A cache of one thread and one handle, whose values can be read where they lie.
//!
//! Invariants:
//! - The region has no other handle, in this process or another, and it changes only by methods that take `&mut self`. So
//!   bytes that are borrowed from `&self` stay what they are while they are borrowed.
//! - No entry expires: none is given a time to live.
//! - The entry that was found last is remembered until something is stored or removed: whoever asks whether a key is there
//!   and then for its value has it looked up once.
//!
//! Not here: what keys and values mean, and what is to be done when the region is full (`adapters::drop_in`).

use super::cache::SharedCache;
use super::open::CreateError;
use crate::engine::config::{Config, Resolved};
use crate::engine::evicted::Evicted;
use crate::engine::hash::KeyHash;
use crate::engine::ids::EntryIndex;
use crate::engine::outcomes::{PushError, Put};

/// The cache; it hands out no handle of its own.
pub(crate) struct PrivateCache {
    cache: SharedCache,
    last_found: Option<Place>,
}

/// Where an entry is, until something is stored or removed.
#[derive(Clone, Copy)]
struct Place {
    partition: usize,
    entry: EntryIndex,
    /// Of its key: that of another key tells them apart at once.
    hash: KeyHash,
}

impl PrivateCache {
    pub(crate) fn new(config: &Config) -> Result<Self, CreateError> {
        Ok(PrivateCache { cache: SharedCache::private(config)?, last_found: None })
    }

    /// The cache, about to be changed: what is known of places ends here.
    fn changing(&mut self) -> &SharedCache {
        self.last_found = None;
        &self.cache
    }

    #[inline(always)]
    fn find(&mut self, key: &[u8]) -> Option<Place> {
        let (partition, key) = self.cache.key(key);
        let view = self.cache.unlocked(partition);
        if let Some(last) = self.last_found {
            if last.hash == key.hash && last.partition == partition && view.has_key(last.entry, key.bytes) {
                return Some(last);
            }
        }
        let entry = self.cache.shared(partition, |partition| partition.find(key))?;
        self.last_found = Some(Place { partition, entry, hash: key.hash });
        self.last_found
    }

    /// Whether a key is there. Neither counts nor counts as a use.
    #[inline]
    pub(crate) fn contains(&mut self, key: &[u8]) -> bool {
        self.find(key).is_some()
    }

    /// A key's value, where it lies, or copied to `buffer` if it lies in several pieces. Its entry becomes the most
    /// recently used of its partition. Not counted.
    #[inline]
    pub(crate) fn get<'a>(&'a mut self, key: &[u8], buffer: &'a mut Vec<u8>) -> Option<&'a [u8]> {
        let Place { partition, entry, .. } = self.find(key)?;
        self.cache.exclusive(partition, |partition| partition.promote(entry));
        // Nobody changes, moves or frees the bytes while `self` is borrowed, which the result does.
        let partition = self.cache.unlocked(partition);
        match partition.value_in_place(entry) {
            Some(value) => Some(value),
            None => {
                buffer.clear();
                partition.copy_parts(entry, |part| buffer.extend_from_slice(part));
                Some(buffer)
            }
        }
    }

    /// As [`SharedCache::push`].
    pub(crate) fn push(&mut self, key: &[u8], value: &[u8], evicted: &mut Evicted) -> Result<Put, PushError> {
        self.changing().push(key, value, evicted)
    }

    /// As [`SharedCache::put_if_room`].
    pub(crate) fn put_if_room(&mut self, key: &[u8], value: &[u8]) -> Result<Put, PushError> {
        self.changing().put_if_room(key, value)
    }

    /// As [`SharedCache::remove`].
    pub(crate) fn remove(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        self.changing().remove(key)
    }

    /// As [`SharedCache::pop_lru`].
    pub(crate) fn pop_lru(&mut self) -> Option<(Vec<u8>, Vec<u8>)> {
        self.changing().pop_lru()
    }

    /// Hands every entry to `take`, least recently used of its partition first.
    pub(crate) fn drain(self, take: impl FnMut(&[u8], &[u8])) {
        self.cache.drain(take);
    }

    /// Lengths of keys and values of all entries.
    pub(crate) fn sizes(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.cache.iter().map(|entry| (entry.key.len(), entry.value_len))
    }

    pub(crate) fn len(&self) -> u64 {
        self.cache.len()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.cache.bytes()
    }

    pub(crate) fn resolved(&self) -> Resolved {
        self.cache.resolved()
    }

    /// The cache behind, to be asked about itself.
    #[cfg(test)]
    pub(crate) fn shared(&self) -> &SharedCache {
        &self.cache
    }
}
