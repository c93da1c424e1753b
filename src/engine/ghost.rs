//! Ghosts: keys that were evicted from `s3-fifo`'s small queue not long ago.
//!
//! A key that comes again while it is a ghost was evicted too early, and is put into the main queue at once. As many keys
//! are remembered as main's share of the entries is: nine tenths of them.
//!
//! ```text
//! GhostLine  ┌─────────┬─────────┬─ … ─┬──────────┐   one cache line for each bucket of the hash table
//!            │ cell 0  │ cell 1  │     │ cell 15  │
//!            └─────────┴─────────┴─ … ─┴──────────┘
//! cell       time (bits 0-15), fingerprint (bits 16-31, never 0); a cell of 0 is free
//! ```
//!
//! A key's line is that of its bucket, its fingerprint the top 16 bits of its hash, which nothing else uses. So one new
//! key in some 4,000 is taken for a ghost that it is not, and goes to main without having been there before: that costs
//! a little room, no more. A full line forgets its oldest ghost.
//!
//! Time is counted in ghosts, but for those that take the room of one that came again; a queue of ghosts would get on as
//! little by these. The units are so large that a turn of the 16 bits takes four times as many ghosts as there are cells:
//! by then a cell has been used again. Up to 16,384 cells a unit is one ghost, and age is exact.
//!
//! Everything is found by a key's hash, whose seed lies in the region: the same for every process. Locking: the
//! partition's exclusive lock. A lookup costs one cache line, and so does an eviction.

use super::config::Policy;
use super::ids::BucketIndex;
use super::partition::Partition;
use super::region::{RegionType, Word32};

const GHOST_CELLS: usize = 16;
const TIME_BITS: u32 = 16;

/// The ghosts of one bucket's keys.
#[repr(C, align(64))]
pub struct GhostLine {
    cells: [Word32; GHOST_CELLS],
}
const _: () = assert!(size_of::<GhostLine>() == 64);
// SAFETY: repr(C), words only, exactly one cache line.
#[allow(unsafe_code)]
unsafe impl RegionType for GhostLine {}

fn fingerprint(hash: u64) -> u32 {
    ((hash >> 48) as u32).max(1)
}

fn fingerprint_in(cell: u32) -> u32 {
    cell >> TIME_BITS
}

impl Partition {
    fn ghost_line(&self, bucket: BucketIndex) -> &GhostLine {
        self.region.at(self.layout.ghost_offset(bucket))
    }

    fn ghost_line_of(&self, hash: u64) -> &GhostLine {
        self.ghost_line(BucketIndex(hash as u32 & (self.layout.buckets_per_partition - 1)))
    }

    /// No key is a ghost any more.
    pub(super) fn forget_ghosts(&mut self) {
        if self.layout.policy == Policy::S3Fifo {
            self.header().ghosts_recalled.set(0);
            for bucket in (0..self.layout.buckets_per_partition).map(BucketIndex) {
                self.ghost_line(bucket).cells.iter().for_each(|cell| cell.set(0));
            }
        }
    }

    /// The fingerprints in a bucket's line, those too old to count included.
    pub(super) fn ghosts_of(&self, bucket: BucketIndex) -> Vec<u32> {
        let fingerprints = self.ghost_line(bucket).cells.iter().map(|cell| fingerprint_in(cell.get()));
        fingerprints.filter(|&fingerprint| fingerprint != 0).collect()
    }

    /// Bits of the time that a cell leaves out.
    fn time_shift(&self) -> u32 {
        let cells = u64::from(self.layout.buckets_per_partition) * GHOST_CELLS as u64;
        (4 * cells).ilog2().saturating_sub(TIME_BITS)
    }

    fn time(&self) -> u16 {
        (self.header().ghost_time.get() >> self.time_shift()) as u16
    }

    /// Makes a ghost of the key with this hash.
    pub(super) fn remember(&mut self, hash: u64) {
        let header = self.header();
        match header.ghosts_recalled.get() {
            0 => header.ghost_time.add(1),
            _ => header.ghosts_recalled.sub(1),
        }
        let time = self.time();
        let rank = |cell: &&Word32| match cell.get() {
            cell if fingerprint_in(cell) == fingerprint(hash) => u32::MAX,
            0 => u32::MAX - 1,
            cell => u32::from(time.wrapping_sub(cell as u16)),
        };
        let cell = self.ghost_line_of(hash).cells.iter().max_by_key(rank).expect("a line has cells");
        cell.set(fingerprint(hash) << TIME_BITS | u32::from(time));
    }

