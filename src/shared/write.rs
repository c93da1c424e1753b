//! Stores and removals of one key.
//!
//! A store that has more to evict than one hold of the lock allows comes back for the rest. A large value is stored in
//! steps: a record and slots are reserved, pinned by this process, in as many holds as it takes; the value is copied into
//! them without a lock; and one more hold makes it the key's. Large entries that are to be handed to the caller are
//! removed first and copied without a lock, too.
//!
//! Locking: the exclusive lock of the key's partition, for a bounded time. Not here: what makes room (`engine::reclaim`).

use super::cache::SharedCache;
use super::lock::Locks;
use super::resources::{HeldResource, PinGuard, Registration};
use crate::engine::entry::record::Pin;
use crate::engine::evicted::{Evicted, OnEvict};
use crate::engine::flight::version::Version;
use crate::engine::hash::Key;
use crate::engine::partition::{LARGE_VALUE_BYTES, PushError, Put, Unfinished};
use crate::engine::work::Work;

/// What is reserved for a large value; given back unless it is published.
struct ReservationGuard<'a, L: Locks> {
    cache: &'a SharedCache<L>,
    registration: Registration,
}

impl<'a, L: Locks> ReservationGuard<'a, L> {
    fn new(cache: &'a SharedCache<L>, partition: usize, pin: Pin) -> Self {
        let resource = HeldResource::Reservation { partition, pin };
        ReservationGuard { cache, registration: cache.resources.register(resource) }
    }

    /// Whether it is still this process's.
    fn is_held(&self) -> bool {
        self.cache.resources.is_held(self.registration)
    }

    /// It was published, and belongs to nobody.
    fn set_published(self) {
        self.cache.resources.unregister(self.registration);
        std::mem::forget(self);
    }
}

impl<L: Locks> Drop for ReservationGuard<'_, L> {
    fn drop(&mut self) {
        if let Some(resource) = self.cache.resources.unregister(self.registration) {
            self.cache.release(resource);
        }
    }
}

impl<L: Locks> SharedCache<L> {
    /// Stores a value; entries that must make way are dropped.
    ///
    /// # Errors
    ///
    /// See [`PushError`]; a value that the key had stays.
    #[inline]
    pub fn put(&self, key: &[u8], value: &[u8]) -> Result<Put, PushError> {
        self.store(key, value, OnEvict::Discard)
    }

    /// Stores a value; entries that must make way are appended to `evicted`, keys and values intact. A value that is
    /// replaced is not.
    ///
    /// # Errors
    ///
    /// See [`PushError`]; a value that the key had stays. What was evicted all the same is in `evicted`.
    pub fn push(&self, key: &[u8], value: &[u8], evicted: &mut Evicted) -> Result<Put, PushError> {
        self.store(key, value, OnEvict::Collect(evicted))
    }

    /// Stores a value only if nothing must make way for it.
    ///
    /// # Errors
    ///
    /// [`PushError::Full`] where [`SharedCache::put`] would evict.
    pub fn put_if_room(&self, key: &[u8], value: &[u8]) -> Result<Put, PushError> {
        self.store(key, value, OnEvict::Forbid)
    }

    /// As [`SharedCache::put`], with the value's version, by which it can be recognised later; `None` if it was replaced
    /// or evicted at once.
    ///
    /// # Errors
    ///
    /// As there.
    #[allow(clippy::missing_panics_doc, reason = "the key was stored under the lock that is held")]
    pub fn put_versioned(&self, key: &[u8], value: &[u8]) -> Result<(Put, Option<Version>), PushError> {
        let (index, hashed) = self.key(key);
        let mut work = Work::new();
        if value.len() > LARGE_VALUE_BYTES {
            let put = self.store(key, value, OnEvict::Discard)?;
            let find = |partition: &crate::engine::partition::Partition| {
                partition.find(hashed).map(|entry| partition.version_of(hashed.hash, entry))
            };
            return Ok((put, self.shared(index, find)));
        }
        loop {
            let stored = self.exclusive(index, |partition| {
                let put = partition.put(hashed, value, OnEvict::Discard, &mut work)?;
                let entry = partition.find(hashed).expect("the key was stored under this lock");
                Ok((put, Some(partition.version_of(hashed.hash, entry))))
            });
            match stored {
                Ok(stored) => return Ok(stored),
                Err(unfinished) => self.go_on(index, unfinished, &mut OnEvict::Discard, &mut work)?,
            }
        }
    }

    #[inline]
    fn store(&self, key: &[u8], value: &[u8], mut on_evict: OnEvict<'_>) -> Result<Put, PushError> {
        let (index, key) = self.key(key);
        if value.len() > LARGE_VALUE_BYTES {
            return self.store_large(index, key, value, on_evict);
        }
        let mut work = Work::new();
        loop {
            let put = |partition: &mut crate::engine::partition::Partition| {
                partition.put(key, value, on_evict.reborrow(), &mut work)
            };
            match self.exclusive(index, put) {
                Ok(put) => return Ok(put),
                Err(unfinished) => self.go_on(index, unfinished, &mut on_evict, &mut work)?,
            }
        }
    }

