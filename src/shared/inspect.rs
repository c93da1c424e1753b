//! What a cache says of itself: reports, counts, checks; and compaction.
//!
//! Each step takes one partition's lock, in shared mode but for compaction, for a bounded time; a check of a whole
//! partition takes as long as the partition is large, and holds the lock in shared mode.

use super::cache::SharedCache;
use super::lock::Locks;
use crate::engine::compaction::{CompactBudget, CompactReport};
use crate::engine::counters::Stats;
use crate::engine::findings::Inconsistencies;
use crate::engine::ids::EntryIndex;
use crate::engine::partition::Partition;
use crate::engine::report::MemoryReport;
use crate::engine::work::Work;

/// Groups of ages: none, and one for each of 32 bits.
pub const AGE_GROUPS: usize = 33;

/// Entries or buckets that are looked at under one hold of a lock.
const STEP: usize = 4096;

/// What workers have under way in a cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InFlight {
    /// Entries being written back.
    pub writes: u64,
    /// Keys being loaded.
    pub loads: u64,
    /// Entries that readers have pinned.
    pub pins: u64,
}

impl InFlight {
    /// All together.
    pub fn total(self) -> u64 {
        self.writes + self.loads + self.pins
    }
}

impl<L: Locks> SharedCache<L> {
    /// What is under way in the whole cache. Costs a walk over it.
    pub fn in_flight(&self) -> InFlight {
        let mut sum = InFlight::default();
        for index in 0..self.partition_count() {
            let (loads, writes) = self.shared(index, |partition| partition.lease_counts());
            sum.loads += u64::from(loads);
            sum.writes += u64::from(writes);
            sum.pins += self.pinned_in(index);
        }
        sum
    }

    /// Entries, removed ones included, that some reader of any process has pinned. Costs a walk over all entries.
    pub fn pinned(&self) -> u64 {
        (0..self.partition_count()).map(|index| self.pinned_in(index)).sum()
    }

    /// As [`SharedCache::pinned`], of one partition.
    fn pinned_in(&self, index: usize) -> u64 {
        let (mut sum, mut from) = (0, Some(EntryIndex::NONE));
        while let Some(start) = from {
            let (count, next) = self.shared(index, |partition| partition.count_pinned(start, STEP));
            sum += u64::from(count);
            from = next;
        }
        sum
    }

    /// Live entries. One that has expired counts until it is removed.
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

    /// The age of the entry that has gone unused longest, of any partition, as far as the policy tells; `None` if there is
    /// no entry. And, added up over the partitions, by how many [`SharedCache::ticks`] there were fewer just before the last
    /// use of the oldest.
    pub fn oldest_ages(&self) -> (Option<u32>, u64) {
        let ages = (0..self.partition_count()).filter_map(|index| self.shared(index, Partition::oldest_age));
        ages.fold((None, 0), |(oldest, sum), age| (oldest.max(Some(age)), sum + u64::from(age) + 1))
    }

    /// Insertions and uses that moved an entry, of all partitions. Wraps.
    pub fn ticks(&self) -> u32 {
        self.sum(|partition| u64::from(partition.tick())) as u32
    }

    /// How many entries there are of each age: of 0 first, then of 1, 2 to 3, 4 to 7, and so on. `between` runs without a lock
    /// after each step, and may unwind. Costs a walk over the records of all entries.
    pub fn count_ages(&self, mut between: impl FnMut()) -> [u64; AGE_GROUPS] {
        let mut counts = [0; AGE_GROUPS];
        for index in 0..self.partition_count() {
            let mut from = Some(EntryIndex::NONE);
            while let Some(start) = from {
                from = self.shared(index, |partition| {
                    let mut next = start;
                    for _ in 0..STEP {
                        let entry = partition.walk(next)?;
                        counts[AGE_GROUPS - 1 - partition.age(entry).leading_zeros() as usize] += 1;
                        next = EntryIndex(entry.0 + 1);
                    }
                    Some(next)
                });
                between();
            }
        }
        counts
    }

    fn sum(&self, count: impl Fn(&Partition) -> u64) -> u64 {
        (0..self.partition_count()).map(|index| self.shared(index, &count)).sum()
    }

