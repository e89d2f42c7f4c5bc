//! Every system call of the media, each with a number, so that a fault suite can fail them one by one.
//!
//! Unsafe is allowed here because a system call takes raw pointers and descriptors; the other files get safe functions
//! that take slices. Memory mapping stays `unsafe fn`: only `region.rs` can prove that a range is its own.
//!
//!   - a call is retried on `EINTR`, except `fsync` and `fdatasync`: what an interrupted sync wrote is unknown
//!   - a call that failed reports its `errno`; words for it are the caller's, who knows path and offset
//!   - `close` is not retried either: Linux has released the descriptor whatever it answers
#![allow(unsafe_code, reason = "system calls take raw pointers; see the head of the file")]

use crate::constants::PAGE_BYTES;
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// What a failed system call left in `errno`.
pub type Errno = i32;
/// The answer of a system call.
pub type Sys<T> = std::result::Result<T, Errno>;

/// Declares the sites and their registry together, so that no site is left out of it.
macro_rules! call_sites {
    ($($name:ident = $number:literal,)+) => {
        /// One place in the code that calls the system. Numbers are not reused: fault suites name them in replay lines.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        #[allow(missing_docs, reason = "each name says which call it is")]
        pub enum CallSite {
            $($name = $number,)+
        }

        impl CallSite {
            /// Every site.
            #[cfg(feature = "sim")]
            pub const ALL: &[CallSite] = &[$(CallSite::$name,)+];
        }
    };
}

call_sites! {
    OpenPool = 1,
    OpenDirectory = 2,
    CreateUnnamed = 3,
    CreateNamed = 4,
    SetMode = 5,
    Stat = 6,
    FileSystemStat = 7,
    Lock = 8,
    LockOwner = 9,
    ReadHolder = 10,
    SyncProbe = 12,
    Reserve = 13,
    MapPart = 14,
    HugePageHint = 15,
    Prefault = 16,
    Write = 17,
    WriteWord = 18,
    Read = 19,
    Drain = 20,
    GrowAllocate = 21,
    GrowZero = 22,
    GrowSync = 23,
    GrowUndo = 24,
    PublishSync = 25,
    PublishLink = 26,
    PublishRename = 27,
    PublishUnlink = 28,
    PublishSyncDirectory = 29,
    OpenLock = 30,
    Unlock = 31,
    Punch = 32,
    Shrink = 33,
    GiveBackSync = 34,
    FindHole = 35,
    AskIfCached = 36,
    ReadAhead = 37,
    AdviseRandom = 38,
}

#[cfg(feature = "sim")]
mod fault {
    use super::{CallSite, Errno, Sys};
    use crate::sync::RwLock;

    /// What a call does instead of succeeding.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum CallFault {
        /// It fails, and the system is not called.
        Errno(Errno),
        /// A read or write moves about half of the bytes; any other call succeeds.
        Short,
    }

    /// Answers what shall go wrong with the call at a site.
    pub type Hook = fn(CallSite) -> Option<CallFault>;

    static HOOK: RwLock<Option<Hook>> = RwLock::new(None);

    /// Installs or removes the process-wide fault hook.
    pub fn set_call_fault_hook(hook: Option<Hook>) {
        *HOOK.write() = hook;
    }

    /// How many of the `len` bytes the call at `site` shall move (0 for a call that moves none).
    pub(super) fn before(site: CallSite, len: usize) -> Sys<usize> {
        let hook = *HOOK.read();
        match hook.and_then(|hook| hook(site)) {
            None => Ok(len),
            Some(CallFault::Short) => Ok(len.div_ceil(2)),
            Some(CallFault::Errno(errno)) => Err(errno),
        }
    }
}

#[cfg(not(feature = "sim"))]
mod fault {
    use super::{CallSite, Sys};

    #[inline(always)]
    pub(super) fn before(_site: CallSite, len: usize) -> Sys<usize> {
        Ok(len)
    }
}

