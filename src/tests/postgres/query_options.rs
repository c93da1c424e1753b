//! Options of results: how long they live, their tags, what is served while a new one is made, and the clock.

use std::thread;

use crate::queries::{WAITS, while_it_runs, world};
use crate::world::{Backend, World, wait_until};

/// A function that says what only its session knows, and of which the cache is told nothing.
const TOLD: &str = "CREATE FUNCTION told() RETURNS int IMMUTABLE LANGUAGE plpgsql AS
     'BEGIN RETURN current_setting(''own.told'')::int; END'";

fn fetch_with(ttl: &str, tags: &str, grace: &str, query: &str) -> String {
    format!("SELECT shared_lru.fetch_with('c', {ttl}, {tags}, {grace}, '{query}', NULL::int)")
}

/// A call's value, in a session that is told a number.
fn told(backend: &mut Backend, number: i32, call: &str) -> i32 {
    backend.run(&format!("SET own.told = {number}"));
    backend.one(call)
}

#[test]
fn a_result_lives_as_long_as_its_call_says() {
    let world = world();
    let mut backend = world.backend();
    backend.run(TOLD);
    let call = |ttl| fetch_with(ttl, "NULL", "NULL", "SELECT told()");
    for (number, ttl) in [(1, "NULL"), (2, "'0'"), (3, "'1 hour'"), (4, "'0.3 s'")] {
        assert_eq!(told(&mut backend, number, &call(ttl)), number, "{ttl} has a result of its own");
    }
    wait_until("the short one has expired", || told(&mut backend, 5, &call("'0.3 s'")) == 5);
    for (number, ttl) in [(1, "NULL"), (2, "'0'"), (3, "'1 hour'")] {
        assert_eq!(told(&mut backend, 6, &call(ttl)), number, "{ttl} is still there");
    }
    // Who wants nothing gets what `fetch` does.
    assert_eq!(told(&mut backend, 6, "SELECT shared_lru.fetch('c', 'SELECT told()', NULL::int)"), 1);
    // A cache's own.
    backend.run("SELECT shared_lru.alter_cache('c', ttl => '0.3 s'), shared_lru.clear('c')");
    assert_eq!(told(&mut backend, 7, &call("NULL")), 7);
    wait_until("it has expired", || told(&mut backend, 8, &call("NULL")) == 8);
    backend.refused(&call("'-1 s'")).is("22023", &["ttl", "negative"]);
    backend.refused(&fetch_with("NULL", "NULL", "'-0.5 s'", "SELECT 1")).is("22023", &["grace is -0.5", "negative"]);
    let long = "'1000000 years'";
    backend.refused(&fetch_with("NULL", "NULL", long, "SELECT 1")).is("22023", &["grace is 31104000000000", "at most"]);
    backend
        .refused(&format!("SELECT shared_lru.alter_cache('c', grace => {long})"))
        .is("22023", &["at most 18446744073709"]);
    let tags = "array_fill('a'::text, '{33}')";
    backend.refused(&fetch_with("NULL", tags, "NULL", "SELECT 1")).is("22023", &["33 tags"]);
}

#[test]
fn rows_and_parameters_come_with_options_as_without() {
    let world = world();
    let mut backend = world.backend();
    backend.run("CREATE TABLE t AS SELECT n AS id FROM generate_series(1, 5) AS n");
    let rows = "SELECT id FROM shared_lru.query_with('c', '1 hour', '{a,b}', NULL, 'SELECT id FROM t WHERE id > $1 ORDER BY 1', 3) AS t (id int)";
    let one =
        "SELECT shared_lru.fetch_with('c', NULL, '{a}', NULL, 'SELECT sum(id) FROM t WHERE id > $1', NULL::bigint, 3)";
    for _ in 0..2 {
        assert_eq!(backend.all::<i32>(rows), [4, 5]);
        assert_eq!(backend.one::<i64>(one), 9);
    }
    assert_eq!(backend.stat("inserts"), 2);
    // Tags are a set.
    backend.run(&rows.replace("{a,b}", "{b,NULL,a,b}"));
    assert_eq!(backend.stat("inserts"), 2);
    backend.run("UPDATE t SET id = id + 1");
    assert_eq!((backend.all::<i32>(rows), backend.one(one)), (vec![4, 5, 6], 15_i64));
    backend.validate();
}

