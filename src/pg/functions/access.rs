//! One key.
#![allow(unsafe_code)]

use std::borrow::Cow;
use std::cell::Cell;
use std::mem::MaybeUninit;
use std::time::Duration;

use pgrx::iter::TableIterator;
use pgrx::prelude::*;
use pgrx::{AnyElement, Array, FromDatum};

use super::arguments;
use super::packed::Packed;
use super::text::{ServerText, from_utf8, to_utf8};
use super::{duration, with_cache};
use crate::engine::counters::Removal;
use crate::engine::outcomes::{PushError, Put};
use crate::pg::bytea::{Before, Bytea, Copied};
use crate::pg::catalog::Catalog;
use crate::pg::definitions::{Access, DefinedCache};
use crate::pg::error::{CacheError, or_report};
use crate::pg::invalidations::{self, Target};
use crate::pg::stored::{Dependency, Stored, StoredType, shown_bytes};
use crate::pg::tags::{self, Freshness, Of};
use crate::pg::types;
use crate::rings::table::Rings;
use crate::shared::bounded::{CountedAs, Fetched};
use crate::{Expiry, Version};

/// Tags, as SQL gives them.
pub(super) type Tags<'a> = Array<'a, &'a [u8]>;

#[pg_extern]
fn put(cache: ServerText<'_>, key: &[u8], value: &[u8]) -> bool {
    let stored = or_report(Stored::compose(value, None, &[]));
    put_or_report(with_cache(cache, Access::Write, |cache| cache.put(key, &stored))) == Put::Inserted
}

/// What a put came to. Sizes are told as SQL counts them.
pub(super) fn put_or_report<T>(put: Result<T, PushError>) -> T {
    or_report(put.map_err(|error| match error {
        PushError::TooLarge { bytes, max } => PushError::TooLarge { bytes: shown_bytes(bytes), max: shown_bytes(max) },
        error => error,
    }))
}

/// A time to live: `None` is the cache's own, zero is for ever.
pub(super) fn expiry(ttl: Option<Interval>) -> Expiry {
    match ttl.map(|ttl| duration("ttl", ttl)) {
        None => Expiry::Default,
        Some(Duration::ZERO) => Expiry::Never,
        Some(ttl) => Expiry::After(ttl),
    }
}

/// What the tags of a value said when it was put. It is asked again under the lock under which the value becomes findable.
pub(super) struct PutTags {
    dependencies: Vec<Dependency>,
    /// There, if there are tags.
    rings: Option<Rings>,
    has_changed: Cell<bool>,
}

impl PutTags {
    /// `None` if one of them is being invalidated, or is by the current transaction.
    pub(super) fn settle(number: u64, tags: Option<Tags<'_>>) -> Option<PutTags> {
        let (dependencies, rings) = match tags.filter(|tags| !tags.is_empty()) {
            Some(tags) => (settled(number, &tags)?, invalidations::rings(or_report(Catalog::open()))),
            None => (Vec::new(), None),
        };
        Some(PutTags { dependencies, rings, has_changed: Cell::new(false) })
    }

    pub(super) fn dependencies(&self) -> &[Dependency] {
        &self.dependencies
    }

    /// Whether nobody has invalidated one since.
    pub(super) fn still(&self) -> bool {
        let is_unchanged = |dependency| self.rings.as_ref().is_some_and(|rings| tags::is_unchanged(rings, dependency));
        self.has_changed.set(!self.dependencies.iter().all(is_unchanged));
        !self.has_changed.get()
    }

    /// Whether that was the answer when it was asked last.
    pub(super) fn have_changed(&self) -> bool {
        self.has_changed.get()
    }
}

/// What the tags of a cache say to the running statement; `None` if one of them is being invalidated, or is by the current
/// transaction.
pub(super) fn settled(number: u64, tags: &Tags<'_>) -> Option<Vec<Dependency>> {
    refuse_too_many(tags);
    let rings = invalidations::rings(or_report(Catalog::open()))?;
    tags::all_settled(&rings, number, tags.iter().flatten())
}

/// # Panics
///
/// PostgreSQL's ERROR, if there are too many tags.
pub(super) fn refuse_too_many(tags: &Tags<'_>) {
    /// Each is looked at when the value is read.
    const MAX_TAGS: usize = 32;
    let given = tags.len();
    if given > MAX_TAGS {
        CacheError::Parameter(format!("a value of {given} tags: at most {MAX_TAGS}")).report();
    }
}

/// Stores what is composed for a cache, unless one of its tags has been invalidated; `None` if so.
fn store(
    cache: ServerText<'_>,
    key: &[u8],
    value: &[u8],
    of_type: Option<StoredType>,
    expiry: Expiry,
    tags: Option<Tags<'_>>,
) -> Option<bool> {
    let tags = PutTags::settle(super::find(cache, Access::Write).number, tags)?;
    let stored = or_report(Stored::compose(value, of_type, tags.dependencies()));
    let put = |cache: &DefinedCache| cache.put_while(key, &stored, expiry, || tags.still());
    Some(put_or_report(with_cache(cache, Access::Write, put))? == Put::Inserted)
}

