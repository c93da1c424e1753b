//! Large values, which nobody copies under a lock: a record and slots are reserved in steps, filled without the lock, and
//! published.
//!
//! Invariants:
//! - What is reserved belongs to who holds its pin: nobody finds it, evicts it or moves it. A reset takes it away, and the
//!   record's generation tells.
//! - It is published or cancelled. Who dies with it leaves it reserved, as a pin.
//!
//! Locking: the exclusive lock for each step. Not here: the slots (`reclaim`), and what fills them
//! (`index/optimistic`).

use super::entry::lengths::Lengths;
use super::entry::record::{Flags, Pin};
use super::evicted::OnEvict;
use super::hash::Key;
use super::ids::EntryIndex;
use super::moment::Now;
use super::outcomes::{Put, Unfinished};
use super::partition::Partition;
use super::reservation::{Reclaim, Reservation};
use super::work::Work;

/// Chained values above this are never copied under a lock.
pub const LARGE_VALUE_BYTES: usize = 64 << 10;

impl Partition {
    /// Whether an entry is so large that nobody should copy it under a lock.
    #[inline]
    pub fn is_large(&self, entry: EntryIndex) -> bool {
        self.record(entry).has(Flags::CHAINED) && self.payload.value_len(entry) > LARGE_VALUE_BYTES
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

    /// Takes the moment from a complete entry that nobody finds yet. Part of a change.
    #[cold]
    fn forget_moment(&mut self, built: EntryIndex) {
        let before = self.payload.stored_bytes(built);
        self.directory.set_expires(built, false);
        let class = self.slabs.class_at(self.record(built).location());
        self.slabs.replace_stored(class, before, self.payload.stored_bytes(built));
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
