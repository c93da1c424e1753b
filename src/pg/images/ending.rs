//! The clean ends of the server, and what the postmaster does at the start and at the end.
//!
//! An end is known by the control file as the last checkpoint has left it: every run of a server, whatever libraries it has,
//! changes that file at its start, and no two ends leave the same. So whoever starts from a file with the same bytes starts
//! from the same database. The file is read at the two moments when nobody writes it: while the postmaster makes shared memory,
//! before it starts recovery; and when all of its children are gone.
//!
//! Why the postmaster: no session can commit any more, which would invalidate something after it was written. It raises
//! nothing, waits for no lock (nobody is there who could hold one), and does nothing after an end that is not clean.
#![allow(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::Ordering;

use pgrx::{pg_guard, pg_sys};
use xxhash_rust::xxh3::xxh3_128;

use super::file::{self, ImageFile};
use super::new_header;
use crate::pg::area::Area;
use crate::pg::catalog::{Catalog, Listing};
use crate::pg::hooks::{PlainHook, Previous};
use crate::pg::slot::NO_DATABASE;
use crate::pg::stored::outlives_the_server;
use crate::shared::image::header::{Header, Seal};

static PREVIOUS: Previous<PlainHook> = Previous::new();

/// Files that make the server replay what others have written.
const REPLAYS: [&str; 2] = ["standby.signal", "recovery.signal"];
const BACKUP: &str = "backup_label";

/// What the control file says.
struct ControlFile {
    cluster: u64,
    seal: Seal,
    state: pg_sys::DBState::Type,
}

impl ControlFile {
    fn read() -> Option<ControlFile> {
        let bytes = std::fs::read("global/pg_control").ok()?;
        if bytes.len() < size_of::<pg_sys::ControlFileData>() {
            return None;
        }
        // SAFETY: as many bytes as the structure has, which the server itself reads so; numbers only.
        let control = unsafe { bytes.as_ptr().cast::<pg_sys::ControlFileData>().read_unaligned() };
        let hash = xxh3_128(&bytes);
        // Nothing that is sealed has the seal of nothing.
        let seal = Seal([hash as u64 | 1, (hash >> 64) as u64]);
        Some(ControlFile { cluster: control.system_identifier, seal, state: control.state })
    }

    /// What it says if the server has ended cleanly.
    fn of_clean_end() -> Option<ControlFile> {
        use pg_sys::DBState::{DB_SHUTDOWNED, DB_SHUTDOWNED_IN_RECOVERY};
        ControlFile::read().filter(|control| [DB_SHUTDOWNED, DB_SHUTDOWNED_IN_RECOVERY].contains(&control.state))
    }

    /// The same at a start, if the server goes on with what it had: what it replays from elsewhere invalidates nothing here.
    fn of_clean_start() -> Option<ControlFile> {
        let replays = REPLAYS.iter().any(|file| Path::new(file).exists());
        let goes_on = |control: &ControlFile| replays == (control.state == pg_sys::DBState::DB_SHUTDOWNED_IN_RECOVERY);
        ControlFile::of_clean_end().filter(goes_on).filter(|_| !Path::new(BACKUP).exists())
    }
}

/// Has the postmaster look at its start and at its end. Only while it loads its libraries, after the area was requested.
pub(in crate::pg) fn watch() {
    // SAFETY: runs in the postmaster's only thread while it loads libraries.
    unsafe { PREVIOUS.install(&raw mut pg_sys::shmem_startup_hook, Some(at_start)) };
}

/// Once shared memory exists: at the start, and again after a crash. The area was made by the hook before.
#[pg_guard]
unsafe extern "C-unwind" fn at_start() {
    // SAFETY: the moment is that of this hook.
    unsafe { PREVIOUS.call() };
    // SAFETY: reads a variable of this process's only thread.
    let Some(area) = Area::mapped().filter(|_| unsafe { !pg_sys::IsUnderPostmaster }) else { return };
    file::remove_unfinished();
    let seal = ControlFile::of_clean_start().map_or(Seal::NONE, |control| control.seal);
    let unread = if seal == Seal::NONE { 0 } else { ImageFile::all().filter(|file| has_seal(*file, seal)).count() };
    let words = area.words();
    words.unread_images.atomic().store(unread as u32, Ordering::Relaxed);
    words.seal.iter().zip(seal.0).for_each(|(word, half)| word.set(half));
    // SAFETY: the callback has the right type and lives as long as the library; children forget it.
    unsafe { pg_sys::on_shmem_exit(Some(at_end), pg_sys::Datum::from(0)) };
}

fn has_seal(file: ImageFile, seal: Seal) -> bool {
    file.header().is_some_and(|header| header.seal == seal)
}

/// When shared memory is about to go. `code` is not 0 after a crash.
#[pg_guard]
unsafe extern "C-unwind" fn at_end(code: i32, _argument: pg_sys::Datum) {
    if code == 0
        && let Some(catalog) = Catalog::mapped()
        && let Some(control) = ControlFile::of_clean_end()
        && catch_unwind(AssertUnwindSafe(|| write_all(catalog, &control))).is_err()
    {
        pgrx::log!("pg_shared_lru has not written all images of its caches");
    }
}

fn write_all(catalog: Catalog, control: &ControlFile) {
    let words = catalog.area().words();
    let before = Seal([words.seal[0].get(), words.seal[1].get()]);
    let caches = catalog.list();
    for cache in &caches {
        let Some(definition) = cache.definition.filter(|_| cache.database != NO_DATABASE && catalog.persists(cache))
        else {
            continue;
        };
        if let Err(error) = write(catalog, cache, definition, control) {
            // What is there is not of this end.
            ImageFile::of(cache.database, definition).remove();
            pgrx::warning!(
                "cache \"{}\" will be empty after the restart, its image cannot be written: {error}",
                cache.name
            );
        }
    }
    // What nobody has used is as current as it was.
    let is_in_memory = |file: &ImageFile| {
        caches.iter().any(|cache| (cache.database, cache.definition) == (file.database, Some(file.definition)))
    };
    for file in ImageFile::all().filter(|file| before != Seal::NONE && !is_in_memory(file)) {
        if let Some(header) = file.header().filter(|header| header.seal == before)
            && let Err(error) = file.seal(&Header { seal: control.seal, ..header })
        {
            file.remove();
            pgrx::warning!("an image of a cache that nobody has used cannot be kept: {error}");
        }
    }
}

/// Sees to it that there is an image of a cache as it is now, with the seal of this end.
fn write(
    catalog: Catalog,
    listing: &Listing,
    definition: u64,
    control: &ControlFile,
) -> Result<(), Box<dyn std::error::Error>> {
    let file = ImageFile::of(listing.database, definition);
    let cache = catalog.attach_alone(listing)?;
    let saved = catalog.saved(listing);
    let owner = [listing.database.into(), definition];
    let is_saved = |header: &Header| {
        saved.number == header.number
            && saved.changes == cache.change_count()
            && (header.cluster, header.owner) == (control.cluster, owner)
    };
    if let Some(header) = file.header().filter(is_saved) {
        return Ok(file.seal(&Header { seal: control.seal, ..header })?);
    }
    let header = new_header(control.cluster, listing.database, definition, &cache, control.seal);
    let go_on = || std::ops::ControlFlow::Continue(());
    file.replace(|out| cache.write_image(&header, out, outlives_the_server, go_on))?;
    Ok(())
}
