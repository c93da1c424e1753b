//! One partition: the cache itself, plain and single-handed, composed of its components. Here are the handle, lookups, pins
//! and walks; the other operations are further `impl Partition`, one file each: `put`, `removal`, `large`, `write_back`,
//! `reclaim` and those below it.
//!
//! ```text
//!              ┌────────────┐  reserve   ┌─────────┐
//!  put ──────▶ │ partition  │ ─────────▶ │ reclaim │ pool, compaction, eviction
//!              │            │            └─────────┘
//!              │  table     │ keys to records          SlabAllocator  slots and slabs
//!              │  order     │ what goes next           Directory      records
//!              │  inflight  │ leases, versions         Payload        bytes in slots
//!              └────────────┘
//! ```
//!
//! What one may do without a lock is a type of its own, [`UnlockedPartition`]; `&Partition` needs the lock in any mode,
//! `&mut Partition` the exclusive one.
//!
//! Invariants:
//! - An entry that can be found is named by one bucket once, is in one list of the order of eviction once, and owns its
//!   record and slots.
//! - Every change runs between two marks (`recovery`). Nothing fails after the first write, but for a refusal that leaves
//!   the partition as it was, less what was evicted.
//! - An entry that has expired is as good as absent, whoever asks. Under the shared lock it is left where it is; under the
//!   exclusive one it is removed by whoever meets it. One whose value the store must have (`DIRTY`) never expires.
//! - Capacity in entries is never exceeded, not even while an entry is being added.
//! - One call does bounded work ([`Work`](super::work::Work)).
//!
//! Not here: locks, the choice of the partition, user code, decoding.

use super::counters::{Counters, Stats};
use super::entry::directory::Directory;
use super::entry::payload::Payload;
use super::entry::record::{Pin, Record, Stamp};
use super::evict::{Eviction, EvictionOrder, HitNeeds, Totals};
use super::flight::inflight::Inflight;
use super::flight::version::Version;
use super::hash::{Key, KeyHash};
use super::ids::{ClassIndex, EntryIndex};
use super::index::optimistic::UnlockedPartition;
use super::index::table::Table;
use super::layout::{Layout, PartitionParts, PartitionState};
use super::memory::region::Region;
use super::moment::{Moment, Now};
use super::slab::allocator::SlabAllocator;
use super::slab::area::SlabArea;

/// An entry as a walk sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordInfo {
    /// Generation of the record.
    pub generation: u32,
    /// How often the value was replaced.
    pub version: u32,
    /// Bytes of the value.
    pub value_len: usize,
    /// Insertions and promotions in the partition since the entry was last used.
    pub age: u32,
    /// Whether a use is noted that the order of eviction will honour.
    pub referenced: bool,
    /// Whether a reader uses the entry without a lock at this moment.
    pub pinned: bool,
    /// When the entry expires, if it does.
    pub expires: Option<Moment>,
}

/// A handle to one partition.
#[derive(Debug)]
pub struct Partition {
    state: Region,
    index: u32,
    hash_seed: u64,
    pub(super) max_key_bytes: usize,
    pub(super) max_entry_bytes: usize,
    pub(super) fixed_bytes: usize,
    pub(super) slabs: SlabAllocator,
    pub(super) directory: Directory,
    pub(super) payload: Payload,
    pub(super) table: Table,
    pub(super) order: EvictionOrder,
    pub(super) inflight: Inflight,
    pub(super) counters: Counters,
}

impl Partition {
    /// A handle to partition `index` of a region. It becomes usable by [`Partition::format`] if nobody has formatted it.
    ///
    /// For this crate alone, which orders access: a `&mut` of any handle to the partition excludes every other use of
    /// it, in this and in other processes; that is what the partition's lock is for.
    pub(crate) fn open(region: &Region, layout: &Layout, index: u32, hash_seed: u64) -> Partition {
        let parts: PartitionParts = layout.partition_parts(region, index);
        let area = SlabArea::new(parts.slabs, layout.geometry.slab_bytes);
        let classes = &layout.classes;
        let directory = Directory::open(parts.directory, area, classes.get(ClassIndex::DIRECTORY));
        let records = *directory.records();
        Partition {
            state: parts.state,
            index,
            hash_seed,
            max_key_bytes: layout.max_key_bytes,
            max_entry_bytes: layout.max_entry_bytes,
            fixed_bytes: layout.partition_fixed_bytes(),
            slabs: SlabAllocator::open(parts.allocator, area, classes.clone()),
            directory,
            payload: Payload::new(area, classes.get(classes.largest()).slot_bytes),
            table: Table::open(parts.table, area, layout.geometry.table),
            order: EvictionOrder::open(layout.geometry.policy, parts.order, records),
            inflight: Inflight::open(parts.inflight, records),
            counters: Counters::open(parts.counters),
        }
    }

