//! What queries depend on that functions run while a result is made, where all functions of the result's query are trusted.
//!
//! The cache's owner says of a function: what it gives follows from its arguments, from settings that are in the key, and from
//! rows that it reads by queries. Which queries these are is seen when they run, at any depth: PostgreSQL starts the executor for
//! each, and what its plan depends on is added to all results that are being made at that moment. A result of a cache that a
//! function asks for runs nothing when it is there; then what it was stored with is added.
//!
//! ```text
//! copy the words of all lines ─> accept messages ─> plan ─> run: plans of functions start ─> ask the lines of what they
//!                                                                  depend on, with the words of the copy
//! ```
//!
//! Invariant: what a plan of a function depends on has its word from before the messages were accepted, and the plan is
//! revalidated when it runs, so after. So it knows every change that the word counts. That is so also where it accepts no
//! messages itself, for its transaction has the locks already: those up to the copy were accepted. The words are of all lines,
//! for nobody knows before which of them will matter; a result is stored with those that do.
//!
//! What PostgreSQL does not revalidate plans for is in `session_plans`.
//!
//! All plans have to read in the result's own snapshot: a VOLATILE function in a trusted one takes a newer one, and then the lines
//! say something else. Refused as well is what changes or locks rows, and what has parallel workers, for functions run there
//! where nobody looks.
//!
//! Whatever ends a function with an ERROR ends what was begun in it: watches are on a stack, which is cut where the ERROR goes
//! through. Where a function handles the ERROR, the result is not kept: it may follow from what no plan has, such as that there is no
//! table of a name, or that somebody held a lock.
//!
//! Locking: none.
//!
//! Not here: which functions are trusted (`accepted`); functions that read without queries, or rows of a cursor that somebody
//! else has opened.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::ffi::c_void;
use std::rc::Rc;

use pgrx::pg_guard;
use pgrx::pg_sys::{self, SysCacheIdentifier};

use super::basis::Basis;
use super::lists::{oids, pointers};
use super::refusal::Refusal;
use super::relations::{Dependencies, search_path};
use super::rows::Rows;
use super::session_plans::{self, doubtful};
use super::{made_of, plan};
use crate::pg::definitions::options::ResultOptions;
use crate::pg::handles::my_database;
use crate::pg::refusals::Reason;
use crate::pg::stored::{Dependency, MAX_DEPENDENCIES, Stored};
use crate::rings::key::{DependencyHash, DependencyKey};
use crate::rings::table::{CopiedDefinitions, LineIndex, Rings};

thread_local! {
    /// Of the results that are being made now, the outermost first.
    static ACTIVE: RefCell<Vec<Seen>> = const { RefCell::new(Vec::new()) };
}

/// Looks after the functions of one result.
pub(super) struct Watch {
    words: Rc<CopiedDefinitions>,
    /// What the transaction had done when it began: who writes afterwards is a function.
    written: Written,
    /// Of the session's plans, when it looked last: what is made in between, as between two FETCHes, it has not seen.
    doubtful: u64,
    /// `None` where an ERROR has taken it away.
    seen: Option<Seen>,
}

/// What was seen so far.
struct Seen {
    /// The result's own plan.
    own: *const pg_sys::PlannedStmt,
    snapshot: pg_sys::Snapshot,
    dependencies: Dependencies,
    /// What names depend on.
    names: Dependencies,
    /// Relations whose names were looked at, by search path.
    named: Vec<(Vec<pg_sys::Oid>, Vec<pg_sys::Oid>)>,
    /// Users' types that functions may have used: of all plans of the session, for nobody notes whose they are.
    types: Vec<pg_sys::Oid>,
    /// Of results of caches.
    lines: Vec<LineIndex>,
    relations: Vec<pg_sys::Oid>,
    /// Whether something is being looked at; after an ERROR it may be half done.
    is_looking: bool,
}

/// The transaction's id, and how many of its commands have written.
type Written = (pg_sys::TransactionId, pg_sys::CommandId);

fn written() -> Written {
    // SAFETY: reads what the current transaction is.
    unsafe { (pg_sys::GetTopTransactionIdIfAny(), pg_sys::GetCurrentCommandId(false)) }
}

