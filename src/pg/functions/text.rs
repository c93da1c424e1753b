//! Texts as arguments and results: the bytes of the database's encoding, which Rust's strings are not; and as keys and values,
//! which are UTF-8 in the cache.
#![allow(unsafe_code)]

use std::borrow::Cow;
use std::ffi::{CStr, c_int};

use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::datum::{Datum, IntoDatum};
use pgrx::nullable::Nullable;
use pgrx::pg_sys;
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};

use super::names;
use crate::pg::encoding::{self, Encoding};

/// A `text` argument.
#[derive(Clone, Copy)]
pub(super) struct ServerText<'a>(&'a [u8]);

impl<'a> ServerText<'a> {
    /// What a `text` holds.
    pub(super) fn of_bytes(bytes: &'a [u8]) -> Self {
        ServerText(bytes)
    }

    /// As the name of a cache; `None` if no cache can have that name here.
    pub(super) fn as_cache_name(self) -> Option<&'a str> {
        names::cache_name(self.0)
    }

    /// For a message.
    pub(super) fn shown(self) -> String {
        match std::str::from_utf8(self.0) {
            Ok(text) => encoding::message(text.to_owned()),
            Err(_) => names::escaped_bytes(self.0).into_owned(),
        }
    }
}

// SAFETY: what a `text` datum holds is, like that of a `bytea`, bytes behind a varlena header.
unsafe impl<'fcx> ArgAbi<'fcx> for ServerText<'fcx> {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: as above; the rest is the caller's contract.
        ServerText(unsafe { <&'fcx [u8]>::unbox_arg_unchecked(arg) })
    }

    unsafe fn unbox_nullable_arg(arg: Arg<'_, 'fcx>) -> Nullable<Self> {
        // SAFETY: as above.
        match unsafe { <&'fcx [u8]>::unbox_nullable_arg(arg) } {
            Nullable::Valid(bytes) => Nullable::Valid(ServerText(bytes)),
            Nullable::Null => Nullable::Null,
        }
    }
}

/// A `text` result, in the database's encoding.
pub(super) struct ShownText(pub(super) Vec<u8>);

impl IntoDatum for ShownText {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        // A varlena of bytes, as a `text` is.
        self.0.into_datum()
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::TEXTOID
    }
}

// SAFETY: the datum is a `text`, made in the current memory context.
unsafe impl BoxRet for ShownText {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        match self.into_datum() {
            // SAFETY: as above.
            Some(datum) => unsafe { fcinfo.return_raw_datum(datum) },
            None => fcinfo.return_null(),
        }
    }
}

macro_rules! is_sql_text {
    ($type:ty) => {
        // SAFETY: says that the type is `text`, which the conversions above make true.
        unsafe impl SqlTranslatable for $type {
            const TYPE_IDENT: &'static str = <str as SqlTranslatable>::TYPE_IDENT;
            const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
            const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = <str as SqlTranslatable>::ARGUMENT_SQL;
            const RETURN_SQL: Result<ReturnsRef, ReturnsError> = <str as SqlTranslatable>::RETURN_SQL;
        }
    };
}
is_sql_text!(ServerText<'_>);
is_sql_text!(ShownText);

const UTF8: c_int = pg_sys::pg_enc::PG_UTF8 as c_int;

/// A text of the database's in UTF-8. Raises PostgreSQL's ERROR where that cannot be.
pub(super) fn to_utf8(text: &[u8]) -> Cow<'_, [u8]> {
    match Encoding::of_database() {
        Encoding::Utf8 => Cow::Borrowed(text),
        Encoding::SqlAscii => converted(text, pg_sys::pg_enc::PG_SQL_ASCII as c_int, UTF8),
        Encoding::Other(encoding) => converted(text, encoding, UTF8),
    }
}

/// UTF-8 as a text of the database's. Raises PostgreSQL's ERROR where it is none, or cannot be one there.
pub(super) fn from_utf8(bytes: &[u8]) -> Cow<'_, [u8]> {
    // Nearly always, and quicker found out so: no NUL, and nothing beyond ASCII.
    if bytes.iter().fold(true, |is_plain, &byte| is_plain & (1..0x80).contains(&byte)) {
        return Cow::Borrowed(bytes);
    }
    // SAFETY: reads the bytes given.
    unsafe { pg_sys::pg_verify_mbstr(UTF8, bytes.as_ptr().cast(), bytes.len() as c_int, false) };
    match Encoding::of_database() {
        Encoding::Utf8 | Encoding::SqlAscii => Cow::Borrowed(bytes),
        Encoding::Other(encoding) => converted(bytes, UTF8, encoding),
    }
}

/// As `convert` in SQL.
fn converted(text: &[u8], from: c_int, to: c_int) -> Cow<'_, [u8]> {
    // SAFETY: a conversion inside of a transaction: what it is given, or new memory that ends with a NUL.
    unsafe {
        let done = pg_sys::pg_do_encoding_conversion(text.as_ptr().cast_mut(), text.len() as c_int, from, to);
        if done.cast_const() == text.as_ptr() {
            return Cow::Borrowed(text);
        }
        let bytes = CStr::from_ptr(done.cast()).to_bytes().to_vec();
        pg_sys::pfree(done.cast());
        Cow::Owned(bytes)
    }
}
