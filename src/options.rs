//! How a store is opened and how a write is made. Every option has a typed setter and a name for
//! [`Options::set`]; combinations are checked once, at open.

use crate::constants::*;
use crate::error::{Error, Result};
pub use crate::media::MediaChoice;
use crate::store::Store;
use std::path::Path;

/// What has to be true when a write returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Durability {
    /// On the medium: survives a power cut. One drain, shared where writers meet.
    #[default]
    Sync,
    /// Handed to the operating system: survives a killed process, not a power cut.
    Os,
}

/// The volatile index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum IndexKind {
    /// Point operations only, at most 12 bytes of DRAM per key on average.
    Hash,
    /// Keys in order, about 25 bytes of DRAM per key; point operations take longer than with `Hash`.
    #[default]
    Ordered,
}

impl IndexKind {
    /// The name that [`Options::set`] takes and the statistics show.
    pub(crate) fn name(self) -> &'static str {
        match self {
            IndexKind::Hash => "hash",
            IndexKind::Ordered => "ordered",
        }
    }
}

/// Who shares a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum CommitPolicy {
    /// Chosen from the medium: an uncontended writer alone, writers that meet together.
    #[default]
    Auto,
    /// Every writer frames and drains alone.
    Lone,
    /// Writers always join a group; its leader drains for all.
    Grouped,
}

/// What happens when a read meets bytes of the pool that the medium cannot deliver: an uncorrectable memory error, a bad
/// block, a file that was truncated while it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum SigbusPolicy {
    /// What the system does: SIGBUS, which ends the process unless the application handles it. Reads are loads from the
    /// mapping, without a system call or a copy.
    #[default]
    Default,
    /// `Io` that names the pool offset; every other key is still served. See [`Options::sigbus`].
    Guard,
}

/// How to open a store. Fields that shape the pool (`segment_size_bytes`, `head_size_bytes`) count at creation only.
#[derive(Clone, Debug)]
pub struct Options {
    pub(crate) media: MediaChoice,
    pub(crate) durability: Durability,
    pub(crate) index: IndexKind,
    pub(crate) create: bool,
    pub(crate) read_only: bool,
    pub(crate) max_bytes: Option<u64>,
    pub(crate) target_utilization: f64,
    pub(crate) segment_size_bytes: Option<u64>,
    pub(crate) head_size_bytes: Option<u64>,
    pub(crate) inline_value_bytes_max: Option<usize>,
    pub(crate) commit: CommitPolicy,
    pub(crate) commit_wait_us_max: u64,
    pub(crate) async_bytes_max: u64,
    pub(crate) write_stall_ms_max: u64,
    pub(crate) verify_reads: bool,
    pub(crate) sigbus: SigbusPolicy,
    pub(crate) file_mode: u32,
    pub(crate) lock_wait_ms: u64,
    /// Off in simulations: whatever the housekeeper would do is then done by explicit calls.
    pub(crate) background: bool,
    /// Log count instead of the medium's own choice (tests).
    pub(crate) logs: Option<usize>,
    /// Survivor streams instead of what the pool's size asks for (tests).
    pub(crate) survivor_streams: Option<usize>,
    /// Victims by what emptying them gains at once, and one stream (benchmarks).
    pub(crate) greedy_cleaner: bool,
    /// A new pool's uuid and hash seed follow from this (simulations); `None`: they are random.
    pub(crate) pool_seed: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            media: MediaChoice::Auto,
            durability: Durability::Sync,
            index: IndexKind::Ordered,
            create: true,
            read_only: false,
            max_bytes: None,
            target_utilization: 0.80,
            segment_size_bytes: None,
            head_size_bytes: None,
            inline_value_bytes_max: None,
            commit: CommitPolicy::Auto,
            commit_wait_us_max: COMMIT_WAIT_US_MAX_DEFAULT,
            async_bytes_max: ASYNC_BYTES_MAX_DEFAULT,
            write_stall_ms_max: WRITE_STALL_MS_MAX_DEFAULT,
            verify_reads: true,
            sigbus: SigbusPolicy::Default,
            file_mode: 0o600,
            lock_wait_ms: 0,
            background: true,
            logs: None,
            survivor_streams: None,
            greedy_cleaner: false,
            pool_seed: None,
        }
    }
}

/// Shares that `target_utilization` may be.
const UTILIZATION_RANGE: std::ops::RangeInclusive<f64> = 0.1..=0.95;

