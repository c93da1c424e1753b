//! Uses what an index access method with pgrx 0.16.1 needs of the library: the drop-in, a cache in a parallel build, a
//! cache in main shared memory. It is compiled and never run: a type or function that differs between the two versions
//! of pgrx shows.

use std::num::NonZero;
use std::rc::Rc;

use pg_shared_lru::pg::catalog::{Catalog, NewCache};
use pg_shared_lru::pg::error::or_report;
use pg_shared_lru::pg::parallel::{self, DsmLocks, ParallelCache};
use pg_shared_lru::pg::{area, handles};
use pg_shared_lru::{Config, Locks, LruCacheWithStats, TypedCache, type_tag};
use pgrx::prelude::*;

::pgrx::pg_module_magic!();

const CACHE_KEY: u64 = 1;
const TWO: NonZero<usize> = NonZero::new(2).expect("not zero");

/// The library and this crate have the same pgrx, or this does not compile.
const _: fn(pg_shared_lru::pg::pgrx::pg_sys::Oid) -> pg_sys::Oid = |oid| oid;

#[allow(non_snake_case)]
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    area::request(area::AreaRequest {
        name: c"pgrx_0_16",
        size: || area::AreaSize { bytes: 16 << 20, max_caches: 1, lines: 0 },
    });
}

#[pg_extern]
fn shared_entries() -> i64 {
    let made = Catalog::open().and_then(|catalog| {
        catalog.create(NewCache::named(handles::my_database(), 10, "vectors"), &Config::bytes(8 << 20))?;
        handles::cache("vectors")
    });
    let cache: Rc<_> = or_report(made);
    cache.len() as i64
}

#[pg_extern]
fn counted_hits() -> i64 {
    let mut cache = LruCacheWithStats::<u64, String>::new(TWO, "neighbours");
    cache.push(1, "one".to_owned());
    cache.get(&1).map_or(0, |text| text.len() as i64)
}

type Names<L> = TypedCache<u64, String, L>;

fn work<L: Locks>(cache: &Names<L>) -> i64 {
    cache.put(&1, &"one".to_owned()).unwrap_or_else(|error| error!("{error}"));
    cache.len() as i64
}

#[pg_extern]
fn build_in_parallel() -> i64 {
    let config = Config::bytes(8 << 20);
    // SAFETY: the calls in the order that PostgreSQL and the library ask for; the cache is dropped before the end.
    unsafe {
        pg_sys::EnterParallelMode();
        let context = pg_sys::CreateParallelContext(c"$libdir/pgrx_0_16".as_ptr(), c"pgrx_0_16_worker".as_ptr(), 2);
        let planned = or_report(parallel::estimate(context, &config));
        let entries = match parallel::initialize_dsm(context) {
            Ok(()) => {
                let tag = type_tag::<u64, String>();
                let cache = or_report(planned.create(context, CACHE_KEY, tag));
                pg_sys::LaunchParallelWorkers(context);
                let entries = work(&typed(cache));
                pg_sys::WaitForParallelWorkersToFinish(context);
                entries
            }
            Err(refused) => {
                warning!("building without workers: {refused}");
                work(&Names::private(&config).unwrap_or_else(|error| error!("{error}")))
            }
        };
        pg_sys::DestroyParallelContext(context);
        pg_sys::ExitParallelMode();
        entries
    }
}

fn typed(cache: ParallelCache) -> Names<DsmLocks> {
    Names::over(cache).unwrap_or_else(|error| error!("{error}"))
}

/// The entry point of a worker.
///
/// # Safety
///
/// - Called by PostgreSQL with the worker's segment and its table of contents.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn pgrx_0_16_worker(segment: *mut pg_sys::dsm_segment, toc: *mut pg_sys::shm_toc) {
    // SAFETY: what PostgreSQL gave us.
    let cache = unsafe { parallel::attach(segment, toc, CACHE_KEY, type_tag::<u64, String>()) };
    work(&typed(or_report(cache)));
}
