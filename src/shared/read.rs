//! Reads without a lock: `get`, `peek` and `contains` look first and take the lock only where that does not do.
//!
//! A hit whose use needs no note any more (policy `clock`: the reference bit is set, `s3-fifo`: as many uses as there can
//! be are counted) writes nothing but a counter of its processor. The lock is taken for a key that was
//! not seen (only the lock tells that it is not there), for a hit whose use has to be noted, for a chained value, and
//! after [`TRIES`] attempts that a writer of the same entry, or a compaction, has disturbed.
//!
//! Policy `lru` has to note every `get`, and a cache of one thread has no lock to avoid: both read as before.
//!
//! Not here: why what was read so is right (`core::optimistic`), and what the caches of PostgreSQL do against being
//! dropped meanwhile (`pg::lwlock`).

use super::cache::SharedCache;
use super::lock::Locks;
use crate::core::config::Policy;
use crate::core::optimistic::{Glance, Wanted};
use crate::core::partition::Key;
use crate::core::region::{append_words, Word64};

/// Attempts without the lock.
const TRIES: usize = 4;

impl<L: Locks> SharedCache<L> {
    /// Copies a key's value to `out` (what `out` held is replaced); `false` and an empty `out` if there is none. Counts
    /// as a use.
    pub fn get(&self, key: &[u8], out: &mut Vec<u8>) -> bool {
        let (index, key) = self.key(key);
        if self.layout().policy != Policy::Lru && self.glance_into(index, key, Wanted::Referenced, out) {
            self.count_shared_read(true);
            return true;
        }
        out.clear();
        self.read((index, key), |partition, entry| partition.copy_value(entry, out)).is_some()
    }

    /// As [`SharedCache::get`], but neither counts nor counts as a use.
    pub fn peek(&self, key: &[u8], out: &mut Vec<u8>) -> bool {
        let (index, key) = self.key(key);
        if self.glance_into(index, key, Wanted::Any, out) {
            return true;
        }
        out.clear();
        self.shared(index, |partition| partition.find(key).map(|entry| partition.copy_value(entry, out))).is_some()
    }

    /// Whether a key is there. Neither counts nor counts as a use.
    pub fn contains(&self, key: &[u8]) -> bool {
        let (index, key) = self.key(key);
        self.glance(index, key, Wanted::Any, |_, _| ()) || self.shared(index, |partition| partition.find(key).is_some())
    }

    fn glance_into(&self, index: usize, key: Key<'_>, wanted: Wanted, out: &mut Vec<u8>) -> bool {
        self.glance(index, key, wanted, |words, len| {
            out.clear();
            append_words(words, len, out);
        })
    }

    /// Whether the key was seen without the lock; what `read` was given last is its value then.
    #[inline]
    fn glance(&self, index: usize, key: Key<'_>, wanted: Wanted, mut read: impl FnMut(&[Word64], usize)) -> bool {
        if L::ONE_USER || !self.locks().is_mapped() {
            return false;
        }
        let partition = self.unlocked(index);
        for _ in 0..TRIES {
            match partition.glance(key, wanted, &mut read) {
                // After the last word was read: what a dropped cache's memory holds by now counts for nothing.
                Glance::Found => return self.locks().is_current(),
                Glance::Unclear => return false,
                Glance::Disturbed => std::hint::spin_loop(),
            }
        }
        false
    }
}