/// The option names that [`Options::set`] accepts.
pub const OPTION_NAMES: &[&str] = &[
    "media",
    "durability",
    "index",
    "create",
    "read_only",
    "max_bytes",
    "target_utilization",
    "segment_size_bytes",
    "head_size_bytes",
    "inline_value_bytes_max",
    "commit",
    "commit_wait_us_max",
    "async_bytes_max",
    "write_stall_ms_max",
    "verify_reads",
    "sigbus",
    "file_mode",
    "lock_wait_ms",
];

impl Options {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Which medium. Default: `Auto` (persistent memory where `MAP_SYNC` works, else file).
    pub fn media(mut self, media: MediaChoice) -> Self {
        self.media = media;
        self
    }

    /// What a write waits for unless its own options say otherwise. Default: `Sync`.
    ///
    /// An `os` write to a file is a system call. A store opened with `Os` saves that on ext4, and in pools of up to 64 MiB on
    /// tmpfs, unless `sigbus` is `Guard`: it maps the pool for writing and stores small `os` writes there. A medium or a file system that fails under
    /// such a store is a SIGBUS, as under a read; a full device is not. And a wild pointer of the program can then damage the
    /// pool, which checksums find.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Which index. Held in memory only: the same pool opens with either. Default: `Ordered`.
    pub fn index(mut self, index: IndexKind) -> Self {
        self.index = index;
        self
    }

    /// Create the pool if there is none. Default: true.
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Share the pool with other readers and refuse writes. Default: false.
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Quota: the pool never grows beyond this many bytes. Default: none, it grows to what the device has.
    pub fn max_bytes(mut self, max_bytes: u64) -> Self {
        self.max_bytes = Some(max_bytes);
        self
    }

    /// Share of the pool, beyond what is kept free to work in, that may be live before it grows; until then it is cleaned.
    /// From 0.1 to 0.95. Smaller: more space is taken and less is copied; larger: the reverse. Default: 0.80.
    pub fn target_utilization(mut self, share: f64) -> Self {
        self.target_utilization = share;
        self
    }

    /// Bytes of a segment, a power of two from 4 KiB to 256 MiB, at creation. Smaller: space is managed more finely and
    /// heads roll more often; larger: the reverse. Default: 4 MiB on persistent memory, 16 MiB on files, with a quota a
    /// 1024th of it within 128 KiB to 8 MiB.
    pub fn segment_size_bytes(mut self, bytes: u64) -> Self {
        self.segment_size_bytes = Some(bytes);
        self
    }

    /// Bytes before the first segment, a multiple of 4 KiB, at creation. Default: 2 MiB, or a
    /// segment if that is less.
    pub fn head_size_bytes(mut self, bytes: u64) -> Self {
        self.head_size_bytes = Some(bytes);
        self
    }

    /// Longer values go to extents out of the log, at the price of a second drain; shorter ones are copied when their
    /// segment is cleaned. Default: 4 KiB on persistent memory, 32 KiB on files.
    pub fn inline_value_bytes_max(mut self, bytes: usize) -> Self {
        self.inline_value_bytes_max = Some(bytes);
        self
    }

    /// Who shares a drain. Default: `Auto`.
    pub fn commit(mut self, commit: CommitPolicy) -> Self {
        self.commit = commit;
        self
    }

    /// Longest time in microseconds before an asynchronous write is made durable without further calls. Default: 1,000.
    pub fn commit_wait_us_max(mut self, us: u64) -> Self {
        self.commit_wait_us_max = us;
        self
    }

    /// Asynchronous writes in flight beyond this many bytes wait. Default: 64 MiB.
    pub fn async_bytes_max(mut self, bytes: u64) -> Self {
        self.async_bytes_max = bytes;
        self
    }

    /// Longest time in milliseconds that a write waits for the cleaner to make room before it is refused with `TimedOut`.
    /// Default: 1,000.
    pub fn write_stall_ms_max(mut self, ms: u64) -> Self {
        self.write_stall_ms_max = ms;
        self
    }

    /// Verify the checksum of every entry that a read returns. Default: true.
    pub fn verify_reads(mut self, verify: bool) -> Self {
        self.verify_reads = verify;
        self
    }

