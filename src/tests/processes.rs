//! The cache in several processes, under fault, and in odd corners.
//!
//! What must hold, and which file holds it to that:
//!
//! - `account`   Processes (and threads) that use one cache at once lose nothing, invent nothing and read only what was
//!   written; every entry ever inserted is evicted, removed, popped, drained or still there, once.
//! - `beside`    Readers that take no lock read whole values of their key, whatever writers do beside them.
//! - `address`   Nothing in the region depends on where it is mapped; an id means the same entry in every process, for
//!   life.
//! - `walk`      A walk sees each entry that stays exactly once, whatever others do.
//! - `kill`      A process may be killed at any moment: entries may be lost, never wrong; nobody hangs.
//! - `refuse`    What is no cache, another cache or a damaged one is refused; so is every wrong configuration, with
//!   value and range.
//! - `capacity`  N entries are N entries, whatever their sizes; what is not pinned can always make room.
//! - `compact`   Compaction does bounded work and works around pins.
//! - `builder`   Workers over one cache in front of one store lose no update, never wait for each other in a circle
//!   (`builder_waits`), and leave nothing behind when they fail (`builder_faults`).
//! - `edge`      Lengths of 0 and the longest, many pins, panics, odd numbers.
//!
//! Each scenario runs in a process of its own, forked from one without threads (see `support::runner`); numbers are
//! random but with fixed seeds, only the interleaving differs from run to run.
#![deny(unsafe_code)]

mod support;

#[path = "processes/account.rs"]
mod account;
#[path = "processes/address.rs"]
mod address;
#[path = "processes/beside.rs"]
mod beside;
#[path = "processes/builder.rs"]
mod builder;
#[path = "processes/builder_faults.rs"]
mod builder_faults;
#[path = "processes/builder_waits.rs"]
mod builder_waits;
#[path = "processes/capacity.rs"]
mod capacity;
#[path = "processes/compact.rs"]
mod compact;
#[path = "processes/edge.rs"]
mod edge;
#[path = "processes/kill.rs"]
mod kill;
#[path = "processes/refuse.rs"]
mod refuse;
#[path = "processes/walk.rs"]
mod walk;

fn main() -> std::process::ExitCode {
    let scenarios = [
        account::SCENARIOS,
        beside::SCENARIOS,
        address::SCENARIOS,
        walk::SCENARIOS,
        kill::SCENARIOS,
        refuse::SCENARIOS,
        capacity::SCENARIOS,
        compact::SCENARIOS,
        edge::SCENARIOS,
        builder::SCENARIOS,
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
