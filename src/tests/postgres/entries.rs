//! Values with a type, a version, tags.

use crate::world::{Backend, World};

fn tagged(backend: &mut Backend, key: &str, value: &str, tags: &[&str]) -> Option<bool> {
    let (key, value) = (key.as_bytes(), value.as_bytes());
    backend.call("SELECT shared_lru.put('c', $1, $2, ttl => NULL, tags => $3)", &[&key, &value, &tags])
}

fn get(backend: &mut Backend, key: &str) -> Option<String> {
    backend.get(key.as_bytes()).map(|value| String::from_utf8(value).expect("text"))
}

#[test]
fn every_type_comes_back_as_it_was_put() {
    let world = World::with_cache(4);
    let mut backend = world.backend();
    backend.run(
        "CREATE TYPE mood AS ENUM ('sad', 'happy');
         CREATE TYPE pair AS (a int, b text);
         CREATE TYPE nested AS (p pair, ps pair[], r int4range);
         CREATE DOMAIN positive AS int CHECK (VALUE > 0);
         CREATE TABLE rows (id int, note text, gone int, moods mood[]);
         ALTER TABLE rows DROP COLUMN gone;
         INSERT INTO rows VALUES (1, 'one', '{sad,happy}')",
    );
    let values = [
        "1::smallint",
        "2::int",
        "3::bigint",
        "true",
        "'c'::\"char\"",
        "1.5::float4",
        "'-Infinity'::float8",
        "'NaN'::numeric",
        "1.2300::numeric",
        "repeat('9', 5000)::numeric",
        "''::text",
        "repeat('long', 10000)",
        "'fix'::char(10)",
        "'name'::name",
        "'\\x00ff'::bytea",
        "date '2024-02-29'",
        "time '12:34'",
        "timetz '12:34+05'",
        "timestamp 'infinity'",
        "timestamptz '2024-02-29 12:00Z'",
        "interval '1 month -2 days 3.5 s'",
        "'6ba7b810-9dad-11d1-80b4-00c04fd430c8'::uuid",
        "inet '10.0.0.1/8'",
        "'08:00:2b:01:02:03'::macaddr",
        "'{\"a\": [1, 2.50, null]}'::jsonb",
        "'{\"a\":  1}'::json",
        "point '(1,2)'",
        "polygon '((0,0),(1,1),(2,0))'",
        "bit '101'",
        "varbit '10101'",
        "to_tsvector('simple', 'a b a')",
        "int4range(1, 5)",
        "nummultirange(numrange(1, 2), numrange(3, NULL))",
        "array[1, NULL, 3]",
        "array[[1, 2], [3, 4]]",
        "array[]::text[]",
        "array['a', NULL, repeat('b', 5000)]",
        "'pg_class'::regclass",
        "'happy'::mood",
        "array['sad', 'happy']::mood[]",
        "5::positive",
        "ROW(1, 'one')::pair",
        "ROW(ROW(1, NULL)::pair, array[ROW(2, 'two')::pair], int4range(1, 2))::nested",
        "(SELECT rows FROM rows)",
        "(SELECT array_agg(rows) FROM rows)",
    ];
    for value in values {
        let put = format!("SELECT shared_lru.put_any('c', 'k', {value})");
        backend.one::<bool>(&put);
        let same = format!(
            "SELECT pg_typeof(got) = pg_typeof({value})
                    AND convert_to(got::text, 'UTF8') = convert_to(({value})::text, 'UTF8')
               FROM (SELECT shared_lru.get_any('c', 'k', {value}) AS got) AS t"
        );
        assert!(backend.one::<bool>(&same), "{value} came back as another");
        // In another process, and by a NULL of the type.
        let mut other = world.backend();
        let same = format!(
            "SELECT convert_to(shared_lru.get_any('c', 'k', (SELECT {value} WHERE false))::text, 'UTF8')
                    = convert_to(({value})::text, 'UTF8')"
        );
        assert!(other.one::<bool>(&same), "{value} is another to somebody else");
    }
    backend.validate();
}

