//! Lookups beside a writer: a value is read without the partition's lock, and the reader can tell afterwards whether
//! what it read was a value.
//!
//! Everything that a reader touches here is a word that is loaded atomically, as writers store it, so there is no data
//! race, whatever the writer does meanwhile; but the words may be torn apart: half of one value and half of the next,
//! or memory that serves something else by now. Two words tell:
//!
//! - The record's *stamp* vouches for the entry. It is whole while the entry can be found and its key and value are
//!   complete, and no two contents have the same whole stamp.
//! - The partition's *placement epoch* vouches for places. It is raised after compaction moved entries out of a slab,
//!   after a slab of records left the directory, and after a reset made every record unreachable; in all three cases
//!   before the memory is used again.
//!
//! ```text
//! reader                             │ writer, under the exclusive lock
//! epoch                    acquire   │ stamp changing (replaces, removes), or epoch raised (moves)   release
//! cell or chain → record   acquire   │ fence                                                         release
//! stamp: whole?            acquire   │ words of slots and records
//! location                 acquire   │ location                                                      release
//! words of key and value             │ stamp whole                                                   release
//! fence                    acquire   │ cell or chain                                                 release
//! stamp, epoch: as before?           │
//! ```
//!
//! Why a value that passes is one that the key had during the lookup:
//!
//! 1. *The record is one.* A cell or a chain named it after the epoch was read. Were its slab out of the directory by
//!    then, nothing would have named it any more before that epoch began. If the slab leaves later, its memory is
//!    written after the next epoch and a release fence; who reads such a word sees that epoch behind the acquire fence.
//! 2. *The slot is the entry's.* The location was written before the stamp became whole, or by a move. An entry that
//!    goes away has its stamp changed, and one that moves has the epoch raised, before a release fence and the first
//!    write of the slot's next owner. As in 1, who reads such a write sees the other stamp or epoch.
//! 3. *The value is complete.* A stamp becomes whole after key and value were written. Who replaces them marks it as
//!    changing, then comes a release fence, then the writes; so who reads a word of the next value sees another stamp.
//!
//! This is Boehm's seqlock ("Can seqlocks get along with programming language memory models?", 2012), with one stamp
//! per entry instead of one for the partition: a writer does not disturb those who read other keys. The partition's own
//! `sequence` is not looked at, for every writer writes it. In a partition that a writer left half-way, an entry whose
//! stamp is whole is so like any other.
//!
//! A key is *absent* if its bucket's line does not name it, nothing is chained behind the line after that, and the
//! line, looked at once more, still does not. An entry never moves from the line into the chain. The other way it is in
//! both for a while; so one that was there all the time was in the line when the chain was seen to be empty, and the
//! last look finds it. That an entry is another key's needs the same proof as that it is this one's: stamp and epoch
//! are as before.
//!
//! Where entries are chained behind the line, where the value is chained, and after a few disturbed attempts, the
//! caller takes the lock.
//!
//! Nothing here panics or loops because of what it reads: each offset is checked against the slabs, each length against
//! the rest of its slab, each chain has a last step. The one thing on which this leans beyond the language's
//! own rules: where a slab changes between records and values, a stale reader may load 32 bits beside a store of 64;
//! every processor defines that, Rust does not promise it.
//!
//! Not here: the choice between this and the lock, counting (`shared::read`).

use std::sync::atomic::{Ordering, fence};

use super::bucket::Bucket;
use super::directory::{Record, Stamp, flag};
use super::ids::{EntryIndex, Location};
use super::partition::{Key, Partition};
use super::payload::{HEADER_BYTES, padded};
use super::region::Word64;
use super::words::words_equal;

/// Entries that are followed beyond a bucket's line, at most.
const LONGEST_CHAIN: usize = 32;

/// An entry's value as it was seen: whoever keeps something that was made of it can tell whether it is still the
/// entry's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting {
    stamp: Stamp,
    epoch: u64,
    entry: EntryIndex,
    partition: u32,
}

impl Sighting {
    /// The entry, and the stamp that its value had.
    #[inline]
    pub(super) fn entry_and_stamp(&self) -> (EntryIndex, Stamp) {
        (self.entry, self.stamp)
    }

