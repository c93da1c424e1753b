//! Whatever takes long can be cancelled, and leaves what it did until then.
//!
//! No test asks how long something took. A statement that is cancelled while it works has not done all of it.

use crate::world::{Backend, World};

/// Cancels the statement as soon as it works; it must end by that.
fn cancel(world: &World, worker: &mut Backend, statement: &str) {
    let pid = worker.pid();
    std::thread::scope(|scope| {
        let work = scope.spawn(|| worker.refused(statement));
        let mut judge = world.backend();
        crate::world::wait_until("the statement works", || {
            judge.call(
                "SELECT state = 'active' AND query NOT LIKE '%backend_pid%' FROM pg_stat_activity WHERE pid = $1",
                &[&pid],
            )
        });
        while !work.is_finished() {
            judge.call::<bool>("SELECT pg_cancel_backend($1)", &[&pid]);
        }
        work.join().expect("the statement ends").is("57014", &[]);
    });
}

#[test]
fn get_many_of_keys_that_are_not_there_can_be_cancelled() {
    let world = World::with_cache(1);
    let mut backend = world.backend();
    backend
        .run("CREATE TEMP TABLE keys AS SELECT array_agg(int4send(n)) AS keys FROM generate_series(1, 3000000) AS n");
    let misses = backend.stat("misses");
    cancel(&world, &mut backend, "SELECT count(*) FROM keys, shared_lru.get_many('c', keys)");
    let missed = backend.stat("misses") - misses;
    assert!(missed < 3_000_000, "all keys were looked up before the statement was cancelled");
    backend.validate();
}

#[test]
fn a_drain_that_is_cancelled_leaves_the_rest() {
    let world = World::with_cache(16);
    let mut backend = world.backend();
    backend.run("SELECT count(shared_lru.put('c', int4send(n), '')) FROM generate_series(1, 150000) AS n");
    let entries = backend.stat("entries");
    // As slow as it needs to be.
    cancel(&world, &mut backend, "SELECT count(pg_sleep(0.001)) FROM (SELECT shared_lru.drain('c')) AS d");
    assert!((1..entries).contains(&backend.stat("entries")), "of {entries}");
    backend.validate();
}

#[test]
fn a_large_put_that_is_cancelled_stores_nothing() {
    let world = World::with_cache(16);
    let mut writer = world.backend();
    let mut judge = world.backend();
    let pid = writer.pid();
    let fill = "SELECT count(shared_lru.put('c', int4send(n), int4send(n))) FROM generate_series(1, 300000) AS n";
    // The sleep asks for interrupts, if the put has not.
    let put = "SELECT shared_lru.put('c', 'large', convert_to(repeat('x', 3500000), 'UTF8')), pg_sleep(0)";
    judge.run(fill);
    for attempt in 0..50 {
        let evictions = judge.stat("evictions");
        let end = std::thread::scope(|scope| {
            let put = scope.spawn(|| writer.client.batch_execute(put));
            std::thread::sleep(std::time::Duration::from_millis(5 * attempt));
            while !put.is_finished() {
                judge.call::<bool>("SELECT pg_cancel_backend($1)", &[&pid]);
            }
            put.join().expect("the statement ends")
        });
        // Too early, the put has not begun; too late, it was done: both prove nothing.
        let began = judge.stat("evictions") > evictions;
        if let (Err(error), true) = (end, began) {
            assert_eq!(error.code().map(|code| code.code()), Some("57014"), "{error:?}");
            let stored: bool = judge.one("SELECT shared_lru.contains('c', 'large')");
            assert!(!stored, "the put went on to its end before it heard of the cancel");
            judge.validate();
            return;
        }
        if began {
            judge.run("SELECT shared_lru.remove('c', 'large')");
            judge.run(fill);
        }
    }
    panic!("no put was cancelled at work");
}

#[test]
fn a_walk_over_prefixes_can_be_cancelled() {
    let world = World::with_cache(16);
    let mut backend = world.backend();
    backend.run("SELECT count(shared_lru.put('c', int4send(n), '')) FROM generate_series(1, 150000) AS n");
    let walk = "SELECT count(b) FROM generate_series(1, 10000), LATERAL shared_lru.bytes_by_prefix('c', length => 1 + 0 * generate_series) AS b";
    cancel(&world, &mut backend, walk);
    backend.validate();
}
