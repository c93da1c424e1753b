//! Which release of the library a server runs: scripts of the extension ask, for a package may be upgraded under a server
//! that goes on with the library it has preloaded.

use pgrx::prelude::*;

use super::text::ServerText;
use crate::pg::error::CacheError;

const VERSION: &str = env!("CARGO_PKG_VERSION");

#[pg_extern]
fn library_version(required: Option<ServerText<'_>>) -> &'static str {
    if let Some(required) = required.map(ServerText::shown) {
        match (numbers(&required), numbers(VERSION)) {
            (Some(wanted), Some(own)) if wanted > own => CacheError::OldLibrary { required, own: VERSION }.report(),
            (None, _) => CacheError::Parameter(format!("\"{required}\" is no version such as {VERSION}")).report(),
            _ => {}
        }
    }
    VERSION
}

/// A version's three numbers.
fn numbers(version: &str) -> Option<[u32; 3]> {
    let parts: Option<Vec<u32>> = version.split('.').map(|part| part.parse().ok()).collect();
    parts?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number_and_nothing_else_is_one() {
        assert!(numbers("0.10.0") > numbers("0.9.12") && numbers(VERSION).is_some());
        for wrong in ["", "1", "1.2", "1.2.3.4", "1.2.x", "-1.2.3"] {
            assert_eq!(numbers(wrong), None, "{wrong}");
        }
    }
}
