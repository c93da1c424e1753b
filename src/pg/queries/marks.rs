//! Statements as they are: which are marked, and how they are planned.
//!
//! Marked is a SELECT whose text begins with the comment `/* shared_lru: name */`, wherever it comes from; and, while
//! `pg_shared_lru.cache_queries` names a cache, each SELECT that a client sends, also through `EXPLAIN`, `EXECUTE`, `DECLARE`
//! and `COPY`. Not marked is what reads no table, changes or locks rows, or is planned in the middle of the planning of
//! another one.
//!
//! A marked statement is planned as ever, but without parallel workers, and gets a node of ours on top (`scan`), with what it
//! depends on. How often these definitions have changed is read before PostgreSQL's messages are accepted and the plan is made.
//! So the plan knows all these changes, and while the numbers are the same it is as good as a new one, however old it is.
//!
//! Cost where nothing is marked: a look at two variables, and at the first bytes of the text. In sessions that make results with
//! functions that a cache trusts also a look at the settings.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::convert::Infallible;
use std::ffi::{CStr, c_char, c_int, c_void};

use pgrx::{pg_guard, pg_sys};

use super::accepted::Acceptance;
use super::knowing::{PlannedWith, plan_knowing};
use super::lists::pointers;
use super::relations::Dependencies;
use super::statement::{self, Marked};
use super::{key, plan, scan, session_plans, trace};
use crate::pg::catalog::Catalog;
use crate::pg::definitions::{self, Access};
use crate::pg::hooks::Previous;
use crate::pg::snapshot::has_written;
use crate::pg::{invalidations, settings, versions};

/// Longer texts are not marked: their trees, written, may be longer than PostgreSQL lets a text be.
const MOST_TEXT_BYTES: usize = 1 << 20;

static PREVIOUS: Previous<pg_sys::planner_hook_type> = Previous::new();

thread_local! {
    /// Statements that are planned now are not looked at.
    static IGNORES: Cell<bool> = const { Cell::new(false) };
}

/// From now on marks are looked for. Once per process, while libraries are loaded.
pub(in crate::pg) fn install() {
    scan::register();
    // SAFETY: the process's only thread; the one installed before is called by ours.
    unsafe { PREVIOUS.install(&raw mut pg_sys::planner_hook, Some(on_plan)) };
}

/// Runs `work`, in which nothing is marked.
pub(super) fn ignored<R>(work: impl FnOnce() -> R) -> R {
    /// Puts it back, also when an ERROR unwinds.
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            IGNORES.set(self.0);
        }
    }
    let _before = Before(IGNORES.replace(true));
    work()
}

#[pg_guard]
unsafe extern "C-unwind" fn on_plan(
    query: *mut pg_sys::Query,
    text: *const c_char,
    options: c_int,
    parameters: pg_sys::ParamListInfo,
) -> *mut pg_sys::PlannedStmt {
    // SAFETY: called by PostgreSQL with a rewritten query, and a text or null.
    unsafe {
        session_plans::note_planning(query);
        let starts = trace::starts();
        let planned = match mark_of(query, text) {
            Some(cache) => ignored(|| plan_marked(cache, query, text, options, parameters)),
            None => call_planner(query, text, options, parameters),
        };
        if trace::starts() != starts {
            session_plans::note_read_while_planning();
        }
        planned
    }
}

/// Plans as if there were no marks.
///
/// # Safety
///
/// - PostgreSQL has called the hook with this.
unsafe fn call_planner(
    query: *mut pg_sys::Query,
    text: *const c_char,
    options: c_int,
    parameters: pg_sys::ParamListInfo,
) -> *mut pg_sys::PlannedStmt {
    // SAFETY: called as PostgreSQL would call it.
    unsafe {
        match PREVIOUS.get() {
            Some(hook) => pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| hook(query, text, options, parameters)),
            None => pg_sys::standard_planner(query, text, options, parameters),
        }
    }
}

/// The cache that a statement is marked with, if it is.
///
/// # Safety
///
/// - It is a rewritten query, and a text or null.
unsafe fn mark_of(query: *mut pg_sys::Query, text: *const c_char) -> Option<String> {
    // SAFETY: as the caller says.
    let (in_comment, query) = unsafe { ((!text.is_null()).then(|| cache_in_comment(text)).flatten(), &*query) };
    let is_possible = query.commandType == pg_sys::CmdType::CMD_SELECT
        && query.utilityStmt.is_null()
        && !query.hasModifyingCTE
        && query.rowMarks.is_null()
        && !query.rtable.is_null();
    if (in_comment.is_none() && !settings::has_cache_queries()) || !is_possible || IGNORES.get() {
        return None;
    }
    // SAFETY: as above.
    let cache = in_comment.or_else(|| unsafe { is_clients() }.then(settings::cache_queries).flatten())?;
    // SAFETY: as above.
    let is_short = text.is_null() || unsafe { CStr::from_ptr(text) }.count_bytes() <= MOST_TEXT_BYTES;
    is_short.then_some(cache)
}

/// The name in a comment at the start of a text.
///
/// # Safety
///
/// - It ends with a NUL.
unsafe fn cache_in_comment(text: *const c_char) -> Option<String> {
    // SAFETY: each byte is looked at only if the one before was none.
    unsafe {
        let mut start = text;
        while matches!(*start as u8, b' ' | b'\t' | b'\n' | b'\r') {
            start = start.add(1);
        }
        if *start as u8 != b'/' || *start.add(1) as u8 != b'*' {
            return None;
        }
        cache_named(CStr::from_ptr(start).to_bytes()).map(str::to_owned)
    }
}

