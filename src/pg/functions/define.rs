//! Caches created, altered, renamed and dropped, and who may use them.
#![allow(unsafe_code)]

use pgrx::fcinfo::pg_getarg;
use pgrx::prelude::*;

use super::text::ServerText;
use super::{duration, name_of, names, not_null};
use crate::pg::catalog::Catalog;
use crate::pg::definitions::options::{self, Options, ResultOptions};
use crate::pg::definitions::statements::{self, Change, Written};
use crate::pg::error::{CacheError, or_report};
use crate::pg::queries::function_name;
use crate::pg::{definitions, settings, syscache};

/// A cache takes this part of all memory if it is not told how much.
const DEFAULT_PART: usize = 8;

/// Of the script of release 0.1.0.
#[pg_extern]
fn create_cache() {
    CacheError::OldScript.report()
}

/// What the arguments from the second on say of a cache, in the order of the options and as a definition has them; those
/// that are NULL are left out.
///
/// # Safety
///
/// - It is a call of `create_cache` or `alter_cache`.
unsafe fn given(call: pg_sys::FunctionCallInfo) -> Written {
    // SAFETY: the arguments have these types, as `sql/` declares them.
    unsafe {
        let long = |place| pg_getarg::<i64>(call, place).map(|number| number.to_string());
        let short = |place| pg_getarg::<i32>(call, place).map(|number| number.to_string());
        let text = |place| pg_getarg::<&[u8]>(call, place).map(|text| ServerText::of_bytes(text).shown());
        let time = |name, place| pg_getarg::<Interval>(call, place).map(|time| written_seconds(name, time));
        let truth = |place| pg_getarg::<bool>(call, place).map(|is_true| is_true.to_string());
        let given = [
            long(1),
            long(2),
            short(3),
            text(4),
            short(5),
            long(6),
            short(7),
            time("ttl", 8),
            truth(9),
            time("grace", 10),
            truth(11),
            truth(12),
            pg_getarg::<Vec<Option<String>>>(call, 13).map(written_settings),
            pg_getarg::<Vec<Option<pg_sys::Oid>>>(call, 14).map(written_functions),
        ];
        options::NAMES.iter().copied().zip(given).filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

/// Whether one of these options is given.
fn has_any(given: &Written, names: &[&str]) -> bool {
    given.iter().any(|(name, _)| names.contains(name))
}

/// A time as a definition has it.
fn written_seconds(name: &str, time: Interval) -> String {
    let time = duration(name, time);
    match time.subsec_micros() {
        0 => time.as_secs().to_string(),
        micros => format!("{}.{micros:06}", time.as_secs()),
    }
}

/// Names of settings as a definition has them.
fn written_settings(names: Vec<Option<String>>) -> String {
    names.into_iter().flatten().collect::<Vec<String>>().join(ResultOptions::SETTINGS_SEPARATOR)
}

/// Functions as a definition has them: a dump may be restored where they have other numbers.
fn written_functions(functions: Vec<Option<pg_sys::Oid>>) -> String {
    let written: Vec<String> = functions.into_iter().flatten().map(written_function).collect();
    written.join(ResultOptions::FUNCTIONS_SEPARATOR)
}

fn written_function(function: pg_sys::Oid) -> String {
    let text = function_name(function);
    let volatility = |row: &pg_sys::FormData_pg_proc| row.provolatile as u8;
    // SAFETY: rows of pg_proc.
    let volatility = unsafe { syscache::with_form(pg_sys::SysCacheIdentifier::PROCOID, function, volatility) };
    let wrong = match volatility {
        None => CacheError::Parameter(format!("trusted_functions has {text}: no function")),
        Some(pg_sys::PROVOLATILE_VOLATILE) => {
            CacheError::Parameter(format!("trusted_functions has {text}: it is VOLATILE, declare it STABLE if it is"))
        }
        Some(_) if text.contains(ResultOptions::FUNCTIONS_SEPARATOR.trim()) => {
            CacheError::Parameter(format!("trusted_functions has {text}: there may be no semicolon in it"))
        }
        Some(_) => return text,
    };
    wrong.report()
}

called_raw!(pg_finfo_define_cache_wrapper);

/// `create_cache(cache, …, if_not_exists)`.
#[pg_guard]
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn define_cache_wrapper(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: PostgreSQL calls it with a call's data, of these arguments.
    let (cache, mut given, if_not_exists) =
        unsafe { (cache_argument(call), given(call), pg_getarg::<bool>(call, 15).unwrap_or(false)) };
    let name = new_name(cache);
    let catalog = or_report(Catalog::open());
    definitions::drop_orphans(catalog);
    if !has_any(&given, &["bytes", "max_entries", "max_entry_bytes"]) {
        given.push(("bytes", (catalog.bytes() / DEFAULT_PART).to_string()));
    }
    // What is a default today stays what it is: the definition may be read by a server with others.
    let defaults = [
        ("policy", Some(settings::default_policy().name().to_owned())),
        ("partitions", settings::default_partitions().map(|count| count.to_string())),
        ("buckets", settings::default_buckets().map(|count| count.to_string())),
        ("slab_bytes", settings::default_slab_bytes().map(|bytes| bytes.to_string())),
    ];
    for (name, value) in defaults {
        if let Some(value) = value
            && !has_any(&given, &[name])
        {
            given.push((name, value));
        }
    }
    let created = or_report(statements::create(name, &given));
    if !created && !if_not_exists {
        CacheError::Exists(cache.shown()).report();
    }
    pg_sys::Datum::from(created)
}

called_raw!(pg_finfo_alter_cache_wrapper);

/// `alter_cache(cache, …, reset)`.
#[pg_guard]
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn alter_cache_wrapper(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: PostgreSQL calls it with a call's data, of these arguments.
    let (cache, given, reset) =
        unsafe { (cache_argument(call), given(call), pg_getarg::<Vec<Option<String>>>(call, 15).unwrap_or_default()) };
    let name = or_report(name_of(cache));
    let mut changes: Vec<(&'static str, Option<String>)> = Vec::new();
    for option in reset.into_iter().flatten() {
        match options::NAMES.iter().find(|known| **known == option) {
            Some(known) => changes.push((known, None)),
            None => {
                let known = options::NAMES.join(", ");
                CacheError::Parameter(format!("a cache has no option \"{option}\"; it has {known}")).report()
            }
        }
    }
    // One kind of capacity takes the place of the other.
    if has_any(&given, &["bytes"]) {
        changes.extend([("max_entries", None), ("max_entry_bytes", None)]);
    } else if has_any(&given, &["max_entries"]) {
        changes.push(("bytes", None));
    }
    changes.retain(|(name, _)| !has_any(&given, &[*name]));
    changes.extend(given.into_iter().map(|(name, value)| (name, Some(value))));
    or_report(statements::alter(name, &changes));
    pg_sys::Datum::null()
}

/// The first argument.
///
/// # Safety
///
/// - It is a call whose first argument is a text, and outlives what is returned.
unsafe fn cache_argument<'a>(call: pg_sys::FunctionCallInfo) -> ServerText<'a> {
    // SAFETY: as the caller says; a `text` is, like a `bytea`, bytes behind a varlena header.
    ServerText::of_bytes(not_null("cache", unsafe { pg_getarg::<&[u8]>(call, 0) }))
}

#[pg_extern]
fn rename_cache(cache: ServerText<'_>, new_name: ServerText<'_>) {
    let cache = or_report(name_of(cache));
    or_report(statements::rename(cache, self::new_name(new_name)));
}

#[pg_extern]
fn drop_cache(cache: ServerText<'_>) -> bool {
    match cache.as_cache_name() {
        Some(name) => or_report(statements::drop_cache(name)),
        None => false,
    }
}

#[pg_extern]
fn grant_cache(cache: ServerText<'_>, role: &str, privilege: &str) {
    or_report(name_of(cache).and_then(|name| statements::change_privileges(Change::Grant, name, role, privilege)));
}

#[pg_extern]
fn revoke_cache(cache: ServerText<'_>, role: &str, privilege: &str) {
    or_report(name_of(cache).and_then(|name| statements::change_privileges(Change::Revoke, name, role, privilege)));
}

/// The name of a cache that is to be.
fn new_name(name: ServerText<'_>) -> &str {
    const MAX_NAME_BYTES: usize = 63;
    let Some(text) = name.as_cache_name() else {
        let (allowed, encoding) = (names::allowed_in_names(), names::encoding_name());
        CacheError::NameEncoding { name: name.shown(), allowed, encoding }.report()
    };
    if !(1..=MAX_NAME_BYTES).contains(&text.len()) {
        CacheError::Name { given: text.len(), max: MAX_NAME_BYTES }.report();
    }
    text
}

/// Of the foreign data wrapper: sees the options of every object that belongs to it, before they are stored.
#[pg_extern]
fn definition_validator(options: Vec<Option<String>>, catalog: pg_sys::Oid) {
    let options: Vec<String> = options.into_iter().flatten().collect();
    let pairs = options.iter().map(|option| option.split_once('=').unwrap_or((option, "")));
    if catalog == pg_sys::ForeignTableRelationId {
        or_report(Options::parse(pairs));
    } else if let Some((name, _)) = pairs.into_iter().next() {
        CacheError::Parameter(format!("only caches have options, not \"{name}\" here")).report();
    }
}
