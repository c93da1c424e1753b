//! One token for a key's value as somebody read it.

use crate::engine::entry::record::Stamp;
use crate::engine::ids::EntryIndex;
use crate::engine::moment::Moment;

/// Names a key's value, or its absence, as it was read.
///
/// In a cache without a store behind it, a version is current until the value is replaced, removed or evicted, or expires. In front
/// of a store it stays valid while the key keeps the value it was read with, in the cache or in the store: while the
/// entry is cached, its stamp decides; after eviction, a count of changed values does, which the key shares with others
/// of its partition. So another key's change may make a version stale, but never a change make it valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Version {
    /// The record, or none for an absent key.
    pub(crate) entry: EntryIndex,
    /// The record's stamp when the value was read.
    pub(crate) stamp: Stamp,
    /// The count of changes that the key shares with others.
    pub(crate) changes: u32,
    /// The partition.
    pub(crate) partition: u32,
    /// When the value expires, if its stamp says that it does.
    pub(crate) expires: Moment,
}

impl Version {
    /// The version of a value as two numbers, to be kept elsewhere.
    pub fn to_words(self) -> [u64; 2] {
        [self.stamp.to_u64(), u64::from(self.partition) << 32 | u64::from(self.entry.0)]
    }

    /// The inverse of [`Version::to_words`], for [`SharedCache::put_if_version`] and [`SharedCache::discard_version`]. Any
    /// numbers do; those that were made up name no value.
    ///
    /// [`SharedCache::put_if_version`]: crate::SharedCache::put_if_version
    /// [`SharedCache::discard_version`]: crate::SharedCache::discard_version
    pub fn from_words([stamp, place]: [u64; 2]) -> Version {
        Version {
            entry: EntryIndex(place as u32),
            stamp: Stamp::from_u64(stamp),
            changes: 0,
            partition: (place >> 32) as u32,
            expires: Moment::default(),
        }
    }

    /// The partition of the key.
    pub(crate) fn partition(&self) -> usize {
        self.partition as usize
    }

    /// Whether the value has expired; `now` is asked only if it does expire.
    #[inline(always)]
    pub(crate) fn has_expired(&self, now: impl FnOnce() -> Moment) -> bool {
        self.stamp.expires() && self.expires.has_come(now())
    }
}
