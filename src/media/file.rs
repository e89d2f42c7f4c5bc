//! An ordinary file: written by `pwrite`, made durable by a shared `fdatasync`, read through a mapping.
//!
//!   - a full or failing device is a return value: nothing is stored through the mapping but `os` writes of a store that is
//!     opened for them, and these into pages that the system made ready for it (`window.rs`, `docs/decisions/0026`)
//!   - new bytes are allocated, written as zeros and synced before they are mapped and named: a later drain then writes
//!     no metadata
//!   - the kernel reports a failed write-back *once* per descriptor, to whichever sync comes first. Syncs therefore take
//!     turns, and the first failure is kept and answered to every later one: no drain can say "durable" after it
//!   - threads that come to drain while a sync runs share the next one

use super::pool_file::PoolFile;
use super::region::LARGE_PAGE_BYTES;
use super::sys::{self, CallSite, Errno, Sys};
use super::window::Window;
use super::{FlushGranularity, Media, MediaKind, Region, Site, persist};
use crate::error::{Error, Result};
use crate::sync::{Arc, Condvar, Mutex};
use crate::types::MediaRange;
use std::os::fd::RawFd;

/// New bytes are synced in steps of this size: some milliseconds each.
const FILL_BYTES: u64 = 4 << 20;

/// A pool in an ordinary file.
pub(super) struct FileMedium {
    /// Before `pool`: unmapped before the lock goes.
    region: Arc<Region>,
    pool: PoolFile,
    why: String,
    syncs: SyncTurns,
    growth: Mutex<()>,
    /// Where `os` writes are stored through the mapping, if they are.
    window: Option<Window>,
}

impl FileMedium {
    /// Maps a locked pool of `len_bytes`, for storing `os` writes too if `os_by_mapping` and the file system agree.
    pub(super) fn new(
        pool: PoolFile,
        why: String,
        len_bytes: u64,
        os_by_mapping: bool,
    ) -> Result<FileMedium> {
        let can_store = os_by_mapping && !pool.is_read_only() && pool.is_writable();
        let window = can_store.then(|| Window::on(pool.fd().ok()?, len_bytes)).flatten();
        let region = Region::reserve(len_bytes, LARGE_PAGE_BYTES, window.is_some())?;
        map_up_to(&region, &pool, len_bytes)?;
        let why = if window.is_some() { why + "; os writes are stored through the mapping" } else { why };
        Ok(FileMedium {
            region: Arc::new(region),
            pool,
            why,
            syncs: SyncTurns::default(),
            growth: Mutex::new(()),
            window,
        })
    }

    fn put(&self, site: CallSite, at: u64, bytes: &[u8]) -> Result<()> {
        let fd = self.pool.fd()?;
        if !self.pool.is_writable() {
            return Err(Error::ReadOnly);
        }
        self.pool.check_range("write", at, bytes.len(), self.region.len())?;
        sys::write_all_at(site, fd, bytes, at)
            .map_err(|errno| self.pool.error(format_args!("pwrite of {} bytes at {at}", bytes.len()), errno))
    }

    fn lengthen(&self, from: u64, to: u64) -> Result<()> {
        self.pool.allocate(from, to)?;
        self.fill(from, to)?;
        self.sync(CallSite::GrowSync, format_args!("fsync after growth to {to} bytes"))?;
        map_up_to(&self.region, &self.pool, to)
    }

    /// Writes zeros over `[from, to)`, which the caller syncs. Who drains meanwhile waits for one step of it.
    fn fill(&self, from: u64, to: u64) -> Result<()> {
        let fd = self.pool.fd()?;
        for step in (from..to).step_by(FILL_BYTES as usize) {
            if step > from {
                let synced = self.syncs.sync_alone(|| persist::sync_data(CallSite::GrowSync, fd));
                synced.map_err(|errno| {
                    self.pool.error(format_args!("fdatasync of zeros up to {step}"), errno)
                })?;
            }
            self.pool.write_zeros(step, to.min(step + FILL_BYTES))?;
        }
        Ok(())
    }

    /// What was made ready for stores may not be any more: folios may have holes.
    fn forget_windows(&self) {
        if let Some(window) = &self.window {
            window.forget();
        }
    }

    fn sync(&self, site: CallSite, what: std::fmt::Arguments<'_>) -> Result<()> {
        let fd = self.pool.fd()?;
        let synced = self.syncs.sync_alone(|| persist::sync_all(site, fd));
        synced.map_err(|errno| self.pool.error(what, errno))
    }
}

