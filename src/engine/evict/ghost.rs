//! Ghosts: keys that were evicted from `s3-fifo`'s small queue not long ago.
//!
//! A key that comes again while it is a ghost was evicted too early, and is put into the main queue at once. As many keys
//! are remembered as main's share of the entries is: nine tenths of them.
//!
//! ```text
//! GhostLine  ┌─────────┬─────────┬─ … ─┬──────────┐   a table of cache lines, their number a power of two
//!            │ cell 0  │ cell 1  │     │ cell 15  │
//!            └─────────┴─────────┴─ … ─┴──────────┘
//! cell       time (bits 0-15), fingerprint (bits 16-31, never 0); a cell of 0 is free
//! ```
//!
//! A key's line is chosen by the low bits of its hash, and its fingerprint is the top 16 bits. So one new key in some
//! 4,000 is taken for a ghost that it is not, and goes to main without having been there before: that costs a little
//! room, no more. A full line forgets its oldest ghost.
//!
//! Time is counted in ghosts, but for those that take the room of one that came again; a queue of ghosts would get on as
//! little by these. The units are so large that a turn of the 16 bits takes four times as many ghosts as there are cells:
//! by then a cell has been used again. Up to 16,384 cells a unit is one ghost, and age is exact.
//!
//! Everything is found by a key's hash, whose seed lies in the region: the same for every process. Locking: the
//! partition's exclusive lock. A lookup costs one cache line, and so does an eviction.

use std::collections::HashSet;

use super::queues::OrderState;
use crate::engine::findings::Findings;
use crate::engine::hash::KeyHash;
use crate::engine::memory::region::{Region, region_struct};
use crate::engine::memory::words::Word32;

const GHOST_CELLS: usize = 16;
const TIME_BITS: u32 = 16;

region_struct! {
    /// The ghosts of some keys.
    struct GhostLine: 64 bytes, align 64 {
        cells: [Word32; GHOST_CELLS],
    }
}

fn fingerprint_in(cell: u32) -> u32 {
    cell >> TIME_BITS
}

/// The ghosts of one partition. The time and the count of recalled ghosts lie in [`OrderState`].
#[derive(Clone, Debug)]
pub struct GhostTable {
    region: Region,
    line_count: u32,
}

impl GhostTable {
    /// Bytes of the table in a partition that can hold about so many entries: a cell for each, rounded down to a power
    /// of two.
    pub fn region_bytes(expected_entries: u64) -> usize {
        let lines = (expected_entries / GHOST_CELLS as u64).clamp(1, 1 << 31);
        size_of::<GhostLine>() << lines.ilog2()
    }

    /// The table over its words.
    pub fn open(region: Region) -> GhostTable {
        GhostTable { region, line_count: (region.len_bytes() / size_of::<GhostLine>()) as u32 }
    }

    /// No key is a ghost.
    pub fn format(&mut self) {
        self.region.zero(0, self.region.len_bytes());
    }

    fn line(&self, index: u32) -> &GhostLine {
        self.region.at(index as usize * size_of::<GhostLine>())
    }

    fn line_of(&self, hash: KeyHash) -> &GhostLine {
        self.line(hash.bucket_bits() & (self.line_count - 1))
    }

    /// Bits of the time that a cell leaves out.
    fn time_shift(&self) -> u32 {
        let cells = u64::from(self.line_count) * GHOST_CELLS as u64;
        (4 * cells).ilog2().saturating_sub(TIME_BITS)
    }

    fn time(&self, state: &OrderState) -> u16 {
        (state.ghost_time.get() >> self.time_shift()) as u16
    }

    /// Makes a ghost of the key with this hash.
    pub fn remember(&mut self, state: &OrderState, hash: KeyHash) {
        match state.ghosts_recalled.get() {
            0 => state.ghost_time.add(1),
            _ => state.ghosts_recalled.sub(1),
        }
        let time = self.time(state);
        let rank = |cell: &&Word32| match cell.get() {
            cell if fingerprint_in(cell) == hash.fingerprint() => u32::MAX,
            0 => u32::MAX - 1,
            cell => u32::from(time.wrapping_sub(cell as u16)),
        };
        let cell = self.line_of(hash).cells.iter().max_by_key(rank).expect("a line has cells");
        cell.set(hash.fingerprint() << TIME_BITS | u32::from(time));
    }

    /// Whether the key with this hash is a ghost not older than so many others; it is one no longer.
    pub fn recall(&mut self, state: &OrderState, hash: KeyHash, age_limit: u64) -> bool {
        let is_mine = |cell: &&Word32| fingerprint_in(cell.get()) == hash.fingerprint();
        let Some(cell) = self.line_of(hash).cells.iter().find(is_mine) else { return false };
        let age = u64::from(self.time(state).wrapping_sub(cell.get() as u16)) << self.time_shift();
        cell.set(0);
        let is_ghost = age < age_limit;
        state.ghosts_recalled.add(u32::from(is_ghost));
        is_ghost
    }

