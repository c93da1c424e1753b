//! The stream of puts, and the check of what is read.

use bench::contender::Contender;
use bench::sizes::Sizes;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use testkit::content::Written;

pub const KEY_BYTES: usize = 16;

/// Of how many of the newest keys the last stored value is remembered, for replacing and for checking.
const REMEMBERED_COUNT: usize = 1 << 14;

const REPLACED_SHARE: f64 = 0.1;
const READS_PER_LOOK: usize = 32;

/// The stream of puts, the same for every cache of one seed as long as it refuses the same values.
pub struct Workload {
    rng: SmallRng,
    /// Last stored value of the newest keys, by key number modulo the length; `None` where that was refused.
    remembered: Vec<Option<Written>>,
    next_key: u64,
    value: Vec<u8>,
    read: Vec<u8>,
    pub values_checked: u64,
}

impl Workload {
    pub fn new(seed: u64) -> Self {
        Workload {
            rng: SmallRng::seed_from_u64(seed),
            remembered: vec![None; REMEMBERED_COUNT],
            next_key: 0,
            value: Vec::new(),
            read: Vec::new(),
            values_checked: 0,
        }
    }

    /// Puts a new key, or now and then one of the newest anew; returns the length of the value.
    pub fn put(&mut self, cache: &mut dyn Contender, sizes: &Sizes) -> u64 {
        let len = sizes.sample(&mut self.rng) as u32;
        let replaced = match self.rng.random_bool(REPLACED_SHARE) {
            true => self.remembered[self.rng.random_range(..REMEMBERED_COUNT)],
            false => None,
        };
        let is_new = replaced.is_none();
        let written = match replaced {
            Some(old) => Written { write: old.write + 1, len, ..old },
            None => Written { key: self.next_key, write: 0, len },
        };
        self.next_key += u64::from(is_new);
        written.build(&mut self.value);
        let place = written.key as usize % REMEMBERED_COUNT;
        match cache.put(&key_bytes(written.key), &self.value) {
            Ok(()) => self.remembered[place] = Some(written),
            Err(_) if is_new => self.remembered[place] = None,
            Err(_) => {}
        }
        u64::from(len)
    }

    /// Reads some of the newest keys; those still cached must hold what was last stored.
    pub fn check(&mut self, cache: &mut dyn Contender) -> Result<(), String> {
        for _ in 0..READS_PER_LOOK {
            let place = self.rng.random_range(..REMEMBERED_COUNT);
            let Some(written) = self.remembered[place] else {
                continue;
            };
            if cache.get(&key_bytes(written.key), &mut self.read) {
                written.check(&self.read).map_err(|mismatch| format!("{}: {mismatch}", cache.name()))?;
                self.values_checked += 1;
            }
        }
        Ok(())
    }
}

/// The key's number in hexadecimal: 16 bytes, which any protocol takes.
fn key_bytes(key: u64) -> [u8; KEY_BYTES] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    std::array::from_fn(|at| DIGITS[(key >> (60 - 4 * at)) as usize & 15])
}
