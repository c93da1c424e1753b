//! What a slot holds: keys and values, in one slot or chained over several.
//!
//! ```text
//! single        ┌───────┬───────────┬─────┬─────┬─────────────┬ ─ ─ ─ ─ ┐
//!               │ entry │ value_len │ key │ pad │ value       │ expires           value aligned to 8 bytes, expires to 4
//!               └───────┴───────────┴─────┴─────┴─────────────┴ ─ ─ ─ ─ ┘
//! chained head  ┌───────┬───────────┬──────┬─────────┬─────┬─────┬──────────────────────┐
//!               │ entry │ value_len │ next │ expires │ key │ pad │ first part of value  │    a slot of the largest class
//!               └───────┴───────────┴──────┴─────────┴─────┴─────┴──────────────────────┘
//! continuation  ┌───────┬──────────┬──────────────────────────────────────────────┐
//!               │ entry │ part_len │ next part of value                           │    entry: its own continuation record
//!               └───────┴──────────┴──────────────────────────────────────────────┘
//! ```
//!
//! `entry` names the slot's record, so that compaction finds what to change when it moves the slot. A slot is given its
//! `entry` and its length when it is reserved: it may be moved before its value is complete, and what it takes is known.
//!
//! `expires` is there if the record says that the entry expires; else it takes no byte of a single slot, and is zero in a
//! chained one. Behind a value it is half of a word of 8 bytes, which is loaded and stored whole: of the value's last one,
//! if that has room for it, else of the next.
//!
//! Every length that is read is checked against what fits: a damaged one ends in a panic, never in a loop or an
//! allocation without limit.
//!
//! Locking: the partition's lock, or a pin on the entry. Not here: how many bytes and slots an entry takes (`lengths`), how
//! room is made (`reclaim`), who may look (`partition`).

