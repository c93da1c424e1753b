//! Which functions a kept result may have in it, by what PostgreSQL's catalogs say of them, and by lists of PostgreSQL's own.
//!
//! Not here: where a query calls functions (`check`), and whom the owner of a cache trusts (`accepted`).
#![allow(unsafe_code)]

use std::ffi::CStr;

use pgrx::pg_sys;

use super::refusal::Refusal;
use crate::pg::refusals::Reason;
use crate::pg::{encoding, syscache};

/// Why a query with this function has no result to keep.
pub(super) fn refusal_of(function: pg_sys::Oid) -> Option<Refusal> {
    // SAFETY: lookups in the catalogs; a function of a query exists.
    let (volatility, name) = unsafe {
        let name = pg_sys::get_func_name(function);
        let name = if name.is_null() { function.to_u32().to_string() } else { encoding::name(CStr::from_ptr(name)) };
        (pg_sys::func_volatile(function) as u8, name)
    };
    let is_own = function.to_u32() < pg_sys::FirstNormalObjectId;
    let (reason, text) = match volatility {
        pg_sys::PROVOLATILE_IMMUTABLE => return None,
        _ if OF_TODAY.contains(&function.to_u32()) => {
            (Reason::Clock, format!("function {name} takes today's offset of a time zone"))
        }
        _ if CLOCK.contains(&function.to_u32()) => (Reason::Clock, format!("function {name} is STABLE")),
        pg_sys::PROVOLATILE_STABLE if is_own && STABLE.contains(&name.as_str()) => return None,
        pg_sys::PROVOLATILE_STABLE if is_own => (Reason::Stable, format!("function {name} is STABLE")),
        pg_sys::PROVOLATILE_STABLE => {
            let taken = "only IMMUTABLE ones of users are taken, and those that trusted_functions names";
            (Reason::Stable, format!("function {name} is STABLE: {taken}"))
        }
        _ => (Reason::Volatile, format!("function {name} is VOLATILE")),
    };
    Some(Refusal::of_function(reason, function, text))
}

/// PostgreSQL's STABLE functions whose results follow from their arguments, from the time at which they are called, and from
/// settings that are in the key: `'now'` is a text of such a type.
const CLOCK: [u32; 10] = [
    pg_sys::F_NOW,
    pg_sys::F_TRANSACTION_TIMESTAMP,
    pg_sys::F_STATEMENT_TIMESTAMP,
    pg_sys::F_AGE_TIMESTAMPTZ,
    pg_sys::F_AGE_TIMESTAMP,
    pg_sys::F_DATE_IN,
    pg_sys::F_TIME_IN,
    pg_sys::F_TIMETZ_IN,
    pg_sys::F_TIMESTAMP_IN,
    pg_sys::F_TIMESTAMPTZ_IN,
];

/// `timetz(time)`, `timezone(text, timetz)` and `timezone(timetz)`, which is AT LOCAL: namesakes of some in [`STABLE`], but a
/// time without a date has the offset that its zone has now.
const OF_TODAY: [u32; 3] = [2047, 2037, 6336];

/// PostgreSQL's STABLE functions whose results follow from their arguments and from settings that are in the key: the time
/// zone, styles of dates, intervals and bytes, locales, the text search configuration.
#[rustfmt::skip]
const STABLE: &[&str] = &[
    // time with a zone
    "date", "timestamp", "timestamptz", "time", "timetz", "timezone", "date_part", "extract", "date_trunc", "to_char",
    "date_bin", "timestamptz_pl_interval", "timestamptz_mi_interval", "interval_pl_timestamptz", "make_timestamptz",
    "date_lt_timestamptz", "date_le_timestamptz", "date_eq_timestamptz", "date_gt_timestamptz", "date_ge_timestamptz",
    "date_ne_timestamptz", "date_cmp_timestamptz", "timestamptz_lt_date", "timestamptz_le_date", "timestamptz_eq_date",
    "timestamptz_gt_date", "timestamptz_ge_date", "timestamptz_ne_date", "timestamptz_cmp_date", "timestamp_lt_timestamptz",
    "timestamp_le_timestamptz", "timestamp_eq_timestamptz", "timestamp_gt_timestamptz", "timestamp_ge_timestamptz",
    "timestamp_ne_timestamptz", "timestamp_cmp_timestamptz", "timestamptz_lt_timestamp", "timestamptz_le_timestamp",
    "timestamptz_eq_timestamp", "timestamptz_gt_timestamp", "timestamptz_ge_timestamp", "timestamptz_ne_timestamp",
    "timestamptz_cmp_timestamp", "generate_series", "in_range", "overlaps",
    // values as text; the other way only where no text means the time that it is, as 'now' does
    "timestamptz_out", "timestamp_out", "date_out", "time_out", "timetz_out", "interval_out", "interval_in", "byteaout",
    "float4out", "float8out", "cash_out", "cash_in", "array_out", "record_out", "range_out", "multirange_out", "money",
    "concat", "concat_ws", "anytextcat", "textanycat", "format", "array_to_string", "quote_literal", "quote_nullable", "to_number", "numeric",
    // JSON
    "to_json", "to_jsonb", "row_to_json", "array_to_json", "json_build_object", "json_build_array", "jsonb_build_object",
    "jsonb_build_array", "json_agg", "jsonb_agg", "json_object_agg", "jsonb_object_agg", "json_agg_strict", "jsonb_agg_strict",
    "json_object_agg_strict", "jsonb_object_agg_strict", "json_object_agg_unique", "jsonb_object_agg_unique",
    "json_object_agg_unique_strict", "jsonb_object_agg_unique_strict",
    // text search
    "to_tsvector", "to_tsquery", "plainto_tsquery", "phraseto_tsquery", "websearch_to_tsquery", "ts_headline",
];

/// A function's name with its schema and arguments, as caches name those that they trust.
pub(in crate::pg) fn function_name(function: pg_sys::Oid) -> String {
    // SAFETY: a NUL-terminated text in the current memory context, whatever the number is.
    encoding::name(unsafe { CStr::from_ptr(pg_sys::format_procedure_qualified(function)) })
}

/// Whether a function may become a part of the plan, with others in it that nobody has looked at.
pub(super) fn is_in_sql(function: pg_sys::Oid) -> bool {
    /// Not among pgrx's bindings.
    const LANGUAGE_SQL: u32 = 14;
    let is_in_sql = |row: &pg_sys::FormData_pg_proc| row.prolang.to_u32() == LANGUAGE_SQL;
    // SAFETY: rows of pg_proc.
    unsafe { syscache::with_form(pg_sys::SysCacheIdentifier::PROCOID, function, is_in_sql) }.unwrap_or(true)
}

pub(super) fn is_aggregate(function: pg_sys::Oid) -> bool {
    let is_aggregate = |row: &pg_sys::FormData_pg_proc| row.prokind as u8 == pg_sys::PROKIND_AGGREGATE;
    // SAFETY: rows of pg_proc.
    unsafe { syscache::with_form(pg_sys::SysCacheIdentifier::PROCOID, function, is_aggregate) }.unwrap_or(false)
}
