//! Results that go by their age alone: on standbys, without a preload, and where the query cache is off. Where it is on there
//! are none.

use std::thread;

use crate::cluster::{Cluster, StopMode};
use crate::queries::{WAITS, while_it_runs};
use crate::world::{Backend, World, has_dsm_registry, wait_until};

/// A server with the query cache off, a cache `c` that accepts results that go by their age, and a table `t` of one row.
fn world() -> World {
    let world = World::with(&[("pg_shared_lru.naptime", "1s"), ("max_prepared_transactions", "4")]);
    prepare(&mut world.backend());
    world
}

fn prepare(backend: &mut Backend) {
    backend.run("SELECT shared_lru.create_cache('c', ttl => '1 hour', accept_unchecked => true)");
    backend.run("CREATE TABLE t AS SELECT 1 AS v");
}

const COUNT: &str = "SELECT count(*) FROM t";

/// The number of rows of `t`, of the cache.
fn count(backend: &mut Backend) -> i64 {
    backend.one(&format!("SELECT shared_lru.fetch('c', '{COUNT}', NULL::bigint)"))
}

/// The same for so long, with these tags.
fn count_with(backend: &mut Backend, ttl: &str, tags: &str) -> i64 {
    backend.one(&format!("SELECT shared_lru.fetch_with('c', {ttl}, {tags}, NULL, '{COUNT}', NULL::bigint)"))
}

fn is_on(backend: &mut Backend) -> bool {
    backend.one("SELECT EXISTS (SELECT FROM shared_lru.changes('t'))")
}

fn switch(backend: &mut Backend, to: &str) {
    backend.run(&format!("ALTER SYSTEM SET pg_shared_lru.query_cache = {to}"));
    backend.run("SELECT pg_reload_conf()");
}

/// How often a result was not kept for this reason.
fn refusals(backend: &mut Backend, reason: &str) -> i64 {
    backend.one(&format!(
        "SELECT coalesce(sum(count), 0)::bigint FROM shared_lru.query_refusals WHERE reason = '{reason}'"
    ))
}

/// What a marked statement says of its result.
fn explained(backend: &mut Backend, query: &str) -> String {
    backend
        .all::<String>(&format!("/* shared_lru: c */ EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) {query}"))
        .join("\n")
}

#[test]
fn where_the_query_cache_is_off_a_result_is_served_until_its_time_is_over() {
    let world = world();
    let (mut writer, mut reader) = (world.backend(), world.backend());
    assert_eq!(count(&mut writer), 1);
    writer.run("INSERT INTO t VALUES (2)");
    assert_eq!((count(&mut reader), count(&mut writer)), (1, 1), "as old as its ttl says");
    let rows = "SELECT v FROM shared_lru.query('c', 'SELECT v FROM t ORDER BY 1') AS t (v int)";
    assert_eq!(writer.all::<i32>(rows), [1, 2]);
    writer.run("DELETE FROM t WHERE v = 1");
    assert_eq!(reader.all::<i32>(rows), [1, 2]);
    writer.run("INSERT INTO t VALUES (1)");
    assert_eq!((reader.stat("hits"), reader.stat("served_unchecked"), reader.stat("served_stale")), (3, 3, 0));
    let entries = "SELECT string_agg(hits || ' ' || is_current, ', ' ORDER BY hits DESC) FROM shared_lru.query_entries";
    assert_eq!(reader.one::<String>(entries), "2 true, 1 true");
    // A view is served so, too.
    writer.run("CREATE VIEW report AS SELECT count(*) AS n FROM t; SELECT shared_lru.cache_view('c', 'report')");
    for before in [2, 2] {
        assert_eq!(reader.one::<i64>("SELECT n FROM report_cached"), before);
        writer.run("INSERT INTO t VALUES (3)");
    }
    // A short time, and none.
    assert_eq!(count_with(&mut writer, "'0.3 s'", "NULL"), 4);
    writer.run("INSERT INTO t VALUES (3)");
    wait_until("the short one has expired", || count_with(&mut reader, "'0.3 s'", "NULL") == 5);
    assert_eq!(count_with(&mut writer, "'0'", "NULL"), 5);
    writer.run("INSERT INTO t VALUES (3)");
    assert_eq!(count_with(&mut reader, "'0'", "NULL"), 6, "for ever means for as long as it is right");
    assert_eq!(count(&mut reader), 1);
    // Emptied; and as the cache says, at each call.
    writer.run("SELECT shared_lru.clear('c')");
    assert_eq!(count(&mut reader), 6);
    writer.run("INSERT INTO t VALUES (3)");
    writer.run("SELECT shared_lru.alter_cache('c', accept_unchecked => false)");
    assert_eq!(count(&mut reader), 7);
    writer.run("INSERT INTO t VALUES (3)");
    assert_eq!(count(&mut reader), 8);
    writer.validate();
}

