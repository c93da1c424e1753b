//! The encoded form of a neighbour list.
//!
//! ```text
//! list    ┌───────┬───────┬─────────┬─────────┬─ … ─┬─────────┬───────────┬─────────────┬──────────────────┐
//!         │ flags │ count │ row 0   │ row 1   │     │ row n-1 │ ends,     │ labels,     │ labels of each,  │
//!         │       │       │         │         │     │         │ if mixed  │ if any      │ if any has any   │
//!         └───────┴───────┴─────────┴─────────┴─ … ─┴─────────┴───────────┴─────────────┴──────────────────┘
//! row     ┌─────────────┬──────────────┬────────────────────┐
//!         │ block (u32) │ offset (u16) │ distance (f32)     │                      10 bytes, little-endian
//!         └─────────────┴──────────────┴────────────────────┘
//! ends    two bits for each neighbour, then 12 bytes (from, to) for each whose bits are 3
//! labels  their number, then two bytes each; those of a neighbour: their number plus one, or 0 for none at all
//! numbers LEB128: seven bits a byte
//! ```
//!
//! The lowest two bits of `flags` name the ends of all edges, where they are alike: 0 from the node to the neighbour, 1
//! from the neighbour to the node, 2 from the neighbour to itself (the distance to a query); 3 where they are mixed. So
//! n neighbours without labels take 2 + 10 n bytes if their ends are alike and 2 + 10.25 n else (a third byte for the
//! count from 128 neighbours on); 12 more for one with ends unrelated to node and neighbour.
//!
//! Invariants: the same list gives the same bytes; bytes that are no list are refused before anything is read from
//! them.
//!
//! Not here: the node's own pointer; whoever decodes knows it.

use super::neighbors::{EdgeDistance, Neighbor, NeighborRef, NodePointer};
use crate::adapters::codec::DecodeError;

/// An edge whose ends are neither of the node and the neighbour, or a list that has several kinds.
const OTHER_ENDS: u8 = 3;
const ENDS_MASK: u8 = 3;
const HAS_LABELS: u8 = 4;
const HAS_NEIGHBOR_LABELS: u8 = 8;
const ROW_BYTES: usize = NodePointer::BYTES + size_of::<f32>();
const OTHER_ENDS_BYTES: usize = 2 * NodePointer::BYTES;

/// The two bits that say which the ends of a neighbour's edge are. Without branches: directions follow no pattern.
#[inline]
fn ends_of(node: NodePointer, neighbor: &NeighborRef<'_>) -> u8 {
    let word = |pointer: NodePointer| u64::from(pointer.block) << 16 | u64::from(pointer.offset);
    let (from, to) = (word(neighbor.distance.from), word(neighbor.distance.to));
    let (node, pointer) = (word(node), word(neighbor.pointer));
    let outward = u8::from((from == node) & (to == pointer));
    let inward = u8::from((from == pointer) & (to == node));
    let query = u8::from((from == pointer) & (to == pointer));
    (1 - outward) * (inward + (1 - inward) * (OTHER_ENDS - query))
}

/// The bytes of a list of so many neighbours without labels whose edges run between node and neighbour in either
/// direction: the most that a plain list takes. For the size of a cache; see
/// [`memory_for`](crate::adapters::memory_for).
///
/// # Examples
///
/// ```
/// use pg_shared_lru::adapters::graph::{list_bytes, NodePointer};
/// use pg_shared_lru::adapters::memory_for;
///
/// // A table of 100,000 rows, with 50 neighbours each.
/// let bytes = memory_for(100_000, NodePointer::BYTES + list_bytes(50));
/// assert!((600 * 100_000..700 * 100_000).contains(&bytes));
/// ```
pub const fn list_bytes(neighbor_count: usize) -> usize {
    let count_bytes = match neighbor_count {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        0x20_0000..0x1000_0000 => 4,
        _ => 5,
    };
    1 + count_bytes + neighbor_count * ROW_BYTES + neighbor_count.div_ceil(4)
}

