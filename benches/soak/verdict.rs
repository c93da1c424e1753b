//! What the whole run came to, and whether it has failed.
//!
//! The bounds on slopes are stated here. They are far above what the kernel's and the server's bookkeeping does in a
//! minute, and far below what a leak would do: at some 400 statements a second of one backend, 4 bytes lost by each are
//! 96 kB a minute.

use std::collections::BTreeMap;

use anyhow::Result;
use bench::cli;
use bench::trend::Trend;
use serde::Serialize;

use crate::sampler::{Sampler, Trends};
use crate::world::World;

/// So many samples, without those of the beginning of each life, make a slope that is judged.
const MIN_POINTS: usize = 6;
/// And so much time of all lives together.
const MIN_MINUTES: f64 = 4.0;
/// A backend's own memory may grow by so much a minute.
const MAX_PRIVATE_SLOPE_BYTES: f64 = 64.0 * 1024.0;
/// The server's resident shared memory: it has a fixed size, and is touched little by little.
const MAX_SHARED_SLOPE_BYTES: f64 = 1024.0 * 1024.0;
/// Used bytes of a cache: 2 % of 16 MiB.
const MAX_USED_SLOPE_BYTES: f64 = 16.0 * 1024.0 * 1024.0 * 0.02;
/// By how much utilisation may fall in a minute.
const MAX_UTILISATION_LOSS: f64 = 0.01;

#[derive(Serialize)]
pub struct Summary {
    kind: &'static str,
    minutes: f64,
    samples: u32,
    kills: u32,
    terminations: u64,
    statements: u64,
    values_checked: u64,
    wrong_values: u64,
    unexpected_errors: u64,
    /// Sessions that the run itself has ended, by SQLSTATE, and names that had just changed.
    expected_errors: BTreeMap<String, u64>,
    resets: i64,
    crashes: usize,
    /// Times that `alter_cache` found no memory for both the old and the new.
    resizes_put_off: usize,
    /// By so much in a minute, each with its bound.
    #[serde(flatten)]
    slopes: BTreeMap<String, Option<f64>>,
    pub failures: Vec<String>,
}

/// How many processes of the server died that were not killed.
pub fn crashes(world: &World, log: &str) -> usize {
    log.matches("was terminated by signal").count().saturating_sub(world.kills() as usize)
}

/// What the server says of processes that died.
pub fn told_of_crashes(log: &str) -> impl Iterator<Item = &str> {
    let telling = ["TRAP:", "PANIC:", "was terminated by signal", "Failed process was running"];
    log.lines().filter(move |line| telling.iter().any(|text| line.contains(text)))
}

impl Summary {
    pub fn of(world: &World, sampler: &Sampler<'_>) -> Summary {
        let faults = world.tally.faults();
        let log = world.cluster.log();
        let count = |what: &str| log.matches(what).count();
        let mut summary = Summary {
            kind: "summary",
            minutes: world.elapsed().as_secs_f64() / 60.0,
            samples: sampler.samples,
            kills: world.kills(),
            terminations: world.tally.terminations(),
            statements: world.tally.statements(),
            values_checked: world.tally.values_checked(),
            wrong_values: faults.wrong_values(),
            unexpected_errors: faults.unexpected_errors(),
            expected_errors: faults.expected,
            resets: sampler.resets,
            crashes: crashes(world, &log),
            resizes_put_off: count("stays as it was made"),
            slopes: BTreeMap::new(),
            failures: Vec::new(),
        };
        let faults = faults.wrong.into_iter().chain(faults.unexpected);
        summary.failures.extend(faults.map(|(what, (count, first))| format!("{what}: {first} ({count} times)")));
        summary.judge();
        summary.judge_slopes(&sampler.trends);
        summary
    }

    fn judge(&mut self) {
        let mut fails = |failed: bool, what: String| {
            if failed {
                self.failures.push(what);
            }
        };
        fails(self.values_checked == 0, "no value was read".to_owned());
        fails(self.resets > 0, format!("{} partitions were reset", self.resets));
        fails(self.crashes > 0, format!("{} processes of the server died by themselves", self.crashes));
    }

    fn judge_slopes(&mut self, trends: &Trends) {
        let rise = |trend: &Trend| trend.slope(MIN_POINTS, MIN_MINUTES);
        let loss = |trend: &Trend| rise(trend).map(|slope| -slope);
        let bounded = [
            ("backend_private", rise(&trends.backend_private), MAX_PRIVATE_SLOPE_BYTES),
            ("shared_resident", rise(&trends.shared_resident), MAX_SHARED_SLOPE_BYTES),
            ("documents_used", rise(&trends.used[0]), MAX_USED_SLOPE_BYTES),
            ("sessions_used", rise(&trends.used[1]), MAX_USED_SLOPE_BYTES),
            ("documents_loss", loss(&trends.utilisation[0]), MAX_UTILISATION_LOSS),
            ("sessions_loss", loss(&trends.utilisation[1]), MAX_UTILISATION_LOSS),
        ];
        for (name, slope, bound) in bounded {
            self.slopes.insert(format!("{name}_slope"), slope);
            self.slopes.insert(format!("{name}_slope_bound"), Some(bound));
            if slope.is_some_and(|slope| slope > bound) {
                let slope = cli::digits(slope, 4);
                self.failures.push(format!("{name} rises by {slope} a minute, which must be at most {bound}"));
            }
        }
    }

    pub fn print(&self, json: bool) -> Result<()> {
        let printed = if json {
            cli::print_json(self)
        } else {
            cli::print_line(&format!(
                "{} statements, {} values checked, {} wrong; {} terminated, {} killed, {} errors unexpected",
                self.statements,
                self.values_checked,
                self.wrong_values,
                self.terminations,
                self.kills,
                self.unexpected_errors
            ))
        };
        printed.map_err(anyhow::Error::msg)
    }
}
