//! The engine: bytes to structures. No PostgreSQL, no locks, no threads.
//!
//! Each file and folder may use those above it, and nothing below (`src/tests/layers.rs` checks that):
//!
//! ```text
//! ids, limits, policy, hash, findings, work, moment   numbers with names
//! memory      words, regions of words, lists through words
//! config_error
//! slab        slab classes; the allocator of slots
//! entry       records, the directory, keys and values in slots
//! index/table the hash table
//! evict       the order of eviction, one file a policy
//! flight      leases and versions
//! evicted, counters
//! header, layout, config   where everything lies, and what was asked for
//! index/optimistic   lookups beside a writer, without the lock
//! reservation what is asked of reclaim, and what it answers
//! outcomes    what a partition's operations answer
//! partition   the components, composed: the handle, lookups, pins, walks
//! put, removal, large, write_back, reclaim, sweep, compaction, recovery, report, validate   further operations of a
//!             partition, one concern each
//! ```

pub mod compaction;
pub mod config;
pub mod config_error;
pub mod counters;
pub mod entry;
pub mod evict;
pub mod evicted;
pub mod findings;
pub mod flight;
pub mod hash;
pub mod header;
pub mod ids;
pub mod index;
pub mod large;
pub mod layout;
pub mod limits;
pub mod memory;
pub mod moment;
pub mod outcomes;
pub mod partition;
pub mod policy;
mod put;
mod reclaim;
pub mod recovery;
mod removal;
pub mod report;
mod reservation;
pub mod slab;
pub mod sweep;
pub mod validate;
pub mod work;
pub mod write_back;
