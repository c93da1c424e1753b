//! What this process holds in a cache: pins, tickets, claims of loads.
//!
//! Each is normally given back when its guard drops, also when a panic (or PostgreSQL's ERROR) unwinds. A PostgreSQL
//! backend that exits by FATAL runs no destructors, so everything held is also noted in a registry (`slab`), which an
//! exit callback empties through [`SharedCache::release_all`](super::cache::SharedCache::release_all).

use std::sync::{Mutex, MutexGuard, PoisonError};

use slab::Slab;

use crate::core::ids::EntryIndex;

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
    /// The write-back of this key's value.
    Ticket { partition: usize, key: Box<[u8]> },
    /// The load of an absent key.
    Load { partition: usize, claim: usize },
}

/// All that one handle of a cache holds.
#[derive(Default)]
pub(super) struct HeldRegistry(Mutex<Slab<Held>>);

impl HeldRegistry {
    pub(super) fn note(&self, held: Held) -> usize {
        self.lock().insert(held)
    }

    pub(super) fn forget(&self, number: usize) -> Option<Held> {
        self.lock().try_remove(number)
    }

    pub(super) fn take_all(&self) -> Vec<Held> {
        self.lock().drain().collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Slab<Held>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
