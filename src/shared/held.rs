//! What this process holds in a cache: pins, and claims of keys that it loads or writes back.
//!
//! Each is normally given back when its guard drops, also when a panic (or PostgreSQL's ERROR) unwinds. A PostgreSQL
//! backend that exits by FATAL runs no destructors, so everything held is also noted in a registry (`slab`), which an
//! exit callback empties through [`SharedCache::release_all`](super::cache::SharedCache::release_all).
//!
//! A thread counts what it holds in all caches together: who holds something must not wait for others, in any cache.

use std::cell::Cell;
use std::sync::{Mutex, MutexGuard, PoisonError};

use slab::Slab;

use crate::engine::claims::ClaimId;
use crate::engine::ids::EntryIndex;

thread_local! {
    static HELD_BY_THREAD: Cell<usize> = const { Cell::new(0) };
}

/// Whether the calling thread holds something of any cache.
pub(super) fn thread_holds_something() -> bool {
    HELD_BY_THREAD.get() > 0
}

/// A pin on one entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pin {
    pub(super) partition: usize,
    pub(super) entry: EntryIndex,
    pub(super) generation: u32,
}

/// Something that others of the cache's users must get back.
#[derive(Clone, Debug)]
pub(super) enum Held {
    /// Bytes that a closure is reading without a lock.
    Pin(Pin),
    /// A key that is being loaded or written back.
    Claim { partition: usize, claim: ClaimId },
}

/// All that one handle of a cache holds.
#[derive(Default)]
pub(super) struct HeldRegistry(Mutex<Slab<Held>>);

impl HeldRegistry {
    /// Notes something held. Whoever does so calls `forget` once with the number, in the same thread.
    pub(super) fn note(&self, held: Held) -> usize {
        HELD_BY_THREAD.set(HELD_BY_THREAD.get() + 1);
        self.lock().insert(held)
    }

    /// What was noted under this number; `None` if the exit callback has it.
    pub(super) fn forget(&self, number: usize) -> Option<Held> {
        HELD_BY_THREAD.set(HELD_BY_THREAD.get() - 1);
        self.lock().try_remove(number)
    }

    /// Empties the registry for good: from here on nobody forgets anything of it.
    pub(super) fn take_all(&self) -> Vec<Held> {
        std::mem::take(&mut *self.lock()).drain().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Slab<Held>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
