//! The record of an entry: 32 bytes, the only place that knows where the entry's slot lies.
//!
//! ```text
//! Record   0        8          12        16      20         24     28              32
//!          ┌────────┬──────────┬─────────┬───────┬──────────┬──────┬───────────────┐
//!          │ stamp  │ location │ touched │ chain │ previous │ next │ state         │
//!          └────────┴──────────┴─────────┴───────┴──────────┴──────┴───────────────┘
//! stamp    generation (bits 0-31), unstable (bit 32), expires (bit 33), version (bits 34-63): one load tells whether an
//!          entry is the same and unchanged, and whether the time matters to it
//! touched  the tick of the order of eviction at the last use (bits 0-29), uses counted by `s3-fifo` (bits 30-31)
//! state    pins (bits 0-7), flags (bits 8-15), key length in bytes (bits 16-31)
//! ```
//!
//! Who writes which word: `stamp`, `location` and `state` belong to the directory and to whoever fills the entry;
//! `chain` to the hash table; `previous`, `next` and `touched` to the order of eviction. In a continuation, `chain` names
//! the head, `previous` and `next` the parts before and after.
//!
//! A stamp is *unstable* while the entry is being built, while its value is being replaced, and from its removal on;
//! else it is *stable*: the entry can be found, and its key and value are complete. Optimistic reads stand on that: a
//! writer makes the stamp stable after the last write to what the record names, and unstable before the next.
//!
//! The mark that an entry *expires* is in the stamp because whoever reads loads that anyway, and whoever kept a stamp
//! need not look at the record; the moment is in the slot (`payload`).
//!
//! Locking: everything but the pins, the policy's flag and `touched` is written under the partition's exclusive lock. A
//! hit writes `touched` under the shared lock without regard to other hits: one of two at the same moment may be lost.

use std::sync::atomic::{Ordering, fence};

use crate::engine::ids::{EntryIndex, Location};
use crate::engine::memory::list::Links;
use crate::engine::memory::region::region_struct;
use crate::engine::memory::words::{Word32, Word64};
use crate::engine::slab::area::SlabArea;

region_struct! {
    /// One directory record.
    pub struct Record: 32 bytes, align 32 {
        pub(super) stamp: Word64,
        location: Word32,
        touched: Word32,
        /// Next entry of the bucket's overflow chain; in a continuation, the head.
        pub chain: Word32,
        /// Towards the entry that came last; in a continuation, the part before.
        pub previous: Word32,
        /// Towards the entry that goes first; in a continuation, the part after.
        pub next: Word32,
        state: Word32,
    }
}
const _: () = assert!(size_of::<Record>() == crate::engine::slab::class::RECORD_BYTES as usize);

/// Bits of a record's state, pins and key length left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(u32);

impl Flags {
    /// No flag.
    pub const NONE: Flags = Flags(0);
    /// The policy's own: `clock`'s reference bit; with `s3-fifo`, that the entry is in the small queue.
    pub const POLICY: Flags = Flags(1 << 8);
    /// The value spans several slots.
    pub const CHAINED: Flags = Flags(1 << 9);
    /// No entry, but a further slot of one.
    pub const CONTINUATION: Flags = Flags(1 << 10);
    /// Removed while pinned; freed with the last pin.
    pub const ZOMBIE: Flags = Flags(1 << 11);
    /// Listed in its bucket's overflow chain.
    pub const OVERFLOWED: Flags = Flags(1 << 12);
    /// Reserved for a value that is not complete: no entry yet.
    pub const RESERVED: Flags = Flags(1 << 13);
    /// Some worker has a lease on the entry: see `flight::inflight`. Stays meanwhile.
    pub const LEASED: Flags = Flags(1 << 14);
    /// The value differs from the one in the backing store, which must have it before the entry goes.
    pub const DIRTY: Flags = Flags(1 << 15);
    /// What may be set while a value lies in one slot and anybody may read it. Optimistic reads leave an entry with any
    /// other flag to readers with the lock.
    pub const READABLE: Flags = Flags(Self::POLICY.0 | Self::OVERFLOWED.0 | Self::LEASED.0 | Self::DIRTY.0);
    const ALL: u32 = 0xff00;

