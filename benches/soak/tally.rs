//! What the threads of the run count: waits, checks, failures.
//!
//! Locking: numbers are atomic; what is rare and has a text is behind a mutex.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Of so many wrong values the text is kept.
const WRONG_TEXTS: usize = 10;

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
    pub wrong_values: u64,
    pub wrong_texts: Vec<String>,
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

    pub fn wrong(&self, what: String) {
        let mut faults = self.lock();
        faults.wrong_values += 1;
        if faults.wrong_texts.len() < WRONG_TEXTS {
            eprintln!("soak: {what}");
            faults.wrong_texts.push(what);
        }
    }

    pub fn unexpected(&self, what: String, message: String) {
        let mut faults = self.lock();
        let seen = faults.unexpected.entry(what.clone()).or_insert_with(|| {
            eprintln!("soak: {what}: {message}");
            (0, message)
        });
        seen.0 += 1;
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
