//! Results of queries are what the queries would return: always, for whoever asks, whatever others do.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use rand::prelude::*;

use checker::{Checked, READS, READS_VARIABLE, SEED_VARIABLE, check, from_environment};

use crate::cluster::StopMode;
use crate::world::{Backend, World, wait_until};

#[path = "queries/checker.rs"]
pub mod checker;
#[path = "queries/outside.rs"]
mod outside;
#[path = "queries/readers.rs"]
mod readers;
#[path = "queries/restarts.rs"]
mod restarts;
#[path = "queries/writers.rs"]
mod writers;

/// A server with the query cache on, and a cache `c`.
pub fn world() -> World {
    world_with(&[])
}

fn world_with(settings: &[(&str, &str)]) -> World {
    let mut all = settings.to_vec();
    all.extend([
        ("pg_shared_lru.query_cache", "on"),
        ("max_prepared_transactions", "16"),
        // After a prepared change of definitions the worker turns it on again.
        ("pg_shared_lru.naptime", "1s"),
    ]);
    let world = World::with(&all);
    let mut backend = world.backend();
    backend.run("SELECT shared_lru.create_cache('c')");
    wait_until("writers publish", || backend.one("SELECT EXISTS (SELECT FROM shared_lru.changes('pg_class'))"));
    world
}

/// How often the cache has been looked at with success so far.
pub fn hits(backend: &mut Backend) -> i64 {
    backend.stat("hits")
}

/// Runs a call that must be served from the cache.
#[track_caller]
fn is_hit(backend: &mut Backend, call: &str) {
    let before = hits(backend);
    backend.run(call);
    assert_eq!(hits(backend), before + 1, "not served: {call}");
}

#[test]
fn a_value_is_kept_until_its_rows_change() {
    let world = world();
    let (mut writer, mut reader) = (world.backend(), world.backend());
    writer.run("CREATE TABLE t (id int, v numeric); INSERT INTO t SELECT n, n FROM generate_series(1, 10) AS n");
    let sum = |backend: &mut Backend| -> String {
        backend.one("SELECT shared_lru.fetch('c', 'SELECT sum(v) FROM t WHERE id > $1', NULL::numeric, 5)::text")
    };
    assert_eq!(sum(&mut writer), "40");
    let before = hits(&mut reader);
    assert_eq!((sum(&mut reader), sum(&mut writer)), ("40".to_owned(), "40".to_owned()));
    assert_eq!(hits(&mut reader), before + 2);
    for (change, after) in [
        ("UPDATE t SET v = 100 WHERE id = 10", "130"),
        ("DELETE FROM t WHERE id = 9", "121"),
        ("COPY t FROM PROGRAM 'echo 11,1' WITH (FORMAT csv)", "122"),
        ("BEGIN; INSERT INTO t VALUES (12, 1); PREPARE TRANSACTION 'p'", "122"),
        ("COMMIT PREPARED 'p'", "123"),
        ("ALTER TABLE t ALTER v TYPE numeric USING v + 1", "129"),
        ("TRUNCATE t; INSERT INTO t VALUES (6, 7)", "7"),
        ("DROP TABLE t; CREATE TABLE t AS SELECT 6 AS id, 8.5 AS v", "8.5"),
    ] {
        for statement in change.split("; ") {
            writer.run(statement);
        }
        assert_eq!(sum(&mut reader), after, "{change}");
        assert_eq!(sum(&mut writer), after, "{change}");
    }
    is_hit(&mut reader, "SELECT shared_lru.fetch('c', 'SELECT sum(v) FROM t WHERE id > $1', NULL::numeric, 5)");
    writer.validate();
}

#[test]
fn rows_are_kept_with_their_types() {
    let world = world();
    let mut backend = world.backend();
    backend.run(
        "CREATE TYPE pair AS (a int, b text);
         CREATE TABLE t (i int, t text, n numeric, a text[], p pair, j jsonb, big text);
         INSERT INTO t VALUES (1, 'one', 1.50, '{a,NULL}', '(1,x)', '{\"k\": 1}', repeat('x', 300000)), (2, NULL, 'NaN', '{}', NULL, 'null', ''),
             (3, '', -1, NULL, '(,)', '[]', repeat('abc', 5000))",
    );
    let query = "SELECT * FROM t ORDER BY i";
    let direct: Vec<String> = backend.all(&format!("SELECT md5(row::text) FROM ({query}) AS row"));
    let columns = "(i int, t text, n numeric, a text[], p pair, j jsonb, big text)";
    let call = format!("SELECT md5(row::text) FROM shared_lru.query('c', '{query}') AS row {columns}");
    let before = hits(&mut backend);
    for _ in 0..3 {
        assert_eq!(backend.all::<String>(&call), direct);
    }
    assert_eq!(hits(&mut backend), before + 2);
    // Nothing of the table is needed any more.
    backend.run("BEGIN; LOCK TABLE t");
    assert_eq!(world.backend().all::<String>(&call), direct);
    backend.run("COMMIT");
    backend
        .refused("SELECT * FROM shared_lru.query('c', 'SELECT 1::int') AS t (i bigint)")
        .is("22023", &["column 1", "integer", "bigint"]);
    backend
        .refused("SELECT * FROM shared_lru.query('c', 'SELECT 1') AS t (i int, j int)")
        .is("22023", &["1 columns", "2"]);
    backend.refused("SELECT shared_lru.fetch('c', 'SELECT i FROM t', NULL::int)").is("22023", &["more than one row"]);
    backend.refused("SELECT shared_lru.fetch('c', 'DELETE FROM t', NULL::int)").is("22023", &["one SELECT"]);
    assert_eq!(
        backend.one::<Option<i32>>("SELECT shared_lru.fetch('c', 'SELECT i FROM t WHERE false', NULL::int)"),
        None
    );
    assert_eq!(backend.one::<Option<i32>>("SELECT shared_lru.fetch('c', 'SELECT NULL::int', NULL::int)"), None);
}

