//! A cache is what its definition says: it comes and goes with the transaction, is there after a restart, follows every
//! change while it is in use, and belongs to roles.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::cluster::StopMode;
use crate::world::{Backend, World, wait_until};

fn exists(backend: &mut Backend, name: &str) -> bool {
    backend.call("SELECT count(*) = 1 FROM shared_lru.caches WHERE cache = $1", &[&name])
}

fn in_memory(backend: &mut Backend) -> i64 {
    backend.one("SELECT count(*) FROM shared_lru.caches WHERE in_memory")
}

#[test]
fn a_name_is_enough() {
    let world = World::new();
    let mut backend = world.backend();
    assert!(backend.one::<bool>("SELECT shared_lru.create_cache('c')"));
    assert!(!backend.one::<bool>("SELECT shared_lru.create_cache('c', if_not_exists => true)"));
    backend.refused("SELECT shared_lru.create_cache('c')").is("42710", &["\"c\""]);
    assert!(backend.put(b"k", b"v"));
    // An eighth of pg_shared_lru.memory.
    assert_eq!(backend.one::<i64>("SELECT bytes FROM shared_lru.caches"), 8 << 20);
}

#[test]
fn a_cache_comes_and_goes_with_the_transaction() {
    let world = World::new();
    let (mut backend, mut other) = (world.backend(), world.backend());
    backend.run("BEGIN; SELECT shared_lru.create_cache('c'); SELECT shared_lru.put('c', 'k', 'v')");
    assert_eq!(backend.get(b"k").as_deref(), Some(&b"v"[..]));
    other.refused("SELECT shared_lru.get('c', 'k')").is("42704", &["\"c\""]);
    backend.run("ROLLBACK");
    assert_eq!(in_memory(&mut backend), 0, "memory of a cache that never was");
    backend.refused("SELECT shared_lru.get('c', 'k')").is("42704", &["\"c\""]);

    backend.run("BEGIN; SAVEPOINT s; SELECT shared_lru.create_cache('c'); ROLLBACK TO s; COMMIT");
    assert_eq!(in_memory(&mut backend), 0, "memory of a cache that a savepoint took back");

    backend.run("SELECT shared_lru.create_cache('c'); SELECT shared_lru.put('c', 'k', 'v')");
    backend.run("BEGIN; SELECT shared_lru.drop_cache('c')");
    backend.refused("SELECT shared_lru.get('c', 'k')").is("42704", &["\"c\""]);
    assert_eq!(other.get(b"k").as_deref(), Some(&b"v"[..]), "it is there for others until the commit");
    backend.run("ROLLBACK");
    assert_eq!(backend.get(b"k").as_deref(), Some(&b"v"[..]));
    backend.run("BEGIN; SAVEPOINT s; SELECT shared_lru.drop_cache('c'); ROLLBACK TO s; COMMIT");
    assert_eq!(other.get(b"k").as_deref(), Some(&b"v"[..]));
    backend.run("SELECT shared_lru.drop_cache('c')");
    other.refused("SELECT shared_lru.get('c', 'k')").is("42704", &["\"c\""]);
    assert_eq!(in_memory(&mut backend), 0);
}

#[test]
fn prepared_transactions_create_and_drop_whoever_ends_them() {
    let world = World::with(&[("max_prepared_transactions", "4")]);
    let (mut backend, mut other) = (world.backend(), world.backend());
    backend.run("BEGIN; SELECT shared_lru.create_cache('c'); PREPARE TRANSACTION 'create'");
    backend.refused("SELECT shared_lru.get('c', 'k')").is("42704", &[]);
    other.run("COMMIT PREPARED 'create'");
    assert!(backend.put(b"k", b"v"));
    backend.run("BEGIN; SELECT shared_lru.drop_cache('c'); PREPARE TRANSACTION 'drop'");
    other.run("COMMIT PREPARED 'drop'");
    for backend in [&mut backend, &mut other] {
        backend.refused("SELECT shared_lru.get('c', 'k')").is("42704", &["\"c\""]);
    }
    // What no transaction was there to free goes with the next creation.
    backend.run("BEGIN; SELECT shared_lru.create_cache('d'); PREPARE TRANSACTION 'rolled back'");
    other.run("ROLLBACK PREPARED 'rolled back'");
    other.run("SELECT shared_lru.create_cache('e')");
    assert_eq!(in_memory(&mut backend), 1);
}

