//! One cache on a page: for psql, as JSON, or as a picture. All three show the same [`Figures`].
//!
//! ```text
//! numbers  numbers, bytes and times as people read them
//! plot     bars and lines made of characters
//! page     text of at most 80 columns
//! json     JSON
//! svg      a picture
//! ```
//!
//! Numbers only: no key and no value. Nothing here knows PostgreSQL; where the figures come from is `functions::report`.

mod json;
mod numbers;
mod page;
mod plot;
mod svg;

#[cfg(feature = "extension")]
pub(super) use self::json::{json, json_of_none};
#[cfg(feature = "extension")]
pub(super) use self::page::page;
#[cfg(feature = "extension")]
pub(super) use self::plot::Glyphs;
#[cfg(feature = "extension")]
pub(super) use self::svg::{svg, svg_of_none};
use super::ledger::Sample;
use crate::engine::counters::Stats;
use crate::engine::report::MemoryReport;
use crate::shared::inspect::AGE_GROUPS;

/// What is known of a cache.
#[derive(Clone, Debug)]
pub(super) struct Figures {
    pub(super) name: String,
    /// When they were taken, in microseconds since 1970 as all times.
    pub(super) at_us: u64,
    pub(super) policy: &'static str,
    pub(super) partitions: u32,
    /// The most entries, if that is the capacity.
    pub(super) max_entries: Option<u32>,
    pub(super) stats: Stats,
    pub(super) leases: u64,
    pub(super) lease_waits: u64,
    pub(super) lease_fills: u64,
    pub(super) refused_lease: u64,
    pub(super) refused_present: u64,
    pub(super) reset_us: Option<u64>,
    pub(super) resized_us: Option<u64>,
    pub(super) memory: MemoryReport,
    /// Entries by age: of 0, of 1, 2 to 3, and so on.
    pub(super) ages: [u64; AGE_GROUPS],
    pub(super) oldest_age: Option<u32>,
    pub(super) oldest_since_us: Option<u64>,
    /// Oldest first.
    pub(super) samples: Vec<Sample>,
}

/// Some counters under one heading, each with its name.
type Counts = (&'static str, &'static [&'static str], Vec<u64>);

impl Figures {
    /// Counters by what happened, each once.
    fn counts(&self) -> [Counts; 5] {
        let Stats { inserts, updates, evictions, removals, expirations, swept, invalidations, .. } = self.stats;
        let Stats { refused_too_large, refused_no_room, refused_ttl, compactions, slabs_moved, resets, .. } =
            self.stats;
        [
            ("stored", &["new", "replaced", "by lease"], vec![inserts, updates, self.lease_fills]),
            (
                "gone",
                &["capacity", "expired", "swept", "invalidated", "removed"],
                vec![
                    evictions,
                    expirations.saturating_sub(swept),
                    swept,
                    invalidations,
                    removals.saturating_sub(invalidations),
                ],
            ),
            (
                "refused",
                &["too large", "no room", "lives too long", "lease void", "key has a value"],
                vec![refused_too_large, refused_no_room, refused_ttl, self.refused_lease, self.refused_present],
            ),
            ("leases", &["given", "waited for"], vec![self.leases, self.lease_waits]),
            ("memory", &["compactions", "slabs freed", "resets"], vec![compactions, slabs_moved, resets]),
        ]
    }

    /// Where the bytes are: parts of the whole, which add up to it.
    fn parts(&self) -> [(&'static str, u64); 4] {
        let MemoryReport { payload_bytes, metadata_bytes, free_bytes, region_bytes, .. } = self.memory;
        let rest = region_bytes.saturating_sub(payload_bytes + metadata_bytes + free_bytes);
        [("keys and values", payload_bytes), ("metadata", metadata_bytes), ("partly used", rest), ("free", free_bytes)]
    }

    /// What the samples tell of the time between each two of them: hits over reads, if there were reads; and the reads.
    fn intervals(&self) -> impl Iterator<Item = (Option<f64>, u64)> + '_ {
        self.samples.windows(2).map(|pair| {
            let (hits, misses) = pair[1].reads_since(&pair[0]);
            let reads = hits + misses;
            ((reads > 0).then(|| hits as f64 / reads as f64), reads)
        })
    }

    /// The groups of ages up to the last that has entries: the lowest age of each, and how many it has.
    fn age_groups(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let groups = self.ages.iter().rposition(|&count| count > 0).map_or(0, |last| last + 1);
        let first = |group: usize| if group == 0 { 0 } else { 1u64 << (group - 1) };
        self.ages[..groups].iter().enumerate().map(move |(group, &count)| (first(group), count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::config::Config;
    use crate::shared::cache::SharedCache;

    /// A cache in use, of this name, with an hour of samples.
    pub(super) fn figures(name: &str) -> Figures {
        let cache = SharedCache::private(&Config::bytes(4 << 20).partitions(1)).unwrap();
        for number in 0..20_000u32 {
            cache.put(&number.to_be_bytes(), &vec![1; number as usize % 700]).unwrap();
        }
        let sample = |minute: u64| Sample {
            at_us: (1_700_000_000 + 60 * minute) * 1_000_000,
            hits: minute * minute,
            misses: 10 * minute,
            entries: 100 * minute,
            bytes: 50_000 * minute,
            ticks: None,
        };
        Figures {
            name: name.to_owned(),
            at_us: sample(61).at_us,
            policy: "clock",
            partitions: 1,
            max_entries: None,
            stats: cache.stats(),
            leases: 1,
            lease_waits: 2,
            lease_fills: 3,
            refused_lease: 4,
            refused_present: 5,
            reset_us: Some(sample(3).at_us),
            resized_us: None,
            memory: cache.memory_report(),
            ages: cache.count_ages(|| ()),
            oldest_age: cache.oldest_ages().0,
            oldest_since_us: Some(sample(30).at_us),
            samples: (0..61).map(sample).collect(),
        }
    }

    /// One that was just made.
    pub(super) fn empty() -> Figures {
        let cache = SharedCache::private(&Config::bytes(1 << 20)).unwrap();
        Figures {
            stats: cache.stats(),
            memory: cache.memory_report(),
            ages: [0; AGE_GROUPS],
            oldest_age: None,
            oldest_since_us: None,
            samples: Vec::new(),
            ..figures("empty")
        }
    }

    /// One whose every number is as large as can be.
    pub(super) fn extreme() -> Figures {
        let mut figures = figures(&"Ä\n<&\"\u{1}".repeat(9));
        figures.stats = Stats::from_array([u64::MAX / 8; Stats::COUNTERS.len()]);
        figures.ages = [u64::MAX / 64; AGE_GROUPS];
        figures.partitions = 64;
        figures.max_entries = Some(u32::MAX);
        figures.oldest_age = Some(u32::MAX);
        figures.memory.region_bytes = 1 << 40;
        figures.memory.classes.iter_mut().for_each(|class| {
            (class.slot_bytes, class.slabs, class.slots, class.used) = (1 << 30, 1 << 40, 1 << 44, 1 << 44);
        });
        figures
    }

    #[test]
    fn every_entry_and_every_byte_is_somewhere() {
        let figures = figures("c");
        assert_eq!(figures.parts().iter().map(|(_, bytes)| bytes).sum::<u64>(), figures.memory.region_bytes);
        assert_eq!(figures.age_groups().map(|(_, count)| count).sum::<u64>(), figures.memory.entries);
        assert_eq!(figures.intervals().count(), 60);
        assert_eq!(figures.intervals().next(), Some((Some(1.0 / 11.0), 11)));
        assert_eq!(empty().age_groups().count() + empty().intervals().count(), 0);
    }
}
