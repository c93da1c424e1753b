//! On and off, and from which transaction on the lines tell all.
//!
//! One word: 0 is off; all ones is *opening*; else it is on, and the word is the *floor*: a transaction below it may
//! have written without publishing. A snapshot is usable if all of those have ended for it.
//!
//! # Turning it on
//!
//! ```text
//! who turns it on          a writer, before its commit record
//! ───────────────          ──────────────────────────────────
//! word := opening          gets its id (counts it up)
//! full fence               full fence
//! floor := next id         word is off? then it does not publish
//! ```
//!
//! Of two full fences one is first. If the writer's is, its id is below the floor. Else it does not find the word off,
//! and publishes.
//!
//! While it was off, writers published nothing, and a result from before has numbers that look current. So turning it
//! on also renews the definitions of every line, before the floor is stored. A reader that finds the new floor
//! (acquire) sees the renewed ones behind it. One that finds a floor from before has a snapshot that sees none of the
//! writers that found the word off: if it saw the end of one, it would find the word off, too, or something later
//! (coherence of one word, over the lock of the array of running transactions).
//!
//! Changes of definitions do not ask here: they are counted while it is off, too. One that was not counted could be
//! visible already, with its messages still to be sent, when it is turned on.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};

use super::word::SharedWord;
use super::xid::{FullXid, Snapshot};

const OFF: u64 = 0;
/// More than any id, so that no snapshot is usable.
const OPENING: u64 = u64::MAX;

/// Whether a writer has to publish. To be asked once it has its id, and before its commit record.
pub fn must_publish<W: SharedWord>(word: &W) -> bool {
    W::fence(SeqCst);
    word.load(Relaxed) != OFF
}

/// Turns it on, unless it is on. `renew` renews the definitions of all lines, `next_xid` reads the id that the next
/// transaction is going to get. One caller at a time, and not while another turns it off; if one fails half-way, it is
/// not on, and the next may try.
pub fn turn_on<W: SharedWord>(word: &W, renew: impl FnOnce(), next_xid: impl FnOnce() -> FullXid) {
    if !matches!(word.load(Relaxed), OFF | OPENING) {
        return;
    }
    // Relaxed: the fence orders it before the next id is read.
    word.store(OPENING, Relaxed);
    W::fence(SeqCst);
    renew();
    // Release: the renewed definitions come before it.
    word.store(next_xid().get(), Release);
}

/// Turns it off. One caller at a time.
pub fn turn_off<W: SharedWord>(word: &W) {
    // Relaxed: nothing follows from what was stored before; see above for who still finds it on.
    word.store(OFF, Relaxed);
}

/// Whether the lines tell all that the snapshot sees. To be asked after the snapshot was taken.
#[inline]
pub fn is_usable<W: SharedWord>(word: &W, snapshot: &impl Snapshot) -> bool {
    // Acquire: the definitions that were renewed before this floor are seen.
    let floor = word.load(Acquire);
    floor != OFF && floor <= snapshot.xmin().get()
}
