//! About how many entries a range has: nodes that lie wholly in it are sampled, those at its ends are counted.

use super::Nodes;
use super::node::*;
use crate::index::Edge;
use crate::sync::Ordering;

/// Nodes of one level that are looked at for all of that level.
const SAMPLES: usize = 8;
/// Layers below each other that are looked into; what lies deeper counts as one entry.
const LAYERS_MAX: usize = 32;

/// A range inside one layer: keys from `low` on and below `high`, where there are such ends.
#[derive(Clone, Copy)]
struct Range<'k> {
    low: Option<&'k [u8]>,
    high: Option<&'k [u8]>,
}

impl<'k> Range<'k> {
    const ALL: Range<'static> = Range { low: None, high: None };

    /// Slice and rank of both ends.
    fn slices(&self) -> [Option<(u64, u64)>; 2] {
        [self.low, self.high].map(|end| end.map(|key| slice_at(key, 0)))
    }

    /// What is left of it among the keys that a link covers; `None` if nothing is.
    fn inside(self, nodes: &Nodes, slice: u64, word: Word) -> Option<Range<'k>> {
        // The end inside the link, or `Err` with whether the link lies below it.
        let place = |key: &'k [u8]| -> Result<&'k [u8], bool> {
            let (own, rank) = slice_at(key, 0);
            if !word.covers(slice, own, rank) {
                return Err((slice, word.rank()) < (own, rank));
            }
            let rest = &key[word.rank() as usize..];
            match nodes.match_prefix(word.layer(), rest) {
                Ok(prefix) => Ok(&rest[prefix..]),
                Err((_, is_below)) => Err(!is_below),
            }
        };
        let low = match self.low.map(place) {
            Some(Ok(rest)) => Some(rest),
            Some(Err(true)) => return None,
            Some(Err(false)) | None => None,
        };
        let high = match self.high.map(place) {
            Some(Ok(rest)) => Some(rest),
            Some(Err(false)) => return None,
            Some(Err(true)) | None => None,
        };
        Some(Range { low, high })
    }
}

impl Nodes {
    /// See [`Index::estimate`](crate::index::Index::estimate). Reads without validation: what changes meanwhile was never
    /// more than an estimate, and numbers that were in a node lead to a node.
    pub fn estimate(&self, first: u32, from: Edge<'_>, to: Edge<'_>) -> u64 {
        let behind = |key: &[u8]| [key, &[0]].concat();
        let low = match from {
            Edge::Unbounded => None,
            Edge::Included(key) => Some(key.to_vec()),
            Edge::Excluded(key) => Some(behind(key)),
        };
        let high = match to {
            Edge::Unbounded => None,
            Edge::Included(key) => Some(behind(key)),
            Edge::Excluded(key) => Some(key.to_vec()),
        };
        if low.as_ref().zip(high.as_ref()).is_some_and(|(low, high)| low >= high) {
            return 0;
        }
        let range = Range { low: low.as_deref(), high: high.as_deref() };
        self.estimate_layer(first, range, SAMPLES * SAMPLES, LAYERS_MAX).round() as u64
    }

    fn estimate_layer(&self, layer: u32, range: Range<'_>, samples: usize, layers: usize) -> f64 {
        if layers == 0 {
            return 1.0;
        }
        let root = self.layers.get(layer).root.load(Ordering::Acquire);
        self.estimate_node(root, range, samples, layers)
    }

    fn estimate_node(&self, number: u32, range: Range<'_>, samples: usize, layers: usize) -> f64 {
        if number & INNER == 0 {
            return self.estimate_leaf(number, range, samples, layers);
        }
        let inner = self.inners.get(number & !INNER);
        let count = inner.len();
        let [low, high] = range.slices();
        let first = low.map_or(0, |(slice, _)| inner.child_of(count, slice).0);
        let last = high.map_or(count, |(slice, _)| inner.child_of(count, slice).0);
        if first >= last {
            return self.estimate_node(inner.child(last), range, samples, layers);
        }
        let mut sum = 0.0;
        let (mut from, mut to) = (first, last + 1);
        if range.low.is_some() {
            let low = Range { high: None, ..range };
            sum += self.estimate_node(inner.child(first), low, samples, layers);
            from += 1;
        }
        if range.high.is_some() {
            let high = Range { low: None, ..range };
            sum += self.estimate_node(inner.child(last), high, samples, layers);
            to -= 1;
        }
        let between = to.saturating_sub(from);
        let looks = between.min(SAMPLES).min(samples.max(1));
        if looks == 0 {
            return sum;
        }
        let seen: f64 = (0..looks)
            .map(|look| inner.child(from + (2 * look + 1) * between / (2 * looks)))
            .map(|child| self.estimate_node(child, Range::ALL, samples / looks, layers))
            .sum();
        sum + seen * between as f64 / looks as f64
    }

    fn estimate_leaf(&self, number: u32, range: Range<'_>, samples: usize, layers: usize) -> f64 {
        let leaf = self.leaves.get(number);
        let count = leaf.len();
        let [low, high] = range.slices();
        let from = low.map_or(0, |(slice, rank)| leaf.lower_bound(count, slice, rank));
        let to = high.map_or(count, |(slice, rank)| leaf.lower_bound(count, slice, rank));
        let mut links = Vec::new();
        let mut entries = 0;
        for at in from.saturating_sub(1)..to {
            let (slice, word) = (leaf.slice(at), leaf.word(at));
            if word.is_link() {
                links.extend(range.inside(self, slice, word).map(|inside| (word.layer(), inside)));
            } else if at >= from {
                entries += 1;
            }
        }
        let looks = links.len().min(SAMPLES).min(samples.max(1));
        if looks == 0 {
            return f64::from(entries);
        }
        // The ends of the range are at the ends of the list, and always looked at where there are two looks at least.
        let step = (links.len() - 1) as f64 / (looks.max(2) - 1) as f64;
        let seen: f64 = (0..looks)
            .map(|look| links[(look as f64 * step) as usize])
            .map(|(layer, inside)| self.estimate_layer(layer, inside, samples / looks, layers - 1))
            .sum();
        f64::from(entries) + seen * links.len() as f64 / looks as f64
    }
}
