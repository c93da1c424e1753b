//! The settings `pg_shared_lru.*`.
//!
//! Memory and the number of caches are fixed at server start, or, where the library is not preloaded, when the first cache
//! is created. `policy`, `slab_size`, `partitions` and `buckets` are defaults for `create_cache`, which a superuser may change at
//! any time; 0 means "chosen from the cache's size". Those of the background worker (`naptime`, `sample_interval`) and of the query
//! cache (`query_cache`, `cache_queries`) may be changed at any time, too.

use std::ffi::CString;
use std::time::Duration;

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};

use super::area::{self, AreaSize};
use super::versions;
use crate::engine::config::Config;
use crate::engine::limits::MAX_PARTITIONS;
use crate::engine::policy::Policy;

/// Lines of the commit rings: 2 MB. More keys than lines share some, at the cost of a lease now and then.
const LINES: u32 = 1 << 14;

static MEMORY_MB: GucSetting<i32> = GucSetting::<i32>::new(64);
static MAX_CACHES: GucSetting<i32> = GucSetting::<i32>::new(16);
static SLAB_SIZE_KB: GucSetting<i32> = GucSetting::<i32>::new(0);
static PARTITIONS: GucSetting<i32> = GucSetting::<i32>::new(0);
static BUCKETS: GucSetting<i32> = GucSetting::<i32>::new(0);
static SAMPLE_SECONDS: GucSetting<i32> = GucSetting::<i32>::new(60);
static NAPTIME_SECONDS: GucSetting<i32> = GucSetting::<i32>::new(10);
static QUERY_CACHE: GucSetting<bool> = GucSetting::<bool>::new(false);
static CACHE_QUERIES: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static POLICY: GucSetting<PolicySetting> = GucSetting::<PolicySetting>::new(PolicySetting::Clock);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PostgresGucEnum)]
enum PolicySetting {
    #[name = c"lru"]
    Lru,
    #[name = c"clock"]
    Clock,
    #[name = c"s3-fifo"]
    S3Fifo,
}

/// Defines the settings of the area. Without a preload the configuration file may change them until the area is made.
fn define_for_area() {
    let context = || if area::is_preloading() { GucContext::Postmaster } else { GucContext::Sighup };
    GucRegistry::define_int_guc(
        c"pg_shared_lru.memory",
        c"Shared memory for caches.",
        c"All caches together have this much. Allocated at server start, or with the first cache if the library is not \
          preloaded.",
        &MEMORY_MB,
        1,
        1 << 20,
        context(),
        GucFlags::UNIT_MB,
    );
    GucRegistry::define_int_guc(
        c"pg_shared_lru.max_caches",
        c"The most caches that can exist at one time.",
        c"Each takes about 14 kB of shared memory for its locks and counters, used or not.",
        &MAX_CACHES,
        1,
        1024,
        context(),
        GucFlags::default(),
    );
}

