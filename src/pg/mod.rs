//! PostgreSQL: memory, locks, hooks and settings for caches that all backends share.
//!
//! ```text
//! encoding        messages where the database's encoding is not UTF-8
//! error           errors with SQLSTATE, message and hint
//! lwlock          PostgreSQL's locks, taken and released
//! slot            a named cache's place in the catalog, and its life
//! versions        what differs between the versions of PostgreSQL
//! area            one piece of shared memory for all named caches: preloaded, or made at its first use
//! named_locks     the locks of a named cache
//! catalog         the named caches in the area: created, looked up, dropped
//! handles         the caches that this backend uses
//! drops           a cache goes with its database, and with its definition
//! dsm_locks       the locks of a cache in the memory of a parallel operation
//! parallel        such a cache
//! settings        pg_shared_lru.*                        ─┐
//! worker          the background worker                   │
//! images          caches that outlive a restart          │
//! snapshot        a snapshot, as the commit rings ask it  │
//! invalidations   keys that a transaction invalidates     │
//! definitions     the caches of SQL, and who may use them │ feature `extension`
//! functions       what SQL calls                         ─┘
//! ```
//!
//! An extension that links this crate without the feature `extension` calls [`area::request`] from its own `_PG_init`
//! and uses [`catalog`] and [`handles`] as the SQL functions do, or [`parallel`], which needs no preloading.

pub mod area;
pub mod catalog;
#[cfg(feature = "extension")]
mod definitions;
mod drops;
pub mod dsm_locks;
mod encoding;
pub mod error;
#[cfg(feature = "extension")]
mod functions;
pub mod handles;
#[cfg(feature = "extension")]
mod images;
#[cfg(feature = "extension")]
mod invalidations;
mod lwlock;
pub mod named_locks;
pub mod parallel;
#[cfg(feature = "extension")]
mod settings;
mod slot;
#[cfg(feature = "extension")]
mod snapshot;
mod versions;
#[cfg(feature = "extension")]
mod worker;

/// The pgrx that the library was built with. A consumer's has to be the same: `docs/library.md` says how.
pub use pgrx;
