//! Everything that can happen between two instructions, as far as it can be run through.
//!
//! - `crash`     A process is killed after each instruction of each operation: what is left is recovered, and right.
//! - `builder_crash`   The same for the builder cache with its store.
//! - `reads`     Writers run at one and at two chosen instructions of a read without a lock: the answer is right.
//! - `damage`    Regions with damaged bytes: nothing hangs, crashes or takes memory without limit, and what is found to
//!   be damaged is emptied.
//!
//! `make exhaustive` runs all of it, `make test` a part that a fixed seed chooses. Optimised code is what is stepped
//! through, so `cargo test` alone does not run this: `cargo test --release --no-default-features --test exhaustive`,
//! with `-- --all` for all of it.
#![deny(unsafe_code)]

use testkit as support;

#[path = "exhaustive/builder_crash.rs"]
mod builder_crash;
#[path = "exhaustive/crash.rs"]
mod crash;
#[path = "exhaustive/damage.rs"]
mod damage;
#[path = "exhaustive/layout.rs"]
mod layout;
#[path = "exhaustive/operations.rs"]
mod operations;
#[path = "exhaustive/reads.rs"]
mod reads;
#[path = "exhaustive/recording.rs"]
mod recording;
#[path = "exhaustive/runner.rs"]
mod runner;
#[path = "exhaustive/stepper.rs"]
mod stepper;
#[path = "exhaustive/watcher.rs"]
mod watcher;
#[path = "exhaustive/world.rs"]
mod world;

fn main() -> std::process::ExitCode {
    let arguments = runner::Arguments::parse();
    let extent = arguments.extent();
    let parts = vec![
        crash::part(extent),
        builder_crash::part(extent),
        reads::part(extent),
        damage::part(extent, arguments.region()),
    ];
    runner::run(&arguments, parts)
}
