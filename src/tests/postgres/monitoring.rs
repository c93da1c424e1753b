//! What views and reports say of a cache is what was done with it, and goes on as long as the cache.

use std::thread;
use std::time::Duration;

use crate::world::{Backend, World, wait_until};

fn counters(backend: &mut Backend, columns: &[&str]) -> Vec<i64> {
    columns.iter().map(|column| backend.stat(column)).collect()
}

#[test]
fn what_goes_and_what_is_refused_is_counted_by_its_reason() {
    let world = World::with(&[("pg_shared_lru.naptime", "0")]);
    let mut backend = world.backend();
    backend.run("SELECT shared_lru.create_cache('c', 1048576, policy => 'lru', partitions => 1)");
    let columns = ["evictions", "expirations", "swept", "removals", "invalidations"];
    backend.run("SELECT shared_lru.put('c', k, 'v') FROM unnest('{a,b,c,d}'::bytea[]) AS k");
    backend.run("SELECT shared_lru.remove('c', 'a')");
    assert_eq!(counters(&mut backend, &columns), [0, 0, 0, 1, 0]);
    backend.run("SELECT shared_lru.invalidate('c', 'b')");
    assert_eq!(counters(&mut backend, &columns), [0, 0, 0, 2, 1]);
    backend.run("SELECT shared_lru.invalidate_all('c')");
    assert_eq!(counters(&mut backend, &columns), [0, 0, 0, 4, 3]);
    backend.run("SELECT shared_lru.put('c', 'e', 'v', ttl => '100 milliseconds')");
    thread::sleep(Duration::from_millis(150));
    assert_eq!(backend.get(b"e"), None);
    assert_eq!(counters(&mut backend, &columns), [0, 1, 0, 4, 3], "a reader has met it");
    backend.run("SELECT shared_lru.put('c', int4send(n), sha256(int4send(n))) FROM generate_series(1, 30000) AS n");
    let evicted = backend.stat("evictions");
    assert_eq!(30_000 - evicted, backend.stat("entries"));

    backend.refused("SELECT shared_lru.put('c', 'k', convert_to(repeat('x', 2000000), 'UTF8'))");
    backend.refused("SELECT shared_lru.put('c', 'k', 'v', ttl => '20 years')");
    let columns = ["refused", "refused_too_large", "refused_ttl", "refused_no_room", "refused_present"];
    backend.put(b"k", b"v");
    assert!(!backend.one::<bool>("SELECT shared_lru.put_if_absent('c', 'k', 'v')"));
    assert_eq!(counters(&mut backend, &columns), [2, 1, 1, 0, 1]);
}

#[test]
fn a_sweep_of_the_worker_is_told_from_a_reader_who_met_what_had_expired() {
    let world = World::with(&[("pg_shared_lru.naptime", "1s")]);
    let mut backend = world.backend();
    backend.run("SELECT shared_lru.create_cache('c', 1048576)");
    backend.run(
        "SELECT shared_lru.put('c', int4send(n), 'v', ttl => '100 milliseconds') FROM generate_series(1, 50) AS n",
    );
    wait_until("it has swept", || backend.stat("swept") == 50);
    assert_eq!(counters(&mut backend, &["expirations", "removals"]), [50, 0]);
}

#[test]
fn leases_are_counted_and_a_wait_is_one_miss() {
    let world = World::with_cache(4);
    let (mut first, mut second) = (world.backend(), world.backend());
    let columns = ["leases", "lease_fills", "lease_waits", "refused_lease", "refused_present", "hits", "misses"];
    let lease = "SELECT lease FROM shared_lru.get_or_lease('c', 'k')";
    let put = "SELECT shared_lru.put_leased('c', 'k', 'v', $1)";
    first.run("BEGIN");
    let of_first: Vec<u8> = first.one(lease);
    thread::scope(|scope| {
        let pid = second.pid();
        let waiting = scope.spawn(|| {
            second.one::<Option<Vec<u8>>>("SELECT value FROM shared_lru.get_or_lease('c', 'k', wait => '5 minutes')")
        });
        let mut judge = world.backend();
        wait_until("it waits", || judge.stat("lease_waits") == 1);
        // Long enough for many looks.
        thread::sleep(Duration::from_millis(50));
        assert!(first.call::<bool>(put, &[&of_first]));
        assert_eq!(waiting.join().expect("it ends").as_deref(), Some(&b"v"[..]), "{pid}");
    });
    first.run("COMMIT");
    assert_eq!(counters(&mut first, &columns), [1, 1, 1, 0, 0, 1, 2]);
    // The key has a value; the lease is void; the lease is another key's.
    assert!(!first.call::<bool>(put, &[&of_first]));
    assert_eq!(counters(&mut first, &columns)[3..5], [0, 1]);
    first.run("SELECT shared_lru.invalidate('c', 'k')");
    assert!(!first.call::<bool>(put, &[&of_first]));
    assert!(!first.call::<bool>("SELECT shared_lru.put_leased('c', 'other', 'v', $1)", &[&of_first]));
    assert_eq!(counters(&mut first, &columns)[..5], [1, 1, 1, 2, 1]);
}

