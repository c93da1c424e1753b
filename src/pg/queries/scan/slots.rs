//! Rows between slots: small things that PostgreSQL has as inline functions, or does for plans of its own.
//!
//! Not here: what becomes of a row (`below`).
#![allow(unsafe_code)]

use std::ffi::c_int;

use pgrx::pg_sys;

/// Fills an empty slot with columns of another one.
///
/// # Safety
///
/// - The other one has a row with these columns, one for each column of the first.
pub(super) unsafe fn show(
    to: *mut pg_sys::TupleTableSlot,
    from: *mut pg_sys::TupleTableSlot,
    columns: impl Iterator<Item = usize>,
) {
    // SAFETY: as the caller says.
    unsafe {
        let count = (*(*from).tts_tupleDescriptor).natts;
        if c_int::from((*from).tts_nvalid) < count {
            pg_sys::slot_getsomeattrs_int(from, count);
        }
        for (index, place) in columns.enumerate() {
            (*to).tts_values.add(index).write((*from).tts_values.add(place).read());
            (*to).tts_isnull.add(index).write((*from).tts_isnull.add(place).read());
        }
        pg_sys::ExecStoreVirtualTuple(to);
    }
}

/// The next row of the plan below.
///
/// # Safety
///
/// - The plan has begun.
pub(super) unsafe fn run_below(below: *mut pg_sys::PlanState) -> *mut pg_sys::TupleTableSlot {
    // SAFETY: as the caller says; as PostgreSQL would call it, which is an inline function there.
    unsafe {
        if !(*below).chgParam.is_null() {
            pg_sys::ExecReScan(below);
        }
        let run = (*below).ExecProcNode.expect("each node has one");
        pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| run(below))
    }
}

/// Empties a slot: an inline function of PostgreSQL's.
///
/// # Safety
///
/// - It is one.
pub(super) unsafe fn clear(slot: *mut pg_sys::TupleTableSlot) {
    // SAFETY: as the caller says; what empties it raises no error.
    unsafe { (*(*slot).tts_ops).clear.expect("each slot has one")(slot) };
}
