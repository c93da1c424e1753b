//! What a caller with memory of its own asks of a partition: nothing here allocates.
//!
//! Values may be as large as a gibibyte, and the partition's lock is held: memory that cannot be had must be an error of
//! the caller's, outside of the lock. So the caller brings the memory and is told how much it takes.
//!
//! Not here: who brings it (`shared::bounded`), copies beside writers (`optimistic`).

use std::mem::MaybeUninit;

use super::evicted::Evicted;
use super::ids::EntryIndex;
use super::partition::{Key, Partition};

/// What [`Partition::pop_within`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Popped {
    /// The partition is empty.
    Nothing,
    /// An entry was removed and appended.
    Entry,
    /// The next entry needs room for this many bytes of key and value, and stays.
    Needs(usize),
}

impl Partition {
    /// Copies an entry's value to the start of `room`, if it fits there; returns the value's length in any case.
    pub(crate) fn copy_value_within(&self, entry: EntryIndex, room: &mut [MaybeUninit<u8>]) -> usize {
        let value_len = self.value_len(entry);
        if let Some(mut left) = room.get_mut(..value_len) {
            self.for_each_part(entry, |part| {
                let (start, rest) = std::mem::take(&mut left).split_at_mut(part.len());
                start.iter_mut().zip(part).for_each(|(to, &from)| _ = to.write(from));
                left = rest;
            });
        }
        value_len
    }

    /// As [`Partition::pop`] into `popped`, unless that would have to grow.
    pub(crate) fn pop_within(&mut self, popped: &mut Evicted) -> Popped {
        let Some(oldest) = self.oldest() else { return Popped::Nothing };
        let entry = self.mutate(|partition| partition.victim().unwrap_or(oldest));
        let bytes = self.key_bytes(entry).len() + self.value_len(entry);
        if !popped.has_room(bytes) {
            return Popped::Needs(bytes);
        }
        popped.append(self.key_bytes(entry), |out| self.append_value(entry, out));
        self.mutate(|partition| partition.discard(entry));
        self.header().removals.add(1);
        Popped::Entry
    }

    /// As [`Partition::remove`], without a copy of the value.
    pub(crate) fn remove_unread(&mut self, key: Key<'_>) -> bool {
        let Some(entry) = self.find(key) else { return false };
        self.mutate(|partition| partition.discard(entry));
        self.header().removals.add(1);
        true
    }
}
