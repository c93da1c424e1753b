//! What the documentation tells a reader to type about benchmarks does what it says.
//!
//! Every `cargo bench` command in the page's text, in `docs` and in the README is run, with its placeholders filled in and
//! settings behind it that make it short (of an option given twice the last counts). It must print at least one JSON object, and
//! no figure that cannot be. `make` targets must be there. The programs are built as tests are, which the time they
//! measure does not like; nothing here looks at times.
//!
//! The commands of `postgres`, `query`, `writers` and `soak` need the extension installed, which `make test` does before.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The texts that a reader has; the page about benchmarks by its template.
fn texts() -> Vec<(String, String)> {
    let root = root();
    let docs = fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let docs = docs.filter(|path| path.extension().is_some_and(|ending| ending == "md"));
    let others = [root.join("README.md"), root.join("benches/report/src/page.md")];
    docs.chain(others).map(|path| (path.display().to_string(), fs::read_to_string(&path).unwrap())).collect()
}

/// Every command that begins so: a whole line of a block, or inline code.
fn commands(start: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (_, text) in texts() {
        let inline = text.split('`').skip(1).step_by(2).map(str::trim);
        let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
        found.extend(
            inline.chain(lines).filter(|code| code.starts_with(start) && !code.contains('\n')).map(str::to_owned),
        );
    }
    found.into_iter().map(|command| command.trim_end_matches(['`', '.']).to_owned()).collect()
}

/// The program and the options of a command.
fn parts(command: &str) -> (String, Vec<String>) {
    let words: Vec<&str> = command.split_whitespace().collect();
    let (cargo, options) = match words.iter().position(|word| *word == "--") {
        Some(at) => (&words[..at], &words[at + 1..]),
        None => (&words[..], &[][..]),
    };
    assert!(cargo.starts_with(&["cargo", "bench"]), "{command}");
    let known =
        cargo[2..].iter().all(|word| ["--no-default-features", "--bench"].contains(word) || !word.starts_with('-'));
    assert!(known, "{command}: an option that this test does not know");
    let program = cargo.iter().skip_while(|word| **word != "--bench").nth(1).expect("a program's name");
    let filled = options.iter().zip(std::iter::once(&"").chain(options)).map(|(word, before)| fill_in(word, before));
    ((*program).to_owned(), filled.collect())
}

/// What stands in the place of a placeholder.
fn fill_in(word: &str, before: &str) -> String {
    let filled = match (word, before) {
        ("FILE", "--trace") => "benches/data/diskann_build_prefix.bin.xz",
        ("FORMAT", "--format") => "diskann",
        ("N", "--entries" | "--bytes-of-lru-entries") => "375",
        ("N", "--ops") => "2000",
        ("B", "--bytes") => "8388608",
        ("SIZES", "--sizes" | "--then") => "uniform:64-400",
        (other, _) => {
            let is_placeholder = other.chars().all(|letter| letter.is_ascii_uppercase());
            assert!(!is_placeholder, "a placeholder that this test does not know: {before} {other}");
            other
        }
    };
    filled.to_owned()
}

/// Options that make a program short, whatever the command asks for.
fn shortened(program: &str, options: &[String]) -> Vec<&'static str> {
    let has = |option: &str| options.iter().any(|given| given == option);
    match program {
        "churn" if has("--bytes") => vec!["--ops", "2000"],
        "churn" => vec!["--ops", "2000", "--mib", "1"],
        "compare" => vec!["--entries", "2000", "--ops", "500", "--runs", "1"],
        "contention" => {
            vec!["--processes", "2", "--seconds", "0.05", "--runs", "1", "--keys", "500", "--bytes", "4194304"]
        }
        "hit" => vec!["--entries", "300", "--values", "100", "--keys", "uniform", "--rounds", "1"],
        "postgres" => vec!["--clients", "1", "--keys", "1000", "--seconds", "1", "--runs", "1"],
        "query" => {
            let short = ["--clients", "2", "--writes", "0,20", "--seconds", "0.5", "--runs", "1", "--scale", "1"];
            [&short[..], &["--calls", "20000"]].concat()
        }
        "replay" => vec!["--limit", "5000", "--runs", "1"],
        "soak" => {
            vec!["--seconds", "20", "--sample-seconds", "5", "--terminate-seconds", "2", "--kill-seconds", "10"]
        }
        "stall" => vec!["--mib", "1", "--pinned", "50"],
        "writers" => vec!["--clients", "1", "--scale", "1", "--seconds", "1", "--runs", "1"],
        other => panic!("a program that this test does not know: {other}"),
    }
}

fn is_installed(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}

/// Leaves memcached out where it is not installed.
fn installed(option: String) -> String {
    let others: Vec<&str> =
        option.split(',').filter(|name| *name != "memcached" || is_installed("memcached")).collect();
    others.join(",")
}

/// The objects that the command prints.
fn run(command: &str) -> Vec<serde_json::Value> {
    let (program, options) = parts(command);
    let options: Vec<String> = options.into_iter().map(installed).collect();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // A program that is built as tests are is there already.
    let output = Command::new(cargo)
        .current_dir(root())
        .args(["bench", "--quiet", "--profile", "dev", "--no-default-features", "--bench", &program, "--"])
        .args(&options)
        .args(shortened(&program, &options))
        .arg("--json")
        .output()
        .unwrap();
    let (printed, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command}: {}\n{printed}{errors}", output.status);
    let objects: Result<Vec<serde_json::Value>, _> = printed.lines().map(serde_json::from_str).collect();
    let objects = objects.unwrap_or_else(|error| panic!("{command}: {error}:\n{printed}"));
    assert!(!objects.is_empty(), "{command}: measured nothing");
    objects
}