    /// A handle for what needs no lock.
    pub(crate) fn unlocked(&self) -> UnlockedPartition {
        UnlockedPartition::new(
            self.index,
            self.slabs.clone(),
            self.directory.clone(),
            self.payload,
            self.table.clone(),
            self.order.clone(),
            self.inflight.clone(),
            self.state,
        )
    }

    /// Writes an empty partition over whatever the bytes are.
    pub fn format(&mut self, max_entries: u32) {
        self.state.zero(0, size_of::<PartitionState>());
        self.state().max_entries.set(max_entries);
        self.counters.format();
        self.slabs.format();
        self.directory.format();
        self.table.format();
        self.order.format();
        self.inflight.format();
        self.table.begin_placement_epoch();
    }

    #[inline]
    pub(super) fn state(&self) -> &PartitionState {
        self.state.at(0)
    }

    #[inline]
    pub(super) fn record(&self, entry: EntryIndex) -> &Record {
        self.directory.record(entry)
    }

    /// The hash of an entry's key.
    #[inline]
    pub(super) fn hash_of(&self, entry: EntryIndex) -> KeyHash {
        KeyHash::of(self.payload.key(entry), self.hash_seed)
    }

    /// Hashes the keys of entries, for components that keep none.
    #[inline]
    pub(super) fn hasher(&self) -> impl Fn(EntryIndex) -> KeyHash + use<> {
        let (payload, seed) = (self.payload, self.hash_seed);
        move |entry| KeyHash::of(payload.key(entry), seed)
    }

    #[inline]
    pub(super) fn totals(&self) -> Totals {
        let state = self.state();
        Totals { entries: state.len.get(), bytes: state.live_bytes.get(), max_entries: state.max_entries.get() }
    }