#[cfg(feature = "sim")]
pub use fault::{CallFault, set_call_fault_hook};

fn last_errno() -> Errno {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

fn once(site: CallSite, call: impl FnOnce() -> i64) -> Sys<i64> {
    fault::before(site, 0)?;
    match call() {
        -1 => Err(last_errno()),
        answer => Ok(answer),
    }
}

fn retried(site: CallSite, mut call: impl FnMut() -> i64) -> Sys<i64> {
    loop {
        match once(site, &mut call) {
            Err(libc::EINTR) => {}
            answer => return answer,
        }
    }
}

/// A read or write of `len` bytes; answers how many were moved.
fn moved(site: CallSite, len: usize, call: impl Fn(usize) -> i64) -> Sys<usize> {
    loop {
        let answer = fault::before(site, len).and_then(|len| match call(len) {
            -1 => Err(last_errno()),
            moved => Ok(moved as usize),
        });
        if answer != Err(libc::EINTR) {
            return answer;
        }
    }
}

/// Starts a thread in which no signal is delivered: signals are the application's.
///
/// # Errors
/// What the system says if it cannot start another thread.
pub fn spawn_without_signals(
    name: &str,
    run: impl FnOnce() + Send + 'static,
) -> std::io::Result<std::thread::JoinHandle<()>> {
    // SAFETY: both sets are local and outlive the calls; the calling thread gets its own mask back.
    unsafe {
        let mut all = std::mem::zeroed();
        let mut before = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        let thread = std::thread::Builder::new().name(name.into()).spawn(run);
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
        thread
    }
}

/// The name of an `errno` that users meet here, else its number.
pub fn errno_name(errno: Errno) -> String {
    let name = match errno {
        libc::EOPNOTSUPP => "EOPNOTSUPP",
        libc::EINVAL => "EINVAL",
        libc::ENODEV => "ENODEV",
        libc::EACCES => "EACCES",
        libc::EPERM => "EPERM",
        libc::ENOMEM => "ENOMEM",
        libc::ENOSYS => "ENOSYS",
        libc::EIO => "EIO",
        _ => return format!("errno {errno}"),
    };
    name.to_string()
}

/// True if `errno` says that the device or a quota is full.
pub fn is_full(errno: Errno) -> bool {
    errno == libc::ENOSPC || errno == libc::EDQUOT
}

/// Opens `name` below `directory` (`None`: the working directory) and returns a bare descriptor, which the caller
/// registers for forks and closes.
pub fn open_at(
    site: CallSite,
    directory: Option<&OwnedFd>,
    name: &CStr,
    flags: i32,
    mode: u32,
) -> Sys<RawFd> {
    let directory = directory.map_or(libc::AT_FDCWD, AsRawFd::as_raw_fd);
    let flags = flags | libc::O_CLOEXEC;
    // SAFETY: `name` is a NUL-terminated string that lives through the call.
    let fd = retried(site, || i64::from(unsafe { libc::openat(directory, name.as_ptr(), flags, mode) }))?;
    Ok(fd as RawFd)
}

/// Opens the file behind `fd` once more: another open file, so a lock on it is apart from `fd`, its copies and mappings.
pub fn open_again(fd: RawFd, access: i32) -> Sys<RawFd> {
    let by_number = std::ffi::CString::new(format!("/proc/self/fd/{fd}")).map_err(|_| libc::EINVAL)?;
    open_at(CallSite::OpenLock, None, &by_number, access | libc::O_NONBLOCK | libc::O_NOCTTY, 0)
}

/// Opens a directory, to name files in it and to make their names durable.
pub fn open_directory(path: &CStr) -> Sys<OwnedFd> {
    let fd = open_at(CallSite::OpenDirectory, None, path, libc::O_RDONLY | libc::O_DIRECTORY, 0)?;
    // SAFETY: `open_at` just returned this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Closes a descriptor. No fault site: also called in a forked child, where only this system call is safe.
pub fn close(fd: RawFd) {
    // SAFETY: `close` touches no memory; that the number is the caller's own is the registry's invariant (pool_file.rs).
    unsafe { libc::close(fd) };
}

/// The facts of a file that the media need.
pub struct Stat {
    /// Type and permission bits.
    pub mode: u32,
    /// Length in bytes.
    pub len: u64,
    /// Names the file has.
    pub links: u64,
    /// Major and minor number of a device.
    pub device: (u32, u32),
}

/// `fstat`.
#[allow(clippy::unnecessary_cast, reason = "the count of links has 32 bits on aarch64")]
pub fn stat(fd: RawFd) -> Sys<Stat> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the pointer is valid for writing one `stat`.
    retried(CallSite::Stat, || i64::from(unsafe { libc::fstat(fd, stat.as_mut_ptr()) }))?;
    // SAFETY: `fstat` succeeded, so it filled the structure.
    let stat = unsafe { stat.assume_init() };
    Ok(Stat {
        mode: stat.st_mode,
        len: stat.st_size.max(0) as u64,
        links: stat.st_nlink as u64,
        device: (libc::major(stat.st_rdev), libc::minor(stat.st_rdev)),
    })
}

/// Bytes that an unprivileged writer may still take on the file system of `fd`.
pub fn free_bytes(fd: RawFd) -> Sys<u64> {
    let mut stat = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the pointer is valid for writing one `statvfs`.
    retried(CallSite::FileSystemStat, || i64::from(unsafe { libc::fstatvfs(fd, stat.as_mut_ptr()) }))?;
    // SAFETY: `fstatvfs` succeeded, so it filled the structure.
    let stat = unsafe { stat.assume_init() };
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// A file system where a store to an allocated page of a mapping takes no new block: one that never copies on write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InPlace {
    Ext4,
    Tmpfs,
}

/// Which of them `fd` lies on, if any.
#[allow(clippy::unnecessary_cast, reason = "the type of magic numbers differs between systems")]
pub fn overwrites_in_place(fd: RawFd) -> Sys<Option<InPlace>> {
    let mut stat = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the pointer is valid for writing one `statfs`.
    retried(CallSite::FileSystemStat, || i64::from(unsafe { libc::fstatfs(fd, stat.as_mut_ptr()) }))?;
    // SAFETY: `fstatfs` succeeded, so it filled the structure.
    let kind = unsafe { stat.assume_init() }.f_type as i64;
    let known = [(libc::EXT4_SUPER_MAGIC as i64, InPlace::Ext4), (libc::TMPFS_MAGIC as i64, InPlace::Tmpfs)];
    Ok(known.into_iter().find(|(magic, _)| *magic == kind).map(|(_, found)| found))
}

/// `fchmod`: permissions exactly as asked, whatever the umask.
pub fn set_mode(fd: RawFd, mode: u32) -> Sys<()> {
    // SAFETY: no memory is passed.
    retried(CallSite::SetMode, || i64::from(unsafe { libc::fchmod(fd, mode) })).map(drop)
}

fn whole_file(kind: libc::c_int) -> libc::flock {
    libc::flock { l_type: kind as i16, l_whence: libc::SEEK_SET as i16, l_start: 0, l_len: 0, l_pid: 0 }
}

fn lock_kind(exclusive: bool) -> libc::c_int {
    if exclusive { libc::F_WRLCK } else { libc::F_RDLCK }
}

/// Tries to take the OFD lock on the whole file; false if somebody else holds it.
pub fn try_lock(fd: RawFd, exclusive: bool) -> Sys<bool> {
    let lock = whole_file(lock_kind(exclusive));
    // SAFETY: `lock` is a filled structure that lives through the call.
    match retried(CallSite::Lock, || i64::from(unsafe { libc::fcntl(fd, libc::F_OFD_SETLK, &lock) })) {
        Ok(_) => Ok(true),
        Err(libc::EAGAIN | libc::EACCES) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Gives the OFD lock of `fd` up, also for copies of `fd` that other processes may still have.
pub fn unlock(fd: RawFd) -> Sys<()> {
    let lock = whole_file(libc::F_UNLCK);
    // SAFETY: `lock` is a filled structure that lives through the call.
    retried(CallSite::Unlock, || i64::from(unsafe { libc::fcntl(fd, libc::F_OFD_SETLK, &lock) })).map(drop)
}

/// True if what stands in the way of our lock is a shared one: readers leave no holder record.
pub fn is_held_by_readers(fd: RawFd, exclusive: bool) -> Sys<bool> {
    let mut lock = whole_file(lock_kind(exclusive));
    // SAFETY: `lock` is a filled structure, writable through the call.
    retried(CallSite::LockOwner, || i64::from(unsafe { libc::fcntl(fd, libc::F_OFD_GETLK, &mut lock) }))?;
    Ok(i32::from(lock.l_type) == libc::F_RDLCK)
}

/// Writes all of `bytes` at `at`, going on after interrupts and short writes.
pub fn write_all_at(site: CallSite, fd: RawFd, mut bytes: &[u8], mut at: u64) -> Sys<()> {
    while !bytes.is_empty() {
        let offset = i64::try_from(at).map_err(|_| libc::EFBIG)?;
        // SAFETY: `bytes` is readable for its length, and `len` is at most that.
        let call = |len| unsafe { libc::pwrite(fd, bytes.as_ptr().cast(), len, offset) } as i64;
        let written = moved(site, bytes.len(), call)?;
        if written == 0 {
            return Err(libc::EIO);
        }
        bytes = &bytes[written..];
        at += written as u64;
    }
    Ok(())
}

/// Reads at `at` until `into` is full or the file ends; answers how many bytes came.
pub fn read_at(site: CallSite, fd: RawFd, into: &mut [u8], at: u64) -> Sys<usize> {
    let mut done = 0;
    while done < into.len() {
        let rest = &mut into[done..];
        let offset = i64::try_from(at + done as u64).map_err(|_| libc::EINVAL)?;
        let (into, len) = (rest.as_mut_ptr(), rest.len());
        // SAFETY: `rest` is writable for its length, and `len` is at most that.
        let call = |len| unsafe { libc::pread(fd, into.cast(), len, offset) } as i64;
        let read = moved(site, len, call)?;
        if read == 0 {
            break;
        }
        done += read;
    }
    Ok(done)
}

/// `fdatasync`. For `persist.rs` only. An interrupt is a failure.
pub fn fdatasync(site: CallSite, fd: RawFd) -> Sys<()> {
    // SAFETY: no memory is passed.
    once(site, || i64::from(unsafe { libc::fdatasync(fd) })).map(drop)
}

/// `fsync`. For `persist.rs` only. An interrupt is a failure.
pub fn fsync(site: CallSite, fd: RawFd) -> Sys<()> {
    // SAFETY: no memory is passed.
    once(site, || i64::from(unsafe { libc::fsync(fd) })).map(drop)
}

/// `fallocate` of `[from, to)`, which raises the length of the file.
pub fn allocate(fd: RawFd, from: u64, to: u64) -> Sys<()> {
    let offset = i64::try_from(from).map_err(|_| libc::EFBIG)?;
    let len = i64::try_from(to - from).map_err(|_| libc::EFBIG)?;
    // SAFETY: no memory is passed.
    retried(CallSite::GrowAllocate, || i64::from(unsafe { libc::fallocate(fd, 0, offset, len) })).map(drop)
}

/// `ftruncate`.
pub fn truncate(site: CallSite, fd: RawFd, len: u64) -> Sys<()> {
    let len = i64::try_from(len).map_err(|_| libc::EFBIG)?;
    // SAFETY: no memory is passed.
    retried(site, || i64::from(unsafe { libc::ftruncate(fd, len) })).map(drop)
}

/// `fallocate` that gives `[at, at + len)` back; the file stays as long as it is.
pub fn punch(fd: RawFd, at: u64, len: u64) -> Sys<()> {
    let offset = i64::try_from(at).map_err(|_| libc::EFBIG)?;
    let len = i64::try_from(len).map_err(|_| libc::EFBIG)?;
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: no memory is passed.
    retried(CallSite::Punch, || i64::from(unsafe { libc::fallocate(fd, mode, offset, len) })).map(drop)
}

/// Where the first hole at or behind `from` begins; the end of the file counts as one.
pub fn next_hole(fd: RawFd, from: u64) -> Sys<Option<u64>> {
    seek(fd, from, libc::SEEK_HOLE)
}

/// Where the first data at or behind `from` begins.
pub fn next_data(fd: RawFd, from: u64) -> Sys<Option<u64>> {
    seek(fd, from, libc::SEEK_DATA)
}

/// `lseek`; none if there is nothing of the kind up to the end. Nobody uses the position it leaves.
fn seek(fd: RawFd, from: u64, whence: i32) -> Sys<Option<u64>> {
    let from = i64::try_from(from).map_err(|_| libc::EFBIG)?;
    // SAFETY: no memory is passed.
    match retried(CallSite::FindHole, || unsafe { libc::lseek(fd, from, whence) }) {
        Ok(found) => Ok(Some(found as u64)),
        Err(libc::ENXIO) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Names the unnamed file `fd` below `directory`; never replaces a file.
pub fn link_unnamed(fd: RawFd, directory: &OwnedFd, name: &CStr) -> Sys<()> {
    let by_number = std::ffi::CString::new(format!("/proc/self/fd/{fd}")).map_err(|_| libc::EINVAL)?;
    let to = directory.as_raw_fd();
    let follow = libc::AT_SYMLINK_FOLLOW;
    let site = CallSite::PublishLink;
    // SAFETY: both names are NUL-terminated strings that live through the call.
    let through_proc =
        || unsafe { libc::linkat(libc::AT_FDCWD, by_number.as_ptr(), to, name.as_ptr(), follow) };
    match retried(site, || i64::from(through_proc())) {
        // No /proc in this mount namespace: by descriptor, which older kernels grant to privileged callers only.
        Err(libc::ENOENT) => {}
        answer => return answer.map(drop),
    }
    // SAFETY: as above.
    let by_fd = || unsafe { libc::linkat(fd, c"".as_ptr(), to, name.as_ptr(), libc::AT_EMPTY_PATH) };
    retried(site, || i64::from(by_fd())).map(drop)
}

/// Gives the file `from` the name `to` as well, both below `directory`; never replaces a file.
pub fn link_named(directory: &OwnedFd, from: &CStr, to: &CStr) -> Sys<()> {
    let fd = directory.as_raw_fd();
    // SAFETY: both names are NUL-terminated strings that live through the call.
    let call = || unsafe { libc::linkat(fd, from.as_ptr(), fd, to.as_ptr(), 0) };
    retried(CallSite::PublishLink, || i64::from(call())).map(drop)
}

/// Renames `from` to `to` below `directory`; never replaces a file.
pub fn rename_new(directory: &OwnedFd, from: &CStr, to: &CStr) -> Sys<()> {
    let fd = directory.as_raw_fd();
    // SAFETY: both names are NUL-terminated strings that live through the call.
    let call = || unsafe { libc::renameat2(fd, from.as_ptr(), fd, to.as_ptr(), libc::RENAME_NOREPLACE) };
    retried(CallSite::PublishRename, || i64::from(call())).map(drop)
}

/// Removes the name `name` below `directory`.
pub fn unlink(directory: &OwnedFd, name: &CStr) -> Sys<()> {
    // SAFETY: `name` is a NUL-terminated string that lives through the call.
    let call = || unsafe { libc::unlinkat(directory.as_raw_fd(), name.as_ptr(), 0) };
    retried(CallSite::PublishUnlink, || i64::from(call())).map(drop)
}

/// `mmap`.
///
/// # Safety
/// With `MAP_FIXED` the range at `at` must belong to the caller, and nobody may hold a reference into it.
pub unsafe fn map(
    site: CallSite,
    at: *mut u8,
    len: u64,
    prot: i32,
    flags: i32,
    from: Option<(RawFd, u64)>,
) -> Sys<*mut u8> {
    let (fd, offset) = from.unwrap_or((-1, 0));
    let offset = i64::try_from(offset).map_err(|_| libc::EOVERFLOW)?;
    // SAFETY: the caller owns the range that is replaced; without `MAP_FIXED` nothing is.
    let answer =
        once(site, || unsafe { libc::mmap(at.cast(), len as usize, prot, flags, fd, offset) } as i64)?;
    Ok(answer as usize as *mut u8)
}

/// `munmap`.
///
/// # Safety
/// The range must belong to the caller, and nobody may hold a reference into it.
pub unsafe fn unmap(at: *mut u8, len: u64) {
    // SAFETY: the caller's promise. A failure leaves the range mapped, which only costs address space.
    unsafe { libc::munmap(at.cast(), len as usize) };
}

/// `madvise`, for advice that changes no content.
///
/// # Safety
/// The range must be mapped, and `advice` must be one that keeps its content.
pub unsafe fn advise(site: CallSite, at: *mut u8, len: u64, advice: i32) -> Sys<()> {
    // SAFETY: the caller's promise.
    once(site, || i64::from(unsafe { libc::madvise(at.cast(), len as usize, advice) })).map(drop)
}

/// Whether the page that begins at `at` is in memory, so that it can be read without the device.
///
/// # Safety
/// The page must be mapped.
pub unsafe fn is_cached(site: CallSite, at: *mut u8) -> Sys<bool> {
    let mut state = 0_u8;
    // SAFETY: the caller's promise; one byte is written for one page.
    once(site, || i64::from(unsafe { libc::mincore(at.cast(), PAGE_BYTES as usize, &raw mut state) }))?;
    Ok(state & 1 != 0)
}

/// Asks for the bytes of a file that will be read soon; returns before they are there. A hint.
pub fn read_ahead(site: CallSite, fd: RawFd, offset: u64, len: u64) -> Sys<()> {
    let (offset, len) = (offset as libc::off_t, len as libc::off_t);
    // SAFETY: takes numbers only, and changes neither file nor memory of the process.
    let call = || i64::from(unsafe { libc::posix_fadvise(fd, offset, len, libc::POSIX_FADV_WILLNEED) });
    // It answers with the error itself.
    match once(site, call)? {
        0 => Ok(()),
        errno => Err(errno as Errno),
    }
}

/// True if one page of the file can be mapped with `MAP_SYNC`, else why not. Nothing is touched.
pub fn probe_map_sync(fd: RawFd, len: u64) -> Sys<()> {
    let flags = libc::MAP_SHARED_VALIDATE | libc::MAP_SYNC;
    // SAFETY: not `MAP_FIXED`, so no mapping is replaced.
    let at = unsafe {
        map(CallSite::SyncProbe, std::ptr::null_mut(), len, libc::PROT_READ, flags, Some((fd, 0)))
    }?;
    // SAFETY: mapped in the line above and handed to nobody.
    unsafe { unmap(at, len) };
    Ok(())
}

/// Registers the three fork handlers of the process.
pub fn at_fork(prepare: extern "C" fn(), parent: extern "C" fn(), child: extern "C" fn()) -> Sys<()> {
    // SAFETY: the handlers are functions of this library; the C library drops them if it is unloaded.
    match unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) } {
        0 => Ok(()),
        errno => Err(errno),
    }
}

const _: () = assert!(size_of::<usize>() == 8, "lengths and offsets are cast between u64 and usize");
const _: () =
    assert!(PAGE_BYTES == 4096, "the unit of mappings; systems with larger pages are refused at open");

/// The page size of the system.
pub fn page_bytes() -> u64 {
    // SAFETY: no memory is passed.
    let answer = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(answer).unwrap_or(PAGE_BYTES)
}

#[cfg(test)]
fn c_int_answer(answer: libc::c_int) -> Sys<()> {
    if answer == -1 { Err(last_errno()) } else { Ok(()) }
}

/// What only tests need.
#[cfg(test)]
pub mod testing {
    use super::{Sys, c_int_answer};
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    /// Mounts a tmpfs of `bytes` on `directory`, seen by the calling thread only and gone with it.
    pub fn mount_private_tmpfs(directory: &Path, bytes: u64) -> Sys<()> {
        let directory = CString::new(directory.as_os_str().as_bytes()).map_err(|_| libc::EINVAL)?;
        let size = CString::new(format!("size={bytes}")).map_err(|_| libc::EINVAL)?;
        let private = libc::MS_REC | libc::MS_PRIVATE;
        let none = c"none".as_ptr();
        // SAFETY: no memory is passed.
        c_int_answer(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
        // SAFETY: strings are NUL-terminated and live through the call; no data is needed.
        c_int_answer(unsafe { libc::mount(none, c"/".as_ptr(), none, private, std::ptr::null()) })?;
        let kind = c"tmpfs".as_ptr();
        // SAFETY: as above.
        c_int_answer(unsafe { libc::mount(kind, directory.as_ptr(), kind, 0, size.as_ptr().cast()) })
    }

    /// Runs `child` in a forked child, which ends when it returns, and answers its process id. `child` may call only
    /// what is allowed after a fork: no allocation, no locks.
    pub fn fork(child: impl FnOnce()) -> Sys<i32> {
        // SAFETY: the child runs `child`, bound as above, and leaves by `_exit`, so no destructor of this thread runs.
        match unsafe { libc::fork() } {
            -1 => Err(super::last_errno()),
            0 => {
                child();
                // SAFETY: ends the process.
                unsafe { libc::_exit(0) }
            }
            pid => Ok(pid),
        }
    }

    /// Waits for a child and answers whether it exited with 0.
    pub fn exited_cleanly(pid: i32) -> bool {
        let mut status = 0;
        // SAFETY: `status` is writable.
        let waited = unsafe { libc::waitpid(pid, &mut status, 0) };
        waited == pid && libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
    }

    /// Ends a forked child with `code`.
    pub fn exit(code: i32) -> ! {
        // SAFETY: ends the process.
        unsafe { libc::_exit(code) }
    }

    /// Writes `text` to the descriptor `fd`, without a buffer or a lock.
    pub fn say(fd: i32, text: &[u8]) {
        // SAFETY: `text` is readable for its length.
        unsafe { libc::write(fd, text.as_ptr().cast(), text.len()) };
    }

    /// Waits until the other end of the pipe `fd` is closed.
    pub fn wait_for_end(fd: i32) {
        let mut byte = [0_u8; 1];
        // SAFETY: `byte` is writable for its length.
        while unsafe { libc::read(fd, byte.as_mut_ptr().cast(), 1) } > 0 {}
    }

    /// Sets the process's umask and answers the old one.
    pub fn set_umask(mask: u32) -> u32 {
        // SAFETY: no memory is passed.
        unsafe { libc::umask(mask) }
    }

    /// Makes a FIFO.
    pub fn make_fifo(path: &Path) -> Sys<()> {
        let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| libc::EINVAL)?;
        // SAFETY: `path` is a NUL-terminated string that lives through the call.
        c_int_answer(unsafe { libc::mkfifo(path.as_ptr(), 0o600) })
    }
}
