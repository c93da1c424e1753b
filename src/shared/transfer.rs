//! Entries copied from one cache into another, in the order of their use.
//!
//! Locking: one lock at a time, of either cache. Nobody may change the source meanwhile, or what is copied may be older
//! than what is there in the end: the caller sees to that.

use std::collections::TryReserveError;
use std::time::SystemTime;

use super::cache::SharedCache;
use super::expiry::Expiry;
use super::lock::Locks;
use crate::engine::ids::{EntryId, EntryIndex};

impl<L: Locks> SharedCache<L> {
    /// Copies all entries into another cache, those that went unused longest first: so that, where not all fit, those used
    /// last are there in the end. Returns how many were copied; one that is too large for the other cache is left out,
    /// and one that has expired. The others expire when they would have, or up to a tenth of a second before.
    /// Costs a walk, a sort, and a put for each entry, and 16 bytes of memory.
    ///
    /// # Errors
    ///
    /// There is no memory for the list of entries, or for a value.
    #[cfg_attr(not(feature = "postgres"), allow(dead_code))] // what makes a cache anew is in `pg`
    pub(crate) fn copy_into<M: Locks>(&self, other: &SharedCache<M>) -> Result<u64, TryReserveError> {
        let (mut key, mut value) = (Vec::new(), Vec::new());
        let mut copied = 0;
        for id in self.in_order_of_use()? {
            let Some(expires) = self.copy_entry(id, &mut key, &mut value)? else { continue };
            if expires.is_some_and(|expires| expires <= SystemTime::now()) {
                continue;
            }
            // The time itself, and not what is left of it: that grows older until the entry is stored.
            let expiry = expires.map_or(Expiry::Never, Expiry::At);
            copied += u64::from(other.put_with(&key, &value, expiry).is_ok());
        }
        Ok(copied)
    }

    /// All entries, those that went unused longest first, as far as partitions can be compared.
    pub(super) fn in_order_of_use(&self) -> Result<impl Iterator<Item = EntryId> + use<L>, TryReserveError> {
        let mut order: Vec<(u32, EntryId)> = Vec::new();
        for index in 0..self.partition_count() {
            order.try_reserve(self.partition_len(index) as usize)?;
            let mut next = Some(EntryIndex::NONE);
            while let Some(from) = next {
                next = self.shared(index, |partition| {
                    let mut from = from;
                    for _ in 0..WALK_STEP {
                        let entry = partition.walk(from)?;
                        let info = partition.info(entry);
                        if order.len() < order.capacity() {
                            order.extend(self.id_of(index, entry, info.generation).map(|id| (info.age, id)));
                        }
                        from = EntryIndex(entry.0 + 1);
                    }
                    Some(from)
                });
            }
        }
        order.sort_by_key(|&(age, _)| std::cmp::Reverse(age));
        Ok(order.into_iter().map(|(_, id)| id))
    }

    /// Copies key and value of an entry and says when it expires, if it does; `None` if it is gone.
    pub(super) fn copy_entry(
        &self,
        id: EntryId,
        key: &mut Vec<u8>,
        value: &mut Vec<u8>,
    ) -> Result<Option<Option<SystemTime>>, TryReserveError> {
        let (index, entry) = self.place_of(id);
        loop {
            let copied = self.shared(index, |partition| {
                let entry = partition.resolve(entry, id.generation().get())?;
                let info = partition.info(entry);
                let needed = [partition.key(entry).len(), info.value_len];
                key.clear();
                value.clear();
                if key.capacity() < needed[0] || value.capacity() < needed[1] {
                    return Some(Err(needed));
                }
                key.extend_from_slice(partition.key(entry));
                partition.copy_parts(entry, |part| value.extend_from_slice(part));
                Some(Ok(info.expires))
            });
            match copied {
                None => return Ok(None),
                Some(Ok(expires)) => return Ok(Some(expires.map(|moment| self.system_time(moment)))),
                // Not under the lock.
                Some(Err([key_bytes, value_bytes])) => {
                    key.try_reserve(key_bytes)?;
                    value.try_reserve(value_bytes)?;
                }
            }
        }
    }
}

/// Entries that are listed under one hold of a lock.
const WALK_STEP: usize = 256;

#[cfg(test)]
mod tests {
    use crate::engine::config::Config;
    use crate::engine::policy::Policy;
    use crate::shared::cache::SharedCache;
    use crate::shared::expiry::Expiry;
    use std::time::{Duration, SystemTime};

    #[test]
    fn what_expires_does_so_in_the_copy_and_what_has_expired_is_left_out() {
        let config = Config::bytes(1 << 20).partitions(1);
        let [cache, copy] = [(); 2].map(|()| SharedCache::private(&config).unwrap());
        cache.put_with(b"gone", b"v", Expiry::After(Duration::ZERO)).unwrap();
        cache.put_with(b"hour", b"v", Expiry::After(Duration::from_secs(3600))).unwrap();
        cache.put(b"ever", b"v").unwrap();
        assert_eq!(cache.copy_into(&copy).unwrap(), 2);
        for entry in copy.iter() {
            let left = entry.expires.map(|moment| moment.duration_since(SystemTime::now()).unwrap().as_secs());
            assert!(matches!((&entry.key[..], left), (b"ever", None) | (b"hour", Some(3590..=3600))), "{entry:?}");
        }
        assert_eq!(copy.len(), 2);
    }

    #[test]
    fn all_is_copied_where_it_fits_and_what_was_used_last_where_not() {
        for policy in [Policy::Lru, Policy::Clock, Policy::S3Fifo] {
            let config = |bytes| Config::bytes(bytes).policy(policy).partitions(1);
            let cache = SharedCache::private(&config(4 << 20)).unwrap();
            let value = |number: u32| vec![number as u8; (number % 3000) as usize];
            for number in 0..1200u32 {
                cache.put(&number.to_be_bytes(), &value(number)).unwrap();
            }
            let before = cache.len();
            let larger = SharedCache::private(&config(8 << 20)).unwrap();
            assert_eq!(cache.copy_into(&larger).unwrap(), before);
            assert_eq!((larger.len(), cache.len()), (before, before));
            larger.validate().unwrap();
            let smaller = SharedCache::private(&config(1 << 20)).unwrap();
            cache.copy_into(&smaller).unwrap();
            smaller.validate().unwrap();
            let mut out = Vec::new();
            for number in (0..1200u32).rev() {
                if cache.contains(&number.to_be_bytes()) {
                    assert!(larger.get(&number.to_be_bytes(), &mut out));
                    assert_eq!(out, value(number));
                }
            }
            if policy == Policy::Lru {
                let kept = (0..1200u32).filter(|number| smaller.contains(&number.to_be_bytes()));
                assert_eq!(kept.min(), Some(1200 - smaller.len() as u32), "not the last ones were kept");
            }
        }
    }
}
