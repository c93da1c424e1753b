//! The caches that the programs run, a file each, and how one is made by its name.
//!
//! | name      | file        | what                                    | policy            | bounds                      |
//! |-----------|-------------|-----------------------------------------|-------------------|-----------------------------|
//! | slab      | `slab`      | the library's engine, in private memory | the one asked for | entries, bytes              |
//! | bump      | `bump`      | the predecessor's design                | wipes when full   | entries, bytes              |
//! | lru       | `lru`       | the `lru` crate over the process's heap | exact LRU         | entries, bytes, value bytes |
//! | clock     | `model`     | textbook CLOCK over the process's heap  | CLOCK             | entries                     |
//! | s3-fifo   | `model`     | S3-FIFO as in the paper, on the heap    | S3-FIFO           | entries, value bytes        |
//! | drop-in   | `drop_in`   | the library's `LruCacheWithStats`, for neighbour lists only | exact LRU | entries, bytes   |
//! | memcached | `server`    | the server, by a Unix socket            | its own           | bytes                       |
//!
//! `near` has the library's near cache, `encoded` neighbour lists in any cache of byte strings.
//!
//! What *bytes* means differs, and cannot but: for slab and bump it is the whole region, with all metadata in it; for
//! lru the real cost as `lru` counts it; *value bytes* counts values alone, which is how trace simulators report, so
//! that the same number of bytes holds more entries and misses less than a region of that size.
//!
//! For lru all that is not payload counts as metadata, so that its utilisation is near 1 by definition and only its
//! payload compares with the others'.

pub mod bump;
pub mod drop_in;
pub mod encoded;
pub mod lru;
pub mod model;
pub mod near;
pub mod server;
pub mod slab;

use std::hash::Hash;
use std::num::NonZeroUsize;

use pg_shared_lru::Policy;
use pg_shared_lru::adapters::graph::NodePointer;

use crate::contender::{Bound, Contender, NeighbourLists, Settings};
use crate::lists::HeapList;

/// Which cache to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Name {
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

impl Name {
    /// As the command line has it.
    pub fn name(self) -> &'static str {
        match self {
            Name::Slab => "slab",
            Name::Bump => "bump",
            Name::Lru => "lru",
            Name::Clock => "clock",
            Name::S3Fifo => "s3-fifo",
            Name::DropIn => "drop-in",
            Name::Memcached => "memcached",
        }
    }
}

/// Options of every program that runs these caches.
#[derive(Clone, Debug, clap::Args)]
pub struct CacheArgs {
    /// The caches to run, one after another.
    #[arg(long, value_enum, value_delimiter = ',', num_args = 1, default_value = "slab")]
    pub cache: Vec<Name>,
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// Slab size of the slab cache [default: the engine chooses].
    #[arg(long)]
    pub slab_bytes: Option<u32>,
    /// Buckets of the bump cache.
    #[arg(long, default_value_t = bump::DEFAULT_BUCKET_COUNT)]
    pub bump_buckets: usize,
}

/// The option of every program that runs the library's cache with one policy.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct PolicyArgs {
    /// Policy of the slab cache; the others have their own.
    #[arg(long, value_parser = crate::cli::policy(), default_value = "lru")]
    pub policy: Policy,
}

impl CacheArgs {
    /// The settings of caches that are full at `bound`, the slab cache with so many partitions.
    pub fn settings(&self, bound: Bound, partitions: Option<u32>) -> Settings {
        let in_entries = matches!(bound, Bound::Entries { .. });
        Settings {
            policy: self.policy.policy,
            bound,
            partitions: partitions.or(in_entries.then_some(1)),
            slab_bytes: self.slab_bytes,
            bump_buckets: self.bump_buckets,
        }
    }
}

/// A key of one length, as a cache with keys of a type of its own has it.
pub trait FixedKey: Copy + Eq + Hash {
    /// # Panics
    /// The key has another length, which is a mistake in the benchmark.
    fn from_bytes(bytes: &[u8]) -> Self;
}

impl<const BYTES: usize> FixedKey for [u8; BYTES] {
    fn from_bytes(bytes: &[u8]) -> Self {
        bytes.try_into().unwrap_or_else(|_| panic!("a key of {} bytes, not {BYTES}", bytes.len()))
    }
}

