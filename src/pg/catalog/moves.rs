//! Caches get other memory than they have: to be of another size, or so that all free memory is one piece.
//!
//! Locking: a cache that is made anew or moved is marked as one that is dropped: its users wait, and what is in use without a
//! lock stays where it is. The copy is made without the catalog's lock.

use std::sync::atomic::{Ordering, fence};

use super::room::next_start;
use super::{Catalog, Listing};
use crate::engine::config::Config;
use crate::pg::error::CacheError;
use crate::pg::named_locks::LwLocks;
use crate::pg::slot::{CacheSlot, Phase, Piece};
use crate::shared::lock::LockMode;

impl Catalog {
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

    /// Moves the caches together, so that all free memory is one piece. One after the other: users of the one that moves
    /// wait for as long as its bytes take to be copied, about a fifth of a second for a gigabyte. Those that are in use
    /// without a lock, or being created or dropped, stay where they are. Returns how many were moved.
    pub fn defragment(self) -> usize {
        let mut caches: Vec<(usize, Listing)> =
            self.list().into_iter().map(|cache| (self.0.slots()[cache.slot].memory().offset_bytes, cache)).collect();
        caches.sort_unstable_by_key(|(offset, _)| *offset);
        caches.into_iter().filter(|(_, cache)| self.move_down(cache)).count()
    }

    /// Moves a cache to the end of the one before it.
    #[allow(unsafe_code)] // a cache's bytes are copied
    fn move_down(self, listing: &Listing) -> bool {
        let Ok(Some(marked)) = self.begin_drop(listing) else { return false };
        let slot = marked.slot;
        let moved = self.0.with_catalog(LockMode::Exclusive, || {
            let old = slot.memory();
            let others = self.0.slots().iter().filter(|other| other.now().1 != Phase::Free);
            let before = others.map(CacheSlot::memory).filter(|other| other.offset_bytes < old.offset_bytes);
            let start = before.map(next_start).max().unwrap_or(0);
            // Until it has been copied the slot keeps the old piece, too.
            let both = Piece { offset_bytes: start, bytes: old.offset_bytes + old.bytes - start };
            (start < old.offset_bytes).then(|| (slot.begin_again(listing.life, both), old, start))
        });
        let Some((life, old, start)) = moved else { return false };
        std::mem::forget(marked);
        let new = Piece { offset_bytes: start, ..old };
        let (from, to) = (self.0.cache_memory(old), self.0.cache_memory(new));
        // Whoever still reads the old place without a lock, and sees a byte of what is written from here on, sees that
        // the life it knows has ended (`Tenancy::is_current`).
        fence(Ordering::Release);
        // SAFETY: both pieces lie in the area. The old one is the cache's, whose users wait; what of the new one is not
        // the old one's was free, and no other cache begins there: the slot has it since the lock was held.
        unsafe { std::ptr::copy(from.as_ptr(), to.as_ptr(), old.bytes) };
        slot.end_move(life, old.bytes);
        true
    }
}