    /// These and those.
    pub const fn with(self, others: Flags) -> Flags {
        Flags(self.0 | others.0)
    }

    /// Whether these have nothing that is not among those.
    #[inline]
    pub const fn are_within(self, others: Flags) -> bool {
        self.0 & !others.0 == 0
    }
}

const PINS: u32 = 0xff;
/// Ticks that can be told apart: an age is counted modulo this.
const TICK_BITS: u32 = 30;
const TICK_MASK: u32 = (1 << TICK_BITS) - 1;
/// The most uses that a record counts.
pub const MAX_USES: u32 = (1 << (32 - TICK_BITS)) - 1;
/// No record is opened from this generation on.
pub const LAST_GENERATION: u32 = u32::MAX - 1;

/// Generation and version of an entry, whether it is stable, and whether it expires. No two contents of a record have the same stable stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stamp(u64);

impl Stamp {
    /// That of no entry.
    pub const NONE: Stamp = Stamp(0);
    const UNSTABLE: u64 = 1 << 32;
    const EXPIRES: u64 = 1 << 33;
    const ONE_VERSION: u64 = 1 << 34;
    const LAST_VERSION: u64 = u64::MAX / Self::ONE_VERSION;

    /// As a number.
    pub fn to_u64(self) -> u64 {
        self.0
    }

    /// The inverse of [`Stamp::to_u64`].
    pub fn from_u64(stamp: u64) -> Stamp {
        Stamp(stamp)
    }

    /// Whether the entry can be found, with key and value complete.
    #[inline]
    pub fn is_stable(self) -> bool {
        self.0 & (Self::UNSTABLE | 1) == 1
    }

