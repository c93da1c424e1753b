//! What a cache says of itself, and compaction.
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

/// Entries or buckets that are looked at under one hold of a lock.
const STEP: usize = 4096;

impl<L: Locks> SharedCache<L> {
    /// Entries, removed ones included, that some reader of any process has pinned. Costs a walk over all entries.
    pub fn pinned(&self) -> u64 {
        (0..self.partition_count()).map(|index| self.pinned_in(index)).sum()
    }

    /// As [`SharedCache::pinned`], of one partition.
    pub(super) fn pinned_in(&self, index: usize) -> u64 {
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
