//! What is put is what is got, whole, or is refused with SQLSTATE, value and limit.

use crate::world::World;

#[test]
fn every_value_comes_back_as_it_was_put() {
    let world = World::with_cache(16);
    let (mut writer, mut reader) = (world.backend(), world.backend());
    let long_key = vec![7; 500];
    let megabyte: Vec<u8> = (0..1_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let pairs: &[(&[u8], &[u8])] = &[
        (b"plain", b"value"),
        (b"no value", b""),
        (b"", b"no key"),
        (b"zeros", &[0; 100]),
        (b"\0zero\0in\0key", b"\0"),
        (b"\xff\xfe", b"\xff\xfe no text"),
        (&long_key, b"long key"),
        (b"million", &megabyte),
    ];
    for (key, value) in pairs {
        assert!(writer.put(key, value), "{key:?} was there before");
    }
    for (key, value) in pairs {
        assert!(reader.get(key).as_deref() == Some(*value), "{key:?} came back changed");
        assert!(reader.call::<bool>("SELECT shared_lru.contains('c', $1)", &[key]));
    }
    assert_eq!(reader.stat("entries"), pairs.len() as i64);
    // Each value has a byte that says what it is.
    let live_bytes: usize = pairs.iter().map(|(key, value)| key.len() + value.len() + 1).sum();
    assert_eq!(reader.stat("live_bytes"), live_bytes as i64);
    reader.validate();
}

#[test]
fn put_tells_new_from_replaced_and_remove_tells_there_from_not() {
    let world = World::with_cache(4);
    let mut backend = world.backend();
    assert!(backend.put(b"k", b"short"));
    assert!(!backend.put(b"k", &[1; 5_000]));
    assert_eq!(backend.get(b"k"), Some(vec![1; 5_000]));
    assert!(!backend.put(b"k", b""));
    assert_eq!(backend.get(b"k"), Some(vec![]));
    assert!(backend.one::<bool>("SELECT shared_lru.remove('c', 'k')"));
    assert!(!backend.one::<bool>("SELECT shared_lru.remove('c', 'k')"));
    assert!(!backend.one::<bool>("SELECT shared_lru.contains('c', 'k')"));
    assert_eq!(backend.get(b"k"), None);
    for n in 0_i32..100 {
        backend.put(&n.to_be_bytes(), b"v");
    }
    assert_eq!(backend.one::<i64>("SELECT shared_lru.clear('c')"), 100);
    assert_eq!(backend.one::<i64>("SELECT shared_lru.clear('c')"), 0);
    backend.validate();
}

#[test]
fn a_null_argument_gives_null_and_does_nothing() {
    let world = World::with_cache(4);
    let mut backend = world.backend();
    for call in ["put('c', 'k', NULL)", "put('c', NULL, 'v')", "get('c', NULL)", "remove(NULL, 'k')", "clear(NULL)"] {
        assert!(backend.one::<bool>(&format!("SELECT shared_lru.{call} IS NULL")), "{call}");
    }
    assert_eq!(backend.stat("entries"), 0);
}

#[test]
fn text_and_json_are_the_bytes_they_look_like() {
    let world = World::with_cache(4);
    let mut backend = world.backend();
    backend.run("SELECT shared_lru.put_text('c', 'grüße', 'čau\tσ')");
    assert_eq!(backend.one::<String>("SELECT shared_lru.get_text('c', 'grüße')"), "čau\tσ");
    assert_eq!(backend.get("grüße".as_bytes()).as_deref(), Some("čau\tσ".as_bytes()));
    assert!(backend.one::<bool>("SELECT shared_lru.put_text('c', '', '')"));
    assert_eq!(backend.one::<String>("SELECT shared_lru.get_text('c', '')"), "");
    assert_eq!(backend.one::<Option<String>>("SELECT shared_lru.get_text('c', 'none')"), None);
    assert!(backend.one::<bool>("SELECT shared_lru.contains_text('c', 'grüße')"));
    assert!(!backend.one::<bool>("SELECT shared_lru.put_text_if_absent('c', 'grüße', 'other')"));
    backend.run("SELECT shared_lru.put_text('c', 'grün', 'x')");
    backend.run("SELECT shared_lru.invalidate_prefix_text('c', 'grün')");
    assert!(backend.one::<bool>("SELECT shared_lru.put_text_if_absent('c', 'grün', 'y', '1 day', '{t}')"));
    backend.run("SELECT shared_lru.invalidate_tag('c', 't')");
    assert!(!backend.one::<bool>("SELECT shared_lru.contains_text('c', 'grün')"));
    assert!(backend.one::<bool>("SELECT shared_lru.remove_text('c', 'grüße')"));
    assert!(!backend.one::<bool>("SELECT shared_lru.remove_text('c', 'grüße')"));

    for json in [
        r#"{"a": [1, 2.50, -3e-7, null, true], "b": {"ü": "\u0001\" \\"}}"#,
        "[]",
        "null",
        r#""text""#,
        "12345678901234567890.123456789012345678901234567890",
        "1e400",
    ] {
        let same: bool = backend.call(
            "SELECT shared_lru.put_jsonb('c', 'j', $1::text::jsonb) IS NOT NULL
                AND shared_lru.get_jsonb('c', 'j')::text = $1::text::jsonb::text",
            &[&json],
        );
        assert!(same, "{json} came back changed");
    }
    assert!(backend.one::<bool>("SELECT shared_lru.get_jsonb('c', 'none') IS NULL"));
}

#[test]
fn bytes_that_are_no_text_or_json_are_an_error_not_garbage() {
    let world = World::with_cache(4);
    let mut backend = world.backend();
    backend.put(b"latin", b"\xe9t\xe9");
    backend.put(b"zero", b"a\0b");
    backend.refused("SELECT shared_lru.get_text('c', 'latin')").is("22021", &["0xe9"]);
    backend.refused("SELECT shared_lru.get_text('c', 'zero')").is("22021", &["0x00"]);
    backend.refused("SELECT shared_lru.get_jsonb('c', 'latin')").is("42804", &["bytea", "jsonb"]);
    assert_eq!(backend.one::<i32>("SELECT 1"), 1);
    backend.validate();
}

#[test]
fn what_is_too_large_is_refused_whole_and_changes_nothing() {
    let world = World::new();
    let mut backend = world.backend();
    backend.run(
        "SELECT shared_lru.create_cache('c', NULL, max_entries => 100, max_entry_bytes => 1000, policy => 'lru', partitions => 1)",
    );
    backend.put(b"k", b"old");
    backend.put(b"other", b"value");
    let refusal = backend.refused("SELECT shared_lru.put('c', 'k', convert_to(repeat('x', 1000), 'UTF8'))");
    refusal.is("54000", &["1001", "1000"]);
    assert!(refusal.hint.contains("max_entry_bytes"), "{refusal:?}");
    assert_eq!(backend.get(b"k").as_deref(), Some(b"old".as_slice()));
    assert_eq!(backend.get(b"other").as_deref(), Some(b"value".as_slice()));
    assert_eq!(backend.stat("refused"), 1);
    assert_eq!(backend.stat("evictions"), 0);
    assert!(!backend.put(b"k", &[5; 999]), "as large as allowed must fit");

    // By bytes, whatever the region cannot hold: an error, not an empty cache.
    backend.run("SELECT shared_lru.drop_cache('c'), shared_lru.create_cache('c', 4194304)");
    backend.put(b"k", b"old");
    backend
        .refused("SELECT shared_lru.put('c', 'k', convert_to(repeat('x', 5000000), 'UTF8'))")
        .is("54000", &["5000001"]);
    backend
        .refused("SELECT shared_lru.put('c', convert_to(repeat('k', 1000000), 'UTF8'), 'v')")
        .is("54000", &["1000000"]);
    assert_eq!(backend.get(b"k").as_deref(), Some(b"old".as_slice()));
    backend.validate();
}

#[test]
fn a_wrong_parameter_is_named_with_its_range() {
    let world = World::new();
    let mut backend = world.backend();
    let long_name = "n".repeat(64);
    for (arguments, code, parts) in [
        ("'c', 0", "22023", &["bytes", "0"][..]),
        ("'c', -5", "22023", &["bytes", "-5"]),
        ("'c', 4096", "22023", &["4096", "need at least"]),
        ("'c', NULL, 100", "22023", &["max_entry_bytes"]),
        ("'c', NULL, max_entry_bytes => 100", "22023", &["max_entries"]),
        ("'c', NULL, 0, 100", "22023", &["0 entries", "from 1"]),
        ("'c', NULL, 100, -1", "22023", &["max_entry_bytes", "-1"]),
        ("'c', NULL, 5000000000, 100", "22023", &["5000000000"]),
        ("'c', 1048576, policy => 'fifo'", "22023", &["\"fifo\"", "\"lru\"", "\"clock\"", "\"s3-fifo\""]),
        ("'c', 1048576, partitions => 0", "22023", &["partitions", "0"]),
        ("'c', 1048576, partitions => 3", "22023", &["3 partitions", "power of two", "64"]),
        ("'c', 1048576, partitions => 128", "22023", &["128", "64"]),
        ("'c', 1048576, slab_bytes => 1000", "22023", &["1000", "2048", "4194304"]),
        ("'c', 1048576, slab_bytes => 40000", "22023", &["40000", "power of two"]),
        ("'c', 1048576, buckets => 0", "22023", &["buckets", "0"]),
        ("'c', 1048576, buckets => 99999999999", "22023", &["99999999999"]),
        ("NULL, 1048576", "22023", &["cache"]),
        ("'', 1048576", "42602", &["name", "63"]),
        (&format!("'{long_name}', 1048576"), "42602", &["64", "63"]),
    ] {
        backend.refused(&format!("SELECT shared_lru.create_cache({arguments})")).is(code, parts);
    }
    assert_eq!(backend.one::<i64>("SELECT count(*) FROM shared_lru.caches"), 0);

    backend.run("SELECT shared_lru.create_cache('c', 1048576)");
    backend.refused("SELECT shared_lru.create_cache('c', 2097152)").is("42710", &["\"c\"", "exists"]);
    backend.refused("SELECT * FROM shared_lru.compact('c', -1)").is("22023", &["max_bytes", "-1"]);
}

#[test]
fn an_unknown_cache_is_named_by_every_function() {
    let world = World::new();
    let mut backend = world.backend();
    let calls = [
        "alter_cache('nix', 1048576)",
        "rename_cache('nix', 'other')",
        "grant_cache('nix', 'public', 'read')",
        "revoke_cache('nix', 'public', 'read')",
        "save('nix')",
        "put('nix', 'k', 'v')",
        "put('nix', 'k', 'v', NULL, '{t}')",
        "put_any('nix', 'k', 1)",
        "get_any('nix', 'k', NULL::int)",
        "get_versioned('nix', 'k')",
        "get_text_versioned('nix', 'k')",
        "put_if_version('nix', 'k', 'v', NULL)",
        "put_text_if_version('nix', 'k', 'v', NULL)",
        "put_if_absent('nix', 'k', 'v')",
        "put_text_if_absent('nix', 'k', 'v')",
        "get_or_lease('nix', 'k')",
        "get_text_or_lease('nix', 'k')",
        "get_jsonb_or_lease('nix', 'k'::text)",
        "put_leased('nix', 'k', 'v', decode(repeat('00', 48), 'hex'))",
        "put_any_leased('nix', 'k', 1, decode(repeat('00', 48), 'hex'))",
        "put_text_leased('nix', 'k', 'v', decode(repeat('00', 48), 'hex'))",
        "put_jsonb_leased('nix', 'k', '1', decode(repeat('00', 48), 'hex'))",
        "invalidate('nix', 'k')",
        "invalidate_text('nix', 'k')",
        "invalidate_all('nix')",
        "invalidate_prefix('nix', 'k')",
        "invalidate_prefix_text('nix', 'k')",
        "invalidate_tag('nix', 't')",
        "fetch('nix', 'SELECT 1', NULL::int)",
        "fetch_with('nix', NULL, NULL, NULL, 'SELECT 1', NULL::int)",
        "query('nix', 'SELECT 1') AS t (a int)",
        "query_with('nix', NULL, NULL, NULL, 'SELECT 1') AS t (a int)",
        "cache_view('nix', 'pg_class')",
        "explain_query('SELECT 1', cache => 'nix')",
        "contains_text('nix', 'k')",
        "get('nix', 'k')",
        "contains('nix', 'k')",
        "remove('nix', 'k')",
        "clear('nix')",
        "put_text('nix', 'k', 'v')",
        "get_text('nix', 'k')",
        "remove_text('nix', 'k')",
        "put_jsonb('nix', 'k', '1')",
        "get_jsonb('nix', 'k')",
        "get_many('nix', '{k}')",
        "get_array('nix', '{k}')",
        "get_many_text('nix', '{k}')",
        "get_array_text('nix', '{k}')",
        "entries('nix')",
        "drain('nix')",
        "compact('nix')",
        "validate('nix')",
        "bytes_by_prefix('nix')",
        "bytes_by_tag('nix', '{t}')",
        "reset_stats('nix')",
        "report('nix')",
        "report_json('nix')",
        "report_svg('nix')",
    ];
    for call in calls {
        let refusal = backend.refused(&format!("SELECT * FROM shared_lru.{call}"));
        refusal.is("42704", &["\"nix\"", "does not exist"]);
        assert!(refusal.hint.contains("create_cache"), "{refusal:?}");
    }
    assert!(!backend.one::<bool>("SELECT shared_lru.drop_cache('nix')"));
    let names: Vec<&str> = calls.iter().map(|call| call.split('(').next().expect("a name")).collect();
    let of_caches = backend.all::<String>(
        "SELECT DISTINCT proname::text FROM pg_proc
          WHERE pronamespace = 'shared_lru'::regnamespace AND 'cache' = ANY (proargnames[1:pronargs])
            AND proname NOT IN ('create_cache', 'drop_cache')",
    );
    let untried: Vec<_> = of_caches.iter().filter(|name| !names.contains(&name.as_str())).collect();
    assert!(untried.is_empty(), "{untried:?}");
}

#[test]
fn a_null_for_what_is_needed_gives_null_or_is_an_error_as_the_docs_say() {
    let world = World::with_cache(4);
    let mut backend = world.backend();
    let calls = backend.all::<String>(
        "SELECT format('shared_lru.%I(%s)%s', proname,
                       (SELECT string_agg(CASE WHEN type IN ('anyelement'::regtype, '\"any\"'::regtype) THEN 'NULL::int'
                                               ELSE format('NULL::%s', type::regtype) END, ', ' ORDER BY place)
                          FROM unnest(proargtypes) WITH ORDINALITY AS argument (type, place)),
                       CASE WHEN prorettype = 'record'::regtype AND NOT 't' = ANY (coalesce(proargmodes, '{}')) THEN ' AS t (a int)' END)
           FROM pg_proc
          WHERE pronamespace = 'shared_lru'::regnamespace AND 'cache' = ANY (proargnames[1:pronargs])",
    );
    assert!(calls.len() > 40);
    let refused = ["create_cache", "alter_cache", "compact", "drain", "bytes_by_prefix", "explain_query", "cache_view"];
    for call in calls {
        let is_refused = refused.iter().any(|name| call.starts_with(&format!("shared_lru.{name}(")));
        if is_refused {
            backend.refused(&format!("SELECT * FROM {call}")).is("22023", &["must not be NULL"]);
        } else {
            let is_something = format!("SELECT count(*) FROM (SELECT * FROM {call}) AS t WHERE NOT t IS NULL");
            assert_eq!(backend.one::<i64>(&is_something), 0, "{call}");
        }
    }
}

