//! Functions that a cache's owner trusts: what they read by queries is found, and results over them are what the queries would
//! return.

use crate::queries::{WAITS, hits, while_it_runs, world};
use crate::world::{Backend, World, wait_until};

/// A table of rates, one of orders, and a function that reads the rates.
const RATES: &str = "CREATE TABLE rates (currency text PRIMARY KEY, rate numeric NOT NULL);
     INSERT INTO rates VALUES ('eur', 1), ('usd', 2);
     CREATE TABLE orders AS SELECT n AS total, CASE n % 2 WHEN 0 THEN 'eur' ELSE 'usd' END AS currency FROM generate_series(1, 10) AS n;
     CREATE FUNCTION rate(text) RETURNS numeric STABLE LANGUAGE plpgsql AS
     'BEGIN RETURN (SELECT rate FROM rates WHERE currency = $1); END'";

/// Which is asked for.
const SUM: &str = "SELECT sum(total * rate(currency))::text FROM orders";

/// A world in which cache `c` trusts these functions, which the script makes.
fn world_that_trusts(script: &str, functions: &str) -> World {
    let world = world();
    let mut admin = world.backend();
    admin.run(script);
    trust(&mut admin, functions);
    world
}

fn trust(admin: &mut Backend, functions: &str) {
    admin.run(&format!("SELECT shared_lru.alter_cache('c', trusted_functions => '{{{functions}}}')"));
}

fn fetch(query: &str) -> String {
    format!("SELECT shared_lru.fetch('c', $cached${query}$cached$, NULL::text)")
}

/// What the call gives; which is what the query gives in the same statement.
#[track_caller]
fn same(backend: &mut Backend, query: &str) -> Option<String> {
    let both = format!("SELECT ({}), ({query})", fetch(query));
    let row = backend.client.query_one(&both, &[]).unwrap_or_else(|error| panic!("{query}: {error:?}"));
    let (cached, direct): (Option<String>, Option<String>) = (row.get(0), row.get(1));
    assert_eq!(cached, direct, "cached and direct: {query}");
    cached
}

/// As above, and from then on it is kept.
#[track_caller]
fn is_kept(backend: &mut Backend, query: &str) -> Option<String> {
    same(backend, query);
    let before = hits(backend);
    let value = same(backend, query);
    assert_eq!(hits(backend), before + 1, "not served: {query}");
    value
}

/// The call runs, each time; why.
#[track_caller]
fn is_never_kept(backend: &mut Backend, query: &str) -> String {
    backend.run("SELECT shared_lru.reset_stats('c')");
    same(backend, query);
    same(backend, query);
    assert_eq!(hits(backend), 0, "served: {query}");
    backend.all::<String>("SELECT reason FROM shared_lru.query_refusals WHERE cache = 'c'").join(" ")
}

/// What the node of a marked statement says of its result.
#[track_caller]
fn marked(backend: &mut Backend, statement: &str) -> String {
    let explain = "/* shared_lru: c */ EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF)";
    let lines: Vec<String> = backend.all(&format!("{explain} {statement}"));
    let found =
        lines.iter().find_map(|line| line.trim().strip_prefix("Result: ").or(line.trim().strip_prefix("Not Kept: ")));
    found.unwrap_or_else(|| panic!("{statement}: {lines:?}")).to_owned()
}

/// What `explain_query` says for the cache.
fn explained(backend: &mut Backend, query: &str) -> (bool, Option<String>) {
    let row = backend
        .client
        .query_one("SELECT * FROM shared_lru.explain_query($1, cache => 'c')", &[&query])
        .unwrap_or_else(|error| panic!("{query}: {error:?}"));
    (row.get("cacheable"), row.get("reason"))
}

/// The relations that results of a query depend on, whoever has asked for them in which way.
fn depends_on(backend: &mut Backend, query: &str) -> Vec<String> {
    let relations = "SELECT array_agg(DISTINCT relation ORDER BY relation) FROM shared_lru.query_entries, unnest(depends_on) AS relation WHERE query = $1";
    backend.call(relations, &[&query])
}

/// Results of calls and of marked statements follow each of these changes.
#[track_caller]
fn follow(world: &World, query: &str, changes: &[&str]) {
    let (mut writer, mut reader) = (world.backend(), world.backend());
    let marked_query = format!("/* shared_lru: c */ {query}");
    for change in ["SELECT 1"].iter().chain(changes) {
        change.split(";; ").for_each(|statement| writer.run(statement));
        let value = is_kept(&mut reader, query);
        assert_eq!(world.backend().one::<Option<String>>(query), value, "a new session, after {change}");
        assert_eq!(is_kept(&mut writer, query), value, "{change}");
        for backend in [&mut reader, &mut writer] {
            assert_eq!(backend.one::<Option<String>>(&marked_query), value, "marked, after {change}");
        }
        let result = marked(&mut reader, query);
        assert!(result == "hit" || result == "miss, stored", "after {change}: {result}");
        assert_eq!(marked(&mut writer, query), "hit", "after {change}");
        assert_eq!(reader.one::<Option<String>>(&marked_query), value, "marked, after {change}");
    }
    writer.validate();
}

#[test]
fn a_stable_function_is_taken_where_the_cache_trusts_it() {
    let world = world();
    let mut backend = world.backend();
    backend.run(
        "CREATE TABLE t AS SELECT n AS id FROM generate_series(1, 3) AS n;
         CREATE FUNCTION plus(int) RETURNS int STABLE LANGUAGE plpgsql AS 'BEGIN RETURN $1 + 1; END'",
    );
    let query = "SELECT sum(plus(id))::text FROM t";
    let (cacheable, reason) = explained(&mut backend, query);
    let reason = reason.expect("there is one");
    assert!(!cacheable && reason.contains("plus is STABLE: only IMMUTABLE ones of users are taken"), "{reason}");
    assert!(reason.contains("trusted_functions"), "{reason}");
    assert_eq!(is_never_kept(&mut backend, query), "stable");
    assert!(marked(&mut backend, query).contains("plus is STABLE"));
    trust(&mut backend, "plus(int)");
    let (cacheable, reason) = explained(&mut backend, query);
    assert!(cacheable && reason.as_deref().is_some_and(|reason| reason.contains("trusted")), "{reason:?}");
    follow(&world, query, &["INSERT INTO t VALUES (4)"]);
    // Another one is not it.
    backend.run("CREATE FUNCTION plus(bigint) RETURNS int STABLE LANGUAGE plpgsql AS 'BEGIN RETURN 7; END'");
    assert_eq!(is_never_kept(&mut backend, "SELECT sum(plus(id::bigint))::text FROM t"), "stable");
    // Nor is PostgreSQL's own, or the clock.
    assert_eq!(is_never_kept(&mut backend, "SELECT sum(plus(id)) || current_setting('port') FROM t"), "stable");
    assert_eq!(
        is_never_kept(&mut backend, "SELECT (sum(plus(id)) FILTER (WHERE now() > 'epoch'))::text FROM t"),
        "clock"
    );
    // Who declares it VOLATILE says that it is.
    is_kept(&mut backend, query);
    backend.run("ALTER FUNCTION plus(int) VOLATILE");
    assert_eq!(is_never_kept(&mut backend, query), "volatile");
    assert!(marked(&mut backend, query).contains("VOLATILE"));
    backend.run("ALTER FUNCTION plus(int) STABLE");
    is_kept(&mut backend, query);
    backend.run("SELECT shared_lru.alter_cache('c', reset => '{trusted_functions}')");
    assert_eq!(is_never_kept(&mut backend, query), "stable");
    assert!(marked(&mut backend, query).contains("STABLE"));
}

