//! How large the pool is. It grows for what is live and for room to clean in, and is cleaned otherwise; what it does not
//! need any more goes back to the file system. Invariants:
//!   - a write makes the pool larger than it should be only when cleaning gained nothing, or not in time; until it gains
//!     again or the pool gives back
//!   - a slot is given back only while no segment is in it, and used again only once it is allocated, zeroed and synced
//!   - `growth` is held around every change of what is allocated, and no other lock across a call of the medium
//!   - between the size at which the pool grows and the one at which it gives back lies a quarter of it, and time
//!
//! To give a slot back needs no drain of the state word that says that it is free: a digest that rules does not list its
//! segment, so recovery takes it for free, whether it finds the segment as it was, parts of it, or nothing.

use super::slots::{Slots, runs};
use super::table::SlotState;
use super::{Purpose, Space, listed_slots_max};
use crate::error::{Error, Result};
use crate::format::SegmentClass;
use crate::sync::{AtomicBool, AtomicU32, AtomicU64, Mutex, Ordering};
use crate::types::{MediaRange, SegmentSlot};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Slots for new data below which the cleaner starts: this share of the pool, but at least `LOW_MARK_MIN`, and one for each
/// log beyond the first. With half as many more it stops.
const LOW_MARK_SHARE: u32 = 256;
const LOW_MARK_MIN: u32 = 2;
/// What the pool may have beyond what it needs before it gives back: this share of it.
const SLACK_SHARE: u32 = 4;
/// Less than this share of the pool is not worth giving back.
const WORTH_GIVING_SHARE: u32 = 32;
/// By this share of it the pool may grow when it was cleaned in vain.
const WAIVED_SHARE: u32 = 16;
/// Extents may leave this share of their segments unused before the pool is cleaned rather than grown.
const UNUSED_EXTENT_SHARE: u64 = 4;
/// What is prefaulted in one piece: as long as a large page, to whose multiples slots that can hold one are aligned.
const PREFAULT_BYTES: u64 = 2 << 20;
/// On a full device so many hollow slots are tried one by one: one that was never written may be allocated.
const HOLLOW_TRIES_MAX: usize = 32;

/// What limits a pool that is to be cleaned before it grows.
const HELD_BACK: &str = "the option target_utilization, until there is nothing left to clean";

/// How full the pool should be, and what it gave back.
pub(super) struct Target {
    /// Live bytes of those that are usable.
    utilization: f64,
    /// Nobody cleans: the pool grows as it likes.
    suspended: AtomicBool,
    /// Cleaning gained nothing: so many slots are allowed however few of their bytes are live.
    waived: AtomicU32,
    /// Bytes of extent segments in which no extent is, beyond what is tolerated.
    unused_extent_bytes: AtomicU64,
    /// Since when the pool has been too large, and by how many slots at least.
    excess: Mutex<Option<(Instant, u32)>>,
    /// The medium cannot give back.
    is_rigid: AtomicBool,
    given_back: AtomicU64,
    failures: AtomicU64,
}

impl Target {
    pub(super) fn new(utilization: f64) -> Target {
        Target {
            utilization,
            suspended: AtomicBool::new(false),
            waived: AtomicU32::new(0),
            unused_extent_bytes: AtomicU64::new(0),
            excess: Mutex::new(None),
            is_rigid: AtomicBool::new(false),
            given_back: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        }
    }
}

/// What the pool has given back since it was opened.
#[derive(Clone, Copy, Debug)]
pub struct GivenBack {
    /// Slots in the file that have no bytes on the device.
    pub hollow_slots: u32,
    /// Slots given back, those at the end of the file included.
    pub slots: u64,
    /// Times the system refused.
    pub failures: u64,
}

impl Space {
    /// Slots that have bytes on the device.
    pub fn allocated_slots(&self) -> u32 {
        self.slot_count().saturating_sub(self.free.lock().hollow.len() as u32)
    }

    /// Slots for new data below which there are too few.
    pub fn low_mark(&self) -> u32 {
        (self.allocated_slots() / LOW_MARK_SHARE).max(LOW_MARK_MIN)
            + self.reserve.backed_heads().saturating_sub(1)
    }

