//! Who may use whom: read from the `use` lines of the sources.
//!
//! - A layer uses only those below it: the engine nothing, `rings` the engine's memory, `shared` the engine, `adapters` both,
//!   `pg` all.
//! - The engine's files have an order, and each uses only those before it. So there is no circle, and a newcomer can read
//!   them from the first to the last.
//! - The libraries of PostgreSQL are named in `pg` alone.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const LAYERS: [&str; 5] = ["engine", "rings", "shared", "adapters", "pg"];

/// The engine's files in the order in which they build on each other. A `mod.rs` only names the files of its folder; who
/// uses the folder uses the last of them.
const ENGINE: &[&str] = &[
    "limits",
    "policy",
    "hash",
    "findings",
    "work",
    "moment",
    "ids",
    "config_error",
    "memory/words",
    "memory/copy",
    "memory/region",
    "memory/list",
    "slab/area",
    "slab/bitmap",
    "slab/class",
    "slab/sizing",
    "slab/slab_use",
    "slab/allocator",
    "slab/allocator/validate",
    "entry/record",
    "entry/directory",
    "entry/lengths",
    "entry/payload",
    "entry/mod",
    "index/bucket",
    "index/shape",
    "index/table",
    "evict/queues",
    "evict/eviction",
    "evict/lru",
    "evict/clock",
    "evict/ghost",
    "evict/s3fifo",
    "evict/order",
    "evict/mod",
    "flight/version",
    "flight/inflight",
    "counters",
    "evicted",
    "layout",
    "header",
    "config",
    "index/optimistic",
    "reservation",
    "outcomes",
    "partition",
    "put",
    "removal",
    "large",
    "write_back",
    "reclaim",
    "sweep",
    "compaction",
    "recovery",
    "report",
    "validate",
];

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every source file below a folder, by its path without the ending.
fn files(folder: &Path, prefix: &str, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry of it").path();
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        if path.is_dir() {
            files(&path, &format!("{prefix}{name}/"), found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.insert(format!("{prefix}{name}"), fs::read_to_string(&path).expect("text"));
        }
    }
}

/// What a file uses outside of its unit tests: paths as they are written, those in braces one by one.
fn used_paths(text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]\nmod tests").next().expect("a first part");
    let mut paths = Vec::new();
    let statements = code.split("\nuse ").skip(1).chain(code.split("\npub use ").skip(1));
    for statement in statements.map(|rest| rest.split(';').next().expect("a first part").replace(['\n', ' '], "")) {
        match statement.split_once("::{") {
            Some((base, names)) => {
                paths.extend(names.trim_end_matches('}').split(',').map(|name| format!("{base}::{name}")));
            }
            None => paths.push(statement),
        }
    }
    paths
}

#[test]
fn a_layer_uses_only_those_below_it() {
    let mut wrong = Vec::new();
    for (rank, layer) in LAYERS.iter().enumerate() {
        let mut found = BTreeMap::new();
        files(&sources().join(layer), "", &mut found);
        for (file, text) in found {
            let code = text.split("#[cfg(test)]\nmod tests").next().expect("a first part");
            for above in &LAYERS[rank + 1..] {
                if code
                    .lines()
                    .any(|line| !line.trim_start().starts_with("//") && line.contains(&format!("crate::{above}")))
                {
                    wrong.push(format!("{layer}/{file} uses {above}"));
                }
            }
            if *layer != "pg" && code.lines().any(|line| line.starts_with("use pgrx")) {
                wrong.push(format!("{layer}/{file} uses pgrx"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What the lines' files use of each other is the same as in the engine: those before.
const RINGS: &[&str] = &["xid", "word", "key", "line", "definitions", "switch", "reader", "table"];

#[test]
fn each_file_of_the_rings_uses_only_those_before_it_and_the_engines_memory() {
    let mut found = BTreeMap::new();
    files(&sources().join("rings"), "", &mut found);
    found.remove("mod");
    let mut named: Vec<&str> = RINGS.to_vec();
    named.sort_unstable();
    assert_eq!(found.keys().collect::<Vec<_>>(), named, "files and their order");
    let mut wrong = Vec::new();
    for (rank, file) in RINGS.iter().enumerate() {
        for path in used_paths(&found[*file]) {
            let is_right = match path.strip_prefix("super::") {
                Some(path) => RINGS[..rank].contains(&path.split("::").next().expect("a first part")),
                None => !path.starts_with("crate::") || path.starts_with("crate::engine::memory::"),
            };
            if !is_right {
                wrong.push(format!("{file} uses {path}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn each_file_of_the_engine_uses_only_those_before_it() {
    let mut found = BTreeMap::new();
    files(&sources().join("engine"), "", &mut found);
    // Unit tests of the file that the folder is called after.
    found.retain(|file, _| !file.ends_with("/tests"));
    let is_list = |file: &str| file.ends_with("mod") && !ENGINE.contains(&file);
    let unknown: Vec<_> = found.keys().filter(|file| !is_list(file) && !ENGINE.contains(&&file[..])).collect();
    assert!(unknown.is_empty(), "files that have no place in the order: {unknown:?}");
    let mut wrong = Vec::new();
    for (rank, file) in ENGINE.iter().enumerate() {
        let folder = file.rsplit_once('/').map_or("", |(folder, _)| folder);
        for path in used_paths(&found[*file]) {
            let Some(path) = resolve(&path, folder) else { continue };
            let Some(used) = rank_of(&path) else {
                wrong.push(format!("{file} uses {path}, which has no place in the order"));
                continue;
            };
            if used >= rank && !(file.ends_with("/mod") && path.starts_with(folder)) {
                wrong.push(format!("{file} uses {path}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The path from the engine's folder, with `/`; `None` for what is not the engine's.
fn resolve(path: &str, folder: &str) -> Option<String> {
    let inside = if let Some(rest) = path.strip_prefix("crate::engine::") {
        rest.replace("::", "/")
    } else if let Some(rest) = path.strip_prefix("super::super::") {
        rest.replace("::", "/")
    } else {
        let rest = path.strip_prefix("super::")?.replace("::", "/");
        if folder.is_empty() { rest } else { format!("{folder}/{rest}") }
    };
    Some(inside)
}

/// The place in the order of the file that a path leads into.
fn rank_of(path: &str) -> Option<usize> {
    let parts: Vec<&str> = path.split('/').collect();
    let as_file = |count: usize| parts.get(..count).map(|parts| parts.join("/"));
    let file =
        [as_file(2), as_file(1)].into_iter().flatten().find_map(|file| ENGINE.iter().position(|known| *known == file));
    file.or_else(|| ENGINE.iter().position(|known| *known == format!("{}/mod", parts[0])))
}

#[test]
fn a_use_that_goes_up_is_found() {
    assert!(rank_of("evict/Eviction") > rank_of("index/table/Table"));
    assert_eq!(resolve("super::record::Flags", "entry").as_deref(), Some("entry/record/Flags"));
    assert_eq!(used_paths("//!\n\nuse super::{a, b::C};\nuse x::y;\n"), ["super::a", "super::b::C", "x::y"]);
    assert_eq!(rank_of("nothing/Here"), None);
}
