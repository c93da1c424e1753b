//! What docs/sql.md tells a reader to type does what it says, also beside others.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rand::RngExt;

use crate::cluster::StopMode;
use crate::pages::{run, section, world_with_settings_of};
use crate::world::{Backend, World, wait_until};

const GUIDE: &str = include_str!("../../../docs/sql.md");

/// A server set up as the guide says; all statements of the guide have run.
fn world_of_the_guide() -> World {
    let world = world_with_settings_of(GUIDE);
    run(&world, GUIDE);
    world
}

/// The guide's function of this name, from CREATE to its end.
fn function(name: &str) -> String {
    let start = GUIDE.find(&format!("CREATE FUNCTION {name}(")).expect("a function of the guide");
    let (function, _) = GUIDE[start..].split_once("END $$;").expect("it ends");
    format!("{function}END $$")
}

#[test]
fn every_statement_of_the_guide_returns_what_the_page_says() {
    let world = world_with_settings_of(GUIDE);
    assert!(run(&world, GUIDE) >= 30);
    // Each task has something to type, but for those that cannot be done or have nothing to do.
    let tasks = GUIDE.split("\n## What a cache is").next().expect("a page").split("\n## ").skip(1);
    let silent: Vec<&str> =
        tasks.filter(|task| !task.contains("```sql")).filter_map(|task| task.lines().next()).collect();
    assert_eq!(silent, ["Share between databases", "Restart, crash, failover, dump"]);
    assert!(section(GUIDE, "Set-up").contains("CREATE EXTENSION"));
}

#[test]
fn the_roles_of_the_guide_can_do_what_they_were_granted_and_no_more() {
    let world = world_of_the_guide();
    let mut app = world.backend_as("app");
    app.run("SELECT shared_lru.put('totals', 'k', 'v'), shared_lru.get('totals', 'k')");
    assert!(app.one::<bool>("SELECT hits > 0 FROM shared_lru.stats WHERE cache = 'totals'"));
    app.refused("SELECT * FROM shared_lru.memory").is("42501", &[]);
    app.refused("SELECT shared_lru.get('products', 'pen')").is("42501", &["products"]);
    app.refused("SELECT product('pen')").is("42501", &["product"]);
    // A table of the caller's does not come before the owner's.
    app.run("CREATE TEMPORARY TABLE products (id text, name text, cents int); INSERT INTO products VALUES ('pen', 'of app', 0)");
    assert_eq!(app.one::<String>("SELECT product_for_app('pen') ->> 'name'"), "Pen");
    assert_eq!(world.backend().one::<String>("SELECT product('pen') ->> 'name'"), "Pen");
    // Who may not write to the cache may not write to a table that invalidates it.
    world.backend().run("CREATE ROLE other LOGIN; GRANT SELECT, UPDATE ON products TO other");
    world.backend_as("other").refused("UPDATE products SET cents = 1").is("42501", &["\"products\""]);
    let mut clerk = world.backend_as("clerk");
    clerk.run("UPDATE products SET cents = 77");
    assert_eq!(world.backend().one::<String>("SELECT product('pen') ->> 'cents'"), "77");
    clerk.refused("SELECT shared_lru.invalidate_all('products')").is("42501", &["schema"]);
}

/// Sessions use the functions for rows and pages, which are slow between reading and storing, while others write. Returns how
/// many values were older than what was there before they were asked for, or wrong in the end.
fn wrong_values(product: &str) -> i64 {
    let world = world_of_the_guide();
    let mut admin = world.backend();
    admin.run(&product.replacen("CREATE", "CREATE OR REPLACE", 1));
    let done = AtomicBool::new(false);
    let mut wrong = 0;
    thread::scope(|scope| {
        let writers = [0, 1].map(|_| {
            let mut writer = world.backend();
            scope.spawn(move || {
                for _ in 0..150 {
                    let end = if rand::rng().random_range(0..3) == 0 { "ROLLBACK" } else { "COMMIT" };
                    writer.run(&format!(
                        "BEGIN; UPDATE products SET cents = cents + 1 WHERE id = 'pen'; INSERT INTO orders VALUES (7, 'pen', 1); {end}"
                    ));
                    thread::sleep(std::time::Duration::from_millis(3));
                }
            })
        });
        let readers = [0, 1, 2].map(|_| {
            let (mut reader, done) = (world.backend(), &done);
            scope.spawn(move || {
                let mut wrong = 0;
                while !done.load(Ordering::Relaxed) {
                    let before: i32 = reader.one("SELECT cents FROM products WHERE id = 'pen'");
                    wrong += i64::from(reader.one::<i32>("SELECT (product('pen') ->> 'cents')::int") < before);
                    reader.run("SELECT page(7)");
                    let same = "SELECT coalesce((shared_lru.get_jsonb('pages', 'page:7') ->> 'orders')::int
                                                = (SELECT count(*) FROM orders WHERE customer = 7), true)";
                    assert!(reader.one::<bool>(same), "a page that is not what the statement would compute");
                }
                wrong
            })
        });
        writers.into_iter().for_each(|writer| writer.join().expect("a writer writes"));
        done.store(true, Ordering::Relaxed);
        wrong += readers.map(|reader| reader.join().expect("a reader reads")).iter().sum::<i64>();
    });
    wrong + admin.one::<i64>("SELECT count(*) FROM products WHERE (product(id) ->> 'cents')::int <> cents")
}

