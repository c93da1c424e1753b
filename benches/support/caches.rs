//! One face for every cache that a benchmark can run.
//!
//! Purpose: [`Cache`] is what a replay or a churn needs; [`build`] makes one from a [`Kind`] and [`Settings`]. The
//! caches themselves live elsewhere: the engine in the library, `bump.rs`, `reference.rs` and `memcached.rs` beside this
//! file.
//!
//! | kind      | what                                    | policy            | bounds                      |
//! |-----------|-----------------------------------------|-------------------|-----------------------------|
//! | slab      | the library's engine, in private memory | the one asked for | entries, bytes              |
//! | bump      | the predecessor's design                | wipes when full   | entries, bytes              |
//! | lru       | the `lru` crate over the process's heap | exact LRU         | entries, bytes, value bytes |
//! | clock     | textbook CLOCK over the process's heap  | CLOCK             | entries                     |
//! | s3-fifo   | S3-FIFO as in the paper, on the heap    | S3-FIFO           | entries, value bytes        |
//! | memcached | the server, by a Unix socket            | its own           | bytes                       |
//!
//! `drop-in` holds neighbour lists only and is in `list_caches.rs`.
//!
//! What *bytes* means differs, and cannot but: for slab and bump it is the whole region, with all metadata in it; for
//! lru the real cost as `reference.rs` counts it; *value bytes* counts values alone, which is how trace simulators
//! report, so that the same number of bytes holds more entries and misses less than a region of that size.
//!
//! For lru all that is not payload counts as metadata, so that its utilisation is near 1 by definition and only its
//! payload compares with the others'.
//!
//! The indirect call per operation costs every kind the same nanosecond or two.

use std::hash::Hash;
use std::num::NonZeroUsize;

use pg_shared_lru::{Config, NoLocks, Policy, SharedCache};

use super::bump::{self, Bump};
use super::memcached::Memcached;
use super::reference::{ClockReference, LruBound, LruReference, OnHeap, S3FifoBound, S3FifoReference};

/// Which cache to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// The compacting slab cache.
    Slab,
    /// The predecessor's bump allocator.
    Bump,
    /// Exact LRU of the `lru` crate.
    Lru,
    /// A textbook CLOCK.
    Clock,
    /// S3-FIFO as in the paper.
    S3Fifo,
    /// The library's drop-in for a counting LRU cache (neighbour lists).
    DropIn,
    /// memcached, if it is installed (churn).
    Memcached,
}

/// Replacement policy of the slab cache; the other kinds have their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum PolicyName {
    /// Exact least recently used.
    Lru,
    /// Second chance by a reference bit.
    Clock,
    /// A small queue for what is new, a main queue for what was used again.
    S3Fifo,
}

impl From<PolicyName> for Policy {
    fn from(name: PolicyName) -> Policy {
        match name {
            PolicyName::Lru => Policy::Lru,
            PolicyName::Clock => Policy::Clock,
            PolicyName::S3Fifo => Policy::S3Fifo,
        }
    }
}

impl PolicyName {
    pub fn name(self) -> &'static str {
        match self {
            PolicyName::Lru => "lru",
            PolicyName::Clock => "clock",
            PolicyName::S3Fifo => "s3-fifo",
        }
    }
}

/// When the cache is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// At `count` entries, none of more than `entry_bytes` of key and value.
    Entries { count: u32, entry_bytes: u32 },
    /// At this many bytes of memory.
    Bytes(u64),
    /// At this many bytes of values alone.
    ValueBytes(u64),
}

/// Options of every program that runs these caches.
#[derive(Clone, Debug, clap::Args)]
pub struct CacheArgs {
    /// The caches to run, one after another.
    #[arg(long, value_enum, value_delimiter = ',', num_args = 1, default_value = "slab")]
    pub cache: Vec<Kind>,
    /// Policy of the slab cache; the others have their own.
    #[arg(long, value_enum, default_value = "lru")]
    pub policy: PolicyName,
    /// Partitions of the slab cache [default: 1 where its capacity is in entries, else the engine chooses].
    #[arg(long)]
    pub partitions: Option<u32>,
    /// Slab size of the slab cache [default: the engine chooses].
    #[arg(long)]
    pub slab_bytes: Option<u32>,
    /// Buckets of the bump cache.
    #[arg(long, default_value_t = bump::DEFAULT_BUCKET_COUNT)]
    pub bump_buckets: usize,
}

