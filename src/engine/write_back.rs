//! In front of a store: leases to load a key, to write an entry back and to take it out, and stores under a condition.
//!
//! Invariants:
//! - An entry that is leased is not evicted. It may be changed: then its version is another, and the end of the lease
//!   leaves it where it is.
//! - What is stored here never expires: it goes when the store has it.
//!
//! Locking: the exclusive lock, but for questions. Not here: which leases a key may have (`flight`), and who waits for whom
//! (`shared/write_back.rs`).

use super::entry::lengths::Lengths;
use super::entry::record::Flags;
use super::evicted::{Evicted, OnEvict};
use super::flight::inflight::{Concurrency, LeaseId};
use super::flight::version::Version;
use super::hash::Key;
use super::ids::EntryIndex;
use super::moment::Now;
use super::outcomes::{PushError, Put, Unfinished};
use super::partition::Partition;
use super::reservation::{NoRoom, Reclaim};
use super::work::Work;

/// What must hold for a value to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Nothing.
    Anything,
    /// The key has this value, in the cache or in the store.
    Version(Version),
    /// The key is not in the cache, and was not stored since this load began.
    Load(LeaseId),
}

/// What becomes of entries that must make way in front of a store.
#[derive(Debug)]
pub struct WriteBack<'a> {
    /// The process to which a dirty one is leased.
    pub owner: u32,
    /// Counts the clean ones, which are dropped.
    pub dropped: &'a mut u32,
    /// Gets a copy of a dirty one.
    pub evicted: &'a mut Evicted,
}

/// What a store in front of a backing store did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreOutcome {
    /// The value is in.
    Stored(Put, Version),
    /// The key's value is not the expected one.
    Stale,
    /// A dirty entry must be written back first. It is leased to the caller, and copied.
    WriteBack(LeaseId, Version),
    /// Every entry that could make way is pinned or leased, or the lease table is full. The number of leases that ended
    /// so far tells when to look again.
    Blocked {
        /// Leases that ended.
        completed: u64,
    },
}

/// Outcome of a request to load a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadOutcome {
    /// The caller loads it. The version stands for the key's absence.
    Leased(LeaseId, Version),
    /// Another worker has a lease on the key.
    Taken,
    /// The key is in the cache by now.
    Present,
    /// The partition's lease table is full.
    TableFull,
}

/// Outcome of a request to take an entry out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakeOutcome {
    /// The caller has it, alone.
    Leased(LeaseId),
    /// The entry is gone, or its key is in some worker's hands.
    Taken,
    /// The partition's lease table is full.
    TableFull,
}

impl Partition {
    /// Stores a value if `expected` holds, letting clean entries make way. It never expires: what is in front of a store
    /// goes when it is written, and not before.
    ///
    /// # Errors
    ///
    /// [`Unfinished::OutOfWork`], or a key or an entry that is too large; never [`PushError::Full`].
    pub fn store_if(
        &mut self,
        key: Key<'_>,
        value: &[u8],
        expected: Expected,
        write_back: &mut WriteBack<'_>,
        now: Now<'_>,
        work: &mut Work,
    ) -> Result<StoreOutcome, Unfinished> {
        self.check_size(Lengths::new(key.bytes.len(), value.len(), None))?;
        let found = self.find_or_expire(key, now);
        if !self.is_as_expected(key, found, expected) {
            return Ok(StoreOutcome::Stale);
        }
        let stored = self.mutate(|partition| {
            let mut reclaim = Reclaim::new(OnEvict::DiscardClean(write_back.dropped), now, work);
            let stored = partition.store(key, value, None, &mut reclaim);
            match stored {
                // What was loaded is what the store has.
                Ok((put, entry)) if !matches!(expected, Expected::Load(_)) => {
                    partition.record(entry).set_flags(Flags::DIRTY);
                    partition.inflight.note_change(key.hash, entry);
                    Ok(Ok((put, entry)))
                }
                Err(NoRoom::Dirty(victim)) => {
                    let hash = partition.hash_of(victim);
                    Ok(Err(partition.inflight.lease_write(hash, write_back.owner, victim).map(|lease| (lease, victim))))
                }
                Err(NoRoom::OutOfWork) => Err(Unfinished::OutOfWork),
                Err(_) => Ok(Err(None)),
                Ok(stored) => Ok(Ok(stored)),
            }
        })?;
        match stored {
            Ok((put, entry)) => Ok(StoreOutcome::Stored(put, self.version_of(key.hash, entry))),
            Err(Some((lease, victim))) => {
                let pushed =
                    write_back.evicted.try_push(self.payload.key(victim), self.payload.value_len(victim), |out| {
                        self.payload.append_value(victim, out);
                    });
                if pushed.is_err() {
                    self.release_lease(lease);
                    return Err(Unfinished::Refused(PushError::OutOfMemory));
                }
                Ok(StoreOutcome::WriteBack(lease, self.version_of_entry(victim)))
            }
            Err(None) => Ok(StoreOutcome::Blocked { completed: self.completed_leases() }),
        }
    }

