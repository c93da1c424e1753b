//! Where everything lies in a region.
//!
//! ```text
//! region     ┌──────────────┬─────────────────┬─────────────┬─────────────┬─ …
//!            │ RegionHeader │ reader counters │ partition 0 │ partition 1 │
//!            └──────────────┴─────────────────┴─────────────┴─────────────┴─ …
//! partition  ┌─────────────────┬────────────────┬─────────────┬─────────────────┬─────────┬────────────┬────────┬─ …
//!            │ PartitionHeader │ WriteBackState │ ClassState… │ SlabDescriptor… │ Bucket… │ GhostLine… │ slab 0 │
//!            └─────────────────┴────────────────┴─────────────┴─────────────────┴─────────┴────────────┴────────┴─ …
//! ```
//!
//! There are ghost lines, one for each bucket, with policy `s3-fifo` only.
//!
//! Partitions are independent: each has its own slabs, directory, buckets and recency list, so an operation
//! needs one lock. A slab holds slots of one class; class 0 is the directory itself, so that memory for
//! records is taken from the same slabs as memory for values, and given back.
//!
//! Invariants: all offsets are multiples of 64; the magic is written last; nothing here changes after
//! creation except what the structs of other files say.

use super::class::{ClassTable, MAX_CLASSES};
use super::config::{Config, Policy};
use super::ghost::GhostLine;
use super::ids::{BucketIndex, ClassIndex, EntryIndex, Location, SlabIndex};
use super::region::{Region, RegionType, Word32, Word64};
use super::write_back::WriteBackState;

/// Raised with every change of what the bytes mean.
pub const LAYOUT_VERSION: u32 = 3;
const MAGIC: u64 = u64::from_le_bytes(*b"PGSLRU\0\x01");
/// The most partitions.
pub const MAX_PARTITIONS: u32 = 64;
/// The largest region: directory records are numbered with 32 bits in units of 32 bytes.
pub const MAX_REGION_BYTES: usize = 128 << 30;
/// Entries that a bucket can name in its own cache line.
pub const BUCKET_CELLS: usize = 12;
/// Counters for hits and misses under the shared lock, one cache line per processor (modulo this).
pub const STRIPE_COUNT: usize = 32;

/// What `create` writes and `attach` checks.
#[repr(C)]
pub struct RegionHeader {
    magic: Word64,
    layout_version: Word32,
    partition_count: Word32,
    region_bytes: Word64,
    partition_bytes: Word64,
    type_tag: Word64,
    /// Hash seed, the same for every process that attaches.
    pub hash_seed: Word64,
    slab_bytes: Word32,
    buckets_per_partition: Word32,
    policy: Word32,
    max_entries: Word32,
    max_entry_bytes: Word32,
    class_count: Word32,
    slot_bytes: [Word32; MAX_CLASSES],
}
const _: () = assert!(size_of::<RegionHeader>() == 72 + 4 * MAX_CLASSES);
const HEADER_BYTES: usize = size_of::<RegionHeader>().next_multiple_of(64);
// SAFETY: repr(C), words only, no padding (8 × 6 + 4 × 6 + the array).
#[allow(unsafe_code)]
unsafe impl RegionType for RegionHeader {}

/// Hits and misses counted under the shared lock, by the processor that ran the reader.
#[repr(C, align(64))]
pub struct Stripe {
    /// Reads that found their key.
    pub hits: Word64,
    /// Reads that did not.
    pub misses: Word64,
    _pad: [Word64; 6],
}
const _: () = assert!(size_of::<Stripe>() == 64);
// SAFETY: repr(C), words only, filled to its alignment.
#[allow(unsafe_code)]
unsafe impl RegionType for Stripe {}

