//! Slab classes: which slot sizes exist, and which class a given size belongs to.
//!
//! A slab starts with its free bitmap; the slots follow from the next multiple of 32 bytes on:
//!
//! ```text
//! slab  ┌────────────────┬─────────┬─────────┬─ … ─┬─────────┬──────┐
//!       │ free bitmap    │ slot 0  │ slot 1  │     │ slot n-1│ rest │
//!       └────────────────┴─────────┴─────────┴─ … ─┴─────────┴──────┘
//!       0          first_slot_bytes                           slab_bytes
//! ```
//!
//! Geometric classes take a fixed number of steps per doubling, in the manner of jemalloc's size classes; each
//! is then grown to the largest slot that still gives the same number of slots, so that no slab has an unused
//! rest that its slots could have had. The largest class has eight slots a slab: what is larger is chained over
//! several slots, which keeps internal waste below one eighth for every size (below 8 bytes for small slots).
//!
//! The table is derived from the configuration and lives in each process, not in the region.

use super::bitmap::word_count;
use crate::engine::config_error::ConfigError;
use crate::engine::ids::ClassIndex;
use crate::engine::limits::{MAX_CLASSES, MIN_LARGEST_SLOT_BYTES, MIN_SLOT_BYTES, SLOT_ALIGN_BYTES};

/// Bytes of one directory record; the slot size of class 0.
pub const RECORD_BYTES: u32 = 32;
const MIN_SLOTS_PER_SLAB: u32 = 8;
const FIRST_SLOT_ALIGN_BYTES: u32 = 32;

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
        let slots_per_slab = (1..=slab_bytes / slot_bytes)
            .rev()
            .find(|&slots| Self::first_slot_bytes(slots) + slots * slot_bytes <= slab_bytes)?;
        Some(Class { slot_bytes, slots_per_slab, first_slot_bytes: Self::first_slot_bytes(slots_per_slab) })
    }

    /// The class of the largest slots of which `slots_per_slab` fit.
    fn with_slots(slots_per_slab: u32, slab_bytes: u32) -> Class {
        let first_slot_bytes = Self::first_slot_bytes(slots_per_slab);
        let slot_bytes = (slab_bytes - first_slot_bytes) / slots_per_slab;
        Class { slot_bytes: slot_bytes - slot_bytes % SLOT_ALIGN_BYTES, slots_per_slab, first_slot_bytes }
    }

    fn first_slot_bytes(slots_per_slab: u32) -> u32 {
        (word_count(slots_per_slab) as u32 * 8).next_multiple_of(FIRST_SLOT_ALIGN_BYTES)
    }
}

/// All classes of a cache, smallest slot first after class 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassTable {
    classes: Vec<Class>,
    /// For sizes up to the largest slot, in units of 8 bytes: the class.
    by_size: Vec<u8>,
}

impl ClassTable {
    /// Slot sizes with `steps` classes per doubling, and as many more as it takes to keep the waste within the step
    /// where a slab has few slots.
    pub fn geometric_slot_bytes(steps: u32, slab_bytes: u32) -> Vec<u32> {
        let slots_of = |slot_bytes| Class::new(slot_bytes, slab_bytes).map_or(0, |class| class.slots_per_slab);
        let mut class = Class::with_slots(slots_of(MIN_SLOT_BYTES), slab_bytes);
        let mut sizes = vec![class.slot_bytes];
        while class.slots_per_slab > MIN_SLOTS_PER_SLAB {
            let step = ((1 << class.slot_bytes.ilog2()) / steps).max(SLOT_ALIGN_BYTES);
            let slots = slots_of(class.slot_bytes + step).max(MIN_SLOTS_PER_SLAB);
            // Grown to its full size the class may leave a gap; then a class with more slots comes in between.
            let fits_the_step = |next: &Class| {
                let largest_waste = next.slot_bytes - class.slot_bytes - 1;
                largest_waste < SLOT_ALIGN_BYTES || largest_waste * steps.min(8) <= next.slot_bytes
            };
            class = (slots..class.slots_per_slab)
                .map(|slots| Class::with_slots(slots, slab_bytes))
                .find(|next| fits_the_step(next) || next.slots_per_slab + 1 == class.slots_per_slab)
                .expect("one slot fewer is always a larger class");
            sizes.push(class.slot_bytes);
        }
        sizes
    }

    /// The table for ascending slot sizes that were checked by the configuration.
    pub fn new(slot_bytes: &[u32], slab_bytes: u32) -> ClassTable {
        let directory = Class::new(RECORD_BYTES, slab_bytes).expect("records fit a slab");
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
    let max = slab_bytes / MIN_SLOTS_PER_SLAB;
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

    const SLAB_SIZES: [u32; 5] = [16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20];

    fn geometric(steps: u32, slab_bytes: u32) -> ClassTable {
        ClassTable::new(&ClassTable::geometric_slot_bytes(steps, slab_bytes), slab_bytes)
    }

    #[test]
    fn slots_lie_inside_the_slab_and_are_aligned() {
        for slab_bytes in SLAB_SIZES {
            for (_, class) in geometric(16, slab_bytes).iter() {
                assert!(class.first_slot_bytes + class.slots_per_slab * class.slot_bytes <= slab_bytes);
                assert!(word_count(class.slots_per_slab) as u32 * 8 <= class.first_slot_bytes);
                assert_eq!((class.slot_bytes % 8, class.first_slot_bytes % 32), (0, 0));
            }
        }
    }

    #[test]
    fn internal_waste_is_at_most_an_eighth() {
        for (steps, slab_bytes) in SLAB_SIZES.iter().flat_map(|&slab_bytes| [(8, slab_bytes), (16, slab_bytes)]) {
            let table = geometric(steps, slab_bytes);
            let largest = table.get(table.largest());
            assert_eq!(largest.slots_per_slab, 8);
            for bytes in 1..=largest.slot_bytes as usize {
                let slot = table.get(table.class_for(bytes).unwrap()).slot_bytes as usize;
                assert!(slot >= bytes);
                let waste = slot - bytes;
                assert!(bytes < 24 || waste < 8 || waste * 8 <= slot, "{bytes} bytes in a slot of {slot}");
            }
            assert_eq!(table.class_for(largest.slot_bytes as usize + 1), None);
        }
    }

    #[test]
    fn every_class_is_the_largest_with_its_slot_count() {
        for slab_bytes in SLAB_SIZES {
            for (index, class) in geometric(16, slab_bytes).iter().skip(1) {
                let larger = Class::new(class.slot_bytes + 8, slab_bytes).unwrap();
                assert!(larger.slots_per_slab < class.slots_per_slab, "{index:?} {class:?}");
            }
        }
    }
}
