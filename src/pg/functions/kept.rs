//! What the views show of the query cache: results that are kept, and why others were not.
//!
//! A kept result is shown to who may read its cache: there is the text of a query in it. Refusals are numbers, with names of
//! objects that everybody finds in PostgreSQL's catalogs.

use pgrx::iter::TableIterator;
use pgrx::prelude::*;

use super::text::ShownText;
use super::timestamp;
use super::views::{my_listings, my_tenants, role_name};
use crate::pg::catalog::{Catalog, Listing};
use crate::pg::definitions;
use crate::pg::encoding;
use crate::pg::error::CacheError;
use crate::pg::named_locks::LwLocks;
use crate::pg::queries::entries::{self, KeptQuery};
use crate::pg::queries::{name_of_object, qualified_name};
use crate::pg::refusals::Object;
use crate::pg::tallies::Cause;
use crate::shared::cache::SharedCache;

#[pg_extern]
#[allow(clippy::type_complexity)] // the columns of a table
fn list_query_entries() -> TableIterator<
    'static,
    (
        name!(cache, ShownText),
        name!(query, ShownText),
        name!(role, ShownText),
        name!(hits, Option<i64>),
        name!(fills, Option<i64>),
        name!(made, Option<TimestampWithTimeZone>),
        name!(result_rows, i64),
        name!(bytes, i64),
        name!(fill_us, i64),
        name!(is_current, bool),
        name!(depends_on, Vec<String>),
        name!(outdated, Option<TimestampWithTimeZone>),
        name!(outdated_by, Option<String>),
    ),
> {
    TableIterator::new(my_listings(kept_queries).flat_map(|(cache, kept)| {
        kept.into_iter().map(move |(bytes, kept)| {
            let tally = kept.tally;
            let (outdated_us, cause) = tally.and_then(|tally| tally.outdated).unzip();
            (
                ShownText(cache.clone()),
                ShownText(kept.text),
                role_name(kept.role),
                tally.map(|tally| tally.hits as i64),
                tally.map(|tally| tally.fills as i64),
                timestamp(kept.made_us),
                kept.rows as i64,
                bytes as i64,
                kept.fill_micros as i64,
                kept.is_current,
                kept.relations.into_iter().map(|relation| encoding::message(qualified_name(relation))).collect(),
                outdated_us.and_then(timestamp),
                cause.map(|cause| encoding::message(text_of(cause))),
            )
        })
    }))
}

/// The results that a cache keeps, and the bytes of each; none if the current role may not read it.
fn kept_queries(
    _catalog: Catalog,
    listing: &Listing,
    cache: &SharedCache<LwLocks>,
) -> Result<Vec<(usize, KeptQuery)>, CacheError> {
    let number = listing.definition.filter(|number| definitions::may_read(*number));
    let Some(number) = number else { return Ok(Vec::new()) };
    let results = cache.iter().filter(|entry| {
        pgrx::check_for_interrupts!();
        entries::may_be_result(&entry.key)
    });
    let kept = results.filter_map(|entry| {
        // It may be gone by now, or be another value.
        let value = cache.entry(entry.id)?.value?;
        Some((entry.key.len() + value.len(), entries::kept_query(number, &entry.key, &value)?))
    });
    Ok(kept.collect())
}

fn text_of(cause: Cause) -> String {
    match cause {
        Cause::Rows(oid) => format!("rows of {}", qualified_name(oid.into())),
        Cause::Definition(oid) => format!("definition of {}", qualified_name(oid.into())),
        Cause::Code => "functions, operators, casts".to_owned(),
        Cause::Roles => "roles".to_owned(),
        Cause::Names => "a type, or what a name means".to_owned(),
        Cause::Switch => "the query cache was off".to_owned(),
    }
}

#[pg_extern]
#[allow(clippy::type_complexity)] // the columns of a table
fn list_query_refusals() -> TableIterator<
    'static,
    (name!(cache, ShownText), name!(reason, &'static str), name!(count, i64), name!(last_object, Option<ShownText>)),
> {
    TableIterator::new(my_tenants(|catalog, tenant, _| catalog.refusals(tenant)).flat_map(|(cache, refusals)| {
        refusals.into_iter().map(move |(reason, count, object): (_, u64, Option<Object>)| {
            let object = object.map(|object| ShownText(name_of_object(object)));
            (ShownText(cache.clone()), reason.name(), count as i64, object)
        })
    }))
}
