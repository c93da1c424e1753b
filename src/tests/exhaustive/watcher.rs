//! A body of code in which every access to a range of memory is noticed, before it happens.
//!
//! The range is protected, so an instruction that touches it traps (SIGSEGV). The handler asks the hook, which may do
//! as it likes with another mapping of the same memory, unprotects the range, and has the processor trap again after
//! this one instruction (the trap flag; SIGTRAP), where the range is protected once more. An instruction that touches
//! nothing of the range does the same whether something there is changed before or after it, so these moments stand for
//! all of them.
//!
//! Invariants: one thread; the hook is never interrupted, and the body is never in the middle of anything but its own
//! code when the hook runs, for neither the allocator nor the language's run time keeps anything in the range. For
//! processors of the x86-64 kind, whose trap flag it uses.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{NonNull, null_mut};

/// Whether the accesses that follow are still to be noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// Each of them.
    On,
    /// No more.
    Free,
}

/// Bit of the flags' register that makes the processor trap after an instruction.
const TRAP_FLAG: i64 = 0x100;

struct Watch<'a> {
    start: *mut u8,
    bytes: usize,
    accesses: usize,
    hook: &'a mut dyn FnMut(usize) -> Follow,
}

impl Watch<'_> {
    fn protect(&self, protection: i32) {
        // SAFETY: the range is whole pages of the caller's; what is protected is touched by the body alone, whose traps
        // are handled.
        let result = unsafe { libc::mprotect(self.start.cast(), self.bytes, protection) };
        assert_eq!(result, 0, "mprotect: {}", std::io::Error::last_os_error());
    }
}

thread_local! {
    /// The watch that is under way.
    static WATCH: Cell<*mut Watch<'static>> = const { Cell::new(null_mut()) };
}

/// Runs `body`; before each access to the range, `hook` is told how many there were already. Says how many there were
/// while it followed.
pub fn watch<R>(
    start: NonNull<u8>,
    bytes: usize,
    hook: &mut dyn FnMut(usize) -> Follow,
    body: impl FnOnce() -> R,
) -> (R, usize) {
    handle(libc::SIGSEGV, on_access);
    handle(libc::SIGTRAP, after_access);
    let mut watch = Watch { start: start.as_ptr(), bytes, accesses: 0, hook };
    WATCH.set((&raw mut watch).cast());
    watch.protect(libc::PROT_NONE);
    let result = body();
    let accesses = watch.accesses;
    watch.protect(libc::PROT_READ | libc::PROT_WRITE);
    WATCH.set(null_mut());
    (result, accesses)
}

type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);

fn handle(signal: libc::c_int, handler: Handler) {
    // SAFETY: a zeroed `sigaction` is one without flags and mask; the handler has the signature that the flag promises.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_flags = libc::SA_SIGINFO;
        action.sa_sigaction = handler as usize;
        assert_eq!(libc::sigaction(signal, &action, null_mut()), 0, "sigaction");
    }
}

/// Ends the process: something happened in a signal handler that cannot go on.
fn give_up(why: &str) -> ! {
    eprintln!("{why}");
    std::process::abort()
}

fn flags(context: *mut libc::c_void) -> *mut i64 {
    // SAFETY: the kernel gives a handler with `SA_SIGINFO` its context.
    unsafe { &raw mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_EFL as usize] }
}

extern "C" fn on_access(_: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: null, or the watch whose body this signal has interrupted and which nothing else uses meanwhile.
    let Some(watch) = (unsafe { WATCH.get().as_mut() }) else { give_up("a wrong access, and nothing is watched") };
    // SAFETY: the kernel gives a handler with `SA_SIGINFO` a valid description.
    let address = unsafe { (*info).si_addr() } as usize;
    if !(watch.start as usize..watch.start as usize + watch.bytes).contains(&address) {
        give_up("a wrong access, outside of what is watched");
    }
    let number = watch.accesses;
    watch.accesses += 1;
    let Ok(follow) = catch_unwind(AssertUnwindSafe(|| (watch.hook)(number))) else { give_up("the hook panicked") };
    watch.protect(libc::PROT_READ | libc::PROT_WRITE);
    if follow == Follow::On {
        // SAFETY: the context of the interrupted body, which goes on with these flags.
        unsafe { *flags(context) |= TRAP_FLAG };
    }
}

extern "C" fn after_access(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: as in `on_access`.
    let Some(watch) = (unsafe { WATCH.get().as_mut() }) else { give_up("a trap, and nothing is watched") };
    // SAFETY: as in `on_access`.
    unsafe { *flags(context) &= !TRAP_FLAG };
    watch.protect(libc::PROT_NONE);
}
