//! A set of lines: those in which a transaction publishes, or begins changes.
//!
//! It has a bit for every line, made once in a process (2 kB for 16,384 lines), and a list of the first few that were
//! added, with their keys. So no set is too large for it, adding neither allocates nor fails, and a small set is walked and
//! emptied without a look at all bits.
//!
//! Invariant: every line in the list has its bit set; while the list is not full, it has all lines of the set.

use crate::rings::key::DependencyHash;
use crate::rings::table::{LineIndex, Rings};

/// More than these are walked by their bits, and their keys are not noted.
const LISTED: usize = 64;

#[derive(Debug)]
pub(super) struct LineSet {
    bits: Box<[u64]>,
    listed: Vec<(LineIndex, DependencyHash)>,
    count: usize,
}

impl LineSet {
    /// An empty set of these lines; `None` if there is no memory for it.
    pub(super) fn new(rings: Rings) -> Option<LineSet> {
        let words = rings.line_count().get().div_ceil(u64::BITS) as usize;
        let (mut bits, mut listed) = (Vec::new(), Vec::new());
        bits.try_reserve_exact(words).ok()?;
        bits.resize(words, 0);
        listed.try_reserve_exact(LISTED).ok()?;
        Some(LineSet { bits: bits.into_boxed_slice(), listed, count: 0 })
    }

    /// Adds the line of a key. Does not allocate.
    pub(super) fn add(&mut self, rings: Rings, key: DependencyHash) {
        let line = rings.line_of(key);
        let (word, bit) = place(line);
        if self.bits[word] & bit == 0 {
            self.bits[word] |= bit;
            self.count += 1;
            if self.listed.len() < LISTED {
                self.listed.push((line, key));
            }
        }
    }

    pub(super) fn contains(&self, line: LineIndex) -> bool {
        let (word, bit) = place(line);
        self.bits[word] & bit != 0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Calls `visit` with each line and a hash that names it: of the key that was added first, where that is noted.
    pub(super) fn for_each(&self, mut visit: impl FnMut(LineIndex, DependencyHash)) {
        if self.count <= LISTED {
            self.listed.iter().for_each(|&(line, key)| visit(line, key));
            return;
        }
        for (number, &bits) in self.bits.iter().enumerate() {
            let mut left = bits;
            while left != 0 {
                let line = LineIndex::new(number as u32 * u64::BITS + left.trailing_zeros());
                visit(line, line.hash());
                left &= left - 1;
            }
        }
    }

    pub(super) fn clear(&mut self) {
        if self.count <= LISTED {
            for &(line, _) in &self.listed {
                let (word, bit) = place(line);
                self.bits[word] &= !bit;
            }
        } else {
            self.bits.fill(0);
        }
        self.listed.clear();
        self.count = 0;
    }
}

fn place(line: LineIndex) -> (usize, u64) {
    ((line.get() / u64::BITS) as usize, 1 << (line.get() % u64::BITS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::memory::region::Region;
    use crate::rings::key::DependencyKey;
    use crate::rings::table::LineCount;

    fn rings(lines: u32) -> Rings {
        let lines = LineCount::new(lines).expect("a power of two");
        Rings::format(Region::leaked(Rings::region_bytes(lines)), lines)
    }

    fn key(relation: u32) -> DependencyHash {
        DependencyKey::Relation { database: 5, relation }.hash()
    }

    fn visited(set: &LineSet) -> Vec<LineIndex> {
        let mut lines = Vec::new();
        set.for_each(|line, _| lines.push(line));
        lines.sort();
        lines
    }

    #[test]
    fn small_and_large_sets_have_each_line_once_and_are_empty_again() {
        let rings = rings(256);
        let mut set = LineSet::new(rings).expect("there is memory");
        for count in [0, 1, 3, 60, 64, 65, 100, 2_000, 5] {
            let mut expected: Vec<LineIndex> = (0..count).map(|relation| rings.line_of(key(relation))).collect();
            (0..count).chain(0..count).for_each(|relation| set.add(rings, key(relation)));
            expected.sort();
            expected.dedup();
            assert_eq!(visited(&set), expected);
            set.for_each(|line, hash| assert_eq!(rings.line_of(hash), line));
            let contained = (0..256).map(LineIndex::new).filter(|line| set.contains(*line));
            assert!(contained.eq(expected));
            assert_eq!(set.is_empty(), count == 0);
            set.clear();
            assert!(set.is_empty() && visited(&set).is_empty());
        }
    }

    #[test]
    fn a_set_of_fewer_lines_than_a_word_has_bits_has_them_all() {
        let rings = rings(2);
        let mut set = LineSet::new(rings).expect("there is memory");
        (0..50).for_each(|relation| set.add(rings, key(relation)));
        assert_eq!(visited(&set), [LineIndex::new(0), LineIndex::new(1)]);
    }
}
