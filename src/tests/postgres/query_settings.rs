//! Settings that the owner of a cache names: what reads them is kept, and nobody gets a result of another value.

use crate::marked::result;
use crate::queries::{hits, world};
use crate::world::{Backend, World};

/// Rows of tenants, who see their own; and a role that is nobody's owner.
const TENANTS: &str = "
    CREATE TABLE goods (tenant text, v int);
    INSERT INTO goods VALUES ('a', 1), ('a', 2), ('b', 10), ('', 100), ('nobody', 1000);
    ALTER TABLE goods ENABLE ROW LEVEL SECURITY;
    CREATE POLICY own ON goods USING (tenant = coalesce(current_setting('app.tenant', true), 'nobody'));
    CREATE ROLE alice LOGIN;
    GRANT SELECT ON goods TO alice;
    GRANT USAGE ON SCHEMA shared_lru TO alice;
    GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA shared_lru TO alice;
    SELECT shared_lru.grant_cache('c', 'alice', 'read'), shared_lru.grant_cache('c', 'alice', 'write')";

const CALL: &str = "SELECT shared_lru.fetch('c', 'SELECT sum(v) FROM goods', NULL::bigint)";
const MARKED: &str = "/* shared_lru: c */ SELECT sum(v) FROM goods";

/// A server whose cache names the setting by which rows are told apart.
fn world_of_tenants() -> World {
    let world = world();
    let mut admin = world.backend();
    admin.run(TENANTS);
    name(&mut admin, "{app.tenant}");
    world
}

/// Has the cache name these settings.
fn name(admin: &mut Backend, settings: &str) {
    admin.run(&format!("SELECT shared_lru.alter_cache('c', settings => '{settings}')"));
}

/// What a statement gives; and whether it was kept before.
fn ask(backend: &mut Backend, admin: &mut Backend, statement: &str) -> (i64, bool) {
    let before = hits(admin);
    let value = backend.one(statement);
    (value, hits(admin) > before)
}

/// Whether the result of a query would be kept by cache `c`, or why not.
fn said(admin: &mut Backend, query: &str) -> String {
    let query = query.replace('\'', "''");
    admin.one(&format!(
        "SELECT concat_ws(' ', cacheable::text, reason) FROM shared_lru.explain_query('{query}', cache => 'c')"
    ))
}

#[test]
fn who_has_another_value_has_another_result_and_who_has_the_same_shares_it() {
    let world = world_of_tenants();
    let mut admin = world.backend();
    for statement in [CALL, MARKED] {
        let tenants = [
            (None, 1000),
            (Some("SET app.tenant = 'a'"), 3),
            (Some("SET app.tenant = 'b'"), 10),
            (Some("SET app.tenant = ''"), 100),
        ];
        for is_kept in [false, true, true] {
            for (set, sum) in tenants {
                let mut alice = world.backend_as("alice");
                alice.run(set.unwrap_or_default());
                assert_eq!(ask(&mut alice, &mut admin, statement), (sum, is_kept), "{statement}, {set:?}");
            }
        }
        // In one session, whatever case the name is written in.
        let mut alice = world.backend_as("alice");
        for (set, sum) in [("SET App.TENANT = 'b'", 10), ("SET app.tenant = 'a'", 3), ("RESET app.tenant", 100)] {
            alice.run(set);
            let (value, _) = ask(&mut alice, &mut admin, statement);
            assert_eq!(value, sum, "{statement}, {set}");
        }
    }
    admin.run("UPDATE goods SET v = v + 1");
    let mut alice = world.backend_as("alice");
    for (tenant, sum) in [("a", 5), ("b", 11)] {
        alice.run(&format!("SET app.tenant = '{tenant}'"));
        assert_eq!((alice.one::<i64>(CALL), alice.one::<i64>(MARKED)), (sum, sum));
    }
    // Who looks at what is kept sees the query and the role.
    let kept: Vec<String> = admin.all("SELECT DISTINCT role || ': ' || query FROM shared_lru.query_entries ORDER BY 1");
    assert_eq!(kept, ["alice: SELECT sum(v) FROM goods"]);
    admin.validate();
}

