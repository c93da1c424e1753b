//! Preloaded or not, restarted, dropped and made again.

use crate::cluster::{Cluster, StopMode};
use crate::world::{Backend, World, has_dsm_registry};

/// What a user may call first.
const FIRST_CALLS: &[&str] = &[
    "SELECT shared_lru.create_cache('c', 1048576)",
    "SELECT shared_lru.drop_cache('c')",
    "SELECT shared_lru.put('c', 'k', 'v')",
    "SELECT shared_lru.get('c', 'k')",
    "SELECT * FROM shared_lru.entries('c')",
    "SELECT * FROM shared_lru.caches",
    "SELECT * FROM shared_lru.stats",
    "SELECT * FROM shared_lru.slab_classes",
    "SELECT * FROM shared_lru.memory",
];

#[test]
fn before_17_every_call_without_preloading_says_what_to_set() {
    if has_dsm_registry() {
        return; // `registry`
    }
    let cluster = Cluster::start(&[]).expect("a server starts");
    let mut backend = Backend { client: cluster.connect("postgres").expect("the server accepts a connection") };
    backend.run("CREATE EXTENSION pg_shared_lru");
    for call in FIRST_CALLS {
        let refusal = backend.refused(call);
        refusal.is("55000", &["not loaded at server start"]);
        assert!(refusal.hint.contains("shared_preload_libraries = 'pg_shared_lru'"), "{call}: {refusal:?}");
    }
    // The session is none the worse for it.
    assert_eq!(backend.one::<i32>("SELECT 1"), 1);
}

#[test]
fn before_17_loading_the_library_by_hand_is_no_substitute_and_no_harm() {
    if has_dsm_registry() {
        return; // `registry`
    }
    let cluster = Cluster::start(&[]).expect("a server starts");
    let mut backend = Backend { client: cluster.connect("postgres").expect("the server accepts a connection") };
    backend.run("LOAD 'pg_shared_lru'; CREATE EXTENSION pg_shared_lru");
    backend.refused("SELECT shared_lru.get('c', 'k')").is("55000", &[]);
}

#[test]
fn the_library_shares_the_preload_list_with_others() {
    let cluster = Cluster::start(&[("shared_preload_libraries", "pg_stat_statements,pg_shared_lru,auto_explain")]);
    let cluster = cluster.expect("a server starts");
    let mut backend = Backend { client: cluster.connect("postgres").expect("the server accepts a connection") };
    backend.run("CREATE EXTENSION pg_stat_statements; CREATE EXTENSION pg_shared_lru");
    backend.run("SELECT shared_lru.create_cache('c', 1048576)");
    assert!(backend.put(b"k", b"v"));
    assert!(backend.one::<i64>("SELECT count(*) FROM pg_stat_statements") > 0);
}

#[test]
fn dropping_the_extension_leaves_nothing_that_hinders_making_it_again() {
    let world = World::with_cache(4);
    let mut backend = world.backend();
    backend.put(b"k", b"v");
    backend.run("DROP EXTENSION pg_shared_lru");
    let left: i64 = backend.one(
        "SELECT (SELECT count(*) FROM pg_proc WHERE pronamespace = n.oid)
              + (SELECT count(*) FROM pg_class WHERE relnamespace = n.oid)
           FROM (SELECT coalesce(to_regnamespace('shared_lru'), 0::oid) AS oid) AS n",
    );
    assert_eq!(left, 0, "objects of the extension are left");
    backend.refused("SELECT shared_lru.get('c', 'k')").is("42883", &[]);

    backend.run("CREATE EXTENSION pg_shared_lru");
    // The catalog of caches is in shared memory: the cache was there all along, and its memory can be had back.
    assert_eq!(backend.get(b"k").as_deref(), Some(b"v".as_slice()));
    assert!(backend.one::<bool>("SELECT shared_lru.drop_cache('c')"));
}

#[test]
fn a_restart_starts_empty_and_works() {
    for mode in [StopMode::Fast, StopMode::Immediate] {
        let world = World::with_cache(4);
        world.backend().put(b"k", b"v");
        world.cluster.restart(mode).expect("the server restarts");
        let mut backend = world.backend();
        backend.refused("SELECT shared_lru.get('c', 'k')").is("42704", &["\"c\""]);
        assert_eq!(backend.one::<i64>("SELECT count(*) FROM shared_lru.caches"), 0);
        backend.run("SELECT shared_lru.create_cache('c', 1048576)");
        assert!(backend.put(b"k", b"w"), "{mode:?}: the key was there before the cache");
        backend.validate();
    }
}
