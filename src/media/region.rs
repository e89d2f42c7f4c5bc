//! A region: the mapping that reads go through. One base for the life of the store, a length that only rises.
//!
//! **Why handing out slices is sound: published bytes are write-once.** Invariants:
//!   - a range of address space is reserved at the start and kept to the end, so growth never moves the base and a
//!     slice stays where it is
//!   - `len` is raised only after the bytes below it were mapped; `[base, base + len)` is readable from then on, until the
//!     region is dropped, which borrows of it forbid, or cut: [`Region::shrink`] is called for bytes that nobody can hold a
//!     slice of any more, because no segment is in them since before the last grace period
//!   - the writers here store only into bytes that nobody reads: bytes behind the published end of a segment, or
//!     segments that were freed, after the grace period of everyone who could still hold a slice. Once published, a
//!     byte does not change until its segment is freed. The floors above keep this (append behind the tail, epoch)
//!   - what does change in place (segment state words) is read with [`Region::load_word`] and written with
//!     `store_word`, both atomic, and is part of no slice that outlives the change
//!   - superblock copies and the holder record are rewritten in place; they are read before the store is shared, or
//!     through [`Media::read`](super::Media::read), never as a slice
//!
//! What lies outside the proof: another program that writes into or truncates the pool in spite of the lock. The first
//! is caught by checksums, the second is a SIGBUS, as for every mapped file.
#![allow(unsafe_code, reason = "turns a mapping into slices; the head of the file is the proof")]

use super::sys::{self, CallSite, Sys};
use crate::constants::{PAGE_BYTES, POOL_BYTES_MAX};
use crate::error::{Error, Result};
use crate::sync::{AtomicU64, Mutex, Ordering};
use crate::types::MediaRange;
use std::os::fd::RawFd;
use std::ptr::NonNull;

/// Files map with large pages if base and offset agree modulo this.
pub(super) const LARGE_PAGE_BYTES: u64 = 2 << 20;
/// Refusals after which a region that was never given a large page asks for no more.
const MERGE_TRIES_MAX: u64 = 8;
/// Device-dax devices may ask for mappings aligned to this.
pub(super) const HUGE_PAGE_BYTES: u64 = 1 << 30;
/// Reservations are tried from `POOL_BYTES_MAX` downwards by this factor, to `RESERVE_BYTES_MIN`.
const RESERVE_STEP: u64 = 4;
const RESERVE_BYTES_MIN: u64 = 16 << 20;
/// Address space that all pools of the process share: half of the 128 TiB that user space has. A reservation takes at
/// most a quarter of what is left of it, so that many pools do not starve the allocator.
const RESERVE_BUDGET_BYTES: u64 = 64 << 40;
const RESERVE_BUDGET_SHARE: u64 = 4;

const _: () = assert!(
    RESERVE_BUDGET_BYTES / RESERVE_BUDGET_SHARE >= POOL_BYTES_MAX,
    "the first pool gets all it can use"
);
const _: () = assert!(
    RESERVE_BYTES_MIN.is_multiple_of(LARGE_PAGE_BYTES) && LARGE_PAGE_BYTES.is_multiple_of(PAGE_BYTES)
);

/// Bytes that the regions of this process reserve now.
static RESERVED_BYTES: AtomicU64 = AtomicU64::new(0);

/// A stretch of address space with the bytes of a pool in it.
pub struct Region {
    base: NonNull<u8>,
    /// Readable bytes.
    len: AtomicU64,
    /// Address space that is ours; falls only when a failed `mmap` leaves a part in doubt.
    reserved: AtomicU64,
    /// What was added to `RESERVED_BYTES`.
    accounted: u64,
    /// Mapped for writing.
    writable: bool,
    /// One growth at a time.
    growth: Mutex<()>,
    /// Bytes that were merged to large pages, and how often the system refused to.
    merged_bytes: AtomicU64,
    merge_refusals: AtomicU64,
}

// SAFETY: the pointer is to a mapping that belongs to this region alone and may be used from any thread.
unsafe impl Send for Region {}
// SAFETY: shared access only reads, or writes under the write-once rule at the head of the file; `len` is atomic.
unsafe impl Sync for Region {}

/// What lies behind a part of a region.
enum Backing {
    Anonymous,
    File { fd: RawFd, flags: i32 },
}

