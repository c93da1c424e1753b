//! A query, analysed and planned, with what its result depends on.
//!
//! Planned without parallel workers, which would run where nobody looks, and with the parameters' values.
//!
//! Not here: how it is run (`run`).
#![allow(unsafe_code)]

use std::ffi::CStr;

use pgrx::pg_sys;

use super::accepted::{self, Accepted, Condition};
use super::check::{self, Findings};
use super::lists::{oids, pointers};
use super::refusal::Refusal;
use super::relations::{Dependencies, relation_name, search_path};
use super::{Parameter, literals, marks, trace};
use crate::pg::error::CacheError;
use crate::pg::refusals::Reason;
use crate::pg::types;
use crate::pg::versions;

/// A planned query.
pub(super) struct Planned {
    pub(super) statement: *mut pg_sys::PlannedStmt,
    pub(super) parameters: pg_sys::ParamListInfo,
    pub(super) dependencies: Dependencies,
}

/// Plans a query in the current memory context.
///
/// # Errors
///
/// It is not one SELECT; or PostgreSQL's own ERROR.
pub(super) fn plan(query: &CStr, parameters: &[Parameter]) -> Result<Planned, CacheError> {
    let starts = trace::starts();
    let mut dependencies = Dependencies::new();
    let wrong = || CacheError::Parameter("a query whose result is cached is one SELECT".to_owned());
    // SAFETY: inside of a transaction; PostgreSQL's own functions one after the other, each on what the last one made.
    unsafe {
        let parsed = pg_sys::pg_parse_query(query.as_ptr());
        let mut statements = pointers::<pg_sys::RawStmt>(parsed);
        let (Some(statement), None) = (statements.next(), statements.next()) else { return Err(wrong()) };
        let kinds: Vec<pg_sys::Oid> = parameters.iter().map(|parameter| parameter.oid).collect();
        let rewritten = versions::analyze_and_rewrite(statement, query, &kinds);
        let mut queries = pointers::<pg_sys::Query>(rewritten);
        let (Some(analysed), None) = (queries.next(), queries.next()) else { return Err(wrong()) };
        if (*analysed).commandType != pg_sys::CmdType::CMD_SELECT || !(*analysed).utilityStmt.is_null() {
            return Err(wrong());
        }
        let path = search_path();
        dependencies.refusal = refusal_of_path(&path);
        let findings = add_dependencies(analysed, &mut dependencies);
        for relation in dependencies.relations.clone() {
            dependencies.add_relation_name(relation, &path);
        }
        findings.types.iter().for_each(|of_type| dependencies.add_type_name(*of_type, &path));
        let moment = literals::refusal(analysed, query).map(|refusal| Condition { needs: Accepted::Clock, refusal });
        accepted::add_all(&mut dependencies.conditions, &moment);

        let values = bound(parameters);
        // This is the query of a call, which looks after its result itself.
        let statement = marks::ignored(|| pg_sys::pg_plan_query(analysed, query.as_ptr(), 0, values));
        add_planned(statement, &mut dependencies);
        if trace::starts() != starts {
            dependencies.runs_queries = Some(trace_refusal());
        }
        Ok(Planned { statement, parameters: values, dependencies })
    }
}

/// What a rewritten query depends on, whatever its names are, and why its result is not to be kept.
///
/// # Safety
///
/// - It is one.
pub(super) unsafe fn add_dependencies(query: *mut pg_sys::Query, dependencies: &mut Dependencies) -> Findings {
    let (mut relations, mut invalidations, mut has_policies) = (std::ptr::null_mut(), std::ptr::null_mut(), false);
    // SAFETY: as the caller says; the lists are new.
    let findings = unsafe {
        pg_sys::extract_query_dependencies(query.cast(), &mut relations, &mut invalidations, &mut has_policies);
        oids(relations).for_each(|relation| dependencies.add_relation(relation));
        check::look(query)
    };
    findings.types.iter().for_each(|of_type| dependencies.add_type(*of_type));
    if let Some(refusal) = &findings.refusal {
        dependencies.refusal.get_or_insert_with(|| refusal.clone());
    }
    accepted::add_all(&mut dependencies.conditions, &findings.conditions);
    dependencies.may_be_folded |= findings.may_be_folded;
    findings
}

