//! Literals that mean the moment at which they are read: `timestamptz 'now'`, `at > 'yesterday'`.
//!
//! PostgreSQL turns a literal into a value of its type while it analyses the query; no function is left of it, so `check`
//! cannot see it. But the value knows where in the query its literal stands, and what is written there tells. Bodies of
//! views have such values since they were made: those have no place, and stay what they are.
//!
//! A time with a zone and without a date has the offset that the zone has on the day on which it is read. So a literal of such
//! a type is refused unless it has a number for its offset.
//!
//! A literal is refused if one of the words is anywhere in it, but for types of which no text means a time. That takes too many, and
//! none too few: in literals with escapes (`E''`, `U&''`), and between dollars, the words may be hidden, or the end be
//! somewhere else.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_void};

use pgrx::{pg_guard, pg_sys};

use super::made_of::parts;
use super::refusal::Refusal;
use crate::pg::refusals::Reason;
use crate::pg::versions;

/// What date and time types read as a moment that depends on when it is.
const WORDS: [&[u8]; 4] = [b"now", b"today", b"tomorrow", b"yesterday"];

struct Search<'a> {
    text: &'a [u8],
    /// The first one, and what is written behind it.
    found: Option<&'a [u8]>,
}

/// Why a query with its literals has no result to keep, if so.
///
/// # Safety
///
/// - It is what PostgreSQL's analysis and rewriting have made of this text.
pub(super) unsafe fn refusal(query: *mut pg_sys::Query, text: &CStr) -> Option<Refusal> {
    let mut search = Search { text: text.to_bytes(), found: None };
    // SAFETY: as the caller says; the walk ends before the search does.
    unsafe { walk(query.cast(), (&raw mut search).cast()) };
    let shown = shown_literal(search.found?);
    Some(Refusal::new(Reason::Clock, format!("literal {shown} means the time at which it is read")))
}

/// A walker of PostgreSQL's: goes on where it returns false.
#[pg_guard]
unsafe extern "C-unwind" fn walk(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: a node of the query, of the kind that its tag says; the context is what `refusal` has given.
    unsafe {
        match (*node).type_ {
            pg_sys::NodeTag::T_Query => versions::walk_query(node.cast(), walk, context),
            pg_sys::NodeTag::T_Const => {
                let (value, search) = (&*node.cast::<pg_sys::Const>(), &mut *context.cast::<Search>());
                let place = usize::try_from(value.location).ok();
                let literal = place.and_then(|place| search.text.get(place..));
                let is_moment = |literal: &&[u8]| {
                    let has_todays_offset =
                        || !value.constisnull && may_be_of_today(value.consttype) && !is_time_with_offset(literal);
                    !is_timeless(value.consttype) && (may_be_a_moment(literal) || has_todays_offset())
                };
                search.found = search.found.or(literal.filter(is_moment));
                search.found.is_some()
            }
            _ => versions::walk_expression(node, walk, context),
        }
    }
}

/// Whether no text of this type means a time: texts, numbers, enumerations and the like, and arrays of these.
fn is_timeless(oid: pg_sys::Oid) -> bool {
    const OTHERS: [pg_sys::Oid; 6] =
        [pg_sys::JSONOID, pg_sys::JSONBOID, pg_sys::JSONPATHOID, pg_sys::XMLOID, pg_sys::BYTEAOID, pg_sys::UUIDOID];
    let (mut category, mut is_preferred) = (0, false);
    // SAFETY: lookups in the catalogs; the type of a value exists.
    unsafe {
        let element = pg_sys::get_base_element_type(oid);
        let oid = if element == pg_sys::InvalidOid { oid } else { element };
        pg_sys::get_type_category_preferred(oid, &mut category, &mut is_preferred);
        matches!(
            category as u8,
            pg_sys::TYPCATEGORY_STRING
                | pg_sys::TYPCATEGORY_NUMERIC
                | pg_sys::TYPCATEGORY_BOOLEAN
                | pg_sys::TYPCATEGORY_ENUM
                | pg_sys::TYPCATEGORY_UNKNOWN
        ) || OTHERS.contains(&oid)
    }
}

