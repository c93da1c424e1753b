//! One key, or the keys of an array.
#![allow(unsafe_code)]

use std::time::Duration;

use pgrx::iter::TableIterator;
use pgrx::prelude::*;
use pgrx::{Array, PgMemoryContexts};

use super::bytea::Bytea;
use super::text::ServerText;
use super::with_cache;
use crate::Expiry;
use crate::engine::partition::Put;
use crate::pg::catalog::Catalog;
use crate::pg::definitions::{Access, DefinedCache};
use crate::pg::error::{CacheError, or_report};
use crate::pg::invalidations;
use crate::shared::bounded::PREFETCH_KEYS;

#[pg_extern(volatile, parallel_restricted)]
fn put(cache: ServerText<'_>, key: &[u8], value: &[u8]) -> bool {
    or_report(with_cache(cache, Access::Write, |cache| cache.put(key, value))) == Put::Inserted
}

/// A time to live: `None` is the cache's own, zero is for ever.
pub(super) fn expiry(ttl: Option<Interval>) -> Expiry {
    match ttl.map(|ttl| ttl.as_micros()) {
        None => Expiry::Default,
        Some(0) => Expiry::Never,
        Some(micros) => match u64::try_from(micros) {
            Ok(micros) => Expiry::After(Duration::from_micros(micros)),
            Err(_) => {
                let seconds = micros / 1_000_000;
                CacheError::Parameter(format!("ttl is {seconds} seconds: must not be negative")).report()
            }
        },
    }
}

/// Whether the current transaction has invalidated a key.
#[inline]
fn is_hidden(cache: &DefinedCache, key: &[u8]) -> bool {
    invalidations::hides_some() && invalidations::hides(cache.number, key)
}

/// The value of a key, for the current transaction.
#[inline]
pub(super) fn value_of(cache: &DefinedCache, key: &[u8]) -> Option<Bytea> {
    if is_hidden(cache, key) { None } else { Bytea::get(cache, key) }
}

/// With a time to live.
#[pg_extern(volatile, parallel_restricted)]
fn put_ttl(
    cache: Option<ServerText<'_>>,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    ttl: Option<Interval>,
) -> Option<bool> {
    let (cache, key, value) = (cache?, key?, value?);
    let expiry = expiry(ttl);
    Some(or_report(with_cache(cache, Access::Write, |cache| cache.put_with(key, value, expiry))) == Put::Inserted)
}

#[pg_extern(volatile, parallel_safe)]
fn get(cache: ServerText<'_>, key: &[u8]) -> Option<Bytea> {
    with_cache(cache, Access::Read, |cache| value_of(cache, key))
}

#[pg_extern(volatile, parallel_safe)]
fn contains(cache: ServerText<'_>, key: &[u8]) -> bool {
    with_cache(cache, Access::Read, |cache| !is_hidden(cache, key) && cache.contains(key))
}

#[pg_extern(volatile, parallel_restricted)]
fn remove(cache: ServerText<'_>, key: &[u8]) -> bool {
    with_cache(cache, Access::Write, |cache| {
        invalidations::void_leases(or_report(Catalog::open()), cache.number, Some(key));
        cache.discard(key)
    })
}

/// Looks the keys of an array up, in groups whose waits for memory overlap.
struct Lookups<'a, I> {
    name: ServerText<'a>,
    /// Those that are not in the group yet.
    keys: I,
    group: [&'a [u8]; PREFETCH_KEYS],
    len: usize,
    next: usize,
}

impl<'a, I: Iterator<Item = &'a [u8]>> Lookups<'a, I> {
    /// Takes the next keys into the group; `false` if there are none.
    fn fill(&mut self) -> bool {
        pgrx::check_for_interrupts!();
        self.next = 0;
        self.len = 0;
        for (place, key) in self.group.iter_mut().zip(&mut self.keys) {
            *place = key;
            self.len += 1;
        }
        with_cache(self.name, Access::Read, |cache| cache.prefetch(&self.group[..self.len]));
        self.len > 0
    }
}

impl<'a, I: Iterator<Item = &'a [u8]>> Iterator for Lookups<'a, I> {
    type Item = (&'a [u8], Bytea);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.next == self.len && !self.fill() {
                return None;
            }
            let key = self.group[self.next];
            self.next += 1;
            if let Some(value) = with_cache(self.name, Access::Read, |cache| value_of(cache, key)) {
                return Some((key, value));
            }
        }
    }
}

#[pg_extern(volatile, parallel_safe)]
fn get_many<'a>(
    cache: ServerText<'a>,
    keys: Array<'a, &'a [u8]>,
) -> TableIterator<'a, (name!(key, &'a [u8]), name!(value, Bytea))> {
    let keys = PgMemoryContexts::CurrentMemoryContext.leak_and_drop_on_delete(keys);
    // SAFETY: the current context is that of all calls for this set. It drops what it has in reverse order, so the array
    // outlives the iterator, which pgrx gives to it next.
    let keys: &'a Array<'a, &'a [u8]> = unsafe { &*keys };
    let keys = keys.iter().flatten();
    TableIterator::new(Lookups { name: cache, keys, group: [&[]; PREFETCH_KEYS], len: 0, next: 0 })
}
