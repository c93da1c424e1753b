//! Queries whose results are kept: one value, or rows. docs/query-cache.md says what is guaranteed.
#![allow(unsafe_code)]

use std::ffi::{CString, c_char};
use std::mem::offset_of;

use pgrx::fcinfo::{pg_arg_is_null, pg_getarg, pg_getarg_datum_raw, pg_getarg_type};
use pgrx::iter::TableIterator;
use pgrx::memcxt::PgMemoryContexts;
use pgrx::prelude::*;

use super::access::{Tags, expiry, refuse_too_many};
use super::text::ServerText;
use super::{duration, name_of, not_null};
use crate::pg::bytea::Copied;
use crate::pg::definitions::options::checked_grace;
use crate::pg::error::{CacheError, or_report};
use crate::pg::queries::{self, Answer, Column, Parameter, Wishes};
use crate::pg::types;

called_raw!(pg_finfo_fetch_wrapper);
called_raw!(pg_finfo_query_wrapper);
called_raw!(pg_finfo_fetch_with_wrapper);
called_raw!(pg_finfo_query_with_wrapper);

/// What a call has between the cache and the query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Between {
    Nothing,
    /// A time to live, tags, and a grace.
    Wishes,
}

/// One value: `fetch(cache, query, of, parameters…)`.
#[pg_guard]
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn fetch_wrapper(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: PostgreSQL calls it with a call's data, of these arguments.
    unsafe { fetch(call, Between::Nothing) }
}

/// One value: `fetch_with(cache, ttl, tags, grace, query, of, parameters…)`.
#[pg_guard]
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn fetch_with_wrapper(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: as above.
    unsafe { fetch(call, Between::Wishes) }
}

/// Rows: `query(cache, query, parameters…)`.
#[pg_guard]
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn query_wrapper(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: as above.
    unsafe { query(call, Between::Nothing) }
}

/// Rows: `query_with(cache, ttl, tags, grace, query, parameters…)`.
#[pg_guard]
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn query_with_wrapper(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: as above.
    unsafe { query(call, Between::Wishes) }
}

/// # Safety
///
/// - It is a call with these arguments, and one for the type.
unsafe fn fetch(call: pg_sys::FunctionCallInfo, between: Between) -> pg_sys::Datum {
    // SAFETY: as the caller says.
    unsafe {
        let null = |call: pg_sys::FunctionCallInfo| {
            (*call).isnull = true;
            pg_sys::Datum::null()
        };
        let Some(Asked { cache, query, wishes, next }) = asked(call, between) else { return null(call) };
        let place = Place::of(call, next + 1);
        let parameters = parameters(call, place, next + 1);
        let wanted = [place.column()];
        let fits = |rows: &queries::Rows<'_>| mismatch(rows.columns(), &wanted).is_none();
        let home = pg_sys::CurrentMemoryContext;
        match first_value(or_report(queries::answer(cache, &query, &parameters, &wishes, &fits, home)), place) {
            Some(value) => value,
            None => null(call),
        }
    }
}

