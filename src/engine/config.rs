//! What a user asks of a cache, and its translation into a [`Layout`].
//!
//! Every value is checked here, once; an error names the value and the range. Nothing is silently clamped,
//! except that a bucket count is rounded up to a power of two.

use super::class::{Class, ClassTable, MAX_CLASSES, MIN_SLOT_BYTES, RECORD_BYTES, SLOT_ALIGN_BYTES};
use super::layout::{BUCKET_CELLS, Layout, MAX_PARTITIONS, MAX_REGION_BYTES};
use super::payload::Shape;

/// The least that the largest slot of an explicit list may have.
const MIN_LARGEST_SLOT_BYTES: u32 = 256;

/// How much a cache may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capacity {
    /// The region has exactly this many bytes, metadata included; entries are evicted when it is full.
    Bytes(usize),
    /// At most `count` entries whose key and value together take at most `max_entry_bytes`. The region is made large
    /// enough for any mix of such entries.
    Entries {
        /// The most entries. Exact with one partition; else divided evenly among the partitions.
        count: u32,
        /// The largest key plus value that will be accepted.
        max_entry_bytes: u32,
    },
}

/// Which entry is evicted when room is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Policy {
    /// Exact least recently used: a hit moves the entry to the front, so it needs the partition's exclusive lock.
    Lru,
    /// CLOCK, also called second chance (Corbató 1968): a hit sets a bit, under the shared lock; an entry whose bit is
    /// set is passed over once.
    Clock,
    /// S3-FIFO (Yang et al., "FIFO Queues are All You Need for Cache Eviction", SOSP 2023): new entries wait in a small
    /// queue, and those used there more than once go on to the main one; keys that did not get that far are remembered
    /// for a while. Entries that are used once do not push out the others. A hit counts uses up to three, under the
    /// shared lock.
    S3Fifo,
}

impl Policy {
    /// Every policy; the position is the number by which a region's header names it.
    pub const ALL: [Policy; 3] = [Policy::Lru, Policy::Clock, Policy::S3Fifo];

    /// The name used in settings, SQL and on command lines.
    pub fn name(self) -> &'static str {
        match self {
            Policy::Lru => "lru",
            Policy::Clock => "clock",
            Policy::S3Fifo => "s3-fifo",
        }
    }
}

impl std::fmt::Display for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Policy {
    type Err = ConfigError;

    fn from_str(name: &str) -> Result<Self, ConfigError> {
        let known = Policy::ALL.into_iter().find(|policy| policy.name() == name);
        known.ok_or_else(|| ConfigError::Policy(name.to_owned()))
    }
}

/// The slot sizes of a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Classes {
    /// This many classes per doubling: 4, 8 or 16. Internal waste is at most a quarter, an eighth or a sixteenth of a
    /// slot (or 7 bytes of alignment), but for the largest classes, where it is at most an eighth.
    Geometric(u32),
    /// These slot sizes in bytes: ascending multiples of 8. A slot holds an 8-byte header, the key padded to 8 bytes,
    /// and the value.
    Explicit(Vec<u32>),
}

