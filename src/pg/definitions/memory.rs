//! The memory of a cache follows its definition: it is made at its first use, with what its image has, and made anew when the
//! options are others.
//!
//! Locking: who makes memory holds a lock on the definition, so whoever is about to drop or alter it is waited for; who makes
//! it anew takes that lock if it is free, and else leaves the memory as it is. No lock of the area is held while the catalogs
//! are read.
//!
//! Not here: when it goes (`drops`, `orphans`), what is in an image (`images`).
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::ops::ControlFlow;

use pgrx::pg_sys;

use super::options::Options;
use super::{Definition, current_role, known, owner_of};
use crate::pg::catalog::{CacheId, Catalog, Listing, NewCache};
use crate::pg::error::CacheError;
use crate::pg::handles::{self, AttachedCache};
use crate::pg::images::{self, Restoration};
use crate::pg::named_locks::sleep_a_moment;
use crate::pg::{drops, worker};

thread_local! {
    /// Definitions that the current transaction has altered; their memory follows when it has committed.
    static ALTERED: RefCell<Vec<(pg_sys::TransactionId, pg_sys::Oid)>> = const { RefCell::new(Vec::new()) };
}

impl Definition {
    /// The memory that it defines: found, or made.
    ///
    /// # Errors
    ///
    /// There is none, and none can be had.
    pub(in crate::pg) fn memory(&self) -> Result<(Listing, AttachedCache), CacheError> {
        let catalog = Catalog::open()?;
        let database = handles::my_database();
        let wanted = self.options()?;
        let mut may_follow = true;
        loop {
            let Some(listing) = catalog.find(database, CacheId::Definition(self.number)) else {
                match self.make(catalog, &wanted) {
                    Ok(()) => {}
                    // Another backend is making it.
                    Err(CacheError::Exists(_)) => sleep_a_moment(),
                    Err(error) => return Err(error),
                }
                continue;
            };
            let cache = match handles::of_listing(catalog, listing.clone()) {
                Ok(cache) => cache,
                Err(CacheError::Dropped) => continue,
                Err(error) => return Err(error),
            };
            if listing.name != self.name {
                catalog.rename(&listing, &self.name);
            }
            let follows = || {
                let is_same = wanted.config.resolve()? == cache.resolved() && wanted.ttl == cache.default_ttl();
                Ok::<_, CacheError>(is_same && wanted.persist == catalog.persists(&listing))
            };
            if std::mem::take(&mut may_follow) && !follows()? {
                self.follow(catalog, &listing, &cache);
                continue;
            }
            return Ok((listing, cache));
        }
    }

    /// Makes memory for the cache, with what its image has. Who is about to drop or alter the definition is waited for. Where
    /// the statement is interrupted, nothing is made.
    fn make(&self, catalog: Catalog, wanted: &Options) -> Result<(), CacheError> {
        let lock = pg_sys::AccessShareLock as i32;
        // SAFETY: takes a lock inside of a transaction; what is in the catalogs by then is seen.
        unsafe { pg_sys::LockRelationOid(self.relation, lock) };
        let mut restoration = Restoration::NoImage;
        let made = if drops::is_defined(self.number) {
            let owner = owner_of(self.relation).unwrap_or(current_role()).to_u32();
            let database = handles::my_database();
            let new = NewCache { database, owner, name: &self.name, definition: Some(self.number) };
            catalog.create_filled(new, &wanted.config, |cache, words| {
                words.set_persists(wanted.persist);
                if !wanted.persist {
                    images::remove(self.number);
                    return ControlFlow::Continue(());
                }
                restoration = images::restore(catalog.area(), self.number, cache);
                match &restoration {
                    Restoration::Interrupted => return ControlFlow::Break(()),
                    Restoration::Restored(saved) => words.set_saved(*saved),
                    Restoration::NoImage | Restoration::Refused(_) => {}
                }
                ControlFlow::Continue(())
            })
        } else {
            Err(CacheError::Unknown(self.name.clone()))
        };
        if made.as_ref().is_ok_and(ControlFlow::is_continue) {
            // A cache that has an image was there before this transaction, and stays if that is rolled back.
            if !matches!(restoration, Restoration::Restored(_)) {
                drops::note_made(self.number);
            }
            worker::start_if_missing(catalog.area());
        }
        // SAFETY: the lock that was taken.
        unsafe { pg_sys::UnlockRelationOid(self.relation, lock) };
        match restoration {
            Restoration::Interrupted => {
                pgrx::check_for_interrupts!();
            }
            Restoration::Refused(reason) => images::warn_of_refusal(&self.name, &reason),
            Restoration::NoImage | Restoration::Restored(_) => {}
        }
        made.map(drop)
    }

    /// Makes the memory, if there may be an image that somebody reads later: what is invalidated now has to be gone then.
    ///
    /// # Errors
    ///
    /// As [`Definition::memory`].
    pub(in crate::pg) fn restore_first(&self, catalog: Catalog) -> Result<(), CacheError> {
        if images::before_invalidating(catalog, self.number) {
            self.memory()?;
        }
        Ok(())
    }

    /// Makes the memory as the definition wants it, unless that is about to change. What goes wrong is logged: the cache is
    /// in use as it is.
    fn follow(&self, catalog: Catalog, listing: &Listing, cache: &AttachedCache) {
        if self.is_altered_here() {
            return;
        }
        // SAFETY: takes a lock, or does not, inside of a transaction.
        if !unsafe { pg_sys::ConditionalLockRelationOid(self.relation, pg_sys::AccessShareLock as i32) } {
            return;
        }
        // What was read before the lock was had may have changed.
        let followed = match self.options() {
            Ok(wanted) if drops::is_defined(self.number) => {
                if wanted.persist != catalog.persists(listing) {
                    images::set_persists(catalog, self.number, wanted.persist);
                }
                match wanted.config.resolve() {
                    Ok(resolved) if resolved == cache.resolved() => {
                        cache.set_default_ttl(wanted.ttl).map_err(CacheError::from)
                    }
                    Ok(_) => catalog.remake(listing, &wanted.config).map(drop),
                    Err(error) => Err(error.into()),
                }
            }
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        // SAFETY: the lock that was taken.
        unsafe { pg_sys::UnlockRelationOid(self.relation, pg_sys::AccessShareLock as i32) };
        if let Err(error) = followed {
            pgrx::log!("cache \"{}\" stays as it was made: {error}", self.name);
        }
    }

    fn is_altered_here(&self) -> bool {
        // SAFETY: reads what the current transaction is.
        let transaction = unsafe { pg_sys::GetTopTransactionIdIfAny() };
        ALTERED.with_borrow(|altered| altered.contains(&(transaction, self.relation)))
    }

    /// Notes that the current transaction alters it.
    pub(super) fn note_altered(&self) {
        // SAFETY: as above; the transaction has written, so it has a number.
        let transaction = unsafe { pg_sys::GetTopTransactionIdIfAny() };
        ALTERED.with_borrow_mut(|altered| {
            altered.retain(|(of, _)| *of == transaction);
            altered.push((transaction, self.relation));
        });
        known::forget();
    }
}
