//! Reads of one key: `get`, `peek`, `contains`, `with`, and what tells later whether a value is still the key's.
//!
//! A read looks without the lock first, and takes it only where that does not do: for a hit whose use has to be noted,
//! for a chained value, for a key that was not seen in a bucket that overflows, and after `TRIES` conflicts with writers.
//! A miss, and a hit whose use is noted already, write nothing but a counter of their processor. Where every hit moves
//! its entry (policy `lru`), `get` takes the exclusive lock at once; a cache of one thread has no lock to avoid.
//!
//! A large value is pinned under the lock and copied without it. Where a value is copied to is a [`ValueBuffer`], so that
//! memory can be had in the caller's own way.
//!
//! An entry that has expired is a miss, and stays; where a read has the exclusive lock anyway, it goes. A value is held to
//! the time at which its lookup looks; what is pinned or copied then may expire while the caller has it.
//!
//! Not here: why what was read so is right (`engine::index::optimistic`), and what the caches of PostgreSQL do against
//! being dropped meanwhile (`pg::named_locks`).

use std::collections::TryReserveError;

use super::cache::SharedCache;
use super::lock::Locks;
use super::resources::PinGuard;
use crate::engine::entry::record::Pin;
use crate::engine::flight::version::Version;
use crate::engine::hash::Key;
use crate::engine::ids::EntryIndex;
use crate::engine::index::optimistic::{PlacementHint, ReadFailure, Seen, Touch};
use crate::engine::memory::copy::append_words;
use crate::engine::memory::words::Word64;
use crate::engine::partition::Partition;

/// Attempts without the lock.
const TRIES: usize = 4;

/// Where a value is copied to.
pub(super) trait ValueBuffer {
    /// Takes a value of `len_bytes` that lies in one piece, as words; what it took before is forgotten. `false` if there
    /// is no room for it.
    fn take_words(&mut self, words: &[Word64], len_bytes: usize) -> bool;

    /// Whether it is worth while to pin a large value of `len_bytes` for it: whether it has room, or can make some. Short, and
    /// called under a lock.
    fn may_take(&self, _len_bytes: usize) -> bool {
        true
    }

    /// Makes room for a value of `len_bytes`; what it took before is forgotten. `false` if there is none. Called without
    /// a lock where the value is large.
    fn make_room(&mut self, len_bytes: usize) -> bool;

    /// Takes the next bytes of a value that there is room for.
    fn take_part(&mut self, part: &[u8]);

    /// Forgets what it took: that was no value.
    fn forget(&mut self);
}

/// Appends to a vector, which grows; what it held stays.
pub(super) struct Appended<'a> {
    out: &'a mut Vec<u8>,
    before: usize,
    error: Option<TryReserveError>,
}

impl<'a> Appended<'a> {
    pub(super) fn to(out: &'a mut Vec<u8>) -> Self {
        let before = out.len();
        Appended { out, before, error: None }
    }
}

impl ValueBuffer for Appended<'_> {
    #[inline(always)]
    fn take_words(&mut self, words: &[Word64], len_bytes: usize) -> bool {
        self.out.truncate(self.before);
        self.error = append_words(words, len_bytes, self.out).err();
        self.error.is_none()
    }

    #[inline]
    fn make_room(&mut self, len_bytes: usize) -> bool {
        self.out.truncate(self.before);
        self.error = self.out.try_reserve(len_bytes).err();
        self.error.is_none()
    }

    #[inline]
    fn take_part(&mut self, part: &[u8]) {
        self.out.extend_from_slice(part);
    }

    #[inline]
    fn forget(&mut self) {
        self.out.truncate(self.before);
    }
}

/// Asks only whether there is a value.
struct Nothing;

impl ValueBuffer for Nothing {
    #[inline(always)]
    fn take_words(&mut self, _words: &[Word64], _len_bytes: usize) -> bool {
        true
    }

    fn make_room(&mut self, _len_bytes: usize) -> bool {
        true
    }

    fn take_part(&mut self, _part: &[u8]) {}

    fn forget(&mut self) {}
}