/// A value that a configuration cannot have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The policy's name is not known.
    #[error("unknown policy \"{0}\": use \"lru\", \"clock\" or \"s3-fifo\"")]
    Policy(String),
    /// The slab size is out of range or no power of two.
    #[error("slab size of {0} bytes: must be a power of two from {min} to {max}", min = Config::MIN_SLAB_BYTES, max = Config::MAX_SLAB_BYTES)]
    SlabBytes(u32),
    /// The partition count is out of range or no power of two.
    #[error("{0} partitions: must be a power of two from 1 to {MAX_PARTITIONS}")]
    Partitions(u32),
    /// The bucket count is out of range.
    #[error("{0} buckets: must be from 1 to {max}", max = Config::MAX_BUCKETS)]
    Buckets(u64),
    /// The number of classes per doubling is not offered.
    #[error("{0} slab classes per doubling: must be 4, 8 or 16")]
    ClassSteps(u32),
    /// A list of slot sizes has no or too many members.
    #[error("{0} slot sizes: must be from 1 to {max}", max = MAX_CLASSES - 1)]
    ClassCount(usize),
    /// A slot size in a list is out of range, out of order or not aligned.
    #[error("slot size of {bytes} bytes: must be a multiple of {SLOT_ALIGN_BYTES} from {min} to {max} and larger than the one before", min = MIN_SLOT_BYTES)]
    SlotBytes {
        /// The size given.
        bytes: u32,
        /// An eighth of a slab.
        max: u32,
    },
    /// The largest slot size in a list is too small: larger entries are chained, and each slot of a chain costs 40
    /// bytes.
    #[error("largest slot size of {0} bytes: must be at least {MIN_LARGEST_SLOT_BYTES}")]
    LargestSlotBytes(u32),
    /// The entry capacity is out of range.
    #[error("capacity of {0} entries: must be from 1 to {max}, and at least the number of partitions", max = Config::MAX_ENTRIES)]
    Entries(u32),
    /// The entry size is out of range.
    #[error("entries of up to {0} bytes: must be from 1 to {max}", max = Config::MAX_ENTRY_BYTES)]
    EntryBytes(u32),
    /// The region would be too small to work.
    #[error(
        "{given} bytes are {missing} too few: {partitions} partition(s) of slabs of {slab_bytes} bytes, with {buckets} \
         buckets in all, need at least {needed}",
        missing = needed - given
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
        /// Buckets of all partitions, as configured or chosen; they lie in the region beside the slabs.
        buckets: u64,
    },
    /// A partition would be too large for 32-bit locations.
    #[error("{bytes} bytes in {partitions} partition(s): a partition has at most {max} bytes, use more partitions", max = MAX_REGION_BYTES / 4)]
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

/// What a cache is made of.
///
/// # Examples
///
/// ```
/// use pg_shared_lru::{Config, Policy};
/// let config = Config::bytes(8 << 20).policy(Policy::Clock).partitions(2);
/// assert_eq!(config.region_bytes().unwrap(), 8 << 20);
/// assert!(Config::bytes(1000).region_bytes().unwrap_err().to_string().contains("too few"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    capacity: Capacity,
    policy: Policy,
    classes: Classes,
    partitions: Option<u32>,
    slab_bytes: Option<u32>,
    buckets: Option<u64>,
}

impl Config {
    /// The smallest slab.
    pub const MIN_SLAB_BYTES: u32 = 16 << 10;
    /// The largest slab.
    pub const MAX_SLAB_BYTES: u32 = 4 << 20;
    /// The most buckets.
    pub const MAX_BUCKETS: u64 = 1 << 30;
    /// The largest capacity in entries.
    pub const MAX_ENTRIES: u32 = 1 << 31;
    /// The largest entry that a capacity in entries can be given with.
    pub const MAX_ENTRY_BYTES: u32 = 1 << 30;

    /// A cache whose region has exactly `bytes` bytes.
    pub fn bytes(bytes: usize) -> Config {
        Config::new(Capacity::Bytes(bytes))
    }

    /// A cache of at most `count` entries, each of at most `max_entry_bytes` of key and value.
    pub fn entries(count: u32, max_entry_bytes: u32) -> Config {
        Config::new(Capacity::Entries { count, max_entry_bytes })
    }

    fn new(capacity: Capacity) -> Config {
        Config {
            capacity,
            policy: Policy::Lru,
            classes: Classes::Geometric(16),
            partitions: None,
            slab_bytes: None,
            buckets: None,
        }
    }

    /// Sets the eviction policy. Default: [`Policy::Lru`].
    pub fn policy(mut self, policy: Policy) -> Config {
        self.policy = policy;
        self
    }

    /// Sets the slot sizes. Default: sixteen classes per doubling.
    pub fn classes(mut self, classes: Classes) -> Config {
        self.classes = classes;
        self
    }

    /// Sets the number of partitions, each with its own lock and its own share of the memory. Default: one
    /// per 128 MiB, at most 64.
    pub fn partitions(mut self, partitions: u32) -> Config {
        self.partitions = Some(partitions);
        self
    }

    /// Sets the slab size. Default: 64 KiB where a partition has at least 4,096 such slabs, else 32 or 16
    /// KiB.
    pub fn slab_bytes(mut self, slab_bytes: u32) -> Config {
        self.slab_bytes = Some(slab_bytes);
        self
    }

    /// Sets the number of buckets (of twelve entries, one cache line each), rounded up to a power of two. Default: from
    /// the capacity: one per 4 KiB, or one per eight entries. With [`Policy::S3Fifo`] there is another line for each,
    /// which remembers up to sixteen keys that were evicted.
    pub fn buckets(mut self, buckets: u64) -> Config {
        self.buckets = Some(buckets);
        self
    }

