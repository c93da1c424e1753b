//! Counters of a partition. Each is declared once: here.
//!
//! The declaration makes the words of the region, the field of [`Stats`] with its documentation, and the list of names
//! and meanings ([`Stats::COUNTERS`]) from which reports and tables are made.
//!
//! Locking: the words are written under the partition's exclusive lock. Reads that take none are counted elsewhere
//! ([`Stripe`]), by processor, and added up with them.

use super::memory::region::{Region, region_struct};
use super::memory::words::Word64;

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)*) => {
        /// Counters since the cache was created.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Stats {
            $($(#[doc = $doc])+ pub $name: u64,)*
        }

        impl Stats {
            /// Name and meaning of every counter, in the order of [`Stats::values`].
            pub const COUNTERS: &'static [(&'static str, &'static str)] =
                &[$((stringify!($name), concat!($($doc),+).trim_ascii())),*];

            /// Every counter, in the order of [`Stats::COUNTERS`].
            pub fn values(&self) -> impl Iterator<Item = u64> + use<> {
                self.to_array().into_iter()
            }

            /// Every counter, in the order of [`Stats::COUNTERS`].
            pub fn to_array(&self) -> [u64; Stats::COUNTERS.len()] {
                [$(self.$name),*]
            }

            /// The inverse of [`Stats::to_array`].
            pub fn from_array(values: [u64; Stats::COUNTERS.len()]) -> Stats {
                let [$($name),*] = values;
                Stats { $($name,)* }
            }

            /// Adds another cache's counters, or another partition's.
            pub fn add(&mut self, other: &Stats) {
                $(self.$name += other.$name;)*
            }
        }

        /// The counters of one partition, as words of its region.
        #[derive(Clone, Copy, Debug)]
        pub struct Counters {
            region: Region,
        }

        impl Counters {
            /// Bytes of the words.
            pub const REGION_BYTES: usize = (Stats::COUNTERS.len() * size_of::<Word64>()).next_multiple_of(64);

            /// The counters over their words.
            pub fn open(region: Region) -> Counters {
                Counters { region }
            }

            /// All zero.
            pub fn format(&mut self) {
                self.region.zero(0, Self::REGION_BYTES);
            }

            counters!(@words 0usize; $($name,)*);

            /// The counters as they are.
            pub fn stats(&self) -> Stats {
                Stats { $($name: self.$name().get(),)* }
            }
        }
    };
    (@words $index:expr; $name:ident, $($rest:ident,)*) => {
        #[inline]
        pub(super) fn $name(&self) -> &Word64 {
            self.region.at(($index) * size_of::<Word64>())
        }
        counters!(@words $index + 1; $($rest,)*);
    };
    (@words $index:expr;) => {};
}

counters! {
    /// Reads (`get`, `with`) that found their key.
    hits,
    /// Reads that did not.
    misses,
    /// New keys stored.
    inserts,
    /// Values replaced.
    updates,
    /// Entries evicted to make room.
    evictions,
    /// Entries taken out by `remove`, `pop_lru`, `clear` or a drain.
    removals,
    /// Pushes that were refused: too large, or no room because everything is pinned.
    refused,
    /// Times that compaction ran, automatically or by request.
    compactions,
    /// Slabs that compaction emptied and returned to the pool.
    slabs_moved,
    /// Slots that compaction moved.
    entries_moved,
    /// Bytes that compaction moved.
    bytes_moved,
    /// Partitions that were found damaged and emptied.
    resets,
    /// Entries removed because their time was over, by a sweep or by whoever met them under the exclusive lock.
    expirations,
    /// Of the expirations, those by a sweep.
    swept,
    /// Of the removals, those of keys that were invalidated.
    invalidations,
    /// Of the refused, those whose key, or key and value, were too large.
    refused_too_large,
    /// Of the refused, those for which no room could be made.
    refused_no_room,
    /// Of the refused, those that were to live for too long.
    refused_ttl,
}

/// Why an entry is removed that has not expired and need not make way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// Somebody wants it gone.
    ByHand,
    /// Its key was invalidated.
    Invalidated,
}

impl Stats {
    /// Hits over reads; `None` before the first read.
    pub fn hit_ratio(&self) -> Option<f64> {
        let reads = self.hits + self.misses;
        (reads > 0).then(|| self.hits as f64 / reads as f64)
    }
}

region_struct! {
    /// Hits and misses of reads that took no exclusive lock, counted by the processor that ran the reader.
    pub struct Stripe: 64 bytes, align 64 {
        /// Reads that found their key.
        pub hits: Word64,
        /// Reads that did not.
        pub misses: Word64,
        _pad: [Word64; 6],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_has_a_word_of_its_own_and_a_meaning() {
        let mut counters = Counters::open(Region::leaked(Counters::REGION_BYTES));
        counters.format();
        counters.hits().add(1);
        counters.resets().add(2);
        let stats = counters.stats();
        assert_eq!((stats.hits, stats.resets, stats.values().sum::<u64>()), (1, 2, 3));
        let mut sum = stats;
        sum.add(&stats);
        assert!(sum.values().eq(stats.values().map(|value| 2 * value)));
        assert_eq!(Stats::COUNTERS.len(), stats.values().count());
        let mut number = 0;
        let values = std::array::from_fn(|_| (number += 1, number).1);
        assert_eq!(Stats::from_array(values).to_array(), values);
        assert!(Stats::COUNTERS.iter().all(|(_, meaning)| meaning.ends_with('.')));
    }
}
