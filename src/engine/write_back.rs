//! Entries in front of a store: dirty ones must be written back before they go.
//!
//! An entry is dirty while the store behind the cache does not have its value. Eviction drops clean entries; a dirty one
//! goes in two phases. First it is *claimed* (`claims`): the worker that wants room gets a copy of it to write, while the
//! entry stays where it is, is found as before and may be changed. When the worker is done, an entry that is still the
//! same goes; one that was changed meanwhile stays, dirty.
//!
//! Invariants:
//! - A [`Version`] that was read with a value is good as long as that is the key's value, be it in the cache or in the
//!   store: while the entry is there its stamp tells, and when it is gone a count of the changes since. (64 counts for all
//!   keys of a partition: another key's change may make a version look old, never a change make it look good.)
//! - What a worker stores on the ground of a version loses nobody's change.
//!
//! Locking: the partition's exclusive lock, but for looking. Not here: writing, waiting (`shared::write_back`).

use super::claims::{Claim, ClaimId, MAX_CLAIMS};
use super::directory::{Stamp, flag};
use super::evicted::{CleanOnly, Evicted, Sink};
use super::ids::EntryIndex;
use super::layout::Layout;
use super::optimistic::Sighting;
use super::partition::{Key, Partition, PushError, Put};
use super::region::{RegionType, Word32, Word64};

const CHANGE_COUNTS: usize = 64;

/// Write-backs and loads that are under way in a partition, and what tells that a key was changed.
#[repr(C, align(64))]
pub struct WriteBackState {
    /// Claims in use.
    pub(super) in_use: Word32,
    _pad: Word32,
    /// Claims that ended: who waits for room looks again when it changes.
    pub(super) settled: Word64,
    /// Dirty values stored, by some bits of the key's hash.
    changes: [Word32; CHANGE_COUNTS],
    pub(super) claims: [Claim; MAX_CLAIMS],
    _end: Word64,
}
const _: () = assert!(size_of::<WriteBackState>() == 1024);
// SAFETY: repr(C), words only: 16 bytes, 64 words of 4, 31 claims of 24 and a word of 8, without padding.
#[allow(unsafe_code)]
unsafe impl RegionType for WriteBackState {}

/// Stands for a key's value, or for its absence, as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    entry: EntryIndex,
    stamp: Stamp,
    changes: u32,
}

impl Version {
    /// That of a value which was seen without the lock, after so many changes.
    pub fn of(sighting: Sighting, changes: u32) -> Version {
        let (entry, stamp) = sighting.entry_and_stamp();
        Version { entry, stamp, changes }
    }
}

/// What must hold for a value to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Nothing.
    Anything,
    /// The key has this value, in the cache or in the store.
    Version(Version),
    /// The key is not in the cache, and was not stored since this load was claimed.
    Claim(ClaimId),
}

/// What a conditional store did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// The value is in.
    Done(Put, Version),
    /// The key has not what was expected.
    Stale,
    /// A dirty entry must be written back first. It is claimed for the caller, and copied.
    MustWriteBack(ClaimId, Version),
    /// Every entry that could make way is pinned or claimed, or there are too many claims. The number of claims that
    /// ended so far tells when to look again.
    Blocked {
        /// Claims that ended.
        settled: u64,
    },
}

impl Partition {
    #[inline]
    pub(super) fn write_back(&self) -> &WriteBackState {
        self.region.at(Layout::WRITE_BACK_OFFSET)
    }

    fn changes(&self, key: Key<'_>) -> &Word32 {
        // Bits that choose neither partition, tag nor (as a rule) bucket.
        &self.write_back().changes[(key.hash >> 58) as usize % CHANGE_COUNTS]
    }

    /// The count of changes that a key shares with others, for a look without the lock: a value that is seen after this was
    /// read has every change that is counted in it.
    pub fn changes_before(&self, key: Key<'_>) -> u32 {
        self.changes(key).load_acquire()
    }

    /// The version of an entry's value.
    pub fn version_of(&self, key: Key<'_>, entry: EntryIndex) -> Version {
        Version { entry, stamp: self.record(entry).stamp(), changes: self.changes(key).get() }
    }

