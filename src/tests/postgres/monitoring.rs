//! What views and reports say of a cache is what was done with it, and goes on as long as the cache.

use std::thread;
use std::time::Duration;

use crate::world::{Backend, World, wait_until};

fn counters(backend: &mut Backend, columns: &[&str]) -> Vec<i64> {
    columns.iter().map(|column| backend.stat(column)).collect()
}

#[test]
fn a_value_that_is_outdated_is_a_miss() {
    let world = World::new();
    let mut backend = world.backend();
    backend.run("SELECT shared_lru.create_cache('c')");
    let put =
        "SELECT shared_lru.put_text('c', 'k', 'v', NULL, ARRAY['t']); SELECT shared_lru.put_text('c', 'plain', 'v')";
    for (get, hits, misses) in [
        ("SELECT shared_lru.get_text('c', 'k')", 0, 1),
        ("SELECT count(*) FROM shared_lru.get_many_text('c', ARRAY['k', 'plain', 'none'])", 1, 2),
        ("SELECT shared_lru.get_array_text('c', ARRAY['k', 'plain', 'none'])", 1, 2),
    ] {
        for is_outdated in [false, true] {
            backend.run(put);
            if is_outdated {
                backend.run("SELECT shared_lru.invalidate_tag('c', 't')");
            }
            let before = (backend.stat("hits"), backend.stat("misses"));
            backend.run(get);
            let still = i64::from(!is_outdated);
            let now = (backend.stat("hits"), backend.stat("misses"));
            assert_eq!(now, (before.0 + hits + still, before.1 + misses - still), "{get}, outdated: {is_outdated}");
        }
    }
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
fn resets_and_new_memory_beside_readers_show_no_read_that_was_not_done() {
    let world = World::with_cache(4);
    let mut admin = world.backend();
    admin.put(b"k", b"v");
    let mut rounds = 0;
    thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let mut reader = world.backend();
                scope.spawn(move || {
                    for _ in 0..20 {
                        reader.run("SELECT count(shared_lru.get('c', 'k')) FROM generate_series(1, 2000)");
                    }
                })
            })
            .collect();
        while !readers.iter().all(thread::ScopedJoinHandle::is_finished) {
            let hits = admin.stat("hits");
            assert!((0..=80_000).contains(&hits), "{hits}");
            rounds += 1;
            admin.run("SELECT shared_lru.reset_stats('c')");
            admin.run(&format!("SELECT shared_lru.alter_cache('c', bytes => {})", (4 + rounds % 2) << 20));
        }
    });
    assert!(rounds > 0);
    // The memory follows with the next use, and not in the middle of what is counted.
    admin.run("SELECT shared_lru.contains('c', 'k'); SELECT shared_lru.reset_stats('c')");
    admin.run("SELECT count(shared_lru.get('c', 'k')) FROM generate_series(1, 2000)");
    assert_eq!((admin.stat("hits"), admin.stat("misses")), (2000, 0));
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
    wait_until("they show what was done", || backend.one::<String>(sums) == "3 1 1 7");
    assert!(backend.one::<bool>("SELECT hit_ratio = 0.75 FROM shared_lru.samples WHERE hits > 0"));
    // Neither a reset nor new memory is taken for reads.
    backend.run("SELECT shared_lru.reset_stats('c'); SELECT shared_lru.alter_cache('c', bytes => 2097152)");
    backend.get(b"k");
    let count: i64 = backend.one(samples);
    wait_until("there are two more", || backend.one::<i64>(samples) >= count + 2);
    assert_eq!(backend.one::<String>(sums), "4 1 1 7");
    assert!(backend.one::<bool>(
        "SELECT bool_and(at BETWEEN now() - interval '1 hour' AND clock_timestamp()) FROM shared_lru.samples"
    ));

    let world = World::with(&[("pg_shared_lru.naptime", "0"), ("pg_shared_lru.sample_interval", "1s")]);
    let mut backend = world.backend();
    backend.run("SELECT shared_lru.create_cache('c', 1048576)");
    thread::sleep(Duration::from_secs(3));
    assert_eq!(backend.one::<i64>(samples), 0);
}

