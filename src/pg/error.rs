//! Errors as PostgreSQL reports them: SQLSTATE, message, and a hint that says what to do.

use pgrx::pg_sys::panic::{ErrorReport, ErrorReportWithLevel};
use pgrx::{PgLogLevel, PgSqlErrorCode, function_name};

use super::encoding;
use crate::adapters::builder::{BuilderError, DrainError};
use crate::adapters::codec::DecodeError;
use crate::engine::config_error::ConfigError;
use crate::engine::findings::Inconsistencies;
use crate::engine::header::AttachError;
use crate::engine::outcomes::PushError;
use crate::shared::open::CreateError;

/// An error that PostgreSQL can raise.
pub trait SqlError: std::error::Error {
    /// The SQLSTATE.
    fn code(&self) -> PgSqlErrorCode;

    /// What to do.
    fn hint(&self) -> Option<&'static str> {
        None
    }

    /// More than a message should have.
    fn detail(&self) -> Option<String> {
        None
    }
}

/// The value, or the error raised as PostgreSQL's ERROR. Must not be called under a lock.
///
/// # Panics
///
/// As PostgreSQL's ERROR.
pub fn or_report<T>(result: Result<T, impl SqlError>) -> T {
    result.unwrap_or_else(|error| report(&error))
}

/// Raises an error as PostgreSQL's ERROR. Must not be called under a lock.
///
/// # Panics
///
/// As PostgreSQL's ERROR, always.
pub fn report(error: &impl SqlError) -> ! {
    let mut report = ErrorReport::new(error.code(), encoding::message(error.to_string()), function_name!());
    if let Some(detail) = error.detail() {
        report = report.set_detail(encoding::message(detail));
    }
    if let Some(hint) = error.hint() {
        report = report.set_hint(hint);
    }
    report.report(PgLogLevel::ERROR);
    unreachable!("an ERROR does not return")
}

/// Whether PostgreSQL may raise this where the system refuses memory: the SQLSTATE follows from the system's error
/// number, of which PostgreSQL knows some; the others become an internal error.
pub(super) fn is_want_of_memory(report: &ErrorReportWithLevel) -> bool {
    const CLASS_MASK: i32 = (1 << 12) - 1;
    use PgSqlErrorCode::{
        ERRCODE_INSUFFICIENT_PRIVILEGE, ERRCODE_INSUFFICIENT_RESOURCES, ERRCODE_INTERNAL_ERROR, ERRCODE_SYSTEM_ERROR,
    };
    let code = report.sql_error_code();
    let class = code as i32 & CLASS_MASK;
    let classes = [ERRCODE_INSUFFICIENT_RESOURCES, ERRCODE_SYSTEM_ERROR].map(|code| code as i32 & CLASS_MASK);
    classes.contains(&class) || [ERRCODE_INTERNAL_ERROR, ERRCODE_INSUFFICIENT_PRIVILEGE].contains(&code)
}

