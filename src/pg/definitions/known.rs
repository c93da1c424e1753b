//! The caches that this backend has looked up, with what the current role may do, until PostgreSQL says that something about
//! definitions or roles has changed.
//!
//! Then all of them are looked up anew: a change is rare. What is known is asked only for the slot's life, which is one load.
//!
//! Not here: how memory is found and made (`memory`).
#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};

use hashbrown::HashMap;
use pgrx::{pg_guard, pg_sys};

use super::{Access, DefinedCache, Definition, current_role, unless_dropped};
use crate::pg::catalog::{Catalog, Listing};
use crate::pg::error::CacheError;

/// A cache that this backend has looked up.
struct Known {
    relation: pg_sys::Oid,
    listing: Listing,
    cache: DefinedCache,
    /// The role that was asked about last, and what it may do.
    role: pg_sys::Oid,
    allowed: u64,
}

thread_local! {
    static KNOWN: RefCell<HashMap<String, Known>> = RefCell::default();
    /// Something has changed: what is known may be wrong.
    static STALE: Cell<bool> = const { Cell::new(false) };
    static WATCHES_CHANGES: Cell<bool> = const { Cell::new(false) };
}

/// The cache of this name, for a role that may do this with it. Made, if its memory is not there.
///
/// # Errors
///
/// No cache is defined by this name, the current role may not, or there is no memory for it.
pub(in crate::pg) fn find(name: &str, access: Access) -> Result<DefinedCache, CacheError> {
    watch_changes();
    if STALE.replace(false) {
        KNOWN.with_borrow_mut(HashMap::clear);
    }
    let known = KNOWN.with_borrow(|known| {
        let known = known.get(name)?;
        let role = current_role();
        let may = known.role == role && known.allowed & access.mask() == access.mask();
        (may && Catalog::mapped()?.has(&known.listing)).then(|| known.cache.clone())
    });
    match known {
        Some(cache) => Ok(cache),
        None => look_up(name, access),
    }
}

fn look_up(name: &str, access: Access) -> Result<DefinedCache, CacheError> {
    // A long statement learns of what others have committed only if it asks.
    // SAFETY: inside of a transaction, holding no lock.
    unsafe { pg_sys::AcceptInvalidationMessages() };
    // Where there can be no cache, that is what there is to say.
    Catalog::existing()?;
    let definition = Definition::find(name)?;
    let (role, allowed) = (current_role(), definition.allowed());
    if allowed & access.mask() != access.mask() {
        return Err(CacheError::Privilege { cache: name.to_owned(), needed: access.verb() });
    }
    let (listing, cache) = loop {
        // It may be made anew or moved while it is looked at, too.
        if let Some(found) = unless_dropped(|| definition.memory()) {
            break found?;
        }
    };
    let results = definition.options()?.results;
    let cache = DefinedCache { cache, number: definition.number, tenant: listing.tenant(), results };
    let known = Known { relation: definition.relation, listing, cache: cache.clone(), role, allowed };
    KNOWN.with_borrow_mut(|all| all.insert(name.to_owned(), known));
    Ok(cache)
}

/// Has all that is known looked up anew.
pub(super) fn forget() {
    STALE.set(true);
}

/// From now on this backend hears of changes.
fn watch_changes() {
    if WATCHES_CHANGES.replace(true) {
        return;
    }
    let roles = [pg_sys::SysCacheIdentifier::AUTHMEMROLEMEM, pg_sys::SysCacheIdentifier::AUTHOID];
    // SAFETY: the callbacks have the right types and live as long as the library.
    unsafe {
        pg_sys::CacheRegisterRelcacheCallback(Some(on_relation_change), pg_sys::Datum::from(0));
        for cache in roles {
            pg_sys::CacheRegisterSyscacheCallback(cache as i32, Some(on_role_change), pg_sys::Datum::from(0));
        }
    }
}

/// Called wherever PostgreSQL takes note of invalidations; 0: of all relations.
#[pg_guard]
unsafe extern "C-unwind" fn on_relation_change(_argument: pg_sys::Datum, relation: pg_sys::Oid) {
    let concerns = KNOWN.with(|known| match known.try_borrow() {
        Ok(known) => relation == pg_sys::InvalidOid || known.values().any(|known| known.relation == relation),
        Err(_) => true,
    });
    if concerns {
        forget();
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_role_change(_argument: pg_sys::Datum, _cache: i32, _hash: u32) {
    forget();
}
