//! docs/pgvectorscale.md, compiled and run over types written like pgvectorscale's.
//!
//! What must hold: every value comes back as it was, tie-breaks included; the private drop-in hands out what has to be
//! written; and with the shared cache several workers lose none of each other's back-pointers.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::num::NonZero;
use std::sync::Mutex;

use pg_shared_lru::adapters::builder::{BuilderCache, SpillStore};
use pg_shared_lru::adapters::graph::{EdgeDistance, NeighborRef, NodePointer, NodePointers, decode_list, encode_list};
use pg_shared_lru::{
    CacheValue, Codec, Config, DecodeError, LruCacheWithStats, Policy, RobustLocks, SharedCache, StoredAs,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct ItemPointer {
    block_number: u32,
    offset: u16,
}

impl ItemPointer {
    fn new(block_number: u32, offset: u16) -> Self {
        ItemPointer { block_number, offset }
    }
}

type LabelSet = Vec<i16>;

/// A distance whose tie-break is computed when it is wanted, from the ends of the edge.
#[derive(Clone, Debug)]
struct DistanceWithTieBreak {
    distance: f32,
    from: ItemPointer,
    to: ItemPointer,
    tie_break: OnceCell<usize>,
}

impl DistanceWithTieBreak {
    fn new(distance: f32, from: ItemPointer, to: ItemPointer) -> Self {
        DistanceWithTieBreak { distance, from, to, tie_break: OnceCell::new() }
    }

    /// As pgvectorscale makes the distance of a query to a node.
    fn with_query(distance: f32, to: ItemPointer) -> Self {
        DistanceWithTieBreak { distance, from: to, to, tie_break: OnceCell::from(0) }
    }

    fn tie_break(&self) -> usize {
        let line = |pointer: ItemPointer| pointer.block_number as usize * 300 + pointer.offset as usize;
        *self.tie_break.get_or_init(|| line(self.from).abs_diff(line(self.to)))
    }

    fn get_distance(&self) -> f32 {
        self.distance
    }

    fn ends(&self) -> (ItemPointer, ItemPointer) {
        (self.from, self.to)
    }
}

#[derive(Clone, Debug)]
struct NeighborWithDistance {
    index_pointer: ItemPointer,
    distance: DistanceWithTieBreak,
    labels: Option<LabelSet>,
}

impl NeighborWithDistance {
    fn new(index_pointer: ItemPointer, distance: DistanceWithTieBreak, labels: Option<LabelSet>) -> Self {
        NeighborWithDistance { index_pointer, distance, labels }
    }

    fn get_index_pointer_to_neighbor(&self) -> ItemPointer {
        self.index_pointer
    }

    fn get_distance_with_tie_break(&self) -> &DistanceWithTieBreak {
        &self.distance
    }

    fn get_labels(&self) -> Option<&LabelSet> {
        self.labels.as_ref()
    }
}

#[derive(Clone, Debug)]
struct NeighborCacheEntry {
    labels: Option<LabelSet>,
    neighbors: Vec<NeighborWithDistance>,
}

impl NeighborCacheEntry {
    fn new(labels: Option<LabelSet>, neighbors: Vec<NeighborWithDistance>) -> Self {
        NeighborCacheEntry { labels, neighbors }
    }
}

// From here on as in the guide.

impl StoredAs for ItemPointer {
    type Codec = ItemPointers;
}

struct ItemPointers;

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
                labels: neighbor.get_labels().map(|labels| &labels[..]),
            }
        });
        encode_list(node(*of), self.labels.as_deref(), neighbors, out);
    }

    fn decode(of: &ItemPointer, bytes: &[u8]) -> Result<Self, DecodeError> {
        let list = decode_list(node(*of), bytes)?;
        let neighbors = list.neighbors().map(|neighbor| {
            let EdgeDistance { distance, from, to } = neighbor.distance;
            let distance = DistanceWithTieBreak::new(distance, item(from), item(to));
            NeighborWithDistance::new(item(neighbor.pointer), distance, neighbor.labels)
        });
        Ok(NeighborCacheEntry::new(list.labels(), neighbors.collect()))
    }
}

fn node(pointer: ItemPointer) -> NodePointer {
    NodePointer { block: pointer.block_number, offset: pointer.offset }
}

fn item(pointer: NodePointer) -> ItemPointer {
    ItemPointer::new(pointer.block, pointer.offset)
}

/// The index's pages: what was written last for each node.
struct IndexPages<'a>(&'a Mutex<BTreeMap<ItemPointer, NeighborCacheEntry>>);

impl SpillStore<ItemPointer, NeighborCacheEntry> for IndexPages<'_> {
    type Error = Infallible;

    fn load(&mut self, of: &ItemPointer) -> Result<Option<NeighborCacheEntry>, Infallible> {
        Ok(self.0.lock().unwrap().get(of).cloned())
    }

    fn spill(&mut self, of: &ItemPointer, entry: NeighborCacheEntry) -> Result<(), Infallible> {
        self.0.lock().unwrap().insert(*of, entry);
        Ok(())
    }
}

