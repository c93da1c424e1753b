//! Small cases in every order of their accesses to shared words.
//!
//! The library's code runs over words of the crate `loom`, which runs a case again and again: every order in which its
//! threads can come to their accesses, and for each load every store that it may see. What a load may see is what the
//! C11 memory model says, which is the language's: without an order between them, an older store as well as the newest.
//! So a copy of a line is torn in every way that some processor tears it.
//!
//! The array of running transactions is a word with a bit for each that has ended. Leaving it, and taking a snapshot,
//! have the orders that its lock gives them (acquire and release). All else between the threads is relaxed, so that a
//! case holds only by what the library does itself.
//!
//! Each case is also run over words with a fault, and a wrong answer must then be found: else it would say little that
//! none is found over right ones.
//!
//! Limits: threads run in the order of their code, so a store is never seen before an earlier one of its thread has
//! been made. That the mark of an end does not overtake the end (`line::mark_ended`) would need that, and rests on its
//! comment alone. Cases of three threads are run with at most three interruptions of a thread that could have gone on.
//! And a plain store beside an exchange on the same word may be taken to come between its two halves.

use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64 as Counter, Ordering as CounterOrdering};

use loom::model::Builder;
use loom::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use loom::sync::atomic::{AtomicU64, Ordering, fence};
use loom::thread;
use pg_shared_lru::rings::definitions::{self, Definitions};
use pg_shared_lru::rings::key::DependencyKey;
use pg_shared_lru::rings::line::{self, LineWords, Publications};
use pg_shared_lru::rings::reader;
use pg_shared_lru::rings::switch;
use pg_shared_lru::rings::word::SharedWord;
use pg_shared_lru::rings::xid::{FullXid, Snapshot};

use super::words::TestLine;

/// What a word does with the orders it is asked for.
trait Orders: 'static {
    /// The order of a load, a store or an exchange.
    fn of(order: Ordering) -> Ordering {
        order
    }

    /// Whether a fence is one.
    fn has_fence(_: Ordering) -> bool {
        true
    }

    /// Whether a publisher that enters sets the busy bit.
    const SETS_BUSY: bool = true;
}

/// As asked.
struct AsAsked;
impl Orders for AsAsked {}

/// Every access is relaxed; fences are fences.
struct AllRelaxed;
impl Orders for AllRelaxed {
    fn of(_: Ordering) -> Ordering {
        Relaxed
    }
}

/// A reader has no fence before its second look.
struct NoAcquireFence;
impl Orders for NoAcquireFence {
    fn has_fence(order: Ordering) -> bool {
        order != Acquire
    }
}

/// A publisher has no fence behind its busy bit.
struct NoReleaseFence;
impl Orders for NoReleaseFence {
    fn has_fence(order: Ordering) -> bool {
        order != Ordering::Release
    }
}

/// Neither writers nor who turns it on have the full fence.
struct NoFullFence;
impl Orders for NoFullFence {
    fn has_fence(order: Ordering) -> bool {
        order != SeqCst
    }
}

/// Publishers do not lock.
struct NoLock;
impl Orders for NoLock {
    const SETS_BUSY: bool = false;
}

struct Word<O>(AtomicU64, PhantomData<O>);

impl<O> Default for Word<O> {
    fn default() -> Self {
        Word(AtomicU64::new(0), PhantomData)
    }
}

impl<O: Orders> SharedWord for Word<O> {
    fn load(&self, order: Ordering) -> u64 {
        self.0.load(O::of(order))
    }

    fn store(&self, value: u64, order: Ordering) {
        self.0.store(value, O::of(order));
    }

    fn swap(&self, value: u64, order: Ordering) -> u64 {
        self.0.swap(value, O::of(order))
    }

    fn replace(&self, current: u64, new: u64, order: Ordering) -> bool {
        // Of the two exchanges, a publisher's is the one that acquires.
        let enters = order == Acquire;
        (enters && !O::SETS_BUSY) || self.0.compare_exchange(current, new, O::of(order), Relaxed).is_ok()
    }

    fn add(&self, value: u64, order: Ordering) {
        self.0.fetch_add(value, O::of(order));
    }

    fn fence(order: Ordering) {
        if O::has_fence(order) {
            fence(order);
        }
    }

    fn pause(_: u32) {
        thread::yield_now();
    }
}

/// Transactions have the ids from 1 on.
struct World<O, const SLOTS: usize> {
    line: TestLine<Word<O>, SLOTS>,
    switch: Word<O>,
    /// A bit for each transaction that has left the array.
    ended: AtomicU64,
    next_xid: AtomicU64,
    /// Invalidation messages that were sent.
    messages: AtomicU64,
}

