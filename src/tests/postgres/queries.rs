//! Results of queries are what the queries would return: always, for whoever asks, whatever others do.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use rand::prelude::*;
use rand::rngs::SmallRng;

use crate::world::{Backend, World, wait_until};

/// A server with the query cache on, and a cache `c`.
fn world() -> World {
    let world = World::with(&[("pg_shared_lru.query_cache", "on"), ("max_prepared_transactions", "16")]);
    let mut backend = world.backend();
    backend.run("SELECT shared_lru.create_cache('c')");
    wait_until("writers publish", || backend.one("SELECT EXISTS (SELECT FROM shared_lru.changes('pg_class'))"));
    world
}

/// How often the cache has been looked at with success so far.
fn hits(backend: &mut Backend) -> i64 {
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
        "SELECT to_char(at, ''YYYY''), concat(id, at) FROM t",
        "SELECT tableoid FROM t",
        "SELECT current_user",
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
    assert_eq!((other.one::<i32>(call), other.one::<i32>(call)), (1, 1));
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
fn of_those_who_miss_a_result_at_once_one_computes() {
    let world = world();
    let mut admin = world.backend();
    admin.run(
        "CREATE TABLE t AS SELECT n AS id FROM generate_series(1, 200) AS n;
         CREATE FUNCTION slow(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN IF pg_sleep(0.005) IS NULL THEN RETURN 0; END IF; RETURN $1; END'",
    );
    let sum = "SELECT shared_lru.fetch('c', 'SELECT sum(slow(id)) FROM t', NULL::bigint)";
    let misses = admin.stat("misses");
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(world.backend().one::<i64>(sum), 20_100));
        }
    });
    assert_eq!(admin.stat("inserts"), 1);
    assert!(admin.stat("misses") > misses);
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

const READS: u64 = 200_000;

/// Queries over what the writers change, each with one value. The last ones name what is redefined meanwhile.
const QUERIES: &[&str] = &[
    "SELECT sum(v)::text FROM t",
    "SELECT string_agg(id || ':' || v, ' ' ORDER BY id) FROM t WHERE id < 10",
    "SELECT count(*)::text FROM child",
    "SELECT sum(v)::text FROM t JOIN child USING (id)",
    "SELECT n::text FROM mat",
    "SELECT count(*) || ' ' || coalesce(sum(v), 0) FROM parted",
    "SELECT sum(v)::text FROM parted WHERE k = 1",
    "SELECT doubled(3)::text",
    "SELECT count(*)::text FROM logged",
    "SELECT sum(v)::text FROM overview",
];

