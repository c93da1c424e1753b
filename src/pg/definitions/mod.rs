//! The caches of SQL: what defines them, the memory that follows, and who may use it. docs/definitions.md says why it is
//! so.
//!
//! ```text
//! options      the options of a definition
//! statements   definitions created, changed and dropped
//! known        what this backend has looked up
//! memory       the memory that follows a definition
//! orphans      memory whose definition is gone
//! ```
//!
//! A definition is a foreign table; each backend looks it up once, and again when PostgreSQL says that something about it
//! or the roles has changed. Then one local lookup, and one load of the slot's life, lead from a name to the cache.
//!
//! Locking: no lock of the area is held while the catalogs are read.
#![allow(unsafe_code)]

mod known;
mod memory;
pub(super) mod options;
mod orphans;
pub(super) mod statements;

use std::ffi::{CStr, CString, c_char};
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;

use pgrx::{PgSqlErrorCode, PgTryBuilder, pg_sys};
use xxhash_rust::xxh3::xxh3_64_with_seed;

pub(super) use self::known::find;
use self::options::{Options, ResultOptions};
pub(super) use self::orphans::drop_orphans;
use super::accounts::Tenant;
use super::drops;
use super::error::CacheError;
use super::handles::AttachedCache;
use super::named_locks::LwLocks;
use super::syscache;
use crate::shared::cache::SharedCache;

/// The schema of the foreign tables, and their server.
pub(super) const SCHEMA: &CStr = c"shared_lru_caches";
pub(super) const SERVER: &CStr = c"shared_lru";

/// What a caller wants to do with a cache; each is a privilege on the foreign table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Look at keys and values.
    Read = pg_sys::ACL_SELECT as isize,
    /// Store and remove.
    Write = pg_sys::ACL_INSERT as isize,
    /// Take out.
    ReadAndWrite = (pg_sys::ACL_SELECT | pg_sys::ACL_INSERT) as isize,
    /// Change the definition.
    Own = pg_sys::ACL_TRUNCATE as isize,
}

impl Access {
    fn mask(self) -> u64 {
        self as u64
    }

    fn verb(self) -> &'static str {
        match self {
            Access::Read => "read",
            Access::Write => "write",
            Access::ReadAndWrite => "read and write",
            Access::Own => "change or drop",
        }
    }
}

/// A cache, and what defines it.
#[derive(Clone, Debug)]
pub(super) struct DefinedCache {
    cache: AttachedCache,
    /// The number of the definition.
    pub(super) number: u64,
    /// What names it in the catalog, while its memory is this.
    pub(super) tenant: Tenant,
    /// What its definition says of results of queries.
    pub(super) results: Rc<ResultOptions>,
}

impl DefinedCache {
    /// What names a key of this cache in tokens that SQL gets: no other key, cache, or life of the cache's memory has it.
    pub(super) fn check_of(&self, key: &[u8]) -> u64 {
        xxh3_64_with_seed(key, self.incarnation() ^ self.number)
    }
}

impl Deref for DefinedCache {
    type Target = SharedCache<LwLocks>;

    fn deref(&self) -> &Self::Target {
        &self.cache
    }
}

/// Runs an operation on a cache; again, if the cache was made anew or moved in the middle of it. `operation` has done
/// nothing by then that may not be done twice.
pub(super) fn with_cache<R>(
    name: &str,
    access: Access,
    mut operation: impl FnMut(&DefinedCache) -> R,
) -> Result<R, CacheError> {
    loop {
        let cache = find(name, access)?;
        if let Some(done) = unless_dropped(|| operation(&cache)) {
            return Ok(done);
        }
    }
}

/// Runs `work`; `None` if the memory that it used was no longer the cache's.
pub(super) fn unless_dropped<R>(work: impl FnOnce() -> R) -> Option<R> {
    // What it takes to look at an error is made where there is one: a lookup costs less than that.
    let raised = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => return Some(done),
        Err(raised) => raised,
    };
    // Raised where no lock is held, by this library; nothing of PostgreSQL's has to be cleaned up for it.
    PgTryBuilder::new(AssertUnwindSafe(|| resume_unwind(raised)))
        .catch_when(PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT, |_| None)
        .execute()
}

fn current_role() -> pg_sys::Oid {
    // SAFETY: reads a variable of this process's only thread.
    unsafe { pg_sys::GetUserId() }
}

/// What defines a cache.
pub(super) struct Definition {
    pub(super) relation: pg_sys::Oid,
    pub(super) name: String,
    /// The number that names it in the area.
    number: u64,
}

