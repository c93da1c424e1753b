//! Newtypes for every index and address inside a partition.
//!
//! A number that names one thing never silently names another: each level of address has its own type, and
//! only `region` turns an offset into a reference. Slots and records are counted from the partition's first slab, which
//! starts with a bitmap; so `0` is never a valid [`Location`] or [`EntryIndex`], both use it as "none", and a zeroed
//! bucket is an empty one.

use std::fmt;
use std::num::NonZeroU32;

macro_rules! index_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(transparent)]
        pub struct $name(pub u32);

        impl $name {
            /// The number as a `usize`, for arithmetic on offsets.
            #[inline]
            pub const fn usize(self) -> usize {
                self.0 as usize
            }
        }
    };
}

index_type!(
    /// A slab of a partition, counted from the partition's first slab.
    SlabIndex
);
index_type!(
    /// A slab class. Class 0 holds directory records, the others hold keys and values.
    ClassIndex
);
index_type!(
    /// Where a slot lies, in units of 8 bytes from the first slab of its partition. 0 means "none".
    Location
);
index_type!(
    /// A directory record, in units of 32 bytes from the first slab of its partition. 0 means "none".
    ///
    /// An entry keeps its index for life: compaction moves what the record points to, never the record.
    EntryIndex
);
index_type!(
    /// A bucket: one cache line of the hash table.
    BucketIndex
);

impl ClassIndex {
    /// The class of the directory's own records.
    pub const DIRECTORY: ClassIndex = ClassIndex(0);
}

impl Location {
    /// No slot.
    pub const NONE: Location = Location(0);
    const UNIT_BYTES: usize = 8;

    /// The slot at an offset from the first slab, which is a multiple of 8.
    #[inline]
    pub const fn at(offset: usize) -> Location {
        Location((offset / Self::UNIT_BYTES) as u32)
    }

    /// The offset from the first slab in bytes.
    #[inline]
    pub const fn offset(self) -> usize {
        self.usize() * Self::UNIT_BYTES
    }

    /// Whether this is [`Location::NONE`].
    #[inline]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

impl EntryIndex {
    /// No entry.
    pub const NONE: EntryIndex = EntryIndex(0);
    const UNIT_BYTES: usize = 32;

    /// The record in a slot of the directory's class.
    #[inline]
    pub const fn in_slot(location: Location) -> EntryIndex {
        EntryIndex((location.offset() / Self::UNIT_BYTES) as u32)
    }

    /// The slot that the record is.
    #[inline]
    pub const fn slot(self) -> Location {
        Location::at(self.offset())
    }

    /// The offset of the record from the first slab in bytes.
    #[inline]
    pub const fn offset(self) -> usize {
        self.usize() * Self::UNIT_BYTES
    }

    /// Whether this is [`EntryIndex::NONE`].
    #[inline]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// `None` for [`EntryIndex::NONE`].
    #[inline]
    pub fn some(self) -> Option<EntryIndex> {
        (!self.is_none()).then_some(self)
    }
}

/// Names one entry for as long as it lives, and nothing afterwards.
///
/// `record` says which directory record (of which partition), `generation` how often that record has changed
/// hands; the generation of a live entry is odd. A record that is used again has a higher generation, so an
/// old id finds nothing instead of a stranger. Prints as `3v7`.
///
/// # Examples
///
/// ```
/// use pg_shared_lru::EntryId;
/// let id = EntryId::new(3, 7).unwrap();
/// assert_eq!(id.to_string(), "3v7");
/// assert_eq!(EntryId::from_u64(id.to_u64()), Some(id));
/// assert_eq!(EntryId::new(3, 8), None, "even generations are not live");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryId {
    record: u32,
    generation: NonZeroU32,
}

impl EntryId {
    /// An id from its parts; `None` unless the generation is odd.
    pub fn new(record: u32, generation: u32) -> Option<Self> {
        let generation = NonZeroU32::new(generation)?;
        (generation.get() % 2 == 1).then_some(EntryId { record, generation })
    }

    /// The directory record, with the partition in its low bits.
    pub fn record(self) -> u32 {
        self.record
    }

    /// The generation of that record, always odd.
    pub fn generation(self) -> NonZeroU32 {
        self.generation
    }

    /// The id as one number: generation in the high half, record in the low half.
    pub fn to_u64(self) -> u64 {
        u64::from(self.generation.get()) << 32 | u64::from(self.record)
    }

    /// The inverse of [`EntryId::to_u64`]; `None` for a number that no id has.
    pub fn from_u64(id: u64) -> Option<Self> {
        EntryId::new(id as u32, (id >> 32) as u32)
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}v{}", self.record, self.generation)
    }
}

impl fmt::Debug for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
