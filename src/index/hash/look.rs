//! Looking at a key that is about to be written. What the look finds, a publication need not find again: the place where
//! the key is, or would be inserted.
//!
//! Invariants:
//!   - no slot before a spot, in the probe order of its cell, holds or will ever hold the spot's key: each had another one
//!     when it was looked at, and a slot keeps its key
//!   - a spot is of one life of a cell: cells that are built later under its number have other generations
//!   - a place is used under the guard of its look, so its slot is no other cell's. As long as it holds what it held, its cell
//!     was not replaced, and, if that is nothing, no slot of the cell holds the key

use super::{
    Cell, DISTANCE, EMPTY, FROZEN, GENERATION, HashIndex, NEXT_PART, PAGE_COUNT, PART_PAGES_MAX,
    POSITION_BITS, POSITION_MASK, Storage, addr, home, is_full, may_be, number, tag,
};
use crate::index::arena::{Bucket, Line, PAGE_BUCKETS, prefetch_to_write};
use crate::sync::{AtomicU64, Ordering};
use crate::types::Addr;
use std::ops::ControlFlow;

/// Buckets in which most looks end: at a load of 0.8 they meet three.
const BUCKETS_OF_A_LOOK: usize = 3;

/// Where a publication may start to look for its key. By default at the beginning: there is no cell 0.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spot {
    cell: u32,
    generation: u32,
    /// Buckets that were passed, and slots of the next one.
    buckets: u32,
    slots: u32,
}

impl Spot {
    #[inline]
    fn new(cell: Cell<'_>, buckets: u32, slots: usize) -> Spot {
        if buckets >= number(cell.first_part, PAGE_COUNT) * PAGE_BUCKETS as u32 {
            // In a later part of an oversized cell: probes only start in the first.
            return Spot::default();
        }
        Spot {
            cell: cell.number,
            generation: number(cell.first_part, GENERATION),
            buckets,
            slots: slots as u32,
        }
    }

    /// Buckets, and slots of the next one, that need not be looked at in `cell`.
    #[inline]
    pub(super) fn passed_in(self, cell: Cell<'_>) -> (u32, usize) {
        if self.cell == cell.number && self.generation == number(cell.first_part, GENERATION) {
            (self.buckets, self.slots as usize)
        } else {
            (0, 0)
        }
    }
}

/// The buckets of a cell in probe order, as runs that lie in one page each.
struct Runs<'a> {
    storage: &'a Storage,
    part: &'a Line,
    position: u64,
    at: usize,
    left: usize,
}

impl<'a> Runs<'a> {
    #[inline]
    fn new(storage: &'a Storage, cell: Cell<'a>, hash: u64) -> Runs<'a> {
        let mut runs =
            Runs { storage, part: cell.first_part, position: hash >> (64 - POSITION_BITS), at: 0, left: 0 };
        runs.enter(cell.first_part);
        runs
    }

    #[inline]
    fn enter(&mut self, part: &'a Line) {
        self.part = part;
        self.left = number(part, PAGE_COUNT) as usize * PAGE_BUCKETS;
        self.at = home(self.position, self.left);
    }
}

impl<'a> Iterator for Runs<'a> {
    type Item = &'a [Bucket];

    #[inline]
    fn next(&mut self) -> Option<&'a [Bucket]> {
        if self.left == 0 {
            match number(self.part, NEXT_PART) {
                0 => return None,
                next => self.enter(self.storage.descriptors.get(next as usize)),
            }
        }
        let page = number(self.part, (self.at / PAGE_BUCKETS) % PART_PAGES_MAX);
        let run = &self.storage.pages.get(page as usize).buckets[self.at % PAGE_BUCKETS..];
        let run = &run[..run.len().min(self.left)];
        self.left -= run.len();
        self.at += run.len();
        if self.at == number(self.part, PAGE_COUNT) as usize * PAGE_BUCKETS {
            self.at = 0;
        }
        Some(run)
    }
}

/// Whether the bucket is full, and of strangers: none has the position of `tag`. So are most that are probed.
#[inline]
fn is_of_strangers(bucket: &Bucket, tag: u64) -> bool {
    let is_stranger = |slot: &AtomicU64| (slot.load(Ordering::Acquire) ^ tag) & POSITION_MASK != 0;
    is_full(bucket) && bucket.slots.iter().all(is_stranger)
}

/// The slot of a spot, and what it held: the first entry that may be the key's, or nothing, where the key would be inserted.
#[derive(Clone, Copy, Debug)]
pub struct Place<'i> {
    slot: &'i AtomicU64,
    word: u64,
    /// Of the key, in the cell as it was.
    tag: u64,
}

impl Place<'_> {
    #[inline(always)]
    pub(super) fn known(&self) -> Option<Addr> {
        (self.word != EMPTY).then(|| addr(self.word))
    }

    /// Exchanges what it held for an entry of the key; false if it is not as it was. A frozen slot is not.
    #[inline(always)]
    pub(super) fn exchange(&self, new: Addr) -> bool {
        let new = self.tag | new.to_bits();
        self.slot.compare_exchange(self.word, new, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

impl HashIndex {
    /// Asks for the buckets that most looks come to.
    #[inline(always)]
    pub(super) fn prefetch_to_put(&self, hash: u64) {
        if let Some(run) = Runs::new(&self.storage, self.cell(hash), hash).next() {
            run.iter().take(BUCKETS_OF_A_LOOK).for_each(prefetch_to_write);
        }
    }

    /// Shows `visit` what may be the key's, as of a time since the call began: a cell that is replaced meanwhile lacks only
    /// what was published since then. No place is told where the distance forbids to insert.
    #[inline]
    pub(super) fn look_at(
        &self,
        hash: u64,
        mut visit: impl FnMut(Addr) -> ControlFlow<()>,
    ) -> (Spot, Option<Place<'_>>) {
        let cell = self.cell(hash);
        let tag = tag(hash, cell.depth());
        let mut first = None;
        let mut passed = 0;
        for run in Runs::new(&self.storage, cell, hash) {
            let mut left = run;
            while let Some(strangers) = left.iter().position(|bucket| !is_of_strangers(bucket, tag)) {
                let at = passed + (run.len() - left.len() + strangers) as u32;
                for (slot_at, slot) in left[strangers].slots.iter().enumerate() {
                    let word = slot.load(Ordering::Acquire) & !FROZEN;
                    let here = (at, slot_at, Place { slot, word, tag });
                    if word == EMPTY {
                        let may_insert = at <= number(cell.first_part, DISTANCE);
                        let (at, slot_at, place) = first.unwrap_or(here);
                        let place = Some(place).filter(|place| place.word != EMPTY || may_insert);
                        return (Spot::new(cell, at, slot_at), place);
                    }
                    if may_be(word, tag) {
                        let (at, slot_at, place) = *first.get_or_insert(here);
                        if visit(addr(word)).is_break() {
                            return (Spot::new(cell, at, slot_at), Some(place));
                        }
                    }
                }
                left = &left[strangers + 1..];
            }
            passed += run.len() as u32;
        }
        first.map_or((Spot::default(), None), |(at, slot_at, place)| {
            (Spot::new(cell, at, slot_at), Some(place))
        })
    }
}
