//! One line beside a simulated array of running transactions, at random: results are kept with the numbers that the
//! line gave and served by the rule; a result that is served must be what the snapshot sees.
//!
//! Transactions begin, publish, end in any order, commit or abort; some run long; some are prepared, and ended by
//! somebody who marks nothing; marks come late, or from who finds that a transaction is over. The rings are turned off
//! and on while all this goes on. Snapshots are used long after they were taken, and fills take their time. Rings have
//! 1 to 5 slots, so that all of it happens to them often.
//!
//! The oracle is the list of all publications, in their order: an answer `n` is right if the snapshot sees the first
//! `n` of it and none of the others. And the table is the list of committed writers: a served result has as many as the
//! snapshot sees. (Transactions leave the array one by one, so the number says which.)
//!
//! Then each rule is broken in turn: within a bounded number of steps, a wrong result must be served. A rule is broken
//! by what is done to the words around the library's own code, or by whoever calls it.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering::Relaxed;

use pg_shared_lru::engine::memory::words::Word64;
use pg_shared_lru::rings::definitions::{Definitions, definitions, renew};
use pg_shared_lru::rings::key::DependencyKey;
use pg_shared_lru::rings::line::{self, LineWords, Publications};
use pg_shared_lru::rings::reader;
use pg_shared_lru::rings::switch;
use pg_shared_lru::rings::word::SharedWord;
use pg_shared_lru::rings::xid::{FullXid, Snapshot};
use testkit::content::Random;

use super::words::TestLine;

const STEPS_PER_RUN: usize = 600;
const FIRST_XID: u64 = 100;

/// Which rule is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// Writers publish once they have ended.
    PublishesAfterTheEnd,
    /// Writers publish nothing.
    PublishesNothing,
    /// Those that are prepared publish nothing.
    PreparedPublishNothing,
    /// Only the newest publication counts, whatever left the ring. For rings of one slot.
    NewestAlone,
    /// What leaves the ring is taken to have ended.
    EvictedTakenAsEnded,
    /// A reader does not look at what left the ring while it ran.
    OverrunIgnored,
    /// A reader does not look at what left the ring after it had ended.
    EvictedIgnored,
    /// A reader does not care whether a later publication is seen and an earlier one is not.
    MixedOrderAccepted,
    /// Transactions of the time before it was turned on are forgotten.
    NoFloor,
    /// What was learned before it was turned off stays good.
    OffForgotten,
}

const FAULTS: [Fault; 10] = [
    Fault::PublishesAfterTheEnd,
    Fault::PublishesNothing,
    Fault::PreparedPublishNothing,
    Fault::NewestAlone,
    Fault::EvictedTakenAsEnded,
    Fault::OverrunIgnored,
    Fault::EvictedIgnored,
    Fault::MixedOrderAccepted,
    Fault::NoFloor,
    Fault::OffForgotten,
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Active,
    /// Knows whether it publishes.
    Asked {
        publishes: bool,
    },
    Published,
    Prepared,
    /// Out of the array; its own process has still to mark it.
    Ended,
}

struct Transaction {
    stage: Stage,
    writes: bool,
    is_long: bool,
}

#[derive(Clone)]
struct Seen {
    xmin: u64,
    xmax: u64,
    running: BTreeSet<u64>,
    /// What the table holds for it.
    rows: usize,
}

impl Snapshot for Seen {
    fn xmin(&self) -> FullXid {
        full(self.xmin)
    }

    fn sees(&self, xid: FullXid) -> bool {
        xid.get() < self.xmax && !self.running.contains(&xid.get())
    }
}

/// Says of each publication behind the first one that it does not see that it does not see it.
struct InOrder<'a> {
    seen: &'a Seen,
    is_behind: Cell<bool>,
}

impl Snapshot for InOrder<'_> {
    fn xmin(&self) -> FullXid {
        self.seen.xmin()
    }

    fn sees(&self, xid: FullXid) -> bool {
        self.is_behind.set(self.is_behind.get() || !self.seen.sees(xid));
        !self.is_behind.get()
    }
}

struct Fill {
    snapshot: Seen,
    definitions: Definitions,
}

#[derive(Clone, Copy)]
struct Kept {
    publications: Publications,
    definitions: Definitions,
    rows: usize,
}

#[derive(Default)]
struct Tally {
    steps: u64,
    fills: u64,
    hits: u64,
    untold: u64,
    stale: u64,
}

struct World<const SLOTS: usize> {
    random: Random,
    fault: Fault,
    line: TestLine<Word64, SLOTS>,
    switch: Word64,
    next_xid: u64,
    /// The greatest that has ended.
    latest: u64,
    running: BTreeSet<u64>,
    transactions: BTreeMap<u64, Transaction>,
    committed: usize,
    /// The oracle.
    published: Vec<u64>,
    snapshots: Vec<Seen>,
    fills: Vec<Fill>,
    kept: Vec<Kept>,
    /// Of 1000 steps, how many begin a transaction; of 10 transactions, how many write.
    pace: usize,
    writers: usize,
    tally: Tally,
}

fn full(xid: u64) -> FullXid {
    FullXid::new(xid).expect("an id")
}