#[test]
fn counters_go_on_when_a_cache_is_made_anew_or_moved() {
    let world = World::new();
    let mut backend = world.backend();
    backend.run("SELECT shared_lru.create_cache('first', 1048576)");
    backend.run("SELECT shared_lru.create_cache('c', 2097152, policy => 'lru', partitions => 1)");
    backend.run(
        "SELECT shared_lru.put('c', int4send(n), sha256(int4send(n))) FROM generate_series(1, 20000) AS n;
         SELECT shared_lru.get('c', int4send(n)) FROM generate_series(19001, 21000) AS n;
         SELECT shared_lru.remove('c', int4send(20000)), shared_lru.put_if_absent('c', int4send(19999), 'v')",
    );
    let columns = ["hits", "misses", "inserts", "updates", "removals", "refused_present", "compactions"];
    let before = counters(&mut backend, &columns);
    assert_eq!(before[..6], [1000, 1000, 20_000, 0, 1, 1]);
    assert!(
        backend.one::<bool>("SELECT resized IS NULL AND stats_reset IS NULL FROM shared_lru.stats WHERE cache = 'c'")
    );
    let adds_up =
        "SELECT inserts - evictions - removals - expirations = entries FROM shared_lru.stats WHERE cache = 'c'";
    // With room for all, with room for some, and in another place.
    for bytes in [8 << 20, 1 << 20] {
        backend.run(&format!("SELECT shared_lru.alter_cache('c', bytes => {bytes})"));
        // Its first user makes the memory.
        backend.run("SELECT shared_lru.contains('c', 'k')");
        assert_eq!(backend.one::<i64>("SELECT bytes FROM shared_lru.caches WHERE cache = 'c'"), bytes);
        assert_eq!(counters(&mut backend, &columns), before);
        assert!(backend.one::<bool>(adds_up), "what found no room was evicted");
    }
    assert!(backend.stat("evictions") > 0);
    assert!(backend.one::<bool>(
        "SELECT resized BETWEEN now() - interval '1 hour' AND now() FROM shared_lru.stats WHERE cache = 'c'"
    ));
    backend.run("SELECT shared_lru.drop_cache('first')");
    assert!(backend.one::<i64>("SELECT shared_lru.defragment()") > 0);
    assert_eq!(counters(&mut backend, &columns), before);
    // One that is dropped leaves nothing to the next.
    backend.run("SELECT shared_lru.drop_cache('c'); SELECT shared_lru.create_cache('c', 1048576)");
    assert_eq!(counters(&mut backend, &columns), [0; 7]);
    assert!(backend.one::<bool>("SELECT resized IS NULL FROM shared_lru.stats WHERE cache = 'c'"));
}

