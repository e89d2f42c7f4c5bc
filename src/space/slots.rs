//! Free slots. Invariants: a slot is in one set at most; a hollow one may have no bytes behind it on the device, so nothing
//! is stored there before it was allocated again.

use std::collections::BTreeSet;

/// Free slots, by whether they can be used at once.
#[derive(Debug)]
pub(super) struct Slots {
    /// Allocated.
    pub(super) ready: BTreeSet<u32>,
    /// Given back to the file system, or not known to be allocated.
    pub(super) hollow: BTreeSet<u32>,
}

impl Slots {
    /// So many slots, none in use.
    pub(super) fn all_ready(slots: u32) -> Slots {
        Slots { ready: (0..slots).collect(), hollow: BTreeSet::new() }
    }

    /// The first slot of those at the end of a pool of `slots` slots that are all hollow or in `taken`.
    pub(super) fn start_of_tail(&self, slots: u32, taken: &BTreeSet<u32>) -> u32 {
        let is_unused = |slot: &u32| taken.contains(slot) || self.hollow.contains(slot);
        (0..slots).rev().take_while(is_unused).last().unwrap_or(slots)
    }

    /// Takes the last `count` ready slots out.
    pub(super) fn take_last_ready(&mut self, count: usize) -> BTreeSet<u32> {
        let first = self.ready.iter().rev().take(count).next_back().copied();
        first.map_or_else(BTreeSet::new, |first| self.ready.split_off(&first))
    }
}

/// Numbers that follow each other, as first and count.
pub(super) fn runs(slots: &BTreeSet<u32>) -> Vec<(u32, u32)> {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for slot in slots {
        match runs.last_mut() {
            Some((first, count)) if *first + *count == *slot => *count += 1,
            _ => runs.push((*slot, 1)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_has_slots_that_were_taken_and_hollow_ones_and_ends_at_one_in_use() {
        let mut slots = Slots::all_ready(10);
        slots.ready.remove(&4);
        slots.ready.remove(&7);
        slots.hollow.insert(7);
        let none = BTreeSet::new();
        assert_eq!(slots.start_of_tail(10, &none), 10);
        let taken = slots.take_last_ready(4);
        assert_eq!(taken, BTreeSet::from([5, 6, 8, 9]));
        assert_eq!(slots.start_of_tail(10, &taken), 5);
        assert_eq!(slots.take_last_ready(0), none);
        assert_eq!(slots.ready, BTreeSet::from([0, 1, 2, 3]));
    }

    #[test]
    fn runs_are_of_neighbours() {
        assert_eq!(runs(&BTreeSet::from([1, 2, 3, 5, 8, 9])), [(1, 3), (5, 1), (8, 2)]);
    }
}
