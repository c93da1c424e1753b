//! Processes at work on one cache: what they read and put, and how they reach it.
//!
//! Purpose: a [`Load`] is a set of keys and values and the order in which they are used, the same for every cache and
//! process; a [`Target`] is what they work on; a [`Worker`] is one process's work. Who starts the processes and takes
//! the time is not here.
//!
//! Invariants: everything random is drawn before a worker's first step. A read that is checked gives bytes that some
//! process may have stored under that key, or the worker fails.

use std::rc::Rc;

use pg_shared_lru::{RobustLocks, SharedCache};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use testkit::content::Written;

use crate::contender::Contender;
use crate::contenders::server::Remote;
use crate::contenders::slab::Slab;
use crate::servers::Server;
use crate::sizes::Sizes;
use crate::skew::Skew;

/// Operations drawn beforehand, run through again and again.
const DRAWN_OPERATIONS: usize = 1 << 17;
/// How many different values a key gets in turn.
const WRITES_PER_KEY: u32 = 4;
const READS_PER_CHECK: u64 = 64;
/// Operations between two looks at the signal to stop.
const OPERATIONS_PER_LOOK: usize = 32;

/// Options of a load.
#[derive(Clone, Debug, clap::Args)]
pub struct LoadArgs {
    /// How unequally keys are used: uniform, or zipf:S with an exponent S above 0.
    #[arg(long, default_value = "zipf:0.99")]
    pub skew: Skew,
    /// Sizes of values: uniform:LO-HI, FILE.json or spread:FILE.json.
    #[arg(long, default_value = "uniform:800-800")]
    pub sizes: String,
    /// Number of keys.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub keys: u32,
    /// Seed of sizes and of the order of keys.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// Keys and values, the same for every process and cache.
pub struct Load {
    keys: Vec<[u8; 16]>,
    lens: Vec<u32>,
    skew: Skew,
}

/// What a process does.
#[derive(Clone, Copy, PartialEq)]
pub enum Role {
    /// Reads and puts in the shares asked for.
    Mixed { reads: u32 },
    /// Puts over and over.
    Writer,
    /// Neither; takes the processor's time.
    Idler,
}

/// One cache that processes share.
pub enum Target {
    Slab { cache: Rc<SharedCache<RobustLocks>>, in_place: bool },
    Server(Server),
}

/// What a process did in a run.
#[derive(Clone, Copy)]
pub struct Done {
    pub operations: u64,
    pub reads: u64,
    pub hits: u64,
    pub nanoseconds: u64,
}

impl Load {
    /// The load that the options ask for.
    ///
    /// # Errors
    /// The sizes describe no distribution.
    pub fn new(args: &LoadArgs) -> Result<Self, String> {
        let sizes = Sizes::parse(&args.sizes).map_err(|error| error.to_string())?;
        let mut random = SmallRng::seed_from_u64(args.seed);
        let key = |number: u32| {
            let mut key = [0; 16];
            // Spread, so that keys next to each other in use are not next to each other in memory.
            let spread = (u64::from(number) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            key.copy_from_slice(format!("{spread:016x}").as_bytes());
            key
        };
        Ok(Load {
            keys: (0..args.keys).map(key).collect(),
            lens: (0..args.keys).map(|_| sizes.sample(&mut random) as u32).collect(),
            skew: args.skew,
        })
    }

    fn written(&self, key: u32, write: u32) -> Written {
        Written { key: u64::from(key), write, len: self.lens[key as usize] }
    }

    /// Puts every key once.
    ///
    /// # Errors
    /// The cache does not take one.
    pub fn fill(&self, target: &Target) -> Result<(), String> {
        let mut access = target.access()?;
        let mut value = Vec::new();
        for key in 0..self.keys.len() as u32 {
            self.written(key, 0).build(&mut value);
            put(&mut *access, &self.keys[key as usize], &value)?;
        }
        Ok(())
    }
}

impl Target {
    /// A process's way to it.
    fn access(&self) -> Result<Box<dyn Contender>, String> {
        Ok(match self {
            Target::Slab { cache, in_place } => Box::new(Slab::over(cache.clone()).in_place(*in_place)),
            Target::Server(server) => Box::new(Remote::connect(server)?),
        })
    }

    /// How the cache chooses what to lose.
    pub fn policy(&self) -> &'static str {
        match self {
            Target::Slab { cache, .. } => cache.resolved().policy.name(),
            Target::Server(_) => "its own",
        }
    }

    /// Of the slab cache.
    pub fn partitions(&self) -> Option<u32> {
        match self {
            Target::Slab { cache, .. } => Some(cache.resolved().partitions),
            Target::Server(_) => None,
        }
    }

