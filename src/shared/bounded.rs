//! Lookups whose caller brings the memory for what they copy.
//!
//! A value may have a gibibyte. Where memory is short, a copy into a buffer that grows by itself would end the process,
//! and in PostgreSQL that restarts the server. Here nothing grows: the caller says how much room there is, is told how
//! much it takes, gets the memory without holding a lock, in its own way and with its own error, and asks again.
//!
//! Locking: as the lookups of `read`.

use std::mem::MaybeUninit;

use super::cache::SharedCache;
use super::lock::Locks;
use super::read::{Lookup, Use, ValueBuffer};
use crate::engine::flight::version::Version;
use crate::engine::hash::{Key, KeyHash};
use crate::engine::memory::copy::write_words;
use crate::engine::memory::words::Word64;

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

/// What a read is counted as, where the caller says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CountedAs {
    /// The value was what the caller wanted.
    Hit,
    /// There was none, or another.
    Miss,
}

impl CountedAs {
    /// A hit, if the value was what the caller wanted.
    pub fn hit_if(is_wanted: bool) -> CountedAs {
        if is_wanted { CountedAs::Hit } else { CountedAs::Miss }
    }
}

/// Room of the caller's, filled from its start.
struct CallerRoom<'a> {
    room: &'a mut [MaybeUninit<u8>],
    filled: usize,
}

