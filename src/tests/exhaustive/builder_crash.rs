//! A worker over a builder cache may be killed after any instruction: no update is lost unless that is said.
//!
//! The store lies in words beside the region, so that a state is that of both. Each state is recovered, and held to:
//!
//! - where no partition is marked, each key has its value of before, or the one that the operation gives it, by
//!   whatever way it is asked for; workers go on; a drain hands every entry out once;
//! - where one is marked, a handle from before says `Lost` to every store and every drain, and never says of a key that
//!   was stored that there is none;
//! - nothing stays in anybody's hands, and every structure agrees with the others.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pg_shared_lru::{BuilderCache, BuilderError, Config, DrainError, DrainShare, Policy, RobustLocks, SpillStore};

use super::recording::{COUNTERS, Recording};
use super::runner::{Case, Extent, Part, Tally};
use super::stepper::Halt;
use super::world::World;

const KEYS: u32 = 64;
/// Longer than any wait that ends: a dead worker's leases are found to be so after a moment.
const PATIENCE: Duration = Duration::from_secs(5);

type Worker = BuilderCache<u32, Vec<u32>, RobustLocks>;

/// One word a key; 0 for none.
#[derive(Clone, Copy)]
struct Store(&'static [AtomicU64]);

impl Store {
    fn read(self, key: u32) -> Option<u32> {
        let word = self.0[key as usize].load(Ordering::SeqCst) as u32;
        (word != 0).then_some(word)
    }

    fn write(self, key: u32, value: u32) {
        self.0[key as usize].store(value.into(), Ordering::SeqCst);
    }
}

impl SpillStore<u32, Vec<u32>> for Store {
    type Error = Infallible;

    fn load(&mut self, key: &u32) -> Result<Option<Vec<u32>>, Infallible> {
        Ok(self.read(*key).map(list))
    }

    fn spill(&mut self, key: &u32, value: Vec<u32>) -> Result<(), Infallible> {
        self.write(*key, value[0]);
        Ok(())
    }
}

fn list(value: u32) -> Vec<u32> {
    vec![value; 20]
}

fn more(mut list: Vec<u32>) -> Vec<u32> {
    list.iter_mut().for_each(|value| *value += 1);
    list
}

struct Operation {
    name: &'static str,
    run: fn(&Worker, Store),
    /// The key that it changes, and to what.
    changes: Option<(u32, u32)>,
}

/// Keys 0 to 13 were pushed, of which the last few are in the cache, dirty; 30 to 44 are in the store.
const OPERATIONS: &[Operation] = &[
    Operation {
        name: "a push of a new key",
        run: |worker, mut store| _ = worker.push(&50, &list(9), &mut store).unwrap(),
        changes: Some((50, 9)),
    },
    Operation {
        name: "a push over a dirty entry",
        run: |worker, mut store| _ = worker.push(&12, &list(9), &mut store).unwrap(),
        changes: Some((12, 9)),
    },
    Operation {
        name: "a load that must make room",
        run: |worker, mut store| assert!(worker.get_or_load(&40, &mut store).unwrap().is_some()),
        changes: None,
    },
    Operation {
        name: "a load of what is nowhere",
        run: |worker, mut store| assert!(worker.get_or_load(&60, &mut store).unwrap().is_none()),
        changes: None,
    },
    Operation {
        name: "more loads than there is room for",
        run: |worker, mut store| {
            for key in 30..45 {
                assert!(worker.get_or_load(&key, &mut store).unwrap().is_some());
            }
        },
        changes: None,
    },
    Operation {
        name: "a change of what must be loaded",
        run: |worker, mut store| assert!(worker.modify(&40, &mut store, more).unwrap()),
        changes: Some((40, 401)),
    },
    Operation {
        name: "a change of what is there",
        run: |worker, mut store| assert!(worker.modify(&12, &mut store, more).unwrap()),
        changes: Some((12, 113)),
    },
    Operation {
        name: "a change of what is nowhere",
        run: |worker, mut store| {
            worker.upsert(&60, &mut store, |found| more(found.unwrap_or_else(|| list(0)))).unwrap()
        },
        changes: Some((60, 1)),
    },
    Operation {
        name: "a push over the version that was read",
        run: |worker, mut store| {
            let (value, version) = worker.get_or_load(&12, &mut store).unwrap().expect("it is there");
            assert_eq!(worker.compare_push(&12, version, more(value), &mut store).unwrap(), None);
        },
        changes: Some((12, 113)),
    },
    Operation {
        name: "a push over a version that is gone",
        run: |worker, mut store| {
            let (value, version) = worker.get_or_load(&12, &mut store).unwrap().expect("it is there");
            worker.push(&12, &list(9), &mut store).unwrap();
            assert!(worker.compare_push(&12, version, more(value), &mut store).unwrap().is_some());
        },
        changes: Some((12, 9)),
    },
    Operation {
        name: "a worker's share of the drain",
        run: |worker, store| {
            let drained = worker.drain_share(DrainShare { worker: 1, workers: 2 }, |key, value, _| {
                store.write(key, value[0]);
                Ok::<_, Infallible>(())
            });
            assert_eq!(drained.unwrap(), 8);
        },
        changes: None,
    },
    Operation {
        name: "a read of bytes where they lie",
        run: |worker, _| _ = worker.with(&12, |_| ()).expect("it is there"),
        changes: None,
    },
];

/// Every operation under every policy; of a sample, under one policy each.
pub fn part(extent: Extent) -> Part {
    let states = extent.choose(60, usize::MAX);
    let under = |(turn, policy): (usize, Policy)| {
        let all = OPERATIONS.iter().enumerate();
        let chosen = all.filter(move |(number, _)| extent == Extent::All || number % Policy::ALL.len() == turn);
        chosen.map(move |(_, operation)| Case {
            name: format!("{policy}: {}", operation.name),
            run: Box::new(move |tally| check(operation, policy, states, tally)),
        })
    };
    Part {
        name: "builder's crash consistency",
        counters: &COUNTERS,
        cases: Policy::ALL.into_iter().enumerate().flat_map(under).collect(),
    }
}

/// Whether a key may have this value: it was stored, or the operation stores it.
struct Truth<'a> {
    stored: BTreeMap<u32, u32>,
    operation: &'a Operation,
}