/// Maps the pool's bytes up to `to`, to be read anywhere.
fn map_up_to(region: &Region, pool: &PoolFile, to: u64) -> Result<()> {
    region.map_file(pool.fd()?, to, libc::MAP_SHARED)?;
    region.hint_random();
    Ok(())
}

impl Media for FileMedium {
    fn kind(&self) -> MediaKind {
        MediaKind::File
    }

    fn why(&self) -> &str {
        &self.why
    }

    #[inline]
    fn region(&self) -> &Arc<Region> {
        &self.region
    }

    fn granularity(&self) -> FlushGranularity {
        FlushGranularity::File
    }

    fn len_bytes(&self) -> u64 {
        self.region.len()
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.put(CallSite::Write, at, bytes)
    }

    fn write_undrained(&self, at: u64, bytes: &[u8]) -> Result<()> {
        let fd = self.pool.fd()?;
        match &self.window {
            Some(window) if window.is_ready(fd, &self.region, MediaRange::new(at, bytes.len() as u64)) => {
                self.region.copy_in(at, bytes);
                Ok(())
            }
            _ => self.put(CallSite::Write, at, bytes),
        }
    }

    fn write_through(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.put(CallSite::Write, at, bytes)
    }

    fn write_word(&self, at: u64, word: u64) -> Result<()> {
        self.put(CallSite::WriteWord, at, &word.to_ne_bytes())
    }

    /// Nothing to start: the drain covers the whole file.
    fn flush(&self, _site: Site, range: MediaRange) {
        assert!(
            self.region.contains(range.offset, range.len),
            "flush of {range:?} in {} bytes",
            self.region.len()
        );
    }

    fn drain(&self, _site: Site) -> Result<()> {
        let fd = self.pool.fd()?;
        let synced = self.syncs.sync_shared(|| persist::sync_data(CallSite::Drain, fd));
        if let Some(window) = &self.window {
            window.close();
        }
        synced.map_err(|errno| self.pool.error(format_args!("fdatasync"), errno))
    }

    fn read(&self, at: u64, into: &mut [u8]) -> Result<()> {
        self.pool.check_range("read", at, into.len(), self.region.len())?;
        self.pool.read_exact(at, into)
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
        self.forget_windows();
        let punched = self.pool.punch(ranges, self.region.len());
        self.forget_windows();
        punched?;
        self.sync(CallSite::GiveBackSync, format_args!("fsync after punching holes"))
    }

    fn allocate(&self, ranges: &[MediaRange]) -> Result<()> {
        let _one_at_a_time = self.growth.lock();
        for range in ranges {
            self.pool.check_range("allocation", range.offset, range.len as usize, self.region.len())?;
            self.pool.allocate(range.offset, range.end())?;
            self.fill(range.offset, range.end())?;
        }
        self.sync(CallSite::GrowSync, format_args!("fsync after filling holes"))
    }

    fn shrink(&self, len_bytes: u64) -> Result<()> {
        let _one_at_a_time = self.growth.lock();
        self.pool.shrink(len_bytes, self.region.len())?;
        self.region.shrink(len_bytes);
        self.forget_windows();
        self.sync(CallSite::GiveBackSync, format_args!("fsync after a cut to {len_bytes} bytes"))
    }

    fn holes(&self) -> Result<Vec<MediaRange>> {
        self.pool.holes(self.region.len())
    }

    fn failed_sync(&self) -> Option<Error> {
        self.syncs.failed().map(|errno| self.pool.error(format_args!("an earlier sync"), errno))
    }

    /// An append is a `pwrite`, which faults nothing; what this saves is the read of a page that is not cached.
    fn prefault(&self, range: MediaRange) {
        // Together: the mapping would ask for page after page.
        self.read_ahead(range);
        self.region.populate(range, false);
    }

    fn is_cached(&self, offset: u64) -> bool {
        self.region.is_cached(offset)
    }

    fn read_ahead(&self, range: MediaRange) {
        if let Ok(fd) = self.pool.fd() {
            let _ = sys::read_ahead(CallSite::ReadAhead, fd, range.offset, range.len);
        }
    }

    fn publish(&self) -> Result<()> {
        self.pool.publish(|fd: RawFd| self.syncs.sync_alone(|| persist::sync_all(CallSite::PublishSync, fd)))
    }
}

/// Lets syncs of one descriptor take turns, and keeps the first failure for ever.
#[derive(Default)]
struct SyncTurns {
    state: Mutex<Turns>,
    changed: Condvar,
}

