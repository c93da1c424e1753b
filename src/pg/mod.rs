//! PostgreSQL: memory, locks, hooks and settings for caches that all backends share.
//!
//! ```text
//! lwlock     the lock of a partition is an LWLock
//! area       one piece of main shared memory: requested, initialised once, found by every backend
//! catalog    the named caches in the area: created, looked up, dropped
//! attached   the caches that this backend uses
//! error      errors with SQLSTATE, message and hint
//! settings   pg_shared_lru.*                       ─┐ feature `extension`
//! functions  what SQL calls                        ─┘
//! ```
//!
//! An extension that links this crate without the feature `extension` calls [`area::request`] from its own `_PG_init`
//! and uses [`catalog`] and [`attached`] as the SQL functions do.

pub mod area;
pub mod attached;
pub mod catalog;
pub mod error;
#[cfg(feature = "extension")]
mod functions;
pub mod lwlock;
#[cfg(feature = "extension")]
mod settings;
