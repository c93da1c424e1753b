//! What SQL calls. `sql/` declares each of them, by the name `…_wrapper`, with views on top, comments and privileges.
//! The scripts of older releases name these functions too, so one stays as long as a script declares it.
//!
//! ```text
//! names   names that cross the borders of databases, whose encodings may differ
//! text    texts as arguments and results
//! bytea   values copied straight into what PostgreSQL gets
//! access  one key, or the keys of an array
//! walks   all entries: looked at, or taken out
//! admin   caches created, dropped, cleared, compacted, checked
//! views   what the views show
//! release which library this is
//! ```
//!
//! Each function finds its cache and works in steps of the library's, none of them long, and asks for interrupts between
//! two. Nothing is transactional: a put is visible at once and is not rolled back. Memory whose size a caller chooses is
//! asked for without a lock and in a way that can fail: its want is an ERROR, not the end of the server.

mod access;
mod admin;
mod bytea;
mod names;
mod release;
mod text;
mod views;
mod walks;

use pgrx::prelude::*;

use self::text::ServerText;
use super::area::{self, AreaRequest};
use super::error::{CacheError, or_report};
use super::handles::{self, AttachedCache};
use super::settings;

::pgrx::pg_module_magic!(name, version);

#[allow(non_snake_case)]
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    settings::define();
    area::request(AreaRequest { name: c"pg_shared_lru", size: settings::area_size });
}

fn find(cache: ServerText<'_>) -> AttachedCache {
    let unknown = || CacheError::Unknown(cache.shown());
    or_report(cache.as_cache_name().ok_or_else(unknown).and_then(handles::cache))
}

/// A parameter as the type that the engine wants; the engine knows the exact range.
fn number<T: TryFrom<i64>>(name: &str, value: impl Into<i64>) -> T {
    let value = value.into();
    T::try_from(value)
        .unwrap_or_else(|_| CacheError::Parameter(format!("{name} is {value}: out of range for any cache")).report())
}

/// A parameter of a function that is not strict because others may be NULL.
fn not_null<T>(name: &str, value: Option<T>) -> T {
    value.unwrap_or_else(|| CacheError::Parameter(format!("{name} must not be NULL")).report())
}
