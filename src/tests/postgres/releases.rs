//! Releases of the extension: scripts and library that differ, updates, dumps.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::world::{Backend, World};

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Every release that a database may still have; each has an update to the next.
const OLD_RELEASES: &[&str] = &["0.1.0"];

/// All that the extension makes, as text: what a user can call or read, what it is, and who may.
const OBJECTS: &str = "
    SELECT format('%s(%s) %s %s %s %s %s %s', proname, pg_get_function_arguments(p.oid), pg_get_function_result(p.oid),
                  provolatile, proisstrict, proparallel, prosrc || coalesce(pg_get_function_sqlbody(p.oid), ''), proacl)
      FROM pg_proc AS p WHERE pronamespace = 'shared_lru'::regnamespace
    UNION ALL
    SELECT format('%s %s %s %s', relname, relkind, pg_get_viewdef(oid), relacl)
      FROM pg_class WHERE relnamespace = 'shared_lru'::regnamespace
    UNION ALL
    SELECT format('comment on %s: %s', pg_describe_object(classoid, objoid, objsubid), description)
      FROM pg_description
     WHERE pg_describe_object(classoid, objoid, objsubid) LIKE '%shared_lru.%'
    UNION ALL
    SELECT format('schema %s', nspacl) FROM pg_namespace WHERE nspname = 'shared_lru'
    ORDER BY 1";

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("sql")
}

#[test]
fn the_release_of_crate_script_and_library_is_one() {
    let world = World::new();
    let mut backend = world.backend();
    let extension: String = backend.one("SELECT extversion FROM pg_extension WHERE extname = 'pg_shared_lru'");
    let library: String = backend.one("SELECT shared_lru.library_version()");
    assert_eq!((extension.as_str(), library.as_str()), (VERSION, VERSION));
    let pgxn = Path::new(env!("CARGO_MANIFEST_DIR")).join("META.json");
    let pgxn: serde_json::Value = serde_json::from_str(&fs::read_to_string(pgxn).expect("a file")).expect("JSON");
    let provided = &pgxn["provides"]["pg_shared_lru"];
    assert_eq!((&pgxn["version"], &provided["version"]), (&VERSION.into(), &VERSION.into()));
    assert!(
        scripts().join(format!("pg_shared_lru--{VERSION}.sql")).ends_with(provided["file"].as_str().expect("a file"))
    );
}

#[test]
fn an_update_from_every_release_gives_what_an_installation_gives() {
    let world = World::new();
    let fresh: Vec<String> = world.backend().all(OBJECTS);
    assert!(fresh.len() > 40, "{fresh:?}");
    for (number, release) in OLD_RELEASES.iter().enumerate() {
        let database = format!("old{number}");
        world.backend().run(&format!("CREATE DATABASE {database}"));
        let mut backend = world.backend_in(&database);
        backend.run(&format!("CREATE EXTENSION pg_shared_lru VERSION '{release}'"));
        backend.run("ALTER EXTENSION pg_shared_lru UPDATE");
        let updated: Vec<String> = backend.all(OBJECTS);
        for object in &fresh {
            assert!(updated.contains(object), "an update from {release} lacks, or has otherwise: {object}");
        }
        for object in &updated {
            assert!(fresh.contains(object), "an update from {release} leaves: {object}");
        }
    }
}

#[test]
fn the_scripts_of_older_releases_say_what_to_do_and_work_after_it() {
    for release in OLD_RELEASES {
        let world = World::new();
        let mut backend = world.backend();
        backend.run("DROP EXTENSION pg_shared_lru");
        backend.run(&format!("CREATE EXTENSION pg_shared_lru VERSION '{release}'"));
        for call in ["create_cache('c', 4194304)", "put('c', 'k', 'v')", "get('c', 'k')", "drop_cache('c')"] {
            let refusal = backend.refused(&format!("SELECT shared_lru.{call}"));
            refusal.is("55000", &["older release"]);
            assert!(refusal.hint.contains("ALTER EXTENSION pg_shared_lru UPDATE"), "{refusal:?}");
        }
        assert_eq!(backend.one::<i64>("SELECT count(*) FROM shared_lru.caches"), 0);
        backend.run("ALTER EXTENSION pg_shared_lru UPDATE");
        use_all_of_0_1(&mut backend);
    }
}

