//! Of kept results it can be seen what each saves, and what made it outdated; of others, why they were not kept.

use crate::queries::world;
use crate::world::{Backend, wait_until};

/// How often a reason came in cache `c`, and what it named last.
fn refusals(backend: &mut Backend, reason: &str) -> (i64, Option<String>) {
    let query = "SELECT count, last_object FROM shared_lru.query_refusals WHERE cache = 'c' AND reason = $1";
    let row = backend.client.query_opt(query, &[&reason]).expect("the view is read");
    row.map_or((0, None), |row| (row.get(0), row.get(1)))
}

/// A column of the only kept result whose text is like this.
#[track_caller]
fn entry<T: postgres::types::FromSqlOwned>(backend: &mut Backend, column: &str, query: &str) -> T {
    backend.call(&format!("SELECT {column} FROM shared_lru.query_entries WHERE query LIKE $1"), &[&query])
}

#[test]
fn a_kept_result_says_of_what_it_is_and_how_often_it_was_served() {
    let world = world();
    let mut backend = world.backend();
    backend.run(
        "CREATE TABLE t AS SELECT n AS id FROM generate_series(1, 10) AS n; CREATE TABLE \"U\" AS SELECT 1 AS id;
         CREATE VIEW v AS SELECT id FROM \"U\";
         SELECT shared_lru.put_text('c', 'k', 'no result')",
    );
    let call = "SELECT count(*) FROM shared_lru.query('c', 'SELECT id FROM t JOIN v USING (id) WHERE id > $1', 0) AS t (id int)";
    let marked = "/* shared_lru: c */ SELECT sum(id) FROM t";
    for _ in 0..4 {
        backend.run(call);
    }
    for _ in 0..2 {
        backend.run(marked);
    }
    let texts: Vec<String> = backend.all("SELECT query FROM shared_lru.query_entries ORDER BY length(query)");
    assert_eq!(texts, ["SELECT sum(id) FROM t", "SELECT id FROM t JOIN v USING (id) WHERE id > $1"]);
    let counts = "concat_ws(' ', cache, role, hits, fills, rows, is_current)";
    assert_eq!(entry::<String>(&mut backend, counts, "SELECT id FROM t%"), "c postgres 3 1 1 t");
    assert_eq!(entry::<String>(&mut backend, counts, "SELECT sum%"), "c postgres 1 1 1 t");
    let tables: Vec<String> = entry(&mut backend, "depends_on", "SELECT id FROM t%");
    assert_eq!(tables.len(), 3, "{tables:?}");
    assert!(["public.t", "public.v", "public.\"U\""].iter().all(|table| tables.iter().any(|found| found == table)));
    assert_eq!(entry::<Vec<String>>(&mut backend, "depends_on", "SELECT sum%"), ["public.t"]);
    let is_young = "age >= interval '0' AND age < interval '1 hour' AND fill_ms > 0";
    assert!(entry::<bool>(&mut backend, is_young, "SELECT id FROM t%"));
    assert!(entry::<bool>(&mut backend, "abs(saved_ms - 3 * fill_ms) < 0.0001", "SELECT id FROM t%"));
    // Key and value, as the walk over all entries has them, which does not count what says what a value is.
    let bytes: bool = backend.one(
        "SELECT (SELECT sum(bytes) - count(*) FROM shared_lru.query_entries)
              = (SELECT sum(key_bytes + value_bytes) FROM shared_lru.entries('c') WHERE key <> 'k')",
    );
    assert!(bytes);
    // To look is no use.
    let before = backend.stat("hits");
    backend.run("SELECT * FROM shared_lru.query_entries");
    assert_eq!(backend.stat("hits"), before);
}

