//! Slab classes: which slot sizes exist, and which class a given size belongs to.
//!
//! A slab starts with its free bitmap; the slots follow, for records from the next multiple of 32 bytes on:
//!
//! ```text
//! slab  ┌────────────────┬─────────┬─────────┬─ … ─┬─────────┬──────┐
//!       │ free bitmap    │ slot 0  │ slot 1  │     │ slot n-1│ rest │
//!       └────────────────┴─────────┴─────────┴─ … ─┴─────────┴──────┘
//!       0          first_slot_bytes                           slab_bytes
//! ```
//!
//! Geometric classes are as few as keep the waste within bounds: each is the largest whose smallest value wastes no more
//! than one part in so many of the slot, and then as large as its number of slots in a slab allows, so that no slab has an
//! unused rest that its slots could have had. The largest class has eight slots a slab, or five in small slabs: what is
//! larger is chained over several slots.
//!
//! The table is derived from the configuration and lives in each process, not in the region.

use super::bitmap::word_count;
use crate::engine::config_error::ConfigError;
use crate::engine::ids::ClassIndex;
use crate::engine::limits::{MAX_CLASSES, MIN_LARGEST_SLOT_BYTES, MIN_SLOT_BYTES, SLOT_ALIGN_BYTES};

/// Bytes of one directory record; the slot size of class 0.
pub const RECORD_BYTES: u32 = 32;
/// From this size on a slab has eight slots of the largest class.
const LARGE_SLAB_BYTES: u32 = 16 << 10;

/// One class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    /// Bytes of a slot.
    pub slot_bytes: u32,
    /// Slots of a slab.
    pub slots_per_slab: u32,
    /// Where slot 0 starts in the slab.
    pub first_slot_bytes: u32,
}

impl Class {
    /// The class of slots of `slot_bytes` in slabs of `slab_bytes`; `None` if not one slot fits.
    pub fn new(slot_bytes: u32, slab_bytes: u32) -> Option<Class> {
        Self::aligned(slot_bytes, slab_bytes, SLOT_ALIGN_BYTES)
    }

    /// The class of directory records, which are numbered by where they lie.
    fn of_records(slab_bytes: u32) -> Class {
        Self::aligned(RECORD_BYTES, slab_bytes, RECORD_BYTES).expect("records fit a slab")
    }

    fn aligned(slot_bytes: u32, slab_bytes: u32, align_bytes: u32) -> Option<Class> {
        let first_slot_bytes = |slots| Self::bitmap_bytes(slots).next_multiple_of(align_bytes);
        let slots_per_slab = (1..=slab_bytes / slot_bytes)
            .rev()
            .find(|&slots| first_slot_bytes(slots) + slots * slot_bytes <= slab_bytes)?;
        Some(Class { slot_bytes, slots_per_slab, first_slot_bytes: first_slot_bytes(slots_per_slab) })
    }

    /// The class of the largest slots of which `slots_per_slab` fit.
    fn with_slots(slots_per_slab: u32, slab_bytes: u32) -> Class {
        let first_slot_bytes = Self::bitmap_bytes(slots_per_slab);
        let slot_bytes = (slab_bytes - first_slot_bytes) / slots_per_slab;
        Class { slot_bytes: slot_bytes - slot_bytes % SLOT_ALIGN_BYTES, slots_per_slab, first_slot_bytes }
    }

    fn bitmap_bytes(slots_per_slab: u32) -> u32 {
        word_count(slots_per_slab) as u32 * 8
    }
}

/// The slots that a slab has of the largest class.
fn slots_of_largest(slab_bytes: u32) -> u32 {
    if slab_bytes < LARGE_SLAB_BYTES { 5 } else { 8 }
}

/// The largest slot that there may be in slabs of this size.
pub fn largest_slot_bytes(slab_bytes: u32) -> u32 {
    Class::with_slots(slots_of_largest(slab_bytes), slab_bytes).slot_bytes
}

/// All classes of a cache, smallest slot first after class 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassTable {
    classes: Vec<Class>,
    /// For sizes up to the largest slot, in units of 8 bytes: the class.
    by_size: Vec<u8>,
}

impl ClassTable {
    /// As few slot sizes as it takes for no value to waste more than one part in `waste_parts` of its slot, or more than
    /// seven bytes; but of the largest slots a value wastes up to one part in as many as a slab has of them.
    pub fn geometric_slot_bytes(waste_parts: u32, slab_bytes: u32) -> Vec<u32> {
        let slots_of = |slot_bytes| Class::new(slot_bytes, slab_bytes).map_or(0, |class| class.slots_per_slab);
        let fewest_slots = slots_of_largest(slab_bytes);
        let mut class = Class::with_slots(slots_of(MIN_SLOT_BYTES), slab_bytes);
        let mut sizes = vec![class.slot_bytes];
        while class.slots_per_slab > fewest_slots {
            // The smallest value of the next class has one byte more than this class's slots.
            let wasting_enough = (class.slot_bytes + 1) * waste_parts / (waste_parts - 1);
            let limit_bytes = wasting_enough.max(class.slot_bytes + SLOT_ALIGN_BYTES);
            let slots = slots_of(limit_bytes).max(fewest_slots);
            // Grown to its full size a class may exceed the limit; then one with more slots comes before it.
            let next = (slots..class.slots_per_slab)
                .map(|slots| Class::with_slots(slots, slab_bytes))
                .take_while(|next| next.slot_bytes > class.slot_bytes)
                .find(|next| next.slot_bytes <= limit_bytes);
            class = next.unwrap_or_else(|| Class::with_slots(slots, slab_bytes));
            sizes.push(class.slot_bytes);
        }
        sizes
    }

