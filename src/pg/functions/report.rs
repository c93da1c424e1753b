//! One cache on a page: gathers the figures that `pg::report` shows.
//!
//! Like a view it shows numbers of caches in memory, to whoever may call it, and makes none. Costs what the views cost, and a
//! walk over the records of all entries, in steps.
#![allow(unsafe_code)]

use pgrx::prelude::*;

use super::name_of;
use super::text::{ServerText, ShownText};
use crate::pg::accounts::Tenant;
use crate::pg::bytea::Bytea;
use crate::pg::catalog::{CacheId, Catalog};
use crate::pg::definitions::{self, Definition};
use crate::pg::encoding::Encoding;
use crate::pg::error::{CacheError, or_report};
use crate::pg::handles;
use crate::pg::ledger::{SqlCounter, now_us};
use crate::pg::named_locks::LwLocks;
use crate::pg::report::{self, Figures, Glyphs};
use crate::shared::cache::SharedCache;

/// The figures of a cache; `None` if it is not in memory.
fn figures(cache: ServerText<'_>) -> Option<Figures> {
    let existing = or_report(Catalog::existing());
    let definition = or_report(name_of(cache).and_then(Definition::find));
    let catalog = existing?;
    loop {
        let listing = catalog.find(handles::my_database(), CacheId::Definition(definition.number()))?;
        let tenant = listing.tenant();
        let found = handles::of_listing(catalog, listing).and_then(|cache| {
            let gather = || gather(catalog, tenant, &cache, definition.name.clone());
            definitions::unless_dropped(gather).unwrap_or(Err(CacheError::Dropped))
        });
        match found {
            Ok(figures) => return Some(figures),
            // Made anew or moved meanwhile.
            Err(CacheError::Dropped) => {}
            Err(error) => error.report(),
        }
    }
}

fn gather(catalog: Catalog, tenant: Tenant, cache: &SharedCache<LwLocks>, name: String) -> Result<Figures, CacheError> {
    let ages = cache.count_ages(|| {
        pgrx::check_for_interrupts!();
    });
    let (resolved, account, samples) = (cache.resolved(), catalog.account(tenant, cache)?, catalog.samples(tenant)?);
    let ((oldest_age, by), ticks) = (cache.oldest_ages(), cache.ticks());
    Ok(Figures {
        name,
        at_us: now_us(),
        policy: resolved.policy.name(),
        partitions: resolved.partitions,
        max_entries: (resolved.max_entries > 0).then_some(resolved.max_entries),
        stats: account.stats,
        leases: account.of_sql(SqlCounter::Leases),
        lease_waits: account.of_sql(SqlCounter::LeaseWaits),
        lease_fills: account.of_sql(SqlCounter::LeaseFills),
        refused_lease: account.of_sql(SqlCounter::RefusedLease),
        refused_present: account.of_sql(SqlCounter::RefusedPresent),
        reset_us: account.reset_us,
        resized_us: account.resized_us,
        memory: cache.memory_report(),
        ages,
        oldest_age,
        oldest_since_us: oldest_age.and_then(|_| samples.before(ticks, by)),
        samples: samples.to_vec(),
    })
}

/// A page for psql.
#[pg_extern]
fn report(cache: ServerText<'_>) -> ShownText {
    let glyphs = if Encoding::of_database() == Encoding::Utf8 { Glyphs::Blocks } else { Glyphs::Ascii };
    ShownText(match figures(cache) {
        // A name that is not ASCII is only in a database that takes UTF-8.
        Some(figures) => report::page(&figures, glyphs).into_bytes(),
        None => "not in memory: nobody has used the cache since the server was started\n".into(),
    })
}

/// The same for programs, as PostgreSQL reads JSON.
#[pg_extern]
fn report_json(cache: ServerText<'_>) -> Bytea {
    let mut json = match figures(cache) {
        Some(figures) => report::json(&figures).into_bytes(),
        None => report::json_of_none(&or_report(name_of(cache).map(str::to_owned))).into_bytes(),
    };
    json.push(0);
    let text = pg_sys::Datum::from(json.as_ptr());
    // SAFETY: a NUL-terminated text, which outlives the call; a `jsonb` is a varlena, made in the current memory context.
    unsafe {
        let jsonb = pgrx::direct_function_call_as_datum(pg_sys::jsonb_in, &[Some(text)]).expect("JSON is no NULL");
        Bytea::from_varlena(jsonb.cast_mut_ptr())
    }
}

#[pg_extern]
fn report_svg(cache: ServerText<'_>) -> ShownText {
    ShownText(match figures(cache) {
        Some(figures) => report::svg(&figures).into_bytes(),
        None => report::svg_of_none(&or_report(name_of(cache).map(str::to_owned))).into_bytes(),
    })
}
