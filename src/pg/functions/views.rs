//! What the views show: caches, configurations, counters and memory.
//!
//! The caches of all databases are listed under the catalog's lock, for a moment. All else is read through a handle like
//! anybody's, one partition after the other, so no cache waits for the walk over another.

use std::ffi::CStr;

use pgrx::iter::TableIterator;
use pgrx::prelude::*;

use super::names;
use super::text::ShownText;
use super::timestamp;
use crate::engine::limits::BUCKET_CELLS;
use crate::engine::report::{ClassReport, MemoryReport};
use crate::pg::accounts::{Account, Tenant};
use crate::pg::catalog::{Catalog, Listing};
use crate::pg::definitions;
use crate::pg::drops;
use crate::pg::error::{CacheError, or_report};
use crate::pg::handles;
use crate::pg::ledger::SqlCounter;
use crate::pg::named_locks::LwLocks;
use crate::pg::stored;
use crate::shared::cache::SharedCache;

/// What `read` says of every cache of the current database, with the cache's name as the database has it. One that is
/// dropped before its turn, or during it, is left out.
fn my_caches<R>(read: impl Fn(&SharedCache<LwLocks>) -> R) -> impl Iterator<Item = (Vec<u8>, R)> {
    my_tenants(move |_, _, cache| Ok(read(cache)))
}

/// As `my_caches`, with what names the cache's memory in the catalog.
pub(super) fn my_tenants<R>(
    read: impl Fn(Catalog, Tenant, &SharedCache<LwLocks>) -> Result<R, CacheError>,
) -> impl Iterator<Item = (Vec<u8>, R)> {
    my_listings(move |catalog, listing, cache| read(catalog, listing.tenant(), cache))
}

/// As `my_caches`, with how the catalog lists the cache.
pub(super) fn my_listings<R>(
    read: impl Fn(Catalog, &Listing, &SharedCache<LwLocks>) -> Result<R, CacheError>,
) -> impl Iterator<Item = (Vec<u8>, R)> {
    let catalog = or_report(Catalog::existing());
    let mine = listings(catalog).filter(|cache| cache.database == handles::my_database());
    mine.filter_map(move |listing| {
        let (catalog, name) = (catalog?, names::own_name(&listing.name));
        let mut listing = listing;
        loop {
            let found = handles::of_listing(catalog, listing.clone()).and_then(|cache| {
                let read = || read(catalog, &listing, &cache);
                definitions::unless_dropped(read).unwrap_or(Err(CacheError::Dropped))
            });
            match found {
                Ok(found) => return Some((name, found)),
                // Or made anew, or moved.
                Err(CacheError::Dropped) => listing = catalog.find(listing.database, listing.id())?,
                Err(error) => error.report(),
            }
        }
    })
}

fn listings(catalog: Option<Catalog>) -> impl Iterator<Item = Listing> {
    catalog.map(Catalog::list).unwrap_or_default().into_iter()
}

#[pg_extern]
#[allow(clippy::type_complexity)] // the columns of a table
fn list_caches() -> TableIterator<
    'static,
    (
        name!(cache, ShownText),
        name!(database, pg_sys::Oid),
        name!(owner, pg_sys::Oid),
        name!(bytes, i64),
        name!(database_name, Option<ShownText>),
        name!(owner_name, ShownText),
        name!(relation, Option<pg_sys::Oid>),
        name!(persist, bool),
        name!(saved, Option<TimestampWithTimeZone>),
    ),
> {
    let catalog = or_report(Catalog::existing());
    TableIterator::new(listings(catalog).map(move |cache| {
        let saved_ms = catalog.map_or(0, |catalog| catalog.saved(&cache).saved_ms);
        let is_own = cache.database == handles::my_database();
        let name = if is_own { names::own_name(&cache.name) } else { names::foreign_name(&cache.name) };
        let relation = cache.definition.map(drops::relation_of);
        let owner = relation.filter(|_| is_own).and_then(definitions::owner_of);
        let owner = owner.unwrap_or(pg_sys::Oid::from(cache.owner));
        (
            ShownText(name),
            pg_sys::Oid::from(cache.database),
            owner,
            cache.bytes as i64,
            database_name(&cache),
            role_name(owner),
            relation,
            catalog.is_some_and(|catalog| catalog.persists(&cache)),
            timestamp(saved_ms * 1000),
        )
    }))
}

#[allow(unsafe_code)]
fn database_name(cache: &Listing) -> Option<ShownText> {
    // SAFETY: a catalog lookup inside a transaction; null, or a NUL-terminated string that lives until its memory context
    // is reset.
    let name = unsafe {
        let name = pg_sys::get_database_name(pg_sys::Oid::from(cache.database));
        (!name.is_null()).then(|| CStr::from_ptr(name))
    };
    name.map(|name| ShownText(names::shared_catalog_name(name.to_bytes())))
}

#[allow(unsafe_code)]
pub(super) fn role_name(role: pg_sys::Oid) -> ShownText {
    // SAFETY: as above; `true`: null where there is no such role.
    let name = unsafe {
        let name = pg_sys::GetUserNameFromId(role, true);
        (!name.is_null()).then(|| CStr::from_ptr(name))
    };
    // As PostgreSQL says it of a role that is gone.
    let gone = || format!("unknown (OID={role})").into_bytes();
    ShownText(name.map_or_else(gone, |name| names::shared_catalog_name(name.to_bytes())))
}

