//! Keys to entries.
//!
//! ```text
//! bucket      one cache line, which names up to twelve entries
//! shape       how many buckets there are, and which one is a hash's
//! table       a table that grows and shrinks a bucket at a time
//! optimistic  lookups beside a writer, without the lock
//! ```

pub mod bucket;
pub mod optimistic;
pub mod shape;
pub mod table;
