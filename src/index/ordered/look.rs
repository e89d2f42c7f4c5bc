//! Looking at keys whose entries are about to be replaced or moved. What the look finds is not walked to again: the slots
//! of a leaf that may hold the key.
//!
//! Invariants:
//!   - slots are of one version of a leaf, and no version comes again: not in a leaf that was given back and handed out
//!     since, whose versions go on
//!   - as long as the leaf has that version it is in the tree, and no other slot of the index may hold the key

use super::node::{Attempt, Word, check};
use super::walk::{Place, Spot};
use super::{Nodes, OrderedIndex, PREFETCH_GROUP};
use crate::index::arena::{LEAF_SLOTS, prefetch};
use crate::index::{Candidate, Index, Key, Upsert};
use crate::types::Addr;
use std::ops::{ControlFlow, Range};

/// Slots of a leaf that may hold a key, or did. By default none: nobody ever hands out leaf 0.
#[derive(Clone, Copy, Debug, Default)]
pub struct Slots {
    version: u64,
    leaf: u32,
    from: u8,
    to: u8,
}

impl Slots {
    #[inline]
    fn new(spot: &Spot<'_>, range: Range<usize>) -> Slots {
        let (from, to) = (spot.at + range.start, spot.at + range.end);
        debug_assert!(to <= LEAF_SLOTS);
        Slots { version: spot.version, leaf: spot.number, from: from as u8, to: to as u8 }
    }

    /// Whether there is nothing to look at.
    #[inline]
    pub fn is_empty(self) -> bool {
        self.from == self.to
    }

    #[inline]
    fn range(self) -> Range<usize> {
        usize::from(self.from)..usize::from(self.to)
    }
}

/// The slot of a leaf with the first entry that may be the key's.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    version: u64,
    leaf: u32,
    at: u8,
    word: Word,
}

impl Known {
    #[inline(always)]
    pub(super) fn addr(self) -> Addr {
        self.word.addr()
    }
}

impl Nodes {
    /// Replaces an entry by one of the same key; false if it is not there any more, as far as that is known.
    #[inline]
    pub(super) fn exchange_known(&self, known: &Known, new: Addr) -> bool {
        let leaf = self.leaves.get(known.leaf);
        leaf.exchange(known.version, usize::from(known.at), known.word, known.word.moved(new)).is_ok()
    }

    /// Replaces the entry of a key that was looked at, or finds it newer; `None` if nothing was found out.
    #[inline]
    pub(super) fn upsert_in(
        &self,
        slots: Slots,
        key: Key<'_>,
        new: Addr,
        judge: &mut impl FnMut(Addr) -> Candidate,
    ) -> Option<Upsert> {
        let leaf = self.leaves.get(slots.leaf);
        for at in slots.range() {
            let known = leaf.word(at);
            if known.has_hash(key.hash) {
                // Before the log is read at an address that may be none.
                check(&leaf.version, slots.version).ok()?;
                match judge(known.addr()) {
                    Candidate::OtherKey => {}
                    Candidate::Newer => return Some(Upsert::Lost(known.addr())),
                    Candidate::Older => {
                        leaf.exchange(slots.version, at, known, known.moved(new)).ok()?;
                        return Some(Upsert::Replaced(known.addr()));
                    }
                }
            }
        }
        None
    }

    /// Puts `to` where `from` was found; false if it is not there any more, as far as that is known.
    #[inline]
    pub(super) fn relocate_in(&self, slots: Slots, from: Addr, to: Addr) -> bool {
        let leaf = self.leaves.get(slots.leaf);
        slots.range().any(|at| {
            let known = leaf.word(at);
            !known.is_link()
                && known.addr() == from
                && leaf.exchange_moved(slots.version, at, known, known.moved(to)).is_ok()
        })
    }

    /// Asks for what [`Nodes::relocate_in`] reads.
    #[inline]
    pub(super) fn prefetch_slots(&self, slots: Slots) {
        if !slots.is_empty() {
            let leaf = self.leaves.get(slots.leaf);
            prefetch(&leaf.version);
            prefetch(&leaf.words[usize::from(slots.from)]);
        }
    }
}

impl OrderedIndex {
    /// The slots of those keys that point at the addresses beside them, for not more than a group.
    #[inline]
    pub(super) fn find_group(&self, keys: &[Key<'_>], at: &[Addr], found: &mut [Option<Slots>]) {
        let mut is_known = [false; PREFETCH_GROUP];
        self.nodes.locate_group(self.first, keys, |number, spot| {
            let held = spot.candidates().position(|word| word.addr() == at[number]);
            is_known[number] = spot.check().is_ok();
            found[number] = held.map(|at| Slots::new(&spot, at..at + 1)).filter(|_| is_known[number]);
        });
        for number in 0..keys.len() {
            if !is_known[number] || (found[number].is_none() && self.has_unplaced()) {
                let is_there = |addr: Addr| (addr == at[number]).then_some(Slots::default());
                found[number] = self.get(keys[number], is_there);
            }
        }
    }

    /// Shows `visit` what may be the key's, and tells where it is.
    #[inline]
    pub(super) fn try_look(
        &self,
        key: Key<'_>,
        visit: &mut impl FnMut(Addr) -> ControlFlow<()>,
    ) -> Attempt<(Slots, Option<Known>)> {
        let Place::Here(spot) = self.nodes.locate(self.first, key.bytes)? else {
            return Ok((Slots::default(), None));
        };
        let wanted = Word::entry(Addr::from_bits(0), spot.rank, key.hash);
        let mut count = 0;
        let mut is_over = false;
        let mut known = None;
        for word in spot.candidates() {
            if !is_over && word.may_be(wanted) {
                spot.check()?;
                let at = (spot.at + count) as u8;
                known.get_or_insert(Known { version: spot.version, leaf: spot.number, at, word });
                is_over = visit(word.addr()).is_break();
            }
            count += 1;
        }
        spot.check()?;
        Ok((Slots::new(&spot, 0..count), known))
    }
}
