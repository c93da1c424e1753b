//! What SQL stores under a key: the value, what belongs to it, and a byte that says what that is.
//!
//! ```text
//! ┌───────┬ ─ ─ ─ ─ ─ ─ ┬ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ┬ ─ ─ ─ ─ ─ ─ ─ ─ ┬ ─ ─ ─ ─ ─ ─ ┬──────┐
//! │ value │  type: 12   │  dependencies: 20 each, number: 1  │ tags: the same │ outdated: 8 │ kind │
//! └───────┴ ─ ─ ─ ─ ─ ─ ┴ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ┴ ─ ─ ─ ─ ─ ─ ─ ─ ┴ ─ ─ ─ ─ ─ ─ ┴──────┘
//! kind      0: a `bytea` or text, and nothing more; bit 0: of the type that is named; bit 1: with dependencies;
//!           bit 2: the result of a query, whose dependencies are relations and definitions, not tags; bit 3: which
//!           has tags, too; bit 4: which may be served for a while when it is outdated; bit 5: because rows have changed
//! ```
//!
//! It stands at the end, so that a value is copied to where its reader wants it, and then cut.
//!
//! Not here: whether dependencies hold (`tags`), what types are (`types`).

use super::error::CacheError;
use crate::rings::definitions::Definitions;
use crate::rings::table::LineIndex;

const TYPED: u8 = 1;
const DEPENDENT: u8 = 2;
const RESULT: u8 = 4;
const TAGGED: u8 = 8;
const GRACED: u8 = 16;
const ROWS_CHANGED: u8 = 32;
const KINDS: u8 = TYPED | DEPENDENT | RESULT | TAGGED | GRACED | ROWS_CHANGED;

/// The byte that says what is stored, which everything has.
const KIND_BYTES: u32 = 1;

/// The bytes of what is stored, for a value of so many that has neither type nor tags.
pub(super) fn stored_bytes(value: u32) -> u32 {
    value.saturating_add(KIND_BYTES)
}

/// The bytes of a value with what belongs to its type and tags, as SQL counts them.
pub(super) fn shown_bytes(stored: usize) -> usize {
    stored - KIND_BYTES as usize
}

/// The most dependencies that anything has.
pub(super) const MAX_DEPENDENCIES: usize = u8::MAX as usize;
const TYPE_BYTES: usize = 12;
const DEPENDENCY_BYTES: usize = 20;
const OUTDATED_BYTES: usize = 8;

/// Of which type a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StoredType {
    /// PostgreSQL's number.
    pub(super) oid: u32,
    /// Changes with the type's definition.
    pub(super) fingerprint: u64,
}

/// What a line said when a value was stored: it is current while the line says the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dependency {
    pub(super) line: LineIndex,
    pub(super) definitions: Definitions,
    /// How many publications had ended.
    pub(super) publications: u64,
}

impl Dependency {
    fn to_bytes(self) -> [u8; DEPENDENCY_BYTES] {
        let mut bytes = [0; DEPENDENCY_BYTES];
        bytes[..4].copy_from_slice(&self.line.get().to_le_bytes());
        bytes[4..12].copy_from_slice(&self.definitions.to_u64().to_le_bytes());
        bytes[12..].copy_from_slice(&self.publications.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Dependency {
        let long = |from: usize| u64::from_le_bytes(bytes[from..from + 8].try_into().expect("eight bytes"));
        Dependency {
            line: LineIndex::new(u32::from_le_bytes(bytes[..4].try_into().expect("four bytes"))),
            definitions: Definitions::from_u64(long(4)),
            publications: long(12),
        }
    }

    /// Those that follow each other in `bytes`; `None` if that ends within one.
    pub(super) fn list(bytes: &[u8]) -> Option<impl Iterator<Item = Dependency> + Clone + '_> {
        let chunks = bytes.chunks_exact(DEPENDENCY_BYTES);
        chunks.remainder().is_empty().then(|| chunks.map(Dependency::from_bytes))
    }

    /// Appends them all.
    pub(super) fn append_all(dependencies: &[Dependency], out: &mut Vec<u8>) {
        dependencies.iter().for_each(|dependency| out.extend_from_slice(&dependency.to_bytes()));
    }
}

/// Whether what is stored means the same in another life of the server: what depends on lines does not, for their counts are
/// of this life.
pub(super) fn outlives_the_server(bytes: &[u8]) -> bool {
    bytes.last().is_some_and(|kind| kind & (DEPENDENT | RESULT) == 0)
}

/// From when on a result is known to be outdated, for one that may be served all the same for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outdated {
    /// In microseconds since 1970; [`Outdated::NEVER`]: it does not age.
    pub(super) from_us: u64,
    pub(super) by: OutdatedBy,
}

/// Why a result is outdated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OutdatedBy {
    /// It will have lived as long as it was to.
    Age,
    /// Somebody has seen that its rows have changed.
    Rows,
}

impl Outdated {
    pub(super) const NEVER: u64 = u64::MAX;
}

