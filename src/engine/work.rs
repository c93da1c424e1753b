//! How much an operation may do under one hold of the exclusive lock.
//!
//! Work is counted in units of about one entry touched: some hundreds of nanoseconds where nothing is in the processor's
//! caches. An operation that has more to do stops at a point where the partition is whole, lets the lock go, and comes
//! back; what it has done stays done. So nobody waits for a lock longer than one hold, whatever was asked for.

/// What an operation may still do, over all the holds that it takes.
#[derive(Debug)]
pub struct Work {
    left: u32,
    /// Entries that were passed over because they may not be evicted, since one was met that may.
    passed_over: u64,
    nothing_to_evict: bool,
}

impl Default for Work {
    fn default() -> Self {
        Work::new()
    }
}

impl Work {
    /// Units of one hold.
    pub const UNITS_A_HOLD: u32 = 256;
    /// What it costs to evict an entry: its own lines, its neighbours', its bucket's.
    pub const EVICTION: u32 = 2;
    /// Bytes that may be copied for a unit.
    pub const BYTES_A_UNIT: usize = 512;

    /// The first hold of an operation.
    pub fn new() -> Work {
        Work { left: Self::UNITS_A_HOLD, passed_over: 0, nothing_to_evict: false }
    }

    /// The next hold of the same operation.
    pub fn renew(&mut self) {
        self.left = Self::UNITS_A_HOLD;
    }

    /// Does work of so many units.
    #[inline]
    pub fn spend(&mut self, units: u32) {
        self.left = self.left.saturating_sub(units);
    }

    /// Moves so many bytes.
    #[inline]
    pub fn spend_bytes(&mut self, bytes: usize) {
        self.spend(1 + (bytes / Self::BYTES_A_UNIT) as u32);
    }

    /// Whether the lock must be let go before anything else is done.
    #[inline]
    pub fn is_spent(&self) -> bool {
        self.left == 0
    }

    /// Meets an entry that may be evicted.
    #[inline]
    pub fn meet(&mut self) {
        self.passed_over = 0;
        self.nothing_to_evict = false;
    }

    /// Passes over an entry that may not be evicted. `false` if so many were met that no other is left, of `entries`.
    pub fn pass_over(&mut self, entries: u32) -> bool {
        self.spend(1);
        self.passed_over += 1;
        self.nothing_to_evict |= self.passed_over > 2 * u64::from(entries);
        !self.nothing_to_evict
    }

    /// Whether a search found that no entry may be evicted.
    pub fn nothing_to_evict(&self) -> bool {
        self.nothing_to_evict
    }

    /// Notes that a search found no entry that may be evicted.
    pub fn note_nothing_to_evict(&mut self) {
        self.nothing_to_evict = true;
    }
}
