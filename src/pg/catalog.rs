//! The named caches of an area.
//!
//! A cache belongs to the database it was created in: its identity is database and name, so two databases never share
//! a key. Its memory is one piece of the area, found first-fit between the others.
//!
//! Locking: who looks a cache up, and who changes which caches there are, holds the catalog's lock for the moment that
//! takes. What takes longer, the formatting of a new cache and the search of one to be dropped for what others hold in it,
//! is done without the lock by the one backend that has marked the slot (`slot::Phase`). No error is raised under the
//! lock, and no interrupt is served between a mark and its end: an exit there would leave the slot marked for ever.

use super::area::Area;
use super::error::CacheError;
use super::named_locks::{LwLocks, sleep_a_moment};
use super::slot::{CacheSlot, Life, MAX_NAME_BYTES, Name, Phase};
use crate::engine::config::Config;
use crate::shared::cache::SharedCache;
use crate::shared::lock::LockMode;
use crate::shared::open::CreateError;

/// Caches start at multiples of this.
const ALIGNMENT_BYTES: usize = 4096;

/// One cache of the area.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Its name.
    pub name: String,
    /// OID of its database.
    pub database: u32,
    /// OID of the role that created it.
    pub owner: u32,
    /// Bytes of its memory.
    pub bytes: usize,
    pub(super) slot: usize,
    pub(super) life: Life,
}

/// Which caches there are.
#[derive(Clone, Copy, Debug)]
pub struct Catalog(Area);

/// Marks a slot until it is told how that ended.
struct Marked<'a> {
    slot: &'a CacheSlot,
    life: Life,
    /// What becomes of the slot if something goes wrong.
    back_to: Phase,
}

impl Drop for Marked<'_> {
    fn drop(&mut self) {
        self.slot.set(self.life, self.back_to);
    }
}

impl Catalog {
    /// The catalog of the area, which is made if this is its first use.
    ///
    /// # Errors
    ///
    /// As [`Area::open`].
    pub fn open() -> Result<Catalog, CacheError> {
        Area::open().map(Catalog)
    }

    /// The catalog of the area, if that was made: where there is none, there are no caches.
    ///
    /// # Errors
    ///
    /// As [`Area::open`].
    pub fn existing() -> Result<Option<Catalog>, CacheError> {
        Area::existing().map(|area| area.map(Catalog))
    }

    /// The catalog of the area, if this process has used it. Raises nothing.
    pub(super) fn mapped() -> Option<Catalog> {
        Area::mapped().map(Catalog)
    }

    /// Every cache of the area, of all databases.
    pub fn list(self) -> Vec<Listing> {
        // Nothing is allocated under the lock.
        let mut found: Vec<(usize, Life, Name, [u32; 2], usize)> = Vec::with_capacity(self.0.max_caches());
        self.0.with_catalog(LockMode::Shared, || {
            found.extend(self.caches().map(|(index, slot, life)| {
                (index, life, slot.name(), [slot.database(), slot.owner()], slot.memory().1)
            }));
        });
        let listing = |(slot, life, name, [database, owner], bytes): (usize, Life, Name, [u32; 2], usize)| Listing {
            name: name.into(),
            database,
            owner,
            bytes,
            slot,
            life,
        };
        found.into_iter().map(listing).collect()
    }

    /// Slots with a cache in them. Under the catalog's lock.
    fn caches(self) -> impl Iterator<Item = (usize, &'static CacheSlot, Life)> {
        self.0.slots().iter().enumerate().filter_map(|(index, slot)| match slot.now() {
            (life, Phase::Live | Phase::BeingDropped) => Some((index, slot, life)),
            (_, Phase::Free | Phase::BeingCreated) => None,
        })
    }

    /// The cache with this name.
    pub fn find(self, database: u32, name: &str) -> Option<Listing> {
        let wanted = Name::new(name)?;
        let mut caches = self.caches();
        let found = self.0.with_catalog(LockMode::Shared, || {
            let found = caches.find(|(_, slot, _)| slot.database() == database && slot.name() == wanted);
            found.map(|(index, slot, life)| (index, life, slot.owner(), slot.memory().1))
        });
        found.map(|(slot, life, owner, bytes)| Listing { name: name.to_owned(), database, owner, bytes, slot, life })
    }

