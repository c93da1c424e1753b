//! The slab allocator of one partition: slots by class, slabs from a pool.
//!
//! A slab is in the pool or belongs to one class. Slabs of a class that have both used and free slots are
//! listed in sixteen bins by occupancy; a slot is taken from the fullest bin, compaction empties a slab of the
//! emptiest. A slab whose last slot is freed returns to the pool at once, where any class may take it.
//!
//! Costs: taking and freeing a slot are constant but for the search in the slab's bitmap, which a hint keeps short.
//!
//! Locking: everything here runs under the partition's exclusive lock. Not here: which entry a slot belongs to
//! (`payload`), when to compact or evict (`room`).

use std::sync::atomic::{AtomicU64, Ordering, fence};

use super::bitmap::{FreeBitmap, word_count};
use super::ids::{ClassIndex, Location, SlabIndex};
use super::layout::{BIN_COUNT, ClassState, SlabDescriptor};
use super::partition::Partition;

impl Partition {
    #[inline]
    pub(super) fn descriptor(&self, slab: SlabIndex) -> &SlabDescriptor {
        self.region.at(self.layout.descriptor_offset(slab))
    }

    #[inline]
    pub(super) fn class_state(&self, class: ClassIndex) -> &ClassState {
        self.region.at(self.layout.class_offset(class))
    }