/// One partition's own state. Written under the partition's exclusive lock only.
#[repr(C, align(64))]
pub struct PartitionHeader {
    /// Odd while a change is under way; see `partition`.
    pub sequence: Word64,
    /// Keys and values of live entries, in bytes.
    pub live_bytes: Word64,
    /// Bit `c` is set while class `c` has a whole slab's worth of free slots.
    pub compactable: [Word64; 4],
    /// Live entries.
    pub len: Word32,
    /// The most entries, 0 for no such limit.
    pub max_entries: Word32,
    /// Most recently used entry; with `s3-fifo`, of the main queue.
    pub head: Word32,
    /// Least recently used entry; with `s3-fifo`, of the main queue.
    pub tail: Word32,
    /// First slab of the pool, linked through the descriptors.
    pub pool_head: Word32,
    /// Slabs in the pool.
    pub pool_count: Word32,
    /// Counts insertions and promotions; an entry's age is the distance to its own stamp.
    pub tick: Word32,
    /// Removed entries that a reader still has pinned.
    pub zombies: Word32,
    /// Continuation records of chained values.
    pub continuations: Word32,
    /// Entries that found no room in their bucket's cache line.
    pub overflowed: Word32,
    /// Hits counted under the exclusive lock.
    pub hits: Word64,
    /// Misses counted under the exclusive lock.
    pub misses: Word64,
    /// New keys stored.
    pub inserts: Word64,
    /// Values replaced.
    pub updates: Word64,
    /// Entries evicted to make room.
    pub evictions: Word64,
    /// Entries removed by `remove`, `clear` or a drain.
    pub removals: Word64,
    /// Pushes refused: too large, or no room because everything is pinned.
    pub refused: Word64,
    /// Times that compaction was run, automatically or by request.
    pub compactions: Word64,
    /// Slabs that compaction emptied.
    pub slabs_moved: Word64,
    /// Slots that compaction moved.
    pub entries_moved: Word64,
    /// Bytes that compaction moved.
    pub bytes_moved: Word64,
    /// Times that the partition was found damaged and emptied.
    pub resets: Word64,
    /// Slabs kept out of use because a reader had entries in them pinned when the partition was reset.
    pub quarantined: Word64,
    /// Newest entry of `s3-fifo`'s small queue.
    pub small_head: Word32,
    /// Oldest entry of the small queue.
    pub small_tail: Word32,
    /// Entries of the small queue.
    pub small_len: Word32,
    /// Ghosts that came again, and whose room no other has taken yet.
    pub ghosts_recalled: Word32,
    /// Keys and values of the small queue's entries, in bytes.
    pub small_bytes: Word64,
    /// The time that ghosts grow old by: one for each that takes no other's room.
    pub ghost_time: Word64,
    _more_pad: [Word64; 4],
    /// Raised after entries were moved, records went away or the partition was reset, and before the memory that they
    /// left is used again. In a cache line of its own, which readers without a lock share: it changes with a slab, not
    /// with an entry.
    pub placement_epoch: Word64,
    _read_mostly: [Word64; 7],
}
const _: () = assert!(size_of::<PartitionHeader>() == 320);
const _: () = assert!(std::mem::offset_of!(PartitionHeader, placement_epoch) % 64 == 0);
// SAFETY: repr(C), words only, padded explicitly to its alignment.
#[allow(unsafe_code)]
unsafe impl RegionType for PartitionHeader {}

/// Occupancy bins per class; slabs are kept sorted by sixteenths of occupancy.
pub const BIN_COUNT: usize = 16;

/// One class's own state in one partition.
#[repr(C, align(64))]
pub struct ClassState {
    /// Heads of the lists of partly used slabs, by occupancy.
    pub bins: [Word32; BIN_COUNT],
    /// Bit `b` is set while bin `b` has a slab.
    pub bin_mask: Word32,
    /// Slabs of this class, full ones included.
    pub slab_count: Word32,
    /// Slots in use.
    pub used: Word64,
    /// Bytes stored in them: headers, keys, padding and values.
    pub stored_bytes: Word64,
    _pad: [Word64; 5],
}
const _: () = assert!(size_of::<ClassState>() == 128);
// SAFETY: repr(C), words only, padded explicitly to its alignment.
#[allow(unsafe_code)]
unsafe impl RegionType for ClassState {}

/// One slab's own state.
#[repr(C)]
pub struct SlabDescriptor {
    /// The class, or [`SlabDescriptor::IN_POOL`].
    pub class: Word32,
    /// Slots in use.
    pub used: Word32,
    /// The bin it is listed in, or [`SlabDescriptor::NO_BIN`].
    pub bin: Word32,
    /// Previous slab of the bin.
    pub previous: Word32,
    /// Next slab of the bin, or of the pool.
    pub next: Word32,
    /// No word of the free bitmap before this one has a free slot.
    pub free_hint: Word32,
    /// Above every generation that a record in this slab ever had; even.
    pub generation_base: Word32,
    _pad: Word32,
}
const _: () = assert!(size_of::<SlabDescriptor>() == 32);
// SAFETY: repr(C), eight words.
#[allow(unsafe_code)]
unsafe impl RegionType for SlabDescriptor {}

