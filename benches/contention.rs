//! Several processes on one cache: how operations per second grow with them, and what one writer costs readers.
//!
//! ```text
//! cargo bench --no-default-features --bench contention -- \
//!     --processes N [--reads PERCENT] [--skew uniform|zipf:S] [--sizes SIZES] [--keys K] [--policy lru|clock|s3-fifo] \
//!     [--partitions P] [--against memcached,redis] [--seconds S] [--runs R] [--json]
//! ```
//!
//! *Scaling*: 1, 2, 4, … N processes, forked from the one that filled the cache, do the same mix of reads and puts on
//! the same keys, for `--seconds`. A read that misses is followed by a put. The figure is operations per second of all
//! processes together, and its ratio to one process.
//!
//! *Beside a writer*: N processes only read; beside them first nothing runs, then a process that only computes, then one
//! that only writes, over and over, into the same partitions (one partition, unless `--partitions` says otherwise). The
//! loss against the first includes the processor's time that any further process takes; that against the second is what
//! locks and cache lines cost.
//!
//! Keys are 16 hexadecimal digits. Which key comes next, and whether it is read, is drawn before the time is taken. Of
//! every 64 reads one is compared byte for byte with the values that may have been stored there. Every figure is the
//! median of `--runs` runs, all caches and numbers of processes taking turns, with the least and the most.
//!
//! `--against` runs memcached and redis-server, where they are installed, on Unix sockets with the same memory: same
//! keys, values and shares, one request at a time and one connection a process. They pay a round trip through a socket
//! and two changes of process for each request, which is the point of a cache in shared memory, and on a machine with
//! few processors they share them with their clients.

use std::process::ExitCode;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bench::cli;
use bench::contenders::PolicyArgs;
use bench::servers::{Server, ServerKind};
use bench::timing::{Measured, share};
use bench::workers::{Done, Load, LoadArgs, Role, Target, Worker};
use clap::Parser;
use pg_shared_lru::{Config, SharedCache};
use serde::Serialize;
use testkit::fork;

/// Runs several processes on one cache.
#[derive(Parser, Clone)]
#[command(name = "contention")]
struct Args {
    /// The most processes.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=64))]
    processes: u32,
    /// Reads among the operations, in per cent; the others are puts.
    #[arg(long, default_value_t = 95, value_parser = clap::value_parser!(u32).range(..=100))]
    reads: u32,
    #[command(flatten)]
    load: LoadArgs,
    /// Memory of each cache.
    #[arg(long, default_value_t = 256 << 20)]
    bytes: u64,
    #[command(flatten)]
    policy: PolicyArgs,
    /// Partitions of the slab cache [default: the engine chooses; one where readers meet a writer].
    #[arg(long)]
    partitions: Option<u32>,
    /// Reads of the slab cache see the value where it lies instead of copying it out.
    #[arg(long)]
    in_place: bool,
    /// Servers to compare with.
    #[arg(long, value_enum, value_delimiter = ',', num_args = 1)]
    against: Vec<ServerKind>,
    /// Length of each run.
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
    /// Runs of each kind.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// JSON objects, one a line, instead of a table.
    #[arg(long)]
    json: bool,
}

/// What a process tells the one that started it.
const WORDS_PER_PROCESS: usize = 4;
const DONE: usize = 0;
const READS: usize = 1;
const HITS: usize = 2;
const NANOSECONDS: usize = 3;

#[derive(Serialize)]
struct Line<'a> {
    scenario: &'static str,
    cache: &'a str,
    policy: &'a str,
    partitions: Option<u32>,
    /// Processes that do the operations counted here.
    processes: u32,
    beside: &'static str,
    reads_percent: u32,
    skew: String,
    sizes: &'a str,
    keys: u32,
    /// None where nothing was read.
    hit_ratio: Option<f64>,
    ops_per_second: f64,
    ops_per_second_min: f64,
    ops_per_second_max: f64,
    /// Over one process of the same cache: the median of the ratios, run by run.
    to_one_process: Option<f64>,
    /// Over the slab cache with as many processes.
    to_slab: Option<f64>,
    /// Fewer operations than with nothing beside, in per cent; and than beside a process that only computes.
    loss_percent: Option<f64>,
    loss_to_computing_percent: Option<f64>,
}

/// Operations per second over the runs, and how many of the reads were hits.
#[derive(Clone, Default)]
struct Rates {
    per_second: Measured,
    reads: u64,
    hits: u64,
}

fn main() -> ExitCode {
    cli::main("contention", run)
}

fn run(args: Args) -> Result<(), String> {
    let load = Load::new(&args.load)?;
    if !args.json {
        print_head(&args)?;
    }
    scaling(&args, &load)?;
    beside_a_writer(&args, &load)
}

