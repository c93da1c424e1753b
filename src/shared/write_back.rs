//! A cache in front of a store that many workers share: loads that happen once, stores that lose no update, write-backs
//! without a lock. The engine's part is in `engine::write_back` and `engine::claims`; `adapters::builder` puts types on top.
//!
//! Who waits for whom: a thread that holds nothing (no pin, no claim, of any cache) may wait for those that do. One that
//! holds something does not wait: it is told [`Step::Blocked`] or [`LoadStep::Taken`] and finds another way. So whoever is
//! waited for goes on, and no circle of waiting workers can close.
//!
//! Locking: one partition at a time, as everywhere; nothing of the caller's runs under it. Tickets and loads are guards:
//! dropped without having been finished, as by an error that unwinds, they are undone.

use std::marker::PhantomData;
use std::time::{Duration, Instant};

use super::cache::SharedCache;
use super::lock::Locks;
use super::process::is_alive;
use super::resources::{HeldResource, Registration, thread_holds_something};
use crate::engine::evicted::{Evicted, OnEvict};
use crate::engine::flight::inflight::{Concurrency, LeaseId};
use crate::engine::flight::version::Version;
use crate::engine::hash::KeyHash;
use crate::engine::ids::{EntryId, EntryIndex};
use crate::engine::partition::{Expected, LoadOutcome, Partition, PushError, Put, StoreOutcome, WriteBack};
use crate::engine::work::Work;

/// How long to wait before looking again, whatever is known of the others.
const WAIT_SLICE: Duration = Duration::from_millis(20);

/// A claim that is given back when this drops. Belongs to the thread that made it.
struct LeaseGuard<'a, L: Locks> {
    cache: &'a SharedCache<L>,
    partition: usize,
    lease: LeaseId,
    registration: Registration,
    has_ended: bool,
    thread: PhantomData<*const ()>,
}

impl<'a, L: Locks> LeaseGuard<'a, L> {
    fn new(cache: &'a SharedCache<L>, partition: usize, lease: LeaseId) -> Self {
        let registration = cache.resources.register(HeldResource::Lease { partition, lease });
        LeaseGuard { cache, partition, lease, registration, has_ended: false, thread: PhantomData }
    }

    /// Whether the claim is still this process's: not given back by `release_all`, not inherited over `fork`.
    fn is_held(&self) -> bool {
        self.cache.resources.is_held(self.registration)
    }

    /// Notes that the claim was ended, under the lock that its end belongs to.
    fn set_ended(&mut self) {
        self.has_ended = true;
    }
}

impl<L: Locks> Drop for LeaseGuard<'_, L> {
    fn drop(&mut self) {
        let held = self.cache.resources.unregister(self.registration);
        if self.has_ended {
            self.cache.locks.wake(self.partition);
        } else if let Some(held) = held {
            self.cache.release(held);
        }
    }
}

/// The right, and the duty, to write an entry back that has to make way.
///
/// The entry stays in the cache meanwhile. Dropped without [`Ticket::finish`] it stays for good, dirty as it was.
pub struct Ticket<'a, L: Locks> {
    guard: LeaseGuard<'a, L>,
    version: Version,
    entry: Evicted,
}

impl<L: Locks> Ticket<'_, L> {
    /// The key.
    pub fn key(&self) -> &[u8] {
        self.entry.get(0).0
    }

    /// The value to be written.
    pub fn value(&self) -> &[u8] {
        self.entry.get(0).1
    }

    /// Says that the value is written. `true` if the entry has gone; `false` if its value was changed meanwhile, so that
    /// it stays, dirty; or if the ticket is none any more: given back by [`SharedCache::release_all`], or inherited over
    /// `fork`.
    pub fn finish(mut self) -> bool {
        let guard = &mut self.guard;
        if !guard.is_held() {
            return false;
        }
        let (lease, version) = (guard.lease, self.version);
        let gone = guard.cache.exclusive(guard.partition, |partition| partition.finish_write(lease, version));
        guard.set_ended();
        gone
    }
}

/// The right to load an absent key while others wait for it. Dropped, it is the others' turn.
pub struct Load<'a, L: Locks> {
    guard: LeaseGuard<'a, L>,
    absent: Version,
    /// Of the key that is loaded.
    hash: KeyHash,
}

impl<L: Locks> Load<'_, L> {
    /// The version of what is loaded, as long as it is not in the cache; or of the key's absence.
    pub fn version(&self) -> Version {
        self.absent
    }
}

/// What must hold for a value to be stored.
pub enum Condition<'c, 'a, L: Locks> {
    /// Nothing.
    None,
    /// The key has this value, or is absent as it was.
    Version(Version),
    /// The key was not stored since this load began. The value is what the store has, so the entry is clean.
    Loaded(&'c mut Load<'a, L>),
}

/// What a conditional store did.
pub enum Step<'a, L: Locks> {
    /// The value is in; a load that brought it is over.
    Done(Put, Version),
    /// The condition does not hold; a load that brought the value is over.
    Stale,
    /// A dirty entry must make way. Write it back, finish the ticket, and try again.
    WriteBack(Ticket<'a, L>),
    /// Every entry that could make way is pinned, or in some worker's hands.
    Blocked(Blocked),
    /// A worker died in the middle of a change, and the partition's entries are lost: so is what was built from them.
    Lost,
}

