//! Entries expire as the definition or the put says, on every way that SQL has to look at them; the background worker
//! frees what has expired, and what dropped databases have left.

use std::thread;
use std::time::Duration;

use crate::cluster::{Cluster, StopMode};
use crate::world::{Backend, World, has_dsm_registry, wait_until};

const WORKERS: &str = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_shared_lru worker'";

fn put_for(backend: &mut Backend, key: &str, ttl: &str) {
    backend.run(&format!("SELECT shared_lru.put('c', '{key}', 'v', ttl => {ttl})"));
}

fn keys(backend: &mut Backend) -> Vec<String> {
    backend.all("SELECT encode(key, 'escape') FROM shared_lru.entries('c') ORDER BY 1")
}

#[test]
fn what_has_expired_is_nowhere_to_be_seen() {
    let world = World::with(&[("pg_shared_lru.naptime", "0")]);
    let mut backend = world.backend();
    backend.run("SELECT shared_lru.create_cache('c', 4194304, ttl => '1 hour')");
    put_for(&mut backend, "short", "'100 milliseconds'");
    put_for(&mut backend, "own", "'1 day'");
    put_for(&mut backend, "default", "NULL");
    put_for(&mut backend, "ever", "'0'");
    backend.run("SELECT shared_lru.put('c', 'says nothing', 'v')");
    thread::sleep(Duration::from_millis(150));
    assert_eq!(backend.get(b"short"), None);
    assert!(!backend.one::<bool>("SELECT shared_lru.contains('c', 'short')"));
    assert_eq!(keys(&mut backend), ["default", "ever", "own", "says nothing"]);
    let many = "SELECT encode(key, 'escape') FROM shared_lru.get_many('c', '{short,own}'::bytea[])";
    assert_eq!(backend.all::<String>(many), ["own"]);
    let left = |backend: &mut Backend, key: &str| -> Option<f64> {
        let query = "SELECT extract(epoch FROM expires - clock_timestamp())::float8 FROM shared_lru.entries('c') WHERE key = $1";
        backend.call(query, &[&key.as_bytes()])
    };
    assert_eq!(left(&mut backend, "ever"), None);
    for (key, seconds) in [("own", 86_400.0), ("default", 3600.0), ("says nothing", 3600.0)] {
        let left = left(&mut backend, key).expect("it expires");
        assert!((seconds - 300.0..=seconds).contains(&left), "{key}: {left}");
    }
    assert!(
        backend.one::<bool>("SELECT shared_lru.put('c', 'short', 'v')"),
        "what has expired is replaced as if it were new"
    );
    for (ttl, part) in [
        ("'-0.5 second'", "-0.5 seconds: must not be negative"),
        ("'20 years'", "years"),
        ("'170000000 years'", "years"),
    ] {
        backend.refused(&format!("SELECT shared_lru.put('c', 'k', 'v', ttl => {ttl})")).is("22023", &[part]);
    }
    backend.refused("SELECT shared_lru.create_cache('d', ttl => '1 millisecond')").is("22023", &["1 ms"]);
    for (put, get) in [("put_text", "get_text"), ("put_jsonb", "get_jsonb")] {
        backend.run(&format!("SELECT shared_lru.{put}('c', 'k', '1', ttl => '100 milliseconds')"));
        thread::sleep(Duration::from_millis(150));
        assert!(backend.one::<bool>(&format!("SELECT shared_lru.{get}('c', 'k') IS NULL")));
    }
}

#[test]
fn a_ttl_can_be_altered_and_survives_a_change_of_size_and_a_restart() {
    let world = World::new();
    let mut backend = world.backend();
    backend.run("SELECT shared_lru.create_cache('c', 4194304)");
    backend.put(b"ever", b"v");
    backend.run("SELECT shared_lru.alter_cache('c', ttl => '90 minutes')");
    backend.put(b"first", b"v");
    backend.run("SELECT shared_lru.alter_cache('c', bytes => 8388608)");
    backend.put(b"second", b"v");
    let expiring = "SELECT array_agg(encode(key, 'escape') ORDER BY key) FROM shared_lru.entries('c')
                     WHERE expires BETWEEN now() + '80 minutes' AND now() + '90 minutes'";
    assert_eq!(backend.one::<Vec<String>>(expiring), ["first", "second"]);
    world.cluster.restart(StopMode::Fast).expect("the server restarts");
    let mut backend = world.backend();
    backend.put(b"third", b"v");
    assert_eq!(backend.one::<Vec<String>>(expiring), ["third"]);
    backend.run("SELECT shared_lru.alter_cache('c', reset => '{ttl}')");
    backend.put(b"fourth", b"v");
    assert_eq!(backend.one::<Vec<String>>(expiring), ["third"]);
}

#[test]
fn the_worker_frees_what_has_expired_and_what_a_database_left() {
    let world = World::with(&[("pg_shared_lru.naptime", "1s")]);
    let mut backend = world.backend();
    wait_until("the worker runs", || backend.one::<i64>(WORKERS) == 1);
    backend.run("SELECT shared_lru.create_cache('c', 4194304)");
    put_for(&mut backend, "ever", "'0'");
    backend.run(
        "SELECT shared_lru.put('c', int4send(n), 'v', ttl => '100 milliseconds') FROM generate_series(1, 5000) AS n",
    );
    wait_until("it has swept", || backend.stat("expirations") == 5000);
    assert_eq!(backend.stat("entries"), 1);
    // It is in nobody's way, and comes again when it was terminated.
    backend.run("CREATE DATABASE other");
    world.backend_in("other").run("CREATE EXTENSION pg_shared_lru; SELECT shared_lru.create_cache('d', 1048576)");
    wait_until("the database is dropped", || backend.client.batch_execute("DROP DATABASE other").is_ok());
    backend.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'pg_shared_lru worker'");
    wait_until("the worker runs again", || backend.one::<i64>(WORKERS) == 1);
    put_for(&mut backend, "again", "'100 milliseconds'");
    wait_until("it sweeps again", || backend.stat("expirations") == 5001);
    // It can be switched off.
    backend.run("ALTER SYSTEM SET pg_shared_lru.naptime = 0");
}

#[test]
fn without_a_preload_the_first_cache_brings_the_worker() {
    if !has_dsm_registry() {
        return;
    }
    let world = World { cluster: Cluster::start(&[]).expect("a server starts") };
    let mut backend = world.backend();
    backend.run("CREATE EXTENSION pg_shared_lru");
    backend.run("ALTER SYSTEM SET pg_shared_lru.naptime = '1s'");
    backend.run("SELECT pg_reload_conf()");
    assert_eq!(backend.one::<i64>(WORKERS), 0);
    let mut others: Vec<Backend> = (0..4).map(|_| world.backend()).collect();
    thread::scope(|scope| {
        for (number, other) in others.iter_mut().enumerate() {
            scope.spawn(move || other.run(&format!("SELECT shared_lru.create_cache('c{number}', 1048576)")));
        }
    });
    wait_until("the worker runs", || backend.one::<i64>(WORKERS) == 1);
    backend.run("SELECT shared_lru.create_cache('c', 1048576)");
    put_for(&mut backend, "short", "'100 milliseconds'");
    wait_until("it sweeps", || backend.stat("expirations") == 1);
    assert_eq!(backend.one::<i64>(WORKERS), 1);
}
