//! Scans: a few leaves beside each other are copied, each as it was at one moment, and with them the key at which the scan
//! goes on.
//!
//! That key is put together from what the nodes hold, the links and prefixes on the way and the separator beside the last
//! leaf; no entry has to be read for it, so a scan goes on behind damage. Nothing is remembered about nodes: whatever is
//! split, joined, moved or removed between two copies, the next walk starts from the first layer.

use super::beside::Fences;
use super::node::*;
use super::walk::Spot;
use super::{OrderedIndex, retry};
use crate::epoch::Guard;
use crate::index::arena::{LEAF_SLOTS, Leaf};
use crate::index::{Direction, Edge, InOrder, PassOver};
use crate::types::Addr;
use std::cmp::Ordering;
use std::ops::Range;

/// Entries whose bytes in the log are asked for at a time, and how many such groups ahead of use. Not more at a time: with twice
/// as many lines asked for at once a scan takes a tenth longer, with eight times as many more than half as long again.
const ASKED_TOGETHER: usize = 4;
const GROUPS_AHEAD: usize = 3;
/// Addresses that are copied at one time.
const BATCH_MAX: usize = 128;

/// What is left of a scan; where there is an edge, it is held beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    /// Keys from the edge on.
    From,
    /// Keys below the edge, the greatest first.
    Below,
    /// All keys, the greatest first.
    BelowAll,
    Nothing,
}

/// The addresses of a range, in order. See [`Index::scan`](crate::index::Index::scan).
pub struct Scan<'a, P> {
    index: &'a OrderedIndex,
    rest: Rest,
    edge: Vec<u8>,
    /// Where the next edge is put together.
    work: Vec<u8>,
    /// Addresses of a few leaves, those from `next` on not yet shown.
    batch: Vec<Addr>,
    next: usize,
    /// About how many more will be asked for.
    wanted: usize,
    passing: P,
    /// What is copied under one guard is readable under that guard.
    _guard: &'a Guard,
}

impl<'a, P: PassOver> Scan<'a, P> {
    pub fn new(
        index: &'a OrderedIndex,
        guard: &'a Guard,
        (from, direction): (Edge<'_>, Direction),
        wanted: usize,
        passing: P,
    ) -> Scan<'a, P> {
        let (rest, key, is_behind) = match (direction, from) {
            (Direction::Forward, Edge::Unbounded) => (Rest::From, &[][..], false),
            (Direction::Forward, Edge::Included(key)) => (Rest::From, key, false),
            (Direction::Forward, Edge::Excluded(key)) => (Rest::From, key, true),
            (Direction::Backward, Edge::Unbounded) => (Rest::BelowAll, &[][..], false),
            (Direction::Backward, Edge::Included(key)) => (Rest::Below, key, true),
            (Direction::Backward, Edge::Excluded(key)) => (Rest::Below, key, false),
        };
        // Who only asks whether there is an order takes no memory.
        let (mut edge, work, batch) = (Vec::new(), Vec::new(), Vec::new());
        if !key.is_empty() {
            edge.reserve_exact(key.len() + SLICE_BYTES);
            edge.extend_from_slice(key);
        }
        if is_behind {
            // The least key above `key` has a zero byte more.
            edge.push(0);
        }
        Scan { index, rest, edge, work, batch, next: 0, wanted, passing, _guard: guard }
    }

