//! Definitions created, changed and dropped: as the statements that a person could type, run as the superuser that
//! PostgreSQL was installed by. Whether the caller may is checked here first.
#![allow(unsafe_code)]

use std::fmt::Write as _;

use pgrx::pg_sys;
use pgrx::spi::{Spi, quote_identifier, quote_literal};

use super::options::{self, Options};
use super::{Access, Definition, current_role, schema};
use crate::pg::catalog::Catalog;
use crate::pg::error::CacheError;
use crate::pg::images;

/// Options as they are written.
pub(in crate::pg) type Written = Vec<(&'static str, String)>;

/// Defines a cache and makes its memory; `false` if there is one of this name.
///
/// # Errors
///
/// The options are wrong, or there is no memory. Where the transaction cannot write, PostgreSQL's error is raised.
pub(in crate::pg) fn create(name: &str, options: &Written) -> Result<bool, CacheError> {
    prevent_on_standby(c"create_cache()");
    // Whoever creates caches in this database waits for the others to end, and then sees what they have created.
    // SAFETY: takes a lock until the end of the transaction.
    unsafe {
        let lock = pg_sys::ShareUpdateExclusiveLock as pg_sys::LOCKMODE;
        pg_sys::LockDatabaseObject(pg_sys::NamespaceRelationId, schema()?, 0, lock);
    }
    if Definition::if_there(name)?.is_some() {
        return Ok(false);
    }
    // Said here, without the statement that the caller has not typed.
    Options::parse(options.iter().map(|(name, value)| (*name, value.as_str())))?;
    let mut list = String::new();
    for (option, value) in options {
        let comma = if list.is_empty() { "" } else { ", " };
        write!(list, "{comma}{option} {}", quote_literal(value)).expect("a string takes all");
    }
    let owner = current_role();
    as_installer(|| run(&format!("CREATE FOREIGN TABLE {} () SERVER shared_lru OPTIONS ({list})", qualified(name))));
    let definition = Definition::find(name)?;
    // SAFETY: the table is new and locked by this transaction.
    unsafe {
        let lock = pg_sys::AccessExclusiveLock as pg_sys::LOCKMODE;
        as_installer(|| pg_sys::ATExecChangeOwner(definition.relation, owner, false, lock));
        pg_sys::CommandCounterIncrement();
    }
    definition.memory()?;
    if definition.options()?.persist {
        images::warn_if_not_preloaded(name);
    }
    Ok(true)
}

/// Changes options: sets those with a value, takes away those without.
///
/// # Errors
///
/// There is no such cache, the caller may not, or the options are wrong.
pub(in crate::pg) fn alter(name: &str, changes: &[(&'static str, Option<String>)]) -> Result<(), CacheError> {
    prevent_on_standby(c"alter_cache()");
    let definition = owned(name)?;
    // SAFETY: there is such a foreign table.
    let before = unsafe { options::written((*pg_sys::GetForeignTable(definition.relation)).options) };
    let untouched = before.iter().filter(|(name, _)| changes.iter().all(|(changed, _)| changed != name));
    let untouched = untouched.map(|(name, value)| (name.as_str(), value.as_str()));
    let set = changes.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?)));
    Options::parse(untouched.chain(set))?;
    let mut list = String::new();
    for (option, value) in changes {
        let comma = if list.is_empty() { "" } else { ", " };
        let has = before.iter().any(|(name, _)| name == option);
        match value {
            Some(value) => {
                let verb = if has { "SET" } else { "ADD" };
                write!(list, "{comma}{verb} {option} {}", quote_literal(value)).expect("a string takes all");
            }
            None if has => write!(list, "{comma}DROP {option}").expect("a string takes all"),
            None => {}
        }
    }
    if list.is_empty() {
        return Ok(());
    }
    as_installer(|| run(&format!("ALTER FOREIGN TABLE {} OPTIONS ({list})", qualified(name))));
    definition.note_altered();
    // Said now: nobody is there to be told when the memory follows.
    let Options { config: wanted, persist, .. } = definition.options()?;
    images::note_altered(definition.number);
    if persist && changes.iter().any(|(name, _)| *name == "persist") {
        images::warn_if_not_preloaded(name);
    }
    let catalog = Catalog::open()?;
    let now = definition.memory()?.1.resolved();
    if wanted.resolve()? != now {
        catalog.room_for(wanted.region_bytes()?)?;
    }
    Ok(())
}

