//! One partition: the cache itself, plain and single-handed.
//!
//! Everything that the cache does is done here to one partition by one caller at a time; `shared` picks the
//! partition of a key and takes its lock. `&self` needs the lock in any mode, `&mut self` the exclusive one.
//!
//! Invariants:
//! - An entry that can be found is in its key's bucket once, in a recency list once, and owns its record and slots.
//! - `sequence` is odd from the first write of a change to the last. A change cannot fail half-way except by a
//!   defect or a killed process; whoever finds the number odd calls [`Partition::reset`], which empties the
//!   partition: its entries are lost, never wrong.
//! - Capacity in entries is never exceeded, not even while an entry is being added.
//!
//! Not here: locks, the choice of the partition, user code, decoding.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use super::directory::flag;
use super::evicted::Sink;
use super::ids::{EntryIndex, SlabIndex};
use super::layout::{Layout, PartitionHeader, SlabDescriptor};
use super::region::{Region, Word64};
use super::room::{CompactBudget, CompactReport};

/// A key with its hash.
#[derive(Clone, Copy)]
pub struct Key<'a> {
    /// The key.
    pub bytes: &'a [u8],
    /// Its hash with the region's seed.
    pub hash: u64,
}

impl Key<'_> {
    /// The tag that stands for the key in its bucket.
    #[inline]
    pub(super) fn tag(self) -> u8 {
        Self::tag_of(self.hash)
    }

    #[inline]
    pub(super) fn tag_of(hash: u64) -> u8 {
        (hash >> 24) as u8
    }

    /// The partition that the key belongs to.
    #[inline]
    pub fn partition(self, partition_count: u32) -> usize {
        (self.hash >> 32) as usize & (partition_count as usize - 1)
    }
}

/// The hash of a key: XXH3 with 64 bits, by Yann Collet, the same in every process.
#[inline]
pub fn hash_key(bytes: &[u8], seed: u64) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(bytes, seed)
}

/// What a push did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The key is new.
    Inserted,
    /// The key had a value, which is replaced.
    Replaced,
}

/// Why a push was refused. The cache is as before, but for entries that were evicted to make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
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
    #[error("an entry of {bytes} bytes (key and value) is too large: at most {max} bytes in this cache")]
    TooLarge {
        /// Length of key plus value.
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
    /// `clock`: the reference bit. `s3-fifo`: whether a use is counted. `lru`: always false.
    pub referenced: bool,
    /// Whether a reader uses the entry without a lock at this moment.
    pub pinned: bool,
}

/// A handle to one partition.
pub struct Partition {
    pub(super) region: Region,
    pub(super) layout: Arc<Layout>,
    pub(super) index: u32,
    hash_seed: u64,
}

impl Partition {
    /// A handle to partition `index` of a region. It becomes usable by [`Partition::format`] if nobody has formatted
    /// it.
    ///
    /// The caller orders access: a `&mut` of any handle to the partition excludes every other use of it, in this and in
    /// other processes; that is what the partition's lock is for.
    pub fn new(region: &Region, layout: Arc<Layout>, index: u32, hash_seed: u64) -> Self {
        Partition { region: layout.partition_region(region, index), layout, index, hash_seed }
    }

    /// Writes an empty partition over whatever the bytes are.
    pub fn format(&mut self, max_entries: u32) {
        self.region.zero(0, self.layout.partition_fixed_bytes().min(self.layout.slab_offset(SlabIndex(0))));
        self.header().max_entries.set(max_entries);
        self.open_pool();
    }

    /// Puts every slab in the pool but those in quarantine.
    fn open_pool(&mut self) {
        self.header().pool_head.set(SlabDescriptor::NIL);
        self.header().pool_count.set(0);
        for slab in (0..self.layout.slab_count).rev().map(SlabIndex) {
            if !self.is_quarantined(slab) {
                self.put_in_pool(slab);
            }
        }
        let (values, records) = self.quarantined_slabs();
        self.header().quarantined.set((values + records) as u64);
    }

