//! Every error that SQL can see is in the tables of docs/operations.md, with its SQLSTATE and what to do.
//!
//! The messages are read from the sources: `#[error("…")]` of all error types, the texts of `CacheError::Parameter`, and
//! what is logged. A placeholder is `…` in the page.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::world::{Backend, Refusal, World};

const PAGE: &str = include_str!("../../../docs/operations.md");
/// Errors that no SQL function and no extension meets: how many lines the rings have is a constant.
const NEVER_SEEN: &[&str] = &["rings/table.rs"];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// A string literal at the start of `text`, as Rust reads it, each placeholder as `…`.
fn literal(text: &str) -> Option<String> {
    let mut characters = text.trim_start().strip_prefix('"')?.chars().peekable();
    let mut pattern = String::new();
    loop {
        match characters.next()? {
            '"' => break,
            '\\' => match characters.next()? {
                '\n' => while characters.next_if(|next| next.is_whitespace()).is_some() {},
                'n' => pattern.push('\n'),
                other => pattern.push(other),
            },
            '{' => {
                while characters.next()? != '}' {}
                if !pattern.ends_with('…') {
                    pattern.push('…');
                }
            }
            other => pattern.push(other),
        }
    }
    Some(pattern)
}

/// All messages of the library, as patterns.
fn messages() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    for layer in ["engine", "rings", "shared", "adapters", "pg"] {
        sources(&root.join(layer), &mut files);
    }
    let mut found = BTreeSet::new();
    for file in files {
        let name = file.strip_prefix(&root).expect("below the root").to_string_lossy().into_owned();
        if NEVER_SEEN.contains(&name.as_str()) {
            continue;
        }
        let text = fs::read_to_string(&file).expect("a source");
        for after in text.split("#[error(").skip(1) {
            if !after.trim_start().starts_with("transparent") {
                found.insert(literal(after).unwrap_or_else(|| panic!("{name}: no literal after #[error(")));
            }
        }
        for after in text.split("CacheError::Parameter(").skip(1) {
            let after = after.trim_start();
            let text = literal(after.strip_prefix("format!(").unwrap_or(after));
            assert!(text.is_some() || after.starts_with('_'), "{name}: a message that is no literal: {after:.40}");
            found.extend(text);
        }
        if name.starts_with("pg/") {
            for level in ["log", "debug1", "warning"] {
                let call = format!("pgrx::{level}!(");
                let texts = text.split(&call).skip(1);
                found.extend(texts.map(|after| literal(after).expect("a literal is logged")));
            }
        }
    }
    // Another error's text alone.
    found.remove("…");
    found
}

/// Patterns and SQLSTATEs of the page: of all rows whose first cell is a message and whose second is a code or a dash.
fn rows() -> Vec<(&'static str, &'static str)> {
    let after_heading = PAGE.split_once("\n## Errors").expect("a heading").1;
    let cells = after_heading.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        Some((cells.next()?.strip_suffix('`')?, cells.next()?))
    });
    cells.collect()
}

