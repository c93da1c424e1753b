//! What is known of a named cache beside its memory: counters that go on when it is made anew, those of SQL, and samples.
//!
//! The engine counts in the cache's memory, and reads without a lock beside it; both begin at zero when a cache is made anew.
//! So there are two numbers for each counter of the engine: what is *carried* over from memory that the cache had before, and
//! the *baseline* of the last reset.
//!
//! ```text
//! total = counted + carried    goes on as long as the cache; samples have it
//! shown = total − baseline     since the last reset
//! ```
//!
//! A reset notes a baseline and writes no counter: nobody who counts is in its way, and none of what others count meanwhile is
//! lost, but belongs to before or after. What SQL counts lies here itself, and is set to zero.
//!
//! Locking: counters of SQL are added to without a lock, by whoever has the cache in hand; one that was dropped in that moment may
//! leave a count to the next cache of its slot. All else is written under the catalog's exclusive lock, by somebody who has seen
//! there that the slot's life goes on, and read under the catalog's lock.
#![allow(unsafe_code)]

#[cfg(feature = "extension")]
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use super::catalog::Catalog;
use super::named_locks::LwLocks;
use super::refusals::Refusals;
use crate::engine::counters::Stats;
use crate::engine::memory::region::RegionType;
use crate::engine::memory::words::Word64;
use crate::shared::cache::SharedCache;

const COUNTERS: usize = Stats::COUNTERS.len();

/// Samples that are kept: an hour's, if there is one a minute.
pub(super) const MAX_SAMPLES: usize = 61;

/// What SQL counts.
#[cfg_attr(not(feature = "extension"), allow(dead_code))] // nobody else gives leases
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SqlCounter {
    /// Leases given.
    Leases,
    /// Calls that waited for somebody else's lease.
    LeaseWaits,
    /// Values stored by leases.
    LeaseFills,
    /// Values that were not stored because their lease was void.
    RefusedLease,
    /// Values that were not stored because the key had one.
    RefusedPresent,
    /// Results that were served although they were outdated.
    ServedStale,
    /// Results that were served where nothing tells whether they are right.
    ServedUnchecked,
}

pub(super) const SQL_COUNTERS: usize = SqlCounter::ServedUnchecked as usize + 1;

/// A cache at one moment. The counters are totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) at_us: u64,
    pub(super) hits: u64,
    pub(super) misses: u64,
    pub(super) entries: u64,
    pub(super) bytes: u64,
    /// Insertions and uses that moved an entry, as ages are told by them; `None` in memory that the cache has no more.
    pub(super) ticks: Option<u32>,
}

#[cfg(any(test, feature = "extension"))]
impl Sample {
    /// Hits and misses since an earlier one.
    pub(super) fn reads_since(&self, before: &Sample) -> (u64, u64) {
        (self.hits.saturating_sub(before.hits), self.misses.saturating_sub(before.misses))
    }
}

/// A sample as words.
#[repr(C)]
#[derive(Debug, Default)]
struct SampleWords {
    at_us: Word64,
    hits: Word64,
    misses: Word64,
    entries: Word64,
    bytes: Word64,
    /// `NO_TICKS`, or of 32 bits.
    ticks: Word64,
}

const NO_TICKS: u64 = u64::MAX;

impl SampleWords {
    fn get(&self) -> Sample {
        Sample {
            at_us: self.at_us.get(),
            hits: self.hits.get(),
            misses: self.misses.get(),
            entries: self.entries.get(),
            bytes: self.bytes.get(),
            ticks: u32::try_from(self.ticks.get()).ok(),
        }
    }

    fn set(&self, sample: Sample) {
        let Sample { at_us, hits, misses, entries, bytes, ticks } = sample;
        self.at_us.set(at_us);
        self.hits.set(hits);
        self.misses.set(misses);
        self.entries.set(entries);
        self.bytes.set(bytes);
        self.ticks.set(ticks.map_or(NO_TICKS, u64::from));
    }
}

