//! Slots with a fixed address and a number, for what C holds handles to. Taken, given back and looked up without a
//! lock: a lookup is one read of a segment's address, and a child of `fork` finds no lock that a vanished thread
//! holds.
//!
//! Invariants:
//!   - Segment `k` has `2^k` slots; slot `i` lies in segment `floor(log2(i + 1))`. Segments are never freed or moved, so
//!     `&'static S` is the truth.
//!   - A slot is in one place: in use (its taker's), or in one free list.
//!   - A slot's generation only grows. A slot whose generation cannot grow is retired, never reused: so a handle, which
//!     carries the generation that it was made with, never comes to mean something else.

use crate::sync::{AtomicPtr, AtomicU32, AtomicU64, Ordering, thread_number};
use crossbeam_utils::CachePadded;
use std::ptr;

/// Bits of a slot number; what a handle has room for.
pub(super) const SLOT_BITS: u32 = 28;
/// Segments that together hold `2^SLOT_BITS - 1` slots.
const SEGMENTS: usize = SLOT_BITS as usize;
/// Threads share a free list when there are more of them than this.
const FREE_LISTS: usize = 64;
/// The number in a list that ends it; slot `i` is listed as `i + 1`.
const END: u32 = 0;

/// Bits of a state word that mean the same for every kind of slot; the generation is its upper half.
pub(super) const FREE: u64 = 1 << 31;
/// The generations are used up.
pub(super) const RETIRED: u64 = 1 << 30;
/// Being closed or freed; refuses new calls.
pub(super) const CLOSING: u64 = 1 << 29;

/// Where a handle points and which use of that slot it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) slot: u32,
    pub(super) generation: u32,
}

/// Why a handle is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// No such handle was ever given out.
    Never,
    /// It was valid once.
    Closed,
    /// Another call holds the object.
    Busy,
    /// The store was opened by the parent of this process.
    Forked,
}

/// What a table holds.
pub(super) trait Slot: Default + Sync {
    /// Slots that a thread takes at once when it finds none to reuse.
    const FRESH_AT_ONCE: u32;
    /// The next slot of the free list that this one is in.
    fn next_free(&self) -> &AtomicU32;
}

/// Generation and state in one word, as it is before a slot's first use.
pub(super) const WORD_NEW: u64 = (1 << 32) | FREE;

/// The generation in a state word.
pub(super) fn generation(word: u64) -> u32 {
    (word >> 32) as u32
}

/// The state word that follows the use of a slot as `generation`.
pub(super) fn word_after(generation: u32) -> u64 {
    match generation.checked_add(1) {
        Some(next) => (u64::from(next) << 32) | FREE,
        None => (u64::from(generation) << 32) | RETIRED,
    }
}

/// Whether a handle made as `generation` means the slot's present use, given the slot's `word`.
#[inline]
pub(super) fn check(generation_of_handle: u32, word: u64) -> Result<(), Refusal> {
    let now = generation(word);
    if generation_of_handle == now && word & (FREE | RETIRED | CLOSING) == 0 {
        Ok(())
    } else if generation_of_handle > now || (generation_of_handle == now && word & FREE != 0) {
        Err(Refusal::Never)
    } else {
        Err(Refusal::Closed)
    }
}

/// All slots of one kind.
pub(super) struct Table<S: 'static> {
    segments: [AtomicPtr<S>; SEGMENTS],
    fresh: AtomicU32,
    /// Heads: a count of changes in the upper half (so that a head that was taken and put back is seen to differ),
    /// the listed number of the first slot in the lower.
    free: [CachePadded<AtomicU64>; FREE_LISTS],
}

impl<S: Slot> Table<S> {
    pub(super) const fn new() -> Self {
        Table {
            segments: [const { AtomicPtr::new(ptr::null_mut()) }; SEGMENTS],
            fresh: AtomicU32::new(0),
            free: [const { CachePadded::new(AtomicU64::new(END as u64)) }; FREE_LISTS],
        }
    }

