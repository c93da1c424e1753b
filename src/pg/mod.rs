//! PostgreSQL: memory, locks, hooks and settings for caches that all backends share.
//!
//! ```text
//! lwlock     the lock of a partition is an LWLock
//! area       one piece of main shared memory: requested, initialised once, found by every backend
//! catalog    the named caches in the area: created, looked up, dropped
//! attached   the caches that this backend uses
//! parallel   a cache in the memory of a parallel operation
//! dsm_locks  the locks of such a cache
//! error      errors with SQLSTATE, message and hint
//! settings   pg_shared_lru.*                       ─┐ feature `extension`
//! functions  what SQL calls                        ─┘
//! ```
//!
//! An extension that links this crate without the feature `extension` calls [`area::request`] from its own `_PG_init`
//! and uses [`catalog`] and [`attached`] as the SQL functions do, or [`parallel`], which needs no preloading.

pub mod area;
pub mod attached;
pub mod catalog;
pub mod dsm_locks;
pub mod error;
#[cfg(feature = "extension")]
mod functions;
pub mod lwlock;
pub mod parallel;
#[cfg(feature = "extension")]
mod settings;

/// The pgrx that the library was built with. A consumer's has to be the same: `docs/library.md` says how.
pub use pgrx;
