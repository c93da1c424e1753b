//! The bytes behind the drop-in cache: what makes way for an entry, and when the region grows.
//!
//! ```text
//! EntryBound   n entries of any size: the region grows, only the number of entries evicts
//! ByteBound    a region of so many bytes: bytes evict, any number of entries
//!                ┌────────────────────────────┬─────────────────────┐
//!                │ region, exact LRU          │ spill queue         │──► handed back one by one
//!                └────────────────────────────┴─────────────────────┘
//! ```
//!
//! Invariants:
//! - EntryBound: never more than `max_entries` entries, and nothing is evicted for lack of bytes. What is pushed is in the
//!   region before anything makes way for it, so a push that finds no memory has lost nothing. A region that is too
//!   small is replaced by one at least twice as large, into which every entry moves in the order of its last use; so an
//!   entry moves a constant number of times on average, and what is touched of the new region is what the entries take.
//! - ByteBound: an entry that lost its place in the region is an entry of the cache, found and counted as any, until it
//!   has been handed back. None is lost, though a push hands back one entry at most and may displace several.
//! - ByteBound: memory that is touched does not exceed the bytes given, not even while the entries move, once, to a region
//!   of the same size whose classes and buckets fit them (`fit`): that happens before half of it is used.
//!
//! - The entry that was found last is remembered until something is stored or removed, for whoever asks `contains` first.
//!
//! Cost: an operation of the engine; looking for a key in the spill queue is linear, but nothing is left there where the
//! consumer takes it back after each push.
//!
//! Not here: types, statistics. One thread uses a store; there are no locks and no pins.

use std::collections::VecDeque;
use std::num::NonZero;

use super::fit::{self, SizeHistogram};
use crate::engine::config::{Classes, Config};
use crate::engine::entry::ENTRY_METADATA_BYTES;
use crate::engine::evicted::Evicted;
use crate::engine::outcomes::Put;
use crate::shared::open::CreateError;
use crate::shared::private::PrivateCache;

/// An encoded key and value.
pub(super) type Entry = (Vec<u8>, Vec<u8>);

/// The longest key.
const MAX_KEY_BYTES: usize = u16::MAX as usize;
/// A single partition's largest region; more partitions would not give exact LRU.
const MAX_PARTITION_BYTES: usize = 32 << 30;

/// One of the two stores.
pub(super) enum Store {
    EntryBound(EntryBound),
    ByteBound(ByteBound),
}

impl Store {
    pub(super) fn cap(&self) -> NonZero<usize> {
        match self {
            Store::EntryBound(store) => store.max_entries,
            Store::ByteBound(_) => NonZero::<usize>::MAX,
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Store::EntryBound(store) => store.len,
            Store::ByteBound(store) => store.region.len() as usize + store.spill_queue.len(),
        }
    }

    /// Keys and values in bytes.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Store::EntryBound(store) => store.region.bytes(),
            Store::ByteBound(store) => {
                let displaced = store.spill_queue.iter().map(|(key, value)| (key.len() + value.len()) as u64);
                store.region.bytes() + displaced.sum::<u64>()
            }
        }
    }

    #[inline]
    pub(super) fn contains(&mut self, key: &[u8]) -> bool {
        match self {
            Store::EntryBound(store) => store.region.contains(key),
            Store::ByteBound(store) => store.region.contains(key) || store.position(key).is_some(),
        }
    }

    /// A key's value, where it lies or in `buffer`. The entry becomes the most recently used.
    #[inline]
    pub(super) fn get<'a>(&'a mut self, key: &[u8], buffer: &'a mut Vec<u8>) -> Option<&'a [u8]> {
        match self {
            Store::EntryBound(store) => store.region.get(key, buffer),
            Store::ByteBound(store) => store.get(key, buffer),
        }
    }

    /// Stores an entry as the most recently used, and hands back the one that had to make way, if any.
    pub(super) fn push(&mut self, key: &[u8], value: &[u8]) -> (Put, Option<Entry>) {
        match self {
            Store::EntryBound(store) => store.push(key, value),
            Store::ByteBound(store) => (store.push(key, value), store.spill_queue.pop_front()),
        }
    }

    /// The next entry that has lost its place already.
    pub(super) fn pop_displaced(&mut self) -> Option<Entry> {
        match self {
            Store::EntryBound(_) => None,
            Store::ByteBound(store) => store.spill_queue.pop_front(),
        }
    }

    /// Removes the least recently used entry.
    pub(super) fn pop_lru(&mut self) -> Option<Entry> {
        match self {
            Store::EntryBound(store) => store.pop_lru(),
            Store::ByteBound(store) => store.spill_queue.pop_front().or_else(|| store.region.pop_lru()),
        }
    }
}

