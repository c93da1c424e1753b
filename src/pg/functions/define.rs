//! Caches created, altered, renamed and dropped, and who may use them.

use pgrx::prelude::*;

use super::text::ServerText;
use super::{duration, name_of, names, not_null};
use crate::pg::catalog::Catalog;
use crate::pg::definitions::options::Options;
use crate::pg::definitions::statements::{self, Change, Written};
use crate::pg::error::{CacheError, or_report};
use crate::pg::{definitions, settings};

/// A cache takes this part of all memory if it is not told how much.
const DEFAULT_PART: usize = 8;

/// Of the script of release 0.1.0.
#[pg_extern]
fn create_cache() {
    CacheError::OldScript.report()
}

/// Numbers and texts as they are written in a definition; those that were not given are left out.
struct Given<'a> {
    bytes: Option<i64>,
    max_entries: Option<i64>,
    max_entry_bytes: Option<i32>,
    policy: Option<ServerText<'a>>,
    partitions: Option<i32>,
    buckets: Option<i64>,
    slab_bytes: Option<i32>,
    ttl: Option<Interval>,
    persist: Option<bool>,
    grace: Option<Interval>,
    accept_clock: Option<bool>,
}

impl Given<'_> {
    fn written(self) -> Written {
        let number = |name, value: Option<i64>| value.map(|value| (name, value.to_string()));
        [
            number("bytes", self.bytes),
            number("max_entries", self.max_entries),
            number("max_entry_bytes", self.max_entry_bytes.map(i64::from)),
            self.policy.map(|policy| ("policy", policy.shown())),
            number("partitions", self.partitions.map(i64::from)),
            number("buckets", self.buckets),
            number("slab_bytes", self.slab_bytes.map(i64::from)),
            self.ttl.map(|ttl| ("ttl", written_seconds("ttl", ttl))),
            self.persist.map(|persist| ("persist", persist.to_string())),
            self.grace.map(|grace| ("grace", written_seconds("grace", grace))),
            self.accept_clock.map(|accept| ("accept_clock", accept.to_string())),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// A time as a definition has it.
fn written_seconds(name: &str, time: Interval) -> String {
    let time = duration(name, time);
    match time.subsec_micros() {
        0 => time.as_secs().to_string(),
        micros => format!("{}.{micros:06}", time.as_secs()),
    }
}

#[pg_extern]
#[allow(clippy::too_many_arguments)] // one SQL parameter each, all but the first with a default
fn define_cache(
    cache: Option<ServerText<'_>>,
    bytes: Option<i64>,
    max_entries: Option<i64>,
    max_entry_bytes: Option<i32>,
    policy: Option<ServerText<'_>>,
    partitions: Option<i32>,
    buckets: Option<i64>,
    slab_bytes: Option<i32>,
    ttl: Option<Interval>,
    persist: Option<bool>,
    grace: Option<Interval>,
    accept_clock: Option<bool>,
    if_not_exists: Option<bool>,
) -> bool {
    let cache = not_null("cache", cache);
    let name = new_name(cache);
    let catalog = or_report(Catalog::open());
    definitions::drop_orphans(catalog);
    let bytes = match (bytes, max_entries, max_entry_bytes) {
        (None, None, None) => Some((catalog.bytes() / DEFAULT_PART) as i64),
        _ => bytes,
    };
    let mut given = Given {
        bytes,
        max_entries,
        max_entry_bytes,
        policy,
        partitions,
        buckets,
        slab_bytes,
        ttl,
        persist,
        grace,
        accept_clock,
    }
    .written();
    // What is a default today stays what it is: the definition may be read by a server with others.
    let defaults = [
        ("policy", Some(settings::default_policy().name().to_owned())),
        ("partitions", settings::default_partitions().map(|count| count.to_string())),
        ("buckets", settings::default_buckets().map(|count| count.to_string())),
        ("slab_bytes", settings::default_slab_bytes().map(|bytes| bytes.to_string())),
    ];
    for (name, value) in defaults {
        if let Some(value) = value
            && given.iter().all(|(given, _)| *given != name)
        {
            given.push((name, value));
        }
    }
    let created = or_report(statements::create(name, &given));
    if !created && if_not_exists != Some(true) {
        CacheError::Exists(cache.shown()).report();
    }
    created
}

#[pg_extern]
#[allow(clippy::too_many_arguments)] // one SQL parameter each, all but the first with a default
fn alter_cache(
    cache: Option<ServerText<'_>>,
    bytes: Option<i64>,
    max_entries: Option<i64>,
    max_entry_bytes: Option<i32>,
    policy: Option<ServerText<'_>>,
    partitions: Option<i32>,
    buckets: Option<i64>,
    slab_bytes: Option<i32>,
    ttl: Option<Interval>,
    persist: Option<bool>,
    grace: Option<Interval>,
    accept_clock: Option<bool>,
    reset: Option<Vec<Option<String>>>,
) {
    let name = or_report(name_of(not_null("cache", cache)));
    let mut changes: Vec<(&'static str, Option<String>)> = Vec::new();
    let known = definitions::options::NAMES;
    for option in reset.unwrap_or_default().into_iter().flatten() {
        match known.iter().find(|known| **known == option) {
            Some(known) => changes.push((known, None)),
            None => {
                let known = known.join(", ");
                CacheError::Parameter(format!("a cache has no option \"{option}\"; it has {known}")).report()
            }
        }
    }
    // One kind of capacity takes the place of the other.
    if bytes.is_some() {
        changes.extend([("max_entries", None), ("max_entry_bytes", None)]);
    } else if max_entries.is_some() {
        changes.push(("bytes", None));
    }
    let given = Given {
        bytes,
        max_entries,
        max_entry_bytes,
        policy,
        partitions,
        buckets,
        slab_bytes,
        ttl,
        persist,
        grace,
        accept_clock,
    }
    .written();
    changes.retain(|(name, _)| given.iter().all(|(given, _)| given != name));
    changes.extend(given.into_iter().map(|(name, value)| (name, Some(value))));
    or_report(statements::alter(name, &changes));
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
