//! Exact least recently used: one list; a hit moves the entry to the head, the victim is the tail.

use super::eviction::{Candidates, Eviction, HitNeeds, Search};
use super::queues::Queues;
use crate::engine::entry::record::{Record, Records};
use crate::engine::ids::EntryIndex;
use crate::engine::memory::region::Region;
use crate::engine::work::Work;

/// Entries that may not be evicted and stay where they are when a search passes; if there are more at the end of the
/// list, they go to its head, or every search would pass them.
const MAX_LEFT_IN_PLACE: usize = 64;

/// The policy's state in one partition.
#[derive(Clone, Debug)]
pub struct Lru {
    queues: Queues,
}

impl Lru {
    /// Bytes of its words.
    pub fn region_bytes(_expected_entries: u64) -> usize {
        Queues::REGION_BYTES
    }

    /// The policy over its words.
    pub fn open(region: Region, records: Records) -> Lru {
        Lru { queues: Queues::open(region, records) }
    }
}

impl Eviction for Lru {
    const MAIN_LIST: &'static str = "recency list";

    #[inline]
    fn queues(&self) -> &Queues {
        &self.queues
    }

    fn promotes_on_hit(&self) -> bool {
        true
    }

    fn format(&mut self) {
        self.queues.format();
    }

    #[inline]
    fn hit(&self, _record: &Record) -> HitNeeds {
        HitNeeds::ExclusiveLock
    }

    #[inline]
    fn promote(&mut self, entry: EntryIndex) {
        let main = self.queues.main();
        if main.first() != entry.0 {
            self.queues.remove(main, entry);
            self.queues.push(main, entry);
        }
    }

    fn is_marked(&self, _record: &Record) -> bool {
        false
    }

    #[inline]
    fn victim(&mut self, candidates: &Candidates<'_>, work: &mut Work) -> Search {
        let main = self.queues.main();
        // A few are passed over where they are, so that they keep their turn.
        let records = self.queues.records();
        let towards_head = |&entry: &EntryIndex| EntryIndex(records.get(entry).previous.get()).some();
        let mut oldest = std::iter::successors(self.queues.last(main), towards_head).take(MAX_LEFT_IN_PLACE);
        if let Some(victim) = oldest.find(|&entry| (candidates.may_evict)(entry)) {
            work.meet();
            return Search::Victim(victim);
        }
        while let Some(entry) = self.queues.last(main) {
            if (candidates.may_evict)(entry) {
                work.meet();
                return Search::Victim(entry);
            }
            if !work.pass_over(candidates.totals.entries) {
                break;
            }
            self.queues.requeue(main, main, entry, 0);
            if work.is_spent() {
                return Search::OutOfWork;
            }
        }
        work.note_nothing_to_evict();
        Search::NothingToEvict
    }
}
