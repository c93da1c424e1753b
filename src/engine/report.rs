//! Where a cache's memory is: plain data, added up over partitions.

use super::entry::{CONTINUATION_METADATA_BYTES, ENTRY_METADATA_BYTES};
use super::ids::ClassIndex;
use super::limits::BUCKET_CELLS;
use super::partition::Partition;
use super::slab::class::RECORD_BYTES;

/// One slab class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClassReport {
    /// The class; 0 is the directory.
    pub class: u32,
    /// Bytes of a slot.
    pub slot_bytes: u64,
    /// Slabs.
    pub slabs: u64,
    /// Slots of these slabs.
    pub slots: u64,
    /// Slots in use.
    pub used: u64,
    /// Bytes stored in them.
    pub stored_bytes: u64,
}

impl ClassReport {
    /// Bytes of used slots that hold nothing.
    pub fn internal_waste_bytes(&self) -> u64 {
        self.used * self.slot_bytes - self.stored_bytes
    }

    /// Used slots over slots; `None` without slabs.
    pub fn occupancy(&self) -> Option<f64> {
        (self.slots > 0).then(|| self.used as f64 / self.slots as f64)
    }
}

/// Where the memory is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryReport {
    /// All of it.
    pub region_bytes: u64,
    /// Headers, class states, slab descriptors, base buckets and rests too small for a slab.
    pub fixed_bytes: u64,
    /// Slabs of the directory, those kept for readers over a reset included.
    pub directory_bytes: u64,
    /// Slabs of keys and values, those kept for readers over a reset included.
    pub data_bytes: u64,
    /// Slabs of buckets.
    pub bucket_bytes: u64,
    /// Slabs that nothing is stored in.
    pub free_bytes: u64,
    /// Keys and values of live entries.
    pub payload_bytes: u64,
    /// What live entries cost beside them: records, slot headers, bucket cells.
    pub metadata_bytes: u64,
    /// Slabs.
    pub slabs_total: u64,
    /// Slabs that nothing is stored in.
    pub slabs_free: u64,
    /// Live entries.
    pub entries: u64,
    /// Buckets.
    pub buckets: u64,
    /// Entries beyond the twelfth of their bucket.
    pub overflowed: u64,
    /// Most entries chained from one bucket beyond its twelve. Costs a look at every bucket.
    pub longest_chain: u64,
    /// Every class that has a slab.
    pub classes: Vec<ClassReport>,
}

impl MemoryReport {
    /// Bytes of live keys, values and their metadata over all bytes.
    pub fn utilisation(&self) -> f64 {
        (self.payload_bytes + self.metadata_bytes) as f64 / self.region_bytes as f64
    }

    /// Bytes of live keys and values over all bytes.
    pub fn payload_ratio(&self) -> f64 {
        self.payload_bytes as f64 / self.region_bytes as f64
    }

    /// Entries over the cells of all buckets.
    pub fn bucket_load(&self) -> f64 {
        self.entries as f64 / (self.buckets * BUCKET_CELLS as u64) as f64
    }

    fn add_class(&mut self, report: ClassReport) {
        match self.classes.iter_mut().find(|known| known.class == report.class) {
            Some(known) => {
                known.slabs += report.slabs;
                known.slots += report.slots;
                known.used += report.used;
                known.stored_bytes += report.stored_bytes;
            }
            None => self.classes.push(report),
        }
    }
}

impl Partition {
    /// Adds this partition's memory to `report`. Cost: a look at every class.
    pub fn add_memory(&self, report: &mut MemoryReport) {
        let state = self.state();
        let slab_bytes = u64::from(self.slabs.area().slab_bytes());
        let entries = u64::from(state.len.get());
        // An idle slab of records is as good as free: what wants a slab needs a record first.
        let is_idle = self.keeps_idle_slab();
        let free = u64::from(self.slabs.pool_count()) + u64::from(is_idle);
        report.fixed_bytes += self.fixed_bytes as u64;
        report.free_bytes += free * slab_bytes;
        report.slabs_total += u64::from(self.slabs.area().slab_count());
        report.slabs_free += free;
        report.entries += entries;
        report.payload_bytes += state.live_bytes.get();
        let parts = u64::from(state.continuations.get());
        report.metadata_bytes += entries * ENTRY_METADATA_BYTES + parts * CONTINUATION_METADATA_BYTES;
        report.buckets += u64::from(self.table.bucket_count());
        report.bucket_bytes += self.table.segment_slabs().count() as u64 * slab_bytes;
        report.overflowed += u64::from(self.table.overflowed());
        if state.quarantined.get() > 0 {
            let (values, records) = self.quarantined_slabs();
            report.data_bytes += values as u64 * slab_bytes;
            report.directory_bytes += records as u64 * slab_bytes;
        }
        for (class, geometry) in self.slabs.classes().iter() {
            let is_directory = class == ClassIndex::DIRECTORY;
            let (slabs, used) = self.slabs.class_counts(class);
            let slabs = u64::from(slabs);
            if slabs == 0 || is_directory && is_idle {
                continue;
            }
            if is_directory {
                report.directory_bytes += slabs * slab_bytes;
            } else {
                report.data_bytes += slabs * slab_bytes;
            }
            report.add_class(ClassReport {
                class: class.0,
                slot_bytes: u64::from(geometry.slot_bytes),
                slabs,
                slots: slabs * u64::from(geometry.slots_per_slab),
                used,
                stored_bytes: if is_directory {
                    used * u64::from(RECORD_BYTES)
                } else {
                    self.slabs.stored_bytes(class)
                },
            });
        }
    }

    /// The most entries chained from one of the next `limit` buckets, and where to go on; `None` after the last.
    pub fn longest_chain(&self, from: u32, limit: u32) -> (u64, Option<u32>) {
        let end = from.saturating_add(limit);
        (self.table.longest_chain(from..end), (end < self.table.bucket_count()).then_some(end))
    }
}
