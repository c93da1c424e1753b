//! The predecessor's design, for comparison: a cache over a bump allocator.
//!
//! Purpose: shows what the redesign buys. It keeps the predecessor's idea (one region, entries laid one after another,
//! a fixed number of hash buckets with chains, memory never given back) and none of its bugs: the end of the region is
//! checked, entries are rounded to 8 bytes, offsets are 64 bits, an insert looks for its key first.
//!
//! What follows from the idea: nothing that was laid down can be freed on its own. A removed or outgrown entry leaves a
//! hole for good. So when the region is used up, or the entry limit reached, the only way on is to wipe everything,
//! live or not. A replaced value reuses its place when it fits there, which the design allows.
//!
//! ```text
//! region: | heads: bucket_count × u64 | entry | entry | ... | never yet used |
//! entry:  | next u64 | hash u32 | key_bytes u32 | value_bytes u32 | room_bytes u32 | key | value | padding to 8 |
//!         0          8          12              16                20               24
//! ```
//!
//! An offset of 0 ends a chain (offset 0 is a head, never an entry). `room_bytes` is what the entry has for key, value
//! and padding.
//!
//! It does no locking, keeps no recency (there is nothing to choose between when all goes) and works in one process.

use std::fmt;

use xxhash_rust::xxh3::xxh3_64;

use crate::contender::{Bound, Contender, Figures, Refused, Settings};

const HEAD_BYTES: usize = size_of::<u64>();
const ALIGN_BYTES: usize = 8;

/// What an entry costs beside its key and value (and padding).
pub const HEADER_BYTES: usize = 24;

/// The predecessor's number of buckets.
pub const DEFAULT_BUCKET_COUNT: usize = 1024;

const HASH_AT: usize = 8;
const KEY_BYTES_AT: usize = 12;
const VALUE_BYTES_AT: usize = 16;
const ROOM_BYTES_AT: usize = 20;

/// Byte offset of an entry in the region.
#[derive(Clone, Copy, PartialEq, Eq)]
struct EntryOffset(usize);

/// Where the chain link to an entry stands: a head or another entry's `next`.
#[derive(Clone, Copy)]
struct LinkOffset(usize);

/// What keeps a bump cache from being made.
#[derive(Debug, PartialEq, Eq)]
pub enum BumpError {
    /// The buckets alone need more than the region, or there are none.
    Buckets { bucket_count: usize, region_bytes: usize },
}

impl fmt::Display for BumpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BumpError::Buckets { bucket_count, region_bytes } = self;
        write!(
            f,
            "{bucket_count} buckets of {HEAD_BYTES} bytes do not fit a region of {region_bytes} bytes (at least 1)"
        )
    }
}

impl std::error::Error for BumpError {}

/// An entry that could not fit even an empty region. The cache is as it was before.
#[derive(Debug, PartialEq, Eq)]
struct TooLarge;

/// The cache. See the file's head for what it can and cannot do.
pub struct Bump {
    region: Vec<u8>,
    bucket_count: usize,
    max_entries: u64,
    /// First byte never yet used.
    next_free: usize,
    entries: u64,
    payload_bytes: u64,
    evictions: u64,
    wipes: u64,
    refused: u64,
}

impl Bump {
    /// A cache in `region_bytes`, wiped when they are used up or `max_entries` is reached.
    ///
    /// # Errors
    /// The heads of the buckets need more than the region.
    pub fn new(region_bytes: usize, bucket_count: usize, max_entries: Option<u64>) -> Result<Self, BumpError> {
        let heads_bytes = bucket_count.checked_mul(HEAD_BYTES);
        match heads_bytes {
            Some(next_free) if bucket_count > 0 && next_free <= region_bytes => Ok(Bump {
                region: vec![0; region_bytes],
                bucket_count,
                max_entries: max_entries.unwrap_or(u64::MAX),
                next_free,
                entries: 0,
                payload_bytes: 0,
                evictions: 0,
                wipes: 0,
                refused: 0,
            }),
            _ => Err(BumpError::Buckets { bucket_count, region_bytes }),
        }
    }