/// What a plan depends on beside: partitions, and children; and what functions read that have become part of it, by the
/// names that they have for it.
///
/// # Safety
///
/// - It is one.
pub(super) unsafe fn add_planned(statement: *mut pg_sys::PlannedStmt, dependencies: &mut Dependencies) {
    // SAFETY: as the caller says.
    let named = unsafe { named_since(statement, &dependencies.relations) };
    // SAFETY: as the caller says.
    unsafe {
        oids((*statement).relationOids).for_each(|relation| dependencies.add_relation(relation));
        if (*statement).hasModifyingCTE || !(*statement).rowMarks.is_null() {
            let refusal = || Refusal::new(Reason::ChangesRows, "it changes or locks rows");
            dependencies.refusal.get_or_insert_with(refusal);
        }
    }
    if !named.is_empty() {
        let path = search_path();
        named.into_iter().for_each(|relation| dependencies.add_relation_name(relation, &path));
    }
}

/// The relations of a plan that are not among these, and that a function has named which became part of the plan: all but
/// partitions and children.
///
/// # Safety
///
/// - It is a plan.
pub(super) unsafe fn named_since(statement: *const pg_sys::PlannedStmt, known: &[pg_sys::Oid]) -> Vec<pg_sys::Oid> {
    // SAFETY: as the caller says: lists of such nodes.
    unsafe {
        let children: Vec<usize> = pointers::<pg_sys::AppendRelInfo>((*statement).appendRelations)
            .filter(|child| (**child).parent_reloid != pg_sys::InvalidOid)
            .map(|child| (*child).child_relid as usize)
            .collect();
        let entries = pointers::<pg_sys::RangeTblEntry>((*statement).rtable).map(|entry| (*entry).relid);
        (1..)
            .zip(entries)
            .filter(|(place, relation)| {
                let is_known = *relation == pg_sys::InvalidOid || known.contains(relation);
                !is_known && !children.contains(place)
            })
            .map(|(_, relation)| relation)
            .collect()
    }
}

/// Why the result of a query is not kept that runs others, as the last of these says, and this function that is not trusted.
pub(super) fn untrusted_refusal(untrusted: Option<&str>) -> Refusal {
    let more = untrusted.map(|function| format!(": trusted_functions does not name {function}"));
    trace_refusal().and(more.as_deref().unwrap_or_default())
}

/// Why the result of a query is not kept that runs others, as the last of these says.
pub(super) fn trace_refusal() -> Refusal {
    let text = "a function in it runs queries";
    match trace::last_relation() {
        Some(relation) => {
            Refusal::of_relation(Reason::RunsQueries, relation, format!("{text}, over {}", relation_name(relation)))
        }
        None => Refusal::new(Reason::RunsQueries, text),
    }
}

/// Why the result of a query is not kept whose names are looked up in these schemas: PostgreSQL's own have to come first,
/// implicitly or not; a schema of temporary tables may come before.
pub(super) fn refusal_of_path(path: &[pg_sys::Oid]) -> Option<Refusal> {
    // SAFETY: a look at a variable of this process's only thread.
    let mut path = path.iter().filter(|schema| unsafe { !pg_sys::isTempNamespace(**schema) });
    let is_first = path.next().is_some_and(|schema| schema.to_u32() == pg_sys::PG_CATALOG_NAMESPACE);
    (!is_first).then(|| Refusal::new(Reason::SearchPath, "pg_catalog is not first in search_path"))
}

/// Values for the planner and the executor.
fn bound(parameters: &[Parameter]) -> pg_sys::ParamListInfo {
    if parameters.is_empty() {
        return std::ptr::null_mut();
    }
    // SAFETY: a list of so many, in the current memory context.
    unsafe {
        let list = pg_sys::makeParamList(parameters.len() as i32);
        let places = (*list).params.as_mut_slice(parameters.len());
        for (place, parameter) in places.iter_mut().zip(parameters) {
            place.value = parameter.datum;
            place.isnull = parameter.is_null;
            place.pflags = pg_sys::PARAM_FLAG_CONST as u16;
            place.ptype = parameter.oid;
        }
        list
    }
}

/// The first reason why the columns of a result mean nothing to other sessions.
pub(super) fn refusal_of_columns(columns: &[super::rows::Column]) -> Option<Refusal> {
    let place = columns.iter().position(|column| {
        // SAFETY: a lookup in the catalogs.
        column.oid == pg_sys::RECORDARRAYOID
            || unsafe { pg_sys::get_typtype(column.oid) } as u8 == pg_sys::TYPTYPE_PSEUDO
    })?;
    let of_type = columns[place].oid;
    let text = format!("column {} is of type {}", place + 1, types::name(of_type));
    Some(Refusal::of_type(Reason::Untyped, of_type, text))
}
