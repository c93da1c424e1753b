//! The keys of an array: their values as rows, and as an array.
//!
//! They are looked up in groups whose waits for memory overlap, with a look for interrupts between two. Rows and array
//! are laid out here as PostgreSQL would, so that each value is copied from the cache to where it stands in its row or
//! in the array.
//!
//! ```text
//! row     HeapTupleHeaderData (24), key: a varlena, aligned to 4, value: a varlena, aligned to 8
//! array   ArrayType and its one dimension (24), if a value is missing a bit for each, aligned to 8, then the values that
//!         are there: varlenas, each aligned to 4
//! ```
#![allow(unsafe_code)]

use std::cell::Cell;
use std::mem::offset_of;

use pgrx::prelude::*;

use super::access;
use super::arguments::{self, ARRAY_ALIGNMENT_BYTES, ARRAY_HEADER_BYTES, Elements};
use super::packed::Packed;
use super::sets::rows_store;
use super::text::ServerText;
use super::with_cache;
use crate::pg::bytea::{FIRST_ROOM_BYTES, MAX_BYTES};
use crate::pg::definitions::{Access, DefinedCache};
use crate::shared::bounded::PREFETCH_KEYS;

/// A group that has got so large ends before its last key.
const GROUP_BYTES: usize = 256 << 10;
const VALUE_ALIGNMENT_BYTES: usize = 4;
const ROW_ALIGNMENT_BYTES: usize = 8;

/// Keys that were looked up together.
struct Group {
    /// Where what was appended for them begins.
    start: usize,
    /// How many there are.
    count: usize,
    /// A bit for each of them, set if something was appended for it.
    found: u32,
}

impl Group {
    fn has(&self, number: usize) -> bool {
        self.found & (1 << number) != 0
    }
}

/// Has `append` append what it makes of each key that is not NULL, and `take` take what has been appended for a group. A key
/// may be asked for again, if the cache was made anew in the middle; what was appended for it is forgotten then.
fn look_up(
    cache: ServerText<'_>,
    mut keys: Elements<'_>,
    packed: &mut Packed,
    mut append: impl FnMut(&DefinedCache, &[u8], &mut Packed) -> bool,
    mut take: impl FnMut(&Group, &mut Packed),
) {
    keep_freed_memory();
    while keys.len() > 0 {
        pgrx::check_for_interrupts!();
        let before = keys.clone();
        let (mut group_keys, mut len) = ([None; PREFETCH_KEYS], 0);
        let (mut present, mut count) = ([&[][..]; PREFETCH_KEYS], 0);
        for key in keys.by_ref().take(PREFETCH_KEYS) {
            group_keys[len] = key;
            len += 1;
            if let Some(key) = key {
                present[count] = key;
                count += 1;
            }
        }
        let start = packed.len();
        let group = with_cache(cache, Access::Read, |cache| {
            packed.truncate(start);
            cache.prefetch(&present[..count]);
            let mut group = Group { start, count: 0, found: 0 };
            for key in &group_keys[..len] {
                let appended = key.is_some_and(|key| append(cache, key, packed));
                group.found |= u32::from(appended) << group.count;
                group.count += 1;
                if packed.len() - start > GROUP_BYTES {
                    break;
                }
            }
            group
        });
        if group.count < len {
            keys = before;
            keys.by_ref().take(group.count).for_each(drop);
        }
        take(&group, packed);
    }
}

/// Has the C library keep what a statement frees for the next one. By itself glibc gives the system back what is free at
/// the end of its memory beyond 128 kB, and gets it again a page at a time: with a hundred values of 800 bytes that takes
/// as long as the lookups. It raises that to twice the size of a block that it has been given back, once.
fn keep_freed_memory() {
    const BLOCK_BYTES: usize = 1 << 20;
    thread_local! {
        static KEEPS: Cell<bool> = const { Cell::new(false) };
    }
    if !KEEPS.replace(true) {
        // SAFETY: allocates, or does not, and gives that back.
        unsafe {
            let block = pg_sys::palloc_extended(BLOCK_BYTES, pg_sys::MCXT_ALLOC_NO_OOM as i32);
            if !block.is_null() {
                pg_sys::pfree(block);
            }
        }
    }
}

/// Appends the value of a key, if it has one; whether it did.
type AppendValue = fn(&DefinedCache, &[u8], &mut Packed) -> bool;

/// Appends the row of a key that has a value.
#[inline(always)]
fn append_row(cache: &DefinedCache, key: &[u8], rows: &mut Packed, append: AppendValue) -> bool {
    const HEADER_BYTES: usize = size_of::<pg_sys::HeapTupleHeaderData>().next_multiple_of(ROW_ALIGNMENT_BYTES);
    let start = rows.len();
    rows.append_zeros(HEADER_BYTES);
    rows.append_varlena(key);
    rows.align(VALUE_ALIGNMENT_BYTES);
    if !append(cache, key, rows) {
        rows.truncate(start);
        return false;
    }
    let len = rows.len() - start;
    rows.align(ROW_ALIGNMENT_BYTES);
    let row = minimal(rows, start);
    // SAFETY: the header of the row, within the memory, all zeros.
    unsafe {
        (*row).t_len = (len - MINIMAL_OFFSET_BYTES) as u32;
        (*row).t_infomask2 = 2;
        (*row).t_infomask = pg_sys::HEAP_HASVARWIDTH as u16;
        (*row).t_hoff = HEADER_BYTES as u8;
    }
    true
}

/// A row without its transactions' fields is shorter by this, at its start.
const MINIMAL_OFFSET_BYTES: usize =
    offset_of!(pg_sys::HeapTupleHeaderData, t_infomask2) - offset_of!(pg_sys::MinimalTupleData, t_infomask2);

