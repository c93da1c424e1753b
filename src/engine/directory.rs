//! The directory: one 32-byte record per entry, the only place that knows where an entry's slot lies.
//!
//! ```text
//! Record   0        8          12        16      20         24     28              32
//!          ┌────────┬──────────┬─────────┬───────┬──────────┬──────┬───────────────┐
//!          │ stamp  │ location │ touched │ chain │ previous │ next │ state         │
//!          └────────┴──────────┴─────────┴───────┴──────────┴──────┴───────────────┘
//! stamp    generation (bits 0-31), changing (bit 32), version (bits 33-63): one load tells whether an entry is the
//!          same and unchanged
//! touched  the partition's tick at the last use (bits 0-29), uses counted by policy `s3-fifo` (bits 30-31)
//! state    pins (bits 0-7), flags (bits 8-15), key length in bytes (bits 16-31)
//! ```
//!
//! Records are slots of class 0, so their memory comes from the pool and returns to it. They never move: an
//! [`EntryIndex`] is stable for the life of its entry, which is what lets a cursor walk the directory while others
//! change the cache.
//!
//! Generations: odd while the record is live, even while it is free, only ever rising. When a directory slab
//! goes back to the pool its descriptor keeps a number above all generations in it, where the records start
//! when the slab serves the directory again. A record whose generations are used up (2^31 lives) is retired.
//!
//! Continuation records stand for the further slots of a chained value. They are linked from their head by
//! `previous`/`next`, name it in `chain`, and are no entries: iteration skips them.
//!
//! A stamp is *changing* while the entry is being built, while its value or location is being replaced, and from its
//! removal on; else it is *whole*: the entry can be found, and its key and value are complete. Readers without a lock
//! stand on that (`optimistic`): a stamp is whole after the last write to what the record names, changing before the
//! next.
//!
//! Locking: everything but the pins, the reference bit and `touched` is written under the partition's exclusive lock. A
//! hit writes `touched` under the shared lock without regard to other hits: one of two at the same moment may be lost.

use std::sync::atomic::{Ordering, fence};

use super::ids::{ClassIndex, EntryIndex, Location, SlabIndex};
use super::partition::Partition;
use super::region::{RegionType, Word32, Word64};

/// One directory record.
#[repr(C, align(32))]
pub struct Record {
    stamp: Word64,
    location: Word32,
    touched: Word32,
    /// Next entry of the bucket's overflow chain; in a continuation, the head.
    pub chain: Word32,
    /// Towards the most recently used entry; in a continuation, the slot before.
    pub previous: Word32,
    /// Towards the least recently used entry; in a continuation, the slot after.
    pub next: Word32,
    state: Word32,
}
const _: () = assert!(size_of::<Record>() == super::class::RECORD_BYTES as usize);
// SAFETY: repr(C), words only, 32 bytes without padding.
#[allow(unsafe_code)]
unsafe impl RegionType for Record {}

/// Bits of [`Record`]'s state.
pub mod flag {
    /// The pin count: entries that readers use without a lock.
    pub const PINS: u32 = 0xff;
    /// CLOCK's reference bit.
    pub const REFERENCED: u32 = 1 << 8;
    /// In the small queue. The same bit as `REFERENCED`: it belongs to the policy, and this one is `s3-fifo`'s.
    pub const SMALL: u32 = 1 << 8;
    /// The value spans several slots.
    pub const CHAINED: u32 = 1 << 9;
    /// No entry, but a further slot of one.
    pub const CONTINUATION: u32 = 1 << 10;
    /// Removed while pinned; freed with the last pin.
    pub const ZOMBIE: u32 = 1 << 11;
    /// Listed in its bucket's overflow chain.
    pub const OVERFLOWED: u32 = 1 << 12;
    /// Must not be evicted: its value is being replaced.
    pub const PROTECTED: u32 = 1 << 13;
    /// In the hands of some worker, which writes it back or has not finished loading it: see `claims`. Stays meanwhile.
    pub const CLAIMED: u32 = 1 << 14;
    /// The value differs from the one in the backing store, which must have it before the entry goes.
    pub const DIRTY: u32 = 1 << 15;
    /// What may be set while a value lies in one slot and anybody may read it. Readers without a lock leave an entry
    /// with any other flag to those with one.
    pub const PLAIN: u32 = PINS | REFERENCED | SMALL | OVERFLOWED | PROTECTED | CLAIMED | DIRTY;
    /// All flags, without the length of the key.
    pub const ALL: u32 = 0xffff;
}