/// What is stored, taken apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored<'a> {
    pub(super) value: &'a [u8],
    pub(super) of_type: Option<StoredType>,
    /// Whether it is the result of a query.
    pub(super) is_result: bool,
    /// There, if a result may be served for a while when it is outdated.
    pub(super) outdated: Option<Outdated>,
    dependencies: &'a [u8],
    tags: &'a [u8],
}

impl<'a> Stored<'a> {
    /// `None` if no put can have stored this.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Stored<'a>> {
        let (&kind, mut value) = bytes.split_last()?;
        let (mut dependencies, mut tags, mut of_type, mut outdated) = (&[][..], &[][..], None, None);
        if kind & GRACED != 0 {
            let (rest, bytes) = value.split_last_chunk::<OUTDATED_BYTES>()?;
            let by = if kind & ROWS_CHANGED != 0 { OutdatedBy::Rows } else { OutdatedBy::Age };
            (value, outdated) = (rest, Some(Outdated { from_us: u64::from_le_bytes(*bytes), by }));
        }
        if kind & TAGGED != 0 {
            (value, tags) = split_dependencies(value)?;
        }
        if kind & DEPENDENT != 0 {
            (value, dependencies) = split_dependencies(value)?;
        }
        if kind & TYPED != 0 {
            let (rest, bytes) = value.split_last_chunk::<TYPE_BYTES>()?;
            let (oid, fingerprint) = bytes.split_first_chunk::<4>()?;
            let fingerprint = u64::from_le_bytes(fingerprint.try_into().ok()?);
            (value, of_type) = (rest, Some(StoredType { oid: u32::from_le_bytes(*oid), fingerprint }));
        }
        let is_result = kind & RESULT != 0;
        (kind & !KINDS == 0).then_some(Stored { value, of_type, is_result, outdated, dependencies, tags })
    }

    /// Whether these bytes are a value and nothing more: the usual case.
    #[inline]
    pub(super) fn is_plain(bytes: &[u8]) -> bool {
        bytes.last() == Some(&0)
    }

    /// Those of a result on relations and definitions; those of any other value on its tags.
    pub(super) fn dependencies(&self) -> impl Iterator<Item = Dependency> + Clone + 'a {
        Dependency::list(self.dependencies).expect("whole ones: parsed")
    }

    /// Whether it is a result of which nothing tells whether it is right: a checked one depends on functions and roles at least.
    pub(super) fn is_unchecked(&self) -> bool {
        self.is_result && self.dependencies.is_empty()
    }

    /// The tags of a result.
    pub(super) fn tags_of_result(&self) -> impl Iterator<Item = Dependency> + Clone + 'a {
        Dependency::list(self.tags).expect("whole ones: parsed")
    }

    /// What is to be stored.
    ///
    /// # Errors
    ///
    /// There is no memory for it.
    ///
    /// # Panics
    ///
    /// If it has more than [`MAX_DEPENDENCIES`].
    pub(super) fn compose(
        value: &[u8],
        of_type: Option<StoredType>,
        dependencies: &[Dependency],
    ) -> Result<Vec<u8>, CacheError> {
        assert!(dependencies.len() <= MAX_DEPENDENCIES);
        let most = value.len() + TYPE_BYTES + dependencies.len() * DEPENDENCY_BYTES + 2;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(most).map_err(|_| CacheError::OutOfMemory(most))?;
        bytes.extend_from_slice(value);
        let mut kind = 0;
        if let Some(StoredType { oid, fingerprint }) = of_type {
            kind |= TYPED;
            bytes.extend_from_slice(&oid.to_le_bytes());
            bytes.extend_from_slice(&fingerprint.to_le_bytes());
        }
        if !dependencies.is_empty() {
            kind |= DEPENDENT;
            Dependency::append_all(dependencies, &mut bytes);
            bytes.push(dependencies.len() as u8);
        }
        bytes.push(kind);
        Ok(bytes)
    }

    /// The result of a query, as it is to be stored.
    ///
    /// # Errors, Panics
    ///
    /// As [`Stored::compose`].
    pub(super) fn compose_result(
        rows: &[u8],
        dependencies: &[Dependency],
        tags: &[Dependency],
        outdated: Option<Outdated>,
    ) -> Result<Vec<u8>, CacheError> {
        assert!(tags.len() <= MAX_DEPENDENCIES);
        let mut bytes = Stored::compose(rows, None, dependencies)?;
        let mut kind = bytes.pop().unwrap_or_default() | RESULT;
        let more = tags.len() * DEPENDENCY_BYTES + OUTDATED_BYTES + 2;
        bytes.try_reserve_exact(more).map_err(|_| CacheError::OutOfMemory(more))?;
        if !tags.is_empty() {
            kind |= TAGGED;
            Dependency::append_all(tags, &mut bytes);
            bytes.push(tags.len() as u8);
        }
        bytes.push(kind);
        if let Some(outdated) = outdated {
            Stored::set_outdated(&mut bytes, outdated);
        }
        Ok(bytes)
    }

    /// What a result is stored as, that says from when on it is outdated.
    ///
    /// # Errors
    ///
    /// There is no memory for it.
    pub(super) fn with_outdated(stored: &[u8], outdated: Outdated) -> Result<Vec<u8>, CacheError> {
        let most = stored.len() + OUTDATED_BYTES;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(most).map_err(|_| CacheError::OutOfMemory(most))?;
        bytes.extend_from_slice(stored);
        Stored::set_outdated(&mut bytes, outdated);
        Ok(bytes)
    }

    fn set_outdated(bytes: &mut Vec<u8>, outdated: Outdated) {
        let kind = bytes.pop().unwrap_or_default();
        if kind & GRACED != 0 {
            bytes.truncate(bytes.len() - OUTDATED_BYTES);
        }
        bytes.extend_from_slice(&outdated.from_us.to_le_bytes());
        let by = if outdated.by == OutdatedBy::Rows { ROWS_CHANGED } else { 0 };
        bytes.push(kind & !ROWS_CHANGED | GRACED | by);
    }
}

