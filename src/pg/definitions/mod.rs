//! The caches of SQL: what defines them, the memory that follows, and who may use it. docs/definitions.md says why it is
//! so.
//!
//! ```text
//! options   the options of a definition
//! statements   definitions created, changed and dropped
//! ```
//!
//! A definition is a foreign table; each backend looks it up once, and again when PostgreSQL says that something about it
//! or the roles has changed. Then one local lookup, and one load of the slot's life, lead from a name to the cache.
//!
//! Locking: no lock of the area is held while the catalogs are read.
#![allow(unsafe_code)]

pub(super) mod options;
pub(super) mod statements;

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString, c_char};
use std::ops::{ControlFlow, Deref};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use hashbrown::HashMap;
use pgrx::{PgSqlErrorCode, PgTryBuilder, pg_guard, pg_sys};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use self::options::{Options, ResultOptions};
use super::accounts::Tenant;
use super::catalog::{CacheId, Catalog, Listing, NewCache};
use super::drops;
use super::error::CacheError;
use super::handles::{self, AttachedCache};
use super::images::{self, Restoration};
use super::named_locks::{LwLocks, sleep_a_moment};
use super::worker;
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
    pub(super) results: ResultOptions,
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

/// A cache that this backend has looked up.
struct Known {
    relation: pg_sys::Oid,
    listing: Listing,
    cache: DefinedCache,
    /// The role that was asked about last, and what it may do.
    role: pg_sys::Oid,
    allowed: u64,
}

