//! Values whose bytes can be checked.
//!
//! Purpose: a value is a function of (key number, write number, length), so that a benchmark knows what a read must
//! return without keeping a copy, and a stale, torn or foreign value shows.
//!
//! Layout of a value (cut off where it is shorter than 8 bytes):
//!
//! ```text
//! | mark: 8 bytes, hash of key and write number | window of a fixed random pattern, at a place the mark chooses |
//! ```
//!
//! Invariants: building a value is one copy, so that it weighs little in a timed loop. A check compares every byte.
//!
//! Limit: a value shorter than 8 bytes has only that much of its mark to tell it from another.

use std::fmt;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use xxhash_rust::xxh3::xxh3_64_with_seed;

const MARK_BYTES: usize = size_of::<u64>();

/// Windows begin anywhere in this many bytes: enough to tell values apart, few enough to stay in a processor's cache.
const WINDOW_STARTS: usize = 1 << 14;

/// Names one value: which key, which write of it, how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    pub key: u64,
    pub write: u32,
    pub len: u32,
}

/// A value that is not what was written.
#[derive(Debug, PartialEq, Eq)]
pub struct Mismatch {
    written: Written,
    found: Found,
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    Length(usize),
    ByteAt(usize),
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Written { key, write, len } = self.written;
        write!(f, "key {key}: ")?;
        match self.found {
            Found::Length(found) => write!(f, "write {write} had {len} bytes, the read {found}"),
            Found::ByteAt(index) => write!(f, "byte {index} of {len} is not what write {write} stored there"),
        }
    }
}

/// Builds and checks values up to a length fixed at the start.
pub struct Content {
    pattern: Vec<u8>,
}

impl Content {
    /// For values of up to `max_bytes`; holds a little more than that in memory.
    pub fn new(max_bytes: usize) -> Self {
        let mut pattern = vec![0; WINDOW_STARTS + max_bytes];
        SmallRng::seed_from_u64(0).fill_bytes(&mut pattern);
        Content { pattern }
    }

    /// Puts the value that `written` names into `out`, in place of what is there.
    ///
    /// # Panics
    /// The value is longer than the `max_bytes` given at the start.
    pub fn build(&self, written: Written, out: &mut Vec<u8>) {
        let (mark, rest) = self.parts(written);
        out.clear();
        out.extend_from_slice(&mark[..MARK_BYTES.min(written.len as usize)]);
        out.extend_from_slice(rest);
    }

    /// Compares every byte of `value` with what `written` says it must be.
    ///
    /// # Errors
    /// The first difference.
    pub fn check(&self, written: Written, value: &[u8]) -> Result<(), Mismatch> {
        let mismatch = |found| Mismatch { written, found };
        if value.len() != written.len as usize {
            return Err(mismatch(Found::Length(value.len())));
        }
        let (mark, rest) = self.parts(written);
        let (head, tail) = value.split_at(MARK_BYTES.min(value.len()));
        if *head == mark[..head.len()] && tail == rest {
            return Ok(());
        }
        let expected = mark[..head.len()].iter().chain(rest);
        let index = expected.zip(value).position(|(a, b)| a != b);
        Err(mismatch(Found::ByteAt(index.unwrap_or(value.len()))))
    }

    fn parts(&self, written: Written) -> ([u8; MARK_BYTES], &[u8]) {
        let mark = xxh3_64_with_seed(&written.key.to_le_bytes(), u64::from(written.write));
        let start = mark as usize % WINDOW_STARTS;
        let rest_bytes = (written.len as usize).saturating_sub(MARK_BYTES);
        (mark.to_le_bytes(), &self.pattern[start..start + rest_bytes])
    }
}