impl Watch {
    /// Copies all words, and accepts messages; the caller plans and runs after that. `None` if there is no memory for it.
    ///
    /// # Safety
    ///
    /// - The snapshot is there as long as the watch runs.
    /// - Inside of a transaction, holding no LWLock.
    pub(super) unsafe fn begin(basis: Basis, options: &ResultOptions, snapshot: pg_sys::Snapshot) -> Option<Watch> {
        let rings = basis.rings();
        let seen = Seen {
            own: std::ptr::null(),
            snapshot,
            dependencies: Dependencies::default(),
            names: Dependencies::default(),
            named: Vec::new(),
            types: Vec::new(),
            lines: Vec::new(),
            relations: Vec::new(),
            is_looking: false,
        };
        let words = Rc::new(rings.copy_definitions()?);
        // SAFETY: as the caller says.
        unsafe { pg_sys::AcceptInvalidationMessages() };
        // With which values of these a plan was made nobody notes. Nor of any setting, where the library is not preloaded.
        if !options.settings.is_empty() || basis.is_age() {
            session_plans::doubt_settings();
        }
        session_plans::renew(&words, code(&rings));
        Some(Watch { words, written: written(), doubtful: doubtful(), seen: Some(seen) })
    }

    /// Passes over the result's own plan, of which all is known.
    pub(super) fn pass_over(&mut self, own: *const pg_sys::PlannedStmt) {
        if let Some(seen) = &mut self.seen {
            seen.own = own;
        }
    }

    /// Runs `work`, and looks at what functions run in it.
    pub(super) fn during<R>(&mut self, work: impl FnOnce() -> R) -> R {
        /// Cuts the stack here, also when an ERROR unwinds.
        struct Bottom(usize);
        impl Drop for Bottom {
            fn drop(&mut self) {
                ACTIVE.with_borrow_mut(|active| active.truncate(self.0));
            }
        }
        let Some(mut seen) = self.seen.take() else { return work() };
        if doubtful() != self.doubtful {
            seen.dependencies.refuse(older_plan());
        }
        let _bottom = ACTIVE.with_borrow_mut(|active| {
            active.push(seen);
            Bottom(active.len() - 1)
        });
        let result = work();
        self.seen = ACTIVE.with_borrow_mut(Vec::pop);
        if let Some(seen) = &mut self.seen {
            session_plans::add_types(&mut seen.types);
        }
        self.doubtful = doubtful();
        result
    }

    /// How often the definitions of this had changed; `None` if they were changing.
    pub(super) fn learn(&self, rings: &Rings, key: DependencyHash) -> Option<Dependency> {
        self.learn_line(rings.line_of(key))
    }

    fn learn_line(&self, line: LineIndex) -> Option<Dependency> {
        Some(Dependency { line, definitions: self.words.of(line)?, publications: 0 })
    }

    /// Adds what functions depended on to what is known without them; or why the result is not kept.
    pub(super) fn add_learned(&self, rings: &Rings, learned: &mut Vec<Dependency>) -> Result<(), Refusal> {
        let Some(seen) = self.seen.as_ref().filter(|seen| !seen.is_looking) else {
            return Err(Refusal::being_changed());
        };
        if let Some(refusal) = &seen.dependencies.refusal {
            return Err(refusal.clone());
        }
        if written() != self.written {
            return Err(changes_rows());
        }
        let of_keys = |keys: &[DependencyHash]| keys.iter().map(|key| rings.line_of(*key)).collect::<Vec<LineIndex>>();
        let (types, type_names) = seen.types();
        if let Some(refusal) = types.refusal.or(type_names.refusal) {
            return Err(refusal);
        }
        let names = of_keys(&[&seen.names.keys[..], &type_names.keys].concat());
        if !session_plans::know(&self.words, &names, code(rings)) {
            return Err(older_plan());
        }
        let keys = [&seen.dependencies.keys[..], &types.keys].concat();
        for line in of_keys(&keys).into_iter().chain(names).chain(seen.lines.iter().copied()) {
            if learned.iter().all(|known| known.line != line) {
                learned.push(self.learn_line(line).ok_or_else(Refusal::being_changed)?);
            }
        }
        if learned.len() > MAX_DEPENDENCIES {
            return Err(Refusal::too_many());
        }
        Ok(())
    }

    /// Adds the relations that functions have read.
    pub(super) fn add_relations(&self, relations: &mut Vec<pg_sys::Oid>) {
        let Some(seen) = &self.seen else { return };
        for relation in seen.dependencies.relations.iter().chain(&seen.relations) {
            if !relations.contains(relation) {
                relations.push(*relation);
            }
        }
    }
}