#[test]
fn a_result_follows_the_rows_that_a_trusted_function_reads() {
    let world = world_that_trusts(RATES, "rate(text)");
    follow(
        &world,
        SUM,
        &[
            "UPDATE rates SET rate = rate + 1 WHERE currency = 'usd'",
            "INSERT INTO orders VALUES (100, 'usd')",
            "DELETE FROM rates WHERE currency = 'eur'",
            "COPY rates FROM PROGRAM 'echo eur,7' WITH (FORMAT csv)",
            "BEGIN; UPDATE rates SET rate = 11; PREPARE TRANSACTION 'p';; COMMIT PREPARED 'p'",
            "TRUNCATE rates",
            "INSERT INTO rates VALUES ('eur', 3), ('usd', 4)",
            "ALTER TABLE rates ALTER rate TYPE numeric USING rate + 1",
            "CREATE OR REPLACE FUNCTION rate(text) RETURNS numeric STABLE LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT -rate FROM rates WHERE currency = $1); END'",
            "DROP TABLE rates; CREATE TABLE rates AS SELECT 'usd' AS currency, 5.5 AS rate",
            "ALTER TABLE rates RENAME TO elsewhere; CREATE VIEW rates AS SELECT currency, rate + 1 AS rate FROM elsewhere",
            "UPDATE elsewhere SET rate = 1",
            "CREATE OR REPLACE VIEW rates AS SELECT currency, rate * 3 AS rate FROM elsewhere",
        ],
    );
    let mut backend = world.backend();
    is_kept(&mut backend, SUM);
    let found = depends_on(&mut backend, SUM);
    assert_eq!(found, ["public.elsewhere", "public.orders", "public.rates"]);
    backend.run("UPDATE elsewhere SET rate = 2");
    is_kept(&mut backend, SUM);
    let outdated = "SELECT outdated_by FROM shared_lru.query_entries WHERE query = $1 ORDER BY outdated DESC LIMIT 1";
    let outdated: String = backend.call(outdated, &[&SUM]);
    assert_eq!(outdated, "rows of public.elsewhere");
}

#[test]
fn what_functions_of_a_trusted_function_read_counts_whatever_they_are() {
    let world = world_that_trusts(
        "CREATE TABLE a AS SELECT 1 AS v; CREATE TABLE b AS SELECT 10 AS v; CREATE TABLE c (k int, v int) PARTITION BY LIST (k);
         CREATE TABLE c_1 PARTITION OF c FOR VALUES IN (1); INSERT INTO c VALUES (1, 100);
         CREATE TABLE orders AS SELECT 1 AS id;
         CREATE TYPE pair AS (x int, y int); CREATE TABLE typed AS SELECT row(1, 2)::pair AS p;
         CREATE SCHEMA early; CREATE TABLE public.hidden AS SELECT 1000 AS v;
         CREATE FUNCTION deepest() RETURNS int STABLE LANGUAGE plpgsql SET search_path = early, public AS 'BEGIN RETURN (SELECT max(v) FROM hidden); END';
         CREATE FUNCTION deep() RETURNS int LANGUAGE sql STABLE SET work_mem = '4MB' AS 'SELECT max(v) + deepest() FROM c';
         CREATE FUNCTION of_table(name text) RETURNS text STABLE LANGUAGE plpgsql AS $$
             DECLARE n int; BEGIN EXECUTE format('SELECT max(v) FROM %I', name) INTO n; RETURN (n + deep())::text; END $$;
         CREATE FUNCTION sums(n int) RETURNS int STABLE LANGUAGE plpgsql AS
             'BEGIN RETURN CASE n WHEN 0 THEN 0 WHEN 1 THEN (SELECT max(v) FROM a) ELSE (SELECT max(v) FROM b) END + CASE n WHEN 0 THEN 0 ELSE sums(n - 1) END; END';
         CREATE FUNCTION written() RETURNS text STABLE LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT to_json(p)::text FROM typed); END';
         CREATE FUNCTION several() RETURNS SETOF int STABLE LANGUAGE plpgsql AS
             'DECLARE one int; BEGIN FOR one IN SELECT v FROM a LOOP RETURN NEXT one; END LOOP; RETURN QUERY SELECT v FROM b; END'",
        "of_table(text),sums(int),written(),several()",
    );
    follow(
        &world,
        "SELECT string_agg(of_table(name), ' ') FROM (VALUES ('a'), ('b')) AS v (name), orders",
        &[
            "UPDATE a SET v = 2",
            "UPDATE b SET v = 3",
            "UPDATE c_1 SET v = 4",
            "CREATE TABLE c_2 PARTITION OF c FOR VALUES IN (2); INSERT INTO c VALUES (2, 5000)",
            "ALTER TABLE c DETACH PARTITION c_2",
            "UPDATE hidden SET v = 6",
            // Which its own plans do not notice.
            "CREATE TABLE early.hidden AS SELECT 7 AS v;; DISCARD PLANS",
            "UPDATE early.hidden SET v = 8",
            "DROP TABLE early.hidden",
            "CREATE OR REPLACE FUNCTION deepest() RETURNS int STABLE LANGUAGE plpgsql AS 'BEGIN RETURN 9; END'",
        ],
    );
    follow(&world, "SELECT sums(2)::text FROM orders", &["UPDATE a SET v = 20", "UPDATE b SET v = 30"]);
    follow(&world, "SELECT written() FROM orders", &["ALTER TYPE pair RENAME ATTRIBUTE x TO z"]);
    follow(&world, "SELECT sum(n)::text FROM several() AS n, orders", &["UPDATE a SET v = 21", "UPDATE b SET v = 31"]);
}

