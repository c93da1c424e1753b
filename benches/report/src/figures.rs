//! What was measured last: the newest file of each section.

use std::fs;
use std::path::Path;

use anyhow::Result;

use crate::table::Table;

/// What `make bench-build` writes.
const BUILD: &str = "build-20000.csv";

fn read_if_there(file: &Path) -> Result<Table> {
    if file.exists() { Table::read(file) } else { Ok(Table::default()) }
}

/// The newest figures of each section.
pub struct Figures {
    pub hit_ratio: Table,
    pub spills: Table,
    pub churn: Table,
    pub memory: Table,
    pub stall: Table,
    pub hit: Table,
    pub compare: Table,
    pub contention: Table,
    pub postgres: Table,
    pub query: Table,
    pub writers: Table,
    pub soak: Table,
    /// Of `make bench-build`.
    pub build: Table,
    /// Section, date, and where it was measured.
    pub machines: Vec<(&'static str, String, Table)>,
}

impl Figures {
    /// Reads the newest files of a folder.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub fn read(folder: &Path) -> Result<Self> {
        let mut machines = Vec::new();
        let mut newest = |section: &'static str| -> Result<Table> {
            let Some(date) = newest_date(folder, section)? else { return Ok(Table::default()) };
            let machine = folder.join(format!("{date}-{section}.machine.csv"));
            machines.push((section, date.clone(), Table::read(&machine)?));
            Table::read(&folder.join(format!("{date}-{section}.csv")))
        };
        Ok(Figures {
            hit_ratio: newest("hit-ratio")?,
            spills: newest("spills")?,
            churn: newest("churn")?,
            memory: newest("memory")?,
            stall: newest("stall")?,
            hit: newest("hit")?,
            compare: newest("compare")?,
            contention: newest("contention")?,
            postgres: newest("postgres")?,
            query: newest("query")?,
            writers: newest("writers")?,
            soak: newest("soak")?,
            build: read_if_there(&folder.join(BUILD))?,
            machines,
        })
    }
}

/// The date of the newest file of a section: names begin with dates that sort.
fn newest_date(folder: &Path, section: &str) -> Result<Option<String>> {
    let ending = format!("-{section}.csv");
    let mut newest: Option<String> = None;
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        // `hit` must not take what belongs to a section whose name ends alike.
        let date = name.strip_suffix(&ending).filter(|date| date.len() == "2000-01-01".len());
        newest = newest.max(date.map(str::to_owned));
    }
    Ok(newest)
}