    /// The partition that the entry is in.
    #[inline]
    pub fn partition(&self) -> usize {
        self.partition as usize
    }
}

/// Why a lookup without the lock has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// A writer came in between: what `read` was given, if anything, is worth nothing. Another try may do.
    Disturbed,
    /// The key has no value.
    Absent,
    /// To be decided under the lock: the key may be far down a chain, or its value is chained, or this use must be
    /// noted.
    Unclear,
}

/// What an entry must be for a lookup to be content with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The key is there.
    Any,
    /// Its use is noted already: nothing is left to write.
    Referenced,
}

impl Partition {
    /// Looks a key up without the lock; `read` is given the words of its value and their length in bytes.
    ///
    /// # Errors
    ///
    /// See [`Unread`].
    #[inline(always)]
    pub fn glance(
        &self,
        key: Key<'_>,
        wanted: Wanted,
        read: impl FnOnce(&[Word64], usize),
    ) -> Result<Sighting, Unread> {
        let epoch = self.placement_epoch();
        let bucket = self.bucket(self.bucket_of(key));
        let mut in_line = bucket.candidates(key.tag());
        let mut chain = bucket.first_overflowed();
        let mut left = LONGEST_CHAIN;
        loop {
            let entry = match in_line.next() {
                Some(entry) => entry,
                None => match chain {
                    Some(entry) if left > 0 => {
                        left -= 1;
                        chain = self.record_if_any(entry).and_then(Record::next_in_chain);
                        entry
                    }
                    Some(_) => return Err(Unread::Unclear),
                    None => break,
                },
            };
            if let Some(candidate) = self.inspect(entry, key)? {
                return self.take(candidate, epoch, wanted, read);
            }
        }
        Err(self.confirm_absence(bucket, key, epoch))
    }

    /// After the key was not seen: the second look at the line, if nothing is chained behind it.
    #[inline(never)]
    fn confirm_absence(&self, bucket: &Bucket, key: Key<'_>, epoch: u64) -> Unread {
        if bucket.first_overflowed().is_some() {
            return Unread::Unclear;
        }
        for entry in bucket.candidates(key.tag()) {
            let Some(record) = self.record_if_any(entry) else { return Unread::Disturbed };
            let stamp = record.stamp();
            match self.inspect(entry, key) {
                Ok(None) => {}
                Ok(Some(_)) => return Unread::Disturbed,
                Err(unread) => return unread,
            }
            fence(Ordering::Acquire);
            if record.stamp() != stamp {
                return Unread::Disturbed;
            }
        }
        if self.placement_epoch() == epoch { Unread::Absent } else { Unread::Disturbed }
    }

    /// An entry's value as it is now. Under the lock, in any mode.
    pub fn sighting(&self, entry: EntryIndex) -> Sighting {
        Sighting { stamp: self.record(entry).stamp(), epoch: self.placement_epoch(), entry, partition: self.index }
    }

    /// Whether the value is still that of its entry, at this moment; without the lock. Two loads, as long as the epoch
    /// is the same.
    ///
    /// A stamp is compared with what is in the record's place. In another epoch that may be bytes of a value, which its
    /// owner could have chosen to look like the stamp; so the slab must be one of records before, and the epoch the
    /// same before and after: a slab has left the directory before an epoch begins, and its memory is used after. A
    /// slab that left it and came back holds higher generations.
    #[inline(always)]
    pub fn confirms(&self, sighting: &mut Sighting) -> bool {
        self.has_stamp(sighting)
            && (self.placement_epoch() == sighting.epoch || self.confirms_in_another_epoch(sighting))
    }

    #[inline(always)]
    fn has_stamp(&self, sighting: &Sighting) -> bool {
        self.record(sighting.entry).stamp() == sighting.stamp
    }

    #[cold]
    fn confirms_in_another_epoch(&self, sighting: &mut Sighting) -> bool {
        let epoch = self.placement_epoch();
        let confirmed = self.is_record(sighting.entry) && self.has_stamp(sighting) && self.placement_epoch() == epoch;
        if confirmed {
            sighting.epoch = epoch;
        }
        confirmed
    }

    /// Whether a use of this value is noted already; without the lock, and for what [`Partition::confirms`] affirms
    /// afterwards.
    pub fn is_use_noted(&self, sighting: &Sighting) -> bool {
        !self.needs_reference(self.record(sighting.entry))
    }

