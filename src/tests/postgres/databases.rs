//! A cache goes with its database, when that is gone and not before.

use crate::world::World;

const OID: u32 = 70_000;

fn make_database(world: &World, name: &str) {
    world.backend().run(&format!("CREATE DATABASE {name} OID {OID}"));
    world.backend_in(name).run("CREATE EXTENSION pg_shared_lru");
}

/// Caches of the server, whatever database they are of.
fn caches(world: &World) -> i64 {
    world.backend().one("SELECT count(*) FROM shared_lru.caches")
}

#[test]
fn a_dropped_database_takes_its_caches_along_at_once() {
    let world = World::new();
    world.backend().run("SELECT shared_lru.create_cache('stays', 1048576)");
    for force in ["", " WITH (FORCE)"] {
        make_database(&world, "doomed");
        let mut doomed = world.backend_in("doomed");
        doomed.run("SELECT shared_lru.create_cache('a', 1048576), shared_lru.create_cache('b', 1048576)");
        doomed.run("SELECT shared_lru.put('a', 'k', 'v')");
        assert_eq!(caches(&world), 3);
        if force.is_empty() {
            drop(doomed);
        }
        // A backend that has just closed its connection may still be on its way out.
        crate::world::wait_until("the database is dropped", || {
            world.backend().client.batch_execute(&format!("DROP DATABASE doomed{force}")).is_ok()
        });
        assert_eq!(caches(&world), 1, "caches outlive their database");
    }
    assert_eq!(world.backend().one::<String>("SELECT cache FROM shared_lru.caches"), "stays");
}

#[test]
fn a_new_database_with_the_oid_of_an_old_one_finds_no_cache() {
    let world = World::new();
    make_database(&world, "old");
    world.backend_in("old").run("SELECT shared_lru.create_cache('c', 1048576), shared_lru.put('c', 'k', 'secret')");
    crate::world::wait_until("the database is dropped", || {
        world.backend().client.batch_execute("DROP DATABASE old").is_ok()
    });
    make_database(&world, "new");
    let mut backend = world.backend_in("new");
    backend.refused("SELECT shared_lru.get('c', 'k')").is("42704", &["\"c\""]);
    assert_eq!(backend.one::<i64>("SELECT count(*) FROM shared_lru.stats"), 0);
    backend.run("SELECT shared_lru.create_cache('c', 1048576)");
    assert_eq!(backend.get(b"k"), None);
}

#[test]
fn a_drop_that_fails_or_has_another_object_leaves_the_caches() {
    let world = World::new();
    make_database(&world, "kept");
    let mut user = world.backend_in("kept");
    user.run("SELECT shared_lru.create_cache('c', 1048576)");
    user.put(b"k", b"v");
    // PostgreSQL has announced the drop before it finds that the database is in use.
    world.backend().refused("DROP DATABASE kept").is("55006", &["kept"]);
    // A later transaction of the same session must not drop it, either; nor may other objects of the same OID.
    let mut owner = world.backend();
    owner.refused("DROP DATABASE kept").is("55006", &[]);
    for statement in ["CREATE TABLE t ()", "DROP TABLE t", "CREATE DATABASE other", "DROP DATABASE other"] {
        owner.run(statement);
    }
    assert_eq!(user.get(b"k").as_deref(), Some(&b"v"[..]));
    user.validate();
}
