//! What a transaction has written is what its commit publishes: nothing less, and no table that it has not touched.
//!
//! Each case runs on tables of its own and says what it writes. Its tables are compared before and after: those that it
//! names have been published, once for each transaction; no other has. So with definitions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;

use postgres::error::SqlState;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::cluster::{self, StopMode};
use crate::world::{Backend, World, wait_until};

const ON: (&str, &str) = ("pg_shared_lru.query_cache", "on");

fn is_on(backend: &mut Backend) -> bool {
    backend.one::<i64>("SELECT count(*) FROM shared_lru.changes('pg_class')") == 1
}

/// A world whose writers publish, and a backend of it.
fn watched(settings: &[(&str, &str)]) -> (World, Backend) {
    let settings: Vec<_> = [ON].into_iter().chain(settings.iter().copied()).collect();
    let world = World::with(&settings);
    let mut backend = world.backend();
    wait_until("writers publish", || is_on(&mut backend));
    (world, backend)
}

/// How often something changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Changes {
    writes: i64,
    definitions: i64,
    code: i64,
    roles: i64,
}

fn changes(backend: &mut Backend, relation: &str) -> Changes {
    let row = backend.client.query_one(&format!("SELECT * FROM shared_lru.changes('{relation}')"), &[]);
    let row = row.unwrap_or_else(|error| panic!("{relation}: {error:?}"));
    Changes {
        writes: row.get("writes"),
        definitions: row.get("definitions"),
        code: row.get("code"),
        roles: row.get("roles"),
    }
}

/// Every table and materialized view of the schema, by name.
fn tables(backend: &mut Backend) -> BTreeMap<String, Changes> {
    let rows = backend.client.query(
        "SELECT c.oid::regclass::text AS name, changed.*
           FROM pg_class AS c, shared_lru.changes(c.oid) AS changed
          WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'm')",
        &[],
    );
    let rows = rows.expect("the tables");
    let lines: BTreeSet<i32> = rows.iter().map(|row| row.get("line")).collect();
    assert_eq!(lines.len(), rows.len(), "two of so few tables share a line: make another one before them");
    let changes = |row: &postgres::Row| Changes {
        writes: row.get("writes"),
        definitions: row.get("definitions"),
        code: row.get("code"),
        roles: row.get("roles"),
    };
    rows.iter().map(|row| (row.get("name"), changes(row))).collect()
}

/// What was found of the tables that there were before and are afterwards.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    /// Tables with the number of publications.
    written: BTreeMap<String, i64>,
    redefined: BTreeSet<String>,
    code: bool,
    roles: bool,
}

fn found(backend: &mut Backend, work: impl FnOnce(&mut Backend)) -> Found {
    let before = tables(backend);
    work(backend);
    let after = tables(backend);
    let mut found = Found { written: BTreeMap::new(), redefined: BTreeSet::new(), code: false, roles: false };
    for (name, was) in &before {
        let Some(is) = after.get(name) else { continue };
        if is.writes != was.writes {
            found.written.insert(name.clone(), is.writes - was.writes);
        }
        if is.definitions != was.definitions {
            found.redefined.insert(name.clone());
        }
        found.code |= is.code != was.code;
        found.roles |= is.roles != was.roles;
    }
    found
}

/// Checks that these statements, one transaction, publish these tables and no other; definitions may change as they please.
#[track_caller]
fn writes(backend: &mut Backend, statements: &str, expected: &[&str]) -> Found {
    let found = found(backend, |backend| backend.run(statements));
    let expected: BTreeMap<String, i64> = expected.iter().map(|&name| (name.to_owned(), 1)).collect();
    assert_eq!(found.written, expected, "{statements}: {found:?}");
    found
}

/// As [`writes`], of what changes rows alone.
#[track_caller]
fn writes_rows(backend: &mut Backend, statements: &str, expected: &[&str]) {
    let found = writes(backend, statements, expected);
    assert!(found.redefined.is_empty() && !found.code && !found.roles, "{statements}: {found:?}");
}

/// As [`writes`], of what also changes the definitions of these tables.
#[track_caller]
fn redefines(backend: &mut Backend, statements: &str, written: &[&str], redefined: &[&str]) {
    let found = writes(backend, statements, written);
    let redefined: BTreeSet<String> = redefined.iter().map(|&name| name.to_owned()).collect();
    assert_eq!(found.redefined, redefined, "{statements}");
}

/// By how much publications and definitions of a relation rise.
fn found_of(backend: &mut Backend, relation: &str, statements: &str) -> (i64, i64) {
    let before = changes(backend, relation);
    backend.run(statements);
    let after = changes(backend, relation);
    (after.writes - before.writes, after.definitions - before.definitions)
}

fn version() -> u32 {
    cluster::major_version().expect("there is a PostgreSQL")
}

