//! Names that cross the borders of databases, whose encodings may differ.
//!
//! A cache's name is UTF-8 in shared memory. It reaches databases of other encodings in the view `caches`, where it is
//! converted, or, as far as that cannot be, shown with escapes. The names of databases and roles, which PostgreSQL itself
//! shows as the bytes they are, are converted or shown so, too: bytes that are no character of the encoding would make
//! the whole view an error.
//!
//! In a database whose encoding is not UTF-8 a cache's name is ASCII, so that it is the same bytes everywhere;
//! SQL_ASCII, which is no encoding, takes UTF-8.
#![allow(unsafe_code)]

use std::borrow::Cow;
use std::ffi::{CStr, c_int};

use pgrx::pg_sys;

use crate::pg::encoding::{Encoding, escaped};

/// The most that one byte becomes in a conversion, as PostgreSQL has it.
const MAX_CONVERSION_GROWTH: usize = 4;

/// The encoding of the current database by name.
pub(super) fn encoding_name() -> String {
    // SAFETY: a NUL-terminated string that lives as long as the process.
    unsafe { CStr::from_ptr(pg_sys::GetDatabaseEncodingName()) }.to_string_lossy().into_owned()
}

/// A text of the database's as the name of a cache; `None` if no cache can have that name here.
pub(super) fn cache_name(text: &[u8]) -> Option<&str> {
    let name = std::str::from_utf8(text).ok()?;
    let any = || matches!(Encoding::of_database(), Encoding::Utf8 | Encoding::SqlAscii);
    (name.is_ascii() || any()).then_some(name)
}

/// What the name of a cache may be made of in this database.
pub(super) fn allowed_in_names() -> &'static str {
    if Encoding::of_database() == Encoding::SqlAscii { "UTF-8" } else { "ASCII" }
}

/// A name of UTF-8, of the current database, in its encoding.
pub(super) fn own_name(name: &str) -> Vec<u8> {
    match Encoding::of_database() {
        // As it was given, so that it can be compared; to a client it may be anything.
        Encoding::SqlAscii => name.as_bytes().to_vec(),
        _ => foreign_name(name),
    }
}

/// A name of UTF-8, of another database or of all, in the current one's encoding.
pub(super) fn foreign_name(name: &str) -> Vec<u8> {
    match Encoding::of_database() {
        _ if name.is_ascii() => name.as_bytes().to_vec(),
        Encoding::Utf8 => name.as_bytes().to_vec(),
        Encoding::SqlAscii => escaped(name).into_bytes(),
        Encoding::Other(encoding) => converted(name, encoding).unwrap_or_else(|| escaped(name).into_bytes()),
    }
}

/// A name of one of the catalogs that all databases share, whose encoding nobody knows, for the current database.
pub(super) fn shared_catalog_name(name: &[u8]) -> Vec<u8> {
    match std::str::from_utf8(name) {
        // Hardly any text of another encoding is UTF-8 by chance.
        Ok(name) => foreign_name(name),
        Err(_) if is_valid(name) => name.to_vec(),
        Err(_) => escaped_bytes(name).into_owned().into_bytes(),
    }
}

/// Whether the bytes are text in the database's encoding.
fn is_valid(text: &[u8]) -> bool {
    let Encoding::Other(encoding) = Encoding::of_database() else { return false };
    // SAFETY: reads the bytes given; `true`: does not raise an error.
    unsafe { pg_sys::pg_verify_mbstr(encoding, text.as_ptr().cast(), text.len() as c_int, true) }
}

/// Every character of the name in this encoding, if it has them all.
fn converted(name: &str, encoding: c_int) -> Option<Vec<u8>> {
    let mut out = vec![0_u8; name.len() * MAX_CONVERSION_GROWTH + 1];
    // SAFETY: a look into the catalogs inside of a transaction; then a conversion into room that is as large as
    // PostgreSQL wants it, which ends with a NUL and, with `noError`, raises no error but stops.
    unsafe {
        let utf8 = pg_sys::pg_enc::PG_UTF8 as c_int;
        let conversion = pg_sys::FindDefaultConversionProc(utf8, encoding);
        if conversion == pg_sys::InvalidOid {
            return None;
        }
        let (from, to) = (name.as_ptr().cast_mut(), out.as_mut_ptr());
        let (from_len, to_len) = (name.len() as c_int, out.len() as c_int);
        let done = pg_sys::pg_do_encoding_conversion_buf(conversion, utf8, encoding, from, from_len, to, to_len, true);
        if done != from_len {
            return None;
        }
    }
    out.truncate(out.iter().position(|&byte| byte == 0)?);
    Some(out)
}

/// Bytes that may be any text, in ASCII: characters, if they are UTF-8; else `\x` and two digits for each byte.
pub(super) fn escaped_bytes(text: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(text) {
        Ok(text) if text.is_ascii() => Cow::Borrowed(text),
        Ok(text) => Cow::Owned(escaped(text)),
        Err(_) => {
            let byte = |&byte: &u8| if byte < 0x80 { char::from(byte).to_string() } else { format!("\\x{byte:02X}") };
            Cow::Owned(text.iter().map(byte).collect())
        }
    }
}