    /// The bytes that a region of this configuration takes.
    ///
    /// # Errors
    ///
    /// Any value out of its range.
    pub fn region_bytes(&self) -> Result<usize, ConfigError> {
        self.layout().map(|layout| layout.region_bytes)
    }

    /// Checks every value and fixes those that were left open.
    pub fn layout(&self) -> Result<Layout, ConfigError> {
        let partitions = self.checked_partitions()?;
        let slab_bytes = self.checked_slab_bytes(partitions)?;
        let slot_bytes = self.checked_slot_bytes(slab_bytes)?;
        let classes = ClassTable::new(&slot_bytes, slab_bytes);
        let buckets_per_partition = (self.checked_buckets()? / u64::from(partitions)).max(1) as u32;
        let fixed = |slab_count| Layout::fixed_bytes(slab_count, classes.count(), buckets_per_partition, self.policy);
        let min_slabs = Layout::MIN_SLABS;

        let (partition_bytes, max_entries, max_entry_bytes) = match self.capacity {
            Capacity::Bytes(bytes) => {
                if bytes > MAX_REGION_BYTES {
                    return Err(ConfigError::TooLarge(bytes));
                }
                let partition_bytes = bytes.saturating_sub(Layout::REGION_HEAD_BYTES) / partitions as usize / 64 * 64;
                let needed_bytes = fixed(min_slabs) + min_slabs as usize * slab_bytes as usize;
                if partition_bytes < needed_bytes {
                    let needed = Layout::REGION_HEAD_BYTES + partitions as usize * needed_bytes;
                    let buckets = u64::from(buckets_per_partition) * u64::from(partitions);
                    // What is chosen from the size may need more with that size.
                    let with_that = Config { capacity: Capacity::Bytes(needed), ..self.clone() }.layout();
                    return Err(match with_that {
                        Err(ConfigError::TooSmall { needed, partitions, slab_bytes, buckets, .. }) => {
                            ConfigError::TooSmall { given: bytes, needed, partitions, slab_bytes, buckets }
                        }
                        _ => ConfigError::TooSmall { given: bytes, needed, partitions, slab_bytes, buckets },
                    });
                }
                (partition_bytes, 0, 0)
            }
            Capacity::Entries { count, max_entry_bytes } => {
                if count == 0 || count > Config::MAX_ENTRIES || count < partitions {
                    return Err(ConfigError::Entries(count));
                }
                if max_entry_bytes == 0 || max_entry_bytes > Config::MAX_ENTRY_BYTES {
                    return Err(ConfigError::EntryBytes(max_entry_bytes));
                }
                let slabs = slabs_for_entries(count.div_ceil(partitions), max_entry_bytes, &classes);
                let too_large = |_| ConfigError::TooLarge(slabs as usize * slab_bytes as usize * partitions as usize);
                let slabs = u32::try_from(slabs).map_err(too_large)?.max(min_slabs);
                (fixed(slabs) + slabs as usize * slab_bytes as usize, count, max_entry_bytes)
            }
        };
        let region_bytes = match self.capacity {
            Capacity::Bytes(bytes) => bytes,
            Capacity::Entries { .. } => Layout::REGION_HEAD_BYTES + partitions as usize * partition_bytes,
        };
        if region_bytes > MAX_REGION_BYTES {
            return Err(ConfigError::TooLarge(region_bytes));
        }
        if partition_bytes > MAX_REGION_BYTES / 4 {
            return Err(ConfigError::PartitionTooLarge { bytes: region_bytes, partitions });
        }
        Ok(Layout::new(
            region_bytes,
            partitions,
            partition_bytes,
            slab_bytes,
            slot_bytes,
            buckets_per_partition,
            self.policy,
            max_entries,
            max_entry_bytes,
        ))
    }

    fn checked_partitions(&self) -> Result<u32, ConfigError> {
        match (self.partitions, self.capacity) {
            (Some(given), _) if !given.is_power_of_two() || given > MAX_PARTITIONS => {
                Err(ConfigError::Partitions(given))
            }
            (Some(given), _) => Ok(given),
            (None, Capacity::Bytes(bytes)) => Ok(1 << (bytes >> 27).max(1).ilog2().min(6)),
            (None, Capacity::Entries { .. }) => Ok(1),
        }
    }

