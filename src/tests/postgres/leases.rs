//! A reader that comes late stores nothing that is no longer true; an invalidation takes effect with the commit, for
//! everybody, and not at all without.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::world::{Backend, World, wait_until};

type Answer = (Option<Vec<u8>>, Option<Vec<u8>>);

fn ask(backend: &mut Backend, key: &[u8]) -> Answer {
    let row = backend.client.query_one("SELECT value, lease FROM shared_lru.get_or_lease('c', $1)", &[&key]);
    let row = row.expect("an answer");
    (row.get(0), row.get(1))
}

fn lease(backend: &mut Backend, key: &[u8]) -> Vec<u8> {
    let (value, lease) = ask(backend, key);
    assert_eq!(value, None);
    lease.expect("a lease")
}

fn put_leased(backend: &mut Backend, key: &[u8], value: &[u8], lease: &[u8]) -> bool {
    backend.call("SELECT shared_lru.put_leased('c', $1, $2, $3)", &[&key, &value, &lease])
}

#[test]
fn json_is_kept_by_leases_as_get_jsonb_finds_it() {
    let world = World::with_cache(4);
    let (mut reader, mut writer) = (world.backend(), world.backend());
    let missed = "CREATE TEMPORARY TABLE missed AS SELECT * FROM shared_lru.get_jsonb_or_lease('c', 'k')";
    let put = "SELECT shared_lru.put_jsonb_leased('c', 'k', '{\"a\": [1, 2]}', lease) FROM missed";
    // The first lease since the server was started is not given to a transaction that has written.
    lease(&mut reader, b"first");
    reader.run(missed);
    assert!(reader.one::<bool>("SELECT value IS NULL AND lease IS NOT NULL FROM missed"));
    writer.run("SELECT shared_lru.invalidate_text('c', 'k')");
    assert!(!reader.one::<bool>(put), "the lease is void");
    reader.run("DROP TABLE missed");
    reader.run(missed);
    assert!(reader.one::<bool>(put));
    for found in ["shared_lru.get_jsonb('c', 'k')", "(SELECT value FROM shared_lru.get_jsonb_or_lease('c', 'k'))"] {
        assert!(writer.one::<bool>(&format!("SELECT {found} = '{{\"a\": [1, 2]}}'")), "{found}");
    }
    assert!(writer.one::<bool>("SELECT lease IS NULL FROM shared_lru.get_jsonb_or_lease('c', 'k')"));
    assert!(
        writer
            .one::<bool>("SELECT value IS NULL AND lease IS NULL FROM shared_lru.get_jsonb_or_lease('c', NULL::text)")
    );
}

fn invalidate(backend: &mut Backend) {
    backend.run("SELECT shared_lru.invalidate('c', 'k')");
}

/// A move takes a while, in which nobody finds the cache: 100 MB have to be copied.
#[test]
fn an_invalidation_is_not_lost_while_its_cache_is_moved() {
    const ROUNDS: usize = 5;
    let world = World::with(&[("pg_shared_lru.memory", "240MB")]);
    let (mut admin, mut writer, mut mover) = (world.backend(), world.backend(), world.backend());
    admin.run("SELECT shared_lru.create_cache('hole', 8 << 20), shared_lru.create_cache('c', 100 << 20)");
    let key = |number: u32| number.to_be_bytes();
    let mut during = 0;
    for _ in 0..ROUNDS {
        (0..5000).for_each(|number| _ = admin.put(&key(number), b"v"));
        admin.run("SELECT shared_lru.drop_cache('hole')");
        let moving = thread::spawn(move || {
            assert_eq!(mover.one::<i64>("SELECT shared_lru.defragment()"), 1);
            mover
        });
        let mut invalidated = 0;
        while !moving.is_finished() && invalidated < 5000 {
            writer.client.execute("SELECT shared_lru.invalidate('c', $1)", &[&&key(invalidated)[..]]).expect("it does");
            invalidated += 1;
        }
        mover = moving.join().expect("nothing failed");
        let left: Vec<u32> = (0..invalidated).filter(|number| admin.get(&key(*number)).is_some()).collect();
        assert!(left.is_empty(), "of {invalidated} keys these are still there: {left:?}");
        during += invalidated;
        // Where the next hole comes, the cache has to be behind it.
        admin.run("SELECT shared_lru.drop_cache('c'); SELECT shared_lru.create_cache('hole', 8 << 20)");
        admin.run("SELECT shared_lru.create_cache('c', 100 << 20)");
    }
    assert!(during > 0);
    admin.validate();
}