#[test]
fn odd_names_of_caches_are_as_good_as_any() {
    let world = World::new();
    let mut backend = world.backend();
    let names = ["Ä b\"c'd", "c", "C", &"n".repeat(63), "shared_lru.c"];
    for name in names {
        backend.call::<String>("SELECT shared_lru.create_cache($1, 1048576)::text", &[&name]);
        backend.call::<bool>("SELECT shared_lru.put_text($1, 'name', $1)", &[&name]);
    }
    for name in names {
        assert_eq!(backend.call::<String>("SELECT shared_lru.get_text($1, 'name')", &[&name]), name);
    }
    let mut listed = backend.all::<String>("SELECT cache FROM shared_lru.caches");
    listed.sort_unstable();
    let mut expected = names.map(str::to_owned);
    expected.sort_unstable();
    assert_eq!(listed, expected);
}

#[test]
fn get_many_returns_the_hits_and_counts_the_misses() {
    let world = World::with_cache(4);
    let mut backend = world.backend();
    backend.put(b"a", b"1");
    backend.put(b"b", b"");
    let hits = backend.all::<String>(
        "SELECT encode(key, 'escape') || '=' || encode(value, 'escape')
           FROM shared_lru.get_many('c', ARRAY['b', 'x', NULL, 'a', 'y', 'a']::bytea[])",
    );
    assert_eq!(hits, ["b=", "a=1", "a=1"]);
    assert_eq!((backend.stat("hits"), backend.stat("misses")), (3, 2));
    assert_eq!(backend.one::<i64>("SELECT count(*) FROM shared_lru.get_many('c', '{}')"), 0);
}

