//! The named caches of an area: looked up, created and dropped.
//!
//! A cache belongs to the database it was created in: its identity is the database and a [`CacheId`], so two databases never share
//! a key. Its memory is one piece of the area, found first-fit between the others.
//!
//! Locking: who looks a cache up, and who changes which caches there are, holds the catalog's lock for the moment that
//! takes. What takes longer, the formatting of a new cache and the search of one to be dropped for what others hold in it,
//! is done without the lock by the one backend that has marked the slot (`slot::Phase`). No error is raised under the
//! lock, and no interrupt is served between a mark and its end: an exit there would leave the slot marked for ever.
//!
//! Not here: what is said of a cache that was found (`listing`), which piece is free (`room`), caches that get other memory
//! than they have (`moves`).

mod listing;
mod moves;
mod room;

use std::ops::ControlFlow;

use super::area::Area;
use super::error::CacheError;
use super::named_locks::{LwLocks, sleep_a_moment};
pub use super::slot::CacheId;
#[cfg(feature = "extension")]
use super::slot::SavedImage;
use super::slot::{CacheSlot, ImageWords, Life, NO_DATABASE, Name, Phase, SlotIdentity};
use crate::engine::config::Config;
use crate::shared::cache::SharedCache;
use crate::shared::lock::LockMode;
use crate::shared::open::CreateError;
use listing::Occupied;
pub use listing::{Listing, NewCache};
use room::find_room;

/// Which caches there are.
#[derive(Clone, Copy, Debug)]
pub struct Catalog(Area);

/// Marks a slot until it is told how that ended.
struct MarkedSlot<'a> {
    slot: &'a CacheSlot,
    life: Life,
    /// What becomes of the slot if something goes wrong.
    back_to: Phase,
}

impl MarkedSlot<'_> {
    /// The cache is made: others may use it.
    fn become_live(self) {
        self.slot.set(self.life, Phase::Live);
        std::mem::forget(self);
    }
}

impl Drop for MarkedSlot<'_> {
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
        let mut found = Vec::with_capacity(self.0.max_caches());
        self.0.with_catalog(LockMode::Shared, || found.extend(self.caches()));
        found.into_iter().map(Occupied::into_listing).collect()
    }

    /// Slots with a cache in them. Under the catalog's lock.
    fn caches(self) -> impl Iterator<Item = Occupied> {
        self.0.slots().iter().enumerate().filter_map(|(index, slot)| match slot.now() {
            (life, Phase::Live | Phase::BeingDropped) => Some(Occupied::new(index, slot, life)),
            (_, Phase::Free | Phase::BeingCreated) => None,
        })
    }

    /// The cache that has this name, or this definition.
    pub fn find(self, database: u32, id: CacheId<'_>) -> Option<Listing> {
        let find = || self.caches().find(|cache| cache.is(database, id));
        self.0.with_catalog(LockMode::Shared, find).map(Occupied::into_listing)
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
                        return (Some(Occupied::new(index, slot, life)), false);
                    }
                    is_being_made = true;
                }
                (None, is_being_made)
            });
            if !is_being_made {
                return found.map(Occupied::into_listing);
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
    ) -> Result<(usize, MarkedSlot<'static>), CacheError> {
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
            let piece = find_room(&mut pieces, self.0.bytes(), bytes)?;
            let life = slot.begin(identity, piece);
            self.0.ledger(index).clear();
            Ok((index, MarkedSlot { slot, life, back_to: Phase::Free }))
        })
    }

    /// Makes the memory of a slot that is being created a cache.
    #[allow(unsafe_code)] // a piece of the area becomes a cache
    fn format(self, index: usize, new: &MarkedSlot<'_>, config: &Config) -> Result<SharedCache<LwLocks>, CacheError> {
        let piece = new.slot.memory();
        let locks = LwLocks::new(self.0, index, new.life).alone();
        let (memory, stripes) = (self.0.cache_memory(piece), Some(self.0.stripes(index)));
        // SAFETY: `find_room` found the piece unused, and the mark keeps it so; no backend attaches before the slot
        // lives; nobody holds a lock of a slot that is not live for longer than it takes to see that.
        unsafe { SharedCache::create_with_stripes(memory, piece.bytes, config, 0, locks, stripes) }.map_err(|error| {
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
    fn begin_drop(self, listing: &Listing) -> Result<Option<MarkedSlot<'static>>, CacheError> {
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
                Phase::Live => break MarkedSlot { slot, life, back_to: Phase::Live },
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
        self.with_image(listing, LockMode::Shared, ImageWords::persists)
    }

    #[cfg(feature = "extension")]
    pub(super) fn set_persists(self, listing: &Listing, persists: bool) {
        self.with_image(listing, LockMode::Exclusive, |image| image.set_persists(persists));
    }

    /// What is known of the last image of a cache.
    #[cfg(feature = "extension")]
    pub(super) fn saved(self, listing: &Listing) -> SavedImage {
        self.with_image(listing, LockMode::Shared, ImageWords::saved)
    }

    #[cfg(feature = "extension")]
    pub(super) fn set_saved(self, listing: &Listing, saved: SavedImage) {
        self.with_image(listing, LockMode::Exclusive, |image| image.set_saved(saved));
    }

    /// Runs `work` on what is known of the images of a cache, under the catalog's lock; not if the cache is gone.
    #[cfg(feature = "extension")]
    fn with_image<R: Default>(self, listing: &Listing, mode: LockMode, work: impl FnOnce(&ImageWords) -> R) -> R {
        let if_there = || self.has(listing).then(|| work(&self.0.slots()[listing.slot].image));
        self.0.with_catalog(mode, if_there).unwrap_or_default()
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
