//! Arguments of functions that are called with their call's data: byte strings, and arrays of them, without a copy and
//! without a call where PostgreSQL has them in plain form.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ptr::NonNull;

use pgrx::fcinfo::pg_getarg_datum_raw;
use pgrx::{pg_sys, varatt_is_1b, varatt_is_1b_e, varatt_is_4b_u, vardata_any, varsize_any, varsize_any_exhdr};

/// Elements of arrays of varlenas begin at multiples of it, their data at multiples of the other.
const ELEMENT_ALIGNMENT_BYTES: usize = 4;
pub(super) const ARRAY_ALIGNMENT_BYTES: usize = 8;
/// The header of an array of one dimension.
pub(super) const ARRAY_HEADER_BYTES: usize = size_of::<pg_sys::ArrayType>() + 2 * size_of::<i32>();

/// The bytes of a varlena.
///
/// # Safety
///
/// - The datum is one, and stays for `'a`.
#[inline]
unsafe fn bytes_of<'a>(datum: pg_sys::Datum) -> &'a [u8] {
    // SAFETY: as the caller says; what is neither short nor plain becomes so, in the current memory context.
    unsafe {
        let mut varlena = datum.cast_mut_ptr::<pg_sys::varlena>();
        let is_short = varatt_is_1b(varlena) && !varatt_is_1b_e(varlena);
        if !is_short && !varatt_is_4b_u(varlena) {
            varlena = pg_sys::pg_detoast_datum_packed(varlena);
        }
        std::slice::from_raw_parts(vardata_any(varlena).cast(), varsize_any_exhdr(varlena))
    }
}

/// An argument that is a `bytea` or text.
///
/// # Safety
///
/// - It is one of the call that is being answered, and not NULL.
#[inline]
pub(super) unsafe fn bytes<'a>(call: pg_sys::FunctionCallInfo, number: usize) -> &'a [u8] {
    // SAFETY: as the caller says.
    unsafe { bytes_of(pg_getarg_datum_raw(call, number)) }
}

/// What is left of an array of byte strings; `None` for each that is NULL.
#[derive(Clone)]
pub(super) struct Elements<'a> {
    next: *const u8,
    number: usize,
    count: usize,
    /// A bit for each element, set if it is not NULL.
    present: Option<NonNull<u8>>,
    array: PhantomData<&'a [u8]>,
}

impl<'a> Elements<'a> {
    /// Those of an argument, whatever its dimensions are.
    ///
    /// # Safety
    ///
    /// - It is an array of `bytea` or text, of the call that is being answered, and not NULL.
    pub(super) unsafe fn of_argument(call: pg_sys::FunctionCallInfo, number: usize) -> Self {
        // SAFETY: as the caller says; the array is in plain form then, laid out as array.h has it.
        unsafe {
            let datum = pg_getarg_datum_raw(call, number);
            let array = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast::<pg_sys::ArrayType>();
            let dimensions = (*array).ndim as usize;
            let lengths = array.add(1).cast::<i32>();
            let count = if dimensions == 0 { 0 } else { (0..dimensions).map(|of| *lengths.add(of) as usize).product() };
            let bits = lengths.add(2 * dimensions).cast::<u8>();
            let (present, start) = match (*array).dataoffset as usize {
                0 => (None, (bits as usize - array as usize).next_multiple_of(ARRAY_ALIGNMENT_BYTES)),
                offset => (NonNull::new(bits), offset),
            };
            Elements { next: array.cast::<u8>().add(start), number: 0, count, present, array: PhantomData }
        }
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Option<&'a [u8]>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.number == self.count {
            return None;
        }
        let number = self.number;
        self.number += 1;
        // SAFETY: there is a bit for each element, and an element where that is set; each begins aligned behind the one
        // before it. The array stays for `'a`.
        unsafe {
            if self.present.is_some_and(|bits| bits.add(number / 8).read() & (1 << (number % 8)) == 0) {
                return Some(None);
            }
            let element = self.next.add(self.next.align_offset(ELEMENT_ALIGNMENT_BYTES));
            self.next = element.add(varsize_any(element.cast()));
            Some(Some(bytes_of(pg_sys::Datum::from(element))))
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.count - self.number;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Elements<'_> {}
