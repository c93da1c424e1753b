//! A process may be killed after any instruction: what it leaves behind is recovered, and everything is right.
//!
//! A child is stepped through one operation (`recording`). Then each state is put back as if the child had been killed
//! there, and is held to these properties:
//!
//! - a reader without a lock finds a key that is there before and after, with a value of it, or asks for the lock;
//! - where the partition is not marked, each key has its value of before or of after, and is there if it is in both;
//! - where it is marked, the next user empties it and says so;
//! - what has expired is seen by nobody, and a sweep finds all of it;
//! - every structure agrees with the others (`validate`), at once and after life has gone on;
//! - as many entries are pinned as readers pin; nothing is under way that a dead process had in hand;
//! - an id from before names the same key or nothing;
//! - pinned bytes stay, and what was kept for their readers comes back when they are done;
//! - no slab is lost.
//!
//! What the operations are is in `operations`; the same for a builder cache with its store in `builder_crash`.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use pg_shared_lru::{CompactBudget, Config, EntryId, Locks, Policy, SharedCache};

use super::operations::{Operation, key, operations};
use super::recording::{COUNTERS, Recording};
use super::runner::{Case, Extent, Part, Tally, panic_text};
use super::stepper::Halt;
use super::world::{Cache, RefusedLocks, World};

/// A key's bytes and its value's.
pub type Contents = BTreeMap<Vec<u8>, Vec<u8>>;

/// Every operation under every policy; of a sample, under one policy each.
pub fn part(extent: Extent) -> Part {
    let states = extent.choose(60, usize::MAX);
    let under = |(turn, policy): (usize, Policy)| {
        let all = operations().into_iter().enumerate();
        let chosen = all.filter(move |(number, _)| extent == Extent::All || number % Policy::ALL.len() == turn);
        chosen.map(move |(_, operation)| Case {
            name: format!("{policy}: {}", operation.name),
            run: Box::new(move |tally| check(&operation, policy, states, tally)),
        })
    };
    Part {
        name: "crash consistency",
        counters: &COUNTERS,
        cases: Policy::ALL.into_iter().enumerate().flat_map(under).collect(),
    }
}

/// Everything in a cache.
pub fn contents<L: Locks>(cache: &SharedCache<L>) -> Contents {
    cache.iter_with_values().map(|entry| (entry.key, entry.value.expect("asked for"))).collect()
}

/// What was so before the operation, and what may be so after each state.
struct Expected<'a> {
    operation: &'a Operation,
    before: Contents,
    after: Contents,
    ids: Vec<(EntryId, Vec<u8>)>,
    resets: u64,
    /// Slabs that are free when all entries have gone, if none is lost.
    free_slabs: u64,
}

/// Runs one operation under one policy and recovers at most so many of its states.
pub fn check(operation: &Operation, policy: Policy, states: usize, tally: &Tally) {
    let config = operation.config(policy);
    let world = World::new(&config, 0);
    let cache = world.create(&config, 0, || world.locks());
    let unlocked = world.attach(0, RefusedLocks).expect("it was just created");
    (operation.prepare)(&world, &cache);
    let prepared = world.image();
    let (recording, expected) = with_pins(&cache, operation.pins, &mut |_| {
        (operation.arrange)(&world, &cache);
        let was_damaged = World::is_marked_damaged(&world.image());
        let (before, ids) = match was_damaged {
            true => Default::default(),
            false => (contents(&cache), cache.iter().map(|entry| (entry.id, entry.key)).collect()),
        };
        let recording = Recording::make(&world, || (operation.run)(&world, &cache))
            .unwrap_or_else(|Halt(why)| panic!("{}: {why}", operation.name));
        let after = contents(&cache);
        let resets = if was_damaged { 0 } else { cache.resets()[0] };
        (recording, Expected { operation, before, after, ids, resets, free_slabs: free_slabs_when_empty(&config) })
    });
    let states = if operation.in_full { usize::MAX } else { states };
    recording.recover_each(states, tally, |image| recover(&world, &cache, &unlocked, &prepared, image, &expected));
}

/// Free slabs of a cache that has lived and been emptied.
fn free_slabs_when_empty(config: &Config) -> u64 {
    let world = World::new(config, 0);
    let cache = world.create(config, 0, || world.locks());
    live_on(&cache).expect("a new cache works");
    empty(&cache)
}

/// Runs `inner` while other keys' entries are pinned, which it is given the bytes of.
fn with_pins<R>(cache: &Cache, keys: &[u32], inner: &mut dyn FnMut(&[&[u8]]) -> R) -> R {
    fn nest<R>(cache: &Cache, keys: &[u32], pinned: &[&[u8]], inner: &mut dyn FnMut(&[&[u8]]) -> R) -> R {
        let Some((&first, rest)) = keys.split_first() else { return inner(pinned) };
        let read = |bytes: &[u8]| nest(cache, rest, &[pinned, &[bytes]].concat(), inner);
        cache.with(&key(first), read).expect("a key to be pinned is there")
    }
    nest(cache, keys, &[], inner)
}

