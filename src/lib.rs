//! One LRU cache shared by all PostgreSQL backends, over a compacting slab allocator.
#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod adapters;
pub mod core;
#[cfg(feature = "pg15")]
pub mod pg;
pub mod shared;

pub use adapters::builder::{BuilderCache, BuilderError, BuilderStats, DrainError, SpillStore};
pub use adapters::codec::{type_tag, Bytes, Codec, DecodeError, Pod, Postcard, Text};
pub use adapters::item::{CacheItem, CacheValue};
pub use adapters::lru_with_stats::{CacheStats, LruCacheWithStats, LruParts};
pub use adapters::near::{NearCache, NearStats};
pub use adapters::typed::{TypedCache, TypedEvicted, TypedParts};
pub use core::config::{Capacity, Classes, Config, ConfigError, Policy};
pub use core::evicted::Evicted;
pub use core::ids::EntryId;
pub use core::layout::AttachError;
pub use core::partition::{PushError, Put};
pub use core::report::{ClassReport, MemoryReport, Stats, ENTRY_METADATA_BYTES};
pub use core::room::{CompactBudget, CompactReport};
pub use core::validate::Inconsistencies;
pub use core::write_back::Version;
pub use shared::backing::Backing;
pub use shared::cache::{CreateError, SharedCache};
pub use shared::lock::{LockMode, Locks, NoLocks, RobustLocks};
pub use shared::many::Found;
pub use shared::parts::Parts;
pub use shared::read::Sight;
pub use shared::walk::{Cursor, Entries, EntrySnapshot};
