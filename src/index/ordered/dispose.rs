//! The end of an index: its siblings go on, so its nodes go back to those that they share.

use super::node::INNER;
use super::{Nodes, OrderedIndex};
use crate::sync::{Arc, Ordering};

/// Nodes that are on their way back: given back many at a time.
#[derive(Default)]
struct Gone {
    layers: Vec<u32>,
    inners: Vec<u32>,
    leaves: Vec<u32>,
}

impl Drop for OrderedIndex {
    fn drop(&mut self) {
        // Nobody can look any more: who looks holds the index. The last one of all gives back the memory itself.
        if Arc::strong_count(&self.nodes) > 1 {
            self.nodes.dispose(self.first);
        }
    }
}

impl Nodes {
    /// Takes back all nodes of an index that nobody can see any more.
    fn dispose(&self, first: u32) {
        let mut gone = Gone::default();
        let mut layers = vec![first];
        while let Some(layer) = layers.pop() {
            let mut trees = vec![self.layers.get(layer).root.load(Ordering::Acquire)];
            while let Some(number) = trees.pop() {
                if number & INNER != 0 {
                    trees.extend(self.inners.get(number & !INNER).contents().1);
                    gone.inners.push(number & !INNER);
                } else {
                    let leaf = self.leaves.get(number);
                    let words = (0..leaf.len()).map(|at| leaf.word(at));
                    layers.extend(words.filter(|word| word.is_link()).map(|word| word.layer()));
                    leaf.leave();
                    gone.leaves.push(number);
                }
            }
            gone.layers.extend(self.nodes_of_layer(layer));
        }
        self.layers.give_back(gone.layers);
        self.inners.give_back(gone.inners);
        self.leaves.give_back(gone.leaves);
    }
}
