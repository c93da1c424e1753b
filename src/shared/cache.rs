//! One cache for many users: partitions of the engine under their locks.
//!
//! A key's hash picks its partition; an operation takes that partition's lock, once, and no other. Reads take it in
//! shared mode under the policies `clock` and `s3-fifo`; under `lru` a hit moves its entry to the front, so reads take
//! it in exclusive mode. Hits and misses under a shared lock are counted by processor, so no counter is written by all.
//!
//! Not here: how a cache is made (`open`), reads that take no lock at all (`read`), what keys and values mean (`adapters`), where PostgreSQL's memory
//! and locks come from (`pg`).
#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::backing::Backing;
use super::lock::{Guard, LockMode, Locks, NoLocks};
pub use super::open::CreateError;
use super::resources::{Pin, PinGuard, ResourceRegistry};
use crate::engine::config::Policy;
use crate::engine::evicted::{Evicted, Sink};
use crate::engine::ids::EntryIndex;
use crate::engine::layout::{Layout, STRIPE_COUNT, Stripe};
use crate::engine::partition::{Key, Partition, PushError, Put, hash_key};
use crate::engine::region::Region;
use crate::engine::report::{MemoryReport, Stats};
use crate::engine::room::{CompactBudget, CompactReport};
use crate::engine::validate::Inconsistencies;

/// Entries that are removed under one acquisition of a lock, at most.
const BATCH_ENTRIES: usize = 1024;

/// An LRU cache of byte strings whose memory many processes may share.
///
/// All methods take `&self`. Keys and values are bytes here; [`TypedCache`](crate::TypedCache) puts codecs on top.
///
/// # Examples
///
/// ```
/// use pg_shared_lru::{Config, SharedCache};
/// let cache = SharedCache::private(&Config::bytes(1 << 20)).unwrap();
/// cache.put(b"key", b"value").unwrap();
/// let mut value = Vec::new();
/// assert!(cache.get(b"key", &mut value));
/// assert_eq!(value, b"value");
/// assert_eq!(cache.with(b"key", |value| value.len()), Some(5));
/// ```
pub struct SharedCache<L: Locks = NoLocks> {
    pub(super) partitions: Vec<UnsafeCell<Partition>>,
    /// The same partitions, for what needs no lock.
    pub(super) unlocked: Vec<Partition>,
    pub(super) locks: L,
    pub(super) resources: Arc<ResourceRegistry>,
    pub(super) region: Region,
    pub(super) layout: Arc<Layout>,
    /// The counters of reads that take no lock, if not in the region.
    pub(super) stripes: Option<&'static [Stripe]>,
    pub(super) hash_seed: u64,
    pub(super) type_tag: u64,
    pub(super) backing: Backing,
}

// SAFETY: a partition is only reached under its lock (`exclusive`, `shared`), so what the locks allow between threads
// is sound; everything else is immutable or synchronised by itself.
unsafe impl<L: Locks + Sync> Sync for SharedCache<L> {}
// SAFETY: as above, and nothing in it belongs to a thread.
unsafe impl<L: Locks + Send> Send for SharedCache<L> {}

impl<L: Locks> SharedCache<L> {
    /// The tag of the types of keys and values that the cache was created with; 0 for plain bytes.
    pub fn type_tag(&self) -> u64 {
        self.type_tag
    }

