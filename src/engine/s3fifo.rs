//! S3-FIFO: two queues, so that what is used once does not push out what is used again.
//!
//! After Yang et al., "FIFO Queues are All You Need for Cache Eviction" (SOSP 2023), with the authors' own parameters:
//!
//! ```text
//! new key ──────────▶ small ── used twice or more ──▶ main ◀──┐ used: one use less
//!                       │ else                         │ │    │
//! key that is a ghost ──┼─────────────────────────────▶│ └────┘
//!                       ▼                              ▼ not used
//!                 evicted, a ghost                  evicted
//! ```
//!
//! - A hit counts uses, up to three. Nothing moves: an entry goes from queue to queue when its turn to be evicted comes,
//!   its uses forgotten on the way to main.
//! - Evicted is from the small queue while that has a tenth of the entries or more, else from main. What a tenth is
//!   of: the entries, where the capacity is in entries; else their bytes, metadata included.
//! - A ghost is a key that was evicted from the small queue not long ago; see `ghost`.
//!
//! Pinned entries, and the one whose value is being replaced, go to the head of their queue when their turn comes.
//!
//! Invariants: bit `SMALL` of a record says which queue its entry is in; `small_len` and `small_bytes` are the sums over
//! the small queue. Cost: a victim search puts back entries that were used; each that it puts back in main takes a hit
//! to be put back again, and each that it moves to main was inserted. At most four laps of main in one search.
//!
//! Locking: everything here runs under the partition's exclusive lock.

use super::config::Policy;
use super::directory::flag;
use super::ids::EntryIndex;
use super::partition::Partition;
use super::report::ENTRY_METADATA_BYTES;

/// One part in so many of the cache is the small queue's share.
const SMALL_SHARE: u64 = 10;
/// With so many uses an entry of the small queue goes on to main.
const USES_FOR_MAIN: u32 = 2;

impl Partition {
    /// Whether an entry is in the small queue; never with another policy.
    #[inline]
    pub(super) fn is_small(&self, entry: EntryIndex) -> bool {
        self.layout.policy == Policy::S3Fifo && self.record(entry).has(flag::SMALL)
    }

    fn entry_bytes(&self, entry: EntryIndex) -> u64 {
        (self.record(entry).key_len() + self.value_len(entry)) as u64
    }

    /// Counts an entry that comes into the small queue, if it is that.
    pub(super) fn small_gains(&self, entry: EntryIndex) {
        if self.is_small(entry) {
            self.header().small_len.add(1);
            self.header().small_bytes.add(self.entry_bytes(entry));
        }
    }

    /// Counts an entry that leaves the small queue, if it is there.
    pub(super) fn small_loses(&self, entry: EntryIndex) {
        if self.is_small(entry) {
            self.header().small_len.sub(1);
            self.header().small_bytes.sub(self.entry_bytes(entry));
        }
    }

    /// Counts the bytes of an entry whose value was replaced, by one of another length perhaps.
    pub(super) fn resized(&self, entry: EntryIndex, value_len_before: usize) {
        let header = self.header();
        let value_len = self.value_len(entry) as u64;
        let recount = |bytes: u64| bytes - value_len_before as u64 + value_len;
        header.live_bytes.set(recount(header.live_bytes.get()));
        if self.is_small(entry) {
            header.small_bytes.set(recount(header.small_bytes.get()));
        }
    }

    /// Whether the next entry to evict is one of the small queue.
    pub(super) fn small_is_next(&self) -> bool {
        let header = self.header();
        let weight = |len: u32, bytes: u64| match header.max_entries.get() {
            0 => bytes + u64::from(len) * ENTRY_METADATA_BYTES,
            _ => u64::from(len),
        };
        let small = weight(header.small_len.get(), header.small_bytes.get());
        let all = weight(header.len.get(), header.live_bytes.get());
        small > 0 && small >= all / SMALL_SHARE
    }

