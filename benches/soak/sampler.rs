//! Looks at the caches and at the server, and prints a line a sample.
//!
//! Counters of a cache begin anew with its memory, so they are added up look by look; what is counted between the last look
//! and the end of a life is lost. The sampler's session is one that nobody terminates.

use std::time::Duration;

use anyhow::Result;
use bench::cli;
use bench::timing::share;
use bench::trend::Trend;
use serde::Serialize;

use crate::memory;
use crate::session::{Role, Session};
use crate::tally::Kind;
use crate::verdict;
use crate::world::World;

const LOOKS_PER_SAMPLE: u32 = 30;
/// So long a life is not looked at for slopes: caches fill, sessions warm up.
const WARM_UP: Duration = Duration::from_secs(50);

const LOOK: &str = "SELECT cache, entries, live_bytes, region_bytes, free_bytes, utilisation, \
                           hits, misses, evictions, expirations, refused, resets \
                      FROM shared_lru.stats JOIN shared_lru.memory USING (cache)";

/// What is told of a cache for a sample. What is counted is of the whole sample, all else of its end.
#[derive(Clone, Default, Serialize)]
pub struct CacheSample {
    pub entries: i64,
    pub live_bytes: i64,
    pub region_bytes: i64,
    /// The largest that it was seen.
    pub region_bytes_max: i64,
    pub free_bytes: i64,
    pub utilisation: f64,
    /// Of all looks.
    pub utilisation_min: f64,
    pub hit_ratio: Option<f64>,
    pub evictions: i64,
    pub expirations: i64,
    pub refused: i64,
    pub resets: i64,
}

#[derive(Serialize)]
struct Line<'a> {
    kind: &'static str,
    /// Minutes since the start.
    minute: f64,
    /// Kills before.
    life: u32,
    life_began_minute: f64,
    kills: u32,
    terminations: u64,
    statements_per_second: f64,
    /// What clients waited for at longest, in milliseconds.
    longest_get_ms: Option<f64>,
    longest_put_ms: Option<f64>,
    longest_change_ms: Option<f64>,
    longest_nothing_ms: Option<f64>,
    backend_private_bytes: Option<u64>,
    backend_resident_bytes: Option<u64>,
    shared_resident_bytes: Option<u64>,
    values_checked: u64,
    wrong_values: u64,
    unexpected_errors: u64,
    documents: &'a CacheSample,
    sessions: &'a CacheSample,
}

/// Counters as they stand, in the order of [`LOOK`].
type Counters = [i64; 6];

/// One cache between two lines.
#[derive(Default)]
struct Watched {
    last: Counters,
    counted: Counters,
    seen: Option<CacheSample>,
    utilisation_min: Option<f64>,
    region_bytes_max: i64,
}

/// What must not only grow, or fall.
#[derive(Default)]
pub struct Trends {
    pub backend_private: Trend,
    pub shared_resident: Trend,
    pub used: [Trend; 2],
    pub utilisation: [Trend; 2],
}

impl Trends {
    /// A life begins.
    fn begin(&mut self) {
        self.backend_private.begin();
        self.shared_resident.begin();
        self.used.iter_mut().chain(&mut self.utilisation).for_each(Trend::begin);
    }
}

pub struct Sampler<'w> {
    world: &'w World,
    session: Session<'w>,
    watched: [Watched; 2],
    pub trends: Trends,
    pub resets: i64,
    pub samples: u32,
    life: u32,
    statements: u64,
    terminations: u64,
    kills: u32,
    crashes: usize,
}

impl<'w> Sampler<'w> {
    pub fn new(world: &'w World) -> Self {
        Sampler {
            world,
            session: Session::new(world, Role::Keeper),
            watched: Default::default(),
            trends: Trends::default(),
            resets: 0,
            samples: 0,
            life: 0,
            statements: 0,
            terminations: 0,
            kills: 0,
            crashes: 0,
        }
    }

    /// Looks and prints until the time is over.
    ///
    /// # Errors
    /// Nobody reads what is printed.
    pub fn run(&mut self) -> Result<()> {
        let (length, sample) = (self.world.args.length, self.world.args.sample);
        let mut begun = Duration::ZERO;
        while begun < length {
            let end = (begun + sample).min(length);
            for look in 1..=LOOKS_PER_SAMPLE {
                self.world.sleep_until(begun + (end - begun) * look / LOOKS_PER_SAMPLE);
                self.look();
            }
            self.line(begun)?;
            self.tell_of_crashes();
            begun = end;
        }
        Ok(())
    }

    /// At once, for the server's log goes with the run.
    fn tell_of_crashes(&mut self) {
        let log = self.world.cluster.log();
        let crashes = verdict::crashes(self.world, &log);
        if crashes > self.crashes {
            verdict::told_of_crashes(&log).for_each(|line| eprintln!("soak: the server says: {line}"));
        }
        self.crashes = crashes;
    }

