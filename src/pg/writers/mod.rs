//! What a transaction writes, published before its commit record. docs/commit-rings.md, "Writers", has the argument.
//!
//! ```text
//! lines     a set of lines
//! locks     the relations on which this process holds a lock that a writer holds
//! kinds     which of them have rows that a query can see
//! messages  what the transaction's invalidation messages say that it changes
//! own       whether what it has not committed is something that a result depends on
//! opening   on and off
//! ```
//!
//! ```text
//! PRE_COMMIT            begins the changes of definitions, publishes what was written
//! commit record, end
//! COMMIT                marks the publications as ended
//! messages are sent
//! locks are released    ends the changes of definitions
//! ```
//!
//! All that can fail comes before anything is published. From then on there are only stores into shared memory.
//!
//! A transaction without an id writes nothing, and looks at nothing here; one with an id looks at one word where the query
//! cache is off.
//!
//! Only where the server preloads the library, so that every process has these callbacks.
#![allow(unsafe_code)]

mod kinds;
mod lines;
mod locks;
mod messages;
mod opening;
mod own;

use std::cell::RefCell;
use std::ffi::c_void;

use pgrx::{pg_guard, pg_sys};

use self::kinds::Kind;
use self::lines::LineSet;
pub(super) use self::opening::{Opening, Tended, stay_off};
pub(super) use self::own::touches_one_of;
use super::area::Area;
use super::handles;
use crate::rings::key::DependencyKey;
use crate::rings::table::Rings;
use crate::rings::xid::FullXid;

/// So many relations are looked up at a commit; further ones, of which nothing is known, are published unseen.
const LOOKED_UP: usize = 64;

/// What one transaction publishes.
struct OwnPublications {
    rings: Rings,
    xid: FullXid,
    stage: Stage,
    /// Lines of what it has written.
    written: LineSet,
    /// Lines of the definitions that it changes.
    changed: LineSet,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Nothing was published; what is in the sets means nothing.
    Collecting,
    /// All of it was.
    Published,
}

thread_local! {
    /// `None` before the first transaction that publishes.
    static PUBLICATIONS: RefCell<Option<OwnPublications>> = const { RefCell::new(None) };
}

