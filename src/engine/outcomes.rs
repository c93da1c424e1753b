//! What a partition's operations answer that store values or evict entries.
//!
//! Not here: what concerns leases (`write_back`), and lookups (`partition`).

use super::entry::record::Pin;
use super::evicted::Evicted;
use super::ids::EntryIndex;

/// What a put did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The key is new.
    Inserted,
    /// The key had a value that had not expired, which is replaced.
    Replaced,
}

/// Why a push was refused. The cache is as before, but for entries that were evicted to make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// The key is longer than half of the largest slot (or 65,535 bytes).
    #[error("a key of {bytes} bytes is too long: at most {max} bytes with this slab size")]
    KeyTooLong {
        /// Length of the key.
        bytes: usize,
        /// Longest key.
        max: usize,
    },
    /// Key and value take more than one entry may.
    #[error(
        "an entry of {bytes} bytes (key and value) is too large: at most {max} bytes in this cache, a quarter of a partition; use fewer partitions or more memory"
    )]
    TooLarge {
        /// Length of key plus value, and 4 for the moment at which the entry expires, if it does.
        bytes: usize,
        /// Largest entry.
        max: usize,
    },
    /// No room could be made.
    #[error(
        "no room for an entry of {bytes} bytes: nothing may be evicted, {pinned} entries of the partition are pinned by readers"
    )]
    Full {
        /// Length of key plus value.
        bytes: usize,
        /// Entries that could not be evicted.
        pinned: u32,
    },
    /// The system gave no memory for an entry that must make way and is to be kept.
    #[error("no memory for an evicted entry: store with less at a time, or let evicted entries go")]
    OutOfMemory,
    /// The entry would expire later than a moment can be told: 13.6 years after the cache was created.
    #[error(
        "a time to live of {ttl_seconds} s is too long: at most {max_seconds} s from now on, for 13.6 years after a cache was created its time ends; use none, or create the cache anew"
    )]
    TtlTooLong {
        /// Seconds to live, as asked for.
        ttl_seconds: u64,
        /// The most, at this moment.
        max_seconds: u64,
    },
}

/// Why a call has not done what it was asked for, or not all of it. The partition is whole; what was evicted or moved
/// stays so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfinished {
    /// It will never be done.
    Refused(PushError),
    /// The lock has been held long enough: call again with renewed work.
    OutOfWork,
    /// A large entry was evicted and is kept for the caller, pinned by it: copy it, free it, and call again.
    CopyFirst(Pin),
    /// A dirty entry must be written back first.
    Dirty(EntryIndex),
    /// The next entry has so many bytes of key and value, for which there is no room. It stays.
    NeedsRoom(usize),
}

/// What became of the entry that was next to be evicted, which is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Popped {
    /// There was none.
    Nothing,
    /// It was collected.
    Entry {
        /// Its age.
        age: u32,
    },
    /// It had expired, and was dropped.
    Expired,
}

/// Where an entry goes that is taken out.
#[derive(Debug)]
pub enum Collect<'a> {
    /// Nowhere.
    Nothing,
    /// It is appended.
    Growing(&'a mut Evicted),
    /// It is appended if there is room for it.
    Within(&'a mut Evicted),
}
