//! Who may call what, and what a call then means.

use crate::cluster::Cluster;
use crate::world::{Backend, World};

/// Every function of the extension as a call with a NULL for each argument, which the planner cannot see.
fn every_call(backend: &mut Backend) -> Vec<String> {
    backend.all(
        "SELECT format('SELECT * FROM shared_lru.%I(%s)%s', proname,
                       (SELECT string_agg(format('(SELECT NULL::%s)', type::regtype), ', ' ORDER BY place)
                          FROM unnest(proargtypes) WITH ORDINALITY AS argument (type, place)),
                       CASE WHEN prorettype = 'record'::regtype AND NOT 't' = ANY (coalesce(proargmodes, '{}')) THEN ' AS t (a int)' END)
           FROM pg_proc WHERE pronamespace = 'shared_lru'::regnamespace AND prorettype <> 'trigger'::regtype",
    )
}

fn every_view(backend: &mut Backend) -> Vec<String> {
    backend.all(
        "SELECT format('SELECT * FROM shared_lru.%I', relname)
           FROM pg_class WHERE relnamespace = 'shared_lru'::regnamespace AND relkind = 'v'",
    )
}

#[test]
fn an_ordinary_role_may_nothing_until_it_is_granted() {
    let world = World::with_cache(4);
    let mut admin = world.backend();
    admin.run("CREATE ROLE stranger LOGIN");
    let calls = every_call(&mut admin);
    let views = every_view(&mut admin);
    // Whatever schema it is in; all but the trigger.
    let mut members = |class: &str| -> usize {
        let members = format!(
            "SELECT count(*) FROM pg_depend JOIN pg_extension AS e ON refobjid = e.oid
              WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e' AND extname = 'pg_shared_lru'
                AND classid = '{class}'::regclass"
        );
        admin.one::<i64>(&members) as usize
    };
    assert_eq!(calls.len(), members("pg_proc") - 1, "{calls:?}");
    assert_eq!(views.len(), members("pg_class"), "{views:?}");

    let mut stranger = world.backend_as("stranger");
    for statement in calls.iter().chain(&views) {
        stranger.refused(statement).is("42501", &["permission denied for schema"]);
    }
    // The schema is only the first fence: each object has its own.
    admin.run("GRANT USAGE ON SCHEMA shared_lru TO stranger");
    for statement in calls.iter().chain(&views) {
        stranger.refused(statement).is("42501", &["permission denied for"]);
    }
    stranger.refused("CREATE VIEW shared_lru.mine AS SELECT 1").is("42501", &[]);

    admin.run("GRANT EXECUTE ON FUNCTION shared_lru.get(text, bytea), shared_lru.put(text, bytea, bytea) TO stranger");
    // A function gives no cache away.
    stranger.refused("SELECT shared_lru.get('c', 'k')").is("42501", &["permission denied for cache"]);
    admin.run(
        "SELECT shared_lru.grant_cache('c', 'stranger', 'read'), shared_lru.grant_cache('c', 'stranger', 'write')",
    );
    assert!(stranger.put(b"k", b"v"));
    assert_eq!(stranger.get(b"k").as_deref(), Some(b"v".as_slice()));
    stranger.refused("SELECT shared_lru.drop_cache('c')").is("42501", &["drop_cache"]);

    admin.run("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA shared_lru TO stranger");
    admin.run("GRANT SELECT ON ALL TABLES IN SCHEMA shared_lru TO stranger");
    admin.run("SELECT shared_lru.grant_cache('c', 'stranger', 'own')");
    for statement in calls.iter().chain(&views) {
        if let Err(error) = stranger.client.batch_execute(statement) {
            assert_ne!(error.code().map(|code| code.code()), Some("42501"), "{statement}: {error:?}");
        }
    }
}

#[test]
fn monitoring_roles_see_numbers_but_no_contents() {
    let world = World::with_cache(4);
    let mut admin = world.backend();
    admin.run("CREATE ROLE watcher LOGIN; GRANT pg_monitor TO watcher");
    let mut watcher = world.backend_as("watcher");
    for view in every_view(&mut admin) {
        watcher.run(&view);
    }
    for call in ["get('c', 'k')", "entries('c')", "drain('c')", "clear('c')", "get_many('c', '{}')"] {
        watcher.refused(&format!("SELECT shared_lru.{call}")).is("42501", &[]);
    }
}

#[test]
fn only_superusers_may_make_the_extension() {
    let cluster = Cluster::start(&[("shared_preload_libraries", "pg_shared_lru")]).expect("a server starts");
    let mut admin = Backend { client: cluster.connect("postgres").expect("the server accepts a connection") };
    admin.run("CREATE ROLE owner LOGIN");
    admin.run("CREATE DATABASE owned OWNER owner");
    let mut owner = Backend { client: cluster.connect_as("owner", "owned").expect("the server accepts a connection") };
    owner.refused("CREATE EXTENSION pg_shared_lru").is("42501", &[]);
}

