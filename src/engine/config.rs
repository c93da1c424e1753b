//! What a user asks of a cache, and its translation into a [`Layout`].
//!
//! Every value is checked here, once; an error names the value and the range. Nothing is silently clamped,
//! except that a bucket count is rounded up to a power of two.

use std::time::Duration;

use super::config_error::ConfigError;
use super::entry::lengths::PayloadShape;
use super::ids::ClassIndex;
use super::index::bucket::Bucket;
use super::index::table::TableSize;
use super::layout::{Geometry, Layout};
use super::limits::{
    BUCKET_CELLS, MAX_BUCKETS, MAX_ENTRIES, MAX_ENTRY_BYTES, MAX_PARTITION_BYTES, MAX_PARTITIONS, MAX_REGION_BYTES,
    MAX_SLAB_BYTES, MIN_SLAB_BYTES, MIN_SLABS, SLOT_ALIGN_BYTES,
};
use super::moment::DEFAULT_TTL_RANGE_MS;
use super::policy::Policy;
use super::slab::class::{Class, ClassTable, RECORD_BYTES, check_slot_bytes, largest_slot_bytes};
use super::slab::sizing::{LEAST_SHARE_BYTES, slab_bytes_for, waste_parts_for};

/// The largest slabs of a region in entries for the sake of one entry's size.
const ENTRIES_SLAB_BYTES: u32 = 16 << 10;

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

/// The slot sizes of a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Classes {
    /// A value wastes at most one part of its slot in so many: 4, 8 or 16; or 7 bytes of alignment. But of the largest
    /// slots it may waste an eighth, or a fifth in slabs of less than 16 KiB.
    Geometric(u32),
    /// These slot sizes in bytes: ascending multiples of 8. A slot holds an 8-byte header, the key padded to 8 bytes,
    /// and the value.
    Explicit(Vec<u32>),
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
    classes: Option<Classes>,
    partitions: Option<u32>,
    slab_bytes: Option<u32>,
    /// Buckets to start with, and whether their number is fixed.
    buckets: Option<(u64, bool)>,
    ttl: Option<Duration>,
}

impl Config {
    /// The smallest slab.
    pub const MIN_SLAB_BYTES: u32 = MIN_SLAB_BYTES;
    /// The largest slab.
    pub const MAX_SLAB_BYTES: u32 = MAX_SLAB_BYTES;
    /// The most buckets.
    pub const MAX_BUCKETS: u64 = MAX_BUCKETS;
    /// The largest capacity in entries.
    pub const MAX_ENTRIES: u32 = MAX_ENTRIES;
    /// The largest entry that a capacity in entries can be given with.
    pub const MAX_ENTRY_BYTES: u32 = MAX_ENTRY_BYTES as u32;

    /// A cache whose region has exactly `bytes` bytes.
    pub fn bytes(bytes: usize) -> Config {
        Config::new(Capacity::Bytes(bytes))
    }

    /// A cache of at most `count` entries, each of at most `max_entry_bytes` of key and value.
    pub fn entries(count: u32, max_entry_bytes: u32) -> Config {
        Config::new(Capacity::Entries { count, max_entry_bytes })
    }

    fn new(capacity: Capacity) -> Config {
        let policy = Policy::Lru;
        Config { capacity, policy, classes: None, partitions: None, slab_bytes: None, buckets: None, ttl: None }
    }

    /// Sets the eviction policy. Default: [`Policy::Lru`].
    pub fn policy(mut self, policy: Policy) -> Config {
        self.policy = policy;
        self
    }

    /// Sets the slot sizes. Default: by the number of slabs of a partition; a value wastes at most a sixteenth of its
    /// slot where there are 768, an eighth from 320 on, else a sixth.
    pub fn classes(mut self, classes: Classes) -> Config {
        self.classes = Some(classes);
        self
    }

    /// Sets the number of partitions, each with its own lock and its own share of the memory. Default: one
    /// per 128 MiB, at most 64. Each of several has 480 KiB at least, unless the slab size is given.
    pub fn partitions(mut self, partitions: u32) -> Config {
        self.partitions = Some(partitions);
        self
    }

    /// Sets the slab size. Default: by the bytes of a partition, from 2 KiB to 4 MiB, such that at least 0.80 of the
    /// memory of a cache of 1 MB or more is used, whatever the sizes of its values (docs/memory.md has the table). With
    /// a size of one's own it may be much less.
    pub fn slab_bytes(mut self, slab_bytes: u32) -> Config {
        self.slab_bytes = Some(slab_bytes);
        self
    }