/// Ticks that can be told apart: an age is counted modulo this.
const TICK_BITS: u32 = 30;
const TICK_MASK: u32 = (1 << TICK_BITS) - 1;
/// The most uses that a record counts.
pub const MAX_USES: u32 = (1 << (32 - TICK_BITS)) - 1;

const RETIRED_GENERATION: u32 = u32::MAX - 1;

/// Generation and version of an entry, and whether it is whole. No two contents of a record have the same whole stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp(u64);

impl Stamp {
    /// That of no entry.
    pub const NONE: Stamp = Stamp(0);
    const CHANGING: u64 = 1 << 32;
    const ONE_VERSION: u64 = 1 << 33;

    /// The start of a life: an entry that is being built.
    fn changing(generation: u32) -> Stamp {
        Stamp(u64::from(generation) | Self::CHANGING)
    }

    /// Whether the entry can be found, with key and value whole.
    #[inline]
    pub fn is_whole(self) -> bool {
        self.0 & (Self::CHANGING | 1) == 1
    }
}

impl Record {
    /// The generation: odd while live.
    #[inline]
    pub fn generation(&self) -> u32 {
        self.stamp.get() as u32
    }

    /// How often the value was replaced.
    #[inline]
    pub fn version(&self) -> u32 {
        (self.stamp.get() / Stamp::ONE_VERSION) as u32
    }

    /// The stamp; whoever sees a whole one sees what it vouches for.
    #[inline]
    pub fn stamp(&self) -> Stamp {
        Stamp(self.stamp.load_acquire())
    }

    /// Whether the record is in use, be it by an entry or a continuation.
    #[inline]
    pub fn is_live(&self) -> bool {
        self.generation() % 2 == 1
    }

    /// Whether the record is that of an entry that can be found.
    #[inline]
    pub fn is_entry(&self) -> bool {
        self.is_live() && self.state.get() & (flag::CONTINUATION | flag::ZOMBIE) == 0
    }

    /// Before anything changes that a reader without a lock relies on: no such reader will trust what it reads of it.
    #[inline]
    pub fn mark_changing(&self) {
        self.stamp.set(self.stamp.get() | Stamp::CHANGING);
        fence(Ordering::Release);
    }

    /// Uses counted, up to [`MAX_USES`].
    #[inline]
    pub fn uses(&self) -> u32 {
        self.touched.get() >> TICK_BITS
    }

    /// The tick at the last use, without its highest bits.
    #[inline]
    pub fn last_use(&self) -> u32 {
        self.touched.get() & TICK_MASK
    }

    /// How many ticks the last use lies back.
    #[inline]
    pub fn age(&self, tick: u32) -> u32 {
        tick.wrapping_sub(self.last_use()) & TICK_MASK
    }

    /// Notes a use at `tick`, and how many there were.
    #[inline]
    pub fn touch(&self, tick: u32, uses: u32) {
        debug_assert!(uses <= MAX_USES);
        self.touched.set(uses << TICK_BITS | tick & TICK_MASK);
    }

    /// Takes over another record's last use and number of uses.
    pub fn touch_as(&self, other: &Record) {
        self.touched.set(other.touched.get());
    }

    /// The entry is complete and about to be findable.
    #[inline]
    pub fn mark_whole(&self) {
        self.stamp.store_release(self.stamp.get() & !Stamp::CHANGING);
    }

    /// The value was replaced by another: counts it.
    #[inline]
    pub fn mark_replaced(&self) {
        self.stamp.store_release(self.stamp.get().wrapping_add(Stamp::ONE_VERSION) & !Stamp::CHANGING);
    }

    /// Where the entry's slot lies. What was moved there before the record was pointed to it is seen.
    #[inline]
    pub fn location(&self) -> Location {
        Location(self.location.load_acquire())
    }

