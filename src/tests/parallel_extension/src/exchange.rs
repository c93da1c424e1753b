//! What a test asks of the extension and what it is told, as JSON through an SQL function. Read by both: the test
//! program takes this file in by its path.

use serde::{Deserialize, Serialize};

/// What the leader is to do.
#[derive(Clone, Serialize, Deserialize)]
pub struct Request {
    pub library: String,
    pub workers: i32,
    pub cache_bytes: usize,
    pub partitions: u32,
    /// A chunk of the segment that nobody uses.
    pub ballast_bytes: usize,
    pub keys: u64,
    pub rounds: u64,
    pub trouble: Trouble,
}

/// What happens to the workers after their work.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u32)]
pub enum Trouble {
    None,
    /// They raise an ERROR while each has an entry pinned and a key to load.
    ErrorWhileHolding,
    /// They are terminated then.
    TerminatedWhileHolding,
    /// They are terminated while they wait for the leader's load.
    TerminatedWhileWaiting,
    /// They wait for the leader's load, which ends.
    Woken,
    /// They wait for the leader's load, which does not end, but the key is there all at once.
    NotWoken,
}

/// What the leader found.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// Why there was no shared memory.
    pub refused: Option<String>,
    pub has_segment: bool,
    pub workers_launched: i32,
    /// Pins and loads of workers while these were in place, and after the last of them had gone.
    pub held_in_place: u64,
    pub held_after: u64,
    /// Errors of workers that reached the leader.
    pub errors: Vec<String>,
    /// Reads, refusals and entries that were not right.
    pub wrong: u64,
    pub evictions: u64,
    pub resets: u64,
    /// Entries met by a walk, keys among them, and entries drained.
    pub walked: u64,
    pub distinct: u64,
    pub drained: u64,
    pub inconsistencies: Option<String>,
    pub interrupts_held: u32,
}
