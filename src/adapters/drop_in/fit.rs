//! Slot sizes and buckets for the entries that a cache turns out to hold.
//!
//! A region that fills its bytes with values of one kind loses them in two places: what a slot is larger than its
//! entry, and the free slots that every class in use keeps, half a slab on average. More classes lose less in the first
//! place and more in the second. Given the sizes that were seen, [`slot_sizes`] finds the classes that lose least in
//! both together, by dynamic programming over the slot sizes worth having (those that are the largest with their number
//! of slots in a slab). Between, below and above the sizes that were seen it leaves the geometric classes, so that
//! other sizes fit later as well as they would without.
//!
//! Cost: quadratic in the number of candidates, of which a slab of 16 KiB has about 150 and one of 64 KiB about 300.

use crate::engine::limits::{MAX_CLASSES, MIN_SLOT_BYTES, SLOT_ALIGN_BYTES};
use crate::engine::slab::class::{Class, ClassTable, largest_slot_bytes};

/// One part of a slot in so many may be wasted where nothing was seen.
const WASTE_PARTS: u32 = 16;
/// Entries a bucket that the table is made for at least; at most twice as many, and twelve find room in its line.
const ENTRIES_PER_BUCKET: f64 = 16.0;
const UNIT: usize = SLOT_ALIGN_BYTES as usize;

/// How many entries there are of each size.
pub(super) struct SizeHistogram {
    /// By slot bytes needed, in units of 8 bytes.
    counts: Vec<u64>,
    slab_bytes: u32,
}

impl SizeHistogram {
    pub(super) fn new(slab_bytes: u32) -> Self {
        SizeHistogram { counts: vec![0; largest_slot_bytes(slab_bytes) as usize / UNIT + 1], slab_bytes }
    }

    /// Counts an entry. One that takes several slots is not counted: all of them but the last are of the largest class.
    pub(super) fn record(&mut self, key_bytes: usize, value_bytes: usize) {
        const SLOT_HEADER_BYTES: usize = 8;
        let units = 1 + key_bytes.div_ceil(UNIT) + value_bytes.div_ceil(UNIT);
        debug_assert_eq!(SLOT_HEADER_BYTES, UNIT);
        if let Some(count) = self.counts.get_mut(units.max(MIN_SLOT_BYTES as usize / UNIT)) {
            *count += 1;
        }
    }

    /// Slot sizes for `growth` times as many entries of the same sizes, ascending, as a configuration takes them.
    pub(super) fn slot_sizes(&self, growth: f64) -> Vec<u32> {
        let largest = largest_slot_bytes(self.slab_bytes);
        let mut sizes = self.best_sizes(growth);
        for size in ClassTable::geometric_slot_bytes(WASTE_PARTS, self.slab_bytes) {
            let at = sizes.partition_point(|&chosen| chosen < size);
            let below = if at == 0 { 0 } else { sizes[at - 1] };
            let known = sizes.get(at) == Some(&size);
            if size <= largest && !known && !self.any_between(below, size) && sizes.len() + 2 < MAX_CLASSES {
                sizes.insert(at, size);
            }
        }
        sizes
    }

    fn any_between(&self, above_bytes: u32, up_to_bytes: u32) -> bool {
        self.counts[above_bytes as usize / UNIT + 1..=up_to_bytes as usize / UNIT].iter().any(|&count| count > 0)
    }

    /// SizeHistogram from the first that is needed to the first that is enough for all.
    fn best_sizes(&self, growth: f64) -> Vec<u32> {
        let candidates = candidates(self.slab_bytes);
        // Entries, and bytes they need, up to each size.
        let mut sums = vec![(0.0, 0.0)];
        for (units, &count) in self.counts.iter().enumerate().skip(1) {
            let (entries, bytes) = sums[units - 1];
            let count = count as f64 * growth;
            sums.push((entries + count, bytes + count * (units * UNIT) as f64));
        }
        let sum_at = |bytes: u32| sums[bytes as usize / UNIT];
        let free_bytes = f64::from(self.slab_bytes) / 2.0;
        // For each candidate as the largest size so far: bytes lost, and the size before it.
        let mut best: Vec<(f64, Option<usize>)> = Vec::new();
        for (index, &(size, slot_share)) in candidates.iter().enumerate() {
            let (entries, bytes) = sum_at(size);
            let lost_with = |before: Option<usize>| {
                let (lost, (entries_before, bytes_before)) =
                    before.map_or((0.0, (0.0, 0.0)), |before| (best[before].0, sum_at(candidates[before].0)));
                let own = entries - entries_before;
                let waste = own * slot_share - (bytes - bytes_before);
                lost + if own > 0.0 { waste + free_bytes } else { 0.0 }
            };
            let before = (0..index).map(Some).chain([None]).min_by(|&a, &b| lost_with(a).total_cmp(&lost_with(b)));
            let before = before.flatten();
            best.push((lost_with(before), before));
        }
        let all = sums[sums.len() - 1].0;
        let last = candidates.iter().position(|&(size, _)| sum_at(size).0 >= all);
        let used = std::iter::successors(last, |&index| best[index].1);
        let used = used.filter(|&index| {
            let below = best[index].1.map_or(0, |before| candidates[before].0);
            self.any_between(below, candidates[index].0)
        });
        let mut sizes: Vec<u32> = used.map(|index| candidates[index].0).collect();
        sizes.reverse();
        sizes
    }
}

