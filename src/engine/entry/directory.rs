//! The directory: records opened and closed, their generations, and walks over them.
//!
//! ```text
//! region  ┌───────────────────┐
//!         │ generation base…  │   one word for each slab
//!         └───────────────────┘
//! ```
//!
//! Records are slots of class 0, so their memory comes from the pool and returns to it. They never move: an
//! [`EntryIndex`] is stable for the life of its entry, which is what lets a cursor walk the directory while others
//! change the cache.
//!
//! Generations: odd while the record is live, even while it is free, only ever rising. When a slab leaves the directory,
//! its base keeps a number above all generations in it, where the records start when the slab serves the directory
//! again. A record whose generations are used up (2^31 lives) is retired for good, and so is a slab whose base is.
//!
//! Locking: the partition's exclusive lock to change, any mode to look; [`Directory::is_record`] may be asked without.
//! Not here: taking and freeing the slots (`reclaim`), what a record means (`record`).

use super::record::{Flags, LAST_GENERATION, Record, Records};
use crate::engine::findings::Findings;
use crate::engine::ids::{ClassIndex, EntryIndex, Location, SlabIndex};
use crate::engine::memory::region::Region;
use crate::engine::memory::words::Word32;
use crate::engine::slab::allocator::SlabAllocator;
use crate::engine::slab::area::SlabArea;
use crate::engine::slab::class::Class;
use crate::engine::slab::slab_use::SlabUse;

/// The directory of one partition.
#[derive(Clone, Debug)]
pub struct Directory {
    region: Region,
    area: SlabArea,
    class: Class,
    records: Records,
}

impl Directory {
    /// Bytes of the directory's own words.
    pub fn region_bytes(slab_count: u32) -> usize {
        (slab_count as usize * size_of::<Word32>()).next_multiple_of(64)
    }

    /// The directory over its words; `class` is that of records.
    pub fn open(region: Region, area: SlabArea, class: Class) -> Directory {
        Directory { region, area, class, records: Records::new(area) }
    }

    /// Starts with no record.
    pub fn format(&mut self) {
        self.region.zero(0, self.region.len_bytes());
    }

    /// The records by their index.
    #[inline(always)]
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// One record.
    ///
    /// # Panics
    ///
    /// If the index lies outside of the slabs.
    #[inline(always)]
    pub fn record(&self, entry: EntryIndex) -> &Record {
        self.records.get(entry)
    }

    fn generation_base(&self, slab: SlabIndex) -> &Word32 {
        self.region.at(slab.usize() * size_of::<Word32>())
    }

    /// Starts the life of the record in a slot that was just taken from class 0, with so many pins.
    pub fn open_record(&mut self, slot: Location, flags: Flags, key_len: usize, pins: u32, tick: u32) -> EntryIndex {
        let entry = EntryIndex::in_slot(slot);
        let record = self.record(entry);
        assert!(!record.is_live() && record.generation() < LAST_GENERATION, "record {} is in use", entry.0);
        record.open(flags, key_len, pins, tick);
        entry
    }

    /// Says whether an entry expires; while it is unstable.
    pub fn set_expires(&mut self, entry: EntryIndex, expires: bool) {
        self.record(entry).set_expires(expires);
    }

    /// Ends a record's life. Returns its slot, to be freed; `None` if its generations are used up.
    pub fn close_record(&mut self, entry: EntryIndex) -> Option<Location> {
        let record = self.record(entry);
        assert!(record.is_live(), "record {} is not in use", entry.0);
        record.close();
        (record.generation() != LAST_GENERATION).then(|| entry.slot())
    }

    /// The generation that records of a slab start from, of nobody's life: even, also where the region is damaged.
    fn first_generation(&self, slab: SlabIndex) -> u32 {
        self.generation_base(slab).get().next_multiple_of(2)
    }

    /// Whether records in this slab can still be given a new generation.
    pub fn can_serve(&self, slab: SlabIndex) -> bool {
        self.generation_base(slab).get() < LAST_GENERATION
    }

    /// Prepares the records of a slab that joins the directory; before it is given class 0.
    pub fn prepare_slab(&mut self, slab: SlabIndex) {
        let base = self.first_generation(slab);
        self.records_of(slab).for_each(|entry| self.record(entry).prepare(base));
    }

    /// Remembers the generations of a slab that leaves the directory; before its class changes.
    pub fn retire_slab(&mut self, slab: SlabIndex) {
        let highest = self.records_of(slab).map(|entry| self.record(entry).generation()).max();
        let word = self.generation_base(slab);
        let base = word.get().max(highest.unwrap_or(0));
        // Up to the next even number; from the last one no record is opened.
        word.set(base.saturating_add(base % 2).min(LAST_GENERATION));
    }

