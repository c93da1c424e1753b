//! Moments as entries store them: in tenths of a second since the region's epoch, a word of 32 bits.
//!
//! Rounding: an entry expires at the beginning of the tenth in which its time ends. So it is never served longer than its
//! time to live, and up to a tenth of a second less; with less than a tenth to live it may be expired at once.
//!
//! The epoch is when the region was created. From then on a word counts for 13.6 years ([`MAX_TTL_MS`]): nothing can
//! expire later than that, and a clock that goes on beyond stands still at the end, where everything has expired.
//!
//! The engine has no clock. Who asks for something that may depend on the time brings a function that tells it ([`Now`]),
//! which is called if an entry with an expiry is met, and else never.

use std::ops::RangeInclusive;

/// Milliseconds of the unit.
pub const TENTH_MS: u64 = 100;
/// The longest time to live, in milliseconds, of an entry that is stored at the epoch: 13.6 years.
pub const MAX_TTL_MS: u64 = u32::MAX as u64 * TENTH_MS;
/// Times to live that a cache can have for all entries, in milliseconds.
pub const DEFAULT_TTL_RANGE_MS: RangeInclusive<u64> = TENTH_MS..=MAX_TTL_MS;
/// No epoch is as late: 8,900 years after 1970. So no sum of an epoch and a time to live overflows.
pub const EPOCH_LIMIT_MS: u64 = 1 << 48;

/// Tells the time.
pub type Now<'a> = &'a dyn Fn() -> Moment;

/// A moment: tenths of a second since the region's epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub u32);

impl Moment {
    /// The tenth in which a time lies, in milliseconds since 1970: the first, if it is before the epoch; `None` if it is
    /// beyond the last.
    #[inline]
    pub fn of_unix_ms(unix_ms: u64, epoch_ms: u64) -> Option<Moment> {
        u32::try_from(unix_ms.saturating_sub(epoch_ms) / TENTH_MS).ok().map(Moment)
    }

    /// When the tenth begins, in milliseconds since 1970.
    pub fn unix_ms(self, epoch_ms: u64) -> u64 {
        epoch_ms + u64::from(self.0) * TENTH_MS
    }

    /// Whether what expires at this moment has expired.
    #[inline]
    pub fn has_come(self, now: Moment) -> bool {
        now >= self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH_MS: u64 = 1_700_000_000_123;

    #[test]
    fn nothing_is_served_after_its_time_nor_a_tenth_before() {
        for stored_ms in 0..250 {
            for ttl_ms in 0..350 {
                let end_ms = EPOCH_MS + stored_ms + ttl_ms;
                let expires = Moment::of_unix_ms(end_ms, EPOCH_MS).unwrap();
                let is_expired = |unix_ms| expires.has_come(Moment::of_unix_ms(unix_ms, EPOCH_MS).unwrap());
                assert!(is_expired(end_ms), "{ttl_ms} ms after {stored_ms}");
                if ttl_ms > TENTH_MS {
                    assert!(!is_expired(end_ms - TENTH_MS), "{ttl_ms} ms after {stored_ms}");
                }
                assert!(expires.unix_ms(EPOCH_MS) <= end_ms && end_ms < expires.unix_ms(EPOCH_MS) + TENTH_MS);
            }
        }
    }

    #[test]
    fn before_the_epoch_is_the_first_moment_and_beyond_the_last_none() {
        assert_eq!(Moment::of_unix_ms(0, EPOCH_MS), Some(Moment(0)));
        assert_eq!(Moment::of_unix_ms(EPOCH_MS + MAX_TTL_MS, EPOCH_MS), Some(Moment(u32::MAX)));
        assert_eq!(Moment::of_unix_ms(EPOCH_MS + MAX_TTL_MS + TENTH_MS, EPOCH_MS), None);
        assert_eq!(Moment::of_unix_ms(u64::MAX, EPOCH_MS), None);
    }
}