/// Appends the neighbour list of `node` to `out`, in the form that the file's head draws. `node` itself is not stored.
///
/// Walks `neighbors` once, and once more for labels and for unrelated ends: an iterator over a consumer's own list that
/// maps each neighbour to a [`NeighborRef`] is as good as any.
///
/// # Panics
///
/// If there are 2³² neighbours or labels.
///
/// # Examples
///
/// A consumer's own types, stored as they are:
///
/// ```
/// use pg_shared_lru::adapters::graph::{decode_list, encode_list, EdgeDistance, NeighborRef, NodePointer};
/// use pg_shared_lru::{CacheValue, DecodeError, Postcard, StoredAs};
/// # #[derive(Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
/// # struct ItemPointer { block_number: u32, offset: u16 }
/// # struct Edge { to: ItemPointer, distance: f32 }
/// struct CacheEntry { edges: Vec<Edge> } // of the consumer, as ItemPointer and Edge
///
/// fn pointer(own: &ItemPointer) -> NodePointer {
///     NodePointer { block: own.block_number, offset: own.offset }
/// }
///
/// impl StoredAs for ItemPointer {
///     type Codec = Postcard<ItemPointer>;
/// }
///
/// impl CacheValue<ItemPointer> for CacheEntry {
///     fn format_name() -> String {
///         "neighbour list, first edition".to_owned()
///     }
///
///     fn encode(&self, node: &ItemPointer, out: &mut Vec<u8>) {
///         let neighbors = self.edges.iter().map(|edge| NeighborRef {
///             pointer: pointer(&edge.to),
///             distance: EdgeDistance { distance: edge.distance, from: pointer(node), to: pointer(&edge.to) },
///             labels: None,
///         });
///         encode_list(pointer(node), None, neighbors, out);
///     }
///
///     fn decode(node: &ItemPointer, bytes: &[u8]) -> Result<Self, DecodeError> {
///         let list = decode_list(pointer(node), bytes)?;
///         let edges = list.neighbors().map(|neighbor| Edge {
///             to: ItemPointer { block_number: neighbor.pointer.block, offset: neighbor.pointer.offset },
///             distance: neighbor.distance.distance,
///         });
///         Ok(CacheEntry { edges: edges.collect() })
///     }
/// }
/// ```
pub fn encode_list<'a>(
    node: NodePointer,
    labels: Option<&[i16]>,
    neighbors: impl ExactSizeIterator<Item = NeighborRef<'a>> + Clone,
    out: &mut Vec<u8>,
) {
    let flags_at = out.len();
    out.push(0);
    write_number(count(neighbors.len()), out);
    let rows_at = out.len();
    let ends_at = rows_at + neighbors.len() * ROW_BYTES;
    out.resize(ends_at + neighbors.len().div_ceil(4), 0);
    let (rows, ends) = out[rows_at..].split_at_mut(ends_at - rows_at);
    let (mut least, mut most, mut any_labels) = (OTHER_ENDS, 0, false);
    for (index, (row, neighbor)) in rows.chunks_exact_mut(ROW_BYTES).zip(neighbors.clone()).enumerate() {
        write_row(row.try_into().expect("the size of the chunks"), &neighbor);
        let own = ends_of(node, &neighbor);
        ends[index / 4] |= own << (2 * (index % 4));
        (least, most) = (least.min(own), most.max(own));
        any_labels |= neighbor.labels.is_some();
    }
    if least >= most && most < OTHER_ENDS {
        out.truncate(ends_at);
        out[flags_at] = most;
    } else {
        out[flags_at] = OTHER_ENDS;
        if most == OTHER_ENDS {
            for neighbor in neighbors.clone().filter(|neighbor| ends_of(node, neighbor) == OTHER_ENDS) {
                neighbor.distance.from.write(out);
                neighbor.distance.to.write(out);
            }
        }
    }
    if let Some(labels) = labels {
        out[flags_at] |= HAS_LABELS;
        write_number(count(labels.len()), out);
        write_labels(labels, out);
    }
    if any_labels {
        out[flags_at] |= HAS_NEIGHBOR_LABELS;
        for neighbor in neighbors {
            write_number(neighbor.labels.map_or(0, |labels| count(labels.len()) + 1), out);
            write_labels(neighbor.labels.unwrap_or_default(), out);
        }
    }
}

fn write_row(row: &mut [u8; ROW_BYTES], neighbor: &NeighborRef<'_>) {
    row[..4].copy_from_slice(&neighbor.pointer.block.to_le_bytes());
    row[4..6].copy_from_slice(&neighbor.pointer.offset.to_le_bytes());
    row[6..].copy_from_slice(&neighbor.distance.distance.to_bits().to_le_bytes());
}

fn read_row(row: &[u8; ROW_BYTES]) -> (NodePointer, f32) {
    let [a, b, c, d, e, f, g, h, i, j] = *row;
    let pointer = NodePointer { block: u32::from_le_bytes([a, b, c, d]), offset: u16::from_le_bytes([e, f]) };
    (pointer, f32::from_bits(u32::from_le_bytes([g, h, i, j])))
}

fn write_labels(labels: &[i16], out: &mut Vec<u8>) {
    out.extend(labels.iter().flat_map(|label| label.to_le_bytes()));
}

