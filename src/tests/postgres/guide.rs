//! What docs/sql.md tells a reader to type does what it says.

use std::thread;

use crate::cluster::{Cluster, StopMode};
use crate::world::{Backend, World, wait_until};

const GUIDE: &str = include_str!("../../../docs/sql.md");

/// The guide's blocks of code in this language, in order.
fn blocks(language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    let blocks = GUIDE.split(&fence).skip(1);
    blocks.map(|block| block.split_once("```").expect("a block ends").0).collect()
}

/// A server set up as the guide says, with a role `app`; all statements of the guide have run.
fn world_of_the_guide() -> World {
    let lines = blocks("ini").concat();
    let settings: Vec<(&str, &str)> = lines
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.trim(), value.trim().trim_matches('\'')))
        .collect();
    assert_eq!(settings.len(), 2, "{settings:?}");
    let world = World { cluster: Cluster::start(&settings).expect("a server starts") };
    let mut admin = world.backend();
    admin.run("CREATE ROLE app LOGIN");
    let statements = blocks("sql");
    assert!(statements.len() >= 5, "{statements:?}");
    for block in statements {
        admin.run(block);
    }
    world
}

fn cached(backend: &mut Backend) -> Option<String> {
    backend.one("SELECT shared_lru.get_text('products', 'a')")
}

fn name(backend: &mut Backend) -> Option<String> {
    backend.one("SELECT product_name('a')")
}

fn waits_for_a_lock(judge: &mut Backend, pid: i32) {
    wait_until("a session waits for a lock", || {
        judge.call("SELECT coalesce(wait_event_type = 'Lock', false) FROM pg_stat_activity WHERE pid = $1", &[&pid])
    });
}

#[test]
fn the_granted_role_can_do_what_it_was_granted() {
    let world = world_of_the_guide();
    let mut app = world.backend_as("app");
    app.run("SELECT shared_lru.put('sessions', 'k', 'v'), shared_lru.get('sessions', 'k')");
    assert_eq!(app.one::<i64>("SELECT hits FROM shared_lru.stats WHERE cache = 'sessions'"), 1);
    app.refused("SELECT * FROM shared_lru.memory").is("42501", &[]);
}

#[test]
fn the_recipe_leaves_no_stale_value_however_reader_and_writer_meet() {
    let world = world_of_the_guide();
    let (mut reader, mut writer, mut judge) = (world.backend(), world.backend(), world.backend());
    judge.run("INSERT INTO products VALUES ('a', 'one')");
    // The reader has missed and read the old row when the writer comes; it puts, and commits late.
    reader.run("BEGIN");
    assert_eq!(name(&mut reader).as_deref(), Some("one"));
    let pid = writer.pid();
    thread::scope(|scope| {
        let writing = scope.spawn(|| writer.run("UPDATE products SET name = 'two' WHERE id = 'a'"));
        waits_for_a_lock(&mut judge, pid);
        assert_eq!(cached(&mut judge).as_deref(), Some("one"));
        reader.run("COMMIT");
        writing.join().expect("the writer writes");
    });
    assert_eq!(cached(&mut judge), None);
    assert_eq!(name(&mut judge).as_deref(), Some("two"));

    // The writer has changed the row and not committed when the reader misses.
    writer.run("BEGIN; UPDATE products SET name = 'three' WHERE id = 'a'");
    assert_eq!(cached(&mut judge), None);
    let pid = reader.pid();
    thread::scope(|scope| {
        let reading = scope.spawn(|| name(&mut reader));
        waits_for_a_lock(&mut judge, pid);
        writer.run("COMMIT");
        assert_eq!(reading.join().expect("the reader reads").as_deref(), Some("three"));
    });
    assert_eq!(cached(&mut judge).as_deref(), Some("three"));

    // A change that is rolled back, a key that changes, a row that goes, all rows.
    writer.run("BEGIN; UPDATE products SET name = 'never' WHERE id = 'a'; ROLLBACK");
    assert_eq!(name(&mut judge).as_deref(), Some("three"));
    writer.run("UPDATE products SET id = 'b'");
    assert_eq!(name(&mut judge), None);
    assert_eq!(judge.one::<String>("SELECT product_name('b')"), "three");
    writer.run("DELETE FROM products");
    assert_eq!(judge.one::<Option<String>>("SELECT product_name('b')"), None);
    judge.run("INSERT INTO products VALUES ('a', 'four')");
    assert_eq!(name(&mut judge).as_deref(), Some("four"));
    writer.run("TRUNCATE products");
    assert_eq!((cached(&mut judge), name(&mut judge)), (None, None));
}