#[test]
fn the_value_that_counts_is_the_one_of_this_moment() {
    let world = world_of_tenants();
    let mut admin = world.backend();
    admin.run(&format!(
        "CREATE FUNCTION as_b() RETURNS bigint LANGUAGE sql SET app.tenant = 'b' AS $$ {CALL} $$;
         CREATE FUNCTION marked_as_b() RETURNS bigint LANGUAGE plpgsql SET app.tenant = 'b' AS $$
             DECLARE found bigint; BEGIN EXECUTE '{MARKED}' INTO found; RETURN found; END $$;
         CREATE VIEW report AS SELECT sum(v) AS v FROM goods WHERE tenant = current_setting('app.tenant')"
    ));
    admin.run("SELECT shared_lru.cache_view('c', 'report')");
    let mut alice = world.backend_as("alice");
    alice.run("SET app.tenant = 'a'");
    for _ in 0..2 {
        for statement in [CALL, MARKED] {
            for (step, sum) in [
                ("BEGIN; SET LOCAL app.tenant = 'b'", 10),
                ("SAVEPOINT s; SET LOCAL app.tenant = 'a'", 3),
                ("SAVEPOINT t; SET app.tenant = ''", 100),
                ("ROLLBACK TO t", 3),
                ("ROLLBACK TO s", 10),
                ("SELECT set_config('app.tenant', '', true)", 100),
                ("COMMIT", 3),
                ("BEGIN; SET app.tenant = 'b'", 10),
                ("ROLLBACK", 3),
            ] {
                alice.run(step);
                assert_eq!(alice.one::<i64>(statement), sum, "{statement} after {step}");
            }
        }
        for call in ["SELECT as_b()", "SELECT marked_as_b()"] {
            assert_eq!(alice.one::<i64>(call), 10, "{call}");
        }
        assert_eq!((alice.one::<i64>(CALL), alice.one::<i64>(MARKED)), (3, 3));
        for (tenant, sum) in [("a", 3), ("b", 10), ("a", 3)] {
            admin.run(&format!("SET app.tenant = '{tenant}'"));
            assert_eq!(admin.one::<i64>("SELECT v FROM report_cached"), sum);
        }
    }
    admin.run("ALTER ROLE alice SET app.tenant = 'b'");
    let mut alice = world.backend_as("alice");
    assert_eq!(ask(&mut alice, &mut admin, CALL), (10, true));
    // A cursor reads the first row of one and the others of another: that is nobody's result.
    alice.run("BEGIN; SET LOCAL app.tenant = 'a'");
    let inserts = admin.stat("inserts");
    let query = "SELECT v FROM goods WHERE v < 50 AND tenant = current_setting('app.tenant')";
    alice.run(&format!("/* shared_lru: c */ DECLARE k CURSOR FOR {query}"));
    alice.run("FETCH 1 FROM k; SET LOCAL app.tenant = 'b'; FETCH ALL FROM k; COMMIT");
    assert_eq!(admin.stat("inserts"), inserts);
}

