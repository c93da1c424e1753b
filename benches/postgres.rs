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
//! | statement  | nothing: what any statement costs that returns a value of this size               |
//! | shared_lru | `shared_lru.get_text`, or `get_many_text`                                         |
//! | tagged     | as `shared_lru`, of values with a tag and a time to live                          |
//! | array      | `shared_lru.get_array_text`: the values as one array, in the order of the keys    |
//! | unnest     | the keys themselves as rows: what rows cost of which nothing is looked up         |
//! | logged     | looks the primary key up in an ordinary table, wholly in shared buffers           |
//! | aggregated | the same, with the values as one array                                            |
//! | unlogged   | the same in an unlogged table                                                     |
//! | temporary  | the same in a temporary table of the session, which each session fills for itself  |
//! | pgmemcache | `memcache_get`, or `memcache_get_multi`, of memcached on this machine, over TCP    |
//!
//! Statements are prepared and have one key, or 100 in an array that the statement makes, for all alike. Of rows they sum
//! up the values' bytes (`octet_length`: `length` of a text would count its characters, which takes longer than all else);
//! of an array they tell the size. A transaction is one statement. What is not installed is left out with a line that says so.
//!
//! The figures are transactions per second of all clients, and its ratio to `logged` with as many clients; and the processor
//! time that the backends took for each transaction (of Linux's schedstat), with its ratios to that of `statement` and of
//! `logged`: what else the machine does is not in it. The first second of each run does not count: sessions connect,
//! prepare and fill their tables in it. Medians of `--runs` runs, the contenders taking turns, with the least and the most.
//! pgbench and the backends share the machine's processors.

use std::io::{BufRead, BufReader, Write};
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result, bail, ensure};
use bench::cli;
use bench::servers::PortServer;
use bench::timing::Measured;
use clap::Parser;
use postgres::{Client, Row};
use serde::Serialize;
use testkit::cluster::Cluster;

const KEYS_PER_STATEMENT: u32 = 100;
const MEMORY_BYTES: u64 = 256 << 20;
/// What pgbench's sessions call themselves.
const APPLICATION: &str = "pgbench";

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
    value: Option<String>,
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
    /// Processor time of the backends for a transaction; `None` where the system does not tell.
    processor_us: Option<f64>,
    /// The medians of its ratios to that of an empty statement and of the lookup in the logged table, run by run.
    processor_to_statement: Option<f64>,
    processor_to_logged: Option<f64>,
}

/// What runs of one kind gave.
#[derive(Clone, Default)]
struct Runs {
    rates: Measured,
    processor_us: Measured,
}

/// What one run gave.
struct Run {
    transactions_per_second: f64,
    processor_us: Option<f64>,
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
        ("pg_shared_lru.memory", "768MB"),
        ("shared_buffers", "512MB"),
        ("temp_buffers", "256MB"),
        ("autovacuum", "off"),
        ("pgmemcache.default_servers", &servers),
    ])?;
    let mut admin = cluster.connect("postgres")?;
    fill(&mut admin, args)?;
    let mut contenders = contenders(args);
    if let Err(why) = fill_pgmemcache(&mut admin, memcached.is_some()) {
        eprintln!("postgres: pgmemcache is left out: {why:#}");
        contenders.retain(|contender| contender.name != "pgmemcache");
    }
    for contender in &contenders {
        let Some(value) = &contender.value else { continue };
        let query = format!("SELECT count(*) FROM logged WHERE {value} IS DISTINCT FROM value");
        let count: i64 = admin.query_one(&query, &[])?.get(0);
        ensure!(count == 0, "{}: {count} of {} keys have another value than was stored", contender.name, args.keys);
    }
    if !args.json {
        print_head(args)?;
    }
    for keys_per_statement in [1, KEYS_PER_STATEMENT] {
        measure(args, &cluster, &mut admin, &contenders, keys_per_statement)?;
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
    admin.execute(
        "SELECT shared_lru.create_cache('bench', $1), shared_lru.create_cache('tagged', $1, ttl => '1 day')",
        &[&(MEMORY_BYTES as i64)],
    )?;
    Ok(admin.batch_execute(
        "SELECT count(shared_lru.put_text('bench', key, value)),
                count(shared_lru.put_text('tagged', key, value, NULL, ARRAY['tag ' || key::int % 100])) FROM logged",
    )?)
}

fn fill_pgmemcache(admin: &mut Client, has_memcached: bool) -> Result<()> {
    ensure!(has_memcached, "memcached is not installed");
    admin.batch_execute("CREATE EXTENSION pgmemcache")?;
    Ok(admin.batch_execute("SELECT count(memcache_set(key, value)) FROM logged")?)
}

