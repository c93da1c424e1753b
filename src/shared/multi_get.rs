//! Many keys looked up at once.
//!
//! A lookup alone waits for memory three times (bucket, record, slot). Here groups of `GROUP_KEYS` keys take each
//! step together: all hashes, then all buckets are fetched, all records, all slots, and last the values are copied, as
//! [`SharedCache::get`] would. Results, counts and recency are those of one `get` after the other.
//!
//! Locking: as `get`, one key after the other.

use super::cache::SharedCache;
use super::lock::Locks;
use super::read::{Appended, Lookup, Use};
use crate::engine::hash::{Key, KeyHash};

/// Keys that are looked up together: as many lines as a processor fetches at once, and what a lock is held for.
const GROUP_KEYS: usize = 16;

/// What [`SharedCache::get_many`] found, in the order of the keys. Reusable: it keeps its memory.
///
/// # Examples
///
/// ```
/// use pg_shared_lru::{Config, Found, SharedCache};
/// let cache = SharedCache::private(&Config::bytes(1 << 20)).unwrap();
/// cache.put(b"a", b"1").unwrap();
/// cache.put(b"c", b"").unwrap();
/// let mut found = Found::default();
/// cache.get_many([&b"a"[..], b"b", b"c"], &mut found);
/// assert_eq!(found.iter().collect::<Vec<_>>(), [Some(&b"1"[..]), None, Some(b"")]);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Found {
    bytes: Vec<u8>,
    /// For each key where its value starts and ends in `bytes`.
    places: Vec<Option<(usize, usize)>>,
}

impl Found {
    /// Number of keys that were looked up.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether no key was looked up.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Number of keys that have a value.
    pub fn hits(&self) -> usize {
        self.places.iter().flatten().count()
    }

    /// The value of the key with this number, counted from the first; `None` if it has none.
    ///
    /// # Panics
    ///
    /// If there were not that many keys.
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        self.places[index].map(|(start, end)| &self.bytes[start..end])
    }

    /// The values, in the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = Option<&[u8]>> + '_ {
        (0..self.len()).map(|index| self.get(index))
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.places.clear();
    }

    /// Notes what `append` put behind the bytes, if it did, as the value of the key with this number.
    fn note(&mut self, index: usize, append: impl FnOnce(&mut Vec<u8>) -> bool) {
        let start = self.bytes.len();
        if append(&mut self.bytes) {
            self.places[index] = Some((start, self.bytes.len()));
        }
    }
}

impl<L: Locks> SharedCache<L> {
    /// Looks many keys up, as [`SharedCache::get`] does each, and puts their values into `found` (what it held is
    /// replaced).
    ///
    /// Faster than one after the other where the cache is larger than the processor's: the waits for memory overlap.
    pub fn get_many<'k>(&self, keys: impl IntoIterator<Item = &'k [u8]>, found: &mut Found) {
        found.clear();
        let mut keys = keys.into_iter();
        let mut group = [(0, Key { bytes: &[], hash: KeyHash(0) }); GROUP_KEYS];
        loop {
            let mut len = 0;
            for (place, key) in group.iter_mut().zip(keys.by_ref()) {
                *place = self.key(key);
                self.unlocked(place.0).prefetch_bucket(place.1);
                len += 1;
            }
            if len == 0 {
                return;
            }
            self.get_group(&group[..len], found);
        }
    }

    fn get_group(&self, group: &[(usize, Key<'_>)], found: &mut Found) {
        if self.locks().is_mapped() {
            group.iter().for_each(|&(partition, key)| self.unlocked(partition).prefetch_records(key));
            group.iter().for_each(|&(partition, key)| self.unlocked(partition).prefetch_slots(key));
        }
        let first = found.places.len();
        found.places.resize(first + group.len(), None);
        for (number, &key) in group.iter().enumerate() {
            found.note(first + number, |out| match self.look_up(key, Use::Counted, &mut Appended::to(out)) {
                Lookup::Hit(_) => true,
                Lookup::Miss => false,
                Lookup::NoRoom(bytes) => panic!("no memory for a value of {bytes} bytes"),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::config::Config;
    use crate::engine::policy::Policy;

    #[test]
    fn many_lookups_are_as_one_after_the_other() {
        for policy in [Policy::Lru, Policy::Clock] {
            for partitions in [1, 4] {
                let config = Config::bytes(2 << 20).partitions(partitions).policy(policy).slab_bytes(16 << 10);
                let (one, many) =
                    (SharedCache::shared_mapping(&config).unwrap(), SharedCache::private(&config).unwrap());
                let number = |step: u32| step.wrapping_mul(0x9e37_79b1) % 3000;
                let value = |number: u32| vec![number as u8; 1 + number as usize * 7 % 5000];
                let keys: Vec<[u8; 4]> = (0..5000).map(|step| number(step).to_be_bytes()).collect();
                (0..2000u32).for_each(|number| {
                    one.put(&number.to_be_bytes(), &value(number)).unwrap();
                    many.put(&number.to_be_bytes(), &value(number)).unwrap();
                });
                let mut found = Found::default();
                let mut out = Vec::new();
                for keys in keys.chunks(37) {
                    many.get_many(keys.iter().map(|key| &key[..]), &mut found);
                    assert_eq!(found.len(), keys.len());
                    for (key, found) in keys.iter().zip(found.iter()) {
                        // The two caches have seeds of their own, so with several partitions they hold different keys.
                        if partitions == 1 {
                            assert_eq!(one.get(key, &mut out).then_some(&out[..]), found);
                        }
                        let expected = value(u32::from_be_bytes(*key));
                        assert!(found.is_none_or(|found| found == expected));
                    }
                }
                let stats = many.stats();
                assert!(stats.hits > 100 && stats.misses > 100 && stats.evictions > 100, "{stats:?}");
                assert_eq!(stats.hits + stats.misses, keys.len() as u64);
                many.validate().unwrap();
                if partitions == 1 {
                    assert_eq!((one.stats().hits, one.stats().misses), (stats.hits, stats.misses));
                    // Recency, too: what goes next is the same.
                    while let Some(popped) = one.pop_lru() {
                        assert_eq!(many.pop_lru(), Some(popped));
                    }
                }
            }
        }
    }

    #[test]
    fn many_lookups_without_locks_are_those_of_a_cache_with_locks() {
        let config = Config::bytes(1 << 20).partitions(2).policy(Policy::Clock);
        let cache = SharedCache::shared_mapping(&config).unwrap();
        (0..500u32).for_each(|number| _ = cache.put(&number.to_be_bytes(), &number.to_le_bytes()).unwrap());
        let keys: Vec<[u8; 4]> = (0..1000u32).map(u32::to_be_bytes).collect();
        let mut found = Found::default();
        for _ in 0..2 {
            cache.get_many(keys.iter().map(|key| &key[..]), &mut found);
            assert_eq!(found.hits(), 500);
            for (number, found) in found.iter().enumerate() {
                assert_eq!(found.map(<[u8]>::to_vec), (number < 500).then(|| (number as u32).to_le_bytes().to_vec()));
            }
        }
        assert_eq!((cache.stats().hits, cache.stats().misses), (1000, 1000));
    }
}