#[test]
fn a_reset_is_for_everybody_and_lasts_over_a_change_of_size() {
    let world = World::with_cache(4);
    let (mut backend, mut other) = (world.backend(), world.backend());
    let columns = ["hits", "misses", "inserts", "refused_present", "removals"];
    let work = |backend: &mut Backend| {
        backend.run(
            "SELECT shared_lru.put('c', 'k', 'v'), shared_lru.get('c', 'k'), shared_lru.get('c', 'none');
             SELECT shared_lru.put_if_absent('c', 'k', 'v'); SELECT shared_lru.remove('c', 'k')",
        );
    };
    work(&mut backend);
    assert_eq!(counters(&mut other, &columns), [1; 5]);
    backend.run("SELECT shared_lru.reset_stats('c')");
    assert_eq!((counters(&mut other, &columns), counters(&mut backend, &columns)), (vec![0; 5], vec![0; 5]));
    work(&mut other);
    work(&mut other);
    let when = "SELECT stats_reset FROM shared_lru.stats WHERE stats_reset BETWEEN now() - interval '1 hour' AND now()";
    let reset: std::time::SystemTime = backend.one(when);
    backend.run("SELECT shared_lru.alter_cache('c', bytes => 8388608)");
    work(&mut backend);
    assert_eq!(counters(&mut other, &columns), [3; 5]);
    assert_eq!(backend.one::<std::time::SystemTime>(when), reset);
    // Who may read and write may not reset.
    backend.run(
        "CREATE ROLE app LOGIN; GRANT USAGE ON SCHEMA shared_lru TO app;
         GRANT EXECUTE ON FUNCTION shared_lru.reset_stats(text) TO app;
         SELECT shared_lru.grant_cache('c', 'app', 'read'), shared_lru.grant_cache('c', 'app', 'write')",
    );
    let mut app = world.backend_as("app");
    app.refused("SELECT shared_lru.reset_stats('c')").is("42501", &["\"c\""]);
    backend.run("SELECT shared_lru.grant_cache('c', 'app', 'own')");
    app.run("SELECT shared_lru.reset_stats('c')");
    assert_eq!(counters(&mut other, &columns), [0; 5]);
    other.refused("SELECT shared_lru.reset_stats('nix')").is("42704", &["\"nix\""]);
}

#[test]
fn no_count_is_lost_to_resets_that_come_at_the_same_time() {
    let world = World::with_cache(4);
    let mut admin = world.backend();
    admin.put(b"k", b"v");
    let mut seen = 0;
    thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let mut reader = world.backend();
                scope.spawn(move || {
                    for _ in 0..10 {
                        reader.run("SELECT count(shared_lru.get('c', 'k')) FROM generate_series(1, 2000)");
                    }
                })
            })
            .collect();
        while !readers.iter().all(thread::ScopedJoinHandle::is_finished) {
            let hits = admin.stat("hits");
            assert!((0..=40_000).contains(&hits), "{hits}");
            seen += 1;
            admin.run("SELECT shared_lru.reset_stats('c'), shared_lru.alter_cache('c', bytes => 4194304)");
        }
    });
    assert!(seen > 0);
    admin.run("SELECT shared_lru.reset_stats('c')");
    admin.run("SELECT count(shared_lru.get('c', 'k')) FROM generate_series(1, 2000)");
    assert_eq!(admin.stat("hits"), 2000);
}

#[test]
fn the_worker_keeps_samples_and_without_it_there_are_none() {
    let world = World::with(&[("pg_shared_lru.naptime", "1s"), ("pg_shared_lru.sample_interval", "1s")]);
    let mut backend = world.backend();
    backend.run("SELECT shared_lru.create_cache('c', 1048576)");
    let samples = "SELECT count(*) FROM shared_lru.samples WHERE cache = 'c'";
    wait_until("there is a sample", || backend.one::<i64>(samples) > 0);
    backend.put(b"k", b"value");
    for _ in 0..3 {
        backend.get(b"k");
    }
    backend.get(b"none");
    let sums = "SELECT concat_ws(' ', sum(hits), sum(misses), (array_agg(entries ORDER BY at DESC))[1],
                               (array_agg(live_bytes ORDER BY at DESC))[1])
                  FROM shared_lru.samples WHERE cache = 'c'";
    wait_until("they show what was done", || backend.one::<String>(sums) == "3 1 1 6");
    assert!(backend.one::<bool>("SELECT hit_ratio = 0.75 FROM shared_lru.samples WHERE hits > 0"));
    // Neither a reset nor new memory is taken for reads.
    backend.run("SELECT shared_lru.reset_stats('c'); SELECT shared_lru.alter_cache('c', bytes => 2097152)");
    backend.get(b"k");
    let count: i64 = backend.one(samples);
    wait_until("there are two more", || backend.one::<i64>(samples) >= count + 2);
    assert_eq!(backend.one::<String>(sums), "4 1 1 6");
    assert!(backend.one::<bool>(
        "SELECT bool_and(at BETWEEN now() - interval '1 hour' AND clock_timestamp()) FROM shared_lru.samples"
    ));

    let world = World::with(&[("pg_shared_lru.naptime", "0"), ("pg_shared_lru.sample_interval", "1s")]);
    let mut backend = world.backend();
    backend.run("SELECT shared_lru.create_cache('c', 1048576)");
    thread::sleep(Duration::from_secs(3));
    assert_eq!(backend.one::<i64>(samples), 0);
}
