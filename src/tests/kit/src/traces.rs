//! Readers of recorded cache accesses.
//!
//! Purpose: one iterator of [`Access`] over seven file formats, so that a benchmark does not care where a trace came
//! from. A format says how a record is laid out; the file's ending (`.xz`, `.zst`, `.gz`, anything else = plain) says
//! how it is compressed.
//!
//! | format  | record                                                                                   |
//! |---------|------------------------------------------------------------------------------------------|
//! | diskann | 6 bytes: op (`g` get, `p` push), key u32 little-endian, neighbour count u8 (gets: unused)  |
//! | arc     | text: first block, block count, two ignored fields; one access per block                   |
//! | be32    | i32 big-endian key                                                                         |
//! | be64    | i64 big-endian key                                                                         |
//! | lirs    | text: one key a line; a line with only `*` is a comment mark and no access                 |
//! | oracle  | 24 bytes little-endian: u32 time, u64 id, u32 size, i64 next access (libCacheSim)          |
//! | sized   | text: time, id, size                                                                       |
//!
//! Invariants: every record is either yielded in full or ends the iteration with an error that names file, record
//! (from 1) and reason. A file that ends inside a record is an error, never a short last access. Empty text lines are
//! skipped but counted, so that the record number is the line number.
//!
//! It does not keep the trace (it streams), judge keys, or know about caches.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::{FromStr, SplitAsciiWhitespace};

/// A text record longer than this is not a record: most likely a binary file read with a text format.
const MAX_LINE_BYTES: u64 = 4096;

/// The most blocks one `arc` record may stand for; beyond it the record is taken for garbage rather than replayed.
const MAX_BLOCKS_PER_RECORD: u64 = 1 << 20;

/// How the records of a trace are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Diskann,
    Arc,
    Be32,
    Be64,
    Lirs,
    Oracle,
    Sized,
}

impl Format {
    /// Every format, with its name on command lines and what it is.
    pub const ALL: [(Format, &'static str, &'static str); 7] = [
        (Format::Diskann, "diskann", "Builder-neighbour accesses of a DiskANN index build"),
        (Format::Arc, "arc", "Block ranges of the ARC paper's traces"),
        (Format::Be32, "be32", "Big-endian 32-bit keys"),
        (Format::Be64, "be64", "Big-endian 64-bit keys"),
        (Format::Lirs, "lirs", "One key a line, as in the LIRS paper's traces"),
        (Format::Oracle, "oracle", "libCacheSim's oracleGeneral binary records"),
        (Format::Sized, "sized", "Time, id and size, as text"),
    ];

    /// The name that the command line uses.
    pub fn name(self) -> &'static str {
        Format::ALL.iter().find(|(format, ..)| *format == self).map_or("", |(_, name, _)| name)
    }
}

/// What was asked of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// A read; a replay fills the key when it misses.
    Get,
    /// A write of a neighbour list of that many neighbours (`diskann` only).
    Push { neighbours: u8 },
}

/// One access to one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    pub op: Op,
    /// The key as the trace numbers it; signed keys keep their bits.
    pub key: u64,
    /// The object's size, where the trace records one.
    pub size_bytes: Option<u64>,
}

impl Access {
    fn get(key: u64) -> Self {
        Access { op: Op::Get, key, size_bytes: None }
    }
}

/// Why a trace could not be read, and where.
#[derive(Debug)]
pub struct TraceError {
    file: PathBuf,
    /// 1-based; 0 when the file could not be opened.
    record: u64,
    reason: String,
}

impl fmt::Display for TraceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.record {
            0 => write!(f, "{}: {}", self.file.display(), self.reason),
            record => write!(f, "{}, record {record}: {}", self.file.display(), self.reason),
        }
    }
}

impl std::error::Error for TraceError {}

/// Streams the accesses of one trace.
pub struct TraceReader {
    file: PathBuf,
    format: Format,
    input: Box<dyn BufRead>,
    /// Records begun so far.
    records: u64,
    limit: u64,
    /// Blocks of the current `arc` record not yet yielded.
    pending: Range<u64>,
    finished: bool,
}

