//! What the benchmark programs share.
//!
//! | module | what it has |
//! |---|---|
//! | [`belady`] | the hits of a cache that knows the future |
//! | [`cli`] | what the command lines have in common |
//! | [`contender`] | the trait of everything that is measured, and what it is asked |
//! | [`contenders`] | one file for each of them |
//! | [`lists`] | neighbour lists whose content can be checked |
//! | [`servers`] | memcached and Redis on sockets |
//! | [`sizes`], [`skew`] | how long values are, and how unequally keys are used |
//! | [`sourced`] | values that say of what they were made |
//! | [`timing`] | several measurements of one thing; a thread's processor time |
//! | [`trend`] | whether something only grows |
//! | [`workers`] | processes at work on one cache |
//!
//! The programs are the targets of this package's benchmarks (`cargo bench --bench NAME` at the root of the project); each
//! says at its head what it measures. What tests use as well is in `testkit`.
#![deny(unsafe_code)]

pub mod belady;
pub mod cli;
pub mod contender;
pub mod contenders;
pub mod lists;
pub mod servers;
pub mod sizes;
pub mod skew;
pub mod sourced;
pub mod timing;
pub mod trend;
pub mod workers;
