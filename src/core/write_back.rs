//! Entries in front of a store: dirty ones must be written back before they go.
//!
//! An entry is dirty while the store behind the cache does not have its value. Eviction drops clean entries; a dirty one
//! goes in two phases. First it is *ticketed*: the worker that wants room gets a copy of it to write, while the entry
//! stays where it is, is found as before and may be changed. When the worker is done the ticket is *settled*: an entry
//! that is still the same goes, one that was changed meanwhile stays, dirty.
//!
//! Invariants:
//! - An entry has one ticket at most, so no two workers write the same key at the same time. The ticket belongs to the key:
//!   where a reader's pin makes a replacement a new entry, it is handed on.
//! - No ticket is given for a key that is being loaded, so the store is not read and written for one key at once.
//! - `tickets` counts the entries that have one; whatever ends an entry's life settles its ticket.
//! - A [`Version`] names one value of one entry. It is never that of another value, also after the entry has come back
//!   from the store.
//!
//! Locking: the partition's exclusive lock, but for looking. Not here: writing, waiting (`shared::write_back`).

use super::directory::{flag, Stamp};
use super::evicted::{CleanOnly, Evicted, Sink};
use super::ids::EntryIndex;
use super::layout::Layout;
use super::loads::{LoadClaim, MAX_LOADS};
use super::partition::{Key, Partition, PushError, Put};
use super::region::{RegionType, Word32, Word64};

/// Write-backs and loads that are under way in a partition.
#[repr(C, align(64))]
pub struct WriteBackState {
    /// Entries that are being written back.
    pub(super) tickets: Word32,
    /// Claims in use.
    pub(super) loading: Word32,
    /// Tickets and loads that came to an end: who waits for room looks again when it changes.
    pub(super) settled: Word64,
    pub(super) claims: [LoadClaim; MAX_LOADS],
}
const _: () = assert!(size_of::<WriteBackState>() == 512);
// SAFETY: repr(C), words only: 16 bytes and 31 claims of 16 bytes, without padding.
#[allow(unsafe_code)]
unsafe impl RegionType for WriteBackState {}

/// Names one value of one entry: whoever has read it can tell whether it is still the key's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    entry: EntryIndex,
    stamp: Stamp,
}

impl Version {
    /// That of a value which is not in the cache: it is no entry's.
    pub const UNCACHED: Version = Version { entry: EntryIndex::NONE, stamp: Stamp::NONE };
}

/// What must hold for a value to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Nothing.
    Anything,
    /// The key has this value.
    Version(Version),
    /// The key has none, and had none since this claim was made.
    Claim(usize),
}

/// What a conditional store did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// The value is in.
    Done(Put, Version),
    /// The key has not what was expected.
    Stale,
    /// A dirty entry must be written back first. It is ticketed, and copied for the caller.
    MustWriteBack(Version),
    /// Every entry that could make way is pinned, ticketed or being loaded. The number of tickets and loads that came
    /// to an end tells when to look again.
    Blocked {
        /// Tickets and loads that came to an end so far.
        settled: u64,
    },
}

impl Partition {
    #[inline]
    pub(super) fn write_back(&self) -> &WriteBackState {
        self.region.at(Layout::WRITE_BACK_OFFSET)
    }

    /// The version of an entry's value.
    pub fn version_of(&self, entry: EntryIndex) -> Version {
        Version { entry, stamp: self.record(entry).stamp() }
    }

    /// Entries that are being written back.
    pub fn tickets(&self) -> u32 {
        self.write_back().tickets.get()
    }

    /// Tickets and loads that came to an end so far.
    pub fn settled(&self) -> u64 {
        self.write_back().settled.get()
    }

