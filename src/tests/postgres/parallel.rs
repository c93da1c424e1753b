//! A cache in the memory of a parallel operation, with real workers.
//!
//! The extension that leads and works (`src/tests/parallel_extension`) is built here with cargo and loaded from the
//! cluster's folder; nothing of it is installed.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use exchange::{Outcome, Request, Trouble};

use crate::cluster::{self, Cluster};
use crate::world::Backend;

#[path = "../parallel_extension/src/exchange.rs"]
mod exchange;

const FUNCTIONS: &[(&str, &str)] = &[
    ("exercise(text)", "text"),
    ("attach_refusals()", "text[]"),
    ("use_after_end(text, text)", "void"),
    ("hold_segments()", "int4"),
    ("release_segments()", "void"),
    ("draw_tranche()", "int4"),
];

const WORKERS: i32 = 4;
/// More than any machine has.
const ENDLESS_BYTES: usize = 1 << 45;

impl Outcome {
    /// Whatever happened to the workers: nothing is wrong, and nothing is held.
    #[track_caller]
    fn assert_sound(&self) {
        assert_eq!((self.wrong, self.resets, self.inconsistencies.as_deref()), (0, 0, None), "{self:?}");
        assert_eq!((self.walked, self.walked), (self.distinct, self.drained), "{self:?}");
        assert_eq!((self.held_after, self.interrupts_held), (0, 0), "{self:?}");
    }
}

/// Builds the extension, once, and returns its file.
pub fn built() -> &'static PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let feature = cluster::pg_feature().expect("there is a PostgreSQL");
        let build = Command::new(cargo)
            .args(["build", "--package", "parallel_extension", "--message-format", "json"])
            .args(["--no-default-features", "--features", &feature])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("cargo runs");
        assert!(build.status.success(), "{}", String::from_utf8_lossy(&build.stderr));
        let messages = String::from_utf8_lossy(&build.stdout).into_owned();
        let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let files = messages.filter(|message| message["target"]["name"] == "parallel_extension");
        let mut names = files.filter_map(|message| message["filenames"][0].as_str().map(PathBuf::from));
        names.next().expect("cargo tells what it has built")
    })
}

/// A server, and a session that can call the extension.
struct Session {
    cluster: Cluster,
    backend: Backend,
    request: Request,
}

impl Session {
    fn new(settings: &[(&str, &str)]) -> Self {
        let cluster = Cluster::start(settings).expect("a server starts");
        let library = cluster.take_in(built()).expect("the library can be copied");
        let library = library.to_str().expect("a path of plain characters").to_owned();
        let mut backend = Backend { client: cluster.connect("postgres").expect("the server accepts a connection") };
        for (signature, result) in FUNCTIONS {
            let (name, _) = signature.split_once('(').expect("a signature");
            let symbol = format!("{name}_wrapper");
            backend.run(&format!(
                "CREATE FUNCTION {signature} RETURNS {result} LANGUAGE c STRICT AS '{library}', '{symbol}'"
            ));
        }
        // Whoever hangs is found out.
        backend.run("SET statement_timeout = '60s'");
        let request = Request {
            library,
            workers: WORKERS,
            cache_bytes: 8 << 20,
            partitions: 2,
            ballast_bytes: 0,
            keys: 2000,
            rounds: 10,
            trouble: Trouble::None,
        };
        Session { cluster, backend, request }
    }

    fn exercise(&mut self, change: impl FnOnce(&mut Request)) -> Outcome {
        let mut request = self.request.clone();
        change(&mut request);
        let request = serde_json::to_string(&request).expect("plain data");
        let outcome: String = self.backend.call("SELECT exercise($1)", &[&request]);
        serde_json::from_str(&outcome).expect("an outcome")
    }

    /// The session works, in parallel too, and PostgreSQL has nothing to complain about.
    #[track_caller]
    fn assert_unharmed(&mut self) {
        let outcome = self.exercise(|_| ());
        assert_eq!((outcome.workers_launched, outcome.has_segment), (WORKERS, true));
        outcome.assert_sound();
        let log = self.cluster.log();
        assert!(!log.contains("WARNING") && !log.contains("PANIC") && !log.contains("terminated by signal"), "{log}");
    }
}

