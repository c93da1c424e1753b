//! The few words of a region whose place these tests know. All else goes through the cache's own functions.
//!
//! Who changes the layout of a region adapts this file and no other of this test.

use pg_shared_lru::engine::header::forge;
use pg_shared_lru::engine::layout::Layout;
use pg_shared_lru::{Locks, SharedCache};

fn word64(region: &[u8], offset: usize) -> u64 {
    u64::from_ne_bytes(region[offset..offset + 8].try_into().expect("eight bytes"))
}

fn set_word64(region: &mut [u8], offset: usize, word: u64) {
    region[offset..offset + 8].copy_from_slice(&word.to_ne_bytes());
}

/// Where the first partition's sequence number lies: first in the partition.
const SEQUENCE: usize = Layout::REGION_HEAD_BYTES;

/// Whether the first partition was left in the middle of a change.
pub fn is_marked_damaged(region: &[u8]) -> bool {
    word64(region, SEQUENCE) % 2 == 1
}

/// Leaves the first partition as a process does that is killed at the very start of a change.
pub fn mark_damaged(region: &mut [u8]) {
    let sequence = word64(region, SEQUENCE);
    set_word64(region, SEQUENCE, sequence | 1);
}

/// Gives a region that holds no entry yet another seed of its hashes, so that the same test has the same buckets in
/// every run.
pub fn fix_hash_seed(region: &mut [u8], seed: u64) {
    forge_header_word(region, forge::HASH_SEED, seed);
}

/// Bytes of the region's header.
pub const HEADER_BYTES: usize = forge::BYTES;

/// Writes a word of the region's header as its owner would: no check of the header as a whole finds it.
pub fn forge_header_word(region: &mut [u8], offset: usize, word: u64) {
    set_word64(region, offset, word);
    let checksum = forge::checksum(region);
    set_word64(region, forge::CHECKSUM, checksum);
}

/// The numbers by which links name what lies at this offset of the region: as a record, as a slot, and as a slab.
pub fn names_of<L: Locks>(cache: &SharedCache<L>, offset: usize) -> [u32; 3] {
    let layout = cache.layout();
    let partition = offset.saturating_sub(Layout::REGION_HEAD_BYTES) / layout.geometry.partition_bytes;
    let within = offset.saturating_sub(layout.slabs_offset(partition as u32));
    let slab = within / layout.geometry.slab_bytes as usize;
    [(within / 32) as u32, (within / 8) as u32, slab as u32 + 1]
}