    /// Sets the number of buckets (of twelve entries, one cache line each) to start with, rounded up to a power of two.
    /// The table grows and shrinks with the entries, but never below this. Default: one bucket for 16 KiB, or for eight
    /// entries where the capacity is in entries.
    pub fn buckets(mut self, buckets: u64) -> Config {
        self.buckets = Some((buckets, false));
        self
    }

    /// As [`Config::buckets`], and the number never changes: entries beyond the twelfth of a bucket are chained.
    pub fn fixed_buckets(mut self, buckets: u64) -> Config {
        self.buckets = Some((buckets, true));
        self
    }

    /// Sets how long an entry lives whose put says nothing of it: from a tenth of a second to 13.6 years, in steps of
    /// milliseconds. Default: for ever. [`SharedCache::set_default_ttl`](crate::SharedCache::set_default_ttl) changes it
    /// later.
    pub fn ttl(mut self, ttl: Duration) -> Config {
        self.ttl = Some(ttl);
        self
    }

    /// The time to live as a region has it: in milliseconds, 0 for none.
    pub(crate) fn ttl_ms(&self) -> Result<u64, ConfigError> {
        checked_ttl_ms(self.ttl)
    }

    /// The bytes that a region of this configuration takes.
    ///
    /// # Errors
    ///
    /// Any value out of its range.
    pub fn region_bytes(&self) -> Result<usize, ConfigError> {
        self.layout().map(|layout| layout.geometry.region_bytes)
    }

    /// Checks every value and fixes those that were left open.
    ///
    /// # Errors
    ///
    /// Any value out of its range.
    pub fn resolve(&self) -> Result<Resolved, ConfigError> {
        self.layout().map(|layout| Resolved::of(&layout))
    }

    /// As [`Config::resolve`], with all that follows.
    pub(crate) fn layout(&self) -> Result<Layout, ConfigError> {
        self.ttl_ms()?;
        let geometry = self.geometry()?;
        let (region_bytes, partitions) = (geometry.region_bytes, geometry.partition_count);
        if region_bytes > MAX_REGION_BYTES {
            return Err(ConfigError::TooLarge(region_bytes));
        }
        if geometry.partition_bytes > MAX_PARTITION_BYTES {
            return Err(ConfigError::PartitionTooLarge { bytes: region_bytes, partitions });
        }
        if region_bytes < self.least_bytes(&geometry) {
            return Err(self.too_small(&geometry));
        }
        Ok(Layout::new(geometry))
    }

    /// The sizes, each value checked, but not whether they fit.
    fn geometry(&self) -> Result<Geometry, ConfigError> {
        let partition_count = self.checked_partitions()?;
        let partition_bytes = self.estimated_bytes() / partition_count as usize;
        let slab_bytes = self.checked_slab_bytes(partition_bytes)?;
        let slot_bytes = self.checked_slot_bytes(partition_bytes, slab_bytes)?;
        let classes = ClassTable::new(&slot_bytes, slab_bytes);
        let mut geometry = Geometry {
            region_bytes: 0,
            partition_count,
            partition_bytes: 0,
            slab_bytes,
            slot_bytes,
            table: self.checked_table(partition_count)?,
            policy: self.policy,
            max_entries: 0,
            max_entry_bytes: 0,
        };
        match self.capacity {
            Capacity::Bytes(bytes) => {
                let partitions_bytes = bytes.saturating_sub(Layout::REGION_HEAD_BYTES);
                geometry.region_bytes = bytes;
                geometry.partition_bytes = partitions_bytes / partition_count as usize / 64 * 64;
            }
            Capacity::Entries { count, max_entry_bytes } => {
                if count == 0 || count > MAX_ENTRIES || count < partition_count {
                    return Err(ConfigError::Entries(count));
                }
                if max_entry_bytes == 0 || max_entry_bytes as usize > MAX_ENTRY_BYTES {
                    return Err(ConfigError::EntryBytes(max_entry_bytes));
                }
                (geometry.max_entries, geometry.max_entry_bytes) = (count, max_entry_bytes);
                let per_partition = count.div_ceil(partition_count);
                let slabs = slabs_for_entries(per_partition, max_entry_bytes, &classes, geometry.table, slab_bytes);
                let slabs_bytes = slabs.saturating_mul(u64::from(slab_bytes)) as usize;
                let slabs = u32::try_from(slabs).map_err(|_| ConfigError::TooLarge(slabs_bytes))?.max(MIN_SLABS);
                let slabs_bytes = slabs as usize * slab_bytes as usize;
                geometry.partition_bytes = geometry.fixed_bytes(slabs).saturating_add(slabs_bytes);
                geometry.region_bytes = Layout::REGION_HEAD_BYTES
                    .saturating_add(geometry.partition_bytes.saturating_mul(partition_count as usize));
            }
        }
        Ok(geometry)
    }