#[test]
fn workers_and_leader_share_one_cache_and_nothing_is_lost() {
    let mut session = Session::new(&[]);
    let outcome = session.exercise(|_| ());
    assert_eq!((outcome.workers_launched, outcome.has_segment), (WORKERS, true));
    outcome.assert_sound();
    assert_eq!((outcome.walked, outcome.evictions), (session.request.keys, 0), "every key is there, once");
    assert!(outcome.errors.is_empty(), "{outcome:?}");
    session.assert_unharmed();
}

#[test]
fn a_cache_too_small_for_all_evicts_and_stays_sound() {
    let mut session = Session::new(&[]);
    let outcome = session.exercise(|request| (request.cache_bytes, request.partitions) = (512 << 10, 1));
    outcome.assert_sound();
    assert!(outcome.evictions > 0 && outcome.walked > 0 && outcome.walked < session.request.keys, "{outcome:?}");
    session.assert_unharmed();
}

#[test]
fn memory_that_was_used_before_makes_an_empty_cache() {
    // Segments come from a piece of main shared memory, which is not cleared between two uses.
    let mut session = Session::new(&[("min_dynamic_shared_memory", "32MB")]);
    for _ in 0..3 {
        let outcome = session.exercise(|_| ());
        outcome.assert_sound();
        assert_eq!((outcome.walked, outcome.has_segment), (session.request.keys, true));
    }
    session.assert_unharmed();
}

#[test]
fn the_leader_works_alone_where_it_gets_no_worker() {
    let mut session = Session::new(&[("max_parallel_workers", "0")]);
    let launched_none = session.exercise(|_| ());
    assert_eq!((launched_none.workers_launched, launched_none.has_segment), (0, true));
    let asked_for_none = session.exercise(|request| request.workers = 0);
    assert_eq!((asked_for_none.workers_launched, asked_for_none.has_segment), (0, false));
    for outcome in [launched_none, asked_for_none] {
        outcome.assert_sound();
        assert_eq!((outcome.walked, outcome.refused), (session.request.keys, None));
    }
    session.backend.run("SET max_parallel_workers = 8");
    session.assert_unharmed();
}

#[test]
fn the_leader_works_in_its_own_memory_where_no_segment_is_left() {
    let mut session = Session::new(&[("max_connections", "10")]);
    let held: i32 = session.backend.one("SELECT hold_segments()");
    assert!(held > 64, "PostgreSQL has more slots than the {held} that could be held");
    let outcome = session.exercise(|_| ());
    assert_eq!((outcome.workers_launched, outcome.has_segment, outcome.refused.as_deref()), (0, false, None));
    outcome.assert_sound();
    assert_eq!(outcome.walked, session.request.keys);
    session.backend.run("SELECT release_segments()");
    session.assert_unharmed();
}

#[test]
fn memory_that_the_system_refuses_is_an_error_one_can_live_with() {
    let mut session = Session::new(&[("dynamic_shared_memory_type", "posix")]);
    // Twice in one transaction, which then commits: nothing of the failed attempts is left in it.
    session.backend.run("BEGIN");
    for _ in 0..2 {
        let outcome = session.exercise(|request| request.ballast_bytes = ENDLESS_BYTES);
        let refused = outcome.refused.as_deref().expect("no such memory");
        let needed: Vec<usize> = refused.split(' ').filter_map(|word| word.parse().ok()).collect();
        assert!(needed.iter().any(|&bytes| bytes > ENDLESS_BYTES), "the bytes are named: {refused}");
        assert!(refused.contains("(/dev/shm has ") && refused.contains(" bytes free)"), "and who refuses: {refused}");
        outcome.assert_sound();
        assert_eq!(outcome.walked, session.request.keys, "the cache that it fell back to works");
    }
    session.assert_unharmed();
    session.backend.run("COMMIT");
    session.assert_unharmed();
}

#[test]
fn private_memory_beyond_postgresqls_limit_is_an_error_one_can_live_with() {
    let mut session = Session::new(&[]);
    let outcome = session.exercise(|request| (request.workers, request.cache_bytes) = (0, 2 << 30));
    let refused = outcome.refused.expect("more than PostgreSQL allocates at once");
    assert!(refused.contains("invalid memory alloc request size") && !refused.contains("/dev/shm"), "{refused}");
    session.assert_unharmed();
}

