//! A bucket: one cache line that names up to twelve entries.
//!
//! ```text
//! 0             12         16                                   64
//! ┌─────────────┬──────────┬────────────────────────────────────┐
//! │ 12 tag bytes│ overflow │ 12 entry indexes                   │
//! └─────────────┴──────────┴────────────────────────────────────┘
//! ```
//!
//! A lookup compares the key's tag (8 bits of its hash) with all tags of the line at once, and visits only records whose
//! tag matches: one line for the bucket, one for the record, then the slot. `overflow` names the first entry that is
//! chained beyond the twelfth.
//!
//! Locking: as the table's. Words that name entries are stored with release and loaded with acquire ordering.

use crate::engine::ids::EntryIndex;
use crate::engine::limits::BUCKET_CELLS;
use crate::engine::memory::region::region_struct;
use crate::engine::memory::words::{Word32, Word64};

region_struct! {
    /// One bucket.
    pub struct Bucket: 64 bytes, align 64 {
        tags: Word64,
        more_tags: Word32,
        pub(super) overflow: Word32,
        pub(super) entries: [Word32; BUCKET_CELLS],
    }
}

/// Cells of a bucket that have a tag, one bit (at 8·cell + 7) for each; iterates over their numbers.
struct Matches(u128);

impl Iterator for Matches {
    type Item = usize;

    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let cell = self.0.trailing_zeros() as usize / 8;
        self.0 &= self.0 - 1;
        Some(cell)
    }
}

impl Bucket {
    /// The cells with this tag: exact, there are no false positives among tags.
    #[inline(always)]
    fn matches(&self, tag: u8) -> Matches {
        const ONES: u128 = 0x0101_0101_0101_0101_0101_0101;
        const LOW: u128 = 0x7f * ONES;
        let tags = u128::from(self.tags.get()) | u128::from(self.more_tags.get()) << 64;
        let differing = tags ^ (u128::from(tag) * ONES);
        Matches(!(((differing & LOW) + LOW) | differing | LOW) & (0x80 * ONES))
    }

    pub(super) fn tag_at(&self, cell: usize) -> u8 {
        let tags = u128::from(self.tags.get()) | u128::from(self.more_tags.get()) << 64;
        (tags >> (8 * cell)) as u8
    }

    pub(super) fn set_cell(&self, cell: usize, tag: u8, entry: EntryIndex) {
        if cell < 8 {
            let cleared = self.tags.get() & !(0xff << (8 * cell));
            self.tags.set(cleared | u64::from(tag) << (8 * cell));
        } else {
            let cleared = self.more_tags.get() & !(0xff << (8 * (cell - 8)));
            self.more_tags.set(cleared | u32::from(tag) << (8 * (cell - 8)));
        }
        self.entries[cell].store_release(entry.0);
    }

    pub(super) fn clear(&self) {
        self.tags.set(0);
        self.more_tags.set(0);
        self.overflow.set(0);
        self.entries.iter().for_each(|cell| cell.set(0));
    }

    /// The cells that a key with this tag may be named in, and what they name; safe beside writers.
    #[inline(always)]
    pub fn candidates(&self, tag: u8) -> impl Iterator<Item = (usize, EntryIndex)> + '_ {
        let cells = self.matches(tag).map(|cell| (cell, self.entry_at(cell)));
        cells.filter(|(_, entry)| !entry.is_none())
    }

    /// What a cell names; with acquire ordering.
    #[inline(always)]
    pub fn entry_at(&self, cell: usize) -> EntryIndex {
        EntryIndex(self.entries[cell].load_acquire())
    }

    /// The first entry chained beyond the line, if any; safe beside writers.
    #[inline(always)]
    pub fn first_overflowed(&self) -> Option<EntryIndex> {
        EntryIndex(self.overflow.load_acquire()).some()
    }

    /// The entries that a key with this tag may have in the line, or else the first one chained beyond it.
    #[inline]
    pub(super) fn likely(&self, tag: u8) -> impl Iterator<Item = EntryIndex> + '_ {
        let chained = if self.matches(tag).next().is_none() { self.first_overflowed() } else { None };
        self.candidates(tag).map(|(_, entry)| entry).chain(chained)
    }

    pub(super) fn cell_of(&self, entry: EntryIndex) -> Option<usize> {
        self.entries.iter().position(|cell| cell.get() == entry.0)
    }

    /// Cells that name an entry, and the entry.
    pub fn cells(&self) -> impl Iterator<Item = (usize, EntryIndex)> + '_ {
        let cells = self.entries.iter().enumerate();
        cells.filter_map(|(cell, word)| Some((cell, EntryIndex(word.get()).some()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::memory::region::Region;

    #[test]
    fn tags_match_exactly() {
        let region = Region::leaked(64);
        let bucket: &Bucket = region.at(0);
        let tags = [0, 1, 0x7f, 0x80, 0x81, 0xff, 0xfe, 1, 0, 0x80, 0xff, 1];
        for (cell, &tag) in tags.iter().enumerate() {
            bucket.set_cell(cell, tag, EntryIndex(cell as u32 + 1));
            assert_eq!(bucket.tag_at(cell), tag);
        }
        for tag in 0..=255u8 {
            let found: Vec<usize> = bucket.matches(tag).collect();
            let expected: Vec<usize> = (0..12).filter(|&cell| tags[cell] == tag).collect();
            assert_eq!(found, expected, "tag {tag:#x}");
        }
    }
}
