//! Texts in databases whose encodings differ: converted or shown with escapes; refused or found; never an error by chance.

use crate::queries;
use crate::world::{Backend, World};

/// Encodings of a server that are not UTF-8, one of each kind: the last two have no `Á`.
const ENCODINGS: [&str; 6] = ["LATIN1", "WIN1252", "EUC_JP", "SQL_ASCII", "LATIN7", "KOI8R"];

fn backend_in_encoding(world: &World, encoding: &str) -> Backend {
    let database = format!("in_{}", encoding.to_lowercase());
    world.backend().run(&format!(
        "CREATE DATABASE {database} ENCODING '{encoding}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
    ));
    let mut backend = world.backend_in(&database);
    backend.run("CREATE EXTENSION pg_shared_lru");
    backend
}

#[test]
fn the_list_of_caches_can_be_read_in_databases_of_all_encodings() {
    let world = World::new();
    let mut here = world.backend();
    here.run("CREATE ROLE \"Ö\" SUPERUSER");
    here.run("CREATE DATABASE \"Dĕ😀\"");
    here.run("SET ROLE \"Ö\"; SELECT shared_lru.create_cache('Á', 1048576)");
    here.run("RESET ROLE; SELECT shared_lru.create_cache('ĕ😀', 1048576)");
    world.backend_in("Dĕ😀").run("CREATE EXTENSION pg_shared_lru; SELECT shared_lru.create_cache('plain', 1048576)");
    let list =
        "SELECT concat_ws(' ', cache, owner, database) FROM shared_lru.caches ORDER BY bytes, cache COLLATE \"C\"";
    assert_eq!(here.all::<String>(list), ["plain postgres Dĕ😀", "Á Ö postgres", "ĕ😀 postgres postgres"]);
    for encoding in ENCODINGS {
        let mut there = backend_in_encoding(&world, encoding);
        // Letters that the encoding has, as PostgreSQL itself says.
        let shown = |there: &mut Backend, text: &str, escape: &str| {
            let convertible = encoding != "SQL_ASCII"
                && there
                    .client
                    .query_one(&format!("SELECT convert(convert_to($1, '{encoding}'), '{encoding}', 'UTF8')"), &[&text])
                    .is_ok();
            if convertible { text.to_owned() } else { escape.to_owned() }
        };
        let (a, o) = (shown(&mut there, "Á", "\\00C1"), shown(&mut there, "Ö", "\\00D6"));
        let mut expected = [
            format!("{a} {o} postgres"),
            "\\0115\\+01F600 postgres postgres".to_owned(),
            "plain postgres D\\0115\\+01F600".to_owned(),
        ];
        expected.sort();
        let mut listed = there.all::<String>(list);
        listed.sort();
        assert_eq!(listed, expected, "{encoding}");
    }
}

#[test]
fn a_name_is_refused_or_unknown_with_its_own_sqlstate_in_every_encoding() {
    let world = World::new();
    world.backend().run("SELECT shared_lru.create_cache('é', 1048576)");
    for encoding in ENCODINGS {
        let mut there = backend_in_encoding(&world, encoding);
        // A letter of the encoding that is not ASCII and, as bytes, no UTF-8.
        let bytes = if encoding == "EUC_JP" { "b0a1" } else { "e9" };
        let name = format!("convert_from('\\x{bytes}'::bytea, '{encoding}')");
        let created = there.refused(&format!("SELECT shared_lru.create_cache({name}, 1048576)"));
        created.is("42602", &["must be"]);
        for call in [
            "get(NAME, 'k')",
            "put(NAME, 'k', 'v')",
            "contains(NAME, 'k')",
            "remove(NAME, 'k')",
            "get_many(NAME, '{k}')",
            "clear(NAME)",
            "entries(NAME)",
            "drain(NAME)",
            "compact(NAME)",
            "validate(NAME)",
            "get_text(NAME, 'k')",
            "get_array_text(NAME, '{k}')",
        ] {
            let call = format!("SELECT shared_lru.{}", call.replace("NAME", &name));
            let refusal = there.refused(&call);
            refusal.is("42704", &["does not exist"]);
            assert!(refusal.message.is_ascii(), "{encoding}, {call}: {refusal:?}");
        }
        assert!(!there.one::<bool>(&format!("SELECT shared_lru.drop_cache({name})")), "{encoding}");
        // Other texts, too.
        there
            .refused(&format!("SELECT shared_lru.create_cache('c', 1048576, policy => {name})"))
            .is("22023", &["policy"]);
        assert_eq!(there.one::<i32>("SELECT 1"), 1);
    }
}

