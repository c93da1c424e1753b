//! What a slot holds: keys and values, in one slot or chained over several.
//!
//! ```text
//! single        ┌───────┬───────────┬─────┬─────┬─────────────┐
//!               │ entry │ value_len │ key │ pad │ value       │         value aligned to 8 bytes
//!               └───────┴───────────┴─────┴─────┴─────────────┘
//! chained head  ┌───────┬───────────┬──────┬───┬─────┬─────┬──────────────────────┐
//!               │ entry │ value_len │ next │ 0 │ key │ pad │ first part of value  │    fills a slot of the largest class
//!               └───────┴───────────┴──────┴───┴─────┴─────┴──────────────────────┘
//! continuation  ┌───────┬──────────┬──────────────────────────────────────────────┐
//!               │ entry │ part_len │ next part of value                           │    entry: its own continuation record
//!               └───────┴──────────┴──────────────────────────────────────────────┘
//! ```
//!
//! `entry` names the slot's record, so that compaction finds what to change when it moves the slot. A slot is
//! given its `entry` as soon as it is taken: it may be moved before its value is complete.
//!
//! Not here: how room is made (`room`), who may look (`partition`).

use super::class::SLOT_ALIGN_BYTES;
use super::directory::flag;
use super::evicted::Sink;
use super::ids::{ClassIndex, EntryIndex, Location};
use super::partition::{Key, Partition};
use super::region::Word32;

/// Bytes before the key in the slot of a value that lies in one.
pub(super) const HEADER_BYTES: usize = 8;
const CHAINED_HEADER_BYTES: usize = 16;

pub(super) const fn padded(key_len: usize) -> usize {
    key_len.next_multiple_of(SLOT_ALIGN_BYTES as usize)
}

/// How a key and a value are laid out in slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One slot of at least `bytes`.
    Single {
        /// Header, key, padding and value.
        bytes: usize,
    },
    /// A full slot of the largest class, then continuations.
    Chained {
        /// Bytes of the value in the first slot.
        first_part: usize,
        /// Bytes of the value in a full continuation.
        part: usize,
    },
}

impl Shape {
    /// The shape of an entry, given the largest slot.
    pub fn of(key_len: usize, value_len: usize, largest_slot: usize) -> Shape {
        let bytes = HEADER_BYTES + padded(key_len) + value_len;
        if bytes <= largest_slot {
            Shape::Single { bytes }
        } else {
            Shape::Chained {
                first_part: largest_slot - CHAINED_HEADER_BYTES - padded(key_len),
                part: largest_slot - HEADER_BYTES,
            }
        }
    }

    /// The most slots that an entry of `entry_bytes` (key plus value) can take.
    pub fn most_slots(entry_bytes: usize, largest_slot: usize) -> usize {
        let overhead = CHAINED_HEADER_BYTES + SLOT_ALIGN_BYTES as usize;
        (entry_bytes + overhead).div_ceil(largest_slot - HEADER_BYTES)
    }
}

impl Partition {
    #[inline]
    pub(super) fn offset_of(&self, location: Location) -> usize {
        location.usize() * Location::UNIT_BYTES
    }

    #[inline]
    pub(super) fn slot_word(&self, slot: usize, word: usize) -> &Word32 {
        self.region.at(slot + 4 * word)
    }

    /// The record that a used slot belongs to.
    pub(super) fn owner_of(&self, location: Location) -> EntryIndex {
        EntryIndex(self.slot_word(self.offset_of(location), 0).get())
    }

    #[inline]
    fn key_offset(&self, entry: EntryIndex) -> usize {
        let record = self.record(entry);
        let header = if record.has(flag::CHAINED) { CHAINED_HEADER_BYTES } else { HEADER_BYTES };
        self.offset_of(record.location()) + header
    }

    /// An entry's key.
    #[inline]
    pub(super) fn key_bytes(&self, entry: EntryIndex) -> &[u8] {
        self.region.bytes(self.key_offset(entry), self.record(entry).key_len())
    }

    #[inline]
    pub(super) fn key_equals(&self, entry: EntryIndex, key: &[u8]) -> bool {
        self.record(entry).key_len() == key.len() && self.key_bytes(entry) == key
    }

    /// The length of an entry's value in bytes.
    #[inline]
    pub(super) fn value_len(&self, entry: EntryIndex) -> usize {
        self.slot_word(self.offset_of(self.record(entry).location()), 1).get() as usize
    }

    /// Where in the partition the value lies, if it lies in one piece.
    pub(super) fn contiguous_value(&self, entry: EntryIndex) -> Option<(usize, usize)> {
        let record = self.record(entry);
        let offset = self.key_offset(entry) + padded(record.key_len());
        (!record.has(flag::CHAINED)).then(|| (offset, self.value_len(entry)))
    }