    /// The entry of a sighting, if its value is the same. Under the lock, in any mode.
    pub fn recognise(&self, sighting: &Sighting) -> Option<EntryIndex> {
        let Sighting { entry, stamp, .. } = *sighting;
        (self.is_record(entry) && self.record(entry).stamp() == stamp).then_some(entry)
    }

    /// Names the present placement of all entries; see the head of this file.
    #[inline]
    pub fn placement_epoch(&self) -> u64 {
        self.header().placement_epoch.load_acquire()
    }

    /// The record that an index names, if it lies in a slab at all.
    #[inline(always)]
    pub(super) fn record_if_any(&self, entry: EntryIndex) -> Option<&Record> {
        self.layout.slab_of(self.layout.record_offset(entry))?;
        Some(self.record(entry))
    }

    /// What a record shows beside a writer; `None` if it is another key's.
    #[inline(always)]
    fn inspect(&self, entry: EntryIndex, key: Key<'_>) -> Result<Option<Candidate<'_>>, Unread> {
        let record = self.record_if_any(entry).ok_or(Unread::Disturbed)?;
        let stamp = record.stamp();
        if !stamp.is_whole() {
            return Err(Unread::Disturbed);
        }
        let (flags, key_len) = record.flags_and_key_len();
        if key_len != key.bytes.len() {
            return Ok(None);
        }
        if flags & !flag::PLAIN != 0 {
            return Err(Unread::Unclear);
        }
        let slot = record.location().usize() * Location::UNIT_BYTES;
        let (_, within) = self.layout.slab_of(slot).ok_or(Unread::Disturbed)?;
        // An entry in one slot ends with the slab, at the latest.
        let words: &[Word64] = self.region.slice(slot, (self.layout.slab_bytes - within) as usize / 8);
        let value_start = (HEADER_BYTES + padded(key_len)) / 8;
        let key_words = words.get(HEADER_BYTES / 8..value_start).ok_or(Unread::Disturbed)?;
        if !words_equal(key_words, key.bytes) {
            return Ok(None);
        }
        let value_len = self.slot_word(slot, 1).get() as usize;
        let value = words.get(value_start..value_start + value_len.div_ceil(8)).ok_or(Unread::Disturbed)?;
        Ok(Some(Candidate { entry, record, stamp, value, value_len }))
    }

    #[inline(always)]
    fn take(
        &self,
        candidate: Candidate<'_>,
        epoch: u64,
        wanted: Wanted,
        read: impl FnOnce(&[Word64], usize),
    ) -> Result<Sighting, Unread> {
        let Candidate { entry, record, stamp, value, value_len } = candidate;
        if wanted == Wanted::Referenced && self.needs_reference(record) {
            return Err(Unread::Unclear);
        }
        read(value, value_len);
        fence(Ordering::Acquire);
        if record.stamp() == stamp && self.placement_epoch() == epoch {
            Ok(Sighting { stamp, epoch, entry, partition: self.index })
        } else {
            Err(Unread::Disturbed)
        }
    }
}

/// An entry that has the key, as it looked beside a writer.
struct Candidate<'a> {
    entry: EntryIndex,
    record: &'a Record,
    stamp: Stamp,
    value: &'a [Word64],
    value_len: usize,
}

#[cfg(test)]
#[allow(unsafe_code)] // two handles to the same memory
mod tests {
    use std::ptr::NonNull;
    use std::sync::Arc;

    use super::super::config::{Config, Policy};
    use super::super::evicted::Sink;
    use super::super::ids::{BucketIndex, ClassIndex, SlabIndex};
    use super::super::partition::hash_key;
    use super::super::region::Region;
    use super::super::room::CompactBudget;
    use super::super::words::append_words;
    use super::*;

    const SEED: u64 = 7;

    #[repr(align(64))]
    #[derive(Clone, Copy)]
    struct Line {
        _bytes: [u8; 64],
    }

    /// A partition with its writer, and memory for readers' handles.
    struct Shared {
        writer: Partition,
        region: Region,
        _memory: Vec<Line>,
    }

