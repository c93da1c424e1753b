//! Node records in a relation: where lists that are not cached are kept, and where the finished graph is.
//!
//! ```text
//! page    ┌─────────────┬──────────┬──────────┬─ … ─┬───────────┬────────┐
//!         │ page header │ record 0 │ record 1 │     │ record 19 │ unused │
//!         └─────────────┴──────────┴──────────┴─ … ─┴───────────┴────────┘
//! record  ┌─────────────┬─────────────┬─ … ─┬──────────────┬────┐
//!         │ count (u16) │ neighbour 0 │     │ neighbour 64 │ 0s │   a neighbour: block (u32), offset (u16)
//!         └─────────────┴─────────────┴─ … ─┴──────────────┴────┘
//! ```
//!
//! A node's pointer is the place of its record: offset 1 is the page's first. As in pgvectorscale, a record has no
//! distances; who loads it computes them. It has room for the longest list of a build, so a list that is spilled comes
//! back as it was. (pgvectorscale's nodes have room for the final number of neighbours: it prunes what it spills.)
//!
//! Pages are read and written through the buffer manager, under the content lock of their buffer, so every process sees
//! what any has written. The relation must be unlogged: nothing is written to the WAL.
#![allow(unsafe_code)]

use pg_shared_lru::adapters::graph::NodePointer;
use pgrx::pg_sys;

/// The most neighbours of a record.
pub const RECORD_NEIGHBORS: usize = 65;

const POINTER_BYTES: usize = NodePointer::BYTES;
const COUNT_BYTES: usize = size_of::<u16>();
const RECORD_BYTES: usize = (COUNT_BYTES + RECORD_NEIGHBORS * POINTER_BYTES).next_multiple_of(8);
const PAGE_HEADER_BYTES: usize = 24;
const RECORDS_PER_PAGE: u32 = ((pg_sys::BLCKSZ as usize - PAGE_HEADER_BYTES) / RECORD_BYTES) as u32;

/// Where the record of the node with this number lies.
pub fn pointer_of(node: u32) -> NodePointer {
    NodePointer { block: node / RECORDS_PER_PAGE, offset: (node % RECORDS_PER_PAGE) as u16 + 1 }
}

/// The number of the node whose record lies there.
pub fn number_of(pointer: NodePointer) -> u32 {
    pointer.block * RECORDS_PER_PAGE + u32::from(pointer.offset) - 1
}

/// A relation of node records, open until dropped.
pub struct Pages {
    relation: pg_sys::Relation,
}

impl Pages {
    /// Opens the relation with this oid, which the caller's transaction has locked (or its leader's).
    pub fn open(relation: u32) -> Self {
        // SAFETY: a plain call; it raises an error if there is no such relation.
        let relation = unsafe { pg_sys::relation_open(relation.into(), pg_sys::AccessShareLock as i32) };
        Pages { relation }
    }

    /// Extends the empty relation by records without neighbours for this many nodes.
    pub fn create_records(&self, node_count: u32) {
        const NEW_BLOCK: pg_sys::BlockNumber = pg_sys::InvalidBlockNumber; // P_NEW
        for _ in 0..node_count.div_ceil(RECORDS_PER_PAGE) {
            let page = Page::lock(self.relation, NEW_BLOCK, pg_sys::BUFFER_LOCK_EXCLUSIVE);
            // SAFETY: a new page, locked exclusively.
            unsafe { pg_sys::PageInit(pg_sys::BufferGetPage(page.buffer), pg_sys::BLCKSZ as usize, 0) };
            page.mark_dirty();
        }
    }

    /// Replaces what `out` holds by a node's neighbours.
    pub fn read(&self, node: NodePointer, out: &mut Vec<NodePointer>) {
        out.clear();
        let page = Page::lock(self.relation, node.block, pg_sys::BUFFER_LOCK_SHARE);
        out.extend(neighbors(page.record(node)));
    }

