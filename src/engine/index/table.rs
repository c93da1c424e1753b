//! The hash table: buckets of one cache line, each naming up to twelve entries.
//!
//! ```text
//! region   ┌─────────────┬────────────┬───────────┬───────────┬──────────────┐
//!          │ ReadersLine │ TableState │ segment…  │ base buckets           … │     further buckets fill slabs
//!          └─────────────┴────────────┴───────────┴──────────────────────────┘
//! ```
//!
//! Entries beyond a bucket's twelfth are chained through their records, so any number of entries works with any number of
//! buckets; a removal moves one back into the line. The hash is not stored; it is computed from the key again where it is
//! needed.
//!
//! # Growth
//!
//! By linear hashing (`shape`). To grow, bucket `n` is added, and what belongs there is moved out of its one *sibling*; to
//! shrink, the last bucket's entries return to theirs. So each step handles the entries of one bucket. The base buckets lie
//! in the table's own region; the others fill whole slabs, *segments*, which come from the pool and return to it.
//!
//! `shape` holds the number of buckets and a version, which is odd while a step is under way. An optimistic read that
//! does not find its key compares it: the key may have been moved past the reader. One that finds the key need not care.
//!
//! Locking: changed under the partition's exclusive lock, read under any, or without (`optimistic`); so the words that
//! name entries are stored with release ordering. Not here: what a line holds (`bucket`), keys (the caller compares), the slabs'
//! hand-over (`reclaim`).

use std::sync::atomic::{Ordering, fence};

use super::bucket::Bucket;
use super::shape::TableShape;
use crate::engine::entry::record::{Flags, Records};
use crate::engine::hash::KeyHash;
use crate::engine::ids::{BucketIndex, EntryIndex, SlabIndex};
use crate::engine::limits::{BUCKET_CELLS, MAX_BUCKETS};
use crate::engine::memory::region::{Region, prefetch, region_struct};
use crate::engine::memory::words::{Word32, Word64};
use crate::engine::slab::area::SlabArea;

/// With more entries than this for each bucket, the table grows.
const GROW_ABOVE: u64 = 9;
/// With fewer entries than this for each bucket, the table shrinks.
const SHRINK_BELOW: u64 = 4;

region_struct! {
    /// The one line that every optimistic read shares. It changes with a slab or a bucket, not with an entry.
    struct ReadersLine: 64 bytes, align 64 {
        /// Number of buckets (bits 0-31) and version (bits 32-63).
        shape: Word64,
        /// Raised after entries were moved, slabs of records or buckets went away or the partition was reset, and before
        /// the memory that they left is used again.
        placement_epoch: Word64,
        _pad: [Word64; 6],
    }
}

region_struct! {
    struct TableState: 64 bytes, align 64 {
        /// Entries that found no room in their bucket's line.
        overflowed: Word32,
        _pad: [Word32; 15],
    }
}

/// The table of one partition.
#[derive(Clone, Debug)]
pub struct Table {
    region: Region,
    area: SlabArea,
    records: Records,
    base_count: u32,
    max_count: u32,
    segment_shift: u32,
    base_offset: usize,
}

/// The sizes of a table: what its region is computed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableSize {
    /// Buckets to start with, and that always stay; a power of two.
    pub base_count: u32,
    /// Whether the number of buckets never changes.
    pub is_fixed: bool,
}

impl Table {
    const SEGMENTS_OFFSET: usize = size_of::<ReadersLine>() + size_of::<TableState>();

    /// Slabs that buckets may take, at most: with an entry to each cell, records alone fill the others.
    fn segment_count(size: TableSize, slab_count: u32) -> usize {
        if size.is_fixed { 0 } else { slab_count as usize / 4 }
    }

    fn base_offset(size: TableSize, slab_count: u32) -> usize {
        let segments = Self::segment_count(size, slab_count) * size_of::<Word32>();
        (Self::SEGMENTS_OFFSET + segments).next_multiple_of(64)
    }

    /// Bytes of the table's own words.
    pub fn region_bytes(size: TableSize, slab_count: u32) -> usize {
        Self::base_offset(size, slab_count) + size.base_count as usize * size_of::<Bucket>()
    }

    /// The table over its words.
    pub fn open(region: Region, area: SlabArea, size: TableSize) -> Table {
        let segment_shift = (area.slab_bytes() / size_of::<Bucket>() as u32).trailing_zeros();
        let segments = Self::segment_count(size, area.slab_count()) as u64;
        let max_count = (u64::from(size.base_count) + (segments << segment_shift)).min(MAX_BUCKETS);
        Table {
            region,
            area,
            records: Records::new(area),
            base_count: size.base_count,
            max_count: max_count as u32,
            segment_shift,
            base_offset: Self::base_offset(size, area.slab_count()),
        }
    }