/// With a time to live, and tags.
#[pg_extern]
fn put_with(
    cache: Option<ServerText<'_>>,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    ttl: Option<Interval>,
    tags: Option<Tags<'_>>,
) -> Option<bool> {
    store(cache?, key?, value?, None, expiry(ttl), tags)
}

/// A value of any type.
#[pg_extern]
fn put_any(
    cache: Option<ServerText<'_>>,
    key: Option<&[u8]>,
    value: Option<AnyElement>,
    ttl: Option<Interval>,
    tags: Option<Tags<'_>>,
) -> Option<bool> {
    let (cache, key, value) = (cache?, key?, value?);
    let of_type = or_report(types::stored_type(value.oid()));
    let store = |bytes: &[u8]| store(cache, key, bytes, Some(of_type), expiry(ttl), tags);
    // SAFETY: PostgreSQL says that the datum is of this type.
    unsafe { types::with_bytes(value.datum(), value.oid(), store) }
}

/// Whether the current transaction has invalidated a key.
#[inline]
fn is_hidden(cache: &DefinedCache, key: &[u8]) -> bool {
    invalidations::hides_some() && invalidations::hides(cache.number, key)
}

/// What a reader asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// A value that was put as bytes or text.
    Bytes,
    /// One of a type.
    Typed(StoredType),
}

/// A copy of a key's value, and its length, if the current transaction may see it.
#[inline]
fn copy_of(cache: &DefinedCache, key: &[u8], wanted: Wanted) -> Option<(Copied, usize)> {
    if is_hidden(cache, key) {
        return None;
    }
    let before = if wanted == Wanted::Bytes { Before::Header } else { Before::Nothing };
    let copied = Copied::fetch(cache, key, before);
    let shown = copied.as_ref().and_then(|copied| shown_len(cache, copied.bytes(), &copied.version, wanted));
    cache.count_read(CountedAs::hit_if(shown.is_some()));
    match (copied, shown) {
        (Some(copied), Some(len)) => Some((copied, len)),
        (copied, _) => {
            copied.into_iter().for_each(Copied::free);
            None
        }
    }
}

/// Appends the value of a key, if the current transaction may see it; whether it did.
#[inline]
pub(super) fn append_value(cache: &DefinedCache, key: &[u8], packed: &mut Packed) -> bool {
    let judge = |bytes: &[u8], version: &Version| shown_len(cache, bytes, version, Wanted::Bytes);
    !is_hidden(cache, key) && packed.append_value(cache, key, judge)
}

/// As [`append_value`], of texts.
pub(super) fn append_text(cache: &DefinedCache, key: &[u8], packed: &mut Packed) -> bool {
    let start = packed.len();
    if !append_value(cache, &to_utf8(key), packed) {
        return false;
    }
    if let Cow::Owned(converted) = from_utf8(&packed.bytes()[start + pg_sys::VARHDRSZ..]) {
        packed.truncate(start);
        packed.append_varlena(&converted);
    }
    true
}

/// How many of the first bytes of what was copied are the value; `None` if the running statement must not see it.
#[inline]
fn shown_len(cache: &DefinedCache, bytes: &[u8], version: &Version, wanted: Wanted) -> Option<usize> {
    if wanted == Wanted::Bytes && Stored::is_plain(bytes) {
        return Some(shown_bytes(bytes.len()));
    }
    judged(cache, bytes, version, wanted)
}

/// As [`shown_len`], of what is more than a value.
fn judged(cache: &DefinedCache, bytes: &[u8], version: &Version, wanted: Wanted) -> Option<usize> {
    let stored = parse(bytes);
    let is_outdated = match freshness(&stored) {
        Freshness::Current => false,
        Freshness::Outdated => true,
        Freshness::Unknown => return None,
    };
    let is_gone = is_outdated
        || match (stored.of_type, wanted) {
            (None, Wanted::Bytes) if !stored.is_result => false,
            (Some(stored), _) if !types::exists(stored) => {
                pgrx::warning!("the type of a value that was put does not exist any more: it is forgotten");
                true
            }
            (Some(stored), Wanted::Typed(wanted)) if stored.oid == wanted.oid => {
                let is_other = stored != wanted;
                if is_other {
                    pgrx::warning!("type {} has changed since a value was put: it is forgotten", type_name(wanted));
                }
                is_other
            }
            (of_type, wanted) => {
                let wanted = match wanted {
                    Wanted::Bytes => None,
                    Wanted::Typed(wanted) => Some(wanted),
                };
                let name = |of_type: Option<StoredType>| of_type.map_or_else(|| "bytea".to_owned(), type_name);
                let stored = if stored.is_result { "result of a query".to_owned() } else { name(of_type) };
                CacheError::WrongType { stored, wanted: name(wanted) }.report()
            }
        };
    if is_gone {
        cache.discard_version_as(Removal::Invalidated, version);
        return None;
    }
    Some(stored.value.len())
}

