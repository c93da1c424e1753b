//! Replays a recorded access trace against one or more caches and reports hits, misses and cost.
//!
//! ```text
//! cargo bench --no-default-features --bench replay -- \
//!     --trace FILE --format diskann|arc|be32|be64|lirs|oracle|sized --policy lru|clock|s3-fifo \
//!     (--entries N | --bytes B | --payload-bytes B) [--cache slab,bump,lru,clock,s3-fifo] [--json]
//! ```
//!
//! One access is a get, followed by a put of the same key when it missed. In a `diskann` trace a `g` record is such an
//! access, the put being that key's last pushed neighbour list (or an empty one), and a `p` record is a put on its own.
//! Hits and misses count gets only; evictions come from all puts.
//!
//! Keys are 8 bytes. A value is as long as the trace says: for `diskann` 8 bytes and 12 for every neighbour, for
//! `oracle` and `sized` the record's size (cut to `--max-value-bytes`), else `--value-bytes`. Its bytes are a function
//! of key, number of pushes so far and length (`content.rs`).
//!
//! Every cache is replayed twice, from empty. The first time every value read is compared byte for byte with what was
//! last stored under its key, and the structure is validated at the end; any difference ends the program with an
//! error. The second time nothing is checked and the time is taken: `ns_per_op` is the time of all gets and puts, and
//! of building the values put (one copy of prepared bytes), over the number of accesses. All counts are from the first
//! replay. With several partitions the two replays differ a little, for each cache seeds its hash anew, and the hash
//! chooses the partition; with one partition there is no such choice and the counts are exact.
//!
//! It replays in one thread of one process and says nothing about contention.

#[allow(dead_code, reason = "each benchmark program uses a part of what they share")]
mod support;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::{ArgGroup, Parser};
use serde::Serialize;

use support::bump;
use support::caches::{build, build_all, Bound, Cache, Figures, Kind, Outcome, PolicyName, Settings};
use support::cli;
use support::content::{Content, Written};
use support::traces::{Format, Op, TraceReader};

const KEY_BYTES: usize = size_of::<u64>();

/// What one neighbour takes in a builder's list: an item pointer (8 bytes) and a distance (4).
const NEIGHBOUR_BYTES: u64 = 12;
const NEIGHBOUR_LIST_HEADER_BYTES: u64 = 8;

/// Replays a recorded access trace against caches.
#[derive(Parser)]
#[command(name = "replay")]
#[command(group(ArgGroup::new("capacity").required(true).args(["entries", "bytes", "payload_bytes"])))]
struct Args {
    /// The trace; .xz, .zst and .gz are decompressed.
    #[arg(long)]
    trace: PathBuf,
    /// How its records are laid out.
    #[arg(long, value_enum)]
    format: Format,
    /// Policy of the slab cache; bump, lru, clock and s3-fifo have their own.
    #[arg(long, value_enum, default_value = "lru")]
    policy: PolicyName,
    /// Capacity in entries, exact with one partition.
    #[arg(long)]
    entries: Option<u32>,
    /// Capacity in bytes of memory, metadata included.
    #[arg(long)]
    bytes: Option<u64>,
    /// Capacity in bytes of values alone, as trace simulators count; lru and s3-fifo only.
    #[arg(long)]
    payload_bytes: Option<u64>,
    /// The caches to run, one after another.
    #[arg(long, value_enum, value_delimiter = ',', num_args = 1, default_value = "slab")]
    cache: Vec<Kind>,
    /// Partitions of the slab cache [default: 1 with --entries, else the engine chooses].
    #[arg(long)]
    partitions: Option<u32>,
    /// Slab size of the slab cache [default: the engine chooses].
    #[arg(long)]
    slab_bytes: Option<u32>,
    /// Buckets of the bump cache.
    #[arg(long, default_value_t = bump::DEFAULT_BUCKET_COUNT)]
    bump_buckets: usize,
    /// Replay only this many records from the start.
    #[arg(long)]
    limit: Option<u64>,
    /// Value size for traces that carry no sizes (arc, be32, be64, lirs) [default: 64].
    #[arg(long)]
    value_bytes: Option<u32>,
    /// Sizes in a trace are cut to this.
    #[arg(long, default_value_t = 1 << 20)]
    max_value_bytes: u32,
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
    max_value_bytes: u32,
}

