//! What the cleaner does while nobody writes: it lets go of segments that hold next to nothing, though nobody needs the
//! space, until nothing is left to let go of.
//!
//! What keeps a store from becoming empty is a ring: a tombstone is kept by an older value, and that value's segment by
//! the tombstones in it. So segments whose tombstones go with the values of the same pass count as holding nothing, and
//! segments that are still appended to but keep tombstones elsewhere are ended. Everything here makes dead bytes fewer and
//! makes none, so it comes to an end.

use super::super::Engine;
use super::victims::{VICTIMS_MIN, moved_bytes};
use super::{Aim, WaitsFor, Work};
use crate::error::Result;
use crate::index::Index;
use crate::oplog::append::Head;
use crate::space::Purpose;
use crate::space::table::SlotInfo;
use crate::sync::Ordering;
use crate::types::{SegmentId, SegmentSlot};
use std::collections::HashMap;

/// Up to this share of a segment is moved though nobody needs the space. Not nothing: a tombstone that lies beside the
/// value that keeps it would stay for ever, and its segment with it.
const NEXT_TO_NOTHING_SHARE: u64 = 8;

/// See [`Engine::tidy_moment`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    appended: u64,
    points_closed: u64,
    pinned: u64,
}

impl<I: Index + 'static> Engine<I> {
    /// When nothing has changed that could give something to tidy up: nothing was appended, and no pin has gone.
    pub(super) fn tidy_moment(&self) -> Moment {
        let pinned = self.pinned.load(Ordering::Relaxed);
        Moment { appended: self.oplog.appended_bytes(), points_closed: self.versions.closed(), pinned }
    }

    /// Lets go of segments in which nothing counts, until `is_over`. If nothing is left to do: when the last look began. What
    /// somebody wrote or let go of since, nobody has looked at.
    pub fn tidy_up(&self, is_over: impl Fn() -> bool) -> Option<Moment> {
        let freed = || self.cleaner.counters.segments_freed.load(Ordering::Relaxed);
        while !is_over() {
            let (freed_before, moment) = (freed(), self.tidy_moment());
            // Errors poison the store: writers are told by their own calls.
            let Ok(pass) = self.clean(Aim::Dead) else { return Some(moment) };
            let Ok(waits) = self.settle_releases() else { return Some(moment) };
            // With a segment that was freed the last values may have gone that kept tombstones.
            if pass.emptied > 0 || freed() > freed_before || self.cleaner.are_tombstones_examined() {
                continue;
            }
            // A pin that goes is another moment.
            if waits == WaitsFor::Readers {
                return None;
            }
            match self.end_idle_segments() {
                Ok(true) => {}
                Ok(false) | Err(_) => return Some(moment),
            }
        }
        None
    }

    /// Ends segments that are appended to, hold next to nothing and keep others. True if there were any.
    fn end_idle_segments(&self) -> Result<bool> {
        self.check_writable()?;
        let mut work = self.cleaner.work.lock();
        self.check_writable()?;
        let survivor_ended = self.end_idle_survivors(&mut work)?;
        Ok(self.end_idle_heads(&work)? || survivor_ended)
    }

    /// Also survivor segments that keep nobody, if their roll lets go of another one as well, and those of later streams: what
    /// a store that nobody writes to moves goes to the first.
    fn end_idle_survivors(&self, work: &mut Work) -> Result<bool> {
        let others_are_idle = self.has_idle_segment();
        let mut ended = false;
        for (stream, open) in work.survivors.iter_mut().enumerate() {
            let is_over = |head: &mut Head| {
                let is_wanted = stream > 0 || others_are_idle || work.tombstones.are_kept_by(head.id());
                is_wanted && self.is_idle_end(self.space.table().slot(head.slot()))
            };
            if let Some(head) = open.take_if(is_over) {
                self.oplog.seal_survivor(&head)?;
                ended = true;
            }
        }
        Ok(ended)
    }

    /// Not while slots are scarce: each takes one.
    fn end_idle_heads(&self, work: &Work) -> Result<bool> {
        let mut ended = false;
        if self.is_scarce(false) {
            return Ok(false);
        }
        for log in 0..self.oplog.log_count() {
            let mut state = self.oplog.lock(log);
            let Some((slot, _)) = state.head_range() else { continue };
            let info = self.space.table().slot(slot);
            if work.tombstones.are_kept_by(info.id()) && self.is_idle_end(info) {
                ended |= self.oplog.roll_idle(&mut state)?;
            }
        }
        Ok(ended)
    }

    /// Most of it is dead, and what is not is next to nothing.
    fn is_idle_end(&self, info: &SlotInfo) -> bool {
        2 * info.dead_bytes() > info.op_bytes() && self.is_next_to_nothing(info, 0)
    }

    fn has_idle_segment(&self) -> bool {
        let table = self.space.table();
        (0..self.space.slot_count())
            .map(|slot| table.slot(SegmentSlot(slot)))
            .any(|info| self.may_be_victim(info) && self.is_next_to_nothing(info, 0))
    }

    /// True if so little in the segment counts, `going` bytes left out, that it is worth moving though nobody needs the space.
    fn is_next_to_nothing(&self, info: &SlotInfo, going: u64) -> bool {
        let live = info.op_bytes().saturating_sub(info.dead_bytes());
        live.saturating_sub(going) <= self.space.geometry().segment_size_bytes / NEXT_TO_NOTHING_SHARE
    }

    /// Segments that hold next to nothing, if more is gained than the roll takes that lets go of them. Which tombstones go
    /// with them is only worked out if there are none without.
    pub(super) fn choose_idle_victims(&self, work: &Work) -> Vec<SegmentSlot> {
        let victims = self.worthwhile_idle_victims(work, &HashMap::new());
        if victims.is_empty() {
            self.worthwhile_idle_victims(work, &self.tombstones_that_go(work))
        } else {
            victims
        }
    }

    /// The same; `going` are bytes, by segment, that count for nothing.
    fn worthwhile_idle_victims(&self, work: &Work, going: &HashMap<SegmentSlot, u64>) -> Vec<SegmentSlot> {
        let (table, segment_size) = (self.space.table(), self.space.geometry().segment_size_bytes);
        let align = self.media.granularity().append_align_bytes();
        let going = |slot: &SegmentSlot| going.get(slot).copied().unwrap_or(0);
        let mut room = u64::from(self.space.available(Purpose::Survivor)) * self.survivor_capacity()
            + self.room_in_survivors(work);
        let mut victims: Vec<SegmentSlot> = (0..self.space.slot_count())
            .map(SegmentSlot)
            .filter(|slot| self.may_be_victim(table.slot(*slot)))
            .filter(|slot| self.is_next_to_nothing(table.slot(*slot), going(slot)))
            .collect();
        let lasting = |slot: &SegmentSlot| {
            let info = table.slot(*slot);
            info.op_bytes().saturating_sub(info.dead_bytes()).saturating_sub(going(slot))
        };
        victims.sort_by_key(lasting);
        victims.truncate(VICTIMS_MIN as usize);
        victims.retain(|slot| {
            let moved = moved_bytes(table.slot(*slot), align);
            let fits = moved <= room;
            room -= if fits { moved } else { 0 };
            fits
        });
        let cost = self.oplog.cost_of_roll() + victims.iter().map(lasting).sum::<u64>() + 2 * align;
        let gained = victims.len() as u64 * segment_size;
        if gained >= cost + self.worthwhile_bytes() { victims } else { Vec::new() }
    }

    /// Bytes of tombstones, by segment, that go if the segments that keep them are emptied now: all of these are sealed and
    /// hold next to nothing but tombstones.
    pub(super) fn tombstones_that_go(&self, work: &Work) -> HashMap<SegmentSlot, u64> {
        let table = self.space.table();
        let keepers: HashMap<SegmentId, SegmentSlot> = (0..self.space.slot_count())
            .map(SegmentSlot)
            .filter(|slot| self.may_be_victim(table.slot(*slot)))
            .map(|slot| (table.slot(slot).id(), slot))
            .filter(|(id, _)| work.tombstones.are_kept_by(*id))
            .collect();
        if keepers.is_empty() {
            return HashMap::new();
        }
        let all = self.tombstones_kept_only_by(&work.tombstones, |id| keepers.contains_key(&id));
        let is_light = |slot: &SegmentSlot| {
            self.is_next_to_nothing(table.slot(*slot), all.get(slot).copied().unwrap_or(0))
        };
        let light: Vec<SegmentId> =
            keepers.iter().filter(|(_, slot)| is_light(slot)).map(|(id, _)| *id).collect();
        // Of those only the ones that are kept by nobody else.
        let mut going = self.tombstones_kept_only_by(&work.tombstones, |id| light.contains(&id));
        going.retain(|slot, _| light.contains(&table.slot(*slot).id()));
        going
    }
}
