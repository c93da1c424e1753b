//! Why a result is not kept, as it is passed on: the reason that is counted, what it names, and a text for people.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::fmt;

use pgrx::pg_sys;

use super::relations;
use crate::pg::catalog::Catalog;
use crate::pg::definitions::{self, Access, DefinedCache};
use crate::pg::error::CacheError;
use crate::pg::refusals::{Object, Reason};
use crate::pg::stored::MAX_DEPENDENCIES;

/// Why a result is not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) reason: Reason,
    object: Option<Object>,
    text: String,
}

impl Refusal {
    pub(super) fn new(reason: Reason, text: impl Into<String>) -> Refusal {
        Refusal { reason, object: None, text: text.into() }
    }

    pub(super) fn of_function(reason: Reason, function: pg_sys::Oid, text: impl Into<String>) -> Refusal {
        Refusal { object: Some(Object::Function(function.to_u32())), ..Refusal::new(reason, text) }
    }

    pub(super) fn of_relation(reason: Reason, relation: pg_sys::Oid, text: impl Into<String>) -> Refusal {
        Refusal { object: Some(Object::Relation(relation.to_u32())), ..Refusal::new(reason, text) }
    }

    pub(super) fn of_type(reason: Reason, of_type: pg_sys::Oid, text: impl Into<String>) -> Refusal {
        Refusal { object: Some(Object::Type(of_type.to_u32())), ..Refusal::new(reason, text) }
    }

    /// With more to say.
    pub(super) fn and(mut self, more: &str) -> Refusal {
        self.text.push_str(more);
        self
    }

    pub(super) fn too_large() -> Refusal {
        Refusal::new(Reason::TooLarge, "it is too large for the cache")
    }

    pub(super) fn too_many() -> Refusal {
        let text = format!("it depends on more than {MAX_DEPENDENCIES} relations, types and names");
        Refusal::new(Reason::TooLarge, text)
    }

    pub(super) fn no_memory() -> Refusal {
        Refusal::new(Reason::NotStored, "there is no memory to look after the functions in it")
    }

    pub(super) fn not_for_this_snapshot() -> Refusal {
        Refusal::new(Reason::NotForThisSnapshot, "a result is kept that this snapshot may not see")
    }

    pub(super) fn serializable() -> Refusal {
        Refusal::new(Reason::Serializable, "the transaction is SERIALIZABLE")
    }

    pub(super) fn sampling() -> Refusal {
        Refusal::new(Reason::Sample, "gin_fuzzy_search_limit leaves rows out at random")
    }

    pub(super) fn written() -> Refusal {
        Refusal::new(Reason::Written, "the transaction has written")
    }

    pub(super) fn being_changed() -> Refusal {
        Refusal::new(Reason::BeingChanged, "what it depends on is being changed")
    }

    /// Counts it for a cache that is in hand.
    pub(super) fn count_in(&self, cache: &DefinedCache) {
        if let Some(catalog) = Catalog::mapped() {
            catalog.ledger(cache.tenant).refusals.count(self.reason, self.object);
        }
    }

    /// Counts it for the cache of this name, if there is one that the current role may read.
    pub(super) fn count(&self, cache: &str) {
        if let Ok(cache) = definitions::find(cache, Access::Read) {
            self.count_in(&cache);
        }
    }

    /// As a text of one line, for a plan.
    pub(super) fn to_plan(&self) -> String {
        format!("{} {} {}", self.reason.name(), self.object.map_or(0, Object::to_u64), self.text)
    }

    /// What [`Refusal::to_plan`] made; `None` if nothing did.
    pub(super) fn from_plan(plan: &str) -> Option<Refusal> {
        let mut parts = plan.splitn(3, ' ');
        let (name, object, text) = (parts.next()?, parts.next()?, parts.next()?);
        let reason = *Reason::ALL.iter().find(|reason| reason.name() == name)?;
        Some(Refusal { reason, object: Object::from_u64(object.parse().ok()?), text: text.to_owned() })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<CacheError> for Refusal {
    fn from(error: CacheError) -> Refusal {
        let reason = match error {
            CacheError::Privilege { .. } => Reason::NoRight,
            _ => Reason::NotStored,
        };
        Refusal::new(reason, error.to_string())
    }
}

/// The name of an object, with its schema; its number, if it is gone.
pub(in crate::pg) fn name_of_object(object: Object) -> Vec<u8> {
    match object {
        Object::Relation(oid) => relations::qualified_name_here(oid.into()).into_bytes(),
        // SAFETY: NUL-terminated texts in the current memory context, whatever the number is.
        Object::Function(oid) => unsafe {
            CStr::from_ptr(pg_sys::format_procedure_qualified(oid.into())).to_bytes().to_vec()
        },
        // SAFETY: as above.
        Object::Type(oid) => unsafe {
            let flags = pg_sys::FORMAT_TYPE_FORCE_QUALIFY | pg_sys::FORMAT_TYPE_ALLOW_INVALID;
            CStr::from_ptr(pg_sys::format_type_extended(oid.into(), -1, flags as pg_sys::bits16)).to_bytes().to_vec()
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_comes_back_from_a_plan() {
        for refusal in [
            Refusal::new(Reason::Off, "the query cache is off"),
            Refusal::of_function(Reason::Stable, 7.into(), "function \"a b\" is STABLE"),
        ] {
            assert_eq!(Refusal::from_plan(&refusal.to_plan()), Some(refusal));
        }
        assert_eq!(Refusal::from_plan("nonsense 0 text"), None);
    }
}
