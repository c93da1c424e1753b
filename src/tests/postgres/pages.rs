//! What README.md, docs/operations.md and docs/query-cache.md tell a reader to type does what they say it does.
//!
//! Their blocks of SQL run statement by statement, in the order of the page: in a session of its own where the first line
//! is `-- in another session`, else in the first. Behind a statement, or on the lines below it, `--> a | b` is a row
//! that it returns; what has no such row may return anything.
//!
//! Not here: docs/sql.md (`guide`), and the table of errors (`messages`).

use std::thread;

use postgres::{Client, SimpleQueryMessage};

use crate::cluster::Cluster;
use crate::world::{World, has_dsm_registry, wait_until};

const README: &str = include_str!("../../../README.md");
const OPERATIONS: &str = include_str!("../../../docs/operations.md");
const QUERY_CACHE: &str = include_str!("../../../docs/query-cache.md");

/// Begins a block that another session runs.
const ELSEWHERE: &str = "-- in another session\n";
/// Begins what a statement returns.
const RETURNS: &str = "-->";

/// A statement, and the rows that the page says it returns.
#[derive(Debug, Default, PartialEq, Eq)]
struct Statement {
    sql: String,
    rows: Vec<String>,
}

/// The blocks of code in a language, in order.
pub fn blocks<'a>(text: &'a str, language: &str) -> impl Iterator<Item = &'a str> {
    let blocks = text.split("\n```").skip(1).step_by(2);
    let language = format!("{language}\n");
    blocks.filter_map(move |block| block.strip_prefix(&language))
}

/// The part of a page under a heading, as far as the next one of its level.
pub fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let line = format!("\n## {heading}\n");
    let start = page.find(&line).unwrap_or_else(|| panic!("no heading {heading}"));
    // From the end of that line on, for a block may follow it.
    let after = &page[start + line.len() - 1..];
    after.split("\n## ").next().unwrap_or(after)
}

/// The statements of a block: each ends with the line that ends with `;`, outside of `$$`.
fn statements(block: &str) -> Vec<Statement> {
    let mut all = Vec::new();
    let mut current = String::new();
    for line in block.lines() {
        let (code, row) = line.split_once(RETURNS).map_or((line, None), |(code, row)| (code, Some(row.trim())));
        current.push_str(code.trim_end());
        current.push('\n');
        let is_quoted = current.matches("$$").count() % 2 == 1;
        let uncommented = code.split(" -- ").next().unwrap_or(code);
        if uncommented.trim_end().ends_with(';') && !is_quoted {
            all.push(Statement { sql: std::mem::take(&mut current), rows: Vec::new() });
        }
        if let Some(row) = row {
            let statement: &mut Statement = all.last_mut().expect("a row stands behind a statement");
            statement.rows.push(row.to_owned());
        }
    }
    assert_eq!(current.trim(), "", "a statement without an end");
    all
}

/// What a statement returns, as the pages write it: columns between bars, a NULL as nothing.
fn rows_of(client: &mut Client, sql: &str) -> Vec<String> {
    let messages = client.simple_query(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let columns = |row: &postgres::SimpleQueryRow| {
        (0..row.len()).map(|column| row.get(column).unwrap_or_default()).collect::<Vec<_>>().join(" | ")
    };
    rows.map(columns).collect()
}

/// Runs all blocks of SQL of a text; returns how many rows were what the text says.
pub fn run(world: &World, text: &str) -> usize {
    let mut here = world.backend();
    let mut elsewhere = world.backend();
    let mut compared = 0;
    for block in blocks(text, "sql") {
        let backend = if block.starts_with(ELSEWHERE) { &mut elsewhere } else { &mut here };
        for Statement { sql, rows } in statements(block) {
            let returned = rows_of(&mut backend.client, &sql);
            assert!(rows.is_empty() || rows == returned, "{sql}returns {returned:?}, the page says {rows:?}");
            compared += rows.len();
        }
    }
    compared
}

/// A server with the settings of a page. The extension is not made yet.
pub fn world_with_settings_of(text: &str) -> World {
    let lines = blocks(text, "ini").flat_map(str::lines);
    let settings: Vec<(&str, &str)> = lines
        .map(|line| line.split('#').next().unwrap_or(line))
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.trim(), value.trim().trim_matches('\'')))
        .collect();
    assert!(settings.contains(&("shared_preload_libraries", "pg_shared_lru")), "{settings:?}");
    World { cluster: Cluster::start(&settings).expect("a server starts") }
}

#[test]
fn blocks_and_statements_are_found_as_a_reader_sees_them() {
    let text = "\n## A\n```sql\n-- in another session\nSELECT 1, -- one;\n  2;   --> 1 | 2\n```\n\n```sh\nmake\n```\n\
                ```sql\nDO $$ BEGIN\nNULL; END $$;\nVALUES (1), (2);\n--> 1\n--> 2\n```\n## B\n";
    assert_eq!(blocks(section(text, "A"), "sh").collect::<Vec<_>>(), ["make"]);
    let found: Vec<Statement> = blocks(text, "sql").flat_map(statements).collect();
    let expected = [
        ("-- in another session\nSELECT 1, -- one;\n  2;\n", &["1 | 2"][..]),
        ("DO $$ BEGIN\nNULL; END $$;\n", &[]),
        ("VALUES (1), (2);\n", &["1", "2"]),
    ];
    let expected = expected
        .map(|(sql, rows)| Statement { sql: sql.to_owned(), rows: rows.iter().map(|&row| row.to_owned()).collect() });
    assert_eq!(found, expected);
}

