//! Distributions of value sizes.
//!
//! Purpose: turns what stands on the command line into something to draw sizes from:
//!
//! - `uniform:LO-HI`: every whole number of bytes from LO to HI, both included.
//! - `FILE.json`: a CacheLib cachebench description, `valSizeRange` (bytes) and `valSizeRangeProbability` (weights of
//!   any sum). CacheLib reads these two lists in two ways, told apart by their lengths, and so does this:
//!   *n + 1 bounds, n weights*: a weight is the chance of the range between two neighbouring bounds, lower included,
//!   upper not, all sizes in it alike; *n bounds, n weights*: there are no ranges, each "bound" is itself a size with
//!   its weight.
//! - `spread:FILE.json`: the second kind read as a histogram, as a check that a result does not hang on the few exact
//!   sizes of such a file (32 bytes apart in CacheLib's own): each bound is the upper end of a bin that begins after
//!   the bound before it, and all sizes in the bin are alike. The first bin begins at 1.
//!
//! Invariants: no size drawn exceeds [`Sizes::max`], which is at most [`MAX_SIZE_BYTES`].
//!
//! It does not draw keys, and knows nothing of caches.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::Path;

use rand::{Rng, RngExt};
use rand_distr::Distribution;
use rand_distr::weighted::WeightedAliasIndex;
use serde::Deserialize;

/// Sizes beyond this are taken for a mistake in the description.
pub const MAX_SIZE_BYTES: u64 = 1 << 30;

/// Value sizes to draw from. A size is drawn in constant time.
pub struct Sizes {
    ranges: Vec<RangeInclusive<u64>>,
    choice: WeightedAliasIndex<f64>,
    max: u64,
}

/// What is wrong with a description of sizes.
#[derive(Debug)]
pub struct SizesError {
    spec: String,
    reason: String,
}

impl fmt::Display for SizesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sizes {:?}: {}", self.spec, self.reason)
    }
}

impl std::error::Error for SizesError {}

/// The two lists of a cachebench description that matter here; it may hold any others.
#[derive(Deserialize)]
struct Cachebench {
    #[serde(rename = "valSizeRange")]
    bounds: Vec<f64>,
    #[serde(rename = "valSizeRangeProbability")]
    weights: Vec<f64>,
}

impl Sizes {
    /// Reads `uniform:LO-HI`, `FILE.json` or `spread:FILE.json`.
    ///
    /// # Errors
    /// The text is none of these, the file cannot be read, or its lists do not describe a distribution.
    pub fn parse(spec: &str) -> Result<Self, SizesError> {
        let read = || {
            if let Some(range) = spec.strip_prefix("uniform:") {
                uniform(range)
            } else if let Some(file) = spec.strip_prefix("spread:") {
                cachebench(Path::new(file), true)
            } else if spec.ends_with(".json") {
                cachebench(Path::new(spec), false)
            } else {
                Err("expected uniform:LO-HI, FILE.json or spread:FILE.json".to_string())
            }
        };
        read().map_err(|reason| SizesError { spec: spec.to_string(), reason })
    }

    /// Draws one size in bytes.
    pub fn sample(&self, rng: &mut impl Rng) -> usize {
        let range = &self.ranges[self.choice.sample(rng)];
        let size_bytes = if range.start() == range.end() { *range.start() } else { rng.random_range(range.clone()) };
        debug_assert!(size_bytes <= self.max);
        size_bytes as usize
    }

    /// The largest size that can be drawn, in bytes.
    pub fn max(&self) -> usize {
        self.max as usize
    }

    fn new(ranges: Vec<RangeInclusive<u64>>, weights: Vec<f64>) -> Result<Self, String> {
        debug_assert_eq!(ranges.len(), weights.len());
        let possible = ranges.iter().zip(&weights).filter(|(_, weight)| **weight > 0.0);
        let max = possible.map(|(range, _)| *range.end()).max();
        let max = max.ok_or("no size has a weight above zero")?;
        let choice = WeightedAliasIndex::new(weights).map_err(|error| format!("weights: {error}"))?;
        Ok(Sizes { ranges, choice, max })
    }
}

fn uniform(range: &str) -> Result<Sizes, String> {
    let parsed =
        range.split_once('-').and_then(|(low, high)| Some((low.parse::<u64>().ok()?, high.parse::<u64>().ok()?)));
    match parsed {
        Some((low, high)) if low <= high && high <= MAX_SIZE_BYTES => Sizes::new(vec![low..=high], vec![1.0]),
        _ => Err(format!("expected uniform:LO-HI with LO <= HI <= {MAX_SIZE_BYTES} bytes")),
    }
}