    /// Whether reads of an unreadable part of the pool are an error instead of a signal. Default: `Default`, the signal.
    ///
    /// With `Guard` nothing is read through the mapping: entries are copied by `pread`, which can fail. That costs one
    /// system call for each look at an entry and one for each piece of a large value (measured on tmpfs: 0.3 us more for
    /// a small get, 1.7 us for an overwrite, which looks at what it replaces several times, and five times the time of
    /// a recovery), and [`Store::get_pinned`] copies. No signal handler is installed. A page that failed once fails until the store is
    /// opened again; a later put or delete of a key that lay on it cures the key. An unreadable page of the log found
    /// at open makes the open fail. Not covered are stores into persistent memory that breaks while it is written. With media
    /// `file` and the guard writes never signal; without it see [`Options::durability`]. A device-dax device can only be
    /// mapped: `Unsupported` there.
    pub fn sigbus(mut self, policy: SigbusPolicy) -> Self {
        self.sigbus = policy;
        self
    }

    /// Permissions of a created pool. Default: 0600.
    pub fn file_mode(mut self, mode: u32) -> Self {
        self.file_mode = mode;
        self
    }

    /// How long to wait for another holder of the pool before `Locked`. Default: 0.
    pub fn lock_wait_ms(mut self, ms: u64) -> Self {
        self.lock_wait_ms = ms;
        self
    }

    /// For comparison in benchmarks, no option: the cleaner takes what gains most at once, and does not sort what it moves.
    #[doc(hidden)]
    pub fn with_greedy_cleaner(self) -> Self {
        Options { greedy_cleaner: true, survivor_streams: Some(1), ..self }
    }

    /// Opens the store at `path`; see [`Store::open`].
    ///
    /// # Errors
    /// See [`Store::open`].
    pub fn open(self, path: impl AsRef<Path>) -> Result<Store> {
        Store::open_with(path.as_ref(), self)
    }

    /// Sets one option by name from text, as configuration files and the C interface do. Sizes take an optional suffix
    /// `KiB`, `MiB`, `GiB`, `TiB`.
    ///
    /// # Errors
    /// `InvalidArgument` listing what is accepted; nothing is changed.
    pub fn set(&mut self, name: &str, value: &str) -> Result<()> {
        match name {
            "media" => {
                self.media = choose(
                    name,
                    value,
                    &[
                        ("auto", MediaChoice::Auto),
                        ("dax", MediaChoice::Dax),
                        ("file", MediaChoice::File),
                        ("emulated-pm", MediaChoice::EmulatedPm),
                    ],
                )?;
            }
            "durability" => self.durability = parse_durability(name, value)?,
            "index" => {
                let kinds = [("hash", IndexKind::Hash), ("ordered", IndexKind::Ordered)];
                self.index = choose(name, value, &kinds)?;
            }
            "create" => self.create = parse_bool(name, value)?,
            "read_only" => self.read_only = parse_bool(name, value)?,
            "max_bytes" => {
                self.max_bytes = if value == "none" { None } else { Some(parse_bytes(name, value)?) };
            }
            "target_utilization" => {
                self.target_utilization = value
                    .parse()
                    .ok()
                    .filter(|share| UTILIZATION_RANGE.contains(share))
                    .ok_or_else(|| bad_value(name, value, "a share from 0.1 to 0.95"))?;
            }
            "segment_size_bytes" => self.segment_size_bytes = Some(parse_bytes(name, value)?),
            "head_size_bytes" => self.head_size_bytes = Some(parse_bytes(name, value)?),
            "inline_value_bytes_max" => {
                self.inline_value_bytes_max = Some(parse_bytes(name, value)? as usize)
            }
            "commit" => {
                self.commit = choose(
                    name,
                    value,
                    &[
                        ("auto", CommitPolicy::Auto),
                        ("lone", CommitPolicy::Lone),
                        ("grouped", CommitPolicy::Grouped),
                    ],
                )?;
            }
            "commit_wait_us_max" => self.commit_wait_us_max = parse_number(name, value)?,
            "async_bytes_max" => self.async_bytes_max = parse_bytes(name, value)?,
            "write_stall_ms_max" => self.write_stall_ms_max = parse_number(name, value)?,
            "verify_reads" => self.verify_reads = parse_bool(name, value)?,
            "sigbus" => {
                self.sigbus = choose(
                    name,
                    value,
                    &[("default", SigbusPolicy::Default), ("guard", SigbusPolicy::Guard)],
                )?;
            }
            "file_mode" => {
                self.file_mode = u32::from_str_radix(value.trim_start_matches("0o"), 8)
                    .ok()
                    .filter(|mode| *mode <= 0o777)
                    .ok_or_else(|| bad_value(name, value, "octal permissions up to 777"))?;
            }
            "lock_wait_ms" => self.lock_wait_ms = parse_number(name, value)?,
            _ => {
                return Err(Error::InvalidArgument(format!(
                    "unknown option \"{name}\": accepted are {}",
                    OPTION_NAMES.join(", ")
                )));
            }
        }
        Ok(())
    }

