//! Lookups beside a writer: a value is read without the partition's lock, and the reader can tell afterwards whether
//! what it read was a value.
//!
//! Everything that a reader touches here is a word that is loaded atomically, as writers store it, so there is no data
//! race, whatever the writer does meanwhile; but the words may be torn apart: half of one value and half of the next,
//! or memory that serves something else by now. Three words tell:
//!
//! - The record's *stamp* vouches for the entry. It is stable while the entry can be found and its key and value are
//!   complete, and no two contents have the same stable stamp.
//! - The partition's *placement epoch* vouches for places. It is raised after compaction moved entries out of a slab,
//!   after a slab of records or of buckets went back to the pool, and after a reset made every record unreachable; in
//!   all of these before the memory is used again.
//! - The table's *shape* vouches for absence: it changes when entries move between buckets.
//!
//! ```text
//! reader                             │ writer, under the exclusive lock
//! epoch, shape             acquire   │ stamp unstable (replaces, removes), or epoch raised (moves)   release
//! cell or chain → record   acquire   │ fence                                                         release
//! stamp: stable?           acquire   │ words of slots and records
//! location                 acquire   │ location                                                      release
//! words of key and value             │ stamp stable                                                  release
//! fence                    acquire   │ cell or chain                                                 release
//! stamp, epoch: as before?           │
//! ```
//!
//! Why a value that passes is one that the key had during the lookup:
//!
//! 1. *The record is one.* A cell or a chain named it after the epoch was read. If the slab had already left the
//!    directory, every reference to the record would have been removed before this epoch began. If it leaves later, its
//!    memory is written after the next epoch and a release fence; a reader that loads such a word sees that epoch behind
//!    the acquire fence. The same holds for the slab of the bucket itself.
//! 2. *The slot is the entry's.* The location was written before the stamp became stable, or by a move. An entry that
//!    goes away has its stamp changed, and one that moves has the epoch raised, before a release fence and the first
//!    write of the slot's next owner. As in 1, a reader that loads such a write sees the other stamp or epoch.
//! 3. *The value is complete.* A stamp becomes stable after key and value were written. A writer that replaces them makes
//!    it unstable, then comes a release fence, then the writes; so a reader that loads a word of the next value sees
//!    another stamp.
//!
//! This is Boehm's seqlock ("Can seqlocks get along with programming language memory models?", 2012), with one stamp
//! per entry instead of one for the partition: a writer does not disturb those who read other keys. The partition's own
//! `sequence` is not looked at, for every writer writes it. In a partition that a writer left half-way, an entry whose
//! stamp is stable is complete like any other.
//!
//! A key is *absent* if its bucket's line does not name it, nothing is chained behind the line after that, the line,
//! looked at once more, still does not, and the table has kept its shape. Within a shape an entry never moves from the
//! line into the chain. The other way it is in both for a while; so one that was there all the time was in the line when
//! the chain was seen to be empty, and the last look finds it. That an entry is another key's needs the same proof as
//! that it is this one's (stamp and epoch are as before), and that its cell still names it: a key that is replaced
//! beside a pin goes on in its cell with another record, and the record that the reader looks at may have become
//! another key's.
//!
//! An entry that *expires* says so in its stamp, and the moment lies behind its value: the stamp vouches for both. One that
//! has expired is told to be absent, by the same proof as a value; it is left to those who come with the lock.
//!
//! Where entries are chained behind the line, where the value is chained, and after a few conflicts, the caller takes
//! the lock.
//!
//! Nothing here panics or loops because of what it reads: each offset is checked against the slabs, each length against
//! the rest of its slab, each chain has a last step. The one thing on which this leans beyond the language's
//! own rules: where a slab changes between records and values, a stale reader may load 32 bits beside a store of 64;
//! every processor defines that, Rust does not promise it.
//!
//! Not here: the choice between this and the lock, counting (`shared::read`).

use std::sync::atomic::{Ordering, fence};

use super::bucket::Bucket;
use super::shape::TableShape;
use super::table::Table;
use crate::engine::entry::directory::Directory;
use crate::engine::entry::lengths::{HEADER_BYTES, moment_behind, padded};
use crate::engine::entry::payload::Payload;
use crate::engine::entry::record::{Flags, Pin, Record, Records, Stamp};
use crate::engine::evict::{Eviction, EvictionOrder, HitNeeds};
use crate::engine::flight::inflight::Inflight;
use crate::engine::flight::version::Version;
use crate::engine::hash::{Key, KeyHash};
use crate::engine::ids::EntryIndex;
use crate::engine::layout::PartitionState;
use crate::engine::memory::copy::words_equal;
use crate::engine::memory::region::Region;
use crate::engine::memory::words::Word64;
use crate::engine::moment::Moment;
use crate::engine::slab::allocator::SlabAllocator;