    /// As [`Bump::new`], as the settings ask for.
    ///
    /// # Errors
    /// As [`Bump::new`], or the bound is none of this cache's.
    pub fn within(settings: &Settings) -> Result<Self, String> {
        let buckets = settings.bump_buckets;
        let (region_bytes, max_entries) = match settings.bound {
            Bound::Bytes(bytes) => (usize::try_from(bytes).ok(), None),
            Bound::Entries { count, entry_bytes } => {
                (Bump::region_bytes_for(count, entry_bytes, buckets), Some(u64::from(count)))
            }
            Bound::ValueBytes(_) => {
                return Err("bump: only lru and s3-fifo can count values alone; give bytes or entries".into());
            }
        };
        let region_bytes = region_bytes.ok_or("bump: the region is larger than memory can be")?;
        Bump::new(region_bytes, buckets, max_entries).map_err(|error| format!("bump: {error}"))
    }

    /// The region in which `entries` entries of `entry_bytes` of key and value fit, if none ever grows.
    fn region_bytes_for(entries: u32, entry_bytes: u32, bucket_count: usize) -> Option<usize> {
        let each = (entry_bytes as usize).next_multiple_of(ALIGN_BYTES) + HEADER_BYTES;
        (entries as usize).checked_mul(each)?.checked_add(bucket_count.checked_mul(HEAD_BYTES)?)
    }

    /// The value of `key`, found by walking its bucket's chain.
    fn value(&self, key: &[u8]) -> Option<&[u8]> {
        let (_, entry) = self.find(key, hash_of(key))?;
        let key_bytes = self.u32_at(entry.0 + KEY_BYTES_AT) as usize;
        let value_bytes = self.u32_at(entry.0 + VALUE_BYTES_AT) as usize;
        let value_at = entry.0 + HEADER_BYTES + key_bytes;
        Some(&self.region[value_at..value_at + value_bytes])
    }

    /// Stores `value` under `key`: in place if the key is there and its room suffices, else behind the last entry,
    /// and if that does not fit, in a wiped region.
    ///
    /// # Errors
    /// [`TooLarge`] when even an empty region could not hold the entry.
    fn store(&mut self, key: &[u8], value: &[u8]) -> Result<(), TooLarge> {
        let room_bytes = (key.len() + value.len()).next_multiple_of(ALIGN_BYTES);
        let heads_bytes = self.bucket_count * HEAD_BYTES;
        let largest_bytes = (self.region.len() - heads_bytes).saturating_sub(HEADER_BYTES);
        if room_bytes > largest_bytes || u32::try_from(room_bytes).is_err() || self.max_entries == 0 {
            return Err(TooLarge);
        }
        let hash = hash_of(key);
        if let Some((link, entry)) = self.find(key, hash) {
            let old_bytes = self.u32_at(entry.0 + VALUE_BYTES_AT);
            self.payload_bytes -= u64::from(old_bytes);
            if room_bytes <= self.u32_at(entry.0 + ROOM_BYTES_AT) as usize {
                self.write_value(entry, key.len(), value);
                return Ok(());
            }
            let next = self.u64_at(entry.0);
            self.set_u64(link.0, next);
            self.entries -= 1;
            self.payload_bytes -= key.len() as u64;
        }
        let need_bytes = HEADER_BYTES + room_bytes;
        if self.entries == self.max_entries || need_bytes > self.region.len() - self.next_free {
            self.wipe();
        }
        self.append(key, value, hash, room_bytes);
        Ok(())
    }

    /// Walks every chain and compares what it finds with the counts.
    ///
    /// # Errors
    /// The first contradiction.
    fn check_chains(&self) -> Result<(), String> {
        let (mut entries, mut payload_bytes) = (0, 0);
        for bucket in 0..self.bucket_count {
            let mut offset = self.u64_at(bucket * HEAD_BYTES) as usize;
            while offset != 0 {
                if offset % ALIGN_BYTES != 0 || offset + HEADER_BYTES > self.next_free {
                    return Err(format!("bucket {bucket} leads to no entry: {offset}"));
                }
                let key_bytes = u64::from(self.u32_at(offset + KEY_BYTES_AT));
                let value_bytes = u64::from(self.u32_at(offset + VALUE_BYTES_AT));
                let room_bytes = u64::from(self.u32_at(offset + ROOM_BYTES_AT));
                if key_bytes + value_bytes > room_bytes {
                    return Err(format!("entry {offset} is larger than its room"));
                }
                entries += 1;
                payload_bytes += key_bytes + value_bytes;
                if entries > self.entries {
                    return Err(format!("more than {} entries in chains", self.entries));
                }
                offset = self.u64_at(offset) as usize;
            }
        }
        if (entries, payload_bytes) == (self.entries, self.payload_bytes) {
            Ok(())
        } else {
            Err(format!(
                "{entries} entries of {payload_bytes} bytes in chains, {} of {} counted",
                self.entries, self.payload_bytes
            ))
        }
    }

