//! What tells whether a result is right: the commit rings; or, on a server that has none, nothing but its age, if the cache's
//! owner accepts that.
//!
//! Invariants: a server has one basis at a time, and results of the two are told apart (`Stored::is_unchecked`). Where the
//! rings are on, or will be in a moment, nothing goes by its age: so a promoted standby is exact from its first statement
//! on. A result that goes by its age ends with its time to live, for there always is one. And a transaction that has written
//! neither gets nor stores such a result: nothing tells what it has touched.
//!
//! *Types*: of a checked result a change of a type is noticed. Of an unchecked one it is not, and bytes of a row would be taken
//! for those of other columns. So rows of users' types are no part of one. All other types keep the form of their values
//! for as long as they exist, and their numbers, by which they are compared, go with them.
//!
//! Locking: none.
//!
//! Not here: what the lines say (`lines`), when the rings are on (`writers`).
#![allow(unsafe_code)]

use pgrx::pg_sys;

use super::lines::{is_sampling, is_serializable, seen, usable_rings};
use super::refusal::Refusal;
use super::rows::Column;
use super::wishes::Wishes;
use super::{made_of, plan};
use crate::pg::catalog::Catalog;
use crate::pg::definitions::{self, Access};
use crate::pg::refusals::Reason;
use crate::pg::snapshot::has_written;
use crate::pg::stored::Dependency;
use crate::pg::{types, writers};
use crate::rings::table::Rings;

/// What tells the running statement whether a result is right.
#[derive(Clone, Copy, Debug)]
pub(super) enum Basis {
    /// The lines of what it depends on.
    Rings(Rings),
    /// Its age. The lines tell of tags alone, and whether the cache was emptied.
    Age(Rings),
}

impl Basis {
    /// Of results of this cache, of which this was said; or why there is none, and the query runs.
    pub(super) fn find(cache: &str, wishes: &Wishes) -> Result<Basis, Refusal> {
        match usable_rings() {
            Ok(rings) => Ok(Basis::Rings(rings)),
            Err(refusal) if refusal.reason == Reason::Off && writers::stay_off() => Basis::age(cache, wishes, refusal),
            Err(refusal) => Err(refusal),
        }
    }

    /// `off`: why there are no rings.
    fn age(cache: &str, wishes: &Wishes, off: Refusal) -> Result<Basis, Refusal> {
        let accepts = definitions::find(cache, Access::Read)
            .is_ok_and(|cache| cache.results.accept_unchecked && wishes.ttl_in(&cache.results).is_some());
        // Finding the cache has made the area, where nobody had.
        let rings = Catalog::mapped().and_then(|catalog| catalog.area().rings());
        let Some(rings) = rings.filter(|_| accepts) else { return Err(off) };
        if is_sampling() {
            return Err(Refusal::sampling());
        }
        if is_serializable() {
            return Err(Refusal::serializable());
        }
        if has_written() {
            return Err(Refusal::written());
        }
        // SAFETY: reads the server's state.
        if !wishes.tags.is_empty() && unsafe { pg_sys::RecoveryInProgress() } {
            return Err(Refusal::new(Reason::Off, "on a standby nothing tells whether a tag was invalidated"));
        }
        Ok(Basis::Age(rings))
    }

    pub(super) fn is_age(self) -> bool {
        matches!(self, Basis::Age(_))
    }

    pub(super) fn rings(self) -> Rings {
        match self {
            Basis::Rings(rings) | Basis::Age(rings) => rings,
        }
    }

    /// What a result depends on that was made by the running statement; or why it cannot be stored.
    pub(super) fn dependencies(self, learned: &[Dependency]) -> Result<Vec<Dependency>, Refusal> {
        match self {
            Basis::Rings(rings) => seen(&rings, learned),
            Basis::Age(_) if has_written() => Err(Refusal::written()),
            Basis::Age(_) => Ok(Vec::new()),
        }
    }

    /// The first reason why a result with these columns is not kept.
    pub(super) fn refusal_of_columns(self, columns: &[Column]) -> Option<Refusal> {
        let refusal = plan::refusal_of_columns(columns);
        if self.is_age() { refusal.or_else(|| refusal_of_rows(columns)) } else { refusal }
    }
}

/// The first column that has rows of a user's type in it.
fn refusal_of_rows(columns: &[Column]) -> Option<Refusal> {
    let place = columns.iter().position(|column| has_rows(column.oid))?;
    let of_type = columns[place].oid;
    let text = format!("column {} is of type {}, which may change unseen", place + 1, types::name(of_type));
    Some(Refusal::of_type(Reason::Untyped, of_type, text))
}

/// Whether values of a type are rows of a user's type, or made of such.
fn has_rows(of_type: pg_sys::Oid) -> bool {
    // SAFETY: a lookup in the catalogs.
    let is_row = || unsafe { pg_sys::get_typtype(of_type) } as u8 == pg_sys::TYPTYPE_COMPOSITE;
    of_type.to_u32() >= pg_sys::FirstNormalObjectId && is_row() || made_of::parts(of_type).into_iter().any(has_rows)
}
