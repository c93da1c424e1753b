//! What every participant does with the cache. All use the same keys; every value names the key it belongs to, and its
//! length and filler follow from what it says, so that a torn or misplaced one shows.

use pg_shared_lru::{Locks, SharedCache};

const HEAD_BYTES: usize = 16;

fn value(key: u64, writer: u64) -> Vec<u8> {
    let mut value = Vec::new();
    value.extend_from_slice(&key.to_le_bytes());
    value.extend_from_slice(&writer.to_le_bytes());
    value.resize(HEAD_BYTES + ((key * 37 + writer * 11) % 700) as usize, (key ^ writer) as u8);
    value
}

/// Whether a value is one that some participant stored under this key, whole.
pub fn proves_itself(key: &[u8], bytes: &[u8]) -> bool {
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
    key.len() == 8 && bytes.len() >= HEAD_BYTES && {
        let (of, writer) = (number(&bytes[..8]), number(&bytes[8..HEAD_BYTES]));
        number(key) == of && bytes == value(of, writer)
    }
}

/// Puts and gets every key so many times, and counts the values that were not right.
pub fn work<L: Locks>(cache: &SharedCache<L>, participant: u64, keys: u64, rounds: u64) -> u64 {
    let mut wrong = 0;
    let mut out = Vec::new();
    for round in 0..rounds {
        for key in 0..keys {
            let bytes = key.to_le_bytes();
            let right = match (participant + key + round) % 4 {
                0 if round > 0 => !cache.get(&bytes, &mut out) || proves_itself(&bytes, &out),
                1 if round > 0 => cache.with(&bytes, |value| proves_itself(&bytes, value)).unwrap_or(true),
                _ => cache.put(&bytes, &value(key, participant * 1000 + round)).is_ok(),
            };
            wrong += u64::from(!right);
        }
        pgrx::check_for_interrupts!();
    }
    wrong
}