/// Buckets for so many entries, before a configuration rounds them up to a power of two.
pub(super) fn buckets(entries: f64) -> u64 {
    (entries / ENTRIES_PER_BUCKET).ceil().max(1.0) as u64
}

/// Slot sizes that are the largest with their number of slots in a slab, with each slot's share of the slab.
fn candidates(slab_bytes: u32) -> Vec<(u32, f64)> {
    let largest = largest_slot_bytes(slab_bytes);
    let slots = |size| Class::new(size, slab_bytes).map_or(0, |class| class.slots_per_slab);
    (MIN_SLOT_BYTES..=largest)
        .step_by(UNIT)
        .filter(|&size| size == largest || slots(size + SLOT_ALIGN_BYTES) < slots(size))
        .map(|size| (size, f64::from(slab_bytes) / f64::from(slots(size))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::config::{Classes, Config};

    /// Bytes lost in and between slots by entries of these sizes.
    fn lost_bytes(sizes: &SizeHistogram, slots: &[u32]) -> f64 {
        let mut used = vec![false; slots.len()];
        let counted = sizes.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        let waste: f64 = counted
            .map(|(units, &count)| {
                let class = slots.partition_point(|&size| (size as usize) < units * UNIT);
                used[class] = true;
                let in_slab = Class::new(slots[class], sizes.slab_bytes).unwrap().slots_per_slab;
                count as f64 * (f64::from(sizes.slab_bytes) / f64::from(in_slab) - (units * UNIT) as f64)
            })
            .sum();
        waste + used.iter().filter(|&&used| used).count() as f64 * f64::from(sizes.slab_bytes) / 2.0
    }

    fn samples() -> Vec<SizeHistogram> {
        let mut samples = Vec::new();
        for slab_bytes in [16 << 10, 64 << 10] {
            for per_size in [1, 40, 10_000] {
                for values in
                    [vec![100], vec![10, 1000], (200..700).step_by(10).collect(), (0..5000).step_by(7).collect()]
                {
                    let mut sizes = SizeHistogram::new(slab_bytes);
                    values.iter().for_each(|&value| sizes.record(6, value));
                    sizes.counts.iter_mut().for_each(|count| *count *= per_size);
                    samples.push(sizes);
                }
            }
        }
        samples
    }

    #[test]
    fn fitted_sizes_lose_no_more_than_geometric_ones() {
        for sizes in samples() {
            let geometric = ClassTable::geometric_slot_bytes(WASTE_PARTS, sizes.slab_bytes);
            let (fitted, geometric) = (lost_bytes(&sizes, &sizes.slot_sizes(1.0)), lost_bytes(&sizes, &geometric));
            assert!(fitted <= geometric, "{fitted} against {geometric}");
        }
    }

    #[test]
    fn fitted_sizes_are_a_configuration_that_takes_every_size() {
        for sizes in samples() {
            let slots = sizes.slot_sizes(3.0);
            let geometric = ClassTable::geometric_slot_bytes(WASTE_PARTS, sizes.slab_bytes);
            assert_eq!(slots.last(), Some(&largest_slot_bytes(sizes.slab_bytes)));
            assert!(slots[0] <= geometric[0].max(sizes.best_sizes(3.0)[0]));
            let config = Config::bytes(64 << 20).partitions(1).slab_bytes(sizes.slab_bytes);
            config.classes(Classes::Explicit(slots)).layout().unwrap();
        }
    }

    #[test]
    fn one_size_gets_its_own_class() {
        let mut sizes = SizeHistogram::new(16 << 10);
        (0..10_000).for_each(|_| sizes.record(6, 487)); // 8 + 8 + 488 bytes
        assert_eq!(sizes.best_sizes(1.0), [504]);
        assert!(sizes.slot_sizes(1.0).len() > 50, "and all other sizes find theirs");
    }

    #[test]
    fn without_entries_the_classes_are_geometric() {
        let sizes = SizeHistogram::new(16 << 10);
        assert!(sizes.best_sizes(1.0).is_empty());
        let geometric = ClassTable::geometric_slot_bytes(WASTE_PARTS, 16 << 10);
        let common = sizes.slot_sizes(1.0).iter().filter(|size| geometric.contains(size)).count();
        assert!(common + 1 >= geometric.len());
    }
}