/// 1, 2, 4, … and the number itself.
fn process_counts(most: u32) -> Vec<u32> {
    let mut counts: Vec<u32> = (0..).map(|power| 1 << power).take_while(|count| *count < most).collect();
    counts.push(most);
    counts
}

fn scaling(args: &Args, load: &Load) -> Result<(), String> {
    let mut targets = vec![("slab", slab(args, args.partitions)?)];
    for kind in &args.against {
        match Server::start(*kind, args.bytes)? {
            Some(server) => targets.push((kind.name(), Target::Server(server))),
            None => eprintln!("contention: {} is not installed and is left out", kind.name()),
        }
    }
    for (_, target) in &targets {
        load.fill(target)?;
    }
    let counts = process_counts(args.processes);
    let mut rates = vec![vec![Rates::default(); counts.len()]; targets.len()];
    for run in 0..args.runs {
        for (at_count, count) in counts.iter().enumerate() {
            for (at_target, (_, target)) in targets.iter().enumerate() {
                let roles = vec![Role::Mixed { reads: args.reads }; *count as usize];
                rates[at_target][at_count].note(&measure(args, load, target, &roles, run)?);
            }
        }
    }
    for (at_target, (name, target)) in targets.iter().enumerate() {
        let own = &rates[at_target];
        for (at_count, count) in counts.iter().enumerate() {
            let line = Line {
                to_one_process: Some(own[at_count].per_second.over(&own[0].per_second).median()),
                to_slab: Some(own[at_count].per_second.over(&rates[0][at_count].per_second).median()),
                ..Line::new("scaling", args, name, target, *count, args.reads, &own[at_count])
            };
            line.print(args)?;
        }
        target.validate()?;
    }
    Ok(())
}

fn beside_a_writer(args: &Args, load: &Load) -> Result<(), String> {
    let target = slab(args, Some(args.partitions.unwrap_or(1)))?;
    load.fill(&target)?;
    let besides = [("nothing", None), ("computing", Some(Role::Idler)), ("writer", Some(Role::Writer))];
    let counts = process_counts(args.processes);
    let mut rates = vec![vec![Rates::default(); besides.len()]; counts.len()];
    for run in 0..args.runs {
        for (at_count, count) in counts.iter().enumerate() {
            for (at_beside, (_, beside)) in besides.iter().enumerate() {
                let mut roles = vec![Role::Mixed { reads: 100 }; *count as usize];
                roles.extend(*beside);
                let done = measure(args, load, &target, &roles, run)?;
                rates[at_count][at_beside].note(&done[..*count as usize]);
            }
        }
    }
    for (rates, count) in rates.iter().zip(&counts) {
        let loss = |own: &Rates, than: &Rates| 100.0 * (1.0 - own.per_second.over(&than.per_second).median());
        for (at_beside, (beside, role)) in besides.iter().enumerate() {
            let own = &rates[at_beside];
            let line = Line {
                beside,
                loss_percent: role.is_some().then(|| loss(own, &rates[0])),
                loss_to_computing_percent: (*role == Some(Role::Writer)).then(|| loss(own, &rates[1])),
                ..Line::new("beside a writer", args, "slab", &target, *count, 100, own)
            };
            line.print(args)?;
        }
    }
    target.validate()
}

fn slab(args: &Args, partitions: Option<u32>) -> Result<Target, String> {
    let bytes = usize::try_from(args.bytes).map_err(|_| "--bytes: more than memory can be".to_owned())?;
    let mut config = Config::bytes(bytes).policy(args.policy.policy);
    if let Some(partitions) = partitions {
        config = config.partitions(partitions);
    }
    let cache = SharedCache::shared_mapping(&config).map_err(|error| format!("slab: {error}"))?;
    Ok(Target::Slab { cache: Rc::new(cache), in_place: args.in_place })
}

