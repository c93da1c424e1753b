//! An image read back, block by block.
//!
//! Locking: as puts.

use std::io::{ErrorKind, Read};
use std::ops::ControlFlow;
use std::time::{Duration, SystemTime};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::header::Header;
use super::{
    BLOCK_HEAD_BYTES, BlockHead, BlockKind, ENTRY_HEAD_BYTES, ImageError, ImageTotals, MAX_BLOCK_BYTES, block_seed,
};
use crate::engine::limits::{MAX_ENTRY_BYTES, MAX_KEY_BYTES};
use crate::shared::cache::SharedCache;
use crate::shared::expiry::Expiry;
use crate::shared::lock::Locks;

/// Reads until the buffer is full or there is nothing left; how much that was.
pub(super) fn fill(input: &mut impl Read, buffer: &mut [u8]) -> Result<usize, ImageError> {
    let mut got = 0;
    while got < buffer.len() {
        match input.read(&mut buffer[got..]) {
            Ok(0) => break,
            Ok(count) => got += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(got)
}

/// One entry of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ImageEntry<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
    /// Milliseconds since 1970; `None`: never.
    pub(crate) expires_ms: Option<u64>,
}

/// Takes an entry off the front; `None` if there is no whole one, or none that a cache can have had.
fn next_entry<'a>(bytes: &mut &'a [u8]) -> Option<ImageEntry<'a>> {
    let (head, rest) = bytes.split_first_chunk::<ENTRY_HEAD_BYTES>()?;
    let expires_ms = u64::from_le_bytes(head[..8].try_into().expect("eight bytes"));
    let key_len = u32::from_le_bytes(head[8..12].try_into().expect("four bytes")) as usize;
    let value_len = u32::from_le_bytes(head[12..].try_into().expect("four bytes")) as usize;
    if key_len > MAX_KEY_BYTES || value_len > MAX_ENTRY_BYTES || key_len + value_len > rest.len() {
        return None;
    }
    let (key, rest) = rest.split_at(key_len);
    let (value, rest) = rest.split_at(value_len);
    *bytes = rest;
    Some(ImageEntry { key, value, expires_ms: (expires_ms > 0).then_some(expires_ms) })
}

/// An image that is being read.
#[derive(Debug)]
pub(crate) struct ImageReader<R> {
    input: R,
    header: Header,
    pub(super) block: Vec<u8>,
    totals: ImageTotals,
    /// Bytes read so far.
    at: u64,
}

impl<R: Read> ImageReader<R> {
    /// Reads the header.
    ///
    /// # Errors
    ///
    /// As [`Header::read`].
    pub(crate) fn open(mut input: R) -> Result<Self, ImageError> {
        let header = Header::read(&mut input)?;
        Ok(ImageReader { input, header, block: Vec::new(), totals: ImageTotals::default(), at: Header::BYTES as u64 })
    }

    /// What the image is of.
    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    fn damaged(&self, what: &'static str) -> ImageError {
        ImageError::Damaged { at: self.at, what }
    }

    /// The entries of the next block, all of them checked; `None` after the last of a whole image.
    ///
    /// # Errors
    ///
    /// The file is damaged or cannot be read, or there is no memory for the block.
    pub(crate) fn next_block(&mut self) -> Result<Option<impl Iterator<Item = ImageEntry<'_>>>, ImageError> {
        let seed = block_seed(self.header.number, self.totals.blocks);
        let mut head = [0; BLOCK_HEAD_BYTES];
        if fill(&mut self.input, &mut head)? < BLOCK_HEAD_BYTES {
            return Err(self.damaged("it ends too early"));
        }
        let head = BlockHead::decode(&head, seed).ok_or_else(|| self.damaged("the head of a block"))?;
        if head.bytes > MAX_BLOCK_BYTES {
            return Err(self.damaged("an impossible length"));
        }
        self.block.clear();
        // Grows with what is there.
        let got = self.input.by_ref().take(head.bytes).read_to_end(&mut self.block)? as u64;
        if got < head.bytes {
            return Err(self.damaged("it ends too early"));
        }
        if xxh3_64_with_seed(&self.block, seed) != head.checksum {
            return Err(self.damaged("the contents of a block"));
        }
        if head.kind == BlockKind::End as u32 {
            let is_whole = head.entries == 0 && self.block == self.totals.encode();
            if !is_whole || fill(&mut self.input, &mut [0])? > 0 {
                return Err(self.damaged("its end"));
            }
            return Ok(None);
        }
        let mut bytes = &self.block[..];
        let count = std::iter::from_fn(|| next_entry(&mut bytes)).count();
        if head.kind != BlockKind::Entries as u32 || count != head.entries as usize || !bytes.is_empty() {
            return Err(self.damaged("the entries of a block"));
        }
        self.totals.blocks += 1;
        self.totals.entries += u64::from(head.entries);
        self.totals.bytes += head.bytes;
        self.at += BLOCK_HEAD_BYTES as u64 + head.bytes;
        let mut bytes = &self.block[..];
        Ok(Some(std::iter::from_fn(move || next_entry(&mut bytes))))
    }

    /// Reads to the end. `between` is asked after each block whether to go on.
    ///
    /// # Errors
    ///
    /// The image is not whole, or `between` says so.
    pub(crate) fn verify(mut self, mut between: impl FnMut() -> ControlFlow<()>) -> Result<(), ImageError> {
        while self.next_block()?.is_some() {
            if between().is_break() {
                return Err(ImageError::Interrupted);
            }
        }
        Ok(())
    }
}

/// What was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Restored {
    /// Entries that were stored. Some may have made way for later ones.
    pub(crate) entries: u64,
    /// Entries that had expired, or that the cache refuses.
    pub(crate) left_out: u64,
}

impl<L: Locks> SharedCache<L> {
    /// Stores what an image has and has not expired, in its order. An entry expires when it would have, or up to a tenth of a
    /// second before; a clock that has been set back behind the image's time counts as that time. After an error the cache is
    /// empty. `between` is asked after each block, without a lock, whether to go on.
    ///
    /// # Errors
    ///
    /// The image is not whole, or `between` says so.
    pub(crate) fn read_image<R: Read>(
        &self,
        mut image: ImageReader<R>,
        mut between: impl FnMut() -> ControlFlow<()>,
    ) -> Result<Restored, ImageError> {
        let mut restored = Restored::default();
        let written_ms = image.header.written_ms;
        loop {
            match image.next_block() {
                Ok(Some(entries)) => {
                    let clock_ms = self.wall_clock.unix_ms();
                    let now_ms = clock_ms.max(written_ms);
                    for entry in entries {
                        let is_over = entry.expires_ms.is_some_and(|expires_ms| expires_ms <= now_ms);
                        // By a clock that was set back meanwhile it is earlier.
                        let expiry = entry.expires_ms.map_or(Expiry::Never, |expires_ms| {
                            Expiry::At(
                                SystemTime::UNIX_EPOCH
                                    + Duration::from_millis(expires_ms - (now_ms - clock_ms).min(expires_ms)),
                            )
                        });
                        match !is_over && self.put_with(entry.key, entry.value, expiry).is_ok() {
                            true => restored.entries += 1,
                            false => restored.left_out += 1,
                        }
                    }
                }
                Ok(None) => return Ok(restored),
                Err(error) => {
                    self.clear();
                    return Err(error);
                }
            }
            if between().is_break() {
                self.clear();
                return Err(ImageError::Interrupted);
            }
        }
    }
}
