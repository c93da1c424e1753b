//! Keys in flight: leases of workers that load a key from the store behind the cache, or write it back.
//!
//! ```text
//! region  ┌─────────────────────┬──────────┬──────────┐
//!         │ counts              │ changes… │ Lease…   │       31 leases in each partition
//!         └─────────────────────┴──────────┴──────────┘
//! Lease   0       8       12     16      20       24
//!         ┌───────┬───────┬──────┬───────┬────────┐
//!         │ hash  │ owner │ kind │ entry │ serial │
//!         └───────┴───────┴──────┴───────┴────────┘
//! ```
//!
//! A lease names the key by its hash: two keys of one hash wait for each other, which costs time and nothing else. Its
//! owner is a process. `entry` is the entry that must stay as long as the lease: the one that is written back, or the
//! one that was stored while its key was being loaded. Such an entry carries the flag `LEASED` and is not evicted.
//!
//! Invariants:
//! - A key that is being written has no other lease. It is loaded by one worker, but a worker that must not wait may load
//!   beside it ([`Concurrency::AllowDuplicate`]): reading twice does no harm. So the store is never written and read for
//!   one key at once.
//! - A load is *superseded* by a value that is stored meanwhile: the store may have got that value and a newer one since,
//!   and what the load brings may be older than both, so it is not cached.
//! - A lease ends by its owner, and by nothing else that happens to the entry; only leases of dead processes are released
//!   by others. `serial` tells a lease from the next in its place.
//!
//! Locking: the partition's exclusive lock; any mode to look. Costs: a look at 31 leases, where there are any at all.

use crate::engine::entry::record::{Flags, Records};
use crate::engine::findings::Findings;
use crate::engine::hash::KeyHash;
use crate::engine::ids::EntryIndex;
use crate::engine::memory::region::{Region, region_struct};
use crate::engine::memory::words::{Word32, Word64};

/// The most leases at one time in one partition.
pub const MAX_LEASES: usize = 31;
const CHANGE_STRIPES: usize = 64;

region_struct! {
    struct InflightState: 1024 bytes, align 64 {
        /// Leases in use.
        in_use: Word32,
        _pad: Word32,
        /// Leases that ended: who waits for room looks again when it changes.
        completed: Word64,
        /// Dirty values stored, by some bits of the key's hash.
        changes: [Word32; CHANGE_STRIPES],
        leases: [Lease; MAX_LEASES],
        _end: Word64,
    }
}

region_struct! {
    /// A lease, or room for one.
    struct Lease: 24 bytes, align 8 {
        hash: Word64,
        /// Process id; 0 for none.
        owner: Word32,
        kind: Word32,
        entry: Word32,
        serial: Word32,
    }
}

/// The key is being written. Else it is being loaded.
const WRITE: u32 = 1;
/// The key was stored since its load began.
const SUPERSEDED: u32 = 2;

impl Lease {
    fn is_free(&self) -> bool {
        self.owner.get() == 0
    }

    fn is_write(&self) -> bool {
        self.kind.get() & WRITE != 0
    }
}

/// Names one lease, and no later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseId {
    index: u32,
    serial: u32,
}

/// Whether a worker puts up with another that does the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concurrency {
    /// One load of a key at a time.
    Single,
    /// A load beside another one: for a worker that must not wait.
    AllowDuplicate,
}

/// The leases of one partition.
#[derive(Clone, Debug)]
pub struct Inflight {
    region: Region,
    records: Records,
}

impl Inflight {
    /// Bytes of its words.
    pub const REGION_BYTES: usize = size_of::<InflightState>();

    /// The leases over their words.
    pub fn open(region: Region, records: Records) -> Inflight {
        Inflight { region, records }
    }

    /// No lease, no change.
    pub fn format(&mut self) {
        self.region.zero(0, Self::REGION_BYTES);
    }

    /// Every entry is lost: leases stand for themselves, what loads bring may be old, and so is every version. Part of a
    /// reset, which may have found a lease half made.
    pub fn reset(&mut self) {
        for lease in self.leases() {
            lease.entry.set(EntryIndex::NONE.0);
            if !lease.is_write() {
                lease.kind.set(SUPERSEDED);
            }
        }
        let state = self.state();
        state.in_use.set(self.leases().count() as u32);
        state.completed.add(1);
        state.changes.iter().for_each(|count| count.store_release(count.get().wrapping_add(1)));
    }

    #[inline]
    fn state(&self) -> &InflightState {
        self.region.at(0)
    }

    fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.state().leases.iter().filter(|lease| !lease.is_free())
    }

    fn leases_on(&self, hash: KeyHash) -> impl Iterator<Item = &Lease> {
        self.leases().filter(move |lease| lease.hash.get() == hash.0)
    }

    fn leases_of(&self, entry: EntryIndex) -> impl Iterator<Item = &Lease> {
        self.leases().filter(move |lease| lease.entry.get() == entry.0)
    }

    #[inline]
    fn is_empty(&self) -> bool {
        self.state().in_use.get() == 0
    }

    fn lease(&self, id: LeaseId) -> Option<&Lease> {
        let lease = self.state().leases.get(id.index as usize)?;
        (!lease.is_free() && lease.serial.get() == id.serial).then_some(lease)
    }

    fn changes_word(&self, hash: KeyHash) -> &Word32 {
        &self.state().changes[hash.change_stripe(CHANGE_STRIPES)]
    }

    /// The count of changes that a key shares with others. Without the lock, too: a value that is read afterwards has
    /// every change that is counted in it.
    #[inline]
    pub fn changes(&self, hash: KeyHash) -> u32 {
        self.changes_word(hash).load_acquire()
    }

    /// Counts a dirty value that was stored: an entry is its key's. Loads of the key are superseded.
    pub fn note_change(&mut self, hash: KeyHash, entry: EntryIndex) {
        let changes = self.changes_word(hash);
        changes.store_release(changes.get().wrapping_add(1));
        if self.is_empty() {
            return;
        }
        for lease in self.leases_on(hash).filter(|lease| !lease.is_write()) {
            lease.kind.set(SUPERSEDED);
            lease.entry.set(entry.0);
            self.records.get(entry).set_flags(Flags::LEASED);
        }
    }

    /// Leases that ended so far.
    pub fn completed(&self) -> u64 {
        self.state().completed.get()
    }

    /// Whether some worker is loading or writing a key.
    pub fn is_leased(&self, hash: KeyHash) -> bool {
        !self.is_empty() && self.leases_on(hash).next().is_some()
    }

    /// Whether a load of the key may start: nobody writes it, and nobody loads it, or that may be.
    pub fn may_load(&self, hash: KeyHash, concurrency: Concurrency) -> bool {
        let is_in_the_way = |lease: &Lease| lease.is_write() || concurrency == Concurrency::Single;
        self.is_empty() || !self.leases_on(hash).any(is_in_the_way)
    }

    /// Leases in use: loads, and write-backs.
    pub fn counts(&self) -> (u32, u32) {
        let writes = self.leases().filter(|lease| lease.is_write()).count() as u32;
        (self.leases().count() as u32 - writes, writes)
    }

    /// Leases the load of an absent key to a process; `None` if the table is full.
    pub fn lease_load(&mut self, hash: KeyHash, owner: u32) -> Option<LeaseId> {
        self.add(hash, owner, 0, EntryIndex::NONE)
    }

    /// Leases the write of an evictable entry to a process; `None` if the table is full, or if its key is still leased
    /// for an earlier entry that a reset has discarded.
    pub fn lease_write(&mut self, hash: KeyHash, owner: u32, entry: EntryIndex) -> Option<LeaseId> {
        if self.leases_on(hash).next().is_some() {
            return None;
        }
        self.add(hash, owner, WRITE, entry)
    }

    fn add(&mut self, hash: KeyHash, owner: u32, kind: u32, entry: EntryIndex) -> Option<LeaseId> {
        let state = self.state();
        let index = state.leases.iter().position(Lease::is_free)?;
        let lease = &state.leases[index];
        lease.hash.set(hash.0);
        lease.kind.set(kind);
        lease.entry.set(entry.0);
        lease.serial.set(lease.serial.get().wrapping_add(1));
        lease.owner.set(owner);
        state.in_use.add(1);
        if !entry.is_none() {
            self.records.get(entry).set_flags(Flags::LEASED);
        }
        Some(LeaseId { index: index as u32, serial: lease.serial.get() })
    }

    /// Whether a lease still stands.
    pub fn stands(&self, id: LeaseId) -> bool {
        self.lease(id).is_some()
    }

    /// Releases a lease, and returns the entry that stayed for it; nothing happens if it has ended.
    pub fn release(&mut self, id: LeaseId) -> Option<EntryIndex> {
        self.lease(id)?;
        self.remove(id.index as usize)
    }

    fn remove(&mut self, index: usize) -> Option<EntryIndex> {
        let state = self.state();
        let lease = &state.leases[index];
        let entry = EntryIndex(lease.entry.get()).some();
        lease.owner.set(0);
        state.in_use.sub(1);
        state.completed.add(1);
        if let Some(entry) = entry.filter(|&entry| self.leases_of(entry).next().is_none()) {
            self.records.get(entry).clear_flags(Flags::LEASED);
        }
        entry
    }

    /// Entries that must stay because of leases, each once, in the order of the directory.
    pub fn leased_entries(&self) -> Vec<EntryIndex> {
        let mut entries: Vec<_> = self.leases().filter_map(|lease| EntryIndex(lease.entry.get()).some()).collect();
        entries.sort_unstable();
        entries.dedup();
        entries
    }

    /// The processes that have leases.
    pub fn owners(&self) -> Vec<u32> {
        self.leases().map(|lease| lease.owner.get()).collect()
    }

    /// Releases every lease of a process that is dead.
    pub fn release_all_of(&mut self, owner: u32) {
        for index in 0..MAX_LEASES {
            if self.state().leases[index].owner.get() == owner {
                self.remove(index);
            }
        }
    }

    /// Whether what a load brings is not to be cached: its key was stored meanwhile, or its lease has ended.
    pub fn is_superseded(&self, id: LeaseId) -> bool {
        self.lease(id).is_none_or(|lease| lease.kind.get() & SUPERSEDED != 0)
    }

    /// Transfers leases to the entry that takes another's place, or to none.
    #[inline]
    pub fn transfer(&mut self, from: EntryIndex, to: EntryIndex) {
        if !self.records.get(from).has(Flags::LEASED) {
            return;
        }
        self.leases_of(from).for_each(|lease| lease.entry.set(to.0));
        self.records.get(from).clear_flags(Flags::LEASED);
        if !to.is_none() {
            self.records.get(to).set_flags(Flags::LEASED);
        }
    }

    /// Checks the count of leases.
    pub fn validate(&self, findings: &mut Findings) {
        findings.expect(|| "leases in use".into(), self.state().in_use.get() as usize, self.leases().count());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::slab::area::SlabArea;

    fn inflight() -> Inflight {
        let area = SlabArea::new(Region::leaked(8 * 4096), 4096);
        let mut inflight = Inflight::open(Region::leaked(Inflight::REGION_BYTES), Records::new(area));
        inflight.format();
        inflight
    }

    const KEY: KeyHash = KeyHash(7);
    const OTHER: KeyHash = KeyHash(8);

    #[test]
    fn a_key_is_loaded_by_one_worker_unless_a_duplicate_is_allowed() {
        let mut inflight = inflight();
        assert!(inflight.may_load(KEY, Concurrency::Single));
        let load = inflight.lease_load(KEY, 1).unwrap();
        assert!(!inflight.may_load(KEY, Concurrency::Single) && inflight.may_load(OTHER, Concurrency::Single));
        assert!(inflight.may_load(KEY, Concurrency::AllowDuplicate));
        assert_eq!((inflight.counts(), inflight.completed()), ((1, 0), 0));
        inflight.release(load);
        assert_eq!((inflight.counts(), inflight.completed()), ((0, 0), 1));
        assert_eq!(inflight.release(load), None);
        assert_eq!(inflight.completed(), 1, "a lease ends once");
    }

    #[test]
    fn a_key_that_is_written_is_neither_loaded_nor_written_twice() {
        let mut inflight = inflight();
        let write = inflight.lease_write(KEY, 1, EntryIndex(5)).unwrap();
        assert!(!inflight.may_load(KEY, Concurrency::AllowDuplicate));
        assert_eq!(inflight.lease_write(KEY, 2, EntryIndex(6)), None);
        assert!(inflight.records.get(EntryIndex(5)).has(Flags::LEASED));
        assert_eq!(inflight.release(write), Some(EntryIndex(5)));
        assert!(!inflight.records.get(EntryIndex(5)).has(Flags::LEASED));
    }

    #[test]
    fn a_value_stored_meanwhile_supersedes_a_load_and_stays() {
        let mut inflight = inflight();
        let load = inflight.lease_load(KEY, 1).unwrap();
        let other = inflight.lease_load(KeyHash(KEY.0 + 1), 1).unwrap();
        let before = inflight.changes(KEY);
        inflight.note_change(KEY, EntryIndex(9));
        assert!(inflight.is_superseded(load) && !inflight.is_superseded(other));
        assert_ne!(inflight.changes(KEY), before);
        assert_eq!(inflight.leased_entries(), [EntryIndex(9)]);
        inflight.transfer(EntryIndex(9), EntryIndex(10));
        assert_eq!(inflight.leased_entries(), [EntryIndex(10)]);
        assert_eq!(inflight.release(load), Some(EntryIndex(10)));
    }

    #[test]
    fn the_leases_of_a_dead_process_are_released_and_no_others() {
        let mut inflight = inflight();
        let mut leases = Vec::new();
        for number in 0..MAX_LEASES as u64 {
            leases.push(inflight.lease_load(KeyHash(number), 1 + number as u32 % 2).unwrap());
        }
        assert_eq!(inflight.lease_load(KeyHash(99), 1), None, "the table is full");
        inflight.release_all_of(1);
        assert!(leases.iter().enumerate().all(|(number, &lease)| inflight.stands(lease) == (number % 2 == 1)));
        assert!(inflight.lease_load(KeyHash(99), 3).is_some());
        assert!(!inflight.stands(leases[0]), "the next lease in its place is another");
    }

    #[test]
    fn after_a_reset_loads_are_superseded_and_leases_stand_for_themselves() {
        let mut inflight = inflight();
        let load = inflight.lease_load(KEY, 1).unwrap();
        let write = inflight.lease_write(OTHER, 1, EntryIndex(3)).unwrap();
        let before = inflight.changes(KEY);
        inflight.reset();
        assert!(inflight.is_superseded(load) && inflight.stands(write));
        assert_eq!(inflight.release(write), None, "its entry is lost");
        assert_ne!(inflight.changes(KEY), before);
    }
}
