//! Which statement a marked one is, and what its plan knows about it.
//!
//! A statement is known by the *tree* that is planned: analysed and rewritten, so with the numbers of relations and
//! functions, the bodies of views and the policies of row security, and without comments and spaces. So a result is that of
//! a tree, whenever somebody made that tree of a text: names, the search path and a prepared statement's age do not matter.
//! The tree is told by SHA-256 of PostgreSQL's own way to write it, without the places of its parts in the text: `EXPLAIN`
//! and `PREPARE` of a statement have the statement's results.
//!
//! What a plan knows is in the plan, as strings, so that PostgreSQL can copy and keep it.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};

use pgrx::{direct_function_call, pg_sys};

use super::accepted::Condition;
use super::knowing::PlannedWith;
use super::lists::pointers;
use super::refusal::Refusal;
use crate::pg::encoding;
use crate::pg::stored::Dependency;
use crate::pg::versions;

/// Names a tree.
pub(super) type Fingerprint = [u8; 32];

/// What is written of a tree that only says where its parts were in the text.
const PLACES: [&[u8]; 5] = [b":location ", b":stmt_location ", b":stmt_len ", b":list_start ", b":list_end "];

/// The fingerprint of a rewritten query.
///
/// # Safety
///
/// - It is one.
pub(super) unsafe fn fingerprint(query: *mut pg_sys::Query) -> Fingerprint {
    // SAFETY: a NUL-terminated text, in the current memory context.
    let written = unsafe { CStr::from_ptr(pg_sys::nodeToString(query.cast())) };
    let tree = without_places(written.to_bytes());
    // SAFETY: a function of one `bytea`, which is what bytes become.
    let hash =
        unsafe { direct_function_call::<&[u8]>(pg_sys::sha256_bytea, &[pgrx::IntoDatum::into_datum(&tree[..])]) };
    hash.and_then(|hash| hash.try_into().ok()).expect("a hash of 32 bytes")
}

/// A written tree without the numbers of places. Within a value each space has a backslash before it.
fn without_places(tree: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(tree.len());
    let mut left = tree;
    while let Some(at) = left.windows(2).position(|pair| pair == b" :") {
        let (before, field) = left.split_at(at + 1);
        out.extend_from_slice(before);
        left = field;
        if let Some(name) = PLACES.iter().find(|name| field.starts_with(name)) {
            out.extend_from_slice(name);
            let digits = |byte: &u8| byte.is_ascii_digit() || *byte == b'-';
            let number = field[name.len()..].iter().take_while(|byte| digits(byte)).count();
            left = &field[name.len() + number..];
        } else {
            out.push(b':');
            left = &left[1..];
        }
    }
    out.extend_from_slice(left);
    out
}

/// What the plan of a marked statement knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Marked {
    /// The name of a cache.
    pub(super) cache: String,
    pub(super) statement: Fingerprint,
    /// The parameters that it uses, by number, in their order.
    pub(super) parameters: Vec<i32>,
    /// The session's settings when it was planned: the planner runs functions, and the plan has what they gave.
    pub(super) settings: u128,
    /// And what its cache named then.
    pub(super) named: u128,
    pub(super) planned: PlannedWith,
    /// What it depends on that some caches accept.
    pub(super) conditions: Vec<Condition>,
}

impl Marked {
    /// As a list of PostgreSQL's.
    pub(super) fn to_list(&self) -> *mut pg_sys::List {
        let parameters: Vec<String> = self.parameters.iter().map(i32::to_string).collect();
        let (kind, rest) = match &self.planned {
            PlannedWith::Refused(why) => ("refused", encoding::message(why.to_plan())),
            PlannedWith::Learned(dependencies) => {
                let mut bytes = Vec::new();
                Dependency::append_all(dependencies, &mut bytes);
                ("learned", to_hex(&bytes))
            }
            PlannedWith::Unknown => ("unknown", String::new()),
        };
        let conditions = self.conditions.iter().map(|condition| encoding::message(condition.to_plan()));
        let conditions = conditions.collect::<Vec<String>>().join("\n");
        let texts = [
            self.cache.clone(),
            to_hex(&self.statement),
            parameters.join(" "),
            self.settings.to_string(),
            self.named.to_string(),
            kind.to_owned(),
            rest,
            conditions,
        ];
        let mut list = std::ptr::null_mut();
        for text in texts {
            let text = CString::new(text).expect("no NUL: a name, a message, digits");
            // SAFETY: copies the text into the current memory context.
            unsafe {
                let node = pg_sys::makeString(pg_sys::pstrdup(text.as_ptr()));
                list = pg_sys::lappend(list, node.cast());
            }
        }
        list
    }

    /// What [`Marked::to_list`] made; `None` if nothing did.
    ///
    /// # Safety
    ///
    /// - It is a list of strings.
    pub(super) unsafe fn from_list(list: *mut pg_sys::List) -> Option<Marked> {
        // SAFETY: as the caller says.
        let texts: Vec<String> = unsafe {
            let text = |node| versions::text_of_string(node).to_string_lossy().into_owned();
            pointers::<pg_sys::Node>(list).map(text).collect()
        };
        let [cache, statement, parameters, settings, named, kind, rest, conditions] =
            <[String; 8]>::try_from(texts).ok()?;
        let conditions = conditions.lines().map(Condition::from_plan).collect::<Option<Vec<Condition>>>()?;
        let planned = match kind.as_str() {
            "refused" => PlannedWith::Refused(Refusal::from_plan(&rest)?),
            "learned" => PlannedWith::Learned(Dependency::list(&from_hex(&rest)?)?.collect()),
            _ => PlannedWith::Unknown,
        };
        let parameters = parameters.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
        let (settings, named) = (settings.parse().ok()?, named.parse().ok()?);
        let statement = from_hex(&statement)?.try_into().ok()?;
        Some(Marked { cache, statement, parameters, settings, named, planned, conditions })
    }
}

pub(super) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn from_hex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_the_text_do_not_count_and_values_do() {
        let tree = |location: i32, value: &str| {
            format!(
                "{{QUERY :rtable ({{X :name {value} :location {location}}}) :stmt_location {location} :stmt_len 7}}"
            )
        };
        let stripped = |location, value| without_places(tree(location, value).as_bytes());
        assert_eq!(stripped(5, "a"), stripped(-1, "a"));
        assert_ne!(stripped(5, "a"), stripped(5, "b"));
        assert_ne!(stripped(5, "a\\ :location\\ 1"), stripped(5, "a\\ :location\\ 2"));
        assert_eq!(without_places(b"(:location 12)"), b"(:location 12)");
    }

    #[test]
    fn bytes_come_back_from_hex() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(from_hex(&to_hex(&bytes)), Some(bytes));
        assert_eq!(from_hex("xy"), None);
    }
}