    /// Checks the whole structure, where one can.
    ///
    /// # Errors
    /// What was found wrong.
    pub fn validate(&self) -> Result<(), String> {
        match self {
            Target::Slab { cache, .. } => cache.validate().map_err(|error| format!("slab: at the end: {error}")),
            Target::Server(_) => Ok(()),
        }
    }
}

fn put(cache: &mut dyn Contender, key: &[u8], value: &[u8]) -> Result<(), String> {
    cache.put(key, value).map_err(|refused| format!("{}: {refused}", cache.name()))
}

/// A process at work.
pub struct Worker<'a> {
    load: &'a Load,
    access: Box<dyn Contender>,
    role: Role,
    keys: Vec<u32>,
    is_read: Vec<bool>,
    next: usize,
    done: Done,
    value: Vec<u8>,
}

impl<'a> Worker<'a> {
    /// A process that has done nothing yet.
    ///
    /// # Errors
    /// The server does not answer.
    pub fn new(load: &'a Load, target: &'a Target, role: Role, seed: u64) -> Result<Self, String> {
        let mut random = SmallRng::seed_from_u64(seed);
        let reads = match role {
            Role::Mixed { reads } => reads,
            Role::Writer | Role::Idler => 0,
        };
        let mut worker = Worker {
            load,
            access: target.access()?,
            role,
            keys: load.skew.draw(load.keys.len() as u32, DRAWN_OPERATIONS, &mut random),
            is_read: (0..DRAWN_OPERATIONS).map(|_| random.random_range(..100u32) < reads).collect(),
            next: 0,
            done: Done { operations: 0, reads: 0, hits: 0, nanoseconds: 0 },
            value: Vec::new(),
        };
        if let Target::Slab { .. } = target {
            worker.map_pages();
        }
        Ok(worker)
    }

    /// Reads every key of shared memory once: a process that lives as long as a backend does has long touched its pages.
    fn map_pages(&mut self) {
        for key in &self.load.keys {
            self.access.read(key, &mut |_| ());
        }
    }

    /// What it has done so far; it does not take the time.
    pub fn done(&self) -> Done {
        self.done
    }

    /// Some operations.
    ///
    /// # Errors
    /// The cache gave wrong bytes, or does not answer.
    pub fn step(&mut self) -> Result<(), String> {
        for _ in 0..OPERATIONS_PER_LOOK {
            let (key, is_read) = (self.keys[self.next], self.is_read[self.next]);
            self.next = (self.next + 1) % DRAWN_OPERATIONS;
            self.done.operations += 1;
            if self.role == Role::Idler {
                std::hint::black_box(self.load.keys[key as usize]);
            } else if !is_read {
                self.put(key, self.done.operations as u32 % WRITES_PER_KEY)?;
            } else if !self.get(key)? {
                self.put(key, 0)?;
            }
        }
        Ok(())
    }

    fn get(&mut self, key: u32) -> Result<bool, String> {
        self.done.reads += 1;
        let checked = self.done.reads % READS_PER_CHECK == 0;
        let load = self.load;
        let mut right = true;
        let found = self.access.read(&load.keys[key as usize], &mut |value| {
            if checked {
                right = (0..WRITES_PER_KEY).any(|write| load.written(key, write).check(value).is_ok());
            }
        });
        self.done.hits += u64::from(found);
        match right {
            true => Ok(found),
            false => Err(format!("key {key}: a read gave bytes that nobody stored there")),
        }
    }

    fn put(&mut self, key: u32, write: u32) -> Result<(), String> {
        self.load.written(key, write).build(&mut self.value);
        put(&mut *self.access, &self.load.keys[key as usize], &self.value)
    }
}

#[cfg(test)]
mod tests {
    use pg_shared_lru::Config;

    use super::*;

    /// A worker that reads must notice a value that nobody stored.
    #[test]
    fn a_wrong_value_is_found_out() {
        let args = LoadArgs { skew: Skew::Uniform, sizes: "uniform:20-90".into(), keys: 50, seed: 3 };
        let load = Load::new(&args).unwrap();
        for in_place in [false, true] {
            let cache = Rc::new(SharedCache::shared_mapping(&Config::bytes(1 << 20)).unwrap());
            let target = Target::Slab { cache, in_place };
            load.fill(&target).unwrap();
            let mut worker = Worker::new(&load, &target, Role::Mixed { reads: 90 }, 1).unwrap();
            (0..300).for_each(|_| worker.step().unwrap());
            let done = worker.done();
            assert_eq!((done.operations, done.hits), (9600, done.reads));
            let share = done.reads as f64 / done.operations as f64;
            assert!((0.88..0.92).contains(&share), "{share}");

            let other = Load::new(&LoadArgs { seed: 4, ..args.clone() }).unwrap();
            other.fill(&target).unwrap();
            let mut worker = Worker::new(&load, &target, Role::Mixed { reads: 100 }, 1).unwrap();
            assert!((0..300).any(|_| worker.step().is_err()));
        }
    }
}
