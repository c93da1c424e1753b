//! The worker's side, and what leader and workers share beside the cache.

use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering::SeqCst};

use pg_shared_lru::pg::parallel::{self, ParallelCache};
use pg_shared_lru::shared::write_back::{Concurrency, LoadStep};
use pgrx::prelude::*;

use crate::exchange::Trouble;
use crate::work::work;
use crate::{CACHE_KEY, CONTROL_KEY};

pub const MAX_WORKERS: usize = 8;

/// What the leader loads while the workers wait for it.
pub const AWAITED: &[u8] = b"awaited";

impl Trouble {
    const ALL: [Trouble; 6] = [
        Trouble::None,
        Trouble::ErrorWhileHolding,
        Trouble::TerminatedWhileHolding,
        Trouble::TerminatedWhileWaiting,
        Trouble::Woken,
        Trouble::NotWoken,
    ];
}

/// In a chunk of the operation. All zero at first.
#[repr(C)]
#[derive(Default)]
pub struct Control {
    pub trouble: AtomicU32,
    pub keys: AtomicU64,
    pub rounds: AtomicU64,
    next_worker: AtomicU32,
    pub pids: [AtomicI32; MAX_WORKERS],
    /// Workers that are where the trouble will find them.
    pub in_place: AtomicU32,
    /// Not 0: those that hold something may raise their error.
    pub happened: AtomicU32,
    pub wrong: AtomicU64,
}

/// The entry point that `CreateParallelContext` was given.
///
/// # Safety
///
/// - Called by PostgreSQL as the entry point of a worker.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn parallel_extension_worker(
    segment: *mut pg_sys::dsm_segment,
    toc: *mut pg_sys::shm_toc,
) {
    // SAFETY: the leader has stored a `Control` under this key; segment and table of contents are PostgreSQL's.
    let (control, cache) = unsafe {
        let control: &Control = &*pg_sys::shm_toc_lookup(toc, CONTROL_KEY, false).cast();
        (control, parallel::attach(segment, toc, CACHE_KEY, 0).unwrap_or_else(|error| error.report()))
    };
    let number = control.next_worker.fetch_add(1, SeqCst);
    control.pids[number as usize].store(std::process::id() as i32, SeqCst);
    let wrong = work(&cache, u64::from(number) + 1, control.keys.load(SeqCst), control.rounds.load(SeqCst));
    control.wrong.fetch_add(wrong, SeqCst);
    trouble(&cache, control, number);
}

fn trouble(cache: &ParallelCache, control: &Control, number: u32) {
    match Trouble::ALL[control.trouble.load(SeqCst) as usize] {
        Trouble::None => (),
        Trouble::ErrorWhileHolding | Trouble::TerminatedWhileHolding => {
            let key = format!("pinned by worker {number}");
            cache.put(key.as_bytes(), b"value").expect("there is room");
            cache.with(key.as_bytes(), |_| {
                let LoadStep::Yours(_load) =
                    cache.lease_load(format!("loaded by worker {number}").as_bytes(), Concurrency::Single)
                else {
                    unreachable!("nobody else has this key");
                };
                control.in_place.fetch_add(1, SeqCst);
                while control.happened.load(SeqCst) == 0 {
                    pgrx::check_for_interrupts!();
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                error!("worker {number} stops in the middle");
            });
        }
        Trouble::TerminatedWhileWaiting | Trouble::Woken | Trouble::NotWoken => {
            control.in_place.fetch_add(1, SeqCst);
            while !cache.contains(AWAITED) {
                cache.wait_for_load(AWAITED);
            }
        }
    }
}