    /// Whether a cache that was listed is still there.
    #[inline]
    pub(super) fn has(self, listing: &Listing) -> bool {
        self.0.slots()[listing.slot].is_of(listing.life)
    }

    /// Attaches to a cache that was listed. It may be dropped later; then every operation reports so.
    ///
    /// # Errors
    ///
    /// It was dropped since it was listed, or its memory holds something else.
    pub(super) fn attach(self, listing: &Listing) -> Result<SharedCache<LwLocks>, CacheError> {
        // Under the catalog's lock the slot cannot change hands between the check and the reading of the header.
        self.0.with_catalog(LockMode::Shared, || {
            if !self.has(listing) {
                return Err(CacheError::Dropped);
            }
            self.over(listing, LwLocks::new(self.0, listing.slot, listing.life))
        })
    }

    /// A handle with these locks, while the memory is the cache's.
    #[allow(unsafe_code)] // the area's memory and locks become a cache
    fn over(self, listing: &Listing, locks: LwLocks) -> Result<SharedCache<LwLocks>, CacheError> {
        let memory = self.0.cache_memory(self.0.slots()[listing.slot].memory());
        // SAFETY: the memory stays mapped as long as the process lives, is aligned (PostgreSQL aligns the area to 128
        // bytes, we the cache in it to 4,096), and was made a cache of this size by `create`; the locks are those of its
        // slot.
        unsafe { SharedCache::attach_with_stripes(memory, listing.bytes, 0, locks, Some(self.0.stripes(listing.slot))) }
            .map_err(|error| CacheError::Damaged(listing.name.clone(), error.to_string()))
    }

    /// Creates a cache.
    ///
    /// # Errors
    ///
    /// The name or the configuration is wrong, the name is taken, or there is no slot or no memory left.
    #[allow(unsafe_code)] // a piece of the area becomes a cache
    pub fn create(self, database: u32, owner: u32, name: &str, config: &Config) -> Result<(), CacheError> {
        let taken = || CacheError::Exists(name.to_owned());
        let wanted = Name::new(name).ok_or(CacheError::Name { given: name.len(), max: MAX_NAME_BYTES })?;
        let bytes = config.region_bytes()?;
        let mut pieces = Vec::with_capacity(self.0.max_caches() + 1);
        let (index, marked) = self.0.with_catalog(LockMode::Exclusive, || {
            let mut free = None;
            for (index, slot) in self.0.slots().iter().enumerate() {
                if slot.now().1 == Phase::Free {
                    free = free.or(Some((index, slot)));
                    continue;
                }
                if slot.database() == database && slot.name() == wanted {
                    return Err(taken());
                }
                pieces.push(slot.memory());
            }
            let (index, slot) = free.ok_or(CacheError::TooMany(self.0.max_caches()))?;
            let offset = find_room(&mut pieces, self.0.bytes(), bytes)?;
            let life = slot.begin(wanted, database, owner, (offset, bytes));
            Ok((index, Marked { slot, life, back_to: Phase::Free }))
        })?;
        let locks = LwLocks::new(self.0, index, marked.life);
        let (memory, stripes) = (self.0.cache_memory(marked.slot.memory()), Some(self.0.stripes(index)));
        // SAFETY: `find_room` found the piece unused, and the mark keeps it so; no backend attaches before the slot
        // lives; nobody holds a lock of a slot that is not live for longer than it takes to see that.
        match unsafe { SharedCache::create_with_stripes(memory, bytes, config, 0, locks, stripes) } {
            Ok(_) => {
                marked.slot.set(marked.life, Phase::Live);
                std::mem::forget(marked);
                Ok(())
            }
            Err(CreateError::Config(error)) => Err(error.into()),
            Err(error) => Err(CacheError::Damaged(name.to_owned(), error.to_string())),
        }
    }

