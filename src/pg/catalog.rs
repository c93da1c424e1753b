//! The named caches of an area.
//!
//! A cache belongs to the database it was created in: its identity is the database and a [`CacheId`], so two databases never share
//! a key. Its memory is one piece of the area, found first-fit between the others.
//!
//! Locking: who looks a cache up, and who changes which caches there are, holds the catalog's lock for the moment that
//! takes. What takes longer, the formatting of a new cache and the search of one to be dropped for what others hold in it,
//! is done without the lock by the one backend that has marked the slot (`slot::Phase`). No error is raised under the
//! lock, and no interrupt is served between a mark and its end: an exit there would leave the slot marked for ever.

use std::ops::ControlFlow;
use std::sync::atomic::{Ordering, fence};

use super::area::Area;
use super::error::CacheError;
use super::named_locks::{LwLocks, sleep_a_moment};
pub use super::slot::CacheId;
#[cfg(feature = "extension")]
use super::slot::SavedImage;
use super::slot::{CacheSlot, ImageWords, Life, MAX_NAME_BYTES, NO_DATABASE, Name, Phase, SlotIdentity};
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
    /// The number of what defines it, if not its name.
    pub definition: Option<u64>,
    /// Bytes of its memory.
    pub bytes: usize,
    pub(super) slot: usize,
    pub(super) life: Life,
}

impl Listing {
    fn new(slot: usize, life: Life, identity: SlotIdentity, bytes: usize) -> Listing {
        let SlotIdentity { database, owner, definition, name } = identity;
        let definition = (definition != 0).then_some(definition);
        Listing { name: name.into(), database, owner, definition, bytes, slot, life }
    }

    /// What names it in its database.
    pub fn id(&self) -> CacheId<'_> {
        self.definition.map_or(CacheId::Name(&self.name), CacheId::Definition)
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

    fn identity(self) -> Result<SlotIdentity, CacheError> {
        let refused = || CacheError::Name { given: self.name.len(), max: MAX_NAME_BYTES };
        let name = Name::new(self.name).ok_or_else(refused)?;
        let definition = self.definition.unwrap_or(0);
        Ok(SlotIdentity { database: self.database, owner: self.owner, definition, name })
    }

    fn id(&self) -> CacheId<'_> {
        self.definition.map_or(CacheId::Name(self.name), CacheId::Definition)
    }
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