/// Who commits an invalidation waits for a cache that is being moved, and may be terminated meanwhile: then its transaction
/// ends like any other, and leaves no lock behind.
#[test]
fn who_is_terminated_in_the_middle_of_an_invalidation_ends_in_order() {
    const WRITERS: usize = 6;
    let world = World::with(&[("pg_shared_lru.memory", "320MB")]);
    let mut admin = world.backend();
    admin.run("CREATE TABLE changed (id int)");
    for round in 0..4 {
        admin.run("SELECT shared_lru.create_cache('hole', 8 << 20), shared_lru.create_cache('c', 200 << 20)");
        admin.put(b"k", b"v");
        admin.run("SELECT shared_lru.drop_cache('hole')");
        let mut mover = world.backend();
        let writers: Vec<_> = (0..WRITERS)
            .map(|_| {
                let mut writer = world.backend();
                writer.run("SET application_name = 'writer'");
                let invalidate =
                    "BEGIN; INSERT INTO changed VALUES (1); SELECT shared_lru.invalidate('c', 'k'); COMMIT";
                thread::spawn(move || while writer.client.batch_execute(invalidate).is_ok() {})
            })
            .collect();
        let moving = thread::spawn(move || mover.one::<i64>("SELECT shared_lru.defragment()"));
        // At another moment of the move each time.
        thread::sleep(Duration::from_millis(10 + 10 * round));
        let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'writer'";
        assert_eq!(admin.one::<i64>(end), WRITERS as i64);
        writers.into_iter().for_each(|writer| writer.join().expect("it ends with its backend"));
        assert_eq!(moving.join().expect("nothing failed"), 1);
        wait_until("the writers are gone", || {
            admin.one("SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'writer'")
        });
        let left = "SELECT count(*) FROM pg_locks WHERE pid NOT IN (SELECT pid FROM pg_stat_activity)";
        assert_eq!(admin.one::<i64>(left), 0, "locks of backends that are gone");
        admin.run("SELECT shared_lru.drop_cache('c')");
    }
    assert!(!world.cluster.log().contains("already borrowed"), "{}", world.cluster.log());
}

#[test]
fn a_lease_is_void_once_its_key_was_invalidated_stored_or_removed() {
    let world = World::with_cache(4);
    let (mut reader, mut writer) = (world.backend(), world.backend());
    let mut round = |what: &str| -> bool {
        let lease = lease(&mut reader, b"k");
        writer.run(what);
        let stored = put_leased(&mut reader, b"k", b"read before", &lease);
        writer.run("SELECT shared_lru.remove('c', 'k')");
        stored
    };
    assert!(round("SELECT 1"));
    assert!(!round("SELECT shared_lru.invalidate('c', 'k')"));
    assert!(!round("SELECT shared_lru.invalidate_all('c')"));
    assert!(!round("SELECT shared_lru.put('c', 'k', 'other')"));
    assert!(!round("SELECT shared_lru.put('c', 'k', 'other'); SELECT shared_lru.remove('c', 'k')"));
    assert!(!round("SELECT shared_lru.clear('c')"));
    assert!(round("BEGIN; SELECT shared_lru.invalidate('c', 'k'); ROLLBACK"));
    assert!(round("BEGIN; SAVEPOINT s; SELECT shared_lru.invalidate('c', 'k'); ROLLBACK TO s; COMMIT"));
    assert!(!round("BEGIN; SAVEPOINT s; SELECT shared_lru.invalidate('c', 'k'); RELEASE s; COMMIT"));
    assert!(round("SELECT shared_lru.invalidate('c', 'another key')"));
    // Of another key, of nothing, cut short.
    let of_k = lease(&mut reader, b"k");
    assert!(!put_leased(&mut reader, b"other", b"v", &of_k));
    assert!(!reader.one::<bool>("SELECT shared_lru.put_leased('c', 'k', 'v', NULL)"));
    for nothing in ["NULL, 'k', 'v', NULL", "'c', NULL, 'v', NULL", "'c', 'k', NULL, NULL"] {
        let stored: Option<bool> = reader.one(&format!("SELECT shared_lru.put_leased({nothing})"));
        assert_eq!(stored, None, "{nothing}");
    }
    reader.refused("SELECT shared_lru.put_leased('c', 'k', 'v', 'short')").is("22023", &["48 bytes", "5"]);
}