    /// Whether there is a moment from which on the entry is as good as absent.
    #[inline(always)]
    pub fn expires(self) -> bool {
        self.0 & Self::EXPIRES != 0
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

    /// The stamp, with acquire ordering: whoever loads a stable one sees what it vouches for.
    #[inline(always)]
    pub fn stamp(&self) -> Stamp {
        Stamp(self.stamp.load_acquire())
    }

    /// Whether the entry's slot has the moment from which on it is as good as absent.
    #[inline]
    pub fn expires(&self) -> bool {
        Stamp(self.stamp.get()).expires()
    }

    /// Says whether the slot has such a moment; while the entry is unstable.
    pub(super) fn set_expires(&self, expires: bool) {
        let stamp = self.stamp.get();
        debug_assert!(!Stamp(stamp).is_stable());
        self.stamp.set(if expires { stamp | Stamp::EXPIRES } else { stamp & !Stamp::EXPIRES });
    }

    /// Whether the record is in use, by an entry or by a continuation.
    #[inline]
    pub fn is_live(&self) -> bool {
        self.generation() % 2 == 1
    }

    /// Whether the record is that of an entry that can be found.
    #[inline]
    pub fn is_entry(&self) -> bool {
        const OTHERS: u32 = Flags::CONTINUATION.0 | Flags::ZOMBIE.0 | Flags::RESERVED.0;
        self.is_live() && self.state.get() & OTHERS == 0
    }

    /// Before anything changes that optimistic reads rely on: none of them will trust what it reads from here on.
    #[inline]
    pub fn mark_unstable(&self) {
        self.stamp.set(self.stamp.get() | Stamp::UNSTABLE);
        fence(Ordering::Release);
    }

    /// The entry is complete and about to be findable.
    #[inline]
    pub fn mark_stable(&self) {
        self.stamp.store_release(self.stamp.get() & !Stamp::UNSTABLE);
    }

    /// Whether a replacement can still be counted: else the next value needs another record, or an old stamp would come
    /// back.
    #[inline]
    pub fn can_count_replacement(&self) -> bool {
        self.stamp.get() / Stamp::ONE_VERSION < Stamp::LAST_VERSION
    }

    /// The value was replaced by another: counts it.
    #[inline]
    pub fn mark_replaced(&self) {
        debug_assert!(self.can_count_replacement());
        self.stamp.store_release((self.stamp.get() & !Stamp::UNSTABLE).wrapping_add(Stamp::ONE_VERSION));
    }

    /// Starts the life of a record, which is live when all else is written: a process that is killed before leaves a
    /// free record.
    pub(super) fn open(&self, flags: Flags, key_len: usize, pins: u32, tick: u32) {
        debug_assert!(key_len <= u16::MAX as usize && pins <= PINS);
        self.set_location(Location::NONE);
        self.touch(tick, 0);
        for link in [&self.chain, &self.previous, &self.next] {
            link.set(EntryIndex::NONE.0);
        }
        self.state.set(flags.0 | pins | (key_len as u32) << 16);
        self.stamp.store_release(u64::from(self.generation() + 1) | Stamp::UNSTABLE);
    }

    /// Ends the life of a record.
    pub(super) fn close(&self) {
        self.stamp.set(u64::from(self.generation()) + 1);
        self.set_location(Location::NONE);
    }

    /// Makes a free record of bytes that were something else.
    pub(super) fn prepare(&self, generation: u32) {
        self.stamp.set(u64::from(generation));
        self.state.set(0);
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

    /// Where the entry's slot lies, with acquire ordering: what was moved there before is seen.
    #[inline(always)]
    pub fn location(&self) -> Location {
        Location(self.location.load_acquire())
    }

    /// Points the record to a slot, which has its bytes.
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
    #[inline(always)]
    pub fn flags_and_key_len(&self) -> (Flags, usize) {
        let state = self.state.get();
        (Flags(state & Flags::ALL), (state >> 16) as usize)
    }

    /// The length of the key in bytes.
    #[inline]
    pub fn key_len(&self) -> usize {
        (self.state.get() >> 16) as usize
    }

    /// Whether all of `flags` are set.
    #[inline]
    pub fn has(&self, flags: Flags) -> bool {
        self.state.get() & flags.0 == flags.0
    }

    /// Sets flags; atomic, because readers change their pins without a lock. Returns the number of pins at that moment.
    #[inline]
    pub fn set_flags(&self, flags: Flags) -> u32 {
        self.state.atomic().fetch_or(flags.0, Ordering::AcqRel) & PINS
    }

    /// Clears flags.
    #[inline]
    pub fn clear_flags(&self, flags: Flags) {
        self.state.atomic().fetch_and(!flags.0, Ordering::AcqRel);
    }

    /// Sets or clears flags.
    #[inline]
    pub fn put_flags(&self, flags: Flags, set: bool) {
        if set {
            self.set_flags(flags);
        } else {
            self.clear_flags(flags);
        }
    }

    /// Readers that use the entry without a lock. Under the exclusive lock the number can only fall.
    #[inline]
    pub fn pins(&self) -> u32 {
        self.state.atomic().load(Ordering::Acquire) & PINS
    }

    /// Whether the entry may be evicted: nobody reads it without a lock, and no worker has a lease on it.
    #[inline]
    pub fn is_evictable(&self) -> bool {
        self.state.atomic().load(Ordering::Acquire) & (PINS | Flags::LEASED.0) == 0
    }

    /// Adds a pin; `false` if the count is at its limit of 255. Needs the partition's lock in any mode.
    #[must_use]
    pub fn pin(&self) -> bool {
        let one_more = |state| (state & PINS < PINS).then(|| state + 1);
        self.state.atomic().fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).is_ok()
    }

    /// Takes a pin back, without a lock; nothing happens where there is none. `true` if the entry was removed meanwhile
    /// and this was the last pin: the caller must free it under the exclusive lock.
    pub fn unpin(&self) -> bool {
        let one_less = |state| (state & PINS > 0).then(|| state - 1);
        let before = self.state.atomic().fetch_update(Ordering::AcqRel, Ordering::Acquire, one_less);
        before.is_ok_and(|state| state & PINS == 1 && state & Flags::ZOMBIE.0 != 0)
    }
}

#[cfg(test)]
impl Record {
    /// Starts a life without a directory.
    pub(in crate::engine) fn open_for_test(&self, flags: Flags) {
        self.open(flags, 0, 0, 0);
    }