#[test]
fn what_an_older_plan_found_by_a_name_is_not_kept() {
    let world = world_that_trusts(
        "CREATE SCHEMA early; ALTER DATABASE postgres SET search_path = early, public; CREATE TABLE t AS SELECT 1 AS v; CREATE TABLE hidden AS SELECT 1 AS v;
         CREATE FUNCTION base() RETURNS int STABLE LANGUAGE plpgsql AS 'BEGIN RETURN 1; END';
         CREATE FUNCTION one() RETURNS int STABLE LANGUAGE plpgsql AS 'BEGIN RETURN 1; END';
         CREATE FUNCTION reads() RETURNS int STABLE LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT max(v) FROM hidden) + one(); END'",
        "base(),reads()",
    );
    let query = "SELECT reads()::text FROM t";
    for (change, value) in [
        ("CREATE TABLE early.hidden AS SELECT 10 AS v", "11"),
        ("CREATE FUNCTION early.one() RETURNS int STABLE LANGUAGE plpgsql AS 'BEGIN RETURN 2; END'", "12"),
        ("DROP TABLE early.hidden", "3"),
        ("CREATE TABLE early.hidden AS SELECT 20 AS v", "22"),
    ] {
        // Its plan is made before anybody looks, or was looked at before.
        let (mut first, mut second) = (world.backend(), world.backend());
        is_kept(&mut first, "SELECT base()::text FROM t");
        first.run(query);
        is_kept(&mut second, query);
        world.backend().run(change);
        let calls = [&mut first, &mut second].map(|backend| backend.one::<String>(&fetch(query)));
        assert_eq!(same(&mut world.backend(), query).as_deref(), Some(value), "{change}");
        assert_eq!([&calls[1], &first.one(&fetch(query)), &second.one(&fetch(query))], [value; 3], "{change}");
    }
}

#[test]
fn what_an_older_plan_has_of_other_settings_is_not_kept() {
    let world = world_that_trusts(
        r"CREATE TABLE t AS SELECT 1 AS v;
         CREATE FUNCTION base() RETURNS int STABLE LANGUAGE plpgsql AS 'BEGIN RETURN 1; END';
         CREATE FUNCTION written() RETURNS text STABLE LANGUAGE plpgsql AS $$ BEGIN RETURN (SELECT max('\x00ff'::bytea::text) FROM t); END $$",
        "base(),written()",
    );
    let mut backend = world.backend();
    is_kept(&mut backend, "SELECT base()::text FROM t");
    backend.run("SET bytea_output = escape; SELECT written(); RESET bytea_output");
    let query = "SELECT written() FROM t";
    assert_eq!(backend.one::<String>(&fetch(query)), r"\x00ff");
    assert_eq!(same(&mut world.backend(), query).as_deref(), Some(r"\x00ff"));
    assert_eq!(backend.one::<String>(&fetch(query)), r"\x00ff");
}

#[test]
fn what_a_function_reads_for_a_setting_that_is_named_is_kept_for_each_value() {
    let world = world_that_trusts(
        "CREATE TABLE t AS SELECT 1 AS v; CREATE TABLE tenants AS SELECT * FROM (VALUES ('a', 1), ('b', 2)) AS v (tenant, n);
         CREATE FUNCTION own() RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN current_setting('app.tenant'); END $$;
         CREATE FUNCTION of_tenant() RETURNS int STABLE LANGUAGE plpgsql AS
             $$ BEGIN RETURN (SELECT n FROM tenants WHERE tenant = own()); END $$",
        "of_tenant()",
    );
    let mut backend = world.backend();
    backend.run("SELECT shared_lru.alter_cache('c', settings => '{app.tenant}')");
    let query = "SELECT of_tenant()::text FROM t";
    for (tenant, n) in [("a", "1"), ("b", "2"), ("a", "1")] {
        // In whose plan the setting's value is.
        backend.run(&format!("SET app.tenant = '{tenant}'"));
        let mut other = world.backend();
        other.run(&format!("SET app.tenant = '{tenant}'"));
        assert_eq!(backend.one::<String>(&fetch(query)), n);
        assert_eq!(is_kept(&mut other, query).as_deref(), Some(n));
    }
}

#[test]
fn where_results_go_by_their_age_a_trusted_function_runs_queries_too() {
    let world = World::new();
    let mut backend = world.backend();
    backend.run(&format!(
        "{RATES}; CREATE TEMPORARY TABLE own AS SELECT 1 AS v;
         CREATE FUNCTION reads_own() RETURNS int STABLE LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT max(v) FROM own); END';
         SELECT shared_lru.create_cache('c', ttl => '1 hour', accept_unchecked => true, trusted_functions => '{{rate(text),reads_own()}}')"
    ));
    let first = is_kept(&mut backend, SUM);
    backend.run("UPDATE rates SET rate = rate + 1");
    assert_eq!(backend.one::<Option<String>>(&fetch(SUM)), first, "nothing but the time ends it");
    assert_eq!(is_never_kept(&mut backend, "SELECT reads_own()::text"), "temporary");
}

