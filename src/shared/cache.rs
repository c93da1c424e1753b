//! One cache for many users: partitions of the engine, and the doors to them.
//!
//! A key's hash picks its partition; an operation takes that partition's lock and no other. There are three doors, which
//! give three types: `SharedCache::unlocked` an `UnlockedPartition`, `shared` a `&Partition`, `exclusive` a
//! `&mut Partition`. What an operation has to do beyond the bounded work of one hold it does in the next: nothing is held
//! in between.
//!
//! Whoever takes a lock and finds the partition damaged resets it first. A check of the engine that fails while a lock is
//! held marks the partition as damaged, so that the next user does.
//!
//! Not here: the operations (`read`, `write`, `inspect` and so on), what keys and values mean (`adapters`), where
//! PostgreSQL's memory and locks come from (`pg`).
#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::backing::Backing;
use super::lock::{Guard, LockMode, Locks, NoLocks};
use super::resources::ResourceRegistry;
use super::wall_clock::WallClock;
use crate::engine::config::Resolved;
use crate::engine::counters::Stripe;
use crate::engine::hash::Key;
use crate::engine::index::optimistic::UnlockedPartition;
use crate::engine::layout::Layout;
use crate::engine::limits::STRIPE_COUNT;
use crate::engine::memory::region::Region;
use crate::engine::partition::Partition;

/// An LRU cache of byte strings whose memory many processes may share.
///
/// All methods take `&self`. Keys and values are bytes here; [`TypedCache`](crate::TypedCache) puts types on top.
///
/// | to store | when | if entries must make way |
/// |---|---|---|
/// | [`put`](SharedCache::put), [`put_with`](SharedCache::put_with) | always | they are dropped |
/// | [`put_versioned`](SharedCache::put_versioned) | always; gives the version | they are dropped |
/// | [`push`](SharedCache::push), [`push_with`](SharedCache::push_with) | always | they are collected |
/// | [`put_if_absent`](SharedCache::put_if_absent) | if the key has no value | they are dropped |
/// | [`put_if_version`](SharedCache::put_if_version) | if the key has the value that was read | they are dropped |
/// | [`put_while`](SharedCache::put_while), [`put_if_version_while`](SharedCache::put_if_version_while) | if a condition still holds | they are dropped |
/// | [`put_if_room`](SharedCache::put_if_room) | if none must | the value is refused |
/// | `store_if` | on a condition | dirty ones are written back first: see `shared::write_back` |
///
/// Those that take an [`Expiry`](crate::Expiry) say how long an entry lives; from then on it is as good as absent.
///
/// What copies a value into memory of its own ([`get`](SharedCache::get), `get_versioned`, `peek`, `with`, `remove`, `pop_lru`)
/// panics or aborts if there is none. Who has to go on without does not call these, but [`try_get`](SharedCache::try_get), or what copies into
/// room of the caller's: [`get_within`](SharedCache::get_within), [`get_within_versioned`](SharedCache::get_within_versioned),
/// [`peek_within`](SharedCache::peek_within), [`drain_within`](SharedCache::drain_within).
///
/// # Examples
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use pg_shared_lru::{Config, SharedCache};
/// let cache = SharedCache::private(&Config::bytes(1 << 20))?;
/// cache.put(b"key", b"value")?;
/// let mut value = Vec::new();
/// assert!(cache.get(b"key", &mut value));
/// assert_eq!(value, b"value");
/// assert_eq!(cache.with(b"key", |value| value.len()), Some(5));
/// # Ok(())
/// # }
/// ```
pub struct SharedCache<L: Locks = NoLocks> {
    pub(super) partitions: Vec<UnsafeCell<Partition>>,
    /// The same partitions, for what needs no lock.
    pub(super) unlocked: Vec<UnlockedPartition>,
    pub(super) locks: L,
    pub(super) resources: Arc<ResourceRegistry>,
    pub(super) region: Region,
    pub(super) layout: Arc<Layout>,
    /// Whether a hit moves its entry, so that `get` needs the exclusive lock.
    pub(super) promotes_on_hit: bool,
    /// The counters of reads that take no lock, if not in the region.
    pub(super) stripes: Option<&'static [Stripe]>,
    pub(super) hash_seed: u64,
    pub(super) type_tag: u64,
    /// When the region was created, in milliseconds since 1970.
    pub(super) epoch_ms: u64,
    pub(super) wall_clock: WallClock,
    pub(super) backing: Backing,
}