/// Lets a process run in each of these roles for a while, all at once, and says what each has done.
fn measure(args: &Args, load: &Load, target: &Target, roles: &[Role], run: u32) -> Result<Vec<Done>, String> {
    let words = fork::shared_words(3 + roles.len() * WORDS_PER_PROCESS);
    let [ready, go, stop] = [&words[0], &words[1], &words[2]];
    let children = roles.iter().zip(words[3..].chunks_exact(WORDS_PER_PROCESS)).enumerate();
    let mut children: Vec<fork::Child> = children
        .map(|(index, (role, told))| {
            fork::Child::spawn(format!("{index}"), || {
                let seed = args.load.seed + (u64::from(run) << 32) + index as u64;
                let mut worker = Worker::new(load, target, *role, seed).unwrap_or_else(|error| panic!("{error}"));
                ready.fetch_add(1, Ordering::SeqCst);
                while go.load(Ordering::Acquire) == 0 {
                    std::thread::sleep(Duration::from_micros(50));
                }
                let started = Instant::now();
                while stop.load(Ordering::Relaxed) == 0 {
                    worker.step().unwrap_or_else(|error| panic!("{error}"));
                }
                let done = worker.done();
                told[NANOSECONDS].store(started.elapsed().as_nanos() as u64, Ordering::Relaxed);
                told[DONE].store(done.operations, Ordering::Relaxed);
                told[READS].store(done.reads, Ordering::Relaxed);
                told[HITS].store(done.hits, Ordering::Release);
            })
        })
        .collect();
    while ready.load(Ordering::SeqCst) < roles.len() as u64 {
        fork::assert_all_run(&mut children);
        std::thread::sleep(Duration::from_micros(200));
    }
    go.store(1, Ordering::Release);
    std::thread::sleep(Duration::from_secs_f64(args.seconds));
    stop.store(1, Ordering::Release);
    fork::join(children);
    let told = |told: &[AtomicU64]| Done {
        operations: told[DONE].load(Ordering::Acquire),
        reads: told[READS].load(Ordering::Acquire),
        hits: told[HITS].load(Ordering::Acquire),
        nanoseconds: told[NANOSECONDS].load(Ordering::Acquire),
    };
    Ok(words[3..].chunks_exact(WORDS_PER_PROCESS).map(told).collect())
}

impl Rates {
    fn note(&mut self, done: &[Done]) {
        let per_second = |done: &Done| done.operations as f64 * 1e9 / done.nanoseconds as f64;
        self.per_second.push(done.iter().map(per_second).sum());
        self.reads += done.iter().map(|done| done.reads).sum::<u64>();
        self.hits += done.iter().map(|done| done.hits).sum::<u64>();
    }
}

fn print_head(args: &Args) -> Result<(), String> {
    cli::print_line(&format!(
        "{} keys ({}), values {}, {} bytes, {} processors",
        args.load.keys,
        args.load.skew,
        args.load.sizes,
        args.bytes,
        std::thread::available_parallelism().map_or(1, usize::from)
    ))?;
    if !args.against.is_empty() {
        cli::print_line("servers pay a round trip through a socket for each request")?;
    }
    cli::print_line(&format!(
        "{:<17}{:<11}{:<7}{:>6}{:>7}{:>11}{:>9}{:>8}{:>12}{:>24}{:>8}{:>9}{:>9}{:>14}",
        "scenario",
        "cache",
        "policy",
        "parts",
        "procs",
        "beside",
        "reads %",
        "hit %",
        "ops/s",
        "min-max",
        "to one",
        "to slab",
        "loss %",
        "to computing"
    ))
}

impl<'a> Line<'a> {
    fn new(
        scenario: &'static str,
        args: &'a Args,
        cache: &'a str,
        target: &Target,
        processes: u32,
        reads_percent: u32,
        rates: &Rates,
    ) -> Self {
        Line {
            scenario,
            cache,
            policy: target.policy(),
            partitions: target.partitions(),
            processes,
            beside: "nothing",
            reads_percent,
            skew: args.load.skew.to_string(),
            sizes: &args.load.sizes,
            keys: args.load.keys,
            hit_ratio: share(rates.hits, rates.reads),
            ops_per_second: rates.per_second.median(),
            ops_per_second_min: rates.per_second.min(),
            ops_per_second_max: rates.per_second.max(),
            to_one_process: None,
            to_slab: None,
            loss_percent: None,
            loss_to_computing_percent: None,
        }
    }

    fn print(&self, args: &Args) -> Result<(), String> {
        if args.json {
            return cli::print_json(self);
        }
        cli::print_line(&format!(
            "{:<17}{:<11}{:<7}{:>6}{:>7}{:>11}{:>9}{:>8}{:>12.0}{:>24}{:>8}{:>9}{:>9}{:>14}",
            self.scenario,
            self.cache,
            self.policy,
            self.partitions.map_or("-".to_owned(), |count| count.to_string()),
            self.processes,
            self.beside,
            self.reads_percent,
            cli::digits(self.hit_ratio.map(|ratio| ratio * 100.0), 2),
            self.ops_per_second,
            format!("{:.0}-{:.0}", self.ops_per_second_min, self.ops_per_second_max),
            cli::digits(self.to_one_process, 2),
            cli::digits(self.to_slab, 3),
            cli::digits(self.loss_percent, 1),
            cli::digits(self.loss_to_computing_percent, 1)
        ))
    }
}