impl Region {
    /// Reserves address space for a pool that has `needed_bytes` now: as much as can be had up to `POOL_BYTES_MAX`.
    pub(super) fn reserve(needed_bytes: u64, align_bytes: u64, writable: bool) -> Result<Region> {
        if needed_bytes > POOL_BYTES_MAX {
            let message =
                format!("a pool of {needed_bytes} bytes: {POOL_BYTES_MAX} is the most an address reaches");
            return Err(Error::Unsupported(message));
        }
        let left = RESERVE_BUDGET_BYTES.saturating_sub(RESERVED_BYTES.load(Ordering::Relaxed));
        let least = RESERVE_BYTES_MIN.max(needed_bytes);
        let mut bytes = POOL_BYTES_MAX;
        let mut is_scarce = false;
        while bytes >= least {
            if bytes <= left / RESERVE_BUDGET_SHARE {
                match Region::reserve_exactly(bytes, align_bytes, writable) {
                    // The system has less than the budget: a quarter of what there is, as of the budget.
                    Ok(_) if is_scarce && bytes / RESERVE_STEP >= least => is_scarce = false,
                    Ok(region) => return Ok(region),
                    Err(_) => is_scarce = true,
                }
            }
            bytes /= RESERVE_STEP;
        }
        // Address space is short (RLIMIT_AS, or many pools): what the file has now. It then cannot grow while open.
        let bytes = needed_bytes.max(PAGE_BYTES).next_multiple_of(LARGE_PAGE_BYTES);
        Region::reserve_exactly(bytes, align_bytes, writable)
    }

    fn reserve_exactly(bytes: u64, align_bytes: u64, writable: bool) -> Result<Region> {
        let padded = bytes + align_bytes;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: not `MAP_FIXED`, so no mapping is replaced.
        let start = unsafe {
            sys::map(CallSite::Reserve, std::ptr::null_mut(), padded, libc::PROT_NONE, flags, None)
        }
        .map_err(|errno| {
            Error::from_errno(format!("mmap that reserves {padded} bytes of address space"), errno)
        })?;
        let before = (start as u64).next_multiple_of(align_bytes) - start as u64;
        let after = align_bytes - before;
        let base = start.wrapping_add(before as usize);
        if before > 0 {
            // SAFETY: the first `before` bytes of the range mapped above, which nobody else knows.
            unsafe { sys::unmap(start, before) };
        }
        if after > 0 {
            // SAFETY: the last `after` bytes of the same range: before + bytes + after = padded.
            unsafe { sys::unmap(base.wrapping_add(bytes as usize), after) };
        }
        RESERVED_BYTES.fetch_add(bytes, Ordering::Relaxed);
        Ok(Region {
            base: NonNull::new(base).expect("mmap returned neither an error nor page 0"),
            len: AtomicU64::new(0),
            reserved: AtomicU64::new(bytes),
            accounted: bytes,
            writable,
            growth: Mutex::new(()),
            merged_bytes: AtomicU64::new(0),
            merge_refusals: AtomicU64::new(0),
        })
    }