#[test]
fn the_readme_returns_what_it_says() {
    let world = world_with_settings_of(README);
    assert!(run(&world, section(README, "The tour")) >= 15);
    let mut judge = world.backend();
    wait_until("writers publish", || judge.one("SELECT EXISTS (SELECT FROM shared_lru.changes('pg_class'))"));
    assert!(run(&world, section(README, "Results of queries")) >= 9);
}

#[test]
fn the_tour_needs_no_preload_where_the_readme_says_so() {
    if !has_dsm_registry() {
        return; // `lifecycle`
    }
    let world = World { cluster: Cluster::start(&[]).expect("a server starts") };
    run(&world, section(README, "The tour"));
}

const NO_PRELOAD: &str = "Without a preload";

#[test]
fn the_page_for_administrators_returns_what_it_says() {
    let world = World::new();
    let page = OPERATIONS.replace(section(OPERATIONS, NO_PRELOAD), "");
    assert!(run(&world, &page) >= 5);
}

#[test]
fn a_server_without_a_preload_does_what_the_page_says_and_no_session_is_needed_for_it() {
    if !has_dsm_registry() {
        return; // `lifecycle`
    }
    let world = World { cluster: Cluster::start(&[]).expect("a server starts") };
    assert!(run(&world, section(OPERATIONS, NO_PRELOAD)) >= 9);
    let mut third = world.backend();
    assert_eq!(third.one::<i64>("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'first'"), 0);
    assert_eq!(third.one::<String>("SELECT shared_lru.get_text('shared', 'k')"), "from the first");
    third.run("SELECT shared_lru.validate('shared')");
}

#[test]
fn the_page_of_the_query_cache_returns_what_it_says() {
    let world = world_with_settings_of(QUERY_CACHE);
    run(&world, section(QUERY_CACHE, "Switch it on"));
    let mut judge = world.backend();
    wait_until("writers publish", || judge.one("SELECT EXISTS (SELECT FROM shared_lru.changes('pg_class'))"));
    assert!(run(&world, section(QUERY_CACHE, "Use it")) >= 9);
    assert!(run(&world, section(QUERY_CACHE, "Options")) >= 16);
    assert!(run(&world, section(QUERY_CACHE, "Recipes")) >= 4);
    assert!(run(&world, section(QUERY_CACHE, "Is it of use?")) >= 3);
}

/// The only statement of the page for administrators that has this in it.
fn query_of_the_page(part: &str) -> String {
    let mut found = blocks(OPERATIONS, "sql").flat_map(statements).filter(|statement| statement.sql.contains(part));
    let query = found.next().expect("a statement of the page").sql;
    assert_eq!(found.next(), None);
    query
}

#[test]
fn the_page_s_query_shows_who_waits_for_a_cache_and_by_which_name() {
    let world = World::with_cache(4);
    let (mut holder, mut waiter, mut judge) = (world.backend(), world.backend(), world.backend());
    let ask = "SELECT FROM shared_lru.get_text_or_lease('c', 'k', '5 minutes')";
    holder.run(&format!("BEGIN; {ask}"));
    let pid = waiter.pid().to_string();
    let name = if has_dsm_registry() { "SharedLruCache" } else { "Extension" };
    assert!(section(OPERATIONS, "Monitoring").contains("| Extension | `SharedLruCache`; `Extension` before 17 |"));
    let query = query_of_the_page("'SharedLruWorker'");
    let expected = format!("{pid} | Extension | {name} | active | ");
    thread::scope(|scope| {
        let waiting = scope.spawn(|| waiter.run(ask));
        wait_until("the page's query shows the wait", || {
            rows_of(&mut judge.client, &query).iter().any(|row| row.starts_with(&expected))
        });
        holder.run("SELECT shared_lru.put_text('c', 'k', 'v'); COMMIT");
        waiting.join().expect("the value has come");
    });
}

#[test]
fn the_page_s_query_shows_who_blocks_a_drop() {
    let world = World::with_cache(4);
    let (mut blocker, mut dropper, mut judge) = (world.backend(), world.backend(), world.backend());
    blocker.run("BEGIN; SELECT shared_lru.alter_cache('c', ttl => '1 hour')");
    let pids = [blocker.pid().to_string(), dropper.pid().to_string()];
    let query = query_of_the_page("pg_locks");
    thread::scope(|scope| {
        let dropping = scope.spawn(|| dropper.run("SELECT shared_lru.drop_cache('c')"));
        let shows = |rows: &[String], pid: &str, granted: &str| {
            rows.iter().any(|row| row.starts_with(&format!("{pid} | ")) && row.ends_with(granted))
        };
        wait_until("the page's query shows both", || {
            let rows = rows_of(&mut judge.client, &query);
            shows(&rows, &pids[0], " | t") && shows(&rows, &pids[1], " | f")
        });
        blocker.run("COMMIT");
        dropping.join().expect("the cache is dropped");
    });
    assert_eq!(rows_of(&mut judge.client, &query), [""; 0]);
}
