//! What is measured: one trait for every cache, whatever it holds and wherever it lives.
//!
//! A [`Contender`] holds values of one kind: [`ByteStrings`], which every cache can hold, or [`NeighbourLists`], which two
//! of them have as values of their own type; `contenders::encoded` makes a contender of lists of any other.
//!
//! The indirect calls for an operation cost every contender the same nanosecond or two; a program that measures less than
//! that names the type ([`Contender`] is implemented by plain types).

use std::fmt;

use pg_shared_lru::adapters::graph::NodePointer;
use pg_shared_lru::{Policy, PushError};

use crate::lists::{Description, Edge, Neighbours};

/// A kind of values, with its keys.
pub trait Kind: 'static {
    type Key: ?Sized;
    /// What a put is given.
    type Given<'a>: Copy;
    /// What a read sees.
    type Seen<'a>: Copy;
    /// What a read can be copied to.
    type Copied: Default;

    /// Copies what was seen to `out`, in place of what is there.
    fn copy(seen: Self::Seen<'_>, out: &mut Self::Copied);
}

/// Byte strings under byte strings.
pub enum ByteStrings {}

impl Kind for ByteStrings {
    type Key = [u8];
    type Given<'a> = &'a [u8];
    type Seen<'a> = &'a [u8];
    type Copied = Vec<u8>;

    fn copy(seen: &[u8], out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(seen);
    }
}

/// The lists of a graph under construction.
pub enum NeighbourLists {}

impl Kind for NeighbourLists {
    type Key = NodePointer;
    type Given<'a> = Description<'a>;
    type Seen<'a> = Neighbours<'a>;
    type Copied = Vec<Edge>;

    fn copy(seen: Neighbours<'_>, out: &mut Vec<Edge>) {
        out.clear();
        out.extend(seen.edges());
    }
}

/// Takes what is pushed out: key and value.
pub type OnSpill<'a, K> = dyn FnMut(&<K as Kind>::Key, <K as Kind>::Seen<'_>) + 'a;

/// A cache under measurement.
pub trait Contender<K: Kind = ByteStrings> {
    fn name(&self) -> &'static str;

    /// How it chooses what to lose.
    fn policy(&self) -> &'static str;

    /// Lets `see` have the value where a reader of this cache has it: where it lies, or in a copy that the cache makes. False
    /// if it is not there.
    fn read(&mut self, key: &K::Key, see: &mut dyn FnMut(K::Seen<'_>)) -> bool;

    /// Copies the value to `out`, in place of what is there; false and nothing known about `out` if it is not there.
    fn get(&mut self, key: &K::Key, out: &mut K::Copied) -> bool {
        self.read(key, &mut |seen| K::copy(seen, out))
    }

    /// Stores a value.
    ///
    /// # Errors
    /// The cache does not take it; what was there is unchanged.
    fn put(&mut self, key: &K::Key, value: K::Given<'_>) -> Result<(), Refused>;

    /// As `put`, and tells what is pushed out for it, where the cache can.
    ///
    /// # Errors
    /// As `put`.
    fn put_spilling(
        &mut self,
        key: &K::Key,
        value: K::Given<'_>,
        _spilled: &mut OnSpill<'_, K>,
    ) -> Result<(), Refused> {
        self.put(key, value)
    }

    /// What it says of itself; `None` of one that does not tell.
    fn figures(&self) -> Option<Figures>;

    /// Evictions and wipes so far; of some cheaper to ask than `figures`.
    fn lost(&self) -> u64 {
        self.figures().map_or(0, |figures| figures.evictions + figures.wipes)
    }

    /// The cache's own count of hits and misses, if it has one.
    fn counted(&self) -> Option<(u64, u64)> {
        None
    }

    /// Memory that is not on the process's heap: mappings.
    fn mapped_bytes(&self) -> u64 {
        0
    }

    /// Checks the whole structure, where the cache can.
    ///
    /// # Errors
    /// What was found wrong.
    fn validate(&self) -> Result<(), String> {
        Ok(())
    }
}

/// Why a value was not taken.
#[derive(Clone, Debug)]
pub enum Refused {
    /// The library says why.
    Library(PushError),
    /// It alone is more than the cache may have.
    TooLarge,
    /// A server did not take so many bytes.
    Server(usize),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Library(error) => error.fmt(f),
            Refused::TooLarge => write!(f, "the value alone is more than the cache may have"),
            Refused::Server(bytes) => write!(f, "the server refused a value of {bytes} bytes"),
        }
    }
}

/// State and counts of a cache. Counts are since it was built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// All memory the cache may use, or used at most where it bounds none; `None` where nobody knows.
    pub region_bytes: Option<u64>,
    /// Keys and values of live entries.
    pub payload_bytes: u64,
    /// What live entries cost beside them.
    pub metadata_bytes: u64,
    pub entries: u64,
    pub evictions: u64,
    pub refused: u64,
    pub compactions: u64,
    pub slabs_moved: u64,
    /// Times that everything was thrown away.
    pub wipes: u64,
}

impl Figures {
    /// Live entries with their metadata, as a share of all memory.
    pub fn utilisation(&self) -> Option<f64> {
        self.share(self.payload_bytes + self.metadata_bytes)
    }

    /// Live keys and values, as a share of all memory.
    pub fn payload(&self) -> Option<f64> {
        self.share(self.payload_bytes)
    }

    fn share(&self, bytes: u64) -> Option<f64> {
        self.region_bytes.filter(|&all| all > 0).map(|all| bytes as f64 / all as f64)
    }
}

/// When the cache is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// At `count` entries, none of more than `entry_bytes` of key and value.
    Entries { count: u32, entry_bytes: u32 },
    /// At this many bytes of memory.
    Bytes(u64),
    /// At this many bytes of values alone.
    ValueBytes(u64),
}

/// How each cache is to be made.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub policy: Policy,
    pub bound: Bound,
    /// Slab only; `None` lets the engine choose.
    pub partitions: Option<u32>,
    /// Slab only; `None` lets the engine choose.
    pub slab_bytes: Option<u32>,
    /// Bump only.
    pub bump_buckets: usize,
}
