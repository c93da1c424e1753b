//! What a result follows from is in its key or among what it depends on, or the result is not kept: in each test somebody
//! changes one thing, and a call must give what the query gives then. And calls leave nothing behind, however many there are.

use crate::cluster;
use crate::queries::{hits, world};
use crate::world::Backend;

/// Why the result of a query is not kept; empty if it is.
fn reason(backend: &mut Backend, query: &str) -> String {
    backend.call("SELECT coalesce(reason, '') FROM shared_lru.explain_query($1)", &[&query])
}

#[track_caller]
fn is_refused(backend: &mut Backend, query: &str, why: &str) {
    let reason = reason(backend, query);
    assert!(reason.contains(why), "{query}: {reason:?}");
}

#[test]
fn a_schema_that_comes_during_a_transaction_counts_for_key_and_plan() {
    let world = world();
    let (mut early, mut other, mut late) = (world.backend(), world.backend(), world.backend());
    early.run("CREATE TABLE public.t AS SELECT 1 AS x");
    let call = "SELECT shared_lru.fetch('c', 'SELECT x FROM t', NULL::int)";
    early.run("SET search_path = s1, public; BEGIN");
    assert_eq!(early.one::<i32>(call), 1);
    other.run("CREATE SCHEMA s1; CREATE TABLE s1.t AS SELECT 2 AS x");
    assert_eq!(early.one::<i32>(call), 2);
    late.run("SET search_path = public");
    assert_eq!(late.one::<i32>(call), 1);
    early.run("COMMIT");
    assert_eq!((early.one::<i32>(call), late.one::<i32>(call)), (2, 1));
    // Nor is that found which others have stored for the path as it was.
    early.run("SET search_path = s2, public; BEGIN");
    assert_eq!(early.one::<i32>(call), 1);
    other.run("CREATE SCHEMA s2; CREATE TABLE s2.t AS SELECT 3 AS x");
    assert_eq!(late.one::<i32>(call), 1);
    assert_eq!(early.one::<i32>(call), 3);
}

#[test]
fn the_schema_of_new_things_is_part_of_the_key() {
    let world = world();
    let mut backend = world.backend();
    let call = "SELECT shared_lru.fetch('c', 'SELECT current_schema', NULL::name)::text = current_schema";
    backend.run("CREATE TEMPORARY TABLE makes_the_schema (id int)");
    for path in
        ["pg_catalog, public", "public", "pg_temp, public", "pg_temp, pg_catalog, public", "public, pg_temp", "none"]
    {
        backend.run(&format!("SET search_path = {path}"));
        for _ in 0..2 {
            let is_same: Option<bool> = backend.one(call);
            assert_ne!(is_same, Some(false), "{path}");
        }
    }
}