#[test]
fn an_invalidation_takes_effect_with_the_commit_and_for_itself_at_once() {
    let world = World::with_cache(4);
    let (mut writer, mut other) = (world.backend(), world.backend());
    writer.put(b"k", b"old");
    writer.run("BEGIN");
    invalidate(&mut writer);
    assert_eq!((writer.get(b"k"), ask(&mut writer, b"k")), (None, (None, None)));
    assert!(!writer.one::<bool>("SELECT shared_lru.contains('c', 'k')"));
    assert_eq!(other.get(b"k").as_deref(), Some(&b"old"[..]));
    writer.run("ROLLBACK");
    assert_eq!(writer.get(b"k").as_deref(), Some(&b"old"[..]));
    writer.run("BEGIN");
    invalidate(&mut writer);
    writer.run("COMMIT");
    assert_eq!((writer.get(b"k"), other.get(b"k")), (None, None));
    // Many keys stand for all.
    writer.put(b"k", b"old");
    writer.run("SELECT shared_lru.invalidate('c', int4send(n)) FROM generate_series(1, 10001) AS n");
    assert_eq!(other.get(b"k"), None);
}

#[test]
fn nobody_gets_a_lease_that_a_prepared_transaction_would_make_wrong() {
    let world = World::with(&[("max_prepared_transactions", "4")]);
    let (mut writer, mut reader) = (world.backend(), world.backend());
    writer.run("SELECT shared_lru.create_cache('c')");
    for end in ["COMMIT", "ROLLBACK"] {
        let before = lease(&mut reader, b"k");
        writer.run("BEGIN; SELECT shared_lru.invalidate('c', 'k'); PREPARE TRANSACTION 'p'");
        assert!(!put_leased(&mut reader, b"k", b"old", &before));
        assert_eq!(ask(&mut reader, b"k"), (None, None), "the old rows are what it would read");
        reader.run(&format!("{end} PREPARED 'p'"));
        lease(&mut reader, b"k");
    }
}

#[test]
fn of_those_who_miss_a_key_at_once_one_computes_and_the_others_wait_or_go_without() {
    let world = World::with_cache(4);
    let (mut first, mut second) = (world.backend(), world.backend());
    first.run("BEGIN");
    let of_first = lease(&mut first, b"k");
    assert_eq!(ask(&mut second, b"k"), (None, None));
    thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            second.one::<Option<Vec<u8>>>("SELECT value FROM shared_lru.get_or_lease('c', 'k', wait => '1 minute')")
        });
        assert!(put_leased(&mut first, b"k", b"v", &of_first));
        assert_eq!(waiting.join().expect("it ends").as_deref(), Some(&b"v"[..]));
    });
    // Whoever ends, however, leaves no lease.
    first.run("ROLLBACK; SELECT shared_lru.remove('c', 'k'); BEGIN");
    lease(&mut first, b"k");
    let pid = first.pid();
    second.run(&format!("SELECT pg_terminate_backend({pid}, 60000)"));
    wait_until("the lease is free", || ask(&mut second, b"k").1.is_some());
}

