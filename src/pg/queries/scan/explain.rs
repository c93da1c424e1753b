//! What is said of the node and of its statement: by EXPLAIN, and to who looks at kept results.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_int};

use pgrx::{pg_guard, pg_sys};

use super::below::{Below, Outcome};
use super::lookup::refused_by_cache;
use super::{Node, Source};
use crate::pg::encoding;
use crate::pg::queries::basis::Basis;
use crate::pg::queries::knowing::PlannedWith;
use crate::pg::queries::lists::oids;
use crate::pg::queries::rows::About;

#[pg_guard]
pub(super) unsafe extern "C-unwind" fn explain(
    node: *mut pg_sys::CustomScanState,
    _ancestors: *mut pg_sys::List,
    state: *mut pg_sys::ExplainState,
) {
    // SAFETY: a node of ours that has begun.
    let (running, is_analyzed) = unsafe { (&*(*node.cast::<Node>()).running, (*state).analyze) };
    let Some(marked) = &running.marked else { return };
    let show = |label: &CStr, text: String| {
        let text = CString::new(encoding::message(text)).unwrap_or_default();
        // SAFETY: texts that outlive the call.
        unsafe { pg_sys::ExplainPropertyText(label.as_ptr(), text.as_ptr(), state) };
    };
    show(c"Cache", marked.cache.clone());
    if let PlannedWith::Refused(why) = &marked.planned {
        return show(c"Not Kept", why.to_string());
    }
    if let Some(why) = refused_by_cache(marked) {
        return show(c"Not Kept", why.to_string());
    }
    if is_analyzed {
        let result = match &running.source {
            Source::Kept(kept) => kept.outcome.to_owned(),
            Source::Below(Below { outcome: Outcome::Stored(Basis::Rings(_)), .. }) => "miss, stored".to_owned(),
            Source::Below(Below { outcome: Outcome::Stored(Basis::Age(_)), .. }) => "miss, stored unchecked".to_owned(),
            Source::Below(Below { outcome: Outcome::NotStored(why), .. }) => format!("miss, not stored: {why}"),
            Source::Below(_) => "miss, not stored: it was not read to its end".to_owned(),
        };
        show(c"Result", result);
    }
}

/// What is kept of a statement for who looks at its result: the beginning of its text, and its relations, as the plan has them.
///
/// # Safety
///
/// - The state of a query that begins.
pub(super) unsafe fn about(estate: *mut pg_sys::EState) -> About {
    const MAX_BYTES: usize = 1024;
    // SAFETY: as the caller says: a plan, and the NUL-terminated text that it was made of.
    unsafe {
        let (statement, source) = (&*(*estate).es_plannedstmt, (*estate).es_sourceText);
        let mut relations: Vec<pg_sys::Oid> = oids(statement.relationOids).collect();
        relations.sort_unstable_by_key(|oid| oid.to_u32());
        relations.dedup();
        let source = if source.is_null() { &[][..] } else { CStr::from_ptr(source).to_bytes() };
        let from = usize::try_from(statement.stmt_location).unwrap_or(0).min(source.len());
        let len = usize::try_from(statement.stmt_len).ok().filter(|len| *len > 0).unwrap_or(source.len());
        let text = without_comment(source[from..][..len.min(source.len() - from)].trim_ascii());
        let whole = pg_sys::pg_mbcliplen(text.as_ptr().cast(), text.len() as c_int, MAX_BYTES as c_int) as usize;
        About { text: text[..whole].to_vec(), relations }
    }
}

/// A statement without the comment before it, which PostgreSQL counts as a part of it or not, by its version.
fn without_comment(statement: &[u8]) -> &[u8] {
    let end = statement.starts_with(b"/*").then(|| statement.windows(2).position(|pair| pair == b"*/")).flatten();
    end.map_or(statement, |end| statement[end + 2..].trim_ascii_start())
}
