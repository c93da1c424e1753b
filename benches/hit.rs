//! What a hit costs: reads of keys that are all there, compared with the `lru` crate in the same process.
//!
//! ```text
//! cargo bench --no-default-features --bench hit -- [--json] [--entries N,…] [--values 100,800,mixed] \
//!     [--keys uniform,zipf] [--partitions P,…] [--subjects NAME,…] [--large] [--share]
//! ```
//!
//! Every subject holds the same entries (8-byte keys) and is asked for the same keys in the same order, in one thread.
//! What a subject's time is divided by says its baseline: where a caller gets a reference, `lru` by reference; where
//! it gets a copy in its own buffer, `lru` by reference and `clone_into` that buffer. From each value one byte is used.
//!
//! | subject | what a get is |
//! |---|---|
//! | `lru` | `LruCache::get` of the `lru` crate |
//! | `lru copy` | the same, and `clone_into` a buffer that is used again |
//! | `private lru`, `private clock` | `get` of a cache of one thread |
//! | `shared lru`, `shared clock` | `get` of a shared mapping: with its locks, or without |
//! | `shared with` | `with` of a shared mapping: pins the value and gives its bytes |
//! | `shared many` | `get_many` of a shared mapping, 64 keys a call |
//! | `near` | `get` of a near cache that has all entries, over a shared mapping |
//! | `lru put`, `private put`, `shared put` | not a get: each key's value is replaced by one of the same length |
//!
//! The subjects take turns: each round runs every subject once over [`GETS`] gets, and a ratio is taken within its
//! round. Printed are the median, the least and the greatest of the rounds. The first round is thrown away: it sets
//! reference bits and fills the near cache. Times are the thread's processor time, so that other work on the machine
//! disturbs less.
//!
//! `--share` measures what sharing costs, over one partition: a process alone, two at once, and one beside a writer
//! that replaces values without pause; gets of keys that are there, and with one in twenty that is not. Processes are
//! forked, so that the memory is shared as in PostgreSQL.
//!
//! It says nothing about eviction, nor about more processes than two.

use std::hint::black_box;
use std::num::NonZero;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bench::cli;
use bench::contender::Contender;
use bench::contenders::lru::Plain;
use bench::contenders::near::Near;
use bench::contenders::slab::Slab;
use bench::skew::Skew;
use bench::timing::{Measured, Spread, processor_ns};
use clap::Parser;
use pg_shared_lru::{Config, Found, NoLocks, Policy, RobustLocks};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;
use testkit::fork;

/// Gets of a subject in a round.
const GETS: usize = 200_000;
/// Keys that are asked for in one call of `get_many`.
const MANY: usize = 64;
const ZIPF_EXPONENT: f64 = 0.99;
const MAX_MIXED_BYTES: usize = 2000;

/// Measures what a hit costs.
#[derive(Parser)]
#[command(name = "hit")]
struct Args {
    /// Numbers of entries.
    #[arg(long, value_delimiter = ',', default_value = "1000,10000,100000,1000000")]
    entries: Vec<u32>,
    /// Also ten million entries.
    #[arg(long)]
    large: bool,
    /// Sizes of values in bytes, or `mixed` for 16 to 2000.
    #[arg(long, value_delimiter = ',', default_value = "100,800,mixed")]
    values: Vec<String>,
    /// How keys are chosen: `uniform` or `zipf`.
    #[arg(long, value_delimiter = ',', default_value = "uniform,zipf")]
    keys: Vec<String>,
    /// Partitions of the engine's caches.
    #[arg(long, value_delimiter = ',', default_value = "1")]
    partitions: Vec<u32>,
    /// Only these subjects (and their baselines).
    #[arg(long, value_delimiter = ',')]
    subjects: Vec<String>,
    /// Rounds that count.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Two processes, and a writer.
    #[arg(long)]
    share: bool,
    /// One JSON object a line instead of a table.
    #[arg(long)]
    json: bool,
}

