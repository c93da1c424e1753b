//! The library beside other caches of one process: time of a hit, time of a miss with its insert, memory of an entry.
//!
//! ```text
//! cargo bench --no-default-features --bench compare -- \
//!     [--values bnc,small,mixed] [--entries N] [--cache KIND,...] [--skew uniform|zipf:S] [--runs R] [--json]
//! ```
//!
//! A package of its own, so that the library's tests do not build the other caches.
//!
//! Values: `bnc` 700 to 900 bytes, as a page of a search result or a row as JSON; `small` 100 bytes; `mixed` 64 to 4,000
//! bytes. Each cache gets room for `--entries` entries; one with a region gets as many bytes as these take with 64 bytes
//! of metadata each.
//!
//! - *hit*: a read of a key that is there, drawn by `--skew`; of the value one word of every 64 bytes is read.
//! - *insert*: a read of a new key, which misses, and an insert of its value into the full cache.
//! - *bytes per entry*: what the full cache takes of memory (`memory.rs` counts the heap, a mapping counts whole), over
//!   the entries in it; and the same over the payload (key and value). A cache that would need less than its payload was
//!   not measured, and has no such figure.
//!
//! All in one thread, which is the cheapest that locks can be. Times are medians of `--runs` runs, the caches taking
//! turns, with the least and the most; ratios to `lru` are medians of the ratios of runs side by side. Of each run's
//! hits one in 64 is compared byte for byte.

mod contenders;
mod memory;

use std::hint::black_box;
use std::process::ExitCode;
use std::time::Instant;

use bench::cli;
use bench::contender::Contender;
use bench::sizes::Sizes;
use bench::skew::Skew;
use bench::timing::Measured;
use clap::{Parser, ValueEnum};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde::Serialize;
use testkit::content::Written;

use contenders::{Capacity, Key, Name, build};

#[global_allocator]
static ALLOCATOR: memory::Counted = memory::Counted;

/// What an entry of a region costs beside key and value, generously.
const METADATA_BYTES: f64 = 64.0;
/// How much of its room a cache is filled with before hits are timed: those with shards hold no more for sure.
const FILLED_SHARE: f64 = 0.9;
const HITS_PER_CHECK: usize = 64;

/// Compares caches of one process.
#[derive(Parser)]
#[command(name = "compare")]
struct Args {
    /// The caches to run.
    #[arg(long, value_enum, value_delimiter = ',', num_args = 1)]
    cache: Vec<Name>,
    /// Sizes of values.
    #[arg(long, value_enum, value_delimiter = ',', num_args = 1, default_value = "bnc,small,mixed")]
    values: Vec<Values>,
    /// Room in entries.
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(100..))]
    entries: u32,
    /// Hits, and inserts, of a run.
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1..))]
    ops: u32,
    /// How unequally keys are hit: uniform, or zipf:S with an exponent S above 0.
    #[arg(long, default_value = "zipf:0.99")]
    skew: Skew,
    /// Runs of each kind.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// JSON objects, one a line, instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Values {
    /// 700 to 900 bytes.
    Bnc,
    /// 100 bytes.
    Small,
    /// 64 to 4,000 bytes.
    Mixed,
}

impl Values {
    fn name(self) -> &'static str {
        match self {
            Values::Bnc => "bnc",
            Values::Small => "small",
            Values::Mixed => "mixed",
        }
    }

    fn sizes(self) -> &'static str {
        match self {
            Values::Bnc => "uniform:700-900",
            Values::Small => "uniform:100-100",
            Values::Mixed => "uniform:64-4000",
        }
    }
}

/// A cache under measurement.
struct Subject {
    kind: Name,
    cache: Box<dyn Contender>,
    bytes_per_entry: Option<f64>,
    /// Numbers of keys that are in it.
    present: Vec<u32>,
    next_key: u32,
    hit_ns: Measured,
    insert_ns: Measured,
}

#[derive(Serialize)]
struct Line {
    cache: &'static str,
    values: &'static str,
    mean_value_bytes: f64,
    entries: u64,
    hit_ns: f64,
    hit_ns_min: f64,
    hit_ns_max: f64,
    hit_to_lru: Option<f64>,
    insert_ns: f64,
    insert_ns_min: f64,
    insert_ns_max: f64,
    insert_to_lru: Option<f64>,
    /// None where it was not measured.
    bytes_per_entry: Option<f64>,
    bytes_to_payload: Option<f64>,
    bytes_to_lru: Option<f64>,
}

fn main() -> ExitCode {
    cli::main("compare", run)
}

fn run(mut args: Args) -> Result<(), String> {
    if args.cache.is_empty() {
        args.cache = Name::value_variants().to_vec();
    }
    if !args.json {
        print_head(&args)?;
    }
    args.values.iter().try_for_each(|values| compare(&args, *values))
}

