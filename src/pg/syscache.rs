//! Rows of PostgreSQL's catalogs, as its caches have them.
//!
//! A row is given back when it has been looked at; after an ERROR PostgreSQL does that.
#![allow(unsafe_code)]

use pgrx::pg_sys::{self, SysCacheIdentifier};

/// What `look` says of the row with this OID; `None` if there is none. Inside of a transaction.
pub(super) fn with_row<R>(
    cache: SysCacheIdentifier::Type,
    oid: pg_sys::Oid,
    look: impl FnOnce(pg_sys::HeapTuple) -> R,
) -> Option<R> {
    // SAFETY: a lookup in the catalogs; the row is there until it is given back.
    unsafe {
        let row = pg_sys::SearchSysCache1(cache as i32, pg_sys::Datum::from(oid));
        if row.is_null() {
            return None;
        }
        let said = look(row);
        pg_sys::ReleaseSysCache(row);
        Some(said)
    }
}

/// As [`with_row`], of the columns that a row always has.
///
/// # Safety
///
/// - `F` is the structure of the rows of this cache's catalog.
pub(super) unsafe fn with_form<F, R>(
    cache: SysCacheIdentifier::Type,
    oid: pg_sys::Oid,
    look: impl FnOnce(&F) -> R,
) -> Option<R> {
    // SAFETY: as the caller says.
    with_row(cache, oid, |row| look(unsafe { &*pg_sys::GETSTRUCT(row).cast::<F>() }))
}
