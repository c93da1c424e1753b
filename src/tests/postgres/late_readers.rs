//! Readers that come late, beside writers of every kind: what a statement finds in the cache is never older than the rows
//! that it sees.
//!
//! - Keys, prefixes and all of a cache, stored by leases: what is found is what the statement reads from the table, or newer.
//! - Tags, stored by leases or by plain puts: what is found is exactly that, in every isolation level.
//! - When nobody writes any more, whatever is found is what the table has.
//!
//! Writers change some rows in one transaction, in savepoints that are partly rolled back, and commit, roll back, prepare (and
//! another backend ends it some time later, this way or that) or end in the middle. Somebody terminates backends at random,
//! and remakes the caches. A reader that has read a row waits until a writer has committed a change of it, before it stores.
//! The same readers without the guard leave stale values of every kind, so the test would find them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use postgres::error::SqlState;
use rand::RngExt;

use crate::world::{Backend, PATIENCE, World};

/// What a writer invalidates, and how readers store it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Key,
    Prefix,
    All,
    /// By leases with tags.
    LeasedTags,
    /// By `put` with tags.
    Tags,
}

const KINDS: [Kind; 5] = [Kind::Key, Kind::Prefix, Kind::All, Kind::LeasedTags, Kind::Tags];
/// Rows of each kind. A value with tags is made of both.
const ROWS: usize = 2;

impl Kind {
    fn of_row(row: usize) -> Kind {
        KINDS[row / ROWS]
    }

    fn has_tags(self) -> bool {
        matches!(self, Kind::LeasedTags | Kind::Tags)
    }

    fn cache(self) -> String {
        format!("{self:?}")
    }

    fn key(self, row: usize) -> String {
        if self.has_tags() { "page".to_owned() } else { format!("row {row}: value") }
    }

    /// The rows that a row's value is made of.
    fn rows(self, row: usize) -> std::ops::Range<usize> {
        let first = row / ROWS * ROWS;
        if self.has_tags() { first..first + ROWS } else { row..row + 1 }
    }

    /// As an argument.
    fn tags(self, row: usize) -> String {
        let tags: Vec<String> = self.rows(row).map(|row| format!("row {row}")).collect();
        if self.has_tags() { format!("'{{{}}}'", tags.join(",")) } else { "NULL".to_owned() }
    }

    /// What the table has, as an expression.
    fn direct(self, row: usize) -> String {
        let rows = self.rows(row);
        format!("(SELECT int8send(sum(v)::bigint) FROM t WHERE k BETWEEN {} AND {})", rows.start, rows.end - 1)
    }

    /// What the cache has, as an expression.
    fn cached(self, row: usize) -> String {
        format!("shared_lru.get('{}', '{}')", self.cache(), self.key(row))
    }

    fn change(self, row: usize) -> String {
        let cache = self.cache();
        let invalidate = match self {
            Kind::Key => format!("invalidate('{cache}', '{}')", self.key(row)),
            Kind::Prefix => format!("invalidate_prefix('{cache}', 'row {row}:')"),
            Kind::All => format!("invalidate_all('{cache}')"),
            Kind::LeasedTags | Kind::Tags => format!("invalidate_tag('{cache}', 'row {row}')"),
        };
        format!("UPDATE t SET v = v + 1 WHERE k = {row}; SELECT shared_lru.{invalidate}")
    }
}

/// Why a step ended early.
enum Interrupted {
    /// The backend is gone.
    Terminated,
    /// The transaction cannot go on.
    Conflict,
}

impl From<postgres::Error> for Interrupted {
    fn from(error: postgres::Error) -> Interrupted {
        match error.code() {
            None | Some(&SqlState::ADMIN_SHUTDOWN) => Interrupted::Terminated,
            Some(&SqlState::T_R_SERIALIZATION_FAILURE | &SqlState::T_R_DEADLOCK_DETECTED) => Interrupted::Conflict,
            Some(_) => panic!("{error:?}"),
        }
    }
}

type Step = Result<(), Interrupted>;

/// How readers store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Guard {
    /// As the recipes say.
    On,
    /// By a plain put, or by a put with tags in a statement of its own.
    Off,
}

/// What all threads share.
struct Run {
    world: World,
    guard: Guard,
    /// Changes of each row that were committed.
    committed: [AtomicU64; KINDS.len() * ROWS],
    /// Backends that may be terminated.
    pids: Mutex<Vec<i32>>,
    done: AtomicBool,
    compared: AtomicUsize,
    /// Comparisons, and values in the end, that were wrong, of each kind.
    stale: [AtomicUsize; KINDS.len()],
    /// How often a writer has committed a change between a reader's look at the rows and its put.
    met: AtomicUsize,
    /// How often a late put has stored.
    stored: AtomicUsize,
    prepared: AtomicUsize,
    terminated: AtomicUsize,
}

