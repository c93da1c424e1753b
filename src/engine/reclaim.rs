//! Reserving memory, and making room for it: pool, compaction, eviction, in this order.
//!
//! A slot is taken from the class's own slabs; else the class grows by a slab of the pool; else, where the free slots of
//! some class add up to a slab, that class's emptiest slab is emptied into its others and goes to the pool; else the next
//! entry in the order of eviction goes, whatever its class, and all is tried again. So the order of eviction depends on
//! the policy, and no class can hold memory that it does not use: free slots of a class never add up to a slab while
//! another class wants one (pins aside). Directory records cannot move; a directory slab with few entries left is emptied
//! by evicting these.
//!
//! An entry whose turn to go has come and that has expired is dropped, whatever becomes of those that are evicted: nobody
//! is handed what is as good as absent. That is not looked for: the order of eviction is what it is without expiry.
//!
//! Only this may evict, compact or refuse; what is reserved is filled and published without fail. Work is bounded: who
//! runs out of it keeps what was evicted, cancels what was reserved, and comes back.
//!
//! Locking: everything here is part of a change under the partition's exclusive lock.

use super::entry::lengths::{HEADER_BYTES, Lengths, PayloadShape};
use super::entry::record::{Flags, Pin, Record};
use super::evict::{Candidates, Eviction, Search};
use super::evicted::OnEvict;
use super::ids::{ClassIndex, EntryIndex, Location, SlabIndex};
use super::large::LARGE_VALUE_BYTES;
use super::partition::Partition;
use super::reservation::{NoRoom, Reclaim, Reservation};
use super::work::Work;

impl Partition {
    /// Reserves a record and all slots for an entry of these lengths. Nothing stays reserved on failure.
    #[inline]
    pub(super) fn reserve(&mut self, lengths: Lengths, reclaim: &mut Reclaim<'_, '_>) -> Result<EntryIndex, NoRoom> {
        let mut skeleton = self.open_skeleton(lengths, 0, reclaim)?;
        let entry = skeleton.pin.entry;
        self.extend_skeleton(&mut skeleton, reclaim).inspect_err(|_| self.cancel(entry))?;
        Ok(entry)
    }

    /// Reserves a record, with so many pins, and the first slot.
    #[inline]
    pub(super) fn open_skeleton(
        &mut self,
        lengths: Lengths,
        pins: u32,
        reclaim: &mut Reclaim<'_, '_>,
    ) -> Result<Reservation, NoRoom> {
        let shape = self.payload.shape(lengths);
        let (flags, bytes_left) = match shape {
            PayloadShape::Single { .. } => (Flags::RESERVED, 0),
            PayloadShape::Chained { first_part, .. } => {
                (Flags::RESERVED.with(Flags::CHAINED), lengths.value - first_part)
            }
        };
        let slot = self.take_slot(ClassIndex::DIRECTORY, 0, reclaim)?;
        let entry = self.directory.open_record(slot, flags, lengths.key, pins, self.order.tick());
        if lengths.expires() {
            self.directory.set_expires(entry, true);
        }
        self.state().reserved.add(1);
        let taken = self.take_slot_for(entry, shape.first_slot_bytes(), lengths.value, reclaim);
        taken.inspect_err(|_| self.cancel(entry))?;
        let generation = self.record(entry).generation();
        Ok(Reservation { pin: Pin { entry, generation }, last: entry, bytes_left, lengths })
    }

    /// Reserves the slots that are missing. On failure what there is stays reserved.
    #[inline]
    pub(super) fn extend_skeleton(
        &mut self,
        skeleton: &mut Reservation,
        reclaim: &mut Reclaim<'_, '_>,
    ) -> Result<(), NoRoom> {
        while skeleton.bytes_left > 0 {
            self.extend_by_one(skeleton, reclaim)?;
        }
        Ok(())
    }

    fn extend_by_one(&mut self, skeleton: &mut Reservation, reclaim: &mut Reclaim<'_, '_>) -> Result<(), NoRoom> {
        let head = skeleton.pin.entry;
        let shape = self.payload.shape(skeleton.lengths);
        let PayloadShape::Chained { part, .. } = shape else { unreachable!("a single slot has no further parts") };
        // What is reserved over several holds of the lock is pinned by whoever reserves it.
        if self.record(head).pins() > 0 {
            reclaim.work.spend(1);
            if reclaim.work.is_spent() {
                return Err(NoRoom::OutOfWork);
            }
        }
        let len = skeleton.bytes_left.min(part);
        let slot = self.take_slot(ClassIndex::DIRECTORY, 0, reclaim)?;
        let continuation = self.directory.open_record(slot, Flags::CONTINUATION, 0, 0, self.order.tick());
        match self.take_slot_for(continuation, HEADER_BYTES + len, len, reclaim) {
            Ok(()) => {
                // Linked when it has its slot: what is linked is whole.
                self.payload.link_continuation(head, skeleton.last, continuation);
                self.state().continuations.add(1);
                skeleton.last = continuation;
                skeleton.bytes_left -= len;
                Ok(())
            }
            Err(reason) => {
                self.close_record(continuation);
                Err(reason)
            }
        }
    }