#[test]
fn what_reads_a_setting_is_kept_where_the_cache_names_it_and_refused_elsewhere() {
    let world = world();
    let mut admin = world.backend();
    admin.run(
        "CREATE TABLE t AS SELECT 1 AS v;
         CREATE VIEW seen AS SELECT v FROM t WHERE current_setting('app.tenant', true) = 'a';
         CREATE DOMAIN checked AS int CHECK (VALUE < 10 OR current_setting('app.tenant', true) = 'a');
         CREATE FUNCTION defaulted(v int, tenant text DEFAULT current_setting('app.tenant', true)) RETURNS text
             IMMUTABLE LANGUAGE sql AS 'SELECT tenant || v';
         CREATE FUNCTION since(v int, at timestamptz DEFAULT now()) RETURNS timestamptz
             IMMUTABLE LANGUAGE sql AS 'SELECT at'",
    );
    let readers = [
        "SELECT current_setting('app.tenant')",
        "SELECT current_setting('APP.Tenant', true) FROM t",
        "SELECT current_setting('app.tenant', v > 0) FROM t",
        "SELECT v FROM seen",
        "SELECT v::checked FROM t",
        "SELECT defaulted(v) FROM t",
        "SELECT defaulted(v => v) FROM t",
    ];
    for query in readers {
        let why = "false it depends on the setting app.tenant: name it in the cache's settings";
        assert_eq!(said(&mut admin, query), why, "{query}");
    }
    assert_eq!(said(&mut admin, "SELECT defaulted(v, 'a') FROM t"), "true", "the default is not used");
    let why = "miss, not stored: it depends on the setting app.tenant: name it in the cache's settings";
    let explained: Vec<String> =
        admin.all("/* shared_lru: c */ EXPLAIN (ANALYZE) SELECT current_setting('app.tenant', true) FROM t");
    let not_kept = why.replace("miss, not stored", "Not Kept");
    assert!(explained.iter().any(|line| line.trim() == not_kept), "{explained:#?}");
    assert_eq!(
        admin.one::<i64>("SELECT count FROM shared_lru.query_refusals WHERE cache = 'c' AND reason = 'stable'"),
        1
    );
    // Another one's name is not enough; case does not matter.
    name(&mut admin, "{app.tenants,app.tenan}");
    assert!(readers.iter().all(|query| said(&mut admin, query).starts_with("false")));
    name(&mut admin, "{x.y,App.TENANT}");
    for query in readers {
        assert_eq!(said(&mut admin, query), "true", "{query}");
    }
    assert_eq!(result(&mut admin, readers[1]), "miss, stored");
    assert_eq!(result(&mut admin, readers[1]), "hit");
    // What reads another one as well, or one that only the run tells.
    for (query, why) in [
        ("SELECT current_setting('app.tenant') || current_setting('app.other')", "setting app.other"),
        ("SELECT current_setting('app.' || 'tenant')", "has to be a constant"),
        ("SELECT current_setting(v::text) FROM t", "has to be a constant"),
        ("SELECT current_setting(NULL)", "has to be a constant"),
        ("SELECT current_setting('app tenant')", "has to be a constant"),
        ("SELECT set_config('app.tenant', 'a', false)", "set_config is VOLATILE"),
        ("SELECT since(v) FROM t", "now is STABLE"),
    ] {
        let said = said(&mut admin, query);
        assert!(said.starts_with("false") && said.contains(why), "{query}: {said}");
    }
    // No more.
    admin.run("SELECT shared_lru.alter_cache('c', reset => '{settings}')");
    assert!(readers.iter().all(|query| said(&mut admin, query).starts_with("false")));
}

#[test]
fn the_list_that_counts_is_the_one_of_this_moment() {
    let world = world();
    let mut admin = world.backend();
    // Taken at its word, so nobody but the list tells that it follows a setting.
    admin.run(
        "CREATE TABLE t AS SELECT 1 AS v;
         CREATE FUNCTION told() RETURNS int IMMUTABLE LANGUAGE plpgsql AS
             'BEGIN RETURN current_setting(''own.told'')::int; END'",
    );
    for statement in
        ["SELECT shared_lru.fetch('c', 'SELECT told() FROM t', NULL::int)", "/* shared_lru: c */ SELECT told() FROM t"]
    {
        let told = |backend: &mut Backend, number: i32| -> i32 {
            backend.run(&format!("SET own.told = {number}"));
            backend.one(statement)
        };
        let mut other = world.backend();
        assert_eq!((told(&mut admin, 1), told(&mut other, 2), told(&mut admin, 3)), (1, 1, 1), "{statement}");
        for list in ["settings => '{own.told}'", "trusted_functions => '{told()}'", "settings => '{own.told,a.b}'"] {
            admin.run(&format!("SELECT shared_lru.alter_cache('c', {list})"));
            for number in [4, 5, 4] {
                assert_eq!(
                    (told(&mut admin, number), told(&mut other, number)),
                    (number, number),
                    "{statement}, {list}"
                );
            }
            let before = hits(&mut admin);
            assert_eq!((told(&mut admin, 4), told(&mut other, 5)), (4, 5));
            assert_eq!(hits(&mut admin), before + 2);
        }
        admin.run("SELECT shared_lru.alter_cache('c', reset => '{settings,trusted_functions}')");
        assert_eq!((told(&mut other, 6), told(&mut admin, 7)), (6, 6), "{statement}: nothing older, and one for all");
        // The list of a transaction is its own until it commits.
        admin.run("BEGIN; SELECT shared_lru.alter_cache('c', settings => '{own.told}')");
        assert_eq!((told(&mut admin, 8), told(&mut other, 9)), (8, 6), "{statement}");
        admin.run("ROLLBACK");
        assert_eq!((told(&mut admin, 9), told(&mut other, 8)), (6, 6), "{statement}");
        admin.run(
            "BEGIN; SAVEPOINT s; SELECT shared_lru.alter_cache('c', settings => '{own.told}'); ROLLBACK TO s; COMMIT",
        );
        assert_eq!(told(&mut admin, 9), 6, "{statement}");
        admin.run("SELECT shared_lru.clear('c')");
    }
}