fn number(bytes: &[u8]) -> i64 {
    i64::from_be_bytes(bytes.try_into().expect("eight bytes"))
}

impl Run {
    fn new(guard: Guard) -> Run {
        let world = World::with(&[("max_prepared_transactions", "16"), ("deadlock_timeout", "50ms")]);
        let mut admin = world.backend();
        admin.run("CREATE TABLE t (k int PRIMARY KEY, v bigint NOT NULL)");
        for row in 0..KINDS.len() * ROWS {
            admin.run(&format!("INSERT INTO t VALUES ({row}, 0)"));
        }
        for kind in KINDS {
            admin.run(&format!("SELECT shared_lru.create_cache('{}', 1048576)", kind.cache()));
        }
        Run {
            world,
            guard,
            committed: Default::default(),
            pids: Mutex::default(),
            done: AtomicBool::new(false),
            compared: AtomicUsize::new(0),
            stale: Default::default(),
            met: AtomicUsize::new(0),
            stored: AtomicUsize::new(0),
            prepared: AtomicUsize::new(0),
            terminated: AtomicUsize::new(0),
        }
    }

    fn is_done(&self) -> bool {
        self.done.load(Relaxed)
    }

    /// Takes steps until all is done; with another backend when one is gone.
    fn go_on(&self, mut step: impl FnMut(&Run, &mut Backend, usize) -> Step) {
        let _ends_all = EndsAll(&self.done);
        let connect = || {
            let mut backend = self.world.backend();
            // It may be terminated from now on.
            let pid = backend.pid();
            self.pids.lock().expect("no panic").push(pid);
            backend
        };
        let mut backend = connect();
        for number in 0.. {
            if self.is_done() {
                return;
            }
            match step(self, &mut backend, number) {
                Ok(()) => {}
                Err(Interrupted::Conflict) if backend.client.batch_execute("ROLLBACK").is_ok() => {}
                Err(_) => backend = connect(),
            }
        }
    }

    /// Compares what a statement finds in the cache with what it reads.
    fn compare(&self, backend: &mut Backend, row: usize) -> Step {
        let kind = Kind::of_row(row);
        let query = format!("SELECT {}, {}", kind.cached(row), kind.direct(row));
        let found = backend.client.query_one(&query, &[])?;
        self.judge(kind, found.get(0), found.get(1), "while others write");
        Ok(())
    }

    fn judge(&self, kind: Kind, cached: Option<Vec<u8>>, direct: Vec<u8>, when: &str) {
        let Some(cached) = cached else { return };
        let (cached, direct) = (number(&cached), number(&direct));
        self.compared.fetch_add(1, Relaxed);
        let is_right = if kind.has_tags() { cached == direct } else { cached >= direct };
        if !is_right {
            assert_eq!(self.guard, Guard::Off, "{kind:?}, {when}: the cache has {cached}, the table {direct}");
            self.stale[kind as usize].fetch_add(1, Relaxed);
        }
    }

    fn commit(&self, rows: &[usize]) {
        rows.iter().for_each(|&row| _ = self.committed[row].fetch_add(1, Relaxed));
    }

    /// What a reader does that has read the rows of a value: it waits for a writer, not long.
    fn be_late(&self, row: usize, put: impl FnOnce() -> Result<bool, postgres::Error>) -> Step {
        let changes = || {
            let rows = Kind::of_row(row).rows(row);
            rows.map(|row| self.committed[row].load(Relaxed)).sum::<u64>()
        };
        let (before, end) = (changes(), Instant::now() + Duration::from_millis(25));
        while changes() == before && Instant::now() < end {
            thread::sleep(Duration::from_micros(200));
        }
        self.met.fetch_add(usize::from(changes() != before), Relaxed);
        self.stored.fetch_add(usize::from(put()?), Relaxed);
        Ok(())
    }
}

/// Ends the others when its thread panics.
struct EndsAll<'a>(&'a AtomicBool);

impl Drop for EndsAll<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.store(true, Relaxed);
        }
    }
}

fn is_one_in(n: u32) -> bool {
    rand::rng().random_range(0..n) == 0
}

fn begin(backend: &mut Backend) -> Result<(), postgres::Error> {
    let level = if is_one_in(2) { "READ COMMITTED" } else { "REPEATABLE READ" };
    backend.client.batch_execute(&format!("BEGIN ISOLATION LEVEL {level}"))
}

fn any_row() -> usize {
    rand::rng().random_range(0..KINDS.len() * ROWS)
}

