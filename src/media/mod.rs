//! The ground: the only door to bytes that survive. A medium is memory that can be read through a [`Region`], written,
//! and made durable in two steps with PMDK's words: *flush* starts write-back, *drain* waits for it.
//!
//! A new kind is one file, one arm in [`open`] and one line in `conformance.rs`. Callers above use the tokens of
//! [`durable`], never `flush` and `drain` directly, so that "durable" is a type and not a habit.
//!
//! Unsafe is allowed in `region.rs` (slices of a mapping), `persist.rs` (cache-line instructions) and `sys.rs` (system
//! calls); `dax.rs`, `file.rs`, `window.rs`, `descriptor.rs` and `pool_file.rs` are safe code on top of those three.

#[cfg(test)]
mod conformance;
mod dax;
mod descriptor;
pub mod durable;
mod file;
pub mod guarded;
#[cfg(feature = "virtual-time")]
pub mod model;
mod persist;
mod pool_file;
mod region;
#[cfg(feature = "sim")]
pub mod sim;
pub mod site;
mod sys;
mod window;

pub use crate::sync::fork_generation;
pub use region::Region;
pub use site::Site;
#[cfg(feature = "sim")]
pub use sys::{CallFault, CallSite, set_call_fault_hook};

use crate::error::{Error, Result};
use crate::sync::Arc;
use crate::types::MediaRange;
use std::path::Path;

pub use crate::constants::HOLDER_RECORD_BYTES;
pub use sys::spawn_without_signals;

/// Which kind of medium a store lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaKind {
    /// Persistent memory mapped with `MAP_SYNC`, or a device-dax device.
    Dax,
    /// An ordinary file: written by `pwrite` (`os` writes also through a mapping), durable by a shared `fdatasync`.
    File,
    /// Cache-line flushes and fences on any shared mapping, e.g. tmpfs. Survives a killed process, **not** a power cut.
    EmulatedPm,
    /// The simulated medium of the crash tests.
    #[cfg_attr(not(feature = "sim"), expect(dead_code, reason = "only tests make one"))]
    Sim,
}

impl MediaKind {
    /// The name used in options and statistics.
    pub fn name(self) -> &'static str {
        match self {
            MediaKind::Dax => "dax",
            MediaKind::File => "file",
            MediaKind::EmulatedPm => "emulated-pm",
            MediaKind::Sim => "sim",
        }
    }
}

/// What a user may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum MediaChoice {
    /// Probe: `Dax` where `MAP_SYNC` works, else `File`.
    #[default]
    Auto,
    /// Refuse anything that is not persistent memory.
    Dax,
    /// Treat it as an ordinary file, even where `MAP_SYNC` would work.
    File,
    /// Cache-line flushes and fences on any file, e.g. on tmpfs. Survives a killed process, **not** a power cut.
    EmulatedPm,
}

/// What one flush makes durable, and so what an append aligns to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushGranularity {
    /// Cache lines (ADR): frames start at multiples of 64 bytes.
    CacheLine,
    /// The whole file (`fdatasync`): each flushed group starts at a sector of its own.
    File,
}

impl FlushGranularity {
    /// What the first byte of each drained group is aligned to, so that no drain rewrites acknowledged bytes.
    pub fn append_align_bytes(self) -> u64 {
        match self {
            FlushGranularity::CacheLine => crate::constants::CACHE_LINE_BYTES,
            FlushGranularity::File => crate::constants::SECTOR_BYTES,
        }
    }
}

