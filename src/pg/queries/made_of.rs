//! Types: what they are made of, and which ones a query computes.
//!
//! Not here: what follows from that for a result (`check`, `relations`, `watch`).
#![allow(unsafe_code)]

use std::ffi::c_void;

use pgrx::{PgTupleDesc, pg_guard, pg_sys};

use super::lists::oids;
use crate::pg::{syscache, versions};

/// What a type is made of: its elements, its columns, what a domain or a range is one of.
pub(super) fn parts(oid: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    // SAFETY: lookups in the catalogs; the description is given back when it is dropped.
    unsafe {
        let element = pg_sys::get_element_type(oid);
        if element != pg_sys::InvalidOid {
            return vec![element];
        }
        match pg_sys::get_typtype(oid) as u8 {
            // Which may be a domain, too, with constraints of its own.
            pg_sys::TYPTYPE_DOMAIN => vec![type_below(oid)],
            pg_sys::TYPTYPE_RANGE => vec![pg_sys::get_range_subtype(oid)],
            pg_sys::TYPTYPE_MULTIRANGE => vec![pg_sys::get_multirange_range(oid)],
            pg_sys::TYPTYPE_COMPOSITE => PgTupleDesc::from_pg(pg_sys::lookup_rowtype_tupdesc(oid, -1))
                .iter()
                .filter(|column| !column.attisdropped)
                .map(|column| column.atttypid)
                .collect(),
            _ => Vec::new(),
        }
    }
}

/// Adds all that a type is made of, and what that is made of, of users' and extensions' types. Not the type itself.
pub(super) fn all_parts(of_type: pg_sys::Oid, all: &mut Vec<pg_sys::Oid>) {
    if of_type.to_u32() < pg_sys::FirstNormalObjectId {
        return;
    }
    for part in parts(of_type) {
        if part.to_u32() >= pg_sys::FirstNormalObjectId && !all.contains(&part) {
            all.push(part);
            all_parts(part, all);
        }
    }
}

/// Adds the users' types of all that a query computes.
///
/// # Safety
///
/// - It is one, rewritten.
pub(super) unsafe fn add_types(query: *mut pg_sys::Query, types: &mut Vec<pg_sys::Oid>) {
    // SAFETY: as the caller says; the walk ends before the list does.
    unsafe { walk_types(query.cast(), (&raw mut *types).cast()) };
}

/// A walker of PostgreSQL's: goes on where it returns false.
#[pg_guard]
unsafe extern "C-unwind" fn walk_types(node: *mut pg_sys::Node, types: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: a node of the query, of the kind that its tag says; the context is what `add_types` has given.
    unsafe {
        let add = |of_type: pg_sys::Oid| {
            let types = &mut *types.cast::<Vec<pg_sys::Oid>>();
            if of_type.to_u32() >= pg_sys::FirstNormalObjectId && !types.contains(&of_type) {
                types.push(of_type);
            }
        };
        if (*node).type_ == pg_sys::NodeTag::T_Query {
            return versions::walk_query(node.cast(), walk_types, types);
        }
        computed(node, add);
        versions::walk_expression(node, walk_types, types)
    }
}

/// The type that a domain is one of; 0 if there is no such domain any more.
fn type_below(domain: pg_sys::Oid) -> pg_sys::Oid {
    let below = |row: &pg_sys::FormData_pg_type| row.typbasetype;
    // SAFETY: rows of pg_type.
    unsafe { syscache::with_form(pg_sys::SysCacheIdentifier::TYPEOID, domain, below) }.unwrap_or(pg_sys::InvalidOid)
}

/// The types that a node of a query computes, whatever is below it.
///
/// # Safety
///
/// - It is one.
pub(super) unsafe fn computed(node: *mut pg_sys::Node, add: impl FnMut(pg_sys::Oid)) {
    // SAFETY: as the caller says: of the kind that its tag says.
    unsafe {
        match (*node).type_ {
            pg_sys::NodeTag::T_RangeTblFunction => {
                oids((*node.cast::<pg_sys::RangeTblFunction>()).funccoltypes).for_each(add);
            }
            tag if is_of_any_type(tag) => std::iter::once(pg_sys::exprType(node)).for_each(add),
            _ => {}
        }
    }
}

/// Whether a node is an expression, and not only ever a boolean or a number.
fn is_of_any_type(tag: pg_sys::NodeTag) -> bool {
    use pg_sys::NodeTag::{
        T_Aggref, T_ArrayCoerceExpr, T_ArrayExpr, T_CaseExpr, T_CaseTestExpr, T_CoalesceExpr, T_CoerceToDomain,
        T_CoerceToDomainValue, T_CoerceViaIO, T_CollateExpr, T_Const, T_ConvertRowtypeExpr, T_FieldSelect,
        T_FieldStore, T_FuncExpr, T_MinMaxExpr, T_NamedArgExpr, T_NullIfExpr, T_OpExpr, T_Param, T_RelabelType,
        T_RowExpr, T_SQLValueFunction, T_SubLink, T_SubscriptingRef, T_Var, T_WindowFunc, T_XmlExpr,
    };
    matches!(
        tag,
        T_Var
            | T_Const
            | T_Param
            | T_Aggref
            | T_WindowFunc
            | T_SubscriptingRef
            | T_FuncExpr
            | T_NamedArgExpr
            | T_OpExpr
            | T_NullIfExpr
            | T_SubLink
            | T_FieldSelect
            | T_FieldStore
            | T_RelabelType
            | T_CoerceViaIO
            | T_ArrayCoerceExpr
            | T_ConvertRowtypeExpr
            | T_CollateExpr
            | T_CaseExpr
            | T_CaseTestExpr
            | T_ArrayExpr
            | T_RowExpr
            | T_CoalesceExpr
            | T_MinMaxExpr
            | T_SQLValueFunction
            | T_XmlExpr
            | T_CoerceToDomain
            | T_CoerceToDomainValue
    )
}
