//! What it costs writers that the query cache is told what they write, by pgbench on throwaway clusters.
//!
//! ```text
//! cargo bench --no-default-features --bench writers -- \
//!     [--clients 1,2,4] [--scale S] [--seconds S] [--runs R] [--json]
//! ```
//!
//! The extension has to be installed (`make install`). Workloads:
//!
//! | workload | what a transaction does                                                                    |
//! |----------|--------------------------------------------------------------------------------------------|
//! | tpcb     | pgbench's own: three updates, a lookup and an insert, in seven statements                  |
//! | simple   | pgbench's own simple update: one update, a lookup and an insert                            |
//! | update   | one update by primary key, of a table with three indexes                                   |
//! | read     | one lookup by primary key: writes nothing                                                  |
//!
//! Each is run with publications off and on, and on while a cache has results that depend on all these tables (`used`), in the
//! same server, and in one without the library; they take turns. The figure is transactions per second of all clients, the median of `--runs` runs with the least and the most, and the
//! median of the ratios to `off`, turn by turn. `fsync` is off, so that nothing hides behind a disk. pgbench and the
//! backends share the machine's processors.
//!
//! On a machine that does other work a rate says little. So first one backend commits transactions in a loop, without a
//! client, and the processor time that it has had is divided by their number: `update` as above; `four`, the writes of
//! pgbench's own; `id`, a transaction that only has an id; `none`, one that has none.

use std::io::Write;
use std::process::{ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bench::cli;
use bench::timing::Measured;
use clap::Parser;
use postgres::Client;
use serde::Serialize;
use testkit::cluster::Cluster;

const PATIENCE: Duration = Duration::from_secs(60);

/// Measures what writers pay for the query cache.
#[derive(Parser)]
#[command(name = "writers")]
struct Args {
    /// Numbers of clients.
    #[arg(long, value_delimiter = ',', num_args = 1, default_value = "1,2,4")]
    clients: Vec<u32>,
    /// Scale of pgbench's tables.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    scale: u32,
    /// Length of each run.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Runs of each kind.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// JSON objects, one a line, instead of a table.
    #[arg(long)]
    json: bool,
}

/// Whether writers publish.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Publications {
    /// The server does not have the library.
    Absent,
    Off,
    On,
    /// On, and results are kept that depend on what is written.
    Used,
}

const ALL: [Publications; 4] = [Publications::Off, Publications::On, Publications::Used, Publications::Absent];

/// Results of each query that are kept.
const KEPT: u32 = 200;
/// Queries of one parameter, which depend on all tables.
const QUERIES: [&str; 5] = [
    "SELECT abalance::text FROM pgbench_accounts WHERE aid = $1",
    "SELECT tbalance::text FROM pgbench_tellers WHERE tid = $1",
    "SELECT bbalance::text FROM pgbench_branches WHERE bid = $1",
    "SELECT ($1 + count(*))::text FROM (SELECT FROM pgbench_history LIMIT 1) AS one",
    "SELECT v::text FROM indexed WHERE id = $1",
];

