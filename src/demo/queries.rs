//! The demo's second scene: what a report over pgbench's tables costs two sessions that share its result.
//!
//! The statement is as the application has it, with a comment before it. The first session runs it; the second is served
//! what the first has got. Then rows are copied into a table, which nobody tells the cache; and the next answer has them.
//! Each answer is compared with that of the plain statement, EXPLAIN has to say what happened, and the cache has to
//! have been asked as often as this script has asked.

use std::io::Write;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use postgres::{Client, SimpleQueryMessage};
use testkit::cluster::Cluster;

const SCALE: u32 = 3;
const PATIENCE: Duration = Duration::from_secs(60);
const COPIED_ROWS: i64 = 1_000;
const COPIED_DELTA: i64 = 7;

const REPORT: &str = "SELECT bid, accounts, balance, changes
  FROM (SELECT bid, count(*) AS accounts, sum(abalance) AS balance FROM pgbench_accounts GROUP BY bid) AS a
  JOIN (SELECT bid, sum(delta) AS changes FROM pgbench_history GROUP BY bid) AS h USING (bid)
 ORDER BY bid";

/// The first line that EXPLAIN shows of a plan that may be served from a cache; and what it shows below where tables were
/// read.
const NODE: &str = "Custom Scan (Shared LRU)";
const TABLE: &str = "Scan on pgbench_";

/// Rows as a client sees them, and how long it has waited.
struct Asked {
    rows: Vec<Vec<String>>,
    millis: f64,
}

/// Plays the scene.
///
/// # Errors
///
/// Something is not as it says; or the server does not start.
pub fn play() -> Result<()> {
    println!("\nSecond scene: a report over pgbench's tables, scale {SCALE}, and the query cache\n\n{REPORT}\n");
    let cluster = Cluster::start(&[
        ("shared_preload_libraries", "pg_shared_lru"),
        ("pg_shared_lru.query_cache", "on"),
        ("shared_buffers", "128MB"),
    ])?;
    fill(&cluster)?;
    let (mut first, mut second) = (cluster.connect("postgres")?, cluster.connect("postgres")?);
    wait_until_on(&mut first)?;
    let marked = format!("/* shared_lru: reports */ {REPORT}");

    let truth = ask(&mut first, REPORT)?;
    say("the report as it is", &truth);
    let made = ask(&mut first, &marked)?;
    say("first session, behind the comment /* shared_lru: reports */", &made);
    let first_served = ask(&mut second, &marked)?;
    say("second session: a hit, its first statement", &first_served);
    let served = ask(&mut second, &marked)?;
    say("and once more", &served);
    ensure!(
        made.rows == truth.rows && first_served.rows == truth.rows && served.rows == truth.rows,
        "the cached report is not the report"
    );
    println!("\nWhat EXPLAIN says in the second session:");
    let before = explain(&mut second, &marked)?;
    expect(&before, "Result: hit")?;
    ensure!(!reads_tables(&before), "a hit has read tables");

    copy(&mut first)?;
    println!("\nThe first session has copied {COPIED_ROWS} rows into pgbench_history. EXPLAIN says now:");
    let after = explain(&mut second, &marked)?;
    expect(&after, "Result: miss, stored")?;
    ensure!(reads_tables(&after), "the report was made without its tables");
    let truth_now = ask(&mut second, REPORT)?;
    println!();
    say("the report as it is now", &truth_now);
    let served_now = ask(&mut first, &marked)?;
    say("from the cache", &served_now);
    ensure!(served_now.rows == truth_now.rows, "the cached report is not the report");
    let more = changes(&served_now)? - changes(&served)?;
    ensure!(more == COPIED_ROWS * COPIED_DELTA, "the copied rows change the report by {more}");

    let stats = first.query_one("SELECT hits, misses FROM shared_lru.stats WHERE cache = 'reports'", &[])?;
    let counted: (i64, i64) = (stats.get("hits"), stats.get("misses"));
    ensure!(counted.0 + counted.1 == 6, "the view counts {counted:?} hits and misses; it was asked six times");
    first.execute("SELECT shared_lru.validate('reports')", &[])?;
    println!(
        "\nVerdict: OK. Four answers came from the cache, each what the statement gave: {:.0} times as quick, {:.2} ms \
         instead of {:.2} ms.",
        truth.millis / served.millis,
        served.millis,
        truth.millis
    );
    Ok(())
}

/// pgbench's tables, with a history, and the cache.
fn fill(cluster: &Cluster) -> Result<()> {
    for arguments in [
        &["--initialize", "--quiet", "--scale", &SCALE.to_string()][..],
        &["--no-vacuum", "--transactions", "500", "--client", "2"],
    ] {
        let mut pgbench = cluster.client_program("pgbench");
        let output = pgbench.args(arguments).arg("postgres").stdin(Stdio::null()).output();
        let output = output.context("cannot run pgbench")?;
        ensure!(output.status.success(), "pgbench: {}", String::from_utf8_lossy(&output.stderr));
    }
    let mut client = cluster.connect("postgres")?;
    client.batch_execute("VACUUM ANALYZE")?;
    Ok(client.batch_execute("CREATE EXTENSION pg_shared_lru; SELECT shared_lru.create_cache('reports')")?)
}

/// The query cache is on when the transactions have ended that ran when it was asked for.
fn wait_until_on(client: &mut Client) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while client.query("SELECT FROM shared_lru.changes('pgbench_history')", &[])?.is_empty() {
        ensure!(Instant::now() < end, "the query cache is not on after {} s", PATIENCE.as_secs());
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn ask(client: &mut Client, statement: &str) -> Result<Asked> {
    let started = Instant::now();
    let messages = client.simple_query(statement)?;
    let millis = started.elapsed().as_secs_f64() * 1e3;
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|column| row.get(column).unwrap_or("NULL").to_owned()).collect())
        }
        _ => None,
    });
    Ok(Asked { rows: rows.collect(), millis })
}

fn say(what: &str, asked: &Asked) {
    println!("{:>9.2} ms  {what}", asked.millis);
}

/// Shows the plan of a statement, which runs for it.
fn explain(client: &mut Client, marked: &str) -> Result<Vec<String>> {
    let (mark, statement) = marked.split_once("*/").context("a mark")?;
    let statement = format!("{mark}*/ EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, BUFFERS OFF) {statement}");
    let lines: Vec<String> = ask(client, &statement)?.rows.into_iter().flatten().collect();
    lines.iter().for_each(|line| println!("    {line}"));
    Ok(lines)
}

/// The plan has to show what became of the result.
fn expect(plan: &[String], result: &str) -> Result<()> {
    ensure!(plan.first().is_some_and(|line| line.starts_with(NODE)), "the statement is not marked");
    ensure!(plan.iter().any(|line| line.trim() == result), "EXPLAIN does not say `{result}`");
    Ok(())
}

fn reads_tables(plan: &[String]) -> bool {
    plan.iter().any(|line| line.contains(TABLE))
}

fn copy(client: &mut Client) -> Result<()> {
    let mut rows = client.copy_in("COPY pgbench_history (tid, bid, aid, delta) FROM STDIN")?;
    for row in 0..COPIED_ROWS {
        writeln!(rows, "1\t1\t{}\t{COPIED_DELTA}", row + 1)?;
    }
    let copied = rows.finish()?;
    ensure!(copied == COPIED_ROWS as u64, "{copied} rows were copied");
    Ok(())
}

/// The sum of the report's last column.
fn changes(report: &Asked) -> Result<i64> {
    report.rows.iter().map(|row| Ok(row.last().context("a column")?.parse::<i64>()?)).sum()
}