/// Invariants: completed <= started <= completed + 1, equal if and only if nothing runs; `failed` is never cleared.
#[derive(Default)]
struct Turns {
    started: u64,
    completed: u64,
    failed: Option<Errno>,
}

impl SyncTurns {
    /// Returns once a sync that *started* after this call has succeeded; runs it unless another thread does.
    fn sync_shared(&self, sync: impl FnOnce() -> Sys<()>) -> Sys<()> {
        self.sync(true, sync)
    }

    fn failed(&self) -> Option<Errno> {
        self.state.lock().failed
    }

    /// Runs a sync of its own kind (`fsync`), which a shared `fdatasync` does not stand for.
    fn sync_alone(&self, sync: impl FnOnce() -> Sys<()>) -> Sys<()> {
        self.sync(false, sync)
    }

    fn sync(&self, may_share: bool, sync: impl FnOnce() -> Sys<()>) -> Sys<()> {
        let mut state = self.state.lock();
        // One that runs already may have passed the pages written just now: only the next is sure to cover them.
        let covering = state.started + 1;
        loop {
            if let Some(errno) = state.failed {
                return Err(errno);
            }
            if may_share && state.completed >= covering {
                return Ok(());
            }
            if state.started == state.completed {
                break;
            }
            state = self.changed.wait(state);
        }
        state.started += 1;
        drop(state);
        let answer = sync();
        let mut state = self.state.lock();
        state.completed = state.started;
        state.failed = state.failed.or(answer.err());
        drop(state);
        self.changed.notify_all();
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::{AtomicU64, Ordering};
    use std::sync::mpsc;
    use std::thread;

    #[test]
    fn a_failed_sync_is_answered_to_every_later_one() {
        let turns = SyncTurns::default();
        assert_eq!(turns.sync_shared(|| Ok(())), Ok(()));
        assert_eq!(turns.sync_shared(|| Err(libc::EINTR)), Err(libc::EINTR));
        assert_eq!(turns.sync_shared(|| panic!("must not be called again")), Err(libc::EINTR));
        assert_eq!(turns.sync_alone(|| panic!("must not be called again")), Err(libc::EINTR));
    }

    #[test]
    fn threads_that_arrive_during_a_sync_share_the_next_and_not_the_running_one() {
        const WAITERS: u64 = 4;
        let turns = SyncTurns::default();
        let calls = AtomicU64::new(0);
        let arrived = AtomicU64::new(0);
        let (entered, is_running) = mpsc::channel();
        let (release, may_end) = mpsc::channel::<()>();
        thread::scope(|scope| {
            let (turns, calls, arrived) = (&turns, &calls, &arrived);
            scope.spawn(move || {
                turns.sync_shared(|| {
                    entered.send(()).unwrap();
                    may_end.recv().unwrap();
                    Ok(())
                })
            });
            is_running.recv().unwrap();
            let waiters: Vec<_> = (0..WAITERS)
                .map(|_| {
                    scope.spawn(move || {
                        arrived.fetch_add(1, Ordering::SeqCst);
                        turns.sync_shared(|| {
                            calls.fetch_add(1, Ordering::SeqCst);
                            Ok(())
                        })
                    })
                })
                .collect();
            while arrived.load(Ordering::SeqCst) < WAITERS {
                thread::yield_now();
            }
            assert_eq!(calls.load(Ordering::SeqCst), 0, "syncs take turns");
            release.send(()).unwrap();
            waiters.into_iter().for_each(|waiter| assert_eq!(waiter.join().unwrap(), Ok(())));
        });
        // A waiter that was scheduled late may need a sync of its own, never none.
        assert!((1..=WAITERS).contains(&calls.load(Ordering::SeqCst)));
    }

    #[test]
    fn a_failure_reaches_the_threads_that_waited_for_their_turn() {
        let turns = SyncTurns::default();
        let (entered, is_running) = mpsc::channel();
        let (release, may_end) = mpsc::channel::<()>();
        thread::scope(|scope| {
            let turns = &turns;
            let first = scope.spawn(move || {
                turns.sync_alone(|| {
                    entered.send(()).unwrap();
                    may_end.recv().unwrap();
                    Err(libc::EIO)
                })
            });
            is_running.recv().unwrap();
            let second = scope.spawn(move || turns.sync_shared(|| Ok(())));
            thread::sleep(std::time::Duration::from_millis(20));
            release.send(()).unwrap();
            assert_eq!(first.join().unwrap(), Err(libc::EIO));
            assert_eq!(second.join().unwrap(), Err(libc::EIO));
        });
    }
}
