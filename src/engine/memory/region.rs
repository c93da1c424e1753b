//! The one file of the engine that turns offsets into references.
//!
//! A [`Region`] is a range of bytes that may be mapped by several processes at different addresses, so it
//! holds no pointer. Everything but keys and values in it is made of [`Word32`] and [`Word64`]: atomics that
//! are read and written relaxed, which the compiler turns into plain loads and stores. That makes every
//! reference into the region a shared one (no `&mut` to shared memory exists anywhere) and lets a reader look
//! at a bucket, a record or the sequence number beside a writer without undefined behaviour.
//!
//! Keys and values are written in whole [`Word64`]s too ([`Region::write_bytes`], [`Region::copy_bytes`]), because a
//! reader without the lock (`optimistic`) may look at them meanwhile, as words. Whoever keeps writers away, by the
//! partition's lock in any mode or by a pin, reads them as the plain bytes that they are then.
//!
//! Not here: what the bytes mean, any lock, the memory's ownership (`shared::backing`).
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use super::copy::{copy_words, word_of};
use super::words::{Word32, Word64};

/// A type that may be laid over bytes of a region.
///
/// # Safety
///
/// - The type is `repr(C)` or `repr(transparent)` without implicit padding.
/// - Every field is a [`Word32`], a [`Word64`], an atomic integer or an array of these, so that every bit pattern is a
///   value and concurrent access is defined.
/// - Its alignment is at most 64.
pub unsafe trait RegionType {}

// SAFETY: transparent over one atomic.
unsafe impl RegionType for Word32 {}
// SAFETY: transparent over one atomic.
unsafe impl RegionType for Word64 {}
// SAFETY: one atomic; the free bitmaps are made of these.
unsafe impl RegionType for AtomicU64 {}
// SAFETY: an array has no padding between its elements.
unsafe impl<T: RegionType, const N: usize> RegionType for [T; N] {}

