//! The slab allocator of one partition: slots by class, slabs from a pool.
//!
//! ```text
//! region  ┌────────────────┬─────────────┬──────────────────┐
//!         │ AllocatorState │ ClassState… │ SlabDescriptor…  │       and the bitmaps at the start of each slab
//!         └────────────────┴─────────────┴──────────────────┘
//! ```
//!
//! A slab is in the pool, belongs to one class, holds buckets, or is kept aside for readers ([`SlabUse`]). Slabs of a
//! class that have both used and free slots are listed in eight bins by occupancy; a slot is taken from the fullest bin,
//! compaction empties a slab of the emptiest.
//!
//! Invariants: each slab is in the pool's list, or in one bin, or in no list; bitmaps, counts and bins agree.
//!
//! Costs: taking and freeing a slot are constant but for the search in the slab's bitmap, which a hint keeps short.
//!
//! Locking: the partition's exclusive lock to change, any mode to look. [`SlabAllocator::slab_use`] may be asked without
//! a lock. Not here: which entry a slot belongs to (`entry::payload`), what has to be done before a slab changes hands
//! (the caller: `reclaim`), when to compact or evict (`reclaim`, `compaction`).

mod validate;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use super::area::SlabArea;
use super::bitmap::{FreeBitmap, word_count};
use super::class::{Class, ClassTable};
use super::slab_use::SlabUse;
use crate::engine::ids::{ClassIndex, Location, SlabIndex};
use crate::engine::limits::MAX_CLASSES;
use crate::engine::memory::list::{Links, List};
use crate::engine::memory::region::{Region, region_struct};
use crate::engine::memory::words::{Word32, Word64};

/// Occupancy bins per class: slabs are kept sorted by eighths of occupancy.
pub const BIN_COUNT: usize = 8;
/// Slabs of a bin that are compared to find the emptiest.
const LOOK_AT: usize = 16;

region_struct! {
    /// The pool, and which classes can give a slab back.
    pub struct AllocatorState: 64 bytes, align 64 {
        /// First slab of the pool, plus one.
        pool_head: Word32,
        /// Slabs in the pool.
        pool_count: Word32,
        /// Bit `c` is set while class `c` has a whole slab's worth of free slots.
        compactable: [Word64; MAX_CLASSES / 64],
        _pad: [Word64; 3],
    }
}

region_struct! {
    /// One class's own state in one partition: one cache line.
    pub struct ClassState: 64 bytes, align 64 {
        /// Heads of the lists of partly used slabs, by occupancy: slabs plus one.
        bins: [Word32; BIN_COUNT],
        /// Bit `b` is set while bin `b` has a slab.
        bin_mask: Word32,
        /// Slabs of this class, full ones included.
        slab_count: Word32,
        /// Slots in use.
        used: Word64,
        /// Bytes stored in them: headers, keys, padding and values.
        stored_bytes: Word64,
        _pad: Word64,
    }
}

region_struct! {
    /// One slab's own state.
    pub struct SlabDescriptor: 24 bytes, align 4 {
        /// What the slab serves: see [`SlabUse`].
        purpose: Word32,
        /// Slots in use.
        used: Word32,
        /// The bin it is listed in, or [`NO_BIN`].
        bin: Word32,
        /// Previous slab of the bin or of the pool, plus one.
        previous: Word32,
        /// Next slab of the bin or of the pool, plus one.
        next: Word32,
        /// No word of the free bitmap before this one has a free slot.
        free_hint: Word32,
    }
}

/// The slab is in no bin: full, being emptied, or of no class.
const NO_BIN: u32 = u32::MAX;

/// The allocator of one partition.
#[derive(Clone, Debug)]
pub struct SlabAllocator {
    region: Region,
    descriptors_offset: usize,
    area: SlabArea,
    classes: Arc<ClassTable>,
}

/// The lists of slabs: a node is a slab plus one.
struct SlabLinks<'a>(&'a SlabAllocator);

