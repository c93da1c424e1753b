//! A key's hash, and what each of its bits is for.
//!
//! ```text
//! bit   0                              32        38       46  48              64
//!       ┌──────────────────────────────┬─────────┬────────┬───┬────────────────┐
//!       │ bucket, ghost line           │partition│ tag    │   │ fingerprint    │
//!       └──────────────────────────────┴─────────┴────────┴───┴────────────────┘
//!                                                                   58 ─ 64: change stripe
//! ```
//!
//! The stripe shares its bits with the fingerprint: they serve different tables, which do not compare them.

/// XXH3 with 64 bits, by Yann Collet, seeded by the region's header: the same in every process.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct KeyHash(pub u64);

impl KeyHash {
    /// The hash of a key.
    #[inline]
    pub fn of(key: &[u8], seed: u64) -> KeyHash {
        KeyHash(xxhash_rust::xxh3::xxh3_64_with_seed(key, seed))
    }

    /// The bits that choose a bucket.
    #[inline]
    pub fn bucket_bits(self) -> u32 {
        self.0 as u32
    }

    /// The partition that the key belongs to; `partition_count` is a power of two.
    #[inline]
    pub fn partition(self, partition_count: u32) -> usize {
        (self.0 >> 32) as usize & (partition_count as usize - 1)
    }

    /// The tag that stands for the key in its bucket.
    #[inline]
    pub fn tag(self) -> u8 {
        (self.0 >> 38) as u8
    }

    /// What a ghost is known by; never 0.
    #[inline]
    pub fn fingerprint(self) -> u32 {
        ((self.0 >> 48) as u32).max(1)
    }

    /// Which of `stripe_count` counts of changes the key shares; a power of two, at most 64.
    #[inline]
    pub fn change_stripe(self, stripe_count: usize) -> usize {
        (self.0 >> 58) as usize & (stripe_count - 1)
    }
}

/// A key with its hash.
#[derive(Clone, Copy, Debug)]
pub struct Key<'a> {
    /// The key.
    pub bytes: &'a [u8],
    /// Its hash with the region's seed.
    pub hash: KeyHash,
}

impl<'a> Key<'a> {
    /// Hashes a key.
    #[inline]
    pub fn new(bytes: &'a [u8], seed: u64) -> Key<'a> {
        Key { bytes, hash: KeyHash::of(bytes, seed) }
    }
}
