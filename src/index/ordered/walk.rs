//! From a key to the slot where it is or would be.

use super::node::*;
use super::{Nodes, PREFETCH_GROUP};
use crate::index::Key;
use crate::index::arena::{Inner, LAYER_WORDS, Layer, Leaf};
use crate::sync::{AtomicU64, Ordering};

/// A place in a leaf, as it was when the leaf had this version.
pub struct Spot<'a> {
    pub layer: u32,
    /// Bytes of the key before its slice here.
    pub offset: usize,
    pub slice: u64,
    pub rank: u64,
    /// The number of the leaf.
    pub number: u32,
    pub leaf: &'a Leaf,
    pub version: u64,
    pub count: usize,
    /// The first slot that is not below slice and rank.
    pub at: usize,
}

/// A link whose layer has another prefix than the key.
pub struct Apart {
    /// The slot of the link.
    pub at: usize,
    pub link: Word,
    /// Bytes of the prefix that the key has, too.
    pub common: usize,
}

/// Where a key belongs.
pub enum Place<'a> {
    /// In this leaf.
    Here(Spot<'a>),
    /// In a layer that does not exist yet, above the one that a link of this leaf leads to.
    Apart(Spot<'a>, Apart),
}

impl<'a> Spot<'a> {
    #[inline]
    pub fn check(&self) -> Attempt<()> {
        check(&self.leaf.version, self.version)
    }

    /// Words of the slots with this slice and rank: of one key, or of a run.
    #[inline]
    pub fn candidates(&self) -> impl Iterator<Item = Word> + use<'a> {
        let (leaf, slice, rank) = (self.leaf, self.slice, self.rank);
        (self.at..self.count)
            .map(move |at| (leaf.slice(at), leaf.word(at)))
            .take_while(move |(other, word)| *other == slice && word.rank() == rank)
            .map(|(_, word)| word)
    }

    /// The slot with a link that covers the slice, and the link. Not validated.
    #[inline]
    pub fn link(&self) -> Option<(usize, Word)> {
        let covers = |at: usize| {
            let word = self.leaf.word(at);
            word.covers(self.leaf.slice(at), self.slice, self.rank).then_some((at, word))
        };
        if self.at < self.count
            && let Some(link) = covers(self.at)
        {
            return Some(link);
        }
        if self.at > 0 { covers(self.at - 1) } else { None }
    }
}

impl Nodes {
    /// The number of the leaf of a layer that holds `slice`, and its version. Shows the inner nodes on the way, their versions, and which of
    /// their children was taken; what they show is valid if the walk succeeds.
    #[inline]
    pub fn walk<'a>(
        &'a self,
        layer: u32,
        slice: u64,
        mut passed: impl FnMut(&'a Inner, u64, usize, usize),
    ) -> Attempt<(u32, u64)> {
        let head = self.layers.get(layer);
        let mut lock = &head.version;
        let mut seen = version(lock)?;
        let mut number = head.root.load(Ordering::Acquire);
        loop {
            if number & INNER == 0 {
                let leaf = self.leaves.get(number);
                leaf.prefetch();
                let leaf_version = version(&leaf.version)?;
                check(lock, seen)?;
                return Ok((number, leaf_version));
            }
            let inner = self.inners.get(number & !INNER);
            inner.prefetch();
            let inner_version = version(&inner.version)?;
            check(lock, seen)?;
            let count = inner.len();
            let child;
            (child, number) = inner.child_of(count, slice);
            passed(inner, inner_version, child, count);
            (lock, seen) = (&inner.version, inner_version);
        }
    }

    /// The place of a slice in one layer, and a link there that covers it.
    #[inline]
    pub fn find(&self, layer: u32, key: &[u8], offset: usize) -> Attempt<(Spot<'_>, Option<(usize, Word)>)> {
        let (slice, rank) = slice_at(key, offset);
        let (number, version) = self.walk(layer, slice, |_, _, _, _| {})?;
        let leaf = self.leaves.get(number);
        let count = leaf.len();
        let at = leaf.lower_bound(count, slice, rank);
        let spot = Spot { layer, offset, slice, rank, number, leaf, version, count, at };
        let link = spot.link();
        spot.check()?;
        Ok((spot, link))
    }

