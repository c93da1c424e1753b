//! The key of a query's result: all that the result follows from, but for rows and definitions.
//!
//! ```text
//! words of the session   role, security context
//! settings               those that change what values look like or mean: words, and texts of locales and the time zone
//! search path            the schemas that are named in it, of which the first is CURRENT_SCHEMA; and the one of temporary tables
//! what the cache names   settings of its owner's choice, and functions that are trusted (`named`); nothing, if it names none
//! the query              as text; or a marked statement, as `statement` says which it is
//! parameters             type, and the value's bytes
//! time to live, tags     if the call has named any
//! ```
//!
//! Each part has its length before it, so that no two keys run into the same bytes. The database is the cache's. Where
//! the result is stored: under the key's hash, 16 bytes; the whole key is beside the result, and compared.
//!
//! Whether the session is still what a key says is asked for each row of a marked statement that is collected. So the parts
//! are compared where they lie, one after the other, and no key is composed for it.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int};
use std::ptr::NonNull;
use std::rc::Rc;

use pgrx::pg_sys;
use xxhash_rust::xxh3::xxh3_128;

use super::named::{push_named, skip_named};
use super::relations::with_named_schemas;
use super::statement::Fingerprint;
use super::{Parameter, Wishes};
use crate::pg::definitions::options::ResultOptions;
use crate::pg::error::CacheError;
use crate::pg::{types, versions};

// Not among pgrx's bindings.
unsafe extern "C" {
    static bytea_output: c_int;
    static xmlbinary: c_int;
    static xmloption: c_int;
    static locale_monetary: *const c_char;
    static locale_numeric: *const c_char;
    static locale_time: *const c_char;
}

thread_local! {
    /// Where settings are that are not among PostgreSQL's exported variables. Not every minor release has the second.
    // SAFETY: asked for by the process's only thread, inside of a call.
    static UNEXPORTED: [Option<NonNull<*mut c_char>>; 2] = unsafe {
        [versions::text_setting(c"timezone_abbreviations"), versions::text_setting(c"restrict_nonsystem_relation_kind")]
    };
}

/// Words of the settings, and texts of them.
const SETTING_WORDS: usize = 8;
const TEXTS: usize = 7;

/// Where parts of a key go.
pub(super) trait Parts {
    fn add(&mut self, bytes: &[u8]);
}

impl Parts for Vec<u8> {
    /// May raise an error: there are texts of a gigabyte.
    fn add(&mut self, bytes: &[u8]) {
        if self.try_reserve(bytes.len()).is_err() {
            CacheError::OutOfMemory(bytes.len()).report();
        }
        self.extend_from_slice(bytes);
    }
}

/// Compares them with what a key begins with.
struct Compared<'a> {
    left: &'a [u8],
    is_same: bool,
}

impl Parts for Compared<'_> {
    fn add(&mut self, bytes: &[u8]) {
        match self.left.strip_prefix(bytes) {
            Some(left) => self.left = left,
            None => self.is_same = false,
        }
    }
}

/// A key, whole.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) bytes: Vec<u8>,
    /// Of the cache, when the key was composed: what they name is in it.
    options: Rc<ResultOptions>,
}

/// What a result is stored under: no key of a user's `put` is taken for it, since what is stored says that it is a result.
pub(super) type StoredUnder = [u8; 18];

impl Key {
    /// How what a result is stored under begins.
    pub(super) const PREFIX: [u8; 2] = *b"\0Q";

    /// The key of a query with these parameters, for the current role and session, in a cache with these options.
    pub(super) fn compose(query: &CStr, parameters: &[Parameter], wishes: &Wishes, options: &Rc<ResultOptions>) -> Key {
        let mut key = Key::of(query.to_bytes(), parameters, options);
        wishes.append_to_key(&mut key.bytes);
        key
    }

    /// The key of a marked statement. No query's, for there is no NUL in a text.
    pub(super) fn of_statement(statement: &Fingerprint, parameters: &[Parameter], options: &Rc<ResultOptions>) -> Key {
        Key::of(&[&[0], &statement[..]].concat(), parameters, options)
    }

    fn of(query: &[u8], parameters: &[Parameter], options: &Rc<ResultOptions>) -> Key {
        let mut key = Vec::with_capacity(512);
        push_session(&mut key, options);
        push(&mut key, query);
        for parameter in parameters {
            key.extend_from_slice(&parameter.oid.to_u32().to_le_bytes());
            key.push(u8::from(parameter.is_null));
            if !parameter.is_null {
                // SAFETY: the datum is of that type.
                unsafe { types::with_bytes(parameter.datum, parameter.oid, |bytes| push(&mut key, bytes)) };
            }
        }
        Key { bytes: key, options: Rc::clone(options) }
    }

