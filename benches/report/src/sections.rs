//! What is run, and with which options.
//!
//! Quick runs take some minutes in all and are for looking; `full` ones are for figures to keep.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use crate::table::Table;

/// The recorded accesses that are in the repository.
const PREFIX: &str = "benches/data/diskann_build_prefix.bin.xz";
/// 10, 25, 50 and 100 % of its nodes.
const PREFIX_ENTRIES: [u32; 4] = [375, 937, 1_874, 3_747];
/// The whole of that build, if it is in the folder of traces.
const BUILD: &str = "diskann_build_20k_shuffled.bin.xz";
const BUILD_ENTRIES: [u32; 4] = [2_000, 5_000, 10_000, 20_000];

/// Traces that are replayed if the folder has them: file, format, capacities in entries. Quick runs take the first.
const TRACES: &[(&str, &str, &[u32])] = &[
    ("OLTP.lis.zst", "arc", &[1_000, 5_000, 10_000]),
    ("orm-busy.trace.xz", "be32", &[625, 2_500]),
    ("orm-night.trace.xz", "be32", &[625, 2_500]),
    ("web07.trace.xz", "be32", &[1_000, 5_000]),
    ("scarab-recs.trace.xz", "be64", &[5_000, 25_000]),
    ("trace_vaultservice.gz", "be64", &[512]),
    ("cloudPhysicsIO.oracleGeneral.bin", "oracle", &[5_000, 20_000]),
    ("request.trace.xz", "sized", &[500, 2_000]),
    ("loop.trace.gz", "lirs", &[500, 1_000]),
    ("multi3.trace.gz", "lirs", &[1_000, 2_000]),
    ("2_pools.trace.gz", "lirs", &[100, 450]),
];

/// The policies of the slab cache.
const POLICIES: &[&str] = &["lru", "clock", "s3-fifo"];

/// One part of the page, from one program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Section {
    /// Hit ratio by policy.
    HitRatio,
    /// Spills and time of a recorded index build at equal memory.
    Spills,
    /// Memory over time.
    Churn,
    /// How much of its memory a cache uses, by its size and partitions.
    Memory,
    /// The longest hold of a lock.
    Stall,
    /// What a hit costs.
    Hit,
    /// Other caches of one process.
    Compare,
    /// Several processes.
    Contention,
    /// Inside PostgreSQL.
    Postgres,
    /// A report while its tables are written.
    Query,
    /// What writers pay for the query cache.
    Writers,
    /// Everything at once, for long.
    Soak,
}

/// What the command line asks for.
pub struct Options {
    pub root: PathBuf,
    pub full: bool,
    pub traces: Option<PathBuf>,
    pub sizes: Option<PathBuf>,
    /// Of the soak.
    pub minutes: u32,
}

/// The section's programs at work.
struct Runner<'a> {
    options: &'a Options,
    table: Table,
}

impl Section {
    pub fn name(self) -> &'static str {
        match self {
            Section::HitRatio => "hit-ratio",
            Section::Spills => "spills",
            Section::Churn => "churn",
            Section::Memory => "memory",
            Section::Stall => "stall",
            Section::Hit => "hit",
            Section::Compare => "compare",
            Section::Contention => "contention",
            Section::Postgres => "postgres",
            Section::Query => "query",
            Section::Writers => "writers",
            Section::Soak => "soak",
        }
    }

    /// Runs the section's programs and keeps what they print.
    ///
    /// # Errors
    /// One of them fails.
    pub fn run(self, options: &Options, folder: &Path) -> Result<()> {
        let date = output("date", &["-u", "+%F"]).context("what day is it?")?;
        let machine = machine(options, self)?;
        let keep = |table: &Table| {
            table.write(&folder.join(format!("{date}-{}.csv", self.name())))?;
            machine.write(&folder.join(format!("{date}-{}.machine.csv", self.name())))
        };
        let mut runner = Runner { options, table: Table::default() };
        let ran = match self {
            Section::HitRatio => runner.hit_ratio(),
            Section::Spills => runner.spills(),
            Section::Churn => runner.churn(),
            Section::Memory => runner.bench("churn", &[], &["--mib", "1,8,64", "--partitions", "1,8,64"]),
            Section::Stall => runner.bench("stall", &[], &[]),
            Section::Hit => runner.hit(),
            Section::Compare => runner.compare(),
            Section::Contention => runner.contention(),
            Section::Postgres => runner.postgres(),
            Section::Query => runner.query(),
            Section::Writers => runner.writers(),
            Section::Soak => runner.soak(),
        };
        // What a soak has seen until it failed is what it was for.
        if self != Section::Soak || runner.table.is_empty() {
            ran?;
            ensure!(!runner.table.is_empty(), "nothing was measured");
            return keep(&runner.table);
        }
        keep(&runner.table).and(ran)
    }
}

