//! The leader's side.

use std::collections::HashSet;
use std::ffi::CString;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use pg_shared_lru::pg::dsm_locks::DsmLocks;
use pg_shared_lru::pg::parallel::{self, ParallelCache};
use pg_shared_lru::shared::write_back::{Concurrency, LoadGuard, LoadStep};
use pg_shared_lru::{Config, Locks, SharedCache, TypedCache, type_tag};
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;

use crate::exchange::{Outcome, Request, Trouble};
use crate::work::{proves_itself, work};
use crate::worker::{AWAITED, Control, MAX_WORKERS};
use crate::{CACHE_KEY, CONTROL_KEY};

/// A cache for the leader alone, where there is no memory for a shared one.
const PRIVATE_BYTES: usize = 8 << 20;

/// A parallel context, from the call that makes it to the one that ends it.
struct Operation {
    context: *mut pg_sys::ParallelContext,
}

impl Operation {
    fn start(library: &str, workers: i32) -> Self {
        let library = CString::new(library).expect("a path");
        // SAFETY: in a transaction; both strings are copied.
        unsafe {
            pg_sys::EnterParallelMode();
            let entry_point = c"parallel_extension_worker";
            let context = pg_sys::CreateParallelContext(library.as_ptr(), entry_point.as_ptr(), workers);
            Operation { context }
        }
    }

    fn estimate_chunk(&self, bytes: usize) {
        // SAFETY: the context is not initialised yet.
        unsafe {
            (*self.context).estimator.space_for_chunks += bytes.next_multiple_of(pg_sys::ALIGNOF_BUFFER as usize);
            (*self.context).estimator.number_of_keys += 1;
        }
    }

    fn create_control(&self) -> &Control {
        // SAFETY: the context is initialised and has room for the chunk, which is new and aligned to 8 bytes or more.
        unsafe {
            let control: *mut Control = pg_sys::shm_toc_allocate((*self.context).toc, size_of::<Control>()).cast();
            control.write(Control::default());
            pg_sys::shm_toc_insert((*self.context).toc, CONTROL_KEY, control.cast());
            &*control
        }
    }

    fn end(self) {
        // SAFETY: nobody uses the context after this.
        unsafe {
            pg_sys::DestroyParallelContext(self.context);
            pg_sys::ExitParallelMode();
        }
    }

    /// Waits until every worker has exited; returns the errors that came from them.
    fn wait_for_exit(&self) -> Vec<String> {
        let mut errors = Vec::new();
        // SAFETY: the workers were launched. After an error the first call must not be repeated: it waits for a
        // message of a worker that has none to send.
        errors.extend(caught(|| unsafe { pg_sys::WaitForParallelWorkersToFinish(self.context) }));
        // SAFETY: the context has a handle for each worker launched.
        let launched = unsafe { (*self.context).nworkers_launched };
        for worker in 0..launched as usize {
            // SAFETY: as above.
            let handle = unsafe { (*(*self.context).worker.add(worker)).bgwhandle };
            // SAFETY: the handle of a worker that was launched.
            while let Some(error) = caught(|| _ = unsafe { pg_sys::WaitForBackgroundWorkerShutdown(handle) }) {
                errors.push(error);
            }
        }
        errors
    }
}

/// The message of the error that `call` raises.
fn caught(call: impl FnOnce()) -> Option<String> {
    PgTryBuilder::new(AssertUnwindSafe(|| {
        call();
        None
    }))
    .catch_others(|error| match error {
        CaughtError::PostgresError(report) => Some(report.message().to_owned()),
        other => other.rethrow(),
    })
    .execute()
}

pub fn exercise(request: &Request) -> Outcome {
    assert!(request.workers as usize <= MAX_WORKERS);
    let mut outcome = Outcome::default();
    let config = Config::bytes(request.cache_bytes).partitions(request.partitions);
    let operation = Operation::start(&request.library, request.workers);
    operation.estimate_chunk(size_of::<Control>());
    if request.ballast_bytes > 0 {
        operation.estimate_chunk(request.ballast_bytes);
    }
    // SAFETY: the order of calls that the library asks for.
    let planned = unsafe { parallel::estimate(operation.context, &config) }.expect("a right configuration");
    // SAFETY: as above.
    if let Err(refused) = unsafe { parallel::initialize_dsm(operation.context) } {
        operation.end();
        outcome.refused = Some(refused.to_string());
        let cache = SharedCache::private(&Config::bytes(PRIVATE_BYTES)).expect("eight megabytes");
        outcome.wrong += work(&cache, 0, request.keys, request.rounds);
        judge(cache, &mut outcome);
        return outcome;
    }
    let control = operation.create_control();
    control.trouble.store(request.trouble as u32, SeqCst);
    control.keys.store(request.keys, SeqCst);
    control.rounds.store(request.rounds, SeqCst);
    // SAFETY: as above; the cache is used up before the operation ends.
    let cache = unsafe { planned.create(operation.context, CACHE_KEY, 0) }.unwrap_or_else(|error| error.report());
    // SAFETY: the context is initialised.
    unsafe {
        pg_sys::LaunchParallelWorkers(operation.context);
        outcome.has_segment = !(*operation.context).seg.is_null();
        outcome.workers_launched = (*operation.context).nworkers_launched;
    }
    outcome.wrong += work(&cache, 0, request.keys, request.rounds);
    let load = make_trouble(request.trouble, &cache, control, &mut outcome);
    outcome.errors = operation.wait_for_exit();
    drop(load);
    outcome.held_after = cache.in_flight().total();
    // The leader goes on, whatever became of the workers.
    outcome.wrong += work(&cache, 9, request.keys, request.rounds) + control.wrong.load(SeqCst);
    judge(cache, &mut outcome);
    operation.end();
    outcome
}

