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
//! # Turning it on where changes of definitions ask, too
//!
//! A change of a definition that found the word off is not counted. Its transaction may have ended already, so that a
//! snapshot sees it and is at or above the floor, with its invalidation messages still to be sent: a fill would plan
//! with the old definition, and nothing would say so. So there are two steps ([`begin_opening`], [`finish_opening`]).
//! Between them the caller waits until every transaction below the floor has ended and sent its messages. The renewing
//! comes after that: who learns renewed definitions (acquire) and then accepts messages has those of all changes that
//! were not counted. A snapshot that sees their end and is used with definitions from before is told nothing, for
//! definitions are compared last.
//!
//! Meanwhile anybody may turn it off again. So the second step is a compare-and-exchange: it stores the floor only over
//! *opening*, and whoever opens it again takes a new floor, above the id of who has turned it off.

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

/// Begins to turn it on, unless it is on, and says from which id on its writers have found it so. One caller at a time.
/// May be called again for an opening that nobody has finished.
pub fn begin_opening<W: SharedWord>(word: &W, next_xid: impl FnOnce() -> FullXid) -> Option<FullXid> {
    if !matches!(word.load(Relaxed), OFF | OPENING) {
        return None;
    }
    // If somebody else turns it off between the two, this turns it on again, and the id that is read now is above his.
    word.store(OPENING, Relaxed);
    W::fence(SeqCst);
    Some(next_xid())
}

/// Turns it on, if it is still being opened: the caller has waited since [`begin_opening`], which gave `floor`. `renew`
/// renews the definitions of all lines. Whether it is on now.
pub fn finish_opening<W: SharedWord>(word: &W, floor: FullXid, renew: impl FnOnce()) -> bool {
    if word.load(Relaxed) != OPENING {
        return false;
    }
    renew();
    // Release: the renewed definitions come before it.
    word.replace(OPENING, floor.get(), Release)
}

/// Whether it is off, being opened, or on.
pub fn state<W: SharedWord>(word: &W) -> State {
    match word.load(Relaxed) {
        OFF => State::Off,
        OPENING => State::Opening,
        _ => State::On,
    }
}

/// What a switch can be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Writers publish nothing.
    Off,
    /// Writers publish; snapshots are told nothing.
    Opening,
    /// Snapshots at the floor or above are told.
    On,
}

/// Turns it off. May come beside [`finish_opening`]; beside [`turn_on`] it may not.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::memory::words::Word64;

    fn xid(value: u64) -> FullXid {
        FullXid::new(value).expect("an id")
    }

    #[test]
    fn an_opening_is_finished_only_if_nobody_has_turned_it_off_meanwhile() {
        let word = Word64::default();
        let floor = begin_opening(&word, || xid(100)).expect("it was off");
        assert!(must_publish(&word));
        assert_eq!(state(&word), State::Opening);
        turn_off(&word);
        assert!(!finish_opening(&word, floor, || panic!("nothing is to be renewed")));
        assert_eq!(state(&word), State::Off);
        let floor = begin_opening(&word, || xid(120)).expect("it is off");
        // Once more, as by one who came in the place of who began.
        assert_eq!((begin_opening(&word, || xid(130)), floor), (Some(xid(130)), xid(120)));
        let mut renewed = false;
        assert!(finish_opening(&word, xid(130), || renewed = true));
        assert!(renewed);
        assert_eq!((state(&word), word.get()), (State::On, 130));
        assert_eq!(begin_opening(&word, || panic!("it is on")), None);
    }

    #[test]
    fn one_that_is_turned_off_while_definitions_are_renewed_stays_off() {
        let word = Word64::default();
        let floor = begin_opening(&word, || xid(100)).expect("it was off");
        assert!(!finish_opening(&word, floor, || turn_off(&word)));
        assert_eq!(state(&word), State::Off);
    }
}
