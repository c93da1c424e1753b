//! Where there is room for a cache between the others.
//!
//! Locking: the catalog's lock, for as long as what was found is to be true.

use super::Catalog;
use crate::pg::error::CacheError;
use crate::pg::slot::{CacheSlot, Phase, Piece};
use crate::shared::lock::LockMode;

/// Caches start at multiples of this.
const ALIGNMENT_BYTES: usize = 4096;

impl Catalog {
    /// Whether there is a slot, and memory in one piece, for a cache of so many bytes.
    ///
    /// # Errors
    ///
    /// There is not; see [`Catalog::create`].
    pub fn room_for(self, bytes: usize) -> Result<(), CacheError> {
        let mut pieces = Vec::with_capacity(self.0.max_caches() + 1);
        self.0.with_catalog(LockMode::Shared, || {
            let taken = self.0.slots().iter().filter(|slot| slot.now().1 != Phase::Free);
            pieces.extend(taken.map(CacheSlot::memory));
        });
        if pieces.len() == self.0.max_caches() {
            return Err(CacheError::TooMany(self.0.max_caches()));
        }
        find_room(&mut pieces, self.0.bytes(), bytes).map(drop)
    }
}

/// The first piece of `bytes` between those that are taken, of `area_bytes` bytes.
pub(super) fn find_room(taken: &mut Vec<Piece>, area_bytes: usize, bytes: usize) -> Result<Piece, CacheError> {
    taken.push(Piece { offset_bytes: area_bytes, bytes: 0 });
    taken.sort_unstable();
    let (mut start, mut free, mut largest) = (0, 0, 0);
    for piece in taken.iter() {
        let gap = piece.offset_bytes.saturating_sub(start);
        if gap >= bytes {
            return Ok(Piece { offset_bytes: start, bytes });
        }
        free += gap;
        largest = largest.max(gap);
        start = next_start(*piece);
    }
    Err(CacheError::NoMemory { needed: bytes, free, largest })
}

/// Where a cache may start behind another.
pub(super) fn next_start(piece: Piece) -> usize {
    piece.offset_bytes + piece.bytes.next_multiple_of(ALIGNMENT_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_gap_that_is_large_enough_is_taken() {
        let taken =
            [(40_960, 4096), (0, 4000), (12_288, 8192)].map(|(offset_bytes, bytes)| Piece { offset_bytes, bytes });
        let room = |bytes| find_room(&mut taken.to_vec(), 65_536, bytes).map(|piece| piece.offset_bytes);
        assert_eq!(room(8192).ok(), Some(4096));
        assert_eq!(room(20_480).ok(), Some(20_480));
        assert_eq!(room(20_481).map_err(|error| error.to_string()).unwrap_err().matches("20480").count(), 1);
        assert_eq!(find_room(&mut Vec::new(), 65_536, 65_536).ok(), Some(Piece { offset_bytes: 0, bytes: 65_536 }));
    }
}