impl FixedKey for u64 {
    fn from_bytes(bytes: &[u8]) -> Self {
        u64::from_le_bytes(FixedKey::from_bytes(bytes))
    }
}

/// Makes the cache of this name, for byte strings under keys of exactly `KEY_BYTES`.
///
/// # Errors
/// The settings do not suit the cache; the message says why.
pub fn build<const KEY_BYTES: usize>(name: Name, settings: &Settings) -> Result<Box<dyn Contender>, String> {
    Ok(match name {
        Name::Slab => Box::new(slab::Slab::private(settings)?),
        Name::Bump => Box::new(bump::Bump::within(settings)?),
        Name::Lru => Box::new(lru::Counted::<[u8; KEY_BYTES], Vec<u8>>::within(settings.bound)?),
        Name::Clock => Box::new(model::Reference::clock(settings.bound)?),
        Name::S3Fifo => Box::new(model::Reference::s3_fifo(settings.bound)?),
        Name::Memcached => match settings.bound {
            Bound::Bytes(bytes) => Box::new(server::Remote::memcached(bytes)?),
            Bound::Entries { .. } | Bound::ValueBytes(_) => {
                return Err("memcached: bounds bytes only; give bytes".into());
            }
        },
        Name::DropIn => return Err("drop-in: holds neighbour lists, not byte strings; run slab instead".into()),
    })
}

/// Makes the cache of this name, for neighbour lists.
///
/// # Errors
/// As [`build`].
pub fn build_lists(name: Name, settings: &Settings) -> Result<Box<dyn Contender<NeighbourLists>>, String> {
    Ok(match name {
        Name::Lru => Box::new(lru::Counted::<NodePointer, HeapList>::within(settings.bound)?),
        Name::DropIn => Box::new(drop_in::DropIn::within(settings.bound)?),
        _ => Box::new(encoded::Encoded::over(build::<{ NodePointer::BYTES }>(name, settings)?)),
    })
}