#[test]
fn a_cache_accepts_it_only_with_a_ttl() {
    let world = world();
    let mut backend = world.backend();
    let needs = "SELECT shared_lru.create_cache('d', accept_unchecked => true)";
    backend.refused(needs).is("22023", &["accept_unchecked", "ttl"]);
    backend.refused("SELECT shared_lru.alter_cache('c', reset => '{ttl}')").is("22023", &["accept_unchecked", "ttl"]);
    let explain = |backend: &mut Backend, cache: &str| -> Option<String> {
        backend.one(&format!("SELECT reason FROM shared_lru.explain_query('{COUNT}', cache => {cache})"))
    };
    assert_eq!(explain(&mut backend, "NULL"), None);
    let reason = explain(&mut backend, "'c'").expect("it is kept in another way");
    assert!(reason.contains("nothing tells whether it is right"), "{reason}");
    backend.run("SELECT shared_lru.alter_cache('c', reset => '{ttl, accept_unchecked}')");
    assert_eq!(explain(&mut backend, "'c'"), None);
    for rows in [1, 2] {
        assert_eq!(count(&mut backend), rows);
        backend.run("INSERT INTO t VALUES (2)");
    }
    assert_eq!((backend.stat("inserts"), refusals(&mut backend, "off")), (0, 2));
}

#[test]
fn transactions_that_need_to_know_run_the_query() {
    let world = world();
    let (mut writer, mut reader) = (world.backend(), world.backend());
    writer.run("CREATE TABLE u (v int)");
    assert_eq!(count(&mut reader), 1);
    writer.run("INSERT INTO t VALUES (2)");
    // Who has written anything, and who has rolled it back to a savepoint.
    writer.run("BEGIN");
    assert_eq!(count(&mut writer), 1);
    for written in ["INSERT INTO u VALUES (1)", "SAVEPOINT s; INSERT INTO u VALUES (1)", "ROLLBACK TO s"] {
        writer.run(written);
        assert_eq!(count(&mut writer), 2, "{written}");
    }
    writer.run("COMMIT");
    assert_eq!(count(&mut writer), 1);
    // Nor does it store what only it sees.
    writer.run("SELECT shared_lru.clear('c')");
    writer.run("BEGIN; INSERT INTO t VALUES (3)");
    assert_eq!(count(&mut writer), 3);
    writer.run("ROLLBACK");
    assert_eq!((writer.stat("entries"), refusals(&mut writer, "written")), (0, 4));
    assert_eq!(count(&mut reader), 2);
    writer.run("INSERT INTO t VALUES (3)");
    for (level, rows) in
        [("READ COMMITTED", 2), ("REPEATABLE READ", 2), ("SERIALIZABLE", 3), ("SERIALIZABLE READ ONLY DEFERRABLE", 3)]
    {
        reader.run(&format!("BEGIN ISOLATION LEVEL {level}"));
        assert_eq!(count(&mut reader), rows, "{level}");
        reader.run("COMMIT");
    }
    assert_eq!(refusals(&mut writer, "serializable"), 2);
    reader.run("SET gin_fuzzy_search_limit = 1000");
    assert_eq!((count(&mut reader), refusals(&mut writer, "sample")), (3, 1));
}

