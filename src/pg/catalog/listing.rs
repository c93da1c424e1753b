//! What the catalog says of a cache, and what it is told of a new one.
//!
//! A [`Listing`] is of one life of a slot: the cache may be dropped later, or moved, which `Catalog::has` tells.

use crate::pg::error::CacheError;
use crate::pg::slot::{CacheId, CacheSlot, Life, MAX_NAME_BYTES, Name, SlotIdentity};

/// One cache of the area.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Its name.
    pub name: String,
    /// OID of its database.
    pub database: u32,
    /// OID of the role that created it.
    pub owner: u32,
    /// The number of what defines it, if not its name.
    pub definition: Option<u64>,
    /// Bytes of its memory.
    pub bytes: usize,
    pub(in crate::pg) slot: usize,
    pub(in crate::pg) life: Life,
}

impl Listing {
    /// What names it in its database.
    pub fn id(&self) -> CacheId<'_> {
        self.definition.map_or(CacheId::Name(&self.name), CacheId::Definition)
    }
}

/// A slot with a cache in it, as it was under the catalog's lock, where nothing is allocated.
pub(super) struct Occupied {
    index: usize,
    life: Life,
    identity: SlotIdentity,
    bytes: usize,
}

impl Occupied {
    /// What is in a slot. Under the catalog's lock.
    pub(super) fn new(index: usize, slot: &CacheSlot, life: Life) -> Occupied {
        Occupied { index, life, identity: slot.identity(), bytes: slot.memory().bytes }
    }

    /// Whether it is the cache that `id` names in a database.
    pub(super) fn is(&self, database: u32, id: CacheId<'_>) -> bool {
        self.identity.is(database, id)
    }

    /// The cache, for who asks.
    pub(super) fn into_listing(self) -> Listing {
        let SlotIdentity { database, owner, definition, name } = self.identity;
        let definition = (definition != 0).then_some(definition);
        Listing { name: name.into(), database, owner, definition, bytes: self.bytes, slot: self.index, life: self.life }
    }
}

/// Whose cache is to be created, and what names it.
#[derive(Clone, Copy, Debug)]
pub struct NewCache<'a> {
    /// OID of its database.
    pub database: u32,
    /// OID of the role that it belongs to.
    pub owner: u32,
    /// Its name, of 1 to 63 bytes.
    pub name: &'a str,
    /// The number of what defines it, if not its name; not 0.
    pub definition: Option<u64>,
}

impl<'a> NewCache<'a> {
    /// A cache that is known by its name.
    pub fn named(database: u32, owner: u32, name: &'a str) -> Self {
        NewCache { database, owner, name, definition: None }
    }

    pub(super) fn identity(self) -> Result<SlotIdentity, CacheError> {
        let refused = || CacheError::Name { given: self.name.len(), max: MAX_NAME_BYTES };
        let name = Name::new(self.name).ok_or_else(refused)?;
        let definition = self.definition.unwrap_or(0);
        Ok(SlotIdentity { database: self.database, owner: self.owner, definition, name })
    }

    pub(super) fn id(&self) -> CacheId<'_> {
        self.definition.map_or(CacheId::Name(self.name), CacheId::Definition)
    }
}