#[test]
fn a_result_that_is_looked_for_is_a_hit_if_it_is_served_and_else_a_miss_once() {
    let world = world();
    let (mut backend, mut other) = (world.backend(), world.backend());
    backend.run("CREATE TABLE t AS SELECT 1 AS v");
    let call = "SELECT shared_lru.fetch('c', 'SELECT sum(v) FROM t', NULL::bigint)";
    let marked = "/* shared_lru: c */ SELECT sum(v) FROM t";
    let mut counts = (0, 0);
    let mut came = |backend: &mut Backend, hits: i64, misses: i64, what: &str| {
        counts = (counts.0 + hits, counts.1 + misses);
        assert_eq!((backend.stat("hits"), backend.stat("misses")), counts, "{what}");
    };
    for query in [call, marked] {
        backend.run(query);
        came(&mut backend, 0, 1, "nothing is there");
        backend.run(query);
        came(&mut backend, 1, 0, "it is served");
        other.run("UPDATE t SET v = v + 1");
        backend.run(query);
        came(&mut backend, 0, 1, "it is outdated");
        backend.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM t");
        other.run("UPDATE t SET v = v + 1");
        other.run(query);
        came(&mut other, 0, 1, "another makes a newer one");
        backend.run(query);
        came(&mut other, 0, 1, "it is not for this snapshot");
        backend.run("COMMIT; BEGIN; UPDATE t SET v = v + 1");
        backend.run(query);
        came(&mut other, 0, 1, "the transaction itself has written");
        backend.run("ROLLBACK");
        backend.run(query);
        came(&mut backend, 1, 0, "it is still there");
        // As each query says of itself, the one that looks at it not among them.
        let of_query: i64 = entry(&mut backend, "hits", "SELECT sum%");
        assert_eq!(of_query, 2);
        backend.run("SELECT shared_lru.clear('c')");
        backend.run("SELECT v FROM t");
        came(&mut backend, 0, 0, "nothing is looked for");
    }
    // A cursor is nothing yet, and then one miss.
    backend.run("BEGIN");
    backend.run("/* shared_lru: c */ DECLARE k CURSOR FOR SELECT v FROM t");
    came(&mut other, 0, 0, "no row was asked for");
    backend.run("FETCH ALL FROM k; FETCH BACKWARD ALL FROM k; COMMIT");
    came(&mut backend, 0, 1, "rows were asked for");
}

#[test]
fn of_a_long_statement_the_beginning_is_kept_whole_characters() {
    let world = world();
    let mut backend = world.backend();
    backend.run("CREATE TABLE t AS SELECT 1 AS id");
    let statement = format!("SELECT 'a{}' FROM t", "ä".repeat(2000));
    backend.run(&format!("/* shared_lru: c */ {statement}"));
    let text: String = entry(&mut backend, "query", "%");
    assert!(statement.starts_with(&text) && (1020..=1024).contains(&text.len()), "{} bytes", text.len());
    // Of several statements that one.
    backend.run("/* shared_lru: c */ SELECT 1 FROM t; SELECT 2 FROM t ; SELECT 3");
    assert_eq!(entry::<String>(&mut backend, "query", "SELECT 2%"), "SELECT 2 FROM t");
}

