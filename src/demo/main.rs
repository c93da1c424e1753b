//! `make demo`, in two scenes: a cache that two backends of a throwaway PostgreSQL cluster share, and the query cache
//! (`queries`).
//!
//! In the first the cache is too small for what they do. They replay a recorded index build (see benches/data) through
//! `shared_lru.get` and `shared_lru.put`: the records are dealt out alternately; a get that misses is followed by a fill of
//! that key. Every value says which key it belongs to and which write made it, and its bytes follow from that, so every
//! value that is read is checked to the last byte: it must be what was last written to that key, whichever backend wrote
//! it. At the end one backend drains the cache, and every entry is accounted for: each once, in the order of its recency,
//! with the right value.
//!
//! Exits with 1 if a check fails. The clusters are removed in any case, also on Ctrl-C.

mod queries;
mod report;
mod worker;

use std::collections::HashSet;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use postgres::Client;
use report::Sample;
use testkit::cluster::Cluster;
use testkit::traces::{Access, Format, TraceReader};
use worker::{Account, Board, CACHE};

const TRACE: &str = "benches/data/diskann_build_prefix.bin.xz";
const CACHE_BYTES: i64 = 1 << 20;
const BACKENDS: usize = 2;
const SAMPLES: usize = 72;

fn main() -> Result<()> {
    replay_a_build().context("the replay")?;
    queries::play().context("the report")
}

/// The first scene.
fn replay_a_build() -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(TRACE);
    let trace: Vec<Access> = TraceReader::open(&path, Format::Diskann, None)?.collect::<Result<_, _>>()?;
    println!("Starting a throwaway PostgreSQL cluster on a private socket");
    let cluster = Cluster::start(&[("shared_preload_libraries", "pg_shared_lru"), ("pg_shared_lru.memory", "4MB")])?;
    let mut admin = cluster.connect("postgres")?;
    admin.batch_execute("CREATE EXTENSION pg_shared_lru")?;
    admin
        .execute("SELECT shared_lru.create_cache($1, $2, policy => 'lru', partitions => 1)", &[&CACHE, &CACHE_BYTES])?;
    println!(
        "Replaying {} recorded accesses of an index build from {BACKENDS} backends over one cache of {} KiB",
        trace.len(),
        CACHE_BYTES >> 10
    );

    let board = Board::new(&trace);
    let started = Instant::now();
    let (account, samples) = replay(&cluster, &mut admin, &trace, &board)?;
    let seconds = started.elapsed().as_secs_f64();
    report::print_replay(&account, &samples, seconds);
    report::print_views(&mut admin)?;

    let drained = drain(&mut admin, &board).context("the drain")?;
    let stats = admin.query_one("SELECT hits, misses, entries FROM shared_lru.stats", &[])?;
    let counted: (i64, i64) = (stats.get("hits"), stats.get("misses"));
    ensure!(counted == (account.hits, account.misses), "the view counts {counted:?}, the backends {account:?}");
    ensure!(stats.get::<_, i64>("entries") == 0, "the drain left entries behind");
    println!(
        "\nVerdict: OK. {} values read were what was last written, {drained} entries were drained, each once, least recently \
         used first, and the cache validates.",
        account.hits
    );
    Ok(())
}

/// Runs the backends, and watches the cache's memory meanwhile.
fn replay(cluster: &Cluster, admin: &mut Client, trace: &[Access], board: &Board) -> Result<(Account, Vec<Sample>)> {
    let done = AtomicUsize::new(0);
    thread::scope(|scope| {
        let done = &done;
        let workers: Vec<_> = (0..BACKENDS)
            .map(|backend| {
                scope.spawn(move || -> Result<Account> {
                    let client = cluster.connect("postgres")?;
                    let mine = trace.iter().enumerate().skip(backend).step_by(BACKENDS);
                    let account = worker::run(client, mine, board, done);
                    if account.is_err() {
                        board.stop();
                    }
                    account
                })
            })
            .collect();
        let mut samples = Vec::with_capacity(SAMPLES);
        while !workers.iter().all(|worker| worker.is_finished()) {
            let progress = done.load(Ordering::Relaxed);
            if progress * SAMPLES >= samples.len() * trace.len() {
                samples.push(report::sample(admin)?);
                show_progress(progress, trace.len());
            }
            thread::sleep(Duration::from_millis(20));
        }
        samples.push(report::sample(admin)?);
        show_progress(trace.len(), trace.len());
        println!();
        let mut total = Account::default();
        for worker in workers {
            total.add(worker.join().expect("a worker does not panic")?);
        }
        Ok((total, samples))
    })
}

fn show_progress(done: usize, total: usize) {
    if std::io::stdout().is_terminal() {
        print!("\r{:3} %", done * 100 / total);
        let _ = std::io::stdout().flush();
    }
}

/// Takes all entries out and checks them against what was there before and what was last written.
fn drain(client: &mut Client, board: &Board) -> Result<usize> {
    client.execute("SELECT shared_lru.validate($1)", &[&CACHE])?;
    let before = client.query("SELECT key FROM shared_lru.entries($1) ORDER BY age DESC", &[&CACHE])?;
    let expected: Vec<Vec<u8>> = before.iter().map(|row| row.get(0)).collect();
    let rows = client.query("SELECT key, value FROM shared_lru.drain($1)", &[&CACHE])?;
    let keys: Vec<Vec<u8>> = rows.iter().map(|row| row.get(0)).collect();
    ensure!(keys == expected, "the drain gave other keys, or another order, than the entries by age");
    ensure!(keys.iter().collect::<HashSet<_>>().len() == keys.len(), "the drain gave a key twice");
    for row in &rows {
        board.check_last(row.get(0), row.get(1))?;
    }
    client.execute("SELECT shared_lru.validate($1)", &[&CACHE])?;
    Ok(rows.len())
}