#[test]
fn a_value_from_the_cache_is_the_querys_whatever_its_type() {
    let world = world();
    let mut backend = world.backend();
    let columns = [
        ("boolean", "true"),
        ("\"char\"", "'x'"),
        ("smallint", "-5"),
        ("int", "-70000"),
        ("bigint", "-5000000000"),
        ("real", "-1.5"),
        ("double precision", "2.25"),
        ("date", "'1999-12-31'"),
        ("timestamptz", "'2024-01-01 00:00:01.5Z'"),
        ("oid", "4000000000"),
        ("uuid", "'00112233-4455-6677-8899-aabbccddeeff'"),
        ("name", "'a name'"),
        ("text", "''"),
        ("text", "'short'"),
        ("text", "repeat('long', 5000)"),
        ("numeric", "-1.50"),
        ("int[]", "'{1,NULL,3}'"),
        ("interval", "'1 day 2 hours'"),
        ("pair", "'(1,x)'"),
        ("small", "7"),
    ];
    backend.run("CREATE TYPE pair AS (a int, b text); CREATE DOMAIN small AS smallint CHECK (VALUE < 100)");
    for (at, (of, value)) in columns.iter().enumerate() {
        backend.run(&format!("CREATE TABLE t{at} (v {of}); INSERT INTO t{at} VALUES ({value})"));
        let call = format!(
            "SELECT count(*) FROM generate_series(1, 3) AS n
              WHERE (SELECT v FROM t{at})::text = shared_lru.fetch('c', 'SELECT v FROM t{at} WHERE $1 > 0', NULL::{of}, n)::text"
        );
        let before = hits(&mut backend);
        for _ in 0..2 {
            assert_eq!(backend.one::<i64>(&call), 3, "{of}: {value}");
        }
        assert_eq!(hits(&mut backend), before + 3, "{of}: {value}");
        backend.run(&format!("UPDATE t{at} SET v = NULL"));
        let is_null = format!("SELECT shared_lru.fetch('c', 'SELECT v FROM t{at}', NULL::{of}) IS NULL");
        assert!(backend.one::<bool>(&is_null) && backend.one::<bool>(&is_null), "{of}");
    }
}

#[test]
fn what_does_not_follow_from_rows_and_key_is_not_kept_and_says_why() {
    let world = world();
    let mut backend = world.backend();
    backend.run(
        "CREATE TABLE t (id int, at timestamptz, r regclass);
         CREATE TEMPORARY TABLE tt (id int);
         CREATE SEQUENCE s;
         CREATE FUNCTION reads() RETURNS bigint IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT count(*) FROM t); END';
         CREATE FUNCTION stable() RETURNS int STABLE LANGUAGE sql AS 'SELECT 1';
         CREATE FUNCTION good(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN $1 + 1; END';
         CREATE VIEW v AS SELECT id, now() AS at FROM t",
    );
    for (query, why) in [
        ("SELECT random()", "random is VOLATILE"),
        ("SELECT now()", "now is STABLE"),
        ("SELECT * FROM v", "now is STABLE"),
        ("SELECT current_date", "clock"),
        ("SELECT ''now''::text::timestamptz", "timestamptz_in is STABLE"),
        ("SELECT session_user", "SESSION_USER"),
        ("SELECT nextval(''s'')", "sequence"),
        ("SELECT last_value FROM s", "is a sequence"),
        ("SELECT ctid FROM t", "system column"),
        ("SELECT id FROM t FOR UPDATE", "locks rows"),
        ("WITH w AS (INSERT INTO t VALUES (1) RETURNING id) SELECT * FROM w", "changes rows"),
        ("SELECT * FROM t TABLESAMPLE SYSTEM (50)", "sample"),
        ("SELECT id FROM tt", "tt is temporary"),
        ("SELECT relname FROM pg_class", "catalogs"),
        ("SELECT r::text FROM t", "regclassout is STABLE"),
        ("SELECT to_jsonb(t) FROM t", "type t depends on names"),
        ("SELECT reads()", "runs queries"),
        ("SELECT stable()", "stable is STABLE"),
        ("SELECT timestamptz ''now''", "the time at which it is read"),
        ("SELECT count(*) FROM t WHERE at > ''Yesterday''", "the time at which it is read"),
        ("SELECT * FROM (SELECT E''{n\\157w}''::date[]) AS s", "the time at which it is read"),
        ("SELECT $$[today,)$$::daterange", "the time at which it is read"),
    ] {
        let row = backend.client.query_one(&format!("SELECT * FROM shared_lru.explain_query('{query}')"), &[]).unwrap();
        let reason: Option<String> = row.get("reason");
        assert!(
            !row.get::<_, bool>("cacheable") && reason.as_deref().is_some_and(|reason| reason.contains(why)),
            "{query}: {reason:?}"
        );
    }
    for query in [
        "SELECT good(id) FROM t",
        "SELECT count(*), max(at) FROM t WHERE at > timestamp ''2024-01-01''",
        "SELECT to_char(at, ''YYYY''), concat(id, at), id || ''-'' || at FROM t",
        "SELECT tableoid FROM t",
        "SELECT current_user",
        "SELECT ''now'', ''[\"known\"]''::jsonb, ''{now}''::text[], count(*) FROM t WHERE at > ''2024-01-01'' AND id < 5",
        "SELECT jsonb_agg(id) FROM t GROUP BY id HAVING count(*) > 1 ORDER BY 1",
        "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 5) SELECT sum(n) FROM r",
        "SELECT row_number() OVER (ORDER BY id), sum(id) OVER w FROM t WINDOW w AS (PARTITION BY id % 2)",
    ] {
        let row = backend.client.query_one(&format!("SELECT * FROM shared_lru.explain_query('{query}')"), &[]).unwrap();
        assert!(row.get::<_, bool>("cacheable"), "{query}: {:?}", row.get::<_, Option<String>>("reason"));
    }
    let depends: Vec<String> =
        backend.one("SELECT depends_on FROM shared_lru.explain_query('SELECT * FROM t WHERE id = $1', '{int}')");
    assert_eq!(depends, ["public.t"]);
    // A function that reads while the query runs, and not while it is planned.
    backend.run("CREATE FUNCTION reads(int) RETURNS bigint IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT count(*) FROM t); END'");
    let count =
        "SELECT shared_lru.fetch('c', 'SELECT sum(reads(id)) FROM (VALUES (1), (2)) AS v (id)', NULL::numeric)::int";
    assert_eq!(backend.one::<i32>(count), 0);
    backend.run("INSERT INTO t VALUES (1)");
    assert_eq!(backend.one::<i32>(count), 2);
}