    /// Ends it.
    pub(in crate::engine) fn close_for_test(&self) {
        self.close();
    }
}

/// A pin on an entry: it is neither evicted, moved nor overwritten until it is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    pub(crate) entry: EntryIndex,
    pub(crate) generation: u32,
}

/// The records of a partition by their index: a handle, whose copies name the same records.
#[derive(Clone, Copy, Debug)]
pub struct Records {
    area: SlabArea,
}

impl Records {
    /// The records in these slabs.
    pub fn new(area: SlabArea) -> Records {
        Records { area }
    }

    /// The record of an entry.
    ///
    /// # Panics
    ///
    /// If the index lies outside of the slabs.
    #[inline(always)]
    pub fn get(&self, entry: EntryIndex) -> &Record {
        self.area.region().at(entry.offset())
    }

    /// As [`Records::get`]; `None` if the index lies outside of the slabs. What is there may be no record: safe beside
    /// writers, as everything that is checked afterwards.
    #[inline(always)]
    pub fn get_checked(&self, entry: EntryIndex) -> Option<&Record> {
        self.area.locate(entry.offset())?;
        Some(self.get(entry))
    }

    /// Asks the processor to fetch a record.
    #[inline]
    pub fn prefetch(&self, entry: EntryIndex) {
        self.area.region().prefetch(entry.offset());
    }
}

impl Links for Records {
    #[inline]
    fn links(&self, node: u32) -> (&Word32, &Word32) {
        let record = self.get(EntryIndex(node));
        (&record.previous, &record.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::memory::region::Region;

    fn record() -> &'static Record {
        let region = Box::leak(Box::new(Region::leaked(64)));
        let record: &Record = region.at(32);
        record.open(Flags::NONE, 3, 0, 5);
        record
    }

    #[test]
    fn pins_are_neither_taken_beyond_the_limit_nor_given_back_twice() {
        let record = record();
        (0..255).for_each(|_| assert!(record.pin()));
        assert!(!record.pin());
        assert_eq!((record.pins(), record.key_len()), (255, 3));
        (0..255).for_each(|_| assert!(!record.unpin()));
        assert!(!record.unpin(), "nothing is taken from the flags or the length of the key");
        assert_eq!((record.pins(), record.key_len()), (0, 3));
        assert!(record.pin());
        record.set_flags(Flags::ZOMBIE);
        assert!(record.unpin(), "the last pin of a removed entry");
        assert!(!record.unpin());
    }

    #[test]
    fn a_stamp_is_stable_once_for_each_content() {
        let record = record();
        let mut seen = vec![Stamp::NONE];
        for _ in 0..3 {
            record.mark_stable();
            seen.push(record.stamp());
            record.mark_unstable();
            assert!(!record.stamp().is_stable());
            record.mark_replaced();
            seen.push(record.stamp());
            record.mark_unstable();
            record.set_expires(true);
            record.mark_replaced();
            seen.push(record.stamp());
            assert!(record.stamp().expires());
            record.mark_unstable();
            record.close();
            assert!(!record.stamp().is_stable() && !record.is_live() && !record.expires());
            record.open(Flags::NONE, 3, 0, 5);
        }
        assert!(seen[1..].iter().all(|stamp| stamp.is_stable()));
        assert!((0..seen.len()).all(|at| !seen[..at].contains(&seen[at])), "{seen:?}");
    }

    #[test]
    fn the_last_replacement_that_is_counted_is_known() {
        let record = record();
        record.stamp.set(record.stamp.get() | (u64::MAX << 35));
        assert!(record.can_count_replacement());
        record.mark_replaced();
        assert!(!record.can_count_replacement());
        assert_eq!(record.version(), u32::MAX >> 2);
    }
}
