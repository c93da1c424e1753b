//! Leases: who misses a key gets the right to store it, which a later invalidation takes away. docs/leases.md says why.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ffi::CStr;
use std::time::{Duration, Instant};

use pgrx::AnyElement;
use pgrx::iter::TableIterator;
use pgrx::prelude::*;

use super::access::{self, PutTags, Tags, expiry, put_or_report, value_of};
use super::text::ServerText;
use super::{find, name_of, with_cache};
use crate::pg::accounts::Tenant;
use crate::pg::advisory::{AdvisoryLock, Class};
use crate::pg::bytea::Bytea;
use crate::pg::catalog::Catalog;
use crate::pg::definitions::{Access, DefinedCache, Definition};
use crate::pg::encoding;
use crate::pg::error::{CacheError, or_report};
use crate::pg::invalidations::{self, Target};
use crate::pg::ledger::SqlCounter;
use crate::pg::named_locks::sleep_a_moment;
use crate::pg::snapshot::has_written;
use crate::pg::stored::{Dependency, Stored, StoredType};
use crate::pg::tags;
use crate::pg::types;
use crate::rings::table::Rings;

/// The right to store a key, if nothing has happened since to it, its cache and the value's tags: 48 bytes, and 20 for each
/// tag.
struct Lease {
    /// Of key and cache, by a number that no other life of the cache's memory has.
    check: u64,
    key: Dependency,
    cache: Dependency,
    tags: Vec<Dependency>,
}

impl Lease {
    /// What the lines say at this moment; `None` while something is being invalidated, or if the running statement does not
    /// see the end of all that was.
    fn give(catalog: Catalog, number: u64, key: &[u8], tags: Option<&Tags<'_>>) -> Option<Lease> {
        let rings = invalidations::rings(catalog)?;
        let settled = |target: Target<'_>| tags::settled(&rings, target.hash(number));
        let tags = tags.map_or(Some(Vec::new()), |tags| access::settled(number, tags))?;
        Some(Lease { check: 0, key: settled(Target::Key(key))?, cache: settled(Target::All)?, tags })
    }

    /// Whether nothing has happened since.
    fn is_good(&self, rings: &Rings) -> bool {
        [&self.key, &self.cache].into_iter().chain(&self.tags).all(|dependency| tags::is_unchanged(rings, dependency))
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.check.to_le_bytes().to_vec();
        Dependency::append_all(&[self.key, self.cache], &mut bytes);
        Dependency::append_all(&self.tags, &mut bytes);
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Lease> {
        let (check, rest) = bytes.split_first_chunk::<8>()?;
        let mut dependencies = Dependency::list(rest)?;
        let (key, cache) = (dependencies.next()?, dependencies.next()?);
        Some(Lease { check: u64::from_le_bytes(*check), key, cache, tags: dependencies.collect() })
    }
}

/// What a caller gets: a value, or a lease, or neither.
type Answer = (Option<Bytea>, Option<Vec<u8>>);

#[pg_extern]
fn get_or_lease(
    cache: Option<ServerText<'_>>,
    key: Option<&[u8]>,
    wait: Option<Interval>,
    tags: Option<Tags<'_>>,
) -> TableIterator<'static, (name!(value, Option<Bytea>), name!(lease, Option<Vec<u8>>))> {
    let (Some(cache), Some(key)) = (cache, key) else { return TableIterator::once((None, None)) };
    TableIterator::once(answer(cache, key, wait, tags.as_ref(), |cache| value_of(cache, key)))
}

/// As `get_or_lease`, of a value that was put as `jsonb`.
#[pg_extern]
fn get_jsonb_or_lease(
    cache: Option<ServerText<'_>>,
    key: Option<&[u8]>,
    wait: Option<Interval>,
    tags: Option<Tags<'_>>,
) -> TableIterator<'static, (name!(value, Option<Bytea>), name!(lease, Option<Vec<u8>>))> {
    let (Some(cache), Some(key)) = (cache, key) else { return TableIterator::once((None, None)) };
    let jsonb = or_report(types::stored_type(pg_sys::JSONBOID));
    TableIterator::once(answer(cache, key, wait, tags.as_ref(), |cache| access::varlena_of(cache, key, jsonb)))
}

