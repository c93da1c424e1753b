//! Caches cleared, compacted, checked, saved, and moved together.

use pgrx::iter::TableIterator;
use pgrx::prelude::*;

use super::text::ServerText;
use super::{name_of, not_null, number, with_cache};
use crate::engine::compaction::{CompactBudget, CompactReport};
use crate::pg::catalog::Catalog;
use crate::pg::definitions::{Access, DefinedCache, Definition};
use crate::pg::error::{CacheError, or_report};
use crate::pg::invalidations::Target;
use crate::pg::queries::entries;
use crate::pg::{images, invalidations};

/// Bytes that compaction moves in one step.
const COMPACT_STEP_BYTES: u64 = 256 << 10;

#[pg_extern]
fn clear(cache: ServerText<'_>) -> i64 {
    let between = || {
        pgrx::check_for_interrupts!();
    };
    with_cache(cache, Access::Write, |cache| {
        invalidations::void_leases(or_report(Catalog::open()), cache.number, Target::All);
        cache.clear_in_steps(between)
    }) as i64
}

#[pg_extern]
#[allow(clippy::type_complexity)] // the columns of a table
fn compact(
    cache: Option<ServerText<'_>>,
    max_bytes: Option<i64>,
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
    let budget: u64 = max_bytes.map_or(u64::MAX, |bytes| number("max_bytes", bytes));
    let report = with_cache(not_null("cache", cache), Access::Write, |cache| compact_in_steps(cache, budget));
    TableIterator::once((
        report.entries_moved as i64,
        report.bytes_moved as i64,
        report.slabs_released as i64,
        report.bytes_gained as i64,
        report.skipped_pinned as i64,
    ))
}

fn compact_in_steps(cache: &DefinedCache, budget: u64) -> CompactReport {
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
    report
}

#[pg_extern]
fn save(cache: ServerText<'_>) -> i64 {
    let options = || or_report(name_of(cache).and_then(Definition::find).and_then(|found| found.options()));
    or_report(with_cache(cache, Access::Own, |found| images::save(&cache.shown(), found.number, &options(), found)))
        as i64
}

#[pg_extern]
fn reset_stats(cache: ServerText<'_>) {
    // One that is being made anew meanwhile is waited for in the next attempt.
    with_cache(cache, Access::Own, |cache| {
        or_report(or_report(Catalog::open()).reset_stats(cache.tenant, cache));
        entries::reset(cache.number);
    });
}

#[pg_extern]
fn defragment() -> i64 {
    or_report(Catalog::existing()).map_or(0, |catalog| catalog.defragment() as i64)
}

#[pg_extern]
fn validate(cache: ServerText<'_>) {
    let found = with_cache(cache, Access::Read, |cache| {
        (0..cache.partition_count()).find_map(|partition| {
            pgrx::check_for_interrupts!();
            cache.validate_partition(partition).err()
        })
    });
    if let Some(found) = found {
        CacheError::Inconsistent(cache.shown(), found).report();
    }
}