fn write(run: &Run, backend: &mut Backend, writer: usize, step: usize) -> Step {
    thread::sleep(Duration::from_micros(rand::rng().random_range(0..1000)));
    begin(backend)?;
    // In ascending order, so that writers mostly wait for each other and do not end each other.
    let mut rows: Vec<usize> = (0..rand::rng().random_range(1..4)).map(|_| any_row()).collect();
    rows.sort_unstable();
    rows.dedup();
    let mut changed: Vec<usize> = Vec::new();
    let mut of_savepoint = None;
    for &row in &rows {
        if is_one_in(2) {
            backend.client.batch_execute("SAVEPOINT s")?;
            of_savepoint = Some(changed.len());
        }
        backend.client.batch_execute(&Kind::of_row(row).change(row))?;
        changed.push(row);
        // What it has changed it does not find, and of the rest what all others find.
        let kind = Kind::of_row(row);
        let own: Option<Vec<u8>> = backend.client.query_one(&format!("SELECT {}", kind.cached(row)), &[])?.get(0);
        assert_eq!(own, None, "{kind:?}: a writer finds what it has invalidated");
        run.compare(backend, any_row())?;
        if let Some(kept) = of_savepoint
            && is_one_in(3)
        {
            // Sometimes twice: the savepoint is there after it.
            backend.client.batch_execute("ROLLBACK TO s")?;
            changed.truncate(kept);
            run.compare(backend, row)?;
        } else if of_savepoint.is_some() && is_one_in(4) {
            backend.client.batch_execute("RELEASE s")?;
            of_savepoint = None;
        }
    }
    match rand::rng().random_range(0..20) {
        0..3 => backend.client.batch_execute("ROLLBACK")?,
        3 => {
            backend.client.batch_execute("SELECT pg_terminate_backend(pg_backend_pid())")?;
            backend.client.batch_execute("SELECT 1")?;
        }
        4 | 5 => {
            let rows: Vec<String> = changed.iter().map(usize::to_string).collect();
            let name = format!("{writer} {step} {} {}", rows.join(","), rand::rng().random::<u64>());
            backend.client.batch_execute(&format!("PREPARE TRANSACTION '{name}'"))?;
            run.prepared.fetch_add(1, Relaxed);
        }
        _ => {
            backend.client.batch_execute("COMMIT")?;
            run.commit(&changed);
        }
    }
    Ok(())
}

/// Ends prepared transactions of others.
fn end_prepared(run: &Run, backend: &mut Backend) {
    for name in backend.all::<String>("SELECT gid FROM pg_prepared_xacts") {
        let end = if is_one_in(3) { "ROLLBACK" } else { "COMMIT" };
        backend.run(&format!("{end} PREPARED '{name}'"));
        if end == "COMMIT" {
            let rows = name.split(' ').nth(2).expect("rows");
            let rows: Vec<usize> = rows.split(',').filter_map(|row| row.parse().ok()).collect();
            run.commit(&rows);
        }
    }
}

fn read(run: &Run, backend: &mut Backend) -> Step {
    let in_transaction = is_one_in(2);
    if in_transaction {
        begin(backend)?;
        // A snapshot that is old by the time of what follows, if it is kept.
        run.compare(backend, any_row())?;
        thread::sleep(Duration::from_micros(rand::rng().random_range(0..2000)));
    }
    for _ in 0..3 {
        let row = any_row();
        run.compare(backend, row)?;
        fill(run, backend, row)?;
        run.compare(backend, row)?;
    }
    if in_transaction {
        backend.client.batch_execute(if is_one_in(4) { "ROLLBACK" } else { "COMMIT" })?;
    }
    Ok(())
}

/// Stores a value that is missing: late, or in one statement that is slow.
fn fill(run: &Run, backend: &mut Backend, row: usize) -> Step {
    let kind = Kind::of_row(row);
    let (cache, key, tags, direct) = (kind.cache(), kind.key(row), kind.tags(row), kind.direct(row));
    let rows = format!("SELECT {direct}");
    let client = &mut backend.client;
    if run.guard == Guard::Off {
        if client.query_one(&format!("SELECT {}", kind.cached(row)), &[])?.get::<_, Option<Vec<u8>>>(0).is_some() {
            return Ok(());
        }
        let value: Vec<u8> = client.query_one(&rows, &[])?.get(0);
        let put =
            format!("SELECT coalesce(shared_lru.put('{cache}', '{key}', $1, ttl => NULL, tags => {tags}), false)");
        return run.be_late(row, || client.query_one(&put, &[&value]).map(|row| row.get(0)));
    }
    if kind == Kind::Tags {
        // The arguments are evaluated one after the other: it sleeps when it has read the rows.
        let sleep = "(SELECT NULL::interval FROM pg_sleep(0.01))";
        let put = format!("SELECT coalesce(shared_lru.put('{cache}', '{key}', {direct}, {sleep}, {tags}), false)");
        return run.be_late(row, || client.query_one(&put, &[]).map(|row| row.get(0)));
    }
    let lease = format!("shared_lru.get_or_lease('{cache}', '{key}', tags => {tags})");
    if is_one_in(4) {
        let sleep = "(SELECT lease FROM pg_sleep(0.01))";
        let put = format!("SELECT shared_lru.put_leased('{cache}', '{key}', {direct}, {sleep}) FROM {lease}");
        return run.be_late(row, || client.query_one(&put, &[]).map(|row| row.get(0)));
    }
    let lease: Option<Vec<u8>> = client.query_one(&format!("SELECT lease FROM {lease}"), &[])?.get(0);
    let Some(lease) = lease else { return Ok(()) };
    let value: Vec<u8> = client.query_one(&rows, &[])?.get(0);
    let put = format!("SELECT shared_lru.put_leased('{cache}', '{key}', $1, $2)");
    run.be_late(row, || client.query_one(&put, &[&value, &lease]).map(|row| row.get(0)))
}

