//! A line's words; publications, how many of them a snapshot sees, and which have ended.
//!
//! ```text
//! bytes 0        8        16       24       32           40        48                                          128
//!       ┌────────┬────────┬────────┬────────┬────────────┬─────────┬────────┬────────┬─ … ─┬────────┐
//!       │progress│greatest│evicted │overrun │definitions │last key │ ring: the newest ten publications │
//!       └────────┴────────┴────────┴────────┴────────────┴─────────┴────────┴────────┴─ … ─┴────────┘
//! progress   publications so far, shifted by one; the lowest bit is set while a publisher is inside
//! greatest   the greatest id that was ever published
//! evicted    the greatest id that left the ring after its transaction had ended
//! overrun    the greatest id that left the ring before that
//! ring       publication i in slot i modulo 10: the id, shifted by one; the lowest bit is set once it has ended
//! ```
//!
//! # Publishers
//!
//! `progress` is a sequence lock whose number is the count itself. A publisher that finds another one inside waits: for
//! the dozen instructions that it needs, or until the system lets it run on. Nothing inside can fail or allocate, and
//! it is no point at which PostgreSQL handles interrupts, so neither an ERROR nor a FATAL exit leaves a publisher
//! inside. SIGKILL and SIGQUIT can; then the postmaster makes all shared memory anew before anybody may look at it. So
//! this layer is for memory that goes with the postmaster, as PostgreSQL's own spinlocks are.
//!
//! # Readers
//!
//! A reader takes no lock and never waits long. It does not believe a copy beside which `progress` changed.
//!
//! Marking a publication as ended changes no number that readers use, so it needs no lock either: it is one
//! compare-and-exchange on the slot, which fails if the slot has gone to another publication. The same number cannot
//! come back: a transaction that has ended publishes no more.
//!
//! # Memory order
//!
//! Each access says why it has its order. Two things are used all over. *Inside* means between the compare-and-exchange
//! that sets the busy bit (acquire: what the last publisher stored is seen) and the store that clears it (release). And
//! the array of running transactions has a lock: what a transaction stored before it left the array is seen by whoever
//! took a snapshot that sees it ended.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::key::DependencyHash;
use super::word::SharedWord;
use super::xid::{FullXid, Snapshot};
use crate::engine::memory::region::region_struct;
use crate::engine::memory::words::Word64;

/// Publications that a line remembers one by one: as many as fill its 128 bytes.
pub const RING_SLOTS: usize = 10;

/// Copies that a reader takes of a line that publishers disturb, before it does without.
const READ_ATTEMPTS: u32 = 4;

const BUSY: u64 = 1;
const ENDED: u64 = 1;

/// A line's words, wherever they are; the ring has `SLOTS` of them.
pub trait LineWords<const SLOTS: usize> {
    /// What a word is there.
    type Word: SharedWord;

    /// Publications so far, and whether a publisher is inside.
    fn progress(&self) -> &Self::Word;

    /// The greatest id that was ever published.
    fn greatest(&self) -> &Self::Word;

    /// The greatest id that left the ring after its transaction had ended.
    fn evicted(&self) -> &Self::Word;

    /// The greatest id that left the ring before its transaction was known to have ended.
    fn overrun(&self) -> &Self::Word;

    /// Changes of definitions, and how many of them are pending (`definitions`).
    fn definitions(&self) -> &Self::Word;

    /// Whose publication was the last. For people who look; nothing follows from it.
    fn last_key(&self) -> &Self::Word;

    /// The newest publications.
    fn ring(&self) -> &[Self::Word; SLOTS];
}

region_struct! {
    /// A line in a region.
    pub struct Line: 128 bytes, align 64 {
        progress: Word64,
        greatest: Word64,
        evicted: Word64,
        overrun: Word64,
        definitions: Word64,
        last_key: Word64,
        ring: [Word64; RING_SLOTS],
    }
}

impl LineWords<RING_SLOTS> for Line {
    type Word = Word64;

    fn progress(&self) -> &Word64 {
        &self.progress
    }

    fn greatest(&self) -> &Word64 {
        &self.greatest
    }

    fn evicted(&self) -> &Word64 {
        &self.evicted
    }

    fn overrun(&self) -> &Word64 {
        &self.overrun
    }

    fn definitions(&self) -> &Word64 {
        &self.definitions
    }

    fn last_key(&self) -> &Word64 {
        &self.last_key
    }

    fn ring(&self) -> &[Word64; RING_SLOTS] {
        &self.ring
    }
}

/// How many of a line's publications a snapshot sees.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Publications(u64);

impl Publications {
    /// The number.
    pub fn get(self) -> u64 {
        self.0
    }
}

