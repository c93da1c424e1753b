//! A cache in front of a store that many workers share: loads that happen once, stores that lose no update, write-backs
//! without a lock. The engine's part is in `core::write_back` and `core::loads`; `adapters::builder` puts types on top.
//!
//! Who waits for whom: a worker that holds nothing of a cache (no ticket, no load, no pin) may wait there for those that do.
//! One that holds something does not wait: it is told [`Step::Blocked`] or [`LoadStep::Taken`] and finds another way. So
//! whoever is waited for goes on, and no circle of waiting workers can close.
//!
//! Locking: one partition at a time, as everywhere; nothing of the caller's runs under it. Tickets and loads are guards:
//! dropped without having been finished, as by an error that unwinds, they are undone.
#![allow(unsafe_code)]

use std::time::{Duration, Instant};

use super::cache::SharedCache;
use super::held::Held;
use super::lock::Locks;
use crate::core::evicted::Evicted;
use crate::core::ids::EntryId;
use crate::core::loads::Claim;
use crate::core::partition::{hash_key, Key, PushError, Put};
use crate::core::write_back::{Expected, Stored, Version};

/// How long to wait before looking again, whatever is known of the others.
const WAIT_SLICE: Duration = Duration::from_millis(20);

/// The right, and the duty, to write an entry back that has to make way.
///
/// The entry stays in the cache meanwhile. Dropped without [`Ticket::finish`] it stays for good, dirty as it was.
pub struct Ticket<'a, L: Locks> {
    cache: &'a SharedCache<L>,
    number: usize,
    partition: usize,
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
    /// it stays, dirty.
    pub fn finish(self) -> bool {
        self.cache.held.forget(self.number);
        let key = self.cache.key(self.key()).1;
        let gone = self.cache.exclusive(self.partition, |partition| partition.finish_ticket(key, self.version));
        self.cache.locks.wake(self.partition);
        gone
    }
}

impl<L: Locks> Drop for Ticket<'_, L> {
    fn drop(&mut self) {
        if let Some(held) = self.cache.held.forget(self.number) {
            self.cache.release(held);
        }
    }
}

/// The right to load an absent key while others wait for it. Dropped, it is the others' turn.
pub struct Load<'a, L: Locks> {
    cache: &'a SharedCache<L>,
    number: usize,
    partition: usize,
    claim: usize,
}

impl<L: Locks> Drop for Load<'_, L> {
    fn drop(&mut self) {
        if let Some(held) = self.cache.held.forget(self.number) {
            self.cache.release(held);
        }
    }
}

/// What must hold for a value to be stored.
pub enum Condition<'c, 'a, L: Locks> {
    /// Nothing.
    None,
    /// The key has this value.
    Version(Version),
    /// The key was not stored since this load began. The value is what the store has, so the entry is clean.
    Loaded(&'c Load<'a, L>),
}

/// What a conditional store did.
pub enum Step<'a, L: Locks> {
    /// The value is in; a load that brought it is over.
    Done(Put, Version),
    /// The condition does not hold; a load that brought the value is over.
    Stale,
    /// A dirty entry must make way. Write it back, finish the ticket, and try again.
    WriteBack(Ticket<'a, L>),
    /// Every entry that could make way is pinned, or being written back by somebody.
    Blocked(Blocked),
}

/// What is in the way of a store: the state of a partition in which no entry could make way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocked {
    partition: usize,
    settled: u64,
}

/// What became of the wish to load a key.
pub enum LoadStep<'a, L: Locks> {
    /// The caller loads it.
    Yours(Load<'a, L>),
    /// Another worker loads it, or all claims are in use.
    Taken,
    /// It is in the cache by now.
    Present,
}

impl<L: Locks> SharedCache<L> {
    /// As [`SharedCache::get`], with the value's version.
    pub fn get_versioned(&self, key: &[u8], out: &mut Vec<u8>) -> Option<Version> {
        out.clear();
        self.read(self.key(key), |partition, entry| {
            partition.copy_value(entry, out);
            partition.version_of(entry)
        })
    }