impl Truth<'_> {
    fn allows(&self, key: u32, value: Option<u32>) -> bool {
        value == self.stored.get(&key).copied() || value.is_some() && value == self.changed(key)
    }

    fn changed(&self, key: u32) -> Option<u32> {
        self.operation.changes.and_then(|(changed, value)| (changed == key).then_some(value))
    }

    fn check(&self, how: &str, key: u32, value: Option<u32>) -> Result<(), String> {
        match self.allows(key, value) {
            true => Ok(()),
            false => Err(format!("{how}: key {key} is {value:?}, stored was {:?}", self.stored.get(&key))),
        }
    }
}

fn check(operation: &Operation, policy: Policy, states: usize, tally: &Tally) {
    let config = Config::entries(8, 128).policy(policy);
    let world = World::new(&config, KEYS as usize);
    let store = Store(world.own_words());
    let worker =
        Worker::over(world.create(&config, 0, || world.locks())).expect("its own types").with_wait_timeout(PATIENCE);
    let mut truth = Truth { stored: BTreeMap::new(), operation };
    for key in 30..45 {
        store.write(key, key * 10);
        truth.stored.insert(key, key * 10);
    }
    for key in 0..14 {
        worker.push(&key, &list(100 + key), &mut store.clone()).expect("the store takes what makes way");
        truth.stored.insert(key, 100 + key);
    }
    let recording = Recording::make(&world, || (operation.run)(&worker, store))
        .unwrap_or_else(|Halt(why)| panic!("{}: {why}", operation.name));
    recording.recover_each(states, tally, |image| {
        world.restore(image);
        match World::is_marked_damaged(image) {
            true => check_lost(&worker, &world, store, &truth),
            false => check_whole(&world, store, &truth),
        }
    });
}

