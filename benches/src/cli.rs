//! What the command lines have in common.
//!
//! Purpose: cargo starts a benchmark program with `--bench` among its arguments when somebody asked for a benchmark, and
//! without when `cargo test --all-targets` just tries everything. In the second case a program says how it is used and
//! succeeds. In the first it measures, with its defaults if it is given no options; where it cannot do without options, it
//! says how it is used, so that it does not fail a `cargo bench` of all programs. Of an option that is given twice the last
//! counts.
//!
//! Cargo starts programs in their package's folder. Paths on the command line are those of the project's folder.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use pg_shared_lru::Policy;
use serde::Serialize;
use testkit::traces::Format;

const PROJECT_FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Parses the command line and runs the program; errors go to standard error with the program's name.
pub fn main<Args: Parser>(program: &str, run: impl FnOnce(Args) -> Result<(), String>) -> ExitCode {
    let by_cargo = std::env::var_os("CARGO_MANIFEST_DIR").is_some();
    if let Err(error) = if by_cargo { std::env::set_current_dir(PROJECT_FOLDER) } else { Ok(()) } {
        eprintln!("{program}: {PROJECT_FOLDER}: {error}");
        return ExitCode::FAILURE;
    }
    let given: Vec<OsString> = std::env::args_os().collect();
    let is_bench = given.iter().any(|argument| argument == "--bench");
    match parse::<Args>(program, given.into_iter().filter(|argument| argument != "--bench").collect(), is_bench) {
        Ok(args) => match run(args) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{program}: {error}");
                ExitCode::FAILURE
            }
        },
        Err(usage) => {
            println!("{usage}");
            ExitCode::SUCCESS
        }
    }
}

/// The options, or how the program is used, if nothing was asked of it.
fn parse<Args: Parser>(program: &str, given: Vec<OsString>, is_bench: bool) -> Result<Args, String> {
    let bare = given.len() <= 1;
    let mut command = Args::command().args_override_self(true);
    let usage = |command: clap::Command| {
        command.bin_name(format!("cargo bench --bench {program} --")).render_help().to_string()
    };
    if bare && !is_bench {
        return Err(usage(command));
    }
    let parsed = command.try_get_matches_from_mut(given).and_then(|matches| Args::from_arg_matches(&matches));
    match parsed {
        Ok(args) => Ok(args),
        Err(error) if bare && error.kind() == ErrorKind::MissingRequiredArgument => Err(usage(command)),
        Err(error) => error.exit(),
    }
}

/// One of the library's policies, by its name.
pub fn policy() -> impl TypedValueParser<Value = Policy> {
    let names = PossibleValuesParser::new(Policy::ALL.map(Policy::name));
    names.try_map(|name| name.parse::<Policy>())
}

/// One of the formats of traces, by its name.
pub fn format() -> impl TypedValueParser<Value = Format> {
    let names = Format::ALL.map(|(_, name, what)| PossibleValue::new(name).help(what));
    PossibleValuesParser::new(names).map(|name| {
        let named = Format::ALL.into_iter().find(|(_, known, _)| *known == name);
        named.expect("a possible value").0
    })
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

/// A number with so many digits behind the point; a dash where there is none.
pub fn digits(number: Option<f64>, digits: usize) -> String {
    number.map_or("-".to_owned(), |number| format!("{number:.digits$}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Parser, Debug, PartialEq)]
    struct Free {
        #[arg(long, default_value_t = 3)]
        runs: u32,
    }

    #[derive(Parser, Debug, PartialEq)]
    struct Bound {
        #[arg(long)]
        runs: u32,
    }

    fn given(arguments: &[&str]) -> Vec<OsString> {
        std::iter::once("program").chain(arguments.iter().copied()).map(OsString::from).collect()
    }

    #[test]
    fn who_asks_for_a_benchmark_without_options_gets_one() {
        assert_eq!(parse::<Free>("free", given(&[]), true), Ok(Free { runs: 3 }));
        assert!(parse::<Free>("free", given(&[]), false).unwrap_err().contains("cargo bench --bench free --"));
        assert!(parse::<Bound>("bound", given(&[]), true).unwrap_err().contains("--runs"));
    }

    #[test]
    fn of_an_option_given_twice_the_last_counts() {
        assert_eq!(parse::<Bound>("bound", given(&["--runs", "1", "--runs", "2"]), true), Ok(Bound { runs: 2 }));
    }
}
