//! The pins that this process holds: entries whose bytes a closure is reading without a lock.
//!
//! A pin is normally taken back when its guard drops. A PostgreSQL backend that exits by FATAL runs no
//! destructors, so every pin is also noted in a registry (`slab`), which an exit callback empties through
//! [`PinRegistry::release_all`].

use std::sync::{Mutex, PoisonError};

use slab::Slab;

use crate::core::ids::EntryIndex;

/// A pin on one entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pin {
    pub(super) partition: usize,
    pub(super) entry: EntryIndex,
    pub(super) generation: u32,
}

/// All pins that one handle of a cache holds.
#[derive(Default)]
pub(super) struct PinRegistry(Mutex<Slab<Pin>>);

impl PinRegistry {
    pub(super) fn note(&self, pin: Pin) -> usize {
        self.lock().insert(pin)
    }

    pub(super) fn forget(&self, key: usize) -> Option<Pin> {
        self.lock().try_remove(key)
    }

    pub(super) fn take_all(&self) -> Vec<Pin> {
        self.lock().drain().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Slab<Pin>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
