//! Transaction ids, and what a snapshot is asked.
//!
//! Ids are PostgreSQL's 64-bit ones (`FullTransactionId`) and of whole transactions, never of subtransactions. They do
//! not wrap around, so an old publication is never taken for a new one.

use std::num::NonZero;

/// A full transaction id: 64 bits, of which the highest is never set. A million transactions a second need 292,000
/// years for the others.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FullXid(NonZero<u64>);

impl FullXid {
    /// The lowest: of what PostgreSQL did before it had transactions, so it has ended for every snapshot.
    pub const FIRST: FullXid = FullXid(NonZero::<u64>::MIN);

    /// `None` for 0, which is PostgreSQL's word for "no transaction id", and for numbers of more than 63 bits.
    #[inline]
    pub const fn new(value: u64) -> Option<FullXid> {
        match NonZero::new(value) {
            Some(value) if value.get() >> 63 == 0 => Some(FullXid(value)),
            _ => None,
        }
    }

    /// The number.
    #[inline]
    pub const fn get(self) -> u64 {
        self.0.get()
    }
}

/// An MVCC snapshot.
///
/// A transaction *has ended* for a snapshot if it was gone from the array of running transactions (`ProcArray`) when
/// the snapshot was taken, whether it committed or not. Transactions leave the array one after the other, or several in
/// one step; so of two snapshots one sees the end of all that the other does.
pub trait Snapshot {
    /// Every transaction below this id has ended.
    fn xmin(&self) -> FullXid;

    /// Whether a transaction has ended; also asked for ids below [`Snapshot::xmin`].
    fn sees(&self, xid: FullXid) -> bool;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_id_is_zero_and_none_loses_its_highest_bit_in_a_ring() {
        assert_eq!(FullXid::new(0), None);
        assert_eq!(FullXid::new(1 << 63), None);
        let greatest = FullXid::new(u64::MAX >> 1).expect("63 bits");
        assert_eq!(greatest.get() << 1 >> 1, greatest.get());
        assert!(FullXid::new(7) < FullXid::new(1 << 32));
    }
}