#[test]
fn statements_that_write_rows_publish_their_tables() {
    let (_world, mut b) = watched(&[]);
    b.run(
        "CREATE TABLE t (id int PRIMARY KEY, v int, s serial); CREATE INDEX ON t (v);
         CREATE TABLE other (id int PRIMARY KEY, v int); CREATE TABLE log (id int);
         CREATE TABLE big (v text); ALTER TABLE big ALTER v SET STORAGE EXTERNAL;
         INSERT INTO t (id, v) SELECT n, n FROM generate_series(1, 100) AS n; INSERT INTO other SELECT id, v FROM t;
         CREATE FUNCTION write_log() RETURNS int LANGUAGE sql AS 'INSERT INTO log VALUES (1) RETURNING id';
         CREATE VIEW seen AS SELECT id, v FROM t;
         CREATE TABLE ruled (id int); CREATE RULE r AS ON INSERT TO ruled DO INSTEAD INSERT INTO log VALUES (NEW.id)",
    );
    writes_rows(&mut b, "INSERT INTO t (id, v) VALUES (101, 1)", &["t"]);
    writes_rows(&mut b, "UPDATE t SET v = v + 1 WHERE id = 1", &["t"]);
    writes_rows(&mut b, "DELETE FROM t WHERE id = 101", &["t"]);
    writes_rows(&mut b, "INSERT INTO big VALUES (repeat('x', 100000))", &["big"]);
    writes_rows(&mut b, "INSERT INTO t (id, v) VALUES (1, 1) ON CONFLICT (id) DO UPDATE SET v = 0", &["t"]);
    writes_rows(&mut b, "BEGIN; UPDATE t SET v = 2 WHERE id = 2; UPDATE t SET v = 3 WHERE id = 3; COMMIT", &["t"]);
    writes_rows(&mut b, "BEGIN; DELETE FROM t WHERE id = 4; DELETE FROM other WHERE id = 4; COMMIT", &["other", "t"]);
    writes_rows(
        &mut b,
        "WITH gone AS (DELETE FROM t WHERE id = 5 RETURNING id) INSERT INTO log SELECT id FROM gone",
        &["log", "t"],
    );
    writes_rows(&mut b, "WITH gone AS (DELETE FROM t WHERE id = 6 RETURNING id) SELECT count(*) FROM gone", &["t"]);
    writes_rows(&mut b, "EXPLAIN ANALYZE UPDATE t SET v = 7 WHERE id = 7", &["t"]);
    writes_rows(&mut b, "PREPARE p AS UPDATE t SET v = 8 WHERE id = 8; EXECUTE p", &["t"]);
    writes_rows(
        &mut b,
        "DO $$ BEGIN UPDATE t SET v = 9 WHERE id = 9; EXECUTE 'DELETE FROM other WHERE id = 9'; END $$",
        &["other", "t"],
    );
    writes_rows(&mut b, "SELECT write_log() FROM other WHERE id = 10", &["log"]);
    writes_rows(&mut b, "UPDATE seen SET v = 11 WHERE id = 11", &["t"]);
    let rule = found(&mut b, |b| b.run("INSERT INTO ruled VALUES (1)"));
    assert!(rule.written.contains_key("log"), "{rule:?}");
    if version() >= 15 {
        writes_rows(
            &mut b,
            "MERGE INTO t USING other ON t.id = other.id AND t.id = 12 WHEN MATCHED THEN UPDATE SET v = 0",
            &["t"],
        );
        writes_rows(
            &mut b,
            "MERGE INTO t USING (SELECT 200 AS id) AS n ON t.id = n.id WHEN NOT MATCHED THEN INSERT (id) VALUES (200)",
            &["t"],
        );
    }
}

#[test]
fn what_reads_and_locks_rows_publishes_nothing() {
    let (_world, mut b) = watched(&[]);
    b.run(
        "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1); CREATE TABLE child (id int REFERENCES t);
         CREATE TABLE log (id int); CREATE SEQUENCE numbers;
         CREATE TEMPORARY TABLE makes_the_schema_of_the_session (id int)",
    );
    for nothing in [
        "SELECT * FROM t",
        "BEGIN; SELECT * FROM t FOR UPDATE; COMMIT",
        "BEGIN; SELECT * FROM t FOR KEY SHARE; SELECT pg_current_xact_id(); COMMIT",
        "SELECT nextval('numbers')",
        "CREATE TEMPORARY TABLE mine (id int)",
        "INSERT INTO mine VALUES (1)",
        "BEGIN; TRUNCATE mine; DROP TABLE mine; COMMIT",
        "BEGIN; INSERT INTO t VALUES (2, 2); ROLLBACK",
        "BEGIN; SELECT pg_current_xact_id(); SAVEPOINT s; INSERT INTO t VALUES (2, 2); ROLLBACK TO s; COMMIT",
        "DO $$ BEGIN INSERT INTO t VALUES (2, 2); RAISE 'no'; EXCEPTION WHEN OTHERS THEN PERFORM pg_current_xact_id(); END $$",
        "SET session_replication_role = replica; RESET session_replication_role",
        "VACUUM t",
        "BEGIN; LOCK TABLE t IN SHARE MODE; SELECT pg_current_xact_id(); COMMIT",
        "SELECT pg_notify('c', 'p')",
        "SELECT lo_unlink(lo_create(0))",
    ] {
        writes_rows(&mut b, nothing, &[]);
    }
    // What a session has for itself changes nothing for others.
    b.run("CREATE TEMPORARY TABLE busy (id serial PRIMARY KEY, v text)");
    let mine = found_of(&mut b, "busy", "INSERT INTO busy (v) VALUES ('x'); ALTER TABLE busy ADD w int");
    assert_eq!(mine, (0, 0));
    // The table with the key is locked, not written.
    writes_rows(&mut b, "INSERT INTO child VALUES (1)", &["child"]);
    let of_rest = "BEGIN; INSERT INTO log VALUES (1); SAVEPOINT s; UPDATE t SET v = 2; ROLLBACK TO s; SAVEPOINT r; INSERT INTO log VALUES (2); RELEASE r; COMMIT";
    writes_rows(&mut b, of_rest, &["log"]);
    // Refused half-way: nothing was written.
    let failed =
        found(&mut b, |b| drop(b.refused("INSERT INTO t SELECT 2, 1 / (n - 3) FROM generate_series(1, 5) AS n")));
    assert!(failed.written.is_empty(), "{failed:?}");
    // Rows that might have been written may be published.
    let none = found(&mut b, |b| b.run("UPDATE t SET v = 0 WHERE id = 99"));
    assert!(none.written.keys().all(|name| name == "t"), "{none:?}");
}