#[test]
fn after_a_restart_and_a_crash_the_cache_is_there_and_empty() {
    let world = World::with(&[("fsync", "on")]);
    world.backend().run("SELECT shared_lru.create_cache('c', 4194304, policy => 'lru', buckets => 4096)");
    for mode in [StopMode::Fast, StopMode::Immediate] {
        world.backend().put(b"k", b"v");
        world.cluster.restart(mode).expect("the server restarts");
        let mut backend = world.backend();
        assert!(exists(&mut backend, "c") && in_memory(&mut backend) == 0, "{mode:?}");
        let buckets: Option<i64> = backend.one("SELECT buckets FROM shared_lru.caches");
        assert_eq!(buckets, Some(4096), "{mode:?}: the definition says so");
        assert_eq!(backend.get(b"k"), None, "{mode:?}");
        assert!(backend.put(b"k", b"v"));
        let (bytes, policy) = ("SELECT bytes FROM shared_lru.caches", "SELECT policy FROM shared_lru.caches");
        assert_eq!((backend.one::<i64>(bytes), backend.one::<String>(policy)), (4 << 20, "lru".to_owned()));
    }
}

#[test]
fn of_many_who_come_first_after_a_restart_one_makes_the_memory() {
    let world = World::new();
    world.backend().run("SELECT shared_lru.create_cache('c')");
    world.cluster.restart(StopMode::Fast).expect("the server restarts");
    let mut backends: Vec<Backend> = (0..8).map(|_| world.backend()).collect();
    thread::scope(|scope| {
        for (number, backend) in backends.iter_mut().enumerate() {
            scope.spawn(move || assert!(backend.put(&[number as u8], b"v")));
        }
    });
    let mut backend = world.backend();
    assert_eq!((in_memory(&mut backend), backend.stat("entries")), (1, 8));
}

#[test]
fn memory_made_by_who_rolls_back_stays_if_the_cache_was_there() {
    let world = World::new();
    world.backend().run("SELECT shared_lru.create_cache('c')");
    world.cluster.restart(StopMode::Fast).expect("the server restarts");
    let (mut backend, mut other) = (world.backend(), world.backend());
    backend.run("BEGIN; SELECT shared_lru.get('c', 'k')");
    assert!(other.put(b"k", b"v"));
    backend.run("ROLLBACK");
    assert_eq!(other.get(b"k").as_deref(), Some(&b"v"[..]), "what others have put");
}

#[test]
fn a_cache_follows_its_definition_while_it_is_in_use() {
    let world = World::with(&[("pg_shared_lru.memory", "64MB")]);
    world.backend().run("SELECT shared_lru.create_cache('c', 8388608)");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let users: Vec<_> = (0..3u8)
            .map(|user| {
                let (mut backend, done) = (world.backend(), &done);
                scope.spawn(move || {
                    // Each knows what it has put last: what it gets is that, or nothing.
                    let mut last = vec![0_u32; 500];
                    for round in 1_u32.. {
                        if done.load(Ordering::Relaxed) {
                            return round;
                        }
                        let key = round as usize % last.len();
                        let name = [&[user], &(key as u32).to_be_bytes()[..]].concat();
                        if round % 3 == 0 {
                            let value = [&round.to_be_bytes()[..], &[user; 1000]].concat();
                            backend.put(&name, &value);
                            last[key] = round;
                        } else if let Some(value) = backend.get(&name) {
                            assert_eq!(value[..4], last[key].to_be_bytes(), "a value that was replaced");
                            assert!(value[4..].iter().all(|&byte| byte == user) && value.len() == 1004);
                        }
                    }
                    unreachable!("rounds do not end")
                })
            })
            .collect();
        let mut admin = world.backend();
        for (step, change) in [
            "bytes => 16777216",
            "bytes => 2097152",
            "policy => 'lru'",
            "partitions => 4",
            "policy => 's3-fifo'",
            "bytes => 4194304, partitions => 1",
            "reset => '{partitions}'",
            "bytes => 25165824, policy => 'clock'",
        ]
        .into_iter()
        .cycle()
        .take(24)
        .enumerate()
        {
            admin.run(&format!("SELECT shared_lru.alter_cache('c', {change})"));
            admin.get(b"whoever comes makes it anew");
            if step % 5 == 0 {
                admin.run("SELECT shared_lru.create_cache('hole', 1048576); SELECT shared_lru.drop_cache('hole')");
                admin.run("SELECT shared_lru.defragment()");
            }
        }
        done.store(true, Ordering::Relaxed);
        for user in users {
            assert!(user.join().expect("no call failed") > 10);
        }
        admin.validate();
        assert_eq!(admin.one::<i64>("SELECT bytes FROM shared_lru.caches"), 24 << 20);
        assert_eq!(admin.one::<String>("SELECT policy FROM shared_lru.caches"), "clock");
    });
    assert!(!world.cluster.log().contains("stays as it was made"), "{}", world.cluster.log());
}