/// What is in the way: the state of a partition in which nothing could be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocked {
    partition: usize,
    completed: u64,
}

/// What became of the wish to load a key.
pub enum LoadStep<'a, L: Locks> {
    /// The caller loads it.
    Yours(Load<'a, L>),
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
    ) -> Result<Step<'_, L>, PushError> {
        let (index, key) = self.key(key);
        let expected = match condition {
            Condition::None => Expected::Anything,
            Condition::Version(version) => Expected::Version(*version),
            Condition::Loaded(load) if load.hash != key.hash => panic!("a load stores the key that it was granted for"),
            Condition::Loaded(load) if !load.guard.is_held() => return Ok(Step::Stale),
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
                let stored = partition.store_if(key, value, expected, &mut write_back, &mut work)?;
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
        let Some(stored) = stored else { return Ok(Step::Lost) };
        if let (Condition::Loaded(load), StoreOutcome::Stored(..) | StoreOutcome::Stale) = (condition, stored) {
            load.guard.set_ended();
            self.locks.wake(index);
        }
        Ok(match stored {
            StoreOutcome::Stored(put, version) => Step::Done(put, version),
            StoreOutcome::Stale => Step::Stale,
            StoreOutcome::WriteBack(lease, version) => {
                Step::WriteBack(Ticket { guard: LeaseGuard::new(self, index, lease), version, entry })
            }
            StoreOutcome::Blocked { completed } => Step::Blocked(Blocked { partition: index, completed }),
        })
    }

    /// Asks for the right to load an absent key; beside another worker that loads it only if that is said to do.
    pub fn claim_load(&self, key: &[u8], beside_another: bool) -> LoadStep<'_, L> {
        let (index, key) = self.key(key);
        let concurrency = if beside_another { Concurrency::AllowDuplicate } else { Concurrency::Single };
        let (outcome, completed) = self.exclusive(index, |partition| {
            (partition.lease_load(key, std::process::id(), concurrency), partition.completed_leases())
        });
        match outcome {
            LoadOutcome::Leased(lease, absent) => {
                LoadStep::Yours(Load { guard: LeaseGuard::new(self, index, lease), absent, hash: key.hash })
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
            self.end_claims_of_the_dead(index);
        }
    }

    /// Ends what processes had in hand that died without giving it back.
    pub fn end_claims_of_all_dead(&self) {
        (0..self.partition_count()).for_each(|index| self.end_claims_of_the_dead(index));
    }

    fn end_claims_of_the_dead(&self, index: usize) {
        let mut owners = self.shared(index, |partition| partition.lease_owners());
        owners.dedup();
        for owner in owners {
            if !is_alive(owner) {
                self.exclusive(index, |partition| partition.release_leases_of(owner));
                self.locks.wake(index);
            }
        }
    }

    /// What is under way in the whole cache. Costs a walk over it.
    pub fn under_way(&self) -> UnderWay {
        let mut sum = UnderWay::default();
        for index in 0..self.partition_count() {
            let (loads, writes) = self.shared(index, |partition| partition.lease_counts());
            sum.loads += u64::from(loads);
            sum.writes += u64::from(writes);
            sum.pins += self.pinned_in(index);
        }
        sum
    }

    /// Times that each partition was found left half-way by a process that died, and emptied.
    pub fn resets(&self) -> Vec<u64> {
        (0..self.partition_count()).map(|index| self.shared(index, |partition| partition.resets())).collect()
    }

    /// The value of the entry with this id, its version, and whether it is dirty; `None` if the entry is gone. No use of
    /// the entry.
    pub fn value_of(&self, id: EntryId, out: &mut Vec<u8>) -> Option<(Version, bool)> {
        let (index, entry) = self.place_of(id);
        self.shared(index, |partition| {
            let entry = partition.resolve(entry, id.generation().get())?;
            out.clear();
            partition.copy_parts(entry, |part| out.extend_from_slice(part));
            Some((partition.version_of_entry(entry), partition.is_dirty(entry)))
        })
    }

    /// Removes the entry with this id if it has this version; `false` if not.
    pub fn take_out(&self, id: EntryId, version: Version) -> bool {
        let (index, entry) = self.place_of(id);
        self.exclusive(index, |partition| {
            let found: Option<EntryIndex> = partition.resolve(entry, id.generation().get());
            found.is_some_and(|entry| partition.remove_if(entry, version))
        })
    }
}

/// Whether the calling thread holds a pin, a ticket or a load of any cache: then it must not wait for others.
pub fn may_wait() -> bool {
    !thread_holds_something()
}

/// What workers have under way in a cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnderWay {
    /// Entries being written back.
    pub writes: u64,
    /// Keys being loaded.
    pub loads: u64,
    /// Entries that readers have pinned.
    pub pins: u64,
}

impl UnderWay {
    /// All together.
    pub fn total(self) -> u64 {
        self.writes + self.loads + self.pins
    }
}