/// A medium. Called once per frame, not per entry.
///
/// Rules: published bytes are write-once, which is what makes reading through `Region` safe. `drain` covers what *the
/// calling thread* flushed or wrote through before it, on files everything that was written. An `Err` from `drain` is
/// final: the caller poisons the store and never retries.
pub trait Media: Send + Sync {
    /// Which kind this is.
    fn kind(&self) -> MediaKind;
    /// Why this kind was chosen, in one sentence for statistics and logs.
    fn why(&self) -> &str;
    /// The mapping that reads go through.
    fn region(&self) -> &Arc<Region>;
    /// What one flush covers.
    fn granularity(&self) -> FlushGranularity;
    /// Bytes that are allocated and may be read or written; a multiple of the page size.
    fn len_bytes(&self) -> u64;
    /// Bytes that it can have at most while it is open.
    fn len_bytes_max(&self) -> u64 {
        self.region().reserved_bytes()
    }
    /// Stores `bytes` at `at`; visible to this process when it returns, durable only after `flush` and `drain`.
    ///
    /// # Errors
    /// `Io` from the file system; bytes may then be partly written.
    fn write(&self, at: u64, bytes: &[u8]) -> Result<()>;
    /// As `write`, for bytes of `os` writes: drained some time or never. Files may store them through the mapping.
    ///
    /// # Errors
    /// As `write`.
    fn write_undrained(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.write(at, bytes)
    }
    /// `write` and `flush` in one: on persistent memory by non-temporal stores, which cost half of store and write-back.
    /// `at` and the length are multiples of the cache line. Other threads may be shown the bytes only after this thread's
    /// `drain`: such stores are not ordered with the ones behind them.
    ///
    /// # Errors
    /// As `write`.
    fn write_through(&self, at: u64, bytes: &[u8]) -> Result<()>;
    /// Stores one aligned word; on persistent memory in one atomic store.
    ///
    /// # Errors
    /// As `write`.
    fn write_word(&self, at: u64, word: u64) -> Result<()>;
    /// Starts write-back of every cache line that `range` touches, whoever wrote it.
    fn flush(&self, site: Site, range: MediaRange);
    /// Waits until everything this thread flushed or wrote through is durable; on files one `fdatasync`.
    ///
    /// # Errors
    /// `Io`: durability is unknown from here on; never retried.
    fn drain(&self, site: Site) -> Result<()>;
    /// Reads without the mapping (`pread` on files), so that an unreadable sector is an error and not a signal.
    ///
    /// # Errors
    /// `Io`.
    fn read(&self, at: u64, into: &mut [u8]) -> Result<()>;
    /// False where [`Media::read`] has to load from the mapping after all (device-dax).
    fn reads_without_mapping(&self) -> bool {
        true
    }
    /// Allocates up to `len_bytes` (a multiple of the page size), zeroed and durable as to metadata, and maps it. The new
    /// bytes may be named by a header only after this returned. On files they are written, so that a later `drain`
    /// writes no metadata.
    ///
    /// # Errors
    /// `NoSpace` when the device is full, `Io`; the length is then unchanged. Ask [`Media::failed_sync`] what else is.
    fn grow(&self, len_bytes: u64) -> Result<()>;
    /// Gives the bytes of these ranges (whole pages that nobody reads or writes) back to the file system: they are zero from
    /// now on, and must be allocated before they are stored to. Durable when it returns; a crash before leaves any part.
    ///
    /// # Errors
    /// `Unsupported`: nothing was changed. `Io`: any part of them may be given back. See [`Media::failed_sync`].
    fn punch(&self, ranges: &[MediaRange]) -> Result<()>;
    /// Allocates ranges that were given back, or may have been: as [`Media::grow`] does.
    ///
    /// # Errors
    /// As [`Media::grow`]: the ranges must still not be stored to.
    fn allocate(&self, ranges: &[MediaRange]) -> Result<()>;
    /// Cuts the medium off at `len_bytes` (a multiple of the page size); nobody reads or writes behind it. Durable when it
    /// returns; a crash before leaves either length.
    ///
    /// # Errors
    /// `Unsupported`, or `Io` from the cut: nothing was changed. After a sync that failed it is shorter nevertheless.
    fn shrink(&self, len_bytes: u64) -> Result<()>;
    /// Ranges that may have no bytes on the device; what was allocated and never written may look so, too.
    ///
    /// # Errors
    /// `Io`.
    fn holes(&self) -> Result<Vec<MediaRange>> {
        Ok(Vec::new())
    }
    /// The failure that every later drain will answer, once a sync has failed, also one of a growth: on files that may have
    /// left any page clean and not on the disk.
    fn failed_sync(&self) -> Option<Error> {
        None
    }
    /// Touches the pages of `range` so that the next append does not fault. A hint: free bytes only, errors are ignored.
    fn prefault(&self, range: MediaRange);
    /// Whether the byte at `offset` can be read without waiting for a device, as far as can be known. Costs a system call on
    /// files.
    fn is_cached(&self, _offset: u64) -> bool {
        true
    }
    /// Asks the device for bytes that will be read soon, and does not wait for them. A hint: errors are ignored.
    fn read_ahead(&self, _range: MediaRange) {}
    /// Makes a pool that `open` created under no name visible under its path, durably. No-op for an existing one.
    ///
    /// # Errors
    /// `Io`; `Locked` if somebody else created the path meanwhile.
    fn publish(&self) -> Result<()>;
}

/// What to open and how.
pub struct OpenRequest<'a> {
    /// The pool file, or a device-dax device.
    pub path: &'a Path,
    /// Which medium.
    pub media: MediaChoice,
    /// Create the pool if the path does not exist or is an empty file.
    pub create: bool,
    /// Shared lock, nothing is changed by callers (an unclean pool is still made durable).
    pub read_only: bool,
    /// Permissions of a created file.
    pub file_mode: u32,
    /// Store `os` writes through the mapping where the file system allows it. A medium that breaks under such a store is a
    /// SIGBUS, as it is under a read.
    pub os_by_mapping: bool,
    /// How long to wait for another holder of the lock.
    pub lock_wait_ms: u64,
    /// Pool offset of the holder record.
    pub holder_offset: u64,
    /// Turns the record of whoever holds the lock into words for the `Locked` error.
    pub describe_holder: fn(&[u8; HOLDER_RECORD_BYTES]) -> String,
}

/// A medium, locked, and whether it holds a pool already.
pub struct Opened {
    /// The medium.
    pub media: Arc<dyn Media>,
    /// True if it has no bytes yet: the caller formats it and then calls [`Media::publish`].
    pub is_new: bool,
}

/// Opens and locks a medium: the registry of kinds.
///
/// # Errors
/// `Io`, `Locked` (naming the holder), `Unsupported` (the kind asked for is not what the path is), `InvalidArgument`
/// (a directory, not a regular file).
pub fn open(request: &OpenRequest<'_>) -> Result<Opened> {
    pool_file::open(request)
}