/// Whatever can go wrong with a named cache.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The library was not loaded at server start, so there is no shared memory.
    #[error("pg_shared_lru has no shared memory: the library was not loaded at server start")]
    NotPreloaded,
    /// The extension's SQL is of a release that does not know what the library asks for.
    #[error("the extension's SQL in this database is of an older release than the library")]
    OldScript,
    /// The current role may not do this with the cache.
    #[error("permission denied for cache \"{cache}\": the role has no privilege to {needed} it")]
    Privilege {
        /// The cache.
        cache: String,
        /// What it lacks.
        needed: &'static str,
    },
    /// A statement that changes a definition cannot be run.
    #[error("the definition cannot be changed: {0}")]
    Statement(String),
    /// The extension's SQL is newer than the library.
    #[error("this server runs pg_shared_lru {own}, the extension's script needs {required}")]
    OldLibrary {
        /// The version that the script asks for.
        required: String,
        /// The library's.
        own: &'static str,
    },
    /// No cache of this name.
    #[error("cache \"{0}\" does not exist in this database")]
    Unknown(String),
    /// The name is taken.
    #[error("cache \"{0}\" already exists in this database")]
    Exists(String),
    /// The cache was dropped while it was being used.
    #[error("the cache was dropped, moved or made anew while it was in use")]
    Dropped,
    /// The name cannot be a cache's.
    #[error("a cache name has from 1 to {max} bytes, this one has {given}")]
    Name {
        /// Bytes given.
        given: usize,
        /// Bytes at most.
        max: usize,
    },
    /// The name has characters that cannot be in a name of this database.
    #[error("the name \"{name}\" of a cache must be {allowed}: the database's encoding is {encoding}")]
    NameEncoding {
        /// The name, as far as it can be shown.
        name: String,
        /// What a name may be made of.
        allowed: &'static str,
        /// The database's encoding.
        encoding: String,
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
    /// The system refuses the memory for all caches.
    #[error("the system refuses {bytes} bytes of shared memory for caches: {reason}")]
    NoSegment {
        /// Bytes asked for.
        bytes: usize,
        /// What it says.
        reason: String,
    },
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
    /// The system has no memory for what was read.
    #[error("out of memory: a value of {0} bytes cannot be copied")]
    OutOfMemory(usize),
    /// A value is larger than PostgreSQL's `bytea` can be.
    #[error("a value of {bytes} bytes is too large: SQL can read at most {max}")]
    TooLargeForSql {
        /// Bytes of the value.
        bytes: usize,
        /// The most that a `bytea` holds.
        max: usize,
    },
    /// A value is not of the type that is asked for.
    #[error("the value is of type {stored}, not {wanted}")]
    WrongType {
        /// Its type.
        stored: String,
        /// The one that is asked for.
        wanted: String,
    },
    /// A value was refused.
    #[error(transparent)]
    Push(#[from] PushError),
    /// The memory holds something else than expected.
    #[error("cache \"{0}\" is damaged: {1}")]
    Damaged(String, String),
    /// The contents of the cache are not kept over a restart.
    #[error("cache \"{0}\" is not kept over a restart: {1}")]
    NotKept(String, &'static str),
    /// The image of a cache cannot be written.
    #[error("the image of cache \"{0}\" cannot be written: {1}")]
    Image(String, String),
    /// A validation found something.
    #[error("cache \"{0}\": {1}")]
    Inconsistent(String, Inconsistencies),
}

impl CacheError {
    /// Raises the error. Must not be called under a lock.
    ///
    /// # Panics
    ///
    /// As PostgreSQL's ERROR, always.
    pub fn report(self) -> ! {
        report(&self)
    }
}

impl SqlError for CacheError {
    fn code(&self) -> PgSqlErrorCode {
        match self {
            CacheError::NotPreloaded
            | CacheError::OldLibrary { .. }
            | CacheError::OldScript
            | CacheError::NotKept(..) => PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            CacheError::Unknown(_) | CacheError::Dropped => PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            CacheError::Exists(_) => PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
            CacheError::Name { .. } | CacheError::NameEncoding { .. } => PgSqlErrorCode::ERRCODE_INVALID_NAME,
            CacheError::Privilege { .. } => PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            CacheError::Statement(_) => PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            CacheError::Parameter(_) => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            CacheError::Config(error) => error.code(),
            CacheError::TooMany(_) => PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
            CacheError::NoMemory { .. } | CacheError::NoSegment { .. } | CacheError::OutOfMemory(_) => {
                PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY
            }
            CacheError::InUse(..) => PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
            CacheError::TooLargeForSql { .. } => PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            CacheError::WrongType { .. } => PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
            CacheError::Push(error) => error.code(),
            CacheError::Image(..) => PgSqlErrorCode::ERRCODE_IO_ERROR,
            CacheError::Damaged(..) | CacheError::Inconsistent(..) => PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
        }
    }

    fn hint(&self) -> Option<&'static str> {
        Some(match self {
            CacheError::NotPreloaded => {
                "Add pg_shared_lru to the setting in postgresql.conf, e.g. shared_preload_libraries = 'pg_shared_lru', \
                 and restart the server."
            }
            CacheError::OldLibrary { .. } => {
                "Restart the server: it has preloaded the library of an older package. Without a preload, reconnect."
            }
            CacheError::NotKept(..) => {
                "SELECT shared_lru.alter_cache(cache, persist => true); and shared_preload_libraries = 'pg_shared_lru'."
            }
            CacheError::OldScript => "Run ALTER EXTENSION pg_shared_lru UPDATE in this database.",
            CacheError::Privilege { .. } => {
                "Its owner can grant that: SELECT shared_lru.grant_cache(cache, role, 'read'), or 'write', or 'own'."
            }
            CacheError::Unknown(_) => {
                "The view shared_lru.caches lists the caches; shared_lru.create_cache creates one."
            }
            CacheError::Exists(_) => "Drop it first, or use another name.",
            CacheError::TooMany(_) => "Drop a cache, or raise pg_shared_lru.max_caches and restart the server.",
            CacheError::NoMemory { .. } => {
                "Ask for less, drop a cache, or raise pg_shared_lru.memory and restart the server."
            }
            CacheError::NoSegment { .. } => {
                "Lower pg_shared_lru.memory, or give the server more: dynamic_shared_memory_type says where the memory is."
            }
            CacheError::OutOfMemory(_) => {
                "The cache is as it was. Give the server more memory, or keep smaller values."
            }
            CacheError::WrongType { .. } => {
                "Read it as what it was put: put and put_text by get and get_text, put_any by get_any with NULL::type, put_jsonb \
                 by get_jsonb."
            }
            CacheError::Config(error) => return error.hint(),
            CacheError::Push(error) => return error.hint(),
            CacheError::Inconsistent(..) | CacheError::Damaged(..) => {
                "This is a defect; please report it. Dropping the cache and creating it anew repairs it."
            }
            _ => return None,
        })
    }

    fn detail(&self) -> Option<String> {
        match self {
            CacheError::Inconsistent(_, Inconsistencies(findings)) => Some(findings.join("\n")),
            _ => None,
        }
    }
}

impl SqlError for ConfigError {
    fn code(&self) -> PgSqlErrorCode {
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE
    }

    fn hint(&self) -> Option<&'static str> {
        matches!(self, ConfigError::TooSmall { .. })
            .then_some("Give it more bytes, or fewer partitions, fewer buckets or smaller slabs.")
    }
}

