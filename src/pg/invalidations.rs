//! Keys that a transaction invalidates: hidden from itself at once, from all others with its commit. docs/leases.md has the
//! argument; the counts and snapshots are those of the commit rings (`crate::rings`).
//!
//! Before the commit record each key is published in its line, and removed from the cache after that, under the lock of
//! its partition. Whoever holds a lease looks at the line under the same lock.
//!
//! Not here: who may invalidate (`definitions`), the tokens of leases (`functions::leases`).
#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::ffi::c_void;

use pgrx::{pg_guard, pg_sys};

use super::catalog::{CacheId, Catalog};
use super::definitions;
use super::handles;
use super::snapshot::ActiveSnapshot;
use crate::rings::key::{DependencyKey, KeyHash};
use crate::rings::table::{LineIndex, Rings};
use crate::rings::xid::FullXid;
use crate::shared::lock::LockMode;

/// More keys of one cache in a transaction stand for all.
const MAX_KEYS: usize = 10_000;

/// Something that a transaction invalidates, and the depth of savepoints in which it did.
struct Item {
    /// The number of the definition.
    cache: u64,
    /// `None`: all keys.
    key: Option<Vec<u8>>,
    level: i32,
}

#[derive(Default)]
struct Transaction {
    items: Vec<Item>,
    /// What it has published, before its commit record.
    published: Vec<LineIndex>,
    xid: Option<FullXid>,
}

thread_local! {
    static TRANSACTION: RefCell<Transaction> = RefCell::default();
    static WATCHES_TRANSACTIONS: Cell<bool> = const { Cell::new(false) };
}

/// Which line a key of a cache has; `None`: that of the cache as a whole.
fn hash(cache: u64, key: Option<&[u8]>) -> KeyHash {
    let prefix: &[u8] = if key.is_some() { b"k" } else { b"*" };
    DependencyKey::Tag { cache, tag: &[prefix, key.unwrap_or_default()].concat() }.hash()
}

/// The rings, which tell from now on.
fn rings(catalog: Catalog) -> Option<Rings> {
    let rings = catalog.area().rings()?;
    if !rings.must_publish() {
        // One after the other, and so seldom that the lock does not matter. No lock is taken under another but here: the
        // one of transaction ids, which nobody holds who wants the catalog's.
        catalog.area().with_catalog(LockMode::Exclusive, || {
            rings.turn_on(|| {
                // SAFETY: reads the id; takes and gives back the lock of ids.
                let next = unsafe { pg_sys::ReadNextFullTransactionId() };
                FullXid::new(next.value).unwrap_or(FullXid::FIRST)
            });
        });
    }
    Some(rings)
}

/// How many invalidations the lines of a key and of its cache have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) key: u64,
    pub(super) cache: u64,
}

impl Counts {
    /// As they are now.
    pub(super) fn now(catalog: Catalog, cache: u64, key: &[u8]) -> Option<Counts> {
        let rings = catalog.area().rings()?;
        let count = |key| rings.publications(rings.line_of(hash(cache, key))).get();
        Some(Counts { key: count(Some(key)), cache: count(None) })
    }

    /// As they are now, if the snapshot of the running statement sees the end of all who made them.
    pub(super) fn settled(catalog: Catalog, cache: u64, key: &[u8]) -> Option<Counts> {
        let rings = rings(catalog)?;
        let snapshot = ActiveSnapshot::get()?;
        let counts = Counts::now(catalog, cache, key)?;
        let seen = |key| {
            let line = rings.line_of(hash(cache, key));
            rings.ver(&snapshot, line, rings.definitions(line)?).map(|seen| seen.get())
        };
        (seen(Some(key)) == Some(counts.key) && seen(None) == Some(counts.cache)).then_some(counts)
    }
}

/// Notes that leases of a key are void from now on, or with `None` of all keys: something was removed at once.
pub(super) fn void_leases(catalog: Catalog, cache: u64, key: Option<&[u8]>) {
    if let Some(rings) = catalog.area().rings().filter(Rings::must_publish) {
        // In no transaction, so its end is seen by all.
        rings.publish(hash(cache, key), FullXid::FIRST);
    }
}

