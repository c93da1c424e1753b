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
use crate::engine::outcomes::PushError;
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
    /// Until then at most, and up to a tenth of a second less; a time that is over makes it expired at once. The latest is 13.6
    /// years after the cache was created.
    At(SystemTime),
}

impl<L: Locks> SharedCache<L> {
    /// This handle with another clock: for tests.
    #[doc(hidden)]
    pub fn with_wall_clock(self, wall_clock: WallClock) -> Self {
        SharedCache { wall_clock, ..self }
    }

    pub(super) fn settings(&self) -> &LiveSettings {
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
    #[inline(always)]
    pub(super) fn moment_for(&self, expiry: Expiry) -> Result<Option<Moment>, PushError> {
        match expiry {
            Expiry::Never => Ok(None),
            Expiry::Default => match self.settings().default_ttl_ms.get() {
                0 => Ok(None),
                ttl_ms => self.moment_after(Duration::from_millis(ttl_ms)),
            },
            Expiry::After(ttl) => self.moment_after(ttl),
            Expiry::At(time) => {
                let since_1970 = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                self.moment_at(u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX))
            }
        }
    }

    #[inline(never)]
    fn moment_after(&self, ttl: Duration) -> Result<Option<Moment>, PushError> {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        self.moment_at(self.wall_clock.unix_ms().saturating_add(ttl_ms))
    }

