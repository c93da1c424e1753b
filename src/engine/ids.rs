//! Newtypes for every index and address inside a partition.
//!
//! A number that names one thing never silently names another: each level of address has its own type, and
//! only `region` turns an offset into a reference. `0` is never a valid [`Location`] or [`EntryIndex`] (a
//! partition starts with its header), so both use it as "none" and a zeroed bucket is an empty one.

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
    /// Where a slot lies, in units of 8 bytes from the start of its partition. 0 means "none".
    Location
);
index_type!(
    /// A directory record, in units of 32 bytes from the start of its partition. 0 means "none".
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
    /// The unit of a location.
    pub const UNIT_BYTES: usize = 8;
}

impl EntryIndex {
    /// No entry.
    pub const NONE: EntryIndex = EntryIndex(0);

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
/// `slot` says which directory record (of which partition), `generation` how often that record has changed
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
    slot: u32,
    generation: NonZeroU32,
}

impl EntryId {
    /// An id from its parts; `None` unless the generation is odd.
    pub fn new(slot: u32, generation: u32) -> Option<Self> {
        let generation = NonZeroU32::new(generation)?;
        (generation.get() % 2 == 1).then_some(EntryId { slot, generation })
    }

    /// The directory record, with the partition in its low bits.
    pub fn slot(self) -> u32 {
        self.slot
    }

    /// The generation of that record, always odd.
    pub fn generation(self) -> NonZeroU32 {
        self.generation
    }

    /// The id as one number: generation in the high half, slot in the low half.
    pub fn to_u64(self) -> u64 {
        u64::from(self.generation.get()) << 32 | u64::from(self.slot)
    }

    /// The inverse of [`EntryId::to_u64`]; `None` for a number that no id has.
    pub fn from_u64(id: u64) -> Option<Self> {
        EntryId::new(id as u32, (id >> 32) as u32)
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}v{}", self.slot, self.generation)
    }
}

impl fmt::Debug for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
