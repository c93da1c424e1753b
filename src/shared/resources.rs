//! What this process holds in a cache: pins, and leases of keys that it loads or writes back.
//!
//! Each is given back when its guard drops, also when a panic (or PostgreSQL's ERROR) unwinds. A PostgreSQL backend that
//! exits by FATAL runs no destructors, so everything held is also registered (`slab`), and an exit callback empties the
//! registry through [`SharedCache::release_all`].
//!
//! Invariants:
//! - A resource is given back once: by its guard, or by `release_all` if that came first. A [`Registration`] is never
//!   used again, so a guard that outlives `release_all` finds nothing, whatever was registered since.
//! - A resource is given back by the process that took it. A child that inherits guards over `fork` inherits none of what
//!   they stand for: there they find nothing.
//!
//! Locking: the registry has a mutex of this process; the partition's lock is taken after it was let go.
//!
//! A thread counts what it holds in all caches together: who holds something must not wait for others, in any cache.

use std::cell::Cell;
use std::sync::{Mutex, MutexGuard, PoisonError};

use slab::Slab;

use super::cache::SharedCache;
use super::lock::Locks;
use super::process;
use crate::engine::entry::record::Pin;
use crate::engine::flight::inflight::LeaseId;

thread_local! {
    static HELD_BY_THREAD: Cell<usize> = const { Cell::new(0) };
}

/// Whether the calling thread holds something of any cache.
pub(super) fn thread_holds_something() -> bool {
    HELD_BY_THREAD.get() > 0
}

/// Something that others of the cache's users must get back.
#[derive(Clone, Copy, Debug)]
pub(super) enum HeldResource {
    /// Bytes that a closure is reading without a lock.
    Pin { partition: usize, pin: Pin },
    /// A key that is being loaded or written back.
    Lease { partition: usize, lease: LeaseId },
    /// Memory for a large value that is not complete.
    Reservation { partition: usize, pin: Pin },
}

/// Names a registered resource.
#[derive(Clone, Copy, Debug)]
pub(super) struct Registration {
    era: u64,
    key: usize,
}

/// All that one handle of a cache holds.
#[derive(Debug)]
pub(super) struct ResourceRegistry(Mutex<Registered>);

#[derive(Debug)]
struct Registered {
    /// Of the process that registered them.
    forks: u64,
    /// Raised whenever the resources go together; those registered before have another one.
    era: u64,
    resources: Slab<HeldResource>,
}

impl Default for ResourceRegistry {
    fn default() -> Self {
        process::watch_forks();
        ResourceRegistry(Mutex::new(Registered { forks: process::forks(), era: 0, resources: Slab::new() }))
    }
}

impl ResourceRegistry {
    /// Registers a resource. Whoever does so calls `unregister` once, in the same thread.
    pub(super) fn register(&self, resource: HeldResource) -> Registration {
        HELD_BY_THREAD.set(HELD_BY_THREAD.get() + 1);
        let mut registered = self.lock();
        Registration { era: registered.era, key: registered.resources.insert(resource) }
    }

    /// The resource, which the caller gives back; `None` if that was done, or is another process's to do.
    pub(super) fn unregister(&self, registration: Registration) -> Option<HeldResource> {
        HELD_BY_THREAD.set(HELD_BY_THREAD.get() - 1);
        let mut registered = self.lock();
        (registered.era == registration.era).then(|| registered.resources.remove(registration.key))
    }

    /// Whether the resource is still this process's.
    pub(super) fn is_held(&self, registration: Registration) -> bool {
        self.lock().era == registration.era
    }

    /// Everything that is registered, which the caller gives back.
    fn take_all(&self) -> Slab<HeldResource> {
        let mut registered = self.lock();
        registered.era += 1;
        std::mem::take(&mut registered.resources)
    }

    fn lock(&self) -> MutexGuard<'_, Registered> {
        let mut registered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let forks = process::forks();
        if registered.forks != forks {
            // All of it is the parent's.
            *registered = Registered { forks, era: registered.era + 1, resources: Slab::new() };
        }
        registered
    }
}

/// A pin that is dropped with this.
pub(super) struct PinGuard<'a, L: Locks> {
    cache: &'a SharedCache<L>,
    registration: Registration,
}

impl<'a, L: Locks> PinGuard<'a, L> {
    pub(super) fn new(cache: &'a SharedCache<L>, partition: usize, pin: Pin) -> Self {
        PinGuard { cache, registration: cache.resources.register(HeldResource::Pin { partition, pin }) }
    }
}

impl<L: Locks> Drop for PinGuard<'_, L> {
    fn drop(&mut self) {
        if let Some(pin) = self.cache.resources.unregister(self.registration) {
            self.cache.release(pin);
        }
    }
}

impl<L: Locks> SharedCache<L> {
    /// Gives back every pin, write-back and load that this handle holds in this process: for exit callbacks, where
    /// destructors do not run. The guards of what was given back do nothing from here on: a write-back that is finished says
    /// `false`, a load that is stored is stale. The handle can be used on.
    ///
    /// Takes the lock of each resource's partition, where there is need to, one after the other.
    ///
    /// # Safety
    ///
    /// - No closure given to [`SharedCache::with`] of this handle, nor of one that shares its registry, runs any more in
    ///   this process: the bytes that it was given may change from here on.
    #[allow(unsafe_code)] // a contract; nothing unsafe is done here
    pub unsafe fn release_all(&self) {
        for (_, resource) in self.resources.take_all() {
            self.release(resource);
        }
    }

    /// Gives a resource back that is not registered any more. Must not unwind.
    pub(super) fn release(&self, resource: HeldResource) {
        match resource {
            HeldResource::Pin { partition, pin } => {
                if self.unlocked(partition).unpin(pin) {
                    self.clean_up(partition, |partition| partition.free_unpinned(pin));
                }
            }
            HeldResource::Lease { partition, lease } => {
                self.clean_up(partition, |partition| partition.release_lease(lease));
                self.locks().wake(partition);
            }
            HeldResource::Reservation { partition, pin } => {
                self.clean_up(partition, |partition| partition.cancel_large(pin));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ids::EntryIndex;

    fn pin(number: u32) -> HeldResource {
        HeldResource::Pin { partition: 0, pin: Pin { entry: EntryIndex(number), generation: 1 } }
    }

    fn number(resource: Option<HeldResource>) -> Option<u32> {
        resource.map(|resource| match resource {
            HeldResource::Pin { pin, .. } => pin.entry.0,
            other => panic!("only pins were registered, not {other:?}"),
        })
    }

    #[test]
    fn a_registration_names_one_resource_for_ever() {
        let registry = ResourceRegistry::default();
        let (first, second) = (registry.register(pin(1)), registry.register(pin(2)));
        assert_eq!(number(registry.unregister(first)), Some(1));
        assert_eq!(registry.take_all().len(), 1);
        let third = registry.register(pin(3));
        assert!(!registry.is_held(second) && registry.is_held(third));
        assert_eq!(number(registry.unregister(second)), None);
        assert_eq!(number(registry.unregister(third)), Some(3));
        assert!(!thread_holds_something());
    }
}