#[test]
fn what_is_refused_elsewhere_is_refused_and_so_are_rows_whose_type_may_change_unseen() {
    let world = world();
    let mut backend = world.backend();
    backend.run(
        "CREATE TYPE pair AS (a int, b int); CREATE DOMAIN pairs AS pair[]; CREATE TYPE mood AS ENUM ('sad', 'ok');
         CREATE TABLE u AS SELECT (1, 2)::pair AS p, 'ok'::mood AS m, '{sad}'::mood[] AS ms;
         CREATE FUNCTION reads() RETURNS bigint IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT count(*) FROM t); END';
         CREATE TEMPORARY TABLE tt (v int)",
    );
    for (query, columns, reason) in [
        ("SELECT random() FROM t", "v float8", "volatile"),
        ("SELECT now() FROM t", "v timestamptz", "clock"),
        ("SELECT count(*) FROM pg_class", "v bigint", "catalog"),
        ("SELECT count(*) FROM tt", "v bigint", "temporary"),
        ("SELECT reads()", "v bigint", "runs_queries"),
        ("SELECT p FROM u", "v pair", "untyped"),
        ("SELECT u FROM u", "v u", "untyped"),
        ("SELECT v, ARRAY[p] FROM u, t", "w int, v pair[]", "untyped"),
        ("SELECT ARRAY[p]::pairs FROM u", "v pairs", "untyped"),
    ] {
        let before = refusals(&mut backend, reason);
        for _ in 0..2 {
            backend.run(&format!("SELECT * FROM shared_lru.query('c', '{query}') AS r ({columns})"));
        }
        assert_eq!((refusals(&mut backend, reason), backend.stat("inserts")), (before + 2, 0), "{query}");
        let explain =
            |cache: &str| format!("SELECT cacheable FROM shared_lru.explain_query('{query}', cache => {cache})");
        assert!(!backend.one::<bool>(&explain("'c'")), "{query}");
        // It is only here that rows of users' types are not kept.
        assert_eq!(backend.one::<bool>(&explain("NULL")), reason == "untyped", "{query}");
    }
    assert!(!backend.one::<bool>("SELECT cacheable FROM shared_lru.explain_query('SELECT ROW(v) FROM t')"));
    // Labels are looked up.
    let moods = "SELECT m::text || ms::text FROM shared_lru.query('c', 'SELECT m, ms FROM u') AS r (m mood, ms mood[])";
    assert_eq!(backend.one::<String>(moods), "ok{sad}");
    backend.run("ALTER TYPE mood RENAME VALUE 'ok' TO 'fine'");
    assert_eq!((backend.one::<String>(moods), backend.stat("hits")), ("fine{sad}".to_owned(), 1));
}

#[test]
fn columns_that_have_changed_meanwhile_are_read_anew() {
    let world = world();
    let (mut writer, mut reader) = (world.backend(), world.backend());
    let value = |of: &str| format!("SELECT shared_lru.fetch('c', 'SELECT max(v) FROM t', NULL::{of})::text");
    let rows = |of: &str| format!("SELECT v::text FROM shared_lru.query('c', 'SELECT v FROM t') AS r (v {of})");
    for call in [value("int"), rows("int")] {
        assert_eq!(reader.one::<String>(&call), "1");
    }
    writer.run("ALTER TABLE t ALTER v TYPE text USING 'text ' || v");
    for call in [value("text"), rows("text")] {
        for _ in 0..2 {
            assert_eq!(reader.one::<String>(&call), "text 1");
        }
    }
    assert_eq!(reader.stat("served_unchecked"), 2);
    for call in [value("int"), rows("int")] {
        reader.refused(&call).is("22023", &["is of type text, the call says integer"]);
    }
}

