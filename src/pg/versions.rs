//! What differs between the versions of PostgreSQL, each difference as one function.
//!
//! Not here: the DSM registry, which versions before 17 have not (`area::registry`).
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::sync::atomic::{AtomicU32, Ordering};

use pgrx::pg_sys;

/// Whether PostgreSQL has a DSM registry, so that an area can be made without a preload.
#[cfg(feature = "extension")]
pub(super) const HAS_DSM_REGISTRY: bool = cfg!(any(feature = "pg17", feature = "pg18"));

/// Where PostgreSQL keeps the text of one of its own settings: another text when the setting is changed. `None` if there is
/// no such setting of texts.
///
/// # Safety
///
/// - Called by the process's only thread, inside of a transaction.
#[cfg(feature = "extension")]
pub(super) unsafe fn text_setting(name: &CStr) -> Option<std::ptr::NonNull<*mut std::ffi::c_char>> {
    use std::ptr::NonNull;

    // SAFETY: as the caller says; PostgreSQL's own settings lie where they lie as long as the process lives.
    unsafe {
        #[cfg(any(feature = "pg14", feature = "pg15"))]
        let setting = {
            let all = std::slice::from_raw_parts(pg_sys::get_guc_variables(), pg_sys::GetNumConfigOptions() as usize);
            all.iter().copied().find(|setting| CStr::from_ptr((**setting).name) == name)?
        };
        #[cfg(not(any(feature = "pg14", feature = "pg15")))]
        let setting = pg_sys::find_option(name.as_ptr(), false, true, 0);
        let setting = setting.as_ref()?;
        let text = std::ptr::from_ref(setting).cast::<pg_sys::config_string>();
        (setting.vartype == pg_sys::config_type::PGC_STRING).then(|| NonNull::new((*text).variable)).flatten()
    }
}

/// What lies behind a setting.
#[cfg(feature = "extension")]
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum SettingValue<'a> {
    /// There is no setting of this name.
    Unknown,
    /// A number, a truth value or a word of a list; of a number with decimals its bits.
    Number(u64),
    Text(Option<&'a CStr>),
}

/// A setting of PostgreSQL's, of a library's or of nobody's, as it is until somebody changes it.
#[cfg(feature = "extension")]
#[derive(Clone, Copy, Debug)]
pub(super) struct Setting<'a> {
    pub(super) value: SettingValue<'a>,
    /// What shows it, where that is not the value alone.
    show: pg_sys::GucShowHook,
}

#[cfg(feature = "extension")]
impl Setting<'_> {
    /// What is shown, where the setting says that itself. Until the next call.
    ///
    /// # Safety
    ///
    /// - Called by the process's only thread, inside of a transaction.
    pub(super) unsafe fn shown(&self) -> Option<&CStr> {
        let show = self.show?;
        // SAFETY: as the caller says; a text that ends with a NUL, or null.
        unsafe {
            let shown = pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| show());
            (!shown.is_null()).then(|| CStr::from_ptr(shown))
        }
    }
}

/// The setting of this name, in small letters.
///
/// # Safety
///
/// - Called by the process's only thread, inside of a transaction; nobody changes settings while what is returned is used.
#[cfg(feature = "extension")]
pub(super) unsafe fn setting<'a>(name: &CStr) -> Setting<'a> {
    // SAFETY: as the caller says; its kind says which structure it is. Texts end with a NUL, or are null.
    unsafe {
        let text = |text: *const std::ffi::c_char| (!text.is_null()).then(|| CStr::from_ptr(text));
        let Some(setting) = find_setting(name) else {
            // Versions before 16 find old names only so.
            let old = pg_sys::GetConfigOption(name.as_ptr(), true, false);
            let value = if old.is_null() { SettingValue::Unknown } else { SettingValue::Text(text(old)) };
            return Setting { value, show: None };
        };
        match (*setting).vartype {
            pg_sys::config_type::PGC_BOOL => {
                let setting = &*setting.cast::<pg_sys::config_bool>();
                Setting { value: SettingValue::Number(u64::from(*setting.variable)), show: setting.show_hook }
            }
            pg_sys::config_type::PGC_INT => {
                let setting = &*setting.cast::<pg_sys::config_int>();
                Setting { value: SettingValue::Number(*setting.variable as u64), show: setting.show_hook }
            }
            pg_sys::config_type::PGC_REAL => {
                let setting = &*setting.cast::<pg_sys::config_real>();
                Setting { value: SettingValue::Number((*setting.variable).to_bits()), show: setting.show_hook }
            }
            pg_sys::config_type::PGC_ENUM => {
                let setting = &*setting.cast::<pg_sys::config_enum>();
                Setting { value: SettingValue::Number(*setting.variable as u64), show: setting.show_hook }
            }
            _ => {
                let setting = &*setting.cast::<pg_sys::config_string>();
                Setting { value: SettingValue::Text(text(*setting.variable)), show: setting.show_hook }
            }
        }
    }
}

