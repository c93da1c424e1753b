//! Settings out of range are refused; those in range are the defaults of new caches.

use crate::cluster;
use crate::world::World;

#[test]
fn a_setting_out_of_range_is_warned_of_and_its_default_holds() {
    // As PostgreSQL has it for settings of libraries; the server starts.
    let wrong =
        [("memory", "0"), ("max_caches", "-1"), ("policy", "fifo"), ("slab_size", "8MB"), ("partitions", "many")];
    let names = wrong.map(|(name, _)| format!("pg_shared_lru.{name}"));
    let settings: Vec<_> = names.iter().zip(wrong).map(|(name, (_, value))| (name.as_str(), value)).collect();
    let world = World::with(&settings);
    let (mut backend, log) = (world.backend(), world.cluster.log());
    for (name, default) in names.iter().zip(["64MB", "16", "clock", "0", "0"]) {
        assert!(log.contains(&format!("\"{name}\"")), "no word of {name} in the log:\n{log}");
        assert_eq!(backend.one::<String>(&format!("SHOW {name}")), default);
    }
}

#[test]
fn sessions_cannot_set_what_is_wrong_or_not_theirs() {
    let world = World::new();
    let mut backend = world.backend();
    backend.refused("SET pg_shared_lru.memory = '1GB'").is("55P02", &["pg_shared_lru.memory"]);
    backend.refused("SET pg_shared_lru.max_caches = 3").is("55P02", &["pg_shared_lru.max_caches"]);
    backend.refused("SET pg_shared_lru.slab_size = '8MB'").is("22023", &["pg_shared_lru.slab_size"]);
    backend.refused("SET pg_shared_lru.partitions = -1").is("22023", &["pg_shared_lru.partitions"]);
    backend.refused("SET pg_shared_lru.buckets = -1").is("22023", &["pg_shared_lru.buckets"]);
    backend.refused("SET pg_shared_lru.policy = 'fifo'").is("22023", &["pg_shared_lru.policy"]);
    // A misspelt name must not pass silently. Version 14 knows only those that were there when the library was loaded.
    if cluster::major_version().expect("there is a PostgreSQL") >= 15 {
        backend.refused("SET pg_shared_lru.polcy = 'lru'").is("42602", &["pg_shared_lru.polcy"]);
    }

    backend.run("CREATE ROLE nobody_special LOGIN");
    for setting in ["slab_size = '64kB'", "partitions = 2", "buckets = 64", "policy = 'lru'"] {
        world.backend_as("nobody_special").refused(&format!("SET pg_shared_lru.{setting}")).is("42501", &[]);
    }
}

#[test]
fn settings_are_the_defaults_of_new_caches_and_arguments_win() {
    let world = World::with(&[
        ("pg_shared_lru.policy", "lru"),
        ("pg_shared_lru.partitions", "4"),
        ("pg_shared_lru.slab_size", "32kB"),
        ("pg_shared_lru.buckets", "1000"),
    ]);
    let mut backend = world.backend();
    backend.run("SELECT shared_lru.create_cache('a', 8388608)");
    backend.run(
        "SELECT shared_lru.create_cache('b', 8388608, policy => 'clock', partitions => 2, slab_bytes => 65536, buckets => 300)",
    );
    backend.run("SET pg_shared_lru.policy = 's3-fifo'; SELECT shared_lru.create_cache('c', 8388608)");
    let row = backend.all::<String>(
        "SELECT concat_ws(' ', cache, policy, partitions, slab_bytes, buckets) FROM shared_lru.caches ORDER BY cache",
    );
    assert_eq!(row, ["a lru 4 32768 1024", "b clock 2 65536 512", "c s3-fifo 4 32768 1024"]);
}

#[test]
fn left_alone_everything_is_chosen_from_the_size() {
    let world = World::new();
    let mut backend = world.backend();
    assert_eq!(backend.one::<String>("SHOW pg_shared_lru.memory"), "64MB");
    assert_eq!(backend.one::<String>("SHOW pg_shared_lru.max_caches"), "16");
    backend.run("SELECT shared_lru.create_cache('c', pg_size_bytes('16MB'))");
    let chosen: String = backend.one(
        "SELECT concat_ws(' ', policy, partitions > 0, slab_bytes >= 16384, buckets > 1000, bytes) FROM shared_lru.caches",
    );
    assert_eq!(chosen, "clock t t t 16777216");
}