impl ValueBuffer for CallerRoom<'_> {
    fn take_words(&mut self, words: &[Word64], len_bytes: usize) -> bool {
        self.filled = len_bytes;
        // Words are copied whole, so the room has to be a multiple of eight.
        write_words(&words[..len_bytes.div_ceil(8)], self.room)
    }

    fn may_take(&self, len_bytes: usize) -> bool {
        len_bytes <= self.room.len()
    }

    fn make_room(&mut self, len_bytes: usize) -> bool {
        self.filled = 0;
        len_bytes <= self.room.len()
    }

    fn take_part(&mut self, part: &[u8]) {
        let room = &mut self.room[self.filled..][..part.len()];
        room.iter_mut().zip(part).for_each(|(to, &from)| _ = to.write(from));
        self.filled += part.len();
    }

    fn forget(&mut self) {
        self.filled = 0;
    }
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
        self.get_within_versioned(key, room).0
    }

    /// As [`SharedCache::get_within`], with the version of a value that was copied, by which it can be recognised later.
    #[inline]
    pub fn get_within_versioned(&self, key: &[u8], room: &mut [MaybeUninit<u8>]) -> (Fetched, Option<Version>) {
        self.fetch_within(key, Use::Counted, room)
    }

    /// As [`SharedCache::get_within_versioned`], for who has to look at a value before it is known whether that is a hit. A use
    /// for the order of eviction, but not counted: that is [`SharedCache::count_read`]'s.
    #[inline]
    pub fn get_within_uncounted(&self, key: &[u8], room: &mut [MaybeUninit<u8>]) -> (Fetched, Option<Version>) {
        self.fetch_within(key, Use::Noted, room)
    }

    /// Counts a read that has counted nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::mem::MaybeUninit;
    /// use pg_shared_lru::{Config, SharedCache};
    /// use pg_shared_lru::shared::bounded::CountedAs;
    /// let cache = SharedCache::private(&Config::bytes(1 << 20)).unwrap();
    /// cache.put(b"key", b"outdated").unwrap();
    /// _ = cache.get_within_uncounted(b"key", &mut [MaybeUninit::uninit(); 8]);
    /// assert_eq!((cache.stats().hits, cache.stats().misses), (0, 0));
    /// cache.count_read(CountedAs::Miss);
    /// assert_eq!((cache.stats().hits, cache.stats().misses), (0, 1));
    /// ```
    #[inline]
    pub fn count_read(&self, counted_as: CountedAs) {
        self.count_shared_read(counted_as == CountedAs::Hit);
    }

    #[inline]
    fn fetch_within(&self, key: &[u8], usage: Use, room: &mut [MaybeUninit<u8>]) -> (Fetched, Option<Version>) {
        let mut room = CallerRoom { room, filled: 0 };
        match self.look_up(self.key(key), usage, &mut room) {
            Lookup::Hit(version) => (Fetched::Copied(room.filled), Some(version)),
            Lookup::Miss => (Fetched::Absent, None),
            Lookup::NoRoom(bytes) => (Fetched::Needs(bytes.next_multiple_of(8)), None),
        }
    }

    /// As [`SharedCache::get_within`], but updates neither the statistics nor the order of eviction.
    pub fn peek_within(&self, key: &[u8], room: &mut [MaybeUninit<u8>]) -> Fetched {
        let mut room = CallerRoom { room, filled: 0 };
        match self.look_up(self.key(key), Use::None, &mut room) {
            Lookup::Hit(_) => Fetched::Copied(room.filled),
            Lookup::Miss => Fetched::Absent,
            Lookup::NoRoom(bytes) => Fetched::Needs(bytes.next_multiple_of(8)),
        }
    }

    /// Fetches what lookups of these keys will touch, so that the waits for memory overlap; the first
    /// [`PREFETCH_KEYS`] of them. Of use where the lookups follow at once, and the cache is larger than the processor's.
    pub fn prefetch(&self, keys: &[&[u8]]) {
        if !self.locks().is_mapped() {
            return;
        }
        let mut places = [(0, Key { bytes: &[], hash: KeyHash(0) }); PREFETCH_KEYS];
        let mut count = 0;
        for (place, key) in places.iter_mut().zip(keys) {
            *place = self.key(key);
            self.unlocked(place.0).prefetch_bucket(place.1);
            count += 1;
        }
        let places = &places[..count];
        places.iter().for_each(|&(partition, key)| self.unlocked(partition).prefetch_records(key));
        places.iter().for_each(|&(partition, key)| self.unlocked(partition).prefetch_slots(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::config::Config;
    use crate::engine::evicted::Evicted;
    use crate::engine::large::LARGE_VALUE_BYTES;
    use crate::engine::policy::Policy;
    use crate::shared::drains::Drained;

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
    fn a_read_that_the_caller_counts_is_a_use_and_counted_as_it_says() {
        for policy in POLICIES {
            let cache = SharedCache::shared_mapping(&Config::entries(2, 100).policy(policy)).unwrap();
            cache.put(b"k", &[7; 40]).unwrap();
            let mut room = [MaybeUninit::uninit(); 40];
            for _ in 0..3 {
                assert_eq!(cache.get_within_uncounted(b"k", &mut room).0, Fetched::Copied(40), "{policy}");
                assert_eq!(cache.get_within_uncounted(b"none", &mut room).0, Fetched::Absent, "{policy}");
            }
            assert_eq!((cache.stats().hits, cache.stats().misses), (0, 0), "{policy}");
            cache.count_read(CountedAs::Hit);
            cache.count_read(CountedAs::Miss);
            assert_eq!((cache.stats().hits, cache.stats().misses), (1, 1), "{policy}");
            cache.validate().unwrap();
        }
        let cache = SharedCache::private(&Config::entries(2, 100)).unwrap();
        cache.put(b"a", b"1").unwrap();
        cache.put(b"b", b"2").unwrap();
        _ = cache.get_within_uncounted(b"a", &mut [MaybeUninit::uninit(); 8]);
        cache.put(b"c", b"3").unwrap();
        assert!(cache.contains(b"a") && !cache.contains(b"b"), "the read was no use");
    }

    #[test]
    fn a_peek_into_given_room_is_no_use_and_counts_nothing() {
        for policy in POLICIES {
            let cache = SharedCache::private(&Config::entries(2, 100).policy(policy)).unwrap();
            cache.put(b"a", b"first").unwrap();
            cache.put(b"b", b"2").unwrap();
            let mut room = [MaybeUninit::uninit(); 8];
            assert_eq!(cache.peek_within(b"a", &mut room), Fetched::Copied(5), "{policy}");
            assert_eq!(cache.peek_within(b"a", &mut room[..4]), Fetched::Needs(8), "{policy}");
            assert_eq!(cache.peek_within(b"none", &mut room), Fetched::Absent, "{policy}");
            assert_eq!((cache.stats().hits, cache.stats().misses), (0, 0), "{policy}");
        }
        let cache = SharedCache::private(&Config::entries(2, 100)).unwrap();
        cache.put(b"a", b"1").unwrap();
        cache.put(b"b", b"2").unwrap();
        assert_eq!(cache.peek_within(b"a", &mut [MaybeUninit::uninit(); 8]), Fetched::Copied(1));
        cache.put(b"c", b"3").unwrap();
        assert!(!cache.contains(b"a"), "the peek was a use");
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

    #[test]
    fn a_value_for_which_there_is_no_room_is_no_hit_however_large_it_is() {
        for policy in POLICIES {
            let config = Config::bytes(4 << 20).partitions(1).policy(policy);
            let cache = SharedCache::shared_mapping(&config).unwrap();
            for len in [100, 3_000, LARGE_VALUE_BYTES + 1, 500_000] {
                cache.put(b"key", &vec![7; len]).unwrap();
                let before = cache.stats().hits;
                let needed = len.next_multiple_of(8);
                assert_eq!(cache.get_within(b"key", &mut [MaybeUninit::uninit(); 8]), Fetched::Needs(needed));
                assert_eq!(cache.stats().hits, before, "{policy}, {len} bytes");
                assert_eq!(cache.get_within(b"key", &mut vec![MaybeUninit::uninit(); needed]), Fetched::Copied(len));
                assert_eq!(cache.stats().hits, before + 1, "{policy}, {len} bytes");
            }
        }
    }
}
