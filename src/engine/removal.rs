//! Entries go: by their key, because they have expired, or because they are next in the order of eviction.
//!
//! Three verbs, in this order: *unlink* (nobody finds the entry any more), *retire* (it is counted no more), *free* (its
//! memory returns, with the last pin).
//!
//! Locking: the exclusive lock. Not here: evictions that make room, and how memory returns (`reclaim`).

use super::counters::Removal;
use super::entry::record::{Flags, Pin};
use super::evict::{Eviction, Search};
use super::flight::version::Version;
use super::hash::{Key, KeyHash};
use super::ids::EntryIndex;
use super::moment::Now;
use super::outcomes::{Collect, Popped, PushError, Unfinished};
use super::partition::Partition;
use super::work::Work;

impl Partition {
    /// Removes a key; `false` if there is none, or had expired. Its value is not read.
    pub fn remove(&mut self, key: Key<'_>, why: Removal, now: Now<'_>) -> bool {
        let Some(entry) = self.find_or_expire(key, now) else { return false };
        self.remove_entry(entry);
        self.note_removals(why, 1);
        true
    }

    /// Removes an entry that can be found.
    pub fn remove_entry(&mut self, entry: EntryIndex) {
        self.mutate(|partition| {
            partition.unlink(entry, partition.hash_of(entry));
            partition.retire(entry);
        });
        self.counters.removals().add(1);
    }

    /// Removes an entry, dirty or not, if it has this version.
    pub fn remove_if(&mut self, entry: EntryIndex, version: Version) -> bool {
        let is_same = self.has_version(entry, version);
        if is_same {
            self.remove_entry(entry);
        }
        is_same
    }

    /// Counts why entries went that are counted as removed.
    pub fn note_removals(&mut self, why: Removal, count: u64) {
        match why {
            Removal::ByHand => {}
            Removal::Invalidated => self.counters.invalidations().add(count),
        }
    }

    /// Removes an entry, which stays readable by the pin that is returned, until [`Partition::unpin_and_free`].
    ///
    /// `None` if it has 255 pins already; then it stays.
    pub fn take(&mut self, entry: EntryIndex) -> Option<Pin> {
        let pin = self.pin(entry)?;
        self.remove_entry(entry);
        Some(pin)
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
}