fn another_worker(world: &World) -> Worker {
    Worker::over(world.attach(0, world.locks()).expect("it is there"))
        .expect("its own types")
        .with_wait_timeout(PATIENCE)
}

/// What a worker says whose handle is from before its partition was lost.
fn check_lost(worker: &Worker, world: &World, mut store: Store, truth: &Truth<'_>) -> Result<(), String> {
    for &key in truth.stored.keys() {
        match worker.get_or_load(&key, &mut store) {
            Err(BuilderError::Lost) => (),
            Ok(Some((value, _))) => truth.check("a load when all is lost", key, Some(value[0]))?,
            other => return Err(format!("key {key} was stored, a load when all is lost gives {other:?}")),
        }
        match worker.modify(&key, &mut store, more) {
            Err(BuilderError::Lost) => (),
            other => return Err(format!("key {key} was stored, a change when all is lost gives {other:?}")),
        }
    }
    if !matches!(worker.push(&1, &list(1), &mut store), Err(BuilderError::Lost)) {
        return Err("a push when all is lost is not refused".to_owned());
    }
    if !matches!(worker.drain_sorted(|_, _, _| Ok::<_, ()>(())), Err(DrainError::Lost)) {
        return Err("a drain when all is lost is not refused".to_owned());
    }
    let share = DrainShare { worker: 0, workers: 1 };
    if !matches!(worker.drain_share(share, |_, _, _| Ok::<_, ()>(())), Err(DrainError::Lost)) {
        return Err("a share of the drain when all is lost is not refused".to_owned());
    }
    check_hands(&another_worker(world), 0)
}

/// Nothing is in anybody's hands, but for so many pins that a dead reader may have left.
fn check_hands(worker: &Worker, dead_pins: u64) -> Result<(), String> {
    let cache = worker.encoded();
    cache.release_leases_of_all_dead();
    let in_flight = cache.in_flight();
    if in_flight.loads + in_flight.writes > 0 || in_flight.pins > dead_pins {
        return Err(format!("in the hands of the dead: {in_flight:?}"));
    }
    cache.validate().map_err(|error| format!("validate: {error}"))
}

/// What workers find who come later, and what they do then.
fn check_whole(world: &World, mut store: Store, truth: &Truth<'_>) -> Result<(), String> {
    let worker = another_worker(world);
    check_hands(&worker, 1)?;
    for &key in truth.stored.keys() {
        let found = worker.get_or_load(&key, &mut store).map_err(|error| format!("a load: {error}"))?;
        truth.check("a load", key, found.map(|(value, _)| value[0]))?;
    }
    for (key, value) in [(3, 1003), (55, 1055)] {
        worker.push(&key, &list(value), &mut store).map_err(|error| format!("a later push: {error}"))?;
    }
    let mut all: BTreeMap<u32, u32> = (0..KEYS).filter_map(|key| Some((key, store.read(key)?))).collect();
    let mut drained = Vec::new();
    let drain = worker.drain_sorted(|key, value, _| {
        drained.push(key);
        all.insert(key, value[0]);
        Ok::<_, Infallible>(())
    });
    drain.map_err(|error| format!("the drain: {error}"))?;
    if !drained.is_sorted_by(|a, b| a < b) {
        return Err(format!("the drain is not in order: {drained:?}"));
    }
    for &key in truth.stored.keys().filter(|&&key| key != 3) {
        truth.check("store and drain together", key, all.get(&key).copied())?;
    }
    match (all[&3], all[&55]) {
        (1003, 1055) => check_hands(&worker, 1),
        other => Err(format!("later pushes are lost: {other:?}")),
    }
}