#[test]
fn what_was_used_last_is_there_after_a_change_of_size() {
    let world = World::with_cache(8);
    let mut backend = world.backend();
    let value = vec![7_u8; 1000];
    for number in 0..4000_u32 {
        backend.put(&number.to_be_bytes(), &value);
    }
    backend.run("SELECT shared_lru.alter_cache('c', bytes => 20971520)");
    assert!((0..4000_u32).all(|number| backend.get(&number.to_be_bytes()).as_deref() == Some(&value[..])));
    backend.run("SELECT shared_lru.alter_cache('c', bytes => 1048576)");
    let there: Vec<u32> = (0..4000).filter(|number| backend.get(&u32::to_be_bytes(*number)).is_some()).collect();
    assert!(there.len() > 600, "{} are there", there.len());
    assert_eq!(there[0] as usize, 4000 - there.len(), "those that are there were not the last");
    backend.validate();
}

#[test]
fn an_alteration_that_is_rolled_back_or_impossible_changes_nothing() {
    let world = World::with_cache(4);
    let mut backend = world.backend();
    backend.put(b"k", b"v");
    backend.run("BEGIN; SELECT shared_lru.alter_cache('c', bytes => 8388608)");
    assert_eq!(backend.get(b"k").as_deref(), Some(&b"v"[..]));
    assert_eq!(world.backend().get(b"k").as_deref(), Some(&b"v"[..]), "others go on meanwhile");
    backend.run("ROLLBACK");
    assert_eq!(backend.get(b"k").as_deref(), Some(&b"v"[..]));
    for (change, code, part) in [
        ("bytes => 1000", "22023", "1000"),
        ("bytes => 1073741824", "53200", "bytes are free"),
        ("policy => 'fifo'", "22023", "fifo"),
        ("reset => '{colour}'", "22023", "\"colour\""),
        ("partitions => 3", "22023", "3"),
        ("reset => '{bytes}'", "22023", "either bytes"),
    ] {
        backend.refused(&format!("SELECT shared_lru.alter_cache('c', {change})")).is(code, &[part]);
    }
    backend.refused("ALTER FOREIGN TABLE shared_lru_caches.c OPTIONS (SET bytes 'many')").is("22023", &["many"]);
    backend.refused("ALTER SERVER shared_lru OPTIONS (ADD bytes '1')").is("22023", &["\"bytes\""]);
    assert_eq!(backend.one::<i64>("SELECT bytes FROM shared_lru.caches"), 4 << 20);
    // Entries instead of bytes, and back.
    backend.run("SELECT shared_lru.alter_cache('c', max_entries => 100, max_entry_bytes => 1000)");
    assert_eq!(backend.get(b"k").as_deref(), Some(&b"v"[..]));
    assert_eq!(backend.one::<i64>("SELECT max_entries FROM shared_lru.caches"), 100);
    backend.run("SELECT shared_lru.alter_cache('c', bytes => 4194304)");
    assert_eq!(backend.get(b"k").as_deref(), Some(&b"v"[..]));
}

