//! What an extension does with the library, as C functions that the tests create and call from SQL: in a parallel
//! operation, and with named caches in an area of its own (`named`), for which the server preloads it.
//!
//! - `exercise`         leader and workers work on one cache; the leader tells what it found
//! - `attach_refusals`  what is said to who attaches wrongly
//! - `use_after_end`    keeps a handle longer than its memory
//! - `hold_segments`    takes every slot for shared memory segments, `release_segments` gives them back
//! - `draw_tranche`     the next number for an LWLock tranche

mod exchange;
mod leader;
mod named;
mod work;
mod worker;

use std::cell::RefCell;

use pgrx::prelude::*;

::pgrx::pg_module_magic!();

/// Where leader and workers find what they share.
const CONTROL_KEY: u64 = 1;
const CACHE_KEY: u64 = 2;

#[allow(non_snake_case)]
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    if pg_shared_lru::pg::area::is_preloading() {
        named::request();
    }
}

#[pg_extern]
fn exercise(request: &str) -> String {
    let request = serde_json::from_str(request).expect("a request");
    serde_json::to_string(&leader::exercise(&request)).expect("an outcome is plain data")
}

#[pg_extern]
fn attach_refusals() -> Vec<String> {
    leader::attach_refusals()
}

#[pg_extern]
fn use_after_end(library: &str, how: &str) {
    leader::use_after_end(library, how);
}

thread_local! {
    static HELD: RefCell<Vec<*mut pg_sys::dsm_segment>> = const { RefCell::new(Vec::new()) };
}

#[pg_extern]
fn hold_segments() -> i32 {
    const BYTES: usize = 8192;
    HELD.with_borrow_mut(|held| {
        loop {
            let flags = pg_sys::DSM_CREATE_NULL_IF_MAXSEGMENTS as i32;
            // SAFETY: in a transaction; the mapping is kept until `release_segments`.
            let segment = unsafe { pg_sys::dsm_create(BYTES, flags) };
            if segment.is_null() {
                return held.len() as i32;
            }
            // SAFETY: just created.
            unsafe { pg_sys::dsm_pin_mapping(segment) };
            held.push(segment);
        }
    })
}

#[pg_extern]
fn release_segments() {
    for segment in HELD.take() {
        // SAFETY: created by `hold_segments` and detached only here.
        unsafe { pg_sys::dsm_detach(segment) };
    }
}

#[pg_extern]
fn draw_tranche() -> i32 {
    // SAFETY: takes no arguments; may be called in any backend.
    unsafe { pg_sys::LWLockNewTrancheId() }
}