#[test]
fn a_result_is_gone_for_those_who_see_that_its_tag_was_invalidated() {
    let world = world();
    let (mut admin, mut reader, mut old) = (world.backend(), world.backend(), world.backend());
    admin.run(TOLD);
    let call = fetch_with("NULL", "'{a,b}'", "NULL", "SELECT told()");
    assert_eq!(told(&mut reader, 1, &call), 1);
    for (mut number, tag, end) in [(1, "a", "ROLLBACK"), (1, "z", "COMMIT"), (1, "a", "COMMIT"), (2, "b", "COMMIT")] {
        old.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1");
        admin.run(&format!("BEGIN; SELECT shared_lru.invalidate_tag('c', '{tag}')"));
        let own = if tag == "z" { number } else { 9 };
        assert_eq!(told(&mut admin, 9, &call), own, "who invalidates it does not see it");
        assert_eq!(told(&mut reader, 8, &call), number, "others do, for now");
        admin.run(end);
        assert_eq!(told(&mut old, 8, &call), number, "and older snapshots");
        old.run("COMMIT");
        if end == "COMMIT" && tag != "z" {
            number += 1;
        }
        assert_eq!(told(&mut reader, number, &call), number, "{tag}, {end}");
        assert_eq!(told(&mut admin, 9, &call), number);
    }
    // And who empties all does not see what is there.
    admin.run("BEGIN; SELECT shared_lru.invalidate_all('c')");
    assert_eq!((told(&mut admin, 9, &call), told(&mut reader, 9, &call)), (9, 3));
    admin.run("ROLLBACK");
    // Calls without the tag have another result.
    let without = fetch_with("NULL", "'{b}'", "NULL", "SELECT told()");
    assert_eq!(told(&mut reader, 20, &without), 20);
    admin.run("SELECT shared_lru.invalidate_tag('c', 'a')");
    assert_eq!((told(&mut reader, 21, &without), told(&mut reader, 21, &call)), (20, 21));
}

#[test]
fn an_invalidation_of_its_tag_voids_a_result_that_is_being_made() {
    let world = world();
    let mut admin = world.backend();
    admin.run(&format!("CREATE TABLE t AS SELECT 1 AS v; {WAITS}"));
    let call = fetch_with("NULL", "'{a}'", "NULL", "SELECT max(waits(v)) FROM t");
    for (meanwhile, kept) in [
        ("SELECT shared_lru.invalidate_tag('c', 'a')", 0),
        ("SELECT shared_lru.invalidate_tag('c', 'b')", 1),
        ("BEGIN; SELECT shared_lru.invalidate_tag('c', 'a'); ROLLBACK", 1),
    ] {
        admin.run("SELECT shared_lru.clear('c')");
        assert_eq!(while_it_runs(&world, &call, |other| other.run(meanwhile)), 1);
        assert_eq!(admin.one::<i64>("SELECT count(*) FROM shared_lru.entries('c')"), kept, "{meanwhile}");
    }
    // One that its snapshot does not see was made before it: what it read may be older.
    admin.run("SELECT shared_lru.clear('c')");
    let mut reader = world.backend();
    reader.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1");
    admin.run("SELECT shared_lru.invalidate_tag('c', 'a')");
    reader.run(&call);
    assert_eq!(admin.one::<i64>("SELECT count(*) FROM shared_lru.entries('c')"), 0);
}

/// The query of the tests of grace, which waits for the gate where it reads.
const SLOW: &str = "SELECT max(waits(v)) FROM t";

fn world_with_a_slow_query() -> World {
    let world = world();
    world.backend().run(&format!("CREATE TABLE t AS SELECT 1 AS v; {WAITS}"));
    world
}

/// Has a result of the slow query in the cache, whose rows have changed since, from 1 to 2.
fn outdate(world: &World, call: &str) {
    let mut admin = world.backend();
    admin.run("UPDATE t SET v = 1");
    admin.run("SELECT shared_lru.clear('c')");
    assert_eq!(admin.one::<i32>(call), 1);
    admin.run("UPDATE t SET v = 2");
}

/// A session makes the result by `making`, which takes until the gate is opened. What another gets by `asked` after
/// `before`: at once, or `None` if it waits.
fn while_it_is_made(world: &World, making: &str, before: &[&str], asked: &str) -> Option<i32> {
    let mut asking = world.backend();
    let pid = asking.pid();
    thread::scope(|scope| {
        let (mut served, mut waiting) = (None, None);
        let made = while_it_runs(world, making, |other| {
            before.iter().for_each(|statement| asking.run(statement));
            let call = scope.spawn(move || asking.one::<i32>(asked));
            wait_until("it is served, or waits", || {
                let waits =
                    "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = $1 AND NOT granted)";
                call.is_finished() || other.call(waits, &[&pid])
            });
            if call.is_finished() {
                served = Some(call.join().expect("it ends"));
            } else {
                waiting = Some(call);
            }
        });
        assert_eq!(made, 2, "who makes it gets the new one");
        if let Some(call) = waiting {
            assert_eq!(call.join().expect("it ends"), 2, "who waits gets the new one");
        }
        served
    })
}

