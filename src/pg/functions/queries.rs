//! Queries whose results are kept: one value, or rows. docs/query-cache.md says what is guaranteed.
#![allow(unsafe_code)]

use std::ffi::{CString, c_char};

use pgrx::fcinfo::{pg_arg_is_null, pg_getarg, pg_getarg_datum_raw, pg_getarg_type};
use pgrx::iter::TableIterator;
use pgrx::prelude::*;

use super::bytea::Copied;
use super::text::ServerText;
use super::{name_of, not_null};
use crate::pg::error::{CacheError, or_report};
use crate::pg::queries::{self, Answer, Column, Parameter};
use crate::pg::types;

called_raw!(pg_finfo_fetch_wrapper);
called_raw!(pg_finfo_query_wrapper);

/// One value: `fetch(cache, query, of, parameters…)`.
#[pg_guard]
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn fetch_wrapper(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: PostgreSQL calls it with a call's data, of at least three arguments.
    unsafe {
        let null = |call: pg_sys::FunctionCallInfo| {
            (*call).isnull = true;
            pg_sys::Datum::null()
        };
        let Some((cache, query)) = cache_and_query(call) else { return null(call) };
        let wanted = pg_getarg_type(call, 2);
        let parameters = parameters(call, 3);
        let answer = or_report(queries::answer(&cache, &query, &parameters, pg_sys::CurrentMemoryContext));
        match first_value(answer, wanted) {
            Some(value) => value,
            None => null(call),
        }
    }
}

/// Rows: `query(cache, query, parameters…)`.
#[pg_guard]
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn query_wrapper(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: as above, of at least two arguments; called for a set, in a context that PostgreSQL describes.
    unsafe {
        let result = (*call).resultinfo.cast::<pg_sys::ReturnSetInfo>();
        let materialize = pg_sys::SetFunctionReturnMode::SFRM_Materialize;
        if result.is_null()
            || (*result).type_ != pg_sys::NodeTag::T_ReturnSetInfo
            || (*result).allowedModes & materialize as i32 == 0
            || (*result).expectedDesc.is_null()
        {
            CacheError::Parameter("query() is called in FROM, with its columns: AS t (a int, b text)".to_owned())
                .report();
        }
        (*result).returnMode = materialize;
        (*call).isnull = true;
        let Some((cache, query)) = cache_and_query(call) else { return pg_sys::Datum::null() };
        let parameters = parameters(call, 2);
        // What is returned lives as long as the query, and nothing else: there may be a call for each row of another table.
        let home = (*(*result).econtext).ecxt_per_query_memory;
        let before = pg_sys::MemoryContextSwitchTo(home);
        let description = pg_sys::CreateTupleDescCopy((*result).expectedDesc);
        pg_sys::MemoryContextSwitchTo(before);
        let wanted = queries::columns_of(description);
        let answer = or_report(queries::answer(&cache, &query, &parameters, home));
        let store = match answer {
            Answer::Made(store, columns) => {
                check_columns(&columns, &wanted);
                store
            }
            Answer::Kept(copied) => {
                let store = queries::new_store(home);
                let slot = pg_sys::MakeSingleTupleTableSlot(description, &raw const pg_sys::TTSOpsMinimalTuple);
                let rows = kept_rows(&copied);
                check_columns(&rows.columns().collect::<Vec<_>>(), &wanted);
                for row in rows.iter() {
                    pg_sys::ExecStoreMinimalTuple(row, slot, false);
                    pg_sys::tuplestore_puttupleslot(store, slot);
                }
                pg_sys::ExecDropSingleTupleTableSlot(slot);
                copied.free();
                store
            }
        };
        (*result).setResult = store;
        (*result).setDesc = description;
        pg_sys::Datum::null()
    }
}

/// Whether the result of a query would be kept, if not why, and what it depends on. With types of its parameters.
#[pg_extern(volatile, parallel_unsafe)]
#[allow(clippy::type_complexity)] // the columns of a table
fn explain_query(
    query: Option<&[u8]>,
    types: Option<Array<'_, pg_sys::Oid>>,
) -> TableIterator<'static, (name!(cacheable, bool), name!(reason, Option<String>), name!(depends_on, Vec<String>))> {
    let query = c_text(not_null("query", query));
    let null = |oid| Parameter { oid, datum: pg_sys::Datum::null(), is_null: true };
    let parameters: Vec<Parameter> = types.iter().flat_map(|types| types.iter().flatten()).map(null).collect();
    let (reason, relations) = or_report(queries::explain(&query, &parameters));
    TableIterator::once((reason.is_none(), reason, relations))
}

fn c_text(text: &[u8]) -> CString {
    CString::new(text).expect("a text of PostgreSQL's has no NUL")
}

