//! Which free slots are kept, and for whom. A full pool still deletes, cleans, rolls and recovers, because each of these
//! reaches deeper into the reserve than what it has to make room for:
//!
//! ```text
//! free slots:  0 .. recovery | + the roll of a pass | + survivors of a pass | + deletes | new data
//! ```
//!
//! Puts may have what the cleaner does not need to take from the reserve meanwhile: what open survivor segments still
//! take, and emptied segments that the next digest leaves out, so that whoever rolls for a put frees one for the slot it
//! takes. In a small pool that is a third of what would be kept free otherwise. They never reach as deep as deletes, so
//! emptied segments that a pin or a reader holds for long keep nothing from being cleaned.

use crate::sync::{AtomicU32, Ordering};

/// Free slots that recovery needs beyond one for each log, whose head it replaces: it also replaces heads that turn out
/// to be empty.
const RECOVERY_SLOTS: u32 = 1;
/// Segments that the cleaner may fill before it frees any: a pass is cut so that it needs no more.
const SURVIVOR_SLOTS: u32 = 2;
/// The head of the roll that ends a pass, so that its victims can be freed.
const ROLL_SLOTS: u32 = 1;
/// What deletes may fill while puts are refused: one, beside the segments that cleaning a full pool keeps in between, the
/// survivor that is being filled and the head that was rolled for the last digest.
const DELETE_SLOTS: u32 = 3;
/// Free slots kept for deletes, cleaning, rolls and recovery, beyond one for each log in use.
pub const RESERVE_SLOTS: u32 = RECOVERY_SLOTS + ROLL_SLOTS + SURVIVOR_SLOTS + DELETE_SLOTS;

/// Who asks for a slot, and so how deep into the reserve it may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// New data: leaves the whole reserve.
    Put,
    /// Tombstones: leaves what a pass of the cleaner needs.
    Delete,
    /// Survivors: leaves what the roll behind them needs.
    Survivor,
    /// The roll that ends a pass: leaves what recovery needs.
    Roll,
    /// Recovery and close: may use all of it.
    Internal,
}

/// What the size of the reserve depends on.
pub(super) struct Reserve {
    /// Logs that have a head.
    logs: AtomicU32,
    /// A survivor segment is open: what full pools keep for it is there.
    survivor_is_open: AtomicU32,
    /// Open survivor segments take half as much as an empty one, or more.
    survivors_have_room: AtomicU32,
    /// Emptied segments on their way to be free.
    releasable: AtomicU32,
}

impl Reserve {
    pub(super) fn new() -> Reserve {
        Reserve {
            logs: AtomicU32::new(0),
            survivor_is_open: AtomicU32::new(0),
            survivors_have_room: AtomicU32::new(0),
            releasable: AtomicU32::new(0),
        }
    }

    /// Logs have a head that had none.
    pub(super) fn add_logs(&self, count: u32) {
        self.logs.fetch_add(count, Ordering::Relaxed);
    }

    /// Logs that recovery has to give a new head; a pool without any is about to get one.
    pub(super) fn logs(&self) -> u32 {
        self.logs.load(Ordering::Relaxed).max(1)
    }

    /// So many survivor segments are open, and take so many bytes; an empty one takes `capacity`.
    pub(super) fn note_survivors(&self, open: usize, room_bytes: u64, capacity: u64) {
        self.survivor_is_open.store(u32::from(open > 0), Ordering::Relaxed);
        self.survivors_have_room.store(u32::from(room_bytes >= capacity / 2), Ordering::Relaxed);
    }

    /// Segments are about to be free.
    pub(super) fn add_releasable(&self, count: u32) {
        self.releasable.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn releasable(&self) -> u32 {
        self.releasable.load(Ordering::Relaxed)
    }

    /// They are.
    pub(super) fn take_releasable(&self, count: u32) {
        self.releasable.fetch_sub(count, Ordering::Relaxed);
    }

    /// Free slots that are left to others.
    pub(super) fn kept_from(&self, purpose: Purpose) -> u32 {
        let roll = RECOVERY_SLOTS + self.logs();
        let survivor = roll + ROLL_SLOTS;
        let delete = survivor + SURVIVOR_SLOTS - self.survivors_have_room.load(Ordering::Relaxed);
        let lent = self.survivor_is_open.load(Ordering::Relaxed) + self.releasable();
        let put = delete + DELETE_SLOTS.saturating_sub(lent).max(1);
        match purpose {
            Purpose::Put => put,
            Purpose::Delete => delete,
            Purpose::Survivor => survivor,
            Purpose::Roll => roll,
            Purpose::Internal => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Purpose; 5] =
        [Purpose::Internal, Purpose::Roll, Purpose::Survivor, Purpose::Delete, Purpose::Put];

    #[test]
    fn whoever_makes_room_reaches_deeper_than_what_needs_it() {
        for (logs, open, room) in [(0, 0, 0), (1, 1, 0), (2, 1, 5), (2, 2, 100), (64, 3, 1000)] {
            let reserve = Reserve::new();
            reserve.add_logs(logs);
            reserve.note_survivors(open, room, 100);
            reserve.add_releasable(room as u32);
            let kept = ALL.map(|purpose| reserve.kept_from(purpose));
            assert!(kept.windows(2).all(|pair| pair[0] < pair[1]), "{logs} logs, {open} open: {kept:?}");
            assert!(kept[4] <= RESERVE_SLOTS + logs.max(1));
        }
    }

    #[test]
    fn what_open_survivors_take_is_not_kept_twice() {
        let reserve = Reserve::new();
        reserve.add_logs(2);
        let kept_from_puts = |open, room| {
            reserve.note_survivors(open, room, 100);
            reserve.kept_from(Purpose::Put)
        };
        let most = RESERVE_SLOTS + 2;
        let kept = [(0, 0), (2, 49), (2, 50)].map(|(open, room)| kept_from_puts(open, room));
        assert_eq!(kept, [most, most - 1, most - 2]);
        reserve.add_releasable(1);
        assert_eq!(kept_from_puts(2, 50), most - 3);
        reserve.take_releasable(1);
        assert_eq!(kept_from_puts(2, 50), most - 2);
    }
}
