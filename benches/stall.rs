//! The longest time that any operation holds a partition's lock, in a cache of many tiny entries.
//!
//! ```text
//! cargo bench --no-default-features --bench stall -- \
//!     [--mib 128] [--value-bytes 32] [--pinned 4000] [--large-mib 27] [--policies lru,clock,s3-fifo] [--json]
//! ```
//!
//! Who waits for a lock cannot be interrupted, and in PostgreSQL waits with interrupts held off: so no operation may hold
//! one for long, whatever it is asked for and however many entries there are. One partition of `--mib` is filled with
//! entries of 8 bytes of key and 32 of value, until it evicts: 1.5 million in 128 MiB. Then, each on a cache that
//! is filled anew where the one before changed it:
//!
//! | operation | what is done |
//! |---|---|
//! | fill | puts until the cache has evicted |
//! | put after reads | a put into the full cache after every entry was read three times: a lap of the clock's hand |
//! | put of much | a put of `--large-mib` into the full cache of tiny entries |
//! | get of much | a read of that value |
//! | remove of much | its removal |
//! | reports | counters, the memory report with chains, the number of pins, a scan of all entries, a validation |
//! | remove | removals of nineteen of twenty entries |
//! | compact | compaction without a budget after that |
//! | drain | all entries taken out |
//! | clear | all entries thrown away, of a cache that was filled anew |
//! | refused put | a put that is refused, for every one of `--pinned` entries is pinned |
//!
//! The locks are the benchmark's own, for one thread; they note the time between acquiring and releasing. The time is that
//! of the thread on its processor, so that what else the machine does is not counted; taking it costs some hundred
//! nanoseconds a hold. A validation is a tool to look for damage and holds the lock for as long as it takes; it is listed
//! as an operation of its own and has no limit.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::process::ExitCode;
use std::rc::Rc;

use bench::cli;
use bench::timing::processor_ns;
use clap::Parser;
use pg_shared_lru::{CompactBudget, Config, LockMode, Locks, Policy, SharedCache, Tenancy};
use serde::Serialize;
use testkit::memory::Arena;

const LIMIT_US: f64 = 1000.0;
/// As many as S3-FIFO counts.
const READS_OF_EACH: usize = 3;
/// Of so many entries all but one are removed.
const REMOVED_OF: u64 = 20;
/// Keys that are no entry's of the fill.
const OTHER_KEYS: u64 = 1 << 40;

/// Measures the longest hold of a lock.
#[derive(Parser)]
#[command(name = "stall")]
struct Args {
    /// Memory of the one partition.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u64).range(1..))]
    mib: u64,
    /// Size of the tiny values.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(..=4096))]
    value_bytes: u32,
    /// Size of the large value [default: as much of the memory as 27 MiB are of 128].
    #[arg(long)]
    large_mib: Option<u64>,
    /// Entries of the cache in which all are pinned.
    #[arg(long, default_value_t = 4000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pinned: u32,
    /// Policies to measure.
    #[arg(long, value_delimiter = ',', num_args = 1, value_parser = cli::policy(), default_value = "lru,clock,s3-fifo")]
    policies: Vec<Policy>,
    /// JSON objects, one a line, instead of a table.
    #[arg(long)]
    json: bool,
}

/// What was seen of the holds of one operation.
#[derive(Clone, Copy, Default)]
struct Holds {
    exclusive: u64,
    longest_exclusive_ns: u64,
    shared: u64,
    longest_shared_ns: u64,
}

/// Notes how long each hold took, under the name of the operation that is under way.
#[derive(Default)]
struct Watch {
    operation: Cell<&'static str>,
    since_ns: Cell<u64>,
    seen: RefCell<BTreeMap<&'static str, Holds>>,
}

/// Locks for one thread that tell the watch.
struct WatchedLocks(Rc<Watch>);

// SAFETY: the memory is the arena's, which is never unmapped and serves one cache.
unsafe impl Tenancy for WatchedLocks {}

// SAFETY: an `Rc` is not `Sync`, so neither is the cache, and one thread has it to itself; the cache calls nothing between
// acquire and release that could come back to it.
unsafe impl Locks for WatchedLocks {
    fn acquire(&self, _partition: usize, _mode: LockMode) {
        self.0.since_ns.set(processor_ns());
    }

