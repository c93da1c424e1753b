//! A result that is kept, as the rows of the node: a copy, which is read to and fro.
//!
//! Invariant: the rows lie in the copy, which lives as long as they do.
//!
//! Not here: whether it may be served (`look_for`).
#![allow(unsafe_code)]

use pgrx::pg_sys;

use crate::pg::bytea::Copied;
use crate::pg::queries::Answer;
use crate::pg::queries::rows::Column;
use crate::pg::stored::Stored;

/// A result that is kept.
pub(super) struct Kept {
    /// The rows lie in it.
    _copied: Copied,
    /// What EXPLAIN says.
    pub(super) outcome: &'static str,
    pub(super) rows: Vec<pg_sys::MinimalTuple>,
    /// 0: before the first row; one more than there are rows: after the last.
    pub(super) position: usize,
    pub(super) slot: *mut pg_sys::TupleTableSlot,
}

impl Kept {
    pub(super) fn go(&mut self, direction: pg_sys::ScanDirection::Type) -> Option<pg_sys::MinimalTuple> {
        self.position = match direction {
            pg_sys::ScanDirection::ForwardScanDirection => (self.position + 1).min(self.rows.len() + 1),
            pg_sys::ScanDirection::BackwardScanDirection => self.position.saturating_sub(1),
            _ => self.position,
        };
        self.rows.get(self.position.checked_sub(1)?).copied()
    }
}

/// A result that was found, if it has these columns.
///
/// # Safety
///
/// - They are those of the description; the query's memory context is current.
pub(super) unsafe fn kept(
    copied: Copied,
    columns: &[Column],
    description: pg_sys::TupleDesc,
    estate: *mut pg_sys::EState,
) -> Option<Kept> {
    let rows = Answer::rows(&copied).filter(|rows| rows.columns().eq(columns.iter().copied()))?;
    let rows = rows.iter().collect();
    // SAFETY: as the caller says.
    let slot = unsafe { pg_sys::ExecInitExtraTupleSlot(estate, description, &raw const pg_sys::TTSOpsMinimalTuple) };
    let is_unchecked = Stored::parse(copied.bytes()).is_some_and(|stored| stored.is_unchecked());
    let outcome = if is_unchecked { "hit, unchecked" } else { "hit" };
    Some(Kept { _copied: copied, outcome, rows, position: 0, slot })
}
