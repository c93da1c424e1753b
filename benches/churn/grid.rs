//! How much of its memory a cache uses, for each size of the cache and each number of partitions: a line each.
//!
//! A cache is given twice its memory in values of the sizes asked for, so that every partition has been full; then as
//! many puts as `--ops` says, or as bring four times its memory. Printed are the lowest utilisation of a thousand looks
//! during these, and that at the end; or, where the cache refuses the combination, the reason that it gives. The puts and
//! what is read and checked are those of the other mode.

use bench::cli;
use bench::contender::{Bound, Contender};
use bench::contenders::{Name, build};
use bench::sizes::Sizes;
use serde::Serialize;

use super::workload::{KEY_BYTES, Workload};
use super::{Args, LOOKS_PER_PHASE, figures, lesser};

const FILL_FACTOR: u64 = 2;
const CHURN_FACTOR: u64 = 4;
const DEFAULT_PARTITIONS: [u32; 3] = [1, 8, 64];

/// Options of the grid.
#[derive(Clone, Debug, clap::Args)]
pub struct GridArgs {
    /// Memory of each cache in MiB, one after another.
    #[arg(long, value_delimiter = ',', num_args = 1, default_value = "1,8,64", conflicts_with = "bytes")]
    mib: Vec<u64>,
    /// Value sizes with --mib, LO-HI in bytes.
    #[arg(long, default_value = "0-2999", conflicts_with = "bytes")]
    values: String,
}

#[derive(Serialize)]
struct Line<'a> {
    cache: &'static str,
    policy: &'static str,
    mib: u64,
    partitions: u32,
    values: &'a str,
    /// What was seen; none where the combination is refused.
    #[serde(flatten)]
    seen: Seen,
    /// Why the combination is refused.
    refusal: Option<String>,
}

#[derive(Default, Serialize)]
struct Seen {
    min_utilisation: Option<f64>,
    utilisation: Option<f64>,
    min_payload: Option<f64>,
    payload: Option<f64>,
    puts: Option<u64>,
    refused: Option<u64>,
    entries: Option<u64>,
    values_checked: Option<u64>,
}

/// All combinations.
///
/// # Errors
/// The sizes are none, or a cache gave wrong bytes.
pub fn run(args: &Args) -> Result<(), String> {
    let sizes = Sizes::parse(&format!("uniform:{}", args.grid.values)).map_err(|error| error.to_string())?;
    let partitions = if args.partitions.is_empty() { &DEFAULT_PARTITIONS[..] } else { &args.partitions };
    if !args.json {
        cli::print_line(&format!(
            "values {}; utilisation: live keys, values and metadata over all memory",
            args.grid.values
        ))?;
        cli::print_line(&format!(
            "{:<10}{:<9}{:>6}{:>12}{:>9}{:>8}{:>9}{:>9}",
            "cache", "policy", "MiB", "partitions", "lowest", "at end", "entries", "refused"
        ))?;
    }
    for &name in &args.caches.cache {
        for &mib in &args.grid.mib {
            for &partitions in partitions {
                one(args, name, mib, partitions, &sizes)?.print(args.json)?;
            }
        }
    }
    Ok(())
}

fn one<'a>(args: &'a Args, name: Name, mib: u64, partitions: u32, sizes: &Sizes) -> Result<Line<'a>, String> {
    let bytes = mib.checked_mul(1 << 20).ok_or_else(|| format!("--mib {mib}: more than memory can be"))?;
    let settings = args.caches.settings(Bound::Bytes(bytes), Some(partitions));
    let line = |cache, policy, seen, refusal| Line {
        cache,
        policy,
        mib,
        partitions,
        values: &args.grid.values,
        seen,
        refusal,
    };
    match build::<KEY_BYTES>(name, &settings) {
        Ok(mut cache) => {
            let seen = churn(args, &mut *cache, bytes, sizes)?;
            Ok(line(cache.name(), cache.policy(), seen, None))
        }
        Err(refusal) => Ok(line(name.name(), settings.policy.name(), Seen::default(), Some(refusal))),
    }
}

fn churn(args: &Args, cache: &mut dyn Contender, bytes: u64, sizes: &Sizes) -> Result<Seen, String> {
    let mut workload = Workload::new(args.seed);
    let (mut puts, mut given_bytes) = (0, 0);
    let mut put = |workload: &mut Workload, cache: &mut dyn Contender| {
        given_bytes += KEY_BYTES as u64 + workload.put(cache, sizes);
        puts += 1;
        (puts, given_bytes)
    };
    let mut done = (0, 0);
    while done.1 < FILL_FACTOR * bytes {
        done = put(&mut workload, cache);
    }
    let start = done;
    let first = figures(cache)?;
    let (mut min_utilisation, mut min_payload) = (first.utilisation(), first.payload());
    for look in 1..=LOOKS_PER_PHASE {
        let share = |all: u64| (u128::from(all) * u128::from(look) / u128::from(LOOKS_PER_PHASE)) as u64;
        let is_due = |done: (u64, u64)| match args.ops {
            Some(ops) => done.0 - start.0 < share(ops),
            None => done.1 - start.1 < share(CHURN_FACTOR * bytes),
        };
        while is_due(done) {
            done = put(&mut workload, cache);
        }
        let figures = figures(cache)?;
        min_utilisation = lesser(figures.utilisation(), min_utilisation);
        min_payload = lesser(figures.payload(), min_payload);
        workload.check(cache)?;
    }
    cache.validate().map_err(|error| format!("{}: at the end: {error}", cache.name()))?;
    let end = figures(cache)?;
    Ok(Seen {
        min_utilisation,
        utilisation: end.utilisation(),
        min_payload,
        payload: end.payload(),
        puts: Some(done.0),
        refused: Some(end.refused),
        entries: Some(end.entries),
        values_checked: Some(workload.values_checked),
    })
}

impl Line<'_> {
    fn print(&self, json: bool) -> Result<(), String> {
        if json {
            return cli::print_json(self);
        }
        let head = format!("{:<10}{:<9}{:>6}{:>12}", self.cache, self.policy, self.mib, self.partitions);
        if let Some(refusal) = &self.refusal {
            return cli::print_line(&format!("{head}  refused: {refusal}"));
        }
        let count = |count: Option<u64>| count.map_or("-".to_owned(), |count| count.to_string());
        cli::print_line(&format!(
            "{head}{:>9}{:>8}{:>9}{:>9}",
            cli::digits(self.seen.min_utilisation, 3),
            cli::digits(self.seen.utilisation, 3),
            count(self.seen.entries),
            count(self.seen.refused)
        ))
    }
}