#[test]
fn a_right_that_is_taken_away_acts_when_the_time_is_over() {
    let world = world();
    let mut admin = world.backend();
    admin.run(
        "CREATE ROLE alice LOGIN; CREATE ROLE bob LOGIN; GRANT USAGE ON SCHEMA shared_lru TO alice, bob;
         GRANT EXECUTE ON FUNCTION shared_lru.fetch(text, text, anyelement), shared_lru.fetch_with(text, interval, text[], interval, text, anyelement)
            TO alice, bob;
         SELECT shared_lru.grant_cache('c', 'public', 'read'), shared_lru.grant_cache('c', 'public', 'write');
         GRANT SELECT ON t TO alice",
    );
    let (mut alice, mut bob) = (world.backend_as("alice"), world.backend_as("bob"));
    assert_eq!((count(&mut alice), count_with(&mut alice, "'0.3 s'", "NULL")), (1, 1));
    bob.refused(&format!("SELECT shared_lru.fetch('c', '{COUNT}', NULL::bigint)")).is("42501", &["table t"]);
    admin.run("REVOKE SELECT ON t FROM alice");
    assert_eq!(count(&mut alice), 1);
    let short = format!("SELECT shared_lru.fetch_with('c', '0.3 s', NULL, NULL, '{COUNT}', NULL::bigint)");
    wait_until("the short one has expired", || alice.client.query_one(&short, &[]).is_err());
    alice.refused(&short).is("42501", &["table t"]);
}

#[test]
fn where_the_rings_are_on_nothing_goes_by_its_age() {
    let world = world();
    let (mut writer, mut reader) = (world.backend(), world.backend());
    assert_eq!(count(&mut reader), 1);
    writer.run("INSERT INTO t VALUES (1)");
    assert_eq!(count(&mut reader), 1);
    // From the moment on at which it is to be on, though it has to wait for who has not seen that.
    let mut running = world.backend();
    running.run("BEGIN; CREATE TABLE u (v int)");
    switch(&mut writer, "on");
    wait_until("the reader knows", || reader.one::<String>("SHOW pg_shared_lru.query_cache") == "on");
    assert!(!is_on(&mut reader));
    assert_eq!(count(&mut reader), 2);
    running.run("COMMIT");
    wait_until("it is on", || is_on(&mut reader));
    let is_current = "SELECT is_current FROM shared_lru.query_entries";
    assert!(!reader.one::<bool>(is_current));
    let unchecked = reader.stat("served_unchecked");
    for rows in 2..5 {
        assert_eq!((count(&mut writer), count(&mut reader), count(&mut reader)), (rows, rows, rows));
        assert!(reader.one::<bool>(is_current));
        writer.run("INSERT INTO t VALUES (1)");
    }
    assert_eq!((reader.stat("served_unchecked"), reader.stat("hits")), (unchecked, 1 + 6));
    // A prepared change of a definition turns it off for a while, which is no reason to go by the age.
    assert_eq!(count(&mut reader), 5);
    writer.run("BEGIN; CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'");
    writer.run("PREPARE TRANSACTION 'p'");
    assert!(!is_on(&mut reader));
    writer.run("INSERT INTO t VALUES (1)");
    assert_eq!(count(&mut reader), 6);
    writer.run("ROLLBACK PREPARED 'p'");
    wait_until("it is on", || is_on(&mut reader));
    assert_eq!((count(&mut reader), count(&mut reader)), (6, 6));
    // Off: what was checked is not served, but replaced.
    switch(&mut writer, "off");
    wait_until("it is off", || !is_on(&mut reader) && reader.one::<String>("SHOW pg_shared_lru.query_cache") == "off");
    writer.run("INSERT INTO t VALUES (1)");
    assert_eq!(count(&mut reader), 7);
    writer.run("INSERT INTO t VALUES (1)");
    assert_eq!((count(&mut reader), reader.stat("served_unchecked")), (7, unchecked + 1));
    // A result that goes by its age does not outlive the server.
    writer.run("SELECT shared_lru.alter_cache('c', persist => true)");
    writer.run("SELECT shared_lru.clear('c')");
    writer.put(b"k", b"a value does");
    assert_eq!(count(&mut reader), 8);
    writer.run("INSERT INTO t VALUES (1)");
    assert_eq!(count(&mut reader), 8);
    world.cluster.restart(StopMode::Fast).expect("it starts again");
    let mut reader = world.backend();
    assert_eq!((count(&mut reader), reader.get(b"k").as_deref()), (9, Some(&b"a value does"[..])));
}