    /// The slot with this number, if its segment exists.
    #[inline]
    pub(super) fn get(&self, slot: u32) -> Option<&'static S> {
        let (segment, offset) = position(slot)?;
        let first = self.segments[segment].load(Ordering::Acquire);
        if first.is_null() {
            return None;
        }
        // SAFETY: `first` came from `grow`, which leaked `2^segment` initialised slots there; `offset` is less than
        // that by `position`. They are never freed, and shared references are all that anyone has (`S: Sync`).
        Some(unsafe { &*first.add(offset) })
    }

    /// A slot for a new object, or `None` if all of them are in use.
    pub(super) fn take(&self) -> Option<(u32, &'static S)> {
        let own = thread_number() % FREE_LISTS;
        let slot = self.pop(own).or_else(|| self.steal(own)).or_else(|| self.take_fresh(own))?;
        Some((slot, self.get(slot)?))
    }

    /// Makes a slot available again. Its word must not let any handle in.
    pub(super) fn give_back(&self, slot: u32, at: &S) {
        self.push(thread_number() % FREE_LISTS, slot, at);
    }

    fn pop(&self, list: usize) -> Option<u32> {
        let head = &self.free[list];
        let mut seen = head.load(Ordering::Acquire);
        loop {
            let slot = (seen as u32).checked_sub(1)?;
            // The slot may be taken by another thread at this moment and its link may change: the exchange then
            // fails, because every change of a head changes its count.
            let next = self.get(slot)?.next_free().load(Ordering::Relaxed);
            match head.compare_exchange_weak(seen, changed(seen, next), Ordering::Acquire, Ordering::Acquire)
            {
                Ok(_) => return Some(slot),
                Err(now) => seen = now,
            }
        }
    }

    fn push(&self, list: usize, slot: u32, at: &S) {
        self.push_chain(list, slot, at);
    }

    /// Puts a chain that only this thread knows in front of a list: from `first` to `last`.
    fn push_chain(&self, list: usize, first: u32, last: &S) {
        let head = &self.free[list];
        let mut seen = head.load(Ordering::Relaxed);
        loop {
            last.next_free().store(seen as u32, Ordering::Relaxed);
            match head.compare_exchange_weak(
                seen,
                changed(seen, first + 1),
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }

    /// Takes another thread's whole list: without this, objects made on one thread and freed on another would use up
    /// fresh slots for ever.
    fn steal(&self, own: usize) -> Option<u32> {
        for list in (1..FREE_LISTS).map(|step| (own + step) % FREE_LISTS) {
            let head = &self.free[list];
            let mut seen = head.load(Ordering::Relaxed);
            while let Some(first) = (seen as u32).checked_sub(1) {
                match head.compare_exchange_weak(
                    seen,
                    changed(seen, END),
                    Ordering::Acquire,
                    Ordering::Relaxed,
                ) {
                    Ok(_) => {
                        self.keep_rest(own, first);
                        return Some(first);
                    }
                    Err(now) => seen = now,
                }
            }
        }
        None
    }

    /// Puts what follows `first` in a stolen chain into the thief's list.
    fn keep_rest(&self, own: usize, first: u32) {
        let next_of = |slot: u32| -> Option<(u32, &'static S)> {
            let next = self.get(slot)?.next_free().load(Ordering::Relaxed).checked_sub(1)?;
            Some((next, self.get(next)?))
        };
        let Some((second, mut last)) = next_of(first) else { return };
        let mut at = second;
        while let Some((next, slot)) = next_of(at) {
            (at, last) = (next, slot);
        }
        self.push_chain(own, second, last);
    }

    /// Takes slots that were never used: one to return, the others into the thread's list.
    fn take_fresh(&self, own: usize) -> Option<u32> {
        let wanted = S::FRESH_AT_ONCE;
        let first = self
            .fresh
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
                let end = next.checked_add(wanted)?;
                position(end - 1).map(|_| end)
            })
            .ok()?;
        for slot in (first..first + wanted).rev() {
            let at = self.grow(slot)?;
            if slot != first {
                self.push(own, slot, at);
            }
        }
        Some(first)
    }

    /// The slot with this number, whose segment is made if it is missing.
    fn grow(&self, slot: u32) -> Option<&'static S> {
        let (segment, _) = position(slot)?;
        if self.segments[segment].load(Ordering::Acquire).is_null() {
            let slots: Box<[S]> = (0..1usize << segment).map(|_| S::default()).collect();
            let first = Box::into_raw(slots).cast::<S>();
            let null = ptr::null_mut();
            if self.segments[segment]
                .compare_exchange(null, first, Ordering::AcqRel, Ordering::Acquire)
                .is_err()
            {
                // SAFETY: made by `into_raw` above with this length, and published nowhere: another thread was first.
                drop(unsafe { Box::from_raw(ptr::slice_from_raw_parts_mut(first, 1 << segment)) });
            }
        }
        self.get(slot)
    }
}

