//! A cache written into an image, those entries first that went unused longest: so that those used last are there in the end,
//! where not all fit.
//!
//! Locking: one partition at a time, shared, for the copy of one entry. Nothing is written under a lock.

use std::io::Write;
use std::ops::ControlFlow;
use std::time::SystemTime;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::header::Header;
use super::{BLOCK_BYTES, BlockHead, BlockKind, ENTRY_HEAD_BYTES, ImageError, ImageTotals, block_seed};
use crate::shared::cache::SharedCache;
use crate::shared::lock::Locks;

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    /// Entries.
    pub(crate) entries: u64,
    /// [`SharedCache::change_count`] before the first entry was looked at.
    pub(crate) changes: u64,
}

/// Collects entries and writes them in blocks.
struct Blocks<W> {
    out: W,
    number: u64,
    block: Vec<u8>,
    entries: u32,
    totals: ImageTotals,
}

impl<W: Write> Blocks<W> {
    fn push(&mut self, expires_ms: u64, key: &[u8], value: &[u8]) -> Result<(), ImageError> {
        self.block.try_reserve(ENTRY_HEAD_BYTES + key.len() + value.len())?;
        self.block.extend_from_slice(&expires_ms.to_le_bytes());
        self.block.extend_from_slice(&(key.len() as u32).to_le_bytes());
        self.block.extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.block.extend_from_slice(key);
        self.block.extend_from_slice(value);
        self.entries += 1;
        Ok(())
    }

    fn write(&mut self, kind: BlockKind) -> Result<(), ImageError> {
        let seed = block_seed(self.number, self.totals.blocks);
        let checksum = xxh3_64_with_seed(&self.block, seed);
        let (bytes, entries) = (self.block.len() as u64, self.entries);
        self.out.write_all(&BlockHead { bytes, entries, kind: kind as u32, checksum }.encode(seed))?;
        self.out.write_all(&self.block)?;
        self.totals.blocks += 1;
        self.totals.entries += u64::from(entries);
        self.totals.bytes += bytes;
        self.entries = 0;
        self.block.clear();
        // What one large entry needed is not kept.
        self.block.shrink_to(2 * BLOCK_BYTES);
        Ok(())
    }

    fn end(mut self) -> Result<ImageTotals, ImageError> {
        let totals = self.totals;
        self.block.extend_from_slice(&totals.encode());
        self.write(BlockKind::End)?;
        self.out.flush()?;
        Ok(totals)
    }
}

impl<L: Locks> SharedCache<L> {
    /// Writes the entries that have not expired into an image, of those whose values mean the same in another life of the
    /// server, as `outlives` says. `between` is asked after each block, without a lock, whether to go on.
    /// Costs a walk, a sort, 8 bytes of memory an entry and a copy of each.
    ///
    /// # Errors
    ///
    /// It cannot be written, `between` says so, or there is no memory for the list of entries or for one of them.
    pub(crate) fn write_image(
        &self,
        header: &Header,
        mut out: impl Write,
        outlives: impl Fn(&[u8]) -> bool,
        mut between: impl FnMut() -> ControlFlow<()>,
    ) -> Result<Written, ImageError> {
        let changes = self.change_count();
        out.write_all(&header.encode())?;
        let mut blocks =
            Blocks { out, number: header.number, block: Vec::new(), entries: 0, totals: ImageTotals::default() };
        let (mut key, mut value) = (Vec::new(), Vec::new());
        for id in self.in_order_of_use()? {
            let Some(expires) = self.copy_entry(id, &mut key, &mut value)?.filter(|_| outlives(&value)) else {
                continue;
            };
            let expires_ms = match expires {
                None => 0,
                Some(expires) => {
                    let expires = expires.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                    let expires_ms = expires.as_millis() as u64;
                    if expires_ms <= self.wall_clock.unix_ms() {
                        continue;
                    }
                    expires_ms
                }
            };
            blocks.push(expires_ms, &key, &value)?;
            if blocks.block.len() >= BLOCK_BYTES {
                blocks.write(BlockKind::Entries)?;
                if between().is_break() {
                    return Err(ImageError::Interrupted);
                }
            }
        }
        if blocks.entries > 0 {
            blocks.write(BlockKind::Entries)?;
        }
        Ok(Written { entries: blocks.end()?.entries, changes })
    }
}