/// The entries of all subjects, and the keys that are asked for.
struct Workload {
    value_bytes: Vec<u32>,
    max_value_bytes: usize,
    asked: Vec<[u8; 8]>,
}

type Run = Box<dyn FnMut(&[[u8; 8]]) -> u64>;

/// Something that is asked for keys.
struct Subject {
    name: &'static str,
    baseline: Option<&'static str>,
    /// Gets all keys; returns something made of the values, so that nothing is optimised away.
    run: Run,
}

#[derive(Serialize)]
struct Line {
    subject: &'static str,
    entries: u32,
    value_bytes: String,
    keys: String,
    partitions: u32,
    ns: Spread,
    baseline: Option<&'static str>,
    ratio: Option<Spread>,
}

fn main() -> ExitCode {
    cli::main("hit", run)
}

fn run(mut args: Args) -> Result<(), String> {
    if args.large {
        args.entries.push(10_000_000);
    }
    if args.rounds == 0 {
        return Err("0 rounds: at least one must count".to_owned());
    }
    if args.share {
        return share(&args);
    }
    if !args.json {
        cli::print_line(&format!(
            "{:<15} {:>9} {:>6} {:>8} {:>10}  {:>8} ({:>7} to {:>7})  over {:<8} {:>6} ({} to {})",
            "subject",
            "entries",
            "bytes",
            "keys",
            "partitions",
            "ns",
            "least",
            "most",
            "baseline",
            "ratio",
            "least",
            "most"
        ))?;
    }
    for &entries in &args.entries {
        for value in &args.values {
            for keys in &args.keys {
                for &partitions in &args.partitions {
                    measure(&args, entries, value, keys, partitions)?;
                }
            }
        }
    }
    Ok(())
}

impl Workload {
    fn new(entries: u32, value: &str, keys: &str) -> Result<Workload, String> {
        let mut random = SmallRng::seed_from_u64(u64::from(entries));
        let fixed: Option<u32> = match value {
            "mixed" => None,
            bytes => Some(bytes.parse().map_err(|_| format!("value size \"{bytes}\": a number of bytes, or mixed"))?),
        };
        let value_bytes =
            (0..entries).map(|_| fixed.unwrap_or_else(|| random.random_range(16..=MAX_MIXED_BYTES as u32))).collect();
        let (skew, step) = match keys {
            "uniform" => (Skew::Uniform, 1),
            // Popular keys lie anywhere, not side by side as they were stored.
            "zipf" => (Skew::Zipf(ZIPF_EXPONENT), 0x9e37_79b9),
            other => return Err(format!("keys \"{other}\": uniform or zipf")),
        };
        let numbers = skew.draw(entries, GETS, &mut random).into_iter();
        let asked = numbers.map(|number| (u64::from(number) * step % u64::from(entries)).to_le_bytes()).collect();
        let max_value_bytes = fixed.map_or(MAX_MIXED_BYTES, |bytes| bytes as usize);
        Ok(Workload { value_bytes, max_value_bytes, asked })
    }

    fn entries(&self) -> impl Iterator<Item = ([u8; 8], Vec<u8>)> + '_ {
        let numbers = 0..self.value_bytes.len() as u64;
        numbers.map(|number| (number.to_le_bytes(), vec![number as u8; self.value_bytes[number as usize] as usize]))
    }

    fn config(&self, policy: Policy, partitions: u32) -> Config {
        // With several partitions some get more than their share of the keys.
        let count = self.value_bytes.len() as u32;
        let count = if partitions == 1 { count } else { count + count / 4 + 64 * partitions };
        Config::entries(count, (8 + self.max_value_bytes) as u32).partitions(partitions).policy(policy)
    }

    fn fill<C: Contender>(&self, mut cache: C) -> Result<C, String> {
        for (key, value) in self.entries() {
            cache.put(&key, &value).map_err(|refused| format!("{}: {refused}", cache.name()))?;
        }
        if let Some(figures) = cache.figures().filter(|figures| figures.entries != self.value_bytes.len() as u64) {
            return Err(format!("{} of {} entries are in the cache", figures.entries, self.value_bytes.len()));
        }
        Ok(cache)
    }

    fn private(&self, policy: Policy, partitions: u32) -> Result<Slab<NoLocks>, String> {
        self.fill(Slab::private_of(&self.config(policy, partitions))?)
    }

    fn shared(&self, policy: Policy, partitions: u32) -> Result<Slab<RobustLocks>, String> {
        self.fill(Slab::shared_of(&self.config(policy, partitions))?)
    }

    fn near(&self, partitions: u32) -> Result<Near<u64>, String> {
        self.fill(Near::over(&self.config(Policy::Clock, partitions), self.value_bytes.len())?)
    }

    fn lru(&self) -> Result<Plain<u64>, String> {
        self.fill(Plain::new(NonZero::new(self.value_bytes.len()).ok_or("0 entries: at least one")?))
    }
}

