//! Several measurements of one thing.
//!
//! Purpose: a single time on a machine that does other work says little. A program measures each thing several times,
//! all of them taking turns, and reports the median with the least and the most. Where two things are compared, their
//! ratio is taken turn by turn ([`Measured::over`]), so that what slows the machine down for a while slows both.

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

    /// The value in the middle, or the mean of the two there; 0 of none.
    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        match sorted.len() {
            0 => 0.0,
            len if len % 2 == 1 => sorted[len / 2],
            len => (sorted[len / 2 - 1] + sorted[len / 2]) / 2.0,
        }
    }

    /// The least; 0 of none.
    pub fn min(&self) -> f64 {
        self.0.iter().copied().min_by(f64::total_cmp).unwrap_or(0.0)
    }

    /// The most; 0 of none.
    pub fn max(&self) -> f64 {
        self.0.iter().copied().max_by(f64::total_cmp).unwrap_or(0.0)
    }

    /// The ratios to another thing's measurements, turn by turn.
    pub fn over(&self, other: &Measured) -> Measured {
        Measured(self.0.iter().zip(&other.0).map(|(own, other)| own / other).collect())
    }
}