impl SlabDescriptor {
    /// The slab belongs to no class.
    pub const IN_POOL: u32 = u32::MAX;
    /// The slab is kept as it was when the partition was reset: readers still look at it.
    pub const QUARANTINED: u32 = u32::MAX - 1;
    /// As [`SlabDescriptor::QUARANTINED`], for a slab of directory records, which hold the pins.
    pub const QUARANTINED_DIRECTORY: u32 = u32::MAX - 2;
    /// The slab is in no bin: full, in the pool, or being emptied.
    pub const NO_BIN: u32 = u32::MAX;
    /// End of a list of slabs.
    pub const NIL: u32 = u32::MAX;
}

/// Why a region cannot be attached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// No cache was created there, or creation did not finish.
    #[error("the region holds no cache: its magic number is {0:#018x}, expected {MAGIC:#018x}")]
    Magic(u64),
    /// Written by another version of this library.
    #[error("the region has layout version {0}, this library reads version {LAYOUT_VERSION}: create the cache anew")]
    Version(u32),
    /// The mapping is not the one that was created.
    #[error("the region was created with {created} bytes, {mapped} are mapped")]
    Size {
        /// Bytes when it was created.
        created: u64,
        /// Bytes mapped now.
        mapped: usize,
    },
    /// The key and value types differ.
    #[error("the region holds keys and values of another type: its tag is {found:#018x}, expected {expected:#018x}")]
    TypeTag {
        /// In the region.
        found: u64,
        /// Of the types asked for.
        expected: u64,
    },
    /// A value of the configuration makes no sense.
    #[error("the region's header is damaged: {0}")]
    Damaged(&'static str),
}

/// A resolved configuration: sizes and offsets. Lives in each process; the header has what it is derived from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bytes of the region.
    pub region_bytes: usize,
    /// Number of partitions, a power of two.
    pub partition_count: u32,
    /// Bytes of a partition.
    pub partition_bytes: usize,
    /// Bytes of a slab, a power of two.
    pub slab_bytes: u32,
    /// Slabs of a partition.
    pub slab_count: u32,
    /// Buckets of a partition, a power of two.
    pub buckets_per_partition: u32,
    /// Eviction policy.
    pub policy: Policy,
    /// The most entries of the cache, 0 for no such limit.
    pub max_entries: u32,
    /// The largest key plus value.
    pub max_entry_bytes: usize,
    /// The largest key.
    pub max_key_bytes: usize,
    /// Slab classes.
    pub classes: ClassTable,
    slot_bytes: Vec<u32>,
    configured_entry_bytes: u32,
    descriptors_offset: usize,
    buckets_offset: usize,
    ghosts_offset: usize,
    slabs_offset: usize,
}

impl Layout {
    /// Bytes before the first partition.
    pub const REGION_HEAD_BYTES: usize = HEADER_BYTES + STRIPE_COUNT * size_of::<Stripe>();
    /// The fewest slabs that a partition works with.
    pub const MIN_SLABS: u32 = 8;
    pub(super) const WRITE_BACK_OFFSET: usize = size_of::<PartitionHeader>();
    const CLASSES_OFFSET: usize = Self::WRITE_BACK_OFFSET + size_of::<WriteBackState>();
    const BUCKET_BYTES: usize = 64;

    /// Bytes of a partition before its slabs.
    pub fn fixed_bytes(slab_count: u32, class_count: usize, buckets: u32, policy: Policy) -> usize {
        (Self::descriptors_offset(class_count) + slab_count as usize * size_of::<SlabDescriptor>()).next_multiple_of(64)
            + buckets as usize * Self::BUCKET_BYTES
            + Self::ghost_lines(buckets, policy) as usize * size_of::<GhostLine>()
    }

    fn ghost_lines(buckets: u32, policy: Policy) -> u32 {
        match policy {
            Policy::Lru | Policy::Clock => 0,
            Policy::S3Fifo => buckets,
        }
    }

    fn descriptors_offset(class_count: usize) -> usize {
        Self::CLASSES_OFFSET + class_count * size_of::<ClassState>()
    }