#[test]
fn the_time_of_the_oldest_entry_is_told_by_the_samples() {
    let world = World::with(&[("pg_shared_lru.naptime", "1s"), ("pg_shared_lru.sample_interval", "1s")]);
    let mut backend = world.backend();
    backend.run("SELECT shared_lru.create_cache('c', 1048576, policy => 'lru', partitions => 1)");
    let oldest = "SELECT oldest_since FROM shared_lru.stats";
    type Time = Option<std::time::SystemTime>;
    assert_eq!(backend.one::<Time>(oldest), None);
    let now = "SELECT clock_timestamp()";
    let next_sample = |backend: &mut Backend| {
        let after: Time = backend.one(now);
        let has_come = "SELECT count(*) FROM shared_lru.samples WHERE at > $1";
        wait_until("there is a sample", || backend.call::<i64>(has_come, &[&after]) > 0);
    };
    next_sample(&mut backend);
    let before_old: Time = backend.one(now);
    backend.put(b"old", b"v");
    next_sample(&mut backend);
    for key in [b"a", b"b", b"c"] {
        backend.put(key, b"v");
    }
    next_sample(&mut backend);
    assert_eq!(backend.stat("oldest_age"), 3);
    let since: Time = backend.one(oldest);
    assert!(since.is_some() && since <= before_old, "{since:?}, {before_old:?}");
    backend.run("SELECT shared_lru.remove('c', 'old')");
    assert!(backend.one::<Time>(oldest) > before_old);
    // Ages in new memory are others.
    backend.run("SELECT shared_lru.alter_cache('c', bytes => 2097152)");
    backend.get(b"a");
    assert_eq!(backend.stat("oldest_age"), 2);
    let resized = "SELECT oldest_since > resized IS NOT FALSE FROM shared_lru.stats";
    assert!(backend.one::<bool>(resized));
    next_sample(&mut backend);
    for key in [b"b", b"c", b"a"] {
        backend.get(key);
    }
    wait_until("a sample is older than the oldest", || backend.one::<Time>(oldest).is_some());
    assert!(backend.one::<bool>(resized));
}

#[test]
fn bytes_are_counted_by_the_beginnings_of_keys() {
    let world = World::with_cache(8);
    let mut backend = world.backend();
    backend.run(
        "SELECT shared_lru.put_text('c', 'user:' || n, repeat('x', 100)) FROM generate_series(10, 19) AS n;
         SELECT shared_lru.put_text('c', 'cart:' || n, '') FROM generate_series(1, 5) AS n;
         SELECT shared_lru.put_text('c', 'usr/1', 'x'), shared_lru.put_text('c', 'no', 'value')",
    );
    let rows = |backend: &mut Backend, arguments: &str| -> Vec<String> {
        backend.all(&format!(
            "SELECT concat_ws(' ', encode(prefix, 'escape'), entries, bytes) FROM shared_lru.bytes_by_prefix({arguments})"
        ))
    };
    assert_eq!(rows(&mut backend, "'c'"), ["user: 10 1070", "cart: 5 30", " 2 13"]);
    assert_eq!(rows(&mut backend, "'c', '/'"), [" 16 1107", "usr/ 1 6"]);
    assert_eq!(rows(&mut backend, "'c', length => 2"), ["us 11 1076", "ca 5 30", "no 1 7"]);
    assert_eq!(rows(&mut backend, "'c', length => 0"), [" 17 1113"]);
    assert_eq!(rows(&mut backend, "'c', delimiter => 'user:1'"), ["user:1 10 1070", " 7 43"]);
    // Key and value are counted, not the type and the tags that are kept with it.
    backend.run(
        "SELECT shared_lru.put_any('c', 'typed:', 7::bigint, NULL, '{t}'),
                shared_lru.put_text('c', 'large:', repeat('x', 5000), NULL, '{t}')",
    );
    assert_eq!(rows(&mut backend, "'c', length => 6")[0..1], ["large: 1 5006"]);
    assert!(rows(&mut backend, "'c', length => 6").contains(&"typed: 1 14".to_owned()));
    backend.run("SELECT shared_lru.remove('c', 'typed:'), shared_lru.remove('c', 'large:')");
    // Keys without end make no table without end.
    backend.run("SELECT shared_lru.put('c', int4send(n), '') FROM generate_series(1, 15000) AS n");
    let rest = "SELECT concat_ws(' ', count(*), sum(entries), max(entries) FILTER (WHERE prefix IS NULL))
                  FROM shared_lru.bytes_by_prefix('c', length => 4)";
    assert_eq!(backend.one::<String>(rest).split(' ').take(2).collect::<Vec<_>>(), ["10001", "15017"]);

    for (arguments, parts) in [
        ("'c', ''", &["empty"][..]),
        ("'c', ':', 3", &["not both"]),
        ("'c', length => -1", &["length", "-1"]),
        ("NULL", &["cache"]),
    ] {
        backend.refused(&format!("SELECT shared_lru.bytes_by_prefix({arguments})")).is("22023", parts);
    }
    backend.run(
        "CREATE ROLE writer LOGIN; GRANT USAGE ON SCHEMA shared_lru TO writer;
         GRANT EXECUTE ON FUNCTION shared_lru.bytes_by_prefix(text, bytea, integer) TO writer;
         SELECT shared_lru.grant_cache('c', 'writer', 'write')",
    );
    let mut writer = world.backend_as("writer");
    writer.refused("SELECT shared_lru.bytes_by_prefix('c')").is("42501", &["\"c\"", "read"]);
}

