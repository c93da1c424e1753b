//! The named caches of an area.
//!
//! A cache belongs to the database it was created in: its identity is database and name, so two databases never share
//! a key. Its memory is one piece of the area, found first-fit between the others. Everything here runs under the
//! catalog's lock, exclusive for changes; no error is raised while it is held.

use super::area::{Area, MAX_NAME_BYTES};
use super::error::CacheError;
use super::lwlock::{self, LwLocks};
use crate::engine::config::Config;
use crate::engine::layout::MAX_PARTITIONS;
use crate::shared::cache::{CreateError, SharedCache};
use crate::shared::lock::LockMode;

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
    pub(super) generation: u64,
}

/// The area, or an error that says how to get one.
pub fn area() -> Result<Area, CacheError> {
    Area::get().ok_or(CacheError::NotPreloaded)
}

/// Every cache of the area, of all databases.
pub fn list(area: Area) -> Vec<Listing> {
    area.with_catalog(LockMode::Shared, || live(area))
}

fn live(area: Area) -> Vec<Listing> {
    let slots = (0..area.max_caches()).map(|index| (index, area.slot(index)));
    slots
        .filter(|(_, slot)| slot.is_live())
        .map(|(index, slot)| Listing {
            name: slot.name(),
            database: slot.database.get(),
            owner: slot.owner.get(),
            bytes: slot.bytes.get() as usize,
            slot: index,
            generation: slot.generation(),
        })
        .collect()
}

/// The cache with this name.
pub fn find(area: Area, database: u32, name: &str) -> Option<Listing> {
    list(area).into_iter().find(|cache| cache.database == database && cache.name == name)
}

/// Attaches to a cache that was listed. It may be dropped later; then every operation reports so.
///
/// # Errors
///
/// If it was dropped since it was listed.
pub(super) fn attach(area: Area, listing: &Listing) -> Result<SharedCache<LwLocks>, CacheError> {
    // Under the catalog's lock the slot cannot change hands between the check and the reading of the header.
    while_current(area, listing, |cache| cache)?.ok_or(CacheError::Dropped)
}

/// Uses a cache that was listed, unless it was dropped since; it cannot be dropped meanwhile. Creating and dropping
/// caches waits for `work`, which must not raise errors.
pub(super) fn while_current<R>(
    area: Area,
    listing: &Listing,
    work: impl FnOnce(SharedCache<LwLocks>) -> R,
) -> Result<Option<R>, CacheError> {
    area.with_catalog(LockMode::Shared, || {
        if area.slot(listing.slot).generation() != listing.generation {
            return Ok(None);
        }
        open(area, listing, listing.generation).map(|cache| Some(work(cache)))
    })
}

/// A handle that works while the slot has this generation. Under the catalog's lock.
#[allow(unsafe_code)] // the area's memory and locks become a cache
fn open(area: Area, listing: &Listing, generation: u64) -> Result<SharedCache<LwLocks>, CacheError> {
    let locks = LwLocks::new(area, listing.slot, generation);
    let memory = area.cache_memory(area.slot(listing.slot).offset.get() as usize, listing.bytes);
    // SAFETY: the memory stays mapped as long as the process lives, is aligned (PostgreSQL aligns the area to 128
    // bytes, we the cache in it to 4,096), and was made a cache of this size by `create`; the locks are those of its
    // slot.
    unsafe { SharedCache::attach_with_stripes(memory, listing.bytes, 0, locks, Some(area.stripes(listing.slot))) }
        .map_err(|error| CacheError::Damaged(listing.name.clone(), error.to_string()))
}

/// Creates a cache.
///
/// # Errors
///
/// The name or the configuration is wrong, the name is taken, or there is no slot or no memory left.
#[allow(unsafe_code)] // a piece of the area becomes a cache
pub fn create(area: Area, database: u32, owner: u32, name: &str, config: &Config) -> Result<(), CacheError> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        return Err(CacheError::Name { given: name.len(), max: MAX_NAME_BYTES });
    }
    let bytes = config.region_bytes()?;
    area.with_catalog(LockMode::Exclusive, || {
        let caches = live(area);
        if caches.iter().any(|cache| cache.database == database && cache.name == name) {
            return Err(CacheError::Exists(name.to_owned()));
        }
        let index = (0..area.max_caches())
            .find(|&index| !area.slot(index).is_live())
            .ok_or(CacheError::TooMany(area.max_caches()))?;
        let offset = find_room(area, bytes)?;
        let slot = area.slot(index);
        slot.offset.set(offset as u64);
        slot.bytes.set(bytes as u64);
        slot.database.set(database);
        slot.owner.set(owner);
        slot.set_name(name);
        let (locks, memory) = (LwLocks::new(area, index, slot.generation() + 1), area.cache_memory(offset, bytes));
        // SAFETY: `find_room` found the piece unused, and no backend can know it before the slot lives; nobody holds a
        // lock of a slot that is not live for longer than it takes to see that.
        match unsafe { SharedCache::create_with_stripes(memory, bytes, config, 0, locks, Some(area.stripes(index))) } {
            Ok(_) => slot.change_life(),
            Err(CreateError::Config(error)) => return Err(error.into()),
            Err(error) => return Err(CacheError::Damaged(name.to_owned(), error.to_string())),
        }
        Ok(())
    })
}

/// The first piece of this size between the live caches.
fn find_room(area: Area, bytes: usize) -> Result<usize, CacheError> {
    let mut taken: Vec<(usize, usize)> = live(area)
        .iter()
        .map(|cache| (area.slot(cache.slot).offset.get() as usize, cache.bytes.next_multiple_of(ALIGNMENT_BYTES)))
        .collect();
    taken.sort_unstable();
    let (mut start, mut free, mut largest) = (0, 0, 0);
    for (offset, length) in taken.into_iter().chain([(area.bytes(), 0)]) {
        let gap = offset.saturating_sub(start);
        if gap >= bytes {
            return Ok(start);
        }
        free += gap;
        largest = largest.max(gap);
        start = offset + length;
    }
    Err(CacheError::NoMemory { needed: bytes, free, largest })
}

/// Drops a cache; `false` if it is gone already.
///
/// Operations under way are waited for; later ones of other backends fail with an error.
///
/// # Errors
///
/// If some backend is reading an entry without a lock, loading one or writing one back; then the cache stays.
pub fn drop(area: Area, listing: &Listing) -> Result<bool, CacheError> {
    area.with_catalog(LockMode::Exclusive, || {
        let slot = area.slot(listing.slot);
        if slot.generation() != listing.generation {
            return Ok(false);
        }
        slot.change_life();
        // Whoever got a partition's lock before is done when we have had it; whoever gets it later sees the change.
        for partition in 0..MAX_PARTITIONS as usize {
            let lock = area.partition_lock(listing.slot, partition);
            lwlock::acquire(lock, LockMode::Exclusive);
            lwlock::release(lock);
        }
        // From here on nothing can be taken in hand.
        let used = open(area, listing, slot.generation()).map_or(0, |cache| cache.under_way().total());
        if used > 0 {
            slot.undo_change_of_life();
            return Err(CacheError::InUse(listing.name.clone(), used));
        }
        Ok(true)
    })
}

/// Drops the caches of databases for which `exists` says no; returns how many.
pub fn drop_orphans(area: Area, exists: impl Fn(u32) -> bool) -> usize {
    let orphans = list(area).into_iter().filter(|cache| !exists(cache.database));
    orphans.filter(|cache| matches!(self::drop(area, cache), Ok(true))).count()
}
