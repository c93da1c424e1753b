//! One named cache's place in the area's catalog, and its life.
//!
//! ```text
//!          ┌──────────── no use after all ◀──┐
//!          ▼                                 │
//!        free ──▶ being created ──▶ live ──▶ being dropped
//!          ▲                          ▲      │       │
//!          │                          └──────┘       │
//!          └──────────────── next life ◀─────────────┘
//! ```
//!
//! Phase and number of the life are one word, so a backend that holds a handle of one life learns by one load whether
//! the cache is still there. While a cache *is being dropped* it is still there: lock-free reads go on, whoever needs a
//! lock waits until it is decided whether the cache goes (`named_locks`).
//!
//! Locking: phases change under the catalog's exclusive lock, but for two: from "being created" to "live" or "free", and
//! from "being dropped" back to "live", are stores of the one backend that has begun it. The other words are written
//! while the slot is being created and are read under the catalog's lock.
#![allow(unsafe_code)]

use std::sync::atomic::Ordering;

use crate::engine::memory::region::RegionType;
use crate::engine::memory::words::{Word32, Word64};

/// The longest name of a cache, in bytes.
pub const MAX_NAME_BYTES: usize = 63;

/// The database of a cache whose own is gone, if it could not be dropped at once: none has this OID.
const NO_DATABASE: u32 = u32::MAX;

/// One life of a slot: from one cache to the next. The lowest two bits are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life(u64);

impl Life {
    fn next(self) -> Life {
        Life(self.0 + 4)
    }
}

/// Where in its life a slot is. Odd: there is a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Free = 0,
    Live = 1,
    BeingCreated = 2,
    BeingDropped = 3,
}

/// The name of a cache, of a length that needs no allocation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Name {
    /// Zeros behind the name.
    bytes: [u8; 64],
    len: usize,
}

impl Name {
    /// `None` if it cannot be a cache's.
    pub(super) fn new(name: &str) -> Option<Name> {
        let len = name.len();
        let mut bytes = [0; 64];
        (1..=MAX_NAME_BYTES).contains(&len).then(|| bytes[..len].copy_from_slice(name.as_bytes()));
        (1..=MAX_NAME_BYTES).contains(&len).then_some(Name { bytes, len })
    }
}

impl From<Name> for String {
    fn from(name: Name) -> String {
        String::from_utf8_lossy(&name.bytes[..name.len]).into_owned()
    }
}

/// One named cache, or room for one.
#[repr(C)]
#[derive(Debug)]
pub(super) struct CacheSlot {
    /// Number of the life and phase.
    life: Word64,
    /// Where its memory starts, from the start of the caches' memory.
    offset: Word64,
    bytes: Word64,
    database: Word32,
    owner: Word32,
    name_bytes: Word64,
    name: [Word64; 8],
}
const _: () = assert!(size_of::<CacheSlot>() == 104);
// SAFETY: repr(C), words only, no padding.
unsafe impl RegionType for CacheSlot {}

impl CacheSlot {
    /// Life and phase at this moment.
    pub(super) fn now(&self) -> (Life, Phase) {
        let word = self.life.atomic().load(Ordering::Acquire);
        let phase = match word % 4 {
            0 => Phase::Free,
            1 => Phase::Live,
            2 => Phase::BeingCreated,
            _ => Phase::BeingDropped,
        };
        (Life(word & !3), phase)
    }

    /// Whether this is still the cache of that life, be it about to be dropped or not.
    #[inline]
    pub(super) fn is_of(&self, life: Life) -> bool {
        // Live and being dropped differ in the second bit.
        self.life.atomic().load(Ordering::Acquire) | 2 == life.0 | 3
    }

    pub(super) fn set(&self, life: Life, phase: Phase) {
        self.life.atomic().store(life.0 | phase as u64, Ordering::Release);
    }

    /// Ends a life: the memory is free for another cache.
    pub(super) fn end(&self, life: Life) {
        self.set(life.next(), Phase::Free);
    }

    /// Fills a free slot in, for the one backend that creates a cache there. Ends with the phase.
    pub(super) fn begin(&self, name: Name, database: u32, owner: u32, (offset, bytes): (usize, usize)) -> Life {
        let (life, phase) = self.now();
        debug_assert_eq!(phase, Phase::Free);
        self.offset.set(offset as u64);
        self.bytes.set(bytes as u64);
        self.database.set(database);
        self.owner.set(owner);
        for (word, bytes) in self.name.iter().zip(name.bytes.chunks_exact(8)) {
            word.set(u64::from_le_bytes(bytes.try_into().expect("eight bytes")));
        }
        self.name_bytes.set(name.len as u64);
        self.set(life, Phase::BeingCreated);
        life
    }

    /// No database has the cache any more: nobody finds it, whatever OIDs new databases get.
    pub(super) fn disown(&self) {
        self.database.set(NO_DATABASE);
    }

    /// Offset and bytes of its memory.
    pub(super) fn memory(&self) -> (usize, usize) {
        (self.offset.get() as usize, self.bytes.get() as usize)
    }

    /// OID of its database.
    pub(super) fn database(&self) -> u32 {
        self.database.get()
    }

    /// OID of the role that created it.
    pub(super) fn owner(&self) -> u32 {
        self.owner.get()
    }

    pub(super) fn name(&self) -> Name {
        let mut bytes = [0; 64];
        for (bytes, word) in bytes.chunks_exact_mut(8).zip(&self.name) {
            bytes.copy_from_slice(&word.get().to_le_bytes());
        }
        Name { bytes, len: (self.name_bytes.get() as usize).min(MAX_NAME_BYTES) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot() -> CacheSlot {
        CacheSlot {
            life: Word64::default(),
            offset: Word64::default(),
            bytes: Word64::default(),
            database: Word32::default(),
            owner: Word32::default(),
            name_bytes: Word64::default(),
            name: Default::default(),
        }
    }

    #[test]
    fn a_handle_is_of_its_own_life_only_and_through_a_drop_that_fails() {
        let slot = slot();
        let name = Name::new("cache").expect("a good name");
        let life = slot.begin(name, 5, 10, (4096, 8192));
        assert!(!slot.is_of(life), "nobody can have it yet");
        slot.set(life, Phase::Live);
        assert!(slot.is_of(life));
        slot.set(life, Phase::BeingDropped);
        assert!(slot.is_of(life), "it may yet stay");
        assert_eq!(slot.now(), (life, Phase::BeingDropped));
        slot.set(life, Phase::Live);
        assert!(slot.is_of(life));
        slot.set(life, Phase::BeingDropped);
        slot.end(life);
        assert!(!slot.is_of(life));
        let next = slot.begin(name, 5, 10, (0, 1));
        slot.set(next, Phase::Live);
        assert!(slot.is_of(next) && !slot.is_of(life), "the next cache passed for the one before");
    }

    #[test]
    fn names_have_from_1_to_63_bytes_and_come_back_as_they_were() {
        for name in ["c", &"n".repeat(63), "Ä b\"c'd"] {
            let slot = slot();
            slot.begin(Name::new(name).expect("a good name"), 1, 1, (0, 0));
            assert_eq!(String::from(slot.name()), name);
            assert!(slot.name() == Name::new(name).expect("a good name"));
        }
        assert!(Name::new("").is_none() && Name::new(&"n".repeat(64)).is_none());
    }
}
