//! Replays a recorded access trace against one or more caches and reports hits, misses, spills and cost.
//!
//! ```text
//! cargo bench --no-default-features --bench replay -- \
//!     --trace FILE --format diskann|arc|be32|be64|lirs|oracle|sized --policy lru|clock|s3-fifo \
//!     (--entries N | --bytes B | --bytes-of-lru-entries N | --payload-bytes B) \
//!     [--cache slab,drop-in,bump,lru,clock,s3-fifo] [--opt] [--runs N] [--json]
//! ```
//!
//! One access is a get, followed by a put of the same key when it missed. In a `diskann` trace a `g` record is such an
//! access, the put being that key's last pushed neighbour list (or an empty one), and a `p` record is a put on its own.
//! Hits and misses count gets only; evictions come from all puts.
//!
//! Values of a `diskann` trace are neighbour lists, in each cache as a consumer has them there: `lru` keeps
//! pgvectorscale's entries of 72 bytes a neighbour on the heap, `drop-in` is what the library has in its place, the
//! others keep the library's encoding as byte strings (`bench::contenders::encoded`). Of other traces a value is a byte string of
//! the record's size (`oracle`, `sized`; cut to `--max-value-bytes`), else of `--value-bytes`, under a key of 8 bytes.
//! The content is a function of key, number of pushes so far and length.
//!
//! `--bytes-of-lru-entries N` compares at equal memory: all caches get the bytes that the `lru` crate's cache took at
//! most while it held up to N entries, by its real size (`bench::contenders::lru`), which a replay before all others
//! finds out.
//! A *spill* is an entry that lost its place: what a builder must write to its index, and read back when it misses it.
//!
//! Every cache is replayed from empty several times. The first time every value read is compared with what was last
//! stored under its key, and so is every value that lru and drop-in push out; the structure is validated at the end; any
//! difference ends the program with an error. All counts are from this replay. Then nothing is checked and the time is
//! taken, `--runs` times, the caches taking turns: `ns_per_op` is the time of all gets and puts, of using what was read
//! (a copy, or a walk over the neighbours), and of building the values put, over the number of accesses; the median of
//! the runs with the least and the most. The ratio to lru's time is the median of the ratios of runs side by side. With several partitions replays differ a little, for each cache seeds its hash
//! anew, and the hash chooses the partition; with one partition there is no such choice and the counts are exact.
//!
//! It replays in one thread of one process and says nothing about contention.

mod values;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use bench::contender::{Bound, Contender, Figures};
use bench::contenders::{CacheArgs, Name};
use bench::timing::{Measured, share};
use bench::{belady, cli};
use clap::{ArgGroup, Parser};
use serde::Serialize;
use testkit::content::Written;
use testkit::heap::lru_table_bytes;
use testkit::traces::{Format, Op, TraceReader};
use values::{ByteValues, ListValues, Stored, Values};

/// Replays a recorded access trace against caches.
#[derive(Parser)]
#[command(name = "replay")]
#[command(group(ArgGroup::new("capacity").required(true).args(
    ["entries", "bytes", "bytes_of_lru_entries", "payload_bytes"]
)))]
struct Args {
    /// The trace; .xz, .zst and .gz are decompressed.
    #[arg(long)]
    trace: PathBuf,
    /// How its records are laid out.
    #[arg(long, value_parser = cli::format())]
    format: Format,
    /// Capacity in entries, exact with one partition.
    #[arg(long)]
    entries: Option<u32>,
    /// Capacity in bytes of memory, metadata included.
    #[arg(long)]
    bytes: Option<u64>,
    /// Capacity in bytes: as many as the lru crate takes for this many entries.
    #[arg(long)]
    bytes_of_lru_entries: Option<u32>,
    /// Capacity in bytes of values alone, as trace simulators count; lru and s3-fifo only.
    #[arg(long)]
    payload_bytes: Option<u64>,
    #[command(flatten)]
    caches: CacheArgs,
    /// Partitions of the slab cache [default: 1 where its capacity is in entries, else the engine chooses].
    #[arg(long)]
    partitions: Option<u32>,
    /// Replay only this many records from the start.
    #[arg(long)]
    limit: Option<u64>,
    /// Value size for traces that carry no sizes (arc, be32, be64, lirs) [default: 64].
    #[arg(long)]
    value_bytes: Option<u32>,
    /// Sizes in a trace are cut to this.
    #[arg(long, default_value_t = 1 << 20)]
    max_value_bytes: u32,
    /// How often to take the time; 0 only counts.
    #[arg(long, default_value_t = 1)]
    runs: u32,
    /// Also the hits of a cache that knows the future (Belady), which no policy can exceed; with --entries.
    #[arg(long, requires = "entries")]
    opt: bool,
    /// One JSON object per cache and line instead of a table.
    #[arg(long)]
    json: bool,
}

