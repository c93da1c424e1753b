//! The cache in several processes, under fault, and in odd corners.
//!
//! What must hold, and which file holds it to that:
//!
//! - `accounting`   Processes (and threads) that use one cache at once lose nothing, invent nothing and read only what was
//!   written; every entry ever inserted is evicted, removed, popped, drained or still there, once.
//! - `optimistic_reads`    Readers that take no lock read whole values of their key, whatever writers do beside them.
//! - `expiry`    No reader gets a value whose time is over.
//! - `position_independence`   Nothing in the region depends on where it is mapped; an id means the same entry in every process, for
//!   life.
//! - `scan`      A walk sees each entry that stays exactly once, whatever others do.
//! - `kill`      A process may be killed at any moment: entries may be lost, never wrong; nobody hangs.
//! - `rejected_input`    What is no cache, another cache or a damaged one is refused; so is every wrong configuration, with
//!   value and range.
//! - `capacity`  N entries are N entries, whatever their sizes; what is not pinned can always make room.
//! - `compact`   Compaction does bounded work and works around pins.
//! - `builder`   Workers over one cache in front of one store lose no update, never wait for each other in a circle
//!   (`builder_waits`), leave nothing behind when they fail (`builder_faults`), and share the drain (`builder_drain`).
//! - `resources`  What a process holds is given back once, by that process: forks and exit callbacks change nothing.
//! - `bounded`   Work under one hold of a lock, what a pin keeps, rounds of compaction and generations are bounded.
//! - `edge_cases`      Lengths of 0 and the longest, many pins, panics, odd numbers.
//!
//! Each scenario runs in a process of its own, forked from one without threads (see `testkit::runner`); numbers are
//! random but with fixed seeds, only the interleaving differs from run to run.
#![deny(unsafe_code)]

use testkit as support;

#[path = "processes/accounting.rs"]
mod accounting;
#[path = "processes/bounded.rs"]
mod bounded;
#[path = "processes/builder.rs"]
mod builder;
#[path = "processes/builder_drain.rs"]
mod builder_drain;
#[path = "processes/builder_faults.rs"]
mod builder_faults;
#[path = "processes/builder_waits.rs"]
mod builder_waits;
#[path = "processes/capacity.rs"]
mod capacity;
#[path = "processes/compact.rs"]
mod compact;
#[path = "processes/edge_cases.rs"]
mod edge_cases;
#[path = "processes/expiry.rs"]
mod expiry;
#[path = "processes/kill.rs"]
mod kill;
#[path = "processes/optimistic_reads.rs"]
mod optimistic_reads;
#[path = "processes/position_independence.rs"]
mod position_independence;
#[path = "processes/rejected_input.rs"]
mod rejected_input;
#[path = "processes/resources.rs"]
mod resources;
#[path = "processes/scan.rs"]
mod scan;

fn main() -> std::process::ExitCode {
    let scenarios = [
        accounting::SCENARIOS,
        optimistic_reads::SCENARIOS,
        expiry::SCENARIOS,
        position_independence::SCENARIOS,
        scan::SCENARIOS,
        kill::SCENARIOS,
        rejected_input::SCENARIOS,
        capacity::SCENARIOS,
        compact::SCENARIOS,
        bounded::SCENARIOS,
        edge_cases::SCENARIOS,
        resources::SCENARIOS,
        builder::SCENARIOS,
        builder_drain::SCENARIOS,
        builder_waits::SCENARIOS,
        builder_faults::SCENARIOS,
    ];
    support::runner::run(&scenarios.concat())
}

/// Names functions of a module as scenarios.
macro_rules! scenarios {
    ($module:ident: $($name:ident),* $(,)?) => {
        pub const SCENARIOS: &[crate::support::runner::Scenario] =
            &[$((concat!(stringify!($module), "::", stringify!($name)), $name)),*];
    };
}
use scenarios;