#[test]
fn rows_and_pages_are_never_old_and_by_a_plain_put_rows_are() {
    let product = function("product");
    let put = "PERFORM shared_lru.put_jsonb_leased('products', wanted, found, lease);";
    assert!(product.contains(put));
    let late = |put: &str| format!("PERFORM pg_sleep(0.003); {put}");
    assert_eq!(wrong_values(&product.replace(put, &late(put))), 0);
    let plain = "PERFORM shared_lru.put_jsonb('products', wanted, found);";
    let finds_some = (0..5).any(|_| wrong_values(&product.replace(put, &late(plain))) > 0);
    assert!(finds_some, "the test finds nothing even without leases");
}

#[test]
fn no_change_of_a_session_is_lost_and_each_use_renews_it() {
    let world = world_of_the_guide();
    let mut admin = world.backend();
    admin.run("SELECT shared_lru.put_text('sessions', 's', '{}')");
    let expires = "SELECT expires::text FROM shared_lru.entries('sessions')";
    let before: String = admin.one(expires);
    thread::scope(|scope| {
        for user in 0..4 {
            let mut backend = world.backend();
            scope.spawn(move || {
                backend.run(&format!(
                    "SELECT session('s', jsonb_build_object('{user}:' || n, n)) FROM generate_series(1, 200) AS n"
                ));
            });
        }
    });
    assert_eq!(admin.one::<i64>("SELECT count(*) FROM jsonb_object_keys(session('s'))"), 800);
    wait_until("a use is later than the first", || {
        admin.run("SELECT session('s')");
        admin.call("SELECT $1::text::timestamptz < expires FROM shared_lru.entries('sessions')", &[&before])
    });
    // Whoever has read it does not bring it back.
    let version: Vec<u8> = admin.one("SELECT version FROM shared_lru.get_versioned('sessions', 's')");
    admin.run("SELECT shared_lru.remove_text('sessions', 's')");
    assert!(!admin.call::<bool>("SELECT shared_lru.put_if_version('sessions', 's', 'v', $1)", &[&version]));
}

/// What the functions of the guide give, and the table.
fn functions_work(backend: &mut Backend) {
    assert!(backend.one::<bool>("SELECT bool_and((product(id) ->> 'cents')::int = cents) FROM products"));
    let count: i64 = backend.one("SELECT count(*) FROM orders WHERE customer = 7");
    assert_eq!(backend.one::<String>("SELECT page(7) ->> 'orders'"), count.to_string());
    assert!(backend.one::<bool>("SELECT session('none') IS NULL"));
}

#[test]
fn the_functions_of_the_guide_go_on_after_a_restart_and_writers_where_a_cache_is_gone() {
    let world = world_of_the_guide();
    for mode in [StopMode::Fast, StopMode::Immediate] {
        world.cluster.restart(mode).expect("the server restarts");
        let mut backend = world.backend();
        assert!(backend.one::<bool>("SELECT shared_lru.get_jsonb('products', 'pen') IS NULL"), "there, and empty");
        assert!(backend.one::<bool>("SELECT cached_total(7) = total(7)"));
        functions_work(&mut backend);
        assert!(backend.one::<bool>("SELECT shared_lru.get_jsonb('products', 'pen') IS NOT NULL"), "filled again");
        backend.run("UPDATE products SET cents = cents + 1; INSERT INTO orders VALUES (7, 'pen', 1)");
        functions_work(&mut backend);
    }
    let mut backend = world.backend();
    backend.run("SELECT shared_lru.drop_cache('products'), shared_lru.drop_cache('pages')");
    backend.run("UPDATE products SET cents = cents + 1; DELETE FROM orders; TRUNCATE products, orders");
    backend.refused("SELECT product('pen')").is("42704", &["\"products\""]);
    backend.refused("SELECT page(7)").is("42704", &["\"pages\""]);
}

#[test]
fn the_functions_of_the_guide_work_on_a_standby_and_keep_nothing_there_that_could_be_old() {
    let world = World::with(&[("wal_level", "replica"), ("max_wal_senders", "4")]);
    run(&world, &GUIDE.replacen("CREATE EXTENSION pg_shared_lru;", "", 1));
    let standby = world.cluster.standby().expect("a standby starts");
    let mut reader = Backend { client: standby.connect("postgres").expect("the standby accepts a connection") };
    for cents in [1000, 2000] {
        world.backend().run(&format!("UPDATE products SET cents = {cents}; INSERT INTO orders VALUES (7, 'pen', 1)"));
        wait_until("the change has arrived", || {
            reader.one::<bool>(&format!("SELECT bool_and(cents = {cents}) FROM products"))
                && reader.one::<i64>("SELECT count(*) FROM orders WHERE customer = 7")
                    == world.backend().one::<i64>("SELECT count(*) FROM orders WHERE customer = 7")
        });
        for _ in 0..2 {
            assert!(reader.one::<bool>("SELECT bool_and((product(id) ->> 'cents')::int = cents) FROM products"));
            let same = "SELECT (page(7) ->> 'orders')::int = (SELECT count(*) FROM orders WHERE customer = 7)";
            assert!(reader.one::<bool>(same));
        }
    }
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
