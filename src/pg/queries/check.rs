//! Whether a query's result follows from the rows that it reads and from what its key says, and what else it depends on.
//!
//! Looked at is the query as it is after rewriting: with the bodies of views and the policies of row security. What is
//! refused:
//!
//! - Functions that are volatile; PostgreSQL's own that are STABLE, but for a list of those that depend only on settings in the
//!   key. Conversions by way of text count as the functions of input and output that they are.
//! - `SESSION_USER`, values of sequences.
//! - Row locks and data-modifying CTEs; samples; system columns but `tableoid`.
//! - Types that are numbers of objects (`regclass` and the like): as text they depend on names.
//!
//! Types count with all that they are made of: as text or JSON, a row has the names of its columns, and those of the rows in
//! it.
//!
//! What depends on the clock (`now()`, `CURRENT_DATE` and the like) is told apart: there are caches that take it, for a while.
//! So is what depends on a setting that it names (`current_setting('app.tenant')`): there are caches that have it in the key. So are
//! functions of users and extensions that are STABLE: there are caches that trust some (`accepted`).
//!
//! A function that is declared IMMUTABLE is taken at its word, as PostgreSQL does; that it reads no table, unless it is trusted,
//! is looked after while the query runs (`trace`).
//!
//! Not here: what the catalogs say of functions (`volatility`) and types (`made_of`); relations (`relations`), the key (`key`).
#![allow(unsafe_code)]

use std::ffi::{CStr, c_int, c_void};

use pgrx::{pg_guard, pg_sys};

use super::accepted::{self, Accepted, Condition};
use super::lists::{oids, pointers};
use super::made_of::{computed, parts};
use super::refusal::Refusal;
use super::relations::relation_name;
use super::volatility::{function_name, is_aggregate, is_in_sql, refusal_of};
use crate::pg::refusals::Reason;
use crate::pg::{syscache, types, versions};

/// What a look at a query has found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// Why the result is not to be kept; the first reason.
    pub(super) refusal: Option<Refusal>,
    /// What it depends on that some caches accept.
    pub(super) conditions: Vec<Condition>,
    /// Types of all that is computed, and what they are made of.
    pub(super) types: Vec<pg_sys::Oid>,
    /// Whether the planner may run a function of users, and have what it gives in the plan.
    pub(super) may_be_folded: bool,
    /// Domains whose constraints were looked at.
    domains: Vec<pg_sys::Oid>,
}

/// Looks at a rewritten query.
///
/// # Safety
///
/// - It is one.
pub(super) unsafe fn look(query: *mut pg_sys::Query) -> Findings {
    let mut findings = Findings::default();
    // SAFETY: as the caller says; the walk ends before the findings do.
    unsafe { walk(query.cast(), (&raw mut findings).cast()) };
    findings
}

impl Findings {
    fn refuse(&mut self, reason: Reason, why: impl FnOnce() -> String) {
        self.refusal.get_or_insert_with(|| Refusal::new(reason, why()));
    }

    fn need(&mut self, needs: Accepted, refusal: Refusal) {
        accepted::add_all(&mut self.conditions, &[Condition { needs, refusal }]);
    }

    fn add_type(&mut self, oid: pg_sys::Oid) {
        self.add_part(oid, oid);
    }

    fn add_part(&mut self, part: pg_sys::Oid, of: pg_sys::Oid) {
        if part == pg_sys::InvalidOid || self.types.contains(&part) {
            return;
        }
        self.types.push(part);
        self.look_at_json_of(part);
        if OF_NAMES.contains(&part) {
            let refusal = || Refusal::of_type(Reason::Names, of, format!("type {} depends on names", types::name(of)));
            self.refusal.get_or_insert_with(refusal);
        }
        parts(part).into_iter().for_each(|part| self.add_part(part, of));
    }

    /// A type that texts are turned into while the query runs.
    fn add_input(&mut self, oid: pg_sys::Oid) {
        self.add_type(oid);
        let (mut function, mut parameter) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
        // SAFETY: a lookup in the catalogs; the type of a query's column exists.
        unsafe { pg_sys::getTypeInputInfo(oid, &mut function, &mut parameter) };
        self.look_at_function(function);
    }

