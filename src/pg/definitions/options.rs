//! The options of a definition: texts in PostgreSQL's catalogs, a configuration here.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::rc::Rc;
use std::time::Duration;

use pgrx::pg_sys;

use crate::engine::config::Config;
use crate::engine::config_error::ConfigError;
use crate::engine::policy::Policy;
use crate::pg::error::CacheError;
use crate::pg::stored::stored_bytes;

/// The names of all options.
pub(in crate::pg) const NAMES: &[&str] = &[
    "bytes",
    "max_entries",
    "max_entry_bytes",
    "policy",
    "partitions",
    "buckets",
    "slab_bytes",
    "ttl",
    "persist",
    "grace",
    "accept_clock",
    "accept_unchecked",
    "settings",
    "trusted_functions",
];

/// What a definition says of its cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::pg) struct Options {
    pub(in crate::pg) config: Config,
    /// How long entries live whose put says nothing; `None`: for ever.
    pub(in crate::pg) ttl: Option<Duration>,
    /// Whether its contents outlive a restart.
    pub(in crate::pg) persist: bool,
    pub(in crate::pg) results: Rc<ResultOptions>,
}

/// What a definition says of results of queries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::pg) struct ResultOptions {
    /// As [`Options::ttl`].
    pub(in crate::pg) ttl: Option<Duration>,
    /// How long one that is outdated may be served while another is being made; zero: not at all.
    pub(in crate::pg) grace: Duration,
    /// Whether what depends on the clock is kept, as long as the time to live says. There is one then.
    pub(in crate::pg) accept_clock: bool,
    /// Whether results are kept where nothing tells whether they are right, as long as the time to live says. There is one
    /// then.
    pub(in crate::pg) accept_unchecked: bool,
    /// Names of settings that results may depend on: small letters, in their order, each once.
    pub(in crate::pg) settings: Vec<String>,
    /// Functions of users that are taken at their word, each as its schema, name and arguments: in their order, each once.
    pub(in crate::pg) trusted_functions: Vec<String>,
}

impl ResultOptions {
    /// Between settings.
    pub(in crate::pg) const SETTINGS_SEPARATOR: &str = ", ";
    /// Between functions: commas are between their arguments.
    pub(in crate::pg) const FUNCTIONS_SEPARATOR: &str = "; ";
}

impl Options {
    /// Reads options, each a name and a value.
    ///
    /// # Errors
    ///
    /// A name is unknown, a value is no number or out of range, or they do not go together.
    pub(in crate::pg) fn parse<'a>(all: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Options, CacheError> {
        let all: Vec<(&str, &str)> = all.collect();
        if let Some((unknown, _)) = all.iter().find(|(name, _)| !NAMES.contains(name)) {
            let known = NAMES.join(", ");
            return Err(CacheError::Parameter(format!("a cache has no option \"{unknown}\"; it has {known}")));
        }
        let text = |wanted: &str| all.iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value);
        let mut config = match (number(text, "bytes")?, number(text, "max_entries")?, number(text, "max_entry_bytes")?)
        {
            (Some(bytes), None, None) => Config::bytes(bytes as usize),
            (None, Some(count), Some(bytes)) => {
                let bytes: u32 = narrow("max_entry_bytes", bytes)?;
                // None is too few, and refused as such.
                let bytes = if bytes > 0 { stored_bytes(bytes) } else { 0 };
                Config::entries(narrow("max_entries", count)?, bytes)
            }
            _ => {
                return Err(CacheError::Parameter(
                    "a cache has either bytes, or max_entries and max_entry_bytes".to_owned(),
                ));
            }
        };
        if let Some(policy) = text("policy") {
            config = config.policy(policy.parse::<Policy>().map_err(ConfigError::from)?);
        }
        if let Some(partitions) = number(text, "partitions")? {
            config = config.partitions(narrow("partitions", partitions)?);
        }
        if let Some(buckets) = number(text, "buckets")? {
            config = config.buckets(buckets);
        }
        if let Some(slab_bytes) = number(text, "slab_bytes")? {
            config = config.slab_bytes(narrow("slab_bytes", slab_bytes)?);
        }
        let ttl = text("ttl").map(|value| seconds("ttl", value)).transpose()?;
        if let Some(ttl) = ttl {
            config = config.ttl(ttl);
        }
        config.resolve()?;
        let yes = |name| text(name).map(|value| truth(name, value)).transpose();
        let persist = yes("persist")?.unwrap_or(false);
        let grace = text("grace").map(|value| seconds("grace", value)).transpose()?.unwrap_or_default();
        let grace = checked_grace(grace)?;
        let accept_clock = yes("accept_clock")?.unwrap_or(false);
        let accept_unchecked = yes("accept_unchecked")?.unwrap_or(false);
        if accept_clock && ttl.is_none() {
            return Err(CacheError::Parameter(
                "accept_clock needs a ttl: what depends on the clock is kept as long as that says".to_owned(),
            ));
        }
        if accept_unchecked && ttl.is_none() {
            return Err(CacheError::Parameter(
                "accept_unchecked needs a ttl: what cannot be checked is kept as long as that says".to_owned(),
            ));
        }
        let settings = text("settings").map_or(Ok(Vec::new()), setting_names)?;
        let trusted_functions = text("trusted_functions")
            .map_or(Vec::new(), |value| in_order(value.split(ResultOptions::FUNCTIONS_SEPARATOR).map(str::to_owned)));
        let results = ResultOptions { ttl, grace, accept_clock, accept_unchecked, settings, trusted_functions };
        Ok(Options { config, ttl, persist, results: Rc::new(results) })
    }

    /// Those of a foreign table, which its validator has seen.
    ///
    /// # Errors
    ///
    /// As [`Options::parse`], if the release that wrote them knew others.
    ///
    /// # Safety
    ///
    /// - `options` is a list of `DefElem` with texts, as the catalogs have it.
    #[allow(unsafe_code)]
    pub(super) unsafe fn of_table(options: *mut pg_sys::List) -> Result<Options, CacheError> {
        // SAFETY: as the caller says.
        let texts = unsafe { written(options) };
        Options::parse(texts.iter().map(|(name, value)| (name.as_str(), value.as_str())))
    }
}

