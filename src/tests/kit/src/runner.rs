//! Runs scenarios one after the other, each in a process of its own, and reports like cargo's own harness.
//!
//! Cargo's harness runs tests in threads, and a process with threads cannot fork safely. A scenario that hangs is
//! killed after `TIME_LIMIT` with all its children and counted as failed.
//!
//! Understands a name filter, `--exact`, `--skip NAME`, `--list` and `--ignored` (nothing is); other flags are passed
//! over.

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::fork::{Child, Exit, lead_group};

/// A name and what to run.
pub type Scenario = (&'static str, fn());

const TIME_LIMIT: Duration = Duration::from_secs(300);

#[derive(Default)]
struct Arguments {
    filters: Vec<String>,
    skipped: Vec<String>,
    exact: bool,
    list: bool,
    ignored_only: bool,
}

impl Arguments {
    fn parse(arguments: impl Iterator<Item = String>) -> Arguments {
        const WITH_VALUE: [&str; 6] = ["--test-threads", "--format", "--color", "--logfile", "--shuffle-seed", "-Z"];
        let mut parsed = Arguments::default();
        let mut arguments = arguments.skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--exact" => parsed.exact = true,
                "--list" => parsed.list = true,
                "--ignored" => parsed.ignored_only = true,
                "--skip" => parsed.skipped.extend(arguments.next()),
                other if WITH_VALUE.contains(&other) => drop(arguments.next()),
                other if other.starts_with('-') => (),
                other => parsed.filters.push(other.to_owned()),
            }
        }
        parsed
    }

    fn wants(&self, name: &str) -> bool {
        let fits = |filter: &String| if self.exact { name == filter } else { name.contains(filter.as_str()) };
        !self.ignored_only
            && (self.filters.is_empty() || self.filters.iter().any(fits))
            && !self.skipped.iter().any(fits)
    }
}

/// Runs what the command line asks for. Call it from `main`, while the process has one thread.
pub fn run(scenarios: &[Scenario]) -> ExitCode {
    let arguments = Arguments::parse(std::env::args());
    let chosen: Vec<&Scenario> = scenarios.iter().filter(|(name, _)| arguments.wants(name)).collect();
    if arguments.list {
        chosen.iter().for_each(|(name, _)| println!("{name}: test"));
        println!("\n{} tests, 0 benchmarks", chosen.len());
        return ExitCode::SUCCESS;
    }
    let start = Instant::now();
    println!("\nrunning {} tests", chosen.len());
    let mut failures = Vec::new();
    for (name, body) in &chosen {
        print!("test {name} ... ");
        let _ = std::io::stdout().flush();
        let failure = run_one(name, *body);
        println!("{}", if failure.is_none() { "ok" } else { "FAILED" });
        failures.extend(failure.map(|text| (name, text)));
    }
    if !failures.is_empty() {
        println!("\nfailures:\n");
        failures.iter().for_each(|(name, text)| println!("---- {name} ----\n{text}"));
        println!("\nfailures:");
        failures.iter().for_each(|(name, _)| println!("    {name}"));
    }
    println!(
        "\ntest result: {}. {} passed; {} failed; 0 ignored; 0 measured; {} filtered out; finished in {:.2}s\n",
        if failures.is_empty() { "ok" } else { "FAILED" },
        chosen.len() - failures.len(),
        failures.len(),
        scenarios.len() - chosen.len(),
        start.elapsed().as_secs_f64()
    );
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(101) }
}

fn run_one(name: &str, body: fn()) -> Option<String> {
    let mut child = Child::spawn(name, || {
        lead_group();
        body();
    });
    match child.wait_for(TIME_LIMIT) {
        Some(Exit::Success) => None,
        Some(Exit::Failure(text)) => Some(text),
        Some(Exit::Killed(signal)) => Some(format!("killed by signal {signal}")),
        None => {
            child.kill_group();
            Some(format!("did not end within {TIME_LIMIT:?}"))
        }
    }
}