    fn release(&self, _partition: usize, mode: LockMode) {
        let held_ns = processor_ns() - self.0.since_ns.get();
        let mut seen = self.0.seen.borrow_mut();
        let holds = seen.entry(self.0.operation.get()).or_default();
        let (count, longest_ns) = match mode {
            LockMode::Exclusive => (&mut holds.exclusive, &mut holds.longest_exclusive_ns),
            LockMode::Shared => (&mut holds.shared, &mut holds.longest_shared_ns),
        };
        *count += 1;
        *longest_ns = held_ns.max(*longest_ns);
    }
}

#[derive(Serialize)]
struct Line {
    operation: &'static str,
    policy: &'static str,
    /// Entries in the partition before the operation.
    entries: u64,
    /// Holds of the exclusive lock.
    holds: u64,
    /// None without a hold.
    longest_us: Option<f64>,
    shared_holds: u64,
    longest_shared_us: Option<f64>,
    /// None of an operation that has no limit.
    limit_us: Option<f64>,
}

/// A cache under watch.
struct Watched {
    cache: SharedCache<WatchedLocks>,
    watch: Rc<Watch>,
    policy: Policy,
}

fn main() -> ExitCode {
    cli::main("stall", run)
}

fn run(args: Args) -> Result<(), String> {
    if !args.json {
        cli::print_line(&format!(
            "one partition of {} MiB, keys of 8 bytes, values of {}; processor time of the longest hold",
            args.mib, args.value_bytes
        ))?;
        cli::print_line(&format!(
            "{:<17}{:<9}{:>9}{:>10}{:>13}{:>10}{:>13}{:>10}",
            "operation", "policy", "entries", "holds", "longest µs", "shared", "longest µs", "limit µs"
        ))?;
    }
    args.policies.iter().try_for_each(|policy| measure(&args, *policy))
}

fn measure(args: &Args, policy: Policy) -> Result<(), String> {
    let bytes = usize::try_from(args.mib << 20).map_err(|_| "--mib: more than memory can be".to_owned())?;
    let large_bytes = args.large_mib.map_or(bytes / 128 * 27, |mib| (mib << 20) as usize);
    let config = Config::bytes(bytes).policy(policy).partitions(1);
    let watched = Watched::new(&config)?;
    let cache = &watched.cache;
    let tiny = vec![1; args.value_bytes as usize];
    let print = |operation, during: &mut dyn FnMut() -> Result<(), String>| watched.print(args, operation, during);
    let mut filled = 0;
    print("fill", &mut || {
        filled = fill(cache, &tiny)?;
        Ok(())
    })?;
    let large = vec![7; large_bytes];
    let put = |key: u64, value: &[u8]| {
        let put = cache.put(&key.to_le_bytes(), value);
        put.map(drop).map_err(|error| format!("{policy}: put of {} bytes: {error}", value.len()))
    };
    let mut out = Vec::new();
    for key in (0..filled).cycle().take(READS_OF_EACH * filled as usize) {
        cache.get(&key.to_le_bytes(), &mut out);
    }
    print("put after reads", &mut || put(OTHER_KEYS, &tiny))?;
    print("put of much", &mut || put(OTHER_KEYS + 1, &large))?;
    print("get of much", &mut || match cache.get(&(OTHER_KEYS + 1).to_le_bytes(), &mut out) && out == large {
        true => Ok(()),
        false => Err(format!("{policy}: the value of {large_bytes} bytes is not what was put")),
    })?;
    print("remove of much", &mut || match cache.remove(&(OTHER_KEYS + 1).to_le_bytes()) {
        Some(value) if value == large => Ok(()),
        _ => Err(format!("{policy}: the value of {large_bytes} bytes is not what was put")),
    })?;
    fill(cache, &tiny)?;
    print("reports", &mut || {
        let entries = cache.len();
        black_box((cache.stats(), cache.memory_report_with_chains(), cache.pinned(), cache.bytes()));
        match cache.iter().count() as u64 {
            scanned if scanned == entries => Ok(()),
            scanned => Err(format!("{policy}: a scan saw {scanned} of {entries} entries")),
        }
    })?;
    print("validate", &mut || cache.validate().map_err(|error| format!("{policy}: {error}")))?;
    print("remove", &mut || {
        let kept = |key: &u64| key % REMOVED_OF != 0;
        (0..2 * filled).filter(kept).for_each(|key| drop(cache.remove(&key.to_le_bytes())));
        Ok(())
    })?;
    print("compact", &mut || {
        cache.compact(CompactBudget::unlimited());
        Ok(())
    })?;
    fill(cache, &tiny)?;
    print("drain", &mut || {
        cache.drain(|_, _| ());
        Ok(())
    })?;
    fill(cache, &tiny)?;
    print("clear", &mut || {
        cache.clear();
        Ok(())
    })?;
    refused_put(args, policy)
}