impl Links for SlabLinks<'_> {
    #[inline]
    fn links(&self, node: u32) -> (&Word32, &Word32) {
        let descriptor = self.0.descriptor(SlabIndex(node - 1));
        (&descriptor.previous, &descriptor.next)
    }
}

impl SlabAllocator {
    /// Bytes of the allocator's own words.
    pub fn region_bytes(class_count: usize, slab_count: u32) -> usize {
        (Self::descriptors_offset(class_count) + slab_count as usize * size_of::<SlabDescriptor>()).next_multiple_of(64)
    }

    /// Where the word that says what a slab serves lies.
    pub(in crate::engine) fn slab_use_offset(class_count: usize, slab: u32) -> usize {
        Self::descriptors_offset(class_count)
            + slab as usize * size_of::<SlabDescriptor>()
            + std::mem::offset_of!(SlabDescriptor, purpose)
    }

    fn descriptors_offset(class_count: usize) -> usize {
        size_of::<AllocatorState>() + class_count * size_of::<ClassState>()
    }

    /// The allocator over its words.
    pub fn open(region: Region, area: SlabArea, classes: Arc<ClassTable>) -> SlabAllocator {
        SlabAllocator { region, descriptors_offset: Self::descriptors_offset(classes.count()), area, classes }
    }

    /// Puts every slab in the pool.
    pub fn format(&mut self) {
        self.region.zero(0, self.region.len_bytes());
        self.reset();
    }

    /// Puts every slab in the pool but those in quarantine, and forgets all else.
    pub fn reset(&mut self) {
        self.region.zero(0, self.descriptors_offset);
        for slab in self.area.slabs().rev() {
            if !self.slab_use(slab).is_some_and(SlabUse::is_quarantined) {
                self.put_in_pool(slab);
            }
        }
    }

    /// The slab classes.
    #[inline]
    pub fn classes(&self) -> &ClassTable {
        &self.classes
    }

    /// The memory of the slabs.
    #[inline]
    pub fn area(&self) -> &SlabArea {
        &self.area
    }

    fn state(&self) -> &AllocatorState {
        self.region.at(0)
    }

    #[inline]
    fn class_state(&self, class: ClassIndex) -> &ClassState {
        self.region.at(size_of::<AllocatorState>() + class.usize() * size_of::<ClassState>())
    }

    #[inline]
    fn descriptor(&self, slab: SlabIndex) -> &SlabDescriptor {
        self.region.at(self.descriptors_offset + slab.usize() * size_of::<SlabDescriptor>())
    }

