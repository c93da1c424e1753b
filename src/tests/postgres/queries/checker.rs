//! The random checker: writers change what readers compare, cached and direct in one statement.
//!
//! The statement is its own oracle: both halves have one snapshot. Each run prints its seed. In the middle the server is
//! shut down, and stopped as by a crash, while all are at it; they connect again (`restarts`). What was prepared before a
//! restart is tried in another test: see `queries`.

use std::env;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use super::outside::{self, confirm, publish, subscribe};
use super::readers::{COMPARE, read};
use super::restarts::{Restarts, restart};
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

/// What a run came to.
pub struct Checked {
    /// What differed first.
    pub difference: Option<String>,
    /// How many results were compared: in all, and since the last restart, which forgets what was counted.
    pub compared: u64,
    pub since_restart: u64,
}

/// Readers compare while writers change.
pub fn check(world: &World, reads: u64, seed: u64) -> Checked {
    check_with(world, reads, seed, COMPARE)
}

/// As above, with another function that compares.
pub fn check_with(world: &World, reads: u64, seed: u64, compare: &str) -> Checked {
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
         CREATE TABLE steady (n int);
         CREATE FUNCTION log() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.logged VALUES (1); RETURN NULL; END';
         CREATE TRIGGER log AFTER INSERT ON trigger_source FOR EACH ROW EXECUTE FUNCTION log();
         CREATE VIEW overview AS SELECT v FROM t;
         CREATE TABLE again AS SELECT 1 AS n;
         CREATE FUNCTION total(name text) RETURNS text STABLE LANGUAGE plpgsql AS $$
         DECLARE found text;
         BEGIN
             EXECUTE format('SELECT count(*) || '' '' || coalesce(sum(hashtext(x::text)), 0) FROM %I AS x', name) INTO found;
             RETURN found;
         END $$;
         CREATE FUNCTION total_of_t() RETURNS text STABLE LANGUAGE plpgsql AS
             'BEGIN RETURN (SELECT sum(v + doubled(1)) FROM t); END';
         SELECT shared_lru.alter_cache('c', trusted_functions => '{{total(text),total_of_t()}}');
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
         -- Unchecked results: of no effect, also where the rings are off for a while.
         SELECT shared_lru.alter_cache('c', ttl => '1 hour', accept_unchecked => true, settings => '{{app.tenant}}');
         {compare}"
    ));
    subscribe(world);
    let (done, stopped, compared) = (AtomicBool::new(false), AtomicBool::new(false), AtomicU64::new(0));
    let restarts = Restarts::new(seed);
    let (difference, before_restart) = thread::scope(|scope| {
        let (done, stopped, compared, restarts) = (&done, &stopped, &compared, &restarts);
        let through =
            |work: fn(&World, u64, &AtomicBool)| scope.spawn(move || restarts.survived(|seed| work(world, seed, done)));
        let mut others = vec![through(end_what_is_prepared), through(idle), through(publish)];
        others.extend(
            (0..2_u64).map(|number| scope.spawn(move || restarts.survived(|seed| write(world, seed, number, done)))),
        );
        let standby = scope.spawn(move || restarts.survived(|seed| confirm(world, seed, stopped)));
        let readers: Vec<_> = (0..3_u64)
            .map(|number| scope.spawn(move || restarts.survived(|seed| read(world, seed, number, reads, compared))))
            .collect();
        let restarter = scope.spawn(move || restart(world, seed, restarts, reads, compared, done));
        let differences: Vec<_> =
            readers.into_iter().filter_map(|reader| reader.join().expect("a reader ends")).collect();
        done.store(true, Ordering::Relaxed);
        let before_restart = restarter.join().expect("it ends");
        // Commits wait for the standby as long as there are any.
        others.into_iter().for_each(|other| other.join().expect("it ends"));
        // A writer may have prepared its last change when nobody looked any more.
        end_what_is_prepared(world, seed, done);
        stopped.store(true, Ordering::Relaxed);
        let confirmed = standby.join().expect("it ends");
        // The last prepared change of a definition may have ended just now.
        let mut admin = world.backend();
        wait_until("writers publish", || admin.one("SELECT EXISTS (SELECT FROM shared_lru.changes('applied'))"));
        let applied: i64 = admin.one("SELECT writes FROM shared_lru.changes('applied')");
        println!("{confirmed} commits have waited for the standby; {applied} were an apply worker's");
        assert!(confirmed > 0 && applied > 1, "{confirmed}, {applied}");
        (differences.into_iter().next(), before_restart)
    });
    let compared = compared.into_inner();
    Checked { difference, compared, since_restart: compared - before_restart }
}
