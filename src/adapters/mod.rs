//! What a consumer writes against: types instead of bytes.
//!
//! | to | use |
//! |---|---|
//! | share a cache of typed keys and values | [`typed`]: [`TypedCache`](typed::TypedCache) |
//! | read the same shared values again and again | [`near`]: [`NearCache`](near::NearCache), decoded values in the process |
//! | replace a counting wrapper of the `lru` crate | [`drop_in`]: [`LruCacheWithStats`](drop_in::LruCacheWithStats) |
//! | let the workers of a build share what they build | [`builder`]: [`BuilderCache`](builder::BuilderCache) |
//! | keep neighbour lists of a graph at ten bytes a neighbour | [`graph`] |
//!
//! How a type is stored is said once, for all of them, in [`stored`]; [`codec`] has the encodings.
//!
//! Not here: locks, memory, PostgreSQL.

pub mod builder;
pub mod codec;
pub mod drop_in;
pub mod graph;
pub mod near;
pub mod stored;
pub mod typed;

use crate::engine::entry::ENTRY_METADATA_BYTES;

/// Bytes of a cache that holds so many entries, each of `entry_bytes` of key and value on average: what to give
/// [`Config::bytes`](crate::Config::bytes) or [`LruCacheWithStats::with_memory`](drop_in::LruCacheWithStats::with_memory)
/// for a table of so many rows, where more would only be taken from others.
///
/// An entry's metadata is [`ENTRY_METADATA_BYTES`]; entries of mixed sizes fill at least five
/// sixths of a cache of several MiB in one partition. Never less than [`drop_in::MIN_MEMORY_BYTES`]. Where several workers
/// share the cache, see [`builder::memory_for`].
///
/// # Examples
///
/// ```
/// use pg_shared_lru::adapters::memory_for;
/// use pg_shared_lru::{Config, TypedCache};
///
/// let bytes = memory_for(10_000, 8 + 100);
/// let cache = TypedCache::<u64, [u8; 100]>::private(&Config::bytes(bytes))?;
/// for row in 0..10_000 {
///     cache.put(&row, &[1; 100])?;
/// }
/// assert_eq!((cache.len(), cache.stats().evictions), (10_000, 0));
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
pub const fn memory_for(entries: u64, entry_bytes: usize) -> usize {
    // Key and value are each padded to 8 bytes.
    let each = entry_bytes as u64 + 8 + ENTRY_METADATA_BYTES;
    let full = entries.saturating_mul(each).saturating_mul(6) / 5;
    let bytes = if full > usize::MAX as u64 { usize::MAX } else { full as usize };
    let bytes = bytes.saturating_add(drop_in::MIN_MEMORY_BYTES);
    bytes - bytes % 64
}
