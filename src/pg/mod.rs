//! PostgreSQL: memory, locks, hooks and settings for caches that all backends share.
//!
//! ```text
//! encoding        messages where the database's encoding is not UTF-8
//! error           errors with SQLSTATE, message and hint
//! lwlock          PostgreSQL's locks, taken and released
//! slot            a named cache's place in the catalog, and its life
//! hooks           what was installed in a hook before ours
//! versions        what differs between the versions of PostgreSQL
//! area            one piece of shared memory for all named caches: preloaded, or made at its first use
//! named_locks     the locks of a named cache
//! catalog         the named caches in the area: created, looked up, dropped
//! refusals        why results of queries were not kept: counters
//! tallies         what is counted of each query whose result is kept
//! ledger          what is known of a named cache beside its memory: counters that go on, samples
//! handles         the caches that this backend uses
//! drops           a cache goes with its database, and with its definition
//! dsm_locks       the locks of a cache in the memory of a parallel operation
//! parallel        such a cache
//! accounts        what is counted of a named cache       ─┐
//! report          one cache on a page                     │
//! settings        pg_shared_lru.*                         │
//! worker          the background worker                   │
//! images          caches that outlive a restart           │
//! snapshot        a snapshot, as the commit rings ask it  │
//! stored          values with what belongs to them        │
//! bytea           values copied to PostgreSQL's memory    │
//! types           datums as bytes, and their types        │
//! advisory        the right to compute something          │
//! invalidations   what a transaction invalidates          │
//! tags            whether what a value depends on holds   │
//! writers         what a transaction writes, published    │
//! queries         results of queries, kept while right    │
//! definitions     the caches of SQL, and who may use them │ feature `extension`
//! functions       what SQL calls                         ─┘
//! ```
//!
//! An extension that links this crate without the feature `extension` calls [`area::request`] from its own `_PG_init`
//! and uses [`catalog`] and [`handles`] as the SQL functions do, or [`parallel`], which needs no preloading.

#[cfg(feature = "extension")]
mod accounts;
#[cfg(feature = "extension")]
mod advisory;
pub mod area;
#[cfg(feature = "extension")]
mod bytea;
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
mod hooks;
#[cfg(feature = "extension")]
mod images;
#[cfg(feature = "extension")]
mod invalidated;
#[cfg(feature = "extension")]
mod invalidations;
mod ledger;
mod lwlock;
pub mod named_locks;
pub mod parallel;
#[cfg(feature = "extension")]
mod queries;
mod refusals;
#[cfg(any(test, feature = "extension"))]
mod report;
#[cfg(feature = "extension")]
mod settings;
mod slot;
#[cfg(feature = "extension")]
mod snapshot;
#[cfg(feature = "extension")]
mod stored;
#[cfg(feature = "extension")]
mod syscache;
#[cfg(feature = "extension")]
mod tags;
mod tallies;
#[cfg(feature = "extension")]
mod types;
mod versions;
#[cfg(feature = "extension")]
mod worker;
#[cfg(feature = "extension")]
mod writers;

/// The pgrx that the library was built with. A consumer's has to be the same: `docs/library.md` says how.
pub use pgrx;
