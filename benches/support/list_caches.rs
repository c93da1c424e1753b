//! The caches of `caches.rs` with neighbour lists in them, as a graph's builder keeps them.
//!
//! Purpose: compares what a consumer really holds, for the same memory.
//!
//! | kind           | what lies in it                                                                              |
//! |----------------|----------------------------------------------------------------------------------------------|
//! | lru            | the `lru` crate; pgvectorscale's entry: neighbours of 72 bytes in a vector, counted by its real size (`reference.rs`) |
//! | drop-in        | the library's `LruCacheWithStats<NodePointer, NeighborList>`, in the same place in a consumer  |
//! | slab and others | byte strings: the library's encoding of a list, which this file encodes and decodes           |
//!
//! A read gives neighbours that a consumer can walk: of lru where they lie, of the others decoded into one place that
//! each of them keeps for it.
//!
//! What the drop-in and lru push out is handed to whoever asked for the put, as a builder must write it to its index.

use std::num::NonZeroUsize;

use pg_shared_lru::adapters::graph::{Neighbor, NeighborList, NodePointer, decode_list};
use pg_shared_lru::{ENTRY_METADATA_BYTES, LruCacheWithStats};

use super::caches::{Bound, Cache, Figures, Inspect, Kind, Lru, Outcome, Settings, build, entry_count, outcome};
use super::content::Written;
use super::lists::{HeapList, Lists, Neighbours, encode, node, plain};

/// Told of every list that is pushed out, where a cache can tell: its node and its neighbours.
pub type OnSpill<'a> = dyn FnMut(NodePointer, Neighbours<'_>) -> Result<(), String> + 'a;

/// A cache of neighbour lists.
pub trait ListCache: Inspect {
    /// The neighbours of a node.
    fn get(&mut self, node: NodePointer) -> Option<Neighbours<'_>>;

    /// Builds the list that `written` names and stores it.
    ///
    /// # Errors
    /// What `spilled` found wrong.
    fn put(&mut self, written: Written, lists: &Lists, spilled: &mut OnSpill<'_>) -> Result<Outcome, String>;
}

/// Makes the cache of `kind`.
///
/// # Errors
/// The settings do not suit the kind; the message says why.
pub fn build_lists(kind: Kind, settings: &Settings) -> Result<Box<dyn ListCache>, String> {
    match kind {
        Kind::Lru => Ok(Box::new(Lru::<NodePointer, HeapList>::new(settings.bound)?)),
        Kind::DropIn => DropIn::new(settings.bound).map(|cache| Box::new(cache) as Box<dyn ListCache>),
        _ => {
            let cache = build::<{ NodePointer::BYTES }>(kind, settings)?;
            Ok(Box::new(Encoded { cache, bytes: Vec::new(), neighbors: Vec::new() }))
        }
    }
}

/// The `lru` crate's cache of a builder.
impl ListCache for Lru<NodePointer, HeapList> {
    fn get(&mut self, node: NodePointer) -> Option<Neighbours<'_>> {
        self.cache.get(&node).map(HeapList::neighbours)
    }

    fn put(&mut self, written: Written, lists: &Lists, spilled: &mut OnSpill<'_>) -> Result<Outcome, String> {
        let mut told = Ok(());
        let list = HeapList::new(lists.edges(written));
        let put = self.cache.put(node(written.key), list, |node, list| {
            if told.is_ok() {
                told = spilled(node, list.neighbours());
            }
        });
        let outcome = outcome(put, &mut self.refused);
        told.map(|()| outcome)
    }
}

/// The library's cache in the place of that one.
struct DropIn {
    cache: LruCacheWithStats<NodePointer, NeighborList>,
    /// The bytes given, if it was given bytes.
    given_bytes: Option<u64>,
}