/// What one replay of the whole trace counted.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Counts {
    hits: u64,
    misses: u64,
    figures: Figures,
}

#[derive(Serialize)]
struct Report<'a> {
    cache: &'static str,
    trace: &'a str,
    format: &'static str,
    policy: &'static str,
    hits: u64,
    misses: u64,
    hit_ratio: f64,
    evictions: u64,
    entries: u64,
    region_bytes: u64,
    live_bytes: u64,
    ns_per_op: f64,
    ops: u64,
    records: u64,
    refused: u64,
    compactions: u64,
    slabs_moved: u64,
    wipes: u64,
}

fn main() -> ExitCode {
    cli::main("replay", run)
}

fn run(args: Args) -> Result<(), String> {
    let plan = Plan::read(&args)?;
    let content = Content::new(plan.max_value_bytes as usize);
    let settings = settings(&args, plan.max_value_bytes);
    let trace = args.trace.display().to_string();
    build_all::<KEY_BYTES>(&args.cache, &settings)?;
    for (index, kind) in args.cache.iter().enumerate() {
        let counts = checked_replay(&mut *build::<KEY_BYTES>(*kind, &settings)?, &plan, &content)?;
        let mut cache = build::<KEY_BYTES>(*kind, &settings)?;
        let started = Instant::now();
        timed_replay(&mut *cache, &plan, &content);
        let elapsed = started.elapsed();
        let ops = plan.steps.len() as u64;
        let report = Report {
            cache: cache.name(),
            trace: &trace,
            format: args.format.name(),
            policy: cache.policy(),
            hits: counts.hits,
            misses: counts.misses,
            hit_ratio: counts.hits as f64 / (counts.hits + counts.misses).max(1) as f64,
            evictions: counts.figures.evictions,
            entries: counts.figures.entries,
            region_bytes: counts.figures.region_bytes,
            live_bytes: counts.figures.payload_bytes,
            ns_per_op: elapsed.as_nanos() as f64 / ops.max(1) as f64,
            ops,
            records: plan.records,
            refused: counts.figures.refused,
            compactions: counts.figures.compactions,
            slabs_moved: counts.figures.slabs_moved,
            wipes: counts.figures.wipes,
        };
        report.print(args.json, index == 0)?;
    }
    Ok(())
}

fn settings(args: &Args, max_value_bytes: u32) -> Settings {
    let bound = match (args.entries, args.bytes, args.payload_bytes) {
        (Some(count), ..) => Bound::Entries { count, entry_bytes: max_value_bytes.saturating_add(KEY_BYTES as u32) },
        (None, Some(bytes), _) => Bound::Bytes(bytes),
        (None, None, bytes) => Bound::ValueBytes(bytes.unwrap_or(0)),
    };
    Settings {
        policy: args.policy,
        bound,
        partitions: args.partitions.or(args.entries.map(|_| 1)),
        slab_bytes: args.slab_bytes,
        bump_buckets: args.bump_buckets,
    }
}

