//! A child process that runs one instruction at a time, by `ptrace`.
//!
//! A child stops before its body and behind it; in between its parent takes it from instruction to instruction. Whatever
//! else stops it, a crash or a panic, is reported with what it was.
//!
//! Invariants: the child dies with its parent and when the [`Stepped`] drops. Needs a kernel that lets a process trace
//! its child, and a process of one thread.
#![allow(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Why a child came to a halt before its body's end.
#[derive(Debug, PartialEq, Eq)]
pub struct Halt(pub String);

/// Where a child is after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In its body.
    Inside,
    /// Behind it.
    Done,
}

const PANICKED: i32 = 101;

/// See the head of this file.
pub struct Stepped {
    pid: libc::pid_t,
    is_alive: bool,
}

impl Stepped {
    /// Starts a child that stands before `body`.
    pub fn spawn(body: impl FnOnce()) -> Result<Stepped, Halt> {
        // SAFETY: this process has one thread, so the child may go on in Rust.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
        if pid == 0 {
            let _ = catch_unwind(AssertUnwindSafe(|| {
                // SAFETY: plain system calls; the parent of this process is its tracer.
                let own_pid = unsafe {
                    libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                    assert_eq!(libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0), 0, "a child may be traced");
                    libc::getpid()
                };
                // SAFETY: a plain system call; the tracer lets it go on.
                let stop = || unsafe { libc::kill(own_pid, libc::SIGSTOP) };
                stop();
                body();
                stop();
            }));
            // SAFETY: ends the process; no destructor of what was inherited runs.
            unsafe { libc::_exit(PANICKED) }
        }
        let mut child = Stepped { pid, is_alive: true };
        assert_eq!(child.wait()?, Place::Done, "the first stop is the child's own");
        Ok(child)
    }

    /// Lets the child run one instruction of its body.
    pub fn step(&mut self) -> Result<Place, Halt> {
        // SAFETY: a plain system call on a child of ours that stands still.
        let result = unsafe { libc::ptrace(libc::PTRACE_SINGLESTEP, self.pid, 0, 0) };
        assert_eq!(result, 0, "ptrace: {}", std::io::Error::last_os_error());
        self.wait()
    }

    fn wait(&mut self) -> Result<Place, Halt> {
        let mut status = 0;
        // SAFETY: a plain system call on a child of ours that was not reaped yet.
        let pid = unsafe { libc::waitpid(self.pid, &mut status, 0) };
        assert_eq!(pid, self.pid, "waitpid: {}", std::io::Error::last_os_error());
        if libc::WIFSTOPPED(status) {
            return match libc::WSTOPSIG(status) {
                libc::SIGTRAP => Ok(Place::Inside),
                libc::SIGSTOP => Ok(Place::Done),
                signal => Err(Halt(format!("the operation was stopped by signal {signal}"))),
            };
        }
        self.is_alive = false;
        Err(Halt(match libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == PANICKED {
            true => "the operation panicked".to_owned(),
            false => format!("the operation ended its process: status {status:#x}"),
        }))
    }
}

impl Drop for Stepped {
    fn drop(&mut self) {
        if self.is_alive {
            let mut status = 0;
            // SAFETY: plain system calls on a child of ours that was not reaped yet.
            unsafe {
                libc::kill(self.pid, libc::SIGKILL);
                libc::waitpid(self.pid, &mut status, 0);
            }
        }
    }
}
