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
//! `entry` names the slot's record, so that compaction finds what to change when it moves the slot. A slot is given its
//! `entry` and its length when it is reserved: it may be moved before its value is complete, and what it takes is known.
//!
//! Every length that is read is checked against what fits: a damaged one ends in a panic, never in a loop or an
//! allocation without limit.
//!
//! Locking: the partition's lock, or a pin on the entry. Not here: how room is made (`reclaim`), who may look
//! (`partition`).

use super::record::{Flags, Records};
use crate::engine::hash::Key;
use crate::engine::ids::{EntryIndex, Location};
use crate::engine::limits::SLOT_ALIGN_BYTES;
use crate::engine::memory::words::Word32;
use crate::engine::slab::area::SlabArea;

/// Bytes before the key in the slot of a value that lies in one.
pub const HEADER_BYTES: usize = 8;
const CHAINED_HEADER_BYTES: usize = 16;

/// Bytes that a key takes before its value.
#[inline]
pub const fn padded(key_len: usize) -> usize {
    key_len.next_multiple_of(SLOT_ALIGN_BYTES as usize)
}

/// How a key and a value are laid out in slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadShape {
    /// One slot of at least `bytes`.
    Single {
        /// Header, key, padding and value.
        bytes: usize,
    },
    /// A full slot of the largest class, then continuations.
    Chained {
        /// Header, key, padding and value in the first slot.
        head_bytes: usize,
        /// Bytes of the value in the first slot.
        first_part: usize,
        /// Bytes of the value in a full continuation.
        part: usize,
    },
}

impl PayloadShape {
    /// The shape of an entry, given the largest slot.
    #[inline]
    pub fn of(key_len: usize, value_len: usize, largest_slot: usize) -> PayloadShape {
        let bytes = HEADER_BYTES + padded(key_len) + value_len;
        if bytes <= largest_slot {
            return PayloadShape::Single { bytes };
        }
        let first_part = largest_slot - CHAINED_HEADER_BYTES - padded(key_len);
        PayloadShape::Chained { head_bytes: largest_slot, first_part, part: largest_slot - HEADER_BYTES }
    }

    /// The longest key, given the largest slot: the first slot of a chain holds all of it.
    pub fn most_key_bytes(largest_slot: usize) -> usize {
        largest_slot - CHAINED_HEADER_BYTES
    }

    /// The most slots that an entry of `entry_bytes` (key plus value) can take.
    pub fn most_slots(entry_bytes: usize, largest_slot: usize) -> usize {
        let overhead = CHAINED_HEADER_BYTES + SLOT_ALIGN_BYTES as usize;
        (entry_bytes + overhead).div_ceil(largest_slot - HEADER_BYTES)
    }

    /// Bytes that an entry of this shape stores in its first slot.
    #[inline]
    pub fn first_slot_bytes(self) -> usize {
        match self {
            PayloadShape::Single { bytes } => bytes,
            PayloadShape::Chained { head_bytes, .. } => head_bytes,
        }
    }
}

/// Keys and values in the slots of a partition: a handle, whose copies name the same slots.
#[derive(Clone, Copy, Debug)]
pub struct Payload {
    area: SlabArea,
    records: Records,
    largest_slot: usize,
}

impl Payload {
    /// What lies in these slabs, whose largest slot has so many bytes.
    pub fn new(area: SlabArea, largest_slot: u32) -> Payload {
        Payload { area, records: Records::new(area), largest_slot: largest_slot as usize }
    }

    /// The shape of a key and a value of these lengths.
    #[inline]
    pub fn shape(&self, key_len: usize, value_len: usize) -> PayloadShape {
        PayloadShape::of(key_len, value_len, self.largest_slot)
    }

    #[inline]
    fn entry_word(&self, slot: Location) -> &Word32 {
        self.area.slot_word(slot, 0)
    }

    #[inline]
    fn len_word(&self, slot: Location) -> &Word32 {
        self.area.slot_word(slot, 1)
    }

    /// First continuation, in the head's slot.
    fn next_word(&self, slot: Location) -> &Word32 {
        self.area.slot_word(slot, 2)
    }

    /// The record that a used slot belongs to.
    #[inline]
    pub fn owner_of(&self, slot: Location) -> EntryIndex {
        EntryIndex(self.entry_word(slot).get())
    }

