//! How long a worker waits for others before it gives up.

use std::time::{Duration, Instant};

use crate::shared::write_back::Blocked;

/// How long a worker has waited in vain, of the time that it may.
#[derive(Default)]
pub(super) struct WaitBudget {
    since: Option<Instant>,
    blocked: Option<Blocked>,
}

impl WaitBudget {
    /// Begins to count the time, if that has not begun.
    pub(super) fn start(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    /// Waiting for room begins anew whenever some worker has ended what it had in hand.
    pub(super) fn renew_if_changed(&mut self, blocked: Blocked) {
        if self.blocked.replace(blocked) != Some(blocked) {
            self.since = Some(Instant::now());
        }
    }

    /// The time so far.
    pub(super) fn waited(&self) -> Duration {
        self.since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}
