//! Caches created, dropped, cleared, compacted and checked.

use pgrx::iter::TableIterator;
use pgrx::prelude::*;

use super::text::ServerText;
use super::{find, names, not_null, number};
use crate::engine::compaction::{CompactBudget, CompactReport};
use crate::engine::config::Config;
use crate::engine::config_error::ConfigError;
use crate::engine::policy::Policy;
use crate::pg::catalog::Catalog;
use crate::pg::error::{CacheError, or_report};
use crate::pg::{handles, settings};

/// Bytes that compaction moves in one step.
const COMPACT_STEP_BYTES: u64 = 256 << 10;

#[pg_extern(volatile, parallel_restricted)]
#[allow(clippy::too_many_arguments)] // one SQL parameter each, most with a default
fn create_cache(
    cache: Option<ServerText<'_>>,
    bytes: Option<i64>,
    max_entries: default!(Option<i64>, "NULL"),
    max_entry_bytes: default!(Option<i32>, "NULL"),
    policy: default!(Option<ServerText<'_>>, "NULL"),
    partitions: default!(Option<i32>, "NULL"),
    buckets: default!(Option<i64>, "NULL"),
    slab_bytes: default!(Option<i32>, "NULL"),
) {
    let cache = not_null("cache", cache);
    let name = cache.as_cache_name().unwrap_or_else(|| refuse_name(cache));
    let mut config = match (bytes, max_entries, max_entry_bytes) {
        (Some(bytes), None, None) => Config::bytes(number("bytes", bytes)),
        (None, Some(count), Some(bytes)) => {
            Config::entries(number("max_entries", count), number("max_entry_bytes", bytes))
        }
        _ => {
            CacheError::Parameter("give either bytes, or bytes => NULL with max_entries and max_entry_bytes".to_owned())
                .report()
        }
    };
    config = config.policy(match policy {
        Some(name) => or_report(name.shown().parse::<Policy>().map_err(ConfigError::from)),
        None => settings::default_policy(),
    });
    let slab_bytes = slab_bytes.map(|bytes| number("slab_bytes", bytes)).or_else(settings::default_slab_bytes);
    if let Some(slab_bytes) = slab_bytes {
        config = config.slab_bytes(slab_bytes);
    }
    let partitions = partitions.map(|count| number("partitions", count)).or_else(settings::default_partitions);
    if let Some(partitions) = partitions {
        config = config.partitions(partitions);
    }
    let buckets = buckets.map(|count| number("buckets", count)).or_else(settings::default_buckets);
    if let Some(buckets) = buckets {
        config = config.buckets(buckets);
    }
    let catalog = or_report(Catalog::open());
    // Caches of databases that went unnoticed (`database_drops`) can no longer be reached by anybody.
    catalog.drop_orphans(database_exists);
    or_report(catalog.create(handles::my_database(), my_role(), name, &config));
}

fn refuse_name(name: ServerText<'_>) -> ! {
    let (allowed, encoding) = (names::allowed_in_names(), names::encoding_name());
    CacheError::NameEncoding { name: name.shown(), allowed, encoding }.report()
}

#[allow(unsafe_code)]
fn my_role() -> u32 {
    // SAFETY: reads a variable of this process's only thread.
    unsafe { pg_sys::GetUserId() }.to_u32()
}

#[allow(unsafe_code)]
fn database_exists(database: u32) -> bool {
    // SAFETY: a catalog lookup inside a transaction; the name is palloc'd and goes with the memory context.
    unsafe { !pg_sys::get_database_name(pg_sys::Oid::from(database)).is_null() }
}

#[pg_extern(volatile, parallel_restricted)]
fn drop_cache(cache: ServerText<'_>) -> bool {
    let Some(catalog) = or_report(Catalog::existing()) else { return false };
    let listing = cache.as_cache_name().and_then(|name| catalog.find(handles::my_database(), name));
    listing.is_some_and(|listing| or_report(catalog.drop_cache(&listing)))
}

#[pg_extern(volatile, parallel_restricted)]
fn clear(cache: ServerText<'_>) -> i64 {
    let between = || {
        pgrx::check_for_interrupts!();
    };
    find(cache).clear_in_steps(between) as i64
}

#[pg_extern(volatile, parallel_restricted)]
#[allow(clippy::type_complexity)] // the columns of a table
fn compact(
    cache: Option<ServerText<'_>>,
    max_bytes: default!(Option<i64>, "NULL"),
) -> TableIterator<
    'static,
    (
        name!(entries_moved, i64),
        name!(bytes_moved, i64),
        name!(slabs_released, i64),
        name!(bytes_gained, i64),
        name!(skipped_pinned, i64),
    ),
> {
    let cache = find(not_null("cache", cache));
    let budget: u64 = max_bytes.map_or(u64::MAX, |bytes| number("max_bytes", bytes));
    // What is moved for nothing before it is given up: entries that readers have pinned may keep every slab that can be
    // emptied from becoming free, and then others move to and fro for ever.
    let patience_bytes = 2 * u64::from(cache.resolved().slab_bytes);
    let mut for_nothing_bytes = 0;
    let mut report = CompactReport::default();
    while report.bytes_moved < budget && for_nothing_bytes < patience_bytes {
        let step = cache.compact(CompactBudget::bytes(COMPACT_STEP_BYTES.min(budget - report.bytes_moved)));
        for_nothing_bytes = if step.slabs_released > 0 { 0 } else { for_nothing_bytes + step.bytes_moved };
        report += step;
        if step.bytes_moved == 0 {
            break;
        }
        pgrx::check_for_interrupts!();
    }
    TableIterator::once((
        report.entries_moved as i64,
        report.bytes_moved as i64,
        report.slabs_released as i64,
        report.bytes_gained as i64,
        report.skipped_pinned as i64,
    ))
}

#[pg_extern(volatile, parallel_restricted)]
fn validate(cache: ServerText<'_>) {
    let attached = find(cache);
    for partition in 0..attached.partition_count() {
        if let Err(found) = attached.validate_partition(partition) {
            CacheError::Inconsistent(cache.shown(), found).report();
        }
        pgrx::check_for_interrupts!();
    }
}