impl SqlError for PushError {
    fn code(&self) -> PgSqlErrorCode {
        match self {
            PushError::Full { .. } | PushError::OutOfMemory => PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY,
            PushError::TooLarge { .. } | PushError::KeyTooLong { .. } => PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            PushError::TtlTooLong { .. } => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        }
    }

    fn hint(&self) -> Option<&'static str> {
        match self {
            // A quarter of a partition, or what the cache was created for.
            PushError::TooLarge { .. } => Some(
                "Create the cache with fewer partitions or more bytes; or, if it was created for a number of entries, with a \
                 larger max_entry_bytes.",
            ),
            PushError::KeyTooLong { .. } => Some(
                "Create the cache with larger slabs (slab_bytes), or use a hash of the key. No key has more than 65535 bytes.",
            ),
            PushError::Full { .. } | PushError::OutOfMemory | PushError::TtlTooLong { .. } => None,
        }
    }
}

impl SqlError for CreateError {
    fn code(&self) -> PgSqlErrorCode {
        match self {
            CreateError::Config(error) => error.code(),
            _ => PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY,
        }
    }

    fn hint(&self) -> Option<&'static str> {
        match self {
            CreateError::Config(error) => error.hint(),
            _ => None,
        }
    }
}

impl SqlError for DecodeError {
    fn code(&self) -> PgSqlErrorCode {
        PgSqlErrorCode::ERRCODE_DATA_CORRUPTED
    }
}

