//! The operations that `crash` steps through: what there is before, who has entries pinned, what is done.
//!
//! Caches are small, of one partition and twenty-odd slabs, so that every way through the engine is a short one. An
//! operation leaves each key with the value of before or of after at every moment.

use std::time::Duration;

use pg_shared_lru::shared::write_back::{Concurrency, Condition, LoadStep, StoreStep, WriteBackGuard};
use pg_shared_lru::{CompactBudget, Config, Evicted, Expiry, Found, PlacementHint, Policy, RobustLocks};

use super::layout;
use super::world::{Cache, World};
use crate::support::fork::{Child, kill_myself};

type Deed = fn(&World, &Cache);

/// One line of the table.
pub struct Operation {
    /// What it is.
    pub name: &'static str,
    buckets: u64,
    /// Makes what there is before.
    pub prepare: Deed,
    /// Keys whose entries another process pins then.
    pub pins: &'static [u32],
    /// What happens beside the pins, still before.
    pub arrange: Deed,
    /// The operation.
    pub run: Deed,
    /// Pins that the operation itself may leave when its process dies.
    pub own_pins: u64,
    /// Whether a sample has all of its states: where few of them are the ones that matter.
    pub in_full: bool,
}

impl Operation {
    fn new(name: &'static str, prepare: Deed, run: Deed) -> Operation {
        Operation { name, buckets: 16, prepare, pins: &[], arrange: |_, _| (), run, own_pins: 0, in_full: false }
    }

    fn pinned(self, pins: &'static [u32]) -> Operation {
        Operation { pins, ..self }
    }

    fn arranged(self, arrange: Deed) -> Operation {
        Operation { arrange, ..self }
    }

    fn buckets(self, buckets: u64) -> Operation {
        Operation { buckets, ..self }
    }

    fn leaves_pins(self, own_pins: u64) -> Operation {
        Operation { own_pins, ..self }
    }

    fn in_full(self) -> Operation {
        Operation { in_full: true, ..self }
    }

    /// The configuration of its cache.
    pub fn config(&self, policy: Policy) -> Config {
        Config::bytes(230_000).policy(policy).partitions(1).slab_bytes(16 << 10).buckets(self.buckets)
    }
}

/// The key with this number.
pub fn key(number: u32) -> [u8; 4] {
    number.to_be_bytes()
}

fn put(cache: &Cache, number: u32, len: usize) {
    cache.put(&key(number), &vec![number as u8 ^ len as u8; len]).expect("there is room, or something to evict");
}

/// Longer than any run.
const LONG: Expiry = Expiry::After(Duration::from_secs(1_000_000));
/// Over as soon as it is stored.
const OVER: Expiry = Expiry::After(Duration::ZERO);

fn put_with(cache: &Cache, number: u32, len: usize, expiry: Expiry) {
    let value = vec![number as u8 ^ len as u8; len];
    cache.put_with(&key(number), &value, expiry).expect("there is room, or something to evict");
}

fn fill_with(cache: &Cache, numbers: std::ops::Range<u32>, len: usize, expiry: Expiry) {
    numbers.for_each(|number| put_with(cache, number, len, expiry));
}

fn fill(cache: &Cache, numbers: std::ops::Range<u32>, len: usize) {
    numbers.for_each(|number| put(cache, number, len));
}

fn remove(cache: &Cache, numbers: impl Iterator<Item = u32>) {
    numbers.for_each(|number| assert!(cache.remove(&key(number)).is_some(), "key {number} is there"));
}

const NEW: u32 = 5000;

/// Two thirds of the entries gone: most slabs can be emptied.
fn full_of_holes(_: &World, cache: &Cache) {
    fill(cache, 0..210, 700);
    remove(cache, (0..210).filter(|number| number % 3 > 0));
}

/// Slabs that held values, and nothing in their bytes that could be taken for a record that was never used; the
/// directory has just filled its own.
fn recycled(_: &World, cache: &Cache) {
    for _ in 0..2 {
        (0..100).for_each(|number| _ = cache.put(&key(number), &[0xff; 1500]).expect("there is room"));
        remove(cache, 0..100);
    }
    fill(cache, 0..510, 8);
}

fn mark_damaged(world: &World, _: &Cache) {
    world.edit(layout::mark_damaged);
}

fn mark_damaged_again(world: &World, cache: &Cache) {
    mark_damaged(world, cache);
    assert_eq!(cache.len(), 0, "a reset empties");
    fill(cache, 100..160, 400);
    mark_damaged(world, cache);
}

/// A reset beside a reader who is done since: what was kept for it is still kept.
fn quarantine_without_a_pin(world: &World, cache: &Cache) {
    fill(cache, 0..100, 500);
    cache.with(&key(7), |_| {
        mark_damaged(world, cache);
        assert_eq!(cache.len(), 0, "a reset empties");
    });
    let mut number = 0;
    // Up to the last put that evicts nothing: the next one looks for room.
    while cache.put_if_room(&key(number), &[7; 700]).is_ok() {
        number += 1;
    }
}