/// At most so many entries, in a region that grows.
pub(super) struct EntryBound {
    region: PrivateCache,
    max_entries: NonZero<usize>,
    len: usize,
    /// The longest key ever stored: it decides the size of slabs.
    key_bytes: usize,
}

impl EntryBound {
    const MIN_REGION_BYTES: usize = 256 << 10;
    const MAX_START_BYTES: usize = 4 << 20;
    /// What an entry is taken to cost while there is none to measure.
    const START_ENTRY_BYTES: usize = 128;
    /// Entries a bucket that the table is made for; the line has room for twelve.
    const ENTRIES_PER_BUCKET: usize = 8;

    pub(super) fn new(max_entries: NonZero<usize>) -> Self {
        let wanted = max_entries.get().saturating_mul(Self::START_ENTRY_BYTES);
        let bytes = wanted.clamp(Self::MIN_REGION_BYTES, Self::MAX_START_BYTES).next_multiple_of(64);
        let buckets = Self::buckets(bytes, max_entries.get(), Self::START_ENTRY_BYTES);
        EntryBound { region: Self::open(&Self::config(bytes, buckets)), max_entries, len: 0, key_bytes: 0 }
    }

    /// One partition, so that the order is exact.
    fn config(bytes: usize, buckets: u64) -> Config {
        Config::bytes(bytes).partitions(1).buckets(buckets)
    }

    fn buckets(region_bytes: usize, max_entries: usize, entry_bytes: usize) -> u64 {
        (region_bytes / entry_bytes).min(max_entries).div_ceil(Self::ENTRIES_PER_BUCKET) as u64
    }

    fn open(config: &Config) -> PrivateCache {
        PrivateCache::new(config).unwrap_or_else(|error| panic!("the cache cannot grow: {error}"))
    }

    /// # Panics
    ///
    /// If the key is too long, or the region must grow and cannot. Nothing has changed then.
    fn push(&mut self, key: &[u8], value: &[u8]) -> (Put, Option<Entry>) {
        assert!(key.len() <= MAX_KEY_BYTES, "a key of {} bytes is too long: at most {MAX_KEY_BYTES}", key.len());
        let put = self.insert(key, value);
        if put == Put::Replaced {
            return (put, None);
        }
        self.len += 1;
        // The one that was pushed is not the least recently used, for there are two.
        let evicted = if self.len > self.max_entries.get() { self.pop_lru() } else { None };
        (put, evicted)
    }

    fn pop_lru(&mut self) -> Option<Entry> {
        let popped = self.region.pop_lru()?;
        self.len -= 1;
        Some(popped)
    }

    fn insert(&mut self, key: &[u8], value: &[u8]) -> Put {
        loop {
            match self.region.put_if_room(key, value) {
                Ok(put) => {
                    self.key_bytes = self.key_bytes.max(key.len());
                    return put;
                }
                Err(_) => {
                    let larger = Self::open(&self.larger(key.len(), key.len() + value.len()));
                    self.move_to(larger);
                }
            }
        }
    }

    /// Moves every entry to a larger region.
    fn move_to(&mut self, larger: PrivateCache) {
        let smaller = std::mem::replace(&mut self.region, larger);
        // Each finds room, but for sizes that fit the smaller region better; then what has moved moves on.
        smaller.drain(|key, value| _ = self.insert(key, value));
    }

    /// A region at least twice as large, in which an entry of this key and of `entry_bytes` in all fits.
    fn larger(&self, key_bytes: usize, entry_bytes: usize) -> Config {
        let key_bytes = self.key_bytes.max(key_bytes);
        let live_bytes = self.region.bytes() as usize + self.len * ENTRY_METADATA_BYTES as usize;
        let average_bytes = live_bytes.checked_div(self.len).unwrap_or(Self::START_ENTRY_BYTES);
        let mut bytes = self.region.resolved().region_bytes;
        loop {
            assert!(
                bytes < MAX_PARTITION_BYTES,
                "the cache cannot grow: {} entries and a further one of {entry_bytes} bytes do not fit {bytes} bytes, the most there may be",
                self.len
            );
            bytes = bytes.saturating_mul(2).min(MAX_PARTITION_BYTES);
            let config = Self::config(bytes, Self::buckets(bytes, self.max_entries.get(), average_bytes));
            if let Some(config) = Self::with_slabs_for(config, key_bytes, entry_bytes) {
                return config;
            }
        }
    }

