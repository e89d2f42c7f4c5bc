//! The file or device of a pool: opened, locked, created under no name and published, whatever the medium on top.
//!
//!   - nothing is read before the lock is held, except the holder record, to say who holds it
//!   - a new pool has no name until it is formatted and durable, so nobody ever opens half of one; an existing empty file
//!     is formatted in place, because the name is the user's
//!   - the holder record lies outside all checksums and is written by the engine, once it knows a pool: it informs
//!   - the lock lies on an open file of its own that is never mapped: a mapping keeps the open file it was made from, and
//!     with it the lock, also in a forked child whose descriptors are closed. It is not lost when others are closed

use super::descriptor::Descriptor;
use super::sys::{self, CallSite, Errno, Stat, Sys};
use super::{HOLDER_RECORD_BYTES, MediaChoice, MediaKind, OpenRequest, Opened, dax, persist};
use super::{dax::DaxMedium, file::FileMedium};
use crate::constants::{HEAD_SIZE_BYTES_MIN, PAGE_BYTES, POOL_BYTES_MAX};
use crate::error::{Error, Result};
use crate::sync::{Arc, AtomicU64, Mutex, Ordering};
use crate::types::MediaRange;
use std::ffi::{CStr, CString};
use std::fmt;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const LOCK_POLL: Duration = Duration::from_millis(5);
/// A pool that is removed and created again while it is being opened is tried this often.
const REOPENS_MAX: usize = 8;
/// Temporary names tried where the file system has no unnamed files.
const TEMPORARY_NAMES_MAX: u64 = 64;
/// Of a new file until it has the mode that was asked for.
const PRIVATE_MODE: u32 = 0o600;
/// New bytes are written as zeros in pieces of this size. The page cache keeps what one call writes in folios as long as
/// that, and walks all buffers of a folio at each write into it and each first store to a page of it: in folios of 1 MiB a
/// `pwrite` of 192 bytes takes twice as long as in these, and a page fault three times. While a piece is written nobody else
/// can write to the file.
const ZERO_PIECE_BYTES: usize = 64 << 10;

/// An open pool file. The lock goes with it.
pub(super) struct PoolFile {
    /// Reads, writes, and is mapped.
    descriptor: Descriptor,
    /// Holds the lock.
    lock: Descriptor,
    path: PathBuf,
    /// The descriptor may write.
    writable: bool,
    /// The caller asked to change nothing.
    read_only: bool,
    /// Bytes of a device-dax device, `None` for a regular file.
    device_bytes: Option<u64>,
    name: Mutex<Name>,
}

/// How the pool is named now.
enum Name {
    /// Durably: nothing is left to do.
    Durable,
    /// Visible, but the directory entry may not be durable.
    Visible { directory: OwnedFd },
    /// Not at all (`O_TMPFILE`).
    Unnamed { directory: OwnedFd, name: CString },
    /// By a temporary name, removed on drop.
    Temporary { directory: OwnedFd, temporary: CString, name: CString },
}

/// See [`super::open`].
pub(super) fn open(request: &OpenRequest<'_>) -> Result<Opened> {
    for _ in 0..REOPENS_MAX {
        let (pool, is_created) = match PoolFile::open_existing(request)? {
            Some(pool) => (pool, false),
            None if request.create && !request.read_only => (PoolFile::create(request)?, true),
            None => return Err(io_error("open", request.path, libc::ENOENT)),
        };
        pool.acquire(request)?;
        // Its name may have been removed, and given to a new file, while this waited for the lock.
        if is_created || pool.stat()?.links > 0 {
            return finish(pool, request);
        }
    }
    let message =
        format!("{} was removed {REOPENS_MAX} times while it was being opened", request.path.display());
    Err(Error::Locked(message))
}

