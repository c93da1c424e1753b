//! How many bytes and slots a key and a value take, and what lies where in a slot; `payload` has the drawing.
//!
//! Not here: the slots themselves (`payload`), which slot sizes exist (`slab::class`).

use crate::engine::limits::SLOT_ALIGN_BYTES;
use crate::engine::memory::words::Word64;
use crate::engine::moment::Moment;

/// Bytes before the key in the slot of a value that lies in one.
pub const HEADER_BYTES: usize = 8;
/// As [`HEADER_BYTES`], of a value that is chained over several.
pub(super) const CHAINED_HEADER_BYTES: usize = 16;
/// Bytes of the moment at which an entry expires, behind a value that lies in one slot.
pub const MOMENT_BYTES: usize = 4;

/// Bytes that a key takes before its value.
#[inline]
pub const fn padded(key_len: usize) -> usize {
    key_len.next_multiple_of(SLOT_ALIGN_BYTES as usize)
}

/// The word, counted from the value's start, that has the moment behind a value of so many bytes, and which half of it.
#[inline]
pub(super) const fn place_of_moment(value_len: usize) -> (usize, usize) {
    let offset = value_len.next_multiple_of(MOMENT_BYTES);
    (offset / 8, offset % 8 / MOMENT_BYTES)
}

/// The moment behind a value, given the words from the value's start on; `None` if they end before. Safe beside writers.
#[inline]
pub fn moment_behind(value: &[Word64], value_len: usize) -> Option<Moment> {
    let (word, half) = place_of_moment(value_len);
    let bytes = value.get(word)?.get().to_ne_bytes();
    let (first, second) = bytes.split_first_chunk::<MOMENT_BYTES>()?;
    let bytes = if half == 0 { *first } else { second.try_into().ok()? };
    Some(Moment(u32::from_ne_bytes(bytes)))
}

/// The bytes of what an entry stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lengths {
    /// Of the key.
    pub key: usize,
    /// Of the value.
    pub value: usize,
    /// Of the moment at which the entry expires: [`MOMENT_BYTES`], or 0 if it does not.
    pub moment: usize,
}

impl Lengths {
    /// Those of a key and a value of so many bytes.
    #[inline]
    pub fn new(key: usize, value: usize, expires: Option<Moment>) -> Lengths {
        Lengths { key, value, moment: if expires.is_some() { MOMENT_BYTES } else { 0 } }
    }

    /// Whether the entry expires.
    #[inline]
    pub fn expires(self) -> bool {
        self.moment > 0
    }

    /// All together: what counts against the largest entry.
    #[inline]
    pub fn entry_bytes(self) -> usize {
        self.key + self.value + self.moment
    }
}

/// How a key and a value are laid out in slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadShape {
    /// One slot of at least `bytes`.
    Single {
        /// Header, key, padding, value, and the moment at which the entry expires.
        bytes: usize,
    },
    /// A full slot of the largest class, then continuations.
    Chained {
        /// Header, key, padding and value in the first slot.
        head_bytes: usize,
        /// Bytes of the value in the first slot.
        first_part: usize,
        /// Bytes of the value in a full continuation.
        part: usize,
    },
}

impl PayloadShape {
    /// The shape of an entry, given the largest slot.
    #[inline]
    pub fn of(lengths: Lengths, largest_slot: usize) -> PayloadShape {
        let bytes = HEADER_BYTES + padded(lengths.key) + lengths.value + lengths.moment;
        if bytes <= largest_slot {
            return PayloadShape::Single { bytes };
        }
        let first_part = largest_slot - CHAINED_HEADER_BYTES - padded(lengths.key);
        PayloadShape::Chained { head_bytes: largest_slot, first_part, part: largest_slot - HEADER_BYTES }
    }

    /// The longest key, given the largest slot: the first slot of a chain holds all of it.
    pub fn most_key_bytes(largest_slot: usize) -> usize {
        largest_slot - CHAINED_HEADER_BYTES
    }

    /// The most slots that an entry of `entry_bytes` ([`Lengths::entry_bytes`]) can take.
    pub fn most_slots(entry_bytes: usize, largest_slot: usize) -> usize {
        let overhead = CHAINED_HEADER_BYTES + SLOT_ALIGN_BYTES as usize;
        (entry_bytes + overhead).div_ceil(largest_slot - HEADER_BYTES)
    }

    /// Bytes that an entry of this shape stores in its first slot.
    #[inline]
    pub fn first_slot_bytes(self) -> usize {
        match self {
            PayloadShape::Single { bytes } => bytes,
            PayloadShape::Chained { head_bytes, .. } => head_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_holds_the_key_and_the_whole_value() {
        for largest in [256, 504, 2040] {
            for key_len in [0, 1, 8, 100] {
                for (value_len, expires) in (0..5000).flat_map(|len| [(len, None), (len, Some(Moment(7)))]) {
                    let lengths = Lengths::new(key_len, value_len, expires);
                    let slots = match PayloadShape::of(lengths, largest) {
                        PayloadShape::Single { bytes } => {
                            let without = HEADER_BYTES + padded(key_len) + value_len;
                            assert!(bytes <= largest && bytes == without + lengths.moment);
                            let (word, half) = place_of_moment(value_len);
                            let end = HEADER_BYTES + padded(key_len) + 8 * word + MOMENT_BYTES * (half + 1);
                            assert!(!lengths.expires() || end <= bytes.next_multiple_of(8), "in the same slot");
                            1
                        }
                        PayloadShape::Chained { head_bytes, first_part, part } => {
                            assert_eq!(head_bytes, CHAINED_HEADER_BYTES + padded(key_len) + first_part);
                            assert_eq!((head_bytes, part), (largest, largest - HEADER_BYTES));
                            assert!(value_len > first_part);
                            1 + (value_len - first_part).div_ceil(part)
                        }
                    };
                    assert!(slots <= PayloadShape::most_slots(lengths.entry_bytes(), largest).max(1));
                }
            }
        }
    }
}
