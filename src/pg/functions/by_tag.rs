//! Where the bytes of a cache are, by tags: a walk over all entries, when somebody asks.
//!
//! A value keeps the lines of its tags, not their names. So the names are asked for, and tags that share a line are
//! counted alike, each with the values of all of them.

use hashbrown::HashMap;
use pgrx::iter::TableIterator;
use pgrx::prelude::*;

use super::access::{Tags, parse, peek};
use super::find;
use super::prefixes::Sum;
use super::text::{ServerText, ShownText};
use crate::pg::catalog::Catalog;
use crate::pg::definitions::Access;
use crate::pg::error::or_report;
use crate::pg::invalidations::Target;
use crate::rings::table::LineIndex;
use crate::shared::scan::Entries;

#[pg_extern]
fn bytes_by_tag(
    cache: ServerText<'_>,
    tags: Tags<'_>,
) -> TableIterator<'static, (name!(tag, ShownText), name!(entries, i64), name!(bytes, i64))> {
    let cache = find(cache, Access::Read);
    let number = cache.number;
    let rings = or_report(Catalog::open()).area().rings();
    // Without lines no value has a tag.
    let line_of = |tag: &[u8]| rings.as_ref().map(|rings| rings.line_of(Target::Tag(tag).hash(number)));
    let tags: Vec<(Vec<u8>, Option<LineIndex>)> =
        tags.iter().flatten().map(|tag| (tag.to_vec(), line_of(tag))).collect();
    let mut sums: HashMap<u32, Sum> =
        tags.iter().filter_map(|(_, line)| line.map(|line| (line.get(), Sum::default()))).collect();
    // Each step takes a lock, and asks for interrupts before.
    let mut room = Vec::new();
    for entry in Entries::keys(&*cache) {
        let count = |bytes: &[u8]| {
            let stored = parse(bytes);
            // What a query's result depends on is no tag.
            if stored.is_result {
                return;
            }
            let mut lines: Vec<u32> = stored.dependencies().map(|dependency| dependency.line.get()).collect();
            lines.sort_unstable();
            lines.dedup();
            for line in lines {
                if let Some(sum) = sums.get_mut(&line) {
                    sum.add(entry.key.len() + stored.value.len());
                }
            }
        };
        // It may be gone by now.
        _ = peek(&cache, &entry.key, &mut room, count);
    }
    TableIterator::new(tags.into_iter().map(move |(tag, line)| {
        let sum = line.and_then(|line| sums.get(&line.get()).copied()).unwrap_or_default();
        (ShownText(tag), sum.entries as i64, sum.bytes as i64)
    }))
}