    /// The next entry to evict; `None` if all are pinned.
    pub(super) fn s3_fifo_victim(&mut self) -> Option<EntryIndex> {
        // Entries of the small queue not met yet; and what is enough for each entry to be met in main with three uses,
        // two, one and none.
        let mut small_left = self.header().small_len.get();
        let mut main_left = 4 * u64::from(self.header().len.get());
        while small_left > 0 || main_left > 0 {
            if small_left > 0 && (main_left == 0 || self.small_is_next()) {
                small_left -= 1;
                let entry = EntryIndex(self.header().small_tail.get());
                let record = self.record(entry);
                match (record.is_evictable(), record.uses()) {
                    (false, uses) => self.requeue(entry, uses),
                    (true, USES_FOR_MAIN..) => self.move_to_main(entry),
                    (true, _) => return Some(entry),
                }
            } else {
                main_left -= 1;
                let Some(entry) = EntryIndex(self.header().tail.get()).some() else {
                    main_left = 0;
                    continue;
                };
                match (self.record(entry).is_evictable(), self.record(entry).uses()) {
                    (true, 0) => return Some(entry),
                    (_, uses) => self.requeue(entry, uses.saturating_sub(1)),
                }
            }
        }
        None
    }

    fn move_to_main(&mut self, entry: EntryIndex) {
        let last_use = self.record(entry).last_use();
        self.unlink(entry);
        self.record(entry).clear_flags(flag::SMALL);
        self.link_front(entry);
        self.record(entry).touch(last_use, 0);
    }
}

#[cfg(test)]
mod tests {
    //! Against a plain model: two queues and a map of ghosts. Every eviction must be the model's, under random
    //! operations, with entries pinned and unpinned in between, and `validate` must find nothing wrong.
    //!
    //! The hash seed is fixed, and the keys are checked to have different fingerprints and to fit their lines of ghosts: so
    //! the table of ghosts must be as exact as the model's map.

    use std::collections::{HashMap, HashSet, VecDeque};
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::engine::config::Config;
    use crate::engine::evicted::{Evicted, Sink};
    use crate::engine::partition::{Key, PushError, Put, hash_key};
    use crate::engine::region::Region;

    const SEED: u64 = 5;

    #[derive(Clone, Debug)]
    enum Op {
        Get(u16),
        Push(u16, usize),
        Remove(u16),
        Pop,
        Pin(u16),
        UnpinAll,
    }

    struct Entry {
        value_len: usize,
        uses: u32,
    }

    /// Queues have their oldest key in front.
    #[derive(Default)]
    struct Model {
        /// 0: the capacity is in bytes, and the engine says how many go.
        max_entries: usize,
        entries: HashMap<u16, Entry>,
        small: VecDeque<u16>,
        main: VecDeque<u16>,
        ghosts: HashMap<u16, u64>,
        ghost_time: u64,
        ghosts_recalled: u32,
        pinned: HashSet<u16>,
    }

    impl Model {
        fn weight(&self, key: u16) -> u64 {
            match self.max_entries {
                0 => (2 + self.entries[&key].value_len) as u64 + ENTRY_METADATA_BYTES,
                _ => 1,
            }
        }

        fn small_is_next(&self) -> bool {
            let small: u64 = self.small.iter().map(|&key| self.weight(key)).sum();
            let all: u64 = self.entries.keys().map(|&key| self.weight(key)).sum();
            !self.small.is_empty() && small >= all / 10
        }

        fn use_again(&mut self, key: u16) -> bool {
            let entry = self.entries.get_mut(&key);
            entry.map(|entry| entry.uses = 3.min(entry.uses + 1)).is_some()
        }

        /// The next to go, `spared` and what is pinned passed over.
        fn victim(&mut self, spared: Option<u16>) -> Option<u16> {
            let (mut small_left, mut main_left) = (self.small.len(), 4 * self.entries.len());
            while small_left + main_left > 0 {
                let from_small = small_left > 0 && (main_left == 0 || self.small_is_next());
                let queue = if from_small { &mut self.small } else { &mut self.main };
                *(if from_small { &mut small_left } else { &mut main_left }) -= 1;
                let Some(key) = queue.pop_front() else { continue };
                let passed_over = self.pinned.contains(&key) || spared == Some(key);
                let uses = &mut self.entries.get_mut(&key).unwrap().uses;
                match (from_small, *uses) {
                    (true, _) if passed_over => self.small.push_back(key),
                    (true, 2..) => {
                        *uses = 0;
                        self.main.push_back(key);
                    }
                    (false, 0) if passed_over => self.main.push_back(key),
                    (false, 1..) => {
                        *uses -= 1;
                        self.main.push_back(key);
                    }
                    _ => {
                        queue_of(from_small, self).push_front(key);
                        return Some(key);
                    }
                }
            }
            None
        }