    /// The records of a slab of the directory, in use or not.
    pub fn records_of(&self, slab: SlabIndex) -> impl Iterator<Item = EntryIndex> + use<> {
        let first = self.area.slab_offset(slab) + self.class.first_slot_bytes as usize;
        let EntryIndex(first) = EntryIndex::in_slot(Location::at(first));
        (0..self.class.slots_per_slab).map(move |slot| EntryIndex(first + slot))
    }

    /// The first entry at or after `from` in the order of the directory.
    ///
    /// Cost: a slab that holds no records costs one load; within a slab the free bitmap is searched.
    pub fn next_entry(&self, slabs: &SlabAllocator, from: EntryIndex) -> Option<EntryIndex> {
        let (SlabIndex(first_slab), within) = self.area.locate(from.offset())?;
        let mut slot = within.saturating_sub(self.class.first_slot_bytes) / self.class.slot_bytes;
        for slab in (first_slab..self.area.slab_count()).map(SlabIndex) {
            if slabs.slab_use(slab) == Some(SlabUse::RECORDS) {
                while let Some(used) = slabs.next_used(slab, ClassIndex::DIRECTORY, slot) {
                    let entry = EntryIndex::in_slot(used);
                    if self.record(entry).is_entry() {
                        return Some(entry);
                    }
                    slot = slabs.slot_of(used).2 + 1;
                }
            }
            slot = 0;
        }
        None
    }

    /// Whether `entry` names a record at all: an id may be old, and its slab may hold values now. Without a lock, too:
    /// whoever is told so sees no bytes from before the slab was prepared for records.
    #[inline]
    pub fn is_record(&self, slabs: &SlabAllocator, entry: EntryIndex) -> bool {
        self.area.locate(entry.offset()).is_some_and(|(slab, within)| {
            slabs.slab_use(slab) == Some(SlabUse::RECORDS)
                && within >= self.class.first_slot_bytes
                && (within - self.class.first_slot_bytes) / self.class.slot_bytes < self.class.slots_per_slab
        })
    }

    /// Makes what slabs remember of a damaged region generations again. One that no record can have ended with becomes one
    /// far beyond those that records do end with, so that no old id comes to life and the slab still serves.
    pub fn mend_generations(&mut self) {
        const FAR_BEYOND: u32 = LAST_GENERATION / 4 * 2;
        for slab in self.area.slabs() {
            let word = self.generation_base(slab);
            match word.get() {
                base if base > LAST_GENERATION => word.set(FAR_BEYOND),
                _ => word.set(self.first_generation(slab)),
            }
        }
    }

    /// Checks the generations that slabs remember.
    pub fn validate(&self, findings: &mut Findings) {
        for slab in self.area.slabs() {
            let base = self.generation_base(slab).get();
            if base % 2 != 0 || base > LAST_GENERATION {
                findings.add(|| format!("slab {} remembers generation {base}, which no record has ended with", slab.0));
            }
        }
    }

