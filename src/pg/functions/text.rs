//! Texts as arguments and results: the bytes of the database's encoding, which Rust's strings are not.
#![allow(unsafe_code)]

use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::datum::{Datum, IntoDatum};
use pgrx::nullable::Nullable;
use pgrx::pg_sys;
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};

use super::names;
use crate::pg::encoding;

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