    /// The resolved configuration.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    #[inline]
    pub(super) fn key<'a>(&self, bytes: &'a [u8]) -> (usize, Key<'a>) {
        let key = Key { bytes, hash: hash_key(bytes, self.hash_seed) };
        (key.partition(self.layout.partition_count), key)
    }

    pub(super) fn exclusive<R>(&self, partition: usize, change: impl FnOnce(&mut Partition) -> R) -> R {
        self.change(Guard::acquire(&self.locks, partition, LockMode::Exclusive), change)
    }

    fn change<R>(&self, guard: Guard<'_, L>, change: impl FnOnce(&mut Partition) -> R) -> R {
        // SAFETY: the guard holds the exclusive lock, which keeps everybody else away (contract of `Locks`), and
        // `change` is code of this crate that takes no partition again.
        let partition = unsafe { &mut *self.partitions[guard.partition()].get() };
        if partition.is_damaged() {
            partition.reset();
        }
        change(partition)
    }

    pub(super) fn shared<R>(&self, partition: usize, read: impl FnOnce(&Partition) -> R) -> R {
        let guard = Guard::acquire(&self.locks, partition, LockMode::Shared);
        // SAFETY: the shared lock keeps writers away (contract of `Locks`).
        let view = unsafe { &*self.partitions[partition].get() };
        if view.is_damaged() {
            drop(guard);
            return self.exclusive(partition, |partition| read(partition));
        }
        read(view)
    }

    /// Looks a key up, notes the use, counts, and reads.
    pub(super) fn read<R>(
        &self,
        (partition, key): (usize, Key<'_>),
        read: impl FnOnce(&Partition, EntryIndex) -> R,
    ) -> Option<R> {
        match self.layout.policy {
            Policy::Lru => self.exclusive(partition, |partition| {
                let entry = partition.find_and_promote(key)?;
                Some(read(partition, entry))
            }),
            Policy::Clock | Policy::S3Fifo => self.shared(partition, |partition| {
                let found = partition.find(key);
                self.count_shared_read(found.is_some());
                let entry = found?;
                partition.reference(entry);
                Some(read(partition, entry))
            }),
        }
    }

    /// Counts a read that did not take the exclusive lock.
    pub(super) fn count_shared_read(&self, hit: bool) {
        // SAFETY: a call without arguments; on failure it returns -1, which the remainder maps into range too.
        let processor = unsafe { libc::sched_getcpu() } as usize;
        let stripe = &self.stripes()[processor % STRIPE_COUNT];
        let word = if hit { &stripe.hits } else { &stripe.misses };
        word.atomic().fetch_add(1, Ordering::Relaxed);
    }

    /// The counters of such reads: where nobody else's memory can take their place, even if the cache is dropped.
    fn stripes(&self) -> &[Stripe] {
        self.stripes.unwrap_or_else(|| self.layout.stripes(&self.region))
    }

    /// A partition for what needs no lock.
    #[inline]
    pub(super) fn unlocked(&self, partition: usize) -> &Partition {
        &self.unlocked[partition]
    }

    #[inline]
    pub(super) fn locks(&self) -> &L {
        &self.locks
    }

    /// Runs `read` on a key's value without copying it; `None` if there is no such key. Counts as a use.
    ///
    /// The entry is pinned meanwhile, and no lock is held: `read` may take its time, use the cache, or panic. A value
    /// that is chained over several slots, or that 255 readers have pinned already, is copied first. The bytes
    /// are aligned to 8. The pin is this process's: a child that `read` forks must not read on in the bytes.
    pub fn with<R>(&self, key: &[u8], read: impl FnOnce(&[u8]) -> R) -> Option<R> {
        enum Found {
            Pinned(Pin, &'static [u8]),
            Copied(Vec<u8>),
        }
        let (index, key) = self.key(key);
        let found = self.read((index, key), |partition, entry| match partition.pin(entry) {
            Some((offset, len, generation)) => {
                let pin = Pin { partition: index, entry, generation };
                // SAFETY: the entry stays pinned until `PinGuard` drops below, after the last use of the slice; the
                // region is mapped while `self` lives.
                Found::Pinned(pin, unsafe { partition.region().pinned_bytes(offset, len) })
            }
            None => {
                let mut value = Vec::new();
                partition.copy_value(entry, &mut value);
                Found::Copied(value)
            }
        })?;
        match found {
            Found::Pinned(pin, value) => {
                let _guard = PinGuard::new(self, pin);
                Some(read(value))
            }
            Found::Copied(value) => Some(read(&value)),
        }
    }

    /// As `exclusive`, but must not unwind.
    pub(super) fn clean_up<R>(&self, partition: usize, change: impl FnOnce(&mut Partition) -> R) -> R {
        self.change(Guard::acquire_for_cleanup(&self.locks, partition), change)
    }

    /// Stores a value; entries that must make way are dropped.
    ///
    /// # Errors
    ///
    /// See [`PushError`]; a value that the key had stays.
    pub fn put(&self, key: &[u8], value: &[u8]) -> Result<Put, PushError> {
        let (partition, key) = self.key(key);
        self.exclusive(partition, |partition| partition.push(key, value, &mut Sink::Drop))
    }

    /// Stores a value; entries that must make way are appended to `evicted`, keys and values intact. A value that is
    /// replaced is not.
    ///
    /// # Errors
    ///
    /// See [`PushError`]; a value that the key had stays. What was evicted all the same is in `evicted`.
    pub fn push(&self, key: &[u8], value: &[u8], evicted: &mut Evicted) -> Result<Put, PushError> {
        let (partition, key) = self.key(key);
        self.exclusive(partition, |partition| partition.push(key, value, &mut Sink::Keep(evicted)))
    }

    /// Stores a value only if nothing must make way for it.
    ///
    /// # Errors
    ///
    /// [`PushError::Full`] where [`SharedCache::put`] would evict.
    pub fn put_if_room(&self, key: &[u8], value: &[u8]) -> Result<Put, PushError> {
        let (partition, key) = self.key(key);
        self.exclusive(partition, |partition| partition.push(key, value, &mut Sink::Refuse))
    }

    /// Removes a key and returns its value.
    pub fn remove(&self, key: &[u8]) -> Option<Vec<u8>> {
        let (partition, key) = self.key(key);
        let mut value = Vec::new();
        self.exclusive(partition, |partition| partition.remove(key, &mut value)).then_some(value)
    }

    /// Removes the entry that is next to be evicted. With several partitions: of the one whose oldest entry has gone
    /// unused longest, as far as that can be compared.
    pub fn pop_lru(&self) -> Option<(Vec<u8>, Vec<u8>)> {
        loop {
            let ages = (0..self.partitions.len())
                .filter_map(|index| self.shared(index, |partition| partition.oldest_age()).map(|age| (age, index)));
            let (_, index) = ages.max()?;
            let mut popped = Evicted::default();
            self.exclusive(index, |partition| partition.pop(&mut Sink::Keep(&mut popped)));
            if !popped.is_empty() {
                let (key, value) = popped.get(0);
                return Some((key.to_vec(), value.to_vec()));
            }
        }
    }

    /// Removes every entry and says how many there were. Entries added meanwhile may stay.
    pub fn clear(&self) -> u64 {
        self.clear_in_steps(|| ())
    }

    /// As [`SharedCache::clear`]; `between` runs without a lock after every thousand entries or so, and may unwind.
    pub fn clear_in_steps(&self, mut between: impl FnMut()) -> u64 {
        let mut total = 0;
        for index in 0..self.partitions.len() {
            let mut left = self.partition_len(index);
            while left > 0 {
                let removed = self.exclusive(index, |partition| {
                    (0..BATCH_ENTRIES as u64).take_while(|_| partition.pop(&mut Sink::Drop).is_some()).count() as u64
                });
                total += removed;
                left = if removed == 0 { 0 } else { left.saturating_sub(removed) };
                between();
            }
        }
        total
    }

    /// Removes every entry, least recently used of its partition first, and hands it to `take`, which runs without a
    /// lock. Returns the number of entries. Entries added meanwhile may stay.
    pub fn drain(&self, mut take: impl FnMut(&[u8], &[u8])) -> u64 {
        let lengths: Vec<u64> = (0..self.partitions.len()).map(|index| self.partition_len(index)).collect();
        self.drain_partitions(&lengths, |_, key, value| take(key, value))
    }

    /// Live entries of one partition.
    pub fn partition_len(&self, partition: usize) -> u64 {
        self.shared(partition, |partition| u64::from(partition.len()))
    }

    /// Drains at most so many entries of each partition, with partition and age.
    pub(super) fn drain_partitions(&self, limits: &[u64], mut take: impl FnMut((usize, u32), &[u8], &[u8])) -> u64 {
        let mut batch = Evicted::default();
        let mut ages = Vec::new();
        let mut total = 0;
        for (index, &limit) in limits.iter().enumerate() {
            let mut left = limit;
            while self.drain_batch(index, left.min(BATCH_ENTRIES as u64) as usize, &mut batch, &mut ages) {
                left -= batch.len() as u64;
                total += batch.len() as u64;
                for ((key, value), &age) in batch.iter().zip(&ages) {
                    take((index, age), key, value);
                }
            }
        }
        total
    }

    /// Removes at most `limit` entries of a partition, in the order of eviction, into `batch` and their ages into
    /// `ages` (both are cleared first); `false` if there was none. For drains that hand entries on as they come.
    pub fn drain_batch(&self, partition: usize, limit: usize, batch: &mut Evicted, ages: &mut Vec<u32>) -> bool {
        const BATCH_BYTES: usize = 1 << 20;
        let limit = limit.min(BATCH_ENTRIES);
        batch.clear();
        ages.clear();
        self.exclusive(partition, |partition| {
            while batch.len() < limit && batch.bytes() < BATCH_BYTES {
                match partition.pop(&mut Sink::Keep(batch)) {
                    Some(age) => ages.push(age),
                    None => break,
                }
            }
        });
        !batch.is_empty()
    }

    /// Entries, removed ones included, that some reader of any process has pinned. Costs a walk over all entries.
    pub fn pinned(&self) -> u64 {
        self.sum(|partition| u64::from(partition.pinned_count()))
    }

    /// Live entries.
    pub fn len(&self) -> u64 {
        self.sum(|partition| u64::from(partition.len()))
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keys and values of live entries, in bytes.
    pub fn bytes(&self) -> u64 {
        self.sum(Partition::live_bytes)
    }

    fn sum(&self, count: impl Fn(&Partition) -> u64) -> u64 {
        (0..self.partitions.len()).map(|index| self.shared(index, &count)).sum()
    }

    /// Counters since the cache was created.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        for index in 0..self.partitions.len() {
            self.shared(index, |partition| partition.add_stats(&mut stats));
        }
        self.shared(0, |_| {
            for stripe in self.stripes() {
                stats.hits += stripe.hits.get();
                stats.misses += stripe.misses.get();
            }
        });
        stats
    }

    /// Where the memory is, by partition one after the other.
    pub fn memory_report(&self) -> MemoryReport {
        self.report_memory(false)
    }

    /// As [`SharedCache::memory_report`], with `longest_chain`, which costs a look at every bucket.
    pub fn memory_report_with_chains(&self) -> MemoryReport {
        self.report_memory(true)
    }

    fn report_memory(&self, measure_chains: bool) -> MemoryReport {
        let region_bytes = self.region.len_bytes() as u64;
        let partition_bytes = (self.partitions.len() * self.layout.partition_bytes) as u64;
        let mut report =
            MemoryReport { region_bytes, fixed_bytes: region_bytes - partition_bytes, ..MemoryReport::default() };
        for index in 0..self.partitions.len() {
            self.shared(index, |partition| partition.add_memory(&mut report, measure_chains));
        }
        report.classes.sort_by_key(|class| class.class);
        report
    }

    /// Relocates live entries so that whole slabs return to the pool. The budget is for all partitions together.
    pub fn compact(&self, budget: CompactBudget) -> CompactReport {
        let mut report = CompactReport::default();
        for index in 0..self.partitions.len() {
            let rest = budget.less(report.bytes_moved);
            report += self.exclusive(index, |partition| partition.compact(rest));
        }
        report
    }

    /// Checks every structure against the others, partition by partition, each under its exclusive lock.
    ///
    /// # Errors
    ///
    /// What was found wrong.
    pub fn validate(&self) -> Result<(), Inconsistencies> {
        let mut found = Vec::new();
        for index in 0..self.partitions.len() {
            if let Err(Inconsistencies(more)) = self.validate_partition(index) {
                found.extend(more);
            }
        }
        if found.is_empty() { Ok(()) } else { Err(Inconsistencies(found)) }
    }

    /// As [`SharedCache::validate`], for one partition.
    ///
    /// # Errors
    ///
    /// What was found wrong.
    pub fn validate_partition(&self, index: usize) -> Result<(), Inconsistencies> {
        let found = self.exclusive(index, |partition| partition.validate());
        found.map_err(|Inconsistencies(found)| {
            Inconsistencies(found.into_iter().map(|text| format!("partition {index}: {text}")).collect())
        })
    }

    /// How many partitions there are.
    pub fn partition_count(&self) -> usize {
        self.partitions.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::config::Config;

    fn damage(cache: &SharedCache<NoLocks>) {
        cache.exclusive(0, Partition::damage);
    }

    #[test]
    fn a_change_left_half_way_empties_the_partition_and_is_counted() {
        let cache = SharedCache::private(&Config::bytes(1 << 20).partitions(1)).unwrap();
        for number in 0..100u32 {
            cache.put(&number.to_be_bytes(), b"value").unwrap();
        }
        let ids: Vec<_> = cache.iter().map(|entry| entry.id).collect();
        damage(&cache);
        assert!(!cache.contains(&0u32.to_be_bytes()), "entries are lost, never wrong");
        assert_eq!((cache.len(), cache.stats().resets), (0, 1));
        cache.validate().unwrap();
        for number in 0..2000u32 {
            cache.put(&(number + 1000).to_be_bytes(), b"other").unwrap();
        }
        assert!(ids.iter().all(|&id| cache.entry(id).is_none()), "no old id names a new entry");
    }

    #[test]
    fn a_pinned_value_outlives_the_reset_of_its_partition() {
        let cache = SharedCache::private(&Config::bytes(1 << 20).partitions(1)).unwrap();
        cache.put(b"pinned", &[b'x'; 500]).unwrap();
        let churn = || {
            for number in 0..5000u32 {
                cache.put(&number.to_be_bytes(), &[b'y'; 500]).unwrap();
            }
        };
        cache.with(b"pinned", |value| {
            damage(&cache);
            churn();
            cache.validate().unwrap();
            assert!(value.iter().all(|&byte| byte == b'x'));
            assert_eq!((cache.stats().resets, cache.pinned()), (1, 1));
        });
        assert_eq!(cache.pinned(), 0);
        churn();
        cache.clear();
        cache.validate().unwrap();
        let report = cache.memory_report();
        assert_eq!(report.slabs_free, report.slabs_total, "what was set aside for the reader is back");
    }

    #[test]
    fn a_few_hot_entries_do_not_keep_the_directory_from_shrinking() {
        let cache = SharedCache::private(&Config::bytes(8 << 20).partitions(1)).unwrap();
        for number in 0..100_000u32 {
            cache.put(&number.to_be_bytes(), &[1; 40]).unwrap();
        }
        let many = cache.memory_report().directory_bytes;
        let mut out = Vec::new();
        for number in 0..20_000u32 {
            cache.put(&(number + 1_000_000).to_be_bytes(), &[2; 1500]).unwrap();
            if number % 40 == 0 {
                for hot in (0..100_000u32).step_by(500) {
                    cache.get(&hot.to_be_bytes(), &mut out);
                }
            }
        }
        cache.validate().unwrap();
        let report = cache.memory_report();
        assert!(report.directory_bytes * 4 < many, "{many} bytes of directory, now {}", report.directory_bytes);
        assert!(report.utilisation() > 0.9, "{}", report.utilisation());
    }
}
