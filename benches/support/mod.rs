//! What the benchmark programs share. Each file says at its head what it is for.

pub mod bump;
pub mod caches;
pub mod cli;
pub mod content;
pub mod reference;
pub mod sizes;
pub mod traces;
