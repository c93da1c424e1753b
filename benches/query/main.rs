//! A report that many clients want while its tables are written: bare, from the query cache, and by other means.
//!
//! ```text
//! cargo bench --no-default-features --bench query -- \
//!     [--scale S] [--clients 1,4,16] [--writes 0,1,10,100] [--seconds S] [--runs R] [--calls N] [--json]
//! ```
//!
//! The extension has to be installed (`make install`). The report is an aggregate over pgbench's accounts and branches, of
//! one row. Clients ask for it again and again, one statement after the other; one more session writes: each write adds 1
//! to the balance of an account and commits. The ways to ask:
//!
//! | way             | what a client does                                                                          |
//! |-----------------|---------------------------------------------------------------------------------------------|
//! | bare            | runs the report, a prepared statement                                                       |
//! | fetch           | `shared_lru.fetch` of it, prepared                                                          |
//! | marked          | the bare statement behind a comment that names the cache, prepared                          |
//! | marked, simple  | the same by the simple protocol: parsed and planned each time                               |
//! | memo            | looks a row up in an unlogged table; if it is not there, makes it. Who writes deletes it    |
//! | memcached       | asks memcached; if it is not there, runs the report and stores the answer for a second      |
//! | pgmemcache      | the same by the functions of that extension, if the server has it                           |
//!
//! *Stale answers.* The sum of all balances is 0 at first, and then the number of writes, so each answer says after which
//! write it was true. The writer notes each write once it has its answer that it is committed. A client looks at this
//! number before it asks: an answer with fewer writes is stale, it is older than a commit that was over before the
//! question. How old: since the first commit that it lacks. An answer with more writes than were begun would be wrong, and
//! ends the program; so does a stale one of `bare`, `fetch` or `marked`, which promise that there is none.
//!
//! The figures are answers a second of all clients, and the time that all but one in a hundred took; medians of `--runs`
//! runs, the ways taking turns, with the least and the most. Writes are made at the given rate as far as they can be; how
//! many there were stands beside. Clients, backends and memcached share the machine's processors, and `fsync` is off.
//!
//! Then what a hit costs (`hit`): the processor time of one backend for `--calls` calls of `fetch` in one statement, beside
//! those of a function of the same signature that does nothing.

mod hit;
mod load;
mod ways;

