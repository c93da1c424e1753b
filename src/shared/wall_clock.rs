//! The time: the system's real-time clock, which every process of a server reads alike.
//!
//! If somebody sets that clock, entries live as much longer or shorter: a time to live is counted by it.
//!
//! Not here: moments (`engine::moment`), who asks and when (`expiry`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

/// What a handle of a cache takes for the time.
#[derive(Clone, Copy, Debug, Default)]
pub struct WallClock(Option<&'static AtomicU64>);

impl WallClock {
    /// The system's.
    pub const SYSTEM: WallClock = WallClock(None);

    /// A clock that shows so many milliseconds since 1970 as somebody has set it to: for tests.
    pub fn set_by(unix_ms: &'static AtomicU64) -> WallClock {
        WallClock(Some(unix_ms))
    }

    /// Milliseconds since 1970; 0 before.
    pub fn unix_ms(self) -> u64 {
        match self.0 {
            Some(unix_ms) => unix_ms.load(Ordering::SeqCst),
            None => SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis() as u64),
        }
    }
}
