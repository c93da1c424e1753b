//! Rows that a call returns at once, in a tuple store.
#![allow(unsafe_code)]

use std::ffi::CStr;

use pgrx::pg_sys;

use crate::pg::error::CacheError;

/// Has a call for a set return the rows that are put into this store: of such columns, each with its type.
///
/// # Panics
///
/// PostgreSQL's ERROR, where no set is wanted.
///
/// # Safety
///
/// - It is the call that is being answered.
pub(super) unsafe fn rows_store(
    call: pg_sys::FunctionCallInfo,
    columns: &[(&CStr, pg_sys::Oid)],
) -> *mut pg_sys::Tuplestorestate {
    // SAFETY: as the caller says; what is made lives as long as the query.
    unsafe {
        let result = (*call).resultinfo.cast::<pg_sys::ReturnSetInfo>();
        let materialize = pg_sys::SetFunctionReturnMode::SFRM_Materialize;
        let is_of_set = !result.is_null() && (*result).type_ == pg_sys::NodeTag::T_ReturnSetInfo;
        if !is_of_set || (*result).allowedModes & materialize as i32 == 0 {
            CacheError::Parameter("a set is returned where none is wanted: call it in FROM".to_owned()).report();
        }
        let before = pg_sys::MemoryContextSwitchTo((*(*result).econtext).ecxt_per_query_memory);
        let description = pg_sys::CreateTemplateTupleDesc(columns.len() as i32);
        for (number, (name, oid)) in (1..).zip(columns) {
            pg_sys::TupleDescInitEntry(description, number, name.as_ptr(), *oid, -1, 0);
        }
        let store = pg_sys::tuplestore_begin_heap(true, false, pg_sys::work_mem);
        pg_sys::MemoryContextSwitchTo(before);
        (*result).returnMode = materialize;
        (*result).setResult = store;
        (*result).setDesc = description;
        (*call).isnull = true;
        store
    }
}
