//! One partition: the cache itself, plain and single-handed, composed of its components.
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
//! A value is stored in three steps: *reserve* a record and slots (only this may evict, compact, or be refused), *fill*
//! them, *publish* the entry. Removal is three verbs: *unlink* (nobody finds the entry any more), *retire* (it is counted
//! no more, and waits for its last pin), *free* (its memory returns).
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
//! - One call does bounded work ([`Work`]).
//!
//! Not here: locks, the choice of the partition, user code, decoding.

use super::counters::{Counters, Removal, Stats};
use super::entry::directory::Directory;
use super::entry::payload::{Lengths, Payload, PayloadShape};
use super::entry::record::{Flags, Pin, Record, Stamp};
use super::evict::{Eviction, EvictionOrder, HitNeeds, Search, Totals};
use super::evicted::{Evicted, OnEvict};
use super::flight::inflight::{Concurrency, Inflight, LeaseId};
use super::flight::version::Version;
use super::hash::{Key, KeyHash};
use super::ids::{ClassIndex, EntryIndex};
use super::index::optimistic::UnlockedPartition;
use super::index::table::Table;
use super::layout::{Layout, PartitionParts, PartitionState};
use super::memory::region::Region;
use super::moment::{Moment, Now};
use super::reservation::{NoRoom, Reclaim, Reservation};
use super::slab::allocator::SlabAllocator;
use super::slab::area::SlabArea;
use super::work::Work;

/// What a put did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The key is new.
    Inserted,
    /// The key had a value that had not expired, which is replaced.
    Replaced,
}

/// Why a push was refused. The cache is as before, but for entries that were evicted to make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// The key is longer than half of the largest slot (or 65,535 bytes).
    #[error("a key of {bytes} bytes is too long: at most {max} bytes with this slab size")]
    KeyTooLong {
        /// Length of the key.
        bytes: usize,
        /// Longest key.
        max: usize,
    },
    /// Key and value take more than one entry may.
    #[error(
        "an entry of {bytes} bytes (key and value) is too large: at most {max} bytes in this cache, a quarter of a partition; use fewer partitions or more memory"
    )]
    TooLarge {
        /// Length of key plus value, and 4 for the moment at which the entry expires, if it does.
        bytes: usize,
        /// Largest entry.
        max: usize,
    },
    /// No room could be made.
    #[error(
        "no room for an entry of {bytes} bytes: nothing may be evicted, {pinned} entries of the partition are pinned by readers"
    )]
    Full {
        /// Length of key plus value.
        bytes: usize,
        /// Entries that could not be evicted.
        pinned: u32,
    },
    /// The system gave no memory for an entry that must make way and is to be kept.
    #[error("no memory for an evicted entry: store with less at a time, or let evicted entries go")]
    OutOfMemory,
    /// The entry would expire later than a moment can be told: 13.6 years after the cache was created.
    #[error(
        "a time to live of {ttl_seconds} s is too long: at most {max_seconds} s from now on, for 13.6 years after a cache was created its time ends; use none, or create the cache anew"
    )]
    TtlTooLong {
        /// Seconds to live, as asked for.
        ttl_seconds: u64,
        /// The most, at this moment.
        max_seconds: u64,
    },
}

/// Why a call has not done what it was asked for, or not all of it. The partition is whole; what was evicted or moved
/// stays so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfinished {
    /// It will never be done.
    Refused(PushError),
    /// The lock has been held long enough: call again with renewed work.
    OutOfWork,
    /// A large entry was evicted and is kept for the caller, pinned by it: copy it, free it, and call again.
    CopyFirst(Pin),
    /// A dirty entry must be written back first.
    Dirty(EntryIndex),
    /// The next entry has so many bytes of key and value, for which there is no room. It stays.
    NeedsRoom(usize),
}

/// What became of the entry that was next to be evicted, which is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Popped {
    /// There was none.
    Nothing,
    /// It was collected.
    Entry {
        /// Its age.
        age: u32,
    },
    /// It had expired, and was dropped.
    Expired,
}

