//! What a hit costs a backend: the processor time of a call of `fetch`, beside that of a function of the same signature
//! that does nothing. Both are called in a loop of one statement, of one backend, taking turns.

use anyhow::{Context, Result, ensure};
use bench::cli;
use bench::timing::Measured;
use postgres::Client;
use serde::Serialize;
use testkit::cluster::Cluster;

/// PostgreSQL's own function that counts arguments that are NULL stands for one that does nothing.
const EMPTY: &str =
    "CREATE FUNCTION nothing(cache text, query text, of anyelement, VARIADIC \"any\") RETURNS anyelement
    LANGUAGE internal VOLATILE AS 'pg_num_nulls'";

/// What is fetched: a name, a type, the query and its parameter. The rows of the tables are as wide as the name says.
const VALUES: [(&str, &str, &str); 2] = [
    ("bigint", "bigint", "SELECT sum(n) FROM small WHERE n > $1"),
    ("text of 800", "text", "SELECT min(t) FROM small WHERE n > $1"),
];

#[derive(Serialize)]
struct Line {
    hit: &'static str,
    processor_ns: f64,
    processor_ns_min: f64,
    processor_ns_max: f64,
    nothing_ns: f64,
    /// Beyond the function that does nothing: the medians' difference.
    beyond_ns: f64,
}

/// Measures and prints it.
pub fn measure(cluster: &Cluster, calls: u32, runs: u32, json: bool) -> Result<()> {
    let mut client = cluster.connect("postgres")?;
    client.batch_execute(EMPTY)?;
    client.batch_execute(
        "CREATE TABLE small AS SELECT n, repeat('x', 800) AS t FROM generate_series(1, 100) AS n; ANALYZE small",
    )?;
    if !json {
        cli::print_line(&format!(
            "\n{:<14}{:>10}{:>20}{:>12}{:>12}",
            "a hit", "cpu ns", "min-max", "nothing ns", "beyond ns"
        ))
        .map_err(anyhow::Error::msg)?;
    }
    for (hit, of, query) in VALUES {
        let call = |function: &str, of: &str| {
            format!("SELECT count({function}('reports', '{query}', NULL::{of}, 10)) FROM generate_series(1, {calls})")
        };
        let fetch = call("shared_lru.fetch", of);
        // What it gives is an int, so that is what it says.
        let nothing = call("nothing", "int");
        // The result is there from here on.
        client.batch_execute(&format!("SELECT shared_lru.fetch('reports', '{query}', NULL::{of}, 10)"))?;
        let (mut times, mut nothings) = (Measured::default(), Measured::default());
        for _ in 0..runs {
            let hits = hits(&mut client)?;
            times.push(processor_ns(&mut client, &fetch, calls)?);
            let served = self::hits(&mut client)? - hits;
            ensure!(served == i64::from(calls), "{served} of {calls} calls were served from the cache");
            nothings.push(processor_ns(&mut client, &nothing, calls)?);
        }
        let line = Line {
            hit,
            processor_ns: times.median(),
            processor_ns_min: times.min(),
            processor_ns_max: times.max(),
            nothing_ns: nothings.median(),
            beyond_ns: times.median() - nothings.median(),
        };
        line.print(json)?;
    }
    Ok(())
}

fn hits(client: &mut Client) -> Result<i64> {
    Ok(client.query_one("SELECT hits FROM shared_lru.stats WHERE cache = 'reports'", &[])?.get(0))
}

/// Processor time of the statement for each of its calls.
fn processor_ns(client: &mut Client, statement: &str, calls: u32) -> Result<f64> {
    let before = processor_ns_so_far(client)?;
    client.batch_execute(statement)?;
    Ok((processor_ns_so_far(client)? - before) / f64::from(calls))
}

/// Processor time of the backend, up to its last wait: the scheduler's account in nanoseconds, or, where the kernel has
/// none, ticks of a hundredth of a second.
fn processor_ns_so_far(client: &mut Client) -> Result<f64> {
    let mut read = |file: &str| -> Result<Option<String>> {
        Ok(client.query_one("SELECT pg_read_file($1, 0, 10000, true)", &[&file])?.get(0))
    };
    if let Some(account) = read("/proc/self/schedstat")? {
        return Ok(account.split_whitespace().next().context("no time")?.parse()?);
    }
    let stat = read("/proc/self/stat")?.context("no /proc/self/stat")?;
    // Behind the name, which may have spaces; the state is the first.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| -> Result<f64> { Ok(fields.get(at).context("no time")?.parse()?) };
    Ok((ticks(11)? + ticks(12)?) * 1e7)
}

impl Line {
    fn print(&self, json: bool) -> Result<()> {
        let printed = if json {
            cli::print_json(self)
        } else {
            cli::print_line(&format!(
                "{:<14}{:>10.0}{:>20}{:>12.0}{:>12.0}",
                self.hit,
                self.processor_ns,
                format!("{:.0}-{:.0}", self.processor_ns_min, self.processor_ns_max),
                self.nothing_ns,
                self.beyond_ns
            ))
        };
        printed.map_err(anyhow::Error::msg)
    }
}
