//! Tickets of asynchronous writes. Invariants:
//!   - a lane's oldest ticket is at or below every ticket in it that is not finished
//!   - tickets are given in order, and the durable ticket never runs ahead of a lane's oldest
//!   - from the first failed ticket on every ticket reports that failure

use crate::error::{Error, Result};
use crate::sync::{AtomicU64, Mutex, Ordering};
use crossbeam_utils::CachePadded;

const NONE: u64 = u64::MAX;

/// Who waits for what.
pub struct Tickets {
    issued: AtomicU64,
    /// The highest answer of `durable` so far: a lane that draws a number late may lower what the others say.
    reported: AtomicU64,
    oldest: Box<[CachePadded<AtomicU64>]>,
    bytes: AtomicU64,
    failed: Mutex<Option<(u64, Error)>>,
    /// First failed ticket, or `NONE`.
    failed_from: AtomicU64,
}

impl Tickets {
    /// Tickets for `lanes` lanes.
    pub fn new(lanes: usize) -> Self {
        Tickets {
            issued: AtomicU64::new(0),
            reported: AtomicU64::new(0),
            oldest: (0..lanes).map(|_| CachePadded::new(AtomicU64::new(NONE))).collect(),
            bytes: AtomicU64::new(0),
            failed: Mutex::new(None),
            failed_from: AtomicU64::new(NONE),
        }
    }

    /// Gives the next ticket, for `bytes` that wait in `lane`. Called with the lane's stage locked.
    pub fn issue(&self, lane: usize, bytes: u64) -> u64 {
        let oldest = &self.oldest[lane];
        if oldest.load(Ordering::SeqCst) == NONE {
            // A lower bound before the number is drawn: whoever sees the number also sees that it is pending.
            oldest.store(self.issued.load(Ordering::SeqCst) + 1, Ordering::SeqCst);
        }
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.issued.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// A ticket for what is durable already.
    pub fn issue_finished(&self) -> u64 {
        self.issued.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Writes of `bytes` in `lane` are finished; `next` is the first ticket that now waits there.
    pub fn finish(&self, lane: usize, bytes: u64, next: Option<u64>) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.oldest[lane].store(next.unwrap_or(NONE), Ordering::SeqCst);
    }

    /// The writes from `ticket` on failed.
    pub fn fail(&self, ticket: u64, error: &Error) {
        let mut failed = self.failed.lock();
        if failed.as_ref().is_none_or(|(from, _)| ticket < *from) {
            *failed = Some((ticket, error.clone()));
            self.failed_from.store(ticket, Ordering::SeqCst);
        }
    }

    /// Bytes in flight.
    pub fn bytes_in_flight(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// True if asynchronous writes wait in `lane`.
    #[inline]
    pub fn is_pending(&self, lane: usize) -> bool {
        self.oldest[lane].load(Ordering::SeqCst) != NONE
    }

    /// The last ticket given.
    pub fn last_issued(&self) -> u64 {
        self.issued.load(Ordering::SeqCst)
    }

    /// Every ticket up to this one is durable.
    pub fn durable(&self) -> u64 {
        let issued = self.issued.load(Ordering::SeqCst);
        let oldest = self.oldest.iter().map(|oldest| oldest.load(Ordering::SeqCst)).min().unwrap_or(NONE);
        let now = issued
            .min(oldest.saturating_sub(1))
            .min(self.failed_from.load(Ordering::SeqCst).saturating_sub(1));
        self.reported.fetch_max(now, Ordering::SeqCst).max(now)
    }

    /// The failure that `ticket` reports, if any: its own, or that of an earlier one.
    pub fn failure(&self, ticket: u64) -> Result<()> {
        if ticket < self.failed_from.load(Ordering::SeqCst) {
            return Ok(());
        }
        match &*self.failed.lock() {
            Some((from, error)) if ticket >= *from => Err(error.clone()),
            _ => Ok(()),
        }
    }
}

// tests/loom.rs takes this file in, and its types live in models only.
#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_lane_that_draws_its_number_late_does_not_take_back_what_was_durable() {
        let tickets = Tickets::new(2);
        // Lane 0 has read the last number and not yet stored its lower bound when lane 1 issues and finishes ticket 1.
        let lower_bound = tickets.issued.load(Ordering::SeqCst) + 1;
        assert_eq!(tickets.issue(1, 8), 1);
        tickets.finish(1, 8, None);
        assert_eq!(tickets.durable(), 1);
        tickets.oldest[0].store(lower_bound, Ordering::SeqCst);
        assert_eq!(tickets.durable(), 1);
    }
}