/// Where an entry goes that is taken out.
#[derive(Debug)]
pub enum Collect<'a> {
    /// Nowhere.
    Nothing,
    /// It is appended.
    Growing(&'a mut Evicted),
    /// It is appended if there is room for it.
    Within(&'a mut Evicted),
}

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

/// What must hold for a value to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Nothing.
    Anything,
    /// The key has this value, in the cache or in the store.
    Version(Version),
    /// The key is not in the cache, and was not stored since this load began.
    Load(LeaseId),
}

/// What becomes of entries that must make way in front of a store.
#[derive(Debug)]
pub struct WriteBack<'a> {
    /// The process to which a dirty one is leased.
    pub owner: u32,
    /// Counts the clean ones, which are dropped.
    pub dropped: &'a mut u32,
    /// Gets a copy of a dirty one.
    pub evicted: &'a mut Evicted,
}

/// What a store in front of a backing store did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreOutcome {
    /// The value is in.
    Stored(Put, Version),
    /// The key's value is not the expected one.
    Stale,
    /// A dirty entry must be written back first. It is leased to the caller, and copied.
    WriteBack(LeaseId, Version),
    /// Every entry that could make way is pinned or leased, or the lease table is full. The number of leases that ended
    /// so far tells when to look again.
    Blocked {
        /// Leases that ended.
        completed: u64,
    },
}

/// Outcome of a request to load a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadOutcome {
    /// The caller loads it. The version stands for the key's absence.
    Leased(LeaseId, Version),
    /// Another worker has a lease on the key.
    Taken,
    /// The key is in the cache by now.
    Present,
    /// The partition's lease table is full.
    TableFull,
}

/// Outcome of a request to take an entry out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakeOutcome {
    /// The caller has it, alone.
    Leased(LeaseId),
    /// The entry is gone, or its key is in some worker's hands.
    Taken,
    /// The partition's lease table is full.
    TableFull,
}

/// A handle to one partition.
#[derive(Debug)]
pub struct Partition {
    state: Region,
    index: u32,
    hash_seed: u64,
    max_key_bytes: usize,
    max_entry_bytes: usize,
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

    /// Removes an entry that can be found and has expired.
    #[cold]
    pub(super) fn remove_expired(&mut self, entry: EntryIndex) {
        self.mutate(|partition| partition.expire(entry));
    }

