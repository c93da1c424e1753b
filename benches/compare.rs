//! Starts the program that compares with other caches of one process.
//!
//! The program is `benches/compare/`, a workspace member of its own: the caches that it compares with bring dozens of
//! crates, which nobody should have to build to test the library. `cargo run --release -p compare` does the same.

use std::env;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args_os().skip(1).filter(|argument| argument != "--bench").collect();
    if arguments.is_empty() {
        println!("Usage: cargo bench --no-default-features --bench compare -- --help");
        return ExitCode::SUCCESS;
    }
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/compare/Cargo.toml");
    let status = Command::new(cargo)
        .args(["run", "--release", "--quiet", "--manifest-path", manifest, "--"])
        .args(arguments)
        .status();
    match status {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("compare: cargo does not start: {error}");
            ExitCode::FAILURE
        }
    }
}