/// Keys of all lengths, with values of all sizes, also such that a group of keys ends early; then also none; NULL.
const KEYS_OF_ALL_SIZES: &str =
    "SELECT n, CASE WHEN n % 37 <> 36 THEN convert_to('k' || n, 'UTF8') END AS key FROM generate_series(1, 300) AS n";

#[test]
fn many_keys_give_what_each_gives_alone_in_rows_and_in_the_array() {
    let world = World::new();
    for policy in ["lru", "clock", "s3-fifo"] {
        let mut backend = world.backend();
        backend.run(&format!(
            "SELECT shared_lru.create_cache('c', 64 << 20, policy => '{policy}');
             SELECT shared_lru.put('c', convert_to('k' || n, 'UTF8'), convert_to(repeat(chr(65 + n % 26), n * n % 1700), 'UTF8'),
                                   NULL, CASE n % 4 WHEN 3 THEN '{{even,odd}}'::text[] END)
               FROM generate_series(1, 300) AS n WHERE n % 7 <> 6 OR n < 40;
             SELECT shared_lru.put('c', convert_to('k' || n, 'UTF8'), convert_to(repeat('l', 3000 * n), 'UTF8'))
               FROM generate_series(100, 300, 20) AS n WHERE n % 7 <> 6"
        ));
        for keys in [
            KEYS_OF_ALL_SIZES.to_owned(),
            // None is missing, so the array has no bits.
            format!("SELECT * FROM ({KEYS_OF_ALL_SIZES}) AS k WHERE key IS NOT NULL AND n % 7 <> 6"),
            format!("{KEYS_OF_ALL_SIZES} LIMIT 0"),
            // Of a row that PostgreSQL keeps in a short form.
            "SELECT 1 AS n, 'short'::bytea AS key".to_owned(),
        ] {
            // To the byte: also what lies between the values.
            let array = format!(
                "SELECT record_image_eq(ROW(shared_lru.get_array('c', coalesce(array_agg(key ORDER BY n), '{{}}'))),
                                        ROW(coalesce(array_agg(shared_lru.get('c', key) ORDER BY n), '{{}}'))) FROM ({keys}) AS k"
            );
            assert!(backend.one::<bool>(&array), "{policy}, {keys}");
            let rows = format!(
                "SELECT coalesce(array_agg(ROW(g.key, g.value) ORDER BY g.n), '{{}}')
                        = (SELECT coalesce(array_agg(ROW(k.key, shared_lru.get('c', k.key)) ORDER BY k.n), '{{}}')
                             FROM ({keys}) AS k WHERE shared_lru.get('c', k.key) IS NOT NULL)
                   FROM (SELECT array_agg(key ORDER BY n) AS keys FROM ({keys}) AS k) AS a,
                        LATERAL shared_lru.get_many('c', keys) WITH ORDINALITY AS g (key, value, n)"
            );
            assert!(backend.one::<bool>(&rows), "{policy}, {keys}");
        }
        // Whatever the shape of the keys' array is.
        let shape = "SELECT shared_lru.get_array('c', ARRAY[['k1', 'x'], [NULL, 'k2']]::bytea[])
                            = ARRAY[convert_to('B', 'UTF8'), NULL, NULL, convert_to('CCCC', 'UTF8')]";
        assert!(backend.one::<bool>(shape), "{policy}");
        backend.validate();
        backend.run("SELECT shared_lru.drop_cache('c')");
    }
}