    #[inline(never)]
    fn fill(&mut self) {
        self.next = 0;
        self.batch.clear();
        // Whoever goes on behind what was wanted met entries that do not count: there may be many.
        let wanted = if self.wanted == 0 { BATCH_MAX } else { self.wanted.min(BATCH_MAX) };
        self.batch.reserve(wanted + LEAF_SLOTS);
        self.work.reserve(self.edge.len() + SLICE_BYTES);
        while self.batch.is_empty() && self.rest != Rest::Nothing {
            let (rest, edge, work) = (self.rest, &self.edge, &mut self.work);
            let mut batch = Batch { addrs: &mut self.batch, wanted, passing: &self.passing };
            self.rest = retry(|| {
                batch.addrs.clear();
                work.clear();
                work.extend_from_slice(edge);
                match rest {
                    Rest::From => self.index.copy_from(work, &mut batch),
                    Rest::Below => self.index.copy_below(work, true, &mut batch),
                    Rest::BelowAll => self.index.copy_below(work, false, &mut batch),
                    Rest::Nothing => Ok(Rest::Nothing),
                }
            });
            std::mem::swap(&mut self.edge, &mut self.work);
            if self.batch.is_empty() && self.rest != Rest::Nothing && self.passing.is_beyond(&self.edge) {
                self.rest = Rest::Nothing;
            }
        }
        self.wanted = self.wanted.saturating_sub(self.batch.len());
        self.passing.are_next(&self.batch[..wanted.min(self.batch.len())]);
    }
}

impl<P: PassOver> Iterator for Scan<'_, P> {
    type Item = Addr;

    #[inline(always)]
    fn next(&mut self) -> Option<Addr> {
        if self.next == self.batch.len() {
            self.fill();
        }
        let at = *self.batch.get(self.next)?;
        self.next += 1;
        if self.next.is_multiple_of(ASKED_TOGETHER) {
            let ahead = self.next + (GROUPS_AHEAD - 1) * ASKED_TOGETHER;
            self.index.ask_for(&self.batch, ahead..ahead + ASKED_TOGETHER);
        }
        Some(at)
    }
}

impl<P: PassOver> InOrder for Scan<'_, P> {
    fn resume(&self) -> Option<Edge<'_>> {
        match self.rest {
            Rest::From if self.next == self.batch.len() => Some(Edge::Included(&self.edge)),
            Rest::Below if self.next == self.batch.len() => Some(Edge::Excluded(&self.edge)),
            _ => None,
        }
    }
}

/// Addresses that are being copied.
struct Batch<'b, P> {
    addrs: &'b mut Vec<Addr>,
    wanted: usize,
    passing: &'b P,
}

impl<P: PassOver> Batch<'_, P> {
    /// Adds the addresses of these slots, up to the first link; that link and its slice, if there is one.
    #[inline]
    fn copy_slots(&mut self, leaf: &Leaf, slots: Range<usize>, direction: Direction) -> Option<(u64, Word)> {
        let marks = leaf.marks();
        if marks == 0 && direction == Direction::Forward {
            return self.copy_unmarked(leaf, slots);
        }
        let mut left = (1_u64 << slots.end) - (1 << slots.start);
        // Asked after the marks were read: whatever was marked since does not count.
        if marks != 0 && self.passing.all() {
            left &= !marks;
        }
        while left != 0 {
            let slot = match direction {
                Direction::Forward => left.trailing_zeros(),
                Direction::Backward => left.ilog2(),
            } as usize;
            left &= !(1 << slot);
            let word = leaf.word(slot);
            if word.is_link() {
                return Some((leaf.slice(slot), word));
            }
            if marks >> slot & 1 == 0 || !self.passing.one(word.addr()) {
                self.addrs.push(word.addr());
            }
        }
        None
    }

    /// The same upwards, where there are no tombstones.
    #[inline]
    fn copy_unmarked(&mut self, leaf: &Leaf, slots: Range<usize>) -> Option<(u64, Word)> {
        self.addrs.reserve(slots.len());
        for slot in slots {
            let word = leaf.word(slot);
            if word.is_link() {
                return Some((leaf.slice(slot), word));
            }
            self.addrs.push(word.addr());
        }
        None
    }
}

/// The least key above all that start with `start`.
fn behind_all(start: &mut Vec<u8>) -> Rest {
    if step_over(start) { Rest::From } else { Rest::Nothing }
}

