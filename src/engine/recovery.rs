//! Changes between two marks, and what happens when the second one is missing.
//!
//! `sequence` is odd from the first write of a change to the last. A change cannot fail half-way except by a defect, a
//! damaged region or a killed process; whoever takes the lock and finds the number odd resets the partition: its entries
//! are lost, never wrong.
//!
//! Readers that have an entry pinned hold no lock and go on reading over a reset. So the slabs of what they read, and
//! those of the records that hold their pins, keep their bytes: they are in *quarantine*, belong to no class and are not
//! in the pool. Each returns to the pool once nothing pinned needs it, when room is wanted.
//!
//! Locking: the exclusive lock. Costs: a reset looks at every slab, every record and every bucket; the search for an end
//! of the quarantine at the quarantined slabs, and not again before the cache has been used some more.

use std::collections::HashSet;
use std::sync::atomic::{Ordering, fence};

use super::evict::Eviction;
use super::ids::{EntryIndex, SlabIndex};
use super::partition::Partition;
use super::slab::slab_use::SlabUse;

/// Insertions and uses between two fruitless searches for an end of the quarantine.
const TICKS_BETWEEN_SEARCHES: u32 = 64;

impl Partition {
    /// Whether a change was begun and not finished, or the partition was found damaged.
    #[inline]
    pub fn is_damaged(&self) -> bool {
        self.state().sequence.get() % 2 == 1
    }

    /// Runs a change between its two marks. A panic leaves the first mark standing, on purpose.
    #[inline]
    pub(super) fn mutate<R>(&mut self, change: impl FnOnce(&mut Self) -> R) -> R {
        let sequence = &self.state().sequence;
        debug_assert!(sequence.get() % 2 == 0, "changes do not nest");
        sequence.add(1);
        fence(Ordering::Release);
        let result = change(self);
        let sequence = &self.state().sequence;
        sequence.store_release(sequence.get().wrapping_add(1));
        result
    }

    /// Empties a partition that a change has left half-way. Generations go on rising; counters go on counting. Slabs in
    /// which readers have entries pinned are kept as they are until the pins are gone.
    pub fn reset(&mut self) {
        self.quarantine_pinned();
        for slab in self.slabs.area().slabs() {
            // A slab has the directory's class only once its records are prepared.
            if self.slabs.slab_use(slab) == Some(SlabUse::RECORDS) {
                self.directory.retire_slab(slab);
            }
        }
        self.directory.mend_generations();
        self.table.format();
        self.slabs.reset();
        self.order.format();
        self.inflight.reset();
        let quarantined = self.quarantined().count() as u32;
        let state = self.state();
        for word in [&state.len, &state.zombies, &state.continuations, &state.reserved] {
            word.set(0);
        }
        for word in [&state.quarantine_tick, &state.doomed, &state.expiring, &state.sweep_from] {
            word.set(0);
        }
        state.quarantined.set(quarantined);
        state.live_bytes.set(0);
        self.counters.resets().add(1);
        // Only now, when nothing leads to a record any more: a reader that sees the new epoch finds none of the old.
        self.table.begin_placement_epoch();
        // Last: whoever is killed on the way leaves the mark for the next.
        let sequence = &self.state().sequence;
        sequence.store_release((sequence.get() | 1).wrapping_add(1));
    }

