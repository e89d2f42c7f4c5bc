//! The window: the stretch of a file into which `os` writes are stored through the mapping, where a `pwrite` would take ten
//! times as long. A store has no way to fail but SIGBUS, so what can make it fail is asked for before, by calls that answer:
//!
//!   - the file system overwrites in place: an allocated page takes no new block, so the device cannot be full for it
//!   - no hole is in any folio of the window: a store to one page allocates what is missing in the whole folio
//!   - the kernel has made its pages present and writable (`MADV_POPULATE_WRITE`), which reads them if need be
//!
//! If any of these is refused, the bytes go by `pwrite`, whose error says why. Pages that are written back later are
//! protected again, and the next store to them asks the file system once more, by a fault: every drain closes the window, so
//! that a store long after the last one finds it closed. What is left is a medium or a file system that breaks between
//! the making and the store: a SIGBUS, as for a read through the mapping. Stores opened with `sigbus=guard` have no window.
//!
//! Any number of threads may ask; the log has one at a time, and the window follows it. A range is written once, through
//! the window or by `pwrite`; both are the same pages of the page cache, so what lies beside it may be written either way.

use super::Region;
use super::region::LARGE_PAGE_BYTES;
use super::sys;
use crate::constants::PAGE_BYTES;
use crate::sync::{AtomicU64, Ordering};
use crate::types::MediaRange;
use std::os::fd::RawFd;

/// Pages are made ready in windows of this size: some microseconds of a put, every so many puts.
const WINDOW_BYTES: u64 = 16 << 10;
/// Longer writes go by `pwrite`: pages are made ready one by one, and a call that fills several costs less.
const STORED_BYTES_MAX: u64 = 2 << 10;
/// Neither open nor refused anywhere.
const CLOSED: u64 = u64::MAX;

const _: () = assert!(WINDOW_BYTES.is_multiple_of(PAGE_BYTES), "whole pages are made ready");
const _: () = assert!(STORED_BYTES_MAX < WINDOW_BYTES, "what is stored can lie in one window");

/// Which window was asked for last, and the answer.
pub(super) struct Window {
    /// The window's number, doubled, and 1 more if it is open. It guards no memory: any order of its changes is right.
    state: AtomicU64,
}

impl Window {
    /// A closed window on the file behind `fd`; none if stores there might need a new block.
    pub(super) fn on(fd: RawFd) -> Option<Window> {
        let overwrites = sys::overwrites_in_place(fd).unwrap_or(false);
        overwrites.then(|| Window { state: AtomicU64::new(CLOSED) })
    }

    /// True if `range` is to be stored to: it is short and lies in one window, which is open or could be opened.
    #[inline]
    pub(super) fn is_ready(&self, fd: RawFd, region: &Region, range: MediaRange) -> bool {
        let number = range.offset / WINDOW_BYTES;
        if range.len == 0 || range.len > STORED_BYTES_MAX || (range.end() - 1) / WINDOW_BYTES != number {
            return false;
        }
        match self.state.load(Ordering::Relaxed) {
            state if state == 2 * number + 1 => true,
            state if state == 2 * number => false,
            _ => self.open(fd, region, number),
        }
    }

    #[cold]
    fn open(&self, fd: RawFd, region: &Region, number: u64) -> bool {
        let range = MediaRange::new(number * WINDOW_BYTES, WINDOW_BYTES);
        let is_open = range.end() <= region.len()
            && is_solid(fd, range.offset / LARGE_PAGE_BYTES, region.len())
            && region.try_populate(range, true).is_ok();
        self.state.store(2 * number + u64::from(is_open), Ordering::Relaxed);
        is_open
    }

    /// The next store asks again.
    pub(super) fn close(&self) {
        self.state.store(CLOSED, Ordering::Relaxed);
    }
}

/// True if the large page of this number, than which no folio is larger, has no hole below `len`.
fn is_solid(fd: RawFd, large_page: u64, len: u64) -> bool {
    let start = large_page * LARGE_PAGE_BYTES;
    let end = len.min(start + LARGE_PAGE_BYTES);
    sys::next_hole(fd, start).is_ok_and(|hole| hole.is_some_and(|hole| hole >= end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    /// A region mapped for writing over a file of three large pages, with a hole of a page in the middle of the second one.
    fn with_a_hole(test: impl FnOnce(&Window, RawFd, &Region)) {
        let file = tempfile::tempfile().unwrap();
        let fd = file.as_raw_fd();
        let len = 3 * LARGE_PAGE_BYTES;
        fill(fd, 0, len);
        sys::punch(fd, LARGE_PAGE_BYTES * 3 / 2, PAGE_BYTES).unwrap();
        let region = Region::reserve(len, LARGE_PAGE_BYTES, true).unwrap();
        region.map_file(fd, len - PAGE_BYTES, libc::MAP_SHARED).unwrap();
        test(&Window { state: AtomicU64::new(CLOSED) }, fd, &region);
    }

    fn fill(fd: RawFd, at: u64, len: u64) {
        sys::write_all_at(sys::CallSite::Write, fd, &vec![1; len as usize], at).unwrap();
    }

    #[test]
    fn only_a_short_range_of_one_window_far_from_holes_is_ready() {
        with_a_hole(|window, fd, region| {
            let is_ready = |offset, len| window.is_ready(fd, region, MediaRange::new(offset, len));
            let last_window = 3 * LARGE_PAGE_BYTES - WINDOW_BYTES;
            for (offset, len, expected) in [
                (0, 1, true),
                (0, 0, false),
                (WINDOW_BYTES - STORED_BYTES_MAX, STORED_BYTES_MAX, true),
                (WINDOW_BYTES - STORED_BYTES_MAX + 1, STORED_BYTES_MAX, false),
                (0, STORED_BYTES_MAX + 1, false),
                (LARGE_PAGE_BYTES - 1, 1, true),
                (LARGE_PAGE_BYTES, 1, false),
                (LARGE_PAGE_BYTES * 3 / 2, 1, false),
                (2 * LARGE_PAGE_BYTES - 1, 1, false),
                (2 * LARGE_PAGE_BYTES, 64, true),
                (last_window - 1, 1, true),
                (last_window, 1, false),
            ] {
                assert_eq!(is_ready(offset, len), expected, "{len} bytes at {offset}");
                assert_eq!(is_ready(offset, len), expected, "{len} bytes at {offset}, asked again");
            }
        });
    }

    #[test]
    fn a_closed_window_is_asked_for_again() {
        with_a_hole(|window, fd, region| {
            let is_ready = || window.is_ready(fd, region, MediaRange::new(WINDOW_BYTES, 64));
            assert!(is_ready());
            sys::punch(fd, 4 * WINDOW_BYTES, PAGE_BYTES).unwrap();
            window.close();
            assert!(!is_ready());
            fill(fd, 4 * WINDOW_BYTES, PAGE_BYTES);
            assert!(!is_ready(), "known, until it is closed");
            window.close();
            assert!(is_ready());
        });
    }
}
