//! Writers are slowed before they would have to stop. A write that rolled a head while slots for new data, those on their way
//! to be free included, are below half of the cleaner's low mark, so while the cleaner works and does not keep up, owes a
//! delay: the share of that half that is missing, of a third of what the cleaner takes to gain a segment.
//! Writers then use up segments hardly faster than the cleaner gains them. The debt is paid in pieces, by whoever writes next,
//! holding nothing.

use super::super::Engine;
use super::CleanerCounters;
use crate::index::Index;
use crate::sync::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Longest delay of one write.
const DELAY_US_MAX: u64 = 2_000;
/// With no slot left a roll costs this share of what a segment costs the cleaner: to fill it takes the writer the rest. With
/// more the cleaner waited for the writers it had slowed.
const SHARE_AT_NONE: u64 = 3;
/// Of the newest measurement this share goes into the mean.
const NEW_SHARE: u64 = 4;
/// A cleaner that gains next to nothing must not stop the writers: they wait for room when there is none.
const SEGMENT_US_MAX: u64 = 100_000;

/// What writers owe.
#[derive(Default)]
pub(super) struct Pace {
    /// What the cleaner took to gain a segment, lately.
    segment_us: AtomicU64,
    debt_us: AtomicU64,
    /// Writes that were delayed.
    pub(super) delays: AtomicU64,
    /// By how long in all.
    pub(super) delayed_us: AtomicU64,
}

impl Pace {
    /// A pass that began at `since` gained so many bytes.
    pub(super) fn note_pass(&self, since: Instant, gained_bytes: i64, segment_size_bytes: u64) {
        let Some(gained) = u64::try_from(gained_bytes).ok().filter(|gained| *gained > 0) else { return };
        let took_us = since.elapsed().as_micros() as u64;
        let segment_us = (took_us.saturating_mul(segment_size_bytes) / gained).min(SEGMENT_US_MAX);
        let mean = self.segment_us.load(Ordering::Relaxed);
        let next = if mean == 0 { segment_us } else { mean - mean / NEW_SHARE + segment_us / NEW_SHARE };
        self.segment_us.store(next, Ordering::Relaxed);
    }

    /// A head was rolled with `free` slots left of `low`.
    fn add_debt(&self, free: u32, low: u32) {
        let segment_us = self.segment_us.load(Ordering::Relaxed);
        let missing = u64::from(low.saturating_sub(free));
        let debt = segment_us * missing / (SHARE_AT_NONE * u64::from(low.max(1)));
        self.debt_us.fetch_add(debt, Ordering::Relaxed);
    }

    /// The next piece, and whether there are more.
    fn take_piece(&self) -> (Duration, bool) {
        let piece = |debt: u64| debt.min(DELAY_US_MAX);
        let before =
            self.debt_us.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |debt| Some(debt - piece(debt)));
        let before = before.expect("always changed");
        (Duration::from_micros(piece(before)), before > DELAY_US_MAX)
    }
}

impl<I: Index + 'static> Engine<I> {
    /// A write is over, and a head was rolled or a debt is left. Holds no lock and is in no write section.
    #[cold]
    pub(in crate::engine) fn pace(&self, has_rolled: bool) {
        let pace = &self.cleaner.pace;
        let free = self.space.soon_available();
        let low = self.space.low_mark().div_ceil(2);
        if free >= low || self.cleaner_thread.rests() {
            pace.debt_us.store(0, Ordering::Relaxed);
            return;
        }
        if has_rolled {
            pace.add_debt(free.saturating_add(self.space.growable_slots()), low);
        }
        let (delay, is_more) = pace.take_piece();
        if is_more {
            self.housekeeper.ask_writers_to_pay();
        }
        if !delay.is_zero() {
            std::thread::sleep(delay);
            CleanerCounters::add(&pace.delays, 1);
            CleanerCounters::add(&pace.delayed_us, delay.as_micros() as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_debt_is_the_missing_share_and_is_paid_in_pieces() {
        let pace = Pace::default();
        pace.add_debt(8, 8);
        assert_eq!(pace.take_piece(), (Duration::ZERO, false));
        pace.segment_us.store(18_000, Ordering::Relaxed);
        pace.add_debt(4, 8);
        assert_eq!(pace.take_piece(), (Duration::from_micros(2_000), true));
        assert_eq!(pace.take_piece(), (Duration::from_micros(1_000), false));
        assert_eq!(pace.take_piece(), (Duration::ZERO, false));
        pace.add_debt(0, 8);
        assert_eq!(
            pace.debt_us.load(Ordering::Relaxed),
            6_000,
            "with no slot left a third of a segment's time"
        );
    }

    #[test]
    fn passes_that_gain_nothing_do_not_change_the_pace() {
        let pace = Pace::default();
        pace.note_pass(Instant::now(), 0, 4096);
        pace.note_pass(Instant::now(), -4096, 4096);
        assert_eq!(pace.segment_us.load(Ordering::Relaxed), 0);
        let long_ago = Instant::now() - Duration::from_millis(40);
        pace.note_pass(long_ago, 8192, 4096);
        assert!(pace.segment_us.load(Ordering::Relaxed) >= 20_000);
    }

    /// A cleaner that cannot keep up: it is held up in the middle of its work.
    #[cfg(feature = "sim")]
    #[test]
    fn writers_are_slowed_while_slots_are_few_and_not_before() {
        use crate::options::WriteOptions;

        let engine = crate::testing::engine(512 << 10, true);
        let pace = &engine.cleaner.pace;
        let held_up = engine.cleaner.work.lock();
        pace.segment_us.store(1_000, Ordering::Relaxed);
        let delays = || pace.delays.load(Ordering::Relaxed);
        let room = || engine.space.available(crate::space::Purpose::Put) + engine.space.growable_slots();
        let mut number = 0_u32;
        while delays() == 0 {
            let room_before = room();
            engine
                .put(crate::engine::WholeStore, &WriteOptions::default(), &number.to_ne_bytes(), &[7; 200])
                .expect("room");
            assert!(
                delays() == 0 || room_before <= engine.space.low_mark().div_ceil(2) + 1,
                "{room_before} slots are left"
            );
            number += 1;
        }
        assert!(number > 100, "{number} puts");
        drop(held_up);
        engine.let_go();
    }
}