#[test]
fn room_in_pieces_is_made_one() {
    let world = World::with(&[("pg_shared_lru.memory", "16MB")]);
    let mut backend = world.backend();
    for name in ["a", "b", "c", "d"] {
        backend.run(&format!("SELECT shared_lru.create_cache('{name}', 4194304)"));
        backend.run(&format!("SELECT shared_lru.put('{name}', 'k', 'of {name}')"));
    }
    backend.run("SELECT shared_lru.drop_cache('a'), shared_lru.drop_cache('c')");
    backend.run("SELECT shared_lru.create_cache('large', 8388608)");
    for name in ["b", "d"] {
        let value: Vec<u8> = backend.one(&format!("SELECT shared_lru.get('{name}', 'k')"));
        assert_eq!(value, format!("of {name}").as_bytes());
        backend.run(&format!("SELECT shared_lru.validate('{name}')"));
    }
    backend.refused("SELECT shared_lru.create_cache('more', 1048576)").is("53200", &["1048576", "0 bytes are free"]);
}

#[test]
fn a_cache_may_be_renamed_and_is_the_same_for_everybody() {
    let world = World::with_cache(4);
    let (mut backend, mut other) = (world.backend(), world.backend());
    other.put(b"k", b"v");
    backend.run("SELECT shared_lru.create_cache('taken', 1048576)");
    backend.refused("SELECT shared_lru.rename_cache('c', 'taken')").is("42710", &["\"taken\""]);
    backend.refused("SELECT shared_lru.rename_cache('none', 'd')").is("42704", &["\"none\""]);
    backend.run("SELECT shared_lru.rename_cache('c', 'Ein \"Name\"')");
    let value: Option<Vec<u8>> = other.one("SELECT shared_lru.get('Ein \"Name\"', 'k')");
    assert_eq!(value.as_deref(), Some(&b"v"[..]));
    other.refused("SELECT shared_lru.get('c', 'k')").is("42704", &["\"c\""]);
    assert!(exists(&mut backend, "Ein \"Name\""));
}

#[test]
fn roles_may_do_what_was_granted_and_no_more() {
    let world = World::with_cache(4);
    let mut admin = world.backend();
    admin.put(b"k", b"v");
    admin.run(
        "CREATE ROLE reader LOGIN; CREATE ROLE writer LOGIN; CREATE ROLE maker LOGIN; CREATE ROLE team; CREATE ROLE member LOGIN;
         GRANT USAGE ON SCHEMA shared_lru TO PUBLIC;
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA shared_lru TO PUBLIC;
         SELECT shared_lru.grant_cache('c', 'reader', 'read'); SELECT shared_lru.grant_cache('c', 'writer', 'write')",
    );
    let (get, put) = ("SELECT shared_lru.get('c', 'k')", "SELECT shared_lru.put('c', 'k', 'v')");
    let drop_it = "SELECT shared_lru.drop_cache('c')";
    let mut reader = world.backend_as("reader");
    reader.run(get);
    reader.refused(put).is("42501", &["\"c\"", "write"]);
    reader.refused(drop_it).is("42501", &["\"c\""]);
    let mut writer = world.backend_as("writer");
    writer.run(put);
    writer.refused(get).is("42501", &["\"c\"", "read"]);
    writer.refused("SELECT * FROM shared_lru.drain('c')").is("42501", &[]);
    for change in ["alter_cache('c', policy => 'lru')", "rename_cache('c', 'd')", "grant_cache('c', 'writer', 'own')"] {
        writer.refused(&format!("SELECT shared_lru.{change}")).is("42501", &["\"c\""]);
    }
    // Through a role, at once when it comes and at once when it goes.
    let mut member = world.backend_as("member");
    member.refused(get).is("42501", &[]);
    admin.run("SELECT shared_lru.grant_cache('c', 'team', 'read')");
    member.refused(get).is("42501", &[]);
    admin.run("GRANT team TO member");
    member.run(get);
    admin.run("REVOKE team FROM member");
    member.refused(get).is("42501", &[]);
    admin.run("GRANT team TO member");
    member.run(get);
    admin.run("SELECT shared_lru.revoke_cache('c', 'team', 'read')");
    member.refused(get).is("42501", &[]);
    admin.run("SELECT shared_lru.grant_cache('c', 'public', 'read')");
    member.run(get);
    admin.refused("SELECT shared_lru.grant_cache('c', 'reader', 'admire')").is("22023", &["admire"]);
    admin.refused("SELECT shared_lru.grant_cache('c', 'nobody', 'read')").is("42704", &["nobody"]);

    // Whoever creates a cache owns it, without any privilege on schema or server.
    let mut maker = world.backend_as("maker");
    maker.run("SELECT shared_lru.create_cache('mine', 1048576); SELECT shared_lru.put('mine', 'k', 'v')");
    maker.run(
        "SELECT shared_lru.alter_cache('mine', policy => 'lru'); SELECT shared_lru.rename_cache('mine', 'my own')",
    );
    reader.refused("SELECT shared_lru.get('my own', 'k')").is("42501", &["\"my own\""]);
    maker.run("SELECT shared_lru.grant_cache('my own', 'reader', 'own')");
    reader.run("SELECT shared_lru.get('my own', 'k')");
    assert_eq!(admin.one::<String>("SELECT owner::text FROM shared_lru.caches WHERE cache = 'my own'"), "maker");
    // PostgreSQL's own statements know the cache.
    admin.run("REASSIGN OWNED BY maker TO writer");
    writer.run("SELECT shared_lru.get('my own', 'k')");
    admin.run("DROP OWNED BY writer");
    assert!(!exists(&mut admin, "my own"));
    assert_eq!(in_memory(&mut admin), 1);
}

