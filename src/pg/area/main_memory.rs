//! An area in PostgreSQL's main shared memory: requested while the postmaster loads its libraries, initialised once under
//! AddinShmemInitLock, inherited by every backend. All hooks call those that were installed before.
//!
//! Locking: the catalog's lock is the first LWLock of the tranche that PostgreSQL keeps for the area's name.
#![allow(unsafe_code)]

use std::ptr::NonNull;

use pgrx::{pg_guard, pg_sys};

use super::{Offsets, Places, requested};
use crate::pg::hooks::{PlainHook, Previous};
use crate::pg::lwlock::{self, LwLockGuard};
use crate::pg::versions;
use crate::shared::lock::LockMode;

static PREVIOUS: Previous<PlainHook> = Previous::new();

/// Has the area made. Only while the postmaster loads its libraries.
pub(super) fn install_hooks() {
    versions::at_shmem_request(request);
    // SAFETY: runs in the postmaster's only thread while it loads libraries.
    unsafe { PREVIOUS.install(&raw mut pg_sys::shmem_startup_hook, Some(startup_hook)) };
}

/// At the one moment when memory may be asked for.
fn request() {
    let area = requested();
    // SAFETY: it is that moment; the name is NUL-terminated.
    unsafe {
        pg_sys::RequestAddinShmemSpace(Offsets::total_bytes((area.size)()));
        pg_sys::RequestNamedLWLockTranche(area.name.as_ptr(), 1);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn startup_hook() {
    let area = requested();
    let size = (area.size)();
    // SAFETY: the moment is that of this hook.
    unsafe { PREVIOUS.call() };
    // SAFETY: PostgreSQL calls the hook once shared memory exists. What it finds there was initialised by the process
    // that made it; settings are what they were when it was asked for.
    unsafe {
        let _held = LwLockGuard::acquire(lwlock::addin_shmem_init_lock(), LockMode::Exclusive);
        let mut found = false;
        let base: *mut u8 = pg_sys::ShmemInitStruct(area.name.as_ptr(), Offsets::total_bytes(size), &mut found).cast();
        let base = NonNull::new(base).expect("ShmemInitStruct does not return NULL");
        let tranche = pg_sys::GetNamedLWLockTranche(area.name.as_ptr());
        if !found {
            Places::initialise(base, size, (*tranche).lock.tranche.into());
        }
        Places::new(base, size, &raw mut (*tranche).lock).publish();
    }
}
