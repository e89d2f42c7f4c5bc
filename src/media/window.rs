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
use super::sys::{self, InPlace};
use crate::constants::{PAGE_BYTES, POOL_BYTES_MAX};
use crate::sync::{AtomicU64, Ordering};
use crate::types::MediaRange;
use std::os::fd::RawFd;

/// Pages are made ready in windows of this size: some microseconds of a put, every so many puts.
const WINDOW_BYTES: u64 = 16 << 10;
/// Longer writes go by `pwrite`: pages are made ready one by one, and a call that fills several costs less.
const STORED_BYTES_MAX: u64 = 2 << 10;
/// Bits of an answer; above them is how often it was taken back.
const ANSWER: u64 = (1 << TAKEN_BACK_SHIFT) - 1;
const TAKEN_BACK_SHIFT: u32 = 32;
/// No answer.
const NONE: u64 = ANSWER;
/// tmpfs finds the next hole by looking at every page up to there (7 ns each): not in pools that are longer.
const TMPFS_BYTES_MAX: u64 = 64 << 20;

const _: () = assert!(WINDOW_BYTES.is_multiple_of(PAGE_BYTES), "whole pages are made ready");
const _: () = assert!(LARGE_PAGE_BYTES.is_multiple_of(WINDOW_BYTES), "a window lies in one large page");
const _: () = assert!(STORED_BYTES_MAX < WINDOW_BYTES, "what is stored can lie in one window");
const _: () = assert!(POOL_BYTES_MAX / WINDOW_BYTES < ANSWER / 2, "every window has a number");

/// What was found out last, until somebody takes it back. Guards no memory.
struct Answer(AtomicU64);

impl Answer {
    /// With what [`Answer::replace`] wants to know.
    fn seen(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// Another answer, unless one was given or taken back since `seen`; false if so.
    fn replace(&self, seen: u64, answer: u64) -> bool {
        let after = (seen & !ANSWER) | answer;
        self.0.compare_exchange(seen, after, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// The answer does not count any more, nor does one that is being looked for.
    fn take_back(&self) {
        let none = |answer: u64| Some((answer | NONE).wrapping_add(1 << TAKEN_BACK_SHIFT));
        let _ = self.0.fetch_update(Ordering::AcqRel, Ordering::Relaxed, none);
    }
}

/// Which window was asked for last, and whether it is open.
pub(super) struct Window {
    /// The number of the window, doubled, and 1 more if it is open.
    state: Answer,
    /// The large page in which no hole was found.
    solid: Answer,
    /// Pools that became longer have no window.
    pool_bytes_max: u64,
}

impl Window {
    /// A closed window on the pool of `len` bytes behind `fd`; none if stores there might need a new block.
    pub(super) fn on(fd: RawFd, len: u64) -> Option<Window> {
        let most = match sys::overwrites_in_place(fd).ok()?? {
            InPlace::Ext4 => u64::MAX,
            InPlace::Tmpfs => TMPFS_BYTES_MAX,
        };
        (len <= most).then(|| Window::in_pools_up_to(most))
    }

    fn in_pools_up_to(pool_bytes_max: u64) -> Window {
        let none = || Answer(AtomicU64::new(NONE));
        Window { state: none(), solid: none(), pool_bytes_max }
    }

    /// True if `range` is to be stored to: it is short and lies in one window, which is open or could be opened.
    #[inline]
    pub(super) fn is_ready(&self, fd: RawFd, region: &Region, range: MediaRange) -> bool {
        let number = range.offset / WINDOW_BYTES;
        if range.len == 0 || range.len > STORED_BYTES_MAX || (range.end() - 1) / WINDOW_BYTES != number {
            return false;
        }
        match self.state.0.load(Ordering::Relaxed) & ANSWER {
            answer if answer == 2 * number + 1 => true,
            answer if answer == 2 * number => false,
            _ => self.open(fd, region, number),
        }
    }

    #[cold]
    fn open(&self, fd: RawFd, region: &Region, number: u64) -> bool {
        let seen = self.state.seen();
        let range = MediaRange::new(number * WINDOW_BYTES, WINDOW_BYTES);
        let is_open = range.end() <= region.len()
            && region.len() <= self.pool_bytes_max
            && self.is_solid(fd, range.offset / LARGE_PAGE_BYTES, region.len())
            && region.try_populate(range, true).is_ok();
        // What was found out counts only if nobody closed windows meanwhile.
        let is_current = self.state.replace(seen, 2 * number + u64::from(is_open));
        is_open && is_current
    }

    /// True if the large page of this number, than which no folio is larger, has no hole below `len`.
    fn is_solid(&self, fd: RawFd, large_page: u64, len: u64) -> bool {
        let seen = self.solid.seen();
        if seen & ANSWER == large_page {
            return true;
        }
        let start = large_page * LARGE_PAGE_BYTES;
        let end = len.min(start + LARGE_PAGE_BYTES);
        let is_solid = sys::next_hole(fd, start).is_ok_and(|hole| hole.is_some_and(|hole| hole >= end));
        // As for `state`: a hole that was made meanwhile may lie where it was looked at before.
        is_solid && self.solid.replace(seen, large_page)
    }

    /// The next store asks again whether its pages are ready.
    pub(super) fn close(&self) {
        self.state.take_back();
    }

    /// The same, and whether there is a hole. Called before holes are made, and behind it again: what others found out
    /// meanwhile is forgotten, too.
    pub(super) fn forget(&self) {
        self.solid.take_back();
        self.close();
    }
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
        test(&Window::in_pools_up_to(u64::MAX), fd, &region);
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
            assert!(is_ready(), "holes are looked for once");
            // Once more: making the window ready has filled all of the folio.
            sys::punch(fd, 4 * WINDOW_BYTES, PAGE_BYTES).unwrap();
            window.forget();
            assert!(!is_ready());
            fill(fd, 4 * WINDOW_BYTES, PAGE_BYTES);
            assert!(!is_ready(), "known, until it is closed");
            window.close();
            assert!(is_ready());
        });
    }

    #[test]
    fn what_was_found_out_while_windows_were_closed_does_not_open_one() {
        with_a_hole(|window, fd, region| {
            let before = window.state.0.load(Ordering::Relaxed);
            window.forget();
            assert_ne!(
                window.state.0.load(Ordering::Relaxed),
                before,
                "who asked before sees that it was closed"
            );
            assert!(window.is_ready(fd, region, MediaRange::new(0, 64)));
            let open = window.state.0.load(Ordering::Relaxed);
            window.close();
            assert!(
                window.state.0.compare_exchange(open, before, Ordering::Relaxed, Ordering::Relaxed).is_err()
            );
            assert_eq!(window.state.0.load(Ordering::Relaxed) & ANSWER, NONE);
        });
    }

    #[test]
    fn a_pool_that_is_too_long_to_be_looked_at_has_no_window() {
        with_a_hole(|_, fd, region| {
            let is_ready = |most| Window::in_pools_up_to(most).is_ready(fd, region, MediaRange::new(0, 64));
            assert!(is_ready(region.len()));
            assert!(!is_ready(region.len() - 1));
        });
    }
}