#[test]
fn under_grace_the_old_result_is_served_while_the_new_one_is_made() {
    let world = world_with_a_slow_query();
    let mut admin = world.backend();
    let call = fetch_with("NULL", "'{a}'", "'1 hour'", SLOW);
    let rows = format!("SELECT v FROM shared_lru.query_with('c', NULL, '{{a}}', '1 hour', '{SLOW}') AS t (v int)");
    for (count, asked) in (1..).zip([&call, &rows]) {
        outdate(&world, &call);
        assert_eq!(while_it_is_made(&world, &call, &[], asked), Some(1));
        assert_eq!((admin.stat("served_stale"), admin.one::<i32>(&call)), (count, 2));
        // Each is a hit of the query: the old result, and the new one.
        assert_eq!(admin.one::<i64>("SELECT hits FROM shared_lru.query_entries"), 2 * count);
        assert_eq!(admin.stat("hits"), 2 * count);
        // Who is alone gets what is right.
        admin.run("UPDATE t SET v = 3");
        assert_eq!((admin.one::<i32>(&call), admin.stat("served_stale")), (3, count));
    }
    // As the cache says.
    admin.run("SELECT shared_lru.alter_cache('c', grace => '1 hour')");
    let call = format!("SELECT shared_lru.fetch('c', '{SLOW}', NULL::int)");
    outdate(&world, &call);
    assert_eq!(while_it_is_made(&world, &call, &[], &call), Some(1));
    let marked = format!("/* shared_lru: c */ {SLOW}");
    outdate(&world, &marked);
    assert_eq!(while_it_is_made(&world, &marked, &[], &marked), Some(1));
    assert_eq!((admin.stat("served_stale"), admin.one::<i32>(&marked)), (4, 2));
    // What has lived as long as it was to: that is when the grace begins.
    let call = |grace| fetch_with("'0.2 s'", "NULL", grace, SLOW);
    outdate(&world, &call("NULL"));
    admin.run("SELECT pg_sleep(0.5)");
    assert_eq!(while_it_is_made(&world, &call("NULL"), &[], &call("NULL")), Some(1));
    outdate(&world, &call("NULL"));
    admin.run("SELECT pg_sleep(0.5)");
    assert_eq!(while_it_is_made(&world, &call("NULL"), &[], &call("'0.1 s'")), None);
    admin.validate();
}

#[test]
fn without_grace_or_where_more_than_rows_has_changed_who_asks_waits() {
    let world = world_with_a_slow_query();
    let with = |grace: &str| fetch_with("NULL", "'{a}'", grace, SLOW);
    let call = with("'1 hour'");
    let serializable = [
        "SET default_transaction_isolation = serializable",
        "SET default_transaction_read_only = on",
        "SET default_transaction_deferrable = on",
    ];
    let mut alone = world.backend();
    for (first, before, asked) in [
        ("", &[][..], with("NULL")),
        ("", &[], with("'0'")),
        // Longer than its grace, after somebody has noted it.
        ("", &["SELECT pg_sleep(0.2)"], with("'0.1 s'")),
        ("", &["BEGIN"], call.clone()),
        ("", &serializable, call.clone()),
        ("", &["SELECT shared_lru.invalidate_tag('c', 'a')"], call.clone()),
        ("", &["SELECT shared_lru.invalidate_all('c')"], call.clone()),
        ("", &["SELECT shared_lru.clear('c')"], call.clone()),
        ("", &["CREATE FUNCTION f() RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 1'"], call.clone()),
        ("", &["CREATE ROLE alice"], call.clone()),
        ("GRANT SELECT ON t TO PUBLIC", &[], call.clone()),
        ("ALTER TABLE t ADD COLUMN w int", &[], call.clone()),
        ("TRUNCATE t; INSERT INTO t VALUES (2)", &[], call.clone()),
    ] {
        outdate(&world, &call);
        alone.run(first);
        assert_eq!(while_it_is_made(&world, &call, before, &asked), None, "{first}; {before:?}; {asked}");
        assert_eq!(alone.stat("served_stale"), 0);
    }
}