#[test]
fn the_recipe_reads_and_writes_where_the_cache_is_gone() {
    let world = world_of_the_guide();
    world.backend().run("INSERT INTO products VALUES ('a', 'one')");
    world.cluster.restart(StopMode::Immediate).expect("the server restarts");
    let mut backend = world.backend();
    assert_eq!(cached(&mut backend), None, "there after the restart, and empty");
    backend.run("SELECT shared_lru.drop_cache('products')");
    backend.refused("SELECT shared_lru.get_text('products', 'a')").is("42704", &[]);
    assert_eq!(name(&mut backend).as_deref(), Some("one"));
    backend.run("UPDATE products SET name = 'two'");
    assert_eq!(name(&mut backend).as_deref(), Some("two"));
    backend.run("DELETE FROM products; TRUNCATE products; INSERT INTO products VALUES ('a', 'three')");
    // The last block of the guide makes the cache, for the first and for the others.
    let create = *blocks("sql").last().expect("blocks");
    backend.run(create);
    backend.run(create);
    assert_eq!((name(&mut backend).as_deref(), cached(&mut backend).as_deref()), (Some("three"), Some("three")));
}

#[test]
fn a_cache_that_may_exist_costs_what_the_guide_says() {
    let bytes = |caches: i64| -> i64 {
        let world = World::with(&[("pg_shared_lru.max_caches", &caches.to_string())]);
        world.backend().one("SELECT size FROM pg_shmem_allocations WHERE name = 'pg_shared_lru'")
    };
    let kilobytes = ((bytes(816) - bytes(16)) as f64 / 800.0 / 1024.0).round();
    assert!(GUIDE.contains(&format!("about {kilobytes} kB of locks and counters for each")), "{kilobytes} kB for each");
}

#[test]
fn every_function_view_and_setting_is_in_the_guide() {
    let world = World::new();
    let mut backend = world.backend();
    let names: Vec<String> = backend.all(
        "SELECT proname::text FROM pg_proc WHERE pronamespace = 'shared_lru'::regnamespace
         UNION SELECT relname FROM pg_class WHERE relnamespace = 'shared_lru'::regnamespace AND relkind = 'v'
         UNION SELECT name FROM pg_settings WHERE name LIKE 'pg_shared_lru.%'",
    );
    for name in names {
        assert!(GUIDE.contains(&format!("`{name}`")) || GUIDE.contains(&format!("`{name}(")), "nothing of {name}");
    }
}

#[test]
fn every_counter_of_the_library_is_a_column_of_the_view() {
    let counters = format!("{:?}", pg_shared_lru::Stats::default());
    let fields = counters.trim_start_matches("Stats {").split(',').filter_map(|field| field.split_once(':'));
    let world = World::new();
    let columns: Vec<String> = world
        .backend()
        .all("SELECT attname::text FROM pg_attribute WHERE attrelid = 'shared_lru.stats'::regclass AND attnum > 0");
    let mut count = 0;
    for (field, _) in fields {
        assert!(columns.iter().any(|column| column == field.trim()), "{field} is no column of {columns:?}");
        count += 1;
    }
    assert!(count >= 12, "{counters}");
}