/// Bits of the transactions that have ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Seen(u64);

impl Snapshot for Seen {
    fn xmin(&self) -> FullXid {
        full(u64::from((!self.0 >> 1).trailing_zeros()) + 1)
    }

    fn sees(&self, xid: FullXid) -> bool {
        self.0 >> xid.get() & 1 == 1
    }
}

fn full(xid: u64) -> FullXid {
    FullXid::new(xid).expect("an id")
}

impl<O: Orders, const SLOTS: usize> World<O, SLOTS> {
    /// Transactions below `next_xid` have ended.
    fn new(next_xid: u64) -> Self {
        World {
            line: TestLine::default(),
            switch: Word::default(),
            ended: AtomicU64::new((1 << next_xid) - 2),
            next_xid: AtomicU64::new(next_xid),
            messages: AtomicU64::new(0),
        }
    }

    /// With publications of the first transactions, which are marked.
    fn with_published(count: u64) -> Self {
        let world = World::new(count + 1);
        for xid in 1..=count {
            world.publish(xid);
            world.mark(xid);
        }
        world
    }

    fn publish(&self, xid: u64) {
        line::publish(&self.line, DependencyKey::Roles.hash(), full(xid));
    }

    fn end(&self, xid: u64) {
        self.ended.fetch_or(1 << xid, AcqRel);
    }

    fn mark(&self, xid: u64) {
        line::mark_ended(&self.line, |published| published == full(xid));
    }

    fn snapshot(&self) -> Seen {
        Seen(self.ended.load(Acquire))
    }

    /// A snapshot, and what it is told.
    fn read(&self) -> (Seen, Option<Publications>) {
        let seen = self.snapshot();
        (seen, line::publications_seen(&self.line, &seen))
    }

    /// The ids in the ring, oldest first.
    fn newest(&self) -> Vec<u64> {
        let count = self.line.progress().load(SeqCst) >> 1;
        let ring = self.line.ring();
        let slots = SLOTS as u64;
        (count.saturating_sub(slots)..count).map(|index| ring[(index % slots) as usize].load(SeqCst) >> 1).collect()
    }
}

/// Runs a case in every order, until one is wrong: whether none is. The case says whether all was right.
fn holds(name: &str, case: impl Fn() -> bool + Send + Sync + 'static) -> bool {
    run(Builder::new(), name, case)
}

/// Runs a case in every order in which so many times a thread is interrupted that could have gone on.
fn holds_for(interruptions: usize, name: &str, case: impl Fn() -> bool + Send + Sync + 'static) -> bool {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(interruptions);
    run(builder, name, case)
}

/// What ends the search.
struct Wrong;

fn run(builder: Builder, name: &str, case: impl Fn() -> bool + Send + Sync + 'static) -> bool {
    let orders = Arc::new(Counter::new(0));
    let counter = orders.clone();
    let search = AssertUnwindSafe(|| {
        builder.check(move || {
            counter.fetch_add(1, CounterOrdering::Relaxed);
            if !case() {
                // Without the report that a panic makes: of a case with a fault this is what is wanted.
                resume_unwind(Box::new(Wrong));
            }
        });
    });
    let result = catch_unwind(search);
    let orders = orders.load(CounterOrdering::Relaxed);
    match result {
        Ok(()) => {
            println!("{name}: right in {orders} orders");
            true
        }
        Err(cause) if cause.is::<Wrong>() => {
            println!("{name}: wrong in order {orders}");
            false
        }
        Err(cause) => resume_unwind(cause),
    }
}

/// Whether the answer is right, where the publications were these, in this order.
fn is_right(published: &[u64], (seen, told): (Seen, Option<Publications>)) -> bool {
    told.is_none_or(|told| {
        let count = told.get() as usize;
        count <= published.len()
            && published[..count].iter().all(|xid| seen.sees(full(*xid)))
            && !published[count..].iter().any(|xid| seen.sees(full(*xid)))
    })
}

/// One publisher, whose publication pushes another one out, and a reader.
fn one_publisher<O: Orders, const SLOTS: usize>(before: u64) -> bool {
    let world = Arc::new(World::<O, SLOTS>::with_published(before));
    let publisher = {
        let world = world.clone();
        thread::spawn(move || {
            world.publish(before + 1);
            world.end(before + 1);
            world.mark(before + 1);
        })
    };
    let answer = world.read();
    publisher.join().expect("it does not panic");
    let published: Vec<u64> = (1..=before + 1).collect();
    is_right(&published, answer)
}