    fn checked_slab_bytes(&self, partitions: u32) -> Result<u32, ConfigError> {
        match (self.slab_bytes, self.capacity) {
            (Some(given), _)
                if !given.is_power_of_two() || !(Config::MIN_SLAB_BYTES..=Config::MAX_SLAB_BYTES).contains(&given) =>
            {
                Err(ConfigError::SlabBytes(given))
            }
            (Some(given), _) => Ok(given),
            (None, capacity) => {
                let bytes = match capacity {
                    Capacity::Bytes(bytes) => bytes,
                    Capacity::Entries { count, max_entry_bytes } => count as usize * max_entry_bytes as usize,
                };
                // Each class leaves half a slab free on average, so many small slabs waste less than few large ones.
                let wanted = bytes / partitions as usize / 4096;
                Ok(if wanted >= 64 << 10 {
                    64 << 10
                } else if wanted >= 32 << 10 {
                    32 << 10
                } else {
                    16 << 10
                })
            }
        }
    }

    fn checked_slot_bytes(&self, slab_bytes: u32) -> Result<Vec<u32>, ConfigError> {
        match &self.classes {
            Classes::Geometric(steps @ (4 | 8 | 16)) => Ok(ClassTable::geometric_slot_bytes(*steps, slab_bytes)),
            Classes::Geometric(steps) => Err(ConfigError::ClassSteps(*steps)),
            Classes::Explicit(sizes) => check_slot_bytes(sizes, slab_bytes).map(|()| sizes.clone()),
        }
    }

    fn checked_buckets(&self) -> Result<u64, ConfigError> {
        match (self.buckets, self.capacity) {
            (Some(given), _) if given == 0 || given > Config::MAX_BUCKETS => Err(ConfigError::Buckets(given)),
            (Some(given), _) => Ok(given.next_power_of_two()),
            // Rounded down, so that a size just above a power of two does not pay for twice the buckets.
            (None, Capacity::Bytes(bytes)) => Ok(1 << (bytes as u64 >> 12).max(1).ilog2()),
            (None, Capacity::Entries { count, .. }) => {
                Ok(u64::from(count).div_ceil(BUCKET_CELLS as u64 - 4).next_power_of_two())
            }
        }
    }
}

/// Checks a list of slot sizes.
pub(super) fn check_slot_bytes(sizes: &[u32], slab_bytes: u32) -> Result<(), ConfigError> {
    if sizes.is_empty() || sizes.len() >= MAX_CLASSES {
        return Err(ConfigError::ClassCount(sizes.len()));
    }
    let max = slab_bytes / 8;
    let mut previous = MIN_SLOT_BYTES - 1;
    for &bytes in sizes {
        if bytes % SLOT_ALIGN_BYTES != 0 || bytes <= previous || bytes > max {
            return Err(ConfigError::SlotBytes { bytes, max });
        }
        previous = bytes;
    }
    if previous < MIN_LARGEST_SLOT_BYTES {
        return Err(ConfigError::LargestSlotBytes(previous));
    }
    Ok(())
}

/// Slabs with which a partition can hold `count` entries of any mix of sizes up to `max_entry_bytes`.
///
/// Compaction leaves each class less than one slab of free slots, so one slab more per class is enough; one
/// entry more is in flight while a value is replaced.
fn slabs_for_entries(count: u32, max_entry_bytes: u32, classes: &ClassTable) -> u64 {
    let entries = u64::from(count) + 1;
    let max_bytes = max_entry_bytes as usize + 2 * SLOT_ALIGN_BYTES as usize;
    let largest = classes.largest();
    let per_slab = |class: Class| u64::from(class.slots_per_slab);
    let (data_slabs, classes_used, records) = match classes.class_for(max_bytes) {
        Some(class) => (entries.div_ceil(per_slab(classes.get(class))), u64::from(class.0), entries),
        None => {
            let largest_class = classes.get(largest);
            let slots = Shape::most_slots(max_entry_bytes as usize, largest_class.slot_bytes as usize) as u64;
            (entries.saturating_mul(slots).div_ceil(per_slab(largest_class)), u64::from(largest.0), entries * slots)
        }
    };
    let records_per_slab = per_slab(classes.get(super::ids::ClassIndex::DIRECTORY));
    debug_assert_eq!(classes.get(super::ids::ClassIndex::DIRECTORY).slot_bytes, RECORD_BYTES);
    data_slabs + classes_used + records.div_ceil(records_per_slab) + 1
}
