//! What was installed in a hook of PostgreSQL's before ours, so that it is called, too.
//!
//! A hook is a variable that holds a function or nothing; who wants to be called takes the place of who is there. Each is
//! installed once per library, in the process's only thread.
#![allow(unsafe_code)]

use std::sync::OnceLock;

use pgrx::pg_sys;

/// A hook without arguments.
pub(super) type PlainHook = Option<unsafe extern "C-unwind" fn()>;

/// What a hook of this type held; nothing before ours is installed.
pub(super) struct Previous<H>(OnceLock<H>);

impl<H: Copy + Default> Previous<H> {
    pub(super) const fn new() -> Self {
        Previous(OnceLock::new())
    }

    /// Installs ours, and keeps what was there.
    ///
    /// # Safety
    ///
    /// - `hook` is PostgreSQL's variable, and this is the only thread of a process that loads libraries.
    /// - `ours` calls what was there.
    ///
    /// # Panics
    ///
    /// If it has been done before: ours would call itself.
    pub(super) unsafe fn install(&self, hook: *mut H, ours: H) {
        // SAFETY: as the caller says.
        let previous = unsafe { hook.replace(ours) };
        assert!(self.0.set(previous).is_ok(), "once per library");
    }

    /// What was there.
    pub(super) fn get(&self) -> H {
        self.0.get().copied().unwrap_or_default()
    }
}

impl Previous<PlainHook> {
    /// Calls what was there.
    ///
    /// # Safety
    ///
    /// - PostgreSQL would call it at this moment.
    pub(super) unsafe fn call(&self) {
        if let Some(hook) = self.get() {
            // SAFETY: as the caller says. It may raise an error.
            unsafe { pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| hook()) };
        }
    }
}