fn pointer(number: usize) -> ItemPointer {
    ItemPointer::new(number as u32 / 10, number as u16 % 10 + 1)
}

fn neighbor(of: ItemPointer, to: usize) -> NeighborWithDistance {
    let distance = DistanceWithTieBreak::new(to as f32 / 7.0, of, pointer(to));
    NeighborWithDistance::new(pointer(to), distance, (to % 5 == 0).then(|| vec![to as i16]))
}

fn described(entry: &NeighborCacheEntry) -> Vec<(ItemPointer, u32, usize, Option<LabelSet>)> {
    let describe = |neighbor: &NeighborWithDistance| {
        let distance = neighbor.get_distance_with_tie_break();
        let pointer = neighbor.get_index_pointer_to_neighbor();
        (pointer, distance.get_distance().to_bits(), distance.tie_break(), neighbor.get_labels().cloned())
    };
    entry.neighbors.iter().map(describe).collect()
}

#[test]
fn the_private_cache_hands_back_what_was_pushed() {
    let mut cache =
        LruCacheWithStats::<ItemPointer, NeighborCacheEntry>::with_memory(300_000, "Builder neighbor").unwrap();
    let mut written = BTreeMap::new();
    let mut pushed = BTreeMap::new();
    for number in 0..2000 {
        let of = pointer(number);
        let mut neighbors: Vec<_> = (number + 1..number + 30).map(|to| neighbor(of, to)).collect();
        neighbors[3].distance = DistanceWithTieBreak::with_query(0.0, neighbors[3].index_pointer);
        let entry = NeighborCacheEntry::new((number % 2 == 0).then(Vec::new), neighbors);
        pushed.insert(of, entry.clone());
        let mut evictee = cache.push(of, entry);
        while let Some((key, value)) = evictee {
            assert!(written.insert(key, value).is_none());
            evictee = cache.pop_displaced();
        }
    }
    assert!(written.len() > 500 && cache.len() > 500, "{} written, {} kept", written.len(), cache.len());
    written.extend(cache.into_parts().0);
    assert_eq!(written.len(), pushed.len());
    for (of, entry) in &pushed {
        assert_eq!(described(&written[of]), described(entry));
        assert_eq!(written[of].labels, entry.labels);
    }

    let mut few =
        LruCacheWithStats::<ItemPointer, NeighborCacheEntry>::new(NonZero::new(10).unwrap(), "Builder neighbor");
    pushed.iter().take(10).for_each(|(of, entry)| _ = few.push(*of, entry.clone()));
    let (first, entry) = pushed.first_key_value().unwrap();
    assert_eq!(described(few.get(first).unwrap()), described(entry));
}

#[test]
fn workers_that_share_a_cache_lose_no_back_pointer() {
    const NODES: usize = 800;
    const WORKERS: usize = 4;
    type Builder = BuilderCache<ItemPointer, NeighborCacheEntry, RobustLocks>;
    let config = Config::bytes(400_000).policy(Policy::Clock).partitions(2).slab_bytes(16 << 10);
    let memory = SharedCache::shared_mapping(&config).unwrap();
    let handles: Vec<Builder> =
        (0..WORKERS).map(|_| BuilderCache::over(memory.attach_again().unwrap()).unwrap()).collect();
    let leader: Builder = BuilderCache::over(memory).unwrap();
    let pages = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for (worker, neighbors) in handles.into_iter().enumerate() {
            let pages = &pages;
            scope.spawn(move || {
                let mut pages = IndexPages(pages);
                for number in (worker..NODES).step_by(WORKERS) {
                    for other in (1..=40).map(|step| (number + step * step) % NODES) {
                        let of = pointer(other);
                        loop {
                            let (entry, version) = neighbors.fetch(&of, &mut pages).unwrap();
                            let mut list = entry.map_or_else(Vec::new, |entry| entry.neighbors);
                            list.push(neighbor(of, number));
                            let entry = NeighborCacheEntry::new(None, list);
                            if neighbors.compare_push(&of, version, entry, &mut pages).unwrap().is_none() {
                                break;
                            }
                        }
                    }
                }
                assert!(neighbors.stats().spills > 0, "memory is to be short");
            });
        }
    });
    let mut graph = pages.into_inner().unwrap();
    leader
        .drain_sorted(|of, entry, _dirty| {
            graph.insert(of, entry);
            Ok::<_, Infallible>(())
        })
        .unwrap();
    for other in 0..NODES {
        let expected = (1..=40).map(|step| pointer((other + NODES * step - step * step) % NODES));
        let found = graph[&pointer(other)].neighbors.iter().map(|neighbor| neighbor.index_pointer);
        let (mut expected, mut found): (Vec<_>, Vec<_>) = (expected.collect(), found.collect());
        expected.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, expected, "back-pointers of node {other}");
    }
}