    #[allow(clippy::too_many_arguments)] // one field each; called from the two places that have them all
    pub(super) fn new(
        region_bytes: usize,
        partition_count: u32,
        partition_bytes: usize,
        slab_bytes: u32,
        slot_bytes: Vec<u32>,
        buckets_per_partition: u32,
        policy: Policy,
        max_entries: u32,
        configured_entry_bytes: u32,
    ) -> Layout {
        let classes = ClassTable::new(&slot_bytes, slab_bytes);
        let fixed_bytes = |slab_count| Self::fixed_bytes(slab_count, classes.count(), buckets_per_partition, policy);
        let without_slabs = fixed_bytes(0) + 64;
        let per_slab = slab_bytes as usize + size_of::<SlabDescriptor>();
        let mut slab_count = (partition_bytes.saturating_sub(without_slabs) / per_slab) as u32;
        let bytes_with = |slabs: u32| fixed_bytes(slabs) + slabs as usize * slab_bytes as usize;
        while bytes_with(slab_count + 1) <= partition_bytes {
            slab_count += 1;
        }
        let largest_slot_bytes = classes.get(classes.largest()).slot_bytes as usize;
        let max_entry_bytes = match configured_entry_bytes {
            // While a large value replaces another, both are in memory: each may take a quarter.
            0 => (slab_count as usize / 4 * slab_bytes as usize).min(Config::MAX_ENTRY_BYTES as usize),
            configured => configured as usize,
        };
        let slabs_offset = fixed_bytes(slab_count);
        let ghost_lines = Self::ghost_lines(buckets_per_partition, policy);
        let ghosts_offset = slabs_offset - ghost_lines as usize * size_of::<GhostLine>();
        Layout {
            region_bytes,
            partition_count,
            partition_bytes,
            slab_bytes,
            slab_count,
            buckets_per_partition,
            policy,
            max_entries,
            max_entry_bytes,
            max_key_bytes: (largest_slot_bytes / 2).min(u16::MAX as usize),
            descriptors_offset: Self::descriptors_offset(classes.count()),
            classes,
            slot_bytes,
            configured_entry_bytes,
            buckets_offset: ghosts_offset - buckets_per_partition as usize * Self::BUCKET_BYTES,
            ghosts_offset,
            slabs_offset,
        }
    }

    /// Writes everything of the header but the magic.
    pub fn write_header(&self, region: &Region, type_tag: u64, hash_seed: u64) {
        let header: &RegionHeader = region.at(0);
        header.layout_version.set(LAYOUT_VERSION);
        header.partition_count.set(self.partition_count);
        header.region_bytes.set(self.region_bytes as u64);
        header.partition_bytes.set(self.partition_bytes as u64);
        header.type_tag.set(type_tag);
        header.hash_seed.set(hash_seed);
        header.slab_bytes.set(self.slab_bytes);
        header.buckets_per_partition.set(self.buckets_per_partition);
        header.policy.set(self.policy as u32);
        header.max_entries.set(self.max_entries);
        header.max_entry_bytes.set(self.configured_entry_bytes);
        header.class_count.set(self.slot_bytes.len() as u32);
        for (word, &bytes) in header.slot_bytes.iter().zip(&self.slot_bytes) {
            word.set(bytes);
        }
    }

    /// Writes the magic: from now on the region can be attached.
    pub fn publish(region: &Region) {
        region.at::<RegionHeader>(0).magic.atomic().store(MAGIC, std::sync::atomic::Ordering::Release);
    }

    /// Reads and checks the header of a region that somebody created.
    pub fn read_header(region: &Region, type_tag: u64) -> Result<Layout, AttachError> {
        if region.len_bytes() < Self::REGION_HEAD_BYTES {
            return Err(AttachError::Damaged("the mapping is smaller than a header"));
        }
        let header: &RegionHeader = region.at(0);
        let magic = header.magic.atomic().load(std::sync::atomic::Ordering::Acquire);
        if magic != MAGIC {
            return Err(AttachError::Magic(magic));
        }
        if header.layout_version.get() != LAYOUT_VERSION {
            return Err(AttachError::Version(header.layout_version.get()));
        }
        if header.region_bytes.get() != region.len_bytes() as u64 {
            return Err(AttachError::Size { created: header.region_bytes.get(), mapped: region.len_bytes() });
        }
        if header.type_tag.get() != type_tag {
            return Err(AttachError::TypeTag { found: header.type_tag.get(), expected: type_tag });
        }
        let damaged = |what| Err(AttachError::Damaged(what));
        let Some(&policy) = Policy::ALL.get(header.policy.get() as usize) else {
            return damaged("unknown policy");
        };
        let partition_count = header.partition_count.get();
        let partition_bytes = header.partition_bytes.get() as usize;
        let slab_bytes = header.slab_bytes.get();
        let class_count = header.class_count.get() as usize;
        if !partition_count.is_power_of_two() || partition_count > MAX_PARTITIONS {
            return damaged("impossible number of partitions");
        }
        // The partitions fill the region, but for what cannot be divided among them in units of 64 bytes.
        let partitions_bytes = partition_bytes.checked_mul(partition_count as usize);
        let rest = partitions_bytes.and_then(|bytes| (region.len_bytes() - Self::REGION_HEAD_BYTES).checked_sub(bytes));
        if partition_bytes % 64 != 0 || rest.is_none_or(|rest| rest >= 64 * partition_count as usize) {
            return damaged("the partitions do not fill the region");
        }
        if !slab_bytes.is_power_of_two() || !(Config::MIN_SLAB_BYTES..=Config::MAX_SLAB_BYTES).contains(&slab_bytes) {
            return damaged("impossible slab size");
        }
        let buckets = header.buckets_per_partition.get();
        if !buckets.is_power_of_two() || u64::from(buckets) > Config::MAX_BUCKETS {
            return damaged("impossible number of buckets");
        }
        if class_count == 0 || class_count >= MAX_CLASSES {
            return damaged("impossible number of classes");
        }
        let slot_bytes: Vec<u32> = header.slot_bytes[..class_count].iter().map(Word32::get).collect();
        if super::config::check_slot_bytes(&slot_bytes, slab_bytes).is_err() {
            return damaged("impossible slot sizes");
        }
        let least = Self::fixed_bytes(Self::MIN_SLABS, class_count + 1, buckets, policy)
            + (Self::MIN_SLABS * slab_bytes) as usize;
        if partition_bytes < least {
            return damaged("the partitions are too small for their slabs");
        }
        Ok(Layout::new(
            region.len_bytes(),
            partition_count,
            partition_bytes,
            slab_bytes,
            slot_bytes,
            buckets,
            policy,
            header.max_entries.get(),
            header.max_entry_bytes.get(),
        ))
    }