fn store<'c>(
    cache: &'c Cache,
    number: u32,
    len: usize,
    condition: &mut Condition<'_, 'c, RobustLocks>,
) -> StoreStep<'c, RobustLocks> {
    let value = vec![number as u8 ^ len as u8; len];
    cache.store_if(&key(number), &value, condition, &cache.resets(), &mut 0).expect("an entry of a right size")
}

fn store_dirty<'c>(cache: &'c Cache, number: u32, len: usize) -> StoreStep<'c, RobustLocks> {
    store(cache, number, len, &mut Condition::None)
}

/// Nothing but dirty entries, and no room for another.
fn all_dirty(_: &World, cache: &Cache) {
    for number in 0.. {
        if !matches!(store_dirty(cache, number, 700), StoreStep::Done(..)) {
            break;
        }
    }
}

fn write_back(cache: &Cache) -> WriteBackGuard<'_, RobustLocks> {
    let StoreStep::WriteBack(guard) = store_dirty(cache, NEW, 700) else { panic!("a dirty entry must make way") };
    guard
}

fn load(cache: &Cache, number: u32) -> pg_shared_lru::shared::write_back::LoadGuard<'_, RobustLocks> {
    let LoadStep::Yours(load) = cache.lease_load(&key(number), Concurrency::Single) else {
        panic!("the key is absent")
    };
    load
}

fn leases_of_a_dead_process(world: &World, cache: &Cache) {
    all_dirty(world, cache);
    let mut child = Child::spawn("a worker", || {
        let _load = load(cache, NEW + 1);
        let _ticket = write_back(cache);
        kill_myself();
    });
    child.wait();
}