/// What pgbench runs.
enum Script {
    /// One of its own, by its name.
    Own(&'static str),
    Text(&'static str),
}

const WORKLOADS: [(&str, Script); 4] = [
    ("tpcb", Script::Own("tpcb-like")),
    ("simple", Script::Own("simple-update")),
    ("update", Script::Text("\\set id random(1, 10000)\nUPDATE indexed SET v = v + 1 WHERE id = :id;\n")),
    ("read", Script::Text("\\set id random(1, 10000)\nSELECT w FROM indexed WHERE id = :id;\n")),
];

/// A name, what a transaction does in PL/pgSQL, and how many of them a run has.
const LOOPS: [(&str, &str, u32); 4] = [
    ("update", "UPDATE indexed SET v = v + 1 WHERE id = 1 + i % 10000", 40_000),
    (
        "four",
        "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = 1 + i;
         UPDATE pgbench_tellers SET tbalance = 1 WHERE tid = 1 + i % 10;
         UPDATE pgbench_branches SET bbalance = 1 WHERE bid = 1;
         INSERT INTO pgbench_history (tid) VALUES (i)",
        20_000,
    ),
    ("id", "PERFORM pg_current_xact_id()", 100_000),
    ("none", "PERFORM 1", 100_000),
];

#[derive(Serialize)]
struct LoopLine {
    transaction: &'static str,
    publications: Publications,
    processor_ns: f64,
    processor_ns_min: f64,
    processor_ns_max: f64,
    to_off: f64,
}

#[derive(Serialize)]
struct Line {
    workload: &'static str,
    publications: Publications,
    clients: u32,
    transactions_per_second: f64,
    transactions_per_second_min: f64,
    transactions_per_second_max: f64,
    to_off: f64,
}

fn main() -> ExitCode {
    cli::main("writers", |args: Args| run(&args).map_err(|error| format!("{error:#}")))
}

fn run(args: &Args) -> Result<()> {
    ensure!(args.clients.iter().all(|count| (1..=32).contains(count)), "--clients: numbers from 1 to 32");
    let settings = [("shared_buffers", "512MB"), ("autovacuum", "off"), ("max_wal_size", "8GB")];
    let with_library = [("shared_preload_libraries", "pg_shared_lru")];
    let with = Cluster::start(&[&settings[..], &with_library].concat())?;
    let without = Cluster::start(&settings)?;
    let mut admin = with.connect("postgres")?;
    admin
        .batch_execute("CREATE EXTENSION pg_shared_lru")
        .context("is the extension installed? make install does it")?;
    for cluster in [&with, &without] {
        fill(args, cluster)?;
    }
    admin.batch_execute("SELECT shared_lru.create_cache('kept')")?;
    measure_loops(args, &mut admin, &with, &without)?;
    if !args.json {
        print(&format!(
            "\n{:<10}{:<14}{:>8}{:>12}{:>22}{:>9}",
            "workload", "publications", "clients", "per second", "min-max", "to off"
        ))?;
    }
    for (workload, script) in WORKLOADS {
        for &clients in &args.clients {
            let mut rates = ALL.map(|_| Measured::default());
            for turn in 0..args.runs as usize {
                // Each comes first in some turns.
                for place in 0..ALL.len() {
                    let kind = (turn + place) % ALL.len();
                    let cluster = if ALL[kind] == Publications::Absent { &without } else { &with };
                    if ALL[kind] != Publications::Absent {
                        switch(&mut admin, ALL[kind])?;
                    }
                    rates[kind].push(pgbench(args, cluster, &script, clients)?);
                }
            }
            for (publications, rate) in ALL.iter().zip(&rates) {
                let line = Line {
                    workload,
                    publications: *publications,
                    clients,
                    transactions_per_second: rate.median(),
                    transactions_per_second_min: rate.min(),
                    transactions_per_second_max: rate.max(),
                    to_off: rate.over(&rates[0]).median(),
                };
                line.print(args.json)?;
            }
        }
    }
    Ok(())
}

/// Processor time for a transaction, in one backend.
fn measure_loops(args: &Args, admin: &mut Client, with: &Cluster, without: &Cluster) -> Result<()> {
    if !args.json {
        print(&format!("{:<13}{:<14}{:>10}{:>20}{:>9}", "transaction", "publications", "cpu ns", "min-max", "to off"))?;
    }
    for (transaction, statements, count) in LOOPS {
        let mut times = ALL.map(|_| Measured::default());
        for turn in 0..args.runs as usize {
            for place in 0..ALL.len() {
                let kind = (turn + place) % ALL.len();
                let cluster = if ALL[kind] == Publications::Absent { without } else { with };
                if ALL[kind] != Publications::Absent {
                    switch(admin, ALL[kind])?;
                }
                times[kind].push(processor_ns(cluster, statements, count)?);
            }
        }
        for (publications, time) in ALL.iter().zip(&times) {
            let line = LoopLine {
                transaction,
                publications: *publications,
                processor_ns: time.median(),
                processor_ns_min: time.min(),
                processor_ns_max: time.max(),
                to_off: time.over(&times[0]).median(),
            };
            line.print(args.json)?;
        }
    }
    Ok(())
}

fn processor_ns(cluster: &Cluster, statements: &str, count: u32) -> Result<f64> {
    let mut client = cluster.connect("postgres")?;
    // The tables are as small in each run.
    client.batch_execute("VACUUM pgbench_branches")?;
    client.batch_execute("VACUUM pgbench_tellers")?;
    client.batch_execute("VACUUM indexed")?;
    let ticks = |client: &mut Client| -> Result<f64> {
        let stat: String = client.query_one("SELECT pg_read_file('/proc/self/stat')", &[])?.get(0);
        // Behind the name, which may have spaces; the state is the first.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        Ok(fields.get(11).context("utime")?.parse::<f64>()? + fields.get(12).context("stime")?.parse::<f64>()?)
    };
    let before = ticks(&mut client)?;
    client.batch_execute(&format!("DO $$ BEGIN FOR i IN 1..{count} LOOP {statements}; COMMIT; END LOOP; END $$"))?;
    // A tick is a hundredth of a second on every Linux that PostgreSQL runs on.
    Ok((ticks(&mut client)? - before) * 1e7 / f64::from(count))
}

fn fill(args: &Args, cluster: &Cluster) -> Result<()> {
    let output = cluster
        .client_program("pgbench")
        .args(["--initialize", "--quiet", "--scale", &args.scale.to_string(), "postgres"])
        .stdout(Stdio::null())
        .output()
        .context("cannot run pgbench")?;
    ensure!(output.status.success(), "pgbench: {}", String::from_utf8_lossy(&output.stderr));
    cluster.connect("postgres")?.batch_execute(
        "CREATE TABLE indexed (id int PRIMARY KEY, v int, w int, x int) WITH (fillfactor = 50);
         INSERT INTO indexed SELECT n, n, n, n FROM generate_series(1, 10000) AS n;
         CREATE INDEX ON indexed (w); CREATE INDEX ON indexed (x)",
    )?;
    Ok(cluster.connect("postgres")?.batch_execute("VACUUM ANALYZE")?)
}

/// Turns publications on or off, and waits until they are.
fn switch(admin: &mut Client, publications: Publications) -> Result<()> {
    let is_on = publications != Publications::Off;
    admin.batch_execute(&format!("ALTER SYSTEM SET pg_shared_lru.query_cache = {is_on}"))?;
    admin.batch_execute("SELECT pg_reload_conf()")?;
    let end = Instant::now() + PATIENCE;
    loop {
        let rows = admin.query("SELECT FROM shared_lru.changes('pgbench_accounts')", &[])?;
        if rows.is_empty() != is_on {
            break;
        }
        ensure!(Instant::now() < end, "publications cannot be turned {publications:?}");
        thread::sleep(Duration::from_millis(5));
    }
    admin.batch_execute("SELECT shared_lru.clear('kept')")?;
    if publications == Publications::Used {
        for query in QUERIES {
            let fetch = "SELECT count(*) FROM (SELECT shared_lru.fetch('kept', $1, NULL::text, n) FROM generate_series(1, $2) n OFFSET 0) f";
            admin.query(fetch, &[&query, &(KEPT as i32)])?;
        }
        let kept: i64 = admin.query_one("SELECT entries FROM shared_lru.stats WHERE cache = 'kept'", &[])?.get(0);
        ensure!(kept >= i64::from(KEPT) * QUERIES.len() as i64, "only {kept} results are kept");
    }
    Ok(())
}

/// Transactions per second.
fn pgbench(args: &Args, cluster: &Cluster, script: &Script, clients: u32) -> Result<f64> {
    let threads = thread::available_parallelism().map_or(1, usize::from).min(clients as usize);
    let mut pgbench = cluster.client_program("pgbench");
    pgbench.args(["--no-vacuum", "--protocol", "prepared", "--client", &clients.to_string()]);
    pgbench.args(["--jobs", &threads.to_string(), "--time", &args.seconds.to_string()]);
    let text = match script {
        Script::Own(name) => {
            pgbench.args(["--builtin", name]);
            ""
        }
        Script::Text(text) => {
            pgbench.args(["--file", "-"]);
            text
        }
    };
    let mut pgbench = pgbench
        .arg("postgres")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run pgbench")?;
    pgbench.stdin.take().context("pgbench takes no script")?.write_all(text.as_bytes())?;
    let output = pgbench.wait_with_output()?;
    let report = String::from_utf8_lossy(&output.stdout);
    let rate = report.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
    ensure!(output.status.success(), "pgbench failed:\n{}", String::from_utf8_lossy(&output.stderr));
    rate.with_context(|| format!("pgbench reported no rate:\n{report}"))
}

fn print(line: &str) -> Result<()> {
    cli::print_line(line).map_err(anyhow::Error::msg)
}

impl LoopLine {
    fn print(&self, json: bool) -> Result<()> {
        if json {
            return cli::print_json(self).map_err(anyhow::Error::msg);
        }
        print(&format!(
            "{:<13}{:<14}{:>10.0}{:>20}{:>9.3}",
            self.transaction,
            format!("{:?}", self.publications).to_lowercase(),
            self.processor_ns,
            format!("{:.0}-{:.0}", self.processor_ns_min, self.processor_ns_max),
            self.to_off
        ))
    }
}

impl Line {
    fn print(&self, json: bool) -> Result<()> {
        if json {
            return cli::print_json(self).map_err(anyhow::Error::msg);
        }
        print(&format!(
            "{:<10}{:<14}{:>8}{:>12.0}{:>22}{:>9.3}",
            self.workload,
            format!("{:?}", self.publications).to_lowercase(),
            self.clients,
            self.transactions_per_second,
            format!("{:.0}-{:.0}", self.transactions_per_second_min, self.transactions_per_second_max),
            self.to_off
        ))
    }
}