fn type_name(of_type: StoredType) -> String {
    types::name(pg_sys::Oid::from(of_type.oid))
}

/// What is stored under a key of SQL's.
pub(super) fn parse(bytes: &[u8]) -> Stored<'_> {
    Stored::parse(bytes).unwrap_or_else(|| {
        let what = format!("a value of {} bytes that no put has stored", bytes.len());
        CacheError::Damaged("of SQL".to_owned(), what).report()
    })
}

/// What the running statement may make of it.
pub(super) fn freshness(stored: &Stored<'_>) -> Freshness {
    if stored.is_result {
        return crate::pg::queries::freshness(stored);
    }
    let mut dependencies = stored.dependencies().peekable();
    if dependencies.peek().is_none() { Freshness::Current } else { tags::judge(Of::Tags, dependencies) }
}

/// The value of a key, for the current transaction.
#[inline]
pub(super) fn value_of(cache: &DefinedCache, key: &[u8]) -> Option<Bytea> {
    let (copied, len) = copy_of(cache, key, Wanted::Bytes)?;
    Some(copied.into_bytea(len))
}

called_raw!(pg_finfo_get_wrapper);

/// `get(cache, key)`.
#[pg_guard]
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn get_wrapper(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: PostgreSQL calls it with a call's data, of two arguments that are not NULL.
    let (cache, key) = unsafe { (ServerText::of_bytes(arguments::bytes(call, 0)), arguments::bytes(call, 1)) };
    let value = with_cache(cache, Access::Read, |cache| value_of(cache, key));
    // SAFETY: as above.
    unsafe { (*call).isnull = value.is_none() };
    value.map_or(pg_sys::Datum::null(), |value| value.datum())
}

called_raw!(pg_finfo_get_text_wrapper);

/// `get_text(cache, key)`: as `get`, of texts, which are UTF-8 in the cache.
#[pg_guard]
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn get_text_wrapper(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: PostgreSQL calls it with a call's data, of two arguments that are not NULL.
    let (cache, key) = unsafe { (ServerText::of_bytes(arguments::bytes(call, 0)), arguments::bytes(call, 1)) };
    let key = to_utf8(key);
    let Some(value) = with_cache(cache, Access::Read, |cache| value_of(cache, &key)) else {
        // SAFETY: as above.
        unsafe { (*call).isnull = true };
        return pg_sys::Datum::null();
    };
    match from_utf8(value.bytes()) {
        Cow::Borrowed(_) => value.datum(),
        Cow::Owned(converted) => Bytea::copy_of(&converted).datum(),
    }
}

/// A value of a type of varying length, for the current transaction; as PostgreSQL passes it.
pub(super) fn varlena_of(cache: &DefinedCache, key: &[u8], of_type: StoredType) -> Option<Bytea> {
    let (copied, _) = copy_of(cache, key, Wanted::Typed(of_type))?;
    let oid = pg_sys::Oid::from(of_type.oid);
    // SAFETY: stored by `put_any`, for a type of this number and fingerprint, which is a varlena.
    unsafe { Some(Bytea::from_varlena(types::to_datum(copied.into_memory(), oid).cast_mut_ptr())) }
}

/// A value of the type that the last argument has.
#[pg_extern]
fn get_any(
    cache: Option<ServerText<'_>>,
    key: Option<&[u8]>,
    _of: Option<AnyElement>,
    call: pg_sys::FunctionCallInfo,
) -> Option<AnyElement> {
    let (cache, key) = (cache?, key?);
    // SAFETY: the call is this one.
    let oid = unsafe { pgrx::fcinfo::pg_getarg_type(call, 2) };
    let wanted = Wanted::Typed(or_report(types::stored_type(oid)));
    let (copied, _) = with_cache(cache, Access::Read, |cache| copy_of(cache, key, wanted))?;
    // SAFETY: stored by `put_any`, for a type of this number and fingerprint.
    unsafe { AnyElement::from_polymorphic_datum(types::to_datum(copied.into_memory(), oid), false, oid) }
}

#[pg_extern]
fn contains(cache: ServerText<'_>, key: &[u8]) -> bool {
    with_cache(cache, Access::Read, |cache| !is_hidden(cache, key) && has_current(cache, key))
}