    /// Empties a partition that a change has left half-way. Generations go on rising; counters go on counting. Slabs in
    /// which readers have entries pinned are kept as they are until the pins are gone.
    pub fn reset(&mut self) {
        self.quarantine_pinned();
        for slab in (0..self.layout.slab_count).map(SlabIndex) {
            self.salvage_generations(slab);
        }
        for (class, _) in self.layout.clone().classes.iter() {
            self.region.zero(self.layout.class_offset(class), size_of::<super::layout::ClassState>());
        }
        for bucket in (0..self.layout.buckets_per_partition).map(super::ids::BucketIndex) {
            self.bucket(bucket).clear();
        }
        self.forget_ghosts();
        let header = self.header();
        for word in
            [&header.head, &header.tail, &header.len, &header.zombies, &header.continuations, &header.overflowed]
        {
            word.set(0);
        }
        for word in [&header.small_head, &header.small_tail, &header.small_len] {
            word.set(0);
        }
        for word in [&header.live_bytes, &header.small_bytes].into_iter().chain(&header.compactable) {
            word.set(0);
        }
        header.resets.add(1);
        self.reset_write_back();
        self.open_pool();
        // Only now, when nothing leads to a record any more: a reader that sees the new epoch finds none of the old.
        self.begin_placement_epoch();
        // Last: whoever is killed on the way leaves the mark for the next.
        self.header().sequence.add(1);
    }

    #[inline]
    pub(super) fn header(&self) -> &PartitionHeader {
        self.region.at(0)
    }

    #[inline]
    pub(super) fn hash(&self, key: &[u8]) -> u64 {
        hash_key(key, self.hash_seed)
    }

    /// Whether a change was begun and not finished.
    #[inline]
    pub fn is_damaged(&self) -> bool {
        self.header().sequence.get() % 2 == 1
    }

    /// Runs a change between its two marks. A panic leaves the first mark standing, on purpose.
    #[inline]
    pub(super) fn mutate<R>(&mut self, change: impl FnOnce(&mut Self) -> R) -> R {
        let sequence: &Word64 = &self.header().sequence;
        debug_assert!(sequence.get() % 2 == 0, "changes do not nest");
        sequence.add(1);
        fence(Ordering::Release);
        let result = change(self);
        let sequence = &self.header().sequence;
        sequence.atomic().store(sequence.get() + 1, Ordering::Release);
        result
    }