fn compare(args: &Args, values: Values) -> Result<(), String> {
    let sizes = Sizes::parse(values.sizes()).map_err(|error| error.to_string())?;
    let contents = Contents::new(&sizes, args.entries * 4);
    let entry_bytes = size_of::<Key>() as f64 + contents.mean_bytes() + METADATA_BYTES;
    let capacity = Capacity {
        entries: args.entries as usize,
        region_bytes: (f64::from(args.entries) * entry_bytes) as usize / 64 * 64,
    };
    let filled = (f64::from(args.entries) * FILLED_SHARE) as u32;
    let mut subjects = Vec::new();
    for kind in &args.cache {
        subjects.push(Subject::filled(*kind, capacity, filled, &contents)?);
    }
    for run in 0..args.runs {
        for subject in &mut subjects {
            subject.time_hits(args, run, &contents)?;
        }
    }
    // Until all are full, and what was there first is gone.
    for subject in &mut subjects {
        (0..args.entries).try_for_each(|_| subject.insert_next(&contents))?;
    }
    for _ in 0..args.runs {
        for subject in &mut subjects {
            subject.time_inserts(args, &contents)?;
        }
    }
    let lru = subjects.iter().position(|subject| subject.kind == Name::Lru);
    let lru = lru.map(|lru| &subjects[lru]);
    subjects.iter().try_for_each(|subject| {
        subject.cache.validate()?;
        Line::new(subject, values, contents.mean_bytes(), lru)?.print(args)
    })
}

/// Keys and values by number.
struct Contents {
    lens: Vec<u32>,
}

impl Contents {
    /// With so many sizes, which come round again.
    fn new(sizes: &Sizes, count: u32) -> Self {
        let mut random = SmallRng::seed_from_u64(1);
        let lens = (0..count).map(|_| sizes.sample(&mut random) as u32).collect();
        Contents { lens }
    }

    fn mean_bytes(&self) -> f64 {
        self.lens.iter().map(|len| f64::from(*len)).sum::<f64>() / self.lens.len() as f64
    }

    fn least_bytes(&self) -> f64 {
        f64::from(self.lens.iter().copied().min().unwrap_or(0))
    }

    fn key(number: u32) -> Key {
        (u128::from(number) << 64 | u128::from(!number).wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes()
    }

    fn written(&self, number: u32) -> Written {
        Written { key: u64::from(number), write: 0, len: self.lens[number as usize % self.lens.len()] }
    }
}

/// What a full cache takes of memory, over the most entries that it held; `None` if that is less than they hold.
fn bytes_per_entry(kind: Name, capacity: Capacity, contents: &Contents) -> Result<Option<f64>, String> {
    const LOOKS: usize = 64;
    let heap_before = memory::live_bytes();
    let mut subject = Subject::new(kind, capacity)?;
    let mut most_entries = 0;
    for _ in 0..LOOKS {
        (0..2 * capacity.entries / LOOKS).try_for_each(|_| subject.insert_next(contents))?;
        most_entries = most_entries.max(subject.entries()?);
    }
    let bytes = (memory::live_bytes() - heap_before + subject.cache.mapped_bytes()) as f64 / most_entries.max(1) as f64;
    Ok((bytes >= size_of::<Key>() as f64 + contents.least_bytes()).then_some(bytes))
}

impl Subject {
    fn new(kind: Name, capacity: Capacity) -> Result<Self, String> {
        Ok(Subject {
            kind,
            cache: build(kind, capacity)?,
            bytes_per_entry: None,
            present: Vec::new(),
            next_key: 0,
            hit_ns: Measured::default(),
            insert_ns: Measured::default(),
        })
    }

    fn filled(kind: Name, capacity: Capacity, filled: u32, contents: &Contents) -> Result<Self, String> {
        let bytes_per_entry = bytes_per_entry(kind, capacity, contents)?;
        let mut subject = Subject { bytes_per_entry, ..Subject::new(kind, capacity)? };
        (0..filled).try_for_each(|_| subject.insert_next(contents))?;
        subject.present =
            (0..filled).filter(|number| subject.cache.read(&Contents::key(*number), &mut |_| ())).collect();
        Ok(subject)
    }

    fn insert_next(&mut self, contents: &Contents) -> Result<(), String> {
        let mut value = Vec::new();
        contents.written(self.next_key).build(&mut value);
        self.next_key += 1;
        self.put(self.next_key - 1, &value)
    }

    fn put(&mut self, number: u32, value: &[u8]) -> Result<(), String> {
        let put = self.cache.put(&Contents::key(number), value);
        put.map_err(|refused| format!("{}: {refused}", self.kind.name()))
    }

    fn entries(&self) -> Result<u64, String> {
        let figures = self.cache.figures().ok_or_else(|| format!("{}: tells no entries", self.kind.name()))?;
        Ok(figures.entries)
    }

