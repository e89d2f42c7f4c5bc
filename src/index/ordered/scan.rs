//! Scans: one leaf at a time is copied as it was at one moment, and with it the key at which the next one goes on.
//!
//! That key is put together from what the nodes hold, the links and prefixes on the way and the separator beside the
//! leaf; no entry has to be read for it, so a scan goes on behind damage. Nothing is remembered about nodes: whatever is
//! split, joined, moved or removed between two leaves, the next walk starts from the first layer.

use super::node::*;
use super::walk::Spot;
use super::{FIRST_LAYER, OrderedIndex, retry};
use crate::epoch::Guard;
use crate::index::arena::{Inner, LEAF_SLOTS};
use crate::index::{Direction, Edge, InOrder};
use crate::types::Addr;
use std::cmp::Ordering;

/// Entries whose bytes in the log are asked for ahead of use.
const LOOKAHEAD: usize = 8;

/// What is left of a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Rest {
    /// Keys from this one on.
    From(Vec<u8>),
    /// Keys below this one, the greatest first.
    Below(Vec<u8>),
    /// All keys, the greatest first.
    BelowAll,
    Nothing,
}

/// The addresses of a range, in order. See [`Index::scan`](crate::index::Index::scan).
pub struct Scan<'a> {
    index: &'a OrderedIndex,
    rest: Rest,
    /// Addresses of one leaf, those from `next` on not yet shown.
    batch: Vec<Addr>,
    next: usize,
    /// What is copied under one guard is readable under that guard.
    _guard: &'a Guard,
}

impl<'a> Scan<'a> {
    pub fn new(index: &'a OrderedIndex, guard: &'a Guard, from: Edge<'_>, direction: Direction) -> Scan<'a> {
        // The least key above `key` has a zero byte more.
        let behind = |key: &[u8]| [key, &[0]].concat();
        let rest = match (direction, from) {
            (Direction::Forward, Edge::Unbounded) => Rest::From(Vec::new()),
            (Direction::Forward, Edge::Included(key)) => Rest::From(key.to_vec()),
            (Direction::Forward, Edge::Excluded(key)) => Rest::From(behind(key)),
            (Direction::Backward, Edge::Unbounded) => Rest::BelowAll,
            (Direction::Backward, Edge::Included(key)) => Rest::Below(behind(key)),
            (Direction::Backward, Edge::Excluded(key)) => Rest::Below(key.to_vec()),
        };
        Scan { index, rest, batch: Vec::with_capacity(LEAF_SLOTS), next: 0, _guard: guard }
    }

    fn fill(&mut self) {
        self.next = 0;
        self.batch.clear();
        while self.batch.is_empty() && self.rest != Rest::Nothing {
            let batch = &mut self.batch;
            self.rest = retry(|| {
                batch.clear();
                match &self.rest {
                    Rest::From(key) => self.index.copy_from(key.clone(), batch),
                    Rest::Below(key) => self.index.copy_below(key.clone(), true, batch),
                    Rest::BelowAll => self.index.copy_below(Vec::new(), false, batch),
                    Rest::Nothing => Ok(Rest::Nothing),
                }
            });
        }
        self.batch.iter().take(LOOKAHEAD).for_each(|&at| self.index.log.prefetch(at));
    }
}

impl Iterator for Scan<'_> {
    type Item = Addr;

    #[inline]
    fn next(&mut self) -> Option<Addr> {
        if self.next == self.batch.len() {
            self.fill();
        }
        let at = *self.batch.get(self.next)?;
        self.next += 1;
        if let Some(&ahead) = self.batch.get(self.next + LOOKAHEAD - 1) {
            self.index.log.prefetch(ahead);
        }
        Some(at)
    }
}

impl InOrder for Scan<'_> {
    fn resume(&self) -> Option<Edge<'_>> {
        match &self.rest {
            Rest::From(key) if self.next == self.batch.len() => Some(Edge::Included(key)),
            Rest::Below(key) if self.next == self.batch.len() => Some(Edge::Excluded(key)),
            _ => None,
        }
    }
}

/// The separators beside a leaf.
#[derive(Default)]
struct Fences {
    lower: Option<u64>,
    upper: Option<u64>,
}

impl Fences {
    fn pass(&mut self, inner: &Inner, child: usize, count: usize) {
        if child > 0 {
            self.lower = Some(inner.slice(child - 1));
        }
        if child < count {
            self.upper = Some(inner.slice(child));
        }
    }
}

/// The least key above all that start with `start`.
fn behind_all(mut start: Vec<u8>) -> Rest {
    if step_over(&mut start) { Rest::From(start) } else { Rest::Nothing }
}

impl OrderedIndex {
    /// The place of `(slice, rank)` in the leaf that holds `walked`.
    fn spot_of_scan(
        &self,
        layer: u32,
        offset: usize,
        walked: u64,
        (slice, rank): (u64, u64),
    ) -> Attempt<(Spot<'_>, Fences)> {
        let mut fences = Fences::default();
        let walked = self.nodes.walk(layer, walked, |inner, child, count| fences.pass(inner, child, count));
        let (leaf, version) = walked?;
        let count = leaf.len();
        let at = leaf.lower_bound(count, slice, rank);
        Ok((Spot { layer, offset, slice, rank, leaf, version, count, at }, fences))
    }

    /// The slot before which a key of rank `RANK_LONGER` belongs: runs are ordered by the log.
    fn place(&self, key: &[u8], spot: &Spot<'_>) -> Attempt<usize> {
        if spot.rank < RANK_LONGER {
            return Ok(spot.at);
        }
        let run = spot.candidates().count();
        if run == 0 { Ok(spot.at) } else { self.place_in_run(key, spot, run) }
    }