    fn take_slot_for(
        &mut self,
        entry: EntryIndex,
        bytes: usize,
        len: usize,
        reclaim: &mut Reclaim<'_, '_>,
    ) -> Result<(), NoRoom> {
        let class = self.slabs.classes().class_for(bytes).expect("a part is no larger than the largest slot");
        let slot = self.take_slot(class, bytes, reclaim)?;
        self.payload.give_slot(entry, slot, len);
        Ok(())
    }

    /// Gives back a record and the slots that were reserved with it.
    pub(super) fn cancel(&mut self, entry: EntryIndex) {
        self.state().reserved.sub(1);
        self.free(entry);
    }

    /// Returns the memory of an entry that nobody finds and nobody has pinned.
    pub(super) fn free(&mut self, entry: EntryIndex) {
        let mut part = self.payload.continuations(entry).next();
        while let Some(continuation) = part {
            part = EntryIndex(self.record(continuation).next.get()).some();
            self.free_slot_of(continuation);
            self.close_record(continuation);
            self.state().continuations.sub(1);
        }
        self.free_slot_of(entry);
        self.close_record(entry);
    }

    /// As [`Partition::free`]; a large entry is freed in steps, by whoever wants memory next or by
    /// [`Partition::free_doomed`].
    pub(super) fn free_or_doom(&mut self, entry: EntryIndex) {
        if !self.is_large(entry) {
            return self.free(entry);
        }
        let record = self.record(entry);
        record.set_flags(Flags::ZOMBIE);
        record.next.set(self.state().doomed.get());
        self.state().doomed.set(entry.0);
    }

    /// The large entry that is freed next.
    fn doomed(&self) -> Option<EntryIndex> {
        EntryIndex(self.state().doomed.get()).some()
    }

    /// Frees slots of large entries that are retired, as far as the work goes; `false` if there are none. Part of a
    /// change.
    fn free_some_doomed(&mut self, work: &mut Work) -> bool {
        let Some(entry) = self.doomed() else { return false };
        while let Some(part) = self.payload.unlink_first_continuation(entry) {
            self.free_slot_of(part);
            self.close_record(part);
            self.state().continuations.sub(1);
            work.spend(1);
            if work.is_spent() {
                return true;
            }
        }
        self.state().doomed.set(self.record(entry).next.get());
        self.free(entry);
        true
    }

    /// Frees large entries that are retired, as far as the work goes; `false` if none is left.
    pub fn free_doomed(&mut self, work: &mut Work) -> bool {
        if self.doomed().is_some() {
            self.mutate(|partition| while !work.is_spent() && partition.free_some_doomed(work) {});
        }
        self.doomed().is_some()
    }

