//! A cache in front of a store that many workers share: loads that happen once, stores that lose no update, write-backs
//! without a lock. The engine's part is `engine::flight`; `adapters::builder` puts types on top.
//!
//! Who waits for whom: a thread that holds nothing (no pin, no lease, of any cache) may wait for those that do. One that
//! holds something does not wait: it is told [`StoreStep::Blocked`] or [`LoadStep::Taken`] and finds another way. So whoever is
//! waited for goes on, and no circle of waiting workers can close.
//!
//! What is stored here never expires, whatever the cache's default time to live: an entry goes when the store has it. If one
//! is given an expiry by a put of another kind while the store does not have it, that is not heeded.
//!
//! Locking: one partition at a time, as everywhere; nothing of the caller's runs under it. Write-backs and loads are guards:
//! dropped without having been finished, as by an error that unwinds, they are undone.
//!
//! Not here: what the guards have in common (`lease`), entries that are taken out (`take_out`).

use std::fmt;
use std::time::{Duration, Instant};

use super::cache::SharedCache;
use super::lease::LeaseGuard;
use super::lock::Locks;
use super::process::is_alive;
use super::resources::thread_holds_something;
use crate::engine::evicted::{Evicted, OnEvict};
pub use crate::engine::flight::inflight::Concurrency;
use crate::engine::flight::version::Version;
use crate::engine::hash::KeyHash;
use crate::engine::outcomes::{PushError, Put};
use crate::engine::partition::Partition;
use crate::engine::work::Work;
use crate::engine::write_back::{Expected, LoadOutcome, StoreOutcome, WriteBack};

/// How long to wait before looking again, whatever is known of the others.
const WAIT_SLICE: Duration = Duration::from_millis(20);

/// The right, and the duty, to write an entry back that has to make way.
///
/// The entry stays in the cache meanwhile. Dropped without [`WriteBackGuard::finish`] it stays for good, dirty as it was.
pub struct WriteBackGuard<'a, L: Locks> {
    guard: LeaseGuard<'a, L>,
    version: Version,
    entry: Evicted,
}

impl<L: Locks> fmt::Debug for WriteBackGuard<'_, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteBackGuard")
            .field("key", &self.key())
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl<L: Locks> WriteBackGuard<'_, L> {
    /// The key.
    pub fn key(&self) -> &[u8] {
        self.entry.get(0).0
    }

    /// The value to be written.
    pub fn value(&self) -> &[u8] {
        self.entry.get(0).1
    }

    /// Says that the value is written. `true` if the entry has gone; `false` if its value was changed meanwhile, so that
    /// it stays, dirty; or if the guard is none any more: given back by [`SharedCache::release_all`], or inherited over
    /// `fork`.
    pub fn finish(self) -> bool {
        self.guard.finish(|partition, lease| partition.finish_write(lease, self.version))
    }
}

/// The right to load an absent key while others wait for it. Dropped, it is the others' turn.
pub struct LoadGuard<'a, L: Locks> {
    guard: LeaseGuard<'a, L>,
    absent: Version,
    /// Of the key that is loaded.
    hash: KeyHash,
}

impl<L: Locks> fmt::Debug for LoadGuard<'_, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadGuard").field("hash", &self.hash).field("absent", &self.absent).finish_non_exhaustive()
    }
}

impl<L: Locks> LoadGuard<'_, L> {
    /// The version of what is loaded, as long as it is not in the cache; or of the key's absence.
    pub fn version(&self) -> Version {
        self.absent
    }
}

/// What must hold for a value to be stored.
#[derive(Debug)]
pub enum Condition<'c, 'a, L: Locks> {
    /// Nothing.
    None,
    /// The key has this value, or is absent as it was.
    Version(Version),
    /// The key was not stored since this load began. The value is what the store has, so the entry is clean.
    Loaded(&'c mut LoadGuard<'a, L>),
}

/// What a conditional store did.
#[derive(Debug)]
pub enum StoreStep<'a, L: Locks> {
    /// The value is in; a load that brought it is over.
    Done(Put, Version),
    /// The condition does not hold; a load that brought the value is over.
    Stale,
    /// A dirty entry must make way. Write it back, finish the guard, and try again.
    WriteBack(WriteBackGuard<'a, L>),
    /// Every entry that could make way is pinned, or in some worker's hands.
    Blocked(Blocked),
    /// A worker died in the middle of a change, and the partition's entries are lost: so is what was built from them.
    Lost,
}

/// What is in the way: the state of a partition in which nothing could be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocked {
    pub(super) partition: usize,
    pub(super) completed: u64,
}

/// What became of the wish to load a key.
#[derive(Debug)]
pub enum LoadStep<'a, L: Locks> {
    /// The caller loads it.
    Yours(LoadGuard<'a, L>),
    /// Another worker has it in its hands.
    Taken,
    /// It is in the cache by now.
    Present,
    /// There are as many loads and write-backs in this partition as there can be.
    TooMany(Blocked),
}