/// Defines those of the background worker and of the query cache.
fn define_for_work() {
    GucRegistry::define_int_guc(
        c"pg_shared_lru.naptime",
        c"How long the background worker sleeps between two rounds.",
        c"It removes what has expired, moves entries together, and frees what dropped databases have left. 0 switches it off.",
        &NAPTIME_SECONDS,
        0,
        3600,
        GucContext::Sighup,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_bool_guc(
        c"pg_shared_lru.query_cache",
        c"Whether transactions tell the query cache what they have written.",
        c"Takes effect once all transactions have ended that were running when it was switched on. Only where the library \
          is in shared_preload_libraries.",
        &QUERY_CACHE,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"pg_shared_lru.cache_queries",
        c"The cache that keeps the results of a session's SELECTs.",
        c"Empty: only of those that begin with a comment that names one. Only where the library is in \
          shared_preload_libraries.",
        &CACHE_QUERIES,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"pg_shared_lru.sample_interval",
        c"How much time lies between two samples that the background worker takes of each cache.",
        c"It takes them when it is up, so not more often than naptime says. 61 are kept.",
        &SAMPLE_SECONDS,
        1,
        86_400,
        GucContext::Sighup,
        GucFlags::UNIT_S,
    );
}

/// Defines the settings that have a meaning here.
pub(super) fn define() {
    define_defaults();
    if area::is_preloading() || versions::HAS_DSM_REGISTRY {
        define_for_area();
        define_for_work();
        // Only where all settings are defined.
        versions::reserve_settings_prefix(c"pg_shared_lru");
    }
}

fn define_defaults() {
    GucRegistry::define_int_guc(
        c"pg_shared_lru.slab_size",
        c"Default slab size of new caches.",
        c"A power of two from 2 kB to 4 MB; 0 chooses it from the cache's size.",
        &SLAB_SIZE_KB,
        0,
        (Config::MAX_SLAB_BYTES >> 10) as i32,
        GucContext::Suset,
        GucFlags::UNIT_KB,
    );
    GucRegistry::define_int_guc(
        c"pg_shared_lru.partitions",
        c"Default number of partitions of new caches.",
        c"A power of two; each partition has its own lock. 0 chooses it from the cache's size.",
        &PARTITIONS,
        0,
        MAX_PARTITIONS as i32,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"pg_shared_lru.buckets",
        c"Default number of hash buckets of new caches, of twelve entries each.",
        c"Rounded up to a power of two. 0 chooses it from the cache's capacity.",
        &BUCKETS,
        0,
        Config::MAX_BUCKETS as i32,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_enum_guc(
        c"pg_shared_lru.policy",
        c"Default eviction policy of new caches.",
        c"\"lru\" is exact and locks a partition for each hit; \"clock\" lets readers share the lock; so does \"s3-fifo\", \
          in which values used once do not push out the others.",
        &POLICY,
        GucContext::Suset,
        GucFlags::default(),
    );
}

/// How long the background worker sleeps between two rounds; `None`: it is switched off.
pub(super) fn naptime() -> Option<Duration> {
    unless_zero(NAPTIME_SECONDS.get()).map(|seconds| Duration::from_secs(seconds.into()))
}

/// Whether transactions are to publish what they have written.
pub(super) fn query_cache() -> bool {
    QUERY_CACHE.get()
}

/// How much time lies between two samples.
pub(super) fn sample_interval() -> Duration {
    Duration::from_secs(SAMPLE_SECONDS.get().unsigned_abs().into())
}

/// Whether a cache is named that keeps the results of the session's queries.
#[allow(unsafe_code)]
pub(super) fn has_cache_queries() -> bool {
    // SAFETY: a text of the process's only thread, or null; what is set is not copied.
    unsafe {
        let text = *CACHE_QUERIES.as_ptr();
        !text.is_null() && *text != 0
    }
}

/// The cache that keeps the results of the session's queries.
pub(super) fn cache_queries() -> Option<String> {
    CACHE_QUERIES.get()?.into_string().ok().filter(|name| !name.is_empty())
}

pub(super) fn area_size() -> AreaSize {
    AreaSize { bytes: MEMORY_MB.get() as usize * (1 << 20), max_caches: MAX_CACHES.get() as usize, lines: LINES }
}

/// The default, unless it is 0.
fn unless_zero(setting: i32) -> Option<u32> {
    u32::try_from(setting).ok().filter(|&value| value > 0)
}

pub(super) fn default_slab_bytes() -> Option<u32> {
    unless_zero(SLAB_SIZE_KB.get()).map(|kilobytes| kilobytes << 10)
}

pub(super) fn default_partitions() -> Option<u32> {
    unless_zero(PARTITIONS.get())
}

pub(super) fn default_buckets() -> Option<u64> {
    unless_zero(BUCKETS.get()).map(u64::from)
}

pub(super) fn default_policy() -> Policy {
    match POLICY.get() {
        PolicySetting::Lru => Policy::Lru,
        PolicySetting::Clock => Policy::Clock,
        PolicySetting::S3Fifo => Policy::S3Fifo,
    }
}