impl Plan {
    fn read(args: &Args) -> Result<Self, String> {
        let has_sizes = matches!(args.format, Format::Diskann | Format::Oracle | Format::Sized);
        if has_sizes && args.value_bytes.is_some() {
            return Err(format!("--value-bytes: a {} trace has sizes of its own", args.format.name()));
        }
        let plain_bytes = u64::from(args.value_bytes.unwrap_or(64));
        let default_bytes = match args.format {
            Format::Diskann => NEIGHBOUR_LIST_HEADER_BYTES,
            _ => plain_bytes,
        };
        let mut pushed: HashMap<u64, (u32, u32)> = HashMap::new();
        let mut steps = Vec::new();
        let mut max_value_bytes = 0;
        let cut = |bytes: u64| bytes.min(u64::from(args.max_value_bytes)) as u32;
        let mut trace = open(&args.trace, args.format, args.limit)?;
        for access in &mut trace {
            let access = access.map_err(|error| error.to_string())?;
            let (write, len) = match access.op {
                Op::Push { neighbours } => {
                    let bytes = NEIGHBOUR_LIST_HEADER_BYTES + NEIGHBOUR_BYTES * u64::from(neighbours);
                    let last = pushed.entry(access.key).or_default();
                    *last = (last.0 + 1, cut(bytes));
                    *last
                }
                Op::Get => match (access.size_bytes, pushed.get(&access.key)) {
                    (Some(bytes), _) => (0, cut(bytes)),
                    (None, Some(last)) => *last,
                    (None, None) => (0, cut(default_bytes)),
                },
            };
            max_value_bytes = max_value_bytes.max(len);
            steps.push(Step { is_get: access.op == Op::Get, value: Written { key: access.key, write, len } });
        }
        Ok(Plan { steps, records: trace.records(), max_value_bytes })
    }
}

fn open(file: &Path, format: Format, limit: Option<u64>) -> Result<TraceReader, String> {
    TraceReader::open(file, format, limit).map_err(|error| error.to_string())
}

/// Replays with every read compared to what was last stored, and validates the cache at the end.
fn checked_replay(cache: &mut dyn Cache, plan: &Plan, content: &Content) -> Result<Counts, String> {
    let name = cache.name();
    let mut stored: HashMap<u64, Written> = HashMap::new();
    let (mut hits, mut misses) = (0, 0);
    let (mut read, mut value) = (Vec::new(), Vec::new());
    for (index, step) in plan.steps.iter().enumerate() {
        let key = step.value.key.to_le_bytes();
        let fault = |what: String| format!("{name}: access {}: {what}", index + 1);
        if step.is_get && cache.get(&key, &mut read) {
            hits += 1;
            let expected =
                stored.get(&step.value.key).ok_or_else(|| fault(format!("key {} was never stored", step.value.key)))?;
            content.check(*expected, &read).map_err(|mismatch| fault(mismatch.to_string()))?;
            continue;
        }
        misses += u64::from(step.is_get);
        content.build(step.value, &mut value);
        if cache.put(&key, &value) == Outcome::Stored {
            stored.insert(step.value.key, step.value);
        }
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

/// Replays with nothing but the cache's work and the building of values.
fn timed_replay(cache: &mut dyn Cache, plan: &Plan, content: &Content) {
    let (mut read, mut value) = (Vec::new(), Vec::new());
    for step in &plan.steps {
        let key = step.value.key.to_le_bytes();
        if step.is_get && cache.get(&key, &mut read) {
            continue;
        }
        content.build(step.value, &mut value);
        cache.put(&key, &value);
    }
}

impl Report<'_> {
    fn print(&self, json: bool, first: bool) -> Result<(), String> {
        if json {
            let line = serde_json::to_string(self).map_err(|error| error.to_string())?;
            return cli::print_line(&line);
        }
        if first {
            cli::print_line(&format!(
                "{} ({}): {} records, {} accesses",
                self.trace, self.format, self.records, self.ops
            ))?;
            cli::print_line(&format!(
                "{:<8}{:<8}{:>10}{:>10}{:>8}{:>11}{:>9}{:>9}{:>12}{:>12}{:>12}{:>9}{:>8}{:>7}",
                "cache",
                "policy",
                "hits",
                "misses",
                "hit %",
                "evictions",
                "entries",
                "refused",
                "region",
                "live",
                "compactions",
                "slabs",
                "wipes",
                "ns/op"
            ))?;
        }
        cli::print_line(&format!(
            "{:<8}{:<8}{:>10}{:>10}{:>8.2}{:>11}{:>9}{:>9}{:>12}{:>12}{:>12}{:>9}{:>8}{:>7.0}",
            self.cache,
            self.policy,
            self.hits,
            self.misses,
            self.hit_ratio * 100.0,
            self.evictions,
            self.entries,
            self.refused,
            self.region_bytes,
            self.live_bytes,
            self.compactions,
            self.slabs_moved,
            self.wipes,
            self.ns_per_op
        ))
    }
}