#[test]
fn a_value_is_read_as_what_it_was_put_and_not_after_its_type_has_changed() {
    let world = World::with_cache(4);
    let mut backend = world.backend();
    backend
        .run("CREATE TYPE pair AS (a int, b int); CREATE DOMAIN small AS int; SELECT shared_lru.put_any('c', 'k', 1)");
    backend.refused("SELECT shared_lru.get('c', 'k')").is("42804", &["of type integer, not bytea"]);
    backend.refused("SELECT shared_lru.get_any('c', 'k', NULL::bigint)").is("42804", &["integer", "bigint"]);
    backend.put(b"k", b"v");
    backend.refused("SELECT shared_lru.get_any('c', 'k', NULL::int)").is("42804", &["of type bytea, not integer"]);
    backend.refused("SELECT shared_lru.get_jsonb('c', 'k')").is("42804", &["bytea", "jsonb"]);
    backend.refused("SELECT shared_lru.put_any('c', 'k', ROW(1, 2))").is("22023", &["record", "composite type"]);
    backend.refused("SELECT shared_lru.put_any('c', 'k', array[ROW(1, 2)])").is("22023", &["record[]"]);

    for change in ["ALTER TYPE pair ADD ATTRIBUTE c text", "ALTER TYPE pair RENAME ATTRIBUTE a TO first"] {
        backend.run("SELECT shared_lru.put_any('c', 'k', array[NULL::pair])");
        backend.run(change);
        assert!(backend.one::<bool>("SELECT shared_lru.get_any('c', 'k', NULL::pair[]) IS NULL"), "{change}");
        assert!(!backend.one::<bool>("SELECT shared_lru.contains('c', 'k')"), "it would be met again and again");
    }
    backend.run("SELECT shared_lru.put_any('c', 'k', 5::small); ALTER DOMAIN small ADD CHECK (VALUE < 5)");
    backend.refused("SELECT shared_lru.get_any('c', 'k', NULL::small)").is("23514", &["small"]);
    backend.run("DROP DOMAIN small; CREATE DOMAIN small AS int");
    assert!(backend.one::<bool>("SELECT shared_lru.get_any('c', 'k', NULL::small) IS NULL"), "of a type that is gone");
    assert!(backend.one::<bool>("SELECT shared_lru.put_any('c', 'k', NULL::int) IS NULL"));
}

#[test]
fn a_value_is_replaced_by_who_has_read_it_last() {
    let world = World::with_cache(4);
    let (mut first, mut second) = (world.backend(), world.backend());
    let version = |backend: &mut Backend| -> Option<Vec<u8>> {
        backend.one("SELECT version FROM shared_lru.get_versioned('c', 'k')")
    };
    let put = |backend: &mut Backend, value: &[u8], version: &Option<Vec<u8>>| -> bool {
        backend.call("SELECT shared_lru.put_if_version('c', 'k', $1, $2)", &[&value, version])
    };
    assert_eq!(version(&mut first), None);
    assert!(put(&mut first, b"1", &None) && !put(&mut second, b"2", &None));
    let (of_first, of_second) = (version(&mut first), version(&mut second));
    assert_eq!(of_first, of_second);
    assert!(put(&mut second, b"2", &of_second) && !put(&mut first, b"1", &of_first));
    assert_eq!(second.get(b"k").as_deref(), Some(&b"2"[..]));
    // Large values go another way.
    let large = vec![7; 300_000];
    let of_first = version(&mut first);
    assert!(put(&mut first, &large, &of_first) && !put(&mut second, b"2", &of_first));
    let of_large = version(&mut second);
    assert!(put(&mut first, b"3", &of_large));
    // A removed value's version is nobody's, nor is another key's, nor one of memory that was made anew.
    let removed = version(&mut first);
    first.run("SELECT shared_lru.remove('c', 'k')");
    assert!(!put(&mut first, b"4", &removed) && put(&mut first, b"4", &None));
    let of_key = version(&mut first);
    assert!(!first.call::<bool>("SELECT shared_lru.put_if_version('c', 'other', 'v', $1)", &[&of_key]));
    first.run("SELECT shared_lru.alter_cache('c', 8388608)");
    assert_eq!(first.get(b"k").as_deref(), Some(&b"4"[..]));
    assert!(!put(&mut first, b"5", &of_key));
    for made_up in [vec![0; 24], vec![255; 24]] {
        assert!(!put(&mut first, b"5", &Some(made_up)));
    }
    first.refused("SELECT shared_lru.put_if_version('c', 'k', 'v', 'short')").is("22023", &["24 bytes", "5"]);
    first.validate();
}