    /// Slots that the pool needs: the reserve, room for what is live at the utilization that is aimed at, and room to clean.
    fn wanted_slots(&self) -> u32 {
        let in_use = self.allocated_slots().saturating_sub(self.free_slots());
        let dead = (self.dead_bytes() / self.geometry.segment_size_bytes) as u32;
        let data = (f64::from(in_use.saturating_sub(dead)) / self.target.utilization).ceil();
        (data as u32).saturating_add(self.reserved_slots() + 2 * self.low_mark()).min(self.slots_max)
    }

    /// Bytes that cleaning would gain, about: of sealed segments the share of what is dead, and what extents leave unused. Nothing
    /// of pinned ones, which stay: else the pool is cleaned in vain before it grows for what snapshots keep.
    fn dead_bytes(&self) -> u64 {
        let segment_size = self.geometry.segment_size_bytes;
        let dead_of = |slot| {
            let info = self.table.slot(slot);
            match (info.state(), info.class()) {
                _ if info.pins() > 0 => 0,
                (SlotState::Releasable, _) => segment_size,
                (SlotState::Sealed, Some(SegmentClass::LogHead | SegmentClass::Survivor)) => {
                    let share = |all: u64| (info.dead_bytes() * segment_size).checked_div(all);
                    share(info.op_bytes()).unwrap_or(segment_size).min(segment_size)
                }
                _ => 0,
            }
        };
        let dead: u64 = (0..self.slot_count()).map(SegmentSlot).map(dead_of).sum();
        dead + self.target.unused_extent_bytes.load(Ordering::Relaxed)
    }

    /// Notes how many bytes extent segments have, and how many of them extents.
    pub fn note_extent_bytes(&self, all: u64, used: u64) {
        let unused = (all - all / UNUSED_EXTENT_SHARE).saturating_sub(used);
        self.target.unused_extent_bytes.store(unused, Ordering::Relaxed);
    }

    /// Slots that the pool may have now.
    fn allowed_slots(&self) -> u32 {
        if self.target.suspended.load(Ordering::Relaxed) {
            return self.slots_max;
        }
        self.wanted_slots().max(self.target.waived.load(Ordering::Relaxed)).min(self.slots_max)
    }

    /// Slots by which the pool may grow before it is cleaned; none that the device has just refused.
    pub fn growable_slots(&self) -> u32 {
        if self.refusal.stands() {
            return 0;
        }
        self.allowed_slots().saturating_sub(self.allocated_slots())
    }

    /// A write is about to be refused: before that the device is asked again.
    pub fn forget_refusal(&self) {
        self.refusal.forget();
    }

