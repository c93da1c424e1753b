//! Statements that are served from a cache without a call in them: views of `cache_view`, and statements that are marked.

use std::thread;
use std::time::Instant;

use rand::prelude::*;

use crate::queries::checker::{self, Checked, READS_VARIABLE, SEED_VARIABLE, check_with, from_environment};
use crate::queries::{GATE, WAITS, hits, world};
use crate::world::{Backend, wait_until};

#[test]
fn a_cached_view_has_the_columns_and_rows_of_its_source() {
    let world = world();
    let mut backend = world.backend();
    backend.run(
        r#"CREATE SCHEMA "Odd ""Schema";
           CREATE DOMAIN "Odd ""Schema".small AS int CHECK (VALUE < 100);
           CREATE TABLE "Odd ""Schema"."Table's" (gone int, "a,b" numeric(10, 2), "select" varchar(5) COLLATE "C", d "Odd ""Schema".small,
               at timestamptz(3), list int[]);
           ALTER TABLE "Odd ""Schema"."Table's" DROP gone;
           INSERT INTO "Odd ""Schema"."Table's" VALUES (1.5, 'x', 5, '2024-01-01', '{1,2}'), (NULL, NULL, NULL, NULL, NULL)"#,
    );
    let name: String = backend.one(r#"SELECT shared_lru.cache_view('c', '"Odd ""Schema"."Table''s"')"#);
    assert_eq!(name, r#""Odd ""Schema"."Table's_cached""#);
    let columns = |backend: &mut Backend, of: &str| -> Vec<String> {
        backend.all(&format!(
            "SELECT concat_ws(' ', attname, format_type(atttypid, atttypmod), attcollation) FROM pg_attribute
              WHERE attrelid = '{}'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
            of.replace('\'', "''")
        ))
    };
    let source = r#""Odd ""Schema"."Table's""#;
    assert_eq!(columns(&mut backend, &name), columns(&mut backend, source));
    let rows =
        |backend: &mut Backend, of: &str| -> Vec<String> { backend.all(&format!("SELECT r::text FROM {of} AS r")) };
    let before = hits(&mut backend);
    for _ in 0..3 {
        assert_eq!(rows(&mut backend, &name), rows(&mut backend, source));
    }
    assert_eq!(hits(&mut backend), before + 2);
    world.backend().run(&format!("DELETE FROM {source} WHERE d IS NULL"));
    assert_eq!(rows(&mut backend, &name).len(), 1);

    backend.run("CREATE VIEW report AS SELECT count(*) AS n FROM pg_class WHERE false; CREATE TABLE nothing ()");
    assert_eq!(backend.one::<String>("SELECT shared_lru.cache_view('c', 'report', 'Fast')"), r#"public."Fast""#);
    assert_eq!(backend.one::<i64>(r#"SELECT n FROM "Fast""#), 0);
    backend.refused("SELECT shared_lru.cache_view('none', 'report')").is("42704", &["none", "does not exist"]);
    backend.refused("SELECT shared_lru.cache_view('c', 'report', 'Fast')").is("42P07", &["Fast"]);
    backend.refused("SELECT shared_lru.cache_view('c', NULL)").is("22023", &["NULL"]);
    backend.refused("SELECT shared_lru.cache_view('c', 'nothing')").is("42809", &["no columns"]);
}

#[test]
fn a_cached_view_gives_nobody_what_its_source_does_not() {
    let world = world();
    let mut admin = world.backend();
    admin.run(
        // As it is from version 15 on.
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC;
         CREATE ROLE alice LOGIN; CREATE ROLE bob LOGIN;
         GRANT USAGE ON SCHEMA shared_lru TO alice, bob;
         GRANT EXECUTE ON FUNCTION shared_lru.cache_view(text, regclass, text), shared_lru.query(text, text) TO alice, bob;
         SELECT shared_lru.grant_cache('c', 'alice', 'read'), shared_lru.grant_cache('c', 'alice', 'write');
         CREATE SCHEMA a AUTHORIZATION alice;
         CREATE TABLE secret AS SELECT 1 AS id; GRANT SELECT ON secret TO alice",
    );
    let (mut alice, mut bob) = (world.backend_as("alice"), world.backend_as("bob"));
    // It is created as the caller would create it.
    alice.refused("SELECT shared_lru.cache_view('c', 'secret')").is("42501", &["public"]);
    alice.run("CREATE VIEW a.mine AS SELECT * FROM secret");
    assert_eq!(alice.one::<String>("SELECT shared_lru.cache_view('c', 'a.mine')"), "a.mine_cached");
    assert_eq!(
        admin.one::<String>("SELECT relowner::regrole::text FROM pg_class WHERE relname = 'mine_cached'"),
        "alice"
    );
    assert_eq!(alice.one::<i32>("SELECT id FROM a.mine_cached"), 1);
    // And read as who reads it: with the view comes neither the cache nor the source.
    alice.run("GRANT USAGE ON SCHEMA a TO bob; GRANT SELECT ON a.mine_cached TO bob");
    bob.refused("SELECT id FROM a.mine_cached").is("42501", &["permission denied for cache"]);
    admin.run("SELECT shared_lru.grant_cache('c', 'bob', 'read')");
    bob.refused("SELECT id FROM a.mine_cached").is("42501", &["mine"]);
    alice.run("GRANT SELECT ON a.mine TO bob");
    assert_eq!(bob.one::<i32>("SELECT id FROM a.mine_cached"), 1);
    alice.run("REVOKE SELECT ON a.mine FROM bob");
    bob.refused("SELECT id FROM a.mine_cached").is("42501", &["mine"]);
}

/// What EXPLAIN (ANALYZE) says of a statement with a mark.
fn explained(backend: &mut Backend, statement: &str) -> Vec<String> {
    let explain = "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF)";
    let lines: Vec<String> = backend.all(&format!("/* shared_lru: c */ {explain} {statement}"));
    // From version 18 on rows are shown with two decimals.
    lines.iter().map(|line| line.replace(".00 loops", " loops")).collect()
}

/// What its node says of the result.
#[track_caller]
pub fn result(backend: &mut Backend, statement: &str) -> String {
    let lines = explained(backend, statement);
    let line = lines.iter().find_map(|line| line.trim().strip_prefix("Result: "));
    line.unwrap_or_else(|| panic!("{statement}: no result in {lines:#?}")).to_owned()
}

#[track_caller]
fn not_kept(backend: &mut Backend, statement: &str) -> String {
    let lines = explained(backend, statement);
    let line = lines.iter().find_map(|line| line.trim().strip_prefix("Not Kept: "));
    line.unwrap_or_else(|| panic!("{statement}: is kept: {lines:#?}")).to_owned()
}

#[test]
fn a_marked_statement_is_served_while_it_is_right_and_says_so() {
    let world = world();
    let (mut writer, mut reader) = (world.backend(), world.backend());
    writer.run(
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT n, n FROM generate_series(1, 100) AS n",
    );
    let statement = "SELECT v, id FROM t WHERE id > 90 ORDER BY length(v), id DESC";
    let direct: Vec<String> = reader.all(statement);
    assert_eq!(result(&mut reader, statement), "miss, stored");
    assert_eq!(result(&mut reader, statement), "hit");
    // The plan is that of the statement, with a node on top.
    let plan = reader.all::<String>(&format!("/* shared_lru: c */ EXPLAIN (VERBOSE, COSTS OFF) {statement}"));
    assert_eq!(&plan[..4], ["Custom Scan (Shared LRU)", "  Output: v, id", "  Cache: c", "  ->  Sort"], "{plan:#?}");
    // And served without being started.
    let plan = explained(&mut reader, statement);
    assert_eq!(plan, ["Custom Scan (Shared LRU) (actual rows=10 loops=1)", "  Cache: c", "  Result: hit"], "{plan:#?}");
    // However it is written, and whoever asks.
    let marked = format!("/* shared_lru: c */  {}", statement.replace(", id FROM", "  ,  id -- a comment\n FROM"));
    let before = hits(&mut reader);
    assert_eq!(reader.all::<String>(&marked), direct);
    assert_eq!(world.backend().all::<String>(&marked), direct);
    assert_eq!(hits(&mut reader), before + 2);
    for (change, last) in [
        ("UPDATE t SET v = '1000' WHERE id = 95", "1000"),
        ("BEGIN; INSERT INTO t VALUES (200, '20000'); PREPARE TRANSACTION 'p'", "1000"),
        ("COMMIT PREPARED 'p'", "20000"),
        ("ALTER TABLE t ALTER v TYPE text USING '00000' || v", "0000020000"),
        ("TRUNCATE t; INSERT INTO t VALUES (91, 'x')", "x"),
        ("DROP TABLE t; CREATE TABLE t AS SELECT 'y' AS v, 92 AS id", "y"),
    ] {
        change.split("; ").for_each(|change| writer.run(change));
        for _ in 0..2 {
            assert_eq!(reader.all::<String>(&marked).last().unwrap(), last, "{change}");
            assert_eq!(writer.all::<String>(&marked).last().unwrap(), last, "{change}");
        }
    }
    assert_eq!(result(&mut reader, statement), "hit");
    writer.validate();
}

#[test]
fn rows_pass_where_nothing_may_be_kept_and_explain_says_why() {
    let world = world();
    let mut backend = world.backend();
    backend.run(
        "CREATE TABLE t AS SELECT n AS id FROM generate_series(1, 10) AS n;
         CREATE FUNCTION reads(int) RETURNS bigint IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT count(*) FROM t); END'",
    );
    for (statement, why) in [
        ("SELECT id, now() FROM t", "now is STABLE"),
        ("SELECT id, random() FROM t", "random is VOLATILE"),
        ("SELECT ctid FROM t", "system column"),
        ("SELECT relname FROM pg_class", "catalogs"),
        ("SELECT reads(1) FROM t", "runs queries"),
        ("SELECT * FROM (SELECT id FROM t FOR UPDATE) AS s", "locks rows"),
    ] {
        let said = not_kept(&mut backend, statement);
        assert!(said.contains(why), "{statement}: {said}");
        let plain: String = backend.all::<String>(&format!("EXPLAIN (COSTS OFF) {statement}")).join("\n");
        assert!(!plain.contains("Shared LRU"));
    }
    assert_eq!(
        result(&mut backend, "SELECT sum(reads(id)) FROM t"),
        "miss, not stored: a function in it runs queries, over t: trusted_functions does not name public.reads(integer)"
    );
    assert_eq!(result(&mut backend, "SELECT row(id, 1) FROM t"), "miss, not stored: column 1 is of type record");
    backend.run("CREATE TABLE big AS SELECT (SELECT string_agg(md5(n::text || i), '') FROM generate_series(1, 50) AS i) AS v FROM generate_series(1, 20000) AS n");
    assert_eq!(result(&mut backend, "SELECT v FROM big"), "miss, not stored: it is too large for the cache");
    assert_eq!(backend.all::<String>("/* shared_lru: c */ SELECT v FROM big").len(), 20_000);
    // What is not even looked at.
    for statement in [
        "SELECT 1",
        "SELECT id FROM t FOR UPDATE",
        "UPDATE t SET id = id",
        "WITH w AS (DELETE FROM t RETURNING id) SELECT * FROM w",
    ] {
        let plan = backend.all::<String>(&format!("/* shared_lru: c */ EXPLAIN {statement}")).join("\n");
        assert!(!plan.contains("Shared LRU"), "{plan}");
    }
    // Transactions in which nothing is served.
    let why = |backend: &mut Backend, begin: &str| {
        backend.run(begin);
        let said = result(backend, "SELECT sum(id) FROM t");
        backend.run("ROLLBACK");
        said
    };
    assert_eq!(why(&mut backend, "BEGIN; INSERT INTO t VALUES (11)"), "miss, not stored: the transaction has written");
    assert_eq!(
        why(&mut backend, "BEGIN ISOLATION LEVEL SERIALIZABLE"),
        "miss, not stored: the transaction is SERIALIZABLE"
    );
    // No cache, and no right to it, are no errors.
    let said: Vec<String> = backend.all("/* shared_lru: none */ EXPLAIN (ANALYZE, COSTS OFF) SELECT id FROM t");
    assert!(
        said.iter().any(|line| line.contains("Result: miss, not stored: cache \"none\" does not exist")),
        "{said:#?}"
    );
    backend.run("CREATE ROLE bob LOGIN; GRANT SELECT ON t TO bob");
    let mut bob = world.backend_as("bob");
    assert!(result(&mut bob, "SELECT id FROM t").contains("permission denied for cache"));
    backend.run("SELECT shared_lru.grant_cache('c', 'bob', 'read')");
    assert!(result(&mut bob, "SELECT id FROM t").contains("permission denied for cache"), "it may not write");
    backend.run("SELECT shared_lru.grant_cache('c', 'bob', 'write')");
    assert_eq!(result(&mut bob, "SELECT id FROM t"), "miss, stored");
    assert_eq!(result(&mut bob, "SELECT id FROM t"), "hit");
    backend.run("REVOKE SELECT ON t FROM bob");
    bob.refused("/* shared_lru: c */ SELECT id FROM t").is("42501", &["t"]);
}

#[test]
fn the_setting_marks_what_the_client_sends() {
    let world = world();
    let mut backend = world.backend();
    backend.run(
        "CREATE TABLE t AS SELECT n AS id FROM generate_series(1, 10) AS n;
         CREATE FUNCTION count_in_function() RETURNS bigint VOLATILE LANGUAGE plpgsql AS
             'DECLARE found bigint; BEGIN found := 1 + 1; SELECT count(*) INTO found FROM t; RETURN found; END';
         SET pg_shared_lru.cache_queries = 'c'",
    );
    let explain = |backend: &mut Backend, statement: &str| {
        backend.all::<String>(&format!("EXPLAIN (ANALYZE, COSTS OFF) {statement}")).join("\n")
    };
    assert!(explain(&mut backend, "SELECT count(*) FROM t").contains("miss, stored"));
    assert!(explain(&mut backend, "SELECT count(*) FROM t").contains("hit"));
    let before = hits(&mut backend);
    assert_eq!(backend.one::<i64>("SELECT count(*) FROM t"), 10);
    assert_eq!(hits(&mut backend), before + 1);
    // Not what functions do; and the query of a call is the call's.
    backend.run("DO 'BEGIN PERFORM count(*) FROM t; END'");
    assert_eq!(backend.one::<i64>("SELECT count_in_function()"), 10);
    assert_eq!(hits(&mut backend), before + 1);
    let misses = backend.stat("misses");
    backend.run("SELECT shared_lru.fetch('c', 'SELECT count(*) FROM t', NULL::bigint)");
    assert_eq!(backend.stat("misses"), misses + 1);
    // But what a function marks itself.
    backend.run(
        "CREATE FUNCTION marked(low int) RETURNS bigint LANGUAGE plpgsql AS
             'DECLARE found bigint; BEGIN EXECUTE ''/* shared_lru: c */ SELECT count(*) FROM t WHERE id >= $1'' INTO found USING low; RETURN found; END'",
    );
    for least in [1, 1, 5, 5, 1] {
        assert_eq!(backend.one::<i64>(&format!("SELECT marked({least})")), 11 - i64::from(least));
    }
    assert_eq!(hits(&mut backend), before + 4);
    // References between tables are checked by queries of PostgreSQL's.
    backend.run(
        "ALTER TABLE t ADD PRIMARY KEY (id); CREATE TABLE child (id int REFERENCES t); INSERT INTO child VALUES (1)",
    );
    backend.refused("DELETE FROM t WHERE id = 1").is("23503", &["child"]);
    backend.run("RESET pg_shared_lru.cache_queries");
    assert!(!explain(&mut backend, "SELECT count(*) FROM t").contains("Shared LRU"));
}

#[test]
fn parameters_are_part_of_the_key_of_generic_and_custom_plans() {
    let world = world();
    let mut backend = world.backend();
    backend.run("CREATE TABLE t AS SELECT n AS id, n || 'x' AS v FROM generate_series(1, 100) AS n");
    backend.run("/* shared_lru: c */ PREPARE p (int, text) AS SELECT count(*) FROM t WHERE id > $1 AND v <> $2");
    let mut last = 0;
    for mode in ["force_generic_plan", "force_custom_plan", "auto"] {
        backend.run(&format!("SET plan_cache_mode = {mode}"));
        for (call, count) in
            [("(90, 'y')", 10), ("(95, 'y')", 5), ("(90, '91x')", 9), ("(NULL, 'y')", 0), ("(90, 'y')", 10)]
        {
            assert_eq!(backend.one::<i64>(&format!("EXECUTE p {call}")), count, "{mode}");
        }
        let hits = hits(&mut backend);
        assert_eq!(
            hits - last,
            if mode == "force_generic_plan" { 1 } else { 5 },
            "{mode}: generic and custom plans have one key"
        );
        last = hits;
    }
    // The same of the protocol's statements.
    let statement = backend.client.prepare("/* shared_lru: c */ SELECT v FROM t WHERE id = $1").unwrap();
    for (id, is_hit) in [(1, false), (1, true), (2, false), (1, true), (2, true), (3, false), (3, true), (3, true)] {
        let before = hits(&mut backend);
        let row = backend.client.query_one(&statement, &[&id]).unwrap();
        assert_eq!(row.get::<_, String>(0), format!("{id}x"));
        assert_eq!(hits(&mut backend) > before, is_hit, "{id}");
    }
    world.backend().run("UPDATE t SET v = 'new' WHERE id = 3");
    assert_eq!(backend.client.query_one(&statement, &[&3]).unwrap().get::<_, String>(0), "new");
}

#[test]
fn a_plan_that_is_older_than_definitions_stores_nothing_and_is_made_anew() {
    let world = world();
    let (mut backend, mut other) = (world.backend(), world.backend());
    backend.run(
        "CREATE TABLE t AS SELECT n AS id FROM generate_series(1, 10) AS n;
         CREATE FUNCTION f(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 + 1';
         CREATE VIEW v AS SELECT f(id) AS id FROM t;
         SET plan_cache_mode = force_generic_plan",
    );
    backend.run("/* shared_lru: c */ PREPARE p (int) AS SELECT sum(id)::int FROM v WHERE id > $1");
    assert_eq!(result(&mut backend, "EXECUTE p (0)"), "miss, stored");
    assert_eq!(result(&mut backend, "EXECUTE p (0)"), "hit");
    for (change, sum) in [
        ("CREATE OR REPLACE FUNCTION f(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 + 2'", 75),
        ("CREATE OR REPLACE VIEW v AS SELECT f(id) + 1 AS id FROM t", 85),
        ("INSERT INTO t VALUES (11)", 99),
    ] {
        other.run(change);
        for _ in 0..2 {
            assert_eq!(backend.one::<i32>("EXECUTE p (0)"), sum, "{change}");
        }
        assert_eq!(result(&mut backend, "EXECUTE p (0)"), "hit", "{change}");
    }
    // Something that this plan does not depend on in PostgreSQL's eyes, but has the line of all code.
    other.run("CREATE FUNCTION unrelated() RETURNS int LANGUAGE sql AS 'SELECT 1'");
    assert_eq!(
        result(&mut backend, "EXECUTE p (0)"),
        "miss, not stored: definitions have changed since it was planned"
    );
    assert_eq!(result(&mut backend, "EXECUTE p (0)"), "miss, stored");
    assert_eq!(result(&mut backend, "EXECUTE p (0)"), "hit");
    // Planned in a transaction that has defined something, and then takes it back.
    backend.run("BEGIN; CREATE OR REPLACE FUNCTION f(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 * 1000'");
    assert_eq!(backend.one::<i32>("EXECUTE p (0)"), 66_011);
    backend.run("ROLLBACK");
    for _ in 0..3 {
        assert_eq!(backend.one::<i32>("EXECUTE p (0)"), 99);
    }
    assert_eq!(result(&mut backend, "EXECUTE p (0)"), "hit");
}

#[test]
fn what_is_read_as_two_roles_or_with_two_settings_is_not_stored() {
    let world = world();
    let mut backend = world.backend();
    backend
        .run("CREATE ROLE alice; CREATE SCHEMA early; CREATE TABLE t AS SELECT n AS v FROM generate_series(1, 3) AS n");
    let cases = [
        ("SELECT", true),
        ("SET ROLE alice", false),
        ("SET search_path = public, early", false),
        ("SET search_path = early, public", false),
        ("SET DateStyle = 'German'", false),
        ("SET xmloption = 'document'", false),
        ("SET TimeZone = 'Asia/Tokyo'", false),
        ("SET default_text_search_config = 'german'", false),
    ];
    for (change, is_stored) in cases {
        backend.run("SELECT shared_lru.clear('c')");
        let inserts = backend.stat("inserts");
        backend.run("BEGIN");
        backend.run("/* shared_lru: c */ DECLARE k CURSOR FOR SELECT v FROM t");
        // Only the second row is read so.
        backend.run(&format!("FETCH 1 FROM k; {change}; FETCH 1 FROM k; RESET ROLE; RESET ALL"));
        backend.run("FETCH ALL FROM k; COMMIT");
        assert_eq!(backend.stat("inserts") > inserts, is_stored, "{change}");
    }
}

#[test]
fn cursors_go_where_they_are_told() {
    let world = world();
    let mut backend = world.backend();
    backend.run("CREATE TABLE t AS SELECT n AS id FROM generate_series(1, 10) AS n");
    let moves: &[(&str, &[i32])] = &[
        ("FETCH 3", &[1, 2, 3]),
        ("FETCH BACKWARD 2", &[2, 1]),
        ("FETCH PRIOR", &[]),
        ("FETCH LAST", &[10]),
        ("FETCH NEXT", &[]),
        ("FETCH PRIOR", &[10]),
        ("FETCH ABSOLUTE 4", &[4]),
        ("FETCH RELATIVE 0", &[4]),
        ("FETCH FIRST", &[1]),
        ("FETCH ALL", &[2, 3, 4, 5, 6, 7, 8, 9, 10]),
        ("FETCH BACKWARD ALL", &[10, 9, 8, 7, 6, 5, 4, 3, 2, 1]),
        ("FETCH 1", &[1]),
    ];
    for query in [
        "SELECT id FROM t",
        "SELECT id FROM t ORDER BY id + 0",
        "SELECT sum(id)::int AS id FROM t GROUP BY id ORDER BY 1",
    ] {
        for is_hit in [false, true] {
            let before = hits(&mut backend);
            backend.run("BEGIN");
            backend.run(&format!("/* shared_lru: c */ DECLARE cur SCROLL CURSOR FOR {query}"));
            assert_eq!(hits(&mut backend) > before, is_hit);
            let before = hits(&mut backend);
            backend.run(&format!("/* shared_lru: c */ DECLARE h SCROLL CURSOR WITH HOLD FOR {query}"));
            assert_eq!(hits(&mut backend) > before, is_hit);
            for (step, rows) in moves {
                assert_eq!(backend.all::<i32>(&format!("{step} FROM cur")), *rows, "{query}: {step}, {is_hit}");
            }
            backend.run("COMMIT");
            for (step, rows) in moves {
                assert_eq!(backend.all::<i32>(&format!("{step} FROM h")), *rows, "{query}: {step}, {is_hit}");
            }
            backend.run("CLOSE h");
            // Those above went back, or were stored when they were held.
            backend.run(&format!("/* shared_lru: c */ {query}"));
        }
    }
    // One that goes back to the start, or is read anew to be held, stores each row once.
    backend.run("UPDATE t SET id = id");
    for (number, back) in [(1, "MOVE ABSOLUTE 0 IN h; FETCH ALL FROM h; COMMIT"), (2, "COMMIT")] {
        let query = format!("SELECT id FROM t ORDER BY id + {number}");
        backend.run("BEGIN");
        backend.run(&format!("/* shared_lru: c */ DECLARE h SCROLL CURSOR WITH HOLD FOR {query}"));
        backend.run(&format!("FETCH 3 FROM h; {back}; CLOSE h"));
        let before = hits(&mut backend);
        assert_eq!(backend.all::<i32>(&format!("/* shared_lru: c */ {query}")), (1..=10).collect::<Vec<_>>());
        assert_eq!(hits(&mut backend), before + 1, "{back}");
    }
    // One that stops before the end stores nothing; LIMIT is part of the statement.
    backend.run("UPDATE t SET id = id");
    let inserts = backend.stat("inserts");
    backend.run("BEGIN");
    backend.run("/* shared_lru: c */ DECLARE cur CURSOR FOR SELECT id FROM t ORDER BY id");
    assert_eq!(backend.all::<i32>("FETCH 10 FROM cur").len(), 10);
    backend.run("COMMIT");
    assert_eq!(backend.stat("inserts"), inserts);
    assert_eq!(result(&mut backend, "SELECT id FROM t ORDER BY id LIMIT 3"), "miss, stored");
    assert_eq!(result(&mut backend, "SELECT id FROM t ORDER BY id LIMIT 3"), "hit");
    assert_eq!(result(&mut backend, "SELECT id FROM t ORDER BY id LIMIT 4"), "miss, stored");
    // A cursor shows its snapshot, also when others have changed rows since; and what it stores says so.
    for first in ["FETCH 2", "FETCH 0"] {
        backend.run("DELETE FROM t WHERE id > 10");
        backend.run("BEGIN");
        backend.run("/* shared_lru: c */ DECLARE cur CURSOR FOR SELECT id FROM t ORDER BY id, 1");
        let fetched = backend.all::<i32>(&format!("{first} FROM cur")).len();
        world.backend().run("INSERT INTO t VALUES (11)");
        assert_eq!(fetched + backend.all::<i32>("FETCH ALL FROM cur").len(), 10);
        assert_eq!(backend.all::<i32>("/* shared_lru: c */ SELECT id FROM t ORDER BY id, 1").len(), 11);
        backend.run("COMMIT");
        assert_eq!(backend.all::<i32>("/* shared_lru: c */ SELECT id FROM t ORDER BY id, 1").len(), 11);
    }
}

#[test]
fn a_marked_statement_sees_what_its_snapshot_sees() {
    let world = world();
    let (mut writer, mut old, mut new) = (world.backend(), world.backend(), world.backend());
    writer.run("CREATE TABLE t AS SELECT 1 AS v");
    let value = |backend: &mut Backend| -> i32 { backend.one("/* shared_lru: c */ SELECT v FROM t") };
    old.run("BEGIN ISOLATION LEVEL REPEATABLE READ");
    assert_eq!(value(&mut old), 1);
    writer.run("BEGIN; UPDATE t SET v = 2");
    assert_eq!(value(&mut writer), 2, "its own");
    assert_eq!((value(&mut old), value(&mut new)), (1, 1));
    writer.run("COMMIT");
    assert_eq!((value(&mut new), value(&mut old), value(&mut new)), (2, 1, 2));
    assert_eq!(result(&mut new, "SELECT v FROM t"), "hit");
    assert_eq!(
        result(&mut old, "SELECT v FROM t"),
        "miss, not stored: a result is kept that this snapshot may not see"
    );
    old.run("COMMIT");
    assert_eq!(value(&mut old), 2);
    // An error in the middle leaves nothing, and the next one works.
    let fails = "SELECT 1 / (v - 2) FROM t";
    new.refused(&format!("/* shared_lru: c */ {fails}")).is("22012", &[]);
    writer.run("UPDATE t SET v = 3");
    assert_eq!(result(&mut new, fails), "miss, stored");
    assert_eq!(new.one::<i32>(&format!("/* shared_lru: c */ {fails}")), 1);
    // Redefined by the cursor's own transaction, between two rows, and then rolled back.
    new.run(
        "CREATE TABLE many AS SELECT n AS id FROM generate_series(1, 10) AS n;
         CREATE FUNCTION f(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN $1; END'",
    );
    let sum = "SELECT f(id) FROM many";
    new.run("BEGIN");
    new.run(&format!("/* shared_lru: c */ DECLARE cur CURSOR FOR {sum}"));
    assert_eq!(new.all::<i32>("FETCH 2 FROM cur"), [1, 2]);
    new.run("CREATE OR REPLACE FUNCTION f(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN -$1; END'");
    new.run("FETCH ALL FROM cur; ROLLBACK");
    assert_eq!(new.all::<i32>(&format!("/* shared_lru: c */ {sum}")), (1..=10).collect::<Vec<_>>());
    // Emptied, while a cursor fills.
    new.run("BEGIN");
    new.run("/* shared_lru: c */ DECLARE cur CURSOR FOR SELECT v FROM t");
    writer.run("SELECT shared_lru.invalidate_all('c')");
    let inserts = new.stat("inserts");
    new.run("FETCH ALL FROM cur");
    new.run("COMMIT");
    assert_eq!(new.stat("inserts"), inserts);
}

#[test]
fn a_marked_statement_is_served_what_its_transaction_has_not_written() {
    let world = world();
    let mut backend = world.backend();
    backend.run(
        "CREATE TABLE t AS SELECT 1 AS v; CREATE TABLE u AS SELECT 10 AS v;
         CREATE FUNCTION f(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1'",
    );
    let sum = "SELECT sum(f(v)) FROM t";
    assert_eq!(result(&mut backend, sum), "miss, stored");
    for (change, said, value) in [
        ("UPDATE u SET v = 11", "hit", 1),
        ("UPDATE t SET v = 2", "miss, not stored: the transaction has written", 2),
        ("CREATE TABLE unrelated ()", "hit", 1),
        (
            "CREATE OR REPLACE FUNCTION f(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT -$1'",
            "miss, not stored: the transaction has written",
            -1,
        ),
        ("SAVEPOINT s; UPDATE t SET v = 2; ROLLBACK TO s; RELEASE s", "hit", 1),
        ("SAVEPOINT s; UPDATE t SET v = 2; RELEASE s", "miss, not stored: the transaction has written", 2),
    ] {
        backend.run("BEGIN");
        backend.run(change);
        assert_eq!(result(&mut backend, sum), said, "{change}");
        assert_eq!(backend.one::<i64>(&format!("/* shared_lru: c */ {sum}")), value, "{change}");
        backend.run("ROLLBACK");
        assert_eq!(result(&mut backend, sum), "hit", "{change}");
    }
    // Redefined between two rows, and taken back before the last one: what was read in between is not stored.
    backend.run(
        "CREATE TABLE many AS SELECT n AS id FROM generate_series(1, 10) AS n;
         CREATE FUNCTION g(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN $1; END'",
    );
    let called = "/* shared_lru: c */ SELECT g(id) FROM many";
    backend.run("BEGIN");
    backend.run(&called.replace("SELECT", "DECLARE cur CURSOR FOR SELECT"));
    backend.run("FETCH 2 FROM cur; SAVEPOINT s");
    backend.run("CREATE OR REPLACE FUNCTION g(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN -$1; END'");
    backend.run("FETCH 5 FROM cur; ROLLBACK TO s; RELEASE s; FETCH ALL FROM cur; COMMIT");
    assert_eq!(backend.all::<i32>(called), (1..=10).collect::<Vec<_>>());
}

/// What is waited for, or held, by those who make a result: locks of the class of results.
const FLIGHTS: &str = "FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 19539";

#[test]
fn of_those_who_run_a_marked_statement_at_once_one_computes() {
    let world = world();
    let (mut keeper, mut admin) = (world.backend(), world.backend());
    admin.run(&format!("CREATE TABLE t AS SELECT n AS v FROM generate_series(1, 3) AS n; {WAITS}"));
    // Some rows, whose cost comes before the first one.
    let sum = "SELECT v, sum(waits(v)) FROM t GROUP BY v ORDER BY v";
    let is_one = |backend: &mut Backend, what: &str| -> bool { backend.one(&format!("SELECT EXISTS (SELECT {what})")) };
    let waits_for_gate = format!("FROM pg_locks WHERE objid = {GATE} AND NOT granted");
    for is_cancelled in [false, true] {
        admin.run("UPDATE t SET v = v");
        keeper.run(&format!("SELECT pg_advisory_lock({GATE})"));
        let (mut first, mut second) = (world.backend(), world.backend());
        let pid = first.pid();
        thread::scope(|scope| {
            let marked = format!("/* shared_lru: c */ {sum}");
            let first = scope.spawn(move || first.client.simple_query(&marked).is_ok());
            wait_until("the first is in its middle", || is_one(&mut admin, &waits_for_gate));
            let second = scope.spawn(move || result(&mut second, sum));
            wait_until("the second waits", || is_one(&mut admin, &format!("{FLIGHTS} AND NOT granted")));
            if is_cancelled {
                admin.run(&format!("SELECT pg_cancel_backend({pid})"));
            }
            wait_until("the second goes on, if the first does not", || {
                !is_cancelled || !is_one(&mut admin, &format!("{FLIGHTS} AND NOT granted"))
            });
            keeper.run(&format!("SELECT pg_advisory_unlock({GATE})"));
            assert_eq!(first.join().expect("it ends"), !is_cancelled);
            let said = if is_cancelled { "miss, stored" } else { "hit" };
            assert_eq!(second.join().expect("it ends"), said);
        });
        assert!(!is_one(&mut admin, FLIGHTS));
    }
}

#[test]
fn nobody_waits_for_a_client() {
    let world = world();
    let (mut idle, mut other) = (world.backend(), world.backend());
    idle.run(
        "CREATE TABLE t AS SELECT n AS id, repeat(md5(n::text), 20) AS v FROM generate_series(1, 5000) AS n; SELECT shared_lru.create_cache('large', 32 << 20)",
    );
    for (query, rows) in [
        // All before the first row; few rows, and too many to be read ahead.
        ("SELECT count(*)::text || v FROM t WHERE id < 10 GROUP BY v", 9),
        ("SELECT count(*)::text || v FROM t GROUP BY v ORDER BY 1", 5000),
        ("SELECT v FROM t ORDER BY v", 5000),
        // Row by row.
        ("SELECT v FROM t", 5000),
    ] {
        let marked = format!("/* shared_lru: large */ {query}");
        let direct: Vec<String> = idle.all(query);
        for scrolls in ["", "NO SCROLL", "SCROLL"] {
            // Two calls: as one they would be one transaction, which has written.
            idle.run("UPDATE t SET id = id");
            idle.run("BEGIN");
            idle.run(&format!("/* shared_lru: large */ DECLARE cur {scrolls} CURSOR FOR {query}"));
            assert!(!other.one::<bool>(&format!("SELECT EXISTS (SELECT {FLIGHTS})")));
            let mut read = idle.all::<String>("FETCH 2 FROM cur");
            assert!(!other.one::<bool>(&format!("SELECT EXISTS (SELECT {FLIGHTS})")));
            let found = other.all::<String>(&marked);
            assert_eq!(found.len(), rows);
            read.extend(idle.all::<String>("FETCH 3000 FROM cur"));
            read.extend(idle.all::<String>("FETCH ALL FROM cur"));
            assert!(idle.all::<String>("FETCH ALL FROM cur").is_empty());
            idle.run("COMMIT");
            let sorted = |mut rows: Vec<String>| {
                rows.sort();
                rows
            };
            assert_eq!(sorted(read), sorted(direct.clone()), "{query}");
            assert_eq!(sorted(found), sorted(direct.clone()), "{query}");
            assert_eq!(sorted(other.all::<String>(&marked)), sorted(direct.clone()), "{query}");
        }
    }
    // One that is held after its transaction.
    idle.run("UPDATE t SET id = id");
    idle.run("BEGIN");
    idle.run("/* shared_lru: large */ DECLARE cur NO SCROLL CURSOR WITH HOLD FOR SELECT count(*) FROM t GROUP BY v");
    assert_eq!(idle.all::<i64>("FETCH 2 FROM cur").len(), 2);
    idle.run("COMMIT");
    assert_eq!(idle.all::<i64>("FETCH ALL FROM cur").len(), 4998);
    idle.validate();
}

const READS: u64 = 60_000;

/// Runs each query marked and as it is, in one snapshot: of a STABLE function, which has that of the statement that calls it;
/// or of the transaction, where that is one, with a prepared statement, too, whose plan stays. Not where names are redefined: of
/// them PostgreSQL itself goes on with what they meant.
const COMPARE: &str = "
    CREATE FUNCTION pair(query text, OUT marked text, OUT direct text) STABLE LANGUAGE plpgsql AS $$
    BEGIN
        EXECUTE '/* shared_lru: c */ ' || query INTO marked;
        EXECUTE query INTO direct;
    END $$;
    CREATE FUNCTION prepared(query text, number int, OUT marked text, OUT direct text) LANGUAGE plpgsql AS $$
    DECLARE
        named text := 'q' || number;
    BEGIN
        IF NOT EXISTS (SELECT FROM pg_prepared_statements AS p WHERE p.name = named) THEN
            EXECUTE format('/* shared_lru: c */ PREPARE %s AS %s', named, query);
        END IF;
        EXECUTE 'EXECUTE ' || named INTO marked;
        EXECUTE query INTO direct;
    END $$;
    CREATE FUNCTION compare(queries text[], fixed int, rounds int) RETURNS text LANGUAGE plpgsql AS $$
    DECLARE
        found record;
        place int;
        has_one_snapshot bool := current_setting('transaction_isolation') <> 'read committed';
    BEGIN
        FOR n IN 1..rounds LOOP
            place := 1 + floor(random() * array_length(queries, 1));
            FOR try IN 0..1 LOOP
                IF has_one_snapshot AND n % 2 = 0 AND place <= fixed THEN
                    SELECT * INTO found FROM prepared(queries[place], place);
                ELSE
                    SELECT * INTO found FROM pair(queries[place]);
                END IF;
                EXIT WHEN found.marked IS NOT DISTINCT FROM found.direct OR place <= fixed;
            END LOOP;
            IF found.marked IS DISTINCT FROM found.direct THEN
                RETURN format('%s: marked %s, direct %s', queries[place], found.marked, found.direct);
            END IF;
        END LOOP;
        RETURN NULL;
    END $$";

#[test]
fn whatever_writers_do_a_marked_statement_returns_what_it_would() {
    let world = checker::world();
    let reads = from_environment(READS_VARIABLE).unwrap_or(READS);
    let seed = from_environment(SEED_VARIABLE).unwrap_or_else(|| rand::rng().random_range(0..1_000_000));
    println!("seed {seed}");
    let started = Instant::now();
    let Checked { difference, compared, since_restart } = check_with(&world, reads, seed, COMPARE);
    let seconds = started.elapsed().as_secs_f64();
    let mut backend = world.backend();
    let (hits, inserts) = (backend.stat("hits"), backend.stat("inserts"));
    println!("{compared} results compared in {seconds:.1} s; {hits} hits, {inserts} results stored");
    assert_eq!(difference, None);
    assert!(hits as u64 > since_restart / 10, "hardly anything came from the cache: {hits} of {since_restart}");
    backend.validate();
}

#[test]
fn a_long_text_is_run_as_if_it_had_no_mark() {
    let world = world();
    let mut backend = world.backend();
    backend.run("CREATE TABLE t AS SELECT 1 AS id; SET pg_shared_lru.cache_queries = 'c'");
    for (bytes, is_marked) in [(1000, true), (2 << 20, false)] {
        let literal = "x".repeat(bytes);
        let query = format!("EXPLAIN (COSTS OFF) SELECT id FROM t WHERE 'x' < '{literal}'");
        let plan = backend.all::<String>(&query).join("\n");
        assert_eq!(plan.contains("Shared LRU"), is_marked, "{bytes}: {plan}");
    }
}

#[test]
fn what_functions_read_to_leave_out_partitions_is_noticed() {
    let world = world();
    let mut admin = world.backend();
    admin.run(
        "CREATE TABLE whole (k int, v int) PARTITION BY LIST (k);
         CREATE TABLE one PARTITION OF whole FOR VALUES IN (1);
         CREATE TABLE two PARTITION OF whole FOR VALUES IN (2);
         INSERT INTO whole VALUES (2, 7);
         CREATE TABLE chosen AS SELECT 1 AS k; CREATE TABLE once AS SELECT 1 AS v;
         CREATE FUNCTION choice(more int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
             'BEGIN RETURN (SELECT k + more FROM chosen); END';
         SET plan_cache_mode = force_generic_plan",
    );
    let whole = "SELECT v FROM whole WHERE k = choice($1)";
    let inside = format!("SELECT (SELECT max(v) FROM ({whole}) AS one) FROM once");
    for (trusted, query) in [("", whole), ("choice(int)", whole), ("", &inside), ("choice(int)", &inside)] {
        admin.run(&format!("SELECT shared_lru.alter_cache('c', trusted_functions => '{{{trusted}}}')"));
        // Asked before the plan runs, and of an empty partition never again.
        admin.run("UPDATE chosen SET k = 1");
        admin.run(&format!("/* shared_lru: c */ PREPARE p (int) AS {query}"));
        assert!(admin.all::<Option<i32>>("EXECUTE p(0)").into_iter().flatten().next().is_none());
        admin.run("UPDATE chosen SET k = 2");
        assert_eq!(admin.all::<Option<i32>>("EXECUTE p(0)"), [Some(7)], "{query}, trusted: {trusted}");
        let said = result(&mut admin, "EXECUTE p(0)");
        assert!(said.starts_with("miss, not stored: a function in it runs queries"), "{said}");
        admin.run("DEALLOCATE p");
    }
}
