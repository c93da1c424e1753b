//! Datums of any type as bytes, and what tells that a type is still what it was.
//!
//! The bytes are those that PostgreSQL has in memory: whole, not compressed into another table, not a tree of pointers.
//! They mean something only together with the type's definition, so that has a fingerprint: of the columns of a row and
//! their types, of what an array, a range or a domain is made of. A domain's constraints are checked when a value is read.
//!
//! Not here: where the bytes are stored (`stored`).
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char};
use std::ptr::NonNull;

use pgrx::{PgTupleDesc, pg_sys};
use xxhash_rust::xxh3::xxh3_64;

use super::encoding;
use super::error::CacheError;
use super::stored::StoredType;

/// Types within types, at most.
const MAX_DEPTH: usize = 32;

/// A type, by number, with what it is at this moment.
///
/// # Errors
///
/// Its values mean nothing to other sessions.
pub(super) fn stored_type(oid: pg_sys::Oid) -> Result<StoredType, CacheError> {
    Ok(StoredType { oid: oid.to_u32(), fingerprint: fingerprint(oid, 0)? })
}

/// The name of a type, for a message.
pub(super) fn name(oid: pg_sys::Oid) -> String {
    // SAFETY: a NUL-terminated name in the current memory context, whatever the number is.
    unsafe { encoding::name(CStr::from_ptr(pg_sys::format_type_be(oid))) }
}

/// Whether there still is such a type.
pub(super) fn exists(of_type: StoredType) -> bool {
    // SAFETY: a lookup in the catalogs; 0 if there is none.
    unsafe { pg_sys::get_typtype(pg_sys::Oid::from(of_type.oid)) != 0 }
}

fn fingerprint(oid: pg_sys::Oid, depth: usize) -> Result<u64, CacheError> {
    let refuse =
        |why: &str| Err(CacheError::Parameter(format!("a value of type {} cannot be cached: {why}", name(oid))));
    if depth > MAX_DEPTH {
        return refuse("it is made of too many types within types");
    }
    let inner = |oid| fingerprint(oid, depth + 1);
    // SAFETY: the type's entry, which lives as long as the process; there is such a type, or this raises an error.
    let entry = unsafe { &*pg_sys::lookup_type_cache(oid, pg_sys::TYPECACHE_RANGE_INFO as i32) };
    let own = [u64::from(oid.to_u32()), entry.typlen as u64, u64::from(entry.typbyval), entry.typalign as u64];
    let mut words = own.to_vec();
    match entry.typtype as u8 {
        pg_sys::TYPTYPE_COMPOSITE => {
            // SAFETY: its description, given back when it is dropped.
            let columns = unsafe { PgTupleDesc::from_pg(pg_sys::lookup_rowtype_tupdesc(oid, -1)) };
            for column in columns.iter() {
                words.extend([
                    u64::from(column.attisdropped),
                    column.atttypmod as u64,
                    xxh3_64(column.name().as_bytes()),
                ]);
                if !column.attisdropped {
                    words.push(inner(column.atttypid)?);
                }
            }
        }
        // SAFETY: lookups in the catalogs.
        pg_sys::TYPTYPE_DOMAIN => words.push(inner(unsafe { pg_sys::getBaseType(oid) })?),
        // SAFETY: the entry of a range type has its element's; that of a multirange is asked for.
        pg_sys::TYPTYPE_RANGE => words.push(inner(unsafe { (*entry.rngelemtype).type_id })?),
        // SAFETY: as above.
        pg_sys::TYPTYPE_MULTIRANGE => words.push(inner(unsafe { pg_sys::get_multirange_range(oid) })?),
        pg_sys::TYPTYPE_PSEUDO if oid == pg_sys::RECORDOID || oid == pg_sys::RECORDARRAYOID => {
            return refuse("rows without a type mean something to their own session only; cast it to a composite type");
        }
        pg_sys::TYPTYPE_PSEUDO => return refuse("it is no type of values"),
        // SAFETY: as above; 0 if it is no array.
        _ => match unsafe { pg_sys::get_element_type(oid) } {
            pg_sys::InvalidOid => {}
            element => words.push(inner(element)?),
        },
    }
    Ok(xxh3_64(bytemuck::cast_slice(&words)))
}

/// Runs `take` with the bytes of a datum.
///
/// # Safety
///
/// - The datum is of this type.
pub(super) unsafe fn with_bytes<R>(datum: pg_sys::Datum, oid: pg_sys::Oid, take: impl FnOnce(&[u8]) -> R) -> R {
    let (mut len, mut by_value) = (0, false);
    // SAFETY: a lookup in the catalogs; then as the caller says.
    unsafe {
        pg_sys::get_typlenbyval(oid, &mut len, &mut by_value);
        match len {
            _ if by_value => take(&datum.value().to_le_bytes()),
            -1 => {
                // Whole, flat and with a long header, for who reads it.
                let flat = pg_sys::pg_detoast_datum(datum.cast_mut_ptr());
                let bytes = pgrx::varsize_any(flat);
                let result = take(std::slice::from_raw_parts(flat.cast::<u8>(), bytes));
                if !std::ptr::eq(flat, datum.cast_mut_ptr()) {
                    pg_sys::pfree(flat.cast());
                }
                result
            }
            -2 => take(CStr::from_ptr(datum.cast_mut_ptr::<c_char>()).to_bytes_with_nul()),
            len => take(std::slice::from_raw_parts(datum.cast_mut_ptr::<u8>(), len as usize)),
        }
    }
}

/// The datum whose bytes these are.
///
/// # Errors
///
/// A domain does not allow it any more: PostgreSQL's own ERROR.
///
/// # Safety
///
/// - [`with_bytes`] gave them, for a datum of a type with this fingerprint.
/// - The memory is palloc'd, and nobody else's.
pub(super) unsafe fn to_datum(memory: NonNull<u8>, oid: pg_sys::Oid) -> pg_sys::Datum {
    // SAFETY: as the caller says.
    unsafe {
        let datum = if pg_sys::get_typbyval(oid) {
            pg_sys::Datum::from(memory.cast::<usize>().read())
        } else {
            pg_sys::Datum::from(memory.as_ptr())
        };
        if pg_sys::get_typtype(oid) as u8 == pg_sys::TYPTYPE_DOMAIN {
            pg_sys::domain_check(datum, false, oid, std::ptr::null_mut(), std::ptr::null_mut());
        }
        datum
    }
}