fn contenders(args: &Args) -> Vec<Contender> {
    let constant = "x".repeat(args.value_bytes as usize);
    let last = KEYS_PER_STATEMENT - 1;
    let texts = format!("ARRAY(SELECT i::text FROM generate_series(:k::int, :k::int + {last}) i)");
    let cached = |name, cache: &str| Contender {
        name,
        one: format!("SELECT shared_lru.get_text('{cache}', :k)"),
        many: format!("SELECT sum(octet_length(value)) FROM shared_lru.get_many_text('{cache}', {texts})"),
        per_session: "",
        value: Some(format!("shared_lru.get_text('{cache}', key)")),
    };
    let table = |name, value: Option<&str>, per_session| Contender {
        name,
        one: format!("SELECT value FROM {name} WHERE key = :k"),
        many: format!("SELECT sum(octet_length(value)) FROM {name} WHERE key = ANY ({texts})"),
        per_session,
        value: value.map(str::to_owned),
    };
    let fill_temporary = "CREATE TEMPORARY TABLE temporary (LIKE logged INCLUDING ALL);\n\
                          INSERT INTO temporary TABLE logged;\n\
                          ANALYZE temporary;\n";
    vec![
        Contender {
            name: "statement",
            one: format!("SELECT CASE WHEN :k::text IS NOT NULL THEN '{constant}'::text END"),
            many: format!("SELECT cardinality({texts})"),
            per_session: "",
            value: None,
        },
        cached("shared_lru", "bench"),
        cached("tagged", "tagged"),
        Contender {
            name: "array",
            one: "SELECT shared_lru.get_array_text('bench', ARRAY[:k])".into(),
            many: format!("SELECT cardinality(shared_lru.get_array_text('bench', {texts}))"),
            per_session: "",
            value: Some("(shared_lru.get_array_text('bench', ARRAY[key]))[1]".into()),
        },
        Contender {
            name: "unnest",
            one: "SELECT value FROM unnest(ARRAY[:k]) AS value".into(),
            many: format!("SELECT sum(octet_length(value)) FROM unnest({texts}) AS value"),
            per_session: "",
            value: None,
        },
        Contender {
            name: "aggregated",
            one: "SELECT array_agg(value) FROM logged WHERE key = :k".into(),
            many: format!("SELECT cardinality(array_agg(value)) FROM logged WHERE key = ANY ({texts})"),
            per_session: "",
            value: None,
        },
        table("logged", None, ""),
        table("unlogged", Some("(SELECT other.value FROM unlogged other WHERE other.key = logged.key)"), ""),
        table("temporary", None, fill_temporary),
        Contender {
            name: "pgmemcache",
            one: "SELECT memcache_get(:k)".into(),
            many: format!("SELECT sum(octet_length(value)) FROM memcache_get_multi({texts})"),
            per_session: "",
            value: Some("memcache_get(key)".into()),
        },
    ]
}