fn fits(pattern: &str, message: &str) -> bool {
    let mut parts = pattern.split('…');
    let Some(mut rest) = parts.next().and_then(|first| message.strip_prefix(first)) else { return false };
    let mut last = None;
    for part in parts {
        last = Some(part);
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.is_empty() || last.is_some_and(|last| last.is_empty() || rest.ends_with(last))
}

#[test]
fn patterns_are_read_as_rust_reads_them() {
    assert_eq!(literal("\n    \"{} a \\\"{name}\\\"{advice} \\\n      b\")").as_deref(), Some("… a \"…\"… b"));
    assert_eq!(literal("\"{a}{b}\""), Some("…".to_owned()));
    assert_eq!(literal("format!(\"x\")"), None);
    assert!(fits("cache \"…\" is …", "cache \"c\" is here") && fits("a … b", "a b b b") && fits("same", "same"));
    assert!(!fits("cache \"…\" is …", "cache c is here") && !fits("a … b", "a x bc") && !fits("same", "same as"));
}

#[test]
fn every_message_is_on_the_page_and_none_that_is_gone() {
    let (messages, rows) = (messages(), rows());
    assert!(messages.len() >= 55, "{messages:#?}");
    let missing: Vec<&String> =
        messages.iter().filter(|message| rows.iter().all(|(pattern, _)| pattern != message)).collect();
    assert!(missing.is_empty(), "docs/operations.md does not say what to do about {missing:#?}");
    let gone: Vec<&str> =
        patterns_of_the_library().into_iter().filter(|pattern| !messages.contains(*pattern)).collect();
    assert!(gone.is_empty(), "docs/operations.md has messages that nothing says any more: {gone:#?}");
}

/// The patterns of the page that the library says, and not PostgreSQL.
fn patterns_of_the_library() -> Vec<&'static str> {
    let postgres = PAGE.split_once("\n### Errors of PostgreSQL").expect("a heading").1;
    let postgres = postgres.split("\n### ").next().expect("a section");
    let of_postgres = |pattern: &str| postgres.contains(&format!("| `{pattern}` |"));
    rows().into_iter().map(|(pattern, _)| pattern).filter(|pattern| !of_postgres(pattern)).collect()
}

/// The refusal of a statement has a row on the page with its SQLSTATE.
#[track_caller]
fn is_on_the_page(refusal: &Refusal) {
    let fitting: Vec<_> = rows().into_iter().filter(|(pattern, _)| fits(pattern, &refusal.message)).collect();
    // A pattern of few letters may fit, too.
    assert!(fitting.iter().any(|(_, code)| *code == refusal.code), "{refusal:?}: on the page {fitting:?}");
}