/// Reads each value where a reader of this cache has it.
fn reading(mut cache: impl Contender + 'static) -> Run {
    Box::new(move |keys| {
        let mut sum = 0;
        for key in keys {
            assert!(cache.read(key, &mut |value| sum += u64::from(value[0])));
        }
        sum
    })
}

/// Copies each value to a buffer that is used again.
fn copying(mut cache: impl Contender + 'static) -> Run {
    let mut out = Vec::new();
    Box::new(move |keys| {
        let mut sum = 0;
        for key in keys {
            assert!(cache.get(key, &mut out));
            sum += u64::from(out[0]);
        }
        sum
    })
}

/// Replaces each key's value.
fn putting(mut cache: impl Contender + 'static, workload: &Workload) -> Run {
    let lengths = workload.value_bytes.clone();
    let value = vec![1; workload.max_value_bytes];
    Box::new(move |keys| {
        for key in keys {
            let value = &value[..lengths[u64::from_le_bytes(*key) as usize] as usize];
            cache.put(key, value).expect("room for what was there");
        }
        0
    })
}

/// Looks [`MANY`] keys up at once.
fn getting_many(cache: Slab<RobustLocks>) -> Run {
    let mut found = Found::default();
    Box::new(move |keys| {
        let mut sum = 0;
        for keys in keys.chunks(MANY) {
            cache.get_many(keys.iter().map(|key| &key[..]), &mut found);
            sum += found.iter().map(|value| u64::from(value.expect("a hit")[0])).sum::<u64>();
        }
        sum
    })
}

/// What is measured under each name, and what it is divided by.
fn subject(name: &str, workload: &Workload, partitions: u32) -> Result<Subject, String> {
    let known = SUBJECTS.iter().find(|(known, _)| *known == name);
    let &(name, baseline) = known.ok_or_else(|| {
        let names: Vec<&str> = SUBJECTS.iter().map(|(name, _)| *name).collect();
        format!("subject \"{name}\": one of {}", names.join(", "))
    })?;
    let run = match name {
        "lru" => reading(workload.lru()?),
        "lru copy" => copying(workload.lru()?),
        "lru put" => putting(workload.lru()?, workload),
        "private lru" => copying(workload.private(Policy::Lru, partitions)?),
        "private clock" => copying(workload.private(Policy::Clock, partitions)?),
        "shared lru" => copying(workload.shared(Policy::Lru, partitions)?),
        "shared clock" => copying(workload.shared(Policy::Clock, partitions)?),
        "shared with" => reading(workload.shared(Policy::Clock, partitions)?.in_place(true)),
        "shared many" => getting_many(workload.shared(Policy::Clock, partitions)?),
        "near" => reading(workload.near(partitions)?),
        "private put" => putting(workload.private(Policy::Lru, partitions)?, workload),
        "shared put" => putting(workload.shared(Policy::Clock, partitions)?, workload),
        other => return Err(format!("subject \"{other}\" is listed and not made")),
    };
    Ok(Subject { name, baseline, run })
}

