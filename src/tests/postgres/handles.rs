//! Named caches through handles that an extension in Rust keeps over many operations: a drop that is refused is not
//! noticed by the others, one that succeeds is an error for all.
//!
//! The extension is that of the tests with parallel operations; here the server preloads it.

use std::thread;

use crate::cluster::{Cluster, StopMode};
use crate::parallel::built;
use crate::world::{Backend, wait_until};

const FUNCTIONS: &[(&str, &str)] = &[
    ("named_create(text)", "void"),
    ("named_hold(text)", "void"),
    ("named_work(text, int4)", "int8"),
    ("named_drop(text, int4)", "text"),
];

fn cluster() -> Cluster {
    let cluster = Cluster::start(&[]).expect("a server starts");
    let library = cluster.take_in(built()).expect("the library can be copied");
    let library = library.to_str().expect("a path of plain characters").to_owned();
    backend(&cluster).run(&format!("ALTER SYSTEM SET shared_preload_libraries = '{library}'"));
    cluster.restart(StopMode::Fast).expect("the server restarts");
    let mut admin = backend(&cluster);
    for (signature, result) in FUNCTIONS {
        let (name, _) = signature.split_once('(').expect("a signature");
        admin.run(&format!(
            "CREATE FUNCTION {signature} RETURNS {result} LANGUAGE c STRICT AS '{library}', '{name}_wrapper'"
        ));
    }
    cluster
}

fn backend(cluster: &Cluster) -> Backend {
    let mut backend = Backend { client: cluster.connect("postgres").expect("the server accepts a connection") };
    // Whoever hangs is found out.
    backend.run("SET statement_timeout = '600s'");
    backend
}

#[test]
fn a_drop_that_is_refused_is_noticed_by_nobody() {
    let cluster = cluster();
    let (mut owner, mut reader) = (backend(&cluster), backend(&cluster));
    owner.run("SELECT named_create('c')");
    owner.refused("SELECT named_create('c')").is("42710", &["cache \"c\" already exists"]);
    let pid = reader.pid();
    thread::scope(|scope| {
        let reading = scope.spawn(move || reader.refused("SELECT named_hold('c')"));
        wait_until("the entry is held", || {
            owner.call("SELECT state = 'active' AND query LIKE '%hold%' FROM pg_stat_activity WHERE pid = $1", &[&pid])
        });
        wait_until("a drop is refused", || {
            owner.one::<String>("SELECT named_drop('c', 1)").contains("1 of its entries are being read")
        });
        let workers: Vec<_> = (0..2)
            .map(|_| {
                let mut worker = backend(&cluster);
                scope.spawn(move || worker.one::<i64>("SELECT named_work('c', 100000)"))
            })
            .collect();
        let mut refused = 0;
        while workers.iter().any(|worker| !worker.is_finished()) {
            let said: String = owner.one("SELECT named_drop('c', 1000)");
            assert!(said.contains("is in use"), "{said}");
            refused += 1;
        }
        assert!(refused > 0, "nobody tried to drop the cache meanwhile");
        for worker in workers {
            assert_eq!(worker.join().expect("the cache was there all the time"), 100_000);
        }
        owner.call::<bool>("SELECT pg_cancel_backend($1)", &[&pid]);
        reading.join().expect("the reader ends").is("57014", &[]);
    });
    assert_eq!(owner.one::<String>("SELECT named_drop('c', 1)"), "dropped");
}

#[test]
fn of_many_who_drop_one_cache_one_succeeds_and_its_users_are_told() {
    let cluster = cluster();
    for round in 0..10 {
        let mut owner = backend(&cluster);
        owner.run("SELECT named_create('c')");
        thread::scope(|scope| {
            let mut worker = backend(&cluster);
            let work = scope.spawn(move || worker.refused("SELECT named_work('c', 1000000000)"));
            let droppers: Vec<_> = (0..3)
                .map(|_| {
                    let mut dropper = backend(&cluster);
                    scope.spawn(move || dropper.one::<String>("SELECT named_drop('c', 1)"))
                })
                .collect();
            let said: Vec<String> = droppers.into_iter().map(|dropper| dropper.join().expect("an answer")).collect();
            let dropped = said.iter().filter(|said| *said == "dropped").count();
            assert_eq!(dropped, 1, "round {round}: {said:?}");
            work.join().expect("the user is told").is("42704", &[]);
        });
    }
}
