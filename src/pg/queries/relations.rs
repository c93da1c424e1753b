//! What a query depends on: relations, the names by which they and types are found, code, roles.
//!
//! Refused are relations whose rows change without a publication, or are not what a snapshot sees: catalogs, temporary and
//! foreign tables, sequences, tables of other access methods than heap.
//!
//! A name is looked up in the schemas of the search path one after the other. A result depends on the schemas before the one
//! in which it was found: somebody may create a thing of that name there.
//!
//! Not here: functions (`check`).
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};

use pgrx::pg_sys::{self, SysCacheIdentifier};

use super::accepted::{self, Acceptance, Condition};
use super::lists::oids;
use super::refusal::Refusal;
use crate::pg::encoding;
use crate::pg::handles::my_database;
use crate::pg::refusals::Reason;
use crate::pg::stored::MAX_DEPENDENCIES;
use crate::pg::{syscache, types};
use crate::rings::key::{DependencyHash, DependencyKey};

/// What a result depends on, as keys of lines.
#[derive(Debug, Default)]
pub(super) struct Dependencies {
    pub(super) keys: Vec<DependencyHash>,
    /// The relations among them.
    pub(super) relations: Vec<pg_sys::Oid>,
    /// Why the result is not to be kept; the first reason.
    pub(super) refusal: Option<Refusal>,
    /// What it depends on that some caches accept.
    pub(super) conditions: Vec<Condition>,
    /// Why it is not kept where functions may not run queries: some did while it was planned.
    pub(super) runs_queries: Option<Refusal>,
    /// Whether the plan may have what a function of users has given.
    pub(super) may_be_folded: bool,
}

impl Dependencies {
    /// Those that every result has: on functions and types, and on roles.
    pub(super) fn new() -> Dependencies {
        let mut dependencies = Dependencies::default();
        dependencies.add(DependencyKey::Code { database: my_database() });
        dependencies.add(DependencyKey::Roles);
        dependencies
    }

    /// Those of another plan of the query, too.
    pub(super) fn add_all(&mut self, others: &Dependencies) {
        others.keys.iter().for_each(|key| self.add_key(*key));
        let news = others.relations.iter().filter(|relation| !self.relations.contains(relation));
        let news: Vec<pg_sys::Oid> = news.copied().collect();
        self.relations.extend(news);
        self.refusal = self.refusal.take().or_else(|| others.refusal.clone());
        self.runs_queries = self.runs_queries.take().or_else(|| others.runs_queries.clone());
        self.may_be_folded |= others.may_be_folded;
        accepted::add_all(&mut self.conditions, &others.conditions);
    }

    /// Why the result is not to be kept.
    pub(super) fn refusal_where(&self, accepts: Acceptance<'_>) -> Option<&Refusal> {
        let runs_queries = || self.runs_queries.as_ref().filter(|_| !accepts.lets_run(&self.conditions));
        self.refusal.as_ref().or_else(|| accepts.refusal(&self.conditions)).or_else(runs_queries)
    }

    fn add(&mut self, key: DependencyKey<'_>) {
        self.add_key(key.hash());
    }

    fn add_key(&mut self, key: DependencyHash) {
        if self.keys.contains(&key) {
            return;
        }
        if self.keys.len() == MAX_DEPENDENCIES {
            return self.refuse(Refusal::too_many());
        }
        self.keys.push(key);
    }

    pub(super) fn refuse(&mut self, why: Refusal) {
        self.refusal.get_or_insert(why);
    }

    /// A relation whose rows the query reads.
    pub(super) fn add_relation(&mut self, relation: pg_sys::Oid) {
        if self.relations.contains(&relation) {
            return;
        }
        self.relations.push(relation);
        let name = || relation_name(relation);
        let refusal = |reason, text| Refusal::of_relation(reason, relation, text);
        if relation.to_u32() < pg_sys::FirstNormalObjectId {
            return self.refuse(refusal(Reason::Catalog, format!("{} belongs to PostgreSQL's catalogs", name())));
        }
        // SAFETY: lookups in the catalogs; 0 for what is not there.
        let (kind, is_temporary) = unsafe {
            let kind = pg_sys::get_rel_relkind(relation) as u8;
            (kind, kind != 0 && pg_sys::get_rel_persistence(relation) as u8 == pg_sys::RELPERSISTENCE_TEMP)
        };
        match kind {
            _ if is_temporary => {
                self.refuse(refusal(Reason::Temporary, format!("table {} is temporary", name())));
            }
            pg_sys::RELKIND_RELATION | pg_sys::RELKIND_MATVIEW if !is_heap(relation) => {
                let text = format!("table {} has another access method than heap", name());
                self.refuse(refusal(Reason::AccessMethod, text));
            }
            pg_sys::RELKIND_RELATION
            | pg_sys::RELKIND_MATVIEW
            | pg_sys::RELKIND_PARTITIONED_TABLE
            | pg_sys::RELKIND_VIEW => {}
            pg_sys::RELKIND_FOREIGN_TABLE => {
                self.refuse(refusal(Reason::Foreign, format!("table {} is foreign", name())));
            }
            pg_sys::RELKIND_SEQUENCE => self.refuse(refusal(Reason::Sequence, format!("{} is a sequence", name()))),
            _ => self.refuse(refusal(Reason::NoTable, format!("relation {} is no table", name()))),
        }
        self.add(DependencyKey::Relation { database: my_database(), relation: relation.to_u32() });
    }

