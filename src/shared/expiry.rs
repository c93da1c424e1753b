//! How long entries live, and sweeps of those whose time is over.
//!
//! Who stores says how long the entry is to live, or leaves it to the cache's default, which lies in the region. What has
//! expired is never returned, whoever asks, in whatever way; the clock is asked only if an entry is met that expires.
//! Removed is such an entry by whoever meets it under the exclusive lock of its partition, or by a sweep.
//!
//! Not here: the roundings (`engine::moment`), the clock (`wall_clock`).

use std::time::{Duration, SystemTime};

use super::cache::SharedCache;
use super::lock::Locks;
use super::wall_clock::WallClock;
use crate::engine::config::checked_ttl_ms;
use crate::engine::config_error::ConfigError;
use crate::engine::header::{LiveSettings, live_settings};
use crate::engine::moment::{MAX_TTL_MS, Moment};
use crate::engine::partition::PushError;
pub use crate::engine::sweep::SweepReport;
use crate::engine::work::Work;

/// How long an entry lives, from when it is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expiry {
    /// As long as the cache says: [`Config::ttl`](crate::Config::ttl), [`SharedCache::set_default_ttl`].
    #[default]
    Default,
    /// Until it is removed, replaced or evicted.
    Never,
    /// So long at most, and up to a tenth of a second less: entries expire at the beginning of the tenth in which their
    /// time ends. With less than a tenth it may be, and with zero it is, expired as soon as it is stored; the value that
    /// the key had is replaced all the same. The longest is 13.6 years less the age of the cache.
    After(Duration),
}

impl<L: Locks> SharedCache<L> {
    /// This handle with another clock: for tests.
    #[doc(hidden)]
    pub fn with_wall_clock(self, wall_clock: WallClock) -> Self {
        SharedCache { wall_clock, ..self }
    }

    fn settings(&self) -> &LiveSettings {
        live_settings(&self.region)
    }

    /// How long entries live whose put says nothing; `None`: for ever.
    pub fn default_ttl(&self) -> Option<Duration> {
        // Under a lock, so that the memory is the cache's.
        let ttl_ms = self.shared(0, |_| self.settings().default_ttl_ms.get());
        (ttl_ms > 0).then(|| Duration::from_millis(ttl_ms))
    }

    /// Changes how long entries live that are stored from now on by puts that say nothing, of any process. `None`: for
    /// ever. Entries that are there keep what they have.
    ///
    /// # Errors
    ///
    /// [`ConfigError::TtlMs`]: less than a tenth of a second, or more than 13.6 years.
    pub fn set_default_ttl(&self, ttl: Option<Duration>) -> Result<(), ConfigError> {
        let ttl_ms = checked_ttl_ms(ttl)?;
        self.shared(0, |_| self.settings().default_ttl_ms.set(ttl_ms));
        Ok(())
    }

    /// The moment that it is. Beyond the last one it stays that.
    #[cold]
    pub(super) fn now(&self) -> Moment {
        Moment::of_unix_ms(self.wall_clock.unix_ms(), self.epoch_ms).unwrap_or(Moment(u32::MAX))
    }

    /// When an entry expires that is stored now. Asked under a lock, where the memory is the cache's.
    #[inline]
    pub(super) fn moment_for(&self, expiry: Expiry) -> Result<Option<Moment>, PushError> {
        match expiry {
            Expiry::Never => Ok(None),
            Expiry::Default => match self.settings().default_ttl_ms.get() {
                0 => Ok(None),
                ttl_ms => self.moment_after(ttl_ms).map(Some),
            },
            Expiry::After(ttl) => self.moment_after(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)).map(Some),
        }
    }

    #[inline(never)]
    fn moment_after(&self, ttl_ms: u64) -> Result<Moment, PushError> {
        let now_ms = self.wall_clock.unix_ms();
        Moment::of_unix_ms(now_ms.saturating_add(ttl_ms), self.epoch_ms).ok_or_else(|| {
            let max_ms = (self.epoch_ms + MAX_TTL_MS).saturating_sub(now_ms);
            PushError::TtlTooLong { ttl_seconds: ttl_ms / 1000, max_seconds: max_ms / 1000 }
        })
    }

    /// A moment as the system tells time.
    pub(super) fn system_time(&self, moment: Moment) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(moment.unix_ms(self.epoch_ms))
    }

    /// Removes entries that have expired: looks at the next `budget` entries, from where the last sweep of any process
    /// stopped, until the end of the last partition. `u64::MAX` ends the round.
    ///
    /// No read needs it to be right, and no store to find room; it returns memory that would else be held until it is
    /// needed. Call it now and then, from one process or from several.
    ///
    /// Cost: a look at the record of each entry, in steps that hold a partition's exclusive lock for a bounded time; where
    /// no entry expires, one lock a partition.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use pg_shared_lru::{Config, Expiry, SharedCache};
    /// let cache = SharedCache::private(&Config::bytes(1 << 20))?;
    /// cache.put_with(b"key", b"value", Expiry::After(Duration::ZERO))?;
    /// assert!(!cache.contains(b"key"));
    /// let report = cache.sweep(1000);
    /// assert_eq!((report.expired, report.bytes_freed, report.is_round_complete), (1, 8, true));
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn sweep(&self, budget: u64) -> SweepReport {
        let mut report = SweepReport::default();
        let now = || self.now();
        let count = self.partition_count();
        let first = self.shared(0, |_| self.settings().sweep_partition.get()) as usize % count;
        for index in first..count {
            let before = report.expired;
            let is_done = loop {
                let mut work = Work::new();
                let step = self.exclusive(index, |partition| {
                    let step = partition.sweep(budget - report.examined, &now, &mut work);
                    if step.is_round_complete {
                        self.settings().sweep_partition.set(((index + 1) % count) as u32);
                    }
                    step
                });
                report += SweepReport { is_round_complete: step.is_round_complete && index + 1 == count, ..step };
                if step.is_round_complete || report.examined == budget {
                    break step.is_round_complete;
                }
            };
            if report.expired > before {
                self.free_large(index);
            }
            if !is_done {
                break;
            }
        }
        report
    }
}
