//! What the benchmark programs share. Each file says at its head what it is for.

pub mod belady;
pub mod bump;
pub mod caches;
pub mod cli;
pub mod content;
pub mod list_caches;
pub mod lists;
pub mod measured;
pub mod memcached;
pub mod reference;
pub mod servers;
pub mod sizes;
pub mod skew;
pub mod traces;
pub mod values;
pub mod workers;
