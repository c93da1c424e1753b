//! Who reads under the random checker: each query with and without the cache in one statement, at every isolation
//! level, as several roles, with several search paths, for several tenants.

use std::sync::atomic::{AtomicU64, Ordering};

use rand::prelude::*;
use rand::rngs::SmallRng;

use crate::world::World;

/// Roles of readers, who see rows of their own in `owned`.
pub const OWNERS: [&str; 2] = ["alice", "bob"];

/// Queries over what the writers change, each with one value. The last ones name what is redefined meanwhile. All of them are
/// kept: a number that is concatenated with a text without a cast makes a query STABLE.
const QUERIES: &[&str] = &[
    "SELECT count(*)::text || ' ' || coalesce(sum(v), 0)::text FROM applied",
    "SELECT sum(v)::text FROM t",
    "SELECT count(*)::text || ' of ' || coalesce(current_setting('app.tenant', true), 'nobody') FROM t WHERE v % 3 = 0",
    "SELECT string_agg(id::text || ':' || v::text, ' ' ORDER BY id) FROM t WHERE id < 10",
    "SELECT count(*)::text FROM child",
    "SELECT sum(v)::text FROM t JOIN child USING (id)",
    "SELECT n::text FROM mat",
    "SELECT count(*)::text || ' ' || coalesce(sum(v), 0)::text FROM parted",
    "SELECT sum(v)::text FROM parted WHERE k = 1",
    "SELECT string_agg(v::text, ' ' ORDER BY v) FROM owned",
    "SELECT doubled(3)::text",
    "SELECT count(*)::text FROM logged",
    "SELECT sum(v)::text FROM overview",
    "SELECT n::text FROM again",
    "SELECT total('parted')",
    "SELECT total('logged')",
    "SELECT total('owned')",
    "SELECT total('overview')",
    "SELECT total('again')",
    "SELECT total_of_t() || ' ' || total('child')",
];

/// How many of them name only what is not redefined.
const FIXED: i32 = 7;

/// Reads each query with and without the cache in one statement, many times, in one call.
///
/// Where something is redefined while a statement runs, the two halves may have looked the name up before and after. So
/// those are asked once more; what is wrong stays wrong.
pub const COMPARE: &str =
    "CREATE FUNCTION compare(queries text[], fixed int, rounds int) RETURNS text LANGUAGE plpgsql AS $$
    DECLARE
        cached text;
        direct text;
        place int;
        call text;
    BEGIN
        FOR n IN 1..rounds LOOP
            place := 1 + floor(random() * array_length(queries, 1));
            call := CASE WHEN random() < 0.2 THEN 'fetch_with(''c'', ''1 s'', ''{a,b}'', NULL' ELSE 'fetch(''c''' END;
            FOR try IN 0..1 LOOP
                EXECUTE format('SELECT shared_lru.%s, %L, NULL::text), (%s)', call, queries[place], queries[place])
                    INTO cached, direct;
                EXIT WHEN cached IS NOT DISTINCT FROM direct OR place <= fixed;
            END LOOP;
            IF cached IS DISTINCT FROM direct THEN
                RETURN format('%s: cached %s, direct %s', queries[place], cached, direct);
            END IF;
        END LOOP;
        RETURN NULL;
    END $$";

