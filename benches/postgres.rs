//! The cache inside PostgreSQL beside other ways to look a key up there, by pgbench on a throwaway cluster.
//!
//! ```text
//! cargo bench --no-default-features --bench postgres -- \
//!     --clients 1,2,4,8 [--keys K] [--value-bytes B] [--seconds S] [--runs R] [--json]
//! ```
//!
//! The extension has to be installed (`make install`). Every contender holds the same keys and values, which are
//! compared row by row before any time is taken:
//!
//! | contender  | what a statement does                                                             |
//! |------------|-----------------------------------------------------------------------------------|
//! | statement  | nothing: what any statement costs                                                 |
//! | shared_lru | `shared_lru.get_text`, or `get_many` of byte strings                              |
//! | array      | `shared_lru.get_array`: the values as one array, in the order of the keys         |
//! | logged     | looks the primary key up in an ordinary table, wholly in shared buffers           |
//! | unlogged   | the same in an unlogged table                                                     |
//! | temporary  | the same in a temporary table of the session, which each session fills for itself  |
//! | pgmemcache | `memcache_get`, or `memcache_get_multi`, of memcached on this machine, over TCP    |
//!
//! Statements are prepared and have one key, or 100 in an array that the statement makes, for all alike. A transaction
//! is one statement. What is not installed is left out with a line that says so.
//!
//! The figure is transactions per second of all clients, and its ratio to `logged` with as many clients. The first second
//! of each run does not count: sessions connect, prepare and fill their tables in it. Medians of `--runs` runs, the
//! contenders taking turns, with the least and the most. pgbench and the backends share the machine's processors.

use std::io::Write;
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result, bail, ensure};
use bench::cli;
use bench::servers::PortServer;
use bench::timing::Measured;
use clap::Parser;
use postgres::Client;
use serde::Serialize;
use testkit::cluster::Cluster;

const KEYS_PER_STATEMENT: u32 = 100;
const MEMORY_BYTES: u64 = 256 << 20;

/// Looks keys up in PostgreSQL in several ways.
#[derive(Parser)]
#[command(name = "postgres")]
struct Args {
    /// Numbers of clients.
    #[arg(long, value_delimiter = ',', num_args = 1, default_value = "1,2,4,8")]
    clients: Vec<u32>,
    /// Number of keys.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1_000..=100_000))]
    keys: u32,
    /// Bytes of each value.
    #[arg(long, default_value_t = 800, value_parser = clap::value_parser!(u32).range(1..=1_900))]
    value_bytes: u32,
    /// Length of each run.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Runs of each kind.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// JSON objects, one a line, instead of a table.
    #[arg(long)]
    json: bool,
}

/// A way to look keys up.
struct Contender {
    name: &'static str,
    /// The statement for one key, `:k`.
    one: String,
    /// The statement for [`KEYS_PER_STATEMENT`] keys from `:k` on.
    many: String,
    /// What a session does before its first statement.
    per_session: &'static str,
    /// An expression that gives a key's value in a query over the table `logged`, to compare with.
    value: Option<&'static str>,
}

#[derive(Serialize)]
struct Line {
    contender: &'static str,
    keys_per_statement: u32,
    clients: u32,
    value_bytes: u32,
    transactions_per_second: f64,
    transactions_per_second_min: f64,
    transactions_per_second_max: f64,
    keys_per_second: f64,
    /// The median of the ratios to the lookup in the logged table, run by run.
    to_logged: f64,
}

fn main() -> ExitCode {
    cli::main("postgres", |args: Args| run(&args).map_err(|error| format!("{error:#}")))
}

fn run(args: &Args) -> Result<()> {
    ensure!(args.clients.iter().all(|count| (1..=32).contains(count)), "--clients: numbers from 1 to 32");
    let memcached = PortServer::start(MEMORY_BYTES).map_err(anyhow::Error::msg)?;
    let servers = memcached.as_ref().map_or_else(String::new, |server| format!("127.0.0.1:{}", server.port()));
    let cluster = Cluster::start(&[
        ("shared_preload_libraries", "pg_shared_lru"),
        ("pg_shared_lru.memory", "512MB"),
        ("shared_buffers", "512MB"),
        ("temp_buffers", "256MB"),
        ("autovacuum", "off"),
        ("pgmemcache.default_servers", &servers),
    ])?;
    let mut admin = cluster.connect("postgres")?;
    fill(&mut admin, args)?;
    let mut contenders = contenders();
    if let Err(why) = fill_pgmemcache(&mut admin, memcached.is_some()) {
        eprintln!("postgres: pgmemcache is left out: {why:#}");
        contenders.retain(|contender| contender.name != "pgmemcache");
    }
    for contender in &contenders {
        let Some(value) = contender.value else { continue };
        let query = format!("SELECT count(*) FROM logged WHERE {value} IS DISTINCT FROM value");
        let count: i64 = admin.query_one(&query, &[])?.get(0);
        ensure!(count == 0, "{}: {count} of {} keys have another value than was stored", contender.name, args.keys);
    }
    if !args.json {
        print_head(args)?;
    }
    for keys_per_statement in [1, KEYS_PER_STATEMENT] {
        measure(args, &cluster, &contenders, keys_per_statement)?;
    }
    Ok(admin.batch_execute("SELECT shared_lru.validate('bench')")?)
}

