//! Whatever ends a backend in the middle of its work, the others work on and nothing leaks.

use std::thread;
use std::time::Duration;

use crate::sharing::{WORKLOAD, assert_accounts};
use crate::world::{Backend, World, wait_until};

/// Work that does not end by itself within any patience.
const ENDLESS_WORK: &str = "SELECT work(0.5, 1000000000, 3000)";

fn world_with_workload(policy: &str) -> World {
    let world = World::new();
    let mut backend = world.backend();
    backend.run(WORKLOAD);
    backend.run(&format!("SELECT shared_lru.create_cache('c', 1048576, policy => '{policy}', partitions => 1)"));
    world
}

/// Whoever is still there can work, every structure is sound, and nothing is held.
fn assert_sound(world: &World) {
    let mut judge = world.backend();
    // Would wait for ever on a lock that somebody took along.
    judge.run("SET statement_timeout = '60s'");
    judge.validate();
    assert_accounts(&mut judge);
    assert_eq!(judge.one::<i64>("SELECT count(*) FROM shared_lru.entries('c') WHERE pinned"), 0);
    assert!(judge.one::<i64>("SELECT work(0.9, 2000, 3000)") > 0);
    judge.validate();
}

/// How a client may learn of a FATAL: it can find the connection closed before it reads why.
const CONNECTION_LOST: &str = "connection lost";

fn code(result: Result<(), postgres::Error>) -> String {
    let error = result.expect_err("the statement is ended from outside");
    error.code().map_or_else(|| CONNECTION_LOST.to_owned(), |code| code.code().to_owned())
}

/// Starts endless work in a backend per element, does `disturb` to each while it works, and returns how each ended.
fn disturb_workers(world: &World, count: usize, disturb: impl Fn(&mut Backend, i32)) -> Vec<String> {
    let mut judge = world.backend();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..count)
            .map(|_| {
                let mut backend = world.backend();
                let pid = backend.pid();
                (pid, scope.spawn(move || code(backend.client.batch_execute(ENDLESS_WORK))))
            })
            .collect();
        for (pid, _) in &workers {
            wait_until("a worker works", || {
                judge.call("SELECT state = 'active' FROM pg_stat_activity WHERE pid = $1", &[pid])
            });
        }
        thread::sleep(Duration::from_millis(100));
        for (pid, _) in &workers {
            disturb(&mut judge, *pid);
        }
        workers.into_iter().map(|(_, worker)| worker.join().expect("a worker ends")).collect()
    })
}

#[test]
fn terminated_backends_leave_nothing_behind() {
    for policy in ["lru", "clock", "s3-fifo"] {
        let world = world_with_workload(policy);
        for round in 0..8 {
            let ends = disturb_workers(&world, 3, |judge, pid| {
                assert!(judge.call::<bool>("SELECT pg_terminate_backend($1)", &[&pid]));
            });
            let expected = |end: &String| end == "57P01" || end == CONNECTION_LOST;
            assert!(ends.iter().all(expected), "{policy}, round {round}: {ends:?}");
        }
        // Each went the orderly way, whatever its client heard of it.
        let log = world.cluster.log();
        assert_eq!(log.matches("FATAL:  terminating connection due to administrator command").count(), 24, "{log}");
        assert!(!log.contains("was terminated by signal"), "{log}");
        assert_sound(&world);
        assert_eq!(world.backend().stat("resets"), 0);
    }
}

#[test]
fn cancelled_statements_leave_nothing_behind() {
    let world = world_with_workload("lru");
    for round in 0..8 {
        let ends = disturb_workers(&world, 3, |judge, pid| {
            assert!(judge.call::<bool>("SELECT pg_cancel_backend($1)", &[&pid]));
        });
        assert!(ends.iter().all(|code| code == "57014"), "round {round}: {ends:?}");
    }
    assert_sound(&world);
}

#[test]
fn a_statement_timeout_ends_the_statement_and_not_the_session() {
    let world = world_with_workload("lru");
    thread::scope(|scope| {
        for worker in 0..3 {
            let mut backend = world.backend();
            scope.spawn(move || {
                for round in 0..20 {
                    backend.run(&format!("SET statement_timeout = {}", 3 + (round * 7 + worker * 11) % 40));
                    assert_eq!(code(backend.client.batch_execute(ENDLESS_WORK)), "57014");
                }
                // Interrupts still reach this backend, and it still works.
                backend.run("SET statement_timeout = 0");
                assert!(backend.one::<i64>("SELECT work(0.3, 1000, 3000)") > 0);
            });
        }
    });
    assert_sound(&world);
}