/// The last samples, oldest first.
#[cfg(any(test, feature = "extension"))]
#[derive(Clone, Copy, Debug)]
pub(super) struct Samples {
    kept: [Sample; MAX_SAMPLES],
    len: usize,
}

#[cfg(any(test, feature = "extension"))]
impl Samples {
    /// When the last sample was taken that has fewer ticks than these by so many, or by more; `None` if there is none.
    pub(super) fn before(&self, ticks: u32, by: u64) -> Option<u64> {
        let is_before = |sample: &&Sample| sample.ticks.is_some_and(|then| u64::from(ticks.wrapping_sub(then)) >= by);
        self.iter().rev().find(is_before).map(|sample| sample.at_us)
    }
}

#[cfg(any(test, feature = "extension"))]
impl std::ops::Deref for Samples {
    type Target = [Sample];

    fn deref(&self) -> &[Sample] {
        &self.kept[..self.len]
    }
}

/// What is known of the cache in one slot.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Ledger {
    carried: [Word64; COUNTERS],
    baseline: [Word64; COUNTERS],
    pub(super) sql: [Word64; SQL_COUNTERS],
    pub(super) refusals: Refusals,
    /// When the counters were reset last, and when the memory was made anew last, in microseconds since 1970; 0: never.
    pub(super) reset_us: Word64,
    pub(super) resized_us: Word64,
    /// Samples so far. The next one goes to the place of this number, modulo the places.
    sampled: Word64,
    samples: [SampleWords; MAX_SAMPLES],
}
// SAFETY: repr(C), words only, no padding.
unsafe impl RegionType for Ledger {}

impl Ledger {
    /// Of a cache that is new.
    pub(super) fn clear(&self) {
        self.carried.iter().chain(&self.baseline).chain(&self.sql).for_each(|word| word.set(0));
        self.refusals.clear();
        [&self.reset_us, &self.resized_us, &self.sampled].into_iter().for_each(|word| word.set(0));
    }

    /// Counts something that SQL did.
    #[cfg(feature = "extension")]
    pub(super) fn count(&self, counter: SqlCounter) {
        self.sql[counter as usize].atomic().fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn total(&self, counted: Stats) -> Stats {
        let counted = counted.to_array();
        Stats::from_array(std::array::from_fn(|index| counted[index].wrapping_add(self.carried[index].get())))
    }

    /// Has this ledger go on with what another has, whose cache comes to new memory: `total` so far, of which the new
    /// memory has counted `copied`.
    fn take_over(&self, other: &Ledger, total: Stats, copied: Stats) {
        let (total, copied) = (total.to_array(), copied.to_array());
        for index in 0..COUNTERS {
            self.carried[index].set(total[index].wrapping_sub(copied[index]));
            self.baseline[index].set(other.baseline[index].get());
        }
        self.sql.iter().zip(&other.sql).for_each(|(to, from)| to.set(from.get()));
        self.refusals.take_over(&other.refusals);
        self.reset_us.set(other.reset_us.get());
        self.sampled.set(other.sampled.get());
        for (to, from) in self.samples.iter().zip(&other.samples) {
            to.set(Sample { ticks: None, ..from.get() });
        }
    }

    /// Begins to count anew, after `total`.
    #[cfg(feature = "extension")]
    pub(super) fn reset(&self, total: Stats) {
        self.baseline.iter().zip(total.to_array()).for_each(|(word, value)| word.set(value));
        self.sql.iter().for_each(|word| word.atomic().store(0, Ordering::Relaxed));
        self.refusals.clear();
        self.reset_us.set(now_us());
    }

    #[cfg(any(test, feature = "extension"))]
    pub(super) fn shown(&self, total: Stats) -> Stats {
        let total = total.to_array();
        Stats::from_array(std::array::from_fn(|index| total[index].saturating_sub(self.baseline[index].get())))
    }

    #[cfg(any(test, feature = "extension"))]
    pub(super) fn add_sample(&self, sample: Sample) {
        let number = self.sampled.get();
        self.samples[number as usize % MAX_SAMPLES].set(sample);
        self.sampled.set(number.wrapping_add(1));
    }

    #[cfg(any(test, feature = "extension"))]
    pub(super) fn samples(&self) -> Samples {
        let sampled = self.sampled.get() as usize;
        let len = sampled.min(MAX_SAMPLES);
        let at = |index: usize| {
            if index < len { self.samples[(sampled - len + index) % MAX_SAMPLES].get() } else { Sample::default() }
        };
        Samples { kept: std::array::from_fn(at), len }
    }
}

/// The real-time clock, in microseconds since 1970.
pub(super) fn now_us() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_micros() as u64)
}

