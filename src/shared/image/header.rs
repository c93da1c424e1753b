//! The header of an image: whose it is, and when it is current.
//!
//! ```text
//! byte 0        8         12          16       24        32             48        56             72         80
//!      ┌────────┬─────────┬───────────┬────────┬─────────┬──────────────┬─────────┬──────────────┬──────────┐
//!      │ magic  │ version │ length    │ number │ cluster │ owner        │ written │ seal         │ checksum │
//!      └────────┴─────────┴───────────┴────────┴─────────┴──────────────┴─────────┴──────────────┴──────────┘
//! ```
//!
//! It is written first without a seal. The seal, written over it in place, says of which end of which server the contents are
//! current. A header that was half-way written over has a wrong checksum.

use std::io::Read;

use xxhash_rust::xxh3::xxh3_64;

use super::ImageError;
use super::read::fill;

const MAGIC: [u8; 8] = *b"SLRUimg\n";
/// Of the format.
pub(crate) const VERSION: u32 = 1;

/// The end of a server that an image is current of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seal(pub(crate) [u64; 2]);

impl Seal {
    /// Of none.
    pub(crate) const NONE: Seal = Seal([0; 2]);
}

/// What an image is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// No other image has it.
    pub(crate) number: u64,
    /// The cluster's system identifier.
    pub(crate) cluster: u64,
    /// What names the cache in its cluster.
    pub(crate) owner: [u64; 2],
    /// Milliseconds since 1970.
    pub(crate) written_ms: u64,
    /// When it is current.
    pub(crate) seal: Seal,
}

impl Header {
    /// Bytes of the header.
    pub(crate) const BYTES: usize = 80;

    /// The header's bytes.
    pub(crate) fn encode(&self) -> [u8; Header::BYTES] {
        let mut bytes = [0; Header::BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&(Header::BYTES as u32).to_le_bytes());
        let [owner, more] = self.owner;
        let words = [self.number, self.cluster, owner, more, self.written_ms, self.seal.0[0], self.seal.0[1]];
        bytes[16..72].chunks_exact_mut(8).zip(words).for_each(|(to, word)| to.copy_from_slice(&word.to_le_bytes()));
        let checksum = xxh3_64(&bytes[..72]);
        bytes[72..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads a header.
    ///
    /// # Errors
    ///
    /// It is no image, of another format, damaged, or cannot be read.
    pub(crate) fn read(input: &mut impl Read) -> Result<Header, ImageError> {
        let mut bytes = [0; Header::BYTES];
        let got = fill(input, &mut bytes)?;
        if got < 12 || bytes[..8] != MAGIC {
            return Err(ImageError::NoImage);
        }
        let short = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        if short(8) != VERSION {
            return Err(ImageError::Version { found: short(8), known: VERSION });
        }
        if got < Header::BYTES || long(72) != xxh3_64(&bytes[..72]) || short(12) != Header::BYTES as u32 {
            return Err(ImageError::Damaged { at: 0, what: "its header is not as it was written" });
        }
        Ok(Header {
            number: long(16),
            cluster: long(24),
            owner: [long(32), long(40)],
            written_ms: long(48),
            seal: Seal([long(56), long(64)]),
        })
    }
}