/// # Safety
///
/// - The call has two texts first.
unsafe fn cache_and_query(call: pg_sys::FunctionCallInfo) -> Option<(String, CString)> {
    // SAFETY: a `text` is, like a `bytea`, bytes behind a varlena header.
    unsafe {
        let cache = ServerText::of_bytes(pg_getarg::<&[u8]>(call, 0)?);
        let query = c_text(pg_getarg::<&[u8]>(call, 1)?);
        Some((or_report(name_of(cache)).to_owned(), query))
    }
}

/// The arguments from `first` on. What has no type yet is text.
///
/// # Safety
///
/// - It is a call.
unsafe fn parameters(call: pg_sys::FunctionCallInfo, first: usize) -> Vec<Parameter> {
    // SAFETY: as the caller says; each argument is of the type that PostgreSQL says.
    unsafe {
        if pg_sys::get_fn_expr_variadic((*call).flinfo) {
            CacheError::Parameter("parameters are given one by one, not as a VARIADIC array".to_owned()).report();
        }
        let parameter = |index| {
            let (oid, is_null) = (pg_getarg_type(call, index), pg_arg_is_null(call, index));
            let datum = if is_null { pg_sys::Datum::null() } else { pg_getarg_datum_raw(call, index) };
            match oid {
                pg_sys::UNKNOWNOID if !is_null => {
                    let text = pg_sys::cstring_to_text(datum.cast_mut_ptr::<c_char>());
                    Parameter { oid: pg_sys::TEXTOID, datum: pg_sys::Datum::from(text), is_null }
                }
                pg_sys::UNKNOWNOID => Parameter { oid: pg_sys::TEXTOID, datum, is_null },
                _ => {
                    if types::stored_type(oid).is_err() {
                        let name = types::name(oid);
                        CacheError::Parameter(format!("a parameter of type {name} cannot be part of a key")).report();
                    }
                    Parameter { oid, datum, is_null }
                }
            }
        };
        (first..(*call).nargs as usize).map(parameter).collect()
    }
}

fn kept_rows(copied: &Copied) -> queries::Rows<'_> {
    Answer::rows(copied).unwrap_or_else(|| {
        CacheError::Damaged("of SQL".to_owned(), "a result that no query has made".to_owned()).report()
    })
}

/// # Panics
///
/// PostgreSQL's ERROR, if they differ.
fn check_columns(columns: &[Column], wanted: &[Column]) {
    if columns.len() != wanted.len() {
        let (given, wanted) = (columns.len(), wanted.len());
        CacheError::Parameter(format!("the query returns {given} columns, the call names {wanted}")).report();
    }
    for (index, (column, wanted)) in columns.iter().zip(wanted).enumerate() {
        // Without a modifier, a call takes any.
        if column.oid != wanted.oid || (wanted.modifier != -1 && column.modifier != wanted.modifier) {
            let (given, wanted) = (column.type_name(), wanted.type_name());
            let place = index + 1;
            CacheError::Parameter(format!("column {place} of the query is of type {given}, the call says {wanted}"))
                .report();
        }
    }
}

/// The only value of a result; `None` if that is NULL, or if there is no row.
///
/// # Safety
///
/// - The answer is one of the current call's, which nothing else has.
unsafe fn first_value(answer: Answer, wanted: pg_sys::Oid) -> Option<pg_sys::Datum> {
    let wanted = [Column { oid: wanted, modifier: -1, collation: pg_sys::InvalidOid }];
    let too_many =
        || CacheError::Parameter("the query returns more than one row: one value is wanted".to_owned()).report();
    // SAFETY: a description of one column; the slot has a row of such.
    unsafe {
        let description = pg_sys::CreateTemplateTupleDesc(1);
        pg_sys::TupleDescInitEntry(description, 1, c"value".as_ptr(), wanted[0].oid, -1, 0);
        let slot = pg_sys::MakeSingleTupleTableSlot(description, &raw const pg_sys::TTSOpsMinimalTuple);
        let has_row = match &answer {
            Answer::Kept(copied) => {
                let rows = kept_rows(copied);
                check_columns(&rows.columns().collect::<Vec<_>>(), &wanted);
                if rows.count > 1 {
                    too_many();
                }
                rows.iter().next().map(|row| pg_sys::ExecStoreMinimalTuple(row, slot, false)).is_some()
            }
            Answer::Made(store, columns) => {
                check_columns(columns, &wanted);
                if pg_sys::tuplestore_tuple_count(*store) > 1 {
                    too_many();
                }
                pg_sys::tuplestore_gettupleslot(*store, true, true, slot)
            }
        };
        if let Answer::Made(store, _) = answer {
            // It may have files.
            pg_sys::tuplestore_end(store);
        }
        if !has_row {
            return None;
        }
        pg_sys::slot_getsomeattrs_int(slot, 1);
        // What it points to is in the current memory context: the slot's row, which is a copy, or the copied result's.
        (!(*slot).tts_isnull.read()).then(|| (*slot).tts_values.read())
    }
}
