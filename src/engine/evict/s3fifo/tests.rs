//! Against a plain model: two queues and a map of ghosts. Every eviction must be the model's, under random
//! operations, with entries pinned and unpinned in between.
//!
//! Hashes are made up so that keys have different fingerprints and lines of ghosts of their own: so the table of
//! ghosts must be as exact as the model's map.

use std::collections::{HashMap, HashSet, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::engine::entry::record::Flags;
use crate::engine::slab::area::SlabArea;

#[derive(Clone, Debug)]
enum Op {
    Use(u32),
    Insert(u32, u64),
    Remove(u32),
    Pin(u32),
    UnpinAll,
}

struct Entry {
    bytes: u64,
    uses: u32,
}

/// Queues have their oldest key in front.
#[derive(Default)]
struct Model {
    /// 0: the capacity is in bytes.
    max_entries: u32,
    entries: HashMap<u32, Entry>,
    small: VecDeque<u32>,
    main: VecDeque<u32>,
    ghosts: HashMap<u32, u64>,
    ghost_time: u64,
    ghosts_recalled: u32,
    pinned: HashSet<u32>,
}

impl Model {
    fn weight(&self, key: u32) -> u64 {
        match self.max_entries {
            0 => self.entries[&key].bytes + ENTRY_METADATA_BYTES,
            _ => 1,
        }
    }

    fn total(&self) -> u64 {
        self.entries.keys().map(|&key| self.weight(key)).sum()
    }

    fn small_is_next(&self) -> bool {
        let small: u64 = self.small.iter().map(|&key| self.weight(key)).sum();
        !self.small.is_empty() && small >= self.total() / 10
    }

    /// The next to go, what is pinned passed over.
    fn victim(&mut self) -> Option<u32> {
        if self.pinned.len() == self.entries.len() {
            return None;
        }
        let (mut small_left, mut main_left) = (self.small.len(), 4 * self.entries.len());
        let mut stay_in_main = 0;
        while small_left + main_left > 0 {
            let from_small = small_left > 0 && (main_left == 0 || self.small_is_next());
            let queue = if from_small { &mut self.small } else { &mut self.main };
            *(if from_small { &mut small_left } else { &mut main_left }) -= 1;
            let Some(key) = queue.pop_front() else { continue };
            let passed_over = self.pinned.contains(&key);
            if passed_over && !from_small {
                stay_in_main += 1;
                if stay_in_main > self.main.len() {
                    main_left = 0;
                }
            } else if !passed_over {
                stay_in_main = 0;
            }
            let uses = &mut self.entries.get_mut(&key).unwrap().uses;
            match (from_small, *uses) {
                (true, _) if passed_over => self.small.push_back(key),
                (true, 2..) => {
                    *uses = 0;
                    self.main.push_back(key);
                    main_left = 4 * self.entries.len();
                }
                (false, 0) if passed_over => self.main.push_back(key),
                (false, 1..) => {
                    *uses -= 1;
                    self.main.push_back(key);
                }
                _ => {
                    self.queue(from_small).push_front(key);
                    return Some(key);
                }
            }
        }
        None
    }

    fn queue(&mut self, small: bool) -> &mut VecDeque<u32> {
        if small { &mut self.small } else { &mut self.main }
    }

    fn evict(&mut self) -> Option<u32> {
        let key = self.victim()?;
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

    fn remove(&mut self, key: u32) {
        self.small.retain(|&other| other != key);
        self.main.retain(|&other| other != key);
        self.pinned.remove(&key);
        self.entries.remove(&key);
    }

    fn insert(&mut self, key: u32, bytes: u64) {
        let remembered = (self.entries.len() - self.entries.len() / 10) as u64;
        let evicted = self.ghosts.remove(&key);
        let is_ghost = evicted.is_some_and(|time| self.ghost_time - time < remembered);
        self.ghosts_recalled += u32::from(is_ghost);
        self.queue(!is_ghost).push_back(key);
        self.entries.insert(key, Entry { bytes, uses: 0 });
    }
}

/// The policy over records of its own: entry `n` is key `n`.
struct World {
    order: S3Fifo,
    records: Records,
    model: Model,
    capacity: u64,
}

impl World {
    fn new(max_entries: u32, capacity: u64) -> World {
        let records = Records::new(SlabArea::new(Region::leaked(4 * 16384), 16384));
        let region = Region::leaked(S3Fifo::region_bytes(512 * 16));
        let mut order = S3Fifo::open(region, records);
        order.format();
        World { order, records, model: Model { max_entries, ..Model::default() }, capacity }
    }

    fn totals(&self) -> Totals {
        let bytes = self.model.entries.values().map(|entry| entry.bytes).sum();
        Totals { entries: self.model.entries.len() as u32, bytes, max_entries: self.model.max_entries }
    }

    fn hash(key: u32) -> KeyHash {
        KeyHash(u64::from(key + 1) << 48 | u64::from(key))
    }

    fn victim(&mut self) -> Search {
        let (records, totals) = (self.records, self.totals());
        let bytes: HashMap<u32, u64> = self.model.entries.iter().map(|(&key, e)| (key, e.bytes)).collect();
        let may_evict = |entry| records.get(entry).is_evictable();
        let bytes_of = |entry: EntryIndex| bytes[&entry.0];
        let candidates = Candidates { totals, may_evict: &may_evict, bytes_of: &bytes_of };
        self.order.victim(&candidates, &mut Work::new())
    }

    fn evict(&mut self) -> bool {
        let found = self.victim();
        let Search::Victim(entry) = found else {
            assert_eq!((found, self.model.victim()), (Search::NothingToEvict, None));
            return false;
        };
        let bytes = self.model.entries[&entry.0].bytes;
        assert_eq!(self.model.evict(), Some(entry.0));
        self.order.note_eviction(entry, Self::hash(entry.0));
        self.order.remove(entry, bytes);
        self.records.get(entry).close_for_test();
        true
    }

    fn run(&mut self, op: Op) {
        let known = |world: &World, key: u32| world.model.entries.contains_key(&key);
        match op {
            Op::Use(key) if known(self, key) => {
                let record = self.records.get(EntryIndex(key));
                assert_eq!(self.order.hit(record) == HitNeeds::Mark, record.uses() < 3);
                self.order.mark(EntryIndex(key));
                let uses = &mut self.model.entries.get_mut(&key).unwrap().uses;
                *uses = 3.min(*uses + 1);
            }
            Op::Insert(key, bytes) if !known(self, key) => {
                let weight = if self.model.max_entries == 0 { bytes + ENTRY_METADATA_BYTES } else { 1 };
                while self.model.total() + weight > self.capacity {
                    if !self.evict() {
                        return;
                    }
                }
                self.records.get(EntryIndex(key)).open_for_test(Flags::NONE);
                self.order.insert(EntryIndex(key), Self::hash(key), bytes, self.totals());
                self.model.insert(key, bytes);
            }
            Op::Remove(key) if known(self, key) => {
                let bytes = self.model.entries[&key].bytes;
                self.order.remove(EntryIndex(key), bytes);
                self.records.get(EntryIndex(key)).close_for_test();
                self.model.remove(key);
            }
            Op::Pin(key) if known(self, key) => {
                assert!(self.records.get(EntryIndex(key)).pin());
                self.model.pinned.insert(key);
            }
            Op::UnpinAll => {
                for key in self.model.pinned.drain() {
                    while self.records.get(EntryIndex(key)).pins() > 0 {
                        self.records.get(EntryIndex(key)).unpin();
                    }
                }
            }
            _ => {}
        }
        self.validate();
    }

    fn validate(&self) {
        let mut findings = Findings::default();
        let bytes_of = |entry: EntryIndex| self.model.entries.get(&entry.0).map(|entry| entry.bytes);
        self.order.validate(self.totals(), &bytes_of, &mut findings);
        findings.into_result().unwrap();
        assert_eq!(self.order.queues.state().small_len.get() as usize, self.model.small.len());
    }

    fn drain(mut self) {
        self.run(Op::UnpinAll);
        while self.evict() {}
        assert!(self.model.entries.is_empty());
    }
}

#[test]
fn when_every_entry_is_in_main_and_was_used_thrice_one_goes() {
    let mut world = World::new(3, 3);
    (0..3).for_each(|key| world.run(Op::Insert(100 + key, 1)));
    let use_all = |world: &mut World, keys: [u32; 3]| {
        keys.into_iter().for_each(|key| (0..5).for_each(|_| world.run(Op::Use(100 + key))));
    };
    use_all(&mut world, [0, 1, 2]);
    // 3 takes the place of 0, 4 that of 3, and 3 comes back from the ghosts.
    [3, 4, 3].into_iter().for_each(|key| world.run(Op::Insert(100 + key, 1)));
    assert_eq!(world.order.queues.state().small_len.get(), 0);
    use_all(&mut world, [1, 2, 3]);
    world.run(Op::Insert(105, 1));
    assert_eq!((world.model.entries.len(), world.order.queues.state().small_len.get()), (3, 1));
}

#[test]
fn a_heavy_main_queue_of_which_nothing_may_go_leaves_the_small_one_its_turn() {
    let mut world = World::new(0, u64::MAX);
    world.run(Op::Insert(100, 1_000_000));
    (0..2).for_each(|_| world.run(Op::Use(100)));
    let entry = EntryIndex(100);
    world.order.move_to_main(entry, 1_000_000);
    world.model.small.clear();
    world.model.main.push_back(100);
    world.model.entries.get_mut(&100).unwrap().uses = 0;
    world.run(Op::Pin(100));
    (101..107).for_each(|key| world.run(Op::Insert(key, 10)));
    assert_eq!(world.victim(), Search::Victim(EntryIndex(101)));
}

#[test]
fn a_lap_over_used_entries_is_shared_by_many_searches() {
    let mut world = World::new(0, u64::MAX);
    let most = MAX_LAP + 200;
    (100..100 + most).for_each(|key| world.run(Op::Insert(key, 1)));
    (100..100 + most).for_each(|key| (0..3).for_each(|_| world.order.mark(EntryIndex(key))));
    let put_back = |world: &World| {
        let uses = |key| world.records.get(EntryIndex(key)).uses();
        (100..100 + most).filter(|&key| uses(key) < 3).count() as u32
    };
    assert!(matches!(world.victim(), Search::Victim(_)));
    assert_eq!(put_back(&world), MAX_LAP, "as many as one search may put back");
}

fn ops(keys: u32, max_bytes: u64) -> impl Strategy<Value = Op> {
    // The first records are those of the slab's bitmap.
    let keys = 100..100 + keys;
    prop_oneof![
        14 => keys.clone().prop_map(Op::Use),
        12 => (keys.clone(), 2..=max_bytes).prop_map(|(key, bytes)| Op::Insert(key, bytes)),
        1 => keys.clone().prop_map(Op::Remove),
        1 => keys.prop_map(Op::Pin),
        1 => Just(Op::UnpinAll),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn of_n_entries_the_same_go_as_from_two_queues_and_a_map(
        ops in prop::collection::vec(ops(40, 100), 1..500), capacity in 1u32..30,
    ) {
        let mut world = World::new(capacity, u64::from(capacity));
        ops.into_iter().for_each(|op| world.run(op));
        world.drain();
    }

    #[test]
    fn of_b_bytes_the_small_queue_has_a_tenth(ops in prop::collection::vec(ops(120, 1900), 100..400)) {
        let mut world = World::new(0, 60_000);
        ops.into_iter().for_each(|op| world.run(op));
        world.drain();
    }
}
