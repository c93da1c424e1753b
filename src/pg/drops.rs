//! A cache goes with its database, and with its definition, at once.
//!
//! PostgreSQL tells `object_access_hook` of everything that is being dropped. The drop may still fail after that, so it is
//! only noted then, and the caches are dropped when the transaction has committed: of a database before the transaction
//! gives up its lock on it, which a backend needs that wants to connect to a new one of the same OID. So no new database
//! ever finds a cache of an old one.
//!
//! The other way round, a cache that was defined, and whose memory was made, by a transaction that does not commit goes at
//! its end: what defines it was never there.
//!
//! Not on a hot standby, where the drops of the primary call no hook; nor where the backend that drops has not loaded the
//! library; nor where a prepared transaction drops, which another backend ends: then `create_cache` clears up
//! (`Catalog::drop_orphans`).
#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_void};

use pgrx::{pg_guard, pg_sys};

use super::catalog::{CacheId, Catalog};
use super::handles::my_database;
use super::hooks::Previous;
use super::named_locks;

static PREVIOUS: Previous<pg_sys::object_access_hook_type> = Previous::new();

/// What one transaction does to caches.
#[derive(Default)]
struct Changes {
    /// Databases that it drops.
    databases: Vec<u32>,
    /// Definitions that it drops, and those of its own whose memory it has made.
    dropped: Vec<u64>,
    made: Vec<u64>,
    /// Definitions of which it alters whether the contents are kept, and what they say of that in the end.
    #[cfg(feature = "extension")]
    persistence: Vec<(u64, bool)>,
}

thread_local! {
    static CHANGES: RefCell<Changes> = RefCell::default();
    static WATCHES_TRANSACTIONS: Cell<bool> = const { Cell::new(false) };
}

/// The number of what a foreign table defines: an OID may be used again, the two of a table and of its row type at once
/// are not. 0 if there is no such table. A look into the catalogs.
pub(super) fn definition_of(relation: pg_sys::Oid) -> u64 {
    // SAFETY: a lookup inside of a transaction.
    let row_type = unsafe { pg_sys::get_rel_type_id(relation) };
    if row_type == pg_sys::InvalidOid {
        return 0;
    }
    u64::from(relation.to_u32()) << 32 | u64::from(row_type.to_u32())
}

/// The foreign table that has, or had, this number.
pub(super) fn relation_of(definition: u64) -> pg_sys::Oid {
    pg_sys::Oid::from((definition >> 32) as u32)
}

/// Whether what defined a cache is there. A look into the catalogs.
pub(super) fn is_defined(definition: u64) -> bool {
    definition_of(relation_of(definition)) == definition
}

/// Whether the current transaction has created a foreign table, or changed what `pg_class` says of it. A look into the catalogs.
#[cfg(feature = "extension")]
fn is_new_here(relation: pg_sys::Oid) -> bool {
    let is_new = |row: pg_sys::HeapTuple| {
        // SAFETY: a row of a table has a header.
        unsafe { pg_sys::TransactionIdIsCurrentTransactionId((*(*row).t_data).t_choice.t_heap.t_xmin) }
    };
    super::syscache::with_row(pg_sys::SysCacheIdentifier::RELOID, relation, is_new).unwrap_or(true)
}

/// Installs the hook, once per library: for all processes while the postmaster loads its libraries, else for this one.
pub(super) fn watch() {
    // SAFETY: runs in the process's only thread while it loads libraries.
    unsafe { PREVIOUS.install(&raw mut pg_sys::object_access_hook, Some(on_object_access)) };
}

/// Notes that the memory of a cache was made in this transaction. That of one which was defined before stays in any case.
#[cfg(feature = "extension")]
pub(super) fn note_made(definition: u64) {
    if !is_new_here(relation_of(definition)) {
        return;
    }
    note(|changes| changes.made.push(definition));
}

/// Notes that this transaction may alter whether the contents of a cache are kept.
#[cfg(feature = "extension")]
pub(super) fn note_persistence(definition: u64) {
    note(|changes| changes.persistence.push((definition, false)));
}

fn note(change: impl FnOnce(&mut Changes)) {
    if !WATCHES_TRANSACTIONS.replace(true) {
        // SAFETY: the callback has the right type and lives as long as the library.
        unsafe { pg_sys::RegisterXactCallback(Some(on_transaction_event), std::ptr::null_mut()) };
    }
    // Whoever drops waits for others, after the commit: what may fail about that comes first.
    named_locks::learn_to_wait();
    CHANGES.with_borrow_mut(change);
}

