//! The order of eviction: one door, and behind it one file for each policy.
//!
//! ```text
//! queues     lists of entries, and the clock that their ages are told by
//! eviction   the door: what a policy does
//! lru, clock, ghost, s3fifo   the policies; ghosts are keys that were evicted, for `s3-fifo`
//! order      the choice of one
//! ```
//!
//! A policy is a type that implements [`Eviction`], after foyer's trait of that name; [`EvictionOrder`] is the choice of
//! one. To add a policy: write its file, name it in `order` and in [`Policy`](super::policy::Policy). Nothing else asks
//! which one it is.

mod clock;
mod eviction;
mod ghost;
mod lru;
mod order;
mod queues;
mod s3fifo;

pub use eviction::{Candidates, Eviction, HitNeeds, Search};
pub use order::EvictionOrder;
pub use queues::Totals;