use super::lengths::{CHAINED_HEADER_BYTES, HEADER_BYTES, Lengths, MOMENT_BYTES, PayloadShape};
use super::lengths::{moment_behind, padded, place_of_moment};
use super::record::{Flags, Records};
use crate::engine::hash::Key;
use crate::engine::ids::{EntryIndex, Location};
use crate::engine::memory::words::{Word32, Word64};
use crate::engine::moment::Moment;
use crate::engine::slab::area::SlabArea;

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

    /// The shape of an entry of these lengths.
    #[inline]
    pub fn shape(&self, lengths: Lengths) -> PayloadShape {
        PayloadShape::of(lengths, self.largest_slot)
    }

    /// The lengths of an entry.
    #[inline]
    fn lengths(&self, entry: EntryIndex) -> Lengths {
        let record = self.records.get(entry);
        let moment = if record.expires() { MOMENT_BYTES } else { 0 };
        Lengths { key: record.key_len(), value: self.value_len(entry), moment }
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

    /// When a chained entry expires, in the head's slot.
    fn chained_moment_word(&self, slot: Location) -> &Word32 {
        self.area.slot_word(slot, 3)
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
            self.chained_moment_word(slot).set(0);
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

    /// Writes a key, a value and the moment at which they expire into the slots that were reserved for them.
    pub fn fill(&self, entry: EntryIndex, key: Key<'_>, value: &[u8], expires: Option<Moment>) {
        let record = self.records.get(entry);
        let slot = record.location().offset();
        let key_start = slot + if record.has(Flags::CHAINED) { CHAINED_HEADER_BYTES } else { HEADER_BYTES };
        let value_start = key_start + padded(key.bytes.len());
        self.area.region().write_bytes(key_start, key.bytes);
        let lengths = Lengths::new(key.bytes.len(), value.len(), expires);
        assert_eq!(record.expires(), lengths.expires(), "what is reserved has room for the moment, or needs none");
        let PayloadShape::Chained { first_part, part, .. } = self.shape(lengths) else {
            return self.write_value(value_start, value, expires);
        };
        if let Some(Moment(moment)) = expires {
            self.chained_moment_word(record.location()).set(moment);
        }
        self.area.region().write_bytes(value_start, &value[..first_part]);
        let mut pieces = value[first_part..].chunks(part);
        for continuation in self.continuations(entry) {
            let slot = self.records.get(continuation).location();
            let piece = pieces.next().expect("a continuation was reserved for each piece");
            self.area.region().write_bytes(slot.offset() + HEADER_BYTES, piece);
        }
        assert!(pieces.next().is_none(), "a piece has no continuation");
    }

    /// Writes a value that lies in one piece, and the moment behind it.
    #[inline(always)]
    fn write_value(&self, value_start: usize, value: &[u8], expires: Option<Moment>) {
        self.area.region().write_bytes(value_start, value);
        if let Some(moment) = expires {
            self.write_moment(value_start, value.len(), moment);
        }
    }

    #[inline(never)]
    fn write_moment(&self, value_start: usize, value_len: usize, moment: Moment) {
        let (word, half) = place_of_moment(value_len);
        let word: &Word64 = self.area.region().at(value_start + 8 * word);
        // The first half is the value's end, or nobody's.
        let mut bytes = if half == 0 { [0; 8] } else { word.get().to_ne_bytes() };
        bytes[MOMENT_BYTES * half..][..MOMENT_BYTES].copy_from_slice(&moment.0.to_ne_bytes());
        word.set(u64::from_ne_bytes(bytes));
    }

    /// Writes another value, and the moment behind it, over what is in a single slot.
    #[inline]
    pub fn overwrite(&self, entry: EntryIndex, key_len: usize, value: &[u8], expires: Option<Moment>) {
        let slot = self.records.get(entry).location();
        self.len_word(slot).set(value.len() as u32);
        self.write_value(slot.offset() + HEADER_BYTES + padded(key_len), value, expires);
    }

    /// The moment from which on an entry is as good as absent, if there is one.
    ///
    /// # Panics
    ///
    /// As [`Payload::value_len`], or if the value does not end in its slab.
    #[inline(always)]
    pub fn expires(&self, entry: EntryIndex) -> Option<Moment> {
        self.records.get(entry).expires().then(|| self.moment(entry))
    }

    #[cold]
    #[inline(never)]
    fn moment(&self, entry: EntryIndex) -> Moment {
        let record = self.records.get(entry);
        let slot = record.location();
        if record.has(Flags::CHAINED) {
            return Moment(self.chained_moment_word(slot).get());
        }
        let value_start = (HEADER_BYTES + padded(record.key_len())) / 8;
        let value = self.area.words_from(slot).and_then(|words| words.get(value_start..));
        let moment = value.and_then(|value| moment_behind(value, self.value_len(entry)));
        moment.expect("a value that expires ends in its slab, and the moment behind it")
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
        let lengths = self.lengths(entry);
        let PayloadShape::Chained { first_part, .. } = self.shape(lengths) else {
            panic!("record {} is chained, and its value fits one slot", entry.0)
        };
        take(self.area.region().bytes(self.key_offset(entry) + padded(lengths.key), first_part));
        let mut left = lengths.value - first_part;
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

    /// Takes the first continuation of a chained entry out of its chain.
    pub fn unlink_first_continuation(&self, entry: EntryIndex) -> Option<EntryIndex> {
        let first = self.next_word(self.records.get(entry).location());
        let part = EntryIndex(first.get()).some()?;
        first.set(self.records.get(part).next.get());
        Some(part)
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
        if self.records.get(entry).has(Flags::CONTINUATION) {
            return HEADER_BYTES + self.value_len(entry);
        }
        self.shape(self.lengths(entry)).first_slot_bytes()
    }

    /// Exchanges what two records of one key store; neither may be pinned or findable by optimistic reads meanwhile.
    pub fn exchange(&self, a: EntryIndex, b: EntryIndex) {
        let (first, second) = (self.records.get(a), self.records.get(b));
        let (locations, chained) = ([first.location(), second.location()], first.has(Flags::CHAINED));
        let expires = first.expires();
        first.put_flags(Flags::CHAINED, second.has(Flags::CHAINED));
        second.put_flags(Flags::CHAINED, chained);
        first.set_expires(second.expires());
        second.set_expires(expires);
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
            (false, true) if record.expires() => return Err(format!("continuation {} expires by itself", entry.0)),
            (false, _) if record.expires() => {
                padded(record.key_len()) + len.next_multiple_of(MOMENT_BYTES) + MOMENT_BYTES
            }
            (false, _) => padded(record.key_len()) + len,
        };
        if header + in_slot > room || len > self.area.region().len_bytes() {
            return Err(format!("record {} has {len} bytes in a slot of less than {room}", entry.0));
        }
        if !record.has(Flags::CHAINED) {
            return Ok(());
        }
        let PayloadShape::Chained { first_part, .. } = self.shape(self.lengths(entry)) else {
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
    use crate::engine::memory::region::Region;

    #[test]
    fn a_moment_is_read_as_it_was_written_and_leaves_the_value_alone() {
        let area = SlabArea::new(Region::leaked(4096), 4096);
        let payload = Payload::new(area, 504);
        for len in 0..100 {
            let value: Vec<u8> = (1..=len as u8).collect();
            area.region().write_bytes(64, &[0xee; 200]);
            payload.write_value(64, &value, Some(Moment(0x1234_5678)));
            assert_eq!(area.region().bytes(64, len), value);
            let words = area.region().slice(64, 100);
            assert_eq!(moment_behind(words, len), Some(Moment(0x1234_5678)), "behind {len} bytes");
            assert_eq!(moment_behind(&words[..len / 8], len), None, "cut off");
        }
    }
}
