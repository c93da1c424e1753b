//! Runs the parts case by case, each case in a process of its own and as many at a time as there are processors, and
//! closes each part with one line that says how much was seen.
//!
//! The command line: `--all` for everything instead of the part that `make test` runs; `--region NUMBER` for one
//! damaged region of each shape; `--list`; words that a case's name must contain one of. A case that does not end is killed after [`TIME_LIMIT`] and has failed.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::support::fork::{Child, Exit, lead_group, shared_words};

const TIME_LIMIT: Duration = Duration::from_secs(1800);

/// How much of a part is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Chosen by a fixed seed, so that all parts together take two minutes at most on two busy processors.
    Sample,
    /// All of it.
    All,
}

impl Extent {
    /// One of two numbers.
    pub fn choose<T>(self, sample: T, all: T) -> T {
        match self {
            Extent::Sample => sample,
            Extent::All => all,
        }
    }
}

/// What the cases of a part have seen, counted together.
pub struct Tally(&'static [AtomicU64]);

impl Tally {
    /// Adds to one of the part's counters.
    pub fn add(&self, counter: usize, count: u64) {
        self.0[counter].fetch_add(count, Ordering::Relaxed);
    }
}

/// One thing to run. It panics if something is wrong.
pub struct Case {
    /// What it is, and under which policy.
    pub name: String,
    /// Runs in a process of its own.
    pub run: Box<dyn Fn(&Tally)>,
}

/// Cases that look for the same.
pub struct Part {
    /// What it is about.
    pub name: &'static str,
    /// What its counters count.
    pub counters: &'static [&'static str],
    /// What to run.
    pub cases: Vec<Case>,
}

/// The command line.
pub struct Arguments {
    extent: Extent,
    region: Option<u64>,
    list: bool,
    filters: Vec<String>,
}

impl Arguments {
    /// Those that this process was started with.
    pub fn parse() -> Arguments {
        let mut arguments = Arguments { extent: Extent::Sample, region: None, list: false, filters: Vec::new() };
        let mut given = std::env::args().skip(1);
        while let Some(argument) = given.next() {
            match argument.as_str() {
                "--region" => arguments.region = given.next().and_then(|number| number.parse().ok()),
                "--all" => arguments.extent = Extent::All,
                "--list" => arguments.list = true,
                other if other.starts_with('-') => (),
                other => arguments.filters.push(other.to_owned()),
            }
        }
        arguments
    }

    /// How much to run.
    pub fn extent(&self) -> Extent {
        self.extent
    }

    /// The damaged region to run alone.
    pub fn region(&self) -> Option<u64> {
        self.region
    }

    fn wants(&self, part: &Part, case: &Case) -> bool {
        let name = format!("{}: {}", part.name, case.name);
        self.filters.is_empty() || self.filters.iter().any(|filter| name.contains(filter.as_str()))
    }
}

/// Runs what the command line asks for. Call it from `main`, while the process has one thread.
pub fn run(arguments: &Arguments, parts: Vec<Part>) -> ExitCode {
    let start = Instant::now();
    let (mut passed, mut failed) = (0, 0);
    for part in &parts {
        let cases: Vec<&Case> = part.cases.iter().filter(|case| arguments.wants(part, case)).collect();
        if arguments.list {
            cases.iter().for_each(|case| println!("{}: {}: test", part.name, case.name));
        } else if !cases.is_empty() {
            let failures = run_part(part, &cases);
            passed += cases.len() - failures;
            failed += failures;
        }
    }
    if arguments.list {
        return ExitCode::SUCCESS;
    }
    println!(
        "\ntest result: {}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out; finished in \
         {:.2}s\n",
        if failed == 0 { "ok" } else { "FAILED" },
        start.elapsed().as_secs_f64()
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(101) }
}

/// Runs the cases of a part and says how many have failed.
fn run_part(part: &Part, cases: &[&Case]) -> usize {
    let tally = Tally(shared_words(part.counters.len()));
    let at_once = std::thread::available_parallelism().map_or(1, |count| count.get());
    let mut waiting = cases.iter();
    let mut running: Vec<(Child, &Case, Instant)> = Vec::new();
    let mut failures = 0;
    loop {
        while running.len() < at_once
            && let Some(case) = waiting.next()
        {
            let body = || {
                lead_group();
                (case.run)(&tally);
            };
            running.push((Child::spawn(&case.name, body), case, Instant::now()));
        }
        if running.is_empty() {
            break;
        }
        running.retain_mut(|(child, case, start)| {
            let failure = match child.try_wait() {
                None if start.elapsed() < TIME_LIMIT => return true,
                None => {
                    child.kill_group();
                    format!("did not end within {TIME_LIMIT:?}")
                }
                Some(Exit::Success) => return false,
                Some(Exit::Failure(text)) => text,
                Some(Exit::Killed(signal)) => format!("killed by signal {signal}"),
            };
            failures += 1;
            println!("FAILED {}: {}\n    {}", part.name, case.name, failure.trim_end().replace('\n', "\n    "));
            false
        });
        std::thread::sleep(Duration::from_millis(1));
    }
    let counts = part.counters.iter().zip(tally.0);
    let counts: Vec<String> =
        counts.map(|(name, count)| format!("{} {name}", grouped(count.load(Ordering::Relaxed)))).collect();
    let verdict = if failures == 0 { "all well".to_owned() } else { format!("{failures} FAILED") };
    println!("{}: {} cases, {}: {verdict}", part.name, cases.len(), counts.join(", "));
    failures
}

/// A number with its thousands apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).expect("digits")).collect();
    groups.join(",")
}

/// Different failures of one case, each with how often it was seen and where first.
#[derive(Default)]
pub struct Findings(std::collections::BTreeMap<String, (u64, String)>);

impl Findings {
    /// Notes a failure.
    pub fn note(&mut self, what: String, place: impl FnOnce() -> String) {
        self.0.entry(what).or_insert_with(|| (0, place())).0 += 1;
    }

    /// Panics with all of them, if there are any.
    pub fn report(self) {
        if !self.0.is_empty() {
            let lines: Vec<String> = (self.0.iter().take(12))
                .map(|(what, (count, first))| format!("{count} times, first {first}: {what}"))
                .collect();
            panic!("{} kinds of failure\n{}", self.0.len(), lines.join("\n"));
        }
    }
}

/// What a panic said.
pub fn panic_text(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str).or(payload.downcast_ref::<&str>().copied());
    format!("panic: {}", text.unwrap_or("with something that is no text"))
}
