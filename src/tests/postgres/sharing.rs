//! Backends of one database share a cache, those of two never; nothing is lost or made up between them.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::world::{Backend, World};

/// A function that puts and gets at random and raises an exception when a value is not what its key says.
///
/// A value is a number of bytes that vary with the call, made of the key's own hash: whoever wrote it, any reader can
/// tell whether it belongs to its key and is whole.
pub const WORKLOAD: &str = "
    CREATE FUNCTION work(seed float8, rounds int, keys int) RETURNS bigint LANGUAGE plpgsql AS $$
    DECLARE
        key bytea; value bytea; hits bigint := 0;
    BEGIN
        PERFORM setseed(seed);
        FOR round IN 1 .. rounds LOOP
            key := int4send((random() * keys)::int);
            IF random() < 0.4 THEN
                PERFORM shared_lru.put('c', key, decode(repeat(md5(key), 1 + (random() * 60)::int), 'hex'));
            ELSE
                value := shared_lru.get('c', key);
                IF value IS NOT NULL THEN
                    hits := hits + 1;
                    IF length(value) = 0 OR value <> decode(repeat(md5(key), length(value) / 16), 'hex') THEN
                        RAISE 'key % has a wrong value of % bytes', key, length(value);
                    END IF;
                END IF;
            END IF;
            IF random() < 0.02 THEN
                PERFORM shared_lru.remove('c', key);
            END IF;
        END LOOP;
        RETURN hits;
    END $$";

/// What went in is what went out and what is there.
pub fn assert_accounts(backend: &mut Backend) {
    let balance: i64 =
        backend.one("SELECT inserts - evictions - removals - entries FROM shared_lru.stats WHERE cache = 'c'");
    assert_eq!(balance, 0, "entries are unaccounted for");
    let entries = backend.stat("entries");
    assert_eq!(backend.one::<i64>("SELECT count(*) FROM shared_lru.entries('c')"), entries);
    assert_eq!(backend.one::<i64>("SELECT count(DISTINCT key) FROM shared_lru.entries('c')"), entries);
}

#[test]
fn what_one_backend_puts_all_others_get() {
    let world = World::new();
    let mut backends: Vec<Backend> = (0..4).map(|_| world.backend()).collect();
    // The others have looked, and so attached, before the cache changes under them.
    backends[0].run("SELECT shared_lru.create_cache('c', 4194304)");
    for backend in &mut backends {
        assert_eq!(backend.get(b"k"), None);
    }
    for writer in 0..backends.len() {
        backends[writer].put(b"k", &[writer as u8; 50]);
        for reader in &mut backends {
            assert_eq!(reader.get(b"k"), Some(vec![writer as u8; 50]));
        }
    }
    backends[3].run("SELECT shared_lru.clear('c')");
    assert_eq!(backends[1].get(b"k"), None);
    // Dropped and made anew under the same name: the others find the new one.
    backends[2].run("SELECT shared_lru.drop_cache('c'), shared_lru.create_cache('c', 8388608)");
    backends[2].put(b"k", b"new");
    for reader in &mut backends {
        assert_eq!(reader.get(b"k").as_deref(), Some(b"new".as_slice()));
    }
}