#[test]
fn what_replaces_a_version_expires_and_has_tags() {
    let world = World::with_cache(4);
    let (mut backend, mut other) = (world.backend(), world.backend());
    let put = |backend: &mut Backend, key: &str, tag: &str| -> Option<bool> {
        backend.one(&format!(
            "SELECT shared_lru.put_text_if_version('c', '{key}', 'v', version, '1 day', '{{{tag}}}')
               FROM shared_lru.get_text_versioned('c', '{key}')"
        ))
    };
    // Of a key without a value, and of one with another.
    backend.put(b"had", b"before");
    for key in ["new", "had"] {
        assert_eq!(put(&mut backend, key, "t"), Some(true));
        assert_eq!(get(&mut other, key).as_deref(), Some("v"));
    }
    assert!(other.one::<bool>("SELECT bool_and(expires > now()) FROM shared_lru.entries('c')"));
    other.run("BEGIN; SELECT shared_lru.invalidate_tag('c', 't')");
    for key in ["new", "had", "third"] {
        assert_eq!(put(&mut other, key, "t"), None, "{key}: the tag is being invalidated");
        assert_eq!(put(&mut backend, key, "u"), Some(true), "{key}: another is not");
    }
    other.run("COMMIT");
    assert_eq!(get(&mut backend, "had").as_deref(), Some("v"));
    other.run("SELECT shared_lru.invalidate_tag('c', 'u')");
    assert_eq!(get(&mut backend, "had"), None, "its tag is old");
}

#[test]
fn values_come_as_an_array_in_the_order_of_their_keys() {
    let world = World::with_cache(4);
    let mut backend = world.backend();
    backend.run("SELECT shared_lru.put('c', int4send(n), int4send(n * n)) FROM generate_series(0, 99, 2) AS n");
    let mut get = |keys: Vec<Option<Vec<u8>>>| -> Vec<Option<Vec<u8>>> {
        backend.call("SELECT shared_lru.get_array('c', $1)", &[&keys])
    };
    let keys: Vec<_> = (0..100_i32).rev().map(|n| (n % 7 != 0).then(|| n.to_be_bytes().to_vec())).collect();
    let expected: Vec<_> =
        (0..100_i32).rev().map(|n| (n % 7 != 0 && n % 2 == 0).then(|| (n * n).to_be_bytes().to_vec())).collect();
    assert_eq!(get(keys), expected);
    assert!(get(Vec::new()).is_empty());
}