/// Entries that are followed beyond a bucket's line, at most.
const LONGEST_CHAIN: usize = 32;

/// Why a lookup without the lock has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFailure {
    /// A writer came in between: what `read` was given, if anything, is worth nothing. Another try may do.
    Conflict,
    /// The key has no value, or one that has expired.
    NotFound,
    /// To be decided under the lock: the key may be far down a chain, or its value is chained, or this use must be
    /// noted.
    NeedsLock,
}

/// What a lookup requires of the entry it finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    /// Nothing: the lookup is no use of the entry.
    No,
    /// A use of the entry must have nothing to write.
    AlreadyMarked,
}

/// Where a value was seen: its record, the record's stamp, and when it expires, if it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    entry: EntryIndex,
    stamp: Stamp,
    expires: Moment,
}

/// The placement epoch in which a version was last found current: whoever asks often keeps it beside the version, so that
/// the next question costs two loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlacementHint(u64);

impl Default for PlacementHint {
    fn default() -> Self {
        PlacementHint(u64::MAX)
    }
}

/// A partition for those who hold no lock: all that is safe beside writers.
#[derive(Debug)]
pub struct UnlockedPartition {
    index: u32,
    slabs: SlabAllocator,
    directory: Directory,
    records: Records,
    payload: Payload,
    table: Table,
    order: EvictionOrder,
    inflight: Inflight,
    state: Region,
}

/// An entry that has the key, as it looked beside a writer.
struct Candidate<'a> {
    entry: EntryIndex,
    record: &'a Record,
    stamp: Stamp,
    value: &'a [Word64],
    value_len: usize,
}

impl UnlockedPartition {
    /// A view of a partition's components.
    #[allow(clippy::too_many_arguments)] // one for each component; called from the one place that has them
    pub(in crate::engine) fn new(
        index: u32,
        slabs: SlabAllocator,
        directory: Directory,
        payload: Payload,
        table: Table,
        order: EvictionOrder,
        inflight: Inflight,
        state: Region,
    ) -> UnlockedPartition {
        let records = *directory.records();
        UnlockedPartition { index, slabs, directory, records, payload, table, order, inflight, state }
    }

    /// Whether every hit moves its entry.
    pub fn promotes_on_hit(&self) -> bool {
        self.order.promotes_on_hit()
    }

    /// Looks a key up without the lock; `read` is given the words of its value and their length in bytes. `now` is asked
    /// only of an entry that expires.
    ///
    /// # Errors
    ///
    /// See [`ReadFailure`].
    #[inline(always)]
    pub fn read_optimistic(
        &self,
        key: Key<'_>,
        touch: Touch,
        now: impl Fn() -> Moment,
        read: impl FnOnce(&[Word64], usize),
    ) -> Result<Seen, ReadFailure> {
        let epoch = self.table.placement_epoch();
        let shape = self.table.shape();
        let bucket = self.table.bucket_in(shape, key.hash).ok_or(ReadFailure::Conflict)?;
        let mut in_line = bucket.candidates(key.hash.tag());
        let mut chain = bucket.first_overflowed();
        let mut left = LONGEST_CHAIN;
        loop {
            let entry = match in_line.next() {
                Some((_, entry)) => entry,
                None => match chain {
                    Some(entry) if left > 0 => {
                        left -= 1;
                        chain = self.records.get_checked(entry).and_then(Record::next_in_chain);
                        entry
                    }
                    Some(_) => return Err(ReadFailure::NeedsLock),
                    None => break,
                },
            };
            if let Some(candidate) = self.probe(entry, key)? {
                let mut expires = Moment::default();
                if candidate.stamp.expires() {
                    let Candidate { entry, stamp, value_len, .. } = candidate;
                    expires = self.check_moment(entry, stamp, value_len, epoch, &now)?;
                }
                return self.read_and_validate(candidate, expires, epoch, touch, read);
            }
        }
        Err(self.confirm_absence(bucket, shape, key, epoch))
    }

    /// Whether the record had this stamp, and the partition this epoch, until after everything that was read before.
    #[inline(always)]
    fn is_confirmed(&self, record: &Record, stamp: Stamp, epoch: u64) -> bool {
        fence(Ordering::Acquire);
        record.stamp() == stamp && self.table.placement_epoch() == epoch
    }