#[test]
fn copies_publish_their_tables() {
    let (_world, mut b) = watched(&[]);
    b.run("CREATE TABLE t (id int); CREATE TABLE other (id int)");
    let copy = |b: &mut Backend, statement: &str| {
        use std::io::Write;
        let mut writer = b.client.copy_in(statement).expect("a copy");
        writer.write_all(b"1\n2\n").expect("rows");
        writer.finish().expect("the copy ends");
    };
    let plain = found(&mut b, |b| copy(b, "COPY t FROM STDIN"));
    assert_eq!(plain.written.keys().collect::<Vec<_>>(), ["t"]);
    let frozen = found(&mut b, |b| {
        b.run("BEGIN; TRUNCATE t");
        copy(b, "COPY t FROM STDIN (FREEZE)");
        b.run("COMMIT");
    });
    assert_eq!(frozen.written.keys().collect::<Vec<_>>(), ["t"]);
    // Old snapshots see the frozen rows: that is a change of the definition, too.
    assert!(frozen.redefined.contains("t"), "{frozen:?}");
    writes_rows(&mut b, "COPY t TO '/dev/null'", &[]);
}

#[test]
fn what_a_write_brings_about_is_published_too() {
    let (_world, mut b) = watched(&[]);
    b.run(
        "CREATE TABLE parent (id int PRIMARY KEY); INSERT INTO parent SELECT generate_series(1, 20);
         CREATE TABLE gone (id int REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE); CREATE INDEX ON gone (id);
         CREATE TABLE emptied (id int REFERENCES parent ON DELETE SET NULL);
         CREATE TABLE deferred (id int REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
         INSERT INTO gone SELECT generate_series(1, 9); INSERT INTO emptied SELECT generate_series(1, 9);
         CREATE TABLE source (id int); CREATE TABLE audit (id int); CREATE TABLE late (id int); CREATE TABLE unrelated (id int);
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO audit VALUES (1); RETURN NEW; END';
         CREATE FUNCTION note_late() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO late VALUES (1); RETURN NULL; END';
         CREATE TRIGGER a AFTER INSERT ON source FOR EACH ROW EXECUTE FUNCTION note();
         CREATE CONSTRAINT TRIGGER d AFTER INSERT ON source DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note_late()",
    );
    writes_rows(&mut b, "DELETE FROM parent WHERE id = 1", &["emptied", "gone", "parent"]);
    let updated = found(&mut b, |b| b.run("UPDATE parent SET id = 30 WHERE id = 10"));
    assert!(updated.written.contains_key("parent") && updated.written.contains_key("gone"), "{updated:?}");
    writes_rows(&mut b, "INSERT INTO source VALUES (1)", &["audit", "late", "source"]);
    writes_rows(&mut b, "INSERT INTO deferred VALUES (2)", &["deferred"]);
    redefines(
        &mut b,
        "TRUNCATE parent CASCADE",
        &["deferred", "emptied", "gone", "parent"],
        &["deferred", "emptied", "gone", "parent"],
    );
}

#[test]
fn changed_definitions_are_counted_and_published() {
    let (world, mut b) = watched(&[]);
    b.run(
        "CREATE ROLE reader; CREATE TABLE t (id int PRIMARY KEY, v int, c int CHECK (c > 0)); CREATE TABLE other (id int);
         CREATE TABLE parent (id int); CREATE TABLE seen_source (id int);
         INSERT INTO t SELECT n, n, n FROM generate_series(1, 100) AS n;
         CREATE MATERIALIZED VIEW m AS SELECT id FROM seen_source; CREATE UNIQUE INDEX ON m (id)",
    );
    for statement in [
        "TRUNCATE t",
        "ALTER TABLE t ADD extra int DEFAULT 7",
        "ALTER TABLE t ALTER v TYPE bigint",
        "ALTER TABLE t DROP extra",
        "ALTER TABLE t RENAME v TO w",
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY p ON t USING (id > 1)",
        "ALTER POLICY p ON t USING (id > 2)",
        "DROP POLICY p ON t",
        "GRANT SELECT ON t TO reader",
        "GRANT SELECT (id) ON t TO reader",
        "REVOKE SELECT ON t FROM reader",
        "CREATE INDEX i ON t (w)",
        "CLUSTER t USING i",
        "VACUUM FULL t",
        "DROP INDEX i",
        "ALTER TABLE t OWNER TO reader",
        "CREATE RULE r AS ON UPDATE TO t DO ALSO NOTHING",
        "ALTER TABLE t ALTER w SET DEFAULT 3",
        "ALTER TABLE t DROP CONSTRAINT t_c_check",
    ] {
        redefines(&mut b, statement, &["t"], &["t"]);
    }
    redefines(&mut b, "ALTER TABLE t INHERIT parent", &["parent", "t"], &["parent", "t"]);
    // Of the parent there is no message; but what was read with the child in it depends on the child.
    redefines(&mut b, "ALTER TABLE t NO INHERIT parent", &["t"], &["t"]);
    redefines(&mut b, "REFRESH MATERIALIZED VIEW m", &["m"], &["m"]);
    b.run("INSERT INTO seen_source VALUES (1)");
    let concurrently = found(&mut b, |b| b.run("REFRESH MATERIALIZED VIEW CONCURRENTLY m"));
    assert_eq!(concurrently.written.keys().collect::<Vec<_>>(), ["m"], "{concurrently:?}");
    // Built in several transactions; nothing of the rows changes.
    let index = found(&mut b, |b| b.run("CREATE INDEX CONCURRENTLY i ON t (w)"));
    assert_eq!(index.redefined.iter().collect::<Vec<_>>(), ["t"], "{index:?}");
    // Undone: neither.
    let undone = found(&mut b, |b| b.run("BEGIN; ALTER TABLE t ADD extra int; ROLLBACK"));
    assert_eq!((undone.written.len(), undone.redefined.len()), (0, 0), "{undone:?}");
    // A table and another of its name.
    let old: u32 = b.one("SELECT 'other'::regclass::oid");
    let before = changes(&mut b, &old.to_string());
    b.run("BEGIN; DROP TABLE other; CREATE TABLE other (id int); COMMIT");
    let after = changes(&mut b, &old.to_string());
    assert!(after.writes > before.writes && after.definitions > before.definitions, "{before:?} {after:?}");
    // In a partition of the server's that another process has just used.
    let mut elsewhere = world.backend();
    let by_other = found(&mut b, |_| elsewhere.run("ALTER TABLE t ADD extra int"));
    assert_eq!(by_other.redefined.iter().collect::<Vec<_>>(), ["t"], "{by_other:?}");
}

#[test]
fn functions_types_and_roles_are_counted_apart_from_tables() {
    let (_world, mut b) = watched(&[]);
    b.run("CREATE TABLE t (id int); CREATE ROLE reader; CREATE ROLE team; CREATE SCHEMA elsewhere");
    let mut check = |statement: &str, code: bool, roles: bool| {
        let found = found(&mut b, |b| b.run(statement));
        let none = BTreeMap::new();
        assert_eq!((&found.written, found.code, found.roles), (&none, code, roles), "{statement}: {found:?}");
        assert!(found.redefined.is_empty(), "{statement}: {found:?}");
    };
    check("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'", true, false);
    check("CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 2'", true, false);
    check("GRANT EXECUTE ON FUNCTION f() TO reader", true, false);
    check("GRANT USAGE ON SCHEMA elsewhere TO reader", true, false);
    check("CREATE TYPE mood AS ENUM ('a', 'b')", true, false);
    check("ALTER TYPE mood RENAME VALUE 'a' TO 'c'", true, false);
    check("DROP FUNCTION f()", true, false);
    check("ALTER ROLE reader NOINHERIT", false, true);
    check("GRANT team TO reader", false, true);
    check("REVOKE team FROM reader", false, true);
    // Tables come and go without a word to those who read others.
    check("CREATE TABLE another (id int)", false, false);
    check("CREATE TEMPORARY TABLE mine (id int)", true, false); // the session's schema, once
    check("DROP TABLE mine; CREATE TEMPORARY TABLE mine (id serial PRIMARY KEY)", false, false);
    check("ANALYZE another", false, false);
}

#[test]
fn rows_of_partitions_are_published_where_they_are() {
    let (_world, mut b) = watched(&[]);
    b.run(
        "CREATE TABLE p (id int, v int) PARTITION BY RANGE (id);
         CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
         CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20) PARTITION BY RANGE (v);
         CREATE TABLE p2a PARTITION OF p2 FOR VALUES FROM (0) TO (10);
         CREATE TABLE p2b PARTITION OF p2 FOR VALUES FROM (10) TO (20);
         CREATE TABLE apart (id int, v int); INSERT INTO apart VALUES (25, 1);
         INSERT INTO p VALUES (1, 1), (11, 1), (12, 11)",
    );
    writes_rows(&mut b, "INSERT INTO p VALUES (2, 2)", &["p1"]);
    writes_rows(&mut b, "INSERT INTO p2b VALUES (12, 12)", &["p2b"]);
    writes_rows(&mut b, "INSERT INTO p VALUES (3, 3), (13, 3)", &["p1", "p2a"]);
    writes_rows(&mut b, "DELETE FROM p2 WHERE id = 13 AND v = 3", &["p2a"]);
    // From one partition to another. The plan may lock further ones.
    let moved = found(&mut b, |b| b.run("UPDATE p SET v = 12 WHERE id = 11 AND v = 1"));
    assert!(moved.written.contains_key("p2a") && moved.written.contains_key("p2b"), "{moved:?}");
    assert!(!moved.written.contains_key("apart") && moved.redefined.is_empty(), "{moved:?}");
    // The set of partitions is part of the parent's definition.
    let parts: i64 = b.one("SELECT count(*) FROM p");
    let attached = found(&mut b, |b| b.run("ALTER TABLE p ATTACH PARTITION apart FOR VALUES FROM (20) TO (30)"));
    assert!(["p", "apart"].iter().all(|&name| attached.redefined.contains(name)), "{attached:?}");
    assert!(attached.written.contains_key("p"), "{attached:?}");
    assert_eq!(b.one::<i64>("SELECT count(*) FROM p"), parts + 1);
    let detached = found(&mut b, |b| b.run("ALTER TABLE p DETACH PARTITION apart"));
    assert!(detached.redefined.contains("p") && detached.written.contains_key("p"), "{detached:?}");
    b.run("ALTER TABLE p ATTACH PARTITION apart FOR VALUES FROM (20) TO (30)");
    let detached = found(&mut b, |b| b.run("ALTER TABLE p DETACH PARTITION apart CONCURRENTLY"));
    assert!(detached.redefined.contains("p") && detached.written.contains_key("p"), "{detached:?}");
    b.run("CREATE TABLE old (id int); CREATE TABLE child () INHERITS (old)");
    writes_rows(&mut b, "INSERT INTO child VALUES (1)", &["child"]);
    let both = found(&mut b, |b| b.run("UPDATE old SET id = 2"));
    assert!(both.written.contains_key("child"), "{both:?}");
}

