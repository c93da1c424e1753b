//! Why a configuration is refused: the value, the limit, and what to do.

use super::limits::{
    MAX_BUCKETS, MAX_ENTRIES, MAX_ENTRY_BYTES, MAX_PARTITION_BYTES, MAX_PARTITIONS, MAX_REGION_BYTES, MAX_SLAB_BYTES,
    MIN_SLAB_BYTES,
};
use super::limits::{MAX_CLASSES, MIN_LARGEST_SLOT_BYTES, MIN_SLOT_BYTES, SLOT_ALIGN_BYTES};
use super::moment::{MAX_TTL_MS, TENTH_MS};
use super::policy::UnknownPolicy;

/// A value that a configuration cannot have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The policy's name is not known.
    #[error(transparent)]
    Policy(#[from] UnknownPolicy),
    /// The slab size is out of range or no power of two.
    #[error("slab size of {0} bytes: must be a power of two from {min} to {max}", min = MIN_SLAB_BYTES, max = MAX_SLAB_BYTES)]
    SlabBytes(u32),
    /// The partition count is out of range or no power of two.
    #[error("{0} partitions: must be a power of two from 1 to {MAX_PARTITIONS}")]
    Partitions(u32),
    /// The bucket count is out of range.
    #[error("{0} buckets: must be from 1 to {max}", max = MAX_BUCKETS)]
    Buckets(u64),
    /// The buckets leave no room for entries.
    #[error(
        "{buckets} buckets take {bytes} bytes of a region of {given}: use fewer buckets, or leave their number open"
    )]
    BucketsTooLarge {
        /// Buckets, rounded up.
        buckets: u64,
        /// What they take.
        bytes: u64,
        /// Bytes of the region.
        given: usize,
    },
    /// The bound on waste is not offered.
    #[error("slab classes that waste one part in {0} of a slot: must be 4, 8 or 16")]
    ClassSteps(u32),
    /// A list of slot sizes has no or too many members.
    #[error("{0} slot sizes: must be from 1 to {max}", max = MAX_CLASSES - 1)]
    ClassCount(usize),
    /// A slot size in a list is out of range, out of order or not aligned.
    #[error("slot size of {bytes} bytes: must be a multiple of {SLOT_ALIGN_BYTES} from {min} to {max} and larger than the one before", min = MIN_SLOT_BYTES)]
    SlotBytes {
        /// The size given.
        bytes: u32,
        /// An eighth of a slab, or a fifth if that has less than 16 KiB.
        max: u32,
    },
    /// The largest slot size in a list is too small: larger entries are chained, and each slot of a chain costs 40
    /// bytes.
    #[error("largest slot size of {0} bytes: must be at least {MIN_LARGEST_SLOT_BYTES}")]
    LargestSlotBytes(u32),
    /// The entry capacity is out of range.
    #[error("capacity of {0} entries: must be from 1 to {max}, and at least the number of partitions", max = MAX_ENTRIES)]
    Entries(u32),
    /// The entry size is out of range.
    #[error("entries of up to {0} bytes: must be from 1 to {max}", max = MAX_ENTRY_BYTES)]
    EntryBytes(u32),
    /// The time to live of a cache's entries is out of range.
    #[error("a time to live of {0} ms for all entries: must be from {TENTH_MS} to {MAX_TTL_MS}, or none at all")]
    TtlMs(u64),
    /// The region would be too small to work, or to use most of its memory.
    #[error(
        "{given} bytes are {missing} too few: {partitions} partition(s) of slabs of {slab_bytes} bytes need at least {needed}{advice}",
        missing = needed - given,
        advice = if *partitions > 1 { " to use most of them; take more memory or fewer partitions" } else { "" }
    )]
    TooSmall {
        /// Bytes given.
        given: usize,
        /// Bytes needed.
        needed: usize,
        /// Partitions, as configured or chosen.
        partitions: u32,
        /// Slab size, as configured or chosen.
        slab_bytes: u32,
    },
    /// A partition would be too large for 32-bit locations.
    #[error("{bytes} bytes in {partitions} partition(s): a partition has at most {max} bytes, use more partitions", max = MAX_PARTITION_BYTES)]
    PartitionTooLarge {
        /// Bytes of the region.
        bytes: usize,
        /// Partitions, as configured or chosen.
        partitions: u32,
    },
    /// The region would be too large for 32-bit indexes.
    #[error("{0} bytes: a region has at most {MAX_REGION_BYTES}")]
    TooLarge(usize),
}
