//! How many buckets there are, and which one is a hash's.
//!
//! Linear hashing (Litwin, "Linear Hashing: A New Tool for File and Table Addressing", VLDB 1980). With `n` buckets, a
//! hash's bucket is the hash modulo the power of two at or above `n`; if there is no such bucket yet, the highest bit is
//! left out. So a bucket that is added takes over from one other alone, its *sibling*.
//!
//! Not here: where buckets lie, and when there is another (`table`).

use crate::engine::hash::KeyHash;
use crate::engine::ids::BucketIndex;

/// How many buckets there are, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableShape(pub(super) u64);

impl TableShape {
    const ONE_VERSION: u64 = 1 << 32;

    /// Number of buckets.
    #[inline(always)]
    pub fn bucket_count(self) -> u32 {
        self.0 as u32
    }

    /// Whether entries are being moved between buckets.
    #[inline]
    pub(super) fn is_changing(self) -> bool {
        self.0 & Self::ONE_VERSION != 0
    }

    /// The bucket of a hash.
    #[inline(always)]
    pub(super) fn bucket_of(self, hash: KeyHash) -> BucketIndex {
        // Of a damaged table with no bucket, the first: what is looked up there fails by the bounds of the region.
        let last = self.bucket_count().wrapping_sub(1);
        let mask = u32::MAX.checked_shr(last.leading_zeros()).unwrap_or(0);
        let bucket = hash.bucket_bits() & mask;
        BucketIndex(if bucket <= last { bucket } else { bucket & mask >> 1 })
    }

    /// The bucket whose entries a bucket shares with its sibling before it exists.
    pub(super) fn sibling(bucket: u32) -> BucketIndex {
        BucketIndex(bucket & !(1 << bucket.ilog2()))
    }

    pub(super) fn begin_change(self) -> TableShape {
        TableShape(self.0.wrapping_add(Self::ONE_VERSION) | Self::ONE_VERSION)
    }

    pub(super) fn end_change(self, bucket_count: u32) -> TableShape {
        let next = self.0.wrapping_add(Self::ONE_VERSION) & !Self::ONE_VERSION & !u64::from(u32::MAX);
        TableShape(next | u64::from(bucket_count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_that_is_added_takes_over_from_its_sibling_alone() {
        let mut random = 1u64;
        for count in 1..300u32 {
            let (before, after) = (TableShape(u64::from(count)), TableShape(u64::from(count) + 1));
            for _ in 0..200 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let (old, new) = (before.bucket_of(KeyHash(random)), after.bucket_of(KeyHash(random)));
                assert!(old.0 < count);
                assert!(new == old || (new.0 == count && old == TableShape::sibling(count)), "{old:?} {new:?}");
            }
        }
    }
}
