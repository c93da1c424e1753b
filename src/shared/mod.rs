//! The engine for many users: partitions under locks, pins, walks, draining, and memory to share.
//!
//! ```text
//! lock     the lock of a partition, as a trait
//! backing  private memory and shared mappings
//! pins     pins that this process holds
//! cache    the operations
//! walk     iteration by cursor
//! parts    a cache taken apart
//! ```

pub mod backing;
pub mod cache;
pub mod lock;
pub mod parts;
mod pins;
pub mod walk;
