//! The header of a region: what `create` writes and `attach` checks.
//!
//! A header is complete once its magic number is there, which is written last. A checksum covers all of it, and every
//! number is checked against the limits besides: a region may come from a file. What may be changed while the cache is used
//! ([`LiveSettings`]) lies behind it and is not covered: each of its words is checked where it is used.

use std::sync::atomic::Ordering;

use super::index::table::TableSize;
use super::layout::{Geometry, HEADER_BYTES, Layout};
use super::limits::MAX_CLASSES;
use super::limits::{
    MAX_BUCKETS, MAX_ENTRIES, MAX_ENTRY_BYTES, MAX_PARTITION_BYTES, MAX_PARTITIONS, MAX_REGION_BYTES, MAX_SLAB_BYTES,
    MIN_SLAB_BYTES, MIN_SLABS,
};
use super::memory::region::{Region, region_struct};
use super::memory::words::{Word32, Word64};
use super::moment::{DEFAULT_TTL_RANGE_MS, EPOCH_LIMIT_MS};
use super::policy::Policy;
use super::slab::class::check_slot_bytes;

/// Raised with every change of what the bytes mean.
pub const LAYOUT_VERSION: u32 = 6;
const MAGIC: u64 = u64::from_le_bytes(*b"PGSLRU\0\x01");

region_struct! {
    /// The header.
    struct RegionHeader: 1120 bytes, align 8 {
        magic: Word64,
        /// Here in every version.
        layout_version: Word32,
        partition_count: Word32,
        checksum: Word64,
        region_bytes: Word64,
        partition_bytes: Word64,
        type_tag: Word64,
        /// Hash seed, the same for every process that attaches.
        hash_seed: Word64,
        /// When the region was created, in milliseconds since 1970: moments are counted from then on.
        epoch_ms: Word64,
        slab_bytes: Word32,
        base_buckets: Word32,
        table_is_fixed: Word32,
        policy: Word32,
        max_entries: Word32,
        max_entry_bytes: Word32,
        class_count: Word32,
        _pad: Word32,
        slot_bytes: [Word32; MAX_CLASSES],
    }
}
const LIVE_SETTINGS_OFFSET: usize = size_of::<RegionHeader>();
const _: () = assert!(LIVE_SETTINGS_OFFSET + size_of::<LiveSettings>() <= HEADER_BYTES && HEADER_BYTES % 64 == 0);

region_struct! {
    /// What may be changed while the cache is used: words that any process stores and loads by themselves. Looked at under
    /// a lock of some partition, where the memory is the cache's.
    pub struct LiveSettings: 16 bytes, align 8 {
        /// How long entries live whose put says nothing, in milliseconds; 0: for ever.
        pub default_ttl_ms: Word64,
        /// The partition that the next sweep begins with. A hint: any number will do.
        pub sweep_partition: Word32,
        _pad: Word32,
    }
}

impl LiveSettings {
    /// Whether the default time to live is one that a cache can have.
    pub fn has_possible_ttl(&self) -> bool {
        let ttl_ms = self.default_ttl_ms.get();
        ttl_ms == 0 || DEFAULT_TTL_RANGE_MS.contains(&ttl_ms)
    }
}

/// The settings of a region that was created.
pub fn live_settings(region: &Region) -> &LiveSettings {
    region.at(LIVE_SETTINGS_OFFSET)
}

/// Why a region cannot be attached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
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
    /// The header is not as it was written.
    #[error("the region's header is damaged: {0}")]
    Damaged(&'static str),
}

/// What the header says beside the layout.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Names the types of keys and values.
    pub type_tag: u64,
    /// Seeds the hash of keys.
    pub hash_seed: u64,
    /// When the region was created, in milliseconds since 1970.
    pub epoch_ms: u64,
}

impl RegionHeader {
    fn compute_checksum(region: &Region) -> u64 {
        let words: &[Word64] = region.slice(0, size_of::<RegionHeader>() / 8);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.get().to_ne_bytes()).collect();
        forge::checksum(&bytes)
    }
}

/// Writes everything of the header but the magic.
pub fn write(region: &Region, geometry: &Geometry, identity: Identity) {
    let header: &RegionHeader = region.at(0);
    header.layout_version.set(LAYOUT_VERSION);
    header.partition_count.set(geometry.partition_count);
    header.region_bytes.set(geometry.region_bytes as u64);
    header.partition_bytes.set(geometry.partition_bytes as u64);
    header.type_tag.set(identity.type_tag);
    header.hash_seed.set(identity.hash_seed);
    header.epoch_ms.set(identity.epoch_ms);
    header.slab_bytes.set(geometry.slab_bytes);
    header.base_buckets.set(geometry.table.base_count);
    header.table_is_fixed.set(u32::from(geometry.table.is_fixed));
    header.policy.set(geometry.policy as u32);
    header.max_entries.set(geometry.max_entries);
    header.max_entry_bytes.set(geometry.max_entry_bytes);
    header.class_count.set(geometry.slot_bytes.len() as u32);
    for (index, word) in header.slot_bytes.iter().enumerate() {
        word.set(geometry.slot_bytes.get(index).copied().unwrap_or(0));
    }
    header._pad.set(0);
    header.checksum.set(RegionHeader::compute_checksum(region));
}

/// Writes the magic: from now on the region can be attached.
pub fn publish(region: &Region) {
    region.at::<RegionHeader>(0).magic.store_release(MAGIC);
}