    #[inline]
    fn bitmap(&self, slab: SlabIndex, class: Class) -> FreeBitmap<'_> {
        let words: &[AtomicU64] =
            self.area.region().slice(self.area.slab_offset(slab), word_count(class.slots_per_slab));
        FreeBitmap::new(words, class.slots_per_slab)
    }

    /// What a slab serves; `None` if its word makes no sense. Safe beside writers: whoever learns so that a slab serves
    /// a class sees what was prepared in it before.
    #[inline]
    pub fn slab_use(&self, slab: SlabIndex) -> Option<SlabUse> {
        SlabUse::from_word(self.descriptor(slab).purpose.load_acquire(), self.classes.count())
    }

    fn class_of(&self, slab: SlabIndex) -> ClassIndex {
        match self.slab_use(slab) {
            Some(SlabUse::Class(class)) => class,
            other => panic!("slab {} serves {other:?}, expected a class", slab.0),
        }
    }

    /// The slab, class and slot number of a location.
    ///
    /// # Panics
    ///
    /// If no slot can lie there.
    #[inline]
    pub fn slot_of(&self, location: Location) -> (SlabIndex, ClassIndex, u32) {
        self.find_slot(location).expect("a location is that of a slot")
    }

    /// As [`SlabAllocator::slot_of`]; `None` if no slot lies there.
    #[inline]
    pub fn find_slot(&self, location: Location) -> Option<(SlabIndex, ClassIndex, u32)> {
        let (slab, within) = self.area.locate(location.offset())?;
        let Some(SlabUse::Class(class_index)) = self.slab_use(slab) else { return None };
        let class = self.classes.get(class_index);
        let slot = within.checked_sub(class.first_slot_bytes)? / class.slot_bytes;
        (slot < class.slots_per_slab).then_some((slab, class_index, slot))
    }

    /// The location of a slot.
    #[inline]
    pub fn location(&self, slab: SlabIndex, class: ClassIndex, slot: u32) -> Location {
        let class = self.classes.get(class);
        Location::at(self.area.slab_offset(slab) + (class.first_slot_bytes + slot * class.slot_bytes) as usize)
    }

    /// Whether a slot is in use and starts exactly at this location.
    pub fn is_used_slot(&self, location: Location) -> bool {
        self.find_slot(location).is_some_and(|(slab, class, slot)| {
            self.location(slab, class, slot) == location && !self.bitmap(slab, self.classes.get(class)).is_free(slot)
        })
    }

    /// The class of a used slot.
    #[inline]
    pub fn class_at(&self, location: Location) -> ClassIndex {
        self.slot_of(location).1
    }

    /// Takes a free slot of a class from its fullest slab that has one; `None` if all slabs of the class are full.
    ///
    /// `stored_bytes` is what will be written to it. Whoever sees a byte written to the slot sees all that was changed
    /// before it was taken, in particular that the slot is no longer that of the entry which had it.
    #[inline]
    pub fn take_slot(&mut self, class: ClassIndex, stored_bytes: usize) -> Option<Location> {
        let state = self.class_state(class);
        let fullest = state.bin_mask.get().checked_ilog2()?;
        let slab = SlabIndex(state.bins[fullest as usize].get() - 1);
        let geometry = self.classes.get(class);
        let descriptor = self.descriptor(slab);
        let bitmap = self.bitmap(slab, geometry);
        let slot = bitmap.first_free(descriptor.free_hint.get()).expect("a slab in a bin has a free slot");
        bitmap.set(slot, false);
        descriptor.free_hint.set(slot / 64);
        descriptor.used.add(1);
        state.used.add(1);
        state.stored_bytes.add(stored_bytes as u64);
        self.update_bin(slab, class);
        self.update_compactable(class);
        fence(Ordering::Release);
        Some(self.location(slab, class, slot))
    }

    /// Frees a slot into which `stored_bytes` were written. The slab that holds it is returned if it is empty now: it
    /// still serves its class, until [`SlabAllocator::release`].
    #[inline]
    pub fn free_slot(&mut self, location: Location, stored_bytes: usize) -> Option<SlabIndex> {
        let (slab, class, slot) = self.slot_of(location);
        self.class_state(class).stored_bytes.sub(stored_bytes as u64);
        self.vacate(slab, class, slot);
        self.update_bin(slab, class);
        self.update_compactable(class);
        (self.descriptor(slab).used.get() == 0).then_some(slab)
    }

    fn vacate(&mut self, slab: SlabIndex, class: ClassIndex, slot: u32) {
        let descriptor = self.descriptor(slab);
        let bitmap = self.bitmap(slab, self.classes.get(class));
        assert!(!bitmap.is_free(slot), "slot {slot} of slab {} is freed twice", slab.0);
        bitmap.set(slot, true);
        descriptor.free_hint.set(descriptor.free_hint.get().min(slot / 64));
        descriptor.used.sub(1);
        self.class_state(class).used.sub(1);
    }

    /// Counts other bytes in a slot that stays in use.
    pub fn replace_stored(&mut self, class: ClassIndex, before: usize, after: usize) {
        let stored_bytes = &self.class_state(class).stored_bytes;
        stored_bytes.set(stored_bytes.get().wrapping_add(after as u64).wrapping_sub(before as u64));
    }

    /// Slabs in the pool.
    #[inline]
    pub fn pool_count(&self) -> u32 {
        self.state().pool_count.get()
    }

    /// Takes the first slab of the pool that suits; it serves nothing until it is assigned.
    pub fn take_from_pool(&mut self, suits: impl Fn(SlabIndex) -> bool) -> Option<SlabIndex> {
        let links = SlabLinks(self);
        let pool = List::headed(&self.state().pool_head);
        let mut slabs = pool.iter(&links, self.area.slab_count() as usize).map(|node| SlabIndex(node - 1));
        let slab = slabs.find(|&slab| suits(slab))?;
        pool.remove(&links, slab.0 + 1);
        self.state().pool_count.sub(1);
        Some(slab)
    }

    /// Makes a slab that was taken from the pool, and prepared, one of a class.
    pub fn assign(&mut self, slab: SlabIndex, class: ClassIndex) {
        // From here on the slab's bytes change.
        fence(Ordering::Release);
        self.bitmap(slab, self.classes.get(class)).set_all_free();
        // A process killed here must leave a slab of the pool, or one that is whole.
        let descriptor = self.descriptor(slab);
        descriptor.purpose.store_release(SlabUse::Class(class).word());
        descriptor.used.set(0);
        descriptor.bin.set(NO_BIN);
        descriptor.free_hint.set(0);
        self.class_state(class).slab_count.add(1);
        self.update_bin(slab, class);
        self.update_compactable(class);
    }

    /// Makes a slab that was taken from the pool one of buckets.
    pub fn assign_to_buckets(&mut self, slab: SlabIndex) {
        self.descriptor(slab).purpose.store_release(SlabUse::Buckets.word());
        // From here on the slab's bytes change.
        fence(Ordering::Release);
    }

    /// Returns a slab to the pool: an empty one of a class, or one that served otherwise and is not needed any more.
    pub fn release(&mut self, slab: SlabIndex) {
        if let Some(SlabUse::Class(class)) = self.slab_use(slab) {
            debug_assert_eq!(self.descriptor(slab).used.get(), 0);
            self.unlist(slab);
            self.class_state(class).slab_count.sub(1);
            self.put_in_pool(slab);
            self.update_compactable(class);
        } else {
            self.put_in_pool(slab);
        }
    }

    fn put_in_pool(&mut self, slab: SlabIndex) {
        let descriptor = self.descriptor(slab);
        descriptor.purpose.store_release(SlabUse::Pool.word());
        descriptor.used.set(0);
        descriptor.bin.set(NO_BIN);
        List::headed(&self.state().pool_head).push_front(&SlabLinks(self), slab.0 + 1);
        self.state().pool_count.add(1);
    }

    /// Sets a slab aside for readers, in the course of a reset. It stays so until it is released.
    pub fn quarantine(&mut self, slab: SlabIndex, purpose: SlabUse) {
        debug_assert!(purpose.is_quarantined());
        if !self.slab_use(slab).is_some_and(SlabUse::is_quarantined) {
            self.descriptor(slab).purpose.store_release(purpose.word());
        }
    }

    /// Takes a slab out of its bin, so that no slot is taken from it.
    pub fn unlist(&mut self, slab: SlabIndex) {
        let descriptor = self.descriptor(slab);
        let bin = descriptor.bin.get();
        if bin == NO_BIN {
            return;
        }
        let state = self.class_state(self.class_of(slab));
        let head = &state.bins[bin as usize];
        List::headed(head).remove(&SlabLinks(self), slab.0 + 1);
        if head.get() == 0 {
            state.bin_mask.set(state.bin_mask.get() & !(1 << bin));
        }
        descriptor.bin.set(NO_BIN);
    }

    /// Lists a slab in the bin of its occupancy; a full slab in none.
    #[inline]
    fn update_bin(&mut self, slab: SlabIndex, class: ClassIndex) {
        let descriptor = self.descriptor(slab);
        let bin = Self::bin_for(descriptor.used.get(), self.classes.get(class).slots_per_slab);
        if bin == descriptor.bin.get() {
            return;
        }
        self.unlist(slab);
        if bin == NO_BIN {
            return;
        }
        let state = self.class_state(class);
        List::headed(&state.bins[bin as usize]).push_front(&SlabLinks(self), slab.0 + 1);
        self.descriptor(slab).bin.set(bin);
        state.bin_mask.set(state.bin_mask.get() | 1 << bin);
    }

    fn bin_for(used: u32, slots: u32) -> u32 {
        if used >= slots { NO_BIN } else { used * BIN_COUNT as u32 / slots }
    }

    /// Free slots of a class, over all its slabs.
    #[inline]
    pub fn free_slots(&self, class: ClassIndex) -> u64 {
        let state = self.class_state(class);
        let slots = u64::from(self.classes.get(class).slots_per_slab);
        (u64::from(state.slab_count.get()) * slots).saturating_sub(state.used.get())
    }

    /// Notes whether the class has a slab's worth of free slots. Directory records cannot move.
    #[inline]
    fn update_compactable(&mut self, class: ClassIndex) {
        if class == ClassIndex::DIRECTORY {
            return;
        }
        let word = &self.state().compactable[class.usize() / 64];
        let bit = 1 << (class.usize() % 64);
        let before = word.get();
        let slots = u64::from(self.classes.get(class).slots_per_slab);
        let after = if self.free_slots(class) >= slots { before | bit } else { before & !bit };
        if after != before {
            word.set(after);
        }
    }

    /// Whether some class has a slab's worth of free slots.
    #[inline]
    pub fn is_compactable(&self) -> bool {
        self.state().compactable.iter().any(|word| word.get() != 0)
    }

    /// The classes that have a slab's worth of free slots.
    pub fn compactable_classes(&self) -> impl Iterator<Item = ClassIndex> + '_ {
        let words = &self.state().compactable;
        let set = move |class: &ClassIndex| words[class.usize() / 64].get() >> (class.usize() % 64) & 1 == 1;
        (0..self.classes.count() as u32).map(ClassIndex).filter(set)
    }

    /// Slots in use in a slab of a class.
    #[inline]
    pub fn used_in(&self, slab: SlabIndex) -> u32 {
        self.descriptor(slab).used.get()
    }

    /// Slabs of a class, and slots in use in them.
    #[inline]
    pub fn class_counts(&self, class: ClassIndex) -> (u32, u64) {
        let state = self.class_state(class);
        (state.slab_count.get(), state.used.get())
    }

    /// Bytes stored in the slots of a class.
    pub fn stored_bytes(&self, class: ClassIndex) -> u64 {
        self.class_state(class).stored_bytes.get()
    }

    /// A slab of the lowest occupancy, of those that are listed and not `excluded`.
    pub fn emptiest(&self, class: ClassIndex, excluded: &[SlabIndex]) -> Option<SlabIndex> {
        let state = self.class_state(class);
        let links = SlabLinks(self);
        let bins = (0..BIN_COUNT).filter(|bin| state.bin_mask.get() >> bin & 1 == 1);
        bins.into_iter().find_map(|bin| {
            List::headed(&state.bins[bin])
                .iter(&links, LOOK_AT + excluded.len())
                .map(|node| SlabIndex(node - 1))
                .filter(|slab| !excluded.contains(slab))
                .min_by_key(|&slab| self.used_in(slab))
        })
    }

    /// The first used slot of a slab at or after `from`.
    #[inline]
    pub fn next_used(&self, slab: SlabIndex, class: ClassIndex, from: u32) -> Option<Location> {
        let slot = self.bitmap(slab, self.classes.get(class)).next_used(from)?;
        Some(self.location(slab, class, slot))
    }

    /// All used slots of a slab of a class.
    pub fn used_slots(&self, slab: SlabIndex, class: ClassIndex) -> impl Iterator<Item = Location> + '_ {
        let bitmap = self.bitmap(slab, self.classes.get(class));
        let slots = std::iter::successors(bitmap.next_used(0), move |&slot| {
            self.bitmap(slab, self.classes.get(class)).next_used(slot + 1)
        });
        slots.map(move |slot| self.location(slab, class, slot))
    }

    /// Moves a slot's bytes to another slot of its class, outside of its slab, which must be unlisted. `None` if there
    /// is no room. What is stored does not change.
    pub fn move_slot(&mut self, from: Location) -> Option<Location> {
        let (slab, class, slot) = self.slot_of(from);
        debug_assert_eq!(self.descriptor(slab).bin.get(), NO_BIN);
        let to = self.take_slot(class, 0)?;
        self.area.region().copy_bytes(from.offset(), to.offset(), self.classes.get(class).slot_bytes as usize);
        self.vacate(slab, class, slot);
        Some(to)
    }

    /// After slots were moved out of an unlisted slab: lists it again, or releases it if it is empty; `true` then.
    pub fn rebin_or_release(&mut self, slab: SlabIndex) -> bool {
        let class = self.class_of(slab);
        let is_empty = self.descriptor(slab).used.get() == 0;
        if is_empty {
            self.release(slab);
        } else {
            self.update_bin(slab, class);
        }
        self.update_compactable(class);
        is_empty
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::engine::findings::Findings;

    const SLAB_BYTES: u32 = 4096;
    const SLABS: u32 = 12;

    fn allocator() -> SlabAllocator {
        let classes = Arc::new(ClassTable::new(&[64, 128, 504], SLAB_BYTES));
        let area = SlabArea::new(Region::leaked((SLABS * SLAB_BYTES) as usize), SLAB_BYTES);
        let region = Region::leaked(SlabAllocator::region_bytes(classes.count(), SLABS));
        let mut slabs = SlabAllocator::open(region, area, classes);
        slabs.format();
        slabs
    }

    fn validate(slabs: &SlabAllocator) {
        let mut findings = Findings::default();
        slabs.validate(&mut findings);
        findings.into_result().unwrap();
    }

    #[test]
    fn a_link_that_leads_back_to_another_slab_is_reported() {
        for is_used in [false, true] {
            let mut slabs = allocator();
            if is_used {
                take(&mut slabs, ClassIndex(1), 1).unwrap();
            }
            let state = slabs.class_state(ClassIndex(1));
            let head = if is_used { state.bins[0].get() } else { slabs.state().pool_head.get() };
            validate(&slabs);
            slabs.descriptor(SlabIndex(head - 1)).previous.set(3);
            let mut findings = Findings::default();
            slabs.validate(&mut findings);
            assert!(findings.into_result().is_err());
        }
    }

    /// Takes a slot, and a slab for it if it must.
    fn take(slabs: &mut SlabAllocator, class: ClassIndex, bytes: usize) -> Option<Location> {
        slabs.take_slot(class, bytes).or_else(|| {
            let slab = slabs.take_from_pool(|_| true)?;
            slabs.assign(slab, class);
            slabs.take_slot(class, bytes)
        })
    }

    fn free(slabs: &mut SlabAllocator, slot: Location, bytes: usize) {
        if let Some(empty) = slabs.free_slot(slot, bytes) {
            slabs.release(empty);
        }
    }

    proptest! {
        #[test]
        fn slots_in_use_never_overlap_and_every_slab_comes_back(
            steps in prop::collection::vec((1u32..4, 0usize..500, any::<bool>()), 1..600)
        ) {
            let mut slabs = allocator();
            let mut used: HashMap<Location, (ClassIndex, usize)> = HashMap::new();
            let mut order = Vec::new();
            for (class, number, grow) in steps {
                let class = ClassIndex(class);
                if grow {
                    if let Some(slot) = take(&mut slabs, class, number) {
                        prop_assert!(slabs.is_used_slot(slot) && slabs.class_at(slot) == class);
                        let end = slot.offset() + slabs.classes().get(class).slot_bytes as usize;
                        for (other, (class, _)) in &used {
                            let other_end = other.offset() + slabs.classes().get(*class).slot_bytes as usize;
                            prop_assert!(end <= other.offset() || other_end <= slot.offset());
                        }
                        used.insert(slot, (class, number));
                        order.push(slot);
                    } else {
                        prop_assert_eq!((slabs.pool_count(), slabs.free_slots(class)), (0, 0));
                    }
                } else if !order.is_empty() {
                    let slot = order.swap_remove(number % order.len());
                    let (_, bytes) = used.remove(&slot).unwrap();
                    free(&mut slabs, slot, bytes);
                    prop_assert!(!slabs.is_used_slot(slot));
                }
                validate(&slabs);
            }
            let stored: u64 = (1..4).map(|class| slabs.stored_bytes(ClassIndex(class))).sum();
            prop_assert_eq!(stored, used.values().map(|&(_, bytes)| bytes as u64).sum::<u64>());
            used.into_iter().for_each(|(slot, (_, bytes))| free(&mut slabs, slot, bytes));
            prop_assert_eq!(slabs.pool_count(), SLABS);
        }
    }

    #[test]
    fn slots_come_from_the_fullest_slab_and_compaction_empties_the_emptiest() {
        let mut slabs = allocator();
        let class = ClassIndex(3);
        let per_slab = slabs.classes().get(class).slots_per_slab as usize;
        let slots: Vec<Location> = (0..3 * per_slab).map(|_| take(&mut slabs, class, 1).unwrap()).collect();
        // One slot of the first slab stays, all but two of the second; the third is full.
        slots[1..per_slab].iter().for_each(|&slot| free(&mut slabs, slot, 1));
        slots[per_slab..per_slab + 2].iter().for_each(|&slot| free(&mut slabs, slot, 1));
        let slab_of = |slabs: &SlabAllocator, slot| slabs.slot_of(slot).0;
        assert_eq!(slabs.emptiest(class, &[]), Some(slab_of(&slabs, slots[0])));
        assert_eq!(slabs.compactable_classes().collect::<Vec<_>>(), [class]);
        let emptiest = slab_of(&slabs, slots[0]);
        slabs.unlist(emptiest);
        let moved = slabs.move_slot(slots[0]).unwrap();
        assert_eq!(slab_of(&slabs, moved), slab_of(&slabs, slots[per_slab + 2]));
        assert!(slabs.rebin_or_release(emptiest), "nothing is left in it");
        assert!(!slabs.is_compactable());
        validate(&slabs);
    }

    #[test]
    fn a_quarantined_slab_outlives_a_reset_until_it_is_released() {
        let mut slabs = allocator();
        let slot = take(&mut slabs, ClassIndex(1), 8).unwrap();
        let (slab, _, _) = slabs.slot_of(slot);
        slabs.quarantine(slab, SlabUse::QuarantinedValues);
        slabs.reset();
        assert_eq!(slabs.pool_count(), SLABS - 1);
        validate(&slabs);
        slabs.release(slab);
        assert_eq!(slabs.pool_count(), SLABS);
        validate(&slabs);
    }

    #[test]
    fn made_up_words_are_reported() {
        for damage in 0..40u32 {
            let mut slabs = allocator();
            (0..30).for_each(|number| _ = take(&mut slabs, ClassIndex(1 + number % 3), 8));
            let words: &[Word32] = slabs.region.slice(0, slabs.region.len_bytes() / 4);
            let word = &words[(damage as usize * 7919) % words.len()];
            word.set(word.get() ^ 1 << (damage % 32));
            let mut findings = Findings::default();
            slabs.validate(&mut findings);
        }
    }
}
