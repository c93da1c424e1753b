//! The ways to ask for the report, each on a connection of its own, and what a write says to each.

use anyhow::{Context, Result, ensure};
use bench::servers::{Connection, Server};
use postgres::{Client, SimpleQueryMessage, Statement};
use testkit::cluster::Cluster;

/// One row and one column: the sum of all balances, a bigint. Over two tables, so that a row of one is not all.
const REPORT: &str = "SELECT sum(abalance) FROM pgbench_accounts JOIN pgbench_branches USING (bid)";
/// For how long an answer is kept where nobody says that it is old. memcached knows no less.
const TTL_SECONDS: u32 = 1;

/// What the ways need.
pub struct World {
    pub cluster: Cluster,
    /// On a socket; `None` if it is not installed.
    pub memcached: Option<Server>,
}

/// A way to ask for the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Bare,
    Fetch,
    Marked,
    MarkedSimple,
    Memo,
    Memcached,
    Pgmemcache,
}

impl Way {
    pub const ALL: [Way; 7] =
        [Way::Bare, Way::Fetch, Way::Marked, Way::MarkedSimple, Way::Memo, Way::Memcached, Way::Pgmemcache];

    pub fn name(self) -> &'static str {
        match self {
            Way::Bare => "bare",
            Way::Fetch => "fetch",
            Way::Marked => "marked",
            Way::MarkedSimple => "marked, simple",
            Way::Memo => "memo",
            Way::Memcached => "memcached",
            Way::Pgmemcache => "pgmemcache",
        }
    }

    /// Whether no answer may be older than the last commit before the question.
    pub fn is_never_stale(self) -> bool {
        matches!(self, Way::Bare | Way::Fetch | Way::Marked | Way::MarkedSimple)
    }

    /// The statement that writes, of account `$1`. One statement is one transaction.
    pub fn write(self) -> &'static str {
        match self {
            Way::Memo => {
                "WITH gone AS (DELETE FROM memo) UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = $1"
            }
            _ => "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = $1",
        }
    }

    /// A client that asks in this way. What is stored outside of PostgreSQL lies under this key.
    pub fn asker(self, world: &World, key: &str) -> Result<Asker> {
        let mut client = world.cluster.connect("postgres")?;
        let key_literal = format!("'{key}'");
        let (look, make) = match self {
            Way::Bare | Way::Memcached => (REPORT.to_owned(), None),
            Way::Fetch => (format!("SELECT shared_lru.fetch('reports', '{REPORT}', NULL::bigint)"), None),
            Way::Marked | Way::MarkedSimple => (format!("/* shared_lru: reports */ {REPORT}"), None),
            Way::Memo => (
                "SELECT value FROM memo WHERE key = 'report'".to_owned(),
                Some(format!(
                    "INSERT INTO memo SELECT 'report', sum FROM ({REPORT}) AS report
                         ON CONFLICT (key) DO UPDATE SET value = excluded.value RETURNING value"
                )),
            ),
            // A NULL of memcache_get is a miss.
            Way::Pgmemcache => (
                format!("SELECT memcache_get({key_literal})::bigint"),
                Some(format!(
                    "SELECT sum FROM ({REPORT}) AS report,
                         memcache_set({key_literal}, sum::text, interval '{TTL_SECONDS} second')"
                )),
            ),
        };
        let memcached = match self {
            Way::Memcached => {
                let server = world.memcached.as_ref().context("memcached is not installed")?;
                Some(server.connect().map_err(anyhow::Error::msg)?)
            }
            _ => None,
        };
        let how = match self {
            Way::MarkedSimple => How::Simple(look),
            _ => How::Prepared {
                look: client.prepare(&look)?,
                make: make.map(|make| client.prepare(&make)).transpose()?,
            },
        };
        Ok(Asker { client, how, memcached, key: key.as_bytes().to_vec() })
    }
}

enum How {
    Simple(String),
    Prepared { look: Statement, make: Option<Statement> },
}

/// A client.
pub struct Asker {
    client: Client,
    how: How,
    memcached: Option<Connection>,
    key: Vec<u8>,
}

impl Asker {
    /// The sum of all balances.
    pub fn ask(&mut self) -> Result<u64> {
        if let Some(memcached) = &mut self.memcached {
            if let Some(value) = memcached.get(&self.key).map_err(anyhow::Error::msg)? {
                return Ok(std::str::from_utf8(value)?.parse()?);
            }
        }
        let sum = match &self.how {
            How::Simple(statement) => {
                let messages = self.client.simple_query(statement)?;
                let row = messages.iter().find_map(|message| match message {
                    SimpleQueryMessage::Row(row) => row.get(0),
                    _ => None,
                });
                row.context("a report without a row")?.parse()?
            }
            How::Prepared { look, make } => {
                let found: Option<i64> = match self.client.query_opt(look, &[])? {
                    Some(row) => row.get(0),
                    None => None,
                };
                match (found, make) {
                    (Some(sum), _) => sum,
                    (None, Some(make)) => self.client.query_one(make, &[])?.get(0),
                    (None, None) => anyhow::bail!("a report without a sum"),
                }
            }
        };
        ensure!(sum >= 0, "the balances sum up to {sum}");
        if let Some(memcached) = &mut self.memcached {
            let stored = memcached.put_for(&self.key, sum.to_string().as_bytes(), TTL_SECONDS);
            ensure!(stored.map_err(anyhow::Error::msg)?, "memcached did not take an answer");
        }
        Ok(sum as u64)
    }
}