impl Definition {
    /// The definition of this name.
    ///
    /// # Errors
    ///
    /// There is none.
    pub(super) fn find(name: &str) -> Result<Definition, CacheError> {
        Definition::if_there(name)?.ok_or_else(|| CacheError::Unknown(name.to_owned()))
    }

    /// The definition of this name, if there is one.
    ///
    /// # Errors
    ///
    /// The extension's SQL in this database knows no definitions.
    pub(super) fn if_there(name: &str) -> Result<Option<Definition>, CacheError> {
        let schema = schema()?;
        let Ok(c_name) = CString::new(name) else { return Ok(None) };
        // SAFETY: lookups in the catalogs, inside of a transaction, by a NUL-terminated name.
        unsafe {
            let relation = pg_sys::get_relname_relid(c_name.as_ptr(), schema);
            if relation == pg_sys::InvalidOid
                || pg_sys::get_rel_relkind(relation) != pg_sys::RELKIND_FOREIGN_TABLE as c_char
                || pg_sys::GetForeignServerIdByRelId(relation) != pg_sys::get_foreign_server_oid(SERVER.as_ptr(), true)
            {
                return Ok(None);
            }
            Ok(Some(Definition { relation, name: name.to_owned(), number: drops::definition_of(relation) }))
        }
    }

    /// Its number.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The privileges of the current role.
    fn allowed(&self) -> u64 {
        let all = Access::ReadAndWrite.mask() | Access::Own.mask();
        let has = |privilege: &u64| all & privilege != 0 && has_privilege(self.relation, *privilege);
        (0..u64::BITS).map(|bit| 1 << bit).filter(has).sum()
    }

    /// Whether the current role may do this.
    ///
    /// # Errors
    ///
    /// It may not.
    pub(super) fn check(&self, access: Access) -> Result<(), CacheError> {
        match self.allowed() & access.mask() == access.mask() {
            true => Ok(()),
            false => Err(CacheError::Privilege { cache: self.name.clone(), needed: access.verb() }),
        }
    }

    /// What it says of the cache.
    ///
    /// # Errors
    ///
    /// Another release wrote what this one does not understand.
    pub(super) fn options(&self) -> Result<Options, CacheError> {
        // SAFETY: there is such a foreign table; its options are as the catalogs have them.
        unsafe { Options::of_table((*pg_sys::GetForeignTable(self.relation)).options) }
    }
}

/// Whether the contents of a cache are kept, as its definition says at this moment; `None`: there is none, or it cannot be read.
pub(super) fn says_persist(definition: u64) -> Option<bool> {
    let relation = drops::relation_of(definition);
    // SAFETY: there is such a foreign table; its options are as the catalogs have them.
    let options = || unsafe { Options::of_table((*pg_sys::GetForeignTable(relation)).options) };
    drops::is_defined(definition).then(options)?.ok().map(|options| options.persist)
}

/// Whether the current role may read the cache of this number; not if there is none.
pub(super) fn may_read(number: u64) -> bool {
    drops::is_defined(number) && has_privilege(drops::relation_of(number), Access::Read.mask())
}

/// Whether the current role has these privileges on a foreign table, which is there.
fn has_privilege(relation: pg_sys::Oid, mask: u64) -> bool {
    // SAFETY: a lookup in the catalogs.
    let result = unsafe { pg_sys::pg_class_aclcheck(relation, current_role(), mask as pg_sys::AclMode) };
    result == pg_sys::AclResult::ACLCHECK_OK
}

/// The role that owns a foreign table; `None` if there is none.
pub(super) fn owner_of(relation: pg_sys::Oid) -> Option<pg_sys::Oid> {
    let owner = |class: &pg_sys::FormData_pg_class| class.relowner;
    // SAFETY: rows of pg_class.
    unsafe { syscache::with_form(pg_sys::SysCacheIdentifier::RELOID, relation, owner) }
}

/// The schema of the definitions.
///
/// # Errors
///
/// The extension's SQL in this database is of a release that has none.
pub(super) fn schema() -> Result<pg_sys::Oid, CacheError> {
    // SAFETY: a lookup in the catalogs, by a NUL-terminated name.
    match unsafe { pg_sys::get_namespace_oid(SCHEMA.as_ptr(), true) } {
        pg_sys::InvalidOid => Err(CacheError::OldScript),
        schema => Ok(schema),
    }
}
