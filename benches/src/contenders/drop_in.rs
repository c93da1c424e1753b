//! The library's `LruCacheWithStats<NodePointer, NeighborList>`, in the place that the `lru` crate has in a consumer.

use pg_shared_lru::adapters::graph::{NeighborList, NodePointer};
use pg_shared_lru::{ENTRY_METADATA_BYTES, LruCacheWithStats};

use super::entry_count;
use crate::contender::{Bound, Contender, Figures, NeighbourLists, OnSpill, Refused};
use crate::lists::{Description, Neighbours, plain};

const NAME: &str = "Builder neighbor";

/// The library's drop-in.
pub struct DropIn {
    cache: LruCacheWithStats<NodePointer, NeighborList>,
    /// The bytes given, if it was given bytes.
    given_bytes: Option<u64>,
}

impl DropIn {
    /// An empty one.
    ///
    /// # Errors
    /// The bound is none of this cache's; the message says why.
    pub fn within(bound: Bound) -> Result<Self, String> {
        let (cache, given_bytes) = match bound {
            Bound::Entries { count, .. } => (LruCacheWithStats::new(entry_count("drop-in", count)?, NAME), None),
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

impl Contender<NeighbourLists> for DropIn {
    fn name(&self) -> &'static str {
        "drop-in"
    }

    fn policy(&self) -> &'static str {
        "lru"
    }

    fn read(&mut self, node: &NodePointer, see: &mut dyn FnMut(Neighbours<'_>)) -> bool {
        self.cache.get(node).map(|list| see(Neighbours::Plain(&list.neighbors))).is_some()
    }

    fn put(&mut self, node: &NodePointer, list: Description<'_>) -> Result<(), Refused> {
        self.put_spilling(node, list, &mut |_, _| ())
    }

    /// A list that is too large for the whole cache is pushed out by its own put.
    fn put_spilling(
        &mut self,
        node: &NodePointer,
        list: Description<'_>,
        spilled: &mut OnSpill<'_, NeighbourLists>,
    ) -> Result<(), Refused> {
        let mut evicted = self.cache.push(*node, plain(list.edges()));
        while let Some((node, list)) = evicted {
            spilled(&node, Neighbours::Plain(&list.neighbors));
            evicted = self.cache.pop_displaced();
        }
        Ok(())
    }

    /// With a capacity in entries, its memory is that of its entries.
    fn figures(&self) -> Option<Figures> {
        let entries = self.cache.len() as u64;
        let (payload_bytes, metadata_bytes) = (self.cache.bytes(), entries * ENTRY_METADATA_BYTES);
        Some(Figures {
            region_bytes: Some(self.given_bytes.unwrap_or(payload_bytes + metadata_bytes)),
            payload_bytes,
            metadata_bytes,
            entries,
            evictions: self.cache.stats().evictions as u64,
            ..Figures::default()
        })
    }

    fn counted(&self) -> Option<(u64, u64)> {
        let stats = self.cache.stats();
        Some((stats.hits as u64, stats.misses as u64))
    }
}