/// Has every process of the server watch its transactions: while the postmaster loads its libraries.
pub(super) fn watch() {
    // SAFETY: runs in the postmaster's only thread; the callbacks have the right types and live as long as the library.
    unsafe {
        pg_sys::RegisterXactCallback(Some(on_transaction_event), std::ptr::null_mut());
        pg_sys::RegisterResourceReleaseCallback(Some(on_release), std::ptr::null_mut());
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_transaction_event(event: pg_sys::XactEvent::Type, _argument: *mut c_void) {
    use pg_sys::XactEvent::{
        XACT_EVENT_ABORT, XACT_EVENT_COMMIT, XACT_EVENT_PRE_COMMIT, XACT_EVENT_PRE_PREPARE, XACT_EVENT_PREPARE,
    };
    match event {
        XACT_EVENT_PRE_COMMIT => publish(Next::Commit),
        XACT_EVENT_PRE_PREPARE => publish(Next::Prepare),
        // It has left the array of running transactions.
        XACT_EVENT_COMMIT | XACT_EVENT_ABORT => with_published(|publications| {
            let OwnPublications { rings, xid, written, .. } = publications;
            written.for_each(|line, _| rings.mark_ended(line, *xid));
        }),
        // It runs on, in no process.
        XACT_EVENT_PREPARE => with_published(OwnPublications::forget),
        _ => {}
    }
}

/// Called at the end of each phase in which an owner of resources gives up what it has. The one in which a transaction
/// gives up its locks comes after its messages were sent, or after it was rolled back.
#[pg_guard]
unsafe extern "C-unwind" fn on_release(
    phase: pg_sys::ResourceReleasePhase::Type,
    _is_commit: bool,
    is_top_level: bool,
    _argument: *mut c_void,
) {
    if is_top_level && phase == pg_sys::ResourceReleasePhase::RESOURCE_RELEASE_LOCKS {
        with_published(|publications| {
            let OwnPublications { rings, changed, .. } = publications;
            changed.for_each(|line, _| rings.end_change(line));
            publications.forget();
        });
    }
}

/// Works on what the current transaction has published, if it has. Raises no error and allocates nothing, if `work` does
/// not: it may come after the commit record.
fn with_published(work: impl FnOnce(&mut OwnPublications)) {
    PUBLICATIONS.with_borrow_mut(|publications| {
        publications.as_mut().filter(|publications| publications.stage == Stage::Published).map(work);
    });
}

/// What is to become of the transaction.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Commit,
    Prepare,
}

/// Before the commit record, or before the transaction is prepared. An error here aborts the transaction.
fn publish(next: Next) {
    // SAFETY: inside of a transaction.
    let Some(xid) = FullXid::new(unsafe { pg_sys::GetTopFullTransactionIdIfAny() }.value) else { return };
    let Some(rings) = Area::mapped().and_then(Area::rings).filter(Rings::must_publish_relations) else { return };
    // Nothing is borrowed meanwhile: whoever is terminated at a lookup ends the transaction right there, without unwinding.
    match PUBLICATIONS.take().or_else(|| OwnPublications::new(rings, xid)) {
        Some(mut publications) => {
            publications.publish(xid, next);
            PUBLICATIONS.set(Some(publications));
        }
        // Whoever turns it on again waits for the end of this transaction.
        None => rings.turn_off_relations(),
    }
}

/// Whether this process holds a lock that a writer of a relation takes; also if that cannot be told.
pub(super) fn holds_locks_of_writers() -> bool {
    // Checked where publications are turned on, and so not where they are off.
    if !locks::are_in_place() {
        return true;
    }
    let mut holds = false;
    locks::walk(|_| holds = true);
    holds
}

impl OwnPublications {
    /// `None` if there is no memory for it.
    fn new(rings: Rings, xid: FullXid) -> Option<OwnPublications> {
        let (written, changed) = (LineSet::new(rings)?, LineSet::new(rings)?);
        Some(OwnPublications { rings, xid, stage: Stage::Collecting, written, changed })
    }

    fn publish(&mut self, xid: FullXid, next: Next) {
        self.forget();
        self.xid = xid;
        // Either may raise an error.
        collect_changed(self.rings, &mut self.written, &mut self.changed);
        collect_written(self.rings, &mut self.written);
        // From here on nothing can fail.
        self.stage = Stage::Published;
        let rings = self.rings;
        match next {
            Next::Commit => self.changed.for_each(|line, _| rings.begin_change(line)),
            // Who ends it tells nobody when its messages are sent. Whoever turns it on again waits for that.
            Next::Prepare if !self.changed.is_empty() => {
                rings.turn_off_relations();
                // No change was begun, so none is to end, should it not be prepared after all.
                self.changed.clear();
            }
            Next::Prepare => {}
        }
        self.written.for_each(|_, key| _ = rings.publish(key, xid));
    }

    /// Nothing is published any more, or not yet.
    fn forget(&mut self) {
        self.stage = Stage::Collecting;
        self.written.clear();
        self.changed.clear();
    }
}

/// Adds what the transaction defines to `changed`, and what old snapshots see in another way for that to `written`. At the
/// outermost level of savepoints.
fn collect_changed(rings: Rings, written: &mut LineSet, changed: &mut LineSet) {
    messages::walk(|key| {
        if let DependencyKey::Relation { relation, .. } = key {
            if kinds::of(relation) == Kind::Temporary {
                return;
            }
            // Old snapshots see other rows from now on, or other partitions.
            written.add(rings, key.hash());
        }
        changed.add(rings, key.hash());
    });
}

/// Adds the tables that the transaction has written to `written`.
fn collect_written(rings: Rings, written: &mut LineSet) {
    let database = handles::my_database();
    let mut write = |relation| written.add(rings, DependencyKey::Relation { database, relation }.hash());
    let (mut unknown, mut count) = ([0; LOOKED_UP], 0);
    locks::walk(|relation| match kinds::known(relation) {
        Some(Kind::NoRows | Kind::Temporary) => {}
        None if count < LOOKED_UP => {
            unknown[count] = relation;
            count += 1;
        }
        Some(Kind::Rows) | None => write(relation),
    });
    for &relation in &unknown[..count] {
        if kinds::of(relation) == Kind::Rows {
            write(relation);
        }
    }
}
