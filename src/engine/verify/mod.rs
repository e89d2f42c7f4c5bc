//! Verification: everything is read, every checksum is checked, and what the store believes is compared with it. It runs while
//! the store is used; cleaning is held up for one segment at a time.
//!
//! 1. all segments, one by one: header, state word, digest, footer, filter, frames, entries, and the pieces of values that the
//!    index leads to; and the segment's account, which only grows by what dies meanwhile
//! 2. with cleaning held up: what came or grew since. So an entry that was there at the start and still is was read, wherever
//!    the cleaner moved it
//! 3. if nothing was written and nothing cleaned since the start: totals. Per segment as many entries are live as the index
//!    has there, so each entry of the index leads to an operation; and extents in use are those of live values, each used
//!    once, and those that wait to be free. Each slot is in use or free, and not both; and the reserve is what the heads need
//!
//! Not looked at: bytes that nothing counts on, such as free slots and what lies behind the end of a head; and the accounts
//! of a segment that is damaged, or of a poisoned store.

mod blobs;
mod report;
mod segment;

pub use report::{Finding, Verification};

use super::Engine;
use crate::error::{Error, Result};
use crate::index::Index;
use crate::space::table::SlotState;
use crate::sync::Ordering;
use crate::types::{MediaRange, SegmentSlot};
use segment::Tally;
use std::collections::BTreeMap;

/// What changes whenever an entry or an extent does.
#[derive(Debug, PartialEq, Eq)]
struct Moment {
    entries: u64,
    dead_bytes: u64,
    extent_bytes: u64,
    moved: u64,
    freed: u64,
    on_their_way: u64,
    slots_taken: u64,
}