#[test]
fn every_function_of_a_query_has_to_be_trusted_wherever_it_is() {
    let world = world_that_trusts(
        "CREATE TABLE t AS SELECT 1 AS v; CREATE TABLE rates AS SELECT 2 AS rate;
         CREATE FUNCTION rate() RETURNS int STABLE LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT max(rate) FROM rates); END';
         CREATE FUNCTION same(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN $1; END';
         CREATE FUNCTION same(int, int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN $1; END';
         CREATE FUNCTION is_right(int) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN true; END';
         CREATE OPERATOR ~~~ (LEFTARG = int, RIGHTARG = int, FUNCTION = same);
         CREATE DOMAIN right_one AS int CHECK (is_right(VALUE));
         CREATE TYPE pair AS (x int, y int);
         CREATE FUNCTION to_json_of(pair) RETURNS json IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN '[]'; END $$;
         CREATE CAST (pair AS json) WITH FUNCTION to_json_of(pair);
         CREATE AGGREGATE last_of (int) (SFUNC = same, STYPE = int)",
        "rate()",
    );
    let mut backend = world.backend();
    for (query, function) in [
        ("SELECT same(rate())::text FROM t", "same(integer)"),
        ("SELECT (rate() ~~~ v)::text FROM t", "same(integer,integer)"),
        ("SELECT (rate()::right_one)::text FROM t", "is_right(integer)"),
        ("SELECT concat(rate(), to_json(row(v, 1)::pair)) FROM t", "to_json_of(pair)"),
        ("SELECT (last_of(v) + rate())::text FROM t", "same(integer,integer)"),
    ] {
        trust(&mut backend, "rate()");
        assert_eq!(is_never_kept(&mut backend, query), "runs_queries", "{query}");
        let result = marked(&mut backend, query);
        assert!(
            result.contains("runs queries")
                && result.contains(&format!("does not name public.{}", function.replace("(pair", "(public.pair"))),
            "{query}: {result}"
        );
        trust(&mut backend, &format!("rate(),\"{function}\""));
        follow(&world, query, &["UPDATE rates SET rate = rate + 1"]);
    }
}

#[test]
fn what_an_index_or_a_guess_of_the_planner_asks_a_function_is_no_secret() {
    let world = world_that_trusts(
        &format!(
            "{RATES}; CREATE TABLE many AS SELECT n AS id FROM generate_series(1, 10000) AS n; CREATE INDEX ON many (id); ANALYZE many"
        ),
        "rate(text)",
    );
    follow(
        &world,
        "SELECT count(*)::text FROM many WHERE id <= rate('usd')::int",
        &["UPDATE rates SET rate = 50 WHERE currency = 'usd'", "DELETE FROM many WHERE id = 7"],
    );
    // Which goes back asks it anew.
    let mut backend = world.backend();
    backend.run("BEGIN");
    backend.run("/* shared_lru: c */ DECLARE k SCROLL CURSOR FOR SELECT id FROM many WHERE id <= rate('usd')::int");
    assert_eq!(backend.all::<i32>("FETCH 3 FROM k"), [1, 2, 3]);
    backend.run("MOVE ABSOLUTE 0 FROM k");
    assert_eq!(backend.all::<i32>("FETCH ALL FROM k").len(), 49);
    backend.run("COMMIT");
    follow(
        &world,
        "SELECT string_agg(id::text, ' ') FROM many WHERE id <= rate('usd')::int",
        &["UPDATE rates SET rate = 2"],
    );
}

#[test]
fn an_immutable_function_that_reads_is_taken_where_it_is_trusted() {
    let world = world_that_trusts(
        "CREATE TABLE rates AS SELECT 2 AS rate; CREATE TABLE orders AS SELECT n AS total FROM generate_series(1, 3) AS n;
         CREATE FUNCTION times(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT $1 * rate FROM rates); END';
         CREATE FUNCTION other(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN $1; END';
         CREATE FUNCTION plus_times(int, int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
             'BEGIN RETURN (SELECT $1 + $2 * rate FROM rates); END';
         CREATE AGGREGATE added (int) (SFUNC = plus_times, STYPE = int, INITCOND = '0')",
        r#"times(int),"plus_times(int,int)""#,
    );
    let changes = ["UPDATE rates SET rate = rate + 1"];
    follow(&world, "SELECT sum(times(total))::text FROM orders", &changes);
    follow(&world, "SELECT added(total)::text FROM orders", &changes);
    let mut backend = world.backend();
    // In the plan of a call, which is made for it.
    for _ in 0..2 {
        assert!(is_kept(&mut backend, "SELECT (times(1) + sum(total))::text FROM orders").is_some());
        backend.run("UPDATE rates SET rate = rate + 1");
    }
    // A marked statement's plan may be old.
    assert_eq!(
        marked(&mut backend, "SELECT (times(1) + sum(total))::text FROM orders"),
        "a function in it runs queries, over rates"
    );
    // Nobody says of the other one what it reads.
    let query = "SELECT sum(times(other(total)))::text FROM orders";
    assert_eq!(is_never_kept(&mut backend, query), "runs_queries");
    let why = "a function in it runs queries, over rates: trusted_functions does not name public.other(integer)";
    assert_eq!(marked(&mut backend, query), format!("miss, not stored: {why}"));
    assert_eq!(explained(&mut backend, "SELECT times(other(1))::text"), (false, Some(why.to_owned())));
    is_kept(&mut backend, "SELECT sum(other(total))::text FROM orders");
}

#[test]
fn what_no_result_depends_on_is_refused_in_functions_too() {
    let world = world_that_trusts(
        "CREATE TABLE t AS SELECT 1 AS v; CREATE TABLE log (v int); CREATE TABLE big AS SELECT n AS v FROM generate_series(1, 100000) AS n;
         CREATE FUNCTION runs(what text) RETURNS text STABLE LANGUAGE plpgsql AS
             'DECLARE n text; BEGIN EXECUTE what INTO n; RETURN n; END';
         CREATE FUNCTION also_runs(what text) RETURNS text VOLATILE LANGUAGE plpgsql AS
             'DECLARE n text; BEGIN EXECUTE what INTO n; RETURN n; END';
         CREATE FUNCTION sums() RETURNS text STABLE LANGUAGE plpgsql AS
             'DECLARE n text; BEGIN SELECT sum(v)::text INTO n FROM big; RETURN n; END'",
        "runs(text),sums()",
    );
    let mut backend = world.backend();
    backend.run("CREATE TEMPORARY TABLE own AS SELECT 1 AS v; CREATE SEQUENCE numbers; SELECT nextval('numbers')");
    for (inner, reason) in [
        ("SELECT count(*)::text FROM pg_class WHERE false", "catalog"),
        ("SELECT v::text FROM own", "temporary"),
        ("SELECT last_value::text FROM numbers", "sequence"),
        ("SELECT also_runs('INSERT INTO log VALUES (1) RETURNING v::text')", "changes_rows"),
        (
            "SELECT also_runs('WITH w AS (INSERT INTO log VALUES (1) RETURNING v) SELECT v::text FROM w')",
            "changes_rows",
        ),
        ("SELECT also_runs('SELECT v::text FROM t FOR UPDATE')", "locks_rows"),
    ] {
        let query = format!("SELECT runs({}) FROM t", quoted(inner));
        assert_eq!(is_never_kept(&mut backend, &query), reason, "{inner}");
        let result = marked(&mut backend, &query);
        assert!(result.starts_with("miss, not stored: "), "{inner}: {result}");
    }
    // A command that plans nothing.
    let query = format!("SELECT runs({}) FROM t", quoted("SELECT also_writes()"));
    backend.run(
        "CREATE FUNCTION also_writes() RETURNS text VOLATILE LANGUAGE plpgsql AS 'BEGIN COPY log FROM PROGRAM ''echo 1''; RETURN 1; END'",
    );
    assert_eq!(is_never_kept(&mut backend, &query), "changes_rows");
    // Where workers run, nobody looks.
    let forced = if crate::cluster::major_version().expect("there is one") >= 16 {
        "debug_parallel_query"
    } else {
        "force_parallel_mode"
    };
    assert!(is_kept(&mut backend, "SELECT sums() FROM t").is_some());
    backend.run(&format!("SET {forced} = on; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; SELECT shared_lru.clear('c')"));
    let mut other = world.backend();
    other.run(&format!("SET {forced} = on; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0"));
    assert_eq!(is_never_kept(&mut other, "SELECT sums() FROM t"), "runs_queries");
    assert_eq!(
        marked(&mut other, "SELECT sums() FROM t"),
        "miss, not stored: a function in it runs a query with parallel workers"
    );
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[test]
fn what_a_function_reads_in_a_newer_snapshot_is_not_kept() {
    let world = world_that_trusts(
        &format!(
            "CREATE TABLE t AS SELECT 1 AS v; CREATE TABLE later AS SELECT 1 AS v; {WAITS};
             CREATE FUNCTION newest() RETURNS int VOLATILE LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT max(v) FROM later); END';
             CREATE FUNCTION reads(int) RETURNS int STABLE LANGUAGE plpgsql AS 'BEGIN RETURN waits($1) * newest(); END'"
        ),
        "reads(int)",
    );
    let mut admin = world.backend();
    let call = "SELECT shared_lru.fetch('c', 'SELECT max(reads(v)) FROM t', NULL::int)";
    assert_eq!(while_it_runs(&world, call, |other| other.run("UPDATE later SET v = 2")), 2);
    assert_eq!(admin.one::<i64>("SELECT count(*) FROM shared_lru.entries('c')"), 0);
    assert_eq!(
        admin.all::<String>("SELECT reason FROM shared_lru.query_refusals WHERE cache = 'c'"),
        ["two_snapshots"]
    );
    // Nothing has happened in between.
    admin.run(call);
    assert_eq!(admin.one::<i64>("SELECT count(*) FROM shared_lru.entries('c')"), 1);
}

#[test]
fn what_changes_while_a_function_runs_makes_another_result() {
    let world = world_that_trusts(
        &format!(
            "CREATE TABLE t AS SELECT 1 AS v; CREATE TABLE rates AS SELECT 1 AS rate; CREATE SCHEMA early; {WAITS};
             ALTER DATABASE postgres SET search_path = early, public;
             CREATE FUNCTION rate() RETURNS int STABLE LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT max(rate) FROM rates); END';
             CREATE FUNCTION reads(int) RETURNS int STABLE LANGUAGE plpgsql AS 'BEGIN RETURN rate() * waits($1) * rate(); END'"
        ),
        "reads(int),waits(int)",
    );
    // With the search path.
    let mut admin = world.backend();
    let query = "SELECT max(reads(v))::text FROM t";
    for call in [
        format!("SELECT shared_lru.fetch('c', '{query}', NULL::text)::int"),
        "/* shared_lru: c */ SELECT max(reads(v)) FROM t".to_owned(),
    ] {
        for change in [
            "UPDATE rates SET rate = rate + 1",
            "CREATE OR REPLACE FUNCTION public.rate() RETURNS int STABLE LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT max(rate) + 1 FROM rates); END'",
            "GRANT SELECT ON rates TO PUBLIC",
            "CREATE TABLE early.rates AS SELECT 100 AS rate",
        ] {
            admin.run("SELECT shared_lru.clear('c')");
            let call = &call;
            while_it_runs(&world, call, |other| other.run(change));
            let direct: i32 = world.backend().one("SELECT max(reads(v)) FROM t");
            assert_eq!((admin.one::<i32>(call), admin.one::<i32>(call)), (direct, direct), "{change}");
        }
        admin.run("DROP TABLE early.rates");
    }
}

#[test]
fn a_transaction_sees_what_it_has_written_where_functions_read() {
    let world = world_that_trusts(RATES, "rate(text)");
    let (mut writer, mut reader, mut old) = (world.backend(), world.backend(), world.backend());
    let first = is_kept(&mut reader, SUM);
    old.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1");
    writer.run("BEGIN; UPDATE rates SET rate = rate + 1");
    // At a hit, and where it makes one.
    let own = same(&mut writer, SUM);
    assert_ne!(own, first);
    let other = "SELECT max(rate(currency))::text FROM orders";
    let seen = same(&mut writer, other);
    assert_eq!(is_kept(&mut reader, SUM), first);
    assert_ne!(is_kept(&mut reader, other), seen);
    writer.run("COMMIT");
    assert_eq!((is_kept(&mut reader, SUM), is_kept(&mut reader, other)), (own, seen));
    assert_eq!(same(&mut old, SUM), first, "an older snapshot");
    old.run("COMMIT");
    // What it has not touched is kept.
    writer.run("CREATE TABLE unread (n int); BEGIN; INSERT INTO unread VALUES (1)");
    is_kept(&mut writer, SUM);
    writer.run("SAVEPOINT s; UPDATE rates SET rate = 0");
    assert_eq!(same(&mut writer, SUM).as_deref(), Some("0"));
    writer.run("ROLLBACK TO s; RELEASE s");
    same(&mut writer, SUM);
    writer.run("ROLLBACK");
    is_kept(&mut writer, SUM);
    // A statement that is prepared, and a right that is taken away.
    reader.run(&format!("PREPARE q AS {}", fetch(SUM)));
    let before: Option<String> = reader.one("EXECUTE q");
    writer.run("UPDATE rates SET rate = rate + 5");
    assert_ne!(reader.one::<Option<String>>("EXECUTE q"), before);
}

#[test]
fn who_may_not_read_what_a_function_reads_is_told_so() {
    let world = world_that_trusts(RATES, "rate(text)");
    let mut admin = world.backend();
    admin.run(
        "CREATE ROLE alice LOGIN; GRANT USAGE ON SCHEMA shared_lru TO alice; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA shared_lru TO alice;
         SELECT shared_lru.grant_cache('c', 'alice', 'read'), shared_lru.grant_cache('c', 'alice', 'write');
         GRANT SELECT ON orders, rates TO alice; GRANT pg_monitor TO alice",
    );
    let mut alice = world.backend_as("alice");
    is_kept(&mut alice, SUM);
    admin.run("REVOKE SELECT ON rates FROM alice");
    alice.refused(&fetch(SUM)).is("42501", &["rates"]);
    admin.run("GRANT SELECT ON rates TO alice; ALTER TABLE rates ENABLE ROW LEVEL SECURITY");
    assert_eq!(is_kept(&mut alice, SUM), None);
    admin.run("CREATE POLICY only_some ON rates USING (currency = 'eur')");
    assert_eq!(is_kept(&mut alice, SUM).as_deref(), Some("30"));
}

#[test]
fn an_error_in_a_function_ends_what_was_begun_in_it() {
    let world = world_that_trusts(
        "CREATE TABLE t AS SELECT 1 AS v; CREATE TABLE a AS SELECT 1 AS v; CREATE TABLE b AS SELECT 1 AS v; CREATE TABLE fails AS SELECT 0 AS v;
         CREATE FUNCTION guarded() RETURNS int STABLE LANGUAGE plpgsql AS
             'BEGIN
                 BEGIN RETURN (SELECT max(1 / f.v) FROM fails AS f); EXCEPTION WHEN division_by_zero THEN NULL; END;
                 BEGIN RETURN shared_lru.fetch(''c'', ''SELECT max(1 / v) FROM fails'', NULL::int); EXCEPTION WHEN division_by_zero THEN NULL; END;
                 RETURN (SELECT max(v) FROM a);
             END';
         CREATE FUNCTION reads_b() RETURNS int STABLE LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT max(v) FROM b); END';
         CREATE FUNCTION fails() RETURNS int STABLE LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT 1 / max(v) FROM fails); END'",
        "guarded(),fails(),reads_b()",
    );
    // Who handles an ERROR is not kept; without rows that divide there is none.
    let mut backend = world.backend();
    assert_eq!(is_never_kept(&mut backend, "SELECT guarded()::text FROM t"), "runs_queries");
    backend.run("UPDATE fails SET v = 1");
    follow(&world, "SELECT guarded()::text FROM t", &["UPDATE fails SET v = 2", "UPDATE fails SET v = 1"]);
    backend.run("UPDATE fails SET v = 0");
    assert_eq!(is_never_kept(&mut backend, "SELECT guarded()::text FROM t"), "runs_queries");
    backend.run("UPDATE a SET v = 2");
    same(&mut backend, "SELECT guarded()::text FROM t");
    let failing = fetch("SELECT fails()::text FROM t");
    for _ in 0..2 {
        backend.refused(&failing).is("22012", &["division"]);
        backend.refused("/* shared_lru: c */ SELECT fails()::text FROM t").is("22012", &["division"]);
    }
    backend.run(&format!(
        "BEGIN; SAVEPOINT s; DO $do$ BEGIN PERFORM ({failing}); EXCEPTION WHEN OTHERS THEN NULL; END $do$; ROLLBACK TO s; COMMIT"
    ));
    let query = "SELECT reads_b()::text FROM t";
    is_kept(&mut backend, query);
    assert_eq!(depends_on(&mut backend, query), ["public.b", "public.t"]);
    follow(&world, query, &["UPDATE b SET v = 2"]);
}