#[test]
fn a_killed_backend_costs_the_contents_and_nothing_else() {
    let world = world_with_workload("clock");
    for round in 0..2 {
        let mut witness = world.backend();
        witness.run("SELECT shared_lru.create_cache('second', 1048576, if_not_exists => true)");
        witness.run("SELECT shared_lru.put('second', 'k', 'v')");
        thread::scope(|scope| {
            let mut victim = world.backend();
            let pid = victim.pid();
            let worker = scope.spawn(move || victim.client.batch_execute(ENDLESS_WORK).is_err());
            thread::sleep(Duration::from_millis(200));
            world.cluster.crash(pid).expect("the server restarts after a crash");
            assert!(worker.join().expect("the victim is told"));
        });
        assert!(witness.client.batch_execute("SELECT 1").is_err(), "round {round}: a crash throws everybody out");

        let mut backend = world.backend();
        assert_eq!(backend.one::<i64>("SELECT count(*) FROM shared_lru.caches WHERE in_memory"), 0, "round {round}");
        let kept: Option<Vec<u8>> = backend.one("SELECT shared_lru.get('second', 'k')");
        assert_eq!(kept, None, "round {round}: starts empty");
        assert_sound(&world);
    }
}

#[test]
fn dropping_a_cache_in_use_is_a_clean_error_for_its_users() {
    let world = world_with_workload("lru");
    for round in 0..10 {
        // What the others are told: that it is gone, whichever way they find out.
        let mut ends = thread::scope(|scope| {
            let workers: Vec<_> = (0..3)
                .map(|_| {
                    let mut backend = world.backend();
                    scope.spawn(move || {
                        let end = code(backend.client.batch_execute(ENDLESS_WORK));
                        // And the session lives on.
                        assert_eq!(backend.one::<i32>("SELECT 1"), 1);
                        end
                    })
                })
                .collect();
            thread::sleep(Duration::from_millis(50));
            let mut owner = world.backend();
            assert!(owner.one::<bool>("SELECT shared_lru.drop_cache('c')"));
            // Its memory is free at once, while the others are still finding out: all of it, for someone else.
            owner.run("SELECT shared_lru.create_cache('next', pg_size_bytes('63MB'))");
            owner.run(
                "SELECT count(shared_lru.put('next', int4send(n), sha256(int4send(n)))) FROM generate_series(1, 2000) AS n",
            );
            let ends: Vec<String> = workers.into_iter().map(|worker| worker.join().expect("a worker ends")).collect();
            let right: i64 = owner.one(
                "SELECT count(*) FROM generate_series(1, 2000) AS n
                  WHERE shared_lru.get('next', int4send(n)) = sha256(int4send(n))",
            );
            assert_eq!(right, 2000, "round {round}: a user of the dropped cache wrote into its successor");
            owner.run("SELECT shared_lru.validate('next'), shared_lru.drop_cache('next')");
            owner.run("SELECT shared_lru.create_cache('c', 1048576, policy => 'lru', partitions => 1)");
            ends
        });
        ends.dedup();
        assert_eq!(ends, ["42704"], "round {round}");
    }
    assert_sound(&world);
}

#[test]
fn a_half_read_walk_leaves_nothing_behind() {
    let world = world_with_workload("lru");
    let mut backend = world.backend();
    backend.run("SELECT work(0.7, 5000, 3000)");
    // Closed early, ended by an error, ended by a rollback, ended with the session.
    backend.run(
        "BEGIN; DECLARE walk CURSOR FOR SELECT * FROM shared_lru.entries('c'); FETCH 3 FROM walk; CLOSE walk; COMMIT",
    );
    backend.run("BEGIN; DECLARE walk CURSOR FOR SELECT shared_lru.entries('c'); FETCH 3 FROM walk");
    backend.refused("SELECT 1 / (random() * 0)::int").is("22012", &[]);
    backend.run("ROLLBACK");
    backend.run(
        "BEGIN; DECLARE walk CURSOR FOR SELECT shared_lru.get_many('c', array_agg(key)) FROM shared_lru.entries('c')",
    );
    backend.run("FETCH 3 FROM walk; ROLLBACK");
    backend.run("SELECT shared_lru.entries('c') LIMIT 5");
    backend.run("BEGIN; DECLARE walk CURSOR FOR SELECT shared_lru.entries('c'); FETCH 3 FROM walk");
    drop(backend);
    assert_sound(&world);
}

#[test]
fn a_cursor_outlives_the_cache_it_walks_over_without_harm() {
    let world = world_with_workload("lru");
    let (mut walker, mut owner) = (world.backend(), world.backend());
    walker.run("SELECT work(0.7, 5000, 3000)");
    walker.run("BEGIN; DECLARE walk CURSOR FOR SELECT shared_lru.entries('c'); FETCH 1 FROM walk");
    assert!(owner.one::<bool>("SELECT shared_lru.drop_cache('c')"));
    owner.run("SELECT shared_lru.create_cache('c', 1048576, policy => 'lru', partitions => 1)");
    // Either it had its rows already, or it is told that the cache is gone.
    if let Err(error) = walker.client.batch_execute("FETCH ALL FROM walk") {
        assert_eq!(error.code().map(|code| code.code()), Some("42704"), "{error:?}");
    }
    walker.run("ROLLBACK");
    owner.run("SELECT work(0.7, 5000, 3000)");
    assert_sound(&world);
}
