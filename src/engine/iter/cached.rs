//! Whether to ask if entries are in memory before they are read. To ask is a system call or two for a group of entries, about two
//! microseconds, which is as long as it takes to read them there; not to ask costs a device's answer for each page, about a
//! millisecond for a group. So asking pays as long as one group in a thousand is not in memory.

use crate::sync::{AtomicU32, Ordering};
use crate::types::Addr;

/// So many groups in a row were in memory before some are not asked about.
const STREAK_ENOUGH: u32 = 1000;
/// One of so many is asked about then.
const ASKED_ONE_OF: u64 = 16;

/// Groups in a row that were found in memory, up to [`STREAK_ENOUGH`]. Racing threads may lose one: it is a hint.
#[derive(Default)]
pub struct CachedStreak {
    groups: AtomicU32,
}

impl CachedStreak {
    /// Whether to ask about the group that begins with this entry. Which ones are left out depends on the entry alone, so that a
    /// store in memory is not written to by all who read it.
    pub fn is_asked(&self, first: Addr) -> bool {
        const ODD: u64 = 0x9E37_79B9_7F4A_7C15;
        self.groups.load(Ordering::Relaxed) < STREAK_ENOUGH
            || (first.to_bits().wrapping_mul(ODD) >> 32).is_multiple_of(ASKED_ONE_OF)
    }

    /// Takes note of an answer.
    pub fn note(&self, are_cached: bool) {
        let known = self.groups.load(Ordering::Relaxed);
        let groups = if are_cached { (known + 1).min(STREAK_ENOUGH) } else { 0 };
        if groups != known {
            self.groups.store(groups, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of the groups that begin at so many entries are asked about.
    fn asked(streak: &CachedStreak) -> usize {
        (0..16_000).filter(|at| streak.is_asked(Addr::from_offset(4096 + at * 88))).count()
    }

    #[test]
    fn a_store_in_memory_is_asked_about_seldom_and_one_that_is_not_each_time() {
        let streak = CachedStreak::default();
        for _ in 1..STREAK_ENOUGH {
            streak.note(true);
            assert!(streak.is_asked(Addr::from_offset(4096)));
        }
        assert_eq!(asked(&streak), 16_000, "one less than is enough");
        streak.note(true);
        assert!((500..2000).contains(&asked(&streak)), "{} of 16,000", asked(&streak));
        streak.note(false);
        assert_eq!(asked(&streak), 16_000);
        streak.note(true);
        assert_eq!(asked(&streak), 16_000, "it begins anew");
    }
}
