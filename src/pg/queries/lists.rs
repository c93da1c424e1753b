//! PostgreSQL's lists, read.
#![allow(unsafe_code)]

use pgrx::pg_sys;

/// The pointers of a list.
///
/// # Safety
///
/// - It is a list of pointers to this type, or null, and outlives the iterator.
pub(super) unsafe fn pointers<T>(list: *mut pg_sys::List) -> impl Iterator<Item = *mut T> {
    // SAFETY: as the caller says.
    let count = unsafe { list.as_ref() }.map_or(0, |list| list.length);
    // SAFETY: as the caller says; inside of the list.
    (0..count as usize).map(move |index| unsafe { (*(*list).elements.add(index)).ptr_value.cast() })
}

/// The OIDs of a list.
///
/// # Safety
///
/// - It is a list of OIDs, or null, and outlives the iterator.
pub(super) unsafe fn oids(list: *mut pg_sys::List) -> impl ExactSizeIterator<Item = pg_sys::Oid> {
    // SAFETY: as the caller says.
    let count = unsafe { list.as_ref() }.map_or(0, |list| list.length);
    // SAFETY: as the caller says; inside of the list.
    (0..count as usize).map(move |index| unsafe { (*(*list).elements.add(index)).oid_value })
}
