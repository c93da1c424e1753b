//! Who changes things under the random checker: writers of every kind, and who ends what they leave.
//!
//! Each change is one transaction that may commit, roll back, or be prepared for somebody else to end. Its randomness
//! follows from the seed; in which order the sessions' changes come does not.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rand::prelude::*;
use rand::rngs::SmallRng;

use super::readers::OWNERS;
use crate::world::{Backend, World};

/// How long a writer rests between two changes, at most.
const PAUSE_MILLIS: u64 = 60;

/// Prepared transactions but those of the database `source`, and of its apply worker.
const PREPARED: &str =
    "SELECT gid FROM pg_prepared_xacts WHERE database = current_database() AND gid NOT LIKE 'pg\\_gid\\_%'";

/// Changes one thing after the other until it is done.
pub fn write(world: &World, seed: u64, number: u64, done: &AtomicBool) {
    let mut rng = SmallRng::seed_from_u64(seed * 100 + number);
    let connect = || {
        let mut backend = world.backend();
        backend.run("SET lock_timeout = '1s'; SET deadlock_timeout = '100ms'; SET application_name = 'writer'");
        backend
    };
    let mut backend = connect();
    for step in 0.. {
        if done.load(Ordering::Relaxed) {
            return;
        }
        if backend.client.is_closed() {
            backend = connect();
        }
        one_change(&mut backend, &mut rng, &format!("{seed}-{number}-{step}"));
        thread::sleep(Duration::from_millis(rng.random_range(0..PAUSE_MILLIS)));
    }
}

/// Ends prepared transactions of others after a while; and sometimes one of the others.
pub fn end_what_is_prepared(world: &World, seed: u64, done: &AtomicBool) {
    let mut rng = SmallRng::seed_from_u64(seed * 100 + 50);
    let mut backend = world.backend();
    loop {
        let was_done = done.load(Ordering::Relaxed);
        let mut is_busy = false;
        for name in backend.all::<String>(PREPARED) {
            let end = if rng.random_range(0..3) == 0 { "ROLLBACK" } else { "COMMIT" };
            let waits = ["local", "on"][usize::from(rng.random_range(0..8) == 0)];
            backend.run(&format!("SET synchronous_commit = {waits}"));
            // Its PREPARE may still wait for the standby.
            is_busy |= backend.client.batch_execute(&format!("{end} PREPARED '{name}'")).is_err();
        }
        if was_done && !is_busy {
            return;
        }
        if rng.random_range(0..100) == 0 {
            backend.run(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'writer' LIMIT 1",
            );
        }
        thread::sleep(Duration::from_millis(rng.random_range(0..20)));
    }
}

/// Has a transaction with an id that does nothing for a while, again and again.
pub fn idle(world: &World, seed: u64, done: &AtomicBool) {
    let mut rng = SmallRng::seed_from_u64(seed * 100 + 51);
    let mut backend = world.backend();
    while !done.load(Ordering::Relaxed) {
        backend.run("BEGIN; SELECT txid_current()");
        thread::sleep(Duration::from_millis(rng.random_range(0..1000)));
        backend.run("COMMIT");
        thread::sleep(Duration::from_millis(rng.random_range(0..1000)));
    }
}

fn one_change(backend: &mut Backend, rng: &mut SmallRng, name: &str) {
    let key = rng.random_range(0..20);
    let statement = match rng.random_range(0..35) {
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
        22 => format!("LOCK TABLE t IN SHARE ROW EXCLUSIVE MODE; UPDATE t SET v = v + 1 WHERE id = {key}"),
        23 => "TRUNCATE child; COPY child FROM PROGRAM 'echo 1' WITH (FORMAT csv, FREEZE)".to_owned(),
        24 => "ALTER TABLE t ADD COLUMN more int DEFAULT 1; ALTER TABLE t DROP COLUMN more".to_owned(),
        25 => format!("SET LOCAL session_replication_role = replica; INSERT INTO trigger_source VALUES ({key})"),
        26 => format!("INSERT INTO owned VALUES ('{}', {key})", OWNERS[rng.random_range(0..2)]),
        27 => "DELETE FROM owned WHERE v > 10".to_owned(),
        28 => format!("ALTER TABLE owned {} ROW LEVEL SECURITY", ["ENABLE", "DISABLE"][rng.random_range(0..2)]),
        29 => format!("DROP POLICY own ON owned; CREATE POLICY own ON owned USING (owner = current_user AND v < {key})"),
        30 => "REVOKE SELECT ON owned FROM alice; GRANT SELECT ON owned TO alice".to_owned(),
        31 => format!("WITH gone AS (DELETE FROM owned WHERE v = {key} RETURNING v) UPDATE t SET v = t.v + 1 FROM gone WHERE id = gone.v"),
        33 => format!(
            "MERGE INTO t USING (VALUES ({key})) AS s (id) ON t.id = s.id WHEN MATCHED THEN UPDATE SET v = t.v + 1 WHEN NOT MATCHED THEN INSERT VALUES (s.id, 1)"
        ),
        32 => format!("DROP TABLE IF EXISTS again; CREATE TABLE again AS SELECT {key} AS n"),
        34 => "SELECT shared_lru.invalidate_tag('c', 'a')".to_owned(),
        20 => "CREATE TABLE IF NOT EXISTS early.logged AS SELECT 1 AS n".to_owned(),
        _ => "DROP TABLE IF EXISTS early.logged".to_owned(),
    };
    let concurrently = statement.contains("CONCURRENTLY");
    // A prepared change of a definition turns the cache off until it is over. So there are few of them.
    let redefines =
        !["UPDATE", "INSERT", "DELETE", "COPY", "LOCK", "WITH", "MERGE"].iter().any(|verb| statement.starts_with(verb));
    let prepares = !concurrently && (!redefines || rng.random_range(0..20) == 0);
    let end = match rng.random_range(0..8) {
        0 => "ROLLBACK".to_owned(),
        1 => format!("SAVEPOINT s; {statement}; ROLLBACK TO s; COMMIT"),
        2 | 3 if prepares => format!("PREPARE TRANSACTION '{name}'"),
        _ => "COMMIT".to_owned(),
    };
    // Its commit waits for the standby, visible to nobody.
    let waits = if rng.random_range(0..8) == 0 { "SET LOCAL synchronous_commit = on; " } else { "" };
    let script = format!("BEGIN; {waits}{statement}; {end}");
    for part in script.split("; ") {
        // Writers may meet, and one of them loses.
        if backend.client.batch_execute(part).is_err() {
            _ = backend.client.batch_execute("ROLLBACK");
            return;
        }
    }
}