/// Chooses the medium of a locked pool and maps it.
fn finish(pool: PoolFile, request: &OpenRequest<'_>) -> Result<Opened> {
    let file_bytes = pool.len_bytes()?;
    let is_new = pool.is_blank(file_bytes, request.holder_offset)?;
    if is_new && (request.read_only || !request.create) {
        let message = format!("{} is empty: not a pool, and this open creates none", request.path.display());
        return Err(Error::InvalidArgument(message));
    }
    if !is_new && file_bytes < HEAD_SIZE_BYTES_MIN && !pool.is_zero(file_bytes)? {
        let message = format!(
            "{} has {file_bytes} bytes: no pool, or the rest of one, whose head has at least {HEAD_SIZE_BYTES_MIN}",
            request.path.display()
        );
        return Err(Error::Incomplete(message));
    }
    // Pools have whole pages; a remainder was cut off by somebody, and the floors above will miss what it held.
    let len_bytes = file_bytes - file_bytes % PAGE_BYTES;
    let (kind, why) = choose(request.media, &pool)?;
    let media: Arc<dyn super::Media> = match kind {
        MediaKind::Dax | MediaKind::EmulatedPm => Arc::new(DaxMedium::new(pool, kind, why, len_bytes)?),
        MediaKind::File | MediaKind::Sim => {
            Arc::new(FileMedium::new(pool, why, len_bytes, request.os_by_mapping)?)
        }
    };
    Ok(Opened { media, is_new })
}

/// Which medium, and why in a sentence.
fn choose(choice: MediaChoice, pool: &PoolFile) -> Result<(MediaKind, String)> {
    let path = pool.path.display();
    if pool.is_device() && matches!(choice, MediaChoice::File | MediaChoice::EmulatedPm) {
        return Err(Error::Unsupported(format!(
            "{path} is a device-dax device: only media dax or auto can use it"
        )));
    }
    let refusal = match choice {
        MediaChoice::Auto | MediaChoice::Dax => {
            dax::probe(pool, pool.device_bytes.unwrap_or(PAGE_BYTES))?.err()
        }
        MediaChoice::File => return Ok((MediaKind::File, "file: asked for".to_string())),
        MediaChoice::EmulatedPm => {
            let why = "emulated-pm: asked for; survives a killed process, does NOT survive a power cut";
            return Ok((MediaKind::EmulatedPm, why.to_string()));
        }
    };
    match (choice, refusal) {
        (MediaChoice::Auto, None) => Ok((MediaKind::Dax, "auto: MAP_SYNC works, using dax".to_string())),
        (_, None) => Ok((MediaKind::Dax, "dax: asked for, and MAP_SYNC works".to_string())),
        (MediaChoice::Auto, Some(reason)) if !pool.is_device() => {
            Ok((MediaKind::File, format!("auto: {reason}, using file")))
        }
        (_, Some(reason)) => Err(Error::Unsupported(format!("media dax on {path}: {reason}"))),
    }
}