/// The baselines come first.
const BASELINES: usize = 3;
const SUBJECTS: [(&str, Option<&str>); 12] = [
    ("lru", None),
    ("lru copy", None),
    ("lru put", None),
    ("private lru", Some("lru copy")),
    ("private clock", Some("lru copy")),
    ("shared lru", Some("lru copy")),
    ("shared clock", Some("lru copy")),
    ("shared with", Some("lru")),
    ("shared many", Some("lru copy")),
    ("near", Some("lru")),
    ("private put", Some("lru put")),
    ("shared put", Some("lru put")),
];

fn measure(args: &Args, entries: u32, value: &str, keys: &str, partitions: u32) -> Result<(), String> {
    let workload = Workload::new(entries, value, keys)?;
    let (baselines, others) = SUBJECTS.split_at(BASELINES);
    let mut names: Vec<&str> = baselines.iter().map(|(name, _)| *name).collect();
    match args.subjects.is_empty() {
        true => names.extend(others.iter().map(|(name, _)| *name)),
        false => names.extend(args.subjects.iter().map(String::as_str).filter(|name| !name.starts_with("lru"))),
    }
    let mut subjects: Vec<Subject> =
        names.into_iter().map(|name| subject(name, &workload, partitions)).collect::<Result<_, _>>()?;
    let mut times = vec![Measured::default(); subjects.len()];
    for round in 0..=args.rounds {
        for (subject, times) in subjects.iter_mut().zip(&mut times) {
            let start = processor_ns();
            black_box((subject.run)(black_box(&workload.asked)));
            let ns = (processor_ns() - start) as f64 / workload.asked.len() as f64;
            if round > 0 {
                times.push(ns);
            }
        }
    }
    for (subject, own) in subjects.iter().zip(&times) {
        let baseline = subject.baseline.and_then(|name| subjects.iter().position(|subject| subject.name == name));
        let ratios = baseline.map(|other| own.over(&times[other]));
        let line = Line {
            subject: subject.name,
            entries,
            value_bytes: value.to_owned(),
            keys: keys.to_owned(),
            partitions,
            ns: own.into(),
            baseline: subject.baseline,
            ratio: ratios.as_ref().map(Spread::from),
        };
        print(args, &line)?;
    }
    Ok(())
}

fn print(args: &Args, line: &Line) -> Result<(), String> {
    if args.json {
        return cli::print_json(line);
    }
    let ratio = line.ratio.zip(line.baseline).map_or(String::new(), |(ratio, baseline)| {
        format!("  over {baseline:<8} {:>6.2} ({:.2} to {:.2})", ratio.median, ratio.least, ratio.greatest)
    });
    let Spread { median, least, greatest } = line.ns;
    cli::print_line(&format!(
        "{:<15} {:>9} {:>6} {:>8} {:>10}  {median:>8.1} ({least:>7.1} to {greatest:>7.1}){ratio}",
        line.subject, line.entries, line.value_bytes, line.keys, line.partitions
    ))
}

#[derive(Serialize)]
struct ShareLine {
    entries: u32,
    value_bytes: String,
    keys: String,
    hit_percent: u32,
    what: &'static str,
    gets_per_second: Spread,
    /// Over one process alone, in the same round.
    ratio: Spread,
    /// Processor time of a get, which does not tell how long it waited for a lock or for a processor.
    ns: Spread,
}

/// How long the processes of one measurement run.
const SHARE_TIME: Duration = Duration::from_millis(300);

fn share(args: &Args) -> Result<(), String> {
    for &entries in &args.entries {
        for value in &args.values {
            for keys in &args.keys {
                for hit_percent in [100, 95] {
                    share_one(args, entries, value, keys, hit_percent)?;
                }
            }
        }
    }
    Ok(())
}