#[test]
fn what_depends_on_the_clock_is_kept_where_the_cache_says_so_for_as_long_as_its_ttl() {
    let world = world();
    let mut backend = world.backend();
    let needs = "SELECT shared_lru.create_cache('clocked', pg_size_bytes('4MB'), accept_clock => true)";
    backend.refused(needs).is("22023", &["accept_clock", "ttl"]);
    backend.run(&needs.replace("true", "true, ttl => '1 hour'"));
    backend.refused("SELECT shared_lru.alter_cache('clocked', reset => '{ttl}')").is("22023", &["accept_clock", "ttl"]);
    backend.refused("SELECT shared_lru.alter_cache('c', accept_clock => true)").is("22023", &["accept_clock", "ttl"]);
    backend.run("CREATE TABLE t AS SELECT 1 AS id");
    let explained = |backend: &mut Backend, query: &str, cache: &str| -> (bool, Option<String>) {
        let call = format!("SELECT * FROM shared_lru.explain_query('{query}', cache => {cache})");
        let row = backend.client.query_one(&call, &[]).expect("it is explained");
        (row.get("cacheable"), row.get("reason"))
    };
    for (query, why) in [
        ("SELECT now()::text FROM t", "now is STABLE"),
        ("SELECT statement_timestamp()::text", "statement_timestamp is STABLE"),
        ("SELECT current_date::text", "clock"),
        ("SELECT localtime::text", "clock"),
        ("SELECT age(timestamp ''2020-01-01'')::text", "age is STABLE"),
        ("SELECT (''now''::text::timestamptz)::text", "timestamptz_in is STABLE"),
        ("SELECT (timestamptz ''now'')::text", "the time at which it is read"),
    ] {
        for (cache, kept) in [("NULL", false), ("'c'", false), ("'clocked'", true)] {
            let (cacheable, reason) = explained(&mut backend, query, cache);
            let reason = reason.expect("there is something to say");
            assert!(cacheable == kept && reason.contains(why), "{query} in {cache}: {cacheable}, {reason}");
            assert_eq!(reason.contains("kept for the cache's ttl"), kept, "{reason}");
        }
        let call = |cache: &str| format!("SELECT shared_lru.fetch('{cache}', '{query}', NULL::text)");
        let inserts = "SELECT inserts FROM shared_lru.stats WHERE cache = 'clocked'";
        let before: i64 = backend.one(inserts);
        let first: String = backend.one(&call("clocked"));
        assert_eq!((backend.one::<String>(&call("clocked")), backend.one(inserts)), (first, before + 1), "{query}");
        backend.run(&call("c"));
        assert_eq!(backend.stat("inserts"), 0, "{query}");
    }
    // Not for ever, and not what depends on more than the clock.
    let call = "SELECT shared_lru.fetch_with('clocked', '0', NULL, NULL, 'SELECT now()::text', NULL::text)";
    assert_ne!(backend.one::<String>(call), backend.one::<String>(call));
    backend.run("CREATE FUNCTION own() RETURNS int STABLE LANGUAGE plpgsql AS 'BEGIN RETURN 1; END'");
    for query in [
        "SELECT current_setting(''application_name''), now()",
        "SELECT now(), session_user",
        "SELECT own(), now()",
        "SELECT clock_timestamp()",
        "SELECT age(xid ''3'')",
        "SELECT pg_backend_pid(), now()",
    ] {
        assert!(!explained(&mut backend, query, "'clocked'").0, "{query}");
    }
    // Rows count as ever.
    let query = "SELECT count(*) FROM t WHERE now() > ''2020-01-01''";
    let count = format!("SELECT shared_lru.fetch('clocked', '{query}', NULL::bigint)");
    assert_eq!((backend.one::<i64>(&count), backend.one::<i64>(&count)), (1, 1));
    backend.run("INSERT INTO t VALUES (2)");
    assert_eq!(backend.one::<i64>(&count), 2);
}

#[test]
fn a_marked_statement_has_the_options_of_its_cache() {
    let world = world();
    let mut backend = world.backend();
    backend.run("CREATE TABLE t AS SELECT 1 AS id");
    backend.run("/* shared_lru: c */ PREPARE p AS SELECT now() FROM t");
    let explained = |backend: &mut Backend| -> String {
        backend.all::<String>("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) EXECUTE p").join("\n")
    };
    for _ in 0..2 {
        let shown = explained(&mut backend);
        assert!(shown.contains("Not Kept: function now is STABLE"), "{shown}");
    }
    backend.run("SELECT shared_lru.alter_cache('c', ttl => '1 hour', accept_clock => true)");
    // The first finds that something has changed since it was planned.
    explained(&mut backend);
    for result in ["Result: miss, stored", "Result: hit"] {
        let shown = explained(&mut backend);
        assert!(shown.contains(result), "{shown}");
    }
    // A plan is as old as it is; what is accepted counts now.
    backend.run("SELECT shared_lru.alter_cache('c', accept_clock => false)");
    let shown = explained(&mut backend);
    assert!(shown.contains("Not Kept: function now is STABLE"), "{shown}");
}