/// Publishes that a transaction has written what the line stands for.
///
/// To be called before the transaction's commit record, or before it is prepared. Cannot fail and does not allocate;
/// waits for other publishers as the head of this file says.
pub fn publish<const SLOTS: usize, L: LineWords<SLOTS>>(line: &L, key: DependencyHash, xid: FullXid) {
    let count = enter(line);
    let slot = &line.ring()[(count % SLOTS as u64) as usize];
    // An exchange, so that a mark is either on what leaves the slot or comes too late. Acquire: pairs with the release
    // of who marked it. So the marked transaction's end comes before this publication, and any snapshot that sees this
    // one ended sees that one ended (`Copy::seen_by`). That the store is relaxed, as all stores inside, is enough: the
    // fence of `enter` and the release below order it.
    let old = slot.swap(xid.get() << 1, Acquire);
    if count >= SLOTS as u64 {
        raise(if old & ENDED == 0 { line.overrun() } else { line.evicted() }, old >> 1);
    }
    raise(line.greatest(), xid.get());
    line.last_key().store(key.get(), Relaxed);
    // Release: who loads this count with acquire order sees all that was stored inside.
    line.progress().store((count + 1) << 1, Release);
}

/// Waits until no other publisher is inside, and says how many publications there are.
fn enter<const SLOTS: usize, L: LineWords<SLOTS>>(line: &L) -> u64 {
    let mut round = 0;
    loop {
        let progress = line.progress().load(Relaxed);
        // Acquire: all that the last publisher stored inside is seen.
        if progress & BUSY == 0 && line.progress().replace(progress, progress | BUSY, Acquire) {
            // No store inside may be seen by one who does not see the busy bit: a reader that saw such a store and then
            // has an acquire fence finds `progress` changed.
            L::Word::fence(Release);
            return progress >> 1;
        }
        L::Word::pause(round);
        round = round.saturating_add(1);
    }
}

/// Raises a word that only the publisher inside writes.
fn raise(word: &impl SharedWord, value: u64) {
    if word.load(Relaxed) < value {
        word.store(value, Relaxed);
    }
}

/// Marks those of the line's publications as ended whose transactions `is_over` says to have left the array of running
/// transactions. It is asked for each publication that is not marked, without a lock; it may fail.
pub fn mark_ended<const SLOTS: usize, L: LineWords<SLOTS>>(line: &L, mut is_over: impl FnMut(FullXid) -> bool) {
    for slot in line.ring() {
        // Relaxed: only the number counts, and the exchange compares it again.
        let publication = slot.load(Relaxed);
        if publication & ENDED == 0 && FullXid::new(publication >> 1).is_some_and(&mut is_over) {
            // Release: the end that the caller knows of comes before the mark. If another publication has the slot by
            // now, its transaction is not the one that was asked about, and nothing is stored.
            slot.replace(publication, publication | ENDED, Release);
        }
    }
}

/// How many of the line's publications the snapshot sees: all before that number, and none from it on. `None` if the
/// line does not tell. To be called after the snapshot was taken.
///
/// Usually two loads and one compare. Else a copy of the line, and the snapshot is asked about each publication in it.
#[inline]
pub fn publications_seen<const SLOTS: usize, L: LineWords<SLOTS>>(
    line: &L,
    snapshot: &impl Snapshot,
) -> Option<Publications> {
    // Acquire: `greatest` below covers at least the publications of this count, also if another publisher is inside
    // (what it has put into the word carries on the release of the one before). That it may cover later ones does no
    // harm. And the snapshot sees none that this count lacks: those came after it was taken.
    let progress = line.progress().load(Acquire);
    if line.greatest().load(Relaxed) < snapshot.xmin().get() {
        return Some(Publications(progress >> 1));
    }
    copy(line)?.seen_by(snapshot)
}

/// How many publications there are, but for one that is just being made. Who finds the same number twice knows that
/// none was made in between, as far as other means (a lock that publishers take afterwards) order the two.
#[inline]
pub fn publications<const SLOTS: usize, L: LineWords<SLOTS>>(line: &L) -> Publications {
    // Acquire: what came before a publication that is counted is seen.
    Publications(line.progress().load(Acquire) >> 1)
}

/// Whose publication was the last; `None` before the first. It may be one that is just being made.
pub fn last_key<const SLOTS: usize, L: LineWords<SLOTS>>(line: &L) -> Option<DependencyHash> {
    // Acquire: where there is a publication, so is its key.
    (line.progress().load(Acquire) >> 1 != 0).then(|| DependencyHash(line.last_key().load(Relaxed)))
}

/// What a line says at one moment.
struct Copy<const SLOTS: usize> {
    count: u64,
    evicted: u64,
    overrun: u64,
    ring: [u64; SLOTS],
}

/// A copy of the line in which no publication is half there; `None` if publishers disturb every attempt.
fn copy<const SLOTS: usize, L: LineWords<SLOTS>>(line: &L) -> Option<Copy<SLOTS>> {
    for round in 0..READ_ATTEMPTS {
        // Acquire: what the publishers of this count stored is seen, or something newer.
        let progress = line.progress().load(Acquire);
        if progress & BUSY == 0 {
            let copy = Copy {
                count: progress >> 1,
                evicted: line.evicted().load(Relaxed),
                overrun: line.overrun().load(Relaxed),
                ring: line.ring().each_ref().map(|slot| slot.load(Relaxed)),
            };
            // If one of these is newer, then with the fence of its publisher (`enter`) this one makes the busy bit, or
            // a later count, what is loaded now. The count never comes back.
            L::Word::fence(Acquire);
            if line.progress().load(Relaxed) == progress {
                return Some(copy);
            }
        }
        L::Word::pause(round);
    }
    None
}

