//! Keys and values that prove themselves: every byte of a value follows from the key's number, a version and the length.
//!
//! Two kinds of values. A [`Written`] one is known to who checks it, from its first byte:
//!
//! ```text
//! | mark: 8 bytes, hash of key and version | window of a fixed random pattern, at a place the mark chooses |
//! ```
//!
//! A value of [`value`] carries what it is, so that who checks it need know its key alone:
//!
//! ```text
//! key    ┌────────┬──────────────────────────────┐
//!        │ number │ padding, 0 to 28 bytes       │
//!        └────────┴──────────────────────────────┘
//! value  ┌─────────┬────────┬────────────────────┐      values under 8 bytes: marked and patterned alone, and the
//!        │ version │ length │ mark and window    │      version is the length
//!        └─────────┴────────┴────────────────────┘
//! ```
//!
//! Invariants: building a value is one copy, so that it weighs little in a timed loop. A check compares every byte.
//!
//! Limit: a value shorter than its mark has only that much of it to tell it from another.

use std::fmt;

const MARK_BYTES: usize = size_of::<u64>();
/// Version and length.
const HEAD_BYTES: usize = 2 * size_of::<u32>();

/// Windows begin anywhere in this many bytes: enough to tell values apart, few enough to stay in a processor's cache.
const WINDOW_STARTS: usize = 1 << 14;
/// The pattern's period behind that: a longer value repeats it.
const WINDOW_BYTES: usize = 1 << 16;

/// Made when this is compiled, so that a process which lives for microseconds need not make it.
static PATTERN: [u8; WINDOW_STARTS + WINDOW_BYTES] = {
    let mut bytes = [0; WINDOW_STARTS + WINDOW_BYTES];
    let mut random = Random(0);
    let mut at = 0;
    while at < bytes.len() {
        bytes[at] = (random.next() >> 56) as u8;
        at += 1;
    }
    bytes
};

/// A small random generator (SplitMix64, by Sebastiano Vigna): the same numbers for the same seed.
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// A length of a value, 0 to 6000: small ones, ones of a slot or two, and chained ones.
    pub fn value_len(&mut self) -> usize {
        match self.below(16) {
            0..=1 => self.below(9),
            2..=8 => self.below(300),
            9..=13 => 300 + self.below(1700),
            _ => 2000 + self.below(4001),
        }
    }
}

const fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

/// Names one value: which key, which version of it, how long.
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

impl std::error::Error for Mismatch {}

impl Written {
    /// Puts the value into `out`, in place of what is there.
    pub fn build(self, out: &mut Vec<u8>) {
        out.clear();
        self.append(out);
    }

    fn append(self, out: &mut Vec<u8>) {
        self.parts().for_each(|part| out.extend_from_slice(part.as_ref()));
    }

    /// Compares every byte of `value` with what it must be.
    ///
    /// # Errors
    /// The first difference.
    pub fn check(self, value: &[u8]) -> Result<(), Mismatch> {
        let mismatch = |found| Mismatch { written: self, found };
        if value.len() != self.len as usize {
            return Err(mismatch(Found::Length(value.len())));
        }
        let mut at = 0;
        for part in self.parts() {
            let part = part.as_ref();
            let found = &value[at..at + part.len()];
            if found != part {
                let differs = found.iter().zip(part).position(|(found, expected)| found != expected);
                return Err(mismatch(Found::ByteAt(at + differs.unwrap_or(0))));
            }
            at += part.len();
        }
        Ok(())
    }

    /// The mark, and then the window, which is one part unless the value is very long.
    fn parts(self) -> impl Iterator<Item = Part> {
        let mark = mix(mix(self.key).wrapping_add(u64::from(self.write)));
        let mark_bytes = MARK_BYTES.min(self.len as usize);
        let start = mark as usize % WINDOW_STARTS;
        let mut left = self.len as usize - mark_bytes;
        let window = std::iter::from_fn(move || {
            let bytes = left.min(WINDOW_BYTES);
            left -= bytes;
            (bytes > 0).then(|| Part::Window(&PATTERN[start..start + bytes]))
        });
        std::iter::once(Part::Mark(mark.to_le_bytes(), mark_bytes)).chain(window)
    }
}

