//! Entries: a record in the directory, which names the slots that hold the key and the value.
//!
//! ```text
//! record     the record of an entry: stamp, flags, pins
//! directory  records opened and closed; generations; walks
//! lengths    how many bytes and slots a key and a value take
//! payload    keys and values in slots
//! ```

pub mod directory;
pub mod lengths;
pub mod payload;
pub mod record;

/// Bytes that an entry in one slot costs beside its key and value: record, slot header, and its cell in a bucket.
///
/// Alignment (up to 7 bytes), the class's internal waste and free cells of its bucket come on top.
pub const ENTRY_METADATA_BYTES: u64 = slab_record_bytes() + lengths::HEADER_BYTES as u64 + CELL_BYTES;
/// What each further slot of a chained value costs: a record, and the slot's header.
pub const CONTINUATION_METADATA_BYTES: u64 = slab_record_bytes() + lengths::HEADER_BYTES as u64;
const CELL_BYTES: u64 = 5;

const fn slab_record_bytes() -> u64 {
    super::slab::class::RECORD_BYTES as u64
}