#[test]
fn each_value_of_a_named_setting_counts_whether_or_not_the_query_names_it() {
    let world = world();
    let mut admin = world.backend();
    admin.run("CREATE TABLE t AS SELECT 1 AS v");
    name(&mut admin, "{cursor_tuple_fraction,work_mem,enable_sort,sort_mem,role,statement_timeout,app.none}");
    let call = "SELECT shared_lru.fetch('c', 'SELECT sum(v) FROM t', NULL::bigint)";
    let marked = "/* shared_lru: c */ SELECT sum(v) FROM t";
    for is_kept in [false, true] {
        for set in [
            "SELECT",
            // As PostgreSQL shows them these two are the same.
            "SET cursor_tuple_fraction = 0.12345671",
            "SET cursor_tuple_fraction = 0.12345672",
            "SET work_mem = '65kB'",
            "SET enable_sort = off",
            "SET statement_timeout = '1h'",
            "SET app.none = ''",
        ] {
            let mut backend = world.backend();
            backend.run(set);
            for statement in [call, marked] {
                assert_eq!(ask(&mut backend, &mut admin, statement), (1, is_kept), "{set}: {statement}");
                assert_eq!(ask(&mut backend, &mut admin, statement), (1, true), "{set}: {statement}");
            }
        }
    }
    // One that not everybody may see: whoever may not gets what the query gives.
    admin.run(
        "CREATE ROLE bob LOGIN;
         GRANT USAGE ON SCHEMA shared_lru TO bob; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA shared_lru TO bob;
         SELECT shared_lru.grant_cache('c', 'bob', 'read'), shared_lru.grant_cache('c', 'bob', 'write')",
    );
    name(&mut admin, "{data_directory}");
    let call = "SELECT length(shared_lru.fetch('c', 'SELECT current_setting(''data_directory'')', NULL::text)) > 0";
    let mut bob = world.backend_as("bob");
    for _ in 0..2 {
        assert!(admin.one::<bool>(call));
        bob.refused(call).is("42501", &["data_directory"]);
    }
}

