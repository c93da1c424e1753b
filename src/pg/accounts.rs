//! What is counted of a named cache, and its samples: read, reset and taken through its ledger.
//!
//! Locking: a cache's own locks, and the catalog's for a moment, one after the other. Between the two the cache may be dropped, moved
//! or made anew; whoever asks is told so, and begins again with the cache as it is then.

use std::time::Duration;

use super::catalog::{Catalog, Listing};
use super::error::CacheError;
use super::ledger::{Ledger, SQL_COUNTERS, Sample, Samples, SqlCounter, now_us};
use super::named_locks::LwLocks;
use super::refusals::{Object, Reason};
use super::slot::{Life, Phase};
use crate::engine::counters::Stats;
use crate::shared::cache::SharedCache;
use crate::shared::lock::LockMode;

/// One life of the cache in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tenant {
    slot: usize,
    life: Life,
}

impl Listing {
    pub(super) fn tenant(&self) -> Tenant {
        Tenant { slot: self.slot, life: self.life }
    }
}

/// What is counted of a cache.
#[derive(Clone, Debug)]
pub(super) struct Account {
    /// Since the last reset.
    pub(super) stats: Stats,
    sql: [u64; SQL_COUNTERS],
    /// When that was, in microseconds since 1970, and when the memory was made anew last.
    pub(super) reset_us: Option<u64>,
    pub(super) resized_us: Option<u64>,
}

impl Account {
    pub(super) fn of_sql(&self, counter: SqlCounter) -> u64 {
        self.sql[counter as usize]
    }
}

impl Catalog {
    /// What `read` says of the ledger, under the catalog's lock, if the cache is there.
    fn with_ledger<R>(self, tenant: Tenant, read: impl FnOnce(&Ledger) -> R) -> Result<R, CacheError> {
        let area = self.area();
        let found = area.with_catalog(LockMode::Shared, || {
            area.slots()[tenant.slot].is_of(tenant.life).then(|| read(area.ledger(tenant.slot)))
        });
        found.ok_or(CacheError::Dropped)
    }

    /// As [`Catalog::with_ledger`], to write; not while the cache is being made anew, dropped or moved.
    fn change_ledger<R>(self, tenant: Tenant, change: impl FnOnce(&Ledger) -> R) -> Result<R, CacheError> {
        let area = self.area();
        let done = area.with_catalog(LockMode::Exclusive, || {
            let is_live = area.slots()[tenant.slot].now() == (tenant.life, Phase::Live);
            is_live.then(|| change(area.ledger(tenant.slot)))
        });
        done.ok_or(CacheError::Dropped)
    }

    /// The ledger in which SQL counts what it does with a cache.
    pub(super) fn ledger(self, tenant: Tenant) -> &'static Ledger {
        self.area().ledger(tenant.slot)
    }

    /// What is counted of a cache.
    ///
    /// # Errors
    ///
    /// It was dropped, moved or made anew meanwhile.
    pub(super) fn account(self, tenant: Tenant, cache: &SharedCache<LwLocks>) -> Result<Account, CacheError> {
        loop {
            let reset_us = self.with_ledger(tenant, |ledger| ledger.reset_us.get())?;
            let counted = cache.stats();
            let account = self.with_ledger(tenant, |ledger| {
                // A reset that came between would be seen in part.
                (ledger.reset_us.get() == reset_us).then(|| Account {
                    stats: ledger.shown(ledger.total(counted)),
                    sql: std::array::from_fn(|index| ledger.sql[index].get()),
                    reset_us: Some(reset_us).filter(|&at_us| at_us > 0),
                    resized_us: Some(ledger.resized_us.get()).filter(|&at_us| at_us > 0),
                })
            })?;
            if let Some(account) = account {
                return Ok(account);
            }
        }
    }

    /// Why results of queries were not kept in a cache, how often, and what was named last.
    ///
    /// # Errors
    ///
    /// It was dropped, moved or made anew meanwhile.
    pub(super) fn refusals(self, tenant: Tenant) -> Result<Vec<(Reason, u64, Option<Object>)>, CacheError> {
        // Nothing is allocated under the lock.
        let mut found = Vec::with_capacity(Reason::ALL.len());
        self.with_ledger(tenant, |ledger| found.extend(ledger.refusals.list()))?;
        Ok(found)
    }

    /// Has the counters of a cache begin anew, for everybody.
    ///
    /// # Errors
    ///
    /// It was dropped, moved or made anew meanwhile, or is about to be.
    pub(super) fn reset_stats(self, tenant: Tenant, cache: &SharedCache<LwLocks>) -> Result<(), CacheError> {
        let counted = cache.stats();
        self.change_ledger(tenant, |ledger| ledger.reset(ledger.total(counted)))
    }

    /// Takes a sample of a cache, if the last one is so old.
    ///
    /// # Errors
    ///
    /// It was dropped, moved or made anew meanwhile, or is about to be.
    pub(super) fn sample(self, tenant: Tenant, cache: &SharedCache<LwLocks>, age: Duration) -> Result<(), CacheError> {
        let at_us = now_us();
        let last_us = self.with_ledger(tenant, |ledger| ledger.samples().last().map(|last| last.at_us))?;
        // A clock that was set back is no reason to wait.
        let is_due = last_us.is_none_or(|last_us| at_us < last_us || at_us - last_us >= age.as_micros() as u64);
        if !is_due {
            return Ok(());
        }
        let (counted, entries, bytes, ticks) = (cache.stats(), cache.len(), cache.bytes(), Some(cache.ticks()));
        self.change_ledger(tenant, |ledger| {
            let Stats { hits, misses, .. } = ledger.total(counted);
            ledger.add_sample(Sample { at_us, hits, misses, entries, bytes, ticks });
        })
    }

    /// The last samples of a cache, oldest first.
    ///
    /// # Errors
    ///
    /// It was dropped, moved or made anew meanwhile.
    pub(super) fn samples(self, tenant: Tenant) -> Result<Samples, CacheError> {
        self.with_ledger(tenant, Ledger::samples)
    }
}
