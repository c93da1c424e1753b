//! Child processes by `fork`, and memory that they share.
//!
//! Invariants:
//! - The process that forks has one thread (the runner of this test binary has, and each scenario is a process of its
//!   own), so a child inherits no lock that somebody else holds.
//! - A child never returns into its parent's code: it ends by `_exit`, 0 if its body returned, `FAILED` if it
//!   panicked. The text of its panics comes through a pipe. (But see [`fork_here`].)
//! - A child dies with its parent, and a [`Child`] that is dropped is killed: no test leaves a process behind.
//!
//! Not here: what the processes do.
#![allow(unsafe_code)]

use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Exit status of a child whose body panicked.
const FAILED: i32 = 101;
/// Less than a pipe holds, so that a child never waits for somebody to read.
const MESSAGE_BYTES: usize = 16 << 10;

/// How a child ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Exit {
    /// Its body returned.
    Success,
    /// It panicked, or ended in another way that is not good; with what it said.
    Failure(String),
    /// A signal ended it.
    Killed(i32),
}

/// A process that runs a closure.
pub struct Child {
    name: String,
    pid: libc::pid_t,
    messages: std::fs::File,
    ended: bool,
}

static PANICS: Mutex<String> = Mutex::new(String::new());

fn panics() -> std::sync::MutexGuard<'static, String> {
    PANICS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Child {
    /// Starts a process that runs `body` and ends.
    pub fn spawn(name: impl Into<String>, body: impl FnOnce()) -> Child {
        let mut ends = [0; 2];
        // SAFETY: a plain system call that fills the array; the descriptors are owned from here on.
        let (reader, writer) = unsafe {
            assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK), 0, "pipe2");
            (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1]))
        };
        // SAFETY: the calling process has one thread (file docs), so the child may go on in Rust.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
        if pid == 0 {
            run_child(body, writer.into());
        }
        Child { name: name.into(), pid, messages: reader.into(), ended: false }
    }

    /// Ends the process wherever it is.
    pub fn kill(&self) {
        // SAFETY: a plain system call; the process is ours and not reaped yet.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
    }

    /// As [`Child::kill`], with every process of the group that the child leads by [`lead_group`].
    pub fn kill_group(&self) {
        // SAFETY: as in `kill`.
        unsafe { libc::kill(-self.pid, libc::SIGKILL) };
    }

    /// How the process ended, if it has.
    pub fn try_wait(&mut self) -> Option<Exit> {
        let mut status = 0;
        // SAFETY: a plain system call on a child of ours that was not reaped yet.
        let pid = unsafe { libc::waitpid(self.pid, &mut status, libc::WNOHANG) };
        if pid == 0 {
            return None;
        }
        assert_eq!(pid, self.pid, "waitpid: {}", std::io::Error::last_os_error());
        self.ended = true;
        if libc::WIFSIGNALED(status) {
            return Some(Exit::Killed(libc::WTERMSIG(status)));
        }
        if libc::WEXITSTATUS(status) == 0 {
            return Some(Exit::Success);
        }
        // Not to the end of the file: a grandchild may still hold the other end. What was written is there.
        let mut text = vec![0; MESSAGE_BYTES];
        let len = self.messages.read(&mut text).unwrap_or(0);
        let status = libc::WEXITSTATUS(status);
        Some(Exit::Failure(format!("exit status {status}: {}", String::from_utf8_lossy(&text[..len]))))
    }

    /// Waits until the process has ended; `None` if it has not by then.
    pub fn wait_for(&mut self, timeout: Duration) -> Option<Exit> {
        let start = Instant::now();
        loop {
            match self.try_wait() {
                None if start.elapsed() < timeout => std::thread::sleep(Duration::from_micros(300)),
                exit => return exit,
            }
        }
    }

    /// Waits until the process has ended.
    pub fn wait(&mut self) -> Exit {
        self.wait_for(Duration::MAX).expect("no timeout")
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.ended {
            self.kill();
            self.wait();
        }
    }
}

fn run_child(body: impl FnOnce(), mut messages: std::fs::File) -> ! {
    let parent_gone = || {
        // SAFETY: plain system calls.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 || libc::getppid() == 1 }
    };
    if parent_gone() {
        // SAFETY: ends the process without running anything of the parent's.
        unsafe { libc::_exit(FAILED) }
    }
    panics().clear();
    std::panic::set_hook(Box::new(|panic| {
        let mut panics = panics();
        if panics.len() < MESSAGE_BYTES / 2 {
            *panics += &format!("{panic}\n").chars().take(2000).collect::<String>();
        }
    }));
    let status = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(()) => 0,
        Err(_) => {
            let text = panics().clone();
            // If the parent cannot be told more, the status is still there.
            let _ = messages.write(&text.as_bytes()[..text.len().min(MESSAGE_BYTES)]);
            FAILED
        }
    };
    // SAFETY: ends the process; no destructor of what was inherited runs.
    unsafe { libc::_exit(status) }
}

/// As `catch_unwind`, and what was said is forgotten: for panics that a test wants.
pub fn catch_quietly<R>(body: impl FnOnce() -> R) -> std::thread::Result<R> {
    let said_before = panics().len();
    let result = catch_unwind(AssertUnwindSafe(body));
    panics().truncate(said_before);
    result
}

/// Panics if one has ended already.
pub fn assert_all_run(children: &mut [Child]) {
    for child in children {
        if let Some(exit) = child.try_wait() {
            panic!("process {}: {exit:?}", child.name);
        }
    }
}

/// Waits for all; panics as soon as one has not succeeded (the others are killed then).
pub fn join(mut children: Vec<Child>) {
    while !children.is_empty() {
        children.retain_mut(|child| match child.try_wait() {
            None => true,
            Some(Exit::Success) => false,
            Some(exit) => panic!("process {}: {exit:?}", child.name),
        });
        std::thread::sleep(Duration::from_micros(300));
    }
}

/// Goes on in two processes: `false` in the new one, which ends by [`exit_now`]; `true` in the calling one once the other
/// has ended, which must have been well.
pub fn fork_here() -> bool {
    // SAFETY: the calling process has one thread (file docs), so the child may go on in Rust.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
    if pid > 0 {
        let mut status = 0;
        // SAFETY: a plain system call on a child of ours.
        assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid, "waitpid");
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "the other process ended with {status}");
    }
    pid > 0
}

/// Ends the calling process, well, without running any destructor.
pub fn exit_now() -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(0) }
}

/// Makes the calling process the first of a new process group, which its children join.
pub fn lead_group() {
    // SAFETY: a plain system call.
    unsafe { libc::setpgid(0, 0) };
}

/// Ends the calling process as [`Child::kill`] does from outside.
pub fn kill_myself() {
    // SAFETY: plain system calls; nothing runs after the signal.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
}

/// Maps zeroed memory that children share.
pub fn map_shared(bytes: usize) -> NonNull<u8> {
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping at an address of the kernel's choice.
    let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
    assert_ne!(base, libc::MAP_FAILED, "mmap of {bytes} bytes: {}", std::io::Error::last_os_error());
    NonNull::new(base.cast()).expect("a mapping is not at address 0")
}

/// Zeroed words that this process and its children share, for as long as they live.
pub fn shared_words(count: usize) -> &'static [AtomicU64] {
    let base = map_shared(count * size_of::<AtomicU64>());
    // SAFETY: zeroed memory of that length, aligned to a page, never unmapped; every bit pattern is an `AtomicU64`.
    unsafe { std::slice::from_raw_parts(base.as_ptr().cast(), count) }
}