impl<const SLOTS: usize> World<SLOTS> {
    fn new(seed: u64, fault: Fault) -> Self {
        let mut random = Random(seed);
        let pace = [20, 50, 100, 220][random.below(4)];
        let writers = [1, 3, 7][random.below(3)];
        let mut world = World {
            random,
            fault,
            line: TestLine::default(),
            switch: Word64::default(),
            next_xid: FIRST_XID,
            latest: FIRST_XID - 1,
            running: BTreeSet::new(),
            transactions: BTreeMap::new(),
            committed: 0,
            published: Vec::new(),
            snapshots: Vec::new(),
            fills: Vec::new(),
            kept: Vec::new(),
            pace,
            writers,
            tally: Tally::default(),
        };
        if seed % 3 != 0 {
            world.turn_on();
        }
        world
    }

    /// True so often in 100 times.
    fn chance(&mut self, percent: usize) -> bool {
        self.random.below(100) < percent
    }

    fn step(&mut self) {
        self.tally.steps += 1;
        match self.random.below(1000) {
            at if at < self.pace => self.begin(),
            at if at < 620 => self.advance(),
            620..720 => self.mark_own(),
            720..735 => self.turn_on(),
            735..740 => self.turn_off(),
            // A reader finds out which publications are of transactions that are over.
            740..760 => line::mark_ended(&self.line, |xid| !self.running.contains(&xid.get())),
            760..860 => self.take_snapshot(),
            860..900 => self.begin_fill(),
            900..935 => self.end_fill(),
            _ => self.serve(),
        }
    }

    fn begin(&mut self) {
        if self.running.len() < 7 {
            let (writes, is_long) = (self.random.below(10) < self.writers, self.chance(12));
            self.running.insert(self.next_xid);
            self.transactions.insert(self.next_xid, Transaction { stage: Stage::Active, writes, is_long });
            self.next_xid += 1;
        }
    }

    fn advance(&mut self) {
        if self.running.is_empty() {
            return;
        }
        let place = self.random.below(self.running.len());
        let xid = *self.running.iter().nth(place).expect("so many are there");
        let Transaction { stage, writes, is_long } = self.transactions[&xid];
        if is_long && self.chance(90) {
            return;
        }
        match stage {
            Stage::Active => self.set(xid, Stage::Asked { publishes: writes && switch::must_publish(&self.switch) }),
            Stage::Asked { publishes } => {
                let is_prepared = self.chance(15);
                let publishes = publishes
                    && match self.fault {
                        Fault::PublishesAfterTheEnd | Fault::PublishesNothing => false,
                        Fault::PreparedPublishNothing => !is_prepared,
                        _ => true,
                    };
                if publishes {
                    self.publish(xid);
                }
                self.set(xid, if is_prepared { Stage::Prepared } else { Stage::Published });
            }
            Stage::Prepared if self.chance(85) => {}
            Stage::Published | Stage::Prepared if self.chance(50) => {
                let commits = self.chance(85);
                self.running.remove(&xid);
                self.latest = self.latest.max(xid);
                self.committed += usize::from(commits && writes);
                if stage == Stage::Prepared {
                    self.transactions.remove(&xid);
                } else {
                    self.set(xid, Stage::Ended);
                }
            }
            _ => {}
        }
    }

    fn set(&mut self, xid: u64, stage: Stage) {
        self.transactions.get_mut(&xid).expect("it is there").stage = stage;
    }

    fn publish(&mut self, xid: u64) {
        if self.fault == Fault::EvictedTakenAsEnded {
            line::mark_ended(&self.line, |_| true);
        }
        line::publish(&self.line, DependencyKey::Roles.hash(), full(xid));
        self.published.push(xid);
    }

    fn mark_own(&mut self) {
        let ended: Vec<u64> =
            self.transactions.iter().filter(|(_, it)| it.stage == Stage::Ended).map(|(xid, _)| *xid).collect();
        if ended.is_empty() {
            return;
        }
        let xid = ended[self.random.below(ended.len())];
        let transaction = self.transactions.remove(&xid).expect("it was just there");
        if self.fault == Fault::PublishesAfterTheEnd && transaction.writes && switch::must_publish(&self.switch) {
            self.publish(xid);
        }
        line::mark_ended(&self.line, |published| published.get() == xid);
    }

    fn turn_on(&mut self) {
        let renews = self.fault != Fault::OffForgotten;
        let floor = if self.fault == Fault::NoFloor { 1 } else { self.next_xid };
        switch::turn_on(
            &self.switch,
            || {
                if renews {
                    renew(&self.line)
                }
            },
            || full(floor),
        );
    }

    fn turn_off(&mut self) {
        if self.chance(30) {
            switch::turn_off(&self.switch);
        }
    }

    fn seen_now(&self) -> Seen {
        let xmax = self.latest + 1;
        let running: BTreeSet<u64> = self.running.iter().copied().filter(|xid| *xid < xmax).collect();
        Seen { xmin: running.first().copied().unwrap_or(xmax), xmax, running, rows: self.committed }
    }

    fn take_snapshot(&mut self) {
        let seen = self.seen_now();
        keep(&mut self.random, &mut self.snapshots, seen, 6);
    }