impl<I: Index + 'static> Engine<I> {
    /// Reads everything and compares it with what the store believes.
    ///
    /// # Errors
    /// `Closed`, `Forked`; of the medium, but `Io`: what cannot be read is a finding.
    pub fn verify(&self) -> Result<Verification> {
        self.check_open()?;
        let mut report = Verification::default();
        self.check_superblocks(&mut report)?;
        self.reclaim_dropped(|| false);
        let _reclaiming_waits = self.hold_reclaiming();
        self.wait_for_publications();
        let before = self.moment();
        let mut tallies = BTreeMap::new();
        for slot in (0..self.space.slot_count()).map(SegmentSlot) {
            self.check_open()?;
            let _cleaning_waits = self.cleaner.hold();
            if let Some(tally) = self.verify_segment(slot, &mut report)? {
                tallies.insert(slot, tally);
            }
        }
        let _cleaning_waits = self.cleaner.hold();
        for slot in (0..self.space.slot_count()).map(SegmentSlot) {
            self.check_open()?;
            if let Some(tally) = tallies.get(&slot)
                && !self.is_as_seen(slot, tally)
            {
                report.forget(tally.id);
                tallies.remove(&slot);
            }
            if !tallies.contains_key(&slot)
                && let Some(tally) = self.verify_segment(slot, &mut report)?
            {
                tallies.insert(slot, tally);
            }
        }
        self.sum_up(&tallies, &mut report);
        self.wait_for_publications();
        report.is_quiet = before.on_their_way == 0 && self.oplog.check_poison().is_ok();
        if report.is_quiet {
            let mut of_totals = report.clone();
            self.check_totals(&tallies, &mut of_totals);
            self.wait_for_publications();
            // Unless something happened meanwhile: then they prove nothing.
            report.is_quiet = self.moment() == before;
            if report.is_quiet {
                report = of_totals;
            }
        }
        Ok(report)
    }

    fn moment(&self) -> Moment {
        let table = self.space.table();
        let slots = || (0..self.space.slot_count()).map(|slot| table.slot(SegmentSlot(slot)));
        let count = |counter: &crate::sync::AtomicU64| counter.load(Ordering::Relaxed);
        let cleaner = &self.cleaner.counters;
        Moment {
            entries: slots().map(|info| u64::from(info.entries())).sum(),
            dead_bytes: slots().map(|info| info.dead_bytes()).sum(),
            extent_bytes: self.extents.usage().live_bytes(),
            moved: count(&cleaner.entries_moved),
            freed: count(&cleaner.segments_freed),
            on_their_way: count(&self.extents.staged) + self.committer.tickets.bytes_in_flight(),
            slots_taken: self.space.slots_taken(),
        }
    }

    /// The copy that a reader of an unclean pool did not take may be half written.
    fn check_superblocks(&self, report: &mut Verification) -> Result<()> {
        if self.options.read_only {
            return Ok(());
        }
        let superblock = self.superblock.lock();
        match superblock.verify_copies(&*self.media) {
            Err(Error::Corrupted { what, offset, expected, found }) => {
                report.add(Finding { what, segment: 0, offset, expected, found });
                Ok(())
            }
            Err(Error::Io { .. }) => {
                let what = "superblock that can be read";
                report.add(Finding { what, segment: 0, offset: 0, expected: 0, found: 0 });
                Ok(())
            }
            result => result,
        }
    }

    fn sum_up(&self, tallies: &BTreeMap<SegmentSlot, Tally>, report: &mut Verification) {
        report.segments = tallies.len() as u64;
        report.free_segments = self.slots_in(SlotState::Free);
        for tally in tallies.values() {
            report.frames += tally.frames;
            report.entries += tally.entries;
            report.live_entries += tally.live_entries;
            report.log_bytes += tally.log_bytes;
            report.dead_bytes += tally.log_bytes - tally.live_bytes;
            report.tombstone_bytes += tally.tombstone_bytes;
            report.extent_bytes += self.extents.bytes_taken(&tally.extents);
            report.chunks += tally.chunks;
        }
    }

    /// What can only be compared while nothing changes.
    fn check_totals(&self, tallies: &BTreeMap<SegmentSlot, Tally>, report: &mut Verification) {
        let is_whole = tallies.values().all(|tally| !tally.is_damaged) && self.damage.is_empty();
        if !is_whole {
            return;
        }
        let mut in_index: BTreeMap<SegmentSlot, u64> = BTreeMap::new();
        {
            let _guard = crate::epoch::pin();
            let geometry = self.space.geometry();
            self.for_each_index(|_, index| {
                index.for_each(|addr| *in_index.entry(geometry.slot_of_addr(addr)).or_default() += 1);
            });
        }
        for (slot, tally) in tallies {
            let info = self.space.table().slot(*slot);
            let leads = in_index.remove(slot).unwrap_or(0);
            report.compare("entries of the index in a segment", tally.id, tally.live_entries, leads);
            let dead = tally.log_bytes - tally.live_bytes;
            report.compare("dead bytes of a segment", tally.id, dead, info.dead_bytes());
            let tombstones = tally.tombstone_bytes;
            report.compare("tombstone bytes of a segment", tally.id, tombstones, info.tombstone_bytes());
        }
        report.compare("entries of the index outside of segments in use", 0, 0, in_index.values().sum());
        report.compare("keys", 0, report.live_entries, self.indexed_entries());
        let usage = self.extents.usage();
        report.compare("extent bytes", 0, report.extent_bytes + usage.retired_bytes, usage.extent_bytes);
        check_apart(tallies, report);
        if !self.options.read_only {
            self.check_slots(report);
        }
    }

    fn slots_in(&self, state: SlotState) -> u64 {
        let table = self.space.table();
        let is_in = |slot: &u32| table.slot(SegmentSlot(*slot)).state() == state;
        (0..self.space.slot_count()).filter(is_in).count() as u64
    }

    /// Nobody holds a slot: those who take one are writers, who were waited for, and the cleaner, which is held up.
    fn check_slots(&self, report: &mut Verification) {
        for misplaced in self.space.misplaced_slots() {
            let offset = self.space.geometry().offset_of(misplaced.slot);
            let found = u64::from(misplaced.is_in_use);
            let what = "slot that is either free or in use";
            report.add(Finding { what, segment: 0, offset, expected: 1 - found, found });
        }
        let is_backed = |log: &usize| self.oplog.lock(*log).has_backed_head();
        let heads = (0..self.oplog.log_count()).filter(is_backed).count() as u64;
        let (backed, releasable) = self.space.reserved_for();
        report.compare("heads that slots are reserved for", 0, heads, u64::from(backed));
        let on_their_way = self.slots_in(SlotState::Releasable);
        report.compare("segments on their way to be free", 0, on_their_way, u64::from(releasable));
    }
}

/// No byte belongs to two values.
fn check_apart(tallies: &BTreeMap<SegmentSlot, Tally>, report: &mut Verification) {
    let mut all: Vec<MediaRange> = tallies.values().flat_map(|tally| &tally.extents).copied().collect();
    all.sort_unstable_by_key(|range| range.offset);
    for pair in all.windows(2).filter(|pair| pair[0].end() > pair[1].offset) {
        let (expected, found) = (pair[0].end(), pair[1].offset);
        report.add(Finding { what: "extents of two values", segment: 0, offset: found, expected, found });
    }
}

#[cfg(all(test, feature = "sim"))]
#[path = "../tests/verify.rs"]
mod tests;
