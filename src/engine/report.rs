//! What a cache says of itself: counters and the use of its memory. Plain data, added up over partitions.

use super::class::RECORD_BYTES;
use super::ids::{BucketIndex, ClassIndex};
use super::layout::BUCKET_CELLS;
use super::partition::Partition;

/// Bytes that an entry in one slot costs beside its key and value: record, slot header, and its cell in a bucket.
///
/// Alignment (up to 7 bytes) and the class's internal waste (up to one eighth) come on top.
pub const ENTRY_METADATA_BYTES: u64 = RECORD_BYTES as u64 + SLOT_HEADER_BYTES + CELL_BYTES;
const SLOT_HEADER_BYTES: u64 = 8;
const CELL_BYTES: u64 = 5;

/// Counters since the cache was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Reads (`get`, `with`) that found their key.
    pub hits: u64,
    /// Reads that did not.
    pub misses: u64,
    /// New keys stored.
    pub inserts: u64,
    /// Values replaced.
    pub updates: u64,
    /// Entries evicted to make room.
    pub evictions: u64,
    /// Entries taken out by `remove`, `pop_lru`, `clear` or a drain.
    pub removals: u64,
    /// Pushes that were refused.
    pub refused: u64,
    /// Times that compaction ran, automatically or by request.
    pub compactions: u64,
    /// Slabs that compaction emptied and returned to the pool.
    pub slabs_moved: u64,
    /// Slots that compaction moved.
    pub entries_moved: u64,
    /// Bytes that compaction moved.
    pub bytes_moved: u64,
    /// Partitions that were found damaged and emptied.
    pub resets: u64,
}

impl Stats {
    /// Hits over reads; `None` before the first read.
    pub fn hit_ratio(&self) -> Option<f64> {
        let reads = self.hits + self.misses;
        (reads > 0).then(|| self.hits as f64 / reads as f64)
    }
}

/// One slab class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
pub struct MemoryReport {
    /// All of it.
    pub region_bytes: u64,
    /// Headers, class states, slab descriptors, buckets and rests too small for a slab.
    pub fixed_bytes: u64,
    /// Slabs of the directory, those kept for readers over a reset included.
    pub directory_bytes: u64,
    /// Slabs of keys and values, those kept for readers over a reset included.
    pub data_bytes: u64,
    /// Slabs of the pool.
    pub free_bytes: u64,
    /// Keys and values of live entries.
    pub payload_bytes: u64,
    /// What live entries cost beside them: records, slot headers, bucket cells.
    pub metadata_bytes: u64,
    /// Slabs.
    pub slabs_total: u64,
    /// Slabs in the pool.
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
    /// Adds this partition's counters to `stats`.
    pub fn add_stats(&self, stats: &mut Stats) {
        let header = self.header();
        stats.hits += header.hits.get();
        stats.misses += header.misses.get();
        stats.inserts += header.inserts.get();
        stats.updates += header.updates.get();
        stats.evictions += header.evictions.get();
        stats.removals += header.removals.get();
        stats.refused += header.refused.get();
        stats.compactions += header.compactions.get();
        stats.slabs_moved += header.slabs_moved.get();
        stats.entries_moved += header.entries_moved.get();
        stats.bytes_moved += header.bytes_moved.get();
        stats.resets += header.resets.get();
    }

    /// Adds this partition's memory to `report`. Cost: a look at every class and, for `longest_chain`, every bucket.
    pub fn add_memory(&self, report: &mut MemoryReport, measure_chains: bool) {
        let header = self.header();
        let layout = &self.layout;
        let slab_bytes = u64::from(layout.slab_bytes);
        let entries = u64::from(header.len.get());
        report.fixed_bytes += layout.partition_fixed_bytes() as u64;
        report.free_bytes += u64::from(header.pool_count.get()) * slab_bytes;
        report.slabs_total += u64::from(layout.slab_count);
        report.slabs_free += u64::from(header.pool_count.get());
        report.entries += entries;
        report.payload_bytes += header.live_bytes.get();
        let parts = u64::from(header.continuations.get());
        report.metadata_bytes += entries * ENTRY_METADATA_BYTES + parts * (u64::from(RECORD_BYTES) + SLOT_HEADER_BYTES);
        report.buckets += u64::from(layout.buckets_per_partition);
        report.overflowed += u64::from(header.overflowed.get());
        if header.quarantined.get() > 0 {
            let (values, records) = self.quarantined_slabs();
            report.data_bytes += values as u64 * slab_bytes;
            report.directory_bytes += records as u64 * slab_bytes;
        }
        for (class, geometry) in layout.classes.iter() {
            let state = self.class_state(class);
            let slabs = u64::from(state.slab_count.get());
            if slabs == 0 {
                continue;
            }
            if class == ClassIndex::DIRECTORY {
                report.directory_bytes += slabs * slab_bytes;
            } else {
                report.data_bytes += slabs * slab_bytes;
            }
            let used = state.used.get();
            report.add_class(ClassReport {
                class: class.0,
                slot_bytes: u64::from(geometry.slot_bytes),
                slabs,
                slots: slabs * u64::from(geometry.slots_per_slab),
                used,
                stored_bytes: if class == ClassIndex::DIRECTORY {
                    used * u64::from(RECORD_BYTES)
                } else {
                    state.stored_bytes.get()
                },
            });
        }
        if measure_chains {
            let longest = (0..layout.buckets_per_partition)
                .map(|bucket| self.overflow_chain(self.bucket(BucketIndex(bucket))).count() as u64)
                .max();
            report.longest_chain = report.longest_chain.max(longest.unwrap_or(0));
        }
    }
}