    fn look(&mut self) {
        let Ok(rows) = self.session.ask(Kind::Other, LOOK, &[]) else { return };
        for row in rows {
            // `sessions` has two names.
            let watched = &mut self.watched[usize::from(row.get::<_, &str>(0) != "documents")];
            let counters: Counters = [6, 7, 8, 9, 10, 11].map(|column| row.get(column));
            let is_anew = counters.iter().zip(&watched.last).any(|(now, before)| now < before);
            let before = if is_anew { Counters::default() } else { watched.last };
            for ((sum, now), before) in watched.counted.iter_mut().zip(counters).zip(before) {
                *sum += now - before;
            }
            watched.last = counters;
            let (region_bytes, utilisation): (i64, f64) = (row.get(3), row.get(5));
            watched.region_bytes_max = watched.region_bytes_max.max(region_bytes);
            let lowest = watched.utilisation_min.map_or(utilisation, |lowest| lowest.min(utilisation));
            watched.utilisation_min = Some(lowest);
            watched.seen = Some(CacheSample {
                entries: row.get(1),
                live_bytes: row.get(2),
                region_bytes,
                free_bytes: row.get(4),
                utilisation,
                ..CacheSample::default()
            });
        }
    }

    fn line(&mut self, begun: Duration) -> Result<()> {
        let (world, now) = (self.world, self.world.elapsed());
        let kills = world.kills();
        if kills != self.life {
            self.life = kills;
            self.trends.begin();
        }
        let is_warm = begun >= world.life_began() + WARM_UP;
        let [documents, sessions] = self.watched.each_mut().map(Watched::take);
        self.resets += documents.resets + sessions.resets;
        let backend = Some(world.steady_backend()).filter(|backend| *backend > 0);
        let resident = backend.and_then(memory::of_process);
        let shared = backend.and_then(memory::shared_by_server_of);
        let minute = now.as_secs_f64() / 60.0;
        if is_warm {
            let push = |trend: &mut Trend, value: Option<f64>| value.into_iter().for_each(|y| trend.push(minute, y));
            push(&mut self.trends.backend_private, resident.map(|resident| resident.private_bytes as f64));
            push(&mut self.trends.shared_resident, shared.map(|bytes| bytes as f64));
            for (at, cache) in [&documents, &sessions].into_iter().enumerate() {
                // Until it is full it grows, as it should.
                if cache.evictions > 0 {
                    let used = cache.region_bytes - cache.free_bytes;
                    push(&mut self.trends.used[at], Some(used as f64));
                    push(&mut self.trends.utilisation[at], Some(cache.utilisation));
                }
            }
        }
        self.samples += 1;
        let [longest_get_ms, longest_put_ms, longest_change_ms, longest_nothing_ms] = world.tally.take_longest();
        let (statements, terminations, faults) =
            (world.tally.statements(), world.tally.terminations(), world.tally.faults());
        let line = Line {
            kind: "sample",
            minute,
            life: self.life,
            life_began_minute: world.life_began().as_secs_f64() / 60.0,
            kills: kills - self.kills,
            terminations: terminations - self.terminations,
            statements_per_second: (statements - self.statements) as f64 / (now - begun).as_secs_f64(),
            longest_get_ms,
            longest_put_ms,
            longest_change_ms,
            longest_nothing_ms,
            backend_private_bytes: resident.map(|resident| resident.private_bytes),
            backend_resident_bytes: resident.map(|resident| resident.resident_bytes),
            shared_resident_bytes: shared,
            values_checked: world.tally.values_checked(),
            wrong_values: faults.wrong_values(),
            unexpected_errors: faults.unexpected_errors(),
            documents: &documents,
            sessions: &sessions,
        };
        (self.statements, self.terminations, self.kills) = (statements, terminations, kills);
        line.print(world.args.json)
    }
}

impl Watched {
    /// The sample that ends here.
    fn take(&mut self) -> CacheSample {
        let [hits, misses, evictions, expirations, refused, resets] = std::mem::take(&mut self.counted);
        let seen = self.seen.take().unwrap_or_default();
        CacheSample {
            utilisation_min: self.utilisation_min.take().unwrap_or_default(),
            region_bytes_max: std::mem::take(&mut self.region_bytes_max),
            hit_ratio: share(hits as u64, (hits + misses) as u64),
            evictions,
            expirations,
            refused,
            resets,
            ..seen
        }
    }
}

pub fn print_head() -> Result<()> {
    cli::print_line(&format!(
        "{:>6}{:>5}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}{:>10}{:>10}{:>9}{:>9}{:>9}",
        "minute",
        "life",
        "per s",
        "hits d",
        "hits s",
        "used d",
        "used s",
        "get ms",
        "put ms",
        "change ms",
        "nothing",
        "own KiB",
        "checked",
        "wrong"
    ))
    .map_err(anyhow::Error::msg)
}

impl Line<'_> {
    fn print(&self, json: bool) -> Result<()> {
        let printed = if json {
            cli::print_json(self)
        } else {
            cli::print_line(&format!(
                "{:>6.2}{:>5}{:>9.0}{:>9}{:>9}{:>9.3}{:>9.3}{:>9}{:>9}{:>10}{:>10}{:>9}{:>9}{:>9}",
                self.minute,
                self.life,
                self.statements_per_second,
                cli::digits(self.documents.hit_ratio, 3),
                cli::digits(self.sessions.hit_ratio, 3),
                self.documents.utilisation,
                self.sessions.utilisation,
                cli::digits(self.longest_get_ms, 1),
                cli::digits(self.longest_put_ms, 1),
                cli::digits(self.longest_change_ms, 1),
                cli::digits(self.longest_nothing_ms, 1),
                cli::digits(self.backend_private_bytes.map(|bytes| (bytes >> 10) as f64), 0),
                self.values_checked,
                self.wrong_values
            ))
        };
        printed.map_err(anyhow::Error::msg)
    }
}
