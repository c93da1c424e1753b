//! One LRU cache shared by all PostgreSQL backends, over a compacting slab allocator.
#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod adapters;
pub mod engine;
#[cfg(feature = "pg15")]
pub mod pg;
pub mod shared;

pub use adapters::builder::{BuilderCache, BuilderError, BuilderStats, DrainError, SpillStore};
pub use adapters::codec::{Bytes, Codec, DecodeError, Pod, Postcard, Text, type_tag};
pub use adapters::item::{CacheItem, CacheValue};
pub use adapters::lru_with_stats::{CacheStats, LruCacheWithStats, LruParts};
pub use adapters::near::{NearCache, NearStats};
pub use adapters::typed::{TypedCache, TypedEvicted, TypedParts};
pub use engine::config::{Capacity, Classes, Config, ConfigError, Policy};
pub use engine::evicted::Evicted;
pub use engine::ids::EntryId;
pub use engine::layout::AttachError;
pub use engine::partition::{PushError, Put};
pub use engine::report::{ClassReport, ENTRY_METADATA_BYTES, MemoryReport, Stats};
pub use engine::room::{CompactBudget, CompactReport};
pub use engine::validate::Inconsistencies;
pub use engine::write_back::Version;
pub use shared::cache::SharedCache;
pub use shared::lock::{LockMode, Locks, NoLocks, Tenancy};
pub use shared::many::Found;
pub use shared::open::CreateError;
pub use shared::parts::Parts;
pub use shared::read::Sight;
pub use shared::robust_locks::RobustLocks;
pub use shared::walk::{Cursor, Entries, EntrySnapshot};