#[test]
fn roles_settings_and_names_have_results_of_their_own() {
    let world = world();
    let mut admin = world.backend();
    admin.run(
        "CREATE ROLE alice LOGIN; CREATE ROLE bob LOGIN;
         GRANT USAGE ON SCHEMA shared_lru TO PUBLIC; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA shared_lru TO PUBLIC;
         SELECT shared_lru.grant_cache('c', 'public', 'read'), shared_lru.grant_cache('c', 'public', 'write');
         CREATE TABLE t (owner text, at timestamptz);
         INSERT INTO t VALUES ('alice', '2024-01-01 00:00Z'), ('bob', '2024-01-01 00:00Z'), ('bob', '2024-01-01 00:00Z');
         ALTER TABLE t ENABLE ROW LEVEL SECURITY;
         CREATE POLICY own ON t USING (owner = current_user);
         GRANT SELECT ON t TO alice, bob",
    );
    let (mut alice, mut bob) = (world.backend_as("alice"), world.backend_as("bob"));
    let count = "SELECT shared_lru.fetch('c', 'SELECT count(*) FROM t', NULL::bigint)";
    for _ in 0..2 {
        assert_eq!(admin.one::<i64>(count), 3);
        assert_eq!(alice.one::<i64>(count), 1);
        assert_eq!(bob.one::<i64>(count), 2);
    }
    admin.run("SET ROLE alice");
    assert_eq!(admin.one::<i64>(count), 1);
    admin.run("RESET ROLE; DROP POLICY own ON t");
    assert_eq!(bob.one::<i64>(count), 0);
    admin.run("REVOKE SELECT ON t FROM bob");
    bob.refused(count).is("42501", &["t"]);
    admin.run("ALTER TABLE t DISABLE ROW LEVEL SECURITY; GRANT SELECT ON t TO bob; REVOKE alice FROM bob");
    assert_eq!(bob.one::<i64>(count), 3);
    // Settings that change what is shown or meant.
    let shown = "SELECT shared_lru.fetch('c', 'SELECT min(at)::text FROM t', NULL::text)";
    let zone = |backend: &mut Backend, zone: &str| -> String {
        backend.run(&format!("SET timezone = '{zone}'"));
        backend.one(shown)
    };
    for _ in 0..2 {
        assert_eq!(zone(&mut admin, "UTC"), "2024-01-01 00:00:00+00");
        assert_eq!(zone(&mut admin, "Asia/Tokyo"), "2024-01-01 09:00:00+09");
    }
    // One on which even an IMMUTABLE function depends.
    let quoted = "SELECT shared_lru.fetch('c', 'SELECT quote_ident(min(owner)) FROM t', NULL::text)";
    for _ in 0..2 {
        for (all, text) in [("off", "alice"), ("on", "\"alice\"")] {
            admin.run(&format!("SET quote_all_identifiers = {all}"));
            assert_eq!(admin.one::<String>(quoted), text);
        }
    }
    // And one by which a literal is read.
    let noon = "SELECT shared_lru.fetch('c', 'SELECT (timestamptz ''2024-01-01 12:00 EST'')::text', NULL::text)";
    admin.run("SET timezone = 'UTC'");
    for _ in 0..2 {
        for (set, text) in [("Default", "2024-01-01 17:00:00+00"), ("Australia", "2024-01-01 02:00:00+00")] {
            admin.run(&format!("SET timezone_abbreviations = '{set}'"));
            assert_eq!(admin.one::<String>(noon), text);
        }
    }
    admin.run("RESET quote_all_identifiers; RESET timezone_abbreviations");
    // A table of that name comes into an earlier schema.
    let sum = "SELECT shared_lru.fetch('c', 'SELECT sum(id) FROM named', NULL::bigint)";
    let mut other = world.backend();
    other.run("CREATE SCHEMA early; SET search_path = early, public; CREATE TABLE public.named AS SELECT 1 AS id");
    assert_eq!(other.one::<i64>(sum), 1);
    admin.run("CREATE TABLE early.named AS SELECT 2 AS id");
    assert_eq!(other.one::<i64>(sum), 2);
    admin.run("DROP TABLE early.named");
    assert_eq!(other.one::<i64>(sum), 1);
    other.run("CREATE TEMPORARY TABLE named AS SELECT 3 AS id");
    assert_eq!(other.one::<i64>(sum), 3);
    other.run("DROP TABLE pg_temp.named");
    assert_eq!(other.one::<i64>(sum), 1);
    // And a function.
    admin.run("CREATE FUNCTION f() RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 1'");
    let call = "SELECT shared_lru.fetch('c', 'SELECT f()', NULL::int)";
    assert_eq!(other.one::<i32>(call), 1);
    is_hit(&mut other, call);
    admin.run("CREATE OR REPLACE FUNCTION f() RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 2'");
    assert_eq!(other.one::<i32>(call), 2);
}

