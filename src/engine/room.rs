//! Making room: pool, compaction, eviction, in this order.
//!
//! A slot is taken from the class's own slabs; else the class grows by a slab of the pool; else, where the free
//! slots of some class add up to a slab, that class's emptiest slab is emptied into its others and goes to the
//! pool; else the least recently used entry is evicted, whatever its class, and all is tried again. So the
//! order of eviction depends on recency, and no class can hold memory that it does not use:
//! free slots of a class never add up to a slab while another class wants one (pins aside). Directory records cannot
//! move; a directory slab with few entries left is emptied by evicting these.
//!
//! Cost of one call: at most one slab of moves for each slab that is gained, and as many evictions as it takes
//! until some class has a slab's worth of free slots.
//!
//! Moves: a slot's bytes are copied, and the one word of its record that says where it lies is rewritten. Entries that
//! a reader has pinned stay where they are. Both places hold the entry until the slab that it left begins a new
//! placement epoch, so a reader without a lock may have read either.
//!
//! Locking: everything here runs under the partition's exclusive lock.

use super::directory::flag;
use super::evicted::Sink;
use super::ids::{ClassIndex, EntryIndex, Location, SlabIndex};
use super::layout::{BIN_COUNT, SlabDescriptor};
use super::partition::Partition;

/// How much work one call of `compact` may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactBudget {
    bytes: u64,
}

impl CompactBudget {
    /// As much as there is to gain.
    pub fn unlimited() -> Self {
        CompactBudget { bytes: u64::MAX }
    }

    /// Stop once this many bytes of slots were moved.
    pub fn bytes(bytes: u64) -> Self {
        CompactBudget { bytes }
    }

    /// What is left after so many bytes.
    pub(crate) fn less(self, bytes: u64) -> Self {
        CompactBudget { bytes: self.bytes.saturating_sub(bytes) }
    }
}

/// What compaction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompactReport {
    /// Slots that were moved.
    pub entries_moved: u64,
    /// Bytes of those slots.
    pub bytes_moved: u64,
    /// Slabs that were emptied and returned to the pool.
    pub slabs_released: u64,
    /// Bytes of those slabs.
    pub bytes_gained: u64,
    /// Slots that stayed because a reader has them pinned.
    pub skipped_pinned: u64,
}

impl std::ops::AddAssign for CompactReport {
    fn add_assign(&mut self, other: Self) {
        self.entries_moved += other.entries_moved;
        self.bytes_moved += other.bytes_moved;
        self.slabs_released += other.slabs_released;
        self.bytes_gained += other.bytes_gained;
        self.skipped_pinned += other.skipped_pinned;
    }
}

/// Slabs that compaction could not empty because readers have entries in them pinned.
struct Pinned {
    slabs: Vec<SlabIndex>,
    /// How many of them to put up with before giving up.
    limit: usize,
}

impl Pinned {
    fn at_most(limit: usize) -> Self {
        Pinned { slabs: Vec::new(), limit }
    }
}

impl Partition {
    /// A slot of a class, whatever has to make way for it; `None` if all that could is pinned.
    pub(super) fn obtain(
        &mut self,
        class: ClassIndex,
        stored_bytes: usize,
        evicted: &mut Sink<'_>,
    ) -> Option<Location> {
        loop {
            if let Some(location) = self.take_slot(class, stored_bytes) {
                return Some(location);
            }
            let gained = self.grow_class(class)
                || self.end_quarantine()
                || self.compact_one_slab()
                || self.evict_stragglers(evicted)
                || self.evict_one(evicted);
            if !gained {
                return None;
            }
        }
    }

    /// Evicts the next victim; `false` if every entry is pinned, or nothing may be evicted.
    pub(super) fn evict_one(&mut self, evicted: &mut Sink<'_>) -> bool {
        if matches!(evicted, Sink::Refuse) {
            return false;
        }
        let Some(victim) = self.victim() else { return false };
        if let Sink::Clean(clean) = evicted {
            if self.record(victim).has(flag::DIRTY) {
                clean.dirty = Some(victim);
                return false;
            }
        }
        self.evict(victim, evicted);
        true
    }