/// A transaction that has published ends, the next one takes its slot, and a reader.
fn one_after_the_other<O: Orders>() -> bool {
    let world = Arc::new(World::<O, 1>::new(1));
    world.publish(1);
    let publisher = {
        let world = world.clone();
        thread::spawn(move || {
            world.end(1);
            world.mark(1);
            world.publish(2);
            world.end(2);
        })
    };
    let answer = world.read();
    publisher.join().expect("it does not panic");
    is_right(&[1, 2], answer)
}

/// One is marked while another one takes its slot, and a reader.
fn a_late_mark<O: Orders>() -> bool {
    let world = Arc::new(World::<O, 1>::new(1));
    world.publish(1);
    world.end(1);
    let marker = {
        let world = world.clone();
        thread::spawn(move || world.mark(1))
    };
    let publisher = {
        let world = world.clone();
        thread::spawn(move || {
            world.publish(2);
            world.end(2);
        })
    };
    let answer = world.read();
    marker.join().expect("it does not panic");
    publisher.join().expect("it does not panic");
    world.newest() == [2] && is_right(&[1, 2], answer) && is_right(&[1, 2], world.read())
}

/// Two publishers, and a reader beside or behind them.
fn two_publishers<O: Orders, const SLOTS: usize>(reads_beside: bool) -> bool {
    let world = Arc::new(World::<O, SLOTS>::new(1));
    let publishers = [1, 2].map(|xid| {
        let world = world.clone();
        move || {
            world.publish(xid);
            world.end(xid);
        }
    });
    let [first, second] = publishers;
    let answer = if reads_beside {
        let publishers = [thread::spawn(first), thread::spawn(second)];
        let answer = world.read();
        publishers.into_iter().for_each(|publisher| publisher.join().expect("it does not panic"));
        answer
    } else {
        let publisher = thread::spawn(first);
        second();
        publisher.join().expect("it does not panic");
        world.read()
    };
    let mut published = world.newest();
    // What one slot does not hold any more is the other one.
    if SLOTS == 1 {
        published.insert(0, 3 - published[0]);
    }
    let mut both = published.clone();
    both.sort_unstable();
    both == [1, 2] && is_right(&published, answer)
}

/// A result, and what it was stored with.
struct Stored {
    rows: Seen,
    definitions: Definitions,
    publications: Publications,
}

impl Stored {
    /// Fills; `None` if the result may not be stored.
    fn fill<O: Orders, const SLOTS: usize>(world: &World<O, SLOTS>) -> Option<Stored> {
        let rows = world.snapshot();
        let definitions = definitions::definitions(&world.line)?;
        let publications = reader::ver(&world.switch, &world.line, &rows, definitions)?;
        Some(Stored { rows, definitions, publications })
    }

    /// A snapshot, and whether the result is served to it.
    fn hit<O: Orders, const SLOTS: usize>(&self, world: &World<O, SLOTS>, order: Compared) -> (Seen, bool) {
        let seen = world.snapshot();
        let are_same = || definitions::definitions(&world.line) == Some(self.definitions);
        let ver = |planned_with| reader::ver(&world.switch, &world.line, &seen, planned_with);
        let is_served = match order {
            Compared::Last => ver(self.definitions) == Some(self.publications),
            Compared::First => {
                are_same() && {
                    // What is compared again has no say.
                    let now = definitions::definitions(&world.line);
                    now.and_then(ver) == Some(self.publications)
                }
            }
        };
        (seen, is_served)
    }
}

/// When a reader compares definitions: last, as it has to, or before all else.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Compared {
    Last,
    First,
}

/// When the other one of fill and hit is done: one of them runs beside a writer and who turns the rings on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Beside {
    Fill,
    Hit,
}

/// Who turns the rings off and on, beside a writer and a reader.
#[derive(Clone, Copy)]
struct Switching {
    was_on: bool,
    renews: bool,
    beside: Beside,
    compared: Compared,
}