#[test]
fn a_transaction_sees_what_its_snapshot_sees() {
    let world = world();
    let (mut writer, mut old, mut new) = (world.backend(), world.backend(), world.backend());
    writer.run("CREATE TABLE t AS SELECT 1 AS v");
    let value =
        |backend: &mut Backend| -> i32 { backend.one("SELECT shared_lru.fetch('c', 'SELECT v FROM t', NULL::int)") };
    old.run("BEGIN ISOLATION LEVEL REPEATABLE READ");
    assert_eq!(value(&mut old), 1);
    writer.run("BEGIN; UPDATE t SET v = 2");
    assert_eq!(value(&mut writer), 2, "its own");
    assert_eq!((value(&mut old), value(&mut new)), (1, 1));
    writer.run("COMMIT");
    assert_eq!((value(&mut new), value(&mut old), value(&mut new)), (2, 1, 2));
    old.run("COMMIT");
    assert_eq!(value(&mut old), 2);
    for level in ["SERIALIZABLE", "SERIALIZABLE READ ONLY DEFERRABLE"] {
        old.run(&format!("BEGIN ISOLATION LEVEL {level}"));
        assert_eq!(value(&mut old), 2);
        old.run("COMMIT");
    }
    // Cleared, and off.
    writer.run("SELECT shared_lru.clear('c')");
    assert_eq!(value(&mut new), 2);
    writer.run("ALTER SYSTEM SET pg_shared_lru.query_cache = off");
    writer.run("SELECT pg_reload_conf()");
    wait_until("writers publish no more", || writer.one("SELECT NOT EXISTS (SELECT FROM shared_lru.changes('t'))"));
    writer.run("UPDATE t SET v = 3");
    assert_eq!((value(&mut new), value(&mut old)), (3, 3));
}

#[test]
fn a_transaction_reads_from_the_cache_what_it_has_not_written() {
    let world = world();
    let (mut writer, mut other) = (world.backend(), world.backend());
    writer.run(
        "CREATE TABLE t AS SELECT 1 AS v; CREATE TABLE u AS SELECT 10 AS v; CREATE TABLE w AS SELECT 100 AS v;
         CREATE TABLE parted (k int, v int) PARTITION BY LIST (k);
         CREATE TABLE one PARTITION OF parted FOR VALUES IN (1);
         CREATE TABLE two PARTITION OF parted FOR VALUES IN (2);
         INSERT INTO parted VALUES (1, 7);
         CREATE SCHEMA early; SET search_path = early, public, pg_temp; CREATE TEMPORARY TABLE own AS SELECT 1 AS v",
    );
    let call = |of: &str| format!("SELECT shared_lru.fetch('c', 'SELECT sum(v)::int FROM {of}', NULL::int)");
    let value = |backend: &mut Backend, of: &str| -> i32 { backend.one(&call(of)) };
    // What is served needs no lock on its table.
    let mut is_served = |backend: &mut Backend, of: &str, sum: i32| {
        other.run(&format!("BEGIN; LOCK TABLE {of}"));
        backend.run("SET LOCAL lock_timeout = '5s'");
        assert_eq!(value(backend, of), sum);
        backend.run("SET LOCAL lock_timeout = 0");
        other.run("ROLLBACK");
    };
    let tables = [("t", 1), ("u", 10), ("w", 100), ("one", 7), ("two", 0)];
    writer.run("INSERT INTO two VALUES (2, 0)");
    tables.iter().for_each(|(table, sum)| assert_eq!(value(&mut writer, table), *sum));

    writer.run("BEGIN; UPDATE u SET v = 11");
    is_served(&mut writer, "t", 1);
    assert_eq!(value(&mut writer, "u"), 11);
    writer.run("UPDATE t SET v = 2");
    assert_eq!(value(&mut writer, "t"), 2);
    is_served(&mut writer, "w", 100);
    writer.run("ROLLBACK; BEGIN; INSERT INTO parted VALUES (2, 5); INSERT INTO own VALUES (2)");
    assert_eq!(value(&mut writer, "two"), 5);
    is_served(&mut writer, "one", 7);
    writer.run("ROLLBACK");
    // Savepoints.
    writer.run("BEGIN; UPDATE u SET v = 11; SAVEPOINT s; UPDATE t SET v = 2");
    assert_eq!((value(&mut writer, "t"), value(&mut writer, "w")), (2, 100));
    writer.run("ROLLBACK TO s; RELEASE s");
    is_served(&mut writer, "t", 1);
    writer.run("SAVEPOINT s; UPDATE t SET v = 2; ROLLBACK TO s");
    assert_eq!((value(&mut writer, "t"), value(&mut writer, "u")), (1, 11));
    writer.run("RELEASE s; SAVEPOINT s; UPDATE t SET v = 3; RELEASE s");
    assert_eq!((value(&mut writer, "t"), value(&mut writer, "u")), (3, 11));
    writer.run("ROLLBACK");
    // Definitions: names, views, functions; and their end.
    writer.run(
        "CREATE VIEW view AS SELECT v FROM w;
         CREATE FUNCTION f(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1'; CREATE VIEW called AS SELECT f(v) AS v FROM w",
    );
    for (change, changed, after) in [
        ("CREATE TABLE early.t AS SELECT 5 AS v", "t", 5),
        ("CREATE OR REPLACE VIEW view AS SELECT v + 1 AS v FROM w", "view", 101),
        ("CREATE OR REPLACE FUNCTION f(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT -$1'", "called", -100),
        ("TRUNCATE w", "coalesce(sum(v), 0) AS v FROM w) AS s", 0),
    ] {
        let changed = if changed.contains(' ') { format!("(SELECT {changed}") } else { changed.to_owned() };
        let before = value(&mut writer, &changed);
        for _ in 0..2 {
            writer.run(&format!("BEGIN; {change}"));
            assert_eq!(value(&mut writer, &changed), after, "{change}");
            assert_eq!(value(&mut writer, "u"), 10, "{change}");
            writer.run("ROLLBACK");
            assert_eq!(value(&mut writer, &changed), before, "{change}");
            writer.run(&format!("BEGIN; UPDATE u SET v = v; SAVEPOINT s; {change}"));
            assert_eq!(value(&mut writer, &changed), after, "{change}");
            writer.run("ROLLBACK TO s; RELEASE s");
            assert_eq!(value(&mut writer, &changed), before, "{change}");
            writer.run("ROLLBACK");
        }
    }
    // It stores what it has not written, and that alone.
    writer.run("SELECT shared_lru.clear('c')");
    writer.run("BEGIN; UPDATE u SET v = 11");
    assert_eq!((value(&mut writer, "t"), value(&mut writer, "u")), (1, 11));
    let mut reader = world.backend();
    reader.run("SET search_path = early, public, pg_temp");
    assert_eq!(reader.one::<i64>("SELECT count(*) FROM shared_lru.entries('c')"), 1);
    assert_eq!((value(&mut reader, "t"), value(&mut reader, "u")), (1, 10));
    writer.run("COMMIT");
    assert_eq!((value(&mut reader, "t"), value(&mut reader, "u")), (1, 11));
}

#[test]
fn of_those_who_miss_a_result_at_once_one_computes() {
    let world = world();
    let mut admin = world.backend();
    admin.run(
        "CREATE TABLE t AS SELECT n AS id FROM generate_series(1, 200) AS n;
         CREATE FUNCTION slow(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN IF pg_sleep(0.005) IS NULL THEN RETURN 0; END IF; RETURN $1; END'",
    );
    let sum = "SELECT shared_lru.fetch('c', 'SELECT sum(slow(id)) FROM t', NULL::bigint)";
    let before = (admin.stat("hits"), admin.stat("misses"));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(world.backend().one::<i64>(sum), 20_100));
        }
    });
    assert_eq!(admin.stat("inserts"), 1);
    // Who has waited has not missed it.
    assert_eq!((admin.stat("hits"), admin.stat("misses")), (before.0 + 3, before.1 + 1));
    // Who is waited for and goes away leaves it to the next.
    admin.run("UPDATE t SET id = id");
    let mut first = world.backend();
    let pid = first.pid();
    thread::scope(|scope| {
        let first = scope.spawn(move || first.client.batch_execute(sum).is_err());
        let second = scope.spawn(|| world.backend().one::<i64>(sum));
        wait_until("somebody waits", || {
            admin.one("SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)")
        });
        admin.run(&format!("SELECT pg_cancel_backend({pid})"));
        first.join().expect("it ends");
        assert_eq!(second.join().expect("it ends"), 20_100);
    });
}