impl Runner<'_> {
    /// Runs a program of `benches/` and keeps the lines that it prints, with `cells` before each.
    fn bench(&mut self, program: &str, cells: &[(&str, &str)], arguments: &[&str]) -> Result<()> {
        eprintln!("report: {program} {}", arguments.join(" "));
        let output = Command::new("cargo")
            .current_dir(&self.options.root)
            .args(["bench", "--quiet", "--no-default-features", "--bench", program, "--"])
            .args(arguments)
            .arg("--json")
            .stderr(Stdio::inherit())
            .output()
            .context("cannot run cargo")?;
        // Where the traces lie is nobody's concern.
        let folder = self.options.traces.as_ref().map_or_else(String::new, |folder| format!("{}/", folder.display()));
        let text = String::from_utf8(output.stdout)?;
        let text = if folder.is_empty() { text } else { text.replace(&folder, "") };
        text.lines().filter(|line| line.starts_with('{')).try_for_each(|line| self.table.push_json(cells, line))?;
        ensure!(output.status.success(), "{program} {} failed, {}", arguments.join(" "), output.status);
        Ok(())
    }

    fn choose<'a>(&self, quick: &'a str, full: &'a str) -> &'a str {
        if self.options.full { full } else { quick }
    }

    /// A file of the folder of traces, if there is one.
    fn trace(&self, name: &str) -> Option<String> {
        let file = self.options.traces.as_ref()?.join(name);
        file.exists().then(|| file.display().to_string())
    }

    fn hit_ratio(&mut self) -> Result<()> {
        self.hit_ratios("index build (prefix)", PREFIX, "diskann", &PREFIX_ENTRIES)?;
        if let Some(build) = self.trace(BUILD).filter(|_| self.options.full) {
            self.hit_ratios("index build", &build, "diskann", &BUILD_ENTRIES)?;
        }
        for (name, format, entries) in TRACES {
            match self.trace(name) {
                Some(file) if self.options.full => self.hit_ratios(name, &file, format, entries)?,
                Some(file) => self.hit_ratios(name, &file, format, &entries[..1])?,
                None => eprintln!("report: no trace {name}"),
            }
        }
        Ok(())
    }

    fn hit_ratios(&mut self, name: &str, file: &str, format: &str, capacities: &[u32]) -> Result<()> {
        for entries in capacities.iter().map(u32::to_string) {
            let cells = [("name", name), ("capacity", entries.as_str())];
            let common = ["--trace", file, "--format", format, "--entries", &entries, "--runs", "0"];
            for policy in POLICIES {
                self.bench("replay", &cells, &[&common[..], &["--policy", policy]].concat())?;
            }
            self.bench("replay", &cells, &[&common[..], &["--cache", "lru,clock,s3-fifo,bump", "--opt"]].concat())?;
        }
        Ok(())
    }

    fn spills(&mut self) -> Result<()> {
        let runs = self.choose("3", "7");
        let build = self.trace(BUILD);
        let (name, file, capacities) = match &build {
            Some(file) => ("index build", file.as_str(), BUILD_ENTRIES),
            None => ("index build (prefix)", PREFIX, PREFIX_ENTRIES),
        };
        for (share, entries) in ["10", "25", "50", "100"].iter().zip(capacities) {
            let entries = entries.to_string();
            self.bench(
                "replay",
                &[("name", name), ("percent", *share)],
                &[
                    "--trace",
                    file,
                    "--format",
                    "diskann",
                    "--cache",
                    "drop-in,slab,lru,bump",
                    "--bytes-of-lru-entries",
                    &entries,
                    "--runs",
                    runs,
                ],
            )?;
        }
        Ok(())
    }

    fn churn(&mut self) -> Result<()> {
        let kv = self.options.sizes.as_ref().map(|file| file.display().to_string());
        let mut pairs = vec![
            ("uniform:64-4000", "uniform:64-4000"),
            ("uniform:64-4000", "uniform:200-900"),
            ("uniform:64-300", "uniform:2000-4000"),
        ];
        if let Some(kv) = &kv {
            pairs.splice(0..0, [(kv.as_str(), "uniform:200-900"), ("uniform:200-900", kv.as_str())]);
        }
        let (bytes, ops) = ("67108864", self.choose("200000", "500000"));
        let installed = Command::new("memcached").arg("--version").stdout(Stdio::null()).status().is_ok();
        let caches = if installed { "slab,bump,memcached" } else { "slab,bump" };
        if !installed {
            eprintln!("report: memcached is not installed and is left out");
        }
        for (sizes, then) in pairs {
            let short =
                |sizes: &str| sizes.rsplit('/').next().unwrap_or(sizes).trim_start_matches("uniform:").to_owned();
            let cells = [("sizes", &*short(sizes)), ("then", &*short(then)), ("bytes", bytes)];
            let arguments = ["--bytes", bytes, "--sizes", sizes, "--then", then, "--ops", ops, "--cache", caches];
            self.bench("churn", &cells, &arguments)?;
        }
        Ok(())
    }

    fn hit(&mut self) -> Result<()> {
        let entries = self.choose("1000,100000", "1000,10000,100000,1000000");
        let rounds = ["--rounds", self.choose("5", "9")];
        self.bench("hit", &[], &[&["--entries", entries][..], &rounds].concat())?;
        let plain = ["--values", "800", "--keys", "uniform"];
        let grown = ["--entries", "100000", "--partitions", "8,64"];
        self.bench("hit", &[], &[&plain[..], &grown, &rounds].concat())?;
        if self.options.full {
            let largest = ["--entries", "10000000", "--values", "100", "--keys", "uniform"];
            self.bench("hit", &[], &[&largest[..], &rounds].concat())?;
        }
        self.bench("hit", &[], &[&["--share", "--entries", "10000"][..], &plain, &rounds].concat())
    }

    fn compare(&mut self) -> Result<()> {
        self.bench("compare", &[], &["--runs", self.choose("3", "9")])
    }

    fn contention(&mut self) -> Result<()> {
        let (seconds, runs) = (self.choose("0.3", "1"), self.choose("3", "7"));
        for (policy, skew, against) in
            [("lru", "zipf:0.99", true), ("clock", "zipf:0.99", false), ("clock", "uniform", false)]
        {
            let common = ["--processes", "8", "--seconds", seconds, "--runs", runs, "--policy", policy, "--skew", skew];
            let servers: &[&str] = if against { &["--against", "memcached,redis"] } else { &[] };
            self.bench("contention", &[], &[&common[..], servers].concat())?;
        }
        Ok(())
    }

    fn postgres(&mut self) -> Result<()> {
        let (clients, seconds, runs) = ("1,4", "1", self.choose("1", "5"));
        self.bench("postgres", &[], &["--clients", clients, "--seconds", seconds, "--runs", runs])
    }

    fn query(&mut self) -> Result<()> {
        let (scale, seconds, runs) = (self.choose("5", "20"), "2", self.choose("1", "3"));
        let calls = self.choose("300000", "2000000");
        self.bench("query", &[], &["--scale", scale, "--seconds", seconds, "--runs", runs, "--calls", calls])
    }

    fn writers(&mut self) -> Result<()> {
        let (clients, seconds, runs) = (self.choose("1", "1,4"), "1", self.choose("3", "5"));
        self.bench("writers", &[], &["--clients", clients, "--seconds", seconds, "--runs", runs])
    }

    fn soak(&mut self) -> Result<()> {
        let seconds = (self.options.minutes * 60).to_string();
        self.bench("soak", &[], &["--seconds", &seconds, "--sample-seconds", "60"])
    }
}