#[pg_extern]
#[allow(clippy::type_complexity)] // the columns of a table
fn list_configurations() -> TableIterator<
    'static,
    (
        name!(cache, ShownText),
        name!(database, pg_sys::Oid),
        name!(policy, &'static str),
        name!(partitions, i32),
        name!(buckets, i64),
        name!(slab_bytes, i32),
        name!(max_entries, Option<i64>),
        name!(max_entry_bytes, i64),
        name!(max_key_bytes, i32),
    ),
> {
    TableIterator::new(my_caches(SharedCache::resolved).map(|(name, resolved)| {
        (
            ShownText(name),
            pg_sys::Oid::from(handles::my_database()),
            resolved.policy.name(),
            resolved.partitions as i32,
            resolved.buckets as i64,
            resolved.slab_bytes as i32,
            (resolved.max_entries > 0).then_some(i64::from(resolved.max_entries)),
            stored::shown_bytes(resolved.max_entry_bytes) as i64,
            resolved.max_key_bytes as i32,
        )
    }))
}

#[pg_extern]
#[allow(clippy::type_complexity)] // the columns of a table
fn list_stats() -> TableIterator<
    'static,
    (
        name!(cache, ShownText),
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
        name!(bytes_moved, i64),
        name!(resets, i64),
        name!(expirations, i64),
        name!(swept, i64),
        name!(invalidations, i64),
        name!(refused_too_large, i64),
        name!(refused_no_room, i64),
        name!(refused_ttl, i64),
        name!(refused_lease, i64),
        name!(refused_present, i64),
        name!(leases, i64),
        name!(lease_waits, i64),
        name!(lease_fills, i64),
        name!(served_stale, i64),
        name!(served_unchecked, i64),
        name!(oldest_age, Option<i64>),
        name!(oldest_since, Option<TimestampWithTimeZone>),
        name!(stats_reset, Option<TimestampWithTimeZone>),
        name!(resized, Option<TimestampWithTimeZone>),
    ),
> {
    let read = |catalog: Catalog, tenant, cache: &SharedCache<LwLocks>| {
        let (account, samples) = (catalog.account(tenant, cache)?, catalog.samples(tenant)?);
        let ((oldest_age, by), ticks) = (cache.oldest_ages(), cache.ticks());
        let oldest = (oldest_age, oldest_age.and_then(|_| samples.before(ticks, by)));
        Ok((cache.len(), cache.bytes(), oldest, account))
    };
    TableIterator::new(my_tenants(read).map(|(name, (entries, bytes, (oldest_age, oldest_us), account))| {
        let of_sql = |counter| account.of_sql(counter) as i64;
        let Account { stats, reset_us, resized_us, .. } = account;
        (
            ShownText(name),
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
            stats.bytes_moved as i64,
            stats.resets as i64,
            stats.expirations as i64,
            stats.swept as i64,
            stats.invalidations as i64,
            stats.refused_too_large as i64,
            stats.refused_no_room as i64,
            stats.refused_ttl as i64,
            of_sql(SqlCounter::RefusedLease),
            of_sql(SqlCounter::RefusedPresent),
            of_sql(SqlCounter::Leases),
            of_sql(SqlCounter::LeaseWaits),
            of_sql(SqlCounter::LeaseFills),
            of_sql(SqlCounter::ServedStale),
            of_sql(SqlCounter::ServedUnchecked),
            oldest_age.map(i64::from),
            oldest_us.and_then(timestamp),
            reset_us.and_then(timestamp),
            resized_us.and_then(timestamp),
        )
    }))
}

#[pg_extern]
#[allow(clippy::type_complexity)] // the columns of a table
fn list_samples() -> TableIterator<
    'static,
    (
        name!(cache, ShownText),
        name!(at, Option<TimestampWithTimeZone>),
        name!(entries, i64),
        name!(live_bytes, i64),
        name!(hits, Option<i64>),
        name!(misses, Option<i64>),
    ),
> {
    TableIterator::new(my_tenants(|catalog, tenant, _| catalog.samples(tenant)).flat_map(|(name, samples)| {
        let rows: Vec<_> = samples
            .iter()
            .enumerate()
            .map(|(index, sample)| {
                let reads = index.checked_sub(1).map(|before| sample.reads_since(&samples[before]));
                let (hits, misses) = reads.map(|(hits, misses)| (hits as i64, misses as i64)).unzip();
                let (entries, bytes) = (sample.entries as i64, sample.bytes as i64);
                (ShownText(name.clone()), timestamp(sample.at_us), entries, bytes, hits, misses)
            })
            .collect();
        rows
    }))
}

#[pg_extern]
#[allow(clippy::type_complexity)] // the columns of a table
fn list_slab_classes() -> TableIterator<
    'static,
    (
        name!(cache, ShownText),
        name!(class, i32),
        name!(slot_bytes, i64),
        name!(slabs, i64),
        name!(slots, i64),
        name!(used, i64),
        name!(stored_bytes, i64),
        name!(internal_waste_bytes, i64),
    ),
> {
    let row = |name: &[u8], class: &ClassReport| {
        (
            ShownText(name.to_vec()),
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

#[pg_extern]
#[allow(clippy::type_complexity)] // the columns of a table
fn list_memory() -> TableIterator<
    'static,
    (
        name!(cache, ShownText),
        name!(region_bytes, i64),
        name!(fixed_bytes, i64),
        name!(directory_bytes, i64),
        name!(data_bytes, i64),
        name!(bucket_bytes, i64),
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
    let row = |name: Vec<u8>, report: &MemoryReport| {
        (
            ShownText(name),
            report.region_bytes as i64,
            report.fixed_bytes as i64,
            report.directory_bytes as i64,
            report.data_bytes as i64,
            report.bucket_bytes as i64,
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
