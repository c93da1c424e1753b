//! Pins across a reset: slabs that readers still look at are set aside until they are done.
//!
//! A reset empties a partition that a change has left half-way. Readers that have an entry pinned hold no lock and go
//! on reading, so the slabs of their values, and those of the records that hold their pins, keep their bytes. They
//! belong to no class and are not in the pool; when room is wanted and no pin is left they all return to it.
//!
//! Locking: the exclusive lock. Costs a look at every slab descriptor, where there is a quarantine at all.

use super::directory::flag;
use super::ids::{ClassIndex, EntryIndex, Location, SlabIndex};
use super::layout::SlabDescriptor;
use super::partition::Partition;

impl Partition {
    pub(super) fn is_quarantined(&self, slab: SlabIndex) -> bool {
        let class = self.descriptor(slab).class.get();
        class == SlabDescriptor::QUARANTINED || class == SlabDescriptor::QUARANTINED_DIRECTORY
    }

    fn slabs_of(&self, class: u32) -> Vec<SlabIndex> {
        let slabs = (0..self.layout.slab_count).map(SlabIndex);
        slabs.filter(|&slab| self.descriptor(slab).class.get() == class).collect()
    }

    fn pinned_records(&self, slabs: &[SlabIndex]) -> Vec<EntryIndex> {
        let records = slabs.iter().flat_map(|&slab| self.records_of(slab));
        records.filter(|&entry| self.record(entry).is_live() && self.record(entry).pins() > 0).collect()
    }

    /// Sets the slabs of pinned entries aside. Part of a reset: nothing but records and descriptors is to be trusted.
    pub(super) fn quarantine_pinned(&mut self) {
        // Those set aside before count, too: a reset may have been killed after it had set aside a slab of records, and
        // before the slabs of all their values.
        let mut directory = self.slabs_of(ClassIndex::DIRECTORY.0);
        directory.extend(self.slabs_of(SlabDescriptor::QUARANTINED_DIRECTORY));
        for entry in self.pinned_records(&directory) {
            // The last pin must find nothing to do.
            self.record(entry).clear_flags(flag::ZOMBIE);
            let value = self.record(entry).location().usize() * Location::UNIT_BYTES;
            if let Some((slab, _)) = self.layout.slab_of(value) {
                self.set_aside(slab, SlabDescriptor::QUARANTINED);
            }
            if let Some((slab, _)) = self.layout.slab_of(self.layout.record_offset(entry)) {
                self.close_directory_slab(slab);
                self.set_aside(slab, SlabDescriptor::QUARANTINED_DIRECTORY);
            }
        }
    }

    fn set_aside(&self, slab: SlabIndex, class: u32) {
        if !self.is_quarantined(slab) {
            self.descriptor(slab).class.set(class);
        }
    }

    /// Slabs in quarantine, of values and of records.
    pub(super) fn quarantined_slabs(&self) -> (usize, usize) {
        let count = |class| self.slabs_of(class).len();
        (count(SlabDescriptor::QUARANTINED), count(SlabDescriptor::QUARANTINED_DIRECTORY))
    }

    /// Pinned entries in quarantine.
    pub(super) fn quarantined_pins(&self) -> u32 {
        self.pinned_records(&self.slabs_of(SlabDescriptor::QUARANTINED_DIRECTORY)).len() as u32
    }

    /// Returns the slabs in quarantine to the pool if no pin is left; `false` if nothing was gained.
    pub(super) fn end_quarantine(&mut self) -> bool {
        if self.header().quarantined.get() == 0 || self.quarantined_pins() > 0 {
            return false;
        }
        for class in [SlabDescriptor::QUARANTINED, SlabDescriptor::QUARANTINED_DIRECTORY] {
            for slab in self.slabs_of(class) {
                self.put_in_pool(slab);
            }
        }
        self.header().quarantined.set(0);
        true
    }
}
