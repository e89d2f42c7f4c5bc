//! Leaves that hold nothing but marked slots are named by their parents, so that a scan passes over a range of tombstones
//! without a look at its leaves.
//!
//! Invariants:
//!   - whom a parent names is *passed* itself, and all slots of a leaf that is passed are marked. It may be passed unnamed
//!   - both change under the locks of parent and leaf. Before anything but a tombstone comes into a leaf that is passed, it is
//!     *roused*: named and passed no more. So what was put there before a scan began is seen by that scan

use super::node::{Attempt, Locked};
use super::walk::{Place, Spot};
use super::{Nodes, OrderedIndex, retry};
use crate::index::arena::Inner;

impl OrderedIndex {
    /// The last slot of the key's leaf was marked.
    #[cold]
    pub(super) fn pass_over_leaf_of(&self, key: &[u8]) {
        retry(|| match self.nodes.locate(self.first, key)? {
            Place::Here(spot) => self.nodes.change_passed(&spot, true),
            Place::Apart(..) => Ok(()),
        });
    }
}

impl Nodes {
    /// Rouses the leaf of a spot.
    #[cold]
    pub(super) fn rouse_leaf_of(&self, spot: &Spot<'_>) -> Attempt<()> {
        self.change_passed(spot, false)
    }

    fn change_passed(&self, spot: &Spot<'_>, is_passed: bool) -> Attempt<()> {
        let mut parent = None;
        let (number, seen) = self.walk(spot.layer, spot.slice, |inner, seen, child, _| {
            parent = Some((inner, seen, child));
        })?;
        let leaf = self.leaves.get(number);
        let locked_parent =
            parent.map(|(inner, inner_seen, _)| Locked::new(&inner.version, inner_seen)).transpose()?;
        let locked = Locked::new(&leaf.version, seen)?;
        match parent {
            Some((inner, _, child)) if is_passed => self.pass_if_marked(inner, child),
            Some((inner, _, child)) => self.rouse(inner, child),
            // A leaf that is a tree by itself is named by nobody.
            None => leaf.set_passed(false),
        }
        drop((locked, locked_parent));
        Ok(())
    }

    /// Names a child that is a leaf, if all of its slots are marked. Both are locked; so below.
    pub(super) fn pass_if_marked(&self, parent: &Inner, child: usize) {
        let leaf = self.leaves.get(parent.child(child));
        if leaf.holds_marks_alone() {
            leaf.set_passed(true);
            parent.name(child, true);
        }
    }

    /// A child that is a leaf has to be looked at from now on.
    pub(super) fn rouse(&self, parent: &Inner, child: usize) {
        parent.name(child, false);
        self.leaves.get(parent.child(child)).set_passed(false);
    }
}