impl Catalog {
    /// Has the ledger of the cache's new memory go on with what the one of its old memory has. For the one backend that
    /// makes the cache anew; reads without a lock that end between this and the end of the old memory are counted nowhere.
    ///
    /// Entries for which there is no room any more count as evicted. Nothing else of the copying is counted.
    pub(super) fn carry_over(self, old: (usize, Option<&SharedCache<LwLocks>>), new: (usize, &SharedCache<LwLocks>)) {
        let (from, to) = (self.area().ledger(old.0), self.area().ledger(new.0));
        if let Some(cache) = old.1 {
            let mut total = from.total(cache.stats());
            total.evictions += cache.len().saturating_sub(new.1.len());
            to.take_over(from, total, new.1.stats());
        }
        to.resized_us.set(now_us());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> Ledger {
        Ledger {
            carried: Default::default(),
            baseline: Default::default(),
            sql: Default::default(),
            refusals: Refusals::default(),
            reset_us: Word64::default(),
            resized_us: Word64::default(),
            sampled: Word64::default(),
            samples: std::array::from_fn(|_| SampleWords::default()),
        }
    }

    fn hits(hits: u64) -> Stats {
        Stats { hits, ..Stats::default() }
    }

    #[test]
    fn a_total_goes_on_over_new_memory_and_what_is_shown_begins_with_the_reset() {
        let (first, second) = (ledger(), ledger());
        first.baseline[0].set(4);
        first.sql[1].set(7);
        assert_eq!(first.shown(first.total(hits(10))).hits, 6);
        second.take_over(&first, first.total(hits(10)), hits(3));
        assert_eq!(second.total(hits(3)).hits, 10, "the copying counts for nothing");
        assert_eq!(second.shown(second.total(hits(5))).hits, 8);
        assert_eq!(second.sql[1].get(), 7);
        second.clear();
        assert_eq!((second.total(hits(5)).hits, second.sql[1].get()), (5, 0));
    }

    #[test]
    fn the_last_samples_are_kept_in_their_order_and_new_memory_has_other_ages() {
        let ledger = ledger();
        let sample = |at_us| Sample { at_us, hits: 2 * at_us, ticks: Some(at_us as u32), ..Sample::default() };
        assert!(ledger.samples().is_empty());
        for number in 0..200 {
            ledger.add_sample(sample(number));
            let first = (number + 1).saturating_sub(MAX_SAMPLES as u64);
            assert!(ledger.samples().iter().copied().eq((first..=number).map(sample)), "{number}");
        }
        let samples = ledger.samples();
        assert_eq!([1, 0, 60, 61].map(|by| samples.before(199, by)), [Some(198), Some(199), Some(139), None]);
        assert_eq!(samples.before(u32::MAX - 100, 5), Some(199), "ticks wrap");
        let next = super::tests::ledger();
        next.take_over(&ledger, Stats::default(), Stats::default());
        assert!(next.samples().iter().copied().eq((139..200).map(|at_us| Sample { ticks: None, ..sample(at_us) })));
    }
}