    /// One of those that are kept, or a new one.
    fn some_snapshot(&mut self, new_ones: usize) -> Seen {
        if self.snapshots.is_empty() || self.chance(new_ones) {
            self.seen_now()
        } else {
            self.snapshots[self.random.below(self.snapshots.len())].clone()
        }
    }

    fn begin_fill(&mut self) {
        let snapshot = self.some_snapshot(40);
        if let Some(definitions) = definitions(&self.line) {
            keep(&mut self.random, &mut self.fills, Fill { snapshot, definitions }, 4);
        }
    }

    fn end_fill(&mut self) {
        if self.fills.is_empty() {
            return;
        }
        let place = self.random.below(self.fills.len());
        let Fill { snapshot, definitions } = self.fills.swap_remove(place);
        if let Some(publications) = self.ver(&snapshot, definitions) {
            self.tally.fills += 1;
            keep(&mut self.random, &mut self.kept, Kept { publications, definitions, rows: snapshot.rows }, 12);
        }
    }

    fn serve(&mut self) {
        let snapshot = self.some_snapshot(40);
        for place in 0..self.kept.len() {
            let Kept { publications, definitions, rows } = self.kept[place];
            if self.ver(&snapshot, definitions) == Some(publications) {
                self.tally.hits += 1;
                self.tally.stale += u64::from(rows != snapshot.rows);
            }
        }
    }

    /// What a reader asks, the broken rule put into it.
    fn ver(&mut self, snapshot: &Seen, planned_with: Definitions) -> Option<Publications> {
        let line = &self.line;
        let ver = || reader::ver(&self.switch, line, snapshot, planned_with);
        let without = |words: &[&Word64]| {
            let before: Vec<u64> = words.iter().map(|word| word.get()).collect();
            words.iter().for_each(|word| word.set(0));
            let told = ver();
            words.iter().zip(before).for_each(|(word, value)| word.set(value));
            told
        };
        let told = match self.fault {
            Fault::OverrunIgnored => without(&[line.overrun()]),
            Fault::EvictedIgnored => without(&[line.evicted()]),
            Fault::NewestAlone => {
                let all = line.progress().load(Relaxed) >> 1;
                without(&[line.overrun(), line.evicted()]).filter(|told| told.get() == all)
            }
            Fault::MixedOrderAccepted => {
                let in_order = InOrder { seen: snapshot, is_behind: Cell::new(false) };
                reader::ver(&self.switch, line, &in_order, planned_with)
            }
            _ => ver(),
        };
        self.tally.untold += u64::from(told.is_none());
        if let (Some(told), Fault::None) = (told, self.fault) {
            let (seen, unseen) = self.published.split_at(told.get() as usize);
            assert!(seen.iter().all(|xid| snapshot.sees(full(*xid))), "all before the number are seen");
            assert!(!unseen.iter().any(|xid| snapshot.sees(full(*xid))), "and none from it on");
        }
        told
    }
}

/// Keeps one more; if there are too many, one of the others goes.
fn keep<T>(random: &mut Random, all: &mut Vec<T>, one: T, limit: usize) {
    if all.len() == limit {
        all.swap_remove(random.below(limit));
    }
    all.push(one);
}

/// One run; ends early once a wrong result was served.
fn run_with<const SLOTS: usize>(seed: u64, fault: Fault) -> Tally {
    let mut world = World::<SLOTS>::new(seed, fault);
    while world.tally.stale == 0 && world.tally.steps < STEPS_PER_RUN as u64 {
        world.step();
    }
    world.tally
}

fn run(seed: u64, fault: Fault) -> Tally {
    match seed % 5 {
        _ if fault == Fault::NewestAlone => run_with::<1>(seed, fault),
        0 => run_with::<1>(seed, fault),
        1 => run_with::<2>(seed, fault),
        2 => run_with::<3>(seed, fault),
        3 => run_with::<4>(seed, fault),
        _ => run_with::<5>(seed, fault),
    }
}

#[test]
fn no_snapshot_is_served_what_it_would_not_see() {
    let mut total = Tally::default();
    for seed in 0..8_000 {
        let tally = run(seed, Fault::None);
        assert_eq!(tally.stale, 0, "seed {seed}, step {}", tally.steps);
        total.steps += tally.steps;
        total.fills += tally.fills;
        total.hits += tally.hits;
        total.untold += tally.untold;
    }
    let Tally { steps, fills, hits, untold, .. } = total;
    println!("{steps} steps, {fills} fills, {hits} results served, {untold} questions without answer");
    assert!(fills > 50_000 && hits > 200_000 && untold > 200_000, "every answer is given often");
}

#[test]
fn without_any_one_rule_a_wrong_result_is_served() {
    for fault in FAULTS {
        let mut steps = 0;
        let found = (0..1_000).find(|seed| {
            let tally = run(*seed, fault);
            steps += tally.steps;
            tally.stale > 0
        });
        let seed = found.unwrap_or_else(|| panic!("{fault:?}: nothing wrong was served in {steps} steps"));
        println!("{fault:?}: after {steps} steps, seed {seed}");
    }
}