fn cache_named(text: &[u8]) -> Option<&str> {
    let rest = text.strip_prefix(b"/*")?.trim_ascii_start().strip_prefix(b"shared_lru:")?;
    let end = rest.windows(2).position(|pair| pair == b"*/")?;
    let name = std::str::from_utf8(rest[..end].trim_ascii()).ok()?;
    (!name.is_empty()).then_some(name)
}

/// Whether the statement that is planned is one that a client has sent, and not one of a function.
unsafe fn is_clients() -> bool {
    // SAFETY: the portal that runs, which has a list of statements; none runs while a client's statement is planned, but for
    // the commands that plan one.
    unsafe {
        let portal = pg_sys::ActivePortal;
        if portal.is_null() {
            return true;
        }
        let first = pointers::<pg_sys::PlannedStmt>((*portal).stmts).next();
        first.map(|statement| (*statement).utilityStmt).is_some_and(|utility| {
            use pg_sys::NodeTag::{T_CopyStmt, T_DeclareCursorStmt, T_ExecuteStmt, T_ExplainStmt};
            !utility.is_null()
                && matches!((*utility).type_, T_CopyStmt | T_DeclareCursorStmt | T_ExecuteStmt | T_ExplainStmt)
        })
    }
}

/// Plans a marked statement.
///
/// # Safety
///
/// - PostgreSQL has called the hook with this; it is a SELECT.
unsafe fn plan_marked(
    cache: String,
    query: *mut pg_sys::Query,
    text: *const c_char,
    options: c_int,
    parameters: pg_sys::ParamListInfo,
) -> *mut pg_sys::PlannedStmt {
    // SAFETY: as the caller says. The planner changes the query that it is given, so it gets a copy.
    unsafe {
        let options = options & !(pg_sys::CURSOR_OPT_PARALLEL_OK as c_int);
        // A mark makes no error. What is planned without a cache is made anew when there is one.
        let named = definitions::find(&cache, Access::Read).map_or(0, |cache| key::named(&cache.results));
        let mut marked = Marked {
            cache,
            statement: statement::fingerprint(query),
            parameters: parameters_of(query),
            settings: key::settings(),
            named,
            planned: PlannedWith::Unknown,
            conditions: Vec::new(),
        };
        let mut known = Dependencies::new();
        plan::add_dependencies(query, &mut known);
        let plan_once = |known: &mut Dependencies| -> Result<*mut pg_sys::PlannedStmt, Infallible> {
            let starts = trace::starts();
            let copy = pg_sys::copyObjectImpl(query.cast()).cast();
            let planned = call_planner(copy, text, options, parameters);
            plan::add_planned(planned, known);
            // Else it has only asked STABLE functions, to guess how many rows there are.
            if trace::starts() != starts && known.may_be_folded {
                known.refusal.get_or_insert_with(plan::trace_refusal);
            }
            Ok(planned)
        };
        // The first to ask renews all definitions, so this comes first.
        let rings = Catalog::mapped().and_then(invalidations::rings);
        // What the transaction itself has defined is counted nowhere yet.
        let rings = || rings.filter(|_| !has_written());
        // What the cache accepts is asked at each execution.
        let Ok((statement, planned)) = plan_knowing(&mut known, Acceptance::Everything, rings, plan_once);
        marked.planned = planned;
        marked.conditions = known.conditions;
        scan::put_on_top(statement, &marked);
        statement
    }
}

/// The parameters that a query uses, from outside of it.
///
/// # Safety
///
/// - It is a query.
unsafe fn parameters_of(query: *mut pg_sys::Query) -> Vec<i32> {
    let mut found: Vec<i32> = Vec::new();
    // SAFETY: as the caller says; the walk ends before the list does.
    unsafe { versions::walk_query(query, walk_parameters, (&raw mut found).cast()) };
    found.sort_unstable();
    found.dedup();
    found
}

/// A walker of PostgreSQL's: goes on where it returns false.
#[pg_guard]
unsafe extern "C-unwind" fn walk_parameters(node: *mut pg_sys::Node, found: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: a node of the query, of the kind that its tag says; the context is what `parameters_of` has given.
    unsafe {
        match (*node).type_ {
            pg_sys::NodeTag::T_Query => return versions::walk_query(node.cast(), walk_parameters, found),
            pg_sys::NodeTag::T_Param => {
                let parameter = &*node.cast::<pg_sys::Param>();
                if parameter.paramkind == pg_sys::ParamKind::PARAM_EXTERN {
                    (*found.cast::<Vec<i32>>()).push(parameter.paramid);
                }
            }
            _ => {}
        }
        versions::walk_expression(node, walk_parameters, found)
    }
}

#[cfg(test)]
mod tests {
    use super::cache_named;

    #[test]
    fn a_comment_names_a_cache_if_it_says_so() {
        for text in ["/* shared_lru: c */ SELECT 1", "/*shared_lru:c*/", "/*\n shared_lru:\tc\n*/ x /* y */"] {
            assert_eq!(cache_named(text.as_bytes()), Some("c"), "{text}");
        }
        for text in
            ["", "SELECT /* shared_lru: c */", "/* c */", "/* shared_lru: c", "/* shared_lru: */", "/* lru: c */"]
        {
            assert_eq!(cache_named(text.as_bytes()), None, "{text}");
        }
        assert_eq!(cache_named(b"/* shared_lru: two words */"), Some("two words"));
    }
}