    /// When an entry expires that was seen with this stamp; if that has come, the key has no value. What is read for it is
    /// as good as the stamp, which is looked at afterwards: here, or when the value is read.
    #[cold]
    #[inline(never)]
    fn check_moment(
        &self,
        entry: EntryIndex,
        stamp: Stamp,
        value_len: usize,
        epoch: u64,
        now: &dyn Fn() -> Moment,
    ) -> Result<Moment, ReadFailure> {
        let record = self.records.get(entry);
        let words = self.slabs.area().words_from(record.location()).ok_or(ReadFailure::Conflict)?;
        let value = words.get((HEADER_BYTES + padded(record.key_len())) / 8..).ok_or(ReadFailure::Conflict)?;
        let moment = moment_behind(value, value_len).ok_or(ReadFailure::Conflict)?;
        match moment.has_come(now()) {
            true if self.is_confirmed(record, stamp, epoch) => Err(ReadFailure::NotFound),
            true => Err(ReadFailure::Conflict),
            false => Ok(moment),
        }
    }

    /// After the key was not seen: the second look at the line, if nothing is chained behind it.
    #[inline(never)]
    fn confirm_absence(&self, bucket: &Bucket, shape: TableShape, key: Key<'_>, epoch: u64) -> ReadFailure {
        if bucket.first_overflowed().is_some() {
            return ReadFailure::NeedsLock;
        }
        for (cell, entry) in bucket.candidates(key.hash.tag()) {
            let Some(record) = self.records.get_checked(entry) else { return ReadFailure::Conflict };
            let stamp = record.stamp();
            match self.probe(entry, key) {
                Ok(None) => {}
                Ok(Some(_)) => return ReadFailure::Conflict,
                Err(failure) => return failure,
            }
            // In this order: that the cell names the record, and then that the record was the same all the time.
            let still_named = bucket.entry_at(cell) == entry;
            fence(Ordering::Acquire);
            if !still_named || record.stamp() != stamp {
                return ReadFailure::Conflict;
            }
        }
        // The tags were read before the shape and the epoch are read again.
        fence(Ordering::Acquire);
        if self.table.is_unchanged(shape) && self.table.placement_epoch() == epoch {
            ReadFailure::NotFound
        } else {
            ReadFailure::Conflict
        }
    }