    /// Live entries.
    pub fn len(&self) -> u32 {
        self.header().len.get()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keys and values of live entries, in bytes.
    pub fn live_bytes(&self) -> u64 {
        self.header().live_bytes.get()
    }

    /// Looks a key up, counts that, and makes the entry the most recently used one (policy `lru`).
    #[inline]
    pub fn find_and_promote(&mut self, key: Key<'_>) -> Option<EntryIndex> {
        let found = self.find(key);
        self.count_read(found.is_some());
        if let Some(entry) = found {
            self.promote(entry);
        }
        found
    }

    /// Counts a hit or a miss. Needs the exclusive lock, though it takes `&self`.
    #[inline]
    pub fn count_read(&self, hit: bool) {
        let header = self.header();
        let word = if hit { &header.hits } else { &header.misses };
        word.add(1);
    }

    /// Replaces `out` by the entry's value.
    pub fn copy_value(&self, entry: EntryIndex, out: &mut Vec<u8>) {
        out.clear();
        self.append_value(entry, out);
    }

    /// Stores a value, evicting what is in the way.
    ///
    /// # Errors
    ///
    /// See [`PushError`]; the old value of the key, if any, stays.
    pub fn push(&mut self, key: Key<'_>, value: &[u8], evicted: &mut Sink<'_>) -> Result<Put, PushError> {
        let checked = self.check_size(key, value).and_then(|bytes| {
            let stored = self.mutate(|partition| partition.store(key, value, evicted));
            stored.map(|(put, _)| put).ok_or_else(|| {
                // Refusal is nothing special where nothing may be evicted; else it is rare and worth a walk.
                let pinned = if matches!(evicted, Sink::Refuse) { 0 } else { self.pinned_count() };
                PushError::Full { bytes, pinned }
            })
        });
        if checked.is_err() {
            self.header().refused.add(1);
        }
        checked
    }

    /// The bytes of an entry, if it may be stored at all.
    pub(super) fn check_size(&self, key: Key<'_>, value: &[u8]) -> Result<usize, PushError> {
        let bytes = key.bytes.len() + value.len();
        if key.bytes.len() > self.layout.max_key_bytes {
            Err(PushError::KeyTooLong { bytes: key.bytes.len(), max: self.layout.max_key_bytes })
        } else if bytes > self.layout.max_entry_bytes {
            Err(PushError::TooLarge { bytes, max: self.layout.max_entry_bytes })
        } else {
            Ok(bytes)
        }
    }

    /// Stores a value under the mark of a change; `None` if there is no room.
    pub(super) fn store(&mut self, key: Key<'_>, value: &[u8], evicted: &mut Sink<'_>) -> Option<(Put, EntryIndex)> {
        let (put, stored) = match self.find(key) {
            Some(entry) => (Put::Replaced, self.replace(entry, key, value, evicted)?),
            None => (Put::Inserted, self.insert(key, value, evicted)?),
        };
        let header = self.header();
        let count = if put == Put::Inserted { &header.inserts } else { &header.updates };
        count.add(1);
        Some((put, stored))
    }

    fn insert(&mut self, key: Key<'_>, value: &[u8], evicted: &mut Sink<'_>) -> Option<EntryIndex> {
        let max_entries = self.header().max_entries.get();
        while max_entries != 0 && self.len() >= max_entries {
            if !self.evict_one(evicted) {
                return None;
            }
        }
        let entry = self.build(key, value, evicted)?;
        self.admit(key, entry);
        self.enlist(key, entry, value.len());
        Some(entry)
    }

    /// Makes a complete entry findable and counts it.
    fn enlist(&mut self, key: Key<'_>, entry: EntryIndex, value_len: usize) {
        self.record(entry).mark_whole();
        self.add_to_bucket(key, entry);
        self.count_entry(key, value_len);
    }

    fn count_entry(&mut self, key: Key<'_>, value_len: usize) {
        let header = self.header();
        header.len.add(1);
        header.live_bytes.add((key.bytes.len() + value_len) as u64);
    }

    /// Gives an entry another value; returns the entry that has it, which is a new one if readers had the old pinned.
    fn replace(&mut self, entry: EntryIndex, key: Key<'_>, value: &[u8], evicted: &mut Sink<'_>) -> Option<EntryIndex> {
        let value_len_before = self.value_len(entry);
        if self.record(entry).pins() == 0 && self.overwrite(entry, key, value) {
            self.resized(entry, value_len_before);
            self.use_again(entry);
            return Some(entry);
        }
        // The new value is built beside the old one, which must not be evicted for it.
        self.record(entry).set_flags(flag::PROTECTED);
        let built = self.build(key, value, evicted);
        self.record(entry).clear_flags(flag::PROTECTED);
        let built = built?;
        if self.record(entry).pins() > 0 {
            // A reader keeps the old bytes until it is done; the key goes on with a new entry.
            self.take_place(built, entry);
            self.hand_on_write_back(entry, built);
            self.record(built).mark_whole();
            self.record(entry).mark_changing();
            self.take_place_in_bucket(key, built, entry);
            self.bury(entry);
            self.count_entry(key, value.len());
            self.use_again(built);
            Some(built)
        } else {
            self.exchange(entry, built);
            self.dispose(built);
            self.resized(entry, value_len_before);
            self.use_again(entry);
            Some(entry)
        }
    }

    /// Removes a key; its value is appended to `value`. `false` if there is none.
    pub fn remove(&mut self, key: Key<'_>, value: &mut Vec<u8>) -> bool {
        let Some(entry) = self.find(key) else { return false };
        self.append_value(entry, value);
        self.mutate(|partition| partition.discard(entry));
        self.header().removals.add(1);
        true
    }

    /// Removes the entry that is next to be evicted (or, if all are pinned, the one that would be next without the
    /// pins), and returns its age; `None` if the partition is empty.
    pub fn pop(&mut self, sink: &mut Sink<'_>) -> Option<u32> {
        let oldest = self.oldest()?;
        let age = self.mutate(|partition| {
            let entry = partition.victim().unwrap_or(oldest);
            let age = partition.age(entry);
            if let Sink::Keep(popped) = sink {
                popped.append(partition.key_bytes(entry), |out| partition.append_value(entry, out));
            }
            partition.discard(entry);
            age
        });
        self.header().removals.add(1);
        Some(age)
    }

    /// Leaves the partition as a change does that never ends.
    #[cfg(test)]
    pub(crate) fn damage(&mut self) {
        self.header().sequence.add(1);
    }

    /// The age of the entry at the end of the list from which the next one is evicted.
    pub fn oldest_age(&self) -> Option<u32> {
        self.oldest().map(|entry| self.age(entry))
    }

    fn age(&self, entry: EntryIndex) -> u32 {
        self.record(entry).age(self.header().tick.get())
    }

    /// Pins an entry whose value lies in one piece; `None` if it is chained or has too many pins.
    ///
    /// Returns offset and length of the value, and the generation that [`Partition::unpin`] wants back.
    pub fn pin(&self, entry: EntryIndex) -> Option<(usize, usize, u32)> {
        let (offset, len) = self.contiguous_value(entry)?;
        let record = self.record(entry);
        record.pin().then(|| (offset, len, record.generation()))
    }

    /// Takes a pin back, without the lock; `true` if [`Partition::reap`] must follow under the exclusive lock.
    pub fn unpin(&self, entry: EntryIndex, generation: u32) -> bool {
        // After a reset the record is somebody else's.
        let record = self.record(entry);
        record.generation() == generation && record.unpin()
    }

    /// Frees a removed entry whose last pin is gone.
    pub fn reap(&mut self, entry: EntryIndex, generation: u32) {
        let record = self.record(entry);
        // After a reset the record may be anything.
        if self.is_record(entry) && record.generation() == generation && record.has(flag::ZOMBIE) && record.pins() == 0
        {
            self.mutate(|partition| partition.dispose_zombie(entry));
        }
    }

    /// The bytes of a pinned value.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// The first entry at or after `from` in the order of a walk.
    pub fn walk(&self, from: EntryIndex) -> Option<EntryIndex> {
        self.next_entry(from)
    }

    /// The entry in record `entry`, if it lives in `generation`.
    pub fn resolve(&self, entry: EntryIndex, generation: u32) -> Option<EntryIndex> {
        (self.is_record(entry) && self.record(entry).is_entry() && self.record(entry).generation() == generation)
            .then_some(entry)
    }

    /// What a walk says of an entry.
    pub fn info(&self, entry: EntryIndex) -> RecordInfo {
        let record = self.record(entry);
        RecordInfo {
            generation: record.generation(),
            version: record.version(),
            value_len: self.value_len(entry),
            age: self.age(entry),
            referenced: self.is_referenced(entry),
            pinned: record.pins() > 0,
        }
    }

    /// An entry's key.
    pub fn key(&self, entry: EntryIndex) -> &[u8] {
        self.key_bytes(entry)
    }

    /// Relocates live entries so that whole slabs return to the pool.
    pub fn compact(&mut self, budget: CompactBudget) -> CompactReport {
        self.mutate(|partition| partition.compact_all(budget))
    }

    /// Entries that cannot make room: pinned ones, found or removed.
    pub fn pinned_count(&self) -> u32 {
        let entries = std::iter::successors(self.walk(EntryIndex::NONE), |entry| self.walk(EntryIndex(entry.0 + 1)));
        let quarantined = if self.header().quarantined.get() > 0 { self.quarantined_pins() } else { 0 };
        entries.filter(|&entry| self.record(entry).pins() > 0).count() as u32
            + self.header().zombies.get()
            + quarantined
    }
}
