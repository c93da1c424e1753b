//! What a reader asks: one question for who stores a result and for who finds one.
//!
//! A fill takes its snapshot, learns the definitions of each line and then plans; when it has run, it asks here, and
//! stores the answers with the result. A hit takes its snapshot, finds the result, asks here with the definitions that
//! were stored, and serves it if each answer is the one that was stored.
//!
//! The definitions are compared last. The floor that was found (acquire) comes with the definitions renewed for it, so
//! a result from before the rings were off is not taken for one of now. Compared first, they could still be the old
//! ones:
//!
//! ```text
//! who turns it off and on   off                          renew   floor
//! a writer                       finds it off, ends
//! a reader                                 snapshot, definitions        floor, count: all as it was stored
//! ```

use super::definitions::{Definitions, definitions};
use super::line::{LineWords, Publications, publications_seen};
use super::switch::is_usable;
use super::xid::Snapshot;

/// How many of the line's publications the snapshot sees, if that can be told and the line's definitions are those that
/// the result was planned with. To be called after the snapshot was taken, and after a stored result was found.
#[inline]
pub fn ver<const SLOTS: usize, L: LineWords<SLOTS>>(
    switch: &L::Word,
    line: &L,
    snapshot: &impl Snapshot,
    planned_with: Definitions,
) -> Option<Publications> {
    if !is_usable(switch, snapshot) {
        return None;
    }
    let seen = publications_seen(line, snapshot)?;
    (definitions(line) == Some(planned_with)).then_some(seen)
}
