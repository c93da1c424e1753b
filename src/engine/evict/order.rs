//! The order of eviction of a partition: the choice of a policy, and one way to it.

use super::clock::Clock;
use super::eviction::{Candidates, Eviction, HitNeeds, Search};
use super::lru::Lru;
use super::queues::{Queues, Totals};
use super::s3fifo::S3Fifo;
use crate::engine::entry::record::{Record, Records};
use crate::engine::findings::Findings;
use crate::engine::hash::KeyHash;
use crate::engine::ids::EntryIndex;
use crate::engine::memory::region::Region;
use crate::engine::policy::Policy;
use crate::engine::work::Work;

/// The policies: a type and the name of a [`Policy`] are the same.
macro_rules! policies {
    ($($name:ident),*) => {
        /// The order of eviction of one partition.
        #[derive(Clone, Debug)]
        pub enum EvictionOrder {
            $(
                #[doc = concat!("By [`Policy::", stringify!($name), "`].")]
                $name($name),
            )*
        }

        impl EvictionOrder {
            /// Bytes of the order's own words in a partition that can hold about so many entries.
            pub fn region_bytes(policy: Policy, expected_entries: u64) -> usize {
                match policy {
                    $(Policy::$name => $name::region_bytes(expected_entries),)*
                }
            }

            /// The order over its words.
            pub fn open(policy: Policy, region: Region, records: Records) -> EvictionOrder {
                match policy {
                    $(Policy::$name => EvictionOrder::$name($name::open(region, records)),)*
                }
            }
        }

        macro_rules! of_policy {
            ($order:expr, $policy:ident => $do:expr) => {
                match $order {
                    $(EvictionOrder::$name($policy) => $do,)*
                }
            };
        }
    };
}
policies!(Lru, Clock, S3Fifo);

impl Eviction for EvictionOrder {
    #[inline]
    fn queues(&self) -> &Queues {
        of_policy!(self, policy => policy.queues())
    }

    fn promotes_on_hit(&self) -> bool {
        of_policy!(self, policy => policy.promotes_on_hit())
    }

    fn format(&mut self) {
        of_policy!(self, policy => policy.format())
    }

    #[inline]
    fn insert(&mut self, entry: EntryIndex, hash: KeyHash, bytes: u64, totals: Totals) {
        of_policy!(self, policy => policy.insert(entry, hash, bytes, totals))
    }

    #[inline]
    fn remove(&mut self, entry: EntryIndex, bytes: u64) {
        of_policy!(self, policy => policy.remove(entry, bytes))
    }

    #[inline]
    fn note_eviction(&mut self, entry: EntryIndex, hash: KeyHash) {
        of_policy!(self, policy => policy.note_eviction(entry, hash))
    }

    fn replace(&mut self, old: EntryIndex, old_bytes: u64, new: EntryIndex, new_bytes: u64) {
        of_policy!(self, policy => policy.replace(old, old_bytes, new, new_bytes))
    }

    #[inline]
    fn resize(&mut self, entry: EntryIndex, bytes_before: u64, bytes: u64) {
        of_policy!(self, policy => policy.resize(entry, bytes_before, bytes))
    }

    #[inline(always)]
    fn hit(&self, record: &Record) -> HitNeeds {
        of_policy!(self, policy => policy.hit(record))
    }

    #[inline]
    fn mark(&self, entry: EntryIndex) {
        of_policy!(self, policy => policy.mark(entry))
    }

    #[inline]
    fn promote(&mut self, entry: EntryIndex) {
        of_policy!(self, policy => policy.promote(entry))
    }

    fn is_marked(&self, record: &Record) -> bool {
        of_policy!(self, policy => policy.is_marked(record))
    }

    #[inline]
    fn victim(&mut self, candidates: &Candidates<'_>, work: &mut Work) -> Search {
        of_policy!(self, policy => policy.victim(candidates, work))
    }

    fn oldest(&self, totals: Totals) -> Option<EntryIndex> {
        of_policy!(self, policy => policy.oldest(totals))
    }

    fn validate(&self, totals: Totals, bytes_of: &dyn Fn(EntryIndex) -> Option<u64>, findings: &mut Findings) {
        of_policy!(self, policy => policy.validate(totals, bytes_of, findings))
    }
}