fn count(len: usize) -> u32 {
    u32::try_from(len).ok().filter(|&len| len < u32::MAX).expect("a list has less than 2³² members")
}

fn write_number(mut number: u32, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Reads what [`encode_list`] wrote for `node`, which must be the same. Everything is checked here, so that reading the
/// neighbours cannot fail.
///
/// # Errors
///
/// If the bytes are no such list.
pub fn decode_list(node: NodePointer, bytes: &[u8]) -> Result<EncodedList<'_>, DecodeError> {
    EncodedList::check(node, bytes).map_err(|reason| DecodeError::new("neighbor list", bytes.len(), reason))
}

/// An encoded list that was checked.
#[derive(Clone, Debug)]
pub struct EncodedList<'a> {
    node: NodePointer,
    flags: u8,
    rows: &'a [u8],
    ends: &'a [u8],
    other_ends: &'a [u8],
    labels: Option<&'a [u8]>,
    neighbor_labels: &'a [u8],
}

impl<'a> EncodedList<'a> {
    fn check(node: NodePointer, bytes: &'a [u8]) -> Result<Self, &'static str> {
        let mut rest = bytes;
        let [flags, ..] = *take(&mut rest, 1)? else { unreachable!("one byte was taken") };
        if flags & !(ENDS_MASK | HAS_LABELS | HAS_NEIGHBOR_LABELS) != 0 {
            return Err("unknown flags");
        }
        let neighbor_count = take_number(&mut rest)? as usize;
        let rows = take(&mut rest, neighbor_count.saturating_mul(ROW_BYTES))?;
        let mixed = flags & ENDS_MASK == OTHER_ENDS;
        let ends = take(&mut rest, if mixed { neighbor_count.div_ceil(4) } else { 0 })?;
        if mixed && neighbor_count % 4 > 0 && ends[neighbor_count / 4] >> (2 * (neighbor_count % 4)) != 0 {
            return Err("unused bits are set");
        }
        let other_count: u32 = ends.iter().map(|bits| (bits & bits >> 1 & 0b0101_0101).count_ones()).sum();
        let other_ends = take(&mut rest, other_count as usize * OTHER_ENDS_BYTES)?;
        let labels = if flags & HAS_LABELS != 0 {
            let label_count = take_number(&mut rest)?;
            Some(take(&mut rest, 2 * label_count as usize)?)
        } else {
            None
        };
        let neighbor_labels = rest;
        if flags & HAS_NEIGHBOR_LABELS != 0 {
            for _ in 0..neighbor_count {
                take_labels(&mut rest)?;
            }
        }
        if !rest.is_empty() {
            return Err("bytes are left over");
        }
        Ok(EncodedList { node, flags, rows, ends, other_ends, labels, neighbor_labels })
    }

    /// The node's own labels.
    pub fn labels(&self) -> Option<Vec<i16>> {
        self.labels.map(read_labels)
    }

    /// Number of neighbours.
    pub fn len(&self) -> usize {
        self.rows.len() / ROW_BYTES
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The neighbours, in order. Allocates for labels only.
    #[inline]
    #[allow(clippy::missing_panics_doc, reason = "the chunks have the size of a row")]
    pub fn neighbors(&self) -> impl ExactSizeIterator<Item = Neighbor> + 'a {
        let EncodedList { node, flags, ends, mut other_ends, mut neighbor_labels, .. } = *self;
        let alike = flags & ENDS_MASK;
        // An adapter of a slice's chunks, whose exact length a vector knows beforehand.
        self.rows.chunks_exact(ROW_BYTES).enumerate().map(move |(index, row)| {
            let (pointer, distance) = read_row(row.try_into().expect("the size of the chunks"));
            let own = if alike == OTHER_ENDS { ends_at(ends, index) } else { alike };
            let from = if own == 0 { node } else { pointer };
            let to = if own == 1 { node } else { pointer };
            let (from, to) = if own == OTHER_ENDS { take_ends(&mut other_ends) } else { (from, to) };
            let labels = if flags & HAS_NEIGHBOR_LABELS == 0 {
                None
            } else {
                take_labels(&mut neighbor_labels).expect("checked before").map(read_labels)
            };
            Neighbor { pointer, distance: EdgeDistance { distance, from, to }, labels }
        })
    }
}

#[cold]
fn take_ends(rest: &mut &[u8]) -> (NodePointer, NodePointer) {
    let mut pointer = || {
        let bytes = take(rest, NodePointer::BYTES).expect("counted before");
        NodePointer::read(bytes.try_into().expect("as many as were taken"))
    };
    (pointer(), pointer())
}

fn ends_at(ends: &[u8], index: usize) -> u8 {
    ends[index / 4] >> (2 * (index % 4)) & ENDS_MASK
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], &'static str> {
    let (taken, left) = rest.split_at_checked(len).ok_or("bytes are missing")?;
    *rest = left;
    Ok(taken)
}