/// # Safety
///
/// - It is a call with these arguments, for a set, in a context that PostgreSQL describes.
unsafe fn query(call: pg_sys::FunctionCallInfo, between: Between) -> pg_sys::Datum {
    // SAFETY: as the caller says.
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
        let Some(Asked { cache, query, wishes, next }) = asked(call, between) else { return pg_sys::Datum::null() };
        let parameters = parameters(call, Place::of(call, next), next);
        // What is returned lives as long as the query, and nothing else: there may be a call for each row of another table.
        let home = (*(*result).econtext).ecxt_per_query_memory;
        let before = pg_sys::MemoryContextSwitchTo(home);
        let description = pg_sys::CreateTupleDescCopy((*result).expectedDesc);
        pg_sys::MemoryContextSwitchTo(before);
        let wanted = queries::columns_of(description);
        let fits = |rows: &queries::Rows<'_>| mismatch(rows.columns(), &wanted).is_none();
        let answer = or_report(queries::answer(cache, &query, &parameters, &wishes, &fits, home));
        let store = match answer {
            Answer::Made(store, columns) => {
                check_columns(columns.into_iter(), &wanted);
                store
            }
            Answer::Kept(copied) => {
                let store = queries::new_store(home);
                let slot = pg_sys::MakeSingleTupleTableSlot(description, &raw const pg_sys::TTSOpsMinimalTuple);
                let rows = kept_rows(&copied);
                check_columns(rows.columns(), &wanted);
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

/// Whether the result of a query would be kept, if not why, and what it depends on. With types of its parameters, and for a
/// cache.
#[pg_extern]
#[allow(clippy::type_complexity)] // the columns of a table
fn explain_query(
    query: Option<&[u8]>,
    types: Option<Array<'_, pg_sys::Oid>>,
    cache: Option<ServerText<'_>>,
) -> TableIterator<'static, (name!(cacheable, bool), name!(reason, Option<String>), name!(depends_on, Vec<String>))> {
    let query = c_text(not_null("query", query));
    let null = |oid| Parameter { oid, datum: pg_sys::Datum::null(), is_null: true };
    let parameters: Vec<Parameter> = types.iter().flat_map(|types| types.iter().flatten()).map(null).collect();
    let cache = cache.map(|cache| or_report(name_of(cache)));
    let explained = or_report(queries::explain(&query, &parameters, cache));
    TableIterator::once((explained.is_kept, explained.reason, explained.relations))
}

fn c_text(text: &[u8]) -> CString {
    let mut bytes = Vec::new();
    // It may be a gigabyte.
    if bytes.try_reserve_exact(text.len() + 1).is_err() {
        CacheError::OutOfMemory(text.len()).report();
    }
    bytes.extend_from_slice(text);
    CString::new(bytes).expect("a text of PostgreSQL's has no NUL")
}

/// What a call asks for.
struct Asked<'a> {
    cache: &'a str,
    query: CString,
    wishes: Wishes,
    /// The argument that comes behind.
    next: usize,
}

/// `None` if the cache or the query is NULL.
///
/// # Safety
///
/// - The call has these arguments, and outlives the name.
unsafe fn asked<'a>(call: pg_sys::FunctionCallInfo, between: Between) -> Option<Asked<'a>> {
    // SAFETY: as the caller says; a `text` is, like a `bytea`, bytes behind a varlena header.
    unsafe {
        let cache = ServerText::of_bytes(pg_getarg::<&'a [u8]>(call, 0)?);
        let (wishes, place) = match between {
            Between::Nothing => (Wishes::default(), 1),
            Between::Wishes => (wishes(pg_getarg(call, 1), pg_getarg(call, 2), pg_getarg(call, 3)), 4),
        };
        let query = c_text(pg_getarg::<&[u8]>(call, place)?);
        Some(Asked { cache: or_report(name_of(cache)), query, wishes, next: place + 1 })
    }
}

/// What is the same for all calls at one place of a statement.
struct Place {
    /// Of all arguments; those that are parameters have bytes that can be part of a key.
    types: Vec<pg_sys::Oid>,
    /// The one before the first parameter, and how a value of it is passed.
    value_type: pg_sys::Oid,
    value_bytes: i16,
    is_by_value: bool,
}

impl Place {
    /// Of a call with parameters from `first` on.
    ///
    /// # Safety
    ///
    /// - It is a call, of a function of this module, which outlives what is returned.
    unsafe fn of<'a>(call: pg_sys::FunctionCallInfo, first: usize) -> &'a Place {
        // SAFETY: as the caller says; nobody else uses the function's `fn_extra`, and the memory is freed with it.
        unsafe {
            let function = (*call).flinfo;
            if (*function).fn_extra.is_null() {
                let place = Place::look_at(call, first);
                let mut memory = PgMemoryContexts::For((*function).fn_mcxt);
                (*function).fn_extra = memory.leak_and_drop_on_delete(place).cast();
            }
            &*(*function).fn_extra.cast::<Place>()
        }
    }

    /// # Safety
    ///
    /// - It is a call.
    unsafe fn look_at(call: pg_sys::FunctionCallInfo, first: usize) -> Place {
        // SAFETY: as the caller says; lookups in the catalogs.
        unsafe {
            if pg_sys::get_fn_expr_variadic((*call).flinfo) {
                CacheError::Parameter("parameters are given one by one, not as a VARIADIC array".to_owned()).report();
            }
            let types: Vec<pg_sys::Oid> = (0..(*call).nargs as usize).map(|at| pg_getarg_type(call, at)).collect();
            let is_refused = |of: &&pg_sys::Oid| **of != pg_sys::UNKNOWNOID && types::stored_type(**of).is_err();
            if let Some(of) = types.iter().skip(first).find(is_refused) {
                let name = types::name(*of);
                CacheError::Parameter(format!("a parameter of type {name} cannot be part of a key")).report();
            }
            let (mut value_bytes, mut is_by_value) = (0, false);
            let value_type = types[first - 1];
            pg_sys::get_typlenbyval(value_type, &mut value_bytes, &mut is_by_value);
            Place { types, value_type, value_bytes, is_by_value }
        }
    }

    /// The column of the only value.
    fn column(&self) -> Column {
        Column { oid: self.value_type, modifier: -1, collation: pg_sys::InvalidOid }
    }

    /// The only value of a row, which points into the row; `None` if it is NULL.
    ///
    /// # Safety
    ///
    /// - It is a row of one column of the type before the first parameter, in memory that is aligned to 8 bytes.
    unsafe fn value(&self, row: pg_sys::MinimalTuple) -> Option<pg_sys::Datum> {
        // A row's header is longer by this where PostgreSQL counts it.
        const LEFT_OUT: usize =
            offset_of!(pg_sys::HeapTupleHeaderData, t_infomask2) - offset_of!(pg_sys::MinimalTupleData, t_infomask2);
        // SAFETY: as the caller says; the first value stands at the start, which is aligned for every type.
        unsafe {
            if u32::from((*row).t_infomask) & pg_sys::HEAP_HASNULL != 0 {
                return None;
            }
            let value = row.cast::<u8>().add(usize::from((*row).t_hoff) - LEFT_OUT);
            Some(match self.value_bytes {
                _ if !self.is_by_value => pg_sys::Datum::from(value),
                1 => pg_sys::Datum::from(value.cast::<c_char>().read() as isize),
                2 => pg_sys::Datum::from(value.cast::<i16>().read() as isize),
                4 => pg_sys::Datum::from(value.cast::<i32>().read() as isize),
                _ => pg_sys::Datum::from(value.cast::<usize>().read()),
            })
        }
    }
}

fn wishes(ttl: Option<Interval>, tags: Option<Tags<'_>>, grace: Option<Interval>) -> Wishes {
    let grace = grace.map(|grace| or_report(checked_grace(duration("grace", grace))));
    let mut own: Vec<Vec<u8>> = Vec::new();
    if let Some(tags) = tags {
        refuse_too_many(&tags);
        own.extend(tags.iter().flatten().map(<[u8]>::to_vec));
        own.sort_unstable();
        own.dedup();
    }
    Wishes { ttl: expiry(ttl), tags: own, grace }
}

/// The arguments from `first` on. What has no type yet is text.
///
/// # Safety
///
/// - It is a call, at this place.
unsafe fn parameters(call: pg_sys::FunctionCallInfo, place: &Place, first: usize) -> Vec<Parameter> {
    // SAFETY: as the caller says; each argument is of the type that PostgreSQL says.
    unsafe {
        let parameter = |index| {
            let (oid, is_null) = (place.types[index], pg_arg_is_null(call, index));
            let datum = if is_null { pg_sys::Datum::null() } else { pg_getarg_datum_raw(call, index) };
            match oid {
                pg_sys::UNKNOWNOID if !is_null => {
                    let text = pg_sys::cstring_to_text(datum.cast_mut_ptr::<c_char>());
                    Parameter { oid: pg_sys::TEXTOID, datum: pg_sys::Datum::from(text), is_null }
                }
                pg_sys::UNKNOWNOID => Parameter { oid: pg_sys::TEXTOID, datum, is_null },
                _ => Parameter { oid, datum, is_null },
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

/// Where columns are not those that a call wants.
enum Mismatch {
    /// There are so many.
    Count(usize),
    /// The one at this place, from 0 on, is this.
    Column(usize, Column),
}

fn mismatch(columns: impl ExactSizeIterator<Item = Column>, wanted: &[Column]) -> Option<Mismatch> {
    if columns.len() != wanted.len() {
        return Some(Mismatch::Count(columns.len()));
    }
    // Without a modifier, a call takes any.
    let fits = |column: &Column, wanted: &Column| {
        column.oid == wanted.oid && (wanted.modifier == -1 || column.modifier == wanted.modifier)
    };
    let other = columns.zip(wanted).enumerate().find(|(_, (column, wanted))| !fits(column, wanted))?;
    Some(Mismatch::Column(other.0, other.1.0))
}

/// # Panics
///
/// PostgreSQL's ERROR, if they differ.
fn check_columns(columns: impl ExactSizeIterator<Item = Column>, wanted: &[Column]) {
    match mismatch(columns, wanted) {
        None => {}
        Some(Mismatch::Count(given)) => {
            let wanted = wanted.len();
            CacheError::Parameter(format!("the query returns {given} columns, the call names {wanted}")).report();
        }
        Some(Mismatch::Column(index, column)) => {
            let (place, given, wanted) = (index + 1, column.type_name(), wanted[index].type_name());
            CacheError::Parameter(format!("column {place} of the query is of type {given}, the call says {wanted}"))
                .report();
        }
    }
}

/// The only value of a result; `None` if that is NULL, or if there is no row.
///
/// # Safety
///
/// - The answer is one of the current call's, which nothing else has, at this place; the value is to be of the type before the
///   first parameter.
unsafe fn first_value(answer: Answer, place: &Place) -> Option<pg_sys::Datum> {
    let wanted = [place.column()];
    let check_count = |count: i64| {
        if count > 1 {
            CacheError::Parameter("the query returns more than one row: one value is wanted".to_owned()).report();
        }
    };
    match answer {
        Answer::Kept(copied) => {
            let rows = kept_rows(&copied);
            check_columns(rows.columns(), &wanted);
            check_count(rows.count as i64);
            // SAFETY: of one column of that type; the copy is palloc'd, and what points to it lives as long.
            rows.iter().next().and_then(|row| unsafe { place.value(row) })
        }
        // SAFETY: a description of one column; the slot has a row of such.
        Answer::Made(store, columns) => unsafe {
            check_columns(columns.into_iter(), &wanted);
            check_count(pg_sys::tuplestore_tuple_count(store));
            let description = pg_sys::CreateTemplateTupleDesc(1);
            pg_sys::TupleDescInitEntry(description, 1, c"value".as_ptr(), wanted[0].oid, -1, 0);
            let slot = pg_sys::MakeSingleTupleTableSlot(description, &raw const pg_sys::TTSOpsMinimalTuple);
            let has_row = pg_sys::tuplestore_gettupleslot(store, true, true, slot);
            // It may have files. The slot's row is a copy.
            pg_sys::tuplestore_end(store);
            if !has_row {
                return None;
            }
            pg_sys::slot_getsomeattrs_int(slot, 1);
            // What it points to is in the current memory context, with the slot.
            (!(*slot).tts_isnull.read()).then(|| (*slot).tts_values.read())
        },
    }
}