#[test]
fn many_keys_see_no_value_that_one_would_not() {
    let world = World::with_cache(8);
    let mut backend = world.backend();
    backend.run(
        "SELECT shared_lru.put_text('c', 'tagged', 'v', NULL, '{t}'), shared_lru.put_text('c', 'plain', 'v'),
                shared_lru.put_text('c', 'hidden', 'v'), shared_lru.put_text('c', 'over', 'v', ttl => '100ms');
         SELECT shared_lru.put_any('c', 'typed', 1)",
    );
    let many = "SELECT concat_ws(' ', (SELECT string_agg(key, ',') FROM shared_lru.get_many_text('c', k)),
                                 shared_lru.get_array_text('c', k), shared_lru.get_array('c', k::text::bytea[]))
                  FROM (VALUES ('{tagged,hidden,plain}'::text[])) AS v (k)";
    let all = "tagged,hidden,plain {v,v,v} {\"\\\\x76\",\"\\\\x76\",\"\\\\x76\"}";
    assert_eq!(backend.one::<String>(many), all);
    backend.run("BEGIN; SELECT shared_lru.invalidate_tag('c', 't'), shared_lru.invalidate_text('c', 'hidden')");
    assert_eq!(backend.one::<String>(many), "plain {NULL,NULL,v} {NULL,NULL,\"\\\\x76\"}");
    backend.run("ROLLBACK");
    assert_eq!(backend.one::<String>(many), all);
    backend.run("SELECT shared_lru.invalidate_tag('c', 't')");
    assert_eq!(backend.one::<String>(many), "hidden,plain {NULL,v,v} {NULL,\"\\\\x76\",\"\\\\x76\"}");
    assert_eq!(backend.stat("invalidations"), 1, "it is gone when it was looked for");
    backend.run("SELECT pg_sleep(0.3)");
    assert_eq!(backend.one::<Option<String>>("SELECT (shared_lru.get_array_text('c', '{over}'))[1]"), None);
    for call in
        ["get_many('c', '{plain,typed}')", "get_array('c', '{plain,typed}')", "get_array_text('c', '{plain,typed}')"]
    {
        backend.refused(&format!("SELECT * FROM shared_lru.{call}")).is("42804", &["integer", "bytea"]);
    }
    backend.validate();
}