#[test]
fn caches_go_with_their_owner_or_to_another_as_tables_do() {
    let world = World::with_cache(4);
    let mut admin = world.backend();
    admin.put(b"k", b"of c");
    admin.run(
        "CREATE ROLE leaver LOGIN; CREATE ROLE heir LOGIN; GRANT USAGE ON SCHEMA shared_lru TO PUBLIC;
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA shared_lru TO PUBLIC;
         SELECT shared_lru.grant_cache('c', 'leaver', 'read')",
    );
    admin.run("CREATE DATABASE other");
    let mut there = world.backend_in("other");
    there.run(
        "CREATE EXTENSION pg_shared_lru; SELECT shared_lru.create_cache('there', 1048576);
         ALTER FOREIGN TABLE shared_lru_caches.there OWNER TO leaver; SELECT shared_lru.put('there', 'k', 'v')",
    );
    let mut leaver = world.backend_as("leaver");
    leaver.run(
        "SELECT shared_lru.create_cache('mine', 1048576), shared_lru.put('mine', 'k', 'v'), shared_lru.get('c', 'k');
         SELECT shared_lru.create_cache('second', 1048576), shared_lru.put('second', 'k', 'v')",
    );
    let value = |backend: &mut Backend, cache: &str| -> Option<Vec<u8>> {
        backend.call("SELECT shared_lru.get($1, 'k')", &[&cache])
    };
    let drop_role = "DROP ROLE leaver";
    admin.refused(drop_role).is("2BP01", &["leaver"]);

    // What is reassigned is the new owner's, with all that is in it, once that is committed.
    let mut heir = world.backend_as("heir");
    admin.run("BEGIN; REASSIGN OWNED BY leaver TO heir");
    heir.refused("SELECT shared_lru.get('mine', 'k')").is("42501", &["\"mine\""]);
    assert!(value(&mut leaver, "mine").is_some());
    admin.run("ROLLBACK");
    heir.refused("SELECT shared_lru.get('mine', 'k')").is("42501", &["\"mine\""]);
    admin.run("REASSIGN OWNED BY leaver TO heir");
    for cache in ["mine", "second"] {
        assert_eq!(value(&mut heir, cache).as_deref(), Some(&b"v"[..]));
        leaver.refused(&format!("SELECT shared_lru.get('{cache}', 'k')")).is("42501", &[cache]);
    }
    heir.run("SELECT shared_lru.drop_cache('second')");
    // What it may do with others' caches goes with DROP OWNED, and at once.
    assert!(value(&mut leaver, "c").is_some());
    admin.refused(drop_role).is("2BP01", &["leaver"]);
    admin.run("DROP OWNED BY leaver");
    leaver.refused("SELECT shared_lru.get('c', 'k')").is("42501", &["\"c\""]);
    // Another database knows nothing of it.
    admin.refused(drop_role).is("2BP01", &["leaver"]);
    assert!(value(&mut there, "there").is_some());
    there.run("DROP OWNED BY leaver");
    there.refused("SELECT shared_lru.get('there', 'k')").is("42704", &["\"there\""]);

    // What is dropped is there until the commit, and its memory is free after it.
    assert_eq!(in_memory(&mut admin), 2);
    admin.run("BEGIN; DROP OWNED BY heir");
    admin.refused("SELECT shared_lru.get('mine', 'k')").is("42704", &["\"mine\""]);
    assert!(value(&mut heir, "mine").is_some());
    admin.run("ROLLBACK");
    assert!(value(&mut heir, "mine").is_some());
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        // Beside somebody who uses it all the time.
        let using = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                match heir.client.batch_execute("SELECT shared_lru.put('mine', 'k', 'v'), shared_lru.get('mine', 'k')")
                {
                    Ok(()) => {}
                    Err(error) => return error.code().map(|code| code.code().to_owned()),
                }
            }
            None
        });
        admin.run("DROP OWNED BY heir");
        wait_until("its user learns of it", || using.is_finished());
        done.store(true, Ordering::Relaxed);
        assert_eq!(using.join().expect("no panic").as_deref(), Some("42704"));
    });
    assert_eq!((in_memory(&mut admin), admin.get(b"k").as_deref()), (1, Some(&b"of c"[..])));
    drop((leaver, heir));
    admin.run("DROP ROLE leaver; DROP ROLE heir");
}