#[test]
fn a_composite_type_counts_wherever_the_query_makes_one_of_it() {
    let world = world();
    let mut backend = world.backend();
    backend.run(
        "CREATE TYPE inner_t AS (x int);
         CREATE TYPE ty AS (a int, b int);
         CREATE TYPE outer_t AS (o inner_t, many inner_t[]);
         CREATE TABLE t (c outer_t, k int);
         INSERT INTO t VALUES (ROW(ROW(1), ARRAY[ROW(2)::inner_t]), 1);
         CREATE FUNCTION make(int) RETURNS ty IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN ROW($1, 2); END';
         CREATE OPERATOR @@> (FUNCTION = make, RIGHTARG = int)",
    );
    // Marked statements, too: once with the comment, once without.
    for (query, mark) in [
        ("SELECT row_to_json(ROW(1, 2)::ty)::text", ""),
        ("SELECT row_to_json(@@> k)::text FROM t", "/* shared_lru: c */ "),
        ("SELECT row_to_json((ARRAY[ROW(k, 2)::ty])[1])::text FROM t", "/* shared_lru: c */ "),
        ("SELECT row_to_json(ROW(k, 2)::ty)::text FROM t", "/* shared_lru: c */ "),
        ("SELECT row_to_json(CASE WHEN k = 1 THEN ROW(k, 2)::ty END)::text FROM t", "/* shared_lru: c */ "),
        ("SELECT row_to_json(c)::text FROM t", "/* shared_lru: c */ "),
    ] {
        let call = format!("SELECT shared_lru.fetch('c', '{query}', NULL::text)");
        let marked = format!("{mark}{query}");
        for change in [
            "ALTER TYPE ty RENAME ATTRIBUTE a TO z; ALTER TYPE inner_t RENAME ATTRIBUTE x TO y",
            "ALTER TYPE ty RENAME ATTRIBUTE z TO a; ALTER TYPE inner_t RENAME ATTRIBUTE y TO x",
        ] {
            for _ in 0..2 {
                let direct: String = backend.one(query);
                assert_eq!(backend.one::<String>(&call), direct, "{call}");
                assert_eq!(backend.one::<String>(&marked), direct, "{marked}");
            }
            backend.run(change);
        }
        let direct: String = backend.one(query);
        assert_eq!(backend.one::<String>(&call), direct, "{call}");
        assert_eq!(backend.one::<String>(&marked), direct, "{marked}");
    }
    // A type of that name comes into an earlier schema.
    backend.run("CREATE SCHEMA early; SET search_path = early, public");
    let call = "SELECT shared_lru.fetch('c', 'SELECT row_to_json(ROW(1, 2)::ty)::text', NULL::text)";
    assert_eq!(backend.one::<String>(call), r#"{"a":1,"b":2}"#);
    world.backend().run("CREATE TYPE early.ty AS (e int, f int)");
    assert_eq!(backend.one::<String>(call), r#"{"e":1,"f":2}"#);
    // Numbers of objects are found in the parts of a type as well.
    backend.run("CREATE TYPE names AS (t regclass); CREATE DOMAIN of_names AS names; CREATE TABLE n (d of_names[])");
    is_refused(&mut backend, "SELECT d FROM n", "depends on names");
    is_refused(&mut backend, "SELECT ROW(NULL)::names FROM t", "depends on names");
}

#[test]
fn names_of_postgresqls_types_may_be_those_of_temporary_ones() {
    let world = world();
    let mut backend = world.backend();
    backend.run("CREATE TEMPORARY TABLE makes_the_schema (id int)");
    let call = "SELECT shared_lru.fetch('c', $$SELECT '2024-01-01 x'::text || (SELECT d::text FROM (VALUES ('2024-01-02'::date)) AS v (d))$$, NULL::text)";
    assert_eq!(backend.one::<String>(call), "2024-01-01 x2024-01-02");
    backend.run("CREATE DOMAIN pg_temp.date AS text CHECK (false)");
    backend.refused(call).is("23514", &["date"]);
}

#[test]
fn settings_that_a_plan_was_made_with_are_those_of_its_results() {
    let world = world();
    let (mut early, mut late) = (world.backend(), world.backend());
    early.run("CREATE TABLE t AS SELECT 1 AS id");
    let query = r"SELECT '\x41'::bytea::text FROM t";
    early.run(&format!("SET pg_shared_lru.cache_queries = 'c'; PREPARE p AS {query}"));
    assert_eq!(early.client.simple_query("EXECUTE p").map(rows_of).unwrap(), [r"\x41"]);
    early.run("SET bytea_output = escape");
    let direct = early.client.simple_query("EXECUTE p").map(rows_of).unwrap();
    assert_eq!(direct.len(), 1);
    late.run("SET bytea_output = escape; SET pg_shared_lru.cache_queries = 'c'");
    for _ in 0..2 {
        assert_eq!(late.one::<String>(query), "A");
    }
    // With the new settings it is planned anew, and served.
    early.run("EXECUTE p; EXECUTE p");
    let before = hits(&mut late);
    early.run("EXECUTE p");
    assert_eq!(hits(&mut late), before + 1);
    // A cursor reads its rows when they are fetched.
    early.run("CREATE TABLE b AS SELECT 'A'::bytea AS v FROM generate_series(1, 2); RESET bytea_output");
    let query = "SELECT v::text FROM b";
    early.run(&format!(
        "BEGIN; DECLARE k CURSOR FOR {query}; FETCH 1 FROM k; SET bytea_output = escape; FETCH ALL FROM k; COMMIT"
    ));
    late.run("RESET bytea_output");
    assert_eq!(late.all::<String>(query), [r"\x41", r"\x41"]);
}

fn rows_of(messages: Vec<postgres::SimpleQueryMessage>) -> Vec<String> {
    let rows = messages.iter().filter_map(|message| match message {
        postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    rows.collect()
}

#[test]
fn texts_that_become_times_while_the_query_runs_are_refused() {
    let world = world();
    let mut backend = world.backend();
    backend.run("CREATE TABLE t AS SELECT '\"now\"'::jsonb AS j");
    let xml = "SELECT a FROM XMLTABLE('/r' PASSING xml '<r><a>now</a></r>' COLUMNS a timestamptz PATH 'a')";
    if backend.one::<bool>("SELECT EXISTS (SELECT FROM pg_config WHERE name = 'CONFIGURE' AND setting LIKE '%libxml%')")
    {
        is_refused(&mut backend, xml, "timestamptz_in is STABLE");
        is_refused(&mut backend, &xml.replace("timestamptz", "regclass"), "depends on names");
        assert_eq!(reason(&mut backend, &xml.replace("timestamptz", "int")), "");
    }
    if cluster::major_version().expect("there is a PostgreSQL") >= 17 {
        let value = "SELECT JSON_VALUE(j, '$' RETURNING timestamptz) FROM t";
        let table = "SELECT a FROM t, JSON_TABLE(j, '$' COLUMNS (a timestamptz PATH '$'))";
        for query in [value, table] {
            is_refused(&mut backend, query, "timestamptz_in is STABLE");
            is_refused(&mut backend, &query.replace("timestamptz", "regclass"), "depends on names");
            assert_eq!(reason(&mut backend, &query.replace("timestamptz", "text")), "");
        }
    }
}

#[test]
fn constraints_of_domains_below_a_domain_count() {
    let world = world();
    let (mut backend, mut other) = (world.backend(), world.backend());
    backend.run(
        "CREATE DOMAIN lowest AS int; CREATE DOMAIN middle AS lowest; CREATE DOMAIN highest AS middle;
         CREATE TYPE row_of AS (a middle)",
    );
    for query in
        ["SELECT (5::highest)::text", "SELECT (''{5}''::middle[])::text", "SELECT to_json(ROW(5)::row_of)::text"]
    {
        let call = format!("SELECT shared_lru.fetch('c', '{query}', NULL::text)");
        for _ in 0..2 {
            assert!(backend.one::<String>(&call).contains('5'), "{query}");
        }
        other.run("ALTER DOMAIN lowest ADD CONSTRAINT more CHECK (value > 5)");
        backend.refused(&call).is("23514", &["more"]);
        other.run("ALTER DOMAIN lowest DROP CONSTRAINT more");
        assert!(backend.one::<String>(&call).contains('5'), "{query}");
    }
}

#[test]
fn functions_that_types_bring_with_them_count() {
    let world = world();
    let mut backend = world.backend();
    backend.run(
        "CREATE TYPE ty AS (a int);
         CREATE FUNCTION said() RETURNS text STABLE LANGUAGE plpgsql AS $$BEGIN RETURN current_setting('my.word'); END$$;
         CREATE FUNCTION as_json(ty) RETURNS json STABLE LANGUAGE plpgsql AS 'BEGIN RETURN to_json(said()); END';
         CREATE CAST (ty AS json) WITH FUNCTION as_json(ty);
         CREATE DOMAIN polite AS int CHECK (said() <> 'no');
         CREATE DOMAIN recent AS timestamptz CHECK (value > now() - interval '1 hour');
         CREATE DOMAIN positive AS int CHECK (value > 0);
         CREATE TABLE t AS SELECT ROW(1)::ty AS x, ARRAY[ROW(1)::ty] AS many, 5 AS k, now() AS at;
         SET my.word = 'yes'",
    );
    for query in ["SELECT to_json(x)::text FROM t", "SELECT row_to_json(t)::text FROM t", "SELECT to_json(many) FROM t"]
    {
        is_refused(&mut backend, query, "as_json is STABLE");
    }
    is_refused(&mut backend, "SELECT k::polite FROM t", "said is STABLE");
    is_refused(&mut backend, "SELECT ARRAY[k]::polite[] FROM t", "said is STABLE");
    is_refused(&mut backend, "SELECT at::recent FROM t", "now is STABLE");
    assert_eq!(reason(&mut backend, "SELECT k::positive FROM t"), "");
    let call = "SELECT shared_lru.fetch('c', 'SELECT k::polite FROM t', NULL::polite)";
    assert_eq!(backend.one::<String>(&format!("{call}::text")), "5");
    backend.run("SET my.word = 'no'");
    backend.refused(call).is("23514", &["polite"]);
}

#[test]
fn too_many_partitions_are_a_reason_of_its_own() {
    let world = world();
    let mut backend = world.backend();
    backend.run(
        "CREATE TABLE p (a int) PARTITION BY LIST (a);
         DO $$ BEGIN
             FOR n IN 1..260 LOOP EXECUTE format('CREATE TABLE p%s PARTITION OF p FOR VALUES IN (%s)', n, n); END LOOP;
         END $$;
         INSERT INTO p SELECT generate_series(1, 260)",
    );
    is_refused(&mut backend, "SELECT count(*) FROM p", "more than 255 relations");
    assert_eq!(reason(&mut backend, "SELECT count(*) FROM p WHERE a = 7"), "");
    let plan = backend.all::<String>("/* shared_lru: c */ EXPLAIN (COSTS OFF) SELECT count(*) FROM p").join("\n");
    assert!(plan.contains("Not Kept: it depends on more than 255"), "{plan}");
    let call = "SELECT shared_lru.fetch('c', 'SELECT count(*) FROM p', NULL::bigint)";
    assert_eq!((backend.one::<i64>(call), backend.one::<i64>(call)), (260, 260));
}

#[test]
fn times_without_a_date_have_todays_offset() {
    let world = world();
    let mut backend = world.backend();
    backend.run("CREATE TABLE t (at time, tz timetz, z timestamptz); CREATE DOMAIN of_day AS timetz");
    is_refused(&mut backend, "SELECT at::timetz FROM t", "today's offset");
    is_refused(&mut backend, "SELECT tz AT TIME ZONE 'Europe/Berlin' FROM t", "function timezone");
    if cluster::major_version().expect("there is a PostgreSQL") >= 17 {
        is_refused(&mut backend, "SELECT tz AT LOCAL FROM t", "today's offset");
    }
    for literal in [
        "timetz '12:00'",
        "'12:00 MSK'::timetz",
        "'{12:00,12:00+02}'::timetz[]",
        "'12:00'::of_day",
        "E'12:00+02'::timetz",
    ] {
        is_refused(&mut backend, &format!("SELECT {literal}"), "the time at which it is read");
    }
    for query in [
        "SELECT timetz '12:00+02'",
        "SELECT NULL::timetz",
        "SELECT tz AT TIME ZONE interval '1 hour' FROM t",
        "SELECT z AT TIME ZONE 'Europe/Berlin', z::timetz FROM t",
    ] {
        assert_eq!(reason(&mut backend, query), "", "{query}");
    }
}

#[test]
fn rows_that_an_index_leaves_out_at_random_are_not_kept() {
    let world = world();
    let mut backend = world.backend();
    backend.run("CREATE TABLE t AS SELECT ARRAY[1] AS a FROM generate_series(1, 2000); CREATE INDEX ON t USING gin (a); ANALYZE t");
    let call = "SELECT shared_lru.fetch('c', 'SELECT count(*) FROM t WHERE a @> ARRAY[1]', NULL::bigint)";
    backend.run(&format!(
        "SET gin_fuzzy_search_limit = 1; SET enable_seqscan = off; {call}; RESET gin_fuzzy_search_limit"
    ));
    assert_eq!(backend.one::<i64>(call), 2000);
    let before = hits(&mut backend);
    backend.run(&format!("{call}; SET gin_fuzzy_search_limit = 1; {call}"));
    assert_eq!(hits(&mut backend), before + 1);
}

#[test]
fn names_in_functions_that_become_part_of_the_plan_count() {
    let world = world();
    let mut backend = world.backend();
    backend.run(
        "CREATE SCHEMA early; SET search_path = early, public; CREATE TABLE public.t AS SELECT 1 AS x;
         CREATE FUNCTION f() RETURNS SETOF int IMMUTABLE LANGUAGE sql AS 'SELECT x FROM t'",
    );
    let (call, marked) = (
        "SELECT shared_lru.fetch('c', 'SELECT max(f) FROM f()', NULL::int)",
        "/* shared_lru: c */ SELECT max(f) FROM f()",
    );
    for statement in [call, marked] {
        assert_eq!(backend.one::<i32>(statement), 1);
        let before = hits(&mut backend);
        assert_eq!(backend.one::<i32>(statement), 1);
        assert_eq!(hits(&mut backend), before + 1, "it follows from t: {statement}");
    }
    world.backend().run("UPDATE t SET x = 2");
    assert_eq!((backend.one::<i32>(call), backend.one::<i32>(marked)), (2, 2));
    world.backend().run("CREATE TABLE early.t AS SELECT 3 AS x");
    assert_eq!((backend.one::<i32>(call), backend.one::<i32>(marked)), (3, 3));
}

#[test]
fn a_hit_is_refused_what_the_query_would_be() {
    let world = world();
    let mut backend = world.backend();
    if !backend.one::<bool>("SELECT current_setting('restrict_nonsystem_relation_kind', true) IS NOT NULL") {
        return;
    }
    backend.run("CREATE TABLE t AS SELECT 1 AS x; CREATE VIEW v AS SELECT x FROM t");
    let call = "SELECT shared_lru.fetch('c', 'SELECT x FROM v', NULL::int)";
    assert_eq!(backend.one::<i32>(call), 1);
    backend.run("SET restrict_nonsystem_relation_kind = 'view'");
    backend.refused(call).is("55000", &["non-system view"]);
}

/// A function `used(int)`, which says what memory the process uses when it is called.
fn create_used(backend: &mut Backend) {
    backend.run(
        "CREATE FUNCTION used(int) RETURNS bigint VOLATILE LANGUAGE plpgsql AS
             'BEGIN RETURN (SELECT sum(used_bytes) FROM pg_backend_memory_contexts); END'",
    );
}

/// What is left in memory while a query runs, which has a column `used` in each row.
fn left_behind(backend: &mut Backend, query: &str) -> i64 {
    backend.one(&format!("SELECT max(used) - min(used) FROM ({query}) AS s"))
}

#[test]
fn calls_for_each_row_of_a_table_leave_nothing_in_memory() {
    let world = world();
    let mut backend = world.backend();
    backend.run("CREATE TABLE t AS SELECT n AS a FROM generate_series(1, 400) AS n; SET jit = off");
    create_used(&mut backend);
    let query = "SELECT used(q.a) FROM generate_series(1, 400) AS g, LATERAL shared_lru.query('c', 'SELECT a FROM t WHERE a = $1', g) AS q (a int)";
    // All are misses, then hits; then the cache is off.
    for state in ["missed", "found", "off"] {
        if state == "off" {
            backend.run("ALTER SYSTEM SET pg_shared_lru.query_cache = off");
            backend.run("SELECT pg_reload_conf()");
            crate::world::wait_until("it is off", || {
                backend.one("SELECT NOT EXISTS (SELECT FROM shared_lru.changes('t'))")
            });
        }
        let left = left_behind(&mut backend, query);
        assert!(left < 1_000_000, "{state}: {left}");
    }
}

#[test]
fn large_values_leave_nothing_in_memory() {
    let world = world();
    let mut backend = world.backend();
    backend.run(
        "CREATE TABLE t (id int, v text); ALTER TABLE t ALTER v SET STORAGE EXTERNAL;
         INSERT INTO t SELECT n, repeat('x', 100000) FROM generate_series(1, 200) AS n; SET work_mem = '1MB'; SET jit = off",
    );
    create_used(&mut backend);
    let call = "SELECT used FROM shared_lru.query('c', 'SELECT v, used(id) FROM t') AS q (v text, used bigint)";
    let left = left_behind(&mut backend, call);
    assert!(left < 5_000_000, "{left}");
}

#[test]
fn a_value_that_was_on_disk_leaves_no_file() {
    let world = world();
    let mut backend = world.backend();
    backend.run("SET work_mem = '64kB'");
    let call = "SELECT length(shared_lru.fetch('c', $$SELECT string_agg(repeat('x', 1000), '') FROM generate_series(1, 1000)$$, NULL::text))";
    for _ in 0..2 {
        assert_eq!(backend.one::<i32>(call), 1_000_000);
    }
    let log = world.cluster.log();
    // As versions before 17 say it, and later ones.
    assert!(!log.contains("temporary file leak") && !log.contains("resource was not closed"), "{log}");
}

#[test]
fn a_call_may_not_claim_more_of_a_type_than_the_query_says() {
    let world = world();
    let mut backend = world.backend();
    backend.run("CREATE TABLE t (n numeric(10, 2), v varchar(6)); INSERT INTO t VALUES (1, 'abcdef')");
    for _ in 0..2 {
        for (query, columns) in [
            ("SELECT ''abcdef''::varchar", "v varchar(3)"),
            ("SELECT v FROM t", "v varchar(3)"),
            ("SELECT n FROM t", "n numeric(4, 1)"),
        ] {
            backend
                .refused(&format!("SELECT * FROM shared_lru.query('c', '{query}') AS q ({columns})"))
                .is("22023", &["column 1", "the call says", "("]);
        }
        let call = "SELECT v FROM shared_lru.query('c', 'SELECT n, v FROM t') AS q (n numeric(10, 2), v varchar)";
        assert_eq!(backend.one::<String>(call), "abcdef");
    }
}