/// # Safety
///
/// - As of [`setting`].
#[cfg(feature = "extension")]
unsafe fn find_setting(name: &CStr) -> Option<*mut pg_sys::config_generic> {
    // SAFETY: as the caller says.
    unsafe {
        #[cfg(any(feature = "pg14", feature = "pg15"))]
        {
            let all = std::slice::from_raw_parts(pg_sys::get_guc_variables(), pg_sys::GetNumConfigOptions() as usize);
            /// They lie in the order that PostgreSQL's own search has.
            fn folded(name: &CStr) -> impl Iterator<Item = std::ffi::c_char> + '_ {
                name.to_bytes().iter().map(|byte| byte.to_ascii_lowercase() as std::ffi::c_char)
            }
            let place =
                all.binary_search_by(|setting| folded(CStr::from_ptr((**setting).name)).cmp(folded(name))).ok()?;
            Some(all[place])
        }
        #[cfg(not(any(feature = "pg14", feature = "pg15")))]
        {
            let setting = pg_sys::find_option(name.as_ptr(), false, true, 0);
            (!setting.is_null()).then_some(setting)
        }
    }
}

/// Calls `request` when shared memory may be asked for: at once in version 14, by a hook later on. Only while the
/// postmaster loads its libraries, once per library.
#[cfg(feature = "pg14")]
pub(super) fn at_shmem_request(request: fn()) {
    request();
}

/// Calls `request` when shared memory may be asked for: at once in version 14, by a hook later on. Only while the
/// postmaster loads its libraries, once per library.
#[cfg(not(feature = "pg14"))]
pub(super) fn at_shmem_request(request: fn()) {
    use std::sync::OnceLock;

    use pgrx::pg_guard;

    use super::hooks::{PlainHook, Previous};

    static REQUEST: OnceLock<fn()> = OnceLock::new();
    static PREVIOUS: Previous<PlainHook> = Previous::new();

    #[pg_guard]
    unsafe extern "C-unwind" fn hook() {
        // SAFETY: the moment is that of this hook.
        unsafe { PREVIOUS.call() };
        REQUEST.get().expect("set with the hook")();
    }

    assert!(REQUEST.set(request).is_ok(), "once per library");
    // SAFETY: runs in the postmaster's only thread while it loads libraries.
    unsafe { PREVIOUS.install(&raw mut pg_sys::shmem_request_hook, Some(hook)) };
}

/// Says that settings with this prefix are all defined: version 14 warns of others, later ones remove them too.
#[cfg(feature = "extension")]
pub(super) fn reserve_settings_prefix(prefix: &CStr) {
    // SAFETY: a NUL-terminated name, called from the process's only thread.
    unsafe {
        #[cfg(feature = "pg14")]
        pg_sys::EmitWarningsOnPlaceholders(prefix.as_ptr());
        #[cfg(not(feature = "pg14"))]
        pg_sys::MarkGUCPrefixReserved(prefix.as_ptr());
    }
}

/// Whether this backend holds a lock in this mode.
///
/// # Safety
///
/// - `tag` is that of a lock.
#[cfg(feature = "extension")]
pub(super) unsafe fn holds_lock(tag: &pg_sys::LOCKTAG, mode: pg_sys::LOCKMODE) -> bool {
    // SAFETY: as the caller says; looks at a table of this process's.
    unsafe {
        #[cfg(not(any(feature = "pg17", feature = "pg18")))]
        return pg_sys::LockHeldByMe(tag, mode);
        #[cfg(any(feature = "pg17", feature = "pg18"))]
        return pg_sys::LockHeldByMe(tag, mode, false);
    }
}

/// Whether a transaction's invalidation messages can be asked for as often as one likes: in version 14 each call adds to what
/// the commit record gets.
#[cfg(feature = "extension")]
pub(super) const CAN_ASK_FOR_MESSAGES_AGAIN: bool = cfg!(not(feature = "pg14"));

