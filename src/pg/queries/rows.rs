//! The rows of a result as bytes: what the executor has in memory, and what describes it.
//!
//! ```text
//! ┌─────────┬─────────┬──────┬───────────┬──────┬──────────┬───────────┬─────┬──────┬─────┬────────────┬─────────┬───────────┐
//! │ key_len │ columns │ rows │ fill time │ made │ text_len │ relations │ key │ text │ pad │ columns    │ rows,   │ relations │
//! │         │         │      │           │      │          │           │     │      │     │ 16 each    │ aligned │ 4 each    │
//! └─────────┴─────────┴──────┴───────────┴──────┴──────────┴───────────┴─────┴──────┴─────┴────────────┴─────────┴───────────┘
//!  u32       u32       u64    u64, µs     u64, µs u32       u32                            type, modifier, collation, 0
//! ```
//!
//! A row is a `MinimalTuple`, whose length is its first word, on 8 bytes. Values in it are whole: nothing is in a TOAST
//! table, no expanded object, no row whose type another session does not know. It can be used where it lies, if the
//! memory is aligned.
//!
//! When it was made (since 1970), the text of a statement whose key has none, and the numbers of the relations that the result
//! depends on are for who looks at what is kept (`entries`). A hit passes over them. The relations come last: what functions read
//! is known when all rows are.
//!
//! Not here: whether the rows are still right (`hit`).
#![allow(unsafe_code)]

use std::ffi::CStr;

use pgrx::pg_sys;

use crate::pg::encoding;

const HEADER_BYTES: usize = 40;
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
        encoding::name(name)
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

/// What is kept of a query for who looks at its result.
#[derive(Clone, Debug, Default)]
pub(in crate::pg) struct About {
    /// Its text, if the key has none.
    pub(in crate::pg) text: Vec<u8>,
    /// The relations that the result depends on.
    pub(in crate::pg) relations: Vec<pg_sys::Oid>,
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
    /// None yet, of a result with this key, a text if the key has none, and these columns.
    pub(in crate::pg) fn new(key: &[u8], text: &[u8], columns: &[Column], max_bytes: usize) -> Collected {
        let head = HEADER_BYTES + key.len() + text.len() + COLUMN_BYTES * columns.len();
        let mut bytes = vec![0; HEADER_BYTES];
        if head > max_bytes || bytes.try_reserve(head).is_err() {
            return Collected { bytes: Vec::new(), rows: 0, max_bytes, is_whole: false };
        }
        bytes[..4].copy_from_slice(&(key.len() as u32).to_le_bytes());
        bytes[4..8].copy_from_slice(&(columns.len() as u32).to_le_bytes());
        bytes[32..36].copy_from_slice(&(text.len() as u32).to_le_bytes());
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(text);
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

    /// How large it is so far.
    pub(in crate::pg) fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it is not too large so far.
    pub(in crate::pg) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// The result, made at this time, which depends on these relations; `None` if it was too large.
    pub(in crate::pg) fn finish(
        mut self,
        fill_micros: u64,
        made_us: u64,
        relations: &[pg_sys::Oid],
    ) -> Option<Vec<u8>> {
        let relations_bytes = 4 * relations.len();
        let has_room = self.bytes.len() + relations_bytes <= self.max_bytes;
        if !self.is_whole || !has_room || self.bytes.try_reserve_exact(relations_bytes).is_err() {
            return None;
        }
        relations.iter().for_each(|oid| self.bytes.extend_from_slice(&oid.to_u32().to_le_bytes()));
        self.bytes[36..40].copy_from_slice(&(relations.len() as u32).to_le_bytes());
        self.bytes[8..16].copy_from_slice(&self.rows.to_le_bytes());
        self.bytes[16..24].copy_from_slice(&fill_micros.to_le_bytes());
        self.bytes[24..32].copy_from_slice(&made_us.to_le_bytes());
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
    pub(in crate::pg) fill_micros: u64,
    /// When it was made, in microseconds since 1970.
    pub(in crate::pg) made_us: u64,
    /// The text of a statement whose key has none.
    pub(in crate::pg) text: &'a [u8],
    relations: &'a [u8],
    columns: &'a [u8],
    rows: &'a [u8],
}

impl<'a> Rows<'a> {
    /// `None` if no [`Collected`] has made it.
    pub(in crate::pg) fn parse(bytes: &'a [u8]) -> Option<Rows<'a>> {
        let (header, _) = bytes.split_first_chunk::<HEADER_BYTES>()?;
        let word = |from: usize| u32::from_le_bytes(header[from..from + 4].try_into().expect("four bytes")) as usize;
        let long = |from: usize| u64::from_le_bytes(header[from..from + 8].try_into().expect("eight bytes"));
        let (key_len, columns, text_len, relations_len) = (word(0), word(4), word(32), word(36) * 4);
        let (key, rest) = bytes.get(HEADER_BYTES..)?.split_at_checked(key_len)?;
        let text = rest.get(..text_len)?;
        let start = (HEADER_BYTES + key_len + text_len).next_multiple_of(ALIGN);
        let (columns, rest) = bytes.get(start..)?.split_at_checked(columns * COLUMN_BYTES)?;
        let (rows, relations) = rest.split_at_checked(rest.len().checked_sub(relations_len)?)?;
        let (count, fill_micros, made_us) = (long(8), long(16), long(24));
        Some(Rows { key, count, fill_micros, made_us, text, relations, columns, rows })
    }

    /// The relations that the result depends on.
    pub(in crate::pg) fn relations(&self) -> impl Iterator<Item = pg_sys::Oid> + 'a {
        let oid = |bytes: &[u8]| pg_sys::Oid::from(u32::from_le_bytes(bytes.try_into().expect("four bytes")));
        self.relations.chunks_exact(4).map(oid)
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
            let relations: Vec<pg_sys::Oid> = (0..key.len() as u32).map(pg_sys::Oid::from).collect();
            let text = [key, b"!"].concat();
            let mut collected = Collected::new(key, &text, &columns, 1 << 20);
            let rows: Vec<_> = [16, 17, 24, 100].map(row).to_vec();
            rows.iter().for_each(|row| collected.push(row));
            let bytes = collected.finish(5, 6, &relations).expect("it fits");
            let parsed = Rows::parse(&bytes).expect("it is one");
            assert_eq!((parsed.key, parsed.count, parsed.fill_micros, parsed.made_us), (key, 4, 5, 6));
            assert_eq!((parsed.text, parsed.relations().collect::<Vec<_>>()), (&text[..], relations));
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
        let mut collected = Collected::new(b"key", b"", &[], 200);
        (0..100).for_each(|_| collected.push(&row(16)));
        assert_eq!((collected.rows, collected.finish(0, 0, &[])), (100, None));
        // So is one without rows, if its key is.
        let collected = Collected::new(&[0; 200], b"", &[], 200);
        assert_eq!((collected.is_whole(), collected.finish(0, 0, &[])), (false, None));
        // And one whose relations are too many.
        let collected = |relations: usize| {
            Collected::new(b"key", b"", &[], 100).finish(0, 0, &vec![pg_sys::Oid::from(7); relations])
        };
        assert_eq!((collected(13).map(|bytes| bytes.len()), collected(14)), (Some(100), None));
    }
}