enum Part {
    Mark([u8; MARK_BYTES], usize),
    Window(&'static [u8]),
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        match self {
            Part::Mark(mark, bytes) => &mark[..*bytes],
            Part::Window(window) => window,
        }
    }
}

/// The key with this number.
pub fn key(number: u32) -> Vec<u8> {
    let mut bytes = number.to_be_bytes().to_vec();
    bytes.resize(4 + number as usize % 29, number as u8 ^ 0x5a);
    bytes
}

/// The number of a key that [`key`] made.
pub fn number_of(bytes: &[u8]) -> Option<u32> {
    let number = u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?);
    (key(number) == bytes).then_some(number)
}

/// A value for the key with this number, which carries version and length if it has room for them.
pub fn value(number: u32, version: u32, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len);
    let (head_bytes, version) = if len < HEAD_BYTES { (0, len as u32) } else { (HEAD_BYTES, version) };
    if head_bytes > 0 {
        bytes.extend_from_slice(&version.to_le_bytes());
        bytes.extend_from_slice(&(len as u32).to_le_bytes());
    }
    Written { key: u64::from(number), write: version, len: (len - head_bytes) as u32 }.append(&mut bytes);
    bytes
}

/// Compares every byte of a value that [`value`] made for the key with this number, and returns its version.
///
/// # Errors
/// The first difference.
pub fn check_value(number: u32, value: &[u8]) -> Result<u32, Mismatch> {
    let key = u64::from(number);
    if value.len() < HEAD_BYTES {
        let len = value.len() as u32;
        return Written { key, write: len, len }.check(value).map(|()| len);
    }
    let (head, rest) = value.split_at(HEAD_BYTES);
    let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
    let (version, len) = (word(0), word(4));
    if len as usize != value.len() {
        return Err(Mismatch { written: Written { key, write: version, len }, found: Found::Length(value.len()) });
    }
    Written { key, write: version, len: rest.len() as u32 }.check(rest).map(|()| version)
}

/// Panics unless `key` and `value` are whole and belong together.
pub fn check(key: &[u8], value: &[u8]) {
    let number = number_of(key).unwrap_or_else(|| panic!("no key: {key:?}"));
    check_value(number, value).unwrap_or_else(|mismatch| panic!("{mismatch}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_checks_against_itself_only() {
        let mut value = Vec::new();
        for len in [0, 1, 7, 8, 9, 700, 200_000] {
            let written = Written { key: 5, write: 2, len };
            written.build(&mut value);
            assert_eq!(value.len(), len as usize);
            assert_eq!(written.check(&value), Ok(()));
            if len > 0 {
                for other in [Written { key: 6, ..written }, Written { write: 3, ..written }] {
                    assert!(other.check(&value).is_err(), "{other:?}");
                }
                let last = value.len() - 1;
                value[last] ^= 1;
                let text = written.check(&value).unwrap_err().to_string();
                assert!(text.contains(&format!("byte {last} ")), "{text}");
                value.pop();
                assert!(written.check(&value).is_err());
            }
        }
    }

    #[test]
    fn a_value_that_carries_its_version_is_no_other_keys_and_no_other_length() {
        for len in [0, 3, 7, 8, 15, 16, 17, 6000] {
            let mut bytes = value(9, 4, len);
            assert_eq!(bytes.len(), len);
            assert_eq!(check_value(9, &bytes), Ok(if len < 8 { len as u32 } else { 4 }));
            assert_eq!(check_value(10, &bytes).is_ok(), len == 0 || len == 8, "length {len}");
            if len > 8 {
                bytes.pop();
                assert!(check_value(9, &bytes).is_err());
            }
        }
        let stored = (key(40), value(40, 1, 100));
        check(&stored.0, &stored.1);
        assert_eq!((number_of(&stored.0), number_of(b"12")), (Some(40), None));
    }
}