impl CacheArgs {
    /// The settings of caches that are full at `bound`.
    pub fn settings(&self, bound: Bound) -> Settings {
        let in_entries = matches!(bound, Bound::Entries { .. });
        Settings {
            policy: self.policy,
            bound,
            partitions: self.partitions.or(in_entries.then_some(1)),
            slab_bytes: self.slab_bytes,
            bump_buckets: self.bump_buckets,
        }
    }
}

/// How each cache is to be made.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub policy: PolicyName,
    pub bound: Bound,
    /// Slab only; `None` lets the engine choose.
    pub partitions: Option<u32>,
    /// Slab only; `None` lets the engine choose.
    pub slab_bytes: Option<u32>,
    /// Bump only.
    pub bump_buckets: usize,
}

/// What became of a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Stored,
    /// Too large for this cache; what was there is unchanged.
    Refused,
}

/// State and counts of a cache. Counts are since it was built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// All memory the cache may use, or used at most where it bounds none.
    pub region_bytes: u64,
    /// Keys and values of live entries.
    pub payload_bytes: u64,
    /// What live entries cost beside them.
    pub metadata_bytes: u64,
    pub entries: u64,
    pub evictions: u64,
    pub refused: u64,
    pub compactions: u64,
    pub slabs_moved: u64,
    /// Times that everything was thrown away.
    pub wipes: u64,
}

impl Figures {
    /// Live entries with their metadata, as a share of all memory.
    pub fn utilisation(&self) -> f64 {
        (self.payload_bytes + self.metadata_bytes) as f64 / self.region_bytes.max(1) as f64
    }

    /// Live keys and values, as a share of all memory.
    pub fn payload(&self) -> f64 {
        self.payload_bytes as f64 / self.region_bytes.max(1) as f64
    }
}

/// What any cache says of itself, whatever its values are.
pub trait Inspect {
    fn name(&self) -> &'static str;

    /// How it chooses what to lose.
    fn policy(&self) -> &'static str;

    fn figures(&self) -> Figures;

    /// Evictions and wipes so far, cheaply enough to ask after every put.
    fn lost(&self) -> u64;

    /// The cache's own count of hits and misses, if it has one.
    fn counted(&self) -> Option<(u64, u64)> {
        None
    }

    /// Checks the whole structure, where the cache can.
    fn validate(&self) -> Result<(), String> {
        Ok(())
    }
}

/// A cache of byte strings.
pub trait Cache: Inspect {
    /// Puts the value of `key` into `out`, in place of what is there; false and nothing known about `out` on a miss.
    fn get(&mut self, key: &[u8], out: &mut Vec<u8>) -> bool;

    fn put(&mut self, key: &[u8], value: &[u8]) -> Outcome;
}

/// Makes the cache of `kind`, for keys of exactly `KEY_BYTES`.
///
/// # Errors
/// The settings do not suit the kind; the message says why.
pub fn build<const KEY_BYTES: usize>(kind: Kind, settings: &Settings) -> Result<Box<dyn Cache>, String> {
    match kind {
        Kind::Slab => build_slab(settings).map(|cache| Box::new(cache) as Box<dyn Cache>),
        Kind::Bump => build_bump(settings).map(|cache| Box::new(cache) as Box<dyn Cache>),
        Kind::Lru => Ok(Box::new(Lru::<[u8; KEY_BYTES], Vec<u8>>::new(settings.bound)?)),
        Kind::Clock => match settings.bound {
            Bound::Entries { count, .. } => Ok(Box::new(ClockReference::new(entry_count("clock", count)?))),
            Bound::Bytes(_) | Bound::ValueBytes(_) => {
                Err("clock: this reference bounds entries only; give a number of entries".into())
            }
        },
        Kind::S3Fifo => {
            let bound = match settings.bound {
                Bound::Entries { count, .. } => S3FifoBound::Entries(entry_count("s3-fifo", count)?),
                Bound::ValueBytes(bytes) => S3FifoBound::ValueBytes(bytes),
                Bound::Bytes(_) => return Err("s3-fifo: this reference bounds entries or values alone".into()),
            };
            Ok(Box::new(S3Fifo { cache: S3FifoReference::new(bound), refused: 0 }))
        }
        Kind::Memcached => match settings.bound {
            Bound::Bytes(bytes) => Ok(Box::new(Memcached::start(bytes)?)),
            Bound::Entries { .. } | Bound::ValueBytes(_) => Err("memcached: bounds bytes only; give bytes".into()),
        },
        Kind::DropIn => Err("drop-in: holds neighbour lists, not byte strings; run slab instead".into()),
    }
}