    /// Copies addresses of keys from `key` on, up to the end of the first leaf or a link in it, and says what comes then.
    fn copy_from(&self, mut key: Vec<u8>, batch: &mut Vec<Addr>) -> Attempt<Rest> {
        let (mut layer, mut offset, mut layer_start) = (FIRST_LAYER, 0, 0);
        // All of `key` up to `offset` is what the keys of this layer start with, up to `layer_start` what its link covers.
        loop {
            let (spot, fences) =
                self.spot_of_scan(layer, offset, padded(&key[offset..]), slice_at(&key, offset))?;
            let mut at = self.place(&key, &spot)?;
            let mut link = None;
            if at > 0 && spot.leaf.word(at - 1).covers(spot.leaf.slice(at - 1), spot.slice, spot.rank) {
                link = Some(at - 1);
            } else if at < spot.count && spot.leaf.word(at).is_link() {
                link = Some(at);
            }
            if let Some(slot) = link {
                let (slice, word) = (spot.leaf.slice(slot), spot.leaf.word(slot));
                spot.check()?;
                match self.enter(&key, offset, (slice, word)) {
                    Ordering::Greater => at = slot + 1,
                    order => {
                        if order == Ordering::Less {
                            key.truncate(offset);
                            push_bytes(&mut key, slice, word.rank() as usize);
                            self.nodes.push_prefix(word.layer(), &mut key);
                        }
                        layer_start = offset + word.rank() as usize;
                        offset = layer_start + self.nodes.layers.get(word.layer()).prefix_len();
                        layer = word.layer();
                        continue;
                    }
                }
            }
            let mut stopped = None;
            for slot in at..spot.count {
                let word = spot.leaf.word(slot);
                if word.is_link() {
                    stopped = Some((spot.leaf.slice(slot), word));
                    break;
                }
                batch.push(word.addr());
            }
            spot.check()?;
            key.truncate(offset);
            return Ok(match (stopped, fences.upper) {
                (Some((slice, word)), _) => {
                    push_bytes(&mut key, slice, word.rank() as usize);
                    Rest::From(key)
                }
                (None, Some(upper)) => {
                    push_separator(&mut key, upper);
                    Rest::From(key)
                }
                (None, None) => {
                    key.truncate(layer_start);
                    behind_all(key)
                }
            });
        }
    }

    /// How a key compares with those that a link covers: `Equal` if it lies among them.
    fn enter(&self, key: &[u8], offset: usize, (slice, word): (u64, Word)) -> Ordering {
        let (own, rank) = slice_at(key, offset);
        if !word.covers(slice, own, rank) {
            return if (own, rank) < (slice, word.rank()) { Ordering::Less } else { Ordering::Greater };
        }
        match self.nodes.match_prefix(word.layer(), &key[offset + word.rank() as usize..]) {
            Ok(_) => Ordering::Equal,
            Err((_, true)) => Ordering::Less,
            Err((_, false)) => Ordering::Greater,
        }
    }

    /// The same downwards. `is_bounded`: keys below `key`; else all keys of the layer at hand.
    fn copy_below(&self, mut key: Vec<u8>, mut is_bounded: bool, batch: &mut Vec<Addr>) -> Attempt<Rest> {
        let (mut layer, mut offset, mut layer_start) = (FIRST_LAYER, 0, 0);
        loop {
            let target = if is_bounded { slice_at(&key, offset) } else { (u64::MAX, RANK_LONGER + 1) };
            // Where the key is the least of its slice, what lies below it has another slice, and maybe another leaf.
            let walked = if target.1 == least_rank(target.0) { target.0.saturating_sub(1) } else { target.0 };
            let (spot, fences) = self.spot_of_scan(layer, offset, walked, target)?;
            let mut at = if is_bounded { self.place(&key, &spot)? } else { spot.count };
            if at > 0 && spot.leaf.word(at - 1).is_link() {
                let (slice, word) = (spot.leaf.slice(at - 1), spot.leaf.word(at - 1));
                spot.check()?;
                let order =
                    if is_bounded { self.enter(&key, offset, (slice, word)) } else { Ordering::Greater };
                if order == Ordering::Less {
                    at -= 1;
                } else {
                    if order == Ordering::Greater {
                        key.truncate(offset);
                        push_bytes(&mut key, slice, word.rank() as usize);
                        self.nodes.push_prefix(word.layer(), &mut key);
                        is_bounded = false;
                    }
                    layer_start = offset + word.rank() as usize;
                    offset = layer_start + self.nodes.layers.get(word.layer()).prefix_len();
                    layer = word.layer();
                    continue;
                }
            }
            let mut stopped = None;
            for slot in (0..at).rev() {
                let word = spot.leaf.word(slot);
                if word.is_link() {
                    stopped = Some((spot.leaf.slice(slot), word));
                    break;
                }
                batch.push(word.addr());
            }
            spot.check()?;
            key.truncate(offset);
            return Ok(match (stopped, fences.lower) {
                (Some((slice, word)), _) => {
                    push_bytes(&mut key, slice, word.rank() as usize);
                    // Entries above the link were copied, so there is something above all that it covers.
                    if step_over(&mut key) { Rest::Below(key) } else { Rest::Nothing }
                }
                (None, Some(lower)) => {
                    push_separator(&mut key, lower);
                    Rest::Below(key)
                }
                (None, None) if layer == FIRST_LAYER => Rest::Nothing,
                (None, None) => {
                    key.truncate(layer_start);
                    Rest::Below(key)
                }
            });
        }
    }
}