    /// Starts with the base buckets, which name nothing; the slabs of others are not the table's any more. The placement
    /// epoch goes on.
    pub fn format(&mut self) {
        let shape = self.shape();
        self.readers_line().shape.set(shape.begin_change().0);
        fence(Ordering::Release);
        for bucket in (0..self.base_count).map(BucketIndex) {
            self.bucket(bucket).clear();
        }
        self.region.zero(size_of::<ReadersLine>(), self.base_offset - size_of::<ReadersLine>());
        let shape = shape.begin_change().end_change(self.base_count);
        self.readers_line().shape.store_release(shape.0);
    }

    #[inline(always)]
    fn readers_line(&self) -> &ReadersLine {
        self.region.at(0)
    }

    #[inline]
    fn state(&self) -> &TableState {
        self.region.at(size_of::<ReadersLine>())
    }

    fn segments(&self) -> &[Word32] {
        let count = (self.max_count - self.base_count) as usize >> self.segment_shift;
        self.region.slice(Self::SEGMENTS_OFFSET, count)
    }

    /// How many buckets there are; with acquire ordering.
    #[inline(always)]
    pub fn shape(&self) -> TableShape {
        TableShape(self.readers_line().shape.load_acquire())
    }

    /// Names the present placement of all entries; with acquire ordering. See `optimistic`.
    #[inline(always)]
    pub fn placement_epoch(&self) -> u64 {
        self.readers_line().placement_epoch.load_acquire()
    }

    /// Starts a new placement epoch. To be called after entries were moved, or slabs of records or buckets released,
    /// none of which the entries' stamps tell; and before the memory that they left is used again.
    pub fn begin_placement_epoch(&mut self) {
        let epoch = &self.readers_line().placement_epoch;
        epoch.store_release(epoch.get().wrapping_add(1));
    }

    /// One bucket; `None` if its segment is not there. Safe beside writers.
    #[inline(always)]
    fn bucket_checked(&self, bucket: BucketIndex) -> Option<&Bucket> {
        let Some(beyond) = bucket.0.checked_sub(self.base_count) else {
            return Some(self.region.at(self.base_offset + bucket.usize() * size_of::<Bucket>()));
        };
        let slab = self.segments().get((beyond >> self.segment_shift) as usize)?.get().checked_sub(1)?;
        let within = (beyond as usize & ((1 << self.segment_shift) - 1)) * size_of::<Bucket>();
        let offset = self.area.slab_offset(SlabIndex(slab));
        self.area.locate(offset)?;
        Some(self.area.region().at(offset + within))
    }

    /// One bucket.
    ///
    /// # Panics
    ///
    /// If there is none: the region is damaged.
    #[inline(always)]
    fn bucket(&self, bucket: BucketIndex) -> &Bucket {
        self.bucket_checked(bucket).expect("a bucket lies in a segment")
    }

    /// The bucket of a hash in a table of this shape; `None` if the table is being changed. Safe beside writers.
    #[inline(always)]
    pub fn bucket_in(&self, shape: TableShape, hash: KeyHash) -> Option<&Bucket> {
        self.bucket_checked(shape.bucket_of(hash))
    }

    /// Whether the table has still this shape, and had it all the time. After an acquire fence.
    #[inline]
    pub fn is_unchanged(&self, shape: TableShape) -> bool {
        !shape.is_changing() && self.readers_line().shape.get() == shape.0
    }

    #[inline(always)]
    fn bucket_of(&self, hash: KeyHash) -> &Bucket {
        self.bucket(self.shape().bucket_of(hash))
    }

    /// The entry for which `is_wanted` says so, among those that the hash leads to.
    ///
    /// # Panics
    ///
    /// If a chain does not end: the region is damaged.
    #[inline(always)]
    pub fn find(&self, hash: KeyHash, is_wanted: impl Fn(EntryIndex) -> bool) -> Option<EntryIndex> {
        let bucket = self.bucket_of(hash);
        for (_, entry) in bucket.candidates(hash.tag()) {
            if is_wanted(entry) {
                return Some(entry);
            }
        }
        bucket.first_overflowed()?;
        self.chain(bucket).find(|&entry| is_wanted(entry))
    }