/// The tables and the cache, with the same keys and values.
fn fill(admin: &mut Client, args: &Args) -> Result<()> {
    let Args { keys, value_bytes, .. } = args;
    admin
        .batch_execute("CREATE EXTENSION pg_shared_lru")
        .context("is the extension installed? make install does it")?;
    admin.batch_execute(&format!(
        "CREATE TABLE logged (key text PRIMARY KEY, value text NOT NULL);
         INSERT INTO logged
             SELECT i::text, left(repeat(md5(i::text), {value_bytes} / 32 + 1), {value_bytes})
             FROM generate_series(1, {keys}) i;
         CREATE UNLOGGED TABLE unlogged (LIKE logged INCLUDING ALL);
         INSERT INTO unlogged TABLE logged;"
    ))?;
    admin.batch_execute("VACUUM ANALYZE")?;
    admin.execute("SELECT shared_lru.create_cache('bench', $1)", &[&(MEMORY_BYTES as i64)])?;
    Ok(admin.batch_execute("SELECT count(shared_lru.put_text('bench', key, value)) FROM logged")?)
}

fn fill_pgmemcache(admin: &mut Client, has_memcached: bool) -> Result<()> {
    ensure!(has_memcached, "memcached is not installed");
    admin.batch_execute("CREATE EXTENSION pgmemcache")?;
    Ok(admin.batch_execute("SELECT count(memcache_set(key, value)) FROM logged")?)
}

fn contenders() -> Vec<Contender> {
    let last = KEYS_PER_STATEMENT - 1;
    let keys = |key: &str| format!("ARRAY(SELECT {key} FROM generate_series(:k::int, :k::int + {last}) i)");
    let texts = keys("i::text");
    let table = |name, value, per_session| Contender {
        name,
        one: format!("SELECT value FROM {name} WHERE key = :k"),
        many: format!("SELECT sum(length(value)) FROM {name} WHERE key = ANY ({texts})"),
        per_session,
        value,
    };
    let fill_temporary = "CREATE TEMPORARY TABLE temporary (LIKE logged INCLUDING ALL);\n\
                          INSERT INTO temporary TABLE logged;\n\
                          ANALYZE temporary;\n";
    vec![
        Contender {
            name: "statement",
            one: "SELECT :k::text".into(),
            many: format!("SELECT cardinality({texts})"),
            per_session: "",
            value: None,
        },
        Contender {
            name: "shared_lru",
            one: "SELECT shared_lru.get_text('bench', :k)".into(),
            many: format!(
                "SELECT sum(length(value)) FROM shared_lru.get_many('bench', {})",
                keys("convert_to(i::text, 'UTF8')")
            ),
            per_session: "",
            value: Some("shared_lru.get_text('bench', key)"),
        },
        Contender {
            name: "array",
            one: "SELECT shared_lru.get_array('bench', ARRAY[convert_to(:k, 'UTF8')])".into(),
            many: format!("SELECT cardinality(shared_lru.get_array('bench', {}))", keys("convert_to(i::text, 'UTF8')")),
            per_session: "",
            value: Some("convert_from((shared_lru.get_array('bench', ARRAY[convert_to(key, 'UTF8')]))[1], 'UTF8')"),
        },
        table("logged", None, ""),
        table("unlogged", Some("(SELECT other.value FROM unlogged other WHERE other.key = logged.key)"), ""),
        table("temporary", None, fill_temporary),
        Contender {
            name: "pgmemcache",
            one: "SELECT memcache_get(:k)".into(),
            many: format!("SELECT sum(length(value)) FROM memcache_get_multi({texts})"),
            per_session: "",
            value: Some("memcache_get(key)"),
        },
    ]
}

