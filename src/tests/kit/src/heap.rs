//! What the heap takes for what a process allocates, as glibc's malloc does it on 64 bits.
//!
//! ```text
//! malloc(n): 8 bytes of its own before n, rounded up to 16, at least 32
//! table:     (pointer pair (16) + control byte (1)) × buckets; buckets are the power of two from 8/7 of the entries up
//! ```
//!
//! What this leaves out flatters caches on the heap: a table may double once more from tombstones, old and new table
//! live together while it grows, and holes between allocations are not seen at all.

const HEADER_BYTES: u64 = 8;
const ALIGN_BYTES: u64 = 16;
const MIN_BYTES: u64 = 32;

/// One slot of hashbrown's table of nodes: two pointers and a control byte.
const TABLE_SLOT_BYTES: u64 = 2 * size_of::<usize>() as u64 + 1;

/// What the heap takes for an allocation of this size.
pub fn malloc_bytes(bytes: usize) -> u64 {
    match bytes {
        0 => 0,
        _ => (bytes as u64 + HEADER_BYTES).next_multiple_of(ALIGN_BYTES).max(MIN_BYTES),
    }
}

/// What the table of the `lru` crate takes that has held up to `entries`; it never shrinks.
pub fn lru_table_bytes(entries: usize) -> u64 {
    let buckets = match entries {
        0 => return 0,
        1..=3 => 4,
        4..=7 => 8,
        _ => (entries * 8 / 7).next_power_of_two(),
    };
    buckets as u64 * TABLE_SLOT_BYTES
}

/// What the `lru` crate's node of this key and value takes, without what the value owns: key, value, two links.
pub fn lru_node_bytes<K, V>() -> u64 {
    malloc_bytes(size_of::<(K, V, [usize; 2])>())
}
