//! What pgvectorscale has in `util`.

use crate::pgrx;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItemPointer {
    pub block_number: u32,
    pub offset: u16,
}

impl ItemPointer {
    pub fn new(block_number: u32, offset: u16) -> Self {
        ItemPointer { block_number, offset }
    }

    pub fn ip_distance(self, other: Self) -> usize {
        let line = |pointer: ItemPointer| pointer.block_number as usize * 300 + pointer.offset as usize;
        line(self).abs_diff(line(other))
    }
}

// From here on as in the guide.

/// Raises what has failed as PostgreSQL's ERROR.
pub fn or_report<T>(result: Result<T, impl std::fmt::Display>) -> T {
    result.unwrap_or_else(|error| pgrx::error!("{error}"))
}
