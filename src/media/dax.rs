//! Persistent memory: stores through a shared mapping, made durable by cache-line write-back and a fence.
//!
//! Two kinds share the code. `dax` is mapped with `MAP_SYNC` (a file on a DAX file system, or a device-dax device), so
//! that a fault makes the metadata durable and a fence makes the data durable. `emulated-pm` is any shared mapping, e.g.
//! on tmpfs: the same instructions, so the same code and about the same cost, but nothing survives a power cut.
//!
//!   - a regular file is allocated and its metadata synced before it is mapped: a store never meets a hole, where a full
//!     device would be a SIGBUS
//!   - a read-only medium is mapped for reading; write-back works on such a mapping, so an unclean pool can be adopted
//!   - a device-dax device has all its bytes from the start: it does not grow, and its free bytes are not zero but
//!     whatever was there, which no checksum of this pool verifies

use super::pool_file::PoolFile;
use super::region::{HUGE_PAGE_BYTES, LARGE_PAGE_BYTES};
use super::sys::{self, CallSite, InPlace};
use super::{FlushGranularity, Media, MediaKind, Region, Site, persist};
use crate::constants::PAGE_BYTES;
use crate::error::{Error, Result};
use crate::sync::{Arc, Mutex};
use crate::types::MediaRange;

/// A pool on persistent memory, or on memory that plays it.
pub(super) struct DaxMedium {
    /// Before `pool`: unmapped before the lock goes.
    region: Arc<Region>,
    pool: PoolFile,
    kind: MediaKind,
    why: String,
    write_back: persist::WriteBack,
    growth: Mutex<()>,
}

impl DaxMedium {
    /// Maps a locked pool of `len_bytes`.
    pub(super) fn new(pool: PoolFile, kind: MediaKind, why: String, len_bytes: u64) -> Result<DaxMedium> {
        let align_bytes = if pool.is_device() { HUGE_PAGE_BYTES } else { LARGE_PAGE_BYTES };
        let region = Region::reserve(len_bytes, align_bytes, !pool.is_read_only())?;
        let write_back = persist::write_back();
        let why = format!("{why}; lines are written back with {}", write_back.name());
        let medium =
            DaxMedium { region: Arc::new(region), pool, kind, why, write_back, growth: Mutex::new(()) };
        medium.map(len_bytes)?;
        Ok(medium)
    }

    fn map(&self, len_bytes: u64) -> Result<()> {
        let from = self.region.len();
        self.region.map_file(self.pool.fd()?, len_bytes, map_flags(self.kind))?;
        self.region.hint_large_pages(MediaRange::new(from, self.region.len() - from));
        Ok(())
    }

    /// Refuses a store from a forked child, where the mapping is still the parent's pool, and on a read-only medium.
    fn check_write(&self, at: u64, len: usize) -> Result<()> {
        self.pool.fd()?;
        if self.pool.is_read_only() {
            return Err(Error::ReadOnly);
        }
        self.pool.check_range("write", at, len, self.region.len())
    }

    fn lengthen(&self, from: u64, to: u64) -> Result<()> {
        let old = self.pool.stat()?.len;
        self.allocate_large_pages(from, to);
        self.pool.allocate_from(from, to, old)?;
        self.sync(CallSite::GrowSync, format_args!("fsync after growth to {to} bytes"))?;
        self.map(to)
    }

    /// Allocates `[from, to)` on tmpfs in large pages, where the system merges them: one small page of each is allocated, and
    /// the merge clears the rest. `fallocate` makes 512 small ones, which are cleared one by one, and copied by a later merge.
    /// Whatever is left out here is allocated afterwards, so it fails in silence.
    fn allocate_large_pages(&self, from: u64, to: u64) {
        let (start, end) = (from.next_multiple_of(LARGE_PAGE_BYTES), to - to % LARGE_PAGE_BYTES);
        if start >= end || self.region.has_no_large_pages() {
            return;
        }
        let Ok(fd) = self.pool.fd() else { return };
        if sys::overwrites_in_place(fd) != Ok(Some(InPlace::Tmpfs)) {
            return;
        }
        // The last page of all as well, so that the file is as long as what is merged.
        let seeds = (start..end).step_by(LARGE_PAGE_BYTES as usize).chain([to - PAGE_BYTES]);
        if seeds.into_iter().all(|at| sys::allocate(fd, at, at + PAGE_BYTES).is_ok()) {
            self.region.merge_behind_end(fd, MediaRange::new(start, end - start));
        }
    }

    fn sync(&self, site: CallSite, what: std::fmt::Arguments<'_>) -> Result<()> {
        persist::sync_all(site, self.pool.fd()?).map_err(|errno| self.pool.error(what, errno))
    }
}