    /// The live records of all slabs that serve the directory, entries or not.
    pub fn live_records<'a>(&'a self, slabs: &'a SlabAllocator) -> impl Iterator<Item = EntryIndex> + 'a {
        let mine = self.area.slabs().filter(|&slab| slabs.slab_use(slab) == Some(SlabUse::RECORDS));
        let used = mine.flat_map(|slab| slabs.used_slots(slab, ClassIndex::DIRECTORY)).map(EntryIndex::in_slot);
        used.filter(|&entry| self.record(entry).is_live())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engine::slab::class::ClassTable;

    const SLAB_BYTES: u32 = 4096;
    const SLABS: u32 = 8;

    fn directory() -> (SlabAllocator, Directory) {
        let classes = Arc::new(ClassTable::new(&[64, 256], SLAB_BYTES));
        let area = SlabArea::new(Region::leaked((SLABS * SLAB_BYTES) as usize), SLAB_BYTES);
        let class = classes.get(ClassIndex::DIRECTORY);
        let region = Region::leaked(SlabAllocator::region_bytes(classes.count(), SLABS));
        let mut slabs = SlabAllocator::open(region, area, classes);
        slabs.format();
        (slabs, Directory::open(Region::leaked(Directory::region_bytes(SLABS)), area, class))
    }

    fn grow(slabs: &mut SlabAllocator, directory: &mut Directory) -> SlabIndex {
        let slab = slabs.take_from_pool(|slab| directory.can_serve(slab)).unwrap();
        directory.prepare_slab(slab);
        slabs.assign(slab, ClassIndex::DIRECTORY);
        slab
    }

    fn open(slabs: &mut SlabAllocator, directory: &mut Directory, flags: Flags) -> EntryIndex {
        let slot = slabs.take_slot(ClassIndex::DIRECTORY, 0).unwrap();
        directory.open_record(slot, flags, 4, 0, 0)
    }

    #[test]
    fn generations_rise_also_while_the_slab_serves_something_else() {
        let (mut slabs, mut directory) = directory();
        let mut last = 0;
        for round in 0..5 {
            let slab = grow(&mut slabs, &mut directory);
            for _ in 0..3 {
                let entry = open(&mut slabs, &mut directory, Flags::NONE);
                assert!(directory.record(entry).generation() > last && directory.record(entry).is_live());
                last = directory.record(entry).generation();
                let slot = directory.close_record(entry).unwrap();
                slabs.free_slot(slot, 0);
            }
            directory.retire_slab(slab);
            slabs.release(slab);
            // Other bytes, as of values.
            slabs.area().region().write_bytes(slabs.area().slab_offset(slab), &[0xff; SLAB_BYTES as usize]);
            assert!(!directory.is_record(&slabs, directory.records_of(slab).next().unwrap()), "round {round}");
        }
    }

    #[test]
    fn a_record_in_bytes_of_a_value_starts_without_pins() {
        let (mut slabs, mut directory) = directory();
        for slab in slabs.area().slabs() {
            slabs.area().region().write_bytes(slabs.area().slab_offset(slab), &[0xff; SLAB_BYTES as usize]);
        }
        let slab = grow(&mut slabs, &mut directory);
        assert!(directory.records_of(slab).all(|entry| directory.record(entry).pins() == 0));
        assert!(directory.records_of(slab).all(|entry| !directory.record(entry).is_live()));
    }

    #[test]
    fn a_damaged_generation_is_reported_and_makes_no_record_that_is_in_use() {
        let (mut slabs, mut directory) = directory();
        let report = |directory: &Directory| {
            let mut findings = Findings::default();
            directory.validate(&mut findings);
            findings.into_result().is_err()
        };
        assert!(!report(&directory));
        slabs.area().slabs().for_each(|slab| directory.generation_base(slab).set(0x5555_5555));
        assert!(report(&directory));
        let slab = grow(&mut slabs, &mut directory);
        assert!(directory.records_of(slab).all(|entry| !directory.record(entry).is_live()));
        directory.generation_base(slab).set(u32::MAX);
        assert!(report(&directory) && !directory.can_serve(slab));
        directory.mend_generations();
        assert!(!report(&directory) && directory.can_serve(slab));
        let entry = open(&mut slabs, &mut directory, Flags::NONE);
        assert!(directory.record(entry).is_live());
    }

    #[test]
    fn a_slab_whose_generations_are_used_up_serves_the_directory_no_more() {
        let (mut slabs, mut directory) = directory();
        let slab = grow(&mut slabs, &mut directory);
        let entry = open(&mut slabs, &mut directory, Flags::NONE);
        directory.record(entry).stamp.set(u64::from(LAST_GENERATION) - 1);
        assert_eq!(directory.close_record(entry), None, "the record is retired");
        directory.retire_slab(slab);
        assert!(!directory.can_serve(slab));
    }

    #[test]
    fn a_walk_meets_entries_once_and_nothing_else() {
        let (mut slabs, mut directory) = directory();
        let mut entries = Vec::new();
        for number in 0..300 {
            if slabs.free_slots(ClassIndex::DIRECTORY) == 0 {
                grow(&mut slabs, &mut directory);
            }
            let flags = if number % 3 == 0 { Flags::CONTINUATION } else { Flags::NONE };
            let entry = open(&mut slabs, &mut directory, flags);
            if number % 3 != 0 {
                entries.push(entry);
            }
        }
        for closed in entries.extract_if(.., |entry| entry.0 % 5 == 0) {
            let slot = directory.close_record(closed).unwrap();
            slabs.free_slot(slot, 0);
        }
        let after = |entry: EntryIndex| directory.next_entry(&slabs, EntryIndex(entry.0 + 1));
        let walked: Vec<_> =
            std::iter::successors(directory.next_entry(&slabs, EntryIndex::NONE), |&entry| after(entry)).collect();
        entries.sort();
        assert_eq!(walked, entries);
    }
}