#[test]
fn what_made_a_result_outdated_is_known_when_it_is_made_anew() {
    let world = world();
    let mut backend = world.backend();
    backend.run(
        "CREATE SCHEMA early; SET search_path = early, public;
         CREATE TABLE public.t AS SELECT 1 AS id; CREATE TABLE public.u AS SELECT 1 AS id",
    );
    let call = "SELECT shared_lru.fetch('c', 'SELECT sum(t.id) FROM t, u', NULL::bigint)";
    let mut fills = 1;
    backend.run(call);
    let unknown: bool = entry(&mut backend, "outdated IS NULL AND outdated_by IS NULL", "%");
    assert!(unknown);
    for (change, cause) in [
        ("UPDATE public.u SET id = 2", "rows of public.u"),
        ("UPDATE public.t SET id = 2", "rows of public.t"),
        ("ALTER TABLE public.u ADD COLUMN more int", "definition of public.u"),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "functions, operators, casts"),
        ("CREATE ROLE somebody", "roles"),
        ("CREATE TABLE early.t (id int)", "a type, or what a name means"),
    ] {
        world.backend().run(change);
        let is_current: bool = entry(&mut backend, "is_current", "%");
        assert!(!is_current, "{change}");
        backend.run(call);
        fills += 1;
        let found: String = entry(&mut backend, "concat_ws(' ', fills, hits, is_current, outdated_by)", "%");
        assert_eq!(found, format!("{fills} 0 t {cause}"), "{change}");
        assert!(entry::<bool>(&mut backend, "outdated BETWEEN now() - interval '1 hour' AND clock_timestamp()", "%"));
    }
    // A hit leaves it as it is.
    backend.run(call);
    assert_eq!(
        entry::<String>(&mut backend, "concat_ws(' ', hits, outdated_by)", "%"),
        "1 a type, or what a name means"
    );
    // Somebody else's first look takes nothing away; a marked statement tells as a call does.
    let marked = "/* shared_lru: c */ SELECT id FROM u";
    backend.run(marked);
    world.backend().run("DELETE FROM public.u");
    backend.run(marked);
    assert_eq!(entry::<String>(&mut backend, "outdated_by", "%SELECT id FROM u"), "rows of public.u");
    // The setting that goes off and on again makes all outdated.
    backend.run("ALTER SYSTEM SET pg_shared_lru.query_cache = off");
    backend.run("SELECT pg_reload_conf()");
    wait_until("it is off", || backend.one("SELECT NOT EXISTS (SELECT FROM shared_lru.changes('u'))"));
    backend.run("ALTER SYSTEM SET pg_shared_lru.query_cache = on");
    backend.run("SELECT pg_reload_conf()");
    wait_until("it is on", || backend.one("SELECT EXISTS (SELECT FROM shared_lru.changes('u'))"));
    backend.run(marked);
    assert_eq!(entry::<String>(&mut backend, "outdated_by", "%SELECT id FROM u"), "the query cache was off");
}

#[test]
fn results_are_shown_to_who_may_read_the_cache_and_refusals_to_who_watches() {
    let world = world();
    let mut admin = world.backend();
    admin.run(
        "CREATE ROLE reader LOGIN; CREATE ROLE watcher LOGIN; GRANT pg_monitor TO watcher;
         GRANT USAGE ON SCHEMA shared_lru TO reader; GRANT SELECT ON shared_lru.query_entries TO reader;
         GRANT EXECUTE ON FUNCTION shared_lru.list_query_entries() TO reader;
         SELECT shared_lru.create_cache('d', 1048576);
         CREATE TABLE t AS SELECT 1 AS id",
    );
    admin.run("SELECT shared_lru.fetch(cache, 'SELECT id FROM t', NULL::int) FROM unnest('{c,d}'::text[]) AS cache");
    admin.run("SELECT shared_lru.fetch('c', 'SELECT random()', NULL::float8)");
    let caches = "SELECT cache FROM shared_lru.query_entries ORDER BY cache";
    assert_eq!(admin.all::<String>(caches), ["c", "d"]);
    let (mut reader, mut watcher) = (world.backend_as("reader"), world.backend_as("watcher"));
    assert_eq!(reader.all::<String>(caches), [""; 0]);
    assert_eq!(watcher.all::<String>(caches), [""; 0]);
    admin.run("SELECT shared_lru.grant_cache('d', 'reader', 'read')");
    assert_eq!(reader.all::<String>(caches), ["d"]);
    assert_eq!(refusals(&mut watcher, "volatile"), (1, Some("pg_catalog.random()".to_owned())));
    reader.refused("SELECT * FROM shared_lru.query_refusals").is("42501", &["query_refusals"]);
}