/// All contenders with all numbers of clients, taking turns.
fn measure(args: &Args, cluster: &Cluster, contenders: &[Contender], keys_per_statement: u32) -> Result<()> {
    let mut rates = vec![vec![Measured::default(); contenders.len()]; args.clients.len()];
    for _ in 0..args.runs {
        for (clients, rates) in args.clients.iter().zip(&mut rates) {
            for (contender, rates) in contenders.iter().zip(rates) {
                let script = contender.script(args, keys_per_statement);
                let rate = pgbench(args, cluster, &script, *clients).with_context(|| contender.name)?;
                rates.push(rate);
            }
        }
    }
    let logged = contenders.iter().position(|contender| contender.name == "logged").context("no table")?;
    for (clients, rates) in args.clients.iter().zip(&rates) {
        for (contender, rate) in contenders.iter().zip(rates) {
            let line = Line {
                contender: contender.name,
                keys_per_statement,
                clients: *clients,
                value_bytes: args.value_bytes,
                transactions_per_second: rate.median(),
                transactions_per_second_min: rate.min(),
                transactions_per_second_max: rate.max(),
                keys_per_second: rate.median() * f64::from(keys_per_statement),
                to_logged: rate.over(&rates[logged]).median(),
            };
            line.print(args.json)?;
        }
    }
    Ok(())
}

impl Contender {
    fn script(&self, args: &Args, keys_per_statement: u32) -> String {
        let statement = if keys_per_statement == 1 { &self.one } else { &self.many };
        let first = if self.per_session.is_empty() {
            String::new()
        } else {
            format!("\\if :ready = 0\n{}\\set ready 1\n\\endif\n", self.per_session)
        };
        format!("{first}\\set k random(1, {})\n{statement};\n", args.keys + 1 - keys_per_statement)
    }
}

/// Transactions per second, the first second left out.
fn pgbench(args: &Args, cluster: &Cluster, script: &str, clients: u32) -> Result<f64> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(clients as usize);
    let mut pgbench = cluster.client_program("pgbench");
    pgbench.args(["--no-vacuum", "--protocol", "prepared", "--progress", "1", "--define", "ready=0", "--file", "-"]);
    pgbench.args(["--client", &clients.to_string(), "--jobs", &threads.to_string()]);
    // One second before and a part of one behind: the last report may not come.
    pgbench.args(["--time", &(args.seconds + 2).to_string(), "postgres"]);
    let mut pgbench = pgbench
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run pgbench")?;
    pgbench.stdin.take().context("pgbench takes no script")?.write_all(script.as_bytes())?;
    let output = pgbench.wait_with_output()?;
    let progress = String::from_utf8_lossy(&output.stderr);
    let failed = !output.status.success() || progress.lines().any(|line| line.contains("ERROR"));
    if failed {
        bail!("pgbench failed, {}:\n{progress}", output.status);
    }
    let rates: Vec<f64> = progress.lines().filter_map(rate_of_second).skip(1).take(args.seconds as usize).collect();
    ensure!(!rates.is_empty(), "pgbench reported no progress:\n{progress}");
    Ok(rates.iter().sum::<f64>() / rates.len() as f64)
}

/// The rate in a line such as `progress: 2.0 s, 12345.6 tps, lat 0.081 ms stddev 0.012, 0 failed`.
fn rate_of_second(line: &str) -> Option<f64> {
    line.strip_prefix("progress: ")?.split(", ").nth(1)?.strip_suffix(" tps")?.parse().ok()
}

fn print_head(args: &Args) -> Result<()> {
    let print = |line: &str| cli::print_line(line).map_err(anyhow::Error::msg);
    print(&format!("{} keys, values of {} bytes; transactions per second", args.keys, args.value_bytes))?;
    print(&format!(
        "{:<12}{:>6}{:>9}{:>12}{:>22}{:>12}{:>11}",
        "contender", "keys", "clients", "per second", "min-max", "keys/s", "to logged"
    ))
}

impl Line {
    fn print(&self, json: bool) -> Result<()> {
        let printed = if json {
            cli::print_json(self)
        } else {
            cli::print_line(&format!(
                "{:<12}{:>6}{:>9}{:>12.0}{:>22}{:>12.0}{:>11.2}",
                self.contender,
                self.keys_per_statement,
                self.clients,
                self.transactions_per_second,
                format!("{:.0}-{:.0}", self.transactions_per_second_min, self.transactions_per_second_max),
                self.keys_per_second,
                self.to_logged
            ))
        };
        printed.map_err(anyhow::Error::msg)
    }
}
