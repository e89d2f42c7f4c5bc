//! How the trees grow: full nodes are split on the way down, long runs become layers, prefixes are cut in two.

use super::node::*;
use super::walk::{Apart, Parent, Spot};
use super::{LAYER_BYTES, Nodes, OrderedIndex};
use crate::index::arena::{INNER_SLICES, Inner, LEAF_SLOTS, Leaf};
use crate::sync::Ordering;

/// Where to cut sorted slots with two slices at least: as near to `wanted` as keeps equal slices together.
pub fn cut_near(count: usize, wanted: usize, slice: impl Fn(usize) -> u64) -> usize {
    let parts = |at: usize| at > 0 && at < count && slice(at - 1) != slice(at);
    (0..count)
        .find_map(|step| {
            let (below, above) = (wanted.saturating_sub(step), wanted + step);
            if parts(above) { Some(above) } else { parts(below).then_some(below) }
        })
        .expect("slots of one slice do not fill a leaf")
}

/// On which edge of its layer a leaf lies.
#[derive(Clone, Copy)]
struct Edges {
    is_first: bool,
    is_last: bool,
}

impl Nodes {
    /// A layer that holds nothing.
    pub fn new_tree(&self) -> u32 {
        let leaf = self.leaves.allocate();
        self.leaves.get(leaf).fill(&[], 0);
        self.new_layer(&[], leaf)
    }

    /// A layer that nobody can see yet.
    pub fn new_layer(&self, prefix: &[u8], root: u32) -> u32 {
        let first = self.layers.allocate();
        self.layers.get(first).root.store(root, Ordering::Release);
        self.layers.get(first).prefix_bytes.store(prefix.len() as u32, Ordering::Release);
        let mut node = self.layers.get(first);
        for (part, bytes) in prefix.chunks(LAYER_BYTES).enumerate() {
            if part > 0 {
                let more = self.layers.allocate();
                node.more.store(more, Ordering::Release);
                node = self.layers.get(more);
            }
            for (word, bytes) in node.prefix.iter().zip(bytes.chunks(SLICE_BYTES)) {
                word.store(padded(bytes), Ordering::Release);
            }
        }
        first
    }

    /// Takes a layer's nodes back, not its tree.
    pub fn release_layer(&self, first: u32) {
        self.layers.give_back(self.nodes_of_layer(first));
    }

    /// A layer's node, and those that its prefix goes on in.
    pub fn nodes_of_layer(&self, first: u32) -> Vec<u32> {
        let more = |number: &u32| Some(self.layers.get(*number).more.load(Ordering::Acquire));
        std::iter::successors(Some(first), |number| more(number).filter(|more| *more != 0)).collect()
    }

    /// The inner node that a split below this parent takes besides the right half: the root over the two halves. Got before
    /// anything is moved, because running out of nodes is a panic: what had moved by then would be in no tree.
    fn root_for(&self, parent: &Parent<'_>) -> u32 {
        match parent {
            Parent::Inner(..) => 0,
            Parent::Layer(_) => self.inners.allocate(),
        }
    }

    /// Lets a parent that is locked know the right half of its child.
    fn adopt(&self, parent: &Parent<'_>, root: u32, left: u32, separator: u64, right: u32) {
        match parent {
            Parent::Inner(inner, at) => inner.insert(*at, separator, right),
            Parent::Layer(layer) => {
                self.inners.get(root).fill(&[separator], &[left, right], 0);
                layer.root.store(root | INNER, Ordering::Release);
            }
        }
    }

