//! Entries taken out in the order of eviction: one, a batch, or all.
//!
//! Every step takes one partition's exclusive lock for a bounded time; between steps nothing is held. A large entry is
//! removed first and copied without the lock. One that has expired is handed to nobody: it is dropped, and counted as such.

use super::cache::SharedCache;
use super::lock::Locks;
use super::resources::PinGuard;
use crate::engine::counters::Removal;
use crate::engine::evicted::Evicted;
use crate::engine::outcomes::{Collect, Popped, PushError, Unfinished};
use crate::engine::work::Work;

/// Entries that a batch has, at most.
const BATCH_ENTRIES: usize = 1024;
/// Bytes of keys and values after which a batch ends.
const BATCH_BYTES: usize = 1 << 20;

/// What a bounded drain did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Entries were removed and appended, this many.
    Entries(usize),
    /// The partition is empty.
    Nothing,
    /// The next entry has this many bytes of key and value, for which there is no room. Nothing was removed.
    Needs(usize),
}

impl<L: Locks> SharedCache<L> {
    /// Removes the entry that is next to be evicted. With several partitions: of the one whose oldest entry has gone
    /// unused longest, as far as that can be compared.
    ///
    /// # Panics
    ///
    /// If there is no memory for key and value.
    pub fn pop_lru(&self) -> Option<(Vec<u8>, Vec<u8>)> {
        let (mut popped, mut ages) = (Evicted::default(), Vec::new());
        loop {
            let ages_by_partition = (0..self.partition_count())
                .filter_map(|index| self.shared(index, |partition| partition.oldest_age()).map(|age| (age, index)));
            let (_, index) = ages_by_partition.max()?;
            if self.drain_batch(index, 1, &mut popped, &mut ages) {
                let (key, value) = popped.get(0);
                return Some((key.to_vec(), value.to_vec()));
            }
        }
    }

    /// Removes every entry and says how many went, expired ones included.
    ///
    /// No value that was there at the start is there at the end, whatever is used, pinned or leased meanwhile. Who has one
    /// pinned reads on; a write-back that is finished says `false`; what only the cache had is lost to the store behind it.
    /// Values stored meanwhile go or stay, those that loads bring included.
    pub fn clear(&self) -> u64 {
        self.clear_in_steps(|| ())
    }

    /// As [`SharedCache::clear`]; `between` runs without a lock after each step, and may unwind.
    pub fn clear_in_steps(&self, between: impl FnMut()) -> u64 {
        self.clear_as(Removal::ByHand, between)
    }

    /// As [`SharedCache::clear_in_steps`], counted as this.
    ///
    /// As many go as there were, in the order of eviction. What is used meanwhile is passed over, and what is stored meanwhile
    /// goes in its place; so what is left then is looked for.
    pub(crate) fn clear_as(&self, why: Removal, mut between: impl FnMut()) -> u64 {
        let mut total = 0;
        let now = || self.now();
        for index in 0..self.partition_count() {
            let mut left = self.partition_len(index);
            let mut work = Work::new();
            while left > 0 {
                let (removed, is_empty) = self.exclusive(index, |partition| {
                    let (mut removed, mut is_empty) = (0, false);
                    while removed < left && !is_empty && !work.is_spent() {
                        match partition.pop(Collect::Nothing, &now, &mut work) {
                            Ok(Popped::Entry { .. } | Popped::Expired) => removed += 1,
                            Ok(Popped::Nothing) => is_empty = true,
                            Err(_) => break,
                        }
                    }
                    partition.note_removals(why, removed);
                    (removed, is_empty)
                });
                total += removed;
                if is_empty {
                    break;
                }
                left -= removed;
                work.renew();
                between();
            }
            self.free_large(index);
        }
        let left = self.iter().filter(|entry| {
            between();
            self.discard_as(why, &entry.key)
        });
        total + left.count() as u64
    }

