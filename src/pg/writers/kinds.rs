//! Which relations have rows that a query of another session can see.
//!
//! A writer of a table also holds locks on its indexes and sequences, on the partitioned tables above it, and on tables of
//! its own session. Those need no publication: they would fill the rings, and void what shares their lines. Nor does a
//! definition of the session's own, which may come and go a thousand times a second.
//!
//! What is known of a relation is kept in this process, for a relation's kind and persistence are looked up in a catalog.
//! Everything kept goes when any row of `pg_class` changes that this process is told of. So it is never of another
//! relation that has the same OID later: whoever locks that has first accepted the message of the drop.
//!
//! Not here: what has no rows for other reasons, such as a foreign table. No query over one is cached.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ffi::c_int;

use pgrx::{pg_guard, pg_sys};

/// Relations of which something is kept; a relation has one place.
const PLACES: usize = 256;

/// What a relation is to the queries of other sessions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Has rows that they can read: a table, a partition, a materialized view. Or unknown.
    Rows,
    /// Has none of its own: a view, an index, a sequence, a partitioned table.
    NoRows,
    /// Nothing: it is this session's alone.
    Temporary,
}

const KINDS: [Kind; 3] = [Kind::Rows, Kind::NoRows, Kind::Temporary];

thread_local! {
    /// Relation, shifted by two, and the place of its kind in [`KINDS`]; 0: nothing.
    static KNOWN: [Cell<u64>; PLACES] = const { [const { Cell::new(0) }; PLACES] };
    static IS_TOLD: Cell<bool> = const { Cell::new(false) };
}

/// What is known of a relation without a look into the catalogs.
pub(super) fn known(relation: u32) -> Option<Kind> {
    if relation < pg_sys::FirstNormalObjectId {
        return Some(Kind::NoRows); // of a catalog: no query over it is cached
    }
    let known = KNOWN.with(|known| known[relation as usize % PLACES].get());
    if known >> 2 != u64::from(relation) { None } else { KINDS.get((known & 3) as usize).copied() }
}

/// What a relation is, by a look into the catalogs where need be; unknown is one that is not there any more. May raise an
/// error; holding no LWLock, inside of a transaction.
pub(super) fn of(relation: u32) -> Kind {
    if let Some(kind) = known(relation) {
        return kind;
    }
    if !IS_TOLD.replace(true) {
        let cache = pg_sys::SysCacheIdentifier::RELOID as c_int;
        // SAFETY: the callback has the right type and lives as long as the library.
        unsafe { pg_sys::CacheRegisterSyscacheCallback(cache, Some(on_change), pg_sys::Datum::from(0)) };
    }
    let oid = pg_sys::Oid::from(relation);
    // SAFETY: lookups inside of a transaction; they give 0 for what is not there. A relation there is has a persistence.
    let (kind, is_temporary) = unsafe {
        let kind = pg_sys::get_rel_relkind(oid) as u8;
        (kind, kind != 0 && pg_sys::get_rel_persistence(oid) as u8 == pg_sys::RELPERSISTENCE_TEMP)
    };
    let kind = match kind {
        0 => return Kind::Rows,
        _ if is_temporary => Kind::Temporary,
        pg_sys::RELKIND_RELATION | pg_sys::RELKIND_MATVIEW => Kind::Rows,
        _ => Kind::NoRows,
    };
    KNOWN.with(|known| known[relation as usize % PLACES].set(u64::from(relation) << 2 | kind as u64));
    kind
}

#[pg_guard]
unsafe extern "C-unwind" fn on_change(_argument: pg_sys::Datum, _cache: c_int, _hash: u32) {
    KNOWN.with(|known| known.iter().for_each(|place| place.set(0)));
}