#[test]
fn caches_of_one_name_in_two_databases_never_mix() {
    let world = World::new();
    world.backend().run("CREATE DATABASE other");
    let (mut here, mut there) = (world.backend(), world.backend_in("other"));
    there.run("CREATE EXTENSION pg_shared_lru");
    here.run("SELECT shared_lru.create_cache('c', 4194304)");
    there.refused("SELECT shared_lru.get('c', 'k')").is("42704", &["\"c\"", "this database"]);
    assert!(!there.one::<bool>("SELECT shared_lru.drop_cache('c')"), "dropped a cache of another database");
    there.run("SELECT shared_lru.create_cache('c', 2097152)");
    here.put(b"k", b"here");
    assert_eq!(there.get(b"k"), None);
    there.put(b"k", b"there");
    assert_eq!(here.get(b"k").as_deref(), Some(b"here".as_slice()));
    assert_eq!(there.get(b"k").as_deref(), Some(b"there".as_slice()));
    assert_eq!(here.one::<i64>("SELECT shared_lru.clear('c')"), 1);
    assert_eq!(there.get(b"k").as_deref(), Some(b"there".as_slice()));

    // Everyone sees whose memory is used by whom, and the counters of his own.
    let caches = here.all::<String>("SELECT database || ' ' || bytes FROM shared_lru.caches ORDER BY bytes");
    assert_eq!(caches, ["other 2097152", "postgres 4194304"]);
    assert_eq!(here.one::<i64>("SELECT count(*) FROM shared_lru.stats"), 1);
}

#[test]
fn a_rollback_takes_nothing_back_and_leaks_nothing() {
    let world = World::with_cache(4);
    let (mut one, mut two) = (world.backend(), world.backend());
    one.put(b"old", b"1");
    one.run("BEGIN");
    one.put(b"new", b"1");
    one.put(b"old", b"2");
    assert_eq!(two.get(b"new").as_deref(), Some(b"1".as_slice()), "a put is visible at once");
    one.run("SAVEPOINT s");
    one.run("SELECT shared_lru.remove('c', 'new')");
    one.run("ROLLBACK TO s");
    one.refused("SELECT shared_lru.put('c', 'late', '1'), 1 / (random() * 0)::int").is("22012", &[]);
    one.run("ROLLBACK");
    assert_eq!(two.get(b"old").as_deref(), Some(b"2".as_slice()), "a put was rolled back");
    assert_eq!(two.get(b"new"), None, "a removal was rolled back");
    two.validate();
    assert_eq!(two.one::<i64>("SELECT count(*) FROM shared_lru.entries('c') WHERE pinned"), 0);
}

#[test]
fn backends_at_work_lose_nothing_and_make_nothing_up() {
    for policy in ["lru", "clock", "s3-fifo"] {
        let world = World::new();
        let mut judge = world.backend();
        judge.run(WORKLOAD);
        judge.run(&format!("SELECT shared_lru.create_cache('c', 1048576, policy => '{policy}', partitions => 2)"));
        thread::scope(|scope| {
            for worker in 1..=4 {
                let mut backend = world.backend();
                scope.spawn(move || {
                    let hits: i64 = backend.one(&format!("SELECT work(0.1 * {worker}, 15000, 4000)"));
                    assert!(hits > 0, "worker {worker} never hit");
                });
            }
        });
        judge.validate();
        assert_accounts(&mut judge);
        assert!(judge.stat("evictions") > 0, "the cache was not too small");
        assert_eq!(judge.stat("resets"), 0);
    }
}

#[test]
fn a_walk_sees_each_entry_that_stays_exactly_once_while_others_churn() {
    let world = World::with_cache(8);
    let mut walker = world.backend();
    walker
        .run("SELECT count(shared_lru.put('c', int4send(-n), sha256(int4send(n)))) FROM generate_series(1, 3000) AS n");
    let finished = AtomicBool::new(false);
    thread::scope(|scope| {
        for churner in 0..2 {
            let mut backend = world.backend();
            let finished = &finished;
            scope.spawn(move || {
                // Small enough that nothing is evicted: what the walker put stays.
                while !finished.load(Ordering::Relaxed) {
                    backend.run(&format!(
                        "SELECT count(shared_lru.put('c', int4send(n * 2 + {churner}), decode(repeat('ab', n % 700), 'hex'))),
                                count(shared_lru.remove('c', int4send((n * 7 % 2000) * 2 + {churner})))
                           FROM generate_series(1, 2000) AS n"
                    ));
                }
            });
        }
        for walk in 0..20 {
            let keys = walker.all::<Vec<u8>>("SELECT key FROM shared_lru.entries('c') WHERE get_byte(key, 0) = 255");
            let distinct: HashSet<&Vec<u8>> = keys.iter().collect();
            assert_eq!((keys.len(), distinct.len()), (3000, 3000), "walk {walk}");
        }
        finished.store(true, Ordering::Relaxed);
    });
    assert_eq!(walker.stat("evictions"), 0);
    walker.validate();
}

