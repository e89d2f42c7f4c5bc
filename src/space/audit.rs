//! Whether each slot has one owner, and the reserve knows what it is for. What is free is known twice: the table says what is
//! in a slot, and writers take slots out of the sets of `slots.rs`. A slot that is in use by neither is lost until the next
//! open; one that is by both will be overwritten.

use super::Space;
use super::table::SlotState;
use crate::sync::Ordering;
use crate::types::SegmentSlot;

/// A slot that has no owner or two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Misplaced {
    /// Which.
    pub slot: SegmentSlot,
    /// The table has a segment in it.
    pub is_in_use: bool,
}

impl Space {
    /// Slots taken since open. What was taken is neither free nor in use until its segment is entered.
    pub fn slots_taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Slots that are neither free nor in use, or both, if nobody has taken one that is not entered yet.
    pub fn misplaced_slots(&self) -> Vec<Misplaced> {
        // Nothing is on its way to or from the file system.
        let _growing = self.growth.lock();
        let free = self.free.lock();
        let places = (0..self.slot_count()).map(|slot| {
            let is_in_use = self.table.slot(SegmentSlot(slot)).state() != SlotState::Free;
            let is_free = free.ready.contains(&slot) || free.hollow.contains(&slot);
            (is_in_use == is_free).then_some(Misplaced { slot: SegmentSlot(slot), is_in_use })
        });
        places.flatten().collect()
    }

    /// How many heads free slots are kept for, and how many segments are thought to be on their way to be free.
    pub fn reserved_for(&self) -> (u32, u32) {
        (self.reserve.backed_heads(), self.reserve.releasable())
    }
}