#[test]
fn as_many_tables_as_a_transaction_writes_are_published() {
    let (world, mut b) = watched(&[("max_locks_per_transaction", "256")]);
    // On the fast path and off it; more than are listed one by one; more than are looked up.
    for count in [10, 40, 200, 700] {
        b.run(&format!(
            "DO $$ BEGIN
                 FOR n IN 1..{count} LOOP EXECUTE format('CREATE TABLE IF NOT EXISTS t%s (id int PRIMARY KEY)', n); END LOOP;
             END $$"
        ));
        let sum = "SELECT sum(writes)::bigint FROM (SELECT DISTINCT line, writes FROM pg_class, shared_lru.changes(oid) WHERE relname ~ '^t[0-9]+$') AS lines";
        let lines: i64 =
            b.one("SELECT count(DISTINCT line) FROM pg_class, shared_lru.changes(oid) WHERE relname ~ '^t[0-9]+$'");
        assert!(lines > count - count / 10 - 1, "{lines} lines of {count} tables");
        // A new process, which knows nothing of any relation; then one that does.
        let mut writer = world.backend();
        for _ in 0..2 {
            let before: i64 = b.one(sum);
            writer.run(&format!(
                "DO $$ BEGIN FOR n IN 1..{count} LOOP EXECUTE format('INSERT INTO t%s SELECT count(*) FROM t%s', n, n); END LOOP; END $$"
            ));
            assert_eq!(b.one::<i64>(sum), before + lines, "{count} tables");
        }
    }
}

