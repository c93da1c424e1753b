//! S3-FIFO: two queues, so that what is used once does not push out what is used again.
//!
//! After Yang et al., "FIFO Queues are All You Need for Cache Eviction" (SOSP 2023), with the authors' own parameters:
//!
//! ```text
//! new key ──────────▶ small ── used twice or more ──▶ main ◀──┐ used: one use less
//!                       │ else                         │ │    │
//! key that is a ghost ──┼─────────────────────────────▶│ └────┘
//!                       ▼                              ▼ not used
//!                 evicted, a ghost                  evicted
//! ```
//!
//! - A hit counts uses, up to three. Nothing moves: an entry goes from queue to queue when its turn to be evicted comes,
//!   its uses forgotten on the way to main.
//! - Victims come from the small queue while it holds at least a tenth of the cache, otherwise from main. The tenth is
//!   measured in entries if the capacity is in entries, otherwise in bytes including metadata.
//! - A ghost is a key that was evicted from the small queue not long ago; see `ghost`.
//!
//! Invariants: the policy's flag of a record says which queue its entry is in; `small_len` and `small_bytes` are the sums
//! over the small queue. Cost: a search puts back entries that were used; each that it puts back in main takes a hit to
//! be put back again, and each that it moves to main was inserted. At most [`MAX_LAP`] in one search: then the next goes.

use super::clock::MAX_LAP;
use super::eviction::{Candidates, Eviction, HitNeeds, Search};
use super::ghost::GhostTable;
use super::queues::{Queues, Totals};
use crate::engine::entry::ENTRY_METADATA_BYTES;
use crate::engine::entry::record::{Flags, MAX_USES, Record, Records};
use crate::engine::findings::Findings;
use crate::engine::hash::KeyHash;
use crate::engine::ids::EntryIndex;
use crate::engine::memory::list::List;
use crate::engine::memory::region::Region;
use crate::engine::work::Work;

/// The small queue's share of the cache is `1 / SMALL_SHARE`.
const SMALL_SHARE: u64 = 10;
/// With so many uses an entry of the small queue goes on to main.
const USES_FOR_MAIN: u32 = 2;

/// The policy's state in one partition.
#[derive(Clone, Debug)]
pub struct S3Fifo {
    queues: Queues,
    ghosts: GhostTable,
}

impl S3Fifo {
    /// Bytes of its words.
    pub fn region_bytes(expected_entries: u64) -> usize {
        Queues::REGION_BYTES + GhostTable::region_bytes(expected_entries)
    }

    /// The policy over its words.
    pub fn open(region: Region, records: Records) -> S3Fifo {
        let queues = Queues::open(region.part(0, Queues::REGION_BYTES), records);
        let ghosts = region.part(Queues::REGION_BYTES, region.len_bytes() - Queues::REGION_BYTES);
        S3Fifo { queues, ghosts: GhostTable::open(ghosts) }
    }

    #[inline]
    fn is_small(&self, entry: EntryIndex) -> bool {
        self.queues.records().get(entry).has(Flags::POLICY)
    }

    fn list_of(&self, entry: EntryIndex) -> List<'_> {
        if self.is_small(entry) { self.queues.small() } else { self.queues.main() }
    }

    fn charge_small(&self, bytes: u64) {
        self.queues.state().small_len.add(1);
        self.queues.state().small_bytes.add(bytes);
    }

    fn uncharge_small(&self, bytes: u64) {
        self.queues.state().small_len.sub(1);
        self.queues.state().small_bytes.sub(bytes);
    }

    /// How many keys that were evicted are remembered: main's share of the entries.
    fn remembered(entries: u32) -> u64 {
        let entries = u64::from(entries);
        entries - entries / SMALL_SHARE
    }

    /// Whether the next entry to evict is one of the small queue.
    fn small_is_next(&self, totals: Totals) -> bool {
        let weight = |entries: u32, bytes: u64| match totals.max_entries {
            0 => bytes + u64::from(entries) * ENTRY_METADATA_BYTES,
            _ => u64::from(entries),
        };
        let state = self.queues.state();
        let small = weight(state.small_len.get(), state.small_bytes.get());
        small > 0 && small >= weight(totals.entries, totals.bytes) / SMALL_SHARE
    }

    fn move_to_main(&mut self, entry: EntryIndex, bytes: u64) {
        self.uncharge_small(bytes);
        self.queues.requeue(self.queues.small(), self.queues.main(), entry, 0);
        self.queues.records().get(entry).clear_flags(Flags::POLICY);
    }
}

impl Eviction for S3Fifo {
    const MAIN_LIST: &'static str = "main queue";

    #[inline]
    fn queues(&self) -> &Queues {
        &self.queues
    }

    fn format(&mut self) {
        self.queues.format();
        self.ghosts.format();
    }

    fn insert(&mut self, entry: EntryIndex, hash: KeyHash, bytes: u64, totals: Totals) {
        let age_limit = Self::remembered(totals.entries);
        if self.ghosts.recall(self.queues.state(), hash, age_limit) {
            self.queues.push(self.queues.main(), entry);
        } else {
            self.queues.records().get(entry).set_flags(Flags::POLICY);
            self.queues.push(self.queues.small(), entry);
            self.charge_small(bytes);
        }
    }