/// Where and of what the figures are.
fn machine(options: &Options, section: Section) -> Result<Table> {
    let git = |arguments: &[&str]| {
        let root = options.root.display().to_string();
        output("git", &[&["-C", &root], arguments].concat())
    };
    let commit = git(&["rev-parse", "--short", "HEAD"]).unwrap_or_default();
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_ok_and(|text| !text.is_empty());
    let of_file = |file: &str, start: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(start)).unwrap_or_default().to_owned();
        line.split_once(':').map_or(String::new(), |(_, value)| value.trim().to_owned())
    };
    let runs = match (section, options.full) {
        (Section::Soak, _) => format!("{} minutes", options.minutes),
        (_, true) => "full".to_owned(),
        (_, false) => "quick".to_owned(),
    };
    // The server that the benchmark starts, if it is said which.
    let postgresql = match std::env::var("PG_CONFIG") {
        Ok(pg_config) => output(&pg_config, &["--version"]),
        Err(_) => output("psql", &["--version"]),
    };
    let mut table = Table::default();
    table.push(&[
        ("commit", format!("{commit}{}", if changed { " and changes" } else { "" })),
        ("runs", format!("{runs}{}", built_otherwise())),
        ("processor", of_file("/proc/cpuinfo", "model name")),
        ("processors", std::thread::available_parallelism().map_or(1, usize::from).to_string()),
        ("memory", of_file("/proc/meminfo", "MemTotal")),
        ("kernel", output("uname", &["-sr"]).unwrap_or_default()),
        ("rust", output("rustc", &["--version"]).unwrap_or_default()),
        ("postgresql", postgresql.unwrap_or_default()),
        (
            "load",
            fs::read_to_string("/proc/loadavg").unwrap_or_default().split(' ').take(3).collect::<Vec<_>>().join(" "),
        ),
    ]);
    Ok(table)
}

/// Settings of the compiler that are not those of `Cargo.toml`.
fn built_otherwise() -> String {
    let settings = std::env::vars().filter_map(|(name, value)| {
        let name = name.strip_prefix("CARGO_PROFILE_RELEASE_")?;
        Some(format!(", {}={value}", name.to_lowercase().replace('_', "-")))
    });
    let mut settings: Vec<String> = settings.collect();
    settings.sort();
    settings.concat()
}

fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output().with_context(|| format!("cannot run {program}"))?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
