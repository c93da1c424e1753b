//! Operations whose caller brings the memory for what they copy.
//!
//! A value may have a gibibyte. Where memory is short, a copy into a buffer that grows by itself would abort the process,
//! and in PostgreSQL that restarts the server. Here nothing grows: the caller says how much room there is, is told how
//! much it takes, gets the memory without holding a lock, in its own way and with its own error, and asks again.
//!
//! Locking: as the operations of `read` and `cache` that they are like.

use std::mem::MaybeUninit;

use super::cache::SharedCache;
use super::lock::Locks;
use crate::engine::bounded::Popped;
use crate::engine::config::Policy;
use crate::engine::evicted::Evicted;
use crate::engine::optimistic::Wanted;
use crate::engine::partition::Partition;
use crate::engine::words::write_words;

/// Entries that are removed under one acquisition of a lock, at most.
const BATCH_ENTRIES: usize = 1024;

/// Keys that [`SharedCache::prefetch`] looks after at once: as many lines as a processor fetches together.
pub const PREFETCH_KEYS: usize = 16;

/// What a read into room of the caller's came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// There is no such key.
    Absent,
    /// The value was copied; it has this many bytes.
    Copied(usize),
    /// There is a value, and room for this many bytes would do at this moment. Nothing was counted.
    Needs(usize),
}

/// What a bounded drain did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Entries were removed and appended, this many.
    Entries(usize),
    /// The partition is empty.
    Nothing,
    /// The next entry has this many bytes of key and value, for which there is no room. Nothing was removed.
    Needs(usize),
}

impl<L: Locks> SharedCache<L> {
    /// Copies a key's value to the start of `room`, if it fits there. Counts as a use unless it does not fit.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::mem::MaybeUninit;
    /// use pg_shared_lru::{Config, SharedCache};
    /// use pg_shared_lru::shared::bounded::Fetched;
    /// let cache = SharedCache::private(&Config::bytes(1 << 20)).unwrap();
    /// cache.put(b"key", b"a long value").unwrap();
    /// let mut room = [MaybeUninit::uninit(); 8];
    /// let Fetched::Needs(bytes) = cache.get_within(b"key", &mut room) else { panic!() };
    /// let mut room = vec![MaybeUninit::uninit(); bytes];
    /// assert_eq!(cache.get_within(b"key", &mut room), Fetched::Copied(12));
    /// assert_eq!(cache.get_within(b"none", &mut room), Fetched::Absent);
    /// ```
    pub fn get_within(&self, key: &[u8], room: &mut [MaybeUninit<u8>]) -> Fetched {
        let (index, key) = self.key(key);
        let lru = self.layout().policy == Policy::Lru;
        if !L::ONE_USER && !lru {
            let (mut len, mut fits) = (0, false);
            let glance = self.glance(index, key, Wanted::Referenced, |words, value_len| {
                // Words are copied whole, so the room has to be a multiple of eight.
                fits = write_words(&words[..value_len.div_ceil(8)], room);
                len = value_len;
            });
            match glance {
                Some(Some(_)) if !fits => return Fetched::Needs(len.next_multiple_of(8)),
                Some(seen) => {
                    self.count_shared_read(seen.is_some());
                    return seen.map_or(Fetched::Absent, |_| Fetched::Copied(len));
                }
                None => (),
            }
        }
        let mut copy = |partition: &Partition| {
            let entry = partition.find(key)?;
            let len = partition.copy_value_within(entry, room);
            Some(if len <= room.len() { Ok((entry, len)) } else { Err(len.next_multiple_of(8)) })
        };
        let found = if lru {
            self.exclusive(index, |partition| {
                let found = copy(partition);
                match found {
                    Some(Ok((entry, _))) => {
                        partition.count_read(true);
                        partition.promote(entry);
                    }
                    Some(Err(_)) => (),
                    None => partition.count_read(false),
                }
                found
            })
        } else {
            self.shared(index, |partition| {
                let found = copy(partition);
                if let Some(Ok((entry, _))) = found {
                    partition.reference(entry);
                }
                if !matches!(found, Some(Err(_))) {
                    self.count_shared_read(found.is_some());
                }
                found
            })
        };
        match found {
            Some(Ok((_, len))) => Fetched::Copied(len),
            Some(Err(needs)) => Fetched::Needs(needs),
            None => Fetched::Absent,
        }
    }

    /// Fetches what lookups of these keys will touch, so that the waits for memory overlap; the first
    /// [`PREFETCH_KEYS`] of them. Of use where the lookups follow at once, and the cache is larger than the processor's.
    pub fn prefetch(&self, keys: &[&[u8]]) {
        if !self.locks().is_mapped() {
            return;
        }
        let mut places = [None; PREFETCH_KEYS];
        for (place, key) in places.iter_mut().zip(keys) {
            let (partition, key) = self.key(key);
            self.unlocked(partition).prefetch_bucket(key);
            *place = Some((partition, key));
        }
        let places = || places.iter().flatten();
        places().for_each(|&(partition, key)| self.unlocked(partition).prefetch_records(key));
        places().for_each(|&(partition, key)| self.unlocked(partition).prefetch_slots(key));
    }

    /// Removes a key, as [`SharedCache::remove`], without a copy of its value; whether it was there.
    pub fn discard(&self, key: &[u8]) -> bool {
        let (partition, key) = self.key(key);
        self.exclusive(partition, |partition| partition.remove_unread(key))
    }