impl PoolFile {
    fn open_existing(request: &OpenRequest<'_>) -> Result<Option<PoolFile>> {
        let name = c_string(request.path.as_os_str().as_bytes(), request.path)?;
        // O_NONBLOCK: a FIFO or a device must not hold up the open that finds out what it is.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
        let attempt =
            |access| Descriptor::open(|| sys::open_at(CallSite::OpenPool, None, &name, flags | access, 0));
        let mut writable = true;
        let mut opened = attempt(libc::O_RDWR)?;
        // A read-only open writes back what it adopts, if it may; it is content if it may not.
        if request.read_only && matches!(opened, Err(libc::EACCES | libc::EPERM | libc::EROFS)) {
            writable = false;
            opened = attempt(libc::O_RDONLY)?;
        }
        let not_a_pool =
            |what| Err(Error::InvalidArgument(format!("{} is {what}, not a pool", request.path.display())));
        let descriptor = match opened {
            Ok(descriptor) => descriptor,
            Err(libc::ENOENT) => return Ok(None),
            Err(libc::EISDIR) => return not_a_pool("a directory"),
            Err(libc::ELOOP) => return not_a_pool("a symbolic link, which open does not follow"),
            Err(libc::ENXIO) => return not_a_pool("a socket or a device without a driver"),
            Err(errno) => return Err(io_error("open", request.path, errno)),
        };
        let stat = sys::stat(descriptor.get()?).map_err(|errno| io_error("fstat", request.path, errno))?;
        let name = match stat.len {
            // Somebody made the name a moment ago (`touch`); publishing makes it durable.
            0 if is_regular(&stat) && request.create && !request.read_only => {
                Name::Visible { directory: parent_of(request.path)?.0 }
            }
            _ => Name::Durable,
        };
        let device_bytes = match stat.mode & libc::S_IFMT {
            libc::S_IFREG => None,
            libc::S_IFCHR => match device_dax_bytes(stat.device) {
                Some(bytes) => Some(bytes),
                None => return not_a_pool("a character device that is not device-dax"),
            },
            libc::S_IFDIR => return not_a_pool("a directory"),
            libc::S_IFIFO => return not_a_pool("a FIFO"),
            libc::S_IFBLK => return not_a_pool("a block device (put a file system or device-dax on it)"),
            _ => return not_a_pool("no regular file"),
        };
        let access = if writable { libc::O_RDWR } else { libc::O_RDONLY };
        let lock = open_for_lock(&descriptor, access, request.path)?;
        Ok(Some(PoolFile::new([descriptor, lock], request, writable, device_bytes, name)))
    }

    fn create(request: &OpenRequest<'_>) -> Result<PoolFile> {
        let (directory, name) = parent_of(request.path)?;
        let flags = libc::O_TMPFILE | libc::O_RDWR;
        let site = CallSite::CreateUnnamed;
        let unnamed = Descriptor::open(|| sys::open_at(site, Some(&directory), c".", flags, PRIVATE_MODE))?;
        let (descriptor, name) = match unnamed {
            Ok(descriptor) => (descriptor, Name::Unnamed { directory, name }),
            // What file systems and old kernels without O_TMPFILE answer.
            Err(libc::EOPNOTSUPP | libc::EISDIR | libc::EINVAL) => {
                create_temporary(directory, name, request)?
            }
            Err(errno) => return Err(io_error("open with O_TMPFILE for", request.path, errno)),
        };
        PoolFile::of_created(descriptor, request, name)
    }

    fn of_created(descriptor: Descriptor, request: &OpenRequest<'_>, name: Name) -> Result<PoolFile> {
        // The umask may have taken bits away that opening again needs, and the mode asked for may not have them.
        let set_mode = |mode| {
            sys::set_mode(descriptor.get()?, mode).map_err(|errno| io_error("fchmod", request.path, errno))
        };
        set_mode(PRIVATE_MODE)?;
        let lock = open_for_lock(&descriptor, libc::O_RDWR, request.path)?;
        set_mode(request.file_mode)?;
        Ok(PoolFile::new([descriptor, lock], request, true, None, name))
    }

    fn new(
        [descriptor, lock]: [Descriptor; 2],
        request: &OpenRequest<'_>,
        writable: bool,
        device_bytes: Option<u64>,
        name: Name,
    ) -> PoolFile {
        PoolFile {
            descriptor,
            lock,
            path: request.path.to_path_buf(),
            writable,
            read_only: request.read_only,
            device_bytes,
            name: Mutex::new(name),
        }
    }

