//! Whether a value that depends on lines of the commit rings is what the running statement may see. docs/leases.md has
//! the argument.
//!
//! A value notes what its lines said to the snapshot in which it was stored. It is current for another snapshot to which
//! they say the same. Once a line says more than that to somebody, it does so to all who come later: then the value may go.
//!
//! Not here: who publishes (`invalidations`), how a value keeps its dependencies (`stored`).

use super::catalog::Catalog;
use super::invalidations::{self, Target};
use super::snapshot::ActiveSnapshot;
use super::stored::Dependency;
use crate::rings::key::DependencyHash;
use crate::rings::table::Rings;

/// What the running statement may make of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freshness {
    /// It sees what the value was made of.
    Current,
    /// It cannot tell, or sees less.
    Unknown,
    /// It sees more, as all will that come later.
    Outdated,
}

/// What is published in the lines that something depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    /// Tags and keys, by who invalidates them.
    Tags,
    /// Relations and definitions, by who writes them. Whoever writes them in its own transaction asks elsewhere.
    Relations,
}

/// What a line says to the running statement; `None` if it does not tell, or has publications whose end the statement
/// does not see.
pub(super) fn settled(rings: &Rings, key: DependencyHash) -> Option<Dependency> {
    let line = rings.line_of(key);
    let definitions = rings.definitions(line)?;
    let publications = rings.ver(&ActiveSnapshot::get()?, line, definitions)?.get();
    let dependency = Dependency { line, definitions, publications };
    is_unchanged(rings, &dependency).then_some(dependency)
}

/// What tags of a cache say to the running statement; `None` if one of them is being invalidated, or is by the current
/// transaction.
pub(super) fn all_settled<'a>(
    rings: &Rings,
    number: u64,
    tags: impl Iterator<Item = &'a [u8]>,
) -> Option<Vec<Dependency>> {
    tags.map(|tag| {
        settled(rings, Target::Tag(tag).hash(number)).filter(|dependency| !invalidations::hides_line(dependency.line))
    })
    .collect()
}

/// Whether nobody has published in a line since.
pub(super) fn is_unchanged(rings: &Rings, dependency: &Dependency) -> bool {
    rings.publications(dependency.line).get() == dependency.publications
        && rings.definitions(dependency.line) == Some(dependency.definitions)
}

/// What the running statement may make of a value with these dependencies.
pub(super) fn judge(of: Of, dependencies: impl Iterator<Item = Dependency>) -> Freshness {
    let rings = Catalog::mapped().and_then(|catalog| catalog.area().rings());
    let (Some(rings), Some(snapshot)) = (rings, ActiveSnapshot::get()) else { return Freshness::Unknown };
    let mut worst = Freshness::Current;
    for Dependency { line, definitions, publications } in dependencies {
        if of == Of::Tags && invalidations::hides_line(line) {
            return Freshness::Unknown;
        }
        let seen = match of {
            Of::Tags => rings.ver(&snapshot, line, definitions),
            Of::Relations => rings.ver_of_relation(&snapshot, line, definitions),
        };
        match seen.map(|seen| seen.get()) {
            Some(seen) if seen == publications => {}
            Some(seen) if seen > publications => return Freshness::Outdated,
            Some(_) => worst = Freshness::Unknown,
            None if rings.definitions(line).is_some_and(|now| now != definitions) => return Freshness::Outdated,
            None => worst = Freshness::Unknown,
        }
    }
    worst
}