    /// What a record shows beside a writer; `None` if it is another key's.
    #[inline(always)]
    fn probe(&self, entry: EntryIndex, key: Key<'_>) -> Result<Option<Candidate<'_>>, ReadFailure> {
        let record = self.records.get_checked(entry).ok_or(ReadFailure::Conflict)?;
        let stamp = record.stamp();
        if !stamp.is_stable() {
            return Err(ReadFailure::Conflict);
        }
        let (flags, key_len) = record.flags_and_key_len();
        if key_len != key.bytes.len() {
            return Ok(None);
        }
        if !flags.are_within(Flags::READABLE) {
            return Err(ReadFailure::NeedsLock);
        }
        let slot = record.location();
        // An entry in one slot ends with the slab, at the latest.
        let words = self.slabs.area().words_from(slot).ok_or(ReadFailure::Conflict)?;
        let value_start = (HEADER_BYTES + padded(key_len)) / 8;
        let key_words = words.get(HEADER_BYTES / 8..value_start).ok_or(ReadFailure::Conflict)?;
        if !words_equal(key_words, key.bytes) {
            return Ok(None);
        }
        let value_len = self.slabs.area().slot_word(slot, 1).get() as usize;
        let value = words.get(value_start..value_start + value_len.div_ceil(8)).ok_or(ReadFailure::Conflict)?;
        Ok(Some(Candidate { entry, record, stamp, value, value_len }))
    }

    #[inline(always)]
    fn read_and_validate(
        &self,
        candidate: Candidate<'_>,
        expires: Moment,
        epoch: u64,
        touch: Touch,
        read: impl FnOnce(&[Word64], usize),
    ) -> Result<Seen, ReadFailure> {
        let Candidate { entry, record, stamp, value, value_len } = candidate;
        if touch == Touch::AlreadyMarked && self.order.hit(record) != HitNeeds::Nothing {
            return Err(ReadFailure::NeedsLock);
        }
        read(value, value_len);
        if self.is_confirmed(record, stamp, epoch) {
            Ok(Seen { entry, stamp, expires })
        } else {
            Err(ReadFailure::Conflict)
        }
    }

    /// The count of changes that a key shares with others. A value that is read afterwards has every change that is
    /// counted in it.
    #[inline]
    pub fn changes(&self, hash: KeyHash) -> u32 {
        self.inflight.changes(hash)
    }

    /// The version of a value that was seen after so many changes.
    #[inline]
    pub fn version_of(&self, seen: Seen, changes: u32) -> Version {
        let Seen { entry, stamp, expires } = seen;
        Version { entry, stamp, changes, partition: self.index, expires }
    }

    /// Whether a value is still that of its entry, at this moment. Two loads, as long as the epoch is that of the hint.
    ///
    /// A stamp is compared with what is in the record's place. In another epoch that may be bytes of a value, which its
    /// owner could have chosen to look like the stamp; so the slab must be one of records before, and the epoch the
    /// same before and after: a slab has left the directory before an epoch begins, and its memory is used after. A
    /// slab that left it and came back holds higher generations.
    #[inline(always)]
    pub fn is_current(&self, version: &Version, hint: &mut PlacementHint) -> bool {
        self.has_stamp(version)
            && (self.table.placement_epoch() == hint.0 || self.is_current_in_another_epoch(version, hint))
    }

    #[inline(always)]
    fn has_stamp(&self, version: &Version) -> bool {
        self.records.get(version.entry).stamp() == version.stamp
    }

    #[cold]
    fn is_current_in_another_epoch(&self, version: &Version, hint: &mut PlacementHint) -> bool {
        let epoch = self.table.placement_epoch();
        let is_current = self.directory.is_record(&self.slabs, version.entry)
            && self.has_stamp(version)
            && self.table.placement_epoch() == epoch;
        if is_current {
            hint.0 = epoch;
        }
        is_current
    }

    /// Whether a use of this value has nothing to write; for what [`UnlockedPartition::is_current`] affirms afterwards.
    #[inline]
    pub fn is_use_noted(&self, version: &Version) -> bool {
        self.order.hit(self.records.get(version.entry)) == HitNeeds::Nothing
    }

    /// Fetches a key's bucket. The waits of many lookups for their bucket, record and slot overlap if each step is
    /// taken for all of them together. Hints only: what is read to find the next step may be anything, and leads to a
    /// prefetch of something in the partition or to none.
    #[inline]
    pub fn prefetch_bucket(&self, key: Key<'_>) {
        self.table.prefetch_bucket(key.hash);
    }

    /// Fetches the records that the key may have, as its bucket says.
    #[inline]
    pub fn prefetch_records(&self, key: Key<'_>) {
        self.table.likely(key.hash).for_each(|entry| self.records.prefetch(entry));
    }

    /// Fetches the slots that the key may have, as these records say.
    #[inline]
    pub fn prefetch_slots(&self, key: Key<'_>) {
        self.table.likely(key.hash).for_each(|entry| self.payload.prefetch_slot(entry));
    }

    /// Takes a pin back; `true` if `Partition::free_unpinned` must
    /// follow under the exclusive lock.
    pub fn unpin(&self, pin: Pin) -> bool {
        // After a reset the record is somebody else's.
        let record = self.records.get(pin.entry);
        record.generation() == pin.generation && record.unpin()
    }

    /// Whether an entry has this key. For this crate alone, and an entry that is pinned or cannot change.
    #[inline]
    pub(crate) fn has_key(&self, entry: EntryIndex, key: &[u8]) -> bool {
        self.payload.key_equals(entry, key)
    }

    /// The key of such an entry: the slice is good as long as the entry stays so.
    pub(crate) fn key(&self, entry: EntryIndex) -> &[u8] {
        self.payload.key(entry)
    }

    /// The value of such an entry, if it lies in one piece, as [`UnlockedPartition::key`].
    #[inline]
    pub(crate) fn value_in_place(&self, entry: EntryIndex) -> Option<&[u8]> {
        let (offset, len) = self.payload.contiguous_value(entry)?;
        Some(self.slabs.area().region().bytes(offset, len))
    }

    /// The length of the value of such an entry.
    pub(crate) fn value_len(&self, entry: EntryIndex) -> usize {
        self.payload.value_len(entry)
    }

    /// Hands the parts of the value of such an entry to `take`, in order.
    pub(crate) fn copy_parts(&self, entry: EntryIndex, take: impl FnMut(&[u8])) {
        self.payload.for_each_part(entry, take);
    }

    /// Writes key and value into what was reserved for them, which is the caller's alone.
    pub(crate) fn fill_reserved(&self, pin: Pin, key: Key<'_>, value: &[u8], expires: Option<Moment>) {
        self.payload.fill(pin.entry, key, value, expires);
    }

    /// Marks the partition as damaged, as `Partition::mark_damaged`: for whoever holds the lock and cannot go on.
    #[cold]
    pub(crate) fn mark_damaged(&self) {
        let state: &PartitionState = self.state.at(0);
        state.mark_damaged();
    }
}

#[cfg(test)]
mod tests;