/// The capacity in entries of the cache of this name.
///
/// # Errors
/// It is 0.
fn entry_count(name: &str, count: u32) -> Result<NonZeroUsize, String> {
    let count_or_none = usize::try_from(count).ok().and_then(NonZeroUsize::new);
    count_or_none.ok_or_else(|| format!("{name}: {count} entries; there must be at least 1"))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use rand::rngs::SmallRng;
    use rand::{RngExt, SeedableRng};
    use testkit::content::Written;

    use super::*;
    use crate::contender::ByteStrings;
    use crate::lists::{Lists, Neighbours, key, node};

    fn settings(policy: Policy, bound: Bound) -> Settings {
        Settings { policy, bound, partitions: Some(1), slab_bytes: None, bump_buckets: 64 }
    }

    #[test]
    fn every_cache_of_lists_gives_back_what_was_put_last_and_tells_each_spill() {
        let lists = Lists::new();
        for (name, bound) in [
            (Name::Lru, Bound::Bytes(300_000)),
            (Name::DropIn, Bound::Bytes(300_000)),
            (Name::DropIn, Bound::Entries { count: 90, entry_bytes: 3000 }),
            (Name::Slab, Bound::Bytes(300_000)),
            (Name::Bump, Bound::Bytes(300_000)),
        ] {
            let mut cache = build_lists(name, &settings(Policy::Lru, bound)).unwrap();
            let mut random = SmallRng::seed_from_u64(1);
            let mut last: HashMap<u64, Written> = HashMap::new();
            let (mut told, mut found, mut copied) = (0, 0, Vec::new());
            for write in 0..5000 {
                let written = Written { key: random.random_range(..1000), write, len: random.random_range(..70) };
                cache
                    .put_spilling(&node(written.key), lists.describe(written), &mut |node, neighbours| {
                        told += 1;
                        lists.check(last[&key(*node)], neighbours).unwrap();
                    })
                    .unwrap();
                last.insert(written.key, written);
                let read = random.random_range(..1000);
                let check = &mut |neighbours: Neighbours<'_>| lists.check(last[&read], neighbours).unwrap();
                if cache.read(&node(read), check) {
                    assert!(cache.get(&node(read), &mut copied));
                    assert!(lists.edges(last[&read]).eq(copied.iter().copied()));
                    found += 1;
                }
            }
            cache.validate().unwrap();
            let spills = cache.figures().unwrap().evictions;
            assert!(spills > 100 && found > 100, "{name:?}: {spills} spills, {found} found");
            if matches!(name, Name::Lru | Name::DropIn) {
                assert_eq!(told, spills, "{name:?}");
            }
        }
    }

    #[test]
    fn every_cache_of_byte_strings_gives_back_what_was_put_last_and_counts_it() {
        for name in [Name::Slab, Name::Bump, Name::Lru, Name::Clock, Name::S3Fifo] {
            let bound = Bound::Entries { count: 50, entry_bytes: 108 };
            let mut cache = build::<8>(name, &settings(Policy::Lru, bound)).unwrap();
            let (mut value, mut out) = (Vec::new(), Vec::new());
            for write in 0..500u32 {
                let key = u64::from(write * 7 % 60);
                let written = Written { key, write, len: 40 + write % 60 };
                written.build(&mut value);
                cache.put(&key.to_le_bytes(), &value).unwrap();
                assert!(cache.get(&key.to_le_bytes(), &mut out));
                written.check(&out).unwrap();
                let seen = &mut |seen: &[u8]| written.check(seen).unwrap();
                assert!(cache.read(&key.to_le_bytes(), seen));
                assert!(!cache.get(&u64::MAX.to_le_bytes(), &mut out));
            }
            cache.validate().unwrap();
            let figures = cache.figures().unwrap();
            let evicts_one_by_one = name != Name::Bump;
            assert!(figures.entries <= 50 && (figures.entries == 50 || !evicts_one_by_one), "{name:?}: {figures:?}");
            assert!(figures.payload_bytes >= figures.entries * 48 && figures.refused == 0, "{name:?}: {figures:?}");
            assert!(cache.lost() > 0 && cache.lost() >= figures.evictions, "{name:?}");
        }
    }

    #[test]
    fn what_is_too_large_is_refused_and_counted() {
        for (name, bound) in [
            (Name::Slab, Bound::Bytes(200_000)),
            (Name::Bump, Bound::Bytes(200_000)),
            (Name::Lru, Bound::Bytes(200_000)),
            (Name::S3Fifo, Bound::ValueBytes(200_000)),
        ] {
            let mut cache = build::<8>(name, &settings(Policy::Lru, bound)).unwrap();
            cache.put(&[1; 8], b"there").unwrap();
            assert!(cache.put(&[1; 8], &vec![0; 300_000]).is_err(), "{name:?}");
            let mut out = Vec::new();
            assert!(cache.get(&[1; 8], &mut out) && out == b"there", "{name:?}: what was there is unchanged");
            assert_eq!(cache.figures().unwrap().refused, 1, "{name:?}");
        }
    }

    /// Accesses such as S3-FIFO is for: some keys far more often than others, beside many that come once.
    fn skewed(rng: &mut SmallRng, step: u64) -> u64 {
        match rng.random_range(..3u32) {
            0 => 1_000_000 + step,
            _ => (20_000.0_f64).powf(rng.random_range(0.0..1.0)) as u64,
        }
    }

    #[test]
    fn the_engine_s_s3_fifo_hits_as_often_as_the_reference() {
        for count in [300, 3000] {
            let bound = Bound::Entries { count, entry_bytes: 108 };
            let hit_ratio = |name: Name| {
                let mut cache: Box<dyn Contender<ByteStrings>> =
                    build::<8>(name, &settings(Policy::S3Fifo, bound)).unwrap();
                let (mut rng, mut out, mut hits) = (SmallRng::seed_from_u64(9), Vec::new(), 0);
                for step in 0..100_000 {
                    let key = skewed(&mut rng, step).to_le_bytes();
                    if cache.get(&key, &mut out) {
                        hits += 1;
                    } else {
                        cache.put(&key, &[1; 100]).unwrap();
                    }
                }
                cache.validate().unwrap();
                f64::from(hits) / 100_000.0
            };
            let (engine, reference, lru) = (hit_ratio(Name::Slab), hit_ratio(Name::S3Fifo), hit_ratio(Name::Lru));
            assert!((engine - reference).abs() < 0.005, "{bound:?}: {engine}, reference {reference}");
            assert!(reference > lru + 0.01, "the accesses tell the policies apart: {reference}, LRU {lru}");
        }
    }
}