/// Reads and checks the header of a region that somebody created.
///
/// # Errors
///
/// See [`AttachError`].
pub fn read(region: &Region, type_tag: u64) -> Result<(Layout, Identity), AttachError> {
    if region.len_bytes() < Layout::REGION_HEAD_BYTES {
        return Err(AttachError::Damaged("the mapping is smaller than a header"));
    }
    let header: &RegionHeader = region.at(0);
    let magic = header.magic.atomic().load(Ordering::Acquire);
    if magic != MAGIC {
        return Err(AttachError::Magic(magic));
    }
    if header.layout_version.get() != LAYOUT_VERSION {
        return Err(AttachError::Version(header.layout_version.get()));
    }
    if header.region_bytes.get() != region.len_bytes() as u64 {
        return Err(AttachError::Size { created: header.region_bytes.get(), mapped: region.len_bytes() });
    }
    if header.checksum.get() != RegionHeader::compute_checksum(region) {
        return Err(AttachError::Damaged("its checksum is wrong"));
    }
    if header.type_tag.get() != type_tag {
        return Err(AttachError::TypeTag { found: header.type_tag.get(), expected: type_tag });
    }
    let (hash_seed, epoch_ms) = (header.hash_seed.get(), header.epoch_ms.get());
    if epoch_ms >= EPOCH_LIMIT_MS {
        return Err(AttachError::Damaged("impossible time of creation"));
    }
    if !live_settings(region).has_possible_ttl() {
        return Err(AttachError::Damaged("impossible time to live"));
    }
    let geometry = checked_geometry(header, region.len_bytes()).map_err(AttachError::Damaged)?;
    Ok((Layout::new(geometry), Identity { type_tag, hash_seed, epoch_ms }))
}

/// The geometry that a header gives, every number checked: a checksum can be right by intent.
fn checked_geometry(header: &RegionHeader, region_bytes: usize) -> Result<Geometry, &'static str> {
    let check = |holds: bool, what: &'static str| if holds { Ok(()) } else { Err(what) };
    let policy = *Policy::ALL.get(header.policy.get() as usize).ok_or("unknown policy")?;
    let partition_count = header.partition_count.get();
    let partition_bytes = header.partition_bytes.get() as usize;
    let slab_bytes = header.slab_bytes.get();
    let base_count = header.base_buckets.get();
    let class_count = header.class_count.get() as usize;
    check(region_bytes <= MAX_REGION_BYTES, "the region is larger than any can be")?;
    let are_partitions = partition_count.is_power_of_two() && partition_count <= MAX_PARTITIONS;
    check(are_partitions, "impossible number of partitions")?;
    // The partitions fill the region, but for what cannot be divided among them in units of 64 bytes.
    let partitions_bytes = partition_bytes.checked_mul(partition_count as usize);
    let rest = partitions_bytes.and_then(|bytes| (region_bytes - Layout::REGION_HEAD_BYTES).checked_sub(bytes));
    let fill = partition_bytes % 64 == 0 && rest.is_some_and(|rest| rest < 64 * partition_count as usize);
    check(fill && partition_bytes <= MAX_PARTITION_BYTES, "the partitions do not fill the region")?;
    let is_slab = slab_bytes.is_power_of_two() && (MIN_SLAB_BYTES..=MAX_SLAB_BYTES).contains(&slab_bytes);
    check(is_slab, "impossible slab size")?;
    let is_table = base_count.is_power_of_two() && u64::from(base_count) <= MAX_BUCKETS;
    check(is_table && header.table_is_fixed.get() <= 1, "impossible number of buckets")?;
    check((1..MAX_CLASSES).contains(&class_count), "impossible number of classes")?;
    let slot_bytes: Vec<u32> = header.slot_bytes[..class_count].iter().map(Word32::get).collect();
    check(check_slot_bytes(&slot_bytes, slab_bytes).is_ok(), "impossible slot sizes")?;
    let (max_entries, max_entry_bytes) = (header.max_entries.get(), header.max_entry_bytes.get());
    check(max_entries <= MAX_ENTRIES && max_entry_bytes as usize <= MAX_ENTRY_BYTES, "impossible capacity")?;
    let table = TableSize { base_count, is_fixed: header.table_is_fixed.get() == 1 };
    let geometry = Geometry {
        region_bytes,
        partition_count,
        partition_bytes,
        slab_bytes,
        slot_bytes,
        table,
        policy,
        max_entries,
        max_entry_bytes,
    };
    let least = geometry.fixed_bytes(MIN_SLABS).saturating_add((MIN_SLABS * slab_bytes) as usize);
    check(partition_bytes >= least, "the partitions are too small for their slabs")?;
    Ok(geometry)
}

/// A header as bytes: for tests that forge what no check of the header as a whole finds.
#[doc(hidden)]
pub mod forge {
    use std::mem::offset_of;

    use super::RegionHeader;

    /// Bytes of the header.
    pub const BYTES: usize = size_of::<RegionHeader>();
    /// Where the hash seed lies.
    pub const HASH_SEED: usize = offset_of!(RegionHeader, hash_seed);
    /// Where the checksum lies.
    pub const CHECKSUM: usize = offset_of!(RegionHeader, checksum);

    /// Of everything in the header but the magic number and the checksum itself.
    pub fn checksum(header: &[u8]) -> u64 {
        let skipped = [offset_of!(RegionHeader, magic), CHECKSUM];
        let words = header[..BYTES].chunks(8).enumerate().filter(|(index, _)| !skipped.contains(&(8 * index)));
        let covered: Vec<u8> = words.flat_map(|(_, word)| word).copied().collect();
        xxhash_rust::xxh3::xxh3_64(&covered)
    }
}
