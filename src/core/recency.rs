//! Recency: the order in which entries are evicted.
//!
//! A doubly linked list through the records, from the most recently used (`head`) to the least (`tail`).
//! - `lru`: a hit moves the entry to the head, the victim is the tail. Exact.
//! - `clock`: a hit sets the entry's reference bit; a victim search from the tail moves referenced entries to
//!   the head, their bit cleared, until it meets one without (second chance).
//!
//! Pinned entries are passed over. Costs: constant, but for a search past pinned or referenced entries.
//! Locking: the list is changed under the exclusive lock; the reference bit is set under any.

use super::config::Policy;
use super::directory::flag;
use super::ids::EntryIndex;
use super::partition::Partition;

impl Partition {
    /// Puts an entry at the most recently used end.
    pub(super) fn link_front(&mut self, entry: EntryIndex) {
        let header = self.header();
        let record = self.record(entry);
        let head = header.head.get();
        record.previous.set(EntryIndex::NONE.0);
        record.next.set(head);
        match EntryIndex(head).some() {
            Some(head) => self.record(head).previous.set(entry.0),
            None => header.tail.set(entry.0),
        }
        header.head.set(entry.0);
        let tick = header.tick.get().wrapping_add(1);
        header.tick.set(tick);
        record.touched.set(tick);
    }

    /// Whether an entry is in the list: one that is still being built is not.
    pub(super) fn is_listed(&self, entry: EntryIndex) -> bool {
        self.record(entry).previous.get() != EntryIndex::NONE.0 || self.header().head.get() == entry.0
    }

    /// Takes an entry out of the list.
    pub(super) fn unlink(&mut self, entry: EntryIndex) {
        let header = self.header();
        let record = self.record(entry);
        let (previous, next) = (record.previous.get(), record.next.get());
        match EntryIndex(previous).some() {
            Some(previous) => self.record(previous).next.set(next),
            None => header.head.set(next),
        }
        match EntryIndex(next).some() {
            Some(next) => self.record(next).previous.set(previous),
            None => header.tail.set(previous),
        }
    }

    /// Puts an entry where another one is, which leaves the list.
    pub(super) fn take_place(&mut self, entry: EntryIndex, of: EntryIndex) {
        let (record, old) = (self.record(entry), self.record(of));
        record.previous.set(old.previous.get());
        record.next.set(old.next.get());
        record.touched.set(old.touched.get());
        match EntryIndex(old.previous.get()).some() {
            Some(previous) => self.record(previous).next.set(entry.0),
            None => self.header().head.set(entry.0),
        }
        match EntryIndex(old.next.get()).some() {
            Some(next) => self.record(next).previous.set(entry.0),
            None => self.header().tail.set(entry.0),
        }
    }

    /// Whether [`Partition::promote`] has anything to do for a hit.
    #[inline]
    pub fn needs_promotion(&self, entry: EntryIndex) -> bool {
        self.layout.policy == Policy::Lru && self.header().head.get() != entry.0
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

    /// Notes a hit under the shared lock (policy `clock`): writes only if the reference bit was not set.
    #[inline]
    pub fn reference(&self, entry: EntryIndex) {
        let record = self.record(entry);
        if !record.has(flag::REFERENCED) {
            record.set_flags(flag::REFERENCED);
            record.touched.set(self.header().tick.get());
        }
    }

    /// A replaced value counts as a use.
    pub(super) fn use_again(&mut self, entry: EntryIndex) {
        match self.layout.policy {
            Policy::Lru => {
                self.unlink(entry);
                self.link_front(entry);
            }
            Policy::Clock => self.reference(entry),
        }
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
                    let touched = record.touched.get();
                    self.unlink(entry);
                    self.link_front(entry);
                    // A second chance is no use: the age goes on counting from the last hit.
                    self.record(entry).touched.set(touched);
                }
                None
            }
        }
    }
}
