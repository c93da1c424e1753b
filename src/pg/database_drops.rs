//! A cache goes with its database, at once.
//!
//! PostgreSQL tells `object_access_hook` of every database that is being dropped. The drop may still fail after that, so
//! the database is only noted then, and its caches are dropped when the transaction has committed: before it gives up
//! its lock on the database, which a backend needs that wants to connect to a new one of the same OID. So no new database
//! ever finds a cache of an old one.
//!
//! Not on a hot standby, where databases go by recovery, which calls no hook, and not where the backend that drops the
//! database has not loaded the library: then `create_cache` clears up (`Catalog::drop_orphans`).
#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};

use pgrx::{pg_guard, pg_sys};

use super::catalog::Catalog;

static PREVIOUS_HOOK: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Databases that the current transaction drops.
    static DROPPED: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
    static WATCHES_TRANSACTIONS: Cell<bool> = const { Cell::new(false) };
}

/// Installs the hook, once per library: for all processes while the postmaster loads its libraries, else for this one.
pub(super) fn watch() {
    // SAFETY: runs in the process's only thread while it loads libraries; the hook has the right type, and the one
    // installed before is kept to be called first.
    unsafe {
        let previous = pg_sys::object_access_hook.map_or(0, |hook| hook as usize);
        PREVIOUS_HOOK.store(previous, Ordering::Relaxed);
        pg_sys::object_access_hook = Some(on_object_access);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_object_access(
    access: pg_sys::ObjectAccessType::Type,
    class: pg_sys::Oid,
    object: pg_sys::Oid,
    sub_object: c_int,
    argument: *mut c_void,
) {
    // SAFETY: the address came from a hook of this type, 0 standing for none, which is `None`'s representation.
    let previous: pg_sys::object_access_hook_type =
        unsafe { std::mem::transmute::<usize, _>(PREVIOUS_HOOK.load(Ordering::Relaxed)) };
    if let Some(previous) = previous {
        // SAFETY: PostgreSQL would have called it with the same arguments, at this moment. It may raise an error.
        unsafe {
            pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| previous(access, class, object, sub_object, argument))
        };
    }
    if access == pg_sys::ObjectAccessType::OAT_DROP && class == pg_sys::DatabaseRelationId {
        if !WATCHES_TRANSACTIONS.replace(true) {
            // SAFETY: the callback has the right type and lives as long as the library.
            unsafe { pg_sys::RegisterXactCallback(Some(on_transaction_end), std::ptr::null_mut()) };
        }
        // Mapped now, where an error may be raised. Where there is no area, there is nothing to drop.
        if let Ok(Some(_)) = Catalog::existing() {
            DROPPED.with_borrow_mut(|dropped| dropped.push(object.to_u32()));
        }
    }
}

/// Raises nothing: after a commit that would be a PANIC.
#[pg_guard]
unsafe extern "C-unwind" fn on_transaction_end(event: pg_sys::XactEvent::Type, _argument: *mut c_void) {
    let ended = [pg_sys::XactEvent::XACT_EVENT_COMMIT, pg_sys::XactEvent::XACT_EVENT_ABORT];
    if ended.contains(&event) {
        let dropped = DROPPED.take();
        if event != pg_sys::XactEvent::XACT_EVENT_COMMIT {
            return;
        }
        if let Some(catalog) = Catalog::mapped() {
            dropped.into_iter().for_each(|database| catalog.drop_of_database(database));
        }
    }
}
