//! Where the bytes of a cache are, by the beginnings of its keys: a walk over all entries, when somebody asks.
//!
//! What it needs is bounded, whatever the keys are: beyond so many prefixes the others are one.

use hashbrown::HashMap;
use pgrx::iter::TableIterator;
use pgrx::prelude::*;

use super::access::{parse, peek};
use super::text::ServerText;
use super::{find, not_null, number};
use crate::pg::bytea::Bytea;
use crate::pg::definitions::Access;
use crate::pg::error::CacheError;
use crate::shared::scan::Entries;

/// Prefixes that are told apart, and their bytes.
const MAX_PREFIXES: usize = 10_000;
const MAX_PREFIX_BYTES: usize = 16 << 20;

/// Where a prefix ends.
enum End<'a> {
    /// Behind the first delimiter. A key without has an empty prefix.
    Delimiter(&'a [u8]),
    /// After so many bytes.
    Length(usize),
}

impl End<'_> {
    fn prefix_of<'k>(&self, key: &'k [u8]) -> &'k [u8] {
        match self {
            End::Length(bytes) => &key[..key.len().min(*bytes)],
            End::Delimiter(delimiter) => {
                let start = key.windows(delimiter.len()).position(|window| window == *delimiter);
                &key[..start.map_or(0, |start| start + delimiter.len())]
            }
        }
    }
}

/// Entries, and the bytes of their keys and values.
#[derive(Clone, Copy, Default)]
pub(super) struct Sum {
    pub(super) entries: u64,
    pub(super) bytes: u64,
}

impl Sum {
    pub(super) fn add(&mut self, bytes: usize) {
        self.entries += 1;
        self.bytes += bytes as u64;
    }
}

#[derive(Default)]
struct Sums {
    by_prefix: HashMap<Vec<u8>, Sum>,
    prefix_bytes: usize,
    /// Of prefixes beyond the bound.
    others: Sum,
}

impl Sums {
    fn add(&mut self, prefix: &[u8], bytes: usize) {
        if let Some(sum) = self.by_prefix.get_mut(prefix) {
            return sum.add(bytes);
        }
        if self.by_prefix.len() == MAX_PREFIXES || self.prefix_bytes + prefix.len() > MAX_PREFIX_BYTES {
            return self.others.add(bytes);
        }
        self.prefix_bytes += prefix.len();
        self.by_prefix.entry(prefix.to_vec()).or_default().add(bytes);
    }

    /// Most bytes first; those beyond the bound last.
    fn into_rows(self) -> impl Iterator<Item = (Option<Vec<u8>>, Sum)> {
        let mut rows: Vec<_> = self.by_prefix.into_iter().map(|(prefix, sum)| (Some(prefix), sum)).collect();
        rows.sort_unstable_by(|(one, a), (other, b)| b.bytes.cmp(&a.bytes).then_with(|| one.cmp(other)));
        let others = (self.others.entries > 0).then_some((None, self.others));
        rows.into_iter().chain(others)
    }
}

#[pg_extern]
fn bytes_by_prefix(
    cache: Option<ServerText<'_>>,
    delimiter: Option<&[u8]>,
    length: Option<i32>,
) -> TableIterator<'static, (name!(prefix, Option<Bytea>), name!(entries, i64), name!(bytes, i64))> {
    let cache = find(not_null("cache", cache), Access::Read);
    let end = match (delimiter, length) {
        (None, None) => End::Delimiter(b":"),
        (Some([]), None) => CacheError::Parameter("delimiter is empty: give one, or a length".to_owned()).report(),
        (Some(delimiter), None) => End::Delimiter(delimiter),
        (None, Some(length)) => End::Length(number("length", length)),
        (Some(_), Some(_)) => {
            CacheError::Parameter("give a delimiter or a length, not both".to_owned()).report();
        }
    };
    let (mut sums, mut room) = (Sums::default(), Vec::new());
    // Each step takes a lock, and asks for interrupts before.
    for entry in Entries::keys(&*cache) {
        // How much of it is the value is known to its end only. It may be gone by now.
        if let Some(bytes) = peek(&cache, &entry.key, &mut room, |bytes| parse(bytes).value.len()) {
            sums.add(end.prefix_of(&entry.key), entry.key.len() + bytes);
        }
    }
    let row = |(prefix, Sum { entries, bytes }): (Option<Vec<u8>>, Sum)| {
        (prefix.map(|prefix| Bytea::copy_of(&prefix)), entries as i64, bytes as i64)
    };
    TableIterator::new(sums.into_rows().map(row))
}
