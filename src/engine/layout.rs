//! Where everything lies in a region.
//!
//! ```text
//! region     ┌──────────────┬─────────────────┬─────────────┬─────────────┬─ …
//!            │ RegionHeader │ reader counters │ partition 0 │ partition 1 │
//!            └──────────────┴─────────────────┴─────────────┴─────────────┴─ …
//! partition  ┌───────┬──────────┬───────┬───────────────────┬──────────┬─────────┬───────────┬────────┬─ …
//!            │ state │ counters │ table │ order of eviction │ inflight │ slabs'  │ directory │ slab 0 │
//!            └───────┴──────────┴───────┴───────────────────┴──────────┴─────────┴───────────┴────────┴─ …
//! ```
//!
//! Each component says how many bytes of its own it needs; a partition is their sum, and the rest is slabs. Partitions
//! are independent, so an operation needs one lock.
//!
//! Invariants: all offsets are multiples of 64; nothing here changes after creation. Derived from the [`Geometry`], which
//! the header keeps; lives in each process.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::counters::{Counters, Stripe};
use super::entry::directory::Directory;
use super::entry::lengths::PayloadShape;
use super::evict::EvictionOrder;
use super::flight::inflight::Inflight;
use super::index::table::{Table, TableSize};
use super::limits::{MAX_ENTRY_BYTES, MAX_KEY_BYTES, STRIPE_COUNT};
use super::memory::region::{Region, region_struct};
use super::memory::words::{Word32, Word64};
use super::policy::Policy;
use super::slab::allocator::SlabAllocator;
use super::slab::class::ClassTable;

region_struct! {
    /// A partition's own words.
    pub struct PartitionState: 64 bytes, align 64 {
        /// Odd while a change is under way; see `recovery`.
        pub(super) sequence: Word64,
        /// Keys and values of live entries, in bytes.
        pub(super) live_bytes: Word64,
        /// Live entries.
        pub(super) len: Word32,
        /// The most entries, 0 for no such limit.
        pub(super) max_entries: Word32,
        /// Removed entries that a reader still has pinned.
        pub(super) zombies: Word32,
        /// Continuation records of chained values.
        pub(super) continuations: Word32,
        /// Records of values that are not complete.
        pub(super) reserved: Word32,
        /// Slabs kept out of use because a reader had entries in them pinned when the partition was reset.
        pub(super) quarantined: Word32,
        /// The tick at which the quarantine was last looked through in vain.
        pub(super) quarantine_tick: Word32,
        /// First of the large entries that are retired and not yet free, linked through their records.
        pub(super) doomed: Word32,
        /// Entries that expire at some moment, expired or not.
        pub(super) expiring: Word32,
        /// The record from which on a sweep goes on, 0 for the first. A hint: any number will do.
        pub(super) sweep_from: Word32,
        _more_pad: Word64,
    }
}

impl PartitionState {
    /// Marks the partition as damaged: the next user who takes its exclusive lock resets it. Under the lock in any mode.
    #[cold]
    pub(super) fn mark_damaged(&self) {
        self.sequence.atomic().fetch_or(1, Ordering::AcqRel);
    }
}

/// Bytes of the region's header.
pub const HEADER_BYTES: usize = 1152;

/// What a region is made of: plain numbers, all checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of the region.
    pub region_bytes: usize,
    /// Number of partitions, a power of two.
    pub partition_count: u32,
    /// Bytes of a partition, a multiple of 64.
    pub partition_bytes: usize,
    /// Bytes of a slab, a power of two.
    pub slab_bytes: u32,
    /// Slot sizes of the classes of keys and values, ascending.
    pub slot_bytes: Vec<u32>,
    /// Buckets of a partition.
    pub table: TableSize,
    /// Eviction policy.
    pub policy: Policy,
    /// The most entries of the cache, 0 for no such limit.
    pub max_entries: u32,
    /// The largest key plus value as configured, 0 for what the memory allows.
    pub max_entry_bytes: u32,
}

impl Geometry {
    /// The bytes of a partition that are not slabs, with so many slabs.
    pub fn fixed_bytes(&self, slab_count: u32) -> usize {
        self.part_bytes(slab_count).iter().sum()
    }

    /// The parts of a partition before its slabs, in their order.
    fn part_bytes(&self, slab_count: u32) -> [usize; 7] {
        [
            size_of::<PartitionState>(),
            Counters::REGION_BYTES,
            Table::region_bytes(self.table, slab_count),
            EvictionOrder::region_bytes(self.policy, self.expected_entries()),
            Inflight::REGION_BYTES,
            SlabAllocator::region_bytes(self.slot_bytes.len() + 1, slab_count),
            Directory::region_bytes(slab_count),
        ]
    }

    /// How many entries a partition may come to hold, for what cannot grow: in bytes, entries of 256 bytes.
    fn expected_entries(&self) -> u64 {
        const TYPICAL_ENTRY_BYTES: u64 = 256;
        match self.max_entries {
            0 => self.partition_bytes as u64 / TYPICAL_ENTRY_BYTES,
            max_entries => 4 * u64::from(max_entries.div_ceil(self.partition_count)).max(TYPICAL_ENTRY_BYTES),
        }
    }

