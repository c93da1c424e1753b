//! The one file of the engine that turns offsets into references.
//!
//! A [`Region`] is a range of bytes that may be mapped by several processes at different addresses, so it
//! holds no pointer. Everything but keys and values in it is made of [`Word32`] and [`Word64`]: atomics that
//! are read and written relaxed, which the compiler turns into plain loads and stores. That makes every
//! reference into the region a shared one (no `&mut` to shared memory exists anywhere) and lets a reader look
//! at a bucket, a record or the sequence number beside a writer without undefined behaviour.
//!
//! Keys and values are plain bytes. They are only reached through a [`Region`] inside a `Partition`, whose
//! `&self`/`&mut self` follow the partition's lock, or while the entry is pinned.
//!
//! Not here: what the bytes mean, any lock, the memory's ownership (`shared::backing`).
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A 32-bit word of a region.
#[repr(transparent)]
#[derive(Default)]
pub struct Word32(AtomicU32);

/// A 64-bit word of a region.
#[repr(transparent)]
#[derive(Default)]
pub struct Word64(AtomicU64);

impl Word32 {
    /// Reads the word.
    #[inline]
    pub fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Writes the word.
    #[inline]
    pub fn set(&self, value: u32) {
        self.0.store(value, Ordering::Relaxed)
    }

    /// Adds, for a word that only the holder of the exclusive lock writes.
    #[inline]
    pub fn add(&self, value: u32) {
        self.set(self.get() + value)
    }

    /// Subtracts, for a word that only the holder of the exclusive lock writes.
    #[inline]
    pub fn sub(&self, value: u32) {
        self.set(self.get() - value)
    }

    /// The atomic itself, where several processes write at once.
    #[inline]
    pub fn atomic(&self) -> &AtomicU32 {
        &self.0
    }
}

impl Word64 {
    /// Reads the word.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Writes the word.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed)
    }

    /// Adds, for a word that only the holder of the exclusive lock writes.
    #[inline]
    pub fn add(&self, value: u64) {
        self.set(self.get() + value)
    }

    /// Subtracts, for a word that only the holder of the exclusive lock writes.
    #[inline]
    pub fn sub(&self, value: u64) {
        self.set(self.get() - value)
    }

    /// The atomic itself, where several processes write at once.
    #[inline]
    pub fn atomic(&self) -> &AtomicU64 {
        &self.0
    }
}

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

/// A range of mapped bytes.
///
/// Copies name the same bytes. All access is checked against the length: an index that was damaged panics
/// instead of reaching memory of somebody else.
#[derive(Clone, Copy)]
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

    /// Plain bytes: (a part of) a key or a value.
    ///
    /// The partition's lock, or a pin on the entry, keeps writers away while the reference lives.
    #[inline]
    pub fn bytes(&self, offset: usize, len_bytes: usize) -> &[u8] {
        self.check(offset, len_bytes);
        // SAFETY: in bounds (checked) and initialised; no writer while `self` is borrowed (struct docs).
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(offset), len_bytes) }
    }

    /// The bytes of a pinned value, free of the borrow of the partition.
    ///
    /// # Safety
    ///
    /// - The entry that owns the bytes stays pinned while the slice is used.
    /// - The region stays mapped while the slice is used.
    #[inline]
    pub unsafe fn pinned_bytes<'a>(&self, offset: usize, len_bytes: usize) -> &'a [u8] {
        self.check(offset, len_bytes);
        // SAFETY: in bounds (checked); a pinned slot is neither written, moved nor freed.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(offset), len_bytes) }
    }

    /// Writes plain bytes. Needs `&mut`: the caller is the partition under its exclusive lock.
    #[inline]
    pub fn write_bytes(&mut self, offset: usize, bytes: &[u8]) {
        self.check(offset, bytes.len());
        // SAFETY: in bounds (checked); `bytes` is a Rust reference, so it does not overlap the region
        // (`Region::new`); the exclusive lock keeps readers of plain bytes away.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.as_ptr().add(offset), bytes.len()) }
    }

    /// Copies plain bytes between two places that do not overlap.
    #[inline]
    pub fn copy_bytes(&mut self, from: usize, to: usize, len_bytes: usize) {
        self.check(from, len_bytes);
        self.check(to, len_bytes);
        assert!(from.abs_diff(to) >= len_bytes, "the two places overlap");
        // SAFETY: both in bounds and disjoint (checked); the exclusive lock keeps others away.
        unsafe {
            let base = self.base.as_ptr();
            std::ptr::copy_nonoverlapping(base.add(from), base.add(to), len_bytes)
        }
    }

    /// Zeroes a range. Needs `&mut`: only while a region or partition is being formatted.
    pub fn zero(&mut self, offset: usize, len_bytes: usize) {
        self.check(offset, len_bytes);
        // SAFETY: in bounds (checked); nobody else uses what is being formatted.
        unsafe { std::ptr::write_bytes(self.base.as_ptr().add(offset), 0, len_bytes) }
    }
}