impl DropIn {
    fn new(bound: Bound) -> Result<Self, String> {
        const NAME: &str = "Builder neighbor";
        let (cache, given_bytes) = match bound {
            Bound::Entries { count, .. } => {
                let count: NonZeroUsize = entry_count("drop-in", count)?;
                (LruCacheWithStats::new(count, NAME), None)
            }
            Bound::Bytes(bytes) => {
                let given = usize::try_from(bytes).map_err(|_| "drop-in: more bytes than memory can be".to_owned())?;
                let cache = LruCacheWithStats::with_memory(given, NAME).map_err(|error| format!("drop-in: {error}"))?;
                (cache, Some(bytes))
            }
            Bound::ValueBytes(_) => {
                return Err("drop-in: only lru can count values alone; give bytes or entries".into());
            }
        };
        Ok(DropIn { cache: cache.warn_with(|_| ()), given_bytes })
    }
}

impl Inspect for DropIn {
    fn name(&self) -> &'static str {
        "drop-in"
    }

    fn policy(&self) -> &'static str {
        "lru"
    }

    /// With a capacity in entries, its memory is that of its entries.
    fn figures(&self) -> Figures {
        let entries = self.cache.len() as u64;
        let (payload_bytes, metadata_bytes) = (self.cache.bytes(), entries * ENTRY_METADATA_BYTES);
        Figures {
            region_bytes: self.given_bytes.unwrap_or(payload_bytes + metadata_bytes),
            payload_bytes,
            metadata_bytes,
            entries,
            evictions: self.cache.stats().evictions as u64,
            ..Figures::default()
        }
    }

    fn lost(&self) -> u64 {
        self.cache.stats().evictions as u64
    }

    fn counted(&self) -> Option<(u64, u64)> {
        let stats = self.cache.stats();
        Some((stats.hits as u64, stats.misses as u64))
    }
}

impl ListCache for DropIn {
    fn get(&mut self, node: NodePointer) -> Option<Neighbours<'_>> {
        self.cache.get(&node).map(|list| Neighbours::Plain(&list.neighbors))
    }

    fn put(&mut self, written: Written, lists: &Lists, spilled: &mut OnSpill<'_>) -> Result<Outcome, String> {
        let mut evicted = self.cache.push(node(written.key), plain(lists.edges(written)));
        while let Some((node, list)) = evicted {
            spilled(node, Neighbours::Plain(&list.neighbors))?;
            evicted = self.cache.pop_displaced();
        }
        Ok(Outcome::Stored)
    }
}

/// A cache of byte strings with encoded lists in it.
struct Encoded {
    cache: Box<dyn Cache>,
    bytes: Vec<u8>,
    neighbors: Vec<Neighbor>,
}

impl Inspect for Encoded {
    fn name(&self) -> &'static str {
        self.cache.name()
    }

    fn policy(&self) -> &'static str {
        self.cache.policy()
    }

    fn figures(&self) -> Figures {
        self.cache.figures()
    }

    fn lost(&self) -> u64 {
        self.cache.lost()
    }

    fn counted(&self) -> Option<(u64, u64)> {
        self.cache.counted()
    }

    fn validate(&self) -> Result<(), String> {
        self.cache.validate()
    }
}

impl ListCache for Encoded {
    /// # Panics
    /// The cache returned bytes that are no list of this node.
    fn get(&mut self, node: NodePointer) -> Option<Neighbours<'_>> {
        if !self.cache.get(&key_bytes(node), &mut self.bytes) {
            return None;
        }
        let list = decode_list(node, &self.bytes).unwrap_or_else(|error| panic!("{}: {error}", self.cache.name()));
        self.neighbors.clear();
        self.neighbors.extend(list.neighbors());
        Some(Neighbours::Plain(&self.neighbors))
    }

    fn put(&mut self, written: Written, lists: &Lists, _spilled: &mut OnSpill<'_>) -> Result<Outcome, String> {
        let node = node(written.key);
        self.bytes.clear();
        encode(node, lists.edges(written), &mut self.bytes);
        Ok(self.cache.put(&key_bytes(node), &self.bytes))
    }
}

fn key_bytes(node: NodePointer) -> [u8; NodePointer::BYTES] {
    let [a, b, c, d] = node.block.to_le_bytes();
    let [e, f] = node.offset.to_le_bytes();
    [a, b, c, d, e, f]
}
