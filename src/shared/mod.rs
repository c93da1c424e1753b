//! The engine for many users: partitions under locks, pins, walks, draining, and memory to share.
//!
//! ```text
//! lock          the lock of a partition, as a trait
//! robust_locks  mutexes that survive their holder's death
//! backing       private memory and shared mappings
//! process       forks, and whether a process lives
//! resources     what this process holds: pins, leases, reservations
//! wall_clock    the time
//! cache         the doors to the partitions
//! open          a cache created or attached
//! read, multi_get, bounded   lookups: of one key, of many, into memory of the caller's
//! write, drains stores, removals; entries taken out in order
//! expiry        how long entries live; sweeps of those whose time is over
//! scan          iteration by cursor
//! drained       a cache taken apart
//! transfer      entries copied into another cache
//! image         entries written to a file, and read back
//! private       a cache of one thread and one handle
//! resets        whether entries were lost
//! inspect       reports, checks, compaction
//! lease         what its guards and those of `take_out` have in common
//! write_back    a cache before a store: versions, single loads, write-backs in two phases
//! take_out      its entries taken out by many workers at once, each by one
//! ```

mod backing;
pub mod bounded;
pub mod cache;
pub mod drained;
pub mod drains;
pub mod expiry;
pub(crate) mod image;
pub mod inspect;
mod lease;
pub mod lock;
pub mod multi_get;
pub mod open;
pub(crate) mod private;
mod process;
mod read;
mod resets;
mod resources;
pub mod robust_locks;
pub mod scan;
pub mod take_out;
mod transfer;
#[doc(hidden)]
pub mod wall_clock;
mod write;
pub mod write_back;
