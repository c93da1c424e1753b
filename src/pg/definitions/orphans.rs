//! Caches that nobody can reach any more: of databases that are gone, and of definitions that went without anybody's notice
//! (on a standby, or where the library was not loaded).
#![allow(unsafe_code)]

use pgrx::pg_sys;

use crate::pg::catalog::Catalog;
use crate::pg::{drops, handles, images};

/// Drops the caches that nobody can reach any more: of databases that are gone, and of definitions of this database that
/// are gone while nobody is about to make or drop them.
pub(in crate::pg) fn drop_orphans(catalog: Catalog) {
    catalog.drop_orphans(|cache| is_orphan(cache.database, cache.definition));
    images::remove_where(|database, definition| is_orphan(database, Some(definition)));
}

fn is_orphan(database: u32, definition: Option<u64>) -> bool {
    match definition {
        // SAFETY: a lookup in the catalogs; the name is palloc'd and goes with the memory context.
        _ if database != handles::my_database() => unsafe {
            pg_sys::get_database_name(pg_sys::Oid::from(database)).is_null()
        },
        Some(definition) => {
            let relation = drops::relation_of(definition);
            // Who has created or dropped it, and has not committed, holds a lock on it.
            // SAFETY: takes a lock, or does not, and gives it back.
            unsafe {
                let lock = pg_sys::AccessShareLock as i32;
                let free = !drops::is_defined(definition) && pg_sys::ConditionalLockRelationOid(relation, lock);
                free && {
                    pg_sys::UnlockRelationOid(relation, lock);
                    !drops::is_defined(definition)
                }
            }
        }
        None => false,
    }
}
