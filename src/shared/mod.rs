//! The engine for many users: partitions under locks, pins, walks, draining, and memory to share.
//!
//! ```text
//! lock          the lock of a partition, as a trait
//! robust_locks  mutexes that survive their holder's death
//! backing       private memory and shared mappings
//! process       forks, and whether a process lives
//! resources     what this process holds: pins, keys being loaded or written back
//! open          a cache created or attached
//! cache         the operations
//! read          reads that take no lock
//! many          many keys looked up at once
//! walk          iteration by cursor
//! parts         a cache taken apart
//! write_back    a cache before a store: versions, single loads, write-backs in two phases
//! ```

mod backing;
pub mod cache;
pub mod lock;
pub mod many;
pub mod open;
pub mod parts;
mod process;
pub mod read;
mod resources;
pub mod robust_locks;
pub mod walk;
pub mod write_back;
