//! Processes at work on one cache: what they read and put, and how they reach it.
//!
//! Purpose: a [`Load`] is a set of keys and values and the order in which they are used, the same for every cache and
//! process; a [`Target`] is what they work on; a [`Worker`] is one process's work. Who starts the processes and takes
//! the time is not here.
//!
//! Invariants: everything random is drawn before a worker's first step. A read that is checked gives bytes that some
//! process may have stored under that key, or the worker fails.

use pg_shared_lru::{RobustLocks, SharedCache};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::content::{Content, Written};
use super::servers::{Connection, Server};
use super::sizes::Sizes;
use super::skew::Skew;

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
    content: Content,
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
    Slab { cache: SharedCache<RobustLocks>, in_place: bool },
    Server(Server),
}

/// A process's way to it.
pub enum Access<'a> {
    Slab { cache: &'a SharedCache<RobustLocks>, in_place: bool },
    Server(Box<Connection>),
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
            content: Content::new(sizes.max()),
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
            self.content.build(self.written(key, 0), &mut value);
            access.put(&self.keys[key as usize], &value)?;
        }
        Ok(())
    }
}

impl Target {
    fn access(&self) -> Result<Access<'_>, String> {
        Ok(match self {
            Target::Slab { cache, in_place } => Access::Slab { cache, in_place: *in_place },
            Target::Server(server) => Access::Server(Box::new(server.connect()?)),
        })
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

impl Access<'_> {
    /// Copies the value to `out`, or, in place, lets `see` have it.
    fn get(&mut self, key: &[u8], out: &mut Vec<u8>, check: impl FnOnce(&[u8])) -> Result<bool, String> {
        let found = match self {
            Access::Slab { cache, in_place: true } => return Ok(cache.with(key, check).is_some()),
            Access::Slab { cache, in_place: false } => cache.get(key, out),
            Access::Server(connection) => connection.get(key, out)?,
        };
        if found {
            check(out);
        }
        Ok(found)
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        match self {
            Access::Slab { cache, .. } => cache.put(key, value).map(drop).map_err(|error| format!("slab: {error}")),
            Access::Server(connection) => match connection.put(key, value)? {
                true => Ok(()),
                false => Err(format!("a server refused a value of {} bytes", value.len())),
            },
        }
    }
}

/// A process at work.
pub struct Worker<'a> {
    load: &'a Load,
    access: Access<'a>,
    role: Role,
    keys: Vec<u32>,
    is_read: Vec<bool>,
    next: usize,
    done: Done,
    read: Vec<u8>,
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
            read: Vec::new(),
            value: Vec::new(),
        };
        worker.map_pages()?;
        Ok(worker)
    }

    /// Reads every key of shared memory once: a process that lives as long as a backend does has long touched its pages.
    fn map_pages(&mut self) -> Result<(), String> {
        if let Access::Slab { .. } = self.access {
            for key in &self.load.keys {
                self.access.get(key, &mut self.read, |_| ())?;
            }
        }
        Ok(())
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
        let found = self.access.get(&load.keys[key as usize], &mut self.read, |value| {
            if checked {
                right = (0..WRITES_PER_KEY).any(|write| load.content.check(load.written(key, write), value).is_ok());
            }
        })?;
        self.done.hits += u64::from(found);
        match right {
            true => Ok(found),
            false => Err(format!("key {key}: a read gave bytes that nobody stored there")),
        }
    }

    fn put(&mut self, key: u32, write: u32) -> Result<(), String> {
        self.load.content.build(self.load.written(key, write), &mut self.value);
        self.access.put(&self.load.keys[key as usize], &self.value)
    }
}
