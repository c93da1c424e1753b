//! Several measurements of one thing, and the time that a thread has had.
//!
//! Purpose: a single time on a machine that does other work says little. A program measures each thing several times,
//! all of them taking turns, and reports the median with the least and the most. Where two things are compared, their
//! ratio is taken turn by turn ([`Measured::over`]), so that what slows the machine down for a while slows both.
//!
//! Invariant: what was not measured has no number: a median, an end or a share of nothing is `None` or a panic, never 0.

#![allow(unsafe_code)]

use serde::Serialize;

/// Measurements of one thing, in the order of the turns.
#[derive(Clone, Debug, Default)]
pub struct Measured(Vec<f64>);

impl Measured {
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// Itself, if there is any measurement.
    pub fn known(&self) -> Option<&Self> {
        (!self.0.is_empty()).then_some(self)
    }

    /// The value in the middle, or the mean of the two there.
    ///
    /// # Panics
    /// Nothing was measured.
    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        match sorted.len() {
            0 => panic!("a median of nothing"),
            len if len % 2 == 1 => sorted[len / 2],
            len => (sorted[len / 2 - 1] + sorted[len / 2]) / 2.0,
        }
    }

    /// The least.
    ///
    /// # Panics
    /// Nothing was measured.
    pub fn min(&self) -> f64 {
        self.0.iter().copied().min_by(f64::total_cmp).expect("the least of nothing")
    }

    /// The most.
    ///
    /// # Panics
    /// Nothing was measured.
    pub fn max(&self) -> f64 {
        self.0.iter().copied().max_by(f64::total_cmp).expect("the most of nothing")
    }

    /// The ratios to another thing's measurements, turn by turn.
    pub fn over(&self, other: &Measured) -> Measured {
        Measured(self.0.iter().zip(&other.0).map(|(own, other)| own / other).collect())
    }
}

/// A median with its ends.
#[derive(Serialize, Clone, Copy)]
pub struct Spread {
    pub median: f64,
    pub least: f64,
    pub greatest: f64,
}

impl From<&Measured> for Spread {
    fn from(measured: &Measured) -> Spread {
        let round = |number: f64| (number * 1000.0).round() / 1000.0;
        let [median, least, greatest] = [measured.median(), measured.min(), measured.max()].map(round);
        Spread { median, least, greatest }
    }
}

/// A part of a whole; `None` of nothing.
pub fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// The processor time of this thread in nanoseconds: what other processes of the machine take is not counted.
pub fn processor_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes to `time` only; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(values: &[f64]) -> Measured {
        let mut measured = Measured::default();
        values.iter().for_each(|value| measured.push(*value));
        measured
    }

    #[test]
    fn the_median_is_in_the_middle() {
        let three = measured(&[9.0, 1.0, 2.0]);
        assert_eq!((three.median(), three.min(), three.max()), (2.0, 1.0, 9.0));
        assert_eq!(measured(&[4.0, 1.0, 2.0, 9.0]).median(), 3.0);
    }

    #[test]
    fn ratios_are_taken_turn_by_turn() {
        let ratios = measured(&[2.0, 30.0, 4.0]).over(&measured(&[1.0, 10.0, 4.0]));
        assert_eq!((ratios.median(), ratios.min(), ratios.max()), (2.0, 1.0, 3.0));
    }

    #[test]
    fn what_was_not_measured_has_no_number() {
        assert!(Measured::default().known().is_none());
        assert_eq!((share(0, 0), share(1, 4)), (None, Some(0.25)));
    }
}
