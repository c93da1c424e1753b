//! Values as `bytea`: copied once, from the cache straight into memory that PostgreSQL gets.
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

use crate::pg::error::CacheError;
use crate::shared::bounded::Fetched;
use crate::shared::cache::SharedCache;
use crate::shared::lock::Locks;

/// The most bytes that PostgreSQL allows a `bytea`: its limit for one allocation, less the header.
const MAX_BYTES: usize = 0x3fff_ffff - pg_sys::VARHDRSZ;
/// Room for a value before its size is known: with the header, one chunk of PostgreSQL's allocator.
const FIRST_ROOM_BYTES: usize = 1024 - pg_sys::VARHDRSZ;

/// A `bytea`, allocated in the memory context that was current.
pub(super) struct Bytea(NonNull<pg_sys::varlena>);

impl Bytea {
    /// The value of a key; `None` if there is none. Counts as a use.
    pub(super) fn get<L: Locks>(cache: &SharedCache<L>, key: &[u8]) -> Option<Bytea> {
        let mut room = Room::new(FIRST_ROOM_BYTES);
        loop {
            match cache.get_within(key, room.bytes()) {
                Fetched::Copied(len) => return Some(room.filled(len)),
                // Again if somebody stores a larger one meanwhile.
                Fetched::Needs(bytes) => room = room.replaced(bytes),
                Fetched::Absent => {
                    room.free();
                    return None;
                }
            }
        }
    }

    /// A copy of these bytes.
    pub(super) fn copy_of(bytes: &[u8]) -> Bytea {
        let mut room = Room::new(bytes.len());
        room.bytes().iter_mut().zip(bytes).for_each(|(to, &from)| _ = to.write(from));
        room.filled(bytes.len())
    }
}

/// A `bytea` that has no length yet.
struct Room {
    varlena: NonNull<pg_sys::varlena>,
    bytes: usize,
}

impl Room {
    fn new(bytes: usize) -> Room {
        // A copy may need up to 7 bytes more than the value has, which the limit must not forbid.
        let flags = pg_sys::MCXT_ALLOC_HUGE | pg_sys::MCXT_ALLOC_NO_OOM;
        // SAFETY: allocates in the current memory context; null where there is no memory.
        let memory = unsafe { pg_sys::palloc_extended(pg_sys::VARHDRSZ + bytes, flags as i32) };
        let varlena = NonNull::new(memory.cast()).unwrap_or_else(|| CacheError::OutOfMemory(bytes).report());
        Room { varlena, bytes }
    }

    fn replaced(self, bytes: usize) -> Room {
        self.free();
        if bytes >= MAX_BYTES.next_multiple_of(8) {
            CacheError::TooLargeForSql { bytes, max: MAX_BYTES }.report();
        }
        Room::new(bytes)
    }

    fn bytes(&mut self) -> &mut [MaybeUninit<u8>] {
        // SAFETY: behind the header there are this many bytes, which are ours alone.
        unsafe {
            let data = self.varlena.cast::<MaybeUninit<u8>>().add(pg_sys::VARHDRSZ);
            std::slice::from_raw_parts_mut(data.as_ptr(), self.bytes)
        }
    }

    /// The first `len` bytes, which have been written.
    fn filled(self, len: usize) -> Bytea {
        debug_assert!(len <= self.bytes);
        if len > MAX_BYTES {
            CacheError::TooLargeForSql { bytes: len, max: MAX_BYTES }.report();
        }
        // SAFETY: a varlena with a header of four bytes, and at least this many bytes behind it.
        unsafe { set_varsize_4b(self.varlena.as_ptr(), (pg_sys::VARHDRSZ + len) as i32) };
        Bytea(self.varlena)
    }

    fn free(self) {
        // SAFETY: allocated by `new`, and nobody else has it.
        unsafe { pg_sys::pfree(self.varlena.as_ptr().cast()) };
    }
}

impl IntoDatum for Bytea {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        Some(pg_sys::Datum::from(self.0.as_ptr()))
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