#[test]
fn a_capacity_in_entries_is_kept_to_the_last_one() {
    let world = World::new();
    let mut backend = world.backend();
    for (policy, count) in [("lru", 1_i64), ("lru", 777), ("clock", 777), ("s3-fifo", 777)] {
        backend.run(&format!(
            "SELECT shared_lru.create_cache('c', NULL, max_entries => {count}, max_entry_bytes => 300,
                                            policy => '{policy}', partitions => 1)"
        ));
        for size in [1, 200, 30] {
            backend.run(&format!(
                "SELECT count(shared_lru.put('c', int4send(n), convert_to(repeat('x', {size} + n % 90), 'UTF8')))
                   FROM generate_series({size} * 1000, {size} * 1000 + 2 * {count}) AS n"
            ));
            assert_eq!(backend.stat("entries"), count, "policy {policy}, values from {size} bytes");
        }
        assert_eq!(backend.stat("inserts") - backend.stat("evictions"), count);
        assert_eq!(backend.one::<i64>("SELECT max_entries FROM shared_lru.caches WHERE cache = 'c'"), count);
        backend.validate();
        backend.run("SELECT shared_lru.drop_cache('c')");
    }
}

#[test]
fn exact_lru_evicts_and_drains_in_the_order_of_use() {
    let world = World::new();
    let (mut one, mut two) = (world.backend(), world.backend());
    one.run(
        "SELECT shared_lru.create_cache('c', NULL, max_entries => 4, max_entry_bytes => 100, policy => 'lru', partitions => 1)",
    );
    for key in ["a", "b", "c", "d"] {
        one.put(key.as_bytes(), b"1");
    }
    two.get(b"a");
    // Neither of these is a use.
    one.run("SELECT shared_lru.contains('c', 'b'); SELECT count(*) FROM shared_lru.entries('c')");
    two.put(b"c", b"2");
    one.put(b"e", b"1");
    let drained = "SELECT string_agg(encode(key, 'escape') || encode(value, 'escape'), ' ') FROM shared_lru.drain('c')";
    assert_eq!(two.one::<String>(drained), "d1 a1 c2 e1");

    assert_eq!(one.stat("entries"), 0);
    assert_eq!(one.one::<i64>("SELECT count(*) FROM shared_lru.drain('c')"), 0);
    assert!(one.put(b"a", b"again"), "a drained cache is as good as new");
    assert_eq!(two.get(b"a").as_deref(), Some(b"again".as_slice()));
    one.validate();
}