impl OrderedIndex {
    /// The place of `(slice, rank)` in the leaf that holds `walked`.
    fn spot_of_scan(
        &self,
        layer: u32,
        offset: usize,
        walked: u64,
        (slice, rank): (u64, u64),
    ) -> Attempt<(Spot<'_>, Fences<'_>)> {
        let mut fences = Fences::default();
        let (number, version) = self.nodes.walk(layer, walked, |inner, seen, child, count| {
            fences.pass(inner, seen, child, count);
        })?;
        let leaf = self.nodes.leaves.get(number);
        let count = leaf.len();
        let at = leaf.lower_bound(count, slice, rank);
        Ok((Spot { layer, offset, slice, rank, number, leaf, version, count, at }, fences))
    }

    /// The slot before which a key of rank `RANK_LONGER` belongs: runs are ordered by the log.
    fn place(&self, key: &[u8], spot: &Spot<'_>) -> Attempt<usize> {
        if spot.rank < RANK_LONGER {
            return Ok(spot.at);
        }
        let run = spot.candidates().count();
        if run == 0 { Ok(spot.at) } else { self.place_in_run(key, spot, run) }
    }

    /// Asks for the bytes of those entries of a batch.
    #[inline]
    fn ask_for(&self, batch: &[Addr], range: Range<usize>) {
        let asked = range.start.min(batch.len())..range.end.min(batch.len());
        self.log.prefetch(&batch[asked]);
    }

    /// The same for those that were copied behind the first `copied`, of the groups that are needed first: before further
    /// leaves are read, which takes about as long.
    #[inline]
    fn ask_for_first(&self, batch: &[Addr], copied: usize) {
        if copied < GROUPS_AHEAD * ASKED_TOGETHER {
            self.ask_for(batch, copied..GROUPS_AHEAD * ASKED_TOGETHER);
        }
    }