#[test]
fn a_lock_that_another_process_has_moved_off_the_fast_path_is_found() {
    let (world, mut b) = watched(&[]);
    b.run("CREATE TABLE t (id int); CREATE TABLE other (id int)");
    let mut waiting = world.backend();
    let was = changes(&mut b, "t");
    b.run("BEGIN; INSERT INTO t VALUES (1); INSERT INTO other VALUES (1)");
    let mut watcher = world.backend();
    let waits = thread::spawn(move || waiting.run("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE; COMMIT"));
    wait_until("the lock is in the main table", || {
        watcher.one::<i64>(
            "SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass AND mode = 'RowExclusiveLock' AND NOT fastpath",
        ) == 1
    });
    b.run("COMMIT");
    waits.join().expect("who waited");
    let is = changes(&mut b, "t");
    assert_eq!(is.writes, was.writes + 1);
}

#[test]
fn prepared_transactions_have_published_whoever_ends_them() {
    let (world, mut b) = watched(&[("max_prepared_transactions", "5"), ("pg_shared_lru.naptime", "1")]);
    b.run("CREATE TABLE t (id int); CREATE TABLE other (id int)");
    let mut ender = world.backend();
    for end in ["COMMIT PREPARED 'x'", "ROLLBACK PREPARED 'x'"] {
        writes_rows(&mut b, "BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'x'", &["t"]);
        let ended = found(&mut b, |_| ender.run(end));
        assert!(ended.written.is_empty(), "published before, not now: {ended:?}");
    }
    // One that changes a definition: nobody can tell when its end is known to all. So nothing is told until it is over.
    for (end, name) in [("COMMIT PREPARED 'y'", "u"), ("ROLLBACK PREPARED 'y'", "v")] {
        let before = changes(&mut b, "other");
        b.run(&format!("BEGIN; ALTER TABLE other ADD {name} int; PREPARE TRANSACTION 'y'"));
        assert!(!is_on(&mut b));
        // Longer than the worker sleeps.
        let rounds = "SELECT pg_sleep(1.5)";
        b.run(rounds);
        assert!(!is_on(&mut b), "on again while it is prepared");
        b.run("INSERT INTO t VALUES (2)");
        ender.run(end);
        wait_until("writers publish again", || is_on(&mut b));
        assert!(changes(&mut b, "other").definitions > before.definitions);
        writes_rows(&mut b, "INSERT INTO t VALUES (3)", &["t"]);
    }
    // Pending over a restart: told only when it has ended.
    b.run("BEGIN; INSERT INTO t VALUES (4); PREPARE TRANSACTION 'z'");
    drop((b, ender));
    world.cluster.restart(StopMode::Fast).expect("the server starts again");
    let mut b = world.backend();
    b.run("SELECT pg_sleep(0.5)");
    assert!(!is_on(&mut b));
    b.run("COMMIT PREPARED 'z'");
    wait_until("writers publish", || is_on(&mut b));
}