    /// Takes the lock, or waits for it as long as the request allows.
    fn acquire(&self, request: &OpenRequest<'_>) -> Result<()> {
        let fd = self.lock.get()?;
        let wait = Duration::from_millis(request.lock_wait_ms);
        let started = Instant::now();
        loop {
            if sys::try_lock(fd, !request.read_only)
                .map_err(|errno| self.error(format_args!("lock"), errno))?
            {
                return Ok(());
            }
            let left = wait.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Err(Error::Locked(self.describe_holder(request)));
            }
            std::thread::sleep(left.min(LOCK_POLL));
        }
    }

    fn describe_holder(&self, request: &OpenRequest<'_>) -> String {
        let path = self.path.display();
        let held_by_readers = self.lock.get().map(|fd| sys::is_held_by_readers(fd, !request.read_only));
        if matches!(held_by_readers, Ok(Ok(true))) {
            return format!("{path} is open read-only elsewhere; readers leave no record of who they are");
        }
        let mut record = [0; HOLDER_RECORD_BYTES];
        // Best effort: a pool that is being created has no record yet, and then it reads as zeros.
        let _ = self.read_holder(request.holder_offset, &mut record);
        format!("{path}: {}", (request.describe_holder)(&record))
    }

    fn read_holder(&self, offset: u64, record: &mut [u8; HOLDER_RECORD_BYTES]) -> Result<()> {
        if let Some(bytes) = self.device_bytes {
            return dax::read_device(self, bytes, offset, record);
        }
        let read = sys::read_at(CallSite::ReadHolder, self.fd()?, record, offset);
        read.map(drop)
            .map_err(|errno| self.error(format_args!("pread of the holder record at {offset}"), errno))
    }

    /// The descriptor. `Forked` in a child.
    #[inline]
    pub(super) fn fd(&self) -> Result<RawFd> {
        self.descriptor.get()
    }

    /// True for device-dax.
    pub(super) fn is_device(&self) -> bool {
        self.device_bytes.is_some()
    }

    /// The caller asked to change nothing.
    pub(super) fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// The descriptor may write.
    pub(super) fn is_writable(&self) -> bool {
        self.writable
    }

    pub(super) fn stat(&self) -> Result<Stat> {
        sys::stat(self.fd()?).map_err(|errno| self.error(format_args!("fstat"), errno))
    }

    fn len_bytes(&self) -> Result<u64> {
        let bytes = match self.device_bytes {
            Some(bytes) => bytes,
            None => self.stat()?.len,
        };
        if sys::page_bytes() != PAGE_BYTES {
            let message =
                format!("pages of {} bytes: pools are mapped by pages of {PAGE_BYTES}", sys::page_bytes());
            return Err(Error::Unsupported(message));
        }
        Ok(bytes)
    }

    /// True if a short file holds nothing but zeros: the first step of a creation in place that was cut off.
    fn is_zero(&self, len_bytes: u64) -> Result<bool> {
        let mut bytes = vec![0; len_bytes as usize];
        self.read_exact(0, &mut bytes)?;
        Ok(bytes.iter().all(|byte| *byte == 0))
    }

    /// True if there is no pool yet: an empty file, or a device whose head is zero but for a holder record (a creation
    /// that was cut off before its superblock leaves one).
    fn is_blank(&self, len_bytes: u64, holder_offset: u64) -> Result<bool> {
        let Some(device_bytes) = self.device_bytes else {
            return Ok(len_bytes == 0);
        };
        let mut head = [0; HEAD_SIZE_BYTES_MIN as usize];
        dax::read_device(self, device_bytes, 0, &mut head)?;
        let is_holder = |at: u64| (holder_offset..holder_offset + HOLDER_RECORD_BYTES as u64).contains(&at);
        Ok((0..).zip(&head).all(|(at, &byte)| byte == 0 || is_holder(at)))
    }

    /// An error of a call on this pool: `what` failed with `errno`.
    pub(super) fn error(&self, what: fmt::Arguments<'_>, errno: Errno) -> Error {
        Error::from_errno(format!("{what} of {}", self.path.display()), errno)
    }

    /// As [`PoolFile::error`], but a full device is `NoSpace`.
    fn space_error(&self, what: fmt::Arguments<'_>, errno: Errno, needed_bytes: u64) -> Error {
        if !sys::is_full(errno) {
            return self.error(what, errno);
        }
        let free_bytes = self.fd().map_or(0, |fd| sys::free_bytes(fd).unwrap_or(0));
        let cause = if errno == libc::EDQUOT { "the disk quota on" } else { "the device of" };
        Error::NoSpace { needed_bytes, free_bytes, limit: format!("{cause} {}", self.path.display()) }
    }

    /// Refuses a range that does not lie within `limit` bytes: on files it would lengthen the file behind our back.
    #[inline]
    pub(super) fn check_range(&self, what: &str, at: u64, len: usize, limit: u64) -> Result<()> {
        match at.checked_add(len as u64) {
            Some(end) if end <= limit => Ok(()),
            _ => {
                let what = format_args!("{what} of {len} bytes at {at}, past the {limit} bytes");
                Err(self.error(what, libc::EINVAL))
            }
        }
    }

    /// `pread`: an unreadable sector is an error, not a signal.
    pub(super) fn read_exact(&self, at: u64, into: &mut [u8]) -> Result<()> {
        let len = into.len();
        let what = format_args!("pread of {len} bytes at {at}");
        match sys::read_at(CallSite::Read, self.fd()?, into, at) {
            Ok(read) if read == len => Ok(()),
            // Somebody cut the file while it was open.
            Ok(_) => Err(self.error(what, libc::EIO)),
            Err(errno) => Err(self.error(what, errno)),
        }
    }

    /// Whether the pool may grow to `to` at all.
    pub(super) fn check_growth(&self, from: u64, to: u64) -> Result<()> {
        if self.read_only || !self.writable {
            return Err(Error::ReadOnly);
        }
        let limit = match self.device_bytes {
            _ if !to.is_multiple_of(PAGE_BYTES) => {
                return Err(self
                    .error(format_args!("growth to {to} bytes, which are not whole pages,"), libc::EINVAL));
            }
            Some(bytes) => format!("the {bytes} bytes of device {}", self.path.display()),
            None if to > POOL_BYTES_MAX => format!("the {POOL_BYTES_MAX} bytes that an address reaches"),
            None => return Ok(()),
        };
        Err(Error::NoSpace { needed_bytes: to - from, free_bytes: 0, limit })
    }

    /// Allocates `[from, to)`, zeroed, and raises the file's length.
    pub(super) fn allocate(&self, from: u64, to: u64) -> Result<()> {
        self.allocate_from(from, to, self.stat()?.len)
    }

    /// The same for a file that was `old` bytes long, whatever was allocated behind them since then.
    pub(super) fn allocate_from(&self, from: u64, to: u64, old: u64) -> Result<()> {
        match sys::allocate(self.fd()?, from, to) {
            Ok(()) => {}
            Err(libc::EOPNOTSUPP | libc::ENOSYS) => return self.write_zeros(from, to),
            Err(errno) => {
                return Err(self.space_error(
                    format_args!("fallocate of {} bytes at {from}", to - from),
                    errno,
                    to - from,
                ));
            }
        }
        // A remainder of a page that was not mapped at open may hold anything.
        if old > from { self.write_zeros(from, old.min(to)) } else { Ok(()) }
    }

    /// Writes zeros over `[from, to)`.
    pub(super) fn write_zeros(&self, from: u64, to: u64) -> Result<()> {
        let zeros = vec![0; ZERO_PIECE_BYTES.min((to - from) as usize)];
        let mut at = from;
        while at < to {
            let piece = &zeros[..zeros.len().min((to - at) as usize)];
            sys::write_all_at(CallSite::GrowZero, self.fd()?, piece, at).map_err(|errno| {
                self.space_error(format_args!("pwrite of zeros at {at}"), errno, to - from)
            })?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// Gives back what a failed growth left. If this fails too, the file is longer than the pool, which the next open
    /// sees as free bytes.
    pub(super) fn undo_growth(&self, from: u64) {
        if let Ok(fd) = self.fd() {
            let _ = sys::truncate(CallSite::GrowUndo, fd, from);
        }
    }

    /// Whether bytes of a pool of `len_bytes` can be given back at all.
    fn check_give_back(&self) -> Result<()> {
        if self.read_only || !self.writable {
            return Err(Error::ReadOnly);
        }
        if self.device_bytes.is_some() {
            return Err(Error::Unsupported("a device keeps all of its bytes".into()));
        }
        Ok(())
    }

    /// Makes holes of these ranges.
    pub(super) fn punch(&self, ranges: &[MediaRange], len_bytes: u64) -> Result<()> {
        self.check_give_back()?;
        for range in ranges {
            self.check_range("hole", range.offset, range.len as usize, len_bytes)?;
            match sys::punch(self.fd()?, range.offset, range.len) {
                Ok(()) => {}
                Err(libc::EOPNOTSUPP | libc::ENOSYS) => {
                    let message = format!("the file system of {} makes no holes", self.path.display());
                    return Err(Error::Unsupported(message));
                }
                Err(errno) => {
                    return Err(
                        self.error(format_args!("hole of {} bytes at {}", range.len, range.offset), errno)
                    );
                }
            }
        }
        Ok(())
    }

    /// Cuts the file off at `to`.
    pub(super) fn shrink(&self, to: u64, len_bytes: u64) -> Result<()> {
        self.check_give_back()?;
        assert!(to <= len_bytes && to.is_multiple_of(PAGE_BYTES), "a cut of {len_bytes} bytes to {to}");
        sys::truncate(CallSite::Shrink, self.fd()?, to)
            .map_err(|errno| self.error(format_args!("ftruncate to {to} bytes"), errno))
    }

    /// Where the file has no data, as far as the file system says; nowhere if it does not.
    pub(super) fn holes(&self, len_bytes: u64) -> Result<Vec<MediaRange>> {
        let (mut holes, mut at) = (Vec::new(), 0);
        if self.device_bytes.is_some() {
            return Ok(holes);
        }
        let failed = |errno| self.error(format_args!("lseek to a hole"), errno);
        while at < len_bytes {
            let hole = match sys::next_hole(self.fd()?, at) {
                Ok(Some(hole)) => hole.min(len_bytes),
                Ok(None) | Err(libc::EINVAL | libc::EOPNOTSUPP) => break,
                Err(errno) => return Err(failed(errno)),
            };
            let data = sys::next_data(self.fd()?, hole).map_err(failed)?.unwrap_or(len_bytes).min(len_bytes);
            if data > hole {
                holes.push(MediaRange::new(hole, data - hole));
            }
            at = data;
        }
        Ok(holes)
    }

    /// See [`super::Media::publish`]; `sync` makes the content durable.
    pub(super) fn publish(&self, sync: impl FnOnce(RawFd) -> Sys<()>) -> Result<()> {
        let fd = self.fd()?;
        let mut name = self.name.lock();
        if matches!(*name, Name::Durable) {
            return Ok(());
        }
        sync(fd).map_err(|errno| self.error(format_args!("fsync before publication"), errno))?;
        let linked = match &*name {
            Name::Unnamed { directory, name } => sys::link_unnamed(fd, directory, name),
            Name::Temporary { directory, temporary, name } => move_temporary(directory, temporary, name),
            Name::Visible { .. } | Name::Durable => Ok(()),
        };
        match linked {
            Ok(()) => {}
            Err(libc::EEXIST) => {
                let message = format!("{} was created by somebody else meanwhile", self.path.display());
                return Err(Error::Locked(message));
            }
            Err(errno) => return Err(self.error(format_args!("link"), errno)),
        }
        let directory = match std::mem::replace(&mut *name, Name::Durable) {
            Name::Unnamed { directory, .. }
            | Name::Temporary { directory, .. }
            | Name::Visible { directory } => directory,
            Name::Durable => return Ok(()),
        };
        let synced = sync_directory(&directory);
        if synced.is_err() {
            // The name is there: a second publication only has to make it durable.
            *name = Name::Visible { directory };
        }
        synced.map_err(|errno| self.error(format_args!("fsync of the directory"), errno))
    }
}

impl Drop for PoolFile {
    fn drop(&mut self) {
        // In a forked child the temporary name and the lock are still the parent's.
        let Ok(lock) = self.lock.get() else { return };
        if let Name::Temporary { directory, temporary, .. } = self.name.get_mut() {
            let _ = sys::unlink(directory, temporary);
        }
        // Closing is not enough: a process that another thread is forking or spawning now has a copy of the descriptor
        // until its handler, or exec, closes it, and an open right after this close would find the pool locked.
        let _ = sys::unlock(lock);
    }
}

/// Creates a file under a hidden temporary name.
fn create_temporary(
    directory: OwnedFd,
    name: CString,
    request: &OpenRequest<'_>,
) -> Result<(Descriptor, Name)> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
    for _ in 0..TEMPORARY_NAMES_MAX {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let temporary = format!(".flatkv-{}-{number}.tmp", std::process::id());
        let temporary = c_string(temporary.as_bytes(), request.path)?;
        let site = CallSite::CreateNamed;
        match Descriptor::open(|| sys::open_at(site, Some(&directory), &temporary, flags, PRIVATE_MODE))? {
            Ok(descriptor) => return Ok((descriptor, Name::Temporary { directory, temporary, name })),
            Err(libc::EEXIST) => {}
            Err(errno) => return Err(io_error("open of a temporary file for", request.path, errno)),
        }
    }
    Err(io_error("open of a temporary file for", request.path, libc::EEXIST))
}

