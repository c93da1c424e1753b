//! Caches that outlive a restart: images saved and restored. docs/persistence.md says when an image is current, and why.
//!
//! ```text
//! file     the files: names, replacement, removal
//! ending   the server's clean ends, and what the postmaster does at the start and at the end
//! ```
//!
//! Invariants:
//! - An image is restored in the run of the server that follows the end its seal stands for, and once: the seal is taken off
//!   before others can use the cache.
//! - While an image of this run is unread, nobody invalidates past it (`before_invalidating`).
//!
//! Locking: what a slot says of its image is written under the catalog's exclusive lock, or by the one who creates the cache.
//! No file is touched under a lock.
//!
//! Not here: the format (`shared::image`).
#![allow(unsafe_code)]

mod ending;
mod file;

use std::io::Seek;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use pgrx::pg_sys;
use xxhash_rust::xxh3::xxh3_64;

pub(super) use self::ending::watch;
use self::file::ImageFile;
use super::area::{self, Area};
use super::catalog::{CacheId, Catalog};
use super::definitions::options::Options;
use super::error::CacheError;
use super::named_locks::LwLocks;
use super::slot::SavedImage;
use super::stored::outlives_the_server;
use super::{drops, encoding, handles};
use crate::shared::cache::SharedCache;
use crate::shared::image::ImageError;
use crate::shared::image::header::{Header, Seal};
use crate::shared::image::read::ImageReader;

/// The header of a new image of a cache.
fn new_header(cluster: u64, database: u32, definition: u64, cache: &SharedCache<LwLocks>, seal: Seal) -> Header {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    // SAFETY: reads this process's number.
    let process = unsafe { pg_sys::MyProcPid } as u128;
    let unique = [now.as_nanos(), process << 64 | u128::from(cache.incarnation())].map(u128::to_le_bytes).concat();
    // 0 stands for none.
    let number = xxh3_64(&unique).max(1);
    Header { number, cluster, owner: [database.into(), definition], written_ms: now.as_millis() as u64, seal }
}

/// Whether the statement is to be cancelled, or the process to end.
fn is_asked_to_stop() -> bool {
    // SAFETY: reads flags of this process's, which its signal handlers set.
    unsafe {
        (&raw const pg_sys::QueryCancelPending).read_volatile() != 0
            || (&raw const pg_sys::ProcDiePending).read_volatile() != 0
    }
}

/// While it lives, what interrupts a statement waits: an exit would leave a half-written file behind.
struct InterruptsHeld;

impl InterruptsHeld {
    fn hold() -> Self {
        // SAFETY: a counter of this process's only thread.
        unsafe { pg_sys::InterruptHoldoffCount += 1 };
        InterruptsHeld
    }
}

impl Drop for InterruptsHeld {
    fn drop(&mut self) {
        // SAFETY: as above. An ERROR has set it to 0.
        unsafe { pg_sys::InterruptHoldoffCount = pg_sys::InterruptHoldoffCount.saturating_sub(1) };
    }
}

/// Writes an image of a cache of the current database; how many entries it has.
///
/// # Errors
///
/// The library is not preloaded, the definition does not keep the cache, or the image cannot be written.
pub(super) fn save(
    name: &str,
    definition: u64,
    options: &Options,
    cache: &SharedCache<LwLocks>,
) -> Result<u64, CacheError> {
    if !area::is_preloaded() {
        return Err(CacheError::NotKept(name.to_owned(), "the library was not loaded at server start"));
    }
    if !options.persist {
        return Err(CacheError::NotKept(name.to_owned(), "its definition does not say persist"));
    }
    let database = handles::my_database();
    // SAFETY: reads what the control file says, from shared memory.
    let cluster = unsafe { pg_sys::GetSystemIdentifier() };
    let header = new_header(cluster, database, definition, cache, Seal::NONE);
    let catalog = Catalog::open()?;
    // Before anything is read: what is noted is noted for this life of the memory, and no other.
    let listing = catalog.find(database, CacheId::Definition(definition));
    let go_on = || if is_asked_to_stop() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    let held = InterruptsHeld::hold();
    let written = ImageFile::of(database, definition)
        .replace(|file| cache.write_image(&header, file, outlives_the_server, go_on));
    drop(held);
    pgrx::check_for_interrupts!();
    let written = written.map_err(|error| CacheError::Image(name.to_owned(), error.to_string()))?;
    if let Some(listing) = listing {
        let (number, saved_ms) = (header.number, header.written_ms);
        catalog.set_saved(&listing, SavedImage { number, changes: written.changes, saved_ms });
    }
    Ok(written.entries)
}

/// What became of the image of a cache whose memory was made.
#[derive(Debug)]
pub(super) enum Restoration {
    /// There was none.
    NoImage,
    /// It was read.
    Restored(SavedImage),
    /// It is not what it should be; the cache is empty.
    Refused(String),
    /// The statement is to be cancelled; the image is as it was.
    Interrupted,
}

/// Fills a new cache of the current database, which nobody else can use yet, with what its image has. Raises nothing.
pub(super) fn restore(area: Area, definition: u64, cache: &SharedCache<LwLocks>) -> Restoration {
    if !area::is_preloaded() {
        return Restoration::NoImage;
    }
    let file = ImageFile::of(handles::my_database(), definition);
    match try_restore(area, &file, definition, cache) {
        Ok(restored) => restored.map_or(Restoration::NoImage, Restoration::Restored),
        Err(NotRestored::Image(ImageError::Interrupted)) => Restoration::Interrupted,
        Err(refusal) => {
            file.remove();
            Restoration::Refused(refusal.to_string())
        }
    }
}

