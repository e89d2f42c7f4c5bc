//! Looking at keys whose entries are about to be replaced or moved. What the look finds is not walked to again: the slots
//! of a leaf that may hold the key.
//!
//! Invariants:
//!   - slots are of one version of a leaf, and no version comes again: not in a leaf that was given back and handed out
//!     since, whose versions go on
//!   - as long as the leaf has that version it is in the tree, and no other slot of the index may hold the key

use super::node::{Attempt, Word, check};
use super::walk::{Place, Spot};
use super::{Nodes, OrderedIndex};
use crate::index::{Candidate, Key, Upsert};
use crate::types::Addr;
use std::ops::Range;

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
    fn new(spot: &Spot<'_>, count: usize) -> Slots {
        Slots { version: spot.version, leaf: spot.number, from: spot.at as u8, to: (spot.at + count) as u8 }
    }

    #[inline]
    fn range(self) -> Range<usize> {
        usize::from(self.from)..usize::from(self.to)
    }
}

impl Nodes {
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
}

impl OrderedIndex {
    /// Shows `visit` what may be the key's, and tells where it is.
    #[inline]
    pub(super) fn try_look(&self, key: Key<'_>, visit: &mut impl FnMut(Addr)) -> Attempt<Slots> {
        let Place::Here(spot) = self.nodes.locate(self.first, key.bytes)? else {
            return Ok(Slots::default());
        };
        let wanted = Word::entry(Addr::from_bits(0), spot.rank, key.hash);
        let mut count = 0;
        for word in spot.candidates() {
            count += 1;
            if word.may_be(wanted) {
                spot.check()?;
                visit(word.addr());
            }
        }
        spot.check()?;
        Ok(Slots::new(&spot, count))
    }
}
