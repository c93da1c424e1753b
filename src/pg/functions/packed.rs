//! Several values in one piece of memory that PostgreSQL gets, each copied once, from the cache to where it stands.
//!
//! It grows while no lock is held: a value that has no room is looked up once more. Want of memory is an ERROR (53200).
//!
//! Not here: what is packed how (`many`), whether a reader may see a value (`access`).
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::ptr::NonNull;

use pgrx::{pg_sys, set_varsize_4b};

use crate::engine::flight::version::Version;
use crate::pg::bytea::{Bytea, MAX_BYTES, allocate};
use crate::pg::error::CacheError;
use crate::shared::bounded::{CountedAs, Fetched};
use crate::shared::cache::SharedCache;
use crate::shared::lock::Locks;

/// Memory with room for more, in the memory context that is current whenever it grows.
pub(super) struct Packed {
    memory: NonNull<u8>,
    capacity: usize,
    /// The bytes before it are initialised.
    len: usize,
    max: usize,
}

impl Packed {
    /// Nothing, with room for so many bytes, and never more than `max`.
    pub(super) fn with_room(bytes: usize, max: usize) -> Packed {
        Packed { memory: allocate(bytes), capacity: bytes, len: 0, max }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// All of it.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: the bytes before `len` are initialised.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr(), self.len) }
    }

    /// Forgets what is behind the first `len` bytes.
    pub(super) fn truncate(&mut self, len: usize) {
        assert!(len <= self.len);
        self.len = len;
    }

    /// Makes room for so many bytes more.
    #[inline]
    pub(super) fn reserve(&mut self, bytes: usize) {
        if self.capacity - self.len < bytes {
            self.grow(bytes);
        }
    }

    #[cold]
    fn grow(&mut self, bytes: usize) {
        let needed = self.len + bytes;
        // Words are copied whole, so the last may need some bytes that it has not.
        if needed > self.max.next_multiple_of(8) {
            CacheError::TooLargeForSql { bytes: needed, max: self.max }.report();
        }
        let capacity = needed.max(2 * self.capacity);
        let memory = allocate(capacity);
        // SAFETY: the first `len` bytes of the old memory are initialised, the new one has more, and is ours alone.
        unsafe { memory.copy_from_nonoverlapping(self.memory, self.len) };
        let before = std::mem::replace(&mut self.memory, memory);
        self.capacity = capacity;
        // SAFETY: allocated here, and nobody else has it.
        unsafe { pg_sys::pfree(before.as_ptr().cast()) };
    }

    /// Appends zeros up to a multiple of `bytes`.
    #[inline]
    pub(super) fn align(&mut self, bytes: usize) {
        self.append_zeros(self.len.next_multiple_of(bytes) - self.len);
    }

    #[inline]
    pub(super) fn append_zeros(&mut self, count: usize) {
        self.reserve(count);
        // SAFETY: there is room for them (reserved).
        unsafe { self.memory.add(self.len).write_bytes(0, count) };
        self.len += count;
    }

    /// Appends a varlena of these bytes.
    #[inline]
    pub(super) fn append_varlena(&mut self, bytes: &[u8]) {
        self.reserve(pg_sys::VARHDRSZ + bytes.len());
        // SAFETY: there is room for them (reserved), which is not a part of `bytes`.
        unsafe {
            let at = self.memory.add(self.len + pg_sys::VARHDRSZ);
            at.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len());
        }
        self.end_varlena(bytes.len());
    }

    /// Appends a key's value as a varlena: of what is stored as many of the first bytes as `judge` says; `false`, and
    /// nothing is appended, if it says `None` or there is no value. Counts as a use.
    #[inline]
    pub(super) fn append_value<L: Locks>(
        &mut self,
        cache: &SharedCache<L>,
        key: &[u8],
        judge: impl FnOnce(&[u8], &Version) -> Option<usize>,
    ) -> bool {
        self.reserve(pg_sys::VARHDRSZ);
        loop {
            match cache.get_within_uncounted(key, self.room_for_value()) {
                (Fetched::Copied(len), Some(version)) => {
                    // SAFETY: the cache has written as many bytes there.
                    let bytes = unsafe {
                        let at = self.memory.add(self.len + pg_sys::VARHDRSZ);
                        std::slice::from_raw_parts(at.as_ptr(), len)
                    };
                    let shown = judge(bytes, &version);
                    cache.count_read(CountedAs::hit_if(shown.is_some()));
                    let Some(shown) = shown else { return false };
                    assert!(shown <= len);
                    self.end_varlena(shown);
                    return true;
                }
                // Again if somebody stores a larger one meanwhile.
                (Fetched::Needs(bytes), _) => self.reserve(pg_sys::VARHDRSZ + bytes),
                (Fetched::Absent | Fetched::Copied(_), _) => {
                    cache.count_read(CountedAs::Miss);
                    return false;
                }
            }
        }
    }

    /// What is behind the header of the next varlena, which there is room for.
    fn room_for_value(&mut self) -> &mut [MaybeUninit<u8>] {
        let start = self.len + pg_sys::VARHDRSZ;
        // SAFETY: the memory is ours alone; the header fits (reserved by the caller).
        unsafe {
            let at = self.memory.cast::<MaybeUninit<u8>>().add(start);
            std::slice::from_raw_parts_mut(at.as_ptr(), self.capacity - start)
        }
    }

    /// Makes what was written behind the header's place a varlena of `len` bytes.
    #[inline]
    fn end_varlena(&mut self, len: usize) {
        if len > MAX_BYTES {
            CacheError::TooLargeForSql { bytes: len, max: MAX_BYTES }.report();
        }
        // SAFETY: the header and `len` bytes behind it fit, and those were written.
        unsafe { set_varsize_4b(self.memory.add(self.len).as_ptr().cast(), (pg_sys::VARHDRSZ + len) as i32) };
        self.len += pg_sys::VARHDRSZ + len;
    }

    /// Puts zeros between what is there.
    pub(super) fn insert_zeros(&mut self, at: usize, count: usize) {
        let behind = self.len - at;
        self.append_zeros(count);
        // SAFETY: from `at` on there are `behind` bytes, and `count` more (appended).
        unsafe {
            let place = self.memory.add(at);
            place.add(count).copy_from(place, behind);
            place.write_bytes(0, count);
        }
    }

    /// What begins at an offset, as what it is; its bytes are initialised.
    ///
    /// # Panics
    ///
    /// If it reaches behind the end, or is not aligned.
    pub(super) fn place_of<T>(&mut self, offset: usize) -> NonNull<T> {
        assert!(offset + size_of::<T>() <= self.len);
        // SAFETY: within the memory (checked).
        let place = unsafe { self.memory.add(offset) }.cast();
        assert!(place.is_aligned());
        place
    }

    /// All of it as one varlena, whose header is its first four bytes.
    pub(super) fn into_varlena(mut self) -> Bytea {
        let len = self.len - pg_sys::VARHDRSZ;
        self.len = 0;
        self.end_varlena(len);
        // SAFETY: a varlena (just made), allocated by PostgreSQL.
        unsafe { Bytea::from_varlena(self.memory.as_ptr().cast()) }
    }

    /// Gives the memory back.
    pub(super) fn free(self) {
        // SAFETY: allocated here, and nobody else has it.
        unsafe { pg_sys::pfree(self.memory.as_ptr().cast()) };
    }
}