impl TraceReader {
    /// Opens `file` and reads at most `limit` of its records.
    ///
    /// # Errors
    /// The file cannot be opened, or its compression cannot be set up. A damaged stream shows while reading.
    pub fn open(file: &Path, format: Format, limit: Option<u64>) -> Result<Self, TraceError> {
        let input = decompressed(file).map_err(|error| TraceError {
            file: file.to_path_buf(),
            record: 0,
            reason: error.to_string(),
        })?;
        Ok(TraceReader {
            file: file.to_path_buf(),
            format,
            input,
            records: 0,
            limit: limit.unwrap_or(u64::MAX),
            pending: 0..0,
            finished: false,
        })
    }

    /// How many records have been read.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// The next access, or `None` at the end of the file or the limit.
    fn read_access(&mut self) -> Result<Option<Access>, String> {
        loop {
            if let Some(block) = self.pending.next() {
                return Ok(Some(Access::get(block)));
            }
            if self.records == self.limit {
                return Ok(None);
            }
            self.records += 1;
            let access = match self.format {
                Format::Diskann => self.binary::<6>()?.map(diskann).transpose()?,
                Format::Be32 => self.binary::<4>()?.map(|record| Access::get(u64::from(u32::from_be_bytes(record)))),
                Format::Be64 => self.binary::<8>()?.map(|record| Access::get(u64::from_be_bytes(record))),
                Format::Oracle => self.binary::<24>()?.map(|record| oracle(&record)),
                Format::Arc | Format::Lirs | Format::Sized => {
                    let Some(line) = self.line()? else {
                        return self.end();
                    };
                    match self.parse_line(&line)? {
                        Some(access) => Some(access),
                        None => continue,
                    }
                }
            };
            return match access {
                Some(access) => Ok(Some(access)),
                None => self.end(),
            };
        }
    }

    /// The file ended before the record that was begun.
    fn end(&mut self) -> Result<Option<Access>, String> {
        self.records -= 1;
        Ok(None)
    }

