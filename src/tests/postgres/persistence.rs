//! What a cache with `persist` holds is there after a clean restart: all of it, in its order, and for as long as it would have
//! lived. After anything else it is empty, and a WARNING says why.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::thread;

use crate::cluster::{Cluster, StopMode};
use crate::world::{Backend, World, has_dsm_registry, wait_until};

const KEYS: &str = "SELECT string_agg(convert_from(key, 'UTF8'), ' ' ORDER BY age DESC) FROM shared_lru.entries('c')";

/// A world with a cache `c` that persists, and the keys `a` to `e` in it, of which `b` was used last.
fn world() -> World {
    world_with(&[])
}

fn world_with(settings: &[(&str, &str)]) -> World {
    let world = World::with(settings);
    create(&mut world.backend());
    world
}

fn create(backend: &mut Backend) {
    backend.run("SELECT shared_lru.create_cache('c', 4194304, policy => 'lru', partitions => 1, persist => true)");
    for key in [b"a", b"b", b"c", b"d", b"e"] {
        backend.put(key, key);
    }
    backend.get(b"b");
}

fn restart(world: &World) -> Backend {
    world.cluster.restart(StopMode::Fast).expect("the server restarts");
    world.backend()
}

/// The images that there are.
fn images(cluster: &Cluster) -> Vec<PathBuf> {
    let entries = fs::read_dir(cluster.data().join("pg_shared_lru")).into_iter().flatten();
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

fn image(cluster: &Cluster) -> PathBuf {
    let images = images(cluster);
    assert_eq!(images.len(), 1, "{images:?}");
    images[0].clone()
}

/// Cache `c` is empty, and a WARNING with this reason was logged for it.
#[track_caller]
fn is_empty_because(world: &World, reason: &str) {
    let before = world.cluster.log().matches("starts empty").count();
    let mut backend = world.backend();
    assert_eq!(backend.one::<Option<String>>(KEYS), None, "{reason}: it has entries");
    let log = world.cluster.log();
    let warnings: Vec<&str> = log.lines().filter(|line| line.contains("starts empty")).skip(before).collect();
    assert_eq!(warnings.len(), 1, "{reason}: {warnings:?}");
    assert!(warnings[0].contains("WARNING") && warnings[0].contains("\"c\""), "{warnings:?}");
    assert!(warnings[0].contains(reason), "{reason}: {warnings:?}");
    assert!(images(&world.cluster).is_empty(), "{reason}: what was refused is still there");
    assert!(backend.put(b"k", b"v"));
    backend.validate();
}

#[test]
fn a_clean_restart_keeps_everything_in_its_order() {
    let world = world();
    let mut backend = world.backend();
    backend.run(
        "SELECT shared_lru.put('c', 'short', '', '1 hour'), shared_lru.put('c', 'long', repeat('x', 200000)::bytea),
                shared_lru.put('c', 'over', '', '100 milliseconds')",
    );
    backend.run("SELECT shared_lru.create_cache('other', 1048576); SELECT shared_lru.put('other', 'k', 'v')");
    let expires = "SELECT expires FROM shared_lru.entries('c') WHERE key = 'short'";
    let ends: String = backend.one(&format!("SELECT ({expires})::text"));
    wait_until("an entry has expired", || !backend.one::<bool>("SELECT shared_lru.contains('c', 'over')"));
    for _ in 0..3 {
        let mut backend = restart(&world);
        assert_eq!(backend.one::<String>(KEYS), "a c d e b short long");
        assert_eq!(backend.get(b"long").map(|value| value.len()), Some(200_000));
        assert_eq!(backend.one::<Option<Vec<u8>>>("SELECT shared_lru.get('other', 'k')"), None, "it was not asked for");
        let earlier: f64 =
            backend.one(&format!("SELECT extract(epoch FROM '{ends}'::timestamptz - ({expires}))::float8"));
        assert!((0.0..0.4).contains(&earlier), "it expires {earlier} s sooner");
        let columns = "SELECT persist AND saved > now() - interval '1 hour' FROM shared_lru.caches WHERE cache = 'c'";
        assert!(backend.one::<bool>(columns));
        backend.validate();
    }
    let image = image(&world.cluster);
    assert_eq!(fs::read(&image).expect("an image")[56..72], [0; 16], "what was read once may be read again");
    let (file, folder) = (fs::metadata(&image).unwrap(), fs::metadata(image.parent().unwrap()).unwrap());
    assert_eq!((file.mode() & 0o777, folder.mode() & 0o777), (0o600, 0o700));
    assert!(!world.cluster.log().contains("starts empty"));
}

#[test]
fn a_smart_shutdown_keeps_what_a_fast_one_keeps() {
    let world = world();
    world.cluster.restart(StopMode::Smart).expect("the server restarts");
    assert_eq!(world.backend().one::<String>(KEYS), "a c d e b");
}

#[test]
fn after_a_crash_the_cache_is_empty_whatever_was_saved() {
    let world = world();
    let mut backend = world.backend();
    assert_eq!(backend.one::<i64>("SELECT shared_lru.save('c')"), 5);
    world.cluster.restart(StopMode::Immediate).expect("the server restarts");
    is_empty_because(&world, "not started from the clean shutdown");

    // An image that a clean shutdown has written, and that is read, is no longer one.
    assert_eq!(restart(&world).get(b"k").as_deref(), Some(&b"v"[..]));
    world.cluster.restart(StopMode::Immediate).expect("the server restarts");
    is_empty_because(&world, "not started from the clean shutdown");

    // One that nobody has read is none either: nobody knows what happened.
    restart(&world);
    world.cluster.restart(StopMode::Immediate).expect("the server restarts");
    is_empty_because(&world, "not started from the clean shutdown");

    // A backend that is killed takes all memory along.
    let mut backend = restart(&world);
    assert_eq!(backend.get(b"k").as_deref(), Some(&b"v"[..]));
    let pid = backend.pid();
    world.cluster.crash(pid).expect("the server restarts");
    is_empty_because(&world, "not started from the clean shutdown");

    // After that it goes on as if nothing had happened.
    assert_eq!(restart(&world).get(b"k").as_deref(), Some(&b"v"[..]));
}

#[test]
fn an_image_survives_restarts_in_which_nobody_uses_it_and_no_run_without_the_library() {
    let world = world();
    restart(&world);
    restart(&world).run("CREATE TABLE t ()");
    assert_eq!(restart(&world).one::<String>(KEYS), "a c d e b");
    world.cluster.configure(&[("shared_preload_libraries", "")]).expect("it can be written");
    restart(&world).run("CHECKPOINT");
    world.cluster.configure(&[("shared_preload_libraries", "pg_shared_lru")]).expect("it can be written");
    restart(&world);
    is_empty_because(&world, "not started from the clean shutdown");
}

#[test]
fn no_invalidation_passes_by_an_image_that_nobody_has_read() {
    let world = world();
    world.backend().run(
        "CREATE TABLE t (key text); INSERT INTO t VALUES ('a'), ('b');
         CREATE TRIGGER forget AFTER DELETE ON t FOR EACH ROW EXECUTE FUNCTION shared_lru.invalidate_trigger('c', 'key')",
    );
    restart(&world).run("DELETE FROM t WHERE key = 'a'");
    assert_eq!(world.backend().one::<String>(KEYS), "c d e b");
    restart(&world).run("SELECT shared_lru.invalidate('c', 'c')");
    assert_eq!(world.backend().one::<String>(KEYS), "d e b");
    restart(&world).run("SELECT shared_lru.remove('c', 'd')");
    // After a save, too.
    let mut backend = world.backend();
    assert_eq!(backend.one::<i64>("SELECT shared_lru.save('c')"), 2);
    backend.run("SELECT shared_lru.invalidate('c', 'e')");
    assert_eq!(restart(&world).one::<String>(KEYS), "b");
    restart(&world).run("SELECT shared_lru.invalidate_all('c')");
    assert_eq!(restart(&world).one::<Option<String>>(KEYS), None);
    assert!(!world.cluster.log().contains("starts empty"));
}

#[test]
fn a_cache_that_comes_back_smaller_does_not_bring_back_later_what_it_has_lost() {
    let world = world_with(&[("pg_shared_lru.memory", "64MB")]);
    let mut backend = world.backend();
    backend.run("SELECT shared_lru.alter_cache('c', bytes => 16777216)");
    backend.run("SELECT shared_lru.put('c', int4send(n), repeat('x', 1000)::bytea) FROM generate_series(1, 8000) AS n");
    assert_eq!(backend.stat("entries"), 8005);
    backend.run("BEGIN; SELECT shared_lru.alter_cache('c', bytes => 2097152)");
    backend.run("COMMIT");
    let mut backend = restart(&world);
    let youngest = "SELECT bool_and(shared_lru.contains('c', int4send(n))) FROM generate_series(7000, 8000) AS n";
    assert!(backend.one::<bool>(youngest), "those used last are lost");
    let entries = backend.stat("entries");
    assert!((1000..3000).contains(&entries), "{entries}");
    // It is invalidated, though it is not there: it must not come back with more memory.
    assert!(!backend.one::<bool>("SELECT shared_lru.contains('c', int4send(1))"));
    backend
        .run("SELECT shared_lru.invalidate('c', int4send(1)); SELECT shared_lru.alter_cache('c', bytes => 16777216)");
    let mut backend = restart(&world);
    assert!(!backend.one::<bool>("SELECT shared_lru.contains('c', int4send(1))"));
    assert!((1000..3000).contains(&backend.stat("entries")));
    backend.validate();
}

#[test]
fn a_transaction_that_comes_first_and_is_rolled_back_loses_nothing_and_restores_nothing_twice() {
    let world = world();
    let mut backend = restart(&world);
    backend.run("BEGIN; SELECT shared_lru.put('c', 'f', 'f'); SELECT shared_lru.remove('c', 'a'); ROLLBACK");
    assert_eq!(backend.one::<String>(KEYS), "c d e b f");
    assert_eq!(restart(&world).one::<String>(KEYS), "c d e b f");
}

#[test]
fn whatever_byte_is_changed_the_cache_is_empty_and_says_so() {
    let world = world();
    let mut reasons = Vec::new();
    for place in 0..7 {
        let mut backend = world.backend();
        backend.put(b"a", b"a");
        world.cluster.stop(StopMode::Fast).expect("the server stops");
        let image = image(&world.cluster);
        let mut bytes = fs::read(&image).expect("an image");
        match place {
            0..5 => {
                let at = (bytes.len() - 1) * place / 4;
                bytes[at] ^= 1;
            }
            5 => bytes.truncate(bytes.len() / 2),
            _ => bytes.push(0),
        }
        fs::write(&image, bytes).expect("it can be written");
        world.cluster.start_again().expect("the server starts");
        reasons.push(if place == 0 { "no image" } else { "damaged" });
        is_empty_because(&world, reasons[place]);
    }
}

#[test]
fn a_file_that_cannot_be_read_is_no_end_of_the_server() {
    let world = world();
    world.cluster.stop(StopMode::Fast).expect("the server stops");
    let image = image(&world.cluster);
    fs::remove_file(&image).expect("a file");
    fs::create_dir(&image).expect("a folder");
    world.cluster.start_again().expect("the server starts");
    let mut backend = world.backend();
    assert_eq!(backend.one::<Option<String>>(KEYS), None);
    assert!(world.cluster.log().contains("starts empty, its image is not restored"));
}

#[test]
fn the_image_of_another_cluster_and_of_another_cache_are_refused() {
    let (world, other) = (world(), world());
    for world in [&world, &other] {
        world.cluster.stop(StopMode::Fast).expect("the server stops");
    }
    let file = image(&world.cluster);
    assert_eq!(file.file_name(), image(&other.cluster).file_name(), "the test wants the same numbers");
    fs::write(&file, fs::read(image(&other.cluster)).expect("an image")).expect("it can be written");
    world.cluster.start_again().expect("the server starts");
    is_empty_because(&world, "system identifier");

    world
        .backend()
        .run("SELECT shared_lru.create_cache('d', 1048576, persist => true); SELECT shared_lru.put('d', 'd', 'd')");
    world.cluster.stop(StopMode::Fast).expect("the server stops");
    let files = images(&world.cluster);
    assert_eq!(files.len(), 2);
    for file in &files[1..] {
        fs::write(&files[0], fs::read(file).expect("an image")).expect("it can be written");
        fs::remove_file(file).expect("a file");
    }
    world.cluster.start_again().expect("the server starts");
    is_empty_because(&world, "of another cache");
}

#[test]
fn files_go_with_their_caches_and_follow_their_names() {
    let world = world();
    let mut backend = restart(&world);
    backend.run("SELECT shared_lru.rename_cache('c', 'renamed')");
    let mut backend = restart(&world);
    assert_eq!(backend.one::<Vec<u8>>("SELECT shared_lru.get('renamed', 'a')"), b"a");
    backend.run("SELECT shared_lru.rename_cache('renamed', 'c')");

    // Dropped without a use, and not before the commit.
    let mut backend = restart(&world);
    backend.run("BEGIN; SELECT shared_lru.drop_cache('c'); ROLLBACK");
    image(&world.cluster);
    backend.run("SELECT shared_lru.drop_cache('c')");
    assert!(images(&world.cluster).is_empty(), "a dropped cache leaves its contents");
    create(&mut backend);
    assert_eq!(restart(&world).one::<String>(KEYS), "a c d e b");
    world.backend().run("SELECT shared_lru.drop_cache('c')");
    assert!(images(&world.cluster).is_empty());

    // With the database.
    backend = world.backend();
    backend.run("CREATE DATABASE other");
    let mut other = world.backend_in("other");
    other.run("CREATE EXTENSION pg_shared_lru");
    create(&mut other);
    drop(other);
    backend = restart(&world);
    image(&world.cluster);
    backend.run("DROP DATABASE other");
    assert!(images(&world.cluster).is_empty(), "a dropped database leaves its contents");

    // With the option, and what a killed process has left.
    create(&mut backend);
    backend.run("SELECT shared_lru.save('c')");
    image(&world.cluster);
    backend.run("SELECT shared_lru.alter_cache('c', persist => false)");
    assert!(images(&world.cluster).is_empty());
    backend.refused("SELECT shared_lru.save('c')").is("55000", &["\"c\"", "persist"]);
    assert_eq!(restart(&world).one::<Option<String>>(KEYS), None);
    create_unfinished(&world.cluster);
    restart(&world);
    assert!(images(&world.cluster).is_empty(), "half an image stays for ever");

    // What nobody was there to see.
    let data = world.cluster.data().join("pg_shared_lru");
    for name in ["4000000000.0000400000004001", "5.ffff0000ffff0001"] {
        fs::write(data.join(name), "").expect("it can be written");
    }
    let database: u32 = world.backend().one("SELECT oid FROM pg_database WHERE datname = 'postgres'");
    fs::write(data.join(format!("{database}.ffff0000ffff0002")), "").expect("it can be written");
    world.backend().run("SELECT shared_lru.create_cache('any', 1048576)");
    assert!(images(&world.cluster).iter().all(|file| file.ends_with("5.ffff0000ffff0001") && database != 5));
}

fn create_unfinished(cluster: &Cluster) {
    fs::write(cluster.data().join("pg_shared_lru/5.0000400000004003.77.tmp"), "half").expect("it can be written");
}

#[test]
fn to_persist_may_be_altered_at_any_time_and_counts_from_the_commit_on() {
    let world = World::new();
    let mut backend = world.backend();
    backend.run("SELECT shared_lru.create_cache('c', 4194304, policy => 'lru', partitions => 1)");
    backend.put(b"a", b"a");
    let persist =
        |backend: &mut Backend| backend.one::<bool>("SELECT persist FROM shared_lru.caches WHERE cache = 'c'");
    backend.run("BEGIN; SELECT shared_lru.alter_cache('c', persist => true); ROLLBACK");
    backend.run("BEGIN; SAVEPOINT s; SELECT shared_lru.alter_cache('c', persist => true); ROLLBACK TO s; COMMIT");
    assert!(!persist(&mut backend));
    backend.run("SELECT shared_lru.alter_cache('c', persist => true)");
    assert!(persist(&mut backend));
    // Nobody has used it since.
    let mut backend = restart(&world);
    assert!(persist(&mut backend), "in the definition");
    assert_eq!(backend.one::<String>(KEYS), "a");
    backend.run("ALTER FOREIGN TABLE shared_lru_caches.c OPTIONS (SET persist 'off')");
    backend.get(b"a");
    assert!(!persist(&mut backend));
    assert_eq!(restart(&world).one::<Option<String>>(KEYS), None);
    world
        .backend()
        .refused("SELECT shared_lru.alter_cache('c', persist => NULL), shared_lru.save('c')")
        .is("55000", &[]);
    let wrong = "ALTER FOREIGN TABLE shared_lru_caches.c OPTIONS (SET persist 'perhaps')";
    world.backend().refused(wrong).is("22023", &["perhaps"]);
}

#[test]
fn only_the_owner_saves_and_everybody_goes_on_meanwhile() {
    let world = world_with(&[("pg_shared_lru.memory", "128MB")]);
    let mut backend = world.backend();
    backend.run(
        "SELECT shared_lru.alter_cache('c', bytes => 67108864);
         CREATE ROLE app LOGIN; GRANT USAGE ON SCHEMA shared_lru TO app; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA shared_lru TO app;
         SELECT shared_lru.grant_cache('c', 'app', 'read'), shared_lru.grant_cache('c', 'app', 'write')",
    );
    world.backend_as("app").refused("SELECT shared_lru.save('c')").is("42501", &["\"c\""]);
    backend
        .run("SELECT shared_lru.put('c', int4send(n), repeat('x', 1000)::bytea) FROM generate_series(1, 30000) AS n");
    thread::scope(|scope| {
        let writers: Vec<_> = (0..2)
            .map(|writer| {
                let mut backend = world.backend();
                scope.spawn(move || {
                    backend.run(&format!(
                        "SELECT shared_lru.put('c', int4send(n), 'w{writer}') FROM generate_series(1, 20000) AS n"
                    ));
                })
            })
            .collect();
        while writers.iter().any(|writer| !writer.is_finished()) {
            assert!(backend.one::<i64>("SELECT shared_lru.save('c')") >= 30_000);
        }
    });
    // What was written while others changed it is not taken for what is there.
    backend.run("SELECT shared_lru.save('c')");
    backend.run("SELECT shared_lru.put('c', int4send(7), 'last')");
    let mut backend = restart(&world);
    assert_eq!(backend.one::<Vec<u8>>("SELECT shared_lru.get('c', int4send(7))"), b"last");
    assert_eq!(backend.stat("entries"), 30_005);
    let left: i64 = backend.one(
        "SELECT count(*) FROM generate_series(1, 20000) AS n WHERE shared_lru.get('c', int4send(n)) NOT IN ('w0', 'w1', 'last')",
    );
    assert_eq!(left, 0);
    backend.validate();
}

#[test]
fn what_was_saved_and_not_changed_is_not_written_again() {
    let world = world();
    let mut backend = world.backend();
    backend.run("SELECT shared_lru.save('c')");
    let inode = |world: &World| fs::metadata(image(&world.cluster)).expect("a file").ino();
    let saved = inode(&world);
    backend.get(b"a");
    let mut backend = restart(&world);
    assert_eq!(inode(&world), saved);
    assert_eq!(backend.one::<String>(KEYS), "a c d e b");
    backend.get(b"c");
    assert_eq!(restart(&world).get(b"c").as_deref(), Some(&b"c"[..]));
    assert_eq!(inode(&world), saved, "it was read, and nothing changed");
    world.backend().put(b"f", b"f");
    let mut backend = restart(&world);
    assert_ne!(inode(&world), saved);
    assert_eq!(backend.one::<String>(KEYS), "a d e b c f");
}

#[test]
fn a_folder_that_cannot_be_written_to_is_an_error_and_at_the_shutdown_a_warning() {
    let world = world();
    let mut backend = world.backend();
    backend.run("SELECT shared_lru.create_cache('d', 1048576, persist => true); SELECT shared_lru.put('d', 'd', 'd')");
    backend.run("SELECT shared_lru.save('c')");
    let folder = world.cluster.data().join("pg_shared_lru");
    let owner = fs::metadata(&folder).expect("a folder");
    // Neither root's permissions nor the server's help where the folder is a file.
    let aside = world.cluster.data().join("aside");
    fs::rename(&folder, &aside).expect("it can be renamed");
    fs::write(&folder, "").expect("it can be written");
    backend.put(b"f", b"f");
    let refusal = backend.refused("SELECT shared_lru.save('c')");
    refusal.is("58030", &["\"c\"", "cannot be written"]);
    assert_eq!(backend.one::<String>(KEYS), "a c d e b f", "a save that fails costs entries");
    world.cluster.stop(StopMode::Fast).expect("the server stops");
    let log = world.cluster.log();
    for cache in ["c", "d"] {
        let warning = format!("WARNING:  cache \"{cache}\" will be empty after the restart");
        assert!(log.contains(&warning), "{warning}: {log}");
    }
    assert!(log.trim_end().ends_with("database system is shut down"), "the shutdown goes on");
    // The image of before is there, and is not taken for that of the shutdown.
    fs::remove_file(&folder).expect("a file");
    fs::rename(&aside, &folder).expect("it can be renamed");
    chown(&folder, Some(owner.uid()), Some(owner.gid())).expect("it can be given back");
    world.cluster.start_again().expect("the server starts");
    is_empty_because(&world, "not started from the clean shutdown");
}

/// What this process writes of the image from now on goes where no space is left. `image` is its name.
fn fill_disk_for(image: &Path, pid: &str) {
    let unfinished = format!("{}.{pid}.tmp", image.display());
    symlink("/dev/full", unfinished).expect("a link can be made");
}

#[test]
fn a_full_disk_costs_the_image_and_nothing_else() {
    let world = world();
    let mut backend = world.backend();
    backend.run("SELECT shared_lru.save('c')");
    let image = image(&world.cluster);
    let before = fs::read(&image).expect("an image");
    backend.put(b"f", b"f");
    fill_disk_for(&image, &backend.pid().to_string());
    backend.refused("SELECT shared_lru.save('c')").is("58030", &["\"c\"", "No space left"]);
    assert_eq!(fs::read(&image).expect("an image"), before, "the image of before is gone");
    assert_eq!(images(&world.cluster).len(), 1, "what was not finished stays");
    assert_eq!(backend.one::<String>(KEYS), "a c d e b f");
    assert_eq!(backend.one::<i64>("SELECT shared_lru.save('c')"), 6);

    backend.put(b"g", b"g");
    backend.run("SELECT shared_lru.create_cache('d', 1048576, persist => true); SELECT shared_lru.put('d', 'd', 'd')");
    let postmaster = fs::read_to_string(world.cluster.data().join("postmaster.pid")).expect("a running server");
    fill_disk_for(&image, postmaster.lines().next().expect("a number"));
    let mut backend = restart(&world);
    assert_eq!(backend.one::<Option<String>>(KEYS), None, "the image of before was taken for that of the shutdown");
    assert_eq!(backend.one::<Vec<u8>>("SELECT shared_lru.get('d', 'd')"), b"d", "one cache has spoilt the other");
    let warning = "WARNING:  cache \"c\" will be empty after the restart, its image cannot be written: No space left";
    assert!(world.cluster.log().contains(warning), "{}", world.cluster.log());
}

#[test]
fn a_save_that_is_cancelled_leaves_no_file_and_no_lock() {
    let world = world_with(&[("pg_shared_lru.memory", "256MB")]);
    let mut backend = world.backend();
    backend.run("SELECT shared_lru.alter_cache('c', bytes => 200000000)");
    backend
        .run("SELECT shared_lru.put('c', int4send(n), repeat('x', 100000)::bytea) FROM generate_series(1, 1500) AS n");
    backend.run("SELECT shared_lru.save('c'); SET statement_timeout = 1");
    backend.refused("SELECT shared_lru.save('c')").is("57014", &[]);
    image(&world.cluster);
    // A session that ends in the middle of it leaves nothing either.
    for pause_ms in [1, 5, 20] {
        let mut victim = world.backend();
        let pid = victim.pid();
        thread::scope(|scope| {
            scope.spawn(move || {
                _ = victim.client.batch_execute("SELECT shared_lru.save('c'); SELECT shared_lru.save('c')")
            });
            thread::sleep(std::time::Duration::from_millis(pause_ms));
            world.backend().run(&format!("SELECT pg_terminate_backend({pid}, 30000)"));
        });
        image(&world.cluster);
    }
    backend.run("SET statement_timeout = 0");
    backend.validate();

    // Nor does one that is cancelled while it restores: the next one does.
    let mut backend = restart(&world);
    backend.run("SET statement_timeout = 1");
    let refusal = backend.client.batch_execute("SELECT shared_lru.contains('c', 'a')");
    assert!(refusal.is_err(), "150 MB in a millisecond");
    let mut others: Vec<Backend> = (0..4).map(|_| world.backend()).collect();
    thread::scope(|scope| {
        for other in &mut others {
            scope.spawn(|| assert_eq!(other.get(b"a").as_deref(), Some(&b"a"[..])));
        }
    });
    let mut backend = world.backend();
    assert_eq!(backend.stat("entries"), 1505);
    assert_eq!(backend.stat("inserts"), 1505, "it was restored more than once");
    backend.validate();
}

#[test]
fn without_a_preload_nothing_is_kept_and_everybody_is_told() {
    if !has_dsm_registry() {
        return;
    }
    let cluster = Cluster::start(&[]).expect("a server starts");
    let world = World { cluster };
    let mut backend = world.backend();
    backend.run("CREATE EXTENSION pg_shared_lru");
    create(&mut backend);
    assert!(world.cluster.log().contains("WARNING:  cache \"c\" will not outlive a restart"));
    backend.refused("SELECT shared_lru.save('c')").is("55000", &["\"c\"", "not loaded at server start"]);
    assert_eq!(restart(&world).one::<Option<String>>(KEYS), None);
    assert!(images(&world.cluster).is_empty());
    // From the first run with a preload on it is kept.
    world.cluster.configure(&[("shared_preload_libraries", "pg_shared_lru")]).expect("it can be written");
    restart(&world).put(b"a", b"a");
    assert_eq!(restart(&world).one::<String>(KEYS), "a");
}

#[test]
fn a_standby_keeps_its_own_and_not_what_it_had_as_a_primary() {
    let world = world_with(&[("wal_level", "replica"), ("max_wal_senders", "4")]);
    restart(&world);
    let standby = world.cluster.standby().expect("a standby starts");
    let standby = World { cluster: standby };
    is_empty_because(&standby, "not started from the clean shutdown");
    standby.backend().run("SELECT shared_lru.clear('c')");
    standby.backend().put(b"of", b"the standby");
    assert_eq!(restart(&standby).one::<String>(KEYS), "of");
    assert_eq!(world.backend().one::<String>(KEYS), "a c d e b");
    // A dump of memory that ended as a standby's is none for a primary.
    standby.cluster.promote().expect("the standby is promoted");
    wait_until("it is promoted", || !standby.backend().one::<bool>("SELECT pg_is_in_recovery()"));
    assert_eq!(standby.backend().one::<String>(KEYS), "of");
    assert_eq!(restart(&standby).one::<String>(KEYS), "of");

    // The primary of before becomes a standby: what others change from here on invalidates nothing there.
    world.cluster.stop(StopMode::Fast).expect("the server stops");
    let signal = world.cluster.data().join("standby.signal");
    fs::write(&signal, "").expect("it can be written");
    let owner = fs::metadata(world.cluster.data()).expect("a folder");
    chown(&signal, Some(owner.uid()), Some(owner.gid())).expect("it can be given");
    fs::set_permissions(&signal, fs::Permissions::from_mode(0o600)).expect("it can be set");
    world.cluster.start_again().expect("the server starts");
    is_empty_because(&world, "not started from the clean shutdown");
}

#[test]
fn prepared_transactions_invalidate_what_is_restored() {
    let world = world_with(&[("max_prepared_transactions", "4")]);
    world.backend().run("BEGIN; SELECT shared_lru.invalidate('c', 'a'); PREPARE TRANSACTION 'p'");
    let mut backend = restart(&world);
    assert_eq!(backend.one::<String>(KEYS), "c d e b");
    let (value, lease): (Option<Vec<u8>>, Option<Vec<u8>>) = {
        let row = backend.client.query_one("SELECT * FROM shared_lru.get_or_lease('c', 'a')", &[]).expect("a row");
        (row.get(0), row.get(1))
    };
    assert_eq!((value, lease), (None, None), "the transaction has not ended");
    backend.run("COMMIT PREPARED 'p'");
    assert_eq!(restart(&world).one::<String>(KEYS), "c d e b");
}