    impl Shared {
        fn new() -> Shared {
            let config = Config::bytes(512 << 10).partitions(1).slab_bytes(16 << 10).buckets(16).policy(Policy::Clock);
            let layout = Arc::new(config.layout().unwrap());
            let mut memory = vec![Line { _bytes: [0; 64] }; layout.region_bytes / 64 + 1];
            let base = NonNull::new(memory.as_mut_ptr()).unwrap().cast();
            // SAFETY: the memory is aligned and lives as long as the region, through which alone it is used.
            let region = unsafe { Region::new(base, layout.region_bytes) };
            let mut writer = Partition::new(&region, layout, 0, SEED);
            writer.format(0);
            Shared { writer, region, _memory: memory }
        }

        fn reader(&self) -> Partition {
            Partition::new(&self.region, self.writer.layout.clone(), 0, SEED)
        }

        fn put(&mut self, name: &[u8], value: &[u8]) {
            self.writer.push(key(name), value, &mut Sink::Drop).unwrap();
        }

        fn remove(&mut self, name: &[u8]) {
            assert!(self.writer.remove(key(name), &mut Vec::new()));
        }

        fn fill(&mut self, numbers: std::ops::Range<u32>, value: &[u8]) {
            numbers.for_each(|number| self.put(&number.to_be_bytes(), value));
        }

        /// Looks a key up; `step` happens when half of its value is read.
        fn read(&mut self, name: &[u8], step: impl FnOnce(&mut Shared)) -> (Option<Unread>, Vec<u8>) {
            let reader = self.reader();
            let mut value = Vec::new();
            let glance = reader.glance(key(name), Wanted::Any, |words, len| {
                let half = words.len() / 2;
                append_words(&words[..half], 8 * half, &mut value);
                step(self);
                append_words(&words[half..], len - 8 * half, &mut value);
            });
            self.writer.validate().unwrap();
            (glance.err(), value)
        }
    }