    /// Removes every entry, least recently used of its partition first, and hands it to `take`, which runs without a
    /// lock. Returns the number of entries. Entries added meanwhile may stay.
    ///
    /// # Panics
    ///
    /// If there is no memory for an entry.
    pub fn drain(&self, mut take: impl FnMut(&[u8], &[u8])) -> u64 {
        self.drain_partitions(|_, key, value| take(key, value))
    }

    /// Frees what is left of large entries that were removed.
    pub(super) fn free_large(&self, partition: usize) {
        loop {
            let mut work = Work::new();
            if !self.exclusive(partition, |partition| partition.free_doomed(&mut work)) {
                return;
            }
        }
    }

    /// Live entries of one partition.
    pub fn partition_len(&self, partition: usize) -> u64 {
        self.shared(partition, |partition| u64::from(partition.len()))
    }

    /// Drains as many entries of each partition as it has at the start, with partition and age: so it ends, however fast
    /// others store.
    pub(super) fn drain_partitions(&self, mut take: impl FnMut((usize, u32), &[u8], &[u8])) -> u64 {
        let (mut batch, mut ages) = (Evicted::default(), Vec::new());
        let mut total = 0;
        for index in 0..self.partition_count() {
            let mut left = self.partition_len(index);
            while left > 0 && self.drain_batch(index, left.min(BATCH_ENTRIES as u64) as usize, &mut batch, &mut ages) {
                left -= batch.len() as u64;
                total += batch.len() as u64;
                for ((key, value), &age) in batch.iter().zip(&ages) {
                    take((index, age), key, value);
                }
            }
            self.free_large(index);
        }
        total
    }

    /// Removes at most `limit` entries of a partition, in the order of eviction, into `batch` and their ages into
    /// `ages` (both are cleared first); `false` if there was none. For drains that hand entries on as they come.
    ///
    /// # Panics
    ///
    /// If there is no memory for an entry.
    pub fn drain_batch(&self, partition: usize, limit: usize, batch: &mut Evicted, ages: &mut Vec<u32>) -> bool {
        let limit = limit.min(BATCH_ENTRIES);
        batch.clear();
        ages.clear();
        ages.reserve(limit);
        let mut work = Work::new();
        let now = || self.now();
        loop {
            let unfinished = self.exclusive(partition, |partition| {
                while batch.len() < limit && batch.bytes() < BATCH_BYTES && !work.is_spent() {
                    let age = partition.oldest_age();
                    match partition.pop(Collect::Growing(batch), &now, &mut work) {
                        Ok(Popped::Entry { age }) => ages.push(age),
                        Ok(Popped::Expired) if work.is_spent() => return Some((Unfinished::OutOfWork, age)),
                        Ok(Popped::Expired) => {}
                        Ok(Popped::Nothing) => break,
                        Err(unfinished) => return Some((unfinished, age)),
                    }
                }
                None
            });
            match unfinished {
                None => return !batch.is_empty(),
                Some((Unfinished::CopyFirst(pin), age)) => {
                    let guard = PinGuard::new(self, partition, pin);
                    self.copy_out(partition, pin, batch).expect("memory for an entry");
                    drop(guard);
                    ages.push(age.unwrap_or(0));
                    return true;
                }
                Some((Unfinished::Refused(error), _)) if batch.is_empty() => panic!("{error}"),
                Some(_) if !batch.is_empty() => return true,
                Some(_) => {
                    work.renew();
                }
            }
        }
    }

