//! The random checker: writers change what readers compare, cached and direct in one statement.
//!
//! The statement is its own oracle: both halves have one snapshot. Each run prints its seed. A server is restarted in
//! another test: see `queries`.

use std::env;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use super::outside::{self, confirm, publish, subscribe};
use super::readers::{COMPARE, read};
use super::world_with;
use super::writers::{end_what_is_prepared, idle, write};
use crate::world::{World, wait_until};

/// How many reads the checker makes, and with which seed; the environment may say otherwise, as `make mutants` does.
pub const READS: u64 = 200_000;
pub const READS_VARIABLE: &str = "QUERY_CHECK_READS";
pub const SEED_VARIABLE: &str = "QUERY_CHECK_SEED";

pub fn from_environment(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|value| value.parse().unwrap_or_else(|error| panic!("{variable}={value}: {error}")))
}

/// A server as the checker needs it.
pub fn world() -> World {
    world_with(&outside::SETTINGS)
}

/// Readers compare while writers change; returns what differed first, and how many reads there were.
pub fn check(world: &World, reads: u64, seed: u64) -> (Option<String>, u64) {
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
         CREATE TABLE unread_before (n int);
         CREATE FUNCTION log() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.logged VALUES (1); RETURN NULL; END';
         CREATE TRIGGER log AFTER INSERT ON trigger_source FOR EACH ROW EXECUTE FUNCTION log();
         CREATE VIEW overview AS SELECT v FROM t;
         CREATE TABLE again AS SELECT 1 AS n;
         CREATE ROLE alice; CREATE ROLE bob;
         CREATE TABLE owned (owner text, v int);
         CREATE POLICY own ON owned USING (owner = current_user);
         CREATE SCHEMA early;
         GRANT USAGE ON SCHEMA early TO PUBLIC;
         GRANT USAGE ON SCHEMA shared_lru TO PUBLIC;
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA shared_lru TO PUBLIC;
         GRANT SELECT ON ALL TABLES IN SCHEMA public TO PUBLIC;
         ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC;
         REVOKE SELECT ON owned FROM PUBLIC;
         GRANT SELECT ON owned TO alice, bob;
         SELECT shared_lru.grant_cache('c', 'public', 'read'), shared_lru.grant_cache('c', 'public', 'write');
         {compare}"
    ));
    subscribe(world);
    let (done, stopped, compared) = (AtomicBool::new(false), AtomicBool::new(false), AtomicU64::new(0));
    let difference = thread::scope(|scope| {
        let (done, stopped, compared) = (&done, &stopped, &compared);
        let mut others: Vec<_> =
            (0..2_u64).map(|number| scope.spawn(move || write(world, seed, number, done))).collect();
        others.push(scope.spawn(move || end_what_is_prepared(world, seed, done)));
        others.push(scope.spawn(move || idle(world, seed, done)));
        others.push(scope.spawn(move || publish(world, seed, done)));
        let standby = scope.spawn(move || confirm(world, seed, stopped));
        let readers: Vec<_> =
            (0..3_u64).map(|number| scope.spawn(move || read(world, seed, number, reads, compared))).collect();
        let differences: Vec<_> =
            readers.into_iter().filter_map(|reader| reader.join().expect("a reader ends")).collect();
        done.store(true, Ordering::Relaxed);
        // Commits wait for the standby as long as there are any.
        others.into_iter().for_each(|other| other.join().expect("it ends"));
        stopped.store(true, Ordering::Relaxed);
        let confirmed = standby.join().expect("it ends");
        // The last prepared change of a definition may have ended just now.
        wait_until("writers publish", || admin.one("SELECT EXISTS (SELECT FROM shared_lru.changes('applied'))"));
        let applied: i64 = admin.one("SELECT writes FROM shared_lru.changes('applied')");
        println!("{confirmed} commits have waited for the standby; {applied} were an apply worker's");
        assert!(confirmed > 0 && applied > 1, "{confirmed}, {applied}");
        differences.into_iter().next()
    });
    (difference, compared.into_inner())
}
