//! Compaction: live entries are moved so that whole slabs return to the pool.
//!
//! Moves: a slot's bytes are copied, and the one word of its record that says where it lies is rewritten. A slab in which
//! a reader has an entry pinned is left as it is: emptying half of it would gain nothing, and so two such slabs would
//! pass the rest to and fro. Both places hold a moved entry until the slab that it left begins a new placement epoch, so
//! an optimistic read may have read either.
//!
//! Cost of one call: at most one slab of moves for each slab that is gained. Locking: part of a change under the
//! partition's exclusive lock.

use super::entry::record::Flags;
use super::ids::{ClassIndex, EntryIndex, SlabIndex};
use super::partition::Partition;
use super::work::Work;

/// Slabs with pinned entries that are put up with in one search for a slab to empty: where it is asked for, and where it
/// is a try before an eviction.
const MAX_PINNED_SLABS: usize = 64;
const MAX_PINNED_SLABS_IN_PASSING: usize = 4;

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

    /// Whether nothing is left.
    pub(crate) fn is_spent(self) -> bool {
        self.bytes == 0
    }
}

/// What compaction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
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

/// How far the emptying of a slab got.
#[derive(PartialEq, Eq)]
enum Emptied {
    Whole,
    /// The budget is used up.
    Partly,
    /// Every slab that was looked at has pinned entries.
    Nothing,
}

impl Partition {
    /// Relocates live entries so that whole slabs return to the pool, until the budget or the work is used up. `true` if
    /// there is more to gain for whoever calls again.
    pub fn compact(&mut self, budget: CompactBudget, work: &mut Work) -> (CompactReport, bool) {
        self.mutate(|partition| {
            let mut report = CompactReport::default();
            partition.counters.compactions().add(1);
            partition.end_quarantine();
            for class in (0..partition.slabs.classes().count() as u32).map(ClassIndex) {
                while partition.slabs.compactable_classes().any(|other| other == class) {
                    if report.bytes_moved >= budget.bytes {
                        return (report, false);
                    }
                    if work.is_spent() {
                        return (report, true);
                    }
                    let rest = budget.bytes - report.bytes_moved;
                    if partition.empty_a_slab(class, (rest, MAX_PINNED_SLABS), work, &mut report) == Emptied::Nothing {
                        break;
                    }
                }
            }
            (report, false)
        })
    }

    /// Gains one slab for the pool if a class has that much free; `false` if none has.
    pub(super) fn compact_one_slab(&mut self, work: &mut Work) -> bool {
        if !self.slabs.is_compactable() {
            return false;
        }
        let mut report = CompactReport::default();
        let mut tried = [0u64; super::limits::MAX_CLASSES / 64];
        let mut gained = false;
        // The cheapest first: the fewest bytes to move.
        while let Some(class) = self.cheapest_to_compact(&tried) {
            tried[class.usize() / 64] |= 1 << (class.usize() % 64);
            let limits = (u64::MAX, MAX_PINNED_SLABS_IN_PASSING);
            if self.empty_a_slab(class, limits, work, &mut report) == Emptied::Whole {
                gained = true;
                break;
            }
        }
        self.counters.compactions().add(u64::from(gained));
        gained
    }

    fn cheapest_to_compact(&self, tried: &[u64]) -> Option<ClassIndex> {
        let is_new = |class: &ClassIndex| tried[class.usize() / 64] >> (class.usize() % 64) & 1 == 0;
        let cost = |class: ClassIndex| {
            let slab = self.slabs.emptiest(class, &[])?;
            let bytes = u64::from(self.slabs.used_in(slab)) * u64::from(self.slabs.classes().get(class).slot_bytes);
            Some((bytes, class))
        };
        self.slabs.compactable_classes().filter(is_new).filter_map(cost).min().map(|(_, class)| class)
    }

    /// Empties one of the emptiest slabs of a class into the others, as far as the budget goes; slabs with pinned entries,
    /// at most so many, are left as they are.
    fn empty_a_slab(
        &mut self,
        class: ClassIndex,
        (budget_bytes, max_pinned): (u64, usize),
        work: &mut Work,
        report: &mut CompactReport,
    ) -> Emptied {
        let mut pinned = [SlabIndex(u32::MAX); MAX_PINNED_SLABS];
        for excluded in 0..max_pinned {
            let Some(slab) = self.slabs.emptiest(class, &pinned[..excluded]) else { return Emptied::Nothing };
            let pins = self.pinned_slots(slab, class);
            work.spend(1 + self.slabs.used_in(slab) / 8);
            if pins > 0 {
                report.skipped_pinned += pins;
                pinned[excluded] = slab;
                continue;
            }
            let moved = self.relocate_slab(slab, class, budget_bytes);
            let slot_bytes = u64::from(self.slabs.classes().get(class).slot_bytes);
            if moved > 0 {
                self.table.begin_placement_epoch();
            }
            self.counters.entries_moved().add(moved);
            self.counters.bytes_moved().add(moved * slot_bytes);
            report.entries_moved += moved;
            report.bytes_moved += moved * slot_bytes;
            work.spend_bytes((moved * slot_bytes) as usize);
            if !self.slabs.rebin_or_release(slab) {
                return Emptied::Partly;
            }
            self.counters.slabs_moved().add(1);
            report.slabs_released += 1;
            report.bytes_gained += u64::from(self.slabs.area().slab_bytes());
            return Emptied::Whole;
        }
        Emptied::Nothing
    }

    /// Slots of a slab that a reader has pinned.
    fn pinned_slots(&self, slab: SlabIndex, class: ClassIndex) -> u64 {
        let records = self.directory.records();
        self.slabs.used_slots(slab, class).for_each(|slot| records.prefetch(self.payload.owner_of(slot)));
        let is_pinned = |owner: EntryIndex| {
            let record = records.get(owner);
            let holder =
                if record.has(Flags::CONTINUATION) { records.get(EntryIndex(record.chain.get())) } else { record };
            holder.pins() > 0
        };
        self.slabs.used_slots(slab, class).filter(|&slot| is_pinned(self.payload.owner_of(slot))).count() as u64
    }

    /// Moves the slots of a slab to other slabs of its class, and says how many. The slab is in no bin while this runs
    /// and afterwards, so nothing is placed into it.
    fn relocate_slab(&mut self, slab: SlabIndex, class: ClassIndex, budget_bytes: u64) -> u64 {
        let slot_bytes = u64::from(self.slabs.classes().get(class).slot_bytes);
        self.slabs.unlist(slab);
        let mut moved = 0;
        let mut next = self.slabs.next_used(slab, class, 0);
        while let Some(from) = next.filter(|_| moved * slot_bytes < budget_bytes) {
            let owner = self.payload.owner_of(from);
            let Some(to) = self.slabs.move_slot(from) else { break };
            self.record(owner).set_location(to);
            moved += 1;
            next = self.slabs.next_used(slab, class, self.slabs.slot_of(from).2 + 1);
        }
        moved
    }
}
