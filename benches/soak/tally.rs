//! What the threads of the run count: waits, checks, failures.
//!
//! Locking: numbers are atomic; what is rare and has a text is behind a mutex.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What a client waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One statement that reads a cache, or gets a lease.
    Get,
    /// One statement that stores or removes.
    Put,
    /// A transaction that changes rows and invalidates.
    Change,
    /// `SELECT 1`.
    Nothing,
    /// Not counted.
    Other,
}

#[derive(Default)]
pub struct Tally {
    /// In microseconds, since the sampler looked: get, put, change, nothing.
    longest: [AtomicU64; 4],
    longest_put_ever: AtomicU64,
    statements: AtomicU64,
    checked: AtomicU64,
    terminated: AtomicU64,
    faults: Mutex<Faults>,
}

/// What went wrong, and what had to.
#[derive(Clone, Default)]
pub struct Faults {
    /// By the cache and what is wrong: how often, and the first.
    pub wrong: BTreeMap<String, (u64, String)>,
    /// By what failed and its SQLSTATE: how often, and the first message.
    pub unexpected: BTreeMap<String, (u64, String)>,
    /// Sessions ended by the run itself, by SQLSTATE, and names that had just changed.
    pub expected: BTreeMap<String, u64>,
}

impl Tally {
    pub fn waited(&self, kind: Kind, time: Duration) {
        self.statements.fetch_add(1, Ordering::Relaxed);
        let microseconds = time.as_micros() as u64;
        if kind == Kind::Put {
            self.longest_put_ever.fetch_max(microseconds, Ordering::SeqCst);
        }
        if let Some(longest) = self.longest.get(kind as usize) {
            longest.fetch_max(microseconds, Ordering::SeqCst);
        }
    }

    /// The longest waits in milliseconds since the last call; `None` where nobody asked.
    pub fn take_longest(&self) -> [Option<f64>; 4] {
        let taken = |longest: &AtomicU64| longest.swap(0, Ordering::SeqCst);
        [0, 1, 2, 3].map(|kind| match taken(&self.longest[kind]) {
            0 => None,
            microseconds => Some(microseconds as f64 / 1e3),
        })
    }

    pub fn longest_put_ever(&self) -> Duration {
        Duration::from_micros(self.longest_put_ever.load(Ordering::SeqCst))
    }

    pub fn statements(&self) -> u64 {
        self.statements.load(Ordering::Relaxed)
    }

    /// A value was right.
    pub fn checked(&self) {
        self.checked.fetch_add(1, Ordering::Relaxed);
    }

    pub fn values_checked(&self) -> u64 {
        self.checked.load(Ordering::Relaxed)
    }

    pub fn terminated(&self) {
        self.terminated.fetch_add(1, Ordering::Relaxed);
    }

    pub fn terminations(&self) -> u64 {
        self.terminated.load(Ordering::Relaxed)
    }

    pub fn wrong(&self, what: String, example: String) {
        note(&mut self.lock().wrong, what, example);
    }

    pub fn unexpected(&self, what: String, message: String) {
        note(&mut self.lock().unexpected, what, message);
    }

    pub fn expected(&self, what: &str) {
        *self.lock().expected.entry(what.to_owned()).or_default() += 1;
    }

    pub fn faults(&self) -> Faults {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Faults {
    pub fn wrong_values(&self) -> u64 {
        self.wrong.values().map(|(count, _)| count).sum()
    }

    pub fn unexpected_errors(&self) -> u64 {
        self.unexpected.values().map(|(count, _)| count).sum()
    }
}

/// Counts it, and says so at once if it is the first.
fn note(faults: &mut BTreeMap<String, (u64, String)>, what: String, text: String) {
    match faults.get_mut(&what) {
        Some((count, _)) => *count += 1,
        None => {
            eprintln!("soak: {what}: {text}");
            faults.insert(what, (1, text));
        }
    }
}
