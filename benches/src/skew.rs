//! How unequally keys are used.

use std::fmt;
use std::str::FromStr;

use rand::RngExt;
use rand::rngs::SmallRng;
use rand_distr::{Distribution, Zipf};

/// How keys are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Skew {
    Uniform,
    /// By Zipf's law with this exponent: the key of rank r as often as r^-s.
    Zipf(f64),
}

impl Skew {
    /// `draws` numbers below `count`, the most frequent being 0.
    ///
    /// # Panics
    /// There is nothing to draw from.
    pub fn draw(self, count: u32, draws: usize, random: &mut SmallRng) -> Vec<u32> {
        match self {
            Skew::Uniform => (0..draws).map(|_| random.random_range(..count)).collect(),
            Skew::Zipf(exponent) => {
                let zipf = Zipf::new(f64::from(count), exponent).expect("at least one key, an exponent above 0");
                (0..draws).map(|_| zipf.sample(random) as u32 - 1).collect()
            }
        }
    }
}

impl FromStr for Skew {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let exponent = text.strip_prefix("zipf:").and_then(|exponent| exponent.parse::<f64>().ok());
        match exponent {
            _ if text == "uniform" => Ok(Skew::Uniform),
            Some(exponent) if exponent > 0.0 && exponent.is_finite() => Ok(Skew::Zipf(exponent)),
            _ => Err(format!("{text:?} is neither uniform nor zipf:S with an S above 0")),
        }
    }
}

impl fmt::Display for Skew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Skew::Uniform => write!(f, "uniform"),
            Skew::Zipf(exponent) => write!(f, "zipf:{exponent}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skews_are_told_apart_and_nonsense_is_refused() {
        assert_eq!("uniform".parse(), Ok(Skew::Uniform));
        assert_eq!("zipf:0.9".parse(), Ok(Skew::Zipf(0.9)));
        for text in ["", "zipf", "zipf:0", "zipf:-1", "zipf:x", "zipf:inf", "normal"] {
            assert!(text.parse::<Skew>().unwrap_err().contains("zipf:S"), "{text}");
        }
    }
}