#[test]
fn each_result_that_is_not_kept_is_counted_by_its_reason() {
    let world = world();
    let mut backend = world.backend();
    backend.run(
        "CREATE TABLE t AS SELECT 1 AS id, now() AS at; CREATE TEMPORARY TABLE tt AS SELECT 1 AS id; CREATE SEQUENCE s;
         CREATE TABLE u (r regclass);
         CREATE FUNCTION reads() RETURNS bigint IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT count(*) FROM t); END';
         CREATE FUNCTION unsure() RETURNS int STABLE LANGUAGE sql AS 'SELECT 1'",
    );
    let temporary: String = backend.one("SELECT pg_my_temp_schema()::regnamespace || '.tt'");
    for (query, reason, object) in [
        ("SELECT random(), id FROM t", "volatile", Some("pg_catalog.random()")),
        ("SELECT unsure(), id FROM t", "stable", Some("public.unsure()")),
        ("SELECT CURRENT_DATE, id FROM t", "clock", None),
        ("SELECT session_user, id FROM t", "session_user", None),
        ("SELECT last_value FROM s", "sequence", Some("public.s")),
        ("SELECT relname FROM pg_class LIMIT 1", "catalog", Some("pg_catalog.pg_class")),
        ("SELECT id FROM tt", "temporary", Some(&*temporary)),
        ("SELECT ctid FROM t", "system_column", None),
        ("SELECT id FROM t TABLESAMPLE SYSTEM (100)", "sample", None),
        ("SELECT to_jsonb(u) FROM u", "names", Some("public.u")),
        ("SELECT reads(), id FROM t", "runs_queries", Some("public.t")),
        ("SELECT repeat(id::text, 10000000) FROM t", "too_large", None),
    ] {
        // As a call and as a statement; each time that it runs.
        let columns = columns_of(&mut backend, query);
        let call = format!("SELECT count(*) FROM shared_lru.query('c', $${query}$$) AS t ({columns})");
        for (number, statement) in [(1, call), (2, format!("/* shared_lru: c */ {query}"))] {
            backend.run(&statement);
            assert_eq!(refusals(&mut backend, reason), (number, object.map(str::to_owned)), "{statement}");
        }
    }
    // Only one of them: a call needs types, and what locks rows is not marked.
    backend.run("/* shared_lru: c */ SELECT row(id, 1) FROM t");
    assert_eq!(refusals(&mut backend, "untyped"), (1, Some("pg_catalog.record".to_owned())));
    backend.run("SELECT shared_lru.fetch('c', 'SELECT id FROM t FOR SHARE', NULL::int)");
    assert_eq!(refusals(&mut backend, "locks_rows").0, 1);
    backend.run("SELECT shared_lru.fetch('c', 'SELECT ''now''::timestamptz', NULL::timestamptz)");
    assert_eq!(refusals(&mut backend, "clock").0, 3);
    backend.run("SET search_path = public, pg_catalog; SELECT shared_lru.fetch('c', 'SELECT id FROM t', NULL::int)");
    assert_eq!(refusals(&mut backend, "search_path").0, 1);
    backend.run("RESET search_path");
    assert_eq!(backend.one::<i64>("SELECT count(*) FROM shared_lru.query_entries"), 0);
}

/// The columns of a query, as `query` wants them.
fn columns_of(backend: &mut Backend, query: &str) -> String {
    let prepared = backend.client.prepare(query).expect("a query");
    let columns = prepared.columns().iter().enumerate();
    columns.map(|(number, column)| format!("c{number} {}", column.type_().name())).collect::<Vec<_>>().join(", ")
}