#[test]
fn the_views_add_up() {
    let world = World::with_cache(4);
    let mut backend = world.backend();
    backend.run(
        "SELECT count(shared_lru.put('c', int4send(n), convert_to(repeat('x', n % 2000), 'UTF8'))) FROM generate_series(1, 900) AS n;
         SELECT count(shared_lru.put('c', int4send(n), 'short')) FROM generate_series(1, 100) AS n;
         SELECT count(shared_lru.get('c', int4send(n))) FROM generate_series(1, 1200) AS n;
         SELECT count(shared_lru.remove('c', int4send(n))) FROM generate_series(801, 1000) AS n;",
    );
    let stats: String = backend.one(
        "SELECT concat_ws(' ', entries, hits, misses, hit_ratio, inserts, updates, evictions, removals, refused, resets)
           FROM shared_lru.stats",
    );
    assert_eq!(stats, "800 900 300 0.75 900 100 0 100 0 0");
    let memory: String = backend.one(
        "SELECT concat_ws(' ', region_bytes,
                          fixed_bytes + directory_bytes + data_bytes + bucket_bytes + free_bytes = region_bytes,
                          payload_bytes = live_bytes, utilisation > payload_ratio, utilisation < 1, slabs_free < slabs_total,
                          bucket_load > 0, longest_chain < 10)
           FROM shared_lru.memory JOIN shared_lru.stats USING (cache)",
    );
    assert_eq!(memory, "4194304 t t t t t t t");
    let classes: String = backend.one(
        "SELECT concat_ws(' ', bool_and(used <= slots), bool_and(occupancy BETWEEN 0 AND 1), sum(slabs) > 0,
                          bool_and(internal_waste_bytes >= 0), max(slot_bytes) >= 800)
           FROM shared_lru.slab_classes WHERE cache = 'c' AND slots > 0",
    );
    assert_eq!(classes, "t t t t t");
    let caches: String =
        backend.one("SELECT concat_ws(' ', cache, database, owner, bytes, policy) FROM shared_lru.caches");
    assert_eq!(caches, "c postgres postgres 4194304 lru");
}