fn one_change(backend: &mut Backend, rng: &mut SmallRng, name: &str) {
    let key = rng.random_range(0..20);
    let statement = match rng.random_range(0..22) {
        0..=4 => format!("UPDATE t SET v = v + 1 WHERE id = {key}"),
        5 => format!("INSERT INTO t VALUES ({}, 1)", rng.random_range(20..1_000_000)),
        6 => "DELETE FROM t WHERE id >= 20".to_owned(),
        7 => format!("INSERT INTO child SELECT {key} FROM generate_series(1, 2) WHERE EXISTS (SELECT FROM t WHERE id = {key})"),
        8 => "TRUNCATE child".to_owned(),
        9 => format!("COPY parted FROM PROGRAM 'echo {},1' WITH (FORMAT csv)", rng.random_range(0..3)),
        10 => "UPDATE parted SET k = (k + 1) % 3 WHERE v % 3 = 0".to_owned(),
        11 => "DELETE FROM parted".to_owned(),
        12 => "REFRESH MATERIALIZED VIEW mat".to_owned(),
        13 => "REFRESH MATERIALIZED VIEW CONCURRENTLY mat".to_owned(),
        14 => format!(
            "CREATE OR REPLACE FUNCTION doubled(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 * {}'",
            rng.random_range(0..1000)
        ),
        15 => format!("INSERT INTO trigger_source VALUES ({key})"),
        16 => format!("CREATE OR REPLACE VIEW overview AS SELECT v * {} AS v FROM t", rng.random_range(1..5)),
        17 => "ALTER TABLE parted DETACH PARTITION parted_2; ALTER TABLE parted ATTACH PARTITION parted_2 FOR VALUES IN (2)".to_owned(),
        18 => "DELETE FROM t WHERE id < 3; INSERT INTO t SELECT n, n FROM generate_series(0, 2) AS n".to_owned(),
        19 => "TRUNCATE parted; INSERT INTO parted VALUES (1, 5)".to_owned(),
        20 => "CREATE TABLE IF NOT EXISTS early.logged AS SELECT 1 AS n".to_owned(),
        _ => "DROP TABLE IF EXISTS early.logged".to_owned(),
    };
    let concurrently = statement.contains("CONCURRENTLY");
    let end = match rng.random_range(0..8) {
        0 => "ROLLBACK".to_owned(),
        1 => format!("SAVEPOINT s; {statement}; ROLLBACK TO s; COMMIT"),
        2 if !concurrently => format!("PREPARE TRANSACTION '{name}'"),
        _ => "COMMIT".to_owned(),
    };
    let script = format!("BEGIN; {statement}; {end}");
    for part in script.split("; ") {
        // Writers may meet, and one of them loses.
        if backend.client.batch_execute(part).is_err() {
            backend.run("ROLLBACK");
            return;
        }
    }
}

/// How many of them name only what is not redefined.
const FIXED: i32 = 5;

/// Reads each query with and without the cache in one statement, many times, in one call.
///
/// Where something is redefined while a statement runs, the two halves may have looked the name up before and after. So
/// those are asked once more; what is wrong stays wrong.
const COMPARE: &str =
    "CREATE FUNCTION compare(queries text[], fixed int, rounds int) RETURNS text LANGUAGE plpgsql AS $$
    DECLARE
        cached text;
        direct text;
        place int;
    BEGIN
        FOR n IN 1..rounds LOOP
            place := 1 + floor(random() * array_length(queries, 1));
            FOR try IN 0..1 LOOP
                EXECUTE format('SELECT shared_lru.fetch(''c'', %L, NULL::text), (%s)', queries[place], queries[place])
                    INTO cached, direct;
                EXIT WHEN cached IS NOT DISTINCT FROM direct OR place <= fixed;
            END LOOP;
            IF cached IS DISTINCT FROM direct THEN
                RETURN format('%s: cached %s, direct %s', queries[place], cached, direct);
            END IF;
        END LOOP;
        RETURN NULL;
    END $$";

/// Readers compare while writers change; returns what differed first, and how many reads there were.
fn check(world: &World, reads: u64, seed: u64) -> (Option<String>, u64) {
    check_with(world, reads, seed, COMPARE)
}