fn share_one(args: &Args, entries: u32, value: &str, keys: &str, hit_percent: u32) -> Result<(), String> {
    let mut workload = Workload::new(entries, value, keys)?;
    let cache = workload.shared(Policy::Clock, 1)?;
    let cache = cache.cache();
    let mut random = SmallRng::seed_from_u64(1);
    for key in &mut workload.asked {
        if random.random_range(0..100) >= hit_percent {
            *key = u64::MAX.to_le_bytes();
        }
    }
    let read = || {
        let mut out = Vec::new();
        until_the_end(|step| _ = black_box(cache.get(&workload.asked[step % GETS], &mut out)))
    };
    let write = || {
        let value = vec![1; workload.max_value_bytes];
        until_the_end(|step| {
            let number = (step as u64).wrapping_mul(0x9e37_79b9) % u64::from(entries);
            let bytes = workload.value_bytes[number as usize] as usize;
            black_box(cache.put(&number.to_le_bytes(), &value[..bytes])).expect("room for what was there");
        })
    };
    let measured = [
        ("one process", vec![&read as &dyn Fn() -> Rate]),
        ("two processes", vec![&read, &read]),
        ("beside a writer", vec![&read, &write]),
    ];
    let mut results: Vec<(Measured, Measured)> = vec![Default::default(); measured.len()];
    for round in 0..=args.rounds {
        for ((what, bodies), (rates, ns)) in measured.iter().zip(&mut results) {
            let readers = if *what == "beside a writer" { 1 } else { bodies.len() };
            let all = &at_once(bodies)[..readers];
            if round > 0 {
                rates.push(all.iter().map(|rate| rate.per_second).sum());
                ns.push(all.iter().map(|rate| rate.processor_ns).sum::<f64>() / readers as f64);
            }
        }
    }
    let alone = results[0].0.clone();
    for ((what, _), (rates, ns)) in measured.iter().zip(results) {
        let line = ShareLine {
            entries,
            value_bytes: value.to_owned(),
            keys: keys.to_owned(),
            hit_percent,
            what,
            ratio: (&rates.over(&alone)).into(),
            gets_per_second: (&rates).into(),
            ns: (&ns).into(),
        };
        if args.json {
            cli::print_json(&line)?;
            continue;
        }
        let Spread { median, least, greatest } = line.ratio;
        cli::print_line(&format!(
            "{what:<16} {entries:>9} {value:>6} {keys:>8} {hit_percent:>3} % hits  {:>12.0} gets/s  \
             {median:.2} of one process alone ({least:.2} to {greatest:.2}), {:.0} ns of processor time",
            line.gets_per_second.median, line.ns.median
        ))?;
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct Rate {
    per_second: f64,
    processor_ns: f64,
}

/// What a step took.
fn until_the_end(mut step: impl FnMut(usize)) -> Rate {
    let (start, start_ns) = (Instant::now(), processor_ns());
    let mut steps = 0;
    while start.elapsed() < SHARE_TIME {
        (steps..steps + 256).for_each(&mut step);
        steps += 256;
    }
    let processor_ns = (processor_ns() - start_ns) as f64 / steps as f64;
    Rate { per_second: steps as f64 / start.elapsed().as_secs_f64(), processor_ns }
}

/// Runs each in a process of its own, all at once, and returns what they returned.
fn at_once(bodies: &[&dyn Fn() -> Rate]) -> Vec<Rate> {
    let told = fork::shared_words(2 * bodies.len());
    let run = |(body, told): (&&dyn Fn() -> Rate, &'static [AtomicU64])| {
        let body = *body;
        fork::Child::spawn("hit", move || {
            let Rate { per_second, processor_ns } = body();
            told[0].store(per_second.to_bits(), Ordering::Release);
            told[1].store(processor_ns.to_bits(), Ordering::Release);
        })
    };
    fork::join(bodies.iter().zip(told.chunks_exact(2)).map(run).collect());
    let number = |word: &AtomicU64| f64::from_bits(word.load(Ordering::Acquire));
    told.chunks_exact(2).map(|told| Rate { per_second: number(&told[0]), processor_ns: number(&told[1]) }).collect()
}