use std::process::{ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bench::cli;
use bench::servers::{PortServer, Server, ServerKind};
use bench::timing::Measured;
use clap::Parser;
use serde::Serialize;
use testkit::cluster::Cluster;

use crate::load::{Ledger, Load, Outcome};
use crate::ways::{Way, World};

const MEMCACHED_BYTES: u64 = 16 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks for a report in several ways while its tables are written.
#[derive(Parser)]
#[command(name = "query")]
struct Args {
    /// Scale of pgbench's tables.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    scale: u32,
    /// Numbers of clients.
    #[arg(long, value_delimiter = ',', num_args = 1, default_value = "1,4,16")]
    clients: Vec<u32>,
    /// Writes a second.
    #[arg(long, value_delimiter = ',', num_args = 1, default_value = "0,1,10,100")]
    writes: Vec<u32>,
    /// Length of each run.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Runs of each kind.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Calls of each function, to measure what a hit costs.
    #[arg(long, default_value_t = 300_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    calls: u32,
    /// JSON objects, one a line, instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Line {
    way: &'static str,
    clients: u32,
    writes: u32,
    scale: u32,
    answers: u64,
    answers_per_second: f64,
    answers_per_second_min: f64,
    answers_per_second_max: f64,
    p99_us: f64,
    p99_us_min: f64,
    p99_us_max: f64,
    /// The median of the ratios to `bare`, run by run.
    to_bare: f64,
    /// Answers, in all runs, that were older than a commit before the question.
    stale: u64,
    /// The greatest age of one.
    stale_ms: f64,
    /// Commits of the writer, mean of all runs; 0 where none was asked for.
    written: f64,
}

fn main() -> ExitCode {
    cli::main("query", |args: Args| run(&args).map_err(|error| format!("{error:#}")))
}

fn run(args: &Args) -> Result<()> {
    ensure!(args.clients.iter().all(|count| (1..=32).contains(count)), "--clients: numbers from 1 to 32");
    ensure!(args.writes.iter().all(|rate| *rate <= 10_000), "--writes: up to 10000");
    ensure!(args.seconds > 0.0 && args.seconds.is_finite(), "--seconds: more than 0");
    let memcached = Server::start(ServerKind::Memcached, MEMCACHED_BYTES).map_err(anyhow::Error::msg)?;
    let by_port = PortServer::start(MEMCACHED_BYTES).map_err(anyhow::Error::msg)?;
    let address = by_port.as_ref().map_or_else(String::new, |server| format!("127.0.0.1:{}", server.port()));
    let cluster = Cluster::start(&[
        ("shared_preload_libraries", "pg_shared_lru"),
        ("pg_shared_lru.query_cache", "on"),
        ("shared_buffers", "1GB"),
        ("autovacuum", "off"),
        ("max_wal_size", "8GB"),
        ("pgmemcache.default_servers", &address),
    ])?;
    fill(args, &cluster)?;
    let world = World { cluster, memcached };
    let ways: Vec<Way> = Way::ALL.into_iter().filter(|way| is_there(*way, &world, by_port.is_some())).collect();
    if !args.json {
        print_head(args)?;
    }
    let ledger = Ledger::default();
    for &clients in &args.clients {
        for &writes in &args.writes {
            measure(args, &world, &ways, &ledger, clients, writes)?;
        }
    }
    world.cluster.connect("postgres")?.batch_execute("SELECT shared_lru.validate('reports')")?;
    hit::measure(&world.cluster, args.calls, args.runs, args.json)
}

/// Whether this way can be gone here; says if not.
fn is_there(way: Way, world: &World, has_memcached: bool) -> bool {
    let why = match way {
        Way::Memcached | Way::Pgmemcache if !has_memcached => Err(anyhow::anyhow!("memcached is not installed")),
        Way::Pgmemcache => world.cluster.connect("postgres").and_then(|mut client| {
            client.batch_execute("CREATE EXTENSION pgmemcache").context("the server does not have it")
        }),
        _ => Ok(()),
    };
    if let Err(why) = &why {
        eprintln!("query: {} is left out: {why:#}", way.name());
    }
    why.is_ok()
}

/// pgbench's tables, the cache and the table of memos.
fn fill(args: &Args, cluster: &Cluster) -> Result<()> {
    let output = cluster
        .client_program("pgbench")
        .args(["--initialize", "--quiet", "--scale", &args.scale.to_string(), "postgres"])
        .stdout(Stdio::null())
        .output()
        .context("cannot run pgbench")?;
    ensure!(output.status.success(), "pgbench: {}", String::from_utf8_lossy(&output.stderr));
    let mut client = cluster.connect("postgres")?;
    client
        .batch_execute("CREATE EXTENSION pg_shared_lru")
        .context("is the extension installed? make install does it")?;
    client.batch_execute(
        "SELECT shared_lru.create_cache('reports');
         CREATE UNLOGGED TABLE memo (key text PRIMARY KEY, value bigint NOT NULL)",
    )?;
    client.batch_execute("VACUUM ANALYZE")?;
    // The query cache is on when the transactions have ended that ran when it was asked for.
    let end = Instant::now() + PATIENCE;
    while client.query("SELECT FROM shared_lru.changes('pgbench_accounts')", &[])?.is_empty() {
        ensure!(Instant::now() < end, "the query cache is not on after {} s", PATIENCE.as_secs());
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// All ways under one load, taking turns.
fn measure(args: &Args, world: &World, ways: &[Way], ledger: &Ledger, clients: u32, writes: u32) -> Result<()> {
    let mut outcomes: Vec<Vec<Outcome>> = ways.iter().map(|_| Vec::new()).collect();
    for turn in 0..args.runs as usize {
        // Each comes first in some turns.
        for place in 0..ways.len() {
            let kind = (turn + place) % ways.len();
            let load =
                Load { clients, writes, accounts: args.scale * 100_000, length: Duration::from_secs_f64(args.seconds) };
            let outcome = load.run(world, ways[kind], ledger).with_context(|| ways[kind].name())?;
            outcomes[kind].push(outcome);
        }
    }
    let of = |outcomes: &[Outcome], figure: fn(&Outcome) -> f64| {
        let mut measured = Measured::default();
        outcomes.iter().for_each(|outcome| measured.push(figure(outcome)));
        measured
    };
    let rates: Vec<Measured> =
        outcomes.iter().map(|outcomes| of(outcomes, |outcome| outcome.answers_per_second)).collect();
    let bare = ways.iter().position(|way| *way == Way::Bare).context("nothing to compare with")?;
    for ((way, outcomes), rate) in ways.iter().zip(&outcomes).zip(&rates) {
        let p99 = of(outcomes, |outcome| outcome.p99_us);
        let line = Line {
            way: way.name(),
            clients,
            writes,
            scale: args.scale,
            answers: outcomes.iter().map(|outcome| outcome.answers).sum(),
            answers_per_second: rate.median(),
            answers_per_second_min: rate.min(),
            answers_per_second_max: rate.max(),
            p99_us: p99.median(),
            p99_us_min: p99.min(),
            p99_us_max: p99.max(),
            to_bare: rate.over(&rates[bare]).median(),
            stale: outcomes.iter().map(|outcome| outcome.stale).sum(),
            stale_ms: of(outcomes, |outcome| outcome.stale_ms).max(),
            written: outcomes.iter().map(|outcome| outcome.written).sum::<f64>() / outcomes.len() as f64,
        };
        line.print(args.json)?;
    }
    Ok(())
}

fn print_head(args: &Args) -> Result<()> {
    let print = |line: &str| cli::print_line(line).map_err(anyhow::Error::msg);
    print(&format!("a report over pgbench's tables, scale {}; answers per second", args.scale))?;
    print(&format!(
        "{:<16}{:>8}{:>8}{:>12}{:>22}{:>11}{:>10}{:>10}{:>10}{:>10}",
        "way", "clients", "writes", "per second", "min-max", "p99 us", "to bare", "stale", "by ms", "written"
    ))
}

impl Line {
    fn print(&self, json: bool) -> Result<()> {
        let printed = if json {
            cli::print_json(self)
        } else {
            cli::print_line(&format!(
                "{:<16}{:>8}{:>8}{:>12.1}{:>22}{:>11.0}{:>10.2}{:>10}{:>10.1}{:>10.1}",
                self.way,
                self.clients,
                self.writes,
                self.answers_per_second,
                format!("{:.1}-{:.1}", self.answers_per_second_min, self.answers_per_second_max),
                self.p99_us,
                self.to_bare,
                self.stale,
                self.stale_ms,
                self.written
            ))
        };
        printed.map_err(anyhow::Error::msg)
    }
}
