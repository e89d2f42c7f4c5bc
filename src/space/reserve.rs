//! Which free slots are kept, and for whom. A full pool still deletes, cleans, rolls and recovers, because each of these
//! reaches deeper into the reserve than what it has to make room for:
//!
//! ```text
//! free slots:  0 .. recovery | + the roll of a pass | + survivors of a pass | + deletes | new data
//! ```
//!
//! Recovery gives each head that holds anything a new one, so such a head is *backed* by a free slot of its own from its
//! first entry on. A new head is empty, and its backing is taken for it: what recovery leaves free is what cleaning and
//! deletes had, however many logs there are.
//!
//! Puts, and nobody else, may have what emptied segments that the next digest leaves out will give back: whoever rolls
//! for a put writes that digest. They never reach as deep as deletes, so what was lent is nothing that a full pool needs
//! after a crash, when the roll that is kept for it frees these segments, or under a pin that holds them. (What open
//! survivor segments still take cannot be lent: after the next open they are sealed, and full pools refused deletes.)

use crate::sync::{AtomicU32, Ordering};

/// Free slots that recovery needs beyond one for each head that holds anything: it also replaces those that are empty,
/// one after the other.
const RECOVERY_SLOTS: u32 = 1;
/// Empty segments that the cleaner may fill before it frees any, beside the one that is being filled.
const SURVIVOR_SLOTS: u32 = 1;
/// The head of the roll that ends a pass, so that its victims can be freed.
const ROLL_SLOTS: u32 = 1;
/// What deletes may fill while puts are refused: one, beside the segments that cleaning a full pool keeps in between, the
/// survivor that is being filled and the head that was rolled for the last digest.
const DELETE_SLOTS: u32 = 3;
/// Free slots kept for deletes, cleaning, rolls and recovery, beyond one for each log.
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

/// What the size of the reserve depends on. Changed and asked under the lock of the free slots where it matters that
/// nobody takes one in between.
#[derive(Default)]
pub(super) struct Reserve {
    /// Heads that recovery would have to replace by others that stay.
    backed_heads: AtomicU32,
    /// Emptied segments on their way to be free.
    releasable: AtomicU32,
}

impl Reserve {
    /// Heads are backed that were not.
    pub(super) fn add_heads(&self, count: u32) {
        self.backed_heads.fetch_add(count, Ordering::Relaxed);
    }

    /// A backed head was replaced by an empty one.
    pub(super) fn remove_head(&self) {
        let before = self.backed_heads.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "it was counted when its first entry came");
    }

    pub(super) fn backed_heads(&self) -> u32 {
        self.backed_heads.load(Ordering::Relaxed)
    }

    /// Segments are about to be free.
    pub(super) fn add_releasable(&self, count: u32) {
        self.releasable.fetch_add(count, Ordering::Relaxed);
    }

    /// They are.
    pub(super) fn take_releasable(&self, count: u32) {
        self.releasable.fetch_sub(count, Ordering::Relaxed);
    }

    pub(super) fn releasable(&self) -> u32 {
        self.releasable.load(Ordering::Relaxed)
    }

    /// Free slots that are left to others.
    pub(super) fn kept_from(&self, purpose: Purpose) -> u32 {
        let roll = RECOVERY_SLOTS + self.backed_heads();
        let survivor = roll + ROLL_SLOTS;
        let delete = survivor + SURVIVOR_SLOTS;
        let put = delete + DELETE_SLOTS.saturating_sub(self.releasable()).max(1);
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
        for (heads, releasable) in [(0, 0), (1, 0), (2, 1), (2, 5), (64, 1000)] {
            let reserve = Reserve::default();
            reserve.add_heads(heads);
            reserve.add_releasable(releasable);
            let kept = ALL.map(|purpose| reserve.kept_from(purpose));
            assert!(
                kept.windows(2).all(|pair| pair[0] < pair[1]),
                "{heads} heads, {releasable} releasable: {kept:?}"
            );
            assert!(kept[4] <= RESERVE_SLOTS + heads);
        }
    }

    /// Deletes had filled all that they may when the process died: no survivor segment is open any more, what was about to be
    /// free is not yet, and each head took a slot.
    #[test]
    fn what_recovery_leaves_free_is_enough_to_clean_whatever_was_lent() {
        for heads in [1, 2, 10, 64] {
            let reserve = Reserve::default();
            reserve.add_heads(heads);
            reserve.add_releasable(9);
            let free = reserve.kept_from(Purpose::Delete) - heads;
            let after = Reserve::default();
            assert!(
                free >= after.kept_from(Purpose::Survivor) + SURVIVOR_SLOTS,
                "{heads} heads: {free} slots"
            );
            assert!(free > after.kept_from(Purpose::Roll), "{heads} heads: {free} slots");
        }
    }

    #[test]
    fn puts_may_have_what_emptied_segments_will_give_back() {
        let reserve = Reserve::default();
        reserve.add_heads(2);
        let most = RESERVE_SLOTS + 2;
        for (releasable, lent) in [(0, 0), (1, 1), (2, 2), (9, 2)] {
            reserve.add_releasable(releasable);
            assert_eq!(reserve.kept_from(Purpose::Put), most - lent, "{releasable} releasable");
            reserve.take_releasable(releasable);
        }
    }
}