/// One access of the trace with the value it would put.
#[derive(Clone, Copy)]
struct Step {
    is_get: bool,
    value: Written,
}

/// A trace in memory, ready to replay.
struct Plan {
    steps: Vec<Step>,
    records: u64,
    /// The longest value: bytes, or neighbours of a `diskann` trace.
    max_len: u32,
}

/// What one replay of the whole trace counted.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Counts {
    hits: u64,
    misses: u64,
    /// None of a cache that does not exist.
    figures: Option<Figures>,
}

/// A cache after all its replays.
struct Replayed {
    name: &'static str,
    policy: &'static str,
    counts: Counts,
    /// Nanoseconds per access.
    times: Measured,
}

/// How the bytes follow from a number of entries of the `lru` crate.
#[derive(Clone, Copy, Serialize)]
struct LruBytes {
    lru_entries: u32,
    /// The sum of the three below.
    bytes: u64,
    node_bytes: u64,
    table_bytes: u64,
    value_bytes: u64,
    /// What lru evicts with so many entries; with so many bytes it is a little less, for it has more while values are
    /// small.
    lru_spills: u64,
}

#[derive(Serialize)]
struct Report<'a> {
    cache: &'static str,
    trace: &'a str,
    format: &'static str,
    policy: &'static str,
    hits: u64,
    misses: u64,
    /// None where nothing was read; of the others below, none where nobody knows.
    hit_ratio: Option<f64>,
    evictions: Option<u64>,
    spills: Option<u64>,
    entries: Option<u64>,
    region_bytes: Option<u64>,
    live_bytes: Option<u64>,
    /// None of what cannot be timed.
    ns_per_op: Option<f64>,
    ns_per_op_min: Option<f64>,
    ns_per_op_max: Option<f64>,
    ops: u64,
    records: u64,
    refused: Option<u64>,
    compactions: Option<u64>,
    slabs_moved: Option<u64>,
    wipes: Option<u64>,
    /// Spills over those of lru, if lru ran too and spilled.
    spills_to_lru: Option<f64>,
    /// The median of the ratios to lru's time, run by run.
    time_to_lru: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    equal_to: Option<LruBytes>,
}

fn main() -> ExitCode {
    cli::main("replay", run)
}

fn run(args: Args) -> Result<(), String> {
    let plan = Plan::read(&args)?;
    match args.format {
        Format::Diskann => replay_all(&args, &plan, ListValues::new()),
        _ => replay_all(&args, &plan, ByteValues::default()),
    }
}

fn replay_all(args: &Args, plan: &Plan, mut values: impl Values) -> Result<(), String> {
    let in_entries = |count| Bound::Entries { count, entry_bytes: values.entry_bytes_at_most(plan.max_len) };
    let mut equal_to = None;
    let bound = match (args.entries, args.bytes, args.bytes_of_lru_entries) {
        (Some(count), ..) => in_entries(count),
        (None, Some(bytes), _) => Bound::Bytes(bytes),
        (None, None, Some(count)) => {
            let bound = in_entries(count);
            let found = lru_bytes(args, plan, &mut values, count, bound)?;
            equal_to = Some(found);
            Bound::Bytes(found.bytes)
        }
        (None, None, None) => Bound::ValueBytes(args.payload_bytes.unwrap_or(0)),
    };
    let settings = args.caches.settings(bound, args.partitions);
    let names = &args.caches.cache;
    // Once for nothing: settings that suit only some of them fail before any has run for long.
    names.iter().try_for_each(|name| values.build(*name, &settings).map(drop))?;
    let mut replayed = Vec::new();
    for name in names {
        let mut cache = values.build(*name, &settings)?;
        let counts = checked_replay(&mut values, &mut *cache, plan)?;
        replayed.push(Replayed { name: cache.name(), policy: cache.policy(), counts, times: Measured::default() });
    }
    for _ in 0..args.runs {
        for (name, replayed) in names.iter().zip(&mut replayed) {
            let mut cache = values.build(*name, &settings)?;
            let started = Instant::now();
            timed_replay(&mut values, &mut *cache, plan);
            replayed.times.push(started.elapsed().as_nanos() as f64 / plan.steps.len().max(1) as f64);
        }
    }
    let trace = args.trace.display().to_string();
    let lru = names.iter().position(|name| *name == Name::Lru);
    print_head(args, plan, &trace, equal_to)?;
    if let Some(entries) = args.entries.filter(|_| args.opt) {
        replayed.push(plan.opt(entries));
    }
    let lru = lru.map(|index| &replayed[index]);
    replayed.iter().try_for_each(|it| Report { equal_to, ..Report::new(args, plan, &trace, it, lru) }.print(args.json))
}