/// All contenders with all numbers of clients, taking turns.
fn measure(
    args: &Args,
    cluster: &Cluster,
    admin: &mut Client,
    contenders: &[Contender],
    keys_per_statement: u32,
) -> Result<()> {
    let mut all = vec![vec![Runs::default(); contenders.len()]; args.clients.len()];
    for _ in 0..args.runs {
        for (clients, all) in args.clients.iter().zip(&mut all) {
            for (contender, runs) in contenders.iter().zip(all) {
                let script = contender.script(args, keys_per_statement);
                let run = pgbench(args, cluster, admin, &script, *clients).with_context(|| contender.name)?;
                runs.rates.push(run.transactions_per_second);
                run.processor_us.into_iter().for_each(|time| runs.processor_us.push(time));
            }
        }
    }
    let place = |name| contenders.iter().position(|contender| contender.name == name);
    let (statement, logged) = place("statement").zip(place("logged")).context("nothing to compare with")?;
    for (clients, all) in args.clients.iter().zip(&all) {
        for (contender, runs) in contenders.iter().zip(all) {
            let processor_to = |other: usize| {
                let ratios = runs.processor_us.over(&all[other].processor_us);
                ratios.known().map(Measured::median)
            };
            let line = Line {
                contender: contender.name,
                keys_per_statement,
                clients: *clients,
                value_bytes: args.value_bytes,
                transactions_per_second: runs.rates.median(),
                transactions_per_second_min: runs.rates.min(),
                transactions_per_second_max: runs.rates.max(),
                keys_per_second: runs.rates.median() * f64::from(keys_per_statement),
                to_logged: runs.rates.over(&all[logged].rates).median(),
                processor_us: runs.processor_us.known().map(Measured::median),
                processor_to_statement: processor_to(statement),
                processor_to_logged: processor_to(logged),
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

/// One run, the first second left out.
fn pgbench(args: &Args, cluster: &Cluster, admin: &mut Client, script: &str, clients: u32) -> Result<Run> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(clients as usize);
    let mut pgbench = cluster.client_program("pgbench");
    pgbench.args(["--no-vacuum", "--protocol", "prepared", "--progress", "1", "--define", "ready=0", "--file", "-"]);
    pgbench.args(["--client", &clients.to_string(), "--jobs", &threads.to_string()]);
    // One second before and a part of one behind: the last report may not come.
    pgbench.args(["--time", &(args.seconds + 2).to_string(), "postgres"]);
    let mut pgbench = pgbench
        .env("PGAPPNAME", APPLICATION)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run pgbench")?;
    pgbench.stdin.take().context("pgbench takes no script")?.write_all(script.as_bytes())?;
    let (mut progress, mut transactions, mut reports) = (String::new(), 0.0, Vec::new());
    for line in BufReader::new(pgbench.stderr.take().context("pgbench has no standard error")?).lines() {
        let line = line?;
        progress += &line;
        progress.push('\n');
        let Some((at_seconds, rate)) = report_of(&line) else { continue };
        if reports.len() > args.seconds as usize {
            continue;
        }
        // What was done since the report before it.
        if let Some((before, _, _)) = reports.last() {
            transactions += rate * (at_seconds - before);
        }
        reports.push((at_seconds, rate, processor_us(admin)?));
    }
    let status = pgbench.wait()?;
    let failed = !status.success() || progress.lines().any(|line| line.contains("ERROR"));
    if failed {
        bail!("pgbench failed, {status}:\n{progress}");
    }
    let [(_, _, first), .., (_, _, last)] = &reports[..] else { bail!("pgbench reported no progress:\n{progress}") };
    let rates: Vec<f64> = reports[1..].iter().map(|(_, rate, _)| *rate).collect();
    Ok(Run {
        transactions_per_second: rates.iter().sum::<f64>() / rates.len() as f64,
        processor_us: last.zip(*first).map(|(last, first)| (last - first) / transactions),
    })
}

/// What the backends of pgbench have had of the processors, together; `None` where the system does not tell.
fn processor_us(admin: &mut Client) -> Result<Option<f64>> {
    let backends = admin.query("SELECT pid FROM pg_stat_activity WHERE application_name = $1", &[&APPLICATION])?;
    let time_ns = |backend: &Row| -> Option<f64> {
        let times = std::fs::read_to_string(format!("/proc/{}/schedstat", backend.get::<_, i32>(0))).ok()?;
        times.split(' ').next()?.parse().ok()
    };
    Ok(backends.iter().map(time_ns).sum::<Option<f64>>().map(|time_ns| time_ns / 1000.0))
}

/// Seconds and rate of a line such as `progress: 2.0 s, 12345.6 tps, lat 0.081 ms stddev 0.012, 0 failed`.
fn report_of(line: &str) -> Option<(f64, f64)> {
    let mut parts = line.strip_prefix("progress: ")?.split(", ");
    let seconds = parts.next()?.strip_suffix(" s")?.parse().ok()?;
    Some((seconds, parts.next()?.strip_suffix(" tps")?.parse().ok()?))
}

fn print_head(args: &Args) -> Result<()> {
    let print = |line: &str| cli::print_line(line).map_err(anyhow::Error::msg);
    print(&format!("{} keys, values of {} bytes; transactions per second", args.keys, args.value_bytes))?;
    print(&format!(
        "{:<12}{:>6}{:>9}{:>12}{:>22}{:>12}{:>11}{:>14}{:>14}{:>11}",
        "contender",
        "keys",
        "clients",
        "per second",
        "min-max",
        "keys/s",
        "to logged",
        "processor, µs",
        "to statement",
        "to logged"
    ))
}

impl Line {
    fn print(&self, json: bool) -> Result<()> {
        let printed = if json {
            cli::print_json(self)
        } else {
            let shown = |number: Option<f64>| number.map_or_else(|| "-".to_owned(), |number| format!("{number:.2}"));
            cli::print_line(&format!(
                "{:<12}{:>6}{:>9}{:>12.0}{:>22}{:>12.0}{:>11.2}{:>14}{:>14}{:>11}",
                self.contender,
                self.keys_per_statement,
                self.clients,
                self.transactions_per_second,
                format!("{:.0}-{:.0}", self.transactions_per_second_min, self.transactions_per_second_max),
                self.keys_per_second,
                self.to_logged,
                shown(self.processor_us),
                shown(self.processor_to_statement),
                shown(self.processor_to_logged)
            ))
        };
        printed.map_err(anyhow::Error::msg)
    }
}
