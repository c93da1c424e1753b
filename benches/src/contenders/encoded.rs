//! Neighbour lists in any cache of byte strings: this file encodes and decodes them with the library's encoding.
//!
//! A read decodes into one place that is kept for it, so that a consumer can walk the neighbours.

use pg_shared_lru::adapters::graph::{Neighbor, NodePointer, decode_list};

use crate::contender::{Contender, Figures, NeighbourLists, Refused};
use crate::lists::{Description, Neighbours, encode};

/// A cache with encoded lists in it.
pub struct Encoded {
    cache: Box<dyn Contender>,
    bytes: Vec<u8>,
    neighbors: Vec<Neighbor>,
}

impl Encoded {
    pub fn over(cache: Box<dyn Contender>) -> Self {
        Encoded { cache, bytes: Vec::new(), neighbors: Vec::new() }
    }
}

impl Contender<NeighbourLists> for Encoded {
    fn name(&self) -> &'static str {
        self.cache.name()
    }

    fn policy(&self) -> &'static str {
        self.cache.policy()
    }

    /// # Panics
    /// The cache returned bytes that are no list of this node.
    fn read(&mut self, node: &NodePointer, see: &mut dyn FnMut(Neighbours<'_>)) -> bool {
        if !self.cache.get(&key_bytes(*node), &mut self.bytes) {
            return false;
        }
        let list = decode_list(*node, &self.bytes).unwrap_or_else(|error| panic!("{}: {error}", self.cache.name()));
        self.neighbors.clear();
        self.neighbors.extend(list.neighbors());
        see(Neighbours::Plain(&self.neighbors));
        true
    }

    fn put(&mut self, node: &NodePointer, list: Description<'_>) -> Result<(), Refused> {
        self.bytes.clear();
        encode(*node, list.edges(), &mut self.bytes);
        self.cache.put(&key_bytes(*node), &self.bytes)
    }

    fn figures(&self) -> Option<Figures> {
        self.cache.figures()
    }

    fn lost(&self) -> u64 {
        self.cache.lost()
    }

    fn counted(&self) -> Option<(u64, u64)> {
        self.cache.counted()
    }

    fn mapped_bytes(&self) -> u64 {
        self.cache.mapped_bytes()
    }

    fn validate(&self) -> Result<(), String> {
        self.cache.validate()
    }
}

fn key_bytes(node: NodePointer) -> [u8; NodePointer::BYTES] {
    let [a, b, c, d] = node.block.to_le_bytes();
    let [e, f] = node.offset.to_le_bytes();
    [a, b, c, d, e, f]
}
