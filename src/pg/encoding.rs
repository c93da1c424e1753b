//! Messages where the database's encoding is not UTF-8.
//!
//! A text of this library's is UTF-8. What of it is not ASCII is shown, in a database of another encoding, with escapes as
//! SQL has them in `U&'…'`: `\00E9`, `\+01F600`. So no bytes leave the library that are no text there.
//!
//! Not here: names as arguments and results of SQL (`functions::names`).
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::fmt::Write;

use pgrx::pg_sys;
use pgrx::pg_sys::pg_enc::{PG_SQL_ASCII, PG_UTF8};

/// What the current database does with bytes that are not ASCII.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Utf8,
    /// Nothing: any byte is a character.
    SqlAscii,
    Other(c_int),
}

impl Encoding {
    pub(super) fn of_database() -> Encoding {
        // SAFETY: reads a variable of this process's only thread.
        let number = unsafe { pg_sys::GetDatabaseEncoding() };
        match number as pg_sys::pg_enc::Type {
            PG_UTF8 => Encoding::Utf8,
            PG_SQL_ASCII => Encoding::SqlAscii,
            _ => Encoding::Other(number),
        }
    }
}

/// A name of the database's, as this library has texts. Inside of a transaction.
#[cfg(feature = "extension")]
pub(super) fn name(name: &std::ffi::CStr) -> String {
    let bytes = name.to_bytes();
    let Encoding::Other(encoding) = Encoding::of_database() else { return name.to_string_lossy().into_owned() };
    if bytes.is_ascii() {
        return name.to_string_lossy().into_owned();
    }
    // SAFETY: a conversion inside of a transaction: what it is given, or new memory that ends with a NUL.
    unsafe {
        let (from, len) = (bytes.as_ptr().cast_mut(), bytes.len() as c_int);
        let utf8 = pg_sys::pg_do_encoding_conversion(from, len, encoding, PG_UTF8 as c_int);
        std::ffi::CStr::from_ptr(utf8.cast_const().cast()).to_string_lossy().into_owned()
    }
}

/// A message that PostgreSQL can send from this database: as it is, or with escapes.
pub(super) fn message(text: String) -> String {
    if text.is_ascii() || matches!(Encoding::of_database(), Encoding::Utf8 | Encoding::SqlAscii) {
        return text;
    }
    escaped(&text)
}

/// The text in ASCII.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character as u32 {
            0..0x80 => out.push(character),
            code @ 0x80..0x1_0000 => _ = write!(out, "\\{code:04X}"),
            code => _ = write!(out, "\\+{code:06X}"),
        }
    }
    out
}
