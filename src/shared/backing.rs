//! Memory for a cache outside PostgreSQL: private to the process, or a mapping that processes share.
//!
//! Both are zeroed and touched lazily. PostgreSQL's own memory is not owned here; see `pg`.
#![allow(unsafe_code)]

use std::alloc::{alloc_zeroed, dealloc, Layout as AllocLayout};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;

/// Owned memory.
#[derive(Debug)]
pub enum Backing {
    /// One zeroed allocation of this process.
    Private(PrivateMemory),
    /// A mapping that children inherit.
    Mapping(SharedMapping),
    /// Owned by somebody else, who keeps it mapped.
    External,
}

/// One zeroed allocation.
#[derive(Debug)]
pub struct PrivateMemory {
    base: NonNull<u8>,
    layout: AllocLayout,
}

// SAFETY: owns its allocation, like a Box<[u8]>.
unsafe impl Send for PrivateMemory {}
// SAFETY: as above; it gives out its address only.
unsafe impl Sync for PrivateMemory {}

impl PrivateMemory {
    /// Allocates `bytes` (not 0), aligned to 64.
    pub fn new(bytes: usize) -> io::Result<Self> {
        let layout = AllocLayout::from_size_align(bytes.max(64), 64).map_err(io::Error::other)?;
        // SAFETY: the size is not 0.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) })
            .ok_or_else(|| io::Error::new(io::ErrorKind::OutOfMemory, format!("{bytes} bytes of memory")))?;
        Ok(PrivateMemory { base, layout })
    }

    /// The first byte.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }
}

impl Drop for PrivateMemory {
    fn drop(&mut self) {
        // SAFETY: allocated by `new` with this layout.
        unsafe { dealloc(self.base.as_ptr(), self.layout) }
    }
}

/// Memory without a file name that processes share: children inherit it over `fork`.
#[derive(Debug)]
pub struct SharedMapping {
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
    pub fn new(bytes: usize) -> io::Result<Self> {
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
    pub fn map_again(&self) -> io::Result<Self> {
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
        Ok(SharedMapping { base, bytes, file })
    }

    /// The first byte.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Length in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for SharedMapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}
