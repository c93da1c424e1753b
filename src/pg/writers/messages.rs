//! What the current transaction's invalidation messages say that it changes.
//!
//! PostgreSQL makes them for every row of a catalog that it writes, and of relations wherever their definition changes: so
//! whatever may change a plan is among them, whoever did it. It keeps them until the commit, when it sends them to all
//! other backends, and has a function that gives them to who makes the commit record, at every `wal_level`. It only
//! copies them. In version 14 a second call gives them twice, so the commit record has them twice: that costs a standby
//! some work, and changes nothing.
//!
//! ```text
//! message                                      key
//! a relation                                   the relation; also published, as if rows had changed
//! a row of pg_class by name, of pg_type        the entry of that catalog cache
//! a row of a catalog of roles                  the roles
//! a catalog that all databases share           the roles: all results depend on them
//! a row of a catalog about tables, statistics,
//!   publications, or what no query reads       none: what matters of it comes with a message of the relation
//! everything else                              the code of the database
//! ```
//!
//! Not here: messages that are sent at once (changes in place, of a file's size): they change no definition.
#![allow(unsafe_code)]

use pgrx::pg_sys::{self, SharedInvalidationMessage, SysCacheIdentifier};

use crate::pg::versions;
use crate::rings::key::DependencyKey;

/// Calls `found` with the key of each. Inside of a transaction, at its outermost level. May raise an error.
pub(super) fn walk(mut found: impl FnMut(DependencyKey<'static>)) {
    let (mut messages, mut is_of_init_file) = (std::ptr::null_mut(), false);
    // SAFETY: both are written to; what they point to lives as long as the transaction.
    let all: &[SharedInvalidationMessage] = unsafe {
        let count = pg_sys::xactGetCommittedInvalidationMessages(&mut messages, &mut is_of_init_file);
        if count <= 0 { &[] } else { std::slice::from_raw_parts(messages, count as usize) }
    };
    all.iter().filter_map(key).for_each(&mut found);
    // SAFETY: what the call above has given, of which nothing is used any more.
    unsafe { versions::free_messages(messages) };
}

fn key(message: &SharedInvalidationMessage) -> Option<DependencyKey<'static>> {
    // SAFETY: all members of the union start with `id`, and it says which one it is.
    unsafe {
        match i32::from(message.id) {
            pg_sys::SHAREDINVALRELCACHE_ID => Some(of_relation(message.rc.dbId, message.rc.relId)),
            pg_sys::SHAREDINVALCATALOG_ID => Some(code(message.cat.dbId)),
            pg_sys::SHAREDINVALRELMAP_ID => Some(code(message.rm.dbId)),
            // Files, snapshots of catalogs, subscribers of changes.
            id if id < 0 => None,
            cache => of_catalog_cache(cache as u32, message.cc.dbId, message.cc.hashValue),
        }
    }
}

fn of_relation(database: pg_sys::Oid, relation: pg_sys::Oid) -> DependencyKey<'static> {
    if relation == pg_sys::InvalidOid {
        return code(database); // all relations
    }
    DependencyKey::Relation { database: database.to_u32(), relation: relation.to_u32() }
}

fn code(database: pg_sys::Oid) -> DependencyKey<'static> {
    if database == pg_sys::InvalidOid {
        return DependencyKey::Roles;
    }
    DependencyKey::Code { database: database.to_u32() }
}

/// A row of the catalog behind one of PostgreSQL's catalog caches. What is not named here is code.
fn of_catalog_cache(cache: u32, database: pg_sys::Oid, hash: u32) -> Option<DependencyKey<'static>> {
    use SysCacheIdentifier as Cache;
    match cache {
        // Each change of them that matters comes with a message of the relation; statistics change no result.
        Cache::RELOID | Cache::ATTNAME | Cache::ATTNUM | Cache::INDEXRELID | Cache::PARTRELID | Cache::RULERELNAME => {
            None
        }
        Cache::CONSTROID | Cache::SEQRELID => None,
        Cache::STATRELATTINH | Cache::STATEXTOID | Cache::STATEXTNAMENSP | Cache::STATEXTDATASTXOID => None,
        Cache::EVENTTRIGGERNAME | Cache::EVENTTRIGGEROID => None,
        Cache::PUBLICATIONNAME | Cache::PUBLICATIONOID | Cache::PUBLICATIONREL | Cache::PUBLICATIONRELMAP => None,
        Cache::SUBSCRIPTIONNAME | Cache::SUBSCRIPTIONOID | Cache::SUBSCRIPTIONRELMAP => None,
        Cache::REPLORIGIDENT | Cache::REPLORIGNAME => None,
        Cache::RELNAMENSP | Cache::TYPEOID | Cache::TYPENAMENSP => {
            Some(DependencyKey::CatalogEntry { database: database.to_u32(), cache, hash })
        }
        _ => Some(code(database)),
    }
}