    /// The part of the region that is partition `index`.
    pub fn partition_region(&self, region: &Region, index: u32) -> Region {
        region.part(Self::REGION_HEAD_BYTES + index as usize * self.partition_bytes, self.partition_bytes)
    }

    /// The counters for readers under the shared lock.
    pub fn stripes<'a>(&self, region: &'a Region) -> &'a [Stripe] {
        region.slice(HEADER_BYTES, STRIPE_COUNT)
    }

    /// The most entries of partition `index`, 0 for no such limit.
    pub fn partition_max_entries(&self, index: u32) -> u32 {
        self.max_entries / self.partition_count + u32::from(index < self.max_entries % self.partition_count)
    }

    /// Offset of a class's state in the partition.
    #[inline]
    pub fn class_offset(&self, class: ClassIndex) -> usize {
        Self::CLASSES_OFFSET + class.usize() * size_of::<ClassState>()
    }

    /// Offset of a slab's descriptor in the partition.
    #[inline]
    pub fn descriptor_offset(&self, slab: SlabIndex) -> usize {
        self.descriptors_offset + slab.usize() * size_of::<SlabDescriptor>()
    }

    /// Offset of a bucket in the partition.
    #[inline]
    pub fn bucket_offset(&self, bucket: BucketIndex) -> usize {
        self.buckets_offset + bucket.usize() * Self::BUCKET_BYTES
    }

    /// Offset of a bucket's ghosts in the partition, where the policy has any.
    #[inline]
    pub fn ghost_offset(&self, bucket: BucketIndex) -> usize {
        self.ghosts_offset + bucket.usize() * size_of::<GhostLine>()
    }

    /// Offset of a slab in the partition.
    #[inline]
    pub fn slab_offset(&self, slab: SlabIndex) -> usize {
        self.slabs_offset + slab.usize() * self.slab_bytes as usize
    }

    /// Offset of a record in the partition.
    #[inline]
    pub fn record_offset(&self, entry: EntryIndex) -> usize {
        entry.usize() * super::class::RECORD_BYTES as usize
    }

    /// The slab that an offset lies in, and the distance from the slab's start; `None` before the first slab or behind
    /// the last.
    #[inline]
    pub fn slab_of(&self, offset: usize) -> Option<(SlabIndex, u32)> {
        let relative = offset.checked_sub(self.slabs_offset)?;
        let slab = (relative >> self.slab_bytes.trailing_zeros()) as u32;
        (slab < self.slab_count).then_some((SlabIndex(slab), relative as u32 & (self.slab_bytes - 1)))
    }

    /// The location of slot `slot` of class `class` in slab `slab`.
    #[inline]
    pub fn location(&self, slab: SlabIndex, class: ClassIndex, slot: u32) -> Location {
        let class = self.classes.get(class);
        let offset = self.slab_offset(slab) + (class.first_slot_bytes + slot * class.slot_bytes) as usize;
        Location((offset / Location::UNIT_BYTES) as u32)
    }

    /// Bytes of a partition that are not slabs, a rest too small for a slab included.
    pub fn partition_fixed_bytes(&self) -> usize {
        self.partition_bytes - self.slab_count as usize * self.slab_bytes as usize
    }
}