#[test]
fn a_transaction_that_fails_to_be_prepared_leaves_every_line_telling() {
    let (_world, mut b) = watched(&[("max_prepared_transactions", "5"), ("pg_shared_lru.naptime", "1")]);
    b.run("CREATE TABLE t (id int)");
    let too_long = "x".repeat(300);
    for change in [
        "ALTER ROLE CURRENT_USER PASSWORD NULL",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql RETURN 1",
        "ALTER TABLE t ADD v int",
    ] {
        b.run(&format!("BEGIN; {change}"));
        b.refused(&format!("PREPARE TRANSACTION '{too_long}'")).is("22023", &["too long"]);
        b.run("ROLLBACK");
        wait_until("writers publish again", || is_on(&mut b));
        let told = "SELECT num_nonnulls(writes, definitions, code, roles) FROM shared_lru.changes('t')";
        assert_eq!(b.one::<i32>(told), 4, "after {change}");
    }
}

/// A look into a catalog in the middle of a commit may wait, and whoever waits may be terminated.
#[test]
fn who_is_terminated_while_it_looks_up_what_it_has_written_gives_its_locks_back() {
    let (world, mut b) = watched(&[]);
    b.run(
        "CREATE TABLE parent (id int) PARTITION BY RANGE (id);
         CREATE TABLE leaf PARTITION OF parent FOR VALUES FROM (0) TO (10); CREATE TABLE other ()",
    );
    let mut locker = world.backend();
    let mut writer = world.backend();
    writer.run("SET application_name = 'writer'; BEGIN; INSERT INTO parent VALUES (1)");
    // It forgets what it knew of the leaf.
    b.run("ANALYZE leaf");
    writer.run("SELECT FROM other");
    // Nor can anybody look into the catalog meanwhile: what is asked then is planned before.
    b.run(
        "PREPARE waits AS SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'writer' AND wait_event_type = 'Lock');
         PREPARE is_there AS SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'writer');
         PREPARE ends (name) AS SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = $1",
    );
    let mut ask = |statement: &str| b.client.simple_query(statement).expect("it is planned");
    let is_so = |answer: Vec<postgres::SimpleQueryMessage>| {
        answer.iter().any(|row| matches!(row, postgres::SimpleQueryMessage::Row(row) if row.get(0) == Some("t")))
    };
    for statement in ["EXECUTE waits", "EXECUTE is_there", "EXECUTE ends ('nobody')"] {
        ask(statement);
    }
    locker.run("BEGIN; LOCK pg_class IN ACCESS EXCLUSIVE MODE");
    let committing = std::thread::spawn(move || writer.client.batch_execute("COMMIT"));
    wait_until("the writer waits for the catalog", || is_so(ask("EXECUTE waits")));
    ask("EXECUTE ends ('writer')");
    wait_until("the writer has ended", || !is_so(ask("EXECUTE is_there")));
    assert!(committing.join().expect("it has ended").is_err());
    locker.run("ROLLBACK");
    // Had it kept its locks, this would wait for ever.
    b.run("SET lock_timeout = '20s'; TRUNCATE parent; DROP TABLE parent");
}