    fn quarantined(&self) -> impl Iterator<Item = SlabIndex> + '_ {
        let is_quarantined = |&slab: &SlabIndex| self.slabs.slab_use(slab).is_some_and(SlabUse::is_quarantined);
        self.slabs.area().slabs().filter(is_quarantined)
    }

    /// Pinned records in the slabs of this use. In the course of a reset nothing else is to be trusted.
    fn pinned_records(&self, purpose: SlabUse) -> impl Iterator<Item = EntryIndex> + '_ {
        let slabs = self.slabs.area().slabs().filter(move |&slab| self.slabs.slab_use(slab) == Some(purpose));
        let records = slabs.flat_map(|slab| self.directory.records_of(slab));
        records.filter(|&entry| self.directory.record(entry).is_live() && self.directory.record(entry).pins() > 0)
    }

    /// The slabs that whoever has pinned an entry may look at: those of its record and of its slots, continuations
    /// included. Nothing that is read is trusted; made-up numbers lead to slabs of the partition or to none.
    fn slabs_of_pinned(&self, entry: EntryIndex, mut visit: impl FnMut(SlabIndex, SlabUse)) {
        let area = *self.slabs.area();
        let slab_at = |offset: usize| area.locate(offset).map(|(slab, _)| slab);
        let mut note = |offset: usize, purpose: SlabUse| {
            if let Some(slab) = slab_at(offset) {
                visit(slab, purpose);
            }
        };
        note(entry.offset(), SlabUse::QuarantinedRecords);
        note(self.directory.record(entry).location().offset(), SlabUse::QuarantinedValues);
        for part in self.payload.continuations_unchecked(entry) {
            note(part.offset(), SlabUse::QuarantinedRecords);
            if let Some(record) = self.directory.records().get_checked(part) {
                note(record.location().offset(), SlabUse::QuarantinedValues);
            }
        }
    }

    /// Sets the slabs of pinned entries aside.
    fn quarantine_pinned(&mut self) {
        // Those set aside before count, too: a reset may have been killed after it had set aside a slab of records, and
        // before the slabs of all their values.
        let mut pinned: Vec<EntryIndex> = self.pinned_records(SlabUse::RECORDS).collect();
        pinned.extend(self.pinned_records(SlabUse::QuarantinedRecords));
        for entry in pinned {
            // The last pin must find nothing to do.
            self.directory.record(entry).clear_flags(super::entry::record::Flags::ZOMBIE);
            let mut slabs = Vec::new();
            self.slabs_of_pinned(entry, |slab, purpose| slabs.push((slab, purpose)));
            for (slab, purpose) in slabs {
                // A slab of records stays one, whatever a made-up number takes it for.
                let is_records = self.slabs.slab_use(slab) == Some(SlabUse::RECORDS);
                if is_records {
                    self.directory.retire_slab(slab);
                }
                self.slabs.quarantine(slab, if is_records { SlabUse::QuarantinedRecords } else { purpose });
            }
        }
    }

    /// Slabs in quarantine, of values and of records.
    pub(super) fn quarantined_slabs(&self) -> (usize, usize) {
        let is_of_records = |&slab: &SlabIndex| self.slabs.slab_use(slab) == Some(SlabUse::QuarantinedRecords);
        let records = self.quarantined().filter(is_of_records).count();
        (self.quarantined().count() - records, records)
    }

    /// Pinned entries in quarantine.
    pub(super) fn quarantined_pins(&self) -> u32 {
        match self.state().quarantined.get() {
            0 => 0,
            _ => self.pinned_records(SlabUse::QuarantinedRecords).count() as u32,
        }
    }

    /// As [`Partition::end_quarantine`], unless that was done in vain not long ago.
    pub(super) fn try_to_end_quarantine(&mut self) -> bool {
        let last = self.state().quarantine_tick.get();
        let is_due = last == 0 || self.order.tick().wrapping_sub(last) >= TICKS_BETWEEN_SEARCHES;
        is_due && self.end_quarantine()
    }

    /// Returns those slabs in quarantine to the pool that nothing pinned needs any more; `false` if there is none. Part
    /// of a change.
    pub(super) fn end_quarantine(&mut self) -> bool {
        if self.state().quarantined.get() == 0 {
            return false;
        }
        let mut needed = HashSet::new();
        for entry in self.pinned_records(SlabUse::QuarantinedRecords) {
            self.slabs_of_pinned(entry, |slab, _| _ = needed.insert(slab));
        }
        let free: Vec<SlabIndex> = self.quarantined().filter(|slab| !needed.contains(slab)).collect();
        for &slab in &free {
            self.slabs.release(slab);
        }
        let state = self.state();
        state.quarantined.sub(free.len() as u32);
        state.quarantine_tick.set(self.order.tick().max(1));
        !free.is_empty()
    }
}