#[test]
fn tags_act_as_ever() {
    let world = world();
    let (mut writer, mut reader) = (world.backend(), world.backend());
    let tagged = |backend: &mut Backend| count_with(backend, "NULL", "'{a,b}'");
    assert_eq!(tagged(&mut reader), 1);
    writer.run("INSERT INTO t VALUES (2)");
    writer.run("BEGIN; SELECT shared_lru.invalidate_tag('c', 'a')");
    assert_eq!((tagged(&mut writer), tagged(&mut reader)), (2, 1));
    writer.run("ROLLBACK");
    assert_eq!((tagged(&mut writer), tagged(&mut reader)), (1, 1));
    writer.run("SELECT shared_lru.invalidate_tag('c', 'b')");
    assert_eq!((tagged(&mut writer), tagged(&mut reader)), (2, 2));
    writer.run("INSERT INTO t VALUES (2)");
    writer.run("SELECT shared_lru.invalidate_tag('c', 'z')");
    assert_eq!(tagged(&mut reader), 2);
    writer.run("SELECT shared_lru.invalidate_all('c')");
    assert_eq!(tagged(&mut reader), 3);
    // One that is made meanwhile.
    writer.run(WAITS);
    let call = "SELECT shared_lru.fetch_with('c', NULL, '{a}', NULL, 'SELECT max(waits(v)) FROM t', NULL::int)";
    let fills = "SELECT coalesce(sum(fills), 0)::bigint FROM shared_lru.query_entries WHERE query LIKE '%waits%'";
    for (meanwhile, kept) in [
        ("SELECT shared_lru.invalidate_tag('c', 'a')", 0),
        ("SELECT shared_lru.clear('c')", 0),
        ("SELECT shared_lru.invalidate_tag('c', 'z')", 1),
    ] {
        assert_eq!(while_it_runs(&world, call, |other| other.run(meanwhile)), 2);
        assert_eq!(writer.one::<i64>(fills), kept, "{meanwhile}");
    }
}

#[test]
fn what_was_made_for_a_cache_is_not_stored_in_the_next_one_of_its_name() {
    let world = world();
    let mut admin = world.backend();
    admin.run(WAITS);
    let anew = "SELECT shared_lru.drop_cache('c');
        SELECT shared_lru.create_cache('c', ttl => '1 hour', accept_unchecked => true)";
    let query = "SELECT max(waits(v)) FROM t";
    for call in [
        &format!("SELECT shared_lru.fetch_with('c', NULL, '{{x}}', NULL, '{query}', NULL::int)"),
        &format!("/* shared_lru: c */ {query}"),
    ] {
        assert_eq!(while_it_runs(&world, call, |other| other.run(anew)), 1);
        // Nothing would end it: its tags are of the cache that is gone.
        admin.run("SELECT shared_lru.invalidate_tag('c', 'x')");
        assert_eq!(admin.one::<i64>("SELECT count(*) FROM shared_lru.entries('c')"), 0, "{call}");
        assert_eq!(refusals(&mut admin, "not_stored"), 1, "{call}");
    }
}

#[test]
fn of_many_who_miss_one_makes_it() {
    let world = world();
    let mut admin = world.backend();
    admin.run(WAITS);
    let call = "SELECT shared_lru.fetch('c', 'SELECT max(waits(v)) FROM t', NULL::int)";
    let marked = "/* shared_lru: c */ SELECT max(waits(v)) FROM t";
    for (query, inserts) in [(call, 1), (marked, 2)] {
        thread::scope(|scope| {
            let mut waiting = Vec::new();
            let made = while_it_runs(&world, query, |other| {
                waiting.extend((0..3).map(|_| {
                    let mut backend = world.backend();
                    scope.spawn(move || backend.one::<i32>(query))
                }));
                let waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid <> 7 AND NOT granted";
                wait_until("the others wait", || other.one::<i64>(waits) == 3);
            });
            assert_eq!(made, 1);
            waiting.into_iter().for_each(|call| assert_eq!(call.join().expect("it ends"), 1));
        });
        assert_eq!((admin.stat("inserts"), admin.stat("served_unchecked")), (inserts, 3 * inserts), "{query}");
    }
}