    /// Removes at most `limit` entries of a partition, in the order of eviction, and appends them to `drained` as long as
    /// that has room without growing (see [`Evicted::try_reserve`]). One step of a drain: a thousand entries at most.
    pub fn drain_within(&self, partition: usize, limit: usize, drained: &mut Evicted) -> Drained {
        let limit = limit.min(BATCH_ENTRIES);
        self.exclusive(partition, |partition| {
            let before = drained.len();
            let mut last = Popped::Entry;
            while drained.len() - before < limit && last == Popped::Entry {
                last = partition.pop_within(drained);
            }
            match (drained.len() - before, last) {
                (0, Popped::Needs(bytes)) => Drained::Needs(bytes),
                (0, _) => Drained::Nothing,
                (count, _) => Drained::Entries(count),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::config::Config;

    const POLICIES: [Policy; 3] = Policy::ALL;

    fn value(number: u32) -> Vec<u8> {
        (0..number * 37 % 20_000).map(|byte| (byte ^ number) as u8).collect()
    }

    /// What a caller does: a little room first, then as much as is asked for.
    fn get<L: Locks>(cache: &SharedCache<L>, key: &[u8]) -> Option<Vec<u8>> {
        let mut room = vec![MaybeUninit::new(0xEE); 64];
        loop {
            match cache.get_within(key, &mut room) {
                Fetched::Absent => return None,
                Fetched::Needs(bytes) => {
                    assert!(bytes > room.len() || bytes > 64, "asks for less than there is");
                    room = vec![MaybeUninit::new(0xEE); bytes];
                }
                Fetched::Copied(len) => {
                    // What the test has initialised, or the cache.
                    #[allow(unsafe_code)]
                    // SAFETY: every byte of the room was initialised above.
                    return Some(room[..len].iter().map(|byte| unsafe { byte.assume_init() }).collect());
                }
            }
        }
    }

    #[test]
    fn a_read_into_given_room_is_as_get_whole_counted_once_and_a_use() {
        for policy in POLICIES {
            let config = Config::bytes(4 << 20).partitions(2).policy(policy).slab_bytes(16 << 10);
            let cache = SharedCache::shared_mapping(&config).unwrap();
            (0..100u32).for_each(|number| _ = cache.put(&number.to_be_bytes(), &value(number)).unwrap());
            for round in 0..3 {
                for number in 0..150u32 {
                    let expected = (number < 100).then(|| value(number));
                    assert_eq!(get(&cache, &number.to_be_bytes()), expected, "{policy}, round {round}, key {number}");
                }
            }
            assert_eq!((cache.stats().hits, cache.stats().misses), (300, 150), "{policy}");
            cache.validate().unwrap();
        }
        let cache = SharedCache::private(&Config::entries(2, 100)).unwrap();
        cache.put(b"a", b"1").unwrap();
        cache.put(b"b", b"2").unwrap();
        assert_eq!(get(&cache, b"a").unwrap(), b"1");
        cache.put(b"c", b"3").unwrap();
        assert!(cache.contains(b"a") && !cache.contains(b"b"), "the read was no use");
    }

    #[test]
    fn a_read_that_does_not_fit_counts_nothing_and_writes_nothing_beyond_its_room() {
        for policy in POLICIES {
            let cache = SharedCache::shared_mapping(&Config::bytes(1 << 20).policy(policy)).unwrap();
            cache.put(b"k", &[7; 100]).unwrap();
            let mut room = [MaybeUninit::uninit(); 99];
            for _ in 0..3 {
                assert_eq!(cache.get_within(b"k", &mut room), Fetched::Needs(104), "{policy}");
            }
            assert_eq!((cache.stats().hits, cache.stats().misses), (0, 0), "{policy}");
        }
    }

    #[test]
    fn a_drain_takes_what_fits_in_order_and_leaves_what_does_not() {
        let cache = SharedCache::private(&Config::bytes(1 << 20).partitions(1)).unwrap();
        for (key, len) in [(b"a", 10), (b"b", 20), (b"c", 5000), (b"d", 1)] {
            cache.put(key, &vec![key[0]; len]).unwrap();
        }
        let mut drained = Evicted::default();
        assert_eq!(cache.drain_within(0, 10, &mut drained), Drained::Needs(11), "no room for anything yet");
        drained.try_reserve(10, 100).unwrap();
        assert_eq!(cache.drain_within(0, 10, &mut drained), Drained::Entries(2));
        assert_eq!(drained.iter().map(|(key, _)| key).collect::<Vec<_>>(), [b"a", b"b"]);
        drained.clear();
        assert_eq!(cache.drain_within(0, 10, &mut drained), Drained::Needs(5001));
        assert_eq!(cache.len(), 2, "what does not fit stays");
        drained.try_reserve(1, 5001).unwrap();
        assert_eq!(cache.drain_within(0, 10, &mut drained), Drained::Entries(1));
        assert_eq!(drained.get(0), (&b"c"[..], &[b'c'; 5000][..]));
        drained.clear();
        assert_eq!(cache.drain_within(0, 10, &mut drained), Drained::Entries(1));
        assert_eq!(cache.drain_within(0, 10, &mut drained), Drained::Nothing);
        assert_eq!(cache.stats().removals, 4);
        cache.validate().unwrap();
    }

    #[test]
    fn a_key_is_removed_without_its_value_once() {
        let cache = SharedCache::private(&Config::bytes(1 << 20)).unwrap();
        cache.put(b"k", &[1; 9000]).unwrap();
        assert!(cache.discard(b"k"));
        assert!(!cache.discard(b"k"));
        assert_eq!((cache.len(), cache.stats().removals), (0, 1));
        cache.validate().unwrap();
    }
}