#[test]
fn bytes_are_counted_by_tags() {
    let world = World::with_cache(8);
    let mut backend = world.backend();
    let rows = |backend: &mut Backend, tags: &str| -> Vec<String> {
        backend.all(&format!(
            "SELECT concat_ws(' ', tag, entries, bytes) FROM shared_lru.bytes_by_tag('c', {tags}) WITH ORDINALITY ORDER BY ordinality"
        ))
    };
    backend.run("SELECT shared_lru.put_text('c', 'plain', 'v')");
    assert_eq!(rows(&mut backend, "'{user}'"), ["user 0 0"], "before there was any tag");
    backend.run(
        "SELECT shared_lru.put_text('c', 'u' || n, repeat('x', 100), NULL, '{user}') FROM generate_series(1, 9) AS n;
         SELECT shared_lru.put_text('c', 'both', '', NULL, '{user,cart,cart}');
         SELECT shared_lru.create_cache('other', 1 << 20), shared_lru.put_text('other', 'k', 'v', NULL, '{user}')",
    );
    assert_eq!(rows(&mut backend, "'{cart,none,NULL,user,cart}'"), ["cart 1 4", "none 0 0", "user 10 922", "cart 1 4"]);
    assert!(rows(&mut backend, "'{}'").is_empty());
    // A query's result depends on lines, too, but not on tags.
    backend.run("CREATE TABLE t AS SELECT 1 AS n; SELECT shared_lru.fetch('c', 'SELECT n FROM t', NULL::int)");
    assert_eq!(rows(&mut backend, "'{user}'"), ["user 10 922"]);
    backend.run("SELECT shared_lru.remove_text('c', 'both')");
    assert_eq!(rows(&mut backend, "'{cart,user}'"), ["cart 0 0", "user 9 918"]);
    backend.run(
        "CREATE ROLE writer LOGIN; GRANT USAGE ON SCHEMA shared_lru TO writer;
         GRANT EXECUTE ON FUNCTION shared_lru.bytes_by_tag(text, text[]) TO writer;
         SELECT shared_lru.grant_cache('c', 'writer', 'write')",
    );
    let mut writer = world.backend_as("writer");
    writer.refused("SELECT shared_lru.bytes_by_tag('c', '{user}')").is("42501", &["\"c\"", "read"]);
}

/// A cache in use, with samples, whose keys and values nobody may see.
fn world_with_figures() -> World {
    let world = World::with(&[("pg_shared_lru.naptime", "1s"), ("pg_shared_lru.sample_interval", "1s")]);
    let mut backend = world.backend();
    backend.run("SELECT shared_lru.create_cache('c', 1048576, policy => 'lru', partitions => 1)");
    backend.run(
        "SELECT shared_lru.put_text('c', 'secret' || n, repeat('hidden', n % 100)) FROM generate_series(1, 5000) AS n;
         SELECT shared_lru.get_text('c', 'secret' || n) FROM generate_series(4900, 5100) AS n;
         SELECT shared_lru.put_if_absent('c', 'secret5000', 'hidden'); SELECT shared_lru.reset_stats('c');
         SELECT shared_lru.get_text('c', 'secret' || n) FROM generate_series(4991, 5005) AS n",
    );
    let samples = "SELECT count(*) FROM shared_lru.samples";
    wait_until("there are samples", || backend.one::<i64>(samples) > 2);
    world
}

#[test]
fn a_report_fits_a_terminal_and_shows_what_the_views_show_but_no_contents() {
    let world = world_with_figures();
    world.backend().run("CREATE ROLE watcher LOGIN; GRANT pg_monitor TO watcher");
    let mut watcher = world.backend_as("watcher");
    let page: String = watcher.one("SELECT shared_lru.report('c')");
    for line in page.lines() {
        assert!(line.chars().count() <= 80, "{line}\n{page}");
    }
    let utf8 = watcher.one::<String>("SHOW server_encoding") == "UTF8";
    for part in ["cache \"c\"", "1.0 MiB, policy lru, partitions 1", "66.7 %: hits 10, misses 5", "ratio |"] {
        assert!(page.contains(part), "no {part} in\n{page}");
    }
    assert_eq!(page.contains('█'), utf8, "{page}");

    let same = "SELECT j -> 'counters' ->> 'misses' = s.misses::text AND j -> 'memory' ->> 'region_bytes' = '1048576'
                       AND (SELECT sum((a ->> 'entries')::bigint) FROM jsonb_array_elements(j -> 'ages') AS a) = s.entries
                       AND (j ->> 'stats_reset')::timestamptz = date_trunc('second', s.stats_reset)
                       AND j ->> 'oldest_age' = s.oldest_age::text AND jsonb_array_length(j -> 'samples') >= 2
                       AND (j ->> 'in_memory')::bool
                  FROM shared_lru.stats AS s, shared_lru.report_json('c') AS j";
    assert!(watcher.one::<bool>(same));
    let svg: String = watcher.one("SELECT shared_lru.report_svg('c')");
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n") && svg.contains("<path "), "{svg}");
    assert_eq!(svg.matches("<g ").count(), svg.matches("</g>").count());
    let json: String = watcher.one("SELECT shared_lru.report_json('c')::text");
    for text in [page, json, svg] {
        assert!(!text.contains("secret") && !text.contains("hidden"), "{text}");
    }
}

