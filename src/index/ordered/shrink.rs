//! How the trees shrink: leaves and inner nodes join, roots with one child go, small layers go back to where their link is.
//! So emptied ranges cost a scan nothing.

use super::node::*;
use super::split::cut_near;
use super::walk::Spot;
use super::{COLLAPSE_MAX, LEAF_MIN, Nodes, OrderedIndex, retry};
use crate::index::arena::{INNER_SLICES, Inner, LEAF_SLOTS, Leaf};
use crate::sync::Ordering;

/// Two leaves with no more entries than this become one.
const LEAF_JOIN_MAX: usize = LEAF_SLOTS * 3 / 4;
/// Below this an inner node takes from a neighbour or joins it.
const INNER_MIN: usize = INNER_SLICES / 4;
/// Two inner nodes with no more separators than this become one.
const INNER_JOIN_MAX: usize = INNER_SLICES * 3 / 4;

impl OrderedIndex {
    /// Tidies the way to a key, after it was removed.
    #[inline]
    pub(super) fn shrink(&self, key: &[u8]) {
        while retry(|| self.shrink_once(key)) {}
    }

    /// Does the first thing that is to be done from the top; false if there is nothing.
    fn shrink_once(&self, key: &[u8]) -> Attempt<bool> {
        let (mut layer, mut offset) = (self.first, 0);
        loop {
            let (spot, link) = self.nodes.find(layer, key, offset)?;
            if self.shrink_tree(layer, spot.slice)? {
                return Ok(true);
            }
            let Some((at, link)) = link else { return Ok(false) };
            offset += link.rank() as usize;
            let Ok(prefix) = self.nodes.match_prefix(link.layer(), &key[offset..]) else { return Ok(false) };
            if self.collapse(&spot, at, link)? {
                return Ok(true);
            }
            offset += prefix;
            layer = link.layer();
        }
    }

    fn shrink_tree(&self, layer: u32, slice: u64) -> Attempt<bool> {
        let nodes = &*self.nodes;
        let head = nodes.layers.get(layer);
        let (mut lock, mut seen) = (&head.version, version(&head.version)?);
        let mut number = head.root.load(Ordering::Acquire);
        let mut parent: Option<(&Inner, usize)> = None;
        loop {
            let node_lock = nodes.lock_of(number);
            let node_seen = version(node_lock)?;
            check(lock, seen)?;
            let is_small = nodes.is_small(number);
            if let (Some((inner, child)), true) = (parent, is_small)
                && inner.len() > 0
            {
                return self.join(inner, seen, child);
            }
            if number & INNER == 0 {
                return Ok(false);
            }
            let inner = nodes.inners.get(number & !INNER);
            let count = inner.len();
            if parent.is_none() && count == 0 {
                let mut locked_head = Locked::new(&head.version, seen)?;
                let mut locked = Locked::new(node_lock, node_seen)?;
                head.root.store(inner.child(0), Ordering::Release);
                locked_head.changed();
                locked.obsolete();
                self.retire_node(number);
                return Ok(true);
            }
            let child;
            (child, number) = inner.child_of(count, slice);
            parent = Some((inner, child));
            (lock, seen) = (node_lock, node_seen);
        }
    }

    /// Joins a small child with a neighbour, or lets it have some of that; false if nothing can be gained.
    fn join(&self, parent: &Inner, parent_seen: u64, child: usize) -> Attempt<bool> {
        let nodes = &*self.nodes;
        let left_at = child.min(parent.len().saturating_sub(1));
        let (left, right) = (parent.child(left_at), parent.child(left_at + 1));
        check(&parent.version, parent_seen)?;
        let locks = [nodes.lock_of(left), nodes.lock_of(right)];
        let seen = [version(locks[0])?, version(locks[1])?];
        let mut locked_parent = Locked::new(&parent.version, parent_seen)?;
        let mut locked_left = Locked::new(locks[0], seen[0])?;
        let mut locked_right = Locked::new(locks[1], seen[1])?;
        let are_leaves = left & INNER == 0;
        let divided = if are_leaves {
            nodes.rouse(parent, left_at);
            nodes.rouse(parent, left_at + 1);
            divide_leaves(nodes.leaves.get(left), nodes.leaves.get(right))
        } else {
            let separator = parent.slice(left_at);
            divide_inners(nodes.inners.get(left & !INNER), nodes.inners.get(right & !INNER), separator)
        };
        match divided {
            Divided::AsBefore => {}
            Divided::At(separator) => {
                parent.set_slice(left_at, separator);
                locked_right.changed();
            }
            Divided::Joined => {
                parent.remove(left_at);
                locked_right.obsolete();
                self.retire_node(right);
            }
        }
        if are_leaves {
            let last = if matches!(divided, Divided::Joined) { left_at } else { left_at + 1 };
            (left_at..=last).for_each(|child| nodes.pass_if_marked(parent, child));
        }
        if matches!(divided, Divided::AsBefore) {
            return Ok(false);
        }
        locked_parent.changed();
        locked_left.changed();
        Ok(true)
    }