    #[inline(never)]
    fn moment_at(&self, unix_ms: u64) -> Result<Option<Moment>, PushError> {
        let moment = Moment::of_unix_ms(unix_ms, self.epoch_ms);
        if moment.is_none() {
            let now_ms = self.wall_clock.unix_ms();
            let [ttl_ms, max_ms] = [unix_ms, self.epoch_ms + MAX_TTL_MS].map(|until| until.saturating_sub(now_ms));
            return Err(PushError::TtlTooLong { ttl_seconds: ttl_ms / 1000, max_seconds: max_ms / 1000 });
        }
        Ok(moment)
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

#[cfg(test)]
mod tests {
    use std::mem::MaybeUninit;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::engine::config::Config;
    use crate::engine::evicted::Evicted;
    use crate::engine::index::optimistic::PlacementHint;
    use crate::engine::outcomes::Put;
    use crate::engine::policy::Policy;
    use crate::shared::bounded::Fetched;
    use crate::shared::drains::Drained;
    use crate::shared::multi_get::Found;
    use crate::shared::robust_locks::RobustLocks;
    use crate::shared::scan::SnapshotOf;
    use crate::shared::write_back::{Concurrency, Condition, LoadStep, StoreStep};

    const SECOND: Duration = Duration::from_secs(1);

    /// Goes on as the test says.
    struct Clock(&'static AtomicU64);

    impl Clock {
        fn new() -> Clock {
            Clock(Box::leak(Box::new(AtomicU64::new(WallClock::SYSTEM.unix_ms()))))
        }

        fn wait(&self, time: Duration) {
            self.0.fetch_add(time.as_millis() as u64, Ordering::SeqCst);
        }
    }

    fn cache(config: Config) -> (SharedCache<RobustLocks>, Clock) {
        let clock = Clock::new();
        let cache = SharedCache::shared_mapping(&config).unwrap().with_wall_clock(WallClock::set_by(clock.0));
        (cache, clock)
    }

    fn config(policy: Policy) -> Config {
        Config::bytes(2 << 20).partitions(2).slab_bytes(16 << 10).policy(policy)
    }

    /// Sizes of values in one slot, of some with slots to spare, chained, and stored in steps.
    const SIZES: [usize; 7] = [0, 1, 100, 1000, 2030, 9000, 100_000];

    #[test]
    fn no_way_to_read_finds_what_has_expired() {
        for policy in Policy::ALL {
            for size in SIZES {
                let (cache, clock) = cache(config(policy));
                let value = vec![7; size];
                let put = |ttl| cache.put_versioned(b"key", &value, Expiry::After(ttl)).unwrap();
                let (_, version) = put(10 * SECOND);
                let id = cache.iter().next().unwrap().id;
                let (mut out, mut found, mut hint) = (Vec::new(), Found::default(), PlacementHint::default());
                let mut room = vec![MaybeUninit::uninit(); size.next_multiple_of(8)];
                let (first, second) = (version.unwrap(), cache.get_versioned(b"key", &mut out).unwrap());
                let mut answers = || {
                    cache.get_many([&b"key"[..]], &mut found);
                    let mut scanned = Vec::new();
                    (0..2).for_each(|partition| {
                        let cursor = crate::shared::scan::Cursor::from_u64(partition << 32);
                        cache.scan(cursor, 5, SnapshotOf::KeysAndValues, &mut scanned);
                    });
                    [
                        cache.get(b"key", &mut out),
                        cache.get_versioned(b"key", &mut out).is_some(),
                        cache.peek(b"key", &mut out),
                        cache.contains(b"key"),
                        cache.with(b"key", <[u8]>::len).is_some(),
                        found.hits() == 1,
                        cache.get_within(b"key", &mut room) == Fetched::Copied(size),
                        cache.is_current(&first, &mut hint),
                        cache.is_current(&second, &mut hint),
                        cache.touch(&first, &mut hint),
                        cache.entry(id).is_some(),
                        cache.value_of(id, &mut out).is_some(),
                        cache.iter().count() == 1,
                        scanned.len() == 1,
                    ]
                };
                assert_eq!(answers(), [true; 14], "{policy}, {size} bytes");
                clock.wait(10 * SECOND - Duration::from_millis(100));
                assert_eq!(answers(), [true; 14], "{policy}, {size} bytes");
                clock.wait(Duration::from_millis(100));
                assert_eq!(answers(), [false; 14], "{policy}, {size} bytes");
                let stats = cache.stats();
                assert_eq!(stats.expirations, u64::from(policy == Policy::Lru), "it goes if the lock is exclusive");
                cache.validate().unwrap();
                assert_eq!(put(SECOND).0, Put::Inserted);
                clock.wait(SECOND);
                assert_eq!(cache.put(b"key", &value), Ok(Put::Inserted));
                clock.wait(100_000 * SECOND);
                assert_eq!(cache.put(b"key", &value), Ok(Put::Replaced), "it has lost its expiry");
                assert_eq!(cache.stats().expirations, 2, "{policy}, {size} bytes");
                cache.validate().unwrap();
            }
        }
    }

    #[test]
    fn what_has_expired_is_handed_to_nobody() {
        let (cache, clock) = cache(config(Policy::Lru).partitions(1));
        for (key, size) in [(b"a", 100), (b"b", 100), (b"c", 9000), (b"d", 100_000), (b"e", 100)] {
            cache.put_with(key, &vec![key[0]; size], Expiry::After(SECOND)).unwrap();
        }
        cache.put(b"f", b"1").unwrap();
        clock.wait(SECOND);
        assert_eq!((cache.remove(b"a"), cache.discard(b"b")), (None, false));
        let mut drained = Evicted::default();
        drained.try_reserve(5, 300_000).unwrap();
        assert_eq!(cache.drain_within(0, 5, &mut drained), Drained::Entries(1));
        assert_eq!(drained.get(0), (&b"f"[..], &b"1"[..]));
        assert_eq!((cache.stats().expirations, cache.stats().removals, cache.len()), (5, 1, 0));
        cache.put_with(b"a", b"", Expiry::After(Duration::ZERO)).unwrap();
        cache.put(b"b", b"2").unwrap();
        assert_eq!(cache.pop_lru(), Some((b"b".to_vec(), b"2".to_vec())));
        assert_eq!(cache.pop_lru(), None);
        // More than one hold of the lock drops.
        (0..1000u32).for_each(|key| _ = cache.put_with(&key.to_be_bytes(), b"", Expiry::After(SECOND)).unwrap());
        cache.put(b"last", b"3").unwrap();
        clock.wait(SECOND);
        assert_eq!(cache.pop_lru(), Some((b"last".to_vec(), b"3".to_vec())));
        (0..1000u32).for_each(|key| _ = cache.put_with(&key.to_be_bytes(), b"", Expiry::After(SECOND)).unwrap());
        clock.wait(SECOND);
        assert_eq!(cache.drain(|_, _| panic!("nothing is left")), 0);
        assert_eq!((cache.len(), cache.stats().expirations), (0, 5 + 1 + 2000));
        cache.validate().unwrap();
        let (parts, _) = self::cache(config(Policy::Clock));
        parts.put_with(b"a", b"", Expiry::After(Duration::ZERO)).unwrap();
        parts.put(b"b", b"").unwrap();
        assert_eq!(parts.into_parts().iter().collect::<Vec<_>>(), [(&b"b"[..], &b""[..])]);
    }

    #[test]
    fn an_expiry_costs_four_bytes_and_none_where_there_is_none() {
        let stored = |expiry| {
            let cache = SharedCache::private(&Config::bytes(1 << 20).partitions(1)).unwrap();
            (0..1000u32).for_each(|key| _ = cache.put_with(&key.to_be_bytes(), &[1; 101], expiry).unwrap());
            cache.validate().unwrap();
            cache.memory_report().classes.iter().skip(1).map(|class| class.stored_bytes).sum::<u64>()
        };
        let (with, without) = (stored(Expiry::After(SECOND)), stored(Expiry::Never));
        assert_eq!((with, without), (1000 * (8 + 8 + 101 + 4), 1000 * (8 + 8 + 101)));
        let config = Config::entries(10, 100).ttl(SECOND);
        let cache = SharedCache::private(&config).unwrap();
        assert_eq!(cache.put(b"key", &[1; 93]), Ok(Put::Inserted));
        assert_eq!(cache.put(b"key", &[1; 94]), Err(PushError::TooLarge { bytes: 101, max: 100 }));
        assert_eq!(cache.put_with(b"key", &[1; 97], Expiry::Never), Ok(Put::Replaced));
    }

    #[test]
    fn a_default_is_for_puts_that_say_nothing_and_can_be_changed_by_any_handle() {
        let (cache, clock) = cache(config(Policy::Clock).ttl(SECOND));
        let other = cache.attach_again().unwrap();
        assert_eq!(other.default_ttl(), Some(SECOND));
        cache.put(b"default", b"").unwrap();
        cache.put_if_room(b"if room", b"").unwrap();
        cache.put_with(b"never", b"", Expiry::Never).unwrap();
        cache.put_with(b"longer", b"", Expiry::After(10 * SECOND)).unwrap();
        other.set_default_ttl(None).unwrap();
        assert_eq!(cache.default_ttl(), None);
        cache.put(b"later", b"").unwrap();
        clock.wait(SECOND);
        let there = |keys: &[&str]| keys.iter().filter(|key| cache.contains(key.as_bytes())).count();
        assert_eq!((there(&["default", "if room"]), there(&["never", "longer", "later"])), (0, 3));
        clock.wait(9 * SECOND);
        assert_eq!((there(&["longer"]), there(&["never", "later"])), (0, 2));
        cache.validate().unwrap();
    }

    #[test]
    fn a_time_to_live_out_of_range_is_refused_with_the_longest() {
        for ttl in [Duration::ZERO, Duration::from_millis(99), Duration::from_millis(MAX_TTL_MS + 1), Duration::MAX] {
            let error = Config::bytes(1 << 20).ttl(ttl).region_bytes().unwrap_err();
            assert!(error.to_string().contains("from 100 to 429496729500"), "{error}");
            let cache = SharedCache::private(&Config::bytes(1 << 20)).unwrap();
            assert_eq!(cache.set_default_ttl(Some(ttl)), Err(error));
            assert_eq!(cache.default_ttl(), None);
        }
        let (cache, clock) = cache(config(Policy::Clock));
        clock.wait(1_000_000 * SECOND);
        cache.put(b"key", b"old").unwrap();
        let refused = cache.put_with(b"key", b"new", Expiry::After(Duration::MAX)).unwrap_err();
        let PushError::TtlTooLong { max_seconds, .. } = refused else { panic!("{refused}") };
        assert!((429_496_729 - 1_000_010..=429_496_729 - 1_000_000).contains(&max_seconds), "{max_seconds}");
        assert!(cache.peek(b"key", &mut Vec::new()), "the old value stays");
        assert_eq!(cache.stats().refused, 1);
        let expiry = |seconds| Expiry::After(Duration::from_secs(seconds));
        assert!(cache.put_with(b"key", b"new", expiry(max_seconds + 2)).is_err());
        cache.put_with(b"key", b"new", expiry(max_seconds)).unwrap();
        cache.put_with(b"large", &[1; 100_000], expiry(max_seconds + 2)).unwrap_err();
        clock.wait(Duration::from_secs(max_seconds - 1));
        assert!(cache.contains(b"key"));
        clock.wait(1000 * SECOND);
        assert!(!cache.contains(b"key"), "time stands still, and everything is over");
        cache.put(b"key", b"").unwrap();
        assert!(cache.contains(b"key"), "what does not expire is not concerned");
        cache.validate().unwrap();
    }

    #[test]
    fn a_damaged_default_is_reported_and_refused() {
        let (cache, _clock) = cache(config(Policy::Clock));
        for damaged in [1, 99, 2 * MAX_TTL_MS, u64::MAX] {
            cache.settings().default_ttl_ms.set(damaged);
            assert!(cache.validate().unwrap_err().to_string().contains("time to live"));
            assert!(cache.attach_again().unwrap_err().to_string().contains("impossible time to live"));
            let put = cache.put(b"key", b"");
            assert_eq!(put.is_err(), damaged > MAX_TTL_MS, "a time to live without meaning is refused");
            assert!(cache.put_with(b"key", b"", Expiry::Never).is_ok() && cache.contains(b"key"));
        }
        cache.set_default_ttl(None).unwrap();
        cache.settings().sweep_partition.set(u32::MAX);
        assert!(cache.sweep(u64::MAX).is_round_complete);
        cache.validate().unwrap();
    }

    #[test]
    fn a_clock_that_is_set_back_behind_the_epoch_neither_ends_nor_renews_a_life_beyond_its_end() {
        let (cache, clock) = cache(config(Policy::Clock));
        let now_ms = clock.0.load(Ordering::SeqCst);
        cache.put_with(b"key", b"", Expiry::After(10 * SECOND)).unwrap();
        clock.0.store(now_ms - 100_000, Ordering::SeqCst);
        assert!(cache.contains(b"key"));
        cache.put_with(b"early", b"", Expiry::After(SECOND)).unwrap();
        assert!(!cache.contains(b"early"), "its end lies before time begins");
        clock.0.store(now_ms + 10_000, Ordering::SeqCst);
        assert!(!cache.contains(b"key"));
    }

    #[test]
    fn a_sweep_goes_on_where_the_last_one_stopped_and_looks_at_nothing_where_nothing_expires() {
        let (cache, clock) = cache(config(Policy::Clock));
        let other = cache.attach_again().unwrap().with_wall_clock(WallClock::set_by(clock.0));
        (0..3000u32).for_each(|key| _ = cache.put(&key.to_be_bytes(), &[1; 20]).unwrap());
        let idle = cache.sweep(u64::MAX);
        assert_eq!((idle.examined, idle.is_round_complete), (0, true));
        assert!(cache.sweep(0).is_round_complete);
        for key in (0..3000u32).filter(|key| key % 3 == 0) {
            let ttl = if key % 2 == 0 { SECOND } else { 10 * SECOND };
            cache.put_with(&key.to_be_bytes(), &[2; 20], Expiry::After(ttl)).unwrap();
        }
        cache.put_with(b"large", &[3; 200_000], Expiry::After(SECOND)).unwrap();
        clock.wait(SECOND);
        let (mut sum, mut steps) = (SweepReport::default(), 0);
        while !sum.is_round_complete {
            let report = if steps % 2 == 0 { &cache } else { &other }.sweep(100);
            assert!(report.examined == 100 || report.is_round_complete);
            sum += report;
            steps += 1;
        }
        let expected =
            SweepReport { examined: 3001, expired: 501, bytes_freed: 500 * 24 + 200_005, is_round_complete: true };
        assert_eq!(sum, expected);
        assert_eq!((cache.stats().expirations, cache.len()), (501, 2500));
        cache.validate().unwrap();
        clock.wait(9 * SECOND);
        assert_eq!(cache.sweep(u64::MAX).expired, 500);
        assert_eq!(cache.sweep(u64::MAX).examined, 0, "nothing that expires is left");
        cache.validate().unwrap();
    }

    #[test]
    fn a_value_that_expires_while_it_is_pinned_stays_until_its_reader_is_done() {
        for policy in [Policy::Lru, Policy::Clock] {
            let (cache, clock) = cache(config(policy));
            cache.put_with(b"key", &[7; 300], Expiry::After(SECOND)).unwrap();
            cache.with(b"key", |value| {
                clock.wait(SECOND);
                assert_eq!(cache.with(b"key", <[u8]>::len), None);
                cache.sweep(u64::MAX);
                assert_eq!((cache.len(), cache.pinned()), (0, 1));
                cache.put(b"key", &[8; 300]).unwrap();
                assert_eq!(value, [7; 300]);
                cache.validate().unwrap();
            });
            assert_eq!((cache.len(), cache.pinned(), cache.stats().expirations), (1, 0, 1));
            cache.validate().unwrap();
        }
    }

    #[test]
    fn a_reset_forgets_what_expires() {
        let (cache, clock) = cache(config(Policy::Clock));
        (0..100u32).for_each(|key| _ = cache.put_with(&key.to_be_bytes(), b"", Expiry::After(SECOND)).unwrap());
        cache.sweep(10);
        (0..2).for_each(|partition| cache.unlocked(partition).mark_damaged());
        clock.wait(SECOND);
        let report = cache.sweep(u64::MAX);
        assert_eq!((report.examined, report.is_round_complete, cache.len()), (0, true, 0));
        cache.validate().unwrap();
    }

    #[test]
    fn in_front_of_a_store_nothing_expires() {
        let (cache, clock) = cache(config(Policy::Clock).ttl(SECOND));
        let store = |key: &[u8], condition: &mut Condition<'_, '_, _>| {
            let step = cache.store_if(key, b"value", condition, &cache.resets(), &mut 0).unwrap();
            assert!(matches!(step, StoreStep::Done(..)), "{step:?}");
        };
        store(b"dirty", &mut Condition::None);
        let LoadStep::Yours(mut load) = cache.lease_load(b"clean", Concurrency::Single) else { panic!("it is absent") };
        store(b"clean", &mut Condition::Loaded(&mut load));
        store(b"small", &mut Condition::None);
        store(b"large", &mut Condition::None);
        // An expiry for what the store does not have is not heeded.
        cache.put_with(b"small", b"other", Expiry::After(SECOND)).unwrap();
        cache.put_with(b"large", &[1; 100_000], Expiry::After(SECOND)).unwrap();
        cache.validate().unwrap();
        // What has expired is as good as absent to a load and to a store.
        cache.put(b"expires", b"").unwrap();
        cache.put(b"expires, too", b"").unwrap();
        clock.wait(100 * SECOND);
        assert!([&b"dirty"[..], b"clean", b"small", b"large"].iter().all(|key| cache.contains(key)));
        let LoadStep::Yours(mut load) = cache.lease_load(b"expires", Concurrency::Single) else { panic!("it is gone") };
        store(b"expires", &mut Condition::Loaded(&mut load));
        store(b"expires, too", &mut Condition::None);
        clock.wait(100 * SECOND);
        assert_eq!(cache.iter().filter(|entry| entry.expires.is_none()).count(), 6);
        cache.validate().unwrap();
    }

    #[test]
    fn a_large_value_in_one_slot_loses_its_expiry_over_a_dirty_one() {
        let (cache, clock) = cache(Config::bytes(16 << 20).partitions(1).slab_bytes(1 << 20).policy(Policy::Clock));
        _ = cache.store_if(b"key", b"dirty", &mut Condition::None, &cache.resets(), &mut 0).unwrap();
        cache.put_with(b"key", &[1; 100_000], Expiry::After(SECOND)).unwrap();
        cache.validate().unwrap();
        clock.wait(SECOND);
        assert!(cache.contains(b"key"));
        cache.put_with(b"other", &[1; 100_000], Expiry::After(SECOND)).unwrap();
        assert!(cache.contains(b"other"));
        clock.wait(SECOND);
        assert!(!cache.contains(b"other"));
        cache.validate().unwrap();
    }
}