    /// Removes at most `limit` entries of a partition, in the order of eviction, and appends them to `drained` as long as
    /// that has room without growing (see [`Evicted::try_reserve`]). One step of a drain: a thousand entries at most.
    ///
    /// # Panics
    ///
    /// If the partition does not exist.
    pub fn drain_within(&self, partition: usize, limit: usize, drained: &mut Evicted) -> Drained {
        let limit = limit.min(BATCH_ENTRIES);
        let before = drained.len();
        let mut work = Work::new();
        let now = || self.now();
        loop {
            let last = self.exclusive(partition, |partition| {
                while drained.len() - before < limit && !work.is_spent() {
                    match partition.pop(Collect::Within(drained), &now, &mut work) {
                        Ok(Popped::Expired) if work.is_spent() => return Err(Unfinished::OutOfWork),
                        Ok(Popped::Entry { .. } | Popped::Expired) => {}
                        Ok(Popped::Nothing) => return Ok(Drained::Nothing),
                        Err(unfinished) => return Err(unfinished),
                    }
                }
                Ok(Drained::Nothing)
            });
            if let Err(Unfinished::CopyFirst(pin)) = last {
                let guard = PinGuard::new(self, partition, pin);
                let copied: Result<(), PushError> = self.copy_out(partition, pin, drained);
                copied.expect("there is room for the entry");
                drop(guard);
            }
            match (drained.len() - before, last) {
                (0, Err(Unfinished::NeedsRoom(bytes))) => return Drained::Needs(bytes),
                (0, Ok(nothing)) => return nothing,
                (0, Err(_)) => work.renew(),
                (count, _) => return Drained::Entries(count),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::config::Config;
    use crate::engine::policy::Policy;
    use crate::shared::inspect::InFlight;
    use crate::shared::take_out::TakeOutStep;

    #[test]
    fn a_clear_leaves_nothing_that_was_there_whatever_is_used_and_stored_meanwhile() {
        for policy in Policy::ALL {
            let cache = SharedCache::shared_mapping(&Config::bytes(4 << 20).partitions(1).policy(policy)).unwrap();
            (0..5000u32).for_each(|key| _ = cache.put(&key.to_be_bytes(), b"v").unwrap());
            let (mut steps, mut out) = (5000u32, Vec::new());
            cache.clear_in_steps(|| {
                cache.put(&steps.to_be_bytes(), b"new").unwrap();
                cache.get(&4999u32.to_be_bytes(), &mut out);
                steps += 1;
            });
            assert!(steps > 5001, "{policy}: too few steps for anything to come between");
            let there: Vec<u32> = (0..5000u32).filter(|key| cache.contains(&key.to_be_bytes())).collect();
            assert!(there.is_empty(), "{policy}: {there:?}");
            cache.validate().unwrap();
        }
    }
    #[test]
    fn a_clear_leaves_nothing_that_a_reader_has_pinned_or_a_worker_leased_meanwhile() {
        for policy in Policy::ALL {
            let cache = SharedCache::shared_mapping(&Config::bytes(4 << 20).partitions(1).policy(policy)).unwrap();
            (0..5000u32).for_each(|key| _ = cache.put(&key.to_be_bytes(), b"v").unwrap());
            let (mut steps, mut leased) = (5000u32, None);
            let read = cache.with(&4998u32.to_be_bytes(), |pinned| {
                cache.clear_in_steps(|| {
                    cache.put(&steps.to_be_bytes(), b"new").unwrap();
                    steps += 1;
                    if leased.is_none() {
                        let entry = cache.iter().find(|entry| entry.key == 4999u32.to_be_bytes()).expect("used last");
                        leased = Some(cache.lease_entry(entry.id, &mut Vec::new()));
                    }
                });
                pinned.to_vec()
            });
            assert_eq!(read.as_deref(), Some(&b"v"[..]), "{policy}");
            let there: Vec<u32> = (0..5000u32).filter(|key| cache.contains(&key.to_be_bytes())).collect();
            assert!(there.is_empty(), "{policy}: {there:?}");
            let Some(TakeOutStep::Yours(guard)) = leased else { panic!("{policy}: nobody else has it") };
            assert!(!guard.finish(), "{policy}: it is gone");
            assert_eq!(cache.in_flight(), InFlight::default(), "{policy}");
            cache.validate().unwrap();
        }
    }
}