    /// Makes a slot that was just taken a record's own, for a value (or a part of one) of `len` bytes.
    #[inline]
    pub fn give_slot(&self, entry: EntryIndex, slot: Location, len: usize) {
        self.entry_word(slot).set(entry.0);
        self.len_word(slot).set(len as u32);
        if self.records.get(entry).has(Flags::CHAINED) {
            self.next_word(slot).set(EntryIndex::NONE.0);
            self.area.slot_word(slot, 3).set(0);
        }
        self.records.get(entry).set_location(slot);
    }

    /// Links a continuation behind the last part of an entry, `before`, which is the entry itself at first.
    pub fn link_continuation(&self, head: EntryIndex, before: EntryIndex, continuation: EntryIndex) {
        let record = self.records.get(continuation);
        record.chain.set(head.0);
        record.previous.set(before.0);
        if before == head {
            self.next_word(self.records.get(head).location()).set(continuation.0);
        } else {
            self.records.get(before).next.set(continuation.0);
        }
    }

    /// Writes a key and a value into the slots that were reserved for them.
    pub fn fill(&self, entry: EntryIndex, key: Key<'_>, value: &[u8]) {
        let record = self.records.get(entry);
        let slot = record.location().offset();
        let key_start = slot + if record.has(Flags::CHAINED) { CHAINED_HEADER_BYTES } else { HEADER_BYTES };
        let value_start = key_start + padded(key.bytes.len());
        self.area.region().write_bytes(key_start, key.bytes);
        let PayloadShape::Chained { first_part, part, .. } = self.shape(key.bytes.len(), value.len()) else {
            return self.area.region().write_bytes(value_start, value);
        };
        self.area.region().write_bytes(value_start, &value[..first_part]);
        let mut pieces = value[first_part..].chunks(part);
        for continuation in self.continuations(entry) {
            let slot = self.records.get(continuation).location();
            let piece = pieces.next().expect("a continuation was reserved for each piece");
            self.area.region().write_bytes(slot.offset() + HEADER_BYTES, piece);
        }
        assert!(pieces.next().is_none(), "a piece has no continuation");
    }

    /// Writes another value over the one in a single slot.
    #[inline]
    pub fn overwrite(&self, entry: EntryIndex, key_len: usize, value: &[u8]) {
        let slot = self.records.get(entry).location();
        self.len_word(slot).set(value.len() as u32);
        self.area.region().write_bytes(slot.offset() + HEADER_BYTES + padded(key_len), value);
    }

    #[inline]
    fn key_offset(&self, entry: EntryIndex) -> usize {
        let record = self.records.get(entry);
        let header = if record.has(Flags::CHAINED) { CHAINED_HEADER_BYTES } else { HEADER_BYTES };
        record.location().offset() + header
    }

    /// An entry's key.
    #[inline]
    pub fn key(&self, entry: EntryIndex) -> &[u8] {
        self.area.region().bytes(self.key_offset(entry), self.records.get(entry).key_len())
    }

    /// Whether an entry has this key.
    #[inline]
    pub fn key_equals(&self, entry: EntryIndex, key: &[u8]) -> bool {
        self.records.get(entry).key_len() == key.len() && self.key(entry) == key
    }

    /// The length of an entry's value in bytes.
    ///
    /// # Panics
    ///
    /// If it is larger than the partition: the region is damaged.
    #[inline]
    pub fn value_len(&self, entry: EntryIndex) -> usize {
        let len = self.len_word(self.records.get(entry).location()).get() as usize;
        assert!(len <= self.area.region().len_bytes(), "record {} has a value of {len} bytes", entry.0);
        len
    }

    /// Bytes of an entry's key and value.
    #[inline]
    pub fn entry_bytes(&self, entry: EntryIndex) -> u64 {
        (self.records.get(entry).key_len() + self.value_len(entry)) as u64
    }

    /// Where in the slabs the value lies, if it lies in one piece, and its length.
    #[inline]
    pub fn contiguous_value(&self, entry: EntryIndex) -> Option<(usize, usize)> {
        let record = self.records.get(entry);
        let offset = self.key_offset(entry) + padded(record.key_len());
        (!record.has(Flags::CHAINED)).then(|| (offset, self.value_len(entry)))
    }