    fn key(bytes: &[u8]) -> Key<'_> {
        Key { bytes, hash: hash_key(bytes, SEED) }
    }

    const NAME: &[u8] = b"a name";
    const OLD: [u8; 500] = [1; 500];

    /// The steps disturb a reader, and end what was seen before them, but for one that was only `moved`.
    fn assert_disturbed(what: &str, prepare: impl FnOnce(&mut Shared), step: impl FnOnce(&mut Shared)) {
        let mut shared = Shared::new();
        shared.put(NAME, &OLD);
        prepare(&mut shared);
        let mut before = shared.reader().glance(key(NAME), Wanted::Any, |_, _| ()).unwrap();
        assert!(shared.reader().confirms(&mut before), "before: {what}");
        assert_eq!(shared.read(NAME, |_| ()), (None, OLD.to_vec()), "before: {what}");
        assert_eq!(shared.read(NAME, step).0, Some(Unread::Disturbed), "{what}");
        assert_eq!(shared.reader().confirms(&mut before), what == "moved", "after: {what}");
        assert_eq!(shared.reader().recognise(&before).is_some(), what == "moved", "after: {what}");
    }

    #[test]
    fn what_becomes_of_other_keys_does_not_disturb() {
        let mut shared = Shared::new();
        shared.put(NAME, &OLD);
        shared.fill(0..100, &[9; 500]);
        let (glance, value) = shared.read(NAME, |shared| {
            shared.fill(0..50, &[8; 500]);
            shared.fill(50..60, &[8; 900]);
            shared.fill(100..150, &[8; 480]);
            (60..70u32).for_each(|number| shared.remove(&number.to_be_bytes()));
        });
        assert_eq!((glance, value), (None, OLD.to_vec()));
    }

    #[test]
    fn a_value_that_is_replaced_or_removed_meanwhile_is_not_believed() {
        let nothing = |_: &mut Shared| ();
        assert_disturbed("replaced in place", nothing, |shared| shared.put(NAME, &[2; 500]));
        assert_disturbed("replaced twice, by what it was", nothing, |shared| {
            shared.put(NAME, &[2; 500]);
            shared.put(NAME, &OLD);
        });
        assert_disturbed("replaced by a larger one", nothing, |shared| shared.put(NAME, &[2; 800]));
        assert_disturbed("replaced by a chained one", nothing, |shared| shared.put(NAME, &[2; 5000]));
        assert_disturbed("removed", nothing, |shared| shared.remove(NAME));
        assert_disturbed("removed and stored again", nothing, |shared| {
            shared.remove(NAME);
            shared.put(NAME, &OLD);
        });
        let pin = |shared: &mut Shared| {
            let entry = shared.writer.find(key(NAME)).unwrap();
            shared.writer.pin(entry).unwrap();
        };
        assert_disturbed("removed while pinned", pin, |shared| shared.remove(NAME));
        assert_disturbed("replaced while pinned", pin, |shared| shared.put(NAME, &[2; 500]));
        assert_disturbed("evicted", nothing, |shared| {
            shared.fill(0..2000, &[2; 500]);
            shared.fill(0..2000, &[3; 500]);
        });
    }

    #[test]
    fn a_value_that_is_moved_meanwhile_is_not_believed_though_its_entry_is_the_same() {
        let holes = |shared: &mut Shared| {
            shared.fill(0..400, &[2; 500]);
            (0..400u32).filter(|number| number % 8 != 0).for_each(|number| shared.remove(&number.to_be_bytes()));
        };
        let stamp_of = |shared: &Shared| {
            let entry = shared.writer.find(key(NAME)).unwrap();
            (shared.writer.record(entry).stamp(), shared.writer.record(entry).location())
        };
        assert_disturbed("moved", holes, |shared| {
            let before = stamp_of(shared);
            let report = shared.writer.compact(CompactBudget::unlimited());
            assert!(report.slabs_released > 0);
            shared.fill(1000..1100, &[3; 500]);
            assert_eq!(stamp_of(shared).0, before.0, "nothing but the epoch tells");
        });
    }

    #[test]
    fn a_record_whose_slab_left_the_directory_is_not_believed_whatever_its_bytes_say() {
        // So many small entries after it that the slab with its record is not the one that the directory keeps or gets
        // back.
        assert_disturbed(
            "forged",
            |shared| shared.fill(0..2000, &[2; 8]),
            |shared| {
                let entry = shared.writer.find(key(NAME)).unwrap();
                let offset = shared.writer.layout.record_offset(entry);
                let record = shared.writer.region().bytes(offset, size_of::<Record>()).to_vec();
                let (slab, _) = shared.writer.layout.slab_of(offset).unwrap();
                while shared.writer.pop(&mut Sink::Drop).is_some() {}
                assert_ne!(shared.writer.descriptor(slab).class.get(), ClassIndex::DIRECTORY.0);
                // Values that look like the record wherever it lay, in as much memory as there is.
                let mut number = 0u32;
                while shared.writer.region().bytes(offset, 8) != &record[..8] {
                    let shift = 8 * (number.wrapping_mul(0x9e37_79b1) >> 30) as usize;
                    let value: Vec<u8> =
                        record[shift..].iter().chain(&record[..shift]).copied().cycle().take(1600).collect();
                    shared.put(&number.to_be_bytes(), &value);
                    number += 1;
                    assert!(number < 100_000, "the slab serves values and the bytes come up");
                }
            },
        );
    }

    #[test]
    fn what_a_reset_empties_is_not_believed_and_not_found() {
        let nothing = |_: &mut Shared| ();
        let reset = |shared: &mut Shared| {
            let entry = shared.writer.find(key(NAME)).unwrap();
            let stamp = shared.writer.record(entry).stamp();
            shared.writer.damage();
            shared.writer.reset();
            assert_eq!(shared.writer.record(entry).stamp(), stamp, "nothing but the epoch tells");
        };
        assert_disturbed("reset", nothing, reset);
        let mut shared = Shared::new();
        shared.put(NAME, &OLD);
        reset(&mut shared);
        assert_eq!(shared.read(NAME, |_| ()).0, Some(Unread::Absent));
    }

    #[test]
    fn an_entry_that_is_not_complete_is_not_looked_at() {
        let mut shared = Shared::new();
        let reader = shared.reader();
        let built = shared.writer.build(key(NAME), &OLD, &mut Sink::Drop).unwrap();
        assert!(matches!(reader.inspect(built, key(NAME)), Err(Unread::Disturbed)), "built, and not listed yet");
        shared.writer.dispose(built);
        assert!(matches!(reader.inspect(built, key(NAME)), Err(Unread::Disturbed)), "free");
        shared.put(NAME, &OLD);
        let entry = shared.writer.find(key(NAME)).unwrap();
        assert!(matches!(reader.inspect(entry, key(NAME)), Ok(Some(_))));
        shared.writer.record(entry).mark_changing();
        assert!(matches!(reader.inspect(entry, key(NAME)), Err(Unread::Disturbed)), "being replaced");
        shared.put(b"chained", &[1; 9000]);
        let chained = shared.writer.find(key(b"chained")).unwrap();
        assert!(matches!(reader.inspect(chained, key(b"chained")), Err(Unread::Unclear)));
        let part = shared.writer.continuations(chained).next().unwrap();
        assert!(matches!(reader.inspect(part, key(b"")), Err(Unread::Disturbed)), "a continuation is no entry");
    }

    #[test]
    fn keys_beyond_their_buckets_line_are_seen_and_missing_ones_never() {
        let mut shared = Shared::new();
        shared.fill(0..400, b"value");
        assert!(shared.writer.header().overflowed.get() > 100);
        let seen = |shared: &mut Shared, number: u32| shared.read(&number.to_be_bytes(), |_| ());
        let found = (0..400).filter(|&number| seen(&mut shared, number).0.is_none()).count();
        assert!(found > 390, "{found} of 400, but for what is far down a chain");
        assert!((400..800).all(|number| seen(&mut shared, number).0 == Some(Unread::Unclear)), "they may be chained");
        (20..400u32).for_each(|number| shared.remove(&number.to_be_bytes()));
        assert!((0..20).all(|number| seen(&mut shared, number).0.is_none()));
        assert!((20..800).all(|number| seen(&mut shared, number).0 == Some(Unread::Absent)));
    }

    #[test]
    fn a_key_that_is_replaced_under_a_pin_is_listed_at_every_moment() {
        for count in [0, 400] {
            let mut shared = Shared::new();
            shared.fill(0..count, b"value");
            shared.put(NAME, &OLD);
            let entry = shared.writer.find(key(NAME)).unwrap();
            assert_eq!(shared.writer.record(entry).has(flag::OVERFLOWED), count > 0);
            shared.writer.pin(entry).unwrap();
            let built = shared.writer.build(key(NAME), &[2; 500], &mut Sink::Drop).unwrap();
            shared.writer.record(built).mark_whole();
            shared.writer.take_place_in_bucket(key(NAME), built, entry);
            assert_eq!(shared.writer.find(key(NAME)), Some(built), "without a step in between");
            let overflowed = [entry, built].map(|entry| shared.writer.record(entry).has(flag::OVERFLOWED));
            assert_eq!(overflowed, [false, count > 0]);
        }
    }

    #[test]
    fn any_bytes_whatever_lead_nowhere() {
        let mut shared = Shared::new();
        shared.fill(0..300, &OLD);
        let buckets = shared.writer.layout.bucket_offset(BucketIndex(0));
        let slabs = shared.writer.layout.slab_offset(SlabIndex(0));
        let reader = shared.reader();
        let words: &[Word64] = reader.region().slice(buckets, (shared.region_end() - buckets) / 8);
        let slab_range = slabs as u64 / 32..shared.region_end() as u64 / 32;
        let mut state = 1u64;
        let mut random = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state ^ state >> 29
        };
        for round in 0..30 {
            for word in words {
                // Some indexes must lead to somewhere, some words to everywhere.
                let index = slab_range.start + random() % (slab_range.end - slab_range.start);
                match (round + random()) % 4 {
                    0 => word.set(random()),
                    1 => word.set(index << 32 | index),
                    2 => word.set(1 | random() << 33),
                    _ => {}
                }
            }
            let reader = shared.reader();
            for number in 0..300u32 {
                let mut out = Vec::new();
                let _ = reader
                    .glance(key(&number.to_be_bytes()), Wanted::Any, |words, len| append_words(words, len, &mut out));
                assert!(out.len() <= 16 << 10);
            }
        }
    }

    impl Shared {
        fn region_end(&self) -> usize {
            self.writer.layout.slab_offset(SlabIndex(self.writer.layout.slab_count))
        }
    }
}