    /// Points the record to another slot, which has its bytes.
    #[inline]
    pub fn set_location(&self, location: Location) {
        self.location.store_release(location.0)
    }

    /// The entry behind this one in a bucket's chain.
    #[inline]
    pub fn next_in_chain(&self) -> Option<EntryIndex> {
        EntryIndex(self.chain.load_acquire()).some()
    }

    /// Flags and length of the key in one load.
    #[inline]
    pub fn flags_and_key_len(&self) -> (u32, usize) {
        let state = self.state.get();
        (state & flag::ALL, (state >> 16) as usize)
    }

    /// The length of the key in bytes.
    #[inline]
    pub fn key_len(&self) -> usize {
        (self.state.get() >> 16) as usize
    }

    /// Whether all of `flags` are set.
    #[inline]
    pub fn has(&self, flags: u32) -> bool {
        self.state.get() & flags == flags
    }

    /// Sets flags. Atomic, because readers change their pins without a lock.
    #[inline]
    pub fn set_flags(&self, flags: u32) -> u32 {
        self.state.atomic().fetch_or(flags, Ordering::AcqRel)
    }

    /// Clears flags.
    #[inline]
    pub fn clear_flags(&self, flags: u32) {
        self.state.atomic().fetch_and(!flags, Ordering::AcqRel);
    }

    /// Starts a life: no pins, these flags, a key of this length.
    pub fn set_state(&self, flags: u32, key_len: usize) {
        debug_assert!(key_len <= u16::MAX as usize);
        self.state.set(flags | (key_len as u32) << 16)
    }

    /// Readers that use the entry without a lock. Under the exclusive lock the number can only fall.
    #[inline]
    pub fn pins(&self) -> u32 {
        self.state.atomic().load(Ordering::Acquire) & flag::PINS
    }

    /// Whether the entry may be evicted: nobody reads it without a lock, and its value is not being replaced, and it
    /// is in no worker's hands.
    #[inline]
    pub fn is_evictable(&self) -> bool {
        self.state.atomic().load(Ordering::Acquire) & (flag::PINS | flag::PROTECTED | flag::CLAIMED) == 0
    }

    /// Adds a pin; `false` if the count is at its limit. Needs the partition's lock in any mode.
    pub fn pin(&self) -> bool {
        self.state
            .atomic()
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| {
                (state & flag::PINS < flag::PINS).then(|| state + 1)
            })
            .is_ok()
    }

    /// Takes a pin back, without a lock. `true` if the entry was removed meanwhile and this was the last pin: the
    /// caller must reap it under the exclusive lock.
    pub fn unpin(&self) -> bool {
        let before = self.state.atomic().fetch_sub(1, Ordering::AcqRel);
        debug_assert!(before & flag::PINS > 0);
        before & flag::PINS == 1 && before & flag::ZOMBIE != 0
    }
}

impl Partition {
    /// One record.
    #[inline]
    pub(super) fn record(&self, entry: EntryIndex) -> &Record {
        self.region.at(self.layout.record_offset(entry))
    }

    fn record_at(&self, location: Location) -> (EntryIndex, &Record) {
        let offset = location.usize() * Location::UNIT_BYTES;
        let entry = EntryIndex((offset / size_of::<Record>()) as u32);
        (entry, self.record(entry))
    }

    /// Starts the life of the record in a slot that was just taken from class 0.
    pub(super) fn open_record(&mut self, slot: Location, flags: u32, key_len: usize) -> EntryIndex {
        let tick = self.header().tick.get();
        let (entry, record) = self.record_at(slot);
        let generation = record.generation();
        debug_assert!(generation % 2 == 0 && generation < RETIRED_GENERATION);
        record.stamp.set(Stamp::changing(generation + 1).0);
        record.set_location(Location::NONE);
        record.touch(tick, 0);
        for link in [&record.chain, &record.previous, &record.next] {
            link.set(EntryIndex::NONE.0);
        }
        record.set_state(flags, key_len);
        entry
    }