/// A row that begins there, as a tuple store keeps it.
fn minimal(rows: &mut Packed, start: usize) -> *mut pg_sys::MinimalTupleData {
    rows.place_of(start + MINIMAL_OFFSET_BYTES).as_ptr()
}

/// Keys and values as rows, of those keys that have one.
///
/// # Safety
///
/// - It is the call that is being answered, for a set of rows of keys and values of type `of`; its arguments are a text and
///   an array of this type, neither NULL.
#[inline(always)]
unsafe fn rows(call: pg_sys::FunctionCallInfo, of: pg_sys::Oid, append: AppendValue) -> pg_sys::Datum {
    // SAFETY: as the caller says; the store copies the rows that it is given.
    unsafe {
        let cache = ServerText::of_bytes(arguments::bytes(call, 0));
        let keys = Elements::of_argument(call, 1);
        let store = rows_store(call, &[(c"key", of), (c"value", of)]);
        let first_room = keys.len().min(PREFETCH_KEYS) * FIRST_ROOM_BYTES;
        let mut rows = Packed::with_room(first_room, MAX_BYTES + 2 * GROUP_BYTES);
        let append = |cache: &DefinedCache, key: &[u8], rows: &mut Packed| append_row(cache, key, rows, append);
        look_up(cache, keys, &mut rows, append, |group, rows| {
            let mut start = group.start;
            for _ in 0..group.found.count_ones() {
                let len = (*minimal(rows, start)).t_len + MINIMAL_OFFSET_BYTES as u32;
                let t_data = rows.place_of(start).as_ptr();
                let mut row = pg_sys::HeapTupleData { t_len: len, t_data, ..Default::default() };
                pg_sys::tuplestore_puttuple(store, &raw mut row);
                start += (len as usize).next_multiple_of(ROW_ALIGNMENT_BYTES);
            }
            rows.truncate(0);
        });
        rows.free();
        pg_sys::Datum::null()
    }
}

/// The values of keys, in their order.
///
/// # Safety
///
/// - It is the call that is being answered, for an array of type `of`; its arguments are as those of [`rows`].
#[inline(always)]
unsafe fn array(call: pg_sys::FunctionCallInfo, of: pg_sys::Oid, append: AppendValue) -> pg_sys::Datum {
    // SAFETY: as the caller says; what is laid out is an array of one dimension, as array.h has it.
    unsafe {
        let cache = ServerText::of_bytes(arguments::bytes(call, 0));
        let keys = Elements::of_argument(call, 1);
        let count = keys.len();
        if count == 0 {
            return pg_sys::Datum::from(pg_sys::construct_empty_array(of));
        }
        let first_room = ARRAY_HEADER_BYTES + count.min(PREFETCH_KEYS) * FIRST_ROOM_BYTES;
        let mut array = Packed::with_room(first_room, MAX_BYTES);
        array.append_zeros(ARRAY_HEADER_BYTES);
        let start = (ARRAY_HEADER_BYTES + count.div_ceil(8)).next_multiple_of(ARRAY_ALIGNMENT_BYTES);
        let (mut done, mut has_bits) = (0, false);
        let append = |cache: &DefinedCache, key: &[u8], array: &mut Packed| {
            let appended = append(cache, key, array);
            array.align(VALUE_ALIGNMENT_BYTES);
            appended
        };
        look_up(cache, keys, &mut array, append, |group, array| {
            let is_whole = group.found.count_ones() as usize == group.count;
            if !is_whole && !has_bits {
                has_bits = true;
                array.insert_zeros(ARRAY_HEADER_BYTES, start - ARRAY_HEADER_BYTES);
                (0..done).for_each(|number| set_bit(array, number));
            }
            if has_bits {
                (0..group.count).filter(|&number| group.has(number)).for_each(|number| set_bit(array, done + number));
            }
            done += group.count;
            // As much as the others will need if they are like these.
            let average = array.len() / done;
            let left = (average + average / 8).saturating_mul(count - done);
            array.reserve(left.min(MAX_BYTES.saturating_sub(array.len())));
        });
        let header = array.place_of::<pg_sys::ArrayType>(0).as_ptr();
        (*header).ndim = 1;
        (*header).dataoffset = if has_bits { start as i32 } else { 0 };
        (*header).elemtype = of;
        array.place_of::<[i32; 2]>(size_of::<pg_sys::ArrayType>()).write([count as i32, 1]);
        array.into_varlena().datum()
    }
}

/// Notes that the value of this number is not NULL.
fn set_bit(array: &mut Packed, number: usize) {
    // SAFETY: the array has a bit for each value behind its header.
    unsafe { *array.place_of::<u8>(ARRAY_HEADER_BYTES + number / 8).as_ptr() |= 1 << (number % 8) };
}

called_raw!(pg_finfo_get_many_wrapper);
called_raw!(pg_finfo_get_many_text_wrapper);
called_raw!(pg_finfo_get_array_wrapper);
called_raw!(pg_finfo_get_array_text_wrapper);

/// `get_many(cache, keys)`.
#[pg_guard]
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn get_many_wrapper(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: PostgreSQL calls it as it is declared, strict.
    unsafe { rows(call, pg_sys::BYTEAOID, access::append_value) }
}

/// `get_many_text(cache, keys)`.
#[pg_guard]
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn get_many_text_wrapper(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: as above.
    unsafe { rows(call, pg_sys::TEXTOID, access::append_text) }
}

/// `get_array(cache, keys)`.
#[pg_guard]
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn get_array_wrapper(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: as above.
    unsafe { array(call, pg_sys::BYTEAOID, access::append_value) }
}

/// `get_array_text(cache, keys)`.
#[pg_guard]
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn get_array_text_wrapper(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: as above.
    unsafe { array(call, pg_sys::TEXTOID, access::append_text) }
}