/// Replays against the `lru` crate's cache of so many entries, and notes the most memory that it took.
fn lru_bytes(
    args: &Args,
    plan: &Plan,
    values: &mut impl Values,
    lru_entries: u32,
    bound: Bound,
) -> Result<LruBytes, String> {
    let mut cache = values.build(Name::Lru, &args.caches.settings(bound, args.partitions))?;
    let figures = checked_replay(values, &mut *cache, plan)?.figures.ok_or("lru tells no figures")?;
    let Figures { evictions, entries, .. } = figures;
    let bytes = figures.region_bytes.ok_or("lru tells no bytes")?;
    let node_bytes = entries * values.lru_node_bytes();
    let table_bytes = lru_table_bytes(entries as usize);
    let value_bytes = bytes - node_bytes - table_bytes;
    Ok(LruBytes { lru_entries, bytes, node_bytes, table_bytes, value_bytes, lru_spills: evictions })
}

impl Plan {
    fn read(args: &Args) -> Result<Self, String> {
        let has_sizes = matches!(args.format, Format::Diskann | Format::Oracle | Format::Sized);
        if has_sizes && args.value_bytes.is_some() {
            return Err(format!("--value-bytes: a {} trace has sizes of its own", args.format.name()));
        }
        let default_len = match args.format {
            Format::Diskann => 0,
            _ => u64::from(args.value_bytes.unwrap_or(64)),
        };
        let mut pushed: HashMap<u64, (u32, u32)> = HashMap::new();
        let mut steps = Vec::new();
        let mut max_len = 0;
        let cut = |bytes: u64| bytes.min(u64::from(args.max_value_bytes)) as u32;
        let mut trace = open(&args.trace, args.format, args.limit)?;
        for access in &mut trace {
            let access = access.map_err(|error| error.to_string())?;
            let (write, len) = match access.op {
                Op::Push { neighbours } => {
                    let last = pushed.entry(access.key).or_default();
                    *last = (last.0 + 1, u32::from(neighbours));
                    *last
                }
                Op::Get => match (access.size_bytes, pushed.get(&access.key)) {
                    (Some(bytes), _) => (0, cut(bytes)),
                    (None, Some(last)) => *last,
                    (None, None) => (0, cut(default_len)),
                },
            };
            max_len = max_len.max(len);
            steps.push(Step { is_get: access.op == Op::Get, value: Written { key: access.key, write, len } });
        }
        Ok(Plan { steps, records: trace.records(), max_len })
    }

    /// What a cache of so many entries that knows the future would count. Nothing of it can be timed.
    fn opt(&self, entries: u32) -> Replayed {
        let accesses: Vec<(u64, bool)> = self.steps.iter().map(|step| (step.value.key, step.is_get)).collect();
        let (hits, misses) = belady::hits_and_misses(&accesses, entries as usize);
        Replayed {
            name: "opt",
            policy: "opt",
            counts: Counts { hits, misses, figures: None },
            times: Measured::default(),
        }
    }
}

fn open(file: &Path, format: Format, limit: Option<u64>) -> Result<TraceReader, String> {
    TraceReader::open(file, format, limit).map_err(|error| error.to_string())
}

/// Replays with every read compared to what was last stored, and validates the cache at the end.
fn checked_replay<V: Values>(
    values: &mut V,
    cache: &mut dyn Contender<V::Kind>,
    plan: &Plan,
) -> Result<Counts, String> {
    let name = cache.name();
    let mut stored = Stored::default();
    let (mut hits, mut misses) = (0, 0);
    for (index, step) in plan.steps.iter().enumerate() {
        let fault = |what: String| format!("{name}: access {}: {what}", index + 1);
        if step.is_get && values.read_checked(cache, step.value.key, &stored).map_err(fault)? {
            hits += 1;
            continue;
        }
        misses += u64::from(step.is_get);
        values.write_checked(cache, step.value, &mut stored).map_err(fault)?;
    }
    cache.validate().map_err(|error| format!("{name}: at the end: {error}"))?;
    if let Some(counted) = cache.counted() {
        if counted != (hits, misses) {
            return Err(format!(
                "{name}: {hits} hits and {misses} misses, but the cache counted {} and {}",
                counted.0, counted.1
            ));
        }
    }
    Ok(Counts { hits, misses, figures: cache.figures() })
}

