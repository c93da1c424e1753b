//! What SQL calls. `sql/` declares each of them, by the name `…_wrapper`, with views on top, comments and privileges.
//! The scripts of older releases name these functions too, so one stays as long as a script declares it.
//!
//! ```text
//! names   names that cross the borders of databases, whose encodings may differ
//! text    texts as arguments and results
//! arguments  byte strings, and arrays of them, as arguments
//! packed  several values in one piece of memory
//! access  one key
//! many    the keys of an array
//! queries results of queries
//! kept    what the views show of these
//! leases  the right to store what was missed, and what takes it away
//! sets    rows that a call returns at once
//! walks   all entries: looked at, or taken out
//! by_tag  where the bytes are, by tags
//! prefixes  where the bytes are, by beginnings of keys
//! define  caches created, altered, renamed, dropped; privileges
//! admin   caches cleared, compacted, checked, moved together
//! views   what the views show
//! changes what the query cache knows of a relation
//! report  one cache on a page
//! release which library this is
//! ```
//!
//! Each function finds its cache and works in steps of the library's, none of them long, and asks for interrupts between
//! two. Nothing is transactional: a put is visible at once and is not rolled back. Memory whose size a caller chooses is
//! asked for without a lock and in a way that can fail: its want is an ERROR, not the end of the server.

/// The finfo record of a function that is called with its call's data.
macro_rules! called_raw {
    ($finfo:ident) => {
        #[unsafe(no_mangle)]
        extern "C" fn $finfo() -> &'static pg_sys::Pg_finfo_record {
            const RECORD: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
            &RECORD
        }
    };
}

mod access;
mod admin;
mod arguments;
mod by_tag;
mod changes;
mod define;
mod kept;
mod leases;
mod many;
mod names;
mod packed;
mod prefixes;
mod queries;
mod release;
mod report;
mod sets;
mod text;
mod views;
mod walks;

use std::time::Duration;

use pgrx::prelude::*;

use self::text::ServerText;
use super::area::{self, AreaRequest};
use super::definitions::{self, Access, DefinedCache};
use super::error::{CacheError, or_report};
use super::{images, settings, worker, writers};

::pgrx::pg_module_magic!(name, version);

#[allow(non_snake_case)]
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    settings::define();
    area::request(AreaRequest { name: c"pg_shared_lru", size: settings::area_size });
    // Results are kept without a preload, too.
    crate::pg::queries::trace::install();
    if area::is_preloading() {
        worker::register();
        writers::watch();
        images::watch();
        crate::pg::queries::marks::install();
    }
}

/// The name of a cache that there may be.
fn name_of(cache: ServerText<'_>) -> Result<&str, CacheError> {
    cache.as_cache_name().ok_or_else(|| CacheError::Unknown(cache.shown()))
}

/// The cache of this name, for a caller that may do this with it.
fn find(cache: ServerText<'_>, access: Access) -> DefinedCache {
    or_report(name_of(cache).and_then(|name| definitions::find(name, access)))
}

/// Runs an operation on the cache of this name; again, if that was made anew or moved meanwhile.
fn with_cache<R>(cache: ServerText<'_>, access: Access, operation: impl FnMut(&DefinedCache) -> R) -> R {
    or_report(name_of(cache).and_then(|name| definitions::with_cache(name, access, operation)))
}

/// A parameter as the type that the engine wants; the engine knows the exact range.
fn number<T: TryFrom<i64>>(name: &str, value: impl Into<i64>) -> T {
    let value = value.into();
    T::try_from(value)
        .unwrap_or_else(|_| CacheError::Parameter(format!("{name} is {value}: out of range for any cache")).report())
}

/// An interval that is a length of time.
fn duration(name: &str, interval: Interval) -> Duration {
    let micros = interval.as_micros();
    let Ok(seconds) = u64::try_from(micros.div_euclid(1_000_000)) else {
        let given = micros as f64 / 1e6;
        CacheError::Parameter(format!("{name} is {given} seconds: must not be negative")).report()
    };
    Duration::new(seconds, micros.rem_euclid(1_000_000) as u32 * 1000)
}

/// Microseconds since 1970 as PostgreSQL counts them, from the year 2000 on.
fn timestamp(since_1970_us: u64) -> Option<TimestampWithTimeZone> {
    const TO_2000_US: u64 = 946_684_800_000_000;
    TimestampWithTimeZone::try_from(i64::try_from(since_1970_us.checked_sub(TO_2000_US)?).ok()?).ok()
}

/// A parameter of a function that is not strict because others may be NULL.
fn not_null<T>(name: &str, value: Option<T>) -> T {
    value.unwrap_or_else(|| CacheError::Parameter(format!("{name} must not be NULL")).report())
}
