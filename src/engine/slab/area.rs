//! The memory of a partition's slabs: slab numbers to offsets and back.
//!
//! A handle that every component may keep: copies name the same memory. It says where slabs and slots lie, and nothing
//! of what is in them: the slots belong to whoever took them from the allocator.

use crate::engine::ids::{Location, SlabIndex};
use crate::engine::memory::region::Region;
use crate::engine::memory::words::{Word32, Word64};

/// The slabs of one partition.
#[derive(Clone, Copy, Debug)]
pub struct SlabArea {
    region: Region,
    slab_shift: u32,
    slab_count: u32,
}

impl SlabArea {
    /// Slabs of `slab_bytes`, a power of two, that fill a region.
    pub fn new(region: Region, slab_bytes: u32) -> SlabArea {
        let slab_shift = slab_bytes.trailing_zeros();
        SlabArea { region, slab_shift, slab_count: (region.len_bytes() >> slab_shift) as u32 }
    }

    /// The memory.
    #[inline]
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// Bytes of a slab.
    #[inline]
    pub fn slab_bytes(&self) -> u32 {
        1 << self.slab_shift
    }

    /// Number of slabs.
    #[inline]
    pub fn slab_count(&self) -> u32 {
        self.slab_count
    }

    /// All slabs.
    pub fn slabs(&self) -> impl DoubleEndedIterator<Item = SlabIndex> + use<> {
        (0..self.slab_count).map(SlabIndex)
    }

    /// Where a slab starts.
    #[inline]
    pub fn slab_offset(&self, slab: SlabIndex) -> usize {
        slab.usize() << self.slab_shift
    }

    /// The slab that an offset lies in, and the distance from the slab's start; `None` behind the last slab.
    #[inline(always)]
    pub fn locate(&self, offset: usize) -> Option<(SlabIndex, u32)> {
        let slab = (offset >> self.slab_shift) as u32;
        (slab < self.slab_count).then_some((SlabIndex(slab), offset as u32 & (self.slab_bytes() - 1)))
    }

    /// A 32-bit word of a slot.
    #[inline(always)]
    pub fn slot_word(&self, slot: Location, word: usize) -> &Word32 {
        self.region.at(slot.offset() + 4 * word)
    }

    /// The words from a slot on to the end of its slab: no slot is longer. `None` for a slot outside of the slabs. Safe
    /// beside writers.
    #[inline(always)]
    pub fn words_from(&self, slot: Location) -> Option<&[Word64]> {
        let (_, within) = self.locate(slot.offset())?;
        Some(self.region.slice(slot.offset(), (self.slab_bytes() - within) as usize / 8))
    }
}