#[test]
fn an_invalidated_tag_takes_its_values_away_with_the_commit_for_all_who_see_it() {
    let world = World::with(&[("max_prepared_transactions", "4")]);
    let (mut writer, mut reader, mut old) = (world.backend(), world.backend(), world.backend());
    writer.run("SELECT shared_lru.create_cache('c')");
    assert_eq!(tagged(&mut writer, "a", "1", &["x", "y"]), Some(true));
    assert_eq!(tagged(&mut writer, "b", "2", &["y"]), Some(true));
    assert_eq!(tagged(&mut writer, "c", "3", &["z"]), Some(true));
    assert_eq!(tagged(&mut writer, "d", "4", &[]), Some(true));
    // Who invalidates does not see them at once, and may not put them back; others go on.
    writer.run("BEGIN; SELECT shared_lru.invalidate_tag('c', 'y')");
    assert_eq!([get(&mut writer, "a"), get(&mut writer, "b")], [None, None]);
    assert_eq!(get(&mut writer, "c").as_deref(), Some("3"));
    assert_eq!(tagged(&mut writer, "b", "5", &["y"]), None);
    assert!(!writer.one::<bool>("SELECT shared_lru.contains('c', 'a')"));
    assert_eq!(get(&mut reader, "a").as_deref(), Some("1"));
    writer.run("ROLLBACK");
    assert_eq!(get(&mut writer, "a").as_deref(), Some("1"));
    // A snapshot from before sees what it saw.
    old.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1");
    writer.run("BEGIN; SAVEPOINT s; SELECT shared_lru.invalidate_tag('c', 'z'); ROLLBACK TO s; SELECT shared_lru.invalidate_tag('c', 'y'); COMMIT");
    assert_eq!(get(&mut old, "a").as_deref(), Some("1"));
    assert_eq!([get(&mut reader, "a"), get(&mut reader, "b")], [None, None]);
    assert_eq!(get(&mut reader, "c").as_deref(), Some("3"));
    assert_eq!(get(&mut reader, "d").as_deref(), Some("4"));
    assert_eq!(get(&mut old, "a"), None, "it has gone by now");
    assert_eq!(tagged(&mut old, "a", "old", &["y"]), None, "stored in a snapshot that does not see the change");
    assert_eq!(tagged(&mut reader, "a", "6", &["y"]), Some(true));
    assert_eq!(get(&mut old, "a"), None, "what it does not see");
    assert_eq!(get(&mut reader, "a").as_deref(), Some("6"), "an old snapshot takes nothing away");
    old.run("COMMIT");
    assert_eq!(get(&mut old, "a").as_deref(), Some("6"));
    // Prepared, and ended by another.
    for end in ["ROLLBACK", "COMMIT"] {
        // An aborted invalidation may cost the values, too.
        assert!(tagged(&mut reader, "a", "6", &["y"]).is_some());
        writer.run("BEGIN; SELECT shared_lru.invalidate_tag('c', 'y'); PREPARE TRANSACTION 'p'");
        assert_eq!(get(&mut reader, "a").as_deref(), Some("6"));
        assert_eq!(tagged(&mut reader, "e", "7", &["y"]), None);
        reader.run(&format!("{end} PREPARED 'p'"));
    }
    assert_eq!(get(&mut reader, "a"), None);
    // What a drain takes out is what somebody could have read.
    tagged(&mut reader, "f", "8", &["f"]);
    reader.run("SELECT shared_lru.invalidate_tag('c', 'f')");
    assert_eq!(reader.all::<String>("SELECT encode(key, 'escape') FROM shared_lru.drain('c') ORDER BY 1"), ["c", "d"]);
    let many: Vec<String> = (0..33).map(|n| n.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let put = "SELECT shared_lru.put('c', 'k', 'v', ttl => NULL, tags => (SELECT array_agg(n::text) FROM generate_series(1, 33) AS n))";
    assert_eq!(tagged(&mut reader, "k", "v", &many[..32]), Some(true));
    reader.refused(put).is("22023", &["33 tags", "32"]);
}

#[test]
fn a_lease_is_void_when_one_of_its_tags_was_invalidated() {
    let world = World::with_cache(4);
    let (mut reader, mut writer) = (world.backend(), world.backend());
    let lease = |backend: &mut Backend| -> Option<Vec<u8>> {
        backend.one("SELECT lease FROM shared_lru.get_or_lease('c', 'k', tags => '{x}')")
    };
    let put = |backend: &mut Backend, lease: &Option<Vec<u8>>| -> bool {
        backend.call("SELECT shared_lru.put_leased('c', 'k', 'v', $1)", &[lease])
    };
    let late = lease(&mut reader);
    assert!(late.is_some());
    writer.run("SELECT shared_lru.invalidate_tag('c', 'x')");
    assert!(!put(&mut reader, &late), "a late reader stored what was no longer true");
    let good = lease(&mut reader);
    assert!(put(&mut reader, &good));
    assert_eq!(get(&mut writer, "k").as_deref(), Some("v"));
    writer.run("SELECT shared_lru.invalidate_tag('c', 'x')");
    assert_eq!(get(&mut reader, "k"), None);
    let next = lease(&mut reader);
    assert!(put(&mut reader, &next), "what is old makes room");
}

#[test]
fn a_prefix_takes_its_keys_away_with_the_commit_and_voids_leases() {
    let world = World::with_cache(4);
    let (mut reader, mut writer) = (world.backend(), world.backend());
    for key in ["a:1", "a:2", "b:1"] {
        writer.put(key.as_bytes(), b"v");
    }
    let lease: Vec<u8> = reader.one("SELECT lease FROM shared_lru.get_or_lease('c', 'a:3')");
    writer.run("BEGIN; SELECT shared_lru.invalidate_prefix('c', 'a:')");
    assert_eq!([get(&mut writer, "a:1"), get(&mut reader, "a:1").map(|_| String::new())], [None, Some(String::new())]);
    writer.run("COMMIT");
    assert_eq!([get(&mut reader, "a:1"), get(&mut reader, "a:2")], [None, None]);
    assert!(get(&mut reader, "b:1").is_some());
    assert!(!reader.call::<bool>("SELECT shared_lru.put_leased('c', 'a:3', 'v', $1)", &[&lease]));
}

#[test]
fn a_worker_of_a_transaction_that_has_invalidated_sees_none_of_it() {
    let world = World::with_cache(8);
    let mut backend = world.backend();
    backend.run(
        "CREATE TABLE keys AS SELECT int4send(n) AS key FROM generate_series(1, 20000) AS n;
         ALTER TABLE keys SET (parallel_workers = 2);
         SELECT count(shared_lru.put('c', key, 'v')) FROM keys;
         SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0",
    );
    backend.run("BEGIN; SELECT shared_lru.invalidate_all('c')");
    assert_eq!(backend.one::<i64>("SELECT count(*) FROM keys WHERE shared_lru.get('c', key) IS NOT NULL"), 0);
    backend.run("ROLLBACK");
    assert_eq!(backend.one::<i64>("SELECT count(*) FROM keys WHERE shared_lru.get('c', key) IS NOT NULL"), 20_000);
}

/// One that is not runs in a snapshot of its own, later than the statement's: what it reads is then not what the statement
/// would.
#[test]
fn functions_for_text_and_json_are_inlined() {
    let world = World::with_cache(4);
    let mut backend = world.backend();
    for (call, inner) in [
        ("get_jsonb('c', k)", "get_any("),
        ("remove_text('c', k)", "remove("),
        ("contains_text('c', k)", "contains("),
        ("put_text_if_absent('c', k, k)", "put_if_absent("),
        ("invalidate_prefix_text('c', k)", "invalidate_prefix("),
        ("put_text('c', k, k)", "put("),
        ("put_text('c', k, k, NULL, '{t}')", "put("),
        ("put_jsonb('c', k, '1')", "put_any("),
        ("put_jsonb('c', k, '1', NULL, '{t}')", "put_any("),
        ("put_text_leased('c', k, k, '')", "put_leased("),
        ("put_jsonb_leased('c', k, '1', '')", "put_any_leased("),
        ("put_text_if_version('c', k, k, '')", "put_if_version("),
        ("invalidate_text('c', k)", "invalidate("),
    ] {
        let plan = backend
            .all::<String>(&format!("EXPLAIN (VERBOSE) SELECT shared_lru.{call} FROM unnest('{{a,b}}'::text[]) AS k"))
            .join("\n");
        assert!(plan.contains(&format!("shared_lru.{inner}")), "{call}: {plan}");
    }
    for (call, inner) in [
        ("get_text_or_lease('c', k)", "get_or_lease("),
        ("get_jsonb_or_lease('c', k)", "convert_to("),
        ("get_text_versioned('c', k)", "get_versioned("),
    ] {
        let explain = format!("EXPLAIN (VERBOSE) SELECT g FROM unnest('{{a,b}}'::text[]) AS k, shared_lru.{call} AS g");
        let plan = backend.all::<String>(&explain).join("\n");
        assert!(plan.contains(inner), "{call}: {plan}");
    }
}

#[test]
fn what_is_put_only_if_absent_expires_and_has_tags() {
    let world = World::with_cache(4);
    let (mut backend, mut other) = (world.backend(), world.backend());
    let mut put =
        |call: &str| backend.one::<Option<bool>>(&format!("SELECT shared_lru.put_if_absent('c', 'k', {call})"));
    assert_eq!(put("'v', '1 day', '{t}'"), Some(true));
    assert_eq!(put("'w', NULL, '{t}'"), Some(false));
    assert_eq!(put("NULL"), None);
    assert!(other.one::<bool>("SELECT expires > now() FROM shared_lru.entries('c')"));
    assert_eq!(other.get(b"k").as_deref(), Some(&b"v"[..]));
    other.run("SELECT shared_lru.invalidate_tag('c', 't')");
    assert_eq!(other.get(b"k"), None, "its tag is old");
    other.run("BEGIN; SELECT shared_lru.invalidate_tag('c', 't')");
    assert_eq!(other.one::<Option<bool>>("SELECT shared_lru.put_if_absent('c', 'new', 'v', NULL, '{t}')"), None);
    other.run("ROLLBACK");
}

/// A result is for the role that has asked for it, whoever else may read the cache.
#[test]
fn a_drain_removes_results_and_shows_them_to_nobody() {
    let world = crate::queries::world();
    let mut backend = world.backend();
    backend.run("CREATE TABLE secrets (secret text); INSERT INTO secrets VALUES ('x')");
    backend
        .run("SELECT shared_lru.fetch('c', 'SELECT secret FROM secrets', NULL::text), shared_lru.put('c', 'k', 'v')");
    assert_eq!(backend.one::<i64>("SELECT entries FROM shared_lru.stats"), 2);
    assert_eq!(backend.all::<String>("SELECT encode(key, 'escape') FROM shared_lru.drain('c')"), ["k"]);
    assert_eq!(backend.one::<i64>("SELECT entries FROM shared_lru.stats"), 0);
}