#[test]
fn a_role_that_a_function_takes_on_is_the_one_that_counts() {
    let world = World::with_cache(4);
    let mut admin = world.backend();
    admin.put(b"k", b"v");
    admin.run(
        "CREATE ROLE app LOGIN; GRANT USAGE ON SCHEMA shared_lru TO PUBLIC;
         GRANT EXECUTE ON FUNCTION shared_lru.get(text, bytea) TO PUBLIC;
         CREATE FUNCTION on_behalf() RETURNS bytea SECURITY DEFINER SET search_path = pg_catalog
         LANGUAGE sql AS $$ SELECT shared_lru.get('c', 'k') $$",
    );
    let mut app = world.backend_as("app");
    for _ in 0..3 {
        assert_eq!(app.one::<Vec<u8>>("SELECT on_behalf()"), b"v");
        app.refused("SELECT shared_lru.get('c', 'k')").is("42501", &["\"c\""]);
    }
}

#[test]
fn a_dump_carries_definitions_owners_and_privileges() {
    let world = World::with_cache(4);
    let mut backend = world.backend();
    backend.run(
        "CREATE ROLE app; CREATE ROLE reader;
         SELECT shared_lru.create_cache('second', max_entries => 100, max_entry_bytes => 200, policy => 's3-fifo');
         ALTER FOREIGN TABLE shared_lru_caches.second OWNER TO app;
         SELECT shared_lru.grant_cache('second', 'reader', 'read')",
    );
    for format in ["plain", "custom"] {
        crate::releases::dump_and_restore(&world, format);
        let mut restored = world.backend_in("restored");
        assert!(restored.one::<bool>("SELECT shared_lru.put('second', 'k', 'v') AND shared_lru.put('c', 'k', 'v')"));
        let query = "SELECT concat_ws(' ', policy, max_entries, owner) FROM shared_lru.caches WHERE cache = 'second' AND database = 'restored'";
        assert_eq!(restored.one::<String>(query), "s3-fifo 100 app");
        let may = "SELECT has_table_privilege('reader', 'shared_lru_caches.second', 'SELECT')";
        assert!(restored.one::<bool>(may), "{format}: a privilege was lost");
    }
}

#[test]
fn a_foreign_table_elsewhere_and_a_table_in_the_schema_are_no_caches() {
    let world = World::with_cache(4);
    let mut backend = world.backend();
    backend.run("CREATE FOREIGN TABLE public.c2 () SERVER shared_lru OPTIONS (bytes '1048576')");
    backend.run("CREATE TABLE shared_lru_caches.t (); CREATE VIEW shared_lru_caches.v AS SELECT 1");
    for name in ["c2", "t", "v"] {
        backend.refused(&format!("SELECT shared_lru.get('{name}', 'k')")).is("42704", &[name]);
        assert!(!exists(&mut backend, name));
    }
    // What is made by hand is as good as what is made by the function.
    backend.run("CREATE FOREIGN TABLE shared_lru_caches.by_hand () SERVER shared_lru OPTIONS (bytes '1048576')");
    assert!(backend.one::<bool>("SELECT shared_lru.put('by_hand', 'k', 'v')"));
    backend.run("DROP FOREIGN TABLE shared_lru_caches.by_hand");
    wait_until("its memory is free", || in_memory(&mut backend) == 1);
    backend.refused("SELECT * FROM shared_lru_caches.c").is("55000", &["handler"]);
}