impl<E> SqlError for BuilderError<E>
where
    BuilderError<E>: std::error::Error,
{
    fn code(&self) -> PgSqlErrorCode {
        match self {
            BuilderError::Push(error) => error.code(),
            BuilderError::Decode(error) => error.code(),
            BuilderError::Backlog { .. } => PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY,
            BuilderError::Store(_) | BuilderError::Lost => PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
        }
    }
}

impl<E> SqlError for DrainError<E>
where
    DrainError<E>: std::error::Error,
{
    fn code(&self) -> PgSqlErrorCode {
        match self {
            DrainError::Decode(error) => error.code(),
            DrainError::InUse { .. } | DrainError::Changed(_) => PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
            DrainError::Taker(_) | DrainError::Lost => PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
        }
    }
}

/// Why there is no cache in a parallel operation.
#[derive(Debug, thiserror::Error)]
pub enum ParallelError {
    /// Nothing was stored under the key.
    #[error("the parallel operation has no cache under the key {0:#x}: the leader has not created it")]
    Absent(u64),
    /// Something else was stored under the key.
    #[error(
        "the key {key:#x} of the parallel operation names no cache: magic number {found:#018x}, not {expected:#018x}"
    )]
    NotACache {
        /// The key.
        key: u64,
        /// What stands where a cache has its magic number.
        found: u64,
        /// What a cache has there.
        expected: u64,
    },
    /// A cache of another build, of other types, or a damaged one.
    #[error("the cache of the parallel operation cannot be attached: {0}")]
    Attach(#[from] AttachError),
    /// The cache could not be created.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// The cache was used after its memory had gone.
    #[error("the parallel operation that this cache belonged to has ended")]
    Detached,
}

impl ParallelError {
    /// Raises the error. Must not be called under a lock.
    ///
    /// # Panics
    ///
    /// As PostgreSQL's ERROR, always.
    pub fn report(self) -> ! {
        report(&self)
    }
}

impl SqlError for ParallelError {
    fn code(&self) -> PgSqlErrorCode {
        match self {
            ParallelError::Absent(_) | ParallelError::Detached => {
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE
            }
            ParallelError::NotACache { .. } | ParallelError::Attach(_) => PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
            ParallelError::Create(error) => error.code(),
        }
    }

    fn hint(&self) -> Option<&'static str> {
        match self {
            ParallelError::Create(error) => error.hint(),
            _ => None,
        }
    }
}

/// There is no segment for a parallel operation. What it prints is for the user: how much was wanted, and who has refused.
#[derive(Debug, thiserror::Error)]
#[error("no shared memory for a parallel operation that needs {bytes} bytes: {reason}{}", free_in_dev_shm(*dev_shm_free_bytes))]
pub struct NoSegment {
    /// Bytes that were asked for: the cache, what else was estimated, and PostgreSQL's own.
    pub bytes: usize,
    /// PostgreSQL's message.
    pub reason: String,
    /// What `/dev/shm` has free, if that is where PostgreSQL takes such memory from.
    pub dev_shm_free_bytes: Option<u64>,
}

fn free_in_dev_shm(bytes: Option<u64>) -> String {
    bytes.map_or_else(String::new, |bytes| format!(" (/dev/shm has {bytes} bytes free)"))
}

impl SqlError for NoSegment {
    fn code(&self) -> PgSqlErrorCode {
        PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY
    }

    fn hint(&self) -> Option<&'static str> {
        Some(match self.dev_shm_free_bytes {
            Some(_) => {
                "Ask for less (maintenance_work_mem, as a rule), or make /dev/shm larger; in a container: --shm-size."
            }
            None => "Ask for less (maintenance_work_mem, as a rule).",
        })
    }
}