    /// The configuration with slabs as small as this longest key allows; `None` if the region is too small for the
    /// entry.
    fn with_slabs_for(config: Config, key_bytes: usize, entry_bytes: usize) -> Option<Config> {
        let larger_slabs = std::iter::successors(Some(Config::MIN_SLAB_BYTES), |bytes| Some(bytes * 2))
            .take_while(|&bytes| bytes <= Config::MAX_SLAB_BYTES)
            .map(|bytes| config.clone().slab_bytes(bytes));
        std::iter::once(config.clone()).chain(larger_slabs).find(|config| {
            config
                .resolve()
                .is_ok_and(|resolved| resolved.max_key_bytes >= key_bytes && resolved.max_entry_bytes >= entry_bytes)
        })
    }
}

/// As many entries as a region of fixed size holds.
pub(super) struct ByteBound {
    region: PrivateCache,
    /// Entries that lost their place and were not handed back yet, least recently used first.
    spill_queue: VecDeque<Entry>,
    batch: Evicted,
    /// The region was made for the sizes that its entries turned out to have.
    fitted: bool,
}

impl ByteBound {
    pub(super) fn new(bytes: usize) -> Result<Self, CreateError> {
        let partitions = bytes.div_ceil(MAX_PARTITION_BYTES).next_power_of_two().max(1) as u32;
        let region = PrivateCache::new(&Config::bytes(bytes).partitions(partitions))?;
        // The order would not survive a move of several partitions.
        Ok(ByteBound { region, spill_queue: VecDeque::new(), batch: Evicted::default(), fitted: partitions > 1 })
    }

    /// Moves the entries to a region that fits them, when there are enough to judge by and few enough to have in memory
    /// twice. Without memory for it the region stays as it is.
    fn fit_when_due(&mut self) {
        const DUE_SHARE: f64 = 0.375;
        /// What entries with their metadata take of a full region.
        const FULL_SHARE: f64 = 0.94;
        if self.fitted {
            return;
        }
        let (len, resolved) = (self.region.len(), self.region.resolved());
        let used_bytes = (self.region.bytes() + len * ENTRY_METADATA_BYTES) as f64;
        let growth = FULL_SHARE * resolved.region_bytes as f64 / used_bytes;
        if growth * DUE_SHARE > FULL_SHARE {
            return;
        }
        self.fitted = true;
        let mut sizes = SizeHistogram::new(resolved.slab_bytes);
        self.region.sizes().for_each(|(key_bytes, value_bytes)| sizes.record(key_bytes, value_bytes));
        let config = Config::bytes(resolved.region_bytes)
            .partitions(1)
            .slab_bytes(resolved.slab_bytes)
            .classes(Classes::Explicit(sizes.slot_sizes(growth)))
            .buckets(fit::buckets(len as f64 * growth));
        if let Ok(fitted) = PrivateCache::new(&config) {
            let before = std::mem::replace(&mut self.region, fitted);
            before.drain(|key, value| {
                self.insert(key, value);
            });
        }
    }

    fn position(&self, key: &[u8]) -> Option<usize> {
        self.spill_queue.iter().position(|(waiting, _)| waiting == key)
    }

    #[inline]
    fn get<'a>(&'a mut self, key: &[u8], buffer: &'a mut Vec<u8>) -> Option<&'a [u8]> {
        if self.region.contains(key) { self.region.get(key, buffer) } else { self.take_back(key, buffer) }
    }

    /// The value of a key that waits in the queue: a use, so it goes back into the region if that is not too small.
    #[cold]
    fn take_back<'a>(&'a mut self, key: &[u8], buffer: &'a mut Vec<u8>) -> Option<&'a [u8]> {
        let (key, value) = self.position(key).and_then(|position| self.spill_queue.remove(position))?;
        self.insert(&key, &value);
        match self.position(&key) {
            Some(position) => Some(&self.spill_queue[position].1),
            None => self.region.get(&key, buffer),
        }
    }

    fn push(&mut self, key: &[u8], value: &[u8]) -> Put {
        let waiting = self.position(key).and_then(|position| self.spill_queue.remove(position));
        match self.insert(key, value) {
            Put::Inserted if waiting.is_none() => Put::Inserted,
            _ => Put::Replaced,
        }
    }

