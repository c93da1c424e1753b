//! Entries in front of a store: who is loading or writing back which key, and what tells that a value was changed.
//!
//! ```text
//! version   names a value as it was read
//! inflight  leases on keys; counts of changes
//! ```

pub mod inflight;
pub mod version;
