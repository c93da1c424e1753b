//! Keys to entries.
//!
//! ```text
//! table       buckets of one cache line, a table that grows and shrinks a bucket at a time
//! optimistic  lookups beside a writer, without the lock
//! ```

pub mod optimistic;
pub mod table;
