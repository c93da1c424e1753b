//! CLOCK, or second chance (Corbató, "A Paging Experiment with the Multics System", 1968): one list; a hit sets the
//! entry's reference bit; a search from the tail moves referenced entries to the head, their bit cleared, until it meets
//! one without.
//!
//! A search puts back at most [`MAX_LAP`] entries: then the next goes though it was used, so that a lap over a cache of
//! which every entry was used is shared by many searches.

use super::eviction::{Candidates, Eviction, HitNeeds, Search};
use super::queues::Queues;
use crate::engine::entry::record::{Flags, Record, Records};
use crate::engine::ids::EntryIndex;
use crate::engine::memory::region::Region;
use crate::engine::work::Work;

/// Entries that one search puts back because they were used, at most.
pub(super) const MAX_LAP: u32 = Work::UNITS_A_HOLD / 2;

/// The policy's state in one partition.
#[derive(Clone, Debug)]
pub struct Clock {
    queues: Queues,
}

impl Clock {
    /// Bytes of its words.
    pub fn region_bytes(_expected_entries: u64) -> usize {
        Queues::REGION_BYTES
    }

    /// The policy over its words.
    pub fn open(region: Region, records: Records) -> Clock {
        Clock { queues: Queues::open(region, records) }
    }

    #[inline]
    fn is_referenced(record: &Record) -> bool {
        record.has(Flags::POLICY)
    }
}

impl Eviction for Clock {
    const MAIN_LIST: &'static str = "clock";

    #[inline]
    fn queues(&self) -> &Queues {
        &self.queues
    }

    fn format(&mut self) {
        self.queues.format();
    }

    #[inline(always)]
    fn hit(&self, record: &Record) -> HitNeeds {
        if Self::is_referenced(record) { HitNeeds::Nothing } else { HitNeeds::Mark }
    }

    #[inline]
    fn mark(&self, entry: EntryIndex) {
        let record = self.queues.records().get(entry);
        if !Self::is_referenced(record) {
            record.set_flags(Flags::POLICY);
            record.touch(self.queues.tick(), 0);
        }
    }

    fn promote(&mut self, entry: EntryIndex) {
        self.mark(entry);
    }

    fn is_marked(&self, record: &Record) -> bool {
        Self::is_referenced(record)
    }

    fn victim(&mut self, candidates: &Candidates<'_>, work: &mut Work) -> Search {
        let main = self.queues.main();
        let mut put_back = 0;
        while let Some(entry) = self.queues.last(main) {
            let record = self.queues.records().get(entry);
            if !(candidates.may_evict)(entry) {
                if !work.pass_over(candidates.totals.entries) {
                    break;
                }
            } else if Self::is_referenced(record) && put_back < MAX_LAP {
                put_back += 1;
                work.meet();
                work.spend(1);
            } else {
                work.meet();
                return Search::Victim(entry);
            }
            record.clear_flags(Flags::POLICY);
            self.queues.requeue(main, main, entry, 0);
            if work.is_spent() {
                return Search::OutOfWork;
            }
        }
        work.note_nothing_to_evict();
        Search::NothingToEvict
    }
}