    /// Drops a cache; `false` if it is gone already.
    ///
    /// Operations that hold a lock are waited for, and those that want one wait meanwhile; when the cache is gone they
    /// fail with an error. Costs a walk over the cache, which nobody else notices but users of this one.
    ///
    /// # Errors
    ///
    /// Some backend is reading an entry without a lock, loading one or writing one back; then the cache stays as it was.
    pub fn drop_cache(self, listing: &Listing) -> Result<bool, CacheError> {
        let slot = &self.0.slots()[listing.slot];
        let marked = loop {
            let (life, phase) = self.0.with_catalog(LockMode::Exclusive, || {
                let now = slot.now();
                if now == (listing.life, Phase::Live) {
                    slot.set(listing.life, Phase::BeingDropped);
                }
                now
            });
            match phase {
                _ if life != listing.life => return Ok(false),
                Phase::Live => break Marked { slot, life, back_to: Phase::Live },
                // Another backend is about to; it may have to leave the cache.
                Phase::BeingDropped => sleep_a_moment(),
                Phase::Free | Phase::BeingCreated => return Ok(false),
            }
        };
        let locks = LwLocks::new(self.0, listing.slot, listing.life).by_dropper();
        locks.wait_for_users();
        // From here on nothing can be taken in hand. What is so damaged that it cannot be attached is in nobody's.
        let used = self.over(listing, locks).map_or(0, |cache| cache.in_flight().total());
        if used > 0 {
            return Err(CacheError::InUse(listing.name.clone(), used));
        }
        std::mem::forget(marked);
        // Under the lock: not while a backend that has found the cache reads its header.
        self.0.with_catalog(LockMode::Exclusive, || slot.end(listing.life));
        Ok(true)
    }

    /// Drops the caches of a database that is gone. Raises nothing. One that some backend holds something of is left to
    /// [`Catalog::drop_orphans`], and found by no database any more.
    pub(super) fn drop_of_database(self, database: u32) {
        for cache in self.list().into_iter().filter(|cache| cache.database == database) {
            if self.drop_cache(&cache).is_err() {
                self.0.with_catalog(LockMode::Exclusive, || {
                    if self.has(&cache) {
                        self.0.slots()[cache.slot].disown();
                    }
                });
            }
        }
    }

    /// Drops the caches of databases for which `exists` says no; returns how many.
    pub fn drop_orphans(self, exists: impl Fn(u32) -> bool) -> usize {
        let orphans = self.list().into_iter().filter(|cache| !exists(cache.database));
        orphans.filter(|cache| matches!(self.drop_cache(cache), Ok(true))).count()
    }
}

/// The offset of the first piece of `bytes` between those that are taken, as offset and bytes each, of `all` bytes.
fn find_room(taken: &mut Vec<(usize, usize)>, all: usize, bytes: usize) -> Result<usize, CacheError> {
    taken.push((all, 0));
    taken.sort_unstable();
    let (mut start, mut free, mut largest) = (0, 0, 0);
    for &(offset, length) in taken.iter() {
        let gap = offset.saturating_sub(start);
        if gap >= bytes {
            return Ok(start);
        }
        free += gap;
        largest = largest.max(gap);
        start = offset + length.next_multiple_of(ALIGNMENT_BYTES);
    }
    Err(CacheError::NoMemory { needed: bytes, free, largest })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_gap_that_is_large_enough_is_taken() {
        let taken = [(40_960, 4096), (0, 4000), (12_288, 8192)];
        let room = |bytes| find_room(&mut taken.to_vec(), 65_536, bytes);
        assert_eq!(room(8192).ok(), Some(4096));
        assert_eq!(room(20_480).ok(), Some(20_480));
        assert_eq!(room(20_481).map_err(|error| error.to_string()).unwrap_err().matches("20480").count(), 1);
        assert_eq!(find_room(&mut Vec::new(), 65_536, 65_536).ok(), Some(0));
    }
}
