//! The caches that this backend has attached, by name, and what must happen when the backend exits.
//!
//! Looking a cache up by name takes the catalog's lock once per backend and cache; afterwards one look at the slot's
//! life tells that the cache is still the same. A registry (`slab`) keeps the handles; the exit callback walks it
//! and gives back what a FATAL exit, which runs no destructors, left behind.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::rc::Rc;

use hashbrown::{Equivalent, HashMap};
use pgrx::{pg_guard, pg_sys};
use slab::Slab;

use super::catalog::{CacheId, Catalog, Listing};
use super::error::CacheError;
use super::named_locks::LwLocks;
use crate::shared::cache::SharedCache;

/// A cache attached by this backend.
pub type AttachedCache = Rc<SharedCache<LwLocks>>;

/// A cache is known by its database and its name.
#[derive(PartialEq, Eq, Hash)]
struct CacheName<S>(u32, S);

impl Equivalent<CacheName<String>> for CacheName<&str> {
    fn equivalent(&self, owned: &CacheName<String>) -> bool {
        (self.0, self.1) == (owned.0, owned.1.as_str())
    }
}

struct Handle {
    listing: Listing,
    cache: AttachedCache,
}

#[derive(Default)]
struct Registry {
    handles: Slab<Handle>,
    by_name: HashMap<CacheName<String>, usize>,
    watches_exit: bool,
}

thread_local! {
    static REGISTRY: RefCell<Registry> = RefCell::default();
}

/// The OID of the database that this backend is connected to.
pub fn my_database() -> u32 {
    // SAFETY: set once when the backend starts, read from its only thread.
    unsafe { pg_sys::MyDatabaseId }.to_u32()
}

/// The cache of this name in the current database.
///
/// # Errors
///
/// There is none, it was dropped meanwhile, or the library was not preloaded.
pub fn cache(name: &str) -> Result<AttachedCache, CacheError> {
    let unknown = || CacheError::Unknown(name.to_owned());
    let catalog = Catalog::existing()?.ok_or_else(unknown)?;
    // Without the catalog's lock, where this backend has the cache already.
    if let Some(cache) = REGISTRY.with_borrow(|registry| registry.find(catalog, my_database(), name)) {
        return Ok(cache);
    }
    let listing = catalog.find(my_database(), CacheId::Name(name)).ok_or_else(unknown)?;
    attach(catalog, listing)
}

/// A cache that was listed.
///
/// # Errors
///
/// It was dropped since it was listed, or its memory holds something else.
#[cfg(feature = "extension")]
pub(super) fn of_listing(catalog: Catalog, listing: Listing) -> Result<AttachedCache, CacheError> {
    let same = |handle: &Handle| (handle.listing.slot, handle.listing.life) == (listing.slot, listing.life);
    let attached = REGISTRY.with_borrow(|registry| {
        registry.handles.iter().find(|(_, handle)| same(handle)).map(|(_, handle)| handle.cache.clone())
    });
    match attached {
        Some(cache) if catalog.has(&listing) => Ok(cache),
        _ => attach(catalog, listing),
    }
}

/// Attaches to a cache, and keeps the handle.
fn attach(catalog: Catalog, listing: Listing) -> Result<AttachedCache, CacheError> {
    let cache = Rc::new(catalog.attach(&listing)?);
    REGISTRY.with_borrow_mut(|registry| {
        registry.watch_exit();
        registry.insert(catalog, listing, cache.clone());
    });
    Ok(cache)
}

impl Registry {
    fn find(&self, catalog: Catalog, database: u32, name: &str) -> Option<AttachedCache> {
        let key = self.by_name.get(&CacheName(database, name))?;
        let handle = self.handles.get(*key)?;
        catalog.has(&handle.listing).then(|| handle.cache.clone())
    }

    fn insert(&mut self, catalog: Catalog, listing: Listing, cache: AttachedCache) {
        // Handles of dropped caches go now, so that their number stays bounded; but those that somebody uses.
        self.handles.retain(|_, handle| catalog.has(&handle.listing) || Rc::strong_count(&handle.cache) > 1);
        let handles = &self.handles;
        self.by_name.retain(|_, key| handles.contains(*key));
        let name = listing.definition.is_none().then(|| CacheName(listing.database, listing.name.clone()));
        let key = self.handles.insert(Handle { listing, cache });
        if let Some(name) = name {
            self.by_name.insert(name, key);
        }
    }

    fn watch_exit(&mut self) {
        if !std::mem::replace(&mut self.watches_exit, true) {
            // SAFETY: called from the backend's only thread; the callback has the right type and lives as long as the
            // library.
            unsafe { pg_sys::before_shmem_exit(Some(release_all), pg_sys::Datum::from(0)) };
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn release_all(_code: i32, _argument: pg_sys::Datum) {
    // Not while the registry is borrowed: an exit in the middle of an attach has pinned nothing yet.
    let caches: Vec<AttachedCache> = REGISTRY.with(|registry| match registry.try_borrow() {
        Ok(registry) => registry.handles.iter().map(|(_, handle)| handle.cache.clone()).collect(),
        Err(_) => Vec::new(),
    });
    for cache in caches {
        // SAFETY: the backend exits; whatever closure was running never gets control again.
        unsafe { cache.release_all() };
    }
}
