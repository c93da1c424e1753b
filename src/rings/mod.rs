//! The commit rings: how it is known that a result is current.
//!
//! A writer publishes its transaction id in a line of shared memory just before it commits. A reader asks how many of a
//! line's publications its own snapshot sees; two snapshots with the same answer see the same committed writers. The
//! argument as a whole is in `docs/commit-rings.md`; each file has that of its own words.
//!
//! Each file uses those above it, and of the engine `memory` alone:
//!
//! ```text
//! xid          transaction ids, and what a snapshot is asked
//! word         a shared word, as the algorithms use it
//! key          what a result can depend on, hashed
//! line         a line's words; publications, how many of them a snapshot sees, which have ended
//! definitions  changes of definitions, begun and ended
//! switch       on and off, and from which transaction on
//! reader       what a reader asks
//! table        all lines in one region
//! ```
//!
//! Invariants: nothing here takes a lock of PostgreSQL's, allocates or returns an error once the region is open. Not
//! here: which relations a transaction wrote, what a query depends on, how a snapshot is read.

pub mod definitions;
pub mod key;
pub mod line;
pub mod reader;
pub mod switch;
pub mod table;
pub mod word;
pub mod xid;
