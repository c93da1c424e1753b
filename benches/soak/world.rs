//! What all threads of the run share: the server, the time, what is true, and the tally.
//!
//! Locking: words of their own, atomic each. A writer raises a row's version here after its COMMIT has returned, a reader
//! looks before its statement begins: so what the reader has seen is a lower bound of what it may be given.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bench::sizes::Sizes;
use bench::sourced::Source;
use testkit::cluster::Cluster;

use crate::Args;
use crate::tally::Tally;

/// A power of two, so that an odd factor spreads ranks over all keys.
pub const KEYS: u32 = 1 << 16;
pub const GROUPS: u32 = 64;
pub const DOCUMENTS_BYTES: i64 = 16 << 20;
pub const DOCUMENTS_MORE_BYTES: i64 = 24 << 20;
const SESSIONS_BYTES: i64 = 8 << 20;
/// The `ttl` of the cache `sessions`.
pub const SESSIONS_TTL_MS: u64 = 20_000;
/// Room for both memories of a cache that is made anew, though not always in one piece.
const MEMORY: &str = "64MB";
/// Of keys next to each other, the first three bytes are the same.
pub const KEYS_PER_PREFIX: u32 = 256;
/// A value may be read so long after its deadline: the put that stored it may have begun so much before it was done.
const DEADLINE_SLACK: Duration = Duration::from_secs(5);

pub struct World {
    pub cluster: Cluster,
    pub args: WorldArgs,
    pub tally: Tally,
    pub sizes: Vec<Sizes>,
    started: Instant,
    stopped: AtomicBool,
    items: Vec<AtomicU32>,
    groups: Vec<AtomicU32>,
    /// Odd while `sessions` is being renamed.
    renames: AtomicU32,
    /// Raised before the kill.
    kills: AtomicU32,
    /// When the server was there again after the last kill, in milliseconds of the run.
    life_began: AtomicU64,
    steady_backend: AtomicI32,
}

/// What the command line says.
pub struct WorldArgs {
    pub length: Duration,
    pub sample: Duration,
    pub think: Duration,
    pub terminate: Duration,
    pub kill: Duration,
    pub seed: u64,
    pub json: bool,
}

impl World {
    /// Starts the server, with tables and caches.
    ///
    /// # Errors
    /// There is none, or the extension is not installed.
    pub fn start(args: &Args) -> Result<World> {
        let sizes: Result<Vec<Sizes>, _> = args.sizes.iter().map(|spec| Sizes::parse(spec)).collect();
        let sizes = sizes.map_err(|error| anyhow::anyhow!("{error}"))?;
        ensure!(sizes.iter().all(|sizes| sizes.max() < 1 << 20), "--sizes: less than a MiB each");
        let cluster = Cluster::start(&[
            ("shared_preload_libraries", "pg_shared_lru"),
            ("pg_shared_lru.memory", MEMORY),
            ("pg_shared_lru.naptime", "1s"),
            // What the server itself keeps for each relation that is new must not look like a leak.
            ("autovacuum_naptime", "30s"),
        ])?;
        let mut admin = cluster.connect("postgres")?;
        admin
            .batch_execute("CREATE EXTENSION pg_shared_lru")
            .context("is the extension installed? make install does it")?;
        admin.batch_execute(&format!(
            "CREATE TABLE items (key int PRIMARY KEY, version int NOT NULL) WITH (fillfactor = 70);
             INSERT INTO items SELECT i, 0 FROM generate_series(0, {KEYS} - 1) i;
             CREATE TABLE groups (id int PRIMARY KEY, version int NOT NULL) WITH (fillfactor = 10);
             INSERT INTO groups SELECT i, 0 FROM generate_series(0, {GROUPS} - 1) i;
             SELECT shared_lru.create_cache('documents', bytes => {DOCUMENTS_BYTES}, policy => 'clock');
             SELECT shared_lru.create_cache('sessions', bytes => {SESSIONS_BYTES}, policy => 's3-fifo',
                                            ttl => '{SESSIONS_TTL_MS} ms');"
        ))?;
        admin.batch_execute("VACUUM ANALYZE")?;
        let zeros = |count: u32| (0..count).map(|_| AtomicU32::new(0)).collect();
        let seconds = |number: u32| Duration::from_secs(u64::from(number));
        Ok(World {
            cluster,
            args: WorldArgs {
                length: seconds(args.seconds),
                sample: seconds(args.sample_seconds),
                think: Duration::from_millis(args.think_ms),
                terminate: seconds(args.terminate_seconds),
                kill: seconds(args.kill_seconds),
                seed: args.seed,
                json: args.json,
            },
            tally: Tally::default(),
            sizes,
            started: Instant::now(),
            stopped: AtomicBool::new(false),
            items: zeros(KEYS),
            groups: zeros(GROUPS),
            renames: AtomicU32::new(0),
            kills: AtomicU32::new(0),
            life_began: AtomicU64::new(0),
            steady_backend: AtomicI32::new(0),
        })
    }

    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    /// Sleeps until a time of the run, or until the run is stopped; whether it goes on.
    pub fn sleep_until(&self, time: Duration) -> bool {
        loop {
            let left = time.saturating_sub(self.elapsed());
            if left.is_zero() || self.is_stopped() {
                return !self.is_stopped();
            }
            thread::sleep(left.min(Duration::from_millis(100)));
        }
    }

