//! Preloaded or not, restarted, dropped and made again.

use crate::cluster::Cluster;
use crate::world::{Backend, World, has_dsm_registry};

/// What a user may call first.
const FIRST_CALLS: &[&str] = &[
    "SELECT shared_lru.create_cache('c', 1048576)",
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
    // What a restored dump defines can be dropped, memory or not.
    backend.run("CREATE FOREIGN TABLE shared_lru_caches.c () SERVER shared_lru OPTIONS (bytes '1048576')");
    backend.refused("SELECT shared_lru.get('c', 'k')").is("55000", &["not loaded at server start"]);
    assert!(backend.one::<bool>("SELECT shared_lru.drop_cache('c')"));
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
    let plain = World::new();
    if plain.backend().one::<i64>("SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_stat_statements'") == 0
    {
        return; // a server without contrib, as those of wheels are
    }
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
    // Caches are not dropped by chance.
    backend.refused("DROP EXTENSION pg_shared_lru").is("2BP01", &["pg_shared_lru"]);
    backend.run("DROP EXTENSION pg_shared_lru CASCADE");
    let left: i64 = backend.one(
        "SELECT (SELECT count(*) FROM pg_proc WHERE pronamespace = n.oid)
              + (SELECT count(*) FROM pg_class WHERE relnamespace = n.oid)
           FROM (SELECT coalesce(to_regnamespace('shared_lru'), 0::oid) AS oid) AS n",
    );
    assert_eq!(left, 0, "objects of the extension are left");
    backend.refused("SELECT shared_lru.get('c', 'k')").is("42883", &[]);

    backend.run("CREATE EXTENSION pg_shared_lru");
    assert_eq!(backend.one::<i64>("SELECT count(*) FROM shared_lru.caches"), 0, "memory of a dropped cache");
    backend.run("SELECT shared_lru.create_cache('c', 1048576)");
    assert_eq!(backend.get(b"k"), None);
}
