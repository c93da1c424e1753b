//! Recency: the order in which entries are evicted.
//!
//! Doubly linked lists through the records, each from the entry that came last (`head`) to the first to go (`tail`).
//! - `lru`: one list; a hit moves the entry to the head, the victim is the tail. Exact.
//! - `clock`: one list; a hit sets the entry's reference bit; a victim search from the tail moves referenced entries to
//!   the head, their bit cleared, until it meets one without (second chance).
//! - `s3-fifo`: two lists, told apart by a bit of the record; see `s3fifo`.
//!
//! Pinned entries are passed over. Costs: constant, but for a search past pinned or referenced entries.
//! Locking: the lists are changed under the exclusive lock; uses are noted under any.

use super::config::Policy;
use super::directory::{MAX_USES, Record, flag};
use super::ids::EntryIndex;
use super::partition::{Key, Partition};
use super::region::Word32;

impl Partition {
    /// Head and tail of the list that an entry is in, or would be.
    fn ends(&self, entry: EntryIndex) -> (&Word32, &Word32) {
        let header = self.header();
        if self.is_small(entry) { (&header.small_head, &header.small_tail) } else { (&header.head, &header.tail) }
    }

    /// Puts a new entry into the list that its policy has for it.
    pub(super) fn admit(&mut self, key: Key<'_>, entry: EntryIndex) {
        if self.layout.policy == Policy::S3Fifo && !self.recall(key.hash) {
            self.record(entry).set_flags(flag::SMALL);
        }
        self.link_front(entry);
    }

    /// Puts an entry at the head of its list.
    pub(super) fn link_front(&mut self, entry: EntryIndex) {
        let header = self.header();
        let record = self.record(entry);
        let (head, tail) = self.ends(entry);
        let first = head.get();
        record.previous.set(EntryIndex::NONE.0);
        record.next.set(first);
        match EntryIndex(first).some() {
            Some(first) => self.record(first).previous.set(entry.0),
            None => tail.set(entry.0),
        }
        head.set(entry.0);
        let tick = header.tick.get().wrapping_add(1);
        header.tick.set(tick);
        record.touch(tick, 0);
        self.small_gains(entry);
    }

    /// Whether an entry is in a list: one that is still being built is not.
    pub(super) fn is_listed(&self, entry: EntryIndex) -> bool {
        self.record(entry).previous.get() != EntryIndex::NONE.0 || self.ends(entry).0.get() == entry.0
    }

    /// Takes an entry out of its list.
    pub(super) fn unlink(&mut self, entry: EntryIndex) {
        let record = self.record(entry);
        let (head, tail) = self.ends(entry);
        let (previous, next) = (record.previous.get(), record.next.get());
        match EntryIndex(previous).some() {
            Some(previous) => self.record(previous).next.set(next),
            None => head.set(next),
        }
        match EntryIndex(next).some() {
            Some(next) => self.record(next).previous.set(previous),
            None => tail.set(previous),
        }
        self.small_loses(entry);
    }

    /// Moves an entry to the head of its list, which is no use: its age goes on counting from the last one.
    pub(super) fn requeue(&mut self, entry: EntryIndex, uses: u32) {
        let last_use = self.record(entry).last_use();
        self.unlink(entry);
        self.link_front(entry);
        self.record(entry).touch(last_use, uses);
    }

    /// Puts an entry where another one is, which leaves its list.
    pub(super) fn take_place(&mut self, entry: EntryIndex, of: EntryIndex) {
        let (record, old) = (self.record(entry), self.record(of));
        if self.is_small(of) {
            record.set_flags(flag::SMALL);
        }
        let (head, tail) = self.ends(of);
        record.previous.set(old.previous.get());
        record.next.set(old.next.get());
        record.touch_as(old);
        match EntryIndex(old.previous.get()).some() {
            Some(previous) => self.record(previous).next.set(entry.0),
            None => head.set(entry.0),
        }
        match EntryIndex(old.next.get()).some() {
            Some(next) => self.record(next).previous.set(entry.0),
            None => tail.set(entry.0),
        }
        self.small_loses(of);
        self.small_gains(entry);
    }

    /// Makes an entry the most recently used one (policy `lru`).
    pub fn promote(&mut self, entry: EntryIndex) {
        if self.header().head.get() != entry.0 {
            self.mutate(|partition| {
                partition.unlink(entry);
                partition.link_front(entry);
            });
        }
    }

    /// Whether [`Partition::reference`] has anything to write for a hit: policy `clock` until the reference bit is set,
    /// `s3-fifo` until [`MAX_USES`] are counted. Safe beside writers; the answer may be of another entry then.
    #[inline]
    pub(super) fn needs_reference(&self, record: &Record) -> bool {
        match self.layout.policy {
            Policy::Lru => true,
            Policy::Clock => !record.has(flag::REFERENCED),
            Policy::S3Fifo => record.uses() < MAX_USES,
        }
    }

    /// Notes a hit under the shared lock (policies `clock` and `s3-fifo`), unless that needs no note any more.
    #[inline]
    pub fn reference(&self, entry: EntryIndex) {
        let record = self.record(entry);
        if !self.needs_reference(record) {
            return;
        }
        let tick = self.header().tick.get();
        if self.layout.policy == Policy::S3Fifo {
            // Another hit may have come first.
            record.touch(tick, MAX_USES.min(record.uses() + 1));
        } else {
            record.set_flags(flag::REFERENCED);
            record.touch(tick, 0);
        }
    }

    /// Whether a hit since the victim search last passed is noted.
    pub(super) fn is_referenced(&self, entry: EntryIndex) -> bool {
        match self.layout.policy {
            Policy::Lru => false,
            Policy::Clock => self.record(entry).has(flag::REFERENCED),
            Policy::S3Fifo => self.record(entry).uses() > 0,
        }
    }

    /// A replaced value counts as a use.
    pub(super) fn use_again(&mut self, entry: EntryIndex) {
        match self.layout.policy {
            Policy::Lru => {
                self.unlink(entry);
                self.link_front(entry);
            }
            Policy::Clock | Policy::S3Fifo => self.reference(entry),
        }
    }

    /// The entry at the end of the list from which the next one is evicted.
    pub(super) fn oldest(&self) -> Option<EntryIndex> {
        let header = self.header();
        EntryIndex(if self.small_is_next() { header.small_tail.get() } else { header.tail.get() }).some()
    }

    /// The entry to evict next; `None` if every entry is pinned.
    pub(super) fn victim(&mut self) -> Option<EntryIndex> {
        match self.layout.policy {
            Policy::Lru => {
                let tail = EntryIndex(self.header().tail.get()).some();
                std::iter::successors(tail, |&entry| EntryIndex(self.record(entry).previous.get()).some())
                    .find(|&entry| self.record(entry).is_evictable())
            }
            Policy::Clock => {
                // Each entry is met at most twice: once with its bit set, once without.
                for _ in 0..=2 * u64::from(self.header().len.get()) {
                    let entry = EntryIndex(self.header().tail.get()).some()?;
                    let record = self.record(entry);
                    if record.is_evictable() && !record.has(flag::REFERENCED) {
                        return Some(entry);
                    }
                    record.clear_flags(flag::REFERENCED);
                    self.requeue(entry, 0);
                }
                None
            }
            Policy::S3Fifo => self.s3_fifo_victim(),
        }
    }
}
