//! What the command lines have in common.
//!
//! Purpose: cargo starts a benchmark program with `--bench` among its arguments, and `cargo bench` or `cargo test
//! --all-targets` without a program's own arguments at all. The first is ignored; on the second a program says how it
//! is used and succeeds, so that it does not fail a run in which nobody asked it for anything.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use serde::Serialize;

/// Parses the command line and runs the program; errors go to standard error with the program's name.
pub fn main<Args: Parser>(program: &str, run: impl FnOnce(Args) -> Result<(), String>) -> ExitCode {
    let given: Vec<OsString> = std::env::args_os().filter(|arg| arg != "--bench").collect();
    if given.len() <= 1 {
        println!("{}", Args::command().bin_name(format!("cargo bench --bench {program} --")).render_help());
        return ExitCode::SUCCESS;
    }
    match run(Args::parse_from(given)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{program}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints a line at once, so that a reader behind a pipe sees progress.
///
/// # Errors
/// Nobody reads standard output any more.
pub fn print_line(line: &str) -> Result<(), String> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(|error| format!("standard output: {error}"))
}

/// Prints a line of JSON.
///
/// # Errors
/// As [`print_line`].
pub fn print_json(line: &impl Serialize) -> Result<(), String> {
    print_line(&serde_json::to_string(line).map_err(|error| error.to_string())?)
}