    /// Appends an entry's value to `out`, which should have room for it.
    ///
    /// # Panics
    ///
    /// As [`Payload::for_each_part`].
    pub fn append_value(&self, entry: EntryIndex, out: &mut Vec<u8>) {
        self.for_each_part(entry, |part| out.extend_from_slice(part));
    }

    /// Hands the parts of an entry's value to `take`, in order: one, or as many as the value has slots.
    ///
    /// # Panics
    ///
    /// If the parts of a chained value are not as long as the value: the region is damaged. No more than the value's
    /// length is handed out before.
    #[inline]
    pub fn for_each_part(&self, entry: EntryIndex, mut take: impl FnMut(&[u8])) {
        match self.contiguous_value(entry) {
            Some((offset, len)) => take(self.area.region().bytes(offset, len)),
            None => self.for_each_chained_part(entry, &mut take),
        }
    }

    #[cold]
    fn for_each_chained_part(&self, entry: EntryIndex, take: &mut dyn FnMut(&[u8])) {
        let (key_len, value_len) = (self.records.get(entry).key_len(), self.value_len(entry));
        let PayloadShape::Chained { first_part, .. } = self.shape(key_len, value_len) else {
            panic!("record {} is chained, and its value fits one slot", entry.0)
        };
        take(self.area.region().bytes(self.key_offset(entry) + padded(key_len), first_part));
        let mut left = value_len - first_part;
        for continuation in self.continuations(entry) {
            let slot = self.records.get(continuation).location();
            let len = self.len_word(slot).get() as usize;
            left = left.checked_sub(len).expect("the parts of a value are no longer than the value");
            take(self.area.region().bytes(slot.offset() + HEADER_BYTES, len));
        }
        assert_eq!(left, 0, "bytes of record {} that no part has", entry.0);
    }