    /// Ends a record's life and frees its slot, unless its generations are used up. The slot of its value may be free
    /// already; it is not written to before the release fence in `take_slot` or `grow_class`.
    pub(super) fn close_record(&mut self, entry: EntryIndex) {
        let record = self.record(entry);
        let generation = record.generation();
        debug_assert!(generation % 2 == 1);
        record.stamp.set(u64::from(generation + 1));
        record.set_location(Location::NONE);
        if generation + 1 != RETIRED_GENERATION {
            let offset = self.layout.record_offset(entry);
            self.free_slot(Location((offset / Location::UNIT_BYTES) as u32), 0);
        }
    }

    /// Prepares the records of a slab that joins the directory.
    pub(super) fn open_directory_slab(&mut self, slab: SlabIndex) {
        let base = self.descriptor(slab).generation_base.get();
        for entry in self.records_of(slab) {
            self.record(entry).stamp.set(u64::from(base));
        }
    }

    /// Remembers the generations of a slab that leaves the directory.
    pub(super) fn close_directory_slab(&mut self, slab: SlabIndex) {
        let highest = self.records_of(slab).map(|entry| self.record(entry).generation()).max();
        let descriptor = self.descriptor(slab);
        let base = descriptor.generation_base.get().max(highest.unwrap_or(0));
        // Up to the next even number; from the last one no record is opened.
        descriptor.generation_base.set(base.saturating_add(base % 2).min(RETIRED_GENERATION));
    }

    /// Whether records in this slab can still be given a new generation.
    pub(super) fn can_serve_directory(&self, slab: SlabIndex) -> bool {
        self.descriptor(slab).generation_base.get() < RETIRED_GENERATION
    }

    pub(super) fn records_of(&self, slab: SlabIndex) -> impl Iterator<Item = EntryIndex> {
        let class = self.layout.classes.get(ClassIndex::DIRECTORY);
        let first = (self.layout.slab_offset(slab) + class.first_slot_bytes as usize) / size_of::<Record>();
        (0..class.slots_per_slab).map(move |slot| EntryIndex(first as u32 + slot))
    }

    /// The first entry at or after `from` in the order of the directory.
    ///
    /// Whole slabs that hold no records cost one load each; within a slab the free bitmap is searched.
    pub(super) fn next_entry(&self, from: EntryIndex) -> Option<EntryIndex> {
        let class = self.layout.classes.get(ClassIndex::DIRECTORY);
        let offset = self.layout.record_offset(from).max(self.layout.slab_offset(SlabIndex(0)));
        let (SlabIndex(first_slab), within) = self.layout.slab_of(offset)?;
        let mut slot = within.saturating_sub(class.first_slot_bytes) / class.slot_bytes;
        for slab in (first_slab..self.layout.slab_count).map(SlabIndex) {
            if self.descriptor(slab).class.get() == ClassIndex::DIRECTORY.0 {
                let bitmap = self.bitmap(slab, ClassIndex::DIRECTORY);
                while let Some(used) = bitmap.next_used(slot) {
                    let (entry, record) = self.record_at(self.layout.location(slab, ClassIndex::DIRECTORY, used));
                    if record.is_entry() {
                        return Some(entry);
                    }
                    slot = used + 1;
                }
            }
            slot = 0;
        }
        None
    }

    /// Whether `entry` names a record at all: an id may be old, and its slab may hold values now. Without the lock: whoever is
    /// told so sees no bytes from before the slab was prepared for records.
    pub(super) fn is_record(&self, entry: EntryIndex) -> bool {
        let class = self.layout.classes.get(ClassIndex::DIRECTORY);
        match self.layout.slab_of(self.layout.record_offset(entry)) {
            Some((slab, within)) => {
                self.descriptor(slab).class.load_acquire() == ClassIndex::DIRECTORY.0
                    && within >= class.first_slot_bytes
                    && (within - class.first_slot_bytes) / class.slot_bytes < class.slots_per_slab
            }
            None => false,
        }
    }

    /// Keeps generations rising across a reset. A slab has the directory's class only once its records are prepared.
    pub(super) fn salvage_generations(&mut self, slab: SlabIndex) {
        if self.descriptor(slab).class.get() == ClassIndex::DIRECTORY.0 {
            self.close_directory_slab(slab);
        }
    }
}