    /// Why a region is too small, with the bytes that would be enough.
    fn too_small(&self, geometry: &Geometry) -> ConfigError {
        let (given, partitions) = (geometry.region_bytes, geometry.partition_count);
        let buckets = u64::from(geometry.table.base_count) * u64::from(partitions);
        let bytes = buckets * size_of::<Bucket>() as u64;
        let mut needed = self.least_bytes(geometry);
        if self.buckets.is_some() && bytes > needed as u64 / 2 {
            return ConfigError::BucketsTooLarge { buckets, bytes, given };
        }
        let mut slab_bytes = geometry.slab_bytes;
        // What is chosen from the size may need more with that size.
        let with = |bytes| Config { capacity: Capacity::Bytes(bytes), ..self.clone() }.geometry();
        while let Ok(larger) = with(needed) {
            slab_bytes = larger.slab_bytes;
            let more = self.least_bytes(&larger);
            if more <= needed {
                break;
            }
            needed = more;
        }
        ConfigError::TooSmall { given, needed, partitions, slab_bytes }
    }

    /// The least bytes of a region with these sizes: for a few slabs, and for several partitions of slabs that are sized
    /// here, such that they waste little.
    fn least_bytes(&self, geometry: &Geometry) -> usize {
        let few_slabs_bytes = geometry.fixed_bytes(MIN_SLABS) + (MIN_SLABS * geometry.slab_bytes) as usize;
        let is_free = self.slab_bytes.is_none() && matches!(self.capacity, Capacity::Bytes(_));
        let share_bytes = if is_free && geometry.partition_count > 1 { LEAST_SHARE_BYTES } else { 0 };
        let partition_bytes = few_slabs_bytes.max(share_bytes).next_multiple_of(64);
        Layout::REGION_HEAD_BYTES + geometry.partition_count as usize * partition_bytes
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

    /// Bytes of the region; where the capacity is in entries, of keys and values of the largest.
    fn estimated_bytes(&self) -> usize {
        match self.capacity {
            Capacity::Bytes(bytes) => bytes.saturating_sub(Layout::REGION_HEAD_BYTES),
            Capacity::Entries { count, max_entry_bytes } => (count as usize).saturating_mul(max_entry_bytes as usize),
        }
    }

    fn checked_slab_bytes(&self, partition_bytes: usize) -> Result<u32, ConfigError> {
        if let Some(given) = self.slab_bytes {
            let is_offered = given.is_power_of_two() && (MIN_SLAB_BYTES..=MAX_SLAB_BYTES).contains(&given);
            return if is_offered { Ok(given) } else { Err(ConfigError::SlabBytes(given)) };
        }
        let mut slab_bytes = slab_bytes_for(partition_bytes);
        if let Capacity::Entries { max_entry_bytes, .. } = self.capacity {
            // So that entries of up to two kilobytes lie in one slot, however few they are.
            let needed_bytes = most_single_bytes(max_entry_bytes);
            while slab_bytes < ENTRIES_SLAB_BYTES && (largest_slot_bytes(slab_bytes) as usize) < needed_bytes {
                slab_bytes *= 2;
            }
        }
        Ok(slab_bytes)
    }

    fn checked_slot_bytes(&self, partition_bytes: usize, slab_bytes: u32) -> Result<Vec<u32>, ConfigError> {
        match &self.classes {
            None => Ok(ClassTable::geometric_slot_bytes(waste_parts_for(partition_bytes, slab_bytes), slab_bytes)),
            Some(Classes::Geometric(parts @ (4 | 8 | 16))) => Ok(ClassTable::geometric_slot_bytes(*parts, slab_bytes)),
            Some(Classes::Geometric(parts)) => Err(ConfigError::ClassSteps(*parts)),
            Some(Classes::Explicit(sizes)) => check_slot_bytes(sizes, slab_bytes).map(|()| sizes.clone()),
        }
    }

    fn checked_table(&self, partition_count: u32) -> Result<TableSize, ConfigError> {
        /// Bytes for each base bucket: enough for the entries of caches of large values, and little where there are few.
        const BYTES_A_BASE_BUCKET: u64 = 16 << 10;
        const ENTRIES_A_BUCKET: u64 = BUCKET_CELLS as u64 - 4;
        let buckets = match (self.buckets, self.capacity) {
            (Some((given, _)), _) if given == 0 || given > MAX_BUCKETS => return Err(ConfigError::Buckets(given)),
            (Some((given, _)), _) => given.next_power_of_two(),
            // Rounded down, so that a size just above a power of two does not pay for twice the buckets.
            (None, Capacity::Bytes(bytes)) => 1 << (bytes as u64 / BYTES_A_BASE_BUCKET).max(1).ilog2(),
            (None, Capacity::Entries { count, .. }) => u64::from(count).div_ceil(ENTRIES_A_BUCKET).next_power_of_two(),
        };
        let base_count = (buckets / u64::from(partition_count)).max(1) as u32;
        Ok(TableSize { base_count, is_fixed: self.buckets.is_some_and(|(_, is_fixed)| is_fixed) })
    }
}

/// A configuration with every value fixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resolved {
    /// Bytes of the region.
    pub region_bytes: usize,
    /// Number of partitions.
    pub partitions: u32,
    /// Bytes of a slab.
    pub slab_bytes: u32,
    /// Slabs of a partition.
    pub slabs_per_partition: u32,
    /// Buckets to start with, of all partitions.
    pub buckets: u64,
    /// Eviction policy.
    pub policy: Policy,
    /// The most entries, 0 for no such limit.
    pub max_entries: u32,
    /// The largest key plus value.
    pub max_entry_bytes: usize,
    /// The largest key.
    pub max_key_bytes: usize,
}

