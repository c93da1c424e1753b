//! One LRU cache shared by all PostgreSQL backends, over a compacting slab allocator; and the library that it is made of.
//!
//! # Which cache
//!
//! | for | use |
//! |---|---|
//! | byte strings, in one process or shared by many | [`SharedCache`] |
//! | typed keys and values | [`TypedCache`] |
//! | the place of a counting wrapper of the `lru` crate, in one thread | [`LruCacheWithStats`] |
//! | workers that build something in front of a store, and lose no update | [`BuilderCache`] |
//! | decoded values in front of a shared cache, by reference | [`NearCache`] |
//!
//! # Examples
//!
//! ```
//! use pg_shared_lru::{Config, Policy, TypedCache};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = Config::bytes(8 << 20).policy(Policy::Clock);
//! let cache = TypedCache::<u64, Vec<u32>>::private(&config)?;
//! cache.put(&1, &vec![10, 11])?;
//! assert_eq!(cache.get(&1)?, Some(vec![10, 11]));
//! # Ok(())
//! # }
//! ```
//!
//! # Memory
//!
//! A cache uses the bytes that it is given, and no more. An entry takes its key, padded to 8 bytes, its value, and
//! [`ENTRY_METADATA_BYTES`] (45): a record of 32, a slot header of 8, a cell of 5 in the hash table; one that expires
//! ([`Expiry`]) 4 more. Slots are at most a
//! sixteenth larger than what they hold, or an eighth in small caches. [`SharedCache::memory_report`] says where the
//! bytes are.
//!
//! # Features
//!
//! | feature | what it adds |
//! |---|---|
//! | none (`default-features = false`) | the library without PostgreSQL |
//! | `pg14` … `pg18` | `pg`, for this PostgreSQL: shared memory, LWLocks, caches in parallel operations; for other extensions |
//! | `extension`, on by default with `pg15` | the SQL functions, and the module's entry point |
//!
//! # Locking and faults
//!
//! Each partition of a cache has one lock; an operation takes one, for a bounded time, and runs no code of the user's under
//! it. With the policies `clock` and `s3-fifo` a hit takes none. A process that dies in the middle of a change costs the
//! entries of one partition; entries may be lost, never wrong.
#![deny(unsafe_code)]
#![warn(missing_docs, missing_debug_implementations, clippy::missing_errors_doc, clippy::missing_panics_doc)]

pub mod adapters;
/// What one partition is made of. Not part of the interface: it is public for the project's own tests and programs.
#[doc(hidden)]
pub mod engine;
#[cfg(feature = "postgres")]
pub mod pg;
/// What tells that the result of a query is current. Not part of the interface yet: it is public for the project's own tests.
#[doc(hidden)]
pub mod rings;
pub mod shared;

pub use adapters::builder::{BuilderCache, BuilderError, BuilderStats, DrainError, DrainShare, SpillStore};
pub use adapters::codec::{Codec, DecodeError, Pod, PodVec, Postcard, Text};
pub use adapters::drop_in::{CacheStats, LruCacheWithStats, LruParts};
pub use adapters::near::{NearCache, NearStats};
pub use adapters::stored::{CacheKey, CacheValue, Coded, StoredAs, type_tag};
pub use adapters::typed::{TypedCache, TypedEvicted, TypedParts};
pub use engine::compaction::{CompactBudget, CompactReport};
pub use engine::config::{Capacity, Classes, Config, Resolved};
pub use engine::config_error::ConfigError;
pub use engine::counters::Stats;
pub use engine::entry::ENTRY_METADATA_BYTES;
pub use engine::evicted::Evicted;
pub use engine::findings::Inconsistencies;
pub use engine::flight::version::Version;
pub use engine::header::AttachError;
pub use engine::ids::EntryId;
pub use engine::index::optimistic::PlacementHint;
pub use engine::outcomes::{PushError, Put};
pub use engine::policy::Policy;
pub use engine::report::{ClassReport, MemoryReport};
pub use shared::cache::SharedCache;
pub use shared::drained::Parts;
pub use shared::expiry::{Expiry, SweepReport};
pub use shared::lock::{LockMode, Locks, NoLocks, Tenancy};
pub use shared::multi_get::Found;
pub use shared::open::CreateError;
pub use shared::robust_locks::RobustLocks;
pub use shared::scan::{Cursor, Entries, EntrySnapshot, SnapshotOf};
