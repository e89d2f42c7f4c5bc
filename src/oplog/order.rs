//! The order of stamps across logs.
//!
//! Each log counts for itself, so of two writes to different logs the later one may have the lower stamp. Nobody can tell,
//! unless something that counts for many keys lies between the two stamps: a batch, or the point of a snapshot, which would
//! be before the earlier write and after the later one. Such a stamp is taken as a *divider*:
//!   1. it is announced that one is being taken
//!   2. the newest stamp of each log is read, and one above all of them taken
//!   3. that becomes the floor, which every stamp given from then on exceeds
//!   4. the announcement is withdrawn
//!
//! A writer stamps, and before anybody sees what it wrote it passes a fence and looks whether a divider is announced
//! (`settle`); if so it makes its own stamp the floor.
//!
//! Invariant: if one write was visible before another one began, no divider lies above the later one and below the earlier
//! one. For if the earlier one looked before step 1, step 2 sees its stamp, and the divider is above the earlier one; if it
//! looked between 1 and 4, the later one is above the earlier one; and if it looked after 4, the later one is above the divider.

use crate::sync::{AtomicU64, Ordering, fence};
use crate::types::Seq;

/// Floor of the stamps, and dividers.
#[derive(Default)]
pub struct Order {
    /// Every later stamp exceeds it. Read by every append, raised by batches, snapshots and those that meet them.
    floor: AtomicU64,
    /// How many dividers are being taken. Beside the floor: who looks has just read that.
    announced: AtomicU64,
}

impl Order {
    /// What every later stamp exceeds.
    #[inline]
    pub fn floor(&self) -> Seq {
        Seq(self.floor.load(Ordering::Acquire))
    }

    /// Makes every later stamp exceed `seq`. A forged pool may hold what no log gave: then no stamp is left to give.
    pub fn raise_floor(&self, seq: Seq) {
        self.floor.fetch_max(seq.min(Seq::LAST).0, Ordering::SeqCst);
    }

    /// Takes a divider: what `take` gives, which reads the newest stamp of each log.
    pub fn divide(&self, take: impl FnOnce() -> Seq) -> Seq {
        self.announced.fetch_add(1, Ordering::SeqCst);
        let divider = take();
        self.raise_floor(divider);
        self.announced.fetch_sub(1, Ordering::SeqCst);
        divider
    }

    /// A write with this stamp is about to be seen. A sequentially consistent fence, also for what else is looked at
    /// behind the stamp (`engine/versions.rs`).
    #[inline]
    pub fn settle(&self, seq: Seq) {
        fence(Ordering::SeqCst);
        if self.announced.load(Ordering::Acquire) != 0 {
            self.raise_floor(seq);
        }
    }
}
