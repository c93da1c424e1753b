//! What a transaction invalidates, keys and tags: hidden from itself at once, from all others with its commit. docs/leases.md has the
//! argument; the counts and snapshots are those of the commit rings (`crate::rings`).
//!
//! Before the commit record each key is published in its line, and removed from the cache after that, under the lock of
//! its partition. Whoever holds a lease looks at the line under the same lock. A tag is published, and that is all: its
//! values find out when they are read (`tags`).
//!
//! Not here: who may invalidate (`definitions`), the tokens of leases (`functions::leases`).
#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::ffi::c_void;

use pgrx::{pg_guard, pg_sys};
use xxhash_rust::xxh3::xxh3_128;

use super::catalog::{CacheId, Catalog};
use super::definitions;
use super::error::{CacheError, or_report};
use super::handles;
use super::invalidated::{Invalidated, Item};
use super::snapshot::has_written;
use crate::engine::counters::Removal;
use crate::rings::key::{DependencyHash, DependencyKey};
use crate::rings::table::{LineIndex, Rings};
use crate::rings::xid::FullXid;
use crate::shared::lock::LockMode;

/// Longer names are told by a hash of theirs where lines are concerned.
const LONG_NAME_BYTES: usize = 1024;

/// What is invalidated of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target<'a> {
    /// One key.
    Key(&'a [u8]),
    /// All keys that begin so.
    Prefix(&'a [u8]),
    /// All keys.
    All,
    /// Values that were stored with this tag.
    Tag(&'a [u8]),
}

impl<'a> Target<'a> {
    /// Whether a key is concerned.
    pub(super) fn has(self, key: &[u8]) -> bool {
        match self {
            Target::Key(own) => own == key,
            Target::Prefix(prefix) => key.starts_with(prefix),
            Target::All => true,
            Target::Tag(_) => false,
        }
    }

    pub(super) fn parts(self) -> (u8, &'a [u8]) {
        match self {
            Target::Key(key) => (b'k', key),
            Target::Prefix(prefix) => (b'p', prefix),
            Target::All => (b'*', b""),
            Target::Tag(tag) => (b't', tag),
        }
    }

    /// What has these parts.
    pub(super) fn of_parts(kind: u8, name: &'a [u8]) -> Target<'a> {
        match kind {
            b'k' => Target::Key(name),
            b'p' => Target::Prefix(name),
            b't' => Target::Tag(name),
            _ => Target::All,
        }
    }

    /// Which line it has. Leases on all keys that begin alike cannot be told apart: they are those of the whole cache.
    pub(super) fn hash(self, cache: u64) -> DependencyHash {
        let (kind, name) = match self {
            Target::Prefix(_) => Target::All.parts(),
            target => target.parts(),
        };
        let digest;
        let name = if name.len() > LONG_NAME_BYTES {
            digest = xxh3_128(name).to_le_bytes();
            &digest[..]
        } else {
            name
        };
        DependencyKey::Tag { cache, tag: &[&[kind], name].concat() }.hash()
    }
}

#[derive(Default)]
struct Transaction {
    invalidated: Invalidated,
    /// What it has published, before its commit record.
    published: Vec<LineIndex>,
    xid: Option<FullXid>,
}

thread_local! {
    static TRANSACTION: RefCell<Transaction> = RefCell::default();
    static WATCHES_TRANSACTIONS: Cell<bool> = const { Cell::new(false) };
}

/// The rings, which tell from now on.
pub(super) fn rings(catalog: Catalog) -> Option<Rings> {
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

/// Notes that leases are void from now on: something was removed at once.
pub(super) fn void_leases(catalog: Catalog, cache: u64, target: Target<'_>) {
    if let Some(rings) = catalog.area().rings().filter(Rings::must_publish) {
        // In no transaction, so its end is seen by all.
        rings.publish(target.hash(cache), FullXid::FIRST);
    }
}

/// Invalidates something with the commit of the current transaction. May raise an error where no transaction can write.
pub(super) fn invalidate(catalog: Catalog, cache: u64, target: Target<'_>) {
    // SAFETY: inside of a transaction, holding nothing; the callbacks have the right types and live as long as the library.
    let (xid, level) = unsafe {
        pg_sys::PreventCommandDuringRecovery(c"invalidate()".as_ptr());
        if !WATCHES_TRANSACTIONS.replace(true) {
            pg_sys::RegisterXactCallback(Some(on_transaction_event), std::ptr::null_mut());
            pg_sys::RegisterSubXactCallback(Some(on_savepoint_event), std::ptr::null_mut());
        }
        (pg_sys::GetTopFullTransactionId().value, pg_sys::GetCurrentTransactionNestLevel())
    };
    let rings = rings(catalog);
    let line = match target {
        Target::Tag(_) => rings.map(|rings| rings.line_of(target.hash(cache))),
        _ => None,
    };
    let added = TRANSACTION.with_borrow_mut(|transaction| {
        transaction.xid = FullXid::new(xid);
        transaction.invalidated.add(cache, target, line, level)
    });
    or_report(added);
}

/// Whether the current transaction invalidates a key, so that it must not see the entry.
#[inline]
pub(super) fn hides_some() -> bool {
    TRANSACTION.with_borrow(|transaction| !transaction.invalidated.is_empty()) || is_worker_of_writer()
}

/// Whether this is a parallel worker for a transaction that writes: what that has invalidated is known to the leader alone.
fn is_worker_of_writer() -> bool {
    // SAFETY: reads what this process is.
    let is_worker = unsafe { pg_sys::ParallelWorkerNumber } >= 0;
    is_worker && has_written()
}

/// Whether the current transaction invalidates this key.
pub(super) fn hides(cache: u64, key: &[u8]) -> bool {
    is_worker_of_writer() || TRANSACTION.with_borrow(|transaction| transaction.invalidated.has_key(cache, key))
}

/// Whether the current transaction invalidates a tag of this line.
pub(super) fn hides_line(line: LineIndex) -> bool {
    is_worker_of_writer() || TRANSACTION.with_borrow(|transaction| transaction.invalidated.has_line(line))
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
    let items = TRANSACTION.with_borrow_mut(|transaction| {
        let Transaction { invalidated, published, xid } = transaction;
        let xid = (*xid)?;
        for item in invalidated.items() {
            published.push(rings.publish(item.target().hash(item.cache), xid));
        }
        // Of tags nothing is to be removed.
        let is_of_entries = |item: &&Item| !matches!(item.target(), Target::Tag(_));
        Some(invalidated.items().iter().filter(is_of_entries).cloned().collect::<Vec<Item>>())
    });
    // Nothing is borrowed: whoever is terminated while it waits for a lock ends its transaction right there.
    items.unwrap_or_default().iter().for_each(|item| remove(catalog, item));
}

/// Removes what was published, from the memory that the cache has, if it has any. One that is being filled or moved is
/// waited for. Values with a tag stay.
fn remove(catalog: Catalog, item: &Item) {
    if matches!(item.target(), Target::Tag(_)) {
        return;
    }
    while let Some(listing) = catalog.find_settled(handles::my_database(), CacheId::Definition(item.cache)) {
        let removed = definitions::unless_dropped(|| {
            let cache = match handles::of_listing(catalog, listing) {
                Ok(cache) => cache,
                Err(CacheError::Dropped) => return false,
                // Nobody reads what cannot be attached.
                Err(_) => return true,
            };
            match item.target() {
                Target::Key(key) => _ = cache.discard_as(Removal::Invalidated, key),
                Target::Prefix(prefix) => {
                    let of_prefix = cache.iter().map(|entry| entry.key).filter(|key| key.starts_with(prefix));
                    of_prefix.for_each(|key| _ = cache.discard_as(Removal::Invalidated, &key));
                }
                Target::All => _ = cache.clear_as(Removal::Invalidated, || ()),
                Target::Tag(_) => {}
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
        SUBXACT_EVENT_ABORT_SUB => transaction.invalidated.roll_back(level),
        SUBXACT_EVENT_COMMIT_SUB => transaction.invalidated.release(level),
        _ => {}
    });
}