#[test]
fn the_planner_may_neither_fold_calls_nor_spread_writes() {
    let world = World::new();
    let wrong: Vec<String> = world.backend().all(
        "SELECT concat_ws(' ', proname, provolatile, proparallel) FROM pg_proc
          WHERE pronamespace = 'shared_lru'::regnamespace
            AND (provolatile <> 'v' AND proname !~ '^get_(text_or_lease|jsonb_or_lease|text_versioned)$' OR prosecdef OR prosupport <> 0
                 OR proparallel = 's' AND proname !~ '^(get|get_text|get_jsonb|get_many|get_array|get_many_text|get_array_text|get_any|get_versioned|get_text_versioned|contains|contains_text|library_version)$')",
    );
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn parallel_workers_read_the_cache_of_their_leader() {
    let world = World::with_cache(8);
    let mut backend = world.backend();
    backend.run(
        "CREATE TABLE keys AS SELECT int4send(n) AS key FROM generate_series(1, 20000) AS n;
         ALTER TABLE keys SET (parallel_workers = 2);
         SELECT count(shared_lru.put('c', key, sha256(key))) FROM keys WHERE get_byte(key, 3) % 2 = 0;
         SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;",
    );
    let query = "SELECT count(*) FROM keys WHERE shared_lru.get('c', key) = sha256(key)";
    let plan = backend.all::<String>(&format!("EXPLAIN (ANALYZE) {query}")).join("\n");
    assert!(plan.contains("Workers Launched: 2"), "{plan}");
    assert_eq!(backend.one::<i64>(query), 10_000);
    backend.validate();
}

#[test]
fn read_only_transactions_can_use_a_cache() {
    let world = World::with_cache(4);
    let mut backend = world.backend();
    backend.run("BEGIN READ ONLY");
    assert!(backend.put(b"k", b"v"));
    assert_eq!(backend.get(b"k").as_deref(), Some(b"v".as_slice()));
    backend.run("COMMIT");
    assert_eq!(backend.get(b"k").as_deref(), Some(b"v".as_slice()));
}

/// Objects that would be taken for PostgreSQL's or the extension's own if a search path could decide; each leaves a
/// trace.
const TRAPS: &str = "
    CREATE SCHEMA trap;
    CREATE SEQUENCE trap.sprung;
    CREATE FUNCTION trap.divide(float8, float8) RETURNS float8 LANGUAGE sql AS $$ SELECT nextval('trap.sprung')::float8 $$;
    CREATE FUNCTION trap.add(bigint, bigint) RETURNS bigint LANGUAGE sql AS $$ SELECT nextval('trap.sprung') $$;
    CREATE FUNCTION trap.same(oid, oid) RETURNS bool LANGUAGE sql AS $$ SELECT nextval('trap.sprung') > 0 $$;
    CREATE FUNCTION trap.same(text, text) RETURNS bool LANGUAGE sql AS $$ SELECT nextval('trap.sprung') > 0 $$;
    CREATE FUNCTION trap.same(name, name) RETURNS bool LANGUAGE sql AS $$ SELECT nextval('trap.sprung') > 0 $$;
    CREATE FUNCTION trap.same(bigint, bigint) RETURNS bool LANGUAGE sql AS $$ SELECT nextval('trap.sprung') > 0 $$;
    CREATE FUNCTION trap.same(bigint, int) RETURNS bool LANGUAGE sql AS $$ SELECT nextval('trap.sprung') > 0 $$;
    CREATE OPERATOR trap./ (LEFTARG = float8, RIGHTARG = float8, FUNCTION = trap.divide);
    CREATE OPERATOR trap.+ (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = trap.add);
    CREATE OPERATOR trap.= (LEFTARG = oid, RIGHTARG = oid, FUNCTION = trap.same);
    CREATE OPERATOR trap.= (LEFTARG = text, RIGHTARG = text, FUNCTION = trap.same);
    CREATE OPERATOR trap.= (LEFTARG = name, RIGHTARG = name, FUNCTION = trap.same);
    CREATE OPERATOR trap.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = trap.same);
    CREATE OPERATOR trap.= (LEFTARG = bigint, RIGHTARG = int, FUNCTION = trap.same);
    CREATE FUNCTION trap.current_database() RETURNS name LANGUAGE sql AS $$ SELECT nextval('trap.sprung')::text::name $$;
    CREATE FUNCTION trap.pg_get_userbyid(oid) RETURNS name LANGUAGE sql AS $$ SELECT nextval('trap.sprung')::text::name $$;
    CREATE FUNCTION trap.list_stats() RETURNS bigint LANGUAGE sql AS $$ SELECT nextval('trap.sprung') $$;
    CREATE VIEW trap.pg_database AS SELECT nextval('trap.sprung')::oid AS oid, 'trap'::name AS datname;
    CREATE DOMAIN trap.float8 AS pg_catalog.float8 CHECK (nextval('trap.sprung') > 0);
    SET search_path = trap, pg_catalog;
";

#[test]
fn no_search_path_changes_what_the_views_mean() {
    let cluster = Cluster::start(&[("shared_preload_libraries", "pg_shared_lru")]).expect("a server starts");
    let mut backend = Backend { client: cluster.connect("postgres").expect("the server accepts a connection") };
    // The traps are there when the views are made, and when they are read.
    backend.run(TRAPS);
    backend.run("CREATE EXTENSION pg_shared_lru");
    backend.run("SELECT shared_lru.create_cache('c', 4194304)");
    backend.put(b"k", b"v");
    assert_eq!(backend.get(b"k").as_deref(), Some(b"v".as_slice()));
    for view in every_view_in_trap(&mut backend) {
        backend.run(&view);
    }
    let sprung: bool = backend.one("SELECT is_called FROM trap.sprung");
    assert!(!sprung, "a view took an object from the search path");
    let ratio: f64 = backend.one("SELECT hit_ratio FROM shared_lru.stats");
    assert!((ratio - 1.0).abs() < f64::EPSILON);
}

/// The names, asked for without any operator that is a trap by now.
fn every_view_in_trap(backend: &mut Backend) -> Vec<String> {
    backend.run("SET search_path = pg_catalog");
    let views = every_view(backend);
    backend.run("SET search_path = trap, pg_catalog");
    views
}