    /// The role that a key is of, and the text of its query; `None` for the text of a marked statement, and if it is no key.
    pub(super) fn parts(key: &[u8]) -> Option<(pg_sys::Oid, Option<&[u8]>)> {
        let (role, _) = key.split_first_chunk::<4>()?;
        // Role and security context come first.
        let mut left = key.get((2 + SETTING_WORDS) * 4..)?;
        for _ in 0..TEXTS {
            take_text(&mut left)?;
        }
        let (schemas, rest) = left.split_first_chunk::<4>()?;
        // With the schema of temporary tables.
        left = rest.get((u32::from_le_bytes(*schemas) as usize + 1) * 4..)?;
        skip_named(&mut left)?;
        let query = take_text(&mut left)?;
        let is_text = query.first() != Some(&0);
        Some((pg_sys::Oid::from(u32::from_le_bytes(*role)), is_text.then_some(query)))
    }

    /// Whether the session is what it was when the key was composed: role, settings, search path, settings that the cache named
    /// then.
    pub(super) fn is_of_session(&self) -> bool {
        // Each of its parts has its length, so no other session's begins like it.
        let mut compared = Compared { left: &self.bytes, is_same: true };
        push_session(&mut compared, &self.options);
        compared.is_same
    }

    pub(super) fn stored_under(&self) -> StoredUnder {
        let mut under = [0; 18];
        under[..2].copy_from_slice(&Key::PREFIX);
        under[2..].copy_from_slice(&xxh3_128(&self.bytes).to_le_bytes());
        under
    }
}

/// The settings that are in the key, as a hash: what IMMUTABLE functions may follow nevertheless, such as `byteaout`.
pub(super) fn settings() -> u128 {
    let mut part = Vec::with_capacity(256);
    push_settings(&mut part);
    xxh3_128(&part)
}

/// What a cache with these options names, as a hash: what IMMUTABLE functions may follow as well. 0 if it names nothing.
pub(super) fn named(options: &ResultOptions) -> u128 {
    let mut part = Vec::new();
    push_named(&mut part, options);
    if part.is_empty() { 0 } else { xxh3_128(&part) }
}

fn push_session(key: &mut impl Parts, options: &ResultOptions) {
    let (mut role, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: reads of variables of this process's only thread.
    unsafe { pg_sys::GetUserIdAndSecContext(&mut role, &mut context) };
    key.add(&role.to_u32().to_le_bytes());
    key.add(&context.to_le_bytes());
    push_settings(key);
    with_named_schemas(|named, temporary| {
        key.add(&(named.len() as u32).to_le_bytes());
        named.for_each(|schema| key.add(&schema.to_u32().to_le_bytes()));
        key.add(&temporary.to_u32().to_le_bytes());
    });
    push_named(key, options);
}

fn push_settings(key: &mut impl Parts) {
    // SAFETY: reads of variables of this process's only thread; the texts are NUL-terminated or null.
    unsafe {
        let flags = [
            pg_sys::row_security,
            pg_sys::Transform_null_equals,
            pg_sys::Array_nulls,
            pg_sys::standard_conforming_strings,
            pg_sys::quote_all_identifiers,
        ];
        let words: [u32; SETTING_WORDS] = [
            flags.iter().fold(0, |bits, flag| bits << 1 | u32::from(*flag)),
            pg_sys::DateStyle as u32,
            pg_sys::DateOrder as u32,
            pg_sys::IntervalStyle as u32,
            pg_sys::extra_float_digits as u32,
            bytea_output as u32,
            xmlbinary as u32,
            xmloption as u32,
        ];
        words.iter().for_each(|word| key.add(&word.to_le_bytes()));
        let zone = pg_sys::pg_get_timezone_name(pg_sys::session_timezone);
        // How literals of times are read; and whether views may be read at all.
        let [abbreviations, restricted] = UNEXPORTED
            .with(|places| places.map(|place| place.map_or(std::ptr::null(), |place| place.read().cast_const())));
        let search = pg_sys::TSCurrentConfig.cast_const();
        let texts: [*const c_char; TEXTS] =
            [zone, abbreviations, restricted, locale_monetary, locale_numeric, locale_time, search];
        for text in texts {
            let text = if text.is_null() { &[][..] } else { CStr::from_ptr(text).to_bytes() };
            push(key, text);
        }
    }
}

pub(super) fn push(key: &mut impl Parts, part: &[u8]) {
    key.add(&(part.len() as u32).to_le_bytes());
    key.add(part);
}

/// Takes what [`push`] has added from the start of `left`.
pub(super) fn take_text<'a>(left: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (len, rest) = left.split_first_chunk::<4>()?;
    let (text, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    *left = rest;
    Some(text)
}