/// How many sessions wait for the advisory lock of this number, or for the result of another of this class.
fn waiting(backend: &mut Backend, number: &str) -> i64 {
    backend.one(&format!("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND {number}"))
}

#[test]
fn nobody_waits_for_who_stores_nothing() {
    let world = world();
    let (mut keeper, mut admin) = (world.backend(), world.backend());
    admin.run(&format!("CREATE TABLE t AS SELECT 1 AS v; {}", WAITS.replace("IMMUTABLE", "VOLATILE")));
    keeper.run(&format!("SELECT pg_advisory_lock({GATE})"));
    thread::scope(|scope| {
        // If something goes wrong it ends here, and nobody waits for it.
        let mut keeper = keeper;
        for _ in 0..3 {
            let call = "SELECT shared_lru.fetch('c', 'SELECT max(waits(v)) FROM t', NULL::int)";
            scope.spawn(|| assert_eq!(world.backend().one::<i32>(call), 1));
        }
        wait_until("all are in their middle", || waiting(&mut admin, &format!("objid = {GATE}")) == 3);
        keeper.run(&format!("SELECT pg_advisory_unlock({GATE})"));
    });
}

#[test]
fn nobody_waits_for_more_than_two_others() {
    let world = world();
    let (mut keeper, mut admin) = (world.backend(), world.backend());
    admin.run(
        "CREATE TABLE t AS SELECT 1001 AS v;
         CREATE FUNCTION waits(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
         'BEGIN IF pg_advisory_xact_lock_shared($1) IS NULL THEN RETURN 0; END IF; RETURN $1; END'",
    );
    (1001..=1004).for_each(|gate| keeper.run(&format!("SELECT pg_advisory_lock({gate})")));
    let call = "SELECT shared_lru.fetch('c', 'SELECT max(waits(v)) FROM t', NULL::int)";
    let computes = |admin: &mut Backend, gate: i32, count: i64| {
        wait_until("it computes", || waiting(admin, &format!("objid = {gate} AND objsubid = 1")) == count);
    };
    let waits = |admin: &mut Backend, class: i32, count: i64| {
        wait_until("others wait", || waiting(admin, &format!("objsubid = {class}")) == count);
    };
    thread::scope(|scope| {
        let (world, mut keeper) = (&world, keeper);
        let mut open = |gate: i32| keeper.run(&format!("SELECT pg_advisory_unlock({gate})"));
        let ask = |expected: i32| _ = scope.spawn(move || assert_eq!(world.backend().one::<i32>(call), expected));
        ask(1001);
        computes(&mut admin, 1001, 1);
        admin.run("UPDATE t SET v = 1002");
        ask(1002);
        waits(&mut admin, 19539, 1);
        // What the first makes is too old for who has waited: that one computes, too, under the other lock.
        open(1001);
        computes(&mut admin, 1002, 1);
        admin.run("UPDATE t SET v = 1003");
        ask(1003);
        computes(&mut admin, 1003, 1);
        admin.run("UPDATE t SET v = 1004");
        (0..3).for_each(|_| ask(1004));
        waits(&mut admin, 19539, 3);
        open(1003);
        waits(&mut admin, 19540, 3);
        open(1002);
        computes(&mut admin, 1004, 3);
        open(1004);
    });
    // One of them has stored what is right now.
    let misses = admin.stat("misses");
    assert_eq!((admin.one::<i32>(call), admin.stat("misses")), (1004, misses));
}

#[test]
fn of_those_who_find_what_they_waited_for_too_old_one_computes() {
    let world = world();
    let (mut keeper, mut admin) = (world.backend(), world.backend());
    admin.run(&format!("CREATE TABLE t AS SELECT 1 AS v; {WAITS}"));
    keeper.run(&format!("SELECT pg_advisory_lock({GATE})"));
    let before = (admin.stat("hits"), admin.stat("misses"));
    thread::scope(|scope| {
        let call = "SELECT shared_lru.fetch('c', 'SELECT max(waits(v)) FROM t', NULL::int)";
        let (world, mut keeper) = (&world, keeper);
        let ask = |expected: i32| _ = scope.spawn(move || assert_eq!(world.backend().one::<i32>(call), expected));
        ask(1);
        wait_until("it computes", || waiting(&mut admin, &format!("objid = {GATE}")) == 1);
        admin.run("UPDATE t SET v = 2");
        (0..4).for_each(|_| ask(2));
        wait_until("others wait", || waiting(&mut admin, "objsubid = 19539") == 4);
        keeper.run(&format!("SELECT pg_advisory_unlock({GATE})"));
    });
    assert_eq!((admin.stat("hits"), admin.stat("misses")), (before.0 + 3, before.1 + 2));
}

/// An advisory lock's number, and a function that waits for it where a row is read, without a query of its own.
pub const GATE: i32 = 7;
pub const WAITS: &str = "CREATE FUNCTION waits(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
     'BEGIN IF pg_advisory_xact_lock_shared(7) IS NULL THEN RETURN 0; END IF; RETURN $1; END'";

/// Does `meanwhile` while a session runs a query that has its snapshot, and waits in the middle. What that session gets.
pub fn while_it_runs(world: &World, call: &str, meanwhile: impl FnOnce(&mut Backend)) -> i32 {
    let (mut keeper, mut other, mut reader) = (world.backend(), world.backend(), world.backend());
    keeper.run(&format!("SELECT pg_advisory_lock({GATE})"));
    thread::scope(|scope| {
        let reading = scope.spawn(move || reader.one::<i32>(call));
        wait_until("the query is in its middle", || {
            keeper.one(&format!("SELECT EXISTS (SELECT FROM pg_locks WHERE objid = {GATE} AND NOT granted)"))
        });
        meanwhile(&mut other);
        keeper.run(&format!("SELECT pg_advisory_unlock({GATE})"));
        reading.join().expect("it ends")
    })
}

#[test]
fn a_result_is_of_the_snapshot_that_it_was_read_in() {
    let world = world();
    let mut admin = world.backend();
    admin.run(&format!("CREATE TABLE t AS SELECT 1 AS v; {WAITS}"));
    let call = "SELECT shared_lru.fetch('c', 'SELECT max(waits(v)) FROM t', NULL::int)";
    assert_eq!(while_it_runs(&world, call, |writer| writer.run("UPDATE t SET v = 2")), 1);
    assert_eq!((admin.one::<i32>(call), admin.one::<i32>(call)), (2, 2));
}

#[test]
fn what_empties_the_cache_voids_results_that_are_being_made() {
    let world = world();
    let mut admin = world.backend();
    admin.run(&format!("CREATE TABLE t AS SELECT 1 AS v; {WAITS}"));
    let call = "SELECT shared_lru.fetch('c', 'SELECT max(waits(v)) FROM t', NULL::int)";
    for (meanwhile, kept) in [
        ("SELECT shared_lru.clear('c')", 0),
        ("SELECT shared_lru.invalidate_all('c')", 0),
        ("BEGIN; SELECT shared_lru.invalidate_all('c'); ROLLBACK", 1),
    ] {
        assert_eq!(while_it_runs(&world, call, |other| other.run(meanwhile)), 1);
        assert_eq!(admin.one::<i64>("SELECT count(*) FROM shared_lru.entries('c')"), kept, "{meanwhile}");
    }
}

#[test]
fn a_name_means_what_the_search_path_of_the_caller_says() {
    let world = world();
    let mut backend = world.backend();
    backend.run("CREATE SCHEMA early; CREATE TABLE t AS SELECT 1 AS v; CREATE TABLE early.t AS SELECT 2 AS v");
    for _ in 0..2 {
        for (path, value) in [("public", 1), ("early, public", 2), ("public, early", 1), ("early", 2)] {
            backend.run(&format!("SET search_path = {path}"));
            let found: i32 = backend.one("SELECT shared_lru.fetch('c', 'SELECT v FROM t', NULL::int)");
            assert_eq!(found, value, "{path}");
        }
    }
}

#[test]
fn writers_that_end_in_another_order_than_they_were_prepared_are_told_apart() {
    let world = world();
    let (mut writer, mut reader) = (world.backend(), world.backend());
    writer.run("CREATE TABLE t AS SELECT n AS id, 0 AS v FROM generate_series(1, 2) AS n");
    let sum = |backend: &mut Backend| -> i64 {
        backend.one("SELECT shared_lru.fetch('c', 'SELECT sum(v) FROM t', NULL::bigint)")
    };
    writer.run("BEGIN; UPDATE t SET v = 1 WHERE id = 1; PREPARE TRANSACTION 'first'");
    writer.run("BEGIN; UPDATE t SET v = 10 WHERE id = 2; PREPARE TRANSACTION 'second'");
    assert_eq!((sum(&mut reader), sum(&mut reader)), (0, 0));
    for (end, after) in [("COMMIT PREPARED 'second'", 10), ("COMMIT PREPARED 'first'", 11)] {
        writer.run(end);
        assert_eq!((sum(&mut reader), sum(&mut reader)), (after, after), "{end}");
    }
}

#[test]
fn rows_written_under_every_lock_that_allows_it_are_found() {
    let world = world();
    let (mut writer, mut reader) = (world.backend(), world.backend());
    writer.run("CREATE TABLE t AS SELECT 0 AS v");
    let value =
        |backend: &mut Backend| -> i32 { backend.one("SELECT shared_lru.fetch('c', 'SELECT v FROM t', NULL::int)") };
    let modes = ["ROW EXCLUSIVE", "SHARE", "SHARE ROW EXCLUSIVE", "EXCLUSIVE", "ACCESS EXCLUSIVE"];
    for (after, mode) in (1..).zip(modes) {
        assert_eq!((value(&mut reader), value(&mut reader)), (after - 1, after - 1));
        writer.run(&format!("BEGIN; LOCK TABLE t IN {mode} MODE; UPDATE t SET v = v + 1; COMMIT"));
        assert_eq!(value(&mut reader), after, "{mode}");
    }
}

#[test]
fn rows_of_partitions_and_children_count_wherever_they_are_written() {
    let world = world();
    let (mut writer, mut reader) = (world.backend(), world.backend());
    writer.run(
        "CREATE TABLE parted (k int, v int) PARTITION BY LIST (k);
         CREATE TABLE one PARTITION OF parted FOR VALUES IN (1);
         CREATE TABLE two PARTITION OF parted FOR VALUES IN (2);
         CREATE TABLE parent (v int); CREATE TABLE child () INHERITS (parent)",
    );
    let sum = |backend: &mut Backend, table: &str| -> Option<i64> {
        backend.one(&format!("SELECT shared_lru.fetch('c', 'SELECT sum(v) FROM {table}', NULL::bigint)"))
    };
    for (change, parted, parent) in [
        ("INSERT INTO parted VALUES (1, 1)", Some(1), None),
        ("INSERT INTO two VALUES (2, 10)", Some(11), None),
        ("INSERT INTO child VALUES (5)", Some(11), Some(5)),
        ("ALTER TABLE parted DETACH PARTITION two", Some(1), Some(5)),
        ("ALTER TABLE parted ATTACH PARTITION two FOR VALUES IN (2)", Some(11), Some(5)),
        ("TRUNCATE one", Some(10), Some(5)),
        ("ALTER TABLE child NO INHERIT parent", Some(10), None),
    ] {
        writer.run(change);
        for _ in 0..2 {
            assert_eq!((sum(&mut reader, "parted"), sum(&mut reader, "parent")), (parted, parent), "{change}");
        }
    }
}

#[test]
fn of_two_serializable_transactions_that_read_what_the_other_writes_one_fails() {
    let world = world();
    let (mut first, mut second) = (world.backend(), world.backend());
    first.run("CREATE TABLE t AS SELECT 1 AS v");
    let count = "SELECT shared_lru.fetch('c', 'SELECT count(*) FROM t', NULL::bigint)";
    first.run(count);
    is_hit(&mut first, count);
    for backend in [&mut first, &mut second] {
        backend.run("BEGIN ISOLATION LEVEL SERIALIZABLE");
        assert_eq!(backend.one::<i64>(count), 1);
    }
    first.run("INSERT INTO t VALUES (2); COMMIT");
    second.refused("INSERT INTO t VALUES (3); COMMIT").is("40001", &[]);
}

/// A server in which a commit waits for a standby that does not exist, if its session wants that: its commit record is
/// written, and nobody sees it yet.
fn world_without_its_standby() -> World {
    let world = World::with(&[
        ("pg_shared_lru.query_cache", "on"),
        ("wal_level", "replica"),
        ("max_wal_senders", "2"),
        ("synchronous_standby_names", "nobody"),
        ("synchronous_commit", "local"),
    ]);
    let mut backend = world.backend();
    backend.run("SELECT shared_lru.create_cache('c')");
    wait_until("writers publish", || backend.one("SELECT EXISTS (SELECT FROM shared_lru.changes('pg_class'))"));
    world
}

/// Does `meanwhile` while a commit is in its middle.
fn while_it_commits(world: &World, statement: &str, meanwhile: impl FnOnce(&mut Backend)) {
    let (mut writer, mut other) = (world.backend(), world.backend());
    writer.run("SET synchronous_commit = on");
    let pid = writer.pid();
    thread::scope(|scope| {
        let writing = scope.spawn(move || writer.run(statement));
        wait_until("it waits for the standby", || {
            other.call("SELECT wait_event IS NOT DISTINCT FROM 'SyncRep' FROM pg_stat_activity WHERE pid = $1", &[&pid])
        });
        meanwhile(&mut other);
        other.run(&format!("SELECT pg_cancel_backend({pid})"));
        writing.join().expect("it has committed here");
    });
}

#[test]
fn a_commit_that_waits_for_its_standby_is_not_seen_and_does_not_hinder_who_reads() {
    let world = world_without_its_standby();
    let mut admin = world.backend();
    admin.run(
        "CREATE TABLE t AS SELECT 1 AS v;
         CREATE FUNCTION f() RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 1'",
    );
    let value = "SELECT shared_lru.fetch('c', 'SELECT v FROM t', NULL::int)";
    while_it_commits(&world, "UPDATE t SET v = 2", |reader| {
        assert_eq!(reader.one::<i32>(value), 1);
        is_hit(reader, value);
    });
    assert_eq!((admin.one::<i32>(value), admin.one::<i32>(value)), (2, 2));
    // A definition that nobody has been told of yet.
    let call = "SELECT shared_lru.fetch('c', 'SELECT f()', NULL::int)";
    let replace = "CREATE OR REPLACE FUNCTION f() RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 2'";
    while_it_commits(&world, replace, |reader| {
        assert_eq!((reader.one::<i32>(call), reader.one::<i32>(call)), (1, 1));
    });
    assert_eq!((admin.one::<i32>(call), admin.one::<i32>(call)), (2, 2));
}

#[test]
fn rows_and_results_change_in_one_moment() {
    const COMMITS: usize = 20;
    let world = world_with(&[("max_locks_per_transaction", "256")]);
    let mut writer = world.backend();
    // Planned once, so that there is little between one look and the next.
    writer.run(
        "CREATE TABLE t AS SELECT 0 AS v;
         CREATE FUNCTION compare_often() RETURNS text LANGUAGE plpgsql AS $$
         DECLARE
             cached int;
             direct int;
         BEGIN
             FOR n IN 1..2000 LOOP
                 SELECT shared_lru.fetch('c', 'SELECT v FROM t', NULL::int), (SELECT v FROM t) INTO cached, direct;
                 IF cached <> direct THEN
                     RETURN format('cached %s, direct %s', cached, direct);
                 END IF;
             END LOOP;
             RETURN NULL;
         END $$",
    );
    let done = AtomicBool::new(false);
    let difference = thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let mut reader = world.backend();
            while !done.load(Ordering::Relaxed) {
                if let Some(difference) = reader.one::<Option<String>>("SELECT compare_often()") {
                    return Some(difference);
                }
            }
            None
        });
        for _ in 0..COMMITS {
            // With much to do when it is visible, and before it is over.
            writer.run(
                "BEGIN; UPDATE t SET v = v + 1;
                 SELECT count(pg_advisory_xact_lock(n)) FROM generate_series(1, 8000) AS n; COMMIT",
            );
        }
        done.store(true, Ordering::Relaxed);
        reading.join().expect("it ends")
    });
    assert_eq!(difference, None);
}