    /// Forgets every entry, the only way this design has to free memory.
    fn wipe(&mut self) {
        self.evictions += self.entries;
        self.wipes += 1;
        self.entries = 0;
        self.payload_bytes = 0;
        self.next_free = self.bucket_count * HEAD_BYTES;
        self.region[..self.next_free].fill(0);
    }

    fn append(&mut self, key: &[u8], value: &[u8], hash: u64, room_bytes: usize) {
        let entry = EntryOffset(self.next_free);
        self.next_free += HEADER_BYTES + room_bytes;
        assert!(self.next_free <= self.region.len(), "an entry past the region");
        let head = self.head(hash);
        let first = self.u64_at(head.0);
        self.set_u64(entry.0, first);
        self.set_u32(entry.0 + HASH_AT, (hash >> 32) as u32);
        self.set_u32(entry.0 + KEY_BYTES_AT, key.len() as u32);
        self.set_u32(entry.0 + ROOM_BYTES_AT, room_bytes as u32);
        let key_at = entry.0 + HEADER_BYTES;
        self.region[key_at..key_at + key.len()].copy_from_slice(key);
        self.write_value(entry, key.len(), value);
        self.set_u64(head.0, entry.0 as u64);
        self.entries += 1;
        self.payload_bytes += key.len() as u64;
    }

    fn write_value(&mut self, entry: EntryOffset, key_bytes: usize, value: &[u8]) {
        self.set_u32(entry.0 + VALUE_BYTES_AT, value.len() as u32);
        let value_at = entry.0 + HEADER_BYTES + key_bytes;
        self.region[value_at..value_at + value.len()].copy_from_slice(value);
        self.payload_bytes += value.len() as u64;
    }

    /// The entry of `key` and the link that leads to it.
    fn find(&self, key: &[u8], hash: u64) -> Option<(LinkOffset, EntryOffset)> {
        let mut link = self.head(hash);
        loop {
            let entry = EntryOffset(self.u64_at(link.0) as usize);
            if entry.0 == 0 {
                return None;
            }
            if self.u32_at(entry.0 + HASH_AT) == (hash >> 32) as u32 && self.key(entry) == key {
                return Some((link, entry));
            }
            link = LinkOffset(entry.0);
        }
    }

    fn key(&self, entry: EntryOffset) -> &[u8] {
        let key_at = entry.0 + HEADER_BYTES;
        &self.region[key_at..key_at + self.u32_at(entry.0 + KEY_BYTES_AT) as usize]
    }

    /// The low bits choose the bucket, the high ones are kept in the entry, so that they tell chain mates apart.
    fn head(&self, hash: u64) -> LinkOffset {
        LinkOffset((hash % self.bucket_count as u64) as usize * HEAD_BYTES)
    }