    /// Grows until new data can have `count` slots, whatever is live, as far as quota and device go. How many it can have.
    ///
    /// # Errors
    /// `Io` from growth.
    pub fn make_available(&self, count: u32) -> Result<u32> {
        for _ in 0..count {
            let missing = (self.reserved_slots() + count).saturating_sub(self.free_slots());
            if missing == 0 {
                break;
            }
            match self.grow_from(self.allocated_slots(), missing) {
                Ok(()) => {}
                Err(Error::NoSpace { .. }) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(self.available(Purpose::Put))
    }

    /// Cleaning gained nothing: the pool may grow for a write of `bytes` and some more, although much of it is dead.
    pub fn allow_growth(&self, bytes: u64) {
        let allocated = self.allocated_slots();
        let needed = bytes.div_ceil(self.geometry.segment_size_bytes).min(u64::from(u32::MAX)) as u32;
        // A share of the pool, so that it is not cleaned in vain for each slot.
        let step = needed.saturating_add(self.reserve.backed_heads() + allocated / WAIVED_SHARE);
        self.target.waived.fetch_max(allocated.saturating_add(step), Ordering::Relaxed);
    }

    /// Cleaning gained something, or the pool became smaller: it is held to what is live again.
    pub fn end_waiver(&self) {
        self.target.waived.store(0, Ordering::Relaxed);
    }

    /// True if this limit of a refusal is neither the quota nor the device, but that the pool is to be cleaned first.
    pub fn is_held_back(limit: &str) -> bool {
        limit.starts_with(HELD_BACK)
    }

    /// While nobody cleans the pool grows as it likes.
    pub fn suspend_target(&self, suspended: bool) {
        self.target.suspended.store(suspended, Ordering::Relaxed);
    }

    /// Keeps `ahead` slots beyond the reserve allocated, so that writers need not wait for growth, as far as the pool may
    /// grow. Called by the housekeeper; failure to grow ahead is none, the writer that needs the slot will report it.
    pub fn prepare(&self, ahead: u32) {
        let (have, want) = (self.free_slots(), self.reserved_slots() + ahead);
        if have < want {
            let before = self.allocated_slots();
            let step = growth_step(before, want - have, self.grow_step_max()).min(self.growable_slots());
            if step > 0 {
                let _ = self.grow_from(before, step);
            }
        }
        let next: Vec<u32> = self.free.lock().ready.iter().take(ahead as usize).copied().collect();
        next.into_iter().for_each(|slot| self.prefault(slot));
    }

    /// Makes the pages of a free slot present: piece by piece, so that whoever has to grow the pool meanwhile waits for one.
    fn prefault(&self, slot: u32) {
        let info = self.table.slot(SegmentSlot(slot));
        if !info.mark_prefaulted() {
            return;
        }
        let range = self.geometry.range_of(SegmentSlot(slot));
        for offset in (range.offset..range.end()).step_by(PREFAULT_BYTES as usize) {
            // Not while it is being given back: touching it would be a signal.
            let _alone = self.growth.lock();
            if !self.free.lock().ready.contains(&slot) {
                return info.forget_prefault();
            }
            self.media.prefault(MediaRange::new(offset, PREFAULT_BYTES.min(range.end() - offset)));
        }
    }

    fn grow_step_max(&self) -> u32 {
        ((64 << 20) / self.geometry.segment_size_bytes).max(1) as u32
    }

    /// Makes one more slot ready, if `purpose` is worth it.
    ///
    /// # Errors
    /// `NoSpace`: quota, device, or a pool that should be cleaned instead. `Io`. Nothing was changed.
    pub(super) fn grow_for(&self, purpose: Purpose) -> Result<()> {
        let before = self.allocated_slots();
        let is_write = matches!(purpose, Purpose::Put | Purpose::Delete);
        // A log may be locked, and the device takes its time to say no. While nobody cleans it is asked nevertheless.
        if is_write
            && !self.target.suspended.load(Ordering::Relaxed)
            && let Some(limit) = self.refusal.limit()
        {
            return Err(self.no_space(&limit));
        }
        if is_write && before < self.slots_max && before >= self.allowed_slots() {
            return Err(self.no_space(HELD_BACK));
        }
        self.grow_from(before, 1)
    }

    /// Makes `step` more slots ready, or what the quota leaves, unless somebody else did since `before` were allocated.
    fn grow_from(&self, before: u32, step: u32) -> Result<()> {
        let _growing = self.growth.lock();
        let allocated = self.allocated_slots();
        if allocated > before {
            return Ok(());
        }
        let within_quota = |taken: u32| match step.min(self.slots_max.saturating_sub(taken)) {
            0 => Err(self.no_space(self.growth_limit())),
            step => Ok(step),
        };
        let step_of_hollow = within_quota(allocated)?;
        // What the reserve lacks as well: one sync for all of it.
        let missing = self.reserved_slots().saturating_sub(self.free_slots());
        if self.fill_hollow(step_of_hollow.max(missing) as usize)? {
            self.refusal.forget();
            return Ok(());
        }
        let slots = self.slot_count();
        // Behind hollow slots that cannot be filled the quota may leave less.
        let step = within_quota(slots)?;
        let mut grown = self.media.grow(self.geometry.pool_len(slots + step));
        if matches!(grown, Err(Error::NoSpace { .. })) && step > 1 {
            grown = self.media.grow(self.geometry.pool_len(slots + 1));
        }
        if let Err(Error::NoSpace { limit, .. }) = &grown {
            self.refusal.note(limit);
        }
        grown.map_err(|error| self.growth_failed(error))?;
        self.refusal.forget();
        let now = self.geometry.usable_slots_in(self.media.len_bytes());
        // Else the put that rolls the next head would do it, whose digest looks at all slots.
        self.table.make_memory(slots..now);
        // Before they are ready: a slot is known before anybody can take it, so no digest misses what is in it.
        self.slots.store(now, Ordering::Release);
        self.free.lock().ready.extend(slots..now);
        Ok(())
    }

    /// Allocates hollow slots again, at most `count`. False if there was none that could be; the device may have bytes for
    /// others.
    fn fill_hollow(&self, count: usize) -> Result<bool> {
        let mut tries = {
            let hollow = &self.free.lock().hollow;
            let first = |count: usize| hollow.iter().take(count).copied();
            let mut tries = vec![first(count).collect::<BTreeSet<u32>>()];
            tries.extend(first(HOLLOW_TRIES_MAX).map(|slot| BTreeSet::from([slot])));
            tries
        };
        tries.dedup();
        for slots in tries.into_iter().filter(|slots| !slots.is_empty()) {
            match self.media.allocate(&self.ranges(&slots)) {
                Ok(()) => {
                    let mut free = self.free.lock();
                    let Slots { ready, hollow } = &mut *free;
                    slots
                        .iter()
                        .for_each(|slot| assert!(hollow.remove(slot), "only growth takes hollow slots"));
                    ready.extend(slots);
                    return Ok(true);
                }
                Err(Error::NoSpace { .. }) => {}
                Err(error) => return Err(self.growth_failed(error)),
            }
        }
        Ok(false)
    }

    fn ranges(&self, slots: &BTreeSet<u32>) -> Vec<MediaRange> {
        let range = |(first, count): (u32, u32)| {
            let len = u64::from(count) * self.geometry.segment_size_bytes;
            MediaRange::new(self.geometry.offset_of(SegmentSlot(first)), len)
        };
        runs(slots).into_iter().map(range).collect()
    }

    /// The change is undone or does not count, but its sync covered everybody's pages: the store must say so now.
    fn growth_failed(&self, error: Error) -> Error {
        if let (Some(failure), Some(tell)) = (self.media.failed_sync(), self.on_failed_sync.get()) {
            tell(&failure);
        }
        match error {
            Error::NoSpace { limit, .. } => self.no_space(&limit),
            other => other,
        }
    }

    fn growth_limit(&self) -> &'static str {
        if self.slots_max == listed_slots_max(&self.geometry) {
            return "the number of segments that a log head can list (larger segments allow more)";
        }
        "the quota max_bytes"
    }

    fn no_space(&self, by: &str) -> Error {
        let free = self.free_slots();
        let limit = match self.quota {
            Some(bytes) if by.starts_with("the quota") => format!("{by} = {bytes}"),
            _ => by.to_string(),
        };
        Error::NoSpace {
            needed_bytes: self.geometry.segment_size_bytes,
            free_bytes: u64::from(free) * self.geometry.segment_size_bytes,
            limit: format!("{limit}; {free} free segments are kept for deletes and recovery"),
        }
    }

    /// Recovery: free slots with holes in them are hollow. What was never written may look so, too, and is allocated in no
    /// time; so is all of it if the system does not say where holes are.
    pub fn find_hollow_slots(&self) {
        let all = MediaRange::new(0, self.media.len_bytes());
        let holes = self.media.holes().unwrap_or_else(|_| vec![all]);
        let mut free = self.free.lock();
        let Slots { ready, hollow } = &mut *free;
        for hole in holes.iter().filter(|hole| hole.end() > self.geometry.head_size_bytes) {
            let first = self.geometry.slot_of(hole.offset.max(self.geometry.head_size_bytes)).0;
            let last = self.geometry.slot_of(hole.end() - 1).0;
            let with_holes: Vec<u32> = ready.range(first..=last).copied().collect();
            for slot in with_holes {
                ready.remove(&slot);
                hollow.insert(slot);
            }
        }
    }

    /// Gives slots back to the file system that the pool has had too many of for as long as `patience`. True if there were
    /// any. If the device refused some longer ago, and they are still needed, it is asked again: better here than by a writer.
    pub fn give_back(&self, patience: Duration) -> bool {
        if self.refusal.forget_older(patience) {
            self.prepare(self.low_mark());
        }
        let excess = self.excess_slots();
        // Of a file that somebody made long, or whose last segments went after those before them.
        let has_hollow_end = self.has_hollow_end();
        let due = {
            let mut since = self.target.excess.lock();
            let (began, least) =
                since.map_or((Instant::now(), excess), |(began, least)| (began, least.min(excess)));
            *since = (excess > 0 || has_hollow_end).then_some((began, least));
            if (excess == 0 && !has_hollow_end) || began.elapsed() < patience {
                return false;
            }
            *since = None;
            least
        };
        self.give_back_slots(due)
    }

    /// Gives all free slots back, whatever the pool needs. True if there were any.
    #[cfg(feature = "sim")]
    pub fn give_back_all(&self) -> bool {
        let count = self.free_slots();
        count > 0 && self.give_back_slots(count)
    }

    fn has_hollow_end(&self) -> bool {
        let last = self.slot_count().saturating_sub(1);
        self.free.lock().hollow.contains(&last) && !self.target.is_rigid.load(Ordering::Relaxed)
    }

    fn excess_slots(&self) -> u32 {
        let kept = self.reserved_slots() + 2 * self.low_mark();
        let free = self.free_slots();
        if free <= kept || self.target.is_rigid.load(Ordering::Relaxed) {
            return 0;
        }
        let (allocated, wanted) = (self.allocated_slots(), self.wanted_slots());
        let excess = allocated.saturating_sub(wanted + wanted / SLACK_SHARE).min(free - kept);
        if excess > allocated / WORTH_GIVING_SHARE { excess } else { 0 }
    }

    fn give_back_slots(&self, count: u32) -> bool {
        let _growing = self.growth.lock();
        let taken = self.free.lock().take_last_ready(count as usize);
        taken.iter().for_each(|slot| self.table.slot(SegmentSlot(*slot)).forget_prefault());
        let end = self.free.lock().start_of_tail(self.slot_count(), &taken);
        let mut inner = taken;
        if end < self.slot_count() {
            let cut = self.media.shrink(self.geometry.pool_len(end));
            // Also if only its sync failed.
            if self.media.len_bytes() <= self.geometry.pool_len(end) {
                self.slots.store(end, Ordering::Release);
                self.free.lock().hollow.split_off(&end);
                self.has_given(cut, inner.split_off(&end).len());
            } else {
                self.has_given(cut, 0);
            }
        }
        let given = inner.is_empty() || self.has_given(self.media.punch(&self.ranges(&inner)), inner.len());
        let mut free = self.free.lock();
        // What failed half way may have holes.
        let is_hollow = given || !self.target.is_rigid.load(Ordering::Relaxed);
        if is_hollow {
            free.hollow.extend(inner)
        } else {
            free.ready.extend(inner)
        }
        given
    }

    fn has_given(&self, result: Result<()>, slots: usize) -> bool {
        match result {
            Ok(()) => {
                self.target.given_back.fetch_add(slots as u64, Ordering::Relaxed);
                self.end_waiver();
                self.refusal.forget();
                return true;
            }
            Err(Error::Unsupported(_)) => self.target.is_rigid.store(true, Ordering::Relaxed),
            Err(error) => drop(self.growth_failed(error)),
        }
        self.target.failures.fetch_add(1, Ordering::Relaxed);
        false
    }

    /// What was given back.
    pub fn given_back(&self) -> GivenBack {
        GivenBack {
            hollow_slots: self.free.lock().hollow.len() as u32,
            slots: self.target.given_back.load(Ordering::Relaxed),
            failures: self.target.failures.load(Ordering::Relaxed),
        }
    }
}

/// Slots to grow by ahead of need: an eighth of the pool, at most `most`, but always what is `missing`.
fn growth_step(slots: u32, missing: u32, most: u32) -> u32 {
    (slots / 8).min(most).max(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_ahead_of_several_heads_may_exceed_the_usual_step() {
        // `clamp` panicked here and ended the background thread: no asynchronous write became durable by itself any more.
        assert_eq!(growth_step(3, 6, 4), 6);
        assert_eq!(growth_step(80, 2, 4), 4);
        assert_eq!(growth_step(16, 1, 4), 2);
    }
}
