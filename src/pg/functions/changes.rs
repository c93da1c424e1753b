//! What the query cache knows of a relation: how often it was written, and its definition changed.
#![allow(unsafe_code)]

use pgrx::iter::TableIterator;
use pgrx::prelude::*;

use crate::pg::catalog::Catalog;
use crate::pg::error::or_report;
use crate::pg::handles::my_database;
use crate::pg::snapshot::ActiveSnapshot;
use crate::rings::key::DependencyKey;
use crate::rings::switch::State;
use crate::rings::table::{LineIndex, Rings};

/// No row while publications are off, or about to be on.
#[pg_extern]
#[allow(clippy::type_complexity)] // the columns of a table
fn changes(
    relation: pg_sys::Oid,
) -> TableIterator<
    'static,
    (
        name!(line, i32),
        name!(writes, i64),
        name!(seen, Option<i64>),
        name!(definitions, i64),
        name!(code, i64),
        name!(roles, i64),
    ),
> {
    let rings = or_report(Catalog::existing()).and_then(|catalog| catalog.area().rings());
    let rings = rings.filter(|rings| rings.relations_state() == State::On);
    // SAFETY: compares with a list of PostgreSQL's.
    let database = if unsafe { pg_sys::IsSharedRelation(relation) } { 0 } else { my_database() };
    TableIterator::new(rings.into_iter().map(move |rings| {
        let line = rings.line_of(DependencyKey::Relation { database, relation: relation.to_u32() }.hash());
        let changes = |key: DependencyKey<'_>| rings.changes(rings.line_of(key.hash())) as i64;
        (
            line.get() as i32,
            rings.publications(line).get() as i64,
            seen(rings, line),
            rings.changes(line) as i64,
            changes(DependencyKey::Code { database: my_database() }),
            changes(DependencyKey::Roles),
        )
    }))
}

/// How many of a line's publications the running statement sees, if the line tells. Two statements with the same number
/// and the same definitions find the same rows, but for what they have written themselves.
fn seen(rings: Rings, line: LineIndex) -> Option<i64> {
    let definitions = rings.definitions(line)?;
    rings.ver_of_relation(&ActiveSnapshot::get()?, line, definitions).map(|seen| seen.get() as i64)
}