/// Whether values of this type are times of day with a zone, or have such in them.
fn may_be_of_today(oid: pg_sys::Oid) -> bool {
    oid == pg_sys::TIMETZOID || parts(oid).into_iter().any(may_be_of_today)
}

/// Whether what is written here is a literal in quotes of one time, with a number for its offset; or with a date.
fn is_time_with_offset(written: &[u8]) -> bool {
    let Some(literal) = written.strip_prefix(b"'").and_then(|rest| rest.split(|byte| *byte == b'\'').next()) else {
        return false;
    };
    let is_one = !literal.iter().any(|byte| b"{[(,".contains(byte));
    is_one && literal.windows(2).any(|pair| matches!(pair, [b'+' | b'-', b'0'..=b'9']))
}

/// Whether what is written here is a literal in quotes that may have one of the words in it.
fn may_be_a_moment(written: &[u8]) -> bool {
    let literal = match written {
        [b'\'', rest @ ..] => {
            let (literal, after) = rest.split_at(rest.iter().position(|byte| *byte == b'\'').unwrap_or(rest.len()));
            let after = after.strip_prefix(b"'").unwrap_or(after).trim_ascii_start();
            // One may go on after a line's end; a doubled quote is taken for that, too.
            if after.starts_with(b"'") || after.starts_with(b"--") {
                return true;
            }
            literal
        }
        // The words may be written as escapes, too.
        [b'e' | b'E' | b'u' | b'U', b'\'' | b'&', ..] => return true,
        [b'$', ..] => written,
        // A number, TRUE, NULL.
        _ => return false,
    };
    WORDS.iter().any(|word| literal.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word)))
}

/// The literal that is written here, for a message: up to the next quote, and not much of it.
fn shown_literal(written: &[u8]) -> String {
    const SHOWN: usize = 40;
    let mut quotes = written.iter().enumerate().filter(|(_, byte)| matches!(byte, b'\'' | b'$')).map(|(at, _)| at);
    let is_dollar = written.first() == Some(&b'$');
    let end = quotes.nth(if is_dollar { 2 } else { 1 }).map_or(written.len(), |at| at + 1);
    let text = String::from_utf8_lossy(&written[..end]);
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_literal_is_shown_without_what_follows_it() {
        for (written, shown) in [
            ("'now' FROM t WHERE v = 'x'", "'now'"),
            ("E'now')", "E'now'"),
            ("$a$now$a$ FROM t", "$a$now$"),
            ("'not ended", "'not ended"),
        ] {
            assert_eq!(shown_literal(written.as_bytes()), shown);
        }
        let long = format!("'{}'", "ä".repeat(50));
        assert_eq!(shown_literal(long.as_bytes()), format!("'{}…", "ä".repeat(39)));
    }

    #[test]
    fn a_time_has_an_offset_only_where_a_number_is_written() {
        for with in ["'12:00+02' FROM t", "'12:00 -3:30'", "'2024-01-01 12:00'"] {
            assert!(is_time_with_offset(with.as_bytes()), "{with}");
        }
        for without in ["'12:00'", "'12:00 MSK'", "'12:00' + '5'", "E'12:00+02'", "$$12:00+02$$", "'{12:00+02,13:00}'"]
        {
            assert!(!is_time_with_offset(without.as_bytes()), "{without}");
        }
    }

    #[test]
    fn words_are_found_in_literals_however_these_are_quoted() {
        for moment in [
            "'now'",
            "'NOW' FROM t",
            "'[today,)'",
            "E'n\\157w'",
            "U&'\\006eow'",
            "$$now$$",
            "$a$ {Tomorrow} $a$",
            "'no'\n'w'",
        ] {
            assert!(may_be_a_moment(moment.as_bytes()), "{moment}");
        }
        for other in ["'2024-01-01' FROM known", "5 FROM known", "true", "'' , 'now'", "epoch"] {
            assert!(!may_be_a_moment(other.as_bytes()), "{other}");
        }
    }
}