    /// Empties a directory slab that holds few entries, where the directory has a slab's worth of free records.
    ///
    /// Records cannot move, so a few entries that stay in use would keep slabs from other classes for ever. They are
    /// evicted out of turn, if they are at most a sixteenth of a slab of records, or, while less than half of the
    /// directory is in use, half of one. `false` if there is no such slab.
    fn evict_stragglers(&mut self, evicted: &mut Sink<'_>) -> bool {
        let slots = self.layout.classes.get(ClassIndex::DIRECTORY).slots_per_slab;
        if matches!(evicted, Sink::Refuse) || self.free_slots(ClassIndex::DIRECTORY) < u64::from(slots) {
            return false;
        }
        let Some(slab) = self.emptiest_slab(ClassIndex::DIRECTORY, &[]) else { return false };
        let used = self.descriptor(slab).used.get();
        let directory = self.class_state(ClassIndex::DIRECTORY);
        let half_empty = directory.used.get() * 2 < u64::from(directory.slab_count.get()) * u64::from(slots);
        if used > if half_empty { slots / 2 } else { slots / 16 } {
            return false;
        }
        let records: Vec<EntryIndex> = self.records_of(slab).filter(|&entry| self.record(entry).is_live()).collect();
        // Only as a whole: a continuation, a pinned or protected entry, or one being built stays, and so would the
        // slab.
        let dirty_stays = matches!(evicted, Sink::Clean(_));
        let movable = |&entry: &EntryIndex| {
            let record = self.record(entry);
            let stays = dirty_stays && record.has(flag::DIRTY);
            record.is_entry() && record.is_evictable() && self.is_listed(entry) && !stays
        };
        if records.len() != used as usize || !records.iter().all(movable) {
            return false;
        }
        for entry in records {
            self.evict(entry, evicted);
        }
        true
    }

    fn evict(&mut self, victim: EntryIndex, evicted: &mut Sink<'_>) {
        match evicted {
            Sink::Keep(evicted) => evicted.append(self.key_bytes(victim), |out| self.append_value(victim, out)),
            Sink::Clean(clean) => clean.dropped += 1,
            Sink::Drop | Sink::Refuse => (),
        }
        self.let_go(victim);
    }

    /// Removes an entry as evicted: it is counted, and what the policy wants to know of it remembered.
    pub(super) fn let_go(&mut self, victim: EntryIndex) {
        if self.is_small(victim) {
            self.remember(self.hash(self.key_bytes(victim)));
        }
        self.discard(victim);
        self.header().evictions.add(1);
    }

    /// Takes an entry out of the recency list, the bucket and the counts; its memory goes with the last pin.
    pub(super) fn discard(&mut self, entry: EntryIndex) {
        self.unlink(entry);
        self.record(entry).mark_changing();
        self.remove_from_bucket(entry);
        self.bury(entry);
    }

    /// As [`Partition::discard`], for an entry that is listed nowhere any more.
    pub(super) fn bury(&mut self, entry: EntryIndex) {
        self.hand_on_claims(entry, EntryIndex::NONE);
        let header = self.header();
        header.len.sub(1);
        header.live_bytes.sub((self.record(entry).key_len() + self.value_len(entry)) as u64);
        let before = self.record(entry).set_flags(flag::ZOMBIE);
        if before & flag::PINS == 0 {
            self.dispose(entry);
        } else {
            header.zombies.add(1);
        }
    }

    /// Frees a removed entry whose last pin is gone.
    pub(super) fn dispose_zombie(&mut self, entry: EntryIndex) {
        self.header().zombies.sub(1);
        self.dispose(entry);
    }

    /// Gains one slab for the pool if a class has that much free; `false` if none has.
    fn compact_one_slab(&mut self) -> bool {
        if self.header().compactable.iter().all(|word| word.get() == 0) {
            return false;
        }
        // The cheapest first: the fewest bytes to move.
        let mut candidates: Vec<(u64, ClassIndex)> = self
            .compactable_classes()
            .filter_map(|class| {
                let slab = self.emptiest_slab(class, &[])?;
                let slot_bytes = u64::from(self.layout.classes.get(class).slot_bytes);
                Some((u64::from(self.descriptor(slab).used.get()) * slot_bytes, class))
            })
            .collect();
        candidates.sort_unstable();
        let mut report = CompactReport::default();
        let gained = candidates
            .into_iter()
            .any(|(_, class)| self.empty_a_slab(class, u64::MAX, &mut Pinned::at_most(4), &mut report));
        self.header().compactions.add(u64::from(report.entries_moved > 0 || gained));
        gained
    }