/// Whether a read is a use of the entry, and counted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// Neither.
    None,
    /// Only the order of eviction: whoever asks says later what came of it ([`SharedCache::count_read`]).
    Noted,
    /// Both.
    Counted,
}

/// Outcome of a lookup.
pub(super) enum Lookup {
    /// The value was copied; this is its version.
    Hit(Version),
    /// There is no value.
    Miss,
    /// There is one of so many bytes, for which the buffer has no room. Nothing is counted or noted.
    NoRoom(usize),
}

/// What was found under the lock.
enum Locked {
    Copied(Version),
    Miss,
    NoRoom(usize),
    /// To be copied without the lock.
    Large(Pin, Version),
}

impl<L: Locks> SharedCache<L> {
    /// Copies a key's value to `out` (what `out` held is replaced); `false` and an empty `out` if there is none. Counts
    /// as a use.
    ///
    /// # Panics
    ///
    /// If there is no memory for the value; [`SharedCache::try_get`] says so instead.
    #[inline]
    pub fn get(&self, key: &[u8], out: &mut Vec<u8>) -> bool {
        self.try_get(key, out).expect("memory for a value")
    }

    /// As [`SharedCache::get`].
    ///
    /// # Errors
    ///
    /// There is no memory for the value; `out` is empty.
    #[inline]
    #[allow(clippy::missing_panics_doc, reason = "a vector has no room for want of memory, and says so")]
    pub fn try_get(&self, key: &[u8], out: &mut Vec<u8>) -> Result<bool, TryReserveError> {
        out.clear();
        let mut buffer = Appended::to(out);
        match self.look_up(self.key(key), Use::Counted, &mut buffer) {
            Lookup::Hit(_) => Ok(true),
            Lookup::Miss => Ok(false),
            Lookup::NoRoom(_) => Err(buffer.error.expect("a vector has no room for want of memory")),
        }
    }

    /// As [`SharedCache::get`], with the value's version, by which it can be recognised later.
    ///
    /// # Panics
    ///
    /// As there.
    pub fn get_versioned(&self, key: &[u8], out: &mut Vec<u8>) -> Option<Version> {
        out.clear();
        match self.look_up(self.key(key), Use::Counted, &mut Appended::to(out)) {
            Lookup::Hit(version) => Some(version),
            Lookup::Miss => None,
            Lookup::NoRoom(bytes) => panic!("no memory for a value of {bytes} bytes"),
        }
    }

    /// Like `get`, but updates neither the statistics nor the order of eviction.
    ///
    /// # Panics
    ///
    /// As there.
    pub fn peek(&self, key: &[u8], out: &mut Vec<u8>) -> bool {
        out.clear();
        match self.look_up(self.key(key), Use::None, &mut Appended::to(out)) {
            Lookup::Hit(_) => true,
            Lookup::Miss => false,
            Lookup::NoRoom(bytes) => panic!("no memory for a value of {bytes} bytes"),
        }
    }

    /// Whether a key is there. Updates neither the statistics nor the order of eviction.
    #[inline]
    pub fn contains(&self, key: &[u8]) -> bool {
        let (index, key) = self.key(key);
        match self.look_optimistically(index, key, Touch::No, &mut Nothing) {
            Some(seen) => seen.is_some(),
            None => self.shared(index, |partition| partition.find_unexpired(key, &|| self.now()).is_some()),
        }
    }