#[test]
fn keys_and_values_of_text_are_utf8_in_the_cache_and_come_back_as_they_were() {
    let world = World::new();
    for encoding in ["UTF8", "LATIN1", "EUC_JP", "SQL_ASCII", "KOI8R"] {
        let mut there = backend_in_encoding(&world, encoding);
        there.run("SELECT shared_lru.create_cache('c', 1048576)");
        // A letter that is not ASCII, and more bytes in UTF-8 than here.
        let letter = match encoding {
            "UTF8" | "SQL_ASCII" => "\\xc3a9",
            "LATIN1" => "\\xe9",
            "EUC_JP" => "\\xb0a1",
            _ => "\\xc1",
        };
        let text = format!("convert_from('{letter}'::bytea, '{encoding}')");
        there.run(&format!(
            "CREATE TABLE texts AS SELECT n || {text} AS key, repeat({text}, n) AS value FROM generate_series(0, 40) AS n;
             SELECT shared_lru.put_text('c', key, value) FROM texts"
        ));
        let wrong = "SELECT count(*) FROM texts WHERE shared_lru.get_text('c', key) IS DISTINCT FROM value
                        OR shared_lru.get('c', convert_to(key, 'UTF8')) IS DISTINCT FROM convert_to(value, 'UTF8')";
        assert_eq!(there.one::<i64>(wrong), 0, "{encoding}");
        assert_eq!(there.one::<Option<String>>("SELECT shared_lru.get_text('c', 'none')"), None);
        let array =
            "SELECT shared_lru.get_array_text('c', array_append(array_agg(key ORDER BY key), NULL) || 'none'::text)
                            = array_agg(value ORDER BY key) || ARRAY[NULL, NULL] FROM texts";
        assert!(there.one::<bool>(array), "{encoding}");
        let rows = "SELECT count(*) FROM (SELECT array_agg(key) || 'none'::text AS keys FROM texts) AS a,
                           LATERAL shared_lru.get_many_text('c', keys) AS g NATURAL JOIN texts";
        assert_eq!(there.one::<i64>(rows), 41, "{encoding}");
    }
}

#[test]
fn ascii_names_and_any_text_work_in_every_encoding() {
    let world = World::new();
    for encoding in ENCODINGS {
        let mut there = backend_in_encoding(&world, encoding);
        there.run("SELECT shared_lru.create_cache('c', 1048576)");
        assert!(there.put(b"k", b"\xe9\xff"));
        assert_eq!(there.get(b"k").as_deref(), Some(&b"\xe9\xff"[..]));
        assert_eq!(
            there.one::<String>("SELECT policy FROM shared_lru.caches WHERE cache = 'c' AND policy IS NOT NULL"),
            "clock"
        );
        assert_eq!(there.one::<i64>("SELECT count(*) FROM shared_lru.stats WHERE cache = 'c'"), 1, "{encoding}");
        there.run("SELECT shared_lru.drop_cache('c')");
    }
    // SQL_ASCII takes UTF-8, and finds it again.
    let mut there = world.backend_in("in_sql_ascii");
    there.run("SELECT shared_lru.create_cache('é', 1048576)");
    assert_eq!(there.one::<i64>("SELECT count(*) FROM shared_lru.caches WHERE cache = 'é' AND policy = 'clock'"), 1);
    assert!(there.one::<bool>("SELECT shared_lru.drop_cache('é')"));
}

#[test]
fn names_of_what_queries_depend_on_are_shown_in_every_encoding() {
    let world = queries::world();
    for (encoding, bytes, escaped) in
        [("LATIN1", "e9", "\\00E9"), ("EUC_JP", "c9bd", "\\8868"), ("KOI8R", "c1", "\\0430")]
    {
        let mut there = backend_in_encoding(&world, encoding);
        there.run("SELECT shared_lru.create_cache('c', 4194304)");
        let letter: String = there.one(&format!("SELECT convert_from('\\x{bytes}'::bytea, '{encoding}')"));
        there.run(&format!(
            "CREATE TABLE \"{letter}\" AS SELECT 1 AS a; CREATE TYPE \"t{letter}\" AS (t regclass);
             CREATE FUNCTION \"f{letter}\"() RETURNS int STABLE LANGUAGE sql AS 'SELECT 1'"
        ));
        let mut explained = |query: &str, column: &str| -> String {
            there.call(&format!("SELECT coalesce({column}, '') FROM shared_lru.explain_query($1)"), &[&query])
        };
        assert_eq!(explained(&format!("SELECT a FROM \"{letter}\""), "depends_on[1]"), format!("public.\"{escaped}\""));
        for (query, why) in [
            (format!("SELECT \"f{letter}\"()"), format!("function f{escaped} is STABLE")),
            (format!("SELECT a FROM \"{letter}\" FOR SHARE"), format!("table {escaped}: FOR SHARE")),
            (format!("SELECT ROW(NULL)::\"t{letter}\""), format!("t{escaped}")),
        ] {
            let reason = explained(&query, "reason");
            assert!(reason.contains(&why), "{encoding}: {reason:?}");
        }
        let fetch = format!("SELECT shared_lru.fetch('c', 'SELECT a FROM \"{letter}\"', NULL::int)");
        there.run(&fetch);
        there.run(&format!("UPDATE \"{letter}\" SET a = 2"));
        there.run(&fetch);
        let kept = "SELECT concat_ws(' ', depends_on[1], outdated_by) FROM shared_lru.query_entries";
        assert_eq!(there.one::<String>(kept), format!("public.\"{escaped}\" rows of public.\"{escaped}\""));
    }
}
