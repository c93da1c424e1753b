//! The rows of a result as bytes: what the executor has in memory, and what describes it.
//!
//! ```text
//! ┌─────────┬─────────┬──────┬───────────┬─────┬─────┬──────────────────────┬──────────────────┐
//! │ key_len │ columns │ rows │ fill time │ key │ pad │ columns: 16 each     │ rows, aligned    │
//! └─────────┴─────────┴──────┴───────────┴─────┴─────┴──────────────────────┴──────────────────┘
//!  u32       u32       u64    u64, µs                  type, modifier, collation, 0
//! ```
//!
//! A row is a `MinimalTuple`, whose length is its first word, on 8 bytes. Values in it are whole: nothing is in a TOAST
//! table, no expanded object, no row whose type another session does not know. It can be used where it lies, if the
//! memory is aligned.
//!
//! Not here: whether the rows are still right (`hit`).
#![allow(unsafe_code)]

use std::ffi::CStr;

use pgrx::pg_sys;

const HEADER_BYTES: usize = 24;
const COLUMN_BYTES: usize = 16;
const ALIGN: usize = 8;

/// A column of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::pg) struct Column {
    pub(in crate::pg) oid: pg_sys::Oid,
    pub(in crate::pg) modifier: i32,
    pub(in crate::pg) collation: pg_sys::Oid,
}

impl Column {
    /// The type's name with its modifier, for a message.
    pub(in crate::pg) fn type_name(self) -> String {
        // SAFETY: a NUL-terminated name in the current memory context, whatever the numbers are.
        let name = unsafe { CStr::from_ptr(pg_sys::format_type_with_typemod(self.oid, self.modifier)) };
        name.to_string_lossy().into_owned()
    }

    fn to_bytes(self) -> [u8; COLUMN_BYTES] {
        let mut bytes = [0; COLUMN_BYTES];
        bytes[..4].copy_from_slice(&self.oid.to_u32().to_le_bytes());
        bytes[4..8].copy_from_slice(&self.modifier.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.collation.to_u32().to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Column {
        let word = |from: usize| u32::from_le_bytes(bytes[from..from + 4].try_into().expect("four bytes"));
        Column { oid: pg_sys::Oid::from(word(0)), modifier: word(4) as i32, collation: pg_sys::Oid::from(word(8)) }
    }
}

/// Rows as they are collected, up to a number of bytes.
#[derive(Debug)]
pub(in crate::pg) struct Collected {
    bytes: Vec<u8>,
    rows: u64,
    max_bytes: usize,
    is_whole: bool,
}

impl Collected {
    /// None yet, of a result with this key and these columns.
    pub(in crate::pg) fn new(key: &[u8], columns: &[Column], max_bytes: usize) -> Collected {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&(key.len() as u32).to_le_bytes());
        bytes[4..8].copy_from_slice(&(columns.len() as u32).to_le_bytes());
        bytes.extend_from_slice(key);
        pad(&mut bytes);
        columns.iter().for_each(|column| bytes.extend_from_slice(&column.to_bytes()));
        Collected { bytes, rows: 0, max_bytes, is_whole: true }
    }

    /// Adds a row, unless there are too many bytes already, or would be.
    pub(in crate::pg) fn push(&mut self, row: &[u8]) {
        self.rows += 1;
        let room = self.max_bytes.saturating_sub(self.bytes.len());
        self.is_whole &= row.len() + ALIGN <= room && self.bytes.try_reserve(row.len() + ALIGN).is_ok();
        if self.is_whole {
            self.bytes.extend_from_slice(row);
            pad(&mut self.bytes);
        } else {
            self.bytes = Vec::new();
        }
    }

    /// Whether it is not too large so far.
    pub(in crate::pg) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// The result; `None` if it was too large.
    pub(in crate::pg) fn finish(mut self, fill_micros: u64) -> Option<Vec<u8>> {
        if !self.is_whole {
            return None;
        }
        self.bytes[8..16].copy_from_slice(&self.rows.to_le_bytes());
        self.bytes[16..24].copy_from_slice(&fill_micros.to_le_bytes());
        Some(self.bytes)
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
}

/// A result, taken apart.
#[derive(Clone, Copy, Debug)]
pub(in crate::pg) struct Rows<'a> {
    pub(in crate::pg) key: &'a [u8],
    pub(in crate::pg) count: u64,
    columns: &'a [u8],
    rows: &'a [u8],
}

impl<'a> Rows<'a> {
    /// `None` if no [`Collected`] has made it.
    pub(in crate::pg) fn parse(bytes: &'a [u8]) -> Option<Rows<'a>> {
        let (header, _) = bytes.split_first_chunk::<HEADER_BYTES>()?;
        let word = |from: usize| u32::from_le_bytes(header[from..from + 4].try_into().expect("four bytes")) as usize;
        let (key_len, columns) = (word(0), word(4));
        let count = u64::from_le_bytes(header[8..16].try_into().expect("eight bytes"));
        let key = bytes.get(HEADER_BYTES..)?.get(..key_len)?;
        let (columns, rows) =
            bytes.get((HEADER_BYTES + key_len).next_multiple_of(ALIGN)..)?.split_at_checked(columns * COLUMN_BYTES)?;
        Some(Rows { key, count, columns, rows })
    }

    pub(in crate::pg) fn columns(&self) -> impl ExactSizeIterator<Item = Column> + 'a {
        self.columns.chunks_exact(COLUMN_BYTES).map(Column::from_bytes)
    }

    /// Where each row lies, as a tuple of PostgreSQL's. The memory has to be aligned to 8 bytes.
    ///
    /// # Panics
    ///
    /// If the bytes are not those of so many rows.
    pub(in crate::pg) fn iter(&self) -> impl Iterator<Item = pg_sys::MinimalTuple> + 'a {
        let mut left = self.rows;
        (0..self.count).map(move |_| {
            let (len, _) = left.split_first_chunk::<4>().expect("a row");
            let (row, rest) = left.split_at((u32::from_ne_bytes(*len) as usize).next_multiple_of(ALIGN));
            left = rest;
            row.as_ptr().cast_mut().cast()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(len: u32) -> Vec<u8> {
        let mut row = len.to_ne_bytes().to_vec();
        row.resize(len as usize, 7);
        row
    }

    #[test]
    fn rows_come_back_in_order_with_their_columns_and_key() {
        let columns = [23, 25].map(|oid: u32| Column { oid: oid.into(), modifier: -1, collation: 100.into() });
        for key in [&b""[..], b"k", b"a longer key"] {
            let mut collected = Collected::new(key, &columns, 1 << 20);
            let rows: Vec<_> = [16, 17, 24, 100].map(row).to_vec();
            rows.iter().for_each(|row| collected.push(row));
            let bytes = collected.finish(5).expect("it fits");
            let parsed = Rows::parse(&bytes).expect("it is one");
            assert_eq!((parsed.key, parsed.count), (key, 4));
            assert!(parsed.columns().eq(columns));
            for (tuple, row) in parsed.iter().zip(&rows) {
                // SAFETY: the row lies there, as long as it says.
                let found = unsafe { std::slice::from_raw_parts(tuple.cast::<u8>(), row.len()) };
                assert_eq!(found, row);
            }
        }
    }

    #[test]
    fn a_result_that_is_too_large_is_none() {
        let mut collected = Collected::new(b"key", &[], 200);
        (0..100).for_each(|_| collected.push(&row(16)));
        assert_eq!((collected.rows, collected.finish(0)), (100, None));
    }
}