    /// `to_json` and its like make JSON of a user's type with the type's cast.
    fn look_at_json_of(&mut self, part: pg_sys::Oid) {
        if part.to_u32() < pg_sys::FirstNormalObjectId {
            return;
        }
        let mut function = pg_sys::InvalidOid;
        let explicit = pg_sys::CoercionContext::COERCION_EXPLICIT;
        // SAFETY: a lookup in the catalogs.
        let path = unsafe { pg_sys::find_coercion_pathway(pg_sys::JSONOID, part, explicit, &mut function) };
        if path == pg_sys::CoercionPathType::COERCION_PATH_FUNC && function != pg_sys::InvalidOid {
            self.look_at_function(function);
        }
    }

    /// A call of a function that is not an operator's.
    ///
    /// # Safety
    ///
    /// - It is one.
    unsafe fn look_at_call(&mut self, call: &pg_sys::FuncExpr) {
        let function = call.funcid;
        if ![pg_sys::F_CURRENT_SETTING_TEXT, pg_sys::F_CURRENT_SETTING_TEXT_BOOL].contains(&function.to_u32()) {
            return self.look_at_function(function);
        }
        let refusal = |text| Refusal::of_function(Reason::Stable, function, text);
        // SAFETY: as the caller says.
        match unsafe { constant_name(call.args) } {
            Some(name) => {
                let text = format!("it depends on the setting {name}: name it in the cache's settings");
                self.need(Accepted::Setting(name), refusal(text));
            }
            None => {
                let text = "function current_setting is STABLE: the name of the setting has to be a constant";
                self.refusal.get_or_insert_with(|| refusal(text.to_owned()));
            }
        }
    }

    fn look_at_function(&mut self, function: pg_sys::Oid) {
        let is_users = function.to_u32() >= pg_sys::FirstNormalObjectId;
        match refusal_of(function) {
            // An aggregate is its functions, which are looked at.
            None if is_users && !is_aggregate(function) => {
                self.may_be_folded = true;
                let name = function_name(function);
                let text = format!("trusted_functions does not name {name}");
                self.need(Accepted::Queries(name), Refusal::of_function(Reason::RunsQueries, function, text));
            }
            None => {}
            Some(refusal) if refusal.reason == Reason::Clock => self.need(Accepted::Clock, refusal),
            Some(refusal) if refusal.reason == Reason::Stable && is_users => {
                self.may_be_folded |= is_in_sql(function);
                self.need(Accepted::Stable(function_name(function)), refusal);
            }
            Some(refusal) => _ = self.refusal.get_or_insert(refusal),
        }
    }
}

/// Looks at what PostgreSQL takes for arguments that a call leaves out. The planner puts it in, so it is not in the query.
///
/// # Safety
///
/// - The call is one of this function, and has these arguments and this type.
unsafe fn look_at_defaults(
    function: pg_sys::Oid,
    arguments: *mut pg_sys::List,
    result: pg_sys::Oid,
    findings: &mut Findings,
) {
    // SAFETY: as the caller says; rows of pg_proc. The list is a new one where something is left out.
    unsafe {
        let given = pointers::<pg_sys::Node>(arguments).count();
        let all = syscache::with_row(pg_sys::SysCacheIdentifier::PROCOID, function, |row| {
            let wanted = (*pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_proc>()).pronargs;
            let is_whole = given >= wanted as usize;
            if is_whole { arguments } else { pg_sys::expand_function_arguments(arguments, false, result, row) }
        });
        if let Some(all) = all.filter(|all| *all != arguments) {
            pointers::<pg_sys::Node>(all).for_each(|argument| _ = walk(argument, (&raw mut *findings).cast()));
        }
    }
}

/// The name of a setting that the first of these arguments is, in small letters; `None` if it is no constant, or no name that
/// a cache's settings may have.
///
/// # Safety
///
/// - It is a list of expressions, of which the first is a text.
unsafe fn constant_name(arguments: *mut pg_sys::List) -> Option<String> {
    // SAFETY: as the caller says; a text becomes one that ends with a NUL.
    let name = unsafe {
        let first = pointers::<pg_sys::Node>(arguments).next()?;
        let value = ((*first).type_ == pg_sys::NodeTag::T_Const).then(|| &*first.cast::<pg_sys::Const>())?;
        let text = (!value.constisnull).then(|| pg_sys::text_to_cstring(value.constvalue.cast_mut_ptr()))?;
        CStr::from_ptr(text).to_str().ok()?.to_ascii_lowercase()
    };
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"_$.".contains(&byte);
    (!name.is_empty() && name.bytes().all(is_part)).then_some(name)
}