    /// Checks that no line has a fingerprint twice.
    pub fn validate(&self, findings: &mut Findings) {
        for index in 0..self.line_count {
            let cells = self.line(index).cells.iter().map(|cell| fingerprint_in(cell.get()));
            let ghosts: Vec<u32> = cells.filter(|&fingerprint| fingerprint != 0).collect();
            let distinct: HashSet<u32> = ghosts.iter().copied().collect();
            findings.expect(|| format!("distinct ghosts of line {index}"), distinct.len(), ghosts.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct World {
        ghosts: GhostTable,
        state: &'static OrderState,
        age_limit: u64,
    }

    impl World {
        /// So many lines, in a partition that takes itself to have `entries`.
        fn new(lines: u64, entries: u64) -> World {
            let bytes = GhostTable::region_bytes(lines * GHOST_CELLS as u64);
            let mut ghosts = GhostTable::open(Region::leaked(bytes));
            ghosts.format();
            assert_eq!(u64::from(ghosts.line_count), lines);
            let state = Box::leak(Box::new(Region::leaked(64))).at(0);
            World { ghosts, state, age_limit: entries - entries / 10 }
        }

        fn remember(&mut self, hash: KeyHash) {
            self.ghosts.remember(self.state, hash);
        }

        fn recall(&mut self, hash: KeyHash) -> bool {
            self.ghosts.recall(self.state, hash, self.age_limit)
        }
    }

    fn hash(fingerprint: u64, line: u64) -> KeyHash {
        KeyHash(fingerprint << 48 | line)
    }

    #[test]
    fn a_key_is_a_ghost_once_and_others_are_none() {
        let mut world = World::new(4, 100);
        world.remember(hash(7, 3));
        world.remember(hash(0, 3));
        let others = [hash(7, 2), hash(8, 3), hash(0, 2)];
        assert!(others.iter().all(|&other| !world.recall(other)));
        assert!(world.recall(hash(7, 3)) && !world.recall(hash(7, 3)));
        assert!(world.recall(hash(0, 3)) && !world.recall(hash(0, 3)));
    }

    #[test]
    fn nine_tenths_of_the_entries_are_remembered() {
        for turn in [0, (1 << 16) - 95, (1 << 32) - 50] {
            let mut world = World::new(1 << 10, 100);
            world.state.ghost_time.set(turn);
            (0..=90).for_each(|number| world.remember(hash(number + 1, number)));
            assert!(!world.recall(hash(1, 0)), "90 have been evicted since");
            assert!((1..=90).all(|number| world.recall(hash(number + 1, number))));
        }
    }

    #[test]
    fn a_ghost_that_comes_again_makes_room_for_another() {
        let mut world = World::new(1 << 10, 10);
        (0..9).for_each(|number| world.remember(hash(number + 1, number)));
        assert!(world.recall(hash(9, 8)));
        world.remember(hash(10, 9));
        assert!(world.recall(hash(1, 0)), "the tenth has the room of the ninth");
        world.remember(hash(11, 10));
        (11..13).for_each(|number| world.remember(hash(number + 1, number)));
        assert!(!world.recall(hash(2, 1)), "these two took the room of the first and the second");
    }

    #[test]
    fn a_key_evicted_again_is_as_young_as_its_last_eviction() {
        let mut world = World::new(1, 10);
        world.remember(hash(1, 0));
        (2..9).for_each(|number| world.remember(hash(number, 0)));
        world.remember(hash(1, 0));
        let cells = &world.ghosts.line(0).cells;
        assert_eq!(cells.iter().filter(|cell| cell.get() != 0).count(), 8, "and has one cell");
        (9..17).for_each(|number| world.remember(hash(number, 0)));
        assert!(world.recall(hash(1, 0)));
    }

    #[test]
    fn a_full_line_forgets_its_oldest() {
        let mut world = World::new(1, 1000);
        (1..=20).for_each(|number| world.remember(hash(number, 0)));
        let remembered: Vec<u64> = (1..=20).filter(|&number| world.recall(hash(number, 0))).collect();
        assert_eq!(remembered, (5..=20).collect::<Vec<_>>());
    }

    #[test]
    fn with_many_cells_the_age_is_right_to_the_unit() {
        // 2^18 cells: a unit of 16 ghosts.
        for start in [0, (1 << 20) - 18_010, (1 << 32) - 5] {
            let mut world = World::new(1 << 14, 20_000);
            assert_eq!(world.ghosts.time_shift(), 4);
            world.state.ghost_time.set(start);
            (0..18_020).for_each(|number| world.remember(hash(1 + number / 16_384, number % 16_384)));
            let mut is_ghost = |number: u64| world.recall(hash(1 + number / 16_384, number % 16_384));
            assert!(!is_ghost(0) && !is_ghost(3), "more than 18,000 have been evicted since");
            assert!((36..18_020).all(&mut is_ghost));
        }
    }
}