fn cachebench(file: &Path, spread: bool) -> Result<Sizes, String> {
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    let lists: Cachebench = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let (bound_count, weight_count) = (lists.bounds.len(), lists.weights.len());
    let bounds = whole_bytes(&lists.bounds)?;
    let as_ranges = bound_count == weight_count + 1;
    if !as_ranges && bound_count != weight_count {
        return Err(format!(
            "{bound_count} bounds and {weight_count} weights; there must be as many bounds as weights, or one more"
        ));
    }
    if as_ranges && spread {
        return Err("spread: is for files with as many bounds as weights".to_string());
    }
    let rising = bounds.windows(2).all(|pair| pair[0] < pair[1]);
    if (as_ranges || spread) && !rising {
        return Err("the bounds must rise".to_string());
    }
    let ranges = if as_ranges {
        bounds.windows(2).map(|pair| pair[0]..=pair[1] - 1).collect()
    } else if spread {
        let below = std::iter::once(0).chain(bounds.iter().copied());
        below.zip(&bounds).map(|(below, bound)| (below + 1).min(*bound)..=*bound).collect()
    } else {
        bounds.iter().map(|bound| *bound..=*bound).collect()
    };
    Sizes::new(ranges, lists.weights)
}

/// Cachebench writes its bounds as floating-point numbers; a part of a byte is cut off.
fn whole_bytes(bounds: &[f64]) -> Result<Vec<u64>, String> {
    let whole = |bound: &f64| {
        if (0.0..=MAX_SIZE_BYTES as f64).contains(bound) {
            Ok(*bound as u64)
        } else {
            Err(format!("bound {bound} is not between 0 and {MAX_SIZE_BYTES} bytes"))
        }
    };
    bounds.iter().map(whole).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng;
    use rand::rngs::SmallRng;
    use tempfile::TempDir;

    use super::*;

    fn drawn(spec: &str) -> BTreeSet<usize> {
        let sizes = Sizes::parse(spec).unwrap();
        let mut rng = SmallRng::seed_from_u64(7);
        (0..10_000).map(|_| sizes.sample(&mut rng)).collect()
    }

    fn json(folder: &TempDir, bounds: &str, weights: &str) -> String {
        let path = folder.path().join("sizes.json");
        let text = format!(r#"{{"valSizeRange": {bounds}, "valSizeRangeProbability": {weights}, "numOps": 5}}"#);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn error(spec: &str) -> String {
        Sizes::parse(spec).map(drop).unwrap_err().to_string()
    }

    #[test]
    fn uniform_draws_both_its_ends() {
        assert_eq!(drawn("uniform:3-6"), BTreeSet::from([3, 4, 5, 6]));
        assert_eq!(drawn("uniform:9-9"), BTreeSet::from([9]));
    }

    #[test]
    fn as_many_bounds_as_weights_are_sizes() {
        let folder = TempDir::new().unwrap();
        let spec = json(&folder, "[31, 63, 95]", "[1, 0, 2.5]");
        assert_eq!(drawn(&spec), BTreeSet::from([31, 95]));
        assert_eq!(Sizes::parse(&spec).unwrap().max(), 95);
    }

    #[test]
    fn one_bound_more_than_weights_makes_ranges() {
        let folder = TempDir::new().unwrap();
        let spec = json(&folder, "[1.0, 4, 10, 12]", "[1, 0, 1]");
        assert_eq!(drawn(&spec), BTreeSet::from([1, 2, 3, 10, 11]));
    }

    #[test]
    fn spread_fills_the_bins_between_sizes() {
        let folder = TempDir::new().unwrap();
        let spec = json(&folder, "[2, 5, 9]", "[1, 1, 0]");
        assert_eq!(drawn(&format!("spread:{spec}")), BTreeSet::from([1, 2, 3, 4, 5]));
    }

    #[test]
    fn weights_are_kept() {
        let folder = TempDir::new().unwrap();
        let sizes = Sizes::parse(&json(&folder, "[1, 2]", "[900, 100]")).unwrap();
        let mut rng = SmallRng::seed_from_u64(1);
        let twos = (0..100_000).filter(|_| sizes.sample(&mut rng) == 2).count();
        assert!((9_500..10_500).contains(&twos), "{twos}");
    }

    #[test]
    fn nonsense_is_refused() {
        for spec in ["uniform:9-3", "uniform:-3", "uniform:1-99999999999", "uniform:a-b", "normal:3", ""] {
            assert!(error(spec).contains("expected uniform:LO-HI"), "{spec}");
        }
        let folder = TempDir::new().unwrap();
        for (bounds, weights, what) in [
            ("[1, 2]", "[1, 2, 3]", "as many bounds as weights"),
            ("[3, 2, 4]", "[1, 2]", "rise"),
            ("[1, -2]", "[1, 2]", "bound -2"),
            ("[1, 2]", "[0, 0]", "above zero"),
            ("[1, 2]", "[1, -1]", "weights"),
            ("[]", "[]", "above zero"),
            ("7", "[1]", "invalid type"),
        ] {
            let text = error(&json(&folder, bounds, weights));
            assert!(text.contains(what), "{text}");
        }
        assert!(error("/nowhere/sizes.json").contains("/nowhere/sizes.json"));
    }
}
