//! Graphs under construction: what an index builder keeps for each node.
//!
//! `neighbors` has the types, `encoding` the bytes.

mod encoding;
mod neighbors;

pub use encoding::{EncodedList, decode_list, encode_list, list_bytes};
pub use neighbors::{EdgeDistance, Neighbor, NeighborList, NeighborRef, NodePointer, NodePointers};