    /// Moves the upper part of a locked leaf to a new one.
    fn split_leaf(&self, leaf: &Leaf, slice: u64, edges: Edges) -> (u64, u32) {
        let count = leaf.len();
        // Keys that come in order leave full leaves behind.
        let wanted = if edges.is_last && slice > leaf.slice(count - 1) {
            count - 1
        } else if edges.is_first && slice < leaf.slice(0) {
            1
        } else {
            count / 2
        };
        let cut = cut_near(count, wanted, |at| leaf.slice(at));
        let (entries, marks) = (leaf.entries(), leaf.marks());
        let right = self.leaves.allocate();
        self.leaves.get(right).fill(&entries[cut..], marks >> cut);
        leaf.cut(cut, count);
        (entries[cut].0, right)
    }

    /// Moves the upper half of a locked inner node to a new one.
    fn split_inner(&self, inner: &Inner, slice: u64, edges: Edges) -> (u64, u32) {
        let (slices, children, passed) = inner.contents();
        let cut = if edges.is_last && slice >= slices[slices.len() - 1] {
            slices.len() - 2
        } else {
            slices.len() / 2
        };
        let right = self.inners.allocate();
        let (lower, upper) = halves(passed, cut + 1);
        self.inners.get(right).fill(&slices[cut + 1..], &children[cut + 1..], upper);
        inner.set_passed(lower);
        inner.truncate(cut);
        (slices[cut], right | INNER)
    }
}

impl OrderedIndex {
    /// Splits the first full node on the way to `slice`, of which the leaf was one.
    #[cold]
    pub(super) fn make_room(&self, layer: u32, slice: u64) -> Attempt<()> {
        let nodes = &*self.nodes;
        let head = nodes.layers.get(layer);
        let mut parent = Parent::Layer(head);
        let mut parent_version = version(&head.version)?;
        let mut number = head.root.load(Ordering::Acquire);
        let mut edges = Edges { is_first: true, is_last: true };
        loop {
            let lock = nodes.lock_of(number);
            let seen = version(lock)?;
            check(parent.lock(), parent_version)?;
            let is_leaf = number & INNER == 0;
            let inner = nodes.inners.get(if is_leaf { 0 } else { number & !INNER });
            let is_full = if is_leaf {
                nodes.leaves.get(number).len() == LEAF_SLOTS
            } else {
                inner.len() == INNER_SLICES
            };
            if is_full {
                let mut locked_parent = Locked::new(parent.lock(), parent_version)?;
                let mut locked = Locked::new(lock, seen)?;
                if let (true, Parent::Inner(parent, child)) = (is_leaf, &parent) {
                    nodes.rouse(parent, *child);
                }
                let root = nodes.root_for(&parent);
                let (separator, right) = if is_leaf {
                    nodes.split_leaf(nodes.leaves.get(number), slice, edges)
                } else {
                    nodes.split_inner(inner, slice, edges)
                };
                nodes.adopt(&parent, root, number, separator, right);
                locked.changed();
                locked_parent.changed();
                return Ok(());
            }
            if is_leaf {
                return Ok(());
            }
            let count = inner.len();
            let child;
            (child, number) = inner.child_of(count, slice);
            edges =
                Edges { is_first: edges.is_first && child == 0, is_last: edges.is_last && child == count };
            parent = Parent::Inner(inner, child);
            parent_version = seen;
        }
    }

