//! What a builder cache stands in front of: the consumer's own store.
//!
//! Locking: none of the cache's is held while a store works.

/// Where entries are that do not fit the cache.
///
/// No lock of the cache is held while its methods run: they may take their time, read other caches and raise errors. Of
/// the cache that called them they may read and change other keys; such a call does not wait for other workers.
///
/// The other way round, call the cache while holding no lock that these methods take: it may wait for a worker that is in
/// one of them.
pub trait SpillStore<K, V> {
    /// What can go wrong.
    type Error;

    /// The value of a key, `None` if the store has none.
    ///
    /// # Errors
    ///
    /// The store's own.
    fn load(&mut self, key: &K) -> Result<Option<V>, Self::Error>;

    /// Writes a value back, so that [`SpillStore::load`] finds it, in every worker.
    ///
    /// What is written may be smaller than `value`, as a pruned list is. It must not hold what `value` does not: a worker
    /// that has read `value` before may still replace it with [`compare_push`](super::BuilderCache::compare_push), for
    /// by its version the key has not changed, and what was merged in here would be lost. Merge through
    /// [`modify`](super::BuilderCache::modify) instead.
    ///
    /// # Errors
    ///
    /// The store's own; the entry stays in the cache, as dirty as it was.
    fn spill(&mut self, key: &K, value: V) -> Result<(), Self::Error>;
}