    /// The place of a key.
    #[inline]
    pub fn locate(&self, first: u32, key: &[u8]) -> Attempt<Place<'_>> {
        let (mut layer, mut offset) = (first, 0);
        loop {
            let (spot, link) = self.find(layer, key, offset)?;
            let Some((at, link)) = link else { return Ok(Place::Here(spot)) };
            offset += link.rank() as usize;
            match self.match_prefix(link.layer(), &key[offset..]) {
                Ok(len) => offset += len,
                Err((common, _)) => return Ok(Place::Apart(spot, Apart { at, link, common })),
            }
            layer = link.layer();
        }
    }

    /// The length of a layer's prefix if `rest` starts with it; else how many bytes are the same, and whether `rest` is
    /// below the prefix.
    #[inline]
    pub fn match_prefix(&self, layer: u32, rest: &[u8]) -> Result<usize, (usize, bool)> {
        let mut node = self.layers.get(layer);
        let len = node.prefix_len();
        let mut done = 0;
        while done < len {
            for word in 0..LAYER_WORDS {
                let here = (len - done).min(SLICE_BYTES);
                let theirs = &rest[done.min(rest.len())..(done + here).min(rest.len())];
                let (ours, slice) = (node.prefix_word(word), padded(theirs));
                let same = ((ours ^ slice).leading_zeros() as usize / 8).min(theirs.len());
                if same < here {
                    return Err((done + same, same == theirs.len() || slice < ours));
                }
                done += here;
                if done == len {
                    return Ok(len);
                }
            }
            node = self.layers.get(node.more.load(Ordering::Acquire));
        }
        Ok(len)
    }

    /// The prefix of a layer.
    pub fn push_prefix(&self, layer: u32, key: &mut Vec<u8>) {
        let mut node = self.layers.get(layer);
        let mut left = node.prefix_len();
        while left > 0 {
            for word in 0..LAYER_WORDS {
                let here = left.min(SLICE_BYTES);
                push_bytes(key, node.prefix_word(word), here);
                left -= here;
            }
            node = self.layers.get(node.more.load(Ordering::Acquire));
        }
    }

    /// Walks several keys down side by side: each step asks for the next node of every key, so that the misses of one
    /// level overlap. Versions do not matter to a hint; numbers that were in a node at some time lead to a node.
    pub fn prefetch(&self, first: u32, keys: &[Key<'_>]) {
        let mut at = [(0_u32, 0_u64); PREFETCH_GROUP];
        let root = self.layers.get(first).root.load(Ordering::Acquire);
        for (at, key) in at.iter_mut().zip(keys) {
            *at = (root, padded(key.bytes));
        }
        let at = &mut at[..keys.len()];
        let mut is_deeper = root & INNER != 0;
        while is_deeper {
            is_deeper = false;
            for (number, slice) in at.iter_mut() {
                if *number & INNER != 0 {
                    let inner = self.inners.get(*number & !INNER);
                    (_, *number) = inner.child_of(inner.len(), *slice);
                    if *number & INNER != 0 {
                        self.inners.get(*number & !INNER).prefetch();
                        is_deeper = true;
                    } else {
                        self.leaves.get(*number).prefetch();
                    }
                }
            }
        }
    }
}

/// The nodes above a leaf where it can be split or joined.
pub enum Parent<'a> {
    Layer(&'a Layer),
    Inner(&'a Inner, usize),
}

impl Parent<'_> {
    pub fn lock(&self) -> &AtomicU64 {
        match self {
            Parent::Layer(layer) => &layer.version,
            Parent::Inner(inner, _) => &inner.version,
        }
    }
}
