//! A server with the extension, and backends one can ask tersely. Everything unexpected panics with the server's log at
//! hand.

use std::time::{Duration, Instant};

use postgres::Client;
use postgres::types::{FromSqlOwned, ToSql};

use crate::cluster::{self, Cluster};

/// Long enough that only a hang exceeds it, on a busy machine too.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// Whether PostgreSQL has a DSM registry, so that the library need not be preloaded.
pub fn has_dsm_registry() -> bool {
    cluster::major_version().expect("there is a PostgreSQL") >= 17
}

/// A server that has the library preloaded and the extension made in database `postgres`.
pub struct World {
    pub cluster: Cluster,
}

impl World {
    pub fn new() -> Self {
        World::with(&[])
    }

    pub fn with(settings: &[(&str, &str)]) -> Self {
        let preload = ("shared_preload_libraries", "pg_shared_lru");
        let settings: Vec<_> = [preload].into_iter().chain(settings.iter().copied()).collect();
        let world = World { cluster: Cluster::start(&settings).expect("a server starts") };
        world.backend().run("CREATE EXTENSION pg_shared_lru");
        world
    }

    /// A world and a cache `c` of so many MiB, with exact LRU in one partition.
    pub fn with_cache(megabytes: usize) -> Self {
        let world = World::new();
        world.backend().run(&format!(
            "SELECT shared_lru.create_cache('c', {megabytes} * 1048576, policy => 'lru', partitions => 1)"
        ));
        world
    }

    /// A new connection to database `postgres`.
    pub fn backend(&self) -> Backend {
        self.backend_in("postgres")
    }

    pub fn backend_in(&self, database: &str) -> Backend {
        Backend { client: self.cluster.connect(database).expect("the server accepts a connection") }
    }

    pub fn backend_as(&self, role: &str) -> Backend {
        Backend { client: self.cluster.connect_as(role, "postgres").expect("the server accepts a connection") }
    }
}

/// One connection, so one server process.
pub struct Backend {
    pub client: Client,
}

/// An error as the server reported it.
#[derive(Debug)]
pub struct Refusal {
    pub code: String,
    pub message: String,
    pub hint: String,
}

impl Backend {
    /// Runs statements whose results do not matter.
    pub fn run(&mut self, statements: &str) {
        self.client.batch_execute(statements).unwrap_or_else(|error| panic!("{statements}: {error:?}"));
    }

    /// The only column of the only row.
    pub fn one<T: FromSqlOwned>(&mut self, query: &str) -> T {
        self.call(query, &[])
    }

    /// As [`Backend::one`], with parameters.
    pub fn call<T: FromSqlOwned>(&mut self, query: &str, parameters: &[&(dyn ToSql + Sync)]) -> T {
        let row = self.client.query_one(query, parameters).unwrap_or_else(|error| panic!("{query}: {error:?}"));
        row.get(0)
    }

    /// The only column of all rows.
    pub fn all<T: FromSqlOwned>(&mut self, query: &str) -> Vec<T> {
        let rows = self.client.query(query, &[]).unwrap_or_else(|error| panic!("{query}: {error:?}"));
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Runs what must fail.
    pub fn refused(&mut self, statements: &str) -> Refusal {
        match self.client.batch_execute(statements) {
            Ok(()) => panic!("{statements}: was not refused"),
            Err(error) => Refusal::from(error),
        }
    }

    /// Puts into cache `c`; whether the key was new.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> bool {
        self.call("SELECT shared_lru.put('c', $1, $2)", &[&key, &value])
    }

    /// Gets from cache `c`.
    pub fn get(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        self.call("SELECT shared_lru.get('c', $1)", &[&key])
    }

    /// A column of view `stats` of cache `c`.
    pub fn stat(&mut self, column: &str) -> i64 {
        self.one(&format!("SELECT {column} FROM shared_lru.stats WHERE cache = 'c'"))
    }

    /// Checks every structure of cache `c`.
    pub fn validate(&mut self) {
        self.run("SELECT shared_lru.validate('c')");
    }

    /// The process that serves this connection.
    pub fn pid(&mut self) -> i32 {
        self.one("SELECT pg_backend_pid()")
    }
}

impl From<postgres::Error> for Refusal {
    fn from(error: postgres::Error) -> Self {
        let report = error.as_db_error().unwrap_or_else(|| panic!("not an error of the server: {error:?}"));
        Refusal {
            code: report.code().code().to_owned(),
            message: report.message().to_owned(),
            hint: report.hint().unwrap_or_default().to_owned(),
        }
    }
}

impl Refusal {
    /// Checks the SQLSTATE and that the message has all these parts.
    #[track_caller]
    pub fn is(&self, code: &str, parts: &[&str]) {
        assert_eq!(self.code, code, "{self:?}");
        for part in parts {
            assert!(self.message.contains(part), "no \"{part}\" in {self:?}");
        }
    }
}

/// Asks until the answer is yes.
#[track_caller]
pub fn wait_until(what: &str, mut happened: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !happened() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
