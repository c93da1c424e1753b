//! What the process's heap really takes: an allocator that counts.
//!
//! Every allocation counts with what glibc's malloc makes of it (`testkit::heap`). Free chunks between live ones are not seen, which flatters caches of many allocations.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

use testkit::heap::malloc_bytes;

static LIVE_BYTES: AtomicU64 = AtomicU64::new(0);

/// Bytes of all live allocations.
pub fn live_bytes() -> u64 {
    LIVE_BYTES.load(Ordering::Relaxed)
}

/// The system's allocator, counted.
pub struct Counted;

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE_BYTES.fetch_add(malloc_bytes(layout.size()), Ordering::Relaxed);
        // SAFETY: the caller's promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        LIVE_BYTES.fetch_add(malloc_bytes(layout.size()), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(malloc_bytes(layout.size()), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new_bytes: usize) -> *mut u8 {
        LIVE_BYTES.fetch_add(malloc_bytes(new_bytes), Ordering::Relaxed);
        LIVE_BYTES.fetch_sub(malloc_bytes(layout.size()), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(memory, layout, new_bytes) }
    }
}
