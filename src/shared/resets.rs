//! What tells a worker that entries were lost since it began.
//!
//! Locking: the partition's lock in shared mode, for one load.

use super::cache::SharedCache;
use super::lock::Locks;

impl<L: Locks> SharedCache<L> {
    /// Times that each partition was found left half-way by a process that died, and emptied.
    pub fn resets(&self) -> Vec<u64> {
        (0..self.partition_count()).map(|index| self.shared(index, |partition| partition.resets())).collect()
    }

    /// Whether the partition of a key was emptied since [`SharedCache::resets`] said `resets`, because a process died in
    /// the middle of a change of it.
    pub fn is_reset_since(&self, key: &[u8], resets: &[u64]) -> bool {
        let (index, _) = self.key(key);
        self.shared(index, |partition| partition.resets()) != resets[index]
    }
}