#[test]
fn a_report_makes_no_memory_and_is_ascii_where_it_must_be() {
    let world = World::with_cache(1);
    world.cluster.restart(crate::cluster::StopMode::Fast).expect("the server restarts");
    let mut backend = world.backend();
    assert!(backend.one::<String>("SELECT shared_lru.report('c')").starts_with("not in memory"));
    assert!(backend.one::<bool>("SELECT shared_lru.report_json('c') = '{\"cache\": \"c\", \"in_memory\": false}'"));
    assert!(backend.one::<String>("SELECT shared_lru.report_svg('c')").contains(">not in memory<"));
    assert!(!backend.one::<bool>("SELECT in_memory FROM shared_lru.caches"));

    backend.run("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0");
    let mut latin = world.backend_in("latin");
    latin.run("CREATE EXTENSION pg_shared_lru; SELECT shared_lru.create_cache('c', 1048576); SELECT shared_lru.put('c', 'k', 'v')");
    let page: String = latin.one("SELECT shared_lru.report('c')");
    assert!(page.is_ascii() && page.contains("records #"), "{page}");
    latin.run("SELECT shared_lru.report_json('c'), shared_lru.report_svg('c')");
}

/// A query of docs/prometheus.yml with the names and kinds of its metrics.
struct Query<'a> {
    name: &'a str,
    sql: String,
    metrics: Vec<(&'a str, &'a str)>,
}

/// As much of YAML as the file has.
fn queries(file: &str) -> Vec<Query<'_>> {
    let mut queries: Vec<Query<'_>> = Vec::new();
    for line in file.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let text = line.trim_start();
        match line.len() - text.len() {
            0 => {
                let name = text.strip_suffix(':').expect("a name");
                queries.push(Query { name, sql: String::new(), metrics: Vec::new() });
            }
            2 => assert!(["query: |", "metrics:"].contains(&text), "{line}"),
            _ => {
                let query = queries.last_mut().expect("a name comes first");
                if let Some(metric) = text.strip_prefix("- ") {
                    query.metrics.push((metric.strip_suffix(':').expect("a metric"), ""));
                } else if let Some(usage) = text.strip_prefix("usage: ") {
                    query.metrics.last_mut().expect("a metric comes first").1 = usage.trim_matches('"');
                } else if !text.starts_with("description: ") {
                    assert!(query.metrics.is_empty(), "{line}");
                    query.sql.extend([text, "\n"]);
                }
            }
        }
    }
    queries
}

#[test]
fn each_query_for_prometheus_runs_and_gives_its_metrics() {
    let world = world_with_figures();
    world.backend().run("CREATE ROLE watcher LOGIN; GRANT pg_monitor TO watcher");
    let mut watcher = world.backend_as("watcher");
    let queries = queries(include_str!("../../../docs/prometheus.yml"));
    assert!(queries.len() >= 5);
    for Query { name, sql, metrics } in queries {
        let rows = watcher.client.query(&sql, &[]).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        assert!(!rows.is_empty(), "{name}");
        let columns: Vec<&str> = rows[0].columns().iter().map(postgres::Column::name).collect();
        assert_eq!(columns, metrics.iter().map(|(metric, _)| *metric).collect::<Vec<_>>(), "{name}");
        let mut labels = Vec::new();
        for row in &rows {
            let mut of_row = Vec::new();
            for (metric, usage) in &metrics {
                match *usage {
                    "LABEL" => of_row.push(row.get::<_, String>(metric)),
                    "COUNTER" | "GAUGE" => assert!(row.get::<_, i64>(metric) >= 0, "{name}: {metric}"),
                    other => panic!("{name}: {metric} is a {other}"),
                }
            }
            assert!(of_row.len() < metrics.len() && !labels.contains(&of_row), "{name}: {of_row:?} comes twice");
            labels.push(of_row);
        }
    }
}