#[pg_guard]
unsafe extern "C-unwind" fn on_object_access(
    access: pg_sys::ObjectAccessType::Type,
    class: pg_sys::Oid,
    object: pg_sys::Oid,
    sub_object: c_int,
    argument: *mut c_void,
) {
    if let Some(previous) = PREVIOUS.get() {
        // SAFETY: PostgreSQL would have called it with the same arguments, at this moment. It may raise an error.
        unsafe {
            pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| previous(access, class, object, sub_object, argument))
        };
    }
    if access != pg_sys::ObjectAccessType::OAT_DROP || sub_object != 0 {
        return;
    }
    // Mapped now, where an error may be raised. Where there is no area, there is nothing to drop.
    if class == pg_sys::DatabaseRelationId {
        if let Ok(Some(_)) = Catalog::existing() {
            note(|changes| changes.databases.push(object.to_u32()));
        }
    } else if class == pg_sys::RelationRelationId
        && let Ok(Some(catalog)) = Catalog::existing()
    {
        let definition = definition_of(object);
        if definition != 0
            && (catalog.find(my_database(), CacheId::Definition(definition)).is_some() || has_image(definition))
        {
            note(|changes| changes.dropped.push(definition));
        }
    }
}

/// Whether a cache that is not in memory has an image.
fn has_image(_definition: u64) -> bool {
    #[cfg(feature = "extension")]
    return super::images::exists(_definition);
    #[cfg(not(feature = "extension"))]
    false
}

/// Raises nothing after a commit, where that would be a PANIC.
#[pg_guard]
unsafe extern "C-unwind" fn on_transaction_event(event: pg_sys::XactEvent::Type, _argument: *mut c_void) {
    use pg_sys::XactEvent::{
        XACT_EVENT_ABORT, XACT_EVENT_COMMIT, XACT_EVENT_PRE_COMMIT, XACT_EVENT_PRE_PREPARE, XACT_EVENT_PREPARE,
    };
    match event {
        // What a savepoint has taken back: the catalogs can be asked only now.
        // They are asked while nothing is borrowed: who is terminated there ends without unwinding, and the abort wants it.
        XACT_EVENT_PRE_COMMIT | XACT_EVENT_PRE_PREPARE => {
            let (mut dropped, made) = CHANGES.with_borrow(|changes| (changes.dropped.clone(), changes.made.clone()));
            dropped.retain(|&definition| !is_defined(definition));
            dropped.extend(made.into_iter().filter(|&definition| !is_defined(definition)));
            CHANGES.with_borrow_mut(|changes| changes.dropped = dropped);
            #[cfg(feature = "extension")]
            {
                let mut persistence = CHANGES.with_borrow(|changes| changes.persistence.clone());
                persistence.retain_mut(|(definition, persists)| {
                    let said = super::definitions::says_persist(*definition);
                    said.inspect(|said| *persists = *said).is_some()
                });
                CHANGES.with_borrow_mut(|changes| changes.persistence = persistence);
            }
        }
        XACT_EVENT_COMMIT => {
            let changes = CHANGES.take();
            let Changes { databases, dropped, .. } = changes;
            let Some(catalog) = Catalog::mapped() else { return };
            #[cfg(feature = "extension")]
            for (definition, persists) in changes.persistence {
                super::images::set_persists(catalog, definition, persists);
            }
            for database in databases {
                catalog.drop_of_database(database);
                #[cfg(feature = "extension")]
                super::images::remove_of_database(database);
            }
            drop_all(catalog, dropped);
        }
        XACT_EVENT_ABORT => {
            let Changes { made, .. } = CHANGES.take();
            let Some(catalog) = Catalog::mapped() else { return };
            drop_all(catalog, made);
        }
        XACT_EVENT_PREPARE => drop(CHANGES.take()),
        _ => {}
    }
}

fn drop_all(catalog: Catalog, definitions: Vec<u64>) {
    for definition in definitions {
        if let Some(cache) = catalog.find(my_database(), CacheId::Definition(definition)) {
            catalog.drop_or_disown(&cache);
        }
        #[cfg(feature = "extension")]
        super::images::remove(definition);
    }
}