    /// Copies addresses of what lies behind a leaf, until there are as many as wanted, and says where it stopped.
    #[inline]
    fn copy_beside<'a>(
        &'a self,
        mut fences: Fences<'a>,
        direction: Direction,
        batch: &mut Batch<'_, impl PassOver>,
    ) -> (Fences<'a>, Option<(u64, Word)>) {
        let nodes = &*self.nodes;
        // Of leaves with nothing to show only the marks are read: asking for more would take longer than passing over them.
        let mut is_passing = batch.addrs.is_empty();
        if is_passing {
            fences = fences.pass_over(direction, || batch.passing.all());
            fences.prefetch_heads(nodes, direction, true);
        }
        while batch.addrs.len() < batch.wanted
            && let Some((leaf, seen, next)) = fences.step(nodes, direction)
        {
            let copied = batch.addrs.len();
            if is_passing {
                next.prefetch_heads(nodes, direction, false);
            } else {
                next.prefetch(nodes, direction, (batch.wanted - copied).saturating_sub(LEAF_SLOTS), false);
            }
            let link = batch.copy_slots(leaf, 0..leaf.len(), direction);
            if check(&leaf.version, seen).is_err() {
                // What was copied before it counts.
                batch.addrs.truncate(copied);
                break;
            }
            is_passing = batch.addrs.len() == copied;
            self.ask_for_first(batch.addrs, copied);
            fences = next;
            if link.is_some() {
                return (fences, link);
            }
            if is_passing {
                fences = fences.pass_over(direction, || batch.passing.all());
            }
        }
        (fences, None)
    }

    /// Copies addresses of keys from `key` on, up to the end of a leaf or a link in it, and says what comes then: `key` is
    /// its edge.
    fn copy_from(&self, key: &mut Vec<u8>, batch: &mut Batch<'_, impl PassOver>) -> Attempt<Rest> {
        let (mut layer, mut offset, mut layer_start) = (self.first, 0, 0);
        // All of `key` up to `offset` is what the keys of this layer start with, up to `layer_start` what its link covers.
        loop {
            let (spot, mut fences) =
                self.spot_of_scan(layer, offset, padded(&key[offset..]), slice_at(key, offset))?;
            let beside = batch.wanted.saturating_sub(spot.count - spot.at);
            fences.prefetch(&self.nodes, Direction::Forward, beside, true);
            let mut at = self.place(key, &spot)?;
            let mut link = None;
            if at > 0 && spot.leaf.word(at - 1).covers(spot.leaf.slice(at - 1), spot.slice, spot.rank) {
                link = Some(at - 1);
            } else if at < spot.count && spot.leaf.word(at).is_link() {
                link = Some(at);
            }
            if let Some(slot) = link {
                let (slice, word) = (spot.leaf.slice(slot), spot.leaf.word(slot));
                spot.check()?;
                match self.enter(key, offset, (slice, word)) {
                    Ordering::Greater => at = slot + 1,
                    order => {
                        if order == Ordering::Less {
                            key.truncate(offset);
                            push_bytes(key, slice, word.rank() as usize);
                            self.nodes.push_prefix(word.layer(), key);
                        }
                        layer_start = offset + word.rank() as usize;
                        offset = layer_start + self.nodes.layers.get(word.layer()).prefix_len();
                        layer = word.layer();
                        continue;
                    }
                }
            }
            let mut stopped = batch.copy_slots(spot.leaf, at..spot.count, Direction::Forward);
            spot.check()?;
            self.ask_for_first(batch.addrs, 0);
            if stopped.is_none() {
                (fences, stopped) = self.copy_beside(fences, Direction::Forward, batch);
            }
            key.truncate(offset);
            return Ok(match (stopped, fences.upper) {
                (Some((slice, word)), _) => {
                    push_bytes(key, slice, word.rank() as usize);
                    Rest::From
                }
                (None, Some(upper)) => {
                    push_separator(key, upper);
                    Rest::From
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
    fn copy_below(
        &self,
        key: &mut Vec<u8>,
        mut is_bounded: bool,
        batch: &mut Batch<'_, impl PassOver>,
    ) -> Attempt<Rest> {
        let (mut layer, mut offset, mut layer_start) = (self.first, 0, 0);
        loop {
            let target = if is_bounded { slice_at(key, offset) } else { (u64::MAX, RANK_LONGER + 1) };
            // Where the key is the least of its slice, what lies below it has another slice, and maybe another leaf.
            let walked = if target.1 == least_rank(target.0) { target.0.saturating_sub(1) } else { target.0 };
            let (spot, mut fences) = self.spot_of_scan(layer, offset, walked, target)?;
            let beside = batch.wanted.saturating_sub(spot.at);
            fences.prefetch(&self.nodes, Direction::Backward, beside, true);
            let mut at = if is_bounded { self.place(key, &spot)? } else { spot.count };
            if at > 0 && spot.leaf.word(at - 1).is_link() {
                let (slice, word) = (spot.leaf.slice(at - 1), spot.leaf.word(at - 1));
                spot.check()?;
                let order =
                    if is_bounded { self.enter(key, offset, (slice, word)) } else { Ordering::Greater };
                if order == Ordering::Less {
                    at -= 1;
                } else {
                    if order == Ordering::Greater {
                        key.truncate(offset);
                        push_bytes(key, slice, word.rank() as usize);
                        self.nodes.push_prefix(word.layer(), key);
                        is_bounded = false;
                    }
                    layer_start = offset + word.rank() as usize;
                    offset = layer_start + self.nodes.layers.get(word.layer()).prefix_len();
                    layer = word.layer();
                    continue;
                }
            }
            let mut stopped = batch.copy_slots(spot.leaf, 0..at, Direction::Backward);
            spot.check()?;
            self.ask_for_first(batch.addrs, 0);
            if stopped.is_none() {
                (fences, stopped) = self.copy_beside(fences, Direction::Backward, batch);
            }
            key.truncate(offset);
            return Ok(match (stopped, fences.lower) {
                (Some((slice, word)), _) => {
                    push_bytes(key, slice, word.rank() as usize);
                    // Entries above the link were copied, so there is something above all that it covers.
                    if step_over(key) { Rest::Below } else { Rest::Nothing }
                }
                (None, Some(lower)) => {
                    push_separator(key, lower);
                    Rest::Below
                }
                (None, None) if layer == self.first => Rest::Nothing,
                (None, None) => {
                    key.truncate(layer_start);
                    Rest::Below
                }
            });
        }
    }
}