/// Opens the pool once more, for the lock alone.
fn open_for_lock(descriptor: &Descriptor, access: i32, path: &Path) -> Result<Descriptor> {
    let fd = descriptor.get()?;
    Descriptor::open(|| sys::open_again(fd, access))?
        .map_err(|errno| io_error("open through /proc/self/fd, to lock,", path, errno))
}

/// Renames without replacing: by a second link where the file system has links.
fn move_temporary(directory: &OwnedFd, temporary: &CStr, name: &CStr) -> Sys<()> {
    match sys::link_named(directory, temporary, name) {
        // The pool has its name; a temporary name that stays is litter, not damage.
        Ok(()) => {
            let _ = sys::unlink(directory, temporary);
            Ok(())
        }
        Err(libc::EPERM | libc::EOPNOTSUPP | libc::ENOSYS | libc::EMLINK) => {
            sys::rename_new(directory, temporary, name)
        }
        Err(errno) => Err(errno),
    }
}

fn sync_directory(directory: &OwnedFd) -> Sys<()> {
    use std::os::fd::AsRawFd;
    persist::sync_all(CallSite::PublishSyncDirectory, directory.as_raw_fd())
}

/// The directory of `path`, opened, and the last component.
fn parent_of(path: &Path) -> Result<(OwnedFd, CString)> {
    let Some(name) = path.file_name() else {
        return Err(Error::InvalidArgument(format!("{} names no file", path.display())));
    };
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let directory = sys::open_directory(&c_string(parent.as_os_str().as_bytes(), path)?)
        .map_err(|errno| io_error("open of the directory", parent, errno))?;
    Ok((directory, c_string(name.as_bytes(), path)?))
}

fn is_regular(stat: &Stat) -> bool {
    stat.mode & libc::S_IFMT == libc::S_IFREG
}

/// The size of a device-dax device, `None` if the character device is something else.
fn device_dax_bytes((major, minor): (u32, u32)) -> Option<u64> {
    let device = PathBuf::from(format!("/sys/dev/char/{major}:{minor}"));
    let subsystem = std::fs::read_link(device.join("subsystem")).ok()?;
    if subsystem.file_name()? != "dax" {
        return None;
    }
    std::fs::read_to_string(device.join("size")).ok()?.trim().parse().ok()
}

fn c_string(bytes: &[u8], path: &Path) -> Result<CString> {
    CString::new(bytes)
        .map_err(|_| Error::InvalidArgument(format!("the path {} has a NUL byte", path.display())))
}

fn io_error(what: &str, path: &Path, errno: Errno) -> Error {
    Error::from_errno(format!("{what} {}", path.display()), errno)
}

#[cfg(test)]
#[path = "pool_file_tests.rs"]
mod tests;