/// Types whose values are numbers of objects. Not those of text searches: a configuration is given as a constant, and changes
/// with its own message.
const OF_NAMES: [pg_sys::Oid; 9] = [
    pg_sys::REGPROCOID,
    pg_sys::REGPROCEDUREOID,
    pg_sys::REGOPEROID,
    pg_sys::REGOPERATOROID,
    pg_sys::REGCLASSOID,
    pg_sys::REGTYPEOID,
    pg_sys::REGROLEOID,
    pg_sys::REGNAMESPACEOID,
    pg_sys::REGCOLLATIONOID,
];

/// What a domain asks of a value, which PostgreSQL looks up when a query starts: it is not in the query.
fn look_at_domain(domain: pg_sys::Oid, findings: &mut Findings) {
    if findings.domains.contains(&domain) {
        return;
    }
    findings.domains.push(domain);
    // SAFETY: a list of constraints, and how they are held, both in a context that ends here, or after an ERROR.
    unsafe {
        let memory = pg_sys::AllocSetContextCreateExtended(
            pg_sys::CurrentMemoryContext,
            c"Shared LRU domain".as_ptr(),
            pg_sys::ALLOCSET_SMALL_MINSIZE as usize,
            pg_sys::ALLOCSET_SMALL_INITSIZE as usize,
            pg_sys::ALLOCSET_SMALL_MAXSIZE as usize,
        );
        let held = pg_sys::MemoryContextAllocZero(memory, size_of::<pg_sys::DomainConstraintRef>())
            .cast::<pg_sys::DomainConstraintRef>();
        pg_sys::InitDomainConstraintRef(domain, held, memory, false);
        for constraint in pointers::<pg_sys::DomainConstraintState>((*held).constraints) {
            walk((*constraint).check_expr.cast(), (&raw mut *findings).cast());
        }
        pg_sys::MemoryContextDelete(memory);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn check_function(function: pg_sys::Oid, findings: *mut c_void) -> bool {
    // SAFETY: what `look` has given.
    unsafe { (*findings.cast::<Findings>()).look_at_function(function) };
    false
}

/// A walker of PostgreSQL's: goes on where it returns false.
#[pg_guard]
unsafe extern "C-unwind" fn walk(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: a node of the query, of the kind that its tag says; the context is what `look` has given.
    unsafe {
        let findings = &mut *context.cast::<Findings>();
        match (*node).type_ {
            pg_sys::NodeTag::T_FuncExpr => {
                let call = &*node.cast::<pg_sys::FuncExpr>();
                findings.look_at_call(call);
                look_at_defaults(call.funcid, call.args, call.funcresulttype, findings);
            }
            _ => _ = pg_sys::check_functions_in_node(node, Some(check_function), context),
        }
        match (*node).type_ {
            pg_sys::NodeTag::T_Query => {
                look_at_query(&*node.cast::<pg_sys::Query>(), findings);
                return versions::walk_query(node.cast(), walk, context);
            }
            pg_sys::NodeTag::T_Var => {
                let var = &*node.cast::<pg_sys::Var>();
                if var.varattno < 0 && c_int::from(var.varattno) != pg_sys::TableOidAttributeNumber {
                    findings.refuse(Reason::SystemColumn, || {
                        let column = pg_sys::SystemAttributeDefinition(var.varattno);
                        let name = CStr::from_ptr((*column).attname.data.as_ptr()).to_string_lossy();
                        format!("it reads the system column {name}")
                    });
                }
            }
            pg_sys::NodeTag::T_Aggref => look_at_aggregate((*node.cast::<pg_sys::Aggref>()).aggfnoid, findings),
            pg_sys::NodeTag::T_WindowFunc => {
                let call = &*node.cast::<pg_sys::WindowFunc>();
                look_at_aggregate(call.winfnoid, findings);
                look_at_defaults(call.winfnoid, call.args, call.wintype, findings);
            }
            pg_sys::NodeTag::T_TableFunc => {
                // Of XMLTABLE and JSON_TABLE.
                let columns = oids((*node.cast::<pg_sys::TableFunc>()).coltypes);
                columns.for_each(|column| findings.add_input(column));
            }
            pg_sys::NodeTag::T_SQLValueFunction => {
                use pg_sys::SQLValueFunctionOp::{
                    SVFOP_CURRENT_CATALOG, SVFOP_CURRENT_ROLE, SVFOP_CURRENT_SCHEMA, SVFOP_CURRENT_USER, SVFOP_USER,
                };
                let function = &*node.cast::<pg_sys::SQLValueFunction>();
                match function.op {
                    SVFOP_CURRENT_CATALOG
                    | SVFOP_CURRENT_ROLE
                    | SVFOP_CURRENT_SCHEMA
                    | SVFOP_CURRENT_USER
                    | SVFOP_USER => {}
                    pg_sys::SQLValueFunctionOp::SVFOP_SESSION_USER => {
                        findings.refuse(Reason::SessionUser, || "it depends on SESSION_USER".to_owned());
                    }
                    _ => {
                        let text = format!("it depends on the clock: {}", word_of_clock(function.type_));
                        findings.need(Accepted::Clock, Refusal::new(Reason::Clock, text));
                    }
                }
            }
            pg_sys::NodeTag::T_CoerceToDomain => {
                look_at_domain((*node.cast::<pg_sys::CoerceToDomain>()).resulttype, findings);
            }
            pg_sys::NodeTag::T_NextValueExpr => {
                findings.refuse(Reason::Sequence, || "it takes values of a sequence".to_owned());
            }
            tag if versions::is_json_query(tag) => findings.add_input(pg_sys::exprType(node)),
            _ => {}
        }
        computed(node, |of_type| findings.add_type(of_type));
        versions::walk_expression(node, walk, context)
    }
}

/// # Safety
///
/// - It is a query as PostgreSQL made it.
unsafe fn look_at_query(query: &pg_sys::Query, findings: &mut Findings) {
    if query.commandType != pg_sys::CmdType::CMD_SELECT || query.hasModifyingCTE {
        findings.refuse(Reason::ChangesRows, || "it changes rows".to_owned());
    }
    // SAFETY: a list of range table entries, to which row marks point by number, from 1 on.
    unsafe {
        let name_of = |entry: *mut pg_sys::RangeTblEntry| match (*entry).relid {
            pg_sys::InvalidOid => "a subquery".to_owned(),
            relation => format!("table {}", relation_name(relation)),
        };
        if let Some(mark) = pointers::<pg_sys::RowMarkClause>(query.rowMarks).next() {
            findings.refuse(Reason::LocksRows, || {
                let entry = pointers(query.rtable).nth((*mark).rti as usize - 1);
                let of = entry.map_or_else(String::new, |entry| format!(" of {}", name_of(entry)));
                format!("it locks rows{of}: {}", clause_of((*mark).strength))
            });
        }
        for entry in pointers::<pg_sys::RangeTblEntry>(query.rtable) {
            if !(*entry).tablesample.is_null() {
                findings.refuse(Reason::Sample, || format!("it reads a sample of {}", name_of(entry)));
            }
        }
    }
}

/// What is written for a lock of rows.
fn clause_of(strength: pg_sys::LockClauseStrength::Type) -> &'static str {
    match strength {
        pg_sys::LockClauseStrength::LCS_FORKEYSHARE => "FOR KEY SHARE",
        pg_sys::LockClauseStrength::LCS_FORSHARE => "FOR SHARE",
        pg_sys::LockClauseStrength::LCS_FORNOKEYUPDATE => "FOR NO KEY UPDATE",
        _ => "FOR UPDATE",
    }
}

/// What is written for the time as a value of this type.
fn word_of_clock(oid: pg_sys::Oid) -> &'static str {
    match oid {
        pg_sys::DATEOID => "CURRENT_DATE",
        pg_sys::TIMEOID => "LOCALTIME",
        pg_sys::TIMETZOID => "CURRENT_TIME",
        pg_sys::TIMESTAMPOID => "LOCALTIMESTAMP",
        _ => "CURRENT_TIMESTAMP",
    }
}

fn look_at_aggregate(function: pg_sys::Oid, findings: &mut Findings) {
    // PostgreSQL's own use no other functions than these arguments do.
    if function.to_u32() < pg_sys::FirstNormalObjectId {
        return;
    }
    /// Columns of `pg_aggregate`: the functions of transition, of the end, of combination, and the three for windows that move.
    const FUNCTIONS: [pg_sys::AttrNumber; 6] = [4, 5, 6, 9, 10, 11];
    let cache = pg_sys::SysCacheIdentifier::AGGFNOID;
    let parts = syscache::with_row(cache, function, |row| {
        FUNCTIONS.map(|part| {
            let mut is_null = false;
            // SAFETY: a column of the row, an OID.
            let datum = unsafe { pg_sys::SysCacheGetAttr(cache as i32, row, part, &mut is_null) };
            pg_sys::Oid::from(datum.value() as u32)
        })
    });
    // Else a window function.
    let Some(parts) = parts else { return findings.look_at_function(function) };
    parts.into_iter().filter(|part| *part != pg_sys::InvalidOid).for_each(|part| findings.look_at_function(part));
}
