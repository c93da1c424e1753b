//! The reference models as caches of their own: a textbook CLOCK, and S3-FIFO as in the paper, with exact ghosts.
//!
//! The yardsticks for hits and misses of these policies. Nobody counts what their memory is: it is none that a cache for
//! use would have.

use testkit::models::{self, Clock, Ghosts, Model, S3Fifo};

use super::entry_count;
use crate::contender::{Bound, Contender, Figures, Refused};

/// A cache made of a model.
pub struct Reference {
    name: &'static str,
    model: Model,
    refused: u64,
}

impl Reference {
    /// CLOCK over a number of entries.
    ///
    /// # Errors
    /// Another bound.
    pub fn clock(bound: Bound) -> Result<Self, String> {
        let Bound::Entries { count, .. } = bound else {
            return Err("clock: this reference bounds entries only; give a number of entries".into());
        };
        let bound = models::Bound::Entries(entry_count("clock", count)?.get());
        Ok(Reference { name: "clock", model: Model::new(Box::new(Clock::default()), bound), refused: 0 })
    }

    /// S3-FIFO over a number of entries, or of bytes of values.
    ///
    /// # Errors
    /// Another bound.
    pub fn s3_fifo(bound: Bound) -> Result<Self, String> {
        let (bound, weight) = match bound {
            Bound::Entries { count, .. } => {
                let count = entry_count("s3-fifo", count)?.get();
                (models::Bound::Entries(count), count as u64)
            }
            Bound::ValueBytes(bytes) => (models::Bound::ValueBytes(bytes), bytes),
            Bound::Bytes(_) => return Err("s3-fifo: this reference bounds entries or values alone".into()),
        };
        let order = Box::new(S3Fifo::new(Ghosts::queue(weight)));
        Ok(Reference { name: "s3-fifo", model: Model::new(order, bound), refused: 0 })
    }
}

impl Contender for Reference {
    fn name(&self) -> &'static str {
        self.name
    }

    fn policy(&self) -> &'static str {
        self.name
    }

    fn read(&mut self, key: &[u8], see: &mut dyn FnMut(&[u8])) -> bool {
        self.model.get(key).map(see).is_some()
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Refused> {
        self.model.put(key, value).map(drop).map_err(|_| {
            self.refused += 1;
            Refused::TooLarge
        })
    }

    fn figures(&self) -> Option<Figures> {
        Some(Figures {
            payload_bytes: self.model.bytes(),
            entries: self.model.len() as u64,
            evictions: self.model.evictions(),
            refused: self.refused,
            ..Figures::default()
        })
    }

    fn lost(&self) -> u64 {
        self.model.evictions()
    }
}