/// The table.
pub fn operations() -> Vec<Operation> {
    vec![
        // Stores.
        Operation::new("the first put", |_, _| (), |_, c| put(c, NEW, 100)),
        Operation::new("a new key", |_, c| fill(c, 0..50, 300), |_, c| put(c, NEW, 100)),
        Operation::new("a new key with a chained value", |_, c| fill(c, 0..20, 300), |_, c| put(c, NEW, 6000)),
        Operation::new("the directory grows into a slab that had values", recycled, |_, c| put(c, NEW, 8)).in_full(),
        Operation::new("a value is replaced in place", |_, c| fill(c, 0..20, 300), |_, c| put(c, 3, 301)),
        Operation::new("a value is replaced by another class", |_, c| fill(c, 0..20, 300), |_, c| put(c, 3, 900)),
        Operation::new("a value is replaced by a chained one", |_, c| fill(c, 0..20, 300), |_, c| put(c, 3, 5900)),
        Operation::new(
            "a chained value is replaced by a chained one",
            |_, c| {
                fill(c, 0..20, 300);
                put(c, 3, 6000);
            },
            |_, c| put(c, 3, 7000),
        ),
        Operation::new("a pinned value is replaced", |_, c| fill(c, 0..20, 300), |_, c| put(c, 3, 301)).pinned(&[3]),
        Operation::new("a put evicts", |_, c| fill(c, 0..400, 700), |_, c| put(c, NEW, 700)),
        Operation::new("a chained put evicts", |_, c| fill(c, 0..400, 700), |_, c| put(c, NEW, 9000)),
        Operation::new("a chained put evicts beside a pin", |_, c| fill(c, 0..400, 700), |_, c| put(c, NEW, 9000))
            .pinned(&[399]),
        Operation::new(
            "a push keeps what it evicts",
            |_, c| fill(c, 0..400, 700),
            |_, c| _ = c.push(&key(NEW), &[7; 2000], &mut Evicted::default()).expect("room is made"),
        ),
        Operation::new(
            "a put that may not evict is refused",
            |_, c| fill(c, 0..400, 700),
            |_, c| _ = c.put_if_room(&key(NEW), &[7; 2000]).expect_err("there is no room"),
        ),
        Operation::new("many keys come: the table grows", |_, c| fill(c, 0..60, 8), |_, c| fill(c, 100..150, 8))
            .buckets(1),
        Operation::new("many keys go: the table shrinks", |_, c| fill(c, 0..120, 8), |_, c| remove(c, 20..60))
            .buckets(1),
        // Entries that expire.
        Operation::new("a new key that expires", |_, c| fill(c, 0..50, 300), |_, c| put_with(c, NEW, 100, LONG)),
        Operation::new(
            "a new key that expires, with a chained value",
            |_, c| fill(c, 0..20, 300),
            |_, c| put_with(c, NEW, 6000, LONG),
        ),
        Operation::new(
            "a value is replaced in place by one that expires",
            |_, c| fill(c, 0..20, 300),
            |_, c| put_with(c, 3, 301, LONG),
        ),
        Operation::new(
            "a value that expires is replaced in place by one that does not",
            |_, c| fill_with(c, 0..20, 300, LONG),
            |_, c| put(c, 3, 301),
        ),
        Operation::new(
            "a value that expires is replaced by a chained one that does not",
            |_, c| fill_with(c, 0..20, 300, LONG),
            |_, c| put(c, 3, 5900),
        ),
        Operation::new(
            "a pinned value is replaced by one that expires",
            |_, c| fill_with(c, 0..20, 300, LONG),
            |_, c| put_with(c, 3, 301, LONG),
        )
        .pinned(&[3]),
        Operation::new(
            "a value that has expired is replaced",
            |_, c| {
                fill(c, 0..20, 300);
                put_with(c, 3, 300, OVER);
            },
            |_, c| put(c, 3, 301),
        ),
        Operation::new(
            "a put evicts what has expired",
            |_, c| fill_with(c, 0..400, 700, OVER),
            |_, c| put(c, NEW, 700),
        ),
        Operation::new(
            "a read meets what has expired",
            |_, c| {
                fill(c, 0..20, 300);
                put_with(c, 3, 300, OVER);
            },
            |_, c| assert!(!c.get(&key(3), &mut Vec::new())),
        ),
        Operation::new(
            "a sweep",
            |_, c| {
                fill_with(c, 0..30, 300, LONG);
                fill_with(c, 10..20, 300, OVER);
                put_with(c, 3, 6000, OVER);
            },
            |_, c| assert_eq!(c.sweep(u64::MAX).expired, 11),
        ),
        Operation::new(
            "a sweep in two parts, and compaction",
            |_, c| {
                fill_with(c, 0..60, 300, OVER);
                fill_with(c, 20..25, 300, LONG);
            },
            |_, c| {
                assert_eq!(c.sweep(30).examined, 30);
                assert!(c.sweep(u64::MAX).is_round_complete);
                c.compact(CompactBudget::unlimited());
            },
        ),
        Operation::new(
            "what has expired is drained by nobody",
            |_, c| {
                fill(c, 0..20, 300);
                fill_with(c, 10..15, 300, OVER);
            },
            |_, c| assert_eq!(c.drain(|_, _| ()), 15),
        ),
        // Removals.
        Operation::new("a key is removed", |_, c| fill(c, 0..40, 300), |_, c| remove(c, 3..4)),
        Operation::new(
            "a key with a chained value is removed",
            |_, c| {
                fill(c, 0..20, 300);
                put(c, 3, 6000);
            },
            |_, c| remove(c, 3..4),
        ),
        Operation::new("a pinned key is removed", |_, c| fill(c, 0..40, 300), |_, c| remove(c, 3..4)).pinned(&[3]),
        Operation::new(
            "keys are removed from a bucket that overflows",
            |_, c| fill(c, 0..350, 30),
            |_, c| remove(c, [3, 300].into_iter()),
        ),
        Operation::new("the last key is removed", |_, c| put(c, 3, 300), |_, c| remove(c, 3..4)),
        Operation::new("the oldest is popped", |_, c| fill(c, 0..40, 300), |_, c| _ = c.pop_lru().expect("one")),
        Operation::new("all is cleared", |_, c| fill(c, 0..40, 300), |_, c| _ = c.clear()),
        Operation::new("all is cleared beside a pin", |_, c| fill(c, 0..40, 300), |_, c| _ = c.clear()).pinned(&[9]),
        Operation::new("all is drained", |_, c| fill(c, 0..40, 300), |_, c| _ = c.drain(|_, _| ())),
        Operation::new(
            "the cache is taken apart",
            |_, c| fill(c, 0..20, 300),
            |w, _| _ = w.attach(0, w.locks()).expect("it is there").into_parts(),
        ),
        // Compaction.
        Operation::new("compaction", full_of_holes, |_, c| _ = c.compact(CompactBudget::unlimited())),
        Operation::new("compaction beside a pin", full_of_holes, |_, c| _ = c.compact(CompactBudget::unlimited()))
            .pinned(&[201]),
        Operation::new("a put that compacts", full_of_holes, |_, c| fill(c, 1000..1006, 1900)),
        // Reads that leave something.
        Operation::new("a get", |_, c| fill(c, 0..40, 300), |_, c| assert!(c.get(&key(3), &mut Vec::new()))),
        Operation::new(
            "a get of many",
            |_, c| fill(c, 0..40, 300),
            |_, c| {
                c.get_many((0..24u32).map(key).collect::<Vec<_>>().iter().map(|key| &key[..]), &mut Found::default())
            },
        ),
        Operation::new(
            "a read of bytes where they lie",
            |_, c| fill(c, 0..40, 300),
            |_, c| c.with(&key(3), |_| ()).expect("it is there"),
        )
        .leaves_pins(1),
        Operation::new(
            "an entry is removed while its reader reads",
            |_, c| fill(c, 0..40, 300),
            |_, c| c.with(&key(3), |_| remove(c, 3..4)).expect("it is there"),
        )
        .leaves_pins(1),
        Operation::new(
            "an entry is replaced while its reader reads",
            |_, c| fill(c, 0..40, 300),
            |_, c| c.with(&key(3), |_| put(c, 3, 310)).expect("it is there"),
        )
        .leaves_pins(1),
        Operation::new(
            "a value is stored, recognised and used",
            |_, c| fill(c, 0..40, 300),
            |_, c| {
                let (_, version) = c.put_versioned(&key(3), &[9; 300], Expiry::Default).expect("there is room");
                let (version, mut hint) = (version.expect("stored a moment ago"), PlacementHint::default());
                assert!(c.touch(&version, &mut hint) && c.is_current(&version, &mut hint));
            },
        ),
        // Conditional stores, loads, write-backs.
        Operation::new(
            "a store without a condition",
            |_, c| fill(c, 0..40, 300),
            |_, c| assert!(matches!(store_dirty(c, NEW, 500), StoreStep::Done(..))),
        ),
        Operation::new(
            "a store over the version that was read",
            |_, c| fill(c, 0..40, 300),
            |_, c| {
                let version = c.get_versioned(&key(3), &mut Vec::new()).expect("it is there");
                assert!(matches!(store(c, 3, 500, &mut Condition::Version(version)), StoreStep::Done(..)));
            },
        ),
        Operation::new(
            "a store over the version that was read, of a pinned value",
            |_, c| fill(c, 0..40, 300),
            |_, c| {
                let version = c.get_versioned(&key(3), &mut Vec::new()).expect("it is there");
                assert!(matches!(store(c, 3, 500, &mut Condition::Version(version)), StoreStep::Done(..)));
            },
        )
        .pinned(&[3]),
        Operation::new(
            "a store over a version that is gone",
            |_, c| fill(c, 0..40, 300),
            |_, c| {
                let version = c.get_versioned(&key(3), &mut Vec::new()).expect("it is there");
                put(c, 3, 320);
                assert!(matches!(store(c, 3, 500, &mut Condition::Version(version)), StoreStep::Stale));
            },
        ),
        Operation::new(
            "a key is leased, loaded and stored",
            |_, c| fill(c, 0..40, 300),
            |_, c| {
                let mut load = load(c, NEW);
                assert!(matches!(store(c, NEW, 500, &mut Condition::Loaded(&mut load)), StoreStep::Done(..)));
            },
        ),
        Operation::new("a key is leased and its load fails", |_, c| fill(c, 0..40, 300), |_, c| drop(load(c, NEW))),
        Operation::new("a dirty entry is written back and makes way", all_dirty, |_, c| {
            assert!(write_back(c).finish(), "nobody changed it");
            assert!(matches!(store_dirty(c, NEW, 700), StoreStep::Done(..)));
        }),
        Operation::new("a dirty entry cannot be written back", all_dirty, |_, c| drop(write_back(c))),
        Operation::new("a dirty entry is changed while it is written back", all_dirty, |_, c| {
            let guard = write_back(c);
            let number = u32::from_be_bytes(guard.key().try_into().expect("a key of four bytes"));
            assert!(matches!(store_dirty(c, number, 690), StoreStep::Done(..)));
            assert!(!guard.finish(), "it stays");
        }),
        Operation::new(
            "an entry is taken out by its id",
            |_, c| fill(c, 0..40, 300),
            |_, c| {
                let id = c.iter().next().expect("there is one").id;
                let (version, _) = c.value_of(id, &mut Vec::new()).expect("it is there");
                assert!(c.take_out(id, version));
            },
        ),
        Operation::new("what the dead had in hand is given back", leases_of_a_dead_process, |_, c| {
            c.release_leases_of_all_dead();
        }),
        // Recovery itself.
        Operation::new("a reset", |_, c| fill(c, 0..300, 500), |_, c| assert_eq!(c.len(), 0)).arranged(mark_damaged),
        Operation::new("a reset beside a pin", |_, c| fill(c, 0..300, 500), |_, c| assert_eq!(c.len(), 0))
            .pinned(&[299])
            .arranged(mark_damaged),
        Operation::new("a second reset beside two pins", |_, c| fill(c, 0..300, 500), |_, c| assert_eq!(c.len(), 0))
            .pinned(&[298, 299])
            .arranged(mark_damaged_again),
        Operation::new("a quarantine ends", quarantine_without_a_pin, |_, c| put(c, NEW, 700)),
    ]
}