    /// The large entries that are retired and not yet free, as far as their list makes sense.
    pub(super) fn doomed_entries(&self) -> impl Iterator<Item = EntryIndex> + '_ {
        let most = self.slabs.area().region().len_bytes() / LARGE_VALUE_BYTES + 1;
        let next = |&entry: &EntryIndex| EntryIndex(self.directory.records().get_checked(entry)?.next.get()).some();
        std::iter::successors(self.doomed(), next).take(most)
    }

    fn free_slot_of(&mut self, entry: EntryIndex) {
        let slot = self.record(entry).location();
        if !slot.is_none() {
            self.free_slot(slot, self.payload.stored_bytes(entry));
        }
    }

    fn close_record(&mut self, entry: EntryIndex) {
        if let Some(slot) = self.directory.close_record(entry) {
            self.free_slot(slot, 0);
        }
    }

    fn free_slot(&mut self, slot: Location, stored_bytes: usize) {
        let Some(empty) = self.slabs.free_slot(slot, stored_bytes) else { return };
        if self.slabs.class_at(slot) != ClassIndex::DIRECTORY {
            self.slabs.release(empty);
        } else if self.slabs.class_counts(ClassIndex::DIRECTORY).0 > 1 {
            // The last slab of records stays: if it left and came back with each entry of a cache that is empty now and
            // then, its generations would soon be used up.
            self.directory.retire_slab(empty);
            self.slabs.release(empty);
            self.table.begin_placement_epoch();
        }
    }

    /// Whether the directory keeps a slab that holds no record.
    pub(super) fn keeps_idle_slab(&self) -> bool {
        self.slabs.class_counts(ClassIndex::DIRECTORY) == (1, 0)
    }

    /// A slot of a class, whatever has to make way for it.
    #[inline]
    fn take_slot(
        &mut self,
        class: ClassIndex,
        stored_bytes: usize,
        reclaim: &mut Reclaim<'_, '_>,
    ) -> Result<Location, NoRoom> {
        loop {
            if let Some(slot) = self.slabs.take_slot(class, stored_bytes) {
                return Ok(slot);
            }
            if !self.grow_class(class) {
                self.gain(reclaim)?;
            }
        }
    }

    /// Gives a slab of the pool to a class; `false` if the pool is empty.
    fn grow_class(&mut self, class: ClassIndex) -> bool {
        let directory = &mut self.directory;
        let is_directory = class == ClassIndex::DIRECTORY;
        let Some(slab) = self.slabs.take_from_pool(|slab| !is_directory || directory.can_serve(slab)) else {
            return false;
        };
        if is_directory {
            // The slab's bytes change before it is assigned: whoever sees that sees what was changed before.
            std::sync::atomic::fence(std::sync::atomic::Ordering::Release);
            directory.prepare_slab(slab);
        }
        self.slabs.assign(slab, class);
        true
    }

    /// Gains something: a slab for the pool, or a slot of some class.
    fn gain(&mut self, reclaim: &mut Reclaim<'_, '_>) -> Result<(), NoRoom> {
        if reclaim.work.is_spent() {
            return Err(NoRoom::OutOfWork);
        }
        let gained = self.free_some_doomed(reclaim.work)
            || self.try_to_end_quarantine()
            || self.compact_one_slab(reclaim.work)
            || self.evict_sparse_slab(reclaim)?;
        if gained { Ok(()) } else { self.evict_next(reclaim) }
    }

    /// Before a new entry is stored: keeps to a capacity in entries, and grows the hash table.
    #[inline]
    pub(super) fn make_room_for_one_more(&mut self, reclaim: &mut Reclaim<'_, '_>) -> Result<(), NoRoom> {
        let max_entries = self.state().max_entries.get();
        while max_entries != 0 && self.len() >= max_entries {
            if reclaim.work.is_spent() {
                return Err(NoRoom::OutOfWork);
            }
            self.evict_next(reclaim)?;
        }
        if self.table.wants_growth(self.len() + 1) {
            self.grow_table(reclaim)?;
        }
        Ok(())
    }

    /// Adds a bucket or two, so that a table that lags behind catches up.
    #[cold]
    fn grow_table(&mut self, reclaim: &mut Reclaim<'_, '_>) -> Result<(), NoRoom> {
        const BUCKETS_AT_ONCE: usize = 2;
        for _ in 0..BUCKETS_AT_ONCE {
            if !self.table.wants_growth(self.len() + 1) {
                break;
            }
            if self.table.needs_segment() {
                let Some(slab) = self.take_slab_for_buckets(reclaim)? else { break };
                self.slabs.assign_to_buckets(slab);
                self.table.add_segment(slab);
            }
            let records = *self.directory.records();
            self.table.next_to_split().for_each(|entry| records.prefetch(entry));
            self.table.next_to_split().for_each(|entry| self.payload.prefetch_slot(entry));
            let hasher = self.hasher();
            self.table.split(hasher);
        }
        Ok(())
    }

    /// A slab for buckets; `None` if there is none and nothing may make way for it. A table that is too small is slow,
    /// no reason to refuse a value.
    fn take_slab_for_buckets(&mut self, reclaim: &mut Reclaim<'_, '_>) -> Result<Option<SlabIndex>, NoRoom> {
        loop {
            if let Some(slab) = self.slabs.take_from_pool(|_| true) {
                return Ok(Some(slab));
            }
            match self.gain(reclaim) {
                Ok(()) => {}
                Err(NoRoom::Pinned | NoRoom::Forbidden | NoRoom::Dirty(_)) => return Ok(None),
                Err(reason) => return Err(reason),
            }
        }
    }

    /// The next entry to evict.
    pub(super) fn search(&mut self, spared: Option<EntryIndex>, work: &mut Work) -> Search {
        let (records, payload, totals) = (*self.directory.records(), self.payload, self.totals());
        // By this the search is bounded.
        let most = self.slabs.area().region().len_bytes() / size_of::<Record>();
        assert!(totals.entries as usize <= most, "{} entries where there is room for {most}", totals.entries);
        let may_evict = |entry| Some(entry) != spared && records.get(entry).is_evictable();
        let bytes_of = |entry| payload.entry_bytes(entry);
        self.order.victim(&Candidates { totals, may_evict: &may_evict, bytes_of: &bytes_of }, work)
    }

    /// Evicts the next entry in the order of eviction.
    fn evict_next(&mut self, reclaim: &mut Reclaim<'_, '_>) -> Result<(), NoRoom> {
        if matches!(reclaim.on_evict, OnEvict::Forbid) {
            return Err(NoRoom::Forbidden);
        }
        if reclaim.work.nothing_to_evict() {
            return Err(NoRoom::Pinned);
        }
        match self.search(reclaim.spared, reclaim.work) {
            Search::Victim(victim) => self.hand_over(victim, reclaim),
            Search::NothingToEvict => Err(NoRoom::Pinned),
            Search::OutOfWork => Err(NoRoom::OutOfWork),
        }
    }

    /// Evicts an entry to where evicted entries go; one that has expired goes nowhere.
    fn hand_over(&mut self, victim: EntryIndex, reclaim: &mut Reclaim<'_, '_>) -> Result<(), NoRoom> {
        if self.has_expired(victim, reclaim.now) {
            reclaim.work.spend(Work::EVICTION);
            self.expire(victim);
            return Ok(());
        }
        match &mut reclaim.on_evict {
            OnEvict::DiscardClean(_) if self.record(victim).has(Flags::DIRTY) => return Err(NoRoom::Dirty(victim)),
            OnEvict::DiscardClean(dropped) => **dropped += 1,
            OnEvict::Collect(_) if self.is_large(victim) => {
                if let Some(pin) = self.pin(victim) {
                    self.evict(victim);
                    return Err(NoRoom::CopyFirst(pin));
                }
            }
            OnEvict::Collect(evicted) => {
                let payload = self.payload;
                let append = |out: &mut Vec<u8>| payload.append_value(victim, out);
                if evicted.try_push(payload.key(victim), payload.value_len(victim), append).is_err() {
                    return Err(NoRoom::OutOfMemory);
                }
            }
            OnEvict::Discard | OnEvict::Forbid => {}
        }
        reclaim.work.spend(Work::EVICTION);
        self.evict(victim);
        Ok(())
    }

    /// Removes an entry as evicted: it is counted, and the order of eviction may remember it.
    pub(super) fn evict(&mut self, victim: EntryIndex) {
        let hash = self.hash_of(victim);
        self.order.note_eviction(victim, hash);
        self.unlink(victim, hash);
        self.retire(victim);
        self.counters.evictions().add(1);
    }

    /// Empties a directory slab that holds few entries, where the directory has a slab's worth of free records.
    ///
    /// Records cannot move, so a few entries that stay in use would keep slabs from other classes for ever. They are
    /// evicted out of turn, if they are at most a sixteenth of a slab of records, or, while less than half of the
    /// directory is in use, half of one. `false` if there is no such slab.
    fn evict_sparse_slab(&mut self, reclaim: &mut Reclaim<'_, '_>) -> Result<bool, NoRoom> {
        let slots = self.slabs.classes().get(ClassIndex::DIRECTORY).slots_per_slab;
        let is_allowed = matches!(reclaim.on_evict, OnEvict::Discard | OnEvict::Collect(_) | OnEvict::DiscardClean(_));
        if !is_allowed || self.slabs.free_slots(ClassIndex::DIRECTORY) < u64::from(slots) {
            return Ok(false);
        }
        let Some(slab) = self.slabs.emptiest(ClassIndex::DIRECTORY, &[]) else { return Ok(false) };
        let used = self.slabs.used_in(slab);
        let (slab_count, used_total) = self.slabs.class_counts(ClassIndex::DIRECTORY);
        let half_empty = used_total * 2 < u64::from(slab_count) * u64::from(slots);
        if used == 0 || used > if half_empty { slots / 2 } else { slots / 16 } {
            return Ok(false);
        }
        // Only as a whole: a continuation, a pinned entry, or one being built or replaced stays, and so would the slab.
        let dirty_stays = matches!(reclaim.on_evict, OnEvict::DiscardClean(_));
        let may_go = |entry: EntryIndex| {
            let record = self.record(entry);
            let stays = dirty_stays && record.has(Flags::DIRTY) || Some(entry) == reclaim.spared;
            record.is_entry() && record.is_evictable() && !stays && !self.is_large(entry)
        };
        let live = || self.directory.records_of(slab).filter(|&entry| self.record(entry).is_live());
        if live().count() != used as usize || !live().all(may_go) {
            return Ok(false);
        }
        reclaim.work.spend(used);
        let records = self.directory.records_of(slab);
        for entry in records {
            if self.record(entry).is_live() {
                self.hand_over(entry, reclaim)?;
            }
        }
        Ok(true)
    }
}