impl Switching {
    fn run<O: Orders>(self) -> bool {
        let world = Arc::new(World::<O, 1>::new(1));
        let turn_on = move |world: &World<O, 1>| {
            let renew = || {
                if self.renews {
                    definitions::renew(&world.line)
                }
            };
            switch::turn_on(&world.switch, renew, || full(world.next_xid.load(Relaxed)));
        };
        if self.was_on {
            turn_on(&world);
        }
        let before = Stored::fill(&world);
        let writer = {
            let world = world.clone();
            thread::spawn(move || {
                let xid = world.next_xid.fetch_add(1, Relaxed);
                if switch::must_publish(&world.switch) {
                    world.publish(xid);
                }
                world.end(xid);
            })
        };
        let switcher = {
            let world = world.clone();
            thread::spawn(move || {
                if self.was_on {
                    switch::turn_off(&world.switch);
                }
                turn_on(&world);
            })
        };
        let (stored, hit) = match self.beside {
            Beside::Fill => (Stored::fill(&world), None),
            Beside::Hit => {
                let hit = before.as_ref().map(|stored| stored.hit(&world, self.compared));
                (before, hit)
            }
        };
        writer.join().expect("it does not panic");
        switcher.join().expect("it does not panic");
        stored.is_none_or(|stored| {
            let (seen, is_served) = hit.unwrap_or_else(|| stored.hit(&world, self.compared));
            !is_served || seen == stored.rows
        })
    }
}

/// When a change of definitions is counted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Raised {
    BeforeAndAfter,
    OnlyBefore,
    OnlyAfter,
}

/// A change of definitions, beside a fill that plans with what it has been told, and a hit.
fn change<O: Orders>(raised: Raised, beside: Beside) -> bool {
    let world = Arc::new(World::<O, 1>::new(1));
    let fill = |world: &World<O, 1>| {
        let definitions = definitions::definitions(&world.line);
        // Whether the plan is with the new definition. The message may lie there unseen, but for what the word brings.
        (definitions, world.messages.load(Relaxed) == 1)
    };
    let before = fill(&world);
    let changer = {
        let world = world.clone();
        thread::spawn(move || {
            if raised != Raised::OnlyAfter {
                definitions::begin_change(&world.line);
            }
            if raised == Raised::OnlyBefore {
                definitions::end_change(&world.line);
            }
            world.end(1);
            world.messages.store(1, Relaxed);
            if raised == Raised::OnlyAfter {
                definitions::begin_change(&world.line);
            }
            if raised != Raised::OnlyBefore {
                definitions::end_change(&world.line);
            }
        })
    };
    let beside_it = if beside == Beside::Fill { fill(&world) } else { before };
    let hit = |world: &World<O, 1>| (world.snapshot(), definitions::definitions(&world.line));
    let during = hit(&world);
    changer.join().expect("it does not panic");
    [during, hit(&world)].into_iter().all(|(seen, now)| {
        let (definitions, is_new) = beside_it;
        let is_served = now.is_some() && now == definitions;
        !is_served || is_new || !seen.sees(full(1))
    })
}

/// How publications of relations are turned on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Opened {
    /// In two steps, when all who found them off are over; definitions are renewed then.
    WhenAllAreOver,
    /// Definitions are renewed before that.
    RenewedBefore,
    /// Nobody is waited for.
    AtOnce,
}

/// A change of definitions by one who may find the switch off, beside who turns it on, and a fill.
fn opening<O: Orders>(opened: Opened) -> bool {
    let world = Arc::new(World::<O, 1>::new(1));
    let over = Arc::new(AtomicU64::new(0));
    let changer = {
        let (world, over) = (world.clone(), over.clone());
        thread::spawn(move || {
            let xid = world.next_xid.fetch_add(1, Relaxed);
            let is_counted = switch::must_publish(&world.switch);
            if is_counted {
                definitions::begin_change(&world.line);
            }
            world.end(xid);
            world.messages.store(1, Relaxed);
            if is_counted {
                definitions::end_change(&world.line);
            }
            // It gives up the lock on its id.
            over.store(1 << xid, Release);
        })
    };
    let switcher = {
        let world = world.clone();
        thread::spawn(move || {
            let floor = switch::begin_opening(&world.switch, || full(world.next_xid.load(Relaxed)));
            let Some(floor) = floor else { return };
            if opened == Opened::RenewedBefore {
                definitions::renew(&world.line);
            }
            // Who finds one that is not over comes again, and does nothing now.
            let all = (1 << floor.get()) - 2;
            if opened != Opened::AtOnce && over.load(Acquire) & all != all {
                return;
            }
            let renew = || {
                if opened != Opened::RenewedBefore {
                    definitions::renew(&world.line);
                }
            };
            switch::finish_opening(&world.switch, floor, renew);
        })
    };
    let rows = world.snapshot();
    let filled = definitions::definitions(&world.line).and_then(|definitions| {
        let is_new = world.messages.load(Relaxed) == 1;
        let publications = reader::ver(&world.switch, &world.line, &rows, definitions)?;
        Some((Stored { rows, definitions, publications }, is_new))
    });
    changer.join().expect("it does not panic");
    switcher.join().expect("it does not panic");
    filled.is_none_or(|(stored, is_new)| {
        let (seen, is_served) = stored.hit(&world, Compared::Last);
        !is_served || is_new || !seen.sees(full(1))
    })
}

