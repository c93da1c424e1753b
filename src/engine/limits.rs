//! The limits of a region, and of what a configuration may ask for: what both the asking (`config`) and the reading of a
//! header (`header`) check.

/// The most partitions.
pub const MAX_PARTITIONS: u32 = 64;
/// The largest region: directory records are numbered with 32 bits in units of 32 bytes, over all partitions.
pub const MAX_REGION_BYTES: usize = 128 << 30;
/// The largest partition: slots are addressed with 32 bits in units of 8 bytes.
pub const MAX_PARTITION_BYTES: usize = 32 << 30;
/// The largest entry, key plus value.
pub const MAX_ENTRY_BYTES: usize = 1 << 30;
/// The longest key.
pub const MAX_KEY_BYTES: usize = u16::MAX as usize;
/// The largest capacity in entries.
pub const MAX_ENTRIES: u32 = 1 << 31;
/// The most buckets of a cache.
pub const MAX_BUCKETS: u64 = 1 << 30;
/// The fewest slabs that a partition works with.
pub const MIN_SLABS: u32 = 8;
/// Entries that a bucket can name in its own cache line.
pub const BUCKET_CELLS: usize = 12;
/// Counters for reads that took no exclusive lock: one cache line for each processor, modulo this.
pub const STRIPE_COUNT: usize = 32;
/// The smallest slab.
pub const MIN_SLAB_BYTES: u32 = 2 << 10;
/// The largest slab.
pub const MAX_SLAB_BYTES: u32 = 4 << 20;
/// The most classes a cache can have, class 0 included.
pub const MAX_CLASSES: usize = 256;
/// Every slot size and slot address is a multiple of this.
pub const SLOT_ALIGN_BYTES: u32 = 8;
/// The smallest slot: header, a key of up to 8 bytes, and a value of up to 8.
pub const MIN_SLOT_BYTES: u32 = 24;
/// The least that the largest slot of an explicit list may have.
pub const MIN_LARGEST_SLOT_BYTES: u32 = 256;
