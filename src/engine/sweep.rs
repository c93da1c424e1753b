//! Sweeps: entries that have expired and that nobody has met since are looked for, so that their memory returns.
//!
//! A sweep follows the directory, as a walk does, from where the last one stopped: that is a word of the partition, so
//! sweeps of several processes share the work. It looks at the record alone, but where an entry expires. A partition
//! without such entries, which it counts, is done with at once.
//!
//! Not needed for what is read to be right: whoever reads looks at the time himself. Without sweeps an entry that has
//! expired goes when it is met by a store, a removal or a read under the exclusive lock, or when its turn to be evicted has
//! come.
//!
//! Locking: the exclusive lock, for a bounded time.

use std::cell::LazyCell;
use std::ops::AddAssign;

use super::ids::EntryIndex;
use super::moment::Now;
use super::partition::Partition;
use super::work::Work;

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SweepReport {
    /// Entries that were looked at.
    pub examined: u64,
    /// Those that had expired, and are removed.
    pub expired: u64,
    /// Bytes of their keys and values. The memory of one that a reader has pinned returns with the last pin.
    pub bytes_freed: u64,
    /// Whether the end of the last partition was reached: the next sweep begins with the first.
    pub is_round_complete: bool,
}

impl AddAssign for SweepReport {
    fn add_assign(&mut self, other: SweepReport) {
        self.examined += other.examined;
        self.expired += other.expired;
        self.bytes_freed += other.bytes_freed;
        self.is_round_complete |= other.is_round_complete;
    }
}

impl Partition {
    /// Looks at the next entries, `budget` at most and as far as the work goes, and removes what has expired. Whether
    /// the round through this partition is complete is in the report.
    pub fn sweep(&mut self, budget: u64, now: Now<'_>, work: &mut Work) -> SweepReport {
        let mut report = SweepReport::default();
        let once = LazyCell::new(now);
        let now = || *once;
        loop {
            let from = EntryIndex(self.state().sweep_from.get());
            let next = if self.state().expiring.get() == 0 { None } else { self.walk(from) };
            let Some(entry) = next else {
                self.state().sweep_from.set(0);
                report.is_round_complete = true;
                return report;
            };
            if report.examined == budget || work.is_spent() {
                return report;
            }
            self.state().sweep_from.set(entry.0 + 1);
            report.examined += 1;
            work.spend(1);
            if self.has_expired(entry, &now) {
                report.expired += 1;
                report.bytes_freed += self.payload.entry_bytes(entry);
                self.remove_expired(entry);
                self.counters.swept().add(1);
                work.spend(Work::EVICTION);
            }
        }
    }
}
