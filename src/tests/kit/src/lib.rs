//! What the tests, the demo and the benchmarks stand on.
//!
//! | module | what it has |
//! |---|---|
//! | [`cluster`] | a throwaway PostgreSQL server |
//! | [`content`] | keys and values that prove themselves |
//! | [`fork`] | child processes, and memory that they share |
//! | [`heap`] | what an allocation takes of the heap |
//! | `history` | a builder cache over a store that notices races |
//! | `memory` | memory for caches that can be copied and damaged, and locks with a hook |
//! | [`models`] | the reference model of each eviction policy, and a cache made of one |
//! | [`runner`] | a test harness that runs each scenario in a process of its own |
//! | [`traces`] | recorded cache accesses |
//!
//! [`models`] names no type of the library, so that the library's own unit tests can use it.
//!
//! Not here: what is measured, and other caches to compare with; those are in `benches`.
#![deny(unsafe_code)]

pub mod cluster;
pub mod content;
pub mod fork;
pub mod heap;
#[cfg(feature = "library")]
pub mod history;
#[cfg(feature = "library")]
pub mod memory;
pub mod models;
pub mod runner;
pub mod traces;