#[test]
fn what_the_moment_forbids_is_counted_apart_and_all_of_it_can_be_reset() {
    let world = world();
    let mut backend = world.backend();
    backend.run(
        "CREATE TABLE t AS SELECT n AS id FROM generate_series(1, 10) AS n;
         CREATE ROLE reader LOGIN; GRANT SELECT ON t TO reader;
         GRANT USAGE ON SCHEMA shared_lru TO reader; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA shared_lru TO reader;
         SELECT shared_lru.grant_cache('c', 'reader', 'read')",
    );
    let call = "SELECT shared_lru.fetch('c', 'SELECT sum(id) FROM t', NULL::bigint)";
    let marked = "/* shared_lru: c */ SELECT id FROM t";
    let both = |backend: &mut Backend| {
        backend.run(call);
        backend.run(marked);
    };
    backend.run("BEGIN; UPDATE t SET id = id");
    both(&mut backend);
    backend.run("COMMIT; BEGIN ISOLATION LEVEL SERIALIZABLE");
    both(&mut backend);
    backend.run("COMMIT");
    both(&mut world.backend_as("reader"));
    for reason in ["written", "serializable", "no_right"] {
        assert_eq!(refusals(&mut backend, reason), (2, None), "{reason}");
    }
    // A cursor that is not read to its end, and one that goes back.
    backend.run(
        "BEGIN; /* shared_lru: c */ DECLARE cursor SCROLL CURSOR FOR SELECT id FROM t; FETCH 2 FROM cursor; COMMIT",
    );
    assert_eq!(
        refusals(&mut backend, "not_read_to_the_end").0,
        0,
        "a text of several statements is marked at its start"
    );
    for fetches in ["FETCH 2 FROM cursor", "FETCH 2 FROM cursor; FETCH BACKWARD 1 FROM cursor; FETCH ALL FROM cursor"] {
        backend.run("BEGIN");
        backend.run("/* shared_lru: c */ DECLARE cursor SCROLL CURSOR FOR SELECT id FROM t ORDER BY id");
        backend.run(fetches);
        backend.run("COMMIT");
    }
    assert_eq!(refusals(&mut backend, "not_read_to_the_end").0, 2);
    // A newer result than an old snapshot may see.
    let mut old = world.backend();
    old.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1");
    backend.run("UPDATE t SET id = id");
    both(&mut backend);
    both(&mut old);
    old.run("COMMIT");
    assert_eq!(refusals(&mut backend, "not_for_this_snapshot").0, 2);
    // A plan that is older than a definition, in a session that has heard of it only when it runs.
    backend.run("ALTER SYSTEM SET pg_shared_lru.query_cache = off");
    backend.run("SELECT pg_reload_conf()");
    wait_until("it is off", || backend.one("SELECT NOT EXISTS (SELECT FROM shared_lru.changes('t'))"));
    both(&mut backend);
    assert_eq!(refusals(&mut backend, "off").0, 2);
    let hits: i64 = backend.one("SELECT sum(hits + fills)::bigint FROM shared_lru.query_entries");
    assert!(hits > 0);
    backend.run("SELECT shared_lru.reset_stats('c')");
    assert_eq!(backend.one::<i64>("SELECT count(*) FROM shared_lru.query_refusals"), 0);
    assert_eq!(backend.one::<i64>("SELECT sum(hits + fills)::bigint FROM shared_lru.query_entries"), 0);
    backend.run(call);
    assert_eq!(refusals(&mut backend, "off").0, 1);
    // They go with the cache, and stay when it is made anew.
    backend.run("SELECT shared_lru.alter_cache('c', bytes => 4194304)");
    backend.run(call);
    assert_eq!(refusals(&mut backend, "off").0, 2);
    backend.run("SELECT shared_lru.drop_cache('c')");
    backend.run("SELECT shared_lru.create_cache('c')");
    assert_eq!(refusals(&mut backend, "off").0, 0);
}

#[test]
fn an_explanation_names_what_is_in_the_way() {
    let world = world();
    let mut backend = world.backend();
    backend.run(
        "CREATE TABLE t AS SELECT 1 AS id, now() AS at;
         CREATE FUNCTION reads() RETURNS bigint IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT count(*) FROM t); END'",
    );
    for (query, says) in [
        ("SELECT id FROM t FOR NO KEY UPDATE", "it locks rows of table t: FOR NO KEY UPDATE"),
        ("SELECT t.id FROM t, t AS other FOR SHARE OF other", "it locks rows of table t: FOR SHARE"),
        ("SELECT id FROM t TABLESAMPLE SYSTEM (50)", "it reads a sample of table t"),
        ("SELECT xmin FROM t", "it reads the system column xmin"),
        ("SELECT LOCALTIMESTAMP", "it depends on the clock: LOCALTIMESTAMP"),
        ("SELECT CURRENT_DATE", "it depends on the clock: CURRENT_DATE"),
        ("SELECT CURRENT_TIME(3)", "it depends on the clock: CURRENT_TIME"),
        (
            "SELECT id FROM t WHERE at > 'yesterday' AND id = 7",
            "literal 'yesterday' means the time at which it is read",
        ),
        ("SELECT reads()", "a function in it runs queries, over t: trusted_functions does not name public.reads()"),
    ] {
        let reason: String = backend.call("SELECT reason FROM shared_lru.explain_query($1)", &[&query]);
        assert_eq!(reason, says, "{query}");
    }
}