    /// A region over `len_bytes` of zeroed memory (a multiple of the page size), for a simulated medium.
    #[cfg_attr(
        not(any(test, feature = "sim")),
        expect(dead_code, reason = "only the simulated medium has no file")
    )]
    pub(super) fn anonymous(len_bytes: u64) -> Result<Region> {
        let region = Region::reserve_exactly(
            len_bytes.max(1 << 30).next_multiple_of(LARGE_PAGE_BYTES),
            LARGE_PAGE_BYTES,
            true,
        )?;
        region.grow_anonymous(len_bytes)?;
        Ok(region)
    }

    /// Bytes that it can grow to.
    pub fn reserved_bytes(&self) -> u64 {
        self.reserved.load(Ordering::Relaxed)
    }

    /// Raises the length of an anonymous region, to 1 GiB or what it began with; the new bytes are zero.
    pub(super) fn grow_anonymous(&self, to_bytes: u64) -> Result<()> {
        self.map_up_to(to_bytes, &Backing::Anonymous)
    }

    /// Maps the file's bytes from the present length up to `to_bytes`, and raises the length. `flags` are `MAP_SHARED`
    /// or `MAP_SHARED_VALIDATE | MAP_SYNC`.
    pub(super) fn map_file(&self, fd: RawFd, to_bytes: u64, flags: i32) -> Result<()> {
        self.map_up_to(to_bytes, &Backing::File { fd, flags })
    }

    fn map_up_to(&self, to_bytes: u64, backing: &Backing) -> Result<()> {
        let _one_at_a_time = self.growth.lock();
        assert!(to_bytes.is_multiple_of(PAGE_BYTES), "a region grows by pages, not to {to_bytes} bytes");
        let from = self.len();
        if to_bytes <= from {
            return Ok(());
        }
        let reserved = self.reserved.load(Ordering::Relaxed);
        if to_bytes > reserved {
            let limit =
                format!("address space reserved at open ({reserved} bytes); close and reopen to get more");
            return Err(Error::NoSpace { needed_bytes: to_bytes - from, free_bytes: reserved - from, limit });
        }
        let (flags, source) = match *backing {
            Backing::Anonymous => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE, None),
            Backing::File { fd, flags } => (flags, Some((fd, from))),
        };
        let prot = if self.writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        let at = self.base.as_ptr().wrapping_add(from as usize);
        // SAFETY: `[from, to_bytes)` is reserved by this region (checked above) and lies at or behind `len`, so nobody
        // holds a reference into it; `growth` keeps a second growth out.
        let mapped = unsafe {
            sys::map(CallSite::MapPart, at, to_bytes - from, prot, flags | libc::MAP_FIXED, source)
        };
        if let Err(errno) = mapped {
            // A failed MAP_FIXED may have unmapped the part, and another thread may have been given it: no longer ours.
            // What lies behind it is, and is of no use any more.
            self.reserved.store(from, Ordering::Relaxed);
            let behind = self.base.as_ptr().wrapping_add(to_bytes as usize);
            if reserved > to_bytes {
                // SAFETY: `[to_bytes, reserved)` is reserved by this region and behind `len`; from here on it is not.
                unsafe { sys::unmap(behind, reserved - to_bytes) };
            }
            let what = format!("mmap of {} bytes at pool offset {from}", to_bytes - from);
            return Err(Error::from_errno(what, errno));
        }
        self.len.store(to_bytes, Ordering::Release);
        Ok(())
    }

    /// Lowers the length. Nobody reads or writes behind it: slots that are free since a grace period, and that nobody can
    /// take meanwhile. What was mapped there stays mapped, out of everybody's reach, until a growth replaces it.
    pub(super) fn shrink(&self, to_bytes: u64) {
        let _one_at_a_time = self.growth.lock();
        assert!(to_bytes.is_multiple_of(PAGE_BYTES), "a region is cut at pages, not at {to_bytes} bytes");
        self.len.fetch_min(to_bytes, Ordering::AcqRel);
    }

    /// Readable bytes, from offset 0.
    #[inline]
    pub fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    /// The bytes of `range`, or `None` if it does not lie within the region. Only for bytes that are write-once: see the
    /// head of `region.rs`.
    #[inline]
    pub fn bytes(&self, range: MediaRange) -> Option<&[u8]> {
        let end = range.offset.checked_add(range.len)?;
        if end > self.len() {
            return None;
        }
        // SAFETY: `[offset, end)` is below `len`, hence mapped and readable while `self` is borrowed. The caller names
        // published bytes, which do not change while its guard keeps the segment from being freed.
        Some(unsafe {
            std::slice::from_raw_parts(self.base.as_ptr().add(range.offset as usize), range.len as usize)
        })
    }

    /// Reads one aligned word atomically.
    ///
    /// # Panics
    /// If it is not aligned or not within the region.
    #[cfg(any(test, feature = "sim"))]
    #[inline]
    pub fn load_word(&self, offset: u64) -> u64 {
        self.word(offset).load(Ordering::Acquire)
    }

    /// Asks for the cache line at `offset` before it is needed. Any offset is allowed.
    #[inline]
    pub fn prefetch(&self, offset: u64) {
        prefetch_line(self.base.as_ptr().wrapping_add(offset as usize));
    }

    #[inline]
    fn word(&self, offset: u64) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8), "the word at pool offset {offset} is not aligned to 8 bytes");
        self.assert_inside(offset, 8);
        // SAFETY: inside the mapping and aligned (asserts above). State words are accessed only atomically, here.
        unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(offset as usize).cast()) }
    }

    /// Stores one aligned word atomically.
    pub(super) fn store_word(&self, offset: u64, word: u64) {
        assert!(self.writable, "a store at pool offset {offset} of a region mapped for reading");
        self.word(offset).store(word, Ordering::Release);
    }

    /// Stores `bytes` at `offset`: bytes that nobody reads yet, by the write-once rule.
    pub(super) fn copy_in(&self, offset: u64, bytes: &[u8]) {
        let to = self.writable_at(offset, bytes.len() as u64);
        // SAFETY: `to` is valid for writing `bytes.len()` bytes; `copy` allows that `bytes` lies in this same mapping.
        unsafe { std::ptr::copy(bytes.as_ptr(), to, bytes.len()) };
    }

    /// Copies out without making a slice, for bytes that are not write-once (superblocks, the holder record).
    pub(super) fn copy_out(&self, offset: u64, into: &mut [u8]) {
        self.assert_inside(offset, into.len() as u64);
        // SAFETY: inside the mapping (assert above); `into` is exclusive, so it cannot lie in the mapping.
        unsafe {
            std::ptr::copy_nonoverlapping(
                self.base.as_ptr().add(offset as usize),
                into.as_mut_ptr(),
                into.len(),
            )
        };
    }

    /// Where `persist.rs` stores to: valid for writing `len` bytes.
    #[inline]
    pub(super) fn writable_at(&self, offset: u64, len: u64) -> *mut u8 {
        assert!(self.writable, "a store at pool offset {offset} of a region mapped for reading");
        self.address(offset, len)
    }

    /// The address of `len` mapped bytes.
    #[inline]
    pub(super) fn address(&self, offset: u64, len: u64) -> *mut u8 {
        self.assert_inside(offset, len);
        self.base.as_ptr().wrapping_add(offset as usize)
    }

    /// Whether `len` bytes at `offset` lie within the region.
    #[inline]
    pub(super) fn contains(&self, offset: u64, len: u64) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.len())
    }

    #[inline]
    fn assert_inside(&self, offset: u64, len: u64) {
        assert!(
            self.contains(offset, len),
            "{len} bytes at pool offset {offset}: the region has {}",
            self.len()
        );
    }

    /// Makes the pages that `range` touches present; `for_writing` also makes them writable without a fault. The part
    /// behind the length is left out. Content is unchanged. A hint, so errors are ignored.
    pub(super) fn populate(&self, range: MediaRange, for_writing: bool) {
        if for_writing && !self.writable {
            return;
        }
        // EINVAL: a kernel before 5.14. Any other failure would be a signal if the pages were touched instead.
        if self.try_populate(range, for_writing) == Err(libc::EINVAL) && for_writing {
            let end = range.offset.saturating_add(range.len).min(self.len());
            self.touch(range.offset, end);
        }
    }

    /// The same, and says what a touch of the pages would have been a signal for.
    pub(super) fn try_populate(&self, range: MediaRange, for_writing: bool) -> Sys<()> {
        assert!(self.writable || !for_writing, "a region mapped for reading has no pages to write");
        let start = range.offset - range.offset % PAGE_BYTES;
        let end = range.offset.saturating_add(range.len).min(self.len()).next_multiple_of(PAGE_BYTES);
        if range.len == 0 || start >= end {
            return Ok(());
        }
        let advice = if for_writing { libc::MADV_POPULATE_WRITE } else { libc::MADV_POPULATE_READ };
        let at = self.address(start, end - start);
        // SAFETY: `[start, end)` is mapped (`address` asserts it); populating changes no content.
        unsafe { sys::advise(CallSite::Prefault, at, end - start, advice) }
    }

    /// Writes one byte per page as it is. Only bytes of `[from, to)` are touched: free ones, which nobody else writes.
    fn touch(&self, from: u64, to: u64) {
        let mut offset = from;
        while offset < to {
            let at = self.writable_at(offset, 1);
            // SAFETY: valid for writing one byte (`writable_at`), and accessed atomically, so that a racing atomic or
            // kernel access is no data race; the caller names free bytes, which nobody else stores to.
            let byte = unsafe { crate::sync::AtomicU8::from_ptr(at) };
            let value = byte.load(Ordering::Relaxed);
            // Not fetch_or(0), which compilers turn into a load; a compare-exchange faults the page in for writing.
            let _ = byte.compare_exchange(value, value, Ordering::Relaxed, Ordering::Relaxed);
            offset = (offset / PAGE_BYTES + 1) * PAGE_BYTES;
        }
    }

    /// Whether the page that holds the byte at `offset` is in memory. True where that is not known.
    pub(super) fn is_cached(&self, offset: u64) -> bool {
        if !self.contains(offset, 1) {
            return true;
        }
        let at = self.base.as_ptr().wrapping_add((offset - offset % PAGE_BYTES) as usize);
        // SAFETY: within the region, as was just looked at, whose pages are all mapped or reserved: `mincore` fails for those that
        // a cut took away.
        unsafe { sys::is_cached(CallSite::AskIfCached, at) }.unwrap_or(true)
    }

    /// Says that what is read next lies anywhere: a page that is missing is read alone, not with what lies around it. A hint.
    pub(super) fn hint_random(&self) {
        let at = self.address(0, self.len());
        // SAFETY: mapped (`address` asserts it); the advice changes no content.
        let _ = unsafe { sys::advise(CallSite::AdviseRandom, at, self.len(), libc::MADV_RANDOM) };
    }

    /// Asks for large pages in `range`. A hint.
    pub(super) fn hint_large_pages(&self, range: MediaRange) {
        if range.len == 0 {
            return;
        }
        let at = self.address(range.offset, range.len);
        // SAFETY: mapped (`address` asserts it); the advice changes no content.
        let _ = unsafe { sys::advise(CallSite::HugePageHint, at, range.len, libc::MADV_HUGEPAGE) };
    }

    /// Merges the large pages that lie wholly in `range`: tmpfs, unless it is mounted to, never makes one by itself. Content
    /// is unchanged, but who touches the range meanwhile waits for it (about a millisecond per large page). A hint.
    pub(super) fn merge_large_pages(&self, range: MediaRange) {
        let Some(start) = range.offset.checked_next_multiple_of(LARGE_PAGE_BYTES) else { return };
        let end = range.offset.saturating_add(range.len).min(self.len());
        let end = end - end % LARGE_PAGE_BYTES;
        if start >= end || self.has_no_large_pages() {
            return;
        }
        let at = self.address(start, end - start);
        // SAFETY: mapped (`address` asserts it); the advice changes no content.
        match unsafe { sys::advise(CallSite::HugePageHint, at, end - start, libc::MADV_COLLAPSE) } {
            Ok(()) => self.merged_bytes.fetch_add(end - start, Ordering::Relaxed),
            Err(_) => self.merge_refusals.fetch_add(1, Ordering::Relaxed),
        };
    }

    /// The same for `range` of a file, whole large pages behind the end of this region: in a mapping of its own. What is merged
    /// counts once it is merged here.
    pub(super) fn merge_behind_end(&self, fd: RawFd, range: MediaRange) {
        let Ok(whole) = Region::reserve_exactly(range.end(), LARGE_PAGE_BYTES, true) else { return };
        if whole.map_file(fd, range.end(), libc::MAP_SHARED).is_ok() {
            whole.merge_large_pages(range);
            self.merge_refusals.fetch_add(whole.merged_large_pages().1, Ordering::Relaxed);
        }
    }

    /// The system was asked for large pages often enough, and gave none.
    pub(super) fn has_no_large_pages(&self) -> bool {
        let (merged, refusals) = self.merged_large_pages();
        merged == 0 && refusals >= MERGE_TRIES_MAX
    }

    /// Bytes that were merged to large pages since the pool was opened, and how often the system refused to.
    pub fn merged_large_pages(&self) -> (u64, u64) {
        (self.merged_bytes.load(Ordering::Relaxed), self.merge_refusals.load(Ordering::Relaxed))
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: `reserved` bytes from `base` belong to this region, and `&mut self` proves that no slice is left.
        unsafe { sys::unmap(self.base.as_ptr(), self.reserved.load(Ordering::Relaxed)) };
        RESERVED_BYTES.fetch_sub(self.accounted, Ordering::Relaxed);
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn prefetch_line(at: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a prefetch never faults and reads nothing, whatever the address.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
}

#[cfg(not(target_arch = "x86_64"))]
#[inline]
fn prefetch_line(_at: *const u8) {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    /// Held by tests that take so much address space that others would get little.
    static ADDRESS_SPACE: Mutex<()> = Mutex::new(());

    #[test]
    fn growth_keeps_base_and_content_and_adds_zeros() {
        let region = Region::anonymous(PAGE_BYTES).unwrap();
        region.copy_in(100, b"kept");
        let before = region.bytes(MediaRange::new(0, PAGE_BYTES)).unwrap();
        region.grow_anonymous(8 * PAGE_BYTES).unwrap();
        let after = region.bytes(MediaRange::new(0, 8 * PAGE_BYTES)).unwrap();
        assert_eq!(before.as_ptr(), after.as_ptr());
        assert_eq!(&after[100..104], b"kept");
        assert!(after[104..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn ranges_outside_the_region_are_refused() {
        let region = Region::anonymous(PAGE_BYTES).unwrap();
        for (offset, len) in
            [(0, PAGE_BYTES + 1), (PAGE_BYTES, 1), (u64::MAX, 1), (1, u64::MAX), (u64::MAX, u64::MAX)]
        {
            assert!(region.bytes(MediaRange { offset, len }).is_none(), "{len} bytes at {offset}");
        }
        assert_eq!(region.bytes(MediaRange::new(PAGE_BYTES, 0)).unwrap(), b"");
        region.prefetch(u64::MAX);
    }

    /// Where pages of files cannot be taken from memory this shows nothing, and says so.
    #[test]
    fn a_page_that_left_memory_is_not_cached_until_it_is_asked_for() {
        const PAGES: u64 = 64;
        // Not the folder for temporary files, which often is memory.
        let file = tempfile::tempfile_in(".").unwrap();
        let (fd, len) = (file.as_raw_fd(), PAGES * PAGE_BYTES);
        sys::write_all_at(CallSite::Write, fd, &vec![1; len as usize], 0).unwrap();
        let region = Region::reserve(len, LARGE_PAGE_BYTES, false).unwrap();
        region.map_file(fd, len, libc::MAP_SHARED).unwrap();
        region.hint_random();
        let bytes = region.bytes(MediaRange::new(0, len)).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 1));
        assert!((0..PAGES).all(|page| region.is_cached(page * PAGE_BYTES + 7)), "all were touched");
        file.sync_all().unwrap();
        // SAFETY: mapped, and its content stays as it is.
        let _ = unsafe { sys::advise(CallSite::Prefault, region.address(0, len), len, libc::MADV_PAGEOUT) };
        let gone = (0..PAGES - 1).rev().find(|page| !region.is_cached(page * PAGE_BYTES));
        let Some(gone) = gone else {
            eprintln!(
                "not run: a page that leaves memory, because this file system or kernel keeps them all"
            );
            return;
        };
        sys::read_ahead(CallSite::ReadAhead, fd, gone * PAGE_BYTES, PAGE_BYTES).unwrap();
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while !region.is_cached(gone * PAGE_BYTES) && std::time::Instant::now() < end {
            std::thread::yield_now();
        }
        assert!(region.is_cached(gone * PAGE_BYTES), "it was asked for");
        assert!(region.is_cached(len), "nothing is known of what lies behind the end");
    }

    #[test]
    #[should_panic(expected = "not aligned to 8 bytes")]
    fn an_unaligned_word_is_refused() {
        Region::anonymous(PAGE_BYTES).unwrap().load_word(4);
    }

    #[test]
    #[should_panic(expected = "the region has 4096")]
    fn a_word_behind_the_end_is_refused() {
        Region::anonymous(PAGE_BYTES).unwrap().load_word(PAGE_BYTES);
    }

    #[test]
    fn touching_pages_changes_no_byte() {
        let region = Region::anonymous(4 * PAGE_BYTES).unwrap();
        let content: Vec<u8> = (0..4 * PAGE_BYTES).map(|i| i as u8).collect();
        region.copy_in(0, &content);
        region.touch(10, 3 * PAGE_BYTES + 1);
        region.populate(MediaRange::new(10, 100 * PAGE_BYTES), true);
        region.populate(MediaRange::new(0, u64::MAX), true);
        let mut found = vec![0; content.len()];
        region.copy_out(0, &mut found);
        assert_eq!(found, content);
    }

    #[test]
    fn only_whole_large_pages_are_merged_and_no_byte_changes() {
        let region = Region::anonymous(4 * LARGE_PAGE_BYTES).unwrap();
        region.hint_large_pages(MediaRange::new(0, 4 * LARGE_PAGE_BYTES));
        let content: Vec<u8> = (0..4 * LARGE_PAGE_BYTES).map(|i| (i / 61) as u8).collect();
        region.copy_in(0, &content);
        for range in [
            MediaRange::new(0, LARGE_PAGE_BYTES - 1),
            MediaRange::new(PAGE_BYTES, 2 * LARGE_PAGE_BYTES - 2 * PAGE_BYTES),
            MediaRange { offset: u64::MAX, len: u64::MAX },
        ] {
            region.merge_large_pages(range);
            assert_eq!(region.merged_large_pages(), (0, 0), "{range:?} holds no whole large page");
        }
        region.merge_large_pages(MediaRange { offset: PAGE_BYTES, len: u64::MAX });
        // Whether there are large pages is the system's choice.
        let (merged, refusals) = region.merged_large_pages();
        assert!((merged, refusals) == (3 * LARGE_PAGE_BYTES, 0) || (merged, refusals) == (0, 1));
        let mut found = vec![0; content.len()];
        region.copy_out(0, &mut found);
        assert!(found == content);
    }

    #[test]
    fn a_region_that_is_refused_large_pages_stops_asking() {
        let region = Region::anonymous(4 * LARGE_PAGE_BYTES).unwrap();
        region.merge_refusals.store(MERGE_TRIES_MAX, Ordering::Relaxed);
        region.merge_large_pages(MediaRange::new(0, 4 * LARGE_PAGE_BYTES));
        assert_eq!(region.merged_large_pages(), (0, MERGE_TRIES_MAX));
    }

    #[test]
    #[allow(clippy::print_stderr, reason = "a test that cannot run here says so")]
    fn a_hundred_regions_leave_room_for_a_large_one() {
        let _alone = ADDRESS_SPACE.lock();
        if Region::reserve_exactly(POOL_BYTES_MAX, LARGE_PAGE_BYTES, true).is_err() {
            eprintln!("not run: address space is limited here (RLIMIT_AS, valgrind)");
            return;
        }
        let regions: Vec<Region> =
            (0..100).map(|_| Region::reserve(0, LARGE_PAGE_BYTES, true).unwrap()).collect();
        assert!(regions.iter().all(|region| (region.base.as_ptr() as u64).is_multiple_of(LARGE_PAGE_BYTES)));
        let large = Region::reserve(1 << 40, LARGE_PAGE_BYTES, true).unwrap();
        assert!(large.reserved.load(Ordering::Relaxed) >= 1 << 40);
    }

    #[test]
    #[allow(clippy::print_stderr, reason = "a test that cannot run here says so")]
    fn a_mapping_that_fails_keeps_no_address_space() {
        let _alone = ADDRESS_SPACE.lock();
        if Region::reserve_exactly(POOL_BYTES_MAX, LARGE_PAGE_BYTES, true).is_err() {
            eprintln!("not run: address space is limited here (RLIMIT_AS, valgrind)");
            return;
        }
        for round in 0..100 {
            let region = Region::reserve(0, LARGE_PAGE_BYTES, true).unwrap();
            let reserved = region.reserved.load(Ordering::Relaxed);
            assert!(reserved >= 1 << 36, "round {round}: {reserved} bytes");
            region.map_file(-1, PAGE_BYTES, libc::MAP_SHARED).unwrap_err();
            let error = region.map_file(-1, PAGE_BYTES, libc::MAP_SHARED).unwrap_err();
            assert!(matches!(&error, Error::NoSpace { limit, .. } if limit.contains("reopen")), "{error}");
        }
    }

    #[test]
    fn growth_beyond_the_reservation_names_the_limit() {
        let region = Region::reserve_exactly(LARGE_PAGE_BYTES, LARGE_PAGE_BYTES, true).unwrap();
        let error = region.grow_anonymous(2 * LARGE_PAGE_BYTES).unwrap_err();
        assert!(matches!(&error, Error::NoSpace { limit, .. } if limit.contains("reopen")), "{error}");
        region.grow_anonymous(LARGE_PAGE_BYTES).unwrap();
    }
}