/// Writers and readers at work until a reader has been late so often.
fn round(run: &Run, met: usize) {
    run.done.store(false, Relaxed);
    let enough = run.met.load(Relaxed) + met;
    let deadline = Instant::now() + PATIENCE;
    thread::scope(|scope| {
        let writers =
            [0, 1].map(|writer| scope.spawn(move || run.go_on(|run, backend, step| write(run, backend, writer, step))));
        for _ in 0..3 {
            scope.spawn(|| run.go_on(|run, backend, _| read(run, backend)));
        }
        let _ends_all = EndsAll(&run.done);
        let mut admin = run.world.backend();
        let mut judge = run.world.backend();
        scope.spawn(move || {
            let _ends_all = EndsAll(&run.done);
            let mut size = 0;
            // To the end, for a writer may wait for a row of a prepared transaction.
            while !run.is_done() || writers.iter().any(|writer| !writer.is_finished()) {
                thread::sleep(Duration::from_millis(rand::rng().random_range(0..10)));
                end_prepared(run, &mut admin);
                if is_one_in(30) {
                    size = 3 - size;
                    let cache = KINDS[any_row() / ROWS].cache();
                    admin.run(&format!("SELECT shared_lru.alter_cache('{cache}', bytes => {})", (size + 1) << 20));
                }
            }
        });
        while run.met.load(Relaxed) < enough && !run.is_done() {
            assert!(Instant::now() < deadline, "readers and writers do not meet");
            thread::sleep(Duration::from_millis(150));
            let pid = {
                let mut pids = run.pids.lock().expect("no panic");
                let place = rand::rng().random_range(0..pids.len());
                pids.swap_remove(place)
            };
            run.terminated
                .fetch_add(usize::from(judge.call::<bool>("SELECT pg_terminate_backend($1)", &[&pid])), Relaxed);
        }
        run.done.store(true, Relaxed);
    });
    // In the end all that is there is what the table has.
    let mut judge = run.world.backend();
    end_prepared(run, &mut judge);
    for row in 0..KINDS.len() * ROWS {
        let kind = Kind::of_row(row);
        let found = judge.client.query_one(&format!("SELECT {}, {}", kind.cached(row), kind.direct(row)), &[]);
        let found = found.expect("nobody terminates the judge");
        let (cached, direct): (Option<Vec<u8>>, Vec<u8>) = (found.get(0), found.get(1));
        if cached.as_ref().is_some_and(|cached| *cached != direct) {
            assert_eq!(run.guard, Guard::Off, "{kind:?}: in the end the cache has {cached:?}, the table {direct:?}");
            run.stale[kind as usize].fetch_add(1, Relaxed);
        }
    }
}

#[test]
fn no_late_reader_leaves_a_stale_value_and_without_the_guard_all_kinds_do() {
    let run = Run::new(Guard::On);
    for _ in 0..10 {
        round(&run, 120);
    }
    let count = |counter: &AtomicUsize| counter.load(Relaxed);
    let (met, stored, compared) = (count(&run.met), count(&run.stored), count(&run.compared));
    println!(
        "{met} readers were late, {stored} puts stored, {compared} values compared; {} transactions were prepared, {} backends terminated",
        count(&run.prepared),
        count(&run.terminated),
    );
    assert!(met >= 1000 && stored > 0 && compared > 1000 && count(&run.prepared) > 10, "too little happened");
    drop(run);

    let run = Run::new(Guard::Off);
    let deadline = Instant::now() + PATIENCE;
    while run.stale.iter().any(|stale| count(stale) == 0) {
        assert!(Instant::now() < deadline, "the test finds nothing even without the guard: {:?}", run.stale);
        round(&run, 50);
    }
    println!("without the guard: {} readers were late, stale values by kind: {:?}", count(&run.met), run.stale);
}