/// Gives back what `xactGetCommittedInvalidationMessages` has copied. In version 14 it is PostgreSQL's.
///
/// # Safety
///
/// - It has given these, or null, and nobody uses them any more.
#[cfg(feature = "extension")]
pub(super) unsafe fn free_messages(messages: *mut pg_sys::SharedInvalidationMessage) {
    if CAN_ASK_FOR_MESSAGES_AGAIN && !messages.is_null() {
        // SAFETY: as the caller says.
        unsafe { pg_sys::pfree(messages.cast()) };
    }
}

/// A link of PostgreSQL's lists.
#[cfg(all(feature = "extension", any(feature = "pg14", feature = "pg15")))]
pub(super) type ListNode = pg_sys::SHM_QUEUE;
/// A link of PostgreSQL's lists.
#[cfg(all(feature = "extension", not(any(feature = "pg14", feature = "pg15"))))]
pub(super) type ListNode = pg_sys::dlist_node;

/// The head of a process's list of locks in one partition of the lock table; empty if it leads to itself, or to nothing.
///
/// # Safety
///
/// - `process` is a process's.
#[cfg(feature = "extension")]
pub(super) unsafe fn lock_list(process: *mut pg_sys::PGPROC, partition: usize) -> *mut ListNode {
    // SAFETY: as the caller says; the index is checked.
    unsafe {
        #[cfg(any(feature = "pg14", feature = "pg15"))]
        return &raw mut (*process).myProcLocks[partition];
        #[cfg(not(any(feature = "pg14", feature = "pg15")))]
        return &raw mut (*process).myProcLocks[partition].head;
    }
}

/// Where the locks are that a process holds on the fast path: words of bits, relations, and how many words there are.
///
/// # Safety
///
/// - `process` is a process's.
#[cfg(feature = "extension")]
pub(super) unsafe fn fast_path(process: *mut pg_sys::PGPROC) -> (*const u64, *const pg_sys::Oid, usize) {
    // SAFETY: as the caller says.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        return (&raw const (*process).fpLockBits, (&raw const (*process).fpRelId).cast(), 1);
        #[cfg(feature = "pg18")]
        return ((*process).fpLockBits, (*process).fpRelId, pg_sys::FastPathLockGroupsPerBackend as usize);
    }
}

/// A wait that `pg_stat_activity` shows: under its own name from version 17 on, as `Extension` before.
#[derive(Debug)]
pub(super) struct WaitEvent {
    name: &'static CStr,
    /// 0 before it is asked for.
    number: AtomicU32,
}

impl WaitEvent {
    /// A wait of this name.
    pub(super) const fn new(name: &'static CStr) -> Self {
        WaitEvent { name, number: AtomicU32::new(0) }
    }

    /// Its number, for the functions that wait. Holding no lock: the first call registers the name.
    pub(super) fn number(&self) -> u32 {
        let known = self.number.load(Ordering::Relaxed);
        if known != 0 {
            return known;
        }
        let number = wait_event_number(self.name);
        self.number.store(number, Ordering::Relaxed);
        number
    }
}

#[cfg(any(feature = "pg17", feature = "pg18"))]
fn wait_event_number(name: &CStr) -> u32 {
    // SAFETY: a NUL-terminated name; called from the process's only thread.
    unsafe { pg_sys::WaitEventExtensionNew(name.as_ptr()) }
}

#[cfg(not(any(feature = "pg17", feature = "pg18")))]
fn wait_event_number(_name: &CStr) -> u32 {
    pg_sys::PG_WAIT_EXTENSION
}

/// Analyses and rewrites a statement with parameters of these types.
///
/// # Safety
///
/// - `statement` was parsed from `text`.
#[cfg(feature = "extension")]
pub(super) unsafe fn analyze_and_rewrite(
    statement: *mut pg_sys::RawStmt,
    text: &CStr,
    parameters: &[pg_sys::Oid],
) -> *mut pg_sys::List {
    let (kinds, count) = (parameters.as_ptr().cast_mut(), parameters.len() as i32);
    // SAFETY: as the caller says; the types are only read.
    unsafe {
        #[cfg(feature = "pg14")]
        return pg_sys::pg_analyze_and_rewrite(statement, text.as_ptr(), kinds, count, std::ptr::null_mut());
        #[cfg(not(feature = "pg14"))]
        return pg_sys::pg_analyze_and_rewrite_fixedparams(
            statement,
            text.as_ptr(),
            kinds,
            count,
            std::ptr::null_mut(),
        );
    }
}

