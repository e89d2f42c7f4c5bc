//! One error, one result, and the C status of each error by an exhaustive match.

use std::fmt;

/// The result of every operation that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Status codes of the C ABI. Literal numbers that are never reused; `0` is success, none is negative.
#[allow(missing_docs, reason = "the C header documents each code")]
pub mod status {
    pub const OK: i32 = 0;
    pub const NOT_FOUND: i32 = 1;
    pub const E_INVALID_ARGUMENT: i32 = 2;
    pub const E_IO: i32 = 3;
    pub const E_NO_SPACE: i32 = 4;
    pub const E_CORRUPTED: i32 = 5;
    pub const E_INCOMPLETE: i32 = 6;
    pub const E_LOCKED: i32 = 7;
    pub const E_READ_ONLY: i32 = 8;
    pub const E_CONFLICT: i32 = 9;
    pub const E_UNSUPPORTED: i32 = 10;
    pub const E_POISONED: i32 = 11;
    pub const E_CLOSED: i32 = 12;
    pub const E_FORKED: i32 = 13;
    pub const E_TOO_LARGE: i32 = 14;
    pub const E_BUSY: i32 = 15;
    pub const E_BUFFER_TOO_SMALL: i32 = 16;
    pub const E_TIMED_OUT: i32 = 17;
    pub const E_PANIC: i32 = 99;
}

/// What went wrong, with the facts: what, where, expected and found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Error {
    /// An argument is outside what the call accepts; nothing was changed.
    InvalidArgument(String),
    /// The operating system refused an operation. If it was a persist the store is poisoned, which `health` tells; else
    /// (opening, growing, memory, reading) nothing was changed.
    Io {
        /// The operation, e.g. `pwrite` or `open /data/orders.fkv`.
        what: String,
        /// The `errno` it left.
        errno: i32,
    },
    /// Live data and the request do not fit; nothing was changed.
    NoSpace {
        /// Bytes the write needs in the log or in extents.
        needed_bytes: u64,
        /// Bytes that are free for it.
        free_bytes: u64,
        /// What sets the limit: the quota, or the device.
        limit: String,
    },
    /// Bytes on the medium failed a check; they are never served.
    Corrupted {
        /// What failed, e.g. `frame checksum`.
        what: &'static str,
        /// Pool offset of the damage in bytes.
        offset: u64,
        /// What the check expected.
        expected: u64,
        /// What it found.
        found: u64,
    },
    /// Segments that the log digest lists are missing; no data was changed. Salvage is a separate, explicit step.
    Incomplete(String),
    /// Another process, or another handle of this one, holds the store.
    Locked(String),
    /// The store was opened for reading only.
    ReadOnly,
    /// A condition of the write does not hold.
    Conflict,
    /// The pool or the call needs something that this version or medium does not have.
    Unsupported(String),
    /// An earlier persist failed, so durability is unknown. Reads go on; reopening decides what survived.
    Poisoned(String),
    /// The handle was closed, freed, or never was one.
    Closed,
    /// The keyspace of the handle was dropped. The store, and other keyspaces, are not concerned.
    Dropped,
    /// The handle belongs to the parent of this forked process.
    Forked,
    /// A key, value, batch or operation exceeds its limit; nothing was written.
    TooLarge {
        /// What is too large, e.g. `key`.
        what: &'static str,
        /// Its size in bytes.
        len: u64,
        /// The largest size accepted.
        max: u64,
    },
    /// The object is in use, e.g. values are still pinned.
    Busy(String),
    /// The caller's buffer cannot hold the value.
    BufferTooSmall {
        /// Bytes the value has.
        needed: usize,
        /// Bytes the buffer has.
        capacity: usize,
    },
    /// The wait for space or for a lock ended without it.
    TimedOut(String),
    /// A bug was caught before it could cross into the caller; the store refuses writes.
    Panic(String),
}

impl Error {
    /// The C status of this error.
    pub fn status(&self) -> i32 {
        match self {
            Error::InvalidArgument(_) => status::E_INVALID_ARGUMENT,
            Error::Io { .. } => status::E_IO,
            Error::NoSpace { .. } => status::E_NO_SPACE,
            Error::Corrupted { .. } => status::E_CORRUPTED,
            Error::Incomplete(_) => status::E_INCOMPLETE,
            Error::Locked(_) => status::E_LOCKED,
            Error::ReadOnly => status::E_READ_ONLY,
            Error::Conflict => status::E_CONFLICT,
            Error::Unsupported(_) => status::E_UNSUPPORTED,
            Error::Poisoned(_) => status::E_POISONED,
            Error::Closed | Error::Dropped => status::E_CLOSED,
            Error::Forked => status::E_FORKED,
            Error::TooLarge { .. } => status::E_TOO_LARGE,
            Error::Busy(_) => status::E_BUSY,
            Error::BufferTooSmall { .. } => status::E_BUFFER_TOO_SMALL,
            Error::TimedOut(_) => status::E_TIMED_OUT,
            Error::Panic(_) => status::E_PANIC,
        }
    }

    /// The error of a system call that just failed.
    pub(crate) fn last_os(what: impl Into<String>) -> Error {
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
        Error::from_errno(what, errno)
    }

    /// The error of a system call that failed with `errno`.
    pub(crate) fn from_errno(what: impl Into<String>, errno: i32) -> Error {
        Error::Io { what: what.into(), errno }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::InvalidArgument(what) => write!(f, "invalid argument: {what}"),
            Error::Io { what, errno } => {
                // The system's text ends with the number.
                write!(f, "{what}: {}", std::io::Error::from_raw_os_error(*errno))
            }
            Error::NoSpace { needed_bytes, free_bytes, limit } => {
                write!(f, "no space: {needed_bytes} bytes needed, {free_bytes} free, limited by {limit}")
            }
            Error::Corrupted { what, offset, expected, found } => {
                write!(f, "{what} mismatch at pool offset {offset}: expected {expected:#x}, found {found:#x}")
            }
            Error::Incomplete(what) => write!(f, "incomplete pool: {what}"),
            Error::Locked(what) => write!(f, "locked: {what}"),
            Error::ReadOnly => f.write_str("the store was opened read-only"),
            Error::Conflict => f.write_str("the condition does not hold"),
            Error::Unsupported(what) => write!(f, "unsupported: {what}"),
            Error::Poisoned(what) => write!(
                f,
                "writes are refused after a failed persist ({what}); reads go on, reopen to recover"
            ),
            Error::Closed => f.write_str("the handle is closed"),
            Error::Dropped => f.write_str("the keyspace was dropped"),
            Error::Forked => f.write_str("the handle belongs to the parent of this forked process"),
            Error::TooLarge { what, len, max } => {
                write!(f, "{what} of {len} bytes exceeds the limit of {max} bytes")
            }
            Error::Busy(what) => write!(f, "busy: {what}"),
            Error::BufferTooSmall { needed, capacity } => {
                write!(f, "the buffer holds {capacity} bytes, the value has {needed}")
            }
            Error::TimedOut(what) => write!(f, "timed out: {what}"),
            Error::Panic(what) => write!(f, "internal panic: {what}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Io { errno, .. } => std::io::Error::from_raw_os_error(errno),
            other => std::io::Error::other(other),
        }
    }
}