    /// Puts what a small layer holds where its link is; the bytes in between are known, so no key is read.
    fn collapse(&self, spot: &Spot<'_>, at: usize, link: Word) -> Attempt<bool> {
        let nodes = &*self.nodes;
        let head = nodes.layers.get(link.layer());
        let head_seen = version(&head.version)?;
        let root = head.root.load(Ordering::Acquire);
        if root & INNER != 0 {
            return Ok(false);
        }
        let leaf = nodes.leaves.get(root);
        let seen = version(&leaf.version)?;
        check(&head.version, head_seen)?;
        let count = leaf.len();
        let has_links = (0..count).any(|at| leaf.word(at).is_link());
        let has_room = spot.count + count <= LEAF_SLOTS + 1;
        check(&leaf.version, seen)?;
        if count > COLLAPSE_MAX || has_links || !has_room {
            return Ok(false);
        }
        let mut locked_spot = Locked::new(&spot.leaf.version, spot.version)?;
        if spot.leaf.word(at) != link {
            return Err(Restart);
        }
        let mut locked_head = Locked::new(&head.version, head_seen)?;
        let mut locked = Locked::new(&leaf.version, seen)?;
        let mut start = Vec::new();
        push_bytes(&mut start, spot.leaf.slice(at), link.rank() as usize);
        nodes.push_prefix(link.layer(), &mut start);
        let mut entries = spot.leaf.entries();
        entries.splice(at..=at, leaf.entries().into_iter().map(|(slice, word)| lifted(&start, slice, word)));
        spot.leaf.fill(&entries, 0);
        locked_spot.changed();
        locked_head.obsolete();
        locked.obsolete();
        let layer = link.layer();
        self.retire(move |nodes| nodes.release_layer(layer));
        self.retire_node(root);
        Ok(true)
    }

    fn retire_node(&self, number: u32) {
        self.retire(move |nodes| {
            if number & INNER == 0 {
                nodes.leaves.give_back([number]);
            } else {
                nodes.inners.give_back([number & !INNER]);
            }
        });
    }
}

/// A slot of a layer as it is `start` bytes further up.
fn lifted(start: &[u8], slice: u64, word: Word) -> (u64, Word) {
    let bytes = word.rank().min(SLICE_BYTES as u64) as usize;
    let mut key = start.get(..start.len().min(SLICE_BYTES)).unwrap_or_default().to_vec();
    push_bytes(&mut key, slice, bytes);
    let rank = (start.len() as u64 + word.rank()).min(RANK_LONGER);
    (padded(&key), word.ranked(rank))
}

/// What became of two neighbours.
enum Divided {
    AsBefore,
    /// They are parted at this slice now.
    At(u64),
    /// The left one holds all.
    Joined,
}

fn divide_leaves(left: &Leaf, right: &Leaf) -> Divided {
    let left_count = left.len();
    let mut entries = left.entries();
    entries.extend(right.entries());
    let marks = left.marks() | right.marks() << left_count;
    let count = entries.len();
    // An empty one goes whatever the other holds: it costs scans a look, and slots of one slice cannot be cut.
    let is_one_empty = left_count == 0 || left_count == count;
    if count <= LEAF_JOIN_MAX || is_one_empty {
        left.fill(&entries, marks);
        return Divided::Joined;
    }
    // Two leaves share no slice.
    let cut = cut_near(count, count / 2, |at| entries[at].0);
    if cut == left_count || cut > LEAF_SLOTS || count - cut > LEAF_SLOTS {
        return Divided::AsBefore;
    }
    // A run beside the cut may be what keeps them apart: then another cut helps only if the smaller one grows.
    if cut.min(count - cut) <= left_count.min(count - left_count) {
        return Divided::AsBefore;
    }
    left.fill(&entries[..cut], marks);
    right.fill(&entries[cut..], marks >> cut);
    Divided::At(entries[cut].0)
}

fn divide_inners(left: &Inner, right: &Inner, separator: u64) -> Divided {
    let (mut slices, mut children, left_passed) = left.contents();
    let (right_slices, right_children, right_passed) = right.contents();
    // If the small one has grown since it was looked at, there may be more children than bits, and the names of the
    // last ones are lost. Those leaves stay passed, unnamed: scans look at them, and who puts something in rouses them.
    let passed = left_passed | right_passed << children.len();
    slices.push(separator);
    slices.extend(right_slices);
    children.extend(right_children);
    if slices.len() <= INNER_JOIN_MAX {
        left.fill(&slices, &children, passed);
        return Divided::Joined;
    }
    let cut = slices.len() / 2;
    let (lower, upper) = halves(passed, cut + 1);
    left.fill(&slices[..cut], &children[..=cut], lower);
    right.fill(&slices[cut + 1..], &children[cut + 1..], upper);
    Divided::At(slices[cut])
}

impl Nodes {
    fn is_small(&self, number: u32) -> bool {
        if number & INNER == 0 {
            self.leaves.get(number).len() < LEAF_MIN
        } else {
            self.inners.get(number & !INNER).len() < INNER_MIN
        }
    }
}