#[test]
fn a_drain_beside_writers_hands_every_entry_out_once() {
    let world = World::with_cache(16);
    let mut drainer = world.backend();
    let finished = AtomicBool::new(false);
    let drained = thread::scope(|scope| {
        let writers: Vec<_> = (0..2)
            .map(|writer| {
                let mut backend = world.backend();
                // Each key is put once only, so each may come out once only.
                scope.spawn(move || {
                    backend.run(&format!(
                        "SELECT count(shared_lru.put('c', int4send(n * 2 + {writer}), sha256(int4send(n * 2 + {writer}))))
                           FROM generate_series(1, 20000) AS n"
                    ));
                })
            })
            .collect();
        let finished = &finished;
        let drain = scope.spawn(move || {
            let mut keys = Vec::new();
            loop {
                let last = finished.load(Ordering::Acquire);
                keys.extend(drainer.all::<Vec<u8>>("SELECT key FROM shared_lru.drain('c') WHERE value = sha256(key)"));
                if last {
                    return keys;
                }
            }
        });
        writers.into_iter().for_each(|writer| writer.join().expect("a writer writes"));
        finished.store(true, Ordering::Release);
        drain.join().expect("the drainer drains")
    });
    let distinct: HashSet<&Vec<u8>> = drained.iter().collect();
    assert_eq!((drained.len(), distinct.len()), (40_000, 40_000));
    let mut judge = world.backend();
    assert_eq!((judge.stat("entries"), judge.stat("evictions")), (0, 0));
    judge.validate();
}

#[test]
fn of_many_who_create_one_name_one_succeeds() {
    let world = World::new();
    for round in 0..20 {
        let created: usize = thread::scope(|scope| {
            let creators: Vec<_> = (0..3)
                .map(|_| {
                    let mut backend = world.backend();
                    scope.spawn(move || {
                        match backend.client.batch_execute("SELECT shared_lru.create_cache('c', 1048576)") {
                            Ok(()) => 1,
                            Err(error) => {
                                assert_eq!(error.code().map(|code| code.code()), Some("42710"), "{error:?}");
                                0
                            }
                        }
                    })
                })
                .collect();
            creators.into_iter().map(|creator| creator.join().expect("an answer")).sum()
        });
        assert_eq!(created, 1, "round {round}");
        assert!(world.backend().one::<bool>("SELECT shared_lru.drop_cache('c')"));
    }
}

#[test]
fn views_can_be_read_while_caches_come_and_go() {
    let world = World::new();
    let finished = AtomicBool::new(false);
    thread::scope(|scope| {
        let mut maker = world.backend();
        let finished = &finished;
        scope.spawn(move || {
            for round in 0..300 {
                maker.run(&format!("SELECT shared_lru.create_cache('coming and going', 4194304 + 4096 * {round})"));
                maker.run("SELECT shared_lru.put('coming and going', 'k', 'v')");
                maker.run("SELECT shared_lru.drop_cache('coming and going')");
            }
            finished.store(true, Ordering::Relaxed);
        });
        let mut reader = world.backend();
        let mut failures = Vec::new();
        while !finished.load(Ordering::Relaxed) {
            for view in ["caches", "stats", "slab_classes", "memory"] {
                failures.extend(reader.client.batch_execute(&format!("SELECT * FROM shared_lru.{view}")).err());
            }
        }
        assert!(failures.is_empty(), "{} failures, the first: {:?}", failures.len(), failures[0]);
    });
}
