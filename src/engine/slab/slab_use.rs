//! What a slab serves, and the number that says so in its descriptor.

use crate::engine::ids::ClassIndex;

/// What a slab serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlabUse {
    /// Nothing: it is in the pool.
    Pool,
    /// Buckets of the hash table.
    Buckets,
    /// Kept as it was when the partition was reset: readers have values in it pinned.
    QuarantinedValues,
    /// As before, for directory records, which hold the pins.
    QuarantinedRecords,
    /// Slots of this class.
    Class(ClassIndex),
}

impl SlabUse {
    const FIRST_CLASS: u32 = 8;

    /// The number that stands for it.
    pub fn word(self) -> u32 {
        match self {
            SlabUse::Pool => 0,
            SlabUse::Buckets => 1,
            SlabUse::QuarantinedValues => 2,
            SlabUse::QuarantinedRecords => 3,
            SlabUse::Class(class) => Self::FIRST_CLASS + class.0,
        }
    }

    pub(super) fn from_word(word: u32, class_count: usize) -> Option<SlabUse> {
        match word {
            0 => Some(SlabUse::Pool),
            1 => Some(SlabUse::Buckets),
            2 => Some(SlabUse::QuarantinedValues),
            3 => Some(SlabUse::QuarantinedRecords),
            _ => {
                let class = word.checked_sub(Self::FIRST_CLASS)?;
                ((class as usize) < class_count).then_some(SlabUse::Class(ClassIndex(class)))
            }
        }
    }

    /// Whether readers from before a reset keep the slab.
    pub fn is_quarantined(self) -> bool {
        matches!(self, SlabUse::QuarantinedValues | SlabUse::QuarantinedRecords)
    }

    /// The directory's class.
    pub const RECORDS: SlabUse = SlabUse::Class(ClassIndex::DIRECTORY);
}
