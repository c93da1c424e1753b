//! What a result can depend on, hashed.
//!
//! Lines have no keys: a key's hash names its line. Keys that share a line share what happens to it, so a collision
//! costs a result that was still right, and never serves a wrong one.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The same in every process and build, so that lines can be compared over a restart.
const SEED: u64 = u64::from_le_bytes(*b"commits!");

/// Something that a result depends on. Numbers of databases, relations and caches are PostgreSQL's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DependencyKey<'a> {
    /// Rows and definition of a relation.
    Relation {
        /// Its database.
        database: u32,
        /// Its OID.
        relation: u32,
    },
    /// An entry of one of PostgreSQL's catalog caches, such as a name in a schema.
    CatalogEntry {
        /// Its database; 0 for shared catalogs.
        database: u32,
        /// The cache's number.
        cache: u32,
        /// The hash by which PostgreSQL announces changes of the entry.
        hash: u32,
    },
    /// Functions, operators, casts and types of a database, taken together.
    Code {
        /// The database.
        database: u32,
    },
    /// Roles and their memberships.
    Roles,
    /// A name of the user's, by which results are invalidated.
    Tag {
        /// Which cache's tag it is: a number that no other cache ever has.
        cache: u64,
        /// The name.
        tag: &'a [u8],
    },
}

impl DependencyKey<'_> {
    /// The key's hash: XXH3 with a fixed seed.
    pub fn hash(&self) -> DependencyHash {
        let pair = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
        let words: [u64; 3] = match *self {
            DependencyKey::Relation { database, relation } => [1, pair(database, relation), 0],
            DependencyKey::CatalogEntry { database, cache, hash } => [2, pair(database, cache), u64::from(hash)],
            DependencyKey::Code { database } => [3, u64::from(database), 0],
            DependencyKey::Roles => [4, 0, 0],
            DependencyKey::Tag { cache, tag } => [5, cache, xxh3_64_with_seed(tag, SEED)],
        };
        DependencyHash(xxh3_64_with_seed(bytemuck::bytes_of(&words.map(u64::to_le)), SEED))
    }
}

/// A dependency key's hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DependencyHash(pub(super) u64);

impl DependencyHash {
    /// The number, as a line notes it.
    pub fn get(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_differ_in_kind_or_in_one_part_have_different_hashes() {
        let keys = [
            DependencyKey::Relation { database: 1, relation: 2 },
            DependencyKey::Relation { database: 2, relation: 1 },
            DependencyKey::Relation { database: 0, relation: 1 },
            DependencyKey::CatalogEntry { database: 1, cache: 2, hash: 0 },
            DependencyKey::CatalogEntry { database: 1, cache: 2, hash: 3 },
            DependencyKey::CatalogEntry { database: 2, cache: 1, hash: 3 },
            DependencyKey::Code { database: 0 },
            DependencyKey::Code { database: 1 },
            DependencyKey::Roles,
            DependencyKey::Tag { cache: 1, tag: b"" },
            DependencyKey::Tag { cache: 1, tag: b"prices" },
            DependencyKey::Tag { cache: 2, tag: b"prices" },
        ];
        for (place, key) in keys.iter().enumerate() {
            assert!(keys[..place].iter().all(|other| other.hash() != key.hash()), "{key:?}");
        }
    }

    #[test]
    fn hashes_are_the_same_in_every_build() {
        assert_eq!(
            DependencyKey::Relation { database: 5, relation: 16_384 }.hash(),
            DependencyHash(11_347_951_516_510_524_100)
        );
    }
}