        fn evict(&mut self, spared: Option<u16>) -> Option<u16> {
            let key = self.victim(spared)?;
            if self.small.contains(&key) {
                match self.ghosts_recalled {
                    0 => self.ghost_time += 1,
                    _ => self.ghosts_recalled -= 1,
                }
                self.ghosts.insert(key, self.ghost_time);
            }
            self.remove(key);
            Some(key)
        }

        fn remove(&mut self, key: u16) -> bool {
            self.small.retain(|&other| other != key);
            self.main.retain(|&other| other != key);
            self.pinned.remove(&key);
            self.entries.remove(&key).is_some()
        }

        fn pop(&mut self) -> Option<u16> {
            let oldest = if self.small_is_next() { self.small.front() } else { self.main.front() }.copied()?;
            let key = self.victim(None).unwrap_or(oldest);
            self.remove(key);
            Some(key)
        }

        fn insert(&mut self, key: u16, value_len: usize) {
            let remembered = (self.entries.len() - self.entries.len() / 10) as u64;
            let evicted = self.ghosts.remove(&key);
            let is_ghost = evicted.is_some_and(|time| self.ghost_time - time < remembered);
            self.ghosts_recalled += u32::from(is_ghost);
            queue_of(!is_ghost, self).push_back(key);
            self.entries.insert(key, Entry { value_len, uses: 0 });
        }
    }

    fn queue_of(small: bool, model: &mut Model) -> &mut VecDeque<u16> {
        if small { &mut model.small } else { &mut model.main }
    }