    /// Appends an entry's value to `out`.
    pub fn append_value(&self, entry: EntryIndex, out: &mut Vec<u8>) {
        out.reserve(self.value_len(entry));
        self.for_each_part(entry, |part| out.extend_from_slice(part));
    }

    /// Hands the parts of an entry's value to `take`, in order: one, or as many as the value has slots.
    #[inline]
    pub(super) fn for_each_part(&self, entry: EntryIndex, mut take: impl FnMut(&[u8])) {
        let record = self.record(entry);
        let offset = self.key_offset(entry) + padded(record.key_len());
        let value_len = self.value_len(entry);
        if !record.has(flag::CHAINED) {
            take(self.region.bytes(offset, value_len));
            return;
        }
        let Shape::Chained { first_part, .. } = self.shape(record.key_len(), value_len) else {
            unreachable!("a chained entry has the shape of one")
        };
        take(self.region.bytes(offset, first_part));
        for continuation in self.continuations(entry) {
            let slot = self.offset_of(self.record(continuation).location());
            let part_len = self.slot_word(slot, 1).get() as usize;
            take(self.region.bytes(slot + HEADER_BYTES, part_len));
        }
    }

    /// The continuation records of an entry, in order; none if it is not chained.
    pub(super) fn continuations(&self, entry: EntryIndex) -> impl Iterator<Item = EntryIndex> + '_ {
        let record = self.record(entry);
        let first = if record.has(flag::CHAINED) && record.location() != Location::NONE {
            EntryIndex(self.slot_word(self.offset_of(record.location()), 2).get()).some()
        } else {
            None
        };
        std::iter::successors(first, |&part| EntryIndex(self.record(part).next.get()).some())
    }

    #[inline]
    pub(super) fn shape(&self, key_len: usize, value_len: usize) -> Shape {
        let classes = &self.layout.classes;
        Shape::of(key_len, value_len, classes.get(classes.largest()).slot_bytes as usize)
    }

    /// Bytes stored in the slot of a record, an entry's or a continuation's.
    pub(super) fn stored_bytes(&self, entry: EntryIndex) -> usize {
        let record = self.record(entry);
        let len = self.value_len(entry);
        if record.has(flag::CONTINUATION) {
            return HEADER_BYTES + len;
        }
        match self.shape(record.key_len(), len) {
            Shape::Single { bytes } => bytes,
            Shape::Chained { first_part, .. } => CHAINED_HEADER_BYTES + padded(record.key_len()) + first_part,
        }
    }

    /// Stores a key and a value under a record of their own, not findable yet, evicting what is in the way.
    ///
    /// `None` if there is no room even so; then nothing is left behind.
    pub(super) fn build(&mut self, key: Key<'_>, value: &[u8], evicted: &mut Sink<'_>) -> Option<EntryIndex> {
        let shape = self.shape(key.bytes.len(), value.len());
        let flags = if matches!(shape, Shape::Chained { .. }) { flag::CHAINED } else { 0 };
        let entry = self.obtain_record(flags, key.bytes.len(), evicted)?;
        let built = match shape {
            Shape::Single { bytes } => self.build_single(entry, bytes, key, value, evicted),
            Shape::Chained { first_part, part } => self.build_chained(entry, (first_part, part), key, value, evicted),
        };
        if built.is_none() {
            self.dispose(entry);
        }
        built.map(|()| entry)
    }

    fn build_single(
        &mut self,
        entry: EntryIndex,
        bytes: usize,
        key: Key<'_>,
        value: &[u8],
        evicted: &mut Sink<'_>,
    ) -> Option<()> {
        let class = self.layout.classes.class_for(bytes).expect("a single slot is no larger than the largest");
        let slot = self.obtain_slot(class, bytes, entry, value.len(), evicted)?;
        self.region.write_bytes(slot + HEADER_BYTES, key.bytes);
        self.region.write_bytes(slot + HEADER_BYTES + padded(key.bytes.len()), value);
        Some(())
    }

    fn build_chained(
        &mut self,
        entry: EntryIndex,
        (first_part, part): (usize, usize),
        key: Key<'_>,
        value: &[u8],
        evicted: &mut Sink<'_>,
    ) -> Option<()> {
        let largest = self.layout.classes.largest();
        let head_bytes = CHAINED_HEADER_BYTES + padded(key.bytes.len()) + first_part;
        let slot = self.obtain_slot(largest, head_bytes, entry, value.len(), evicted)?;
        self.slot_word(slot, 2).set(EntryIndex::NONE.0);
        self.slot_word(slot, 3).set(0);
        self.region.write_bytes(slot + CHAINED_HEADER_BYTES, key.bytes);
        self.region.write_bytes(slot + CHAINED_HEADER_BYTES + padded(key.bytes.len()), &value[..first_part]);

        let mut before = entry;
        for piece in value[first_part..].chunks(part) {
            let continuation = self.obtain_record(flag::CONTINUATION, 0, evicted)?;
            self.header().continuations.add(1);
            let record = self.record(continuation);
            record.chain.set(entry.0);
            record.previous.set(before.0);
            // Linked before its slot is obtained, so that a failure disposes of it with the rest.
            if before == entry {
                let head_slot = self.offset_of(self.record(entry).location());
                self.slot_word(head_slot, 2).set(continuation.0);
            } else {
                self.record(before).next.set(continuation.0);
            }
            let bytes = HEADER_BYTES + piece.len();
            let class = self.layout.classes.class_for(bytes).expect("a part is no larger than the largest slot");
            let slot = self.obtain_slot(class, bytes, continuation, piece.len(), evicted)?;
            self.region.write_bytes(slot + HEADER_BYTES, piece);
            before = continuation;
        }
        Some(())
    }

    /// Takes a slot and makes it the record's own.
    fn obtain_slot(
        &mut self,
        class: ClassIndex,
        bytes: usize,
        owner: EntryIndex,
        len: usize,
        evicted: &mut Sink<'_>,
    ) -> Option<usize> {
        let location = self.obtain(class, bytes, evicted)?;
        self.record(owner).set_location(location);
        let slot = self.offset_of(location);
        self.slot_word(slot, 0).set(owner.0);
        self.slot_word(slot, 1).set(len as u32);
        Some(slot)
    }

    fn obtain_record(&mut self, flags: u32, key_len: usize, evicted: &mut Sink<'_>) -> Option<EntryIndex> {
        let slot = self.obtain(ClassIndex::DIRECTORY, 0, evicted)?;
        Some(self.open_record(slot, flags, key_len))
    }

    /// Replaces a value where it lies, if the new one belongs to the same class.
    pub(super) fn overwrite(&mut self, entry: EntryIndex, key: Key<'_>, value: &[u8]) -> bool {
        let Shape::Single { bytes } = self.shape(key.bytes.len(), value.len()) else { return false };
        if self.record(entry).has(flag::CHAINED) {
            return false;
        }
        let location = self.record(entry).location();
        let (_, class, _) = self.slot_of(location);
        if self.layout.classes.class_for(bytes) != Some(class) {
            return false;
        }
        let before = self.stored_bytes(entry);
        let state = self.class_state(class);
        state.stored_bytes.set(state.stored_bytes.get() + bytes as u64 - before as u64);
        let slot = self.offset_of(location);
        self.record(entry).mark_changing();
        self.slot_word(slot, 1).set(value.len() as u32);
        self.region.write_bytes(slot + HEADER_BYTES + padded(key.bytes.len()), value);
        self.record(entry).mark_replaced();
        true
    }

    /// Gives an entry what another of the same key stores, which is not findable and gets the old; neither may be
    /// pinned.
    pub(super) fn exchange(&mut self, entry: EntryIndex, built: EntryIndex) {
        self.record(entry).mark_changing();
        self.swap_slots(entry, built);
        self.record(entry).mark_replaced();
    }

    fn swap_slots(&mut self, a: EntryIndex, b: EntryIndex) {
        let locations = [self.record(a).location(), self.record(b).location()];
        let chained = [self.record(a).has(flag::CHAINED), self.record(b).has(flag::CHAINED)];
        for (entry, location, chained) in [(a, locations[1], chained[1]), (b, locations[0], chained[0])] {
            let record = self.record(entry);
            record.set_location(location);
            if chained {
                record.set_flags(flag::CHAINED);
            } else {
                record.clear_flags(flag::CHAINED);
            }
            self.slot_word(self.offset_of(location), 0).set(entry.0);
            let parts: Vec<EntryIndex> = self.continuations(entry).collect();
            for (position, part) in parts.iter().enumerate() {
                self.record(*part).chain.set(entry.0);
                if position == 0 {
                    self.record(*part).previous.set(entry.0);
                }
            }
        }
    }

    /// Frees an entry's slots, its continuations and its record. It must not be findable any more.
    pub(super) fn dispose(&mut self, entry: EntryIndex) {
        let parts: Vec<EntryIndex> = self.continuations(entry).collect();
        for part in parts {
            self.free_slot_of(part);
            self.close_record(part);
            self.header().continuations.sub(1);
        }
        self.free_slot_of(entry);
        self.close_record(entry);
    }

    fn free_slot_of(&mut self, entry: EntryIndex) {
        let location = self.record(entry).location();
        if location != Location::NONE {
            let stored_bytes = self.stored_bytes(entry);
            self.free_slot(location, stored_bytes);
        }
    }
}