fn map_flags(kind: MediaKind) -> i32 {
    match kind {
        MediaKind::Dax => libc::MAP_SHARED_VALIDATE | libc::MAP_SYNC,
        MediaKind::EmulatedPm | MediaKind::File | MediaKind::Sim => libc::MAP_SHARED,
    }
}

/// Copies bytes of a device that only a mapping can read, before the medium exists.
pub(super) fn read_device(pool: &PoolFile, len_bytes: u64, at: u64, into: &mut [u8]) -> Result<()> {
    let region = Region::reserve(len_bytes, HUGE_PAGE_BYTES, false)?;
    region.map_file(pool.fd()?, len_bytes, libc::MAP_SHARED)?;
    pool.check_range("read", at, into.len(), region.len())?;
    region.copy_out(at, into);
    Ok(())
}

impl Media for DaxMedium {
    fn kind(&self) -> MediaKind {
        self.kind
    }

    fn why(&self) -> &str {
        &self.why
    }

    #[inline]
    fn region(&self) -> &Arc<Region> {
        &self.region
    }

    fn granularity(&self) -> FlushGranularity {
        FlushGranularity::CacheLine
    }

    fn len_bytes(&self) -> u64 {
        self.region.len()
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.check_write(at, bytes.len())?;
        self.region.copy_in(at, bytes);
        Ok(())
    }

    fn write_through(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.check_write(at, bytes.len())?;
        persist::copy_non_temporal(&self.region, at, bytes);
        Ok(())
    }

    fn write_word(&self, at: u64, word: u64) -> Result<()> {
        self.check_write(at, size_of::<u64>())?;
        self.region.store_word(at, word);
        Ok(())
    }

    fn flush(&self, _site: Site, range: MediaRange) {
        self.write_back.flush(&self.region, range);
    }

    fn drain(&self, _site: Site) -> Result<()> {
        persist::fence();
        Ok(())
    }

    fn read(&self, at: u64, into: &mut [u8]) -> Result<()> {
        self.pool.check_range("read", at, into.len(), self.region.len())?;
        if !self.pool.is_device() {
            return self.pool.read_exact(at, into);
        }
        self.region.copy_out(at, into);
        Ok(())
    }

    fn reads_without_mapping(&self) -> bool {
        !self.pool.is_device()
    }

    fn grow(&self, len_bytes: u64) -> Result<()> {
        let _one_at_a_time = self.growth.lock();
        let from = self.region.len();
        if len_bytes <= from {
            return Ok(());
        }
        self.pool.check_growth(from, len_bytes)?;
        self.lengthen(from, len_bytes).inspect_err(|_| self.pool.undo_growth(from))
    }

    fn punch(&self, ranges: &[MediaRange]) -> Result<()> {
        let _one_at_a_time = self.growth.lock();
        self.pool.punch(ranges, self.region.len())?;
        self.sync(CallSite::GiveBackSync, format_args!("fsync after punching holes"))
    }

    fn allocate(&self, ranges: &[MediaRange]) -> Result<()> {
        let _one_at_a_time = self.growth.lock();
        for range in ranges {
            self.pool.check_range("allocation", range.offset, range.len as usize, self.region.len())?;
            self.pool.allocate(range.offset, range.end())?;
        }
        self.sync(CallSite::GrowSync, format_args!("fsync after filling holes"))
    }

    fn shrink(&self, len_bytes: u64) -> Result<()> {
        let _one_at_a_time = self.growth.lock();
        self.pool.shrink(len_bytes, self.region.len())?;
        self.region.shrink(len_bytes);
        self.sync(CallSite::GiveBackSync, format_args!("fsync after a cut to {len_bytes} bytes"))
    }

    fn holes(&self) -> Result<Vec<MediaRange>> {
        self.pool.holes(self.region.len())
    }

    fn prefault(&self, range: MediaRange) {
        // Not in a forked child: it would fault pages of the parent's pool for nothing.
        if self.pool.fd().is_ok() {
            self.region.merge_large_pages(range);
            self.region.populate(range, true);
        }
    }

    fn publish(&self) -> Result<()> {
        self.pool.publish(|fd| persist::sync_all(CallSite::PublishSync, fd))
    }
}

/// Asks the system whether the file can be mapped with `MAP_SYNC`; else the name of the refusal.
pub(super) fn probe(pool: &PoolFile, len_bytes: u64) -> Result<std::result::Result<(), String>> {
    if !persist::write_back().reaches_memory() {
        return Ok(Err("this CPU has no cache-line write-back that FlatKV knows".to_string()));
    }
    let answer = sys::probe_map_sync(pool.fd()?, len_bytes);
    Ok(answer.map_err(|errno| format!("MAP_SYNC refused with {}", sys::errno_name(errno))))
}