    fn compactable_classes(&self) -> impl Iterator<Item = ClassIndex> + '_ {
        let words = &self.header().compactable;
        (0..self.layout.classes.count() as u32)
            .map(ClassIndex)
            .filter(move |class| words[class.usize() / 64].get() >> (class.usize() % 64) & 1 == 1)
    }

    /// Relocates until every class has less than a slab of free slots, or the budget is used up.
    pub(super) fn compact_all(&mut self, budget: CompactBudget) -> CompactReport {
        let mut report = CompactReport::default();
        self.header().compactions.add(1);
        self.end_quarantine();
        let classes: Vec<ClassIndex> = self.compactable_classes().collect();
        for class in classes {
            let mut pinned = Pinned::at_most(usize::MAX);
            while self.compactable_classes().any(|other| other == class) && report.bytes_moved < budget.bytes {
                if !self.empty_a_slab(class, budget.bytes - report.bytes_moved, &mut pinned, &mut report) {
                    break;
                }
            }
        }
        report
    }

    /// Empties one of the emptiest slabs of a class into the others. `false` if pins or the budget prevented it;
    /// slots moved until then stay moved.
    fn empty_a_slab(
        &mut self,
        class: ClassIndex,
        budget_bytes: u64,
        pinned: &mut Pinned,
        report: &mut CompactReport,
    ) -> bool {
        let moved_at_start = report.bytes_moved;
        while pinned.slabs.len() < pinned.limit {
            let Some(slab) = self.emptiest_slab(class, &pinned.slabs) else { return false };
            let (moved_before, skipped_before) = (report.bytes_moved, report.skipped_pinned);
            self.relocate_slab(slab, class, budget_bytes - (moved_before - moved_at_start), report);
            if report.bytes_moved > moved_before {
                self.begin_placement_epoch();
            }
            let header = self.header();
            header.bytes_moved.add(report.bytes_moved - moved_before);
            let emptied = self.descriptor(slab).used.get() == 0;
            header.slabs_moved.add(u64::from(emptied));
            self.settle_slab(slab, class);
            if emptied {
                report.slabs_released += 1;
                report.bytes_gained += u64::from(self.layout.slab_bytes);
                return true;
            }
            if report.skipped_pinned == skipped_before || report.bytes_moved - moved_at_start >= budget_bytes {
                return false; // the budget is used up
            }
            pinned.slabs.push(slab);
        }
        false
    }

    /// A slab of the lowest occupancy, of those that are listed and not `excluded`.
    fn emptiest_slab(&self, class: ClassIndex, excluded: &[SlabIndex]) -> Option<SlabIndex> {
        const LOOK_AT: usize = 16;
        let state = self.class_state(class);
        let listed = |slab: u32| (slab != SlabDescriptor::NIL).then_some(SlabIndex(slab));
        (0..BIN_COUNT).filter(|bin| state.bin_mask.get() >> bin & 1 == 1).find_map(|bin| {
            let next = |slab: &SlabIndex| listed(self.descriptor(*slab).next.get());
            std::iter::successors(listed(state.bins[bin].get()), next)
                .filter(|slab| !excluded.contains(slab))
                .take(LOOK_AT)
                .min_by_key(|&slab| self.descriptor(slab).used.get())
        })
    }

    /// Moves the slots of a slab to other slabs of its class. The slab is in no bin while this runs and
    /// afterwards, so nothing is placed into it.
    fn relocate_slab(&mut self, slab: SlabIndex, class: ClassIndex, budget_bytes: u64, report: &mut CompactReport) {
        let slot_bytes = self.layout.classes.get(class).slot_bytes as usize;
        self.unlist(slab, class);
        let moved_at_start = report.bytes_moved;
        let mut next = 0;
        while let Some(slot) = self.bitmap(slab, class).next_used(next) {
            next = slot + 1;
            if report.bytes_moved - moved_at_start >= budget_bytes {
                return;
            }
            let from = self.layout.location(slab, class, slot);
            let owner = self.owner_of(from);
            let record = self.record(owner);
            let pin_holder =
                if record.has(flag::CONTINUATION) { self.record(EntryIndex(record.chain.get())) } else { record };
            if pin_holder.pins() > 0 {
                report.skipped_pinned += 1;
                continue;
            }
            // What is stored does not change, so the class's bytes are taken and given back at once.
            let Some(to) = self.take_slot(class, 0) else { return };
            self.region.copy_bytes(self.offset_of(from), self.offset_of(to), slot_bytes);
            self.record(owner).set_location(to);
            self.bitmap(slab, class).set(slot, true);
            let descriptor = self.descriptor(slab);
            descriptor.used.sub(1);
            descriptor.free_hint.set(descriptor.free_hint.get().min(slot / 64));
            self.class_state(class).used.sub(1);
            self.header().entries_moved.add(1);
            report.entries_moved += 1;
            report.bytes_moved += slot_bytes as u64;
        }
    }
}
