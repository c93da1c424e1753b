//! Named caches as an extension in Rust uses them: by a handle that it keeps over many operations.
//!
//! - `named_create`  a cache with one entry, `k`
//! - `named_hold`    reads `k` without a lock until the statement is cancelled
//! - `named_work`    puts and gets through one handle, and says how many gets hit
//! - `named_drop`    tries to drop the cache, so many times at most, until it is gone; what the last try said

use std::time::Duration;

use pg_shared_lru::Config;
use pg_shared_lru::pg::area::{self, AreaRequest, AreaSize};
use pg_shared_lru::pg::catalog::{CacheId, Catalog, NewCache};
use pg_shared_lru::pg::error::or_report;
use pg_shared_lru::pg::handles;
use pgrx::prelude::*;

/// PostgreSQL's first superuser.
const OWNER: u32 = 10;

pub fn request() {
    area::request(AreaRequest {
        name: c"parallel_extension",
        size: || AreaSize { bytes: 8 << 20, max_caches: 2, lines: 0 },
    });
}

#[pg_extern]
fn named_create(name: &str) {
    let catalog = or_report(Catalog::open());
    let new = NewCache::named(handles::my_database(), OWNER, name);
    or_report(catalog.create(new, &Config::bytes(4 << 20)));
    or_report(or_report(handles::cache(name)).put(b"k", b"v"));
}

#[pg_extern]
fn named_hold(name: &str) {
    or_report(handles::cache(name)).with(b"k", |_| {
        loop {
            check_for_interrupts!();
            std::thread::sleep(Duration::from_millis(1));
        }
    });
}

#[pg_extern]
fn named_work(name: &str, rounds: i32) -> i64 {
    let cache = or_report(handles::cache(name));
    let mut value = Vec::new();
    let mut hits = 0;
    for round in 0..rounds {
        or_report(cache.put(&(round % 100).to_be_bytes(), &round.to_be_bytes()));
        hits += i64::from(cache.get(&(round % 100).to_be_bytes(), &mut value));
        check_for_interrupts!();
    }
    hits
}

#[pg_extern]
fn named_drop(name: &str, tries: i32) -> String {
    let catalog = or_report(Catalog::open());
    let mut said = "no such cache".to_owned();
    for _ in 0..tries {
        let Some(listing) = catalog.find(handles::my_database(), CacheId::Name(name)) else { break };
        said = match catalog.drop_cache(&listing) {
            Ok(true) => return "dropped".to_owned(),
            Ok(false) => "gone already".to_owned(),
            Err(error) => error.to_string(),
        };
    }
    said
}