    /// The name of a relation that the query may have named.
    pub(super) fn add_relation_name(&mut self, relation: pg_sys::Oid, path: &[pg_sys::Oid]) {
        // SAFETY: lookups in the catalogs; null or 0 for what is not there.
        unsafe {
            let (name, schema) = (pg_sys::get_rel_name(relation), pg_sys::get_rel_namespace(relation));
            if !name.is_null() {
                self.add_names(SysCacheIdentifier::RELNAMENSP, CStr::from_ptr(name), schema, path);
            }
        }
    }

    /// A type, if it is one of users or extensions: nobody changes PostgreSQL's own.
    pub(super) fn add_type(&mut self, oid: pg_sys::Oid) {
        if oid.to_u32() < pg_sys::FirstNormalObjectId {
            return;
        }
        self.add_catalog_entry(SysCacheIdentifier::TYPEOID, pg_sys::Datum::from(oid), pg_sys::Datum::null());
        // SAFETY: a lookup in the catalogs; 0 if it is no row.
        let row = unsafe { pg_sys::get_typ_typrelid(oid) };
        if row != pg_sys::InvalidOid {
            self.add(DependencyKey::Relation { database: my_database(), relation: row.to_u32() });
        }
    }

    /// The name of a type that the query may have named.
    pub(super) fn add_type_name(&mut self, oid: pg_sys::Oid, path: &[pg_sys::Oid]) {
        // SAFETY: rows of pg_type; a name ends with a NUL.
        let added = unsafe {
            syscache::with_form(SysCacheIdentifier::TYPEOID, oid, |row: &pg_sys::FormData_pg_type| {
                let name = CStr::from_ptr(row.typname.data.as_ptr());
                self.add_names(SysCacheIdentifier::TYPENAMENSP, name, row.typnamespace, path);
            })
        };
        if added.is_none() {
            let text = format!("type {} does not exist any more", types::name(oid));
            self.refuse(Refusal::of_type(Reason::DefinitionsChanged, oid, text));
        }
    }

    fn add_names(&mut self, cache: SysCacheIdentifier::Type, name: &CStr, schema: pg_sys::Oid, path: &[pg_sys::Oid]) {
        for before in path.iter().take_while(|before| **before != schema) {
            self.add_catalog_entry(cache, pg_sys::Datum::from(name.as_ptr()), pg_sys::Datum::from(*before));
        }
    }

    fn add_catalog_entry(&mut self, cache: SysCacheIdentifier::Type, first: pg_sys::Datum, second: pg_sys::Datum) {
        let none = pg_sys::Datum::null();
        // SAFETY: the keys are those of the cache.
        let hash = unsafe { pg_sys::GetSysCacheHashValue(cache as i32, first, second, none, none) };
        self.add_type_or_name(cache, hash);
    }

    /// What has this hash in a cache of types or of names.
    pub(super) fn add_type_or_name(&mut self, cache: SysCacheIdentifier::Type, hash: u32) {
        self.add(DependencyKey::CatalogEntry { database: my_database(), cache, hash });
    }
}

/// A relation's name, for a message; its number, if it is gone.
pub(super) fn relation_name(relation: pg_sys::Oid) -> String {
    // SAFETY: a lookup in the catalogs; null if there is none.
    unsafe {
        let name = pg_sys::get_rel_name(relation);
        if name.is_null() {
            return relation.to_u32().to_string();
        }
        encoding::name(CStr::from_ptr(name))
    }
}

/// A relation's name with its schema, for people.
pub(in crate::pg) fn qualified_name(relation: pg_sys::Oid) -> String {
    encoding::name(&qualified_name_here(relation))
}

/// The same in the database's encoding.
pub(super) fn qualified_name_here(relation: pg_sys::Oid) -> CString {
    // SAFETY: lookups in the catalogs; null if there is none.
    unsafe {
        let (name, schema) = (pg_sys::get_rel_name(relation), pg_sys::get_rel_namespace(relation));
        let schema = pg_sys::get_namespace_name(schema);
        if name.is_null() || schema.is_null() {
            return CString::new(relation.to_u32().to_string()).expect("digits");
        }
        CStr::from_ptr(pg_sys::quote_qualified_identifier(schema, name)).to_owned()
    }
}

fn is_heap(relation: pg_sys::Oid) -> bool {
    let is_heap = |class: &pg_sys::FormData_pg_class| class.relam == pg_sys::HEAP_TABLE_AM_OID;
    // SAFETY: rows of pg_class.
    unsafe { syscache::with_form(SysCacheIdentifier::RELOID, relation, is_heap) }.unwrap_or(false)
}

/// The schemas in which names are looked up, in that order.
pub(super) fn search_path() -> Vec<pg_sys::Oid> {
    // SAFETY: a list of OIDs, which is ours.
    unsafe {
        let list = pg_sys::fetch_search_path(true);
        let path = oids(list).collect();
        pg_sys::list_free(list);
        path
    }
}

/// Runs `take` with the schemas that the search path names, and that of temporary tables, 0 if there is none. Things that
/// name no schema are created in the first of them. Where names are looked up follows: in the temporary one and in
/// pg_catalog first, if they are not named.
pub(super) fn with_named_schemas<R>(
    take: impl FnOnce(&mut dyn ExactSizeIterator<Item = pg_sys::Oid>, pg_sys::Oid) -> R,
) -> R {
    // SAFETY: a list of OIDs, which is ours. If the temporary schema is named first it is made now, and so asked for after it.
    unsafe {
        let list = pg_sys::fetch_search_path(false);
        let (mut temporary, mut of_toast) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
        pg_sys::GetTempNamespaceState(&mut temporary, &mut of_toast);
        let taken = take(&mut oids(list), temporary);
        pg_sys::list_free(list);
        taken
    }
}