impl Marked<'_> {
    /// The cache is made: others may use it.
    fn become_live(self) {
        self.slot.set(self.life, Phase::Live);
        std::mem::forget(self);
    }
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

    pub(super) fn area(self) -> Area {
        self.0
    }

    /// Bytes for all caches.
    pub fn bytes(self) -> usize {
        self.0.bytes()
    }

    /// Every cache of the area, of all databases.
    pub fn list(self) -> Vec<Listing> {
        // Nothing is allocated under the lock.
        let mut found: Vec<(usize, Life, SlotIdentity, usize)> = Vec::with_capacity(self.0.max_caches());
        self.0.with_catalog(LockMode::Shared, || {
            found.extend(self.caches().map(|(index, slot, life)| (index, life, slot.identity(), slot.memory().1)));
        });
        found.into_iter().map(|(slot, life, identity, bytes)| Listing::new(slot, life, identity, bytes)).collect()
    }

    /// Slots with a cache in them. Under the catalog's lock.
    fn caches(self) -> impl Iterator<Item = (usize, &'static CacheSlot, Life)> {
        self.0.slots().iter().enumerate().filter_map(|(index, slot)| match slot.now() {
            (life, Phase::Live | Phase::BeingDropped) => Some((index, slot, life)),
            (_, Phase::Free | Phase::BeingCreated) => None,
        })
    }

    /// The cache that has this name, or this definition.
    pub fn find(self, database: u32, id: CacheId<'_>) -> Option<Listing> {
        let found = self.0.with_catalog(LockMode::Shared, || {
            let found = self.caches().find(|(_, slot, _)| slot.identity().is(database, id));
            found.map(|(index, slot, life)| (index, life, slot.identity(), slot.memory().1))
        });
        found.map(|(slot, life, identity, bytes)| Listing::new(slot, life, identity, bytes))
    }

    /// As [`Catalog::find`]; waits where the cache is being created or moved, until it can be found or is not to be. Holding no
    /// lock; may raise what an interrupt raises.
    #[cfg(feature = "extension")]
    pub(super) fn find_settled(self, database: u32, id: CacheId<'_>) -> Option<Listing> {
        loop {
            // One look, or what begins to be made between two would be missed.
            let (found, is_being_made) = self.0.with_catalog(LockMode::Shared, || {
                let mut is_being_made = false;
                for (index, slot) in self.0.slots().iter().enumerate() {
                    let (life, phase) = slot.now();
                    if phase == Phase::Free || !slot.identity().is(database, id) {
                        continue;
                    }
                    if phase != Phase::BeingCreated {
                        return (Some((index, life, slot.identity(), slot.memory().1)), false);
                    }
                    is_being_made = true;
                }
                (None, is_being_made)
            });
            if !is_being_made {
                return found.map(|(slot, life, identity, bytes)| Listing::new(slot, life, identity, bytes));
            }
            sleep_a_moment();
        }
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

    /// A handle of a cache that was listed, when nobody else is there: it waits for nothing and nobody.
    ///
    /// # Errors
    ///
    /// As [`Catalog::attach`].
    #[cfg(feature = "extension")]
    pub(super) fn attach_alone(self, listing: &Listing) -> Result<SharedCache<LwLocks>, CacheError> {
        self.over(listing, LwLocks::new(self.0, listing.slot, listing.life).alone())
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

    /// Creates a cache. Moves others together where the memory is there, but not in one piece.
    ///
    /// # Errors
    ///
    /// The name or the configuration is wrong, there is such a cache, or there is no slot or no memory left.
    pub fn create(self, new: NewCache<'_>, config: &Config) -> Result<(), CacheError> {
        self.create_filled(new, config, |_, _| ControlFlow::Continue(())).map(drop)
    }

    /// As [`Catalog::create`]; `fill` is the first to use the cache, while nobody else finds it, and may say that it is not to be.
    /// It raises nothing.
    pub(super) fn create_filled(
        self,
        new: NewCache<'_>,
        config: &Config,
        fill: impl FnOnce(&SharedCache<LwLocks>, &ImageWords) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, CacheError> {
        let identity = new.identity()?;
        let bytes = config.region_bytes()?;
        let exists = |slot: &CacheSlot| slot.identity().is(new.database, new.id());
        let (index, marked) = match self.begin(identity, bytes, exists) {
            Err(CacheError::NoMemory { needed, free, .. }) if needed <= free => {
                self.defragment();
                self.begin(identity, bytes, exists)
            }
            begun => begun,
        }
        // Filled in without the lock.
        .map_err(|error| {
            if matches!(error, CacheError::Exists(_)) { CacheError::Exists(new.name.to_owned()) } else { error }
        })?;
        let cache = self.format(index, &marked, config)?;
        let filled = fill(&cache, &marked.slot.image);
        if filled.is_continue() {
            marked.become_live();
        }
        Ok(filled)
    }

    /// Takes a slot and memory for a new cache, unless one that is there is the same.
    fn begin(
        self,
        identity: SlotIdentity,
        bytes: usize,
        is_same: impl Fn(&CacheSlot) -> bool,
    ) -> Result<(usize, Marked<'static>), CacheError> {
        let mut pieces = Vec::with_capacity(self.0.max_caches() + 1);
        self.0.with_catalog(LockMode::Exclusive, || {
            let mut free = None;
            for (index, slot) in self.0.slots().iter().enumerate() {
                if slot.now().1 == Phase::Free {
                    free = free.or(Some((index, slot)));
                    continue;
                }
                if is_same(slot) {
                    return Err(CacheError::Exists(String::new()));
                }
                pieces.push(slot.memory());
            }
            let (index, slot) = free.ok_or(CacheError::TooMany(self.0.max_caches()))?;
            let offset = find_room(&mut pieces, self.0.bytes(), bytes)?;
            let life = slot.begin(identity, (offset, bytes));
            self.0.ledger(index).clear();
            Ok((index, Marked { slot, life, back_to: Phase::Free }))
        })
    }

    /// Makes the memory of a slot that is being created a cache.
    #[allow(unsafe_code)] // a piece of the area becomes a cache
    fn format(self, index: usize, new: &Marked<'_>, config: &Config) -> Result<SharedCache<LwLocks>, CacheError> {
        let (place, bytes) = new.slot.memory();
        let locks = LwLocks::new(self.0, index, new.life).alone();
        let (memory, stripes) = (self.0.cache_memory((place, bytes)), Some(self.0.stripes(index)));
        // SAFETY: `find_room` found the piece unused, and the mark keeps it so; no backend attaches before the slot
        // lives; nobody holds a lock of a slot that is not live for longer than it takes to see that.
        unsafe { SharedCache::create_with_stripes(memory, bytes, config, 0, locks, stripes) }.map_err(|error| {
            match error {
                CreateError::Config(error) => error.into(),
                error => CacheError::Damaged(new.slot.name().into(), error.to_string()),
            }
        })
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
        let Some(marked) = self.begin_drop(listing)? else { return Ok(false) };
        let slot = marked.slot;
        std::mem::forget(marked);
        // Under the lock: not while a backend that has found the cache reads its header.
        self.0.with_catalog(LockMode::Exclusive, || slot.end(listing.life));
        Ok(true)
    }

    /// Marks a cache as being dropped, and waits until nobody holds a lock of it; `None` if it is gone already.
    ///
    /// # Errors
    ///
    /// As [`Catalog::drop_cache`].
    fn begin_drop(self, listing: &Listing) -> Result<Option<Marked<'static>>, CacheError> {
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
                _ if life != listing.life => return Ok(None),
                Phase::Live => break Marked { slot, life, back_to: Phase::Live },
                // Another backend is about to; it may have to leave the cache.
                Phase::BeingDropped => sleep_a_moment(),
                Phase::Free | Phase::BeingCreated => return Ok(None),
            }
        };
        let locks = LwLocks::new(self.0, listing.slot, listing.life).alone();
        locks.wait_for_users();
        // From here on nothing can be taken in hand. What is so damaged that it cannot be attached is in nobody's.
        let used = self.over(listing, locks).map_or(0, |cache| cache.in_flight().total());
        if used > 0 {
            return Err(CacheError::InUse(listing.name.clone(), used));
        }
        Ok(Some(marked))
    }

    /// Makes a cache anew with another configuration, with the entries that it has: those used last, where not all fit. Its
    /// counters go on.
    /// Writers wait meanwhile, about a second for a million entries or a gigabyte; reads without a lock go on. `false`
    /// if the cache is gone.
    ///
    /// # Errors
    ///
    /// As [`Catalog::create`] and [`Catalog::drop_cache`]; then the cache stays as it was.
    pub fn remake(self, listing: &Listing, config: &Config) -> Result<bool, CacheError> {
        let bytes = config.region_bytes()?;
        // Before the cache is marked: others may be waited for.
        if matches!(self.room_for(bytes), Err(CacheError::NoMemory { needed, free, .. }) if needed <= free) {
            self.defragment();
        }
        // It may have moved.
        let Some(listing) = self.find(listing.database, listing.id()) else { return Ok(false) };
        let Some(old) = self.begin_drop(&listing)? else { return Ok(false) };
        let (index, new) = self.begin(old.slot.identity(), bytes, |_| false)?;
        new.slot.image.set_persists(old.slot.image.persists());
        let made = self.format(index, &new, config)?;
        let cache = self.over(&listing, LwLocks::new(self.0, listing.slot, listing.life).alone()).ok();
        if let Some(cache) = &cache {
            cache.copy_into(&made).map_err(|_| CacheError::OutOfMemory(cache.bytes() as usize))?;
        }
        self.carry_over((listing.slot, cache.as_ref()), (index, &made));
        let (old_slot, new_slot, life) = (old.slot, new.slot, new.life);
        std::mem::forget((old, new));
        self.0.with_catalog(LockMode::Exclusive, || {
            new_slot.set(life, Phase::Live);
            old_slot.end(listing.life);
        });
        Ok(true)
    }

    /// Whether there is a slot, and memory in one piece, for a cache of so many bytes.
    ///
    /// # Errors
    ///
    /// There is not; see [`Catalog::create`].
    pub fn room_for(self, bytes: usize) -> Result<(), CacheError> {
        let mut pieces = Vec::with_capacity(self.0.max_caches() + 1);
        self.0.with_catalog(LockMode::Shared, || {
            let taken = self.0.slots().iter().filter(|slot| slot.now().1 != Phase::Free);
            pieces.extend(taken.map(CacheSlot::memory));
        });
        if pieces.len() == self.0.max_caches() {
            return Err(CacheError::TooMany(self.0.max_caches()));
        }
        find_room(&mut pieces, self.0.bytes(), bytes).map(drop)
    }

    /// Moves the caches together, so that all free memory is one piece. One after the other: users of the one that moves
    /// wait for as long as its bytes take to be copied, about a fifth of a second for a gigabyte. Those that are in use
    /// without a lock, or being created or dropped, stay where they are. Returns how many were moved.
    pub fn defragment(self) -> usize {
        let mut caches: Vec<(usize, Listing)> =
            self.list().into_iter().map(|cache| (self.0.slots()[cache.slot].memory().0, cache)).collect();
        caches.sort_unstable_by_key(|(offset, _)| *offset);
        caches.into_iter().filter(|(_, cache)| self.move_down(cache)).count()
    }

    /// Moves a cache to the end of the one before it.
    #[allow(unsafe_code)] // a cache's bytes are copied
    fn move_down(self, listing: &Listing) -> bool {
        let Ok(Some(marked)) = self.begin_drop(listing) else { return false };
        let slot = marked.slot;
        let moved = self.0.with_catalog(LockMode::Exclusive, || {
            let (offset, bytes) = slot.memory();
            let others = self.0.slots().iter().filter(|other| other.now().1 != Phase::Free);
            let ends = others.map(CacheSlot::memory).filter(|&(start, _)| start < offset);
            let end = ends.map(|(start, bytes)| start + bytes.next_multiple_of(ALIGNMENT_BYTES)).max().unwrap_or(0);
            // Until it has been copied the slot keeps the old piece, too.
            let both = offset + bytes - end;
            (end < offset).then(|| (slot.begin_again(listing.life, (end, both)), end, offset, bytes))
        });
        let Some((life, to, from, bytes)) = moved else { return false };
        std::mem::forget(marked);
        let (from, to) = (self.0.cache_memory((from, bytes)), self.0.cache_memory((to, bytes)));
        // Whoever still reads the old place without a lock, and sees a byte of what is written from here on, sees that
        // the life it knows has ended (`Tenancy::is_current`).
        fence(Ordering::Release);
        // SAFETY: both pieces lie in the area. The old one is the cache's, whose users wait; what of the new one is not
        // the old one's was free, and no other cache begins there: the slot has it since the lock was held.
        unsafe { std::ptr::copy(from.as_ptr(), to.as_ptr(), bytes) };
        slot.end_move(life, bytes);
        true
    }

    /// Notes that the name of what defines a cache has changed.
    pub fn rename(self, listing: &Listing, name: &str) {
        let Some(name) = Name::new(name) else { return };
        self.0.with_catalog(LockMode::Exclusive, || {
            if self.has(listing) {
                self.0.slots()[listing.slot].rename(name);
            }
        });
    }

    /// Whether a cache is to have an image at the end of the server.
    #[cfg(feature = "extension")]
    pub(super) fn persists(self, listing: &Listing) -> bool {
        self.0.with_catalog(LockMode::Shared, || self.has(listing) && self.0.slots()[listing.slot].image.persists())
    }

    #[cfg(feature = "extension")]
    pub(super) fn set_persists(self, listing: &Listing, persists: bool) {
        self.0.with_catalog(LockMode::Exclusive, || {
            if self.has(listing) {
                self.0.slots()[listing.slot].image.set_persists(persists);
            }
        });
    }

    /// What is known of the last image of a cache.
    #[cfg(feature = "extension")]
    pub(super) fn saved(self, listing: &Listing) -> SavedImage {
        let saved = || self.has(listing).then(|| self.0.slots()[listing.slot].image.saved());
        self.0.with_catalog(LockMode::Shared, saved).unwrap_or_default()
    }

    #[cfg(feature = "extension")]
    pub(super) fn set_saved(self, listing: &Listing, saved: SavedImage) {
        self.0.with_catalog(LockMode::Exclusive, || {
            if self.has(listing) {
                self.0.slots()[listing.slot].image.set_saved(saved);
            }
        });
    }

    /// Drops a cache that nobody finds any more. Raises nothing. If some backend holds something of it, it is left to
    /// [`Catalog::drop_orphans`].
    pub(super) fn drop_or_disown(self, cache: &Listing) {
        if self.drop_cache(cache).is_err() {
            self.0.with_catalog(LockMode::Exclusive, || {
                if self.has(cache) {
                    self.0.slots()[cache.slot].disown();
                }
            });
        }
    }

    /// Drops the caches of a database that is gone. Raises nothing.
    pub(super) fn drop_of_database(self, database: u32) {
        self.list().iter().filter(|cache| cache.database == database).for_each(|cache| self.drop_or_disown(cache));
    }

    /// Drops the caches for which `is_orphan` says yes, and those of no database; returns how many.
    pub fn drop_orphans(self, is_orphan: impl Fn(&Listing) -> bool) -> usize {
        let orphans = self.list().into_iter().filter(|cache| cache.database == NO_DATABASE || is_orphan(cache));
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