/// What a reader does in its transaction before it reads.
fn own_changes(rng: &mut SmallRng) -> Vec<String> {
    let one = |rng: &mut SmallRng| match rng.random_range(0..14) {
        0 => "INSERT INTO public.logged VALUES (1)".to_owned(),
        1 => format!("INSERT INTO t VALUES ({}, 7)", rng.random_range(20..1_000_000)),
        2 => "INSERT INTO parted SELECT n, 100 FROM generate_series(0, 2) AS n".to_owned(),
        3 => format!("INSERT INTO parted_{} SELECT 0, 100 WHERE false", rng.random_range(0..3)),
        4 => "INSERT INTO parted VALUES (2, 50)".to_owned(),
        5 => "INSERT INTO trigger_source VALUES (1)".to_owned(),
        6 => format!("INSERT INTO owned VALUES ('{}', 99)", OWNERS[rng.random_range(0..2)]),
        7 => "CREATE OR REPLACE FUNCTION doubled(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT -$1'".to_owned(),
        8 => "CREATE OR REPLACE VIEW overview AS SELECT v + 1000 AS v FROM t".to_owned(),
        9 => "DROP TABLE IF EXISTS early.again; CREATE TABLE early.again AS SELECT -1 AS n".to_owned(),
        10 => "CREATE TABLE unread (n int)".to_owned(),
        11 => "DELETE FROM unread_before; INSERT INTO unread_before VALUES (1)".to_owned(),
        _ => "SELECT txid_current()".to_owned(),
    };
    let mut changes = vec!["SET LOCAL lock_timeout = '1s'".to_owned()];
    for _ in 0..rng.random_range(1..3) {
        let change = one(rng);
        match rng.random_range(0..6) {
            0 => changes.extend(["SAVEPOINT s".to_owned(), change, "ROLLBACK TO s; RELEASE s".to_owned()]),
            1 => changes.extend(["SAVEPOINT s".to_owned(), change, "RELEASE s".to_owned()]),
            2 => changes.extend(["SAVEPOINT s".to_owned(), change, "ROLLBACK TO s".to_owned()]),
            3 => changes.extend(["SAVEPOINT s".to_owned(), change]),
            _ => changes.push(change),
        }
    }
    changes
}

const LEVELS: [&str; 4] = ["READ COMMITTED", "REPEATABLE READ", "REPEATABLE READ READ ONLY", "SERIALIZABLE"];

/// Compares until `compared` has come to so many reads, or something differs: what.
pub fn read(world: &World, seed: u64, number: u64, reads: u64, compared: &AtomicU64) -> Option<String> {
    let mut rng = SmallRng::seed_from_u64(seed * 100 + 60 + number);
    let mut backend = world.backend();
    let mut has_own = false;
    let (mut tried, mut succeeded, mut failed) = ([0; 4], [0; 4], [const { None }; 4]);
    while compared.load(Ordering::Relaxed) < reads {
        const ROUNDS: u64 = 100;
        let level = rng.random_range(0..16) / 5;
        tried[level] += 1;
        let path = ["early, public", "public"][rng.random_range(0..2)];
        let role = ["NONE", OWNERS[0], OWNERS[1]][rng.random_range(0..3)];
        // Nobody, until the session has had its first.
        let tenant = ["SELECT", "SET LOCAL app.tenant = 'a'", "SET LOCAL app.tenant = 'b'"][rng.random_range(0..3)];
        if rng.random_range(0..20) == 0 {
            // A table of its own, which hides the other until it goes.
            has_own = !has_own;
            backend.run(if has_own {
                "CREATE TEMPORARY TABLE logged AS SELECT 1 AS n FROM generate_series(1, 1000)"
            } else {
                "DROP TABLE pg_temp.logged"
            });
        }
        backend.run(&format!("SET search_path = {path}; BEGIN ISOLATION LEVEL {}", LEVELS[level]));
        if rng.random_range(0..4) == 0 {
            // Its own, which it alone sees.
            let own = own_changes(&mut rng).join("; ");
            if backend.client.batch_execute(&own).is_err() {
                backend.run("ROLLBACK");
                continue;
            }
        }
        backend.run(&format!("SET LOCAL ROLE {role}; {tenant}"));
        let found: Result<_, postgres::Error> = backend
            .client
            .query_one("SELECT compare($1, $2, $3)", &[&QUERIES, &FIXED, &(ROUNDS as i32)])
            .map(|row| row.get::<_, Option<String>>(0));
        match found {
            Ok(Some(difference)) => return Some(format!("{}, seed {seed}: {difference}", LEVELS[level])),
            Ok(None) => {
                succeeded[level] += 1;
                compared.fetch_add(ROUNDS, Ordering::Relaxed);
            }
            // A serialization failure, a table that was dropped just then.
            Err(error) => failed[level] = Some(error),
        }
        backend.run("ROLLBACK");
    }
    // Whatever is always an error is compared with nothing.
    let all_failed = (0..4).find(|&level| tried[level] >= 30 && succeeded[level] == 0)?;
    Some(format!("{}, seed {seed}: nothing was compared, {:?}", LEVELS[all_failed], failed[all_failed]))
}