impl<L: Locks> SharedCache<L> {
    /// Stores a value if `condition` holds. Clean entries that must make way are dropped, and added to `dropped`.
    /// `resets` is what [`SharedCache::resets`] said when the caller began.
    ///
    /// # Errors
    ///
    /// The key or the entry is too large.
    ///
    /// # Panics
    ///
    /// If the condition is a load of another key.
    pub fn store_if(
        &self,
        key: &[u8],
        value: &[u8],
        condition: &mut Condition<'_, '_, L>,
        resets: &[u64],
        dropped: &mut u32,
    ) -> Result<StoreStep<'_, L>, PushError> {
        let (index, key) = self.key(key);
        let expected = match condition {
            Condition::None => Expected::Anything,
            Condition::Version(version) => Expected::Version(*version),
            Condition::Loaded(load) if load.hash != key.hash => panic!("a load stores the key that it was granted for"),
            Condition::Loaded(load) if !load.guard.is_held() => return Ok(StoreStep::Stale),
            Condition::Loaded(load) => Expected::Load(load.guard.lease),
        };
        let mut entry = Evicted::default();
        let mut work = Work::new();
        let stored = loop {
            let stored = self.exclusive(index, |partition| {
                if partition.resets() != resets[index] {
                    return Ok(None);
                }
                let mut write_back = WriteBack { owner: std::process::id(), dropped, evicted: &mut entry };
                let now = || self.now();
                let stored = partition.store_if(key, value, expected, &mut write_back, &now, &mut work)?;
                if let (Expected::Load(lease), StoreOutcome::Stored(..) | StoreOutcome::Stale) = (expected, stored) {
                    // Under the same lock, so that nobody finds the key loaded and still leased.
                    partition.release_lease(lease);
                }
                Ok(Some(stored))
            });
            match stored {
                Ok(stored) => break stored,
                Err(unfinished) => self.go_on(index, unfinished, &mut OnEvict::Discard, &mut work)?,
            }
        };
        let Some(stored) = stored else { return Ok(StoreStep::Lost) };
        if let (Condition::Loaded(load), StoreOutcome::Stored(..) | StoreOutcome::Stale) = (condition, stored) {
            load.guard.set_ended();
            self.locks.wake(index);
        }
        Ok(match stored {
            StoreOutcome::Stored(put, version) => StoreStep::Done(put, version),
            StoreOutcome::Stale => StoreStep::Stale,
            StoreOutcome::WriteBack(lease, version) => {
                StoreStep::WriteBack(WriteBackGuard { guard: LeaseGuard::new(self, index, lease), version, entry })
            }
            StoreOutcome::Blocked { completed } => StoreStep::Blocked(Blocked { partition: index, completed }),
        })
    }

    /// Asks for the right to load an absent key; `concurrency` says whether beside another worker that loads it.
    pub fn lease_load(&self, key: &[u8], concurrency: Concurrency) -> LoadStep<'_, L> {
        let (index, key) = self.key(key);
        let (outcome, completed) = self.exclusive(index, |partition| {
            let outcome = partition.lease_load(key, std::process::id(), concurrency, &|| self.now());
            (outcome, partition.completed_leases())
        });
        match outcome {
            LoadOutcome::Leased(lease, absent) => {
                LoadStep::Yours(LoadGuard { guard: LeaseGuard::new(self, index, lease), absent, hash: key.hash })
            }
            LoadOutcome::Taken => LoadStep::Taken,
            LoadOutcome::Present => LoadStep::Present,
            LoadOutcome::TableFull => LoadStep::TooMany(Blocked { partition: index, completed }),
        }
    }

    /// Waits a moment, or until a load or write-back of the partition ends.
    pub fn wait_for_room(&self, blocked: Blocked) {
        self.wait(blocked.partition, |partition| partition.completed_leases() != blocked.completed);
    }

    /// Waits a moment, or until nobody has this key in hand any more.
    pub fn wait_for_load(&self, key: &[u8]) {
        let (index, key) = self.key(key);
        self.wait(index, |partition| !partition.is_leased(key));
    }

    fn wait(&self, index: usize, is_over: impl Fn(&Partition) -> bool) {
        let started = Instant::now();
        let mut is_slow = false;
        self.locks.wait(index, &mut || {
            is_slow = started.elapsed() > WAIT_SLICE;
            is_slow || self.shared(index, &is_over)
        });
        if is_slow {
            self.release_leases_of_the_dead(index);
        }
    }

    /// Ends what processes had in hand that died without giving it back.
    pub fn release_leases_of_all_dead(&self) {
        (0..self.partition_count()).for_each(|index| self.release_leases_of_the_dead(index));
    }

    fn release_leases_of_the_dead(&self, index: usize) {
        let mut owners = self.shared(index, |partition| partition.lease_owners());
        owners.dedup();
        for owner in owners {
            if !is_alive(owner) {
                self.exclusive(index, |partition| partition.release_leases_of(owner));
                self.locks.wake(index);
            }
        }
    }
}

/// Whether the calling thread may wait for others: it holds no pin, load or write-back of any cache.
pub fn may_wait() -> bool {
    !thread_holds_something()
}