    /// The version that stands for a key which is not in the cache, whatever the store has.
    pub(super) fn version_of_absence(&self, key: Key<'_>) -> Version {
        Version { entry: EntryIndex::NONE, stamp: Stamp::NONE, changes: self.changes(key).get() }
    }

    /// Whether an entry has the value that this version was read with.
    pub fn has_version(&self, entry: EntryIndex, version: Version) -> bool {
        (entry, self.record(entry).stamp()) == (version.entry, version.stamp)
    }

    /// Claims that ended so far.
    pub fn settled(&self) -> u64 {
        self.write_back().settled.get()
    }

    /// Times that the partition was emptied because a change was left half-way.
    pub fn resets(&self) -> u64 {
        self.header().resets.get()
    }

    /// Stores a value if `expected` holds, letting clean entries make way. `dropped` counts those; a dirty entry whose
    /// turn it was is copied to `evicted`, and claimed for `owner`.
    ///
    /// # Errors
    ///
    /// A key or an entry that is too large; never [`PushError::Full`].
    pub fn store_if(
        &mut self,
        key: Key<'_>,
        value: &[u8],
        expected: Expected,
        owner: u32,
        dropped: &mut u32,
        evicted: &mut Evicted,
    ) -> Result<Stored, PushError> {
        if let Err(error) = self.check_size(key, value) {
            self.header().refused.add(1);
            return Err(error);
        }
        if !self.is_as_expected(key, expected) {
            return Ok(Stored::Stale);
        }
        let mut clean = CleanOnly::default();
        let (stored, write) = self.mutate(|partition| {
            let stored = partition.store(key, value, &mut Sink::Clean(&mut clean));
            match (stored, clean.dirty) {
                // What was loaded is what the store has.
                (Some((_, entry)), _) if !matches!(expected, Expected::Claim(_)) => {
                    partition.record(entry).set_flags(flag::DIRTY);
                    let changes = partition.changes(key);
                    changes.store_release(changes.get().wrapping_add(1));
                    partition.overtake_loads(key, entry);
                    (stored, None)
                }
                (None, Some(victim)) => (None, partition.claim_write(victim, owner).map(|claim| (claim, victim))),
                _ => (stored, None),
            }
        });
        *dropped += clean.dropped;
        Ok(match (stored, write) {
            (Some((put, entry)), _) => Stored::Done(put, self.version_of(key, entry)),
            (None, Some((claim, victim))) => {
                let key_bytes = self.key_bytes(victim);
                evicted.append(key_bytes, |out| self.append_value(victim, out));
                let victim_key = Key { bytes: key_bytes, hash: self.hash(key_bytes) };
                Stored::MustWriteBack(claim, self.version_of(victim_key, victim))
            }
            (None, None) => Stored::Blocked { settled: self.settled() },
        })
    }

    fn is_as_expected(&self, key: Key<'_>, expected: Expected) -> bool {
        match (expected, self.find(key)) {
            (Expected::Anything, _) => true,
            (Expected::Version(version), Some(entry)) => self.has_version(entry, version),
            (Expected::Version(version), None) => version.changes == self.changes(key).get(),
            (Expected::Claim(claim), found) => found.is_none() && !self.is_overtaken(claim),
        }
    }

    /// Whether the store does not have an entry's value.
    pub fn is_dirty(&self, entry: EntryIndex) -> bool {
        self.record(entry).has(flag::DIRTY)
    }

    /// Removes an entry, dirty or not, if it has this version.
    pub fn take_out(&mut self, entry: EntryIndex, version: Version) -> bool {
        let is_same = self.has_version(entry, version);
        if is_same {
            self.mutate(|partition| partition.discard(entry));
            self.header().removals.add(1);
        }
        is_same
    }

    /// Hands dirtiness and claims on to the entry that takes another's place. Part of a change.
    pub(super) fn hand_on_write_back(&mut self, from: EntryIndex, to: EntryIndex) {
        if self.record(from).has(flag::DIRTY) {
            self.record(to).set_flags(flag::DIRTY);
        }
        self.hand_on_claims(from, to);
    }

    /// No entry is left: every version is old.
    pub(super) fn reset_write_back(&mut self) {
        self.reset_claims();
        let state = self.write_back();
        state.settled.add(1);
        for changes in &state.changes {
            changes.store_release(changes.get().wrapping_add(1));
        }
    }
}
