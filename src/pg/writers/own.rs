//! Whether what the current transaction has written and not committed is something that a result depends on.
//!
//! Looked at is what it would publish if it committed now: the tables that it holds a writer's locks on, and the definitions
//! that its invalidation messages name. A commit that publishes none of a result's lines leaves the result right for all who
//! see the commit. What they see of this transaction is what it sees itself. So the result is right for it, too; and one
//! that it makes, without a line of its own, is right for all others. docs/commit-rings.md has the argument.
//!
//! A savepoint that is rolled back gives back its locks, its messages and what it has written. Inside of a savepoint (or of a
//! block of PL/pgSQL that handles exceptions) messages cannot be asked for: then everything counts as touched.
//!
//! What was found is kept until the transaction's next command. What it writes or defines in the current command it does not
//! see before that, and a savepoint that is rolled back only takes away.
//!
//! Cost: nothing without an id. With one, for each command that asks: the walk over the own locks, and a copy of the messages.
//!
//! Locking: as `locks`.
#![allow(unsafe_code)]

use std::cell::RefCell;

use pgrx::pg_sys;

use super::lines::LineSet;
use super::{collect_changed, collect_written};
use crate::pg::area::Area;
use crate::pg::versions;
use crate::rings::table::{LineIndex, Rings};
use crate::rings::xid::FullXid;

/// What one transaction has written and defined.
struct Own {
    rings: Rings,
    /// Of which transaction and command; `None`: of none.
    of: Option<(FullXid, pg_sys::CommandId)>,
    written: LineSet,
    changed: LineSet,
}

thread_local! {
    /// `None` before the first transaction with an id that asks.
    static OWN: RefCell<Option<Own>> = const { RefCell::new(None) };
}

/// Whether the current transaction has written or defined what has one of these lines; also if that cannot be told. May
/// raise an error; holding no LWLock.
pub(in crate::pg) fn touches_one_of(mut lines: impl Iterator<Item = LineIndex>) -> bool {
    // SAFETY: reads what the current transaction is.
    let (xid, command, level) = unsafe {
        let xid = FullXid::new(pg_sys::GetTopFullTransactionIdIfAny().value);
        (xid, pg_sys::GetCurrentCommandId(false), pg_sys::GetCurrentTransactionNestLevel())
    };
    let Some(xid) = xid else { return false };
    let Some(rings) = Area::mapped().and_then(Area::rings).filter(|_| level == 1) else { return true };
    OWN.with_borrow_mut(|own| {
        if own.is_none() {
            *own = Own::new(rings);
        }
        let Some(own) = own else { return true };
        own.look(xid, command);
        let defines_unknown = !versions::CAN_ASK_FOR_MESSAGES_AGAIN && !own.changed.is_empty();
        defines_unknown || lines.any(|line| own.written.contains(line) || own.changed.contains(line))
    })
}

impl Own {
    /// `None` if there is no memory for it.
    fn new(rings: Rings) -> Option<Own> {
        Some(Own { rings, of: None, written: LineSet::new(rings)?, changed: LineSet::new(rings)? })
    }

    fn look(&mut self, xid: FullXid, command: pg_sys::CommandId) {
        if self.of == Some((xid, command)) {
            return;
        }
        let is_same_transaction = self.of.is_some_and(|(of, _)| of == xid);
        let keeps_changed = is_same_transaction && !versions::CAN_ASK_FOR_MESSAGES_AGAIN && !self.changed.is_empty();
        // Until all is there, for either may raise an error.
        self.of = None;
        self.written.clear();
        if !keeps_changed {
            self.changed.clear();
            collect_changed(self.rings, &mut self.written, &mut self.changed);
        }
        collect_written(self.rings, &mut self.written);
        self.of = Some((xid, command));
    }
}
