//! Stores and removals of one key.
//!
//! A store that has more to evict than one hold of the lock allows comes back for the rest. A large value is stored in
//! steps: a record and slots are reserved, pinned by this process, in as many holds as it takes; the value is copied into
//! them without a lock; and one more hold makes it the key's. Large entries that are to be handed to the caller are
//! removed first and copied without a lock, too.
//!
//! Locking: the exclusive lock of the key's partition, for a bounded time. Not here: what makes room (`engine::reclaim`).

use super::cache::SharedCache;
use super::expiry::Expiry;
use super::lock::Locks;
use super::read::Appended;
use super::resources::{HeldResource, PinGuard, Registration};
use crate::engine::counters::Removal;
use crate::engine::entry::lengths::Lengths;
use crate::engine::entry::record::Pin;
use crate::engine::evicted::{Evicted, OnEvict};
use crate::engine::flight::version::Version;
use crate::engine::hash::Key;
use crate::engine::large::LARGE_VALUE_BYTES;
use crate::engine::outcomes::{PushError, Put, Unfinished};
use crate::engine::partition::Partition;
use crate::engine::work::Work;

/// What became of a large value that was complete.
enum Published {
    Put(Put),
    /// The caller's condition does not hold.
    Forbidden,
    /// A reset has taken its memory away.
    Lost,
}

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
        self.store(key, value, Expiry::Default, OnEvict::Discard)
    }

    /// As [`SharedCache::put`]; from `expiry` on the entry is as good as absent. A value that is replaced takes its own
    /// expiry with it.
    ///
    /// An entry that expires takes 4 bytes more than one that does not.
    ///
    /// # Errors
    ///
    /// As there, and [`PushError::TtlTooLong`].
    #[inline]
    pub fn put_with(&self, key: &[u8], value: &[u8], expiry: Expiry) -> Result<Put, PushError> {
        self.store(key, value, expiry, OnEvict::Discard)
    }

    /// Stores a value; entries that must make way are appended to `evicted`, keys and values intact. A value that is
    /// replaced is not, nor one that has expired.
    ///
    /// # Errors
    ///
    /// See [`PushError`]; a value that the key had stays. What was evicted all the same is in `evicted`.
    pub fn push(&self, key: &[u8], value: &[u8], evicted: &mut Evicted) -> Result<Put, PushError> {
        self.store(key, value, Expiry::Default, OnEvict::Collect(evicted))
    }

    /// As [`SharedCache::push`], with an expiry as [`SharedCache::put_with`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn push_with(&self, key: &[u8], value: &[u8], expiry: Expiry, evicted: &mut Evicted) -> Result<Put, PushError> {
        self.store(key, value, expiry, OnEvict::Collect(evicted))
    }

    /// Stores a value only if nothing must make way for it.
    ///
    /// # Errors
    ///
    /// [`PushError::Full`] where [`SharedCache::put`] would evict.
    pub fn put_if_room(&self, key: &[u8], value: &[u8]) -> Result<Put, PushError> {
        self.store(key, value, Expiry::Default, OnEvict::Forbid)
    }

    /// As [`SharedCache::put_with`], with the value's version, by which it can be recognised later; `None` if it was replaced
    /// or evicted at once.
    ///
    /// # Errors
    ///
    /// As there.
    #[allow(clippy::missing_panics_doc, reason = "the key was stored under the lock that is held")]
    pub fn put_versioned(&self, key: &[u8], value: &[u8], expiry: Expiry) -> Result<(Put, Option<Version>), PushError> {
        let (index, hashed) = self.key(key);
        let mut work = Work::new();
        let now = || self.now();
        if value.len() > LARGE_VALUE_BYTES {
            let put = self.store(key, value, expiry, OnEvict::Discard)?;
            let find =
                |partition: &Partition| partition.find(hashed).map(|entry| partition.version_of(hashed.hash, entry));
            return Ok((put, self.shared(index, find)));
        }
        loop {
            let stored = self.exclusive(index, |partition| {
                let expires = self.moment_for(expiry).map_err(|error| partition.refuse(error))?;
                let put = partition.put(hashed, value, expires, OnEvict::Discard, &now, &mut work)?;
                let entry = partition.find(hashed).expect("the key was stored under this lock");
                Ok((put, Some(partition.version_of(hashed.hash, entry))))
            });
            match stored {
                Ok(stored) => return Ok(stored),
                Err(unfinished) => self.go_on(index, unfinished, &mut OnEvict::Discard, &mut work)?,
            }
        }
    }

    /// Stores a value unless the key has one, or `still` says no: it is asked under the lock under which the value becomes
    /// findable, takes no lock and is short. `true` if the value was stored. Entries that must make way are dropped.
    ///
    /// # Errors
    ///
    /// As [`SharedCache::put_with`].
    pub fn put_if_absent(
        &self,
        key: &[u8],
        value: &[u8],
        expiry: Expiry,
        still: impl Fn() -> bool,
    ) -> Result<bool, PushError> {
        let hashed = self.key(key).1;
        let may = |partition: &mut Partition| partition.find_or_expire(hashed, &|| self.now()).is_none() && still();
        self.store_when(key, value, expiry, OnEvict::Discard, may).map(|stored| stored.is_some())
    }

    /// As [`SharedCache::put_with`], unless `still` says no: it is asked under the lock under which the value becomes findable,
    /// takes no lock and is short. `None` if the value was not stored.
    ///
    /// # Errors
    ///
    /// As [`SharedCache::put_with`].
    pub fn put_while(
        &self,
        key: &[u8],
        value: &[u8],
        expiry: Expiry,
        still: impl Fn() -> bool,
    ) -> Result<Option<Put>, PushError> {
        self.store_when(key, value, expiry, OnEvict::Discard, |_| still())
    }

    /// Stores a value if the key still has the one that was read with this version, by whatever handle. `true` if it was
    /// stored. Entries that must make way are dropped.
    ///
    /// # Errors
    ///
    /// As [`SharedCache::put_with`].
    pub fn put_if_version(
        &self,
        key: &[u8],
        value: &[u8],
        expiry: Expiry,
        version: &Version,
    ) -> Result<bool, PushError> {
        self.put_if_version_while(key, value, expiry, version, || true)
    }

    /// As [`SharedCache::put_if_version`], unless `still` says no: [`SharedCache::put_if_absent`] says when it is asked.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn put_if_version_while(
        &self,
        key: &[u8],
        value: &[u8],
        expiry: Expiry,
        version: &Version,
        still: impl Fn() -> bool,
    ) -> Result<bool, PushError> {
        let (index, hashed) = self.key(key);
        let is_of_key = version.partition() == index;
        let may = |partition: &mut Partition| {
            let found = partition.find_or_expire(hashed, &|| self.now());
            is_of_key && found.is_some() && found == partition.resolve_version(version) && still()
        };
        self.store_when(key, value, expiry, OnEvict::Discard, may).map(|stored| stored.is_some())
    }

    #[inline]
    fn store(&self, key: &[u8], value: &[u8], expiry: Expiry, on_evict: OnEvict<'_>) -> Result<Put, PushError> {
        Ok(self.store_when(key, value, expiry, on_evict, |_| true)?.expect("nothing forbids it"))
    }

    /// Stores a value if `may` says yes under the lock; `None` if not.
    #[inline]
    fn store_when(
        &self,
        key: &[u8],
        value: &[u8],
        expiry: Expiry,
        mut on_evict: OnEvict<'_>,
        may: impl Fn(&mut Partition) -> bool,
    ) -> Result<Option<Put>, PushError> {
        let (index, key) = self.key(key);
        if value.len() > LARGE_VALUE_BYTES {
            return self.store_large(index, key, value, expiry, on_evict, &may);
        }
        let mut work = Work::new();
        let now = || self.now();
        loop {
            let put = |partition: &mut Partition| {
                if !may(partition) {
                    return Ok(None);
                }
                let expires = self.moment_for(expiry).map_err(|error| partition.refuse(error))?;
                partition.put(key, value, expires, on_evict.reborrow(), &now, &mut work).map(Some)
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
        expiry: Expiry,
        mut on_evict: OnEvict<'_>,
        may: &dyn Fn(&mut Partition) -> bool,
    ) -> Result<Option<Put>, PushError> {
        let mut work = Work::new();
        let now = || self.now();
        // Again from the start where a reset has taken away what was reserved.
        'again: loop {
            let begin = |partition: &mut Partition| {
                let expires = self.moment_for(expiry).map_err(|error| partition.refuse(error))?;
                let lengths = Lengths::new(key.bytes.len(), value.len(), expires);
                let begun = partition.begin_large(lengths, on_evict.reborrow(), &now, &mut work)?;
                Ok((begun, expires))
            };
            let (mut reservation, expires) = match self.exclusive(index, begin) {
                Ok(begun) => begun,
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
                    partition.extend_large(key, &mut reservation, on_evict.reborrow(), &now, &mut work).map(|()| true)
                });
                match extended {
                    Ok(true) => break,
                    Ok(false) => continue 'again,
                    Err(unfinished) => self.go_on(index, unfinished, &mut on_evict, &mut work)?,
                }
            }
            self.unlocked(index).fill_reserved(reservation.pin(), key, value, expires);
            loop {
                let published = self.exclusive(index, |partition| {
                    if !guard.is_held() || !partition.is_reserved(reservation.pin()) {
                        return Ok(Published::Lost);
                    }
                    if !may(partition) {
                        return Ok(Published::Forbidden);
                    }
                    partition.publish_large(key, reservation, on_evict.reborrow(), &now, &mut work).map(Published::Put)
                });
                match published {
                    Ok(Published::Put(put)) => {
                        guard.set_published();
                        self.free_large(index);
                        return Ok(Some(put));
                    }
                    Ok(Published::Forbidden) => return Ok(None),
                    Ok(Published::Lost) => continue 'again,
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
            let entry = partition.find_or_expire(key, &|| self.now())?;
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
            self.copy_pinned(index, pin, &mut Appended::to(&mut value)).expect("memory for a value");
            drop(guard);
            self.free_large(index);
        }
        Some(value)
    }

    /// Removes a value that was read with this version, if it is still its key's; whether it was.
    pub fn discard_version(&self, version: &Version) -> bool {
        self.discard_version_as(Removal::ByHand, version)
    }

    /// As [`SharedCache::discard_version`], counted as what it is.
    pub(crate) fn discard_version_as(&self, why: Removal, version: &Version) -> bool {
        let index = version.partition();
        if index >= self.partition_count() {
            return false;
        }
        let mut work = Work::new();
        let (removed, is_left) = self.exclusive(index, |partition| {
            let entry = partition.resolve_version(version).filter(|_| version.stamp.is_stable());
            if let Some(entry) = entry {
                partition.remove_entry(entry);
                partition.note_removals(why, 1);
            }
            (entry.is_some(), partition.free_doomed(&mut work))
        });
        if is_left {
            self.free_large(index);
        }
        removed
    }

    /// Removes a key without a copy of its value; whether it was there.
    pub fn discard(&self, key: &[u8]) -> bool {
        self.discard_as(Removal::ByHand, key)
    }

    /// As [`SharedCache::discard`], counted as this.
    pub(crate) fn discard_as(&self, why: Removal, key: &[u8]) -> bool {
        let (index, key) = self.key(key);
        let mut work = Work::new();
        let (removed, is_left) = self.exclusive(index, |partition| {
            (partition.remove(key, why, &|| self.now()), partition.free_doomed(&mut work))
        });
        if is_left {
            self.free_large(index);
        }
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::config::Config;
    use std::time::Duration;

    #[test]
    fn a_value_is_stored_if_the_key_has_none_and_the_caller_still_wants_it() {
        let cache = SharedCache::private(&Config::bytes(4 << 20).partitions(1)).unwrap();
        for len in [10, 1000, LARGE_VALUE_BYTES + 1, 500_000] {
            let (first, second) = (vec![1; len], vec![2; len]);
            let key = (len as u32).to_be_bytes();
            let put = |value: &[u8], still| cache.put_if_absent(&key, value, Expiry::Default, || still).unwrap();
            assert!(!put(&first, false) && !cache.contains(&key), "{len}");
            assert!(put(&first, true) && !put(&second, true), "{len}");
            let mut out = Vec::new();
            assert!(cache.get(&key, &mut out) && out == first, "{len}");
            cache.put_with(&key, &first, Expiry::After(Duration::ZERO)).unwrap();
            assert!(put(&second, true), "{len}: what has expired is absent");
            cache.validate().unwrap();
        }
        let full = SharedCache::private(&Config::bytes(1 << 20).partitions(1)).unwrap();
        assert!(full.put_if_absent(b"k", &vec![0; 2 << 20], Expiry::Default, || true).is_err());
    }

    #[test]
    fn a_value_is_replaced_if_it_is_the_one_that_was_read_and_the_caller_still_wants_it() {
        let cache = SharedCache::private(&Config::bytes(4 << 20).partitions(1)).unwrap();
        for len in [10, 1000, LARGE_VALUE_BYTES + 1, 500_000] {
            let (first, second) = (vec![1; len], vec![2; len]);
            let key = (len as u32).to_be_bytes();
            let mut out = Vec::new();
            cache.put(&key, &first).unwrap();
            let read = cache.get_versioned(&key, &mut out).unwrap();
            let put = |still| cache.put_if_version_while(&key, &second, Expiry::Default, &read, || still).unwrap();
            assert!(!put(false) && cache.get(&key, &mut out) && out == first, "{len}");
            assert!(put(true) && cache.get(&key, &mut out) && out == second, "{len}");
            assert!(!put(true), "{len}: it is another by now");
            cache.validate().unwrap();
        }
    }

    #[test]
    fn a_value_is_discarded_only_as_it_was_read() {
        let cache = SharedCache::private(&Config::bytes(1 << 20)).unwrap();
        let mut out = Vec::new();
        cache.put(b"k", b"old").unwrap();
        let old = cache.get_versioned(b"k", &mut out).unwrap();
        cache.put(b"k", b"new").unwrap();
        assert!(!cache.discard_version(&old) && cache.contains(b"k"), "it was replaced");
        let new = cache.get_versioned(b"k", &mut out).unwrap();
        assert!(cache.discard_version(&new) && !cache.contains(b"k"));
        assert!(!cache.discard_version(&new), "it is gone");
        assert_eq!(cache.stats().removals, 1);
    }
}