fn answer(
    cache: ServerText<'_>,
    key: &[u8],
    wait: Option<Interval>,
    tags: Option<&Tags<'_>>,
    value_of: impl Fn(&DefinedCache) -> Option<Bytea>,
) -> Answer {
    // What is beyond all bounds is for ever, before nothing at once.
    let wait = wait.map_or(0, |wait| wait.as_micros().clamp(0, u64::MAX.into()) as u64);
    let wait = Duration::from_micros(wait);
    let DefinedCache { number, tenant, .. } = find(cache, Access::ReadAndWrite);
    let look = || with_cache(cache, Access::Read, &value_of);
    // The miss is counted once, however often it is looked again.
    let look_again = || if with_cache(cache, Access::Read, |cache| cache.contains(key)) { look() } else { None };
    if invalidations::hides_some() && invalidations::hides(number, key) {
        return (None, None);
    }
    if let Some(value) = look() {
        return (Some(value), None);
    }
    let lock = AdvisoryLock::new(Class::Lease, number, key);
    let end = Instant::now() + wait;
    let mut has_waited = false;
    while !lock.try_take() {
        // Others may wait for what it has written.
        if Instant::now() >= end || has_written() {
            return (None, None);
        }
        if !std::mem::replace(&mut has_waited, true) {
            count(tenant, SqlCounter::LeaseWaits);
        }
        sleep_a_moment();
        if let Some(value) = look_again() {
            return (Some(value), None);
        }
    }
    // Whoever had the lease may have stored the value just before it was given back.
    if let Some(value) = look_again() {
        lock.give_back();
        return (Some(value), None);
    }
    match Lease::give(or_report(Catalog::open()), number, key, tags) {
        Some(lease) => {
            let check = with_cache(cache, Access::Write, |cache| cache.check_of(key));
            count(tenant, SqlCounter::Leases);
            (None, Some(Lease { check, ..lease }.to_bytes()))
        }
        None => {
            lock.give_back();
            (None, None)
        }
    }
}

/// Counts what was done with a cache. Raises nothing.
fn count(tenant: Tenant, counter: SqlCounter) {
    if let Some(catalog) = Catalog::mapped() {
        catalog.ledger(tenant).count(counter);
    }
}

#[pg_extern]
fn put_leased(
    cache: Option<ServerText<'_>>,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    lease: Option<&[u8]>,
    ttl: Option<Interval>,
) -> Option<bool> {
    Some(put_under(lease, cache?, key?, value?, None, ttl))
}

/// As `put_leased`, of a value of any type.
#[pg_extern]
fn put_any_leased(
    cache: Option<ServerText<'_>>,
    key: Option<&[u8]>,
    value: Option<AnyElement>,
    lease: Option<&[u8]>,
    ttl: Option<Interval>,
) -> Option<bool> {
    let (cache, key, value) = (cache?, key?, value?);
    let of_type = or_report(types::stored_type(value.oid()));
    let put = |bytes: &[u8]| put_under(lease, cache, key, bytes, Some(of_type), ttl);
    // SAFETY: PostgreSQL says that the datum is of this type.
    Some(unsafe { types::with_bytes(value.datum(), value.oid(), put) })
}

/// Stores a value under a lease; whether it did. Without one it does nothing.
fn put_under(
    lease: Option<&[u8]>,
    cache: ServerText<'_>,
    key: &[u8],
    value: &[u8],
    of_type: Option<StoredType>,
    ttl: Option<Interval>,
) -> bool {
    let Some(lease) = lease else { return false };
    let Some(lease) = Lease::from_bytes(lease) else {
        let given = lease.len();
        CacheError::Parameter(format!("a lease has 48 bytes, and 20 for each tag; this one has {given}")).report()
    };
    let DefinedCache { number, tenant, .. } = find(cache, Access::Write);
    let expiry = expiry(ttl);
    let rings = invalidations::rings(or_report(Catalog::open()));
    let is_hidden = invalidations::hides(number, key)
        || lease.tags.iter().any(|dependency| invalidations::hides_line(dependency.line));
    let bytes = or_report(Stored::compose(value, of_type, &lease.tags));
    let is_void = Cell::new(true);
    let put = |cache: &DefinedCache| {
        is_void.set(is_hidden || cache.check_of(key) != lease.check);
        // Asked only if the key has no value.
        let still = || {
            is_void.set(!rings.as_ref().is_some_and(|rings| lease.is_good(rings)));
            !is_void.get()
        };
        if is_void.get() { Ok(false) } else { cache.put_if_absent(key, &bytes, expiry, still) }
    };
    let stored = put_or_report(with_cache(cache, Access::Write, put));
    AdvisoryLock::new(Class::Lease, number, key).give_back();
    count(
        tenant,
        match stored {
            true => SqlCounter::LeaseFills,
            false if is_void.get() => SqlCounter::RefusedLease,
            false => SqlCounter::RefusedPresent,
        },
    );
    stored
}

#[pg_extern]
fn invalidate(cache: ServerText<'_>, key: &[u8]) {
    invalidate_target(cache, Target::Key(key));
}

#[pg_extern]
fn invalidate_all(cache: ServerText<'_>) {
    invalidate_target(cache, Target::All);
}

#[pg_extern]
fn invalidate_prefix(cache: ServerText<'_>, prefix: &[u8]) {
    invalidate_target(cache, Target::Prefix(prefix));
}

