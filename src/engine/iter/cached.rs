//! Whether to ask if entries are in memory before they are read. To ask is a system call or two for a group of entries, about
//! two microseconds, as long as it takes to read them there. Not to ask costs an answer of the device for each page, 2 to 15
//! ms for a group on the disk of `decisions/0018`. So asking pays even if one group in some thousands is not in memory.

use crate::types::Addr;
use std::cell::Cell;

/// So many groups in a row were in memory before some are not asked about.
const STREAK_ENOUGH: u32 = 4000;
/// One of so many is asked about then.
const ASKED_ONE_OF: u64 = 16;

thread_local! {
    /// Groups in a row that this thread's scans found in memory, up to [`STREAK_ENOUGH`]. Of a thread, since what others scan
    /// may be in memory when this is not.
    static STREAK: Cell<u32> = const { Cell::new(0) };
}

/// Whether to ask about the group that begins with this entry.
pub fn is_asked(first: Addr) -> bool {
    const ODD: u64 = 0x9E37_79B9_7F4A_7C15;
    let groups = STREAK.try_with(Cell::get).unwrap_or(0);
    groups < STREAK_ENOUGH || (first.to_bits().wrapping_mul(ODD) >> 32).is_multiple_of(ASKED_ONE_OF)
}

/// Takes note of an answer.
pub fn note(are_cached: bool) {
    let _ = STREAK.try_with(|streak| {
        streak.set(if are_cached { (streak.get() + 1).min(STREAK_ENOUGH) } else { 0 });
    });
}

/// A store was opened by this thread: nothing is known of what it has in memory.
pub fn forget() {
    let _ = STREAK.try_with(|streak| streak.set(0));
}

#[cfg(all(test, feature = "sim"))]
mod tests;