/// The capacity in entries of the cache of this name.
///
/// # Errors
/// It is 0.
pub fn entry_count(name: &str, count: u32) -> Result<NonZeroUsize, String> {
    usize::try_from(count)
        .ok()
        .and_then(NonZeroUsize::new)
        .ok_or_else(|| format!("{name}: {count} entries; there must be at least 1"))
}

fn build_slab(settings: &Settings) -> Result<SlabCache, String> {
    let mut config = match settings.bound {
        Bound::Entries { count, entry_bytes } => Config::entries(count, entry_bytes),
        Bound::Bytes(bytes) => {
            Config::bytes(usize::try_from(bytes).map_err(|_| "slab: the region is larger than memory can be")?)
        }
        Bound::ValueBytes(_) => {
            return Err("slab: only lru and s3-fifo can count values alone; give bytes or entries".into());
        }
    };
    config = config.policy(settings.policy.into());
    if let Some(partitions) = settings.partitions {
        config = config.partitions(partitions);
    }
    if let Some(slab_bytes) = settings.slab_bytes {
        config = config.slab_bytes(slab_bytes);
    }
    let cache = SharedCache::private(&config).map_err(|error| format!("slab: {error}"))?;
    Ok(SlabCache { cache, policy: settings.policy })
}

fn build_bump(settings: &Settings) -> Result<BumpCache, String> {
    let (region_bytes, max_entries) = match settings.bound {
        Bound::Bytes(bytes) => (usize::try_from(bytes).ok(), None),
        Bound::Entries { count, entry_bytes } => {
            (Bump::region_bytes_for(count, entry_bytes, settings.bump_buckets), Some(u64::from(count)))
        }
        Bound::ValueBytes(_) => {
            return Err("bump: only lru and s3-fifo can count values alone; give bytes or entries".into());
        }
    };
    let region_bytes = region_bytes.ok_or("bump: the region is larger than memory can be")?;
    let cache =
        Bump::new(region_bytes, settings.bump_buckets, max_entries).map_err(|error| format!("bump: {error}"))?;
    Ok(BumpCache { cache, refused: 0 })
}

struct SlabCache {
    cache: SharedCache<NoLocks>,
    policy: PolicyName,
}

impl Inspect for SlabCache {
    fn name(&self) -> &'static str {
        "slab"
    }

    fn policy(&self) -> &'static str {
        self.policy.name()
    }

    fn figures(&self) -> Figures {
        let report = self.cache.memory_report();
        let stats = self.cache.stats();
        Figures {
            region_bytes: report.region_bytes,
            payload_bytes: report.payload_bytes,
            metadata_bytes: report.metadata_bytes,
            entries: report.entries,
            evictions: stats.evictions,
            refused: stats.refused,
            compactions: stats.compactions,
            slabs_moved: stats.slabs_moved,
            wipes: stats.resets,
        }
    }

    fn lost(&self) -> u64 {
        self.cache.stats().evictions
    }

    fn counted(&self) -> Option<(u64, u64)> {
        let stats = self.cache.stats();
        Some((stats.hits, stats.misses))
    }

    fn validate(&self) -> Result<(), String> {
        self.cache.validate().map_err(|error| error.to_string())
    }
}

impl Cache for SlabCache {
    fn get(&mut self, key: &[u8], out: &mut Vec<u8>) -> bool {
        self.cache.get(key, out)
    }

    /// The engine itself counts what it refuses.
    fn put(&mut self, key: &[u8], value: &[u8]) -> Outcome {
        match self.cache.put(key, value) {
            Ok(_) => Outcome::Stored,
            Err(_) => Outcome::Refused,
        }
    }
}

struct BumpCache {
    cache: Bump,
    refused: u64,
}

impl Inspect for BumpCache {
    fn name(&self) -> &'static str {
        "bump"
    }

    fn policy(&self) -> &'static str {
        "wipe"
    }

    fn figures(&self) -> Figures {
        Figures {
            region_bytes: self.cache.region_bytes(),
            payload_bytes: self.cache.payload_bytes(),
            metadata_bytes: self.cache.metadata_bytes(),
            entries: self.cache.entries(),
            evictions: self.cache.evictions(),
            refused: self.refused,
            wipes: self.cache.wipes(),
            ..Figures::default()
        }
    }

    fn lost(&self) -> u64 {
        self.cache.evictions() + self.cache.wipes()
    }

    fn validate(&self) -> Result<(), String> {
        self.cache.validate()
    }
}

