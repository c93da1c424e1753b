//! Whether something only grows.
//!
//! Purpose: the least-squares slope of values over time that begin anew now and then, as a server's memory does when the
//! server restarts. All stretches between two beginnings have one slope and each a level of its own, so that a new
//! beginning at a lower level is no fall, and no rise if it is higher.
//!
//! Invariant: a slope of too little is none, not 0.

/// Values over time, in stretches.
#[derive(Clone, Debug, Default)]
pub struct Trend {
    stretches: Vec<Vec<(f64, f64)>>,
}

impl Trend {
    /// What comes next has a level of its own.
    pub fn begin(&mut self) {
        self.stretches.push(Vec::new());
    }

    /// A value at a time.
    pub fn push(&mut self, time: f64, value: f64) {
        if self.stretches.is_empty() {
            self.begin();
        }
        self.stretches.last_mut().expect("just begun").push((time, value));
    }

    /// The values that have others of their stretch beside them.
    pub fn points(&self) -> usize {
        self.stretches.iter().map(Vec::len).filter(|points| *points > 1).sum()
    }

    /// How much time the stretches cover together.
    pub fn time(&self) -> f64 {
        let ends = self.stretches.iter().filter_map(|stretch| Some(stretch.last()?.0 - stretch.first()?.0));
        ends.sum()
    }

    /// By how much the value rises in a unit of time; `None` of fewer than `points` values, or of less than `time`: of little
    /// time a single step makes a slope.
    pub fn slope(&self, points: usize, time: f64) -> Option<f64> {
        if self.points() < points.max(2) || self.time() < time {
            return None;
        }
        let (mut products, mut squares) = (0.0, 0.0);
        for stretch in &self.stretches {
            let mean = |of: fn(&(f64, f64)) -> f64| stretch.iter().map(of).sum::<f64>() / stretch.len() as f64;
            let (time_mean, value_mean) = (mean(|point| point.0), mean(|point| point.1));
            for (time, value) in stretch {
                products += (time - time_mean) * (value - value_mean);
                squares += (time - time_mean).powi(2);
            }
        }
        (squares > 0.0).then(|| products / squares)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trend(stretches: &[&[(f64, f64)]]) -> Trend {
        let mut trend = Trend::default();
        for stretch in stretches {
            trend.begin();
            stretch.iter().for_each(|(time, value)| trend.push(*time, *value));
        }
        trend
    }

    #[test]
    fn a_new_beginning_is_neither_a_rise_nor_a_fall() {
        let flat = trend(&[&[(0.0, 5.0), (1.0, 5.0)], &[(2.0, 900.0), (3.0, 900.0)]]);
        assert_eq!(flat.slope(4, 2.0), Some(0.0));
        let rising = trend(&[&[(0.0, 5.0), (1.0, 7.0)], &[(2.0, 0.0), (3.0, 2.0)]]);
        assert_eq!(rising.slope(4, 2.0), Some(2.0));
    }

    #[test]
    fn what_goes_up_and_down_is_flat_and_what_creeps_is_not() {
        let wave = |creep: f64| {
            let mut trend = Trend::default();
            (0..200).for_each(|at| trend.push(f64::from(at), f64::from(at % 2) * 100.0 + creep * f64::from(at)));
            trend.slope(200, 199.0).unwrap()
        };
        assert!(wave(0.0).abs() < 0.01, "{}", wave(0.0));
        assert!((wave(0.5) - 0.5).abs() < 0.01, "{}", wave(0.5));
    }

    #[test]
    fn too_little_has_no_slope() {
        assert_eq!(Trend::default().slope(0, 0.0), None);
        assert_eq!(trend(&[&[(0.0, 1.0)], &[(1.0, 2.0)]]).slope(1, 0.0), None);
        assert_eq!(trend(&[&[(0.0, 1.0), (1.0, 2.0)]]).slope(3, 0.0), None);
        let two_stretches = trend(&[&[(0.0, 1.0), (2.0, 1.0)], &[(5.0, 1.0), (6.0, 1.0)]]);
        assert_eq!((two_stretches.slope(4, 3.0), two_stretches.slope(4, 3.5)), (Some(0.0), None));
        assert_eq!(trend(&[&[(4.0, 1.0), (4.0, 2.0)]]).slope(2, 0.0), None);
    }
}
