//! What the owner of a cache adds to the keys of its results: settings, by name and present value; and which functions are
//! trusted, by name, so that no result is found that was made under another list.
//!
//! ```text
//! mark        where otherwise the length of a query's text is: none is so long
//! settings    how many texts: of each its name, its value, and what is shown where that is not the value
//! functions   how many texts: the name of each
//! ```
//!
//! Invariant: nothing is added where nothing is named. So all other caches have the keys that they would have without this.
//!
//! The value is what lies behind a setting, and not what is shown of it: numbers are shown with six digits, and functions in C
//! follow all of them. That there is no setting of this name, that it has no text, and that its text is empty are three
//! values. Whether a role may see it does not matter: results are the role's.
//!
//! Not here: what depends on a setting (`check`), and who accepts that (`accepted`).
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};

use super::key::{Parts, push, take_text};
use crate::pg::definitions::options::ResultOptions;
use crate::pg::versions::{self, SettingValue};

/// Where otherwise the length of a query's text is.
const MARK: [u8; 4] = u32::MAX.to_le_bytes();

/// Adds what a cache with these options names; nothing, if it names nothing.
pub(super) fn push_named(key: &mut impl Parts, options: &ResultOptions) {
    push_with(key, options, push_value);
}

/// As [`push_named`]. `push_value` adds two texts for a setting.
fn push_with<P: Parts>(key: &mut P, options: &ResultOptions, push_value: impl Fn(&mut P, &CStr)) {
    let ResultOptions { settings, trusted_functions, .. } = options;
    if settings.is_empty() && trusted_functions.is_empty() {
        return;
    }
    key.add(&MARK);
    key.add(&(settings.len() as u32 * 3).to_le_bytes());
    for name in settings {
        push(key, name.as_bytes());
        push_value(key, &CString::new(&**name).unwrap_or_default());
    }
    key.add(&(trusted_functions.len() as u32).to_le_bytes());
    trusted_functions.iter().for_each(|function| push(key, function.as_bytes()));
}

/// Takes what [`push_named`] has added from the start of `left`, if it has.
pub(super) fn skip_named(left: &mut &[u8]) -> Option<()> {
    if let Some(rest) = left.strip_prefix(&MARK) {
        *left = rest;
        for _ in ["settings", "functions"] {
            let (count, rest) = left.split_first_chunk::<4>()?;
            *left = rest;
            for _ in 0..u32::from_le_bytes(*count) {
                take_text(left)?;
            }
        }
    }
    Some(())
}

/// The present value of a setting; and what is shown of it, if it says that itself.
fn push_value(key: &mut impl Parts, name: &CStr) {
    let mut add = |kind: u8, bytes: &[u8]| {
        key.add(&(bytes.len() as u32 + 1).to_le_bytes());
        key.add(&[kind]);
        key.add(bytes);
    };
    // SAFETY: the process's only thread, inside of a transaction; both are read before anything else runs.
    unsafe {
        let setting = versions::setting(name);
        match setting.value {
            SettingValue::Unknown => add(0, &[]),
            SettingValue::Number(number) => add(1, &number.to_le_bytes()),
            SettingValue::Text(None) => add(2, &[]),
            SettingValue::Text(Some(text)) => add(3, text.to_bytes()),
        }
        push(key, setting.shown().map_or(&[][..], CStr::to_bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bytes(Vec<u8>);

    impl Parts for Bytes {
        fn add(&mut self, bytes: &[u8]) {
            self.0.extend_from_slice(bytes);
        }
    }

    fn named(settings: &[&str], functions: &[&str]) -> Bytes {
        let listed = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let (settings, trusted_functions) = (listed(settings), listed(functions));
        let mut key = Bytes(Vec::new());
        let options = ResultOptions { settings, trusted_functions, ..ResultOptions::default() };
        push_with(&mut key, &options, |key, name| {
            push(key, format!("value of {name:?}").as_bytes());
            push(key, b"");
        });
        key
    }

    #[test]
    fn what_is_named_is_skipped_and_nothing_else() {
        assert!(named(&[], &[]).0.is_empty());
        assert_ne!(named(&[], &["f()", "g()"]).0, named(&[], &["f()g()"]).0);
        assert_ne!(named(&["a"], &[]).0, named(&["b"], &[]).0);
        for settings in [&[][..], &["a.b"], &["a.b", "c"]] {
            for functions in [&[][..], &["f()"], &["f()", "g()"]] {
                let mut key = named(settings, functions);
                push(&mut key, b"SELECT 1");
                let mut left = &key.0[..];
                assert_eq!(skip_named(&mut left), Some(()));
                assert_eq!(take_text(&mut left), Some(&b"SELECT 1"[..]));
            }
        }
    }
}
