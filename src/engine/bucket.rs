//! The hash table: buckets of one cache line, each naming up to twelve entries.
//!
//! ```text
//! Bucket   0             12         16                                   64
//!          ┌─────────────┬──────────┬────────────────────────────────────┐
//!          │ 12 tag bytes│ overflow │ 12 entry indexes                   │
//!          └─────────────┴──────────┴────────────────────────────────────┘
//! ```
//!
//! A lookup compares the key's tag (8 bits of its hash) with all tags of the line at once, and visits only
//! records whose tag matches: one line for the bucket, one for the record, then the slot. Entries beyond the
//! twelfth are chained through their records from `overflow`, so any number of entries works with any number of
//! buckets; a removal moves one back into the line.
//!
//! Hash bits: the low bits choose the bucket, the top 8 of the low 32 are the tag, the high 32 choose the
//! partition. The hash is not stored; it is computed from the key again where it is needed.
//!
//! Locking: changed under the partition's exclusive lock, read under any, or without (`optimistic`); so the words that
//! name entries are published.

use super::directory::flag;
use super::ids::{BucketIndex, EntryIndex};
use super::layout::BUCKET_CELLS;
use super::partition::{Key, Partition};
use super::region::{RegionType, Word32, Word64};

/// One bucket.
#[repr(C, align(64))]
pub struct Bucket {
    tags: Word64,
    more_tags: Word32,
    overflow: Word32,
    entries: [Word32; BUCKET_CELLS],
}
const _: () = assert!(size_of::<Bucket>() == 64);
// SAFETY: repr(C), words only, exactly one cache line.
#[allow(unsafe_code)]
unsafe impl RegionType for Bucket {}

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

    fn set_cell(&self, cell: usize, tag: u8, entry: EntryIndex) {
        if cell < 8 {
            let cleared = self.tags.get() & !(0xff << (8 * cell));
            self.tags.set(cleared | u64::from(tag) << (8 * cell));
        } else {
            let cleared = self.more_tags.get() & !(0xff << (8 * (cell - 8)));
            self.more_tags.set(cleared | u32::from(tag) << (8 * (cell - 8)));
        }
        self.entries[cell].store_release(entry.0);
    }

    /// Names no entries any more.
    pub(super) fn clear(&self) {
        self.tags.set(0);
        self.more_tags.set(0);
        self.overflow.set(0);
        self.entries.iter().for_each(|cell| cell.set(0));
    }

    /// The entries that a key with this tag may have, in the line; safe beside writers.
    #[inline(always)]
    pub(super) fn candidates(&self, tag: u8) -> impl Iterator<Item = EntryIndex> + '_ {
        let cells = self.matches(tag).map(|cell| EntryIndex(self.entries[cell].load_acquire()));
        cells.filter(|entry| !entry.is_none())
    }

    /// Those of them, or else the first one chained beyond the line.
    #[inline]
    pub(super) fn likely(&self, tag: u8) -> impl Iterator<Item = EntryIndex> + '_ {
        let chained = if self.matches(tag).next().is_none() { self.first_overflowed() } else { None };
        self.candidates(tag).chain(chained)
    }

    /// The first entry chained beyond the line, if any; safe beside writers.
    #[inline]
    pub(super) fn first_overflowed(&self) -> Option<EntryIndex> {
        EntryIndex(self.overflow.load_acquire()).some()
    }

    fn cell_of(&self, entry: EntryIndex) -> Option<usize> {
        self.entries.iter().position(|cell| cell.get() == entry.0)
    }

    /// Entries named in the line.
    pub fn used_cells(&self) -> usize {
        self.entries.iter().filter(|cell| cell.get() != 0).count()
    }

    /// The entries named in the line.
    pub fn cells(&self) -> impl Iterator<Item = EntryIndex> + '_ {
        self.entries.iter().filter_map(|cell| EntryIndex(cell.get()).some())
    }
}

impl Partition {
    /// One bucket.
    #[inline]
    pub(super) fn bucket(&self, bucket: BucketIndex) -> &Bucket {
        self.region.at(self.layout.bucket_offset(bucket))
    }

    #[inline]
    pub(super) fn bucket_of(&self, key: Key<'_>) -> BucketIndex {
        BucketIndex(key.hash as u32 & (self.layout.buckets_per_partition - 1))
    }

    /// The entry with this key.
    #[inline]
    pub fn find(&self, key: Key<'_>) -> Option<EntryIndex> {
        let bucket = self.bucket(self.bucket_of(key));
        for entry in bucket.candidates(key.tag()) {
            if self.key_equals(entry, key.bytes) {
                return Some(entry);
            }
        }
        self.overflow_chain(bucket).find(|&entry| self.key_equals(entry, key.bytes))
    }