/// Gives a cache another name.
///
/// # Errors
///
/// There is no such cache, there is one of the new name, or the caller may not.
pub(in crate::pg) fn rename(name: &str, new_name: &str) -> Result<(), CacheError> {
    prevent_on_standby(c"rename_cache()");
    let definition = owned(name)?;
    if Definition::if_there(new_name)?.is_some() {
        return Err(CacheError::Exists(new_name.to_owned()));
    }
    let new = quote_identifier(new_name);
    as_installer(|| run(&format!("ALTER FOREIGN TABLE {} RENAME TO {new}", qualified(&definition.name))));
    Ok(())
}

/// Drops a definition; `false` if there is none. The memory is freed when the transaction has committed.
///
/// # Errors
///
/// The caller may not.
pub(in crate::pg) fn drop_cache(name: &str) -> Result<bool, CacheError> {
    if Definition::if_there(name)?.is_none() {
        return Ok(false);
    }
    prevent_on_standby(c"drop_cache()");
    owned(name)?;
    as_installer(|| run(&format!("DROP FOREIGN TABLE {}", qualified(name))));
    Ok(true)
}

/// What a role is to get or to lose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::pg) enum Change {
    Grant,
    Revoke,
}

/// Grants or revokes the privileges that one of the words `read`, `write` and `own` stands for.
///
/// # Errors
///
/// There is no such cache, no such word, or the caller may not.
pub(in crate::pg) fn change_privileges(change: Change, name: &str, role: &str, what: &str) -> Result<(), CacheError> {
    prevent_on_standby(c"grant_cache()");
    owned(name)?;
    let privileges = match what {
        "read" => "SELECT",
        "write" => "INSERT",
        "own" => "SELECT, INSERT, TRUNCATE",
        _ => {
            return Err(CacheError::Parameter(format!("\"{what}\" is no privilege of a cache: read, write or own is")));
        }
    };
    let role = if role == "public" { "PUBLIC".to_owned() } else { quote_identifier(role) };
    let (verb, to) = match change {
        Change::Grant => ("GRANT", "TO"),
        Change::Revoke => ("REVOKE", "FROM"),
    };
    as_installer(|| run(&format!("{verb} {privileges} ON {} {to} {role}", qualified(name))));
    Ok(())
}

/// A definition that the caller may change.
fn owned(name: &str) -> Result<Definition, CacheError> {
    let definition = Definition::find(name)?;
    definition.check(Access::Own)?;
    Ok(definition)
}

fn qualified(name: &str) -> String {
    format!("{}.{}", super::SCHEMA.to_str().expect("ASCII"), quote_identifier(name))
}

fn run(statement: &str) {
    if let Err(error) = Spi::run(statement) {
        CacheError::Statement(error.to_string()).report();
    }
}

/// Raises PostgreSQL's error where nothing can be written.
fn prevent_on_standby(function: &std::ffi::CStr) {
    // SAFETY: NUL-terminated; may raise an error, and nothing is held.
    unsafe {
        pg_sys::PreventCommandIfReadOnly(function.as_ptr());
        pg_sys::PreventCommandDuringRecovery(function.as_ptr());
    }
}

/// Runs `work` as the superuser that PostgreSQL was installed by, who looks for names in the catalogs only: an event trigger
/// runs as that role, too, and must find nothing of the caller's. An error ends the transaction, which restores role and
/// settings.
fn as_installer<R>(work: impl FnOnce() -> R) -> R {
    let (mut role, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: reads and writes variables of this process's only thread; 10 is the role's OID in every cluster. The setting
    // is one that everybody may set.
    let level = unsafe {
        pg_sys::GetUserIdAndSecContext(&mut role, &mut context);
        let local = pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32;
        pg_sys::SetUserIdAndSecContext(pg_sys::Oid::from(pg_sys::BOOTSTRAP_SUPERUSERID), context | local);
        let level = pg_sys::NewGUCNestLevel();
        pg_sys::set_config_option(
            c"search_path".as_ptr(),
            c"pg_catalog, pg_temp".as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        );
        level
    };
    let result = work();
    // SAFETY: as above; the level is the one begun there.
    unsafe {
        pg_sys::AtEOXact_GUC(false, level);
        pg_sys::SetUserIdAndSecContext(role, context);
    }
    result
}