    /// Whether `os` writes may be stored through a mapping of a file: asked for by who wants them fast, and not by who wants
    /// every failure of the medium to be an error.
    pub(crate) fn stores_by_mapping(&self) -> bool {
        self.durability == Durability::Os && self.sigbus == SigbusPolicy::Default
    }

    /// Refuses combinations that cannot work.
    pub(crate) fn validate(&self) -> Result<()> {
        if let Some(size) = self.segment_size_bytes
            && (!size.is_power_of_two() || !(SEGMENT_SIZE_BYTES_MIN..=SEGMENT_SIZE_BYTES_MAX).contains(&size))
        {
            return Err(Error::InvalidArgument(format!(
                "segment_size_bytes = {size}: expected a power of two from {SEGMENT_SIZE_BYTES_MIN} to {SEGMENT_SIZE_BYTES_MAX}"
            )));
        }
        if let Some(size) = self.head_size_bytes
            && (!size.is_multiple_of(PAGE_BYTES) || !(HEAD_SIZE_BYTES_MIN..=1 << 30).contains(&size))
        {
            return Err(Error::InvalidArgument(format!(
                "head_size_bytes = {size}: expected a multiple of {PAGE_BYTES} from {HEAD_SIZE_BYTES_MIN} to 1 GiB"
            )));
        }
        if !UTILIZATION_RANGE.contains(&self.target_utilization) {
            let share = self.target_utilization;
            return Err(Error::InvalidArgument(format!(
                "target_utilization = {share}: expected a share from 0.1 to 0.95"
            )));
        }
        if self.async_bytes_max == 0 {
            return Err(Error::InvalidArgument("async_bytes_max = 0: expected at least 1".into()));
        }
        Ok(())
    }
}

/// How one write is made, where it differs from the store's options.
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    pub(crate) durability: Option<Durability>,
}

impl WriteOptions {
    /// The store's own settings.
    pub fn new() -> Self {
        Self::default()
    }

    /// What this write waits for.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = Some(durability);
        self
    }

    /// Sets one option by name: `durability` = `sync` or `os`.
    ///
    /// # Errors
    /// `InvalidArgument` listing what is accepted; nothing is changed.
    pub fn set(&mut self, name: &str, value: &str) -> Result<()> {
        match name {
            "durability" => self.durability = Some(parse_durability(name, value)?),
            _ => {
                return Err(Error::InvalidArgument(format!(
                    "unknown write option \"{name}\": accepted are durability"
                )));
            }
        }
        Ok(())
    }
}

fn bad_value(name: &str, value: &str, expected: &str) -> Error {
    Error::InvalidArgument(format!("option {name} = \"{value}\": expected {expected}"))
}

fn choose<T: Copy>(name: &str, value: &str, choices: &[(&str, T)]) -> Result<T> {
    choices.iter().find(|(word, _)| *word == value).map(|(_, choice)| *choice).ok_or_else(|| {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        bad_value(name, value, &words.join(" or "))
    })
}

fn parse_durability(name: &str, value: &str) -> Result<Durability> {
    choose(name, value, &[("sync", Durability::Sync), ("os", Durability::Os)])
}

fn parse_bool(name: &str, value: &str) -> Result<bool> {
    choose(name, value, &[("true", true), ("false", false)])
}

fn parse_number(name: &str, value: &str) -> Result<u64> {
    value.parse().map_err(|_| bad_value(name, value, "a whole number"))
}

fn parse_bytes(name: &str, value: &str) -> Result<u64> {
    let (digits, shift) = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)]
        .iter()
        .find_map(|(suffix, shift)| value.strip_suffix(suffix).map(|digits| (digits.trim_end(), *shift)))
        .unwrap_or((value, 0));
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| bad_value(name, value, "a number of bytes, with KiB, MiB, GiB or TiB if wanted"))
}