fn lease_awaited(cache: &ParallelCache) -> LoadGuard<'_, DsmLocks> {
    match cache.lease_load(AWAITED, Concurrency::Single) {
        LoadStep::Yours(load) => load,
        _ => unreachable!("nobody else loads this key"),
    }
}

/// Waits until all workers are in place, and does to them what is to be done. Returns the load that they wait for, where
/// it does not end.
fn make_trouble<'a>(
    trouble: Trouble,
    cache: &'a ParallelCache,
    control: &Control,
    outcome: &mut Outcome,
) -> Option<LoadGuard<'a, DsmLocks>> {
    if trouble == Trouble::None {
        return None;
    }
    let load = lease_awaited(cache);
    while (control.in_place.load(SeqCst) as i32) < outcome.workers_launched {
        pgrx::check_for_interrupts!();
        std::thread::sleep(Duration::from_millis(1));
    }
    // But for the leader's own load.
    outcome.held_in_place = cache.in_flight().total() - 1;
    match trouble {
        Trouble::None => (),
        Trouble::TerminatedWhileHolding | Trouble::TerminatedWhileWaiting => {
            for pid in control.pids.iter().map(|pid| pid.load(SeqCst)).filter(|&pid| pid != 0) {
                // SAFETY: the SQL function, called with its two arguments; the second is a time to wait.
                let sent = unsafe {
                    let arguments = [pid.into_datum(), 0i64.into_datum()];
                    pgrx::direct_function_call::<bool>(pg_sys::pg_terminate_backend, &arguments)
                };
                assert_eq!(sent, Some(true));
            }
        }
        Trouble::ErrorWhileHolding => control.happened.store(1, SeqCst),
        Trouble::Woken | Trouble::NotWoken => {
            cache.put(AWAITED, b"value").expect("there is room");
        }
    }
    (trouble != Trouble::Woken).then_some(load)
}

/// Walks over all that is there, checks it, takes it out, and counts.
fn judge<L: Locks>(cache: SharedCache<L>, outcome: &mut Outcome) {
    outcome.inconsistencies = cache.validate().err().map(|found| found.to_string());
    outcome.evictions = cache.stats().evictions;
    outcome.resets = cache.stats().resets;
    let mut keys = HashSet::new();
    for entry in cache.iter_with_values() {
        let value = entry.value.expect("the walk was asked for values");
        outcome.walked += 1;
        // The troubled workers' own keys are no numbers.
        outcome.wrong += u64::from(entry.key.len() == 8 && !proves_itself(&entry.key, &value));
        keys.insert(entry.key);
    }
    outcome.distinct = keys.len() as u64;
    let parts = cache.into_parts();
    outcome.drained = parts.iter().filter(|(key, _)| keys.contains(*key)).count() as u64;
    // SAFETY: a counter of this process, read from its only thread.
    outcome.interrupts_held = unsafe { pg_sys::InterruptHoldoffCount };
}

pub fn attach_refusals() -> Vec<String> {
    type Typed = TypedCache<u64, String, DsmLocks>;
    const NOBODYS_KEY: u64 = 3;
    let tag = type_tag::<u64, String>();
    let operation = Operation::start("$libdir/plpgsql", 0);
    operation.estimate_chunk(size_of::<Control>());
    // SAFETY: the order of calls that the library asks for; the caches are dropped before the operation ends.
    unsafe {
        let planned = parallel::estimate(operation.context, &Config::bytes(1 << 20)).expect("a right configuration");
        parallel::initialize_dsm(operation.context).expect("a megabyte");
        operation.create_control();
        let cache = planned.create(operation.context, CACHE_KEY, tag).unwrap_or_else(|error| error.report());
        let cache = Typed::over(cache).expect("the same types");
        cache.put(&1, &"one".to_owned()).expect("there is room");
        let attach = |key, tag| parallel::attach((*operation.context).seg, (*operation.context).toc, key, tag);
        let attached = Typed::over(attach(CACHE_KEY, tag).expect("the same cache")).expect("the same types");
        assert_eq!(attached.get(&1).expect("text"), Some("one".to_owned()));
        let wrong = [(NOBODYS_KEY, tag), (CONTROL_KEY, tag), (CACHE_KEY, 8)];
        let mut refusals =
            wrong.map(|(key, tag)| attach(key, tag).expect_err("not the same cache").to_string()).to_vec();
        let of_other_types = TypedCache::<String, String, _>::over(attach(CACHE_KEY, tag).expect("the same cache"));
        refusals.push(of_other_types.expect_err("other types").to_string());
        drop((cache, attached));
        operation.end();
        refusals
    }
}

/// `how` is what is done with the cache after the end.
pub fn use_after_end(library: &str, how: &str) {
    let operation = Operation::start(library, 1);
    // SAFETY: the order of calls that the library asks for, but for the use of the cache after the end, which it
    // promises to refuse.
    unsafe {
        let planned = parallel::estimate(operation.context, &Config::bytes(1 << 20)).expect("a right configuration");
        parallel::initialize_dsm(operation.context).expect("a megabyte");
        assert!(!(*operation.context).seg.is_null());
        let cache = planned.create(operation.context, CACHE_KEY, 0).unwrap_or_else(|error| error.report());
        cache.put(b"key", b"value").expect("there is room");
        operation.end();
        match how {
            "get" => assert!(!cache.get(b"key", &mut Vec::new())),
            "contains" => assert!(!cache.contains(b"key")),
            "with" => assert!(cache.with(b"key", |_| ()).is_none()),
            "put" => assert!(cache.put(b"key", b"other").is_err()),
            "wait" => cache.wait_for_load(b"key"),
            _ => assert_eq!(cache.len(), 0),
        }
    }
}