#[test]
fn a_marked_statement_says_that_it_goes_by_its_age() {
    let world = world();
    let (mut writer, mut reader) = (world.backend(), world.backend());
    let shows = |shown: String, expected: &str| assert!(shown.contains(&format!("Result: {expected}")), "{shown}");
    shows(explained(&mut reader, COUNT), "miss, stored unchecked");
    writer.run("INSERT INTO t VALUES (2)");
    shows(explained(&mut reader, COUNT), "hit, unchecked");
    assert_eq!(reader.one::<i64>(&format!("/* shared_lru: c */ {COUNT}")), 1);
    // A prepared plan, whose definitions change.
    reader.run("/* shared_lru: c */ PREPARE p AS SELECT max(v) FROM t");
    assert_eq!(reader.one::<i32>("EXECUTE p"), 2);
    writer.run("ALTER TABLE t SET (fillfactor = 50); UPDATE t SET v = 3");
    assert_eq!(reader.one::<i32>("EXECUTE p"), 2);
    writer.run("CREATE TYPE pair AS (a int, b int)");
    shows(explained(&mut reader, "SELECT (v, v)::pair FROM t"), "miss, not stored: column 1 is of type pair");
    writer.run("BEGIN; INSERT INTO t VALUES (4)");
    shows(explained(&mut writer, COUNT), "miss, not stored: the transaction has written");
    writer.run("ROLLBACK");
    writer.run("SELECT shared_lru.alter_cache('c', accept_unchecked => false)");
    shows(explained(&mut reader, COUNT), "miss, not stored: the query cache is off");
    writer.run("SELECT shared_lru.alter_cache('c', accept_unchecked => true)");
    // A cursor that is switched in its middle.
    let off = refusals(&mut writer, "off");
    reader.run("/* shared_lru: c */ BEGIN; DECLARE k CURSOR FOR SELECT v FROM t; FETCH 1 FROM k");
    switch(&mut writer, "on");
    wait_until("it is on", || is_on(&mut writer));
    reader.run("FETCH ALL FROM k");
    reader.run("COMMIT");
    assert_eq!(refusals(&mut writer, "off"), off + 1);
    wait_until("the reader knows", || reader.one::<String>("SHOW pg_shared_lru.query_cache") == "on");
    for expected in ["miss, stored", "hit"] {
        let shown = explained(&mut reader, COUNT);
        assert!(shown.lines().any(|line| line.trim() == format!("Result: {expected}")), "{shown}");
    }
}

