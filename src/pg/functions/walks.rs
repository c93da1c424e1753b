//! All entries of a cache: looked at, or taken out. No lock is held between steps.

use std::time::SystemTime;

use pgrx::iter::TableIterator;
use pgrx::prelude::*;

use super::access::{freshness, parse};
use super::text::ServerText;
use super::{find, not_null, number, timestamp};
use crate::engine::evicted::Evicted;
use crate::pg::bytea::Bytea;
use crate::pg::definitions::{Access, DefinedCache};
use crate::pg::error::CacheError;
use crate::pg::stored;
use crate::pg::tags::Freshness;
use crate::shared::drains::Drained;
use crate::shared::scan::Entries;

/// Entries that a drain takes out at a time, and bytes that it keeps for them; a larger entry gets room of its own.
const BATCH_ENTRIES: usize = 256;
const BATCH_BYTES: usize = 256 << 10;

#[pg_extern]
#[allow(clippy::type_complexity)] // the columns of a table
fn entries(
    cache: ServerText<'_>,
) -> TableIterator<
    'static,
    (
        name!(entry_id, i64),
        name!(key, Bytea),
        name!(key_bytes, i32),
        name!(value_bytes, i64),
        name!(generation, i64),
        name!(version, i64),
        name!(age, i64),
        name!(referenced, bool),
        name!(pinned, bool),
        name!(expires, Option<TimestampWithTimeZone>),
    ),
> {
    TableIterator::new(Entries::keys(find(cache, Access::Read)).map(|entry| {
        (
            entry.id.to_u64() as i64,
            Bytea::copy_of(&entry.key),
            entry.key.len() as i32,
            stored::shown_bytes(entry.value_len) as i64,
            i64::from(entry.id.generation().get()),
            i64::from(entry.version),
            i64::from(entry.age),
            entry.referenced,
            entry.pinned,
            entry
                .expires
                .and_then(|moment| timestamp(moment.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_micros() as u64)),
        )
    }))
}

/// Takes entries out, one batch after the other: of each partition as many as it had when its turn came.
struct Drain {
    cache: DefinedCache,
    /// The next partition, and what may still be taken out of the one before.
    partition: usize,
    left_in_partition: usize,
    left: usize,
    batch: Evicted,
    next: usize,
}

impl Drain {
    /// Takes the next entries out; `false` when there are no more.
    fn fill(&mut self) -> bool {
        self.batch = Evicted::default();
        self.next = 0;
        make_room(&mut self.batch, BATCH_ENTRIES, BATCH_BYTES);
        loop {
            pgrx::check_for_interrupts!();
            let limit = self.left_in_partition.min(self.left).min(BATCH_ENTRIES);
            if limit == 0 {
                if self.left == 0 || self.partition == self.cache.partition_count() {
                    return false;
                }
                self.left_in_partition = self.cache.partition_len(self.partition) as usize;
                self.partition += 1;
                continue;
            }
            match self.cache.drain_within(self.partition - 1, limit, &mut self.batch) {
                Drained::Entries(count) => {
                    self.left_in_partition -= count;
                    self.left -= count;
                    return true;
                }
                Drained::Nothing => self.left_in_partition = 0,
                Drained::Needs(bytes) => make_room(&mut self.batch, 1, bytes),
            }
        }
    }
}

fn make_room(batch: &mut Evicted, entries: usize, bytes: usize) {
    if batch.try_reserve(entries, bytes).is_err() {
        CacheError::OutOfMemory(bytes).report();
    }
}

impl Iterator for Drain {
    type Item = (Bytea, Bytea);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.next == self.batch.len() && !self.fill() {
                return None;
            }
            let (key, bytes) = self.batch.get(self.next);
            self.next += 1;
            let stored = parse(bytes);
            // One whose tag was invalidated is no entry any more. A result of a query is for the role that has asked it.
            if !stored.is_result && freshness(&stored) == Freshness::Current {
                return Some((Bytea::copy_of(key), Bytea::copy_of(stored.value)));
            }
        }
    }
}

#[pg_extern]
fn drain(
    cache: Option<ServerText<'_>>,
    max_entries: Option<i64>,
) -> TableIterator<'static, (name!(key, Bytea), name!(value, Bytea))> {
    let cache = find(not_null("cache", cache), Access::ReadAndWrite);
    let left = max_entries.map_or(usize::MAX, |count| number("max_entries", count));
    TableIterator::new(Drain { cache, partition: 0, left_in_partition: 0, left, batch: Evicted::default(), next: 0 })
}