/// Names and values of options.
///
/// # Safety
///
/// - `options` is a list of `DefElem` with texts, as the catalogs have it.
#[allow(unsafe_code)]
pub(super) unsafe fn written(options: *mut pg_sys::List) -> Vec<(String, String)> {
    // SAFETY: null, or a list; each option has a name and a value, which live as long as the memory context.
    unsafe {
        let count = if options.is_null() { 0 } else { (*options).length };
        let text = |text: *const std::ffi::c_char| CStr::from_ptr(text).to_string_lossy().into_owned();
        let option = |index: i32| (*(*options).elements.add(index as usize)).ptr_value.cast::<pg_sys::DefElem>();
        (0..count).map(option).map(|option| (text((*option).defname), text(pg_sys::defGetString(option)))).collect()
    }
}

/// A value that is a number, if the option is there.
fn number<'a>(text: impl Fn(&str) -> Option<&'a str>, name: &str) -> Result<Option<u64>, CacheError> {
    let parse = |value: &str| value.parse().map_err(|_| refused(name, value));
    text(name).map(parse).transpose()
}

/// A time in seconds, with decimals if need be.
fn seconds(name: &str, value: &str) -> Result<Duration, CacheError> {
    let seconds = value.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.ok_or_else(|| CacheError::Parameter(format!("{name} is {value}: no number of seconds")))
}

/// A grace, unless it is longer than what is counted.
///
/// # Errors
///
/// It is.
pub(in crate::pg) fn checked_grace(grace: Duration) -> Result<Duration, CacheError> {
    /// As many as 64 bits have microseconds for.
    const MAX_SECONDS: u64 = u64::MAX / 1_000_000;
    match grace.as_secs() {
        ..MAX_SECONDS => Ok(grace),
        seconds => {
            Err(CacheError::Parameter(format!("grace is {seconds} seconds: at most {MAX_SECONDS}, give a shorter one")))
        }
    }
}

/// A truth value, as PostgreSQL writes it or a person may.
fn truth(name: &str, value: &str) -> Result<bool, CacheError> {
    match &*value.to_ascii_lowercase() {
        "true" | "on" | "yes" | "1" => Ok(true),
        "false" | "off" | "no" | "0" => Ok(false),
        _ => Err(CacheError::Parameter(format!("{name} is {value}: neither true nor false"))),
    }
}

/// Names of settings, as PostgreSQL writes them.
fn setting_names(value: &str) -> Result<Vec<String>, CacheError> {
    let names = in_order(value.split(',').map(|name| name.trim().to_ascii_lowercase()));
    let is_part = |character: char| character.is_alphanumeric() || ['_', '$', '.'].contains(&character);
    match names.iter().find(|name| name.is_empty() || !name.chars().all(is_part)) {
        None => Ok(names),
        Some(name) => Err(CacheError::Parameter(format!("settings has \"{name}\": no name of a setting"))),
    }
}

