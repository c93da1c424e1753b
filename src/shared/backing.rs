//! Memory for a cache outside PostgreSQL: private to the process, or a mapping that processes share.
//!
//! Both are zeroed and touched lazily. Memory of some size asks for huge pages: a lookup goes to three places that lie
//! anywhere, and with small pages finding them in the page tables costs as much as reading them. It then grows by two
//! megabytes at a time.
//!
//! Invariant: an address that is given out stays mapped until the memory's owner is dropped. What is done through it is
//! synchronised by the cache, not here.
//!
//! Not here: PostgreSQL's own memory (`pg`), and memory that the caller of `create` or `attach` keeps.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;

const HUGE_PAGE_BYTES: usize = 2 << 20;
/// Below this, memory that is touched and not used would weigh more than what huge pages save.
const LEAST_HUGE_BYTES: usize = 8 * HUGE_PAGE_BYTES;

fn advise_huge_pages(base: NonNull<u8>, bytes: usize) {
    // Where there are none, small pages do.
    // SAFETY: advice on a mapping of our own, which changes nothing that a program can see.
    unsafe { libc::madvise(base.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) };
}

/// Who keeps a cache's memory mapped.
#[derive(Debug)]
pub(super) enum Backing {
    /// The cache: memory of this process alone.
    #[expect(dead_code, reason = "unmapped when the cache is dropped")]
    Private(PrivateMemory),
    /// The cache: a mapping that children inherit.
    Mapping(SharedMapping),
    /// The caller who gave it.
    External,
}

/// Zeroed memory of this process alone.
#[derive(Debug)]
pub(super) struct PrivateMemory {
    base: NonNull<u8>,
    mapping: NonNull<u8>,
    mapped_bytes: usize,
}

// SAFETY: owns its mapping, like a Box<[u8]>.
unsafe impl Send for PrivateMemory {}
// SAFETY: as above; it gives out its address only.
unsafe impl Sync for PrivateMemory {}

impl PrivateMemory {
    /// Maps `bytes`, in huge pages if they are many and the system gives such pages to those who ask.
    ///
    /// # Errors
    ///
    /// The system has no address space, or no memory where it does not overcommit.
    pub(super) fn new(bytes: usize) -> io::Result<Self> {
        let is_large = bytes >= LEAST_HUGE_BYTES;
        let align_bytes = if is_large { HUGE_PAGE_BYTES } else { 0 };
        let mapped_bytes = bytes.max(1).checked_add(align_bytes).ok_or(io::ErrorKind::OutOfMemory)?;
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), mapped_bytes, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let mapping = NonNull::new(start.cast::<u8>()).expect("a mapping is not at address 0");
        let skipped = if is_large { mapping.align_offset(HUGE_PAGE_BYTES) } else { 0 };
        // SAFETY: less than a huge page, by which the mapping is longer than `bytes`.
        let base = unsafe { mapping.add(skipped) };
        if is_large {
            advise_huge_pages(base, bytes);
        }
        Ok(PrivateMemory { base, mapping, mapped_bytes })
    }

    /// The first byte.
    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }
}

impl Drop for PrivateMemory {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length.
        unsafe { libc::munmap(self.mapping.as_ptr().cast(), self.mapped_bytes) };
    }
}

/// Memory without a file name that processes share: children inherit it over `fork`.
#[derive(Debug)]
pub(super) struct SharedMapping {
    base: NonNull<u8>,
    bytes: usize,
    file: OwnedFd,
}

// SAFETY: an address range and a file descriptor; what is shared through it is synchronised by the cache.
unsafe impl Send for SharedMapping {}
// SAFETY: as above.
unsafe impl Sync for SharedMapping {}

impl SharedMapping {
    /// Creates and maps `bytes` of zeroes.
    ///
    /// # Errors
    ///
    /// The system has no file descriptor, no address space, or no memory where it does not overcommit.
    pub(super) fn new(bytes: usize) -> io::Result<Self> {
        // SAFETY: plain system calls on a new descriptor, owned from here on.
        let file = unsafe {
            let descriptor = libc::memfd_create(c"pg_shared_lru".as_ptr(), libc::MFD_CLOEXEC);
            if descriptor < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(descriptor)
        };
        // SAFETY: a valid descriptor.
        if unsafe { libc::ftruncate(file.as_raw_fd(), bytes as libc::off_t) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Self::map(file, bytes)
    }

    /// Maps the same memory once more, at another address.
    ///
    /// # Errors
    ///
    /// As for `new`.
    pub(super) fn map_again(&self) -> io::Result<Self> {
        Self::map(self.file.try_clone()?, self.bytes)
    }

    fn map(file: OwnedFd, bytes: usize) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping of a file that is `bytes` long, at an address of the kernel's choice.
        let base =
            unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).expect("a mapping is not at address 0");
        if bytes >= LEAST_HUGE_BYTES {
            advise_huge_pages(base, bytes);
        }
        Ok(SharedMapping { base, bytes, file })
    }

    /// The first byte.
    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Length in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for SharedMapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}
