//! Results that are kept, for who looks at them; and what is counted of their queries.
//!
//! A hit raises one counter in shared memory, which a result does not have: it is copied without a lock, and may be moved or
//! replaced meanwhile. So the counters are beside (`tallies`), by query, and go on when the result is made anew.
//!
//! What made a result outdated is asked when that is found: the first line that tells more than the result has noted. A line
//! has no name; the relations of the result are tried, and what every result depends on. What is left is a name or a type.

use pgrx::pg_sys;

use super::found::freshness;
use super::key::{Key, StoredUnder};
use super::rows::Rows;
use crate::pg::catalog::Catalog;
use crate::pg::handles::my_database;
use crate::pg::snapshot::ActiveSnapshot;
use crate::pg::stored::{Dependency, Stored};
use crate::pg::tags::Freshness;
use crate::pg::tallies::{Cause, QueryName, Tallies, Tally};
use crate::rings::key::DependencyKey;
use crate::rings::table::Rings;

fn tallies() -> Option<Tallies<'static>> {
    Catalog::mapped()?.area().tallies()
}

fn name(cache: u64, under: &StoredUnder) -> QueryName {
    let hash = under.last_chunk::<16>().expect("the hash of the key is at the end");
    QueryName::new(cache, u128::from_le_bytes(*hash))
}

/// Counts that a result was served, from the cache of this number.
#[inline]
pub(super) fn count_hit(cache: u64, under: &StoredUnder) {
    if let Some(tallies) = tallies() {
        tallies.count_hit(name(cache, under));
    }
}

/// Counts that a result was stored.
pub(super) fn count_fill(cache: u64, under: &StoredUnder) {
    if let Some(tallies) = tallies() {
        tallies.count_fill(name(cache, under));
    }
}

/// Notes that a result was found outdated, and by what.
pub(super) fn note_outdated(cache: u64, under: &StoredUnder, result: &[u8]) {
    let Some(tallies) = tallies() else { return };
    if let Some(cause) = cause(result) {
        tallies.note_outdated(name(cache, under), cause);
    }
}

/// What has made a result outdated for the running statement.
fn cause(result: &[u8]) -> Option<Cause> {
    let stored = Stored::parse(result)?;
    let rows = Rows::parse(stored.value)?;
    let rings = Catalog::mapped()?.area().rings()?;
    let snapshot = ActiveSnapshot::get()?;
    let is_redefined = |dependency: &Dependency| rings.definitions(dependency.line) != Some(dependency.definitions);
    if stored.dependencies().all(|dependency| is_redefined(&dependency)) {
        return Some(Cause::Switch);
    }
    let is_written = |Dependency { line, definitions, publications }: &Dependency| {
        rings.ver_of_relation(&snapshot, *line, *definitions).is_some_and(|seen| seen.get() > *publications)
    };
    let is_moved = |dependency: &Dependency| is_redefined(dependency) || is_written(dependency);
    let moved = stored.dependencies().find(is_moved)?;
    Some(named(&rings, &rows, &moved, is_redefined(&moved)))
}

fn named(rings: &Rings, rows: &Rows<'_>, moved: &Dependency, is_redefined: bool) -> Cause {
    let database = my_database();
    let is_line_of = |key: DependencyKey<'_>| rings.line_of(key.hash()) == moved.line;
    let is_of = |relation: &pg_sys::Oid| is_line_of(DependencyKey::Relation { database, relation: relation.to_u32() });
    match rows.relations().find(is_of) {
        Some(relation) if is_redefined => Cause::Definition(relation.to_u32()),
        Some(relation) => Cause::Rows(relation.to_u32()),
        None if is_line_of(DependencyKey::Code { database }) => Cause::Code,
        None if is_line_of(DependencyKey::Roles) => Cause::Roles,
        None => Cause::Names,
    }
}

/// A result that is kept.
pub(in crate::pg) struct KeptQuery {
    /// As the session had it that made the result.
    pub(in crate::pg) text: Vec<u8>,
    pub(in crate::pg) role: pg_sys::Oid,
    pub(in crate::pg) rows: u64,
    pub(in crate::pg) fill_micros: u64,
    /// In microseconds since 1970.
    pub(in crate::pg) made_us: u64,
    /// Whether the running statement would be served with it.
    pub(in crate::pg) is_current: bool,
    pub(in crate::pg) relations: Vec<pg_sys::Oid>,
    /// `None` if there was no place for it.
    pub(in crate::pg) tally: Option<Tally>,
}

/// Whether a result may be stored under this key.
pub(in crate::pg) fn may_be_result(key: &[u8]) -> bool {
    key.starts_with(&Key::PREFIX) && key.len() == size_of::<StoredUnder>()
}

/// What an entry of the cache of this number has; `None` if it is no result.
pub(in crate::pg) fn kept_query(cache: u64, key: &[u8], value: &[u8]) -> Option<KeptQuery> {
    let under = StoredUnder::try_from(key).ok()?;
    let stored = Stored::parse(value).filter(|stored| stored.is_result)?;
    let rows = Rows::parse(stored.value)?;
    let (role, text) = Key::parts(rows.key)?;
    Some(KeptQuery {
        text: text.unwrap_or(rows.text).to_vec(),
        role,
        rows: rows.count,
        fill_micros: rows.fill_micros,
        made_us: rows.made_us,
        is_current: freshness(&stored) == Freshness::Current,
        relations: rows.relations().collect(),
        tally: tallies().and_then(|tallies| tallies.get(name(cache, &under))),
    })
}

/// Begins to count the queries of the cache of this number anew.
pub(in crate::pg) fn reset(cache: u64) {
    if let Some(tallies) = tallies() {
        tallies.reset(cache);
    }
}