#[test]
fn a_function_that_asks_for_a_result_depends_on_what_that_depends_on() {
    let world = world_that_trusts(
        "CREATE TABLE t AS SELECT 1 AS v; CREATE TABLE rates AS SELECT 2 AS rate; SELECT shared_lru.create_cache('other');
         CREATE FUNCTION rate() RETURNS int STABLE LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT max(rate) FROM rates); END';
         CREATE FUNCTION fetched() RETURNS int STABLE LANGUAGE plpgsql AS
             $$ BEGIN RETURN shared_lru.fetch('other', 'SELECT max(rate) FROM rates', NULL::int); END $$;
         CREATE FUNCTION fetched_deep() RETURNS int STABLE LANGUAGE plpgsql AS
             $$ BEGIN RETURN shared_lru.fetch('other', 'SELECT rate() FROM t', NULL::int); END $$;
         CREATE FUNCTION in_mark() RETURNS int STABLE LANGUAGE plpgsql AS
             $$ DECLARE n int; BEGIN EXECUTE '/* shared_lru: other */ SELECT max(rate) FROM rates' INTO n; RETURN n; END $$;
         CREATE FUNCTION in_mark_deep() RETURNS int STABLE LANGUAGE plpgsql AS
             $$ DECLARE n int; BEGIN FOR n IN EXECUTE '/* shared_lru: other */ SELECT rate() FROM t' LOOP RETURN n; END LOOP; END $$;
         CREATE FUNCTION tagged() RETURNS int STABLE LANGUAGE plpgsql AS
             $$ BEGIN RETURN shared_lru.fetch_with('c', NULL, '{a}', NULL, 'SELECT max(rate) FROM rates', NULL::int); END $$;
         CREATE FUNCTION short() RETURNS int STABLE LANGUAGE plpgsql AS
             $$ BEGIN RETURN shared_lru.fetch_with('c', '1 h', NULL, NULL, 'SELECT max(rate) FROM rates', NULL::int); END $$",
        "rate(),fetched(),fetched_deep(),in_mark(),in_mark_deep(),tagged(),short()",
    );
    let mut backend = world.backend();
    backend.run("SELECT shared_lru.alter_cache('other', trusted_functions => '{rate()}')");
    for function in ["fetched", "fetched_deep", "in_mark", "in_mark_deep"] {
        let query = format!("SELECT {function}()::text FROM t");
        // The result inside is there, or is not.
        for before in ["SELECT shared_lru.clear('c'), shared_lru.clear('other')".to_owned(), query.clone()] {
            backend.run(&before);
            is_kept(&mut backend, &query);
            let found = depends_on(&mut backend, &query);
            assert!(found.contains(&"public.rates".to_owned()), "{function}: {found:?}");
            follow(
                &world,
                &query,
                &["UPDATE rates SET rate = rate + 1", "ALTER TABLE rates ALTER rate TYPE int USING rate + 1"],
            );
            backend.run("UPDATE rates SET rate = rate + 1");
        }
    }
    for function in ["tagged", "short"] {
        let query = format!("SELECT {function}()::text FROM t");
        // But the one inside is served.
        backend.run(&query);
        backend.run("SELECT shared_lru.reset_stats('c')");
        let calls = fetch(&query);
        assert_eq!(backend.one::<String>(&calls), backend.one::<String>(&calls));
        let reasons: Vec<String> = backend.all("SELECT reason FROM shared_lru.query_refusals WHERE cache = 'c'");
        assert_eq!((reasons, hits(&mut backend)), (vec!["runs_queries".to_owned()], 2), "{function}");
    }
}