    /// The entries chained from a bucket.
    fn chain<'a>(&'a self, bucket: &Bucket) -> impl Iterator<Item = EntryIndex> + 'a {
        let mut left = self.state().overflowed.get();
        let mut next = bucket.first_overflowed();
        std::iter::from_fn(move || {
            let entry = next?;
            assert!(left > 0, "a chain has more entries than all chains together");
            left -= 1;
            next = self.records.get(entry).next_in_chain();
            Some(entry)
        })
    }

    /// Names an entry in the bucket of its hash. The entry must not be in the table.
    #[inline]
    pub fn insert(&mut self, hash: KeyHash, entry: EntryIndex) {
        self.add(self.bucket_of(hash), hash.tag(), entry);
    }

    #[inline]
    fn add(&self, bucket: &Bucket, tag: u8, entry: EntryIndex) {
        match bucket.cell_of(EntryIndex::NONE) {
            Some(cell) => bucket.set_cell(cell, tag, entry),
            None => {
                let record = self.records.get(entry);
                record.chain.set(bucket.overflow.get());
                record.set_flags(Flags::OVERFLOWED);
                bucket.overflow.store_release(entry.0);
                self.state().overflowed.add(1);
            }
        }
    }

    /// Names an entry no more. `hash_of` computes an entry's hash.
    #[inline]
    pub fn remove(&mut self, hash: KeyHash, entry: EntryIndex, hash_of: impl Fn(EntryIndex) -> KeyHash) {
        let bucket = self.bucket_of(hash);
        if self.records.get(entry).has(Flags::OVERFLOWED) {
            self.unchain(bucket, entry);
            return;
        }
        let cell = bucket.cell_of(entry).expect("an entry is named in the bucket of its hash");
        match bucket.first_overflowed() {
            // In the line before it leaves the chain: an entry that can be found is in one of the two at every moment.
            Some(chained) => {
                bucket.set_cell(cell, hash_of(chained).tag(), chained);
                self.unchain(bucket, chained);
            }
            None => bucket.set_cell(cell, 0, EntryIndex::NONE),
        }
    }

    /// Names `new` where `old` is named, which has the same hash: there is no moment at which neither is.
    pub fn replace(&mut self, hash: KeyHash, old: EntryIndex, new: EntryIndex) {
        let bucket = self.bucket_of(hash);
        if self.records.get(old).has(Flags::OVERFLOWED) {
            let record = self.records.get(new);
            record.chain.set(self.records.get(old).chain.get());
            record.set_flags(Flags::OVERFLOWED);
            self.state().overflowed.add(1);
            self.link_to(bucket, old).store_release(new.0);
            self.leave_chain(old);
        } else {
            let cell = bucket.cell_of(old).expect("an entry is named in the bucket of its hash");
            bucket.entries[cell].store_release(new.0);
        }
    }

    /// The word of a bucket's chain that names an entry.
    fn link_to<'a>(&'a self, bucket: &'a Bucket, entry: EntryIndex) -> &'a Word32 {
        if bucket.overflow.get() == entry.0 {
            return &bucket.overflow;
        }
        let before = self.chain(bucket).find(|&other| self.records.get(other).chain.get() == entry.0);
        &self.records.get(before.expect("an overflowed entry is in its bucket's chain")).chain
    }

    fn unchain(&self, bucket: &Bucket, entry: EntryIndex) {
        self.link_to(bucket, entry).store_release(self.records.get(entry).chain.get());
        self.leave_chain(entry);
    }

    /// Notes that no chain has an entry any more.
    fn leave_chain(&self, entry: EntryIndex) {
        let record = self.records.get(entry);
        record.chain.set(EntryIndex::NONE.0);
        record.clear_flags(Flags::OVERFLOWED);
        self.state().overflowed.sub(1);
    }

    /// Number of buckets.
    #[inline]
    pub fn bucket_count(&self) -> u32 {
        self.shape().bucket_count()
    }

    /// Entries that found no room in their bucket's line.
    pub fn overflowed(&self) -> u32 {
        self.state().overflowed.get()
    }

    /// Whether the table should have another bucket for so many entries.
    #[inline]
    pub fn wants_growth(&self, entries: u32) -> bool {
        let count = self.bucket_count();
        u64::from(entries) > u64::from(count) * GROW_ABOVE && count < self.max_count
    }

    /// Whether the table should have a bucket less for so many entries.
    #[inline]
    pub fn wants_shrinking(&self, entries: u32) -> bool {
        let count = self.bucket_count();
        u64::from(entries) < u64::from(count) * SHRINK_BELOW && count > self.base_count
    }

    /// The place of the segment in which the next bucket lies, if it has no slab yet.
    fn missing_segment(&self) -> Option<&Word32> {
        let beyond = self.bucket_count().checked_sub(self.base_count)?;
        self.segments().get((beyond >> self.segment_shift) as usize).filter(|segment| segment.get() == 0)
    }

    /// Whether the next bucket needs a slab first.
    #[inline]
    pub fn needs_segment(&self) -> bool {
        self.missing_segment().is_some()
    }

    /// Takes a slab for further buckets.
    pub fn add_segment(&mut self, slab: SlabIndex) {
        self.area.region().zero(self.area.slab_offset(slab), self.area.slab_bytes() as usize);
        self.missing_segment().expect("a segment is missing").set(slab.0 + 1);
    }

    /// Gives the last segment back if no bucket lies in it. Its slab's bytes must not change before a new placement
    /// epoch begins.
    pub fn take_unused_segment(&mut self) -> Option<SlabIndex> {
        let beyond = self.bucket_count().saturating_sub(self.base_count) as usize;
        let segments_used = beyond.div_ceil(1 << self.segment_shift);
        let segment = self.segments().get(segments_used).filter(|segment| segment.get() != 0)?;
        let slab = SlabIndex(segment.get() - 1);
        segment.set(0);
        Some(slab)
    }

    /// The slabs that hold buckets.
    pub fn segment_slabs(&self) -> impl Iterator<Item = SlabIndex> + '_ {
        self.segments().iter().filter_map(|segment| Some(SlabIndex(segment.get().checked_sub(1)?)))
    }

    /// The entries that the next step of growth looks at, as far as they are in their bucket's line.
    pub fn next_to_split(&self) -> impl Iterator<Item = EntryIndex> + '_ {
        self.bucket(TableShape::sibling(self.bucket_count())).cells().map(|(_, entry)| entry)
    }

    fn begin_change(&self) -> TableShape {
        let shape = self.shape();
        self.readers_line().shape.set(shape.begin_change().0);
        fence(Ordering::Release);
        shape
    }

    fn end_change(&self, shape: TableShape, bucket_count: u32) {
        self.readers_line().shape.store_release(shape.begin_change().end_change(bucket_count).0);
    }

    /// Takes a bucket's whole chain apart, and names its entries anew in the buckets that `bucket_for` chooses.
    fn rechain<'a>(
        &'a self,
        bucket: &Bucket,
        hash_of: impl Fn(EntryIndex) -> KeyHash,
        bucket_for: impl Fn(KeyHash) -> &'a Bucket,
    ) {
        let mut next = bucket.first_overflowed();
        bucket.overflow.store_release(EntryIndex::NONE.0);
        while let Some(entry) = next {
            next = self.records.get(entry).next_in_chain();
            // Wrong counts of a damaged table end the loop, too.
            assert!(self.state().overflowed.get() > 0, "a chain has more entries than all chains together");
            self.leave_chain(entry);
            let hash = hash_of(entry);
            self.add(bucket_for(hash), hash.tag(), entry);
        }
    }

    /// Adds a bucket, whose segment must be there, and moves there what belongs there. `hash_of` computes an entry's
    /// hash.
    pub fn split(&mut self, hash_of: impl Fn(EntryIndex) -> KeyHash) {
        let shape = self.begin_change();
        let added = BucketIndex(shape.bucket_count());
        let grown = TableShape(u64::from(added.0 + 1));
        let (old, new) = (self.bucket(TableShape::sibling(added.0)), self.bucket(added));
        new.clear();
        for (cell, entry) in old.cells() {
            if grown.bucket_of(hash_of(entry)) == added {
                self.add(new, old.tag_at(cell), entry);
                old.set_cell(cell, 0, EntryIndex::NONE);
            }
        }
        if old.first_overflowed().is_some() {
            self.rechain(old, hash_of, |hash| if grown.bucket_of(hash) == added { new } else { old });
        }
        self.end_change(shape, added.0 + 1);
    }

    /// Removes the last bucket, and moves its entries to its sibling. `hash_of` computes an entry's hash.
    pub fn merge(&mut self, hash_of: impl Fn(EntryIndex) -> KeyHash) {
        let shape = self.begin_change();
        let last = shape.bucket_count() - 1;
        let (old, sibling) = (self.bucket(BucketIndex(last)), self.bucket(TableShape::sibling(last)));
        for (cell, entry) in old.cells() {
            self.add(sibling, old.tag_at(cell), entry);
        }
        self.rechain(old, hash_of, |_| sibling);
        old.clear();
        self.end_change(shape, last);
    }

    /// Asks the processor to fetch the bucket of a hash. Safe beside writers.
    #[inline]
    pub fn prefetch_bucket(&self, hash: KeyHash) {
        let shape = self.shape();
        let bucket = shape.bucket_of(hash);
        if bucket.0 < self.base_count {
            self.region.prefetch(self.base_offset + bucket.usize() * size_of::<Bucket>());
        } else if let Some(bucket) = self.bucket_checked(bucket) {
            prefetch(bucket);
        }
    }

    /// The entries that a hash may lead to, so that they can be fetched ahead. Safe beside writers.
    #[inline]
    pub fn likely(&self, hash: KeyHash) -> impl Iterator<Item = EntryIndex> + '_ {
        self.bucket_in(self.shape(), hash).into_iter().flat_map(move |bucket| bucket.likely(hash.tag()))
    }

    /// The most entries chained from one of these buckets beyond its line.
    pub fn longest_chain(&self, buckets: std::ops::Range<u32>) -> u64 {
        let buckets = buckets.start..buckets.end.min(self.bucket_count());
        buckets.map(|bucket| self.chain(self.bucket(BucketIndex(bucket))).count() as u64).max().unwrap_or(0)
    }

    /// Checks that every entry is named once, where its hash leads. `hash_of` computes the hash of a live entry, and is
    /// `None` for anything else; `entries` is how many there are.
    pub fn validate(
        &self,
        entries: u32,
        hash_of: impl Fn(EntryIndex) -> Option<KeyHash>,
        findings: &mut crate::engine::findings::Findings,
    ) {
        let shape = self.shape();
        let count = shape.bucket_count();
        if shape.is_changing() || count < self.base_count || count > self.max_count {
            return findings.add(|| format!("{count} buckets, of {} to {}", self.base_count, self.max_count));
        }
        let mut named = std::collections::HashSet::new();
        let mut overflowed = 0u64;
        for index in (0..count).map(BucketIndex) {
            let Some(bucket) = self.bucket_checked(index) else {
                findings.add(|| format!("bucket {} has no slab", index.0));
                continue;
            };
            let cells: Vec<EntryIndex> = bucket.cells().map(|(_, entry)| entry).collect();
            let mut chained = Vec::new();
            let mut next = bucket.first_overflowed();
            while let Some(entry) = next.filter(|_| chained.len() <= entries as usize) {
                chained.push(entry);
                next = self.records.get_checked(entry).and_then(|record| record.next_in_chain());
            }
            overflowed += chained.len() as u64;
            if !chained.is_empty() {
                let what = || format!("cells used by bucket {}, which overflows", index.0);
                findings.expect(what, cells.len(), BUCKET_CELLS);
            }
            let places = cells.into_iter().map(|entry| (entry, false)).chain(chained.into_iter().map(|e| (e, true)));
            for (entry, in_chain) in places {
                let Some(hash) = hash_of(entry) else {
                    findings.add(|| format!("bucket {} names {}, which is no live entry", index.0, entry.0));
                    continue;
                };
                if !named.insert(entry) {
                    findings.add(|| format!("record {} is named twice", entry.0));
                }
                let flag = self.records.get(entry).has(Flags::OVERFLOWED);
                findings.expect(|| format!("overflow flag of record {}", entry.0), flag, in_chain);
                findings.expect(|| format!("bucket of record {}", entry.0), index, shape.bucket_of(hash));
                if !in_chain {
                    let is_candidate = bucket.candidates(hash.tag()).any(|(_, other)| other == entry);
                    findings.expect(|| format!("tag of record {} in its bucket", entry.0), is_candidate, true);
                }
            }
        }
        findings.expect(|| "entries in buckets".into(), named.len() as u32, entries);
        findings.expect(|| "overflowed entries".into(), overflowed, u64::from(self.overflowed()));
        for (index, segment) in self.segments().iter().enumerate() {
            let first = self.base_count as usize + (index << self.segment_shift);
            if (first < count as usize) != (segment.get() != 0) && first != count as usize {
                findings.add(|| format!("segment {index} names slab {} with {count} buckets", segment.get()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use proptest::prelude::*;

    use super::*;
    use crate::engine::findings::Findings;

    const SLAB_BYTES: u32 = 2048;
    const SLABS: u32 = 40;

    /// A table whose entries are records 1, 2, … with hashes that the test makes up.
    struct World {
        table: Table,
        hashes: HashMap<u32, KeyHash>,
        free_slabs: Vec<SlabIndex>,
    }

    impl World {
        fn new(base_count: u32, is_fixed: bool) -> World {
            let area = SlabArea::new(Region::leaked((SLABS * SLAB_BYTES) as usize), SLAB_BYTES);
            let size = TableSize { base_count, is_fixed };
            let mut table = Table::open(Region::leaked(Table::region_bytes(size, SLABS)), area, size);
            table.format();
            // Records lie in the first half of the slabs, buckets in the other.
            World { table, hashes: HashMap::new(), free_slabs: (SLABS / 2..SLABS).map(SlabIndex).collect() }
        }

        fn insert(&mut self, entry: u32, hash: KeyHash) {
            if self.table.wants_growth(self.hashes.len() as u32 + 1) {
                if self.table.needs_segment() {
                    self.table.add_segment(self.free_slabs.pop().expect("slabs suffice"));
                }
                let hashes = &self.hashes;
                self.table.split(|entry| hashes[&entry.0]);
            }
            self.table.records.get(EntryIndex(entry)).open_for_test(Flags::NONE);
            self.table.insert(hash, EntryIndex(entry));
            self.hashes.insert(entry, hash);
        }

        fn remove(&mut self, entry: u32) {
            let hashes = &self.hashes;
            self.table.remove(hashes[&entry], EntryIndex(entry), |entry| hashes[&entry.0]);
            self.table.records.get(EntryIndex(entry)).close_for_test();
            self.hashes.remove(&entry);
            if self.table.wants_shrinking(self.hashes.len() as u32) {
                let hashes = &self.hashes;
                self.table.merge(|entry| hashes[&entry.0]);
                self.free_slabs.extend(self.table.take_unused_segment());
            }
        }

        fn validate(&self) {
            let mut findings = Findings::default();
            let hash_of = |entry: EntryIndex| self.hashes.get(&entry.0).copied();
            self.table.validate(self.hashes.len() as u32, hash_of, &mut findings);
            findings.into_result().unwrap();
            for (&entry, &hash) in &self.hashes {
                assert_eq!(self.table.find(hash, |other| other.0 == entry), Some(EntryIndex(entry)));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
        #[test]
        fn entries_are_found_while_the_table_grows_and_shrinks(
            base in 0u32..4, steps in prop::collection::vec((1u32..1200, 0u64..40, any::<bool>()), 1..1500)
        ) {
            let mut world = World::new(1 << base, false);
            let mut most = 0;
            for (number, (entry, bits, insert)) in steps.into_iter().enumerate() {
                // Few hashes, so that chains grow too.
                let hash = KeyHash(u64::from(entry).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 8 | bits << 56);
                match (world.hashes.contains_key(&entry), insert || number % 3 > 0) {
                    (false, true) => world.insert(entry, hash),
                    (true, false) => world.remove(entry),
                    _ => {}
                }
                most = most.max(world.table.bucket_count());
                if number % 50 == 0 {
                    world.validate();
                }
            }
            world.validate();
            let entries: HashSet<u32> = world.hashes.keys().copied().collect();
            entries.into_iter().for_each(|entry| world.remove(entry));
            world.validate();
            prop_assert_eq!(world.table.bucket_count(), 1 << base, "back to the base");
            prop_assert_eq!(world.free_slabs.len() as u32, SLABS / 2, "every segment came back");
        }
    }

    #[test]
    fn a_fixed_table_chains_whatever_comes() {
        let mut world = World::new(2, true);
        (1..500).for_each(|entry| world.insert(entry, KeyHash(u64::from(entry).wrapping_mul(0x9e37_79b9_7f4a_7c15))));
        assert_eq!((world.table.bucket_count(), world.table.overflowed()), (2, 499 - 24));
        world.validate();
        (1..500).step_by(3).for_each(|entry| world.remove(entry));
        world.validate();
    }

    #[test]
    #[should_panic(expected = "more entries than all chains")]
    fn a_chain_that_names_itself_ends() {
        let mut world = World::new(1, true);
        (1..16).for_each(|entry| world.insert(entry, KeyHash(0)));
        let first = world.table.bucket(BucketIndex(0)).first_overflowed().unwrap();
        world.table.records.get(first).chain.set(first.0);
        world.table.find(KeyHash(0), |_| false);
    }
}
