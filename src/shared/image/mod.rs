//! The image of a cache: its entries in a file, for another life of the cache.
//!
//! ```text
//! ┌────────┬───────┬───────┬─────┬─────┐      block  ┌──────────────────────────────────┬─────────┬─────────┬───┐
//! │ header │ block │ block │  …  │ end │             │ bytes, entries, kind, checksums  │ entry   │ entry   │ … │
//! └────────┴───────┴───────┴─────┴─────┘             └──────────────────────────────────┴─────────┴─────────┴───┘
//!                                             entry  ┌─────────┬───────────┬─────────────┬─────┬───────┐
//!                                                    │ expires │ key bytes │ value bytes │ key │ value │
//!                                                    └─────────┴───────────┴─────────────┴─────┴───────┘
//! header   what the image is of: 80 bytes; written again in place when it is sealed
//! write    a cache into an image
//! read     an image into a cache
//! ```
//!
//! Invariants:
//! - Each byte is under a checksum (XXH3, 64 bits). Those of blocks are seeded by the image's number and the block's place, so
//!   no block passes for another, or for one of another image; the end has the counts, and nothing follows it.
//! - No length is believed that was not checked against its bounds and under a checksum, and memory grows with the bytes that
//!   are there, not with those that are promised.
//! - Numbers are little-endian. Nothing depends on the memory's layout, seed of hashes or sizes: an image fits every
//!   configuration.
//!
//! Locking: as walks and puts, one partition at a time. An image is not a snapshot of one instant: it is one only of a cache that
//! nobody changed meanwhile, which [`SharedCache::change_count`] tells.
//!
//! Not here: files, when an image is current (`pg::images`).
#![cfg_attr(not(feature = "extension"), allow(dead_code))] // who keeps images is in `pg`

pub(crate) mod header;
pub(crate) mod read;
pub(crate) mod write;

use std::collections::TryReserveError;
use std::io;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::cache::SharedCache;
use super::lock::Locks;
use crate::engine::limits::{MAX_ENTRY_BYTES, MAX_KEY_BYTES};

/// A block ends after this many bytes; the last entry may exceed them.
const BLOCK_BYTES: usize = 256 << 10;
/// The most that a block can have.
const MAX_BLOCK_BYTES: u64 = (BLOCK_BYTES + ENTRY_HEAD_BYTES + MAX_KEY_BYTES + MAX_ENTRY_BYTES) as u64;
/// Bytes before the entries of a block, and before the key of an entry.
const BLOCK_HEAD_BYTES: usize = 32;
const ENTRY_HEAD_BYTES: usize = 16;

/// Why an image was not written, or cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    /// The file cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// There is no memory for an entry.
    #[error("out of memory")]
    Memory(#[from] TryReserveError),
    /// It begins otherwise than an image does.
    #[error("the file is no image of a cache")]
    NoImage,
    /// Another release wrote it.
    #[error("the image has format {found}, this release knows format {known}")]
    Version { found: u32, known: u32 },
    /// The file ends too early, or some of its bytes are not those that were written.
    #[error("the file is damaged at byte {at}: {what}")]
    Damaged { at: u64, what: &'static str },
    /// Whoever asked for it has asked to stop.
    #[error("interrupted")]
    Interrupted,
}

/// What a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
enum BlockKind {
    Entries = 1,
    End = 2,
}

/// What stands before the bytes of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct BlockHead {
    bytes: u64,
    entries: u32,
    kind: u32,
    checksum: u64,
}

impl BlockHead {
    fn encode(&self, seed: u64) -> [u8; BLOCK_HEAD_BYTES] {
        let mut head = [0; BLOCK_HEAD_BYTES];
        head[..8].copy_from_slice(&self.bytes.to_le_bytes());
        head[8..12].copy_from_slice(&self.entries.to_le_bytes());
        head[12..16].copy_from_slice(&self.kind.to_le_bytes());
        head[16..24].copy_from_slice(&self.checksum.to_le_bytes());
        let checksum = xxh3_64_with_seed(&head[..24], seed);
        head[24..].copy_from_slice(&checksum.to_le_bytes());
        head
    }

    /// `None` if its checksum is wrong.
    fn decode(head: &[u8; BLOCK_HEAD_BYTES], seed: u64) -> Option<BlockHead> {
        let long = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
        let short = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
        let is_right = long(24) == xxh3_64_with_seed(&head[..24], seed);
        is_right.then(|| BlockHead { bytes: long(0), entries: short(8), kind: short(12), checksum: long(16) })
    }
}

/// What the checksums of a block are seeded with.
fn block_seed(number: u64, place: u64) -> u64 {
    number ^ place.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// What an image holds, as its end says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct ImageTotals {
    blocks: u64,
    entries: u64,
    bytes: u64,
}

impl ImageTotals {
    const BYTES: usize = 24;

    fn encode(&self) -> [u8; ImageTotals::BYTES] {
        let mut bytes = [0; ImageTotals::BYTES];
        let words = [self.blocks, self.entries, self.bytes];
        bytes.chunks_exact_mut(8).zip(words).for_each(|(to, word)| to.copy_from_slice(&word.to_le_bytes()));
        bytes
    }
}

impl<L: Locks> SharedCache<L> {
    /// How often a key has got a value, got another or lost it. Where it is the same before and after, the cache has held the
    /// same keys with the same values all the time.
    pub(crate) fn change_count(&self) -> u64 {
        let stats = self.stats();
        [stats.inserts, stats.updates, stats.evictions, stats.removals, stats.expirations, stats.resets]
            .into_iter()
            .fold(0, u64::wrapping_add)
    }
}

#[cfg(test)]
mod tests;