/// As above, with another function that compares.
pub fn check_with(world: &World, reads: u64, seed: u64, compare: &str) -> (Option<String>, u64) {
    let mut admin = world.backend();
    admin.run(&format!(
        "CREATE TABLE t (id int PRIMARY KEY, v bigint NOT NULL);
         INSERT INTO t SELECT n, n FROM generate_series(0, 19) AS n;
         CREATE TABLE child (id int REFERENCES t ON DELETE CASCADE);
         CREATE TABLE parted (k int, v int) PARTITION BY LIST (k);
         CREATE TABLE parted_0 PARTITION OF parted FOR VALUES IN (0);
         CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
         CREATE TABLE parted_2 PARTITION OF parted FOR VALUES IN (2);
         CREATE MATERIALIZED VIEW mat AS SELECT count(*) + sum(v) AS n FROM t;
         CREATE UNIQUE INDEX ON mat (n);
         CREATE FUNCTION doubled(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 * 2';
         CREATE TABLE trigger_source (id int);
         CREATE TABLE logged (n int);
         CREATE FUNCTION log() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.logged VALUES (1); RETURN NULL; END';
         CREATE TRIGGER log AFTER INSERT ON trigger_source FOR EACH ROW EXECUTE FUNCTION log();
         CREATE VIEW overview AS SELECT v FROM t;
         CREATE SCHEMA early;
         {compare}"
    ));
    let (done, compared) = (AtomicBool::new(false), AtomicU64::new(0));
    let difference = thread::scope(|scope| {
        let done = &done;
        for number in 0..2_u64 {
            scope.spawn(move || {
                let mut rng = SmallRng::seed_from_u64(seed * 100 + number);
                let mut backend = world.backend();
                backend.run("SET lock_timeout = '1s'; SET deadlock_timeout = '100ms'");
                for step in 0.. {
                    if done.load(Ordering::Relaxed) {
                        return;
                    }
                    one_change(&mut backend, &mut rng, &format!("{number}-{step}"));
                    thread::sleep(std::time::Duration::from_millis(rng.random_range(0..30)));
                }
            });
        }
        // Prepared transactions are ended by somebody else, after a while.
        let ender = scope.spawn(move || {
            let mut rng = SmallRng::seed_from_u64(seed * 100 + 50);
            let mut backend = world.backend();
            loop {
                let was_done = done.load(Ordering::Relaxed);
                for name in backend.all::<String>("SELECT gid FROM pg_prepared_xacts") {
                    let end = if rng.random_range(0..3) == 0 { "ROLLBACK" } else { "COMMIT" };
                    backend.run(&format!("{end} PREPARED '{name}'"));
                }
                if was_done {
                    return;
                }
                thread::sleep(std::time::Duration::from_millis(rng.random_range(0..20)));
            }
        });
        let readers: Vec<_> = (0..3_u64)
            .map(|number| {
                let compared = &compared;
                scope.spawn(move || {
                    let mut rng = SmallRng::seed_from_u64(seed * 100 + 60 + number);
                    let mut backend = world.backend();
                    backend.run("SET search_path = early, public");
                    while compared.load(Ordering::Relaxed) < reads {
                        const ROUNDS: u64 = 100;
                        let level = ["READ COMMITTED", "REPEATABLE READ", "REPEATABLE READ READ ONLY", "SERIALIZABLE"]
                            [rng.random_range(0..4)];
                        backend.run(&format!("BEGIN ISOLATION LEVEL {level}"));
                        let found: Result<_, postgres::Error> = backend
                            .client
                            .query_one("SELECT compare($1, $2, $3)", &[&QUERIES, &FIXED, &(ROUNDS as i32)])
                            .map(|row| row.get::<_, Option<String>>(0));
                        match found {
                            Ok(Some(difference)) => return Some(format!("{level}, seed {seed}: {difference}")),
                            Ok(None) => _ = compared.fetch_add(ROUNDS, Ordering::Relaxed),
                            // A serialization failure, a table that was dropped just then.
                            Err(_) => {}
                        }
                        backend.run("ROLLBACK");
                    }
                    None
                })
            })
            .collect();
        let differences: Vec<_> =
            readers.into_iter().filter_map(|reader| reader.join().expect("a reader ends")).collect();
        done.store(true, Ordering::Relaxed);
        ender.join().expect("it ends");
        differences.into_iter().next()
    });
    (difference, compared.into_inner())
}

#[test]
fn whatever_writers_do_a_cached_result_is_the_querys() {
    let world = world();
    let seed = rand::rng().random_range(0..1_000_000);
    println!("seed {seed}");
    let (difference, compared) = check(&world, READS, seed);
    let mut backend = world.backend();
    let (hits, inserts) = (backend.stat("hits"), backend.stat("inserts"));
    println!("{compared} results compared; {hits} hits, {inserts} results stored");
    assert_eq!(difference, None);
    assert!(hits as u64 > compared / 10, "hardly anything came from the cache: {hits} of {compared}");
    backend.validate();
}