    /// The table for ascending slot sizes that were checked by the configuration.
    pub fn new(slot_bytes: &[u32], slab_bytes: u32) -> ClassTable {
        let directory = Class::of_records(slab_bytes);
        let data = slot_bytes.iter().map(|&bytes| Class::new(bytes, slab_bytes).expect("checked size fits a slab"));
        let classes: Vec<Class> = std::iter::once(directory).chain(data).collect();
        assert!(classes.len() <= MAX_CLASSES);
        let max_slot_bytes = classes[classes.len() - 1].slot_bytes;
        let by_size = (0..=max_slot_bytes / SLOT_ALIGN_BYTES)
            .map(|units| {
                let data_classes = &classes[1..];
                (1 + data_classes.partition_point(|class| class.slot_bytes < units * SLOT_ALIGN_BYTES)) as u8
            })
            .collect();
        ClassTable { classes, by_size }
    }

    /// The class that the smallest slot of at least `bytes` belongs to; `None` above the largest slot.
    #[inline]
    pub fn class_for(&self, bytes: usize) -> Option<ClassIndex> {
        self.by_size.get(bytes.div_ceil(SLOT_ALIGN_BYTES as usize)).map(|&class| ClassIndex(u32::from(class)))
    }

    /// One class.
    #[inline]
    pub fn get(&self, class: ClassIndex) -> Class {
        self.classes[class.usize()]
    }

    /// How many classes there are, class 0 included.
    pub fn count(&self) -> usize {
        self.classes.len()
    }

    /// All classes with their indexes, class 0 first.
    pub fn iter(&self) -> impl Iterator<Item = (ClassIndex, Class)> + '_ {
        self.classes.iter().enumerate().map(|(index, &class)| (ClassIndex(index as u32), class))
    }

    /// The class with the largest slots.
    pub fn largest(&self) -> ClassIndex {
        ClassIndex(self.classes.len() as u32 - 1)
    }
}

/// Checks a list of slot sizes.
///
/// # Errors
///
/// What is wrong with it.
pub fn check_slot_bytes(sizes: &[u32], slab_bytes: u32) -> Result<(), ConfigError> {
    if sizes.is_empty() || sizes.len() >= MAX_CLASSES {
        return Err(ConfigError::ClassCount(sizes.len()));
    }
    let max = slab_bytes / slots_of_largest(slab_bytes);
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

#[cfg(test)]
mod tests {
    use super::*;

    const SLAB_SIZES: [u32; 8] = [2 << 10, 4 << 10, 8 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20];
    const WASTE_PARTS: [u32; 4] = [4, 6, 8, 16];

    /// Tables of all kinds, with the part of a slot that may be wasted, and the same for the largest.
    fn tables() -> impl Iterator<Item = (u32, u32, u32, ClassTable)> {
        let kinds = SLAB_SIZES.iter().flat_map(|&slab_bytes| WASTE_PARTS.map(|parts| (slab_bytes, parts)));
        kinds.map(|(slab_bytes, parts)| {
            let table = ClassTable::new(&ClassTable::geometric_slot_bytes(parts, slab_bytes), slab_bytes);
            (slab_bytes, parts, parts.min(slots_of_largest(slab_bytes)), table)
        })
    }

    #[test]
    fn slots_lie_inside_the_slab_and_are_aligned() {
        for (slab_bytes, _, _, table) in tables() {
            for (index, class) in table.iter() {
                assert!(class.first_slot_bytes + class.slots_per_slab * class.slot_bytes <= slab_bytes);
                assert!(word_count(class.slots_per_slab) as u32 * 8 <= class.first_slot_bytes);
                let align_bytes = if index == ClassIndex::DIRECTORY { 32 } else { 8 };
                assert_eq!((class.slot_bytes % 8, class.first_slot_bytes % align_bytes), (0, 0));
            }
        }
    }

    #[test]
    fn internal_waste_is_within_its_bound() {
        for (slab_bytes, parts, parts_of_largest, table) in tables() {
            let largest = table.get(table.largest());
            assert_eq!(largest.slots_per_slab, slots_of_largest(slab_bytes));
            assert_eq!(largest.slot_bytes, largest_slot_bytes(slab_bytes));
            for bytes in MIN_SLOT_BYTES..=largest.slot_bytes {
                let class = table.get(table.class_for(bytes as usize).unwrap());
                assert!(class.slot_bytes >= bytes);
                let waste = class.slot_bytes - bytes;
                // Where a slab has few slots, the next larger slot may be the size of several smaller ones' slack.
                let parts = if class.slots_per_slab < 2 * parts { parts_of_largest } else { parts };
                let is_aligned = waste < SLOT_ALIGN_BYTES;
                assert!(is_aligned || waste * parts <= class.slot_bytes, "{slab_bytes}: {bytes} bytes in {class:?}");
            }
            assert_eq!(table.class_for(largest.slot_bytes as usize + 1), None);
        }
    }

    #[test]
    fn every_class_is_the_largest_with_its_slot_count() {
        for (slab_bytes, _, _, table) in tables() {
            for (index, class) in table.iter().skip(1) {
                let larger = Class::new(class.slot_bytes + 8, slab_bytes).unwrap();
                assert!(larger.slots_per_slab < class.slots_per_slab, "{index:?} {class:?}");
            }
        }
    }

    #[test]
    fn no_class_can_be_left_out() {
        for (slab_bytes, parts, _, table) in tables() {
            let sizes: Vec<u32> = table.iter().skip(1).map(|(_, class)| class.slot_bytes).collect();
            for (first, third) in sizes.iter().zip(sizes.iter().skip(2)) {
                let waste = third - first - 1;
                assert!(waste >= SLOT_ALIGN_BYTES && waste * parts > *third, "{slab_bytes}: {first} to {third}");
            }
        }
    }
}
