//! Why an operation of a builder cache, or its drain, failed.

use crate::adapters::codec::DecodeError;
use crate::engine::outcomes::PushError;

/// Why an operation failed. The cache and the store have lost nothing by it, but for [`BuilderError::Lost`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuilderError<E> {
    /// The entry is too large for the cache.
    #[error(transparent)]
    Push(#[from] PushError),
    /// Bytes do not decode.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The store failed.
    #[error("the store behind the cache: {0}")]
    Store(E),
    /// Everything that could make room is in other workers' hands, and this one cannot wait, or has waited in vain.
    #[error(
        "no room for an entry of {bytes} bytes: {writes} entries are being written back, {loads} loaded and {pins} read; \
         give the cache more memory or use fewer workers"
    )]
    Backlog {
        /// Key and value of the entry.
        bytes: usize,
        /// Entries being written back.
        writes: u64,
        /// Keys being loaded.
        loads: u64,
        /// Entries pinned.
        pins: u64,
    },
    /// A worker died in the middle of a change, and entries were lost for it. Whether the key had one is not known.
    #[error("a worker died in the middle of a change: entries are lost, and so is what is being built from them")]
    Lost,
}

/// Why a drain stopped. What was not handed out is still in the cache.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DrainError<E> {
    /// Bytes do not decode.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Whoever was given the entries failed.
    #[error("{0}")]
    Taker(E),
    /// Some worker is not done.
    #[error("{writes} entries are being written back and {loads} loaded: drain when the workers are done")]
    InUse {
        /// Entries being written back.
        writes: u64,
        /// Keys being loaded.
        loads: u64,
    },
    /// Some worker is not done: it has stored something meanwhile. The entries are there for another drain.
    #[error("{0} entries were stored or changed during the drain: drain when the workers are done")]
    Changed(u64),
    /// A worker died in the middle of a change, and entries were lost for it.
    #[error("a worker died in the middle of a change: entries are lost, and so is what was built from them")]
    Lost,
}