#[test]
fn the_trigger_invalidates_what_was_changed_and_lets_writes_pass_without_a_cache() {
    let world = World::with_cache(4);
    let mut backend = world.backend();
    backend.run(
        "CREATE TABLE t (a int, b text, value text);
         CREATE TRIGGER forget AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW
             EXECUTE FUNCTION shared_lru.invalidate_trigger('c', 'a', 'b');
         CREATE TRIGGER forget_all AFTER TRUNCATE ON t EXECUTE FUNCTION shared_lru.invalidate_trigger('c')",
    );
    let mut after = |statement: &str| -> Vec<String> {
        backend.run("SELECT shared_lru.put_text('c', k, 'v') FROM unnest('{1:x,2:y,3:z}'::text[]) AS k");
        backend.run(statement);
        backend.all("SELECT encode(key, 'escape') FROM shared_lru.entries('c') ORDER BY 1")
    };
    assert_eq!(after("INSERT INTO t VALUES (1, 'x', 'v')"), ["2:y", "3:z"]);
    assert_eq!(after("UPDATE t SET a = 2, b = 'y'"), ["3:z"]);
    assert_eq!(after("DELETE FROM t"), ["1:x", "3:z"]);
    assert!(after("TRUNCATE t").is_empty());
    backend.run("SELECT shared_lru.drop_cache('c'); INSERT INTO t VALUES (1, 'x', 'v'); TRUNCATE t");
    backend.refused("SELECT shared_lru.invalidate_trigger()").is("22023", &["CREATE TRIGGER"]);
}

/// Runs `reading` in a session that waits in it, after its snapshot was taken, while `change` is committed.
fn late_in_one_statement(world: &World, reading: &str, change: &str) {
    let (mut reader, mut writer, mut judge) = (world.backend(), world.backend(), world.backend());
    let pid = reader.pid();
    writer.run("SELECT pg_advisory_lock(7)");
    thread::scope(|scope| {
        let late = scope.spawn(|| reader.run(reading));
        wait_until("the reader waits", || {
            judge.call("SELECT coalesce(wait_event_type = 'Lock', false) FROM pg_stat_activity WHERE pid = $1", &[&pid])
        });
        writer.run(&format!("BEGIN; {change}; COMMIT; SELECT pg_advisory_unlock(7)"));
        late.join().expect("the reader reads");
    });
}

#[test]
fn a_statement_stores_nothing_of_before_a_change_by_what_it_asks_after_it() {
    let world = World::with_cache(4);
    let mut admin = world.backend();
    admin.run(
        "CREATE TABLE t (v int); INSERT INTO t VALUES (0);
         CREATE FUNCTION late(key text) RETURNS text LANGUAGE plpgsql AS $$
         BEGIN PERFORM pg_advisory_lock_shared(7), pg_advisory_unlock_shared(7); RETURN key; END $$",
    );
    let row = "(SELECT v::text FROM t)";
    let readings = [
        format!(
            "SELECT shared_lru.put_text_leased('c', 'k', {row}, lease) FROM shared_lru.get_text_or_lease('c', late('k'))"
        ),
        format!(
            "SELECT shared_lru.put_text_leased('c', 'k', {row}, lease)
               FROM shared_lru.get_or_lease('c', late('k')::bytea, tags => '{{x}}')"
        ),
        format!("SELECT shared_lru.put_text('c', late('k'), {row}, NULL, '{{x}}')"),
        format!("SELECT shared_lru.put_jsonb('c', late('k'), {row}::jsonb, NULL, '{{x}}')"),
        format!("SELECT shared_lru.put_any('c', late('k')::bytea, {row}, NULL, '{{x}}')"),
    ];
    for reading in &readings {
        let change = "UPDATE t SET v = v + 1";
        // Where nothing is invalidated, all of them store.
        late_in_one_statement(&world, reading, "SELECT 1");
        assert!(admin.one::<bool>("SELECT shared_lru.contains('c', 'k')"), "{reading}");
        admin.run("SELECT shared_lru.remove('c', 'k')");
        let invalidate = "SELECT shared_lru.invalidate('c', 'k'), shared_lru.invalidate_tag('c', 'x')";
        late_in_one_statement(&world, reading, &format!("{change}; {invalidate}"));
        assert!(!admin.one::<bool>("SELECT shared_lru.contains('c', 'k')"), "stale for ever: {reading}");
    }
}