    /// Counters since the cache was created.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        for index in 0..self.partition_count() {
            stats.add(&self.shared(index, |partition| partition.stats()));
        }
        // Under a lock, so that the memory is the cache's.
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
        let region_bytes = self.region.len_bytes() as u64;
        let partition_bytes = (self.partition_count() * self.layout.geometry.partition_bytes) as u64;
        let fixed_bytes = region_bytes - partition_bytes;
        let mut report = MemoryReport { region_bytes, fixed_bytes, ..MemoryReport::default() };
        for index in 0..self.partition_count() {
            self.shared(index, |partition| partition.add_memory(&mut report));
        }
        report.classes.sort_by_key(|class| class.class);
        report
    }

    /// As [`SharedCache::memory_report`], with `longest_chain`, which costs a look at every bucket.
    pub fn memory_report_with_chains(&self) -> MemoryReport {
        let mut report = self.memory_report();
        for index in 0..self.partition_count() {
            let mut from = Some(0);
            while let Some(start) = from {
                let (longest, next) = self.shared(index, |partition| partition.longest_chain(start, STEP as u32));
                report.longest_chain = report.longest_chain.max(longest);
                from = next;
            }
        }
        report
    }

    /// Relocates live entries so that whole slabs return to the pool. The budget is for all partitions together; at most
    /// one slot more is moved.
    pub fn compact(&self, budget: CompactBudget) -> CompactReport {
        let mut report = CompactReport::default();
        for index in 0..self.partition_count() {
            self.free_large(index);
            loop {
                let rest = budget.less(report.bytes_moved);
                let mut work = Work::new();
                let (step, has_more) = self.exclusive(index, |partition| partition.compact(rest, &mut work));
                report += step;
                // A step that moved nothing has met pinned entries only.
                if !has_more || rest.is_spent() || step.bytes_moved == 0 {
                    break;
                }
            }
        }
        report
    }

    /// Checks every structure against the others, partition by partition, each under its shared lock.
    ///
    /// # Errors
    ///
    /// What was found wrong.
    pub fn validate(&self) -> Result<(), Inconsistencies> {
        let mut found = Vec::new();
        if !self.shared(0, |_| self.settings().has_possible_ttl()) {
            found.push("the time to live of entries whose put says nothing is none that can be set".to_owned());
        }
        for index in 0..self.partition_count() {
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
        let found = self.shared(index, Partition::validate);
        found.map_err(|Inconsistencies(found)| {
            Inconsistencies(found.into_iter().map(|text| format!("partition {index}: {text}")).collect())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::engine::config::Config;
    use crate::engine::counters::Removal;
    use crate::shared::expiry::Expiry;

    fn cache(bytes: usize) -> SharedCache<crate::shared::lock::NoLocks> {
        SharedCache::private(&Config::bytes(bytes).partitions(1)).unwrap()
    }

    #[test]
    fn every_way_to_go_has_a_counter_of_its_own() {
        let cache = cache(4 << 20);
        let short = |key: &[u8]| _ = cache.put_with(key, b"v", Expiry::After(Duration::ZERO)).unwrap();
        let counts = || {
            let stats = cache.stats();
            [stats.removals, stats.invalidations, stats.expirations, stats.swept, stats.evictions]
        };
        for key in [b"by hand", b"invalid", b"evicted"] {
            cache.put(key, b"v").unwrap();
        }
        assert!(cache.discard(b"by hand"));
        assert_eq!(counts(), [1, 0, 0, 0, 0]);
        assert!(cache.discard_as(Removal::Invalidated, b"invalid"));
        assert!(!cache.discard_as(Removal::Invalidated, b"invalid"));
        assert_eq!(counts(), [2, 1, 0, 0, 0]);
        short(b"met");
        assert!(!cache.discard_as(Removal::Invalidated, b"met"), "it has expired");
        assert_eq!(counts(), [2, 1, 1, 0, 0]);
        short(b"swept");
        cache.sweep(u64::MAX);
        assert_eq!(counts(), [2, 1, 2, 1, 0]);
        (0..5u32).for_each(|key| _ = cache.put(&key.to_be_bytes(), b"v").unwrap());
        assert_eq!(cache.clear_as(Removal::Invalidated, || ()), 6);
        assert_eq!(counts(), [8, 7, 2, 1, 0]);
        cache.put(b"k", b"v").unwrap();
        assert_eq!((cache.clear(), counts()), (1, [9, 7, 2, 1, 0]));
        (0..100_000u32).for_each(|key| _ = cache.put(&key.to_be_bytes(), &[0; 100]).unwrap());
        let stats = cache.stats();
        assert!(stats.evictions > 0);
        assert_eq!(stats.inserts - stats.evictions - stats.removals - stats.expirations, cache.len());
    }

    #[test]
    fn a_refusal_is_counted_by_its_reason_and_all_add_up() {
        let cache = cache(1 << 20);
        cache.put(&[0; 70_000], b"v").unwrap_err();
        cache.put(b"k", &[0; 1 << 20]).unwrap_err();
        cache.put_with(b"k", b"v", Expiry::After(Duration::MAX)).unwrap_err();
        let mut number = 0u32;
        while cache.put_if_room(&number.to_be_bytes(), &[0; 1000]).is_ok() {
            number += 1;
        }
        let stats = cache.stats();
        assert_eq!((stats.refused_too_large, stats.refused_no_room, stats.refused_ttl, stats.refused), (2, 1, 1, 4));
    }

    #[test]
    fn ages_are_counted_by_powers_of_two_and_the_oldest_is_the_next_to_go() {
        let cache = cache(1 << 20);
        assert_eq!((cache.oldest_ages(), cache.count_ages(|| ()).iter().sum::<u64>()), ((None, 0), 0));
        let before = cache.ticks();
        (0..10u32).for_each(|key| _ = cache.put(&key.to_be_bytes(), b"v").unwrap());
        assert_eq!((cache.oldest_ages(), cache.ticks() - before), ((Some(9), 10), 10));
        let counts = cache.count_ages(|| ());
        assert_eq!(counts[..6], [1, 1, 2, 4, 2, 0]);
        assert_eq!(counts.iter().sum::<u64>(), 10);
    }
}
