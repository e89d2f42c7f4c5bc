//! From an emptied segment to a slot that may be reused: a durable digest that leaves it out, the grace period of readers,
//! pins, and its state word.

use super::super::Engine;
use super::{Aim, CleanerCounters, Work};
use crate::epoch;
use crate::error::{Error, Result};
use crate::index::Index;
use crate::space::Purpose;
use crate::sync::{Arc, AtomicBool, Ordering};
use crate::types::{SegmentId, SegmentSlot};

/// A segment that nothing counts in.
pub(super) struct Released {
    slot: SegmentSlot,
    id: SegmentId,
    /// Digests up to this number may list it.
    listed_by: u64,
    /// Nobody who found its entries in the index still reads them.
    unseen: Arc<AtomicBool>,
}

impl Released {
    /// True if no digest can list it any more.
    pub(super) fn is_listed_before(&self, ruling: u64) -> bool {
        self.listed_by < ruling
    }
}

/// What keeps emptied segments and dead extents from being free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum WaitsFor {
    /// Nothing does.
    Nothing,
    /// Pins, for as long as whoever has them likes.
    Pins,
    /// Readers that are about to end, or a drain.
    Readers,
}

impl<I: Index + 'static> Engine<I> {
    /// Frees what readers and digests let go of meanwhile, and what the rest still waits for.
    pub(super) fn settle_releases(&self) -> Result<WaitsFor> {
        self.check_writable()?;
        let mut work = self.cleaner.work.lock();
        self.release_what_waits(&mut work)?;
        let (ruling, table) = (self.oplog.ruling_digest(), self.space.table());
        let unlisted = || work.releasing.iter().filter(|released| released.is_listed_before(ruling));
        let unpinned = unlisted().filter(|released| table.slot(released.slot).pins() == 0).count();
        // Extents of dead values, too.
        if self.extents.usage().retired_bytes > 0 {
            self.help_grace_period();
            self.limbo.settle(&self.oplog, &self.extents, &self.space);
        }
        if unpinned > 0 || self.retired_bytes_to_come() > 0 {
            return Ok(WaitsFor::Readers);
        }
        let is_held = unlisted().next().is_some() || self.extents.usage().retired_bytes > 0;
        Ok(if is_held { WaitsFor::Pins } else { WaitsFor::Nothing })
    }

    /// Bytes of dead extents that come free by themselves, soon.
    pub(super) fn retired_bytes_to_come(&self) -> u64 {
        // In this order: what dies in between is still to come.
        let (_, held_bytes) = self.limbo.held_by_pins();
        self.extents.usage().retired_bytes.saturating_sub(held_bytes)
    }

    /// Later digests leave these segments out.
    pub(super) fn set_releasable(&self, work: &mut Work, emptied: Vec<(SegmentSlot, SegmentId)>) {
        if emptied.is_empty() {
            return;
        }
        let listed_by = self.space.set_releasable(emptied.iter().map(|(slot, _)| *slot));
        let unseen = Arc::new(AtomicBool::new(!self.options.background));
        if self.options.background {
            let flag = Arc::clone(&unseen);
            epoch::retire(&epoch::pin(), 0, move || flag.store(true, Ordering::Release));
            self.help_grace_period();
        }
        let released = |(slot, id)| Released { slot, id, listed_by, unseen: Arc::clone(&unseen) };
        work.releasing.extend(emptied.into_iter().map(released));
    }

    /// Frees what can be freed. If a write waits, or the next that needs a head will, it does not have to wait for the end of
    /// the pass: a digest is written at once if that lets go of more segments than it takes slots.
    pub(super) fn release_what_waits(&self, work: &mut Work) -> Result<()> {
        self.release_settled(work)?;
        let ruling = self.oplog.ruling_digest();
        let listed = work.releasing.iter().filter(|released| !released.is_listed_before(ruling)).count();
        if listed > 1 && self.is_pressed() {
            self.roll_for_release(work)?;
            self.release_settled(work)?;
        }
        Ok(())
    }

    /// A write waits for room, or no slot is left for the next one that needs a head, and that will be soon.
    fn is_pressed(&self) -> bool {
        let is_soon = || 8 * self.oplog.cost_of_roll() <= self.space.geometry().segment_size_bytes;
        let is_empty = || self.space.available(Purpose::Put) + self.space.growable_slots() == 0;
        self.options.background && (self.cleaner_thread.is_awaited() || (is_empty() && is_soon()))
    }

    /// Extent segments in which nothing is in use go the way of victims: the entries that made their extents dead are
    /// durable, else those would not be free. How many there are.
    pub(super) fn let_go_of_empty_extents(&self, work: &mut Work, aim: Aim) -> usize {
        self.limbo.settle(&self.oplog, &self.extents, &self.space);
        // The roll that lets go of them takes a segment, less what the old head holds.
        let for_one = self.space.geometry().segment_size_bytes;
        let has_cost = matches!(aim, Aim::Dead | Aim::Space);
        let is_dear = has_cost && self.oplog.cost_of_roll() + self.worthwhile_bytes() > for_one;
        let empty = self.extents.take_empty(if is_dear { 2 } else { 1 });
        let table = self.space.table();
        let named: Vec<_> = empty.into_iter().map(|slot| (slot, table.slot(slot).id())).collect();
        let count = named.len();
        self.set_releasable(work, named);
        count
    }

    /// Writes a digest that leaves out what is releasable, unless one was written since.
    pub(super) fn roll_for_release(&self, work: &mut Work) -> Result<()> {
        let newest = work.releasing.iter().map(|released| released.listed_by).max().unwrap_or(0);
        let cost = self.oplog.cost_of_roll();
        match self.oplog.roll_for_digest(newest) {
            Ok(true) => work.rolled_bytes += cost,
            // The next roll of a writer does it.
            Ok(false) | Err(Error::NoSpace { .. } | Error::Unsupported(_)) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Frees what no digest lists, no reader sees and no pin holds.
    pub(super) fn release_settled(&self, work: &mut Work) -> Result<()> {
        if work.releasing.is_empty() {
            return Ok(());
        }
        self.help_grace_period();
        let ruling = self.oplog.ruling_digest();
        let table = self.space.table();
        let is_settled = |released: &Released| {
            released.is_listed_before(ruling)
                && released.unseen.load(Ordering::Acquire)
                && table.slot(released.slot).pins() == 0
        };
        let (settled, waiting) = std::mem::take(&mut work.releasing).into_iter().partition(is_settled);
        work.releasing = waiting;
        let settled: Vec<_> = Vec::into_iter(settled).map(|one: Released| (one.slot, one.id)).collect();
        if settled.is_empty() {
            return Ok(());
        }
        settled
            .iter()
            .for_each(|(slot, _)| self.limbo.segment_is_gone(self.space.geometry().range_of(*slot)));
        self.space.release(&settled).map_err(|error| self.poisoned_cleaning(error))?;
        settled.iter().for_each(|(_, id)| self.values_are_gone(&mut work.tombstones, *id));
        self.cleaner.note_kept(&work.tombstones);
        CleanerCounters::add(&self.cleaner.counters.segments_freed, settled.len() as u64);
        self.cleaner_thread.tell_waiters();
        Ok(())
    }
}

#[cfg(all(test, feature = "sim"))]
#[path = "../tests/release.rs"]
mod tests;
