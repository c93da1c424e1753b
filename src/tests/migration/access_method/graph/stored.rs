use pg_shared_lru::adapters::graph::{EdgeDistance, NeighborRef, NodePointer, NodePointers, decode_list, encode_list};
use pg_shared_lru::{CacheValue, Codec, DecodeError, StoredAs};

use super::neighbor_store::NeighborCacheEntry;
use super::neighbor_with_distance::{DistanceWithTieBreak, NeighborWithDistance};
use crate::access_method::labels::{LabelSet, LabelSetView};
use crate::util::ItemPointer;

/// Six bytes: block and offset.
impl StoredAs for ItemPointer {
    type Codec = ItemPointers;
}

pub struct ItemPointers;

impl Codec for ItemPointers {
    type Item = ItemPointer;

    fn name() -> String {
        NodePointers::name()
    }

    fn encode(pointer: &ItemPointer, out: &mut Vec<u8>) {
        NodePointers::encode(&node(*pointer), out);
    }

    fn decode(bytes: &[u8]) -> Result<ItemPointer, DecodeError> {
        NodePointers::decode(bytes).map(item)
    }
}

/// Ten bytes a neighbour: the node's own pointer is the key, and the distance's ends are the node and the neighbour.
impl CacheValue<ItemPointer> for NeighborCacheEntry {
    fn format_name() -> String {
        "pgvectorscale neighbour list".to_owned()
    }

    fn encode(&self, of: &ItemPointer, out: &mut Vec<u8>) {
        let neighbors = self.neighbors.iter().map(|neighbor| {
            let distance = neighbor.get_distance_with_tie_break();
            let (from, to) = distance.ends();
            NeighborRef {
                pointer: node(neighbor.get_index_pointer_to_neighbor()),
                distance: EdgeDistance { distance: distance.get_distance(), from: node(from), to: node(to) },
                labels: neighbor.get_labels().map(LabelSetView::labels),
            }
        });
        encode_list(node(*of), self.labels.as_ref().map(LabelSetView::labels), neighbors, out);
    }

    fn decode(of: &ItemPointer, bytes: &[u8]) -> Result<Self, DecodeError> {
        let list = decode_list(node(*of), bytes)?;
        let neighbors = list.neighbors().map(|neighbor| {
            let EdgeDistance { distance, from, to } = neighbor.distance;
            let distance = DistanceWithTieBreak::new(distance, item(from), item(to));
            NeighborWithDistance::new(item(neighbor.pointer), distance, neighbor.labels.map(LabelSet::from))
        });
        Ok(NeighborCacheEntry::new(list.labels().map(LabelSet::from), neighbors.collect()))
    }
}

fn node(pointer: ItemPointer) -> NodePointer {
    NodePointer { block: pointer.block_number, offset: pointer.offset }
}

fn item(pointer: NodePointer) -> ItemPointer {
    ItemPointer::new(pointer.block, pointer.offset)
}
