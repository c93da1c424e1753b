//! Values are stored: room is reserved, key and value are written, and the entry is published.
//!
//! Invariants:
//! - Whatever may refuse comes first: sizes before the change begins, room before anything is written. Neither fill nor
//!   publish fails.
//! - A key that has a value keeps its record where that is possible (no reader has it pinned), so its place in the table,
//!   the order of eviction and leases stay as they are; the stamp says that the value is another.
//! - A value that the store does not have (`DIRTY`) gets no moment at which it expires.
//!
//! Locking: the exclusive lock. Not here: where the room comes from (`reclaim`), values that are copied without the lock
//! (`large`), stores under a condition (`write_back`).

use super::entry::lengths::{Lengths, PayloadShape};
use super::entry::record::Flags;
use super::evict::Eviction;
use super::evicted::OnEvict;
use super::hash::Key;
use super::ids::EntryIndex;
use super::moment::{Moment, Now};
use super::outcomes::{PushError, Put, Unfinished};
use super::partition::Partition;
use super::reservation::{NoRoom, Reclaim};
use super::work::Work;

impl Partition {
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
    pub(super) fn unfinished(&mut self, reason: NoRoom, lengths: Lengths) -> Unfinished {
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
    pub(super) fn store(
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
    pub(super) fn find_in_change(&mut self, key: Key<'_>, now: Now<'_>) -> Option<EntryIndex> {
        let entry = self.find(key)?;
        if self.has_expired(entry, now) {
            self.expire(entry);
            return None;
        }
        Some(entry)
    }

    /// Makes a complete entry findable, in the place of `old` if the key has a value. Part of a change.
    pub(super) fn publish(&mut self, key: Key<'_>, built: EntryIndex, old: Option<EntryIndex>) -> (Put, EntryIndex) {
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
}
