//! Statements that are served from a cache without a call in them: views of `cache_view`, and statements that are marked.

use crate::world::{Backend, World, wait_until};

/// A server with the query cache on, and a cache `c`.
fn world() -> World {
    let world = World::with(&[("pg_shared_lru.query_cache", "on"), ("max_prepared_transactions", "16")]);
    let mut backend = world.backend();
    backend.run("SELECT shared_lru.create_cache('c')");
    wait_until("writers publish", || backend.one("SELECT EXISTS (SELECT FROM shared_lru.changes('pg_class'))"));
    world
}

fn hits(backend: &mut Backend) -> i64 {
    backend.stat("hits")
}

#[test]
fn a_cached_view_has_the_columns_and_rows_of_its_source() {
    let world = world();
    let mut backend = world.backend();
    backend.run(
        r#"CREATE SCHEMA "Odd ""Schema";
           CREATE DOMAIN "Odd ""Schema".small AS int CHECK (VALUE < 100);
           CREATE TABLE "Odd ""Schema"."Table's" (gone int, "a,b" numeric(10, 2), "select" varchar(5) COLLATE "C", d "Odd ""Schema".small,
               at timestamptz(3), list int[]);
           ALTER TABLE "Odd ""Schema"."Table's" DROP gone;
           INSERT INTO "Odd ""Schema"."Table's" VALUES (1.5, 'x', 5, '2024-01-01', '{1,2}'), (NULL, NULL, NULL, NULL, NULL)"#,
    );
    let name: String = backend.one(r#"SELECT shared_lru.cache_view('c', '"Odd ""Schema"."Table''s"')"#);
    assert_eq!(name, r#""Odd ""Schema"."Table's_cached""#);
    let columns = |backend: &mut Backend, of: &str| -> Vec<String> {
        backend.all(&format!(
            "SELECT concat_ws(' ', attname, format_type(atttypid, atttypmod), attcollation) FROM pg_attribute
              WHERE attrelid = '{}'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
            of.replace('\'', "''")
        ))
    };
    let source = r#""Odd ""Schema"."Table's""#;
    assert_eq!(columns(&mut backend, &name), columns(&mut backend, source));
    let rows = |backend: &mut Backend, of: &str| -> Vec<String> { backend.all(&format!("SELECT r::text FROM {of} AS r")) };
    let before = hits(&mut backend);
    for _ in 0..3 {
        assert_eq!(rows(&mut backend, &name), rows(&mut backend, source));
    }
    assert_eq!(hits(&mut backend), before + 2);
    world.backend().run(&format!("DELETE FROM {source} WHERE d IS NULL"));
    assert_eq!(rows(&mut backend, &name).len(), 1);

    backend.run("CREATE VIEW report AS SELECT count(*) AS n FROM pg_class WHERE false; CREATE TABLE nothing ()");
    assert_eq!(backend.one::<String>("SELECT shared_lru.cache_view('c', 'report', 'Fast')"), r#"public."Fast""#);
    assert_eq!(backend.one::<i64>(r#"SELECT n FROM "Fast""#), 0);
    backend.refused("SELECT shared_lru.cache_view('none', 'report')").is("42704", &["none", "does not exist"]);
    backend.refused("SELECT shared_lru.cache_view('c', 'report', 'Fast')").is("42P07", &["Fast"]);
    backend.refused("SELECT shared_lru.cache_view('c', NULL)").is("22023", &["NULL"]);
    backend.refused("SELECT shared_lru.cache_view('c', 'nothing')").is("42809", &["no columns"]);
}

#[test]
fn a_cached_view_gives_nobody_what_its_source_does_not() {
    let world = world();
    let mut admin = world.backend();
    admin.run(
        "CREATE ROLE alice LOGIN; CREATE ROLE bob LOGIN;
         GRANT USAGE ON SCHEMA shared_lru TO alice, bob;
         GRANT EXECUTE ON FUNCTION shared_lru.cache_view(text, regclass, text), shared_lru.query(text, text) TO alice, bob;
         SELECT shared_lru.grant_cache('c', 'alice', 'read'), shared_lru.grant_cache('c', 'alice', 'write');
         CREATE SCHEMA a AUTHORIZATION alice;
         CREATE TABLE secret AS SELECT 1 AS id; GRANT SELECT ON secret TO alice",
    );
    let (mut alice, mut bob) = (world.backend_as("alice"), world.backend_as("bob"));
    // It is created as the caller would create it.
    alice.refused("SELECT shared_lru.cache_view('c', 'secret')").is("42501", &["public"]);
    alice.run("CREATE VIEW a.mine AS SELECT * FROM secret");
    assert_eq!(alice.one::<String>("SELECT shared_lru.cache_view('c', 'a.mine')"), "a.mine_cached");
    assert_eq!(
        admin.one::<String>("SELECT relowner::regrole::text FROM pg_class WHERE relname = 'mine_cached'"),
        "alice"
    );
    assert_eq!(alice.one::<i32>("SELECT id FROM a.mine_cached"), 1);
    // And read as who reads it: with the view comes neither the cache nor the source.
    alice.run("GRANT USAGE ON SCHEMA a TO bob; GRANT SELECT ON a.mine_cached TO bob");
    bob.refused("SELECT id FROM a.mine_cached").is("42501", &["permission denied for cache"]);
    admin.run("SELECT shared_lru.grant_cache('c', 'bob', 'read')");
    bob.refused("SELECT id FROM a.mine_cached").is("42501", &["mine"]);
    alice.run("GRANT SELECT ON a.mine TO bob");
    assert_eq!(bob.one::<i32>("SELECT id FROM a.mine_cached"), 1);
    alice.run("REVOKE SELECT ON a.mine FROM bob");
    bob.refused("SELECT id FROM a.mine_cached").is("42501", &["mine"]);
}