    fn time_hits(&mut self, args: &Args, run: u32, contents: &Contents) -> Result<(), String> {
        let mut random = SmallRng::seed_from_u64(u64::from(run));
        let drawn = args.skew.draw(self.present.len() as u32, args.ops as usize, &mut random);
        let numbers: Vec<u32> = drawn.into_iter().map(|index| self.present[index as usize]).collect();
        let keys: Vec<Key> = numbers.iter().map(|number| Contents::key(*number)).collect();
        let mut hits = 0;
        let started = Instant::now();
        for key in &keys {
            hits += u32::from(self.cache.read(key, &mut |value| touch(value)));
        }
        self.hit_ns.push(started.elapsed().as_nanos() as f64 / f64::from(args.ops));
        let name = self.kind.name();
        if hits != args.ops {
            return Err(format!("{name}: {} of {} keys that are there were not found", args.ops - hits, args.ops));
        }
        for (number, key) in numbers.iter().zip(&keys).step_by(HITS_PER_CHECK) {
            let mut right = Ok(());
            self.cache.read(key, &mut |value| right = contents.written(*number).check(value));
            right.map_err(|mismatch| format!("{name}: {mismatch}"))?;
        }
        Ok(())
    }

    fn time_inserts(&mut self, args: &Args, contents: &Contents) -> Result<(), String> {
        let name = self.kind.name();
        let mut value = Vec::new();
        let started = Instant::now();
        for number in self.next_key..self.next_key + args.ops {
            let key = Contents::key(number);
            if self.cache.read(&key, &mut |_| ()) {
                return Err(format!("{name}: found key {number}, which nobody has put yet"));
            }
            contents.written(number).build(&mut value);
            self.put(number, &value)?;
        }
        self.insert_ns.push(started.elapsed().as_nanos() as f64 / f64::from(args.ops));
        self.next_key += args.ops;
        Ok(())
    }
}

/// Reads one word of every 64 bytes, as somebody who uses the value does at least.
fn touch(value: &[u8]) {
    let words = value.chunks(64).map(|line| u64::from(line[0]));
    black_box(words.fold(0, u64::wrapping_add));
}

fn print_head(args: &Args) -> Result<(), String> {
    cli::print_line(&format!("room for {} entries, hits {}, one thread", args.entries, args.skew))?;
    cli::print_line(&format!(
        "{:<7}{:<15}{:>9}{:>9}{:>16}{:>8}{:>11}{:>16}{:>8}{:>13}{:>12}{:>8}",
        "values",
        "cache",
        "entries",
        "ns/hit",
        "min-max",
        "to lru",
        "ns/insert",
        "min-max",
        "to lru",
        "bytes/entry",
        "to payload",
        "to lru"
    ))
}

impl Line {
    fn new(subject: &Subject, values: Values, mean_value_bytes: f64, lru: Option<&Subject>) -> Result<Self, String> {
        let Subject { hit_ns, insert_ns, bytes_per_entry, .. } = subject;
        let payload_bytes = size_of::<Key>() as f64 + mean_value_bytes;
        Ok(Line {
            cache: subject.kind.name(),
            values: values.name(),
            mean_value_bytes,
            entries: subject.entries()?,
            hit_ns: hit_ns.median(),
            hit_ns_min: hit_ns.min(),
            hit_ns_max: hit_ns.max(),
            hit_to_lru: lru.map(|lru| hit_ns.over(&lru.hit_ns).median()),
            insert_ns: insert_ns.median(),
            insert_ns_min: insert_ns.min(),
            insert_ns_max: insert_ns.max(),
            insert_to_lru: lru.map(|lru| insert_ns.over(&lru.insert_ns).median()),
            bytes_per_entry: *bytes_per_entry,
            bytes_to_payload: bytes_per_entry.map(|bytes| bytes / payload_bytes),
            bytes_to_lru: lru.and_then(|lru| Some((*bytes_per_entry)? / lru.bytes_per_entry?)),
        })
    }

    fn print(&self, args: &Args) -> Result<(), String> {
        if args.json {
            return cli::print_json(self);
        }
        let ratio = |ratio| cli::digits(ratio, 2);
        cli::print_line(&format!(
            "{:<7}{:<15}{:>9}{:>9.0}{:>16}{:>8}{:>11.0}{:>16}{:>8}{:>13}{:>12}{:>8}",
            self.values,
            self.cache,
            self.entries,
            self.hit_ns,
            format!("{:.0}-{:.0}", self.hit_ns_min, self.hit_ns_max),
            ratio(self.hit_to_lru),
            self.insert_ns,
            format!("{:.0}-{:.0}", self.insert_ns_min, self.insert_ns_max),
            ratio(self.insert_to_lru),
            cli::digits(self.bytes_per_entry, 0),
            cli::digits(self.bytes_to_payload, 3),
            ratio(self.bytes_to_lru)
        ))
    }
}