/// Invalidates a key with the commit of the current transaction; `None`: all keys. May raise an error where no transaction
/// can write.
pub(super) fn invalidate(catalog: Catalog, cache: u64, key: Option<&[u8]>) {
    // SAFETY: inside of a transaction, holding nothing; the callbacks have the right types and live as long as the library.
    let (xid, level) = unsafe {
        pg_sys::PreventCommandDuringRecovery(c"invalidate()".as_ptr());
        if !WATCHES_TRANSACTIONS.replace(true) {
            pg_sys::RegisterXactCallback(Some(on_transaction_event), std::ptr::null_mut());
            pg_sys::RegisterSubXactCallback(Some(on_savepoint_event), std::ptr::null_mut());
        }
        (pg_sys::GetTopFullTransactionId().value, pg_sys::GetCurrentTransactionNestLevel())
    };
    rings(catalog);
    TRANSACTION.with_borrow_mut(|transaction| {
        transaction.xid = FullXid::new(xid);
        let of_cache = transaction.items.iter().filter(|item| item.cache == cache);
        if of_cache.clone().any(|item| item.key.is_none() || item.key.as_deref() == key && key.is_some()) {
            // Not again; but the outermost savepoint counts.
            let same = |item: &&mut Item| item.cache == cache && (item.key.is_none() || item.key.as_deref() == key);
            transaction.items.iter_mut().filter(same).for_each(|item| item.level = item.level.min(level));
            return;
        }
        let key = if of_cache.count() < MAX_KEYS { key } else { None };
        transaction.items.push(Item { cache, key: key.map(<[u8]>::to_vec), level });
    });
}

/// Whether the current transaction invalidates a key, so that it must not see the entry.
#[inline]
pub(super) fn hides_some() -> bool {
    TRANSACTION.with_borrow(|transaction| !transaction.items.is_empty())
}

/// Whether the current transaction invalidates this key.
pub(super) fn hides(cache: u64, key: &[u8]) -> bool {
    TRANSACTION.with_borrow(|transaction| {
        let mut items = transaction.items.iter();
        items.any(|item| item.cache == cache && item.key.as_deref().is_none_or(|hidden| hidden == key))
    })
}

#[pg_guard]
unsafe extern "C-unwind" fn on_transaction_event(event: pg_sys::XactEvent::Type, _argument: *mut c_void) {
    use pg_sys::XactEvent::{
        XACT_EVENT_ABORT, XACT_EVENT_COMMIT, XACT_EVENT_PRE_COMMIT, XACT_EVENT_PRE_PREPARE, XACT_EVENT_PREPARE,
    };
    match event {
        XACT_EVENT_PRE_COMMIT | XACT_EVENT_PRE_PREPARE => publish_all(),
        // It has left the array of running transactions.
        XACT_EVENT_COMMIT | XACT_EVENT_ABORT => {
            let Transaction { published, xid, .. } = TRANSACTION.take();
            let rings = Catalog::mapped().and_then(|catalog| catalog.area().rings());
            if let (Some(rings), Some(xid)) = (rings, xid) {
                published.into_iter().for_each(|line| rings.mark_ended(line, xid));
            }
        }
        XACT_EVENT_PREPARE => drop(TRANSACTION.take()),
        _ => {}
    }
}

/// Before the commit record. An error here aborts the transaction, and costs others at most a lease.
fn publish_all() {
    if !hides_some() {
        return;
    }
    let Some(catalog) = Catalog::mapped() else { return };
    let Some(rings) = catalog.area().rings() else { return };
    TRANSACTION.with_borrow_mut(|transaction| {
        let Transaction { items, published, xid } = transaction;
        let Some(xid) = *xid else { return };
        for item in items.iter() {
            published.push(rings.publish(hash(item.cache, item.key.as_deref()), xid));
        }
        for item in items.iter() {
            remove(catalog, item);
        }
    });
}

/// Removes what was published, from the memory that the cache has, if it has any. One that is being filled or moved is waited for.
fn remove(catalog: Catalog, item: &Item) {
    while let Some(listing) = catalog.find_settled(handles::my_database(), CacheId::Definition(item.cache)) {
        let removed = definitions::unless_dropped(|| {
            let Ok(cache) = handles::of_listing(catalog, listing) else { return false };
            match &item.key {
                Some(key) => drop(cache.discard(key)),
                None => drop(cache.clear()),
            }
            true
        });
        if removed == Some(true) {
            return;
        }
        // Made anew or moved meanwhile.
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_savepoint_event(
    event: pg_sys::SubXactEvent::Type,
    _mine: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _argument: *mut c_void,
) {
    use pg_sys::SubXactEvent::{SUBXACT_EVENT_ABORT_SUB, SUBXACT_EVENT_COMMIT_SUB};
    // SAFETY: reads a variable of this process's only thread.
    let level = unsafe { pg_sys::GetCurrentTransactionNestLevel() };
    TRANSACTION.with_borrow_mut(|transaction| match event {
        SUBXACT_EVENT_ABORT_SUB => transaction.items.retain(|item| item.level < level),
        SUBXACT_EVENT_COMMIT_SUB => {
            transaction.items.iter_mut().for_each(|item| item.level = item.level.min(level - 1));
        }
        _ => {}
    });
}