/// Puts a state back and holds it to the properties.
fn recover(
    world: &World,
    cache: &Cache,
    unlocked: &SharedCache<RefusedLocks>,
    prepared: &[u8],
    image: &[u8],
    expected: &Expected<'_>,
) -> Result<(), String> {
    world.restore(prepared);
    let mut dead_pins = 0;
    with_pins(cache, expected.operation.pins, &mut |pinned| {
        let pinned_before: Vec<Vec<u8>> = pinned.iter().map(|bytes| bytes.to_vec()).collect();
        world.restore(image);
        // Caught here, so that the pins do not drop while something unwinds.
        let checked = catch_unwind(AssertUnwindSafe(|| {
            check_unlocked(unlocked, expected)?;
            check_contents(cache, expected, World::is_marked_damaged(image))?;
            dead_pins = check_pins(cache, expected)?;
            check_life(cache, expected, pinned.len() as u64 + dead_pins)
        }));
        checked.unwrap_or_else(|payload| Err(panic_text(&*payload)))?;
        if pinned.iter().zip(&pinned_before).any(|(now, before)| now != before) {
            return Err("pinned bytes changed".to_owned());
        }
        Ok(())
    })?;
    if expected.operation.pins.is_empty() {
        return Ok(());
    }
    // The readers are done.
    expect("pins that stay when the readers are done", cache.pinned(), dead_pins)?;
    check_life(cache, expected, dead_pins)
}

fn expect<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what}: {found:?}, expected {expected:?}")) }
}

fn validate(cache: &Cache, when: &str) -> Result<(), String> {
    cache
        .validate()
        .map_err(|error| format!("validate, {when}: {}", error.to_string().chars().take(160).collect::<String>()))
}

/// A reader without a lock, in the middle of the operation.
fn check_unlocked(unlocked: &SharedCache<RefusedLocks>, expected: &Expected<'_>) -> Result<(), String> {
    let mut out = Vec::new();
    let Expected { before, after, .. } = expected;
    for key in before.keys().chain(after.keys().filter(|&key| !before.contains_key(key))) {
        let Ok(found) = catch_unwind(AssertUnwindSafe(|| unlocked.peek(key, &mut out))) else { continue };
        let values = (before.get(key), after.get(key));
        match found {
            true if values.0 != Some(&out) && values.1 != Some(&out) => {
                return Err(format!("a reader without a lock sees a value that never was, {} bytes", out.len()));
            }
            false if values.0.is_some() && values.1.is_some() => {
                return Err("a reader without a lock misses a key that is there all the time".to_owned());
            }
            _ => (),
        }
    }
    Ok(())
}

/// The next user, who recovers what there is to recover.
fn check_contents(cache: &Cache, expected: &Expected<'_>, is_marked: bool) -> Result<(), String> {
    let now = contents(cache);
    validate(cache, "recovered")?;
    // One round that was begun before, and one from the start.
    (0..2).for_each(|_| _ = cache.sweep(u64::MAX));
    validate(cache, "swept")?;
    expect("entries by their number", cache.len(), now.len() as u64)?;
    let Expected { before, after, resets, .. } = expected;
    if is_marked {
        expect("entries that survive a reset", now.len(), 0)?;
        return match cache.resets()[0] > *resets {
            true => Ok(()),
            false => Err("a reset that is not counted".to_owned()),
        };
    }
    let mut allowed: BTreeMap<&[u8], BTreeSet<&[u8]>> = BTreeMap::new();
    for (key, value) in before.iter().chain(after) {
        allowed.entry(key).or_default().insert(value);
    }
    for (key, value) in &now {
        if !allowed.get(&key[..]).is_some_and(|values| values.contains(&value[..])) {
            return Err("a value that never was".to_owned());
        }
    }
    match before.keys().find(|&key| after.contains_key(key) && !now.contains_key(key)) {
        Some(key) => Err(format!("key {key:?} is lost without a reset")),
        None => Ok(()),
    }
}

/// How many pins the dead process has left, which are as many as it could have had.
fn check_pins(cache: &Cache, expected: &Expected<'_>) -> Result<u64, String> {
    cache.release_leases_of_all_dead();
    let in_flight = cache.in_flight();
    expect("loads and write-backs of the dead", (in_flight.loads, in_flight.writes), (0, 0))?;
    let of_the_living = expected.operation.pins.len() as u64;
    let pinned = cache.pinned();
    let possible = of_the_living..=of_the_living + expected.operation.own_pins;
    if possible.contains(&pinned) {
        Ok(pinned - of_the_living)
    } else {
        Err(format!("pinned() is {pinned}, possible is {possible:?}"))
    }
}

/// Life goes on, and then everything goes.
fn check_life(cache: &Cache, expected: &Expected<'_>, pins: u64) -> Result<(), String> {
    live_on(cache)?;
    validate(cache, "when life went on")?;
    for (id, key) in &expected.ids {
        if cache.entry(*id).is_some_and(|entry| entry.key != *key) {
            return Err("an old id names another entry".to_owned());
        }
    }
    let free = empty(cache);
    // A pin keeps the slab of its record and that of its value.
    if free + 2 * pins < expected.free_slabs {
        return Err(format!("{free} slabs are free at the end, beside {pins} pins; {} should be", expected.free_slabs));
    }
    validate(cache, "at the end")
}

/// So many puts that all memory is used.
fn live_on(cache: &Cache) -> Result<(), String> {
    for number in 0..400u32 {
        let value = vec![number as u8; number as usize * 37 % 1900];
        cache.put(&key(1_000_000 + number), &value).map_err(|error| format!("a put when life goes on: {error}"))?;
    }
    Ok(())
}

fn empty(cache: &Cache) -> u64 {
    cache.clear();
    cache.compact(CompactBudget::unlimited());
    cache.memory_report().slabs_free
}
