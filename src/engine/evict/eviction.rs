//! The door to a policy: what every one does.
//!
//! Every policy keeps each entry in one list, passes over entries that may not be evicted (many of them go to the head of
//! their list: whoever holds them is using them), and bounds a search by the work of its operation.
//!
//! Locking: lists are changed under the exclusive lock; [`Eviction::mark`] runs under the shared one, and
//! [`Eviction::hit`] without any.

use super::queues::{Queues, Totals};
use crate::engine::entry::record::Record;
use crate::engine::findings::Findings;
use crate::engine::hash::KeyHash;
use crate::engine::ids::EntryIndex;
use crate::engine::work::Work;

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
#[allow(missing_debug_implementations, reason = "functions have no text")]
pub struct Candidates<'a> {
    /// What the partition holds.
    pub totals: Totals,
    /// Whether an entry may be evicted.
    pub may_evict: &'a dyn Fn(EntryIndex) -> bool,
    /// The bytes of an entry.
    pub bytes_of: &'a dyn Fn(EntryIndex) -> u64,
}

/// A policy. An entry's `bytes` are those of its key and value.
///
/// Where there is a default, it is that of a policy with one list, the main one of its `Queues`. The choice of a policy
/// (`order`) has to hand all of them on.
pub trait Eviction {
    /// What findings call the main list.
    const MAIN_LIST: &'static str = "main list";

    /// The lists.
    fn queues(&self) -> &Queues;

    /// Whether every hit moves its entry, so that a read that counts as a use takes the exclusive lock at once.
    fn promotes_on_hit(&self) -> bool {
        false
    }

    /// Starts without entries.
    fn format(&mut self);

    /// A new entry. `totals` are those without it.
    #[inline]
    fn insert(&mut self, entry: EntryIndex, _hash: KeyHash, _bytes: u64, _totals: Totals) {
        self.queues().push(self.queues().main(), entry);
    }

    /// An entry goes, evicted or not.
    #[inline]
    fn remove(&mut self, entry: EntryIndex, _bytes: u64) {
        self.queues().remove(self.queues().main(), entry);
    }

    /// An entry is about to be evicted: what is to be remembered of it.
    fn note_eviction(&mut self, _entry: EntryIndex, _hash: KeyHash) {}

    /// `new` takes the place of `old`, which goes.
    fn replace(&mut self, old: EntryIndex, _old_bytes: u64, new: EntryIndex, _new_bytes: u64) {
        self.queues().replace(self.queues().main(), old, new);
    }

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
    fn oldest(&self, _totals: Totals) -> Option<EntryIndex> {
        self.queues().last(self.queues().main())
    }

    /// Counts insertions and uses; ages are told by it.
    #[inline]
    fn tick(&self) -> u32 {
        self.queues().tick()
    }

    /// Checks the lists: each entry is in one of them, once. `bytes_of` gives the bytes of a live entry, and `None` for
    /// anything else.
    fn validate(&self, totals: Totals, bytes_of: &dyn Fn(EntryIndex) -> Option<u64>, findings: &mut Findings) {
        let (entries, _) = self.queues().validate(Self::MAIN_LIST, self.queues().main(), bytes_of, findings);
        findings.expect(|| format!("entries in the {}", Self::MAIN_LIST), entries.len() as u32, totals.entries);
    }
}
