//! What a validation found wrong.

/// Findings that are kept; more are counted only. A damaged region may have one for each of its words.
const MAX_FINDINGS: usize = 1000;

/// What a validation found wrong; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} inconsistencies, the first: {}", .0.len(), .0.first().map_or("", String::as_str))]
pub struct Inconsistencies(pub Vec<String>);

/// Collects what is found wrong.
#[derive(Debug, Default)]
pub struct Findings {
    found: Vec<String>,
    left_out: u64,
}

impl Findings {
    /// Notes something wrong.
    pub fn add(&mut self, what: impl FnOnce() -> String) {
        if self.found.len() < MAX_FINDINGS {
            self.found.push(what());
        } else {
            self.left_out += 1;
        }
    }

    /// Notes a number that is not the expected one.
    pub fn expect<T: PartialEq + std::fmt::Debug>(&mut self, what: impl FnOnce() -> String, found: T, expected: T) {
        if found != expected {
            self.add(|| format!("{}: {found:?}, expected {expected:?}", what()));
        }
    }

    /// Whether nothing was found so far.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// # Errors
    ///
    /// What was found, if anything was.
    pub fn into_result(mut self) -> Result<(), Inconsistencies> {
        if self.left_out > 0 {
            self.found.push(format!("{} more", self.left_out));
        }
        if self.found.is_empty() { Ok(()) } else { Err(Inconsistencies(self.found)) }
    }
}
