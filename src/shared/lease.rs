//! A lease of a key that this process has, as a guard: to load it, to write it back, or to take it out.
//!
//! Invariants: a lease ends once, by its guard or by [`SharedCache::release_all`], whichever comes first; and who waits
//! for it is woken after that.
//!
//! Locking: its partition's exclusive lock where it ends. Not here: what the lease is for (`write_back`, `take_out`).

use std::marker::PhantomData;

use super::cache::SharedCache;
use super::lock::Locks;
use super::resources::{HeldResource, Registration};
use crate::engine::flight::inflight::LeaseId;
use crate::engine::partition::Partition;

/// A lease that is given back when this drops. Belongs to the thread that made it.
pub(super) struct LeaseGuard<'a, L: Locks> {
    cache: &'a SharedCache<L>,
    partition: usize,
    pub(super) lease: LeaseId,
    registration: Registration,
    has_ended: bool,
    thread: PhantomData<*const ()>,
}

impl<'a, L: Locks> LeaseGuard<'a, L> {
    pub(super) fn new(cache: &'a SharedCache<L>, partition: usize, lease: LeaseId) -> Self {
        let registration = cache.resources.register(HeldResource::Lease { partition, lease });
        LeaseGuard { cache, partition, lease, registration, has_ended: false, thread: PhantomData }
    }

    /// Whether the lease is still this process's: not given back by `release_all`, not inherited over `fork`.
    pub(super) fn is_held(&self) -> bool {
        self.cache.resources.is_held(self.registration)
    }

    /// Notes that the lease was ended, under the lock that its end belongs to.
    pub(super) fn set_ended(&mut self) {
        self.has_ended = true;
    }

    /// Ends the lease under its partition's lock by `end`, and answers what that answers; `false` if the lease is this
    /// process's no longer.
    pub(super) fn finish(mut self, end: impl FnOnce(&mut Partition, LeaseId) -> bool) -> bool {
        if !self.is_held() {
            return false;
        }
        let answer = self.cache.exclusive(self.partition, |partition| end(partition, self.lease));
        self.set_ended();
        answer
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