#[test]
fn a_standby_serves_what_is_as_old_as_the_ttl_and_is_exact_once_it_is_promoted() {
    let world = World::with(&[
        ("pg_shared_lru.query_cache", "on"),
        ("pg_shared_lru.naptime", "1s"),
        ("wal_level", "replica"),
        ("max_wal_senders", "4"),
    ]);
    let mut primary = world.backend();
    prepare(&mut primary);
    primary.run("SELECT shared_lru.create_cache('exact', pg_size_bytes('4MB'), ttl => '1 hour')");
    wait_until("writers publish", || is_on(&mut primary));
    let standby = World { cluster: world.cluster.standby().expect("a standby starts") };
    let (mut first, mut second) = (standby.backend(), standby.backend());
    let arrives = |backend: &mut Backend, rows: i64| {
        wait_until("the change has arrived", || backend.one::<i64>(COUNT) == rows);
    };
    assert_eq!((count(&mut primary), count(&mut first)), (1, 1));
    primary.run("INSERT INTO t VALUES (2)");
    arrives(&mut second, 2);
    assert_eq!((count(&mut second), count(&mut primary)), (1, 2));
    assert_eq!((second.stat("hits"), second.stat("served_unchecked")), (1, 1));
    // As long as a call says, and for ever is none.
    assert_eq!(count_with(&mut first, "'0.3 s'", "NULL"), 2);
    primary.run("INSERT INTO t VALUES (3)");
    wait_until("the change has arrived, and the old one expired", || count_with(&mut second, "'0.3 s'", "NULL") == 3);
    arrives(&mut second, 3);
    assert_eq!((count_with(&mut second, "'0'", "NULL"), count(&mut second)), (3, 1));
    // Nobody tells a standby of tags.
    for rows in [3, 4] {
        arrives(&mut first, rows);
        assert_eq!(count_with(&mut first, "NULL", "'{a}'"), rows);
        primary.run("INSERT INTO t VALUES (4)");
    }
    // Nor does another cache take it.
    arrives(&mut first, 5);
    let exact = format!("SELECT shared_lru.fetch('exact', '{COUNT}', NULL::bigint)");
    assert_eq!((first.one::<i64>(&exact), refusals(&mut first, "off")), (5, 4));
    first.run("BEGIN ISOLATION LEVEL REPEATABLE READ");
    assert_eq!(count(&mut first), 1);
    first.run("COMMIT");
    for expected in ["miss, stored unchecked", "hit, unchecked"] {
        let shown = explained(&mut first, COUNT);
        assert!(shown.contains(expected), "{shown}");
    }
    first.run("SELECT shared_lru.clear('c')");
    assert_eq!((count(&mut first), count(&mut second)), (5, 5));
    primary.run("INSERT INTO t VALUES (5)");
    arrives(&mut second, 6);
    let unchecked = second.stat("served_unchecked");
    // Exact from the first statement on, though its writers do not publish yet.
    standby.cluster.promote().expect("it was a standby");
    assert_eq!((count(&mut first), count(&mut second)), (6, 6));
    for rows in 7..9 {
        first.run("INSERT INTO t VALUES (6)");
        assert_eq!((count(&mut second), count(&mut first)), (rows, rows));
    }
    wait_until("writers of the promoted server publish", || is_on(&mut second));
    for rows in 9..11 {
        first.run("INSERT INTO t VALUES (6)");
        assert_eq!((count(&mut second), count(&mut first), count(&mut second)), (rows, rows, rows));
    }
    assert_eq!(second.stat("served_unchecked"), unchecked);
    second.validate();
}

#[test]
fn without_a_preload_results_go_by_their_age() {
    if !has_dsm_registry() {
        return; // `lifecycle`
    }
    let world = World { cluster: Cluster::start(&[]).expect("a server starts") };
    let (mut writer, mut reader) = (world.backend(), world.backend());
    writer.run("CREATE EXTENSION pg_shared_lru");
    prepare(&mut writer);
    assert_eq!(count(&mut reader), 1);
    writer.run("INSERT INTO t VALUES (2)");
    assert_eq!((count(&mut writer), count(&mut world.backend())), (1, 1));
    assert_eq!(count_with(&mut reader, "'0.3 s'", "NULL"), 2);
    writer.run("INSERT INTO t VALUES (3)");
    wait_until("the short one has expired", || count_with(&mut reader, "'0.3 s'", "NULL") == 3);
    assert_eq!(count_with(&mut reader, "NULL", "'{a}'"), 3);
    writer.run("INSERT INTO t VALUES (3)");
    assert_eq!(count_with(&mut reader, "NULL", "'{a}'"), 3);
    writer.run("SELECT shared_lru.invalidate_tag('c', 'a')");
    assert_eq!(count_with(&mut reader, "NULL", "'{a}'"), 4);
    // Who has written; and a function that reads, in a session that has not used the library before.
    writer.run("BEGIN; INSERT INTO t VALUES (3)");
    assert_eq!(count(&mut writer), 5);
    writer.run("ROLLBACK");
    writer.run(
        "CREATE FUNCTION reads() RETURNS bigint IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT count(*) FROM t); END'",
    );
    let reads = "SELECT shared_lru.fetch('c', 'SELECT reads() FROM t LIMIT 1', NULL::bigint)";
    for rows in [4, 5] {
        assert_eq!(world.backend().one::<i64>(reads), rows);
        writer.run("INSERT INTO t VALUES (3)");
    }
    assert_eq!(refusals(&mut writer, "runs_queries"), 2);
    writer.validate();
}