// SAFETY: a partition is only reached under its lock (`exclusive`, `shared`), so what the locks allow between threads
// is sound; everything else is immutable or synchronised by itself.
unsafe impl<L: Locks + Sync> Sync for SharedCache<L> {}
// SAFETY: as above, and nothing in it belongs to a thread.
unsafe impl<L: Locks + Send> Send for SharedCache<L> {}

/// Marks a partition as damaged if it drops before it is disarmed: a check has failed while its lock was held.
struct DamageGuard<'a>(&'a UnlockedPartition);

impl DamageGuard<'_> {
    #[inline]
    fn disarm(self) {
        std::mem::forget(self);
    }
}

impl Drop for DamageGuard<'_> {
    #[cold]
    fn drop(&mut self) {
        self.0.mark_damaged();
    }
}

impl<L: Locks> SharedCache<L> {
    /// The tag of the types of keys and values that the cache was created with; 0 for plain bytes.
    pub fn type_tag(&self) -> u64 {
        self.type_tag
    }

    /// The configuration, with every value fixed.
    pub fn resolved(&self) -> Resolved {
        Resolved::of(&self.layout)
    }

    /// Sizes and offsets: for tests that damage a region.
    #[doc(hidden)]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// A number that no other cache has, nor the same one made anew.
    #[cfg(feature = "extension")]
    pub(crate) fn incarnation(&self) -> u64 {
        self.hash_seed
    }

    /// How many partitions there are.
    pub fn partition_count(&self) -> usize {
        self.partitions.len()
    }

