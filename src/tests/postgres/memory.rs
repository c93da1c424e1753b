//! Memory given is memory usable, again and again, and no more than that.

use std::thread;

use crate::sharing::WORKLOAD;
use crate::world::{World, wait_until};

/// One MiB of pg_shared_lru.memory, in bytes.
const MIB: i64 = 1 << 20;

#[test]
fn when_the_memory_is_taken_the_error_says_what_is_left() {
    let world = World::with(&[("pg_shared_lru.memory", "16MB")]);
    let mut backend = world.backend();
    backend.run(&format!("SELECT shared_lru.create_cache('a', 10 * {MIB})"));
    let refusal = backend.refused(&format!("SELECT shared_lru.create_cache('b', 10 * {MIB})"));
    refusal.is("53200", &[&(10 * MIB).to_string(), &(6 * MIB).to_string()]);
    assert!(refusal.hint.contains("pg_shared_lru.memory"), "{refusal:?}");
    backend.refused(&format!("SELECT shared_lru.create_cache('b', 1000 * {MIB})")).is("53200", &[]);

    // To the last byte, and after a drop all of it again.
    backend.run(&format!("SELECT shared_lru.create_cache('b', 6 * {MIB})"));
    backend.refused(&format!("SELECT shared_lru.create_cache('c', {MIB})")).is("53200", &[" 0 "]);
    backend.run("SELECT shared_lru.drop_cache('a'), shared_lru.drop_cache('b')");
    backend.run(&format!("SELECT shared_lru.create_cache('c', 16 * {MIB})"));
    backend.put(b"k", b"v");
    backend.validate();
}

#[test]
fn caches_in_many_sizes_come_and_go_without_losing_memory() {
    let world = World::with(&[("pg_shared_lru.memory", "16MB")]);
    let mut backend = world.backend();
    backend.run(&format!(
        "DO $$ BEGIN
            FOR round IN 1 .. 100 LOOP
                FOR n IN 0 .. 3 LOOP
                    PERFORM shared_lru.create_cache('c' || n, {MIB} + (round * 37 + n * 1000) % 3000 * 1024);
                    PERFORM shared_lru.put_text('c' || n, 'name', 'c' || n);
                END LOOP;
                FOR n IN 0 .. 3 LOOP
                    ASSERT shared_lru.get_text('c' || (n * 3 + round) % 4, 'name') = 'c' || (n * 3 + round) % 4;
                    PERFORM shared_lru.drop_cache('c' || (n * 3 + round) % 4);
                END LOOP;
            END LOOP;
        END $$"
    ));
    backend.run(&format!("SELECT shared_lru.create_cache('all', 16 * {MIB})"));
}

#[test]
fn there_are_as_many_caches_as_configured_and_not_one_more() {
    let world = World::with(&[("pg_shared_lru.max_caches", "3")]);
    let mut backend = world.backend();
    backend.run(&format!("SELECT shared_lru.create_cache('c' || n, {MIB}) FROM generate_series(1, 3) AS n"));
    let refusal = backend.refused(&format!("SELECT shared_lru.create_cache('c4', {MIB})"));
    refusal.is("53400", &["3"]);
    assert!(refusal.hint.contains("pg_shared_lru.max_caches"), "{refusal:?}");
    backend.run("SELECT shared_lru.drop_cache('c2')");
    backend.run(&format!("SELECT shared_lru.create_cache('c4', {MIB})"));
}

#[test]
fn a_dropped_database_gives_its_caches_back() {
    let world = World::with(&[("pg_shared_lru.memory", "16MB")]);
    let mut backend = world.backend();
    backend.run("CREATE DATABASE doomed");
    let mut doomed = world.backend_in("doomed");
    doomed.run(&format!("CREATE EXTENSION pg_shared_lru; SELECT shared_lru.create_cache('c', 12 * {MIB})"));
    backend.refused(&format!("SELECT shared_lru.create_cache('mine', 8 * {MIB})")).is("53200", &[]);
    drop(doomed);
    backend.run("DROP DATABASE doomed WITH (FORCE)");
    backend.run(&format!("SELECT shared_lru.create_cache('mine', 16 * {MIB})"));
}

#[test]
fn a_cache_never_takes_more_than_it_was_given_and_can_use_nearly_all() {
    let world = World::with_cache(16);
    let mut backend = world.backend();
    // One size until full, then another, then back: each must find the memory of the one before.
    for (round, low, span) in [(1, 200, 700), (2, 64, 100), (3, 2000, 2000), (4, 200, 700)] {
        backend.run(&format!(
            "SELECT count(shared_lru.put('c', int8send({round} * 1000000 + n),
                                         decode(repeat('00', {low} + (n * 7919::bigint % {span})::int), 'hex')))
               FROM generate_series(1, 64 * 1048576 / ({low} + {span})) AS n"
        ));
        let (utilisation, payload): (f64, f64) = {
            let row = backend.client.query_one("SELECT utilisation, payload_ratio FROM shared_lru.memory", &[]);
            let row = row.expect("the view can be read");
            (row.get(0), row.get(1))
        };
        assert!(utilisation > 0.85 && utilisation <= 1.0, "round {round}: utilisation {utilisation}");
        assert!(payload > 0.5, "round {round}: payload {payload}");
        assert_eq!(backend.one::<i64>("SELECT region_bytes FROM shared_lru.memory"), 16 * MIB);
        backend.validate();
    }
    assert_eq!(backend.stat("refused"), 0);
    assert!(backend.stat("slabs_moved") > 0);
}

#[test]
fn the_servers_own_views_show_the_area_and_its_size() {
    let world = World::with(&[("pg_shared_lru.memory", "24MB")]);
    let mut backend = world.backend();
    let bytes: i64 = backend.one("SELECT size FROM pg_shmem_allocations WHERE name = 'pg_shared_lru'");
    // And 2 MiB for the lines by which leases become void, and one for what is counted of queries.
    assert!((27 * MIB..28 * MIB).contains(&bytes), "{bytes} bytes");
}

#[test]
fn waiting_for_a_cache_shows_under_its_name() {
    let world = World::new();
    let mut judge = world.backend();
    judge.run(WORKLOAD);
    judge.run("SELECT shared_lru.create_cache('c', 33554432, policy => 'lru', partitions => 1)");
    judge.run("SELECT count(shared_lru.put('c', int4send(n), sha256(''))) FROM generate_series(1, 200000) AS n");
    // A validation holds the only lock for long, so whoever uses the cache beside it waits most of the time.
    thread::scope(|scope| {
        let disturbers = [
            "DO $$ BEGIN LOOP PERFORM shared_lru.validate('c'); END LOOP; END $$",
            "DO $$ BEGIN LOOP PERFORM shared_lru.put('c', 'k', 'v'); END LOOP; END $$",
        ];
        let mut pids = Vec::new();
        for statement in disturbers {
            let mut backend = world.backend();
            pids.push(backend.pid());
            scope.spawn(move || backend.client.batch_execute(statement));
        }
        let query =
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'LWLock' AND wait_event = 'pg_shared_lru'";
        wait_until("a wait for the cache shows", || judge.one::<i64>(query) > 0);
        for pid in pids {
            judge.call::<bool>("SELECT pg_terminate_backend($1)", &[&pid]);
        }
    });
    judge.validate();
}
