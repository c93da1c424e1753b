//! The files of images, in a folder of the data directory.
//!
//! Invariants:
//! - Under an image's own name there is a whole image, or none: it is written under another, synced and renamed. Only its
//!   header is ever written over, by the seal, and has a checksum of its own.
//! - Whoever fails leaves no file behind. What a killed process leaves is removed at the next start.
//!
//! PostgreSQL's processes work in the data directory, so paths are relative to it.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use pgrx::pg_sys;

use crate::shared::image::ImageError;
use crate::shared::image::header::Header;

const FOLDER: &str = "pg_shared_lru";
/// How the names of files end that are being written.
const UNFINISHED: &str = ".tmp";
const BUFFER_BYTES: usize = 256 << 10;

/// Reads in pieces that are not small.
pub(super) fn buffered(file: &File) -> BufReader<&File> {
    BufReader::with_capacity(BUFFER_BYTES, file)
}

/// The file of one cache's image, be it there or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ImageFile {
    pub(super) database: u32,
    pub(super) definition: u64,
}

/// A file under its first name; removed, unless it gets its own.
struct UnfinishedFile {
    path: String,
}

impl Drop for UnfinishedFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl ImageFile {
    pub(super) fn of(database: u32, definition: u64) -> Self {
        ImageFile { database, definition }
    }

    fn path(self) -> String {
        format!("{FOLDER}/{}.{:016x}", self.database, self.definition)
    }

    fn parse(name: &str) -> Option<Self> {
        let (database, definition) = name.split_once('.')?;
        let file =
            ImageFile { database: database.parse().ok()?, definition: u64::from_str_radix(definition, 16).ok()? };
        // No other way to write it is one of ours.
        (file.path().strip_prefix(FOLDER)?.strip_prefix('/')? == name).then_some(file)
    }

    /// All that are there.
    pub(super) fn all() -> impl Iterator<Item = ImageFile> {
        names().filter_map(|name| ImageFile::parse(&name))
    }

    pub(super) fn exists(self) -> bool {
        fs::exists(self.path()).unwrap_or(false)
    }

    /// Opens it for reading; `None` if there is none.
    pub(super) fn open(self) -> io::Result<Option<File>> {
        match File::open(self.path()) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Its header, if there is a file with a good one.
    pub(super) fn header(self) -> Option<Header> {
        Header::read(&mut self.open().ok()??).ok()
    }

    /// Removes it, if it is there. Raises nothing.
    pub(super) fn remove(self) {
        let _ = fs::remove_file(self.path());
    }

    /// Puts what `write` writes in the place of what is there, when all of it is on the disk.
    pub(super) fn replace<R>(
        self,
        write: impl FnOnce(&mut BufWriter<&File>) -> Result<R, ImageError>,
    ) -> Result<R, ImageError> {
        make_folder()?;
        // SAFETY: reads this process's number.
        let process = unsafe { pg_sys::MyProcPid };
        let unfinished = UnfinishedFile { path: format!("{}.{process}{UNFINISHED}", self.path()) };
        let file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(file_mode()).open(&unfinished.path)?;
        let mut out = BufWriter::with_capacity(BUFFER_BYTES, &file);
        let result = write(&mut out)?;
        out.flush()?;
        drop(out);
        sync(&file)?;
        rename(&unfinished.path, &self.path())?;
        std::mem::forget(unfinished);
        Ok(result)
    }

    /// Writes the header of the image that is there over, and syncs it.
    pub(super) fn seal(self, header: &Header) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(self.path())?;
        file.write_all_at(&header.encode(), 0)?;
        sync(&file)
    }
}

/// Removes what killed processes have left of files that were not finished. Only while nobody writes one.
pub(super) fn remove_unfinished() {
    for name in names().filter(|name| name.ends_with(UNFINISHED)) {
        let _ = fs::remove_file(format!("{FOLDER}/{name}"));
    }
}

fn names() -> impl Iterator<Item = String> {
    let entries = fs::read_dir(FOLDER).into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok())
}

/// As PostgreSQL gives to its own files: the owner's, and the group's to read if the data directory is.
fn file_mode() -> u32 {
    // SAFETY: a variable that the postmaster sets once.
    unsafe { pg_sys::data_directory_mode as u32 & 0o666 }
}

fn make_folder() -> io::Result<()> {
    let folder = CString::new(FOLDER).expect("no NUL");
    // SAFETY: NUL-terminated.
    match unsafe { pg_sys::MakePGDirectory(folder.as_ptr()) } {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            error if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            error => Err(error),
        },
    }
}

/// As the setting `fsync` wants it.
fn sync(file: &File) -> io::Result<()> {
    // SAFETY: an open file.
    match unsafe { pg_sys::pg_fsync(file.as_raw_fd()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Renames, and syncs file and folder.
fn rename(from: &str, to: &str) -> io::Result<()> {
    let [from, to] = [from, to].map(|path| CString::new(path).expect("no NUL"));
    // SAFETY: NUL-terminated; at this level it raises nothing, and says in the log what went wrong.
    match unsafe { pg_sys::durable_rename(from.as_ptr(), to.as_ptr(), pg_sys::LOG as i32) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_of_one_image_and_other_names_of_none() {
        let file = ImageFile::of(5, 0x4000_0000_4003);
        assert_eq!(file.path(), "pg_shared_lru/5.0000400000004003");
        assert_eq!(ImageFile::parse("5.0000400000004003"), Some(file));
        for name in
            ["5.0000400000004003.12.tmp", "05.0000400000004003", "5.400000004003", "5.000040000000400G", "5", ""]
        {
            assert_eq!(ImageFile::parse(name), None, "{name}");
        }
    }
}
