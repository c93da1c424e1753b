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
pub(super) const NO_DATABASE: u32 = u32::MAX;

/// What names a cache within its database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CacheId<'a> {
    /// Its name: of a library's cache.
    Name(&'a str),
    /// What defines it, by a number that is not 0: its name may change.
    Definition(u64),
}

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

impl Name {
    fn is(&self, name: &str) -> bool {
        &self.bytes[..self.len] == name.as_bytes()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> String {
        String::from_utf8_lossy(&name.bytes[..name.len]).into_owned()
    }
}

/// Who and what a cache is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct SlotIdentity {
    pub(super) database: u32,
    pub(super) owner: u32,
    /// 0 where the name identifies the cache.
    pub(super) definition: u64,
    pub(super) name: Name,
}

impl SlotIdentity {
    /// Whether this is the cache that `id` names in a database.
    pub(super) fn is(&self, database: u32, id: CacheId<'_>) -> bool {
        self.database == database
            && match id {
                CacheId::Name(name) => self.definition == 0 && self.name.is(name),
                CacheId::Definition(definition) => self.definition == definition,
            }
    }
}

/// A piece of the caches' memory, in the order in which they lie there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Piece {
    /// Where it starts, from the start of the caches' memory.
    pub(super) offset_bytes: usize,
    pub(super) bytes: usize,
}

/// What is known of the last image of a cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(not(feature = "extension"), allow(dead_code))]
pub(super) struct SavedImage {
    /// The image's number; 0: the file is not as the cache was at any time.
    pub(super) number: u64,
    /// How often the cache had changed then.
    pub(super) changes: u64,
    /// When it was written, in milliseconds since 1970; 0: never.
    pub(super) saved_ms: u64,
}

/// The words of the last image, and whether there shall be one at the end of the server. Written under the catalog's
/// exclusive lock, or by the one who creates the cache; read under its lock, or when nobody else is there.
#[repr(C)]
#[derive(Debug, Default)]
pub(super) struct ImageWords {
    persists: Word64,
    number: Word64,
    changes: Word64,
    saved_ms: Word64,
}

impl ImageWords {
    pub(super) fn persists(&self) -> bool {
        self.persists.get() != 0
    }

    /// It does not persist, and has no image.
    fn clear(&self) {
        self.set_persists(false);
        self.set_saved(SavedImage::default());
    }

    pub(super) fn set_persists(&self, persists: bool) {
        self.persists.set(persists.into());
    }

    #[cfg(feature = "extension")]
    pub(super) fn saved(&self) -> SavedImage {
        SavedImage { number: self.number.get(), changes: self.changes.get(), saved_ms: self.saved_ms.get() }
    }

    pub(super) fn set_saved(&self, SavedImage { number, changes, saved_ms }: SavedImage) {
        self.number.set(number);
        self.changes.set(changes);
        self.saved_ms.set(saved_ms);
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
    /// The number of what defines the cache; 0 where its name does.
    definition: Word64,
    name_bytes: Word64,
    name: [Word64; 8],
    pub(super) image: ImageWords,
}
const _: () = assert!(size_of::<CacheSlot>() == 144);
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
    pub(super) fn begin(&self, identity: SlotIdentity, memory: Piece) -> Life {
        let SlotIdentity { database, owner, definition, name } = identity;
        let (life, phase) = self.now();
        debug_assert_eq!(phase, Phase::Free);
        self.set_memory(memory);
        self.database.set(database);
        self.owner.set(owner);
        self.definition.set(definition);
        self.rename(name);
        self.image.clear();
        self.set(life, Phase::BeingCreated);
        life
    }

    /// Ends a life and begins the next with the same cache, in another place: for the one backend that moves it, under
    /// the catalog's exclusive lock. `both` begins where the new place does and ends where the old one does, until
    /// [`CacheSlot::end_move`].
    pub(super) fn begin_again(&self, life: Life, both: Piece) -> Life {
        let next = life.next();
        self.set(next, Phase::BeingCreated);
        self.set_memory(both);
        next
    }

    fn set_memory(&self, Piece { offset_bytes, bytes }: Piece) {
        self.offset.set(offset_bytes as u64);
        self.bytes.set(bytes as u64);
    }

    /// The cache is in its new place.
    pub(super) fn end_move(&self, life: Life, bytes: usize) {
        self.bytes.set(bytes as u64);
        self.set(life, Phase::Live);
    }

    /// Gives the cache another name. Under the catalog's exclusive lock.
    pub(super) fn rename(&self, name: Name) {
        for (word, bytes) in self.name.iter().zip(name.bytes.chunks_exact(8)) {
            word.set(u64::from_le_bytes(bytes.try_into().expect("eight bytes")));
        }
        self.name_bytes.set(name.len as u64);
    }

    /// No database has the cache any more: nobody finds it, whatever OIDs new databases get.
    pub(super) fn disown(&self) {
        self.database.set(NO_DATABASE);
    }

    /// Where its memory is.
    pub(super) fn memory(&self) -> Piece {
        Piece { offset_bytes: self.offset.get() as usize, bytes: self.bytes.get() as usize }
    }

    /// OID of its database.
    pub(super) fn database(&self) -> u32 {
        self.database.get()
    }

    /// OID of the role that created it.
    pub(super) fn owner(&self) -> u32 {
        self.owner.get()
    }

    /// Who and what the cache is. Under the catalog's lock.
    pub(super) fn identity(&self) -> SlotIdentity {
        let (database, owner, definition) = (self.database(), self.owner(), self.definition.get());
        SlotIdentity { database, owner, definition, name: self.name() }
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
            definition: Word64::default(),
            name_bytes: Word64::default(),
            name: Default::default(),
            image: ImageWords::default(),
        }
    }

    fn piece(offset_bytes: usize, bytes: usize) -> Piece {
        Piece { offset_bytes, bytes }
    }

    fn identity(name: &str) -> SlotIdentity {
        SlotIdentity { database: 5, owner: 10, definition: 0, name: Name::new(name).expect("a good name") }
    }

    #[test]
    fn a_handle_is_of_its_own_life_only_and_through_a_drop_that_fails() {
        let slot = slot();
        let life = slot.begin(identity("cache"), piece(4096, 8192));
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
        let next = slot.begin(identity("cache"), piece(0, 1));
        slot.set(next, Phase::Live);
        assert!(slot.is_of(next) && !slot.is_of(life), "the next cache passed for the one before");
        let moved = slot.begin_again(next, piece(4096, 1));
        slot.end_move(moved, 1);
        assert!(slot.is_of(moved) && !slot.is_of(next), "a handle of the old place passed for one of the new");
    }

    #[test]
    fn a_cache_is_what_its_name_says_or_its_definition_and_never_both() {
        let named = identity("c");
        let defined = SlotIdentity { definition: 7, ..named };
        assert!(named.is(5, CacheId::Name("c")) && !named.is(5, CacheId::Definition(7)));
        assert!(defined.is(5, CacheId::Definition(7)) && !defined.is(5, CacheId::Name("c")));
        assert!(!named.is(6, CacheId::Name("c")) && !named.is(5, CacheId::Name("cc")));
    }

    #[test]
    fn names_have_from_1_to_63_bytes_and_come_back_as_they_were() {
        for name in ["c", &"n".repeat(63), "Ä b\"c'd"] {
            let slot = slot();
            slot.begin(identity(name), piece(0, 0));
            assert_eq!(String::from(slot.name()), name);
            assert!(slot.name() == Name::new(name).expect("a good name"));
        }
        assert!(Name::new("").is_none() && Name::new(&"n".repeat(64)).is_none());
    }
}