    /// Whether the key with this hash is a ghost; it is one no longer.
    pub(super) fn recall(&mut self, hash: u64) -> bool {
        let len = u64::from(self.header().len.get());
        let remembered = len - len / 10;
        let cell = self.ghost_line_of(hash).cells.iter().find(|cell| fingerprint_in(cell.get()) == fingerprint(hash));
        let Some(cell) = cell else { return false };
        let age = u64::from(self.time().wrapping_sub(cell.get() as u16)) << self.time_shift();
        cell.set(0);
        let is_ghost = age < remembered;
        self.header().ghosts_recalled.add(u32::from(is_ghost));
        is_ghost
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engine::config::Config;
    use crate::engine::region::Region;

    /// A partition that takes itself to have `len` entries.
    fn partition(buckets: u64, len: u32) -> Partition {
        let config = Config::bytes(4 << 20).partitions(1).buckets(buckets).policy(Policy::S3Fifo);
        let layout = Arc::new(config.layout().unwrap());
        let mut partition = Partition::new(&Region::leaked(layout.region_bytes), layout, 0, 0);
        partition.format(0);
        partition.header().len.set(len);
        partition
    }

    fn hash(fingerprint: u64, bucket: u64) -> u64 {
        fingerprint << 48 | bucket
    }

    #[test]
    fn a_key_is_a_ghost_once_and_others_are_none() {
        let mut partition = partition(4, 100);
        partition.remember(hash(7, 3));
        partition.remember(hash(0, 3));
        let others = [hash(7, 2), hash(8, 3), hash(0, 2)];
        assert!(others.iter().all(|&other| !partition.recall(other)));
        assert!(partition.recall(hash(7, 3)) && !partition.recall(hash(7, 3)));
        assert!(partition.recall(hash(0, 3)) && !partition.recall(hash(0, 3)));
    }

    #[test]
    fn nine_tenths_of_the_entries_are_remembered() {
        for turn in [0, (1 << 16) - 95, (1 << 32) - 50] {
            let mut partition = partition(1 << 10, 100);
            partition.header().ghost_time.set(turn);
            (0..=90).for_each(|number| partition.remember(hash(number + 1, number)));
            assert!(!partition.recall(hash(1, 0)), "90 have been evicted since");
            assert!((1..=90).all(|number| partition.recall(hash(number + 1, number))));
        }
    }

    #[test]
    fn a_ghost_that_comes_again_makes_room_for_another() {
        let mut partition = partition(1 << 10, 10);
        (0..9).for_each(|number| partition.remember(hash(number + 1, number)));
        assert!(partition.recall(hash(9, 8)));
        partition.remember(hash(10, 9));
        assert!(partition.recall(hash(1, 0)), "the tenth has the room of the ninth");
        partition.remember(hash(11, 10));
        (11..13).for_each(|number| partition.remember(hash(number + 1, number)));
        assert!(!partition.recall(hash(2, 1)), "these two took the room of the first and the second");
    }

    #[test]
    fn a_key_evicted_again_is_as_young_as_its_last_eviction() {
        let mut partition = partition(1, 10);
        partition.remember(hash(1, 0));
        (2..9).for_each(|number| partition.remember(hash(number, 0)));
        partition.remember(hash(1, 0));
        assert_eq!(partition.ghosts_of(BucketIndex(0)).len(), 8, "and has one cell");
        (9..17).for_each(|number| partition.remember(hash(number, 0)));
        assert!(partition.recall(hash(1, 0)));
    }

    #[test]
    fn a_damaged_partition_starts_without_ghosts() {
        let mut partition = partition(4, 100);
        (0..4).for_each(|bucket| partition.remember(hash(7, bucket)));
        partition.damage();
        partition.reset();
        partition.header().len.set(100);
        assert!((0..4).all(|bucket| !partition.recall(hash(7, bucket))));
    }

    #[test]
    fn a_full_line_forgets_its_oldest() {
        let mut partition = partition(1, 1000);
        (1..=20).for_each(|number| partition.remember(hash(number, 0)));
        let remembered: Vec<u64> = (1..=20).filter(|&number| partition.recall(hash(number, 0))).collect();
        assert_eq!(remembered, (5..=20).collect::<Vec<_>>());
    }

    #[test]
    fn with_many_cells_the_age_is_right_to_the_unit() {
        // 2^18 cells: a unit of 16 ghosts.
        for start in [0, (1 << 20) - 18_010, (1 << 32) - 5] {
            let mut partition = partition(1 << 14, 20_000);
            assert_eq!(partition.time_shift(), 4);
            partition.header().ghost_time.set(start);
            (0..18_020).for_each(|number| partition.remember(hash(1 + number / 16_384, number % 16_384)));
            let mut is_ghost = |number: u64| partition.recall(hash(1 + number / 16_384, number % 16_384));
            assert!(!is_ghost(0) && !is_ghost(3), "more than 18,000 have been evicted since");
            assert!((36..18_020).all(&mut is_ghost));
        }
    }
}
