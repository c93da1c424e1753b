//! An area in a dynamic segment, for a library that the server has not preloaded. PostgreSQL's DSM registry, which maps
//! names to segments, leads to it: from version 17 on.
//!
//! ```text
//! registry: name → ┌─────────┐ handle  ┌───────────────┐
//!                  │ Control │ ──────▶ │ the area      │
//!                  └─────────┘         └───────────────┘
//! ```
//!
//! The registry's own segment is small and holds a lock and the handle of the area, which is made by whoever is first to
//! need room for a cache: views may be read, and settings changed, before any memory is taken. Whoever makes it holds
//! the lock, and writes the handle last: an ERROR before that leaves a segment that belongs to nobody, which PostgreSQL
//! removes, and the next one tries again. Interrupts are held off meanwhile, so a terminated backend goes after. The
//! area stays until the server stops; each process maps it when it first uses it, and keeps it until it exits.
//!
//! Locking: the lock of the control is the catalog's lock too.
#![allow(unsafe_code)]

use std::ffi::{CString, c_void};
use std::panic::AssertUnwindSafe;
use std::ptr::NonNull;

use pgrx::pg_sys::panic::CaughtError;
use pgrx::{PgTryBuilder, pg_guard, pg_sys};

use super::{Area, AreaRequest, AreaSize, Offsets, Places};
use crate::pg::error::{CacheError, is_want_of_memory};
use crate::pg::lwlock::LwLockGuard;
use crate::shared::lock::LockMode;

/// What the registry holds. All but the lock is written and read under the lock.
#[repr(C)]
struct Control {
    lock: pg_sys::LWLock,
    tranche: i32,
    /// Of the area's segment; 0, which is no segment's, before it was made.
    handle: pg_sys::dsm_handle,
    bytes: usize,
    max_caches: usize,
    lines: u32,
}

/// Runs under the registry's lock, on memory that is new.
#[pg_guard]
unsafe extern "C-unwind" fn initialise(control: *mut c_void) {
    let control: *mut Control = control.cast();
    // SAFETY: PostgreSQL gives as many bytes as were asked for, aligned as its own structures are.
    unsafe {
        let tranche = pg_sys::LWLockNewTrancheId();
        pg_sys::LWLockInitialize(&raw mut (*control).lock, tranche);
        (*control).tranche = tranche;
        (*control).handle = 0;
    }
}

fn control(request: AreaRequest) -> *mut Control {
    let mut found = false;
    // Backends with different releases of the library do not share an area, for they may lay it out differently.
    let name = format!("{}-{}", request.name.to_string_lossy(), env!("CARGO_PKG_VERSION"));
    let name = CString::new(name).expect("neither part has a NUL");
    // SAFETY: NUL-terminated names; the callback has the right type. What is found was initialised by the callback, and
    // stays mapped until the process exits. The registry copies its name; the tranche's lives as long as the library,
    // which PostgreSQL never unloads.
    unsafe {
        let size = size_of::<Control>();
        let control = pg_sys::GetNamedDSMSegment(name.as_ptr(), size, Some(initialise), &mut found);
        let control: *mut Control = control.cast();
        pg_sys::LWLockRegisterTranche((*control).tranche, request.name.as_ptr());
        control
    }
}

/// The area, if it was made.
pub(super) fn existing(request: AreaRequest) -> Result<Option<Area>, CacheError> {
    // SAFETY: the control is the registry's.
    unsafe { attach_if_made(control(request)) }
}

/// Maps the area, if it was made.
///
/// # Safety
///
/// - `control` is the registry's.
unsafe fn attach_if_made(control: *mut Control) -> Result<Option<Area>, CacheError> {
    // SAFETY: an initialised lock; the handle is read under it.
    unsafe {
        let held = LwLockGuard::acquire(&raw mut (*control).lock, LockMode::Shared);
        let handle = (*control).handle;
        drop(held);
        // Once written, the handle stays.
        if handle == 0 { Ok(None) } else { attach(control).map(Some) }
    }
}

/// The area; made, if it was not.
pub(super) fn open(request: AreaRequest) -> Result<Area, CacheError> {
    let control = control(request);
    // SAFETY: the control is the registry's.
    if let Some(area) = unsafe { attach_if_made(control)? } {
        return Ok(area);
    }
    let size = (request.size)();
    let made = PgTryBuilder::new(AssertUnwindSafe(|| {
        // SAFETY: `control` is initialised and mapped.
        unsafe { make(control, size) };
        Ok(())
    }))
    .catch_others(|error| match error {
        CaughtError::PostgresError(report) if is_want_of_memory(&report) => {
            Err(CacheError::NoSegment { bytes: Offsets::total_bytes(size), reason: report.message().to_owned() })
        }
        error => error.rethrow(),
    })
    .execute();
    made?;
    // SAFETY: as above.
    unsafe { attach(control) }
}

/// Makes the area's segment, unless another backend has done so meanwhile. An ERROR leaves nothing behind.
///
/// # Safety
///
/// - `control` is the registry's.
unsafe fn make(control: *mut Control, size: AreaSize) {
    // SAFETY: the lock is initialised; the segment is ours alone until its handle is written, and the current resource
    // owner's until it is pinned.
    unsafe {
        let _held = LwLockGuard::acquire(&raw mut (*control).lock, LockMode::Exclusive);
        if (*control).handle != 0 {
            return;
        }
        let segment = pg_sys::dsm_create(Offsets::total_bytes(size), 0);
        let base = NonNull::new(pg_sys::dsm_segment_address(segment).cast()).expect("a new segment is mapped");
        Places::initialise(base, size, (*control).tranche);
        pg_sys::dsm_pin_segment(segment);
        // Mapped by `attach` like anybody's: one way to have it.
        let handle = pg_sys::dsm_segment_handle(segment);
        pg_sys::dsm_detach(segment);
        (*control).bytes = size.bytes;
        (*control).max_caches = size.max_caches;
        (*control).lines = size.lines;
        (*control).handle = handle;
    }
}

/// Maps the area that was made.
///
/// # Safety
///
/// - `control` is the registry's, and has a handle.
unsafe fn attach(control: *mut Control) -> Result<Area, CacheError> {
    // SAFETY: sizes and handle are not written again. The segment is pinned, and its mapping is until the process exits;
    // segments start at a border of pages.
    unsafe {
        let segment = pg_sys::dsm_attach((*control).handle);
        if segment.is_null() {
            return Err(CacheError::NoSegment { bytes: (*control).bytes, reason: "the segment is gone".to_owned() });
        }
        pg_sys::dsm_pin_mapping(segment);
        let base = NonNull::new(pg_sys::dsm_segment_address(segment).cast()).expect("an attached segment is mapped");
        let size = AreaSize { bytes: (*control).bytes, max_caches: (*control).max_caches, lines: (*control).lines };
        Ok(Places::new(base, size, &raw mut (*control).lock).publish())
    }
}