#[test]
fn a_standby_makes_its_own_memory_and_follows_the_definitions() {
    let world = World::with(&[("wal_level", "replica"), ("max_wal_senders", "4")]);
    let mut primary = world.backend();
    primary.run("SELECT shared_lru.create_cache('c', 4194304); SELECT shared_lru.put('c', 'k', 'of the primary')");
    let standby = world.cluster.standby().expect("a standby starts");
    let mut reader = Backend { client: standby.connect("postgres").expect("the standby accepts a connection") };
    wait_until("the definition is there", || exists(&mut reader, "c"));
    assert_eq!(reader.get(b"k"), None, "memory is each server's own");
    assert!(reader.put(b"k", b"of the standby"));
    reader.refused("SELECT shared_lru.create_cache('d')").is("25006", &["create_cache"]);
    primary.run("SELECT shared_lru.alter_cache('c', bytes => 8388608)");
    wait_until("the standby follows", || {
        assert_eq!(reader.get(b"k").as_deref(), Some(&b"of the standby"[..]));
        reader.one::<i64>("SELECT bytes FROM shared_lru.caches") == 8 << 20
    });
    primary.run("SELECT shared_lru.drop_cache('c'); SELECT shared_lru.create_cache('d', 1048576)");
    wait_until("the drop arrives", || exists(&mut reader, "d"));
    reader.refused("SELECT shared_lru.get('c', 'k')").is("42704", &["\"c\""]);
    standby.promote().expect("the standby is promoted");
    assert!(reader.one::<bool>("SELECT shared_lru.put('d', 'k', 'v')"));
    reader.run("SELECT shared_lru.create_cache('e', 1048576)");
    assert_eq!(in_memory(&mut reader), 2, "what was dropped while it was a standby is freed");
}

/// A definition is made, changed and dropped as the installing superuser, and a trigger on that runs as that role. It must not
/// find what the caller has put where an unqualified name is looked for.
#[test]
fn a_trigger_on_definitions_does_not_look_where_the_caller_says() {
    let world = World::new();
    let mut admin = world.backend();
    admin.run(
        "CREATE TABLE log (line text); GRANT INSERT ON log TO PUBLIC;
         CREATE FUNCTION note() RETURNS event_trigger LANGUAGE plpgsql AS $$
             BEGIN
                 EXECUTE 'INSERT INTO log VALUES (' || quote_literal(tg_tag) || ')';
             EXCEPTION WHEN undefined_table THEN
                 NULL;
             END
         $$;
         CREATE EVENT TRIGGER noter ON ddl_command_end EXECUTE FUNCTION note();
         CREATE ROLE mallory LOGIN;
         CREATE SCHEMA evil AUTHORIZATION mallory;
         GRANT USAGE ON SCHEMA shared_lru TO mallory;
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA shared_lru TO mallory;
         DELETE FROM log",
    );
    let mut mallory = world.backend_as("mallory");
    mallory.run(
        "CREATE TABLE evil.log (line text);
         CREATE TABLE evil.who (role name);
         CREATE FUNCTION evil.seize() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN INSERT INTO evil.who VALUES (current_user); RETURN new; END $$;
         CREATE TRIGGER seize BEFORE INSERT ON evil.log FOR EACH ROW EXECUTE FUNCTION evil.seize();
         DELETE FROM evil.log; DELETE FROM evil.who;
         SET search_path = evil, public;
         SELECT shared_lru.create_cache('mine', 1048576);
         SELECT shared_lru.alter_cache('mine', policy => 'lru');
         SELECT shared_lru.grant_cache('mine', 'public', 'read');
         SELECT shared_lru.rename_cache('mine', 'yours');
         SELECT shared_lru.drop_cache('yours')",
    );
    assert_eq!(admin.all::<String>("SELECT role::text FROM evil.who"), Vec::<String>::new());
    // And the caller looks where it looked before.
    assert_eq!(mallory.one::<String>("SHOW search_path"), "evil, public");
}