    /// Stores an entry and notes which lost their place for it: the entry itself if the region is too small for it.
    fn insert(&mut self, key: &[u8], value: &[u8]) -> Put {
        self.batch.clear();
        let put = self.region.push(key, value, &mut self.batch);
        self.spill_queue.extend(self.batch.iter().map(|(key, value)| (key.to_vec(), value.to_vec())));
        self.fit_when_due();
        put.unwrap_or_else(|_| {
            let replaced = self.region.remove(key).is_some();
            self.spill_queue.push_back((key.to_vec(), value.to_vec()));
            if replaced { Put::Replaced } else { Put::Inserted }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u32) -> [u8; 4] {
        number.to_be_bytes()
    }

    #[test]
    fn a_region_that_grows_keeps_every_entry_and_the_order() {
        let mut store = EntryBound::new(NonZero::new(3000).unwrap());
        let region_bytes = |store: &EntryBound| store.region.resolved().region_bytes;
        let start_bytes = region_bytes(&store);
        let value = |number: u32| vec![number as u8; number as usize * 37 % 5000];
        for number in 0..3000 {
            assert_eq!(store.push(&key(number), &value(number)), (Put::Inserted, None));
            if number % 500 == 0 {
                store.region.shared().validate().unwrap();
            }
        }
        assert!(store.region.get(&key(0), &mut Vec::new()).is_some());
        assert!(region_bytes(&store) >= 4 * start_bytes, "{} after {start_bytes}", region_bytes(&store));
        assert!(region_bytes(&store) < 4 * store.region.bytes() as usize, "no larger than needed");
        assert_eq!(store.region.shared().stats().evictions, 0);
        store.region.shared().validate().unwrap();
        for number in (1..3000).chain([0]) {
            assert_eq!(store.pop_lru(), Some((key(number).to_vec(), value(number))));
        }
        assert_eq!(store.pop_lru(), None);
    }

    #[test]
    fn many_small_entries_get_more_buckets() {
        let mut store = EntryBound::new(NonZero::new(200_000).unwrap());
        (0..100).for_each(|number| _ = store.push(&key(number), &[0; 50_000]));
        (0..100).for_each(|_| _ = store.pop_lru());
        (0..60_000).for_each(|number| _ = store.push(&key(number), &[]));
        let report = store.region.shared().memory_report();
        assert!(report.bucket_load() < 2.5, "{}", report.bucket_load());
        assert_eq!(store.len, 60_000);
    }

    #[test]
    fn a_filled_region_fits_its_entries_before_half_of_it_is_used() {
        let bytes = 2 << 20;
        let mut store = ByteBound::new(bytes).unwrap();
        let fresh = store.region.resolved();
        let value = |number: u32| vec![number as u8; 200 + number as usize * 10 % 460];
        let mut number = 0;
        while !store.fitted {
            store.push(&key(number), &value(number));
            number += 1;
        }
        let used = store.region.shared().memory_report();
        assert!(used.data_bytes + used.directory_bytes < bytes as u64 / 2, "both regions take the bytes of one");
        assert_eq!((store.region.resolved().region_bytes, store.region.len()), (fresh.region_bytes, u64::from(number)));
        assert!(store.fitted);
        assert!(store.spill_queue.is_empty());
        store.region.shared().validate().unwrap();
        for number in 0..number {
            assert_eq!(store.region.pop_lru(), Some((key(number).to_vec(), value(number))), "in their order");
        }
    }

    #[test]
    fn what_lost_its_place_is_found_until_it_is_handed_back() {
        let mut store = ByteBound::new(256 << 10).unwrap();
        for number in 0..800 {
            store.push(&key(number), &[number as u8; 400]);
        }
        store.spill_queue.clear();
        let oldest = store.region.pop_lru().unwrap();
        store.push(&oldest.0, &oldest.1);
        store.push(b"wide", &[1; 40_000]);
        assert!(store.spill_queue.len() > 20);
        let (first, value) = store.spill_queue[0].clone();
        let mut out = Vec::new();
        assert_eq!(store.get(&first, &mut out), Some(&value[..]), "read where it waits");
        assert!(store.region.contains(&first), "which is a use, so it is back");
        assert_ne!(store.spill_queue[0].0, first);
        let second = store.spill_queue[0].0.clone();
        assert_eq!(store.push(&second, b"new"), Put::Replaced);
        assert!(store.region.contains(&second) && store.position(&second).is_none());
        store.region.shared().validate().unwrap();
    }

    #[test]
    fn what_is_too_large_for_a_filled_region_is_displaced_by_its_own_push() {
        let mut store = ByteBound::new(256 << 10).unwrap();
        assert_eq!(store.push(b"key", b"small"), Put::Inserted);
        assert_eq!(store.push(b"key", &[2; 200 << 10]), Put::Replaced);
        assert_eq!((store.region.len(), store.spill_queue.len()), (0, 1));
        let mut out = Vec::new();
        assert!(store.get(b"key", &mut out) == Some(&[2; 200 << 10][..]));
        assert_eq!(store.spill_queue.len(), 1);
        let long_key = [3; 5000];
        assert_eq!(store.push(&long_key, b"value"), Put::Inserted);
        assert_eq!(store.spill_queue.back(), Some(&(long_key.to_vec(), b"value".to_vec())));
    }
}