    /// The sizes of values that are stored now.
    pub fn sizes_now(&self) -> &Sizes {
        let part = self.elapsed().as_secs_f64() / self.args.sample.as_secs_f64();
        let count = self.sizes.len();
        &self.sizes[(part.fract() * count as f64) as usize % count]
    }

    /// What is committed of a key: a value that a statement returns which begins now is not older.
    pub fn committed(&self, key: u32) -> Source {
        Source {
            item: self.items[key as usize].load(Ordering::SeqCst),
            group: self.groups[(key % GROUPS) as usize].load(Ordering::SeqCst),
            deadline_ms: 0,
        }
    }

    pub fn commit_item(&self, key: u32, version: u32) {
        self.items[key as usize].fetch_max(version, Ordering::SeqCst);
    }

    pub fn commit_group(&self, group: u32, version: u32) {
        self.groups[group as usize].fetch_max(version, Ordering::SeqCst);
    }

    /// Checks a value that a statement returned which began at `asked`, when `committed` was.
    pub fn check(&self, cache: &str, key: u32, value: &[u8], committed: Source, asked: Duration) {
        let (what, example) = match Source::check(key, value) {
            Err(wrong) => ("not what was stored", wrong),
            Ok(found) if found.item < committed.item || found.group < committed.group => {
                ("out of date", format!("key {key}: made of {found:?}, when {committed:?} was committed"))
            }
            Ok(found) if found.deadline_ms > 0 => {
                let latest = Duration::from_millis(found.deadline_ms) + DEADLINE_SLACK + self.tally.longest_put_ever();
                if asked <= latest {
                    return self.tally.checked();
                }
                ("expired", format!("key {key}: asked for at {asked:?}, to be gone by {latest:?} at the latest"))
            }
            Ok(_) => return self.tally.checked(),
        };
        self.tally.wrong(format!("{cache}, {what}"), format!("{example} (minute {:.2})", asked.as_secs_f64() / 60.0));
    }

    /// How often `sessions` was renamed, and its name; while that is under way (an odd number) it may have the other.
    pub fn sessions(&self) -> (u32, &'static str) {
        let renames = self.renames.load(Ordering::SeqCst);
        (renames, name_after(renames / 2))
    }

    /// Renames `sessions` by `rename`, which is given the old and the new name and says whether it did.
    pub fn rename_sessions(&self, rename: impl FnOnce(&str, &str) -> bool) {
        let before = self.renames.fetch_add(1, Ordering::SeqCst);
        let done = rename(name_after(before / 2), name_after(before / 2 + 1));
        self.renames.store(if done { before + 2 } else { before }, Ordering::SeqCst);
    }

    /// Backends killed so far: the number of the server's life.
    pub fn kills(&self) -> u32 {
        self.kills.load(Ordering::SeqCst)
    }

    pub fn kill_comes(&self) {
        self.kills.fetch_add(1, Ordering::SeqCst);
    }

    pub fn life_begins(&self) {
        self.life_began.store(self.elapsed().as_millis() as u64, Ordering::SeqCst);
    }

    pub fn life_began(&self) -> Duration {
        Duration::from_millis(self.life_began.load(Ordering::SeqCst))
    }

    /// The backend that nobody terminates; 0: none now.
    pub fn steady_backend(&self) -> i32 {
        self.steady_backend.load(Ordering::SeqCst)
    }

    pub fn set_steady_backend(&self, backend: i32) {
        self.steady_backend.store(backend, Ordering::SeqCst);
    }
}

fn name_after(renames: u32) -> &'static str {
    if renames % 2 == 0 { "sessions" } else { "sessions_renamed" }
}
