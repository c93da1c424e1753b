//! Reads without a lock: `get`, `peek` and `contains` look first and take the lock only where that does not do.
//!
//! A miss, and a hit whose use needs no note any more (policy `clock`: the reference bit is set, `s3-fifo`: as many
//! uses as there can be are counted), write nothing but a counter of their processor. The lock is taken for a hit whose
//! use has to be noted, for a chained value, for a key that was not seen in a bucket that overflows, and after `TRIES`
//! attempts that a writer of the same entry, or a compaction, has disturbed.
//!
//! Policy `lru` has to note every `get`, and a cache of one thread has no lock to avoid: both read as before.
//!
//! Whoever keeps a copy of a value, or something made of it, can keep its [`Sight`] too and ask later, without a lock,
//! whether the value is still the key's.
//!
//! Not here: why what was read so is right (`engine::optimistic`), and what the caches of PostgreSQL do against being
//! dropped meanwhile (`pg::lwlock`).

use super::cache::SharedCache;
use super::lock::Locks;
use crate::engine::config::Policy;
use crate::engine::evicted::Sink;
use crate::engine::ids::EntryIndex;
use crate::engine::optimistic::{Sighting, Unread, Wanted};
use crate::engine::partition::{Key, Partition, PushError, Put};
use crate::engine::region::Word64;
use crate::engine::words::append_words;

/// Attempts without the lock.
const TRIES: usize = 4;

/// Names a value that was read or stored: see [`SharedCache::is_current`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight(Sighting);

impl<L: Locks> SharedCache<L> {
    /// Copies a key's value to `out` (what `out` held is replaced); `false` and an empty `out` if there is none. Counts
    /// as a use.
    pub fn get(&self, key: &[u8], out: &mut Vec<u8>) -> bool {
        out.clear();
        self.append(self.key(key), out)
    }

    /// As [`SharedCache::get`], and says how to recognise the value later.
    pub fn sight(&self, key: &[u8], out: &mut Vec<u8>) -> Option<Sight> {
        out.clear();
        self.use_into(self.key(key), out, |sighting| sighting, Partition::sighting).map(Sight)
    }

    /// Appends a key's value to `out`, if it has one; counts that, and as a use.
    #[inline]
    pub(super) fn append(&self, key: (usize, Key<'_>), out: &mut Vec<u8>) -> bool {
        self.use_into(key, out, |_| (), |_, _| ()).is_some()
    }

    /// As `append`; what is said of the value is made of how it was seen, without the lock or under it.
    #[inline(always)]
    pub(super) fn use_into<R>(
        &self,
        (index, key): (usize, Key<'_>),
        out: &mut Vec<u8>,
        seen: impl FnOnce(Sighting) -> R,
        found: impl FnOnce(&Partition, EntryIndex) -> R,
    ) -> Option<R> {
        if !L::ONE_USER && self.layout().policy != Policy::Lru {
            if let Some(glance) = self.glance_into(index, key, Wanted::Referenced, out) {
                self.count_shared_read(glance.is_some());
                return glance.map(seen);
            }
        }
        self.read((index, key), |partition, entry| {
            partition.append_value(entry, out);
            found(partition, entry)
        })
    }

    /// As [`SharedCache::get`], but neither counts nor counts as a use.
    pub fn peek(&self, key: &[u8], out: &mut Vec<u8>) -> bool {
        let (index, key) = self.key(key);
        out.clear();
        let glance = self.glance_into(index, key, Wanted::Any, out).map(|seen| seen.is_some());
        glance.unwrap_or_else(|| {
            self.shared(index, |partition| partition.find(key).map(|entry| partition.append_value(entry, out)))
                .is_some()
        })
    }

    /// Whether a key is there. Neither counts nor counts as a use.
    pub fn contains(&self, key: &[u8]) -> bool {
        let (index, key) = self.key(key);
        let glance = self.glance(index, key, Wanted::Any, |_, _| ()).map(|seen| seen.is_some());
        glance.unwrap_or_else(|| self.shared(index, |partition| partition.find(key).is_some()))
    }

    /// As [`SharedCache::put`], and says how to recognise the value later.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn put_sighted(&self, key: &[u8], value: &[u8]) -> Result<(Put, Sight), PushError> {
        let (index, key) = self.key(key);
        self.exclusive(index, |partition| {
            let put = partition.push(key, value, &mut Sink::Drop)?;
            let entry = partition.find(key).expect("the key was stored under this lock");
            Ok((put, Sight(partition.sighting(entry))))
        })
    }

    /// Whether a value is still its key's: neither replaced nor removed nor evicted. Takes no lock, neither counts nor
    /// counts as a use.
    ///
    /// `sight` is one of this cache's, by whatever handle; it is brought up to date, for the next question to cost
    /// less: a load of the entry's stamp and one of a word that rarely changes.
    #[inline(always)]
    pub fn is_current(&self, sight: &mut Sight) -> bool {
        // The locks are asked last, as in `glance`.
        self.locks().is_mapped()
            && self.unlocked(sight.0.partition()).confirms(&mut sight.0)
            && self.locks().is_current()
    }

    /// Counts a hit on a value and as a use of it, as `get` does, without looking its key up or copying it; `false` if
    /// it is not its key's any more.
    pub fn use_sighted(&self, sight: &mut Sight) -> bool {
        let index = sight.0.partition();
        match self.layout().policy {
            Policy::Lru => self.exclusive(index, |partition| {
                let Some(entry) = partition.recognise(&sight.0) else { return false };
                partition.count_read(true);
                partition.promote(entry);
                true
            }),
            _ => {
                let noted = self.locks().is_mapped() && self.unlocked(index).is_use_noted(&sight.0);
                if !self.is_current(sight) {
                    return false;
                }
                let still = noted || self.shared(index, |partition| self.note_use(partition, &sight.0));
                if still {
                    self.count_shared_read(true);
                }
                still
            }
        }
    }

    fn note_use(&self, partition: &Partition, sighting: &Sighting) -> bool {
        partition.recognise(sighting).map(|entry| partition.reference(entry)).is_some()
    }

    /// As `glance`; the value is appended to `out`.
    #[inline]
    fn glance_into(&self, index: usize, key: Key<'_>, wanted: Wanted, out: &mut Vec<u8>) -> Option<Option<Sighting>> {
        let before = out.len();
        let glance = self.glance(index, key, wanted, |words, len| {
            out.truncate(before);
            append_words(words, len, out);
        });
        if !matches!(glance, Some(Some(_))) {
            out.truncate(before);
        }
        glance
    }

    /// The key as it was seen without the lock, if that sufficed: with a value, which is what `read` was given last, or
    /// without.
    #[inline]
    pub(super) fn glance(
        &self,
        index: usize,
        key: Key<'_>,
        wanted: Wanted,
        mut read: impl FnMut(&[Word64], usize),
    ) -> Option<Option<Sighting>> {
        if L::ONE_USER || !self.locks().is_mapped() {
            return None;
        }
        let partition = self.unlocked(index);
        for _ in 0..TRIES {
            let seen = match partition.glance(key, wanted, &mut read) {
                Ok(sighting) => Some(sighting),
                Err(Unread::Absent) => None,
                Err(Unread::Unclear) => return None,
                Err(Unread::Disturbed) => {
                    std::hint::spin_loop();
                    continue;
                }
            };
            // After the last word was read: what a dropped cache's memory holds by now counts for nothing.
            return self.locks().is_current().then_some(seen);
        }
        None
    }
}