    /// Gives the `run` longer keys at a spot, and the one that ends with the slice, a layer of their own.
    #[cold]
    pub(super) fn make_layer(&self, key: &[u8], spot: &Spot<'_>, run: usize) -> Attempt<()> {
        let leaf = spot.leaf;
        let (mut from, to) = (spot.at, spot.at + run);
        if from > 0 && leaf.slice(from - 1) == spot.slice && leaf.word(from - 1).rank() == SLICE_BYTES as u64
        {
            from -= 1;
        }
        let words: Vec<Word> = (from..to).map(|at| leaf.word(at)).collect();
        spot.check()?;
        words.iter().for_each(|word| self.log.prefetch(&[word.addr()]));
        let shared = &key[..spot.offset + SLICE_BYTES];
        let mut rests: Vec<(Vec<u8>, usize)> = Vec::with_capacity(words.len());
        let mut unread = Vec::new();
        for (at, &word) in (from..).zip(&words) {
            match self.rest_of_key(word, shared) {
                Some(rest) => rests.push((rest, at)),
                None => unread.push(at),
            }
        }
        // They are sorted, unless one of them changed under our eyes.
        rests.sort();
        let prefix = rests
            .first()
            .zip(rests.last())
            .map_or(0, |((first, _), (last, _))| first.iter().zip(last).take_while(|(a, b)| a == b).count());
        let root = self.nodes.leaves.allocate();
        let layer = self.nodes.new_layer(rests.first().map_or(&[], |(rest, _)| &rest[..prefix]), root);
        let locked = Locked::new(&leaf.version, spot.version).ok().filter(|_| !leaf.is_passed());
        let Some(mut locked) = locked else {
            self.nodes.release_layer(layer);
            self.nodes.leaves.give_back([root]);
            return Err(Restart);
        };
        locked.changed();
        // The words of now: the entries may have been replaced or moved, the keys are the same.
        unread.iter().for_each(|&at| self.unplaced.add(leaf.word(at)));
        let entries: Vec<(u64, Word)> = rests
            .iter()
            .map(|(rest, at)| {
                let (slice, rank) = slice_at(rest, prefix);
                (slice, leaf.word(*at).ranked(rank))
            })
            .collect();
        self.nodes.leaves.get(root).fill(&entries, 0);
        leaf.set_word(from, Word::link(layer, SLICE_BYTES));
        leaf.cut(from + 1, to);
        Ok(())
    }

    /// The key of an entry behind `shared`, with which all keys here start; `None` if it cannot be read, or is damaged.
    fn rest_of_key(&self, word: Word, shared: &[u8]) -> Option<Vec<u8>> {
        self.with_key_of(word, |key| key.strip_prefix(shared).map(<[u8]>::to_vec)).flatten()
    }

    /// Puts a layer above the one that a link leads to, where a key leaves its prefix.
    #[cold]
    pub(super) fn split_prefix(&self, spot: &Spot<'_>, apart: &Apart) -> Attempt<()> {
        let nodes = &*self.nodes;
        let old = nodes.layers.get(apart.link.layer());
        let old_version = version(&old.version)?;
        let mut prefix = Vec::new();
        nodes.push_prefix(apart.link.layer(), &mut prefix);
        let (upper_prefix, rest) = prefix.split_at(apart.common);
        let slice_bytes = rest.len().min(SLICE_BYTES);
        let lower = nodes.new_layer(&rest[slice_bytes..], 0);
        let root = nodes.leaves.allocate();
        nodes.leaves.get(root).fill(&[(padded(&rest[..slice_bytes]), Word::link(lower, slice_bytes))], 0);
        let upper = nodes.new_layer(upper_prefix, root);
        let locks = Locked::new(&spot.leaf.version, spot.version)
            .and_then(|leaf| Ok((leaf, Locked::new(&old.version, old_version)?)))
            .ok()
            .filter(|_| spot.leaf.word(apart.at) == apart.link);
        let Some((_leaf, mut locked_old)) = locks else {
            nodes.release_layer(lower);
            nodes.release_layer(upper);
            nodes.leaves.give_back([root]);
            return Err(Restart);
        };
        nodes.layers.get(lower).root.store(old.root.load(Ordering::Acquire), Ordering::Release);
        spot.leaf.set_word(apart.at, Word::link(upper, apart.link.rank() as usize));
        locked_old.obsolete();
        let retired = apart.link.layer();
        self.retire(move |nodes| nodes.release_layer(retired));
        Ok(())
    }
}

impl Nodes {
    /// The lock of a node.
    #[inline]
    pub fn lock_of(&self, number: u32) -> &crate::sync::AtomicU64 {
        if number & INNER == 0 {
            &self.leaves.get(number).version
        } else {
            &self.inners.get(number & !INNER).version
        }
    }
}