    /// Writes a node's neighbours, at most [`RECORD_NEIGHBORS`]. If it is told what the caller has seen of the record,
    /// it returns how many of the neighbours that this replaces were neither seen nor are written: what others wrote
    /// meanwhile.
    pub fn write(
        &self,
        node: NodePointer,
        written: impl ExactSizeIterator<Item = NodePointer> + Clone,
        seen: Option<&[NodePointer]>,
    ) -> u64 {
        let count = u16::try_from(written.len()).ok().filter(|&count| usize::from(count) <= RECORD_NEIGHBORS);
        let count = count.expect("no list of a build is longer");
        let mut page = Page::lock(self.relation, node.block, pg_sys::BUFFER_LOCK_EXCLUSIVE);
        let overwritten = seen.map_or(0, |seen| {
            let unseen = |old: &NodePointer| !seen.contains(old) && !written.clone().any(|new| new == *old);
            neighbors(page.record(node)).filter(unseen).count() as u64
        });
        let (head, pointers) = page.record_mut(node).split_at_mut(COUNT_BYTES);
        head.copy_from_slice(&count.to_le_bytes());
        for (place, pointer) in pointers.chunks_exact_mut(POINTER_BYTES).zip(written) {
            place[..4].copy_from_slice(&pointer.block.to_le_bytes());
            place[4..].copy_from_slice(&pointer.offset.to_le_bytes());
        }
        page.mark_dirty();
        overwritten
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // An error closes the relation itself, with all that its transaction holds.
        if !std::thread::panicking() {
            // SAFETY: opened by `open` and not closed since.
            unsafe { pg_sys::relation_close(self.relation, pg_sys::AccessShareLock as i32) };
        }
    }
}

fn neighbors(record: &[u8]) -> impl Iterator<Item = NodePointer> + '_ {
    let (head, pointers) = record.split_at(COUNT_BYTES);
    let count = u16::from_le_bytes([head[0], head[1]]);
    pointers.chunks_exact(POINTER_BYTES).take(count.into()).map(|place| {
        let [a, b, c, d, e, f] = *place else { unreachable!("the size of the chunks") };
        NodePointer { block: u32::from_le_bytes([a, b, c, d]), offset: u16::from_le_bytes([e, f]) }
    })
}

/// A page whose buffer is pinned and locked until dropped.
struct Page {
    buffer: pg_sys::Buffer,
}

impl Page {
    fn lock(relation: pg_sys::Relation, block: pg_sys::BlockNumber, mode: u32) -> Self {
        let fork = pg_sys::ForkNumber::MAIN_FORKNUM;
        let strategy = std::ptr::null_mut();
        // SAFETY: the relation is open; an error gives back what was taken.
        unsafe {
            let buffer =
                pg_sys::ReadBufferExtended(relation, fork, block, pg_sys::ReadBufferMode::RBM_NORMAL, strategy);
            pg_sys::LockBuffer(buffer, mode as i32);
            Page { buffer }
        }
    }

    fn place(node: NodePointer) -> usize {
        let record = usize::from(node.offset) - 1;
        assert!(record < RECORDS_PER_PAGE as usize, "{node:?} is no place of a record");
        PAGE_HEADER_BYTES + record * RECORD_BYTES
    }

    fn record(&self, node: NodePointer) -> &[u8] {
        // SAFETY: inside the page (checked by `place`), whose content is locked while `self` lives.
        unsafe {
            let page = pg_sys::BufferGetPage(self.buffer).cast::<u8>();
            std::slice::from_raw_parts(page.add(Self::place(node)), RECORD_BYTES)
        }
    }

    fn record_mut(&mut self, node: NodePointer) -> &mut [u8] {
        // SAFETY: as in `record`; only `write` calls this, with the lock in exclusive mode.
        unsafe {
            let page = pg_sys::BufferGetPage(self.buffer).cast::<u8>();
            std::slice::from_raw_parts_mut(page.add(Self::place(node)), RECORD_BYTES)
        }
    }

    fn mark_dirty(&self) {
        // SAFETY: pinned, and locked exclusively by every caller.
        unsafe { pg_sys::MarkBufferDirty(self.buffer) };
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: locked and pinned by `lock`. While an error unwinds, PostgreSQL does this itself.
            unsafe { pg_sys::UnlockReleaseBuffer(self.buffer) };
        }
    }
}