/// Times, rates and bytes are not 0, and an entry takes at least its payload.
fn expect_possible(command: &str, name: &str, value: &serde_json::Value) {
    let all = ["_ns", "_us", "per_second", "bytes_per_entry", "ns_per_put", "ns_per_op", "utilisation"];
    if let Some(number) = value.as_f64() {
        let measured = all.iter().any(|ending| name.ends_with(ending)) && name != "min_utilisation";
        assert!(number.is_finite() && (number > 0.0 || !measured), "{command}: {name} is {number}");
    }
    match value {
        serde_json::Value::Object(fields) => {
            fields.iter().for_each(|(field, value)| expect_possible(command, field, value));
            let number = |field: &str| fields.get(field).and_then(serde_json::Value::as_f64);
            if let Some((each, value_bytes)) = number("bytes_per_entry").zip(number("mean_value_bytes")) {
                assert!(each >= value_bytes, "{command}: {each} bytes for an entry of {value_bytes}");
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| expect_possible(command, name, item)),
        _ => {}
    }
}

#[test]
fn every_documented_benchmark_measures_something() {
    let commands = commands("cargo bench");
    let programs: BTreeSet<String> = commands.iter().map(|command| parts(command).0).collect();
    for program in ["churn", "compare", "contention", "hit", "replay", "stall"] {
        assert!(programs.contains(program), "no text says how {program} is run");
    }
    for command in commands {
        let objects = run(&command);
        objects.iter().for_each(|object| expect_possible(&command, "", object));
        if command.contains("--bench compare") {
            let measured = |object: &serde_json::Value| object["bytes_per_entry"].is_f64();
            assert!(objects.len() >= 33 && objects.iter().all(measured), "{objects:?}");
        }
    }
}

/// What `make bench-postgres` runs.
#[test]
fn the_benchmark_in_postgresql_measures_something() {
    let makefile = fs::read_to_string(root().join("Makefile")).unwrap();
    let line = makefile.lines().find(|line| line.contains("--bench postgres")).expect("a recipe");
    let command = line.trim().trim_start_matches("$(WITH_PG) ");
    assert!(command.starts_with("cargo bench --no-default-features --bench postgres --"), "{line}");
    let objects = run("cargo bench --no-default-features --bench postgres");
    objects.iter().for_each(|object| expect_possible("postgres", "", object));
    assert!(objects.iter().any(|object| object["contender"] == "shared_lru"));
}

/// What `make bench-query` runs: every way is gone, and none that promises fresh answers gives a stale one (it fails itself
/// then).
#[test]
fn the_benchmark_of_reports_asks_in_every_way() {
    let objects = run("cargo bench --no-default-features --bench query");
    objects.iter().for_each(|object| expect_possible("query", "", object));
    let number = |object: &serde_json::Value, field: &str| object[field].as_f64().unwrap_or_else(|| panic!("{object}"));
    for way in ["bare", "fetch", "marked", "marked, simple", "memo"] {
        let lines: Vec<_> = objects.iter().filter(|object| object["way"] == way).collect();
        assert_eq!(lines.len(), 2, "{way}: {objects:?}");
        assert!(lines.iter().all(|line| number(line, "answers") > 0.0), "{lines:?}");
        assert!(lines.iter().any(|line| number(line, "written") > 0.0), "nothing was written: {lines:?}");
        assert!(way == "memo" || lines.iter().all(|line| number(line, "stale") == 0.0), "{lines:?}");
    }
    assert!(objects.iter().any(|object| object["hit"] == "bigint"), "{objects:?}");
}

/// What `make soak` runs, for some seconds: everything is done, and nothing that is read is wrong (it fails itself then).
#[test]
fn the_soak_does_everything_and_sees_no_wrong_value() {
    let objects = run("cargo bench --no-default-features --bench soak");
    let (summary, samples) = objects.split_last().expect("a summary");
    let count = |object: &serde_json::Value, field: &str| object[field].as_u64().unwrap_or_else(|| panic!("{object}"));
    assert_eq!((summary["kind"].as_str(), samples.len()), (Some("summary"), 4), "{objects:?}");
    for field in ["wrong_values", "unexpected_errors", "crashes", "resets"] {
        assert_eq!(count(summary, field), 0, "{summary}");
    }
    assert!(count(summary, "values_checked") > 0 && count(summary, "terminations") > 0, "{summary}");
    assert_eq!(count(summary, "kills"), 1, "{summary}");
    let seen = |field: &str, cache: &str| samples.iter().any(|sample| sample[cache][field].as_i64() > Some(0));
    assert!(seen("expirations", "sessions") && seen("entries", "documents"), "{samples:?}");
    let sizes: BTreeSet<_> = samples.iter().map(|sample| sample["documents"]["region_bytes_max"].as_i64()).collect();
    assert!(sizes.contains(&Some(24 << 20)), "the cache was never made larger: {samples:?}");
}

#[test]
fn every_documented_make_target_is_there() {
    let makefile = fs::read_to_string(root().join("Makefile")).unwrap();
    for command in commands("make ") {
        let target = command.split_whitespace().nth(1).expect("a target");
        let is_there = makefile.lines().any(|line| line.starts_with(&format!("{target}:")));
        assert!(is_there, "{command}: the Makefile has no such target");
    }
}
