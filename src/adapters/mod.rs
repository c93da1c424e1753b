//! What a consumer writes against: codecs, the cache with types, the drop-in for a counting `lru` cache, and
//! the cache that the workers of a build share.

pub mod builder;
pub mod codec;
mod fit;
pub mod item;
mod lru_store;
pub mod lru_with_stats;
pub mod near;
mod neighbor_encoding;
pub mod neighbors;
pub mod typed;

pub use item::{CacheItem, CacheValue};
pub use lru_with_stats::{CacheStats, LruCacheWithStats, LruParts};
