//! What SQL calls. The views on top, comments and privileges are in `sql/`.
//!
//! Each function finds its cache, does one operation of the engine, and turns the result into SQL values after the lock
//! is released. Nothing is transactional: a put is visible at once and is not rolled back.

use pgrx::Array;
use pgrx::iter::TableIterator;
use pgrx::prelude::*;

use super::area::{self, AreaRequest};
use super::attached::{self, AttachedCache};
use super::catalog;
use super::error::{CacheError, or_report};
use super::lwlock::LwLocks;
use super::settings;
use crate::engine::config::{Config, Policy};
use crate::engine::evicted::Evicted;
use crate::engine::layout::BUCKET_CELLS;
use crate::engine::partition::Put;
use crate::engine::report::{ClassReport, MemoryReport};
use crate::engine::room::{CompactBudget, CompactReport};
use crate::shared::cache::SharedCache;
use crate::shared::walk::Entries;

::pgrx::pg_module_magic!(name, version);

#[allow(non_snake_case)]
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    #[allow(unsafe_code)]
    // SAFETY: a flag of the process's own, read from its only thread.
    let preloading = unsafe { pg_sys::process_shared_preload_libraries_in_progress };
    settings::define();
    if preloading {
        settings::define_at_server_start();
        let (bytes, max_caches) = (settings::memory_bytes(), settings::max_caches());
        area::request(AreaRequest { name: c"pg_shared_lru", bytes, max_caches });
    }
}

extension_sql_file!("../../sql/extension.sql", name = "extension", finalize);

fn find(cache: &str) -> AttachedCache {
    or_report(attached::cache(cache))
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

#[pg_extern(volatile, parallel_restricted)]
#[allow(clippy::too_many_arguments)] // one SQL parameter each, most with a default
fn create_cache(
    cache: Option<&str>,
    bytes: Option<i64>,
    max_entries: default!(Option<i64>, "NULL"),
    max_entry_bytes: default!(Option<i32>, "NULL"),
    policy: default!(Option<&str>, "NULL"),
    partitions: default!(Option<i32>, "NULL"),
    buckets: default!(Option<i64>, "NULL"),
    slab_bytes: default!(Option<i32>, "NULL"),
) {
    let cache = not_null("cache", cache);
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
        Some(name) => or_report(name.parse::<Policy>()),
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
    let area = or_report(catalog::area());
    // Caches of dropped databases can no longer be reached by anybody; their memory is free for the taking.
    catalog::drop_orphans(area, database_exists);
    or_report(catalog::create(area, attached::my_database(), my_role(), cache, &config));
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
fn drop_cache(cache: &str) -> bool {
    let area = or_report(catalog::area());
    catalog::find(area, attached::my_database(), cache).is_some_and(|listing| or_report(catalog::drop(area, &listing)))
}

fn store(cache: &str, key: &[u8], value: &[u8]) -> bool {
    or_report(find(cache).put(key, value)) == Put::Inserted
}

fn fetch(cache: &str, key: &[u8]) -> Option<Vec<u8>> {
    let mut value = Vec::new();
    find(cache).get(key, &mut value).then_some(value)
}

#[pg_extern(volatile, parallel_restricted)]
fn put(cache: &str, key: &[u8], value: &[u8]) -> bool {
    store(cache, key, value)
}

#[pg_extern(volatile, parallel_safe)]
fn get(cache: &str, key: &[u8]) -> Option<Vec<u8>> {
    fetch(cache, key)
}

#[pg_extern(volatile, parallel_safe)]
fn contains(cache: &str, key: &[u8]) -> bool {
    find(cache).contains(key)
}

#[pg_extern(volatile, parallel_restricted)]
fn remove(cache: &str, key: &[u8]) -> bool {
    find(cache).remove(key).is_some()
}

#[pg_extern(volatile, parallel_restricted)]
fn clear(cache: &str) -> i64 {
    let between = || {
        pgrx::check_for_interrupts!();
    };
    find(cache).clear_in_steps(between) as i64
}

#[pg_extern(volatile, parallel_safe)]
fn get_many(
    cache: &str,
    keys: Array<'_, &[u8]>,
) -> TableIterator<'static, (name!(key, Vec<u8>), name!(value, Vec<u8>))> {
    let cache = find(cache);
    let keys: Vec<Vec<u8>> = keys.iter().flatten().map(<[u8]>::to_vec).collect();
    TableIterator::new(keys.into_iter().filter_map(move |key| {
        let mut value = Vec::new();
        cache.get(&key, &mut value).then_some((key, value))
    }))
}

#[pg_extern(volatile, parallel_restricted)]
#[allow(clippy::type_complexity)] // the columns of a table
fn entries(
    cache: &str,
) -> TableIterator<
    'static,
    (
        name!(entry_id, i64),
        name!(key, Vec<u8>),
        name!(key_bytes, i32),
        name!(value_bytes, i64),
        name!(generation, i64),
        name!(version, i64),
        name!(age, i64),
        name!(referenced, bool),
        name!(pinned, bool),
    ),
> {
    TableIterator::new(Entries::over(find(cache), false).map(|entry| {
        (
            entry.id.to_u64() as i64,
            entry.key.clone(),
            entry.key.len() as i32,
            entry.value_len as i64,
            i64::from(entry.id.generation().get()),
            i64::from(entry.version),
            i64::from(entry.age),
            entry.referenced,
            entry.pinned,
        )
    }))
}

/// Takes entries out, one batch after the other: of each partition as many as it had when its turn came.
struct Drain {
    cache: AttachedCache,
    /// The next partition, and what may still be taken out of the one before.
    partition: usize,
    left_in_partition: usize,
    left: usize,
    batch: Evicted,
    ages: Vec<u32>,
    next: usize,
}

impl Iterator for Drain {
    type Item = (Vec<u8>, Vec<u8>);

    fn next(&mut self) -> Option<Self::Item> {
        while self.next == self.batch.len() {
            self.next = 0;
            self.batch.clear();
            let limit = self.left_in_partition.min(self.left);
            if limit > 0 && self.cache.drain_batch(self.partition - 1, limit, &mut self.batch, &mut self.ages) {
                self.left_in_partition -= self.batch.len();
                self.left -= self.batch.len();
            } else if self.left == 0 || self.partition == self.cache.partition_count() {
                self.left_in_partition = 0;
                return None;
            } else {
                self.left_in_partition = self.cache.partition_len(self.partition) as usize;
                self.partition += 1;
            }
        }
        let (key, value) = self.batch.get(self.next);
        self.next += 1;
        Some((key.to_vec(), value.to_vec()))
    }
}

#[pg_extern(volatile, parallel_restricted)]
fn drain(
    cache: Option<&str>,
    max_entries: default!(Option<i64>, "NULL"),
) -> TableIterator<'static, (name!(key, Vec<u8>), name!(value, Vec<u8>))> {
    let cache = find(not_null("cache", cache));
    let left = max_entries.map_or(usize::MAX, |count| number("max_entries", count));
    let (batch, ages) = (Evicted::default(), Vec::new());
    TableIterator::new(Drain { cache, partition: 0, left_in_partition: 0, left, batch, ages, next: 0 })
}

