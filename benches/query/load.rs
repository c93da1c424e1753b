//! Clients that ask, a session that writes, and the ledger that tells whether an answer was stale.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Barrier, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use postgres::Client;

use crate::ways::{Way, World};

/// The writes of the whole program: the sum of all balances is their number.
#[derive(Default)]
pub struct Ledger {
    begun: AtomicU64,
    committed: AtomicU64,
    /// When each was known to be committed.
    times: Mutex<Vec<Instant>>,
    runs: AtomicU32,
}

impl Ledger {
    /// Writes once. There is one writer at a time.
    fn write(&self, write: impl FnOnce() -> Result<u64>) -> Result<()> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let rows = write()?;
        ensure!(rows == 1, "a write has changed {rows} rows");
        self.times.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
        self.committed.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// How long the answer has been stale when it was asked for, if it was: since the first commit that it lacks.
    fn stale_for(&self, answer: u64, committed_before: u64, asked: Instant) -> Option<Duration> {
        (answer < committed_before).then(|| {
            let times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
            asked.duration_since(times[answer as usize])
        })
    }
}

/// What is done to one way for some time.
pub struct Load {
    pub clients: u32,
    /// A second.
    pub writes: u32,
    pub accounts: u32,
    pub length: Duration,
}

/// What came of a run.
pub struct Outcome {
    pub answers: u64,
    pub answers_per_second: f64,
    pub p99_us: f64,
    pub stale: u64,
    pub stale_ms: f64,
    /// A second.
    pub written: f64,
}

/// What a client has seen.
#[derive(Default)]
struct Seen {
    micros: Vec<f64>,
    elapsed: Duration,
    stale: u64,
    stalest: Duration,
}

impl Load {
    /// Asks in one way.
    pub fn run(&self, world: &World, way: Way, ledger: &Ledger) -> Result<Outcome> {
        let key = format!("report-{}", ledger.runs.fetch_add(1, Ordering::Relaxed));
        world.cluster.connect("postgres")?.batch_execute("TRUNCATE memo; CHECKPOINT")?;
        let mut writer = world.cluster.connect("postgres")?;
        let begin = Barrier::new(self.clients as usize + 1);
        let done = AtomicBool::new(false);
        let before = ledger.committed.load(Ordering::SeqCst);
        let (seen, writing) = thread::scope(|scope| {
            let clients: Vec<_> =
                (0..self.clients).map(|_| scope.spawn(|| self.ask(world, way, &key, ledger, &begin))).collect();
            let written = scope.spawn(|| {
                begin.wait();
                self.write(&mut writer, way, ledger, &done)
            });
            let seen: Vec<Result<Seen>> =
                clients.into_iter().map(|client| client.join().expect("a client does not panic")).collect();
            done.store(true, Ordering::Relaxed);
            (seen, written.join().expect("the writer does not panic"))
        });
        let writing = writing?;
        let seen = seen.into_iter().collect::<Result<Vec<Seen>>>()?;
        let rate = seen.iter().map(|seen| seen.micros.len() as f64 / seen.elapsed.as_secs_f64()).sum();
        let stalest = seen.iter().map(|seen| seen.stalest).max().unwrap_or_default();
        let stale: u64 = seen.iter().map(|seen| seen.stale).sum();
        ensure!(stale == 0 || !way.is_never_stale(), "{stale} answers were stale, by up to {stalest:?}");
        let mut micros: Vec<f64> = seen.into_iter().flat_map(|seen| seen.micros).collect();
        micros.sort_by(f64::total_cmp);
        let written = ledger.committed.load(Ordering::SeqCst) - before;
        Ok(Outcome {
            answers: micros.len() as u64,
            answers_per_second: rate,
            p99_us: micros[(micros.len() * 99).div_ceil(100) - 1],
            stale,
            stale_ms: stalest.as_secs_f64() * 1e3,
            written: written as f64 / writing.as_secs_f64(),
        })
    }

    /// One client: connects, asks once without being measured, and begins with the others.
    fn ask(&self, world: &World, way: Way, key: &str, ledger: &Ledger, begin: &Barrier) -> Result<Seen> {
        let ready = way.asker(world, key).and_then(|mut asker| asker.ask().map(|_| asker));
        // The others wait for who has failed, too.
        begin.wait();
        let mut asker = ready?;
        let mut seen = Seen::default();
        let started = Instant::now();
        while seen.elapsed < self.length {
            let committed_before = ledger.committed.load(Ordering::SeqCst);
            let asked = Instant::now();
            let answer = asker.ask()?;
            seen.micros.push(asked.elapsed().as_secs_f64() * 1e6);
            let begun = ledger.begun.load(Ordering::SeqCst);
            ensure!(answer <= begun, "an answer has {answer} writes, but {begun} were begun");
            if let Some(age) = ledger.stale_for(answer, committed_before, asked) {
                seen.stale += 1;
                seen.stalest = seen.stalest.max(age);
            }
            seen.elapsed = started.elapsed();
        }
        Ok(seen)
    }

    /// Writes at the load's rate, or as quickly as it can; how long.
    fn write(&self, client: &mut Client, way: Way, ledger: &Ledger, done: &AtomicBool) -> Result<Duration> {
        let started = Instant::now();
        let statement = client.prepare(way.write())?;
        let mut count: u32 = 0;
        while !done.load(Ordering::Relaxed) {
            if self.writes == 0 {
                thread::sleep(Duration::from_millis(10));
                continue;
            }
            // Half an interval after the start, so that a short run of few writes has one in its middle.
            let due = Duration::from_secs_f64((f64::from(count) + 0.5) / f64::from(self.writes));
            match due.checked_sub(started.elapsed()) {
                Some(early) if !early.is_zero() => thread::sleep(early.min(Duration::from_millis(10))),
                _ => {
                    // Some account, another one each time.
                    let account = (count.wrapping_mul(7_919) % self.accounts + 1) as i32;
                    ledger.write(|| Ok(client.execute(&statement, &[&account])?))?;
                    count += 1;
                }
            }
        }
        Ok(started.elapsed())
    }
}