    fn u64_at(&self, at: usize) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.region[at..at + 8]);
        u64::from_le_bytes(bytes)
    }

    fn u32_at(&self, at: usize) -> u32 {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&self.region[at..at + 4]);
        u32::from_le_bytes(bytes)
    }

    fn set_u64(&mut self, at: usize, value: u64) {
        self.region[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }

    fn set_u32(&mut self, at: usize, value: u32) {
        self.region[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
}

impl Contender for Bump {
    fn name(&self) -> &'static str {
        "bump"
    }

    fn policy(&self) -> &'static str {
        "wipe"
    }

    fn read(&mut self, key: &[u8], see: &mut dyn FnMut(&[u8])) -> bool {
        self.value(key).map(see).is_some()
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Refused> {
        self.store(key, value).map_err(|TooLarge| {
            self.refused += 1;
            Refused::TooLarge
        })
    }

    /// The heads of the buckets are no metadata: they cost the same without any entry.
    fn figures(&self) -> Option<Figures> {
        Some(Figures {
            region_bytes: Some(self.region.len() as u64),
            payload_bytes: self.payload_bytes,
            metadata_bytes: self.entries * HEADER_BYTES as u64,
            entries: self.entries,
            evictions: self.evictions,
            refused: self.refused,
            wipes: self.wipes,
            ..Figures::default()
        })
    }

    fn lost(&self) -> u64 {
        self.evictions + self.wipes
    }

    fn validate(&self) -> Result<(), String> {
        self.check_chains()
    }
}

fn hash_of(key: &[u8]) -> u64 {
    xxh3_64(key)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use rand::rngs::SmallRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    /// The model of what a bump cache holds, and of how much of the region is used.
    #[test]
    fn it_answers_like_a_map_that_is_wiped_when_full() {
        const REGION_BYTES: usize = 4096;
        const BUCKETS: usize = 8;
        let mut cache = Bump::new(REGION_BYTES, BUCKETS, Some(40)).unwrap();
        let mut model: HashMap<[u8; 2], (Vec<u8>, usize)> = HashMap::new();
        let mut used_bytes = BUCKETS * 8;
        let (mut wipes, mut lost) = (0, 0);
        let mut rng = SmallRng::seed_from_u64(3);
        for step in 0..20_000 {
            let key = [rng.random_range(..60u8), 1];
            if rng.random_bool(0.5) {
                let expected = model.get(&key).map(|(value, _)| value.as_slice());
                assert_eq!(cache.value(&key), expected, "step {step}");
                continue;
            }
            let value = vec![step as u8; rng.random_range(..120)];
            cache.store(&key, &value).unwrap();
            let room_bytes = (2 + value.len()).next_multiple_of(8);
            match model.get_mut(&key) {
                Some((old, room)) if room_bytes <= *room => *old = value,
                _ => {
                    model.remove(&key);
                    if model.len() == 40 || used_bytes + HEADER_BYTES + room_bytes > REGION_BYTES {
                        lost += model.len() as u64;
                        wipes += 1;
                        model.clear();
                        used_bytes = BUCKETS * 8;
                    }
                    used_bytes += HEADER_BYTES + room_bytes;
                    model.insert(key, (value, room_bytes));
                }
            }
            cache.validate().unwrap();
            assert_eq!(cache.entries, model.len() as u64);
            assert_eq!((cache.evictions, cache.wipes), (lost, wipes));
            let payload: usize = model.values().map(|(value, _)| value.len() + 2).sum();
            assert_eq!(cache.payload_bytes, payload as u64);
        }
        assert!(wipes > 10, "{wipes}");
    }

    #[test]
    fn an_entry_fills_the_region_to_its_end_and_no_further() {
        let mut cache = Bump::new(64 + HEADER_BYTES + 80, 8, None).unwrap();
        assert_eq!(cache.store(b"key", &[1; 78]), Err(TooLarge));
        assert_eq!(cache.store(b"key", &[1; 77]), Ok(()));
        assert_eq!(cache.store(b"key", &[2; 77]), Ok(()));
        assert_eq!(cache.wipes, 0);
        assert_eq!(cache.store(b"yek", b""), Ok(()));
        assert_eq!((cache.wipes, cache.evictions), (1, 1));
        assert_eq!((cache.value(b"key"), cache.value(b"yek")), (None, Some(&[][..])));
        cache.validate().unwrap();
    }

    #[test]
    fn a_refused_entry_changes_nothing() {
        let mut cache = Bump::new(1024, 8, None).unwrap();
        cache.store(b"a", b"one").unwrap();
        assert_eq!(cache.store(b"a", &[0; 5000]), Err(TooLarge));
        assert_eq!(cache.value(b"a"), Some(&b"one"[..]));
    }

    #[test]
    fn a_region_for_entries_holds_that_many() {
        let region_bytes = Bump::region_bytes_for(100, 21, 8).unwrap();
        let mut cache = Bump::new(region_bytes, 8, Some(100)).unwrap();
        for key in 0..100u8 {
            cache.store(&[key], &[key; 20]).unwrap();
        }
        assert_eq!((cache.entries, cache.wipes), (100, 0));
        cache.store(&[100], b"").unwrap();
        assert_eq!((cache.entries, cache.evictions), (1, 100));
    }

    #[test]
    fn buckets_must_fit_the_region() {
        for (region_bytes, bucket_count) in [(63, 8), (100, 0), (100, usize::MAX)] {
            let error = Bump::new(region_bytes, bucket_count, None).map(drop);
            let expected = BumpError::Buckets { bucket_count, region_bytes };
            assert_eq!(error, Err(expected));
        }
    }
}