#[pg_extern(volatile, parallel_restricted)]
#[allow(clippy::type_complexity)] // the columns of a table
fn compact(
    cache: Option<&str>,
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
    // In steps, so that the statement can be cancelled and nobody waits for a lock for long.
    const STEP_BYTES: u64 = 4 << 20;
    let cache = find(not_null("cache", cache));
    let budget: u64 = max_bytes.map_or(u64::MAX, |bytes| number("max_bytes", bytes));
    let mut report = CompactReport::default();
    while report.bytes_moved < budget {
        let step = cache.compact(CompactBudget::bytes(STEP_BYTES.min(budget - report.bytes_moved)));
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
fn validate(cache: &str) {
    let attached = find(cache);
    for partition in 0..attached.partition_count() {
        if let Err(found) = attached.validate_partition(partition) {
            CacheError::Inconsistent(cache.to_owned(), found).report();
        }
        pgrx::check_for_interrupts!();
    }
}

/// What `read` says of every cache of the current database, with the cache's name. One that is dropped before its turn
/// is left out.
fn my_caches<R>(read: impl Fn(&SharedCache<LwLocks>) -> R) -> impl Iterator<Item = (String, R)> {
    let area = or_report(catalog::area());
    let mine = catalog::list(area).into_iter().filter(|cache| cache.database == attached::my_database());
    mine.filter_map(move |listing| {
        let found = or_report(catalog::while_current(area, &listing, |cache| read(&cache)));
        found.map(|found| (listing.name, found))
    })
}

#[pg_extern(volatile, parallel_restricted)]
fn list_caches() -> TableIterator<
    'static,
    (name!(cache, String), name!(database, pg_sys::Oid), name!(owner, pg_sys::Oid), name!(bytes, i64)),
> {
    let caches = catalog::list(or_report(catalog::area()));
    TableIterator::new(caches.into_iter().map(|cache| {
        (cache.name, pg_sys::Oid::from(cache.database), pg_sys::Oid::from(cache.owner), cache.bytes as i64)
    }))
}

#[pg_extern(volatile, parallel_restricted)]
#[allow(clippy::type_complexity)] // the columns of a table
fn list_configurations() -> TableIterator<
    'static,
    (
        name!(cache, String),
        name!(policy, String),
        name!(partitions, i32),
        name!(buckets, i64),
        name!(slab_bytes, i32),
        name!(max_entries, Option<i64>),
        name!(max_entry_bytes, i64),
        name!(max_key_bytes, i32),
    ),
> {
    TableIterator::new(my_caches(|cache| cache.layout().clone()).map(|(name, layout)| {
        (
            name,
            layout.policy.name().to_owned(),
            layout.partition_count as i32,
            i64::from(layout.buckets_per_partition) * i64::from(layout.partition_count),
            layout.slab_bytes as i32,
            (layout.max_entries > 0).then_some(i64::from(layout.max_entries)),
            layout.max_entry_bytes as i64,
            layout.max_key_bytes as i32,
        )
    }))
}

#[pg_extern(volatile, parallel_restricted)]
#[allow(clippy::type_complexity)] // the columns of a table
fn list_stats() -> TableIterator<
    'static,
    (
        name!(cache, String),
        name!(entries, i64),
        name!(live_bytes, i64),
        name!(hits, i64),
        name!(misses, i64),
        name!(inserts, i64),
        name!(updates, i64),
        name!(evictions, i64),
        name!(removals, i64),
        name!(refused, i64),
        name!(compactions, i64),
        name!(slabs_moved, i64),
        name!(entries_moved, i64),
        name!(resets, i64),
    ),
> {
    let read = |cache: &SharedCache<LwLocks>| (cache.len(), cache.bytes(), cache.stats());
    TableIterator::new(my_caches(read).map(|(name, (entries, bytes, stats))| {
        (
            name,
            entries as i64,
            bytes as i64,
            stats.hits as i64,
            stats.misses as i64,
            stats.inserts as i64,
            stats.updates as i64,
            stats.evictions as i64,
            stats.removals as i64,
            stats.refused as i64,
            stats.compactions as i64,
            stats.slabs_moved as i64,
            stats.entries_moved as i64,
            stats.resets as i64,
        )
    }))
}

#[pg_extern(volatile, parallel_restricted)]
#[allow(clippy::type_complexity)] // the columns of a table
fn list_slab_classes() -> TableIterator<
    'static,
    (
        name!(cache, String),
        name!(class, i32),
        name!(slot_bytes, i64),
        name!(slabs, i64),
        name!(slots, i64),
        name!(used, i64),
        name!(stored_bytes, i64),
        name!(internal_waste_bytes, i64),
    ),
> {
    let row = |name: &str, class: &ClassReport| {
        (
            name.to_owned(),
            class.class as i32,
            class.slot_bytes as i64,
            class.slabs as i64,
            class.slots as i64,
            class.used as i64,
            class.stored_bytes as i64,
            class.internal_waste_bytes() as i64,
        )
    };
    TableIterator::new(
        my_caches(|cache| cache.memory_report().classes)
            .flat_map(move |(name, classes)| classes.into_iter().map(move |class| row(&name, &class))),
    )
}

#[pg_extern(volatile, parallel_restricted)]
#[allow(clippy::type_complexity)] // the columns of a table
fn list_memory() -> TableIterator<
    'static,
    (
        name!(cache, String),
        name!(region_bytes, i64),
        name!(fixed_bytes, i64),
        name!(directory_bytes, i64),
        name!(data_bytes, i64),
        name!(free_bytes, i64),
        name!(payload_bytes, i64),
        name!(metadata_bytes, i64),
        name!(slabs_total, i64),
        name!(slabs_free, i64),
        name!(entries, i64),
        name!(bucket_cells, i64),
        name!(longest_chain, i64),
    ),
> {
    let row = |name: String, report: &MemoryReport| {
        (
            name,
            report.region_bytes as i64,
            report.fixed_bytes as i64,
            report.directory_bytes as i64,
            report.data_bytes as i64,
            report.free_bytes as i64,
            report.payload_bytes as i64,
            report.metadata_bytes as i64,
            report.slabs_total as i64,
            report.slabs_free as i64,
            report.entries as i64,
            (report.buckets * BUCKET_CELLS as u64) as i64,
            report.longest_chain as i64,
        )
    };
    let reports = my_caches(SharedCache::memory_report_with_chains);
    TableIterator::new(reports.map(move |(name, report)| row(name, &report)))
}
