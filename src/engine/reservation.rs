//! What is asked of `reclaim`, and what it answers: how room may be made, why there is none, and memory that is reserved
//! over several steps.

use super::entry::lengths::Lengths;
use super::entry::record::Pin;
use super::evicted::OnEvict;
use super::ids::EntryIndex;
use super::moment::Now;
use super::work::Work;

/// How room may be made.
pub(super) struct Reclaim<'a, 'e> {
    pub(super) on_evict: OnEvict<'e>,
    /// By which what has expired is told from what is evicted.
    pub(super) now: Now<'a>,
    pub(super) work: &'a mut Work,
    /// Must not be evicted: its value is being replaced.
    pub(super) spared: Option<EntryIndex>,
}

impl<'a, 'e> Reclaim<'a, 'e> {
    pub(super) fn new(on_evict: OnEvict<'e>, now: Now<'a>, work: &'a mut Work) -> Self {
        Reclaim { on_evict, now, work, spared: None }
    }
}

/// Why there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoRoom {
    /// All entries are pinned or leased, or the directory's generations are used up.
    Pinned,
    /// Nothing may be evicted.
    Forbidden,
    /// This dirty entry is next.
    Dirty(EntryIndex),
    /// The lock has been held long enough.
    OutOfWork,
    /// A large entry was evicted, and must be copied before its memory is free.
    CopyFirst(Pin),
    /// The system gave no memory for an evicted entry.
    OutOfMemory,
}

/// A record and slots for a value that is being stored in several steps; pinned by whoever stores it.
#[derive(Clone, Copy, Debug)]
pub struct Reservation {
    pub(super) pin: Pin,
    /// The last part so far.
    pub(super) last: EntryIndex,
    /// Bytes of the value that have no slot yet.
    pub(super) bytes_left: usize,
    pub(super) lengths: Lengths,
}

impl Reservation {
    /// The pin that keeps it.
    pub fn pin(&self) -> Pin {
        self.pin
    }
}