/// Runs an executor to the end of its rows.
///
/// # Safety
///
/// - It was started.
#[cfg(feature = "extension")]
pub(super) unsafe fn run_executor(query: *mut pg_sys::QueryDesc) {
    let forward = pg_sys::ScanDirection::ForwardScanDirection;
    // SAFETY: as the caller says; 0 stands for all rows.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        pg_sys::ExecutorRun(query, forward, 0, true);
        #[cfg(feature = "pg18")]
        pg_sys::ExecutorRun(query, forward, 0);
    }
}

/// A row of these values, in the current memory context.
///
/// # Safety
///
/// - There are as many values and marks as the description has columns.
#[cfg(feature = "extension")]
pub(super) unsafe fn form_minimal_tuple(
    description: pg_sys::TupleDesc,
    values: *mut pg_sys::Datum,
    nulls: *mut bool,
) -> pg_sys::MinimalTuple {
    // SAFETY: as the caller says.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        return pg_sys::heap_form_minimal_tuple(description, values, nulls);
        #[cfg(feature = "pg18")]
        return pg_sys::heap_form_minimal_tuple(description, values, nulls, 0);
    }
}

/// What a string of PostgreSQL's nodes says.
///
/// # Safety
///
/// - It is such a node, which outlives the text.
#[cfg(feature = "extension")]
pub(super) unsafe fn text_of_string<'a>(node: *mut pg_sys::Node) -> &'a CStr {
    // SAFETY: as the caller says.
    unsafe {
        #[cfg(feature = "pg14")]
        return CStr::from_ptr((*node.cast::<pg_sys::Value>()).val.str_);
        #[cfg(not(feature = "pg14"))]
        return CStr::from_ptr((*node.cast::<pg_sys::String>()).sval);
    }
}

/// Visits a node of a query; goes on where it returns false.
#[cfg(feature = "extension")]
pub(super) type Walker = unsafe extern "C-unwind" fn(*mut pg_sys::Node, *mut std::ffi::c_void) -> bool;

// Version 14 and 15 declare these in a way that bindings cannot say.
#[cfg(all(feature = "extension", any(feature = "pg14", feature = "pg15")))]
mod walkers {
    use std::ffi::{c_int, c_void};

    use pgrx::pg_sys;

    unsafe extern "C-unwind" {
        pub(super) fn query_tree_walker(
            query: *mut pg_sys::Query,
            walker: super::Walker,
            context: *mut c_void,
            flags: c_int,
        ) -> bool;
        pub(super) fn expression_tree_walker(
            node: *mut pg_sys::Node,
            walker: super::Walker,
            context: *mut c_void,
        ) -> bool;
    }
}

/// Walks over what a query is made of.
///
/// # Safety
///
/// - It is a query, and the context is what the walker wants.
#[cfg(feature = "extension")]
pub(super) unsafe fn walk_query(query: *mut pg_sys::Query, walker: Walker, context: *mut std::ffi::c_void) -> bool {
    // SAFETY: as the caller says.
    unsafe {
        #[cfg(any(feature = "pg14", feature = "pg15"))]
        return pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| {
            walkers::query_tree_walker(query, walker, context, 0)
        });
        #[cfg(not(any(feature = "pg14", feature = "pg15")))]
        return pg_sys::query_tree_walker_impl(query, Some(walker), context, 0);
    }
}

/// Walks over what an expression is made of.
///
/// # Safety
///
/// - It is a node of a query, and the context is what the walker wants.
#[cfg(feature = "extension")]
pub(super) unsafe fn walk_expression(node: *mut pg_sys::Node, walker: Walker, context: *mut std::ffi::c_void) -> bool {
    // SAFETY: as the caller says.
    unsafe {
        #[cfg(any(feature = "pg14", feature = "pg15"))]
        return pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| {
            walkers::expression_tree_walker(node, walker, context)
        });
        #[cfg(not(any(feature = "pg14", feature = "pg15")))]
        return pg_sys::expression_tree_walker_impl(node, Some(walker), context);
    }
}

/// Whether a node makes a value of a type's text while the query runs: JSON_VALUE and its like.
#[cfg(feature = "extension")]
pub(super) fn is_json_query(tag: pg_sys::NodeTag) -> bool {
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    {
        tag == pg_sys::NodeTag::T_JsonExpr
    }
    #[cfg(not(any(feature = "pg17", feature = "pg18")))]
    {
        _ = tag;
        false
    }
}
