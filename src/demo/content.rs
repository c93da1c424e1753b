//! Values that prove what they are: a neighbour list whose every byte follows from its key, its length and the write
//! that made it.

use anyhow::{Context, Result, ensure};

const NEIGHBOUR_BYTES: usize = 12;
const HEADER_BYTES: usize = 9;

/// The value that write number `write` gives to `key`, with so many neighbours.
pub fn value(key: u32, write: u32, neighbours: u8) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + usize::from(neighbours) * NEIGHBOUR_BYTES);
    bytes.extend_from_slice(&key.to_le_bytes());
    bytes.extend_from_slice(&write.to_le_bytes());
    bytes.push(neighbours);
    let mut state = u64::from(key) << 32 | u64::from(write);
    for _ in 0..neighbours {
        // Any sequence does that differs from write to write; this is Knuth's linear congruential generator (MMIX).
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&state.to_le_bytes());
        bytes.extend_from_slice(&(state >> 32).to_le_bytes()[..4]);
    }
    bytes
}

/// Checks a value byte for byte and returns which write made it.
pub fn check(key: u32, bytes: &[u8]) -> Result<u32> {
    let header = bytes.get(..HEADER_BYTES).with_context(|| format!("key {key}: a value of {} bytes", bytes.len()))?;
    let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
    let (found_key, write, neighbours) = (word(0), word(4), header[8]);
    ensure!(found_key == key, "key {key}: the value belongs to key {found_key}");
    ensure!(bytes == value(key, write, neighbours), "key {key}: the value of write {write} is damaged");
    Ok(write)
}
