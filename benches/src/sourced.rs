//! Values that say of what they were made, so that one which is out of date is found out, too.
//!
//! ```text
//! ┌──────┬───────┬────────┬──────────┬─────────────────┐
//! │ item │ group │ length │ deadline │ mark and window │   versions of the row and of its group; the whole length;
//! └──────┴───────┴────────┴──────────┴─────────────────┘   milliseconds after which it must be gone (0: never)
//!   4      4       4        8          `testkit::content`, by key and head
//! ```
//!
//! Invariant: a check compares every byte, and a value made for another key or with another head fails.

use testkit::content::Written;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Bytes that no value can do without.
pub const HEAD_BYTES: usize = 20;

/// Of what a value was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// The version of the row.
    pub item: u32,
    /// The version of the group that the row is of.
    pub group: u32,
    /// After which moment nobody may be given the value; 0: it stays.
    pub deadline_ms: u64,
}

impl Source {
    /// A value for a key, of as many bytes, but at least [`HEAD_BYTES`].
    pub fn value(self, key: u32, len: usize) -> Vec<u8> {
        let len = len.max(HEAD_BYTES);
        let mut value = Vec::with_capacity(len);
        value.extend_from_slice(&self.item.to_le_bytes());
        value.extend_from_slice(&self.group.to_le_bytes());
        value.extend_from_slice(&(len as u32).to_le_bytes());
        value.extend_from_slice(&self.deadline_ms.to_le_bytes());
        let mut rest = Vec::new();
        rest_of(key, &value, len).build(&mut rest);
        value.extend_from_slice(&rest);
        value
    }

    /// Of what a key's value was made, once every byte is as it must be.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(key: u32, value: &[u8]) -> Result<Source, String> {
        let Some((head, rest)) = value.split_at_checked(HEAD_BYTES) else {
            return Err(format!("key {key}: a value of {} bytes has no head", value.len()));
        };
        let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
        let len = word(8) as usize;
        if len != value.len() {
            return Err(format!("key {key}: a value of {len} bytes was stored, {} were read", value.len()));
        }
        rest_of(key, head, len).check(rest).map_err(|mismatch| format!("key {key}: {mismatch}"))?;
        let deadline_ms = u64::from_le_bytes(head[12..].try_into().expect("eight bytes"));
        Ok(Source { item: word(0), group: word(4), deadline_ms })
    }
}

/// What stands behind a head.
fn rest_of(key: u32, head: &[u8], len: usize) -> Written {
    Written { key: xxh3_64_with_seed(head, u64::from(key)), write: key, len: (len - HEAD_BYTES) as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_tells_of_what_it_was_made_and_no_byte_can_be_another() {
        let source = Source { item: 3, group: 9, deadline_ms: 70_000 };
        for len in [0, HEAD_BYTES, HEAD_BYTES + 8, 700] {
            let value = source.value(5, len);
            assert_eq!(value.len(), len.max(HEAD_BYTES));
            assert_eq!(Source::check(5, &value), Ok(source));
        }
        let value = source.value(5, 100);
        assert!(Source::check(6, &value).is_err());
        for at in 0..value.len() {
            let mut changed = value.clone();
            changed[at] ^= 1;
            assert!(Source::check(5, &changed).is_err(), "byte {at}");
        }
        assert!(Source::check(5, &value[..99]).is_err());
        assert!(Source::check(5, &value[..3]).is_err());
    }
}