    /// Stores a value if `expected` holds, letting clean entries make way. `dropped` counts those; a dirty entry whose
    /// turn it was is copied to `ticket`.
    ///
    /// # Errors
    ///
    /// A key or an entry that is too large; never [`PushError::Full`].
    pub fn store_if(
        &mut self,
        key: Key<'_>,
        value: &[u8],
        expected: Expected,
        dropped: &mut u32,
        ticket: &mut Evicted,
    ) -> Result<Stored, PushError> {
        if let Err(error) = self.check_size(key, value) {
            self.header().refused.add(1);
            return Err(error);
        }
        if !self.is_as_expected(key, expected) {
            return Ok(Stored::Stale);
        }
        let mut clean = CleanOnly::default();
        let stored = self.mutate(|partition| {
            let stored = partition.store(key, value, &mut Sink::Clean(&mut clean));
            if let Some((_, entry)) = stored {
                // What was loaded is what the store has.
                if !matches!(expected, Expected::Claim(_)) {
                    partition.record(entry).set_flags(flag::DIRTY);
                    partition.overtake_loads(key);
                }
            } else if let Some(victim) = clean.dirty {
                partition.record(victim).set_flags(flag::TICKETED);
                partition.write_back().tickets.add(1);
            }
            stored
        });
        *dropped += clean.dropped;
        Ok(match (stored, clean.dirty) {
            (Some((put, entry)), _) => Stored::Done(put, self.version_of(entry)),
            (None, Some(victim)) => {
                ticket.append(self.key_bytes(victim), |out| self.append_value(victim, out));
                Stored::MustWriteBack(self.version_of(victim))
            }
            (None, None) => Stored::Blocked { settled: self.settled() },
        })
    }

    fn is_as_expected(&self, key: Key<'_>, expected: Expected) -> bool {
        match expected {
            Expected::Anything => true,
            Expected::Version(version) => self.find(key).map(|entry| self.version_of(entry)) == Some(version),
            Expected::Claim(claim) => !self.is_overtaken(claim) && self.find(key).is_none(),
        }
    }

    /// Ends the write-back of a key's value in this version: `true` if the entry has gone, `false` if it was changed
    /// meanwhile, and stays, or is not there any more.
    pub fn finish_ticket(&mut self, key: Key<'_>, version: Version) -> bool {
        let Some(entry) = self.find(key).filter(|&entry| self.record(entry).has(flag::TICKETED)) else { return false };
        let is_same = self.version_of(entry) == version;
        self.mutate(|partition| {
            if is_same {
                partition.discard(entry);
                partition.header().evictions.add(1);
            } else {
                partition.settle(entry);
            }
        });
        is_same
    }

    /// Ends a write-back that has failed: the entry stays, dirty.
    pub fn cancel_ticket(&mut self, key: Key<'_>) {
        if let Some(entry) = self.find(key) {
            self.mutate(|partition| partition.settle(entry));
        }
    }

    /// Takes an entry's ticket away, if it has one.
    pub(super) fn settle(&mut self, entry: EntryIndex) {
        if self.record(entry).has(flag::TICKETED) {
            self.record(entry).clear_flags(flag::TICKETED);
            let state = self.write_back();
            state.tickets.sub(1);
            state.settled.add(1);
        }
    }

    /// Hands dirtiness and ticket on to the entry that takes another's place.
    pub(super) fn hand_on_write_back(&mut self, from: EntryIndex, to: EntryIndex) {
        const BOTH: u32 = flag::DIRTY | flag::TICKETED;
        let flags = self.record(from).flags() & BOTH;
        self.record(to).set_flags(flags);
        self.record(from).clear_flags(BOTH);
    }

    /// Whether the store does not have an entry's value.
    pub fn is_dirty(&self, entry: EntryIndex) -> bool {
        self.record(entry).has(flag::DIRTY)
    }

    /// Removes an entry, dirty or not.
    pub fn take_out(&mut self, entry: EntryIndex) {
        self.mutate(|partition| partition.discard(entry));
        self.header().removals.add(1);
    }

    /// No entry is left, so none is being written back; loads go on, but what they bring may be old.
    pub(super) fn reset_write_back(&mut self) {
        self.write_back().tickets.set(0);
        self.write_back().settled.add(1);
        self.overtake_all_loads();
    }
}