/// From now on it is known what is rolled back. Once per library.
pub(super) fn install() {
    session_plans::install();
    // SAFETY: the callback has the right type and lives as long as the library.
    unsafe { pg_sys::RegisterSubXactCallback(Some(on_savepoint_event), std::ptr::null_mut()) };
}

#[pg_guard]
unsafe extern "C-unwind" fn on_savepoint_event(
    event: pg_sys::SubXactEvent::Type,
    _mine: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _argument: *mut c_void,
) {
    if event != pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB {
        return;
    }
    // SAFETY: reads what the current transaction is.
    if unsafe { pg_sys::GetCurrentTransactionIdIfAny() } != pg_sys::InvalidTransactionId {
        session_plans::forget();
    }
    let text = "a function in it has handled an ERROR";
    ACTIVE.with(|active| {
        if let Ok(mut active) = active.try_borrow_mut() {
            let refusal = || Refusal::new(Reason::RunsQueries, text);
            active.iter_mut().for_each(|seen| seen.dependencies.refuse(refusal()));
        }
    });
}

/// Whether functions are looked after.
pub(super) fn is_active() -> bool {
    ACTIVE.with_borrow(|active| !active.is_empty())
}

/// Looks at a plan that starts.
///
/// # Safety
///
/// - PostgreSQL is going to run it.
pub(super) unsafe fn look_at_start(query: *mut pg_sys::QueryDesc) {
    look_by_all(|seen| {
        // SAFETY: as the caller says.
        unsafe {
            if !std::ptr::eq((*query).plannedstmt, seen.own) {
                seen.look_at_plan(&*(*query).plannedstmt, (*query).snapshot);
            }
        }
    });
}

/// Looks at a kept result that the running statement is served.
pub(super) fn look_at_kept(stored: &Stored<'_>) {
    look_by_all(|seen| seen.look_at_kept(stored));
}

/// The results that are being made are not kept, for this reason.
pub(super) fn refuse(why: impl Fn() -> Refusal) {
    look_by_all(|seen| seen.dependencies.refuse(why()));
}

fn look_by_all(look: impl Fn(&mut Seen)) {
    ACTIVE.with_borrow_mut(|active| {
        for seen in active.iter_mut().filter(|seen| seen.dependencies.refusal.is_none()) {
            let was_looking = std::mem::replace(&mut seen.is_looking, true);
            look(seen);
            seen.is_looking = was_looking;
        }
    });
}

impl Seen {
    /// What types depend on, and their names.
    fn types(&self) -> (Dependencies, Dependencies) {
        let (mut types, mut names) = (Dependencies::default(), Dependencies::default());
        let own = [search_path()];
        let paths = || self.named.iter().map(|(path, _)| path).chain(&own);
        for of_type in self.types.iter().copied() {
            // SAFETY: a lookup in the catalogs, whatever the number is.
            if unsafe { pg_sys::get_typtype(of_type) } == 0 {
                continue;
            }
            let mut all = vec![of_type];
            made_of::all_parts(of_type, &mut all);
            all.into_iter().for_each(|part| types.add_type(part));
            paths().for_each(|path| names.add_type_name(of_type, path));
        }
        (types, names)
    }

    /// # Safety
    ///
    /// - It is a plan, and the snapshot that it is run with.
    unsafe fn look_at_plan(&mut self, plan: &pg_sys::PlannedStmt, snapshot: pg_sys::Snapshot) {
        let refusal = if plan.commandType != pg_sys::CmdType::CMD_SELECT || plan.hasModifyingCTE {
            Some(changes_rows())
        } else if !plan.rowMarks.is_null() {
            Some(Refusal::new(Reason::LocksRows, "a function in it locks rows"))
        } else if plan.parallelModeNeeded {
            Some(Refusal::new(Reason::RunsQueries, "a function in it runs a query with parallel workers"))
        } else {
            // SAFETY: as the caller says.
            unsafe { self.refusal_of_snapshot(snapshot) }
        };
        if let Some(refusal) = refusal {
            return self.dependencies.refuse(refusal);
        }
        // Of columns: a table's own row is its definition.
        let mut types = Vec::new();
        // SAFETY: as the caller says: lists of such.
        unsafe {
            for relation in oids(plan.relationOids) {
                if !self.dependencies.relations.contains(&relation) {
                    self.dependencies.add_relation(relation);
                    made_of::all_parts(pg_sys::get_rel_type_id(relation), &mut types);
                }
            }
            types.into_iter().for_each(|of_type| self.dependencies.add_type(of_type));
            for item in pointers::<pg_sys::PlanInvalItem>(plan.invalItems) {
                let cache = (*item).cacheId as SysCacheIdentifier::Type;
                // Functions are the code of the database, on which every result depends.
                if cache == SysCacheIdentifier::TYPEOID {
                    self.dependencies.add_type_or_name(cache, (*item).hashValue);
                }
            }
            self.look_at_names(plan);
        }
    }