    fn is_as_expected(&self, key: Key<'_>, found: Option<EntryIndex>, expected: Expected) -> bool {
        match (expected, found) {
            (Expected::Anything, _) => true,
            (Expected::Version(version), Some(entry)) => self.has_version(entry, version),
            (Expected::Version(version), None) => version.changes == self.inflight.changes(key.hash),
            (Expected::Load(lease), found) => found.is_none() && !self.inflight.is_superseded(lease),
        }
    }

    /// Whether the store does not have an entry's value.
    pub fn is_dirty(&self, entry: EntryIndex) -> bool {
        self.record(entry).has(Flags::DIRTY)
    }

    /// Whether some worker has a lease on a key.
    pub fn is_leased(&self, key: Key<'_>) -> bool {
        self.inflight.is_leased(key.hash)
    }

    /// Leases in use: loads, and write-backs.
    pub fn lease_counts(&self) -> (u32, u32) {
        self.inflight.counts()
    }

    /// The processes that have leases.
    pub fn lease_owners(&self) -> Vec<u32> {
        self.inflight.owners()
    }

    /// Leases that ended so far.
    pub fn completed_leases(&self) -> u64 {
        self.inflight.completed()
    }

    /// Leases the load of an absent key to a process. With [`Concurrency::AllowDuplicate`], grants it even while another
    /// process is loading the key.
    pub fn lease_load(&mut self, key: Key<'_>, owner: u32, concurrency: Concurrency, now: Now<'_>) -> LoadOutcome {
        if self.find_or_expire(key, now).is_some() {
            return LoadOutcome::Present;
        }
        if !self.inflight.may_load(key.hash, concurrency) {
            return LoadOutcome::Taken;
        }
        let absent = self.version_of_absence(key.hash);
        match self.mutate(|partition| partition.inflight.lease_load(key.hash, owner)) {
            Some(lease) => LoadOutcome::Leased(lease, absent),
            None => LoadOutcome::TableFull,
        }
    }

    /// Releases a lease; nothing happens if it has ended.
    pub fn release_lease(&mut self, lease: LeaseId) {
        if self.inflight.stands(lease) {
            self.mutate(|partition| _ = partition.inflight.release(lease));
        }
    }

    /// Releases every lease of a process that is dead.
    pub fn release_leases_of(&mut self, owner: u32) {
        self.mutate(|partition| partition.inflight.release_all_of(owner));
    }

    /// Releases a lease to write. Its entry goes if it has this version; `true` then. Else it was changed meanwhile, and
    /// stays, or is not there any more.
    pub fn finish_write(&mut self, lease: LeaseId, version: Version) -> bool {
        if !self.inflight.stands(lease) {
            return false;
        }
        self.mutate(|partition| {
            let entry = partition.inflight.release(lease);
            let Some(entry) = entry.filter(|&entry| partition.has_version(entry, version)) else { return false };
            partition.evict(entry);
            true
        })
    }

    /// Leases the entry with this generation to a process that is to take it out: meanwhile nobody evicts it, nor loads or
    /// writes its key. It may be changed.
    pub fn lease_entry(&mut self, entry: EntryIndex, generation: u32, owner: u32) -> TakeOutcome {
        let Some(entry) = self.resolve(entry, generation) else { return TakeOutcome::Taken };
        let hash = self.hash_of(entry);
        if self.inflight.is_leased(hash) {
            return TakeOutcome::Taken;
        }
        match self.mutate(|partition| partition.inflight.lease_write(hash, owner, entry)) {
            Some(lease) => TakeOutcome::Leased(lease),
            None => TakeOutcome::TableFull,
        }
    }

    /// Releases a lease to take an entry out. The entry is removed if it has this version; `true` then. Else it was changed
    /// meanwhile, and stays, or is not there any more.
    pub fn finish_take_out(&mut self, lease: LeaseId, version: Version) -> bool {
        if !self.inflight.stands(lease) {
            return false;
        }
        let entry = self.mutate(|partition| partition.inflight.release(lease));
        entry.is_some_and(|entry| self.remove_if(entry, version))
    }
}