    /// Stores a value if `condition` holds. Clean entries that must make way are dropped, and added to `dropped`.
    ///
    /// # Errors
    ///
    /// The key or the entry is too large.
    pub fn store_if(
        &self,
        key: &[u8],
        value: &[u8],
        condition: &Condition<'_, '_, L>,
        dropped: &mut u32,
    ) -> Result<Step<'_, L>, PushError> {
        let (index, key) = self.key(key);
        let (expected, load) = match condition {
            Condition::None => (Expected::Anything, None),
            Condition::Version(version) => (Expected::Version(*version), None),
            Condition::Loaded(load) => (Expected::Claim(load.claim), Some(*load)),
        };
        let mut entry = Evicted::default();
        let stored = self.exclusive(index, |partition| {
            let stored = partition.store_if(key, value, expected, dropped, &mut entry);
            if let (Some(load), Ok(Stored::Done(..) | Stored::Stale)) = (load, &stored) {
                // Under the same lock, so that nobody finds the key loaded and still claimed.
                partition.release_load(load.claim, std::process::id());
            }
            stored
        })?;
        Ok(match stored {
            Stored::Done(put, version) => {
                self.end_load(load);
                Step::Done(put, version)
            }
            Stored::Stale => {
                self.end_load(load);
                Step::Stale
            }
            Stored::MustWriteBack(version) => {
                let held = Held::Ticket { partition: index, key: entry.get(0).0.into() };
                Step::WriteBack(Ticket { cache: self, number: self.held.note(held), partition: index, version, entry })
            }
            Stored::Blocked { settled } => Step::Blocked(Blocked { partition: index, settled }),
        })
    }

    fn end_load(&self, load: Option<&Load<'_, L>>) {
        if let Some(load) = load {
            self.held.forget(load.number);
            self.locks.wake(load.partition);
        }
    }

    /// Asks for the right to load an absent key.
    pub fn claim_load(&self, key: &[u8]) -> LoadStep<'_, L> {
        let (index, key) = self.key(key);
        match self.exclusive(index, |partition| partition.claim_load(key, std::process::id())) {
            Claim::Granted(claim) => {
                let number = self.held.note(Held::Load { partition: index, claim });
                LoadStep::Yours(Load { cache: self, number, partition: index, claim })
            }
            Claim::Taken | Claim::TooMany => LoadStep::Taken,
            Claim::Present => LoadStep::Present,
        }
    }

    /// Whether this handle holds a ticket, a load or a pin: then it must not wait for others.
    pub fn holds_something(&self) -> bool {
        !self.held.is_empty()
    }

    /// Waits a moment, or until a ticket or a load of the partition comes to an end.
    pub fn wait_for_room(&self, blocked: Blocked) {
        let started = Instant::now();
        self.locks.wait(blocked.partition, &mut || {
            started.elapsed() > WAIT_SLICE
                || self.shared(blocked.partition, |partition| partition.settled() != blocked.settled)
        });
    }

    /// Waits a moment, or until nobody loads this key any more. Loads of processes that died are given up.
    pub fn wait_for_load(&self, key: &[u8]) {
        let (index, key) = self.key(key);
        let started = Instant::now();
        let mut is_slow = false;
        self.locks.wait(index, &mut || {
            is_slow = started.elapsed() > WAIT_SLICE;
            is_slow || self.shared(index, |partition| !partition.is_loading(key))
        });
        if is_slow {
            self.forget_loads_of_the_dead(index);
        }
    }

    fn forget_loads_of_the_dead(&self, partition: usize) {
        for owner in self.shared(partition, |partition| partition.load_owners()) {
            if !is_alive(owner) {
                self.exclusive(partition, |partition| partition.forget_loads_of(owner));
            }
        }
    }

    /// Entries being written back, entries pinned, and loads in flight, of the whole cache. Costs a walk over it.
    pub fn under_way(&self) -> UnderWay {
        let mut sum = UnderWay::default();
        for index in 0..self.partition_count() {
            self.shared(index, |partition| {
                sum.tickets += u64::from(partition.tickets());
                sum.loads += u64::from(partition.loading());
                sum.pins += u64::from(partition.pinned_count());
            });
        }
        sum
    }

    /// The value of the entry with this id, and whether it is dirty; `None` if the entry is gone. No use of the entry.
    pub fn value_of(&self, id: EntryId, out: &mut Vec<u8>) -> Option<bool> {
        let (index, entry) = self.place_of(id);
        self.shared(index, |partition| {
            let entry = partition.resolve(entry, id.generation().get())?;
            partition.copy_value(entry, out);
            Some(partition.is_dirty(entry))
        })
    }

    /// Removes the entry with this id; `false` if it is gone.
    pub fn take_out(&self, id: EntryId) -> bool {
        let (index, entry) = self.place_of(id);
        self.exclusive(index, |partition| match partition.resolve(entry, id.generation().get()) {
            Some(entry) => {
                partition.take_out(entry);
                true
            }
            None => false,
        })
    }

    /// Gives back what a handle of this process holds. Must not unwind.
    pub(super) fn release(&self, held: Held) {
        match held {
            Held::Pin(pin) => self.release_pin(pin),
            Held::Ticket { partition, key } => {
                let key = Key { bytes: &key, hash: hash_key(&key, self.hash_seed) };
                self.clean_up(partition, |partition| partition.cancel_ticket(key));
                self.locks.wake(partition);
            }
            Held::Load { partition, claim } => {
                self.clean_up(partition, |partition| partition.release_load(claim, std::process::id()));
                self.locks.wake(partition);
            }
        }
    }
}

/// What workers have under way in a cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnderWay {
    /// Entries being written back.
    pub tickets: u64,
    /// Keys being loaded.
    pub loads: u64,
    /// Entries that readers have pinned.
    pub pins: u64,
}

impl UnderWay {
    /// All together.
    pub fn total(self) -> u64 {
        self.tickets + self.loads + self.pins
    }
}

/// Whether there is such a process. One that has ended and was not waited for yet counts as alive.
fn is_alive(process: u32) -> bool {
    // SAFETY: signal 0 is none; the call only looks.
    let found = unsafe { libc::kill(process as libc::pid_t, 0) } == 0;
    found || std::io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH)
}
