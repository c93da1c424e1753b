//! Entries that are taken out of a cache by their id: by one worker, or by many at the same time, each by one of them.
//!
//! Invariants:
//! - Who takes an entry out beside others has a lease on its key, as for a write-back: no other worker takes it, evicts it, loads or
//!   writes its key. Readers find it, and it may be changed.
//! - The entry goes when the lease is finished, and only with the value that was handed out. A lease that ends otherwise (an
//!   error that unwinds, an exit callback, a death that others notice) leaves the entry as it was, for the next.
//!
//! Locking: the exclusive lock for the lease and for its end, the shared lock for the copy of the value; none between.
//!
//! Not here: which entries, and in which order (`adapters::builder`).

use std::fmt;

use super::cache::SharedCache;
use super::lease::LeaseGuard;
use super::lock::Locks;
use super::write_back::Blocked;
use crate::engine::flight::version::Version;
use crate::engine::ids::EntryId;
use crate::engine::write_back::TakeOutcome;

/// The right to an entry that is to leave the cache.
///
/// Dropped without [`TakeOutGuard::finish`] the entry stays, as it was.
pub struct TakeOutGuard<'a, L: Locks> {
    guard: LeaseGuard<'a, L>,
    version: Version,
    is_dirty: bool,
}

impl<L: Locks> fmt::Debug for TakeOutGuard<'_, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TakeOutGuard { version, is_dirty, .. } = self;
        f.debug_struct("TakeOutGuard").field("version", version).field("is_dirty", is_dirty).finish_non_exhaustive()
    }
}

impl<L: Locks> TakeOutGuard<'_, L> {
    /// Whether the store behind the cache does not have the value.
    pub fn is_dirty(&self) -> bool {
        self.is_dirty
    }

    /// Says that the value is where it belongs. `true` if the entry has gone; `false` if its value was changed meanwhile,
    /// so that it stays; or if the guard is none any more: given back by [`SharedCache::release_all`], or inherited over
    /// `fork`.
    pub fn finish(self) -> bool {
        self.guard.finish(|partition, lease| partition.finish_take_out(lease, self.version))
    }
}

/// What became of the wish to take an entry out.
#[derive(Debug)]
pub enum TakeOutStep<'a, L: Locks> {
    /// The caller does.
    Yours(TakeOutGuard<'a, L>),
    /// It is gone, or in another's hands.
    Taken,
    /// Other workers have as many keys of this partition in their hands as there can be.
    TooMany(Blocked),
}

impl<L: Locks> SharedCache<L> {
    /// Asks for the right to take out the entry with this id, and copies its value to `value`.
    pub fn lease_entry(&self, id: EntryId, value: &mut Vec<u8>) -> TakeOutStep<'_, L> {
        let (index, entry) = self.place_of(id);
        let (outcome, completed) = self.exclusive(index, |partition| {
            let outcome = partition.lease_entry(entry, id.generation().get(), std::process::id());
            (outcome, partition.completed_leases())
        });
        match outcome {
            TakeOutcome::Leased(lease) => {
                let guard = LeaseGuard::new(self, index, lease);
                match self.value_of(id, value) {
                    Some((version, is_dirty)) => TakeOutStep::Yours(TakeOutGuard { guard, version, is_dirty }),
                    None => TakeOutStep::Taken,
                }
            }
            TakeOutcome::Taken => TakeOutStep::Taken,
            TakeOutcome::TableFull => TakeOutStep::TooMany(Blocked { partition: index, completed }),
        }
    }

    /// The value of the entry with this id, its version, and whether it is dirty; `None` if the entry is gone. No use of
    /// the entry.
    pub fn value_of(&self, id: EntryId, out: &mut Vec<u8>) -> Option<(Version, bool)> {
        let (index, entry) = self.place_of(id);
        self.shared(index, |partition| {
            let entry = partition.resolve(entry, id.generation().get())?;
            if partition.has_expired(entry, &|| self.now()) {
                return None;
            }
            out.clear();
            partition.copy_parts(entry, |part| out.extend_from_slice(part));
            Some((partition.version_of_entry(entry), partition.is_dirty(entry)))
        })
    }

    /// Removes the entry with this id if it has this version; `false` if not.
    pub fn take_out(&self, id: EntryId, version: Version) -> bool {
        let (index, entry) = self.place_of(id);
        self.exclusive(index, |partition| {
            let found = partition.resolve(entry, id.generation().get());
            found.is_some_and(|entry| partition.remove_if(entry, version))
        })
    }
}
