//! What a process knows of itself and of others: whether it was forked meanwhile, and whether another one lives.
//!
//! Not here: what belongs to a process (`resources`), which process a lease belongs to (the engine).
#![allow(unsafe_code)]

use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

/// Forks between the process that called [`watch_forks`] first and this one, its descendant.
static FORKS: AtomicU64 = AtomicU64::new(0);

extern "C" fn note_fork() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// From here on [`forks`] counts.
pub(super) fn watch_forks() {
    static WATCH: Once = Once::new();
    WATCH.call_once(|| {
        // SAFETY: the handler adds to a static number, which is safe in a new process; it lives as long as this
        // library, with which the C library forgets it.
        let code = unsafe { libc::pthread_atfork(None, None, Some(note_fork)) };
        assert_eq!(code, 0, "pthread_atfork: {}", std::io::Error::from_raw_os_error(code));
    });
}

/// A number that is another one in a child than in its parent. A load, where asking for the process id is a system call;
/// and not the id of another process that has ended.
#[inline]
pub(super) fn forks() -> u64 {
    FORKS.load(Ordering::Relaxed)
}

/// Whether there is such a process. One that has ended and was not waited for yet counts as alive.
pub(super) fn is_alive(process: u32) -> bool {
    // SAFETY: signal 0 is none; the call only looks.
    let found = unsafe { libc::kill(process as libc::pid_t, 0) } == 0;
    found || std::io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH)
}
