//! The keys of an array: their values as rows, and as an array.
//!
//! They are looked up in groups whose waits for memory overlap, with a look for interrupts between two.
#![allow(unsafe_code)]

use pgrx::fcinfo::pg_getarg;
use pgrx::prelude::*;

use super::access::value_of;
use super::bytea::Bytea;
use super::sets::rows_store;
use super::text::ServerText;
use super::with_cache;
use crate::pg::definitions::Access;
use crate::pg::error::CacheError;
use crate::shared::bounded::PREFETCH_KEYS;

/// Calls `take` with each key, and its value if it has one, in the order of the keys. A NULL is no key.
fn look_up<'a>(
    cache: ServerText<'_>,
    keys: impl Iterator<Item = Option<&'a [u8]>>,
    mut take: impl FnMut(Option<&'a [u8]>, Option<Bytea>),
) {
    let mut keys = keys.fuse();
    loop {
        pgrx::check_for_interrupts!();
        let mut group = [None; PREFETCH_KEYS];
        let len = group.iter_mut().zip(&mut keys).map(|(place, key)| *place = key).count();
        if len == 0 {
            return;
        }
        let mut present = [&[][..]; PREFETCH_KEYS];
        let count = present.iter_mut().zip(group.iter().flatten()).map(|(place, key)| *place = key).count();
        let values: [Option<Bytea>; PREFETCH_KEYS] = with_cache(cache, Access::Read, |cache| {
            cache.prefetch(&present[..count]);
            group.map(|key| key.and_then(|key| value_of(cache, key)))
        });
        group.into_iter().zip(values).take(len).for_each(|(key, value)| take(key, value));
    }
}

called_raw!(pg_finfo_get_many_wrapper);

/// Keys and values as rows, of those keys that have one: `get_many(cache, keys)`.
#[pg_guard]
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn get_many_wrapper(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: PostgreSQL calls it with a call's data, of two arguments that are not NULL; the store takes rows of two
    // values of `bytea`, and copies them.
    unsafe {
        let (Some(cache), Some(keys)) = (pg_getarg::<&[u8]>(call, 0), pg_getarg::<Array<'_, &[u8]>>(call, 1)) else {
            return pg_sys::Datum::null();
        };
        let columns = [(c"key", pg_sys::BYTEAOID), (c"value", pg_sys::BYTEAOID)];
        let (store, description) = rows_store(call, &columns);
        look_up(ServerText::of_bytes(cache), keys.iter(), |key, value| {
            let (Some(key), Some(value)) = (key, value) else { return };
            let key = Bytea::copy_of(key);
            let mut row = [key.datum(), value.datum()];
            pg_sys::tuplestore_putvalues(store, description, row.as_mut_ptr(), [false; 2].as_mut_ptr());
            key.free();
            value.free();
        });
        pg_sys::Datum::null()
    }
}

/// Values in the order of their keys.
#[pg_extern(volatile, parallel_safe)]
fn get_array(cache: ServerText<'_>, keys: Array<'_, &[u8]>) -> Bytea {
    let (mut values, mut nulls) = (Vec::new(), Vec::new());
    let room = values.try_reserve_exact(keys.len()).and_then(|()| nulls.try_reserve_exact(keys.len()));
    if room.is_err() {
        CacheError::OutOfMemory(keys.len() * size_of::<pg_sys::Datum>()).report();
    }
    look_up(cache, keys.iter(), |_, value| {
        nulls.push(value.is_none());
        values.push(value.map_or(pg_sys::Datum::null(), |value| value.datum()));
    });
    // SAFETY: as many values as marks; the array has a copy of each.
    unsafe {
        let (mut count, mut first) = (values.len() as i32, 1);
        let (values, nulls) = (values.as_mut_ptr(), nulls.as_mut_ptr());
        let (align, of) = (pg_sys::TYPALIGN_INT as std::ffi::c_char, pg_sys::BYTEAOID);
        let dimensions = i32::from(count > 0);
        let array =
            pg_sys::construct_md_array(values, nulls, dimensions, &raw mut count, &raw mut first, of, -1, false, align);
        Bytea::from_varlena(array.cast())
    }
}
