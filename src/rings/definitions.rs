//! Changes of definitions: begun before the commit, ended after other backends can know of them.
//!
//! ```text
//! bit 63                              20                    0
//!     ┌───────────────────────────────┬─────────────────────┐
//!     │ changes, begun and ended      │ begun and not ended │
//!     └───────────────────────────────┴─────────────────────┘
//! ```
//!
//! A change is visible to snapshots before PostgreSQL sends its invalidation messages. In between, a backend with the
//! newest snapshot still plans with the old definition. So the word is raised twice, and between the two nobody learns
//! a number. Who learns one (acquire) and then accepts invalidation messages has all messages of the changes counted in
//! it, for the second raise (release) came after they were sent.
//!
//! Invariants: one transaction begins at most one change in a line, and ends it once, also when it aborts. PostgreSQL
//! has at most 2^18 backends and as many prepared transactions, so the pending ones do not reach the count. A change
//! that is never ended costs the line its use, and serves nothing wrong.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::line::LineWords;
use super::word::SharedWord;

const PENDING_BITS: u32 = 20;
const CHANGE: u64 = 1 << PENDING_BITS;
const PENDING: u64 = CHANGE - 1;

/// How often a line's definitions have changed; compared for equality alone.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Definitions(u64);

impl Definitions {
    /// The word as a number, to be kept with a result.
    pub fn to_u64(self) -> u64 {
        self.0
    }

    /// The inverse of [`Definitions::to_u64`].
    pub fn from_u64(word: u64) -> Definitions {
        Definitions(word)
    }
}

/// Begins a change, before the commit record of who makes it.
pub fn begin_change<const SLOTS: usize, L: LineWords<SLOTS>>(line: &L) {
    // Relaxed: who sees the change by its snapshot has this store through the lock of the array of running
    // transactions. As a read-modify-write it carries on the release of an earlier `end_change`.
    line.definitions().add(CHANGE + 1, Relaxed);
}

/// Ends a change, after its invalidation messages were sent or it was rolled back.
pub fn end_change<const SLOTS: usize, L: LineWords<SLOTS>>(line: &L) {
    // Release: the messages come before it.
    line.definitions().add(CHANGE - 1, Release);
}

/// Makes every number of the line's definitions that anybody has an old one.
pub fn renew<const SLOTS: usize, L: LineWords<SLOTS>>(line: &L) {
    // Release: whoever learns a number that counts this sees what the caller stored before (`switch`).
    line.definitions().add(CHANGE, Release);
}

/// The count alone, pending or not: for people who look, who see it rise.
pub fn changes<const SLOTS: usize, L: LineWords<SLOTS>>(line: &L) -> u64 {
    line.definitions().load(Relaxed) >> PENDING_BITS
}

/// How often the line's definitions have changed; `None` while a change is pending.
#[inline]
pub fn definitions<const SLOTS: usize, L: LineWords<SLOTS>>(line: &L) -> Option<Definitions> {
    // Acquire: messages of the changes counted here are there to be accepted.
    let word = line.definitions().load(Acquire);
    (word & PENDING == 0).then_some(Definitions(word))
}