/// Replays with nothing but the cache's work, the building of values and the use of what is read.
fn timed_replay<V: Values>(values: &mut V, cache: &mut dyn Contender<V::Kind>, plan: &Plan) {
    for step in &plan.steps {
        if step.is_get && values.read(cache, step.value.key) {
            continue;
        }
        // What is refused is counted by the cache.
        let _ = values.write(cache, step.value);
    }
}

fn print_head(args: &Args, plan: &Plan, trace: &str, equal_to: Option<LruBytes>) -> Result<(), String> {
    if args.json {
        return Ok(());
    }
    let accesses = plan.steps.len();
    cli::print_line(&format!("{trace} ({}): {} records, {accesses} accesses", args.format.name(), plan.records))?;
    if let Some(equal) = equal_to {
        cli::print_line(&format!(
            "memory: {} bytes, the most that lru takes for {} entries: nodes {}, table {}, values {}; with so many \
             entries lru spills {}",
            equal.bytes, equal.lru_entries, equal.node_bytes, equal.table_bytes, equal.value_bytes, equal.lru_spills
        ))?;
    }
    cli::print_line(&format!(
        "{:<8}{:<7}{:>10}{:>10}{:>8}{:>11}{:>8}{:>9}{:>9}{:>12}{:>12}{:>12}{:>9}{:>8}{:>7}{:>12}{:>8}",
        "cache",
        "policy",
        "hits",
        "misses",
        "hit %",
        "spills",
        "to lru",
        "entries",
        "refused",
        "region",
        "live",
        "compactions",
        "slabs",
        "wipes",
        "ns/op",
        "min-max",
        "to lru"
    ))
}

impl<'a> Report<'a> {
    fn new(args: &Args, plan: &Plan, trace: &'a str, replayed: &Replayed, lru: Option<&Replayed>) -> Self {
        let Counts { hits, misses, figures } = replayed.counts;
        let of = |count: fn(&Figures) -> u64| figures.as_ref().map(count);
        let spills = of(|figures| figures.evictions);
        let lru_spills = lru.and_then(|lru| lru.counts.figures).map_or(0, |figures| figures.evictions);
        let times = replayed.times.known();
        Report {
            cache: replayed.name,
            trace,
            format: args.format.name(),
            policy: replayed.policy,
            hits,
            misses,
            hit_ratio: share(hits, hits + misses),
            evictions: spills,
            spills,
            entries: of(|figures| figures.entries),
            region_bytes: figures.and_then(|figures| figures.region_bytes),
            live_bytes: of(|figures| figures.payload_bytes),
            ns_per_op: times.map(Measured::median),
            ns_per_op_min: times.map(Measured::min),
            ns_per_op_max: times.map(Measured::max),
            ops: plan.steps.len() as u64,
            records: plan.records,
            refused: of(|figures| figures.refused),
            compactions: of(|figures| figures.compactions),
            slabs_moved: of(|figures| figures.slabs_moved),
            wipes: of(|figures| figures.wipes),
            spills_to_lru: spills.and_then(|spills| share(spills, lru_spills)),
            time_to_lru: times.zip(lru).map(|(times, lru)| times.over(&lru.times).median()),
            equal_to: None,
        }
    }

    fn print(&self, json: bool) -> Result<(), String> {
        if json {
            return cli::print_json(self);
        }
        let count = |count: Option<u64>| count.map_or("-".to_owned(), |count| count.to_string());
        cli::print_line(&format!(
            "{:<8}{:<7}{:>10}{:>10}{:>8}{:>11}{:>8}{:>9}{:>9}{:>12}{:>12}{:>12}{:>9}{:>8}{:>7}{:>12}{:>8}",
            self.cache,
            self.policy,
            self.hits,
            self.misses,
            cli::digits(self.hit_ratio.map(|ratio| ratio * 100.0), 2),
            count(self.spills),
            cli::digits(self.spills_to_lru, 3),
            count(self.entries),
            count(self.refused),
            count(self.region_bytes),
            count(self.live_bytes),
            count(self.compactions),
            count(self.slabs_moved),
            count(self.wipes),
            cli::digits(self.ns_per_op, 0),
            format!("{}-{}", cli::digits(self.ns_per_op_min, 0), cli::digits(self.ns_per_op_max, 0)),
            cli::digits(self.time_to_lru, 3)
        ))
    }
}