/// What is prepared before a restart, and what the queries give after its commit.
const PENDING: [(&str, &str); 5] = [
    ("UPDATE t SET v = 2", "2 10 old"),
    ("SAVEPOINT s; UPDATE t SET v = 2; ROLLBACK TO s; INSERT INTO parted VALUES (1, 5)", "1 15 old"),
    ("TRUNCATE parted", "1 0 old"),
    ("ALTER TABLE t ALTER v TYPE text USING v || '!'", "1! 10 old"),
    ("CREATE OR REPLACE FUNCTION f() RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT ''new'''", "1 10 new"),
];

/// Prepares a change, restarts the server, and ends the change.
fn restart_while_prepared(world: &World, mode: StopMode, end: &str, change: &str, after: &str) {
    const BEFORE: &str = "1 10 old";
    let found = |backend: &mut Backend| {
        ["SELECT v::text FROM t", "SELECT coalesce(sum(v), 0)::text FROM parted", "SELECT f()"]
            .map(|query| backend.one::<String>(&format!("SELECT shared_lru.fetch('c', $${query}$$, NULL::text)")))
            .join(" ")
    };
    let publishes = |backend: &mut Backend| {
        wait_until("writers publish", || backend.one("SELECT EXISTS (SELECT FROM shared_lru.changes('pg_class'))"));
    };
    let mut backend = world.backend();
    backend.run(
        "DROP TABLE IF EXISTS t, parted;
         CREATE TABLE t AS SELECT 1 AS v;
         CREATE TABLE parted (k int, v int) PARTITION BY LIST (k);
         CREATE TABLE one PARTITION OF parted FOR VALUES IN (1);
         INSERT INTO parted VALUES (1, 10);
         CREATE OR REPLACE FUNCTION f() RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT ''old'''",
    );
    publishes(&mut backend);
    assert_eq!([found(&mut backend), found(&mut backend)], [BEFORE, BEFORE]);
    for statement in format!("BEGIN; {change}; PREPARE TRANSACTION 'p'").split("; ") {
        backend.run(statement);
    }
    world.cluster.restart(mode).expect("the server restarts");
    let mut backend = world.backend();
    // The worker has come by, and has had the time to turn the query cache on; which it must not.
    backend.run("SELECT shared_lru.put('c', 'short', 'v', ttl => '1 ms')");
    wait_until("it is swept", || backend.stat("swept") > 0);
    // What it has locked cannot be read.
    if !["TRUNCATE", "ALTER"].iter().any(|verb| change.starts_with(verb)) {
        for _ in 0..3 {
            assert_eq!(found(&mut backend), BEFORE, "{mode:?}, {change}");
            backend.run("CREATE TABLE other (v int); INSERT INTO other VALUES (1); DROP TABLE other");
        }
    }
    backend.run(&format!("{end} PREPARED 'p'"));
    let expected = if end == "COMMIT" { after } else { BEFORE };
    for _ in 0..2 {
        assert_eq!(found(&mut backend), expected, "{mode:?}, {end}, {change}");
    }
    publishes(&mut backend);
    for _ in 0..2 {
        assert_eq!(found(&mut backend), expected, "{mode:?}, {end}, {change}");
    }
}

#[test]
fn what_was_prepared_before_a_restart_is_seen_when_it_ends_and_not_before() {
    let world = world();
    for (change, after) in PENDING {
        restart_while_prepared(&world, StopMode::Fast, "COMMIT", change, after);
    }
    let (change, after) = PENDING[0];
    restart_while_prepared(&world, StopMode::Immediate, "COMMIT", change, after);
    restart_while_prepared(&world, StopMode::Fast, "ROLLBACK", change, after);
}

#[test]
fn whatever_writers_do_a_cached_result_is_the_querys() {
    let world = checker::world();
    let reads = from_environment(READS_VARIABLE).unwrap_or(READS);
    let seed = from_environment(SEED_VARIABLE).unwrap_or_else(|| rand::rng().random_range(0..1_000_000));
    println!("seed {seed}");
    let started = Instant::now();
    let Checked { difference, compared, since_restart } = check(&world, reads, seed);
    let seconds = started.elapsed().as_secs_f64();
    let mut backend = world.backend();
    let (hits, inserts) = (backend.stat("hits"), backend.stat("inserts"));
    println!("{compared} results compared in {seconds:.1} s; {hits} hits, {inserts} results stored");
    assert_eq!(difference, None);
    assert!(hits as u64 > since_restart / 10, "hardly anything came from the cache: {hits} of {since_restart}");
    backend.validate();
}