    /// The entries chained from a bucket.
    pub(super) fn overflow_chain<'a>(&'a self, bucket: &Bucket) -> impl Iterator<Item = EntryIndex> + 'a {
        let first = bucket.first_overflowed();
        std::iter::successors(first, |&entry| EntryIndex(self.record(entry).chain.get()).some())
    }

    /// Makes an entry findable. The key must not be in the table.
    pub(super) fn add_to_bucket(&mut self, key: Key<'_>, entry: EntryIndex) {
        let bucket = self.bucket(self.bucket_of(key));
        match bucket.cell_of(EntryIndex::NONE) {
            Some(cell) => bucket.set_cell(cell, key.tag(), entry),
            None => {
                let record = self.record(entry);
                record.chain.set(bucket.overflow.get());
                record.set_flags(flag::OVERFLOWED);
                bucket.overflow.store_release(entry.0);
                self.header().overflowed.add(1);
            }
        }
    }

    /// Makes an entry unfindable.
    pub(super) fn remove_from_bucket(&mut self, entry: EntryIndex) {
        let hash = self.hash(self.key_bytes(entry));
        let bucket = self.bucket(BucketIndex(hash as u32 & (self.layout.buckets_per_partition - 1)));
        if self.record(entry).has(flag::OVERFLOWED) {
            self.unchain(bucket, entry);
            return;
        }
        let cell = bucket.cell_of(entry).expect("an entry is listed in its key's bucket");
        match bucket.first_overflowed() {
            // In the line before it leaves the chain: an entry that can be found is in one of the two at every moment.
            Some(chained) => {
                let tag = Key::tag_of(self.hash(self.key_bytes(chained)));
                bucket.set_cell(cell, tag, chained);
                self.unchain(bucket, chained);
            }
            None => bucket.set_cell(cell, 0, EntryIndex::NONE),
        }
    }

    /// Lists `built` where `entry`, of the same key, is listed: there is no moment at which the key has neither.
    pub(super) fn take_place_in_bucket(&mut self, key: Key<'_>, built: EntryIndex, entry: EntryIndex) {
        let bucket = self.bucket(self.bucket_of(key));
        if self.record(entry).has(flag::OVERFLOWED) {
            let record = self.record(built);
            record.chain.set(self.record(entry).chain.get());
            record.set_flags(flag::OVERFLOWED);
            self.header().overflowed.add(1);
            self.link_to(bucket, entry).store_release(built.0);
            self.leave_chain(entry);
        } else {
            let cell = bucket.cell_of(entry).expect("an entry is listed in its key's bucket");
            bucket.entries[cell].store_release(built.0);
        }
    }

    /// The word of a bucket's chain that names an entry.
    fn link_to<'a>(&'a self, bucket: &'a Bucket, entry: EntryIndex) -> &'a Word32 {
        if bucket.overflow.get() == entry.0 {
            return &bucket.overflow;
        }
        let before = self.overflow_chain(bucket).find(|&other| self.record(other).chain.get() == entry.0);
        &self.record(before.expect("an overflowed entry is in its bucket's chain")).chain
    }

    fn unchain(&self, bucket: &Bucket, entry: EntryIndex) {
        self.link_to(bucket, entry).store_release(self.record(entry).chain.get());
        self.leave_chain(entry);
    }

    /// Notes that no chain has an entry any more.
    fn leave_chain(&self, entry: EntryIndex) {
        let record = self.record(entry);
        record.chain.set(EntryIndex::NONE.0);
        record.clear_flags(flag::OVERFLOWED);
        self.header().overflowed.sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_match_exactly() {
        let bucket = Bucket {
            tags: Word64::default(),
            more_tags: Word32::default(),
            overflow: Word32::default(),
            entries: Default::default(),
        };
        let tags = [0, 1, 0x7f, 0x80, 0x81, 0xff, 0xfe, 1, 0, 0x80, 0xff, 1];
        for (cell, &tag) in tags.iter().enumerate() {
            bucket.set_cell(cell, tag, EntryIndex(cell as u32 + 1));
        }
        for tag in 0..=255u8 {
            let found: Vec<usize> = bucket.matches(tag).collect();
            let expected: Vec<usize> = (0..12).filter(|&cell| tags[cell] == tag).collect();
            assert_eq!(found, expected, "tag {tag:#x}");
        }
    }
}