    fn key(bytes: &[u8; 2]) -> Key<'_> {
        Key { bytes, hash: hash_key(bytes, SEED) }
    }

    fn number(key: &[u8]) -> u16 {
        u16::from_be_bytes(key.try_into().unwrap())
    }

    /// An empty partition, in whose table of ghosts no two of the keys can be taken for each other or push each other
    /// out.
    fn partition(config: Config, keys: u16) -> Partition {
        let layout = Arc::new(config.policy(Policy::S3Fifo).partitions(1).slab_bytes(16 << 10).layout().unwrap());
        let mut lines = HashMap::<u32, HashSet<u64>>::new();
        for key in 0..keys {
            let hash = hash_key(&key.to_be_bytes(), SEED);
            let line = lines.entry(hash as u32 & (layout.buckets_per_partition - 1)).or_default();
            assert!(line.insert((hash >> 48).max(1)) && line.len() <= 16, "choose another seed");
        }
        let mut partition = Partition::new(&Region::leaked(layout.region_bytes), layout, 0, SEED);
        partition.format(partition.layout.partition_max_entries(0));
        partition
    }

    fn push(partition: &mut Partition, model: &mut Model, (number_, value_len): (u16, usize)) {
        let known = model.entries.contains_key(&number_);
        let mut evicted = Evicted::default();
        let bytes = number_.to_be_bytes();
        let put = partition.push(key(&bytes), &vec![1; value_len], &mut Sink::Keep(&mut evicted));
        let spared = known.then_some(number_);
        for (evicted, _) in evicted.iter() {
            assert_eq!(model.evict(spared), Some(number(evicted)));
        }
        match put {
            Ok(Put::Replaced) => {
                assert!(known);
                // A reader that has the old value pinned keeps that; the new one is nobody's.
                model.pinned.remove(&number_);
                model.entries.get_mut(&number_).unwrap().value_len = value_len;
                model.use_again(number_);
            }
            Ok(Put::Inserted) => {
                assert!(!known);
                assert!(model.max_entries == 0 || evicted.len() <= 1);
                model.insert(number_, value_len);
            }
            Err(PushError::Full { .. }) => assert_eq!(model.evict(spared), None, "all are pinned"),
            Err(error) => panic!("{error}"),
        }
    }

    fn run(config: Config, max_entries: usize, keys: u16, ops: Vec<Op>) {
        let mut partition = partition(config, keys);
        let mut model = Model { max_entries, ..Model::default() };
        let mut pins = Vec::new();
        for op in ops {
            match op.clone() {
                Op::Get(number) => {
                    let found = partition.find(key(&number.to_be_bytes()));
                    assert_eq!(found.is_some(), model.use_again(number));
                    found.into_iter().for_each(|entry| partition.reference(entry));
                }
                Op::Push(number, value_len) => push(&mut partition, &mut model, (number, value_len)),
                Op::Remove(number) => {
                    let removed = partition.remove(key(&number.to_be_bytes()), &mut Vec::new());
                    assert_eq!(removed, model.remove(number));
                }
                Op::Pop => {
                    let mut popped = Evicted::default();
                    partition.pop(&mut Sink::Keep(&mut popped));
                    assert_eq!(popped.iter().next().map(|(key, _)| number(key)), model.pop());
                }
                Op::Pin(number) => {
                    if let Some(entry) = partition.find(key(&number.to_be_bytes())) {
                        let (_, _, generation) = partition.pin(entry).unwrap();
                        pins.push((entry, generation));
                        model.pinned.insert(number);
                    }
                }
                Op::UnpinAll => {
                    model.pinned.clear();
                    for (entry, generation) in pins.drain(..) {
                        if partition.unpin(entry, generation) {
                            partition.reap(entry, generation);
                        }
                    }
                }
            }
            partition.validate().unwrap_or_else(|error| panic!("after {op:?}: {:#?}", error.0));
            assert_eq!(partition.len() as usize, model.entries.len());
            assert_eq!(partition.header().small_len.get() as usize, model.small.len());
        }
        let mut drained = Evicted::default();
        while partition.pop(&mut Sink::Keep(&mut drained)).is_some() {}
        let expected: Vec<u16> = std::iter::from_fn(|| model.pop()).collect();
        assert_eq!(drained.iter().map(|(key, _)| number(key)).collect::<Vec<_>>(), expected, "the order of eviction");
    }

    #[test]
    fn when_every_entry_is_in_main_and_was_used_thrice_one_goes() {
        let mut partition = partition(Config::entries(3, 10), 6);
        let push = |partition: &mut Partition, number: u16| {
            let put = partition.push(key(&number.to_be_bytes()), b"", &mut Sink::Drop);
            assert_eq!(put, Ok(Put::Inserted));
        };
        let use_all = |partition: &Partition, numbers: [u16; 3]| {
            for number in numbers {
                let entry = partition.find(key(&number.to_be_bytes())).unwrap();
                (0..5).for_each(|_| partition.reference(entry));
            }
        };
        (0..3).for_each(|number| push(&mut partition, number));
        use_all(&partition, [0, 1, 2]);
        // 3 takes the place of 0, 4 that of 3, and 3 comes back from the ghosts.
        [3, 4, 3].into_iter().for_each(|number| push(&mut partition, number));
        assert_eq!(partition.header().small_len.get(), 0);
        use_all(&partition, [1, 2, 3]);
        push(&mut partition, 5);
        assert_eq!((partition.len(), partition.header().small_len.get()), (3, 1));
        partition.validate().unwrap();
    }

    fn ops(keys: u16, max_value: usize) -> impl Strategy<Value = Op> {
        prop_oneof![
            14 => (0..keys).prop_map(Op::Get),
            12 => (0..keys, 0..=max_value).prop_map(|(key, value_len)| Op::Push(key, value_len)),
            1 => (0..keys).prop_map(Op::Remove),
            1 => Just(Op::Pop),
            1 => (0..keys).prop_map(Op::Pin),
            1 => Just(Op::UnpinAll),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

        #[test]
        fn of_n_entries_the_same_go_as_from_two_queues_and_a_map(
            ops in prop::collection::vec(ops(40, 100), 1..500), capacity in 1u32..30,
        ) {
            run(Config::entries(capacity, 102).buckets(64), capacity as usize, 40, ops);
        }

        #[test]
        fn of_b_bytes_the_small_queue_has_a_tenth(ops in prop::collection::vec(ops(300, 1900), 200..800)) {
            run(Config::bytes(200 << 10).buckets(64), 0, 300, ops);
        }
    }
}