    /// Between two holds of one operation.
    #[cold]
    pub(super) fn go_on(
        &self,
        index: usize,
        unfinished: Unfinished,
        on_evict: &mut OnEvict<'_>,
        work: &mut Work,
    ) -> Result<(), PushError> {
        match unfinished {
            Unfinished::Refused(error) => return Err(error),
            Unfinished::CopyFirst(pin) => {
                let guard = PinGuard::new(self, index, pin);
                if let OnEvict::Collect(evicted) = on_evict {
                    self.copy_out(index, pin, evicted)?;
                }
                drop(guard);
            }
            Unfinished::OutOfWork => {}
            Unfinished::Dirty(_) | Unfinished::NeedsRoom(_) => unreachable!("nobody asked for that"),
        }
        work.renew();
        Ok(())
    }

    /// Appends key and value of a pinned entry.
    pub(super) fn copy_out(&self, index: usize, pin: Pin, evicted: &mut Evicted) -> Result<(), PushError> {
        self.read_pinned(index, |unlocked| {
            let append = |out: &mut Vec<u8>| unlocked.copy_parts(pin.entry, |part| out.extend_from_slice(part));
            let pushed = evicted.try_push(unlocked.key(pin.entry), unlocked.value_len(pin.entry), append);
            pushed.map_err(|_| PushError::OutOfMemory)
        })
    }

    #[cold]
    fn store_large(
        &self,
        index: usize,
        key: Key<'_>,
        value: &[u8],
        mut on_evict: OnEvict<'_>,
    ) -> Result<Put, PushError> {
        let mut work = Work::new();
        // Again from the start where a reset has taken away what was reserved.
        'again: loop {
            let begin = |partition: &mut crate::engine::partition::Partition| {
                partition.begin_large(key, value.len(), on_evict.reborrow(), &mut work)
            };
            let mut reservation = match self.exclusive(index, begin) {
                Ok(reservation) => reservation,
                Err(unfinished) => {
                    self.go_on(index, unfinished, &mut on_evict, &mut work)?;
                    continue;
                }
            };
            let guard = ReservationGuard::new(self, index, reservation.pin());
            loop {
                let extended = self.exclusive(index, |partition| {
                    if !guard.is_held() || !partition.is_reserved(reservation.pin()) {
                        return Ok(false);
                    }
                    partition.extend_large(key, &mut reservation, on_evict.reborrow(), &mut work).map(|()| true)
                });
                match extended {
                    Ok(true) => break,
                    Ok(false) => continue 'again,
                    Err(unfinished) => self.go_on(index, unfinished, &mut on_evict, &mut work)?,
                }
            }
            self.unlocked(index).fill_reserved(reservation.pin(), key, value);
            loop {
                let published = self.exclusive(index, |partition| {
                    if !guard.is_held() || !partition.is_reserved(reservation.pin()) {
                        return Ok(None);
                    }
                    partition.publish_large(key, reservation, on_evict.reborrow(), &mut work).map(Some)
                });
                match published {
                    Ok(Some(put)) => {
                        guard.set_published();
                        self.free_large(index);
                        return Ok(put);
                    }
                    Ok(None) => continue 'again,
                    Err(unfinished) => self.go_on(index, unfinished, &mut on_evict, &mut work)?,
                }
            }
        }
    }

    /// Removes a key and returns its value.
    ///
    /// # Panics
    ///
    /// If there is no memory for the value, which is lost then; [`SharedCache::discard`] copies nothing.
    pub fn remove(&self, key: &[u8]) -> Option<Vec<u8>> {
        let (index, key) = self.key(key);
        let mut value = Vec::new();
        let large = self.exclusive(index, |partition| {
            let entry = partition.find(key)?;
            if partition.is_large(entry) {
                if let Some(pin) = partition.take(entry) {
                    return Some(Some(pin));
                }
            }
            value.reserve(partition.value_len(entry));
            partition.copy_parts(entry, |part| value.extend_from_slice(part));
            partition.remove_entry(entry);
            Some(None)
        })?;
        if let Some(pin) = large {
            let guard = PinGuard::new(self, index, pin);
            let len = self.read_pinned(index, |unlocked| unlocked.value_len(pin.entry));
            value.try_reserve_exact(len).expect("memory for a value");
            self.read_pinned(index, |unlocked| unlocked.copy_parts(pin.entry, |part| value.extend_from_slice(part)));
            drop(guard);
            self.free_large(index);
        }
        Some(value)
    }

    /// Removes a key without a copy of its value; whether it was there.
    pub fn discard(&self, key: &[u8]) -> bool {
        let (index, key) = self.key(key);
        let mut work = Work::new();
        let (removed, is_left) =
            self.exclusive(index, |partition| (partition.remove(key), partition.free_doomed(&mut work)));
        if is_left {
            self.free_large(index);
        }
        removed
    }
}
