//! The end of a build: every entry handed over, in the order of keys, by one process or by several at once.
//!
//! Invariants: an entry leaves the cache after it was handed over, and only with the value that was; what was stored or
//! changed meanwhile is still there, and reported or handed over again. If anything was lost the drain says so, before or
//! after. Of several workers that drain together each entry is one's at a time.
//!
//! Locking: a partition's lock for a moment at each step; none while an entry is handed over.

use super::BuilderCache;
use super::error::{BuilderError, DrainError};
use super::wait::WaitBudget;
use crate::adapters::codec::Codec;
use crate::adapters::stored::{CacheKey, CacheValue};
use crate::engine::ids::EntryId;
use crate::shared::inspect::InFlight;
use crate::shared::lock::Locks;
use crate::shared::take_out::{TakeOutGuard, TakeOutStep};

/// Which of the workers that drain a cache together this one is. It says where in the order of keys the worker begins, and
/// nothing else: what the others do not take it takes, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainShare {
    /// The worker's number, from 0 on.
    pub worker: usize,
    /// How many there are.
    pub workers: usize,
}

impl DrainShare {
    /// Where a worker begins among so many entries.
    fn start(self, entries: usize) -> usize {
        let start = entries as u128 * self.worker as u128 / self.workers.max(1) as u128;
        if start < entries as u128 { start as usize } else { 0 }
    }
}

impl<K: CacheKey, V: CacheValue<K>, L: Locks> BuilderCache<K, V, L> {
    /// Takes every entry out and hands it to `take`, in the order of keys, with whether it is dirty: one that is not, the
    /// store has already. For one process, when the workers are done. Returns how many there were.
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
        let mut drained = 0;
        let mut bytes = Vec::new();
        for (key, id) in self.sorted_keys()? {
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

    /// As [`BuilderCache::drain_sorted`], but by several workers at the same time, each of which calls this once it stores
    /// nothing any more. Each entry is handed to one of them, which has its key alone until `take` returns. Returns how
    /// many this worker has taken out.
    ///
    /// A worker begins with its share of the order of keys and goes on with what is left of the others'. It does not wait
    /// for what others have in hand. An entry that is changed while it is in hand stays, and is handed over again. When the
    /// drains of all workers have returned, without an error, the cache is empty: even if some have begun while others still
    /// stored. (But they should not: what is drained others have to load again.) What a worker that failed or was killed
    /// leaves stays in the cache, for the other workers or for a [`BuilderCache::drain_sorted`] at the end, which also tells
    /// whether all are done.
    ///
    /// In `take` this cache and others may be used, but for the entry's own key; such a call does not wait.
    ///
    /// Memory beside the cache is the keys' (about 16 bytes and the key for each entry) and one value, in each worker. Costs
    /// as [`BuilderCache::drain_sorted`], with three locks for each entry, and one for each that another was faster to
    /// take.
    ///
    /// # Errors
    ///
    /// As there, but that others are not done is none.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::convert::Infallible;
    ///
    /// use pg_shared_lru::{BuilderCache, Config, DrainShare, SharedCache};
    /// # use pg_shared_lru::SpillStore;
    /// # struct Nowhere;
    /// # impl SpillStore<u32, Vec<u32>> for Nowhere {
    /// #     type Error = Infallible;
    /// #     fn load(&mut self, _: &u32) -> Result<Option<Vec<u32>>, Infallible> { Ok(None) }
    /// #     fn spill(&mut self, _: &u32, _: Vec<u32>) -> Result<(), Infallible> { Ok(()) }
    /// # }
    ///
    /// let memory = SharedCache::shared_mapping(&Config::bytes(1 << 20))?;
    /// let handles = [memory.attach_again()?, memory.attach_again()?];
    /// let leader = BuilderCache::<u32, Vec<u32>, _>::over(memory)?;
    /// for node in 0..1000 {
    ///     leader.push(&node, &vec![node], &mut Nowhere)?;
    /// }
    /// let taken: u64 = std::thread::scope(|scope| {
    ///     let workers = handles.map(BuilderCache::<u32, Vec<u32>, _>::over).into_iter().enumerate().map(|(worker, cache)| {
    ///         let cache = cache.expect("the same types");
    ///         let share = DrainShare { worker, workers: 2 };
    ///         scope.spawn(move || cache.drain_share(share, |_node, _list, _is_dirty| Ok::<_, Infallible>(())))
    ///     });
    ///     let workers: Vec<_> = workers.collect();
    ///     workers.into_iter().map(|worker| worker.join().expect("no panic").expect("nothing is lost")).sum()
    /// });
    /// assert_eq!(taken, 1000);
    /// assert_eq!(leader.drain_sorted(|_, _, _| Err("left by a worker"))?, 0);
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn drain_share<E>(
        &self,
        share: DrainShare,
        mut take: impl FnMut(K, V, bool) -> Result<(), E>,
    ) -> Result<u64, DrainError<E>>
    where
        K: Ord,
    {
        let mut drained = 0;
        let mut bytes = Vec::new();
        loop {
            self.cache.release_leases_of_all_dead();
            let mut keys = self.sorted_keys()?;
            let start = share.start(keys.len());
            keys.rotate_left(start);
            let mut was_any_handed_over = false;
            for (key, id) in keys {
                let Some(guard) = self.lease(id, &mut bytes) else { continue };
                let value = V::decode(&key, &bytes)?;
                take(key, value, guard.is_dirty()).map_err(DrainError::Taker)?;
                drained += u64::from(guard.finish());
                was_any_handed_over = true;
            }
            // Once more, for what was changed in somebody's hands, until there is nothing that this worker can have.
            if !was_any_handed_over {
                break;
            }
        }
        if self.any_is_lost() { Err(DrainError::Lost) } else { Ok(drained) }
    }

    /// The right to an entry and its value, if nobody else has it.
    fn lease(&self, id: EntryId, bytes: &mut Vec<u8>) -> Option<TakeOutGuard<'_, L>> {
        let mut budget = WaitBudget::default();
        loop {
            match self.cache.lease_entry(id, bytes) {
                TakeOutStep::Yours(guard) => return Some(guard),
                TakeOutStep::Taken => return None,
                TakeOutStep::TooMany(blocked) => {
                    let waited: Result<(), BuilderError<()>> = self.wait_for_room(blocked, &mut budget, bytes.len());
                    waited.ok()?;
                }
            }
        }
    }

    /// Every entry, in the order of keys.
    fn sorted_keys<E>(&self) -> Result<Vec<(K, EntryId)>, DrainError<E>>
    where
        K: Ord,
    {
        let mut keys = Vec::with_capacity(self.cache.len() as usize);
        for entry in self.cache.iter() {
            keys.push((K::Codec::decode(&entry.key)?, entry.id));
        }
        if self.any_is_lost() {
            return Err(DrainError::Lost);
        }
        keys.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        Ok(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_begin_apart_and_within_the_entries() {
        let starts = |workers: usize, entries| {
            let start = |worker| DrainShare { worker, workers }.start(entries);
            (0..workers).map(start).collect::<Vec<_>>()
        };
        assert_eq!(starts(4, 100), [0, 25, 50, 75]);
        assert_eq!(starts(3, 2), [0, 0, 1]);
        assert_eq!(starts(2, 0), [0, 0]);
        // Numbers that make no sense are no panic: they say where to begin, and no more.
        assert_eq!(DrainShare { worker: 7, workers: 0 }.start(10), 0);
        assert_eq!(DrainShare { worker: usize::MAX, workers: 1 }.start(usize::MAX), 0);
    }
}