#[test]
fn a_function_that_asks_for_a_result_runs_a_query_also_where_that_is_kept() {
    let world = world_that_trusts(
        "CREATE TABLE rates AS SELECT 2 AS rate; CREATE TABLE t AS SELECT 1 AS v; SELECT shared_lru.create_cache('other');
         CREATE FUNCTION fetched(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
             $$ BEGIN RETURN shared_lru.fetch('other', 'SELECT max(rate) FROM rates', NULL::int); END $$",
        "",
    );
    let mut backend = world.backend();
    for query in ["SELECT fetched(1)::text FROM t", "SELECT fetched(v)::text FROM t"] {
        backend.run(query);
        assert_eq!(is_never_kept(&mut backend, query), "runs_queries");
        assert!(marked(&mut backend, query).contains("a function in it runs queries"));
        backend.run("UPDATE rates SET rate = rate + 1");
        same(&mut backend, query);
    }
}

#[test]
fn a_plan_of_a_function_knows_what_was_changed_though_its_locks_are_held() {
    let world = world_that_trusts(
        "CREATE TABLE t AS SELECT 1 AS v; CREATE TABLE rates AS SELECT 2 AS rate;
         CREATE FUNCTION factor() RETURNS int STABLE LANGUAGE sql AS 'SELECT 10';
         CREATE FUNCTION reads() RETURNS int STABLE LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT max(rate) * factor() FROM rates); END'",
        "reads()",
    );
    let (mut reader, mut other) = (world.backend(), world.backend());
    let query = "SELECT reads()::text FROM t";
    for level in ["READ COMMITTED", "REPEATABLE READ"] {
        for (number, value) in [(10, "20"), (100, "200"), (1000, "2000")] {
            // Its plan is made, and its locks are held.
            reader.run(&format!("BEGIN ISOLATION LEVEL {level}; {query}; {}", fetch(query)));
            other.run(&format!(
                "CREATE OR REPLACE FUNCTION factor() RETURNS int STABLE LANGUAGE sql AS 'SELECT {number}'; SELECT shared_lru.clear('c')"
            ));
            let call = reader.one::<String>(&fetch(query));
            assert_eq!(same(&mut other, query).as_deref(), Some(value), "{level}: the other got {call}");
            reader.run("COMMIT");
            assert_eq!(is_kept(&mut reader, query).as_deref(), Some(value), "{level}");
        }
    }
}

