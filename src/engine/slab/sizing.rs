//! How a partition is cut up where nobody says how: the size of its slabs, and how finely its classes divide sizes.
//!
//! Memory is lost in three places. Every class in use keeps some free slots, half a slab or a little more; a value fills
//! its slot in part; and each slab has a descriptor, each class a state. Small slabs lose less in the first place and more
//! in the last; many classes lose less in the second and more in the first. So both follow from the bytes of a partition:
//!
//! ```text
//! partition from     slabs of    slabs it has     waste in a slot    largest slot
//!                    2 KiB       below 320        1/6                  408
//!   640 KiB          2 KiB       320 to 768       1/8                  408
//!   1.5 MiB          4 KiB       384 to 768       1/8                  816
//!     3 MiB          8 KiB       384 to 768       1/8                1,632
//!     6 MiB         16 KiB       384 to 768       1/8                2,040
//!    12 MiB         16 KiB       768 to 6,144     1/16               2,040
//!    96 MiB         32 KiB       3,072 to 6,144   1/16               4,088
//!   192 MiB         64 KiB       3,072 to 6,144   1/16               8,184    and so on
//!    12 GiB          4 MiB       3,072 to 8,192   1/16             524,280    the end: 32 GiB
//! ```
//!
//! With that, a partition of [`LEAST_SHARE_BYTES`] or more uses at least 0.80 of its memory for keys, values and what
//! they cost, whatever the sizes of its values are, from 32 bytes to an eighth of the partition (`src/tests/utilisation.rs`
//! measures it; docs/memory.md has a table). An operation's work that is bounded by a slab, or by the number of slabs,
//! stays small: neither grows without the other.
//!
//! Not here: the slots of the largest class and the table of classes (`class`), what a user asked for (`config`).

use crate::engine::limits::{MAX_SLAB_BYTES, MIN_SLAB_BYTES};

/// The least bytes of one of several partitions whose slabs nobody sizes: below, they would waste more than a fifth.
pub const LEAST_SHARE_BYTES: usize = 480 << 10;

/// Slabs that a partition has at least where its size allows, before they become larger than `MIDDLE_SLAB_BYTES`.
const FEW_SLABS: usize = 384;
/// Slabs that a partition has at least when they are larger.
const MANY_SLABS: usize = 3072;
/// Slabs that hold a value of two kilobytes in one slot.
const MIDDLE_SLAB_BYTES: usize = 16 << 10;

/// The size of slabs for a partition of so many bytes.
pub fn slab_bytes_for(partition_bytes: usize) -> u32 {
    let with_slabs = |slabs: usize| 1 << (partition_bytes / slabs).max(1).ilog2();
    let bytes = with_slabs(FEW_SLABS).min(MIDDLE_SLAB_BYTES).max(with_slabs(MANY_SLABS));
    bytes.clamp(MIN_SLAB_BYTES as usize, MAX_SLAB_BYTES as usize) as u32
}

/// One part of a slot in so many may be wasted in a partition of so many bytes in slabs of this size: the more slabs, the
/// more classes can each have some.
pub fn waste_parts_for(partition_bytes: usize, slab_bytes: u32) -> u32 {
    match partition_bytes / slab_bytes as usize {
        0..320 => 6,
        320..768 => 8,
        _ => 16,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::limits::MAX_PARTITION_BYTES;
    use crate::engine::slab::class::{ClassTable, largest_slot_bytes};

    const KIB: usize = 1 << 10;
    const MIB: usize = 1 << 20;

    /// Partitions of any size, three in each doubling.
    fn partitions() -> impl Iterator<Item = usize> {
        let doublings = (16..36).map(|bits| 1usize << bits);
        doublings.flat_map(|bytes| [bytes, bytes / 4 * 5, bytes / 2 * 3]).filter(|&bytes| bytes <= MAX_PARTITION_BYTES)
    }

    #[test]
    fn the_table_in_the_docs_is_true() {
        let row = |bytes: usize| {
            let slab_bytes = slab_bytes_for(bytes);
            (slab_bytes as usize / KIB, waste_parts_for(bytes, slab_bytes), largest_slot_bytes(slab_bytes))
        };
        assert_eq!(row(100 * KIB), (2, 6, 408));
        assert_eq!(row(640 * KIB), (2, 8, 408));
        assert_eq!(row(3 * MIB / 2), (4, 8, 816));
        assert_eq!(row(3 * MIB), (8, 8, 1632));
        assert_eq!(row(6 * MIB), (16, 8, 2040));
        assert_eq!(row(12 * MIB), (16, 16, 2040));
        assert_eq!(row(96 * MIB), (32, 16, 4088));
        assert_eq!(row(192 * MIB), (64, 16, 8184));
        assert_eq!(row(12 << 30), (4096, 16, 524_280));
        assert_eq!(row(32 << 30), (4096, 16, 524_280));
        for bytes in [640 * KIB, 3 * MIB / 2, 3 * MIB, 6 * MIB, 12 * MIB, 96 * MIB, 192 * MIB, 12 << 30] {
            assert_ne!(row(bytes), row(bytes - 1), "a row starts there");
        }
    }

    #[test]
    fn neither_slabs_nor_their_number_become_large_alone() {
        for bytes in partitions() {
            let slab_bytes = slab_bytes_for(bytes) as usize;
            let slabs = bytes / slab_bytes;
            assert!(slabs <= 8192, "{bytes}: {slabs}");
            assert!(slabs >= MANY_SLABS || slab_bytes <= MIDDLE_SLAB_BYTES, "{bytes}: {slabs} of {slab_bytes}");
            assert!(slabs >= FEW_SLABS || slab_bytes == MIN_SLAB_BYTES as usize, "{bytes}: {slabs} of {slab_bytes}");
        }
    }

    #[test]
    fn classes_share_few_of_the_slabs() {
        // What all classes together keep free, at half a slab and a little more each.
        for bytes in partitions().filter(|&bytes| bytes >= LEAST_SHARE_BYTES) {
            let slab_bytes = slab_bytes_for(bytes);
            let sizes = ClassTable::geometric_slot_bytes(waste_parts_for(bytes, slab_bytes), slab_bytes);
            let free_share = 0.6 * sizes.len() as f64 * f64::from(slab_bytes) / bytes as f64;
            assert!(free_share < 0.07, "{bytes}: {} classes, {free_share}", sizes.len());
        }
    }
}