/// In their order, each once, and none that is empty if there is no other.
fn in_order(names: impl Iterator<Item = String>) -> Vec<String> {
    let names: BTreeSet<String> = names.collect();
    if names.iter().all(String::is_empty) { Vec::new() } else { names.into_iter().collect() }
}

fn narrow(name: &str, value: u64) -> Result<u32, CacheError> {
    u32::try_from(value).map_err(|_| refused(name, &value.to_string()))
}

fn refused(name: &str, value: &str) -> CacheError {
    CacheError::Parameter(format!("{name} is {value}: out of range for any cache"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[(&str, &str)]) -> Result<Config, String> {
        Options::parse(options.iter().copied()).map(|options| options.config).map_err(|error| error.to_string())
    }

    #[test]
    fn options_become_the_configuration_that_they_say() {
        let config = parse(&[("bytes", "4194304"), ("policy", "lru"), ("partitions", "2")]);
        assert_eq!(config, Ok(Config::bytes(4 << 20).policy(Policy::Lru).partitions(2)));
        let config = parse(&[("max_entry_bytes", "100"), ("max_entries", "1000")]);
        assert_eq!(config, Ok(Config::entries(1000, stored_bytes(100))));
    }

    #[test]
    fn contents_outlive_a_restart_where_the_definition_says_so() {
        let persist = |value| Options::parse([("bytes", "4194304"), ("persist", value)].into_iter()).unwrap().persist;
        assert!(["true", "on", "Yes", "1"].into_iter().all(persist));
        assert!(!["false", "OFF", "no", "0"].into_iter().any(persist));
        assert!(!Options::parse([("bytes", "4194304")].into_iter()).unwrap().persist);
    }

    #[test]
    fn results_are_served_outdated_and_by_the_clock_only_where_the_definition_says_so() {
        let of = |more: &[(&str, &str)]| {
            Options::parse([("bytes", "4194304")].into_iter().chain(more.iter().copied())).unwrap().results
        };
        assert_eq!(*of(&[]), ResultOptions::default());
        let (ttl, grace) = (Some(Duration::from_secs(60)), Duration::from_millis(500));
        let all = [
            ("ttl", "60"),
            ("grace", "0.5"),
            ("accept_clock", "on"),
            ("accept_unchecked", "on"),
            ("settings", "App.tenant,hnsw.ef_search, app.tenant"),
            ("trusted_functions", "public.g(integer,text); public.f()"),
        ];
        let listed = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let (settings, trusted_functions) =
            (listed(&["app.tenant", "hnsw.ef_search"]), listed(&["public.f()", "public.g(integer,text)"]));
        let wanted =
            ResultOptions { ttl, grace, accept_clock: true, accept_unchecked: true, settings, trusted_functions };
        assert_eq!(*of(&all), wanted);
        assert_eq!(*of(&[("settings", ""), ("trusted_functions", "")]), ResultOptions::default());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_value() {
        for (options, part) in [
            (&[("bytes", "4194304"), ("colour", "red")][..], "\"colour\""),
            (&[("bytes", "many")], "many"),
            (&[("bytes", "-1")], "-1"),
            (&[("bytes", "1000")], "1000"),
            (&[("bytes", "4194304"), ("max_entries", "10")], "either bytes"),
            (&[("max_entries", "99999999999"), ("max_entry_bytes", "8")], "99999999999"),
            (&[("bytes", "4194304"), ("policy", "fifo")], "fifo"),
            (&[("bytes", "4194304"), ("partitions", "3")], "3"),
            (&[("bytes", "4194304"), ("ttl", "soon")], "soon"),
            (&[("bytes", "4194304"), ("persist", "perhaps")], "perhaps"),
            (&[("bytes", "4194304"), ("ttl", "-1")], "-1"),
            (&[("bytes", "4194304"), ("grace", "-1")], "grace is -1"),
            (&[("bytes", "4194304"), ("grace", "2e13")], "grace is 20000000000000 seconds: at most 18446744073709"),
            (&[("bytes", "4194304"), ("grace", "NaN")], "grace is NaN"),
            (&[("bytes", "4194304"), ("accept_clock", "maybe")], "accept_clock is maybe"),
            (&[("bytes", "4194304"), ("accept_clock", "on")], "needs a ttl"),
            (&[("bytes", "4194304"), ("accept_unchecked", "on")], "accept_unchecked needs a ttl"),
            (&[("bytes", "4194304"), ("settings", "a, b c")], "settings has \"b c\""),
            (&[("bytes", "4194304"), ("settings", "a,,b")], "settings has \"\""),
            (&[("bytes", "4194304"), ("ttl", "0.001")], "1 ms"),
            (&[], "either bytes"),
        ] {
            let error = parse(options).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