#[test]
fn the_views_of_an_empty_cache_divide_by_nothing() {
    let world = World::with_cache(4);
    let mut backend = world.backend();
    assert!(backend.one::<bool>("SELECT hit_ratio IS NULL FROM shared_lru.stats"));
    assert!(backend.one::<bool>("SELECT utilisation >= 0 AND payload_ratio = 0 FROM shared_lru.memory"));
    backend.run("SELECT * FROM shared_lru.slab_classes");
}

#[test]
fn entries_tell_sizes_recency_and_changing_generations() {
    let world = World::with_cache(4);
    let mut backend = world.backend();
    backend.put(b"first", &[1; 1234]);
    backend.put(b"second", b"22");
    let seen = backend.all::<String>(
        "SELECT concat_ws(' ', encode(key, 'escape'), key_bytes, value_bytes, pinned, generation % 2)
           FROM shared_lru.entries('c') ORDER BY key",
    );
    assert_eq!(seen, ["first 5 1234 f 1", "second 6 2 f 1"]);

    let id = "SELECT entry_id FROM shared_lru.entries('c') WHERE key = 'first'";
    let before: i64 = backend.one(id);
    backend.run("SELECT shared_lru.remove('c', 'first')");
    backend.put(b"first", b"anew");
    assert_ne!(backend.one::<i64>(id), before, "a new entry must not pass for the removed one");
}

#[test]
fn compaction_gives_whole_slabs_back_and_changes_no_value() {
    let world = World::with_cache(8);
    let mut backend = world.backend();
    // Many half-empty slabs: fill one class, then take three of four entries out again.
    backend.run(
        "SELECT count(shared_lru.put('c', int4send(n), sha256(int4send(n)) || sha256('x'))) FROM generate_series(1, 40000) AS n;
         SELECT count(shared_lru.remove('c', int4send(n))) FROM generate_series(1, 40000) AS n WHERE n % 4 <> 0;",
    );
    let entries = backend.stat("entries");
    let free = "SELECT slabs_free FROM shared_lru.memory";
    let free_before: i64 = backend.one(free);
    let bounded: i64 = backend.one("SELECT bytes_moved FROM shared_lru.compact('c', 2000)");
    assert!(bounded <= 2_000 + 4_194_304 / 64, "moved {bounded} bytes");
    let released: i64 = backend.one("SELECT slabs_released FROM shared_lru.compact('c')");
    let free_after: i64 = backend.one(free);
    assert!(released > 0 && free_after > free_before, "released {released}, free {free_before} to {free_after}");
    assert_eq!(backend.stat("entries"), entries);
    let right: i64 = backend.one(
        "SELECT count(*) FROM generate_series(4, 40000, 4) AS n
          WHERE shared_lru.get('c', int4send(n)) = sha256(int4send(n)) || sha256('x')",
    );
    assert_eq!(right, entries);
    backend.validate();
}