#[test]
fn it_can_be_switched_at_any_time_and_waits_for_who_has_not_seen_it() {
    let world = World::new();
    let mut b = world.backend();
    b.run("CREATE TABLE t (id int)");
    assert!(!is_on(&mut b));
    let mut running = world.backend();
    running.run("BEGIN; INSERT INTO t VALUES (1)");
    let switch = |b: &mut Backend, to: &str| {
        b.run(&format!("ALTER SYSTEM SET pg_shared_lru.query_cache = {to}"));
        b.run("SELECT pg_reload_conf()");
    };
    switch(&mut b, "on");
    b.run("SELECT pg_sleep(0.5)");
    assert!(!is_on(&mut b), "a transaction from before is still running");
    running.run("COMMIT");
    wait_until("it is on", || is_on(&mut b));
    writes_rows(&mut b, "INSERT INTO t VALUES (1)", &["t"]);
    let before = changes(&mut b, "t");
    switch(&mut b, "off");
    wait_until("it is off", || !is_on(&mut b));
    b.run("INSERT INTO t VALUES (2)");
    switch(&mut b, "on");
    wait_until("it is on", || is_on(&mut b));
    let after = changes(&mut b, "t");
    // What was written in between is not counted. So what was learned before must not look current.
    assert_eq!(after.writes, before.writes);
    assert!(after.definitions > before.definitions && after.code > before.code && after.roles > before.roles);
    // While others write all the time.
    let writers: Vec<_> = (0..2)
        .map(|_| {
            let mut writer = world.backend();
            thread::spawn(move || {
                (0..500).for_each(|n| {
                    writer.run(&format!("ALTER TABLE t ALTER id SET DEFAULT {n}; INSERT INTO t VALUES ({n})"))
                })
            })
        })
        .collect();
    for round in 0..10 {
        switch(&mut b, if round % 2 == 0 { "off" } else { "on" });
        b.run("SELECT pg_sleep(0.05)");
    }
    writers.into_iter().for_each(|writer| writer.join().expect("a writer"));
    wait_until("it is on", || is_on(&mut b));
    redefines(&mut b, "TRUNCATE t", &["t"], &["t"]);
}

#[test]
fn where_it_cannot_work_the_log_says_so_once() {
    let world = World::with(&[ON, ("wal_level", "replica"), ("max_wal_senders", "4"), ("pg_shared_lru.naptime", "1")]);
    let standby = World { cluster: world.cluster.standby().expect("a standby starts") };
    let mut reader = standby.backend();
    let said = |world: &World| world.cluster.log().matches("query_cache is on and has no effect").count();
    wait_until("the standby says so", || said(&standby) > 0);
    reader.run("SELECT pg_sleep(2.5)");
    assert_eq!((said(&standby), is_on(&mut reader)), (1, false));
    standby.cluster.promote().expect("it was a standby");
    wait_until("writers of the promoted server publish", || is_on(&mut reader));
    assert_eq!(said(&world), 0);
}

#[test]
fn what_logical_replication_applies_is_published() {
    let (world, mut b) = watched(&[("wal_level", "logical"), ("max_wal_senders", "4"), ("max_replication_slots", "4")]);
    b.run("CREATE TABLE t (id int PRIMARY KEY, v int); CREATE PUBLICATION p FOR TABLE t; INSERT INTO t VALUES (0, 0)");
    b.run("CREATE DATABASE copy");
    let mut copy = world.backend_in("copy");
    copy.run("CREATE EXTENSION pg_shared_lru; CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE apart (id int)");
    // By hand, for CREATE SUBSCRIPTION would wait for itself in a server that is its own publisher.
    b.run("SELECT pg_create_logical_replication_slot('s', 'pgoutput')");
    let host: String = b.one("SHOW unix_socket_directories");
    let before = tables(&mut copy);
    copy.run(&format!(
        "CREATE SUBSCRIPTION s CONNECTION 'host={host} dbname=postgres user=postgres' PUBLICATION p
           WITH (create_slot = false, slot_name = 's', copy_data = true)"
    ));
    wait_until("the table is copied", || {
        copy.one::<i64>("SELECT count(*) FROM pg_subscription_rel WHERE srsubstate = 'r'") == 1
    });
    let mut last = tables(&mut copy);
    assert!(last["t"].writes > before["t"].writes, "{before:?} {last:?}");
    let rows = |copy: &mut Backend| {
        copy.one::<String>("SELECT coalesce(string_agg(id || ':' || v, ' ' ORDER BY id), '') FROM t")
    };
    for (statement, expected) in [
        ("INSERT INTO t VALUES (1, 1)", "0:0 1:1"),
        ("UPDATE t SET v = 2 WHERE id = 1", "0:0 1:2"),
        ("DELETE FROM t WHERE id = 1", "0:0"),
        ("TRUNCATE t", ""),
    ] {
        b.run(statement);
        wait_until(statement, || rows(&mut copy) == expected);
        let now = tables(&mut copy);
        assert_eq!(now["t"].writes, last["t"].writes + 1, "{statement}");
        assert_eq!(now["apart"].writes, last["apart"].writes, "{statement}");
        last = now;
    }
    copy.run("ALTER SUBSCRIPTION s DISABLE; ALTER SUBSCRIPTION s SET (slot_name = NONE); DROP SUBSCRIPTION s");
}

/// What a statement found: how many writers of each table it sees, with the definitions; and their rows.
type Look = (Vec<Option<(i64, i64)>>, Vec<String>);

const WATCHED: [&str; 4] = ["t", "child", "p1", "p2"];

