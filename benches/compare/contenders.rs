//! The caches that are compared, by name.
//!
//! | name          | what                                                                       | a read gives       |
//! |---------------|----------------------------------------------------------------------------|--------------------|
//! | slab-lru      | the library, private memory, exact LRU                                     | a copy             |
//! | slab-in-place | the same by `with`                                                         | the bytes in place |
//! | slab-buckets  | as slab-lru, with a bucket for every eight entries instead of the default   | a copy             |
//! | slab-clock    | the library, private memory, CLOCK                                         | a copy             |
//! | slab-shared   | the library, memory that processes share, robust locks, exact LRU          | a copy             |
//! | slab-near     | a near cache with room for all entries over slab-shared                     | the bytes in place |
//! | bump          | the predecessor's design, wiped when full                                  | the bytes in place |
//! | lru           | the `lru` crate in a `Mutex`                                               | a shared pointer   |
//! | quick_cache   | `quick_cache::sync`                                                        | a shared pointer   |
//! | moka          | `moka::sync`                                                               | a shared pointer   |
//! | foyer         | foyer's memory cache, LRU                                                  | its entry's handle |
//!
//! Values of the caches on the heap are `Arc<[u8]>`, the usual way to hand out a value without copying it; making one
//! is part of an insert, as copying into the region is. The library's caches are shared between processes or can be;
//! the others are between threads of one process. Keys are arrays of 16 bytes.

mod foyer;
mod locked_lru;
mod moka;
mod quick_cache;

use bench::contender::{Contender, Figures};
use bench::contenders::bump::{Bump, DEFAULT_BUCKET_COUNT};
use bench::contenders::near::Near;
use bench::contenders::slab::Slab;
use pg_shared_lru::{Config, Policy};

pub type Key = [u8; 16];

/// Which cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Name {
    SlabLru,
    SlabInPlace,
    SlabBuckets,
    SlabClock,
    SlabShared,
    SlabNear,
    Bump,
    Lru,
    #[value(name = "quick_cache")]
    QuickCache,
    Moka,
    Foyer,
}

impl Name {
    pub fn name(self) -> &'static str {
        match self {
            Name::SlabLru => "slab-lru",
            Name::SlabInPlace => "slab-in-place",
            Name::SlabBuckets => "slab-buckets",
            Name::SlabClock => "slab-clock",
            Name::SlabShared => "slab-shared",
            Name::SlabNear => "slab-near",
            Name::Bump => "bump",
            Name::Lru => "lru",
            Name::QuickCache => "quick_cache",
            Name::Moka => "moka",
            Name::Foyer => "foyer",
        }
    }
}

/// How large a cache is to be.
#[derive(Clone, Copy)]
pub struct Capacity {
    /// Of those that count entries.
    pub entries: usize,
    /// Of those that have a region: enough for about as many.
    pub region_bytes: usize,
}

/// Makes an empty cache.
///
/// # Errors
/// It cannot be so large.
pub fn build(name: Name, capacity: Capacity) -> Result<Box<dyn Contender>, String> {
    let Capacity { entries, region_bytes } = capacity;
    let config = |policy| Config::bytes(region_bytes).policy(policy);
    Ok(match name {
        Name::SlabLru => Box::new(Slab::private_of(&config(Policy::Lru))?),
        Name::SlabInPlace => Box::new(Slab::private_of(&config(Policy::Lru))?.in_place(true)),
        Name::SlabBuckets => Box::new(Slab::private_of(&config(Policy::Lru).buckets(entries.div_ceil(8) as u64))?),
        Name::SlabClock => Box::new(Slab::private_of(&config(Policy::Clock))?),
        Name::SlabShared => Box::new(Slab::shared_of(&config(Policy::Lru))?),
        Name::SlabNear => Box::new(Near::<Key>::over(&config(Policy::Lru), entries)?),
        Name::Bump => {
            // As many buckets as would do for so many entries: the predecessor's 1,024 would show chains and little else.
            let buckets = entries.next_power_of_two().max(DEFAULT_BUCKET_COUNT);
            Box::new(Bump::new(region_bytes, buckets, None).map_err(|error| error.to_string())?)
        }
        Name::Lru => Box::new(locked_lru::Locked::new(entries)?),
        Name::QuickCache => Box::new(quick_cache::Quick::new(entries)),
        Name::Moka => Box::new(moka::Moka::new(entries)),
        Name::Foyer => Box::new(foyer::Foyer::new(entries)),
    })
}

/// What a cache on the heap says that counts nothing but its entries.
fn entries_alone(entries: u64) -> Option<Figures> {
    Some(Figures { entries, ..Figures::default() })
}
