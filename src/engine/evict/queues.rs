//! Lists of entries in the order in which they are to go, and the clock that their ages are told by.
//!
//! A list runs through the records, from the entry that came last to the one that goes first. The tick counts
//! insertions and uses that move an entry; a record notes the tick of its last use. Policies with one list use the main
//! one.
//!
//! Costs: constant. Locking: the partition's exclusive lock.

use std::collections::HashSet;

use crate::engine::entry::record::Records;
use crate::engine::findings::Findings;
use crate::engine::ids::EntryIndex;
use crate::engine::memory::list::List;
use crate::engine::memory::region::{Region, region_struct};
use crate::engine::memory::words::{Word32, Word64};

region_struct! {
    /// The words of the order of eviction.
    pub struct OrderState: 64 bytes, align 64 {
        /// Newest entry of the main list.
        head: Word32,
        /// Oldest entry of the main list.
        tail: Word32,
        /// Newest entry of the small queue.
        small_head: Word32,
        /// Oldest entry of the small queue.
        small_tail: Word32,
        /// Counts insertions and uses that move an entry.
        tick: Word32,
        /// Entries of the small queue.
        pub small_len: Word32,
        /// Ghosts that came again, and whose room no other has taken yet.
        pub ghosts_recalled: Word32,
        _pad: Word32,
        /// Keys and values of the small queue's entries, in bytes.
        pub small_bytes: Word64,
        /// The time that ghosts grow old by: one for each that takes no other's room.
        pub ghost_time: Word64,
        _more_pad: [Word64; 2],
    }
}

/// What a partition holds, and may hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Entries.
    pub entries: u32,
    /// Keys and values, in bytes.
    pub bytes: u64,
    /// The most entries; 0 for no such limit.
    pub max_entries: u32,
}

/// The lists of one partition.
#[derive(Clone, Copy, Debug)]
pub struct Queues {
    region: Region,
    records: Records,
}

impl Queues {
    /// Bytes of the lists' words.
    pub const REGION_BYTES: usize = size_of::<OrderState>();

    /// The lists over their words.
    pub fn open(region: Region, records: Records) -> Queues {
        Queues { region, records }
    }

    /// No entries; the tick goes on.
    pub fn format(&mut self) {
        let tick = self.tick();
        self.region.zero(0, Self::REGION_BYTES);
        self.state().tick.set(tick);
    }

    #[inline]
    pub fn state(&self) -> &OrderState {
        self.region.at(0)
    }

    #[inline]
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// The list of most entries.
    #[inline]
    pub fn main(&self) -> List<'_> {
        let state = self.state();
        List::new(&state.head, &state.tail)
    }

    /// The list of entries on probation.
    #[inline]
    pub fn small(&self) -> List<'_> {
        let state = self.state();
        List::new(&state.small_head, &state.small_tail)
    }

    #[inline]
    pub fn tick(&self) -> u32 {
        self.state().tick.get()
    }

    /// Puts an entry at the head of a list, as used just now.
    #[inline]
    pub fn push(&self, list: List<'_>, entry: EntryIndex) {
        list.push_front(&self.records, entry.0);
        let tick = self.tick().wrapping_add(1);
        self.state().tick.set(tick);
        self.records.get(entry).touch(tick, 0);
    }

    /// Takes an entry out of its list.
    #[inline]
    pub fn remove(&self, list: List<'_>, entry: EntryIndex) {
        list.remove(&self.records, entry.0);
    }

    /// Puts `new` where `old` is, with its last use.
    pub fn replace(&self, list: List<'_>, old: EntryIndex, new: EntryIndex) {
        list.replace(&self.records, old.0, new.0);
        self.records.get(new).touch_as(self.records.get(old));
    }

    /// Moves an entry to the head of a list, which is no use: its age still dates from the last real one.
    pub fn requeue(&self, from: List<'_>, to: List<'_>, entry: EntryIndex, uses: u32) {
        let last_use = self.records.get(entry).last_use();
        self.remove(from, entry);
        self.push(to, entry);
        self.records.get(entry).touch(last_use, uses);
    }

    /// The entry that goes first.
    #[inline]
    pub fn last(&self, list: List<'_>) -> Option<EntryIndex> {
        EntryIndex(list.last()).some()
    }

    /// Checks a list; returns its entries and their bytes.
    pub fn validate(
        &self,
        name: &str,
        list: List<'_>,
        bytes_of: &dyn Fn(EntryIndex) -> Option<u64>,
        findings: &mut Findings,
    ) -> (HashSet<EntryIndex>, u64) {
        let (mut seen, mut bytes) = (HashSet::new(), 0);
        let (mut previous, mut entry) = (EntryIndex::NONE, EntryIndex(list.first()));
        while !entry.is_none() {
            let Some(own_bytes) = bytes_of(entry) else {
                findings.add(|| format!("the {name} has {}, which is no live entry", entry.0));
                break;
            };
            if !seen.insert(entry) {
                findings.add(|| format!("the {name} comes back to record {}", entry.0));
                break;
            }
            bytes += own_bytes;
            let record = self.records.get(entry);
            let what = || format!("previous of record {} in the {name}", entry.0);
            findings.expect(what, record.previous.get(), previous.0);
            previous = entry;
            entry = EntryIndex(record.next.get());
        }
        findings.expect(|| format!("end of the {name}"), list.last(), previous.0);
        (seen, bytes)
    }
}