#[test]
fn an_error_that_is_no_want_of_memory_goes_on() {
    let mut session = Session::new(&[]);
    let mut request = session.request.clone();
    // The sum of all chunks is still a number; with PostgreSQL's own it is none.
    request.ballast_bytes = usize::MAX / 32 * 32 - request.cache_bytes - (16 << 10);
    let request = serde_json::to_string(&request).expect("plain data");
    session.backend.refused(&format!("SELECT exercise('{request}')")).is("54000", &[]);
    session.assert_unharmed();
}

#[test]
fn a_worker_that_fails_leaves_no_pin_and_no_load() {
    let mut session = Session::new(&[]);
    let outcome = session.exercise(|request| request.trouble = Trouble::ErrorWhileHolding);
    // A pin and a load each.
    assert_eq!((outcome.workers_launched, outcome.held_in_place), (WORKERS, 2 * WORKERS as u64), "{outcome:?}");
    assert!(outcome.errors.iter().any(|error| error.contains("stops in the middle")), "{outcome:?}");
    outcome.assert_sound();
    session.assert_unharmed();
}

#[test]
fn a_worker_that_is_terminated_leaves_no_pin_and_no_load() {
    let mut session = Session::new(&[]);
    let outcome = session.exercise(|request| request.trouble = Trouble::TerminatedWhileHolding);
    // A pin and a load each.
    assert_eq!((outcome.workers_launched, outcome.held_in_place), (WORKERS, 2 * WORKERS as u64), "{outcome:?}");
    assert!(outcome.errors.iter().any(|error| error.contains("terminating")), "{outcome:?}");
    outcome.assert_sound();
    session.assert_unharmed();
}

#[test]
fn a_worker_that_is_terminated_while_it_waits_leaves_the_queue() {
    let mut session = Session::new(&[]);
    let outcome = session.exercise(|request| request.trouble = Trouble::TerminatedWhileWaiting);
    assert!(outcome.errors.iter().any(|error| error.contains("terminating")), "{outcome:?}");
    outcome.assert_sound();
    session.assert_unharmed();
}

#[test]
fn a_worker_that_waits_sees_what_happened_whether_woken_or_not() {
    let mut session = Session::new(&[]);
    for trouble in [Trouble::Woken, Trouble::NotWoken] {
        let outcome = session.exercise(|request| request.trouble = trouble);
        assert_eq!((outcome.workers_launched, outcome.errors.len()), (WORKERS, 0), "{outcome:?}");
        outcome.assert_sound();
    }
    session.assert_unharmed();
}

#[test]
fn attaching_to_what_is_not_there_or_another_cache_says_so() {
    let mut session = Session::new(&[]);
    let refusals: Vec<String> = session.backend.one("SELECT attach_refusals()");
    let parts: [&[&str]; 4] = [
        &["no cache under the key 0x3"],
        &["the key 0x1", "names no cache"],
        &["another type", "expected 0x0000000000000008"],
        &["another type"],
    ];
    for (refusal, parts) in refusals.iter().zip(parts) {
        assert!(parts.iter().all(|part| refusal.contains(part)), "{refusal}");
    }
    assert_eq!(refusals.len(), parts.len());
    session.assert_unharmed();
}

#[test]
fn a_cache_that_is_used_after_the_end_of_its_operation_is_an_error() {
    let mut session = Session::new(&[]);
    for how in ["get", "contains", "with", "put", "wait", "len"] {
        let call = format!("SELECT use_after_end('{}', '{how}')", session.request.library);
        session.backend.refused(&call).is("55000", &["has ended"]);
    }
    session.assert_unharmed();
}

#[test]
fn operations_one_after_the_other_use_up_nothing() {
    let mut session = Session::new(&[]);
    session.assert_unharmed();
    let first: i32 = session.backend.one("SELECT draw_tranche()");
    for _ in 0..20 {
        session.exercise(|request| (request.keys, request.rounds) = (100, 2)).assert_sound();
    }
    let second: i32 = session.backend.one("SELECT draw_tranche()");
    assert_eq!(second, first + 1, "numbers of LWLock tranches never come back");
    session.assert_unharmed();
}