#[test]
fn sessions_that_ask_for_each_others_results_wait_for_nobody() {
    let world = world_that_trusts(
        &format!(
            "CREATE TABLE t AS SELECT 1 AS v; {WAITS};
             CREATE FUNCTION asks(int) RETURNS int STABLE LANGUAGE plpgsql AS
             $$ BEGIN RETURN shared_lru.fetch('c', 'SELECT max(waits(v)) FROM t', NULL::int); END $$"
        ),
        "asks(int)",
    );
    let (mut admin, mut asking) = (world.backend(), world.backend());
    let inner = "SELECT shared_lru.fetch('c', 'SELECT max(waits(v)) FROM t', NULL::int)";
    let pid = asking.pid();
    std::thread::scope(|scope| {
        let mut asked = None;
        while_it_runs(&world, inner, |other| {
            asked = Some(scope.spawn(move || {
                asking.one::<i32>("SELECT shared_lru.fetch('c', 'SELECT max(asks(v)) FROM t', NULL::int)")
            }));
            let at_gate = "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $1 AND NOT granted AND objid = 7)";
            wait_until("it computes beside", || other.call(at_gate, &[&pid]));
        });
        assert_eq!(asked.expect("it began").join().expect("it ends"), 1);
    });
    admin.validate();
}

#[test]
fn what_a_function_gives_after_an_error_that_it_handles_is_not_kept() {
    let world = world_that_trusts(
        "CREATE TABLE t AS SELECT 1 AS v;
         CREATE FUNCTION reads() RETURNS int STABLE LANGUAGE plpgsql AS
             'BEGIN RETURN (SELECT max(v) FROM missing); EXCEPTION WHEN undefined_table THEN RETURN 0; END'",
        "reads()",
    );
    let (mut backend, mut other) = (world.backend(), world.backend());
    let query = "SELECT reads()::text FROM t";
    let marked_query = format!("/* shared_lru: c */ {query}");
    for (change, value) in
        [("SELECT 1", "0"), ("CREATE TABLE missing AS SELECT 7 AS v", "7"), ("DROP TABLE missing", "0")]
    {
        other.run(change);
        for backend in [&mut backend, &mut other] {
            for _ in 0..2 {
                assert_eq!(same(backend, query).as_deref(), Some(value), "{change}");
                assert_eq!(backend.one::<String>(&marked_query), value, "marked, after {change}");
            }
        }
    }
}

#[test]
fn a_plan_from_a_definition_that_was_rolled_back_is_not_kept() {
    let world = world_that_trusts(
        "CREATE SCHEMA early; ALTER DATABASE postgres SET search_path = early, public; CREATE TABLE t AS SELECT 1 AS v;
         CREATE TABLE early.hidden AS SELECT 10 AS v; CREATE TABLE public.hidden AS SELECT 1 AS v;
         CREATE FUNCTION base() RETURNS int STABLE LANGUAGE plpgsql AS 'BEGIN RETURN 1; END';
         CREATE FUNCTION reads() RETURNS int STABLE LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT max(v) FROM hidden); END'",
        "base(),reads()",
    );
    let query = "SELECT reads()::text FROM t";
    for (begin, end) in [
        ("BEGIN", "ROLLBACK"),
        ("BEGIN; SAVEPOINT s", "ROLLBACK TO s; COMMIT"),
        ("BEGIN; SAVEPOINT s; SAVEPOINT r", "RELEASE r; ROLLBACK TO s; COMMIT"),
    ] {
        let mut backend = world.backend();
        is_kept(&mut backend, "SELECT base()::text FROM t");
        backend.run(&format!("{begin}; DROP TABLE early.hidden; {query}; {end}; SELECT shared_lru.clear('c')"));
        let call = backend.one::<String>(&fetch(query));
        assert_eq!(same(&mut world.backend(), query).as_deref(), Some("10"), "{end}: the other got {call}");
        assert_eq!(is_kept(&mut backend, query).as_deref(), Some("10"), "{end}");
    }
}

#[test]
fn what_a_function_reads_while_partitions_are_chosen_is_no_secret() {
    let world = world_that_trusts(
        "CREATE TABLE parts (k int) PARTITION BY LIST (k); CREATE TABLE part_1 PARTITION OF parts FOR VALUES IN (1);
         CREATE TABLE part_2 PARTITION OF parts FOR VALUES IN (2); INSERT INTO parts VALUES (1); CREATE TABLE choice AS SELECT 2 AS k;
         CREATE FUNCTION chosen() RETURNS int STABLE LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT max(k) FROM choice); END';
         CREATE FUNCTION chosen(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT max(k) FROM choice); END'",
        "chosen()",
    );
    let mut backend = world.backend();
    backend.run("SET plan_cache_mode = force_generic_plan; /* shared_lru: c */ PREPARE q AS SELECT count(*)::text FROM parts WHERE k = chosen($1)");
    let query = "SELECT count(*)::text FROM parts WHERE k = chosen()";
    for (k, count) in [(2, "0"), (1, "1"), (3, "0"), (1, "1")] {
        backend.run(&format!("UPDATE choice SET k = {k}"));
        for _ in 0..2 {
            assert_eq!(same(&mut backend, query).as_deref(), Some(count), "{k}");
            assert_eq!(backend.one::<String>(&format!("/* shared_lru: c */ {query}")), count, "marked, {k}");
            assert_eq!(backend.one::<String>("EXECUTE q (1)"), count, "not trusted, {k}");
        }
    }
}

