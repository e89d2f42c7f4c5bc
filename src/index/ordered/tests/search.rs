//! The search within a node, which compares more than the slots that are in use.

use super::super::node::Word;
use super::{Subject, slice_at};
use crate::index::Upsert;
use crate::index::arena::{INNER_SLICES, LEAF_SLOTS};
use crate::types::Addr;

/// Sorted slices of a node, at both ends the least and the greatest that there are.
fn slices(count: usize) -> Vec<u64> {
    let mut slices: Vec<u64> = (0..count as u64).map(|at| at * 10).collect();
    if let Some(last) = slices.last_mut() {
        *last = u64::MAX;
    }
    slices
}

fn sought(slices: &[u64]) -> impl Iterator<Item = u64> + '_ {
    let beside = |&slice: &u64| [slice.saturating_sub(1), slice, slice.saturating_add(1)];
    slices.iter().flat_map(beside).chain([0, 5, u64::MAX - 1, u64::MAX])
}

#[test]
fn every_slot_of_a_leaf_of_every_length_is_found_also_after_it_was_longer() {
    let subject = Subject::new();
    let leaf = subject.index.nodes.leaves.get(subject.index.nodes.leaves.allocate());
    for count in (0..=LEAF_SLOTS).chain((0..LEAF_SLOTS).rev()) {
        let slices = slices(count);
        let entries: Vec<(u64, Word)> =
            slices.iter().map(|&slice| (slice, Word::entry(Addr::from_bits(1), 8, 0))).collect();
        leaf.fill(&entries, 0);
        for slice in sought(&slices) {
            let expected = slices.partition_point(|&other| other < slice);
            assert_eq!(leaf.first_of(count, slice), expected, "{slice} in {slices:?}");
        }
    }
}

#[test]
fn the_first_slot_of_equal_slices_is_found_wherever_they_lie() {
    let subject = Subject::new();
    let leaf = subject.index.nodes.leaves.get(subject.index.nodes.leaves.allocate());
    for (start, end) in (0..LEAF_SLOTS).flat_map(|start| (start..=LEAF_SLOTS).map(move |end| (start, end))) {
        let slices = (0..LEAF_SLOTS).map(|at| if at < start { 10 } else { 20 + 10 * u64::from(at >= end) });
        let entries: Vec<(u64, Word)> =
            slices.map(|slice| (slice, Word::entry(Addr::from_bits(1), 8, 0))).collect();
        leaf.fill(&entries, 0);
        for slice in [10, 20, 30, 31] {
            let expected = entries.partition_point(|(other, _)| *other < slice);
            assert_eq!(
                leaf.first_of(LEAF_SLOTS, slice),
                expected,
                "{slice}, equal ones from {start} to {end}"
            );
        }
    }
}

#[test]
fn every_child_of_an_inner_node_of_every_length_is_found_also_after_it_was_longer() {
    let subject = Subject::new();
    let inner = subject.index.nodes.inners.get(subject.index.nodes.inners.allocate());
    for count in (0..=INNER_SLICES).chain((0..INNER_SLICES).rev()) {
        let slices = slices(count);
        let children: Vec<u32> = (1..=count as u32 + 1).collect();
        inner.fill(&slices, &children, 0);
        assert_eq!((inner.contents().0, inner.contents().1), (slices.clone(), children));
        for slice in sought(&slices) {
            let expected = slices.partition_point(|&separator| separator <= slice);
            let found = inner.child_of(count, slice);
            assert_eq!(found, (expected, expected as u32 + 1), "{slice} in {slices:?}");
        }
    }
}

#[test]
fn separators_come_and_go_at_every_place_of_an_inner_node() {
    let subject = Subject::new();
    let inner = subject.index.nodes.inners.get(subject.index.nodes.inners.allocate());
    for at in 0..INNER_SLICES {
        let all: Vec<u64> = (0..INNER_SLICES as u64).collect();
        let children: Vec<u32> = (0..=INNER_SLICES as u32).collect();
        let passed = 1 << (INNER_SLICES as u32) | 1;
        inner.fill(&all, &children, passed);
        inner.remove(at);
        let (mut fewer, mut fewer_children) = (all.clone(), children.clone());
        fewer.remove(at);
        fewer_children.remove(at + 1);
        let moved = if at + 1 == INNER_SLICES { 1 } else { 1 << (INNER_SLICES - 1) | 1 };
        assert_eq!(inner.contents(), (fewer, fewer_children, moved));
        assert_eq!(inner.slice(INNER_SLICES - 1), u64::MAX, "what is not in use stops no search");
        inner.insert(at, at as u64, at as u32 + 1);
        assert_eq!((inner.contents().0, inner.contents().1), (all, children));
    }
}

#[test]
fn keys_of_the_greatest_slice_are_found_beside_many_others() {
    let subject = Subject::new();
    let greatest: Vec<Vec<u8>> = (1..=12).map(|len| vec![0xFF; len]).collect();
    assert_eq!(slice_at(&greatest[11], 0).0, u64::MAX);
    let others = (0..4000_u64).map(|n| (u64::MAX - 1 - n).to_be_bytes().to_vec());
    let keys: Vec<Vec<u8>> = greatest.into_iter().chain(others).collect();
    let put = keys.iter().map(|key| subject.put(key));
    let entries: Vec<Addr> =
        put.inspect(|(_, done)| assert_eq!(*done, Upsert::Inserted)).map(|put| put.0).collect();
    subject.assert_consistent();
    for (key, entry) in keys.iter().zip(&entries) {
        assert_eq!(subject.get_alone(key), Some(*entry), "{key:?}");
    }
    for (key, entry) in keys.iter().zip(&entries) {
        assert!(subject.remove(key, *entry));
        assert_eq!(subject.get(key), None);
    }
    assert_eq!(subject.assert_consistent().1, 0);
}