    /// Live entries.
    #[inline]
    pub fn len(&self) -> u32 {
        self.state().len.get()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keys and values of live entries, in bytes.
    pub fn live_bytes(&self) -> u64 {
        self.state().live_bytes.get()
    }

    /// The counters of what was done under the exclusive lock.
    pub fn stats(&self) -> Stats {
        self.counters.stats()
    }

    /// The entry with this key, also one that has expired.
    #[inline]
    pub fn find(&self, key: Key<'_>) -> Option<EntryIndex> {
        self.table.find(key.hash, |entry| self.payload.key_equals(entry, key.bytes))
    }

    /// The entry with this key, unless it has expired.
    #[inline]
    pub fn find_unexpired(&self, key: Key<'_>, now: Now<'_>) -> Option<EntryIndex> {
        self.find(key).filter(|&entry| !self.has_expired(entry, now))
    }

    /// The entry with this key; one that has expired is removed.
    #[inline]
    pub fn find_or_expire(&mut self, key: Key<'_>, now: Now<'_>) -> Option<EntryIndex> {
        let entry = self.find(key)?;
        if self.has_expired(entry, now) {
            self.remove_expired(entry);
            return None;
        }
        Some(entry)
    }

    /// Whether an entry has expired. `now` is asked only if the entry expires at some moment.
    #[inline(always)]
    pub fn has_expired(&self, entry: EntryIndex, now: Now<'_>) -> bool {
        self.record(entry).expires() && self.moment_has_come(entry, now)
    }

    #[cold]
    #[inline(never)]
    fn moment_has_come(&self, entry: EntryIndex, now: Now<'_>) -> bool {
        self.payload.expires(entry).is_some_and(|moment| moment.has_come(now()))
    }

    /// Looks a key up, counts that, and notes the use, whatever the policy. An entry that has expired is removed, and a
    /// miss.
    #[inline]
    pub fn find_and_promote(&mut self, key: Key<'_>, now: Now<'_>) -> Option<EntryIndex> {
        let found = self.find_or_expire(key, now);
        let count = if found.is_some() { self.counters.hits() } else { self.counters.misses() };
        count.add(1);
        if let Some(entry) = found {
            self.promote(entry);
        }
        found
    }

    /// Notes a use of an entry.
    #[inline]
    pub fn promote(&mut self, entry: EntryIndex) {
        match self.order.hit(self.record(entry)) {
            HitNeeds::Nothing => {}
            HitNeeds::Mark => self.order.mark(entry),
            HitNeeds::ExclusiveLock => self.mutate(|partition| partition.order.promote(entry)),
        }
    }

    /// Counts a hit.
    #[inline]
    pub fn count_hit(&mut self) {
        self.counters.hits().add(1);
    }

    /// Counts a miss.
    #[inline]
    pub fn count_miss(&mut self) {
        self.counters.misses().add(1);
    }

    /// Notes a use of an entry under the lock in any mode; `false` if that needs the exclusive lock.
    #[inline]
    pub fn mark(&self, entry: EntryIndex) -> bool {
        match self.order.hit(self.record(entry)) {
            HitNeeds::Nothing => true,
            HitNeeds::Mark => {
                self.order.mark(entry);
                true
            }
            HitNeeds::ExclusiveLock => false,
        }
    }

    /// Bytes of an entry's value.
    #[inline]
    pub fn value_len(&self, entry: EntryIndex) -> usize {
        self.payload.value_len(entry)
    }

    /// Hands the parts of an entry's value to `take`, in order: one, or as many as the value has slots.
    #[inline]
    pub fn copy_parts(&self, entry: EntryIndex, take: impl FnMut(&[u8])) {
        self.payload.for_each_part(entry, take);
    }

    /// An entry's value, if it lies in one piece.
    #[inline]
    pub fn value_in_place(&self, entry: EntryIndex) -> Option<&[u8]> {
        let (offset, len) = self.payload.contiguous_value(entry)?;
        Some(self.slabs.area().region().bytes(offset, len))
    }

    /// An entry's key.
    pub fn key(&self, entry: EntryIndex) -> &[u8] {
        self.payload.key(entry)
    }

    /// The age of the entry that is next to be evicted.
    pub fn oldest_age(&self) -> Option<u32> {
        self.order.oldest(self.totals()).map(|entry| self.age(entry))
    }

    /// Insertions and uses that moved an entry, so far; ages are differences of it. Wraps.
    pub fn tick(&self) -> u32 {
        self.order.tick()
    }

    /// Insertions and uses that moved an entry, since this one was last used.
    pub fn age(&self, entry: EntryIndex) -> u32 {
        self.record(entry).age(self.order.tick())
    }

    /// Pins an entry; `None` if it has 255 pins already.
    #[inline]
    pub fn pin(&self, entry: EntryIndex) -> Option<Pin> {
        let record = self.record(entry);
        record.pin().then(|| Pin { entry, generation: record.generation() })
    }

    /// The first entry at or after `from` in the order of a walk.
    pub fn walk(&self, from: EntryIndex) -> Option<EntryIndex> {
        self.directory.next_entry(&self.slabs, from)
    }

    /// The entry in record `entry`, if it lives in `generation`.
    pub fn resolve(&self, entry: EntryIndex, generation: u32) -> Option<EntryIndex> {
        let is_record = self.directory.is_record(&self.slabs, entry);
        (is_record && self.record(entry).is_entry() && self.record(entry).generation() == generation).then_some(entry)
    }

    /// What a walk says of an entry.
    pub fn info(&self, entry: EntryIndex) -> RecordInfo {
        let record = self.record(entry);
        RecordInfo {
            generation: record.generation(),
            version: record.version(),
            value_len: self.payload.value_len(entry),
            age: self.age(entry),
            referenced: self.order.is_marked(record),
            pinned: record.pins() > 0,
            expires: self.payload.expires(entry),
        }
    }

    /// Pinned entries among the next `limit` from `from` on, and where to go on; `None` after the last. Those that were
    /// removed are counted with the last.
    pub fn count_pinned(&self, from: EntryIndex, limit: usize) -> (u32, Option<EntryIndex>) {
        let (mut count, mut next) = (0, from);
        for _ in 0..limit {
            let Some(entry) = self.walk(next) else {
                return (count + self.state().zombies.get() + self.quarantined_pins(), None);
            };
            count += u32::from(self.record(entry).pins() > 0);
            next = EntryIndex(entry.0 + 1);
        }
        (count, Some(next))
    }

    /// The version of an entry's value.
    #[inline(always)]
    pub fn version_of(&self, hash: KeyHash, entry: EntryIndex) -> Version {
        let (stamp, changes) = (self.record(entry).stamp(), self.inflight.changes(hash));
        let expires = if stamp.expires() { self.payload.expires(entry) } else { None }.unwrap_or_default();
        Version { entry, stamp, changes, partition: self.index, expires }
    }

    /// The version of an entry's value, whose hash is not known.
    pub fn version_of_entry(&self, entry: EntryIndex) -> Version {
        self.version_of(self.hash_of(entry), entry)
    }

    /// The version that stands for a key which is not in the cache, whatever the store has.
    pub(super) fn version_of_absence(&self, hash: KeyHash) -> Version {
        let changes = self.inflight.changes(hash);
        let expires = Moment::default();
        Version { entry: EntryIndex::NONE, stamp: Stamp::NONE, changes, partition: self.index, expires }
    }

    /// Whether an entry has the value that this version was read with.
    pub fn has_version(&self, entry: EntryIndex, version: Version) -> bool {
        (entry, self.record(entry).stamp()) == (version.entry, version.stamp)
    }

    /// The entry of a version, if it still has that value.
    pub fn resolve_version(&self, version: &Version) -> Option<EntryIndex> {
        let entry = version.entry;
        let is_same = !entry.is_none()
            && self.directory.is_record(&self.slabs, entry)
            && self.record(entry).stamp() == version.stamp;
        is_same.then_some(entry)
    }

    /// Times that the partition was emptied because a change was left half-way.
    pub fn resets(&self) -> u64 {
        self.counters.resets().get()
    }
}
