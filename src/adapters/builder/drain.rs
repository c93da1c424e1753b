//! The end of a build: every entry once, in the order of keys.
//!
//! Invariants: an entry leaves the cache after it was handed over, and only with the value that was; what was stored or
//! changed meanwhile is still there, and reported. If anything was lost the drain says so, before or after.
//!
//! Locking: a partition's lock for a moment at each step; none while an entry is handed over.

use super::BuilderCache;
use super::error::DrainError;
use crate::adapters::codec::Codec;
use crate::adapters::stored::{CacheKey, CacheValue};
use crate::shared::lock::Locks;
use crate::shared::write_back::InFlight;

impl<K: CacheKey, V: CacheValue<K>, L: Locks> BuilderCache<K, V, L> {
    /// Takes every entry out and hands it to `take`, in the order of keys, with whether it is dirty: one that is not, the
    /// store has already. For the leader, when the workers are done. Returns how many there were.
    ///
    /// Entries leave the cache one by one; memory beside it is the keys', and one value. A reader that has an entry pinned,
    /// be it one that was killed, is not waited for: it keeps the bytes that it reads.
    ///
    /// Costs a walk over the directory, the sorting of the keys, and two locks for each entry.
    ///
    /// # Errors
    ///
    /// Some worker is not done, or was killed in the middle of a change so that entries are lost; what `take` says. The
    /// entry that `take` refused, and those after it, are still in the cache.
    pub fn drain_sorted<E>(&self, mut take: impl FnMut(K, V, bool) -> Result<(), E>) -> Result<u64, DrainError<E>>
    where
        K: Ord,
    {
        self.cache.release_leases_of_all_dead();
        let InFlight { writes, loads, .. } = self.cache.in_flight();
        if writes + loads > 0 {
            return Err(DrainError::InUse { writes, loads });
        }
        let mut keys = Vec::with_capacity(self.cache.len() as usize);
        for entry in self.cache.iter() {
            keys.push((K::Codec::decode(&entry.key)?, entry.id));
        }
        if self.any_is_lost() {
            return Err(DrainError::Lost);
        }
        keys.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let mut drained = 0;
        let mut bytes = Vec::new();
        for (key, id) in keys {
            let Some((version, dirty)) = self.cache.value_of(id, &mut bytes) else { continue };
            let value = V::decode(&key, &bytes)?;
            take(key, value, dirty).map_err(DrainError::Taker)?;
            drained += u64::from(self.cache.take_out(id, version));
        }
        if self.any_is_lost() {
            return Err(DrainError::Lost);
        }
        match self.cache.len() {
            0 => Ok(drained),
            left => Err(DrainError::Changed(left)),
        }
    }
}