impl<const SLOTS: usize> Copy<SLOTS> {
    fn seen_by(&self, snapshot: &impl Snapshot) -> Option<Publications> {
        let xmin = snapshot.xmin().get();
        // One left the ring while its transaction ran, and this snapshot may not see it.
        if xmin <= self.overrun {
            return None;
        }
        let kept = self.count.min(SLOTS as u64);
        let first = self.count - kept;
        let sees = |index: u64| {
            let publication = self.ring[(index % SLOTS as u64) as usize];
            FullXid::new(publication >> 1).is_some_and(|xid| snapshot.sees(xid))
        };
        let seen = (first..self.count).take_while(|index| sees(*index)).count() as u64;
        let end = first + seen;
        // They ended in another order than they were published in.
        if (end + 1..self.count).any(sees) {
            return None;
        }
        // Those that left the ring had ended before the newest one was published. So a snapshot that sees the newest
        // sees them; of another this is known only by its xmin.
        let sees_evicted = first == 0 || end == self.count || self.evicted < xmin;
        sees_evicted.then_some(Publications(end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sees what is below `xmin`, and `ended`.
    struct Seen {
        xmin: u64,
        ended: &'static [u64],
    }

    impl Snapshot for Seen {
        fn xmin(&self) -> FullXid {
            xid(self.xmin)
        }

        fn sees(&self, xid: FullXid) -> bool {
            xid < self.xmin() || self.ended.contains(&xid.get())
        }
    }

    fn xid(value: u64) -> FullXid {
        FullXid::new(value).expect("an id")
    }

    fn line(published: impl IntoIterator<Item = u64>) -> Line {
        let line = Line {
            progress: Word64::default(),
            greatest: Word64::default(),
            evicted: Word64::default(),
            overrun: Word64::default(),
            definitions: Word64::default(),
            last_key: Word64::default(),
            ring: Default::default(),
        };
        published.into_iter().for_each(|id| publish(&line, DependencyHash(id), xid(id)));
        line
    }

    fn count(line: &Line, xmin: u64, ended: &'static [u64]) -> Option<u64> {
        publications_seen(line, &Seen { xmin, ended }).map(Publications::get)
    }

    #[test]
    fn a_snapshot_is_told_the_publications_that_it_sees() {
        let line = line([20, 22, 21]);
        assert_eq!(count(&line, 20, &[]), Some(0));
        assert_eq!(count(&line, 21, &[]), Some(1));
        assert_eq!(count(&line, 21, &[22]), Some(2));
        assert_eq!(count(&line, 23, &[]), Some(3));
        assert_eq!(count(&line, 22, &[]), None, "the third has ended and the second has not");
    }

    #[test]
    fn who_sees_the_newest_sees_all_that_left_the_ring_after_they_ended() {
        let line = line(20..30);
        mark_ended(&line, |id| id < xid(22));
        publish(&line, DependencyHash(0), xid(30));
        publish(&line, DependencyHash(0), xid(31));
        const NEWEST: &[u64] = &[22, 23, 24, 25, 26, 27, 28, 29, 30, 31];
        assert_eq!(count(&line, 15, NEWEST), Some(12));
        assert_eq!(count(&line, 15, &NEWEST[..9]), None, "its xmin does not tell whether it sees the first two");
        assert_eq!(count(&line, 21, &NEWEST[..9]), None, "nor here");
        assert_eq!(count(&line, 22, &NEWEST[..9]), Some(11));
    }

    #[test]
    fn one_that_left_the_ring_while_it_ran_hides_the_count_from_who_may_not_see_it() {
        let line = line(20..31);
        const NEWEST: &[u64] = &[21, 22, 23, 24, 25, 26, 27, 28, 29, 30];
        assert_eq!(count(&line, 20, NEWEST), None);
        assert_eq!(count(&line, 21, NEWEST), Some(11));
        assert_eq!(count(&line, 21, &[]), Some(1));
    }

    #[test]
    fn a_publisher_inside_hides_the_count_only_from_who_may_see_what_is_published() {
        let line = line([20, 21]);
        line.progress.set(line.progress.get() | BUSY);
        assert_eq!(count(&line, 21, &[]), None);
        assert_eq!(count(&line, 22, &[]), Some(2));
    }

    #[test]
    fn a_mark_does_not_touch_a_slot_that_has_gone_to_another() {
        let line = line(20..30);
        mark_ended(&line, |id| {
            if id == xid(20) {
                publish(&line, DependencyHash(0), xid(30));
            }
            id == xid(20)
        });
        assert_eq!(line.ring[0].get(), 30 << 1);
        assert_eq!((line.overrun.get(), line.evicted.get()), (20, 0), "nothing was known when it left");
    }
}
