//! Plans of this session, and how old they may be where functions run queries for a result.
//!
//! PostgreSQL revalidates a plan when it runs. But not for this:
//!
//! - A name means something else, for a table has come in an earlier schema, or a function.
//! - The session's settings are others: the planner runs functions that follow them, and the plan has what they gave. So it has
//!   what they have read.
//! - A definition was rolled back, which nobody has counted.
//!
//! A session that has planned before goes on as before, and others would be served that. So plans of functions have to be from
//! after a moment for which the words of names are known, and the same now. Where they are not, or where anything else of this may
//! be, all plans of the session are thrown away; what was made with them is not kept.
//!
//! Locking: none.
//!
//! Not here: what the plans depend on (`watch`).
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::ffi::c_void;
use std::rc::Rc;

use pgrx::{pg_guard, pg_sys};

use super::{key, made_of, watch};
use crate::pg::snapshot::has_written;
use crate::rings::table::{CopiedDefinitions, LineIndex};

thread_local! {
    static PLANS: RefCell<Plans> = const { RefCell::new(Plans::NONE) };
}

/// How old plans of this session may be.
struct Plans {
    /// What the lines said before older ones were thrown away.
    since: Option<Rc<CopiedDefinitions>>,
    /// The session's settings then: the planner runs functions that follow them, and the plan has what they gave.
    settings: u128,
    /// Whether plans were made with others meanwhile.
    are_mixed: bool,
    /// How many plans were made that are relied on no longer than that: with other settings, or with what a function has read.
    doubtful: u64,
    /// The lines of names that functions have used.
    names: Vec<LineIndex>,
    /// Users' types of what was planned since then: functions name them in casts, and declare variables of them.
    types: Vec<pg_sys::Oid>,
    /// How texts were read in this session, since something was planned in it: `standard_conforming_strings`.
    syntax: Option<bool>,
    /// Whether some were read in another way. What is parsed stays, also where its plan is thrown away.
    has_two_syntaxes: bool,
}

impl Plans {
    const NONE: Plans = Plans {
        since: None,
        settings: 0,
        are_mixed: false,
        doubtful: 0,
        names: Vec::new(),
        types: Vec::new(),
        syntax: None,
        has_two_syntaxes: false,
    };

    fn renew(&mut self, words: &Rc<CopiedDefinitions>, code: LineIndex) {
        let settings = key::settings();
        let are_of_settings = self.settings == settings && !self.are_mixed;
        if are_of_settings && self.know(words, code) && self.names.iter().all(|name| self.know(words, *name)) {
            return;
        }
        // SAFETY: marks the plans of this process, which are made anew at their next use.
        unsafe { pg_sys::ResetPlanCache() };
        (self.since, self.settings, self.are_mixed) = (Some(Rc::clone(words)), settings, false);
        // Who makes a result around this one may have run a plan of theirs.
        if !watch::is_active() {
            self.types.clear();
        }
    }

    fn doubt(&mut self) {
        self.are_mixed = true;
        self.doubtful += 1;
    }

    /// Whether no plan is older than the last change of a name that these words count.
    fn know(&self, words: &CopiedDefinitions, name: LineIndex) -> bool {
        let since = self.since.as_ref().and_then(|since| since.of(name));
        since.is_some() && since == words.of(name)
    }

    fn note(&mut self, name: LineIndex) {
        /// So many are remembered; where there are more, plans are thrown away more often.
        const NAMES: usize = 1024;
        if !self.names.contains(&name) {
            if self.names.len() == NAMES {
                (self.since, self.names) = (None, Vec::new());
            }
            self.names.push(name);
        }
    }
}

/// From now on it is known what is rolled back. Once per library.
pub(super) fn install() {
    // SAFETY: the callback has the right type and lives as long as the library.
    unsafe { pg_sys::RegisterXactCallback(Some(on_transaction_event), std::ptr::null_mut()) };
}

/// Throws plans away that may know less of the names that functions have used than these words count, whose messages were
/// accepted; or that may be of other settings.
pub(super) fn renew(words: &Rc<CopiedDefinitions>, code: LineIndex) {
    PLANS.with_borrow_mut(|plans| plans.renew(words, code));
}

/// Whether all plans are from after the last change of these names that the words count; and remembers these names.
pub(super) fn know(words: &CopiedDefinitions, names: &[LineIndex], code: LineIndex) -> bool {
    PLANS.with_borrow_mut(|plans| {
        let are_known = names.iter().chain([&code]).all(|name| plans.know(words, *name));
        let are_known = are_known && !plans.has_two_syntaxes;
        names.iter().for_each(|name| plans.note(*name));
        are_known
    })
}

/// Plans may have been made with other settings, of which nobody notes the values.
pub(super) fn doubt_settings() {
    PLANS.with_borrow_mut(|plans| plans.are_mixed = true);
}

/// How many plans were made so far that are relied on no longer than the next result is begun.
pub(super) fn doubtful() -> u64 {
    PLANS.with_borrow(|plans| plans.doubtful)
}

/// Adds the users' types of what was planned.
pub(super) fn add_types(types: &mut Vec<pg_sys::Oid>) {
    PLANS.with_borrow(|plans| {
        let news = plans.types.iter().filter(|of_type| !types.contains(of_type));
        let news: Vec<pg_sys::Oid> = news.copied().collect();
        types.extend(news);
    });
}

/// Notes with which settings a plan is made in this session, and of which types, whatever is planned.
///
/// # Safety
///
/// - It is a rewritten query.
pub(super) unsafe fn note_planning(query: *mut pg_sys::Query) {
    PLANS.with_borrow_mut(|plans| {
        // SAFETY: reads a variable of this process's only thread.
        let syntax = unsafe { pg_sys::standard_conforming_strings };
        plans.has_two_syntaxes |= *plans.syntax.get_or_insert(syntax) != syntax;
        if plans.since.is_some() {
            if key::settings() != plans.settings {
                plans.doubt();
            }
            // SAFETY: as the caller says.
            unsafe { made_of::add_types(query, &mut plans.types) };
        }
    });
}

/// Notes that a function has read while something was planned: the plan may have what it gave, and is no longer than the next
/// result is begun.
pub(super) fn note_read_while_planning() {
    PLANS.with_borrow_mut(Plans::doubt);
}

/// Plans may be of definitions that nobody has counted, for they were taken back.
pub(super) fn forget() {
    // It may be borrowed where a process is terminated in the middle, and then is of no use any more.
    PLANS.with(|plans| {
        if let Ok(mut plans) = plans.try_borrow_mut() {
            plans.since = None;
        }
    });
}

#[pg_guard]
unsafe extern "C-unwind" fn on_transaction_event(event: pg_sys::XactEvent::Type, _argument: *mut c_void) {
    use pg_sys::XactEvent::{XACT_EVENT_ABORT, XACT_EVENT_PREPARE};
    if matches!(event, XACT_EVENT_ABORT | XACT_EVENT_PREPARE) && has_written() {
        forget();
    }
}
