//! The hits of a cache that knows the future: Belady's MIN, the upper bound for every policy of as many entries.
//!
//! Purpose: a yardstick that no cache can be. An entry that has to make way is the one whose next use is farthest; that
//! may be the one that was just fetched, which then is not stored.
//!
//! Cost: two passes over the accesses, each logarithmic in the number of entries.

use std::collections::{BTreeSet, HashMap};

/// When a key is used again, if ever: the index of that access.
type NextUse = usize;
const NEVER: NextUse = usize::MAX;

/// Hits and misses of reads through a cache of `entries` entries.
///
/// An access is a key and whether it is a read; one that is not stores without being counted. A use to come is a read: an
/// entry that is overwritten before it is read is as good as one that is never used again.
pub fn hits_and_misses(accesses: &[(u64, bool)], entries: usize) -> (u64, u64) {
    let next_reads = next_reads(accesses);
    // What is cached, by its next read; and the same by key.
    let mut by_next: BTreeSet<(NextUse, u64)> = BTreeSet::new();
    let mut next_of: HashMap<u64, NextUse> = HashMap::new();
    let (mut hits, mut misses) = (0, 0);
    for (&(key, is_read), &next) in accesses.iter().zip(&next_reads) {
        let cached = next_of.remove(&key);
        if let Some(was_next) = cached {
            by_next.remove(&(was_next, key));
        }
        hits += u64::from(is_read && cached.is_some());
        misses += u64::from(is_read && cached.is_none());
        by_next.insert((next, key));
        next_of.insert(key, next);
        if next_of.len() > entries {
            let farthest = by_next.pop_last().expect("more entries than none");
            next_of.remove(&farthest.1);
        }
    }
    (hits, misses)
}

/// For each access, when its key is read next without being stored anew before.
fn next_reads(accesses: &[(u64, bool)]) -> Vec<NextUse> {
    let mut next_of: HashMap<u64, NextUse> = HashMap::new();
    let mut next_reads = vec![NEVER; accesses.len()];
    for (index, &(key, is_read)) in accesses.iter().enumerate().rev() {
        let seen = next_of.insert(key, if is_read { index } else { NEVER });
        next_reads[index] = seen.unwrap_or(NEVER);
    }
    next_reads
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    /// The most hits that any choice of what to keep gives, tried one by one.
    fn best(accesses: &[(u64, bool)], kept: &BTreeSet<u64>, entries: usize) -> u64 {
        let Some((&(key, is_read), rest)) = accesses.split_first() else { return 0 };
        let hit = u64::from(is_read && kept.contains(&key));
        let mut with_it = kept.clone();
        with_it.insert(key);
        let choices: Vec<BTreeSet<u64>> = if with_it.len() <= entries {
            vec![with_it]
        } else {
            let without = |gone: &u64| with_it.iter().filter(|kept| *kept != gone).copied().collect();
            with_it.iter().map(without).collect()
        };
        hit + choices.iter().map(|kept| best(rest, kept, entries)).max().unwrap_or(0)
    }

    #[test]
    fn no_choice_gives_more_hits() {
        let mut random = SmallRng::seed_from_u64(2);
        for _ in 0..60 {
            let access = |_| (random.random_range(..5), random.random_bool(0.8));
            let accesses: Vec<(u64, bool)> = (0..11).map(access).collect();
            for entries in 1..4 {
                let (hits, misses) = hits_and_misses(&accesses, entries);
                assert_eq!(hits, best(&accesses, &BTreeSet::new(), entries), "{accesses:?} with {entries}");
                assert_eq!(hits + misses, accesses.iter().filter(|access| access.1).count() as u64);
            }
        }
    }
}
