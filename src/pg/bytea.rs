//! Values copied once, from the cache straight into memory that PostgreSQL gets: what SQL functions return, and results of
//! queries, whose rows are read where they were copied to.
//!
//! The memory is asked for while no lock is held, and a value that there is no memory for is an ERROR (53200). A first
//! try has room for a small value; a larger one is looked up once more, with as much room as it needs.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::ptr::NonNull;

use pgrx::callconv::{BoxRet, FcInfo};
use pgrx::datum::{Datum, IntoDatum};
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::{pg_sys, set_varsize_4b};

use super::error::CacheError;
use crate::engine::flight::version::Version;
use crate::shared::bounded::Fetched;
use crate::shared::cache::SharedCache;
use crate::shared::lock::Locks;

/// The most bytes that PostgreSQL allows a `bytea`: its limit for one allocation, less the header.
pub(super) const MAX_BYTES: usize = 0x3fff_ffff - pg_sys::VARHDRSZ;
/// Room for a value before its size is known: with the header, one chunk of PostgreSQL's allocator.
pub(super) const FIRST_ROOM_BYTES: usize = 1024 - pg_sys::VARHDRSZ;

/// What stands before a value in the memory that PostgreSQL gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    /// The header of a varlena.
    Header = pg_sys::VARHDRSZ as isize,
    /// Nothing, so that the value is aligned as PostgreSQL's memory is.
    Nothing = 0,
}

/// A copy of what is stored under a key, in the memory context that was current.
pub(super) struct Copied {
    room: Room,
    len: usize,
    /// Names what was copied.
    pub(super) version: Version,
}

impl Copied {
    /// What is stored under a key; `None` if there is nothing. A use, but who asks counts what comes of it.
    #[inline]
    pub(super) fn fetch<L: Locks>(cache: &SharedCache<L>, key: &[u8], before: Before) -> Option<Copied> {
        let mut room = Room::new(before, FIRST_ROOM_BYTES);
        loop {
            match cache.get_within_uncounted(key, room.bytes()) {
                (Fetched::Copied(len), Some(version)) => return Some(Copied { room, len, version }),
                // Again if somebody stores a larger one meanwhile.
                (Fetched::Needs(bytes), _) => room = room.replaced(bytes),
                (Fetched::Absent | Fetched::Copied(_), _) => {
                    room.free();
                    return None;
                }
            }
        }
    }

    /// What was copied.
    #[inline]
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: the cache has written as many bytes.
        unsafe { std::slice::from_raw_parts(self.room.memory.as_ptr().add(self.room.before as usize), self.len) }
    }

    /// The first bytes as a `bytea`, or as another varlena.
    ///
    /// # Panics
    ///
    /// If there is no room for the header.
    #[inline]
    pub(super) fn into_bytea(self, len: usize) -> Bytea {
        assert!(len <= self.len && self.room.before == Before::Header);
        self.room.filled(len)
    }

    /// The memory, which begins with what was copied.
    ///
    /// # Panics
    ///
    /// If a header stands before it.
    pub(super) fn into_memory(self) -> NonNull<u8> {
        assert_eq!(self.room.before, Before::Nothing);
        self.room.memory
    }

    /// Gives the memory back.
    pub(super) fn free(self) {
        self.room.free();
    }
}

/// A `bytea`, allocated in the memory context that was current.
pub(super) struct Bytea(NonNull<u8>);

impl Bytea {
    /// Another varlena, as PostgreSQL made it.
    ///
    /// # Safety
    ///
    /// - It is one, and lives as long as the memory context that is current.
    pub(super) unsafe fn from_varlena(varlena: *mut pg_sys::varlena) -> Bytea {
        Bytea(NonNull::new(varlena.cast()).expect("PostgreSQL has made it"))
    }

    /// What it holds.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: a varlena in plain form.
        unsafe { pgrx::varlena_to_byte_slice(self.0.as_ptr().cast()) }
    }

    /// As PostgreSQL passes it.
    pub(super) fn datum(&self) -> pg_sys::Datum {
        pg_sys::Datum::from(self.0.as_ptr())
    }

    /// A copy of these bytes.
    pub(super) fn copy_of(bytes: &[u8]) -> Bytea {
        let mut room = Room::new(Before::Header, bytes.len());
        room.bytes().iter_mut().zip(bytes).for_each(|(to, &from)| _ = to.write(from));
        room.filled(bytes.len())
    }
}

/// Memory in the current memory context; the want of it is an ERROR.
pub(super) fn allocate(bytes: usize) -> NonNull<u8> {
    // A copy may need up to 7 bytes more than the value has, which the limit must not forbid.
    let flags = pg_sys::MCXT_ALLOC_HUGE | pg_sys::MCXT_ALLOC_NO_OOM;
    // SAFETY: null where there is no memory.
    let memory = unsafe { pg_sys::palloc_extended(bytes, flags as i32) };
    NonNull::new(memory.cast()).unwrap_or_else(|| CacheError::OutOfMemory(bytes).report())
}

/// Memory for a value of which nothing is known yet.
struct Room {
    memory: NonNull<u8>,
    before: Before,
    bytes: usize,
}

impl Room {
    fn new(before: Before, bytes: usize) -> Room {
        Room { memory: allocate(before as usize + bytes), before, bytes }
    }

    fn replaced(self, bytes: usize) -> Room {
        let before = self.before;
        self.free();
        if bytes >= MAX_BYTES.next_multiple_of(8) {
            CacheError::TooLargeForSql { bytes, max: MAX_BYTES }.report();
        }
        Room::new(before, bytes)
    }

    fn bytes(&mut self) -> &mut [MaybeUninit<u8>] {
        // SAFETY: behind what stands before it there are this many bytes, which are ours alone.
        unsafe {
            let data = self.memory.cast::<MaybeUninit<u8>>().add(self.before as usize);
            std::slice::from_raw_parts_mut(data.as_ptr(), self.bytes)
        }
    }

    /// A varlena of the first `len` bytes, which have been written.
    fn filled(self, len: usize) -> Bytea {
        debug_assert!(len <= self.bytes && self.before == Before::Header);
        if len > MAX_BYTES {
            CacheError::TooLargeForSql { bytes: len, max: MAX_BYTES }.report();
        }
        // SAFETY: memory of a varlena with a header of four bytes, and at least this many bytes behind it.
        unsafe { set_varsize_4b(self.memory.as_ptr().cast(), (pg_sys::VARHDRSZ + len) as i32) };
        Bytea(self.memory)
    }

    fn free(self) {
        // SAFETY: allocated by `new`, and nobody else has it.
        unsafe { pg_sys::pfree(self.memory.as_ptr().cast()) };
    }
}

impl IntoDatum for Bytea {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        Some(self.datum())
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::BYTEAOID
    }
}

// SAFETY: the datum is a `bytea` that lives as long as the memory context that was current.
unsafe impl BoxRet for Bytea {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        // SAFETY: as above.
        unsafe { fcinfo.return_raw_datum(pg_sys::Datum::from(self.0.as_ptr())) }
    }
}

// SAFETY: says that the type is `bytea`, which it is.
unsafe impl SqlTranslatable for Bytea {
    const TYPE_IDENT: &'static str = <[u8] as SqlTranslatable>::TYPE_IDENT;
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = <[u8] as SqlTranslatable>::ARGUMENT_SQL;
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> = <[u8] as SqlTranslatable>::RETURN_SQL;
}