#[test]
fn a_plan_that_is_older_than_a_named_setting_stores_nothing_and_is_made_anew() {
    let world = world();
    let mut admin = world.backend();
    admin.run(
        "CREATE TABLE goods (tenant text, v int);
         INSERT INTO goods VALUES ('a', 1), ('a', 2), ('b', 10);
         CREATE FUNCTION tenant() RETURNS text IMMUTABLE LANGUAGE plpgsql AS
             'BEGIN RETURN current_setting(''app.tenant''); END'",
    );
    name(&mut admin, "{app.tenant}");
    let (mut backend, mut other) = (world.backend(), world.backend());
    let changed = "miss, not stored: settings that the cache names have changed since it was planned";
    // Read while it runs, and folded into the plan.
    for (query, statement) in [
        ("SELECT sum(v) FROM goods WHERE tenant = current_setting('app.tenant')", "p"),
        ("SELECT sum(v) FROM goods WHERE tenant = tenant()", "f"),
    ] {
        let execute = format!("EXECUTE {statement}");
        for session in [&mut backend, &mut other] {
            session.run("SET plan_cache_mode = force_generic_plan; SET app.tenant = 'a'");
            session.run(&format!("/* shared_lru: c */ PREPARE {statement} AS {query}"));
        }
        assert_eq!(result(&mut backend, &execute), "miss, stored");
        assert_eq!((result(&mut backend, &execute), backend.one::<i64>(&execute)), ("hit".to_owned(), 3));
        backend.run("SET app.tenant = 'b'");
        assert_eq!(result(&mut backend, &execute), changed);
        assert_eq!(result(&mut backend, &execute), "miss, stored");
        assert_eq!((result(&mut backend, &execute), backend.one::<i64>(&execute)), ("hit".to_owned(), 10));
        // What is kept is right whatever the plan has of them.
        backend.run("SET app.tenant = 'a'");
        assert_eq!((result(&mut backend, &execute), backend.one::<i64>(&execute)), ("hit".to_owned(), 3));
        // Another session.
        for (tenant, sum) in [("b", 10), ("a", 3), ("b", 10)] {
            other.run(&format!("SET app.tenant = '{tenant}'"));
            assert_eq!(ask(&mut other, &mut admin, &execute), (sum, true), "{execute}, {tenant}");
            let direct = format!("/* shared_lru: c */ {query}");
            assert_eq!(other.one::<i64>(&direct), sum);
        }
    }
    // The list is another one since the plan was made.
    backend.run("DEALLOCATE ALL; SET app.tenant = 'a'");
    admin.run("SELECT shared_lru.alter_cache('c', reset => '{settings}')");
    backend.run("/* shared_lru: c */ PREPARE f AS SELECT sum(v) + 0 FROM goods WHERE tenant = tenant()");
    assert_eq!(result(&mut backend, "EXECUTE f"), "miss, stored");
    name(&mut admin, "{app.tenant}");
    backend.run("SET app.tenant = 'b'");
    assert_eq!(result(&mut backend, "EXECUTE f"), changed);
    assert_eq!(result(&mut backend, "EXECUTE f"), "miss, stored");
    other.run("SET app.tenant = 'b'");
    let direct = "/* shared_lru: c */ SELECT sum(v) + 0 FROM goods WHERE tenant = tenant()";
    assert_eq!(ask(&mut other, &mut admin, direct), (10, true));
}

#[test]
fn a_cursor_that_goes_back_under_another_value_stores_nothing() {
    let world = world();
    let mut admin = world.backend();
    admin.run("CREATE TABLE t AS SELECT n AS v FROM generate_series(1, 100) AS n");
    name(&mut admin, "{own.rows}");
    let query = "/* shared_lru: c */ SELECT v FROM t LIMIT current_setting('own.rows')::int";
    // How many rows there are is asked when it goes back, and not when these are read.
    for (meanwhile, inserts) in [("5", 0), ("3", 1)] {
        admin.run("BEGIN; SET LOCAL own.rows = 3");
        admin.run(&query.replace("SELECT v", "DECLARE k CURSOR FOR SELECT v"));
        admin.run(&format!("FETCH 1 FROM k; SET LOCAL own.rows = {meanwhile}; MOVE ABSOLUTE 0 FROM k"));
        admin.run("SET LOCAL own.rows = 3; FETCH ALL FROM k; COMMIT");
        assert_eq!(admin.stat("inserts"), inserts, "it went back under {meanwhile}");
    }
    admin.run("SET own.rows = 3");
    assert_eq!(admin.all::<i32>(query).len(), 3);
    assert_eq!(hits(&mut admin), 1);
}

#[test]
fn a_result_that_loads_the_library_of_a_named_setting_is_not_stored() {
    let world = world();
    let mut admin = world.backend();
    admin.run(
        "CREATE TABLE t AS SELECT 1 AS v;
         CREATE FUNCTION twice(v int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN 2 * v; END'",
    );
    name(&mut admin, "{plpgsql.variable_conflict}");
    // The function is of a library that a session loads with the first row.
    for statement in [
        "SELECT shared_lru.fetch('c', 'SELECT sum(twice(v)) FROM t', NULL::bigint)",
        "/* shared_lru: c */ SELECT sum(twice(v)) FROM t",
    ] {
        let before = admin.stat("inserts");
        let (mut backend, mut other) = (world.backend(), world.backend());
        for session in [&mut backend, &mut other] {
            // What the library does with this depends on who has said it.
            session.run("SET plpgsql.variable_conflict = 'use_column'");
            assert_eq!(session.one::<i64>(statement), 2);
            assert_eq!(admin.stat("inserts"), before, "{statement}");
        }
        assert_eq!(ask(&mut backend, &mut admin, statement), (2, false), "{statement}");
        assert_eq!(ask(&mut other, &mut admin, statement), (2, true), "{statement}");
    }
}