    /// As [`Partition::remove_expired`]. Part of a change.
    #[cold]
    pub(super) fn expire(&mut self, entry: EntryIndex) {
        self.unlink(entry, self.hash_of(entry));
        self.retire(entry);
        self.counters.expirations().add(1);
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

    /// Stores a value until it expires, evicting what is in the way.
    ///
    /// # Errors
    ///
    /// See [`Unfinished`]; the old value of the key, if any, stays.
    #[inline]
    pub fn put(
        &mut self,
        key: Key<'_>,
        value: &[u8],
        expires: Option<Moment>,
        on_evict: OnEvict<'_>,
        now: Now<'_>,
        work: &mut Work,
    ) -> Result<Put, Unfinished> {
        let lengths = Lengths::new(key.bytes.len(), value.len(), expires);
        self.check_size(lengths)?;
        let mut reclaim = Reclaim::new(on_evict, now, work);
        let stored = self.mutate(|partition| partition.store(key, value, expires, &mut reclaim));
        stored.map(|(put, _)| put).map_err(|reason| self.unfinished(reason, lengths))
    }

    /// Refuses a value before anything is done for it. Counts that.
    pub fn refuse(&mut self, error: PushError) -> Unfinished {
        let reason = match error {
            PushError::KeyTooLong { .. } | PushError::TooLarge { .. } => self.counters.refused_too_large(),
            PushError::Full { .. } | PushError::OutOfMemory => self.counters.refused_no_room(),
            PushError::TtlTooLong { .. } => self.counters.refused_ttl(),
        };
        reason.add(1);
        self.counters.refused().add(1);
        Unfinished::Refused(error)
    }

    /// Whether an entry of these lengths may be stored at all. Counts a refusal.
    pub(super) fn check_size(&mut self, lengths: Lengths) -> Result<(), Unfinished> {
        let bytes = lengths.entry_bytes();
        let error = if lengths.key > self.max_key_bytes {
            PushError::KeyTooLong { bytes: lengths.key, max: self.max_key_bytes }
        } else if bytes > self.max_entry_bytes {
            PushError::TooLarge { bytes, max: self.max_entry_bytes }
        } else {
            return Ok(());
        };
        Err(self.refuse(error))
    }

    /// What a caller is told of a lack of room. Counts a refusal.
    fn unfinished(&mut self, reason: NoRoom, lengths: Lengths) -> Unfinished {
        let pinned = match reason {
            NoRoom::OutOfWork => return Unfinished::OutOfWork,
            NoRoom::CopyFirst(pin) => return Unfinished::CopyFirst(pin),
            NoRoom::Dirty(entry) => return Unfinished::Dirty(entry),
            NoRoom::OutOfMemory => return self.refuse(PushError::OutOfMemory),
            NoRoom::Forbidden => 0,
            NoRoom::Pinned => self.len() + self.state().zombies.get(),
        };
        self.refuse(PushError::Full { bytes: lengths.entry_bytes(), pinned })
    }

    /// Stores a value. Part of a change.
    fn store(
        &mut self,
        key: Key<'_>,
        value: &[u8],
        expires: Option<Moment>,
        reclaim: &mut Reclaim<'_, '_>,
    ) -> Result<(Put, EntryIndex), NoRoom> {
        let old = self.find_in_change(key, reclaim.now);
        let expires = match (expires, old) {
            (Some(_), Some(old)) if self.is_dirty(old) => None,
            _ => expires,
        };
        if let Some(entry) = old.filter(|&entry| self.overwrite(entry, key, value, expires)) {
            self.counters.updates().add(1);
            return Ok((Put::Replaced, entry));
        }
        if old.is_none() {
            self.make_room_for_one_more(reclaim)?;
        }
        reclaim.spared = old;
        let built = self.reserve(Lengths::new(key.bytes.len(), value.len(), expires), reclaim)?;
        self.payload.fill(built, key, value, expires);
        Ok(self.publish(key, built, old))
    }

    /// As [`Partition::find_or_expire`]. Part of a change.
    #[inline(always)]
    fn find_in_change(&mut self, key: Key<'_>, now: Now<'_>) -> Option<EntryIndex> {
        let entry = self.find(key)?;
        if self.has_expired(entry, now) {
            self.expire(entry);
            return None;
        }
        Some(entry)
    }

    /// Takes the moment from a complete entry that nobody finds yet. Part of a change.
    #[cold]
    fn forget_moment(&mut self, built: EntryIndex) {
        let before = self.payload.stored_bytes(built);
        self.directory.set_expires(built, false);
        let class = self.slabs.class_at(self.record(built).location());
        self.slabs.replace_stored(class, before, self.payload.stored_bytes(built));
    }

    /// Makes a complete entry findable, in the place of `old` if the key has a value. Part of a change.
    fn publish(&mut self, key: Key<'_>, built: EntryIndex, old: Option<EntryIndex>) -> (Put, EntryIndex) {
        self.record(built).clear_flags(Flags::RESERVED);
        self.state().reserved.sub(1);
        match old {
            Some(old) => {
                self.counters.updates().add(1);
                (Put::Replaced, self.replace(key, old, built))
            }
            None => {
                let bytes = self.payload.entry_bytes(built);
                self.order.insert(built, key.hash, bytes, self.totals());
                self.record(built).mark_stable();
                self.table.insert(key.hash, built);
                self.count_entry(built);
                self.counters.inserts().add(1);
                (Put::Inserted, built)
            }
        }
    }

    fn count_entry(&mut self, entry: EntryIndex) {
        let state = self.state();
        state.len.add(1);
        state.live_bytes.add(self.payload.entry_bytes(entry));
        if self.record(entry).expires() {
            state.expiring.add(1);
        }
    }

    /// Counts an entry whose value was replaced, by one that expires or one that does not.
    #[cold]
    fn count_expiring(&mut self, expires: bool) {
        let expiring = &self.state().expiring;
        if expires { expiring.add(1) } else { expiring.sub(1) }
    }

    /// Replaces a value where it lies, if the new one belongs to the same class and nobody reads the old. Part of a
    /// change.
    #[inline]
    fn overwrite(&mut self, entry: EntryIndex, key: Key<'_>, value: &[u8], expires: Option<Moment>) -> bool {
        let lengths = Lengths::new(key.bytes.len(), value.len(), expires);
        let PayloadShape::Single { bytes } = self.payload.shape(lengths) else { return false };
        let record = self.record(entry);
        if record.has(Flags::CHAINED) || record.pins() > 0 || !record.can_count_replacement() {
            return false;
        }
        let class = self.slabs.class_at(record.location());
        if self.slabs.classes().class_for(bytes) != Some(class) {
            return false;
        }
        let (stored_before, bytes_before) = (self.payload.stored_bytes(entry), self.payload.entry_bytes(entry));
        self.slabs.replace_stored(class, stored_before, bytes);
        let record = self.record(entry);
        record.mark_unstable();
        if record.expires() != lengths.expires() {
            self.count_expiring(lengths.expires());
            self.directory.set_expires(entry, lengths.expires());
        }
        self.payload.overwrite(entry, key.bytes.len(), value, expires);
        self.record(entry).mark_replaced();
        self.resized(entry, bytes_before);
        self.order.promote(entry);
        true
    }

    /// Gives the key of `old` the value in `built`; returns the entry that has it, which is `built` if readers had the
    /// old one pinned. Part of a change.
    fn replace(&mut self, key: Key<'_>, old: EntryIndex, built: EntryIndex) -> EntryIndex {
        let bytes_before = self.payload.entry_bytes(old);
        if self.record(old).pins() == 0 && self.record(old).can_count_replacement() {
            self.record(old).mark_unstable();
            self.payload.exchange(old, built);
            self.record(old).mark_replaced();
            let expires = self.record(old).expires();
            if expires != self.record(built).expires() {
                self.count_expiring(expires);
            }
            self.free_or_doom(built);
            self.resized(old, bytes_before);
            self.order.promote(old);
            return old;
        }
        // A reader keeps the old bytes until it is done; the key goes on with a new entry.
        let bytes = self.payload.entry_bytes(built);
        self.order.replace(old, bytes_before, built, bytes);
        self.record(built).put_flags(Flags::DIRTY, self.record(old).has(Flags::DIRTY));
        self.inflight.transfer(old, built);
        self.record(built).mark_stable();
        self.record(old).mark_unstable();
        self.table.replace(key.hash, old, built);
        self.retire(old);
        self.count_entry(built);
        self.order.promote(built);
        built
    }

    /// Counts the bytes of an entry whose value was replaced, by one of another length perhaps.
    fn resized(&mut self, entry: EntryIndex, bytes_before: u64) {
        let bytes = self.payload.entry_bytes(entry);
        let live_bytes = &self.state().live_bytes;
        live_bytes.set(live_bytes.get().wrapping_sub(bytes_before).wrapping_add(bytes));
        self.order.resize(entry, bytes_before, bytes);
    }

    /// Removes a key; `false` if there is none, or had expired. Its value is not read.
    pub fn remove(&mut self, key: Key<'_>, why: Removal, now: Now<'_>) -> bool {
        let Some(entry) = self.find_or_expire(key, now) else { return false };
        self.remove_entry(entry);
        self.note_removals(why, 1);
        true
    }

    /// Counts why entries went that are counted as removed.
    pub fn note_removals(&mut self, why: Removal, count: u64) {
        match why {
            Removal::ByHand => {}
            Removal::Invalidated => self.counters.invalidations().add(count),
        }
    }

    /// Removes an entry that can be found.
    pub fn remove_entry(&mut self, entry: EntryIndex) {
        self.mutate(|partition| {
            partition.unlink(entry, partition.hash_of(entry));
            partition.retire(entry);
        });
        self.counters.removals().add(1);
    }

    /// Removes an entry, which stays readable by the pin that is returned, until [`Partition::unpin_and_free`].
    ///
    /// `None` if it has 255 pins already; then it stays.
    pub fn take(&mut self, entry: EntryIndex) -> Option<Pin> {
        let pin = self.pin(entry)?;
        self.remove_entry(entry);
        Some(pin)
    }

    /// Nobody finds the entry any more. Part of a change.
    pub(super) fn unlink(&mut self, entry: EntryIndex, hash: KeyHash) {
        self.order.remove(entry, self.payload.entry_bytes(entry));
        self.record(entry).mark_unstable();
        let hasher = self.hasher();
        self.table.remove(hash, entry, hasher);
        if self.table.wants_shrinking(self.len().saturating_sub(1)) {
            self.shrink_table();
        }
    }

    /// An entry that nobody finds any more is counted no more; its memory goes with the last pin. Part of a change.
    pub(super) fn retire(&mut self, entry: EntryIndex) {
        self.inflight.transfer(entry, EntryIndex::NONE);
        let state = self.state();
        state.len.sub(1);
        state.live_bytes.sub(self.payload.entry_bytes(entry));
        if self.record(entry).expires() {
            state.expiring.sub(1);
        }
        if self.record(entry).set_flags(Flags::ZOMBIE) == 0 {
            self.free_or_doom(entry);
        } else {
            self.state().zombies.add(1);
        }
    }

    fn shrink_table(&mut self) {
        let hasher = self.hasher();
        self.table.merge(hasher);
        if let Some(slab) = self.table.take_unused_segment() {
            self.slabs.release(slab);
            self.table.begin_placement_epoch();
        }
    }

    /// Removes the entry that is next to be evicted (or, if none may be, the one that would be next without pins and
    /// leases). One that has expired is collected by nobody; where nothing is to be collected, it is as good as any.
    ///
    /// # Errors
    ///
    /// See [`Unfinished`]. With [`Unfinished::CopyFirst`] the entry is removed.
    pub fn pop(&mut self, collect: Collect<'_>, now: Now<'_>, work: &mut Work) -> Result<Popped, Unfinished> {
        let Some(mut entry) = self.order.oldest(self.totals()) else { return Ok(Popped::Nothing) };
        if !work.nothing_to_evict() {
            match self.mutate(|partition| partition.search(None, work)) {
                Search::Victim(victim) => entry = victim,
                Search::NothingToEvict => {}
                Search::OutOfWork => return Err(Unfinished::OutOfWork),
            }
        }
        let age = self.age(entry);
        work.spend(Work::EVICTION);
        if !matches!(collect, Collect::Nothing) && self.has_expired(entry, now) {
            self.remove_expired(entry);
            return Ok(Popped::Expired);
        }
        let bytes = self.payload.entry_bytes(entry) as usize;
        let popped = match collect {
            Collect::Nothing => None,
            Collect::Within(popped) if !popped.has_room(bytes) => return Err(Unfinished::NeedsRoom(bytes)),
            Collect::Growing(popped) | Collect::Within(popped) => Some(popped),
        };
        if let Some(popped) = popped {
            if self.is_large(entry) {
                if let Some(pin) = self.take(entry) {
                    return Err(Unfinished::CopyFirst(pin));
                }
            }
            let append = |out: &mut Vec<u8>| self.payload.append_value(entry, out);
            let pushed = popped.try_push(self.payload.key(entry), self.payload.value_len(entry), append);
            pushed.map_err(|_| Unfinished::Refused(PushError::OutOfMemory))?;
        }
        self.remove_entry(entry);
        Ok(Popped::Entry { age })
    }

    /// Whether an entry is so large that nobody should copy it under a lock.
    #[inline]
    pub fn is_large(&self, entry: EntryIndex) -> bool {
        self.record(entry).has(Flags::CHAINED) && self.payload.value_len(entry) > LARGE_VALUE_BYTES
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

    /// Frees a removed entry whose last pin is gone.
    pub fn free_unpinned(&mut self, pin: Pin) {
        let Pin { entry, generation } = pin;
        // After a reset the record may be anything.
        let is_mine = self.directory.is_record(&self.slabs, entry) && {
            let record = self.record(entry);
            record.generation() == generation && record.has(Flags::ZOMBIE) && record.pins() == 0
        };
        if is_mine {
            self.mutate(|partition| {
                partition.state().zombies.sub(1);
                partition.free_or_doom(entry);
            });
        }
    }

    /// Takes a pin back, and frees the entry if it was removed and this was the last one.
    pub fn unpin_and_free(&mut self, pin: Pin) {
        let record = self.record(pin.entry);
        if record.generation() == pin.generation && record.unpin() {
            self.free_unpinned(pin);
        }
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
    fn version_of_absence(&self, hash: KeyHash) -> Version {
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

    /// Leases that ended so far.
    pub fn completed_leases(&self) -> u64 {
        self.inflight.completed()
    }

    /// Times that the partition was emptied because a change was left half-way.
    pub fn resets(&self) -> u64 {
        self.counters.resets().get()
    }

    /// Stores a value if `expected` holds, letting clean entries make way. It never expires: what is in front of a store
    /// goes when it is written, and not before.
    ///
    /// # Errors
    ///
    /// [`Unfinished::OutOfWork`], or a key or an entry that is too large; never [`PushError::Full`].
    pub fn store_if(
        &mut self,
        key: Key<'_>,
        value: &[u8],
        expected: Expected,
        write_back: &mut WriteBack<'_>,
        now: Now<'_>,
        work: &mut Work,
    ) -> Result<StoreOutcome, Unfinished> {
        self.check_size(Lengths::new(key.bytes.len(), value.len(), None))?;
        let found = self.find_or_expire(key, now);
        if !self.is_as_expected(key, found, expected) {
            return Ok(StoreOutcome::Stale);
        }
        let stored = self.mutate(|partition| {
            let mut reclaim = Reclaim::new(OnEvict::DiscardClean(write_back.dropped), now, work);
            let stored = partition.store(key, value, None, &mut reclaim);
            match stored {
                // What was loaded is what the store has.
                Ok((put, entry)) if !matches!(expected, Expected::Load(_)) => {
                    partition.record(entry).set_flags(Flags::DIRTY);
                    partition.inflight.note_change(key.hash, entry);
                    Ok(Ok((put, entry)))
                }
                Err(NoRoom::Dirty(victim)) => {
                    let hash = partition.hash_of(victim);
                    Ok(Err(partition.inflight.lease_write(hash, write_back.owner, victim).map(|lease| (lease, victim))))
                }
                Err(NoRoom::OutOfWork) => Err(Unfinished::OutOfWork),
                Err(_) => Ok(Err(None)),
                Ok(stored) => Ok(Ok(stored)),
            }
        })?;
        match stored {
            Ok((put, entry)) => Ok(StoreOutcome::Stored(put, self.version_of(key.hash, entry))),
            Err(Some((lease, victim))) => {
                let pushed =
                    write_back.evicted.try_push(self.payload.key(victim), self.payload.value_len(victim), |out| {
                        self.payload.append_value(victim, out);
                    });
                if pushed.is_err() {
                    self.release_lease(lease);
                    return Err(Unfinished::Refused(PushError::OutOfMemory));
                }
                Ok(StoreOutcome::WriteBack(lease, self.version_of_entry(victim)))
            }
            Err(None) => Ok(StoreOutcome::Blocked { completed: self.completed_leases() }),
        }
    }

    fn is_as_expected(&self, key: Key<'_>, found: Option<EntryIndex>, expected: Expected) -> bool {
        match (expected, found) {
            (Expected::Anything, _) => true,
            (Expected::Version(version), Some(entry)) => self.has_version(entry, version),
            (Expected::Version(version), None) => version.changes == self.inflight.changes(key.hash),
            (Expected::Load(lease), found) => found.is_none() && !self.inflight.is_superseded(lease),
        }
    }

    /// Whether the store does not have an entry's value.
    pub fn is_dirty(&self, entry: EntryIndex) -> bool {
        self.record(entry).has(Flags::DIRTY)
    }

    /// Removes an entry, dirty or not, if it has this version.
    pub fn remove_if(&mut self, entry: EntryIndex, version: Version) -> bool {
        let is_same = self.has_version(entry, version);
        if is_same {
            self.remove_entry(entry);
        }
        is_same
    }

    /// Whether some worker has a lease on a key.
    pub fn is_leased(&self, key: Key<'_>) -> bool {
        self.inflight.is_leased(key.hash)
    }

    /// Leases in use: loads, and write-backs.
    pub fn lease_counts(&self) -> (u32, u32) {
        self.inflight.counts()
    }

    /// The processes that have leases.
    pub fn lease_owners(&self) -> Vec<u32> {
        self.inflight.owners()
    }

    /// Leases the load of an absent key to a process. With [`Concurrency::AllowDuplicate`], grants it even while another
    /// process is loading the key.
    pub fn lease_load(&mut self, key: Key<'_>, owner: u32, concurrency: Concurrency, now: Now<'_>) -> LoadOutcome {
        if self.find_or_expire(key, now).is_some() {
            return LoadOutcome::Present;
        }
        if !self.inflight.may_load(key.hash, concurrency) {
            return LoadOutcome::Taken;
        }
        let absent = self.version_of_absence(key.hash);
        match self.mutate(|partition| partition.inflight.lease_load(key.hash, owner)) {
            Some(lease) => LoadOutcome::Leased(lease, absent),
            None => LoadOutcome::TableFull,
        }
    }

    /// Releases a lease; nothing happens if it has ended.
    pub fn release_lease(&mut self, lease: LeaseId) {
        if self.inflight.stands(lease) {
            self.mutate(|partition| _ = partition.inflight.release(lease));
        }
    }

    /// Releases every lease of a process that is dead.
    pub fn release_leases_of(&mut self, owner: u32) {
        self.mutate(|partition| partition.inflight.release_all_of(owner));
    }

    /// Releases a lease to write. Its entry goes if it has this version; `true` then. Else it was changed meanwhile, and
    /// stays, or is not there any more.
    pub fn finish_write(&mut self, lease: LeaseId, version: Version) -> bool {
        if !self.inflight.stands(lease) {
            return false;
        }
        self.mutate(|partition| {
            let entry = partition.inflight.release(lease);
            let Some(entry) = entry.filter(|&entry| partition.has_version(entry, version)) else { return false };
            partition.evict(entry);
            true
        })
    }

    /// Leases the entry with this generation to a process that is to take it out: meanwhile nobody evicts it, nor loads or
    /// writes its key. It may be changed.
    pub fn lease_entry(&mut self, entry: EntryIndex, generation: u32, owner: u32) -> TakeOutcome {
        let Some(entry) = self.resolve(entry, generation) else { return TakeOutcome::Taken };
        let hash = self.hash_of(entry);
        if self.inflight.is_leased(hash) {
            return TakeOutcome::Taken;
        }
        match self.mutate(|partition| partition.inflight.lease_write(hash, owner, entry)) {
            Some(lease) => TakeOutcome::Leased(lease),
            None => TakeOutcome::TableFull,
        }
    }

    /// Releases a lease to take an entry out. The entry is removed if it has this version; `true` then. Else it was changed
    /// meanwhile, and stays, or is not there any more.
    pub fn finish_take_out(&mut self, lease: LeaseId, version: Version) -> bool {
        if !self.inflight.stands(lease) {
            return false;
        }
        let entry = self.mutate(|partition| partition.inflight.release(lease));
        entry.is_some_and(|entry| self.remove_if(entry, version))
    }

    /// Begins to store a large value: reserves a record, pinned by the caller, and a first slot.
    ///
    /// # Errors
    ///
    /// See [`Unfinished`].
    pub fn begin_large(
        &mut self,
        lengths: Lengths,
        on_evict: OnEvict<'_>,
        now: Now<'_>,
        work: &mut Work,
    ) -> Result<Reservation, Unfinished> {
        self.check_size(lengths)?;
        let mut reclaim = Reclaim::new(on_evict, now, work);
        let begun = self.mutate(|partition| partition.open_skeleton(lengths, 1, &mut reclaim));
        begun.map_err(|reason| self.unfinished(reason, lengths))
    }

    /// Reserves further slots for a large value, until all have been or the lock has been held long enough.
    ///
    /// # Errors
    ///
    /// See [`Unfinished`]: what was reserved stays so.
    pub fn extend_large(
        &mut self,
        key: Key<'_>,
        reservation: &mut Reservation,
        on_evict: OnEvict<'_>,
        now: Now<'_>,
        work: &mut Work,
    ) -> Result<(), Unfinished> {
        let mut reclaim = Reclaim::new(on_evict, now, work);
        reclaim.spared = self.find(key);
        let extended = self.mutate(|partition| {
            if reclaim.spared.is_none() {
                partition.make_room_for_one_more(&mut reclaim)?;
            }
            partition.extend_skeleton(reservation, &mut reclaim)
        });
        extended.map_err(|reason| self.unfinished(reason, reservation.lengths))
    }

    /// Makes a large value findable that has all its slots and was filled; its pin is the caller's no longer.
    ///
    /// # Errors
    ///
    /// [`Unfinished`] where an entry must make way in a cache whose capacity is in entries; then nothing is changed.
    pub fn publish_large(
        &mut self,
        key: Key<'_>,
        reservation: Reservation,
        on_evict: OnEvict<'_>,
        now: Now<'_>,
        work: &mut Work,
    ) -> Result<Put, Unfinished> {
        let mut reclaim = Reclaim::new(on_evict, now, work);
        let published = self.mutate(|partition| {
            let old = partition.find_in_change(key, now);
            reclaim.spared = old;
            if old.is_none() {
                partition.make_room_for_one_more(&mut reclaim)?;
            }
            let built = reservation.pin.entry;
            if reservation.lengths.expires() && old.is_some_and(|old| partition.is_dirty(old)) {
                partition.forget_moment(built);
            }
            partition.record(built).unpin();
            Ok(partition.publish(key, built, old).0)
        });
        published.map_err(|reason| self.unfinished(reason, reservation.lengths))
    }

    /// Whether what was reserved is still there: a reset takes it away.
    pub fn is_reserved(&self, pin: Pin) -> bool {
        self.directory.is_record(&self.slabs, pin.entry) && {
            let record = self.record(pin.entry);
            record.generation() == pin.generation && record.has(Flags::RESERVED)
        }
    }

    /// Gives back what was reserved for a large value.
    pub fn cancel_large(&mut self, pin: Pin) {
        let record = self.record(pin.entry);
        if record.generation() != pin.generation {
            return;
        }
        record.unpin();
        if self.is_reserved(pin) {
            self.mutate(|partition| {
                partition.state().reserved.sub(1);
                partition.record(pin.entry).clear_flags(Flags::RESERVED);
                partition.free_or_doom(pin.entry);
            });
        }
    }
}

/// Chained values above this are never copied under a lock.
pub const LARGE_VALUE_BYTES: usize = 64 << 10;
