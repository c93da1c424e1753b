//! One LRU cache shared by all PostgreSQL backends, over a compacting slab allocator.
#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod adapters;
pub mod engine;
#[cfg(feature = "pg15")]
pub mod pg;
pub mod shared;

pub use adapters::builder::{BuilderCache, BuilderError, BuilderStats, DrainError, SpillStore};
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
pub use engine::partition::{PushError, Put};
pub use engine::policy::Policy;
pub use engine::report::{ClassReport, MemoryReport};
pub use shared::cache::SharedCache;
pub use shared::drained::Parts;
pub use shared::lock::{LockMode, Locks, NoLocks, Tenancy};
pub use shared::multi_get::Found;
pub use shared::open::CreateError;
pub use shared::robust_locks::RobustLocks;
pub use shared::scan::{Cursor, Entries, EntrySnapshot};