/// `None` if it was chosen to end a deadlock.
fn look(backend: &mut Backend) -> Option<Look> {
    let of = |name: &str| {
        format!(
            "(SELECT ARRAY[seen, definitions] FROM shared_lru.changes('{name}')) AS {name},
             (SELECT coalesce(string_agg(id || ':' || v, ' ' ORDER BY id, v), '') FROM ONLY {name}) AS rows_of_{name}"
        )
    };
    let row = backend.client.query_one(&format!("SELECT {}", WATCHED.map(of).join(", ")), &[]);
    let row = row.inspect_err(|error| assert_eq!(error.code(), Some(&SqlState::T_R_DEADLOCK_DETECTED))).ok()?;
    let told = |name: &str| {
        let numbers: Vec<Option<i64>> = row.get(name);
        numbers[0].zip(numbers[1])
    };
    Some((WATCHED.map(told).into(), WATCHED.map(|name| row.get(format!("rows_of_{name}").as_str())).into()))
}

/// One transaction that writes some of the tables, or seems to.
fn write_something(backend: &mut Backend, name: usize, random: &mut impl RngExt) {
    let id = random.random_range(0..20);
    let statement = match random.random_range(0..16) {
        0..4 => format!("INSERT INTO t VALUES ({id}, 1) ON CONFLICT (id) DO UPDATE SET v = t.v + 1"),
        4..6 => format!("DELETE FROM t WHERE id = {id}"),
        6 => format!("INSERT INTO child SELECT id, {id} FROM t WHERE id = {id}"),
        7 => format!("INSERT INTO p VALUES ({id}, {id})"),
        8..10 => format!("UPDATE p SET id = (id + 10) % 20 WHERE id = {id}"),
        10 => format!("DELETE FROM p WHERE id = {id}"),
        11 => format!("SAVEPOINT s; UPDATE t SET v = v + 1; ROLLBACK TO s; INSERT INTO p VALUES ({id}, 0)"),
        12 => format!("SAVEPOINT s; INSERT INTO p VALUES ({id}, 0); RELEASE s; SELECT * FROM t FOR UPDATE"),
        13 => "TRUNCATE child; INSERT INTO child SELECT id, 0 FROM t LIMIT 3".to_owned(),
        14 => "TRUNCATE p1".to_owned(),
        _ => format!("UPDATE t SET v = v + 1 WHERE id < {id}"),
    };
    // A deadlock, or a row that is there: then it is rolled back.
    let is_done = backend.client.batch_execute(&format!("BEGIN; {statement}")).is_ok();
    match random.random_range(0..10) {
        _ if !is_done => backend.run("ROLLBACK"),
        0 => backend.run("ROLLBACK"),
        // Not what changes definitions: that turns publications off, and then nothing is told.
        1..4 if !statement.starts_with("TRUNCATE") => {
            backend.run(&format!("PREPARE TRANSACTION 'x{name}'"));
            backend.run(&format!("SELECT pg_sleep({})", random.random_range(0.0..0.01)));
            let end = if random.random_bool(0.8) { "COMMIT" } else { "ROLLBACK" };
            backend.run(&format!("{end} PREPARED 'x{name}'"));
        }
        _ => backend.run("COMMIT"),
    }
}

#[test]
fn statements_that_are_told_the_same_numbers_find_the_same_rows() {
    let (world, mut b) = watched(&[("max_prepared_transactions", "8")]);
    b.run(
        "CREATE TABLE t (id int PRIMARY KEY, v int);
         CREATE TABLE child (id int REFERENCES t ON DELETE CASCADE, v int);
         CREATE TABLE p (id int, v int) PARTITION BY RANGE (id);
         CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
         CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20)",
    );
    tables(&mut b);
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let stop = AtomicBool::new(false);
    let looks: Vec<Look> = thread::scope(|scope| {
        for name in 0..3 {
            let (mut backend, stop) = (world.backend(), &stop);
            let mut random = StdRng::seed_from_u64(seed + name as u64);
            scope.spawn(move || {
                while !stop.load(Relaxed) {
                    write_something(&mut backend, name, &mut random);
                }
            });
        }
        let readers = ["READ COMMITTED", "REPEATABLE READ"].map(|isolation| {
            let mut backend = world.backend();
            scope.spawn(move || {
                let mut looks = Vec::new();
                for _ in 0..300 {
                    backend.run(&format!("BEGIN ISOLATION LEVEL {isolation}"));
                    looks.extend((0..5).map_while(|_| look(&mut backend)));
                    backend.run("COMMIT");
                }
                looks
            })
        });
        let looks = readers.map(|reader| reader.join());
        stop.store(true, Relaxed);
        looks.into_iter().flat_map(|looks| looks.expect("a reader")).collect()
    });
    let (mut known, mut told, mut again) = (BTreeMap::new(), 0, 0);
    for (numbers, rows) in &looks {
        for ((table, numbers), rows) in WATCHED.iter().zip(numbers).zip(rows) {
            let Some(numbers) = numbers else { continue };
            told += 1;
            if let Some(before) = known.insert((table, numbers), rows) {
                again += 1;
                assert_eq!(before, rows, "{table}: seed {seed}, the same numbers {numbers:?}, other rows");
            }
        }
    }
    println!("{} looks at {} tables: {told} told, {again} as one before", looks.len(), WATCHED.len());
    assert!(told > looks.len() && again > looks.len() / 2, "{told} told, {again} as one before");
}