fn take_number(rest: &mut &[u8]) -> Result<u32, &'static str> {
    let mut number = 0;
    for shift in (0..35).step_by(7) {
        let byte = take(rest, 1)?[0];
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return u32::try_from(number).map_err(|_| "a number has more than 32 bits");
        }
    }
    Err("a number has more than five bytes")
}

fn take_labels<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>, &'static str> {
    match take_number(rest)? {
        0 => Ok(None),
        label_count => take(rest, 2 * (label_count as usize - 1)).map(Some),
    }
}

fn read_labels(bytes: &[u8]) -> Vec<i16> {
    bytes.chunks_exact(2).map(|label| i16::from_le_bytes([label[0], label[1]])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::graph::NeighborList;
    use crate::adapters::stored::CacheValue;

    const NODE: NodePointer = NodePointer { block: 70_000, offset: 3 };

    fn encoded(list: &NeighborList) -> Vec<u8> {
        let mut bytes = Vec::new();
        list.encode(&NODE, &mut bytes);
        assert_eq!(&NeighborList::decode(&NODE, &bytes).unwrap(), list);
        bytes
    }

    fn neighbors(count: u32) -> Vec<Neighbor> {
        (0..count).map(|block| Neighbor::new(NODE, (block, 1).into(), block as f32)).collect()
    }

    #[test]
    fn a_neighbour_takes_ten_bytes_whichever_way_its_edge_runs() {
        let turns: [fn(&mut EdgeDistance); 3] =
            [|_| (), |it| (it.from, it.to) = (it.to, it.from), |it| it.from = it.to];
        for turn in turns {
            let mut list = neighbors(65);
            list.iter_mut().for_each(|neighbor| turn(&mut neighbor.distance));
            assert_eq!(encoded(&list.into()).len(), 2 + 65 * 10);
        }
        let mut mixed = neighbors(64);
        mixed.iter_mut().step_by(2).for_each(|it| it.distance.from = it.distance.to);
        assert_eq!(encoded(&mixed.into()).len(), 2 + 64 * 10 + 64 / 4);
        let mut foreign = neighbors(64);
        foreign[9].distance.from = (1, 99).into();
        assert_eq!(encoded(&foreign.into()).len(), 2 + 64 * 10 + 64 / 4 + 12);
        assert_eq!(encoded(&neighbors(200).into()).len(), 3 + 200 * 10);
    }

    #[test]
    fn float_bits_and_order_survive() {
        let distances = [f32::NAN, f32::from_bits(0xffc0_0001), f32::from_bits(0x7f80_0001), -0.0, 0.0, f32::INFINITY];
        let list: Vec<Neighbor> = distances
            .iter()
            .rev()
            .map(|&distance| Neighbor::new(NODE, (u32::MAX, u16::MAX).into(), distance))
            .collect();
        let bytes = encoded(&list.into());
        let back: Vec<u32> =
            decode_list(NODE, &bytes).unwrap().neighbors().map(|it| it.distance.distance.to_bits()).collect();
        assert_eq!(back, distances.iter().rev().map(|it| it.to_bits()).collect::<Vec<_>>());
    }

    #[test]
    fn labels_of_neighbours_cost_only_where_there_are_any() {
        let mut list = neighbors(3);
        list[1].labels = Some(vec![]);
        list[2].labels = Some(vec![i16::MIN, 5]);
        assert_eq!(encoded(&list.into()).len(), 2 + 3 * 10 + 1 + 1 + 5);
    }

    #[test]
    fn damaged_bytes_are_an_error() {
        let mut list = NeighborList { labels: Some(vec![1, 2]), neighbors: neighbors(5) };
        list.neighbors[3].labels = Some(vec![7]);
        list.neighbors[4].distance.to = (1, 2).into();
        let bytes = encoded(&list);
        for len in 0..bytes.len() {
            assert!(NeighborList::decode(&NODE, &bytes[..len]).is_err(), "{len} of {} bytes", bytes.len());
        }
        let longer = [&bytes[..], &[0]].concat();
        let error = NeighborList::decode(&NODE, &longer).unwrap_err().to_string();
        assert!(error.contains("bytes are left over"), "{error}");
        assert!(decode_list(NODE, &[0, 0xff, 0xff, 0xff, 0xff, 0xff]).is_err());
        assert!(decode_list(NODE, &[0x10, 0]).is_err());
    }
}