/// Dependencies, with their number behind them, and what is before.
fn split_dependencies(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&count, rest) = bytes.split_last()?;
    rest.split_at_checked(rest.len().checked_sub(usize::from(count) * DEPENDENCY_BYTES)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dependency(number: u32) -> Dependency {
        Dependency {
            line: LineIndex::new(number),
            definitions: Definitions::from_u64(u64::from(number) << 40),
            publications: u64::MAX - u64::from(number),
        }
    }

    #[test]
    fn what_is_composed_is_what_is_parsed() {
        let types = [None, Some(StoredType { oid: 3802, fingerprint: 0x0102_0304_0506_0708 })];
        for value in [&b""[..], b"\0", b"value"] {
            for of_type in types {
                for count in [0, 1, MAX_DEPENDENCIES as u32] {
                    let dependencies: Vec<_> = (0..count).map(dependency).collect();
                    let bytes = Stored::compose(value, of_type, &dependencies).unwrap();
                    let stored = Stored::parse(&bytes).unwrap();
                    assert_eq!((stored.value, stored.of_type), (value, of_type));
                    assert!(stored.dependencies().eq(dependencies.iter().copied()));
                    assert_eq!(Stored::is_plain(&bytes), of_type.is_none() && count == 0);
                    assert_eq!(outlives_the_server(&bytes), count == 0);
                    assert_eq!(bytes.len() == stored_bytes(value.len() as u32) as usize, Stored::is_plain(&bytes));
                    assert_eq!(shown_bytes(bytes.len()) == value.len(), Stored::is_plain(&bytes));
                }
            }
        }
    }

    #[test]
    fn a_result_has_tags_and_says_from_when_on_it_is_outdated() {
        let (none, aged) = (None, Some(Outdated { from_us: 7, by: OutdatedBy::Age }));
        for tags in [&[][..], &[dependency(2)], &[dependency(2), dependency(3)]] {
            for outdated in [none, aged] {
                let mut bytes = Stored::compose_result(b"rows", &[dependency(1)], tags, outdated).unwrap();
                let changed = Some(Outdated { from_us: 9, by: OutdatedBy::Rows });
                for (set, expected) in [(none, outdated), (changed, changed), (aged, aged)] {
                    if let Some(set) = set {
                        bytes = Stored::with_outdated(&bytes, set).unwrap();
                    }
                    let stored = Stored::parse(&bytes).unwrap();
                    assert!(!outlives_the_server(&bytes) && !Stored::is_plain(&bytes) && stored.is_result);
                    assert_eq!((stored.value, stored.outdated), (&b"rows"[..], expected));
                    assert!(stored.dependencies().eq([dependency(1)]));
                    assert!(stored.tags_of_result().eq(tags.iter().copied()));
                }
            }
        }
    }

    #[test]
    fn a_result_that_depends_on_nothing_is_unchecked_and_nothing_else_is() {
        for tags in [&[][..], &[dependency(2)]] {
            for (dependencies, is_unchecked) in [(&[][..], true), (&[dependency(1)], false)] {
                let bytes = Stored::compose_result(b"rows", dependencies, tags, None).unwrap();
                let stored = Stored::parse(&bytes).unwrap();
                assert_eq!(stored.is_unchecked(), is_unchecked);
                assert_eq!((stored.value, stored.tags_of_result().count()), (&b"rows"[..], tags.len()));
                assert!(!outlives_the_server(&bytes) && !Stored::is_plain(&bytes));
            }
        }
        assert!(!Stored::parse(&Stored::compose(b"value", None, &[]).unwrap()).unwrap().is_unchecked());
    }

    #[test]
    fn what_nobody_composed_is_nothing() {
        let whole = Stored::compose(b"", types(), &[dependency(1), dependency(2)]).unwrap();
        for from in 1..=whole.len() {
            assert!(Stored::parse(&whole[from..]).is_none(), "{from} bytes are missing");
        }
        assert!(Stored::parse(&[64]).is_none());
        let whole = Stored::compose_result(b"", &[dependency(1)], &[dependency(2)], None).unwrap();
        for from in 1..=whole.len() {
            assert!(Stored::parse(&whole[from..]).is_none(), "{from} bytes are missing");
        }
    }

    fn types() -> Option<StoredType> {
        Some(StoredType { oid: 1, fingerprint: 2 })
    }
}