#[test]
fn what_a_function_has_read_for_the_planner_is_read_again() {
    let world = world_that_trusts(
        "CREATE TABLE t AS SELECT 1 AS v; CREATE TABLE rates AS SELECT 2 AS rate;
         CREATE FUNCTION base() RETURNS int STABLE LANGUAGE plpgsql AS 'BEGIN RETURN 1; END';
         CREATE FUNCTION times(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT $1 * rate FROM rates); END';
         CREATE FUNCTION reads() RETURNS int STABLE LANGUAGE plpgsql AS 'BEGIN RETURN times(10); END'",
        "base(),times(int),reads()",
    );
    let (mut first, mut second) = (world.backend(), world.backend());
    let query = "SELECT reads()::text FROM t";
    is_kept(&mut first, "SELECT base()::text FROM t");
    first.run(query);
    for (change, value) in
        [("SELECT 1", "20"), ("UPDATE rates SET rate = 3", "30"), ("UPDATE rates SET rate = 4", "40")]
    {
        second.run(change);
        let call = first.one::<String>(&fetch(query));
        assert_eq!(same(&mut world.backend(), query).as_deref(), Some(value), "the other got {call}");
        assert_eq!(is_kept(&mut first, query).as_deref(), Some(value));
    }
}

#[test]
fn texts_that_a_function_has_in_another_syntax_are_not_kept() {
    let world = world_that_trusts(
        r"CREATE TABLE t AS SELECT 1 AS v;
         CREATE FUNCTION base() RETURNS int STABLE LANGUAGE plpgsql AS 'BEGIN RETURN 1; END';
         CREATE FUNCTION written() RETURNS text STABLE LANGUAGE plpgsql AS $$ BEGIN RETURN (SELECT max('a\\b') FROM t); END $$",
        "base(),written()",
    );
    let query = "SELECT written() FROM t";
    for prepare in ["SELECT '1'::text", "SELECT base()::text FROM t"] {
        let mut backend = world.backend();
        backend.run("SELECT shared_lru.clear('c')");
        same(&mut backend, prepare);
        backend.run("SET standard_conforming_strings = off; SELECT written(); RESET standard_conforming_strings");
        let call = backend.one::<String>(&fetch(query));
        assert_eq!(same(&mut world.backend(), query).as_deref(), Some(r"a\\b"), "the other got {call}");
    }
}

#[test]
fn types_that_only_a_function_names_are_followed() {
    let world = world_that_trusts(
        "CREATE SCHEMA early; ALTER DATABASE postgres SET search_path = early, public;
         CREATE TABLE t AS SELECT 1 AS v; CREATE TYPE pair AS (x int, y int); CREATE TYPE two AS (x int, y int); CREATE DOMAIN amount AS int;
         CREATE FUNCTION rounded() RETURNS text STABLE LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT (max(v) * 1.26)::amount::text FROM t); END';
         CREATE FUNCTION times(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT $1 * max(v) FROM t); END';
         CREATE FUNCTION asks() RETURNS text STABLE LANGUAGE plpgsql AS
             $$ BEGIN RETURN (SELECT to_json(row(v, 1)::two)::text || times(1) FROM t) || shared_lru.fetch('c', 'SELECT rounded() FROM t', NULL::text); END $$;
         CREATE FUNCTION declared() RETURNS text STABLE LANGUAGE plpgsql AS
             'DECLARE p pair; BEGIN SELECT v, v INTO p.x, p.y FROM t; RETURN to_json(p)::text; END';
         CREATE FUNCTION cast_to() RETURNS text STABLE LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT to_json(row(v, 1)::two)::text FROM t); END'",
        "declared(),cast_to(),rounded(),asks(),times(int)",
    );
    let (mut admin, mut reader) = (world.backend(), world.backend());
    let queries = ["SELECT declared() FROM t", "SELECT cast_to() FROM t", "SELECT rounded() FROM t"];
    // Which makes a result inside of its own.
    let asks = "SELECT asks() FROM t";
    for change in [
        "SELECT 1",
        "ALTER TYPE pair ADD ATTRIBUTE z int",
        "CREATE DOMAIN early.amount AS numeric(5, 1)",
        "DROP DOMAIN early.amount",
        "ALTER TYPE two RENAME ATTRIBUTE y TO z",
    ] {
        admin.run(change);
        for query in queries {
            // Whose plan may be older.
            reader.run(&fetch(query));
            same(&mut world.backend(), query);
            is_kept(&mut world.backend(), query);
            is_kept(&mut reader, query);
        }
        for _ in 0..2 {
            reader.run(&fetch(asks));
            same(&mut world.backend(), asks);
        }
    }
}

#[test]
fn what_a_function_has_read_for_the_planner_between_two_fetches_is_not_kept() {
    let world = world_that_trusts(
        "CREATE TABLE t AS SELECT n AS v FROM generate_series(1, 2) AS n; CREATE TABLE rates AS SELECT 2 AS rate;
         CREATE FUNCTION times(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT $1 * rate FROM rates); END';
         CREATE FUNCTION reads() RETURNS int STABLE LANGUAGE plpgsql AS 'BEGIN RETURN times(10); END'",
        "times(int),reads()",
    );
    let (mut backend, mut other) = (world.backend(), world.backend());
    let query = "SELECT CASE v WHEN 1 THEN 0 ELSE reads() END FROM t";
    backend.run("BEGIN");
    backend.run(&format!("/* shared_lru: c */ DECLARE k CURSOR FOR {query}"));
    assert_eq!(backend.all::<i32>("FETCH 1 FROM k"), [0]);
    other.run("UPDATE rates SET rate = 3");
    backend.run("SELECT reads()");
    assert_eq!(backend.all::<i32>("FETCH ALL FROM k").len(), 1);
    backend.run("COMMIT");
    other.run("UPDATE rates SET rate = 4");
    for backend in [&mut world.backend(), &mut other] {
        assert_eq!(backend.all::<i32>(&format!("/* shared_lru: c */ {query}")), [0, 40]);
    }
}
