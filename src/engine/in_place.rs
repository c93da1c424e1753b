//! Entries looked at where they lie, by whoever has the partition to itself.

use super::ids::EntryIndex;
use super::partition::Partition;

impl Partition {
    /// Whether an entry has this key.
    #[inline]
    pub fn has_key(&self, entry: EntryIndex, key: &[u8]) -> bool {
        self.key_equals(entry, key)
    }

    /// Offset and length of an entry's value, if it lies in one piece.
    #[inline]
    pub fn value_range(&self, entry: EntryIndex) -> Option<(usize, usize)> {
        self.contiguous_value(entry)
    }
}