    /// How many slabs fit.
    fn slab_count(&self) -> u32 {
        let fits = |slabs: u32| {
            let slab_bytes = slabs as usize * self.slab_bytes as usize;
            self.fixed_bytes(slabs).saturating_add(slab_bytes) <= self.partition_bytes
        };
        // The fixed bytes rise with the slabs, so what fits is found by halving.
        let most = (self.partition_bytes / self.slab_bytes as usize) as u32;
        let (mut low, mut high) = (0, most);
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            if fits(middle) { low = middle } else { high = middle - 1 }
        }
        low
    }
}

/// Sizes and offsets.
#[derive(Clone, Debug)]
pub struct Layout {
    /// What it is derived from.
    pub geometry: Geometry,
    /// Slab classes.
    pub classes: Arc<ClassTable>,
    /// Slabs of a partition.
    pub slab_count: u32,
    /// The largest key plus value.
    pub max_entry_bytes: usize,
    /// The largest key.
    pub max_key_bytes: usize,
    part_bytes: [usize; 7],
}

/// The regions of a partition's components.
pub(super) struct PartitionParts {
    pub(super) state: Region,
    pub(super) counters: Region,
    pub(super) table: Region,
    pub(super) order: Region,
    pub(super) inflight: Region,
    pub(super) allocator: Region,
    pub(super) directory: Region,
    pub(super) slabs: Region,
}

impl Layout {
    /// Bytes before the first partition.
    pub const REGION_HEAD_BYTES: usize = HEADER_BYTES + STRIPE_COUNT * size_of::<Stripe>();

    /// The layout of a region.
    pub fn new(geometry: Geometry) -> Layout {
        let classes = Arc::new(ClassTable::new(&geometry.slot_bytes, geometry.slab_bytes));
        let slab_count = geometry.slab_count();
        let largest_slot_bytes = classes.get(classes.largest()).slot_bytes as usize;
        let max_entry_bytes = match geometry.max_entry_bytes {
            // While a large value replaces another, both are in memory: each may take a quarter.
            0 => (slab_count as usize / 4 * geometry.slab_bytes as usize).min(MAX_ENTRY_BYTES),
            configured => configured as usize,
        };
        let max_key_bytes = PayloadShape::most_key_bytes(largest_slot_bytes).min(MAX_KEY_BYTES);
        let part_bytes = geometry.part_bytes(slab_count);
        Layout { geometry, classes, slab_count, max_entry_bytes, max_key_bytes, part_bytes }
    }

    /// The part of the region that is partition `index`.
    fn partition_region(&self, region: &Region, index: u32) -> Region {
        let bytes = self.geometry.partition_bytes;
        region.part(Self::REGION_HEAD_BYTES + index as usize * bytes, bytes)
    }

    /// The regions of a partition's components.
    pub(super) fn partition_parts(&self, region: &Region, index: u32) -> PartitionParts {
        let partition = self.partition_region(region, index);
        let mut offset = 0;
        let mut parts = self.part_bytes.iter().map(|&bytes| {
            let part = partition.part(offset, bytes);
            offset += bytes;
            part
        });
        let mut next = || parts.next().expect("there is a part for each component");
        let (state, counters, table, order) = (next(), next(), next(), next());
        let (inflight, allocator, directory) = (next(), next(), next());
        let slabs =
            partition.part(self.part_bytes.iter().sum(), self.slab_count as usize * self.geometry.slab_bytes as usize);
        PartitionParts { state, counters, table, order, inflight, allocator, directory, slabs }
    }

    /// The counters of reads that take no exclusive lock.
    pub fn stripes<'a>(&self, region: &'a Region) -> &'a [Stripe] {
        region.slice(HEADER_BYTES, STRIPE_COUNT)
    }

    /// The most entries of partition `index`, 0 for no such limit.
    pub fn partition_max_entries(&self, index: u32) -> u32 {
        let Geometry { max_entries, partition_count, .. } = self.geometry;
        max_entries / partition_count + u32::from(index < max_entries % partition_count)
    }

    /// Bytes of a partition that are not slabs, a rest too small for a slab included.
    pub fn partition_fixed_bytes(&self) -> usize {
        self.geometry.partition_bytes - self.slab_count as usize * self.geometry.slab_bytes as usize
    }
}

/// Where some words lie: for tests that forge what a killed process leaves behind.
#[doc(hidden)]
impl Layout {
    fn partition_offset(&self, partition: u32) -> usize {
        Self::REGION_HEAD_BYTES + partition as usize * self.geometry.partition_bytes
    }

    /// A partition's sequence number, 64 bits: odd while a change is under way.
    pub fn sequence_offset(&self, partition: u32) -> usize {
        self.partition_offset(partition) + std::mem::offset_of!(PartitionState, sequence)
    }

    /// A partition's number of slabs in quarantine, 32 bits.
    pub fn quarantined_offset(&self, partition: u32) -> usize {
        self.partition_offset(partition) + std::mem::offset_of!(PartitionState, quarantined)
    }

    /// Where the first slab lies.
    pub fn slabs_offset(&self, partition: u32) -> usize {
        self.partition_offset(partition) + self.part_bytes.iter().sum::<usize>()
    }

    /// What a slab serves, 32 bits.
    pub fn slab_use_offset(&self, partition: u32, slab: u32) -> usize {
        let before: usize = self.part_bytes[..5].iter().sum();
        self.partition_offset(partition) + before + SlabAllocator::slab_use_offset(self.classes.count(), slab)
    }
}