#[test]
fn what_is_refused_is_on_the_page_with_its_sqlstate() {
    let world = World::with(&[("pg_shared_lru.max_caches", "2")]);
    let mut admin = world.backend();
    admin.run("SELECT shared_lru.create_cache('c', 1048576)");
    admin.run(
        "CREATE ROLE app LOGIN; GRANT USAGE ON SCHEMA shared_lru TO app;
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA shared_lru TO app;
         CREATE TABLE t (id int); CREATE TABLE u (id int)",
    );
    admin.run(
        "CREATE TRIGGER a AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION shared_lru.invalidate_trigger('c', 'nope');
         CREATE TRIGGER a AFTER INSERT ON u FOR EACH ROW EXECUTE FUNCTION shared_lru.invalidate_trigger()",
    );
    let of_admin = [
        "SELECT shared_lru.get('nothing', 'k')",
        "SELECT shared_lru.create_cache('c')",
        "SELECT shared_lru.create_cache('')",
        "SELECT shared_lru.create_cache(repeat('x', 64))",
        "SELECT shared_lru.create_cache(NULL)",
        "SELECT shared_lru.create_cache('d', 1000)",
        "SELECT shared_lru.create_cache('d', 1 << 20, partitions => 64)",
        "SELECT shared_lru.create_cache('d', -1)",
        "SELECT shared_lru.create_cache('d', 1000000000000000)",
        "SELECT shared_lru.create_cache('d', 100::bigint << 30, partitions => 1)",
        "SELECT shared_lru.create_cache('d', 100 << 20)",
        "SELECT shared_lru.create_cache('d', 1 << 20, policy => 'mru')",
        "SELECT shared_lru.create_cache('d', 1 << 20, partitions => 3)",
        "SELECT shared_lru.create_cache('d', 1 << 20, slab_bytes => 3)",
        "SELECT shared_lru.create_cache('d', 1 << 20, buckets => 0)",
        "SELECT shared_lru.create_cache('d', 1 << 20, buckets => 1000000)",
        "SELECT shared_lru.create_cache('d', 1 << 20, max_entries => 10)",
        "SELECT shared_lru.create_cache('d', max_entries => 0, max_entry_bytes => 8)",
        "SELECT shared_lru.create_cache('d', max_entries => 8, max_entry_bytes => 0)",
        "SELECT shared_lru.create_cache('d', ttl => '1 millisecond')",
        "SELECT shared_lru.alter_cache('c', reset => '{colour}')",
        "SELECT shared_lru.grant_cache('c', 'app', 'admire')",
        "SELECT shared_lru.grant_cache('c', 'nobody', 'read')",
        "SELECT shared_lru.put('c', 'k', 'v', ttl => '-1 second')",
        "SELECT shared_lru.put('c', 'k', 'v', ttl => '20 years')",
        "SELECT shared_lru.put('c', 'k', 'v', ttl => '1000000 years')",
        "SELECT shared_lru.alter_cache('c', grace => '1000000 years')",
        "SELECT shared_lru.alter_cache('c', grace => '-1 second')",
        "SELECT shared_lru.put('c', 'k', convert_to(repeat('v', 300000), 'UTF8'))",
        "SELECT shared_lru.put('c', convert_to(repeat('k', 70000), 'UTF8'), 'v')",
        "SELECT shared_lru.put_leased('c', 'k', 'v', 'short')",
        "SELECT shared_lru.invalidate_trigger()",
        "INSERT INTO t VALUES (1)",
        "INSERT INTO u VALUES (1)",
        "SELECT shared_lru.library_version('99.0.0')",
        "SELECT shared_lru.library_version('new')",
        "ALTER SERVER shared_lru OPTIONS (colour 'red')",
        "ALTER FOREIGN TABLE shared_lru_caches.c OPTIONS (colour 'red')",
        "ALTER FOREIGN TABLE shared_lru_caches.c OPTIONS (SET bytes 'many')",
        "ALTER FOREIGN TABLE shared_lru_caches.c OPTIONS (ADD ttl 'soon')",
        "DROP EXTENSION pg_shared_lru",
        "SELECT * FROM shared_lru_caches.c",
        "BEGIN READ ONLY; SELECT shared_lru.drop_cache('c')",
        "SET statement_timeout = '10ms'; SELECT shared_lru.put('c', int4send(n), 'v') FROM generate_series(1, 100000000) AS n",
    ];
    for statement in of_admin {
        is_on_the_page(&admin.refused(statement));
        admin.run("ROLLBACK; RESET statement_timeout");
    }
    let mut app = world.backend_as("app");
    for statement in ["get('c', 'k')", "put('c', 'k', 'v')", "drop_cache('c')", "drain('c')"] {
        is_on_the_page(&app.refused(&format!("SELECT shared_lru.{statement}")));
    }
    is_on_the_page(&app.refused("SELECT * FROM shared_lru.stats"));
    admin.run("REVOKE EXECUTE ON FUNCTION shared_lru.get(text, bytea) FROM app");
    is_on_the_page(&app.refused("SELECT shared_lru.get('c', 'k')"));

    admin.run("SELECT shared_lru.put('c', 'bytes', '\\xff'); SELECT shared_lru.put('c', 'words', 'no JSON')");
    for statement in ["get_text('c', 'bytes')", "get_array_text('c', '{bytes}')", "get_jsonb('c', 'words')"] {
        is_on_the_page(&admin.refused(&format!("SELECT shared_lru.{statement}")));
    }
    admin.run("SELECT shared_lru.create_cache('d', 1 << 20)");
    is_on_the_page(&admin.refused("SELECT shared_lru.create_cache('e', 1 << 20)"));
    in_other_encodings(&world, &mut admin);
}

fn in_other_encodings(world: &World, admin: &mut Backend) {
    admin.run("SELECT shared_lru.drop_cache('d')");
    admin.run("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0");
    let mut latin = world.backend_in("latin");
    latin.run("CREATE EXTENSION pg_shared_lru; SELECT shared_lru.create_cache('c', 1 << 20)");
    is_on_the_page(&latin.refused("SELECT shared_lru.create_cache('é', 1 << 20)"));
    latin.run("SELECT shared_lru.put('c', 'k', '\\xe4b8ad')");
    for statement in ["get_text('c', 'k')", "get_many_text('c', '{k}')"] {
        is_on_the_page(&latin.refused(&format!("SELECT shared_lru.{statement}")));
    }
}
