//! The engine: bytes to structures. No PostgreSQL, no locks, no threads.
//!
//! Each file may use those above it:
//!
//! ```text
//! ids        newtypes for indexes and addresses
//! words      words copied and compared beside others ─┐ the only unsafe code
//! region     offsets to references                   ─┘ of the engine
//! bitmap     free bitmaps as views over words
//! class      slab classes
//! config     what a user asks for  ─┐ each other's types
//! layout     where everything lies ─┘
//! slab       slots and slabs
//! directory  records, generations
//! payload    keys and values in slots
//! bucket     the hash table
//! recency    the order of eviction: lists, `lru`, `clock`
//! ghost      keys that were evicted, for `s3-fifo`
//! s3fifo     the order of eviction with `s3-fifo`
//! quarantine pins across the reset of a damaged partition
//! room       pool, compaction, eviction
//! optimistic lookups beside a writer, without the lock
//! write_back dirty entries, versions, conditional stores ─┐ for a cache
//! claims     who is loading or writing back which key     ─┘ before a store
//! partition  the cache's operations
//! bounded    the same for callers who bring the memory: nothing here allocates
//! prefetch   what a lookup will touch, fetched ahead
//! report, validate   read everything
//! ```

pub mod bitmap;
pub(crate) mod bounded;
pub mod bucket;
pub mod claims;
pub mod class;
pub mod config;
pub mod directory;
pub mod evicted;
pub mod ghost;
pub mod ids;
pub mod layout;
pub mod optimistic;
pub mod partition;
pub mod payload;
pub mod prefetch;
pub mod quarantine;
pub mod recency;
pub mod region;
pub mod report;
pub mod room;
pub mod s3fifo;
pub mod slab;
pub mod validate;
pub mod words;
pub mod write_back;