    /// A key with its hash, and its partition.
    #[inline]
    pub(super) fn key<'a>(&self, bytes: &'a [u8]) -> (usize, Key<'a>) {
        let key = Key::new(bytes, self.hash_seed);
        (key.hash.partition(self.layout.geometry.partition_count), key)
    }

    /// Runs `change` on a partition under its exclusive lock.
    #[inline]
    pub(super) fn exclusive<R>(&self, partition: usize, change: impl FnOnce(&mut Partition) -> R) -> R {
        self.change(Guard::acquire(&self.locks, partition, LockMode::Exclusive), change)
    }

    /// As `exclusive`, but must not unwind.
    pub(super) fn clean_up<R>(&self, partition: usize, change: impl FnOnce(&mut Partition) -> R) -> R {
        self.change(Guard::acquire_for_cleanup(&self.locks, partition), change)
    }

    #[inline]
    fn change<R>(&self, guard: Guard<'_, L>, change: impl FnOnce(&mut Partition) -> R) -> R {
        let damage = DamageGuard(&self.unlocked[guard.partition()]);
        // SAFETY: the guard holds the exclusive lock, which keeps everybody else away (contract of `Locks`), and
        // `change` is code of this crate that takes no partition again.
        let partition = unsafe { &mut *self.partitions[guard.partition()].get() };
        if partition.is_damaged() {
            partition.reset();
        }
        let result = change(partition);
        damage.disarm();
        result
    }

    /// Runs `read` on a partition under its shared lock.
    #[inline]
    pub(super) fn shared<R>(&self, partition: usize, read: impl FnOnce(&Partition) -> R) -> R {
        let guard = Guard::acquire(&self.locks, partition, LockMode::Shared);
        let damage = DamageGuard(&self.unlocked[partition]);
        // SAFETY: the shared lock keeps writers away (contract of `Locks`).
        let view = unsafe { &*self.partitions[partition].get() };
        if view.is_damaged() {
            damage.disarm();
            drop(guard);
            return self.exclusive(partition, |partition| read(partition));
        }
        let result = read(view);
        damage.disarm();
        result
    }

    /// Reads what is pinned, without a lock. A check that fails marks the damage, under the lock.
    pub(super) fn read_pinned<'a, R>(&'a self, partition: usize, read: impl FnOnce(&'a UnlockedPartition) -> R) -> R {
        struct Failed<'a, L: Locks>(&'a SharedCache<L>, usize);
        impl<L: Locks> Drop for Failed<'_, L> {
            #[cold]
            fn drop(&mut self) {
                let Failed(cache, partition) = self;
                cache.clean_up(*partition, |_| cache.unlocked(*partition).mark_damaged());
            }
        }
        let failed = Failed(self, partition);
        let result = read(self.unlocked(partition));
        std::mem::forget(failed);
        result
    }

    /// A partition for what needs no lock.
    #[inline(always)]
    pub(super) fn unlocked(&self, partition: usize) -> &UnlockedPartition {
        &self.unlocked[partition]
    }

    #[inline(always)]
    pub(super) fn locks(&self) -> &L {
        &self.locks
    }

    /// Counts a read that did not take the exclusive lock.
    #[inline]
    pub(super) fn count_shared_read(&self, hit: bool) {
        // SAFETY: a call without arguments; on failure it returns -1, which the remainder maps into range too.
        let processor = unsafe { libc::sched_getcpu() } as usize;
        let stripe = &self.stripes()[processor % STRIPE_COUNT];
        let word = if hit { &stripe.hits } else { &stripe.misses };
        word.atomic().fetch_add(1, Ordering::Relaxed);
    }

    /// The counters of such reads: where nobody else's memory can take their place, even if the cache is dropped.
    pub(super) fn stripes(&self) -> &[Stripe] {
        self.stripes.unwrap_or_else(|| self.layout.stripes(&self.region))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::config::Config;

    fn damage(cache: &SharedCache<NoLocks>) {
        cache.unlocked(0).mark_damaged();
    }

    #[test]
    fn a_change_left_half_way_empties_the_partition_and_is_counted() {
        let cache = SharedCache::private(&Config::bytes(1 << 20).partitions(1)).unwrap();
        for number in 0..100u32 {
            cache.put(&number.to_be_bytes(), b"value").unwrap();
        }
        let ids: Vec<_> = cache.iter().map(|entry| entry.id).collect();
        damage(&cache);
        assert!(!cache.contains(&0u32.to_be_bytes()), "entries are lost, never wrong");
        assert_eq!((cache.len(), cache.stats().resets), (0, 1));
        cache.validate().unwrap();
        for number in 0..2000u32 {
            cache.put(&(number + 1000).to_be_bytes(), b"other").unwrap();
        }
        assert!(ids.iter().all(|&id| cache.entry(id).is_none()), "no old id names a new entry");
    }

    #[test]
    fn a_pinned_value_outlives_the_reset_of_its_partition() {
        let cache = SharedCache::private(&Config::bytes(1 << 20).partitions(1)).unwrap();
        cache.put(b"pinned", &[b'x'; 300]).unwrap();
        let churn = || {
            for number in 0..5000u32 {
                cache.put(&number.to_be_bytes(), &[b'y'; 300]).unwrap();
            }
        };
        cache.with(b"pinned", |value| {
            damage(&cache);
            churn();
            cache.validate().unwrap();
            assert!(value.iter().all(|&byte| byte == b'x'));
            assert_eq!((cache.stats().resets, cache.pinned()), (1, 1));
        });
        assert_eq!(cache.pinned(), 0);
        churn();
        cache.clear();
        cache.validate().unwrap();
        let report = cache.memory_report();
        assert_eq!(report.slabs_free, report.slabs_total, "what was set aside for the reader is back");
    }

    #[test]
    fn a_few_hot_entries_do_not_keep_the_directory_from_shrinking() {
        let cache = SharedCache::private(&Config::bytes(8 << 20).partitions(1)).unwrap();
        for number in 0..100_000u32 {
            cache.put(&number.to_be_bytes(), &[1; 40]).unwrap();
        }
        let many = cache.memory_report().directory_bytes;
        let mut out = Vec::new();
        for number in 0..20_000u32 {
            cache.put(&(number + 1_000_000).to_be_bytes(), &[2; 1500]).unwrap();
            if number % 40 == 0 {
                for hot in (0..100_000u32).step_by(500) {
                    cache.get(&hot.to_be_bytes(), &mut out);
                }
            }
        }
        cache.validate().unwrap();
        let report = cache.memory_report();
        assert!(report.directory_bytes * 4 < many, "{many} bytes of directory, now {}", report.directory_bytes);
        assert!(report.utilisation() > 0.9, "{}", report.utilisation());
    }
}