impl Resolved {
    pub(crate) fn of(layout: &Layout) -> Resolved {
        let geometry = &layout.geometry;
        Resolved {
            region_bytes: geometry.region_bytes,
            partitions: geometry.partition_count,
            slab_bytes: geometry.slab_bytes,
            slabs_per_partition: layout.slab_count,
            buckets: u64::from(geometry.table.base_count) * u64::from(geometry.partition_count),
            policy: geometry.policy,
            max_entries: geometry.max_entries,
            max_entry_bytes: layout.max_entry_bytes,
            max_key_bytes: layout.max_key_bytes,
        }
    }
}

/// A time to live for all entries in milliseconds, 0 for none.
pub(crate) fn checked_ttl_ms(ttl: Option<Duration>) -> Result<u64, ConfigError> {
    let Some(ttl) = ttl else { return Ok(0) };
    let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
    if DEFAULT_TTL_RANGE_MS.contains(&ttl_ms) { Ok(ttl_ms) } else { Err(ConfigError::TtlMs(ttl_ms)) }
}

/// Slot bytes that an entry of this many bytes takes at most, if it lies in one slot.
fn most_single_bytes(entry_bytes: u32) -> usize {
    entry_bytes as usize + 2 * SLOT_ALIGN_BYTES as usize
}

/// Slabs with which a partition can hold `count` entries of any mix of sizes up to `max_entry_bytes`.
///
/// Compaction leaves each class less than one slab of free slots, so one slab more per class is enough; one
/// entry more is in flight while a value is replaced.
fn slabs_for_entries(count: u32, max_entry_bytes: u32, classes: &ClassTable, table: TableSize, slab_bytes: u32) -> u64 {
    let entries = u64::from(count) + 1;
    let largest = classes.largest();
    let per_slab = |class: Class| u64::from(class.slots_per_slab);
    let (data_slabs, classes_used, records) = match classes.class_for(most_single_bytes(max_entry_bytes)) {
        Some(class) => (entries.div_ceil(per_slab(classes.get(class))), u64::from(class.0), entries),
        None => {
            let largest_class = classes.get(largest);
            let slots = PayloadShape::most_slots(max_entry_bytes as usize, largest_class.slot_bytes as usize) as u64;
            (entries.saturating_mul(slots).div_ceil(per_slab(largest_class)), u64::from(largest.0), entries * slots)
        }
    };
    let records_per_slab = per_slab(classes.get(ClassIndex::DIRECTORY));
    debug_assert_eq!(classes.get(ClassIndex::DIRECTORY).slot_bytes, RECORD_BYTES);
    let further_buckets = if table.is_fixed { 0 } else { (entries / 8).saturating_sub(u64::from(table.base_count)) };
    let buckets_per_slab = u64::from(slab_bytes / 64);
    data_slabs + classes_used + records.div_ceil(records_per_slab) + 1 + further_buckets.div_ceil(buckets_per_slab)
}