    /// A record of `N` bytes, `None` at the end of the file.
    fn binary<const N: usize>(&mut self) -> Result<Option<[u8; N]>, String> {
        let mut record = [0; N];
        let mut filled = 0;
        while filled < N {
            match self.input.read(&mut record[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(format!("the file ends inside the record: {filled} of {N} bytes")),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(Some(record))
    }

    /// A line without its end, `None` at the end of the file.
    fn line(&mut self) -> Result<Option<String>, String> {
        let mut line = Vec::new();
        let count =
            (&mut self.input).take(MAX_LINE_BYTES).read_until(b'\n', &mut line).map_err(|error| error.to_string())?;
        if count == 0 {
            return Ok(None);
        }
        if count as u64 == MAX_LINE_BYTES && line.last() != Some(&b'\n') {
            return Err(format!("no line end within {MAX_LINE_BYTES} bytes; is it a text trace?"));
        }
        let line = String::from_utf8(line).map_err(|_| "not a line of text".to_string())?;
        Ok(Some(line))
    }

    /// The access of a text record, `None` when it holds none. An `arc` record leaves its blocks in `pending`.
    fn parse_line(&mut self, line: &str) -> Result<Option<Access>, String> {
        let mut fields = line.split_ascii_whitespace();
        match line.trim_ascii() {
            "" => return Ok(None),
            "*" if self.format == Format::Lirs => return Ok(None),
            _ => {}
        }
        match self.format {
            Format::Lirs => {
                let key = field(&mut fields, "key")?;
                no_more(&mut fields)?;
                Ok(Some(Access::get(key)))
            }
            Format::Sized => {
                let _time: u64 = field(&mut fields, "time")?;
                let key = field(&mut fields, "id")?;
                let size_bytes = Some(field(&mut fields, "size")?);
                no_more(&mut fields)?;
                Ok(Some(Access { op: Op::Get, key, size_bytes }))
            }
            _ => {
                let first: u64 = field(&mut fields, "first block")?;
                let count: u64 = field(&mut fields, "block count")?;
                let end = first.checked_add(count);
                self.pending = match end {
                    Some(end) if count <= MAX_BLOCKS_PER_RECORD => first..end,
                    _ => {
                        return Err(format!(
                            "{count} blocks from {first} are more than the {MAX_BLOCKS_PER_RECORD} a record may have"
                        ));
                    }
                };
                Ok(None)
            }
        }
    }
}

impl Iterator for TraceReader {
    type Item = Result<Access, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finished {
            return None;
        }
        match self.read_access() {
            Ok(Some(access)) => Some(Ok(access)),
            Ok(None) => {
                self.finished = true;
                None
            }
            Err(reason) => {
                self.finished = true;
                Some(Err(TraceError { file: self.file.clone(), record: self.records, reason }))
            }
        }
    }
}

fn diskann(record: [u8; 6]) -> Result<Access, String> {
    let [op, k0, k1, k2, k3, neighbours] = record;
    let op = match op {
        b'g' => Op::Get,
        b'p' => Op::Push { neighbours },
        other => return Err(format!("operation byte {other:#04x} is neither 'g' nor 'p'")),
    };
    Ok(Access { op, key: u64::from(u32::from_le_bytes([k0, k1, k2, k3])), size_bytes: None })
}

fn oracle(record: &[u8; 24]) -> Access {
    let mut id = [0; 8];
    id.copy_from_slice(&record[4..12]);
    let mut size = [0; 4];
    size.copy_from_slice(&record[12..16]);
    Access { op: Op::Get, key: u64::from_le_bytes(id), size_bytes: Some(u64::from(u32::from_le_bytes(size))) }
}

fn field<T: FromStr>(fields: &mut SplitAsciiWhitespace<'_>, what: &str) -> Result<T, String> {
    let text = fields.next().ok_or_else(|| format!("the {what} is missing"))?;
    text.parse().map_err(|_| format!("{text:?} is not a {what}"))
}

/// A field too many means another format more often than a comment.
fn no_more(fields: &mut SplitAsciiWhitespace<'_>) -> Result<(), String> {
    match fields.next() {
        None => Ok(()),
        Some(text) => Err(format!("{text:?} is one field too many")),
    }
}

fn decompressed(file: &Path) -> io::Result<Box<dyn BufRead>> {
    let raw = BufReader::new(File::open(file)?);
    let ending = file.extension().and_then(|ending| ending.to_str());
    Ok(match ending {
        Some("xz") => Box::new(BufReader::new(liblzma::bufread::XzDecoder::new_multi_decoder(raw))),
        Some("zst") => Box::new(BufReader::new(zstd::stream::read::Decoder::with_buffer(raw)?)),
        Some("gz") => Box::new(BufReader::new(flate2::bufread::MultiGzDecoder::new(raw))),
        _ => Box::new(raw),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tempfile::TempDir;

    use super::*;

    fn file(folder: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// All accesses of `bytes` read as `format`, or the error's text.
    fn read(format: Format, bytes: &[u8]) -> Result<Vec<Access>, String> {
        let folder = TempDir::new().unwrap();
        let path = file(&folder, "trace", bytes);
        let reader = TraceReader::open(&path, format, None).unwrap();
        reader.map(|access| access.map_err(|error| error.to_string())).collect()
    }

    fn keys(format: Format, bytes: &[u8]) -> Vec<u64> {
        let accesses = read(format, bytes).unwrap();
        accesses.into_iter().map(|access| access.key).collect()
    }

    #[test]
    fn diskann_tells_gets_from_pushes() {
        let accesses = read(Format::Diskann, b"p\x01\x02\0\0\x05g\xff\xff\xff\xff\0").unwrap();
        let expected = [
            Access { op: Op::Push { neighbours: 5 }, key: 0x201, size_bytes: None },
            Access { op: Op::Get, key: 0xffff_ffff, size_bytes: None },
        ];
        assert_eq!(accesses, expected);
    }

    #[test]
    fn an_unknown_diskann_operation_is_an_error_with_its_record() {
        let error = read(Format::Diskann, b"g\0\0\0\0\0x\0\0\0\0\0").unwrap_err();
        assert!(error.contains("record 2"), "{error}");
        assert!(error.contains("0x78"), "{error}");
    }

    #[test]
    fn arc_yields_every_block_of_a_range() {
        assert_eq!(keys(Format::Arc, b"7 3 0 0\n1 1 0 9\n"), [7, 8, 9, 1]);
    }

    #[test]
    fn an_arc_range_beyond_bounds_is_an_error() {
        for line in ["1 9999999999 0 0", "18446744073709551615 2 0 0", "5"] {
            let error = read(Format::Arc, line.as_bytes()).unwrap_err();
            assert!(error.contains("record 1"), "{error}");
        }
    }

    #[test]
    fn big_endian_keys_keep_their_bits() {
        assert_eq!(keys(Format::Be32, &[0, 0, 1, 2, 0xff, 0xff, 0xff, 0xfe]), [0x102, 0xffff_fffe]);
        assert_eq!(keys(Format::Be64, &[0x80, 0, 0, 0, 0, 0, 0, 1]), [0x8000_0000_0000_0001]);
    }

    #[test]
    fn lirs_skips_marks_and_empty_lines() {
        assert_eq!(keys(Format::Lirs, b"3\n*\n\n4\r\n5"), [3, 4, 5]);
    }

    #[test]
    fn oracle_and_sized_carry_sizes() {
        let mut record = Vec::new();
        record.extend(9u32.to_le_bytes());
        record.extend(77u64.to_le_bytes());
        record.extend(4096u32.to_le_bytes());
        record.extend((-1i64).to_le_bytes());
        let sized = |key, size_bytes| Access { op: Op::Get, key, size_bytes: Some(size_bytes) };
        assert_eq!(read(Format::Oracle, &record).unwrap(), [sized(77, 4096)]);
        assert_eq!(read(Format::Sized, b"1 2 30\n2 4 50\n").unwrap(), [sized(2, 30), sized(4, 50)]);
    }

    #[test]
    fn a_record_cut_short_is_an_error() {
        for (format, whole_bytes) in [(Format::Diskann, 6), (Format::Be32, 4), (Format::Be64, 8), (Format::Oracle, 24)]
        {
            let mut bytes = vec![b'g'; whole_bytes * 2];
            assert_eq!(read(format, &bytes).unwrap().len(), 2);
            bytes.pop();
            let error = read(format, &bytes).unwrap_err();
            assert!(error.contains("record 2"), "{error}");
            assert!(error.contains("ends inside"), "{error}");
        }
    }

    #[test]
    fn a_line_that_is_no_record_is_an_error() {
        for (format, line) in [
            (Format::Lirs, "1\nfour\n"),
            (Format::Lirs, "1\n2 3\n"),
            (Format::Sized, "1 2 3\n1 2 3 4\n"),
            (Format::Sized, "1 2 3\n1 2\n"),
            (Format::Arc, "1 1 0 0\n1 -1 0 0\n"),
        ] {
            let error = read(format, line.as_bytes()).unwrap_err();
            assert!(error.contains("record 2"), "{error}");
        }
        let endless = read(Format::Lirs, &[b'1'; 10_000]).unwrap_err();
        assert!(endless.contains("no line end"), "{endless}");
    }

    #[test]
    fn the_ending_chooses_the_compression() {
        let plain = b"1\n2\n3\n".repeat(1000);
        let folder = TempDir::new().unwrap();
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&plain).unwrap();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(&plain).unwrap();
        let zst = zstd::stream::encode_all(&plain[..], 1).unwrap();
        let packed = [("t.gz", gz.finish().unwrap()), ("t.xz", xz.finish().unwrap()), ("t.zst", zst)];
        for (name, bytes) in packed {
            let path = file(&folder, name, &bytes);
            let reader = TraceReader::open(&path, Format::Lirs, None).unwrap();
            assert_eq!(reader.map(Result::unwrap).count(), 3000, "{name}");

            let path = file(&folder, name, &bytes[..bytes.len() - 9]);
            let mut reader = TraceReader::open(&path, Format::Lirs, None).unwrap();
            let error = reader.find_map(Result::err).map(|error| error.to_string());
            assert!(error.is_some_and(|text| text.contains(name)), "{name}");
            assert!(reader.next().is_none(), "{name} goes on after its error");
        }
    }

    #[test]
    fn a_limit_counts_records_not_accesses() {
        let folder = TempDir::new().unwrap();
        let path = file(&folder, "trace", b"10 2 0 0\n20 2 0 0\n30 2 0 0\n");
        let mut reader = TraceReader::open(&path, Format::Arc, Some(2)).unwrap();
        let keys: Vec<u64> = reader.by_ref().map(|access| access.unwrap().key).collect();
        assert_eq!((keys, reader.records()), (vec![10, 11, 20, 21], 2));

        let mut reader = TraceReader::open(&path, Format::Arc, Some(9)).unwrap();
        assert_eq!((reader.by_ref().count(), reader.records()), (6, 3));
    }

    #[test]
    fn a_missing_file_is_named() {
        let missing = PathBuf::from("/nowhere/trace.xz");
        let error = TraceReader::open(&missing, Format::Lirs, None).map(drop).unwrap_err();
        assert!(error.to_string().contains("/nowhere/trace.xz"));
    }
}
