//! A server that was never told of the library: from PostgreSQL 17 on the memory for caches is made at its first use.
//!
//! Before 17 there is nothing to test here; `lifecycle` has what is said then.

use std::sync::Barrier;
use std::time::Duration;

use crate::cluster::Cluster;
use crate::world::{Backend, World, has_dsm_registry, wait_until};

/// A server without a preload and with the extension; `None` where that is not enough.
fn world() -> Option<World> {
    has_dsm_registry().then(|| {
        let world = World { cluster: Cluster::start(&[]).expect("a server starts") };
        world.backend().run("CREATE EXTENSION pg_shared_lru");
        world
    })
}

fn set_memory(backend: &mut Backend, memory: &str) {
    // Without it the session knows no such setting.
    backend.run("LOAD 'pg_shared_lru'");
    backend.run(&format!("ALTER SYSTEM SET pg_shared_lru.memory = '{memory}'"));
    backend.run("SELECT pg_reload_conf()");
    let shown = format!("SELECT current_setting('pg_shared_lru.memory') = '{memory}'");
    wait_until("the setting is read", || backend.one::<bool>(&shown));
}

#[test]
fn sessions_share_a_cache_and_it_outlives_the_one_that_made_it() {
    let Some(world) = world() else { return };
    let (mut first, mut second) = (world.backend(), world.backend());
    first.run("SELECT shared_lru.create_cache('c', 4194304)");
    assert!(first.put(b"k", b"v"));
    assert_eq!(second.get(b"k").as_deref(), Some(&b"v"[..]));
    let pid = first.pid();
    second.run(&format!("SELECT pg_terminate_backend({pid}, 10000)"));
    assert!(first.client.batch_execute("SELECT 1").is_err(), "it was terminated");
    assert!(!second.put(b"k", b"w"));
    let mut third = world.backend();
    assert_eq!(third.get(b"k").as_deref(), Some(&b"w"[..]));
    assert_eq!(third.one::<i64>("SELECT count(*) FROM shared_lru.stats WHERE entries = 1"), 1);
    third.validate();
}

#[test]
fn looking_makes_no_memory_so_that_the_setting_still_counts() {
    let Some(world) = world() else { return };
    let mut backend = world.backend();
    for view in ["caches", "stats", "slab_classes", "memory"] {
        assert_eq!(backend.one::<i64>(&format!("SELECT count(*) FROM shared_lru.{view}")), 0);
    }
    backend.refused("SELECT shared_lru.get('c', 'k')").is("42704", &["\"c\""]);
    assert!(!backend.one::<bool>("SELECT shared_lru.drop_cache('c')"));
    set_memory(&mut backend, "5MB");
    backend.refused("SELECT shared_lru.create_cache('c', 6 * 1048576)").is("53200", &["5242880 bytes are free"]);
    backend.run("SELECT shared_lru.create_cache('c', 4 * 1048576)");
    // The memory stays as it was made.
    set_memory(&mut backend, "50MB");
    backend.refused("SELECT shared_lru.create_cache('d', 6 * 1048576)").is("53200", &["1048576 bytes are free"]);
}

#[test]
fn memory_that_the_system_refuses_is_an_error_and_the_next_try_finds_nothing_half_made() {
    let Some(world) = world() else { return };
    let mut backend = world.backend();
    set_memory(&mut backend, "1TB");
    for _ in 0..3 {
        let refusal = backend.refused("SELECT shared_lru.create_cache('c', 4194304)");
        refusal.is("53200", &["refuses 10995", " bytes"]);
        assert!(refusal.hint.contains("pg_shared_lru.memory"), "{refusal:?}");
    }
    // Another session gets what this one did not.
    set_memory(&mut backend, "8MB");
    world.backend().run("SELECT shared_lru.create_cache('c', 4194304)");
    assert!(backend.put(b"k", b"v"));
    backend.validate();
}

#[test]
fn backends_that_are_first_at_once_make_one_memory() {
    let Some(world) = world() else { return };
    const BACKENDS: usize = 8;
    let barrier = Barrier::new(BACKENDS);
    std::thread::scope(|scope| {
        for number in 0..BACKENDS {
            let (mut backend, barrier) = (world.backend(), &barrier);
            scope.spawn(move || {
                barrier.wait();
                backend.run(&format!("SELECT shared_lru.create_cache('c{number}', 1048576)"));
            });
        }
    });
    let mut backend = world.backend();
    assert_eq!(backend.one::<i64>("SELECT count(*) FROM shared_lru.caches"), BACKENDS as i64);
}

#[test]
fn a_backend_that_is_terminated_while_it_makes_the_memory_leaves_it_whole_or_not_made() {
    for pause_ms in [0, 1, 3, 10, 30] {
        let Some(world) = world() else { return };
        let mut backend = world.backend();
        set_memory(&mut backend, "300MB");
        let mut maker = world.backend();
        let pid = maker.pid();
        std::thread::scope(|scope| {
            scope.spawn(move || _ = maker.client.batch_execute("SELECT shared_lru.create_cache('c', 4194304)"));
            std::thread::sleep(Duration::from_millis(pause_ms));
            backend.run(&format!("SELECT pg_terminate_backend({pid}, 10000)"));
        });
        let mut next = world.backend();
        if next.one::<i64>("SELECT count(*) FROM shared_lru.caches") == 0 {
            next.run("SELECT shared_lru.create_cache('c', 4194304)");
        }
        assert!(next.put(b"k", b"v"));
        next.validate();
    }
}

#[test]
fn a_crash_starts_empty_and_the_memory_is_made_anew() {
    let Some(world) = world() else { return };
    let mut backend = world.backend();
    backend.run("SELECT shared_lru.create_cache('c', 4194304)");
    backend.put(b"k", b"v");
    let pid = backend.pid();
    world.cluster.crash(pid).expect("the server restarts");
    let mut backend = world.backend();
    assert_eq!(backend.get(b"k"), None);
    assert!(backend.put(b"k", b"w"), "the key was there before the cache");
}

#[test]
fn parallel_workers_may_be_the_first_of_their_session() {
    let Some(world) = world() else { return };
    let mut backend = world.backend();
    backend.run("SELECT shared_lru.create_cache('c', 4194304)");
    backend.run("CREATE TABLE t AS SELECT i, int4send(i) AS key FROM generate_series(1, 20000) AS i");
    backend.run("SELECT shared_lru.put('c', key, 'v') FROM t WHERE i <= 500");
    let mut leader = world.backend();
    leader.run(
        "SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
         SET max_parallel_workers_per_gather = 2; SET parallel_leader_participation = off",
    );
    let query = "SELECT count(shared_lru.get('c', key)) FROM t";
    let plan = leader.all::<String>(&format!("EXPLAIN {query}")).join("\n");
    assert!(plan.contains("Partial Aggregate"), "workers do not call it: {plan}");
    assert_eq!(leader.one::<i64>(query), 500);
}

#[test]
fn a_dropped_database_takes_its_caches_along() {
    let Some(world) = world() else { return };
    let mut backend = world.backend();
    backend.run("CREATE DATABASE other");
    let mut other = world.backend_in("other");
    other.run("CREATE EXTENSION pg_shared_lru; SELECT shared_lru.create_cache('c', 4194304)");
    drop(other);
    // Loaded by this session, but not used before.
    backend.run("LOAD 'pg_shared_lru'");
    backend.run("DROP DATABASE other");
    assert_eq!(backend.one::<i64>("SELECT count(*) FROM shared_lru.caches"), 0);
}