/// Why an image is not restored.
#[derive(Debug, thiserror::Error)]
enum NotRestored {
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("it is of the cluster with system identifier {0}, this is {1}")]
    Cluster(u64, u64),
    #[error("it is of another cache")]
    Owner,
    #[error("the server has not started from the clean shutdown at which it was current")]
    Ending,
}

impl From<std::io::Error> for NotRestored {
    fn from(error: std::io::Error) -> Self {
        NotRestored::Image(error.into())
    }
}

fn try_restore(
    area: Area,
    file: &ImageFile,
    definition: u64,
    cache: &SharedCache<LwLocks>,
) -> Result<Option<SavedImage>, NotRestored> {
    // Where interrupts are held off, whoever waits for them would wait in vain.
    // SAFETY: counters of this process's only thread.
    let may_stop = unsafe { pg_sys::InterruptHoldoffCount == 0 && pg_sys::QueryCancelHoldoffCount == 0 };
    let go_on = || if may_stop && is_asked_to_stop() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    let Some(mut open) = file.open()? else { return Ok(None) };
    let image = ImageReader::open(file::buffered(&open))?;
    let header = *image.header();
    // SAFETY: reads what the control file says, from shared memory.
    let cluster = unsafe { pg_sys::GetSystemIdentifier() };
    if header.cluster != cluster {
        return Err(NotRestored::Cluster(header.cluster, cluster));
    }
    if header.owner != [handles::my_database().into(), definition] {
        return Err(NotRestored::Owner);
    }
    let words = area.words();
    let seal = Seal([words.seal[0].get(), words.seal[1].get()]);
    if seal == Seal::NONE || header.seal != seal {
        return Err(NotRestored::Ending);
    }
    let restored = image.verify(go_on).and_then(|()| {
        open.rewind()?;
        cache.read_image(ImageReader::open(file::buffered(&open))?, go_on)
    });
    // Nobody reads it once more. What is to be tried again keeps it.
    if !matches!(restored, Err(ImageError::Interrupted)) {
        let unsealed = file.seal(&Header { seal: Seal::NONE, ..header });
        // Whoever sees this finds the cache in the catalog, or sees there that it is being made and waits.
        let _ = words
            .unread_images
            .atomic()
            .fetch_update(Ordering::Release, Ordering::Relaxed, |count| count.checked_sub(1));
        if let Err(error) = unsealed {
            cache.clear();
            return Err(error.into());
        }
    }
    let restored = restored?;
    // Only what is in memory, all of it, may pass for saved: of what is not, nobody counts the invalidations.
    let is_whole = restored.left_out == 0 && restored.entries == cache.len();
    let number = if is_whole { header.number } else { 0 };
    Ok(Some(SavedImage { number, changes: cache.change_count(), saved_ms: header.written_ms }))
}

/// Whether the memory of a cache has to be made before something of it is invalidated: there may be an image that somebody
/// reads later.
pub(super) fn before_invalidating(catalog: Catalog, definition: u64) -> bool {
    catalog.area().words().unread_images.atomic().load(Ordering::Acquire) > 0
        && catalog.find(handles::my_database(), CacheId::Definition(definition)).is_none()
}

/// Says in the log, and to who asked, that a cache is empty, and why.
pub(super) fn warn_of_refusal(name: &str, reason: &str) {
    pgrx::warning!(
        "{}",
        encoding::message(format!("cache \"{name}\" starts empty, its image is not restored: {reason}"))
    );
}

/// Says that what a definition asks for cannot be had.
pub(super) fn warn_if_not_preloaded(name: &str) {
    if !area::is_preloaded() {
        let message = format!(
            "cache \"{name}\" will not outlive a restart: that needs shared_preload_libraries = 'pg_shared_lru'"
        );
        pgrx::warning!("{}", encoding::message(message));
    }
}

/// Whether there is an image of a cache of the current database.
pub(super) fn exists(definition: u64) -> bool {
    area::is_preloaded() && ImageFile::of(handles::my_database(), definition).exists()
}

/// Removes the image of a cache of the current database, if there is one. Raises nothing.
pub(super) fn remove(definition: u64) {
    if area::is_preloaded() {
        ImageFile::of(handles::my_database(), definition).remove();
    }
}

/// Removes the images of a database that is gone. Raises nothing.
pub(super) fn remove_of_database(database: u32) {
    remove_where(|of, _| of == database);
}

/// Removes the images for which `is_orphan` says yes, of a database and a definition.
pub(super) fn remove_where(is_orphan: impl Fn(u32, u64) -> bool) {
    if area::is_preloaded() {
        ImageFile::all().filter(|file| is_orphan(file.database, file.definition)).for_each(|file| file.remove());
    }
}

/// Notes for the shutdown whether a cache of the current database is kept; one that is not has no image either.
pub(super) fn set_persists(catalog: Catalog, definition: u64, persists: bool) {
    if let Some(listing) = catalog.find(handles::my_database(), CacheId::Definition(definition)) {
        catalog.set_persists(&listing, persists);
    }
    if !persists {
        remove(definition);
    }
}

/// Notes that the current transaction alters whether a cache is kept.
pub(super) fn note_altered(definition: u64) {
    drops::note_persistence(definition);
}