/// Puts entries until some have been evicted; returns their number.
fn fill(cache: &SharedCache<WatchedLocks>, tiny: &[u8]) -> Result<u64, String> {
    let before = cache.stats().evictions;
    let mut keys = 0u64;
    while cache.stats().evictions < before + 1000 {
        for _ in 0..10_000 {
            let put = cache.put(&keys.to_le_bytes(), tiny);
            put.map_err(|error| format!("fill: {error}"))?;
            keys += 1;
        }
    }
    Ok(keys)
}

/// A put into a cache in which nothing may be evicted.
fn refused_put(args: &Args, policy: Policy) -> Result<(), String> {
    let watched = Watched::new(&Config::entries(args.pinned, 64).policy(policy).partitions(1))?;
    for key in 0..u64::from(args.pinned) {
        let put = watched.cache.put(&key.to_le_bytes(), &[0; 8]);
        put.map_err(|error| format!("{policy}: {error}"))?;
    }
    while_pinned(&watched.cache, u64::from(args.pinned), &mut || {
        watched.print(args, "refused put", &mut || match watched.cache.put(&OTHER_KEYS.to_le_bytes(), &[0; 8]) {
            Err(_) => Ok(()),
            Ok(_) => Err(format!("{policy}: a put evicted one of {} pinned entries", args.pinned)),
        })
    })
}

/// Calls `then` inside readers of all keys below this one.
fn while_pinned(
    cache: &SharedCache<WatchedLocks>,
    keys: u64,
    then: &mut dyn FnMut() -> Result<(), String>,
) -> Result<(), String> {
    let Some(key) = keys.checked_sub(1) else { return then() };
    let read = cache.with(&key.to_le_bytes(), |_| while_pinned(cache, key, then));
    read.unwrap_or_else(|| Err(format!("key {key} is not there")))
}

impl Watched {
    fn new(config: &Config) -> Result<Self, String> {
        let watch = Rc::new(Watch::default());
        let locks = WatchedLocks(watch.clone());
        let cache = Arena::for_config(config).create_with(config, locks).map_err(|error| error.to_string())?;
        let policy = cache.resolved().policy;
        Ok(Watched { cache, watch, policy })
    }

    /// Does an operation and prints what was seen of its holds.
    fn print(
        &self,
        args: &Args,
        operation: &'static str,
        during: &mut dyn FnMut() -> Result<(), String>,
    ) -> Result<(), String> {
        let entries = self.cache.len();
        self.watch.operation.set(operation);
        let done = during();
        self.watch.operation.set("");
        done?;
        let holds = self.watch.seen.borrow().get(operation).copied().unwrap_or_default();
        let us = |count: u64, ns: u64| (count > 0).then_some(ns as f64 / 1000.0);
        let line = Line {
            operation,
            policy: self.policy.name(),
            entries,
            holds: holds.exclusive,
            longest_us: us(holds.exclusive, holds.longest_exclusive_ns),
            shared_holds: holds.shared,
            longest_shared_us: us(holds.shared, holds.longest_shared_ns),
            limit_us: (operation != "validate").then_some(LIMIT_US),
        };
        line.print(args.json)
    }
}

impl Line {
    fn print(&self, json: bool) -> Result<(), String> {
        if json {
            return cli::print_json(self);
        }
        cli::print_line(&format!(
            "{:<17}{:<9}{:>9}{:>10}{:>13}{:>10}{:>13}{:>10}",
            self.operation,
            self.policy,
            self.entries,
            self.holds,
            cli::digits(self.longest_us, 1),
            self.shared_holds,
            cli::digits(self.longest_shared_us, 1),
            cli::digits(self.limit_us, 0)
        ))
    }
}