thread_local! {
    static KNOWN: RefCell<HashMap<String, Known>> = RefCell::default();
    /// Something has changed: what is known may be wrong.
    static STALE: Cell<bool> = const { Cell::new(false) };
    static WATCHES_CHANGES: Cell<bool> = const { Cell::new(false) };
    /// Definitions that the current transaction has altered; their memory follows when it has committed.
    static ALTERED: RefCell<Vec<(pg_sys::TransactionId, pg_sys::Oid)>> = const { RefCell::new(Vec::new()) };
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

/// The cache of this name, for a role that may do this with it. Made, if its memory is not there.
///
/// # Errors
///
/// No cache is defined by this name, the current role may not, or there is no memory for it.
pub(super) fn find(name: &str, access: Access) -> Result<DefinedCache, CacheError> {
    watch_changes();
    if STALE.replace(false) {
        KNOWN.with_borrow_mut(HashMap::clear);
    }
    let known = KNOWN.with_borrow(|known| {
        let known = known.get(name)?;
        let role = current_role();
        let may = known.role == role && known.allowed & access.mask() == access.mask();
        (may && Catalog::mapped()?.has(&known.listing)).then(|| known.cache.clone())
    });
    match known {
        Some(cache) => Ok(cache),
        None => look_up(name, access),
    }
}

fn look_up(name: &str, access: Access) -> Result<DefinedCache, CacheError> {
    // A long statement learns of what others have committed only if it asks.
    // SAFETY: inside of a transaction, holding no lock.
    unsafe { pg_sys::AcceptInvalidationMessages() };
    // Where there can be no cache, that is what there is to say.
    Catalog::existing()?;
    let definition = Definition::find(name)?;
    let (role, allowed) = (current_role(), definition.allowed());
    if allowed & access.mask() != access.mask() {
        return Err(CacheError::Privilege { cache: name.to_owned(), needed: access.verb() });
    }
    let (listing, cache) = loop {
        // It may be made anew or moved while it is looked at, too.
        if let Some(found) = unless_dropped(|| definition.memory()) {
            break found?;
        }
    };
    let results = definition.options()?.results;
    let cache = DefinedCache { cache, number: definition.number, tenant: listing.tenant(), results };
    let known = Known { relation: definition.relation, listing, cache: cache.clone(), role, allowed };
    KNOWN.with_borrow_mut(|all| all.insert(name.to_owned(), known));
    Ok(cache)
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

    /// The memory that it defines: found, or made.
    ///
    /// # Errors
    ///
    /// There is none, and none can be had.
    pub(super) fn memory(&self) -> Result<(Listing, AttachedCache), CacheError> {
        let catalog = Catalog::open()?;
        let database = handles::my_database();
        let wanted = self.options()?;
        let mut may_follow = true;
        loop {
            let Some(listing) = catalog.find(database, CacheId::Definition(self.number)) else {
                match self.make(catalog, &wanted) {
                    Ok(()) => {}
                    // Another backend is making it.
                    Err(CacheError::Exists(_)) => sleep_a_moment(),
                    Err(error) => return Err(error),
                }
                continue;
            };
            let cache = match handles::of_listing(catalog, listing.clone()) {
                Ok(cache) => cache,
                Err(CacheError::Dropped) => continue,
                Err(error) => return Err(error),
            };
            if listing.name != self.name {
                catalog.rename(&listing, &self.name);
            }
            let follows = || {
                let is_same = wanted.config.resolve()? == cache.resolved() && wanted.ttl == cache.default_ttl();
                Ok::<_, CacheError>(is_same && wanted.persist == catalog.persists(&listing))
            };
            if std::mem::take(&mut may_follow) && !follows()? {
                self.follow(catalog, &listing, &cache);
                continue;
            }
            return Ok((listing, cache));
        }
    }

    /// Makes memory for the cache, with what its image has. Who is about to drop or alter the definition is waited for. Where
    /// the statement is interrupted, nothing is made.
    fn make(&self, catalog: Catalog, wanted: &Options) -> Result<(), CacheError> {
        let lock = pg_sys::AccessShareLock as i32;
        // SAFETY: takes a lock inside of a transaction; what is in the catalogs by then is seen.
        unsafe { pg_sys::LockRelationOid(self.relation, lock) };
        let mut restoration = Restoration::NoImage;
        let made = if drops::is_defined(self.number) {
            let owner = owner_of(self.relation).unwrap_or(current_role()).to_u32();
            let database = handles::my_database();
            let new = NewCache { database, owner, name: &self.name, definition: Some(self.number) };
            catalog.create_filled(new, &wanted.config, |cache, words| {
                words.set_persists(wanted.persist);
                if !wanted.persist {
                    images::remove(self.number);
                    return ControlFlow::Continue(());
                }
                restoration = images::restore(catalog.area(), self.number, cache);
                match &restoration {
                    Restoration::Interrupted => return ControlFlow::Break(()),
                    Restoration::Restored(saved) => words.set_saved(*saved),
                    Restoration::NoImage | Restoration::Refused(_) => {}
                }
                ControlFlow::Continue(())
            })
        } else {
            Err(CacheError::Unknown(self.name.clone()))
        };
        if made.as_ref().is_ok_and(ControlFlow::is_continue) {
            // A cache that has an image was there before this transaction, and stays if that is rolled back.
            if !matches!(restoration, Restoration::Restored(_)) {
                drops::note_made(self.number);
            }
            worker::start_if_missing(catalog.area());
        }
        // SAFETY: the lock that was taken.
        unsafe { pg_sys::UnlockRelationOid(self.relation, lock) };
        match restoration {
            Restoration::Interrupted => {
                pgrx::check_for_interrupts!();
            }
            Restoration::Refused(reason) => images::warn_of_refusal(&self.name, &reason),
            Restoration::NoImage | Restoration::Restored(_) => {}
        }
        made.map(drop)
    }

    /// Makes the memory, if there may be an image that somebody reads later: what is invalidated now has to be gone then.
    ///
    /// # Errors
    ///
    /// As [`Definition::memory`].
    pub(super) fn restore_first(&self, catalog: Catalog) -> Result<(), CacheError> {
        if images::before_invalidating(catalog, self.number) {
            self.memory()?;
        }
        Ok(())
    }

    /// Makes the memory as the definition wants it, unless that is about to change. What goes wrong is logged: the cache is
    /// in use as it is.
    fn follow(&self, catalog: Catalog, listing: &Listing, cache: &AttachedCache) {
        if self.is_altered_here() {
            return;
        }
        // SAFETY: takes a lock, or does not, inside of a transaction.
        if !unsafe { pg_sys::ConditionalLockRelationOid(self.relation, pg_sys::AccessShareLock as i32) } {
            return;
        }
        // What was read before the lock was had may have changed.
        let followed = match self.options() {
            Ok(wanted) if drops::is_defined(self.number) => {
                if wanted.persist != catalog.persists(listing) {
                    images::set_persists(catalog, self.number, wanted.persist);
                }
                match wanted.config.resolve() {
                    Ok(resolved) if resolved == cache.resolved() => {
                        cache.set_default_ttl(wanted.ttl).map_err(CacheError::from)
                    }
                    Ok(_) => catalog.remake(listing, &wanted.config).map(drop),
                    Err(error) => Err(error.into()),
                }
            }
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        // SAFETY: the lock that was taken.
        unsafe { pg_sys::UnlockRelationOid(self.relation, pg_sys::AccessShareLock as i32) };
        if let Err(error) = followed {
            pgrx::log!("cache \"{}\" stays as it was made: {error}", self.name);
        }
    }

    fn is_altered_here(&self) -> bool {
        // SAFETY: reads what the current transaction is.
        let transaction = unsafe { pg_sys::GetTopTransactionIdIfAny() };
        ALTERED.with_borrow(|altered| altered.contains(&(transaction, self.relation)))
    }

    /// Notes that the current transaction alters it.
    pub(super) fn note_altered(&self) {
        // SAFETY: as above; the transaction has written, so it has a number.
        let transaction = unsafe { pg_sys::GetTopTransactionIdIfAny() };
        ALTERED.with_borrow_mut(|altered| {
            altered.retain(|(of, _)| *of == transaction);
            altered.push((transaction, self.relation));
        });
        STALE.set(true);
    }
}

/// Drops the caches that nobody can reach any more: of databases that are gone, and of definitions of this database that
/// are gone while nobody is about to make or drop them.
pub(super) fn drop_orphans(catalog: Catalog) {
    catalog.drop_orphans(|cache| is_orphan(cache.database, cache.definition));
    images::remove_where(|database, definition| is_orphan(database, Some(definition)));
}

fn is_orphan(database: u32, definition: Option<u64>) -> bool {
    match definition {
        // SAFETY: a lookup in the catalogs; the name is palloc'd and goes with the memory context.
        _ if database != handles::my_database() => unsafe {
            pg_sys::get_database_name(pg_sys::Oid::from(database)).is_null()
        },
        Some(definition) => {
            let relation = drops::relation_of(definition);
            // Who has created or dropped it, and has not committed, holds a lock on it.
            // SAFETY: takes a lock, or does not, and gives it back.
            unsafe {
                let lock = pg_sys::AccessShareLock as i32;
                let free = !drops::is_defined(definition) && pg_sys::ConditionalLockRelationOid(relation, lock);
                free && {
                    pg_sys::UnlockRelationOid(relation, lock);
                    !drops::is_defined(definition)
                }
            }
        }
        None => false,
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
    // SAFETY: a lookup in the catalogs; the tuple is released.
    unsafe {
        let class = pg_sys::SysCacheIdentifier::RELOID as i32;
        let tuple = pg_sys::SearchSysCache1(class, pg_sys::Datum::from(relation));
        if tuple.is_null() {
            return None;
        }
        let owner = (*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_class>()).relowner;
        pg_sys::ReleaseSysCache(tuple);
        Some(owner)
    }
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

/// From now on this backend hears of changes.
fn watch_changes() {
    if WATCHES_CHANGES.replace(true) {
        return;
    }
    let roles = [pg_sys::SysCacheIdentifier::AUTHMEMROLEMEM, pg_sys::SysCacheIdentifier::AUTHOID];
    // SAFETY: the callbacks have the right types and live as long as the library.
    unsafe {
        pg_sys::CacheRegisterRelcacheCallback(Some(on_relation_change), pg_sys::Datum::from(0));
        for cache in roles {
            pg_sys::CacheRegisterSyscacheCallback(cache as i32, Some(on_role_change), pg_sys::Datum::from(0));
        }
    }
}

/// Called wherever PostgreSQL takes note of invalidations; 0: of all relations.
#[pg_guard]
unsafe extern "C-unwind" fn on_relation_change(_argument: pg_sys::Datum, relation: pg_sys::Oid) {
    let concerns = KNOWN.with(|known| match known.try_borrow() {
        Ok(known) => relation == pg_sys::InvalidOid || known.values().any(|known| known.relation == relation),
        Err(_) => true,
    });
    if concerns {
        STALE.set(true);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_role_change(_argument: pg_sys::Datum, _cache: i32, _hash: u32) {
    STALE.set(true);
}