    fn remove(&mut self, entry: EntryIndex, bytes: u64) {
        self.queues.remove(self.list_of(entry), entry);
        if self.is_small(entry) {
            self.uncharge_small(bytes);
        }
    }

    fn note_eviction(&mut self, entry: EntryIndex, hash: KeyHash) {
        if self.is_small(entry) {
            self.ghosts.remember(self.queues.state(), hash);
        }
    }

    fn replace(&mut self, old: EntryIndex, old_bytes: u64, new: EntryIndex, new_bytes: u64) {
        let small = self.is_small(old);
        self.queues.records().get(new).put_flags(Flags::POLICY, small);
        self.queues.replace(self.list_of(old), old, new);
        if small {
            self.uncharge_small(old_bytes);
            self.charge_small(new_bytes);
        }
    }

    fn resize(&mut self, entry: EntryIndex, bytes_before: u64, bytes: u64) {
        if self.is_small(entry) {
            self.uncharge_small(bytes_before);
            self.charge_small(bytes);
        }
    }

    #[inline(always)]
    fn hit(&self, record: &Record) -> HitNeeds {
        if record.uses() < MAX_USES { HitNeeds::Mark } else { HitNeeds::Nothing }
    }

    #[inline]
    fn mark(&self, entry: EntryIndex) {
        let record = self.queues.records().get(entry);
        let uses = record.uses();
        if uses < MAX_USES {
            record.touch(self.queues.tick(), uses + 1);
        }
    }

    fn promote(&mut self, entry: EntryIndex) {
        self.mark(entry);
    }

    fn is_marked(&self, record: &Record) -> bool {
        record.uses() > 0
    }

    fn victim(&mut self, candidates: &Candidates<'_>, work: &mut Work) -> Search {
        // Entries of the small queue not met yet; and what is enough for each entry to be met in main with three uses,
        // two, one and none.
        let mut small_left = self.queues.state().small_len.get();
        let all_of_main = 4 * u64::from(candidates.totals.entries);
        let mut main_left = all_of_main;
        // Met in main one after the other, and none of them may go: after a lap, main has nothing.
        let mut stay_in_main = 0;
        let mut put_back = 0;
        while small_left > 0 || main_left > 0 {
            let from_small = small_left > 0 && (main_left == 0 || self.small_is_next(candidates.totals));
            let list = if from_small { self.queues.small() } else { self.queues.main() };
            let Some(entry) = self.queues.last(list) else {
                if from_small {
                    small_left = 0
                } else {
                    main_left = 0
                }
                continue;
            };
            if from_small {
                small_left -= 1
            } else {
                main_left -= 1
            }
            let uses = self.queues.records().get(entry).uses();
            let is_free = (candidates.may_evict)(entry);
            if is_free {
                work.meet();
                stay_in_main = 0;
            } else if !from_small {
                stay_in_main += 1;
                if stay_in_main >= candidates.totals.entries - self.queues.state().small_len.get() {
                    main_left = 0;
                }
            }
            if is_free && (put_back >= MAX_LAP || uses < if from_small { USES_FOR_MAIN } else { 1 }) {
                return Search::Victim(entry);
            }
            if !is_free && !work.pass_over(candidates.totals.entries) {
                main_left = 0;
                if from_small {
                    break;
                }
            }
            put_back += u32::from(is_free);
            work.spend(u32::from(is_free));
            match (from_small, is_free) {
                (true, true) => {
                    self.move_to_main(entry, (candidates.bytes_of)(entry));
                    main_left = all_of_main;
                }
                (true, false) => self.queues.requeue(list, list, entry, uses),
                (false, _) => self.queues.requeue(list, list, entry, uses.saturating_sub(1)),
            }
            if work.is_spent() {
                return Search::OutOfWork;
            }
        }
        work.note_nothing_to_evict();
        Search::NothingToEvict
    }

    fn oldest(&self, totals: Totals) -> Option<EntryIndex> {
        let (first, second) = (self.queues.small(), self.queues.main());
        if self.small_is_next(totals) { self.queues.last(first) } else { self.queues.last(second) }
    }

    fn validate(&self, totals: Totals, bytes_of: &dyn Fn(EntryIndex) -> Option<u64>, findings: &mut Findings) {
        let (main, _) = self.queues.validate(Self::MAIN_LIST, self.queues.main(), bytes_of, findings);
        let (small, bytes) = self.queues.validate("small queue", self.queues.small(), bytes_of, findings);
        findings.expect(|| "entries in the queues".into(), (main.len() + small.len()) as u32, totals.entries);
        findings.expect(
            || "entries of the small queue".into(),
            self.queues.state().small_len.get(),
            small.len() as u32,
        );
        findings.expect(|| "bytes of the small queue".into(), self.queues.state().small_bytes.get(), bytes);
        for (entries, expected) in [(&main, false), (&small, true)] {
            for &entry in entries {
                findings.expect(|| format!("record {} being small", entry.0), self.is_small(entry), expected);
            }
        }
        self.ghosts.validate(findings);
    }
}

#[cfg(test)]
mod tests;