    /// # Safety
    ///
    /// - It is a plan.
    unsafe fn look_at_names(&mut self, plan: &pg_sys::PlannedStmt) {
        /// So many search paths are remembered.
        const PATHS: usize = 16;
        let path = search_path();
        if let Some(refusal) = plan::refusal_of_path(&path) {
            return self.dependencies.refuse(refusal);
        }
        let place = self.named.iter().position(|(of, _)| *of == path).unwrap_or_else(|| {
            self.named.truncate(PATHS - 1);
            self.named.push((path, Vec::new()));
            self.named.len() - 1
        });
        let (path, known) = &mut self.named[place];
        // SAFETY: as the caller says.
        for relation in unsafe { plan::named_since(plan, known) } {
            self.names.add_relation_name(relation, path);
            known.push(relation);
        }
        if let Some(refusal) = self.names.refusal.take() {
            self.dependencies.refuse(refusal);
        }
    }

    fn look_at_kept(&mut self, stored: &Stored<'_>) {
        // SAFETY: the statement that is served has a snapshot.
        if let Some(refusal) = unsafe { self.refusal_of_snapshot(pg_sys::GetActiveSnapshot()) } {
            return self.dependencies.refuse(refusal);
        }
        for line in stored.dependencies().map(|dependency| dependency.line) {
            if !self.lines.contains(&line) {
                self.lines.push(line);
            }
        }
        if self.lines.len() > MAX_DEPENDENCIES {
            self.dependencies.refuse(Refusal::too_many());
        }
        let Some(rows) = Rows::parse(stored.value) else { return };
        for relation in rows.relations() {
            if !self.relations.contains(&relation) {
                self.relations.push(relation);
            }
        }
    }

    /// # Safety
    ///
    /// - It is a snapshot, or null.
    unsafe fn refusal_of_snapshot(&self, snapshot: pg_sys::Snapshot) -> Option<Refusal> {
        // SAFETY: as the caller says, and as who began the watch has said.
        let is_same = unsafe { see_the_same(self.snapshot, snapshot) };
        let text = "a function in it reads rows of another snapshot";
        (!is_same).then(|| Refusal::new(Reason::TwoSnapshots, text))
    }
}

/// The line of the names of functions, among all else of the code.
fn code(rings: &Rings) -> LineIndex {
    rings.line_of(DependencyKey::Code { database: my_database() }.hash())
}

fn older_plan() -> Refusal {
    Refusal::new(Reason::DefinitionsChanged, "a plan of a function in it may be older than a definition")
}

fn changes_rows() -> Refusal {
    Refusal::new(Reason::ChangesRows, "a function in it changes rows")
}

/// Whether two snapshots see the same transactions.
///
/// # Safety
///
/// - They are snapshots, or null.
unsafe fn see_the_same(one: pg_sys::Snapshot, other: pg_sys::Snapshot) -> bool {
    // SAFETY: as the caller says; each has so many ids.
    unsafe {
        let (Some(one), Some(other)) = (one.as_ref(), other.as_ref()) else { return false };
        let is_mvcc = |snapshot: &pg_sys::SnapshotData| snapshot.snapshot_type == pg_sys::SnapshotType::SNAPSHOT_MVCC;
        let ids = |ids: *const pg_sys::TransactionId, count: usize| {
            if count == 0 { &[][..] } else { std::slice::from_raw_parts(ids, count) }
        };
        let parts = |of: &pg_sys::SnapshotData| (of.xmin, of.xmax, of.suboverflowed, of.takenDuringRecovery);
        std::ptr::eq(one, other)
            || (is_mvcc(one)
                && is_mvcc(other)
                && parts(one) == parts(other)
                && ids(one.xip, one.xcnt as usize) == ids(other.xip, other.xcnt as usize)
                && ids(one.subxip, one.subxcnt as usize) == ids(other.subxip, other.subxcnt as usize))
    }
}
