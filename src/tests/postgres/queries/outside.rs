//! What acts on a server from outside of its sessions, under the random checker: a publisher whose changes an apply worker
//! writes, and the standby that commits wait for.
//!
//! Both are of the same server: the publisher is another database of it, and the standby does not exist. A commit that
//! wants one stays between its record and its visibility until it is cancelled, which PostgreSQL takes for a commit that
//! may have been lost there; here it has happened.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rand::prelude::*;
use rand::rngs::SmallRng;

use crate::cluster;
use crate::world::{Backend, World, wait_until};

/// Settings that both need.
pub const SETTINGS: [(&str, &str); 5] = [
    ("wal_level", "logical"),
    ("max_wal_senders", "4"),
    ("max_replication_slots", "4"),
    ("synchronous_standby_names", "nobody"),
    ("synchronous_commit", "local"),
];

const TABLE: &str = "CREATE TABLE applied (id int PRIMARY KEY, v int NOT NULL)";

/// Makes the table `applied`, into which an apply worker writes what is written into its like in the database `source`.
/// Prepared transactions are prepared and ended there, too, where the version can do that.
pub fn subscribe(world: &World) {
    let mut backend = world.backend();
    backend.run("CREATE DATABASE source");
    let mut source = world.backend_in("source");
    source.run(&format!("{TABLE}; CREATE PUBLICATION p FOR TABLE applied"));
    let (slot, option) = if has_two_phase() { (", false, true", ", two_phase = true") } else { ("", "") };
    // By hand, for CREATE SUBSCRIPTION would wait for itself in a server that is its own publisher.
    source.run(&format!("SELECT pg_create_logical_replication_slot('s', 'pgoutput'{slot})"));
    let host: String = backend.one("SHOW unix_socket_directories");
    backend.run(TABLE);
    backend.run(&format!(
        "CREATE SUBSCRIPTION s CONNECTION 'host={host} dbname=source user=postgres' PUBLICATION p
           WITH (create_slot = false, slot_name = 's', copy_data = false{option})"
    ));
    source.run("INSERT INTO applied VALUES (0, 0)");
    wait_until("the first row is applied", || backend.one("SELECT EXISTS (SELECT FROM applied)"));
}

fn has_two_phase() -> bool {
    cluster::major_version().expect("there is a PostgreSQL") >= 15
}

/// Writes in the database `source` until it is done.
pub fn publish(world: &World, seed: u64, done: &AtomicBool) {
    let mut rng = SmallRng::seed_from_u64(seed * 100 + 52);
    let mut source = world.backend_in("source");
    // One that was left behind when the server was restarted.
    _ = source.client.batch_execute("ROLLBACK PREPARED 'source'");
    while !done.load(Ordering::Relaxed) {
        assert!(!source.client.is_closed(), "the server has gone");
        let key = rng.random_range(0..20);
        let change = match rng.random_range(0..8) {
            0..4 => format!("INSERT INTO applied VALUES ({key}, 1) ON CONFLICT (id) DO UPDATE SET v = applied.v + 1"),
            4 => "UPDATE applied SET v = v + 1".to_owned(),
            5 => format!("DELETE FROM applied WHERE id = {key}"),
            6 => {
                format!("SAVEPOINT s; DELETE FROM applied; ROLLBACK TO s; INSERT INTO applied VALUES ({}, 1)", 20 + key)
            }
            _ => "TRUNCATE applied".to_owned(),
        };
        // What truncates changes a definition, and turns the cache off while it is prepared.
        let prepares = has_two_phase() && !change.starts_with("TRUNCATE") && rng.random_range(0..3) == 0;
        let end = if prepares { "PREPARE TRANSACTION 'source'" } else { "COMMIT" };
        if run(&mut source, &format!("BEGIN; {change}; {end}")) && prepares {
            pause(&mut rng, 50);
            run(&mut source, ["COMMIT PREPARED 'source'", "ROLLBACK PREPARED 'source'"][rng.random_range(0..2)]);
        }
        pause(&mut rng, 50);
    }
}

/// Lets commits that wait for the standby go on after a while, until it is stopped. How many there were.
pub fn confirm(world: &World, seed: u64, stopped: &AtomicBool) -> i64 {
    let mut rng = SmallRng::seed_from_u64(seed * 100 + 53);
    let mut backend = world.backend();
    let mut confirmed = 0;
    while !stopped.load(Ordering::Relaxed) {
        pause(&mut rng, 40);
        confirmed += backend.one::<i64>(
            "SELECT count(*) FILTER (WHERE pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'",
        );
    }
    confirmed
}

/// Each statement by itself; whether all have succeeded. A key may be there twice.
fn run(backend: &mut Backend, script: &str) -> bool {
    let succeeded = script.split("; ").all(|statement| backend.client.batch_execute(statement).is_ok());
    if !succeeded {
        _ = backend.client.batch_execute("ROLLBACK");
    }
    succeeded
}

fn pause(rng: &mut SmallRng, most_millis: u64) {
    thread::sleep(Duration::from_millis(rng.random_range(0..most_millis)));
}