/// Declares a struct that is laid over bytes of a region: `repr(C)`, with the size and alignment that the declaration
/// states. The compiler checks that every field is a [`RegionType`] and that no byte is padding.
macro_rules! region_struct {
    (
        $(#[$doc:meta])*
        $visibility:vis struct $name:ident: $bytes:literal bytes, align $align:literal {
            $($(#[$field_doc:meta])* $field_visibility:vis $field:ident: $type:ty,)*
        }
    ) => {
        $(#[$doc])*
        #[derive(Debug)]
        #[repr(C, align($align))]
        $visibility struct $name {
            $($(#[$field_doc])* $field_visibility $field: $type,)*
        }
        const _: () = {
            const fn is_made_of_words<T: $crate::engine::memory::region::RegionType>() {}
            $(is_made_of_words::<$type>();)*
            assert!(size_of::<$name>() == $bytes && 0 $(+ size_of::<$type>())* == $bytes);
        };
        // SAFETY: repr(C); every field is a `RegionType`, and the fields fill the struct (both checked above).
        #[allow(unsafe_code)]
        unsafe impl $crate::engine::memory::region::RegionType for $name {}
    };
}
pub(crate) use region_struct;

/// A range of mapped bytes.
///
/// Copies name the same bytes. All access is checked against the length: an index that was damaged panics
/// instead of reaching memory of somebody else.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    base: NonNull<u8>,
    len_bytes: usize,
}

// SAFETY: a region is an address and a length; what is reached through it is either atomic or guarded by the
// partition's lock, as `Region::new` demands.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Names `len_bytes` bytes at `base` as a region.
    ///
    /// # Safety
    ///
    /// - `base` is aligned to 64 bytes and `base..base + len_bytes` stays mapped, readable and writable while
    ///   the region or a copy of it is used.
    /// - The bytes are initialised (zeroed memory is).
    /// - Nothing else in the process holds a Rust reference to them.
    pub unsafe fn new(base: NonNull<u8>, len_bytes: usize) -> Self {
        assert!(base.as_ptr() as usize % 64 == 0, "a region must be aligned to 64 bytes");
        Region { base, len_bytes }
    }

    /// The length in bytes.
    pub fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// The part of this region from `offset` on, `len_bytes` long.
    pub fn part(&self, offset: usize, len_bytes: usize) -> Region {
        self.check(offset, len_bytes);
        // SAFETY: `check` proved the part to lie inside; alignment is asserted by `new`.
        unsafe { Region::new(NonNull::new_unchecked(self.base.as_ptr().add(offset)), len_bytes) }
    }

    #[inline]
    fn check(&self, offset: usize, bytes: usize) {
        assert!(
            offset <= self.len_bytes && bytes <= self.len_bytes - offset,
            "offset {offset} with {bytes} bytes lies outside a region of {} bytes",
            self.len_bytes
        );
    }

    /// The value of type `T` at `offset`.
    #[inline]
    pub fn at<T: RegionType>(&self, offset: usize) -> &T {
        self.check(offset, size_of::<T>());
        assert!(offset % align_of::<T>() == 0, "offset {offset} is not aligned");
        // SAFETY: in bounds (checked) and aligned (region base is 64-aligned, callers lay out by `align_of`);
        // `RegionType` allows any bytes and concurrent access.
        unsafe { &*self.base.as_ptr().add(offset).cast::<T>() }
    }

    /// `count` values of type `T` from `offset` on.
    #[inline]
    pub fn slice<T: RegionType>(&self, offset: usize, count: usize) -> &[T] {
        self.check(offset, count * size_of::<T>());
        assert!(offset % align_of::<T>() == 0, "offset {offset} is not aligned");
        // SAFETY: as in `at`.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(offset).cast::<T>(), count) }
    }

    /// Asks the processor to fetch the cache line of an offset; nothing if it lies outside.
    #[inline]
    pub fn prefetch(&self, offset: usize) {
        if offset < self.len_bytes {
            // SAFETY: in bounds (checked).
            prefetch(unsafe { self.base.as_ptr().add(offset) });
        }
    }

    /// Plain bytes: (a part of) a key or a value. For this crate alone, which keeps writers away while the reference
    /// lives: by the partition's lock in any mode, or by a pin on the entry.
    #[inline]
    pub(crate) fn bytes(&self, offset: usize, len_bytes: usize) -> &[u8] {
        self.check(offset, len_bytes);
        // SAFETY: in bounds (checked) and initialised; no writer while `self` is borrowed (struct docs).
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(offset), len_bytes) }
    }

    /// Writes plain bytes, as words: the last one whole, with zeros behind the bytes. `offset` is a multiple of 8. The
    /// place is the caller's own: by the exclusive lock, or because nothing leads to it yet.
    #[inline]
    pub fn write_bytes(&self, offset: usize, bytes: &[u8]) {
        let words: &[Word64] = self.slice(offset, bytes.len().div_ceil(8));
        let whole = bytes.len() / 8;
        // SAFETY: `words` and `bytes` are both at least so many words long; `bytes` is a Rust reference, so it does not
        // overlap the region (`Region::new`).
        unsafe { copy_words(bytes.as_ptr(), words.as_ptr().cast_mut().cast(), whole) };
        if let [last] = &words[whole..] {
            last.set(word_of(&bytes[8 * whole..]));
        }
    }

    /// Copies words between two places that do not overlap; both are the caller's own. All three numbers are multiples
    /// of 8.
    #[inline]
    pub fn copy_bytes(&self, from: usize, to: usize, len_bytes: usize) {
        assert!(from.abs_diff(to) >= len_bytes, "the two places overlap");
        assert!(len_bytes % 8 == 0, "{len_bytes} bytes are not whole words");
        let from: &[Word64] = self.slice(from, len_bytes / 8);
        let to: &[Word64] = self.slice(to, len_bytes / 8);
        // SAFETY: both are so many words long, and disjoint (checked).
        unsafe { copy_words(from.as_ptr().cast(), to.as_ptr().cast_mut().cast(), len_bytes / 8) };
    }

    /// Zeroes a range, which is the caller's own. Both numbers are multiples of 8.
    pub fn zero(&self, offset: usize, len_bytes: usize) {
        assert!(len_bytes % 8 == 0, "{len_bytes} bytes are not whole words");
        self.slice::<Word64>(offset, len_bytes / 8).iter().for_each(|word| word.set(0));
    }
}

/// Asks the processor to fetch the cache line of an address.
#[inline(always)]
pub fn prefetch<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing that the program can see, whatever the address; every x86-64 has it.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

#[cfg(test)]
impl Region {
    /// Zeroed memory for a test, never freed.
    pub fn leaked(len_bytes: usize) -> Region {
        #[derive(Clone)]
        #[repr(align(64))]
        struct Line([u8; 64]);
        let lines = vec![Line([0; 64]); len_bytes.div_ceil(64)].leak();
        debug_assert!(lines.iter().all(|line| line.0 == [0; 64]));
        // SAFETY: new and initialised, aligned by `Line`, never freed, and no other reference to it is kept.
        unsafe { Region::new(NonNull::from(lines).cast(), len_bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::memory::copy::{append_words, words_equal};

    #[test]
    fn bytes_come_back_from_words_at_every_length() {
        #[repr(align(64))]
        struct Memory([u8; 448]);
        let mut memory = Memory([0xff; 448]);
        let base = NonNull::from(&mut memory.0).cast();
        // SAFETY: `memory` lives until the end and is only used through the region.
        let region = unsafe { Region::new(base, 448) };
        for len in 0..200usize {
            let bytes: Vec<u8> = (0..len as u8).map(|byte| byte ^ 0xa5).collect();
            region.write_bytes(8, &bytes);
            assert_eq!(region.bytes(8, len), bytes);
            let padding = len.next_multiple_of(8) - len;
            assert_eq!(region.bytes(8 + len, padding), vec![0; padding], "zeros fill the last word");
            let words = region.slice(8, len.div_ceil(8));
            assert!(words_equal(words, &bytes));
            let mut out = vec![7; 3];
            append_words(words, len, &mut out).expect("there is memory");
            assert_eq!((&out[..3], &out[3..]), (&[7, 7, 7][..], &bytes[..]));
            region.copy_bytes(8, 216, len.next_multiple_of(8));
            assert_eq!(region.bytes(216, len), bytes);
        }
        region.write_bytes(8, b"key of a length");
        assert!(!words_equal(region.slice(8, 2), b"key of b length"));
        assert!(!words_equal(region.slice(8, 2), b"key of a lengtH"));
        assert!(!words_equal(region.slice(8, 2), b"key of a lengt"));
    }
}