    #[inline]
    pub(super) fn bitmap(&self, slab: SlabIndex, class: ClassIndex) -> FreeBitmap<'_> {
        let slots = self.layout.classes.get(class).slots_per_slab;
        let words: &[AtomicU64] = self.region.slice(self.layout.slab_offset(slab), word_count(slots));
        FreeBitmap::new(words, slots)
    }

    /// The slab, class and slot number of a location.
    #[inline]
    pub(super) fn slot_of(&self, location: Location) -> (SlabIndex, ClassIndex, u32) {
        let (slab, within) =
            self.layout.slab_of(location.usize() * Location::UNIT_BYTES).expect("a location lies in a slab");
        let class_index = ClassIndex(self.descriptor(slab).class.get());
        let class = self.layout.classes.get(class_index);
        (slab, class_index, (within - class.first_slot_bytes) / class.slot_bytes)
    }

    /// Takes a free slot of a class from its fullest slab that has one; `None` if all slabs of the class are full.
    ///
    /// `stored_bytes` is what will be written to it. Whoever sees a byte written to the slot sees all that was changed
    /// before it was taken, in particular that the slot is no longer that of the entry which had it.
    pub(super) fn take_slot(&mut self, class: ClassIndex, stored_bytes: usize) -> Option<Location> {
        let state = self.class_state(class);
        let fullest = state.bin_mask.get().checked_ilog2()?;
        let slab = SlabIndex(state.bins[fullest as usize].get());
        let descriptor = self.descriptor(slab);
        let bitmap = self.bitmap(slab, class);
        let slot = bitmap.first_free(descriptor.free_hint.get()).expect("a slab in a bin has a free slot");
        bitmap.set(slot, false);
        descriptor.free_hint.set(slot / 64);
        descriptor.used.add(1);
        state.used.add(1);
        state.stored_bytes.add(stored_bytes as u64);
        self.update_bin(slab, class);
        self.update_compactable(class);
        fence(Ordering::Release);
        Some(self.layout.location(slab, class, slot))
    }

    /// Frees a slot into which `stored_bytes` were written.
    pub(super) fn free_slot(&mut self, location: Location, stored_bytes: usize) {
        let (slab, class, slot) = self.slot_of(location);
        let state = self.class_state(class);
        let descriptor = self.descriptor(slab);
        let bitmap = self.bitmap(slab, class);
        debug_assert!(!bitmap.is_free(slot), "slot freed twice");
        bitmap.set(slot, true);
        descriptor.free_hint.set(descriptor.free_hint.get().min(slot / 64));
        descriptor.used.sub(1);
        state.used.sub(1);
        state.stored_bytes.sub(stored_bytes as u64);
        self.settle_slab(slab, class);
    }

    /// After slots were freed: an empty slab returns to the pool, another is listed by its occupancy.
    pub(super) fn settle_slab(&mut self, slab: SlabIndex, class: ClassIndex) {
        if self.descriptor(slab).used.get() == 0 {
            self.release_slab(slab, class);
        } else {
            self.update_bin(slab, class);
        }
        self.update_compactable(class);
    }

    /// Gives a slab of the pool to a class; `false` if the pool is empty.
    pub(super) fn grow_class(&mut self, class: ClassIndex) -> bool {
        let header = self.header();
        let Some(slab) = self.pool_slab_for(class) else { return false };
        header.pool_count.sub(1);
        // As in `take_slot`: from here on the slab's bytes change.
        fence(Ordering::Release);
        if class == ClassIndex::DIRECTORY {
            self.open_directory_slab(slab);
        }
        self.bitmap(slab, class).set_all_free();
        // A process killed here must leave a slab of the pool, or one whose records are prepared.
        let descriptor = self.descriptor(slab);
        descriptor.class.store_release(class.0);
        descriptor.used.set(0);
        descriptor.bin.set(SlabDescriptor::NO_BIN);
        descriptor.free_hint.set(0);
        self.class_state(class).slab_count.add(1);
        self.update_bin(slab, class);
        self.update_compactable(class);
        true
    }

    /// Unlinks the first slab of the pool that may serve the class: any, unless its generations are used up.
    fn pool_slab_for(&self, class: ClassIndex) -> Option<SlabIndex> {
        let mut link = &self.header().pool_head;
        loop {
            let slab = SlabIndex(link.get());
            if slab.0 == SlabDescriptor::NIL {
                return None;
            }
            let next = &self.descriptor(slab).next;
            if class != ClassIndex::DIRECTORY || self.can_serve_directory(slab) {
                link.set(next.get());
                return Some(slab);
            }
            link = next;
        }
    }

    /// Returns an empty slab to the pool.
    fn release_slab(&mut self, slab: SlabIndex, class: ClassIndex) {
        debug_assert_eq!(self.descriptor(slab).used.get(), 0);
        self.unlist(slab, class);
        if class == ClassIndex::DIRECTORY {
            self.close_directory_slab(slab);
        }
        self.class_state(class).slab_count.sub(1);
        self.put_in_pool(slab);
        if class == ClassIndex::DIRECTORY {
            self.begin_placement_epoch();
        }
    }

    /// After entries got another place, or records went away, without their stamps saying so, and before the memory
    /// that they left is used again.
    pub(super) fn begin_placement_epoch(&self) {
        let epoch = &self.header().placement_epoch;
        epoch.store_release(epoch.get() + 1);
    }

    /// Links a slab without class into the pool.
    pub(super) fn put_in_pool(&mut self, slab: SlabIndex) {
        let header = self.header();
        let descriptor = self.descriptor(slab);
        descriptor.class.set(SlabDescriptor::IN_POOL);
        descriptor.used.set(0);
        descriptor.bin.set(SlabDescriptor::NO_BIN);
        descriptor.previous.set(SlabDescriptor::NIL);
        descriptor.next.set(header.pool_head.get());
        header.pool_head.set(slab.0);
        header.pool_count.add(1);
    }

    /// Takes a slab out of its bin, so that no slot is taken from it.
    pub(super) fn unlist(&mut self, slab: SlabIndex, class: ClassIndex) {
        let descriptor = self.descriptor(slab);
        let bin = descriptor.bin.get();
        if bin == SlabDescriptor::NO_BIN {
            return;
        }
        let state = self.class_state(class);
        let (previous, next) = (descriptor.previous.get(), descriptor.next.get());
        if previous == SlabDescriptor::NIL {
            state.bins[bin as usize].set(next);
            if next == SlabDescriptor::NIL {
                state.bin_mask.set(state.bin_mask.get() & !(1 << bin));
            }
        } else {
            self.descriptor(SlabIndex(previous)).next.set(next);
        }
        if next != SlabDescriptor::NIL {
            self.descriptor(SlabIndex(next)).previous.set(previous);
        }
        descriptor.bin.set(SlabDescriptor::NO_BIN);
    }

    /// Lists a slab in the bin of its occupancy; a full slab in none.
    pub(super) fn update_bin(&mut self, slab: SlabIndex, class: ClassIndex) {
        let slots = self.layout.classes.get(class).slots_per_slab;
        let descriptor = self.descriptor(slab);
        let used = descriptor.used.get();
        let bin = if used == slots { SlabDescriptor::NO_BIN } else { used * BIN_COUNT as u32 / slots };
        if bin == descriptor.bin.get() {
            return;
        }
        self.unlist(slab, class);
        if bin == SlabDescriptor::NO_BIN {
            return;
        }
        let state = self.class_state(class);
        let descriptor = self.descriptor(slab);
        let first = state.bins[bin as usize].get();
        let first = if state.bin_mask.get() & 1 << bin == 0 { SlabDescriptor::NIL } else { first };
        descriptor.previous.set(SlabDescriptor::NIL);
        descriptor.next.set(first);
        descriptor.bin.set(bin);
        if first != SlabDescriptor::NIL {
            self.descriptor(SlabIndex(first)).previous.set(slab.0);
        }
        state.bins[bin as usize].set(slab.0);
        state.bin_mask.set(state.bin_mask.get() | 1 << bin);
    }

    /// Free slots of a class, over all its slabs.
    #[inline]
    pub(super) fn free_slots(&self, class: ClassIndex) -> u64 {
        let state = self.class_state(class);
        let slots = u64::from(self.layout.classes.get(class).slots_per_slab);
        u64::from(state.slab_count.get()) * slots - state.used.get()
    }

    /// Notes whether the class has a slab's worth of free slots. Directory records cannot move.
    fn update_compactable(&mut self, class: ClassIndex) {
        if class == ClassIndex::DIRECTORY {
            return;
        }
        let slots = u64::from(self.layout.classes.get(class).slots_per_slab);
        let word = &self.header().compactable[class.usize() / 64];
        let bit = 1 << (class.usize() % 64);
        let before = word.get();
        let after = if self.free_slots(class) >= slots { before | bit } else { before & !bit };
        if after != before {
            word.set(after);
        }
    }
}
