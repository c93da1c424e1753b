//! Errors as PostgreSQL reports them: SQLSTATE, message, and a hint that says what to do.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode, function_name};

use crate::engine::config::ConfigError;
use crate::engine::partition::PushError;
use crate::engine::validate::Inconsistencies;

/// Whatever can go wrong with a named cache.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The library was not loaded at server start, so there is no shared memory.
    #[error("pg_shared_lru has no shared memory: the library was not loaded at server start")]
    NotPreloaded,
    /// No cache of this name.
    #[error("cache \"{0}\" does not exist in this database")]
    Unknown(String),
    /// The name is taken.
    #[error("cache \"{0}\" already exists in this database")]
    Exists(String),
    /// The cache was dropped while it was being used.
    #[error("the cache was dropped by another session")]
    Dropped,
    /// The name cannot be a cache's.
    #[error("a cache name has from 1 to {max} bytes, this one has {given}")]
    Name {
        /// Bytes given.
        given: usize,
        /// Bytes at most.
        max: usize,
    },
    /// A parameter has a wrong value.
    #[error("{0}")]
    Parameter(String),
    /// The configuration has a wrong value.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// All slots of the catalog are in use.
    #[error("there are {0} caches already, as many as the server was configured for")]
    TooMany(usize),
    /// No piece of the area is large enough.
    #[error("the cache needs {needed} bytes of shared memory; {free} bytes are free, {largest} of them in one piece")]
    NoMemory {
        /// Bytes needed.
        needed: usize,
        /// Bytes free.
        free: usize,
        /// Bytes of the largest free piece.
        largest: usize,
    },
    /// Somebody is reading the cache without a lock, loading an entry or writing one back.
    #[error("cache \"{0}\" is in use: {1} of its entries are being read, loaded or written back")]
    InUse(String, u64),
    /// A value was refused.
    #[error(transparent)]
    Push(#[from] PushError),
    /// The memory holds something else than expected.
    #[error("cache \"{0}\" is damaged: {1}")]
    Damaged(String, String),
    /// A validation found something.
    #[error("cache \"{0}\": {1}")]
    Inconsistent(String, Inconsistencies),
}

impl CacheError {
    fn code(&self) -> PgSqlErrorCode {
        match self {
            CacheError::NotPreloaded => PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            CacheError::Unknown(_) | CacheError::Dropped => PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            CacheError::Exists(_) => PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
            CacheError::Name { .. } => PgSqlErrorCode::ERRCODE_INVALID_NAME,
            CacheError::Parameter(_) | CacheError::Config(_) => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            CacheError::TooMany(_) => PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
            CacheError::NoMemory { .. } | CacheError::Push(PushError::Full { .. }) => {
                PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY
            }
            CacheError::InUse(..) => PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
            CacheError::Push(_) => PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            CacheError::Damaged(..) | CacheError::Inconsistent(..) => PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
        }
    }

    fn hint(&self) -> Option<&'static str> {
        Some(match self {
            CacheError::NotPreloaded => {
                "Add pg_shared_lru to the setting in postgresql.conf, e.g. shared_preload_libraries = 'pg_shared_lru', \
                 and restart the server."
            }
            CacheError::Unknown(_) => {
                "The view shared_lru.caches lists the caches; shared_lru.create_cache creates one. Caches are empty and gone \
                 after a restart of the server."
            }
            CacheError::Exists(_) => "Drop it first, or use another name.",
            CacheError::TooMany(_) => "Drop a cache, or raise pg_shared_lru.max_caches and restart the server.",
            CacheError::NoMemory { .. } => {
                "Ask for less, drop a cache, or raise pg_shared_lru.memory and restart the server."
            }
            CacheError::Push(PushError::TooLarge { .. } | PushError::KeyTooLong { .. }) => {
                "Create the cache with larger slabs (slab_bytes), more memory, or a larger max_entry_bytes."
            }
            CacheError::Inconsistent(..) | CacheError::Damaged(..) => {
                "This is a defect; please report it. Dropping the cache and creating it anew repairs it."
            }
            _ => return None,
        })
    }

    /// Raises the error. Must not be called under a lock.
    pub fn report(self) -> ! {
        let mut report = ErrorReport::new(self.code(), self.to_string(), function_name!());
        if let CacheError::Inconsistent(_, Inconsistencies(findings)) = &self {
            report = report.set_detail(findings.join("\n"));
        }
        if let Some(hint) = self.hint() {
            report = report.set_hint(hint);
        }
        report.report(PgLogLevel::ERROR);
        unreachable!("an ERROR does not return")
    }
}

/// Raises an error that has no more than a message. Must not be called under a lock.
pub(super) fn raise(code: PgSqlErrorCode, message: String) -> ! {
    ErrorReport::new(code, message, function_name!()).report(PgLogLevel::ERROR);
    unreachable!("an ERROR does not return")
}

/// The value, or the error raised.
#[cfg(feature = "extension")]
pub(super) fn or_report<T>(result: Result<T, impl Into<CacheError>>) -> T {
    result.unwrap_or_else(|error| error.into().report())
}