/// Whether a key has a value that the running statement may see. No use of it.
fn has_current(cache: &DefinedCache, key: &[u8]) -> bool {
    let is_current = |bytes: &[u8]| Stored::is_plain(bytes) || freshness(&parse(bytes)) == Freshness::Current;
    peek(cache, key, &mut Vec::new(), is_current).unwrap_or(false)
}

/// Looks at what is stored under a key; `None` if there is nothing. No use of it. What is large is copied to `room`, whose want
/// is an ERROR.
pub(super) fn peek<R>(
    cache: &DefinedCache,
    key: &[u8],
    room: &mut Vec<u8>,
    look: impl FnOnce(&[u8]) -> R,
) -> Option<R> {
    /// Room for a value before its size is known.
    const FIRST_ROOM_BYTES: usize = 1024;
    let mut first = [MaybeUninit::uninit(); FIRST_ROOM_BYTES];
    let mut needed = match cache.peek_within(key, &mut first) {
        Fetched::Absent => return None,
        // SAFETY: the cache has written as many bytes.
        Fetched::Copied(len) => return Some(look(unsafe { std::slice::from_raw_parts(first.as_ptr().cast(), len) })),
        Fetched::Needs(bytes) => bytes,
    };
    loop {
        room.clear();
        if room.try_reserve_exact(needed).is_err() {
            CacheError::OutOfMemory(needed).report();
        }
        match cache.peek_within(key, room.spare_capacity_mut()) {
            Fetched::Absent => return None,
            Fetched::Copied(len) => {
                // SAFETY: as above.
                unsafe { room.set_len(len) };
                return Some(look(room));
            }
            // Somebody has stored a larger one meanwhile.
            Fetched::Needs(bytes) => needed = bytes,
        }
    }
}

#[pg_extern]
fn remove(cache: ServerText<'_>, key: &[u8]) -> bool {
    with_cache(cache, Access::Write, |cache| {
        invalidations::void_leases(or_report(Catalog::open()), cache.number, Target::Key(key));
        cache.discard(key)
    })
}

/// A version, as SQL has it: it is of one key, and of one life of the cache's memory.
const VERSION_BYTES: usize = 24;

fn version_bytes(cache: &DefinedCache, key: &[u8], version: Version) -> [u8; VERSION_BYTES] {
    let [stamp, place] = version.to_words();
    let check = cache.check_of(key);
    let mut bytes = [0; VERSION_BYTES];
    bytes.chunks_exact_mut(8).zip([check, stamp, place]).for_each(|(to, word)| to.copy_from_slice(&word.to_le_bytes()));
    bytes
}

/// The value of a key and its version; or neither.
#[pg_extern]
#[allow(clippy::type_complexity)] // the columns of a table
fn get_versioned(
    cache: ServerText<'_>,
    key: &[u8],
) -> TableIterator<'static, (name!(value, Option<Bytea>), name!(version, Option<Vec<u8>>))> {
    let found = with_cache(cache, Access::Read, |cache| {
        let (copied, len) = copy_of(cache, key, Wanted::Bytes)?;
        let version = version_bytes(cache, key, copied.version).to_vec();
        Some((copied.into_bytea(len), version))
    });
    TableIterator::once(found.map_or((None, None), |(value, version)| (Some(value), Some(version))))
}

/// Stores a value if the key's is still of this version; `None`: if it has none. NULL, and nothing stored, if a tag is being
/// invalidated.
#[pg_extern]
fn put_if_version(
    cache: Option<ServerText<'_>>,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    version: Option<&[u8]>,
    ttl: Option<Interval>,
    tags: Option<Tags<'_>>,
) -> Option<bool> {
    let (cache, key, value) = (cache?, key?, value?);
    let expiry = expiry(ttl);
    let words: Option<[u64; 3]> = version.map(|version| {
        let words = <&[u8; VERSION_BYTES]>::try_from(version).unwrap_or_else(|_| {
            let given = version.len();
            CacheError::Parameter(format!("a version has {VERSION_BYTES} bytes, this one has {given}")).report()
        });
        bytemuck::pod_read_unaligned::<[u64; 3]>(words).map(u64::from_le)
    });
    let tags = PutTags::settle(super::find(cache, Access::Write).number, tags)?;
    let stored = or_report(Stored::compose(value, None, tags.dependencies()));
    let put = |cache: &DefinedCache| {
        if is_hidden(cache, key) {
            return Ok(false);
        }
        let still = || tags.still();
        let Some([_, stamp, place]) = words else { return cache.put_if_absent(key, &stored, expiry, still) };
        let expected = Version::from_words([stamp, place]);
        let is_of_key = Some(&version_bytes(cache, key, expected)[..]) == version;
        if is_of_key { cache.put_if_version_while(key, &stored, expiry, &expected, still) } else { Ok(false) }
    };
    let is_stored = put_or_report(with_cache(cache, Access::Write, put));
    (!tags.have_changed()).then_some(is_stored)
}