    /// The continuation records of an entry, in order, those that have no slot yet included; none if it is not chained.
    /// At most as many as its value can have: a damaged chain may have no end.
    pub fn continuations(&self, entry: EntryIndex) -> impl Iterator<Item = EntryIndex> + '_ {
        let record = self.records.get(entry);
        let is_chained = record.has(Flags::CHAINED) && !record.location().is_none();
        let first = if is_chained { EntryIndex(self.next_word(record.location()).get()).some() } else { None };
        let most = if is_chained { self.value_len(entry) / (self.largest_slot - HEADER_BYTES) + 2 } else { 0 };
        std::iter::successors(first, |&part| EntryIndex(self.records.get(part).next.get()).some()).take(most)
    }

    /// As [`Payload::continuations`], of an entry that may be damaged: what cannot be is left out.
    pub fn continuations_unchecked(&self, entry: EntryIndex) -> impl Iterator<Item = EntryIndex> + '_ {
        let record = self.records.get(entry);
        let slot = record.location();
        let is_chained = record.has(Flags::CHAINED) && !slot.is_none() && self.area.locate(slot.offset() + 8).is_some();
        let first = if is_chained { EntryIndex(self.next_word(slot).get()).some() } else { None };
        let most = self.area.region().len_bytes() / self.largest_slot;
        let next = |&part: &EntryIndex| EntryIndex(self.records.get_checked(part)?.next.get()).some();
        std::iter::successors(first, next).take(most)
    }

    /// Bytes stored in the slot of a record, an entry's or a continuation's.
    #[inline]
    pub fn stored_bytes(&self, entry: EntryIndex) -> usize {
        let record = self.records.get(entry);
        let len = self.value_len(entry);
        if record.has(Flags::CONTINUATION) {
            return HEADER_BYTES + len;
        }
        self.shape(record.key_len(), len).first_slot_bytes()
    }

    /// Exchanges what two records of one key store; neither may be pinned or findable by optimistic reads meanwhile.
    pub fn exchange(&self, a: EntryIndex, b: EntryIndex) {
        let (first, second) = (self.records.get(a), self.records.get(b));
        let (locations, chained) = ([first.location(), second.location()], first.has(Flags::CHAINED));
        first.put_flags(Flags::CHAINED, second.has(Flags::CHAINED));
        second.put_flags(Flags::CHAINED, chained);
        for (entry, slot) in [(a, locations[1]), (b, locations[0])] {
            self.entry_word(slot).set(entry.0);
            self.records.get(entry).set_location(slot);
            let mut before = entry;
            for part in self.continuations(entry) {
                let record = self.records.get(part);
                record.chain.set(entry.0);
                record.previous.set(before.0);
                before = part;
            }
        }
    }

    /// Asks the processor to fetch the start of the slot that a record names, which may be anything: safe beside
    /// writers.
    #[inline]
    pub fn prefetch_slot(&self, entry: EntryIndex) {
        /// The key and the start of the value; the processor goes on by itself where a value is read to its end.
        const SLOT_LINES: usize = 2;
        const LINE_BYTES: usize = 64;
        if let Some(record) = self.records.get_checked(entry) {
            let slot = record.location().offset();
            (0..SLOT_LINES).for_each(|line| self.area.region().prefetch(slot + line * LINE_BYTES));
        }
    }

    /// What `validate` may read of an entry that may be damaged: its key and value in parts, or why it has none.
    pub fn check(&self, entry: EntryIndex, is_used_slot: impl Fn(Location) -> bool) -> Result<(), String> {
        let record = self.records.get(entry);
        let slot = record.location();
        if !is_used_slot(slot) {
            return Err(format!("record {} points to no slot in use", entry.0));
        }
        if self.owner_of(slot) != entry {
            return Err(format!("the slot of record {} belongs to record {}", entry.0, self.owner_of(slot).0));
        }
        let len = self.len_word(slot).get() as usize;
        let (_, within) = self.area.locate(slot.offset()).expect("a used slot lies in a slab");
        let room = self.area.slab_bytes() as usize - within as usize;
        let header = if record.has(Flags::CHAINED) { CHAINED_HEADER_BYTES } else { HEADER_BYTES };
        let in_slot = match (record.has(Flags::CHAINED), record.has(Flags::CONTINUATION)) {
            (true, true) => return Err(format!("record {} is chained and a continuation", entry.0)),
            (true, false) => padded(record.key_len()),
            (false, _) => padded(record.key_len()).saturating_add(len),
        };
        if header + in_slot > room || len > self.area.region().len_bytes() {
            return Err(format!("record {} has {len} bytes in a slot of less than {room}", entry.0));
        }
        if !record.has(Flags::CHAINED) {
            return Ok(());
        }
        let PayloadShape::Chained { first_part, .. } = self.shape(record.key_len(), len) else {
            return Err(format!("record {} is chained, and its {len} bytes fit one slot", entry.0));
        };
        let (mut before, mut bytes, mut parts) = (entry, first_part, 0);
        let mut next = EntryIndex(self.next_word(slot).get());
        while !next.is_none() {
            parts += 1;
            if parts > len / (self.largest_slot - HEADER_BYTES) + 2 {
                return Err(format!("record {} has more continuations than its {len} bytes need", entry.0));
            }
            let Some(part) = self.records.get_checked(next) else {
                return Err(format!("continuation {} of record {} lies outside of the slabs", next.0, entry.0));
            };
            if !part.is_live() || !part.has(Flags::CONTINUATION) || part.chain.get() != entry.0 {
                return Err(format!("continuation {} of record {} is not its own", next.0, entry.0));
            }
            if part.previous.get() != before.0 {
                return Err(format!("continuation {} of record {} names another part before it", next.0, entry.0));
            }
            if is_used_slot(part.location()) {
                bytes += self.len_word(part.location()).get() as usize;
            }
            before = next;
            next = EntryIndex(part.next.get());
        }
        if bytes == len { Ok(()) } else { Err(format!("record {} has {bytes} bytes of a value of {len}", entry.0)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_holds_the_key_and_the_whole_value() {
        for largest in [256, 504, 2040] {
            for key_len in [0, 1, 8, 100] {
                for value_len in 0..5000 {
                    let slots = match PayloadShape::of(key_len, value_len, largest) {
                        PayloadShape::Single { bytes } => {
                            assert!(bytes <= largest && bytes == HEADER_BYTES + padded(key_len) + value_len);
                            1
                        }
                        PayloadShape::Chained { head_bytes, first_part, part } => {
                            assert_eq!(head_bytes, CHAINED_HEADER_BYTES + padded(key_len) + first_part);
                            assert_eq!((head_bytes, part), (largest, largest - HEADER_BYTES));
                            assert!(value_len > first_part);
                            1 + (value_len - first_part).div_ceil(part)
                        }
                    };
                    assert!(slots <= PayloadShape::most_slots(key_len + value_len, largest).max(1));
                }
            }
        }
    }
}
