//! Walking several keys down side by side. Each step of a key asks for the lines that its next one reads and leaves the CPU
//! to the others, so that the misses of a level overlap. Every step is validated as in `walk.rs`; a walk that would have to
//! start again is given up: for so few the caller walks alone.

use super::node::*;
use super::walk::Spot;
use super::{Nodes, PREFETCH_GROUP};
use crate::index::Key;
use crate::sync::{AtomicU64, Ordering};

/// What a walk looks at next.
#[derive(Clone, Copy)]
enum Next {
    Node(u32),
    /// A leaf, its version, and the first slot that is not below the slice.
    Slots(u32, u64, usize),
    /// The layer that a link leads to.
    Layer(u32),
}

/// How far the walk of a key is.
#[derive(Clone, Copy)]
struct Way<'a> {
    layer: u32,
    offset: usize,
    slice: u64,
    rank: u64,
    /// The lock of what led here, and its version then.
    lock: &'a AtomicU64,
    seen: u64,
    next: Next,
}

impl Nodes {
    /// Shows the places of keys in leaves, each with its number among `keys`, in any order, but for those that change.
    #[inline]
    pub fn locate_group<'a>(&'a self, first: u32, keys: &[Key<'_>], mut show: impl FnMut(usize, Spot<'a>)) {
        assert!(keys.len() <= PREFETCH_GROUP);
        let mut ways = [None; PREFETCH_GROUP];
        let ways = &mut ways[..keys.len()];
        for (way, key) in ways.iter_mut().zip(keys) {
            *way = self.enter(first, key.bytes, 0).ok();
        }
        let mut is_any_left = true;
        while is_any_left {
            is_any_left = false;
            for (number, slot) in ways.iter_mut().enumerate() {
                let Some(way) = slot else { continue };
                match self.step(way, keys[number].bytes) {
                    Ok(None) => is_any_left = true,
                    Ok(Some(spot)) => {
                        *slot = None;
                        show(number, spot);
                    }
                    Err(Restart) => *slot = None,
                }
            }
        }
    }

    /// The beginning of a walk through a layer.
    #[inline]
    fn enter(&self, layer: u32, key: &[u8], offset: usize) -> Attempt<Way<'_>> {
        let head = self.layers.get(layer);
        let seen = version(&head.version)?;
        let root = head.root.load(Ordering::Acquire);
        self.ask_for(root);
        let (slice, rank) = slice_at(key, offset);
        Ok(Way { layer, offset, slice, rank, lock: &head.version, seen, next: Next::Node(root) })
    }

    #[inline]
    fn ask_for(&self, number: u32) {
        if number & INNER != 0 {
            self.inners.get(number & !INNER).prefetch();
        } else {
            self.leaves.get(number).prefetch_slices();
        }
    }

    /// The place of the key, if that is what the last step was for.
    #[inline]
    fn step<'a>(&'a self, way: &mut Way<'a>, key: &[u8]) -> Attempt<Option<Spot<'a>>> {
        match way.next {
            Next::Node(number) if number & INNER != 0 => {
                let inner = self.inners.get(number & !INNER);
                let seen = version(&inner.version)?;
                check(way.lock, way.seen)?;
                (way.lock, way.seen) = (&inner.version, seen);
                let (_, child) = inner.child_of(inner.len(), way.slice);
                self.ask_for(child);
                way.next = Next::Node(child);
            }
            Next::Node(number) => {
                let leaf = self.leaves.get(number);
                let seen = version(&leaf.version)?;
                check(way.lock, way.seen)?;
                let at = leaf.first_of(leaf.len(), way.slice);
                leaf.prefetch_word(at);
                way.next = Next::Slots(number, seen, at);
            }
            Next::Slots(number, version, at) => return self.place_of(way, number, version, at),
            Next::Layer(layer) => {
                let rest = &key[way.offset..];
                // Where a key leaves a prefix is for who walks alone.
                let prefix = self.match_prefix(layer, rest).map_err(|_| Restart)?;
                *way = self.enter(layer, key, way.offset + prefix)?;
            }
        }
        Ok(None)
    }

    #[inline]
    fn place_of<'a>(
        &'a self,
        way: &mut Way<'a>,
        number: u32,
        version: u64,
        at: usize,
    ) -> Attempt<Option<Spot<'a>>> {
        let leaf = self.leaves.get(number);
        let Way { layer, offset, slice, rank, .. } = *way;
        let count = leaf.len();
        let at = leaf.skip_lower_ranks(at, count, slice, rank);
        let spot = Spot { layer, offset, slice, rank, number, leaf, version, count, at };
        let link = spot.link();
        spot.check()?;
        let Some((_, link)) = link else { return Ok(Some(spot)) };
        self.layers.get(link.layer()).prefetch();
        way.offset += link.rank() as usize;
        way.next = Next::Layer(link.layer());
        Ok(None)
    }
}