/// A list head that names `first` and differs from every earlier one.
fn changed(head: u64, first: u32) -> u64 {
    (((head >> 32) + 1) << 32) | u64::from(first)
}

/// Segment and offset of a slot; `None` for numbers that no table has.
#[inline]
fn position(slot: u32) -> Option<(usize, usize)> {
    if slot >= (1 << SLOT_BITS) - 1 {
        return None;
    }
    let number = slot + 1;
    let segment = number.ilog2();
    Some((segment as usize, (number - (1 << segment)) as usize))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::threads;
    use std::collections::HashSet;
    use std::sync::mpsc;

    #[derive(Default)]
    struct Plain {
        next: AtomicU32,
        owner: AtomicU32,
    }

    impl Slot for Plain {
        const FRESH_AT_ONCE: u32 = 16;
        fn next_free(&self) -> &AtomicU32 {
            &self.next
        }
    }

    #[test]
    fn every_slot_number_has_its_own_position() {
        assert_eq!(position(0), Some((0, 0)));
        assert_eq!(position(1), Some((1, 0)));
        assert_eq!(position(2), Some((1, 1)));
        assert_eq!(position((1 << SLOT_BITS) - 2), Some((SEGMENTS - 1, (1 << (SEGMENTS - 1)) - 1)));
        assert_eq!(position((1 << SLOT_BITS) - 1), None);
        assert_eq!(position(u32::MAX), None);
    }

    #[test]
    fn no_slot_is_given_to_two_threads_at_once() {
        static TABLE: Table<Plain> = Table::new();
        threads::scope(|scope| {
            for me in 1..=4 {
                scope.spawn(move || {
                    for round in 0..20_000 {
                        let held: Vec<_> =
                            (0..=round % 5).map(|_| TABLE.take().expect("slots are left")).collect();
                        for (_, at) in &held {
                            assert_eq!(at.owner.swap(me, Ordering::Relaxed), 0);
                        }
                        for (slot, at) in held {
                            assert_eq!(at.owner.swap(0, Ordering::Relaxed), me);
                            TABLE.give_back(slot, at);
                        }
                    }
                });
            }
        });
        let used = TABLE.fresh.load(Ordering::Relaxed);
        let all: HashSet<u32> = (0..used).map(|_| TABLE.take().expect("all were given back").0).collect();
        assert_eq!((all.len() as u32, TABLE.fresh.load(Ordering::Relaxed)), (used, used));
    }

    #[test]
    fn slots_freed_on_another_thread_are_used_again() {
        static TABLE: Table<Plain> = Table::new();
        let (send, receive) = mpsc::sync_channel::<(u32, &Plain)>(64);
        threads::scope(|scope| {
            scope.spawn(move || receive.iter().for_each(|(slot, at)| TABLE.give_back(slot, at)));
            (0..50_000).for_each(|_| send.send(TABLE.take().expect("slots are left")).expect("received"));
            drop(send);
        });
        let used = TABLE.fresh.load(Ordering::Relaxed);
        assert!(used < 1_000, "{used} slots for at most 66 in use");
    }

    #[test]
    fn a_handle_is_judged_by_its_generation() {
        let live = 7_u64 << 32;
        assert_eq!(check(7, live), Ok(()));
        assert_eq!(check(6, live), Err(Refusal::Closed));
        assert_eq!(check(8, live), Err(Refusal::Never));
        assert_eq!(check(7, live | CLOSING), Err(Refusal::Closed));
        assert_eq!(check(7, live | FREE), Err(Refusal::Never));
        assert_eq!(word_after(7), (8 << 32) | FREE);
    }

    #[test]
    fn a_slot_whose_generations_are_used_up_is_retired() {
        let word = word_after(u32::MAX);
        assert_eq!(check(u32::MAX, word), Err(Refusal::Closed));
        assert_eq!(check(1, word), Err(Refusal::Closed));
        assert_ne!(word & RETIRED, 0);
    }
}
