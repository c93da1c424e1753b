//! The order of eviction: one door, and behind it one file for each policy.
//!
//! ```text
//! queues  lists of entries, and the clock that their ages are told by
//! ghost   keys that were evicted, for `s3-fifo`
//! lru, clock, s3fifo   the policies
//! ```
//!
//! A policy is a type that implements [`Eviction`], after foyer's trait of that name; [`EvictionOrder`] is the choice of
//! one. To add a policy: write its file, name it in [`policies!`] and in [`Policy`]. Nothing else asks which one it is.
//!
//! Every policy keeps each entry in one list, passes over entries that may not be evicted (they go to the head of their
//! list: whoever holds them is using them), and bounds a search by the work of its operation.
//!
//! Locking: lists are changed under the exclusive lock; [`Eviction::mark`] runs under the shared one, and
//! [`Eviction::hit`] without any.

mod clock;
mod ghost;
mod lru;
mod queues;
mod s3fifo;

use super::entry::record::{Record, Records};
use super::findings::Findings;
use super::hash::KeyHash;
use super::ids::EntryIndex;
use super::memory::region::Region;
use super::policy::Policy;
use super::work::Work;

pub use queues::Totals;

/// What a hit has to do for the order of eviction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HitNeeds {
    /// Nothing: an optimistic read suffices.
    Nothing,
    /// [`Eviction::mark`], under the lock in any mode.
    Mark,
    /// [`Eviction::promote`], under the exclusive lock.
    ExclusiveLock,
}

/// What a search for the next entry to evict found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search {
    /// This one.
    Victim(EntryIndex),
    /// None of the entries may be evicted.
    NothingToEvict,
    /// Nothing yet: the lock has been held long enough.
    OutOfWork,
}

/// Which entries a search may find: of a partition with these totals, those that the function accepts.
pub struct Candidates<'a> {
    /// What the partition holds.
    pub totals: Totals,
    /// Whether an entry may be evicted.
    pub may_evict: &'a dyn Fn(EntryIndex) -> bool,
    /// The bytes of an entry.
    pub bytes_of: &'a dyn Fn(EntryIndex) -> u64,
}

/// A policy. An entry's `bytes` are those of its key and value.
pub trait Eviction {
    /// Whether every hit moves its entry, so that a read that counts as a use takes the exclusive lock at once.
    fn promotes_on_hit(&self) -> bool {
        false
    }

    /// Starts without entries.
    fn format(&mut self);

    /// A new entry. `totals` are those without it.
    fn insert(&mut self, entry: EntryIndex, hash: KeyHash, bytes: u64, totals: Totals);

    /// An entry goes, evicted or not.
    fn remove(&mut self, entry: EntryIndex, bytes: u64);

    /// An entry is about to be evicted: what is to be remembered of it.
    fn note_eviction(&mut self, _entry: EntryIndex, _hash: KeyHash) {}

    /// `new` takes the place of `old`, which goes.
    fn replace(&mut self, old: EntryIndex, old_bytes: u64, new: EntryIndex, new_bytes: u64);

    /// An entry's value was replaced.
    fn resize(&mut self, _entry: EntryIndex, _bytes_before: u64, _bytes: u64) {}

    /// What a hit needs. Safe beside writers; the answer may be of another entry then.
    fn hit(&self, record: &Record) -> HitNeeds;

    /// Notes a use under the lock in any mode, where [`HitNeeds::Mark`] asks for it.
    fn mark(&self, _entry: EntryIndex) {}

    /// Notes a use under the exclusive lock, whatever is needed.
    fn promote(&mut self, entry: EntryIndex);

    /// Whether a use is noted that the next search will honour.
    fn is_marked(&self, record: &Record) -> bool;

    /// The entry to evict next. It stays in its list.
    fn victim(&mut self, candidates: &Candidates<'_>, work: &mut Work) -> Search;

    /// The entry that a search looks at first.
    fn oldest(&self, totals: Totals) -> Option<EntryIndex>;

    /// Counts insertions and uses; ages are told by it.
    fn tick(&self) -> u32;

    /// Checks the lists: each entry is in one of them, once. `bytes_of` gives the bytes of a live entry, and `None` for
    /// anything else.
    fn validate(&self, totals: Totals, bytes_of: &dyn Fn(EntryIndex) -> Option<u64>, findings: &mut Findings);
}

/// The policies: for each its name, its type, and what its region needs.
macro_rules! policies {
    ($($name:ident),*) => {
        /// The order of eviction of one partition.
        #[derive(Clone, Debug)]
        pub enum EvictionOrder {
            $(
                #[doc = concat!("By [`Policy::", stringify!($name), "`].")]
                $name(policies!(@type $name)),
            )*
        }

        impl EvictionOrder {
            /// Bytes of the order's own words in a partition that can hold about so many entries.
            pub fn region_bytes(policy: Policy, expected_entries: u64) -> usize {
                match policy {
                    $(Policy::$name => <policies!(@type $name)>::region_bytes(expected_entries),)*
                }
            }

            /// The order over its words.
            pub fn open(policy: Policy, region: Region, records: Records) -> EvictionOrder {
                match policy {
                    $(Policy::$name => EvictionOrder::$name(<policies!(@type $name)>::open(region, records)),)*
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
    (@type Lru) => { lru::Lru };
    (@type Clock) => { clock::Clock };
    (@type S3Fifo) => { s3fifo::S3Fifo };
}
policies!(Lru, Clock, S3Fifo);

impl Eviction for EvictionOrder {
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

    fn tick(&self) -> u32 {
        of_policy!(self, policy => policy.tick())
    }

    fn validate(&self, totals: Totals, bytes_of: &dyn Fn(EntryIndex) -> Option<u64>, findings: &mut Findings) {
        of_policy!(self, policy => policy.validate(totals, bytes_of, findings))
    }
}