/// Calls every function, and reads every view, that release 0.1.0 has.
fn use_all_of_0_1(backend: &mut Backend) {
    backend.run("SELECT shared_lru.create_cache('c', 4194304)");
    assert!(backend.put(b"k", b"v"));
    assert_eq!(backend.get(b"k").as_deref(), Some(b"v".as_slice()));
    assert!(backend.one::<bool>("SELECT shared_lru.contains('c', 'k')"));
    assert_eq!(backend.all::<Vec<u8>>("SELECT value FROM shared_lru.get_many('c', ARRAY['k', 'x']::bytea[])"), [b"v"]);
    backend.run("SELECT shared_lru.put_text('c', 't', 'text'), shared_lru.put_jsonb('c', 'j', '[1]')");
    assert_eq!(backend.one::<String>("SELECT shared_lru.get_text('c', 't')"), "text");
    assert_eq!(backend.one::<i32>("SELECT (shared_lru.get_jsonb('c', 'j') -> 0)::int"), 1);
    assert_eq!(backend.one::<i64>("SELECT count(*) FROM shared_lru.entries('c')"), 3);
    assert!(backend.one::<bool>("SELECT shared_lru.remove('c', 'k') AND shared_lru.remove_text('c', 't')"));
    for view in ["caches", "stats", "slab_classes", "memory"] {
        assert!(backend.one::<i64>(&format!("SELECT count(*) FROM shared_lru.{view}")) > 0, "{view}");
    }
    backend.run("SELECT shared_lru.compact('c'), shared_lru.validate('c')");
    assert_eq!(backend.one::<i64>("SELECT count(*) FROM shared_lru.drain('c')"), 1);
    assert_eq!(backend.one::<i64>("SELECT shared_lru.clear('c')"), 0);
    assert!(backend.one::<bool>("SELECT shared_lru.drop_cache('c')"));
}

#[test]
fn a_script_that_is_newer_than_the_library_says_what_to_do() {
    let world = World::new();
    let mut backend = world.backend();
    let refusal = backend.refused("SELECT shared_lru.library_version('99.0.0')");
    refusal.is("55000", &[VERSION, "99.0.0"]);
    assert!(refusal.hint.contains("Restart the server"), "{refusal:?}");
    backend.refused("SELECT shared_lru.library_version('new')").is("22023", &["\"new\""]);

    let current = fs::read_to_string(scripts().join(format!("pg_shared_lru--{VERSION}.sql"))).expect("a script");
    let update = fs::read_to_string(scripts().join(format!("pg_shared_lru--{}--{VERSION}.sql", OLD_RELEASES[0])));
    for script in [current, update.expect("a script")] {
        assert!(script.contains(&format!("SELECT @extschema@.library_version('{VERSION}');")), "a script does not ask");
    }
}

#[test]
fn every_function_of_the_library_has_a_declaration() {
    // Those of older releases name functions that only they need.
    let names = OLD_RELEASES.iter().chain([&VERSION]).map(|release| format!("pg_shared_lru--{release}.sql"));
    let script: String = names.map(|name| fs::read_to_string(scripts().join(name)).expect("a script")).collect();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/pg/functions");
    let mut found = 0;
    for file in fs::read_dir(folder).expect("a folder") {
        let text = fs::read_to_string(file.expect("a file").path()).expect("a source");
        for after in text.split("#[pg_extern").skip(1) {
            let name = after.split("fn ").nth(1).and_then(|rest| rest.split(['(', '<']).next()).expect("a function");
            assert!(script.contains(&format!("'{name}_wrapper'")), "{name} is declared by no script");
            found += 1;
        }
    }
    assert!(found >= 18, "{found}");
}

/// Dumps database `postgres` and reads the dump into the database `restored`, with PostgreSQL's own programs.
pub fn dump_and_restore(world: &World, format: &str) {
    world.backend().run("DROP DATABASE IF EXISTS restored");
    world.backend().run("CREATE DATABASE restored");
    let mut dump = world.cluster.client_program("pg_dump");
    let mut dump = dump.args(["--format", format, "postgres"]).stdout(Stdio::piped()).spawn().expect("pg_dump starts");
    let mut restore = match format {
        "plain" => world.cluster.client_program("psql"),
        _ => world.cluster.client_program("pg_restore"),
    };
    match format {
        "plain" => restore.args(["--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1"]),
        _ => restore.args(["--exit-on-error"]),
    };
    let restored = restore.args(["--dbname", "restored"]).stdin(dump.stdout.take().expect("piped"));
    check(restored);
    assert!(dump.wait().expect("pg_dump ends").success());
}

fn check(command: &mut Command) {
    let output = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().expect("the program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_dump_restores_the_extension_and_what_uses_it() {
    let world = World::new();
    let mut backend = world.backend();
    backend.run(
        "CREATE ROLE app;
         GRANT USAGE ON SCHEMA shared_lru TO app;
         GRANT EXECUTE ON FUNCTION shared_lru.get(text, bytea) TO app;
         CREATE FUNCTION cached(key text) RETURNS text LANGUAGE sql RETURN shared_lru.get_text('c', key);
         CREATE VIEW hot AS SELECT cache, hits FROM shared_lru.stats",
    );
    for format in ["plain", "custom"] {
        dump_and_restore(&world, format);
        let mut restored = world.backend_in("restored");
        restored.run("SELECT shared_lru.create_cache('c', 1048576); SELECT shared_lru.put_text('c', 'k', 'v')");
        assert_eq!(restored.one::<String>("SELECT cached('k')"), "v");
        assert_eq!(restored.one::<i64>("SELECT hits FROM hot WHERE cache = 'c'"), 1);
        let may: bool = restored.one("SELECT has_function_privilege('app', 'shared_lru.get(text, bytea)', 'EXECUTE')");
        assert!(may, "{format}: a grant was lost");
    }
}
