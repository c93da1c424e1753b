//! What a lookup will touch, fetched ahead.
//!
//! A lookup in a large cache waits for memory three times: for the bucket, the record and the slot, each known only from
//! the one before. Whoever looks many keys up takes these steps for all of them together, so that the waits overlap.
//!
//! Hints only, and without a lock: what is read here to find the next step may be anything, and leads to a prefetch
//! of something in the partition or to none.

use super::ids::Location;
use super::partition::{Key, Partition};

/// The key and the start of the value; the processor goes on by itself where a value is read from start to end.
const SLOT_LINES: usize = 2;
const LINE_BYTES: usize = 64;

impl Partition {
    /// Fetches a key's bucket.
    #[inline]
    pub fn prefetch_bucket(&self, key: Key<'_>) {
        self.region.prefetch(self.layout.bucket_offset(self.bucket_of(key)));
    }

    /// Fetches the records that the key may have, as its bucket says.
    #[inline]
    pub fn prefetch_records(&self, key: Key<'_>) {
        for entry in self.bucket(self.bucket_of(key)).likely(key.tag()) {
            self.region.prefetch(self.layout.record_offset(entry));
        }
    }

    /// Fetches the slots that the key may have, as these records say.
    #[inline]
    pub fn prefetch_slots(&self, key: Key<'_>) {
        for entry in self.bucket(self.bucket_of(key)).likely(key.tag()) {
            if let Some(record) = self.record_if_any(entry) {
                let slot = record.location().usize() * Location::UNIT_BYTES;
                (0..SLOT_LINES).for_each(|line| self.region.prefetch(slot + line * LINE_BYTES));
            }
        }
    }
}