#[test]
fn an_invalidation_of_all_leaves_nothing_that_was_there_whatever_is_read_and_stored_meanwhile() {
    let (invalidate, clear) = ("SELECT shared_lru.invalidate_all('c')", "SELECT shared_lru.clear('c')");
    for (policy, what) in [("lru", invalidate), ("clock", invalidate), ("s3-fifo", invalidate), ("lru", clear)] {
        let world = World::new();
        let mut writer = world.backend();
        writer.run(&format!("SELECT shared_lru.create_cache('c', 8388608, policy => '{policy}', partitions => 1)"));
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for number in 0..2 {
                let (mut other, done) = (world.backend(), &done);
                scope.spawn(move || {
                    for round in 0.. {
                        if done.load(Ordering::Relaxed) {
                            return;
                        }
                        other.run(&format!(
                            "SELECT count(shared_lru.get('c', int4send(n * 17))),
                                    count(shared_lru.put('c', convert_to('new {number} ' || (n + {round} * 200), 'UTF8'), 'v'))
                               FROM generate_series(1, 200) AS n"
                        ));
                    }
                });
            }
            let mut left = 0;
            for _ in 0..20 {
                writer.run("SELECT count(shared_lru.put('c', int4send(n), 'v')) FROM generate_series(1, 5000) AS n");
                writer.run(what);
                left += writer.one::<i64>("SELECT count(*) FROM shared_lru.entries('c') WHERE length(key) = 4");
            }
            done.store(true, Ordering::Relaxed);
            assert_eq!(left, 0, "{policy}: left by {what}");
        });
    }
}

#[test]
fn a_backend_that_is_terminated_in_the_middle_of_its_commit_ends_alone() {
    let world = World::with_cache(8);
    let (mut writer, mut judge) = (world.backend(), world.backend());
    writer.run("SELECT count(shared_lru.put('c', int4send(n), 'v')) FROM generate_series(1, 20000) AS n");
    let pid = writer.pid();
    // Each is a walk.
    writer.run("BEGIN; SELECT shared_lru.invalidate_prefix('c', int8send(n)) FROM generate_series(1, 2000) AS n");
    thread::scope(|scope| {
        let committing = scope.spawn(|| writer.client.batch_execute("COMMIT"));
        let commits = "SELECT state = 'active' AND query = 'COMMIT' FROM pg_stat_activity WHERE pid = $1";
        wait_until("it commits", || judge.call(commits, &[&pid]));
        assert!(judge.call::<bool>("SELECT pg_terminate_backend($1, 60000)", &[&pid]));
        assert!(committing.join().expect("an answer").is_err(), "it had committed before");
    });
    assert!(ask(&mut judge, b"k").1.is_some(), "the publications have ended");
    assert_eq!(judge.stat("entries"), 20_000);
    judge.validate();
}

/// As many as a trigger for each row makes in one statement, each in a savepoint of its own. If the cost of one grew with how
/// many there are, it would be an hour.
#[test]
fn a_transaction_may_invalidate_very_many_tags() {
    let world = World::with_cache(4);
    let (mut backend, mut other) = (world.backend(), world.backend());
    other.run("SELECT shared_lru.put('c', 'k', 'v', NULL, '{last}')");
    backend.run("BEGIN");
    backend.run(
        "DO $$ BEGIN
             FOR n IN 1..300000 LOOP
                 BEGIN
                     PERFORM shared_lru.invalidate_tag('c', n::text);
                 EXCEPTION WHEN raise_exception THEN NULL;
                 END;
             END LOOP;
         END $$",
    );
    backend.run("SELECT shared_lru.invalidate_tag('c', 'last')");
    assert_eq!(backend.get(b"k"), None);
    backend.run("COMMIT");
    assert_eq!(other.get(b"k"), None);
}