impl Cache for BumpCache {
    fn get(&mut self, key: &[u8], out: &mut Vec<u8>) -> bool {
        copy(self.cache.get(key), out)
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Outcome {
        outcome(self.cache.put(key, value), &mut self.refused)
    }
}

/// The `lru` crate, whatever its keys and values are.
pub struct Lru<K: Hash + Eq, V> {
    pub cache: LruReference<K, V>,
    pub refused: u64,
}

impl<K: Hash + Eq + Copy, V: OnHeap> Lru<K, V> {
    /// # Errors
    /// A capacity of no entries.
    pub fn new(bound: Bound) -> Result<Self, String> {
        let bound = match bound {
            Bound::Entries { count, .. } => LruBound::Entries(entry_count("lru", count)?),
            Bound::Bytes(bytes) => LruBound::CostBytes(bytes),
            Bound::ValueBytes(bytes) => LruBound::ValueBytes(bytes),
        };
        Ok(Lru { cache: LruReference::new(bound), refused: 0 })
    }
}

impl<K: Hash + Eq + Copy, V: OnHeap> Inspect for Lru<K, V> {
    fn name(&self) -> &'static str {
        "lru"
    }

    fn policy(&self) -> &'static str {
        "lru"
    }

    fn figures(&self) -> Figures {
        let payload_bytes = self.cache.payload_bytes();
        Figures {
            region_bytes: self.cache.region_bytes(),
            payload_bytes,
            metadata_bytes: self.cache.cost_bytes() - payload_bytes,
            entries: self.cache.entries(),
            evictions: self.cache.evictions(),
            refused: self.refused,
            ..Figures::default()
        }
    }

    fn lost(&self) -> u64 {
        self.cache.evictions()
    }
}

impl<const KEY_BYTES: usize> Cache for Lru<[u8; KEY_BYTES], Vec<u8>> {
    fn get(&mut self, key: &[u8], out: &mut Vec<u8>) -> bool {
        copy(self.cache.get(fixed(key)).map(Vec::as_slice), out)
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Outcome {
        outcome(self.cache.put(*fixed(key), value.to_vec(), |_, _| ()), &mut self.refused)
    }
}

impl Inspect for ClockReference {
    fn name(&self) -> &'static str {
        "clock"
    }

    fn policy(&self) -> &'static str {
        "clock"
    }

    /// The reference counts no metadata; its memory is that of its keys and values.
    fn figures(&self) -> Figures {
        let payload_bytes = self.payload_bytes();
        Figures {
            region_bytes: payload_bytes,
            payload_bytes,
            entries: self.entries(),
            evictions: self.evictions(),
            ..Figures::default()
        }
    }

    fn lost(&self) -> u64 {
        self.evictions()
    }
}

impl Cache for ClockReference {
    fn get(&mut self, key: &[u8], out: &mut Vec<u8>) -> bool {
        copy(ClockReference::get(self, key), out)
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Outcome {
        ClockReference::put(self, key, value);
        Outcome::Stored
    }
}

struct S3Fifo {
    cache: S3FifoReference,
    refused: u64,
}

impl Inspect for S3Fifo {
    fn name(&self) -> &'static str {
        "s3-fifo"
    }

    fn policy(&self) -> &'static str {
        "s3-fifo"
    }

    /// The reference counts no metadata; its memory is that of its keys and values.
    fn figures(&self) -> Figures {
        let payload_bytes = self.cache.payload_bytes();
        Figures {
            region_bytes: payload_bytes,
            payload_bytes,
            entries: self.cache.entries(),
            evictions: self.cache.evictions(),
            refused: self.refused,
            ..Figures::default()
        }
    }

    fn lost(&self) -> u64 {
        self.cache.evictions()
    }
}

impl Cache for S3Fifo {
    fn get(&mut self, key: &[u8], out: &mut Vec<u8>) -> bool {
        copy(self.cache.get(key), out)
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Outcome {
        outcome(self.cache.put(key, value), &mut self.refused)
    }
}

/// The key as the array that `build` was told of.
///
/// # Panics
/// The key has another length, which is a mistake in the benchmark.
fn fixed<const KEY_BYTES: usize>(key: &[u8]) -> &[u8; KEY_BYTES] {
    match key.try_into() {
        Ok(key) => key,
        Err(_) => panic!("a key of {} bytes, not {KEY_BYTES}", key.len()),
    }
}

fn copy(value: Option<&[u8]>, out: &mut Vec<u8>) -> bool {
    let Some(value) = value else {
        return false;
    };
    out.clear();
    out.extend_from_slice(value);
    true
}

/// What became of a put; counts what was refused.
pub fn outcome<E>(result: Result<(), E>, refused: &mut u64) -> Outcome {
    match result {
        Ok(()) => Outcome::Stored,
        Err(_) => {
            *refused += 1;
            Outcome::Refused
        }
    }
}
