//! `make bench`: runs the benchmarks, keeps what they measured, and writes the page about it.
//!
//! ```text
//! cargo run --release -p report -- [--full] [--traces FOLDER] [--sizes FILE.json] [--only SECTION,…] [--page-only]
//!     [--minutes N]
//! ```
//!
//! Each section runs one of the programs in `benches/` with `--json` and writes what they print to
//! `docs/benchmarks/DATE-SECTION.csv`, a column for each field, with `DATE-machine.csv` beside it, which says where and
//! of which commit. Then `docs/benchmarks/README.md` and its plots are written from the newest file of each section. The
//! text of the page is `page.md` beside this file; only its tables are made here.
//!
//! Nothing that was measured is left out of a table because of how it looks. A section that fails is reported and the
//! others run all the same; the program then ends with an error. Without `--traces` the hit ratios are those of the
//! recorded prefix that is in the repository.
//!
//! The section `soak` runs if it is asked for by name (`make soak`), for as many minutes as `--minutes` says; its figures are
//! kept also if it fails, for then somebody wants to see them.

mod figures;
mod goals;
mod page;
mod plots;
mod query;
mod sections;
mod soak;
mod table;

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use clap::Parser;

use sections::{Options, Section};

/// Runs the benchmarks and writes the page about them.
#[derive(Parser)]
struct Args {
    /// Longer runs, for figures to keep.
    #[arg(long)]
    full: bool,
    /// A folder of recorded traces; those whose names are known are replayed.
    #[arg(long)]
    traces: Option<PathBuf>,
    /// A cachebench file of value sizes, for the memory of the cache over time.
    #[arg(long)]
    sizes: Option<PathBuf>,
    /// Run only these [default: all but soak].
    #[arg(long, value_enum, value_delimiter = ',', num_args = 1)]
    only: Vec<Section>,
    /// How long the soak runs.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_080))]
    minutes: u32,
    /// Run nothing, write the page anew from what is there.
    #[arg(long)]
    page_only: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    let folder = root.join("docs/benchmarks");
    std::fs::create_dir_all(&folder)?;
    let mut failed = Vec::new();
    if !args.page_only {
        let options = Options { root, full: args.full, traces: args.traces, sizes: args.sizes, minutes: args.minutes };
        let all = <Section as clap::ValueEnum>::value_variants();
        let chosen = all.iter().filter(|section| match args.only[..] {
            [] => **section != Section::Soak,
            _ => args.only.contains(section),
        });
        for section in chosen {
            if let Err(error) = section.run(&options, &folder) {
                eprintln!("report: {}: {error:#}", section.name());
                failed.push(section.name());
            }
        }
    }
    let figures = figures::Figures::read(&folder)?;
    page::write(&folder, &figures, &goals::goals(&figures))?;
    ensure!(failed.is_empty(), "these sections have no new figures: {}", failed.join(", "));
    Ok(())
}