/// Its argument is a text, as those of the tags that values are put with.
#[pg_extern]
fn invalidate_tag(cache: ServerText<'_>, tag: &[u8]) {
    invalidate_target(cache, Target::Tag(tag));
}

fn invalidate_target(cache: ServerText<'_>, target: Target<'_>) {
    let definition = or_report(name_of(cache).and_then(Definition::find));
    or_report(definition.check(Access::Write));
    let catalog = or_report(Catalog::open());
    or_report(definition.restore_first(catalog));
    invalidations::invalidate(catalog, definition.number(), target);
}

/// Stores a value if the key has none; `None`, and nothing stored, if a tag is being invalidated.
#[pg_extern]
fn put_if_absent(
    cache: Option<ServerText<'_>>,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    ttl: Option<Interval>,
    tags: Option<Tags<'_>>,
) -> Option<bool> {
    let (cache, key, value) = (cache?, key?, value?);
    let expiry = expiry(ttl);
    let tags = PutTags::settle(find(cache, Access::Write).number, tags)?;
    let bytes = or_report(Stored::compose(value, None, tags.dependencies()));
    let put = |cache: &DefinedCache| (cache.put_if_absent(key, &bytes, expiry, || tags.still()), cache.tenant);
    let (stored, tenant) = with_cache(cache, Access::Write, put);
    let stored = put_or_report(stored);
    if tags.have_changed() {
        return None;
    }
    if !stored {
        count(tenant, SqlCounter::RefusedPresent);
    }
    Some(stored)
}

called_raw!(pg_finfo_invalidate_trigger_wrapper);

/// A trigger, for rows and for whole statements: invalidates the keys of the rows that were changed, before and after, or all.
/// Its arguments are a cache and the columns that make up its keys, as text, with colons between. Where the cache is missing
/// there is nothing to invalidate.
#[pg_guard]
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn invalidate_trigger_wrapper(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: PostgreSQL calls it with a call's data, whose context is a trigger's if it was called as one.
    unsafe {
        let context = (*fcinfo).context.cast::<pg_sys::TriggerData>();
        if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
            CacheError::Parameter("invalidate_trigger is for CREATE TRIGGER … EXECUTE FUNCTION".to_owned()).report();
        }
        let trigger = &*context;
        let arguments: Vec<&CStr> = (0..(*trigger.tg_trigger).tgnargs as usize)
            .map(|index| CStr::from_ptr(*(*trigger.tg_trigger).tgargs.add(index)))
            .collect();
        let Some((cache, columns)) = arguments.split_first() else {
            CacheError::Parameter("invalidate_trigger needs a cache, and the columns of its keys".to_owned()).report()
        };
        let is_of_row = trigger.tg_event & pg_sys::TRIGGER_EVENT_ROW != 0;
        let definition = std::str::from_utf8(cache.to_bytes()).ok().map(Definition::if_there);
        if let Some(definition) = definition.and_then(or_report)
            && let Some(catalog) = Catalog::existing().ok().flatten()
        {
            or_report(definition.check(Access::Write));
            or_report(definition.restore_first(catalog));
            if is_of_row && !columns.is_empty() {
                for row in [trigger.tg_trigtuple, trigger.tg_newtuple].into_iter().filter(|row| !row.is_null()) {
                    let key = key_of(row, (*trigger.tg_relation).rd_att, columns);
                    invalidations::invalidate(catalog, definition.number(), Target::Key(&key));
                }
            } else {
                invalidations::invalidate(catalog, definition.number(), Target::All);
            }
        }
        // What a trigger before a row returns goes on.
        pg_sys::Datum::from(if trigger.tg_newtuple.is_null() { trigger.tg_trigtuple } else { trigger.tg_newtuple })
    }
}

/// The key that a row has: its columns as text, in UTF-8.
///
/// # Safety
///
/// - The row has this description.
unsafe fn key_of(row: pg_sys::HeapTuple, description: pg_sys::TupleDesc, columns: &[&CStr]) -> Vec<u8> {
    let mut key = Vec::new();
    for (index, column) in columns.iter().enumerate() {
        // SAFETY: as the caller says; texts are palloc'd and NUL-terminated.
        let text = unsafe {
            let number = pg_sys::SPI_fnumber(description, column.as_ptr());
            if number == pg_sys::SPI_ERROR_NOATTRIBUTE {
                let column = encoding::name(column);
                CacheError::Parameter(format!("invalidate_trigger: the table has no column \"{column}\"")).report();
            }
            let text = pg_sys::SPI_getvalue(row, description, number);
            if text.is_null() {
                &[]
            } else {
                let bytes = CStr::from_ptr(text).to_bytes().len() as i32;
                CStr::from_ptr(pg_sys::pg_server_to_any(text, bytes, pg_sys::pg_enc::PG_UTF8 as i32)).to_bytes()
            }
        };
        if index > 0 {
            key.push(b':');
        }
        key.extend_from_slice(text);
    }
    key
}
