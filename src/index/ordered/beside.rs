//! From a leaf of a scan to the one beside it, without a walk from the top: as long as their parent is as it was, it knows
//! which that is and what lies between them.

use super::Nodes;
use super::node::{Attempt, Restart, check, version};
use crate::index::Direction;
use crate::index::arena::{Inner, LEAF_SLOTS, Leaf};

/// Leaves that are asked for ahead of use, at most.
const LEAVES_AHEAD: usize = 3;
/// The same where only a line of each is read.
const HEADS_AHEAD: usize = 16;
/// Entries that most leaves hold.
const LEAF_ENTRIES_TYPICAL: usize = LEAF_SLOTS * 2 / 3;

/// The node above a leaf.
#[derive(Clone, Copy)]
struct Parent<'a> {
    inner: &'a Inner,
    version: u64,
    /// Which of its children the leaf is, and how many separators there are.
    child: usize,
    count: usize,
    /// Separators beside the parent itself.
    lower: Option<u64>,
    upper: Option<u64>,
}

/// Where a leaf lies among the others of its tree. Valid if the walk that showed it succeeded.
#[derive(Clone, Copy, Default)]
pub struct Fences<'a> {
    /// The separators beside it; none at the ends of the tree.
    pub lower: Option<u64>,
    pub upper: Option<u64>,
    parent: Option<Parent<'a>>,
}

impl<'a> Fences<'a> {
    /// The way to the leaf leads through this child.
    #[inline]
    pub fn pass(&mut self, inner: &'a Inner, version: u64, child: usize, count: usize) {
        let Fences { lower, upper, .. } = *self;
        let parent = Parent { inner, version, child, count, lower, upper };
        *self = parent.fences();
    }

    /// The leaf beside it in a direction, with its version and place; `None` if the parent has no more or has changed.
    #[inline]
    pub fn step(&self, nodes: &'a Nodes, direction: Direction) -> Option<(&'a Leaf, u64, Fences<'a>)> {
        let parent = self.parent?.moved(direction, 1)?;
        let next = parent.fences();
        let leaf = parent.leaf(nodes).ok()?;
        let leaf_version = version(&leaf.version).ok()?;
        check(&parent.inner.version, parent.version).ok()?;
        Some((leaf, leaf_version, next))
    }

    /// The place of the last of the leaves beside it that hold nothing but marked slots, by what the parent says; its own if the
    /// next one has to be looked at, or if `may_pass`, which is asked then, says no.
    #[inline]
    pub fn pass_over(self, direction: Direction, may_pass: impl FnOnce() -> bool) -> Fences<'a> {
        let Some(parent) = self.parent else { return self };
        let passed = parent.inner.passed();
        let steps = match direction {
            Direction::Forward => (passed >> 1 >> parent.child).trailing_ones(),
            Direction::Backward => passed.unbounded_shl(u128::BITS - parent.child as u32).leading_ones(),
        };
        // Asked after the parent was: whatever was named since does not count.
        if steps == 0 || !may_pass() {
            return self;
        }
        let Some(last) = parent.moved(direction, steps as usize).map(Parent::fences) else { return self };
        // The version comes last: where the scan goes on is what the separators say, and nobody looks at them again.
        if check(&parent.inner.version, parent.version).is_ok() { last } else { self }
    }

    /// Asks for the leaves beside it that hold about so many entries. Not for those that were asked for one leaf before, if it
    /// is not the first.
    #[inline]
    pub fn prefetch(&self, nodes: &Nodes, direction: Direction, entries: usize, is_first: bool) {
        let Some(parent) = self.parent else { return };
        let last = entries.div_ceil(LEAF_ENTRIES_TYPICAL).min(LEAVES_AHEAD);
        for steps in if is_first { 1 } else { LEAVES_AHEAD }..=last {
            let Some(Ok(leaf)) = parent.moved(direction, steps).map(|parent| parent.leaf(nodes)) else {
                return;
            };
            leaf.prefetch_words();
        }
    }

    /// Asks for the heads of the leaves beside it, which may be passed over; as above not for those that were asked for.
    #[inline]
    pub fn prefetch_heads(&self, nodes: &Nodes, direction: Direction, is_first: bool) {
        let Some(parent) = self.parent else { return };
        for steps in if is_first { 1 } else { HEADS_AHEAD }..=HEADS_AHEAD {
            let Some(Ok(leaf)) = parent.moved(direction, steps).map(|parent| parent.leaf(nodes)) else {
                return;
            };
            leaf.prefetch_head();
        }
    }
}

impl<'a> Parent<'a> {
    #[inline]
    fn fences(self) -> Fences<'a> {
        let Parent { inner, child, count, .. } = self;
        let lower = if child > 0 { Some(inner.slice(child - 1)) } else { self.lower };
        let upper = if child < count { Some(inner.slice(child)) } else { self.upper };
        Fences { lower, upper, parent: Some(self) }
    }

    #[inline]
    fn moved(self, direction: Direction, steps: usize) -> Option<Parent<'a>> {
        let child = match direction {
            Direction::Forward => self.child + steps,
            Direction::Backward => self.child.checked_sub(steps)?,
        };
        (child <= self.count).then_some(Parent { child, ..self })
    }

    /// A number counts only if the parent, which is above leaves, still is what it was.
    #[inline]
    fn leaf(&self, nodes: &'a Nodes) -> Attempt<&'a Leaf> {
        let number = self.inner.child(self.child);
        check(&self.inner.version, self.version).map_err(|_| Restart)?;
        Ok(nodes.leaves.get(number))
    }
}