#[test]
fn a_change_that_was_not_counted_has_sent_its_messages_before_snapshots_are_told() {
    assert!(holds_for(3, "opened when all are over", || opening::<AsAsked>(Opened::WhenAllAreOver)));
    assert!(!holds_for(3, "opened at once", || opening::<AsAsked>(Opened::AtOnce)));
    assert!(!holds_for(3, "renewed before", || opening::<AsAsked>(Opened::RenewedBefore)));
    assert!(!holds_for(3, "opened, no full fence", || opening::<NoFullFence>(Opened::WhenAllAreOver)));
}

#[test]
fn a_publication_is_seen_whole_or_not_at_all() {
    assert!(holds("room in the ring", || one_publisher::<AsAsked, 2>(1)));
    assert!(holds("one leaves the ring", || one_publisher::<AsAsked, 1>(1)));
    assert!(holds("one of two leaves the ring", || one_publisher::<AsAsked, 2>(2)));
    assert!(holds("one ends and leaves the ring", one_after_the_other::<AsAsked>));
    assert!(holds_for(3, "one is marked late", a_late_mark::<AsAsked>));
}

#[test]
fn two_publishers_get_different_places() {
    assert!(holds("room for both", || two_publishers::<AsAsked, 2>(false)));
    assert!(holds("room for one", || two_publishers::<AsAsked, 1>(false)));
    assert!(holds_for(2, "room for both, read beside", || two_publishers::<AsAsked, 2>(true)));
    assert!(holds_for(2, "room for one, read beside", || two_publishers::<AsAsked, 1>(true)));
}

#[test]
fn a_torn_line_would_be_believed_without_any_one_order() {
    assert!(!holds("all relaxed", || one_publisher::<AllRelaxed, 1>(1)));
    assert!(!holds("no fence before the second look", || one_publisher::<NoAcquireFence, 1>(1)));
    assert!(!holds("no fence behind the busy bit", || one_publisher::<NoReleaseFence, 1>(1)));
    assert!(!holds("no busy bit, a reader", || one_publisher::<NoLock, 1>(1)));
    assert!(!holds("no busy bit, two publishers", || two_publishers::<NoLock, 2>(false)));
}

#[test]
fn a_writer_that_found_the_rings_off_is_below_the_floor() {
    let switching = Switching { was_on: false, renews: true, beside: Beside::Fill, compared: Compared::Last };
    assert!(holds_for(3, "turned on", move || switching.run::<AsAsked>()));
    assert!(!holds_for(2, "turned on, no full fence", move || switching.run::<NoFullFence>()));
}

#[test]
fn what_was_learned_before_the_rings_were_off_is_never_served() {
    for beside in [Beside::Fill, Beside::Hit] {
        let switching = Switching { was_on: true, renews: true, beside, compared: Compared::Last };
        assert!(holds_for(3, "off and on", move || switching.run::<AsAsked>()));
        let faulty = Switching { renews: false, ..switching };
        assert!(!holds_for(3, "off and on, nothing renewed", move || faulty.run::<AsAsked>()));
    }
    let faulty = Switching { was_on: true, renews: true, beside: Beside::Hit, compared: Compared::First };
    assert!(!holds_for(3, "off and on, definitions first", move || faulty.run::<AsAsked>()));
    let relaxed = Switching { compared: Compared::Last, ..faulty };
    assert!(!holds_for(3, "off and on, relaxed", move || relaxed.run::<AllRelaxed>()));
}

#[test]
fn a_plan_with_an_old_definition_is_not_served_once_the_change_is_visible() {
    for beside in [Beside::Fill, Beside::Hit] {
        let right = Raised::BeforeAndAfter;
        assert!(holds("raised twice", move || change::<AsAsked>(right, beside)));
    }
    assert!(!holds("raised before", || change::<AsAsked>(Raised::OnlyBefore, Beside::Fill)));
    assert!(!holds("raised after", || change::<AsAsked>(Raised::OnlyAfter, Beside::Hit)));
    assert!(!holds("raised twice, relaxed", || change::<AllRelaxed>(Raised::BeforeAndAfter, Beside::Fill)));
}