    /// Looks a key up and copies its value.
    #[inline(always)]
    pub(super) fn look_up<B: ValueBuffer>(&self, (index, key): (usize, Key<'_>), usage: Use, buffer: &mut B) -> Lookup {
        if !L::ONE_USER && (usage == Use::None || !self.promotes_on_hit) {
            let touch = if usage == Use::None { Touch::No } else { Touch::AlreadyMarked };
            // First: a change that comes between is not in the version, so the version is stale sooner than it need be.
            let changes = if self.locks.is_mapped() { self.unlocked(index).changes(key.hash) } else { 0 };
            let (mut fits, mut len) = (true, 0);
            let found = self.look_with(index, key, touch, |words, value_len| {
                len = value_len;
                fits = buffer.take_words(words, value_len);
            });
            match found {
                Some(Some(_)) if !fits => return Lookup::NoRoom(len),
                Some(Some(seen)) => {
                    if usage == Use::Counted {
                        self.count_shared_read(true);
                    }
                    return Lookup::Hit(self.unlocked(index).version_of(seen, changes));
                }
                Some(None) => {
                    buffer.forget();
                    if usage == Use::Counted {
                        self.count_shared_read(false);
                    }
                    return Lookup::Miss;
                }
                None => {}
            }
        }
        self.look_up_locked((index, key), usage, buffer)
    }

    fn look_up_locked<B: ValueBuffer>(&self, (index, key): (usize, Key<'_>), usage: Use, buffer: &mut B) -> Lookup {
        let now = || self.now();
        let mut copy = |partition: &Partition, entry: Option<EntryIndex>| {
            let Some(entry) = entry else { return Locked::Miss };
            let version = partition.version_of(key.hash, entry);
            let len = partition.value_len(entry);
            if !buffer.may_take(len) {
                return Locked::NoRoom(len);
            }
            if partition.is_large(entry) {
                if let Some(pin) = partition.pin(entry) {
                    return Locked::Large(pin, version);
                }
            }
            if !buffer.make_room(len) {
                return Locked::NoRoom(len);
            }
            partition.copy_parts(entry, |part| buffer.take_part(part));
            Locked::Copied(version)
        };
        let found = match usage {
            Use::None => self.shared(index, |partition| copy(partition, partition.find_unexpired(key, &now))),
            Use::Noted | Use::Counted if self.promotes_on_hit => self.exclusive(index, |partition| {
                let entry = partition.find_or_expire(key, &now);
                let found = copy(partition, entry);
                match (&found, entry) {
                    (Locked::NoRoom(_), _) => {}
                    (_, Some(entry)) => {
                        if usage == Use::Counted {
                            partition.count_hit();
                        }
                        partition.promote(entry);
                    }
                    (_, None) if usage == Use::Counted => partition.count_miss(),
                    (_, None) => {}
                }
                found
            }),
            Use::Noted | Use::Counted => self.shared(index, |partition| {
                let entry = partition.find_unexpired(key, &now);
                let found = copy(partition, entry);
                if !matches!(found, Locked::NoRoom(_)) {
                    if usage == Use::Counted {
                        self.count_shared_read(entry.is_some());
                    }
                    entry.inspect(|&entry| _ = partition.mark(entry));
                }
                found
            }),
        };
        match found {
            Locked::Copied(version) => Lookup::Hit(version),
            Locked::Miss => {
                buffer.forget();
                Lookup::Miss
            }
            Locked::NoRoom(len) => Lookup::NoRoom(len),
            Locked::Large(pin, version) => {
                let guard = PinGuard::new(self, index, pin);
                let copied = self.copy_pinned(index, pin, buffer);
                drop(guard);
                match copied {
                    Ok(()) => Lookup::Hit(version),
                    Err(len) => Lookup::NoRoom(len),
                }
            }
        }
    }

    /// Copies a value without a lock, which the caller's pin keeps. Where the buffer has no room, that many bytes are the
    /// error.
    pub(super) fn copy_pinned<B: ValueBuffer>(&self, index: usize, pin: Pin, buffer: &mut B) -> Result<(), usize> {
        let len = self.read_pinned(index, |unlocked| unlocked.value_len(pin.entry));
        if !buffer.make_room(len) {
            return Err(len);
        }
        self.read_pinned(index, |unlocked| unlocked.copy_parts(pin.entry, |part| buffer.take_part(part)));
        Ok(())
    }

    /// The key as it was seen without the lock, if that sufficed: with a value, or without.
    #[inline(always)]
    fn look_optimistically<B: ValueBuffer>(
        &self,
        index: usize,
        key: Key<'_>,
        touch: Touch,
        buffer: &mut B,
    ) -> Option<Option<Seen>> {
        self.look_with(index, key, touch, |words, len| _ = buffer.take_words(words, len))
    }

    /// As `look_optimistically`; the value is what `read` was given last.
    #[inline(always)]
    fn look_with(
        &self,
        index: usize,
        key: Key<'_>,
        touch: Touch,
        mut read: impl FnMut(&[Word64], usize),
    ) -> Option<Option<Seen>> {
        if L::ONE_USER || !self.locks.is_mapped() {
            return None;
        }
        let partition = self.unlocked(index);
        for _ in 0..TRIES {
            let seen = match partition.read_optimistic(key, touch, || self.now(), &mut read) {
                Ok(seen) => Some(seen),
                Err(ReadFailure::NotFound) => None,
                Err(ReadFailure::NeedsLock) => return None,
                Err(ReadFailure::Conflict) => {
                    std::hint::spin_loop();
                    continue;
                }
            };
            // After the last word was read: what a dropped cache's memory holds by now counts for nothing.
            return self.locks.is_current().then_some(seen);
        }
        None
    }

    /// Runs `read` on a key's value without copying it; `None` if there is no such key. Counts as a use.
    ///
    /// The entry is pinned meanwhile, and no lock is held: `read` may take its time, use the cache, or panic. A value
    /// that is chained over several slots, or that 255 readers have pinned already, is copied first. The bytes
    /// are aligned to 8.
    ///
    /// # Panics
    ///
    /// If there is no memory for such a copy.
    pub fn with<R>(&self, key: &[u8], read: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let (index, key) = self.key(key);
        let mut copied = Vec::new();
        let now = || self.now();
        let mut pin = |partition: &Partition, entry| {
            let pin = partition.pin(entry);
            if pin.is_none() {
                partition.copy_parts(entry, |part| copied.extend_from_slice(part));
            }
            pin
        };
        let found = if self.promotes_on_hit {
            self.exclusive(index, |partition| {
                let entry = partition.find_and_promote(key, &now)?;
                Some(pin(partition, entry))
            })
        } else {
            self.shared(index, |partition| {
                let found = partition.find_unexpired(key, &now);
                self.count_shared_read(found.is_some());
                let entry = found?;
                partition.mark(entry);
                Some(pin(partition, entry))
            })
        }?;
        let Some(pin) = found else { return Some(read(&copied)) };
        let guard = PinGuard::new(self, index, pin);
        if let Some(value) = self.read_pinned(index, |unlocked| unlocked.value_in_place(pin.entry)) {
            return Some(read(value));
        }
        self.copy_pinned(index, pin, &mut Appended::to(&mut copied)).expect("memory for a value");
        drop(guard);
        Some(read(&copied))
    }

    /// Whether a value is still its key's: neither replaced nor removed nor evicted, nor expired. Takes no lock, and updates neither
    /// the statistics nor the order of eviction.
    ///
    /// `version` is one of this cache's, by whatever handle. Whoever asks often keeps `hint` beside it: then the next
    /// question costs a load of the entry's stamp, and one of a word that rarely changes.
    #[inline(always)]
    pub fn is_current(&self, version: &Version, hint: &mut PlacementHint) -> bool {
        // The locks are asked last, as in a lookup.
        self.locks.is_mapped()
            && self.unlocked(version.partition()).is_current(version, hint)
            && !version.has_expired(|| self.now())
            && self.locks.is_current()
    }

    /// Counts a hit on a value and as a use of it, as `get` does, without looking its key up or copying it; `false` if
    /// it is not its key's any more.
    pub fn touch(&self, version: &Version, hint: &mut PlacementHint) -> bool {
        let index = version.partition();
        if self.promotes_on_hit {
            return self.exclusive(index, |partition| {
                let found = partition.resolve_version(version).filter(|_| !version.has_expired(|| self.now()));
                let Some(entry) = found else { return false };
                partition.count_hit();
                partition.promote(entry);
                true
            });
        }
        let noted = self.locks.is_mapped() && self.unlocked(index).is_use_noted(version);
        if !self.is_current(version, hint) {
            return false;
        }
        let still = noted || self.shared(index, |partition| self.mark_version(partition, version));
        if still {
            self.count_shared_read(true);
        }
        still
    }

    fn mark_version(&self, partition: &Partition, version: &Version) -> bool {
        partition.resolve_version(version).map(|entry| partition.mark(entry)).is_some()
    }
}
