//! The engine for many users: partitions under locks, pins, walks, draining, and memory to share.
//!
//! ```text
//! lock        the lock of a partition, as a trait
//! backing     private memory and shared mappings
//! held        what this process holds: pins, keys being loaded or written back
//! cache       the operations
//! read        reads that take no lock
//! many        many keys looked up at once
//! bounded     operations whose caller brings the memory, so that its want can be an error
//! walk        iteration by cursor
//! parts       a cache taken apart
//! write_back  a cache before a store: versions, single loads, write-backs in two phases
//! ```

pub mod backing;
pub mod bounded;
pub mod cache;
mod held;
pub mod lock;
pub mod many;
pub mod parts;
pub mod read;
pub mod walk;
pub mod write_back;
