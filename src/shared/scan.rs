//! Walks over all entries, while others go on using the cache.
//!
//! A walk follows the directory, whose records do not move, by a cursor that is a number: it can be kept,
//! sent elsewhere and resumed. Each step takes one partition's lock, copies a few entries and lets go. Every
//! entry that lives from the first step to the last is seen exactly once; one that comes or goes meanwhile may be
//! seen or not. One that has expired is not. (An entry whose value is replaced while a reader has it pinned goes on under a new id.)

use std::cell::LazyCell;
use std::ops::Deref;
use std::time::SystemTime;

use super::cache::SharedCache;
use super::lock::Locks;
use crate::engine::ids::{EntryId, EntryIndex};
use crate::engine::partition::Partition;

/// Where a walk goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor(u64);

impl Cursor {
    /// Before the first entry.
    pub const START: Cursor = Cursor(0);

    fn new(partition: usize, entry: EntryIndex) -> Self {
        Cursor((partition as u64) << 32 | u64::from(entry.0))
    }

    fn partition(self) -> usize {
        (self.0 >> 32) as usize
    }

    fn entry(self) -> EntryIndex {
        EntryIndex(self.0 as u32)
    }

    /// The cursor as a number.
    pub fn to_u64(self) -> u64 {
        self.0
    }

    /// The inverse of [`Cursor::to_u64`]. Any number is a cursor; one that was made up leads somewhere.
    pub fn from_u64(cursor: u64) -> Self {
        Cursor(cursor)
    }
}

/// An entry as it was when a walk passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntrySnapshot {
    /// The entry's id: stable while it lives.
    pub id: EntryId,
    /// The key.
    pub key: Vec<u8>,
    /// The value, if it was asked for.
    pub value: Option<Vec<u8>>,
    /// Length of the value in bytes.
    pub value_len: usize,
    /// How often the value was replaced.
    pub version: u32,
    /// Insertions and promotions in the entry's partition since it was last used.
    pub age: u32,
    /// Policy `clock`: used since the hand last passed. Policy `s3-fifo`: used since it came, came to the main queue or
    /// was put back for its uses. Policy `lru`: always false.
    pub referenced: bool,
    /// Whether a reader was using it without a lock.
    pub pinned: bool,
    /// When the entry expires, in steps of a tenth of a second; `None` if it does not.
    pub expires: Option<SystemTime>,
}

/// What a walk copies of each entry, beside what is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotOf {
    /// The key.
    Keys,
    /// The key and the value.
    KeysAndValues,
}

/// Iterates over all entries; see [`SharedCache::iter`].
///
/// `C` is any way to hold on to a cache: a reference, or an `Rc`.
#[derive(Debug)]
pub struct Entries<C> {
    cache: C,
    cursor: Option<Cursor>,
    of: SnapshotOf,
    batch: std::vec::IntoIter<EntrySnapshot>,
}

impl<C> Entries<C> {
    /// A walk from the first entry on, without the values.
    pub fn keys(cache: C) -> Self {
        Self::over(cache, SnapshotOf::Keys)
    }

    /// A walk from the first entry on, with the values.
    pub fn with_values(cache: C) -> Self {
        Self::over(cache, SnapshotOf::KeysAndValues)
    }

    fn over(cache: C, of: SnapshotOf) -> Self {
        Entries { cache, cursor: Some(Cursor::START), of, batch: Vec::new().into_iter() }
    }
}

impl<L: Locks, C: Deref<Target = SharedCache<L>>> Iterator for Entries<C> {
    type Item = EntrySnapshot;

    fn next(&mut self) -> Option<EntrySnapshot> {
        const BATCH: usize = 64;
        loop {
            if let Some(entry) = self.batch.next() {
                return Some(entry);
            }
            let mut batch = Vec::with_capacity(BATCH);
            self.cursor = self.cache.scan(self.cursor?, BATCH, self.of, &mut batch);
            self.batch = batch.into_iter();
        }
    }
}

impl<L: Locks> SharedCache<L> {
    /// All entries, without their values. No lock is held between steps.
    pub fn iter(&self) -> Entries<&Self> {
        Entries::keys(self)
    }

    /// All entries with their values.
    pub fn iter_with_values(&self) -> Entries<&Self> {
        Entries::with_values(self)
    }

    /// One step of a walk: looks at up to `limit` entries (at least one, if any is left in the partition), appends those
    /// that have not expired to `out` and says where to go on; `None` after the last.
    pub fn scan(&self, cursor: Cursor, limit: usize, of: SnapshotOf, out: &mut Vec<EntrySnapshot>) -> Option<Cursor> {
        let index = cursor.partition();
        if index >= self.partition_count() {
            return None;
        }
        let next = self.shared(index, |partition| {
            let mut from = cursor.entry();
            let now = LazyCell::new(|| self.now());
            for _ in 0..limit.max(1) {
                let entry = partition.walk(from)?;
                if !partition.has_expired(entry, &|| *now) {
                    out.push(self.snapshot(partition, index, entry, of));
                }
                from = EntryIndex(entry.0 + 1);
            }
            Some(from)
        });
        match next {
            Some(from) => Some(Cursor::new(index, from)),
            None => (index + 1 < self.partition_count()).then(|| Cursor::new(index + 1, EntryIndex::NONE)),
        }
    }

    /// The entry with this id, with its value, if it still lives and has not expired.
    pub fn entry(&self, id: EntryId) -> Option<EntrySnapshot> {
        let (index, entry) = self.place_of(id);
        self.shared(index, |partition| {
            let entry = partition.resolve(entry, id.generation().get())?;
            let is_there = !partition.has_expired(entry, &|| self.now());
            is_there.then(|| self.snapshot(partition, index, entry, SnapshotOf::KeysAndValues))
        })
    }

    /// The partition and the record that an id names.
    pub(super) fn place_of(&self, id: EntryId) -> (usize, EntryIndex) {
        let count = self.partition_count() as u32;
        ((id.record() % count) as usize, EntryIndex(id.record() / count))
    }

    /// The id of the entry in a record of a partition.
    pub(super) fn id_of(&self, index: usize, entry: EntryIndex, generation: u32) -> Option<EntryId> {
        EntryId::new(entry.0 * self.partition_count() as u32 + index as u32, generation)
    }

    fn snapshot(&self, partition: &Partition, index: usize, entry: EntryIndex, of: SnapshotOf) -> EntrySnapshot {
        let info = partition.info(entry);
        let value = (of == SnapshotOf::KeysAndValues).then(|| {
            let mut value = Vec::with_capacity(info.value_len);
            partition.copy_parts(entry, |part| value.extend_from_slice(part));
            value
        });
        EntrySnapshot {
            id: self.id_of(index, entry, info.generation).expect("a live entry has an odd generation"),
            key: partition.key(entry).to_vec(),
            value,
            value_len: info.value_len,
            version: info.version,
            age: info.age,
            referenced: info.referenced,
            pinned: info.pinned,
            expires: info.expires.map(|moment| self.system_time(moment)),
        }
    }
}
